//! Merkle roots and proofs with sorted pairs, as OpenZeppelin's `MerkleProof` verifies them.
//!
//! Leaves are hashed twice by whoever makes them ([`crate::receipt`]), so that no inner node can pass for a leaf. An odd
//! node at the end of a level goes up unchanged.

use alloy_primitives::{B256, keccak256};

/// The root over `leaves` in their order; zero if there are none.
#[must_use]
pub fn root(leaves: &[B256]) -> B256 {
    let mut level = leaves.to_vec();
    while level.len() > 1 {
        level = parents(&level);
    }
    level.first().copied().unwrap_or_default()
}

/// The proof that leaf `index` is under the root; `None` if there is no such leaf.
#[must_use]
pub fn proof(leaves: &[B256], index: usize) -> Option<Vec<B256>> {
    leaves.get(index)?;
    let (mut level, mut at, mut path) = (leaves.to_vec(), index, Vec::new());
    while level.len() > 1 {
        path.extend(level.get(at ^ 1));
        level = parents(&level);
        at /= 2;
    }
    Some(path)
}

/// Whether `leaf` is under `root`.
#[must_use]
pub fn verify(root: B256, leaf: B256, proof: &[B256]) -> bool {
    proof.iter().fold(leaf, |node, other| pair(node, *other)) == root
}

/// The root that goes into a batch: over its receipts in the order of their numbers, and then the head of the decision
/// log.
#[must_use]
pub fn usage_root(receipts: &[B256], decision_head: B256) -> B256 {
    root(&usage_leaves(receipts, decision_head))
}

/// The leaves under [`usage_root`].
#[must_use]
pub fn usage_leaves(receipts: &[B256], decision_head: B256) -> Vec<B256> {
    let head = keccak256(keccak256(decision_head));
    receipts.iter().copied().chain([head]).collect()
}

fn parents(level: &[B256]) -> Vec<B256> {
    level
        .chunks(2)
        .map(|nodes| match nodes {
            [left, right] => pair(*left, *right),
            single => single.first().copied().unwrap_or_default(),
        })
        .collect()
}

fn pair(a: B256, b: B256) -> B256 {
    let (low, high) = if a <= b { (a, b) } else { (b, a) };
    keccak256([low.as_slice(), high.as_slice()].concat())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn leaves(count: usize) -> Vec<B256> {
        (0..count).map(|n| keccak256(n.to_be_bytes())).collect()
    }

    #[test]
    fn one_leaf_is_its_own_root() {
        let one = leaves(1);
        assert_eq!(root(&one), one[0]);
        assert_eq!(proof(&one, 0), Some(vec![]));
        assert_eq!(proof(&one, 1), None);
        assert_eq!(root(&[]), B256::ZERO);
    }

    proptest! {
        #[test]
        fn every_leaf_is_proven_and_no_other_is(count in 1_usize..70, index in 0_usize..70, stranger: [u8; 32]) {
            prop_assume!(index < count);
            let all = leaves(count);
            let path = proof(&all, index).unwrap();
            prop_assert!(verify(root(&all), all[index], &path));
            prop_assert!(!verify(root(&all), stranger.into(), &path));
        }

        #[test]
        fn another_decision_head_is_another_root(count in 0_usize..9, a: [u8; 32], b: [u8; 32]) {
            prop_assume!(a != b);
            prop_assert_ne!(usage_root(&leaves(count), a.into()), usage_root(&leaves(count), b.into()));
        }
    }
}
