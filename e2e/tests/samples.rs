//! Every sample is taken by the API server as it stands; the first one that a reader tries runs to its end.

use std::{fs, path::PathBuf};

use gridstake_e2e::{
    command::{checkout, kubectl},
    prelude::*,
};

fn samples() -> Result<Vec<PathBuf>> {
    let folder = checkout().join("manifests/samples");
    let mut files: Vec<_> = fs::read_dir(&folder)
        .with_context(|| format!("list {}", folder.display()))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    files.retain(|file| file.extension().is_some_and(|e| e == "yaml"));
    files.sort();
    Ok(files)
}

#[test]
fn every_sample_is_taken_by_the_api_server() -> Result<()> {
    story(async |_, tenant| {
        let files = samples()?;
        ensure!(!files.is_empty(), "there are no samples");
        for file in files {
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
