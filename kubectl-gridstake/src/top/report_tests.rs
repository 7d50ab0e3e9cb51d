//! Facts about the sums.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::output::tests::is_written;

fn now() -> Timestamp {
    "2027-01-31T22:00:00Z".parse().unwrap()
}

fn node(name: &str, health: &[&str], capacity: u32, free: u32, reason: &str) -> GpuNode {
    let devices: Vec<Value> = health
        .iter()
        .enumerate()
        .map(|(index, health)| {
            json!({
                "uuid": format!("GPU-{name}-{index}"), "index": index, "model": "NVIDIA H100 80GB HBM3",
                "memoryMiB": 81559, "computeCapability": "9.0", "health": health,
            })
        })
        .collect();
    let state = if reason == "Available" {
        "Offered"
    } else {
        "Withheld"
    };
    serde_json::from_value(json!({
        "apiVersion": "gridstake.dev/v1alpha1", "kind": "GpuNode", "metadata": {"name": name}, "spec": {},
        "status": {
            "devices": devices, "capacity": capacity, "free": free,
            "offer": {"state": state, "reason": reason},
        },
    }))
    .unwrap()
}

/// A job: `place` is whether it has one, `runs` and `ended` what it has come to.
fn job(namespace: &str, place: bool, runs: bool, ended: bool) -> ComputeJob {
    let mut job = crate::explain::node::tests::job("j", &["n1", "n1"], &json!([]));
    job.metadata.namespace = Some(namespace.to_owned());
    let status = job.status.as_mut().unwrap();
    if !place {
        status.placement = None;
    }
    if runs {
        let conditions =
            crate::explain::conditions::tests::conditions(&[["Running", "True", "Running", ""]]);
        status.conditions = serde_json::from_value(conditions).unwrap();
    }
    status.end_reason = ended.then_some(gridstake_crds::compute_job::JobEndReason::Succeeded);
    job
}

fn record(provider: Option<u32>, end_ms: u64, gpu_millis: u64, state: &str) -> UsageRecord {
    let payment = provider.map(|provider| {
        json!({"chain": "base", "lane": 7, "payer": 3, "provider": provider, "perGpuSecond": "0.00072"})
    });
    let emission = provider.map(|_| json!({"jobNo": 2, "amount": "0.5"}));
    serde_json::from_value(json!({
        "apiVersion": "gridstake.dev/v1alpha1", "kind": "UsageRecord", "metadata": {"name": "r"},
        "spec": {
            "job": {"namespace": "team-a", "name": "train", "uid": "u"}, "attempt": 1, "member": 0, "slice": 0,
            "podName": "p", "nodeName": "n1", "gpuCount": 4, "payment": payment,
        },
        "status": {
            "sealed": {
                "startMs": 0, "endMs": end_ms, "gpuMillis": gpu_millis, "cause": "MemberEnded",
                "price": provider.map(|_| "0.00072"), "emission": emission,
                "receiptHash": format!("0x{}", "ab".repeat(32)),
            },
            "settlement": {"state": state},
        },
    }))
    .unwrap()
}

fn hours_ago(hours: u64) -> u64 {
    u64::try_from(now().as_millisecond()).unwrap() - hours * 3_600_000
}

#[test]
fn a_fleet_is_summed_by_node_namespace_and_provider() {
    let objects = Objects {
        nodes: Some(vec![
            node("n2", &["Healthy", "Unhealthy"], 1, 1, "Drained"),
            node(
                "n1",
                &["Healthy", "Healthy", "Degraded", "Healthy"],
                4,
                1,
                "Available",
            ),
        ]),
        jobs: Some(vec![
            job("team-b", false, false, false),
            job("team-a", true, true, false),
            job("team-a", true, false, false),
            job("team-a", false, false, false),
            job("team-c", true, true, true),
        ]),
        records: Some(vec![
            record(Some(7), hours_ago(1), 3_600_500, "Final"),
            record(Some(7), hours_ago(2), 1, "Paid"),
            record(Some(8), hours_ago(23), 1000, "Sealed"),
            record(Some(7), hours_ago(25), 1_000_000, "Final"),
            record(None, hours_ago(3), 2000, "NothingOwed"),
        ]),
        not_read: Vec::new(),
    };
    is_written(&report(objects, now()), include_str!("../golden/top.txt"));
}

#[test]
fn what_is_empty_is_said_to_be_and_what_may_not_be_read_is_not() {
    let objects = Objects {
        nodes: Some(Vec::new()),
        jobs: None,
        records: Some(Vec::new()),
        not_read: vec!["jobs: computejobs is forbidden".to_owned()],
    };
    is_written(
        &report(objects, now()),
        "No GpuNodes: install the device agent on nodes with GPUs\n\nUse and earnings of slices that ended since 2027-01-30T22:00:00Z\n  none\n\nNot read: jobs: computejobs is forbidden",
    );
}

proptest! {
    #[test]
    fn every_slice_of_the_day_counts_once_and_with_one_provider(
        slices in prop::collection::vec((prop::option::of(1_u32..4), 0_u64..48, 0_u64..1 << 40), 0..30),
    ) {
        let records: Vec<_> = slices
            .iter()
            .map(|(provider, hours, millis)| record(*provider, hours_ago(*hours), *millis, "Sealed"))
            .collect();
        let objects = Objects { records: Some(records), ..Objects::default() };
        let earnings = report(objects, now()).earnings.unwrap();
        let today = || slices.iter().filter(|(_, hours, _)| *hours <= 24);
        prop_assert_eq!(earnings.iter().map(|line| line.slices).sum::<u64>(), today().count() as u64);
        prop_assert_eq!(
            earnings.iter().map(|line| line.gpu_millis).sum::<u64>(),
            today().map(|(_, _, millis)| millis).sum::<u64>()
        );
        // At 720 nano-tokens a millisecond nothing is rounded.
        let owed: u128 = today().filter(|(provider, _, _)| provider.is_some()).map(|(_, _, millis)| u128::from(*millis) * 720).sum();
        prop_assert_eq!(earnings.iter().map(|line| line.amount.nano()).sum::<u128>(), owed);
    }
}
