//! Counting devices and finding their handles.
//!
//! A lost GPU is still counted and answers `GPU_IS_LOST` by index, bus id and serial. By UUID nvml.h says
//! `GPU_IS_LOST` "if any GPU has fallen off the bus": the search asks each GPU in turn, so that one lost GPU hides
//! the others. That is kept, since programs must live with it.

use std::ffi::{c_char, c_uint};

use gridstake_simulated_gpus_state::{Pci, ReturnCode};

use crate::{
    abi::Handle,
    handles::DeviceIndex,
    library::Call,
    outputs::{Answer, put, take_text},
};

fn count(call: &Call) -> Answer<c_uint> {
    c_uint::try_from(call.devices().len()).map_err(|_| ReturnCode::UNKNOWN)
}

fn by_index(call: &Call, index: c_uint) -> Answer<Handle> {
    let gpu = call
        .devices()
        .get(index as usize)
        .ok_or(ReturnCode::INVALID_ARGUMENT)?;
    call.answers(gpu)?;
    Ok(DeviceIndex::gpu(index as usize).to_handle())
}

fn by_uuid(call: &Call, uuid: &str) -> Answer<Handle> {
    for gpu in call.devices() {
        call.answers(gpu)?;
    }
    for (index, gpu) in call.devices().iter().enumerate() {
        if gpu.uuid == uuid {
            return Ok(DeviceIndex::gpu(index).to_handle());
        }
        let instances = gpu.mig.as_deref().unwrap_or_default();
        let position = instances
            .iter()
            .position(|slot| slot.as_ref().is_some_and(|instance| instance.uuid == uuid));
        if position.is_some() {
            return Ok(DeviceIndex {
                gpu: index,
                mig: position,
            }
            .to_handle());
        }
    }
    Err(ReturnCode::NOT_FOUND)
}

/// Reads `domain:bus:device.function`, `domain:bus:device` or `bus:device.function`, all hexadecimal.
fn parse_bus_id(text: &str) -> Option<Pci> {
    let (place, function) = match text.split_once('.') {
        Some((place, function)) => (place, Some(function)),
        None => (text, None),
    };
    let hexadecimal = |part: &str| u32::from_str_radix(part, 16).ok();
    if let Some(function) = function {
        hexadecimal(function)?;
    }
    let parts: Vec<_> = place.split(':').map(hexadecimal).collect::<Option<_>>()?;
    match (parts.as_slice(), function) {
        (&[domain, bus, device], _) => Some(Pci {
            domain,
            bus,
            device,
        }),
        (&[bus, device], Some(_)) => Some(Pci {
            domain: 0,
            bus,
            device,
        }),
        _ => None,
    }
}

fn by_bus_id(call: &Call, bus_id: &str) -> Answer<Handle> {
    let pci = parse_bus_id(bus_id).ok_or(ReturnCode::INVALID_ARGUMENT)?;
    let index = call
        .devices()
        .iter()
        .position(|gpu| gpu.pci == pci)
        .ok_or(ReturnCode::NOT_FOUND)?;
    call.answers(&call.devices()[index])?;
    Ok(DeviceIndex::gpu(index).to_handle())
}

exported! {
    nvmlDeviceGetCount(call, number: *mut c_uint) {
        // SAFETY: NVML's contract: an unsigned int.
        unsafe { put(number, count(call)?) }
    }

    nvmlDeviceGetCount_v2(call, number: *mut c_uint) {
        // SAFETY: NVML's contract: an unsigned int.
        unsafe { put(number, count(call)?) }
    }

    nvmlDeviceGetHandleByIndex(call, index: c_uint, device: *mut Handle) {
        // SAFETY: NVML's contract: a handle.
        unsafe { put(device, by_index(call, index)?) }
    }

    nvmlDeviceGetHandleByIndex_v2(call, index: c_uint, device: *mut Handle) {
        // SAFETY: NVML's contract: a handle.
        unsafe { put(device, by_index(call, index)?) }
    }

    nvmlDeviceGetHandleByUUID(call, uuid: *const c_char, device: *mut Handle) {
        // SAFETY: NVML's contract: a NUL-terminated string, a handle.
        unsafe { put(device, by_uuid(call, &take_text(uuid)?)?) }
    }

    nvmlDeviceGetHandleByPciBusId(call, bus_id: *const c_char, device: *mut Handle) {
        // SAFETY: NVML's contract: a NUL-terminated string, a handle.
        unsafe { put(device, by_bus_id(call, &take_text(bus_id)?)?) }
    }

    nvmlDeviceGetHandleByPciBusId_v2(call, bus_id: *const c_char, device: *mut Handle) {
        // SAFETY: NVML's contract: a NUL-terminated string, a handle.
        unsafe { put(device, by_bus_id(call, &take_text(bus_id)?)?) }
    }

    nvmlDeviceGetHandleBySerial(call, serial: *const c_char, device: *mut Handle) {
        // SAFETY: NVML's contract: a NUL-terminated string.
        let serial = unsafe { take_text(serial) }?;
        let index = call
            .devices()
            .iter()
            .position(|gpu| gpu.serial == serial)
            .ok_or(ReturnCode::NOT_FOUND)?;
        // SAFETY: NVML's contract: a handle.
        unsafe { put(device, by_index(call, c_uint::try_from(index).map_err(|_| ReturnCode::UNKNOWN)?)?) }
    }

    nvmlDeviceGetIndex(call, device: Handle, index: *mut c_uint) {
        let target = call.device(device)?;
        let position = target.index.mig.unwrap_or(target.index.gpu);
        // SAFETY: NVML's contract: an unsigned int.
        unsafe { put(index, c_uint::try_from(position).map_err(|_| ReturnCode::UNKNOWN)?) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bus_ids_are_read_in_every_form_of_the_header() {
        let pci = Pci {
            domain: 0,
            bus: 0x1b,
            device: 0,
        };
        for text in ["00000000:1B:00.0", "0000:1b:00.0", "0:1b:0", "1B:00.0"] {
            assert_eq!(parse_bus_id(text), Some(pci), "{text}");
        }
        for text in ["", "1b", "1b:00", "0:1b:00.x", "zz:1b:00.0", "0:0:1b:00.0"] {
            assert_eq!(parse_bus_id(text), None, "{text}");
        }
    }
}
