//! ComputeJobs: from a sound spec over placed, running and ended attempts to the end of the job.
//!
//! | file | what |
//! |---|---|
//! | [`observe`] | reads: pods, a dry run of the first pod, whether any node could take the job; with [`rehearsals`], [`recent_fleet`], by which a burst of jobs asks once, [`untold`], [`foreign_gates`] |
//! | [`decide`] | pure: what is to be done; with [`template`], [`member`], [`start`], [`words`], [`retry`], [`replace`], [`usage`], [`verification`], [`conditions`] |
//! | [`act`] | writes records, pods and finalizers, once ([`recent_starts`]); [`build`] says what a pod looks like, [`rendezvous`] how members find one another, [`kueue`] in which queue of Kueue it is (pure) |
//! | [`status`] | writes the status and tells the news |
//!
//! Which nodes a job gets is not decided here but by [`super::placement`].

pub mod act;
pub mod build;
pub mod conditions;
pub mod decide;
pub mod foreign_gates;
pub mod kueue;
pub mod member;
pub mod observe;
pub mod recent_fleet;
pub mod recent_starts;
pub mod rehearsals;
pub mod rendezvous;
pub mod replace;
pub mod retry;
pub mod start;
pub mod status;
pub mod template;
pub mod untold;
pub mod usage;
pub mod verification;
pub mod words;

use std::{sync::Arc, time::Duration};

use gridstake_crds::ComputeJob;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use self::{act::ActError, decide::Plan, status::Written};
use crate::{
    context::Context,
    error::ReconcileError,
    reconcile::{Controller, Pass},
    status::StatusError,
};

/// How many jobs are looked at at once; nearly all of them wait for their turn.
const PASSES: u16 = 512;
/// So many of them start members at a time, and so many write something else. In a burst there are jobs that start and jobs that are
/// new; these, of which nothing is to be written, do not wait for those.
const TURNS: usize = 8;
/// How long one waits for its turn before it goes to the end of the line: a pass must not take longer than it may.
const WAITS: Duration = Duration::from_secs(10);
/// How soon a job that had changed under a pass is looked at again, should its watch be slower.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// How often a job that nothing happens to is looked at, in case a watch missed something.
const RESYNC: Duration = Duration::from_mins(10);

/// Why a pass over a job failed.
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
        name: "compute-job",
        store: ctx.caches.compute_jobs.clone(),
        triggers: ctx.caches.compute_job_triggers(),
        concurrency: PASSES,
        precedence: None,
    };
    let metrics = ctx.metrics.clone();
    let turns = Arc::new(Turns::default());
    controller
        .run(metrics, stop, move |job| {
            reconcile(ctx.clone(), Arc::clone(&turns), job)
        })
        .await;
}

/// Turns to write about jobs.
struct Turns {
    starts: Semaphore,
    others: Semaphore,
}

impl Default for Turns {
    fn default() -> Self {
        Self {
            starts: Semaphore::new(TURNS),
            others: Semaphore::new(TURNS),
        }
    }
}

/// A pass; what it writes, it writes when it is its turn, about the job as it is then.
async fn reconcile(
    ctx: Context,
    turns: Arc<Turns>,
    mut job: Arc<ComputeJob>,
) -> Result<Pass, Error> {
    // What is large is on the heap only while it is needed: hundreds of passes may wait for their turn.
    let plan = Box::pin(plan(&ctx, &job)).await;
    if plan.is_silent() {
        return Box::pin(carry_out(&ctx, &job, &plan)).await;
    }
    let starts = plan.starts_members();
    let _start = starts.then(|| ctx.precedence.start());
    let line = if starts { &turns.starts } else { &turns.others };
    let may_go = ctx.precedence.is_free() && (starts || !ctx.precedence.is_starting());
    if let Ok(_turn) = line.try_acquire()
        && may_go
    {
        return Box::pin(carry_out(&ctx, &job, &plan)).await;
    }
    drop(plan);
    let _beside = if starts {
        ctx.precedence.yield_to_it().await;
        None
    } else {
        ctx.precedence.yield_to_starts().await
    };
    let Ok(Ok(_turn)) = tokio::time::timeout(WAITS, line.acquire()).await else {
        return Ok(Pass::waiting().again_in(LOOK_AGAIN));
    };
    let namespace = job.namespace().unwrap_or_default();
    let current = ctx.caches.compute_job(&namespace, &job.name_any());
    if let Some(Ok(current)) = current.as_deref().map(|job| &job.0) {
        job = Arc::new(current.clone());
    }
    let plan = Box::pin(self::plan(&ctx, &job)).await;
    Box::pin(carry_out(&ctx, &job, &plan)).await
}

/// What is to be done about the job as it is now.
async fn plan(ctx: &Context, job: &ComputeJob) -> Box<Plan> {
    let now = (ctx.now)();
    let seen = observe::observe(ctx, job, now).await;
    let plan = decide::decide(job, &seen, now);
    note_admission(ctx, job, &plan, now);
    Box::new(plan)
}

/// Notes whether the job may wait for a place without having been told so.
fn note_admission(ctx: &Context, job: &ComputeJob, plan: &Plan, now: Timestamp) {
    let uid = job.metadata.uid.as_deref().unwrap_or_default();
    if !plan.is_admitted_untold {
        ctx.untold.forget(uid);
    } else if ctx.untold.admit(uid, job.metadata.generation, now) {
        ctx.caches.queue_has_changed();
    }
}

async fn carry_out(ctx: &Context, job: &ComputeJob, plan: &Plan) -> Result<Pass, Error> {
    let done = act::act(ctx, job, &plan.writes).await;
    let written = status::write(ctx, job, plan, done.as_ref()).await?;
    let act::Outcome { wrote, again, .. } = done?;
    match written {
        Written::Outdated => Ok(Pass::waiting().again_in(LOOK_AGAIN)),
        Written::Yes { sent } => {
            let pause = pause(ctx, plan);
            let pause = again.map_or(pause, |again| again.min(pause));
            Ok(Pass::wrote(wrote || sent).again_in(pause))
        }
    }
}

fn pause(ctx: &Context, plan: &decide::Plan) -> Duration {
    let until = plan
        .wake
        .map(|at| Duration::try_from(at.duration_since((ctx.now)())).unwrap_or(Duration::ZERO));
    until.map_or(RESYNC, |until| until.min(RESYNC))
}
