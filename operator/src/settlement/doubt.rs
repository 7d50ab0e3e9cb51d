//! Which slices may have been paid although the cluster does not know: after the API server was restored from a backup, the
//! chain shows numbers that no record has.
//!
//! A slice that was sealed after the backup was taken is open again, and would get a second number. So what could be it
//! is not sealed until somebody knows: the agent that remembers the seal, [the archive](super::explained) that names the record of
//! a payment, or a person.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use gridstake_crds::{
    SettlementBatch, UsageRecord,
    names::{LABEL_RESTORED, MANAGER_SETTLEMENT},
    settlement_batch::BatchState,
    usage_record::{RecordState, SkipReason},
};
use gridstake_ledger::batch::{Entry, Group};
use kube::{
    Api, ResourceExt as _,
    api::{Patch, PatchParams},
};
use serde_json::json;

use super::{
    lapse::Noted,
    observe::{self, ObserveError},
    records::{self, REWARD_ACCOUNT},
    run::{PassError, Settler, numbers_of},
    tell::Telling,
};
use crate::chain::ChainView;

/// How often it is looked whether doubts are resolved.
const LOOK: Duration = Duration::from_mins(1);

/// Payments that the chain shows and no record has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Doubts {
    /// By who was paid by whom at which price.
    groups: BTreeMap<Group, Doubt>,
    /// Emissions by number: to which provider, and how many nano-tokens.
    emissions: BTreeMap<u64, (u32, u64)>,
    /// Whether batches may have been lost that can still be mined.
    pub lapse: Noted,
}

/// Payments of one group that no record has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Doubt {
    /// Their numbers, each with its GPU-milliseconds.
    pub numbers: BTreeMap<u64, u64>,
    /// When they were taken over from the chain, in Unix milliseconds: slices that began later are not among them.
    pub until_ms: u64,
}

impl Doubts {
    /// Those of `entries`, which the chain has paid and which were taken over at `until_ms`, that no number in `known`
    /// belongs to. Emissions go with the use that they reward: by themselves they put nothing in doubt.
    #[must_use]
    pub fn of(entries: &[Entry], until_ms: u64, known: &BTreeSet<u64>) -> Self {
        let mut doubts = Self::default();
        let unknown = |entry: &&Entry| !known.contains(&entry.job_no);
        for entry in entries.iter().filter(unknown) {
            if entry.payer == REWARD_ACCOUNT {
                let emission = (entry.provider, entry.units);
                doubts.emissions.insert(entry.job_no, emission);
                continue;
            }
            let doubt = doubts.groups.entry(Group::from(entry)).or_default();
            doubt.numbers.insert(entry.job_no, entry.units);
            doubt.until_ms = until_ms;
        }
        doubts
    }

    fn join(&mut self, other: Self) {
        for (group, other) in other.groups {
            let doubt = self.groups.entry(group).or_default();
            doubt.numbers.extend(other.numbers);
            doubt.until_ms = doubt.until_ms.max(other.until_ms);
        }
        self.emissions.extend(other.emissions);
    }

    /// How many payments are in doubt.
    #[must_use]
    pub fn count(&self) -> usize {
        self.groups.values().map(|doubt| doubt.numbers.len()).sum()
    }

    /// Their numbers, with those of emissions: the chain has paid them.
    pub fn numbers(&self) -> impl Iterator<Item = u64> + '_ {
        let used = self.groups.values().flat_map(|doubt| doubt.numbers.keys());
        used.chain(self.emissions.keys()).copied()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// The payments of which one may be that of `record`.
    #[must_use]
    pub fn about(&self, record: &UsageRecord, lane: u32) -> Option<&Doubt> {
        let payment = record.spec.payment.as_ref().filter(|p| p.lane == lane)?;
        self.groups.get(&records::group_of(payment)?)
    }

    /// What was paid to `provider` from the reward account under a number that no record has, in nano-tokens.
    #[must_use]
    pub fn emission(&self, number: u64, provider: u32) -> Option<u64> {
        let (paid_to, nano) = self.emissions.get(&number)?;
        (*paid_to == provider).then_some(*nano)
    }
}

impl Settler {
    /// Looks whether the chain shows payments that no record has, and tells the controllers.
    pub(super) async fn look_at_doubts(&mut self, view: &ChainView) -> Result<(), PassError> {
        let is_recent = self.doubts_at.is_some_and(|at| at.elapsed() < LOOK);
        // A seal that a person has put back was not announced: without a look, a batch would hold what is paid.
        let may_be_built = self.is_gathered() && self.is_in_doubt();
        if is_recent && !may_be_built && !self.may_end_doubts() {
            return Ok(());
        }
        // What is sealed while it is looked is looked at again.
        self.doubts_announced = self.announced;
        let restored = observe::restored_batches(&self.context.client, &self.lane).await?;
        let mut doubts = Doubts::default();
        if !restored.is_empty() {
            let (client, namespace) = (&self.context.client, &self.context.namespace);
            let all = observe::sealed_records(client, namespace, &self.lane).await?;
            let known: BTreeSet<u64> = all.iter().flat_map(numbers_of).collect();
            for batch in &restored {
                self.tell_late(batch, &all, view).await?;
                let taken = batch.creation_timestamp().map(|at| at.0.as_millisecond());
                let until_ms = u64::try_from(taken.unwrap_or(i64::MAX)).unwrap_or(0);
                let entries = observe::content(batch)?.entries;
                let mut own = Doubts::of(&entries, until_ms, &known);
                if !own.is_empty() {
                    let mut known = self.paid_for_jobs_that_are_gone(batch, &all).await?;
                    known.extend(all.iter().flat_map(numbers_of));
                    known.extend(self.left_out_of(batch, view).await?);
                    own = Doubts::of(&entries, until_ms, &known);
                }
                if own.is_empty() {
                    self.resolve(batch).await?;
                }
                doubts.join(own);
            }
        }
        self.metrics
            .doubtful
            .set(i64::try_from(doubts.count()).unwrap_or(i64::MAX));
        doubts.lapse = self.lapse.noted();
        self.lane.agrees(doubts);
        self.doubts_at = Some(Instant::now());
        Ok(())
    }

    /// The numbers that a batch holds and has paid nothing under: those that the contract left out of a final one, and all of one
    /// whose place another batch has taken that is final. Where one was paid by another batch, before or after, that one tells.
    async fn left_out_of(
        &self,
        batch: &SettlementBatch,
        view: &ChainView,
    ) -> Result<BTreeSet<u64>, PassError> {
        let state = |batch: &SettlementBatch| batch.status.as_ref().and_then(|status| status.state);
        match state(batch) {
            Some(BatchState::Final) => {
                let found = observe::find(&self.lane, batch, &view.head).await?;
                let skipped = found.into_iter().flat_map(|found| found.settled.skipped);
                let unpaid = skipped.filter(|(_, reason)| *reason != SkipReason::AlreadyPaid);
                Ok(unpaid.map(|(number, _)| number).collect())
            }
            Some(BatchState::Superseded) => {
                let (client, sequence) = (&self.context.client, batch.spec.sequence);
                let instead = observe::batch(client, &self.lane, sequence).await?;
                if instead.as_ref().and_then(state) != Some(BatchState::Final) {
                    return Ok(BTreeSet::new());
                }
                let entries = observe::content(batch)?.entries;
                Ok(entries.iter().map(|entry| entry.job_no).collect())
            }
            _ => Ok(BTreeSet::new()),
        }
    }

    /// Tells those of `records` that were sealed again after the batch that has paid them became final.
    async fn tell_late(
        &self,
        batch: &SettlementBatch,
        records: &[UsageRecord],
        view: &ChainView,
    ) -> Result<(), PassError> {
        let state = batch.status.as_ref().and_then(|status| status.state);
        if state != Some(BatchState::Final) {
            return Ok(());
        }
        let numbers: BTreeSet<u64> = observe::content(batch)?
            .entries
            .iter()
            .map(|entry| entry.job_no)
            .collect();
        let is_late = |record: &&UsageRecord| {
            let settlement = record.status.as_ref().and_then(|s| s.settlement.as_ref());
            settlement.is_none_or(|settlement| settlement.state == RecordState::Sealed)
                && numbers_of(record)
                    .iter()
                    .any(|number| numbers.contains(number))
        };
        let late: Vec<UsageRecord> = records.iter().filter(is_late).cloned().collect();
        if late.is_empty() {
            return Ok(());
        }
        // Without it nobody knows what the contract left out; the next batch finds out.
        let Some(found) = observe::find(&self.lane, batch, &view.head).await? else {
            return Ok(());
        };
        let open = observe::open_batches(&self.context.client, &self.lane).await?;
        let telling = Telling {
            batch: batch.clone(),
            state: BatchState::Final,
            found: Some(found),
            open: Arc::new(open),
            head: view.head.hash,
        };
        self.teller().tell_now(&telling, &late).await
    }

    /// Whether a record was sealed since doubts were looked at, and there are any.
    pub(super) fn may_end_doubts(&self) -> bool {
        self.announced != self.doubts_announced && self.is_in_doubt()
    }

    fn is_in_doubt(&self) -> bool {
        self.lane.doubts().is_some_and(|doubts| !doubts.is_empty())
    }

    /// It is known of every number of the batch what it paid.
    async fn resolve(&self, batch: &SettlementBatch) -> Result<(), ObserveError> {
        let name = batch.name_any();
        let patch = json!({"metadata": {"labels": {LABEL_RESTORED: "resolved"}}});
        Api::<SettlementBatch>::all(self.context.client.clone())
            .patch(
                &name,
                &PatchParams {
                    field_manager: Some(MANAGER_SETTLEMENT.to_owned()),
                    ..PatchParams::default()
                },
                &Patch::Merge(patch),
            )
            .await
            .map_err(|source| ObserveError::Label {
                name,
                source: Box::new(source),
            })?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(job_no: u64, payer: u32, provider: u32) -> Entry {
        Entry {
            job_no,
            payer,
            provider,
            price: 720_000_000_000,
            units: 1000,
        }
    }

    fn record(payer: u32, price: &str) -> UsageRecord {
        serde_saphyr::from_str(&format!(
            "apiVersion: gridstake.dev/v1alpha1
kind: UsageRecord
metadata: {{name: u-1-0-0}}
spec:
  job: {{namespace: a, name: j, uid: u}}
  attempt: 1
  member: 0
  slice: 0
  podName: j-1-0
  nodeName: n1
  gpuCount: 1
  payment: {{chain: anvil, lane: 7, payer: {payer}, provider: 9, perGpuSecond: '{price}'}}
"
        ))
        .unwrap()
    }

    #[test]
    fn what_was_paid_under_a_number_that_no_record_has_is_in_doubt() {
        let entries = [
            entry(256, 3, 9),
            entry(257, 3, 9),
            entry(258, 4, 9),
            entry(259, 0, 9),
        ];
        let doubts = Doubts::of(&entries, 5000, &BTreeSet::from([256, 258]));
        let about = |payer, price| doubts.about(&record(payer, price), 7).cloned();
        let doubt = Doubt {
            numbers: BTreeMap::from([(257, 1000)]),
            until_ms: 5000,
        };
        assert_eq!((about(3, "0.00072"), doubts.count()), (Some(doubt), 1));
        // Another payer, another price, another lane.
        assert_eq!(about(4, "0.00072"), None);
        assert_eq!(about(3, "0.00073"), None);
        assert_eq!(doubts.about(&record(3, "0.00072"), 8), None);
        let emissions = [(259, 9), (259, 8), (257, 9)];
        assert_eq!(
            emissions.map(|(number, provider)| doubts.emission(number, provider)),
            [Some(1000), None, None]
        );
        assert_eq!(doubts.numbers().collect::<Vec<_>>(), [257, 259]);
        let known = BTreeSet::from([256, 257, 258]);
        assert!(Doubts::of(&entries, 5000, &known).is_empty());
    }
}
