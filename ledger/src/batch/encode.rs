//! Entries to bytes.

use std::collections::BTreeMap;

use super::{
    Entry, GROUP, Group, HEADER, MAX_BYTES, MAX_GROUPS, MAX_RECORD_BYTES, MAX_RECORDS,
    MAX_STATEMENTS, STATEMENT, WORD, WORD_BITS,
};
use crate::statement::Statement;

/// Why entries make no payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// There are none.
    #[error("a batch needs at least one entry or statement")]
    Empty,
    /// Entries must come in ascending job numbers, each once.
    #[error("job number {job_no} is there twice or out of order")]
    NotAscending {
        /// The number.
        job_no: u64,
    },
    /// The number lies beyond the last word of the bitmap.
    #[error("job number {job_no} is beyond the last number of a lane, {}", u64::from(u32::MAX) * WORD_BITS + WORD_BITS - 1)]
    NumberTooLarge {
        /// The number.
        job_no: u64,
    },
    /// The units do not fit a record.
    #[error("the units of job number {job_no} do not fit a record: at most {max} in this batch")]
    UnitsTooLarge {
        /// The number.
        job_no: u64,
        /// The most units beside so many groups.
        max: u64,
    },
    /// There are too many groups.
    #[error("{groups} groups are too many: at most {MAX_GROUPS}")]
    TooManyGroups {
        /// How many there are.
        groups: usize,
    },
    /// There are too many statements.
    #[error("{statements} statements are too many: at most {MAX_STATEMENTS}")]
    TooManyStatements {
        /// How many there are.
        statements: usize,
    },
    /// The payload is too long.
    #[error(
        "a payload of {bytes} bytes with {records} records is too long: at most {MAX_BYTES} bytes and {MAX_RECORDS} records"
    )]
    TooLong {
        /// Its length.
        bytes: usize,
        /// Its records.
        records: usize,
    },
}

/// How the entries are laid out.
struct Layout {
    groups: BTreeMap<Group, u16>,
    words: usize,
    group_bits: u32,
    record_bytes: u32,
    len: usize,
}

/// The length of the payload that [`encode`] makes, without making it.
pub fn encoded_len(entries: &[Entry], statements: &[Statement]) -> Result<usize, EncodeError> {
    layout(entries, statements).map(|layout| layout.len)
}

/// The payload of `entries`, which come in ascending job numbers, and of `statements`. The smallest record width is chosen;
/// groups are in ascending order, statements in the order given.
pub fn encode(entries: &[Entry], statements: &[Statement]) -> Result<Vec<u8>, EncodeError> {
    let layout = layout(entries, statements)?;
    let mut data = Vec::with_capacity(layout.len);
    let count = |count: usize| u16::try_from(count).unwrap_or(u16::MAX).to_be_bytes();
    data.push(u8::try_from(layout.record_bytes).unwrap_or(u8::MAX));
    data.push(u8::try_from(layout.group_bits).unwrap_or(u8::MAX));
    data.extend(count(layout.groups.len()));
    data.extend(count(layout.words));
    data.push(u8::try_from(statements.len()).unwrap_or(u8::MAX));
    for word in entries.chunk_by(|a, b| a.job_no / WORD_BITS == b.job_no / WORD_BITS) {
        data.extend(bitmap_word(word));
    }
    for group in layout.groups.keys() {
        data.extend(group.payer.to_be_bytes());
        data.extend(group.provider.to_be_bytes());
        data.extend(group.price.to_be_bytes());
    }
    let unit_bits = 8 * layout.record_bytes - layout.group_bits;
    let skipped = 8 - usize::try_from(layout.record_bytes).unwrap_or(8);
    for entry in entries {
        let group = layout.groups.get(&Group::from(entry)).copied().unwrap_or(0);
        let record = (u64::from(group) << unit_bits) | entry.units;
        data.extend(record.to_be_bytes().iter().skip(skipped));
    }
    for statement in statements {
        data.push(statement.kind);
        data.extend(statement.number.to_be_bytes());
        data.extend(statement.subject);
        data.extend(statement.content);
    }
    Ok(data)
}

fn bitmap_word(entries: &[Entry]) -> [u8; WORD] {
    let mut word = [0; WORD];
    for entry in entries {
        let number = u32::try_from(entry.job_no / WORD_BITS).unwrap_or(u32::MAX);
        if let Some(head) = word.first_chunk_mut() {
            *head = number.to_be_bytes();
        }
        let bit = usize::try_from(entry.job_no % WORD_BITS).unwrap_or(0);
        if let Some(byte) = word.get_mut(WORD - 1 - bit / 8) {
            *byte |= 1 << (bit % 8);
        }
    }
    word
}

fn layout(entries: &[Entry], statements: &[Statement]) -> Result<Layout, EncodeError> {
    if entries.is_empty() && statements.is_empty() {
        return Err(EncodeError::Empty);
    }
    if statements.len() > MAX_STATEMENTS {
        return Err(EncodeError::TooManyStatements {
            statements: statements.len(),
        });
    }
    if let Some(pair) = entries
        .windows(2)
        .find(|pair| pair[0].job_no >= pair[1].job_no)
    {
        return Err(EncodeError::NotAscending {
            job_no: pair[1].job_no,
        });
    }
    let last = entries.last().map_or(0, |entry| entry.job_no);
    if last / WORD_BITS > u64::from(u32::MAX) {
        return Err(EncodeError::NumberTooLarge { job_no: last });
    }
    let mut groups: BTreeMap<Group, u16> = entries.iter().map(|e| (Group::from(e), 0)).collect();
    if groups.len() > MAX_GROUPS {
        return Err(EncodeError::TooManyGroups {
            groups: groups.len(),
        });
    }
    for (index, slot) in (0..).zip(groups.values_mut()) {
        *slot = index;
    }
    let group_bits = usize::BITS - groups.len().saturating_sub(1).leading_zeros();
    let units = entries.iter().map(|e| e.units).max().unwrap_or(0);
    let unit_bits = u64::BITS - units.leading_zeros();
    let record_bytes = (group_bits + unit_bits).div_ceil(8).max(1);
    if record_bytes > MAX_RECORD_BYTES {
        let max = (1 << (8 * MAX_RECORD_BYTES - group_bits)) - 1;
        let job_no = entries
            .iter()
            .find(|e| e.units > max)
            .map_or(last, |e| e.job_no);
        return Err(EncodeError::UnitsTooLarge { job_no, max });
    }
    let words = entries
        .chunk_by(|a, b| a.job_no / WORD_BITS == b.job_no / WORD_BITS)
        .count();
    let width = usize::try_from(record_bytes).unwrap_or(usize::MAX);
    let len = HEADER
        + WORD * words
        + GROUP * groups.len()
        + width * entries.len()
        + STATEMENT * statements.len();
    if len > MAX_BYTES || entries.len() > MAX_RECORDS {
        return Err(EncodeError::TooLong {
            bytes: len,
            records: entries.len(),
        });
    }
    Ok(Layout {
        groups,
        words,
        group_bits,
        record_bytes,
        len,
    })
}
