//! What may leave the cluster, because the archive holds it and nothing here needs it any more. Pure.

use std::collections::{BTreeMap, BTreeSet};

use alloy::primitives::B256;
use gridstake_crds::{
    SettlementBatch, UsageRecord, condition,
    settlement_batch::{BatchState, SettlementBatchCondition},
    usage_record::{RecordState, UsageRecordStatus},
};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use std::time::Duration;

/// A final batch, as far as it matters whether it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FinalBatch {
    /// Its name.
    pub name: String,
    /// Its number.
    pub sequence: u64,
    /// When it was found to be final.
    pub since: Option<Timestamp>,
    /// The time of its block, in Unix seconds.
    pub settled_at: Option<u64>,
    /// The address of its file.
    pub file: Option<B256>,
}

impl FinalBatch {
    /// Reads a batch; `None` if it is not final.
    #[must_use]
    pub fn read(batch: &SettlementBatch) -> Option<Self> {
        let status = batch.status.as_ref()?;
        (status.state == Some(BatchState::Final)).then(|| Self {
            name: batch.name_any(),
            sequence: batch.spec.sequence,
            since: condition::find(&status.conditions, SettlementBatchCondition::Final)
                .filter(|condition| condition.status == "True")
                .map(|condition| condition.last_transition_time.0),
            settled_at: status
                .inclusion
                .as_ref()
                .and_then(|inclusion| inclusion.timestamp),
            file: status
                .archive_hash
                .as_ref()
                .and_then(|hash| hash.parse().ok()),
        })
    }
}

/// The batches that may be removed: archived, final for longer than `retention`, and of a week whose earnings are reported.
/// The lane's newest one is what the next one follows from.
#[must_use]
pub fn batches(
    all: &[FinalBatch],
    now: Timestamp,
    retention: Duration,
    is_reported: impl Fn(u64) -> bool,
) -> Vec<&FinalBatch> {
    let newest = all.iter().map(|batch| batch.sequence).max();
    all.iter()
        .filter(|batch| Some(batch.sequence) != newest && batch.file.is_some())
        .filter(|batch| batch.settled_at.is_some_and(&is_reported))
        .filter(|batch| {
            batch.since.is_some_and(|since| {
                Duration::try_from(now.duration_since(since)).is_ok_and(|age| age > retention)
            })
        })
        .collect()
}

/// A record, as far as it matters whether it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OldRecord {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// The namespace, name and uid of its job.
    pub job: (String, String, String),
    /// The chain on which it is paid.
    pub chain: String,
    /// Its place in the job: attempt, member, slice.
    pub place: (u32, u32, u32),
    /// The address of the file that holds it; `None` if nothing is owed for it.
    pub file: Option<B256>,
}

/// The records that may be removed once their job is gone, job by job and in the order in which they must be removed: a
/// slice whose successor is missing would be given one again.
///
/// A job's records go together: all are sealed for longer than `retention`, and each is final and archived, or owes
/// nothing.
#[must_use]
pub fn records<'a>(
    all: impl IntoIterator<Item = &'a UsageRecord>,
    now_ms: u64,
    retention: Duration,
) -> Vec<Vec<OldRecord>> {
    let mut jobs: BTreeMap<&str, Vec<OldRecord>> = BTreeMap::new();
    let mut kept: BTreeSet<&str> = BTreeSet::new();
    let retention = u64::try_from(retention.as_millis()).unwrap_or(u64::MAX);
    for record in all {
        let uid = record.spec.job.uid.as_str();
        match old(record, now_ms, retention) {
            Some(old) => jobs.entry(uid).or_default().push(old),
            None => {
                kept.insert(uid);
            }
        }
    }
    jobs.into_iter()
        .filter(|(uid, records)| {
            // Nothing but unbilled records says too little: they are few, and no file holds them.
            !kept.contains(uid) && records.iter().any(|record| record.file.is_some())
        })
        .map(|(_, mut records)| {
            records.sort_by_key(|record| record.place);
            records
        })
        .collect()
}

fn old(record: &UsageRecord, now_ms: u64, retention_ms: u64) -> Option<OldRecord> {
    let spec = &record.spec;
    // Without a chain there is no archive either.
    let chain = spec.payment.as_ref()?.chain.clone();
    let status = record.status.as_ref()?;
    let sealed = status.sealed.as_ref()?;
    let file = match sealed.job_no {
        None => None,
        Some(_) => Some(file(status)?),
    };
    let end = match sealed.end_ms {
        // It never started.
        0 => u64::try_from(record.creation_timestamp()?.0.as_millisecond()).ok()?,
        end => end,
    };
    if now_ms.saturating_sub(end) <= retention_ms {
        return None;
    }
    let job = &spec.job;
    Some(OldRecord {
        name: record.name_any(),
        uid: record.uid()?,
        job: (job.namespace.clone(), job.name.clone(), job.uid.clone()),
        chain,
        place: (spec.attempt, spec.member, spec.slice),
        file,
    })
}

/// The file of a record whose payment is final.
fn file(status: &UsageRecordStatus) -> Option<B256> {
    let settlement = status.settlement.as_ref()?;
    if settlement.state != RecordState::Final {
        return None;
    }
    settlement.archive_hash.as_ref()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400_000;
    const MONTH: Duration = Duration::from_hours(30 * 24);

    fn time(days: u64) -> Timestamp {
        Timestamp::from_millisecond(i64::try_from(days * DAY).unwrap()).unwrap()
    }

    fn batch(sequence: u64, final_on_day: u64, archived: bool) -> FinalBatch {
        FinalBatch {
            name: format!("lane-7-{sequence}"),
            sequence,
            since: Some(time(final_on_day)),
            settled_at: Some(sequence),
            file: archived.then_some(B256::ZERO),
        }
    }

    #[test]
    fn batches_go_when_they_are_archived_and_old_but_for_the_newest() {
        let all = [
            batch(1, 10, true),
            batch(2, 10, false),
            batch(3, 30, true),
            batch(4, 10, true),
        ];
        let gone = |day: u64| -> Vec<u64> {
            batches(&all, time(day), MONTH, |_| true)
                .iter()
                .map(|batch| batch.sequence)
                .collect()
        };
        assert_eq!(gone(40), [0_u64; 0], "exactly as old as the retention");
        assert_eq!(gone(41), [1]);
        assert_eq!(gone(100), [1, 3]);
    }

    #[test]
    fn a_batch_stays_until_the_earnings_of_its_week_are_reported() {
        let all = [batch(1, 10, true), batch(2, 10, true), batch(3, 10, true)];
        let gone = batches(&all, time(100), MONTH, |at| at < 2);
        assert_eq!(gone, [&all[0]]);
        let unknown = FinalBatch {
            settled_at: None,
            ..batch(1, 10, true)
        };
        assert!(batches(&[unknown, batch(2, 10, true)], time(100), MONTH, |_| true).is_empty());
    }

    /// A record of job `uid`, slice `slice`, that ended on this day.
    fn record(uid: &str, slice: u32, end_day: u64, extra: &str) -> UsageRecord {
        let end = end_day * DAY;
        let from = if slice > 0 { "fromMs: 5" } else { "" };
        serde_saphyr::from_str(&format!(
            "apiVersion: gridstake.dev/v1alpha1
kind: UsageRecord
metadata: {{name: '{uid}-1-0-{slice}', uid: 'r{slice}'}}
spec:
  job: {{namespace: a, name: j, uid: {uid}}}
  attempt: 1
  member: 0
  slice: {slice}
  podName: j-1-0
  nodeName: n1
  gpuCount: 1
  {from}
  payment: {{chain: anvil, lane: 7, payer: 3, provider: 9, perGpuSecond: '0.00072'}}
status:
  sealed: {{startMs: 0, endMs: {end}, gpuMillis: 0, cause: MemberEnded, receiptHash: '0x{hash}'{extra}}}
",
            hash = "ab".repeat(32)
        ))
        .unwrap()
    }

    fn paid(uid: &str, slice: u32, end_day: u64, state: &str, archived: bool) -> UsageRecord {
        let mut record = record(uid, slice, end_day, ", jobNo: 256");
        let hash = if archived {
            format!("'0x{}'", "cd".repeat(32))
        } else {
            "null".to_owned()
        };
        record.status.as_mut().unwrap().settlement = Some(
            serde_saphyr::from_str(&format!("{{state: {state}, archiveHash: {hash}}}")).unwrap(),
        );
        record
    }

    fn gone(all: &[UsageRecord], day: u64) -> Vec<Vec<String>> {
        records(all, day * DAY, MONTH)
            .into_iter()
            .map(|job| job.into_iter().map(|record| record.name).collect())
            .collect()
    }

    #[test]
    fn a_jobs_records_go_together_and_from_the_first_slice_on() {
        let all = [
            paid("u", 1, 11, "Final", true),
            paid("u", 0, 10, "Final", true),
            record("u", 2, 11, ""),
        ];
        assert_eq!(gone(&all, 41), Vec::<Vec<String>>::new());
        assert_eq!(gone(&all, 42), [["u-1-0-0", "u-1-0-1", "u-1-0-2"]]);
    }

    #[test]
    fn one_that_is_not_final_not_archived_or_not_sealed_keeps_all_of_its_job() {
        let other = paid("v", 0, 10, "Final", true);
        let mut open = record("u", 1, 10, "");
        open.status.as_mut().unwrap().sealed = None;
        for keeps in [
            paid("u", 1, 10, "Skipped", true),
            paid("u", 1, 10, "Final", false),
            paid("u", 1, 50, "Final", true),
            open,
        ] {
            let all = [paid("u", 0, 10, "Final", true), keeps, other.clone()];
            assert_eq!(gone(&all, 60), [["v-1-0-0"]]);
        }
    }

    #[test]
    fn what_no_chain_pays_is_left_alone() {
        let mut unpaid = record("u", 0, 10, "");
        unpaid.spec.payment = None;
        assert_eq!(gone(&[unpaid], 100), Vec::<Vec<String>>::new());
        assert_eq!(
            gone(&[record("u", 0, 10, "")], 100),
            Vec::<Vec<String>>::new()
        );
    }
}
