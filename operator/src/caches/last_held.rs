//! When a pod that is no job's last held GPUs of a node, on the operator's own clock.
//!
//! The agent tells that as well, some seconds later. Until then the node must not look as idle as it was before.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use k8s_openapi::{api::core::v1::Pod, jiff::Timestamp};

use crate::controllers::gpu_node::local_use::asks_for_gpus;

/// Moments by node. Cloning shares them.
#[derive(Clone, Debug, Default)]
pub struct LastHeld(Arc<Mutex<HashMap<String, Timestamp>>>);

impl LastHeld {
    /// `pod`, which is no job's, has ended or gone at `now`.
    pub fn ended(&self, pod: &Pod, now: Timestamp) {
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref());
        if let Some(node) = node.filter(|_| asks_for_gpus(pod)) {
            self.0
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(node.clone(), now);
        }
    }

    /// When one was last seen to end on `node`.
    #[must_use]
    pub fn on(&self, node: &str) -> Option<Timestamp> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(node)
            .copied()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_a_pod_with_gpus_on_a_node_has_held_some() {
        let held = LastHeld::default();
        let pod = |node: Option<&str>, gpus: &str| -> Pod {
            serde_json::from_value(json!({"spec": {"nodeName": node, "containers": [
                {"name": "c", "resources": {"limits": {gpus: "1"}}}]}}))
            .unwrap()
        };
        let now = Timestamp::UNIX_EPOCH;
        held.ended(&pod(None, "nvidia.com/gpu"), now);
        held.ended(&pod(Some("a"), "cpu"), now);
        held.ended(&pod(Some("b"), "nvidia.com/gpu"), now);
        assert_eq!((held.on("a"), held.on("b")), (None, Some(now)));
    }
}
