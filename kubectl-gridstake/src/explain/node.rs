//! What a GpuNode's objects say about it. Pure.

use gridstake_crds::{
    ComputeJob, GpuNode, GpuNodeStatus, Incident, StakeBinding, TokenAmount,
    condition::find,
    gpu_node::{
        Agent, AgentState, DeviceFault, DeviceHealth, DeviceReason, GpuNodeCondition,
        GpuNodeReason, OfferMode, OfferReason, OfferState, Performance, Quarantine,
        ReputationTerms, Stability,
    },
    incident::{IncidentState, Offence, Sanction},
    stake_binding::StakeBindingReason,
};
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use kube::ResourceExt;
use serde::Serialize;

use super::{
    conditions::{Block, blocks},
    next_steps::{Reason as _, meaning},
    weight::{WeightTerms, binding_of, weight_of},
};
use crate::output::count;

/// What is read beside the node.
#[derive(Clone, Debug, Default)]
pub struct Beside {
    /// All StakeBindings.
    pub bindings: Vec<StakeBinding>,
    /// All ComputeJobs.
    pub jobs: Vec<ComputeJob>,
    /// The Incidents of the node.
    pub incidents: Vec<Incident>,
    /// What could not be read, and what is missing for it.
    pub not_read: Vec<String>,
}

/// A node, explained.
#[derive(Serialize, Clone, Debug)]
#[serde(rename_all = "camelCase")]
pub struct NodeReport {
    /// The node.
    pub name: String,
    /// Whether it is offered, and if not why, in one sentence.
    pub state: String,
    /// The provider's mode.
    pub mode: OfferMode,
    /// GPUs that can be allocated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capacity: Option<u32>,
    /// Those that no pod holds or has been promised.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub free: Option<u32>,
    /// What keeps it from being offered, or is to be mended.
    pub blocked_by: Vec<Block>,
    /// The device agent, where it is not well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<Agent>,
    /// Its GPUs.
    pub devices: Vec<DeviceReport>,
    /// GPUs, or all of the node, that get no jobs for a while.
    pub quarantine: Vec<QuarantineReport>,
    /// Who answers for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bond: Option<BondReport>,
    /// What it weighs in the draw.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<WeightTerms>,
    /// The price of one GPU for one second, in whole tokens. Absent: it is free of charge.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_gpu_second: Option<TokenAmount>,
    /// Its reputation in thousandths.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reputation: Option<u32>,
    /// How steady it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stability: Option<Stability>,
    /// The jobs that are on it.
    pub jobs: Vec<JobOnNode>,
    /// What is held against it, the newest first.
    pub incidents: Vec<IncidentOfNode>,
    /// What could not be read.
    pub not_read: Vec<String>,
}

/// A GPU.
#[derive(Serialize, Clone, Debug)]
#[serde(rename_all = "camelCase")]
pub struct DeviceReport {
    /// NVML's index.
    pub index: u32,
    /// NVML's UUID.
    pub uuid: String,
    /// The product name.
    pub model: String,
    /// Memory in MiB.
    #[serde(rename = "memoryMiB")]
    pub memory_mib: u64,
    /// Whether it can be used.
    pub health: DeviceHealth,
    /// Why it cannot, or what is to be watched, and what mends it.
    pub reasons: Vec<DeviceReasonReport>,
    /// What the driver has reported in the last 24 h, the newest first.
    pub faults: Vec<DeviceFault>,
    /// How its reputation comes about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reputation: Option<ReputationTerms>,
    /// How fast it is, as far as that still counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub performance: Option<Performance>,
}

/// Why a GPU is not healthy.
#[derive(Serialize, Clone, Debug)]
#[serde(rename_all = "camelCase")]
pub struct DeviceReasonReport {
    /// Why.
    pub reason: DeviceReason,
    /// What mends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<&'static str>,
}

/// A quarantine.
#[derive(Serialize, Clone, Debug)]
#[serde(rename_all = "camelCase")]
pub struct QuarantineReport {
    /// As the node shows it.
    #[serde(flatten)]
    pub shown: Quarantine,
    /// What mends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<&'static str>,
}

/// Who answers for a node.
#[derive(Serialize, Clone, Debug)]
#[serde(rename_all = "camelCase")]
pub struct BondReport {
    /// The StakeBinding.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub binding: Option<String>,
    /// The chain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chain: Option<String>,
    /// The provider's account number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider_id: Option<u32>,
    /// The provider's own stake, in whole tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bonded: Option<TokenAmount>,
    /// What others have delegated to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delegated: Option<TokenAmount>,
    /// What is frozen by slashes in dispute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frozen: Option<TokenAmount>,
    /// What is wrong with the binding.
    pub blocked_by: Vec<Block>,
}

/// A job that is on a node.
#[derive(Serialize, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "camelCase")]
pub struct JobOnNode {
    /// The namespace.
    pub namespace: String,
    /// The job.
    pub name: String,
    /// The attempt.
    pub attempt: u32,
    /// Members of it on this node.
    pub members: u32,
    /// GPUs that these hold.
    pub gpus: u64,
    /// When it was placed.
    pub since: Timestamp,
}

/// An Incident of a node.
#[derive(Serialize, Clone, Debug)]
#[serde(rename_all = "camelCase")]
pub struct IncidentOfNode {
    /// Its name.
    pub name: String,
    /// What happened.
    pub offence: Offence,
    /// What follows from it.
    pub sanction: Sanction,
    /// How far it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<IncidentState>,
    /// When it happened.
    pub to: Time,
    /// The GPUs that it names.
    pub devices: Vec<String>,
}

/// Explains `node` at `now`.
#[must_use]
pub fn explain(node: &GpuNode, beside: Beside, now: Timestamp) -> NodeReport {
    let empty = GpuNodeStatus::default();
    let status = node.status.as_ref().unwrap_or(&empty);
    let name = node.name_any();
    NodeReport {
        state: state(status),
        mode: node.spec.mode,
        capacity: status.capacity,
        free: status.free,
        blocked_by: blocked_by(status),
        agent: status
            .agent
            .clone()
            .filter(|agent| agent.state != AgentState::Ok || agent.message.is_some()),
        devices: devices(status, now),
        quarantine: status
            .quarantine
            .iter()
            .filter(|quarantine| quarantine.until.0 > now)
            .map(|quarantine| QuarantineReport {
                shown: quarantine.clone(),
                next: quarantine.reason.next_step(),
            })
            .collect(),
        bond: bond(&name, status, &beside.bindings),
        weight: weight_of(node, &beside.bindings, None),
        per_gpu_second: node.spec.pricing.as_ref().map(|p| p.per_gpu_second),
        reputation: status.reputation,
        stability: status.stability,
        jobs: jobs_on(&name, &beside.jobs),
        incidents: incidents(&name, &beside.incidents),
        not_read: beside.not_read,
        name,
    }
}

fn state(status: &GpuNodeStatus) -> String {
    let Some(offer) = &status.offer else {
        return "the operator has not looked at it yet; if that lasts, see whether one leads: `kubectl get leases -A`"
            .to_owned();
    };
    match (offer.state, status.free) {
        (OfferState::Withheld, _) => {
            format!(
                "it is not offered: {}: {}",
                offer.reason,
                meaning(offer.reason)
            )
        }
        (OfferState::Offered, Some(0)) => "it is offered, and all its GPUs are taken".to_owned(),
        (OfferState::Offered, Some(free)) => {
            format!("it is offered, with {} free", count(free, "GPU", "GPUs"))
        }
        (OfferState::Offered, None) => "it is offered".to_owned(),
    }
}

/// `Offered` has reasons of its own.
fn blocked_by(status: &GpuNodeStatus) -> Vec<Block> {
    let is_offer = |kind: &str| kind == GpuNodeCondition::Offered.to_string();
    let (offer, others): (Vec<_>, Vec<_>) = status
        .conditions
        .iter()
        .cloned()
        .partition(|condition| is_offer(&condition.type_));
    let mut all = blocks::<OfferReason>(&offer, &[]);
    let quarantined = GpuNodeCondition::Quarantined.to_string();
    let others = blocks::<GpuNodeReason>(&others, &[&quarantined]);
    let summary = GpuNodeCondition::Ready.to_string();
    let has_more = !all.is_empty();
    all.extend(
        others
            .into_iter()
            .filter(|block| !(has_more && block.condition == summary)),
    );
    all
}

fn devices(status: &GpuNodeStatus, now: Timestamp) -> Vec<DeviceReport> {
    let one = |device: &gridstake_crds::gpu_node::Device| DeviceReport {
        index: device.index,
        uuid: device.uuid.clone(),
        model: device.model.clone(),
        memory_mib: device.memory_mib,
        health: device.health,
        reasons: device
            .reasons
            .iter()
            .map(|reason| DeviceReasonReport {
                reason: *reason,
                next: reason.next_step(),
            })
            .collect(),
        faults: device.faults.clone(),
        reputation: status
            .reputation_terms
            .iter()
            .find(|terms| terms.uuid == device.uuid)
            .cloned(),
        performance: status
            .performance
            .iter()
            .find(|figures| figures.uuid == device.uuid && figures.expires_at.0 > now)
            .cloned(),
    };
    status.devices.iter().map(one).collect()
}

fn bond(name: &str, status: &GpuNodeStatus, bindings: &[StakeBinding]) -> Option<BondReport> {
    let bonded = find(&status.conditions, GpuNodeCondition::Bonded)?;
    if bonded.reason == GpuNodeReason::NoChainConfigured.to_string() {
        return None;
    }
    let binding = binding_of(name, bindings);
    let shown = binding.and_then(|binding| binding.status.as_ref());
    Some(BondReport {
        binding: binding.map(ResourceExt::name_any),
        chain: status.chain.clone(),
        provider_id: status.provider_id,
        bonded: shown.and_then(|shown| shown.bonded),
        delegated: shown.and_then(|shown| shown.delegated),
        frozen: shown
            .and_then(|shown| shown.frozen)
            .filter(|frozen| frozen.nano() > 0),
        blocked_by: shown.map_or_else(Vec::new, |shown| {
            blocks::<StakeBindingReason>(&shown.conditions, &[])
        }),
    })
}

/// The jobs with an attempt in progress on the node `name`, by namespace and name.
#[must_use]
pub fn jobs_on(name: &str, jobs: &[ComputeJob]) -> Vec<JobOnNode> {
    let on = |job: &ComputeJob| {
        let placement = job.status.as_ref()?.active_placement()?;
        let here = placement.nodes.iter().filter(|m| m.node == name).count();
        let members = u32::try_from(here).ok().filter(|members| *members > 0)?;
        Some(JobOnNode {
            namespace: job.namespace().unwrap_or_default(),
            name: job.name_any(),
            attempt: placement.attempt,
            members,
            gpus: u64::from(members).saturating_mul(u64::from(job.spec.gpu.count)),
            since: placement.decided_at.0,
        })
    };
    let mut found: Vec<JobOnNode> = jobs.iter().filter_map(on).collect();
    found.sort();
    found
}

fn incidents(name: &str, incidents: &[Incident]) -> Vec<IncidentOfNode> {
    let mut found: Vec<IncidentOfNode> = incidents
        .iter()
        .filter(|incident| incident.spec.subject.node_name == name)
        .map(|incident| IncidentOfNode {
            name: incident.name_any(),
            offence: incident.spec.offence,
            sanction: incident.spec.sanction,
            state: incident.status.as_ref().and_then(|status| status.state),
            to: incident.spec.to.clone(),
            devices: incident.spec.subject.devices.clone(),
        })
        .collect();
    found.sort_by(|a, b| (b.to.0, &a.name).cmp(&(a.to.0, &b.name)));
    found
}

#[cfg(test)]
#[path = "node_tests.rs"]
pub(crate) mod tests;
