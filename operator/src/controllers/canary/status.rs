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

/// Whether the status of `gpu_node` says that already.
#[must_use]
pub fn stands(gpu_node: &GpuNode, says: &NodeSays) -> bool {
    gpu_node.status.as_ref().is_some_and(|status| {
        status.performance == says.performance
            && condition::is_stated(&status.conditions, &says.fact, gpu_node.metadata.generation)
    })
}

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

#[cfg(test)]
mod tests {
    use gridstake_crds::{
        condition::{Fact, Status},
        gpu_node::{GpuNodeCondition, GpuNodeReason},
    };

    use super::*;

    #[test]
    fn what_was_written_stands_until_something_else_is_said() {
        let now: Timestamp = "2026-11-29T12:00:00Z".parse().unwrap();
        let says = |message: &str| NodeSays {
            node: "n".to_owned(),
            performance: Vec::new(),
            fact: Fact::new(
                GpuNodeCondition::Measured,
                Status::Unknown,
                GpuNodeReason::NotMeasured,
                message,
            ),
            news: None,
        };
        let mut node: GpuNode = serde_json::from_value(serde_json::json!({
            "apiVersion": "gridstake.dev/v1alpha1", "kind": "GpuNode", "metadata": {"name": "n", "generation": 3}, "spec": {},
        }))
        .unwrap();
        assert!(!stands(&node, &says("a")));
        node.status = Some(desired(&node, &says("a"), now));
        assert!(stands(&node, &says("a")) && !stands(&node, &says("b")));
        node.metadata.generation = Some(4);
        assert!(!stands(&node, &says("a")));
    }
}
