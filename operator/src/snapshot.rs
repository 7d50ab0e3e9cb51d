//! The scheduler's view of the caches: the one place where objects become a [`Snapshot`].
//!
//! Placement and the GpuNodes' `free` both come from here, so they cannot count differently.

use std::{cell::LazyCell, collections::BTreeSet};

use gridstake_crds::{ComputeJob, GpuNode};
use k8s_openapi::{api::core::v1::Pod, jiff::Timestamp};
use kube::ResourceExt as _;

use crate::{
    caches::{Caches, parsed},
    chain::Chains,
    controllers::{
        gpu_node::{self, mode::ModeSight},
        job_request::{Shunned, job_request},
        stake_binding::bond::Bond,
    },
    error::chain,
    scheduler::{
        JobUid, MemberKey, NodeFacts, NodeStanding, PodFacts, Reservation, Snapshot,
        SnapshotInputs,
        request::OfNamespace,
        weight::{STAKE_WITHOUT_CHAIN, WeightPolicy},
    },
};

/// The fleet as the caches show it at `now`.
///
/// Reservations are those of every active placement in the caches, and `assumed`: placements that have been written, or
/// are about to be, and have not come back through the watch. One that is given twice counts once.
#[must_use]
pub fn snapshot(
    caches: &Caches,
    chains: &Chains,
    assumed: &[Reservation],
    weights: WeightPolicy,
    sequence: u64,
    now: Timestamp,
) -> Snapshot {
    let gpu_nodes = caches.gpu_nodes.state();
    let local = LazyCell::new(|| gpu_node::observe::local_pods(caches));
    let disputed = caches.shown_gpus().disputed();
    let nodes = parsed(&gpu_nodes)
        .filter_map(|gpu_node| {
            let mode = gpu_node::observe::mode(caches, gpu_node, || &*local, now);
            facts_of(caches, chains, gpu_node, &mode, &disputed, now)
        })
        .collect();
    let pods = pod_facts(caches, |_| true);
    let reservations = reservations(caches, assumed, &pods, |_| true);
    Snapshot::assemble(SnapshotInputs {
        nodes,
        pods,
        reservations,
        weights,
        sequence,
    })
}

/// GPUs of one node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GpuCounts {
    /// How many can be allocated: the smaller of what the kubelet allocates and what NVML shows usable.
    pub capacity: u32,
    /// How many of them no pod holds or has been promised.
    pub free: u32,
}

/// The GPUs of `gpu_node`, counted as for a decision.
#[must_use]
pub fn gpu_counts(
    caches: &Caches,
    chains: &Chains,
    gpu_node: &GpuNode,
    mode: &ModeSight,
    now: Timestamp,
) -> GpuCounts {
    let name = gpu_node.name_any();
    // Whether they are offered does not change how many there are.
    let Some(facts) = facts_of(caches, chains, gpu_node, mode, &BTreeSet::new(), now) else {
        return GpuCounts::default();
    };
    let capacity = facts.capacity().gpus;
    // A pod that is bound elsewhere cannot count here; an unbound one may be pinned or nominated.
    let pods = pod_facts(caches, |pod| {
        let bound = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
        bound.is_none_or(|node| node.is_empty() || node == name)
    });
    let reservations = reservations(caches, &[], &pods, |node| node == name);
    let snapshot = Snapshot::assemble(SnapshotInputs {
        nodes: vec![facts],
        pods,
        reservations,
        ..SnapshotInputs::default()
    });
    let free = snapshot.nodes().first().map_or(0, |node| node.free().gpus);
    let count = |gpus: u64| u32::try_from(gpus).unwrap_or(u32::MAX);
    GpuCounts {
        capacity: count(capacity),
        free: count(free),
    }
}

/// The node with what the operator concludes about it now, which may be newer than what its status says.
fn facts_of(
    caches: &Caches,
    chains: &Chains,
    gpu_node: &GpuNode,
    mode: &ModeSight,
    disputed: &BTreeSet<String>,
    now: Timestamp,
) -> Option<NodeFacts> {
    let name = gpu_node.name_any();
    let node = caches.node(&name);
    let silent = caches
        .failover()
        .is_silent(caches.last_heartbeat(&name), now);
    let guarantee = gpu_node::observe::guarantee(caches, chains, gpu_node, now);
    let status = gpu_node.status.as_ref();
    let quarantines = status.map(|s| s.quarantine.as_slice()).unwrap_or_default();
    let standing = NodeStanding {
        offer: gpu_node::decide::offer(gpu_node, node.as_deref(), silent, &guarantee, mode, now)
            .and(gpu_node::decide::undisputed(disputed.contains(&name)))
            .and(gpu_node::decide::out_of_quarantine(quarantines, now)),
        closes_in: mode.closes_at().map(|at| at.duration_since(now)),
        bonded: guarantee.backing.in_force().is_some(),
        provider: guarantee.backing.provider,
        chain: guarantee.backing.chain.as_deref().map(str::to_owned),
        owner: guarantee.backing.owner(),
        stake: match &guarantee.backing.bond {
            Bond::NotAsked => STAKE_WITHOUT_CHAIN,
            Bond::InForce(provider) => provider.share,
            Bond::Missing(..) => 0,
        },
    };
    match NodeFacts::from_objects(gpu_node, node.as_deref(), standing) {
        Ok(facts) => Some(facts),
        Err(error) => {
            tracing::warn!(
                node = name,
                error = chain(&error),
                "a node is left out of the snapshot"
            );
            None
        }
    }
}

/// What the caches show of all `relevant` pods, jobs' and others'.
#[must_use]
pub fn pod_facts(caches: &Caches, relevant: impl Fn(&Pod) -> bool) -> Vec<PodFacts> {
    let job_pods = caches.job_pods.state();
    let other_pods = caches.other_pods.state();
    job_pods
        .iter()
        .chain(&other_pods)
        .filter(|pod| relevant(pod))
        .filter_map(|pod| match PodFacts::from_pod(pod) {
            Ok(facts) => Some(facts),
            Err(error) => {
                let (namespace, name) = (pod.namespace(), pod.name_any());
                tracing::warn!(
                    namespace,
                    name,
                    error = chain(&error),
                    "a pod is left out of the snapshot"
                );
                None
            }
        })
        .collect()
}

/// Promises that count: of every active placement in the caches and of `assumed`, those on a `relevant` node whose pod
/// does not speak for itself yet.
#[must_use]
pub fn reservations(
    caches: &Caches,
    assumed: &[Reservation],
    pods: &[PodFacts],
    relevant: impl Fn(&str) -> bool,
) -> Vec<Reservation> {
    // What a member takes is read from its job's template, which costs more than all the rest; most members' pods
    // can be seen, and their reservations would count nothing.
    let seen: BTreeSet<MemberKey> = pods
        .iter()
        .filter(|pod| pod.ended || pod.node.is_some())
        .filter_map(|pod| pod.member)
        .collect();
    let mut all: Vec<Reservation> = assumed
        .iter()
        .filter(|reservation| relevant(&reservation.node))
        .cloned()
        .collect();
    for job in parsed(&caches.compute_jobs.state()) {
        all.extend(reservations_of(job, |member, node| {
            relevant(node) && !seen.contains(&member)
        }));
    }
    all
}

/// The reservations of `job`'s active placement, if it has one, as far as they are `wanted`.
#[must_use]
pub fn reservations_of(
    job: &ComputeJob,
    wanted: impl Fn(MemberKey, &str) -> bool,
) -> Vec<Reservation> {
    let placement = job
        .status
        .as_ref()
        .and_then(|status| status.active_placement());
    let uid: Option<JobUid> = job.uid().and_then(|uid| uid.parse().ok());
    let (Some(placement), Some(job_uid)) = (placement, uid) else {
        return Vec::new();
    };
    let mut reservations: Vec<Reservation> = Vec::new();
    for member in &placement.nodes {
        let key = MemberKey {
            job_uid,
            attempt: placement.attempt,
            member: member.member,
        };
        if !wanted(key, &member.node) {
            continue;
        }
        let resources = match reservations.first() {
            Some(first) => first.resources.clone(),
            None => match job_request(
                job,
                placement.attempt,
                OfNamespace::default(),
                Shunned::default(),
                "",
            ) {
                Ok(request) => request.per_member(),
                Err(error) => {
                    tracing::warn!(
                        job = job.name_any(),
                        error = chain(&error),
                        "a placement cannot be counted"
                    );
                    return Vec::new();
                }
            },
        };
        reservations.push(Reservation {
            member: key,
            node: member.node.clone(),
            resources,
        });
    }
    reservations
}
