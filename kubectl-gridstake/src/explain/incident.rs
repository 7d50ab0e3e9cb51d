//! What an Incident says. Pure.

use gridstake_crds::{
    Incident, IncidentStatus, TokenAmount,
    compute_job::{Verdict, VerdictReason},
    condition::{find, is_true},
    incident::{
        CancellationReason, Dispute, Execution, IncidentCondition, IncidentReason, IncidentState,
        Offence, Proposal, Resolution, Sanction, Subject,
    },
    names::ANNOTATION_EVIDENCE,
    usage_record::JobReference,
};
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use kube::ResourceExt as _;
use serde::Serialize;

use super::{
    conditions::{Block, blocks},
    next_steps::{meaning, of_cancellation},
};

/// An incident, explained.
#[derive(Serialize, Clone, Debug)]
#[serde(rename_all = "camelCase")]
pub struct IncidentReport {
    /// Its name.
    pub name: String,
    /// How far it is, in one sentence.
    pub state: String,
    /// What happened.
    pub offence: Offence,
    /// The words of who found it.
    pub summary: String,
    /// Whose node and GPUs.
    pub subject: Subject,
    /// The job to which it happened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job: Option<JobReference>,
    /// The UsageRecords that it concerns.
    pub usage_records: Vec<String>,
    /// When it began.
    pub from: Time,
    /// When it ended.
    pub to: Time,
    /// At whose door it is laid.
    pub verdict: Verdict,
    /// On what that rests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict_reason: Option<VerdictReason>,
    /// The hash of the evidence.
    pub evidence_hash: String,
    /// Whether the object carries the evidence itself.
    pub carries_evidence: bool,
    /// Whether the evidence is in the archive.
    pub archived: bool,
    /// The step of the ladder.
    pub sanction: Sanction,
    /// How much stake is to be cut, in whole tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slash: Option<TokenAmount>,
    /// On which chain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chain: Option<String>,
    /// Rewards that are held back, in whole tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held: Option<TokenAmount>,
    /// When a sanction that needs no chain ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Time>,
    /// The proposal on chain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proposal: Option<Proposal>,
    /// The provider's answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dispute: Option<Dispute>,
    /// The arbiter's decision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resolution: Option<Resolution>,
    /// What was cut.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub execution: Option<Execution>,
    /// Why nothing is cut.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cancellation: Option<CancellationReason>,
    /// What keeps it from going on.
    pub blocked_by: Vec<Block>,
    /// What the provider can do now; empty where nothing is left to be done.
    pub answer: Vec<String>,
}

/// Explains `incident` at `now`.
#[must_use]
pub fn explain(incident: &Incident, now: Timestamp) -> IncidentReport {
    let empty = IncidentStatus::default();
    let status = incident.status.as_ref().unwrap_or(&empty);
    let spec = &incident.spec;
    IncidentReport {
        name: incident.name_any(),
        state: state(status),
        offence: spec.offence,
        summary: spec.summary.clone(),
        subject: spec.subject.clone(),
        job: spec.job.clone(),
        usage_records: spec.usage_records.clone(),
        from: spec.from.clone(),
        to: spec.to.clone(),
        verdict: spec.verdict,
        verdict_reason: spec.verdict_reason,
        evidence_hash: spec.evidence_hash.clone(),
        carries_evidence: incident.annotations().contains_key(ANNOTATION_EVIDENCE),
        archived: is_true(&status.conditions, IncidentCondition::EvidenceArchived),
        sanction: spec.sanction,
        slash: spec.slash,
        chain: spec.chain.clone(),
        held: status.held,
        until: status.until.clone(),
        proposal: status.proposal.clone(),
        dispute: status.dispute.clone(),
        resolution: status.resolution.clone(),
        execution: status.execution.clone(),
        cancellation: status.cancellation,
        blocked_by: stuck(status),
        answer: answer(incident, status, now),
    }
}

fn state(status: &IncidentStatus) -> String {
    match (status.state, status.cancellation) {
        (None, _) => "the operator has not looked at it yet".to_owned(),
        (Some(state @ IncidentState::Cancelled), Some(reason)) => {
            format!("{state}: {} {}", meaning(state), meaning(reason))
        }
        (Some(state), _) => format!("{state}: {}", meaning(state)),
    }
}

/// An incident that goes its way waits for answers and transactions: only what is in its way is told.
fn stuck(status: &IncidentStatus) -> Vec<Block> {
    let goes_on = [
        IncidentReason::WaitingForAnswer,
        IncidentReason::Disputed,
        IncidentReason::InFlight,
        IncidentReason::NotArchived,
    ]
    .map(|reason| reason.to_string());
    // `Ready` gives the states too, which are told already.
    let ready = find(&status.conditions, IncidentCondition::Ready);
    let is_state = |reason: &str| super::next_steps::value::<IncidentState>(reason).is_some();
    let conditions: Vec<_> = status
        .conditions
        .iter()
        .filter(|c| !goes_on.contains(&c.reason))
        .filter(|c| Some(*c) != ready || !is_state(&c.reason))
        .cloned()
        .collect();
    blocks::<IncidentReason>(&conditions, &[])
}

/// Until when and how the provider can answer.
fn answer(incident: &Incident, status: &IncidentStatus, now: Timestamp) -> Vec<String> {
    if let Some(reason) = status.cancellation {
        return vec![of_cancellation(reason).to_owned()];
    }
    match status.state {
        Some(IncidentState::Proposed) => match &status.proposal {
            Some(proposal) if proposal.dispute_until.0 > now => vec![
                format!(
                    "until {} the provider's staker or operator can dispute it, with counter-evidence that it keeps, of which the chain gets the hash:",
                    proposal.dispute_until.0
                ),
                format!(
                    "  kubectl gridstake dispute {} --evidence FILE --key-file FILE",
                    incident.name_any()
                ),
                "undisputed, anybody can have it executed after that".to_owned(),
            ],
            _ => vec!["the time to dispute is over: the cut follows".to_owned()],
        },
        Some(IncidentState::Disputed) => {
            let until = status.dispute.as_ref().map_or_else(String::new, |dispute| {
                format!(" until {}", dispute.resolve_until.0)
            });
            vec![format!(
                "the arbiter decides{until}; undecided, nothing is cut"
            )]
        }
        Some(IncidentState::Open | IncidentState::Proposing) if incident.spec.slash.is_some() => {
            vec![
                "nothing is frozen yet: the provider can dispute it once it is proposed on chain"
                    .to_owned(),
            ]
        }
        Some(IncidentState::InForce) => {
            let until = status
                .until
                .as_ref()
                .map_or_else(String::new, |until| format!(" until {}", until.0));
            vec![format!(
                "it is in force{until} and needs no chain: the provider can answer the lane's operator"
            )]
        }
        Some(
            IncidentState::Open
            | IncidentState::Proposing
            | IncidentState::Finalizing
            | IncidentState::Executed
            | IncidentState::Cancelled
            | IncidentState::Closed,
        )
        | None => Vec::new(),
    }
}

#[cfg(test)]
#[path = "incident_tests.rs"]
mod tests;
