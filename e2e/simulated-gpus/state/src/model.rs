//! What a GPU of one model is like: everything about it that no fault and no load changes.

use serde::{Deserialize, Serialize};

/// A GPU model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Model {
    /// Short name, as configuration gives it (`h100`).
    pub key: String,
    /// Marketing name, as `nvmlDeviceGetName` answers it.
    pub name: String,
    /// `nvmlBrandType_t`.
    pub brand: u32,
    /// `NVML_DEVICE_ARCH_*`.
    pub architecture: u32,
    /// CUDA compute capability, major and minor.
    pub compute_capability: [i32; 2],
    /// Part number of the board.
    pub part_number: String,
    /// Number of CUDA cores.
    pub cores: u32,
    /// Width of the memory bus in bits.
    pub memory_bus_width: u32,
    /// Total memory in MiB.
    pub memory_mib: u64,
    /// Memory that driver and firmware keep for themselves, in MiB.
    pub reserved_memory_mib: u64,
    /// PCI device and vendor id, as `nvmlPciInfo_t.pciDeviceId` packs them (device in the high half).
    pub pci_device_id: u32,
    /// PCI subsystem id.
    pub pci_subsystem_id: u32,
    /// Board power.
    pub power: Power,
    /// Clocks when busy.
    pub clocks: Clocks,
    /// Core temperature.
    pub temperature: Temperature,
    /// Whether the memory has ECC.
    pub ecc: bool,
    /// Whether bad memory rows are remapped (Ampere and later) instead of retired as pages.
    pub row_remapping: bool,
    /// Most MIG devices that the model can be cut into; 0 where it knows no MIG.
    pub mig_devices: u32,
    /// NVLink, where the model has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nv_link: Option<NvLink>,
}

impl Model {
    /// What its data sheet says of single precision, in 10⁹ operations a second: two for each core and clock.
    #[must_use]
    pub fn fp32_gflops(&self) -> u64 {
        u64::from(self.cores) * 2 * u64::from(self.clocks.busy_mhz) / 1000
    }

    /// What its data sheet says of its memory, in 10⁹ bytes a second: two transfers a clock, over the whole bus.
    #[must_use]
    pub fn memory_gigabytes_per_second(&self) -> u64 {
        u64::from(self.memory_bus_width) / 8 * 2 * u64::from(self.clocks.memory_mhz) / 1000
    }
}

/// Board power in milliwatts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Power {
    /// Drawn without a process.
    pub idle_milliwatts: u32,
    /// Drawn while a process runs.
    pub busy_milliwatts: u32,
    /// Enforced limit.
    pub limit_milliwatts: u32,
}

/// Clocks in MHz.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Clocks {
    /// Graphics and SM clock without a process.
    pub idle_mhz: u32,
    /// Graphics and SM clock while a process runs; also the highest.
    pub busy_mhz: u32,
    /// Memory clock.
    pub memory_mhz: u32,
}

/// Core temperature in degrees Celsius.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Temperature {
    /// Without a process.
    pub idle_celsius: u32,
    /// While a process runs.
    pub busy_celsius: u32,
    /// Where the clocks are slowed down.
    pub slowdown_celsius: u32,
    /// Where the GPU shuts down.
    pub shutdown_celsius: u32,
}

/// NVLink of a model. All links of a node's GPUs end in NVSwitches, so that every GPU reaches every other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NvLink {
    /// Number of links of one GPU.
    pub links: u32,
    /// `nvmlDeviceGetNvLinkVersion`.
    pub version: u32,
    /// Speed of one link in MB/s.
    pub megabytes_per_second: u32,
}
