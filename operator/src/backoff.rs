//! How long an object that failed is left alone: 1 s, doubling to 5 min, per object.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// The pause after the first failure.
pub const FIRST: Duration = Duration::from_secs(1);
/// The longest pause.
pub const LONGEST: Duration = Duration::from_mins(5);

/// The pause after the `failures`-th failure in a row, counted from 1.
#[must_use]
pub fn delay(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    FIRST.saturating_mul(1 << doublings).min(LONGEST)
}

/// Failures in a row, by object.
#[derive(Debug)]
pub struct Failures<K>(Mutex<HashMap<K, u32>>);

impl<K> Default for Failures<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash> Failures<K> {
    /// Counts one more failure of `key` and returns the pause that follows.
    pub fn failed(&self, key: K) -> Duration {
        let mut failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = failures.entry(key).or_default();
        *count = count.saturating_add(1);
        delay(*count)
    }

    /// Forgets the failures of `key`: it succeeded, or is gone.
    pub fn forget(&self, key: &K) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_doubles_from_one_second_to_five_minutes() {
        let seconds: Vec<u64> = (1..=10).map(|n| delay(n).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300]);
        assert_eq!(delay(u32::MAX), LONGEST);
    }

    #[test]
    fn success_starts_over_and_objects_do_not_share_failures() {
        let failures = Failures::default();
        assert_eq!(failures.failed("a"), FIRST);
        assert_eq!(failures.failed("a"), FIRST * 2);
        assert_eq!(failures.failed("b"), FIRST);
        failures.forget(&"a");
        assert_eq!(failures.failed("a"), FIRST);
    }
}
