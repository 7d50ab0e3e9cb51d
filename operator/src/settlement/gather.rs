//! Gathers what is owed and in no batch, asks the chain for the accounts concerned, and tells the records that the
//! contract would not pay.

use std::collections::BTreeSet;

use futures::{FutureExt as _, StreamExt as _, stream};
use gridstake_crds::{
    UsageRecord,
    closed_enum::ClosedEnum as _,
    settlement_batch::BatchState,
    usage_record::{RecordSettlement, RecordState, SkipReason},
};
use kube::ResourceExt as _;

use super::{
    act::{self, ActError, RETRY},
    build_batch, observe,
    payable::{self, Accounts, Due, ProviderStanding},
    records,
    run::{Settler, WRITES, numbers_of},
    status,
};
use crate::{chain::ChainView, error::chain as causes, status::Guard};

/// What is owed and in no batch.
#[derive(Debug, Default)]
struct Owed {
    dues: Vec<Due>,
    /// Numbers that may have been paid although no batch in force holds them: their records have been in one.
    doubtful: BTreeSet<u64>,
    /// The same; they need to be asked for only if they are to go into a batch.
    left_out: BTreeSet<u64>,
    /// Numbers of use that a batch holds and an emission waits for.
    awaited: BTreeSet<u64>,
}

impl Owed {
    /// These numbers have been paid.
    fn settle(&mut self, paid: &BTreeSet<u64>) {
        self.dues.retain(|due| !paid.contains(&due.number()));
        for due in &mut self.dues {
            due.after = due.after.filter(|number| !paid.contains(number));
        }
    }
}

fn settlement_of(record: &UsageRecord) -> Option<&RecordSettlement> {
    record.status.as_ref()?.settlement.as_ref()
}

/// What `record`, which would not be paid, is told.
fn leave_out(record: &UsageRecord, reason: SkipReason) -> RecordSettlement {
    let told = records::left_out(record, reason);
    if settlement_of(record) != Some(&told) {
        tracing::info!(
            record = record.name_any(),
            reason = reason.as_str(),
            "a record is left out: the contract would not pay it now"
        );
    }
    told
}

impl Settler {
    /// What of `records` the contract would pay now, less what a batch in force `held`s. Those that it would not pay are
    /// told so.
    pub(super) async fn payable(
        &mut self,
        records: &[UsageRecord],
        held: &BTreeSet<u64>,
        view: &ChainView,
    ) -> Result<Vec<Due>, ActError> {
        let (reader, at) = (self.lane.reader(), view.head.hash);
        self.retried.retain(|_, tried| tried.elapsed() < RETRY);
        let mut owed = self.owed(records, held).await?;
        let ask = owed.doubtful.union(&owed.awaited).copied();
        let mut paid = reader.paid(ask.collect::<Vec<_>>(), at).await?;
        owed.settle(&paid);
        let accounts = self.accounts(&owed.dues, view).await?;
        let division = loop {
            let division = payable::divide(&owed.dues, &accounts);
            let taken: BTreeSet<u64> = division.taken.iter().map(Due::number).collect();
            let ask: BTreeSet<u64> = owed.left_out.intersection(&taken).copied().collect();
            if ask.is_empty() {
                break division;
            }
            owed.left_out.retain(|number| !ask.contains(number));
            let more = reader.paid(ask, at).await?;
            owed.settle(&more);
            paid.extend(more);
        };
        let taken: BTreeSet<u64> = division.taken.iter().map(Due::number).collect();
        let mut tellings = Vec::new();
        for record in records {
            let numbers = numbers_of(record);
            let in_a_batch = |number: &u64| held.contains(number) || taken.contains(number);
            if numbers.iter().any(in_a_batch) {
                continue;
            }
            let reason = numbers.iter().find_map(|n| division.left_out.get(n));
            let telling = match reason {
                Some(reason) => Some(leave_out(record, *reason)),
                None if !numbers.is_empty() && numbers.iter().all(|n| paid.contains(n)) => {
                    self.missed(record).await?
                }
                None => None,
            };
            tellings.extend(telling.map(|settlement| self.tell_record(record, settlement).boxed()));
        }
        stream::iter(tellings)
            .buffer_unordered(WRITES)
            .collect::<()>()
            .await;
        Ok(division.taken)
    }

    /// What is owed and neither `held` by a batch nor to be left alone.
    async fn owed(&self, records: &[UsageRecord], held: &BTreeSet<u64>) -> Result<Owed, ActError> {
        let config = self.lane.chain().config().clone();
        let mut owed = Owed::default();
        for record in records {
            let settlement = settlement_of(record);
            let state = settlement.map(|settlement| settlement.state);
            let waits = match state {
                // The batch of one may have been superseded.
                None | Some(RecordState::Sealed | RecordState::Batched | RecordState::Paid) => true,
                // What the contract has left out although we thought otherwise is not sent again at once: each time costs
                // gas.
                Some(RecordState::Skipped) => !self.retried.contains_key(&record.name_any()),
                _ => false,
            };
            if !waits {
                continue;
            }
            let candidates = match records::owed(record, &config.name, config.lane) {
                Ok(candidates) => candidates,
                Err(reason) => {
                    act::needs_decision(&self.context, record, &reason.to_string()).await?;
                    continue;
                }
            };
            if let Some(error) = candidates.iter().find_map(build_batch::unfit) {
                act::needs_decision(&self.context, record, &error.to_string()).await?;
                continue;
            }
            let sealed = record.status.as_ref().and_then(|s| s.sealed.as_ref());
            let ended_ms = sealed.map_or(0, |sealed| sealed.end_ms);
            let of_use = candidates.first().map(|candidate| candidate.entry.job_no);
            for candidate in candidates {
                let number = candidate.entry.job_no;
                if held.contains(&number) {
                    continue;
                }
                let after = of_use.filter(|of_use| *of_use != number);
                owed.awaited
                    .extend(after.filter(|of_use| held.contains(of_use)));
                match state {
                    None => {}
                    Some(RecordState::Skipped) => {
                        owed.left_out.insert(number);
                        owed.awaited.extend(after);
                    }
                    Some(_) => {
                        owed.doubtful.insert(number);
                    }
                }
                owed.dues.push(Due {
                    candidate,
                    after,
                    ended_ms,
                });
            }
        }
        Ok(owed)
    }

    /// The accounts concerned, in the newest block of `view`.
    async fn accounts(&self, dues: &[Due], view: &ChainView) -> Result<Accounts, ActError> {
        let (reader, at) = (self.lane.reader(), view.head.hash);
        let entries = || dues.iter().map(|due| due.candidate.entry);
        let providers: BTreeSet<u32> = entries().map(|entry| entry.provider).collect();
        let payers: BTreeSet<u32> = entries().map(|entry| entry.payer).collect();
        let active = reader.active(providers.iter().copied(), at).await?;
        let count = if active.len() < providers.len() {
            reader.provider_count(at).await?
        } else {
            0
        };
        let standing = |id: u32| {
            if active.contains(&id) {
                ProviderStanding::Active
            } else if (1..=count).contains(&id) {
                ProviderStanding::Cooling
            } else {
                ProviderStanding::Unknown
            }
        };
        let payers = reader.payers(payers, at).await?;
        Ok(Accounts {
            providers: providers.into_iter().map(|id| (id, standing(id))).collect(),
            payers: payers
                .into_iter()
                .map(|(id, payer)| (id, payer.map(|payer| payer.balance)))
                .collect(),
        })
    }

    /// What `record`, all of which has been paid, was not told when its batch became final.
    async fn missed(&self, record: &UsageRecord) -> Result<Option<RecordSettlement>, ActError> {
        let Some(present) = settlement_of(record) else {
            return Ok(None);
        };
        let Some(name) = &present.batch else {
            return Ok(None);
        };
        let batch = observe::named(&self.context.client, name).await?;
        let state = batch.and_then(|batch| batch.status?.state);
        Ok(
            (state == Some(BatchState::Final)).then(|| RecordSettlement {
                state: RecordState::Final,
                skipped: None,
                ..present.clone()
            }),
        )
    }

    /// Tells it, unless somebody else has told the record something since it was read. What fails is told with a later
    /// batch, and holds up no other record.
    async fn tell_record(&self, record: &UsageRecord, settlement: RecordSettlement) {
        let (client, metrics) = (&self.context.client, &self.context.metrics);
        let guard = Guard::ResourceVersion;
        match status::write_record(client, metrics, record, settlement, guard).await {
            Ok(_) => {}
            Err(error) if error.is_not_found() || error.is_conflict() => {}
            Err(error) => {
                self.metrics.failed("apply_status");
                tracing::warn!(
                    record = record.name_any(),
                    error = causes(&error),
                    "a record was not told that it is left out"
                );
            }
        }
    }
}
