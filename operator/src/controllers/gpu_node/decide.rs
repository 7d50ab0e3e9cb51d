//! What is to be said about a GpuNode. Pure: no client, no clock.

use std::collections::BTreeSet;

use gridstake_crds::{
    GpuNode, GpuNodeStatus,
    condition::{Fact, Status},
    gpu_node::{
        AgentState, Device, DeviceHealth, GpuNodeCondition, GpuNodeReason, Offer, OfferReason,
        OfferState, OwnerCut, Quarantine, QuarantineReason, WHOLE_NODE,
    },
    names::GPU_RESOURCE,
};
use k8s_openapi::{api::core::v1::Node, jiff::Timestamp};

use super::{
    guarantee::Guarantee,
    inventory::{self, Inventory},
    mode::ModeSight,
    observe::Observed,
    quarantine::{self, NodeGpus},
};
use crate::{
    controllers::stake_binding::bond::Bond, failover::is_in_maintenance,
    reputation::standing::Appraisal, scheduler::Resources,
};

/// How many devices a message names.
const NAMED: usize = 4;

/// What is to be said, and when to look again.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// All conditions.
    pub facts: Vec<Fact>,
    /// Whether jobs may be placed here, and if not, why.
    pub offer: Offer,
    /// GPUs that can be allocated.
    pub capacity: u32,
    /// GPUs that nobody holds or has been promised.
    pub free: u32,
    /// What gets no jobs for a while because of what failed on it.
    pub quarantine: Vec<Quarantine>,
    /// The provider to which one StakeBinding binds the node.
    pub provider_id: Option<u32>,
    /// The chain that this binding names.
    pub chain: Option<String>,
    /// What stands on chain about its GPUs, and what should.
    pub inventory: Inventory,
    /// What is to be said of its reputation and stability; `None`: what was said before stands.
    pub appraisal: Option<Appraisal>,
    /// What is to be said of how its owner's weights are cut; `None`: what was said before stands.
    pub owner_cut: Option<CutSeen>,
    /// The moment at which time alone can change the answer.
    pub again_at: Option<Timestamp>,
}

/// How the owner's weights are cut, as placement has settled it; nothing: they are not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CutSeen(pub Option<OwnerCut>);

/// What is to be said about `gpu_node` at `now`.
#[must_use]
pub fn decide(gpu_node: &GpuNode, seen: &Observed, now: Timestamp) -> Plan {
    let node = seen.node.as_deref();
    let silent = seen.failover.is_silent(seen.heartbeat, now);
    let quarantine =
        quarantine::quarantine(&seen.failures, &gpus(gpu_node, node), &seen.quarantine, now);
    let verdict = offer(gpu_node, node, silent, &seen.guarantee, &seen.mode, now)
        .and(undisputed(!seen.rivals.is_empty()))
        .and(out_of_quarantine(&quarantine, now));
    let reason = verdict.err().unwrap_or(OfferReason::Available);
    let words = match reason {
        OfferReason::GpuClaimedTwice => claimed_twice(&seen.rivals),
        _ => why_not_offered(gpu_node, seen, reason, now),
    };
    let (state, ready) = match verdict {
        Ok(()) => (OfferState::Offered, GpuNodeReason::Ready),
        Err(_) => (OfferState::Withheld, GpuNodeReason::NotOffered),
    };
    let offered = verdict.is_ok();
    let facts = vec![
        reporting(gpu_node, seen, now),
        healthy(gpu_node, seen, now),
        bonded(&seen.guarantee),
        Fact::new(GpuNodeCondition::Offered, offered, reason, words.clone()),
        quarantined(&quarantine),
        Fact::new(GpuNodeCondition::Ready, offered, ready, words),
    ];
    Plan {
        facts,
        offer: Offer { state, reason },
        capacity: seen.gpus.capacity,
        free: seen.gpus.free,
        provider_id: seen.guarantee.backing.provider,
        chain: seen.guarantee.backing.chain.as_deref().map(str::to_owned),
        inventory: inventory::decide(gpu_node, &seen.guarantee, |statement| {
            seen.stated.as_ref()?.is_stated(statement)
        }),
        appraisal: seen.appraisal.clone(),
        owner_cut: seen.owner_cut.clone(),
        again_at: quarantine
            .iter()
            .map(|q| q.until.0)
            .chain(next_change(gpu_node, seen, now))
            .min(),
        quarantine,
    }
}

/// Whether jobs may be placed on the node at `now`; if not, the first reason in the order of [`OfferReason`].
///
/// `silent`: the agent has not been heard of for too long; `guarantee` is what the chain has to say, `mode` what the provider's
/// mode looks at.
pub fn offer(
    gpu_node: &GpuNode,
    node: Option<&Node>,
    silent: bool,
    guarantee: &Guarantee,
    mode: &ModeSight,
    now: Timestamp,
) -> Result<(), OfferReason> {
    let node = node.ok_or(OfferReason::NodeMissing)?;
    if !is_ready(node) {
        return Err(OfferReason::NodeNotReady);
    }
    if node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true) {
        return Err(OfferReason::NodeCordoned);
    }
    if silent {
        return Err(OfferReason::AgentSilent);
    }
    let status = gpu_node.status.as_ref();
    match agent_state(status) {
        Some(AgentState::Ok) => {}
        Some(AgentState::NoDevices) => return Err(OfferReason::NoDevices),
        Some(_) | None => return Err(OfferReason::NvmlUnavailable),
    }
    let devices = status
        .map(|status| status.devices.as_slice())
        .unwrap_or_default();
    if devices.is_empty() {
        return Err(OfferReason::NoDevices);
    }
    if !devices.iter().any(is_usable) {
        return Err(OfferReason::NoHealthyDevices);
    }
    if allocatable_gpus(node) == 0 {
        return Err(OfferReason::NoDevicePlugin);
    }
    if is_in_maintenance(&gpu_node.spec.maintenance, now) {
        return Err(OfferReason::Maintenance);
    }
    mode.verdict(&gpu_node.spec, now)
        .map_err(|(reason, _)| reason)?;
    guarantee.holds()?;
    match guarantee.backing.in_force() {
        Some(provider) if !inventory::is_posted(gpu_node, provider.id, &provider.chain) => {
            Err(OfferReason::InventoryNotPosted)
        }
        _ => Ok(()),
    }
}

/// The node's GPUs, as its agent and its kubelet have them.
fn gpus(gpu_node: &GpuNode, node: Option<&Node>) -> NodeGpus {
    let devices = gpu_node.status.iter().flat_map(|status| &status.devices);
    let allocatable = node.map_or(0, allocatable_gpus);
    NodeGpus {
        all: devices.clone().count(),
        unfit: devices
            .filter(|device| device.health == DeviceHealth::Unhealthy)
            .map(|device| device.uuid.clone())
            .collect(),
        allocatable: usize::try_from(allocatable).unwrap_or(usize::MAX),
    }
}

/// Whether something of the node is in quarantine. Of GPUs alone the others are on offer.
fn quarantined(quarantine: &[Quarantine]) -> Fact {
    let Some(first) = quarantine.first() else {
        return Fact::new(
            GpuNodeCondition::Quarantined,
            false,
            GpuNodeReason::Clean,
            "nothing speaks against the node",
        );
    };
    let (reason, words) = match first.reason {
        QuarantineReason::AdmissionFailures => (
            GpuNodeReason::AdmissionFailures,
            "the kubelet, its device plugin or its container runtime refused three pods within ten minutes; the attempts of \
             the jobs concerned have their words",
        ),
        QuarantineReason::RepeatedFailures => (
            GpuNodeReason::RepeatedFailures,
            "different jobs failed on a GPU by no program's fault; the other GPUs are on offer",
        ),
        QuarantineReason::BrokenGpuAllocated => (
            GpuNodeReason::BrokenGpuAllocated,
            "the kubelet goes on to hand out a GPU that must not be used: let its device plugin withdraw it, or reset or \
             replace it",
        ),
    };
    let whole = first.subject == WHOLE_NODE;
    let named: Vec<&str> = quarantine
        .iter()
        .map(|q| q.subject.as_str())
        .filter(|subject| *subject != WHOLE_NODE)
        .take(NAMED)
        .collect();
    let words = if named.is_empty() {
        words.to_owned()
    } else {
        format!("{words}: {}", named.join(", "))
    };
    Fact::new(GpuNodeCondition::Quarantined, whole, reason, words)
}

/// A node that shows a GPU which another one shows too is not offered: the kubelet, not the operator, chooses which of its
/// GPUs a pod gets.
///
/// # Errors
/// When it has rivals.
pub const fn undisputed(has_rivals: bool) -> Result<(), OfferReason> {
    if has_rivals {
        Err(OfferReason::GpuClaimedTwice)
    } else {
        Ok(())
    }
}

/// Whether none of `quarantines` keeps jobs off the whole node at `now`.
///
/// # Errors
/// When one does.
pub fn out_of_quarantine(quarantines: &[Quarantine], now: Timestamp) -> Result<(), OfferReason> {
    let mut whole = quarantines.iter().filter(|q| q.subject == WHOLE_NODE);
    if whole.any(|q| q.until.0 > now) {
        Err(OfferReason::Quarantined)
    } else {
        Ok(())
    }
}

fn claimed_twice(rivals: &BTreeSet<String>) -> String {
    let named: Vec<&str> = rivals.iter().take(NAMED).map(String::as_str).collect();
    format!(
        "a GPU of the node is shown by {} too: none of them is offered until only one shows it; compare status.devices",
        named.join(", ")
    )
}

/// The first moment after `now` at which the answer may differ though no object has changed.
fn next_change(gpu_node: &GpuNode, seen: &Observed, now: Timestamp) -> Option<Timestamp> {
    let silence = seen
        .heartbeat
        .and_then(|last| last.checked_add(seen.failover.silent_after).ok());
    let spans = gpu_node.spec.maintenance.iter();
    let edges = spans.flat_map(|span| [span.from.0, span.to.0]);
    silence
        .into_iter()
        .chain(edges)
        .chain(seen.guarantee.ends_at(gpu_node))
        .chain(seen.mode.changes_at(&gpu_node.spec))
        .filter(|moment| *moment > now)
        .min()
}

fn is_ready(node: &Node) -> bool {
    let conditions = node
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_deref());
    conditions
        .unwrap_or_default()
        .iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// What the kubelet allocates; nothing where that cannot be read.
fn allocatable_gpus(node: &Node) -> u64 {
    let allocatable = node
        .status
        .as_ref()
        .and_then(|status| status.allocatable.as_ref());
    allocatable
        .and_then(|allocatable| {
            let gpus = allocatable.get_key_value(GPU_RESOURCE)?;
            let only = [(gpus.0.clone(), gpus.1.clone())].into();
            Resources::from_quantities(&only).ok()
        })
        .map_or(0, |resources| resources.gpus)
}

fn agent_state(status: Option<&GpuNodeStatus>) -> Option<AgentState> {
    Some(status?.agent.as_ref()?.state)
}

fn is_usable(device: &Device) -> bool {
    matches!(
        device.health,
        DeviceHealth::Healthy | DeviceHealth::Degraded
    )
}

/// Why nothing is known about the GPUs, if nothing is.
fn blindness(
    gpu_node: &GpuNode,
    seen: &Observed,
    now: Timestamp,
) -> Option<(GpuNodeReason, String)> {
    if seen.heartbeat.is_none() {
        let words =
            "the device agent has never renewed its Lease: does its DaemonSet run on this node?";
        return Some((GpuNodeReason::AgentMissing, words.to_owned()));
    }
    if seen.failover.is_silent(seen.heartbeat, now) {
        if seen.amnesty {
            let words =
                "the node fell silent together with too many others: nothing is held against it";
            return Some((GpuNodeReason::Amnesty, words.to_owned()));
        }
        let words = "the device agent has not renewed its Lease for three heartbeats";
        return Some((GpuNodeReason::AgentSilent, words.to_owned()));
    }
    let agent = gpu_node
        .status
        .as_ref()
        .and_then(|status| status.agent.as_ref());
    let words = match agent {
        None => "the device agent lives and has not reported yet".to_owned(),
        Some(agent) => match (agent.state, &agent.message) {
            (AgentState::Ok | AgentState::NoDevices, _) => return None,
            (state, Some(message)) => format!("{state}: {message}"),
            (state, None) => state.to_string(),
        },
    };
    Some((GpuNodeReason::NvmlUnavailable, words))
}

fn reporting(gpu_node: &GpuNode, seen: &Observed, now: Timestamp) -> Fact {
    match blindness(gpu_node, seen, now) {
        Some((reason, words)) => Fact::new(GpuNodeCondition::Reporting, false, reason, words),
        None => Fact::new(
            GpuNodeCondition::Reporting,
            true,
            GpuNodeReason::AgentReporting,
            "the device agent reports",
        ),
    }
}

fn bonded(guarantee: &Guarantee) -> Fact {
    let (status, reason, words) = match &guarantee.backing.bond {
        Bond::NotAsked => (
            Status::Unknown,
            GpuNodeReason::NoChainConfigured,
            "no chain is configured, so no bond is asked for".to_owned(),
        ),
        Bond::InForce(provider) => (
            Status::True,
            GpuNodeReason::Bonded,
            format!(
                "the stake of provider {} on chain {} answers for the node",
                provider.id, provider.chain
            ),
        ),
        Bond::Missing(GpuNodeReason::ChainUnavailable, words) => (
            Status::Unknown,
            GpuNodeReason::ChainUnavailable,
            words.clone(),
        ),
        Bond::Missing(reason, words) => (Status::False, *reason, words.clone()),
    };
    Fact::new(GpuNodeCondition::Bonded, status, reason, words)
}

fn healthy(gpu_node: &GpuNode, seen: &Observed, now: Timestamp) -> Fact {
    let fact = |status: Status, reason, words: String| {
        Fact::new(GpuNodeCondition::Healthy, status, reason, words)
    };
    // What was last known says nothing about now.
    if let Some((reason, words)) = blindness(gpu_node, seen, now) {
        return fact(Status::Unknown, reason, words);
    }
    let status = gpu_node.status.as_ref();
    let devices = status
        .map(|status| status.devices.as_slice())
        .unwrap_or_default();
    let unhealthy: Vec<&Device> = devices.iter().filter(|device| !is_usable(device)).collect();
    let degraded: Vec<&Device> = devices
        .iter()
        .filter(|device| device.health == DeviceHealth::Degraded)
        .collect();
    match (devices.len(), unhealthy.len(), degraded.len()) {
        (0, ..) => fact(
            Status::Unknown,
            GpuNodeReason::NoDevices,
            "NVML shows no GPU".to_owned(),
        ),
        (_, 0, 0) => fact(
            Status::True,
            GpuNodeReason::AllDevicesHealthy,
            "every GPU is healthy".to_owned(),
        ),
        (_, 0, _) => fact(
            Status::True,
            GpuNodeReason::AllDevicesHealthy,
            format!("every GPU works; to be watched: {}", names(&degraded)),
        ),
        (all, bad, _) if all == bad => fact(
            Status::False,
            GpuNodeReason::NoHealthyDevices,
            format!("no GPU is healthy: {}", names(&unhealthy)),
        ),
        _ => fact(
            Status::False,
            GpuNodeReason::SomeDevicesUnhealthy,
            format!(
                "not healthy: {}; the others are on offer",
                names(&unhealthy)
            ),
        ),
    }
}

/// Such as `GPU-1 (GpuLost), GPU-2 and 3 more`.
fn names(devices: &[&Device]) -> String {
    let named: Vec<String> = devices
        .iter()
        .take(NAMED)
        .map(|device| {
            let reasons: Vec<&str> = device
                .reasons
                .iter()
                .map(|reason| gridstake_crds::closed_enum::ClosedEnum::as_str(*reason))
                .collect();
            if reasons.is_empty() {
                device.uuid.clone()
            } else {
                format!("{} ({})", device.uuid, reasons.join(", "))
            }
        })
        .collect();
    let rest = devices.len().saturating_sub(NAMED);
    let named = named.join(", ");
    if rest == 0 {
        named
    } else {
        format!("{named} and {rest} more")
    }
}

/// The words for an offer's reason.
fn why_not_offered(
    gpu_node: &GpuNode,
    seen: &Observed,
    reason: OfferReason,
    now: Timestamp,
) -> String {
    let words = match reason {
        OfferReason::Available => "free GPUs may be given to jobs",
        OfferReason::NodeMissing => "there is no Node of this name",
        OfferReason::NodeNotReady => "the Node is not Ready",
        OfferReason::NodeCordoned => "the Node is cordoned; kubectl uncordon lifts that",
        OfferReason::AgentSilent => {
            "the device agent has not renewed its Lease for three heartbeats, or never did"
        }
        OfferReason::NvmlUnavailable => "the device agent cannot use NVML; see status.agent",
        OfferReason::NoDevices => "NVML shows no GPU",
        OfferReason::NoHealthyDevices => "no GPU is healthy; see status.devices",
        OfferReason::NoDevicePlugin => {
            return format!(
                "the Node's allocatable {GPU_RESOURCE} is 0 or missing: does the NVIDIA device plugin run?"
            );
        }
        OfferReason::Maintenance => {
            "an announced maintenance span is running; see spec.maintenance"
        }
        OfferReason::Drained
        | OfferReason::InvalidWindow
        | OfferReason::OutsideWindow
        | OfferReason::InLocalUse => {
            let verdict = seen.mode.verdict(&gpu_node.spec, now);
            return verdict.err().map(|(_, words)| words).unwrap_or_default();
        }
        OfferReason::Unbonded | OfferReason::KeyNotCertified => {
            return seen.guarantee.words(gpu_node);
        }
        OfferReason::InventoryNotPosted => {
            "the node shows a GPU that has not been stated on chain: a batch that states it follows; see status.devices and status.postedDevices"
        }
        OfferReason::GpuClaimedTwice => "another node shows one of its GPUs too",
        OfferReason::Quarantined => {
            "too much has failed on it lately; see the condition Quarantined and status.quarantine"
        }
    };
    words.to_owned()
}
