//! Story 27: a GPU that serves gains experience, one that is lost under a job loses reputation, and the terms add up. What is known
//! of it outlives its GpuNode.

use std::collections::BTreeMap;

use gridstake_crds::{
    compute_job::Verdict,
    gpu_node::{GpuNodeStatus, ReputationTerms},
    usage_record::DeviceUse,
};
use gridstake_e2e::{
    agent_process, prelude::*, simulated_gpus::Simulator, usage, wait::watch_until,
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

#[test]
fn a_gpu_that_is_lost_under_a_job_loses_reputation_and_its_terms_say_why() -> Result<()> {
    story(async |world, tenant| {
        let (host, _) = world.one_and_the_others()?;
        let breaks = tenant
            .submit(
                &job("breaks", 1)
                    .on_node(&host.name)
                    .runs_until_released()
                    .with("/spec/retry", "{infrastructure: 0}")?,
            )
            .await?;
        breaks.until_running().await?;
        let gpu = gpu_of(world, &breaks).await?;
        let (before, index) = known(world, &host.name, "its GPU has a reputation", |status| {
            let device = status.devices.iter().find(|device| device.uuid == gpu)?;
            Some((terms_of(status, &gpu)?.clone(), device.index))
        })
        .await?;

        let simulator = Simulator::on(world, &host.name).await?;
        simulator.break_gpu(index, "lost").await?;
        breaks.until_failed().await?;
        let uid = usage::uid(&breaks).await?;
        usage::until(world, &uid, "its end is the host's", |records| {
            let sealed = usage::sealed(records.last()?).ok()?;
            (sealed.verdict == Some(Verdict::Host)).then_some(())
        })
        .await?;
        let status = known(world, &host.name, "its reputation has fallen", |status| {
            let terms = terms_of(status, &gpu)?;
            // Mishaps take 300 at most: other stories may have come before.
            let fell = terms.incidents > before.incidents || terms.incidents >= 300;
            fell.then(|| status.clone())
        })
        .await?;
        ensure!(
            status.reputation_terms.iter().all(adds_up),
            "{:?}",
            status.reputation_terms
        );
        let lowest = status
            .reputation_terms
            .iter()
            .map(|terms| terms.score)
            .min();
        ensure!(status.reputation == lowest, "{status:?}");
        let stability = status.stability.context("it has a stability")?;
        ensure!(
            stability.completion_permille < 1000
                && stability.permille
                    == stability.uptime_permille * stability.completion_permille / 1000,
            "{stability:?}"
        );
        simulator.heal_gpu(index).await?;
        world.until_whole().await.map(drop)
    })
}

/// The GPU that the first member of `job` got.
async fn gpu_of(world: &World, job: &Job) -> Result<String> {
    let uid = usage::uid(job).await?;
    usage::until(world, &uid, "the agent has named its GPU", |records| {
        let evidence = records.last()?.status.as_ref()?.evidence.as_ref()?;
        let gpu = evidence.devices.first().map(DeviceUse::physical)?;
        Some(gpu.to_owned())
    })
    .await
}

/// Waits until `fact` finds in the GpuNode's status what it looks for.
async fn known<T>(
    world: &World,
    node: &str,
    what: &str,
    fact: impl Fn(&GpuNodeStatus) -> Option<T>,
) -> Result<T> {
    watch_until(&world.gpu_nodes(), node, what, |node| {
        fact(node?.status.as_ref()?)
    })
    .await
}

fn terms_of<'a>(status: &'a GpuNodeStatus, gpu: &str) -> Option<&'a ReputationTerms> {
    status
        .reputation_terms
        .iter()
        .find(|terms| terms.uuid == gpu)
}

fn adds_up(terms: &ReputationTerms) -> bool {
    let sum = i64::from(terms.base + terms.experience)
        - i64::from(terms.incidents)
        - i64::from(terms.gaps);
    i64::from(terms.score) == sum.clamp(0, 1000)
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
