//! What Kueue's integration of plain pods reads of our pods, where a job names one of its queues. Pure.
//!
//! Kueue then puts its scheduling gate on each pod and lifts it when the quota is there; Gridstake keeps the choice of the node.
//! Source of the names: Kueue's documentation, "Run Plain Pods" and its groups of pods.

use std::collections::BTreeMap;

use gridstake_crds::ComputeJob;
use kube::ResourceExt as _;

use super::rendezvous::is_gang;

/// The label that names a LocalQueue: on the job, as on any workload of Kueue's, or on the pods of its template.
pub const QUEUE: &str = "kueue.x-k8s.io/queue-name";
/// The label that names a WorkloadPriorityClass.
pub const PRIORITY: &str = "kueue.x-k8s.io/priority-class";
/// The label by which pods are admitted together.
pub const GROUP: &str = "kueue.x-k8s.io/pod-group-name";
/// The annotation that says how many they are.
pub const GROUP_SIZE: &str = "kueue.x-k8s.io/pod-group-total-count";

/// Puts a pod of `attempt` into the queue that `job` or its template names, if one does; the members of a gang as one group.
pub fn enqueue(
    job: &ComputeJob,
    attempt: u32,
    labels: &mut BTreeMap<String, String>,
    annotations: &mut BTreeMap<String, String>,
) {
    for label in [QUEUE, PRIORITY] {
        if let Some(value) = job.labels().get(label) {
            labels.insert(label.to_owned(), value.clone());
        }
    }
    if labels.contains_key(QUEUE) && is_gang(job) {
        // Each attempt is a group of its own: Kueue counts pods of a group that failed.
        let group = format!("{}-{attempt}", job.uid().unwrap_or_default());
        labels.insert(GROUP.to_owned(), group);
        annotations.insert(GROUP_SIZE.to_owned(), job.spec.members.to_string());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn enqueued(labels: &Value, members: u32, of_template: &[(&str, &str)]) -> (Value, Value) {
        let job: ComputeJob = serde_json::from_value(json!({
            "apiVersion": "gridstake.dev/v1alpha1", "kind": "ComputeJob",
            "metadata": {"name": "train", "namespace": "a", "uid": "0f8fad5b-d9cb-469f-a165-70867728950e", "labels": labels},
            "spec": {"gpu": {"count": 1}, "members": members, "template": {}},
        }))
        .unwrap();
        let of_template = of_template.iter();
        let mut labels = of_template
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        let mut annotations = BTreeMap::new();
        enqueue(&job, 2, &mut labels, &mut annotations);
        (json!(labels), json!(annotations))
    }

    #[test]
    fn pods_of_a_job_that_names_a_queue_are_in_it_and_those_of_a_gang_as_one_group_per_attempt() {
        let named = json!({QUEUE: "team-a", PRIORITY: "high", "team": "a"});
        assert_eq!(
            enqueued(&named, 1, &[("app", "x")]),
            (
                json!({QUEUE: "team-a", PRIORITY: "high", "app": "x"}),
                json!({})
            )
        );
        let group = "0f8fad5b-d9cb-469f-a165-70867728950e-2";
        assert_eq!(
            enqueued(&named, 16, &[]),
            (
                json!({QUEUE: "team-a", PRIORITY: "high", GROUP: group}),
                json!({GROUP_SIZE: "16"})
            )
        );
        // The template may name the queue as well; its group is ours to say.
        assert_eq!(
            enqueued(&json!({}), 2, &[(QUEUE, "team-b"), (GROUP, "mine")]),
            (
                json!({QUEUE: "team-b", GROUP: group}),
                json!({GROUP_SIZE: "2"})
            )
        );
    }

    #[test]
    fn without_a_queue_nothing_is_said_to_kueue() {
        assert_eq!(
            enqueued(&json!({"team": "a"}), 16, &[]),
            (json!({}), json!({}))
        );
    }
}
