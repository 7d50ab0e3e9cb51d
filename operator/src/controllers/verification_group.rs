//! The jobs whose results are compared with one another: a job and its checks, as the caches hold them.

use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::Address;
use gridstake_crds::{
    ComputeJob, UsageRecord,
    compute_job::MOST_RUNS,
    names::{LABEL_CHECKS, check_of, invalid_result},
    usage_record::SealCause,
};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::{ResourceExt as _, runtime::reflector::ObjectRef};

use super::{
    compute_job::verification::{is_check_of, is_undecided, mode, owner},
    usage_record::bill::unix_millis,
};
use crate::{caches::Caches, settlement::records};

/// For so long after its end a slice waits for the results with which its own is compared: a provider's pay must not hang on a run that
/// never ends. A payer's withdrawal takes seven times as long.
const RESULTS_MAY_TAKE: SignedDuration = SignedDuration::from_hours(24);

/// The checks of `job` that exist, in the order of their numbers.
#[must_use]
pub fn checks_of(caches: &Caches, job: &ComputeJob) -> Vec<ComputeJob> {
    let namespace = job.namespace().unwrap_or_default();
    (1..MOST_RUNS)
        .filter_map(|number| find(caches, &namespace, &check_of(&job.name_any(), number)))
        .filter(|check| is_check_of(check, job))
        .collect()
}

/// The job that `check` checks, if it is a check.
#[must_use]
pub fn checked_by(caches: &Caches, check: &ComputeJob) -> Option<ComputeJob> {
    let name = check.labels().get(LABEL_CHECKS)?;
    find(caches, &check.namespace().unwrap_or_default(), name).filter(|job| is_check_of(check, job))
}

/// The job whose result is compared with what the slice `record` was used for, while nobody knows yet which is right: until then the
/// slice is paid for in no batch, since what is paid cannot be held back any more.
#[must_use]
pub fn undecided_result(caches: &Caches, record: &UsageRecord, now: Timestamp) -> Option<String> {
    let sealed = records::seal_in_no_batch(record)?;
    let most = u64::try_from(RESULTS_MAY_TAKE.as_millis()).unwrap_or(0);
    if unix_millis(now).saturating_sub(sealed.end_ms) > most {
        return None;
    }
    let of = &record.spec.job;
    let found = caches.compute_job(&of.namespace, &of.name)?;
    let run = found.0.as_ref().ok()?;
    if run.metadata.uid.as_deref() != Some(of.uid.as_str()) {
        return None;
    }
    let first = match run.labels().get(LABEL_CHECKS) {
        Some(first) => &caches.compute_job(&of.namespace, first)?,
        None => &found,
    };
    let first = first.0.as_ref().ok()?;
    if run.metadata.uid != first.metadata.uid && !is_check_of(run, first) {
        return None;
    }
    let incident = ObjectRef::new(&invalid_result(&of.uid));
    let is_accused = caches.incidents.get(&incident).is_some();
    let has_ended = sealed.cause != SealCause::IntervalElapsed;
    is_undecided(first, &of.name, has_ended, is_accused).then(|| first.name_any())
}

/// Those on whose nodes `job` must not be placed, since they compute or have computed the result with which its own is to be
/// compared: owners and nodes by name.
#[must_use]
pub fn taken(caches: &Caches, job: &ComputeJob) -> BTreeSet<String> {
    let group = if mode(&job.spec).is_some() {
        checks_of(caches, job)
    } else if let Some(first) = checked_by(caches, job) {
        let mut group = checks_of(caches, &first);
        group.push(first);
        group
    } else {
        return BTreeSet::new();
    };
    group
        .iter()
        .filter(|other| other.metadata.uid != job.metadata.uid)
        .filter_map(|other| other.status.as_ref()?.placement.as_ref())
        .flat_map(|placement| &placement.nodes)
        .flat_map(|node| [owner(node), node.node.clone()])
        .collect()
}

/// Those that are `taken`, and every other provider behind which the same stakers stand, who could compute alike with itself.
/// `stakers` says who stands behind each provider, as far as that is known.
#[must_use]
pub fn with_other_providers(
    mut taken: BTreeSet<String>,
    stakers: &BTreeMap<String, Address>,
) -> BTreeSet<String> {
    let behind: BTreeSet<Address> = taken
        .iter()
        .filter_map(|owner| stakers.get(owner).copied())
        .collect();
    let others = stakers
        .iter()
        .filter(|(_, staker)| behind.contains(*staker));
    taken.extend(others.map(|(owner, _)| owner.clone()));
    taken
}

fn find(caches: &Caches, namespace: &str, name: &str) -> Option<ComputeJob> {
    let found = caches.compute_job(namespace, name)?;
    found.0.as_ref().ok().cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn providers_of_one_staker_are_kept_apart_as_one_owner() {
        let staker = Address::repeat_byte;
        let stakers = BTreeMap::from([
            ("base/1".to_owned(), staker(1)),
            ("base/2".to_owned(), staker(2)),
            ("base/3".to_owned(), staker(1)),
            ("other/1".to_owned(), staker(1)),
        ]);
        let taken = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let mut all: BTreeSet<String> = taken(&["base/1", "node-1"]);
        all = with_other_providers(all, &stakers);
        assert_eq!(all, taken(&["base/1", "base/3", "node-1", "other/1"]));
        let unknown: BTreeSet<String> = taken(&["base/9", "node-1"]);
        assert_eq!(with_other_providers(unknown.clone(), &stakers), unknown);
    }
}
