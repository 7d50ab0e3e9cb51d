//! What is to be said and done about an Incident. Pure: no client, no clock.

use gridstake_crds::{
    Incident, IncidentStatus,
    condition::Fact,
    incident::{IncidentCondition, IncidentReason, IncidentState, Sanction},
    transaction::Inclusion,
};

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::{open, record::Record};
use crate::chain::{
    Block,
    view::{SlashState, SlashView},
};

/// What is known of an incident's slash.
#[derive(Clone, Debug, PartialEq)]
pub enum Sight {
    /// The sanction needs no chain.
    NotNeeded,
    /// Nothing can be done or found out now: why.
    Blocked(IncidentReason, String),
    /// What the chain says.
    Seen(Box<Seen>),
}

/// What the chain says about an incident.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    /// The newest block. Its time is the chain's.
    pub head: Block,
    /// The slash in the newest block; `None`: not proposed.
    pub slash: Option<SlashView>,
    /// What has happened to it in blocks that are final.
    pub history: History,
    /// What keeps the call that is due from being sent.
    pub hindrance: Option<Hindrance>,
}

/// What keeps a call from being sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hindrance {
    /// The contract would refuse it.
    Refused(Refusal),
    /// Something on our side; what.
    Obstacle(String),
}

/// Why the contract would refuse a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The contract's error, such as `FreezeCapReached`.
    pub error: String,
    /// Whether that passes by itself, such as when another replica was faster.
    pub passing: bool,
}

/// What has happened to a slash, each as soon as its block is final.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    /// It was proposed.
    pub proposed: Option<Inclusion>,
    /// The provider disputed it.
    pub disputed: Option<Inclusion>,
    /// The arbiter decided.
    pub resolved: Option<Inclusion>,
    /// The stake was cut.
    pub executed: Option<Cut>,
    /// It came to nothing.
    pub cancelled: Option<Inclusion>,
}

/// What was cut, in nano-tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Cut {
    /// From the stake, delegations included.
    pub from_stake: u128,
    /// From stake that was being withdrawn.
    pub from_unbonding: u128,
    /// The transaction that did it.
    pub inclusion: Inclusion,
}

/// A call that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// `proposeSlash`.
    Propose,
    /// `finalizeSlash` of this slash.
    Finalize(u64),
}

/// What is to be said and done.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The incident's state.
    pub state: IncidentState,
    /// All conditions.
    pub facts: Vec<Fact>,
    /// When the sanction ends, if it needs no chain.
    pub until: Option<Timestamp>,
    /// What the status says about the slash; the sender's log is not touched.
    pub record: Record,
    /// The call to send.
    pub call: Option<Call>,
}

/// The call that brings a slash on its way, if one is due in a block of this time.
#[must_use]
pub fn due(slash: Option<&SlashView>, chain_time: u64) -> Option<Call> {
    let Some(slash) = slash else {
        return Some(Call::Propose);
    };
    let is_due = match slash.state {
        SlashState::Proposed => chain_time >= slash.dispute_until,
        // Undecided in time, it is cancelled.
        SlashState::Disputed => chain_time >= slash.resolve_until,
        SlashState::Upheld => true,
        SlashState::Executed | SlashState::Cancelled => false,
    };
    is_due.then_some(Call::Finalize(slash.id))
}

/// What is to be said and done about `incident`.
#[must_use]
///
/// `evidence` says where its evidence is; `now` is the operator's clock, by which sanctions end that need no chain.
pub fn decide(incident: &Incident, evidence: &Fact, sight: &Sight, now: Timestamp) -> Plan {
    let present = incident.status.clone().unwrap_or_default();
    let mut plan = match sight {
        Sight::NotNeeded => without_chain(incident, now),
        Sight::Blocked(reason, words) => blocked(&present, *reason, words),
        Sight::Seen(seen) => follow(incident, &present, seen),
    };
    plan.facts.insert(0, evidence.clone());
    plan
}

/// For how long a sanction that needs no chain is in force: until the device is believed again; as long as the incident counts
/// when the next one is weighed; as long as a provider has to answer a proposal to slash.
const fn lasts(sanction: Sanction) -> SignedDuration {
    match sanction {
        Sanction::Repair => SignedDuration::from_mins(30),
        Sanction::Warn => open::MEMORY,
        Sanction::Hold | Sanction::PartialSlash | Sanction::FullSlash => {
            SignedDuration::from_hours(48)
        }
    }
}

/// When the sanction of `incident` ends, if it needs no chain.
fn until(incident: &Incident) -> Option<Timestamp> {
    let opened = incident.metadata.creation_timestamp.as_ref()?.0;
    opened.checked_add(lasts(incident.spec.sanction)).ok()
}

/// The sanction is in force by itself, and ends by itself.
fn without_chain(incident: &Incident, now: Timestamp) -> Plan {
    let until = until(incident);
    let is_over = until.is_some_and(|until| until <= now);
    let words = "the sanction needs no chain";
    let fact = |condition| {
        Fact::new(
            condition,
            false,
            IncidentReason::NotNeeded,
            words.to_owned(),
        )
    };
    let (state, reason, told) = if is_over {
        (
            IncidentState::Closed,
            IncidentReason::Ended,
            "the sanction has ended",
        )
    } else {
        (
            IncidentState::InForce,
            IncidentReason::InProgress,
            "the sanction is in force until status.until",
        )
    };
    Plan {
        state,
        facts: vec![
            fact(IncidentCondition::Proposed),
            fact(IncidentCondition::Answered),
            Fact::new(IncidentCondition::Closed, is_over, reason, told),
            Fact::new(IncidentCondition::Ready, true, state, told),
        ],
        until,
        record: Record::default(),
        call: None,
    }
}

/// What was known stays; `Ready` says what is in the way.
fn blocked(present: &IncidentStatus, reason: IncidentReason, words: &str) -> Plan {
    let record = Record::of(present);
    let state = present.state.unwrap_or(IncidentState::Proposing);
    let mut facts = record.facts(reason, words, false);
    facts.push(if record.has_ended() {
        ready(state)
    } else {
        Fact::new(IncidentCondition::Ready, false, reason, words)
    });
    Plan {
        state,
        facts,
        until: None,
        record,
        call: None,
    }
}

fn follow(incident: &Incident, present: &IncidentStatus, seen: &Seen) -> Plan {
    let record = Record::of(present).with(seen);
    if record.has_ended() {
        let state = record.state(seen);
        let mut facts = record.facts(IncidentReason::Proposed, "", true);
        facts.push(ready(state));
        return Plan {
            state,
            facts,
            until: None,
            record,
            call: None,
        };
    }
    let state = record.state(seen);
    let hindrance = seen.hindrance.as_ref().and_then(Hindrance::fault);
    let (reason, words) = on_the_way(incident, seen, hindrance.clone());
    let unanswered = seen
        .slash
        .as_ref()
        .is_some_and(|slash| seen.head.timestamp >= slash.dispute_until);
    let mut facts = record.facts(reason, &words, unanswered);
    facts.push(match hindrance {
        Some((reason, words)) => Fact::new(IncidentCondition::Ready, false, reason, words),
        None => ready(state),
    });
    Plan {
        state,
        facts,
        until: None,
        record,
        call: due(seen.slash.as_ref(), seen.head.timestamp),
    }
}

/// Where a proposal is that is not final yet.
fn on_the_way(
    incident: &Incident,
    seen: &Seen,
    hindrance: Option<(IncidentReason, String)>,
) -> (IncidentReason, String) {
    let sent = incident
        .status
        .as_ref()
        .is_some_and(|status| !status.attempts.is_empty());
    match (&seen.slash, hindrance) {
        (Some(slash), _) => (
            IncidentReason::InFlight,
            format!(
                "slash {} is on chain, in a block that is not final yet",
                slash.id
            ),
        ),
        (None, Some(hindrance)) => hindrance,
        (None, None) if sent => (
            IncidentReason::InFlight,
            "signed and sent, and in no block yet".to_owned(),
        ),
        (None, None) => (IncidentReason::NotSent, "about to be sent".to_owned()),
    }
}

impl Hindrance {
    /// What is to be said of it, unless it passes by itself.
    fn fault(&self) -> Option<(IncidentReason, String)> {
        match self {
            Self::Refused(refusal) => (!refusal.passing).then(|| {
                let words = format!(
                    "StakeVault refuses with {}; it is tried again with every block",
                    refusal.error
                );
                (IncidentReason::ContractRefused, words)
            }),
            Self::Obstacle(words) => Some((IncidentReason::NotSent, words.clone())),
        }
    }
}

fn ready(state: IncidentState) -> Fact {
    let words = match state {
        IncidentState::Open => "the evidence is being archived",
        IncidentState::InForce => "the sanction is in force",
        IncidentState::Proposing => "the proposal is on its way to the chain",
        IncidentState::Proposed => "the stake is frozen, and the provider can answer",
        IncidentState::Disputed => "the provider has answered, and the arbiter decides",
        IncidentState::Finalizing => "the cut is on its way",
        IncidentState::Executed => "the stake was cut",
        IncidentState::Cancelled => "nothing was cut; see status.cancellation",
        IncidentState::Closed => "the sanction has ended",
    };
    Fact::new(IncidentCondition::Ready, true, state, words)
}

/// Whether these conditions say that nothing more will happen.
#[must_use]
pub fn is_closed(status: Option<&IncidentStatus>) -> bool {
    status.is_some_and(|status| {
        matches!(
            status.state,
            Some(
                IncidentState::Executed
                    | IncidentState::Cancelled
                    | IncidentState::Closed
                    | IncidentState::InForce
            )
        )
    })
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
