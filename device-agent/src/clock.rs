//! The clocks of metering. Spans are measured on CLOCK_BOOTTIME, which nobody can set and which counts on while the node
//! sleeps; they are told in Unix milliseconds through one [`Anchor`] that is fixed when a lease begins. So a clock that is
//! set in mid-run changes no duration.

use std::{
    fs, io,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// Milliseconds since the node's boot.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct BootMillis(pub u64);

impl BootMillis {
    /// Now.
    #[must_use]
    pub fn now() -> Self {
        let time = clock_gettime(ClockId::Boottime);
        let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
        let nanos = u64::try_from(time.tv_nsec).unwrap_or_default();
        Self(
            seconds
                .saturating_mul(1000)
                .saturating_add(nanos / 1_000_000),
        )
    }

    /// The start of a process, from field 22 of `/proc/<pid>/stat`.
    #[must_use]
    pub fn of_ticks(ticks: u64) -> Self {
        Self::of_ticks_at(ticks, rustix::param::clock_ticks_per_second())
    }

    fn of_ticks_at(ticks: u64, per_second: u64) -> Self {
        Self(ticks.saturating_mul(1000) / per_second.max(1))
    }

    /// How long after `earlier` this is, in milliseconds; 0 if it is before.
    #[must_use]
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// This moment `millis` later.
    #[must_use]
    pub fn plus(self, millis: u64) -> Self {
        Self(self.0.saturating_add(millis))
    }
}

/// The Unix time of the node's boot in milliseconds, as the wall clock had it when the anchor was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Anchor(u64);

impl Anchor {
    /// By the wall clock as it is now.
    #[must_use]
    pub fn now() -> Self {
        Self::at(wall_unix_ms(), BootMillis::now())
    }

    /// The wall clock shows `unix_ms` at `boot`.
    #[must_use]
    pub fn at(unix_ms: u64, boot: BootMillis) -> Self {
        Self(unix_ms.saturating_sub(boot.0))
    }

    /// A moment in Unix milliseconds.
    #[must_use]
    pub fn unix_ms(self, moment: BootMillis) -> u64 {
        self.0.saturating_add(moment.0)
    }
}

/// The wall clock, in Unix milliseconds: whoever sets it moves it.
#[must_use]
pub fn wall_unix_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| {
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        })
}

/// What names this boot of the node: after another, no process and no CLOCK_BOOTTIME of before means anything.
///
/// # Errors
/// When the kernel does not tell.
pub fn boot_id(proc_root: &Path) -> io::Result<String> {
    let text = fs::read_to_string(proc_root.join("sys/kernel/random/boot_id"))?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_set_changes_no_span_of_an_anchor() {
        let anchor = Anchor::at(1_800_000_000_000, BootMillis(5_000));
        let (begin, end) = (BootMillis(6_000), BootMillis(9_500));
        assert_eq!(anchor.unix_ms(begin), 1_800_000_001_000);
        assert_eq!(
            anchor.unix_ms(end) - anchor.unix_ms(begin),
            end.since(begin)
        );
    }

    #[test]
    fn ticks_become_milliseconds_at_the_kernels_rate() {
        assert_eq!(
            BootMillis::of_ticks_at(1_345_844, 100),
            BootMillis(13_458_440)
        );
        assert_eq!(BootMillis::of_ticks_at(256, 1024), BootMillis(250));
    }

    #[test]
    fn this_process_started_before_now() {
        let stat = fs::read_to_string("/proc/self/stat").unwrap();
        let after = &stat[stat.rfind(')').unwrap() + 1..];
        let ticks: u64 = after.split_whitespace().nth(19).unwrap().parse().unwrap();
        // A tick is 10 ms at the usual rate.
        assert!(BootMillis::of_ticks(ticks) <= BootMillis::now().plus(10));
        assert!(!boot_id(Path::new("/proc")).unwrap().is_empty());
    }
}
