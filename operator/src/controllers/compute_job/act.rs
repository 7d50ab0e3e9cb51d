//! Carries out what was decided about a job. Writes only; doing it twice is the same as doing it once.

use std::time::{Duration, Instant};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use gridstake_crds::{
    ComputeJob, UsageRecord,
    names::{
        FINALIZER_JOB, FINALIZER_METERING, GATE_PLACEMENT, JOB_PRIORITY_CLASS, LABEL_GANG,
        LABEL_JOB_UID,
    },
};
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
};
use serde_json::json;

use super::{build, decide::Write, recent_starts::ON_ITS_WAY, rendezvous, verification};
use crate::{
    context::Context,
    controllers::{
        incident::invalid_result,
        usage_record::record::{self, NewMember},
    },
    error::{ReconcileError, is_conflict, is_not_found},
};

/// How many pods of one job are written at once.
const AT_ONCE: usize = 8;

/// Why a decision was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum ActError {
    /// The API server refused, or did not answer.
    #[error("{verb} {object}")]
    Kube {
        /// What was tried, such as `create Pod`.
        verb: &'static str,
        /// On which object.
        object: String,
        /// What the API server said.
        #[source]
        source: Box<kube::Error>,
    },
    /// The template is not one of a pod.
    #[error("build Pod of {0}")]
    Build(String, #[source] serde_json::Error),
    /// Another object has the name that a pod must get.
    #[error(
        "create Pod {0}: a pod of that name exists that is not this job's; delete it or rename the job"
    )]
    NameTaken(String),
    /// Another object has the name that the gang's Service must get.
    #[error(
        "create Service {0}: a Service of that name exists that is not this job's; delete it or rename the job"
    )]
    ServiceNameTaken(String),
    /// Another ComputeJob has the name that a check must get.
    #[error(
        "create ComputeJob {0}: a job of that name exists that is no check of this one; delete it or rename the job"
    )]
    CheckNameTaken(String),
}

impl ReconcileError for ActError {
    fn category(&self) -> &'static str {
        match self {
            Self::Kube { verb, .. } => verb,
            Self::Build(..) => "build_pod",
            Self::NameTaken(_) => "pod_name_taken",
            Self::ServiceNameTaken(_) => "service_name_taken",
            Self::CheckNameTaken(_) => "check_name_taken",
        }
    }
}

fn failed(verb: &'static str, object: &str) -> impl FnOnce(kube::Error) -> ActError {
    let object = object.to_owned();
    move |source| ActError::Kube {
        verb,
        object,
        source: Box::new(source),
    }
}

/// What has been done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Whether anything was written.
    pub wrote: bool,
    /// The job's resourceVersion, if it was changed.
    pub resource_version: Option<String>,
    /// The job has changed since it was read: nothing more may be concluded from what was read.
    pub outdated: bool,
    /// When to look again since something is on its way into the cache.
    pub again: Option<Duration>,
}

/// Carries out `writes` in their order.
pub async fn act(ctx: &Context, job: &ComputeJob, writes: &[Write]) -> Result<Outcome, ActError> {
    let namespace = job.namespace().unwrap_or_default();
    let jobs: Api<ComputeJob> = Api::namespaced(ctx.client.clone(), &namespace);
    let pods: Api<Pod> = Api::namespaced(ctx.client.clone(), &namespace);
    let mut outcome = Outcome {
        wrote: !writes.is_empty(),
        ..Outcome::default()
    };
    for write in writes {
        match write {
            Write::CreatePods { attempt, members } => {
                outcome.again = Some(ON_ITS_WAY);
                if !hold(&jobs, job, *attempt, &mut outcome).await? {
                    outcome.outdated = true;
                    return Ok(outcome);
                }
                if rendezvous::is_gang(job) {
                    create_service(ctx, job, &namespace).await?;
                }
                // First the record: no GPU is held that nobody accounts for.
                open_records(ctx, job, members).await?;
                let start = |new: &NewMember| start(ctx, &pods, job, new.clone());
                together(members.iter().map(start).collect()).await?;
            }
            Write::CreateRecords(members) => open_records(ctx, job, members).await?,
            Write::LiftGates(names) => {
                each(names, |name| lift_gate(&pods, name)).await?;
            }
            Write::Withdraw(names) => {
                each(names, |name| withdraw(&pods, name)).await?;
            }
            Write::DeletePods(names) => {
                if is_newest(&jobs, job).await? == Some(false) {
                    outcome.outdated = true;
                    return Ok(outcome);
                }
                each(names, |name| delete(&pods, name)).await?;
            }
            Write::ReleasePods(names) => {
                each(names, |name| release(&pods, name)).await?;
            }
            Write::CreateCheck(number) => create_check(&jobs, job, *number).await?,
            Write::DeleteChecks(names) => {
                for name in names {
                    let result = jobs.delete(name, &DeleteParams::background()).await;
                    unless_gone(result, "delete ComputeJob", name)?;
                }
            }
            Write::Accuse { runs, verification } => {
                for run in runs {
                    invalid_result::open(ctx, job, run, verification)
                        .await
                        .map_err(failed("create Incident", run))?;
                }
            }
            Write::ReleaseJob => release_job(&jobs, job).await?,
            Write::DeleteJob => delete_job(&jobs, job).await?,
        }
    }
    Ok(outcome)
}

/// Does the same to the pods of these names.
async fn each<F: Future<Output = Result<(), ActError>>>(
    names: &[String],
    write: impl Fn(String) -> F,
) -> Result<(), ActError> {
    together(names.iter().cloned().map(write).collect()).await
}

async fn together<F: Future<Output = Result<(), ActError>>>(
    writes: Vec<F>,
) -> Result<(), ActError> {
    stream::iter(writes)
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await
}

/// Creates the record of each member's first slice, unless it is there: its name says whose it is, and its spec never
/// changes.
async fn open_records(
    ctx: &Context,
    job: &ComputeJob,
    members: &[NewMember],
) -> Result<(), ActError> {
    let records: Api<UsageRecord> = Api::namespaced(ctx.client.clone(), &ctx.namespace);
    let open = |new: &NewMember| {
        let (records, record) = (records.clone(), record::first(job, &ctx.namespace, new));
        async move {
            match records.create(&PostParams::default(), &record).await {
                Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
                result => result
                    .map(drop)
                    .map_err(failed("create UsageRecord", &record.name_any())),
            }
        }
    };
    together(members.iter().map(open).collect()).await
}

/// Creates the Service by which a gang's members find one another, unless it is there.
async fn create_service(ctx: &Context, job: &ComputeJob, namespace: &str) -> Result<(), ActError> {
    let services: Api<Service> = Api::namespaced(ctx.client.clone(), namespace);
    let service = rendezvous::service(job);
    let name = service.name_any();
    match services.create(&PostParams::default(), &service).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_already_exists() => {
            let there = services
                .get_opt(&name)
                .await
                .map_err(failed("get Service", &name))?;
            let is_ours = |there: &Service| there.labels().get(LABEL_JOB_UID) == job.uid().as_ref();
            if there.as_ref().is_none_or(is_ours) {
                Ok(())
            } else {
                Err(ActError::ServiceNameTaken(name))
            }
        }
        Err(error) => Err(failed("create Service", &name)(error)),
    }
}

/// Whether the API server has no newer version of `job` than the cache; `None`: the job is gone. A pod whose attempt the cache
/// does not show yet is no leftover: pods and jobs come by watches of their own, and another replica may have started it.
async fn is_newest(jobs: &Api<ComputeJob>, job: &ComputeJob) -> Result<Option<bool>, ActError> {
    let name = job.name_any();
    let live = jobs
        .get_metadata_opt(&name)
        .await
        .map_err(failed("get ComputeJob", &name))?;
    Ok(live
        .filter(|live| live.uid() == job.uid())
        .map(|live| live.resource_version() == job.resource_version()))
}

/// Makes sure, against the API server and not the cache, that `attempt` is still the one to be started, and that the
/// job cannot vanish before its pods are recorded. A cache that lags behind must not start an attempt twice.
async fn hold(
    jobs: &Api<ComputeJob>,
    job: &ComputeJob,
    attempt: u32,
    outcome: &mut Outcome,
) -> Result<bool, ActError> {
    let wanted = job.status.as_ref().is_some_and(|status| {
        let active = status.active_placement();
        active.is_some_and(|placement| placement.attempt == attempt) && status.ending.is_none()
    });
    if !wanted || job.metadata.deletion_timestamp.is_some() {
        return Ok(false);
    }
    if job.finalizers().iter().any(|f| f == FINALIZER_JOB) {
        return Ok(is_newest(jobs, job).await? == Some(true));
    }
    let name = job.name_any();
    let finalizers: Vec<_> = job
        .finalizers()
        .iter()
        .map(String::as_str)
        .chain([FINALIZER_JOB])
        .collect();
    // The version that was read makes this the question as well whether there is a newer one.
    let body = json!({"metadata": {
        "finalizers": finalizers, "resourceVersion": job.resource_version(),
    }});
    match jobs
        .patch(&name, &PatchParams::default(), &Patch::Merge(body))
        .await
    {
        Ok(held) => {
            outcome.resource_version = held.resource_version();
            Ok(true)
        }
        Err(error) if is_conflict(&error) || is_not_found(&error) => Ok(false),
        Err(error) => Err(failed("patch ComputeJob", &name)(error)),
    }
}

/// Creates the pod of a member, and notes that it is on its way into the cache.
async fn start(
    ctx: &Context,
    pods: &Api<Pod>,
    job: &ComputeJob,
    new: NewMember,
) -> Result<(), ActError> {
    let member = build::Member {
        attempt: new.attempt,
        member: new.member,
        rank: new.rank,
        restarts: new.restarts,
    };
    create(pods, job, member, &new.node).await?;
    let uid = job.metadata.uid.as_deref().unwrap_or_default();
    ctx.recent_starts
        .note(uid, new.attempt, new.member, Instant::now());
    Ok(())
}

async fn create(
    pods: &Api<Pod>,
    job: &ComputeJob,
    member: build::Member,
    node: &str,
) -> Result<(), ActError> {
    let pod = build::pod(job, member, Some(node), JOB_PRIORITY_CLASS)
        .map_err(|source| ActError::Build(job.name_any(), source))?;
    let name = pod.name_any();
    match pods.create(&PostParams::default(), &pod).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_already_exists() => {
            let there = pods
                .get_opt(&name)
                .await
                .map_err(failed("get Pod", &name))?;
            let ours = there
                .is_none_or(|pod| pod.labels().get(LABEL_JOB_UID) == job.metadata.uid.as_ref());
            if ours {
                Ok(())
            } else {
                Err(ActError::NameTaken(name))
            }
        }
        Err(error) => Err(failed("create Pod", &name)(error)),
    }
}

/// Success if the pod is gone: it has nothing left to be changed.
fn unless_gone<T>(
    result: Result<T, kube::Error>,
    verb: &'static str,
    name: &str,
) -> Result<(), ActError> {
    match result {
        Ok(_) => Ok(()),
        Err(error) if is_not_found(&error) => Ok(()),
        Err(error) => Err(failed(verb, name)(error)),
    }
}

async fn lift_gate(pods: &Api<Pod>, name: String) -> Result<(), ActError> {
    let body = json!({"spec": {"schedulingGates": [{"name": GATE_PLACEMENT, "$patch": "delete"}]}});
    unless_gone(
        pods.patch(&name, &PatchParams::default(), &Patch::Strategic(body))
            .await,
        "ungate Pod",
        &name,
    )
}

/// Takes the pod out of those that a gang's members find by name.
async fn withdraw(pods: &Api<Pod>, name: String) -> Result<(), ActError> {
    let body = json!({"metadata": {"labels": {LABEL_GANG: null}}});
    unless_gone(
        pods.patch(&name, &PatchParams::default(), &Patch::Merge(body))
            .await,
        "withdraw Pod",
        &name,
    )
}

async fn delete(pods: &Api<Pod>, name: String) -> Result<(), ActError> {
    unless_gone(
        pods.delete(&name, &DeleteParams::default()).await,
        "delete Pod",
        &name,
    )
}

async fn release(pods: &Api<Pod>, name: String) -> Result<(), ActError> {
    let body = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": [FINALIZER_METERING]}});
    unless_gone(
        pods.patch(&name, &PatchParams::default(), &Patch::Strategic(body))
            .await,
        "release Pod",
        &name,
    )
}

/// Creates a check, unless it is there.
async fn create_check(
    jobs: &Api<ComputeJob>,
    job: &ComputeJob,
    number: u32,
) -> Result<(), ActError> {
    let check = verification::check(job, number);
    let name = check.name_any();
    match jobs.create(&PostParams::default(), &check).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_already_exists() => {
            let there = jobs
                .get_opt(&name)
                .await
                .map_err(failed("get ComputeJob", &name))?;
            if there.is_none_or(|there| verification::is_check_of(&there, job)) {
                Ok(())
            } else {
                Err(ActError::CheckNameTaken(name))
            }
        }
        Err(error) => Err(failed("create ComputeJob", &name)(error)),
    }
}

async fn release_job(jobs: &Api<ComputeJob>, job: &ComputeJob) -> Result<(), ActError> {
    let name = job.name_any();
    let finalizers: Vec<_> = job
        .finalizers()
        .iter()
        .filter(|f| *f != FINALIZER_JOB)
        .collect();
    let body =
        json!({"metadata": {"finalizers": finalizers, "resourceVersion": job.resource_version()}});
    match jobs
        .patch(&name, &PatchParams::default(), &Patch::Merge(body))
        .await
    {
        // Its newer version comes through the watch, and is looked at then.
        Err(error) if is_conflict(&error) => Ok(()),
        result => unless_gone(result, "release ComputeJob", &name),
    }
}

async fn delete_job(jobs: &Api<ComputeJob>, job: &ComputeJob) -> Result<(), ActError> {
    let name = job.name_any();
    let preconditions = Preconditions {
        uid: job.uid(),
        resource_version: None,
    };
    let params = DeleteParams::background().preconditions(preconditions);
    match jobs.delete(&name, &params).await {
        // A namesake has taken its place.
        Err(error) if is_conflict(&error) => Ok(()),
        result => unless_gone(result, "delete ComputeJob", &name),
    }
}
