//! Signs, stores, sends; builds the next batch.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use alloy::{
    primitives::{B256, Bytes},
    sol_types::SolCall as _,
};
use gridstake_crds::{
    SettlementBatch, SettlementBatchSpec, UsageRecord, names,
    settlement_batch::{BatchState, BlockedReason},
    transaction::{Authorization, TransactionAttempt},
    usage_record::RecordState,
};
use gridstake_ledger::{batch::Entry, signature, typed};
use kube::{Api, ResourceExt, api::PostParams};

use super::{
    build_batch::{self, BuildError, Candidate, Place},
    decide::{self, Refusal},
    observe::{self, ObserveError},
    outbox::{Errand, Progress, PursueError},
    payable::{self, Due},
    planner::{self, Decision, Offer, Why},
    records,
    run::{Held, Settler},
    signer::SignError,
    statements, status,
    transaction::Call,
};
use crate::{
    Context,
    caches::parsed,
    chain::{ChainView, client::ClientError, contracts::Settlement},
    controllers::{
        incident::hold, placement::log::DecisionLog, usage_record::numbers::NumbersError,
        verification_group,
    },
    status::{Guard, StatusError},
};

/// After how long a record that the contract has left out is tried again at the earliest.
pub(super) const RETRY: Duration = Duration::from_mins(10);

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
    /// Those of `records` whose payment nothing holds back.
    pub(super) fn not_held_back(&self, mut records: Vec<UsageRecord>) -> Vec<UsageRecord> {
        let (caches, now) = (&self.context.caches, (self.context.now)());
        let held_back = hold::held_back(caches);
        records.retain(|record| {
            !held_back.contains_key(&record.name_any())
                && verification_group::undecided_result(caches, record, now).is_none()
        });
        records
    }

    /// Builds the batch `sequence`, which follows from the lane's chain hash `previous`, of what is owed and would be paid and
    /// of what is to be stated, if that is worth its fee. Returns how much is left for the next one, if one was built.
    ///
    /// `previous` is what the log was compared with. It is not asked for again: an endpoint that mines meanwhile may answer
    /// otherwise, and what is in the log for good would not follow from the batch before it.
    pub(super) async fn build(
        &mut self,
        sequence: u64,
        previous: B256,
        view: &ChainView,
        held: &Held,
        records: Vec<UsageRecord>,
    ) -> Result<Option<usize>, ActError> {
        let config = self.lane.chain().config().clone();
        self.due_ms = None;
        self.metrics.planner_waits.set(0);
        let dues = self.payable(&records, &held.numbers, view).await?;
        self.metrics
            .waiting
            .set(i64::try_from(dues.len()).unwrap_or(i64::MAX));
        let stated = self.lane.statements().due(&held.statements);
        if dues.is_empty() && !stated.ask_for_a_batch() {
            return Ok(None);
        }
        let superseded = observe::revisions(&self.context.client, &self.lane, sequence)
            .await?
            .superseded;
        let mut candidates: Vec<Candidate> = dues.iter().map(|due| due.candidate).collect();
        if let Some(newest) = superseded.last() {
            let numbers = observe::content(newest)?.entries;
            let suspects = decide::suspects(&numbers.iter().map(|entry| entry.job_no).collect());
            let mut suspected = candidates.clone();
            suspected.retain(|candidate| suspects.contains(&candidate.entry.job_no));
            if !payable::with_their_use(suspected.clone(), &dues).is_empty() {
                candidates = suspected;
            }
        }
        let selection = build_batch::select(candidates, &stated.statements);
        for (number, error) in &selection.refused {
            let owner = records
                .iter()
                .find(|record| super::run::numbers_of(record).contains(number));
            if let Some(record) = owner {
                needs_decision(&self.context, record, &error.to_string()).await?;
            }
        }
        let chosen = payable::with_their_use(selection.chosen, &dues);
        if chosen.is_empty() && !stated.ask_for_a_batch() {
            return Ok(None);
        }
        let place = Place {
            chain: config.name.clone(),
            chain_id: config.chain_id,
            contract: config.settlement.address,
            lane: config.lane,
            sequence,
            previous,
            decision_head: self.decision_head(),
        };
        let mut spec = build_batch::build(&place, &chosen, &stated.statements)?;
        let Some(why) = self
            .weigh(&spec, &chosen, &dues, &stated, selection.left > 0)
            .await?
        else {
            return Ok(None);
        };
        let name = names::settlement_batch_revision(config.lane, sequence, superseded.len());
        spec.supersedes = superseded.last().map(ResourceExt::name_any);
        self.create(SettlementBatch::new(&name, spec)).await?;
        let numbers: BTreeSet<u64> = chosen.iter().map(|c| c.entry.job_no).collect();
        let in_it = dues.iter().filter(|due| numbers.contains(&due.number()));
        let oldest_ms = in_it.map(|due| due.ended_ms).min();
        self.oldest_in.insert(name.clone(), oldest_ms);
        self.metrics.built(why);
        self.remember_what_is_tried_again(&chosen, &records);
        if let Some(before) = superseded.last() {
            self.write(before, |status| status.superseded_by = Some(name))
                .await?;
        }
        let waiting = dues.len() - chosen.len();
        self.metrics
            .waiting
            .set(i64::try_from(waiting).unwrap_or(i64::MAX));
        // More may have to be stated than one batch says.
        let unsaid = usize::from(stated.statements.len() == statements::MOST);
        Ok(Some(waiting + unsaid))
    }

    /// Why the batch `spec` of `chosen` and what is `stated` is to be built; `None` if more is to be gathered first. `full`:
    /// more is waiting than fits.
    async fn weigh(
        &mut self,
        spec: &SettlementBatchSpec,
        chosen: &[Candidate],
        dues: &[Due],
        stated: &statements::Due,
        full: bool,
    ) -> Result<Option<Why>, ActError> {
        let config = self.lane.chain().config().clone();
        let entries: Vec<Entry> = chosen.iter().map(|candidate| candidate.entry).collect();
        let numbers: BTreeSet<u64> = entries.iter().map(|entry| entry.job_no).collect();
        let ended = dues
            .iter()
            .filter(|due| numbers.contains(&due.number()))
            .map(|due| due.ended_ms)
            .chain(stated.oldest_ms);
        let offer = Offer {
            total: spec.total.nano(),
            oldest_ms: ended.min().unwrap_or(0),
            full,
            urgent: stated.urgent,
            gas: planner::expected_gas(&entries, stated.statements.len(), &spec.data.0),
        };
        let now_ms = self.now_ms();
        if let Some(why) = planner::at_any_price(&config.planner, &offer, now_ms) {
            return Ok(Some(why));
        }
        let client = self.lane.client();
        let tip = client
            .suggested_tip()
            .await?
            .max(config.fees.min_priority_fee_per_gas.get());
        let wei_per_gas = client.base_fee().await?.saturating_add(tip);
        match planner::decide(&config.planner, &offer, wei_per_gas, now_ms) {
            Decision::Build(why) => Ok(Some(why)),
            Decision::Wait { until_ms } => {
                tracing::debug!(
                    entries = entries.len(),
                    total = %spec.total,
                    worth_wei = %planner::worth(&config.planner, &offer),
                    fee_wei = %planner::fee(&offer, wei_per_gas),
                    multiple = config.planner.min_gain_multiple,
                    until_ms,
                    "a batch waits: it would pay too little for its fee"
                );
                self.metrics.planner_waits.set(1);
                self.due_ms = Some(until_ms);
                Ok(None)
            }
        }
    }

    /// Of what goes into a batch: that which the contract has left out before is not tried again for a while.
    fn remember_what_is_tried_again(&mut self, chosen: &[Candidate], records: &[UsageRecord]) {
        let numbers: BTreeSet<u64> = chosen.iter().map(|c| c.entry.job_no).collect();
        for record in records {
            let settlement = record.status.as_ref().and_then(|s| s.settlement.as_ref());
            let tried = settlement.is_some_and(records::was_left_out_on_chain);
            let in_it = super::run::numbers_of(record)
                .iter()
                .any(|number| numbers.contains(number));
            if tried && in_it {
                let name = record.name_any();
                tracing::info!(record = name, "a record that was left out is tried again");
                self.retried.insert(name, Instant::now());
            }
        }
    }

    /// The head of the decision log, as the stored jobs show it.
    fn decision_head(&self) -> B256 {
        let jobs = self.context.caches.compute_jobs.state();
        DecisionLog::recover(parsed(&jobs)).head()
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
                statements = batch.spec.statement_count,
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
}

/// A person must look at this record.
pub(super) async fn needs_decision(
    context: &Context,
    record: &UsageRecord,
    why: &str,
) -> Result<(), ActError> {
    tracing::error!(record = record.name_any(), why, "a record cannot be paid");
    let settlement = records::in_no_batch(RecordState::NeedsDecision);
    status::write_record(
        &context.client,
        &context.metrics,
        record,
        settlement,
        Guard::None,
    )
    .await?;
    context
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
