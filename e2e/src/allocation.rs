//! Who holds which GPUs, from the pods that exist: never more than there are.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use gridstake_crds::{ComputeJob, names::GPU_RESOURCE};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt, api::ListParams};

use crate::world::World;

/// GPUs held on each node by pods that are bound to it and have not ended.
pub async fn held_by_pods(world: &World) -> Result<BTreeMap<String, u32>> {
    let pods: Api<Pod> = Api::all(world.client.clone());
    let mut held = BTreeMap::new();
    for pod in pods.list(&ListParams::default()).await? {
        let ended = matches!(
            pod.status.as_ref().and_then(|s| s.phase.as_deref()),
            Some("Succeeded" | "Failed")
        );
        if let Some(node) = pod
            .spec
            .as_ref()
            .and_then(|s| s.node_name.clone())
            .filter(|_| !ended)
        {
            *held.entry(node).or_default() += gpus(&pod);
        }
    }
    Ok(held)
}

/// GPUs promised on each node to attempts of jobs that have not ended.
pub async fn promised_to_jobs(world: &World) -> Result<BTreeMap<String, u32>> {
    // As raw objects: one that nobody can parse must not hide the others.
    let kind = kube::api::ApiResource::erase::<ComputeJob>(&());
    let jobs: Api<kube::api::DynamicObject> = Api::all_with(world.client.clone(), &kind);
    let mut promised = BTreeMap::new();
    for job in jobs.list(&ListParams::default()).await? {
        let Ok(job) = job.try_parse::<ComputeJob>() else {
            continue;
        };
        let nodes = job
            .status
            .iter()
            .filter_map(|s| s.active_placement())
            .flat_map(|p| &p.nodes);
        for member in nodes {
            *promised.entry(member.node.clone()).or_default() += job.spec.gpu.count;
        }
    }
    Ok(promised)
}

/// Fails if more GPUs of a node are held or promised than it has.
pub async fn assert_no_gpu_is_given_twice(world: &World) -> Result<()> {
    for (what, given) in [
        ("held by pods", held_by_pods(world).await?),
        ("promised to jobs", promised_to_jobs(world).await?),
    ] {
        for host in &world.hosts {
            let given = given.get(&host.name).copied().unwrap_or(0);
            ensure!(
                given <= host.gpus,
                "{given} GPUs of {} are {what}, and it has {}",
                host.name,
                host.gpus
            );
        }
    }
    Ok(())
}

fn gpus(pod: &Pod) -> u32 {
    let limit = |c: &k8s_openapi::api::core::v1::Container| {
        c.resources
            .as_ref()?
            .limits
            .as_ref()?
            .get(GPU_RESOURCE)?
            .0
            .parse::<u32>()
            .ok()
    };
    pod.spec
        .iter()
        .flat_map(|s| &s.containers)
        .filter_map(limit)
        .sum()
}

/// The names of the pods that hold GPUs of `node`.
pub async fn holders_on(world: &World, node: &str) -> Result<Vec<String>> {
    let pods: Api<Pod> = Api::all(world.client.clone());
    let on_node = pods
        .list(&ListParams::default().fields(&format!(
            "spec.nodeName={node},status.phase!=Succeeded,status.phase!=Failed"
        )))
        .await?;
    Ok(on_node
        .iter()
        .filter(|p| gpus(p) > 0)
        .map(ResourceExt::name_any)
        .collect())
}
