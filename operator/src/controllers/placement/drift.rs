//! Whether what is bound is what was decided. Pure.
//!
//! Placements are read from ComputeJobs, after a restart too; who really holds GPUs are pods. Both are compared in every pass: what is
//! told here must be nothing, and is a fault of the operator, of kube-scheduler, or of somebody who binds pods of jobs by hand.

use std::collections::BTreeMap;

use gridstake_crds::{
    ComputeJob,
    names::{LABEL_ATTEMPT, LABEL_JOB_UID, LABEL_MEMBER},
};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;

use crate::scheduler::Snapshot;

/// What differs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drift {
    /// Pods of attempts in progress that are bound to another node than their member was given.
    pub pods_elsewhere: usize,
    /// Nodes of which more GPUs are held and promised than they have usable ones, counted by attempts in progress.
    pub nodes_overcommitted: usize,
}

/// What differs between the placements of `jobs` and where `pods` are bound, on the fleet of `snapshot`.
#[must_use]
pub fn drift<'j, 'p>(
    jobs: impl IntoIterator<Item = &'j ComputeJob>,
    pods: impl IntoIterator<Item = &'p Pod>,
    snapshot: &Snapshot,
) -> Drift {
    let mut given: BTreeMap<(&str, u32, u32), &str> = BTreeMap::new();
    let mut promised: BTreeMap<&str, u64> = BTreeMap::new();
    for job in jobs {
        let active = job.status.as_ref().and_then(|s| s.active_placement());
        let (Some(placement), Some(uid)) = (active, job.metadata.uid.as_deref()) else {
            continue;
        };
        for member in &placement.nodes {
            given.insert((uid, placement.attempt, member.member), &member.node);
            *promised.entry(&member.node).or_default() += u64::from(job.spec.gpu.count);
        }
    }
    let is_elsewhere = |pod: &&Pod| {
        let label = |key: &str| pod.labels().get(key).map(String::as_str);
        let number = |key: &str| label(key)?.parse::<u32>().ok();
        let bound = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
        let (Some(uid), Some(attempt), Some(member), Some(bound)) = (
            label(LABEL_JOB_UID),
            number(LABEL_ATTEMPT),
            number(LABEL_MEMBER),
            bound,
        ) else {
            return false;
        };
        given
            .get(&(uid, attempt, member))
            .is_some_and(|node| *node != bound)
    };
    let allocatable: BTreeMap<&str, u64> = snapshot
        .nodes()
        .iter()
        .map(|node| (node.facts().name.as_str(), node.facts().allocatable.gpus))
        .collect();
    // A node that lost GPUs holds more than it has until what ran on them is gone; what its kubelet hands out counts.
    let is_overcommitted = |(node, promised): &(&&str, &u64)| {
        allocatable
            .get(**node)
            .is_some_and(|has| *has > 0 && *promised > has)
    };
    Drift {
        pods_elsewhere: pods.into_iter().filter(is_elsewhere).count(),
        nodes_overcommitted: promised.iter().filter(is_overcommitted).count(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::fixtures::{node, snapshot};

    fn job(uid: &str, gpus: u32, node: &str) -> ComputeJob {
        let zero = format!("0x{}", "0".repeat(64));
        serde_saphyr::from_str(&format!(
            "{{apiVersion: gridstake.dev/v1alpha1, kind: ComputeJob, metadata: {{name: j, uid: {uid}}}, spec: {{gpu: {{count: {gpus}}}, template: {{}}}}, status: {{placement: {{attempt: 1, nodes: [{{member: 0, node: {node}}}], decidedAt: '2026-01-01T00:00:00Z', \
             decision: {{draw: d, blockHash: '{zero}', previous: '{zero}', hash: '{zero}', snapshot: 1, candidates: 1, totalWeight: '1', drawn: []}}}}}}}}"
        ))
        .unwrap()
    }

    fn pod(uid: &str, attempt: u32, node: Option<&str>) -> Pod {
        let node = node.map_or_else(String::new, |node| format!("nodeName: {node}, "));
        serde_saphyr::from_str(&format!(
            "{{metadata: {{name: p, labels: {{{LABEL_JOB_UID}: {uid}, {LABEL_ATTEMPT}: '{attempt}', {LABEL_MEMBER}: '0'}}}}, spec: {{{node}containers: []}}}}"
        ))
        .unwrap()
    }

    #[test]
    fn nothing_differs_where_pods_are_on_their_members_nodes_or_not_bound_yet() {
        let fleet = snapshot(vec![node("a", 8), node("b", 8)]);
        let jobs = [job("u", 8, "a"), job("v", 8, "b")];
        let pods = [pod("u", 1, Some("a")), pod("v", 1, None)];
        assert_eq!(drift(&jobs, &pods, &fleet), Drift::default());
    }

    #[test]
    fn a_pod_on_another_node_than_its_member_was_given_is_told() {
        let fleet = snapshot(vec![node("a", 8), node("b", 8)]);
        let jobs = [job("u", 1, "a")];
        let found = drift(&jobs, &[pod("u", 1, Some("b"))], &fleet);
        assert_eq!(found.pods_elsewhere, 1);
        // What is left of another attempt, and of a job that is gone, is no drift.
        let leftovers = [pod("u", 2, Some("b")), pod("w", 1, Some("b"))];
        assert_eq!(drift(&jobs, &leftovers, &fleet), Drift::default());
    }

    #[test]
    fn a_node_that_is_promised_more_than_once_is_told() {
        let fleet = snapshot(vec![node("a", 8)]);
        let jobs = [job("u", 5, "a"), job("v", 4, "a"), job("w", 1, "gone")];
        assert_eq!(drift(&jobs, [], &fleet).nodes_overcommitted, 1);
        assert_eq!(drift(&jobs[1..], [], &fleet), Drift::default());
    }
}
