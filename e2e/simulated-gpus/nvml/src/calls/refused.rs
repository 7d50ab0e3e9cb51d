//! Calls that would change a GPU: the answer is the one that a process without privileges gets.

use std::ffi::c_uint;

use gridstake_simulated_gpus_state::ReturnCode;

use crate::{abi::Handle, library::Call, outputs::Answer};

fn refuse(call: &Call, device: Handle) -> Answer {
    call.gpu(device)?;
    Err(ReturnCode::NO_PERMISSION)
}

exported! {
    nvmlDeviceSetAccountingMode(call, device: Handle, _mode: c_uint) {
        refuse(call, device)
    }

    nvmlDeviceClearAccountingPids(call, device: Handle) {
        refuse(call, device)
    }

    nvmlDeviceSetPersistenceMode(call, device: Handle, _mode: c_uint) {
        refuse(call, device)
    }

    nvmlDeviceSetPowerManagementLimit(call, device: Handle, _milliwatts: c_uint) {
        refuse(call, device)
    }

    nvmlDeviceSetComputeMode(call, device: Handle, _mode: c_uint) {
        refuse(call, device)
    }
}
