//! What has happened to a slash: the contract's events, read back from the chain.

use alloy::{
    primitives::{B256, TxHash, U256},
    rpc::types::{Filter, Log},
    sol_types::SolEvent as _,
};
use gridstake_crds::{stake_binding::BlockReference, transaction::Inclusion};

use super::{
    decide::{Cut, History},
    record::Record,
};
use crate::chain::{
    ChainConfig,
    client::{ChainClient, ClientError},
    contracts::StakeVault,
    view::{CancelReason, ChainView, SlashState, SlashView},
};

/// How many blocks one request for logs spans: endpoints refuse more.
const SPAN: u64 = 1000;
/// How many requests are made in one pass at most.
const MOST_SPANS: usize = 100;

/// Events of a slash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Event {
    /// `SlashProposed`
    Proposed,
    /// `SlashDisputed`
    Disputed,
    /// `SlashResolved`
    Resolved,
    /// `SlashExecuted`
    Executed,
    /// `SlashCancelled`
    Cancelled,
}

/// The events that must have happened and that `record` lacks.
#[must_use]
pub fn wanted(record: &Record, slash: &SlashView) -> Vec<Event> {
    let disputed = slash.state == SlashState::Disputed
        || slash.state == SlashState::Upheld
        || !slash.counter_evidence.is_zero();
    let resolved = slash.state == SlashState::Upheld
        || slash.upheld > 0
        || slash.cancelled == Some(CancelReason::NotUpheld);
    [
        (Event::Proposed, record.proposal.is_none()),
        (Event::Disputed, record.dispute.is_none() && disputed),
        (Event::Resolved, record.resolution.is_none() && resolved),
        (
            Event::Executed,
            record.execution.is_none() && slash.state == SlashState::Executed,
        ),
        (
            Event::Cancelled,
            record.cancellation.is_none() && slash.state == SlashState::Cancelled,
        ),
    ]
    .into_iter()
    .filter_map(|(event, is_wanted)| is_wanted.then_some(event))
    .collect()
}

/// What has happened to `slash` in final blocks and is not in `record` yet.
///
/// The newest blocks are searched first: an event is looked for as soon as the slash's state shows it, so it is almost
/// always among them.
pub async fn read(
    client: &ChainClient,
    config: &ChainConfig,
    view: &ChainView,
    slash: &SlashView,
    record: &Record,
) -> Result<History, ClientError> {
    let mut missing = wanted(record, slash);
    let mut history = History::default();
    let oldest = record
        .proposal
        .as_ref()
        .map_or(0, |proposal| proposal.inclusion.block.number);
    let mut newest = view.head.number;
    for _ in 0..MOST_SPANS {
        if missing.is_empty() {
            break;
        }
        let from = newest.saturating_sub(SPAN - 1).max(oldest);
        let filter = Filter::new()
            .address(config.vault.address)
            .topic1(B256::from(U256::from(slash.id)))
            .from_block(from)
            .to_block(newest);
        for log in client.logs(filter).await? {
            let Some(event) = event_of(&log).filter(|event| missing.contains(event)) else {
                continue;
            };
            missing.retain(|other| *other != event);
            if let Some((block, hash, transaction)) = place(&log)
                && block <= view.finalized.number
            {
                let inclusion = inclusion(client, block, hash, transaction).await?;
                history.add(event, &log, inclusion);
            }
        }
        if from <= oldest {
            break;
        }
        newest = from - 1;
    }
    Ok(history)
}

impl History {
    fn add(&mut self, event: Event, log: &Log, inclusion: Inclusion) {
        match event {
            Event::Proposed => self.proposed = Some(inclusion),
            Event::Disputed => self.disputed = Some(inclusion),
            Event::Resolved => self.resolved = Some(inclusion),
            Event::Cancelled => self.cancelled = Some(inclusion),
            Event::Executed => {
                let cut = StakeVault::SlashExecuted::decode_log(&log.inner).ok();
                self.executed = cut.map(|cut| Cut {
                    from_stake: cut.fromStake,
                    from_unbonding: cut.fromUnbonding,
                    inclusion,
                });
            }
        }
    }
}

fn event_of(log: &Log) -> Option<Event> {
    let signature = *log.topic0()?;
    [
        (StakeVault::SlashProposed::SIGNATURE_HASH, Event::Proposed),
        (StakeVault::SlashDisputed::SIGNATURE_HASH, Event::Disputed),
        (StakeVault::SlashResolved::SIGNATURE_HASH, Event::Resolved),
        (StakeVault::SlashExecuted::SIGNATURE_HASH, Event::Executed),
        (StakeVault::SlashCancelled::SIGNATURE_HASH, Event::Cancelled),
    ]
    .into_iter()
    .find_map(|(of, event)| (of == signature).then_some(event))
}

fn place(log: &Log) -> Option<(u64, B256, TxHash)> {
    Some((log.block_number?, log.block_hash?, log.transaction_hash?))
}

async fn inclusion(
    client: &ChainClient,
    block: u64,
    hash: B256,
    transaction: TxHash,
) -> Result<Inclusion, ClientError> {
    let receipt = client.receipt(transaction).await?;
    Ok(Inclusion {
        transaction: transaction.to_string(),
        block: BlockReference {
            number: block,
            hash: hash.to_string(),
        },
        timestamp: None,
        gas_used: receipt.as_ref().map(|receipt| receipt.gas_used),
        effective_gas_price: receipt.map(|receipt| receipt.effective_gas_price.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use alloy::primitives::{Address, LogData};
    use gridstake_crds::incident::CancellationReason;

    use super::*;

    fn slash(state: SlashState) -> SlashView {
        SlashView {
            id: 4,
            provider: 7,
            amount: 1,
            frozen: 1,
            upheld: 0,
            evidence: B256::ZERO,
            counter_evidence: B256::ZERO,
            dispute_until: 0,
            resolve_until: 0,
            state,
            cancelled: None,
        }
    }

    #[test]
    fn only_events_that_have_happened_are_looked_for_and_each_only_until_it_is_recorded() {
        use Event as E;
        let upheld = SlashView {
            upheld: 1,
            counter_evidence: B256::repeat_byte(1),
            ..slash(SlashState::Executed)
        };
        let not_upheld = SlashView {
            cancelled: Some(CancelReason::NotUpheld),
            counter_evidence: B256::repeat_byte(1),
            ..slash(SlashState::Cancelled)
        };
        let guardian = SlashView {
            cancelled: Some(CancelReason::Guardian),
            ..slash(SlashState::Cancelled)
        };
        for (slash, events) in [
            (slash(SlashState::Proposed), vec![E::Proposed]),
            (slash(SlashState::Disputed), vec![E::Proposed, E::Disputed]),
            (slash(SlashState::Executed), vec![E::Proposed, E::Executed]),
            (
                upheld,
                vec![E::Proposed, E::Disputed, E::Resolved, E::Executed],
            ),
            (
                not_upheld,
                vec![E::Proposed, E::Disputed, E::Resolved, E::Cancelled],
            ),
            (guardian.clone(), vec![E::Proposed, E::Cancelled]),
        ] {
            assert_eq!(wanted(&Record::default(), &slash), events, "{slash:?}");
        }
        let ended = Record {
            cancellation: Some(CancellationReason::Guardian),
            ..Record::default()
        };
        assert_eq!(wanted(&ended, &guardian), [E::Proposed]);
    }

    #[test]
    fn what_was_cut_is_read_from_the_event() {
        let event = StakeVault::SlashExecuted {
            id: U256::from(4),
            provider: 7,
            fromStake: 30,
            fromUnbonding: 12,
        };
        let log = Log {
            inner: alloy::primitives::Log {
                address: Address::ZERO,
                data: event.encode_log_data(),
            },
            ..Log::default()
        };
        assert_eq!(event_of(&log), Some(Event::Executed));
        let mut history = History::default();
        let inclusion = Inclusion {
            transaction: String::new(),
            block: BlockReference {
                number: 1,
                hash: String::new(),
            },
            timestamp: None,
            gas_used: None,
            effective_gas_price: None,
        };
        history.add(Event::Executed, &log, inclusion);
        let cut = history.executed.unwrap();
        assert_eq!((cut.from_stake, cut.from_unbonding), (30, 12));
        let mut stranger = log;
        stranger.inner.data = LogData::default();
        assert_eq!(event_of(&stranger), None);
    }
}
