//! The devices that the process may see, and how fast they are.

use std::{env, thread, time::Duration};

use gridstake_simulated_gpus_state::{CallFault, Device, DriverKind, State};

/// A `CUresult` other than success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure(pub i32);

impl Failure {
    pub const INVALID_VALUE: Self = Self(1);
    pub const OUT_OF_MEMORY: Self = Self(2);
    pub const NOT_INITIALIZED: Self = Self(3);
    pub const DEVICE_UNAVAILABLE: Self = Self(46);
    pub const NO_DEVICE: Self = Self(100);
    pub const INVALID_DEVICE: Self = Self(101);
    pub const INVALID_CONTEXT: Self = Self(201);
    pub const INVALID_PTX: Self = Self(218);
    pub const INVALID_HANDLE: Self = Self(400);
    pub const NOT_FOUND: Self = Self(500);
    pub const UNKNOWN: Self = Self(999);
}

/// What a call's body answers.
pub type Answer<T = ()> = Result<T, Failure>;

/// By this variable a container is told which devices it has; NVIDIA's runtime shows it no others.
const VISIBLE_DEVICES: &str = "NVIDIA_VISIBLE_DEVICES";

/// Whether there is a driver to talk to.
pub fn driver_answers(state: &State) -> Answer {
    match state.driver.kind {
        DriverKind::Absent | DriverKind::Unloaded => Err(Failure::NO_DEVICE),
        DriverKind::Current | DriverKind::Old => Ok(()),
    }
}

/// The devices that this process may see, in the driver's order.
pub fn visible(state: &State) -> Vec<&Device> {
    let wanted = env::var(VISIBLE_DEVICES).ok();
    let is_wanted = |index: usize, device: &Device| match wanted.as_deref() {
        None | Some("" | "all") => true,
        Some(list) => list
            .split(',')
            .any(|name| name == device.uuid || name == index.to_string()),
    };
    state
        .devices
        .iter()
        .enumerate()
        .filter(|(index, device)| is_wanted(*index, device))
        .map(|(_, device)| device)
        .collect()
}

/// Does what a fault of `symbol` says, on the node or on `device`.
pub fn act_out(state: &State, device: Option<&Device>, symbol: &str) -> Answer {
    let fault = device
        .and_then(|device| device.faults.calls.get(symbol))
        .or_else(|| state.calls.get(symbol));
    if let Some(CallFault {
        error,
        delay_milliseconds,
    }) = fault
    {
        thread::sleep(Duration::from_millis(*delay_milliseconds));
        if let Some(code) = error.map(|code| i32::try_from(code.0).unwrap_or(999))
            && code != 0
        {
            return Err(Failure(code));
        }
    }
    match device {
        Some(device) if device.faults.lost => Err(Failure::DEVICE_UNAVAILABLE),
        _ => Ok(()),
    }
}

/// How long `device` takes for so many units of which its model does `per_nanosecond`.
pub fn time(device: &Device, units: u64, per_nanosecond: u64) -> Duration {
    let percent = u64::from(device.faults.speed_percent.unwrap_or(100)).max(1);
    let nanoseconds =
        u128::from(units) * 100 / (u128::from(per_nanosecond.max(1)) * u128::from(percent));
    Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
}

/// The 16 bytes of a UUID that is written as `GPU-…`.
pub fn uuid_bytes(uuid: &str) -> Option<[u8; 16]> {
    let digits: String = uuid
        .strip_prefix("GPU-")?
        .chars()
        .filter(|c| *c != '-')
        .collect();
    (digits.len() == 32)
        .then(|| u128::from_str_radix(&digits, 16).ok())
        .flatten()
        .map(u128::to_be_bytes)
}
