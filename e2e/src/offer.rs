//! What a node's provider says in its GpuNode, and what comes of it.

use anyhow::{Context as _, Result};
use gridstake_crds::{
    GpuNode,
    closed_enum::ClosedEnum as _,
    condition,
    gpu_node::{GpuNodeCondition, OfferReason},
};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::{command::kubectl, wait::watch_until, world::World};

/// Changes the spec of a node's GpuNode by a merge patch.
pub async fn change(world: &World, node: &str, spec: Value) -> Result<()> {
    patch(&world.gpu_nodes(), node, spec).await
}

/// Cordons nodes, and waits until nothing is placed on them any more. At the story's end they are open in any case.
pub async fn cordon(world: &World, nodes: &[&str]) -> Result<()> {
    for node in nodes {
        let open = ["uncordon".to_owned(), (*node).to_owned()];
        world.undo_at_the_end(format!("uncordon {node}"), async move {
            kubectl(open).await.map(drop)
        });
        kubectl(["cordon", node]).await?;
    }
    for node in nodes {
        until(world, node, OfferReason::NodeCordoned, "").await?;
    }
    Ok(())
}

/// Opens cordoned nodes again, and waits until they are offered.
pub async fn uncordon(world: &World, nodes: &[&str]) -> Result<()> {
    for node in nodes {
        kubectl(["uncordon", node]).await?;
    }
    for node in nodes {
        until(world, node, OfferReason::Available, "").await?;
    }
    Ok(())
}

/// At the story's end the node is offered at any time again.
pub fn always_at_the_end(world: &World, node: &str) {
    let (nodes, node) = (world.gpu_nodes(), node.to_owned());
    world.undo_at_the_end(format!("offer {node} at any time"), async move {
        let spec = json!({"mode": "Always", "windows": null, "idle": null, "maintenance": null});
        patch(&nodes, &node, spec).await
    });
}

async fn patch(nodes: &Api<GpuNode>, node: &str, spec: Value) -> Result<()> {
    let patch = Patch::Merge(json!({"spec": spec}));
    nodes
        .patch(node, &PatchParams::default(), &patch)
        .await
        .map(drop)
        .with_context(|| format!("change the spec of GpuNode {node}"))
}

/// Waits until the offer of a node, as it is now in its spec, has this reason, in words that hold `words`.
pub async fn until(world: &World, node: &str, reason: OfferReason, words: &str) -> Result<String> {
    let what = format!("its offer is {reason} with {words:?}");
    watch_until(&world.gpu_nodes(), node, &what, |node| {
        let node = node?;
        let conditions = &node.status.as_ref()?.conditions;
        let offered = condition::find(conditions, GpuNodeCondition::Offered)?;
        let is_so = offered.observed_generation == node.metadata.generation
            && offered.reason == reason.as_str()
            && offered.message.contains(words);
        is_so.then(|| offered.message.clone())
    })
    .await
}
