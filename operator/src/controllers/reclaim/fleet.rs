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
    decide::{AttemptKey, Part, PartKey, Reclaim, Room, Sight, Tenancy},
    preempt::{Preemptor, Standing, Terms},
};
use crate::{
    Context,
    caches::parsed,
    controllers::{
        compute_job::replace,
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
    let mut all: BTreeMap<PartKey, Tenancy> = BTreeMap::new();
    let mut terms: BTreeMap<AttemptKey, Splits> = BTreeMap::new();
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
        let job = by_uid.get(&attempt.job).copied();
        let splits = terms
            .entry(attempt)
            .or_insert_with(|| Splits::of(job, attempt.attempt));
        let part = splits.part(member.member, node);
        let tenancy = all
            .entry((attempt, part.clone()))
            .or_insert_with(|| Tenancy {
                attempt,
                is_leaving: splits.is_leaving || matches!(part, Part::GivenUp(_)),
                was_asked: caches.reclaims().ask(attempt, &part),
                part,
                gpu_seconds: 0,
                on: BTreeMap::new(),
            });
        tenancy.on.entry(node.clone()).or_default().add(resources);
    }
    let mut in_all: BTreeMap<AttemptKey, u64> = BTreeMap::new();
    for tenancy in all.values() {
        *in_all.entry(tenancy.attempt).or_default() += gpus(tenancy);
    }
    for tenancy in all.values_mut() {
        let ran = by_uid
            .get(&tenancy.attempt.job)
            .map_or(0, |job| seconds_run(job.status.as_ref(), now));
        let gpus = match tenancy.part {
            Part::Whole => in_all.get(&tenancy.attempt).copied().unwrap_or(0),
            Part::On(_) | Part::GivenUp(_) => gpus(tenancy),
        };
        tenancy.gpu_seconds = gpus.saturating_mul(ran);
    }
    all.into_values().collect()
}

fn gpus(tenancy: &Tenancy) -> u64 {
    tenancy.on.values().map(|resources| resources.gpus).sum()
}

/// In which parts an attempt gives its GPUs back.
#[derive(Clone, Debug, Default)]
struct Splits {
    /// Whether its end is decided, or has come.
    is_leaving: bool,
    /// Its members that have been given up.
    given_up: BTreeSet<u32>,
    /// The nodes without whose members it may go on.
    by_node: BTreeSet<String>,
}

impl Splits {
    fn of(job: Option<&ComputeJob>, attempt: u32) -> Self {
        let Some((job, status)) = job.and_then(|job| Some((job, job.status.as_ref()?))) else {
            return Self {
                is_leaving: true,
                ..Self::default()
            };
        };
        let given_up = status.replaced.iter();
        let given_up = given_up.filter(|lost| lost.attempt == attempt);
        let is_leaving = is_leaving(job, attempt);
        let placement = status.active_placement().filter(|_| !is_leaving);
        Self {
            is_leaving,
            given_up: given_up.map(|lost| lost.member).collect(),
            by_node: placement.map_or_else(BTreeSet::new, |placement| {
                replace::nodes_that_may_go(&job.spec, status, placement)
            }),
        }
    }

    fn part(&self, member: u32, node: &str) -> Part {
        if self.given_up.contains(&member) {
            Part::GivenUp(node.to_owned())
        } else if self.by_node.contains(node) {
            Part::On(node.to_owned())
        } else {
            Part::Whole
        }
    }
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
        tenancy.is_leaving |= reclaims.iter().any(|reclaim| reclaim.takes(tenancy));
    }
    let tenancies = whole(tenancies);
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

/// For another job's sake an attempt is stopped as a whole: what of it stays is one.
fn whole(parts: Vec<Tenancy>) -> Vec<Tenancy> {
    let (leaving, mut staying): (Vec<_>, Vec<_>) =
        parts.into_iter().partition(|tenancy| tenancy.is_leaving);
    // What is lost with all of it, the part of that name says, where there is one: it comes first.
    staying.sort_by_key(Tenancy::key);
    let mut all: BTreeMap<AttemptKey, Tenancy> = BTreeMap::new();
    for part in staying {
        let Some(first) = all.get_mut(&part.attempt) else {
            all.insert(part.attempt, part);
            continue;
        };
        first.was_asked |= part.was_asked;
        if first.part != Part::Whole {
            first.gpu_seconds = first.gpu_seconds.saturating_add(part.gpu_seconds);
        }
        for (node, resources) in &part.on {
            first.on.entry(node.clone()).or_default().add(resources);
        }
    }
    for whole in all.values_mut() {
        whole.part = Part::Whole;
    }
    leaving.into_iter().chain(all.into_values()).collect()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::Resources;

    fn gang(retry: &str, replaced: &str) -> ComputeJob {
        let zero = format!("0x{}", "0".repeat(64));
        // Five members share a node, and three have one each.
        let nodes: Vec<_> = (0..8_u32)
            .map(|member| {
                format!(
                    "{{member: {member}, node: node-{}}}",
                    member.saturating_sub(4)
                )
            })
            .collect();
        serde_saphyr::from_str(&format!(
            "{{apiVersion: gridstake.dev/v1alpha1, kind: ComputeJob, metadata: {{name: j, namespace: n, uid: u}}, \
             spec: {{gpu: {{count: 1}}, template: {{}}, members: 8, retry: {retry}}}, \
             status: {{placement: {{attempt: 1, decidedAt: '2027-01-01T00:00:00Z', nodes: [{}], \
             decision: {{draw: d, blockHash: '{zero}', previous: '{zero}', hash: '{zero}', snapshot: 1, candidates: 1, totalWeight: '1', drawn: []}}}}, \
             replaced: [{replaced}], \
             conditions: [{{type: Running, status: 'True', reason: Running, message: '', lastTransitionTime: '2026-01-01T00:00:00Z'}}]}}}}",
            nodes.join(", ")
        ))
        .unwrap()
    }

    #[test]
    fn a_gang_gives_those_nodes_back_by_themselves_without_which_it_may_go_on() {
        let part =
            |job: &ComputeJob, member, node: &str| Splits::of(Some(job), 1).part(member, node);
        let replaces = gang("{lostMember: Replace}", "");
        assert_eq!(part(&replaces, 5, "node-1"), Part::On("node-1".to_owned()));
        assert_eq!(part(&replaces, 0, "node-0"), Part::Whole, "more than half");
        assert_eq!(part(&gang("{}", ""), 5, "node-1"), Part::Whole);
        let lost = "{attempt: 1, member: 5, rank: 5, node: node-1, at: '2027-01-01T00:00:00Z', why: NodeLost}";
        let one_lost = gang("{lostMember: Replace}", lost);
        let given_up = Part::GivenUp("node-1".to_owned());
        assert_eq!(part(&one_lost, 5, "node-1"), given_up);
        assert_eq!(part(&one_lost, 6, "node-2"), Part::On("node-2".to_owned()));
        // Of an attempt that is over, all is on its way.
        let over = Splits::of(Some(&replaces), 2);
        assert!(over.is_leaving && over.part(0, "node-0") == Part::Whole);
        assert!(Splits::of(None, 1).is_leaving);
    }

    #[test]
    fn for_another_job_an_attempt_is_one_again_but_for_what_leaves() {
        let attempt = AttemptKey {
            job: JobUid([1; 16]),
            attempt: 1,
        };
        let tenancy = |node: &str, is_leaving| Tenancy {
            attempt,
            part: Part::On(node.to_owned()),
            is_leaving,
            was_asked: false,
            gpu_seconds: 10,
            on: BTreeMap::from([(node.to_owned(), Resources::default())]),
        };
        let parts = vec![tenancy("a", false), tenancy("b", true), tenancy("c", false)];
        let [leaving, staying] = &whole(parts)[..] else {
            panic!("not two");
        };
        assert_eq!(
            (leaving.is_leaving, &leaving.part),
            (true, &Part::On("b".to_owned()))
        );
        let nodes: Vec<_> = staying.on.keys().map(String::as_str).collect();
        assert_eq!(
            (&staying.part, nodes, staying.gpu_seconds),
            (&Part::Whole, vec!["a", "c"], 20)
        );
        let mut parts = vec![tenancy("a", false), tenancy("c", false)];
        parts.push(Tenancy {
            part: Part::Whole,
            gpu_seconds: 50,
            ..tenancy("d", false)
        });
        let [all] = &whole(parts)[..] else {
            panic!("not one");
        };
        assert_eq!((all.on.len(), all.gpu_seconds), (3, 50));
    }
}
