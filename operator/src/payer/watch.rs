//! Keeps the payers' accounts up to date, and wakes jobs whose payer runs dry or has been topped up.

use std::collections::{BTreeMap, BTreeSet};

use gridstake_crds::{ComputeJob, UsageRecord};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use tokio_util::sync::CancellationToken;

use super::{
    accounts::{Accounts, CHECK_EVERY, RunSoFar},
    chain_of,
};
use crate::{
    caches::parsed,
    chain::Chain,
    context::Context,
    controllers::{
        compute_job::{member::Member, observe::node_of},
        usage_record::bill::unix_millis,
    },
};

/// Watches over the payers of the lane on `chain` until `stop`.
pub async fn run(ctx: Context, chain: Chain, stop: CancellationToken) {
    let mut changes = chain.changes();
    loop {
        let now = (ctx.now)();
        ctx.payers.publish(chain.name(), tally(&ctx, &chain, now));
        wake_running(&ctx, &chain);
        tokio::select! {
            () = stop.cancelled() => return,
            _ = changes.changed() => {
                changes.mark_unchanged();
                let now = (ctx.now)();
                ctx.payers.publish(chain.name(), tally(&ctx, &chain, now));
                wake_waiting(&ctx, &chain);
            }
            () = tokio::time::sleep(CHECK_EVERY) => {}
        }
    }
}

fn tally(ctx: &Context, chain: &Chain, now: Timestamp) -> Accounts {
    let records = ctx.caches.usage_records.state();
    let seq = chain.view().map_or(0, |view| view.lane.seq);
    Accounts::tally(
        chain.config(),
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
    let member = Member::read(&pod, node_of(ctx, &pod, (ctx.now)()))?;
    let started = member.started_at.map(unix_millis)?;
    Some((started, member.finished_at.map(unix_millis)))
}

/// Jobs that run and for which the money may not last. A pass over one that is well writes nothing.
fn wake_running(ctx: &Context, chain: &Chain) {
    let accounts = ctx.payers.accounts(chain.name());
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

/// Jobs that wait, of namespaces that are on the chain: it may have something new to say about them.
fn wake_waiting(ctx: &Context, chain: &Chain) {
    let stored = ctx.caches.compute_jobs.state();
    let waits = |job: &&ComputeJob| {
        job.status
            .as_ref()
            .is_none_or(|s| !s.has_ended() && s.active_placement().is_none())
    };
    let is_here = |job: &&ComputeJob| {
        let namespace = job.metadata.namespace.as_deref().unwrap_or_default();
        let found = chain_of(ctx, namespace);
        found.is_ok_and(|found| found.is_some_and(|found| found.name() == chain.name()))
    };
    for job in parsed(&stored).filter(waits).filter(is_here) {
        wake(ctx, job);
    }
}

fn wake(ctx: &Context, job: &ComputeJob) {
    ctx.caches
        .compute_job_triggers()
        .one(job.metadata.namespace.as_deref(), &job.name_any());
}
