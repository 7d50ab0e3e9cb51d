//! `nvmlDeviceGetFieldValues`: many values by number, each with its own return code.

use std::ffi::{c_int, c_longlong};

use gridstake_simulated_gpus_state::{Device, ReturnCode};

use super::load::{energy, temperature};
use crate::{
    abi::{FieldValue, Handle, Value},
    clock,
    library::Call,
    outputs::Answer,
};

/// `NVML_VALUE_TYPE_UNSIGNED_INT` and `NVML_VALUE_TYPE_UNSIGNED_LONG_LONG`.
const UNSIGNED_INT: u32 = 1;
const UNSIGNED_LONG_LONG: u32 = 3;

fn narrow(value: u32) -> (u32, Value) {
    (UNSIGNED_INT, Value { ui_val: value })
}

fn wide(value: u64) -> (u32, Value) {
    (UNSIGNED_LONG_LONG, Value { ull_val: value })
}

/// A field by its `NVML_FI_*` number.
fn field(call: &Call, gpu: &Device, id: u32) -> Answer<(u32, Value)> {
    let only_if = |condition: bool| {
        if condition {
            Ok(())
        } else {
            Err(ReturnCode::NOT_SUPPORTED)
        }
    };
    let model = &gpu.model;
    let faults = &gpu.faults;
    match id {
        1 | 2 => only_if(model.ecc).map(|()| narrow(1)),
        3 | 5 => only_if(model.ecc).map(|()| wide(faults.ecc_corrected)),
        4 | 6 => only_if(model.ecc).map(|()| wide(faults.ecc_uncorrected)),
        29 | 30 => only_if(model.ecc && !model.row_remapping).map(|()| wide(0)),
        31 => only_if(model.ecc && !model.row_remapping)
            .map(|()| wide(u64::from(faults.remap_pending))),
        82 => Ok(narrow(temperature(call, gpu))),
        83 => energy(call, gpu).map(wide),
        90 => nv_link(model.nv_link.as_ref().map(|link| link.megabytes_per_second)),
        91 => nv_link(model.nv_link.as_ref().map(|link| link.links)),
        142 => only_if(model.row_remapping).map(|()| narrow(0)),
        143 => only_if(model.row_remapping)
            .map(|()| narrow(u32::try_from(faults.remapped_rows).unwrap_or(u32::MAX))),
        144 => only_if(model.row_remapping).map(|()| narrow(u32::from(faults.remap_pending))),
        145 => only_if(model.row_remapping).map(|()| narrow(u32::from(faults.remap_failed))),
        185 | 186 => Ok(narrow(gpu.milliwatts(call.is_busy(gpu)))),
        188..=190 | 192 => Ok(narrow(model.power.limit_milliwatts)),
        _ => Err(ReturnCode::NOT_SUPPORTED),
    }
}

fn nv_link(value: Option<u32>) -> Answer<(u32, Value)> {
    value.map(narrow).ok_or(ReturnCode::NOT_SUPPORTED)
}

exported! {
    nvmlDeviceGetFieldValues(call, device: Handle, count: c_int, values: *mut FieldValue) {
        let gpu = call.gpu(device)?;
        let number = usize::try_from(count).map_err(|_| ReturnCode::INVALID_ARGUMENT)?;
        if values.is_null() || number == 0 {
            return Err(ReturnCode::INVALID_ARGUMENT);
        }
        // SAFETY: NVML's contract: `count` values.
        let values = unsafe { std::slice::from_raw_parts_mut(values, number) };
        for value in values {
            let answer = field(call, gpu, value.field_id);
            value.timestamp = c_longlong::try_from(clock::unix_microseconds()).unwrap_or(c_longlong::MAX);
            value.latency_usec = 0;
            match answer {
                Ok((kind, content)) => {
                    value.value_type = kind;
                    value.value = content;
                    value.nvml_return = ReturnCode::SUCCESS.0;
                }
                Err(code) => value.nvml_return = code.0,
            }
        }
        Ok(())
    }
}
