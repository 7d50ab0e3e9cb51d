//! All StakeBindings against all Nodes. Reads the caches; decides nothing.

use std::collections::BTreeMap;

use kube::ResourceExt as _;

use super::decide::{NodeLabels, Resolution, resolve};
use crate::caches::{Caches, parsed};

/// What every binding claims and binds, by the binding's name.
#[must_use]
pub fn resolutions(caches: &Caches) -> BTreeMap<String, Resolution> {
    let nodes: Vec<NodeLabels> = caches
        .nodes
        .state()
        .iter()
        .map(|node| NodeLabels {
            name: node.name_any(),
            labels: node.labels().clone(),
        })
        .collect();
    resolve(parsed(&caches.stake_bindings.state()), &nodes)
}

/// The provider of the one binding that binds `node`.
#[must_use]
pub fn provider_of(caches: &Caches, node: &str) -> Option<u32> {
    let bindings = caches.stake_bindings.state();
    if bindings.is_empty() {
        return None;
    }
    let node = caches.node(node).map(|node| NodeLabels {
        name: node.name_any(),
        labels: node.labels().clone(),
    })?;
    let resolved = resolve(parsed(&bindings), std::slice::from_ref(&node));
    parsed(&bindings)
        .find(|binding| {
            resolved
                .get(&binding.name_any())
                .is_some_and(|resolution| resolution.nodes.contains(&node.name))
        })
        .map(|binding| binding.spec.provider_id)
}
