//! Puts an Incident's evidence into the archive: the very text that hashes to `spec.evidenceHash`.

use gridstake_crds::{
    Incident,
    condition::{self, Fact},
    incident::{IncidentCondition, IncidentReason},
    names::ANNOTATION_EVIDENCE,
};
use gridstake_ledger::archive::address;
use kube::ResourceExt as _;

use crate::Context;

/// Archives the evidence of `incident`, unless that is done; what is to be said of it.
pub async fn keep(context: &Context, incident: &Incident) -> Fact {
    let fact = |holds: bool, reason, words: &str| {
        Fact::new(IncidentCondition::EvidenceArchived, holds, reason, words)
    };
    let conditions = incident.status.iter().flat_map(|status| &status.conditions);
    let conditions: Vec<_> = conditions.cloned().collect();
    if condition::is_true(&conditions, IncidentCondition::EvidenceArchived) {
        return fact(true, IncidentReason::Archived, "");
    }
    let Some(text) = incident.annotations().get(ANNOTATION_EVIDENCE) else {
        return fact(
            false,
            IncidentReason::NotArchived,
            "the annotation gridstake.dev/evidence is missing: keep what hashes to spec.evidenceHash until the incident is closed",
        );
    };
    if address(text.as_bytes()).to_string() != incident.spec.evidence_hash.to_lowercase() {
        return fact(
            false,
            IncidentReason::NotArchived,
            "the annotation gridstake.dev/evidence does not hash to spec.evidenceHash",
        );
    }
    let Some(archive) = &context.archive else {
        return fact(
            false,
            IncidentReason::NotArchived,
            "no archive is configured: the evidence is in the annotation gridstake.dev/evidence alone",
        );
    };
    let index = format!("incidents/{}", incident.name_any());
    match archive
        .store()
        .write(&index, text.clone().into_bytes())
        .await
    {
        Ok(_) => fact(true, IncidentReason::Archived, ""),
        Err(error) => fact(false, IncidentReason::ArchiveUnavailable, &error.words()),
    }
}
