//! The log of what is sent to the chain, as a story looks at it.

use alloy::primitives::B256;
use anyhow::{Context as _, Result};
use gridstake_crds::{SettlementBatch, SettlementBatchStatus, names, settlement_batch::BatchState};
use kube::{Api, ResourceExt as _, api::ListParams};

use crate::{
    chain::Chain,
    usage,
    wait::{Look, look_until, watch_until},
    world::World,
};

/// The SettlementBatches.
#[must_use]
pub fn batches(world: &World) -> Api<SettlementBatch> {
    Api::all(world.client.clone())
}

/// How many batches of the chain's lane the log holds, without those whose number another one has taken.
pub async fn count(world: &World, chain: &Chain) -> Result<usize> {
    Ok(in_force(world, chain).await?.len())
}

/// The batches of the chain's lane that are not final, by name and state.
pub async fn open(world: &World, chain: &Chain) -> Result<Vec<(String, Option<BatchState>)>> {
    let mut open = in_force(world, chain).await?;
    open.retain(|(_, state)| *state != Some(BatchState::Final));
    Ok(open)
}

/// The batches of the chain's lane that another one has not taken the place of, by name and state.
async fn in_force(world: &World, chain: &Chain) -> Result<Vec<(String, Option<BatchState>)>> {
    let all = batches(world).list(&ListParams::default()).await?;
    let in_force = all
        .into_iter()
        .filter(|b| b.spec.lane == chain.lane)
        .map(|b| (b.name_any(), b.status.as_ref().and_then(|s| s.state)))
        .filter(|(_, state)| *state != Some(BatchState::Superseded));
    Ok(in_force.collect())
}

/// Waits until all that was owed before is paid for good: it would go into a batch with what is owed next.
pub async fn until_quiet(world: &World, chain: &Chain) -> Result<()> {
    look_until("everything earlier is paid for good", || async {
        let open = open(world, chain).await?;
        let owed = usage::unsettled(world).await?;
        Ok(Look::whether(open.is_empty() && owed.is_empty(), || {
            format!("batches {open:?}, records {owed:?}")
        }))
    })
    .await
}

/// The name of the batch that comes after those which are on the chain.
pub async fn next(chain: &Chain) -> Result<String> {
    let sequence = chain.batches().await? + 1;
    Ok(names::settlement_batch(chain.lane, sequence))
}

/// Waits until the batch of this name is in `state`, and returns its status.
pub async fn until_it_is(
    world: &World,
    name: &str,
    state: BatchState,
) -> Result<SettlementBatchStatus> {
    watch_until(&batches(world), name, &format!("is {state}"), |batch| {
        let status = batch?.status.clone()?;
        (status.state == Some(state)).then_some(status)
    })
    .await
}

/// The transaction that was stored last for a batch.
pub fn newest_transaction(status: &SettlementBatchStatus) -> Result<B256> {
    let newest = status.attempts.last();
    let newest = newest.context("no transaction is stored for the batch")?;
    newest.hash.parse().context("read a transaction's hash")
}
