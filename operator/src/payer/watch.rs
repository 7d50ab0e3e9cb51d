//! Keeps the payers' accounts up to date, and wakes jobs whose payer runs dry or has been topped up.

use std::collections::{BTreeMap, BTreeSet};

use gridstake_crds::{ComputeJob, UsageRecord};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use tokio_util::sync::CancellationToken;

use super::accounts::{Accounts, CHECK_EVERY, RunSoFar};
use crate::{
    caches::parsed,
    chain::Chain,
    context::Context,
    controllers::{
        compute_job::{member::Member, observe::node_state},
        usage_record::bill::unix_millis,
    },
};

/// Runs until `stop`. Without a chain there is nothing to watch over.
pub async fn run(ctx: Context, stop: CancellationToken) {
    let Some(chain) = ctx.chains.home().cloned() else {
        stop.cancelled().await;
        return;
    };
    let mut changes = chain.changes();
    loop {
        let now = (ctx.now)();
        ctx.payers.publish(tally(&ctx, &chain, now));
        wake_running(&ctx);
        tokio::select! {
            () = stop.cancelled() => return,
            _ = changes.changed() => {
                changes.mark_unchanged();
                ctx.payers.publish(tally(&ctx, &chain, (ctx.now)()));
                wake_waiting(&ctx);
            }
            () = tokio::time::sleep(CHECK_EVERY) => {}
        }
    }
}

fn tally(ctx: &Context, chain: &Chain, now: Timestamp) -> Accounts {
    let records = ctx.caches.usage_records.state();
    let seq = chain.view().map_or(0, |view| view.lane.seq);
    Accounts::tally(
        parsed(&records),
        |record| run_so_far(ctx, record),
        seq,
        unix_millis(now),
    )
}

/// Since when the member of an open record runs, and until when it ran.
fn run_so_far(ctx: &Context, record: &UsageRecord) -> RunSoFar {
    let spec = &record.spec;
    let pod = ctx.caches.job_pod(&spec.job.namespace, &spec.pod_name)?;
    let member = Member::read(&pod, node_state(ctx, &pod))?;
    let started = member.started_at.map(unix_millis)?;
    Some((started, member.finished_at.map(unix_millis)))
}

/// Jobs that run and for which the money may not last. A pass over one that is well writes nothing.
fn wake_running(ctx: &Context) {
    let accounts = ctx.payers.accounts();
    let running: BTreeSet<&str> = accounts
        .payers()
        .flat_map(|payer| accounts.jobs(payer).collect::<Vec<_>>())
        .collect();
    if running.is_empty() {
        return;
    }
    let stored = ctx.caches.compute_jobs.state();
    let by_uid: BTreeMap<&str, &ComputeJob> = parsed(&stored)
        .filter_map(|job| Some((job.metadata.uid.as_deref()?, job)))
        .collect();
    for job in running.iter().filter_map(|uid| by_uid.get(uid)) {
        wake(ctx, job);
    }
}

/// Jobs that wait: the chain may have something new to say about them.
fn wake_waiting(ctx: &Context) {
    let stored = ctx.caches.compute_jobs.state();
    let waits = |job: &&ComputeJob| {
        job.status
            .as_ref()
            .is_none_or(|s| !s.has_ended() && s.active_placement().is_none())
    };
    for job in parsed(&stored).filter(waits) {
        wake(ctx, job);
    }
}

fn wake(ctx: &Context, job: &ComputeJob) {
    ctx.caches
        .compute_job_triggers()
        .one(job.metadata.namespace.as_deref(), &job.name_any());
}
