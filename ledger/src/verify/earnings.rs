//! A week's reports of earnings: made again from the chain's batches of that week alone, and held against what the lane
//! has stated about it.

use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::B256;
use alloy_sol_types::SolStruct as _;

use super::{
    Fault, Finding,
    chain::ChainBatch,
    file::{self, FileError},
};
use crate::{
    batch::STATEMENT,
    earnings::{LaneId, SettledBatch, WeekOfEarnings},
    statement::{EarningsReport, Statement},
    week::Week,
};

/// Where a statement's content begins in it.
const CONTENT: usize = 37;

/// A provider's report, made from the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reported {
    /// What the week's batches come to.
    pub report: EarningsReport,
    /// Its hash.
    pub hash: B256,
    /// The batches that state it.
    pub batches: BTreeSet<u64>,
}

/// A week, made from the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Earnings {
    /// The week.
    pub week: Week,
    /// Whether it is over. If not, the reports are what it comes to so far, and nothing was compared.
    pub over: bool,
    /// The reports by provider. There are none of a week in which the lane settled nothing.
    pub providers: BTreeMap<u32, Reported>,
}

/// Makes the reports of `week` again and holds them against what was stated.
///
/// `batches`: of the lane, in any order: all that were settled in the week, and those that state something about it. Of each
/// the payload must be what hashes to the event, and the events what follows from the payload. `now`: the time of the newest
/// block that was looked at, in Unix seconds. `slashed`: nano-tokens by provider, of slashes that the lane proposed and that
/// were executed in the week; no payload holds them.
pub fn verify(
    lane: LaneId,
    week: Week,
    now: u64,
    batches: &[ChainBatch],
    slashed: &BTreeMap<u32, u128>,
) -> Result<Earnings, FileError> {
    let mut sums = WeekOfEarnings::new(lane, week);
    let mut stated = Vec::new();
    let mut settled = false;
    for batch in batches {
        let content = batch.content()?;
        batch.states(&content)?;
        let own = content.statements.iter().copied().enumerate();
        stated.extend(
            own.filter(|(_, statement)| statement.reports(week))
                .map(|(index, statement)| (batch, index, statement)),
        );
        if !week.holds(batch.timestamp) {
            continue;
        }
        settled = true;
        file::amounts(batch, &content)?;
        let numbers = content.entries.iter().map(|entry| entry.job_no);
        let paid_before = numbers.filter(|number| batch.was_paid_before(*number));
        sums.add(SettledBatch {
            sequence: batch.sequence,
            content: &content,
            amounts: &batch.outcome.groups,
            paid_before: &paid_before.collect(),
        });
    }
    let reports = if settled {
        sums.finish(slashed)
    } else {
        BTreeMap::new()
    };
    let reported = |report: EarningsReport| Reported {
        hash: report.eip712_hash_struct(),
        report,
        batches: BTreeSet::new(),
    };
    let mut earnings = Earnings {
        week,
        over: now >= week.until(),
        providers: reports
            .into_iter()
            .map(|(provider, report)| (provider, reported(report)))
            .collect(),
    };
    if earnings.over {
        for (batch, index, statement) in stated {
            earnings.hold_against(batch, index, &statement)?;
        }
    }
    Ok(earnings)
}

impl Earnings {
    fn hold_against(
        &mut self,
        batch: &ChainBatch,
        index: usize,
        statement: &Statement,
    ) -> Result<(), Box<Finding>> {
        let provider = statement.earnings_of().map(|(provider, _)| provider);
        let due = provider.and_then(|provider| self.providers.get_mut(&provider));
        let expected = match due {
            Some(due) if due.hash == statement.content => {
                due.batches.insert(batch.sequence);
                return Ok(());
            }
            Some(due) => due.hash.to_string(),
            None => "no report".to_owned(),
        };
        let whose = provider.map_or_else(
            || format!("subject {}", statement.subject),
            |provider| format!("provider {provider}"),
        );
        let at = STATEMENT * index;
        Err(Box::new(Finding {
            file: format!(
                "report of {whose} for {}, stated in batch {} (transaction {})",
                self.week, batch.sequence, batch.transaction
            ),
            at: at + CONTENT..at + STATEMENT,
            fault: Fault::Earnings,
            found: statement.content.to_string(),
            expected,
        }))
    }
}

#[cfg(test)]
mod tests {
    use alloy_primitives::{Address, U256};

    use super::*;
    use crate::{
        batch::{self, EMISSION_PRICE, Entry, Outcome},
        statement,
        verify::chain::Contradiction,
    };

    const LANE: LaneId = LaneId {
        chain_id: 8453,
        settlement: Address::repeat_byte(1),
        lane: 7,
    };

    fn week() -> Week {
        "2026-W48".parse().unwrap()
    }

    /// A batch of the lane that was settled at `timestamp`, after the one before it.
    fn settled(
        sequence: u64,
        timestamp: u64,
        entries: &[Entry],
        statements: Vec<Statement>,
    ) -> ChainBatch {
        let data = batch::encode(entries, &statements).unwrap();
        let content = batch::decode(&data).unwrap();
        let amounts = content.amounts().unwrap();
        let previous = B256::repeat_byte(sequence.try_into().unwrap());
        ChainBatch {
            chain_id: LANE.chain_id,
            contract: LANE.settlement,
            lane: LANE.lane,
            sequence,
            previous,
            usage_root: B256::ZERO,
            chain_hash: batch::chain_hash(
                previous,
                LANE.lane,
                sequence,
                B256::ZERO,
                batch::data_hash(&data),
            ),
            data,
            outcome: Outcome {
                total: amounts.iter().sum(),
                paid: entries.len().try_into().unwrap(),
                skipped: 0,
                groups: amounts.into_iter().map(Some).collect(),
            },
            left_out: BTreeMap::new(),
            statements,
            transaction: B256::repeat_byte(0xee),
            block: sequence,
            timestamp,
        }
    }

    fn entry(job_no: u64, payer: u32, provider: u32, units: u64) -> Entry {
        Entry {
            job_no,
            payer,
            provider,
            price: EMISSION_PRICE,
            units,
        }
    }

    /// Two batches of the week, one before and one after it.
    fn lane() -> Vec<ChainBatch> {
        let (from, until) = (week().from(), week().until());
        vec![
            settled(3, from - 1, &[entry(1, 1, 5, 1_000)], vec![]),
            settled(
                4,
                from,
                &[entry(2, 1, 5, 10), entry(3, 0, 5, 4), entry(4, 2, 6, 7)],
                vec![statement::uptime(9, B256::ZERO)],
            ),
            settled(5, until - 1, &[entry(5, 1, 5, 20)], vec![]),
            settled(6, until, &[entry(6, 1, 5, 2_000)], vec![]),
        ]
    }

    fn at(now: u64, batches: &[ChainBatch]) -> Result<Earnings, FileError> {
        verify(LANE, week(), now, batches, &BTreeMap::from([(6, 3)]))
    }

    fn over(batches: &[ChainBatch]) -> Result<Earnings, FileError> {
        at(week().until(), batches)
    }

    #[allow(clippy::unnecessary_box_returns, reason = "it comes out of an error")]
    fn wrong(batches: &[ChainBatch]) -> Box<Finding> {
        match over(batches) {
            Err(FileError::Wrong(finding)) => finding,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_report_is_made_of_the_batches_whose_blocks_lie_in_the_week() {
        let earnings = over(&lane()).unwrap();
        let sums = |provider: u32| {
            let report = &earnings.providers[&provider].report;
            assert_eq!((report.firstBatch, report.lastBatch), (4, 5));
            (
                report.jobs,
                report.gpuMillis,
                report.paid,
                report.emissions,
                report.slashed,
            )
        };
        assert_eq!(sums(5), (2, 30, 30, 4, 0));
        assert_eq!(sums(6), (1, 7, 7, 0, 3));
        assert_eq!(earnings.providers.len(), 2);
        assert!(earnings.over);
    }

    #[test]
    fn a_report_is_found_in_whatever_batch_states_it() {
        let mut batches = lane();
        let reports = over(&batches).unwrap().providers;
        assert!(reports.values().all(|reported| reported.batches.is_empty()));
        let said = |provider: u32| statement::earnings(&reports[&provider].report);
        let until = week().until();
        batches.push(settled(7, until + 9, &[], vec![said(5), said(6)]));
        batches.push(settled(8, until + 99, &[], vec![said(6)]));
        let earnings = over(&batches).unwrap();
        assert_eq!(earnings.providers[&5].batches, BTreeSet::from([7]));
        assert_eq!(earnings.providers[&6].batches, BTreeSet::from([7, 8]));
        assert_eq!(earnings.providers[&5].hash, said(5).content);
    }

    #[test]
    fn a_report_of_something_else_is_named_with_both_hashes() {
        let mut batches = lane();
        let mut report = over(&batches).unwrap().providers[&5].report.clone();
        let due = report.eip712_hash_struct();
        report.paid += 1;
        let said = vec![
            statement::uptime(1, B256::ZERO),
            statement::earnings(&report),
        ];
        batches.push(settled(7, week().until() + 9, &[], said));
        let finding = wrong(&batches);
        assert_eq!(
            (finding.fault, finding.at.clone()),
            (Fault::Earnings, 106..138)
        );
        assert_eq!(finding.found, report.eip712_hash_struct().to_string());
        assert_eq!(finding.expected, due.to_string());
        assert!(
            finding
                .file
                .starts_with("report of provider 5 for 2026-W48, stated in batch 7"),
            "{finding}"
        );
    }

    #[test]
    fn a_report_about_nobody_is_wrong() {
        let mut report = over(&lane()).unwrap().providers[&5].report.clone();
        report.provider = 9;
        let mut nobody = statement::earnings(&report);
        nobody.subject = B256::repeat_byte(9);
        for said in [statement::earnings(&report), nobody] {
            let mut batches = lane();
            batches.push(settled(7, week().until() + 9, &[], vec![said]));
            let finding = wrong(&batches);
            assert_eq!(finding.fault, Fault::Earnings);
            assert_eq!(finding.expected, "no report");
        }
    }

    #[test]
    fn nothing_is_compared_before_the_week_is_over() {
        let mut report = over(&lane()).unwrap().providers[&5].report.clone();
        report.paid += 1;
        let early = vec![statement::earnings(&report)];
        let batches = [settled(4, week().from(), &[entry(2, 1, 5, 10)], early)];
        let earnings = at(week().until() - 1, &batches).unwrap();
        assert!(!earnings.over && earnings.providers[&5].batches.is_empty());
        assert_eq!(earnings.providers[&5].report.paid, 10);
        assert_eq!(wrong(&batches).fault, Fault::Earnings);
    }

    #[test]
    fn a_week_in_which_nothing_was_settled_has_no_report() {
        let batches = lane();
        assert!(over(&batches[3..]).unwrap().providers.is_empty());
        assert!(over(&[]).unwrap().providers.is_empty());
    }

    #[test]
    fn what_was_left_out_earns_nothing() {
        let mut batches = lane();
        // Groups in their order: payer 0, 1, 2. The contract leaves out the last one, and number 2 was paid before.
        let chain = &mut batches[1];
        chain.outcome.groups[2] = None;
        chain.outcome.groups[1] = Some(0);
        chain.left_out.insert(0, U256::from(1) << 2);
        (
            chain.outcome.total,
            chain.outcome.paid,
            chain.outcome.skipped,
        ) = (4, 1, 2);
        let earnings = over(&batches).unwrap();
        let report = &earnings.providers[&6].report;
        assert_eq!((report.jobs, report.paid, report.slashed), (0, 0, 3));
        let report = &earnings.providers[&5].report;
        assert_eq!((report.jobs, report.gpuMillis, report.paid), (1, 20, 20));
    }

    #[test]
    fn events_that_state_something_else_than_the_payload_are_named() {
        let alterations: [fn(&mut ChainBatch); 3] = [
            |batch| batch.statements[0].number += 1,
            |batch| batch.statements.clear(),
            |batch| batch.statements.push(batch.statements[0]),
        ];
        for (alter, at) in alterations.into_iter().zip([0..69, 0..69, 69..138]) {
            let mut batches = lane();
            alter(&mut batches[1]);
            let finding = wrong(&batches);
            assert_eq!((finding.fault, finding.at.clone()), (Fault::Stated, at));
            assert!(
                finding.file.starts_with("events Stated of batch 4"),
                "{finding}"
            );
        }
    }

    #[test]
    fn a_payload_that_is_not_the_settled_one_is_no_ground_for_a_report() {
        let mut batches = lane();
        batches[1].data.push(0);
        assert!(matches!(
            over(&batches),
            Err(FileError::Chain(Contradiction::Input { sequence: 4, .. }))
        ));
    }
}
