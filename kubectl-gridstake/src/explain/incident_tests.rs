//! Facts about what is told of an incident.

use gridstake_crds::closed_enum::ClosedEnum as _;
use serde_json::{Value, json};

use super::*;
use crate::{
    explain::conditions::tests::conditions,
    output::{Report as _, tests::is_written},
};

const FULL: &str = include_str!("../../../crds/tests/manifests/valid/incident-full.yaml");
const WARNING: &str = include_str!("../../../crds/tests/manifests/valid/incident-warning.yaml");

fn now() -> Timestamp {
    "2027-02-01T00:00:00Z".parse().unwrap()
}

fn full(status: &Value) -> Incident {
    let full: Incident = serde_saphyr::from_str(FULL).unwrap();
    let mut full = serde_json::to_value(full).unwrap();
    for (name, value) in status.as_object().unwrap() {
        full["status"][name] = value.clone();
    }
    for later in [
        "dispute",
        "resolution",
        "execution",
        "cancellation",
        "until",
    ] {
        if status.get(later).is_none() {
            full["status"].as_object_mut().unwrap().remove(later);
        }
    }
    serde_json::from_value(full).unwrap()
}

#[test]
fn a_provider_is_told_what_is_at_stake_and_until_when_and_how_to_dispute_it() {
    let proposed = full(&json!({
        "state": "Proposed",
        "conditions": conditions(&[
            ["EvidenceArchived", "True", "Archived", ""],
            ["Proposed", "True", "Proposed", ""],
            ["Answered", "False", "WaitingForAnswer", ""],
            ["Closed", "False", "InProgress", ""],
            ["Ready", "True", "Proposed", ""],
        ]),
    }));
    is_written(
        &explain(&proposed, now()),
        include_str!("../golden/incident_proposed.txt"),
    );
}

#[test]
fn an_incident_that_shows_every_field_is_explained() {
    let full: Incident = serde_saphyr::from_str(FULL).unwrap();
    is_written(
        &explain(&full, now()),
        include_str!("../golden/incident_full.txt"),
    );
}

#[test]
fn a_warning_needs_no_chain() {
    let warning: Incident = serde_saphyr::from_str(WARNING).unwrap();
    let text = explain(&warning, now()).text();
    assert!(!text.contains("gridstake dispute"), "{text}");
}

#[test]
fn after_the_time_to_dispute_nobody_is_told_to_dispute() {
    let proposed = full(&json!({"state": "Proposed"}));
    let later = "2027-02-02T22:05:00Z".parse().unwrap();
    assert_eq!(
        explain(&proposed, later).answer,
        ["the time to dispute is over: the cut follows"]
    );
}

#[test]
fn what_keeps_a_proposal_up_is_told_with_what_to_do() {
    let stuck = full(&json!({
        "state": "Proposing",
        "conditions": conditions(&[
            ["Proposed", "False", "NoSlashKey", "the operator has no key for slashes on chain base"],
            ["Ready", "False", "NoSlashKey", "the operator has no key for slashes on chain base"],
        ]),
    }));
    let report = explain(&stuck, now());
    assert_eq!(report.blocked_by.len(), 1);
    assert!(report.blocked_by[0].next.contains("keys.slash"));
    assert_eq!(report.answer.len(), 1);
}

#[test]
fn every_state_is_told() {
    for state in IncidentState::ALL {
        let incident = full(&json!({"state": state.to_string()}));
        let report = explain(&incident, now());
        assert!(
            report.state.starts_with(&state.to_string()),
            "{}",
            report.state
        );
    }
    let cancelled = full(&json!({"state": "Cancelled", "cancellation": "NotUpheld"}));
    assert_eq!(
        explain(&cancelled, now()).state,
        "Cancelled: Nothing was cut and the stake is free again. The arbiter did not uphold it."
    );
}
