//! What each provider got on a lane in a week, from the chain's batches alone.

use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::Address;

use crate::{
    batch::{Batch, Group},
    statement::EarningsReport,
    week::Week,
};

/// A lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneId {
    /// The chain's id.
    pub chain_id: u64,
    /// The contract `Settlement`.
    pub settlement: Address,
    /// The lane's number.
    pub lane: u32,
}

/// A batch that was settled in the week, as the chain shows it.
#[derive(Clone, Copy, Debug)]
pub struct SettledBatch<'a> {
    /// Its number.
    pub sequence: u64,
    /// Its payload.
    pub content: &'a Batch,
    /// What each group was paid, in nano-tokens and in the order of the payload; `None` if it was left out.
    pub amounts: &'a [Option<u64>],
    /// Numbers that were left out because they had been paid before.
    pub paid_before: &'a BTreeSet<u64>,
}

/// The reports of a week, while its batches are added one by one.
#[derive(Clone, Debug)]
pub struct WeekOfEarnings {
    lane: LaneId,
    week: Week,
    reports: BTreeMap<u32, EarningsReport>,
    /// The first and the last batch.
    span: Option<(u64, u64)>,
}

impl WeekOfEarnings {
    /// The reports of `week` without any batch.
    #[must_use]
    pub const fn new(lane: LaneId, week: Week) -> Self {
        Self {
            lane,
            week,
            reports: BTreeMap::new(),
            span: None,
        }
    }

    /// Adds a batch of the lane whose block lies in the week, each once and in any order.
    pub fn add(&mut self, batch: SettledBatch<'_>) {
        let sequence = batch.sequence;
        let (first, last) = self.span.unwrap_or((sequence, sequence));
        self.span = Some((first.min(sequence), last.max(sequence)));
        let mut paid: BTreeSet<Group> = BTreeSet::new();
        for (group, amount) in batch.content.groups.iter().zip(batch.amounts) {
            let report = self.report(group.provider);
            let Some(amount) = amount else { continue };
            paid.insert(*group);
            let sum = if group.payer == REWARDS {
                &mut report.emissions
            } else {
                &mut report.paid
            };
            *sum = sum.saturating_add(*amount);
        }
        for entry in &batch.content.entries {
            let is_paid = paid.contains(&Group::from(entry))
                && !batch.paid_before.contains(&entry.job_no)
                && entry.payer != REWARDS;
            if is_paid {
                let report = self.report(entry.provider);
                report.jobs += 1;
                report.gpuMillis = report.gpuMillis.saturating_add(entry.units);
            }
        }
    }

    /// The reports by provider: of each that an entry of one of the batches names, or that was slashed.
    ///
    /// `slashed`: nano-tokens by provider, of slashes that the lane proposed and that were executed in that week.
    #[must_use]
    pub fn finish(mut self, slashed: &BTreeMap<u32, u128>) -> BTreeMap<u32, EarningsReport> {
        for (provider, amount) in slashed {
            self.report(*provider).slashed = *amount;
        }
        let (first, last) = self.span.unwrap_or_default();
        for report in self.reports.values_mut() {
            (report.firstBatch, report.lastBatch) = (first, last);
        }
        self.reports
    }

    fn report(&mut self, provider: u32) -> &mut EarningsReport {
        let (lane, week) = (self.lane, self.week);
        self.reports
            .entry(provider)
            .or_insert_with(|| EarningsReport {
                chainId: lane.chain_id,
                settlement: lane.settlement,
                lane: lane.lane,
                provider,
                week: week.number(),
                firstBatch: 0,
                lastBatch: 0,
                jobs: 0,
                gpuMillis: 0,
                paid: 0,
                emissions: 0,
                slashed: 0,
            })
    }
}

/// The account from which emissions are paid.
const REWARDS: u32 = 0;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::batch::{EMISSION_PRICE, Entry, decode, encode};

    const LANE: LaneId = LaneId {
        chain_id: 8453,
        settlement: Address::repeat_byte(1),
        lane: 7,
    };

    fn week() -> Week {
        "2026-W48".parse().unwrap()
    }

    fn entry(job_no: u64, payer: u32, provider: u32, price: u64, units: u64) -> Entry {
        Entry {
            job_no,
            payer,
            provider,
            price,
            units,
        }
    }

    fn reports<'a>(
        batches: impl IntoIterator<Item = SettledBatch<'a>>,
        slashed: &BTreeMap<u32, u128>,
    ) -> BTreeMap<u32, EarningsReport> {
        let mut earnings = WeekOfEarnings::new(LANE, week());
        for batch in batches {
            earnings.add(batch);
        }
        earnings.finish(slashed)
    }

    #[test]
    fn a_report_adds_up_what_was_paid_and_nothing_else() {
        let price = 2_000_000_000;
        let content = decode(
            &encode(
                &[
                    entry(1, 1, 5, price, 10),
                    entry(2, 1, 5, price, 20),
                    entry(3, 0, 5, EMISSION_PRICE, 4),
                    entry(4, 2, 5, price, 1_000),
                    entry(5, 1, 6, price, 7),
                ],
                &[],
            )
            .unwrap(),
        )
        .unwrap();
        // Groups in their order: emissions, payer 1 to 5, payer 1 to 6, payer 2 to 5. Number 2 was paid before.
        let amounts = [Some(4), Some(20), Some(14), None];
        let batch = SettledBatch {
            sequence: 12,
            content: &content,
            amounts: &amounts,
            paid_before: &BTreeSet::from([2]),
        };
        let later = SettledBatch {
            sequence: 13,
            ..batch
        };
        let slashed = BTreeMap::from([(6, 3), (8, 9)]);
        let reports = reports([batch, later], &slashed);
        let sums = |provider: u32| {
            let report = &reports[&provider];
            assert_eq!((report.firstBatch, report.lastBatch), (12, 13));
            assert_eq!((report.week, report.lane), (202_648, 7));
            (
                report.jobs,
                report.gpuMillis,
                report.paid,
                report.emissions,
                report.slashed,
            )
        };
        assert_eq!(sums(5), (2, 20, 40, 8, 0));
        assert_eq!(sums(6), (2, 14, 28, 0, 3));
        assert_eq!(sums(8), (0, 0, 0, 0, 9));
        assert_eq!(reports.len(), 3);
    }

    #[test]
    fn a_week_without_batches_and_slashes_has_no_report() {
        assert!(reports([], &BTreeMap::new()).is_empty());
    }

    proptest! {
        #[test]
        fn all_reports_together_are_what_the_batches_paid(
            batches in prop::collection::vec(prop::collection::btree_map(0_u64..500, (0_u32..3, 1_u32..4, 0_u64..1 << 30, any::<bool>()), 1..30), 1..4)
        ) {
            let contents: Vec<Batch> = batches.iter().map(|batch| {
                let entries: Vec<Entry> = batch.iter().map(|(no, (payer, provider, units, _))| {
                    entry(*no, *payer, *provider, EMISSION_PRICE, *units)
                }).collect();
                decode(&encode(&entries, &[]).unwrap()).unwrap()
            }).collect();
            let amounts: Vec<Vec<Option<u64>>> = contents.iter().zip(&batches).map(|(content, batch)| {
                let left_out = batch.values().next().is_some_and(|(.., out)| *out);
                content.amounts().unwrap().into_iter().enumerate().map(|(at, amount)| (at != 0 || !left_out).then_some(amount)).collect()
            }).collect();
            let nothing = BTreeSet::new();
            let settled = contents.iter().zip(&amounts).zip(1..).map(|((content, amounts), sequence)| SettledBatch {
                sequence, content, amounts, paid_before: &nothing,
            });
            let reports = reports(settled, &BTreeMap::new());
            let expected: u64 = amounts.iter().flatten().flatten().sum();
            prop_assert_eq!(reports.values().map(|r| r.paid + r.emissions).sum::<u64>(), expected);
        }
    }
}
