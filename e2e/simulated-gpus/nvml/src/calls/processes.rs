//! Who runs on a device.

use std::ffi::{c_uint, c_ulonglong};

use gridstake_simulated_gpus_state::{ProcessKind, ReturnCode};

use crate::{
    abi::{Handle, NO_INSTANCE, ProcessInfo, ProcessInfoV1, ProcessUtilizationSample},
    clock,
    library::Call,
    outputs::{Answer, put_list},
};

const MIB: u64 = 1 << 20;
/// How far apart utilisation samples lie, in microseconds.
const SAMPLE_PERIOD: u64 = 100_000;

fn running(call: &Call, device: Handle, kind: ProcessKind) -> Answer<Vec<ProcessInfo>> {
    let target = call.device(device)?;
    let entries = call
        .processes(&target)
        .filter(|process| process.kind == kind)
        .map(|process| ProcessInfo {
            pid: process.pid,
            used_gpu_memory: process.used_memory_mib.saturating_mul(MIB),
            gpu_instance_id: process.gpu_instance.unwrap_or(NO_INSTANCE),
            compute_instance_id: process.compute_instance.unwrap_or(NO_INSTANCE),
        });
    Ok(entries.collect())
}

fn without_instances(entries: &[ProcessInfo]) -> Vec<ProcessInfoV1> {
    let first_version = |entry: &ProcessInfo| ProcessInfoV1 {
        pid: entry.pid,
        used_gpu_memory: entry.used_gpu_memory,
    };
    entries.iter().map(first_version).collect()
}

exported! {
    nvmlDeviceGetComputeRunningProcesses(call, device: Handle, count: *mut c_uint, infos: *mut ProcessInfoV1) {
        let entries = without_instances(&running(call, device, ProcessKind::Compute)?);
        // SAFETY: NVML's contract: `*count` entries.
        unsafe { put_list(count, infos, &entries) }
    }

    nvmlDeviceGetComputeRunningProcesses_v2(call, device: Handle, count: *mut c_uint, infos: *mut ProcessInfo) {
        // SAFETY: NVML's contract: `*count` entries.
        unsafe { put_list(count, infos, &running(call, device, ProcessKind::Compute)?) }
    }

    #[cfg(not(feature = "old-driver"))]
    nvmlDeviceGetComputeRunningProcesses_v3(call, device: Handle, count: *mut c_uint, infos: *mut ProcessInfo) {
        // SAFETY: NVML's contract: `*count` entries.
        unsafe { put_list(count, infos, &running(call, device, ProcessKind::Compute)?) }
    }

    nvmlDeviceGetGraphicsRunningProcesses(call, device: Handle, count: *mut c_uint, infos: *mut ProcessInfoV1) {
        let entries = without_instances(&running(call, device, ProcessKind::Graphics)?);
        // SAFETY: NVML's contract: `*count` entries.
        unsafe { put_list(count, infos, &entries) }
    }

    nvmlDeviceGetGraphicsRunningProcesses_v2(call, device: Handle, count: *mut c_uint, infos: *mut ProcessInfo) {
        // SAFETY: NVML's contract: `*count` entries.
        unsafe { put_list(count, infos, &running(call, device, ProcessKind::Graphics)?) }
    }

    #[cfg(not(feature = "old-driver"))]
    nvmlDeviceGetGraphicsRunningProcesses_v3(call, device: Handle, count: *mut c_uint, infos: *mut ProcessInfo) {
        // SAFETY: NVML's contract: `*count` entries.
        unsafe { put_list(count, infos, &running(call, device, ProcessKind::Graphics)?) }
    }

    nvmlDeviceGetMPSComputeRunningProcesses_v2(call, device: Handle, count: *mut c_uint, infos: *mut ProcessInfo) {
        // SAFETY: NVML's contract: `*count` entries.
        unsafe { put_list(count, infos, &running(call, device, ProcessKind::Mps)?) }
    }

    #[cfg(not(feature = "old-driver"))]
    nvmlDeviceGetMPSComputeRunningProcesses_v3(call, device: Handle, count: *mut c_uint, infos: *mut ProcessInfo) {
        // SAFETY: NVML's contract: `*count` entries.
        unsafe { put_list(count, infos, &running(call, device, ProcessKind::Mps)?) }
    }

    // One sample per process and period; no newer sample than the caller's last is `NOT_FOUND`. The processes of a
    // device share its load evenly. Not supported while MIG is on.
    nvmlDeviceGetProcessUtilization(
        call,
        device: Handle,
        samples: *mut ProcessUtilizationSample,
        count: *mut c_uint,
        last_seen: c_ulonglong,
    ) {
        let target = call.device(device)?;
        if target.gpu.mig.is_some() {
            return Err(ReturnCode::NOT_SUPPORTED);
        }
        if count.is_null() {
            return Err(ReturnCode::INVALID_ARGUMENT);
        }
        let pids: Vec<_> = call.processes(&target).map(|process| process.pid).collect();
        let time_stamp = clock::unix_microseconds() / SAMPLE_PERIOD * SAMPLE_PERIOD;
        if pids.is_empty() || time_stamp <= last_seen {
            return Err(ReturnCode::NOT_FOUND);
        }
        let sharers = c_uint::try_from(pids.len()).map_err(|_| ReturnCode::UNKNOWN)?;
        let sample = |pid| ProcessUtilizationSample {
            pid,
            time_stamp,
            sm_util: target.gpu.busy.gpu_percent / sharers,
            mem_util: target.gpu.busy.memory_percent / sharers,
            enc_util: 0,
            dec_util: 0,
        };
        let entries: Vec<_> = pids.into_iter().map(sample).collect();
        // SAFETY: NVML's contract: `*count` samples.
        unsafe { put_list(count, samples, &entries) }
    }
}
