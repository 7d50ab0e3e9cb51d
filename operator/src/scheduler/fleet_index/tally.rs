//! How many nodes each filter has ruled out.

use std::collections::BTreeMap;

use gridstake_crds::gpu_node::OfferReason;

use super::block::{LANES, set_bits};
use crate::scheduler::RejectionCount;
use crate::scheduler::decision::ReasonCount;
use crate::scheduler::filter::{Property, Rejection};
use crate::scheduler::resources::Shortage;
use crate::scheduler::snapshot::NodeCapacity;

/// A reason without its particulars, in the order of their names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    ClosesTooSoon,
    ComputeCapabilityTooLow,
    GpuMemoryTooSmall,
    Held,
    InsufficientCpu,
    InsufficientEphemeralStorage,
    InsufficientGpus,
    InsufficientMemory,
    InsufficientPods,
    InsufficientResource,
    JurisdictionMismatch,
    ModelMismatch,
    NamespaceExcluded,
    NoWeight,
    NotOffered,
    OtherChain,
    PriceTooHigh,
    RegionMismatch,
    ReputationTooLow,
    SameOwner,
    SelectorMismatch,
    Suspect,
    Tainted,
    TopologyLabelMissing,
    Unbonded,
}

impl Reason {
    const ALL: [Self; 25] = [
        Self::ClosesTooSoon,
        Self::ComputeCapabilityTooLow,
        Self::GpuMemoryTooSmall,
        Self::Held,
        Self::InsufficientCpu,
        Self::InsufficientEphemeralStorage,
        Self::InsufficientGpus,
        Self::InsufficientMemory,
        Self::InsufficientPods,
        Self::InsufficientResource,
        Self::JurisdictionMismatch,
        Self::ModelMismatch,
        Self::NamespaceExcluded,
        Self::NoWeight,
        Self::NotOffered,
        Self::OtherChain,
        Self::PriceTooHigh,
        Self::RegionMismatch,
        Self::ReputationTooLow,
        Self::SameOwner,
        Self::SelectorMismatch,
        Self::Suspect,
        Self::Tainted,
        Self::TopologyLabelMissing,
        Self::Unbonded,
    ];

    /// The rejection that it stands for, with some particular where there is one.
    fn rejection(self) -> Rejection {
        match self {
            Self::ClosesTooSoon => Rejection::ClosesTooSoon,
            Self::ComputeCapabilityTooLow => Rejection::ComputeCapabilityTooLow,
            Self::GpuMemoryTooSmall => Rejection::GpuMemoryTooSmall,
            Self::Held => Rejection::Held,
            Self::InsufficientCpu => Rejection::InsufficientCpu,
            Self::InsufficientEphemeralStorage => Rejection::InsufficientEphemeralStorage,
            Self::InsufficientGpus => Rejection::InsufficientGpus,
            Self::InsufficientMemory => Rejection::InsufficientMemory,
            Self::InsufficientPods => Rejection::InsufficientPods,
            Self::InsufficientResource => Rejection::InsufficientResource(String::new()),
            Self::JurisdictionMismatch => Rejection::JurisdictionMismatch,
            Self::ModelMismatch => Rejection::ModelMismatch,
            Self::NamespaceExcluded => Rejection::NamespaceExcluded,
            Self::NoWeight => Rejection::NoWeight,
            Self::NotOffered => Rejection::NotOffered(OfferReason::Available),
            Self::OtherChain => Rejection::OtherChain,
            Self::PriceTooHigh => Rejection::PriceTooHigh,
            Self::RegionMismatch => Rejection::RegionMismatch,
            Self::ReputationTooLow => Rejection::ReputationTooLow,
            Self::SameOwner => Rejection::SameOwner,
            Self::SelectorMismatch => Rejection::SelectorMismatch,
            Self::Suspect => Rejection::Suspect,
            Self::Tainted => Rejection::Tainted,
            Self::TopologyLabelMissing => Rejection::TopologyLabelMissing,
            Self::Unbonded => Rejection::Unbonded,
        }
    }
}

impl From<Property> for Reason {
    fn from(property: Property) -> Self {
        match property {
            Property::Model => Self::ModelMismatch,
            Property::GpuMemory => Self::GpuMemoryTooSmall,
            Property::ComputeCapability => Self::ComputeCapabilityTooLow,
            Property::Region => Self::RegionMismatch,
            Property::Jurisdiction => Self::JurisdictionMismatch,
            Property::Namespace => Self::NamespaceExcluded,
            Property::Selector => Self::SelectorMismatch,
            Property::TopologyLabel => Self::TopologyLabelMissing,
            Property::Chain => Self::OtherChain,
            Property::Price => Self::PriceTooHigh,
        }
    }
}

/// The counts of one decision.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    counts: [u32; 25],
    /// Blocks and those of their nodes that are not offered: why is looked up only where it is asked.
    withheld: Vec<(usize, u64)>,
    /// By the name of the resource that is short.
    short: BTreeMap<String, u32>,
}

impl Tally {
    /// Begins anew.
    pub fn clear(&mut self) {
        self.counts.fill(0);
        self.withheld.clear();
        self.short.clear();
    }

    /// Counts nodes.
    #[inline]
    pub fn add(&mut self, reason: impl Into<Reason>, nodes: u32) {
        if let Some(count) = self.counts.get_mut(reason.into() as usize) {
            *count = count.saturating_add(nodes);
        }
    }

    /// Counts nodes of a block.
    #[inline]
    pub fn add_lanes(&mut self, reason: impl Into<Reason>, lanes: u64) {
        self.add(reason, lanes.count_ones());
    }

    /// Counts nodes of a block that are not offered.
    pub fn add_withheld(&mut self, block: usize, lanes: u64) {
        if lanes != 0 {
            self.add_lanes(Reason::NotOffered, lanes);
            self.withheld.push((block, lanes));
        }
    }

    /// Counts a node that has too little of something.
    pub fn add_short(&mut self, shortage: Shortage) {
        let reason = match shortage {
            Shortage::Gpus => Reason::InsufficientGpus,
            Shortage::Cpu => Reason::InsufficientCpu,
            Shortage::Memory => Reason::InsufficientMemory,
            Shortage::EphemeralStorage => Reason::InsufficientEphemeralStorage,
            Shortage::Pods => Reason::InsufficientPods,
            Shortage::Other(name) => {
                *self.short.entry(name).or_default() += 1;
                Reason::InsufficientResource
            }
        };
        self.add(reason, 1);
    }

    /// The counts that are not zero, in the order of the reasons' names.
    pub fn by_reason(&self) -> Vec<ReasonCount> {
        let counted = Reason::ALL.into_iter().zip(self.counts);
        counted
            .filter(|(_, nodes)| *nodes > 0)
            .map(|(reason, nodes)| ReasonCount {
                reason: reason.rejection().reason(),
                nodes,
            })
            .collect()
    }

    /// The counts that are not zero, with particulars, in the order of the filters. `candidates` could take a member.
    pub fn rejections(&self, candidates: u32, nodes: &[NodeCapacity]) -> Vec<RejectionCount> {
        let mut withheld: BTreeMap<OfferReason, u32> = BTreeMap::new();
        for (block, lanes) in &self.withheld {
            for lane in set_bits(*lanes) {
                let node = nodes.get(block * LANES + lane);
                if let Some(Err(reason)) = node.map(|node| node.facts().offer) {
                    *withheld.entry(reason).or_default() += 1;
                }
            }
        }
        let plain = Reason::ALL
            .into_iter()
            .zip(self.counts)
            .filter(|(reason, _)| {
                !matches!(reason, Reason::NotOffered | Reason::InsufficientResource)
            })
            .map(|(reason, nodes)| (reason.rejection(), nodes));
        let withheld = withheld
            .into_iter()
            .map(|(reason, nodes)| (Rejection::NotOffered(reason), nodes));
        let short = self
            .short
            .iter()
            .map(|(name, nodes)| (Rejection::InsufficientResource(name.clone()), *nodes));
        let mut all: Vec<RejectionCount> = plain
            .chain(withheld)
            .chain(short)
            .chain([(Rejection::GangDoesNotFit, candidates)])
            .filter(|(_, nodes)| *nodes > 0)
            .map(|(rejection, nodes)| RejectionCount { rejection, nodes })
            .collect();
        all.sort();
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_stand_in_the_order_of_their_names_at_the_place_of_their_number() {
        let names: Vec<&str> = Reason::ALL
            .iter()
            .map(|reason| reason.rejection().reason())
            .collect();
        assert!(names.is_sorted());
        for (place, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, place);
            assert_eq!(format!("{reason:?}"), reason.rejection().reason());
        }
    }

    #[test]
    fn a_property_has_the_reason_of_its_rejection() {
        for property in Property::ALL {
            assert_eq!(Reason::from(property).rejection(), property.rejection());
        }
    }
}
