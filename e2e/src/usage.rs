//! What jobs used and what is due for it, read from their UsageRecords and counted once more by the rules of
//! docs/settlement.md.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use gridstake_crds::{
    UsageRecord,
    closed_enum::ClosedEnum as _,
    condition,
    names::LABEL_JOB_UID,
    usage_record::{
        Payment, RecordSettlement, RecordState, SealCause, Sealed, UsageRecordCondition,
        UsageRecordReason,
    },
};
use kube::{Api, ResourceExt as _, api::ListParams};

use crate::{
    job::Job,
    wait::{Look, look_until, watch_until},
    world::World,
};

/// What a slice is billed; an error while it is open.
pub fn sealed(record: &UsageRecord) -> Result<&Sealed> {
    let sealed = record.status.as_ref().and_then(|s| s.sealed.as_ref());
    sealed.with_context(|| format!("{} is not sealed", record.name_any()))
}

/// How far a slice's payment is; an error if nothing is said of it.
pub fn settlement(record: &UsageRecord) -> Result<&RecordSettlement> {
    let settlement = record.status.as_ref().and_then(|s| s.settlement.as_ref());
    settlement.with_context(|| format!("{} has no settlement", record.name_any()))
}

/// Who pays whom for a slice.
pub fn payment(record: &UsageRecord) -> Result<&Payment> {
    let payment = record.spec.payment.as_ref();
    payment.with_context(|| format!("{} is owed by nobody", record.name_any()))
}

/// The slices of a job, in the order of attempt, member and slice. Records outlive their job.
pub async fn of_job(world: &World, uid: &str) -> Result<Vec<UsageRecord>> {
    let records: Api<UsageRecord> = Api::namespaced(world.client.clone(), &world.namespace);
    let own = ListParams::default().labels(&format!("{LABEL_JOB_UID}={uid}"));
    let mut records = records.list(&own).await?.items;
    records.sort_by_key(|r| (r.spec.attempt, r.spec.member, r.spec.slice));
    Ok(records)
}

/// The sealed slices of all jobs that are still to be put into a batch, or whose batch is not final.
pub async fn unsettled(world: &World) -> Result<Vec<String>> {
    let records: Api<UsageRecord> = Api::namespaced(world.client.clone(), &world.namespace);
    let is_unsettled = |record: &UsageRecord| {
        let owes = sealed(record).is_ok_and(|s| s.job_no.is_some());
        let open = match settlement(record).map(|s| s.state) {
            Ok(state) => matches!(
                state,
                RecordState::Sealed | RecordState::Batched | RecordState::Paid
            ),
            Err(_) => true,
        };
        owes && open
    };
    let all = records.list(&ListParams::default()).await?;
    let unsettled = all.iter().filter(|r| is_unsettled(r));
    Ok(unsettled.map(kube::ResourceExt::name_any).collect())
}

/// The uid of a job, by which its records are found also when it is gone.
pub async fn uid(job: &Job) -> Result<String> {
    job.get().await?.metadata.uid.context("the job has no uid")
}

/// Waits until `fact` finds in a job's slices what it looks for.
pub async fn until<T>(
    world: &World,
    uid: &str,
    what: &str,
    fact: impl Fn(&[UsageRecord]) -> Option<T>,
) -> Result<T> {
    look_until(what, || async {
        let records = of_job(world, uid).await?;
        Ok(Look::at(fact(&records), || {
            let statuses: Vec<_> = records.iter().map(|r| (r.name_any(), &r.status)).collect();
            format!("{statuses:?}")
        }))
    })
    .await
}

/// Waits until the agent has stated `count` checkpoints about the newest slice of a job; returns that.
pub async fn until_seen(world: &World, uid: &str, count: usize) -> Result<UsageRecord> {
    let what = format!("the agent has stated {count} checkpoints");
    until(world, uid, &what, |records| {
        let last = records.last()?;
        let evidence = last.status.as_ref()?.evidence.as_ref()?;
        (evidence.checkpoints.len() >= count).then(|| last.clone())
    })
    .await
}

/// Waits until every slice of a job that is over is sealed and its payment final; returns them.
pub async fn until_final(world: &World, uid: &str) -> Result<Vec<UsageRecord>> {
    until(world, uid, "every slice's payment is final", |records| {
        let is_final = |record: &UsageRecord| {
            let status = record.status.as_ref();
            let owes = status
                .and_then(|s| s.sealed.as_ref())
                .map(|s| s.job_no.is_some());
            let state = status.and_then(|s| s.settlement.as_ref()).map(|s| s.state);
            owes == Some(false) || state == Some(RecordState::Final)
        };
        let over = records
            .last()
            .is_some_and(|last| sealed(last).is_ok_and(|s| s.cause != SealCause::IntervalElapsed));
        (over && records.iter().all(is_final)).then(|| records.to_vec())
    })
    .await
}

/// Waits until the slice of this name says that its payment is held back, in words that name `what_holds`, and is in no batch; returns it.
pub async fn until_held_back(world: &World, name: &str, what_holds: &str) -> Result<UsageRecord> {
    let records: Api<UsageRecord> = Api::namespaced(world.client.clone(), &world.namespace);
    let what = format!("its payment is held back: {what_holds}");
    watch_until(&records, name, &what, |record| {
        let status = record?.status.as_ref()?;
        let ready = condition::find(&status.conditions, UsageRecordCondition::Ready)?;
        let is_held = ready.reason == UsageRecordReason::HeldBack.as_str()
            && ready.message.contains(what_holds)
            && status.settlement.as_ref().is_none_or(|s| s.batch.is_none());
        is_held.then(|| record.cloned())?
    })
    .await
}

/// What a slice costs by itself, in nano-tokens, rounded down.
pub fn price(record: &UsageRecord) -> Result<u64> {
    let nano = payment(record)?.per_gpu_second.nano();
    Ok(u64::try_from(
        u128::from(sealed(record)?.gpu_millis) * nano / 1000,
    )?)
}

/// What is due for slices, in nano-tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Due {
    /// For use, by provider.
    pub usage: BTreeMap<u32, u64>,
    /// From the reward account, by provider.
    pub emissions: BTreeMap<u32, u64>,
}

impl Due {
    /// What the payers pay.
    #[must_use]
    pub fn paid(&self) -> u64 {
        self.usage.values().sum()
    }

    /// What a provider is credited.
    #[must_use]
    pub fn credit(&self, provider: u32) -> u64 {
        let of = |amounts: &BTreeMap<u32, u64>| amounts.get(&provider).copied().unwrap_or(0);
        of(&self.usage) + of(&self.emissions)
    }
}

/// What is due for slices that are in batches. They must be all that their batches hold of their payers, or the rounding
/// of a group would be another one.
pub fn due(records: &[UsageRecord]) -> Result<Due> {
    let mut groups: BTreeMap<(String, u32, u32, u128), u128> = BTreeMap::new();
    let mut due = Due::default();
    for record in records {
        let sealed = sealed(record)?;
        if sealed.job_no.is_none() {
            continue;
        }
        let payment = payment(record)?;
        let batch = settlement(record)?.batch.clone();
        let batch = batch.with_context(|| format!("{} is in no batch", record.name_any()))?;
        let price = payment.per_gpu_second.nano();
        ensure!(
            sealed.price == Some(payment.per_gpu_second),
            "{} is sealed at another price than it was placed at",
            record.name_any()
        );
        *groups
            .entry((batch, payment.payer, payment.provider, price))
            .or_default() += u128::from(sealed.gpu_millis);
        if let Some(emission) = &sealed.emission {
            *due.emissions.entry(payment.provider).or_default() +=
                u64::try_from(emission.amount.nano())?;
        }
    }
    for ((_, _, provider, price), millis) in groups {
        // Rounded down once for each payer, provider and price of a batch.
        *due.usage.entry(provider).or_default() += u64::try_from(millis * price / 1000)?;
    }
    Ok(due)
}

/// Fails if two slices bear the same number.
pub fn assert_numbers_are_distinct(records: &[UsageRecord]) -> Result<()> {
    let mut seen = BTreeSet::new();
    for record in records {
        let sealed = sealed(record)?;
        let emission = sealed.emission.as_ref().map(|e| e.job_no);
        for number in sealed.job_no.into_iter().chain(emission) {
            ensure!(seen.insert(number), "number {number} was given out twice");
        }
    }
    Ok(())
}
