//! The device agent's process on a node, and what can happen to it.

use anyhow::{Result, ensure};

use crate::{container, world::World};

/// The part's name in the release.
const COMPONENT: &str = "device-agent";

/// Halts the agent on `node`: it sees nothing, writes nothing, and is not started again, for a minute at least. End that
/// with [`kill`]; at the story's end it goes on in any case.
pub async fn halt(world: &World, node: &str) -> Result<()> {
    ensure_reachable()?;
    let agent = world.pod_on(COMPONENT, node).await?;
    let halted = agent.clone();
    world.undo_at_the_end(format!("let the agent of {node} go on"), async move {
        // It may have been killed since.
        let _ = container::signal(&halted, "CONT").await;
        Ok(())
    });
    container::signal(&agent, "STOP").await
}

/// Kills the agent on `node` with SIGKILL, and waits until it has been started again.
pub async fn kill(world: &World, node: &str) -> Result<()> {
    ensure_reachable()?;
    let agent = world.pod_on(COMPONENT, node).await?;
    container::signal(&agent, "KILL").await?;
    container::until_restarted(&world.client, &agent).await
}

/// Removes what the agent of `node` keeps there, its key included, and starts it again: as on a node installed anew.
pub async fn install_anew(world: &World, node: &str) -> Result<()> {
    ensure_reachable()?;
    let agent = world.pod_on(COMPONENT, node).await?;
    // Halted, so that it does not write back what is being removed.
    container::signal(&agent, "STOP").await?;
    container::on_node_of(&agent, "rm -rf /var/lib/gridstake/*").await?;
    container::signal(&agent, "KILL").await?;
    container::until_restarted(&world.client, &agent).await
}

fn ensure_reachable() -> Result<()> {
    ensure!(
        container::nodes_can_be_reached(),
        "this story reaches into the nodes: tell it with E2E_CLUSTER=native or kind"
    );
    Ok(())
}
