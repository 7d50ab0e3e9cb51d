//! What a device is.

use std::ffi::{c_char, c_int, c_uint};

use gridstake_simulated_gpus_state::{MigInstance, Pci, ReturnCode};

use crate::{
    abi::{Handle, PciInfo},
    library::Target,
    outputs::{put, put_text, text_field},
};

/// Name of a MIG device: that of the GPU and of the profile, such as `MIG 1g.10gb`.
fn name(target: &Target) -> String {
    let profile = |mig: &MigInstance| {
        let gigabytes = mig.memory_mib.div_ceil(1024);
        format!(
            "{} MIG {}g.{gigabytes}gb",
            target.gpu.model.name, mig.slices
        )
    };
    target
        .mig
        .map_or_else(|| target.gpu.model.name.clone(), profile)
}

/// `nvmlPciInfo_t` of a device; both bus ids carry the function, which is always 0.
pub fn pci_info(pci: Pci, device_id: u32, subsystem_id: u32) -> PciInfo {
    let Pci {
        domain,
        bus,
        device,
    } = pci;
    PciInfo {
        bus_id_legacy: text_field(&format!("{domain:04X}:{bus:02X}:{device:02X}.0")),
        domain,
        bus,
        device,
        pci_device_id: device_id,
        pci_subsystem_id: subsystem_id,
        bus_id: text_field(&format!("{domain:08X}:{bus:02X}:{device:02X}.0")),
    }
}

exported! {
    nvmlDeviceGetUUID(call, device: Handle, uuid: *mut c_char, length: c_uint) {
        let target = call.device(device)?;
        // SAFETY: NVML's contract: `length` bytes.
        unsafe { put_text(uuid, length, target.mig.map_or(&target.gpu.uuid, |mig| &mig.uuid)) }
    }

    nvmlDeviceGetName(call, device: Handle, text: *mut c_char, length: c_uint) {
        // SAFETY: NVML's contract: `length` bytes.
        unsafe { put_text(text, length, &name(&call.device(device)?)) }
    }

    nvmlDeviceGetSerial(call, device: Handle, serial: *mut c_char, length: c_uint) {
        // SAFETY: NVML's contract: `length` bytes.
        unsafe { put_text(serial, length, &call.gpu(device)?.serial) }
    }

    nvmlDeviceGetBoardPartNumber(call, device: Handle, number: *mut c_char, length: c_uint) {
        // SAFETY: NVML's contract: `length` bytes.
        unsafe { put_text(number, length, &call.gpu(device)?.model.part_number) }
    }

    nvmlDeviceGetVbiosVersion(call, device: Handle, version: *mut c_char, length: c_uint) {
        call.gpu(device)?;
        // SAFETY: NVML's contract: `length` bytes.
        unsafe { put_text(version, length, "96.00.5E.00.01") }
    }

    nvmlDeviceGetMinorNumber(call, device: Handle, minor: *mut c_uint) {
        // SAFETY: NVML's contract: an unsigned int.
        unsafe { put(minor, call.device(device)?.gpu.minor) }
    }

    nvmlDeviceGetPciInfo_v3(call, device: Handle, pci: *mut PciInfo) {
        let gpu = call.device(device)?.gpu;
        let info = pci_info(gpu.pci, gpu.model.pci_device_id, gpu.model.pci_subsystem_id);
        // SAFETY: NVML's contract: an nvmlPciInfo_t.
        unsafe { put(pci, info) }
    }

    nvmlDeviceGetBrand(call, device: Handle, brand: *mut c_uint) {
        // SAFETY: NVML's contract: an nvmlBrandType_t.
        unsafe { put(brand, call.device(device)?.gpu.model.brand) }
    }

    nvmlDeviceGetArchitecture(call, device: Handle, architecture: *mut c_uint) {
        // SAFETY: NVML's contract: an unsigned int.
        unsafe { put(architecture, call.device(device)?.gpu.model.architecture) }
    }

    nvmlDeviceGetCudaComputeCapability(call, device: Handle, major: *mut c_int, minor: *mut c_int) {
        let [high, low] = call.device(device)?.gpu.model.compute_capability;
        if minor.is_null() {
            return Err(ReturnCode::INVALID_ARGUMENT);
        }
        // SAFETY: NVML's contract: two ints.
        unsafe {
            put(major, high)?;
            put(minor, low)
        }
    }

    #[cfg(not(feature = "old-driver"))]
    nvmlDeviceGetNumGpuCores(call, device: Handle, cores: *mut c_uint) {
        // SAFETY: NVML's contract: an unsigned int.
        unsafe { put(cores, call.gpu(device)?.model.cores) }
    }

    #[cfg(not(feature = "old-driver"))]
    nvmlDeviceGetMemoryBusWidth(call, device: Handle, width: *mut c_uint) {
        // SAFETY: NVML's contract: an unsigned int.
        unsafe { put(width, call.gpu(device)?.model.memory_bus_width) }
    }

    // 1: persistence mode is on, as on every node that runs the persistence daemon.
    nvmlDeviceGetPersistenceMode(call, device: Handle, mode: *mut c_uint) {
        call.gpu(device)?;
        // SAFETY: NVML's contract: an nvmlEnableState_t.
        unsafe { put(mode, 1) }
    }

    // NVML_COMPUTEMODE_DEFAULT.
    nvmlDeviceGetComputeMode(call, device: Handle, mode: *mut c_uint) {
        call.gpu(device)?;
        // SAFETY: NVML's contract: an nvmlComputeMode_t.
        unsafe { put(mode, 0) }
    }

    // NVML_GPU_VIRTUALIZATION_MODE_NONE: bare metal.
    nvmlDeviceGetVirtualizationMode(call, device: Handle, mode: *mut c_uint) {
        call.gpu(device)?;
        // SAFETY: NVML's contract: an nvmlGpuVirtualizationMode_t.
        unsafe { put(mode, 0) }
    }
}
