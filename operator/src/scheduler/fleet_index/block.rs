//! What the filters read of 64 neighbouring nodes, as columns: yes or no in one bit a node, amounts in arrays.
//!
//! Lane `i` of a block is the node at position `64 · block + i` of the canonical order.

use crate::scheduler::resources::{Resources, Shortage};
use crate::scheduler::snapshot::NodeCapacity;

/// Nodes of one block.
pub const LANES: usize = 64;

/// Free GPUs up to this many have a column of bits each.
const COUNTED_GPUS: u64 = 8;

/// After so many changes the least of what is left in a block is counted anew. Counting costs about as much as a few changes.
const RECOUNTED_AFTER: u32 = 32;

/// So many bits of a reputation have a column.
const REPUTATION_BITS: usize = 10;

/// The highest reputation that columns tell.
const HIGHEST_REPUTATION: u32 = (1 << REPUTATION_BITS) - 1;

/// Nodes that are compared at once.
const STEP: usize = 8;

/// The columns of 64 nodes. Bits and amounts of lanes behind the last node are zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Their GPUs are offered.
    pub offered: u64,
    /// They have the stake that is asked for.
    pub bonded: u64,
    /// Their weight is not zero.
    pub weighted: u64,
    /// Some of their GPUs are taken.
    pub partly_used: u64,
    /// It is known when they are taken back.
    pub closing: u64,
    /// They are cordoned or have a taint that needs to be tolerated.
    pub tainted: u64,
    /// At place `n − 1`: they have at least `n` free GPUs.
    free_gpus: [u64; 8],
    /// Reputations in thousandths, the bits of like worth of all of them side by side; [`HIGHEST_REPUTATION`] stands for that
    /// much or more.
    reputations: [u64; REPUTATION_BITS],
    /// The lowest and the highest of the prices.
    cheapest: i32,
    dearest: i32,
    /// Prices in nano-tokens per GPU-second; [`i32::MAX`] stands for that much or more.
    prices: [i32; LANES],
    weights: [u64; LANES],
    rooms: [Room; LANES],
    /// No node with a free GPU has less left than this, of CPU, memory, scratch space and pod slots.
    least: Room,
    /// How often `least` has been lowered, or left too low, since it was last counted.
    loosened: u32,
}

/// What is left of one node. It is looked at for the few nodes that the columns leave, and then all of it: side by side it
/// is in one line of the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Room {
    gpus: u64,
    cpu_milli: u64,
    memory_bytes: u64,
    ephemeral_storage_bytes: u64,
    pods: u64,
}

impl Room {
    const NONE: Self = Self {
        gpus: 0,
        cpu_milli: 0,
        memory_bytes: 0,
        ephemeral_storage_bytes: 0,
        pods: 0,
    };

    const ENDLESS: Self = Self {
        gpus: u64::MAX,
        cpu_milli: u64::MAX,
        memory_bytes: u64::MAX,
        ephemeral_storage_bytes: u64::MAX,
        pods: u64::MAX,
    };

    /// The least of both, of each.
    fn least(self, other: Self) -> Self {
        Self {
            gpus: self.gpus.min(other.gpus),
            cpu_milli: self.cpu_milli.min(other.cpu_milli),
            memory_bytes: self.memory_bytes.min(other.memory_bytes),
            ephemeral_storage_bytes: self
                .ephemeral_storage_bytes
                .min(other.ephemeral_storage_bytes),
            pods: self.pods.min(other.pods),
        }
    }

    #[inline]
    fn holds_all_but_gpus(&self, asked: &Resources) -> bool {
        self.cpu_milli >= asked.cpu_milli
            && self.memory_bytes >= asked.memory_bytes
            && self.ephemeral_storage_bytes >= asked.ephemeral_storage_bytes
            && self.pods >= asked.pods
    }
}

impl Default for Block {
    fn default() -> Self {
        Self {
            offered: 0,
            bonded: 0,
            weighted: 0,
            partly_used: 0,
            closing: 0,
            tainted: 0,
            free_gpus: [0; 8],
            reputations: [0; REPUTATION_BITS],
            cheapest: 0,
            dearest: 0,
            prices: [0; LANES],
            weights: [0; LANES],
            rooms: [Room::NONE; LANES],
            least: Room::ENDLESS,
            loosened: 0,
        }
    }
}

impl Block {
    /// Writes down a node's properties; what is free is for [`Self::set_free`].
    pub fn set_node(&mut self, lane: usize, node: &NodeCapacity, tainted: bool) {
        let facts = node.facts();
        put(&mut self.offered, lane, facts.offer.is_ok());
        put(&mut self.bonded, lane, facts.bonded);
        put(&mut self.closing, lane, facts.closes_in.is_some());
        put(&mut self.tainted, lane, tainted);
        put(&mut self.weighted, lane, node.weight() > 0);
        self.weights[lane % LANES] = node.weight();
        self.prices[lane % LANES] = i32::try_from(facts.price.nano()).unwrap_or(i32::MAX);
        self.cheapest = self.prices.iter().copied().min().unwrap_or(0);
        self.dearest = self.prices.iter().copied().max().unwrap_or(i32::MAX);
        let reputation = facts.reputation.min(HIGHEST_REPUTATION);
        for (bit, column) in self.reputations.iter_mut().enumerate() {
            put(column, lane, reputation >> bit & 1 == 1);
        }
    }

    /// Writes down what is free of a node.
    pub fn set_free(&mut self, lane: usize, node: &NodeCapacity) {
        let free = node.free();
        put(&mut self.partly_used, lane, node.is_partly_used());
        for (least, column) in (1..).zip(&mut self.free_gpus) {
            put(column, lane, free.gpus >= least);
        }
        let room = Room {
            gpus: free.gpus,
            cpu_milli: free.cpu_milli,
            memory_bytes: free.memory_bytes,
            ephemeral_storage_bytes: free.ephemeral_storage_bytes,
            pods: free.pods,
        };
        self.rooms[lane % LANES] = room;
        self.loosened += 1;
        if self.loosened >= RECOUNTED_AFTER {
            self.count_least();
        } else if room.gpus > 0 {
            self.least = self.least.least(room);
        }
    }

    /// What was the least may have been given back, or be of a node without a free GPU now.
    fn count_least(&mut self) {
        self.loosened = 0;
        self.least = set_bits(self.free_gpus[0]).fold(Room::ENDLESS, |least, lane| {
            least.least(self.rooms[lane % LANES])
        });
    }

    /// With the least as it is, which may be higher than it is known to be.
    #[cfg(test)]
    pub fn counted(mut self) -> Self {
        let known = self.least;
        self.count_least();
        assert_eq!(known.least(self.least), known, "some node has less left");
        self
    }

    /// Whether every node with so many free GPUs has room for all else that is asked for, as far as is known without a look at
    /// each: it may be so and not be known.
    #[inline]
    #[must_use]
    pub fn all_have_room(&self, asked: &Resources) -> bool {
        (1..=COUNTED_GPUS).contains(&asked.gpus) && self.least.holds_all_but_gpus(asked)
    }

    /// The nodes with at least so many free GPUs; for more than [`COUNTED_GPUS`], those with at least that many.
    #[inline]
    #[must_use]
    pub fn with_free_gpus(&self, least: u64) -> u64 {
        let place = least.min(COUNTED_GPUS).checked_sub(1);
        place
            .and_then(|place| self.free_gpus.get(usize::try_from(place).ok()?))
            .copied()
            .unwrap_or(u64::MAX)
    }

    /// Those of `lanes` that cost at most so many nano-tokens. The second are those among the others whose price is too
    /// high for the column, if `most` is too.
    #[inline]
    #[must_use]
    pub fn priced_at_most(&self, most: u128, lanes: u64) -> (u64, u64) {
        match i32::try_from(most) {
            // Neighbours are often of one model, and then a price is often high enough for all of them, or for none.
            Ok(most) if self.dearest <= most && most < i32::MAX => (lanes, 0),
            Ok(most) if most < self.cheapest => (0, 0),
            Ok(most) if most < i32::MAX => {
                (compare(&self.prices, |price| price <= most) & lanes, 0)
            }
            _ => {
                let told = compare(&self.prices, |price| price < i32::MAX) & lanes;
                (told, lanes & !told)
            }
        }
    }

    /// Those of `lanes` whose reputation is at least so many thousandths. The second are those among them that are too
    /// high for the column, if `least` is too.
    #[inline]
    #[must_use]
    pub fn reputed_at_least(&self, least: u32, lanes: u64) -> (u64, u64) {
        let known = least.min(HIGHEST_REPUTATION);
        let passed = self
            .reputations
            .iter()
            .enumerate()
            .fold(lanes, |at_least, (bit, column)| {
                // Of two numbers that differ in this bit the one that has it is higher, whatever the bits below it say.
                if known >> bit & 1 == 1 {
                    at_least & column
                } else {
                    at_least | column
                }
            })
            & lanes;
        if least < HIGHEST_REPUTATION {
            (passed, 0)
        } else {
            (0, passed)
        }
    }

    /// Whether the node has so many GPUs and so much CPU, memory, scratch space and pod slots left.
    #[inline]
    #[must_use]
    pub fn has_room(&self, lane: usize, asked: &Resources) -> bool {
        let room = &self.rooms[lane % LANES];
        room.gpus >= asked.gpus && room.holds_all_but_gpus(asked)
    }

    /// What a node without that room has too little of.
    #[must_use]
    pub fn shortage(&self, lane: usize, asked: &Resources) -> Shortage {
        let room = &self.rooms[lane % LANES];
        if room.gpus < asked.gpus {
            Shortage::Gpus
        } else if room.cpu_milli < asked.cpu_milli {
            Shortage::Cpu
        } else if room.memory_bytes < asked.memory_bytes {
            Shortage::Memory
        } else if room.ephemeral_storage_bytes < asked.ephemeral_storage_bytes {
            Shortage::EphemeralStorage
        } else {
            Shortage::Pods
        }
    }

    /// How many members would find GPUs, CPU, memory, scratch space and pod slots; `u64::MAX` if they ask for nothing.
    #[inline]
    #[must_use]
    pub fn room(&self, lane: usize, asked: &Resources) -> u64 {
        let room = &self.rooms[lane % LANES];
        let amounts = [
            (room.gpus, asked.gpus),
            (room.cpu_milli, asked.cpu_milli),
            (room.memory_bytes, asked.memory_bytes),
            (room.ephemeral_storage_bytes, asked.ephemeral_storage_bytes),
            (room.pods, asked.pods),
        ];
        amounts.into_iter().fold(u64::MAX, |times, (has, asks)| {
            // Most often GPUs are what is scarce: a product is less work than a quotient.
            let is_scarcer = asks.checked_mul(times).is_none_or(|needed| has < needed);
            if is_scarcer && asks > 0 {
                has / asks
            } else {
                times
            }
        })
    }

    /// The node's weight.
    #[inline]
    #[must_use]
    pub fn weight(&self, lane: usize) -> u64 {
        self.weights[lane % LANES]
    }
}

/// The numbers of the bits that are set, from the lowest.
#[inline]
pub fn set_bits(mut bits: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        if bits == 0 {
            return None;
        }
        let lane = bits.trailing_zeros();
        bits &= bits - 1;
        usize::try_from(lane).ok()
    })
}

/// The bits of the lanes from one to another within a block.
#[inline]
#[must_use]
pub fn lanes(from: usize, to: usize) -> u64 {
    let below = |lane: usize| {
        if lane >= LANES {
            u64::MAX
        } else {
            (1 << lane) - 1
        }
    };
    below(to) & !below(from)
}

fn put(column: &mut u64, lane: usize, value: bool) {
    let bit = 1 << (lane % LANES);
    if value {
        *column |= bit;
    } else {
        *column &= !bit;
    }
}

/// Those whose value in the column passes. Eight at a time: compilers make vector instructions of that. All of them, whoever is
/// asked about: to guess wrongly where to end takes longer.
fn compare<T: Copy>(column: &[T; LANES], passes: impl Fn(T) -> bool) -> u64 {
    let mut mask = 0;
    let (eights, _) = column.as_chunks::<STEP>();
    for (step, eight) in eights.iter().enumerate() {
        let mut flags = [0_u8; STEP];
        for (flag, value) in flags.iter_mut().zip(eight) {
            *flag = u8::from(passes(*value));
        }
        // Byte i, which is 0 or 1, becomes bit 56 + i; no two bytes meet in any bit, so nothing is carried.
        let bits = u64::from_le_bytes(flags).wrapping_mul(0x0102_0408_1020_4080) >> 56;
        mask |= bits << (step * STEP);
    }
    mask
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_column_is_compared_as_if_one_by_one(values in prop::collection::vec(-3_i32..3, LANES), most in -3_i32..3) {
            let column: [i32; LANES] = values.clone().try_into().unwrap();
            let one_by_one: u64 = values.iter().enumerate().filter(|(_, value)| **value <= most).map(|(lane, _)| 1 << lane).sum();
            prop_assert_eq!(compare(&column, |value| value <= most), one_by_one);
        }

        #[test]
        fn set_bits_are_found_in_their_order(bits: u64) {
            let found: Vec<usize> = set_bits(bits).collect();
            prop_assert!(found.is_sorted());
            prop_assert_eq!(found.iter().map(|lane| 1 << lane).sum::<u64>(), bits);
        }
    }

    #[test]
    fn lanes_are_counted_from_the_first_to_before_the_last() {
        assert_eq!(
            (lanes(0, 64), lanes(0, 0), lanes(2, 4), lanes(63, 64)),
            (u64::MAX, 0, 0b1100, 1 << 63)
        );
    }
}
