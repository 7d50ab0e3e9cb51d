//! The operator's part of a GpuNode's status, and when it may be written.

use std::time::Duration;

use gridstake_crds::{GpuNode, GpuNodeStatus, condition, names::MANAGER_GPU_NODE};
use k8s_openapi::jiff::Timestamp;

use super::decide::Plan;
use crate::status::StatusOwner;

/// `free` is written at most once in this time: a burst of pods makes one write, not one each.
pub const FREE_SETTLES: Duration = Duration::from_secs(5);

/// What the operator owns. `devices`, `driver` and `agent` are the agent's.
pub const OWNER: StatusOwner = StatusOwner {
    manager: MANAGER_GPU_NODE,
    fields: &[
        "observedGeneration",
        "capacity",
        "free",
        "offer",
        "quarantine",
        "providerId",
        "chain",
        "reputation",
        "reputationTerms",
        "ownerCut",
        "stability",
        "inventoryHash",
        "postedDevices",
    ],
    conditions: &[
        "Reporting",
        "Healthy",
        "Bonded",
        "Offered",
        "Quarantined",
        "Ready",
    ],
};

/// The operator's part of the status that says what `plan` says.
///
/// While `settling`, a `free` that has changed alone keeps its old value: a later pass writes it.
#[must_use]
pub fn desired(gpu_node: &GpuNode, plan: &Plan, settling: bool, now: Timestamp) -> GpuNodeStatus {
    let present = gpu_node.status.as_ref();
    let conditions = present
        .map(|status| status.conditions.as_slice())
        .unwrap_or_default();
    let generation = gpu_node.metadata.generation;
    let mut desired = GpuNodeStatus {
        observed_generation: generation,
        capacity: Some(plan.capacity),
        free: Some(plan.free),
        offer: Some(plan.offer.clone()),
        quarantine: plan.quarantine.clone(),
        provider_id: plan.provider_id,
        chain: plan.chain.clone(),
        inventory_hash: plan.inventory.hash.clone(),
        posted_devices: plan.inventory.devices.clone(),
        conditions: condition::conditions(conditions, &plan.facts, generation, now),
        ..GpuNodeStatus::default()
    };
    match &plan.appraisal {
        Some(appraisal) => {
            desired.reputation = appraisal.reputation();
            desired.reputation_terms.clone_from(&appraisal.terms);
            desired.stability = appraisal.stability;
        }
        // An apply must repeat what was said before.
        None => {
            desired.reputation = present.and_then(|status| status.reputation);
            desired.reputation_terms = present
                .map(|status| status.reputation_terms.clone())
                .unwrap_or_default();
            desired.stability = present.and_then(|status| status.stability);
        }
    }
    desired.owner_cut = match &plan.owner_cut {
        Some(seen) => seen.0.clone(),
        None => present.and_then(|status| status.owner_cut.clone()),
    };
    if let Some(present) = present.filter(|_| settling)
        && present.free.is_some()
        && only_free_differs(present, &desired, plan)
    {
        desired.free = present.free;
    }
    desired
}

fn only_free_differs(present: &GpuNodeStatus, desired: &GpuNodeStatus, plan: &Plan) -> bool {
    present.observed_generation == desired.observed_generation
        && present.capacity == desired.capacity
        && present.offer == desired.offer
        && present.quarantine == desired.quarantine
        && present.provider_id == desired.provider_id
        && present.chain == desired.chain
        && present.reputation_terms == desired.reputation_terms
        && present.stability == desired.stability
        && present.owner_cut == desired.owner_cut
        && present.inventory_hash == desired.inventory_hash
        && present.posted_devices == desired.posted_devices
        && plan
            .facts
            .iter()
            .all(|fact| fact.is_stated_in(&present.conditions))
}
