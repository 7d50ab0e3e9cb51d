//! A job's conditions as a function of its phase. Pure. `Scheduled` is not here: the placement controller owns it.

use gridstake_crds::{
    closed_enum::ClosedEnum as _,
    compute_job::{
        AttemptEndReason, ComputeJobCondition as C, ComputeJobReason as R, ComputeJobSpec,
        ComputeJobStatus, JobEndReason, VerificationState,
    },
    condition::{self, Fact, Status},
};
use k8s_openapi::jiff::Timestamp;

use super::{decide::Observed, replace, verification};
use crate::{
    failover::NodeState,
    payer::{Funds, WhoPays},
};

/// How far a job is, and what keeps it there. Derived in each pass, never stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The spec is not sound, or its pod is refused.
    Invalid(R, String),
    /// The API server could not be asked about it.
    NotValidated(String),
    /// It may not wait for a place.
    NotAdmitted(R, String),
    /// It waits for a place.
    Queued,
    /// It has a place and is being started.
    Starting(R, String),
    /// All members run or have ended well.
    Running,
    /// It is being stopped.
    Stopping(AttemptEndReason),
    /// It has ended.
    Ended(JobEndReason, String),
}

/// The facts that a job of this spec in `phase` states; `status` and `seen` tell what it has used and who pays.
#[must_use]
pub fn facts(
    job: &ComputeJobSpec,
    status: &ComputeJobStatus,
    phase: &Phase,
    seen: &Observed,
) -> Vec<Fact> {
    vec![
        validated(status, phase),
        admitted(status, phase),
        running(status, phase, seen),
        complete(phase),
        failed(phase),
        verified(job, status),
        metered(status, seen),
        settled(status, seen),
        ready(job, status, phase, seen),
    ]
}

/// Since when the job has been admitted, if it is.
#[must_use]
pub fn admitted_since(status: &ComputeJobStatus) -> Option<Timestamp> {
    condition::find(&status.conditions, C::Admitted)
        .filter(|c| c.status == "True")
        .map(|c| c.last_transition_time.0)
}

/// Whether the attempt in progress has been seen running.
#[must_use]
pub fn has_run(status: &ComputeJobStatus) -> bool {
    condition::is_true(&status.conditions, C::Running)
}

fn fact(condition: C, status: impl Into<Status>, reason: R, message: impl Into<String>) -> Fact {
    Fact::new(condition, status, reason, message)
}

/// What the status says already about a condition that this phase does not touch.
fn unchanged(status: &ComputeJobStatus, condition: C) -> Option<Fact> {
    let stated = condition::find(&status.conditions, condition)?;
    let reason = R::ALL.iter().find(|r| r.as_str() == stated.reason)?;
    let holds = match stated.status.as_str() {
        "True" => Status::True,
        "False" => Status::False,
        _ => Status::Unknown,
    };
    Some(fact(condition, holds, *reason, stated.message.clone()))
}

fn validated(status: &ComputeJobStatus, phase: &Phase) -> Fact {
    match phase {
        Phase::Invalid(reason, message) => fact(C::Validated, false, *reason, message),
        Phase::NotValidated(message) => fact(
            C::Validated,
            Status::Unknown,
            R::ValidationUnavailable,
            message,
        ),
        Phase::Stopping(_) | Phase::Ended(..) => {
            unchanged(status, C::Validated).unwrap_or_else(|| match status.placement {
                // It was placed before anything was said.
                Some(_) => fact(C::Validated, true, R::Valid, ""),
                None => fact(C::Validated, Status::Unknown, R::Pending, ""),
            })
        }
        _ => fact(C::Validated, true, R::Valid, ""),
    }
}

fn admitted(status: &ComputeJobStatus, phase: &Phase) -> Fact {
    match phase {
        Phase::Invalid(..) | Phase::NotValidated(_) => {
            fact(C::Admitted, false, R::Pending, "waits for Validated")
        }
        Phase::NotAdmitted(reason, message) => fact(C::Admitted, false, *reason, message),
        Phase::Stopping(_) | Phase::Ended(..) => {
            unchanged(status, C::Admitted).unwrap_or_else(|| match status.placement {
                Some(_) => fact(C::Admitted, true, R::Admitted, ""),
                None => fact(C::Admitted, false, R::Pending, ""),
            })
        }
        _ => fact(C::Admitted, true, R::Admitted, ""),
    }
}

/// What the condition `Running` says where there is nothing else to be said.
pub const ALL_RUN: &str = "all members run";

/// What the tenant should know about a job that runs: whether the money will last.
fn warning(seen: &Observed) -> Option<&str> {
    match &seen.funds {
        Funds::Low(message) => Some(message),
        Funds::Suffice | Funds::Exhausted(_) => None,
    }
}

/// What the tenant should know of the nodes of a job that runs: that one of them does not answer.
fn doubt(status: &ComputeJobStatus, seen: &Observed) -> Option<(R, &'static str)> {
    let attempt = status.active_placement()?.attempt;
    let nodes = || {
        seen.pods
            .iter()
            .filter(|m| m.attempt == attempt && status.replaced(attempt, m.member).is_none())
            .map(|m| m.node)
    };
    if nodes().any(|node| matches!(node, NodeState::Suspect { .. })) {
        let words =
            "a node of the job does not answer; unless it does soon, the job is placed elsewhere";
        Some((R::NodeSuspect, words))
    } else if nodes().any(|node| node == NodeState::Excused) {
        let words = "a node of the job does not answer, like too many others: the job is left alone until they are back";
        Some((R::Amnesty, words))
    } else {
        None
    }
}

/// What is to be said of a job that runs; `otherwise`, where there is nothing special.
fn how_it_runs(status: &ComputeJobStatus, seen: &Observed, otherwise: &str) -> (R, String) {
    if let Some(words) = replace::words(status) {
        return (R::ReplacingMember, words);
    }
    let (reason, message) =
        doubt(status, seen).unwrap_or((R::Running, warning(seen).unwrap_or(otherwise)));
    (reason, message.to_owned())
}

fn running(status: &ComputeJobStatus, phase: &Phase, seen: &Observed) -> Fact {
    match phase {
        Phase::Running => {
            let (reason, message) = how_it_runs(status, seen, ALL_RUN);
            fact(C::Running, true, reason, message)
        }
        Phase::Starting(reason, message) => fact(C::Running, false, *reason, message),
        Phase::Stopping(_) => fact(C::Running, false, R::Stopping, ""),
        Phase::Ended(..) => fact(C::Running, false, R::Ended, ""),
        Phase::Queued => fact(C::Running, false, R::Queued, ""),
        _ => fact(C::Running, false, R::Pending, ""),
    }
}

fn end_reason(reason: JobEndReason) -> R {
    match reason {
        JobEndReason::Succeeded => R::Succeeded,
        JobEndReason::ProgramFailed => R::ProgramFailed,
        JobEndReason::InfrastructureFailed => R::InfrastructureFailed,
        JobEndReason::QueueTimeout => R::QueueTimeout,
        JobEndReason::RunTimeout => R::RunTimeout,
    }
}

fn complete(phase: &Phase) -> Fact {
    match phase {
        Phase::Ended(JobEndReason::Succeeded, _) => fact(
            C::Complete,
            true,
            R::Succeeded,
            "every member ended with exit code 0",
        ),
        Phase::Ended(reason, _) => fact(C::Complete, false, end_reason(*reason), ""),
        _ => fact(C::Complete, false, R::NotEnded, ""),
    }
}

fn failed(phase: &Phase) -> Fact {
    match phase {
        Phase::Ended(JobEndReason::Succeeded, _) => fact(C::Failed, false, R::Succeeded, ""),
        Phase::Ended(reason, message) => fact(C::Failed, true, end_reason(*reason), message),
        _ => fact(C::Failed, false, R::NotEnded, ""),
    }
}

/// Whether other owners' nodes computed the same result.
fn verified(spec: &ComputeJobSpec, status: &ComputeJobStatus) -> Fact {
    if verification::mode(spec).is_none() {
        return fact(C::Verified, Status::Unknown, R::NotAsked, "");
    }
    let Some(found) = &status.verification else {
        return match status.end_reason {
            Some(reason) if reason != JobEndReason::Succeeded => {
                fact(C::Verified, false, end_reason(reason), "")
            }
            _ => fact(C::Verified, false, R::NotEnded, ""),
        };
    };
    let with = |what: &str| match found.runs.len() {
        0 | 1 => what.to_owned(),
        runs => format!("{what}; status.verification.runs lists the {runs} runs"),
    };
    match found.state {
        VerificationState::Pending => fact(
            C::Verified,
            false,
            R::Verifying,
            "nodes of other owners compute the result once more",
        ),
        VerificationState::NotSampled => fact(C::Verified, Status::Unknown, R::NotSampled, ""),
        VerificationState::Agreed => fact(C::Verified, true, R::ResultsAgree, ""),
        VerificationState::Confirmed => fact(
            C::Verified,
            true,
            R::ResultsAgree,
            with("another node computed another result and was outvoted"),
        ),
        VerificationState::Outvoted => fact(
            C::Verified,
            false,
            R::Outvoted,
            with(
                "the result is not what most others computed; theirs is status.verification.digest",
            ),
        ),
        VerificationState::Disagreed => fact(
            C::Verified,
            false,
            R::ResultsDisagree,
            with(
                "no result has a majority; a program that is checked must give the same result each time",
            ),
        ),
        VerificationState::NoDigest => fact(
            C::Verified,
            false,
            R::NoDigest,
            "write the digest of the output to the termination message of member 0, /dev/termination-log",
        ),
        VerificationState::TooFewResults => fact(
            C::Verified,
            false,
            R::TooFewResults,
            with("too few runs on nodes of different owners ended well"),
        ),
    }
}

fn metered(status: &ComputeJobStatus, seen: &Observed) -> Fact {
    if status.active_placement().is_some() {
        fact(C::Metered, false, R::InProgress, "")
    } else if !seen.books.are_closed() {
        fact(
            C::Metered,
            false,
            R::InProgress,
            "what the last attempt used is being billed",
        )
    } else if status.attempts.is_empty() {
        fact(C::Metered, status.has_ended(), R::NothingUsed, "")
    } else {
        fact(C::Metered, true, R::Recorded, "")
    }
}

fn settled(status: &ComputeJobStatus, seen: &Observed) -> Fact {
    let books = &seen.books;
    let fact = |holds: bool, reason, message: &str| fact(C::Settled, holds, reason, message);
    if seen.payer == WhoPays::Nobody && status.settlement.is_none() {
        Fact::new(
            C::Settled,
            Status::Unknown,
            R::NoChainConfigured,
            "no chain is configured, so nothing is owed",
        )
    } else if seen.payer == WhoPays::Canary {
        fact(
            true,
            R::NothingUsed,
            "it is a canary: nothing is owed for it",
        )
    } else if status.active_placement().is_some() {
        fact(false, R::InProgress, "")
    } else if !books.are_closed() {
        fact(false, R::Unsettled, "slices are being billed")
    } else if books.has_left_out() {
        fact(
            false,
            R::Unsettled,
            "the contract left a slice out; status.settlement of its UsageRecord says why",
        )
    } else if !books.are_settled() {
        fact(false, R::Unsettled, "slices wait to be paid")
    } else if !status.has_ended() {
        let reason = if books.is_empty() {
            R::NothingUsed
        } else {
            R::NotEnded
        };
        fact(false, reason, "")
    } else if status.settlement.as_ref().is_none_or(|s| s.sealed == 0) {
        fact(true, R::NothingUsed, "nothing is owed")
    } else {
        fact(true, R::Settled, "every slice's payment is final")
    }
}

/// The summary. Its reason is the column STATE of `kubectl get computejobs`.
fn ready(spec: &ComputeJobSpec, status: &ComputeJobStatus, phase: &Phase, seen: &Observed) -> Fact {
    match phase {
        Phase::Running => {
            let (reason, message) = how_it_runs(status, seen, "");
            fact(C::Ready, true, reason, message)
        }
        Phase::Ended(JobEndReason::Succeeded, _) => {
            // A result that is not what others computed is none that the tenant should take.
            let checked = verified(spec, status);
            let doubtful = checked.status == Status::False;
            let reason = R::ALL.iter().find(|r| r.as_str() == checked.reason);
            match reason.filter(|_| doubtful) {
                Some(reason) => fact(C::Ready, *reason == R::Verifying, *reason, checked.message),
                None => fact(C::Ready, true, R::Succeeded, ""),
            }
        }
        Phase::Ended(reason, message) => fact(C::Ready, false, end_reason(*reason), message),
        Phase::Invalid(reason, message)
        | Phase::NotAdmitted(reason, message)
        | Phase::Starting(reason, message) => fact(C::Ready, false, *reason, message),
        Phase::NotValidated(message) => fact(C::Ready, false, R::ValidationUnavailable, message),
        Phase::Queued => fact(
            C::Ready,
            false,
            R::Queued,
            "waits for a place; see the condition Scheduled",
        ),
        Phase::Stopping(reason) => fact(
            C::Ready,
            false,
            R::Stopping,
            format!("the attempt ends: {reason}"),
        ),
    }
}
