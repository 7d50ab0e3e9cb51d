//! Signs, stores, sends; builds the next batch.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    time::{Duration, Instant},
};

use alloy::{
    primitives::{B256, Bytes},
    sol_types::SolCall as _,
};
use gridstake_crds::{
    SettlementBatch, UsageRecord,
    closed_enum::ClosedEnum as _,
    names,
    settlement_batch::{BatchState, BlockedReason},
    transaction::{Authorization, TransactionAttempt},
    usage_record::{RecordSettlement, RecordState, SkipReason},
};
use gridstake_ledger::{signature, typed};
use kube::{Api, ResourceExt, api::PostParams};

use super::{
    build_batch::{self, BuildError, Candidate, Place},
    decide::{self, Refusal},
    observe::{self, ObserveError},
    outbox::{Errand, Progress, PursueError},
    records,
    run::Settler,
    signer::SignError,
    status,
    transaction::Call,
};
use crate::{
    caches::parsed,
    chain::{ChainView, client::ClientError, contracts::Settlement},
    controllers::{placement::log::DecisionLog, usage_record::numbers::NumbersError},
    status::StatusError,
};

/// After how long a record that was left out is tried again at the earliest.
const RETRY: Duration = Duration::from_mins(10);

/// Why a batch was not brought further.
#[derive(Debug, thiserror::Error)]
pub enum ActError {
    /// A field of the log cannot be read.
    #[error("read the log")]
    Log(#[from] ObserveError),
    /// The lane's key does not sign.
    #[error("sign the batch")]
    Sign(#[from] SignError),
    /// The status was not written: nothing was sent.
    #[error("write the batch's status")]
    Status(#[from] StatusError),
    /// The transaction was not sent.
    #[error("send the batch")]
    Pursue(#[from] PursueError<StatusError>),
    /// There is no batch to build.
    #[error("build a batch")]
    Build(#[from] BuildError),
    /// The API server refused the batch, or did not answer.
    #[error("create SettlementBatch {name}")]
    Create {
        /// The batch.
        name: String,
        /// What it said.
        #[source]
        source: Box<kube::Error>,
    },
    /// A batch that was final is not on the chain any more: a person must find out.
    #[error(
        "{name} was final, and the lane's head is before it: final blocks were reorganised away"
    )]
    FinalReversed {
        /// The batch.
        name: String,
    },
    /// The chain cannot be asked.
    #[error("ask the chain")]
    Chain(#[from] ClientError),
    /// The numbers that only the chain shows to be in use could not be reserved.
    #[error("reserve the numbers of what is taken over from the chain")]
    Numbers(#[source] NumbersError),
}

impl ActError {
    /// A static word for metrics.
    #[must_use]
    pub fn category(&self) -> &'static str {
        match self {
            Self::Log(error) => error.category(),
            Self::Sign(_) => "sign",
            Self::Status(_) => "apply_status",
            Self::Pursue(PursueError::Chain(_)) | Self::Chain(_) => "chain",
            Self::Pursue(_) => "send",
            Self::Build(_) => "build",
            Self::Create { .. } => "create",
            Self::FinalReversed { .. } => "final_reversed",
            Self::Numbers(error) => error.category(),
        }
    }

    /// Whether somebody else has written the log meanwhile.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        match self {
            Self::Status(error) | Self::Pursue(PursueError::Store(error)) => error.is_conflict(),
            _ => false,
        }
    }
}

/// Signs the batch if it must be, then sends it or what was stored of it. Returns what keeps it from going on.
pub async fn bring(
    settler: &Settler,
    batch: &SettlementBatch,
    view: &ChainView,
) -> Result<Option<BlockedReason>, ActError> {
    let lane = &settler.lane;
    let config = lane.chain().config();
    let mut batch = batch.clone();
    let authorizations: Vec<u64> = batch
        .status
        .iter()
        .flat_map(|status| &status.authorizations)
        .map(|authorization| authorization.valid_until)
        .collect();
    let refused = batch
        .status
        .as_ref()
        .is_some_and(|status| status.blocked == Some(BlockedReason::EncodingRefused));
    if refused {
        // Nothing new is signed for it, so that it can be superseded; while what was signed is in force, it is tried.
        let now = view.head.timestamp;
        if authorizations.iter().all(|until| *until < now) {
            return Ok(Some(BlockedReason::EncodingRefused));
        }
    } else if let Some(valid_until) =
        decide::authorize(&authorizations, view.head.timestamp, config.authorization)
    {
        let signed = authorize(settler, &batch, valid_until)?;
        let written = settler
            .write(&batch, |status| {
                status.authorizations.push(signed);
                if status.attempts.is_empty() {
                    status.state = Some(BatchState::Signed);
                }
            })
            .await?;
        batch = written.unwrap_or(batch);
    }

    let blocked = send(settler, &mut batch, view).await?;
    settler
        .write(&batch, |status| status.blocked = blocked)
        .await?;
    Ok(blocked)
}

/// The lane's signature over the batch.
fn authorize(
    settler: &Settler,
    batch: &SettlementBatch,
    valid_until: u64,
) -> Result<Authorization, ActError> {
    let config = settler.lane.chain().config();
    let message = typed::Batch {
        lane: batch.spec.lane,
        seq: batch.spec.sequence,
        prev: hash(batch, "spec.previous", &batch.spec.previous)?,
        usageRoot: hash(batch, "spec.usageRoot", &batch.spec.usage_root)?,
        dataHash: hash(batch, "spec.dataHash", &batch.spec.data_hash)?,
        validUntil: valid_until,
    };
    let domain = typed::settlement_domain(config.chain_id, config.settlement.address);
    let signed = settler
        .lane
        .keys()
        .lane
        .sign(typed::digest(&message, &domain))?;
    Ok(Authorization {
        valid_until,
        signature: signature::text(&signed),
    })
}

async fn send(
    settler: &Settler,
    batch: &mut SettlementBatch,
    view: &ChainView,
) -> Result<Option<BlockedReason>, ActError> {
    let lane = &settler.lane;
    let status = batch.status.clone().unwrap_or_default();
    let Some(newest) = status.authorizations.iter().max_by_key(|a| a.valid_until) else {
        return Ok(None);
    };
    let calls: BTreeMap<u64, Call> = status
        .authorizations
        .iter()
        .map(|authorization| {
            Ok((
                authorization.valid_until,
                call(settler, batch, authorization)?,
            ))
        })
        .collect::<Result<_, ActError>>()?;
    let Some(newest) = calls.get(&newest.valid_until) else {
        return Ok(None);
    };
    let call_of = |attempt: &TransactionAttempt| calls.get(&attempt.valid_until?).cloned();
    let name = batch.name_any();
    let errand = Errand {
        name: &name,
        call: newest,
        attempts: &status.attempts,
        call_of: &call_of,
        at: view.head,
    };
    let now = (settler.context.now)();
    let before = batch.clone();
    let progress = lane
        .outbox()
        .pursue(
            lane.client(),
            lane.chain().config(),
            &errand,
            now,
            |attempt| async move {
                let written = settler
                    .write(&before, |status| {
                        status.attempts.push(attempt);
                        status.state = Some(BatchState::InFlight);
                    })
                    .await?;
                if let Some(written) = written {
                    *batch = written;
                }
                Ok(())
            },
        )
        .await?;
    Ok(match progress {
        Progress::Sent {
            new,
            obstacle,
            nonce_taken,
            ..
        } => {
            settler.metrics.sent(new);
            obstacle
                .map(decide::blocked_by)
                .or(nonce_taken.then_some(BlockedReason::NonceTaken))
        }
        Progress::Waiting(obstacle) => Some(decide::blocked_by(obstacle)),
        Progress::Refused(data) => match decide::refusal(&data) {
            Refusal::Blocked(reason) => Some(reason),
            Refusal::Moved | Refusal::Expired => None,
        },
    })
}

/// `settle` with this authorization.
fn call(
    settler: &Settler,
    batch: &SettlementBatch,
    authorization: &Authorization,
) -> Result<Call, ActError> {
    let signed = signature::parse(&authorization.signature).map_err(|_| ObserveError::Broken {
        name: batch.name_any(),
        field: "status.authorizations",
    })?;
    let (r, vs) = signature::compact(&signed);
    let input = Settlement::settleCall {
        lane: batch.spec.lane,
        seq: batch.spec.sequence,
        prev: hash(batch, "spec.previous", &batch.spec.previous)?,
        usageRoot: hash(batch, "spec.usageRoot", &batch.spec.usage_root)?,
        validUntil: authorization.valid_until,
        r,
        vs,
        data: Bytes::copy_from_slice(&batch.spec.data.0),
    }
    .abi_encode();
    Ok(Call {
        to: settler.lane.chain().config().settlement.address,
        input: input.into(),
        valid_until: Some(authorization.valid_until),
    })
}

fn hash(batch: &SettlementBatch, field: &'static str, text: &str) -> Result<B256, ActError> {
    text.parse().map_err(|_| {
        ActError::Log(ObserveError::Broken {
            name: batch.name_any(),
            field,
        })
    })
}

impl Settler {
    /// Builds the batch `sequence` of what is owed and in no batch. Returns how many entries are left for
    /// the next one, if one was built.
    pub(super) async fn build(
        &mut self,
        sequence: u64,
        view: &ChainView,
        held: &BTreeSet<u64>,
        records: Vec<UsageRecord>,
    ) -> Result<Option<usize>, ActError> {
        let config = self.lane.chain().config().clone();
        let mut candidates: Vec<Candidate> = Vec::new();
        let payable = self.payable_again(&records, view).await?;
        for record in &records {
            let state = record
                .status
                .as_ref()
                .and_then(|status| status.settlement.as_ref())
                .map(|settlement| settlement.state);
            let wanted = match state {
                Some(RecordState::Skipped) => match payable.get(&record.name_any()) {
                    Some(numbers) => Some(numbers),
                    None => continue,
                },
                // The batch of one may have been superseded; what a batch in force holds is left out below.
                None | Some(RecordState::Sealed | RecordState::Batched | RecordState::Paid) => None,
                _ => continue,
            };
            match records::owed(record, &config.name, config.lane) {
                Ok(owed) => candidates.extend(owed.into_iter().filter(|candidate| {
                    let number = candidate.entry.job_no;
                    !held.contains(&number) && wanted.is_none_or(|wanted| wanted.contains(&number))
                })),
                Err(reason) => self.needs_decision(record, &reason.to_string()).await?,
            }
        }
        self.metrics
            .waiting
            .set(i64::try_from(candidates.len()).unwrap_or(i64::MAX));
        if candidates.is_empty() {
            return Ok(None);
        }
        let superseded = observe::revisions(&self.context.client, &self.lane, sequence)
            .await?
            .superseded;
        if let Some(newest) = superseded.last() {
            let numbers = observe::content(newest)?.entries;
            let suspects = decide::suspects(&numbers.iter().map(|entry| entry.job_no).collect());
            if candidates
                .iter()
                .any(|c| suspects.contains(&c.entry.job_no))
            {
                candidates.retain(|c| suspects.contains(&c.entry.job_no));
            }
        }
        let selection = build_batch::select(candidates);
        for (number, error) in &selection.refused {
            let owner = records
                .iter()
                .find(|record| super::run::numbers_of(record).contains(number));
            if let Some(record) = owner {
                self.needs_decision(record, &error.to_string()).await?;
            }
        }
        if selection.chosen.is_empty() {
            return Ok(None);
        }
        let (_, previous) = self.lane.head(view).await?;
        let place = Place {
            chain: config.name.clone(),
            chain_id: config.chain_id,
            contract: config.settlement.address,
            lane: config.lane,
            sequence,
            previous,
            decision_head: self.decision_head(),
        };
        let mut spec = build_batch::build(&place, &selection.chosen)?;
        let name = match superseded.len() {
            0 => names::settlement_batch(config.lane, sequence),
            revision => names::settlement_batch_revision(config.lane, sequence, revision),
        };
        spec.supersedes = superseded.last().map(ResourceExt::name_any);
        self.create(SettlementBatch::new(&name, spec)).await?;
        if let Some(before) = superseded.last() {
            self.write(before, |status| status.superseded_by = Some(name))
                .await?;
        }
        let waiting = selection.left;
        self.metrics
            .waiting
            .set(i64::try_from(waiting).unwrap_or(i64::MAX));
        Ok(Some(waiting))
    }

    /// The head of the decision log, as the stored jobs show it.
    fn decision_head(&self) -> B256 {
        let jobs = self.context.caches.compute_jobs.state();
        DecisionLog::recover(parsed(&jobs)).seed().previous_decision
    }

    pub(super) async fn create(&mut self, batch: SettlementBatch) -> Result<(), ActError> {
        let name = batch.name_any();
        let created = Api::<SettlementBatch>::all(self.context.client.clone())
            .create(
                &PostParams {
                    field_manager: Some(names::MANAGER_SETTLEMENT.to_owned()),
                    ..PostParams::default()
                },
                &batch,
            )
            .await;
        match created {
            Ok(batch) => tracing::info!(
                batch = name,
                records = batch.spec.record_count,
                total = %batch.spec.total,
                "a batch is prepared"
            ),
            // Another leader was faster, or the answer of an earlier attempt was lost: the log says what it holds.
            Err(kube::Error::Api(status)) if status.is_already_exists() => {
                let sequence = batch.spec.sequence;
                let there = observe::batch(&self.context.client, &self.lane, sequence).await?;
                let state = there.and_then(|batch| batch.status?.state);
                if state == Some(BatchState::Final) {
                    self.metrics.halted.set(1);
                    return Err(ActError::FinalReversed { name });
                }
                tracing::info!(batch = name, "the batch exists already");
            }
            Err(source) => {
                return Err(ActError::Create {
                    name,
                    source: Box::new(source),
                });
            }
        }
        self.mark_busy();
        Ok(())
    }

    /// A person must look at this record.
    pub(super) async fn needs_decision(
        &self,
        record: &UsageRecord,
        why: &str,
    ) -> Result<(), ActError> {
        tracing::error!(record = record.name_any(), why, "a record cannot be paid");
        let settlement = RecordSettlement {
            state: RecordState::NeedsDecision,
            batch: None,
            amount: None,
            transaction: None,
            block: None,
            skipped: None,
            archive_hash: None,
        };
        status::write_record(
            &self.context.client,
            &self.context.metrics,
            record,
            settlement,
        )
        .await?;
        self.context
            .events
            .publish(
                record,
                kube::runtime::events::EventType::Warning,
                "NeedsDecision",
                "Settle",
                why,
            )
            .await;
        Ok(())
    }

    /// Of the records that were left out: those that would be paid now, with their numbers that are not paid yet.
    async fn payable_again(
        &mut self,
        records: &[UsageRecord],
        view: &ChainView,
    ) -> Result<BTreeMap<String, BTreeSet<u64>>, ActError> {
        self.retried.retain(|_, at| at.elapsed() < RETRY);
        let config = self.lane.chain().config().clone();
        let reader = self.lane.reader();
        let mut payable = BTreeMap::new();
        let mut balances: BTreeMap<u32, u128> = BTreeMap::new();
        let mut active: BTreeMap<u32, bool> = BTreeMap::new();
        for record in records {
            let skipped = record
                .status
                .as_ref()
                .and_then(|status| status.settlement.as_ref())
                .filter(|settlement| settlement.state == RecordState::Skipped)
                .and_then(|settlement| settlement.skipped);
            let name = record.name_any();
            if skipped.is_none() || self.retried.contains_key(&name) {
                continue;
            }
            let Ok(owed) = records::owed(record, &config.name, config.lane) else {
                continue;
            };
            let mut numbers = BTreeSet::new();
            for candidate in owed {
                let entry = candidate.entry;
                // Accounts are read once, however many records they keep waiting.
                if let Entry::Vacant(place) = active.entry(entry.provider) {
                    place.insert(reader.is_active(entry.provider, view.head.hash).await?);
                }
                if let Entry::Vacant(place) = balances.entry(entry.payer) {
                    let payers = reader.payers([entry.payer], view.head.hash).await?;
                    let payer = payers.into_values().next().flatten();
                    place.insert(payer.map_or(0, |payer| payer.balance.into()));
                }
                let amount = u128::from(entry.units) * u128::from(entry.price) / 1_000_000_000;
                let balance = balances.get(&entry.payer).copied().unwrap_or(0);
                let Some(rest) = balance.checked_sub(amount).filter(|_| balance > 0) else {
                    continue;
                };
                if active.get(&entry.provider) != Some(&true)
                    || reader.is_paid(entry.job_no, view.head.hash).await?
                {
                    continue;
                }
                balances.insert(entry.payer, rest);
                numbers.insert(entry.job_no);
            }
            if !numbers.is_empty() {
                tracing::info!(
                    record = name,
                    reason = skipped.map(SkipReason::as_str),
                    "a record that was left out can be paid"
                );
                self.retried.insert(name.clone(), Instant::now());
                payable.insert(name, numbers);
            }
        }
        Ok(payable)
    }
}
