//! Takes into the log what the chain holds and the log does not: the API server was restored from an older backup.
//!
//! What a batch says stands in its transaction. It is taken only if it was our own gas account that sent it: whoever has
//! stolen the lane's key alone is not followed, and the lane halts. The numbers of what is taken are used up before the
//! log shows it, so that no slice gets one of them again.

use std::sync::Arc;

use alloy::{
    primitives::{B256, keccak256},
    sol_types::SolCall as _,
};
use gridstake_crds::{
    SettlementBatch, SettlementBatchSpec, TokenAmount,
    names::{self, LABEL_RESTORED},
    settlement_batch::BatchState,
    transaction::Inclusion,
};
use gridstake_ledger::batch;
use k8s_openapi::ByteString;
use kube::{ResourceExt, runtime::events::EventType};

use super::{
    act::ActError,
    decide::{Halt, Plan},
    observe::{self, SettledOnChain},
    run::{PassError, Settler},
    tell::Telling,
};
use crate::{
    chain::{ChainConfig, ChainView, contracts::Settlement::settleCall},
    controllers::usage_record::numbers::Numbers,
};

/// Why what the chain holds cannot be taken into the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unadoptable {
    /// The transaction's input is no call of `settle`, such as that of a contract in between.
    #[error("the transaction that settled batch {seq} does not call settle directly")]
    Input {
        /// The batch.
        seq: u64,
    },
    /// The payload cannot be read, or is of another batch.
    #[error("the transaction that settled batch {seq} does not hold what the chain's hash says")]
    Content {
        /// The batch.
        seq: u64,
    },
}

/// The batch that `input` settled under `chain_hash`, as the log would hold it. Pure.
pub fn spec(
    config: &ChainConfig,
    seq: u64,
    chain_hash: B256,
    input: &[u8],
) -> Result<SettlementBatchSpec, Unadoptable> {
    let call = settleCall::abi_decode(input).map_err(|_| Unadoptable::Input { seq })?;
    let data_hash = keccak256(&call.data);
    let found = batch::chain_hash(call.prev, call.lane, call.seq, call.usageRoot, data_hash);
    let content = batch::decode(&call.data).map_err(|_| Unadoptable::Content { seq })?;
    if (call.lane, call.seq, found) != (config.lane, seq, chain_hash) {
        return Err(Unadoptable::Content { seq });
    }
    let amounts = content
        .amounts()
        .map_err(|_| Unadoptable::Content { seq })?;
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    Ok(SettlementBatchSpec {
        chain: config.name.clone(),
        chain_id: config.chain_id,
        contract: config.settlement.address.to_string(),
        lane: config.lane,
        sequence: seq,
        previous: call.prev.to_string(),
        usage_root: call.usageRoot.to_string(),
        // It lies under the root, and is not in the transaction.
        decision_head: B256::ZERO.to_string(),
        data: ByteString(call.data.to_vec()),
        data_hash: data_hash.to_string(),
        chain_hash: chain_hash.to_string(),
        record_count: count(content.entries.len()),
        group_count: count(content.groups.len()),
        statement_count: count(content.statements.len()),
        first_job_no: content.entries.first().map_or(0, |entry| entry.job_no),
        last_job_no: content.entries.last().map_or(0, |entry| entry.job_no),
        total: TokenAmount::from_nano(amounts.iter().map(|amount| u128::from(*amount)).sum()),
        supersedes: None,
    })
}

/// A batch that the chain holds and the log does not.
struct Missing {
    spec: SettlementBatchSpec,
    inclusion: Inclusion,
}

impl Settler {
    /// Takes what the chain holds into the log, so that both agree; or tells why it must not.
    pub(super) async fn adopt(
        &mut self,
        halt: Halt,
        log: &[SettlementBatch],
        view: &ChainView,
    ) -> Result<(), PassError> {
        let (head, chain_hash) = self.lane.head(view).await.map_err(ActError::Chain)?;
        let missing = match self.missing(head, chain_hash, view).await? {
            Ok(missing) => missing,
            Err(why) => {
                if self.halted.as_ref() != Some(&halt) {
                    tracing::error!(
                        chain = self.lane.chain().name(),
                        why,
                        "what the chain holds is not taken into the log"
                    );
                }
                return self.halt(halt, log).await;
            }
        };
        let Some(lowest) = missing.last().map(|batch| batch.spec.sequence) else {
            return self.halt(halt, log).await;
        };
        // Batches may have followed that nobody has mined. They were signed after the lowest of these.
        let since = missing.last().and_then(|batch| batch.inclusion.timestamp);
        let seconds = view.head.timestamp.saturating_sub(since.unwrap_or(0));
        let now_ms = self.now_ms();
        self.lost(now_ms, seconds).await?;
        let highest = missing.iter().map(|batch| batch.spec.last_job_no).max();
        Numbers::new(
            self.context.client.clone(),
            &self.context.namespace,
            self.lane.chain().config().lane,
        )
        .raise(highest.unwrap_or(0).saturating_add(1))
        .await
        .map_err(ActError::Numbers)?;
        self.supersede_from(lowest, view).await?;
        for batch in missing.into_iter().rev() {
            self.take_over(batch).await?;
        }
        self.doubts_at = None;
        self.mark_busy();
        Ok(())
    }

    /// What the chain holds and the log does not, newest first; or why it is not ours.
    async fn missing(
        &self,
        head: u64,
        chain_hash: B256,
        view: &ChainView,
    ) -> Result<Result<Vec<Missing>, String>, PassError> {
        let config = self.lane.chain().config();
        let mut missing: Vec<Missing> = Vec::new();
        let mut expected = chain_hash;
        let mut settled = observe::SettledBatches::new(&self.lane, view.head);
        for seq in (1..=head).rev() {
            let logged = observe::batch(&self.context.client, &self.lane, seq).await?;
            if let Some(logged) = logged {
                let state = logged.status.as_ref().and_then(|status| status.state);
                if logged.spec.chain_hash == expected.to_string() {
                    break;
                }
                if state == Some(BatchState::Final) {
                    return Ok(Err(format!("batch {seq} of the log is final")));
                }
            }
            let Some(SettledOnChain {
                from,
                input,
                inclusion,
            }) = settled.find(seq).await?
            else {
                return Ok(Err(format!("the transaction of batch {seq} is not found")));
            };
            if from != self.lane.keys().gas.address() {
                return Ok(Err(format!(
                    "batch {seq} was sent by {from}, which is not us"
                )));
            }
            let spec = match spec(config, seq, expected, &input) {
                Ok(spec) => spec,
                Err(error) => return Ok(Err(error.to_string())),
            };
            expected = spec.previous.parse().unwrap_or_default();
            missing.push(Missing { spec, inclusion });
        }
        Ok(Ok(missing))
    }

    /// What the log holds from this number on can never be mined on what the chain holds.
    async fn supersede_from(&mut self, lowest: u64, view: &ChainView) -> Result<(), PassError> {
        let open = observe::open_batches(&self.context.client, &self.lane).await?;
        let records = self.unsettled().await?;
        let open = Arc::new(open);
        let above = |batch: &&SettlementBatch| batch.spec.sequence >= lowest;
        for batch in open.iter().filter(above) {
            let telling = Telling {
                batch: batch.clone(),
                state: BatchState::Superseded,
                found: None,
                open: Arc::clone(&open),
                head: view.head.hash,
            };
            self.teller().tell_now(&telling, &records).await?;
            self.advance(batch, BatchState::Superseded, None, &Plan::default())
                .await?;
        }
        Ok(())
    }

    async fn take_over(&mut self, missing: Missing) -> Result<(), PassError> {
        let Missing {
            mut spec,
            inclusion,
        } = missing;
        let there = observe::revisions(&self.context.client, &self.lane, spec.sequence).await?;
        let superseded = there.superseded.len();
        let name = names::settlement_batch_revision(spec.lane, spec.sequence, superseded);
        spec.supersedes = there.superseded.last().map(ResourceExt::name_any);
        let mut batch = SettlementBatch::new(&name, spec);
        batch
            .labels_mut()
            .insert(LABEL_RESTORED.to_owned(), "true".to_owned());
        self.create(batch).await?;
        if let Some(before) = there.superseded.last() {
            self.write(before, |status| status.superseded_by = Some(name.clone()))
                .await?;
        }
        let Some(batch) = observe::named(&self.context.client, &name).await? else {
            return Ok(());
        };
        // Its transaction may lie further back than is searched on every look.
        self.write(&batch, |status| {
            status.state = Some(BatchState::Included);
            status.inclusion = Some(inclusion);
        })
        .await?;
        self.metrics.restored.inc();
        tracing::warn!(
            batch = name,
            "the log did not hold a batch that the chain holds: it is taken over"
        );
        self.context
            .events
            .publish(
                &batch,
                EventType::Warning,
                "Restored",
                "Settle",
                "the chain holds this batch and the log did not: the API server was restored from a backup, and the batch is taken over from its transaction",
            )
            .await;
        Ok(())
    }
}
