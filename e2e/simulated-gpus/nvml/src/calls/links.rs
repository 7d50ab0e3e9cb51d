//! How devices are connected: NVLink, PCIe, NUMA.
//!
//! GPUs with NVLink all hang on the node's NVSwitches: a link's far end is a switch, and whether two GPUs reach
//! each other is `nvmlDeviceGetP2PStatus`'s answer, as on HGX boards.

use std::ffi::c_uint;

use gridstake_simulated_gpus_state::{Device, NvLink, Pci, ReturnCode};

use super::identity::pci_info;
use crate::{
    abi::{Handle, PciInfo},
    handles::DeviceIndex,
    library::Call,
    outputs::{Answer, put, take},
};

/// `NVML_TOPOLOGY_INTERNAL`, `NVML_TOPOLOGY_NODE`, `NVML_TOPOLOGY_SYSTEM`.
const INTERNAL: c_uint = 0;
const SAME_NUMA_NODE: c_uint = 40;
const SYSTEM: c_uint = 50;
/// `NVML_P2P_STATUS_OK`, `NVML_P2P_STATUS_NOT_SUPPORTED`.
const P2P_OK: c_uint = 0;
const P2P_NOT_SUPPORTED: c_uint = 5;
/// `NVML_P2P_CAPS_INDEX_NVLINK`, `NVML_P2P_CAPS_INDEX_UNKNOWN` (the first that is none).
const P2P_NVLINK: c_uint = 2;
const P2P_INDICES: c_uint = 5;
/// NVSwitches of a node; a GPU's links take them in turn.
const SWITCHES: u32 = 4;
/// Bus of the first NVSwitch.
const FIRST_SWITCH_BUS: u32 = 5;
/// PCI device and vendor id of an NVSwitch.
const SWITCH_DEVICE_ID: u32 = 0x22a3_10de;
/// `NVML_NVLINK_DEVICE_TYPE_SWITCH`.
#[cfg(not(feature = "old-driver"))]
const DEVICE_TYPE_SWITCH: c_uint = 2;

/// The NVLink of a device, if the device has that link.
fn link_of(call: &Call, device: Handle, link: c_uint) -> Answer<&NvLink> {
    let nv_link = call
        .gpu(device)?
        .model
        .nv_link
        .as_ref()
        .ok_or(ReturnCode::NOT_SUPPORTED)?;
    if link < nv_link.links {
        Ok(nv_link)
    } else {
        Err(ReturnCode::INVALID_ARGUMENT)
    }
}

fn common_ancestor(first: &Device, second: &Device) -> c_uint {
    if first.uuid == second.uuid {
        INTERNAL
    } else if first.numa_node == second.numa_node {
        SAME_NUMA_NODE
    } else {
        SYSTEM
    }
}

exported! {
    nvmlDeviceGetNvLinkState(call, device: Handle, link: c_uint, is_active: *mut c_uint) {
        link_of(call, device, link)?;
        // SAFETY: NVML's contract: an nvmlEnableState_t.
        unsafe { put(is_active, 1) }
    }

    nvmlDeviceGetNvLinkVersion(call, device: Handle, link: c_uint, version: *mut c_uint) {
        // SAFETY: NVML's contract: an unsigned int.
        unsafe { put(version, link_of(call, device, link)?.version) }
    }

    // P2P 0, system memory access 1, P2P atomics 2, system memory atomics 3, SLI 4, link validity 5.
    nvmlDeviceGetNvLinkCapability(call, device: Handle, link: c_uint, capability: c_uint, result: *mut c_uint) {
        link_of(call, device, link)?;
        let has = match capability {
            0..=3 | 5 => 1,
            4 => 0,
            _ => return Err(ReturnCode::INVALID_ARGUMENT),
        };
        // SAFETY: NVML's contract: an unsigned int.
        unsafe { put(result, has) }
    }

    nvmlDeviceGetNvLinkRemotePciInfo_v2(call, device: Handle, link: c_uint, pci: *mut PciInfo) {
        link_of(call, device, link)?;
        let switch = Pci { domain: 0, bus: FIRST_SWITCH_BUS + link % SWITCHES, device: 0 };
        // SAFETY: NVML's contract: an nvmlPciInfo_t.
        unsafe { put(pci, pci_info(switch, SWITCH_DEVICE_ID, 0)) }
    }

    #[cfg(not(feature = "old-driver"))]
    nvmlDeviceGetNvLinkRemoteDeviceType(call, device: Handle, link: c_uint, kind: *mut c_uint) {
        link_of(call, device, link)?;
        // SAFETY: NVML's contract: an nvmlIntNvLinkDeviceType_t.
        unsafe { put(kind, DEVICE_TYPE_SWITCH) }
    }

    nvmlDeviceGetP2PStatus(call, first: Handle, second: Handle, index: c_uint, status: *mut c_uint) {
        let (first, second) = (call.gpu(first)?, call.gpu(second)?);
        if index >= P2P_INDICES || first.uuid == second.uuid {
            return Err(ReturnCode::INVALID_ARGUMENT);
        }
        let linked = first.model.nv_link.is_some() && second.model.nv_link.is_some();
        let reaches = linked || (index != P2P_NVLINK && first.numa_node == second.numa_node);
        // SAFETY: NVML's contract: an nvmlGpuP2PStatus_t.
        unsafe { put(status, if reaches { P2P_OK } else { P2P_NOT_SUPPORTED }) }
    }

    nvmlDeviceGetTopologyCommonAncestor(call, first: Handle, second: Handle, level: *mut c_uint) {
        let ancestor = common_ancestor(call.gpu(first)?, call.gpu(second)?);
        // SAFETY: NVML's contract: an nvmlGpuTopologyLevel_t.
        unsafe { put(level, ancestor) }
    }

    // Unlike other lists, a count of zero asks for the number and is a success.
    nvmlDeviceGetTopologyNearestGpus(
        call,
        device: Handle,
        level: c_uint,
        count: *mut c_uint,
        devices: *mut Handle,
    ) {
        let own = call.gpu(device)?;
        let nearest: Vec<_> = call
            .devices()
            .iter()
            .enumerate()
            .filter(|(_, other)| other.uuid != own.uuid && common_ancestor(own, other) == level)
            .map(|(index, _)| DeviceIndex::gpu(index).to_handle())
            .collect();
        // SAFETY: NVML's contract: an unsigned int.
        let fits = unsafe { take(count) }? as usize;
        let needed = c_uint::try_from(nearest.len()).map_err(|_| ReturnCode::UNKNOWN)?;
        if fits == 0 || nearest.is_empty() {
            // SAFETY: as above.
            return unsafe { put(count, needed) };
        }
        if devices.is_null() {
            return Err(ReturnCode::INVALID_ARGUMENT);
        }
        let shown = fits.min(nearest.len());
        // SAFETY: NVML's contract: `*count` handles, and no more are written.
        unsafe {
            devices.copy_from_nonoverlapping(nearest.as_ptr(), shown);
            put(count, c_uint::try_from(shown).map_err(|_| ReturnCode::UNKNOWN)?)
        }
    }

    #[cfg(not(feature = "old-driver"))]
    nvmlDeviceGetNumaNodeId(call, device: Handle, node: *mut c_uint) {
        // SAFETY: NVML's contract: an unsigned int.
        unsafe { put(node, call.gpu(device)?.numa_node) }
    }
}
