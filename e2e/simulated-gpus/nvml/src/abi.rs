//! The C types of nvml.h 13.5 that the exported functions take. `tests/struct_layout.rs` compares each size and
//! offset with the published header.

use std::ffi::{c_char, c_int, c_longlong, c_uint, c_ulonglong, c_void};

/// `nvmlDevice_t` and `nvmlEventSet_t`: opaque to the caller.
pub type Handle = *mut c_void;

/// "No MIG instance" in process lists and events.
pub const NO_INSTANCE: c_uint = u32::MAX;
/// `nvmlEventTypeXidCriticalError`.
pub const EVENT_XID: c_ulonglong = 0x8;
/// `nvmlMemory_v2`: the version word that callers put into [`MemoryV2`].
#[cfg(not(feature = "old-driver"))]
pub const MEMORY_V2_VERSION: c_uint = version_word(size_of::<MemoryV2>(), 2);

/// `NVML_STRUCT_VERSION`: size in the low 24 bits, version in the high 8.
#[cfg(not(feature = "old-driver"))]
#[expect(
    clippy::cast_possible_truncation,
    reason = "structs are smaller than 16 MiB"
)]
const fn version_word(size: usize, version: c_uint) -> c_uint {
    size as c_uint | (version << 24)
}

/// `nvmlPciInfo_t`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct PciInfo {
    pub bus_id_legacy: [c_char; 16],
    pub domain: c_uint,
    pub bus: c_uint,
    pub device: c_uint,
    pub pci_device_id: c_uint,
    pub pci_subsystem_id: c_uint,
    pub bus_id: [c_char; 32],
}

/// `nvmlMemory_t`, in bytes.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Memory {
    pub total: c_ulonglong,
    pub free: c_ulonglong,
    pub used: c_ulonglong,
}

/// `nvmlMemory_v2_t`, in bytes.
#[cfg(not(feature = "old-driver"))]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct MemoryV2 {
    pub version: c_uint,
    pub total: c_ulonglong,
    pub reserved: c_ulonglong,
    pub free: c_ulonglong,
    pub used: c_ulonglong,
}

/// `nvmlBAR1Memory_t`, in bytes.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Bar1Memory {
    pub total: c_ulonglong,
    pub free: c_ulonglong,
    pub used: c_ulonglong,
}

/// `nvmlUtilization_t`, in percent.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Utilization {
    pub gpu: c_uint,
    pub memory: c_uint,
}

/// `nvmlProcessInfo_v1_t`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ProcessInfoV1 {
    pub pid: c_uint,
    pub used_gpu_memory: c_ulonglong,
}

/// `nvmlProcessInfo_v2_t`, which is also what the `_v3` calls fill.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ProcessInfo {
    pub pid: c_uint,
    pub used_gpu_memory: c_ulonglong,
    pub gpu_instance_id: c_uint,
    pub compute_instance_id: c_uint,
}

/// `nvmlProcessUtilizationSample_t`; times in microseconds since 1970, loads in percent.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ProcessUtilizationSample {
    pub pid: c_uint,
    pub time_stamp: c_ulonglong,
    pub sm_util: c_uint,
    pub mem_util: c_uint,
    pub enc_util: c_uint,
    pub dec_util: c_uint,
}

/// `nvmlAccountingStats_t`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct AccountingStats {
    pub gpu_utilization: c_uint,
    pub memory_utilization: c_uint,
    pub max_memory_usage: c_ulonglong,
    pub time: c_ulonglong,
    pub start_time: c_ulonglong,
    pub is_running: c_uint,
    pub reserved: [c_uint; 5],
}

/// `nvmlDeviceAttributes_t`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct DeviceAttributes {
    pub multiprocessor_count: c_uint,
    pub shared_copy_engine_count: c_uint,
    pub shared_decoder_count: c_uint,
    pub shared_encoder_count: c_uint,
    pub shared_jpeg_count: c_uint,
    pub shared_ofa_count: c_uint,
    pub gpu_instance_slice_count: c_uint,
    pub compute_instance_slice_count: c_uint,
    pub memory_size_mb: c_ulonglong,
}

/// `nvmlEventData_t`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct EventData {
    pub device: Handle,
    pub event_type: c_ulonglong,
    pub data: c_ulonglong,
    pub gpu_instance_id: c_uint,
    pub compute_instance_id: c_uint,
}

/// `nvmlValue_t`.
#[repr(C)]
#[derive(Clone, Copy)]
pub union Value {
    pub d_val: f64,
    pub si_val: c_int,
    pub ui_val: c_uint,
    pub ull_val: c_ulonglong,
    pub sll_val: c_longlong,
}

/// `nvmlFieldValue_t`; times in microseconds.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct FieldValue {
    pub field_id: c_uint,
    pub scope_id: c_uint,
    pub timestamp: c_longlong,
    pub latency_usec: c_longlong,
    pub value_type: c_uint,
    pub nvml_return: c_uint,
    pub value: Value,
}
