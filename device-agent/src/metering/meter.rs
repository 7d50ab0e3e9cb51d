//! Brings together what metering needs, steps, keeps what is known on disk, and hands out what was stated.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use gridstake_crds::usage_record::Evidence;
use prometheus::{CounterVec, IntGauge};
use tokio::{
    sync::{Notify, watch},
    task::{JoinError, JoinHandle, spawn_blocking},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    deliver::{Delivered, Wanted},
    exchange::{Exchange, Head, Heads},
    lease::Lease,
    records::Records,
    share::overallocated,
    sight::{Sight, facts, given, holders, names, tenants},
    spool,
    step::{Rules, Seen, State, step},
    trouble::Trouble,
};
use crate::{
    clock::{Anchor, BootMillis, boot_id},
    holders::KubeletAnswer,
    kept,
    local_use::Tenants,
    metrics::Metrics,
    nvml::{Observation, describe::DeviceFacts},
    outcome::{Outcomes, Task, chain},
    signing_key::KeyState,
    telling::say,
};

/// How often what is known is kept although nothing was stated: what a killed agent loses sight of.
const STORE_EVERY: Duration = Duration::from_secs(10);

/// How often it is looked while a container is about to start: one that runs for less than a sample must be seen too.
const LOOK_FOR_START: Duration = Duration::from_millis(100);

/// How often on end: a container that does not start then is seen with the samples.
const LOOKS_FOR_START: u32 = 300;

/// How many samples may be late before the time between two tells nothing.
const LATE_SAMPLES: u32 = 5;

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

/// Where the meter gets its material from.
pub struct Sources {
    /// What NVML showed last.
    pub latest: watch::Receiver<Option<Arc<Observation>>>,
    /// What the kubelet said last.
    pub kubelet: watch::Receiver<KubeletAnswer>,
    /// Told when the kubelet has to be asked.
    pub ask_kubelet: Arc<Notify>,
    /// The agent's key.
    pub key: watch::Receiver<KeyState>,
}

/// Meters the leases of one node.
pub struct Meter {
    settings: Settings,
    sources: Sources,
    /// The node's open records.
    records: watch::Receiver<Option<Records>>,
    /// What the API server holds.
    delivered: watch::Receiver<Delivered>,
    /// What it should hold.
    wanted: watch::Sender<BTreeMap<String, Wanted>>,
    heads: watch::Sender<Heads>,
    tenants: watch::Sender<Option<Tenants>>,
    trouble: watch::Sender<Trouble>,
    scanning: Outcomes,
    spooling: Outcomes,
    /// How many slices have evidence.
    slices: IntGauge,
    /// Seconds in which more than one whole of a GPU was held.
    overallocated: CounterVec,
}

/// What the meter remembers.
struct Memory {
    state: State,
    boot_id: String,
    sight: Sight,
    stored_at: Instant,
    /// Whether the file holds leases.
    is_stored: bool,
    /// Whether something is to be kept as soon as the disk is free.
    is_due: bool,
    /// Whether what is kept next is to be handed out after that.
    is_news: bool,
    /// What the disk is busy with.
    storing: Option<Storing>,
    /// When it was last looked.
    stepped_at: BootMillis,
    /// How often on end it was looked for the start of a container that was about to; 0 while none is.
    looks_for_start: u32,
}

/// Evidence by record.
type Stated = Vec<(String, Arc<Evidence>)>;

/// What is being made durable.
struct Storing {
    writing: JoinHandle<Result<(), kept::Error>>,
    holds_leases: bool,
    /// What it says, to be handed out when it is durable.
    stated: Option<Stated>,
}

/// Ends when the disk has done it; never where it has nothing to do.
async fn written(storing: &mut Option<Storing>) -> Result<Result<(), kept::Error>, JoinError> {
    match storing {
        Some(storing) => (&mut storing.writing).await,
        None => std::future::pending().await,
    }
}

impl Meter {
    /// A meter, and its side that speaks with the API server.
    #[must_use]
    pub fn new(settings: Settings, sources: Sources, metrics: &Metrics) -> (Self, Exchange) {
        let (records, records_seen) = watch::channel(None);
        let (wanted, wanted_seen) = watch::channel(BTreeMap::new());
        let (delivered, delivered_seen) = watch::channel(Delivered::new());
        let (heads, heads_seen) = watch::channel(Heads::new());
        let trouble = watch::Sender::new(Trouble::default());
        let tenants = watch::Sender::new(None);
        let exchange = Exchange {
            state_dir: settings.state_dir.clone(),
            records,
            wanted: wanted_seen,
            delivered,
            heads: heads_seen,
            tenants: tenants.clone(),
            trouble: trouble.clone(),
        };
        let meter = Self {
            settings,
            sources,
            records: records_seen,
            delivered: delivered_seen,
            wanted,
            heads,
            tenants,
            trouble,
            scanning: Outcomes::new(Task::Processes, metrics),
            spooling: Outcomes::new(Task::Spool, metrics),
            slices: metrics.evidence_slices.clone(),
            overallocated: metrics.overallocated.clone(),
        };
        (meter, exchange)
    }

    /// Meters until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut memory = self.remember();
        let patience = self.settings.sample_interval + Duration::from_millis(500);
        loop {
            let mut fresh = false;
            let mut anew = false;
            let patience = match memory.looks_for_start {
                1..=LOOKS_FOR_START => patience.min(LOOK_FOR_START),
                _ => patience,
            };
            tokio::select! {
                () = stop.cancelled() => {
                    self.store_last(&mut memory).await;
                    return;
                }
                written = written(&mut memory.storing) => {
                    self.stored(&mut memory, written);
                    // Whatever else has changed is still there to be seen.
                    self.store(&mut memory);
                    continue;
                }
                Ok(()) = self.sources.latest.changed() => fresh = true,
                Ok(()) = self.records.changed() => anew = true,
                Ok(()) = self.sources.key.changed() => {}
                Ok(()) = self.sources.kubelet.changed() => {}
                Ok(()) = self.delivered.changed() => {}
                () = memory.sight.a_change() => {}
                // Without NVML processes are metered all the same.
                () = sleep(patience) => {}
            }
            // More than one may have changed.
            fresh |= self.sources.latest.has_changed().unwrap_or(false);
            anew |= self.records.has_changed().unwrap_or(false);
            let stated = self.step(&mut memory, fresh);
            let empties = memory.is_stored && memory.state.leases.is_empty();
            let late = memory.stored_at.elapsed() >= STORE_EVERY && !memory.state.leases.is_empty();
            memory.is_due |= stated || late || empties;
            memory.is_news |= stated || anew;
            self.store(&mut memory);
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
            sight: Sight::new(&self.settings.proc_root, &self.settings.pod_logs),
            stored_at: Instant::now(),
            is_due: false,
            is_news: false,
            storing: None,
            stepped_at: BootMillis::now(),
            looks_for_start: 0,
        }
    }

    fn step(&mut self, memory: &mut Memory, fresh: bool) -> bool {
        let records = self.records.borrow_and_update();
        let kubelet = self.sources.kubelet.borrow_and_update().clone();
        let names = names(&memory.state, records.as_ref());
        let records_are_known = records.is_some();
        if names.is_empty() {
            memory.sight.close();
            let nobody = records_are_known.then(Tenants::default);
            say(&self.tenants, nobody);
            memory.looks_for_start = 0;
            return false;
        }
        let assignments = kubelet.assignments.as_deref().map(Vec::as_slice);
        let now = BootMillis::now();
        let since_last = now.since(std::mem::replace(&mut memory.stepped_at, now));
        let pods = match memory.sight.look(&memory.state, &names, assignments) {
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
        memory.looks_for_start = if pods.starts {
            memory.looks_for_start.saturating_add(1)
        } else {
            0
        };
        self.scanning.success();
        self.trouble
            .send_if_modified(|trouble| trouble.set(|t| &mut t.processes, None));
        let tenants = records_are_known.then(|| tenants(&memory.state, &names, &pods.uids));
        say(&self.tenants, tenants);
        let observation = self.sources.latest.borrow_and_update().clone();
        let slots = observation
            .as_ref()
            .map(|seen| seen.slots.as_slice())
            .unwrap_or_default();
        let gpus: Vec<&DeviceFacts> = slots.iter().filter_map(facts).collect();
        let given = given(assignments.unwrap_or_default(), &gpus, &kubelet);
        let readings = if fresh {
            let holders = assignments.map(|_| holders(&given, &pods.uids));
            memory.sight.readings(slots, now, holders.as_ref())
        } else {
            Vec::new()
        };
        let key = match &*self.sources.key.borrow_and_update() {
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
        watch_allocation(&memory.state, since_last, &self.overallocated);
        if memory.state.leases.values().any(Lease::lacks_devices) {
            self.sources.ask_kubelet.notify_one();
        }
        stated
    }

    /// Begins to make durable what is known, if that is due and the disk is free. The disk may take its time: meanwhile it is looked
    /// on, since a process that nobody saw is in no evidence. What was stated is handed out when it is durable.
    fn store(&mut self, memory: &mut Memory) {
        if memory.storing.is_some() {
            return;
        }
        let holds_leases = !memory.state.leases.is_empty();
        if !std::mem::take(&mut memory.is_due) || !(memory.is_stored || holds_leases) {
            // All that was stated is durable.
            if std::mem::take(&mut memory.is_news) {
                self.want(&stated(&memory.state));
            }
            return;
        }
        memory.stored_at = Instant::now();
        let stated = std::mem::take(&mut memory.is_news).then(|| stated(&memory.state));
        match spool::encode(&memory.boot_id, &memory.state) {
            Ok(content) => {
                let directory = self.settings.state_dir.clone();
                memory.storing = Some(Storing {
                    writing: spawn_blocking(move || spool::store(&directory, &content)),
                    holds_leases,
                    stated,
                });
            }
            Err(error) => {
                self.note_spooling(Err(error));
                if let Some(stated) = stated {
                    self.want(&stated);
                }
            }
        }
    }

    /// The disk has done what it was asked, or has not: without it metering goes on, and says so.
    fn stored(&mut self, memory: &mut Memory, written: Result<Result<(), kept::Error>, JoinError>) {
        let Some(storing) = memory.storing.take() else {
            return;
        };
        // Otherwise the runtime ends.
        if let Ok(written) = written {
            if written.is_ok() {
                memory.is_stored = storing.holds_leases;
            }
            self.note_spooling(written);
            if let Some(stated) = storing.stated {
                self.want(&stated);
            }
        }
    }

    /// Makes durable what is known at the end.
    async fn store_last(&mut self, memory: &mut Memory) {
        memory.is_due = true;
        while memory.is_due || memory.storing.is_some() {
            self.store(memory);
            if memory.storing.is_some() {
                let written = written(&mut memory.storing).await;
                self.stored(memory, written);
            }
        }
    }

    fn note_spooling(&mut self, outcome: Result<(), kept::Error>) {
        let said = match outcome {
            Ok(()) => {
                self.spooling.success();
                None
            }
            Err(error) => {
                self.spooling.failure(&error);
                Some(chain(&error))
            }
        };
        self.trouble
            .send_if_modified(|trouble| trouble.set(|t| &mut t.spool, said));
    }

    /// Hands out what was stated.
    fn want(&self, stated: &Stated) {
        let records = self.records.borrow();
        let published = |record: &str, evidence: &Evidence| {
            let known = records
                .as_ref()
                .and_then(|all| all.get(record)?.published.as_deref());
            known == Some(evidence)
        };
        let metered = stated
            .iter()
            .map(|(record, evidence)| (record.as_str(), Arc::clone(evidence)));
        let remembered = records
            .iter()
            .flatten()
            .filter_map(|(name, record)| Some((name.as_str(), record.remembered.clone()?)));
        let wanted: BTreeMap<String, Wanted> = metered
            .chain(remembered)
            .map(|(record, evidence)| {
                let wanted = Wanted {
                    is_published: published(record, &evidence),
                    evidence,
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
        say(&self.heads, heads);
    }
}

/// The evidence of all leases.
fn stated(state: &State) -> Stated {
    let evidence = state.leases.values().filter_map(|lease| lease.evidence());
    let owned = evidence.map(|(record, evidence)| (record.to_owned(), Arc::new(evidence)));
    owned.collect()
}

/// Notes that for `millis` more than one whole of a GPU was held. The metric must stay 0, also where it has a series.
fn watch_allocation(state: &State, millis: u64, seconds: &CounterVec) {
    let held = || state.leases.values().flat_map(Lease::holds);
    for part in held() {
        seconds.with_label_values(&[part.gpu()]);
    }
    for gpu in overallocated(held()) {
        let more = Duration::from_millis(millis).as_secs_f64();
        seconds.with_label_values(&[gpu]).inc_by(more);
        tracing::error!(gpu, "leases hold more than one whole of a GPU");
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
