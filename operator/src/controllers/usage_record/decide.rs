//! Whether a slice ends, and what is billed for it. Pure: no client, no clock, no randomness.
//!
//! An open slice ends with its member; when its interval is over; or, where node or agent are lost, with the last that
//! was seen of it. After the member's end the agent gets a moment to deliver its last checkpoint.

use std::time::Duration;

use gridstake_crds::{
    UsageRecord,
    compute_job::{AttemptEndReason, Verdict, VerdictReason},
    condition::Fact,
    gpu_node::AgentCertificate,
    usage_record::{SealCause, Sealed},
};
use gridstake_ledger::billing::Span;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::{
    bill::{self, Bill, EmissionTerms},
    conditions::{self, ArchiveFact, EvidenceFact, Hold, Stage},
    evidence::{Judgement, Proof},
    record,
    remembered::Remembered,
};
use crate::controllers::compute_job::member::{Member, State};

/// How long after a member's end, or after the end of an interval, the agent's last checkpoint is waited for.
pub const EVIDENCE_WAIT: SignedDuration = SignedDuration::from_secs(15);
/// How soon an agent that is late with its checkpoint is looked for again.
const LOOK_FOR_EVIDENCE: SignedDuration = SignedDuration::from_secs(2);
/// That a slice has been opened, and that it goes on well, is told when it is so old: each word of it is a write, and a lease may last
/// for seconds only.
const PASSES: SignedDuration = SignedDuration::from_secs(10);
/// How soon a slice that gets no number is looked at again.
const LOOK_AT_LOG: SignedDuration = SignedDuration::from_secs(2);

/// The member's pod.
#[derive(Clone, Debug, PartialEq)]
pub struct PodSeen {
    /// Its uid.
    pub uid: String,
    /// How far it is.
    pub member: Member,
}

/// What a record's surroundings look like.
#[derive(Clone, Debug, PartialEq)]
pub struct Observed {
    /// The member's pod, if there is one.
    pub pod: Option<PodSeen>,
    /// Whether the end of the attempt is decided, and what does not answer will not be waited for.
    pub attempt_ends: bool,
    /// Whether the attempt cannot bring forth a pod any more: it is recorded, or the job is gone.
    pub attempt_is_over: bool,
    /// At whose door the end of the attempt is laid, where that is this member's.
    pub verdict: Option<(Verdict, VerdictReason)>,
    /// What the evidence is worth.
    pub evidence: Judgement,
    /// The provider's word for the key that signs the evidence, if that is in force.
    pub certificate: Option<AgentCertificate>,
    /// When the agent was last heard of, on the operator's clock.
    pub heard_of: Option<Timestamp>,
    /// When the lease began, if this is not its first slice: device shares are rounded over the whole lease.
    pub lease_start_ms: Option<u64>,
    /// Whether the slice after this one has been opened.
    pub next_exists: bool,
    /// After which time a slice is sealed.
    pub interval: Duration,
    /// What the lane pays on top; `None`: nothing.
    pub emission: Option<EmissionTerms>,
    /// Why no number can be given out for the slice, if none can.
    pub hold: Option<Hold>,
    /// The seal that the agent remembers and the chain has paid, if the record is in doubt.
    pub remembered: Option<Remembered>,
    /// What is known of the archive.
    pub archive: ArchiveFact,
    /// What holds the payment back, in words, if anything does.
    pub held_by: Option<String>,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The bill, if the slice is to be sealed now.
    pub bill: Option<Bill>,
    /// The seal that was lost and is to be written again as it was.
    pub restored: Option<Sealed>,
    /// The slice to be opened now: this one is sealed and the member went on.
    pub next: Option<UsageRecord>,
    /// The facts for its conditions.
    pub facts: Vec<Fact>,
    /// When to look again, if nothing happens before.
    pub wake: Option<Timestamp>,
    /// Nothing that is to be told lasts: a lease of seconds is told with its bill, in one write.
    pub is_passing: bool,
}

/// What is to be done about `record` at `now`.
#[must_use]
pub fn decide(record: &UsageRecord, seen: &Observed, now: Timestamp) -> Plan {
    if let Some(sealed) = record.status.as_ref().and_then(|s| s.sealed.as_ref()) {
        let stage = Stage::Sealed {
            owes: sealed.job_no.is_some(),
        };
        return Plan {
            bill: None,
            restored: None,
            next: record::successor(record).filter(|_| !seen.next_exists),
            facts: conditions::facts(record, stage, None, &seen.archive, held_by(seen)),
            wake: None,
            is_passing: false,
        };
    }
    if let Some(Remembered(sealed)) = &seen.remembered {
        return restored(record, seen, sealed);
    }
    // What is remembered waits for what the chain says about it.
    let again = now.checked_add(LOOK_AT_LOG).unwrap_or(now);
    let look = (seen.hold.is_some() && is_remembered(record)).then_some(again);
    match verdict_on(record, seen, now) {
        Progress::NotStarted => passing(
            record,
            now,
            open(
                record,
                seen,
                Stage::NotStarted,
                &EvidenceFact::NotStarted,
                look,
            ),
        ),
        Progress::GoesOn(wake) => {
            let wake = look.into_iter().chain(wake).min();
            let fact = match &seen.evidence {
                Judgement::None | Judgement::Valid(_) => EvidenceFact::SoFarGood,
                Judgement::Invalid(why) => EvidenceFact::Invalid(why.clone()),
                Judgement::Refused(refused, _) => EvidenceFact::refused(refused),
                Judgement::NotCertified(why) => EvidenceFact::NotCertified(why.clone()),
            };
            let plan = open(record, seen, Stage::Metering, &fact, wake);
            if fact == EvidenceFact::SoFarGood {
                passing(record, now, plan)
            } else {
                plan
            }
        }
        Progress::Ends(end) => {
            let bill = bill::bill(record, end.span, end.cause, end.verdict, seen);
            let concerns = |hold: &Hold| {
                ((bill.owes(record) || may_have_owed(record, seen, hold))
                    && hold.concerns(end.span.from_ms))
                    || (matches!(hold, Hold::LogNotCompared | Hold::MayBeMined)
                        && is_remembered(record))
            };
            if let Some(hold) = seen.hold.filter(concerns) {
                return open(
                    record,
                    seen,
                    Stage::Held(hold),
                    &worth(seen, &end),
                    Some(again),
                );
            }
            let stage = Stage::Sealed {
                owes: bill.owes(record),
            };
            Plan {
                facts: conditions::facts(
                    record,
                    stage,
                    Some(&worth(seen, &end)),
                    &seen.archive,
                    held_by(seen),
                ),
                bill: Some(bill),
                restored: None,
                next: None,
                wake: None,
                is_passing: false,
            }
        }
    }
}

fn held_by(seen: &Observed) -> Option<&str> {
    seen.held_by.as_deref()
}

/// Whether the slice may have been billed something that was paid, although nothing is owed by what is known now: right after a
/// restore that is what the kubelet says, and the agent has yet to tell what it has stated and what it remembers.
fn may_have_owed(record: &UsageRecord, seen: &Observed, hold: &Hold) -> bool {
    if record.spec.payment.is_none() {
        return false;
    }
    let has_evidence = || {
        let status = record.status.as_ref();
        status.is_some_and(|status| status.evidence.is_some())
    };
    let has_started = || {
        let pod = seen.pod.as_ref();
        pod.is_some_and(|pod| pod.member.started_at.is_some())
    };
    match hold {
        Hold::InDoubt { .. } => true,
        // What follows another slice has begun, and so has that of which an agent has stated anything. That log and chain are not
        // compared yet may be because of a restore of which nothing is noted yet.
        Hold::LogNotCompared | Hold::MayBeLost { .. } => {
            record.spec.from_ms.is_some() || has_evidence() || has_started()
        }
        Hold::MayBeMined => false,
    }
}

/// Whether the agent remembers that `record` was sealed.
fn is_remembered(record: &UsageRecord) -> bool {
    let evidence = record.status.as_ref().and_then(|s| s.evidence.as_ref());
    evidence.is_some_and(|evidence| evidence.sealed.is_some())
}

/// The slice is over and paid, whatever its member looks like now.
fn restored(record: &UsageRecord, seen: &Observed, sealed: &Sealed) -> Plan {
    let end = End {
        span: Span::new(sealed.start_ms, sealed.end_ms),
        cause: sealed.cause,
        verdict: sealed.verdict.zip(sealed.verdict_reason),
    };
    let stage = Stage::Sealed { owes: true };
    Plan {
        bill: None,
        restored: Some(sealed.clone()),
        next: None,
        facts: conditions::facts(
            record,
            stage,
            Some(&worth(seen, &end)),
            &seen.archive,
            held_by(seen),
        ),
        wake: None,
        is_passing: false,
    }
}

/// `plan`, untold while the record is new.
fn passing(record: &UsageRecord, now: Timestamp, mut plan: Plan) -> Plan {
    let created = record.metadata.creation_timestamp.as_ref();
    let told_at = created.and_then(|created| created.0.checked_add(PASSES).ok());
    // An API server whose clock runs ahead keeps nothing quiet for longer.
    let told_at = told_at.min(now.checked_add(PASSES).ok());
    let said = record.status.as_ref().map(|status| &status.conditions);
    if let Some(at) = told_at.filter(|at| *at > now && said.is_none_or(Vec::is_empty)) {
        plan.wake = plan.wake.into_iter().chain([at]).min();
        plan.is_passing = true;
    }
    plan
}

fn open(
    record: &UsageRecord,
    seen: &Observed,
    stage: Stage,
    evidence: &EvidenceFact,
    wake: Option<Timestamp>,
) -> Plan {
    Plan {
        bill: None,
        restored: None,
        next: None,
        facts: conditions::facts(record, stage, Some(evidence), &seen.archive, held_by(seen)),
        wake,
        is_passing: false,
    }
}

/// How far an open slice is.
enum Progress {
    NotStarted,
    GoesOn(Option<Timestamp>),
    Ends(End),
}

/// How a slice ends.
struct End {
    span: Span,
    cause: SealCause,
    verdict: Option<(Verdict, VerdictReason)>,
}

fn verdict_on(record: &UsageRecord, seen: &Observed, now: Timestamp) -> Progress {
    let proof = seen.evidence.proof();
    let Some(pod) = &seen.pod else {
        return match (seen.attempt_is_over, record.spec.from_ms) {
            (false, _) => Progress::NotStarted,
            (true, None) => never_started(seen.verdict),
            // The member ran into this slice and its pod vanished.
            (true, Some(from)) => lost(from, proof, seen.verdict),
        };
    };
    let member = &pod.member;
    let began = bill::start(
        record.spec.from_ms,
        member.started_at,
        proof.and_then(|p| p.started_ms),
    );
    let State::Ended(end) = &member.state else {
        return match began {
            None => Progress::NotStarted,
            Some(began) => running(began, seen, proof, now),
        };
    };
    // At whose door it is laid is found out with the attempt, and stands in the bill.
    let is_judged = end.reason == AttemptEndReason::Succeeded || seen.attempt_is_over;
    let verdict = seen.verdict;
    let Some(began) = began else {
        return if is_judged {
            never_started(verdict)
        } else {
            Progress::GoesOn(None)
        };
    };
    let Some(finished) = member.finished_at else {
        // Nobody has reported the end: the node is lost. Until the job gives it up it may come back, and go on.
        if !seen.attempt_ends {
            return running(began, seen, proof, now);
        }
        if !is_judged {
            return Progress::GoesOn(None);
        }
        return lost(began, proof, verdict);
    };
    let agent_said = proof.and_then(|p| p.ended_ms);
    let waited = finished.checked_add(EVIDENCE_WAIT).unwrap_or(now).min(
        // A node whose clock runs ahead must not hold the bill up for longer.
        now.checked_add(EVIDENCE_WAIT).unwrap_or(now),
    );
    if agent_said.is_none() && now < waited {
        return Progress::GoesOn(Some(waited));
    }
    if !is_judged {
        return Progress::GoesOn(None);
    }
    let until = bill::end(began, finished, None);
    match (proof.and_then(|p| p.last_ms), agent_said) {
        // The agent saw the member and not its end: what it did not see is not billed.
        (Some(seen_until), None) if seen_until < until => {
            let until = seen_until.max(began);
            Progress::Ends(End {
                span: Span::new(began, until),
                cause: SealCause::EvidenceEnded,
                verdict,
            })
        }
        (_, agent_said) => Progress::Ends(End {
            span: Span::new(began, bill::end(began, finished, agent_said)),
            cause: SealCause::MemberEnded,
            verdict,
        }),
    }
}

fn never_started(verdict: Option<(Verdict, VerdictReason)>) -> Progress {
    Progress::Ends(End {
        span: Span::default(),
        cause: SealCause::NeverStarted,
        verdict,
    })
}

/// A member whose end nobody has reported: what was seen of it last is its end.
fn lost(began: u64, proof: Option<&Proof>, verdict: Option<(Verdict, VerdictReason)>) -> Progress {
    let last = proof
        .and_then(|p| p.ended_ms.or(p.last_ms))
        .unwrap_or(began);
    Progress::Ends(End {
        span: Span::new(began, last.max(began)),
        cause: SealCause::EvidenceEnded,
        verdict,
    })
}

/// A member that runs: its slice ends when the interval is over and the agent has been seen at work after that. While
/// the agent is away the slice stays open, since only the agent can tell whether the process ran on.
fn running(began: u64, seen: &Observed, proof: Option<&Proof>, now: Timestamp) -> Progress {
    let known = seen
        .heard_of
        .map(bill::unix_millis)
        .max(proof.and_then(|p| p.last_ms));
    let until = bill::unix_millis(now).min(known.unwrap_or(0));
    let boundary = boundary(began, seen.interval, proof, until);
    let Some(due) = bill::timestamp(boundary) else {
        return Progress::GoesOn(None);
    };
    if now < due {
        return Progress::GoesOn(Some(due));
    }
    let covered = proof
        .and_then(|p| p.last_ms)
        .is_some_and(|last| last >= boundary);
    // A heartbeat after the boundary shows the agent at work; one that has just come back gets a moment to say what it
    // has missed.
    let wait =
        EVIDENCE_WAIT.min(SignedDuration::try_from(seen.interval / 4).unwrap_or(EVIDENCE_WAIT));
    let patience = due.checked_add(wait).unwrap_or(due);
    let alive = seen.heard_of.is_some_and(|heard| heard >= due);
    if covered || (alive && now >= patience) {
        return Progress::Ends(End {
            span: Span::new(began, boundary),
            cause: SealCause::IntervalElapsed,
            verdict: None,
        });
    }
    let again = now.checked_add(LOOK_FOR_EVIDENCE).unwrap_or(now);
    Progress::GoesOn(Some(if alive { patience.max(now) } else { again }))
}

/// Where the slice is cut: at the last interval that was over at `until`, when the agent was last heard of, so that what an
/// agent that was away has missed lies in one slice; and never within a gap, for the same reason. (Were it the last one that
/// is over now, it would move on before a heartbeat that comes as often could ever confirm it.)
fn boundary(began: u64, interval: Duration, proof: Option<&Proof>, until: u64) -> u64 {
    let interval = bill::millis(interval).max(1);
    let over = (until.saturating_sub(began) / interval).max(1);
    let cut = began.saturating_add(over.saturating_mul(interval));
    proof.map_or(cut, |proof| proof.outside_gaps(cut))
}

/// What the evidence is worth for a slice that ends like this.
fn worth(seen: &Observed, end: &End) -> EvidenceFact {
    match &seen.evidence {
        Judgement::Invalid(why) => EvidenceFact::Invalid(why.clone()),
        Judgement::Refused(refused, _) => EvidenceFact::refused(refused),
        Judgement::NotCertified(why) => EvidenceFact::NotCertified(why.clone()),
        _ if end.cause == SealCause::NeverStarted => EvidenceFact::NotStarted,
        Judgement::None => EvidenceFact::Missing,
        Judgement::Valid(proof) => {
            if end.cause == SealCause::EvidenceEnded || proof.has_gaps_in(end.span) {
                EvidenceFact::HasGaps
            } else {
                EvidenceFact::Complete
            }
        }
    }
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
