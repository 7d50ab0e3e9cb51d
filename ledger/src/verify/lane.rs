//! What only shows over many batches: a number that is paid twice, slices that overlap, a GPU that is billed twice.

#![allow(
    clippy::unnecessary_box_returns,
    reason = "a finding is boxed where it is made, since it goes into a Result"
)]

use std::collections::{BTreeMap, HashMap};

use super::{
    Fault, Finding,
    file::{Booked, Slice, Verified},
};

/// For how long two leases may hold the same GPU: the kubelet tells begin and end of a container in whole seconds, and
/// what is billed is held within these.
pub const TOLERANCE_MS: u64 = 1000;

/// An entry and the file that it stands in.
type Placed<'a> = (&'a Verified, &'a Booked, &'a Slice);

/// Checks what files say together. They come in the order of their numbers.
pub fn check(files: &[Verified]) -> Result<(), Box<Finding>> {
    numbers(files)?;
    let paid: Vec<Placed<'_>> = files
        .iter()
        .flat_map(|file| file.entries.iter().map(move |entry| (file, entry)))
        .filter(|(_, entry)| entry.paid)
        .filter_map(|(file, entry)| Some((file, entry, entry.slice.as_ref()?)))
        .collect();
    slices(&paid)?;
    gpus(&paid)
}

fn wrong(at: Placed<'_>, fault: Fault, found: String, expected: String) -> Box<Finding> {
    Box::new(Finding {
        file: at.0.name.clone(),
        at: at.1.line.clone(),
        fault,
        found,
        expected,
    })
}

/// No number is paid by two batches.
fn numbers(files: &[Verified]) -> Result<(), Box<Finding>> {
    let mut paid: HashMap<u64, u64> = HashMap::new();
    for file in files {
        for entry in file.entries.iter().filter(|entry| entry.paid) {
            let Some(earlier) = paid.insert(entry.job_no, file.sequence) else {
                continue;
            };
            return Err(Box::new(Finding {
                file: file.name.clone(),
                at: entry.line.clone(),
                fault: Fault::PaidTwice,
                found: format!("number {} paid by batch {}", entry.job_no, file.sequence),
                expected: format!("no payment after that of batch {earlier}"),
            }));
        }
    }
    Ok(())
}

/// A lease and the number of a slice in it, from a record's name.
fn lease_of(record: &str) -> Option<(&str, u64)> {
    let (lease, slice) = record.rsplit_once('-')?;
    Some((lease, slice.parse().ok()?))
}

/// Each slice of a lease begins where the one before it ended.
fn slices(paid: &[Placed<'_>]) -> Result<(), Box<Finding>> {
    let mut leases: HashMap<&str, BTreeMap<u64, Placed<'_>>> = HashMap::new();
    for placed in paid {
        let Some((lease, number)) = lease_of(&placed.2.record) else {
            continue;
        };
        if let Some(twin) = leases.entry(lease).or_default().insert(number, *placed) {
            let found = format!("{} as number {}", placed.2.record, placed.1.job_no);
            let expected = format!("it once, as number {}", twin.1.job_no);
            return Err(wrong(*placed, Fault::Slices, found, expected));
        }
    }
    let mut faults: Vec<(u64, usize, Box<Finding>)> = Vec::new();
    for slices in leases.values() {
        let mut before: Option<(u64, Placed<'_>)> = None;
        for (number, placed) in slices {
            if let Some((earlier, last)) = before {
                let (ended, begins) = (last.2.end_ms, placed.2.start_ms);
                let follows = if earlier + 1 == *number {
                    begins == ended
                } else {
                    begins >= ended
                };
                if !follows {
                    let found = format!("{} from {begins}", placed.2.record);
                    let expected = format!("it from {ended}, where {} ended", last.2.record);
                    let finding = wrong(*placed, Fault::Slices, found, expected);
                    faults.push((placed.0.sequence, placed.1.line.start, finding));
                }
            }
            before = Some((*number, *placed));
        }
    }
    first(faults)
}

fn first(mut faults: Vec<(u64, usize, Box<Finding>)>) -> Result<(), Box<Finding>> {
    faults.sort_by_key(|(sequence, at, _)| (*sequence, *at));
    match faults.into_iter().next() {
        Some((_, _, finding)) => Err(finding),
        None => Ok(()),
    }
}

/// When a share of a GPU begins or ends to be held, whether it begins, which share, and by whom.
type Turn<'a> = (u64, bool, (u32, u32), Placed<'a>);

/// The shares of a GPU that are billed at the same time are never more than the whole.
fn gpus(paid: &[Placed<'_>]) -> Result<(), Box<Finding>> {
    let mut held: HashMap<&str, Vec<Turn<'_>>> = HashMap::new();
    for placed in paid {
        let slice = placed.2;
        for (uuid, share) in slice.gpus.iter().filter(|_| slice.start_ms < slice.end_ms) {
            let spans = held.entry(uuid).or_default();
            // What ends comes before what begins at the same time.
            spans.push((slice.start_ms, true, *share, *placed));
            spans.push((slice.end_ms, false, *share, *placed));
        }
    }
    let mut faults = Vec::new();
    for (uuid, mut turns) in held {
        turns.sort_by_key(|(at, begins, _, placed)| (*at, *begins, placed.1.job_no));
        let mut sum = Shares::default();
        let mut over: Option<(u64, Placed<'_>)> = None;
        for (at, begins, share, placed) in turns {
            sum.turn(share, begins);
            match (sum.is_over(), over) {
                (true, None) => over = Some((at, placed)),
                (false, Some((since, culprit))) => {
                    over = None;
                    if at - since > TOLERANCE_MS {
                        let found = format!(
                            "{uuid} billed more than once from {since} to {at}, last for {}",
                            culprit.2.record
                        );
                        let expected = "shares that make up no more than the whole".to_owned();
                        let finding = wrong(culprit, Fault::Overbooked, found, expected);
                        faults.push((culprit.0.sequence, culprit.1.line.start, finding));
                    }
                }
                _ => {}
            }
        }
    }
    first(faults)
}

/// A sum of fractions with denominators up to 64, exact.
#[derive(Clone, Debug, Default)]
struct Shares(BTreeMap<u32, i64>);

impl Shares {
    /// Adds a share, or takes it away.
    fn turn(&mut self, (numerator, denominator): (u32, u32), add: bool) {
        let part = self.0.entry(denominator.max(1)).or_default();
        *part += if add {
            i64::from(numerator)
        } else {
            -i64::from(numerator)
        };
        if *part == 0 {
            self.0.remove(&denominator.max(1));
        }
    }

    /// Whether it is more than 1.
    fn is_over(&self) -> bool {
        // Numerators and denominators are small: two or three kinds of shares are on a GPU at a time.
        let (mut top, mut bottom) = (0_i128, 1_i128);
        for (denominator, numerator) in &self.0 {
            let denominator = i128::from(*denominator);
            let (Some(left), Some(right), Some(below)) = (
                top.checked_mul(denominator),
                i128::from(*numerator).checked_mul(bottom),
                bottom.checked_mul(denominator),
            ) else {
                // More kinds of shares than any device has.
                return true;
            };
            (top, bottom) = (left + right, below);
            let common = divisor(top, bottom);
            (top, bottom) = (top / common, bottom / common);
        }
        top > bottom
    }
}

fn divisor(mut a: i128, mut b: i128) -> i128 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a.abs().max(1)
}
