//! UsageRecords: what the members of jobs use, from the first checkpoint to the final bill.
//!
//! | file | what |
//! |---|---|
//! | [`observe`] | reads: the member's pod, its job, the agent, the chain's terms |
//! | [`decide`] | pure: whether the slice ends, and with which bill; with [`evidence`], [`stated`], [`bill`], [`conditions`], [`remembered`] |
//! | [`act`] | numbers the bill, opens the next slice; with [`record`], [`receipt`] (pure) |
//! | [`status`] | writes the seal and the conditions |
//! | [`numbers`] | the job numbers of a lane |
//!
//! A slice is sealed first, and the next one opened after: it begins where the seal says, so that an operator that dies
//! in between loses nothing. The seal with its number is one write, which the API server takes once.

pub mod act;
pub mod bill;
pub mod conditions;
pub mod decide;
pub mod evidence;
pub mod numbers;
pub mod observe;
pub mod performance;
pub mod receipt;
pub mod record;
pub mod remembered;
pub mod stated;
pub mod status;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use gridstake_crds::UsageRecord;
use kube::ResourceExt as _;
use tokio_util::sync::CancellationToken;

use self::{act::ActError, numbers::Numbers};
use crate::{
    context::Context,
    controllers::incident,
    error::ReconcileError,
    reconcile::{CONCURRENCY, Controller, Pass},
    status::StatusError,
};

/// How soon a record that had changed under a pass is looked at again, should its watch be slower.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// How soon a record is looked at again whose remembered number another one has.
const RESTORE_AGAIN: Duration = Duration::from_secs(5);
/// How often an open slice that nothing happens to is looked at, in case a watch missed something.
const RESYNC: Duration = Duration::from_mins(10);

/// Why a pass over a record failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The decision could not be carried out.
    #[error(transparent)]
    Act(#[from] ActError),
    /// The status could not be written.
    #[error(transparent)]
    Status(#[from] StatusError),
}

impl ReconcileError for Error {
    fn category(&self) -> &'static str {
        match self {
            Self::Act(error) => error.category(),
            Self::Status(_) => "apply_status",
        }
    }
}

/// Runs the controller until `stop`.
pub async fn run(ctx: Context, stop: CancellationToken) {
    let controller = Controller {
        name: "usage-record",
        store: ctx.caches.usage_records.clone(),
        triggers: ctx.caches.usage_record_triggers(),
        concurrency: CONCURRENCY,
        precedence: Some(ctx.precedence.clone()),
    };
    let metrics = ctx.metrics.clone();
    let numbers = LaneNumbers::new(&ctx);
    controller
        .run(metrics, stop, move |record| {
            reconcile(ctx.clone(), numbers.clone(), record)
        })
        .await;
}

/// The job numbers of all lanes, by the chain's name. Cloning shares them.
#[derive(Clone)]
struct LaneNumbers(Arc<BTreeMap<String, Numbers>>);

impl LaneNumbers {
    fn new(ctx: &Context) -> Self {
        let numbers = ctx.chains.iter().map(|chain| {
            let lane = chain.config().lane;
            let numbers = Numbers::new(ctx.client.clone(), &ctx.namespace, lane);
            (chain.name().to_owned(), numbers)
        });
        Self(Arc::new(numbers.collect()))
    }

    /// Those of the lane on which `record` is to be paid.
    fn of(&self, ctx: &Context, record: &UsageRecord) -> Option<&Numbers> {
        let lane = ctx.lanes.of(record)?;
        self.0.get(lane.chain().name())
    }
}

async fn reconcile(
    ctx: Context,
    numbers: LaneNumbers,
    record: Arc<UsageRecord>,
) -> Result<Pass, Error> {
    let numbers = numbers.of(&ctx, &record);
    let now = (ctx.now)();
    let seen = observe::observe(&ctx, &record);
    let plan = decide::decide(&record, &seen, now);
    let opened = act::open_next(&ctx, plan.next.as_ref()).await?;
    let written = match (&plan.restored, &plan.bill) {
        (Some(sealed), _) => {
            if act::is_taken(&ctx, &record, sealed).await? {
                return Ok(Pass::waiting().again_in(RESTORE_AGAIN));
            }
            let written = status::write(&ctx, &record, &plan, &seen.evidence, Some(sealed)).await;
            announce(&ctx, &record, &written);
            written?
        }
        (None, Some(bill)) => {
            // Before the bill is final: what is to be held back must not be paid first. Batches are built by what the caches show.
            let are_seen = incident::open::open(&ctx, &record, bill, seen.evidence.refused())
                .await
                .map_err(|source| ActError::Incident {
                    name: record.name_any(),
                    source: Box::new(source),
                })?;
            if !are_seen {
                return Ok(Pass::applied().again_in(LOOK_AGAIN));
            }
            let number = act::number(&ctx, numbers, &record, bill).await?;
            let written =
                status::write(&ctx, &record, &plan, &seen.evidence, Some(&number.sealed)).await;
            act::keep_or_give_back(numbers, &number, &written).await;
            announce(&ctx, &record, &written);
            written?
        }
        (None, None) if plan.is_passing => status::Written::Yes { sent: false },
        (None, None) => status::write(&ctx, &record, &plan, &seen.evidence, None).await?,
    };
    let pause = plan
        .wake
        .map(|at| Duration::try_from(at.duration_since((ctx.now)())).unwrap_or(Duration::ZERO));
    Ok(match written {
        status::Written::Outdated => Pass::waiting().again_in(LOOK_AGAIN),
        status::Written::Yes { sent } => {
            Pass::wrote(opened || sent).again(pause.map(|pause| pause.min(RESYNC)))
        }
    })
}

/// Tells the record's lane of a seal that was written.
fn announce(ctx: &Context, record: &UsageRecord, written: &status::StatusWrite) {
    let lane = ctx.lanes.of(record);
    if let (Some(lane), Ok(status::Written::Yes { sent: true })) = (lane, written) {
        lane.announce_sealed();
    }
}
