//! What the placement of jobs reads from the caches: the fleet, priorities, labels of namespaces.

use kube::runtime::reflector::ObjectRef;

use crate::{
    caches::Caches,
    chain::Chain,
    context::Context,
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

/// What the namespace `name` says about where its jobs may be placed.
#[must_use]
pub fn of_namespace(ctx: &Context, name: &str) -> OfNamespace {
    let labels = ctx
        .caches
        .namespace(name)
        .and_then(|namespace| namespace.metadata.labels.clone());
    let chain = payer::chain_of(ctx, name).ok().flatten();
    OfNamespace {
        labels: labels.unwrap_or_default(),
        chain: chain.map(Chain::name).map(str::to_owned),
    }
}
