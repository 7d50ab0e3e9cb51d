//! What cannot be true of an agent's statements about a slice, and how many of them stand nevertheless.
//!
//! A statement that is refused carries no bill; those before it do. Only what no honest agent can bring about is refused,
//! whatever happens to it: restarts, lost memory, a changed key, a clock that is set, counters that begin anew. What an
//! agent may do to its own statements is fold older ones and sign anew what follows them; see [`contradiction`].

use alloy_primitives::Address;

use crate::{
    checkpoint::{Checkpoint, Fault, Signed, StatementHasher, Subject, digest_of, follows},
    signature::signer,
};

/// Why a statement is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum Refusal {
    /// Another key signed it, or none.
    #[error("its signature is not the agent key's")]
    BadSignature,
    /// It does not follow from the one before: its hash is not the previous one, or numbers were left out.
    #[error("it does not follow from the one before")]
    BrokenChain,
    /// The key signed it for something else (another record, pod, set of devices or content), or it is an old one: its epoch and
    /// number do not come after those before it.
    #[error("it was signed for something else, or is an old one once more")]
    Replay,
    /// Its span overlaps the one before, or ends before it begins.
    #[error("its span overlaps the one before")]
    Overlap,
    /// A device was busy for a minute and more, and used less energy than any device that is.
    #[error("it states use, and less energy than that takes")]
    UseWithoutEnergy,
    /// It covers more time than has passed.
    #[error("it covers more time than has passed since its record was made")]
    MoreThanTime,
    /// The key signed two statements of which only one can be true.
    #[error("the key has signed another statement with the same number")]
    Equivocation,
    /// Its device is another node's.
    #[error("its device is another node's")]
    ForeignDevice,
}

/// The first statement that is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("checkpoint {index}: {why}")]
pub struct Refused {
    /// Which, counted from 0: so many stand.
    pub index: usize,
    /// Why.
    pub why: Refusal,
}

/// The least energy that a device takes while a kernel runs on it, in millijoules a millisecond, which are watts.
///
/// It is meant to be too low by far: a context alone, with nothing running, was measured to take 26 to 66 W above idle on A100,
/// H100 and L40S (arXiv 2605.23918). Of small boards (T4: at most 70 W) no measurement was at hand; it is 7 % of their limit. What a
/// board's sensor misses (arXiv 2312.02741: on some it looks a quarter of the time) are peaks.
pub const LEAST_WATTS_AT_USE: u64 = 5;

/// Over how much use energy is judged, in milliseconds at 100 %: counters are brought up to date some ten times a second.
pub const LEAST_USE_JUDGED_MS: u64 = 60_000;

/// How far the clocks of API server and operator may differ, in milliseconds.
pub const CLOCKS_DIFFER_MS: u64 = 60_000;

/// Whether `chain` is whole and was signed by `key`; if not, which statement is the first that does not stand.
///
/// # Errors
/// With the first that does not.
pub fn verify(subject: Subject<'_>, key: Address, chain: &[Signed]) -> Result<(), Refused> {
    let hasher = StatementHasher::new(subject);
    let mut before: Option<&Signed> = None;
    for (index, signed) in chain.iter().enumerate() {
        let is_keys =
            || signer(digest_of(signed.head), &signed.signature).is_ok_and(|signer| signer == key);
        let why = match follows(&hasher, before, signed) {
            Ok(()) if is_keys() => None,
            Ok(()) | Err(Fault::Signature) => Some(Refusal::BadSignature),
            Err(_) if !is_keys() => Some(Refusal::BadSignature),
            Err(_) if before.is_some_and(|before| !is_after(signed, before)) => {
                Some(Refusal::Replay)
            }
            // What the key signed has this hash, and what stands here has another.
            Err(Fault::Head) => Some(Refusal::Replay),
            Err(Fault::Previous | Fault::Sequence) => Some(Refusal::BrokenChain),
            Err(Fault::Span) => Some(Refusal::Overlap),
        };
        if let Some(why) = why {
            return Err(Refused { index, why });
        }
        before = Some(signed);
    }
    Ok(())
}

/// Whether epoch and number of `signed` come after those of `before`.
fn is_after(signed: &Signed, before: &Signed) -> bool {
    number(&signed.checkpoint) > number(&before.checkpoint)
}

fn number(checkpoint: &Checkpoint) -> (u64, u64) {
    (checkpoint.epoch, checkpoint.seq)
}

/// The statement of `after` that contradicts one of `before`, and that one; both are chains of one key about one slice, counted
/// from 0.
///
/// An honest chain only grows, and folds older neighbours: a fold has number and end of the later one and the begin of the
/// earlier. So two statements with one number end at one moment; the one with more folded into it begins no later; and with
/// equally many folded they say the same.
#[must_use]
pub fn contradiction(before: &[Signed], after: &[Signed]) -> Option<(usize, usize)> {
    let pairs = after
        .iter()
        .enumerate()
        .flat_map(|(index, later)| before.iter().enumerate().map(move |b| ((index, later), b)));
    pairs
        .filter(|((_, later), (_, earlier))| contradict(later, earlier))
        .map(|((index, _), (earlier, _))| (index, earlier))
        .next()
}

fn contradict(a: &Signed, b: &Signed) -> bool {
    let (one, other) = (&a.checkpoint, &b.checkpoint);
    if number(one) != number(other) {
        return false;
    }
    let (fewer, more) = if one.folded <= other.folded {
        (one, other)
    } else {
        (other, one)
    };
    let says_the_same = one.from_ms == other.from_ms && one.counters == other.counters;
    one.to_ms != other.to_ms
        || more.from_ms > fewer.from_ms
        || (one.folded == other.folded && !says_the_same)
        // Of equal content: about another pod or other devices.
        || (one == other && a.head != b.head)
}

/// The first statement at which a device had been busy for [`LEAST_USE_JUDGED_MS`] and more with less energy than
/// [`LEAST_WATTS_AT_USE`]; counted from 0.
///
/// Statements without energy or without use are left out: a device does not tell of it (before Volta, MIG, shared). An agent
/// states use beside energy only for the time for which it knows both.
#[must_use]
pub fn use_without_energy(chain: &[Checkpoint]) -> Option<usize> {
    let (mut busy, mut energy) = (0_u64, 0_u64);
    for (index, checkpoint) in chain.iter().enumerate() {
        let told = checkpoint
            .counters
            .busy_millis
            .zip(checkpoint.counters.energy_millijoules);
        let Some((used, took)) = told else { continue };
        busy = busy.saturating_add(used);
        energy = energy.saturating_add(took);
        if busy < LEAST_USE_JUDGED_MS {
            continue;
        }
        if energy < busy.saturating_mul(LEAST_WATTS_AT_USE) {
            return Some(index);
        }
        (busy, energy) = (0, 0);
    }
    None
}

/// The first statement up to which the `chain` of a lease's first slice covers more than `passed_ms`, without `gaps` as
/// `(from, to)`; counted from 0. `passed_ms` has gone by since its record was made, on clocks that are not the node's.
#[must_use]
pub fn more_than_time(chain: &[Checkpoint], gaps: &[(u64, u64)], passed_ms: u64) -> Option<usize> {
    let first = chain.first()?.from_ms;
    let most = passed_ms.saturating_add(CLOCKS_DIFFER_MS);
    chain
        .iter()
        .position(|checkpoint| covered(first, checkpoint.to_ms, gaps) > most)
}

/// How much of a span lies outside `gaps`, which may overlap.
fn covered(from: u64, to: u64, gaps: &[(u64, u64)]) -> u64 {
    let mut gaps: Vec<_> = gaps
        .iter()
        .map(|(begin, end)| (*begin.max(&from), *end.min(&to)))
        .filter(|(begin, end)| begin < end)
        .collect();
    gaps.sort_unstable();
    let (mut reached, mut left_out) = (from, 0_u64);
    for (begin, end) in gaps {
        left_out += end.saturating_sub(begin.max(reached));
        reached = reached.max(end);
    }
    to.saturating_sub(from).saturating_sub(left_out)
}

#[cfg(test)]
mod tests {
    use alloy_primitives::B256;
    use k256::ecdsa::SigningKey;

    use super::*;
    use crate::{
        archive::examples::{self, address_of, key},
        checkpoint::Counters,
    };

    const SUBJECT: Subject<'_> = Subject {
        record: "uid-1-0-0",
        pod_uid: "pod",
        devices: B256::repeat_byte(1),
    };

    fn address() -> Address {
        address_of(&key(7))
    }

    fn sign(key: &SigningKey, subject: Subject<'_>, checkpoint: Checkpoint) -> Signed {
        Signed {
            checkpoint,
            head: checkpoint.head(subject),
            signature: examples::sign(key, checkpoint.digest(subject)),
        }
    }

    fn statement(epoch: u64, seq: u64, from_ms: u64, to_ms: u64) -> Checkpoint {
        Checkpoint {
            epoch,
            seq,
            from_ms,
            to_ms,
            folded: 0,
            counters: Counters::default(),
            previous: B256::ZERO,
        }
    }

    /// Signs each after the one before it.
    fn chain(statements: &[Checkpoint]) -> Vec<Signed> {
        let mut chain: Vec<Signed> = Vec::new();
        for statement in statements {
            let previous = chain.last().map(|last| last.head).unwrap_or_default();
            let next = Checkpoint {
                previous,
                ..*statement
            };
            chain.push(sign(&key(7), SUBJECT, next));
        }
        chain
    }

    fn honest() -> Vec<Signed> {
        chain(&[
            statement(0, 0, 100, 200),
            statement(0, 1, 200, 300),
            statement(1, 0, 320, 400),
        ])
    }

    fn refused(chain: &[Signed]) -> Option<(usize, Refusal)> {
        verify(SUBJECT, address(), chain)
            .err()
            .map(|refused| (refused.index, refused.why))
    }

    #[test]
    fn an_honest_chain_is_refused_nowhere() {
        assert_eq!(refused(&honest()), None);
    }

    #[test]
    fn a_forged_signature_is_refused_and_what_comes_before_it_stands() {
        let mut forged = honest();
        forged[2] = sign(&key(8), SUBJECT, forged[2].checkpoint);
        assert_eq!(refused(&forged), Some((2, Refusal::BadSignature)));
        let mut other = honest();
        other[1].signature = other[0].signature;
        assert_eq!(refused(&other), Some((1, Refusal::BadSignature)));
    }

    #[test]
    fn a_statement_that_was_signed_for_another_record_pod_or_device_is_a_replay() {
        for subject in [
            Subject {
                record: "uid-1-0-1",
                ..SUBJECT
            },
            Subject {
                pod_uid: "other",
                ..SUBJECT
            },
            Subject {
                devices: B256::repeat_byte(2),
                ..SUBJECT
            },
        ] {
            let elsewhere = sign(&key(7), subject, statement(0, 0, 100, 200));
            assert_eq!(refused(&[elsewhere]), Some((0, Refusal::Replay)));
        }
        let mut altered = honest();
        altered[1].checkpoint.to_ms = 310;
        assert_eq!(refused(&altered), Some((1, Refusal::Replay)));
    }

    #[test]
    fn an_old_statement_once_more_and_numbers_that_go_back_are_replays() {
        let mut again = honest();
        again.push(again[1]);
        assert_eq!(refused(&again), Some((3, Refusal::Replay)));
        let back = chain(&[
            statement(1, 0, 100, 200),
            statement(1, 1, 200, 300),
            statement(0, 2, 300, 400),
        ]);
        assert_eq!(refused(&back), Some((2, Refusal::Replay)));
        let same = chain(&[statement(0, 0, 100, 200), statement(0, 0, 200, 300)]);
        assert_eq!(refused(&same), Some((1, Refusal::Replay)));
    }

    #[test]
    fn statements_that_were_left_out_break_the_chain() {
        let mut without = honest();
        without.remove(1);
        assert_eq!(refused(&without), Some((1, Refusal::BrokenChain)));
        let skipped = chain(&[statement(0, 0, 100, 200), statement(0, 2, 200, 300)]);
        assert_eq!(refused(&skipped), Some((1, Refusal::BrokenChain)));
    }

    #[test]
    fn spans_that_overlap_are_refused() {
        let overlapping = chain(&[statement(0, 0, 100, 200), statement(0, 1, 199, 300)]);
        assert_eq!(refused(&overlapping), Some((1, Refusal::Overlap)));
        let backwards = chain(&[statement(0, 0, 200, 100)]);
        assert_eq!(refused(&backwards), Some((0, Refusal::Overlap)));
    }

    #[test]
    fn two_continuations_of_one_chain_contradict_each_other() {
        let before = honest();
        for fork in [
            statement(1, 0, 320, 401),
            statement(1, 0, 330, 400),
            Checkpoint {
                counters: Counters {
                    samples: Some(1),
                    ..Counters::default()
                },
                ..statement(1, 0, 320, 400)
            },
        ] {
            let first = statement(0, 0, 100, 200);
            let forked = chain(&[first, statement(0, 1, 200, 300), fork]);
            assert_eq!(refused(&forked), None, "by itself it is whole");
            assert_eq!(contradiction(&before, &forked), Some((2, 2)));
        }
        let elsewhere = Subject {
            devices: B256::repeat_byte(2),
            ..SUBJECT
        };
        let other_devices = sign(&key(7), elsewhere, before[0].checkpoint);
        assert_eq!(contradiction(&before, &[other_devices]), Some((0, 0)));
    }

    #[test]
    fn a_chain_that_grew_or_was_folded_or_is_an_earlier_one_contradicts_nothing() {
        let before = honest();
        let mut grown: Vec<_> = before.iter().map(|signed| signed.checkpoint).collect();
        grown.push(statement(1, 1, 400, 500));
        assert_eq!(contradiction(&before, &chain(&grown)), None);
        let folded = chain(&[
            Checkpoint {
                folded: 1,
                ..statement(0, 1, 100, 300)
            },
            statement(1, 0, 320, 400),
        ]);
        assert_eq!(refused(&folded), None);
        assert_eq!(contradiction(&before, &folded), None);
        assert_eq!(contradiction(&folded, &before), None);
        assert_eq!(contradiction(&before, &before[..1]), None);
    }

    #[test]
    fn a_fold_that_hides_the_begin_of_a_span_contradicts_it() {
        let folded = chain(&[Checkpoint {
            folded: 1,
            ..statement(0, 1, 250, 300)
        }]);
        assert_eq!(contradiction(&honest(), &folded), Some((0, 1)));
    }

    fn used(busy: Option<u64>, energy: Option<u64>) -> Checkpoint {
        Checkpoint {
            counters: Counters {
                busy_millis: busy,
                energy_millijoules: energy,
                ..Counters::default()
            },
            ..statement(0, 0, 0, 300_000)
        }
    }

    #[test]
    fn a_minute_of_use_without_energy_is_impossible() {
        assert_eq!(use_without_energy(&[used(Some(60_000), Some(0))]), Some(0));
        assert_eq!(
            use_without_energy(&[used(Some(290_000), Some(1_449_999))]),
            Some(0)
        );
        // Cut into statements of less than a minute it is impossible as well.
        let short = used(Some(25_000), Some(100));
        assert_eq!(use_without_energy(&[short; 4]), Some(2));
        // Honest use before it pays for nothing that comes after.
        let honest = used(Some(300_000), Some(150_000_000));
        assert_eq!(
            use_without_energy(&[honest, used(Some(300_000), Some(5))]),
            Some(1)
        );
    }

    #[test]
    fn use_is_believed_where_energy_is_not_told_or_little_of_it_could_be_measured() {
        for believed in [
            used(Some(300_000), None),
            used(None, Some(0)),
            used(None, None),
            used(Some(19_999), Some(0)),
            used(Some(0), Some(0)),
            // A small card at full use.
            used(Some(300_000), Some(300_000 * 20)),
            used(Some(300_000), Some(300_000 * LEAST_WATTS_AT_USE)),
        ] {
            assert_eq!(use_without_energy(&[believed; 3]), None, "{believed:?}");
        }
    }

    #[test]
    fn a_chain_cannot_cover_more_time_than_has_passed() {
        let chain = [
            statement(0, 0, 1_000, 11_000),
            statement(0, 1, 11_000, 3_611_000),
        ];
        assert_eq!(more_than_time(&chain, &[], 3_610_000), None);
        assert_eq!(
            more_than_time(&chain, &[], 3_550_000),
            None,
            "clocks differ"
        );
        assert_eq!(more_than_time(&chain, &[], 3_549_999), Some(1));
        assert_eq!(more_than_time(&chain, &[], 0), Some(1));
        // A clock that was set while the agent was away is a gap, and covers nothing.
        let gaps = [(11_000, 3_600_000), (20_000, 3_610_000)];
        assert_eq!(more_than_time(&chain, &gaps, 12_000), None);
        assert_eq!(more_than_time(&[], &[], 0), None);
    }
}
