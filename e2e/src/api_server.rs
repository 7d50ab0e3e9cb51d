//! What can happen to the cluster's API server.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::{command::world_script, container, world::World};

/// Lets the API server hang for `outage`: it takes connections and never answers, which is worse than one that is gone. It goes
/// on at the story's end in any case.
pub async fn hang_for(world: &World, outage: Duration) -> Result<()> {
    ensure_reachable()?;
    world.undo_at_the_end("let the API server go on", async {
        world_script(["api-server", "on"]).await.map(drop)
    });
    world_script(["api-server", "off"]).await?;
    // Not a wait for something: an outage has a length.
    tokio::time::sleep(outage).await;
    world_script(["api-server", "on"]).await.map(drop)
}

/// Kills the API server with SIGKILL; it is started again.
pub async fn kill() -> Result<()> {
    ensure_reachable()?;
    world_script(["api-server", "kill"]).await.map(drop)
}

fn ensure_reachable() -> Result<()> {
    ensure!(
        container::nodes_can_be_reached(),
        "this story stops the API server: tell it with E2E_CLUSTER=native or kind"
    );
    Ok(())
}
