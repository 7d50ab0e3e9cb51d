//! Wall and processor time.

use std::fs;
use std::time::{Duration, Instant};

/// How long something took, and how much of a processor's time: where other programs run beside it, the second says
/// what the first would be without them.
#[derive(Clone, Copy)]
pub struct Took {
    pub wall: Duration,
    pub cpu: Duration,
}

pub fn timed<T>(work: impl FnOnce() -> T) -> (T, Took) {
    let (begin, cpu) = (Instant::now(), cpu_time());
    let result = work();
    let took = Took {
        wall: begin.elapsed(),
        cpu: cpu_time().saturating_sub(cpu),
    };
    (result, took)
}

/// The time that this thread has had on a processor, in nanoseconds, as the scheduler of Linux counts it.
fn cpu_time() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let first = text.split(' ').next().and_then(|nanos| nanos.parse().ok());
    Duration::from_nanos(first.unwrap_or(0))
}

/// Times of single decisions.
#[derive(Default)]
pub struct Times(Vec<Duration>);

impl Times {
    pub fn time<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let begin = Instant::now();
        let result = work();
        self.0.push(begin.elapsed());
        result
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn sum(&self) -> Duration {
        self.0.iter().sum()
    }

    /// Leaves of each the faster of two times. What shares the processor comes and goes: what was timed several times took the
    /// least where nothing else ran.
    pub fn or_faster(self, again: Self) -> Self {
        let both = self.0.into_iter().zip(again.0);
        Self(both.map(|(one, other)| one.min(other)).collect())
    }

    /// Microseconds below which so many of a thousand are.
    pub fn micros(&mut self, permille: usize) -> f64 {
        self.0.sort_unstable();
        let at = (self.0.len() * permille / 1000).min(self.0.len().saturating_sub(1));
        self.0.get(at).map_or(0.0, |time| time.as_secs_f64() * 1e6)
    }
}
