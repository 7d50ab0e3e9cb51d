//! What comes closest to a job that waits, and what its tenant could change so that it fits now.
//!
//! Nodes are not named and times are not told: the words change only when the answer does.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::explain::{Rounding, amount, list};
use super::filter::{self, Rejection};
use super::request::Request;
use super::resources::{GPU_RESOURCE, Resources};
use super::snapshot::{NodeCapacity, Snapshot};

/// What is told about a job that waits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NearMiss {
    /// What comes closest, as in "a node with 3 of 4 GPUs free".
    pub nearest: Option<String>,
    /// Changes of the job, each of which alone would let it fit now, as in "pricing.maxPerGpuSecond 0.002".
    pub fits_now_with: Vec<String>,
}

/// A wish of a job that its tenant can give up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Wish {
    Models,
    GpuMemory,
    ComputeCapability,
    Regions,
    Jurisdictions,
    Price,
    RunLimit,
    Bond,
    Reputation,
    KeptRoom,
}

impl Wish {
    /// The wish for whose sake a node was refused.
    fn behind(rejection: &Rejection) -> Option<Self> {
        Some(match rejection {
            Rejection::ModelMismatch => Self::Models,
            Rejection::GpuMemoryTooSmall => Self::GpuMemory,
            Rejection::ComputeCapabilityTooLow => Self::ComputeCapability,
            Rejection::RegionMismatch => Self::Regions,
            Rejection::JurisdictionMismatch => Self::Jurisdictions,
            Rejection::PriceTooHigh => Self::Price,
            Rejection::ClosesTooSoon => Self::RunLimit,
            Rejection::Unbonded => Self::Bond,
            Rejection::ReputationTooLow => Self::Reputation,
            Rejection::Held => Self::KeptRoom,
            _ => return None,
        })
    }

    /// The request without it.
    fn given_up(self, request: &Request) -> Request {
        let mut request = request.clone();
        match self {
            Self::Models => request.gpu.models.clear(),
            Self::GpuMemory => request.gpu.min_memory_mib = None,
            Self::ComputeCapability => request.gpu.min_compute_capability = None,
            Self::Regions => request.regions.clear(),
            Self::Jurisdictions => request.jurisdictions.clear(),
            Self::Price => request.max_price = None,
            Self::RunLimit => request.run_limit = None,
            Self::Bond => request.require_bond = false,
            Self::Reputation => request.min_reputation = 0,
            Self::KeptRoom => request.kept = super::holds::Spare::default(),
        }
        request
    }

    /// What the tenant would write. `nodes` are those that only this wish rules out, and they have room for all members
    /// that find none elsewhere.
    fn remedy(self, nodes: &[Passed<'_>], missing: u64, request: &Request) -> Option<String> {
        let facts = || nodes.iter().map(|passed| passed.node.facts());
        let models = || facts().flat_map(|node| &node.devices);
        Some(match self {
            Self::Models => {
                let models = models().map(|device| device.model.clone());
                format!("gpu.models {}", list(models.collect()))
            }
            Self::GpuMemory => {
                let least = reach(nodes, missing, |node| {
                    let memory = node.facts().devices.iter().map(|device| device.memory_mib);
                    std::cmp::Reverse(memory.min().unwrap_or(0))
                })?;
                format!("gpu.minMemoryMiB {}", least.0)
            }
            Self::ComputeCapability => {
                let least = reach(nodes, missing, |node| {
                    let devices = node.facts().devices.iter();
                    std::cmp::Reverse(devices.filter_map(|d| d.compute_capability).min())
                })?;
                format!("gpu.minComputeCapability {}", least.0?)
            }
            Self::Regions => {
                let regions = facts().filter_map(|node| node.region.clone());
                format!("policy.regions {}", list(regions.collect()))
            }
            Self::Jurisdictions => {
                let jurisdictions = facts().filter_map(|node| node.jurisdiction.clone());
                format!("policy.jurisdictions {}", list(jurisdictions.collect()))
            }
            Self::Price => {
                let price = reach(nodes, missing, |node| node.facts().price)?;
                format!("pricing.maxPerGpuSecond {price}")
            }
            Self::RunLimit => {
                "a timeouts.run that is over before the node's provider takes it back".to_owned()
            }
            Self::Bond => "policy.requireBond false".to_owned(),
            Self::Reputation => {
                let reputation = reach(nodes, missing, |node| {
                    std::cmp::Reverse(node.facts().reputation)
                })?;
                format!("policy.minReputation {}", reputation.0)
            }
            Self::KeptRoom => {
                let shorter = if request.run_limit.is_some() {
                    "a shorter timeouts.run"
                } else {
                    "a timeouts.run"
                };
                format!("{shorter} by which it ends before the job that room is kept for can start")
            }
        })
    }
}

/// A node that passes all but one wish, and how many members it has room for.
struct Passed<'a> {
    node: &'a NodeCapacity,
    room: u64,
}

/// The mildest value of what `key` tells of nodes with which `missing` members find room, the mildest being the least.
fn reach<K: Ord>(
    nodes: &[Passed<'_>],
    missing: u64,
    key: impl Fn(&NodeCapacity) -> K,
) -> Option<K> {
    let mut by_key: Vec<(K, u64)> = nodes
        .iter()
        .map(|passed| (key(passed.node), passed.room))
        .collect();
    by_key.sort_by(|a, b| a.0.cmp(&b.0));
    let mut room = 0_u64;
    by_key.into_iter().find_map(|(key, more)| {
        room = room.saturating_add(more);
        (room >= missing).then_some(key)
    })
}

/// What comes closest to `request`, which does not fit on `snapshot`.
#[must_use]
pub fn near_miss(snapshot: &Snapshot, request: &Request) -> NearMiss {
    let member = request.per_member();
    let members = u64::from(request.member_count());
    let mut without: BTreeMap<Wish, Request> = BTreeMap::new();
    let mut missed: BTreeMap<Wish, Vec<Passed<'_>>> = BTreeMap::new();
    let mut rooms: BTreeMap<Option<&str>, u64> = BTreeMap::new();
    let mut nearest: Option<(Lack, &NodeCapacity)> = None;
    let close = filter::required_topology_key(request);
    for node in snapshot.nodes() {
        let room = filter::room(node, request, &member);
        match filter::first_rejection(node, request, &member) {
            None => {
                let domain = close.and_then(|key| node.facts().labels.get(key));
                let sum = rooms.entry(domain.map(String::as_str)).or_default();
                *sum = sum.saturating_add(room);
            }
            Some(rejection) => {
                if let Some(wish) = Wish::behind(&rejection) {
                    let without = without
                        .entry(wish)
                        .or_insert_with(|| wish.given_up(request));
                    if filter::first_rejection(node, without, &member).is_none() {
                        missed.entry(wish).or_default().push(Passed {
                            node,
                            room: filter::room(node, without, &member),
                        });
                    }
                } else if let Some(lack) = Lack::of(&rejection, node, &member)
                    && nearest.as_ref().is_none_or(|(least, _)| lack < *least)
                {
                    nearest = Some((lack, node));
                }
            }
        }
    }

    let anywhere = rooms
        .values()
        .fold(0_u64, |sum, room| sum.saturating_add(*room));
    let together = rooms.values().copied().max().unwrap_or(0);
    let found = if close.is_some() { together } else { anywhere };
    let missing = members.saturating_sub(found);
    let mut fits_now_with = Vec::new();
    // Which domain the nodes that a wish rules out would make whole is not looked into.
    if close.is_none() {
        for (wish, nodes) in &missed {
            let room = nodes
                .iter()
                .fold(0_u64, |sum, passed| sum.saturating_add(passed.room));
            if room >= missing {
                fits_now_with.extend(wish.remedy(nodes, missing, request));
            }
        }
    } else if anywhere >= members {
        fits_now_with.push("topology.policy Preferred".to_owned());
    }
    let in_part = match close {
        _ if found == 0 => None,
        Some(key) => Some(format!(
            "room for {found} of {members} members on nodes with one value of label {key}"
        )),
        None => Some(format!("room for {found} of {members} members")),
    };
    NearMiss {
        nearest: in_part.or_else(|| nearest.map(|(_, node)| free_of(node, &member))),
        fits_now_with,
    }
}

/// How far a node that has too little room is from taking a member: how many kinds of resources it lacks, then how many
/// GPUs, then how much of the others.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Lack {
    kinds: usize,
    gpus: u64,
    others: Vec<u64>,
}

impl Lack {
    fn of(rejection: &Rejection, node: &NodeCapacity, member: &Resources) -> Option<Self> {
        // A node that is too small even when empty comes close to nothing.
        if !rejection.is_want_of_room() || node.facts().capacity().holds(member) == 0 {
            return None;
        }
        let lacks = |name: &str| member.get(name).saturating_sub(node.free().get(name));
        let others: Vec<u64> = names(member)
            .into_iter()
            .filter(|name| *name != GPU_RESOURCE)
            .map(lacks)
            .collect();
        let gpus = lacks(GPU_RESOURCE);
        Some(Self {
            kinds: others
                .iter()
                .chain([&gpus])
                .filter(|lack| **lack > 0)
                .count(),
            gpus,
            others,
        })
    }
}

fn names(member: &Resources) -> BTreeSet<&str> {
    let named = [GPU_RESOURCE, "cpu", "memory", "ephemeral-storage", "pods"];
    named
        .into_iter()
        .chain(member.other.keys().map(String::as_str))
        .collect()
}

/// "a node with 3 of 4 GPUs and 500m of 1000m CPU free".
fn free_of(node: &NodeCapacity, member: &Resources) -> String {
    let mut text = "a node with ".to_owned();
    let mut is_first = true;
    for name in names(member) {
        let (asked, free) = (member.get(name), node.free().get(name));
        if free >= asked {
            continue;
        }
        let has = amount(name, free, Rounding::Down);
        let _ = write!(
            text,
            "{}{} of {}",
            if is_first { "" } else { " and " },
            has.split(' ').next().unwrap_or_default(),
            amount(name, asked, Rounding::Up)
        );
        is_first = false;
    }
    text.push_str(" free");
    text
}

#[cfg(test)]
mod tests;
