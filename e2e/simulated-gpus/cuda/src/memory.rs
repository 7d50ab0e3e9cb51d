//! What fills the buffers. Every buffer was filled as a whole, by one word, by a kernel or by a copy of another one.

use std::collections::BTreeMap;

use crate::{
    device::{Answer, Failure},
    kernel::LANES,
};

/// The content of a buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// The same word everywhere.
    Word(u32),
    /// A kernel's results in the first words, one lane after the other; the rest as before.
    Lanes {
        /// The results.
        lanes: [u32; LANES],
        /// How many words hold them.
        words: u64,
        /// What the others hold.
        rest: u32,
    },
}

impl Content {
    /// The word at `index`.
    pub fn word(&self, index: usize) -> u32 {
        match self {
            Self::Word(word) => *word,
            Self::Lanes { lanes, words, rest } => {
                if u64::try_from(index).is_ok_and(|index| index < *words) {
                    lanes[index % LANES]
                } else {
                    *rest
                }
            }
        }
    }
}

/// A buffer.
#[derive(Clone, Debug)]
pub struct Buffer {
    pub bytes: u64,
    pub content: Content,
}

/// The buffers of a device, by their addresses.
#[derive(Debug, Default)]
pub struct Memory {
    buffers: BTreeMap<u64, Buffer>,
    taken: u64,
    next: u64,
}

/// Where the first buffer is: no address that a program could take for one of its own.
const FIRST: u64 = 0x7f00_0000_0000;
/// Addresses are multiples of this, as the driver's are.
const ALIGNMENT: u64 = 512;

impl Memory {
    /// A buffer of so many bytes on a device that has `room`.
    pub fn allocate(&mut self, bytes: u64, room: u64) -> Answer<u64> {
        if bytes == 0 {
            return Err(Failure::INVALID_VALUE);
        }
        if self.taken.saturating_add(bytes) > room {
            return Err(Failure::OUT_OF_MEMORY);
        }
        let address = FIRST + self.next;
        self.next += bytes.next_multiple_of(ALIGNMENT);
        self.taken += bytes;
        let content = Content::Word(0);
        self.buffers.insert(address, Buffer { bytes, content });
        Ok(address)
    }

    /// The buffer that begins at `address`.
    pub fn buffer(&mut self, address: u64) -> Answer<&mut Buffer> {
        self.buffers.get_mut(&address).ok_or(Failure::INVALID_VALUE)
    }

    pub fn free(&mut self, address: u64) -> Answer {
        let buffer = self
            .buffers
            .remove(&address)
            .ok_or(Failure::INVALID_VALUE)?;
        self.taken -= buffer.bytes;
        Ok(())
    }
}
