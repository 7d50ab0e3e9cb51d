//! What is wrong with a device: ECC, remapped rows, retired pages, why clocks are held down.

use std::ffi::{c_uint, c_ulonglong};

use gridstake_simulated_gpus_state::{Device, ReturnCode};

use crate::{
    abi::Handle,
    library::Call,
    outputs::{Answer, put, put_list},
};

/// `nvmlClocksEventReasonGpuIdle`.
const REASON_IDLE: c_ulonglong = 0x1;
/// The reasons that the header defines: idle, applications clocks, SW power cap, HW slowdown, sync boost, SW thermal,
/// HW thermal, HW power brake, display clocks.
const REASONS_SUPPORTED: c_ulonglong = 0x1ff;
/// `NVML_MEMORY_LOCATION_DRAM`, where all simulated errors lie.
const LOCATION_DRAM: c_uint = 2;
/// `NVML_MEMORY_LOCATION_COUNT`.
const LOCATIONS: c_uint = 8;

/// ECC errors by `nvmlMemoryErrorType_t`; the volatile (0) and the aggregate (1) counter are the same number.
fn ecc_errors(gpu: &Device, error: c_uint, counter: c_uint) -> Answer<c_ulonglong> {
    if !gpu.model.ecc {
        return Err(ReturnCode::NOT_SUPPORTED);
    }
    match (error, counter) {
        (0, 0 | 1) => Ok(gpu.faults.ecc_corrected),
        (1, 0 | 1) => Ok(gpu.faults.ecc_uncorrected),
        _ => Err(ReturnCode::INVALID_ARGUMENT),
    }
}

fn clock_event_reasons(call: &Call, device: Handle) -> Answer<c_ulonglong> {
    let gpu = call.gpu(device)?;
    let idle = if call.is_busy(gpu) { 0 } else { REASON_IDLE };
    Ok(idle | gpu.faults.clock_event_reasons)
}

/// Pages are retired only where rows are not remapped.
fn retires_pages(gpu: &Device) -> Answer {
    if gpu.model.row_remapping || !gpu.model.ecc {
        Err(ReturnCode::NOT_SUPPORTED)
    } else {
        Ok(())
    }
}

exported! {
    nvmlDeviceGetEccMode(call, device: Handle, current: *mut c_uint, pending: *mut c_uint) {
        if !call.gpu(device)?.model.ecc {
            return Err(ReturnCode::NOT_SUPPORTED);
        }
        if pending.is_null() {
            return Err(ReturnCode::INVALID_ARGUMENT);
        }
        // SAFETY: NVML's contract: two nvmlEnableState_t.
        unsafe { put(current, 1).and_then(|()| put(pending, 1)) }
    }

    nvmlDeviceGetTotalEccErrors(
        call,
        device: Handle,
        error: c_uint,
        counter: c_uint,
        errors: *mut c_ulonglong,
    ) {
        // SAFETY: NVML's contract: an unsigned long long.
        unsafe { put(errors, ecc_errors(call.gpu(device)?, error, counter)?) }
    }

    nvmlDeviceGetMemoryErrorCounter(
        call,
        device: Handle,
        error: c_uint,
        counter: c_uint,
        location: c_uint,
        errors: *mut c_ulonglong,
    ) {
        let total = ecc_errors(call.gpu(device)?, error, counter)?;
        let here = match location {
            LOCATION_DRAM => total,
            0..LOCATIONS => 0,
            _ => return Err(ReturnCode::INVALID_ARGUMENT),
        };
        // SAFETY: NVML's contract: an unsigned long long.
        unsafe { put(errors, here) }
    }

    nvmlDeviceGetRemappedRows(
        call,
        device: Handle,
        corrected: *mut c_uint,
        uncorrected: *mut c_uint,
        pending: *mut c_uint,
        failed: *mut c_uint,
    ) {
        let gpu = call.gpu(device)?;
        if !gpu.model.row_remapping {
            return Err(ReturnCode::NOT_SUPPORTED);
        }
        let faults = &gpu.faults;
        // SAFETY: NVML's contract: four unsigned ints.
        unsafe {
            put(corrected, 0)?;
            put(uncorrected, c_uint::try_from(faults.remapped_rows).unwrap_or(c_uint::MAX))?;
            put(pending, c_uint::from(faults.remap_pending))?;
            put(failed, c_uint::from(faults.remap_failed))
        }
    }

    nvmlDeviceGetRetiredPagesPendingStatus(call, device: Handle, pending: *mut c_uint) {
        let gpu = call.gpu(device)?;
        retires_pages(gpu)?;
        // SAFETY: NVML's contract: an nvmlEnableState_t.
        unsafe { put(pending, c_uint::from(gpu.faults.remap_pending)) }
    }

    // No page has been retired yet: pages that wait for a reset are not in the list.
    nvmlDeviceGetRetiredPages(
        call,
        device: Handle,
        cause: c_uint,
        count: *mut c_uint,
        addresses: *mut c_ulonglong,
    ) {
        retires_pages(call.gpu(device)?)?;
        if cause > 1 {
            return Err(ReturnCode::INVALID_ARGUMENT);
        }
        // SAFETY: NVML's contract: `*count` addresses.
        unsafe { put_list(count, addresses, &[]) }
    }

    nvmlDeviceGetCurrentClocksThrottleReasons(call, device: Handle, reasons: *mut c_ulonglong) {
        // SAFETY: NVML's contract: an unsigned long long.
        unsafe { put(reasons, clock_event_reasons(call, device)?) }
    }

    nvmlDeviceGetSupportedClocksThrottleReasons(call, device: Handle, reasons: *mut c_ulonglong) {
        call.gpu(device)?;
        // SAFETY: NVML's contract: an unsigned long long.
        unsafe { put(reasons, REASONS_SUPPORTED) }
    }

    #[cfg(not(feature = "old-driver"))]
    nvmlDeviceGetCurrentClocksEventReasons(call, device: Handle, reasons: *mut c_ulonglong) {
        // SAFETY: NVML's contract: an unsigned long long.
        unsafe { put(reasons, clock_event_reasons(call, device)?) }
    }

    #[cfg(not(feature = "old-driver"))]
    nvmlDeviceGetSupportedClocksEventReasons(call, device: Handle, reasons: *mut c_ulonglong) {
        call.gpu(device)?;
        // SAFETY: NVML's contract: an unsigned long long.
        unsafe { put(reasons, REASONS_SUPPORTED) }
    }
}
