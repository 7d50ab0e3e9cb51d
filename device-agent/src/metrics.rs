//! What `/metrics` shows.
//!
//! The series of devices are made from the latest [`View`] when they are asked for. So nothing is updated from second to
//! second, a device or pod that is gone has no series, and a value that NVML does not tell has none either.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use gridstake_crds::{
    closed_enum::ClosedEnum as _,
    gpu_node::{AgentState, DeviceHealth},
};
use prometheus::{
    CounterVec, Encoder as _, Gauge, GaugeVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry, TextEncoder,
    core::{Collector, Desc},
    proto::MetricFamily,
};

use crate::{
    attribution::{Attribution, Owner},
    health::Health,
    nvml::inventory::{Device, Inventory},
};

/// What the agent knows at this moment.
#[derive(Debug, Default)]
pub struct View {
    /// Whether NVML has shown anything yet, trouble included. Before that there is no state to tell.
    pub seen: bool,
    /// The devices and the agent's state.
    pub inventory: Inventory,
    /// What speaks against the devices.
    pub health: Health,
    /// Who holds and who uses them.
    pub attribution: Attribution,
}

/// All of the agent's metrics.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// What the devices' series are made from.
    pub view: Arc<Mutex<View>>,
    /// NVML calls that failed, by `call` and `error`.
    pub nvml_call_errors: IntCounterVec,
    /// Runs of the repeated tasks, by `task` and `outcome`.
    pub task_runs: IntCounterVec,
    /// Unix time of each `task`'s last success.
    pub task_last_success: GaugeVec,
    /// Unix time at which NVML last answered.
    pub nvml_last_answer: Gauge,
    /// Slices about which something is stated and that are not sealed.
    pub evidence_slices: IntGauge,
    /// Seconds in which more than one whole of a GPU was held, by the GPU's `uuid`.
    pub overallocated: CounterVec,
    /// Seals that are remembered.
    pub seals: IntGauge,
    /// Seals that were forgotten before their time, since there was no room for them.
    pub seals_dropped: IntCounter,
}

impl Metrics {
    /// Registers everything.
    ///
    /// # Errors
    /// When a name or label is not allowed: a fault of this program, found by the first test that calls it.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let view = Arc::new(Mutex::new(View::default()));
        let nvml_call_errors = IntCounterVec::new(
            Opts::new(
                "gridstake_agent_nvml_call_errors_total",
                "NVML calls that failed, by the call's name and NVML's error",
            ),
            &["call", "error"],
        )?;
        let task_runs = IntCounterVec::new(
            Opts::new(
                "gridstake_agent_task_runs_total",
                "Runs of the agent's repeated tasks: pod_resources, publish, heartbeat, records, processes, spool, evidence, seals, faults",
            ),
            &["task", "outcome"],
        )?;
        let task_last_success = GaugeVec::new(
            Opts::new(
                "gridstake_agent_task_last_success_timestamp_seconds",
                "Unix time of the task's last success; 0 before the first",
            ),
            &["task"],
        )?;
        let nvml_last_answer = Gauge::new(
            "gridstake_agent_nvml_last_answer_timestamp_seconds",
            "Unix time at which NVML last answered a whole sample; 0 before the first",
        )?;
        let evidence_slices = IntGauge::new(
            "gridstake_agent_evidence_slices",
            "Slices that are not sealed and about which the agent states what it saw",
        )?;
        let overallocated = CounterVec::new(
            Opts::new(
                "gridstake_agent_overallocated_seconds_total",
                "Seconds in which leases held more than one whole of a GPU at the same time; must stay 0",
            ),
            &["uuid"],
        )?;
        let seals = IntGauge::new(
            "gridstake_agent_seals",
            "Seals of the node's UsageRecords that the agent remembers, should the API server lose them",
        )?;
        let seals_dropped = IntCounter::new(
            "gridstake_agent_seals_dropped_total",
            "Seals that were forgotten before their 30 days were over, since there was no room for them",
        )?;
        let build_info = IntGaugeVec::new(
            Opts::new(
                "gridstake_agent_build_info",
                "Always 1; the label is the version",
            ),
            &["version"],
        )?;
        build_info
            .with_label_values(&[env!("CARGO_PKG_VERSION")])
            .set(1);
        registry.register(Box::new(nvml_call_errors.clone()))?;
        registry.register(Box::new(task_runs.clone()))?;
        registry.register(Box::new(task_last_success.clone()))?;
        registry.register(Box::new(nvml_last_answer.clone()))?;
        registry.register(Box::new(evidence_slices.clone()))?;
        registry.register(Box::new(overallocated.clone()))?;
        registry.register(Box::new(seals.clone()))?;
        registry.register(Box::new(seals_dropped.clone()))?;
        registry.register(Box::new(build_info))?;
        registry.register(Box::new(DeviceCollector::new(Arc::clone(&view))?))?;
        Ok(Self {
            registry,
            view,
            nvml_call_errors,
            task_runs,
            task_last_success,
            nvml_last_answer,
            evidence_slices,
            overallocated,
            seals,
            seals_dropped,
        })
    }

    /// Everything in Prometheus' text format.
    ///
    /// # Errors
    /// When the text cannot be written.
    pub fn render(&self) -> prometheus::Result<Vec<u8>> {
        let mut text = Vec::with_capacity(16 << 10);
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}

/// The time now as Prometheus wants it.
#[must_use]
pub fn unix_seconds() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}

/// Makes the devices' series from the view.
struct DeviceCollector {
    view: Arc<Mutex<View>>,
    series: Mutex<Series>,
    descriptions: Vec<Desc>,
}

/// Every series that depends on devices, pods or the agent's state.
struct Series {
    state: GaugeVec,
    allocated: GaugeVec,
    utilization: GaugeVec,
    memory_used: GaugeVec,
    memory_total: GaugeVec,
    energy: CounterVec,
    power: GaugeVec,
    temperature: GaugeVec,
    health: GaugeVec,
    processes: GaugeVec,
    pod_memory: GaugeVec,
}

const DEVICE: [&str; 3] = ["uuid", "index", "model"];

impl Series {
    fn new() -> prometheus::Result<Self> {
        let gauge = |name: &str, help: &str, more: &[&str]| {
            GaugeVec::new(Opts::new(name, help), &[&DEVICE, more].concat())
        };
        Ok(Self {
            state: GaugeVec::new(
                Opts::new(
                    "gridstake_agent_state",
                    "1 for the state in which the agent is, 0 for the others; all 0 before the first look at NVML",
                ),
                &["state"],
            )?,
            allocated: gauge(
                "gridstake_gpu_allocated",
                "1 for each container that was given the GPU or a part of it",
                &["namespace", "pod", "container"],
            )?,
            utilization: gauge(
                "gridstake_gpu_utilization_ratio",
                "Share of the last sampling period in which a kernel was running",
                &[],
            )?,
            memory_used: gauge(
                "gridstake_gpu_memory_used_bytes",
                "Allocated memory of the GPU",
                &[],
            )?,
            memory_total: gauge("gridstake_gpu_memory_total_bytes", "Memory of the GPU", &[])?,
            energy: CounterVec::new(
                Opts::new(
                    "gridstake_gpu_energy_joules_total",
                    "Energy that the board used since the driver was loaded",
                ),
                &DEVICE,
            )?,
            power: gauge("gridstake_gpu_power_watts", "Power draw of the board", &[])?,
            temperature: gauge(
                "gridstake_gpu_temperature_celsius",
                "Temperature of the GPU's die",
                &[],
            )?,
            health: gauge(
                "gridstake_gpu_health",
                "1 for the GPU's health, 0 for the others",
                &["health"],
            )?,
            processes: gauge(
                "gridstake_gpu_processes",
                "Processes on the GPU; foreign ones belong to nobody who was given it",
                &["owner"],
            )?,
            pod_memory: gauge(
                "gridstake_gpu_pod_memory_used_bytes",
                "Memory of the GPU that the processes of a pod hold",
                &["pod_uid"],
            )?,
        })
    }

    fn gauges(&self) -> [&GaugeVec; 10] {
        [
            &self.state,
            &self.allocated,
            &self.utilization,
            &self.memory_used,
            &self.memory_total,
            &self.power,
            &self.temperature,
            &self.health,
            &self.processes,
            &self.pod_memory,
        ]
    }

    fn fill(&self, view: &View) {
        self.gauges().into_iter().for_each(GaugeVec::reset);
        self.energy.reset();
        let now = view.seen.then(|| view.inventory.state());
        for state in AgentState::ALL {
            let value = f64::from(u8::from(Some(*state) == now));
            self.state.with_label_values(&[state.as_str()]).set(value);
        }
        for device in view.inventory.devices() {
            self.fill_device(device, view.health.verdict(device).health);
            self.fill_use(device, &view.attribution);
        }
    }

    fn fill_device(&self, device: &Device, judged: DeviceHealth) {
        let facts = &device.facts;
        let index = facts.index.to_string();
        let labels = [facts.uuid.as_str(), &index, &facts.model];
        let sample = &device.sample;
        let set = |series: &GaugeVec, value: Option<f64>| {
            if let Some(value) = value {
                series.with_label_values(&labels).set(value);
            }
        };
        set(&self.memory_total, Some(as_f64(facts.memory_bytes)));
        set(&self.memory_used, sample.memory_used_bytes.map(as_f64));
        set(
            &self.utilization,
            sample.utilization_percent.map(|p| f64::from(p) / 100.0),
        );
        set(
            &self.power,
            sample.power_milliwatts.map(|mw| f64::from(mw) / 1000.0),
        );
        set(&self.temperature, sample.temperature_celsius.map(f64::from));
        if let Some(energy) = sample.energy_millijoules {
            self.energy
                .with_label_values(&labels)
                .inc_by(as_f64(energy) / 1000.0);
        }
        for health in DeviceHealth::ALL {
            let value = f64::from(u8::from(*health == judged));
            self.health
                .with_label_values(&[labels[0], labels[1], labels[2], health.as_str()])
                .set(value);
        }
    }

    fn fill_use(&self, device: &Device, attribution: &Attribution) {
        let facts = &device.facts;
        let index = facts.index.to_string();
        let [uuid, index, model] = [facts.uuid.as_str(), &index, &facts.model];
        let Some(used) = attribution.get(uuid) else {
            return;
        };
        for holder in &used.holders {
            let of = [
                uuid,
                index,
                model,
                &holder.namespace,
                &holder.pod,
                &holder.container,
            ];
            self.allocated.with_label_values(&of).set(1.0);
        }
        if device.sample.processes.is_none() {
            return;
        }
        for owner in Owner::ALL {
            let of = [uuid, index, model, owner.as_str()];
            let count = used.users.iter().filter(|user| user.owner == owner).count();
            self.processes
                .with_label_values(&of)
                .set(as_f64(count as u64));
        }
        let mut by_pod: BTreeMap<&str, u64> = BTreeMap::new();
        for user in &used.users {
            if let (Some(pod), Some(bytes)) = (&user.pod_uid, user.memory_bytes) {
                let sum = by_pod.entry(pod).or_default();
                *sum = sum.saturating_add(bytes);
            }
        }
        for (pod, bytes) in by_pod {
            self.pod_memory
                .with_label_values(&[uuid, index, model, pod])
                .set(as_f64(bytes));
        }
    }
}

impl DeviceCollector {
    fn new(view: Arc<Mutex<View>>) -> prometheus::Result<Self> {
        let series = Series::new()?;
        let mut descriptions: Vec<Desc> = series
            .gauges()
            .into_iter()
            .flat_map(Collector::desc)
            .cloned()
            .collect();
        descriptions.extend(series.energy.desc().into_iter().cloned());
        Ok(Self {
            view,
            series: Mutex::new(series),
            descriptions,
        })
    }
}

impl Collector for DeviceCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        series.fill(&self.view.lock().unwrap_or_else(PoisonError::into_inner));
        let mut families: Vec<MetricFamily> = series
            .gauges()
            .into_iter()
            .flat_map(Collector::collect)
            .collect();
        families.extend(series.energy.collect());
        families
    }
}

/// Prometheus knows floats only; bytes and millijoules are exact up to 2^53.
#[allow(clippy::cast_precision_loss, reason = "Prometheus knows floats only")]
fn as_f64(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests;
