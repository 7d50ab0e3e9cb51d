//! What of an object is kept in memory: only what some part of the operator reads.

use gridstake_crds::UsageRecord;
use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{Container, ContainerStatus, Namespace, Node, Pod, PodStatus},
    scheduling::v1::PriorityClass,
};
use kube::{ResourceExt, core::DeserializeGuard};

use crate::controllers::gpu_node::local_use::WaitingPod;

/// Written by `kubectl apply` and as large as the object itself.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Drops what no controller reads of any kind.
pub fn metadata<K: ResourceExt>(object: &mut K) {
    object.managed_fields_mut().clear();
    object.annotations_mut().remove(LAST_APPLIED);
}

/// Keeps labels, taints, cordon, allocatable resources and conditions. Images and volumes make up most of a Node.
pub fn node(node: &mut Node) {
    metadata(node);
    node.annotations_mut().clear();
    if let Some(status) = &mut node.status {
        status.images = None;
        status.volumes_attached = None;
        status.volumes_in_use = None;
        status.addresses = None;
    }
}

/// Keeps what a member's state is read from: ownership, gates, resources and the whole status.
pub fn job_pod(pod: &mut Pod) {
    pod_spec(pod);
    if let Some(status) = &mut pod.status {
        status.pod_ips = None;
        status.host_ips = None;
    }
}

/// Keeps what a foreign pod takes, and where; of one that waits for GPUs also why, and where it may go.
pub fn other_pod(pod: &mut Pod) {
    let waits = WaitingPod::read(pod).is_some();
    let tolerations = pod.spec.as_mut().and_then(|spec| spec.tolerations.take());
    pod_spec(pod);
    pod.labels_mut().clear();
    pod.owner_references_mut().clear();
    pod.finalizers_mut().clear();
    if let Some(spec) = &mut pod.spec {
        if waits {
            spec.tolerations = tolerations;
        } else {
            // Only a member of a job counts where it is pinned.
            spec.affinity = None;
        }
    }
    if let Some(status) = &mut pod.status {
        *status = PodStatus {
            phase: status.phase.take(),
            nominated_node_name: status.nominated_node_name.take(),
            conditions: status.conditions.take().filter(|_| waits),
            container_statuses: status.container_statuses.take().map(resources_only),
            init_container_statuses: status.init_container_statuses.take().map(resources_only),
            ..PodStatus::default()
        };
    }
}

/// Statuses that say how much a container has; those that say nothing are left out.
fn resources_only(statuses: Vec<ContainerStatus>) -> Vec<ContainerStatus> {
    statuses
        .into_iter()
        .filter(|status| status.allocated_resources.is_some() || status.resources.is_some())
        .map(|status| ContainerStatus {
            name: status.name,
            allocated_resources: status.allocated_resources,
            resources: status.resources,
            ..ContainerStatus::default()
        })
        .collect()
}

fn pod_spec(pod: &mut Pod) {
    metadata(pod);
    pod.annotations_mut().clear();
    let Some(spec) = &mut pod.spec else { return };
    spec.volumes = None;
    spec.tolerations = None;
    spec.security_context = None;
    spec.host_aliases = None;
    spec.image_pull_secrets = None;
    spec.ephemeral_containers = None;
    spec.topology_spread_constraints = None;
    for list in [Some(&mut spec.containers), spec.init_containers.as_mut()]
        .into_iter()
        .flatten()
    {
        for container in list {
            *container = Container {
                name: std::mem::take(&mut container.name),
                image: container.image.take(),
                resources: container.resources.take(),
                restart_policy: container.restart_policy.take(),
                ..Container::default()
            };
        }
    }
}

/// Keeps everything while the slice is open. What is billed no longer depends on the checkpoints once it is sealed, and
/// they are most of a record.
pub fn usage_record(record: &mut DeserializeGuard<UsageRecord>) {
    metadata(record);
    let Ok(record) = &mut record.0 else { return };
    metadata(record);
    if let Some(status) = record.status.as_mut().filter(|s| s.sealed.is_some())
        && let Some(evidence) = &mut status.evidence
    {
        evidence.checkpoints = Vec::new();
        evidence.sealed = None;
    }
}

/// Keeps the heartbeat.
pub fn lease(lease: &mut Lease) {
    metadata(lease);
}

/// Keeps labels and the payer's annotations.
pub fn namespace(namespace: &mut Namespace) {
    metadata(namespace);
}

/// Keeps everything but the metadata that nobody reads.
pub fn priority_class(class: &mut PriorityClass) {
    metadata(class);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::scheduler::PodFacts;

    fn pod() -> Pod {
        let uid = "0f8fad5b-d9cb-469f-a165-70867728950e";
        serde_json::from_value(json!({
            "metadata": {
                "name": "j-1-0", "namespace": "a",
                "annotations": {"a": "b"},
                "managedFields": [{"manager": "m"}],
                "labels": {"gridstake.dev/job-uid": uid, "gridstake.dev/attempt": "1", "gridstake.dev/member": "0"},
                "ownerReferences": [{"apiVersion": "gridstake.dev/v1alpha1", "kind": "ComputeJob", "name": "j", "uid": uid, "controller": true}],
            },
            "spec": {
                "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                    {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}]}}},
                "initContainers": [{"name": "i", "restartPolicy": "Always", "resources": {"requests": {"cpu": "1"}}}],
                "containers": [{"name": "c", "command": ["x"], "env": [{"name": "SECRET", "value": "s"}],
                    "resources": {"limits": {"nvidia.com/gpu": "2"}}}],
                "overhead": {"cpu": "100m"},
                "volumes": [{"name": "v", "emptyDir": {}}],
            },
            "status": {"phase": "Running", "containerStatuses": [{
                "name": "c", "image": "i", "imageID": "", "ready": true, "restartCount": 0,
                "allocatedResources": {"cpu": "3"}, "state": {"running": {}}}]},
        }))
        .unwrap()
    }

    #[test]
    fn a_pruned_member_counts_as_before() {
        let (whole, mut pruned) = (pod(), pod());
        job_pod(&mut pruned);
        assert_eq!(
            PodFacts::from_pod(&pruned).unwrap(),
            PodFacts::from_pod(&whole).unwrap()
        );
        assert_eq!(pruned.spec.as_ref().unwrap().containers[0].env, None);
        assert_eq!(pruned.status, whole.status);
    }

    #[test]
    fn a_pruned_pod_that_waits_for_gpus_waits_as_before() {
        let mut whole = pod();
        whole.metadata.owner_references = None;
        whole.metadata.labels = None;
        let spec = whole.spec.as_mut().unwrap();
        spec.tolerations = serde_json::from_value(json!([{"operator": "Exists"}])).unwrap();
        whole.status = serde_json::from_value(json!({"phase": "Pending", "conditions": [{
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
            "message": "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."}]}))
        .unwrap();
        let mut pruned = whole.clone();
        other_pod(&mut pruned);
        let waits = WaitingPod::read(&whole);
        assert!(waits.is_some());
        assert_eq!(WaitingPod::read(&pruned), waits);
    }

    #[test]
    fn a_pruned_foreign_pod_takes_as_much_as_before() {
        let mut whole = pod();
        whole.metadata.owner_references = None;
        whole.spec.as_mut().unwrap().node_name = Some("n2".into());
        let mut pruned = whole.clone();
        other_pod(&mut pruned);
        assert_eq!(
            PodFacts::from_pod(&pruned).unwrap(),
            PodFacts::from_pod(&whole).unwrap()
        );
        assert!(pruned.metadata.annotations.is_none_or(|all| all.is_empty()));
    }
}
