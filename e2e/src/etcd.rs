//! The cluster's etcd, which a story lets fall back to an earlier state.

use std::path::PathBuf;

use anyhow::{Result, ensure};

use crate::{
    command::world_script,
    wait::{Look, look_until},
    world::World,
};

/// Whether etcd can be restored in this world.
#[must_use]
pub fn can_be_restored() -> bool {
    std::env::var("E2E_CLUSTER").is_ok_and(|kind| kind == "native")
}

/// A snapshot of etcd. Its file goes with the story.
#[derive(Debug)]
pub struct Snapshot {
    file: PathBuf,
}

impl Snapshot {
    /// Takes one from the running etcd.
    pub async fn take(world: &World) -> Result<Self> {
        ensure!(
            can_be_restored(),
            "this story restores etcd: tell it with E2E_CLUSTER=native"
        );
        let file = std::env::temp_dir().join(format!("gridstake-etcd-{}.db", std::process::id()));
        let removed = file.clone();
        world.undo_at_the_end("remove the snapshot of etcd", async move {
            match std::fs::remove_file(removed) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
                removed => Ok(removed?),
            }
        });
        let snapshot = Self { file };
        snapshot.script("backup").await?;
        Ok(snapshot)
    }

    /// Lets the API server be as it was when the snapshot was taken: whatever was written since is gone. The nodes, the
    /// controllers and Gridstake run on meanwhile. Waits until the API server answers again.
    pub async fn restore(&self, world: &World) -> Result<()> {
        self.script("restore").await?;
        look_until("the API server answers", || async {
            world.client.apiserver_version().await?;
            Ok(Look::Yes(()))
        })
        .await
    }

    async fn script(&self, verb: &str) -> Result<()> {
        let file = self.file.to_string_lossy();
        world_script(["etcd", verb, &file]).await.map(drop)
    }
}
