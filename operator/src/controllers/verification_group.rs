//! The jobs whose results are compared with one another: a job and its checks, as the caches hold them.

use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::Address;
use gridstake_crds::{
    ComputeJob,
    compute_job::MOST_RUNS,
    names::{LABEL_CHECKS, check_of},
};
use kube::ResourceExt as _;

use super::compute_job::verification::{is_check_of, mode, owner};
use crate::caches::Caches;

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
