//! Every sample is taken by the API server as it stands; the first one that a reader tries runs to its end.

use std::{fs, path::PathBuf};

use gridstake_e2e::{
    command::{checkout, kubectl},
    prelude::*,
};

/// The `.yaml` files of a folder, by name.
fn samples(folder: &str) -> Result<Vec<PathBuf>> {
    let folder = checkout().join(folder);
    let mut files: Vec<_> = fs::read_dir(&folder)
        .with_context(|| format!("list {}", folder.display()))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    files.retain(|file| file.extension().is_some_and(|e| e == "yaml"));
    ensure!(!files.is_empty(), "{} holds none", folder.display());
    files.sort();
    Ok(files)
}

#[test]
fn every_sample_is_taken_by_the_api_server() -> Result<()> {
    story(async |world, tenant| {
        for file in samples("manifests/samples")? {
            let file = file.to_string_lossy().into_owned();
            kubectl([
                "apply",
                "--dry-run=server",
                "--filename",
                &file,
                "--namespace",
                &tenant.namespace,
            ])
            .await?;
        }
        let host = world.hosts.first().context("a node with GPUs")?;
        for patch in samples("manifests/samples/patches")? {
            // Named by the kind and what is changed, such as gpunode-pricing.yaml.
            let file_name = patch.file_name().unwrap_or_default().to_string_lossy();
            let kind = file_name.split('-').next().unwrap_or_default();
            ensure!(kind == "gpunode", "{file_name}: of which object?");
            let file = patch.to_string_lossy();
            let patched = kubectl([
                "patch",
                kind,
                &host.name,
                "--type=merge",
                "--patch-file",
                &file,
                "--dry-run=server",
                "--output=name",
            ])
            .await?;
            ensure!(patched.contains(&host.name), "{patched}");
        }
        Ok(())
    })
}

#[test]
fn the_sample_hello_gpu_runs_to_its_end() -> Result<()> {
    story(async |_, tenant| {
        let file = checkout()
            .join("manifests/samples/hello-gpu.yaml")
            .to_string_lossy()
            .into_owned();
        kubectl([
            "apply",
            "--filename",
            &file,
            "--namespace",
            &tenant.namespace,
        ])
        .await?;
        let sample = tenant.job("hello-gpu");
        sample.until_complete().await?;
        let status = sample.until_metered().await?;
        ensure!(
            status.usage.is_some_and(|u| u.gpu_millis > 0),
            "its use is recorded"
        );
        Ok(())
    })
}
