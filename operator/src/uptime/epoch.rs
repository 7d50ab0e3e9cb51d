//! An epoch while it is watched. Pure.

use std::collections::BTreeMap;

use alloy::primitives::B256;
use gridstake_ledger::uptime::{EPOCH_MINUTES, EpochUptime, NodeUptime, epoch_of, minute_of};

/// Seconds of a minute.
const MINUTE: u64 = 60;

/// What is seen of a node when a minute has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sight {
    /// Its name.
    pub node: String,
    /// The provider whose stake answers for it.
    pub provider: u32,
    /// When its agent was last heard of, in Unix seconds.
    pub heard_at: Option<u64>,
    /// Its GPUs.
    pub gpus: u32,
    /// Those of them that are healthy.
    pub healthy: u32,
}

/// An epoch while it is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watch {
    epoch: u32,
    nodes: BTreeMap<String, NodeUptime>,
}

impl Watch {
    /// The epoch in which `now` lies, in Unix seconds, of which nothing is seen.
    #[must_use]
    pub fn at(now: u64) -> Self {
        Self {
            epoch: epoch_of(now),
            nodes: BTreeMap::new(),
        }
    }

    /// What is seen at `now`, in Unix seconds, just after a minute has ended. It says something about that minute only, and
    /// nothing if that minute is not of this epoch.
    pub fn see(&mut self, now: u64, sights: impl IntoIterator<Item = Sight>) {
        let begin = (now / MINUTE).saturating_sub(1) * MINUTE;
        if epoch_of(begin) != self.epoch {
            return;
        }
        let bit = 1_u16 << minute_of(begin).min(EPOCH_MINUTES - 1);
        for sight in sights {
            let node = self
                .nodes
                .entry(sight.node.clone())
                .or_insert_with(|| NodeUptime {
                    node: sight.node.clone(),
                    provider: 0,
                    watched: 0,
                    up: 0,
                    gpus: 0,
                    healthy: 0,
                });
            node.watched |= bit;
            if sight.heard_at.is_some_and(|at| at >= begin) {
                node.up |= bit;
            }
            node.provider = sight.provider;
            node.gpus = sight.gpus;
            node.healthy = sight.healthy;
        }
    }

    /// Whether the epoch is over at `now`, in Unix seconds.
    #[must_use]
    pub fn is_over(&self, now: u64) -> bool {
        epoch_of(now) > self.epoch
    }

    /// The epoch as it follows from `previous`, the log's head; `None` if no node was seen in it.
    #[must_use]
    pub fn end(self, previous: B256) -> Option<EpochUptime> {
        (!self.nodes.is_empty()).then(|| EpochUptime {
            epoch: self.epoch,
            previous,
            nodes: self.nodes.into_values().collect(),
        })
    }
}

/// Seconds from `now`, in Unix seconds, to just after the end of its minute.
#[must_use]
pub const fn to_the_next_look(now: u64) -> u64 {
    MINUTE - now % MINUTE + 1
}

#[cfg(test)]
mod tests {
    use gridstake_ledger::uptime::EPOCH_SECONDS;
    use proptest::prelude::*;

    use super::*;

    const BEGIN: u64 = 2_993_184 * EPOCH_SECONDS;

    fn sight(node: &str, heard_at: Option<u64>) -> Sight {
        Sight {
            node: node.to_owned(),
            provider: 7,
            heard_at,
            gpus: 8,
            healthy: 8,
        }
    }

    #[test]
    fn a_minute_is_up_if_the_agent_was_heard_of_in_it() {
        let mut watch = Watch::at(BEGIN + 5);
        watch.see(
            BEGIN + 61,
            [sight("n1", Some(BEGIN)), sight("n2", Some(BEGIN - 1))],
        );
        watch.see(
            BEGIN + 121,
            [sight("n1", Some(BEGIN + 59)), sight("n2", None)],
        );
        watch.see(BEGIN + 601, [sight("n1", Some(BEGIN + 600))]);
        let epoch = watch.end(B256::ZERO).unwrap();
        assert_eq!(epoch.epoch, 2_993_184);
        let of = |name: &str| {
            let node = epoch.nodes.iter().find(|node| node.node == name).unwrap();
            (node.watched, node.up)
        };
        assert_eq!(of("n1"), (0b10_0000_0011, 0b10_0000_0001));
        assert_eq!(of("n2"), (0b11, 0));
    }

    #[test]
    fn what_was_not_watched_is_neither_up_nor_down() {
        // The process came late: the minute before the epoch, and one of the next.
        let mut watch = Watch::at(BEGIN);
        watch.see(BEGIN + 1, [sight("n1", Some(BEGIN))]);
        watch.see(BEGIN + 661, [sight("n1", Some(BEGIN + 660))]);
        assert_eq!(watch.clone().end(B256::ZERO), None);
        assert!(!watch.is_over(BEGIN + 599) && watch.is_over(BEGIN + 600));
    }

    proptest! {
        #[test]
        fn a_node_is_never_up_in_a_minute_in_which_it_was_not_watched(
            looks in prop::collection::vec((0_u64..1_300, prop::option::of(0_u64..1_300)), 0..40)
        ) {
            let mut watch = Watch::at(BEGIN);
            for (at, heard) in looks {
                watch.see(BEGIN + at, [sight("n1", heard.map(|heard| BEGIN + heard))]);
            }
            if let Some(epoch) = watch.end(B256::ZERO) {
                let node = &epoch.nodes[0];
                prop_assert_eq!(node.up & !node.watched, 0);
                prop_assert!(node.watched < 1 << 10);
            }
        }

        #[test]
        fn the_next_look_is_just_after_a_minute_has_ended(now in 0_u64..10_000_000) {
            let next = now + to_the_next_look(now);
            prop_assert_eq!(next % 60, 1);
            prop_assert!(next > now && next - now <= 61);
        }
    }
}
