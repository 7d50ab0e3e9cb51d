//! Which GPUs must not be used, as the agents said last: jobs on a node are to be looked at when that changes, and not
//! whenever their node's status is written.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use gridstake_crds::{
    GpuNode,
    gpu_node::{DeviceHealth, DeviceReason},
};
use kube::ResourceExt as _;

/// A GPU's UUID, and whether it is lost.
type Unfit = (String, bool);

/// The unfit GPUs of each node that has some, each with whether it is lost: that may come to be known after an Xid has made it
/// unfit. Cloning shares them.
#[derive(Clone, Debug, Default)]
pub struct UnfitGpus(Arc<Mutex<HashMap<String, Vec<Unfit>>>>);

impl UnfitGpus {
    /// Takes note of `node`'s GPUs; whether others are unfit or lost than before.
    pub fn have_changed(&self, node: &GpuNode) -> bool {
        let devices = node.status.iter().flat_map(|status| &status.devices);
        let unfit: Vec<Unfit> = devices
            .filter(|device| device.health == DeviceHealth::Unhealthy)
            .map(|device| {
                let is_lost = device.reasons.contains(&DeviceReason::GpuLost);
                (device.uuid.clone(), is_lost)
            })
            .collect();
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = if unfit.is_empty() {
            known.remove(&node.name_any()).unwrap_or_default()
        } else {
            known
                .insert(node.name_any(), unfit.clone())
                .unwrap_or_default()
        };
        before != unfit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(health: &str, reason: &str) -> GpuNode {
        serde_json::from_value(serde_json::json!({
            "apiVersion": "gridstake.dev/v1alpha1", "kind": "GpuNode", "metadata": {"name": "n1"}, "spec": {},
            "status": {"devices": [{"uuid": "GPU-1", "index": 0, "model": "m", "memoryMiB": 1, "computeCapability": "9.0", "health": health, "reasons": [reason]}]},
        }))
        .unwrap()
    }

    #[test]
    fn a_node_has_news_when_a_gpu_becomes_unfit_is_lost_and_when_it_is_fit_again() {
        let unfit = UnfitGpus::default();
        for (health, reason, news) in [
            ("Degraded", "ThermalThrottling", false),
            ("Unhealthy", "XidFatal", true),
            ("Unhealthy", "XidFatal", false),
            ("Unhealthy", "GpuLost", true),
            ("Unhealthy", "GpuLost", false),
            ("Degraded", "XidFatal", true),
            ("Degraded", "XidFatal", false),
        ] {
            assert_eq!(
                unfit.have_changed(&node(health, reason)),
                news,
                "{health} {reason}"
            );
        }
    }
}
