//! Brings together what metering needs, steps, keeps what is known on disk, and hands out what was stated.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use gridstake_crds::usage_record::Evidence;
use prometheus::IntGauge;
use serde::Serialize;
use tokio::{
    sync::{Notify, watch},
    task::spawn_blocking,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    deliver::{Delivered, Wanted},
    lease::{PodSeen, REMEMBERED, Reading, User},
    records::Records,
    share::{Part, parts},
    spool,
    step::{Rules, Seen, State, step},
};
use crate::{
    clock::{Anchor, BootMillis, boot_id},
    holders::KubeletAnswer,
    nvml::{Observation, Slot, describe::DeviceFacts},
    outcome::{Outcomes, chain},
    pod_resources::Assignment,
    process::{
        ProcessId,
        exits::Exits,
        pod_names::{PodName, pod_uids},
        pods::PodProcesses,
    },
    signing_key::KeyState,
};

/// How often what is known is kept although nothing was stated: what a killed agent loses sight of.
const STORE_EVERY: Duration = Duration::from_secs(10);

/// How many samples may be late before the time between two tells nothing.
const LATE_SAMPLES: u32 = 5;

/// What hinders metering, for people to read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trouble {
    /// The state directory.
    pub spool: Option<String>,
    /// The node's processes and pods.
    pub processes: Option<String>,
    /// The API server refuses evidence.
    pub delivery: Option<String>,
}

impl Trouble {
    /// Sets one part; true if that is news.
    pub fn set(&mut self, part: fn(&mut Self) -> &mut Option<String>, now: Option<String>) -> bool {
        let before = std::mem::replace(part(self), now);
        before != *part(self)
    }

    /// What a person should read, if anything.
    #[must_use]
    pub fn message(&self) -> Option<String> {
        let said = [
            (&self.processes, "use cannot be metered"),
            (&self.spool, "evidence would not survive a restart"),
            (&self.delivery, "evidence is refused"),
        ];
        let said: Vec<String> = said
            .into_iter()
            .filter_map(|(why, what)| Some(format!("{what}: {}", why.as_ref()?)))
            .collect();
        (!said.is_empty()).then(|| said.join("; "))
    }
}

/// What the heartbeat says of one open chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Head {
    /// The head of the chain as the API server holds it.
    pub head: String,
    /// Until when a process was seen alive, in Unix milliseconds.
    pub to_ms: u64,
}

/// The heads of the open chains by record.
pub type Heads = BTreeMap<String, Head>;

/// What the meter is told at its start.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where what is known is kept.
    pub state_dir: PathBuf,
    /// Where the kubelet keeps the logs of pods.
    pub pod_logs: PathBuf,
    /// Where the host's procfs is mounted.
    pub proc_root: PathBuf,
    /// Time between two samples.
    pub sample_interval: Duration,
    /// Time between two checkpoints.
    pub checkpoint_interval: Duration,
}

/// Where the meter gets its material from, and where it puts what it made.
pub struct Meter {
    /// What does not change.
    pub settings: Settings,
    /// What NVML showed last.
    pub latest: watch::Receiver<Option<Arc<Observation>>>,
    /// What the kubelet said last.
    pub kubelet: watch::Receiver<KubeletAnswer>,
    /// Told when the kubelet has to be asked.
    pub ask_kubelet: Arc<Notify>,
    /// The node's open records.
    pub records: watch::Receiver<Option<Records>>,
    /// The agent's key.
    pub key: watch::Receiver<KeyState>,
    /// What the API server holds.
    pub delivered: watch::Receiver<Delivered>,
    /// What it should hold.
    pub wanted: watch::Sender<BTreeMap<String, Wanted>>,
    /// What the heartbeat should say.
    pub heads: watch::Sender<Heads>,
    /// What hinders.
    pub trouble: watch::Sender<Trouble>,
    /// How reading processes goes.
    pub scanning: Outcomes,
    /// How keeping goes.
    pub spooling: Outcomes,
    /// How many slices have evidence.
    pub slices: IntGauge,
}

/// What the meter remembers.
struct Memory {
    state: State,
    boot_id: String,
    pods: PodProcesses,
    exits: Exits,
    /// The pods of the processes whose exit is waited for.
    pod_of: HashMap<ProcessId, String>,
    last_exits: HashMap<String, BootMillis>,
    stored_at: Instant,
    /// Whether the file holds leases.
    is_stored: bool,
}

/// What the node shows of the pods of leases.
#[derive(Default)]
struct Pods {
    seen: HashMap<PodName, PodSeen>,
    uids: HashMap<PodName, Vec<String>>,
}

impl Meter {
    /// Meters until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut memory = self.remember();
        let patience = self.settings.sample_interval + Duration::from_millis(500);
        loop {
            let mut fresh = false;
            let mut anew = false;
            tokio::select! {
                () = stop.cancelled() => {
                    self.store(&mut memory).await;
                    return;
                }
                Ok(()) = self.latest.changed() => fresh = true,
                Ok(()) = self.records.changed() => anew = true,
                Ok(()) = self.key.changed() => {}
                Ok(()) = self.kubelet.changed() => {}
                Ok(()) = self.delivered.changed() => {}
                Some((process, at)) = memory.exits.next() => memory.note(process, at),
                // Without NVML processes are metered all the same.
                () = sleep(patience) => {}
            }
            // More than one may have changed.
            fresh |= self.latest.has_changed().unwrap_or(false);
            anew |= self.records.has_changed().unwrap_or(false);
            let stated = self.step(&mut memory, fresh);
            let empties = memory.is_stored && memory.state.leases.is_empty();
            let late = memory.stored_at.elapsed() >= STORE_EVERY && !memory.state.leases.is_empty();
            if stated || late || empties {
                self.store(&mut memory).await;
            }
            if stated || anew {
                self.want(&memory.state);
            }
            self.tell(&memory.state);
        }
    }

    /// What was kept before.
    fn remember(&mut self) -> Memory {
        let boot_id = boot_id(&self.settings.proc_root).unwrap_or_default();
        let mut state = State::default();
        match spool::load(&self.settings.state_dir) {
            Ok(Some((boot, kept))) => {
                state = kept;
                if boot != boot_id {
                    let anchor = Anchor::now();
                    state
                        .leases
                        .values_mut()
                        .for_each(|lease| lease.rebooted(anchor));
                }
                tracing::info!(leases = state.leases.len(), "metering goes on");
            }
            Ok(None) => {}
            Err(error) => self.spooling.failure(&error),
        }
        Memory {
            is_stored: !state.leases.is_empty(),
            state,
            boot_id,
            pods: PodProcesses::new(&self.settings.proc_root),
            exits: Exits::default(),
            pod_of: HashMap::new(),
            last_exits: HashMap::new(),
            stored_at: Instant::now(),
        }
    }

    fn step(&mut self, memory: &mut Memory, fresh: bool) -> bool {
        let records = self.records.borrow_and_update();
        let kubelet = self.kubelet.borrow_and_update().clone();
        let names = names(&memory.state, records.as_ref());
        if names.is_empty() {
            memory.pods.forget();
            return false;
        }
        let assignments = kubelet.assignments.as_deref().map(Vec::as_slice);
        let now = BootMillis::now();
        let pods = match look(&self.settings.pod_logs, memory, &names, assignments) {
            Ok(pods) => pods,
            Err(error) => {
                // Nothing is known of any process: that is not their end.
                self.scanning.failure(&error);
                let said = Some(chain(&error));
                self.trouble
                    .send_if_modified(|trouble| trouble.set(|t| &mut t.processes, said));
                return false;
            }
        };
        self.scanning.success();
        self.trouble
            .send_if_modified(|trouble| trouble.set(|t| &mut t.processes, None));
        let observation = self.latest.borrow_and_update().clone();
        let slots = observation
            .as_ref()
            .map(|seen| seen.slots.as_slice())
            .unwrap_or_default();
        let gpus: Vec<&DeviceFacts> = slots.iter().filter_map(facts).collect();
        let given = given(assignments.unwrap_or_default(), &gpus, &kubelet);
        let readings = if fresh {
            let holders = assignments.map(|_| holders(&given, &pods.uids));
            readings(slots, now, holders.as_ref(), &memory.pods)
        } else {
            Vec::new()
        };
        let key = match &*self.key.borrow_and_update() {
            KeyState::Ready(key) => Some(Arc::clone(key)),
            KeyState::Pending | KeyState::Unusable(_) => None,
        };
        let seen = Seen {
            at: now,
            anchor: Anchor::now(),
            records: records.as_ref(),
            pods: &pods.seen,
            given: &given,
            readings: &readings,
            key: key.as_deref(),
        };
        let rules = Rules {
            checkpoint_every: millis(self.settings.checkpoint_interval),
            longest_reading: millis(self.settings.sample_interval * LATE_SAMPLES),
        };
        let stated = step(&mut memory.state, &seen, rules).unwrap_or_else(|error| {
            self.spooling.failure(&error);
            false
        });
        if memory
            .state
            .leases
            .values()
            .any(|lease| lease.lacks_devices())
        {
            self.ask_kubelet.notify_one();
        }
        stated
    }

    /// Makes what is known durable. Without that metering goes on, and says so.
    async fn store(&mut self, memory: &mut Memory) {
        if !memory.is_stored && memory.state.leases.is_empty() {
            return;
        }
        memory.stored_at = Instant::now();
        let directory = self.settings.state_dir.clone();
        let stored = match spool::encode(&memory.boot_id, &memory.state) {
            // The disk may take its time, and the heartbeat must not wait for it.
            Ok(content) => spawn_blocking(move || spool::store(&directory, &content)).await,
            Err(error) => Ok(Err(error)),
        };
        let error = match stored {
            Ok(Ok(())) => {
                memory.is_stored = !memory.state.leases.is_empty();
                self.spooling.success();
                None
            }
            Ok(Err(error)) => {
                self.spooling.failure(&error);
                Some(chain(&error))
            }
            // The runtime ends.
            Err(_) => return,
        };
        self.trouble
            .send_if_modified(|trouble| trouble.set(|t| &mut t.spool, error));
    }

    /// Hands out what was stated.
    fn want(&self, state: &State) {
        let records = self.records.borrow();
        let published = |record: &str, evidence: &Evidence| {
            let known = records
                .as_ref()
                .and_then(|all| all.get(record)?.published.as_deref());
            known == Some(evidence)
        };
        let wanted: BTreeMap<String, Wanted> = state
            .leases
            .values()
            .filter_map(|lease| lease.evidence())
            .map(|(record, evidence)| {
                let wanted = Wanted {
                    is_published: published(record, &evidence),
                    evidence: Arc::new(evidence),
                };
                (record.to_owned(), wanted)
            })
            .collect();
        self.slices
            .set(i64::try_from(wanted.len()).unwrap_or(i64::MAX));
        self.wanted.send_replace(wanted);
    }

    /// Tells the heartbeat how far the chains are that the API server holds as they are. One whose newest statement is
    /// still on its way must not be stated further: a gap may be in it.
    fn tell(&self, state: &State) {
        let delivered = self.delivered.borrow();
        let heads: Heads = state
            .leases
            .values()
            .filter_map(|lease| lease.head())
            .filter(|(record, head, _)| delivered.get(*record).is_some_and(|held| held == head))
            .map(|(record, head, to_ms)| {
                let head = Head {
                    head: head.to_owned(),
                    to_ms,
                };
                (record.to_owned(), head)
            })
            .collect();
        self.heads.send_if_modified(|known| {
            let new = *known != heads;
            *known = heads;
            new
        });
    }
}

impl Memory {
    fn note(&mut self, process: ProcessId, at: BootMillis) {
        if let Some(uid) = self.pod_of.remove(&process) {
            self.last_exits.insert(uid, at);
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The pods to look at.
fn names(state: &State, records: Option<&Records>) -> BTreeSet<PodName> {
    let of_records = records.into_iter().flat_map(BTreeMap::values);
    let of_leases = state.leases.values();
    of_records
        .map(|record| (record.namespace.clone(), record.pod.clone()))
        .chain(of_leases.map(|lease| (lease.namespace.clone(), lease.pod.clone())))
        .collect()
}

/// Why the node's pods cannot be looked at.
#[derive(Debug, thiserror::Error)]
enum LookError {
    #[error("list the pods' logs in {path}")]
    Logs {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("list the node's processes")]
    Processes(#[source] io::Error),
}

/// Looks at the pods of `names`, and finds the UIDs of all that hold a device.
fn look(
    logs: &std::path::Path,
    memory: &mut Memory,
    names: &BTreeSet<PodName>,
    assignments: Option<&[Assignment]>,
) -> Result<Pods, LookError> {
    let mut named = names.clone();
    for assignment in assignments.unwrap_or_default() {
        named.insert((assignment.namespace.clone(), assignment.pod.clone()));
    }
    let uids = pod_uids(logs, &named).map_err(|source| LookError::Logs {
        path: logs.to_owned(),
        source,
    })?;
    // Of a lease that has begun the UID is known, also when the folder is gone.
    let known: HashMap<PodName, String> = memory
        .state
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
    let mut alive = memory.pods.scan(&wanted).map_err(LookError::Processes)?;
    memory.last_exits.retain(|uid, _| wanted.contains(uid));
    memory.pod_of.retain(|_, uid| wanted.contains(uid));
    for (uid, processes) in &alive {
        for process in processes.iter().take(REMEMBERED) {
            if memory.exits.watch(*process) {
                memory.pod_of.insert(*process, uid.clone());
            }
        }
    }
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
                last_exit: memory.last_exits.get(uid).copied(),
            };
            seen.insert(name.clone(), pod);
        }
    }
    Ok(Pods { seen, uids })
}

fn facts(slot: &Slot) -> Option<&DeviceFacts> {
    slot.facts.as_ref().ok().map(|facts| &**facts)
}

/// The devices of each pod, where all of them are known.
fn given(
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
type Holders<'a> = HashMap<&'a str, (u64, Option<Vec<&'a str>>)>;

fn holders<'a>(
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

/// What the GPUs show now. One that shows nothing is left out.
fn readings<'a>(
    slots: &'a [Slot],
    at: BootMillis,
    holders: Option<&Holders<'a>>,
    processes: &'a PodProcesses,
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
                            pod_uid: processes.pod_of(process.pid)?,
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
