//! The lane's log of uptime: which node was up in which minute. One epoch of ten minutes after the other; each commits to
//! the one before it, so the head in a [statement](crate::statement::uptime) covers all of them.
//!
//! What is said is what the operator saw: a minute is up if the node's agent renewed its Lease in it or in the minute
//! before, and unknown while no operator watched. It shows what the operator claims and cannot deny later, not that it is
//! true.

use alloy_primitives::{B256, keccak256};
use alloy_sol_types::SolValue as _;

use crate::{merkle, statement::node_id};

/// Seconds of an epoch.
pub const EPOCH_SECONDS: u64 = 600;
/// Minutes of an epoch.
pub const EPOCH_MINUTES: usize = 10;

/// A node in an epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeUptime {
    /// The node's name.
    pub node: String,
    /// The provider that answers for it; 0 if none does.
    pub provider: u32,
    /// The minutes in which it was watched; bit 0 is the epoch's first.
    pub watched: u16,
    /// Those of them in which it was up.
    pub up: u16,
    /// Its GPUs.
    pub gpus: u32,
    /// Those of them that were healthy when the epoch ended.
    pub healthy: u32,
}

impl NodeUptime {
    /// Its leaf: hashed twice, so that no inner node of the tree can pass for one.
    #[must_use]
    pub fn leaf(&self, epoch: u32) -> B256 {
        let content = (
            epoch,
            node_id(&self.node),
            self.provider,
            self.watched,
            self.up,
            self.gpus,
            self.healthy,
        );
        keccak256(keccak256(content.abi_encode()))
    }
}

/// An epoch of a lane's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EpochUptime {
    /// Its number: Unix seconds ÷ [`EPOCH_SECONDS`].
    pub epoch: u32,
    /// The log's head before it; zero at its begin.
    pub previous: B256,
    /// The nodes, in ascending order of their names.
    pub nodes: Vec<NodeUptime>,
}

impl EpochUptime {
    /// The root over the nodes' leaves; zero if there are none.
    #[must_use]
    pub fn root(&self) -> B256 {
        let leaves: Vec<B256> = self
            .nodes
            .iter()
            .map(|node| node.leaf(self.epoch))
            .collect();
        merkle::root(&leaves)
    }

    /// The log's head after it.
    #[must_use]
    pub fn head(&self) -> B256 {
        head(self.previous, self.epoch, self.root())
    }
}

/// The log's head after an epoch: `keccak256(abi.encode(previous, epoch, root))`.
#[must_use]
pub fn head(previous: B256, epoch: u32, root: B256) -> B256 {
    keccak256((previous, epoch, root).abi_encode())
}

/// The epoch in which `seconds` (Unix time) lie.
#[must_use]
pub fn epoch_of(seconds: u64) -> u32 {
    u32::try_from(seconds / EPOCH_SECONDS).unwrap_or(u32::MAX)
}

/// The minute of its epoch in which `seconds` (Unix time) lie, from 0 on.
#[must_use]
pub fn minute_of(seconds: u64) -> usize {
    usize::try_from(seconds % EPOCH_SECONDS / 60).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, up: u16) -> NodeUptime {
        NodeUptime {
            node: name.to_owned(),
            provider: 7,
            watched: 0x3ff,
            up,
            gpus: 8,
            healthy: 8,
        }
    }

    #[test]
    fn a_proof_shows_that_a_node_was_up_in_a_minute() {
        let epoch = EpochUptime {
            epoch: epoch_of(1_795_910_400),
            previous: B256::repeat_byte(1),
            nodes: vec![node("n1", 0x3ff), node("n2", 0x3fb), node("n3", 0)],
        };
        let leaves: Vec<B256> = epoch.nodes.iter().map(|n| n.leaf(epoch.epoch)).collect();
        let proof = merkle::proof(&leaves, 1).unwrap();
        assert!(merkle::verify(
            epoch.root(),
            node("n2", 0x3fb).leaf(epoch.epoch),
            &proof
        ));
        assert!(!merkle::verify(
            epoch.root(),
            node("n2", 0x3ff).leaf(epoch.epoch),
            &proof
        ));
        assert_eq!(
            epoch.head(),
            head(epoch.previous, epoch.epoch, epoch.root())
        );
    }

    #[test]
    fn each_part_of_an_epoch_changes_the_head() {
        let epoch = EpochUptime {
            epoch: 5,
            previous: B256::ZERO,
            nodes: vec![node("n1", 3)],
        };
        let alterations: [fn(&mut EpochUptime); 9] = [
            |e| e.epoch += 1,
            |e| e.previous = B256::repeat_byte(1),
            |e| e.nodes[0].node.push('x'),
            |e| e.nodes[0].provider += 1,
            |e| e.nodes[0].watched -= 1,
            |e| e.nodes[0].up += 1,
            |e| e.nodes[0].gpus += 1,
            |e| e.nodes[0].healthy -= 1,
            |e| e.nodes.clear(),
        ];
        for alter in alterations {
            let mut changed = epoch.clone();
            alter(&mut changed);
            assert_ne!(changed.head(), epoch.head());
        }
    }

    #[test]
    fn a_second_has_its_epoch_and_minute() {
        assert_eq!((epoch_of(0), minute_of(0)), (0, 0));
        assert_eq!((epoch_of(599), minute_of(599)), (0, 9));
        assert_eq!((epoch_of(600), minute_of(661)), (1, 1));
    }
}
