//! What a device is: the facts that change rarely, if ever.

use nvml_wrapper::{Device, enum_wrappers::device::ComputeMode, enums::device::DeviceArchitecture};

use super::call::{CallFailure, Calls};

/// What NVML says a device is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceFacts {
    /// NVML's UUID, `GPU-…`.
    pub uuid: String,
    /// NVML's index when the facts were read.
    pub index: u32,
    /// Product name.
    pub model: String,
    /// Architecture, such as `Hopper`; `None` for one that is newer than this agent.
    pub architecture: Option<String>,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// CUDA compute capability as `major.minor`.
    pub compute_capability: String,
    /// PCI address.
    pub pci_bus_id: Option<String>,
    /// MIG; `None` for a model without it.
    pub mig: Option<MigFacts>,
    /// Whether one process at a time may hold the device, as under NVIDIA's multi-process service.
    pub exclusive_process: bool,
    /// PCI addresses at the other end of the active NVLinks: GPUs, or switches. Sorted, each once.
    pub nvlink_remotes: Vec<String>,
}

/// Multi-instance GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MigFacts {
    /// Whether MIG mode is on.
    pub enabled: bool,
    /// Into how many slices the device can be cut; 0 where it does not tell.
    pub slices: u32,
    /// The instances that exist, in NVML's order.
    pub instances: Vec<MigInstanceFacts>,
}

/// One MIG instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MigInstanceFacts {
    /// NVML's UUID, `MIG-…`.
    pub uuid: String,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Compute slices.
    pub compute_slices: u32,
}

/// `NVML_NVLINK_MAX_LINKS` of nvml.h 13.
const NVLINKS_MAX: u32 = 18;

/// Reads the facts of the device at `index`.
///
/// # Errors
/// The first call that fails although every device answers it.
pub fn describe(
    calls: &Calls,
    device: &Device<'_>,
    index: u32,
) -> Result<DeviceFacts, CallFailure> {
    let uuid = calls.run("nvmlDeviceGetUUID", || device.uuid())?;
    let model = calls.run("nvmlDeviceGetName", || device.name())?;
    let memory = calls.run("nvmlDeviceGetMemoryInfo_v2", || device.memory_info())?;
    let capability = calls.run("nvmlDeviceGetCudaComputeCapability", || {
        device.cuda_compute_capability()
    })?;
    let architecture = calls
        .optional("nvmlDeviceGetArchitecture", || device.architecture())
        .unwrap_or_default()
        .filter(|architecture| *architecture != DeviceArchitecture::Unknown);
    let pci = calls.optional("nvmlDeviceGetPciInfo_v3", || device.pci_info())?;
    let mode = calls.optional("nvmlDeviceGetComputeMode", || device.compute_mode())?;
    Ok(DeviceFacts {
        uuid,
        index,
        model,
        architecture: architecture.map(|architecture| architecture.to_string()),
        memory_bytes: memory.total,
        compute_capability: format!("{}.{}", capability.major, capability.minor),
        pci_bus_id: pci.map(|pci| pci.bus_id),
        mig: mig(calls, device)?,
        exclusive_process: mode == Some(ComputeMode::ExclusiveProcess),
        nvlink_remotes: nvlink_remotes(calls, device),
    })
}

fn mig(calls: &Calls, device: &Device<'_>) -> Result<Option<MigFacts>, CallFailure> {
    let Some(mode) = calls.optional("nvmlDeviceGetMigMode", || device.mig_mode())? else {
        return Ok(None);
    };
    let enabled = mode.current == 1;
    let mut instances = Vec::new();
    let mut slices = 0;
    if enabled {
        let most = calls.optional("nvmlDeviceGetMaxMigDeviceCount", || {
            device.mig_device_count()
        })?;
        // The indices have holes: an instance keeps its index when another is destroyed.
        slices = most.unwrap_or(0);
        for index in 0..slices {
            let handle = calls.optional("nvmlDeviceGetMigDeviceHandleByIndex", || {
                device.mig_device_by_index(index)
            })?;
            let Some(handle) = handle else { continue };
            let uuid = calls.run("nvmlDeviceGetUUID", || handle.uuid())?;
            let attributes = calls.run("nvmlDeviceGetAttributes_v2", || handle.attributes())?;
            instances.push(MigInstanceFacts {
                uuid,
                memory_mib: attributes.memory_size_mb,
                compute_slices: attributes.compute_instance_slice_count,
            });
        }
    }
    Ok(Some(MigFacts {
        enabled,
        slices,
        instances,
    }))
}

/// Links that do not exist answer with an error whose code differs between drivers, so any error ends the search and
/// none is reported: without NVLink a device is still whole.
fn nvlink_remotes(calls: &Calls, device: &Device<'_>) -> Vec<String> {
    let mut remotes: Vec<String> = (0..NVLINKS_MAX)
        .map(|number| device.link_wrapper_for(number))
        .map_while(|link| {
            let active = calls
                .watched("nvmlDeviceGetNvLinkState", || link.is_active())
                .ok()?;
            Some((link, active))
        })
        .filter(|(_, active)| *active)
        .filter_map(|(link, _)| {
            calls
                .watched("nvmlDeviceGetNvLinkRemotePciInfo_v2", || {
                    link.remote_pci_info()
                })
                .ok()
        })
        .map(|remote| remote.bus_id)
        .collect();
    remotes.sort_unstable();
    remotes.dedup();
    remotes
}
