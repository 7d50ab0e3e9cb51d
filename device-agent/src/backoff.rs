//! Exponential back-off as a plain value: what is waited for before the next try.

use std::time::Duration;

/// Doubles from `first` to `longest` with each failure.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    /// One second, doubling to one minute: what everything in the agent that can fail is retried with.
    pub const STANDARD: Self = Self::new(Duration::from_secs(1), Duration::from_mins(1));

    /// A back-off that waits `first`, then doubles up to `longest`.
    #[must_use]
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            longest,
            next: first,
        }
    }

    /// The wait after one more failure.
    pub fn after_failure(&mut self) -> Duration {
        let wait = self.next;
        self.next = self.next.saturating_mul(2).min(self.longest);
        wait
    }

    /// Forgets the failures.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_up_to_its_bound_and_starts_again_after_a_success() {
        let mut backoff = Backoff::STANDARD;
        let waits: Vec<u64> = (0..8).map(|_| backoff.after_failure().as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        backoff.reset();
        assert_eq!(backoff.after_failure(), Duration::from_secs(1));
    }
}
