//! Which waiting jobs get a place, and what the others are told. Pure: no client, no clock, no randomness.

use std::collections::BTreeSet;

use gridstake_crds::{
    ComputeJob,
    closed_enum::ClosedEnum as _,
    compute_job::{
        ComputeJobCondition, ComputeJobReason, ComputeJobStatus, MemberNode,
        Placement as ApiPlacement, QueuePlace,
    },
    condition::{self, Fact},
};
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use kube::ResourceExt as _;

use super::{
    position::{EXACT, Urgency},
    replacement::{self, Lost},
};
use crate::{
    controllers::{
        compute_job::retry,
        job_request::{Shunned, job_request},
    },
    scheduler::{
        self, Placement, Request, Seed, Snapshot, fair_share::Payer, queue::QueueEntry,
        request::OfNamespace, snapshot::NodeCapacity,
    },
};

/// Where a job stands with respect to being placed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The ComputeJob controller has not looked at it yet.
    Unseen,
    /// It has its place, or needs none any more.
    Settled,
    /// It runs, and some of its ranks, whose members were lost, wait for other nodes.
    Replacing(Lost),
    /// It may not wait for a place; why.
    Barred(ComputeJobReason),
    /// It waits for a moment after a failure.
    HeldBack(Timestamp),
    /// It waits for a place.
    Waiting,
}

/// Where `job` stands at `now`. `is_admitted`: it may wait for a place, although its status does not say so yet.
#[must_use]
pub fn standing(job: &ComputeJob, is_admitted: bool, now: Timestamp) -> Standing {
    let nothing = ComputeJobStatus::default();
    let status = job.status.as_ref().unwrap_or(&nothing);
    let is_told = status.observed_generation.is_some();
    if !is_told && !is_admitted && status.placement.is_none() {
        return Standing::Unseen;
    }
    if let Some(lost) = replacement::lost(job) {
        return Standing::Replacing(lost);
    }
    if job.metadata.deletion_timestamp.is_some()
        || status.has_ended()
        || status.active_placement().is_some()
    {
        return Standing::Settled;
    }
    if job.spec.suspend {
        return Standing::Barred(ComputeJobReason::Suspended);
    }
    if is_told && status.observed_generation != job.metadata.generation {
        return Standing::Unseen;
    }
    if !is_admitted && !condition::is_true(&status.conditions, ComputeJobCondition::Admitted) {
        return Standing::Barred(ComputeJobReason::Pending);
    }
    match retry::not_before(status).filter(|at| *at > now) {
        Some(at) => Standing::HeldBack(at),
        None => Standing::Waiting,
    }
}

/// Whether an attempt of `job` is in progress.
#[must_use]
pub fn is_active(job: &ComputeJob) -> bool {
    let status = job.status.as_ref();
    status.is_some_and(|status| status.active_placement().is_some())
}

/// How many GPUs all members of `job` take.
#[must_use]
pub fn gpus(job: &ComputeJob) -> u64 {
    u64::from(job.spec.gpu.count).saturating_mul(u64::from(job.spec.members.max(1)))
}

/// What the queue knows of the job; `priority` is its PriorityClass's value, and it counts against the share of `payer`.
#[must_use]
pub fn queue_entry(job: &ComputeJob, priority: i32, payer: Payer) -> QueueEntry {
    QueueEntry {
        priority,
        payer,
        gpus: gpus(job),
        created_ms: job
            .metadata
            .creation_timestamp
            .as_ref()
            .map_or(0, |t| t.0.as_millisecond()),
        job_uid: job
            .uid()
            .unwrap_or_default()
            .parse()
            .unwrap_or(scheduler::JobUid([0; 16])),
    }
}

/// What is known beside the job itself.
#[derive(Clone, Debug)]
pub struct Surroundings<'a> {
    /// What the job's namespace says.
    pub namespace: OfNamespace,
    /// The PriorityClass of the job's pods.
    pub priority_class: &'a str,
    /// The hashes that seed the draw.
    pub seed: Seed,
    /// The time at which suspicions are judged.
    pub now: Timestamp,
    /// Nodes whose owners compute the result with which the job's own is to be compared.
    pub same_owner: BTreeSet<String>,
}

/// Places the next attempt of `job` on `snapshot`, apart from what is kept for others; `None` if it does not fit or its
/// template cannot be read.
#[must_use]
pub fn place(
    job: &ComputeJob,
    snapshot: &Snapshot,
    around: Surroundings<'_>,
) -> Option<(Placement, Request)> {
    let base = job_request(
        job,
        1,
        OfNamespace::default(),
        Shunned::default(),
        around.priority_class,
    );
    let request = next_request(
        job,
        &base.ok()?,
        around.namespace,
        around.same_owner,
        around.now,
    );
    let placement = scheduler::linear::place(snapshot, &request, &around.seed).ok()?;
    Some((placement, request))
}

/// What the next attempt of `job` asks for, where `first` is what a first one does, its own or another job's that asks for the
/// same.
#[must_use]
pub fn next_request(
    job: &ComputeJob,
    first: &Request,
    namespace: OfNamespace,
    same_owner: BTreeSet<String>,
    now: Timestamp,
) -> Request {
    let (attempt, avoid) = match &job.status {
        Some(status) => (next_attempt(status), suspects(status, now)),
        None => (1, BTreeSet::new()),
    };
    let uid = job.metadata.uid.as_deref().map(str::parse);
    Request {
        job_uid: uid.and_then(Result::ok).unwrap_or(first.job_uid),
        attempt,
        namespace_labels: namespace.labels,
        chain: namespace.chain,
        avoid,
        same_owner,
        ..first.clone()
    }
}

fn suspects(status: &ComputeJobStatus, now: Timestamp) -> BTreeSet<String> {
    let suspects = retry::suspects(status, now).into_iter();
    suspects.map(|(node, _)| node).collect()
}

/// When a node that is suspect for `job` may be tried again, if there is one.
#[must_use]
pub fn trusts_again(job: &ComputeJob, now: Timestamp) -> Option<Timestamp> {
    let suspects = retry::suspects(job.status.as_ref()?, now);
    suspects.into_iter().map(|(_, until)| until).min()
}

/// The number of the attempt after the last one.
#[must_use]
pub fn next_attempt(status: &ComputeJobStatus) -> u32 {
    status
        .placement
        .as_ref()
        .map_or(1, |p| p.attempt.saturating_add(1))
}

/// Whom the use of a node is owed to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payee {
    /// The chain, by its name.
    pub chain: String,
    /// The provider's account number there.
    pub provider: u32,
}

/// The placement as it is written into the job's status, with each node's price on `snapshot`, its provider and that
/// provider's chain: they hold for the attempt, whatever is changed later.
#[must_use]
pub fn to_api(
    placement: &Placement,
    attempt: u32,
    snapshot: &Snapshot,
    provider_of: impl Fn(&str) -> Option<Payee>,
    now: Timestamp,
) -> ApiPlacement {
    let member = |(number, node): (u32, &String)| member_node(number, node, snapshot, &provider_of);
    ApiPlacement {
        attempt,
        nodes: (0..).zip(&placement.nodes).map(member).collect(),
        decided_at: Time(now),
        decision: placement.decision.to_api(),
    }
}

/// A member on `node`, with the node's price on `snapshot`, its provider and that provider's chain.
#[must_use]
pub fn member_node(
    number: u32,
    node: &str,
    snapshot: &Snapshot,
    provider_of: impl Fn(&str) -> Option<Payee>,
) -> MemberNode {
    let mut nodes = snapshot.nodes().iter().map(NodeCapacity::facts);
    let price = nodes
        .find(|facts| facts.name == node)
        .map(|facts| facts.price);
    let payee = provider_of(node);
    MemberNode {
        member: number,
        rank: None,
        node: node.to_owned(),
        per_gpu_second: price.filter(|price| price.nano() > 0),
        provider_id: payee.as_ref().map(|payee| payee.provider),
        chain: payee.map(|payee| payee.chain),
        replacement: None,
    }
}

/// Whether the condition `Admitted` no longer says what is true: the ComputeJob controller, which owns it, must look
/// again. `satisfiable` tells whether any node could ever take the job.
#[must_use]
pub fn admission_is_outdated(
    job: &ComputeJob,
    standing: &Standing,
    satisfiable: impl FnOnce() -> bool,
) -> bool {
    match standing {
        Standing::Waiting => !satisfiable(),
        Standing::Barred(ComputeJobReason::Pending) => is_unsatisfiable(job) && satisfiable(),
        _ => false,
    }
}

/// Whether the job is kept out of the queue since no node could ever take it.
fn is_unsatisfiable(job: &ComputeJob) -> bool {
    job.status
        .as_ref()
        .and_then(|status| condition::find(&status.conditions, ComputeJobCondition::Admitted))
        .is_some_and(|c| c.reason == ComputeJobReason::Unsatisfiable.as_str())
}

/// What `Scheduled` says of a job that has been placed.
#[must_use]
pub fn placed() -> Fact {
    scheduled(true, ComputeJobReason::Placed, "")
}

/// The same of one of which some members wait for a place.
#[must_use]
pub fn placed_but_for(words: &str) -> Fact {
    scheduled(true, ComputeJobReason::Placed, words)
}

/// What `Ready` says of a job that has been placed before anything else was said of it.
#[must_use]
pub fn starts() -> Fact {
    Fact::new(
        ComputeJobCondition::Ready,
        false,
        ComputeJobReason::Placed,
        "",
    )
}

/// What it says of a job that waits for a place.
#[must_use]
pub fn waits(reason: ComputeJobReason, message: &str) -> Fact {
    scheduled(false, reason, message)
}

/// What it says of a job that does not wait for a place; `None` where it is not ours to say anything new.
#[must_use]
pub fn fact(standing: &Standing) -> Option<Fact> {
    match standing {
        Standing::HeldBack(_) => Some(waits(
            ComputeJobReason::BackingOff,
            "the last attempt failed; the next one follows shortly",
        )),
        Standing::Barred(ComputeJobReason::Suspended) => {
            Some(waits(ComputeJobReason::Suspended, "spec.suspend is set"))
        }
        Standing::Barred(reason) => Some(waits(*reason, "waits for Admitted")),
        Standing::Waiting | Standing::Unseen | Standing::Settled | Standing::Replacing(_) => None,
    }
}

fn scheduled(holds: bool, reason: ComputeJobReason, message: &str) -> Fact {
    Fact::new(ComputeJobCondition::Scheduled, holds, reason, message)
}

/// How far what a job was told is from what is true now; `None` if it says it already. `fact` is `None` where the
/// condition stays as it is.
#[must_use]
pub fn urgency(
    job: &ComputeJob,
    fact: Option<&Fact>,
    queue: Option<&QueuePlace>,
) -> Option<Urgency> {
    let nothing = ComputeJobStatus::default();
    let status = job.status.as_ref().unwrap_or(&nothing);
    if let Some(fact) = fact {
        let stated = status
            .conditions
            .iter()
            .find(|c| c.type_ == fact.condition)
            .filter(|c| c.status == fact.status.as_str() && c.reason == fact.reason)
            .filter(|c| c.observed_generation == job.metadata.generation);
        let Some(stated) = stated else {
            return Some(Urgency::News);
        };
        if stated.message == fact.message && status.queue.as_ref() == queue {
            return None;
        }
    } else if status.queue.as_ref() == queue {
        return None;
    }
    match (queue, &status.queue) {
        (None, Some(_)) | (Some(_), None) => Some(Urgency::News),
        (Some(place), _) if place.position <= EXACT => Some(Urgency::Front),
        _ => Some(Urgency::Words),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn job(spec: &str, status: &str) -> ComputeJob {
        serde_saphyr::from_str(&format!(
            "{{apiVersion: gridstake.dev/v1alpha1, kind: ComputeJob, metadata: {{name: j, namespace: n, uid: 0f8fad5b-d9cb-469f-a165-70867728950e, generation: 2, creationTimestamp: '{}'}}, \
             spec: {{gpu: {{count: 2}}, template: {{spec: {{containers: [{{name: a, image: a}}]}}}}{spec}}}{status}}}",
            at(0)
        ))
        .unwrap()
    }

    const ADMITTED: &str = "conditions: [{type: Admitted, status: 'True', reason: Admitted, message: '', lastTransitionTime: '2026-01-01T00:00:00Z'}]";

    fn seen(more: &str) -> String {
        format!(", status: {{observedGeneration: 2, {ADMITTED}{more}}}")
    }

    #[test]
    fn only_an_admitted_job_without_a_place_waits_for_one() {
        assert_eq!(standing(&job("", ""), false, at(1)), Standing::Unseen);
        assert_eq!(
            standing(&job("", ", status: {observedGeneration: 1}"), false, at(1)),
            Standing::Unseen
        );
        assert_eq!(
            standing(&job("", ", status: {observedGeneration: 2}"), false, at(1)),
            Standing::Barred(ComputeJobReason::Pending)
        );
        assert_eq!(
            standing(&job(", suspend: true", &seen("")), false, at(1)),
            Standing::Barred(ComputeJobReason::Suspended)
        );
        assert_eq!(
            standing(&job("", &seen("")), false, at(1)),
            Standing::Waiting
        );
        assert_eq!(
            standing(&job("", &seen(", endReason: Succeeded")), false, at(1)),
            Standing::Settled
        );
    }

    #[test]
    fn a_job_may_be_admitted_before_its_status_says_so() {
        let stands = |spec, status: &str| standing(&job(spec, status), true, at(1));
        assert_eq!(stands("", ""), Standing::Waiting);
        assert_eq!(
            stands("", ", status: {queue: {position: 1}}"),
            Standing::Waiting
        );
        assert_eq!(
            stands(", suspend: true", ""),
            Standing::Barred(ComputeJobReason::Suspended)
        );
        // One that has its place without another word waits for none.
        let zero = format!("0x{}", "0".repeat(64));
        let placed = format!(
            ", status: {{placement: {{attempt: 1, decidedAt: '{}', nodes: [], decision: {{draw: d, blockHash: '{zero}', previous: '{zero}', hash: '{zero}', snapshot: 1, candidates: 1, totalWeight: '1', drawn: []}}}}}}",
            at(1)
        );
        for is_admitted in [false, true] {
            let placed = job("", &placed);
            assert_eq!(standing(&placed, is_admitted, at(1)), Standing::Settled);
        }
    }

    #[test]
    fn a_job_whose_attempt_failed_is_held_back_for_a_moment() {
        let failed = format!(
            ", failures: {{infrastructure: 2}}, attempts: [{{attempt: 1, nodes: [a], endedAt: '{}', endReason: NodeLost, gpuMillis: 0}}]",
            at(10)
        );
        assert_eq!(
            standing(&job("", &seen(&failed)), false, at(11)),
            Standing::HeldBack(at(12))
        );
        assert_eq!(
            standing(&job("", &seen(&failed)), false, at(12)),
            Standing::Waiting
        );
    }

    #[test]
    fn a_job_is_told_only_what_it_has_not_been_told() {
        let told = |message: &str, queue: &str| {
            let status = format!(
                ", status: {{observedGeneration: 2, conditions: [{{type: Scheduled, status: 'False', reason: InsufficientCapacity, message: {message}, observedGeneration: 2, lastTransitionTime: '{}'}}]{queue}}}",
                at(0)
            );
            job("", &status)
        };
        let place = |position| QueuePlace {
            position,
            starts_by: None,
        };
        let fact = waits(ComputeJobReason::InsufficientCapacity, "full");
        let urgency_of =
            |job: &ComputeJob, queue: Option<QueuePlace>| urgency(job, Some(&fact), queue.as_ref());
        let says_it = told("full", ", queue: {position: 20}");
        assert_eq!(urgency_of(&says_it, Some(place(20))), None);
        assert_eq!(urgency_of(&says_it, Some(place(10))), Some(Urgency::Front));
        assert_eq!(urgency_of(&says_it, Some(place(50))), Some(Urgency::Words));
        assert_eq!(urgency_of(&says_it, None), Some(Urgency::News));
        assert_eq!(
            urgency_of(&told("fuller", ", queue: {position: 20}"), Some(place(20))),
            Some(Urgency::Words)
        );
        assert_eq!(
            urgency_of(&told("full", ""), Some(place(20))),
            Some(Urgency::News)
        );
        assert_eq!(
            urgency_of(&job("", &seen("")), Some(place(20))),
            Some(Urgency::News)
        );
        assert_eq!(
            urgency(&says_it, None, None),
            Some(Urgency::News),
            "it has ended"
        );
        assert_eq!(urgency(&told("full", ""), None, None), None);
    }

    #[test]
    fn a_job_that_became_impossible_and_one_that_became_possible_are_looked_at_again() {
        let waiting = job("", &seen(""));
        assert!(admission_is_outdated(&waiting, &Standing::Waiting, || {
            false
        }));
        assert!(!admission_is_outdated(&waiting, &Standing::Waiting, || {
            true
        }));
        let barred = Standing::Barred(ComputeJobReason::Pending);
        let refused = |reason: &str| {
            let status = format!(
                ", status: {{observedGeneration: 2, conditions: [{{type: Admitted, status: 'False', reason: {reason}, message: '', lastTransitionTime: '{}'}}]}}",
                at(0)
            );
            job("", &status)
        };
        assert!(admission_is_outdated(
            &refused("Unsatisfiable"),
            &barred,
            || true
        ));
        assert!(!admission_is_outdated(
            &refused("Unsatisfiable"),
            &barred,
            || false
        ));
        assert!(!admission_is_outdated(
            &refused("EscrowExhausted"),
            &barred,
            || true
        ));
    }

    #[test]
    fn a_job_that_is_resumed_waits_again_and_stands_where_its_age_puts_it() {
        let suspended = job(", suspend: true", &seen(""));
        let resumed = job("", &seen(""));
        assert_eq!(
            standing(&suspended, false, at(1)),
            Standing::Barred(ComputeJobReason::Suspended)
        );
        assert_eq!(standing(&resumed, false, at(1)), Standing::Waiting);
        let payer = || Payer::Namespace("n".to_owned());
        assert_eq!(
            queue_entry(&suspended, 0, payer()),
            queue_entry(&resumed, 0, payer())
        );
    }
}
