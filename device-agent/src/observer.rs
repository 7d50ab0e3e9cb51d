//! Brings together what NVML, the kubelet and procfs say, and hands it to the metrics and to the publisher.

use std::{
    sync::{Arc, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use gridstake_crds::{
    GpuNodeStatus,
    gpu_node::{AgentState, Device},
};
use tokio::sync::{Notify, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    attribution::attribute,
    clock::{Anchor, BootMillis},
    health::{State, keep::STORE_EVERY},
    holders::KubeletAnswer,
    local_use::{LocalUse, Tenants, Told, sights},
    metering::trouble::Trouble,
    metrics::{Metrics, View, unix_seconds},
    nvml::{
        Observation,
        call::Calls,
        events::{Hearing, Listening},
    },
    process::ProcessTable,
    report,
    signing_key::KeyState,
    telling::{Reporting, say},
};

/// How often it is asked whether an NVML call hangs.
const WATCHDOG_EVERY: Duration = Duration::from_secs(1);

/// How long the first report waits for the kubelet, which tells how GPUs are divided. After that it goes out without.
const WAIT_FOR_KUBELET: Duration = Duration::from_secs(5);

/// How long a heartbeat's question waits for one more look at the GPUs. A node whose GPUs are silent still has a heartbeat.
const LOOK_WITHIN_MS: u64 = 2000;

/// Where the observer gets its material from, and where it puts what it made.
pub struct Observer {
    /// What NVML showed last.
    pub latest: watch::Receiver<Option<Arc<Observation>>>,
    /// Which NVML call is under way.
    pub calls: Arc<Calls>,
    /// What the driver told of by events.
    pub hearing: Arc<Hearing>,
    /// What the kubelet said last.
    pub kubelet: watch::Receiver<KubeletAnswer>,
    /// Told when processes came or went.
    pub processes_changed: Arc<Notify>,
    /// The node's processes.
    pub processes: ProcessTable,
    /// The agent's metrics; their view is the observer's memory.
    pub metrics: Arc<Metrics>,
    /// The agent's signing key.
    pub key: watch::Receiver<KeyState>,
    /// What hinders metering.
    pub metering: watch::Receiver<Trouble>,
    /// What should be published.
    pub wanted: watch::Sender<Option<GpuNodeStatus>>,
    /// What of the devices' faults should be kept.
    pub faults: watch::Sender<Arc<State>>,
    /// The pods of jobs on this node; `None` while the API server has not told them.
    pub tenants: watch::Receiver<Option<Tenants>>,
    /// What the heartbeat should tell of use by others.
    pub local_use: watch::Sender<Option<Told>>,
    /// The heartbeat's questions.
    pub reporting: Reporting,
}

/// What the observer remembers from turn to turn.
struct Turn {
    /// How far events were heard.
    listening: Listening,
    /// When the last pass over NVML began.
    looked_at: BootMillis,
    /// The question that waits for a look, and since when.
    question: Option<(u64, BootMillis)>,
    /// When the faults were last handed on to be kept.
    kept_at: Instant,
    /// Whether there is a fault that was not there.
    is_news: bool,
    /// Whether NVML has shown something since use by others was looked at.
    is_fresh: bool,
    /// Use by others than jobs.
    local: LocalUse,
}

/// The NVML thread has ended although nobody asked it to: a fault of this program.
#[derive(Debug, thiserror::Error)]
#[error("the NVML thread has ended")]
pub struct NvmlThreadEnded;

impl Observer {
    /// Follows all sources until `stop`.
    ///
    /// # Errors
    /// When the NVML thread ends.
    pub async fn run(
        mut self,
        before: oneshot::Receiver<Vec<Device>>,
        stop: CancellationToken,
    ) -> Result<(), NvmlThreadEnded> {
        let started = Instant::now();
        let mut before = Some(before);
        let mut watchdog = tokio::time::interval(WATCHDOG_EVERY);
        let mut said = None;
        let mut pids = Vec::new();
        let mut turn = Turn {
            listening: Listening::Off,
            looked_at: BootMillis::default(),
            question: None,
            kept_at: Instant::now(),
            is_news: false,
            is_fresh: false,
            local: LocalUse::default(),
        };
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                changed = self.latest.changed() => {
                    changed.map_err(|_| NvmlThreadEnded)?;
                    self.take_observation(&mut turn);
                }
                () = self.hearing.changed() => {
                    let has_heard = self.take_events(&mut turn);
                    // Four times a second nothing was heard.
                    if !has_heard && turn.question.is_none() {
                        continue;
                    }
                }
                Ok(()) = self.reporting.asked.changed() => {
                    let question = *self.reporting.asked.borrow_and_update();
                    turn.question = Some((question, BootMillis::now()));
                }
                // Nobody asks the kubelet when its socket's path is of no use; then nothing changes.
                Ok(()) = self.kubelet.changed() => {}
                Ok(()) = self.key.changed() => {}
                Ok(()) = self.metering.changed() => {}
                published = recv(&mut before) => {
                    if let Some(published) = published {
                        let mut view = self.view();
                        view.inventory.recall(published.iter().map(report::facts));
                        view.health.recall(&published, BootMillis::now(), Anchor::now());
                    }
                    continue;
                }
                _ = watchdog.tick() => if let Some(call) = self.calls.stuck(Instant::now()) {
                    let mut view = self.view();
                    view.inventory.stuck(call);
                    view.seen = true;
                },
            }
            let answered = self.answered(&mut turn);
            self.settle(&mut turn, answered.is_some());
            self.attribute(&mut pids);
            self.watch_others(&mut turn);
            // Before NVML has shown anything there is nothing to tell, not even that there are no GPUs.
            if !self.view().seen {
                self.pass_on(answered);
                continue;
            }
            self.say(&mut said);
            if self.kubelet.borrow().assignments.is_some() || started.elapsed() > WAIT_FOR_KUBELET {
                self.report();
                self.pass_on(answered);
            } else if let Some(question) = answered {
                // It waits for the first report.
                turn.question = Some((question, BootMillis::default()));
            }
        }
    }

    fn view(&self) -> MutexGuard<'_, View> {
        self.metrics
            .view
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn take_observation(&mut self, turn: &mut Turn) {
        let latest = self.latest.borrow_and_update().clone();
        if let Some(observation) = latest {
            if observation.trouble.is_none() {
                self.metrics.nvml_last_answer.set(unix_seconds());
            }
            let mut view = self.view();
            let View {
                inventory, health, ..
            } = &mut *view;
            inventory.observe(&observation);
            turn.is_news |= health.observe(inventory.devices(), BootMillis::now(), Anchor::now());
            turn.looked_at = observation.began_at;
            turn.is_fresh = observation.trouble.is_none();
            view.seen = true;
        }
    }

    /// True if there was any.
    fn take_events(&self, turn: &mut Turn) -> bool {
        let (heard, listening) = self.hearing.take();
        turn.listening = listening;
        if !heard.is_empty() {
            for event in &heard {
                tracing::warn!(gpu = event.gpu, event = ?event.event, count = event.count, "the driver reports");
            }
            turn.is_news |= self.view().health.hear(&heard, Anchor::now());
        }
        !heard.is_empty()
    }

    /// The question that can be answered now: events and samples of after it was asked are here, or cannot be had.
    fn answered(&self, turn: &mut Turn) -> Option<u64> {
        let (question, since) = turn.question?;
        self.take_events(turn);
        let has_heard = match &turn.listening {
            Listening::Off | Listening::Deaf(_) => true,
            Listening::Opening => false,
            Listening::Until(until) => *until >= since,
        };
        let view = self.view();
        let has_looked = turn.looked_at >= since
            || !matches!(
                view.inventory.state(),
                AgentState::Ok | AgentState::CallFailing
            );
        let is_overdue = BootMillis::now().since(since) >= LOOK_WITHIN_MS;
        let can = !view.seen || is_overdue || (has_heard && has_looked);
        drop(view);
        can.then(|| {
            turn.question = None;
            question
        })
    }

    /// Brings what is told of faults up to now, and hands on what is to be kept.
    fn settle(&self, turn: &mut Turn, all: bool) {
        let mut view = self.view();
        view.health.settle(BootMillis::now(), all);
        let is_due = turn.kept_at.elapsed() >= STORE_EVERY;
        if !turn.is_news && !is_due {
            return;
        }
        turn.is_news = false;
        turn.kept_at = Instant::now();
        let state = view.health.state();
        drop(view);
        self.faults.send_if_modified(|kept| {
            let new = **kept != state;
            if new {
                *kept = Arc::new(state);
            }
            new
        });
    }

    fn pass_on(&self, answered: Option<u64>) {
        if let Some(question) = answered {
            self.reporting.reported.send_replace(question);
        }
    }

    /// Joins devices, holders and processes. `pids` remembers the processes of the last time.
    fn attribute(&mut self, pids: &mut Vec<u32>) {
        let mut view = self
            .metrics
            .view
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut now: Vec<u32> = view
            .inventory
            .devices()
            .filter_map(|device| device.sample.processes.as_ref())
            .flatten()
            .map(|process| process.pid)
            .collect();
        now.sort_unstable();
        now.dedup();
        if now != *pids {
            self.processes_changed.notify_one();
        }
        let processes = self.processes.look_up(now.iter().copied());
        let assignments = self.kubelet.borrow_and_update().assignments.clone();
        view.attribution = attribute(
            view.inventory.devices(),
            assignments.as_ref().map(|all| all.as_slice()),
            processes,
        );
        *pids = now;
    }

    /// Looks at use by others than jobs, once for each sample, and says what is to be told of it. While it is not known who
    /// holds the GPUs, nobody watches.
    fn watch_others(&self, turn: &mut Turn) {
        if !std::mem::take(&mut turn.is_fresh) || self.kubelet.borrow().assignments.is_none() {
            return;
        }
        if let Some(tenants) = &*self.tenants.borrow() {
            let view = self.view();
            let sights = sights(view.inventory.devices(), &view.attribution, tenants);
            drop(view);
            turn.local.observe(turn.looked_at, &sights);
        }
        let told = turn.local.told(Anchor::now());
        say(&self.local_use, told);
    }

    /// Logs the agent's state when it changes.
    fn say(&self, said: &mut Option<(AgentState, Option<String>)>) {
        let view = self.view();
        let now = (view.inventory.state(), view.inventory.message());
        if said.as_ref() == Some(&now) {
            return;
        }
        let devices = view.inventory.devices().count();
        let (state, detail) = (now.0.to_string(), now.1.as_deref().unwrap_or_default());
        match &now {
            (AgentState::Ok, None) => tracing::info!(state, devices, "NVML answers"),
            (AgentState::Ok, Some(_)) => {
                tracing::warn!(
                    state,
                    devices,
                    detail,
                    "NVML answers, and not for every GPU"
                );
            }
            _ => tracing::warn!(state, devices, detail, "the GPUs cannot be seen"),
        }
        *said = Some(now);
    }

    fn report(&mut self) {
        let key = self.key.borrow_and_update().clone();
        let metering = self.metering.borrow_and_update().clone();
        let view = self.view();
        let status = report::report(
            &view.inventory,
            &view.health,
            &self.kubelet.borrow().replicas,
            &key,
            &metering,
            self.hearing.trouble(Instant::now()),
            env!("CARGO_PKG_VERSION"),
        );
        drop(view);
        say(&self.wanted, Some(status));
    }
}

/// Waits for the one value, then for ever.
async fn recv<T>(receiver: &mut Option<oneshot::Receiver<T>>) -> Option<T> {
    match receiver.as_mut() {
        Some(waiting) => {
            let value = waiting.await.ok();
            *receiver = None;
            value
        }
        None => std::future::pending().await,
    }
}
