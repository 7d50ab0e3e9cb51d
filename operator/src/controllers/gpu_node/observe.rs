//! What a GpuNode is judged by. Reads the caches; decides nothing.

use std::sync::Arc;

use gridstake_crds::GpuNode;
use k8s_openapi::{api::core::v1::Node, jiff::Timestamp};
use kube::ResourceExt as _;

use crate::{
    caches::Caches,
    controllers::stake_binding,
    snapshot::{GpuCounts, gpu_counts},
};

/// A GpuNode's surroundings.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// The Node of the same name.
    pub node: Option<Arc<Node>>,
    /// When the agent was last heard of.
    pub heartbeat: Option<Timestamp>,
    /// Its GPUs.
    pub gpus: GpuCounts,
    /// The provider of the one StakeBinding that binds the node.
    pub provider_id: Option<u32>,
}

/// Looks around `gpu_node` at `now`.
#[must_use]
pub fn observe(caches: &Caches, gpu_node: &GpuNode, now: Timestamp) -> Observed {
    let name = gpu_node.name_any();
    Observed {
        node: caches.node(&name),
        heartbeat: caches.last_heartbeat(&name),
        gpus: gpu_counts(caches, gpu_node, now),
        provider_id: stake_binding::observe::provider_of(caches, &name),
    }
}
