//! The status of a StakeBinding.

use gridstake_crds::{StakeBinding, StakeBindingStatus, condition, names::MANAGER_STAKE_BINDING};
use k8s_openapi::jiff::Timestamp;

use super::decide::Plan;
use crate::status::StatusOwner;

/// What this controller owns. The chain's figures are not written while no chain is configured.
pub const OWNER: StatusOwner = StatusOwner {
    manager: MANAGER_STAKE_BINDING,
    fields: &["observedGeneration", "nodes", "nodeCount"],
    conditions: &[
        "Resolved",
        "ContractMatch",
        "ChainSynced",
        "Bonded",
        "Ready",
    ],
};

/// The status that says what `plan` says.
#[must_use]
pub fn desired(binding: &StakeBinding, plan: &Plan, now: Timestamp) -> StakeBindingStatus {
    let present = binding.status.as_ref();
    let conditions = present
        .map(|status| status.conditions.as_slice())
        .unwrap_or_default();
    let generation = binding.metadata.generation;
    StakeBindingStatus {
        observed_generation: generation,
        nodes: plan.nodes.clone(),
        node_count: u32::try_from(plan.nodes.len()).ok(),
        conditions: condition::conditions(conditions, &plan.facts, generation, now),
        ..StakeBindingStatus::default()
    }
}
