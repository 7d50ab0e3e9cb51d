//! Damages good input, and watches what a parser makes of it: it may refuse it, never panic, and what it accepts must keep the
//! promises that the target asserts, such as being written again as the same bytes.
//!
//! ```ignore
//! fuzz("batch", corpus!("batch"), seeds, |bytes| match decode(bytes) {
//!     Ok(batch) => { assert_eq!(encode(&batch), bytes); Verdict::Accepted }
//!     Err(_) => Verdict::Refused,
//! });
//! ```
//!
//! Targets are ordinary tests beside the parsers that they feed, so they reach private ones and run with stable Rust. What is
//! damaged is the corpus: files that are committed, and seeds that the target makes with the code of the day. A file whose name
//! begins with `refused-` is bad input of the past; all others must be accepted, so a corpus that has gone stale fails.
//!
//! | variable | what |
//! |---|---|
//! | `FUZZ_RUNS` | damaged inputs per target (default 5,000) |
//! | `FUZZ_SEED` | another number, other damage (default 1) |
//! | `FUZZ_RUN` | this one input alone, as a failure names it |

mod damage;
mod random;

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::Path,
};

use random::Random;

/// Damaged inputs per target, unless `FUZZ_RUNS` says otherwise: a second or two each.
const RUNS: u64 = 5_000;
/// The largest input in bytes: more than any object of the API server holds is not tried here.
pub const LARGEST: usize = 64 * 1024;
/// By how much the process may grow while one target runs, in KiB. A parser that reserves and fills what a number in its input
/// asks for takes more than that.
const GROWTH_KIB: u64 = 1024 * 1024;

/// What a parser made of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was read.
    Accepted,
    /// It was refused with an error.
    Refused,
}

impl Verdict {
    /// Accepted if there is a value.
    pub fn of<T, E>(result: Result<T, E>) -> Self {
        result.map_or(Self::Refused, |_| Self::Accepted)
    }

    /// Accepted if there is a value.
    pub fn of_option<T>(option: Option<T>) -> Self {
        option.map_or(Self::Refused, |_| Self::Accepted)
    }
}

/// The folder of a target's corpus, below `fuzz` in the crate of the caller.
#[macro_export]
macro_rules! corpus {
    ($name:literal) => {
        concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/", $name)
    };
}

/// Feeds `parser` the corpus in `folder`, `seeds`, and damaged copies of both.
///
/// # Panics
/// When the parser does, naming how to repeat it; when an undamaged input gets the wrong verdict; when there is none at all; and
/// when the process has grown by more than a GiB meanwhile.
#[allow(
    clippy::panic,
    clippy::expect_used,
    reason = "it is the body of a test"
)]
pub fn fuzz(
    target: &str,
    folder: &str,
    seeds: &[Vec<u8>],
    mut parser: impl FnMut(&[u8]) -> Verdict,
) {
    let mut corpus = files(Path::new(folder));
    corpus.extend(
        seeds
            .iter()
            .enumerate()
            .map(|(number, seed)| (format!("seed {number}"), seed.clone())),
    );
    assert!(
        !corpus.is_empty(),
        "{target}: there is no corpus: no seed and no file in {folder}"
    );
    for (name, input) in &corpus {
        let expected = if name.starts_with("refused-") {
            Verdict::Refused
        } else {
            Verdict::Accepted
        };
        let verdict = parser(input);
        assert!(
            verdict == expected,
            "{target}: {name} is {verdict:?}, and {expected:?} was expected; it is {:?}",
            shown(input)
        );
    }

    let inputs: Vec<Vec<u8>> = corpus.into_iter().map(|(_, input)| input).collect();
    let seed = variable("FUZZ_SEED").unwrap_or(1);
    let runs = match variable("FUZZ_RUN") {
        Some(run) => run..run + 1,
        None => 0..variable("FUZZ_RUNS").unwrap_or(RUNS),
    };
    let before = peak_kib();
    let (mut accepted, mut refused) = (0_u64, 0_u64);
    for run in runs {
        let mut random = Random::new(&[target.as_bytes(), &seed.to_be_bytes(), &run.to_be_bytes()]);
        let input = damage::damaged(&inputs, &mut random);
        match catch_unwind(AssertUnwindSafe(|| parser(&input))) {
            Ok(Verdict::Accepted) => accepted += 1,
            Ok(Verdict::Refused) => refused += 1,
            Err(cause) => {
                eprintln!(
                    "{target}: failed on {} bytes; FUZZ_SEED={seed} FUZZ_RUN={run} repeats it. The input: {}",
                    input.len(),
                    shown(&input)
                );
                resume_unwind(cause);
            }
        }
    }
    let grown = peak_kib().saturating_sub(before);
    assert!(
        grown <= GROWTH_KIB,
        "{target}: the process grew by {grown} KiB: something reserves what the input asks for"
    );
    println!("{target}: {accepted} accepted, {refused} refused, seed {seed}");
}

/// The files of the corpus in the order of their names; none if there is no folder.
#[allow(clippy::expect_used, reason = "it is the body of a test")]
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let Ok(listed) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut found: Vec<(String, Vec<u8>)> = listed
        .map(|entry| {
            let entry = entry.expect("an entry of the corpus");
            let name = entry.file_name().to_string_lossy().into_owned();
            (name, fs::read(entry.path()).expect("a file of the corpus"))
        })
        .collect();
    found.sort();
    found
}

/// The number that the environment sets.
fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    let number = text.parse();
    assert!(
        number.is_ok(),
        "{name}={text}: it must be a whole number, such as 5000"
    );
    number.ok()
}

/// An input in printable characters; long ones by their first 2,000 bytes.
fn shown(input: &[u8]) -> String {
    let first = input.get(..2_000).unwrap_or(input);
    let rest = if first.len() < input.len() { "…" } else { "" };
    format!("b\"{}\"{rest}", first.escape_ascii())
}

/// The most memory this process has held so far, in KiB; 0 where the system does not say.
fn peak_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
