//! What is known of a node's GPUs: their reputation, term by term.

use anyhow::Result;
use gridstake_crds::{
    gpu_node::{GpuNodeStatus, ReputationTerms},
    usage_record::DeviceUse,
};

use crate::{job::Job, usage, wait::watch_until, world::World};

/// The GPU that the first member of `job` got.
pub async fn gpu_of(world: &World, job: &Job) -> Result<String> {
    let uid = usage::uid(job).await?;
    usage::until(world, &uid, "the agent has named its GPU", |records| {
        let evidence = records.last()?.status.as_ref()?.evidence.as_ref()?;
        let gpu = evidence.devices.first().map(DeviceUse::physical)?;
        Some(gpu.to_owned())
    })
    .await
}

/// Waits until `fact` finds in the GpuNode's status what it looks for.
pub async fn known<T>(
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

/// The terms of `gpu`.
#[must_use]
pub fn terms_of<'a>(status: &'a GpuNodeStatus, gpu: &str) -> Option<&'a ReputationTerms> {
    status
        .reputation_terms
        .iter()
        .find(|terms| terms.uuid == gpu)
}

/// Whether the score is the sum of its terms.
#[must_use]
pub fn adds_up(terms: &ReputationTerms) -> bool {
    let sum = i64::from(terms.base + terms.experience)
        - i64::from(terms.incidents)
        - i64::from(terms.gaps);
    i64::from(terms.score) == sum.clamp(0, 1000)
}
