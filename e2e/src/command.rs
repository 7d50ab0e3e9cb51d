//! The programs that users and operators run: kubectl and helm, found in `PATH`, and the kubectl plugin.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Output, Stdio},
};

use anyhow::{Context as _, Result, bail};
use tokio::{io::AsyncWriteExt as _, process::Command};

/// The checkout that these tests were built from.
#[must_use]
pub fn checkout() -> PathBuf {
    let e2e = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    e2e.parent().map_or_else(|| e2e.clone(), PathBuf::from)
}

/// Runs `kubectl` and returns what it prints.
pub async fn kubectl<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Result<String> {
    printed("kubectl", arguments, None).await
}

/// Runs `kubectl` with `input` as its standard input and returns what it prints.
pub async fn kubectl_with_input<S: AsRef<OsStr>>(
    arguments: impl IntoIterator<Item = S>,
    input: &str,
) -> Result<String> {
    printed("kubectl", arguments, Some(input)).await
}

/// Runs `helm` and returns what it prints.
pub async fn helm<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Result<String> {
    printed("helm", arguments, None).await
}

/// Runs `helm` with `input` as its standard input and returns what it prints.
pub async fn helm_with_input<S: AsRef<OsStr>>(
    arguments: impl IntoIterator<Item = S>,
    input: &str,
) -> Result<String> {
    printed("helm", arguments, Some(input)).await
}

/// Runs a command of `e2e/cluster/world.sh` and returns what it prints.
pub async fn world_script<S: AsRef<OsStr>>(
    arguments: impl IntoIterator<Item = S>,
) -> Result<String> {
    let script = checkout().join("e2e/cluster/world.sh");
    printed(&script.to_string_lossy(), arguments, None).await
}

/// What the kubectl plugin answered.
#[derive(Clone, Debug)]
pub struct PluginAnswer {
    /// Its exit status.
    pub status: i32,
    /// What it printed.
    pub printed: String,
    /// What it printed for people alone, or as an error.
    pub noted: String,
}

/// Runs the kubectl plugin that was built with these tests.
pub async fn plugin<S: AsRef<OsStr>>(
    arguments: impl IntoIterator<Item = S>,
) -> Result<PluginAnswer> {
    // The test programs lie in the folder `deps` beside it.
    let this = std::env::current_exe().context("find this program")?;
    let folder = this.parent().and_then(Path::parent);
    let program = folder.map(|folder| folder.join("kubectl-gridstake"));
    let program = program.context("find the folder of kubectl-gridstake")?;
    let arguments: Vec<_> = arguments
        .into_iter()
        .map(|a| a.as_ref().to_owned())
        .collect();
    let output = run(&program.to_string_lossy(), &arguments, None)
        .await
        .with_context(|| format!("run {}", program.display()))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(PluginAnswer {
        status: output.status.code().unwrap_or(-1),
        printed: text(&output.stdout),
        noted: text(&output.stderr),
    })
}

/// Runs a program and returns what it prints.
pub(crate) async fn printed<S: AsRef<OsStr>>(
    program: &str,
    arguments: impl IntoIterator<Item = S>,
    input: Option<&str>,
) -> Result<String> {
    let arguments: Vec<_> = arguments
        .into_iter()
        .map(|a| a.as_ref().to_owned())
        .collect();
    let shown = arguments
        .iter()
        .map(|a| a.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ");
    let output = run(program, &arguments, input)
        .await
        .with_context(|| format!("run {program} {shown}"))?;
    if !output.status.success() {
        bail!(
            "{program} {shown}: {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

async fn run(
    program: &str,
    arguments: &[std::ffi::OsString],
    input: Option<&str>,
) -> Result<Output> {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command.stdin(if input.is_some() {
        Stdio::piped()
    } else {
        Stdio::null()
    });
    let mut child = command.spawn()?;
    if let (Some(input), Some(mut stdin)) = (input, child.stdin.take()) {
        stdin.write_all(input.as_bytes()).await?;
        // Closed here: the program reads to the end.
    }
    Ok(child.wait_with_output().await?)
}
