//! What the scheduler knows of a node before it counts who uses it.

use std::collections::BTreeMap;

use gridstake_crds::TokenAmount;
use gridstake_crds::gpu_node::{Device, DeviceHealth, GpuNode, OfferReason};
use k8s_openapi::api::core::v1::{Node, Taint};
use k8s_openapi::jiff::SignedDuration;
use kube::core::{ParseExpressionError, Selector};

use super::request::ComputeCapability;
use super::resources::{ResourceError, Resources};
use super::weight::NEWCOMER_REPUTATION;

/// One GPU of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceFacts {
    /// The product name.
    pub model: String,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Compute capability, where it could be read.
    pub compute_capability: Option<ComputeCapability>,
    /// The architecture, such as `Hopper`.
    pub architecture: Option<String>,
    /// Whether it may be given to a job now.
    pub usable: bool,
}

impl From<&Device> for DeviceFacts {
    fn from(device: &Device) -> Self {
        Self {
            model: device.model.clone(),
            memory_mib: device.memory_mib,
            compute_capability: device.compute_capability.parse().ok(),
            architecture: device.architecture.clone(),
            usable: matches!(
                device.health,
                DeviceHealth::Healthy | DeviceHealth::Degraded
            ),
        }
    }
}

/// A node as capacity, without its users.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeFacts {
    /// The Node's and the GpuNode's name.
    pub name: String,
    /// The Node's labels.
    pub labels: BTreeMap<String, String>,
    /// The Node's taints.
    pub taints: Vec<Taint>,
    /// `spec.unschedulable`.
    pub cordoned: bool,
    /// Which namespaces' jobs it serves. `None`: every namespace's.
    pub namespaces: Option<Selector>,
    /// What the kubelet lets pods take.
    pub allocatable: Resources,
    /// Its GPUs. Which of them a pod gets is up to the kubelet, so a node meets a wish about GPUs only if all do.
    pub devices: Vec<DeviceFacts>,
    /// Whether jobs may be placed here, and if not, why.
    pub offer: Result<(), OfferReason>,
    /// When its provider takes it back from jobs, counted from the moment of the snapshot, if that is known.
    pub closes_in: Option<SignedDuration>,
    /// What one GPU costs for one second.
    pub price: TokenAmount,
    /// The region that its provider declares.
    pub region: Option<String>,
    /// The jurisdiction that its provider declares.
    pub jurisdiction: Option<String>,
    /// Reputation in thousandths.
    pub reputation: u32,
    /// Whether it has the stake that the lane asks for.
    pub bonded: bool,
    /// The account number of the provider whose node it is, if it is bound.
    pub provider: Option<u32>,
    /// The chain on which that provider is, by its name in the operator's configuration.
    pub chain: Option<String>,
    /// Who owns the stake behind it: the staker's address.
    pub owner: Option<String>,
    /// Its share of its provider's stake, in whole tokens.
    pub stake: u64,
}

/// What the operator has concluded about a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeStanding {
    /// Whether jobs may be placed here, and if not, why.
    pub offer: Result<(), OfferReason>,
    /// When its provider takes it back from jobs, counted from now, if that is known.
    pub closes_in: Option<SignedDuration>,
    /// Whether it has the stake that the lane asks for.
    pub bonded: bool,
    /// The account number of the provider whose node it is, if it is bound.
    pub provider: Option<u32>,
    /// The chain of its StakeBinding, if it is bound.
    pub chain: Option<String>,
    /// Who owns the stake behind it: the staker's address.
    pub owner: Option<String>,
    /// Its share of its provider's stake, in whole tokens; [`super::weight::STAKE_WITHOUT_CHAIN`] without a chain.
    pub stake: u64,
}

/// Why a node cannot be taken into the snapshot.
#[derive(Debug, thiserror::Error)]
pub enum NodeFactsError {
    /// `status.allocatable` of the Node cannot be read.
    #[error("read status.allocatable of the Node")]
    Allocatable(#[source] ResourceError),
    /// `spec.namespaceSelector` of the GpuNode cannot be read.
    #[error("read spec.namespaceSelector of the GpuNode")]
    NamespaceSelector(#[source] ParseExpressionError),
}

impl NodeFacts {
    /// The facts about a GpuNode and its Node. A missing Node has nothing allocatable, so nothing fits on it.
    pub fn from_objects(
        gpu_node: &GpuNode,
        node: Option<&Node>,
        standing: NodeStanding,
    ) -> Result<Self, NodeFactsError> {
        let status = gpu_node.status.as_ref();
        let namespaces = gpu_node
            .spec
            .namespace_selector
            .clone()
            .map(Selector::try_from)
            .transpose()
            .map_err(NodeFactsError::NamespaceSelector)?;
        let node_spec = node.and_then(|node| node.spec.as_ref());
        let allocatable = node
            .and_then(|node| node.status.as_ref()?.allocatable.as_ref())
            .map(Resources::from_quantities)
            .transpose()
            .map_err(NodeFactsError::Allocatable)?;
        Ok(Self {
            name: gpu_node.metadata.name.clone().unwrap_or_default(),
            labels: node
                .and_then(|node| node.metadata.labels.clone())
                .unwrap_or_default(),
            taints: node_spec
                .and_then(|spec| spec.taints.clone())
                .unwrap_or_default(),
            cordoned: node_spec
                .and_then(|spec| spec.unschedulable)
                .unwrap_or(false),
            namespaces,
            allocatable: allocatable.unwrap_or_default(),
            devices: status
                .map(|status| status.devices.iter().map(DeviceFacts::from).collect())
                .unwrap_or_default(),
            offer: standing.offer,
            closes_in: standing.closes_in,
            price: gpu_node
                .spec
                .pricing
                .as_ref()
                .map(|pricing| pricing.per_gpu_second)
                .unwrap_or_default(),
            region: gpu_node.spec.region.clone(),
            jurisdiction: gpu_node.spec.jurisdiction.clone(),
            reputation: status
                .and_then(|status| status.reputation)
                .unwrap_or(NEWCOMER_REPUTATION),
            bonded: standing.bonded,
            provider: standing.provider,
            chain: standing.chain,
            owner: standing.owner,
            stake: standing.stake,
        })
    }

    /// What pods may take: the kubelet's word, but no more GPUs than are usable.
    #[must_use]
    pub fn capacity(&self) -> Resources {
        let usable = self.devices.iter().filter(|device| device.usable).count();
        let mut capacity = self.allocatable.clone();
        capacity.gpus = capacity.gpus.min(u64::try_from(usable).unwrap_or(u64::MAX));
        capacity
    }

    /// What pods could take if the node were empty and every GPU well.
    #[must_use]
    pub fn capacity_at_best(&self) -> Resources {
        let devices = u64::try_from(self.devices.len()).unwrap_or(u64::MAX);
        Resources {
            gpus: devices,
            ..self.allocatable.clone()
        }
    }

    /// The model that stands for the node in the canonical order and counts for what its owner may have: the first in lexical order.
    #[must_use]
    pub fn model(&self) -> &str {
        first(self.devices.iter().map(|device| device.model.as_str()))
    }

    /// The same of a GpuNode.
    #[must_use]
    pub fn model_of(gpu_node: &GpuNode) -> &str {
        let devices = gpu_node.status.iter().flat_map(|status| &status.devices);
        first(devices.map(|device| device.model.as_str()))
    }
}

fn first<'a>(models: impl Iterator<Item = &'a str>) -> &'a str {
    models.min().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn gpu_node(spec: &serde_json::Value) -> GpuNode {
        serde_json::from_value(json!({
            "apiVersion": "gridstake.dev/v1alpha1", "kind": "GpuNode", "metadata": {"name": "n1"}, "spec": spec,
            "status": {"devices": [
                {"uuid": "GPU-0", "index": 0, "model": "NVIDIA L4", "memoryMiB": 23034, "computeCapability": "8.9", "health": "Healthy"},
                {"uuid": "GPU-1", "index": 1, "model": "NVIDIA L4", "memoryMiB": 23034, "computeCapability": "?", "health": "Unhealthy"},
                {"uuid": "GPU-2", "index": 2, "model": "NVIDIA L4", "memoryMiB": 23034, "computeCapability": "8.9", "health": "Degraded"},
            ]},
        }))
        .unwrap()
    }

    fn node(gpus: &str) -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": "n1", "labels": {"zone": "a"}},
            "spec": {"unschedulable": true, "taints": [{"key": "k", "effect": "NoSchedule"}]},
            "status": {"allocatable": {"cpu": "8", "nvidia.com/gpu": gpus}},
        }))
        .unwrap()
    }

    const STANDING: NodeStanding = NodeStanding {
        offer: Ok(()),
        closes_in: None,
        bonded: true,
        provider: Some(7),
        chain: None,
        owner: None,
        stake: 5,
    };

    #[test]
    fn objects_become_facts() {
        let spec =
            json!({"pricing": {"perGpuSecond": "0.5"}, "region": "eu", "jurisdiction": "DE"});
        let facts = NodeFacts::from_objects(&gpu_node(&spec), Some(&node("3")), STANDING).unwrap();
        assert_eq!(
            (
                facts.name.as_str(),
                facts.model(),
                facts.cordoned,
                facts.taints.len()
            ),
            ("n1", "NVIDIA L4", true, 1)
        );
        assert_eq!(
            (facts.price.nano(), facts.reputation, facts.stake),
            (500_000_000, NEWCOMER_REPUTATION, 5)
        );
        assert_eq!(
            (facts.region.as_deref(), facts.jurisdiction.as_deref()),
            (Some("eu"), Some("DE"))
        );
        assert_eq!(
            facts.devices[0].compute_capability,
            Some(ComputeCapability { major: 8, minor: 9 })
        );
        assert_eq!(facts.devices[1].compute_capability, None);
    }

    #[test]
    fn no_more_gpus_are_given_out_than_the_kubelet_allocates_and_nvml_shows_usable() {
        let gpus = |allocatable: &str| {
            let facts =
                NodeFacts::from_objects(&gpu_node(&json!({})), Some(&node(allocatable)), STANDING)
                    .unwrap();
            (facts.capacity().gpus, facts.capacity_at_best().gpus)
        };
        assert_eq!(gpus("3"), (2, 3));
        assert_eq!(gpus("1"), (1, 3));
    }

    #[test]
    fn a_gpu_node_without_its_node_has_no_capacity() {
        let facts = NodeFacts::from_objects(&gpu_node(&json!({})), None, STANDING).unwrap();
        assert_eq!(facts.capacity(), Resources::default());
    }

    #[test]
    fn what_cannot_be_read_names_the_field() {
        let error = NodeFacts::from_objects(&gpu_node(&json!({})), Some(&node("two")), STANDING)
            .unwrap_err();
        assert_eq!(error.to_string(), "read status.allocatable of the Node");
        let selector =
            json!({"namespaceSelector": {"matchExpressions": [{"key": "a", "operator": "Near"}]}});
        let error = NodeFacts::from_objects(&gpu_node(&selector), None, STANDING).unwrap_err();
        assert_eq!(
            error.to_string(),
            "read spec.namespaceSelector of the GpuNode"
        );
    }
}
