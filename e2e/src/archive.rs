//! The operator's archive, where it is a folder of this machine: on a native cluster.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Namespace, PersistentVolume, PersistentVolumeClaim},
};
use kube::{Api, ResourceExt as _, api::ListParams};

use crate::world::{OPERATOR, World};

/// The archive's folder; `None`: there is none, or it is not on this machine.
pub async fn folder(world: &World) -> Result<Option<PathBuf>> {
    let deployments: Api<Deployment> = Api::namespaced(world.client.clone(), &world.namespace);
    let operators = deployments
        .list(&ListParams::default().labels(OPERATOR))
        .await
        .context("list the operator's Deployment")?;
    let volumes = operators
        .into_iter()
        .filter_map(|deployment| deployment.spec?.template.spec?.volumes)
        .flatten();
    let mut claims = volumes
        .filter(|volume| volume.name == "archive")
        .filter_map(|volume| Some(volume.persistent_volume_claim?.claim_name));
    let Some(claim) = claims.next() else {
        return Ok(None);
    };
    let claims: Api<PersistentVolumeClaim> =
        Api::namespaced(world.client.clone(), &world.namespace);
    let claim = claims.get(&claim).await.context("the archive's claim")?;
    let Some(volume) = claim.spec.and_then(|spec| spec.volume_name) else {
        return Ok(None);
    };
    let volumes: Api<PersistentVolume> = Api::all(world.client.clone());
    let volume = volumes.get(&volume).await.context("the archive's volume")?;
    let folder = volume.spec.and_then(|spec| spec.host_path);
    let folder = folder.map(|folder| PathBuf::from(folder.path));
    Ok(folder.filter(|folder| folder.is_dir()))
}

/// The cluster's name in the archive.
pub async fn cluster(world: &World) -> Result<String> {
    let namespaces: Api<Namespace> = Api::all(world.client.clone());
    let system = namespaces.get("kube-system").await?;
    system.uid().context("the uid of kube-system")
}

/// A copy of the archive, in a folder that goes with the story.
pub fn copy(world: &World, archive: &Path) -> Result<PathBuf> {
    let copy = std::env::temp_dir().join(format!("gridstake-archive-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&copy);
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        std::fs::create_dir_all(copy.join(&folder))?;
        for entry in std::fs::read_dir(archive.join(&folder))? {
            let entry = entry?;
            let path = folder.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                folders.push(path);
            } else {
                std::fs::copy(entry.path(), copy.join(path))?;
            }
        }
    }
    let removed = copy.clone();
    world.undo_at_the_end("remove the copy of the archive", async move {
        std::fs::remove_dir_all(removed).map_err(Into::into)
    });
    Ok(copy)
}
