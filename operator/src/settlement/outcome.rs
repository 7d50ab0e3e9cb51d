//! What the contract did with a batch, from the logs of the transaction that settled it. Pure.

use std::{collections::BTreeMap, time::Duration};

use alloy::{
    primitives::{Address, B256, U256},
    rpc::types::Log,
    sol_types::SolEvent as _,
};
use gridstake_crds::{
    TokenAmount,
    settlement_batch::{BatchOutcome, SkippedGroup, SkippedRecords},
    usage_record::SkipReason,
};
use gridstake_ledger::batch::{self, Batch, Entry, Group};

use super::records::REWARD_ACCOUNT;
use crate::chain::contracts::Settlement;

/// What the contract did.
#[derive(Clone, Debug, PartialEq)]
pub struct Settled {
    /// The lane's chain hash after the batch, as the contract says.
    pub chain_hash: B256,
    /// For the batch's status.
    pub outcome: BatchOutcome,
    /// Every number that was left out, and why.
    pub skipped: BTreeMap<u64, SkipReason>,
}

/// Reads the logs of the transaction that settled batch `seq` of `lane`; `None` if it did not.
#[must_use]
pub fn read(
    logs: &[Log],
    contract: Address,
    lane: u32,
    seq: u64,
    content: &Batch,
) -> Option<Settled> {
    let ours: Vec<&Log> = logs
        .iter()
        .filter(|log| log.address() == contract)
        .collect();
    let settled = ours
        .iter()
        .filter_map(|log| Settlement::BatchSettled::decode_log(&log.inner).ok())
        .find(|event| event.lane == lane && event.seq == seq)?;
    let outcome = batch::outcome(settled.summary, &settled.amounts).ok()?;

    let mut explained: Vec<Settlement::GroupSkipped> = ours
        .iter()
        .filter_map(|log| Settlement::GroupSkipped::decode_log(&log.inner).ok())
        .filter(|event| event.lane == lane && event.seq == seq)
        .map(|event| event.data)
        .collect();
    let mut by_group: BTreeMap<Group, SkipReason> = BTreeMap::new();
    for (group, paid) in content.groups.iter().zip(&outcome.groups) {
        if paid.is_some() {
            continue;
        }
        // Events come in the order of the groups; they do not name the price.
        let at = explained
            .iter()
            .position(|skip| skip.payer == group.payer && skip.provider == group.provider);
        let reason = at.map_or(SkipReason::InsufficientEscrow, |at| {
            reason(explained.remove(at).why)
        });
        by_group.insert(*group, reason);
    }
    let skipped_groups = by_group
        .iter()
        .map(|(group, reason)| SkippedGroup {
            payer: group.payer,
            provider: group.provider,
            price: group.price,
            reason: *reason,
        })
        .collect();
    let skipped_records: Vec<SkippedRecords> = ours
        .iter()
        .filter_map(|log| Settlement::JobsSkipped::decode_log(&log.inner).ok())
        .filter(|event| event.lane == lane && event.seq == seq)
        .map(|event| SkippedRecords {
            word: event.wordNo,
            bits: B256::from(U256::from(event.bits)).to_string(),
            reason: reason(event.why),
        })
        .collect();
    let mut by_number: BTreeMap<u64, SkipReason> = BTreeMap::new();
    for word in &skipped_records {
        let bits: U256 = word.bits.parse().unwrap_or_default();
        let numbers = batch::numbers_of_word(word.word, bits);
        by_number.extend(numbers.map(|number| (number, word.reason)));
    }
    let skipped = content
        .entries
        .iter()
        .filter_map(|entry: &Entry| {
            // Numbers that were paid before were taken out before the groups were added up.
            let own = by_number.get(&entry.job_no);
            let reason = own.or_else(|| by_group.get(&Group::from(entry)))?;
            Some((entry.job_no, *reason))
        })
        .collect();
    Some(Settled {
        chain_hash: settled.chainHash,
        outcome: BatchOutcome {
            total: TokenAmount::from_nano(outcome.total.into()),
            paid: outcome.paid,
            skipped: outcome.skipped,
            skipped_groups,
            skipped_records,
        },
        skipped,
    })
}

/// The use that a batch with these entries has paid, less what the contract `skipped`: a GPU for so long. Emissions are amounts and no use.
#[must_use]
pub fn paid_use(entries: &[Entry], skipped: &BTreeMap<u64, SkipReason>) -> Duration {
    let paid = entries
        .iter()
        .filter(|entry| entry.payer != REWARD_ACCOUNT && !skipped.contains_key(&entry.job_no));
    let millis = paid.fold(0_u64, |sum, entry| sum.saturating_add(entry.units));
    Duration::from_millis(millis)
}

/// `Why` of ISettlement.sol, by its number.
const fn reason(why: u8) -> SkipReason {
    match why {
        1 => SkipReason::UnknownProvider,
        2 => SkipReason::UnknownPayer,
        4 => SkipReason::AlreadyPaid,
        5 => SkipReason::ProviderCooling,
        _ => SkipReason::InsufficientEscrow,
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::{Bytes, aliases::U224};

    use super::*;

    const CONTRACT: Address = Address::repeat_byte(1);

    fn log(event: &impl alloy::sol_types::SolEvent) -> Log {
        Log {
            inner: alloy::primitives::Log {
                address: CONTRACT,
                data: event.encode_log_data(),
            },
            ..Log::default()
        }
    }

    fn entry(job_no: u64, provider: u32, price: u64) -> Entry {
        Entry {
            job_no,
            payer: 3,
            provider,
            price,
            units: 10,
        }
    }

    fn content(entries: &[Entry]) -> Batch {
        batch::decode(&batch::encode(entries, &[]).unwrap()).unwrap()
    }

    fn settled(amounts: &[u64], paid: u64, skipped: u64) -> Settlement::BatchSettled {
        Settlement::BatchSettled {
            lane: 7,
            seq: 1,
            chainHash: B256::repeat_byte(5),
            usageRoot: B256::ZERO,
            summary: (U256::from(30) << 64) | (U256::from(paid) << 32) | U256::from(skipped),
            amounts: Bytes::from(
                amounts
                    .iter()
                    .flat_map(|a| a.to_be_bytes())
                    .collect::<Vec<u8>>(),
            ),
        }
    }

    #[test]
    fn a_batch_without_skips_paid_everything() {
        let content = content(&[entry(1, 9, 1), entry(2, 9, 1)]);
        let read = read(&[log(&settled(&[30], 2, 0))], CONTRACT, 7, 1, &content).unwrap();
        assert_eq!(read.outcome.total.nano(), 30);
        assert!(read.skipped.is_empty());
        assert_eq!(read.chain_hash, B256::repeat_byte(5));
    }

    #[test]
    fn the_numbers_of_a_skipped_group_and_of_skipped_words_are_found() {
        // Three groups: provider 9 at prices 1 and 2, provider 10. Left out: provider 9 at price 2.
        let content = content(&[
            entry(1, 9, 1),
            entry(2, 9, 2),
            entry(3, 10, 1),
            entry(225, 10, 1),
        ]);
        let logs = [
            log(&Settlement::JobsSkipped {
                lane: 7,
                seq: 1,
                wordNo: 1,
                bits: U224::from(2),
                why: 4,
            }),
            log(&Settlement::GroupSkipped {
                lane: 7,
                seq: 1,
                provider: 9,
                payer: 3,
                why: 3,
            }),
            log(&settled(&[10, 1 << 63, 10], 2, 2)),
        ];
        let read = read(&logs, CONTRACT, 7, 1, &content).unwrap();
        assert_eq!(
            read.skipped,
            BTreeMap::from([
                (2, SkipReason::InsufficientEscrow),
                (225, SkipReason::AlreadyPaid)
            ])
        );
        assert_eq!(read.outcome.skipped_records[0].word, 1);
        let group = &read.outcome.skipped_groups[0];
        assert_eq!((group.payer, group.provider, group.price), (3, 9, 2));
    }

    #[test]
    fn logs_of_another_batch_lane_or_contract_say_nothing() {
        let content = content(&[entry(1, 9, 1)]);
        let logs = [log(&settled(&[30], 1, 0))];
        assert!(read(&logs, CONTRACT, 7, 2, &content).is_none());
        assert!(read(&logs, CONTRACT, 8, 1, &content).is_none());
        assert!(read(&logs, Address::repeat_byte(2), 7, 1, &content).is_none());
    }
}
