//! The nodes on offer as the log of decisions has them, from what their objects show now. Pure.

use std::collections::BTreeMap;

use gridstake_crds::{
    GpuNode, StakeBinding,
    condition::{find, is_true},
    gpu_node::{GpuNodeCondition, GpuNodeReason, OfferState},
};
use gridstake_ledger::archive::decisions::{Amounts, Gpu, Node, Requirement, Taint};
use k8s_openapi::{
    api::core::v1::Node as KubernetesNode, apimachinery::pkg::apis::meta::v1::LabelSelector,
};
use kube::ResourceExt as _;

use super::request;
use crate::explain::weight::weight_of;

/// The reputation of a node of which nothing is known, in thousandths.
const NEWCOMER: u32 = 500;

/// Whether any of the nodes belongs to a cluster with a chain.
#[must_use]
pub fn has_chain(nodes: &[GpuNode]) -> bool {
    let without = GpuNodeReason::NoChainConfigured.to_string();
    nodes.iter().any(|node| {
        node.status.as_ref().is_some_and(|status| {
            find(&status.conditions, GpuNodeCondition::Bonded)
                .is_some_and(|bonded| bonded.reason != without)
        })
    })
}

/// The node with what is left of it. `node`: its Node, if Nodes may be read. What other pods take of its CPU and memory is not
/// known: all of these count as free.
#[must_use]
pub fn of_node(
    gpu_node: &GpuNode,
    node: Option<&KubernetesNode>,
    bindings: &[StakeBinding],
) -> Node {
    let status = gpu_node.status.clone().unwrap_or_default();
    let weight = weight_of(gpu_node, bindings, None);
    let usable: Vec<&str> = status.usable_devices().map(|d| d.uuid.as_str()).collect();
    let gpus = status
        .devices
        .iter()
        .map(|device| Gpu {
            model: device.model.clone(),
            memory_mib: device.memory_mib,
            compute_capability: Some(device.compute_capability.clone()),
            usable: usable.contains(&device.uuid.as_str()),
        })
        .collect();
    let capacity = u64::from(status.capacity.unwrap_or(0));
    let free = u64::from(status.free.unwrap_or(0)).min(capacity);
    let node_spec = node.and_then(|node| node.spec.as_ref());
    Node {
        name: gpu_node.name_any(),
        labels: node.map(|node| node.labels().clone()).unwrap_or_default(),
        taints: node_spec
            .and_then(|spec| spec.taints.as_ref())
            .into_iter()
            .flatten()
            .map(|taint| Taint {
                key: taint.key.clone(),
                value: taint.value.clone(),
                effect: taint.effect.clone(),
            })
            .collect(),
        cordoned: node_spec
            .and_then(|spec| spec.unschedulable)
            .unwrap_or(false),
        namespaces: gpu_node.spec.namespace_selector.as_ref().map(requirements),
        allocatable: Amounts {
            gpus: capacity,
            ..allocatable(node)
        },
        gpus,
        withheld: match &status.offer {
            Some(offer) if offer.state == OfferState::Offered => None,
            Some(offer) => Some(offer.reason.to_string()),
            None => Some("not looked at yet".to_owned()),
        },
        // When windows close is the operator's to say; no object does.
        closes_at_ms: None,
        price: gpu_node
            .spec
            .pricing
            .as_ref()
            .map_or(0, |pricing| pricing.per_gpu_second.nano()),
        region: gpu_node.spec.region.clone(),
        jurisdiction: gpu_node.spec.jurisdiction.clone(),
        reputation: status.reputation.unwrap_or(NEWCOMER),
        bonded: is_true(&status.conditions, GpuNodeCondition::Bonded),
        chain: status.chain.clone(),
        provider: status.provider_id,
        // Its weight is what the owner's cut leaves of it.
        owner: None,
        stake: weight.as_ref().map_or(0, |terms| terms.stake),
        weight: weight.map_or(0, |terms| terms.weight),
        taken: Amounts {
            gpus: capacity.saturating_sub(free),
            ..Amounts::default()
        },
    }
}

fn allocatable(node: Option<&KubernetesNode>) -> Amounts {
    let amounts = node
        .and_then(|node| node.status.as_ref()?.allocatable.as_ref())
        .and_then(|quantities| request::read(quantities).ok())
        .unwrap_or_default();
    request::of_resources(amounts)
}

fn requirements(selector: &LabelSelector) -> Vec<Requirement> {
    let equal = selector.match_labels.iter().flatten();
    let equal = equal.map(|(key, value)| Requirement {
        key: key.clone(),
        operator: "In".to_owned(),
        values: vec![value.clone()],
    });
    let others = selector.match_expressions.iter().flatten();
    let others = others.map(|rule| Requirement {
        key: rule.key.clone(),
        operator: rule.operator.clone(),
        values: rule.values.clone().unwrap_or_default(),
    });
    equal.chain(others).collect()
}

/// How many nodes there are of each model; a node counts by the first of its models in lexical order.
#[must_use]
pub fn models<'a>(nodes: impl Iterator<Item = &'a Node>) -> BTreeMap<&'a str, Vec<&'a Node>> {
    let mut models: BTreeMap<&str, Vec<&Node>> = BTreeMap::new();
    for node in nodes {
        let model = node.gpus.iter().map(|gpu| gpu.model.as_str()).min();
        models
            .entry(model.unwrap_or_default())
            .or_default()
            .push(node);
    }
    models
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// A node on offer with `free` of 4 GPUs of `model` at `price`, in a cluster without a chain, changed by `with`.
    pub(crate) fn gpu_node(
        name: &str,
        model: &str,
        price: &str,
        free: u32,
        with: &Value,
    ) -> GpuNode {
        let devices: Vec<Value> = (0..4)
            .map(|index| {
                json!({
                    "uuid": format!("{name}-{index}"), "index": index, "model": model, "memoryMiB": 81559,
                    "computeCapability": "9.0", "health": "Healthy",
                })
            })
            .collect();
        let mut node = json!({
            "apiVersion": "gridstake.dev/v1alpha1", "kind": "GpuNode", "metadata": {"name": name},
            "spec": {"pricing": {"perGpuSecond": price}},
            "status": {
                "devices": devices, "capacity": 4, "free": free, "reputation": 1000,
                "offer": {"state": "Offered", "reason": "Available"},
                "conditions": [{
                    "type": "Bonded", "status": "True", "reason": "NoChainConfigured", "message": "",
                    "lastTransitionTime": "2027-01-01T00:00:00Z",
                }],
            },
        });
        for part in ["spec", "status"] {
            for (field, value) in with[part].as_object().into_iter().flatten() {
                node[part][field] = value.clone();
            }
        }
        serde_json::from_value(node).unwrap()
    }

    #[test]
    fn a_node_has_what_its_objects_show() {
        let with = json!({
            "spec": {"region": "eu", "namespaceSelector": {"matchLabels": {"team": "a"}}},
            "status": {"offer": {"state": "Withheld", "reason": "Drained"}},
        });
        let node: KubernetesNode = serde_json::from_value(json!({
            "metadata": {"name": "n1", "labels": {"zone": "z1"}},
            "spec": {"unschedulable": true, "taints": [{"key": "t", "effect": "NoSchedule"}]},
            "status": {"allocatable": {"cpu": "8", "memory": "1Gi", "pods": "110", "nvidia.com/gpu": "4"}},
        }))
        .unwrap();
        let made = of_node(&gpu_node("n1", "H100", "0.001", 3, &with), Some(&node), &[]);
        assert_eq!(made.withheld.as_deref(), Some("Drained"));
        assert_eq!((made.allocatable.gpus, made.taken.gpus), (4, 1));
        assert_eq!(
            (made.allocatable.cpu_milli, made.allocatable.pods),
            (8000, 110)
        );
        assert_eq!((made.price, made.stake), (1_000_000, 100_000));
        assert!(made.cordoned && made.bonded && made.weight > 0);
        assert_eq!(made.namespaces.unwrap()[0].values, ["a"]);
        assert_eq!((made.taints.len(), made.labels["zone"].as_str()), (1, "z1"));
    }

    #[test]
    fn a_node_that_nobody_has_looked_at_is_not_on_offer() {
        let bare: GpuNode = serde_json::from_value(json!({
            "apiVersion": "gridstake.dev/v1alpha1", "kind": "GpuNode", "metadata": {"name": "n1"}, "spec": {},
        }))
        .unwrap();
        let made = of_node(&bare, None, &[]);
        assert!(made.withheld.is_some() && made.weight == 0);
        assert!(!has_chain(&[bare]));
        assert!(!has_chain(&[gpu_node("n1", "H100", "1", 1, &json!({}))]));
    }
}
