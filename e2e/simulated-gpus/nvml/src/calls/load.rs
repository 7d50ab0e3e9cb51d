//! How hard a device works: utilisation, power, energy, clocks, temperature. All follow from whether a process
//! runs on it.

use std::ffi::{c_uint, c_ulonglong};

use gridstake_simulated_gpus_state::{Device, ReturnCode};

use crate::{
    abi::{Handle, Utilization},
    library::Call,
    outputs::{Answer, put},
};

/// Volta: the first architecture with an energy counter (`NVML_DEVICE_ARCH_VOLTA`).
const ARCHITECTURE_VOLTA: u32 = 5;
/// The period over which encoder and decoder load is taken, in microseconds.
const SAMPLING_PERIOD: c_uint = 167_000;

/// The energy counter in millijoules, of models that have one.
pub fn energy(call: &Call, gpu: &Device) -> Answer<u64> {
    if gpu.model.architecture < ARCHITECTURE_VOLTA {
        return Err(ReturnCode::NOT_SUPPORTED);
    }
    call.energy_millijoules(&gpu.uuid)
}

/// Core temperature in degrees Celsius.
pub fn temperature(call: &Call, gpu: &Device) -> u32 {
    let temperature = &gpu.model.temperature;
    gpu.faults
        .temperature_celsius
        .unwrap_or(if call.is_busy(gpu) {
            temperature.busy_celsius
        } else {
            temperature.idle_celsius
        })
}

/// A clock by `nvmlClockType_t`: graphics 0, SM 1, memory 2, video 3.
fn clock(gpu: &Device, kind: c_uint, busy: bool) -> Answer<c_uint> {
    let clocks = &gpu.model.clocks;
    match kind {
        0 | 1 | 3 if busy => Ok(clocks.busy_mhz),
        0 | 1 | 3 => Ok(clocks.idle_mhz),
        2 => Ok(clocks.memory_mhz),
        _ => Err(ReturnCode::INVALID_ARGUMENT),
    }
}

exported! {
    // Not supported while MIG is on.
    nvmlDeviceGetUtilizationRates(call, device: Handle, utilization: *mut Utilization) {
        let gpu = call.gpu(device)?;
        if gpu.mig.is_some() {
            return Err(ReturnCode::NOT_SUPPORTED);
        }
        let rates = if call.is_busy(gpu) {
            Utilization { gpu: gpu.busy.gpu_percent, memory: gpu.busy.memory_percent }
        } else {
            Utilization { gpu: 0, memory: 0 }
        };
        // SAFETY: NVML's contract: an nvmlUtilization_t.
        unsafe { put(utilization, rates) }
    }

    nvmlDeviceGetEncoderUtilization(call, device: Handle, percent: *mut c_uint, period: *mut c_uint) {
        call.gpu(device)?;
        // SAFETY: NVML's contract: two unsigned ints.
        unsafe { put(percent, 0).and_then(|()| put(period, SAMPLING_PERIOD)) }
    }

    nvmlDeviceGetDecoderUtilization(call, device: Handle, percent: *mut c_uint, period: *mut c_uint) {
        call.gpu(device)?;
        // SAFETY: NVML's contract: two unsigned ints.
        unsafe { put(percent, 0).and_then(|()| put(period, SAMPLING_PERIOD)) }
    }

    nvmlDeviceGetPowerUsage(call, device: Handle, milliwatts: *mut c_uint) {
        let gpu = call.gpu(device)?;
        // SAFETY: NVML's contract: an unsigned int.
        unsafe { put(milliwatts, gpu.milliwatts(call.is_busy(gpu))) }
    }

    nvmlDeviceGetEnforcedPowerLimit(call, device: Handle, milliwatts: *mut c_uint) {
        // SAFETY: NVML's contract: an unsigned int.
        unsafe { put(milliwatts, call.gpu(device)?.model.power.limit_milliwatts) }
    }

    nvmlDeviceGetPowerManagementLimit(call, device: Handle, milliwatts: *mut c_uint) {
        // SAFETY: NVML's contract: an unsigned int.
        unsafe { put(milliwatts, call.gpu(device)?.model.power.limit_milliwatts) }
    }

    nvmlDeviceGetPowerManagementDefaultLimit(call, device: Handle, milliwatts: *mut c_uint) {
        // SAFETY: NVML's contract: an unsigned int.
        unsafe { put(milliwatts, call.gpu(device)?.model.power.limit_milliwatts) }
    }

    nvmlDeviceGetTotalEnergyConsumption(call, device: Handle, millijoules: *mut c_ulonglong) {
        // SAFETY: NVML's contract: an unsigned long long.
        unsafe { put(millijoules, energy(call, call.gpu(device)?)?) }
    }

    nvmlDeviceGetClockInfo(call, device: Handle, kind: c_uint, mhz: *mut c_uint) {
        let gpu = call.gpu(device)?;
        // SAFETY: NVML's contract: an unsigned int.
        unsafe { put(mhz, clock(gpu, kind, call.is_busy(gpu))?) }
    }

    nvmlDeviceGetMaxClockInfo(call, device: Handle, kind: c_uint, mhz: *mut c_uint) {
        // SAFETY: NVML's contract: an unsigned int.
        unsafe { put(mhz, clock(call.gpu(device)?, kind, true)?) }
    }

    // Performance state 0: the highest.
    nvmlDeviceGetPerformanceState(call, device: Handle, state: *mut c_uint) {
        call.gpu(device)?;
        // SAFETY: NVML's contract: an nvmlPstates_t.
        unsafe { put(state, 0) }
    }

    // The only sensor of the header is the core's, 0.
    nvmlDeviceGetTemperature(call, device: Handle, sensor: c_uint, celsius: *mut c_uint) {
        let gpu = call.gpu(device)?;
        if sensor != 0 {
            return Err(ReturnCode::INVALID_ARGUMENT);
        }
        // SAFETY: NVML's contract: an unsigned int.
        unsafe { put(celsius, temperature(call, gpu)) }
    }

    // Shutdown 0, slowdown 1; the other thresholds are not simulated.
    nvmlDeviceGetTemperatureThreshold(call, device: Handle, threshold: c_uint, celsius: *mut c_uint) {
        let limits = &call.gpu(device)?.model.temperature;
        let limit = match threshold {
            0 => limits.shutdown_celsius,
            1 => limits.slowdown_celsius,
            _ => return Err(ReturnCode::NOT_SUPPORTED),
        };
        // SAFETY: NVML's contract: an unsigned int.
        unsafe { put(celsius, limit) }
    }
}
