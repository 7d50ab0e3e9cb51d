//! The jobs whose results are compared with one another: a job and its checks, as the caches hold them.

use std::collections::BTreeSet;

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

fn find(caches: &Caches, namespace: &str, name: &str) -> Option<ComputeJob> {
    let found = caches.compute_job(namespace, name)?;
    found.0.as_ref().ok().cloned()
}
