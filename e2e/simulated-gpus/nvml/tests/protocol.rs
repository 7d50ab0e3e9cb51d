//! NVML's protocol, called as C calls it: list sizes in two steps, version words, NULL pointers, handles, counting of
//! initialisations.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may panic"
)]

mod support;

use std::{
    ffi::{CStr, c_char, c_uint, c_void},
    ptr::null_mut,
};

use gridstake_simulated_gpus::state::ReturnCode;
use nvml_wrapper_sys::bindings::{
    NvmlLib, nvmlDevice_t, nvmlFieldValue_t, nvmlMemory_v2_t, nvmlProcessInfo_t,
    nvmlProcessUtilizationSample_t, nvmlUtilization_t,
};
use support::Node;

/// Calls a symbol of the library with the types of nvml-wrapper's bindings and answers the code.
macro_rules! call {
    ($library:expr, $symbol:ident($($argument:expr),* $(,)?)) => {{
        let function = $library.$symbol.as_ref().expect(stringify!($symbol));
        // SAFETY: the pointers are NULL or point to values of the types that the bindings name.
        ReturnCode(unsafe { function($($argument),*) })
    }};
}

fn load(node: &Node) -> NvmlLib {
    // SAFETY: the double runs no code when it is loaded.
    unsafe { NvmlLib::new(&node.library) }.unwrap()
}

fn initialized(node: &Node) -> (NvmlLib, nvmlDevice_t) {
    let nvml = load(node);
    assert_eq!(call!(nvml, nvmlInit_v2()), ReturnCode::SUCCESS);
    let mut device = null_mut();
    assert_eq!(
        call!(nvml, nvmlDeviceGetHandleByIndex_v2(0, &raw mut device)),
        ReturnCode::SUCCESS
    );
    (nvml, device)
}

#[test]
fn nothing_works_before_init_or_after_the_last_shutdown() {
    let node = Node::new("h100");
    let nvml = load(&node);
    let mut count = 0;
    let count = &raw mut count;
    assert_eq!(
        call!(nvml, nvmlDeviceGetCount_v2(count)),
        ReturnCode::UNINITIALIZED
    );
    assert_eq!(call!(nvml, nvmlShutdown()), ReturnCode::UNINITIALIZED);
    assert_eq!(call!(nvml, nvmlInit_v2()), ReturnCode::SUCCESS);
    assert_eq!(call!(nvml, nvmlInitWithFlags(0)), ReturnCode::SUCCESS);
    assert_eq!(call!(nvml, nvmlShutdown()), ReturnCode::SUCCESS);
    assert_eq!(
        call!(nvml, nvmlDeviceGetCount_v2(count)),
        ReturnCode::SUCCESS
    );
    assert_eq!(call!(nvml, nvmlShutdown()), ReturnCode::SUCCESS);
    assert_eq!(
        call!(nvml, nvmlDeviceGetCount_v2(count)),
        ReturnCode::UNINITIALIZED
    );
    assert_eq!(call!(nvml, nvmlShutdown()), ReturnCode::UNINITIALIZED);
}

#[test]
fn error_texts_need_no_init() {
    let node = Node::new("h100");
    let nvml = load(&node);
    let function = nvml.nvmlErrorString.as_ref().unwrap();
    for (code, _, text) in ReturnCode::ALL {
        // SAFETY: any number may be asked for; the answer is a static string.
        let answer = unsafe { CStr::from_ptr(function(code.0)) };
        assert_eq!(answer.to_str().unwrap(), *text);
    }
    // SAFETY: as above.
    let unknown = unsafe { CStr::from_ptr(function(12_345)) };
    assert_eq!(unknown.to_str().unwrap(), "Unknown Error");
}

#[test]
fn a_process_list_says_its_size_first() {
    let node = Node::new("h100");
    let (nvml, device) = initialized(&node);
    let mut count: c_uint = 0;
    // Nothing runs: a success even without a buffer.
    assert_eq!(
        call!(
            nvml,
            nvmlDeviceGetComputeRunningProcesses_v3(device, &raw mut count, null_mut())
        ),
        ReturnCode::SUCCESS
    );
    node.run(0, &[41, 42, 43]);
    assert_eq!(
        call!(
            nvml,
            nvmlDeviceGetComputeRunningProcesses_v3(device, &raw mut count, null_mut())
        ),
        ReturnCode::INSUFFICIENT_SIZE
    );
    assert_eq!(count, 3);
    // SAFETY: zeros are a process info.
    let mut infos: [nvmlProcessInfo_t; 5] = unsafe { std::mem::zeroed() };
    for too_small in [0, 1, 2] {
        count = too_small;
        assert_eq!(
            call!(
                nvml,
                nvmlDeviceGetComputeRunningProcesses_v3(device, &raw mut count, infos.as_mut_ptr())
            ),
            ReturnCode::INSUFFICIENT_SIZE
        );
        assert_eq!((count, infos[0].pid), (3, 0));
    }
    for fits in [3, 5] {
        count = fits;
        assert_eq!(
            call!(
                nvml,
                nvmlDeviceGetComputeRunningProcesses_v3(device, &raw mut count, infos.as_mut_ptr())
            ),
            ReturnCode::SUCCESS
        );
        let pids: Vec<_> = infos[..count as usize]
            .iter()
            .map(|info| info.pid)
            .collect();
        assert_eq!(pids, [41, 42, 43]);
        assert_eq!(infos[0].usedGpuMemory, 1 << 30);
        assert_eq!(
            (infos[0].gpuInstanceId, infos[0].computeInstanceId),
            (u32::MAX, u32::MAX)
        );
    }
    assert_eq!(
        call!(
            nvml,
            nvmlDeviceGetComputeRunningProcesses_v3(device, &raw mut count, null_mut())
        ),
        ReturnCode::INVALID_ARGUMENT
    );
    assert_eq!(
        call!(
            nvml,
            nvmlDeviceGetComputeRunningProcesses_v3(device, null_mut(), infos.as_mut_ptr())
        ),
        ReturnCode::INVALID_ARGUMENT
    );
    // Each list has its own processes.
    assert_eq!(
        call!(
            nvml,
            nvmlDeviceGetGraphicsRunningProcesses_v3(device, &raw mut count, infos.as_mut_ptr())
        ),
        ReturnCode::SUCCESS
    );
    assert_eq!(count, 0);
}

#[test]
fn memory_v2_wants_its_version_word() {
    let node = Node::new("h100");
    let (nvml, device) = initialized(&node);
    // SAFETY: zeros are a memory info.
    let mut memory: nvmlMemory_v2_t = unsafe { std::mem::zeroed() };
    for wrong in [0, 2, 40, 0x0100_0028, 0x0200_0020, 0x0300_0028] {
        memory.version = wrong;
        assert_eq!(
            call!(nvml, nvmlDeviceGetMemoryInfo_v2(device, &raw mut memory)),
            ReturnCode::ARGUMENT_VERSION_MISMATCH,
            "{wrong:#x}"
        );
    }
    memory.version = 0x0200_0028;
    assert_eq!(
        call!(nvml, nvmlDeviceGetMemoryInfo_v2(device, &raw mut memory)),
        ReturnCode::SUCCESS
    );
    assert_eq!(memory.version, 0x0200_0028);
    assert_eq!(memory.total, memory.reserved + memory.used + memory.free);
}

#[test]
fn a_text_needs_room_for_its_nul() {
    let node = Node::new("h100");
    let (nvml, device) = initialized(&node);
    let mut text: [c_char; 41] = [0x7f; 41];
    assert_eq!(
        call!(nvml, nvmlDeviceGetUUID(device, text.as_mut_ptr(), 40)),
        ReturnCode::INSUFFICIENT_SIZE
    );
    assert!(
        text.iter().all(|byte| *byte == 0x7f),
        "a buffer that is too small is left alone"
    );
    assert_eq!(
        call!(nvml, nvmlDeviceGetUUID(device, text.as_mut_ptr(), 41)),
        ReturnCode::SUCCESS
    );
    assert_eq!(text[40], 0);
    assert_eq!(
        call!(nvml, nvmlDeviceGetUUID(device, text.as_mut_ptr(), 0)),
        ReturnCode::INSUFFICIENT_SIZE
    );
}

#[test]
fn null_is_an_invalid_argument_everywhere() {
    let node = Node::new("h100");
    node.change(|state| state.devices[0].accounting = true);
    let (nvml, device) = initialized(&node);
    node.run(0, &[41]);
    let answers = [
        call!(nvml, nvmlSystemGetDriverVersion(null_mut(), 80)),
        call!(nvml, nvmlSystemGetNVMLVersion(null_mut(), 80)),
        call!(nvml, nvmlSystemGetCudaDriverVersion_v2(null_mut())),
        call!(nvml, nvmlDeviceGetCount_v2(null_mut())),
        call!(nvml, nvmlDeviceGetHandleByIndex_v2(0, null_mut())),
        call!(nvml, nvmlDeviceGetHandleByUUID(null_mut(), null_mut())),
        call!(
            nvml,
            nvmlDeviceGetHandleByPciBusId_v2(null_mut(), null_mut())
        ),
        call!(nvml, nvmlDeviceGetUUID(device, null_mut(), 96)),
        call!(nvml, nvmlDeviceGetName(device, null_mut(), 96)),
        call!(nvml, nvmlDeviceGetSerial(device, null_mut(), 30)),
        call!(nvml, nvmlDeviceGetMinorNumber(device, null_mut())),
        call!(nvml, nvmlDeviceGetIndex(device, null_mut())),
        call!(nvml, nvmlDeviceGetPciInfo_v3(device, null_mut())),
        call!(nvml, nvmlDeviceGetBrand(device, null_mut())),
        call!(nvml, nvmlDeviceGetArchitecture(device, null_mut())),
        call!(
            nvml,
            nvmlDeviceGetCudaComputeCapability(device, null_mut(), null_mut())
        ),
        call!(nvml, nvmlDeviceGetMemoryInfo(device, null_mut())),
        call!(nvml, nvmlDeviceGetMemoryInfo_v2(device, null_mut())),
        call!(nvml, nvmlDeviceGetBAR1MemoryInfo(device, null_mut())),
        call!(nvml, nvmlDeviceGetUtilizationRates(device, null_mut())),
        call!(nvml, nvmlDeviceGetTemperature(device, 0, null_mut())),
        call!(nvml, nvmlDeviceGetPowerUsage(device, null_mut())),
        call!(nvml, nvmlDeviceGetEnforcedPowerLimit(device, null_mut())),
        call!(
            nvml,
            nvmlDeviceGetTotalEnergyConsumption(device, null_mut())
        ),
        call!(nvml, nvmlDeviceGetClockInfo(device, 0, null_mut())),
        call!(nvml, nvmlDeviceGetEccMode(device, null_mut(), null_mut())),
        call!(nvml, nvmlDeviceGetTotalEccErrors(device, 0, 0, null_mut())),
        call!(
            nvml,
            nvmlDeviceGetRemappedRows(device, null_mut(), null_mut(), null_mut(), null_mut())
        ),
        call!(nvml, nvmlDeviceGetMigMode(device, null_mut(), null_mut())),
        call!(nvml, nvmlDeviceGetMaxMigDeviceCount(device, null_mut())),
        call!(nvml, nvmlDeviceIsMigDeviceHandle(device, null_mut())),
        call!(
            nvml,
            nvmlDeviceGetProcessUtilization(device, null_mut(), null_mut(), 0)
        ),
        call!(nvml, nvmlDeviceGetAccountingMode(device, null_mut())),
        call!(
            nvml,
            nvmlDeviceGetAccountingPids(device, null_mut(), null_mut())
        ),
        call!(nvml, nvmlDeviceGetAccountingStats(device, 41, null_mut())),
        call!(nvml, nvmlEventSetCreate(null_mut())),
        call!(nvml, nvmlEventSetFree(null_mut())),
        call!(nvml, nvmlEventSetWait_v2(null_mut(), null_mut(), 0)),
        call!(nvml, nvmlDeviceGetSupportedEventTypes(device, null_mut())),
        call!(nvml, nvmlDeviceRegisterEvents(device, 8, null_mut())),
        call!(nvml, nvmlDeviceGetNvLinkState(device, 0, null_mut())),
        call!(
            nvml,
            nvmlDeviceGetNvLinkRemotePciInfo_v2(device, 0, null_mut())
        ),
        call!(
            nvml,
            nvmlDeviceGetTopologyCommonAncestor(device, device, null_mut())
        ),
        call!(
            nvml,
            nvmlDeviceGetCurrentClocksEventReasons(device, null_mut())
        ),
        call!(nvml, nvmlDeviceGetFieldValues(device, 1, null_mut())),
    ];
    for (position, answer) in answers.iter().enumerate() {
        assert_eq!(*answer, ReturnCode::INVALID_ARGUMENT, "call {position}");
    }
}

#[test]
fn a_pointer_that_is_no_handle_is_an_invalid_argument() {
    let node = Node::new("h100");
    let (nvml, device) = initialized(&node);
    let mut local = 0_u64;
    let beyond = device.wrapping_byte_add(8 << 8);
    let mig_that_is_not = device.wrapping_byte_add(1);
    let foreign: nvmlDevice_t = (&raw mut local).cast();
    let mut utilization = nvmlUtilization_t { gpu: 0, memory: 0 };
    for handle in [null_mut(), foreign, beyond, mig_that_is_not] {
        assert_eq!(
            call!(
                nvml,
                nvmlDeviceGetUtilizationRates(handle, &raw mut utilization)
            ),
            ReturnCode::INVALID_ARGUMENT
        );
    }
}

#[test]
fn no_newer_sample_of_process_utilisation_is_not_found() {
    let node = Node::new("h100");
    let (nvml, device) = initialized(&node);
    let mut count: c_uint = 0;
    assert_eq!(
        call!(
            nvml,
            nvmlDeviceGetProcessUtilization(device, null_mut(), &raw mut count, 0)
        ),
        ReturnCode::NOT_FOUND
    );
    node.run(0, &[41, 42]);
    assert_eq!(
        call!(
            nvml,
            nvmlDeviceGetProcessUtilization(device, null_mut(), &raw mut count, 0)
        ),
        ReturnCode::INSUFFICIENT_SIZE
    );
    assert_eq!(count, 2);
    // SAFETY: zeros are a sample.
    let mut samples: [nvmlProcessUtilizationSample_t; 2] = unsafe { std::mem::zeroed() };
    assert_eq!(
        call!(
            nvml,
            nvmlDeviceGetProcessUtilization(device, samples.as_mut_ptr(), &raw mut count, 0)
        ),
        ReturnCode::SUCCESS
    );
    assert_eq!((samples[0].pid, samples[1].pid), (41, 42));
    assert!(samples[0].smUtil > 0);
    assert_eq!(
        call!(
            nvml,
            nvmlDeviceGetProcessUtilization(device, samples.as_mut_ptr(), &raw mut count, u64::MAX)
        ),
        ReturnCode::NOT_FOUND
    );
}

#[test]
fn field_values_each_have_their_own_code() {
    let node = Node::new("h100");
    let (nvml, device) = initialized(&node);
    // SAFETY: zeros are a field value.
    let mut values: [nvmlFieldValue_t; 4] = unsafe { std::mem::zeroed() };
    for (value, id) in values.iter_mut().zip([83, 91, 29, 9_999]) {
        value.fieldId = id;
    }
    assert_eq!(
        call!(
            nvml,
            nvmlDeviceGetFieldValues(device, 4, values.as_mut_ptr())
        ),
        ReturnCode::SUCCESS
    );
    let codes: Vec<_> = values
        .iter()
        .map(|value| ReturnCode(value.nvmlReturn))
        .collect();
    let (ok, no) = (ReturnCode::SUCCESS, ReturnCode::NOT_SUPPORTED);
    assert_eq!(codes, [ok, ok, no, no]);
    // SAFETY: the type of the value is an unsigned int.
    assert_eq!(unsafe { values[1].value.uiVal }, 18);
    for count in [0, -1] {
        assert_eq!(
            call!(
                nvml,
                nvmlDeviceGetFieldValues(device, count, values.as_mut_ptr())
            ),
            ReturnCode::INVALID_ARGUMENT
        );
    }
}

#[test]
fn a_library_that_is_closed_leaves_the_process() {
    let node = Node::new("h100");
    let is_mapped = || {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        maps.contains(node.library.to_str().unwrap())
    };
    let (nvml, device) = initialized(&node);
    let mut energy = 0;
    assert_eq!(
        call!(
            nvml,
            nvmlDeviceGetTotalEnergyConsumption(device, &raw mut energy)
        ),
        ReturnCode::SUCCESS
    );
    assert_eq!(call!(nvml, nvmlShutdown()), ReturnCode::SUCCESS);
    assert!(is_mapped());
    drop(nvml);
    assert!(
        !is_mapped(),
        "a new driver's library could not be loaded in its place"
    );
}

/// The list from before MIG, with the buffer's type left open.
type FirstVersion = unsafe extern "C" fn(nvmlDevice_t, *mut c_uint, *mut c_void) -> c_uint;

#[test]
fn an_old_driver_has_the_first_versions_of_the_lists() {
    let node = Node::old_driver("t4");
    let (nvml, device) = initialized(&node);
    node.run(0, &[41]);
    assert!(nvml.nvmlDeviceGetComputeRunningProcesses_v3.is_err());
    assert!(nvml.nvmlDeviceGetMemoryInfo_v2.is_err());
    // SAFETY: the signature is nvml.h's, with the buffer's type left open.
    let list: libloading::Symbol<FirstVersion> = unsafe {
        nvml.__library
            .get(b"nvmlDeviceGetComputeRunningProcesses\0")
    }
    .unwrap();
    let mut count: c_uint = 0;
    // SAFETY: a count of zero asks for the size.
    let answer = unsafe { list(device, &raw mut count, null_mut()) };
    assert_eq!(
        (ReturnCode(answer), count),
        (ReturnCode::INSUFFICIENT_SIZE, 1)
    );
    // nvmlProcessInfo_v1_t: a process id, four bytes of padding, the memory.
    let mut info = [0_u64; 2];
    // SAFETY: room for one entry of 16 bytes.
    let answer = unsafe { list(device, &raw mut count, info.as_mut_ptr().cast()) };
    assert_eq!(ReturnCode(answer), ReturnCode::SUCCESS);
    assert_eq!((info[0] & 0xffff_ffff, info[1]), (41, 1 << 30));
}
