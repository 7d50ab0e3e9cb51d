//! MIG devices. Indices run up to the model's maximum; one without a device answers `NOT_FOUND`.

use std::ffi::c_uint;

use gridstake_simulated_gpus_state::{MigInstance, ReturnCode};

use crate::{
    abi::{DeviceAttributes, Handle},
    handles::DeviceIndex,
    library::Call,
    outputs::{Answer, put},
};

/// The MIG device behind a handle; a whole GPU's handle is an invalid argument.
fn instance(call: &Call, device: Handle) -> Answer<&MigInstance> {
    call.device(device)?.mig.ok_or(ReturnCode::INVALID_ARGUMENT)
}

exported! {
    nvmlDeviceGetMigMode(call, device: Handle, current: *mut c_uint, pending: *mut c_uint) {
        let gpu = call.gpu(device)?;
        if gpu.model.mig_devices == 0 {
            return Err(ReturnCode::NOT_SUPPORTED);
        }
        if pending.is_null() {
            return Err(ReturnCode::INVALID_ARGUMENT);
        }
        let mode = c_uint::from(gpu.mig.is_some());
        // SAFETY: NVML's contract: two unsigned ints.
        unsafe { put(current, mode).and_then(|()| put(pending, mode)) }
    }

    // 0 where MIG is off or unknown.
    nvmlDeviceGetMaxMigDeviceCount(call, device: Handle, count: *mut c_uint) {
        let gpu = call.gpu(device)?;
        let most = if gpu.mig.is_some() { gpu.model.mig_devices } else { 0 };
        // SAFETY: NVML's contract: an unsigned int.
        unsafe { put(count, most) }
    }

    nvmlDeviceGetMigDeviceHandleByIndex(call, device: Handle, index: c_uint, mig_device: *mut Handle) {
        let target = call.device(device)?;
        if target.mig.is_some() || index >= target.gpu.model.mig_devices.max(1) {
            return Err(ReturnCode::INVALID_ARGUMENT);
        }
        if target.gpu.model.mig_devices == 0 {
            return Err(ReturnCode::NOT_SUPPORTED);
        }
        let position = index as usize;
        let slots = target.gpu.mig.as_deref().unwrap_or_default();
        if slots.get(position).is_none_or(Option::is_none) {
            return Err(ReturnCode::NOT_FOUND);
        }
        let handle = DeviceIndex { gpu: target.index.gpu, mig: Some(position) }.to_handle();
        // SAFETY: NVML's contract: a handle.
        unsafe { put(mig_device, handle) }
    }

    nvmlDeviceGetDeviceHandleFromMigDeviceHandle(call, mig_device: Handle, device: *mut Handle) {
        let target = call.device(mig_device)?;
        if target.mig.is_none() {
            return Err(ReturnCode::INVALID_ARGUMENT);
        }
        // SAFETY: NVML's contract: a handle.
        unsafe { put(device, DeviceIndex::gpu(target.index.gpu).to_handle()) }
    }

    nvmlDeviceIsMigDeviceHandle(call, device: Handle, is_mig: *mut c_uint) {
        let target = call.device(device)?;
        // SAFETY: NVML's contract: an unsigned int.
        unsafe { put(is_mig, c_uint::from(target.mig.is_some())) }
    }

    nvmlDeviceGetGpuInstanceId(call, device: Handle, id: *mut c_uint) {
        // SAFETY: NVML's contract: an unsigned int.
        unsafe { put(id, instance(call, device)?.gpu_instance) }
    }

    nvmlDeviceGetComputeInstanceId(call, device: Handle, id: *mut c_uint) {
        // SAFETY: NVML's contract: an unsigned int.
        unsafe { put(id, instance(call, device)?.compute_instance) }
    }

    nvmlDeviceGetAttributes_v2(call, device: Handle, attributes: *mut DeviceAttributes) {
        let mig = instance(call, device)?;
        // SAFETY: NVML's contract: an nvmlDeviceAttributes_t.
        unsafe {
            put(attributes, DeviceAttributes {
                multiprocessor_count: mig.multiprocessors,
                shared_copy_engine_count: 1,
                shared_decoder_count: 1,
                shared_encoder_count: 0,
                shared_jpeg_count: 1,
                shared_ofa_count: 0,
                gpu_instance_slice_count: mig.slices,
                compute_instance_slice_count: mig.slices,
                memory_size_mb: mig.memory_mib,
            })
        }
    }
}
