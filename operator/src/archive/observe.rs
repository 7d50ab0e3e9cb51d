//! Reads final batches, the records that they pay, and the certificates of those who signed their evidence. Decides
//! nothing.

use std::collections::{BTreeMap, BTreeSet};

use alloy::primitives::B256;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use gridstake_crds::{GpuNode, SettlementBatch, UsageRecord, settlement_batch::BatchState};
use gridstake_ledger::archive::{
    self, ArchivedBatch,
    decisions::{self, Event},
};
use kube::{Api, Client, ResourceExt as _, api::ListParams};

use super::{
    keep::FinalBatch,
    store::{Store, StoreError},
};
use crate::{
    Context,
    caches::parsed,
    chain::ChainConfig,
    controllers::placement::log,
    settlement::{Lane, run::numbers_of},
};

/// Objects in one answer of the API server.
const PAGE: u32 = 500;
/// Records that are read at once.
const READS: usize = 8;
/// In so many parts of the log of decisions, the newest ones, the head is looked for on which a batch rests.
const PARTS: usize = 512;

/// Why something could not be read.
#[derive(Debug, thiserror::Error)]
#[error("{op}")]
pub struct ObserveError {
    /// What was read.
    op: String,
    /// What the API server said.
    #[source]
    source: Box<kube::Error>,
}

fn failed(op: impl Into<String>) -> impl FnOnce(kube::Error) -> ObserveError {
    let op = op.into();
    move |source| ObserveError {
        op,
        source: Box::new(source),
    }
}

/// All final batches of the lane. A page at a time: together they may be large.
pub async fn final_batches(client: &Client, lane: &Lane) -> Result<Vec<FinalBatch>, ObserveError> {
    let config = lane.chain().config();
    let selector = format!(
        "spec.chain={},status.state={}",
        config.name,
        BatchState::Final
    );
    let api: Api<SettlementBatch> = Api::all(client.clone());
    let mut params = ListParams::default().fields(&selector).limit(PAGE);
    let mut found = Vec::new();
    loop {
        let page = api
            .list(&params)
            .await
            .map_err(failed("list SettlementBatches"))?;
        let of_lane = page.items.iter().filter(|b| b.spec.lane == config.lane);
        found.extend(of_lane.filter_map(FinalBatch::read));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(found),
        }
    }
}

/// The batch of this name, if it is there.
pub async fn batch(client: &Client, name: &str) -> Result<Option<SettlementBatch>, ObserveError> {
    Api::<SettlementBatch>::all(client.clone())
        .get_opt(name)
        .await
        .map_err(failed(format!("read SettlementBatch {name}")))
}

/// The records of the lane `config` with these numbers, with all of their evidence: the caches tell their names. Those that the caches do not
/// have are looked for among all records; who is not there either is left out.
pub async fn records(
    context: &Context,
    config: &ChainConfig,
    numbers: &BTreeSet<u64>,
) -> Result<Vec<UsageRecord>, ObserveError> {
    let api: Api<UsageRecord> = Api::namespaced(context.client.clone(), &context.namespace);
    let mut names = BTreeMap::new();
    let cached = context.caches.usage_records.state();
    for record in parsed(&cached).filter(|record| config.owes(record)) {
        let own = numbers_of(record);
        for number in own.into_iter().filter(|number| numbers.contains(number)) {
            names.insert(number, record.name_any());
        }
    }
    let distinct: BTreeSet<String> = names.into_values().collect();
    let reads: Vec<_> = distinct
        .into_iter()
        .map(|name| read(api.clone(), name).boxed())
        .collect();
    let mut found: Vec<UsageRecord> = stream::iter(reads)
        .buffer_unordered(READS)
        .try_filter_map(|record| async move { Ok(record) })
        .try_collect()
        .await?;
    let has = |records: &[UsageRecord]| -> BTreeSet<u64> {
        records.iter().flat_map(numbers_of).collect()
    };
    let missing: BTreeSet<u64> = numbers.difference(&has(&found)).copied().collect();
    if !missing.is_empty() {
        let mut params = ListParams::default()
            .fields("status.sealed.jobNo!=")
            .limit(PAGE);
        loop {
            let page = api
                .list(&params)
                .await
                .map_err(failed("list UsageRecords"))?;
            found.extend(
                page.items
                    .into_iter()
                    .filter(|record| config.owes(record))
                    .filter(|record| numbers_of(record).iter().any(|n| missing.contains(n))),
            );
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => break,
            }
        }
    }
    Ok(found)
}

async fn read(api: Api<UsageRecord>, name: String) -> Result<Option<UsageRecord>, ObserveError> {
    api.get_opt(&name)
        .await
        .map_err(failed(format!("read UsageRecord {name}")))
}

/// The nodes of `records`, as far as they are known.
#[must_use]
pub fn nodes(context: &Context, records: &[UsageRecord]) -> Vec<GpuNode> {
    let names: BTreeSet<&str> = records
        .iter()
        .map(|record| record.spec.node_name.as_str())
        .collect();
    names
        .into_iter()
        .filter_map(|name| context.caches.gpu_node(name))
        .filter_map(|node| node.0.as_ref().ok().cloned())
        .collect()
}

/// The file of `batch` that is in the archive already, and its address, if the chain's hash proves it.
pub async fn written_before(
    store: &Store,
    batch: &SettlementBatch,
) -> Result<Option<(B256, ArchivedBatch)>, StoreError> {
    let spec = &batch.spec;
    let (Ok(contract), Ok(chain_hash)) = (spec.contract.parse(), spec.chain_hash.parse()) else {
        return Ok(None);
    };
    let index = archive::index_path(spec.chain_id, contract, spec.lane, spec.sequence);
    let Some(address) = pointed_at(store, &index).await? else {
        return Ok(None);
    };
    let file = store.read(&archive::object_path(address)).await?;
    Ok(file
        .filter(|file| archive::address(file) == address)
        .and_then(|file| archive::proven(&file, chain_hash))
        .map(|archived| (address, archived)))
}

async fn pointed_at(store: &Store, index: &str) -> Result<Option<B256>, StoreError> {
    let entry = store.read(index).await?;
    Ok(entry.and_then(|entry| archive::read_index_entry(&entry)))
}

/// The heads that the log of decisions had, as far as jobs and the newest parts in the archive show them.
pub async fn decision_heads(context: &Context, store: &Store) -> Result<Vec<B256>, StoreError> {
    let jobs = context.caches.compute_jobs.state();
    let mut heads: Vec<B256> = parsed(&jobs)
        .flat_map(log::decisions)
        .filter_map(|decision| decision.hash.parse().ok())
        .collect();
    let system = context.caches.namespace("kube-system");
    let Some(cluster) = system.and_then(|namespace| namespace.metadata.uid.clone()) else {
        return Ok(heads);
    };
    let mut next = pointed_at(store, &decisions::newest_path(&cluster)).await?;
    for _ in 0..PARTS {
        let Some(address) = next else { break };
        let file = store.read(&archive::object_path(address)).await?;
        let Some(Ok(part)) = file.as_deref().map(decisions::decode) else {
            break;
        };
        heads.extend(part.events.iter().filter_map(|(_, event)| match event {
            Event::Decision(decided) => Some(decided.hash),
            _ => None,
        }));
        next = part.head.before;
    }
    Ok(heads)
}
