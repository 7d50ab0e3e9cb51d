//! A batch out of sealed records. Pure.

use alloy::primitives::{Address, B256};
use gridstake_crds::{SettlementBatchSpec, TokenAmount};
use gridstake_ledger::{
    amount,
    batch::{self, EncodeError, Entry},
    merkle,
    statement::Statement,
};
use k8s_openapi::ByteString;

/// The most records of one batch.
pub const MOST_RECORDS: usize = 1000;

/// Something that is to be paid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// What the contract reads.
    pub entry: Entry,
    /// Its leaf under the usage root.
    pub leaf: B256,
}

/// Where the batch goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The chain's name.
    pub chain: String,
    /// The chain's id.
    pub chain_id: u64,
    /// The settlement contract.
    pub contract: Address,
    /// The lane.
    pub lane: u32,
    /// The batch's number.
    pub sequence: u64,
    /// The lane's chain hash before it.
    pub previous: B256,
    /// The head of the decision log.
    pub decision_head: B256,
}

/// What to put into a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// In ascending numbers, each once; they fit one batch.
    pub chosen: Vec<Candidate>,
    /// Those that no batch can hold, and why.
    pub refused: Vec<(u64, EncodeError)>,
    /// How many are left for the next batch.
    pub left: usize,
}

/// Why there is no batch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// The entries make no payload.
    #[error("encode the batch")]
    Encode(#[source] EncodeError),
    /// The payload is not what was encoded: an error of this program, found before anything is signed.
    #[error("read back the encoded batch: it does not say what was put into it")]
    ReadBack,
}

/// Why no batch can hold the candidate, if none can.
#[must_use]
pub fn unfit(candidate: &Candidate) -> Option<EncodeError> {
    batch::encoded_len(std::slice::from_ref(&candidate.entry), &[]).err()
}

/// Chooses the lowest numbers, as many as fit beside the `statements`.
#[must_use]
pub fn select(mut candidates: Vec<Candidate>, statements: &[Statement]) -> Selection {
    candidates.sort_by_key(|candidate| candidate.entry.job_no);
    candidates.dedup_by_key(|candidate| candidate.entry.job_no);
    let mut refused = Vec::new();
    loop {
        let entries: Vec<Entry> = candidates
            .iter()
            .map(|c| c.entry)
            .take(MOST_RECORDS)
            .collect();
        match longest_prefix(&entries, statements) {
            Ok(length) => {
                let left = candidates.split_off(length).len();
                return Selection {
                    chosen: candidates,
                    refused,
                    left,
                };
            }
            Err((job_no, error)) => {
                candidates.retain(|candidate| candidate.entry.job_no != job_no);
                refused.push((job_no, error));
            }
        }
    }
}

/// How many of the first entries fit, or the entry that never does.
fn longest_prefix(
    entries: &[Entry],
    statements: &[Statement],
) -> Result<usize, (u64, EncodeError)> {
    let (mut fits, mut beyond) = (0, entries.len() + 1);
    // Every entry adds bytes, so what fits is a prefix.
    while beyond - fits > 1 {
        let middle = usize::midpoint(fits, beyond);
        match batch::encoded_len(&entries[..middle], statements) {
            Ok(_) => fits = middle,
            Err(
                EncodeError::UnitsTooLarge { job_no, .. } | EncodeError::NumberTooLarge { job_no },
            ) if fits == 0 && middle == 1 => {
                return Err((
                    job_no,
                    batch::encoded_len(&entries[..1], statements)
                        .err()
                        .unwrap_or(EncodeError::Empty),
                ));
            }
            Err(_) => beyond = middle,
        }
    }
    Ok(fits)
}

/// The batch of `chosen` and `statements`.
pub fn build(
    place: &Place,
    chosen: &[Candidate],
    statements: &[Statement],
) -> Result<SettlementBatchSpec, BuildError> {
    let entries: Vec<Entry> = chosen.iter().map(|candidate| candidate.entry).collect();
    let data = batch::encode(&entries, statements).map_err(BuildError::Encode)?;
    let read = batch::decode(&data).map_err(|_| BuildError::ReadBack)?;
    if read.entries != entries || read.statements != statements {
        return Err(BuildError::ReadBack);
    }
    // A group that no account can hold is left out by the contract, as any that its payer cannot cover.
    let amounts = read.groups.iter().zip(&read.units);
    let total = amounts
        .filter_map(|(group, units)| amount::group_amount(*units, group.price).ok())
        .map(u128::from)
        .sum();
    let leaves: Vec<B256> = chosen.iter().map(|candidate| candidate.leaf).collect();
    let usage_root = merkle::usage_root(&leaves, place.decision_head);
    let data_hash = batch::data_hash(&data);
    let chain_hash = batch::chain_hash(
        place.previous,
        place.lane,
        place.sequence,
        usage_root,
        data_hash,
    );
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    Ok(SettlementBatchSpec {
        chain: place.chain.clone(),
        chain_id: place.chain_id,
        contract: place.contract.to_string(),
        lane: place.lane,
        sequence: place.sequence,
        previous: place.previous.to_string(),
        usage_root: usage_root.to_string(),
        decision_head: place.decision_head.to_string(),
        data: ByteString(data),
        data_hash: data_hash.to_string(),
        chain_hash: chain_hash.to_string(),
        record_count: count(entries.len()),
        group_count: count(read.groups.len()),
        statement_count: count(statements.len()),
        first_job_no: entries.first().map_or(0, |entry| entry.job_no),
        last_job_no: entries.last().map_or(0, |entry| entry.job_no),
        total: TokenAmount::from_nano(total),
        supersedes: None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn candidate(job_no: u64, provider: u32, units: u64) -> Candidate {
        Candidate {
            entry: Entry {
                job_no,
                payer: 1,
                provider,
                price: 1_000_000_000,
                units,
            },
            leaf: alloy::primitives::keccak256(job_no.to_be_bytes()),
        }
    }

    fn place() -> Place {
        Place {
            chain: "anvil".into(),
            chain_id: 31337,
            contract: Address::repeat_byte(1),
            lane: 7,
            sequence: 3,
            previous: B256::repeat_byte(2),
            decision_head: B256::repeat_byte(3),
        }
    }

    #[test]
    fn a_batch_says_what_it_holds() {
        let chosen = [
            candidate(256, 1, 10),
            candidate(257, 2, 20),
            candidate(300, 1, 30),
        ];
        let spec = build(&place(), &chosen, &[]).unwrap();
        assert_eq!((spec.record_count, spec.group_count), (3, 2));
        assert_eq!((spec.first_job_no, spec.last_job_no), (256, 300));
        assert_eq!(spec.total.nano(), 60);
        let leaves: Vec<B256> = chosen.iter().map(|candidate| candidate.leaf).collect();
        assert_eq!(
            spec.usage_root,
            merkle::usage_root(&leaves, B256::repeat_byte(3)).to_string()
        );
        assert!(spec.contract.starts_with("0x"));
    }

    #[test]
    fn the_lowest_numbers_come_first_and_each_once() {
        let selection = select(
            vec![candidate(9, 1, 1), candidate(3, 1, 1), candidate(9, 1, 1)],
            &[],
        );
        let numbers: Vec<u64> = selection.chosen.iter().map(|c| c.entry.job_no).collect();
        assert_eq!(numbers, [3, 9]);
        assert_eq!(select(vec![], &[]), Selection::default());
    }

    #[test]
    fn no_more_than_a_thousand_records_go_into_one_batch() {
        let selection = select((0..2500).map(|n| candidate(n, 1, 1000)).collect(), &[]);
        assert_eq!(
            (selection.chosen.len(), selection.left),
            (MOST_RECORDS, 1500)
        );
    }

    #[test]
    fn scattered_numbers_fill_the_payload_before_the_count() {
        let selection = select(
            (0..1000).map(|n| candidate(n * 224, 1, 1000)).collect(),
            &[],
        );
        assert!(selection.chosen.len() < 600, "{}", selection.chosen.len());
        let spec = build(&place(), &selection.chosen, &[]).unwrap();
        assert!(spec.data.0.len() <= batch::MAX_BYTES);
        assert_eq!(selection.chosen.len() + selection.left, 1000);
    }

    #[test]
    fn what_no_batch_can_hold_is_seen_by_itself() {
        assert_eq!(unfit(&candidate(1, 1, 1 << 47)), None);
        assert!(matches!(
            unfit(&candidate(1, 1, 1 << 48)),
            Some(EncodeError::UnitsTooLarge { job_no: 1, .. })
        ));
    }

    #[test]
    fn what_no_batch_can_hold_does_not_hold_up_the_rest() {
        let selection = select(vec![candidate(1, 1, u64::MAX), candidate(2, 1, 5)], &[]);
        assert_eq!(selection.chosen, [candidate(2, 1, 5)]);
        assert!(matches!(
            selection.refused[..],
            [(1, EncodeError::UnitsTooLarge { .. })]
        ));
        // In the middle: it comes first in the batch after this one, and is refused there.
        let selection = select(
            vec![
                candidate(1, 1, 5),
                candidate(2, 1, u64::MAX),
                candidate(3, 1, 5),
            ],
            &[],
        );
        assert_eq!(selection.chosen, [candidate(1, 1, 5)]);
        assert_eq!(selection.left, 2);
    }

    #[test]
    fn an_amount_that_no_account_can_hold_does_not_hold_up_the_rest() {
        let mut beyond = candidate(2, 2, 1 << 40);
        beyond.entry.price = u64::MAX;
        let spec = build(&place(), &[candidate(1, 1, 5), beyond], &[]).unwrap();
        assert_eq!((spec.record_count, spec.total.nano()), (2, 5));
    }

    proptest! {
        #[test]
        fn what_is_chosen_can_always_be_built_and_adds_up(
            numbers in prop::collection::btree_set(0_u64..100_000, 1..400),
            providers in 1_u32..40, units in 0_u64..1 << 30,
        ) {
            let candidates: Vec<Candidate> = numbers.iter().enumerate()
                .map(|(index, number)| candidate(*number, 1 + u32::try_from(index).unwrap() % providers, units))
                .collect();
            let selection = select(candidates.clone(), &[]);
            prop_assert!(!selection.chosen.is_empty());
            prop_assert_eq!(selection.chosen.len() + selection.left, candidates.len());
            let spec = build(&place(), &selection.chosen, &[]).unwrap();
            let sum: u64 = selection.chosen.iter().map(|c| c.entry.units).sum();
            prop_assert_eq!(spec.total.nano(), u128::from(sum));
        }
    }
}
