//! Memory. What is used is what the processes hold.

#[cfg(not(feature = "old-driver"))]
use gridstake_simulated_gpus_state::ReturnCode;

use crate::{
    abi::{Bar1Memory, Handle, Memory},
    library::{Call, Target},
    outputs::put,
};
#[cfg(not(feature = "old-driver"))]
use crate::{
    abi::{MEMORY_V2_VERSION, MemoryV2},
    outputs::take,
};

const MIB: u64 = 1 << 20;

/// Memory of a device in bytes: total, kept by the system, used by processes. The three never exceed the total.
fn amounts(call: &Call, target: &Target) -> (u64, u64, u64) {
    let (total, reserved) = match target.mig {
        Some(mig) => (mig.memory_mib, 0),
        None => (
            target.gpu.model.memory_mib,
            target.gpu.model.reserved_memory_mib,
        ),
    };
    let used: u64 = call.processes(target).fold(0, |sum, process| {
        sum.saturating_add(process.used_memory_mib)
    });
    let reserved = reserved.min(total);
    (
        total * MIB,
        reserved * MIB,
        used.min(total - reserved) * MIB,
    )
}

exported! {
    // The first version counts what the system keeps as used.
    nvmlDeviceGetMemoryInfo(call, device: Handle, memory: *mut Memory) {
        let (total, reserved, used) = amounts(call, &call.device(device)?);
        let used = used + reserved;
        // SAFETY: NVML's contract: an nvmlMemory_t.
        unsafe { put(memory, Memory { total, free: total - used, used }) }
    }

    #[cfg(not(feature = "old-driver"))]
    nvmlDeviceGetMemoryInfo_v2(call, device: Handle, memory: *mut MemoryV2) {
        // SAFETY: NVML's contract: an nvmlMemory_v2_t whose first word is set.
        let version = unsafe { take(memory.cast::<u32>()) }?;
        let (total, reserved, used) = amounts(call, &call.device(device)?);
        if version != MEMORY_V2_VERSION {
            return Err(ReturnCode::ARGUMENT_VERSION_MISMATCH);
        }
        // SAFETY: as above, and the version word vouches for the size.
        unsafe { put(memory, MemoryV2 { version, total, reserved, free: total - reserved - used, used }) }
    }

    // As large as the device's memory, rounded up to a power of two, as boards with a resizable BAR have it.
    nvmlDeviceGetBAR1MemoryInfo(call, device: Handle, memory: *mut Bar1Memory) {
        let total = call.gpu(device)?.model.memory_mib.next_power_of_two() * MIB;
        let used = MIB;
        // SAFETY: NVML's contract: an nvmlBAR1Memory_t.
        unsafe { put(memory, Bar1Memory { total, free: total - used, used }) }
    }
}
