//! Takes GPUs back from jobs where their provider wants them: for local pods that wait for those of `IdleOnly` nodes, and when
//! the offer windows of a `Scheduled` node have closed; and where a job of higher priority is first in the queue.
//!
//! One loop on the leader decides for the whole fleet, so that two jobs are never stopped for one. It writes nothing but
//! events: what it decides is read by the ComputeJob controller, which ends the attempts as `Reclaimed` or `Preempted`. It
//! remembers nothing that it could not find out anew, but for whom it has made room in vain: an attempt whose end is written
//! down counts as leaving.
//!
//! | file | what |
//! |---|---|
//! | [`fleet`] | observes: waiting pods, closed windows, who holds what |
//! | [`decide`] | pure: which attempts give their GPUs back to their provider |
//! | [`preempt`] | pure: which make room for the job that is first in the queue, and when that was tried often enough |
//! | [`waiting_first`] | which job that is |
//! | [`asked`] | hands the decision to the ComputeJob controller |

pub mod asked;
pub mod decide;
pub mod fleet;
pub mod preempt;
pub mod waiting_first;

pub use asked::Reclaims;

use std::time::Instant;

use gridstake_crds::{ComputeJob, closed_enum::ClosedEnum as _};
use k8s_openapi::jiff::Timestamp;
use kube::{ResourceExt as _, runtime::events::EventType};
use tokio_util::sync::CancellationToken;

use crate::{Context, caches::parsed, controllers::fleet_changes::FleetChanges};

use self::{
    decide::{Part, Reclaim, Why},
    preempt::{Answer, Loops, Preemptor},
};

/// The event on a job for which others are stopped.
const PREEMPTING: &str = "Preempting";

/// Runs the loop until `stop`.
pub async fn run(ctx: Context, stop: CancellationToken) {
    let mut changes = FleetChanges::of(&ctx);
    let mut first = ctx.caches.waiting_first().changes();
    let mut loops = Loops::default();
    while !stop.is_cancelled() && ctx.leadership.holds() {
        changes.are_seen();
        let preemptor = first.borrow_and_update().clone();
        let pass = ctx.health.pass("reclaim", Instant::now());
        let wake = look(&ctx, preemptor.as_deref(), &mut loops, (ctx.now)());
        drop(pass);
        tokio::select! {
            () = changes.wait(&ctx, wake, &stop) => {}
            _ = first.changed() => {}
        }
    }
    ctx.caches.reclaims().forget();
}

/// Decides once, and tells when to do so again if nothing happens before.
fn look(
    ctx: &Context,
    preemptor: Option<&Preemptor>,
    loops: &mut Loops,
    now: Timestamp,
) -> Option<Timestamp> {
    let mut seen = fleet::observe(ctx, now);
    let mut reclaims = seen.sight.as_ref().map(decide::decide).unwrap_or_default();
    loops.keep(|job| fleet::waits(ctx, job), now);
    let mut wake = seen.changes_at;
    if let Some(preemptor) = preemptor {
        let job = preemptor.request.job_uid;
        if loops.allow(job, now) {
            let room = fleet::room_for(ctx, seen.sight.take(), &reclaims, now);
            match preempt::preempt(
                &room.snapshot,
                preemptor,
                &room.tenancies,
                &room.standings,
                ctx.preemption,
            ) {
                Answer::Leave(attempts) => {
                    reclaims.extend(attempts.into_iter().map(|attempt| Reclaim {
                        attempt,
                        part: Part::Whole,
                        node: String::new(),
                        why: Why::Priority(preemptor.job.clone()),
                    }));
                }
                Answer::InVain => {
                    wake = wake
                        .into_iter()
                        .chain(room.next_may_be_stopped(preemptor, ctx.preemption, now))
                        .min();
                }
                Answer::Fits => {}
            }
        } else {
            wake = wake.into_iter().chain(loops.ends(job, now)).min();
        }
    }
    let news = ctx.caches.reclaims().replace(&reclaims);
    let is_new_preemption = |reclaim: &Reclaim| {
        matches!(reclaim.why, Why::Priority(_)) && news.contains(&reclaim.key())
    };
    if let Some(preemptor) = preemptor.filter(|_| reclaims.iter().any(is_new_preemption)) {
        loops.stopped(preemptor.request.job_uid, now);
    }
    for reclaim in &reclaims {
        ask(ctx, reclaim, news.contains(&reclaim.key()));
    }
    wake
}

/// Has the job's controller look, and tells for whose sake if that is `news`.
fn ask(ctx: &Context, reclaim: &Reclaim, news: bool) {
    let jobs = ctx.caches.compute_jobs.state();
    let uid = reclaim.attempt.job.to_string();
    let Some(job) = parsed(&jobs).find(|job| job.metadata.uid.as_deref() == Some(uid.as_str()))
    else {
        return;
    };
    let (namespace, name) = (
        job.metadata.namespace.clone().unwrap_or_default(),
        job.metadata.name.clone().unwrap_or_default(),
    );
    ctx.caches
        .compute_job_triggers()
        .one(Some(&namespace), &name);
    if !news {
        return;
    }
    let what = match &reclaim.part {
        Part::Whole | Part::GivenUp(_) => "its GPUs".to_owned(),
        Part::On(node) => format!("its GPUs on node {node}"),
    };
    let note = format!(
        "attempt {} of ComputeJob {namespace}/{name} gives {what} back: {}",
        reclaim.attempt.attempt,
        reclaim.why.for_provider()
    );
    tracing::info!(node = reclaim.node, note, "asked to give its GPUs back");
    // An event must not hold the loop up.
    let events = ctx.events.clone();
    if let Why::Priority(preemptor) = &reclaim.why {
        let named = |job: &&ComputeJob| {
            format!("{}/{}", job.namespace().unwrap_or_default(), job.name_any()) == *preemptor
        };
        if let Some(preemptor) = parsed(&jobs).find(named).cloned() {
            tokio::spawn(async move {
                events
                    .publish(&preemptor, EventType::Normal, PREEMPTING, "Preempt", &note)
                    .await;
            });
        }
        return;
    }
    let Some(gpu_node) = ctx.caches.gpu_node(&reclaim.node) else {
        return;
    };
    let reason = reclaim.why.reason();
    tokio::spawn(async move {
        if let Ok(gpu_node) = &gpu_node.0 {
            events
                .publish(
                    gpu_node,
                    EventType::Normal,
                    reason.as_str(),
                    "Reclaim",
                    &note,
                )
                .await;
        }
    });
}
