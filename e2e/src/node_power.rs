//! What can happen to whole nodes: their power fails, or their network, or the services that run their pods.

use std::time::Duration;

use anyhow::{Result, ensure};
use k8s_openapi::{api::core::v1::Node, jiff::Timestamp};
use kube::{Api, ResourceExt as _};

use crate::{
    command::world_script,
    container,
    wait::{Look, look_until},
    world::World,
};

/// Cuts the power of `node`: everything on it is gone at once. It is given back at the story's end at the latest.
pub async fn cut(world: &World, node: &str) -> Result<()> {
    change(world, "power", node).await
}

/// Gives `node` its power back.
pub async fn give_back(node: &str) -> Result<()> {
    world_script(["power", node, "on"]).await.map(drop)
}

/// Takes `node` off the network: what runs on it runs on. It is put back at the story's end at the latest.
pub async fn unplug(world: &World, node: &str) -> Result<()> {
    change(world, "cable", node).await
}

/// Which way nothing passes any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Out of the node.
    Out,
    /// Into the node.
    In,
}

/// Lets nothing pass one way between `node` and the others. It is put back at the story's end at the latest.
pub async fn cut_one_way(world: &World, node: &str, direction: Direction) -> Result<()> {
    let state = match direction {
        Direction::Out => "mute",
        Direction::In => "deaf",
    };
    change_to(world, "cable", node, state).await
}

/// Kills containerd or the kubelet of `node` with SIGKILL; it is started again.
pub async fn kill_service(node: &str, service: &str) -> Result<()> {
    ensure_reachable()?;
    world_script(["restart", node, service]).await.map(drop)
}

/// Puts `node` back on the network.
pub async fn plug_in(node: &str) -> Result<()> {
    world_script(["cable", node, "on"]).await.map(drop)
}

async fn change(world: &World, what: &'static str, node: &str) -> Result<()> {
    change_to(world, what, node, "off").await
}

async fn change_to(world: &World, what: &'static str, node: &str, state: &str) -> Result<()> {
    ensure_reachable()?;
    let name = node.to_owned();
    world.undo_at_the_end(format!("{what} of {node}"), async move {
        world_script([what, &name, "on"]).await.map(drop)
    });
    world_script([what, node, state]).await.map(drop)
}

fn ensure_reachable() -> Result<()> {
    ensure!(
        container::nodes_can_be_reached(),
        "this story breaks nodes: tell it with E2E_CLUSTER=native or kind"
    );
    Ok(())
}

/// Waits until no kubelet of `nodes` has been heard of for `silence`.
pub async fn until_silent_for(world: &World, nodes: &[&str], silence: Duration) -> Result<()> {
    let api: Api<Node> = Api::all(world.client.clone());
    look_until(&format!("{nodes:?} are silent for {silence:?}"), || async {
        let mut shortest = Duration::MAX;
        for name in nodes {
            let node = api.get(name).await?;
            let ready = node
                .status
                .iter()
                .flat_map(|s| s.conditions.iter().flatten())
                .find(|c| c.type_ == "Ready");
            let unknown = ready.filter(|c| c.status == "Unknown");
            let since = unknown.and_then(|c| c.last_transition_time.as_ref());
            let silent = since.map_or(Duration::ZERO, |since| {
                Timestamp::now().duration_since(since.0).unsigned_abs()
            });
            shortest = shortest.min(silent);
            if silent < silence {
                return Ok(Look::NotYet(format!("{} for {silent:?}", node.name_any())));
            }
        }
        Ok(Look::Yes(()))
    })
    .await
}
