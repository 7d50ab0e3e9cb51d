//! When a batch is worth its fee. Pure.
//!
//! What waits is put into a batch as soon as that pays `minGainMultiple` times what sending it would cost, and without
//! regard to the fee when a slice in it has waited for `maxAge` or no more fits.

use std::collections::BTreeSet;

use alloy::primitives::U256;
use gridstake_ledger::{
    amount::NANO_PER_TOKEN,
    batch::{Entry, Group, WORD_BITS},
};

use crate::chain::{config::PlannerConfig, wei::Wei};

/// What could be put into a batch now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// What it would pay, in nano-tokens.
    pub total: u128,
    /// When the slice in it that has waited longest ended, in Unix milliseconds.
    pub oldest_ms: u64,
    /// Whether more is waiting than fits.
    pub full: bool,
    /// Whether something in it may not wait.
    pub urgent: bool,
    /// How much gas sending it would take.
    pub gas: u64,
}

/// Why a batch is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// No price of the token is configured: whatever is gathered is sent.
    Unpriced,
    /// No more fits.
    Full,
    /// A statement in it may not wait.
    Urgent,
    /// A slice has waited for as long as it may.
    Aged,
    /// It pays enough for its fee.
    Worthwhile,
}

impl Why {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Unpriced,
        Self::Full,
        Self::Urgent,
        Self::Aged,
        Self::Worthwhile,
    ];

    /// In one word, for metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unpriced => "Unpriced",
            Self::Full => "Full",
            Self::Urgent => "Urgent",
            Self::Aged => "Aged",
            Self::Worthwhile => "Worthwhile",
        }
    }
}

/// What to do with an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Build the batch.
    Build(Why),
    /// Gather more, at most until this time, in Unix milliseconds.
    Wait {
        /// Then it is built whatever it costs.
        until_ms: u64,
    },
}

/// Why the batch is built whatever it costs, if it is; only otherwise the price of gas has to be asked for.
#[must_use]
pub fn at_any_price(planner: &PlannerConfig, offer: &Offer, now_ms: u64) -> Option<Why> {
    if planner.wei_per_token.is_none() {
        Some(Why::Unpriced)
    } else if offer.full {
        Some(Why::Full)
    } else if offer.urgent {
        Some(Why::Urgent)
    } else if now_ms >= latest(planner, offer) {
        Some(Why::Aged)
    } else {
        None
    }
}

/// What to do at a price of gas, in wei.
#[must_use]
pub fn decide(planner: &PlannerConfig, offer: &Offer, wei_per_gas: u128, now_ms: u64) -> Decision {
    if let Some(why) = at_any_price(planner, offer, now_ms) {
        return Decision::Build(why);
    }
    let worth = worth(planner, offer);
    let enough = fee(offer, wei_per_gas).saturating_mul(U256::from(planner.min_gain_multiple));
    if worth >= enough {
        Decision::Build(Why::Worthwhile)
    } else {
        Decision::Wait {
            until_ms: latest(planner, offer),
        }
    }
}

/// When the offer is built at the latest, in Unix milliseconds.
fn latest(planner: &PlannerConfig, offer: &Offer) -> u64 {
    let most = u64::try_from(planner.max_age.as_millis()).unwrap_or(u64::MAX);
    offer.oldest_ms.saturating_add(most)
}

/// What the offer pays, in wei, rounded down.
#[must_use]
pub fn worth(planner: &PlannerConfig, offer: &Offer) -> U256 {
    let per_token = planner.wei_per_token.map_or(0, Wei::get);
    // Two numbers of 128 bits make at most 256.
    U256::from(offer.total) * U256::from(per_token) / U256::from(NANO_PER_TOKEN)
}

/// What sending the offer costs at a price of gas, in wei.
#[must_use]
pub fn fee(offer: &Offer, wei_per_gas: u128) -> U256 {
    U256::from(offer.gas) * U256::from(wei_per_gas)
}

/// Any transaction.
const TRANSACTION: u64 = 21_000;
/// A byte of input that is zero: as the floor of EIP-7623 counts it, and beside what is executed.
const ZERO_BYTE: (u64, u64) = (10, 4);
/// A byte of input that is not.
const OTHER_BYTE: (u64, u64) = (40, 16);
/// Bytes of a call of `settle` beside the payload: selector, seven arguments, offset and length of the payload. Hashes and
/// signature fill 128 of them, the small numbers and the selector about 18.
const FRAME: (u64, u64) = (146, 146);
/// Bytes of an argument.
const WORD: u64 = 32;
/// Signature, lane and event.
const BATCH: u64 = 25_000;
/// A payer, a provider and a price: adding up and telling the amount.
const GROUP: u64 = 900;
/// A slot of the account table, four accounts wide, that was used before.
const ACCOUNT_SLOT: u64 = 4_800;
/// Accounts in it.
const ACCOUNTS: u32 = 4;
/// A slot of the bitmap in which the lane has paid before: the first one, as numbers are dense.
const KNOWN_BITS: u64 = 5_000;
/// One in which it has not.
const NEW_BITS: u64 = 22_100;
/// An entry of four bytes, of which eight are read and added up at once.
const ENTRY_OF_FOUR_BYTES: u64 = 59;
/// Another entry.
const ENTRY: u64 = 95;
/// A statement: its event of four topics and three words.
const STATEMENT: u64 = 2_800;

/// How much gas a call of `settle` is expected to take that pays `entries` and says so many `statements`, encoded as `data`.
///
/// The transaction's own part is that of EIP-7623: 21,000, and the greater of the floor for input (10 for a byte that is
/// zero, 40 for another) and 4 and 16 together with what is executed. What is executed is fitted to `make gas`
/// (docs/benchmarks.md, 2026-11-28): 20 groups, 500 to 2,000 entries of four bytes, accounts in 12 and in 40 slots; and to
/// receipts of batches of one group with 1 to 1,000 entries of three bytes. Tests hold it to both. What a chain charges beside gas, such as an L1 fee, is not in it.
#[must_use]
pub fn expected_gas(entries: &[Entry], statements: usize, data: &[u8]) -> u64 {
    let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    let length = count(data.len());
    let zero: u64 = data.iter().map(|byte| u64::from(*byte == 0)).sum();
    let zeros = FRAME.1 + zero + (length.next_multiple_of(WORD) - length);
    let others = FRAME.0 + (length - zero);

    let groups: BTreeSet<Group> = entries.iter().map(Group::from).collect();
    let slots = |account: fn(&Group) -> u32| {
        let slots: BTreeSet<u32> = groups.iter().map(|g| account(g) / ACCOUNTS).collect();
        count(slots.len())
    };
    let accounts = slots(|group| group.payer) + slots(|group| group.provider);
    let words: BTreeSet<u64> = entries.iter().map(|e| e.job_no / WORD_BITS).collect();
    // The payload begins with the width of its entries.
    let entry = match data.first() {
        Some(4) => ENTRY_OF_FOUR_BYTES,
        _ => ENTRY,
    };
    let executed = BATCH
        + GROUP * count(groups.len())
        + ACCOUNT_SLOT * accounts
        + KNOWN_BITS
        + NEW_BITS * count(words.len()).saturating_sub(1)
        + entry * count(entries.len())
        + STATEMENT * count(statements);
    let floor = ZERO_BYTE.0 * zeros + OTHER_BYTE.0 * others;
    let standard = ZERO_BYTE.1 * zeros + OTHER_BYTE.1 * others + executed;
    TRANSACTION + floor.max(standard)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use gridstake_ledger::batch;
    use proptest::prelude::*;

    use super::*;

    const HOUR: u64 = 3_600_000;
    const GWEI: u128 = 1_000_000_000;
    const TOKEN: u128 = NANO_PER_TOKEN;

    /// A token is worth a thousandth of a coin.
    fn priced() -> PlannerConfig {
        PlannerConfig {
            wei_per_token: Some(Wei::from_gwei(1_000_000)),
            ..PlannerConfig::default()
        }
    }

    fn offer(total: u128) -> Offer {
        Offer {
            total,
            oldest_ms: HOUR,
            full: false,
            urgent: false,
            gas: 100_000,
        }
    }

    #[test]
    fn a_batch_is_built_when_it_pays_ten_times_its_fee_is_full_or_has_waited_an_hour() {
        use Decision::{Build, Wait};
        let wait = Wait { until_ms: 2 * HOUR };
        // 100,000 gas at 2 gwei are a fifth of a token: two tokens are ten times that.
        for (offer, now, expected) in [
            (offer(2 * TOKEN), HOUR, Build(Why::Worthwhile)),
            (offer(2 * TOKEN - 1), HOUR, wait),
            (offer(0), 2 * HOUR - 1, wait),
            (offer(0), 2 * HOUR, Build(Why::Aged)),
            (
                Offer {
                    full: true,
                    ..offer(0)
                },
                HOUR,
                Build(Why::Full),
            ),
            (
                Offer {
                    urgent: true,
                    ..offer(0)
                },
                HOUR,
                Build(Why::Urgent),
            ),
            // A clock that was set back waits no longer than one that was not.
            (offer(0), 0, wait),
        ] {
            assert_eq!(
                decide(&priced(), &offer, 2 * GWEI, now),
                expected,
                "{offer:?}"
            );
        }
    }

    #[test]
    fn without_a_price_of_the_token_nothing_waits() {
        let unpriced = PlannerConfig::default();
        assert_eq!(
            decide(&unpriced, &offer(0), u128::MAX, 0),
            Decision::Build(Why::Unpriced)
        );
    }

    #[test]
    fn no_amount_is_too_large_to_be_weighed() {
        let most = PlannerConfig {
            wei_per_token: Some(Wei::new(u128::MAX)),
            min_gain_multiple: u32::MAX,
            ..priced()
        };
        let offer = Offer {
            gas: u64::MAX,
            ..offer(u128::MAX)
        };
        assert_eq!(
            decide(&most, &offer, u128::MAX, 0),
            Decision::Build(Why::Worthwhile)
        );
    }

    /// Batches as `make gas` builds them: 20 pairs, GPU-milliseconds from 1 second to 32 hours.
    fn measured(jobs: u64, spread: u32, first: u64) -> (Vec<Entry>, Vec<u8>) {
        let entries: Vec<Entry> = (first..first + jobs)
            .map(|job_no| {
                let pair = 1 + u32::try_from(job_no * 7 % 20).unwrap();
                Entry {
                    job_no,
                    payer: pair * spread,
                    provider: pair * spread,
                    price: 720_000 * 1_000_000,
                    // Each power of two as often as another, with mixed lower bits.
                    units: 1_000 + (1 << (10 + job_no % 17)) * (job_no * 37 % 64) / 32,
                }
            })
            .collect();
        let data = batch::encode(&entries, &[]).unwrap();
        (entries, data)
    }

    #[test]
    fn the_expected_gas_is_what_docs_benchmarks_md_has_measured() {
        for (jobs, spread, per_job) in [
            (500, 1, 479),
            (1000, 1, 349),
            (2000, 1, 284),
            (500, 4, 754),
            (1000, 4, 483),
            (2000, 4, 349),
        ] {
            let batches = 7;
            let sum: u64 = (0..batches)
                .map(|batch| {
                    let (entries, data) = measured(jobs, spread, 20 + batch * jobs);
                    expected_gas(&entries, 0, &data)
                })
                .sum();
            let expected = sum / batches / jobs;
            assert!(
                expected.abs_diff(per_job) * 20 <= per_job,
                "{jobs} jobs: {expected}, measured {per_job}"
            );
        }
    }

    #[test]
    fn input_is_never_cheaper_than_its_floor() {
        // Wide records that say little: one group, one slot each.
        let entries: Vec<Entry> = (0..1000)
            .map(|job_no| Entry {
                job_no,
                payer: 1,
                provider: 1,
                price: 1,
                units: 0x7f7f_7f7f_7f7f,
            })
            .collect();
        let data = batch::encode(&entries, &[]).unwrap();
        let nonzero = u64::try_from(data.iter().filter(|byte| **byte != 0).count()).unwrap();
        assert!(expected_gas(&entries, 0, &data) >= 21_000 + 40 * nonzero);
    }

    proptest! {
        #[test]
        fn nothing_waits_longer_than_it_may(
            max_age in 60_000_u64..48 * HOUR, multiple in 1_u32..1000, wei in 1_u64.., gas_price in any::<u64>(),
            slices in prop::collection::vec((0_u64..HOUR, 0_u64..1000 * 1_000_000_000), 1..40),
        ) {
            let planner = PlannerConfig {
                wei_per_token: Some(Wei::new(wei.into())),
                min_gain_multiple: multiple,
                max_age: Duration::from_millis(max_age),
            };
            // Slices end one after the other; it is looked whenever one has ended, and when the wait is over.
            let mut now = 0;
            let mut waiting: Vec<(u64, u64)> = Vec::new();
            let mut due = u64::MAX;
            let mut arrivals = slices.into_iter().peekable();
            loop {
                let arrives = arrivals.peek().map(|(pause, _)| now + pause);
                match arrives {
                    Some(at) if at <= due => {
                        now = at;
                        let (_, amount) = arrivals.next().unwrap();
                        waiting.push((now, amount));
                    }
                    _ if due < u64::MAX => now = due.max(now),
                    _ => break,
                }
                let offer = Offer {
                    total: waiting.iter().map(|(_, amount)| u128::from(*amount)).sum(),
                    oldest_ms: waiting.iter().map(|(ended, _)| *ended).min().unwrap(),
                    full: false,
                    urgent: false,
                    gas: 100_000,
                };
                prop_assert!(now - offer.oldest_ms <= max_age);
                match decide(&planner, &offer, gas_price.into(), now) {
                    Decision::Build(why) => {
                        let worthwhile = worth(&planner, &offer)
                            >= fee(&offer, gas_price.into()) * U256::from(multiple);
                        prop_assert_eq!(why == Why::Worthwhile, now - offer.oldest_ms < max_age);
                        prop_assert!(why == Why::Aged || worthwhile);
                        waiting.clear();
                        due = u64::MAX;
                    }
                    Decision::Wait { until_ms } => {
                        prop_assert!(until_ms > now && until_ms - offer.oldest_ms <= max_age);
                        due = until_ms;
                    }
                }
            }
            prop_assert!(waiting.is_empty());
        }
    }
}
