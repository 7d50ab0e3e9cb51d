//! Carries out what was decided about canaries. Writes only; doing it twice is the same as doing it once.

use gridstake_crds::{ComputeJob, GpuNode, PodTemplate, UsageRecord};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
    runtime::events::EventType,
};
use serde_json::json;

use super::{
    build::{self, NewCanary, PREFIX},
    decide::{News, NodeSays},
    status,
};
use crate::{
    caches::parsed,
    context::Context,
    controllers::{incident::open::MEMORY, usage_record::bill::unix_millis},
    error::{is_conflict, is_not_found},
    status::{Guard, StatusError},
};

/// For how long the record of a canary stays: as long as an incident that it has led to counts.
const RECORDS_KEPT: SignedDuration = MEMORY;

/// Why something was not written.
#[derive(Debug, thiserror::Error)]
pub enum ActError {
    /// The job cannot be built from the template.
    #[error("build the canary of node {0}")]
    Build(String, #[source] serde_json::Error),
    /// The API server refused, or did not answer.
    #[error("{verb} {object}")]
    Kube {
        /// What was tried.
        verb: &'static str,
        /// On which object.
        object: String,
        /// What the API server said.
        #[source]
        source: Box<kube::Error>,
    },
    /// A node's status was not written.
    #[error(transparent)]
    Status(#[from] StatusError),
    /// The API server did not answer.
    #[error("no answer in time")]
    TimedOut,
}

impl ActError {
    /// As a metric's label.
    #[must_use]
    pub const fn category(&self) -> &'static str {
        match self {
            Self::Build(..) => "build_canary",
            Self::Kube { verb, .. } => verb,
            Self::Status(_) => "apply_status",
            Self::TimedOut => "timeout",
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

fn jobs(ctx: &Context) -> Api<ComputeJob> {
    Api::namespaced(ctx.client.clone(), &ctx.namespace)
}

/// Makes a canary, unless it is there.
pub async fn start(
    ctx: &Context,
    template: &PodTemplate,
    new: &NewCanary,
    now: Timestamp,
) -> Result<(), ActError> {
    let job = build::job(&ctx.canaries, template, &ctx.namespace, new, now)
        .map_err(|source| ActError::Build(new.node.clone(), source))?;
    match jobs(ctx).create(&PostParams::default(), &job).await {
        Ok(_) => {
            tracing::info!(job = %job.name_any(), node = new.node, gpus = new.gpus, "a canary is on its way");
            Ok(())
        }
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
        Err(error) => Err(failed("create ComputeJob", &job.name_any())(error)),
    }
}

/// Has the canary `name` give its GPUs back. It is not deleted: while it is there, its node gets no other one.
pub async fn give_way(ctx: &Context, name: &str) -> Result<(), ActError> {
    let body = Patch::Merge(json!({"spec": {"suspend": true}}));
    match jobs(ctx).patch(name, &PatchParams::default(), &body).await {
        Ok(_) => {
            tracing::info!(job = name, "the canary gives way");
            Ok(())
        }
        Err(error) if is_not_found(&error) => Ok(()),
        Err(error) => Err(failed("patch ComputeJob", name)(error)),
    }
}

/// Deletes the canary `name` of this `uid`.
pub async fn delete(ctx: &Context, name: &str, uid: &str) -> Result<(), ActError> {
    let only = DeleteParams::default().preconditions(Preconditions {
        uid: Some(uid.to_owned()),
        resource_version: None,
    });
    unless_gone(
        jobs(ctx).delete(name, &only).await.map(drop),
        "delete ComputeJob",
        name,
    )
}

/// Success if the object is gone, or is another one by now.
fn unless_gone(
    result: Result<(), kube::Error>,
    verb: &'static str,
    name: &str,
) -> Result<(), ActError> {
    match result {
        Err(error) if !is_not_found(&error) && !is_conflict(&error) => {
            Err(failed(verb, name)(error))
        }
        _ => Ok(()),
    }
}

/// Writes what is to be said about a node, if it does not stand there already.
pub async fn say(ctx: &Context, says: &NodeSays, now: Timestamp) -> Result<(), ActError> {
    let Some(found) = ctx.caches.gpu_node(&says.node) else {
        return Ok(());
    };
    let Ok(gpu_node) = &found.0 else {
        return Ok(());
    };
    // Asked of every node with every change of the fleet: to compare whole statuses would cost more than all the rest.
    if status::stands(gpu_node, says) {
        return Ok(());
    }
    let desired = status::desired(gpu_node, says, now);
    let written = status::OWNER
        .apply(
            &ctx.client,
            &ctx.metrics,
            gpu_node,
            gpu_node.status.as_ref(),
            &desired,
            Guard::None,
        )
        .await;
    match written {
        Ok(_) => Ok(()),
        // Gone, or replaced by a namesake, which is looked at by itself.
        Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Tells on the GpuNode what came of a canary. An event must not hold the loop up.
pub fn tell(ctx: &Context, node: &str, news: News) {
    let Some(found) = ctx.caches.gpu_node(node) else {
        return;
    };
    let events = ctx.events.clone();
    tokio::spawn(async move {
        let Ok(gpu_node) = &found.0 else { return };
        publish(&events, gpu_node, news).await;
    });
}

async fn publish(events: &crate::events::Events, gpu_node: &GpuNode, news: News) {
    let (type_, reason, note) = match news {
        News::Measured(note) => (EventType::Normal, "Measured", note),
        News::NodeFailed(note) => (EventType::Warning, "NodeFailedCanary", note),
        News::CanaryFailed(note) => (EventType::Warning, "CanaryFailed", note),
    };
    events
        .publish(gpu_node, type_, reason, "Measure", &note)
        .await;
}

/// Removes the records of canaries that were sealed long ago: nobody is paid for them, so no archive ever takes them. In the order
/// of their slices, or the later ones would be made anew.
pub async fn remove_old_records(ctx: &Context, now: Timestamp) -> Result<(), ActError> {
    let stored = ctx.caches.usage_records.state();
    let mut old: Vec<&UsageRecord> = parsed(&stored)
        .filter(|record| is_old(ctx, record, now))
        .collect();
    old.sort_by_key(|record| {
        let spec = &record.spec;
        (spec.job.uid.as_str(), spec.attempt, spec.member, spec.slice)
    });
    let records: Api<UsageRecord> = Api::namespaced(ctx.client.clone(), &ctx.namespace);
    for record in old {
        let name = record.name_any();
        let deleted = records.delete(&name, &DeleteParams::default()).await;
        unless_gone(deleted.map(drop), "delete UsageRecord", &name)?;
    }
    Ok(())
}

fn is_old(ctx: &Context, record: &UsageRecord, now: Timestamp) -> bool {
    let job = &record.spec.job;
    let is_of_a_canary = record.spec.payment.is_none()
        && job.namespace == ctx.namespace
        && job.name.starts_with(PREFIX);
    let since = now.checked_sub(RECORDS_KEPT).map_or(0, unix_millis);
    // One that never started has no times: it goes by when it was made.
    let made = record
        .creation_timestamp()
        .map_or(0, |at| unix_millis(at.0));
    let sealed = record.status.as_ref().and_then(|s| s.sealed.as_ref());
    is_of_a_canary
        && sealed.is_some_and(|sealed| sealed.end_ms.max(made) < since)
        && ctx.caches.compute_job(&job.namespace, &job.name).is_none()
}
