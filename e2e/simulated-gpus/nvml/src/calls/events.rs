//! Event sets. Only Xid errors are simulated.
//!
//! A set has seen all events up to a sequence number: an event is delivered once per set, and those from before a
//! device was registered are not delivered. A set that watches a lost GPU answers `GPU_IS_LOST` once the events
//! that came before are delivered.

use std::{
    collections::BTreeMap,
    ffi::{c_uint, c_ulonglong},
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use gridstake_simulated_gpus_state::{ReturnCode, XidEvent};

use crate::{
    abi::{EVENT_XID, EventData, Handle, NO_INSTANCE},
    handles::DeviceIndex,
    library::{current_snapshot, lock},
    outputs::{Answer, put},
    source::Snapshot,
};

/// Events that a program may register for: single-bit ECC, double-bit ECC, P-state, Xid, clock changes.
const EVENTS_SUPPORTED: c_ulonglong = 0x1f;
/// How often a waiting set looks at the files.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Handles of sets: numbers dressed as pointers, apart from those of devices.
const TAG: usize = 0x4556_0000_0000;

/// From which event on a set watches each device, by the device's UUID.
type Watched = BTreeMap<String, u64>;

struct Sets {
    last: usize,
    sets: BTreeMap<usize, Watched>,
}

static SETS: Mutex<Sets> = Mutex::new(Sets {
    last: 0,
    sets: BTreeMap::new(),
});

/// The last shutdown frees every set.
pub fn forget_all() {
    lock(&SETS).sets.clear();
}

/// What a look at the files found.
enum Look {
    Event(EventData),
    Lost,
    Nothing,
}

/// Finds the oldest event that a set has not seen and marks it as seen.
fn look(watched: &mut Watched, snapshot: &Snapshot) -> Look {
    let devices = &snapshot.state.devices;
    let mut unseen = snapshot
        .state
        .xids
        .iter()
        .filter(|event| {
            watched
                .get(&event.uuid)
                .is_some_and(|seen| event.sequence > *seen)
        })
        .filter_map(|event| {
            Some((
                event,
                devices
                    .iter()
                    .position(|device| device.uuid == event.uuid)?,
            ))
        });
    if let Some((event, gpu)) = unseen.next() {
        watched.insert(event.uuid.clone(), event.sequence);
        return Look::Event(event_data(event, gpu));
    }
    let lost = devices
        .iter()
        .any(|device| device.faults.lost && watched.contains_key(&device.uuid));
    if lost { Look::Lost } else { Look::Nothing }
}

fn event_data(event: &XidEvent, gpu: usize) -> EventData {
    EventData {
        device: DeviceIndex::gpu(gpu).to_handle(),
        event_type: EVENT_XID,
        data: event.xid,
        gpu_instance_id: event.gpu_instance.unwrap_or(NO_INSTANCE),
        compute_instance_id: event.compute_instance.unwrap_or(NO_INSTANCE),
    }
}

fn wait(set: Handle, timeout: Duration) -> Answer<EventData> {
    let deadline = Instant::now() + timeout;
    loop {
        let snapshot = current_snapshot()?;
        let found = {
            let mut sets = lock(&SETS);
            let watched = sets
                .sets
                .get_mut(&set.addr())
                .ok_or(ReturnCode::INVALID_ARGUMENT)?;
            look(watched, &snapshot)
        };
        match found {
            Look::Event(data) => return Ok(data),
            Look::Lost => return Err(ReturnCode::GPU_IS_LOST),
            Look::Nothing => {}
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ReturnCode::TIMEOUT);
        }
        thread::sleep(left.min(LOOK_EVERY));
    }
}

exported! {
    nvmlEventSetCreate(_call, set: *mut Handle) {
        if set.is_null() {
            return Err(ReturnCode::INVALID_ARGUMENT);
        }
        let mut sets = lock(&SETS);
        sets.last += 1;
        let id = TAG | sets.last;
        sets.sets.insert(id, Watched::new());
        // SAFETY: NVML's contract: a handle.
        unsafe { put(set, std::ptr::without_provenance_mut(id)) }
    }

    nvmlEventSetFree(_call, set: Handle) {
        let freed = lock(&SETS).sets.remove(&set.addr());
        freed.map(|_| ()).ok_or(ReturnCode::INVALID_ARGUMENT)
    }

    nvmlDeviceGetSupportedEventTypes(call, device: Handle, types: *mut c_ulonglong) {
        call.gpu(device)?;
        // SAFETY: NVML's contract: an unsigned long long.
        unsafe { put(types, EVENTS_SUPPORTED) }
    }

    nvmlDeviceRegisterEvents(call, device: Handle, types: c_ulonglong, set: Handle) {
        let gpu = call.gpu(device)?;
        if types & !EVENTS_SUPPORTED != 0 {
            return Err(ReturnCode::NOT_SUPPORTED);
        }
        let newest = call.snapshot.state.xids.last().map_or(0, |event| event.sequence);
        let mut sets = lock(&SETS);
        let watched = sets.sets.get_mut(&set.addr()).ok_or(ReturnCode::INVALID_ARGUMENT)?;
        if types & EVENT_XID != 0 {
            watched.entry(gpu.uuid.clone()).or_insert(newest);
        }
        Ok(())
    }

    // The first version of the call knew no MIG instances; the struct has room for them all the same.
    nvmlEventSetWait(_call, set: Handle, data: *mut EventData, timeout_milliseconds: c_uint) {
        if data.is_null() {
            return Err(ReturnCode::INVALID_ARGUMENT);
        }
        // SAFETY: NVML's contract: an nvmlEventData_t.
        unsafe { put(data, wait(set, Duration::from_millis(timeout_milliseconds.into()))?) }
    }

    nvmlEventSetWait_v2(_call, set: Handle, data: *mut EventData, timeout_milliseconds: c_uint) {
        if data.is_null() {
            return Err(ReturnCode::INVALID_ARGUMENT);
        }
        // SAFETY: NVML's contract: an nvmlEventData_t.
        unsafe { put(data, wait(set, Duration::from_millis(timeout_milliseconds.into()))?) }
    }
}
