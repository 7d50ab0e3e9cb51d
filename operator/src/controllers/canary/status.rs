//! What is written about a node: its GPUs' speed, and whether it is known.

use gridstake_crds::{GpuNode, GpuNodeStatus, condition, names::MANAGER_CANARY};
use k8s_openapi::jiff::Timestamp;

use super::decide::NodeSays;
use crate::status::StatusOwner;

/// What this loop owns of a GpuNode's status.
pub const OWNER: StatusOwner = StatusOwner {
    manager: MANAGER_CANARY,
    fields: &["performance"],
    conditions: &["Measured"],
};

/// The status of `gpu_node` that says what `says` says.
#[must_use]
pub fn desired(gpu_node: &GpuNode, says: &NodeSays, now: Timestamp) -> GpuNodeStatus {
    let present = gpu_node.status.as_ref();
    let conditions = present
        .map(|status| status.conditions.as_slice())
        .unwrap_or_default();
    GpuNodeStatus {
        performance: says.performance.clone(),
        conditions: condition::conditions(
            conditions,
            std::slice::from_ref(&says.fact),
            gpu_node.metadata.generation,
            now,
        ),
        ..GpuNodeStatus::default()
    }
}
