//! Reports what each provider got in a week, once that week is over and its last block final.
//!
//! Which weeks are done stands beside the lane's counter of job numbers, so that batches can leave the cluster once their
//! week is; what of the first week that is not done has been said stands in the log.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use alloy::{eips::BlockNumberOrTag, rpc::types::Filter, sol_types::SolEvent as _};
use gridstake_crds::SettlementBatch;
use gridstake_ledger::week::Week;

use super::{
    observe::{self, ObserveError},
    run::Settler,
    week::{Finding, Survey, settled_at},
};
use crate::{
    chain::{ChainView, client::ClientError, contracts::StakeVault},
    error::chain as causes,
    lane_counters::{CountersError, LaneCounters},
};

/// The key of the ConfigMap under which the first week stands that is not reported in full.
const UNREPORTED: &str = "unreportedWeek";
/// How often the log is looked at for a week that is over.
const LOOK: Duration = Duration::from_mins(1);
/// The same while the lane settles nothing, or the reports are on their way.
const IDLE: Duration = Duration::from_hours(1);
/// Blocks that one search for slashes covers.
const SPAN: u64 = 2000;

/// Why a week was not reported. It is tried again.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The log cannot be read.
    #[error("read the log")]
    Log(#[from] ObserveError),
    /// The chain cannot be asked.
    #[error("ask the chain")]
    Chain(#[from] ClientError),
    /// The lane's ConfigMap was not read or written.
    #[error(transparent)]
    Counters(#[from] CountersError),
    /// Somebody has written something else into it.
    #[error(
        "read ConfigMap {name}: data.{UNREPORTED} is {found:?}; write the first week whose earnings are not reported on chain, such as 2026-W48, or remove it"
    )]
    NoWeek {
        /// The ConfigMap.
        name: String,
        /// What stands there.
        found: String,
    },
}

impl ReportError {
    const fn category(&self) -> &'static str {
        match self {
            Self::Log(error) => error.category(),
            Self::Chain(error) => error.category(),
            Self::Counters(_) => "week_counter",
            Self::NoWeek { .. } => "week_unreadable",
        }
    }
}

/// What the loop remembers of it.
#[derive(Debug, Default)]
pub struct Reporting {
    /// The first week that is not reported in full.
    week: Option<Week>,
    /// Not to be looked at before.
    again: Option<Instant>,
}

impl Reporting {
    /// Looks again in the next pass, such as when a batch with reports is final.
    pub fn look_again(&mut self) {
        self.again = None;
    }
}

impl Settler {
    /// Reports the weeks that are over by the newest final block of `view`. A failure is logged and counted: no payment
    /// waits for it.
    pub(super) async fn report_weeks(&mut self, view: &ChainView) {
        if self.reporting.again.is_some_and(|at| Instant::now() < at) {
            return;
        }
        let pause = match self.report(view).await {
            Ok(pause) => pause,
            Err(error) => {
                self.metrics.failed(error.category());
                tracing::warn!(
                    chain = self.lane.chain().name(),
                    error = causes(&error),
                    "a week's earnings are not reported yet"
                );
                LOOK
            }
        };
        self.reporting.again = Some(Instant::now() + pause);
    }

    async fn report(&mut self, view: &ChainView) -> Result<Duration, ReportError> {
        let mut week = match self.reporting.week {
            Some(week) => week,
            None => self.first_week(view).await?,
        };
        loop {
            self.reporting.week = Some(week);
            self.lane.statements().reported_before(week);
            if view.finalized.timestamp < week.until() {
                return Ok(LOOK);
            }
            match self.survey(week, view).await? {
                Finding::NotFinal => return Ok(LOOK),
                Finding::Due(reports) => {
                    tracing::info!(chain = self.lane.chain().name(), %week, providers = reports.len(), "a week's earnings are to be reported");
                    self.lane.statements().report(reports, self.now_ms());
                    // It is looked again when a batch that states something is final.
                    return Ok(IDLE);
                }
                Finding::Done => {
                    self.lane.statements().report([], self.now_ms());
                    week = week.next();
                    self.keep_week(week).await?;
                }
                Finding::Empty { next } => {
                    let now = Week::of(view.finalized.timestamp);
                    let later = next.map_or(now, |next| next.min(now));
                    if later == week {
                        return Ok(IDLE);
                    }
                    week = later;
                }
            }
        }
    }

    /// What the log says about `week`.
    async fn survey(&self, week: Week, view: &ChainView) -> Result<Finding, ReportError> {
        let mut survey = Survey::new(self.lane.chain().config().lane_id(), week);
        observe::each_batch(&self.context.client, &self.lane, |batch| survey.add(&batch)).await?;
        let slashed = if survey.is_settled() {
            self.slashed(week, view).await?
        } else {
            BTreeMap::new()
        };
        Ok(survey.finish(&slashed))
    }

    /// What slashes of the lane's proposal took that were executed in `week`, in nano-tokens by provider.
    async fn slashed(
        &self,
        week: Week,
        view: &ChainView,
    ) -> Result<BTreeMap<u32, u128>, ReportError> {
        let (client, config) = (self.lane.client(), self.lane.chain().config());
        let mut slashed: BTreeMap<u32, u128> = BTreeMap::new();
        let mut to = view.finalized.number;
        loop {
            let from = to.saturating_sub(SPAN - 1);
            let first = client.block(BlockNumberOrTag::Number(from)).await?;
            if first.timestamp < week.until() {
                let filter = Filter::new()
                    .address(config.vault.address)
                    .event_signature(StakeVault::SlashExecuted::SIGNATURE_HASH)
                    .from_block(from)
                    .to_block(to);
                for log in client.logs(filter).await? {
                    let Ok(event) = StakeVault::SlashExecuted::decode_log(&log.inner) else {
                        continue;
                    };
                    let height = log.block_number.unwrap_or(from);
                    let block = client.block(BlockNumberOrTag::Number(height)).await?;
                    if !week.holds(block.timestamp) {
                        continue;
                    }
                    let reader = self.lane.reader();
                    if reader.slash_lane(event.id, view.head.hash).await? == config.lane {
                        let cut = event.fromStake.saturating_add(event.fromUnbonding);
                        let sum = slashed.entry(event.provider).or_default();
                        *sum = sum.saturating_add(cut);
                    }
                }
            }
            if from == 0 || first.timestamp < week.from() {
                return Ok(slashed);
            }
            to = from - 1;
        }
    }

    fn counters(&self) -> LaneCounters {
        let client = self.context.client.clone();
        LaneCounters::new(
            client,
            &self.context.namespace,
            self.lane.chain().config().lane,
        )
    }

    /// The first week that is not known to be reported in full.
    async fn first_week(&self, view: &ChainView) -> Result<Week, ReportError> {
        let counters = self.counters();
        if let Some(text) = counters.get(UNREPORTED).await? {
            return text.parse().map_err(|_| ReportError::NoWeek {
                name: counters.name().to_owned(),
                found: text,
            });
        }
        let mut oldest = view.finalized.timestamp;
        observe::each_batch(
            &self.context.client,
            &self.lane,
            |batch: SettlementBatch| {
                oldest = oldest.min(settled_at(&batch).unwrap_or(oldest));
                Ok(())
            },
        )
        .await?;
        Ok(Week::of(oldest))
    }

    /// Every week before `week` is done. It never goes back.
    async fn keep_week(&self, week: Week) -> Result<(), ReportError> {
        self.counters()
            .change(UNREPORTED, |present| {
                let before = present.and_then(|text| text.parse::<Week>().ok());
                let is_news = before.is_none_or(|before| before < week);
                Ok(((), is_news.then(|| week.to_string())))
            })
            .await
    }
}
