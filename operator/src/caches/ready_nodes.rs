//! Which nodes' kubelets answer, as the API server has it: jobs on a node are to be looked at when that changes, and not whenever a
//! kubelet is heard of.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use k8s_openapi::{api::core::v1::Node, jiff::Timestamp};
use kube::ResourceExt as _;

use crate::failover::NodeSight;

/// Whether each node was ready when it was seen last. Cloning shares them.
#[derive(Clone, Debug, Default)]
pub struct ReadyNodes(Arc<Mutex<HashMap<String, bool>>>);

impl ReadyNodes {
    /// Takes note of `node`; whether it has become ready or ceased to be.
    pub fn has_changed(&self, node: &Node) -> bool {
        let ready = NodeSight::of(node, None::<Timestamp>).ready;
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(node.name_any(), ready) != Some(ready)
    }

    /// Forgets a node that is gone.
    pub fn remove(&self, node: &Node) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.remove(&node.name_any());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(ready: &str, heard: &str) -> Node {
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": "n1"},
            "status": {"conditions": [{"type": "Ready", "status": ready, "lastHeartbeatTime": heard}]},
        }))
        .unwrap()
    }

    #[test]
    fn a_node_has_news_when_its_kubelet_falls_silent_and_not_whenever_it_is_heard_of() {
        let nodes = ReadyNodes::default();
        for (ready, heard, news) in [
            ("True", "2027-01-01T00:00:00Z", true),
            ("True", "2027-01-01T00:05:00Z", false),
            ("Unknown", "2027-01-01T00:05:00Z", true),
            ("False", "2027-01-01T00:10:00Z", false),
            ("True", "2027-01-01T00:11:00Z", true),
        ] {
            assert_eq!(
                nodes.has_changed(&node(ready, heard)),
                news,
                "{ready} {heard}"
            );
        }
        nodes.remove(&node("True", "2027-01-01T00:11:00Z"));
        assert!(nodes.has_changed(&node("True", "2027-01-01T00:11:00Z")));
    }
}
