//! Which nodes are lost, and when nobody is held to it.
//!
//! An agent renews its Lease every 10 s. Three renewals missed make it *silent*. A node that is silent and whose kubelet does
//! not answer either is *suspect*; after a grace it is *lost*, and what ran there is placed elsewhere. When more than a share
//! of all nodes fall silent together, it is far more likely that the operator, the API server or the network is at fault: that
//! is an *amnesty*, in which nothing is closed, nothing is placed elsewhere and nothing is held against anybody.

mod amnesty;
mod node_state;
mod terms;
mod watch;

pub use amnesty::{Amnesty, amnesty};
pub use node_state::{NodeSight, NodeState, node_state};
pub use terms::Terms;
pub use watch::run;

use gridstake_crds::{GpuNode, gpu_node::MaintenanceWindow};
use k8s_openapi::jiff::Timestamp;

use crate::caches::Caches;

/// Whether there is an amnesty at `now`.
#[must_use]
pub fn amnesty_now(caches: &Caches, now: Timestamp) -> Option<Amnesty> {
    amnesty(&caches.last_heartbeats(now), caches.failover(), now)
}

/// What is to be thought of the node `name` at `now`.
#[must_use]
pub fn state_of(caches: &Caches, name: &str, now: Timestamp) -> NodeState {
    let node = caches.node(name);
    let sight = node
        .as_deref()
        .map(|node| NodeSight::of(node, caches.last_heartbeat(name)));
    node_state(sight.as_ref(), caches.failover(), now, || {
        amnesty_now(caches, now).is_some()
    })
}

/// Whether what is seen of the node at `now` is not to be held against it: its provider has announced maintenance, or the
/// node is silent and there is an `amnesty`, which is asked for only then. Every path that scores a node asks this.
#[must_use]
pub fn is_excused(
    node: &GpuNode,
    heartbeat: Option<Timestamp>,
    amnesty: impl FnOnce() -> bool,
    terms: &Terms,
    now: Timestamp,
) -> bool {
    is_in_maintenance(&node.spec.maintenance, now) || (terms.is_silent(heartbeat, now) && amnesty())
}

/// Whether `now` lies in one of the announced windows.
#[must_use]
pub fn is_in_maintenance(windows: &[MaintenanceWindow], now: Timestamp) -> bool {
    windows
        .iter()
        .any(|window| window.from.0 <= now && now < window.to.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    #[test]
    fn announced_maintenance_and_an_amnesty_excuse_a_silent_node_and_nothing_else_does() {
        let terms = Terms::default();
        let mut node = GpuNode::new("n1", gridstake_crds::GpuNodeSpec::default());
        let (alive, silent) = (Some(at(95)), Some(at(0)));
        assert!(!is_excused(&node, silent, || false, &terms, at(100)));
        assert!(!is_excused(&node, alive, || true, &terms, at(100)));
        assert!(is_excused(&node, silent, || true, &terms, at(100)));
        node.spec.maintenance = serde_json::from_value(serde_json::json!([
            { "from": at(90).to_string(), "to": at(110).to_string() },
        ]))
        .unwrap();
        assert!(is_excused(&node, silent, || false, &terms, at(100)));
        assert!(
            !is_excused(&node, silent, || false, &terms, at(110)),
            "the end is outside"
        );
    }
}
