//! What a block's logs say has changed. Pure. In doubt it says too much, never too little.

use std::collections::BTreeSet;

use alloy::{
    primitives::{Address, B256, U256},
    rpc::types::Log,
    sol_types::SolEvent as _,
};

use super::{
    Interest,
    contracts::{Settlement, StakeVault},
};

/// What is to be read again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// The lane and the parameters.
    pub lane: bool,
    /// These providers.
    pub providers: BTreeSet<u32>,
    /// These payers.
    pub payers: BTreeSet<u32>,
    /// These incidents' slashes.
    pub incidents: BTreeSet<B256>,
}

impl Touched {
    /// Everything in `interest`.
    #[must_use]
    pub fn everything(interest: &Interest) -> Self {
        Self {
            lane: true,
            providers: interest.providers.clone(),
            payers: interest.payers.clone(),
            incidents: interest.incidents.clone(),
        }
    }

    /// What of `interest` the logs of the two contracts touch.
    #[must_use]
    pub fn by_logs(
        logs: &[Log],
        settlement: Address,
        vault: Address,
        lane: u32,
        interest: &Interest,
    ) -> Self {
        let mut touched = Self::default();
        for log in logs {
            touched.lane = true;
            if log.address() == settlement {
                touched.by_settlement(log, lane, interest);
            } else if log.address() == vault {
                touched.by_vault(log, interest);
            }
        }
        touched
    }

    fn by_settlement(&mut self, log: &Log, lane: u32, interest: &Interest) {
        let topics = log.topics();
        let Some((&event, indexed)) = topics.split_first() else {
            return;
        };
        // These carry the lane; which payers a batch debits stands in its data only.
        let of_a_lane = [
            Settlement::Deposited::SIGNATURE_HASH,
            Settlement::ThawRequested::SIGNATURE_HASH,
            Settlement::Withdrawn::SIGNATURE_HASH,
            Settlement::PayerRegistered::SIGNATURE_HASH,
        ];
        if event == Settlement::BatchSettled::SIGNATURE_HASH {
            if indexed.first().and_then(number) == Some(lane) {
                self.payers.extend(&interest.payers);
            }
        } else if of_a_lane.contains(&event) {
            if indexed.first().and_then(number) == Some(lane) {
                self.payers.extend(
                    indexed
                        .get(1)
                        .and_then(number)
                        .filter(|payer| interest.payers.contains(payer)),
                );
            }
        } else {
            self.numbers(indexed, interest);
        }
    }

    fn by_vault(&mut self, log: &Log, interest: &Interest) {
        let topics = log.topics();
        let Some((&event, indexed)) = topics.split_first() else {
            return;
        };
        self.numbers(indexed, interest);
        let of_a_slash = [
            StakeVault::SlashProposed::SIGNATURE_HASH,
            StakeVault::SlashDisputed::SIGNATURE_HASH,
            StakeVault::SlashResolved::SIGNATURE_HASH,
            StakeVault::SlashExecuted::SIGNATURE_HASH,
            StakeVault::SlashCancelled::SIGNATURE_HASH,
        ];
        if of_a_slash.contains(&event) {
            // Only a proposal names its incident; slashes are few.
            self.incidents.extend(&interest.incidents);
        }
    }

    /// Any indexed number that is a provider's may well mean that provider.
    fn numbers(&mut self, indexed: &[B256], interest: &Interest) {
        self.providers.extend(
            indexed
                .iter()
                .filter_map(number)
                .filter(|id| interest.providers.contains(id)),
        );
    }
}

fn number(topic: &B256) -> Option<u32> {
    u32::try_from(U256::from_be_bytes(topic.0)).ok()
}

#[cfg(test)]
mod tests {
    use alloy::{
        primitives::{Bytes, LogData},
        sol_types::SolEvent,
    };

    use super::*;

    const SETTLEMENT: Address = Address::repeat_byte(1);
    const VAULT: Address = Address::repeat_byte(2);

    fn log(address: Address, event: &impl SolEvent) -> Log {
        Log {
            inner: alloy::primitives::Log {
                address,
                data: event.encode_log_data(),
            },
            ..Log::default()
        }
    }

    fn interest() -> Interest {
        Interest {
            providers: BTreeSet::from([3, 4]),
            payers: BTreeSet::from([0, 5, 6]),
            incidents: BTreeSet::from([B256::repeat_byte(9)]),
        }
    }

    fn touched(logs: &[Log]) -> Touched {
        Touched::by_logs(logs, SETTLEMENT, VAULT, 7, &interest())
    }

    #[test]
    fn a_stake_touches_its_provider_only() {
        let event = StakeVault::Staked {
            provider: 3,
            amount: 1,
        };
        let seen = touched(&[log(VAULT, &event)]);
        assert_eq!(seen.providers, BTreeSet::from([3]));
        assert!(seen.lane && seen.payers.is_empty() && seen.incidents.is_empty());
        let stranger = StakeVault::Staked {
            provider: 99,
            amount: 1,
        };
        assert!(touched(&[log(VAULT, &stranger)]).providers.is_empty());
    }

    #[test]
    fn a_batch_of_this_lane_touches_every_payer_and_one_of_another_none() {
        let batch = |lane| Settlement::BatchSettled {
            lane,
            seq: 1,
            chainHash: B256::ZERO,
            usageRoot: B256::ZERO,
            summary: U256::ZERO,
            amounts: Bytes::new(),
        };
        assert_eq!(
            touched(&[log(SETTLEMENT, &batch(7))]).payers,
            interest().payers
        );
        assert!(touched(&[log(SETTLEMENT, &batch(8))]).payers.is_empty());
    }

    #[test]
    fn a_deposit_touches_the_payer_of_its_lane() {
        let deposit = |lane, payer| Settlement::Deposited {
            lane,
            payer,
            from: Address::ZERO,
            amount: 1,
        };
        assert_eq!(
            touched(&[log(SETTLEMENT, &deposit(7, 5))]).payers,
            BTreeSet::from([5])
        );
        assert!(
            touched(&[log(SETTLEMENT, &deposit(8, 5))])
                .payers
                .is_empty()
        );
        assert!(
            touched(&[log(SETTLEMENT, &deposit(7, 50))])
                .payers
                .is_empty()
        );
    }

    #[test]
    fn a_slash_touches_its_provider_and_the_incidents() {
        let event = StakeVault::SlashExecuted {
            id: U256::from(1),
            provider: 4,
            fromStake: 1,
            fromUnbonding: 0,
        };
        let seen = touched(&[log(VAULT, &event)]);
        assert_eq!(seen.providers, BTreeSet::from([4]));
        assert_eq!(seen.incidents, interest().incidents);
    }

    #[test]
    fn a_log_of_an_unknown_sort_still_means_lane_and_parameters() {
        let mut unknown = log(
            VAULT,
            &StakeVault::Staked {
                provider: 3,
                amount: 1,
            },
        );
        unknown.inner.data = LogData::new_unchecked(vec![B256::repeat_byte(0xee)], Bytes::new());
        assert!(touched(&[unknown]).lane);
        assert!(!touched(&[]).lane);
    }
}
