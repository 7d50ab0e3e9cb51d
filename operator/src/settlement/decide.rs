//! How far a lane's batches are, and what to do next. Pure: a function of the log, the chain and the clock of its
//! blocks.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use alloy::{primitives::B256, sol_types::SolInterface as _};
use gridstake_crds::settlement_batch::{BatchState, BlockedReason};

use crate::chain::contracts::Settlement::SettlementErrors;

use super::send::Obstacle;

/// The most authorizations that are stored for one batch.
pub const MOST_AUTHORIZATIONS: usize = 16;

/// A batch of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logged {
    /// Its number on the lane.
    pub sequence: u64,
    /// The lane's chain hash before it.
    pub previous: B256,
    /// The lane's chain hash after it.
    pub chain_hash: B256,
    /// What its status says.
    pub state: Option<BatchState>,
    /// Until when each of its authorizations is in force.
    pub authorizations: Vec<u64>,
    /// How many transactions are stored for it.
    pub attempts: usize,
    /// Whether the contract cannot read it.
    pub refused: bool,
    /// The height at which it was last found on the chain.
    pub found_at: Option<u64>,
}

/// What the chain says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChainFacts {
    /// The lane's last batch, in the newest block.
    pub seq: u64,
    /// The lane's chain hash, in the newest block.
    pub chain_hash: B256,
    /// The height of the newest safe block.
    pub safe: u64,
    /// The height of the newest final block.
    pub finalized: u64,
    /// The time of the newest final block, in Unix seconds.
    pub finalized_at: u64,
    /// The height at which each batch was found in the present chain, by its number.
    pub included: BTreeMap<u64, u64>,
}

/// Why everything on the lane stops. A person must find out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Halt {
    /// The chain is ahead of the log: the log was lost or restored, or somebody else signs.
    #[error(
        "the lane stands at batch {seq} and the log ends at {newest}: the log was restored from a backup, or the lane's signer was used elsewhere"
    )]
    UnknownSettlement {
        /// The lane's last batch on chain.
        seq: u64,
        /// The newest batch of the log.
        newest: u64,
    },
    /// The chain holds something else under a number of the log.
    #[error("batch {seq} on chain is not the one of the log: the lane's signer was used elsewhere")]
    Forked {
        /// The number.
        seq: u64,
    },
    /// A batch that was final is gone.
    #[error(
        "batch {seq} was final and the lane stands at {head}: final blocks were reorganised away"
    )]
    FinalReversed {
        /// The number of the batch.
        seq: u64,
        /// The lane's last batch on chain.
        head: u64,
    },
}

/// What follows for the batches of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The state of each batch, by its number.
    pub states: BTreeMap<u64, BatchState>,
    /// The batch that is to be brought onto the chain.
    pub pursue: Option<u64>,
    /// Batches that wait for that one.
    pub waiting: Vec<u64>,
    /// The number of the batch that may be built.
    pub build: Option<u64>,
}

/// The batch of the log that was found higher than the newest block, `head`: whoever says so lags behind, and what it
/// says of the lane proves nothing.
#[must_use]
pub fn ahead_of(log: &[Logged], head: u64) -> Option<&Logged> {
    log.iter().find(|batch| batch.found_at > Some(head))
}

/// What follows for the batches of the log: all that are not final, and those with
/// the lane's last number and the one after it.
pub fn plan(log: &[Logged], chain: &ChainFacts) -> Result<Plan, Halt> {
    let mut log: Vec<&Logged> = log
        .iter()
        .filter(|batch| batch.state != Some(BatchState::Superseded))
        .collect();
    log.sort_by_key(|batch| batch.sequence);
    check(&log, chain)?;
    let mut plan = Plan::default();
    let last = log.last().map_or(0, |batch| batch.sequence);
    for batch in log {
        let is_last = batch.sequence == last && last > chain.seq;
        if is_last && can_never_be_mined(batch, chain) {
            // What it holds is owed again; another batch with its number follows.
            plan.states.insert(batch.sequence, BatchState::Superseded);
            return Ok(plan);
        }
        let state = state(batch, chain);
        plan.states.insert(batch.sequence, state);
        if batch.sequence > chain.seq {
            match plan.pursue {
                None => plan.pursue = Some(batch.sequence),
                Some(_) => plan.waiting.push(batch.sequence),
            }
        }
    }
    if plan.pursue.is_none() {
        plan.build = Some(chain.seq + 1);
    }
    Ok(plan)
}

/// Whether no block can hold the batch any more: the contract cannot read it, and what was signed for it has expired for
/// good.
fn can_never_be_mined(batch: &Logged, chain: &ChainFacts) -> bool {
    let expired = |until: &u64| *until < chain.finalized_at;
    batch.refused && !batch.authorizations.is_empty() && batch.authorizations.iter().all(expired)
}

/// Of the entries of a batch that the contract cannot read, those that the next batch with its number holds: the lower
/// half. So after a few of them the one that is at fault is alone, and is taken out.
#[must_use]
pub fn suspects(numbers: &BTreeSet<u64>) -> BTreeSet<u64> {
    numbers.iter().copied().take(numbers.len() / 2).collect()
}

fn check(log: &[&Logged], chain: &ChainFacts) -> Result<(), Halt> {
    let newest = log.last().map_or(0, |batch| batch.sequence);
    if chain.seq > newest {
        return Err(Halt::UnknownSettlement {
            seq: chain.seq,
            newest,
        });
    }
    for batch in log {
        if batch.sequence == chain.seq && batch.chain_hash != chain.chain_hash {
            return Err(Halt::Forked {
                seq: batch.sequence,
            });
        }
        let follows = batch.sequence == chain.seq + 1;
        if follows && batch.previous != chain.chain_hash {
            return Err(Halt::Forked {
                seq: batch.sequence,
            });
        }
        if batch.sequence > chain.seq && batch.state == Some(BatchState::Final) {
            return Err(Halt::FinalReversed {
                seq: batch.sequence,
                head: chain.seq,
            });
        }
    }
    for pair in log.windows(2) {
        let linked =
            pair[0].sequence + 1 != pair[1].sequence || pair[0].chain_hash == pair[1].previous;
        if !linked {
            return Err(Halt::Forked {
                seq: pair[1].sequence,
            });
        }
    }
    Ok(())
}

fn state(batch: &Logged, chain: &ChainFacts) -> BatchState {
    if batch.sequence <= chain.seq {
        return match chain.included.get(&batch.sequence) {
            // What was final stays so; `check` sees to it that it is there.
            _ if batch.state == Some(BatchState::Final) => BatchState::Final,
            Some(height) if *height <= chain.finalized => BatchState::Final,
            Some(height) if *height <= chain.safe => BatchState::Safe,
            _ => BatchState::Included,
        };
    }
    if batch.attempts > 0 {
        BatchState::InFlight
    } else if batch.authorizations.is_empty() {
        BatchState::Prepared
    } else {
        BatchState::Signed
    }
}

/// Until when a new authorization is to be in force, if one is needed at `now` on the chain's clock.
///
/// The content of a batch never changes, so signing it again pays nothing twice. Each signature lasts twice as long as
/// the one before it: the few that are stored last through any outage.
#[must_use]
pub fn authorize(authorizations: &[u64], now: u64, lasting: Duration) -> Option<u64> {
    let margin = renewal_margin(lasting).as_secs();
    let lasting = lasting.as_secs();
    let in_force = authorizations
        .iter()
        .max()
        .is_some_and(|until| *until > now.saturating_add(margin));
    if in_force || authorizations.len() >= MOST_AUTHORIZATIONS {
        return None;
    }
    let doublings = u32::try_from(authorizations.len()).unwrap_or(u32::MAX);
    let lasting = lasting.saturating_mul(1_u64.checked_shl(doublings).unwrap_or(u64::MAX));
    Some(now.saturating_add(lasting))
}

/// For how long a signature is still in force at least when the next one is made, where the first one lasts for `lasting`.
#[must_use]
pub fn renewal_margin(lasting: Duration) -> Duration {
    Duration::from_secs((lasting.as_secs() / 4).min(3600))
}

/// What the contract's refusal of a batch means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The chain has moved on meanwhile: look again.
    Moved,
    /// The authorization is not in force any more: sign a new one.
    Expired,
    /// Nothing can be done but wait, or ask a person.
    Blocked(BlockedReason),
}

/// Reads what `settle` would return.
#[must_use]
pub fn refusal(data: &[u8]) -> Refusal {
    match SettlementErrors::abi_decode(data) {
        Ok(SettlementErrors::BadSeq(_) | SettlementErrors::BadPrev(_)) => Refusal::Moved,
        Ok(SettlementErrors::Expired(_)) => Refusal::Expired,
        Ok(SettlementErrors::Paused(_)) => Refusal::Blocked(BlockedReason::Paused),
        Ok(SettlementErrors::LaneNotActive(_)) => Refusal::Blocked(BlockedReason::LaneRevoked),
        Ok(SettlementErrors::BadSignature(_)) => Refusal::Blocked(BlockedReason::SignerMismatch),
        // `BadEncoding`, and whatever else `settle` should never say.
        _ => Refusal::Blocked(BlockedReason::EncodingRefused),
    }
}

/// What keeps a batch's transaction from being sent, in the words of its status.
#[must_use]
pub const fn blocked_by(obstacle: Obstacle) -> BlockedReason {
    match obstacle {
        Obstacle::FeeCap | Obstacle::Attempts => BlockedReason::FeeCapReached,
        Obstacle::Balance => BlockedReason::GasBalanceEmpty,
    }
}

#[cfg(test)]
mod tests {
    use alloy::sol_types::SolError as _;

    use super::*;
    use crate::chain::contracts::Settlement;

    fn hash(sequence: u64) -> B256 {
        if sequence == 0 {
            return B256::ZERO;
        }
        alloy::primitives::keccak256(sequence.to_be_bytes())
    }

    fn logged(sequence: u64, state: Option<BatchState>) -> Logged {
        Logged {
            sequence,
            previous: hash(sequence - 1),
            chain_hash: hash(sequence),
            state,
            authorizations: vec![],
            attempts: 0,
            refused: false,
            found_at: None,
        }
    }

    fn chain(seq: u64) -> ChainFacts {
        ChainFacts {
            seq,
            chain_hash: hash(seq),
            safe: 90,
            finalized: 80,
            finalized_at: 1000,
            included: BTreeMap::new(),
        }
    }

    #[test]
    fn an_empty_log_on_a_new_lane_begins_with_batch_1() {
        let plan = plan(&[], &chain(0)).unwrap();
        assert_eq!((plan.build, plan.pursue), (Some(1), None));
    }

    #[test]
    fn a_batch_that_is_refused_is_superseded_once_nothing_signed_for_it_is_in_force() {
        let refused = Logged {
            refused: true,
            authorizations: vec![900, 999],
            ..logged(1, Some(BatchState::Signed))
        };
        let superseded = plan(std::slice::from_ref(&refused), &chain(0)).unwrap();
        assert_eq!(superseded.states[&1], BatchState::Superseded);
        assert_eq!((superseded.pursue, superseded.build), (None, None));
        for batch in [
            // It may be mined until final blocks are later than its end.
            Logged {
                authorizations: vec![900, 1000],
                ..refused.clone()
            },
            Logged {
                authorizations: vec![],
                ..refused.clone()
            },
            Logged {
                refused: false,
                ..refused.clone()
            },
        ] {
            assert_eq!(plan(&[batch], &chain(0)).unwrap().pursue, Some(1));
        }
        // What is mined is mined.
        let mined = plan(std::slice::from_ref(&refused), &chain(1)).unwrap();
        assert_ne!(mined.states[&1], BatchState::Superseded);
        // Later batches rest on it.
        let later = [refused, logged(2, Some(BatchState::Prepared))];
        assert_eq!(plan(&later, &chain(0)).unwrap().pursue, Some(1));
    }

    #[test]
    fn the_entry_at_fault_is_alone_after_a_few_batches() {
        let mut numbers: BTreeSet<u64> = (256..1256).collect();
        let mut batches = 0;
        while numbers.len() > 1 {
            numbers = suspects(&numbers);
            batches += 1;
        }
        assert_eq!((batches, numbers.first()), (9, Some(&256)));
        assert!(suspects(&numbers).is_empty());
    }

    #[test]
    fn a_state_follows_from_log_and_chain() {
        use BatchState::{Final, Forked, InFlight, Included, Prepared, Safe, Signed};
        let at = |height: u64| {
            let mut facts = chain(1);
            facts.included.insert(1, height);
            facts
        };
        let signed = Logged {
            authorizations: vec![9],
            ..logged(1, Some(Prepared))
        };
        let sent = Logged {
            attempts: 1,
            ..signed.clone()
        };
        for (batch, chain, expected) in [
            (logged(1, None), chain(0), Prepared),
            (signed, chain(0), Signed),
            (sent.clone(), chain(0), InFlight),
            (sent.clone(), chain(1), Included),
            (sent.clone(), at(95), Included),
            (sent.clone(), at(90), Safe),
            (sent.clone(), at(80), Final),
            // Reorganised away: back to where the log says it is.
            (
                Logged {
                    state: Some(Safe),
                    ..sent.clone()
                },
                chain(0),
                InFlight,
            ),
            (
                Logged {
                    state: Some(Final),
                    ..sent
                },
                chain(1),
                Final,
            ),
        ] {
            let plan = plan(std::slice::from_ref(&batch), &chain).unwrap();
            assert_eq!(plan.states[&1], expected, "{batch:?} {chain:?}");
            assert_ne!(plan.states[&1], Forked);
        }
    }

    #[test]
    fn the_next_batch_is_built_as_soon_as_the_last_one_is_in_a_block() {
        let log = [logged(1, Some(BatchState::InFlight))];
        assert_eq!(plan(&log, &chain(0)).unwrap().build, None);
        assert_eq!(plan(&log, &chain(1)).unwrap().build, Some(2));
    }

    #[test]
    fn after_a_reorganisation_batches_go_out_in_their_order() {
        let log = [
            logged(3, Some(BatchState::InFlight)),
            logged(1, Some(BatchState::Final)),
            logged(2, Some(BatchState::Included)),
        ];
        let plan = plan(&log, &chain(1)).unwrap();
        assert_eq!(plan.pursue, Some(2));
        assert_eq!(plan.waiting, [3]);
        assert_eq!(plan.build, None);
    }

    #[test]
    fn a_chain_that_the_log_does_not_explain_halts_the_lane() {
        let log = [logged(1, Some(BatchState::Included))];
        assert_eq!(
            plan(&log, &chain(2)),
            Err(Halt::UnknownSettlement { seq: 2, newest: 1 })
        );
        let mut other = chain(1);
        other.chain_hash = hash(99);
        assert_eq!(plan(&log, &other), Err(Halt::Forked { seq: 1 }));
        let mut other = chain(0);
        other.chain_hash = hash(99);
        assert_eq!(plan(&log, &other), Err(Halt::Forked { seq: 1 }));
        let finals = [logged(1, Some(BatchState::Final))];
        assert_eq!(
            plan(&finals, &chain(0)),
            Err(Halt::FinalReversed { seq: 1, head: 0 })
        );
        let mut unlinked = [logged(1, None), logged(2, None)];
        unlinked[1].previous = hash(99);
        assert_eq!(plan(&unlinked, &chain(0)), Err(Halt::Forked { seq: 2 }));
    }

    #[test]
    fn a_head_below_a_block_in_which_a_batch_was_found_lags_behind() {
        let found = |sequence, height| Logged {
            found_at: height,
            ..logged(sequence, Some(BatchState::Final))
        };
        let log = [found(1, Some(40)), found(2, Some(50)), found(3, None)];
        assert_eq!(ahead_of(&log, 49), Some(&log[1]));
        assert_eq!(ahead_of(&log, 50), None);
        assert_eq!(ahead_of(&[], 0), None);
    }

    #[test]
    fn a_signature_is_renewed_before_it_ends_and_lasts_twice_as_long() {
        let hour = Duration::from_hours(1);
        assert_eq!(authorize(&[], 1000, hour), Some(4600));
        assert_eq!(authorize(&[4600], 3699, hour), None);
        assert_eq!(authorize(&[4600], 3700, hour), Some(3700 + 7200));
        assert_eq!(authorize(&[4600, 10_900], 3700, hour), None);
        assert_eq!(authorize(&[1; MOST_AUTHORIZATIONS], 9, hour), None);
        // 15 doublings of one hour are more than three years.
        assert!(authorize(&[1; 15], 0, hour).unwrap() > 3 * 365 * 86_400);
    }

    #[test]
    fn a_refusal_is_read_from_what_the_contract_returns() {
        use Settlement as S;
        let blocked = Refusal::Blocked;
        for (data, expected) in [
            (S::BadSeq { want: 3 }.abi_encode(), Refusal::Moved),
            (S::BadPrev { want: hash(1) }.abi_encode(), Refusal::Moved),
            (S::Expired {}.abi_encode(), Refusal::Expired),
            (S::Paused {}.abi_encode(), blocked(BlockedReason::Paused)),
            (
                S::LaneNotActive { lane: 7 }.abi_encode(),
                blocked(BlockedReason::LaneRevoked),
            ),
            (
                S::BadSignature {}.abi_encode(),
                blocked(BlockedReason::SignerMismatch),
            ),
            (
                S::BadEncoding {}.abi_encode(),
                blocked(BlockedReason::EncodingRefused),
            ),
            (vec![], blocked(BlockedReason::EncodingRefused)),
        ] {
            assert_eq!(refusal(&data), expected);
        }
    }
}
