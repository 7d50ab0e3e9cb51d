//! Which nodes can take one member of a request, and for each other node the one reason why not.
//!
//! The filters run in the order in which [`Rejection`] lists them and the first that fails is the reason, so every node
//! is counted exactly once. First come the properties of a node, which no waiting changes; then its state; then room.

use std::fmt;

use gridstake_crds::closed_enum::ClosedEnum as _;
use gridstake_crds::compute_job::TopologyPolicy;
use gridstake_crds::gpu_node::OfferReason;
use k8s_openapi::jiff::SignedDuration;
use kube::core::SelectorExt as _;

use super::gpu_model;
use super::node_facts::{DeviceFacts, NodeFacts};
use super::request::Request;
use super::resources::{Resources, Shortage};
use super::snapshot::NodeCapacity;

/// Why a node cannot take a member. The order is that of the filters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rejection {
    /// Its GPUs are of no model that was asked for.
    ModelMismatch,
    /// Its GPUs have too little memory.
    GpuMemoryTooSmall,
    /// Its GPUs' compute capability is too low.
    ComputeCapabilityTooLow,
    /// Its region is not among those asked for.
    RegionMismatch,
    /// Its jurisdiction is not among those asked for.
    JurisdictionMismatch,
    /// Its provider does not serve the job's namespace.
    NamespaceExcluded,
    /// The template's node selector or node affinity does not accept it.
    SelectorMismatch,
    /// It lacks the label by which the members must be close.
    TopologyLabelMissing,
    /// Its provider is on another chain than the payer of the job's namespace.
    OtherChain,
    /// It costs more than the job would pay.
    PriceTooHigh,
    /// Its GPUs are withheld.
    NotOffered(OfferReason),
    /// Its provider takes it back before the job's `timeouts.run` would be over.
    ClosesTooSoon,
    /// It is cordoned or has a taint that the template does not tolerate.
    Tainted,
    /// It has too little stake for a job that asks for a bond.
    Unbonded,
    /// Its reputation is too low.
    ReputationTooLow,
    /// Its weight in the draw is zero: no stake or no reputation.
    NoWeight,
    /// A placement of this job there has failed.
    Suspect,
    /// Its owner computes the result with which the job's own is to be compared.
    SameOwner,
    /// Too few free GPUs.
    InsufficientGpus,
    /// Too little free CPU.
    InsufficientCpu,
    /// Too little free memory.
    InsufficientMemory,
    /// Too little free scratch space.
    InsufficientEphemeralStorage,
    /// No free pod slot.
    InsufficientPods,
    /// Too little of another resource that the template asks for.
    InsufficientResource(String),
    /// It has room, which is kept for a job that comes before this one.
    Held,
    /// It could take a member, but not all members find room together.
    GangDoesNotFit,
}

impl Rejection {
    /// The reason in one word, without particulars.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::ModelMismatch => "ModelMismatch",
            Self::GpuMemoryTooSmall => "GpuMemoryTooSmall",
            Self::ComputeCapabilityTooLow => "ComputeCapabilityTooLow",
            Self::RegionMismatch => "RegionMismatch",
            Self::JurisdictionMismatch => "JurisdictionMismatch",
            Self::NamespaceExcluded => "NamespaceExcluded",
            Self::SelectorMismatch => "SelectorMismatch",
            Self::TopologyLabelMissing => "TopologyLabelMissing",
            Self::OtherChain => "OtherChain",
            Self::PriceTooHigh => "PriceTooHigh",
            Self::NotOffered(_) => "NotOffered",
            Self::ClosesTooSoon => "ClosesTooSoon",
            Self::Tainted => "Tainted",
            Self::Unbonded => "Unbonded",
            Self::ReputationTooLow => "ReputationTooLow",
            Self::NoWeight => "NoWeight",
            Self::Suspect => "Suspect",
            Self::SameOwner => "SameOwner",
            Self::InsufficientGpus => "InsufficientGpus",
            Self::InsufficientCpu => "InsufficientCpu",
            Self::InsufficientMemory => "InsufficientMemory",
            Self::InsufficientEphemeralStorage => "InsufficientEphemeralStorage",
            Self::InsufficientPods => "InsufficientPods",
            Self::InsufficientResource(_) => "InsufficientResource",
            Self::Held => "Held",
            Self::GangDoesNotFit => "GangDoesNotFit",
        }
    }

    /// Whether the node would do if less of it were taken.
    #[must_use]
    pub fn is_want_of_room(&self) -> bool {
        matches!(
            self,
            Self::InsufficientGpus
                | Self::InsufficientCpu
                | Self::InsufficientMemory
                | Self::InsufficientEphemeralStorage
                | Self::InsufficientPods
                | Self::InsufficientResource(_)
        )
    }

    /// The particular that tells rejections of one reason apart, if there is one.
    #[must_use]
    pub fn particular(&self) -> Option<&str> {
        match self {
            Self::NotOffered(reason) => Some(reason.as_str()),
            Self::InsufficientResource(name) => Some(name),
            _ => None,
        }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason())?;
        self.particular()
            .map_or(Ok(()), |particular| write!(f, " ({particular})"))
    }
}

impl From<Shortage> for Rejection {
    fn from(shortage: Shortage) -> Self {
        match shortage {
            Shortage::Gpus => Self::InsufficientGpus,
            Shortage::Cpu => Self::InsufficientCpu,
            Shortage::Memory => Self::InsufficientMemory,
            Shortage::EphemeralStorage => Self::InsufficientEphemeralStorage,
            Shortage::Pods => Self::InsufficientPods,
            Shortage::Other(name) => Self::InsufficientResource(name),
        }
    }
}

/// A property of a node that no waiting changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Property {
    Model,
    GpuMemory,
    ComputeCapability,
    Region,
    Jurisdiction,
    Namespace,
    Selector,
    TopologyLabel,
    Chain,
    Price,
}

impl Property {
    /// Every property, in the order of the filters.
    pub(super) const ALL: [Self; 10] = [
        Self::Model,
        Self::GpuMemory,
        Self::ComputeCapability,
        Self::Region,
        Self::Jurisdiction,
        Self::Namespace,
        Self::Selector,
        Self::TopologyLabel,
        // A price on another chain is in another token.
        Self::Chain,
        Self::Price,
    ];

    /// Whether the node has what is asked for. A node that shows no GPUs passes the wishes about them: why it shows
    /// none stands in its offer. So does one that is bound to no chain.
    pub(super) fn suits(self, node: &NodeFacts, request: &Request) -> bool {
        let every = |wish: &dyn Fn(&DeviceFacts) -> bool| node.devices.iter().all(wish);
        match self {
            Self::Model => {
                let models = &request.gpu.models;
                models.is_empty()
                    || every(&|device| {
                        models
                            .iter()
                            .any(|model| gpu_model::matches(model, &device.model))
                    })
            }
            Self::GpuMemory => request
                .gpu
                .min_memory_mib
                .is_none_or(|least| every(&|device| device.memory_mib >= least)),
            Self::ComputeCapability => request.gpu.min_compute_capability.is_none_or(|least| {
                every(&|device| device.compute_capability.is_some_and(|has| has >= least))
            }),
            Self::Region => one_of(&request.regions, node.region.as_deref()),
            Self::Jurisdiction => one_of(&request.jurisdictions, node.jurisdiction.as_deref()),
            Self::Namespace => node
                .namespaces
                .as_ref()
                .is_none_or(|selector| selector.matches(&request.namespace_labels)),
            Self::Selector => request.constraints.selects(&node.name, &node.labels),
            Self::TopologyLabel => {
                required_topology_key(request).is_none_or(|key| node.labels.contains_key(key))
            }
            Self::Chain => match (&request.chain, &node.chain) {
                (Some(wanted), Some(has)) => wanted == has,
                _ => true,
            },
            Self::Price => request.max_price.is_none_or(|most| node.price <= most),
        }
    }

    pub(super) fn rejection(self) -> Rejection {
        match self {
            Self::Model => Rejection::ModelMismatch,
            Self::GpuMemory => Rejection::GpuMemoryTooSmall,
            Self::ComputeCapability => Rejection::ComputeCapabilityTooLow,
            Self::Region => Rejection::RegionMismatch,
            Self::Jurisdiction => Rejection::JurisdictionMismatch,
            Self::Namespace => Rejection::NamespaceExcluded,
            Self::Selector => Rejection::SelectorMismatch,
            Self::TopologyLabel => Rejection::TopologyLabelMissing,
            Self::Chain => Rejection::OtherChain,
            Self::Price => Rejection::PriceTooHigh,
        }
    }
}

/// The first reason why the node cannot take one member, in the order of [`Rejection`]; `None` when it can. `member` is
/// [`Request::per_member`], computed once for all nodes.
#[must_use]
pub fn first_rejection(
    node: &NodeCapacity,
    request: &Request,
    member: &Resources,
) -> Option<Rejection> {
    let facts = node.facts();
    if let Some(missing) = Property::ALL
        .into_iter()
        .find(|property| !property.suits(facts, request))
    {
        return Some(missing.rejection());
    }
    if let Err(reason) = facts.offer {
        return Some(Rejection::NotOffered(reason));
    }
    if closes_too_soon(facts, request) {
        return Some(Rejection::ClosesTooSoon);
    }
    if is_tainted(facts, request) {
        return Some(Rejection::Tainted);
    }
    if request.require_bond && !facts.bonded {
        return Some(Rejection::Unbonded);
    }
    if facts.reputation < request.min_reputation {
        return Some(Rejection::ReputationTooLow);
    }
    if node.weight() == 0 {
        return Some(Rejection::NoWeight);
    }
    if request.avoid.contains(&facts.name) {
        return Some(Rejection::Suspect);
    }
    if request.same_owner.contains(&facts.name) {
        return Some(Rejection::SameOwner);
    }
    if let Some(shortage) = node.free().first_shortage(member) {
        return Some(shortage.into());
    }
    (room(node, request, member) == 0).then_some(Rejection::Held)
}

/// How many members the node has room for now, apart from what is kept for a job before this one.
pub(super) fn room(node: &NodeCapacity, request: &Request, member: &Resources) -> u64 {
    let free = node.free().holds(member);
    match request.kept.get(&node.facts().name) {
        Some(spare) => free.min(spare.holds(member)),
        None => free,
    }
}

/// Whether its provider takes the node back before the job's time is over. A job that may run for ever is placed all the
/// same: it is queued again when the window closes.
pub(super) fn closes_too_soon(node: &NodeFacts, request: &Request) -> bool {
    let closes_in = node.closes_in.map(SignedDuration::unsigned_abs);
    closes_in
        .zip(request.run_limit)
        .is_some_and(|(left, limit)| limit > left)
}

/// Whether the node is cordoned or has a taint that the template does not tolerate.
pub(super) fn is_tainted(node: &NodeFacts, request: &Request) -> bool {
    request.constraints.untolerated(&node.taints).is_some()
        || (node.cordoned && !request.constraints.tolerates_cordon())
}

/// The label that all members' nodes must share.
pub(super) fn required_topology_key(request: &Request) -> Option<&str> {
    request
        .topology
        .as_ref()
        .filter(|topology| topology.policy == TopologyPolicy::Required)
        .map(|topology| topology.key.as_str())
}

fn one_of(wanted: &[String], has: Option<&str>) -> bool {
    wanted.is_empty() || wanted.iter().any(|wanted| is_at(has, wanted))
}

/// Whether a node that declares this place, if any, is at the `wanted` one.
pub(super) fn is_at(has: Option<&str>, wanted: &str) -> bool {
    has.is_some_and(|has| wanted.eq_ignore_ascii_case(has))
}

#[cfg(test)]
mod tests;
