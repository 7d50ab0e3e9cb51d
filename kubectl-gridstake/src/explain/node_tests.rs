//! Facts about what is told of a node.

use serde_json::{Value, json};

use super::*;
use crate::{
    explain::{conditions::tests::conditions, weight::tests::binding},
    output::tests::is_written,
};

const FULL: &str = include_str!("../../../crds/tests/manifests/valid/gpunode-full.yaml");
const NOW: &str = "2027-01-31T22:10:00Z";

fn now() -> Timestamp {
    NOW.parse().unwrap()
}

fn node(status: &Value) -> GpuNode {
    serde_json::from_value(json!({
        "apiVersion": "gridstake.dev/v1alpha1", "kind": "GpuNode", "metadata": {"name": "n1"},
        "spec": {"pricing": {"perGpuSecond": "0.00072"}}, "status": status,
    }))
    .unwrap()
}

pub(crate) fn job(name: &str, nodes: &[&str], attempts: &Value) -> ComputeJob {
    let members: Vec<Value> = nodes
        .iter()
        .enumerate()
        .map(|(member, node)| json!({"member": member, "node": node}))
        .collect();
    let zeros = format!("0x{}", "00".repeat(32));
    serde_json::from_value(json!({
        "apiVersion": "gridstake.dev/v1alpha1", "kind": "ComputeJob",
        "metadata": {"name": name, "namespace": "team-a"},
        "spec": {"gpu": {"count": 2}, "members": nodes.len(), "template": {}},
        "status": {
            "attempts": attempts,
            "placement": {
                "attempt": 1, "nodes": members, "decidedAt": "2027-01-31T20:00:00Z",
                "decision": {
                    "draw": "gridstake-draw/1", "blockHash": zeros, "previous": zeros, "hash": zeros, "snapshot": 1,
                    "candidates": 1, "totalWeight": "1", "drawn": ["0"],
                },
            },
        },
    }))
    .unwrap()
}

fn incident(name: &str, node: &str, to: &str) -> Incident {
    serde_json::from_value(json!({
        "apiVersion": "gridstake.dev/v1alpha1", "kind": "Incident", "metadata": {"name": name},
        "spec": {
            "offence": "DowntimeDuringJob", "subject": {"nodeName": node}, "from": to, "to": to, "verdict": "Host",
            "evidenceHash": format!("0x{}", "ab".repeat(32)), "summary": "lost", "sanction": "Repair",
        },
        "status": {"state": "InForce"},
    }))
    .unwrap()
}

#[test]
fn a_node_that_is_offered_shows_its_weight_its_jobs_and_its_incidents() {
    let offered = node(&json!({
        "capacity": 8, "free": 2, "offer": {"state": "Offered", "reason": "Available"},
        "providerId": 7, "chain": "base", "reputation": 666,
        "devices": [{
            "uuid": "GPU-5a3c0f6e", "index": 0, "model": "NVIDIA H100 80GB HBM3", "memoryMiB": 81559,
            "computeCapability": "9.0", "health": "Healthy",
        }],
        "reputationTerms": [{
            "uuid": "GPU-5a3c0f6e", "score": 666, "base": 500, "experience": 213, "incidents": 40, "gaps": 7,
            "gpuHours": 240, "version": 1,
        }],
        "stability": {"permille": 991, "uptimePermille": 993, "completionPermille": 998, "version": 1},
        "conditions": conditions(&[
            ["Offered", "True", "Available", ""],
            ["Bonded", "True", "Bonded", ""],
            ["Quarantined", "False", "Clean", ""],
            ["Measured", "False", "NotMeasured", ""],
            ["Ready", "True", "Ready", ""],
        ]),
    }));
    let mut bound = binding(&["n1", "n2"], "40000");
    if let Some(status) = &mut bound.status {
        status.bonded = "30000".parse().ok();
        status.delegated = "10000".parse().ok();
    }
    let beside = Beside {
        bindings: vec![bound],
        jobs: vec![
            job("train", &["n1", "n2", "n1"], &json!([])),
            job("elsewhere", &["n2"], &json!([])),
        ],
        incidents: vec![
            incident("incident-older", "n1", "2027-01-20T00:00:00Z"),
            incident("incident-newer", "n1", "2027-01-21T00:00:00Z"),
            incident("incident-other", "n2", "2027-01-22T00:00:00Z"),
        ],
        not_read: Vec::new(),
    };
    is_written(
        &explain(&offered, beside, now()),
        include_str!("../golden/node_offered.txt"),
    );
}

#[test]
fn a_node_that_is_withheld_says_what_mends_it() {
    let withheld = node(&json!({
        "capacity": 1, "free": 1, "offer": {"state": "Withheld", "reason": "NoHealthyDevices"},
        "agent": {"version": "1", "state": "CallFailing", "message": "nvmlDeviceGetUtilizationRates: GPU is lost"},
        "devices": [{
            "uuid": "GPU-5a3c0f6e", "index": 0, "model": "NVIDIA H100 80GB HBM3", "memoryMiB": 81559,
            "computeCapability": "9.0", "health": "Unhealthy", "reasons": ["GpuLost"],
            "faults": [{"kind": "Xid", "xid": 79, "firstMs": 1_801_432_800_000_u64, "lastMs": 1_801_432_800_000_u64, "count": 1}],
        }],
        "quarantine": [
            {"subject": "node", "reason": "AdmissionFailures", "failures": 3, "until": "2027-01-31T22:20:00Z"},
            {"subject": "GPU-5a3c0f6e", "reason": "RepeatedFailures", "failures": 2, "until": "2027-01-31T22:00:00Z"},
        ],
        "conditions": conditions(&[
            ["Reporting", "True", "AgentReporting", ""],
            ["Healthy", "False", "NoHealthyDevices", "GPU-5a3c0f6e: GpuLost"],
            ["Bonded", "False", "NoBinding", "no StakeBinding selects the node"],
            ["Offered", "False", "NoHealthyDevices", "no GPU is healthy"],
            ["Quarantined", "True", "AdmissionFailures", "the kubelet refused 3 pods"],
            ["Ready", "False", "NotOffered", ""],
        ]),
    }));
    is_written(
        &explain(&withheld, Beside::default(), now()),
        include_str!("../golden/node_withheld.txt"),
    );
}

#[test]
fn a_node_that_shows_every_field_is_explained() {
    let full: GpuNode = serde_saphyr::from_str(FULL).unwrap();
    is_written(
        &explain(&full, Beside::default(), now()),
        include_str!("../golden/node_full.txt"),
    );
}

#[test]
fn a_node_that_nobody_has_looked_at_says_so() {
    let new = node(&Value::Null);
    let report = explain(&new, Beside::default(), now());
    assert!(
        report
            .state
            .starts_with("the operator has not looked at it yet")
    );
    assert_eq!(report.weight, None);
}

#[test]
fn only_attempts_in_progress_are_on_a_node() {
    let ended = json!([{
        "attempt": 1, "nodes": ["n1"], "endedAt": "2027-01-31T21:00:00Z", "endReason": "Succeeded", "gpuMillis": 1,
    }]);
    let jobs = [
        job("done", &["n1"], &ended),
        job("runs", &["n1"], &json!([])),
    ];
    let on: Vec<String> = jobs_on("n1", &jobs)
        .into_iter()
        .map(|job| job.name)
        .collect();
    assert_eq!(on, ["runs"]);
}

#[test]
fn a_quarantine_that_is_over_and_figures_that_have_expired_are_not_told() {
    let full: GpuNode = serde_saphyr::from_str(FULL).unwrap();
    let later = "2027-04-01T00:00:00Z".parse().unwrap();
    let report = explain(&full, Beside::default(), later);
    assert!(report.quarantine.is_empty());
    assert!(report.devices[0].performance.is_none());
}
