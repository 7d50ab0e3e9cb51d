//! Which waiting jobs get a place, and what the others are told. Pure: no client, no clock, no randomness.

use std::collections::BTreeSet;

use gridstake_crds::{
    ComputeJob,
    closed_enum::ClosedEnum as _,
    compute_job::{
        ComputeJobCondition, ComputeJobReason, ComputeJobStatus, MemberNode,
        Placement as ApiPlacement,
    },
    condition::{self, Fact},
};
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use kube::ResourceExt as _;

use crate::{
    controllers::{
        compute_job::retry,
        job_request::{Shunned, job_request},
    },
    error::chain,
    scheduler::{
        self, Placement, RejectionCount, Request, Seed, Snapshot, explain, queue::QueueEntry,
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
    /// It may not wait for a place; why.
    Barred(ComputeJobReason),
    /// It waits for a moment after a failure.
    HeldBack(Timestamp),
    /// It waits for a place.
    Waiting,
}

/// Where `job` stands at `now`.
#[must_use]
pub fn standing(job: &ComputeJob, now: Timestamp) -> Standing {
    let Some(status) = job
        .status
        .as_ref()
        .filter(|s| s.observed_generation.is_some())
    else {
        return Standing::Unseen;
    };
    if job.metadata.deletion_timestamp.is_some()
        || status.has_ended()
        || status.active_placement().is_some()
    {
        return Standing::Settled;
    }
    if job.spec.suspend {
        return Standing::Barred(ComputeJobReason::Suspended);
    }
    if status.observed_generation != job.metadata.generation {
        return Standing::Unseen;
    }
    if !condition::is_true(&status.conditions, ComputeJobCondition::Admitted) {
        return Standing::Barred(ComputeJobReason::Pending);
    }
    match retry::not_before(status).filter(|at| *at > now) {
        Some(at) => Standing::HeldBack(at),
        None => Standing::Waiting,
    }
}

/// The job's place in the queue; `priority` is its PriorityClass's value.
#[must_use]
pub fn queue_entry(job: &ComputeJob, priority: i32) -> QueueEntry {
    QueueEntry {
        priority,
        payer_usage: 0,
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

/// What a waiting job gets.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// A place for every member.
    Placed(Placement, Box<Request>),
    /// Nothing now, why, and when to try again if nothing changes before.
    Waits(ComputeJobReason, String, Option<Timestamp>),
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

/// Places the next attempt of `job` on `snapshot`, or says what it waits for.
#[must_use]
pub fn place(job: &ComputeJob, snapshot: &Snapshot, around: Surroundings<'_>) -> Outcome {
    place_by(job, around, |request, seed| {
        scheduler::linear::place(snapshot, request, seed)
    })
}

/// As [`place`], by whatever decides about the request.
#[must_use]
pub fn place_by(
    job: &ComputeJob,
    around: Surroundings<'_>,
    decision: impl FnOnce(&Request, &Seed) -> Result<Placement, Vec<RejectionCount>>,
) -> Outcome {
    let status = job.status.clone().unwrap_or_default();
    let suspects = retry::suspects(&status, around.now);
    let shunned = Shunned {
        suspects: suspects.iter().map(|(node, _)| node.clone()).collect(),
        same_owner: around.same_owner,
    };
    let request = match job_request(
        job,
        next_attempt(&status),
        around.namespace,
        shunned,
        around.priority_class,
    ) {
        Ok(request) => request,
        Err(error) => {
            return Outcome::Waits(ComputeJobReason::InvalidTemplate, chain(&error), None);
        }
    };
    match decision(&request, &around.seed) {
        Ok(placement) => Outcome::Placed(placement, Box::new(request)),
        Err(rejections) => {
            let again = suspects.into_iter().map(|(_, until)| until).min();
            Outcome::Waits(
                ComputeJobReason::InsufficientCapacity,
                explain::waiting(&rejections, &request),
                again,
            )
        }
    }
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
    let price_of = |name: &str| {
        let nodes = snapshot.nodes().iter().map(NodeCapacity::facts);
        let price = nodes.into_iter().find(|facts| facts.name == name)?.price;
        (price.nano() > 0).then_some(price)
    };
    let member = |(number, node): (u32, &String)| {
        let payee = provider_of(node);
        MemberNode {
            member: number,
            node: node.clone(),
            per_gpu_second: price_of(node),
            provider_id: payee.as_ref().map(|payee| payee.provider),
            chain: payee.map(|payee| payee.chain),
        }
    };
    ApiPlacement {
        attempt,
        nodes: (0..).zip(&placement.nodes).map(member).collect(),
        decided_at: Time(now),
        decision: placement.decision.to_api(),
    }
}

/// Whether the fleet has changed so that the condition `Admitted` no longer says what is true: the ComputeJob
/// controller, which owns it, must look again.
#[must_use]
pub fn admission_is_outdated(
    job: &ComputeJob,
    standing: &Standing,
    snapshot: &Snapshot,
    around: &Surroundings<'_>,
) -> bool {
    let status = job.status.clone().unwrap_or_default();
    let unsatisfiable = condition::find(&status.conditions, ComputeJobCondition::Admitted)
        .is_some_and(|c| c.reason == ComputeJobReason::Unsatisfiable.as_str());
    let said = match standing {
        Standing::Waiting => true,
        Standing::Barred(ComputeJobReason::Pending) if unsatisfiable => false,
        _ => return false,
    };
    let request = job_request(
        job,
        next_attempt(&status),
        around.namespace.clone(),
        Shunned::default(),
        around.priority_class,
    );
    request.is_ok_and(|request| explain::satisfiable(snapshot, &request).is_ok() != said)
}

/// The `Scheduled` fact of a job that is not being placed now; `None` where it is not ours to say anything new.
#[must_use]
pub fn fact(standing: &Standing, outcome: Option<&Outcome>) -> Option<Fact> {
    let scheduled = |holds: bool, reason, message: &str| {
        Some(Fact::new(
            ComputeJobCondition::Scheduled,
            holds,
            reason,
            message,
        ))
    };
    match (standing, outcome) {
        (Standing::Waiting, Some(Outcome::Placed(..))) => {
            scheduled(true, ComputeJobReason::Placed, "")
        }
        (Standing::Waiting, Some(Outcome::Waits(reason, message, _))) => {
            scheduled(false, *reason, message)
        }
        (Standing::HeldBack(_), _) => scheduled(
            false,
            ComputeJobReason::BackingOff,
            "the last attempt failed; the next one follows shortly",
        ),
        (Standing::Barred(ComputeJobReason::Suspended), _) => {
            scheduled(false, ComputeJobReason::Suspended, "spec.suspend is set")
        }
        (Standing::Barred(reason), _) => scheduled(false, *reason, "waits for Admitted"),
        _ => None,
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
        assert_eq!(standing(&job("", ""), at(1)), Standing::Unseen);
        assert_eq!(
            standing(&job("", ", status: {observedGeneration: 1}"), at(1)),
            Standing::Unseen
        );
        assert_eq!(
            standing(&job("", ", status: {observedGeneration: 2}"), at(1)),
            Standing::Barred(ComputeJobReason::Pending)
        );
        assert_eq!(
            standing(&job(", suspend: true", &seen("")), at(1)),
            Standing::Barred(ComputeJobReason::Suspended)
        );
        assert_eq!(standing(&job("", &seen("")), at(1)), Standing::Waiting);
        assert_eq!(
            standing(&job("", &seen(", endReason: Succeeded")), at(1)),
            Standing::Settled
        );
    }

    #[test]
    fn a_job_whose_attempt_failed_is_held_back_for_a_moment() {
        let failed = format!(
            ", failures: {{infrastructure: 2}}, attempts: [{{attempt: 1, nodes: [a], endedAt: '{}', endReason: NodeLost, gpuMillis: 0}}]",
            at(10)
        );
        assert_eq!(
            standing(&job("", &seen(&failed)), at(11)),
            Standing::HeldBack(at(12))
        );
        assert_eq!(
            standing(&job("", &seen(&failed)), at(12)),
            Standing::Waiting
        );
    }

    #[test]
    fn with_no_node_a_job_is_told_so_and_waits() {
        let snapshot = Snapshot::assemble(scheduler::SnapshotInputs {
            nodes: vec![],
            pods: vec![],
            reservations: vec![],
            weights: scheduler::weight::WeightPolicy::default(),
            sequence: 1,
        });
        let seed = Seed {
            block_hash: scheduler::draw::NEVER_SYNCED_BLOCK,
            previous_decision: scheduler::draw::NO_PREVIOUS_DECISION,
        };
        let around = Surroundings {
            namespace: OfNamespace::default(),
            priority_class: "p",
            seed,
            now: at(1),
            same_owner: BTreeSet::new(),
        };
        let outcome = place(&job("", &seen("")), &snapshot, around);
        assert_eq!(
            outcome,
            Outcome::Waits(
                ComputeJobReason::InsufficientCapacity,
                "no GPU node is known".into(),
                None
            )
        );
    }

    #[test]
    fn higher_priority_goes_first_and_then_age() {
        let old = job("", "");
        let mut young = job("", "");
        young.metadata.creation_timestamp = Some(Time(at(5)));
        assert!(queue_entry(&old, 0) < queue_entry(&young, 0));
        assert!(queue_entry(&young, 1) < queue_entry(&old, 0));
    }
}
