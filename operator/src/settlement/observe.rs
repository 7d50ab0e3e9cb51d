//! Reads the log, the records and the chain. Decides nothing.

use std::collections::BTreeMap;

use alloy::{
    eips::BlockNumberOrTag,
    primitives::{Address, B256, Bytes, TxHash, U256},
    rpc::types::{Filter, TransactionReceipt},
    sol_types::SolEvent as _,
};
use gridstake_crds::{
    SettlementBatch, UsageRecord,
    closed_enum::ClosedEnum as _,
    names::{self, LABEL_RESTORED},
    settlement_batch::{BatchState, BlockedReason},
    stake_binding::BlockReference,
    transaction::Inclusion,
    usage_record::RecordState,
};
use gridstake_ledger::batch;
use kube::{Api, Client, Resource, ResourceExt as _, api::ListParams};
use serde::de::DeserializeOwned;

use super::{
    Lane,
    decide::Logged,
    outcome::{self, Settled},
};
use crate::chain::{Block, client::ClientError, contracts::Settlement};

/// Objects in one answer of the API server.
pub(super) const PAGE: u32 = 500;
/// Blocks that one search for a batch's event covers.
const SEARCH: u64 = 2000;
/// Such searches in one pass.
const SEARCHES: u64 = 16;

/// Why something could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    /// The API server.
    #[error("list {kind}")]
    List {
        /// What was listed.
        kind: &'static str,
        /// What it said.
        #[source]
        source: Box<kube::Error>,
    },
    /// A batch of the log.
    #[error("read SettlementBatch {name}")]
    Get {
        /// Its name.
        name: String,
        /// What the API server said.
        #[source]
        source: Box<kube::Error>,
    },
    /// The chain.
    #[error("ask the chain")]
    Chain(#[from] ClientError),
    /// A label of a batch.
    #[error("label SettlementBatch {name}")]
    Label {
        /// Its name.
        name: String,
        /// What the API server said.
        #[source]
        source: Box<kube::Error>,
    },
    /// A batch of the log cannot be read, which only a person with an editor can bring about.
    #[error("read SettlementBatch {name}: {field} cannot be read")]
    Broken {
        /// Its name.
        name: String,
        /// The field.
        field: &'static str,
    },
}

impl ObserveError {
    /// A static word for metrics.
    #[must_use]
    pub const fn category(&self) -> &'static str {
        match self {
            Self::List { .. } => "list",
            Self::Get { .. } => "get",
            Self::Label { .. } => "label",
            Self::Chain(_) => "chain",
            Self::Broken { .. } => "broken_log",
        }
    }
}

/// Where a batch was found on the chain.
#[derive(Clone, Debug)]
pub struct Found {
    /// The transaction and its block.
    pub inclusion: Inclusion,
    /// What it did.
    pub settled: Settled,
}

/// All batches of the lane that are in force and not final, by a quorum read.
pub async fn open_batches(
    client: &Client,
    lane: &Lane,
) -> Result<Vec<SettlementBatch>, ObserveError> {
    let config = lane.chain().config();
    let selector = format!(
        "spec.chain={},status.state!={},status.state!={}",
        config.name,
        BatchState::Final.as_str(),
        BatchState::Superseded.as_str(),
    );
    let mut batches = list::<SettlementBatch>(
        Api::all(client.clone()),
        "SettlementBatches",
        ListParams::default().fields(&selector),
    )
    .await?;
    batches.retain(|batch| batch.spec.lane == config.lane);
    batches.sort_by_key(|batch| batch.spec.sequence);
    Ok(batches)
}

/// Every batch of the lane, by a quorum read, page by page so that no answer is large.
pub async fn each_batch(
    client: &Client,
    lane: &Lane,
    mut see: impl FnMut(SettlementBatch) -> Result<(), ObserveError>,
) -> Result<(), ObserveError> {
    let config = lane.chain().config();
    let selector = format!("spec.chain={}", config.name);
    each(
        Api::<SettlementBatch>::all(client.clone()),
        "SettlementBatches",
        ListParams::default().fields(&selector),
        |batch| {
            if batch.spec.lane == config.lane {
                see(batch)
            } else {
                Ok(())
            }
        },
    )
    .await
}

/// The batches of the lane with one number.
#[derive(Debug, Default)]
pub struct Revisions {
    /// Those that can never be mined, in their order.
    pub superseded: Vec<SettlementBatch>,
    /// The one in force.
    pub in_force: Option<SettlementBatch>,
}

/// The batches of the lane with this number.
pub async fn revisions(
    client: &Client,
    lane: &Lane,
    sequence: u64,
) -> Result<Revisions, ObserveError> {
    let number = lane.chain().config().lane;
    let mut found = Revisions::default();
    loop {
        let name = names::settlement_batch_revision(number, sequence, found.superseded.len());
        let Some(batch) = named(client, &name).await? else {
            return Ok(found);
        };
        let state = batch.status.as_ref().and_then(|status| status.state);
        if state != Some(BatchState::Superseded) {
            found.in_force = Some(batch);
            return Ok(found);
        }
        found.superseded.push(batch);
    }
}

/// The batch of the lane with this number that is in force.
pub async fn batch(
    client: &Client,
    lane: &Lane,
    sequence: u64,
) -> Result<Option<SettlementBatch>, ObserveError> {
    Ok(revisions(client, lane, sequence).await?.in_force)
}

/// The batch with this name.
pub async fn named(client: &Client, name: &str) -> Result<Option<SettlementBatch>, ObserveError> {
    Api::<SettlementBatch>::all(client.clone())
        .get_opt(name)
        .await
        .map_err(|source| ObserveError::Get {
            name: name.to_owned(),
            source: Box::new(source),
        })
}

/// All sealed records of the lane with a number whose payment is not final, by a quorum read; their evidence is left out.
/// Records of other lanes have the same numbers, and are none of this lane's.
pub async fn unsettled(
    client: &Client,
    namespace: &str,
    lane: &Lane,
) -> Result<Vec<UsageRecord>, ObserveError> {
    numbered(client, namespace, lane, &[RecordState::Final]).await
}

/// The same without those which say that a batch holds them.
pub async fn waiting(
    client: &Client,
    namespace: &str,
    lane: &Lane,
) -> Result<Vec<UsageRecord>, ObserveError> {
    let held = [RecordState::Batched, RecordState::Paid, RecordState::Final];
    numbered(client, namespace, lane, &held).await
}

/// The lane's sealed records with a number that are in none of these states.
async fn numbered(
    client: &Client,
    namespace: &str,
    lane: &Lane,
    but: &[RecordState],
) -> Result<Vec<UsageRecord>, ObserveError> {
    let but = but
        .iter()
        .map(|state| format!(",status.settlement.state!={}", state.as_str()));
    let selector = format!("status.sealed.jobNo!={}", but.collect::<String>());
    let mut records = list::<UsageRecord>(
        Api::namespaced(client.clone(), namespace),
        "UsageRecords",
        ListParams::default().fields(&selector),
    )
    .await?;
    let config = lane.chain().config();
    records.retain(|record| {
        let status = record.status.as_ref().filter(|_| config.owes(record));
        status.is_some_and(|status| {
            status
                .sealed
                .as_ref()
                .is_some_and(|sealed| sealed.job_no.is_some())
        })
    });
    Ok(records)
}

/// All sealed records of the lane, by a quorum read; their evidence is left out.
pub async fn sealed_records(
    client: &Client,
    namespace: &str,
    lane: &Lane,
) -> Result<Vec<UsageRecord>, ObserveError> {
    let params = ListParams::default().fields("status.sealed.jobNo!=");
    let mut records = list::<UsageRecord>(
        Api::namespaced(client.clone(), namespace),
        "UsageRecords",
        params,
    )
    .await?;
    records.retain(|record| lane.chain().config().owes(record));
    Ok(records)
}

/// The records that are not sealed, or sealed without a number, of all lanes.
pub async fn open_records(
    client: &Client,
    namespace: &str,
) -> Result<Vec<UsageRecord>, ObserveError> {
    let params = ListParams::default().fields("status.sealed.jobNo=");
    let records = Api::namespaced(client.clone(), namespace);
    list::<UsageRecord>(records, "UsageRecords", params).await
}

/// The batches of the lane that were taken over from the chain and whose numbers are not all known, by a quorum read.
pub async fn restored_batches(
    client: &Client,
    lane: &Lane,
) -> Result<Vec<SettlementBatch>, ObserveError> {
    let config = lane.chain().config();
    let params = ListParams::default()
        .fields(&format!("spec.chain={}", config.name))
        .labels(&format!("{LABEL_RESTORED}=true"));
    let mut batches =
        list::<SettlementBatch>(Api::all(client.clone()), "SettlementBatches", params).await?;
    batches.retain(|batch| batch.spec.lane == config.lane);
    Ok(batches)
}

/// Lists, and drops what is not needed of each object at once.
async fn list<K: Slim + DeserializeOwned + Clone + std::fmt::Debug>(
    api: Api<K>,
    kind: &'static str,
    params: ListParams,
) -> Result<Vec<K>, ObserveError> {
    let mut objects = Vec::new();
    each(api, kind, params, |mut object| {
        object.slim();
        objects.push(object);
        Ok(())
    })
    .await?;
    Ok(objects)
}

/// Lists page by page, so that no answer is large.
async fn each<K: DeserializeOwned + Clone + std::fmt::Debug>(
    api: Api<K>,
    kind: &'static str,
    params: ListParams,
    mut see: impl FnMut(K) -> Result<(), ObserveError>,
) -> Result<(), ObserveError> {
    let mut params = params.limit(PAGE);
    loop {
        let page = api
            .list(&params)
            .await
            .map_err(|source| ObserveError::List {
                kind,
                source: Box::new(source),
            })?;
        for object in page.items {
            see(object)?;
        }
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(()),
        }
    }
}

/// Drops what settlement does not need.
trait Slim: Resource<DynamicType = ()> {
    fn slim(&mut self) {
        self.meta_mut().managed_fields = None;
    }
}

impl Slim for SettlementBatch {}

impl Slim for UsageRecord {
    fn slim(&mut self) {
        self.meta_mut().managed_fields = None;
        if let Some(status) = &mut self.status {
            status.evidence = None;
            status.conditions = vec![];
        }
    }
}

/// What the state machine needs of a batch.
pub fn logged(batch: &SettlementBatch) -> Result<Logged, ObserveError> {
    let hash = |field, text: &str| {
        text.parse().map_err(|_| ObserveError::Broken {
            name: batch.name_any(),
            field,
        })
    };
    let status = batch.status.as_ref();
    Ok(Logged {
        sequence: batch.spec.sequence,
        previous: hash("spec.previous", &batch.spec.previous)?,
        chain_hash: hash("spec.chainHash", &batch.spec.chain_hash)?,
        state: status.and_then(|status| status.state),
        authorizations: status
            .map(|status| {
                status
                    .authorizations
                    .iter()
                    .map(|a| a.valid_until)
                    .collect()
            })
            .unwrap_or_default(),
        attempts: status.map_or(0, |status| status.attempts.len()),
        refused: status.is_some_and(|s| s.blocked == Some(BlockedReason::EncodingRefused)),
        found_at: status
            .and_then(|status| status.inclusion.as_ref())
            .map(|inclusion| inclusion.block.number),
    })
}

/// The entries of a batch.
pub fn content(batch: &SettlementBatch) -> Result<batch::Batch, ObserveError> {
    batch::decode(&batch.spec.data.0).map_err(|_| ObserveError::Broken {
        name: batch.name_any(),
        field: "spec.data",
    })
}

/// Finds the transaction that settled `batch`, in a block that is part of the chain which ends at `head`.
pub async fn find(
    lane: &Lane,
    batch: &SettlementBatch,
    head: &Block,
) -> Result<Option<Found>, ObserveError> {
    let status = batch.status.as_ref();
    let known = status
        .and_then(|status| status.inclusion.as_ref())
        .map(|inclusion| inclusion.transaction.as_str());
    let attempts = status.into_iter().flat_map(|status| &status.attempts).rev();
    let hashes = known
        .into_iter()
        .chain(attempts.map(|attempt| attempt.hash.as_str()));
    for hash in hashes.filter_map(|hash| hash.parse::<TxHash>().ok()) {
        if let Some(found) = by_transaction(lane, batch, hash, head).await? {
            return Ok(Some(found));
        }
    }
    // Somebody else may have sent it: authority lies in the signature.
    by_event(lane, batch, head).await
}

async fn by_transaction(
    lane: &Lane,
    batch: &SettlementBatch,
    hash: TxHash,
    head: &Block,
) -> Result<Option<Found>, ObserveError> {
    let Some(receipt) = lane.client().receipt(hash).await? else {
        return Ok(None);
    };
    let (Some(number), Some(block)) = (receipt.block_number, receipt.block_hash) else {
        return Ok(None);
    };
    if !receipt.status() || number > head.number {
        return Ok(None);
    }
    // An endpoint may still hold the receipt of a block that was reorganised away.
    let canonical = lane
        .client()
        .block(BlockNumberOrTag::Number(number))
        .await?;
    if canonical.hash != block {
        return Ok(None);
    }
    let config = lane.chain().config();
    let settled = outcome::read(
        receipt.logs(),
        config.settlement.address,
        config.lane,
        batch.spec.sequence,
        &content(batch)?,
    );
    let settled = settled.filter(|settled| settled.chain_hash.to_string() == batch.spec.chain_hash);
    Ok(settled.map(|settled| Found {
        inclusion: inclusion(&receipt, &canonical),
        settled,
    }))
}

/// What the chain holds under a batch's number.
#[derive(Debug)]
pub struct SettledOnChain {
    /// Who sent the transaction.
    pub from: Address,
    /// Its input.
    pub input: Bytes,
    /// Where it is.
    pub inclusion: Inclusion,
}

/// The batches of a lane as the chain's events show them, from the newest block backwards.
#[derive(Debug)]
pub struct SettledBatches<'a> {
    lane: &'a Lane,
    /// The transactions of the events that have been read, by the batch's number.
    read: BTreeMap<u64, TxHash>,
    /// The newest block whose events have not been read; `None` when all have been.
    next: Option<u64>,
    /// Of how many blocks events are read at once.
    span: u64,
}

impl<'a> SettledBatches<'a> {
    /// Of the chain that ends at `head`.
    #[must_use]
    pub fn new(lane: &'a Lane, head: Block) -> Self {
        Self {
            lane,
            read: BTreeMap::new(),
            next: Some(head.number),
            span: SEARCH,
        }
    }

    /// What the chain holds under this number.
    pub async fn find(&mut self, seq: u64) -> Result<Option<SettledOnChain>, ObserveError> {
        while !self.read.contains_key(&seq) {
            let Some(to) = self.next else {
                return Ok(None);
            };
            self.read_to(to).await?;
        }
        let client = self.lane.client();
        let Some(hash) = self.read.get(&seq).copied() else {
            return Ok(None);
        };
        let (Some((from, input)), Some(receipt)) =
            (client.transaction(hash).await?, client.receipt(hash).await?)
        else {
            return Ok(None);
        };
        let Some(number) = receipt.block_number else {
            return Ok(None);
        };
        let block = client.block(BlockNumberOrTag::Number(number)).await?;
        if receipt.block_hash != Some(block.hash) {
            return Ok(None);
        }
        Ok(Some(SettledOnChain {
            from,
            input,
            inclusion: inclusion(&receipt, &block),
        }))
    }

    async fn read_to(&mut self, to: u64) -> Result<(), ObserveError> {
        let config = self.lane.chain().config();
        let from = to.saturating_sub(self.span - 1);
        let filter = Filter::new()
            .address(config.settlement.address)
            .event_signature(Settlement::BatchSettled::SIGNATURE_HASH)
            .topic1(B256::from(U256::from(config.lane)))
            .from_block(from)
            .to_block(to);
        let logs = match self.lane.client().logs(filter).await {
            Ok(logs) => logs,
            Err(error) if error.is_too_large() && self.span > 1 => {
                self.span /= 2;
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        for log in logs {
            let event = Settlement::BatchSettled::decode_log(&log.inner).ok();
            if let (Some(event), Some(hash)) = (event, log.transaction_hash) {
                self.read.insert(event.seq, hash);
            }
        }
        self.next = from.checked_sub(1);
        Ok(())
    }
}

async fn by_event(
    lane: &Lane,
    batch: &SettlementBatch,
    head: &Block,
) -> Result<Option<Found>, ObserveError> {
    let config = lane.chain().config();
    let topic = |number: u64| B256::from(U256::from(number));
    let mut to = head.number;
    for _ in 0..SEARCHES {
        let from = to.saturating_sub(SEARCH - 1);
        let filter = Filter::new()
            .address(config.settlement.address)
            .event_signature(Settlement::BatchSettled::SIGNATURE_HASH)
            .topic1(topic(config.lane.into()))
            .topic2(topic(batch.spec.sequence))
            .from_block(from)
            .to_block(to);
        for log in lane.client().logs(filter).await? {
            if let Some(hash) = log.transaction_hash
                && let Some(found) = by_transaction(lane, batch, hash, head).await?
            {
                return Ok(Some(found));
            }
        }
        if from == 0 {
            break;
        }
        to = from - 1;
    }
    Ok(None)
}

fn inclusion(receipt: &TransactionReceipt, block: &Block) -> Inclusion {
    Inclusion {
        transaction: receipt.transaction_hash.to_string(),
        block: BlockReference {
            number: block.number,
            hash: block.hash.to_string(),
        },
        timestamp: Some(block.timestamp),
        gas_used: Some(receipt.gas_used),
        effective_gas_price: Some(receipt.effective_gas_price.to_string()),
    }
}
