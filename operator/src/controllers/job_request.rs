//! What a job asks the scheduler for: the bridge from a ComputeJob to [`crate::scheduler::Request`]. Pure.

use std::collections::BTreeSet;

use gridstake_crds::ComputeJob;
use kube::ResourceExt as _;

use super::compute_job::build::{self, Member};
use crate::scheduler::{
    JobContext, Request,
    request::{JobUidError, OfNamespace, RequestError},
};

/// Why a job cannot be put to the scheduler.
#[derive(Debug, thiserror::Error)]
pub enum JobRequestError {
    /// The API server gave it no UUID.
    #[error("read metadata.uid")]
    Uid(#[source] JobUidError),
    /// The template is not one of a pod.
    #[error("read spec.template")]
    Template(#[source] serde_json::Error),
    /// An amount in it cannot be read.
    #[error("read what the job asks for")]
    Request(#[source] RequestError),
}

/// Nodes that a job is kept off.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shunned {
    /// On which it has failed lately.
    pub suspects: BTreeSet<String>,
    /// Whose owners compute the result with which its own is to be compared.
    pub same_owner: BTreeSet<String>,
}

/// The request of `attempt`: from the very pod that its members get, so that tolerations and GPU limits which
/// Gridstake adds count too.
pub fn job_request(
    job: &ComputeJob,
    attempt: u32,
    namespace: OfNamespace,
    shunned: Shunned,
    priority_class: &str,
) -> Result<Request, JobRequestError> {
    let pod = build::pod(job, Member::first(attempt, 0), None, priority_class)
        .map_err(JobRequestError::Template)?;
    let job_uid = job
        .uid()
        .unwrap_or_default()
        .parse()
        .map_err(JobRequestError::Uid)?;
    // Without a chain there are no bonds to ask for by default.
    let context = JobContext {
        job_uid,
        attempt,
        namespace,
        bond_by_default: false,
        avoid: shunned.suspects,
        same_owner: shunned.same_owner,
    };
    Request::from_job(&job.spec, &pod.spec.unwrap_or_default(), context)
        .map_err(JobRequestError::Request)
}
