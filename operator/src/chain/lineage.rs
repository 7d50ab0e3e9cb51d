//! Where a block stands among those that are known. Pure.

use std::collections::BTreeMap;

use alloy::primitives::B256;

use super::view::Block;

/// How many blocks are remembered.
const REMEMBERED: usize = 256;

/// The newest blocks, each the parent of the next.
#[derive(Clone, Debug, Default)]
pub struct Lineage {
    known: BTreeMap<u64, B256>,
}

/// Where a block stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It is the newest known block.
    Head,
    /// It is a known block, or too old to be known: the endpoint lags behind.
    Behind,
    /// Its parent is the newest known block.
    Next,
    /// It is further ahead: its ancestors tell.
    Ahead,
    /// Another block is known at its height, or in its parent's place.
    Fork,
}

impl Lineage {
    /// Where `block` stands.
    #[must_use]
    pub fn place(&self, block: &Block) -> Place {
        let Some((&height, &head)) = self.known.last_key_value() else {
            return Place::Fork;
        };
        if block.number > height {
            return match block.number - height {
                1 if block.parent == head => Place::Next,
                1 => Place::Fork,
                _ => Place::Ahead,
            };
        }
        if self.contradicts(block) {
            Place::Fork
        } else if block.number == height {
            Place::Head
        } else {
            // A lower block alone proves nothing: only another block at a known height does.
            Place::Behind
        }
    }

    /// Whether another block is known at the height of `block`.
    #[must_use]
    pub fn contradicts(&self, block: &Block) -> bool {
        self.known
            .get(&block.number)
            .is_some_and(|known| *known != block.hash)
    }

    /// Adds blocks, oldest first, each the parent of the next and the first a child of the newest known one.
    pub fn extend(&mut self, blocks: &[Block]) {
        self.known
            .extend(blocks.iter().map(|block| (block.number, block.hash)));
        while self.known.len() > REMEMBERED {
            self.known.pop_first();
        }
    }

    /// Forgets everything but `block`.
    pub fn restart(&mut self, block: &Block) {
        self.known.clear();
        self.extend(std::slice::from_ref(block));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(number: u64, branch: u8, parent_branch: u8) -> Block {
        let hash = |number: u64, branch: u8| {
            let mut bytes = [branch; 32];
            bytes[..8].copy_from_slice(&number.to_be_bytes());
            B256::from(bytes)
        };
        Block {
            number,
            hash: hash(number, branch),
            parent: hash(number.wrapping_sub(1), parent_branch),
            timestamp: number,
        }
    }

    #[test]
    fn a_block_stands_where_its_hashes_say() {
        let mut lineage = Lineage::default();
        assert_eq!(lineage.place(&block(5, 0, 0)), Place::Fork);
        lineage.restart(&block(5, 0, 0));
        lineage.extend(&[block(6, 0, 0), block(7, 0, 0)]);
        for (candidate, place) in [
            (block(7, 0, 0), Place::Head),
            (block(6, 0, 0), Place::Behind),
            (block(2, 9, 9), Place::Behind),
            (block(8, 0, 0), Place::Next),
            (block(9, 0, 0), Place::Ahead),
            (block(7, 1, 0), Place::Fork),
            (block(6, 1, 0), Place::Fork),
            (block(8, 1, 1), Place::Fork),
        ] {
            assert_eq!(lineage.place(&candidate), place, "{candidate:?}");
        }
    }

    #[test]
    fn only_the_newest_blocks_are_remembered() {
        let mut lineage = Lineage::default();
        lineage.restart(&block(0, 0, 0));
        let blocks: Vec<Block> = (1..1000).map(|number| block(number, 0, 0)).collect();
        lineage.extend(&blocks);
        assert_eq!(lineage.place(&block(1, 1, 0)), Place::Behind);
        assert_eq!(lineage.place(&block(990, 1, 0)), Place::Fork);
    }
}
