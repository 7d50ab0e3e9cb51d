//! Accounting: statistics per process, where it is switched on and MIG is off.

use std::ffi::c_uint;

use gridstake_simulated_gpus_state::{Device, ReturnCode};

use crate::{
    abi::{AccountingStats, Handle},
    clock,
    library::Call,
    outputs::{Answer, put, put_list},
};

const MIB: u64 = 1 << 20;
/// Processes that a driver remembers.
const BUFFER_SIZE: c_uint = 4000;
/// `USER_HZ`, 100 on every architecture that has NVIDIA drivers: one tick of `/proc/PID/stat` in microseconds.
const MICROSECONDS_PER_TICK: u64 = 10_000;

fn is_on(gpu: &Device) -> bool {
    gpu.accounting && gpu.mig.is_none()
}

fn accounted(call: &Call, device: Handle) -> Answer<&Device> {
    let gpu = call.gpu(device)?;
    if is_on(gpu) {
        Ok(gpu)
    } else {
        Err(ReturnCode::NOT_SUPPORTED)
    }
}

exported! {
    nvmlDeviceGetAccountingMode(call, device: Handle, mode: *mut c_uint) {
        // SAFETY: NVML's contract: an nvmlEnableState_t.
        unsafe { put(mode, c_uint::from(is_on(call.gpu(device)?))) }
    }

    nvmlDeviceGetAccountingBufferSize(call, device: Handle, size: *mut c_uint) {
        call.gpu(device)?;
        // SAFETY: NVML's contract: an unsigned int.
        unsafe { put(size, BUFFER_SIZE) }
    }

    nvmlDeviceGetAccountingPids(call, device: Handle, count: *mut c_uint, pids: *mut c_uint) {
        let gpu = accounted(call, device)?;
        let running: Vec<_> = call.snapshot.processes.on(&gpu.uuid).map(|process| process.pid).collect();
        // SAFETY: NVML's contract: `*count` ids.
        unsafe { put_list(count, pids, &running) }
    }

    nvmlDeviceGetAccountingStats(call, device: Handle, pid: c_uint, stats: *mut AccountingStats) {
        let gpu = accounted(call, device)?;
        let process = call
            .snapshot
            .processes
            .on(&gpu.uuid)
            .find(|process| process.pid == pid)
            .ok_or(ReturnCode::NOT_FOUND)?;
        let age = (clock::boottime_nanoseconds() / 1000)
            .saturating_sub(process.start_ticks.saturating_mul(MICROSECONDS_PER_TICK));
        // SAFETY: NVML's contract: an nvmlAccountingStats_t. `time` stays 0 while the process runs.
        unsafe {
            put(stats, AccountingStats {
                gpu_utilization: gpu.busy.gpu_percent,
                memory_utilization: gpu.busy.memory_percent,
                max_memory_usage: process.used_memory_mib.saturating_mul(MIB),
                time: 0,
                start_time: clock::unix_microseconds().saturating_sub(age),
                is_running: 1,
                reserved: [0; 5],
            })
        }
    }
}
