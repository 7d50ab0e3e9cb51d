//! `state.json`: the node's devices, its driver, and the faults that were set.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{EnergyLedger, FORMAT, Model, ReturnCode};

/// All that is simulated on one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct State {
    /// [`FORMAT`].
    pub format: u32,
    /// Name of the node; the devices' UUIDs follow from it.
    pub node: String,
    /// The driver.
    pub driver: Driver,
    /// The driver that the configuration asked for; `driver` may differ by command.
    pub configured_driver: DriverKind,
    /// Faults of calls on any device and of calls that take no device, by the symbol's name; `*` is every call.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub calls: BTreeMap<String, CallFault>,
    /// The devices in the order of their NVML indices.
    pub devices: Vec<Device>,
    /// Xid errors, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub xids: Vec<XidEvent>,
}

/// The driver that the node has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Driver {
    /// Which of the doubles fits it.
    pub kind: DriverKind,
    /// `nvmlSystemGetDriverVersion`.
    pub version: String,
    /// `nvmlSystemGetNVMLVersion`.
    pub nvml_version: String,
    /// `nvmlSystemGetCudaDriverVersion`: 1000 × major + 10 × minor.
    pub cuda_version: i32,
}

/// Which driver a node has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DriverKind {
    /// One that has every call.
    Current,
    /// One from before `nvmlDeviceGetMemoryInfo_v2` and the `_v3` process lists.
    Old,
    /// The library is there but the kernel's part is not loaded.
    Unloaded,
    /// Neither is there.
    Absent,
}

impl Driver {
    /// The driver of a kind, with the versions that it reports.
    #[must_use]
    pub fn of(kind: DriverKind) -> Self {
        let (version, nvml_version, cuda_version) = match kind {
            DriverKind::Old => ("450.248.02", "11.450.248.02", 11_000),
            _ => ("580.95.05", "13.580.95.05", 13_000),
        };
        Self {
            kind,
            version: version.into(),
            nvml_version: nvml_version.into(),
            cuda_version,
        }
    }
}

/// One GPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Device {
    /// `GPU-<uuid>`, stable for a node and an index.
    pub uuid: String,
    /// Serial number of the board.
    pub serial: String,
    /// Number of the device file `/dev/nvidia<minor>`.
    pub minor: u32,
    /// Where the device is on the PCI bus.
    pub pci: Pci,
    /// The NUMA node that the device hangs on.
    pub numa_node: u32,
    /// What it is.
    pub model: Model,
    /// Load that a device shows while at least one process runs on it.
    #[serde(default)]
    pub busy: Utilization,
    /// Whether accounting is on.
    #[serde(default)]
    pub accounting: bool,
    /// MIG: absent where it is off, otherwise the devices by MIG index; `null` is an index without a device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mig: Option<Vec<Option<MigInstance>>>,
    /// What the energy ledger stood at when the counter was last reset, in millijoules.
    #[serde(default)]
    pub energy_zero_millijoules: u64,
    /// What is wrong with it.
    #[serde(default)]
    pub faults: DeviceFaults,
}

/// A place on the PCI bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Pci {
    /// Domain.
    pub domain: u32,
    /// Bus.
    pub bus: u32,
    /// Device on the bus.
    pub device: u32,
}

/// Load in percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Utilization {
    /// Of the time in which a kernel ran.
    pub gpu_percent: u32,
    /// Of the time in which memory was read or written.
    pub memory_percent: u32,
}

impl Default for Utilization {
    fn default() -> Self {
        Self {
            gpu_percent: 97,
            memory_percent: 41,
        }
    }
}

/// One MIG device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MigInstance {
    /// `MIG-<uuid>`.
    pub uuid: String,
    /// GPU instance id.
    pub gpu_instance: u32,
    /// Compute instance id.
    pub compute_instance: u32,
    /// Compute slices (of seven).
    pub slices: u32,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
}

/// A fault of one call.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CallFault {
    /// What the call answers instead of doing its work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ReturnCode>,
    /// How long the call takes, in milliseconds.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub delay_milliseconds: u64,
}

/// What is wrong with a device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fault by itself, and any of them may be set together"
)]
pub struct DeviceFaults {
    /// It has fallen off the bus: every call on it answers `GPU_IS_LOST`.
    #[serde(skip_serializing_if = "is_false")]
    pub lost: bool,
    /// Faults of calls on this device, by the symbol's name; `*` is every call.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub calls: BTreeMap<String, CallFault>,
    /// ECC errors that were corrected.
    #[serde(skip_serializing_if = "is_zero")]
    pub ecc_corrected: u64,
    /// ECC errors that were not.
    #[serde(skip_serializing_if = "is_zero")]
    pub ecc_uncorrected: u64,
    /// Memory rows that were remapped after uncorrectable errors.
    #[serde(skip_serializing_if = "is_zero")]
    pub remapped_rows: u64,
    /// A row (or page) waits for a reset to be remapped (or retired).
    #[serde(skip_serializing_if = "is_false")]
    pub remap_pending: bool,
    /// A row could not be remapped.
    #[serde(skip_serializing_if = "is_false")]
    pub remap_failed: bool,
    /// `nvmlClocksEventReason*` bits on top of idle and none.
    #[serde(skip_serializing_if = "is_zero")]
    pub clock_event_reasons: u64,
    /// Core temperature in degrees Celsius instead of the model's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature_celsius: Option<u32>,
    /// How fast it computes and copies, in percent of what its model does. Absent: 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub speed_percent: Option<u32>,
    /// What it computes is wrong, and nothing says so.
    #[serde(skip_serializing_if = "is_false")]
    pub wrong_results: bool,
}

/// An Xid error that the driver reported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct XidEvent {
    /// Rises by one with each event of the node, from 1: a reader has seen all up to some number.
    pub sequence: u64,
    /// The device.
    pub uuid: String,
    /// The Xid.
    pub xid: u64,
    /// GPU instance, where one MIG device was hit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu_instance: Option<u32>,
    /// Compute instance, where one MIG device was hit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compute_instance: Option<u32>,
}

/// Most Xid events that are kept; older ones leave.
const XIDS_KEPT: usize = 256;

impl State {
    /// A healthy node.
    #[must_use]
    pub fn new(node: impl Into<String>, driver: DriverKind, devices: Vec<Device>) -> Self {
        Self {
            format: FORMAT,
            node: node.into(),
            driver: Driver::of(driver),
            configured_driver: driver,
            calls: BTreeMap::new(),
            devices,
            xids: Vec::new(),
        }
    }

    /// Adds an Xid event of a device.
    pub fn report_xid(&mut self, uuid: &str, xid: u64) {
        let sequence = self.xids.last().map_or(1, |last| last.sequence + 1);
        self.xids.push(XidEvent {
            sequence,
            uuid: uuid.into(),
            xid,
            gpu_instance: None,
            compute_instance: None,
        });
        let superfluous = self.xids.len().saturating_sub(XIDS_KEPT);
        self.xids.drain(..superfluous);
    }

    /// Whether everything that the double relies on holds: the format's version and distinct UUIDs.
    ///
    /// # Errors
    /// Says what does not hold.
    pub fn check(&self) -> Result<(), String> {
        if self.format != FORMAT {
            return Err(format!(
                "format is {}; this build reads {FORMAT}",
                self.format
            ));
        }
        for (index, device) in self.devices.iter().enumerate() {
            if self.devices[..index]
                .iter()
                .any(|other| other.uuid == device.uuid)
            {
                return Err(format!(
                    "devices[{index}].uuid {} is there twice",
                    device.uuid
                ));
            }
        }
        Ok(())
    }
}

impl Device {
    /// Power drawn with or without a process, in milliwatts.
    #[must_use]
    pub fn milliwatts(&self, busy: bool) -> u32 {
        if busy {
            self.model.power.busy_milliwatts
        } else {
            self.model.power.idle_milliwatts
        }
    }

    /// The energy counter in millijoules, given the device's ledger (or none, where nothing was recorded yet) and
    /// the time since the machine's boot.
    #[must_use]
    pub fn energy_millijoules(
        &self,
        ledger: Option<&EnergyLedger>,
        boottime_nanoseconds: u64,
    ) -> u64 {
        ledger
            .copied()
            .unwrap_or_else(|| EnergyLedger::idle_since_boot(self.milliwatts(false)))
            .millijoules_at(boottime_nanoseconds)
            .saturating_sub(self.energy_zero_millijoules)
    }
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde calls it with a reference"
)]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde calls it with a reference"
)]
fn is_false(flag: &bool) -> bool {
    !*flag
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xid_sequences_rise_even_when_old_events_leave() {
        let mut state = State::new("node-a", DriverKind::Current, Vec::new());
        for xid in 0..(XIDS_KEPT as u64 + 10) {
            state.report_xid("GPU-1", xid);
        }
        assert_eq!(state.xids.len(), XIDS_KEPT);
        assert!(
            state
                .xids
                .windows(2)
                .all(|pair| pair[1].sequence == pair[0].sequence + 1)
        );
        assert_eq!(
            state.xids.last().map(|event| event.sequence),
            Some(XIDS_KEPT as u64 + 10)
        );
    }

    #[test]
    fn a_misspelt_field_is_refused() {
        let text = r#"{"format":1,"node":"n","driver":{"kind":"current","version":"1","nvmlVersion":"1","cudaVersion":1},"configuredDriver":"current","devices":[],"xidz":[]}"#;
        let error = serde_json::from_str::<State>(text).unwrap_err().to_string();
        assert!(error.contains("xidz"), "{error}");
    }

    #[test]
    fn another_format_is_refused() {
        let mut state = State::new("n", DriverKind::Current, Vec::new());
        state.format = 2;
        assert!(state.check().is_err());
    }
}
