//! What the loop decides on. Reads the caches; decides nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use gridstake_crds::{
    ComputeJob,
    compute_job::{ComputeJobCondition, ComputeJobStatus},
    condition,
    gpu_node::OfferMode,
};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;

use super::{
    decide::{AttemptKey, Reclaim, Room, Sight, Tenancy},
    preempt::{Preemptor, Standing, Terms},
};
use crate::{
    Context,
    caches::parsed,
    controllers::{
        gpu_node::{
            local_use::LocalPods,
            observe::{local_pods, mode},
        },
        placement::{fleet, replacement},
    },
    scheduler::{JobUid, Snapshot, snapshot::NodeCapacity},
    snapshot::{pod_facts, reservations},
};

/// What is seen.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    /// What is to be decided on; `None` where nobody wants anything back.
    pub sight: Option<Sight>,
    /// When a window closes or opens next.
    pub changes_at: Option<Timestamp>,
}

/// Looks at the fleet at `now`.
#[must_use]
pub fn observe(ctx: &Context, now: Timestamp) -> Seen {
    let caches = &ctx.caches;
    let gpu_nodes = caches.gpu_nodes.state();
    let mut closed = BTreeSet::new();
    let mut give_way = BTreeSet::new();
    let mut changes_at: Option<Timestamp> = None;
    for gpu_node in parsed(&gpu_nodes) {
        match gpu_node.spec.mode {
            OfferMode::Scheduled => {
                let mode = mode(caches, gpu_node, LocalPods::default, now);
                if mode.is_closed() {
                    closed.insert(gpu_node.name_any());
                }
                let change = mode.changes_at(&gpu_node.spec);
                changes_at = changes_at.into_iter().chain(change).min();
            }
            OfferMode::IdleOnly => {
                give_way.insert(gpu_node.name_any());
            }
            OfferMode::Always | OfferMode::Drained => {}
        }
    }
    let waiting = if give_way.is_empty() {
        Vec::new()
    } else {
        local_pods(caches).waiting
    };
    // Windows are closed for hours, and then nobody is there to leave.
    if waiting.is_empty() && !is_any_in_use(ctx, &closed) {
        return Seen {
            sight: None,
            changes_at,
        };
    }
    Seen {
        sight: Some(Sight {
            rooms: if waiting.is_empty() {
                BTreeMap::new()
            } else {
                rooms(ctx, &give_way, now)
            },
            tenancies: tenancies(ctx, now),
            waiting,
            closed,
        }),
        changes_at,
    }
}

/// Whether an attempt in progress that has not begun to end is on one of `nodes`.
fn is_any_in_use(ctx: &Context, nodes: &BTreeSet<String>) -> bool {
    let jobs = ctx.caches.compute_jobs.state();
    let mut placements = parsed(&jobs)
        .filter_map(|job| job.status.as_ref())
        .filter(|status| status.ending.is_none())
        .filter_map(ComputeJobStatus::active_placement);
    !nodes.is_empty()
        && placements.any(|placement| {
            let mut members = placement.nodes.iter();
            members.any(|member| nodes.contains(&member.node))
        })
}

/// The nodes and what is left of them; those in `give_way` give way to local pods.
fn rooms(ctx: &Context, give_way: &BTreeSet<String>, now: Timestamp) -> BTreeMap<String, Room> {
    let snapshot = fleet::at(ctx, &[], 0, now);
    let room = |capacity: &NodeCapacity| {
        let name = &capacity.facts().name;
        let room = Room {
            node: ctx.caches.node(name)?,
            free: capacity.free().clone(),
            gives_way: give_way.contains(name),
        };
        Some((name.clone(), room))
    };
    snapshot.nodes().iter().filter_map(room).collect()
}

/// Who holds what: by pods where there are any, by placements where not yet.
fn tenancies(ctx: &Context, now: Timestamp) -> Vec<Tenancy> {
    let caches = &ctx.caches;
    let jobs = caches.compute_jobs.state();
    let by_uid: BTreeMap<JobUid, &ComputeJob> = parsed(&jobs)
        .filter_map(|job| Some((job.uid()?.parse().ok()?, job)))
        .collect();
    let mut all: BTreeMap<AttemptKey, Tenancy> = BTreeMap::new();
    let pods = pod_facts(caches, |_| true);
    let promised = reservations(caches, &[], &pods, |_| true);
    let held = pods
        .iter()
        .filter(|pod| !pod.ended)
        .filter_map(|pod| Some((pod.member?, pod.node.as_ref()?, &pod.resources)));
    let promised = promised
        .iter()
        .map(|promise| (promise.member, &promise.node, &promise.resources));
    for (member, node, resources) in held.chain(promised) {
        let attempt = AttemptKey {
            job: member.job_uid,
            attempt: member.attempt,
        };
        let tenancy = all.entry(attempt).or_insert_with(|| Tenancy {
            attempt,
            is_leaving: by_uid
                .get(&attempt.job)
                .is_none_or(|job| is_leaving(job, attempt.attempt)),
            was_asked: caches.reclaims().of(attempt).is_some(),
            gpu_seconds: 0,
            on: BTreeMap::new(),
        });
        tenancy.on.entry(node.clone()).or_default().add(resources);
    }
    for tenancy in all.values_mut() {
        let gpus: u64 = tenancy.on.values().map(|resources| resources.gpus).sum();
        let ran = by_uid
            .get(&tenancy.attempt.job)
            .map_or(0, |job| seconds_run(job.status.as_ref(), now));
        tenancy.gpu_seconds = gpus.saturating_mul(ran);
    }
    all.into_values().collect()
}

/// What is decided on for a job that is first in the queue.
#[derive(Clone, Debug)]
pub struct RoomForOne {
    /// The fleet.
    pub snapshot: Snapshot,
    /// Who holds what; whose end is asked for counts as leaving.
    pub tenancies: Vec<Tenancy>,
    /// Of whom it is known for how long they have run.
    pub standings: BTreeMap<AttemptKey, Standing>,
}

/// Looks at the fleet for a job that is first in the queue. `sight` is what was seen already, `reclaims` what was decided on it.
#[must_use]
pub fn room_for(
    ctx: &Context,
    sight: Option<Sight>,
    reclaims: &[Reclaim],
    now: Timestamp,
) -> RoomForOne {
    let mut tenancies = sight.map_or_else(|| tenancies(ctx, now), |sight| sight.tenancies);
    for tenancy in &mut tenancies {
        tenancy.is_leaving |= reclaims
            .iter()
            .any(|reclaim| reclaim.attempt == tenancy.attempt);
    }
    let jobs = ctx.caches.compute_jobs.state();
    let standings = parsed(&jobs).filter_map(|job| {
        let placement = job.status.as_ref()?.active_placement()?;
        let attempt = AttemptKey {
            job: job.uid()?.parse().ok()?,
            attempt: placement.attempt,
        };
        let standing = Standing {
            priority: fleet::priority_of(&ctx.caches, job),
            ran_seconds: seconds_run(job.status.as_ref(), now),
        };
        Some((attempt, standing))
    });
    RoomForOne {
        standings: standings.collect(),
        snapshot: fleet::at(ctx, &[], 0, now),
        tenancies,
    }
}

impl RoomForOne {
    /// When the next attempt that is in the way of `preemptor` has run for long enough to be stopped.
    #[must_use]
    pub fn next_may_be_stopped(
        &self,
        preemptor: &Preemptor,
        terms: Terms,
        now: Timestamp,
    ) -> Option<Timestamp> {
        let least = terms.minimum_run.as_secs();
        let left = self.standings.values().filter_map(|standing| {
            let is_lower = standing.priority < preemptor.priority;
            least
                .checked_sub(standing.ran_seconds)
                .filter(|left| is_lower && *left > 0)
        });
        let soonest = left.min().filter(|_| terms.enabled)?;
        now.checked_add(Duration::from_secs(soonest)).ok()
    }
}

/// Whether the job of this uid waits for a place, or for one for some of its ranks.
#[must_use]
pub fn waits(ctx: &Context, job: JobUid) -> bool {
    let jobs = ctx.caches.compute_jobs.state();
    let uid = job.to_string();
    parsed(&jobs)
        .filter(|job| job.metadata.uid.as_deref() == Some(uid.as_str()))
        .any(|job| {
            let waits = |status: &ComputeJobStatus| {
                status.active_placement().is_none() && !status.has_ended()
            };
            job.status.as_ref().is_some_and(waits) || replacement::lost(job).is_some()
        })
}

/// Whether the end of `attempt` is decided, or has come.
fn is_leaving(job: &ComputeJob, attempt: u32) -> bool {
    let status = job.status.as_ref();
    let is_active = status
        .and_then(ComputeJobStatus::active_placement)
        .is_some_and(|placement| placement.attempt == attempt);
    let ends = status
        .and_then(|status| status.ending.as_ref())
        .is_some_and(|ending| ending.attempt == attempt);
    !is_active || ends || job.metadata.deletion_timestamp.is_some()
}

/// For how long all members of the attempt in progress have run.
fn seconds_run(status: Option<&ComputeJobStatus>, now: Timestamp) -> u64 {
    let conditions = status.map(|status| status.conditions.as_slice());
    condition::find(conditions.unwrap_or_default(), ComputeJobCondition::Running)
        .filter(|running| running.status == "True")
        .map_or(0, |running| {
            let ran = now.duration_since(running.last_transition_time.0);
            u64::try_from(ran.as_secs()).unwrap_or(0)
        })
}
