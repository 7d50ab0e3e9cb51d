//! Facts about what is told of a job.

#![allow(clippy::needless_pass_by_value, reason = "tests")]

use serde_json::{Value, json};

use super::*;
use crate::{
    explain::{
        conditions::tests::conditions,
        weight::tests::{binding, node},
    },
    output::{Report as _, tests::is_written},
};

const FULL: &str = include_str!("../../../crds/tests/manifests/valid/computejob-full.yaml");
const UID: &str = "0c2f7e2e-7b1c-4c39-9f9e-6f5f1f0c0a11";

fn job(spec: Value, status: Value) -> ComputeJob {
    let mut job = json!({
        "apiVersion": "gridstake.dev/v1alpha1", "kind": "ComputeJob",
        "metadata": {"name": "train", "namespace": "team-a", "uid": UID},
        "spec": {"gpu": {"count": 4}, "template": {}}, "status": status,
    });
    if let Value::Object(fields) = spec {
        for (name, value) in fields {
            job["spec"][name] = value;
        }
    }
    serde_json::from_value(job).unwrap()
}

fn told(status: Value) -> String {
    explain(&job(Value::Null, status), Beside::default()).state
}

/// A placement of two members, of which the first is on n1.
fn placement() -> Value {
    json!({
        "attempt": 2,
        "nodes": [
            {"member": 0, "node": "n1", "perGpuSecond": "0.00072", "providerId": 7, "chain": "base"},
            {"member": 1, "node": "n2", "perGpuSecond": "0.00144", "providerId": 7, "chain": "base"},
        ],
        "decidedAt": "2027-01-31T22:00:00Z",
        "decision": {
            "draw": "gridstake-draw/1",
            "blockHash": format!("0x{}", "ab".repeat(32)),
            "previous": format!("0x{}", "cd".repeat(32)),
            "hash": format!("0x{}", "ef".repeat(32)),
            "snapshot": 7, "candidates": 3, "totalWeight": "87381333",
            "drawn": ["4022902", "1161472"],
            "rejections": [{"reason": "Tainted", "nodes": 2}, {"reason": "NotOffered", "nodes": 1}],
        },
    })
}

/// The two nodes of [`placement`], which share a stake of 40,000.
fn fleet() -> Beside {
    let bonded = json!({"status": "True", "reason": "Bonded"});
    let named = |name: &str, reputation: u32| {
        // The price that a node asks now is not that of then.
        let spec = json!({"pricing": {"perGpuSecond": "9"}});
        (
            name.to_owned(),
            node(name, &bonded, &spec, &json!(reputation)),
        )
    };
    Beside {
        nodes: [named("n1", 1000), named("n2", 500)].into(),
        bindings: vec![binding(&["n1", "n2"], "40000")],
        ..Beside::default()
    }
}

#[test]
fn a_job_that_waits_is_told_its_place_what_blocks_it_and_what_would_let_it_fit() {
    let waiting = job(
        Value::Null,
        json!({
            "observedGeneration": 1,
            "queue": {"position": 1, "startsBy": "2027-01-31T23:00:00Z"},
            "conditions": conditions(&[
                ["Validated", "True", "Valid", ""],
                ["Admitted", "True", "Admitted", ""],
                ["Scheduled", "False", "InsufficientCapacity", "0/4 nodes fit: 2 InsufficientGpus (needs 4), 1 NotOffered (Drained), 1 PriceTooHigh; nearest: a node with 3 of 4 GPUs free; fits now with pricing.maxPerGpuSecond 0.002; first in the queue: 1 node is kept for it"],
                ["Running", "False", "Queued", ""],
                ["Complete", "False", "NotEnded", ""],
                ["Failed", "False", "NotEnded", ""],
                ["Ready", "False", "Queued", ""],
            ]),
        }),
    );
    is_written(
        &explain(&waiting, Beside::default()),
        include_str!("../golden/job_waiting.txt"),
    );
}

#[test]
fn a_job_that_runs_shows_each_term_of_its_draw_its_attempts_and_its_money() {
    let running = job(
        json!({"members": 2}),
        json!({
            "observedGeneration": 1,
            "placement": placement(),
            "attempts": [{
                "attempt": 1, "nodes": ["n3"], "endedAt": "2027-01-31T21:30:00Z",
                "endReason": "DeviceLost", "exitCode": 137, "message": "Xid 79", "gpuMillis": 3_600_500,
                "suspects": ["n3"], "verdict": "Host", "verdictReason": "GpuLost", "verdictMembers": [0],
            }],
            "usage": {"gpuMillis": 3_600_500, "energyMillijoules": 1_260_000_000, "cost": "2.59236"},
            "settlement": {"chain": "base", "lane": 7, "sealed": 2, "final": 1},
            "conditions": conditions(&[
                ["Admitted", "True", "Admitted", ""],
                ["Scheduled", "True", "Placed", ""],
                ["Running", "True", "Running", "all members run"],
                ["Settled", "False", "Unsettled", ""],
                ["Ready", "True", "Running", ""],
            ]),
        }),
    );
    let record = serde_json::from_value(json!({
        "apiVersion": "gridstake.dev/v1alpha1", "kind": "UsageRecord",
        "metadata": {"name": format!("{UID}-1-0-0")},
        "spec": {
            "job": {"namespace": "team-a", "name": "train", "uid": UID}, "attempt": 1, "member": 0, "slice": 0,
            "podName": "train-1-0", "nodeName": "n3", "gpuCount": 4,
        },
        "status": {"conditions": conditions(&[["Settled", "False", "HeldBack", "by Incident incident-ab"]])},
    }))
    .unwrap();
    let beside = Beside {
        records: vec![record],
        ..fleet()
    };
    is_written(
        &explain(&running, beside),
        include_str!("../golden/job_running.txt"),
    );
}

#[test]
fn a_job_that_shows_every_field_is_explained() {
    let mut full: ComputeJob = serde_saphyr::from_str(FULL).unwrap();
    full.metadata.namespace = Some("team-a".to_owned());
    is_written(
        &explain(&full, Beside::default()),
        include_str!("../golden/job_full.txt"),
    );
}

#[test]
fn the_odds_of_a_node_are_its_weight_out_of_all_at_the_price_of_then() {
    let running = job(json!({"members": 2}), json!({"placement": placement()}));
    let draws = explain(&running, fleet()).placement.unwrap().draws;
    let weights: Vec<_> = draws
        .iter()
        .map(|draw| (draw.weight.as_ref().unwrap().weight, draw.odds_permille))
        .collect();
    assert_eq!(weights, [(29_127_111, Some(333)), (7_281_777, Some(83))]);
}

#[test]
fn odds_that_cannot_be_are_not_told() {
    for total in ["0", "1000", "", "x"] {
        let mut placement = placement();
        placement["decision"]["totalWeight"] = json!(total);
        let placed = job(Value::Null, json!({"placement": placement}));
        let draws = explain(&placed, fleet()).placement.unwrap().draws;
        assert_eq!(draws[0].odds_permille, None, "{total}");
    }
}

#[test]
fn what_may_not_be_read_is_said_and_the_rest_is_told() {
    let placed = job(Value::Null, json!({"placement": placement()}));
    let beside = Beside {
        not_read: vec!["the weights of nodes: gpunodes is forbidden".to_owned()],
        ..Beside::default()
    };
    let text = explain(&placed, beside).text();
    assert!(
        text.contains("Not read: the weights of nodes: gpunodes is forbidden"),
        "{text}"
    );
    assert!(text.contains("n1"), "{text}");
    assert!(!text.contains("weight = stake"), "{text}");
}

#[test]
fn each_state_of_a_job_is_told_in_a_sentence() {
    let of =
        |kind: &str, status: &str, reason: &str| conditions(&[[kind, status, reason, "words"]]);
    let admitted = of("Admitted", "True", "Admitted");
    for (status, expected) in [
        (
            Value::Null,
            "the operator has not looked at it yet; if that lasts, see whether one leads: `kubectl get leases -A`",
        ),
        (json!({"observedGeneration": 1}), "it is being looked at"),
        (
            json!({"observedGeneration": 1, "conditions": of("Admitted", "False", "EscrowExhausted")}),
            "it does not get into the queue: EscrowExhausted",
        ),
        (
            json!({"observedGeneration": 1, "conditions": admitted}),
            "it waits for a place",
        ),
        (
            json!({"observedGeneration": 1, "conditions": admitted, "queue": {"position": 20}}),
            "it waits for a place, as number 20 or less in the queue",
        ),
        (
            json!({"observedGeneration": 1, "placement": placement()}),
            "attempt 2 starts on n1, n2",
        ),
        (
            json!({"observedGeneration": 1, "placement": placement(), "conditions": of("Running", "True", "Running")}),
            "attempt 2 runs on n1, n2",
        ),
        (
            json!({"observedGeneration": 1, "placement": placement(), "ending": {"attempt": 2, "reason": "Suspended", "since": "2027-01-31T22:00:00Z"}}),
            "attempt 2 is being stopped: The job was suspended.",
        ),
        (
            json!({"observedGeneration": 1, "placement": placement(), "endReason": "Succeeded"}),
            "it has ended after 2 attempts: Every member of an attempt ended with exit code 0.",
        ),
        (
            json!({"observedGeneration": 1, "endReason": "QueueTimeout"}),
            "it has ended after 0 attempts: No placement within `timeouts.queue`.",
        ),
    ] {
        assert_eq!(told(status), expected);
    }
    let suspended = job(json!({"suspend": true}), json!({"observedGeneration": 1}));
    assert_eq!(
        explain(&suspended, Beside::default()).state,
        "it is suspended"
    );
    let mut deleted = job(
        Value::Null,
        json!({"observedGeneration": 1, "placement": placement()}),
    );
    deleted.metadata.deletion_timestamp =
        Some(serde_json::from_value(json!("2027-01-31T22:00:00Z")).unwrap());
    assert!(
        explain(&deleted, Beside::default())
            .state
            .starts_with("it is being deleted")
    );
}
