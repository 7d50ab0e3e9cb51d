//! Bytes to entries, and the contract's event to what was paid.

use alloy_primitives::{B256, U256};

use super::{
    Batch, Entry, GROUP, Group, HEADER, MAX_GROUP_BITS, MAX_RECORD_BYTES, MAX_RECORDS, STATEMENT,
    WORD, WORD_BITS,
};
use crate::statement::Statement;

/// Why bytes are no payload. Offsets are in bytes from the payload's begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The header or a table is cut off.
    #[error("the payload ends at byte {len}, within its {part}")]
    Truncated {
        /// Its length.
        len: usize,
        /// `header`, `bitmap`, `groups` or `records`.
        part: &'static str,
    },
    /// A number of the header is out of range.
    #[error("byte {offset}: {what} is {value}, out of range")]
    Header {
        /// Where it is.
        offset: usize,
        /// `record width`, `group bits` or `group count`.
        what: &'static str,
        /// What it is.
        value: usize,
    },
    /// Words of the bitmap do not ascend.
    #[error("byte {offset}: word {word} is not above the one before")]
    WordOrder {
        /// Where it is.
        offset: usize,
        /// Its number.
        word: u32,
    },
    /// The bitmap names more records than a batch may hold.
    #[error("the bitmap names {records} records: at most {MAX_RECORDS}")]
    TooManyRecords {
        /// How many.
        records: usize,
    },
    /// A record with units names a group that is not there.
    #[error("byte {offset}: group {group} of a record does not exist")]
    UnknownGroup {
        /// Where the record is.
        offset: usize,
        /// The group that it names.
        group: usize,
    },
    /// The units of a group leave 64 bits.
    #[error("the units of group {group} do not fit 64 bits")]
    Overflow {
        /// The group.
        group: usize,
    },
    /// Bytes follow the last record.
    #[error("the payload has {len} bytes, and {expected} by its own header and bitmap")]
    Length {
        /// Its length.
        len: usize,
        /// What it should be.
        expected: usize,
    },
    /// The event's amounts are no list of 64-bit numbers.
    #[error("the event's amounts have {len} bytes, no multiple of 8")]
    Amounts {
        /// Their length.
        len: usize,
    },
    /// The event's summary has higher bits than it may.
    #[error("the event's summary is out of range")]
    Summary,
}

/// Takes a payload apart. Whatever the contract would refuse as `BadEncoding` is refused here, and also a record without
/// units whose group does not exist, which the contract lets pass as paid with 0.
pub fn decode(data: &[u8]) -> Result<Batch, DecodeError> {
    let part = |from: usize, len: usize, part| {
        data.get(from..from.saturating_add(len))
            .ok_or(DecodeError::Truncated {
                len: data.len(),
                part,
            })
    };
    let header = part(0, HEADER, "header")?;
    let byte = |at: usize| header.get(at).copied().map_or(0, usize::from);
    let (width, group_bits) = (byte(0), byte(1));
    let (groups, words) = (byte(2) << 8 | byte(3), byte(4) << 8 | byte(5));
    let out_of_range = |offset, what, value| DecodeError::Header {
        offset,
        what,
        value,
    };
    if width == 0 || width > MAX_RECORD_BYTES as usize {
        return Err(out_of_range(0, "record width", width));
    }
    if group_bits > MAX_GROUP_BITS as usize || group_bits > 8 * width {
        return Err(out_of_range(1, "group bits", group_bits));
    }
    if groups > 1 << group_bits {
        return Err(out_of_range(2, "group count", groups));
    }
    let groups_at = HEADER + WORD * words;
    let records_at = groups_at + GROUP * groups;
    let numbers = numbers(part(HEADER, WORD * words, "bitmap")?)?;
    let groups: Vec<Group> = part(groups_at, records_at - groups_at, "groups")?
        .chunks_exact(GROUP)
        .map(group)
        .collect();
    let records = part(records_at, width * numbers.len(), "records")?;
    let statements_at = records_at + records.len();
    let statements: Vec<Statement> = part(statements_at, STATEMENT * byte(6), "statements")?
        .chunks_exact(STATEMENT)
        .map(statement)
        .collect();
    let expected = statements_at + STATEMENT * statements.len();
    if data.len() != expected {
        return Err(DecodeError::Length {
            len: data.len(),
            expected,
        });
    }
    let unit_bits = 8 * width - group_bits;
    let mut units = vec![0_u64; groups.len()];
    let mut entries = Vec::with_capacity(numbers.len());
    for (index, (job_no, record)) in numbers
        .into_iter()
        .zip(records.chunks_exact(width))
        .enumerate()
    {
        let record = number(record);
        let at = usize::try_from(record >> unit_bits).unwrap_or(usize::MAX);
        let own = record & ((1 << unit_bits) - 1);
        let (group, sum) =
            groups
                .get(at)
                .zip(units.get_mut(at))
                .ok_or(DecodeError::UnknownGroup {
                    offset: records_at + index * width,
                    group: at,
                })?;
        *sum = sum
            .checked_add(own)
            .ok_or(DecodeError::Overflow { group: at })?;
        entries.push(Entry {
            job_no,
            payer: group.payer,
            provider: group.provider,
            price: group.price,
            units: own,
        });
    }
    Ok(Batch {
        groups,
        units,
        entries,
        statements,
    })
}

/// The job numbers of the bitmap, ascending.
fn numbers(words: &[u8]) -> Result<Vec<u64>, DecodeError> {
    let mut numbers = Vec::new();
    let mut before = None;
    for (index, word) in words.chunks_exact(WORD).enumerate() {
        let (head, mask) = word.split_at(4);
        let number = u32::try_from(number(head)).unwrap_or(u32::MAX);
        if before.is_some_and(|before| before >= number) {
            return Err(DecodeError::WordOrder {
                offset: HEADER + index * WORD,
                word: number,
            });
        }
        before = Some(number);
        for (bit, _) in bits(mask).enumerate().filter(|(_, set)| *set) {
            numbers.push(u64::from(number) * WORD_BITS + bit as u64);
        }
        if numbers.len() > MAX_RECORDS {
            return Err(DecodeError::TooManyRecords {
                records: numbers.len(),
            });
        }
    }
    Ok(numbers)
}

/// The bits of a big-endian number, the lowest first.
fn bits(bytes: &[u8]) -> impl Iterator<Item = bool> {
    bytes
        .iter()
        .rev()
        .flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1 == 1))
}

fn group(bytes: &[u8]) -> Group {
    let (payer, rest) = bytes.split_at(4);
    let (provider, price) = rest.split_at(4);
    Group {
        payer: u32::try_from(number(payer)).unwrap_or(u32::MAX),
        provider: u32::try_from(number(provider)).unwrap_or(u32::MAX),
        price: number(price),
    }
}

/// At most 8 bytes as a number.
fn statement(bytes: &[u8]) -> Statement {
    let (kind, rest) = bytes.split_at(1);
    let (own, rest) = rest.split_at(4);
    let (subject, content) = rest.split_at(32);
    Statement {
        kind: kind.first().copied().unwrap_or(0),
        number: u32::try_from(number(own)).unwrap_or(u32::MAX),
        subject: B256::from_slice(subject),
        content: B256::from_slice(content),
    }
}

fn number(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// What the contract did with a batch, from its event `BatchSettled`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// What it moved, in nano-tokens.
    pub total: u64,
    /// Records that it paid.
    pub paid: u32,
    /// Records that it left out.
    pub skipped: u32,
    /// What each group paid, in the order of the payload; `None` if the group was left out.
    pub groups: Vec<Option<u64>>,
}

/// Reads `summary` (total << 64 | paid << 32 | skipped) and `amounts` (8 bytes a group, the highest bit: left out) of
/// the event `BatchSettled`.
pub fn outcome(summary: U256, amounts: &[u8]) -> Result<Outcome, DecodeError> {
    if !amounts.len().is_multiple_of(8) {
        return Err(DecodeError::Amounts { len: amounts.len() });
    }
    let low = u128::try_from(summary).map_err(|_| DecodeError::Summary)?;
    let total = u64::try_from(low >> 64).map_err(|_| DecodeError::Summary)?;
    let half = |shift: u32| u32::try_from(low >> shift & u128::from(u32::MAX)).unwrap_or(u32::MAX);
    Ok(Outcome {
        total,
        paid: half(32),
        skipped: half(0),
        groups: amounts
            .chunks_exact(8)
            .map(|amount| Some(number(amount)).filter(|amount| amount >> 63 == 0))
            .collect(),
    })
}
