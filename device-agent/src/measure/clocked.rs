//! What is run on a GPU against the clock, and what follows from the time.

use std::time::{Duration, Instant};

use gridstake_cuda::{CudaError, Device, LANES, Session, Work};

/// Threads of a block.
const THREADS: u32 = 256;
/// Blocks for each multiprocessor: 6 or 8 of them have room at once on every architecture, so that the last wave is as full as
/// the others.
const BLOCKS_PER_MULTIPROCESSOR: u32 = 24;
/// Turns of each thread: some 30 ms on a fast GPU of today, half a second on a slow one.
const TURNS: u32 = 8192;

/// The size of a copy, in words of 32 bits: 256 MiB, several times what any GPU caches.
const COPY_WORDS: usize = 64 << 20;
/// Copies of one run.
const COPIES: u32 = 16;
/// How much of the last copy is read back, in words: 1 MiB.
const SAMPLE_WORDS: usize = 256 << 10;
/// What is copied, and what was there before.
const PATTERN: u32 = 0xa5c3_3c5a;

/// Runs that do not count.
const WARM_UPS: u8 = 2;

/// What was measured of a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Figures {
    /// 10⁹ operations in single precision a second.
    pub fp32_gflops: u64,
    /// 10⁹ bytes that were read or written a second.
    pub memory_gbs: u64,
    /// Whether all that was looked at is what it must be.
    pub is_right: bool,
}

/// The results that the kernel must have, calculated once: they are the same for every GPU.
#[derive(Debug, Default)]
pub struct Expected(Option<(u32, [u32; LANES])>);

impl Expected {
    fn of(&mut self, work: Work) -> [u32; LANES] {
        match self.0 {
            Some((turns, lanes)) if turns == work.turns => lanes,
            _ => {
                let lanes = work.expected();
                self.0 = Some((work.turns, lanes));
                lanes
            }
        }
    }
}

/// Measures `device`.
pub fn figures(
    device: &Device<'_>,
    rounds: u8,
    expected: &mut Expected,
) -> Result<Figures, CudaError> {
    let work = Work {
        blocks: device
            .multiprocessors()?
            .saturating_mul(BLOCKS_PER_MULTIPROCESSOR),
        threads: THREADS,
        turns: TURNS,
    };
    let session = device.session()?;
    let (calculating, calculates_right) = calculate(&session, work, rounds, &expected.of(work))?;
    let (copying, copies_right) = copy(&session, rounds)?;
    let copied = u64::try_from(COPY_WORDS).unwrap_or(u64::MAX) * 4 * u64::from(COPIES);
    Ok(Figures {
        fp32_gflops: per_nanosecond(work.operations(), calculating),
        // Each byte is read and written.
        memory_gbs: per_nanosecond(copied * 2, copying),
        is_right: calculates_right && copies_right,
    })
}

fn calculate(
    session: &Session<'_>,
    work: Work,
    rounds: u8,
    expected: &[u32; LANES],
) -> Result<(Duration, bool), CudaError> {
    let kernel = session.kernel()?;
    let words = usize::try_from(work.results()).unwrap_or(usize::MAX);
    // No result is 0 in every lane: what nobody has written is not taken for one.
    let results = session.buffer(words, 0)?;
    let time = median(session, rounds, || kernel.run(work, &results))?;
    let found = results.read(words)?;
    let is_right = found.chunks(LANES).all(|warp| warp == expected);
    Ok((time, is_right))
}

fn copy(session: &Session<'_>, rounds: u8) -> Result<(Duration, bool), CudaError> {
    let from = session.buffer(COPY_WORDS, PATTERN)?;
    let to = session.buffer(COPY_WORDS, !PATTERN)?;
    let time = median(session, rounds, || {
        (0..COPIES).try_for_each(|_| to.copy_from(&from))
    })?;
    let sample = to.read(SAMPLE_WORDS)?;
    Ok((time, sample.iter().all(|word| *word == PATTERN)))
}

/// The median of the times that `run` takes until the device has done it.
fn median(
    session: &Session<'_>,
    rounds: u8,
    run: impl Fn() -> Result<(), CudaError>,
) -> Result<Duration, CudaError> {
    for _ in 0..WARM_UPS {
        run()?;
    }
    session.synchronize()?;
    let mut times = (0..rounds.max(1))
        .map(|_| {
            let begun = Instant::now();
            run()?;
            session.synchronize()?;
            Ok(begun.elapsed())
        })
        .collect::<Result<Vec<_>, CudaError>>()?;
    Ok(middle(&mut times))
}

/// The middle one of `times`; of an even number the slower of the two.
fn middle(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or(Duration::MAX)
}

/// `units` a nanosecond, rounded down: 10⁹ a second.
fn per_nanosecond(units: u64, time: Duration) -> u64 {
    let nanoseconds = time.as_nanos().max(1);
    u64::try_from(u128::from(units) / nanoseconds).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_what_is_done_in_a_nanosecond_rounded_down() {
        assert_eq!(per_nanosecond(1_000_000, Duration::from_micros(1)), 1000);
        assert_eq!(per_nanosecond(1_999, Duration::from_micros(1)), 1);
        assert_eq!(per_nanosecond(7, Duration::ZERO), 7);
    }

    #[test]
    fn one_slow_run_or_a_fast_one_does_not_move_the_median() {
        let millis = |times: &[u64]| {
            let mut times: Vec<_> = times.iter().map(|n| Duration::from_millis(*n)).collect();
            middle(&mut times).as_millis()
        };
        assert_eq!(millis(&[30, 31, 30, 900, 30]), 30);
        assert_eq!(millis(&[30, 31, 1, 31, 32]), 31);
        assert_eq!(millis(&[5, 7]), 7);
        assert_eq!(millis(&[5]), 5);
    }
}
