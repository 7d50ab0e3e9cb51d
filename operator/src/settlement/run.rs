//! A lane's loop: one task a lane, on the leader.
//!
//! Each look at the chain is one pass: observe the log and the chain, decide, act, write. Nothing but the log and the
//! chain is relied on; what is remembered between passes only saves reads. Two leaders do no harm: the name of a batch
//! is the lock on its number, its status is written by compare-and-swap, and the chain takes each number once.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use alloy::primitives::B256;
use gridstake_crds::{
    SettlementBatch, UsageRecord,
    closed_enum::ClosedEnum as _,
    settlement_batch::{BatchState, BlockedReason},
};
use kube::{ResourceExt as _, runtime::events::EventType};
use tokio_util::sync::CancellationToken;

use super::{
    Lane,
    act::{self, ActError},
    decide::{self, ChainFacts, Halt, Plan},
    lapse::{self, LapseError},
    metrics::SettlementMetrics,
    observe::{self, Found, ObserveError},
    outcome,
    statements::Unmined,
    status,
    tell::{self, Desk, Teller, Telling},
};
use crate::{
    Context,
    chain::{Block, ChainView, Standing},
    error::chain as causes,
    status::StatusError,
};

/// How many records are written at once.
pub(super) const WRITES: usize = 8;
/// How often records are looked for although nobody announced one.
const LOOK_AROUND: Duration = Duration::from_mins(1);
/// The longest pause between two passes.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How soon a batch that is under way is looked at again although the chain says nothing new: an endpoint may have forgotten its
/// transaction, and what waits may be worth its fee by now.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// Why a pass failed. The next one begins anew.
#[derive(Debug, thiserror::Error)]
pub enum PassError {
    /// Something could not be read.
    #[error("observe the lane")]
    Observe(#[from] ObserveError),
    /// A batch could not be brought further.
    #[error("act for the lane")]
    Act(#[from] ActError),
    /// The chain's endpoint lags behind: nothing follows from what it says.
    #[error(
        "the newest block is {head}, below block {found_at} in which batch {sequence} was found: the endpoint lags behind"
    )]
    Behind {
        /// The batch.
        sequence: u64,
        /// Where it was found.
        found_at: u64,
        /// The newest block.
        head: u64,
    },
    /// A status could not be written.
    #[error("write a status of the lane")]
    Status(#[from] StatusError),
    /// It is not known whether batches may have been lost.
    #[error("look at what may have been lost")]
    Lapse(#[from] LapseError),
}

impl PassError {
    /// A static word for metrics.
    #[must_use]
    pub fn category(&self) -> &'static str {
        match self {
            Self::Observe(error) => error.category(),
            Self::Act(error) => error.category(),
            Self::Behind { .. } => "behind",
            Self::Status(_) => "apply_status",
            Self::Lapse(error) => error.category(),
        }
    }

    /// Logs and counts it; `what` did not go through.
    pub(super) fn report(&self, lane: &Lane, what: &str) {
        lane.metrics().failed(self.category());
        let (chain, error) = (lane.chain().name(), causes(self));
        let is_conflict = match self {
            Self::Status(error) => error.is_conflict(),
            Self::Act(error) => error.is_conflict(),
            _ => false,
        };
        if is_conflict {
            tracing::debug!(chain, error, "somebody else has written the log");
        } else {
            tracing::warn!(chain, error, category = self.category(), "{what}");
        }
    }
}

/// Runs `lane` until `stop`.
pub async fn run(context: Context, lane: Lane, stop: CancellationToken) {
    let settler = Settler::new(context, lane);
    let teller = settler.teller();
    tokio::join!(teller.run(stop.clone()), Box::pin(settler.run(stop)));
}

/// What the loop remembers.
pub struct Settler {
    pub(super) context: Context,
    pub(super) lane: Lane,
    pub(super) metrics: SettlementMetrics,
    /// What the log's batches have stated is known up to this one.
    recalled: Option<u64>,
    /// Whether the log had only final batches when it was last read.
    quiet: bool,
    /// The newest block at the last pass that went through.
    head: Option<Block>,
    /// What the last pass that went through went by.
    seen: Option<Seen>,
    /// Since when records have been waiting for a batch.
    waiting_since: Option<Instant>,
    /// How many records have been announced.
    pub(super) announced: u64,
    /// How many of them when the last batch was built.
    announced_before: u64,
    looked_around: Option<Instant>,
    /// Until when what waits may wait for a batch that is worth its fee, in Unix milliseconds.
    pub(super) due_ms: Option<u64>,
    /// When records that the contract had left out were last put into a batch again.
    pub(super) retried: HashMap<String, Instant>,
    /// When the oldest record ended that is not final, in Unix milliseconds.
    oldest_ms: Option<u64>,
    /// The same of the batches under way that this replica has built, by name.
    pub(super) oldest_in: BTreeMap<String, Option<u64>>,
    /// When all records were listed whose payment is not final.
    listed_all: Option<Instant>,
    pub(super) activation: super::activation::Activation,
    pub(super) reporting: super::report::Reporting,
    pub(super) halted: Option<Halt>,
    pub(super) drift: super::drift::LedgerDrift,
    pub(super) lapse: lapse::Memory,
    pub(super) explained: super::explained::Memory,
    desk: Desk,
    /// How often all records of a batch had been told the last that there is to tell, before the last pass.
    last_told: u64,
    /// When the doubts were last looked at.
    pub(super) doubts_at: Option<Instant>,
    /// How many records had been announced then.
    pub(super) doubts_announced: u64,
}

/// What a pass went by.
struct Seen {
    view: Arc<ChainView>,
    /// Whether records were looked for, and some may wait still.
    gathered: bool,
    at: Instant,
}

impl Settler {
    /// A loop that remembers nothing.
    #[must_use]
    pub fn new(context: Context, lane: Lane) -> Self {
        Self {
            metrics: lane.metrics().clone(),
            context,
            lane,
            recalled: None,
            quiet: false,
            head: None,
            seen: None,
            waiting_since: None,
            announced: 0,
            announced_before: 0,
            looked_around: None,
            due_ms: None,
            retried: HashMap::new(),
            oldest_ms: None,
            oldest_in: BTreeMap::new(),
            listed_all: None,
            activation: super::activation::Activation::default(),
            reporting: super::report::Reporting::default(),
            halted: None,
            drift: super::drift::LedgerDrift::default(),
            lapse: lapse::Memory::default(),
            explained: super::explained::Memory::default(),
            desk: Desk::default(),
            last_told: 0,
            doubts_at: None,
            doubts_announced: 0,
        }
    }

    /// Who tells the records what the passes find.
    #[must_use]
    pub fn teller(&self) -> Teller {
        let (context, lane) = (self.context.clone(), self.lane.clone());
        Teller::new(context, lane, self.desk.clone())
    }

    /// Passes over the lane until `stop`, while somebody else lets its [`Teller`] tell.
    pub async fn run(mut self, stop: CancellationToken) {
        tracing::info!(chain = self.lane.chain().name(), "settlement begins");
        let mut views = self.lane.chain().views();
        let mut sealed = self.lane.sealed();
        let mut stated = self.lane.statements().news();
        let mut told = self.desk.last_tellings();
        while !stop.is_cancelled() {
            let pass = async {
                if self.context.leadership.holds() {
                    self.look_around().await;
                }
            };
            // What a pass does is stored before it counts: it can be cut off at any point.
            if Box::pin(stop.run_until_cancelled(pass)).await.is_none() {
                break;
            }
            loop {
                tokio::select! {
                    () = stop.cancelled() => break,
                    // An error means that the sender is gone, which it never is: the lane holds it.
                    _ = views.changed() => {}
                    _ = told.changed() => {}
                    _ = sealed.changed() => {
                        let count = *sealed.borrow_and_update();
                        self.records_announced(count);
                    }
                    _ = stated.changed() => {
                        stated.mark_unchanged();
                        self.statements_announced();
                    }
                    () = tokio::time::sleep(self.pause()) => break,
                }
                if self.has_news() {
                    break;
                }
            }
        }
        tracing::info!(chain = self.lane.chain().name(), "settlement ends");
    }

    /// So many records have been announced in all; they are looked for when `window` is over.
    pub fn records_announced(&mut self, count: u64) {
        self.announced = count;
        self.waiting_since.get_or_insert_with(Instant::now);
    }

    /// Something is to be stated; a batch is built when `window` is over.
    pub fn statements_announced(&mut self) {
        self.waiting_since.get_or_insert_with(Instant::now);
    }

    /// Looks for weeks that are over in the next pass.
    pub fn look_at_weeks(&mut self) {
        self.reporting.look_again();
    }

    /// A batch is under way.
    pub(super) fn mark_busy(&mut self) {
        self.quiet = false;
    }

    /// One pass, and what follows from it for the records: what the loop and its teller do beside each other, one after the other.
    pub async fn one_pass(&mut self) {
        let teller = self.teller();
        loop {
            Box::pin(self.look_around()).await;
            Box::pin(teller.tell_all()).await;
            if self.desk.last_told() == self.last_told {
                break;
            }
        }
    }

    /// One pass, of which the [`Teller`] tells the records; a failure is logged and counted.
    pub async fn look_around(&mut self) {
        self.last_told = self.desk.last_told();
        let outcome = self.pass().await;
        let now = (self.context.now)().as_millisecond();
        let age = self.oldest_ms.map_or(0, |oldest| {
            now.saturating_sub(i64::try_from(oldest).unwrap_or(i64::MAX)) / 1000
        });
        self.metrics.oldest_seconds.set(age.max(0));
        if let Err(error) = outcome {
            self.head = None;
            self.seen = None;
            error.report(&self.lane, "a pass over the lane failed");
        }
    }

    /// The time, in Unix milliseconds.
    pub(super) fn now_ms(&self) -> u64 {
        u64::try_from((self.context.now)().as_millisecond()).unwrap_or(0)
    }

    /// Whether another pass could do what the last one could not.
    fn has_news(&self) -> bool {
        let Standing::InForce(view) = self.lane.chain().standing((self.context.now)()) else {
            return true;
        };
        let Some(seen) = &self.seen else {
            return true;
        };
        let is_gathered = self.is_gathered();
        let is_under_way = !self.quiet || is_gathered;
        self.desk.last_told() != self.last_told
            || seen.view.head != view.head
            || !seen.view.same_content(&view)
            || is_gathered && !seen.gathered
            || self.may_end_doubts()
            || is_under_way && seen.at.elapsed() >= LOOK_AGAIN
    }

    /// How long to wait for news at most: until what waits has waited long enough. While the chain is away that may be over.
    fn pause(&self) -> Duration {
        let left = self.due_ms.map_or(LONGEST_PAUSE, |due| {
            Duration::from_millis(due.saturating_sub(self.now_ms()))
        });
        left.max(self.lane.chain().config().poll).min(LONGEST_PAUSE)
    }

    /// Whether records are to be looked for now.
    pub(super) fn is_gathered(&self) -> bool {
        let window = self.lane.chain().config().window;
        let news = self.announced.saturating_sub(self.announced_before);
        let full = news >= super::build_batch::MOST_RECORDS as u64;
        let due = self.due_ms.is_some_and(|due| self.now_ms() >= due);
        full || due
            || self
                .waiting_since
                .is_some_and(|since| since.elapsed() >= window)
            || self
                .looked_around
                .is_none_or(|at| at.elapsed() >= LOOK_AROUND)
    }

    async fn pass(&mut self) -> Result<(), PassError> {
        self.note_lapse().await?;
        let view = match self.lane.chain().standing((self.context.now)()) {
            Standing::InForce(view) => view,
            Standing::Unavailable(_) => {
                return self.all_blocked(BlockedReason::ChainUnavailable).await;
            }
            Standing::Mismatch(_) => {
                return self.all_blocked(BlockedReason::ContractMismatch).await;
            }
        };
        if !self.quiet || self.is_gathered() || self.may_end_doubts() {
            // A batch that was built just now is sent at once.
            if self.look(&view).await? {
                self.look(&view).await?;
            }
        }
        if self.head != Some(view.head) {
            if self.halted.is_none() {
                self.report_weeks(&view).await;
            }
            self.activate(&view).await;
            self.measure_gas(&view).await;
            self.head = Some(view.head);
        }
        self.seen = Some(Seen {
            view,
            gathered: self.is_gathered(),
            at: Instant::now(),
        });
        Ok(())
    }

    /// Looks at the log and the chain once, and does what follows. Returns whether a batch was built.
    async fn look(&mut self, view: &ChainView) -> Result<bool, PassError> {
        let open = observe::open_batches(&self.context.client, &self.lane).await?;
        let (seq, chain_hash) = self.lane.head(view).await.map_err(ObserveError::Chain)?;
        let mut log = open.clone();
        // The one after the last may be final in the log: then final blocks are gone.
        for number in [seq, seq + 1] {
            if number > 0 && !log.iter().any(|batch| batch.spec.sequence == number) {
                log.extend(observe::batch(&self.context.client, &self.lane, number).await?);
            }
        }
        // If the last one is not ours, the one before it may be: it is told what was found.
        if seq > 1 && !log.iter().any(|batch| batch.spec.sequence + 1 >= seq) {
            log.extend(observe::batch(&self.context.client, &self.lane, seq - 1).await?);
        }
        // A batch that is under way and was not listed was written since: what it holds would go into another one.
        let is_final = |batch: &SettlementBatch| {
            batch.status.as_ref().and_then(|status| status.state) == Some(BatchState::Final)
        };
        if log[open.len()..].iter().any(|batch| !is_final(batch)) {
            return Ok(true);
        }
        let logged = log
            .iter()
            .map(observe::logged)
            .collect::<Result<Vec<_>, _>>()?;
        let head = view.head.number;
        if let Some(batch) = decide::ahead_of(&logged, head) {
            return Err(PassError::Behind {
                sequence: batch.sequence,
                found_at: batch.found_at.unwrap_or(head),
                head,
            });
        }
        let found = self.found(&open, seq, view).await?;
        let facts = ChainFacts {
            seq,
            chain_hash,
            safe: view.safe.number,
            finalized: view.finalized.number,
            finalized_at: view.finalized.timestamp,
            included: found
                .iter()
                .map(|(seq, found)| (*seq, found.inclusion.block.number))
                .collect(),
        };
        let plan = match decide::plan(&logged, &facts) {
            Ok(plan) => plan,
            Err(halt @ (Halt::UnknownSettlement { .. } | Halt::Forked { .. })) => {
                self.lane.disagrees();
                self.adopt(halt, &log, view).await?;
                return Ok(false);
            }
            Err(halt) => {
                self.lane.disagrees();
                self.halt(halt, &log).await?;
                return Ok(false);
            }
        };
        self.metrics.halted.set(0);
        self.halted = None;
        for batch in log.iter().filter(|batch| !open.contains(batch)) {
            if batch.status.as_ref().and_then(|status| status.blocked)
                == Some(BlockedReason::Halted)
            {
                self.write(batch, |status| status.blocked = None).await?;
            }
        }
        self.look_at_lapse(&log, &plan, view).await?;
        self.look_at_doubts(view).await?;
        self.recall_statements(&log, seq).await?;
        self.look_for_drift(&open, view).await;
        self.follow(&plan, chain_hash, open, &found, view).await
    }

    /// Finds out what the log's batches have stated, at first and when `seq`, the lane's last one, shows that another leader
    /// has built some that are not in `log`. Whoever wrote that they are final may have died before it told the GpuNodes.
    async fn recall_statements(
        &mut self,
        log: &[SettlementBatch],
        seq: u64,
    ) -> Result<(), PassError> {
        let is_there = |number| log.iter().any(|batch| batch.spec.sequence == number);
        if self.recalled.is_some_and(|to| (to + 1..=seq).all(is_there)) {
            self.recalled = Some(seq);
            return Ok(());
        }
        let mut said = BTreeMap::new();
        observe::each_batch(&self.context.client, &self.lane, |batch| {
            let state = batch.status.as_ref().and_then(|status| status.state);
            if batch.spec.statement_count > 0 && state.is_some_and(BatchState::is_on_chain) {
                said.insert(batch.spec.sequence, observe::content(&batch)?.statements);
            }
            Ok(())
        })
        .await?;
        self.lane.statements().recall(said.into_values().flatten());
        self.recalled = Some(seq);
        Ok(())
    }

    /// What the gas account has.
    async fn measure_gas(&self, view: &ChainView) {
        let gas = self.lane.outbox().address();
        if let Ok(wei) = self.lane.client().balance(gas, view.head.hash).await {
            let gwei = i64::try_from(wei / 1_000_000_000).unwrap_or(i64::MAX);
            self.metrics.gas_balance_gwei.set(gwei);
        }
    }

    /// The lane's sealed records whose payment is not final.
    pub(super) async fn unsettled(&self) -> Result<Vec<UsageRecord>, ObserveError> {
        let (client, namespace) = (&self.context.client, &self.context.namespace);
        observe::unsettled(client, namespace, &self.lane).await
    }

    /// The lane's sealed records that wait for a batch; now and then, and if this replica has not built all that are `open`, all whose
    /// payment is not final.
    async fn waiting(
        &mut self,
        open: &[SettlementBatch],
    ) -> Result<Vec<UsageRecord>, ObserveError> {
        let is_known = |batch: &SettlementBatch| self.oldest_in.contains_key(&batch.name_any());
        let is_recent = |at: Instant| at.elapsed() < LOOK_AROUND;
        if self.listed_all.is_some_and(is_recent) && open.iter().all(is_known) {
            let (client, namespace) = (&self.context.client, &self.context.namespace);
            return observe::waiting(client, namespace, &self.lane).await;
        }
        self.listed_all = Some(Instant::now());
        self.unsettled().await
    }

    /// Where the batches that the lane's head has reached are on the chain.
    async fn found(
        &self,
        open: &[SettlementBatch],
        seq: u64,
        view: &ChainView,
    ) -> Result<BTreeMap<u64, Found>, ObserveError> {
        let mut found = BTreeMap::new();
        for batch in open.iter().filter(|batch| batch.spec.sequence <= seq) {
            if let Some(inclusion) = observe::find(&self.lane, batch, &view.head).await? {
                found.insert(batch.spec.sequence, inclusion);
            }
        }
        Ok(found)
    }

    /// Does what the plan says; `chain_hash` is the lane's that it was made by.
    async fn follow(
        &mut self,
        plan: &Plan,
        chain_hash: B256,
        open: Vec<SettlementBatch>,
        found: &BTreeMap<u64, Found>,
        view: &ChainView,
    ) -> Result<bool, PassError> {
        let gathered = self.is_gathered() && plan.build.is_some();
        let records = if gathered {
            Some(self.waiting(&open).await?)
        } else {
            None
        };
        let open = Arc::new(open);
        self.desk.keep(&open);
        let is_open = |name: &String| open.iter().any(|batch| batch.name_any() == *name);
        self.oldest_in.retain(|name, _| is_open(name));
        let mut states = Vec::new();
        let mut blocked = Vec::new();
        let mut superseded = false;
        for batch in open.iter() {
            let Some(mut state) = plan.states.get(&batch.spec.sequence).copied() else {
                continue;
            };
            let place = found.get(&batch.spec.sequence);
            superseded |= state == BatchState::Superseded;
            let is_told = self.desk.is_told(batch, state);
            if !is_told {
                self.desk.ask(Telling {
                    batch: batch.clone(),
                    state,
                    found: place.cloned(),
                    open: Arc::clone(&open),
                    head: view.head.hash,
                });
            }
            if tell::is_over(state) && !is_told {
                if state == BatchState::Superseded {
                    continue;
                }
                // It is on the chain for all that depends on that.
                state = BatchState::Safe;
            }
            let written = self.advance(batch, state, place, plan).await?;
            let batch = written.as_ref().unwrap_or(batch);
            let reason = if plan.pursue == Some(batch.spec.sequence) {
                self.pursue(batch, view).await?
            } else {
                blocked_by(batch)
            };
            if !matches!(state, BatchState::Final | BatchState::Superseded) {
                states.push(state);
                blocked.extend(reason);
            }
        }
        self.quiet = states.is_empty() && !superseded;
        self.metrics.open(states);
        self.metrics.blocked(blocked);
        if let (Some(sequence), Some(records)) = (plan.build.filter(|_| gathered), records) {
            // Of what has become final just now the records were read before they were told; and what is in doubt may have been
            // sealed as it was since the doubts were looked at.
            let mut numbers = held_by(open.iter())?;
            numbers.extend(
                self.lane
                    .doubts()
                    .iter()
                    .flat_map(|doubts| doubts.numbers()),
            );
            let held = Held {
                numbers,
                statements: unmined_statements(&open)?,
            };
            let records = self.not_held_back(records);
            let ends = records
                .iter()
                .filter_map(|record| Some(record.status.as_ref()?.sealed.as_ref()?.end_ms));
            let in_batches = self.oldest_in.values().copied().flatten();
            self.oldest_ms = ends.chain(in_batches).min();
            self.looked_around = Some(Instant::now());
            self.announced_before = self.announced;
            let left = self
                .build(sequence, chain_hash, view, &held, records)
                .await?;
            let more = left.is_some_and(|left| left > 0);
            self.waiting_since = more.then(|| self.waiting_since.unwrap_or_else(Instant::now));
            return Ok(left.is_some());
        }
        Ok(false)
    }

    /// Writes a batch's state, and tells of it.
    pub(super) async fn advance(
        &mut self,
        batch: &SettlementBatch,
        state: BatchState,
        found: Option<&Found>,
        plan: &Plan,
    ) -> Result<Option<SettlementBatch>, PassError> {
        let on_chain = state.is_on_chain();
        if batch.spec.statement_count > 0 {
            let said = observe::content(batch)?.statements;
            let nodes = if on_chain {
                self.lane.statements().stated(&said)
            } else {
                self.lane.statements().not_mined(&said)
            };
            for node in nodes {
                self.context.caches.look_at_gpu_node(&node);
            }
            if state == BatchState::Final {
                self.reporting.look_again();
            }
        }
        let waits = plan.waiting.contains(&batch.spec.sequence);
        let before = batch.status.clone().unwrap_or_default();
        let written = self
            .write(batch, |status| {
                status.state = Some(state);
                status.inclusion = found.map(|found| found.inclusion.clone()).or_else(|| {
                    status
                        .inclusion
                        .take()
                        .filter(|_| state == BatchState::Final)
                });
                status.outcome = found
                    .map(|found| found.settled.outcome.clone())
                    .or_else(|| status.outcome.take().filter(|_| state == BatchState::Final));
                if waits {
                    status.blocked = Some(BlockedReason::WaitingForPrevious);
                } else if on_chain
                    || state == BatchState::Superseded
                    || matches!(
                        status.blocked,
                        Some(BlockedReason::WaitingForPrevious | BlockedReason::Halted)
                    )
                {
                    status.blocked = None;
                }
            })
            .await?;
        if on_chain || state == BatchState::Superseded {
            self.lane.outbox().done(&batch.name_any());
        }
        if before.state != Some(state) && written.is_some() {
            if state == BatchState::Final {
                self.lane.announce_final(batch.name_any());
            }
            self.tell(batch, before.state.as_ref(), state, found).await;
        }
        Ok(written)
    }

    async fn tell(
        &self,
        batch: &SettlementBatch,
        before: Option<&BatchState>,
        state: BatchState,
        found: Option<&Found>,
    ) {
        let gone_back = before.is_some_and(|before| *before > state)
            && matches!(
                state,
                BatchState::Prepared | BatchState::Signed | BatchState::InFlight
            );
        let (type_, reason, note) = if gone_back {
            (
                EventType::Warning,
                "Reorganised",
                "the block that held the batch was reorganised away; it is sent again".to_owned(),
            )
        } else if state == BatchState::Final {
            if let Some(found) = found {
                let gas = found.inclusion.gas_used.unwrap_or(0);
                self.metrics.gas_used.inc_by(gas);
                let price: u128 = found
                    .inclusion
                    .effective_gas_price
                    .as_deref()
                    .and_then(|price| price.parse().ok())
                    .unwrap_or(0);
                let gwei = price.saturating_mul(gas.into()) / 1_000_000_000;
                self.metrics
                    .fees_gwei
                    .inc_by(u64::try_from(gwei).unwrap_or(u64::MAX));
                if let Ok(content) = observe::content(batch) {
                    let paid = outcome::paid_use(&content.entries, &found.settled.skipped);
                    self.metrics.paid_gpu_seconds.inc_by(paid.as_secs_f64());
                }
            }
            let outcome = found.map(|found| &found.settled.outcome);
            let (paid, skipped) = outcome.map_or((0, 0), |outcome| (outcome.paid, outcome.skipped));
            (
                EventType::Normal,
                "Final",
                format!("{paid} records are paid, {skipped} were left out"),
            )
        } else if state == BatchState::Included {
            (
                EventType::Normal,
                "Included",
                "the batch is in a block".to_owned(),
            )
        } else if state == BatchState::Superseded {
            (
                EventType::Warning,
                "Superseded",
                "the batch can never be mined: another one takes its number".to_owned(),
            )
        } else {
            return;
        };
        tracing::info!(batch = batch.name_any(), reason, note, "a batch has moved");
        self.context
            .events
            .publish(batch, type_, reason, "Settle", &note)
            .await;
    }

    /// Writes a batch's status by compare-and-swap.
    pub(super) async fn write(
        &self,
        batch: &SettlementBatch,
        change: impl FnOnce(&mut gridstake_crds::SettlementBatchStatus),
    ) -> Result<Option<SettlementBatch>, StatusError> {
        status::write_batch(
            &self.context.client,
            &self.context.metrics,
            (self.context.now)(),
            batch,
            change,
        )
        .await
    }

    /// Marks what is under way as blocked. It is read once; then nothing is done until the chain is back.
    async fn all_blocked(&mut self, reason: BlockedReason) -> Result<(), PassError> {
        if self.quiet {
            return Ok(());
        }
        let open = observe::open_batches(&self.context.client, &self.lane).await?;
        self.metrics.blocked(open.iter().map(|_| reason));
        for batch in &open {
            self.write(batch, |status| status.blocked = Some(reason))
                .await?;
        }
        Ok(())
    }

    /// Stops everything and says so.
    pub(super) async fn halt(
        &mut self,
        halt: Halt,
        log: &[SettlementBatch],
    ) -> Result<(), PassError> {
        self.metrics.halted.set(1);
        self.quiet = false;
        let news = self.halted.as_ref() != Some(&halt);
        if news {
            tracing::error!(chain = self.lane.chain().name(), error = %halt, "the lane has halted: nothing is sent");
        }
        let newest = log.iter().max_by_key(|batch| batch.spec.sequence);
        let concerned = match &halt {
            Halt::Forked { seq } | Halt::FinalReversed { seq, .. } => {
                log.iter().find(|batch| batch.spec.sequence == *seq)
            }
            Halt::UnknownSettlement { .. } => newest,
        };
        if let Some(batch) = concerned {
            let settled =
                batch.status.as_ref().and_then(|status| status.state) == Some(BatchState::Final);
            let forked = matches!(halt, Halt::Forked { .. }) && !settled;
            self.write(batch, |status| {
                status.blocked = Some(BlockedReason::Halted);
                if forked {
                    status.state = Some(BatchState::Forked);
                }
            })
            .await?;
            self.metrics.blocked([BlockedReason::Halted]);
            if news {
                self.context
                    .events
                    .publish(
                        batch,
                        EventType::Warning,
                        "Halted",
                        "Settle",
                        &halt.to_string(),
                    )
                    .await;
            }
        }
        self.halted = Some(halt);
        Ok(())
    }

    /// Brings a batch one step closer to the chain; returns what keeps it from going on.
    async fn pursue(
        &self,
        batch: &SettlementBatch,
        view: &ChainView,
    ) -> Result<Option<BlockedReason>, PassError> {
        let before = blocked_by(batch);
        let blocked = act::bring(self, batch, view).await?;
        if blocked != before
            && let Some(reason) = blocked
        {
            tracing::warn!(
                batch = batch.name_any(),
                reason = reason.as_str(),
                "a batch is blocked"
            );
            self.context
                .events
                .publish(
                    batch,
                    EventType::Warning,
                    reason.as_str(),
                    "Settle",
                    status::words(reason),
                )
                .await;
        }
        Ok(blocked)
    }
}

/// What keeps a batch from going on, as its status says.
fn blocked_by(batch: &SettlementBatch) -> Option<BlockedReason> {
    batch.status.as_ref().and_then(|status| status.blocked)
}

/// What batches hold that are under way.
#[derive(Clone, Debug, Default)]
pub(super) struct Held {
    /// Numbers of records.
    pub numbers: BTreeSet<u64>,
    /// What is stated by those that are in no block yet.
    pub statements: Unmined,
}

/// What batches state that are in no block yet.
fn unmined_statements(batches: &[SettlementBatch]) -> Result<Unmined, ObserveError> {
    let state = |batch: &SettlementBatch| batch.status.as_ref().and_then(|status| status.state);
    let mut held = Unmined::default();
    for batch in batches {
        if batch.spec.statement_count > 0 && !state(batch).is_some_and(BatchState::is_on_chain) {
            held.add(&observe::content(batch)?.statements);
        }
    }
    Ok(held)
}

/// The numbers that batches hold.
pub(super) fn held_by<'a>(
    batches: impl IntoIterator<Item = &'a SettlementBatch>,
) -> Result<BTreeSet<u64>, ObserveError> {
    let mut held = BTreeSet::new();
    for batch in batches {
        let entries = observe::content(batch)?.entries;
        held.extend(entries.iter().map(|entry| entry.job_no));
    }
    Ok(held)
}

/// The numbers under which a record is paid.
#[must_use]
pub fn numbers_of(record: &UsageRecord) -> Vec<u64> {
    let sealed = record.status.as_ref().and_then(|s| s.sealed.as_ref());
    sealed
        .into_iter()
        .flat_map(|sealed| {
            let emission = sealed.emission.as_ref().map(|emission| emission.job_no);
            sealed.job_no.into_iter().chain(emission)
        })
        .collect()
}
