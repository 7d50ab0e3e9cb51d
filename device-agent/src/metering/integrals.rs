//! Measurements as integrals over samples, in whole numbers: nothing is rounded before it is stated. A value that a
//! device does not tell stays absent. Pure.
//!
//! Where energy is told, use is that of the time for which energy is known too: so no span shows use without the energy that
//! it took, for which a liar would be told by ([`gridstake_ledger::refusal::use_without_energy`]).

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
            let busy = more.percent.map(|percent| times(percent.into()));
            let energy = (self.energy, more.energy_millijoules);
            self.busy = busy_of_both((self.busy, energy.0), (busy, energy.1));
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
            busy: busy_of_both((self.busy, self.energy), (other.busy, other.energy)),
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

/// The use of two spans together, each with its energy: if only one tells of energy, that one's.
pub(super) fn busy_of_both(
    (a, a_energy): (Option<u64>, Option<u64>),
    (b, b_energy): (Option<u64>, Option<u64>),
) -> Option<u64> {
    match (a_energy, b_energy) {
        (Some(_), None) => a,
        (None, Some(_)) => b,
        (Some(_), Some(_)) | (None, None) => sum(a, b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_energy_is_told_use_is_that_of_the_time_for_which_it_is_known() {
        let second = |energy| Increment {
            millis: 1000,
            percent: Some(100),
            energy_millijoules: energy,
            ..Increment::default()
        };
        let mut span = Integrals::default();
        for energy in [None, None, Some(70_000), None, Some(70_000)] {
            span.add(second(energy));
        }
        let told = span.counters();
        assert_eq!(told.busy_millis, Some(2_000));
        assert_eq!(told.energy_millijoules, Some(140_000));
        let mut untold = Integrals::default();
        (0..9).for_each(|_| untold.add(second(None)));
        assert_eq!(untold.counters().busy_millis, Some(9_000));
        for both in [span.and(untold), untold.and(span)] {
            assert_eq!(both.counters().busy_millis, Some(2_000));
        }
    }

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
