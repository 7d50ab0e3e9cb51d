//! What a UsageRecord looks like when it is opened. Pure.

use gridstake_crds::{
    ComputeJob, UsageRecord, UsageRecordSpec,
    names::{
        LABEL_ATTEMPT, LABEL_JOB, LABEL_JOB_UID, LABEL_MANAGED_BY, LABEL_MEMBER, MANAGED_BY,
        pod_name, usage_record,
    },
    usage_record::{JobReference, Payment, SealCause},
};
use kube::ResourceExt as _;

/// A member whose use is to be recorded.
#[derive(Clone, Debug, PartialEq)]
pub struct NewMember {
    /// The attempt, counted from 1.
    pub attempt: u32,
    /// The member, counted from 0.
    pub member: u32,
    /// Its rank.
    pub rank: u32,
    /// How many members of the attempt have had the rank before it.
    pub restarts: u32,
    /// Its node.
    pub node: String,
    /// Who pays whom; `None`: nothing is owed.
    pub payment: Option<Payment>,
}

/// The record of the member's first slice, in the operator's `namespace`.
#[must_use]
pub fn first(job: &ComputeJob, namespace: &str, new: &NewMember) -> UsageRecord {
    let spec = UsageRecordSpec {
        job: JobReference {
            namespace: job.namespace().unwrap_or_default(),
            name: job.name_any(),
            uid: job.uid().unwrap_or_default(),
        },
        attempt: new.attempt,
        member: new.member,
        slice: 0,
        pod_name: pod_name(&job.name_any(), new.attempt, new.member),
        node_name: new.node.clone(),
        gpu_count: job.spec.gpu.count,
        from_ms: None,
        payment: new.payment.clone(),
    };
    with_spec(namespace, spec)
}

/// The record of the slice after `record`, if one follows: it begins where this one was sealed, so that a crash between
/// the two writes loses nothing and repeats nothing. Whoever deletes records must begin with a member's first slice, or
/// this would bring the later ones back.
#[must_use]
pub fn successor(record: &UsageRecord) -> Option<UsageRecord> {
    let sealed = record.status.as_ref()?.sealed.as_ref()?;
    if sealed.cause != SealCause::IntervalElapsed {
        return None;
    }
    let spec = UsageRecordSpec {
        slice: record.spec.slice.checked_add(1)?,
        from_ms: Some(sealed.end_ms),
        ..record.spec.clone()
    };
    Some(with_spec(&record.namespace().unwrap_or_default(), spec))
}

fn with_spec(namespace: &str, spec: UsageRecordSpec) -> UsageRecord {
    let name = usage_record(&spec.job.uid, spec.attempt, spec.member, spec.slice);
    let labels = [
        (LABEL_JOB, spec.job.name.clone()),
        (LABEL_JOB_UID, spec.job.uid.clone()),
        (LABEL_ATTEMPT, spec.attempt.to_string()),
        (LABEL_MEMBER, spec.member.to_string()),
        (LABEL_MANAGED_BY, MANAGED_BY.to_owned()),
    ];
    let mut record = UsageRecord::new(&name, spec);
    record.metadata.namespace = Some(namespace.to_owned());
    record.metadata.labels = Some(
        labels
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value))
            .collect(),
    );
    record
}
