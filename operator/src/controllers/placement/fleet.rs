//! What the placement of jobs reads from the caches: the fleet, priorities, labels of namespaces.

use std::collections::BTreeSet;

use alloy_primitives::B256;
use gridstake_crds::{ComputeJob, GpuNode};
use k8s_openapi::jiff::Timestamp;
use kube::{ResourceExt as _, runtime::reflector::ObjectRef};

use super::decide::{Payee, queue_entry};
use crate::{
    caches::{Caches, parsed},
    chain::Chain,
    context::Context,
    controllers::{
        canary::is_canary,
        compute_job::verification::owner_by_provider,
        reclaim::preempt,
        stake_binding::{observe::resolutions, resolve::Claim},
        verification_group,
    },
    payer::{self, WhoPays},
    scheduler::{
        Reservation, Snapshot, draw::NEVER_SYNCED_BLOCK, fair_share::Payer, queue::QueueEntry,
        request::OfNamespace, weight::WeightPolicy,
    },
    snapshot::snapshot,
};

/// The fleet at `now`, with `assumed` reservations taken.
#[must_use]
pub fn at(ctx: &Context, assumed: &[Reservation], sequence: u64, now: Timestamp) -> Snapshot {
    snapshot(
        &ctx.caches,
        &ctx.chains,
        assumed,
        WeightPolicy::default(),
        sequence,
        now,
    )
}

/// The block that seeds the draw for a job that is paid for on `chain`: the newest finalized one that is known. Without a chain
/// there is none.
#[must_use]
pub fn block(ctx: &Context, chain: Option<&str>) -> B256 {
    let chain = chain
        .and_then(|name| ctx.chains.get(name))
        .or_else(|| ctx.chains.default_chain());
    let view = chain.and_then(Chain::view);
    view.map_or(NEVER_SYNCED_BLOCK, |view| view.finalized.hash)
}

/// Whether the PriorityClass of `job` lets it take GPUs from jobs of lower priority.
#[must_use]
pub fn may_preempt(caches: &Caches, job: &ComputeJob) -> bool {
    let class = job.spec.priority_class_name.as_deref();
    let class = class.and_then(|name| caches.priority_classes.get(&ObjectRef::new(name)));
    preempt::may_preempt(class.as_deref())
}

/// The value of the PriorityClass `name`, if there is one.
#[must_use]
pub fn priority(caches: &Caches, name: &str) -> Option<i32> {
    caches
        .priority_classes
        .get(&ObjectRef::new(name))
        .map(|class| class.value)
}

/// What the queue knows of `job`, which counts against the share of `payer`.
#[must_use]
pub fn queued(ctx: &Context, job: &ComputeJob, payer: Payer) -> QueueEntry {
    queue_entry(job, priority_of(&ctx.caches, job), payer)
}

/// The value of the PriorityClass of `job`; 0 without one.
#[must_use]
pub fn priority_of(caches: &Caches, job: &ComputeJob) -> i32 {
    let class = job.spec.priority_class_name.as_deref();
    class.and_then(|class| priority(caches, class)).unwrap_or(0)
}

/// Whether `job` may go to nodes of any chain, whatever its namespace says: a canary is paid for on none.
#[must_use]
pub fn is_of_any_chain(ctx: &Context, job: &ComputeJob) -> bool {
    is_canary(&ctx.namespace, job)
}

/// Against whose share the jobs of `namespace` count: the account that pays for them, or the namespace itself where there
/// is none.
#[must_use]
pub fn payer_of(ctx: &Context, namespace: &str, now: Timestamp) -> Payer {
    match payer::who_pays(ctx, namespace, now) {
        WhoPays::Account(account) => Payer::Account {
            chain: account.chain,
            number: account.payer,
        },
        WhoPays::Nobody | WhoPays::Canary | WhoPays::Refused(..) => {
            Payer::Namespace(namespace.to_owned())
        }
    }
}

/// What the namespace of `job` says about where it may be placed.
#[must_use]
pub fn of_job(ctx: &Context, job: &ComputeJob) -> OfNamespace {
    let name = job.namespace().unwrap_or_default();
    let labels = ctx
        .caches
        .namespace(&name)
        .and_then(|namespace| namespace.metadata.labels.clone());
    let chain = if is_of_any_chain(ctx, job) {
        None
    } else {
        payer::chain_of(ctx, &name).ok().flatten()
    };
    OfNamespace {
        labels: labels.unwrap_or_default(),
        chain: chain.map(Chain::name).map(str::to_owned),
    }
}

/// Whom the use of `node` is owed to; nobody without a chain, or on one that is not configured.
#[must_use]
pub fn provider_of(ctx: &Context, node: &str) -> Option<Payee> {
    match resolutions(&ctx.caches).claim(node)? {
        Claim::One(spec) => ctx.chains.get(&spec.chain).map(|chain| Payee {
            chain: chain.name().to_owned(),
            provider: spec.provider_id,
        }),
        Claim::Several(_) => None,
    }
}

/// The nodes whose owners compute the result with which that of `job` is to be compared.
#[must_use]
pub fn same_owner(ctx: &Context, job: &ComputeJob) -> BTreeSet<String> {
    let taken = verification_group::taken(&ctx.caches, job);
    if taken.is_empty() {
        return BTreeSet::new();
    }
    let views: Vec<_> = ctx
        .chains
        .iter()
        .filter_map(|chain| Some((chain.name(), chain.view()?)))
        .collect();
    let stakers = views.iter().flat_map(|(chain, view)| {
        let providers = view.providers.iter();
        providers.filter_map(|(id, provider)| {
            let owner = owner_by_provider(chain, *id);
            Some((owner, provider.as_ref()?.staker))
        })
    });
    let taken = verification_group::with_other_providers(taken, &stakers.collect());
    let is_taken = |node: &String| {
        let owner =
            provider_of(ctx, node).map(|payee| owner_by_provider(&payee.chain, payee.provider));
        taken.contains(node) || owner.is_some_and(|owner| taken.contains(&owner))
    };
    let nodes = ctx.caches.gpu_nodes.state();
    parsed(&nodes)
        .map(|node: &GpuNode| node.name_any())
        .filter(is_taken)
        .collect()
}
