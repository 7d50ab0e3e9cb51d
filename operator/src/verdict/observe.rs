//! What is known of the places of an attempt's members. Reads the caches; decides nothing.

use std::{
    cell::LazyCell,
    collections::{BTreeMap, BTreeSet},
};

use gridstake_crds::{
    GpuNode,
    compute_job::MemberNode,
    gpu_node::{AgentState, Device, DeviceHealth, DeviceReason},
    usage_record::{DeviceUse, Evidence},
};
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::{Excuse, Gpu, Loss, Place};
use crate::{
    caches::{Caches, parsed},
    controllers::usage_record::bill::unix_millis,
    failover::{self, NodeState},
};

/// How long after a heartbeat has arrived it is taken to speak for the GpuNode as the cache has it: the two come by watches of
/// their own.
const SETTLES: SignedDuration = SignedDuration::from_secs(2);

/// The places of the members of attempt `attempt` of the job with this uid, at `now`.
#[must_use]
pub fn places(
    caches: &Caches,
    job_uid: &str,
    attempt: u32,
    members: &[MemberNode],
    now: Timestamp,
) -> Vec<Place> {
    let records = caches.records_of_job(job_uid);
    let mut evidence: BTreeMap<u32, Vec<&Evidence>> = BTreeMap::new();
    for record in parsed(&records).filter(|record| record.spec.attempt == attempt) {
        let told = record.status.as_ref().and_then(|s| s.evidence.as_ref());
        evidence.entry(record.spec.member).or_default().extend(told);
    }
    // It takes a look at every heartbeat; most nodes are heard of.
    let amnesty = LazyCell::new(|| failover::amnesty_now(caches, now).is_some());
    members
        .iter()
        .map(|placed| {
            let evidence = evidence.get(&placed.member).map_or(&[][..], Vec::as_slice);
            place(caches, placed, evidence, || *amnesty, now)
        })
        .collect()
}

/// The place of a member whose `evidence` is that of all its slices that are known.
fn place(
    caches: &Caches,
    placed: &MemberNode,
    evidence: &[&Evidence],
    amnesty: impl FnOnce() -> bool,
    now: Timestamp,
) -> Place {
    let name = &placed.node;
    let found = caches.gpu_node(name);
    let gpu_node = found.as_ref().and_then(|node| node.0.as_ref().ok());
    let heard_of = caches.last_heartbeat(name);
    let terms = caches.failover();
    let used = evidence.iter().flat_map(|evidence| &evidence.devices);
    let own: BTreeSet<&str> = used.map(DeviceUse::physical).collect();
    let status = gpu_node.and_then(|node| node.status.as_ref());
    let devices = status.map(|s| s.devices.as_slice()).unwrap_or_default();
    Place {
        member: placed.member,
        gpus: devices
            .iter()
            .filter(|device| own.is_empty() || own.contains(device.uuid.as_str()))
            .map(gpu)
            .collect(),
        gpus_are_known: !own.is_empty(),
        told_until_ms: heard_of
            .filter(|arrived| now.duration_since(*arrived) >= SETTLES)
            .and_then(|_| caches.heartbeat_lease(name))
            .and_then(|lease| Some(unix_millis(lease.spec.as_ref()?.renew_time.as_ref()?.0))),
        is_heard: !terms.is_silent(heard_of, now),
        sees_gpus: status
            .and_then(|s| s.agent.as_ref())
            .is_some_and(|agent| agent.state == AgentState::Ok && !agent.is_deaf()),
        gaps: evidence
            .iter()
            .flat_map(|evidence| &evidence.gaps)
            .map(|gap| (gap.from_ms, gap.to_ms))
            .collect(),
        loss: loss(caches, name, now),
        excuse: gpu_node.and_then(|node| excuse(node, heard_of, amnesty, terms, now)),
    }
}

fn gpu(device: &Device) -> Gpu {
    let of_the_hardware = [
        DeviceReason::XidFatal,
        DeviceReason::EccUncorrectable,
        DeviceReason::RowRemapPending,
    ];
    Gpu {
        uuid: device.uuid.clone(),
        is_unfit: device.health == DeviceHealth::Unhealthy
            && device
                .reasons
                .iter()
                .any(|reason| of_the_hardware.contains(reason)),
        is_lost: device.reasons.contains(&DeviceReason::GpuLost),
        faults: device.faults.clone(),
    }
}

fn loss(caches: &Caches, name: &str, now: Timestamp) -> Loss {
    match failover::state_of(caches, name, now) {
        NodeState::Gone => Loss::Deleted,
        NodeState::Ready | NodeState::Excused => Loss::None,
        NodeState::NotReady { .. } | NodeState::Suspect { .. } | NodeState::Lost => {
            match caches.fell_silent_with(name, now) {
                0 => Loss::Alone,
                others => Loss::Together(others),
            }
        }
    }
}

fn excuse(
    node: &GpuNode,
    heard_of: Option<Timestamp>,
    amnesty: impl FnOnce() -> bool,
    terms: &failover::Terms,
    now: Timestamp,
) -> Option<Excuse> {
    if failover::is_in_maintenance(&node.spec.maintenance, now) {
        return Some(Excuse::Maintenance);
    }
    failover::is_excused(node, heard_of, amnesty, terms, now).then_some(Excuse::Amnesty)
}
