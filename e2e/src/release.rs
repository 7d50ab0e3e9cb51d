//! The Helm release of Gridstake: upgrades with other values, and back.

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::{
    command::{checkout, helm},
    world::World,
};

/// Upgrades the release: its values stay but for those that `settings` change, each as for `helm --set`. Waits until
/// all parts are up to date. At the story's end the release goes back to the revision before.
pub async fn upgrade(world: &World, settings: &[&str]) -> Result<()> {
    let (namespace, release) = (world.namespace.clone(), world.release.clone());
    let before = revision(&namespace, &release).await?;
    world.undo_at_the_end("roll the release back", async move {
        helm([
            "rollback",
            &release,
            &before,
            "--namespace",
            &namespace,
            "--wait",
            "--timeout",
            "180s",
        ])
        .await
        .map(drop)
    });
    let chart = checkout().join("charts/gridstake");
    let chart = chart.to_string_lossy();
    let mut arguments = vec![
        "upgrade",
        &world.release,
        &chart,
        "--namespace",
        &world.namespace,
        "--reuse-values",
        "--wait",
        "--timeout",
        "180s",
    ];
    for setting in settings {
        arguments.extend(["--set", setting]);
    }
    helm(arguments).await.map(drop)
}

async fn revision(namespace: &str, release: &str) -> Result<String> {
    let listed = helm([
        "list",
        "--namespace",
        namespace,
        "--filter",
        &format!("^{release}$"),
        "--output",
        "json",
    ])
    .await?;
    let listed: Value = serde_json::from_str(&listed).context("read the list of releases")?;
    listed
        .pointer("/0/revision")
        .and_then(Value::as_str)
        .map(str::to_owned)
        .with_context(|| format!("find the release {release} in {namespace}"))
}
