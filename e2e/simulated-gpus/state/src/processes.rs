//! `processes.json`: who runs on which device, and the energy used so far.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::FORMAT;

/// The running processes and the energy ledgers of a node's devices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Processes {
    /// [`FORMAT`].
    pub format: u32,
    /// `/proc/sys/kernel/random/boot_id` when it was written: times since another boot mean nothing.
    #[serde(default)]
    pub boot_id: String,
    /// One entry per process and device.
    #[serde(default)]
    pub processes: Vec<Process>,
    /// By the device's UUID.
    #[serde(default)]
    pub energy: BTreeMap<String, EnergyLedger>,
}

impl Default for Processes {
    fn default() -> Self {
        Self {
            format: FORMAT,
            boot_id: String::new(),
            processes: Vec::new(),
            energy: BTreeMap::new(),
        }
    }
}

impl Processes {
    /// The processes on a device, in the file's order.
    pub fn on<'a>(&'a self, uuid: &'a str) -> impl Iterator<Item = &'a Process> {
        self.processes
            .iter()
            .filter(move |process| process.device == uuid)
    }
}

/// A process that uses a device.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Process {
    /// The device's UUID.
    pub device: String,
    /// Process id in the host's PID namespace, as NVML reports it.
    pub pid: u32,
    /// `/proc/PID/stat` field 22: clock ticks between boot and the process's start. With `pid`, names one process.
    #[serde(default)]
    pub start_ticks: u64,
    /// Device memory that it holds, in MiB.
    #[serde(default)]
    pub used_memory_mib: u64,
    /// Which of NVML's lists it is in.
    #[serde(default)]
    pub kind: ProcessKind,
    /// GPU instance under MIG.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu_instance: Option<u32>,
    /// Compute instance under MIG.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compute_instance: Option<u32>,
    /// `namespace/pod/container` that the kubelet gave the device to; for people who read the file.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub container: String,
    /// UID of the pod by the process's cgroup, where that says so; for people who read the file.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub pod_uid: String,
}

/// Which of NVML's three lists a process is in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProcessKind {
    /// `nvmlDeviceGetComputeRunningProcesses`.
    #[default]
    Compute,
    /// `nvmlDeviceGetGraphicsRunningProcesses`.
    Graphics,
    /// `nvmlDeviceGetMPSComputeRunningProcesses`.
    Mps,
}

/// The energy that a device has used: a sum up to some moment, and the power since then.
///
/// The counter is a function of the ledger and `CLOCK_BOOTTIME` only, so all processes that load the double see the
/// same value. It never falls: a writer closes the current stretch at `now` ([`EnergyLedger::draw`]) while it holds
/// the lock exclusively, and a reader takes its `now` while it holds the lock shared. So every reading of the old
/// ledger was taken before that `now` and is at most the new sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EnergyLedger {
    /// Used until `since_nanoseconds`.
    pub millijoules: u64,
    /// `CLOCK_BOOTTIME` from which `milliwatts` counts.
    pub since_nanoseconds: u64,
    /// Drawn since then.
    pub milliwatts: u32,
}

impl EnergyLedger {
    /// A device that has been idle since the machine's boot.
    #[must_use]
    pub const fn idle_since_boot(milliwatts: u32) -> Self {
        Self {
            millijoules: 0,
            since_nanoseconds: 0,
            milliwatts,
        }
    }

    /// The sum at a moment, in millijoules. A moment before the stretch began counts as its begin.
    #[must_use]
    pub fn millijoules_at(&self, boottime_nanoseconds: u64) -> u64 {
        let elapsed = boottime_nanoseconds.saturating_sub(self.since_nanoseconds);
        let drawn = u128::from(elapsed) * u128::from(self.milliwatts) / 1_000_000_000;
        self.millijoules
            .saturating_add(u64::try_from(drawn).unwrap_or(u64::MAX))
    }

    /// From `boottime_nanoseconds` on the device draws `milliwatts`. Nothing changes where it already does, so
    /// that an unchanged node writes no file.
    #[must_use]
    pub fn draw(self, milliwatts: u32, boottime_nanoseconds: u64) -> Self {
        if milliwatts == self.milliwatts {
            return self;
        }
        Self {
            millijoules: self.millijoules_at(boottime_nanoseconds),
            since_nanoseconds: boottime_nanoseconds.max(self.since_nanoseconds),
            milliwatts,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn energy_is_power_times_time() {
        let ledger = EnergyLedger::idle_since_boot(70_000).draw(600_000, 10 * SECOND);
        assert_eq!(ledger.millijoules_at(10 * SECOND), 700_000);
        assert_eq!(ledger.millijoules_at(12 * SECOND), 1_900_000);
    }

    #[test]
    fn an_unchanged_power_leaves_the_ledger_alone() {
        let ledger = EnergyLedger::idle_since_boot(70_000);
        assert_eq!(ledger.draw(70_000, 99 * SECOND), ledger);
    }

    proptest! {
        #[test]
        fn the_counter_never_falls_whatever_starts_and_stops(
            steps in prop::collection::vec((0_u64..3_600 * SECOND, 0_u32..1_000_000, any::<bool>()), 1..60)
        ) {
            let (mut ledger, mut now, mut last) = (EnergyLedger::idle_since_boot(50_000), 0, 0);
            for (elapsed, milliwatts, writes) in steps {
                now += elapsed;
                if writes {
                    ledger = ledger.draw(milliwatts, now);
                }
                let reading = ledger.millijoules_at(now);
                prop_assert!(reading >= last, "{reading} < {last}");
                last = reading;
            }
        }

        #[test]
        fn a_reading_does_not_depend_on_how_often_the_ledger_was_written(
            split in 0_u64..1_000, total in 1_000_u64..100_000, milliwatts in 0_u32..1_000_000
        ) {
            // Whole seconds: each change of power drops at most a fraction of a millijoule.
            let at_once = EnergyLedger::idle_since_boot(milliwatts).millijoules_at(total * SECOND);
            let in_two = EnergyLedger::idle_since_boot(milliwatts)
                .draw(milliwatts + 1, split * SECOND)
                .draw(milliwatts, split * SECOND)
                .millijoules_at(total * SECOND);
            prop_assert_eq!(at_once, in_two);
        }
    }
}
