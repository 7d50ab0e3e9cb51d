//! Takes GPUs back from jobs where their provider wants them: for local pods that wait for those of `IdleOnly` nodes, and when
//! the offer windows of a `Scheduled` node have closed.
//!
//! One loop on the leader decides for the whole fleet, so that two jobs are never stopped for one pod. It writes nothing but
//! events: what it decides is read by the ComputeJob controller, which ends the attempts as `Reclaimed`. It remembers nothing
//! that it could not find out anew: an attempt whose end is written down counts as leaving.
//!
//! | file | what |
//! |---|---|
//! | [`fleet`] | observes: waiting pods, closed windows, who holds what |
//! | [`decide`] | pure: which attempts give their GPUs back |
//! | [`asked`] | hands the decision to the ComputeJob controller |

pub mod asked;
pub mod decide;
pub mod fleet;

pub use asked::Reclaims;

use std::time::Instant;

use k8s_openapi::jiff::Timestamp;
use kube::runtime::events::EventType;
use tokio_util::sync::CancellationToken;

use crate::{Context, caches::parsed, controllers::fleet_changes::FleetChanges};

use self::decide::Reclaim;

/// The event on a GpuNode that takes its GPUs back.
const RECLAIMED: &str = "Reclaimed";

/// Runs the loop until `stop`.
pub async fn run(ctx: Context, stop: CancellationToken) {
    let mut changes = FleetChanges::of(&ctx);
    while !stop.is_cancelled() && ctx.leadership.holds() {
        changes.are_seen();
        let pass = ctx.health.pass("reclaim", Instant::now());
        let wake = look(&ctx, (ctx.now)());
        drop(pass);
        changes.wait(&ctx, wake, &stop).await;
    }
    ctx.caches.reclaims().forget();
}

/// Decides once, and tells when to do so again if nothing happens before.
fn look(ctx: &Context, now: Timestamp) -> Option<Timestamp> {
    let seen = fleet::observe(ctx, now);
    let reclaims = seen.sight.as_ref().map(decide::decide).unwrap_or_default();
    let news = ctx.caches.reclaims().replace(&reclaims);
    for reclaim in &reclaims {
        ask(ctx, reclaim, news.contains(&reclaim.attempt));
    }
    seen.changes_at
}

/// Has the job's controller look, and tells the provider if that is `news`.
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
    let note = format!(
        "attempt {} of ComputeJob {namespace}/{name} gives its GPUs back: {}",
        reclaim.attempt.attempt,
        reclaim.why.for_provider()
    );
    tracing::info!(node = reclaim.node, note, "reclaimed");
    let Some(gpu_node) = ctx.caches.gpu_node(&reclaim.node) else {
        return;
    };
    // An event must not hold the loop up.
    let events = ctx.events.clone();
    tokio::spawn(async move {
        if let Ok(gpu_node) = &gpu_node.0 {
            events
                .publish(gpu_node, EventType::Normal, RECLAIMED, "Reclaim", &note)
                .await;
        }
    });
}
