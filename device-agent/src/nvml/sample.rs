//! What a device does at one moment. A value that the device does not tell is `None`, never 0.

use nvml_wrapper::{
    Device, Nvml,
    bitmasks::device::ThrottleReasons,
    enum_wrappers::device::{EccCounter, MemoryError, TemperatureSensor},
    enums::device::{SampleValue, UsedGpuMemory},
    error::NvmlError,
    struct_wrappers::device::ProcessInfo,
    structs::device::FieldId,
    sys_exports::field_id::{NVML_FI_DEV_REMAPPED_FAILURE, NVML_FI_DEV_REMAPPED_PENDING},
};

use super::call::{CallFailure, Calls, FailureKind};

/// One device at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Share of the last sampling period in which a kernel was running, in percent. Not told under MIG.
    pub utilization_percent: Option<u32>,
    /// Allocated memory in bytes, without what the driver reserves.
    pub memory_used_bytes: Option<u64>,
    /// Energy since the driver was loaded, in millijoules.
    pub energy_millijoules: Option<u64>,
    /// Power draw in milliwatts.
    pub power_milliwatts: Option<u32>,
    /// Temperature of the die in degrees Celsius.
    pub temperature_celsius: Option<u32>,
    /// The processes that hold a context on the device, by pid, each once.
    pub processes: Option<Vec<GpuProcess>>,
    /// What speaks against it.
    pub signs: Sampled,
    /// The calls that failed although the device should answer them.
    pub failures: Vec<CallFailure>,
}

/// What one sample says against the device. `None`: the device does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sampled {
    /// Uncorrectable memory errors since the driver was loaded or the device reset (NVML's volatile counter).
    pub uncorrectable_errors: Option<u64>,
    /// A row waits for a reset to be remapped, or a page to be retired.
    pub remap_pending: Option<bool>,
    /// A row could not be remapped.
    pub remap_failed: Option<bool>,
    /// The clocks are lowered because of heat.
    pub thermal: Option<bool>,
    /// The clocks are lowered by the power brake: the power supply asks for it.
    pub power_brake: Option<bool>,
}

impl Sample {
    /// The call that showed that the device is gone.
    #[must_use]
    pub fn lost(&self) -> Option<&CallFailure> {
        self.failures
            .iter()
            .find(|failure| failure.kind == FailureKind::Lost)
    }
}

/// A process on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GpuProcess {
    /// Its id on the host.
    pub pid: u32,
    /// Memory of the device that it holds, in bytes.
    pub memory_bytes: Option<u64>,
    /// Whether it has a compute context, and not one for graphics alone.
    pub computes: bool,
}

/// Which optional lists of processes the driver's library has.
#[derive(Clone, Copy, Debug)]
pub struct ProcessLists {
    graphics: bool,
    mps: bool,
}

impl ProcessLists {
    /// Looks which symbols are there, once per session: asking for a missing one costs an error text each time.
    #[must_use]
    pub fn of(nvml: &Nvml) -> Self {
        let lib = nvml.lib();
        Self {
            graphics: lib.nvmlDeviceGetGraphicsRunningProcesses_v3.is_ok(),
            mps: lib.nvmlDeviceGetMPSComputeRunningProcesses_v3.is_ok(),
        }
    }
}

/// Fills in one part of a sample.
type Step<'a> = &'a dyn Fn(&mut Sample) -> Result<(), CallFailure>;

/// Takes a sample. A call that fails is noted and the others are still made, unless it shows that the device is gone:
/// each call to a lost device may take long and answers the same.
pub fn sample(calls: &Calls, device: &Device<'_>, lists: ProcessLists) -> Sample {
    let mut sample = Sample::default();
    // The order is that of importance: memory and processes are what a healthy device always answers.
    let steps: [Step<'_>; 9] = [
        &|sample| {
            let memory = calls.run("nvmlDeviceGetMemoryInfo_v2", || device.memory_info())?;
            sample.memory_used_bytes = Some(memory.used);
            Ok(())
        },
        &|sample| {
            sample.processes = Some(processes(calls, device, lists)?);
            Ok(())
        },
        &|sample| {
            let rates = calls.optional("nvmlDeviceGetUtilizationRates", || {
                device.utilization_rates()
            })?;
            sample.utilization_percent = rates.map(|rates| rates.gpu);
            Ok(())
        },
        &|sample| {
            sample.energy_millijoules = calls
                .optional("nvmlDeviceGetTotalEnergyConsumption", || {
                    device.total_energy_consumption()
                })?;
            Ok(())
        },
        &|sample| {
            sample.power_milliwatts =
                calls.optional("nvmlDeviceGetPowerUsage", || device.power_usage())?;
            Ok(())
        },
        &|sample| {
            sample.temperature_celsius = calls.optional("nvmlDeviceGetTemperature", || {
                device.temperature(TemperatureSensor::Gpu)
            })?;
            Ok(())
        },
        &|sample| {
            sample.signs.uncorrectable_errors = calls
                .optional("nvmlDeviceGetTotalEccErrors", || {
                    device.total_ecc_errors(MemoryError::Uncorrected, EccCounter::Volatile)
                })?;
            Ok(())
        },
        &|sample| {
            let reasons = calls.optional("nvmlDeviceGetCurrentClocksThrottleReasons", || {
                device.current_throttle_reasons()
            })?;
            let hot = ThrottleReasons::SW_THERMAL_SLOWDOWN | ThrottleReasons::HW_THERMAL_SLOWDOWN;
            sample.signs.thermal = reasons.map(|reasons| reasons.intersects(hot));
            sample.signs.power_brake =
                reasons.map(|reasons| reasons.contains(ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN));
            Ok(())
        },
        &|sample| {
            let [pending, failed] = remapping(calls, device)?;
            sample.signs.remap_pending = pending;
            sample.signs.remap_failed = failed;
            Ok(())
        },
    ];
    for step in steps {
        if let Err(failure) = step(&mut sample) {
            let gone = matches!(failure.kind, FailureKind::Lost | FailureKind::SessionOver);
            sample.failures.push(failure);
            if gone {
                break;
            }
        }
    }
    sample
}

/// Whether a remapping of memory rows awaits a reset, and whether one failed. Models that retire pages instead have only
/// the former.
fn remapping(calls: &Calls, device: &Device<'_>) -> Result<[Option<bool>; 2], CallFailure> {
    let fields = [NVML_FI_DEV_REMAPPED_PENDING, NVML_FI_DEV_REMAPPED_FAILURE].map(FieldId);
    let values = calls.optional("nvmlDeviceGetFieldValues", || {
        device.field_values_for(&fields)
    })?;
    let mut told = [None; 2];
    for (told, value) in told.iter_mut().zip(values.into_iter().flatten()) {
        let value = calls.optional("nvmlDeviceGetFieldValues", || value.and_then(|v| v.value))?;
        *told = match value {
            Some(SampleValue::U32(value)) => Some(value != 0),
            Some(SampleValue::U64(value)) => Some(value != 0),
            _ => None,
        };
    }
    if told[0].is_none() {
        told[0] = calls.optional("nvmlDeviceGetRetiredPagesPendingStatus", || {
            device.are_pages_pending_retired()
        })?;
    }
    Ok(told)
}

fn processes(
    calls: &Calls,
    device: &Device<'_>,
    lists: ProcessLists,
) -> Result<Vec<GpuProcess>, CallFailure> {
    let compute = calls.run("nvmlDeviceGetComputeRunningProcesses_v3", || {
        retried(|| device.running_compute_processes())
    })?;
    let graphics = if lists.graphics {
        calls.optional("nvmlDeviceGetGraphicsRunningProcesses_v3", || {
            retried(|| device.running_graphics_processes())
        })?
    } else {
        None
    };
    let mps = if lists.mps {
        calls.optional("nvmlDeviceGetMPSComputeRunningProcesses_v3", || {
            retried(|| device.mps_running_compute_processes())
        })?
    } else {
        None
    };
    let lists = [(Some(compute), true), (graphics, false), (mps, true)];
    Ok(merge(lists.into_iter().flat_map(|(list, computes)| {
        let listed = list.into_iter().flatten();
        listed.map(move |process| (process, computes))
    })))
}

/// The list is read in two steps, its length and then itself; when processes start in between it does not fit.
fn retried<T>(body: impl Fn() -> Result<T, NvmlError>) -> Result<T, NvmlError> {
    match body() {
        Err(NvmlError::InsufficientSize(_)) => body(),
        answer => answer,
    }
}

/// One entry for each process: with MIG, or with compute and graphics contexts, NVML lists a process more than once.
fn merge(listed: impl Iterator<Item = (ProcessInfo, bool)>) -> Vec<GpuProcess> {
    let mut processes: Vec<GpuProcess> = listed
        .map(|(process, computes)| GpuProcess {
            pid: process.pid,
            memory_bytes: match process.used_gpu_memory {
                UsedGpuMemory::Used(bytes) => Some(bytes),
                UsedGpuMemory::Unavailable => None,
            },
            computes,
        })
        .collect();
    processes.sort_unstable_by_key(|process| process.pid);
    processes.dedup_by(|next, kept| {
        let same = next.pid == kept.pid;
        if same {
            // The lists repeat the same memory, they do not divide it.
            kept.memory_bytes = kept.memory_bytes.max(next.memory_bytes);
            kept.computes |= next.computes;
        }
        same
    });
    processes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(pid: u32, used: UsedGpuMemory) -> ProcessInfo {
        ProcessInfo {
            pid,
            used_gpu_memory: used,
            gpu_instance_id: None,
            compute_instance_id: None,
        }
    }

    #[test]
    fn a_process_in_two_lists_counts_once() {
        let merged = merge(
            [
                (listed(9, UsedGpuMemory::Used(5)), true),
                (listed(7, UsedGpuMemory::Unavailable), false),
                (listed(9, UsedGpuMemory::Used(6)), false),
            ]
            .into_iter(),
        );
        assert_eq!(
            merged,
            [
                GpuProcess {
                    pid: 7,
                    memory_bytes: None,
                    computes: false,
                },
                GpuProcess {
                    pid: 9,
                    memory_bytes: Some(6),
                    computes: true,
                },
            ]
        );
    }

    #[test]
    fn a_list_that_grew_between_its_two_steps_is_read_again() {
        let tries = std::cell::Cell::new(0);
        let answer = retried(|| {
            tries.set(tries.get() + 1);
            if tries.get() == 1 {
                Err(NvmlError::InsufficientSize(Some(3)))
            } else {
                Ok(tries.get())
            }
        });
        assert_eq!(answer.unwrap(), 2);
    }
}
