//! What the placement of jobs reads from the caches: the fleet, priorities, labels of namespaces.

use gridstake_crds::ComputeJob;
use kube::{ResourceExt as _, runtime::reflector::ObjectRef};

use crate::{
    caches::Caches,
    chain::Chain,
    context::Context,
    controllers::canary::is_canary,
    payer,
    scheduler::{Reservation, Snapshot, request::OfNamespace, weight::WeightPolicy},
    snapshot::snapshot,
};

/// The fleet now, with `assumed` reservations taken.
#[must_use]
pub fn now(ctx: &Context, assumed: &[Reservation], sequence: u64) -> Snapshot {
    snapshot(
        &ctx.caches,
        &ctx.chains,
        assumed,
        WeightPolicy::default(),
        sequence,
        (ctx.now)(),
    )
}

/// The value of the PriorityClass `name`, if there is one.
#[must_use]
pub fn priority(caches: &Caches, name: &str) -> Option<i32> {
    caches
        .priority_classes
        .get(&ObjectRef::new(name))
        .map(|class| class.value)
}

/// What the namespace of `job` says about where it may be placed. A canary is paid for on no chain, so it may go to nodes of any.
#[must_use]
pub fn of_job(ctx: &Context, job: &ComputeJob) -> OfNamespace {
    let name = job.namespace().unwrap_or_default();
    let labels = ctx
        .caches
        .namespace(&name)
        .and_then(|namespace| namespace.metadata.labels.clone());
    let chain = if is_canary(&ctx.namespace, job) {
        None
    } else {
        payer::chain_of(ctx, &name).ok().flatten()
    };
    OfNamespace {
        labels: labels.unwrap_or_default(),
        chain: chain.map(Chain::name).map(str::to_owned),
    }
}
