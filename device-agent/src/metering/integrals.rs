//! Measurements as integrals over samples, in whole numbers: nothing is rounded before it is stated. A value that a
//! device does not tell stays absent. Pure.

use gridstake_ledger::checkpoint::Counters;
use serde::{Deserialize, Serialize};

/// Bytes in a KiB.
const KIB: u64 = 1 << 10;
/// KiB × milliseconds in a MiB × second.
const KIB_MILLIS: u64 = 1024 * 1000;

/// What was measured on one device in a span.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Integrals {
    /// Percent × milliseconds.
    pub busy: Option<u64>,
    /// KiB × milliseconds.
    pub memory: Option<u64>,
    /// Millijoules.
    pub energy: Option<u64>,
    /// The most processes of the pod at one time.
    pub peak: Option<u32>,
    /// Samples.
    pub samples: u64,
}

/// What one sample adds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Increment {
    /// How long the sample stands for; 0 for the first of a device.
    pub millis: u64,
    /// Utilisation.
    pub percent: Option<u32>,
    /// Memory in use.
    pub memory_bytes: Option<u64>,
    /// Energy since the sample before.
    pub energy_millijoules: Option<u64>,
    /// Processes of the pod at this moment.
    pub processes: Option<u32>,
}

impl Integrals {
    /// Adds a sample.
    pub fn add(&mut self, more: Increment) {
        let times = |value: u64| value.saturating_mul(more.millis);
        if more.millis > 0 {
            self.busy = sum(self.busy, more.percent.map(|percent| times(percent.into())));
            self.memory = sum(
                self.memory,
                more.memory_bytes.map(|bytes| times(bytes / KIB)),
            );
        }
        self.energy = sum(self.energy, more.energy_millijoules);
        self.peak = self.peak.max(more.processes);
        self.samples += 1;
    }

    /// What was stated before as `counters`.
    #[must_use]
    pub fn of(counters: Counters) -> Self {
        Self {
            busy: counters.busy_millis.map(|busy| busy.saturating_mul(100)),
            memory: counters
                .memory_mib_seconds
                .map(|memory| memory.saturating_mul(KIB_MILLIS)),
            energy: counters.energy_millijoules,
            peak: counters.peak_processes,
            samples: counters.samples.unwrap_or(0),
        }
    }

    /// Both spans together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            busy: sum(self.busy, other.busy),
            memory: sum(self.memory, other.memory),
            energy: sum(self.energy, other.energy),
            peak: self.peak.max(other.peak),
            samples: self.samples.saturating_add(other.samples),
        }
    }

    /// In the units of a statement, rounded down.
    #[must_use]
    pub fn counters(&self) -> Counters {
        Counters {
            busy_millis: self.busy.map(|busy| busy / 100),
            memory_mib_seconds: self.memory.map(|memory| memory / KIB_MILLIS),
            energy_millijoules: self.energy,
            peak_processes: self.peak,
            samples: Some(self.samples).filter(|samples| *samples > 0),
        }
    }
}

/// The sum of what is known.
pub(super) fn sum(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.saturating_add(b)),
        (known, None) | (None, known) => known,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_at_half_load_is_half_busy() {
        let mut span = Integrals::default();
        for _ in 0..10 {
            span.add(Increment {
                millis: 1000,
                percent: Some(50),
                memory_bytes: Some(3 << 20),
                energy_millijoules: Some(70_000),
                processes: Some(2),
            });
        }
        assert_eq!(Integrals::of(span.counters()), span);
        assert_eq!(
            span.counters(),
            Counters {
                busy_millis: Some(5_000),
                memory_mib_seconds: Some(30),
                energy_millijoules: Some(700_000),
                peak_processes: Some(2),
                samples: Some(10),
            }
        );
    }

    #[test]
    fn what_was_never_told_is_absent_and_what_was_told_as_zero_is_zero() {
        assert_eq!(Integrals::default().counters(), Counters::default());
        let mut span = Integrals::default();
        span.add(Increment {
            millis: 1000,
            percent: Some(0),
            ..Increment::default()
        });
        let counters = span.counters();
        assert_eq!(counters.busy_millis, Some(0));
        assert_eq!(counters.energy_millijoules, None);
    }

    #[test]
    fn the_first_sample_stands_for_no_time() {
        let mut span = Integrals::default();
        span.add(Increment {
            percent: Some(100),
            ..Increment::default()
        });
        assert_eq!((span.counters().busy_millis, span.samples), (None, 1));
    }
}
