//! The Helm release of Gridstake: upgrades with other values, and back.

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::{
    command::{checkout, helm, helm_with_input},
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

/// Upgrades the release with another configuration of its first chain, which `change` makes of the present one. See
/// [`configure_chains`].
pub async fn configure_chain(world: &World, change: impl FnOnce(&mut Value)) -> Result<()> {
    configure_chains(world, |chains| {
        let chain = chains.first_mut().context("the release has no chain")?;
        change(chain);
        Ok(())
    })
    .await
}

/// Upgrades the release with other chains, which `change` makes of the present ones. Waits until all parts are up to date. At the story's end the release has its values of before again: by an upgrade, since the hook that
/// writes the operator's chains file does not run on the way back.
pub async fn configure_chains(
    world: &World,
    change: impl FnOnce(&mut Vec<Value>) -> Result<()>,
) -> Result<()> {
    let (namespace, release) = (world.namespace.clone(), world.release.clone());
    let before = values(&namespace, &release).await?;
    let mut changed = before.clone();
    let chains = changed
        .pointer_mut("/chains")
        .and_then(Value::as_array_mut)
        .context("the release has no chains")?;
    change(chains)?;
    world.undo_at_the_end(
        "give the release its chains' configuration back",
        async move { upgrade_to(&namespace, &release, &before).await },
    );
    upgrade_to(&world.namespace, &world.release, &changed).await
}

/// The values that were given to the release.
async fn values(namespace: &str, release: &str) -> Result<Value> {
    let text = helm([
        "get",
        "values",
        release,
        "--namespace",
        namespace,
        "--output",
        "json",
    ])
    .await?;
    serde_json::from_str(&text).context("read the release's values")
}

async fn upgrade_to(namespace: &str, release: &str, values: &Value) -> Result<()> {
    let chart = checkout().join("charts/gridstake");
    helm_with_input(
        [
            "upgrade",
            release,
            &chart.to_string_lossy(),
            "--namespace",
            namespace,
            "--reset-values",
            "--values",
            "-",
            "--wait",
            "--timeout",
            "180s",
        ],
        &values.to_string(),
    )
    .await
    .map(drop)
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
