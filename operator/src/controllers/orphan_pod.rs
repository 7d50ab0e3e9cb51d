//! Pods whose ComputeJob is gone while they still carry our finalizer. The controller of ComputeJobs looks only at jobs that are there, so
//! they are ended and let go here, as the Job controller of Kubernetes does with its orphans.
//!
//! It happens where somebody has torn the job's own finalizer off, and without anybody's fault: the API server looks for finalizers
//! before it deletes an object and not while it does (`Store.Delete` of k8s.io/apiserver), so a job that is deleted in the moment in which
//! its finalizer is written goes at once, and its pods have just been created.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use gridstake_crds::{
    ComputeJob,
    names::{FINALIZER_METERING, LABEL_JOB, LABEL_JOB_UID},
};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
    runtime::reflector::ObjectRef,
};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::compute_job::{
    member::Member,
    observe::{books, node_of},
    usage::Books,
};
use crate::{context::Context, error::is_not_found};

/// How often they are looked for. Nobody waits for them but what they hold.
const EVERY: Duration = Duration::from_secs(10);

/// What becomes of an orphan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It is to end.
    End,
    /// It ends, or has ended and is not billed yet.
    Wait,
    /// It has ended and what it used is billed, or nobody accounts for it.
    LetGo,
}

/// What becomes of the pod of `member`, by the records of its job. Pure.
fn fate(member: &Member, books: &Books) -> Fate {
    let key = (member.attempt, member.member);
    if member.is_to_be_deleted() {
        Fate::End
    } else if !member.is_at_rest() || (books.has(key.0, key.1) && !books.is_closed(key.0, key.1)) {
        Fate::Wait
    } else {
        Fate::LetGo
    }
}

/// Looks for orphans until `stop`.
pub async fn run(ctx: Context, stop: CancellationToken) {
    let mut before = BTreeSet::new();
    loop {
        let found = found(&ctx);
        // The caches of pods and jobs do not change together: a pod may be seen before its job is, and a job go before its pods do.
        for (_, pod) in found.iter().filter(|(uid, _)| before.contains(*uid)) {
            if let Err(error) = settle(&ctx, pod).await {
                tracing::warn!(error = %error, "a pod whose ComputeJob is gone stays for now");
            }
        }
        before = found.into_keys().collect();
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

/// The held pods whose job the cache does not show, by their uids.
fn found(ctx: &Context) -> BTreeMap<String, Arc<Pod>> {
    let is_orphan = |pod: &Pod| {
        let is_held = pod.finalizers().iter().any(|f| f == FINALIZER_METERING);
        is_held && job_of(pod).is_some_and(|(name, uid)| !has_job(ctx, pod, name, uid))
    };
    let orphans = ctx.caches.job_pods.state_filter(is_orphan);
    orphans
        .into_iter()
        .map(|pod| (pod.uid().unwrap_or_default(), pod))
        .collect()
}

/// The name and the uid of the pod's job.
fn job_of(pod: &Pod) -> Option<(&str, &str)> {
    let label = |name: &str| pod.labels().get(name).map(String::as_str);
    label(LABEL_JOB).zip(label(LABEL_JOB_UID))
}

/// Whether the cache shows the job; also one that cannot be parsed is there.
fn has_job(ctx: &Context, pod: &Pod, name: &str, uid: &str) -> bool {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let job = ctx
        .caches
        .compute_jobs
        .get(&ObjectRef::new(name).within(namespace));
    job.is_some_and(|job| job.uid().as_deref() == Some(uid))
}

/// Ends the pod, or lets it go, once the API server says as well that its job is gone.
async fn settle(ctx: &Context, pod: &Pod) -> Result<(), kube::Error> {
    let Some((job, uid)) = job_of(pod) else {
        return Ok(());
    };
    let Some(member) = Member::read(pod, node_of(ctx, pod, (ctx.now)())) else {
        return Ok(());
    };
    let fate = fate(&member, &books(ctx, uid));
    if fate == Fate::Wait {
        return Ok(());
    }
    let namespace = pod.namespace().unwrap_or_default();
    let jobs: Api<ComputeJob> = Api::namespaced(ctx.client.clone(), &namespace);
    let live = jobs.get_metadata_opt(job).await?;
    if live.is_some_and(|live| live.uid().as_deref() == Some(uid)) {
        return Ok(());
    }
    tracing::warn!(
        namespace,
        pod = pod.name_any(),
        job,
        ?fate,
        "the ComputeJob of a pod is gone"
    );
    let pods: Api<Pod> = Api::namespaced(ctx.client.clone(), &namespace);
    let name = pod.name_any();
    let written = if fate == Fate::End {
        let this_one = Preconditions {
            uid: pod.uid(),
            resource_version: None,
        };
        let params = DeleteParams::default().preconditions(this_one);
        pods.delete(&name, &params).await.map(drop)
    } else {
        // The uid makes this fail for a namesake.
        let body = json!({"metadata": {
            "uid": pod.uid(), "$deleteFromPrimitiveList/finalizers": [FINALIZER_METERING],
        }});
        let patch = Patch::Strategic(body);
        pods.patch(&name, &PatchParams::default(), &patch)
            .await
            .map(drop)
    };
    match written {
        Err(error) if is_not_found(&error) => Ok(()),
        written => written,
    }
}

#[cfg(test)]
mod tests {
    use gridstake_crds::compute_job::AttemptEndReason;

    use super::*;
    use crate::controllers::compute_job::{
        member::{End, State},
        usage::{Bill, Progress, Slice},
    };

    fn pod(state: State, terminating: bool) -> Member {
        Member {
            state,
            terminating,
            held: true,
            ..Member::missing(1, 0, "j-1-0".into())
        }
    }

    fn books(billed: bool) -> Books {
        Books::new(vec![Slice {
            attempt: 1,
            member: 0,
            slice: 0,
            lane: None,
            payer: None,
            bill: billed.then(Bill::default),
            payment: Progress::NothingOwed,
        }])
    }

    #[test]
    fn an_orphan_is_ended_then_billed_then_let_go() {
        let ended = || State::Ended(End::of(AttemptEndReason::PodDeleted));
        for (state, terminating, books, expected) in [
            (State::Gated, false, books(false), Fate::End),
            (State::Running, false, books(true), Fate::End),
            (State::Running, true, books(true), Fate::Wait),
            (ended(), true, books(false), Fate::Wait),
            (ended(), true, books(true), Fate::LetGo),
            (ended(), false, Books::default(), Fate::LetGo),
        ] {
            let found = fate(&pod(state.clone(), terminating), &books);
            assert_eq!(found, expected, "{state:?} {terminating}");
        }
    }
}
