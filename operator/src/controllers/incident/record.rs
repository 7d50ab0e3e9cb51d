//! What an Incident's status says about its slash, and what conditions and state follow from it. Pure.

use gridstake_crds::{
    IncidentStatus, TokenAmount,
    condition::Fact,
    incident::{
        CancellationReason, Dispute, Execution, IncidentCondition, IncidentReason, IncidentState,
        Proposal, Resolution,
    },
};
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};

use super::decide::Seen;
use crate::chain::view::{CancelReason, SlashState};

/// What the status says about a slash. What was once final stays as it was written.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Record {
    /// The proposal.
    pub proposal: Option<Proposal>,
    /// The provider's answer.
    pub dispute: Option<Dispute>,
    /// The arbiter's decision.
    pub resolution: Option<Resolution>,
    /// What was cut.
    pub execution: Option<Execution>,
    /// Why nothing was.
    pub cancellation: Option<CancellationReason>,
}

/// Whether an incident with this status has come to its end: on the chain, or since its time is over.
#[must_use]
pub fn has_ended(status: &IncidentStatus) -> bool {
    status.state == Some(IncidentState::Closed) || Record::of(status).has_ended()
}

impl Record {
    /// What `status` says.
    #[must_use]
    pub fn of(status: &IncidentStatus) -> Self {
        Self {
            proposal: status.proposal.clone(),
            dispute: status.dispute.clone(),
            resolution: status.resolution.clone(),
            execution: status.execution.clone(),
            cancellation: status.cancellation,
        }
    }

    /// Whether the incident has come to its end.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.execution.is_some() || self.cancellation.is_some()
    }

    /// With what has become final.
    #[must_use]
    pub(super) fn with(mut self, seen: &Seen) -> Self {
        let Some(slash) = &seen.slash else {
            return self;
        };
        let history = &seen.history;
        let tokens = TokenAmount::from_nano;
        if let (None, Some(inclusion), Some(dispute_until)) =
            (&self.proposal, &history.proposed, time(slash.dispute_until))
        {
            self.proposal = Some(Proposal {
                id: slash.id.to_string(),
                frozen: tokens(slash.frozen),
                dispute_until,
                inclusion: inclusion.clone(),
            });
        }
        if let (None, Some(inclusion), Some(resolve_until)) =
            (&self.dispute, &history.disputed, time(slash.resolve_until))
        {
            self.dispute = Some(Dispute {
                counter_evidence_hash: slash.counter_evidence.to_string(),
                resolve_until,
                inclusion: inclusion.clone(),
            });
        }
        if let (None, Some(inclusion)) = (&self.resolution, &history.resolved) {
            self.resolution = Some(Resolution {
                upheld: tokens(slash.upheld),
                inclusion: inclusion.clone(),
            });
        }
        if let (None, Some(cut)) = (&self.execution, &history.executed) {
            self.execution = Some(Execution {
                from_stake: tokens(cut.from_stake),
                from_unbonding: tokens(cut.from_unbonding),
                inclusion: cut.inclusion.clone(),
            });
        }
        if history.cancelled.is_some() && self.cancellation.is_none() {
            self.cancellation = slash.cancelled.map(why);
        }
        self
    }

    /// How far the incident is. An end counts once it is final.
    pub(super) fn state(&self, seen: &Seen) -> IncidentState {
        if self.execution.is_some() {
            return IncidentState::Executed;
        }
        if self.cancellation.is_some() {
            return IncidentState::Cancelled;
        }
        let Some(slash) = seen.slash.as_ref().filter(|_| self.proposal.is_some()) else {
            return IncidentState::Proposing;
        };
        match slash.state {
            SlashState::Proposed if seen.head.timestamp < slash.dispute_until => {
                IncidentState::Proposed
            }
            SlashState::Disputed if seen.head.timestamp < slash.resolve_until => {
                IncidentState::Disputed
            }
            _ => IncidentState::Finalizing,
        }
    }

    /// All conditions but `Ready`. While the proposal is not final, `reason` and `words` say where it is; `unanswered`
    /// says that the time to answer is over.
    pub(super) fn facts(&self, reason: IncidentReason, words: &str, unanswered: bool) -> Vec<Fact> {
        let proposed = match &self.proposal {
            Some(proposal) => Fact::new(
                IncidentCondition::Proposed,
                true,
                IncidentReason::Proposed,
                format!(
                    "slash {}; StakeVault.disputeSlash({}, …) answers it until status.proposal.disputeUntil",
                    proposal.id, proposal.id
                ),
            ),
            None => Fact::new(IncidentCondition::Proposed, false, reason, words),
        };
        let (answered, answer, says) = match (&self.proposal, &self.dispute) {
            (None, _) => (false, reason, words),
            (Some(_), Some(_)) => (true, IncidentReason::Disputed, "the provider has answered"),
            (Some(_), None) if self.cancellation.is_some() => (
                false,
                IncidentReason::Cancelled,
                "no answer is needed any more",
            ),
            (Some(_), None) if unanswered || self.execution.is_some() => (
                true,
                IncidentReason::Unanswered,
                "the time to answer is over",
            ),
            (Some(_), None) => (
                false,
                IncidentReason::WaitingForAnswer,
                "the provider can answer until status.proposal.disputeUntil",
            ),
        };
        let (closed, end, told) = if self.execution.is_some() {
            (true, IncidentReason::Executed, "the stake was cut")
        } else if self.cancellation.is_some() {
            (
                true,
                IncidentReason::Cancelled,
                "nothing was cut; see status.cancellation",
            )
        } else {
            (
                false,
                IncidentReason::InProgress,
                "the incident is on its way",
            )
        };
        vec![
            proposed,
            Fact::new(IncidentCondition::Answered, answered, answer, says),
            Fact::new(IncidentCondition::Closed, closed, end, told),
        ]
    }
}

fn why(reason: CancelReason) -> CancellationReason {
    match reason {
        CancelReason::NotUpheld => CancellationReason::NotUpheld,
        CancelReason::NotDecided => CancellationReason::NotDecided,
        CancelReason::Guardian => CancellationReason::Guardian,
        CancelReason::NothingAtStake => CancellationReason::NothingAtStake,
    }
}

fn time(unix: u64) -> Option<Time> {
    let second = i64::try_from(unix).ok()?;
    Timestamp::from_second(second).ok().map(Time)
}
