//! What the node shows of the pods of leases: their UIDs, processes and devices.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    path::{Path, PathBuf},
};

use super::{
    device::{Reading, User},
    lease::{PodSeen, REMEMBERED},
    records::Records,
    share::{Part, parts},
    step::State,
};
use crate::{
    clock::BootMillis,
    holders::KubeletAnswer,
    local_use::Tenants,
    nvml::{Slot, describe::DeviceFacts},
    pod_resources::Assignment,
    process::{
        ProcessId,
        container_folders::ContainerFolders,
        exits::Exits,
        pod_names::{PodName, folder_of, has_container, pod_uids},
        pods::PodProcesses,
    },
};

/// The pods of leases.
#[derive(Default)]
pub struct Pods {
    /// Those that have a UID.
    pub seen: HashMap<PodName, PodSeen>,
    /// The UIDs of these and of all that hold a device.
    pub uids: HashMap<PodName, Vec<String>>,
    /// Whether a container is about to start in one of them, of which no process was seen yet.
    pub starts: bool,
}

/// Looks at the node's pods.
pub struct Sight {
    logs: PathBuf,
    folders: ContainerFolders,
    processes: PodProcesses,
    exits: Exits,
    /// The pods of the processes whose exit is waited for.
    pod_of: HashMap<ProcessId, String>,
    last_exits: HashMap<String, BootMillis>,
    /// Those that procfs did not show any more, at the last look, though their exits were not told yet.
    missed: BTreeSet<ProcessId>,
}

impl Sight {
    /// By the procfs at `proc_root` and the pods' logs in `logs`. To be called in a runtime.
    #[must_use]
    pub fn new(proc_root: &Path, logs: &Path) -> Self {
        Self {
            logs: logs.to_owned(),
            folders: ContainerFolders::new(logs),
            processes: PodProcesses::new(proc_root),
            exits: Exits::default(),
            pod_of: HashMap::new(),
            last_exits: HashMap::new(),
            missed: BTreeSet::new(),
        }
    }

    /// Waits until it is worth looking: a process of a pod exits, or a container is about to start.
    pub async fn a_change(&mut self) {
        let exit = async {
            match self.exits.next().await {
                Some(exit) => exit,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            (process, at) = exit => self.take_exit(process, at),
            () = self.folders.made() => {}
        }
    }

    fn take_exit(&mut self, process: ProcessId, at: BootMillis) {
        if let Some(uid) = self.pod_of.remove(&process) {
            let last = self.last_exits.entry(uid).or_insert(at);
            *last = at.max(*last);
        }
    }

    /// Lets those count as alive for one more look whose exits are about to be told: of several that end together the first
    /// told is not the last, and without any an end is dated to when a process was last seen.
    fn wait_for_exits(&mut self, alive: &mut BTreeMap<String, Vec<ProcessId>>) {
        let before = std::mem::take(&mut self.missed);
        for (process, uid) in &self.pod_of {
            let shown = alive.get(uid).is_some_and(|all| all.contains(process));
            if shown || !self.exits.awaits(process) || before.contains(process) {
                continue;
            }
            self.missed.insert(*process);
            let all = alive.entry(uid.clone()).or_default();
            all.push(*process);
            all.sort_unstable();
        }
    }

    /// Forgets everything, while there is no lease.
    pub fn close(&mut self) {
        self.processes.forget();
        self.folders.close();
    }

    /// Looks at the pods of `names`, and finds the UIDs of all that hold a device.
    ///
    /// # Errors
    /// When logs or processes cannot be listed.
    pub fn look(
        &mut self,
        state: &State,
        names: &BTreeSet<PodName>,
        assignments: Option<&[Assignment]>,
    ) -> Result<Pods, LookError> {
        let mut all = names.clone();
        for assignment in assignments.unwrap_or_default() {
            all.insert((assignment.namespace.clone(), assignment.pod.clone()));
        }
        let uids = pod_uids(&self.logs, &all).map_err(|source| LookError::Logs {
            path: self.logs.clone(),
            source,
        })?;
        // Of a lease that has begun the UID is known, also when the folder is gone.
        let known: HashMap<PodName, String> = state
            .leases
            .values()
            .filter_map(|lease| {
                let uid = lease.run.as_ref()?.pod_uid.clone();
                Some(((lease.namespace.clone(), lease.pod.clone()), uid))
            })
            .collect();
        let candidates = |name: &PodName| -> Vec<&String> {
            match known.get(name) {
                Some(uid) => vec![uid],
                None => uids.get(name).into_iter().flatten().collect(),
            }
        };
        let wanted: BTreeSet<String> = names.iter().flat_map(candidates).cloned().collect();
        let mut alive = self.processes.scan(&wanted).map_err(LookError::Processes)?;
        while let Some((process, at)) = self.exits.next_now() {
            self.take_exit(process, at);
        }
        self.wait_for_exits(&mut alive);
        self.last_exits.retain(|uid, _| wanted.contains(uid));
        self.pod_of.retain(|_, uid| wanted.contains(uid));
        for (uid, processes) in &alive {
            for process in processes.iter().take(REMEMBERED) {
                if self.exits.watch(*process) {
                    self.pod_of.insert(*process, uid.clone());
                }
            }
        }
        let awaited = |name: &&PodName| !known.contains_key(*name);
        let awaited: Vec<(&PodName, &String)> = names
            .iter()
            .filter(awaited)
            .flat_map(|name| candidates(name).into_iter().map(move |uid| (name, uid)))
            .collect();
        let folders = awaited
            .iter()
            .map(|(name, uid)| folder_of(&self.logs, name, uid));
        // First: what is made while it is looked is told.
        self.folders.watch(folders);
        let starts = awaited
            .iter()
            .any(|(name, uid)| has_container(&self.logs, name, uid));
        let mut seen = HashMap::new();
        for name in names {
            // Of namesakes that both still run the younger is meant.
            let running = candidates(name).into_iter().max_by_key(|uid| {
                alive
                    .get(*uid)
                    .and_then(|processes| processes.first())
                    .copied()
            });
            if let Some(uid) = running {
                let pod = PodSeen {
                    uid: uid.clone(),
                    alive: alive.remove(uid).unwrap_or_default(),
                    last_exit: self.last_exits.get(uid).copied(),
                };
                seen.insert(name.clone(), pod);
            }
        }
        Ok(Pods { seen, uids, starts })
    }

    /// What the GPUs show now. One that shows nothing is left out.
    #[must_use]
    pub(super) fn readings<'a>(
        &'a self,
        slots: &'a [Slot],
        at: BootMillis,
        holders: Option<&Holders<'a>>,
    ) -> Vec<Reading<'a>> {
        let reading = |slot: &'a Slot| {
            let gpu = facts(slot)?.uuid.as_str();
            let sample = &slot.sample;
            let tells = sample.memory_used_bytes.is_some()
                || sample.energy_millijoules.is_some()
                || sample.utilization_percent.is_some()
                || sample.processes.is_some();
            let (held, who) = holders
                .and_then(|holders| holders.get(gpu).cloned())
                .unwrap_or((0, None));
            tells.then(|| Reading {
                gpu,
                at,
                percent: sample.utilization_percent,
                memory_bytes: sample.memory_used_bytes,
                energy_millijoules: sample.energy_millijoules,
                users: sample.processes.as_ref().map(|running| {
                    running
                        .iter()
                        // One that is gone again is nobody's.
                        .filter_map(|process| {
                            Some(User {
                                pod_uid: self.processes.pod_of(process.pid)?,
                                memory_bytes: process.memory_bytes,
                            })
                        })
                        .collect()
                }),
                held,
                holders: who,
            })
        };
        slots.iter().filter_map(reading).collect()
    }
}

/// The pods to look at.
#[must_use]
pub(super) fn names(state: &State, records: Option<&Records>) -> BTreeSet<PodName> {
    let of_records = records.into_iter().flat_map(BTreeMap::values);
    let of_leases = state.leases.values();
    of_records
        .map(|record| (record.namespace.clone(), record.pod.clone()))
        .chain(of_leases.map(|lease| (lease.namespace.clone(), lease.pod.clone())))
        .collect()
}

/// The pods `names` of jobs, with the UIDs that are known of them.
#[must_use]
pub(super) fn tenants(
    state: &State,
    names: &BTreeSet<PodName>,
    uids: &HashMap<PodName, Vec<String>>,
) -> Tenants {
    let of_names = names.iter().filter_map(|name| uids.get(name)).flatten();
    let runs = state.leases.values().filter_map(|lease| lease.run.as_ref());
    Tenants {
        pods: names.clone(),
        uids: of_names
            .chain(runs.map(|run| &run.pod_uid))
            .cloned()
            .collect(),
    }
}

/// Why the node's pods cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    /// The folder of logs.
    #[error("list the pods' logs in {path}")]
    Logs {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Procfs.
    #[error("list the node's processes")]
    Processes(#[source] io::Error),
}

/// What the device of a slot is, if it could be told.
#[must_use]
pub(super) fn facts(slot: &Slot) -> Option<&DeviceFacts> {
    slot.facts.as_ref().ok().map(|facts| &**facts)
}

/// The devices of each pod, where all of them are known.
#[must_use]
pub(super) fn given(
    assignments: &[Assignment],
    gpus: &[&DeviceFacts],
    kubelet: &KubeletAnswer,
) -> HashMap<PodName, Vec<Part>> {
    let mut ids: BTreeMap<(&str, &str), Vec<_>> = BTreeMap::new();
    for assignment in assignments {
        let pod = (assignment.namespace.as_str(), assignment.pod.as_str());
        ids.entry(pod).or_default().push(&assignment.device);
    }
    ids.into_iter()
        .filter_map(|((namespace, pod), ids)| {
            let parts = parts(ids, gpus, &kubelet.replicas)?;
            Some(((namespace.to_owned(), pod.to_owned()), parts))
        })
        .collect()
}

/// Of each GPU the weights of the parts that were given out, and who holds them (`None`: not all of them are known).
pub(super) type Holders<'a> = HashMap<&'a str, (u64, Option<Vec<&'a str>>)>;

/// Who holds which GPU.
#[must_use]
pub(super) fn holders<'a>(
    given: &'a HashMap<PodName, Vec<Part>>,
    uids: &'a HashMap<PodName, Vec<String>>,
) -> Holders<'a> {
    let mut holders = Holders::new();
    for (pod, parts) in given {
        for part in parts {
            let (weight, who) = holders.entry(part.gpu()).or_insert((0, Some(Vec::new())));
            *weight = weight.saturating_add(part.weight());
            match (uids.get(pod), who.as_mut()) {
                (Some(uids), Some(who)) => who.extend(uids.iter().map(String::as_str)),
                (None, _) => *who = None,
                (_, None) => {}
            }
        }
    }
    holders
}
