//! What a canary looks like: a ComputeJob as any other. Pure.

use alloy::primitives::keccak256;
use gridstake_crds::{
    ComputeJob, PodTemplate,
    names::{CANARY_PRIORITY_CLASS, LABEL_CANARY, LABEL_MANAGED_BY, MANAGED_BY},
};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::terms::Terms;

/// How canaries' names begin.
pub const PREFIX: &str = "canary-";
/// For how long one waits for its place. Tenants' jobs go before it; then the next one is made when the pause is over.
const QUEUE_SECONDS: u32 = 60;
/// How long one may take to start: its image is the agent's, which is on the node already.
const START_SECONDS: u32 = 180;
/// How long one may run: some seconds for each GPU, and longer where one is slow.
const RUN_SECONDS: u32 = 300;
/// How long it may take to end: it has nothing to save.
const GRACE_SECONDS: u32 = 1;
/// The longest value of a label.
const LABEL_VALUE_LIMIT: usize = 63;

/// A canary to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewCanary {
    /// The node.
    pub node: String,
    /// How many of its GPUs.
    pub gpus: u32,
}

/// The value of [`LABEL_CANARY`] on canaries of `node`: its name, or what stands for one that no label can hold.
#[must_use]
pub fn label_of(node: &str) -> String {
    if node.len() <= LABEL_VALUE_LIMIT {
        node.to_owned()
    } else {
        hash_of(node)
    }
}

/// Eight hexadecimal digits that stand for `node`.
fn hash_of(node: &str) -> String {
    let hash = keccak256(node.as_bytes());
    let first = u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]);
    format!("{first:08x}")
}

/// The ComputeJob in the operator's `namespace`. Its name follows from the node and the time: whoever makes it twice makes one.
pub fn job(
    terms: &Terms,
    template: &PodTemplate,
    namespace: &str,
    new: &NewCanary,
    now: Timestamp,
) -> Result<ComputeJob, serde_json::Error> {
    let pause = terms.pause().as_secs().max(1);
    let mut template = Value::Object(template.json()?);
    // By its name and not by a label, which anybody may set.
    template["spec"]["affinity"] = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
        "nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [new.node]}]}],
    }}});
    serde_json::from_value(json!({
        "apiVersion": "gridstake.dev/v1alpha1",
        "kind": "ComputeJob",
        "metadata": {
            "name": format!("{PREFIX}{}-{}", hash_of(&new.node), now.as_second() / pause),
            "namespace": namespace,
            "labels": {(LABEL_CANARY): label_of(&new.node), (LABEL_MANAGED_BY): MANAGED_BY},
        },
        "spec": {
            "gpu": {"count": new.gpus},
            "template": template,
            "priorityClassName": CANARY_PRIORITY_CLASS,
            "timeouts": {
                "queue": format!("{QUEUE_SECONDS}s"),
                "start": format!("{START_SECONDS}s"),
                "run": format!("{RUN_SECONDS}s"),
            },
            "retry": {"infrastructure": 0, "user": 0},
            "termination": {"graceSeconds": GRACE_SECONDS},
            // Until then its node gets no other one.
            "ttlSecondsAfterFinished": pause.min(31_536_000),
        },
    }))
}

#[cfg(test)]
mod tests {
    use kube::ResourceExt as _;

    use super::*;
    use crate::controllers::compute_job::template;

    fn pod() -> PodTemplate {
        serde_json::from_value(json!({"spec": {"containers": [{"name": "measure", "image": "agent:1", "args": ["measure"]}]}}))
            .unwrap()
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn canary(node: &str, now: Timestamp) -> ComputeJob {
        let new = NewCanary {
            node: node.to_owned(),
            gpus: 8,
        };
        job(&Terms::default(), &pod(), "gridstake-system", &new, now).unwrap()
    }

    #[test]
    fn a_canary_is_a_sound_job_that_can_run_on_its_node_alone() {
        let job = canary("node-a", at(0));
        assert_eq!(template::faults(&job.spec), []);
        assert_eq!(job.spec.gpu.count, 8);
        let request = crate::controllers::job_request::job_request(
            &with_uid(job),
            1,
            crate::scheduler::request::OfNamespace::default(),
            crate::controllers::job_request::Shunned::default(),
            "p",
        )
        .unwrap();
        let labels = std::collections::BTreeMap::new();
        assert!(request.constraints.selects("node-a", &labels));
        assert!(!request.constraints.selects("node-b", &labels));
        assert_eq!(request.per_member().gpus, 8);
    }

    fn with_uid(mut job: ComputeJob) -> ComputeJob {
        job.metadata.uid = Some("0f8fad5b-d9cb-469f-a165-70867728950e".to_owned());
        job
    }

    #[test]
    fn a_canary_fails_once_and_stays_until_its_nodes_pause_is_over() {
        let job = canary("node-a", at(0));
        assert_eq!(
            (job.spec.infrastructure_retries(), job.spec.user_retries()),
            (0, 0)
        );
        assert_eq!(job.spec.ttl_seconds_after_finished, Some(6 * 3600));
        assert!(job.spec.run_timeout().is_some() && job.spec.queue_timeout().is_some());
        assert_eq!(
            job.spec.priority_class_name.as_deref(),
            Some(CANARY_PRIORITY_CLASS)
        );
    }

    #[test]
    fn a_canarys_name_is_its_nodes_and_its_times_and_fits() {
        let first = canary("node-a", at(0));
        assert_eq!(first.name_any(), canary("node-a", at(60)).name_any());
        assert_ne!(first.name_any(), canary("node-b", at(0)).name_any());
        assert_ne!(first.name_any(), canary("node-a", at(6 * 3600)).name_any());
        assert!(first.name_any().starts_with(PREFIX));
        let long = "n".repeat(253);
        let job = canary(&long, at(0));
        assert!(job.name_any().len() <= 52, "{}", job.name_any());
        assert_eq!(job.labels()[LABEL_CANARY].len(), 8);
        assert_eq!(first.labels()[LABEL_CANARY], "node-a");
    }
}
