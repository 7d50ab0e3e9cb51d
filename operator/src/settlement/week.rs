//! What the log says about a week: who got what, and what of it has been reported on chain. Pure.

use std::collections::{BTreeMap, BTreeSet};

use alloy::primitives::U256;
use gridstake_crds::{
    SettlementBatch, settlement_batch::BatchState, settlement_batch::SettlementBatchStatus,
};
use gridstake_ledger::{
    amount,
    batch::{self, Batch, Group},
    earnings::{LaneId, SettledBatch, WeekOfEarnings},
    statement::{self, Statement},
    week::Week,
};
use kube::ResourceExt as _;

use super::observe::{self, ObserveError};

/// What the log says about a week, while its batches are added one by one.
#[derive(Clone, Debug)]
pub struct Survey {
    week: Week,
    earnings: WeekOfEarnings,
    /// Whether a batch of the week is not final.
    unsettled: bool,
    /// Whether the lane settled a batch in the week.
    settled: bool,
    /// Reports of the week that batches hold, and whether they are final.
    said: BTreeMap<Statement, bool>,
    /// The first week after it in which the lane settled a batch.
    next: Option<Week>,
}

/// What follows from a week's batches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Not all of its batches are final.
    NotFinal,
    /// The lane settled nothing in it: nobody gets a report.
    Empty {
        /// The first week after it in which the lane settled a batch.
        next: Option<Week>,
    },
    /// These reports are not final on chain.
    Due(Vec<Statement>),
    /// Every report is final.
    Done,
}

impl Survey {
    /// Of the `lane` and the `week`, without any batch.
    #[must_use]
    pub const fn new(lane: LaneId, week: Week) -> Self {
        Self {
            week,
            earnings: WeekOfEarnings::new(lane, week),
            unsettled: false,
            settled: false,
            said: BTreeMap::new(),
            next: None,
        }
    }

    /// Adds a batch of the log, each once and in any order.
    pub fn add(&mut self, batch: &SettlementBatch) -> Result<(), ObserveError> {
        let nothing = SettlementBatchStatus::default();
        let status = batch.status.as_ref().unwrap_or(&nothing);
        if status.state == Some(BatchState::Superseded) {
            return Ok(());
        }
        let is_final = status.state == Some(BatchState::Final);
        let content = observe::content(batch)?;
        for said in &content.statements {
            if said.reports(self.week) {
                self.said.insert(*said, is_final);
            }
        }
        let Some(settled_at) = settled_at(batch) else {
            return Ok(());
        };
        let week = Week::of(settled_at);
        if week > self.week {
            self.next = Some(self.next.map_or(week, |next| next.min(week)));
        }
        if week != self.week {
            return Ok(());
        }
        self.settled = true;
        self.unsettled |= !is_final;
        let (amounts, paid_before) = paid(batch, status, &content)?;
        self.earnings.add(SettledBatch {
            sequence: batch.spec.sequence,
            content: &content,
            amounts: &amounts,
            paid_before: &paid_before,
        });
        Ok(())
    }

    /// What follows. `slashed`: nano-tokens by provider, of slashes that the lane proposed and that were executed in the
    /// week.
    #[must_use]
    pub fn finish(self, slashed: &BTreeMap<u32, u128>) -> Finding {
        if self.unsettled {
            return Finding::NotFinal;
        }
        if !self.settled {
            return Finding::Empty { next: self.next };
        }
        let reports = self.earnings.finish(slashed);
        let mut due = Vec::new();
        for report in reports.values() {
            let report = statement::earnings(report);
            let said = self
                .said
                .iter()
                .find(|(said, _)| said.subject == report.subject);
            match said {
                None => due.push(report),
                Some((said, is_final)) => {
                    if *said != report {
                        // A second report would contradict the first; an auditor finds which one is right.
                        tracing::error!(
                            week = %self.week,
                            provider = ?report.earnings_of().map(|(provider, _)| provider),
                            said = %said.content,
                            expected = %report.content,
                            "a report of the week's earnings on chain is not what the log says"
                        );
                    }
                    if !is_final {
                        due.push(*said);
                    }
                }
            }
        }
        if due.is_empty() {
            Finding::Done
        } else {
            Finding::Due(due)
        }
    }

    /// Whether the lane settled a batch in the week.
    #[must_use]
    pub const fn is_settled(&self) -> bool {
        self.settled && !self.unsettled
    }
}

/// The time of the block that settled a batch, in Unix seconds; `None` if it is in none.
#[must_use]
pub fn settled_at(batch: &SettlementBatch) -> Option<u64> {
    batch.status.as_ref()?.inclusion.as_ref()?.timestamp
}

/// What each group of a batch was paid, in nano-tokens, and the numbers that had been paid before.
fn paid(
    logged: &SettlementBatch,
    status: &SettlementBatchStatus,
    content: &Batch,
) -> Result<(Vec<Option<u64>>, BTreeSet<u64>), ObserveError> {
    let broken = |field| ObserveError::Broken {
        name: logged.name_any(),
        field,
    };
    let outcome = status
        .outcome
        .as_ref()
        .ok_or_else(|| broken("status.outcome"))?;
    let left_out: BTreeSet<Group> = outcome
        .skipped_groups
        .iter()
        .map(|group| Group {
            payer: group.payer,
            provider: group.provider,
            price: group.price,
        })
        .collect();
    let mut before = BTreeSet::new();
    for word in &outcome.skipped_records {
        let bits: U256 = word
            .bits
            .parse()
            .map_err(|_| broken("status.outcome.skippedRecords"))?;
        before.extend(batch::numbers_of_word(word.word, bits));
    }
    let mut units: BTreeMap<Group, u64> = BTreeMap::new();
    for entry in &content.entries {
        if !before.contains(&entry.job_no) {
            *units.entry(Group::from(entry)).or_default() += entry.units;
        }
    }
    let amounts = content
        .groups
        .iter()
        .map(|group| {
            let units = units.get(group).copied().unwrap_or(0);
            let amount = amount::group_amount(units, group.price).ok();
            amount.filter(|_| !left_out.contains(group))
        })
        .collect();
    Ok((amounts, before))
}

#[cfg(test)]
mod tests {
    use alloy::primitives::{Address, B256};
    use gridstake_crds::{
        SettlementBatchSpec, TokenAmount,
        settlement_batch::{BatchOutcome, SkippedGroup, SkippedRecords},
        stake_binding::BlockReference,
        transaction::Inclusion,
        usage_record::SkipReason,
    };
    use gridstake_ledger::batch::Entry;
    use k8s_openapi::ByteString;

    use super::*;

    const LANE: LaneId = LaneId {
        chain_id: 1,
        settlement: Address::repeat_byte(1),
        lane: 7,
    };
    const PRICE: u64 = 1_000_000_000;

    fn week() -> Week {
        "2026-W48".parse().unwrap()
    }

    fn entry(job_no: u64, payer: u32, provider: u32, units: u64) -> Entry {
        Entry {
            job_no,
            payer,
            provider,
            price: PRICE,
            units,
        }
    }

    fn logged(
        sequence: u64,
        state: BatchState,
        at: Option<u64>,
        entries: &[Entry],
        statements: &[Statement],
    ) -> SettlementBatch {
        let data = batch::encode(entries, statements).unwrap();
        let hash = B256::ZERO.to_string();
        let mut batch = SettlementBatch::new(
            &format!("lane-7-{sequence:020}"),
            SettlementBatchSpec {
                chain: "anvil".into(),
                chain_id: 1,
                contract: LANE.settlement.to_string(),
                lane: 7,
                sequence,
                previous: hash.clone(),
                usage_root: hash.clone(),
                decision_head: hash.clone(),
                data: ByteString(data),
                data_hash: hash.clone(),
                chain_hash: hash,
                record_count: 0,
                group_count: 0,
                statement_count: 0,
                first_job_no: 0,
                last_job_no: 0,
                total: TokenAmount::from_nano(0),
                supersedes: None,
            },
        );
        batch.status = Some(SettlementBatchStatus {
            state: Some(state),
            inclusion: at.map(|timestamp| Inclusion {
                transaction: String::new(),
                block: BlockReference {
                    number: 1,
                    hash: String::new(),
                },
                timestamp: Some(timestamp),
                gas_used: None,
                effective_gas_price: None,
            }),
            outcome: at.map(|_| BatchOutcome {
                total: TokenAmount::from_nano(0),
                paid: 0,
                skipped: 0,
                skipped_groups: vec![],
                skipped_records: vec![],
            }),
            ..SettlementBatchStatus::default()
        });
        batch
    }

    fn find(batches: &[SettlementBatch]) -> Finding {
        let mut survey = Survey::new(LANE, week());
        for batch in batches {
            survey.add(batch).unwrap();
        }
        survey.finish(&BTreeMap::new())
    }

    fn due(finding: Finding) -> Vec<Statement> {
        match finding {
            Finding::Due(due) => due,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_week_is_reported_once_for_each_provider_and_then_done() {
        let inside = Some(week().from() + 5);
        let mut log = vec![
            logged(
                1,
                BatchState::Final,
                Some(week().from() - 1),
                &[entry(1, 1, 9, 5)],
                &[],
            ),
            logged(
                2,
                BatchState::Final,
                inside,
                &[entry(2, 1, 5, 5), entry(3, 1, 6, 7)],
                &[],
            ),
            logged(3, BatchState::Superseded, None, &[entry(4, 1, 8, 5)], &[]),
            logged(3, BatchState::Final, inside, &[entry(4, 1, 5, 5)], &[]),
        ];
        let reports = due(find(&log));
        let providers: Vec<u32> = reports
            .iter()
            .filter_map(|r| Some(r.earnings_of()?.0))
            .collect();
        assert_eq!(providers, [5, 6]);

        // One of them is on its way.
        log.push(logged(4, BatchState::InFlight, None, &[], &reports[..1]));
        assert_eq!(due(find(&log)), reports);
        log.pop();
        log.push(logged(
            4,
            BatchState::Final,
            Some(week().until()),
            &[],
            &reports[..1],
        ));
        assert_eq!(due(find(&log)), reports[1..]);
        log.push(logged(
            5,
            BatchState::Final,
            Some(week().until()),
            &[],
            &reports[1..],
        ));
        assert_eq!(find(&log), Finding::Done);
    }

    #[test]
    fn nothing_is_reported_before_every_batch_of_the_week_is_final() {
        let inside = Some(week().from());
        let log = [
            logged(1, BatchState::Final, inside, &[entry(1, 1, 5, 5)], &[]),
            logged(2, BatchState::Safe, inside, &[entry(2, 1, 5, 5)], &[]),
        ];
        assert_eq!(find(&log), Finding::NotFinal);
    }

    #[test]
    fn a_week_without_batches_has_no_report_and_names_the_next_one_with_some() {
        assert_eq!(find(&[]), Finding::Empty { next: None });
        let later = week().next().next();
        let log = [
            logged(
                1,
                BatchState::Final,
                Some(later.until()),
                &[entry(1, 1, 5, 5)],
                &[],
            ),
            logged(
                2,
                BatchState::Final,
                Some(later.from()),
                &[entry(2, 1, 5, 5)],
                &[],
            ),
        ];
        assert_eq!(find(&log), Finding::Empty { next: Some(later) });
    }

    #[test]
    fn a_report_that_is_on_chain_already_is_not_contradicted() {
        let inside = Some(week().from());
        let other = Statement {
            content: B256::repeat_byte(7),
            ..due(find(&[logged(
                1,
                BatchState::Final,
                inside,
                &[entry(1, 1, 5, 5)],
                &[],
            )]))[0]
        };
        let log = [
            logged(1, BatchState::Final, inside, &[entry(1, 1, 5, 5)], &[]),
            logged(2, BatchState::Final, Some(week().until()), &[], &[other]),
        ];
        assert_eq!(find(&log), Finding::Done);
    }

    #[test]
    fn the_log_says_what_the_contract_left_out() {
        let inside = Some(week().from());
        let mut batch = logged(
            1,
            BatchState::Final,
            inside,
            &[entry(1, 1, 5, 5), entry(2, 1, 5, 7), entry(3, 2, 5, 100)],
            &[],
        );
        let status = batch.status.as_mut().unwrap();
        let outcome = status.outcome.as_mut().unwrap();
        outcome.skipped_groups.push(SkippedGroup {
            payer: 2,
            provider: 5,
            price: PRICE,
            reason: SkipReason::InsufficientEscrow,
        });
        outcome.skipped_records.push(SkippedRecords {
            word: 0,
            bits: B256::from(U256::from(1 << 2)).to_string(),
            reason: SkipReason::AlreadyPaid,
        });
        let mut earnings = WeekOfEarnings::new(LANE, week());
        let content = observe::content(&batch).unwrap();
        let (amounts, before) = paid(&batch, batch.status.as_ref().unwrap(), &content).unwrap();
        earnings.add(SettledBatch {
            sequence: 1,
            content: &content,
            amounts: &amounts,
            paid_before: &before,
        });
        let reports = earnings.finish(&BTreeMap::from([(5, 11)]));
        let report = &reports[&5];
        assert_eq!(
            (report.jobs, report.gpuMillis, report.paid, report.slashed),
            (1, 5, 5, 11)
        );
    }
}
