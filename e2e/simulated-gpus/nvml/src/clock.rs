//! The two clocks that NVML's answers refer to.

use std::{
    ffi::c_int,
    time::{SystemTime, UNIX_EPOCH},
};

/// `struct timespec` on 64-bit Linux.
#[repr(C)]
struct Timespec {
    seconds: i64,
    nanoseconds: i64,
}

/// `CLOCK_BOOTTIME` of Linux's time.h.
const CLOCK_BOOTTIME: c_int = 7;

unsafe extern "C" {
    fn clock_gettime(clock: c_int, time: *mut Timespec) -> c_int;
}

/// Nanoseconds since the machine's boot, suspended time included.
pub fn boottime_nanoseconds() -> u64 {
    let mut time = Timespec {
        seconds: 0,
        nanoseconds: 0,
    };
    // SAFETY: `time` is a valid timespec to write to; a clock that does not exist leaves it at zero.
    unsafe { clock_gettime(CLOCK_BOOTTIME, &raw mut time) };
    let total = i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanoseconds);
    u64::try_from(total).unwrap_or_default()
}

/// Microseconds since 1970.
pub fn unix_microseconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| {
            u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
        })
}
