//! What the objects of a cluster say of its GPUs, jobs and earnings. Pure.

use std::collections::BTreeMap;

use gridstake_crds::{
    ComputeJob, GpuNode, TokenAmount, UsageRecord,
    compute_job::ComputeJobCondition,
    condition::is_true,
    gpu_node::{DeviceHealth, OfferReason},
    usage_record::{RecordState, Sealed},
};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::ResourceExt as _;
use serde::Serialize;

/// The span of which use and earnings are told.
const SPAN: SignedDuration = SignedDuration::from_hours(24);
/// Milliseconds in a second: prices are per GPU-second, use is in GPU-milliseconds.
const MILLIS: u128 = 1000;

/// The objects that are summed; `None`: they may not be read.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    /// All GpuNodes.
    pub nodes: Option<Vec<GpuNode>>,
    /// All ComputeJobs.
    pub jobs: Option<Vec<ComputeJob>>,
    /// All UsageRecords.
    pub records: Option<Vec<UsageRecord>>,
    /// What could not be read, and what is missing for it.
    pub not_read: Vec<String>,
}

/// GPUs, jobs and earnings.
#[derive(Serialize, Clone, Debug)]
#[serde(rename_all = "camelCase")]
pub struct TopReport {
    /// The nodes, by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nodes: Option<Vec<NodeLine>>,
    /// The namespaces that have jobs which have not ended, by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<Vec<NamespaceLine>>,
    /// From when on use and earnings are told, by the end of each slice.
    pub since: Timestamp,
    /// What providers' nodes were used for and what they earned, by chain and provider. First what is owed to nobody.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub earnings: Option<Vec<EarningsLine>>,
    /// What could not be read.
    pub not_read: Vec<String>,
}

/// A node's GPUs.
#[derive(Serialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct NodeLine {
    /// The node.
    pub name: String,
    /// The models, each once.
    pub models: Vec<String>,
    /// GPUs that NVML shows.
    pub gpus: u32,
    /// GPUs that can be allocated and that pods hold or have been promised.
    pub used: u32,
    /// GPUs that can be allocated and that no pod holds or has been promised.
    pub free: u32,
    /// GPUs that must not be given to jobs, or of which NVML does not say.
    pub unhealthy: u32,
    /// Whether it is offered, and if not why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offer: Option<OfferReason>,
}

/// A namespace's jobs.
#[derive(Serialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct NamespaceLine {
    /// The namespace.
    pub namespace: String,
    /// Jobs of which all members run.
    pub running: u32,
    /// Jobs that have a place and do not run yet, or are being stopped.
    pub placed: u32,
    /// Jobs without a place: they wait, back off, are not admitted or are suspended.
    pub waiting: u32,
    /// GPUs that jobs with a place hold.
    pub gpus: u64,
}

/// What was used of a provider's nodes, and what it earned.
#[derive(Serialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct EarningsLine {
    /// The chain; absent where nothing is owed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chain: Option<String>,
    /// The provider's account number there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider_id: Option<u32>,
    /// Slices that are sealed.
    pub slices: u64,
    /// Of these, slices whose payment is final.
    #[serde(rename = "final")]
    pub finalized: u64,
    /// GPU-milliseconds.
    pub gpu_millis: u64,
    /// What payers pay for them, in whole tokens: GPU-time × price, before the fee and before each batch's one rounding down.
    pub amount: TokenAmount,
    /// What the reward account pays on top, in whole tokens.
    pub emissions: TokenAmount,
}

/// Sums `objects` as of `now`.
#[must_use]
pub fn report(objects: Objects, now: Timestamp) -> TopReport {
    let since = now.checked_sub(SPAN).unwrap_or(Timestamp::MIN);
    let by_name = |nodes: Vec<GpuNode>| {
        let mut lines: Vec<NodeLine> = nodes.iter().map(node).collect();
        lines.sort_by(|a, b| a.name.cmp(&b.name));
        lines
    };
    TopReport {
        nodes: objects.nodes.map(by_name),
        namespaces: objects.jobs.map(|jobs| namespaces(&jobs)),
        since,
        earnings: objects
            .records
            .map(|records| earnings(&records, since, now)),
        not_read: objects.not_read,
    }
}

fn node(node: &GpuNode) -> NodeLine {
    let status = node.status.clone().unwrap_or_default();
    let devices = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let free = status.free.unwrap_or(0);
    NodeLine {
        name: node.name_any(),
        models: status.models().into_keys().map(str::to_owned).collect(),
        gpus: devices(status.devices.len()),
        used: status.capacity.unwrap_or(0).saturating_sub(free),
        free,
        unhealthy: devices(
            status
                .devices
                .iter()
                .filter(|d| matches!(d.health, DeviceHealth::Unhealthy | DeviceHealth::Unknown))
                .count(),
        ),
        offer: status.offer.map(|offer| offer.reason),
    }
}

fn namespaces(jobs: &[ComputeJob]) -> Vec<NamespaceLine> {
    let mut lines: BTreeMap<String, NamespaceLine> = BTreeMap::new();
    for job in jobs {
        let status = job.status.as_ref();
        if status.is_some_and(gridstake_crds::ComputeJobStatus::has_ended) {
            continue;
        }
        let namespace = job.namespace().unwrap_or_default();
        let line = lines.entry(namespace).or_default();
        let Some(status) = status.filter(|status| status.active_placement().is_some()) else {
            line.waiting = line.waiting.saturating_add(1);
            continue;
        };
        let members = u64::from(job.spec.members.max(1));
        let gpus = members.saturating_mul(u64::from(job.spec.gpu.count));
        line.gpus = line.gpus.saturating_add(gpus);
        if is_true(&status.conditions, ComputeJobCondition::Running) {
            line.running = line.running.saturating_add(1);
        } else {
            line.placed = line.placed.saturating_add(1);
        }
    }
    let named = lines
        .into_iter()
        .map(|(namespace, line)| NamespaceLine { namespace, ..line });
    named.collect()
}

fn earnings(records: &[UsageRecord], since: Timestamp, now: Timestamp) -> Vec<EarningsLine> {
    let span = since.as_millisecond()..=now.as_millisecond();
    let is_in =
        |sealed: &&Sealed| i64::try_from(sealed.end_ms).is_ok_and(|end| span.contains(&end));
    let mut lines: BTreeMap<(Option<String>, Option<u32>), EarningsLine> = BTreeMap::new();
    for record in records {
        let Some(status) = &record.status else {
            continue;
        };
        let Some(sealed) = status.sealed.as_ref().filter(is_in) else {
            continue;
        };
        let payment = record.spec.payment.as_ref();
        let chain = payment.map(|payment| payment.chain.clone());
        let provider = payment.map(|payment| payment.provider);
        let line = lines.entry((chain.clone(), provider)).or_default();
        line.chain = chain;
        line.provider_id = provider;
        line.slices = line.slices.saturating_add(1);
        let state = status
            .settlement
            .as_ref()
            .map(|settlement| settlement.state);
        if state == Some(RecordState::Final) {
            line.finalized = line.finalized.saturating_add(1);
        }
        line.gpu_millis = line.gpu_millis.saturating_add(sealed.gpu_millis);
        line.amount = plus(line.amount, amount(sealed));
        let emission = sealed.emission.as_ref().map(|emission| emission.amount);
        line.emissions = plus(line.emissions, emission.unwrap_or_default());
    }
    lines.into_values().collect()
}

/// What is paid for a slice: GPU-milliseconds × price of a GPU-second ÷ 1000, rounded down to a nano-token.
fn amount(sealed: &Sealed) -> TokenAmount {
    let price = sealed.price.unwrap_or_default().nano();
    TokenAmount::from_nano(price.saturating_mul(u128::from(sealed.gpu_millis)) / MILLIS)
}

fn plus(a: TokenAmount, b: TokenAmount) -> TokenAmount {
    TokenAmount::from_nano(a.nano().saturating_add(b.nano()))
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
