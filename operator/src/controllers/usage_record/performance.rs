//! By which performance a slice weighs in emissions. Pure.

use std::collections::BTreeSet;

use gridstake_crds::{
    GpuNodeStatus, UsageRecord, gpu_node::Performance as Measured, usage_record::DeviceUse,
};
use gridstake_ledger::performance::REFERENCE;
use k8s_openapi::jiff::Timestamp;

/// What a factor rests on that the chains file gives.
pub const CONFIGURED: &str = "configured";
/// What a factor rests on where nothing was measured that still counts.
const UNMEASURED: &str = "unmeasured";

/// A performance, and what it rests on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Performance {
    /// In thousandths.
    pub permille: u32,
    /// The reference that it was weighed by; `configured`; or `unmeasured`.
    pub reference: String,
}

/// The performance of the slice `record` at `now`: what is `configured`, else that of its slowest GPU, by what the node's `status`
/// says of them. Of a GPU that was not measured, or so long ago that it does not count, it is `unmeasured`. Which GPUs the slice
/// has is what its agent says; before that, all of the node's.
#[must_use]
pub fn of(
    configured: Option<u32>,
    unmeasured: u32,
    status: Option<&GpuNodeStatus>,
    record: &UsageRecord,
    now: Timestamp,
) -> Performance {
    if let Some(permille) = configured {
        return Performance {
            permille,
            reference: CONFIGURED.to_owned(),
        };
    }
    let counts = |uuid: &str| {
        let known = status?
            .performance
            .iter()
            .find(|known| known.uuid == uuid)?;
        let in_force = known.expires_at.0 > now && known.reference == REFERENCE.name;
        in_force.then(|| of_gpu(known))
    };
    let or_not = || Performance {
        permille: unmeasured,
        reference: UNMEASURED.to_owned(),
    };
    gpus(status, record)
        .into_iter()
        .map(|uuid| counts(uuid).unwrap_or_else(or_not))
        .min()
        .unwrap_or_else(or_not)
}

fn of_gpu(measured: &Measured) -> Performance {
    Performance {
        permille: measured.permille,
        reference: measured.reference.clone(),
    }
}

/// The GPUs of the slice, by UUID; where its agent has not said which, all of the node's.
fn gpus<'a>(status: Option<&'a GpuNodeStatus>, record: &'a UsageRecord) -> BTreeSet<&'a str> {
    let evidence = record.status.as_ref().and_then(|s| s.evidence.as_ref());
    let used: BTreeSet<&str> = evidence
        .iter()
        .flat_map(|evidence| &evidence.devices)
        .map(DeviceUse::physical)
        .collect();
    if !used.is_empty() {
        return used;
    }
    status
        .iter()
        .flat_map(|status| &status.devices)
        .map(|device| device.uuid.as_str())
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const NOW: &str = "2027-01-10T00:00:00Z";

    fn known(uuid: &str, permille: u32, expires: &str, reference: &str) -> Value {
        json!({"uuid": uuid, "permille": permille, "fp32Gflops": 1, "memoryGBs": 1, "reference": reference,
            "measuredAt": "2027-01-01T00:00:00Z", "expiresAt": expires, "job": "canary-1"})
    }

    fn status() -> GpuNodeStatus {
        let device = |uuid: &str| json!({"uuid": uuid, "index": 0, "model": "m", "memoryMiB": 1, "computeCapability": "9.0", "health": "Healthy"});
        serde_json::from_value(json!({
            "devices": [device("fast"), device("slow"), device("new"), device("old")],
            "performance": [
                known("fast", 2500, "2027-02-01T00:00:00Z", "performance/1"),
                known("slow", 300, "2027-02-01T00:00:00Z", "performance/1"),
                known("old", 2500, "2027-01-09T00:00:00Z", "performance/1"),
                known("else", 2500, "2027-02-01T00:00:00Z", "performance/0"),
            ],
        }))
        .unwrap()
    }

    fn record(gpus: &[&str]) -> UsageRecord {
        let devices: Vec<_> = gpus.iter().map(|uuid| json!({"uuid": uuid})).collect();
        serde_json::from_value(json!({
            "apiVersion": "gridstake.dev/v1alpha1", "kind": "UsageRecord", "metadata": {"name": "r"},
            "spec": {"job": {"namespace": "n", "name": "j", "uid": "u"}, "attempt": 1, "member": 0, "slice": 0,
                "podName": "j-1-0", "nodeName": "a", "gpuCount": 1},
            "status": {"evidence": {"podUid": "p", "key": "0x52908400098527886E0F7030069857D2E4169EE7", "devices": devices}},
        }))
        .unwrap()
    }

    fn found(configured: Option<u32>, gpus: &[&str]) -> (u32, String) {
        let status = status();
        let now = NOW.parse().unwrap();
        let found = of(configured, 500, Some(&status), &record(gpus), now);
        (found.permille, found.reference)
    }

    #[test]
    fn a_slice_weighs_by_its_slowest_gpu() {
        let measured = |permille| (permille, "performance/1".to_owned());
        assert_eq!(found(None, &["fast"]), measured(2500));
        assert_eq!(found(None, &["fast", "slow"]), measured(300));
    }

    #[test]
    fn what_was_never_measured_or_has_expired_or_is_of_another_reference_is_unmeasured() {
        let unmeasured = (500, "unmeasured".to_owned());
        for gpu in ["new", "old", "else", "unheard-of"] {
            assert_eq!(found(None, &[gpu]), unmeasured, "{gpu}");
            assert_eq!(found(None, &["fast", gpu]), unmeasured, "{gpu}");
        }
        let now = NOW.parse().unwrap();
        let nothing = of(None, 500, None, &record(&[]), now);
        assert_eq!(nothing.permille, 500);
    }

    #[test]
    fn where_nobody_says_which_gpus_it_has_the_nodes_slowest_counts() {
        assert_eq!(found(None, &[]), (300, "performance/1".to_owned()));
    }

    #[test]
    fn what_is_set_by_hand_stands_whatever_was_measured() {
        let configured = |permille| (permille, "configured".to_owned());
        assert_eq!(found(Some(900), &["slow"]), configured(900));
        assert_eq!(found(Some(0), &[]), configured(0));
    }
}
