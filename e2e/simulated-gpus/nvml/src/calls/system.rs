//! Initialisation, versions, texts.

use std::{
    ffi::{c_char, c_int, c_uint},
    fs,
};

use gridstake_simulated_gpus_state::ReturnCode;

use crate::{
    library::{initialize, shutdown},
    outputs::{put, put_text},
};

#[allow(non_snake_case, reason = "NVML's name")]
#[unsafe(no_mangle)]
pub extern "C" fn nvmlInit() -> c_uint {
    initialize("nvmlInit")
}

#[allow(non_snake_case, reason = "NVML's name")]
#[unsafe(no_mangle)]
pub extern "C" fn nvmlInit_v2() -> c_uint {
    initialize("nvmlInit_v2")
}

#[allow(non_snake_case, reason = "NVML's name")]
#[unsafe(no_mangle)]
pub extern "C" fn nvmlInitWithFlags(_flags: c_uint) -> c_uint {
    initialize("nvmlInitWithFlags")
}

#[allow(non_snake_case, reason = "NVML's name")]
#[unsafe(no_mangle)]
pub extern "C" fn nvmlShutdown() -> c_uint {
    shutdown()
}

/// The only function that works without initialisation.
#[allow(non_snake_case, reason = "NVML's name")]
#[unsafe(no_mangle)]
pub extern "C" fn nvmlErrorString(result: c_uint) -> *const c_char {
    ReturnCode(result).c_text().as_ptr().cast()
}

exported! {
    nvmlSystemGetDriverVersion(call, version: *mut c_char, length: c_uint) {
        // SAFETY: NVML's contract: `length` bytes.
        unsafe { put_text(version, length, &call.snapshot.state.driver.version) }
    }

    nvmlSystemGetNVMLVersion(call, version: *mut c_char, length: c_uint) {
        // SAFETY: NVML's contract: `length` bytes.
        unsafe { put_text(version, length, &call.snapshot.state.driver.nvml_version) }
    }

    nvmlSystemGetCudaDriverVersion(call, version: *mut c_int) {
        // SAFETY: NVML's contract: an int.
        unsafe { put(version, call.snapshot.state.driver.cuda_version) }
    }

    nvmlSystemGetCudaDriverVersion_v2(call, version: *mut c_int) {
        // SAFETY: NVML's contract: an int.
        unsafe { put(version, call.snapshot.state.driver.cuda_version) }
    }

    // The name is cut where the buffer is too small.
    nvmlSystemGetProcessName(_call, pid: c_uint, name: *mut c_char, length: c_uint) {
        let command = fs::read_to_string(format!("/proc/{pid}/comm")).map_err(|_| ReturnCode::NOT_FOUND)?;
        let mut shown = command.trim_end().to_owned();
        while shown.len() >= length.max(1) as usize {
            shown.pop();
        }
        // SAFETY: NVML's contract: `length` bytes.
        unsafe { put_text(name, length, &shown) }
    }
}
