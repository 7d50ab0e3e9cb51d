//! What a ComputeJob's objects say about it. Pure.

use std::collections::BTreeMap;

use gridstake_crds::{
    ComputeJob, ComputeJobStatus, GpuNode, StakeBinding, TokenAmount, UsageRecord,
    compute_job::{
        Attempt, AttemptEndReason, ComputeJobCondition, ComputeJobReason, Decision, JobSettlement,
        JobVerification, MemberNode, Placement, RejectionCount, ReplacedMember, Verdict,
        VerdictReason,
    },
    condition::{find, is_true},
    usage_record::{UsageRecordCondition, UsageRecordReason},
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt as _;
use serde::Serialize;

use super::{
    conditions::{Block, blocks},
    next_steps::{self, Reason as _, meaning},
    waiting::{self, Waiting},
    weight::{WeightTerms, weight_of},
};
use crate::output::count;

/// The conditions of a job that are bad where they hold.
const BAD_IF_TRUE: [&str; 1] = ["Failed"];

/// What is read beside the job. What may not be read is absent, and `not_read` says so.
#[derive(Clone, Debug, Default)]
pub struct Beside {
    /// The nodes of the placement, by name.
    pub nodes: BTreeMap<String, GpuNode>,
    /// All StakeBindings.
    pub bindings: Vec<StakeBinding>,
    /// The job's UsageRecords.
    pub records: Vec<UsageRecord>,
    /// What could not be read, and what is missing for it.
    pub not_read: Vec<String>,
}

/// A job, explained.
#[derive(Serialize, Clone, Debug)]
#[serde(rename_all = "camelCase")]
pub struct JobReport {
    /// The namespace.
    pub namespace: String,
    /// The job.
    pub name: String,
    /// Where it stands, in one sentence.
    pub state: String,
    /// What keeps it from where it should be.
    pub blocked_by: Vec<Block>,
    /// Its place in the queue, and what it waits for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<QueueReport>,
    /// Where its newest attempt was placed, and by which draw.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub placement: Option<PlacementReport>,
    /// Members that were lost while the others ran on, the oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub replaced: Vec<ReplacedReport>,
    /// Its attempts that have ended, the oldest first.
    pub attempts: Vec<AttemptReport>,
    /// What it has used: the attempts that have ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<UsageReport>,
    /// How far its payment is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub settlement: Option<JobSettlement>,
    /// Slices that are not paid, and why.
    pub unpaid: Vec<UnpaidReport>,
    /// How the check of its result stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verification: Option<VerificationReport>,
    /// What could not be read.
    pub not_read: Vec<String>,
}

/// A job's place in the queue.
#[derive(Serialize, Clone, Debug)]
#[serde(rename_all = "camelCase")]
pub struct QueueReport {
    /// The place: exact up to 10, rounded up above.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub position: Option<u32>,
    /// By when it starts at the latest, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub starts_by: Option<Time>,
    /// What it waits for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<Waiting>,
}

/// Where an attempt was placed.
#[derive(Serialize, Clone, Debug)]
#[serde(rename_all = "camelCase")]
pub struct PlacementReport {
    /// The attempt.
    pub attempt: u32,
    /// Whether it is in progress.
    pub in_progress: bool,
    /// When it was decided.
    pub decided_at: Time,
    /// The version of the draw.
    pub draw: String,
    /// Nodes that could take a member.
    pub candidates: u32,
    /// The sum of their weights.
    pub total_weight: String,
    /// How many nodes each reason ruled out.
    pub rejections: Vec<RejectionCount>,
    /// Each member's draw.
    pub draws: Vec<DrawReport>,
    /// The block whose hash seeds the draw.
    pub block_hash: String,
    /// The decision before this one, which seeds it too.
    pub previous: String,
    /// The hash of the decision.
    pub hash: String,
}

/// A member's draw.
#[derive(Serialize, Clone, Debug)]
#[serde(rename_all = "camelCase")]
pub struct DrawReport {
    /// The member.
    pub member: u32,
    /// Its rank.
    pub rank: u32,
    /// The node that it fell on.
    pub node: String,
    /// The number that was drawn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub number: Option<String>,
    /// The provider's account number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider_id: Option<u32>,
    /// What the node weighs: at the price of then, with the stake and the reputation of now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<WeightTerms>,
    /// That out of the weights of all candidates, in thousandths, rounded down.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub odds_permille: Option<u64>,
}

/// A member that was lost while the others ran on.
#[derive(Serialize, Clone, Debug)]
#[serde(rename_all = "camelCase")]
pub struct ReplacedReport {
    /// As the job shows it.
    #[serde(flatten)]
    pub shown: ReplacedMember,
    /// What how it was lost means.
    pub meaning: &'static str,
    /// The member that has its rank now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<u32>,
    /// Where that one is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on: Option<String>,
    /// The hash of the decision that placed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
}

/// An attempt that has ended.
#[derive(Serialize, Clone, Debug)]
#[serde(rename_all = "camelCase")]
pub struct AttemptReport {
    /// The attempt.
    pub attempt: u32,
    /// Its nodes.
    pub nodes: Vec<String>,
    /// When its first container started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// When it ended.
    pub ended_at: Time,
    /// Why.
    pub end_reason: AttemptEndReason,
    /// What that means.
    pub meaning: &'static str,
    /// The exit code that decided it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The kubelet's or scheduler's words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// GPU-milliseconds that it held.
    pub gpu_millis: u64,
    /// At whose door its end is laid.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// On what that rests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict_reason: Option<VerdictReason>,
    /// The members to which it applies.
    pub verdict_members: Vec<u32>,
    /// What it costs, and whom.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost: Option<&'static str>,
    /// Nodes that this job leaves alone for a while.
    pub suspects: Vec<String>,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<&'static str>,
}

/// What a job has used.
#[derive(Serialize, Clone, Debug)]
#[serde(rename_all = "camelCase")]
pub struct UsageReport {
    /// GPU-milliseconds.
    pub gpu_millis: u64,
    /// Energy in millijoules, where it was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub energy_millijoules: Option<u64>,
    /// What it costs, in whole tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost: Option<TokenAmount>,
}

/// A slice that is not paid.
#[derive(Serialize, Clone, Debug)]
#[serde(rename_all = "camelCase")]
pub struct UnpaidReport {
    /// The UsageRecord.
    pub record: String,
    /// Why.
    pub reason: String,
    /// For people.
    pub message: String,
    /// What to do next.
    pub next: &'static str,
}

/// How the check of a result stands.
#[derive(Serialize, Clone, Debug)]
#[serde(rename_all = "camelCase")]
pub struct VerificationReport {
    /// As the job shows it.
    #[serde(flatten)]
    pub shown: JobVerification,
    /// What to do next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<&'static str>,
}

/// Explains `job`.
#[must_use]
pub fn explain(job: &ComputeJob, beside: Beside) -> JobReport {
    let empty = ComputeJobStatus::default();
    let status = job.status.as_ref().unwrap_or(&empty);
    let blocked_by = blocks::<ComputeJobReason>(&status.conditions, &BAD_IF_TRUE);
    JobReport {
        namespace: job.namespace().unwrap_or_default(),
        name: job.name_any(),
        state: state(job, status, &blocked_by),
        blocked_by,
        queue: queue(status),
        placement: status
            .placement
            .as_ref()
            .map(|placement| placed(placement, status, &beside)),
        replaced: status
            .replaced
            .iter()
            .map(|lost| replaced(lost, status.placement.as_ref()))
            .collect(),
        attempts: status.attempts.iter().map(ended).collect(),
        usage: status.usage.as_ref().map(|usage| UsageReport {
            gpu_millis: usage.gpu_millis,
            energy_millijoules: usage.energy_millijoules,
            cost: usage.cost,
        }),
        settlement: status.settlement.clone(),
        unpaid: unpaid(&beside.records),
        verification: status
            .verification
            .as_ref()
            .map(|shown| VerificationReport {
                shown: shown.clone(),
                next: next_steps::of_verification(shown.state),
            }),
        not_read: beside.not_read,
    }
}

/// Where the job stands.
fn state(job: &ComputeJob, status: &ComputeJobStatus, blocked_by: &[Block]) -> String {
    if let Some(reason) = status.end_reason {
        let attempts = status
            .placement
            .as_ref()
            .map_or(0, |placement| placement.attempt);
        let attempts = count(attempts, "attempt", "attempts");
        return format!("it has ended after {attempts}: {}", meaning(reason));
    }
    if job.metadata.deletion_timestamp.is_some() {
        return "it is being deleted: its pods end and are billed first".to_owned();
    }
    if let Some(ending) = &status.ending {
        return format!(
            "attempt {} is being stopped: {}",
            ending.attempt,
            meaning(ending.reason)
        );
    }
    if let Some(placement) = status.active_placement() {
        let verb = if is_true(&status.conditions, ComputeJobCondition::Running) {
            "runs"
        } else {
            "starts"
        };
        return format!(
            "attempt {} {verb} on {}",
            placement.attempt,
            nodes_of(placement)
        );
    }
    if job.spec.suspend {
        return "it is suspended".to_owned();
    }
    if status.observed_generation.is_none() {
        return "the operator has not looked at it yet; if that lasts, see whether one leads: `kubectl get leases -A`"
            .to_owned();
    }
    if is_true(&status.conditions, ComputeJobCondition::Admitted) {
        return match &status.queue {
            Some(queue) => format!(
                "it waits for a place, as number {} in the queue",
                told(queue.position)
            ),
            None => "it waits for a place".to_owned(),
        };
    }
    match blocked_by.first() {
        Some(block) => format!("it does not get into the queue: {}", block.reason),
        None => "it is being looked at".to_owned(),
    }
}

/// A place in the queue: above 10 it is rounded up.
pub(super) fn told(position: u32) -> String {
    if position > 10 {
        format!("{position} or less")
    } else {
        position.to_string()
    }
}

/// The nodes of a placement, each once.
fn nodes_of(placement: &Placement) -> String {
    let mut nodes: Vec<&str> = Vec::new();
    for member in &placement.nodes {
        if !nodes.contains(&member.node.as_str()) {
            nodes.push(&member.node);
        }
    }
    nodes.join(", ")
}

fn queue(status: &ComputeJobStatus) -> Option<QueueReport> {
    let waits_for = find(&status.conditions, ComputeJobCondition::Scheduled)
        .filter(|c| c.status != "True")
        .and_then(|c| waiting::read(&c.message));
    let place = status.queue.as_ref().filter(|_| !status.has_ended());
    (place.is_some() || waits_for.is_some()).then(|| QueueReport {
        position: place.map(|place| place.position),
        starts_by: place.and_then(|place| place.starts_by.clone()),
        waits_for,
    })
}

fn placed(placement: &Placement, status: &ComputeJobStatus, beside: &Beside) -> PlacementReport {
    let decision = &placement.decision;
    let draws = placement.nodes.iter().map(|member| {
        let (decision, at) = drawn_by(placement, member);
        let total = decision.total_weight.parse::<u128>();
        let total = total.ok().filter(|total| *total > 0);
        let weight = beside.nodes.get(&member.node).and_then(|node| {
            let price = member.per_gpu_second.unwrap_or_default();
            weight_of(node, &beside.bindings, Some(price))
        });
        let odds = weight.as_ref().zip(total).and_then(|(weight, total)| {
            u64::try_from(u128::from(weight.weight).saturating_mul(1000) / total)
                .ok()
                .filter(|permille| *permille <= 1000)
        });
        DrawReport {
            member: member.member,
            rank: member.rank(),
            node: member.node.clone(),
            number: at.and_then(|at| decision.drawn.get(at)).cloned(),
            provider_id: member.provider_id,
            weight,
            odds_permille: odds,
        }
    });
    PlacementReport {
        attempt: placement.attempt,
        in_progress: status.active_placement().is_some(),
        decided_at: placement.decided_at.clone(),
        draw: decision.draw.clone(),
        candidates: decision.candidates,
        total_weight: decision.total_weight.clone(),
        rejections: decision.rejections.clone(),
        draws: draws.collect(),
        block_hash: decision.block_hash.clone(),
        previous: decision.previous.clone(),
        hash: decision.hash.clone(),
    }
}

/// The decision by which `member` was placed, and which of its draws: those are in the order of the ranks.
fn drawn_by<'a>(placement: &'a Placement, member: &'a MemberNode) -> (&'a Decision, Option<usize>) {
    let Some(taken) = &member.replacement else {
        let rank = usize::try_from(member.rank()).ok();
        return (&placement.decision, rank);
    };
    let hash = |node: &MemberNode| node.replacement.as_ref().map(|r| r.decision.hash.clone());
    let together = placement
        .nodes
        .iter()
        .filter(|node| hash(node) == hash(member));
    let at = together
        .take_while(|node| node.rank() < member.rank())
        .count();
    // Of others that it placed one may have been lost since: then it is not known any more which draw was whose.
    let all_are_there = placement
        .nodes
        .iter()
        .filter(|node| hash(node) == hash(member))
        .count()
        == taken.decision.drawn.len();
    (&taken.decision, all_are_there.then_some(at))
}

fn replaced(lost: &ReplacedMember, placement: Option<&Placement>) -> ReplacedReport {
    let takes_over = |node: &&MemberNode| {
        let taken = node.replacement.as_ref().map(|taken| taken.member);
        taken == Some(lost.member)
    };
    let next = placement
        .filter(|placement| placement.attempt == lost.attempt)
        .and_then(|placement| placement.nodes.iter().find(takes_over));
    let decision = next.and_then(|node| node.replacement.as_ref());
    ReplacedReport {
        shown: lost.clone(),
        meaning: meaning(lost.why),
        by: next.map(|node| node.member),
        on: next.map(|node| node.node.clone()),
        hash: decision.map(|taken| taken.decision.hash.clone()),
    }
}

fn ended(attempt: &Attempt) -> AttemptReport {
    AttemptReport {
        attempt: attempt.attempt,
        nodes: attempt.nodes.clone(),
        started_at: attempt.started_at.clone(),
        ended_at: attempt.ended_at.clone(),
        end_reason: attempt.end_reason,
        meaning: meaning(attempt.end_reason),
        exit_code: attempt.exit_code,
        message: attempt.message.clone(),
        gpu_millis: attempt.gpu_millis,
        verdict: attempt.verdict,
        verdict_reason: attempt.verdict_reason,
        verdict_members: attempt.verdict_members.clone(),
        cost: next_steps::cost_of(attempt.end_reason, attempt.verdict),
        suspects: attempt.suspects.clone(),
        next: attempt.end_reason.next_step(),
    }
}

/// The records whose payment is not final, and that say why.
fn unpaid(records: &[UsageRecord]) -> Vec<UnpaidReport> {
    let one = |record: &UsageRecord| {
        let conditions = &record.status.as_ref()?.conditions;
        let settled = find(conditions, UsageRecordCondition::Settled)?;
        let next = next_steps::next_step::<UsageRecordReason>(&settled.reason)?;
        (settled.status != "True").then(|| UnpaidReport {
            record: record.name_any(),
            reason: settled.reason.clone(),
            message: settled.message.clone(),
            next,
        })
    };
    records.iter().filter_map(one).collect()
}

#[cfg(test)]
#[path = "job_tests.rs"]
mod tests;
