//! What the placement of jobs reads from the caches: the fleet, priorities, labels of namespaces.

use std::collections::BTreeMap;

use kube::runtime::reflector::ObjectRef;

use crate::{
    caches::Caches,
    context::Context,
    scheduler::{Reservation, Snapshot, weight::WeightPolicy},
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

/// The labels of the namespace `name`.
#[must_use]
pub fn namespace_labels(caches: &Caches, name: &str) -> BTreeMap<String, String> {
    caches
        .namespace(name)
        .and_then(|namespace| namespace.metadata.labels.clone())
        .unwrap_or_default()
}
