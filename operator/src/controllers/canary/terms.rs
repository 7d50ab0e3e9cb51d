//! By what canaries are made, and how often. Pure.

use alloy::primitives::keccak256;
use gridstake_crds::PodTemplate;
use k8s_openapi::jiff::SignedDuration;

/// Into how many parts of [`Terms::every`] the time after a canary is divided in which its node gets no other one.
const PAUSES: i32 = 4;
/// By up to this part of [`Terms::every`] a node is measured before that is over.
const JITTER: i32 = 8;

/// What the operator goes by.
#[derive(Clone, Debug, PartialEq)]
pub struct Terms {
    /// The pod of a canary, less its node and its GPUs. Without one there are no canaries.
    pub template: Option<PodTemplate>,
    /// How often a node is measured.
    pub every: SignedDuration,
    /// For how long a measurement counts. Longer than [`Self::every`]: nobody can measure a node whose GPUs are never free.
    pub expires_after: SignedDuration,
    /// How many canaries there may be at a time.
    pub most: usize,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            template: None,
            every: SignedDuration::from_hours(24),
            expires_after: SignedDuration::from_hours(30 * 24),
            most: 2,
        }
    }
}

impl Terms {
    /// For how long a node that has had a canary gets no other one, however that ended: a node on which canaries fail costs no
    /// more than one in this time.
    #[must_use]
    pub fn pause(&self) -> SignedDuration {
        (self.every / PAUSES).max(SignedDuration::from_secs(1))
    }

    /// After which time `node` is measured again: [`Self::every`] less up to an eighth, by the hash of its name, so that nodes
    /// which were measured together once do not stay together.
    #[must_use]
    pub fn due_after(&self, node: &str) -> SignedDuration {
        let part = i32::from(keccak256(node.as_bytes())[0]);
        self.every - self.every / JITTER * part / 256
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_that_were_measured_together_are_due_one_after_the_other_and_never_late() {
        let terms = Terms::default();
        let due: std::collections::BTreeSet<_> = (0..100)
            .map(|number| terms.due_after(&format!("node-{number}")))
            .collect();
        assert!(due.len() > 50, "{}", due.len());
        assert!(
            due.iter()
                .all(|after| *after <= terms.every && *after >= terms.every - terms.every / 8)
        );
        assert_eq!(terms.due_after("a"), terms.due_after("a"));
    }

    #[test]
    fn a_node_has_no_more_than_four_canaries_in_the_time_in_which_it_is_due_once() {
        assert_eq!(Terms::default().pause(), SignedDuration::from_hours(6));
        let quick = Terms {
            every: SignedDuration::from_secs(2),
            ..Terms::default()
        };
        assert_eq!(quick.pause(), SignedDuration::from_secs(1));
    }
}
