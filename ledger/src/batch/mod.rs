//! The payload of `Settlement.settle`, byte by byte, and the lane's hash chain. All numbers are big-endian.
//!
//! ```text
//! 0        u8   W   bytes per record, 1 to 6
//! 1        u8   g   bits of the group at the top of each record, 0 to 10
//! 2        u16  G   groups, at most 2^g
//! 4        u16  K   words of the bitmap
//! 6        u8   S   statements
//! 7        K × 32   wordNo:u32 | mask:224      strictly ascending; job number = wordNo × 224 + bit (bit 0 is the lowest)
//! 7+32K    G × 16   payer:u32 | provider:u32 | price:u64
//! …        J × W    group:g bits | units:(8W − g) bits, one per set bit, in ascending job numbers
//! …        S × 69   kind:u8 | number:u32 | subject:32 bytes | content:32 bytes; nothing follows
//! ```
//!
//! What statements say is in [`crate::statement`]; the contract repeats them as events.

mod decode;
mod encode;

use alloy_primitives::{B256, U256, keccak256};
use alloy_sol_types::SolValue as _;

pub use decode::{DecodeError, Outcome, decode, outcome};
pub use encode::{EncodeError, encode, encoded_len};

use crate::statement::Statement;

/// Job numbers in one word of the bitmap.
pub const WORD_BITS: u64 = 224;
/// The most bytes of one payload: what a SettlementBatch holds.
pub const MAX_BYTES: usize = 16 * 1024;
/// The most groups of one payload.
pub const MAX_GROUPS: usize = 1 << MAX_GROUP_BITS;
/// The most records that one payload can say; the contract counts them in 16 bits.
pub const MAX_RECORDS: usize = 65_535;
/// The most bits of a record's group.
const MAX_GROUP_BITS: u32 = 10;
/// The most bytes of a record.
const MAX_RECORD_BYTES: u32 = 6;
/// The most statements that one payload can say.
pub const MAX_STATEMENTS: usize = 255;
/// Bytes before the first word.
const HEADER: usize = 7;
/// Bytes of a word, of a group and of a statement.
const WORD: usize = 32;
const GROUP: usize = 16;
pub(crate) const STATEMENT: usize = 69;

/// One entry: what one job number is paid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// The number, unique on its lane.
    pub job_no: u64,
    /// The payer's account number on the lane; 0 is the lane's reward account.
    pub payer: u32,
    /// The provider's account number.
    pub provider: u32,
    /// The price as on the wire: 10⁻¹⁸ token per unit.
    pub price: u64,
    /// GPU-milliseconds; nano-tokens where the price is [`EMISSION_PRICE`].
    pub units: u64,
}

/// The price at which one unit is one nano-token: emissions are written as amounts.
pub const EMISSION_PRICE: u64 = 1_000_000_000;

/// All entries of one payer, provider and price.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Group {
    /// The payer's account number on the lane.
    pub payer: u32,
    /// The provider's account number.
    pub provider: u32,
    /// The price as on the wire.
    pub price: u64,
}

impl From<&Entry> for Group {
    fn from(entry: &Entry) -> Self {
        Self {
            payer: entry.payer,
            provider: entry.provider,
            price: entry.price,
        }
    }
}

/// A payload, taken apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// The groups, in the order of the payload.
    pub groups: Vec<Group>,
    /// The sum of units per group, in the same order.
    pub units: Vec<u64>,
    /// The entries, in ascending job numbers.
    pub entries: Vec<Entry>,
    /// What the lane states beside payments.
    pub statements: Vec<Statement>,
}

impl Batch {
    /// What each group pays if it is not left out, in nano-tokens and in the order of the groups.
    pub fn amounts(&self) -> Result<Vec<u64>, crate::amount::AmountError> {
        self.groups
            .iter()
            .zip(&self.units)
            .map(|(group, units)| crate::amount::group_amount(*units, group.price))
            .collect()
    }
}

/// The numbers of the bits that are set in the word `word` of a bitmap.
pub fn numbers_of_word(word: u32, bits: U256) -> impl Iterator<Item = u64> {
    (0_u8..224)
        .filter(move |bit| bits.bit(usize::from(*bit)))
        .map(move |bit| u64::from(word) * WORD_BITS + u64::from(bit))
}

/// keccak256 of a payload.
#[must_use]
pub fn data_hash(data: &[u8]) -> B256 {
    keccak256(data)
}

/// The lane's chain hash after a batch: `keccak256(abi.encode(prev, lane, seq, usageRoot, dataHash))`.
#[must_use]
pub fn chain_hash(prev: B256, lane: u32, seq: u64, usage_root: B256, data_hash: B256) -> B256 {
    keccak256((prev, lane, seq, usage_root, data_hash).abi_encode())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::amount::group_amount;

    fn entry(job_no: u64, payer: u32, provider: u32, price: u64, units: u64) -> Entry {
        Entry {
            job_no,
            payer,
            provider,
            price,
            units,
        }
    }

    fn statement(byte: u8) -> Statement {
        Statement {
            kind: byte,
            number: 7,
            subject: B256::repeat_byte(byte),
            content: B256::repeat_byte(byte.wrapping_add(1)),
        }
    }

    #[test]
    fn a_payload_is_laid_out_as_documented() {
        let data = encode(
            &[
                entry(0, 1, 2, 5, 0x0102),
                entry(223, 1, 2, 5, 3),
                entry(224, 4, 2, 5, 1),
            ],
            &[statement(0xaa)],
        )
        .unwrap();
        // g = 1, units need 9 bits: 2 bytes a record.
        assert_eq!(data[..7], [2, 1, 0, 2, 0, 2, 1]);
        let word = |at: usize| &data[7 + 32 * at..7 + 32 * (at + 1)];
        assert_eq!(word(0)[..4], [0, 0, 0, 0]);
        assert_eq!((word(0)[4], word(0)[31]), (0x80, 0x01));
        assert_eq!((word(1)[3], word(1)[31]), (1, 1));
        assert_eq!(
            data[71..87],
            [0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 5]
        );
        assert_eq!(data[103..109], [0x01, 0x02, 0x00, 0x03, 0x80, 0x01]);
        assert_eq!(data[109..114], [0xaa, 0, 0, 0, 7]);
        assert_eq!(data[114..146], [0xaa; 32]);
        assert_eq!(data[146..178], [0xab; 32]);
        assert_eq!(data.len(), 109 + 69);
    }

    #[test]
    fn what_cannot_be_encoded_names_the_number() {
        assert_eq!(encode(&[], &[]), Err(EncodeError::Empty));
        assert_eq!(
            encode(&[entry(5, 1, 1, 1, 1), entry(5, 1, 1, 1, 1)], &[]),
            Err(EncodeError::NotAscending { job_no: 5 })
        );
        assert_eq!(
            encode(&[entry(7, 1, 1, 1, 1 << 48)], &[]),
            Err(EncodeError::UnitsTooLarge {
                job_no: 7,
                max: (1 << 48) - 1
            })
        );
        assert_eq!(
            encode(&[entry(u64::MAX, 1, 1, 1, 1)], &[]),
            Err(EncodeError::NumberTooLarge { job_no: u64::MAX })
        );
        let many: Vec<_> = (0..8_000).map(|n| entry(n, 1, 1, 1, 1 << 30)).collect();
        assert!(matches!(
            encode(&many, &[]),
            Err(EncodeError::TooLong { .. })
        ));
        let groups: Vec<_> = (0..1025).map(|n| entry(n.into(), n, 1, 1, 1)).collect();
        assert_eq!(
            encode(&groups, &[]),
            Err(EncodeError::TooManyGroups { groups: 1025 })
        );
    }

    #[test]
    fn a_batch_may_hold_statements_alone() {
        let stated = [statement(1), statement(2)];
        let data = encode(&[], &stated).unwrap();
        assert_eq!(data[..7], [1, 0, 0, 0, 0, 0, 2]);
        let batch = decode(&data).unwrap();
        assert_eq!(batch.statements, stated);
        assert!(batch.entries.is_empty() && batch.groups.is_empty());
        let many = vec![statement(1); 256];
        assert_eq!(
            encode(&[], &many),
            Err(EncodeError::TooManyStatements { statements: 256 })
        );
    }

    #[test]
    fn a_payload_that_was_cut_or_extended_is_refused() {
        let data = encode(
            &[entry(1, 1, 2, 5, 9), entry(300, 3, 2, 5, 9)],
            &[statement(1)],
        )
        .unwrap();
        for len in 0..data.len() {
            assert!(decode(&data[..len]).is_err(), "{len}");
        }
        let longer: Vec<u8> = data.iter().copied().chain([0]).collect();
        assert!(matches!(decode(&longer), Err(DecodeError::Length { .. })));
    }

    #[test]
    fn the_event_says_what_was_paid_and_what_was_left_out() {
        let mut amounts = 7_u64.to_be_bytes().to_vec();
        amounts.extend((1_u64 << 63).to_be_bytes());
        let summary = (alloy_primitives::U256::from(7) << 64)
            | (alloy_primitives::U256::from(3) << 32)
            | alloy_primitives::U256::from(2);
        assert_eq!(
            outcome(summary, &amounts),
            Ok(Outcome {
                total: 7,
                paid: 3,
                skipped: 2,
                groups: vec![Some(7), None]
            })
        );
        assert!(outcome(summary, &amounts[1..]).is_err());
    }

    prop_compose! {
        fn entries()(numbers in prop::collection::btree_set(0_u64..5_000, 1..120))
            (fields in prop::collection::vec((0_u32..4, 1_u32..4, 1_u64..3, 0_u64..1 << 38), numbers.len()), numbers in Just(numbers)) -> Vec<Entry> {
            numbers.into_iter().zip(fields).map(|(no, (payer, provider, price, units))| entry(no, payer, provider, price * 1_000_000, units)).collect()
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(all in entries(), stated in prop::collection::vec(any::<u8>().prop_map(statement), 0..4)) {
            let data = encode(&all, &stated).unwrap();
            prop_assert_eq!(Ok(data.len()), encoded_len(&all, &stated));
            let batch = decode(&data).unwrap();
            prop_assert_eq!(&batch.entries, &all);
            prop_assert_eq!(&batch.statements, &stated);
            for ((group, units), amount) in batch.groups.iter().zip(&batch.units).zip(batch.amounts().unwrap()) {
                let sum: u64 = all.iter().filter(|e| Group::from(*e) == *group).map(|e| e.units).sum();
                prop_assert_eq!(*units, sum);
                prop_assert_eq!(amount, group_amount(sum, group.price).unwrap());
            }
        }

        #[test]
        fn no_bytes_make_the_decoder_fail_otherwise_than_by_an_error(data in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(batch) = decode(&data) {
                // A payload of ours may order groups differently, but says the same.
                prop_assert_eq!(batch.entries.len(), batch.entries.iter().map(|e| e.job_no).collect::<std::collections::BTreeSet<_>>().len());
            }
        }

        #[test]
        fn changed_bytes_never_read_as_the_same_entries(all in entries(), at: prop::sample::Index, bit in 0_u8..8) {
            let data = encode(&all, &[statement(3)]).unwrap();
            let mut changed = data.clone();
            changed[at.index(data.len())] ^= 1 << bit;
            prop_assert_ne!(decode(&changed).map(|b| (b.entries, b.statements)), Ok((all, vec![statement(3)])));
        }
    }
}
