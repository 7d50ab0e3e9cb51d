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
    holders::KubeletAnswer,
    metering::trouble::Trouble,
    metrics::{Metrics, View, unix_seconds},
    nvml::{Observation, call::Calls},
    process::ProcessTable,
    report,
    signing_key::KeyState,
};

/// How often it is asked whether an NVML call hangs.
const WATCHDOG_EVERY: Duration = Duration::from_secs(1);

/// How long the first report waits for the kubelet, which tells how GPUs are divided. After that it goes out without.
const WAIT_FOR_KUBELET: Duration = Duration::from_secs(5);

/// Where the observer gets its material from, and where it puts what it made.
pub struct Observer {
    /// What NVML showed last.
    pub latest: watch::Receiver<Option<Arc<Observation>>>,
    /// Which NVML call is under way.
    pub calls: Arc<Calls>,
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
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                changed = self.latest.changed() => {
                    changed.map_err(|_| NvmlThreadEnded)?;
                    self.take_observation();
                }
                // Nobody asks the kubelet when its socket's path is of no use; then nothing changes.
                Ok(()) = self.kubelet.changed() => {}
                Ok(()) = self.key.changed() => {}
                Ok(()) = self.metering.changed() => {}
                published = recv(&mut before) => {
                    if let Some(published) = published {
                        self.view().inventory.recall(published.iter().map(report::facts));
                    }
                    continue;
                }
                _ = watchdog.tick() => if let Some(call) = self.calls.stuck(Instant::now()) {
                    let mut view = self.view();
                    view.inventory.stuck(call);
                    view.seen = true;
                },
            }
            self.attribute(&mut pids);
            // Before NVML has shown anything there is nothing to tell, not even that there are no GPUs.
            if !self.view().seen {
                continue;
            }
            self.say(&mut said);
            if self.kubelet.borrow().assignments.is_some() || started.elapsed() > WAIT_FOR_KUBELET {
                self.report();
            }
        }
    }

    fn view(&self) -> MutexGuard<'_, View> {
        self.metrics
            .view
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn take_observation(&mut self) {
        let latest = self.latest.borrow_and_update().clone();
        if let Some(observation) = latest {
            if observation.trouble.is_none() {
                self.metrics.nvml_last_answer.set(unix_seconds());
            }
            let mut view = self.view();
            view.inventory.observe(&observation);
            view.seen = true;
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
        let status = report::report(
            &self.view().inventory,
            &self.kubelet.borrow().replicas,
            &key,
            &metering,
            env!("CARGO_PKG_VERSION"),
        );
        self.wanted.send_if_modified(|wanted| {
            let new = wanted.as_ref() != Some(&status);
            if new {
                *wanted = Some(status);
            }
            new
        });
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
