//! A file against nothing but the hash that the lane has on chain.

use alloy_primitives::B256;

use super::{ArchivedBatch, Reader, lines};
use crate::{batch, merkle};

/// What `file` says, if it is the whole file of the batch after which the lane's chain hash is `chain_hash`: the hash commits to the
/// payload and to the usage root, and this to what each entry is paid for. Signatures and bills are not looked at.
#[must_use]
pub fn proven(file: &[u8], chain_hash: B256) -> Option<ArchivedBatch> {
    let mut lines = lines(file).into_iter();
    let mut next = || lines.next().map(|line| Reader::new(file, line));
    let first = next()?.head().ok()?;
    let head = first.head;
    let settled = batch::decode(&head.data).ok()?;
    if head.chain_hash() != chain_hash {
        return None;
    }
    let certificates = (0..first.certificates)
        .map(|_| Some(next()?.certificate().ok()?.0))
        .collect::<Option<Vec<_>>>()?;
    let entries = settled
        .entries
        .iter()
        .map(|settled| {
            let (archived, _, _) = next()?.entry().ok()?;
            let is_it =
                archived.entry == *settled && archived.leaf == archived.computed_leaf(head.lane);
            is_it.then_some(archived)
        })
        .collect::<Option<Vec<_>>>()?;
    let leaves: Vec<B256> = entries.iter().map(|entry| entry.leaf).collect();
    let is_whole =
        next().is_none() && merkle::usage_root(&leaves, head.decision_head) == head.usage_root;
    is_whole.then_some(ArchivedBatch {
        head,
        certificates,
        entries,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::{encode, examples::example};

    #[test]
    fn a_file_is_proven_by_the_chains_hash_and_not_when_anything_of_it_that_was_settled_differs() {
        let (batch, chain) = example();
        let file = encode(&batch);
        assert_eq!(proven(&file, chain.chain_hash), Some(batch.clone()));
        assert_eq!(proven(&file, B256::ZERO), None);
        assert_eq!(proven(&[], chain.chain_hash), None);
        // Cut off, and with a line more.
        let text = String::from_utf8(file.clone()).unwrap();
        let last = text.trim_end().rfind('\n').unwrap() + 1;
        assert_eq!(proven(&file[..last], chain.chain_hash), None);
        let longer = format!("{text}{}", &text[last..]);
        assert_eq!(proven(longer.as_bytes(), chain.chain_hash), None);
        // What the leaf or the payload says.
        for (from, to) in [
            (r#""startMs":"#, r#""startMs":1"#),
            (r#""units":"#, r#""units":1"#),
        ] {
            let other = text.replacen(from, to, 1);
            assert_ne!(other, text);
            assert_eq!(proven(other.as_bytes(), chain.chain_hash), None, "{from}");
        }
        let mut other = batch;
        other.head.decision_head = B256::repeat_byte(7);
        assert_eq!(proven(&encode(&other), chain.chain_hash), None);
    }
}
