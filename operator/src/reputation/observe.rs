//! What the caches tell of GPUs: who shows them, whether they are up, what records and Incidents say. Decides nothing.

use std::collections::BTreeMap;

use gridstake_crds::{
    GpuNode, UsageRecord, condition,
    gpu_node::{DeviceHealth, OfferMode},
    usage_record::UsageRecordCondition,
};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;

use super::{
    blame::{self, Charges},
    counted::{Counted, counted},
    key::{GpuKey, Owner},
};
use crate::{
    Context,
    caches::{Caches, parsed},
    controllers::stake_binding::{observe::resolutions, resolve::Claim},
    failover,
};

/// Seconds of a minute.
const MINUTE: u64 = 60;

/// A node, who answers for it, and its GPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Its name.
    pub node: String,
    /// Who answers for it.
    pub owner: Owner,
    /// Its GPUs.
    pub keys: Vec<GpuKey>,
}

/// The UUIDs that `gpu_node` shows.
pub fn uuids(gpu_node: &GpuNode) -> impl Iterator<Item = &str> {
    let devices = gpu_node.status.iter().flat_map(|status| &status.devices);
    devices.map(|device| device.uuid.as_str())
}

/// Who answers for the node of this name, by the StakeBindings; `None`: nobody does, and somebody should.
#[must_use]
pub fn owner(context: &Context, node: &str) -> Option<Owner> {
    let resolutions = resolutions(&context.caches);
    let (chain, number) = match resolutions.claim(node) {
        Some(Claim::One(spec)) => (Some(spec.chain.as_str()), Some(spec.provider_id)),
        Some(Claim::Several(_)) | None => (None, None),
    };
    Owner::find(&context.chains, chain, number)
}

/// All nodes for which somebody answers, or must.
#[must_use]
pub fn shown(context: &Context) -> Vec<Shown> {
    let nodes = context.caches.gpu_nodes.state();
    parsed(&nodes)
        .filter_map(|gpu_node| {
            let node = gpu_node.name_any();
            let owner = owner(context, &node)?;
            let keys = uuids(gpu_node).filter_map(|uuid| GpuKey::new(owner, uuid));
            Some(Shown {
                keys: keys.collect(),
                owner,
                node,
            })
        })
        .collect()
}

/// Which GPUs were up in the minute that begins at `begin`, in Unix seconds, as far as that is seen at `now`: their agent was
/// heard of in it, and they can be used. Those of nodes that are excused, and those that their provider does not offer then
/// anyway, are not among them: of them this minute says nothing.
#[must_use]
pub fn sights(context: &Context, begin: u64, now: Timestamp) -> BTreeMap<GpuKey, bool> {
    let caches = &context.caches;
    let (amnesty, terms) = (failover::amnesty_now(caches, now), caches.failover());
    let nodes = caches.gpu_nodes.state();
    let mut sights = BTreeMap::new();
    for gpu_node in parsed(&nodes) {
        let name = gpu_node.name_any();
        let heard_of = caches.last_heartbeat(&name);
        let Some(owner) = owner(context, &name) else {
            continue;
        };
        if !is_meant_to_be_up(caches, gpu_node, now)
            || failover::is_excused(gpu_node, heard_of, || amnesty.is_some(), terms, now)
        {
            continue;
        }
        let heard_at = heard_of.and_then(|at| u64::try_from(at.as_second()).ok());
        let answers = heard_at.is_some_and(|at| at >= begin);
        for device in gpu_node.status.iter().flat_map(|status| &status.devices) {
            let works = matches!(
                device.health,
                DeviceHealth::Healthy | DeviceHealth::Degraded
            );
            if let Some(key) = GpuKey::new(owner, &device.uuid) {
                // A GPU that two nodes show is up if one of them has it.
                *sights.entry(key).or_insert(false) |= answers && works;
            }
        }
    }
    sights
}

/// Whether the provider means the node to be up at `now`: it is not drained, and in its windows if it has some.
fn is_meant_to_be_up(caches: &Caches, gpu_node: &GpuNode, now: Timestamp) -> bool {
    match gpu_node.spec.mode {
        OfferMode::Always | OfferMode::IdleOnly => true,
        OfferMode::Drained => false,
        OfferMode::Scheduled => {
            let windows = &gpu_node.spec.windows;
            let standing = caches
                .windows()
                .standing(&gpu_node.name_any(), windows, now);
            standing.is_ok_and(|standing| standing.is_open)
        }
    }
}

/// What the records say that were sealed at `since` or later, in Unix seconds.
#[must_use]
pub fn records(context: &Context, since: u64) -> Vec<Counted> {
    let records = context.caches.usage_records.state();
    parsed(&records)
        .filter(|record| sealed_at(record).is_some_and(|at| at >= since))
        .filter_map(|record| {
            let found = context.caches.gpu_node(&record.spec.node_name);
            let shown = |_: &str| {
                let node = found.as_ref().and_then(|node| node.0.as_ref().ok());
                node.map(|node| uuids(node).collect()).unwrap_or_default()
            };
            counted(record, &context.chains, shown)
        })
        .collect()
}

/// When `record` was sealed, in Unix seconds. Cheap: every minute it is asked of all of them.
fn sealed_at(record: &UsageRecord) -> Option<u64> {
    let status = record.status.as_ref()?;
    let condition = condition::find(&status.conditions, UsageRecordCondition::Sealed)?;
    u64::try_from(condition.last_transition_time.0.as_second()).ok()
}

/// What counts against GPUs at `now`.
#[must_use]
pub fn charges(context: &Context, now: Timestamp) -> Charges {
    let incidents = context.caches.incidents.state();
    parsed(&incidents)
        .filter_map(|incident| blame::charge(incident, &context.chains, now))
        .collect()
}

/// When the minute `minute`, since 1970, begins, in Unix seconds.
#[must_use]
pub const fn begin_of(minute: u64) -> u64 {
    minute * MINUTE
}
