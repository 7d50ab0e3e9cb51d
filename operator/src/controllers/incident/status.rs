//! The status of an Incident.

use gridstake_crds::{Incident, IncidentStatus, TokenAmount, condition, names::MANAGER_INCIDENT};
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};

use super::decide::Plan;
use crate::status::StatusOwner;

/// What this controller owns.
pub const OWNER: StatusOwner = StatusOwner {
    manager: MANAGER_INCIDENT,
    fields: &[
        "observedGeneration",
        "state",
        "until",
        "held",
        "proposal",
        "dispute",
        "resolution",
        "execution",
        "cancellation",
        "authorizations",
        "attempts",
    ],
    conditions: &[
        "EvidenceArchived",
        "Proposed",
        "Answered",
        "Closed",
        "Ready",
    ],
};

/// The status that says what `plan` says. `held` is what is held back. What was signed for the incident stays as
/// `incident` has it.
#[must_use]
pub fn desired(
    incident: &Incident,
    plan: &Plan,
    held: Option<TokenAmount>,
    now: Timestamp,
) -> IncidentStatus {
    let present = incident.status.clone().unwrap_or_default();
    let generation = incident.metadata.generation;
    let record = plan.record.clone();
    IncidentStatus {
        observed_generation: generation,
        state: Some(plan.state),
        until: plan.until.map(Time),
        held,
        proposal: record.proposal,
        dispute: record.dispute,
        resolution: record.resolution,
        execution: record.execution,
        cancellation: record.cancellation,
        authorizations: present.authorizations,
        attempts: present.attempts,
        conditions: condition::conditions(&present.conditions, &plan.facts, generation, now),
    }
}
