//! The head of the decision log: each decision names the hash of the one before it. Pure.

use std::iter;

use alloy_primitives::B256;
use gridstake_crds::{ComputeJob, compute_job::Decision as ApiDecision};

use crate::scheduler::{Decision, Seed, draw::NO_PREVIOUS_DECISION};

/// Where the log stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecisionLog {
    previous: B256,
    sequence: u64,
}

/// The decisions on the last attempt that `job` shows: where all its members go, and each that replaced one.
pub fn decisions(job: &ComputeJob) -> impl Iterator<Item = &ApiDecision> {
    let placement = job.status.as_ref().and_then(|s| s.placement.as_ref());
    placement.into_iter().flat_map(|placement| {
        let later = placement
            .nodes
            .iter()
            .filter_map(|n| n.replacement.as_ref());
        iter::once(&placement.decision).chain(later.map(|taken| &taken.decision))
    })
}

impl DecisionLog {
    /// Goes on after the last decision that the stored jobs show: the one on the newest snapshot.
    ///
    /// A decision whose job has been deleted since is not seen; what the chain of hashes shows then is a new beginning.
    pub fn recover<'a>(jobs: impl IntoIterator<Item = &'a ComputeJob>) -> Self {
        let decisions = jobs.into_iter().flat_map(decisions);
        let last = decisions.max_by_key(|decision| decision.snapshot);
        let hash = last.and_then(|decision| decision.hash.parse().ok());
        Self {
            previous: hash.unwrap_or(NO_PREVIOUS_DECISION),
            sequence: last.map_or(0, |decision| decision.snapshot),
        }
    }

    /// What seeds the next draw, with the hash of a block.
    #[must_use]
    pub const fn seed(&self, block_hash: B256) -> Seed {
        Seed {
            block_hash,
            previous_decision: self.previous,
        }
    }

    /// The hash of the last decision.
    #[must_use]
    pub const fn head(&self) -> B256 {
        self.previous
    }

    /// The sequence number of the next snapshot.
    #[must_use]
    pub fn next_sequence(&mut self) -> u64 {
        self.sequence = self.sequence.saturating_add(1);
        self.sequence
    }

    /// `decision` has been made.
    pub fn append(&mut self, decision: &Decision) {
        self.previous = decision.hash();
        self.sequence = self.sequence.max(decision.snapshot).saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(snapshot: u64, hash: char) -> ComputeJob {
        let zero = format!("0x{}", "0".repeat(64));
        let hash = format!("0x{}", hash.to_string().repeat(64));
        serde_saphyr::from_str(&format!(
            "{{apiVersion: gridstake.dev/v1alpha1, kind: ComputeJob, metadata: {{name: j}}, spec: {{gpu: {{count: 1}}, template: {{}}}}, status: {{placement: {{attempt: 1, nodes: [], decidedAt: '2026-01-01T00:00:00Z', \
             decision: {{draw: d, blockHash: '{zero}', previous: '{zero}', hash: '{hash}', snapshot: {snapshot}, candidates: 1, totalWeight: '1', drawn: []}}}}}}}}"
        ))
        .unwrap()
    }

    #[test]
    fn a_new_leader_goes_on_after_the_last_decision() {
        let mut log = DecisionLog::recover(&[job(7, 'a'), job(9, 'b'), job(8, 'c')]);
        assert_eq!(log.head(), B256::repeat_byte(0xbb));
        assert_eq!(log.next_sequence(), 10);
    }

    #[test]
    fn the_first_decision_follows_none() {
        let mut log = DecisionLog::recover(&[]);
        assert_eq!((log.head(), log.next_sequence()), (NO_PREVIOUS_DECISION, 1));
    }
}
