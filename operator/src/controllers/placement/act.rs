//! Writes a decision into its job.

use std::time::Duration;

use gridstake_crds::{
    ComputeJob,
    compute_job::{ComputeJobStatus, MemberNode, Placement, QueuePlace},
    condition::{self, Fact},
    names::MANAGER_PLACEMENT,
};
use kube::runtime::events::EventType;

use super::decide;
use crate::{
    context::Context,
    status::{Guard, StatusError, StatusOwner},
};

const OWNER: StatusOwner = StatusOwner {
    manager: MANAGER_PLACEMENT,
    fields: &["placement", "queue"],
    conditions: &["Scheduled"],
};
/// A job of which nothing has been said yet shows where it stands all the same. The ComputeJob controller, whose condition `Ready`
/// is, takes it over with its first word.
const FIRST_OWNER: StatusOwner = StatusOwner {
    conditions: &["Scheduled", "Ready"],
    ..OWNER
};
/// A write that takes longer holds up the whole queue; it is given up and made anew.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why a decision was not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The API server refused.
    #[error(transparent)]
    Status(#[from] StatusError),
    /// The API server did not answer. The write may have happened: the next one is guarded by the version.
    #[error("apply status of ComputeJob: no answer within {PATIENCE:?}")]
    TimedOut,
}

/// What became of a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// It stands in the job.
    Yes,
    /// The job had changed since it was read, or is gone.
    Outdated,
}

/// Writes `placement`, if there is a new one, `fact`, if it is to change, and its place in the queue, guarded by the version
/// of `job` that was read.
pub async fn write(
    ctx: &Context,
    job: &ComputeJob,
    placement: Option<Placement>,
    fact: Option<&Fact>,
    queue: Option<QueuePlace>,
) -> Result<Written, WriteError> {
    let before = job.status.clone().unwrap_or_default();
    let mut desired = before.clone();
    let is_new = placement.is_some();
    desired.placement = placement.or(desired.placement);
    desired.queue = queue;
    let is_first = is_new && before.observed_generation.is_none();
    if let Some(fact) = fact {
        let mut facts = vec![fact.clone()];
        facts.extend(is_first.then(decide::starts));
        desired.conditions = condition::conditions(
            &before.conditions,
            &facts,
            job.metadata.generation,
            (ctx.now)(),
        );
    }
    let owner = if is_first { FIRST_OWNER } else { OWNER };
    let apply = owner.apply(
        &ctx.client,
        &ctx.metrics,
        job,
        job.status.as_ref(),
        &desired,
        Guard::ResourceVersion,
    );
    match tokio::time::timeout(PATIENCE, apply).await {
        Err(_) => Err(WriteError::TimedOut),
        Ok(Ok(written)) => {
            if let Some(fact) = fact.filter(|_| written.is_applied()) {
                tell(
                    ctx,
                    job,
                    is_new.then_some(desired.placement).flatten(),
                    fact.clone(),
                );
            }
            Ok(Written::Yes)
        }
        Ok(Err(error)) if error.is_conflict() || error.is_not_found() => Ok(Written::Outdated),
        Ok(Err(error)) => Err(error.into()),
    }
}

/// Where an attempt is placed, or the members of it that are new in comparison with `before`.
fn where_to(placement: &Placement, before: Option<&ComputeJobStatus>) -> String {
    let attempt = placement.attempt;
    let before = before.and_then(ComputeJobStatus::active_placement);
    let Some(before) = before.filter(|before| before.attempt == attempt) else {
        let mut nodes: Vec<_> = placement.nodes.iter().map(|n| n.node.as_str()).collect();
        nodes.dedup();
        return format!("attempt {attempt} on {}", nodes.join(", "));
    };
    let is_new = |node: &&MemberNode| before.nodes.iter().all(|b| b.member != node.member);
    let new = placement.nodes.iter().filter(is_new);
    let words: Vec<String> = new
        .map(|n| format!("rank {} as member {} on {}", n.rank(), n.member, n.node))
        .collect();
    format!("attempt {attempt}: {}", words.join(", "))
}

/// Events must not hold up the queue, so they are sent from a task of their own.
fn tell(ctx: &Context, job: &ComputeJob, placement: Option<Placement>, fact: Fact) {
    let (events, job) = (ctx.events.clone(), job.clone());
    let precedence = ctx.precedence.clone();
    tokio::spawn(async move {
        // Of a burst, what is decided and what is started come before what is told about it.
        let _turn = precedence.yield_to_starts().await;
        match placement {
            Some(placement) => {
                let note = where_to(&placement, job.status.as_ref());
                events
                    .publish(&job, EventType::Normal, "Placed", "Place", &note)
                    .await;
            }
            None => {
                let before = job
                    .status
                    .as_ref()
                    .map(|s| s.conditions.clone())
                    .unwrap_or_default();
                events.publish_news(&job, &before, &fact).await;
            }
        }
    });
}
