//! The Helm release of Gridstake: upgrades with other values, and back.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tokio::process::Command;

use crate::{
    command::{checkout, helm, helm_with_input},
    world::World,
};

/// Charts, values and images of an earlier commit, as far as `e2e/before.sh` has them.
#[derive(Clone, Debug)]
pub struct Before {
    /// The folder with its charts and values.
    pub folder: PathBuf,
    /// What ends the names of its images of operator and agent; `None` where they are those of this checkout.
    pub suffix: Option<String>,
    /// What it is, in words.
    pub what: String,
}

impl Before {
    /// What there is, with its images loaded into the nodes.
    pub async fn find() -> Result<Self> {
        let found = script("e2e/before.sh", &["find"], None).await?;
        let mut lines = found.lines();
        let mut line = || {
            lines
                .next()
                .context("e2e/before.sh find prints three lines")
        };
        let (folder, suffix, what) = (
            PathBuf::from(line()?),
            line()?.to_owned(),
            line()?.to_owned(),
        );
        if !suffix.is_empty() {
            let mut images = std::fs::read_dir(folder.join("images"))?
                .map(|entry| Ok(entry?.path().to_string_lossy().into_owned()))
                .collect::<Result<Vec<_>>>()?;
            images.sort();
            let mut arguments = vec!["images"];
            arguments.extend(images.iter().map(String::as_str));
            script("e2e/cluster/world.sh", &arguments, None).await?;
        }
        Ok(Self {
            folder,
            suffix: Some(suffix).filter(|s| !s.is_empty()),
            what,
        })
    }

    /// Puts it in the place of what is installed, API types first. At the story's end this checkout is installed again.
    pub async fn install(&self, world: &World) -> Result<()> {
        install_at_the_end(world);
        let mut settings = Vec::new();
        for (part, image) in [
            ("operator", "gridstake-operator"),
            ("deviceAgent", "gridstake-device-agent"),
        ] {
            if let Some(suffix) = &self.suffix {
                settings.push(format!("{part}.image.repository={image}{suffix}"));
            }
            // Other pods than this checkout's, whatever else is the same.
            settings.push(format!("{part}.podAnnotations.e2e=before"));
        }
        let mut arguments = Vec::new();
        for setting in &settings {
            arguments.extend(["--set", setting]);
        }
        script("e2e/install.sh", &arguments, Some(&self.folder))
            .await
            .map(drop)
    }
}

/// Installs or upgrades to the charts of this checkout, API types first, as `e2e/install.sh` does it for every story.
pub async fn install() -> Result<()> {
    script("e2e/install.sh", &[], None).await.map(drop)
}

/// At the story's end, this checkout is installed.
pub fn install_at_the_end(world: &World) {
    world.undo_at_the_end("install the charts of this checkout", install());
}

/// Goes back to the revision before the last upgrade, and waits until all parts are up to date.
pub async fn roll_back(world: &World) -> Result<()> {
    helm([
        "rollback",
        &world.release,
        "--namespace",
        &world.namespace,
        "--wait",
        "--timeout",
        "180s",
    ])
    .await
    .map(drop)
}

/// Uninstalls a release, and waits until its objects are gone.
pub async fn uninstall(world: &World, release: &str) -> Result<()> {
    helm([
        "uninstall",
        release,
        "--namespace",
        &world.namespace,
        "--wait",
        "--timeout",
        "180s",
    ])
    .await
    .map(drop)
}

/// Runs a script of this checkout and returns what it prints; `from` is the folder whose charts are installed.
async fn script(path: &str, arguments: &[&str], from: Option<&Path>) -> Result<String> {
    let mut command = Command::new(checkout().join(path));
    command
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    if let Some(from) = from {
        command.env("FROM", from);
    }
    let output = command
        .output()
        .await
        .with_context(|| format!("run {path}"))?;
    ensure!(
        output.status.success(),
        "{path} {}: {}: {}",
        arguments.join(" "),
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

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
