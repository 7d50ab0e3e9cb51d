//! Writes a job's status, also when its decision could not be carried out, and tells the news as events.

use gridstake_crds::{
    ComputeJob,
    closed_enum::ClosedEnum as _,
    compute_job::{
        AttemptEndReason, ComputeJobCondition, ComputeJobReason, ComputeJobStatus, Ending,
    },
    condition::{self, Fact},
    names::MANAGER_COMPUTE_JOB,
};
use kube::runtime::events::EventType;

use super::{
    act::{ActError, Outcome},
    conditions::ALL_RUN,
    decide::Plan,
    replace,
};
use crate::{
    context::Context,
    error::chain,
    events::is_news,
    status::{Guard, StatusError, StatusOwner},
};

/// All of a job's status but `placement` and the condition `Scheduled`, which are the placement controller's.
const OWNER: StatusOwner = StatusOwner {
    manager: MANAGER_COMPUTE_JOB,
    fields: &[
        "observedGeneration",
        "ending",
        "attempts",
        "replaced",
        "failures",
        "usage",
        "settlement",
        "result",
        "verification",
        "endReason",
        "finishedAt",
    ],
    conditions: &[
        "Validated",
        "Admitted",
        "Running",
        "Complete",
        "Failed",
        "Verified",
        "Metered",
        "Settled",
        "Ready",
    ],
};

/// Conditions that are told as an event when they become true.
const GOOD_NEWS: [ComputeJobCondition; 4] = [
    ComputeJobCondition::Running,
    ComputeJobCondition::Complete,
    ComputeJobCondition::Verified,
    ComputeJobCondition::Failed,
];

/// Conditions that are told as an event, with their cause, when they become false.
const BAD_NEWS: [ComputeJobCondition; 4] = [
    ComputeJobCondition::Verified,
    ComputeJobCondition::Validated,
    ComputeJobCondition::Admitted,
    ComputeJobCondition::Running,
];

/// The event of a job that will be stopped within a fifth of a settlement interval for want of money.
const ESCROW_LOW: &str = "EscrowLow";

/// The event of a gang of which a member was lost and is replaced.
const MEMBER_LOST: &str = "MemberLost";
/// The event of a gang of which a lost rank runs again.
const MEMBER_REPLACED: &str = "MemberReplaced";

/// What became of the status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// It says what it should.
    Yes {
        /// Whether a write was sent.
        sent: bool,
    },
    /// The job had changed since it was read, or is gone.
    Outdated,
}

/// Writes what `plan` says about `job`, with `done` telling whether it was carried out.
pub async fn write(
    ctx: &Context,
    job: &ComputeJob,
    plan: &Plan,
    done: Result<&Outcome, &ActError>,
) -> Result<Written, StatusError> {
    let Some(mut desired) = plan.status.clone() else {
        return Ok(Written::Yes { sent: false });
    };
    if done.is_ok_and(|outcome| outcome.outdated) {
        return Ok(Written::Outdated);
    }
    if plan.is_passing && done.is_ok() {
        return Ok(Written::Yes { sent: false });
    }
    let before = job.status.clone().unwrap_or_default();
    let facts = facts(plan, done);
    desired.conditions = condition::conditions(
        &before.conditions,
        &facts,
        job.metadata.generation,
        (ctx.now)(),
    );
    let mut target = job.clone();
    if let Some(version) = done
        .ok()
        .and_then(|outcome| outcome.resource_version.clone())
    {
        target.metadata.resource_version = Some(version);
    }
    match OWNER
        .apply(
            &ctx.client,
            &ctx.metrics,
            &target,
            job.status.as_ref(),
            &desired,
            Guard::ResourceVersion,
        )
        .await
    {
        Ok(written) => {
            if written.is_applied() {
                tell(ctx, job, &before, &desired, &facts).await;
            }
            Ok(Written::Yes {
                sent: written.is_applied(),
            })
        }
        Err(error) if error.is_conflict() || error.is_not_found() => Ok(Written::Outdated),
        Err(error) => Err(error),
    }
}

/// The plan's facts; if it could not be carried out, the summary says so instead.
fn facts(plan: &Plan, done: Result<&Outcome, &ActError>) -> Vec<Fact> {
    let mut facts = plan.facts.clone();
    if let Err(error) = done {
        let retrying =
            |condition| Fact::new(condition, false, ComputeJobReason::Retrying, chain(error));
        for fact in &mut facts {
            for condition in [ComputeJobCondition::Running, ComputeJobCondition::Ready] {
                let replacement = retrying(condition);
                if fact.condition == replacement.condition && fact.status != condition::Status::True
                {
                    *fact = replacement;
                }
            }
        }
    }
    facts
}

async fn tell(
    ctx: &Context,
    job: &ComputeJob,
    before: &ComputeJobStatus,
    after: &ComputeJobStatus,
    facts: &[Fact],
) {
    let begins_to_end = after.ending.as_ref().filter(|_| before.ending.is_none());
    let is_asked = |ending: &&Ending| {
        matches!(
            ending.reason,
            AttemptEndReason::Reclaimed | AttemptEndReason::Preempted
        )
    };
    if let Some(ending) = begins_to_end.filter(is_asked) {
        let note = format!(
            "attempt {} is being stopped: {}",
            ending.attempt,
            ending.message.as_deref().unwrap_or_default()
        );
        ctx.events
            .publish(
                job,
                EventType::Warning,
                ending.reason.as_str(),
                "Stop",
                &note,
            )
            .await;
    }
    tell_of_replaced(ctx, job, before, after).await;
    for attempt in after
        .attempts
        .iter()
        .filter(|a| !before.attempts.iter().any(|b| b.attempt == a.attempt))
    {
        // `Complete` says it as well.
        if attempt.end_reason == AttemptEndReason::Succeeded {
            continue;
        }
        let message = attempt
            .message
            .as_deref()
            .map(|m| format!(": {m}"))
            .unwrap_or_default();
        let note = format!(
            "attempt {} on {} ended: {}{message}",
            attempt.attempt,
            attempt.nodes.join(", "),
            attempt.end_reason
        );
        ctx.events
            .publish(job, EventType::Warning, "AttemptEnded", "Record", &note)
            .await;
    }
    for fact in facts
        .iter()
        .filter(|fact| is_warning(fact) && !fact.is_stated_in(&before.conditions))
    {
        ctx.events
            .publish(
                job,
                EventType::Warning,
                ESCROW_LOW,
                fact.condition,
                &fact.message,
            )
            .await;
    }
    for fact in facts.iter().filter(|fact| is_worth_telling(fact)) {
        if fact.condition != ComputeJobCondition::Failed.as_str() {
            ctx.events.publish_news(job, &before.conditions, fact).await;
        } else if is_news(&before.conditions, fact) {
            // The one condition of a job for which `True` is bad.
            ctx.events
                .publish(
                    job,
                    EventType::Warning,
                    fact.reason,
                    fact.condition,
                    &fact.message,
                )
                .await;
        }
    }
}

/// Tells which members were lost while the others run, and which ranks run again.
async fn tell_of_replaced(
    ctx: &Context,
    job: &ComputeJob,
    before: &ComputeJobStatus,
    after: &ComputeJobStatus,
) {
    for lost in &after.replaced {
        let known = before.replaced(lost.attempt, lost.member);
        let (who, rank) = (lost.member, lost.rank);
        if known.is_none() {
            let words = lost.message.as_deref().unwrap_or_default();
            let note = format!(
                "member {who} of attempt {} on {} was lost ({}): rank {rank} is started elsewhere, and the others run; {words}",
                lost.attempt, lost.node, lost.why
            );
            let note = note.trim_end_matches("; ");
            ctx.events
                .publish(job, EventType::Warning, MEMBER_LOST, "Replace", note)
                .await;
        }
        let runs = lost.started_at.is_some() && known.is_none_or(|k| k.started_at.is_none());
        if runs {
            let next = after.placement.as_ref();
            let next = next.and_then(|placement| replace::successor(placement, lost));
            let next = next.map_or_else(String::new, |next| {
                format!(" on {} as member {}", next.node, next.member)
            });
            let note = format!("rank {rank} of attempt {} runs again{next}", lost.attempt);
            ctx.events
                .publish(job, EventType::Normal, MEMBER_REPLACED, "Replace", &note)
                .await;
        }
    }
}

/// Whether a job that runs is to be stopped soon for want of money.
fn is_warning(fact: &Fact) -> bool {
    fact.condition == ComputeJobCondition::Running.as_str()
        && fact.status == condition::Status::True
        && fact.reason == ComputeJobReason::Running.as_str()
        && fact.message != ALL_RUN
}

fn is_worth_telling(fact: &Fact) -> bool {
    let among = |list: &[ComputeJobCondition]| {
        list.iter()
            .any(|condition| condition.as_str() == fact.condition)
    };
    match fact.status {
        condition::Status::True => among(&GOOD_NEWS),
        // Without a cause it is a state on the way, such as Running=False while pods are created.
        _ => among(&BAD_NEWS) && !fact.message.is_empty(),
    }
}
