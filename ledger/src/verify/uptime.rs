//! The log of uptime: whether its epochs follow from each other, and whether what was stated on chain about it is what it
//! says.

use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::B256;

use crate::uptime::EpochUptime;

/// What a batch states about the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The batch.
    pub batch: u64,
    /// The newest epoch that it covers.
    pub epoch: u32,
    /// The log's head after it.
    pub head: B256,
}

/// What is wrong with a log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// An epoch is missing, or one was put in its place.
    #[error(
        "epoch {epoch} follows from head {previous}, which no earlier epoch of the archive has: an epoch is missing or was changed"
    )]
    Link {
        /// The epoch.
        epoch: u32,
        /// What it follows from.
        previous: B256,
    },
    /// What was stated is not there.
    #[error("batch {batch} states epoch {epoch} of the log, which the archive does not have")]
    Missing {
        /// The batch.
        batch: u64,
        /// The epoch.
        epoch: u32,
    },
    /// Something else was stated.
    #[error(
        "batch {batch} states head {stated} of the log after epoch {epoch}; the archive has {found}"
    )]
    Stated {
        /// The batch.
        batch: u64,
        /// The epoch.
        epoch: u32,
        /// What was stated.
        stated: B256,
        /// What follows from the archive.
        found: B256,
    },
}

/// Minutes of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Minutes {
    /// In which it was watched.
    pub watched: u64,
    /// In which it was up.
    pub up: u64,
}

/// What a log says that is whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// The epochs that the newest one rests on, itself included.
    pub epochs: u64,
    /// The first and the last of them.
    pub span: Option<(u32, u32)>,
    /// The newest of them that was stated on chain.
    pub stated: Option<u32>,
    /// Epochs with which the log began anew, the first one left out.
    pub anew: u64,
    /// Epochs that nothing rests on, such as one that a replica wrote which led no more.
    pub aside: u64,
    /// The nodes by name, over those epochs.
    pub nodes: BTreeMap<String, Minutes>,
}

/// How much of a log is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// All of it.
    Whole,
    /// A part, such as of a week: what the first epoch follows from is not there, and epochs from `until` on are there only
    /// because what was stated covers them.
    Part {
        /// The first epoch that is not part of it.
        until: u32,
    },
}

/// Checks `epochs`, which come in ascending order, against what was stated about them.
pub fn check(epochs: &[EpochUptime], claims: &[Claim], extent: Extent) -> Result<Summary, Fault> {
    let mut by_head: BTreeMap<B256, &EpochUptime> = BTreeMap::new();
    let mut anew = 0;
    for (place, epoch) in epochs.iter().enumerate() {
        let begins = place == 0 && (extent != Extent::Whole || epoch.previous.is_zero());
        if epoch.previous.is_zero() {
            anew += u64::from(!begins);
        } else if !begins && !by_head.contains_key(&epoch.previous) {
            return Err(Fault::Link {
                epoch: epoch.epoch,
                previous: epoch.previous,
            });
        }
        by_head.insert(epoch.head(), epoch);
    }
    let by_number: BTreeMap<u32, &EpochUptime> =
        epochs.iter().map(|epoch| (epoch.epoch, epoch)).collect();
    for claim in claims {
        let Some(epoch) = by_number.get(&claim.epoch) else {
            return Err(Fault::Missing {
                batch: claim.batch,
                epoch: claim.epoch,
            });
        };
        if epoch.head() != claim.head {
            return Err(Fault::Stated {
                batch: claim.batch,
                epoch: claim.epoch,
                stated: claim.head,
                found: epoch.head(),
            });
        }
    }
    // What was stated counts, also where another epoch came later and led nowhere.
    let stated = claims.iter().max_by_key(|claim| claim.batch);
    let newest = epochs.last().map(EpochUptime::head);
    let mut kept: BTreeSet<u32> = BTreeSet::new();
    for head in stated.map(|claim| claim.head).into_iter().chain(newest) {
        let mut next = Some(head);
        while let Some(epoch) = next.and_then(|head| by_head.get(&head)) {
            kept.insert(epoch.epoch);
            next = Some(epoch.previous).filter(|head| !head.is_zero());
        }
    }
    let aside = (epochs.len() - kept.len()) as u64;
    if let Extent::Part { until } = extent {
        kept.retain(|epoch| *epoch < until);
    }
    let mut summary = Summary {
        epochs: kept.len() as u64,
        span: kept.first().copied().zip(kept.last().copied()),
        stated: stated.map(|claim| claim.epoch),
        anew,
        aside,
        nodes: BTreeMap::new(),
    };
    for epoch in epochs.iter().filter(|epoch| kept.contains(&epoch.epoch)) {
        for node in &epoch.nodes {
            let minutes = summary.nodes.entry(node.node.clone()).or_default();
            minutes.watched += u64::from(node.watched.count_ones());
            minutes.up += u64::from((node.up & node.watched).count_ones());
        }
    }
    Ok(summary)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::uptime::NodeUptime;

    fn epoch(epoch: u32, previous: B256, up: u16) -> EpochUptime {
        EpochUptime {
            epoch,
            previous,
            nodes: vec![NodeUptime {
                node: "n1".to_owned(),
                provider: 7,
                watched: 0x3ff,
                up,
                gpus: 8,
                healthy: 8,
            }],
        }
    }

    fn log() -> Vec<EpochUptime> {
        let first = epoch(10, B256::ZERO, 0x3ff);
        let second = epoch(11, first.head(), 0x001);
        let third = epoch(14, second.head(), 0x003);
        vec![first, second, third]
    }

    fn claim(batch: u64, epoch: &EpochUptime) -> Claim {
        Claim {
            batch,
            epoch: epoch.epoch,
            head: epoch.head(),
        }
    }

    #[test]
    fn a_whole_log_says_how_long_each_node_was_up() {
        let log = log();
        let summary = check(&log, &[claim(3, &log[0]), claim(5, &log[1])], Extent::Whole).unwrap();
        assert_eq!(
            (summary.epochs, summary.span, summary.stated),
            (3, Some((10, 14)), Some(11))
        );
        assert_eq!((summary.anew, summary.aside), (0, 0));
        assert_eq!(
            summary.nodes["n1"],
            Minutes {
                watched: 30,
                up: 13
            }
        );
        assert_eq!(check(&[], &[], Extent::Whole), Ok(Summary::default()));
    }

    #[test]
    fn an_epoch_that_is_missing_or_was_changed_is_named() {
        let whole = log();
        let gap = [whole[0].clone(), whole[2].clone()];
        assert!(matches!(
            check(&gap, &[], Extent::Whole),
            Err(Fault::Link { epoch: 14, .. })
        ));
        let mut changed = log();
        changed[0].nodes[0].up = 0;
        assert!(matches!(
            check(&changed, &[], Extent::Whole),
            Err(Fault::Link { epoch: 11, .. })
        ));
        // The newest one: only what was stated shows it.
        changed = log();
        changed[2].nodes[0].up = 0x3ff;
        assert!(check(&changed, &[], Extent::Whole).is_ok());
        let found = check(&changed, &[claim(5, &whole[2])], Extent::Whole);
        assert!(matches!(
            found,
            Err(Fault::Stated {
                batch: 5,
                epoch: 14,
                ..
            })
        ));
        let found = check(&whole[..2], &[claim(5, &whole[2])], Extent::Whole);
        assert_eq!(
            found,
            Err(Fault::Missing {
                batch: 5,
                epoch: 14
            })
        );
    }

    #[test]
    fn a_part_of_a_log_may_begin_anywhere() {
        let log = log();
        let part = &log[1..];
        let until = |until| check(part, &[claim(5, &log[2])], Extent::Part { until }).unwrap();
        let summary = until(15);
        assert_eq!((summary.epochs, summary.span), (2, Some((11, 14))));
        // What comes after it only shows that it is right.
        let summary = until(14);
        assert_eq!((summary.epochs, summary.span), (1, Some((11, 11))));
        assert_eq!(summary.nodes["n1"], Minutes { watched: 10, up: 1 });
        assert!(check(part, &[], Extent::Whole).is_err());
    }

    #[test]
    fn an_epoch_that_a_replica_wrote_beside_the_log_counts_for_nothing() {
        let mut log = log();
        let aside = epoch(15, log[0].head(), 0);
        let newest = epoch(16, log[2].head(), 0);
        log.extend([aside, newest]);
        let summary = check(&log, &[], Extent::Whole).unwrap();
        assert_eq!((summary.epochs, summary.aside), (4, 1));
        assert_eq!(summary.nodes["n1"].watched, 40);
    }

    #[test]
    fn a_log_that_was_lost_begins_anew_and_that_is_said() {
        let mut log = log();
        log.push(epoch(20, B256::ZERO, 0x3ff));
        let summary = check(&log, &[claim(5, &log[2])], Extent::Whole).unwrap();
        assert_eq!((summary.anew, summary.epochs), (1, 4));
    }
}
