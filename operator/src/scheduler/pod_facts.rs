//! What the scheduler knows of a pod: whose it is, where it counts, and what it takes.

use gridstake_crds::names::{LABEL_ATTEMPT, LABEL_JOB_UID, LABEL_MEMBER};
use k8s_openapi::api::core::v1::{Pod, PodSpec};

use super::pod_requests::pod_requests;
use super::request::JobUid;
use super::resources::{ResourceError, Resources};

/// One member of one attempt of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberKey {
    /// The job.
    pub job_uid: JobUid,
    /// The attempt, counted from 1.
    pub attempt: u32,
    /// The member, counted from 0.
    pub member: u32,
}

/// A pod on a node, or on its way to one; any scheduler's, any owner's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodFacts {
    /// The node that it is bound to; else the one that a member is pinned to; else the one that kube-scheduler has
    /// nominated it for after a preemption. A stranger's pin counts nothing: anyone may pin a pod that never fits.
    pub node: Option<String>,
    /// Whether it has ended (phase `Succeeded` or `Failed`) and so takes nothing any more. A pod that is merely being
    /// deleted still takes everything.
    pub ended: bool,
    /// What it takes.
    pub resources: Resources,
    /// Which member it is, if it is a ComputeJob's pod.
    pub member: Option<MemberKey>,
}

impl PodFacts {
    /// The facts about a pod.
    pub fn from_pod(pod: &Pod) -> Result<Self, ResourceError> {
        let phase = pod
            .status
            .as_ref()
            .and_then(|status| status.phase.as_deref());
        let bound = pod
            .spec
            .as_ref()
            .and_then(|spec| spec.node_name.clone())
            .filter(|name| !name.is_empty());
        let nominated = || {
            pod.status
                .as_ref()
                .and_then(|status| status.nominated_node_name.clone())
        };
        let resources = match &pod.spec {
            Some(spec) => pod_requests(spec, pod.status.as_ref())?,
            None => Resources::default(),
        };
        let member = member_key(pod);
        let pinned = || member.and_then(|_| pinned_node(pod.spec.as_ref()?));
        Ok(Self {
            node: bound.or_else(pinned).or_else(nominated),
            ended: matches!(phase, Some("Succeeded" | "Failed")),
            resources,
            member,
        })
    }
}

/// The member that a pod is. Labels alone do not say it: anyone may set them. The controller that owns the pod must be
/// a ComputeJob with the uid of the label.
fn member_key(pod: &Pod) -> Option<MemberKey> {
    let labels = pod.metadata.labels.as_ref()?;
    let uid = labels.get(LABEL_JOB_UID)?;
    let owned = pod.metadata.owner_references.iter().flatten().any(|owner| {
        owner.controller == Some(true)
            && owner.kind == "ComputeJob"
            && owner.api_version.split('/').next() == Some(gridstake_crds::GROUP)
            && owner.uid == *uid
    });
    if !owned {
        return None;
    }
    Some(MemberKey {
        job_uid: uid.parse().ok()?,
        attempt: labels.get(LABEL_ATTEMPT)?.parse().ok()?,
        member: labels.get(LABEL_MEMBER)?.parse().ok()?,
    })
}

/// The node that a required node affinity on `metadata.name` pins a pod to, if it leaves exactly one.
fn pinned_node(spec: &PodSpec) -> Option<String> {
    let required = spec
        .affinity
        .as_ref()?
        .node_affinity
        .as_ref()?
        .required_during_scheduling_ignored_during_execution
        .as_ref()?;
    let mut names = required.node_selector_terms.iter().map(|term| {
        term.match_fields
            .iter()
            .flatten()
            .find_map(|field| match field.values.as_deref() {
                Some([name]) if field.key == "metadata.name" && field.operator == "In" => {
                    Some(name)
                }
                _ => None,
            })
    });
    let first = names.next()??;
    names.all(|name| name == Some(first)).then(|| first.clone())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const UID: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";

    fn facts(pod: Value) -> PodFacts {
        let mut pod = pod;
        pod["spec"]["containers"] =
            json!([{"name": "c", "resources": {"limits": {"nvidia.com/gpu": "1"}}}]);
        PodFacts::from_pod(&serde_json::from_value(pod).unwrap()).unwrap()
    }

    fn pinned(names: &[&str]) -> Value {
        let terms: Vec<Value> = names
            .iter()
            .map(|name| json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]}))
            .collect();
        json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}})
    }

    #[test]
    fn a_bound_pod_counts_on_its_node() {
        let pod = facts(json!({"spec": {"nodeName": "n1", "affinity": pinned(&["n2"])}}));
        assert_eq!(
            (pod.node.as_deref(), pod.ended, pod.resources.gpus),
            (Some("n1"), false, 1)
        );
    }

    #[test]
    fn an_unbound_pod_counts_where_it_is_nominated_or_where_a_member_is_pinned() {
        let member = |affinity: Value| {
            facts(json!({
                "metadata": {
                    "labels": {LABEL_JOB_UID: UID, LABEL_ATTEMPT: "1", LABEL_MEMBER: "0"},
                    "ownerReferences": [{"apiVersion": "gridstake.dev/v1alpha1", "kind": "ComputeJob", "name": "j", "uid": UID, "controller": true}],
                },
                "spec": {"affinity": affinity},
            }))
            .node
        };
        assert_eq!(member(pinned(&["n2"])).as_deref(), Some("n2"));
        assert_eq!(member(pinned(&["n2", "n3"])), None);
        assert_eq!(
            facts(json!({"spec": {"affinity": pinned(&["n2"])}})).node,
            None
        );
        assert_eq!(
            facts(json!({"status": {"nominatedNodeName": "n4"}}))
                .node
                .as_deref(),
            Some("n4")
        );
        assert_eq!(facts(json!({})).node, None);
    }

    #[test]
    fn only_a_phase_ends_a_pod() {
        for (phase, ended) in [
            ("Pending", false),
            ("Running", false),
            ("Unknown", false),
            ("Succeeded", true),
            ("Failed", true),
        ] {
            assert_eq!(
                facts(json!({"status": {"phase": phase}})).ended,
                ended,
                "{phase}"
            );
        }
        assert!(!facts(json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}})).ended);
    }

    #[test]
    fn a_member_is_known_by_its_labels_and_its_owner_together() {
        let labels = json!({LABEL_JOB_UID: UID, LABEL_ATTEMPT: "2", LABEL_MEMBER: "1"});
        let owner = |kind: &str, group: &str, uid: &str| json!([{"apiVersion": format!("{group}/v1alpha1"), "kind": kind, "name": "j", "uid": uid, "controller": true}]);
        let member = |owners: Value| {
            facts(json!({"metadata": {"labels": labels, "ownerReferences": owners}})).member
        };
        let key = MemberKey {
            job_uid: UID.parse().unwrap(),
            attempt: 2,
            member: 1,
        };
        assert_eq!(member(owner("ComputeJob", "gridstake.dev", UID)), Some(key));
        assert_eq!(member(owner("ComputeJob", "example.com", UID)), None);
        assert_eq!(member(owner("Job", "gridstake.dev", UID)), None);
        assert_eq!(
            member(owner("ComputeJob", "gridstake.dev", "another")),
            None
        );
        assert_eq!(member(json!([])), None);
    }
}
