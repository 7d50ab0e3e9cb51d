//! Story 27: a GPU that serves gains experience, and what is known of it outlives its GpuNode. That one which is lost under a job
//! loses reputation is told in story 26.

use std::collections::BTreeMap;

use gridstake_e2e::{
    agent_process,
    prelude::*,
    reputation::{adds_up, gpu_of, known, terms_of},
};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::json;

#[test]
fn a_gpu_that_serves_gains_experience_and_what_is_known_of_it_outlives_its_gpu_node() -> Result<()>
{
    story(async |world, tenant| {
        let (host, _) = world.one_and_the_others()?;
        let all = known(world, &host.name, "its GPUs have a reputation", |status| {
            let terms = &status.reputation_terms;
            (!terms.is_empty() && terms.len() == status.devices.len()).then(|| terms.clone())
        })
        .await?;
        let mut served_before = BTreeMap::new();
        for terms in &all {
            served_before.insert(terms.uuid.clone(), served(world, &terms.uuid).await?);
        }
        let serves = tenant
            .submit(&job("serves", 1).on_node(&host.name).works_for(63))
            .await?;
        let gpu = gpu_of(world, &serves).await?;
        let before = all.iter().find(|terms| terms.uuid == gpu);
        let before = before.context("the job has a GPU that the node showed")?;
        let millis_before = served_before.get(&gpu).copied().unwrap_or(0);
        serves.until_complete().await?;

        // Counted within a minute of the seal.
        look_until("the time that it served is counted", || async {
            let millis = served(world, &gpu).await?;
            Ok(Look::whether(millis >= millis_before + 60_000, || {
                format!("{millis} ms of {gpu}, {millis_before} before")
            }))
        })
        .await?;
        // The first ten minutes are worth a point each. Of a GPU that has served for longer no more is known than that it never falls.
        let is_new = before.experience < 10;
        let after = known(world, &host.name, "its reputation follows", |status| {
            let least = before.experience + u32::from(is_new);
            terms_of(status, &gpu)
                .filter(|terms| terms.experience >= least)
                .cloned()
        })
        .await?;

        let api = world.gpu_nodes();
        let spec = json!({"spec": api.get(&host.name).await?.spec});
        api.delete(&host.name, &DeleteParams::default()).await?;
        // Its agent looks whether it is still there every five minutes, and when it starts; it makes it anew, with an empty spec.
        agent_process::kill(world, &host.name).await?;
        let anew = known(world, &host.name, "the GPU is known again", |status| {
            terms_of(status, &gpu)
                .filter(|terms| terms.experience >= after.experience)
                .cloned()
        })
        .await?;
        ensure!(adds_up(&anew), "{anew:?}");
        api.patch(&host.name, &PatchParams::default(), &Patch::Merge(&spec))
            .await?;
        world.until_whole().await.map(drop)
    })
}

/// For how long `gpu` has served, in milliseconds, whoever answered for it, as docs/reputation.md says that it is read.
async fn served(world: &World, gpu: &str) -> Result<u64> {
    let maps: Api<ConfigMap> = Api::namespaced(world.client.clone(), &world.namespace);
    let maps = maps.list(&ListParams::default()).await?;
    let shards = maps
        .iter()
        .filter(|map| map.name_any().starts_with("reputation-"));
    let lines = shards
        .filter_map(|map| map.data.as_ref()?.get("gpus"))
        .flat_map(|gpus| gpus.lines());
    lines
        .filter_map(|line| line.strip_prefix(gpu)?.strip_prefix(' '))
        .map(|rest| {
            let served = rest.split(' ').nth(1);
            served
                .and_then(|served| served.parse::<u64>().ok())
                .with_context(|| format!("{rest:?} is no history"))
        })
        .sum()
}
