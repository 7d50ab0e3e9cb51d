//! Who else uses a node's GPUs: pods that are nobody's jobs, and what the agent sees. Pure.
//!
//! Two witnesses are heard. The API server knows which pods hold GPUs, and which could not be scheduled for want of them, at
//! once. The agent sees whether they really rest, and processes outside pods as well; its heartbeat tells since when.

use std::collections::BTreeMap;

use gridstake_crds::{
    gpu_node::IdleRule,
    names::{ANNOTATION_LOCAL_USE, GPU_RESOURCE},
};
use k8s_openapi::{
    api::{
        coordination::v1::Lease,
        core::v1::{Node, Pod},
    },
    jiff::{SignedDuration, Timestamp},
};
use kube::ResourceExt as _;
use serde::Deserialize;

use crate::scheduler::{PodFacts, Resources, node_constraints::NodeConstraints};

/// What an agent tells in [`ANNOTATION_LOCAL_USE`].
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Told {
    since_ms: i64,
    held_ms: Option<i64>,
    #[serde(default)]
    peaks: Vec<(i64, u8)>,
}

/// Since when the GPUs have been idle by `rule`, as far as the agent has seen; `None`: it does not tell.
///
/// `heard`: when its newest heartbeat, `lease`, arrived, on the operator's clock. The agent's own clock may be wrong: only spans
/// of it count.
#[must_use]
pub fn idle_since(lease: &Lease, heard: Timestamp, rule: &IdleRule) -> Option<Timestamp> {
    let text = lease.annotations().get(ANNOTATION_LOCAL_USE)?;
    let told: Told = serde_json::from_str(text).ok()?;
    let renewed = lease.spec.as_ref()?.renew_time.as_ref()?.0.as_millisecond();
    let too_busy = told
        .peaks
        .iter()
        .filter(|(_, percent)| *percent > rule.max_utilization_percent)
        .map(|(at, _)| *at);
    let since = too_busy.chain(told.held_ms).chain([told.since_ms]).max()?;
    let idle_for = SignedDuration::from_millis(renewed.saturating_sub(since).max(0));
    heard.checked_sub(idle_for).ok()
}

/// A pod of others that could not be scheduled for want of GPUs.
#[derive(Clone, Debug, PartialEq)]
pub struct WaitingPod {
    /// Its namespace and name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// Its priority: kube-scheduler serves the highest first.
    pub priority: i32,
    /// When it was created.
    pub created: Option<Timestamp>,
    /// What it takes.
    pub resources: Resources,
    /// Its hard rules about nodes.
    pub constraints: NodeConstraints,
}

impl WaitingPod {
    /// Reads `pod`; `None` if it does not wait for GPUs, by kube-scheduler's words.
    #[must_use]
    pub fn read(pod: &Pod) -> Option<Self> {
        let spec = pod.spec.as_ref()?;
        if spec.node_name.is_some() || pod.metadata.deletion_timestamp.is_some() {
            return None;
        }
        let lacks = format!("Insufficient {GPU_RESOURCE}");
        let conditions = pod.status.as_ref()?.conditions.as_ref()?;
        let waits = conditions.iter().any(|condition| {
            condition.type_ == "PodScheduled"
                && condition.status == "False"
                && condition.reason.as_deref() == Some("Unschedulable")
                && condition
                    .message
                    .as_deref()
                    .is_some_and(|words| words.contains(&lacks))
        });
        if !waits {
            return None;
        }
        let facts = PodFacts::from_pod(pod).ok()?;
        if facts.resources.gpus == 0 || facts.node.is_some() {
            return None;
        }
        Some(Self {
            name: name_of(pod),
            uid: pod.uid().unwrap_or_default(),
            priority: spec.priority.unwrap_or(0),
            created: pod.creation_timestamp().map(|at| at.0),
            resources: facts.resources,
            constraints: NodeConstraints::from_pod_spec(spec),
        })
    }

    /// Whether `node` could take it if no job were there.
    #[must_use]
    pub fn could_run_on(&self, node: &Node) -> bool {
        let spec = node.spec.as_ref();
        let taints = spec.and_then(|spec| spec.taints.as_deref());
        let is_cordoned = spec.and_then(|spec| spec.unschedulable) == Some(true);
        let allocatable = node
            .status
            .as_ref()
            .and_then(|status| status.allocatable.as_ref())
            .and_then(|allocatable| Resources::from_quantities(allocatable).ok())
            .unwrap_or_default();
        self.constraints.selects(&node.name_any(), node.labels())
            && self
                .constraints
                .untolerated(taints.unwrap_or_default())
                .is_none()
            && (!is_cordoned || self.constraints.tolerates_cordon())
            && allocatable.first_shortage(&self.resources).is_none()
    }
}

/// The pods of others that hold or await GPUs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LocalPods {
    /// One that holds GPUs of a node, the first by its name, by the node.
    holders: BTreeMap<String, String>,
    /// Those that wait.
    pub waiting: Vec<WaitingPod>,
}

impl LocalPods {
    /// Reads `pods`, none of which is a job's.
    #[must_use]
    pub fn read<'a>(pods: impl IntoIterator<Item = &'a Pod>) -> Self {
        let mut all = Self::default();
        for pod in pods.into_iter().filter(|pod| asks_for_gpus(pod)) {
            if let Some(waiting) = WaitingPod::read(pod) {
                all.waiting.push(waiting);
                continue;
            }
            let Ok(facts) = PodFacts::from_pod(pod) else {
                continue;
            };
            if let Some(node) = facts.node.filter(|_| !facts.ended) {
                let name = name_of(pod);
                let first = all.holders.entry(node).or_insert_with(|| name.clone());
                if name < *first {
                    *first = name;
                }
            }
        }
        all
    }

    /// What they mean for `node`, whose GPUs the agent has seen idle since `idle_since`.
    #[must_use]
    pub fn on(&self, node: &Node, idle_since: Option<Timestamp>) -> LocalUse {
        let awaited = self.waiting.iter().filter(|pod| pod.could_run_on(node));
        LocalUse {
            holder: self.holders.get(&node.name_any()).cloned(),
            awaited_by: awaited.map(|pod| pod.name.clone()).min(),
            idle_since,
        }
    }
}

/// Whether a container of `pod` asks for whole GPUs.
#[must_use]
pub fn asks_for_gpus(pod: &Pod) -> bool {
    let spec = pod.spec.as_ref();
    let containers = spec.into_iter().flat_map(|spec| {
        spec.containers
            .iter()
            .chain(spec.init_containers.iter().flatten())
    });
    let mut resources = containers.filter_map(|container| container.resources.as_ref());
    resources.any(|resources| {
        [&resources.limits, &resources.requests]
            .into_iter()
            .flatten()
            .any(|list| list.contains_key(GPU_RESOURCE))
    })
}

fn name_of(pod: &Pod) -> String {
    format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any())
}

/// Use of one node's GPUs by others than jobs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalUse {
    /// A pod that holds some of them.
    pub holder: Option<String>,
    /// A pod that waits for some and could run here.
    pub awaited_by: Option<String>,
    /// Since when those that no job holds have been idle, by the agent; `None`: it does not tell.
    pub idle_since: Option<Timestamp>,
}

impl LocalUse {
    /// Why the node is in local use at `now`, by `rule`, in words for its provider; `None`: it is not.
    #[must_use]
    pub fn words(&self, rule: &IdleRule, now: Timestamp) -> Option<String> {
        if let Some(pod) = &self.holder {
            return Some(format!("pod {pod} holds GPUs of the node"));
        }
        if let Some(pod) = &self.awaited_by {
            return Some(format!("pod {pod} waits for GPUs and could run here"));
        }
        let Some(idle_since) = self.idle_since else {
            return Some(
                "the device agent does not tell whether the GPUs are idle: is it of an older version?"
                    .to_owned(),
            );
        };
        (now < idle_from(idle_since, rule)).then(|| {
            format!(
                "the GPUs were in use, or not watched, within the last {} seconds (spec.idle.windowSeconds)",
                rule.window_seconds
            )
        })
    }

    /// When the node becomes idle by `rule` if nobody uses it.
    #[must_use]
    pub fn idle_from(&self, rule: &IdleRule) -> Option<Timestamp> {
        self.idle_since.map(|since| idle_from(since, rule))
    }
}

fn idle_from(since: Timestamp, rule: &IdleRule) -> Timestamp {
    since
        .checked_add(SignedDuration::from_secs(rule.window_seconds.into()))
        .unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    /// A heartbeat that the agent dates 1,000 s too late.
    fn lease(told: &str) -> Lease {
        serde_json::from_value(json!({
            "metadata": {"name": "agent-n1", "annotations": {ANNOTATION_LOCAL_USE: told}},
            "spec": {"renewTime": at(1100).to_string()},
        }))
        .unwrap()
    }

    fn ms(second: i64) -> i64 {
        at(second).as_millisecond()
    }

    const RULE: IdleRule = IdleRule {
        max_utilization_percent: 5,
        window_seconds: 60,
    };

    #[test]
    fn the_gpus_are_idle_since_the_last_use_by_anybody_else_whatever_the_agents_clock_shows() {
        for (told, expected) in [
            (json!({"sinceMs": ms(1010)}), Some(at(10))),
            (
                json!({"sinceMs": ms(1010), "heldMs": ms(1050)}),
                Some(at(50)),
            ),
            (
                json!({"sinceMs": ms(1010), "heldMs": null, "peaks": [[ms(1020), 90], [ms(1040), 6], [ms(1095), 5]]}),
                Some(at(40)),
            ),
            (
                json!({"sinceMs": ms(1010), "heldMs": ms(1030), "peaks": [[ms(1020), 90]]}),
                Some(at(30)),
            ),
            // A clock that was set back between two statements.
            (json!({"sinceMs": ms(1200)}), Some(at(100))),
            (json!({"since": 5}), None),
            (json!("?"), None),
        ] {
            assert_eq!(
                idle_since(&lease(&told.to_string()), at(100), &RULE),
                expected,
                "{told}"
            );
        }
        assert_eq!(idle_since(&Lease::default(), at(100), &RULE), None);
    }

    fn pod(name: &str, mut more: Value) -> Pod {
        more["metadata"]["name"] = name.into();
        more["metadata"]["namespace"] = "team".into();
        more["spec"]["containers"] =
            json!([{"name": "c", "resources": {"limits": {"nvidia.com/gpu": "2"}}}]);
        serde_json::from_value(more).unwrap()
    }

    fn unschedulable(message: &str) -> Value {
        json!({"status": {"phase": "Pending", "conditions": [
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}]}})
    }

    const LACKS: &str =
        "0/2 nodes are available: 1 Insufficient nvidia.com/gpu, 1 node(s) were unschedulable.";

    fn node(gpus: &str, spec: &Value) -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": "n1", "labels": {"zone": "a"}}, "spec": spec,
            "status": {"allocatable": {"cpu": "8", "pods": "110", "nvidia.com/gpu": gpus}},
        }))
        .unwrap()
    }

    #[test]
    fn only_a_pod_that_kube_scheduler_could_not_place_for_want_of_gpus_waits_for_them() {
        assert!(WaitingPod::read(&pod("p", unschedulable(LACKS))).is_some());
        let mut deleted = unschedulable(LACKS);
        deleted["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        let mut bound = unschedulable(LACKS);
        bound["spec"]["nodeName"] = json!("n1");
        let gated = json!({"status": {"conditions": [
            {"type": "PodScheduled", "status": "False", "reason": "SchedulingGated", "message": LACKS}]}});
        for (case, other) in [
            ("not looked at yet", json!({})),
            (
                "a volume is missing",
                unschedulable("pod has unbound immediate PersistentVolumeClaims"),
            ),
            ("too little memory", unschedulable("1 Insufficient memory.")),
            ("gated", gated),
            ("deleted", deleted),
            ("bound", bound),
        ] {
            assert_eq!(WaitingPod::read(&pod("p", other)), None, "{case}");
        }
    }

    #[test]
    fn a_pod_awaits_only_nodes_that_could_take_it() {
        let waits = |mut more: Value| {
            more["status"] = unschedulable(LACKS)["status"].clone();
            LocalPods::read(&[pod("p", more)])
        };
        let plain = node("2", &json!({}));
        let awaited = |pods: &LocalPods, node: &Node| pods.on(node, None).awaited_by;
        let anywhere = waits(json!({}));
        assert_eq!(awaited(&anywhere, &plain).as_deref(), Some("team/p"));
        assert_eq!(
            awaited(&anywhere, &node("1", &json!({}))),
            None,
            "too few GPUs"
        );
        assert_eq!(
            awaited(&anywhere, &node("2", &json!({"unschedulable": true}))),
            None
        );
        let tainted = node(
            "2",
            &json!({"taints": [{"key": "nvidia.com/gpu", "effect": "NoSchedule"}]}),
        );
        assert_eq!(awaited(&anywhere, &tainted), None);
        let tolerates = waits(json!({"spec": {"tolerations": [{"operator": "Exists"}]}}));
        assert!(awaited(&tolerates, &tainted).is_some());
        assert_eq!(
            awaited(
                &waits(json!({"spec": {"nodeSelector": {"zone": "b"}}})),
                &plain
            ),
            None
        );
    }

    #[test]
    fn a_node_is_in_local_use_while_others_hold_or_await_its_gpus_and_until_they_have_been_idle_for_the_window()
     {
        let idle = |second: i64| LocalUse {
            idle_since: Some(at(second)),
            ..LocalUse::default()
        };
        assert_eq!(idle(40).words(&RULE, at(100)), None);
        assert!(
            idle(41)
                .words(&RULE, at(100))
                .unwrap()
                .contains("last 60 seconds")
        );
        assert_eq!(idle(41).idle_from(&RULE), Some(at(101)));
        assert!(
            LocalUse::default()
                .words(&RULE, at(100))
                .unwrap()
                .contains("does not tell")
        );
        let bound = json!({"spec": {"nodeName": "n1"}, "status": {"phase": "Running"}});
        let ended = json!({"spec": {"nodeName": "n1"}, "status": {"phase": "Failed"}});
        let here = node("2", &json!({}));
        let use_of = |pods: &[Pod]| LocalPods::read(pods).on(&here, Some(at(0)));
        let words = |pods: &[Pod]| use_of(pods).words(&RULE, at(100));
        assert_eq!(
            words(&[pod("b", bound.clone()), pod("a", bound)]).unwrap(),
            "pod team/a holds GPUs of the node"
        );
        assert_eq!(words(&[pod("a", ended)]), None);
        assert_eq!(
            words(&[pod("a", unschedulable(LACKS))]).unwrap(),
            "pod team/a waits for GPUs and could run here"
        );
    }
}
