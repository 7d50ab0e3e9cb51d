//! The chain of signed checkpoints of one slice. Pure: a key's signature of a digest is always the same one.
//!
//! A chain holds at most [`CHECKPOINTS_MAX`]. When one more comes, the two older neighbours that together span least are
//! folded into one, so that the resolution stays even; what follows them is hashed and signed anew, since each statement
//! covers the one before. The newest are left as they are: they are what a bill rests on.

use alloy_primitives::{Address, B256};
use gridstake_crds::usage_record::{Checkpoint, Counters, EvidenceGap};
use gridstake_ledger::{
    checkpoint::{self, Signed, Subject},
    signature,
};
use serde::{Deserialize, Serialize};

use super::integrals::{busy_of_both, sum};
use crate::signing_key::SigningKey;

/// The schema's bound.
pub const CHECKPOINTS_MAX: usize = 32;
/// The schema's bound.
pub const GAPS_MAX: usize = 32;
/// How many of the newest are never folded.
const KEPT_WHOLE: usize = 8;

/// A statement that is to be signed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Statement {
    /// The epoch.
    pub epoch: u64,
    /// The number within the epoch.
    pub seq: u64,
    /// Begin, in Unix milliseconds.
    pub from_ms: u64,
    /// End.
    pub to_ms: u64,
    /// What was measured.
    pub counters: Counters,
}

/// The key does not sign: the digest is one of those that nobody can find.
#[derive(Debug, thiserror::Error)]
#[error("sign a checkpoint")]
pub struct SignError(#[from] k256::ecdsa::Error);

/// Adds a statement to `chain`, and folds if it became too long.
///
/// # Errors
/// When the key does not sign; then the chain is as it was.
pub fn append(
    chain: &mut Vec<Checkpoint>,
    subject: Subject<'_>,
    key: &SigningKey,
    statement: &Statement,
) -> Result<(), SignError> {
    let mut next = chain.clone();
    next.push(Checkpoint {
        epoch: statement.epoch,
        seq: statement.seq,
        from_ms: statement.from_ms,
        to_ms: statement.to_ms,
        folded: None,
        counters: statement.counters,
        previous: String::new(),
        head: String::new(),
        signature: String::new(),
    });
    let changed = if next.len() > CHECKPOINTS_MAX {
        fold(&mut next)
    } else {
        next.len() - 1
    };
    sign_from(&mut next, changed, subject, key)?;
    *chain = next;
    Ok(())
}

/// Folds two neighbours and returns the position of the fold.
fn fold(chain: &mut Vec<Checkpoint>) -> usize {
    let oldest = chain.len().saturating_sub(KEPT_WHOLE);
    let span = |at: usize| chain[at + 1].to_ms.saturating_sub(chain[at].from_ms);
    let at = (0..oldest.saturating_sub(1))
        .min_by_key(|at| span(*at))
        .unwrap_or(0);
    let later = chain.remove(at + 1);
    let earlier = &mut chain[at];
    *earlier = Checkpoint {
        // Across epochs the later one's number stays.
        epoch: later.epoch,
        seq: later.seq,
        from_ms: earlier.from_ms,
        to_ms: later.to_ms,
        folded: Some(earlier.folded.unwrap_or(0) + later.folded.unwrap_or(0) + 1),
        counters: both(earlier.counters, later.counters),
        ..later
    };
    at
}

/// What two spans measured together.
#[must_use]
pub fn both(a: Counters, b: Counters) -> Counters {
    Counters {
        busy_millis: busy_of_both(
            (a.busy_millis, a.energy_millijoules),
            (b.busy_millis, b.energy_millijoules),
        ),
        memory_mib_seconds: sum(a.memory_mib_seconds, b.memory_mib_seconds),
        energy_millijoules: sum(a.energy_millijoules, b.energy_millijoules),
        peak_processes: a.peak_processes.max(b.peak_processes),
        samples: sum(a.samples, b.samples),
    }
}

fn sign_from(
    chain: &mut [Checkpoint],
    first: usize,
    subject: Subject<'_>,
    key: &SigningKey,
) -> Result<(), SignError> {
    let (before, rest) = chain.split_at_mut(first);
    let mut previous = before.last().map_or(B256::ZERO, head);
    for stated in rest {
        let statement = content(stated, previous);
        let head = statement.head(subject);
        stated.signature = signature::text(&key.sign(statement.digest(subject))?);
        stated.previous = previous.to_string();
        stated.head = head.to_string();
        previous = head;
    }
    Ok(())
}

/// What `stated` says after the statement whose head is `previous`, as the ledger hashes it.
#[must_use]
pub fn content(stated: &Checkpoint, previous: B256) -> checkpoint::Checkpoint {
    checkpoint::Checkpoint {
        epoch: stated.epoch,
        seq: stated.seq,
        from_ms: stated.from_ms,
        to_ms: stated.to_ms,
        folded: stated.folded.unwrap_or(0),
        counters: measured(stated.counters),
        previous,
    }
}

/// As the ledger hashes it.
#[must_use]
pub fn measured(counters: Counters) -> checkpoint::Counters {
    checkpoint::Counters {
        busy_millis: counters.busy_millis,
        memory_mib_seconds: counters.memory_mib_seconds,
        energy_millijoules: counters.energy_millijoules,
        peak_processes: counters.peak_processes,
        samples: counters.samples,
    }
}

/// As the API holds it.
#[must_use]
pub fn stated(counters: checkpoint::Counters) -> Counters {
    Counters {
        busy_millis: counters.busy_millis,
        memory_mib_seconds: counters.memory_mib_seconds,
        energy_millijoules: counters.energy_millijoules,
        peak_processes: counters.peak_processes,
        samples: counters.samples,
    }
}

/// What cannot be read is no head of anything.
fn head(stated: &Checkpoint) -> B256 {
    stated.head.parse().unwrap_or_default()
}

/// Whether `chain` is whole and was signed by `key`.
#[must_use]
pub fn is_whole(chain: &[Checkpoint], subject: Subject<'_>, key: Address) -> bool {
    let signed: Option<Vec<Signed>> = chain
        .iter()
        .map(|stated| {
            Some(Signed {
                checkpoint: content(stated, stated.previous.parse().ok()?),
                head: stated.head.parse().ok()?,
                signature: signature::parse(&stated.signature).ok()?,
            })
        })
        .collect();
    signed.is_some_and(|signed| checkpoint::verify(subject, key, &signed).is_ok())
}

/// Adds a gap. Where there would be too many, the two neighbours with the least between them become one; what lay
/// between is billed only if both are bridged: doubt favours the payer.
pub fn add_gap(gaps: &mut Vec<EvidenceGap>, gap: EvidenceGap) {
    gaps.push(gap);
    if gaps.len() <= GAPS_MAX {
        return;
    }
    let lost = |at: usize| {
        let (a, b) = (&gaps[at], &gaps[at + 1]);
        let billed = a.bridged && b.bridged;
        (!billed, b.from_ms.saturating_sub(a.to_ms))
    };
    let at = (0..gaps.len() - 1).min_by_key(|at| lost(*at)).unwrap_or(0);
    let later = gaps.remove(at + 1);
    let earlier = &mut gaps[at];
    earlier.to_ms = earlier.to_ms.max(later.to_ms);
    earlier.bridged &= later.bridged;
}

#[cfg(test)]
mod tests {
    use gridstake_crds::usage_record::GapReason;
    use proptest::prelude::*;

    use super::*;

    const SUBJECT: Subject<'_> = Subject {
        record: "uid-1-0-0",
        pod_uid: "pod",
        devices: B256::repeat_byte(1),
    };

    fn key() -> (tempfile::TempDir, SigningKey) {
        let folder = tempfile::tempdir().unwrap();
        let key = SigningKey::load_or_create(folder.path()).unwrap();
        (folder, key)
    }

    fn gap(from_ms: u64, to_ms: u64, bridged: bool) -> EvidenceGap {
        EvidenceGap {
            from_ms,
            to_ms,
            reason: GapReason::AgentAway,
            bridged,
        }
    }

    #[test]
    fn too_many_gaps_become_one_where_it_costs_the_provider_least() {
        let mut gaps: Vec<_> = (0..32)
            .map(|n| gap(n * 100, n * 100 + 10, n % 8 != 0))
            .collect();
        add_gap(&mut gaps, gap(9_000, 9_010, false));
        assert_eq!(gaps.len(), GAPS_MAX);
        assert_eq!(gaps[1], gap(100, 210, true));
        let mut unbridged: Vec<_> = (0..32).map(|n| gap(n * 100, n * 100 + 10, false)).collect();
        add_gap(&mut unbridged, gap(3_120, 3_130, false));
        assert_eq!(unbridged.last(), Some(&gap(3_100, 3_130, false)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn a_chain_of_any_length_verifies_and_loses_nothing(steps in prop::collection::vec((0_u64..1000, prop::bool::weighted(0.2)), 1..90)) {
            let (_folder, key) = key();
            let mut chain = Vec::new();
            let (mut epoch, mut seq, mut at) = (0, 0, 1000);
            for (length, restarts) in &steps {
                if *restarts {
                    (epoch, seq, at) = (epoch + 1, 0, at + 7);
                }
                let counters = Counters { energy_millijoules: Some(*length), samples: Some(1), ..Counters::default() };
                append(&mut chain, SUBJECT, &key, &Statement { epoch, seq, from_ms: at, to_ms: at + length, counters }).unwrap();
                (seq, at) = (seq + 1, at + length);
                prop_assert!(chain.len() <= CHECKPOINTS_MAX);
                prop_assert!(is_whole(&chain, SUBJECT, key.address()));
            }
            let sum = |of: fn(&Checkpoint) -> u64| chain.iter().map(of).sum::<u64>();
            prop_assert_eq!(sum(|c| c.counters.energy_millijoules.unwrap()), steps.iter().map(|s| s.0).sum::<u64>());
            prop_assert_eq!(sum(|c| u64::from(c.folded.unwrap_or(0)) + 1), steps.len() as u64);
            prop_assert_eq!(chain.last().unwrap().to_ms, at);
        }
    }
}
