//! Who has been given each device, and who uses it. Pure.
//!
//! The kubelet names the holders of a device by namespace and name; NVML and procfs name the pods of its processes by
//! UID. For the metrics the two are joined by count: while a device has no more pods with processes than holders, its
//! processes are taken for theirs; with more, some are intruders and it cannot be told which. Metering, which must be
//! sure, finds out which name has which UID ([`crate::process::pod_names`]).

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::BuildHasher,
};

use crate::{
    device_id::DeviceId,
    nvml::{inventory::Device, sample::GpuProcess},
    pod_resources::Assignment,
    process::Process,
};

/// A container that was given a device, or a part of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Holder {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The container's name.
    pub container: String,
}

/// Whose a process on a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// A pod that was given the device.
    Holder,
    /// The host, or a pod although nobody was given the device.
    Foreign,
    /// It cannot be told: the kubelet or procfs did not answer, or more pods use the device than were given it.
    Undetermined,
}

impl Owner {
    /// Every variant.
    pub const ALL: [Self; 3] = [Self::Holder, Self::Foreign, Self::Undetermined];

    /// As a metric's label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Holder => "holder",
            Self::Foreign => "foreign",
            Self::Undetermined => "undetermined",
        }
    }
}

/// A process on a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The process's id on the host.
    pub pid: u32,
    /// With the pid, which process it is; `None` when it ended before procfs was read.
    pub start_ticks: Option<u64>,
    /// Its pod; `None` for a process of the host or one that has ended.
    pub pod_uid: Option<String>,
    /// Memory of the device that it holds, in bytes.
    pub memory_bytes: Option<u64>,
    /// Whose it is.
    pub owner: Owner,
}

/// One device's holders and users.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceUse {
    /// Who was given it. Empty where nobody was, and where the kubelet could not be asked.
    pub holders: Vec<Holder>,
    /// Who runs on it.
    pub users: Vec<User>,
}

/// Holders and users by the device's UUID.
pub type Attribution = BTreeMap<String, DeviceUse>;

/// Joins what the kubelet gave out with what runs. `assignments` is `None` while the kubelet has not answered.
#[must_use]
pub fn attribute<'a, S: BuildHasher>(
    devices: impl IntoIterator<Item = &'a Device>,
    assignments: Option<&[Assignment]>,
    processes: &HashMap<u32, Process, S>,
) -> Attribution {
    devices
        .into_iter()
        .map(|device| {
            let mut holders: Vec<Holder> = assignments
                .unwrap_or_default()
                .iter()
                .filter(|assignment| is_part_of(&assignment.device, device))
                .map(|assignment| Holder {
                    namespace: assignment.namespace.clone(),
                    pod: assignment.pod.clone(),
                    container: assignment.container.clone(),
                })
                .collect();
            // A container may hold several parts of one device.
            holders.sort_unstable();
            holders.dedup();
            let running = device.sample.processes.as_deref().unwrap_or_default();
            let users = users(running, processes, &holders, assignments.is_some());
            (device.facts.uuid.clone(), DeviceUse { holders, users })
        })
        .collect()
}

fn is_part_of(id: &DeviceId, device: &Device) -> bool {
    let facts = &device.facts;
    let has_instance = |uuid: &str| {
        facts
            .mig
            .as_ref()
            .is_some_and(|mig| mig.instances.iter().any(|instance| instance.uuid == uuid))
    };
    match id {
        DeviceId::Gpu { uuid } => *uuid == facts.uuid,
        DeviceId::Mig { uuid } => has_instance(uuid),
        DeviceId::Replica { uuid, .. } => *uuid == facts.uuid || has_instance(uuid),
        DeviceId::Index { index, .. } => *index == facts.index,
        DeviceId::Unknown(_) => false,
    }
}

fn users<S: BuildHasher>(
    running: &[GpuProcess],
    processes: &HashMap<u32, Process, S>,
    holders: &[Holder],
    holders_known: bool,
) -> Vec<User> {
    let pods_given: BTreeSet<(&str, &str)> = holders
        .iter()
        .map(|holder| (holder.namespace.as_str(), holder.pod.as_str()))
        .collect();
    let pods_running: BTreeSet<&str> = running
        .iter()
        .filter_map(|process| processes.get(&process.pid)?.pod_uid.as_deref())
        .collect();
    let owner = |process: Option<&Process>| match process {
        Some(Process { pod_uid: None, .. }) => Owner::Foreign,
        Some(_) if !holders_known => Owner::Undetermined,
        Some(_) if pods_given.is_empty() => Owner::Foreign,
        Some(_) if pods_running.len() <= pods_given.len() => Owner::Holder,
        None | Some(_) => Owner::Undetermined,
    };
    running
        .iter()
        .map(|gpu_process| {
            let process = processes.get(&gpu_process.pid);
            User {
                pid: gpu_process.pid,
                start_ticks: process.map(|process| process.start_ticks),
                pod_uid: process.and_then(|process| process.pod_uid.clone()),
                memory_bytes: gpu_process.memory_bytes,
                owner: owner(process),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests;
