//! What has failed on which node, by the UsageRecords: a node's passes must not search through the records of all others.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use gridstake_crds::{
    UsageRecord,
    compute_job::{Verdict, VerdictReason},
    condition,
    usage_record::UsageRecordCondition,
};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;

/// A member's failure that was not laid at the tenant's door.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// When it was judged, on the operator's clock.
    pub at: Timestamp,
    /// At whose door it is laid.
    pub verdict: Verdict,
    /// On what that rests.
    pub reason: VerdictReason,
    /// The job's uid.
    pub job: String,
    /// The member's physical GPUs; none where its evidence names none.
    pub gpus: Vec<String>,
}

impl Failure {
    /// The failure that `record` tells of.
    fn of(record: &UsageRecord) -> Option<Self> {
        let status = record.status.as_ref()?;
        let sealed = status.sealed.as_ref()?;
        let verdict = sealed.verdict.filter(|v| *v != Verdict::Tenant)?;
        let judged = condition::find(&status.conditions, UsageRecordCondition::Sealed)?;
        let devices = status.evidence.iter().flat_map(|e| &e.devices);
        Some(Self {
            at: judged.last_transition_time.0,
            verdict,
            reason: sealed.verdict_reason?,
            job: record.spec.job.uid.clone(),
            gpus: devices.map(|used| used.physical().to_owned()).collect(),
        })
    }
}

/// Failures, by node and record.
type ByNode = HashMap<String, BTreeMap<String, Failure>>;

/// The failures of each node. Cloning shares them.
#[derive(Clone, Debug, Default)]
pub struct Failures(Arc<Mutex<ByNode>>);

impl Failures {
    fn by_node(&self) -> MutexGuard<'_, ByNode> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of `record` as it is; whether its node has a failure more.
    #[must_use]
    pub fn see(&self, record: &UsageRecord) -> bool {
        let Some(failure) = Failure::of(record) else {
            return false;
        };
        let mut by_node = self.by_node();
        let of_node = by_node.entry(record.spec.node_name.clone()).or_default();
        of_node.insert(record.name_any(), failure).is_none()
    }

    /// Forgets a record that is gone.
    pub fn remove(&self, record: &UsageRecord) {
        let mut by_node = self.by_node();
        if let Some(of_node) = by_node.get_mut(&record.spec.node_name) {
            of_node.remove(&record.name_any());
            if of_node.is_empty() {
                by_node.remove(&record.spec.node_name);
            }
        }
    }

    /// Takes note of all records that exist, and forgets the others.
    pub fn replace<'a>(&self, records: impl IntoIterator<Item = &'a UsageRecord>) {
        let mut fresh = ByNode::new();
        for record in records {
            if let Some(failure) = Failure::of(record) {
                let of_node = fresh.entry(record.spec.node_name.clone()).or_default();
                of_node.insert(record.name_any(), failure);
            }
        }
        *self.by_node() = fresh;
    }

    /// What has failed on `node` since `since`.
    #[must_use]
    pub fn on(&self, node: &str, since: Timestamp) -> Vec<Failure> {
        let by_node = self.by_node();
        let of_node = by_node.get(node).into_iter().flat_map(BTreeMap::values);
        of_node
            .filter(|failure| failure.at >= since)
            .cloned()
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(uid: &str, verdict: &str) -> UsageRecord {
        serde_json::from_value(serde_json::json!({
            "apiVersion": "gridstake.dev/v1alpha1", "kind": "UsageRecord", "metadata": {"name": format!("{uid}-1-0-0")},
            "spec": {"job": {"namespace": "n", "name": "j", "uid": uid}, "attempt": 1, "member": 0, "slice": 0,
                "podName": "j-1-0", "nodeName": "a", "gpuCount": 1},
            "status": {
                "evidence": {"podUid": "p", "key": "0x52908400098527886E0F7030069857D2E4169EE7",
                    "devices": [{"uuid": "MIG-1", "parentUuid": "GPU-1"}]},
                "sealed": {"startMs": 1, "endMs": 2, "gpuMillis": 1, "cause": "MemberEnded", "verdict": verdict,
                    "verdictReason": "HardwareXid", "receiptHash": format!("0x{}", "0".repeat(64))},
                "conditions": [{"type": "Sealed", "status": "True", "reason": "Sealed", "message": "",
                    "lastTransitionTime": "2027-01-01T00:00:00Z"}],
            },
        }))
        .unwrap()
    }

    #[test]
    fn a_nodes_failures_are_those_that_are_not_the_tenants() {
        let failures = Failures::default();
        let at: Timestamp = "2027-01-01T00:00:00Z".parse().unwrap();
        assert!(!failures.see(&record("t", "Tenant")));
        assert!(failures.see(&record("h", "Host")));
        assert!(!failures.see(&record("h", "Host")), "it is no news");
        let found = failures.on("a", at);
        assert_eq!(
            (found.len(), found[0].gpus.as_slice()),
            (1, &["GPU-1".to_owned()][..])
        );
        assert!(
            failures
                .on("a", at + k8s_openapi::jiff::SignedDuration::from_secs(1))
                .is_empty()
        );
        assert!(failures.on("b", at).is_empty());
        failures.remove(&record("h", "Host"));
        assert!(failures.on("a", at).is_empty());
        failures.replace(&[record("x", "Ambiguous")]);
        assert_eq!(failures.on("a", at).len(), 1);
    }
}
