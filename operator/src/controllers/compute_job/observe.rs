//! What is known about a job: its pods, and, while it waits, whether it is sound and can be satisfied. Reads only.

use std::time::Instant;

use alloy::signers::local::PrivateKeySigner;
use gridstake_crds::{
    ComputeJob, TokenAmount,
    compute_job::{ComputeJobCondition, ComputeJobReason, ComputeJobStatus, MemberNode},
    condition,
    names::{JOB_PRIORITY_CLASS, MANAGER_COMPUTE_JOB, invalid_result},
};
use k8s_openapi::{api::core::v1::Pod, jiff::Timestamp};
use kube::{
    Api, ResourceExt as _,
    api::{Patch, PatchParams, ValidationDirective},
    runtime::reflector::ObjectRef,
};

use super::{
    build,
    decide::{Admission, Observed, Validation},
    member::{Member, State},
    rehearsals::Subject,
    template,
    usage::{Books, Slice},
    verification::{self, Run},
};
use crate::{
    caches::parsed,
    context::Context,
    controllers::{
        canary::is_canary,
        job_request::{Shunned, job_request},
        placement::{decide::next_attempt, fleet},
        reclaim::{asked::Asked, decide::AttemptKey},
        verification_group,
    },
    error::chain,
    failover::{self, NodeState},
    payer::{self, Funds, WhoPays},
    scheduler::{Request, Snapshot, explain, filter, snapshot::NodeCapacity},
    verdict::{Place, observe as verdict},
};

/// The attempt number of the pod that is only ever sent as a dry run.
const REHEARSAL: u32 = 0;

/// Observes `job` at `now`.
pub async fn observe(ctx: &Context, job: &ComputeJob, now: Timestamp) -> Observed {
    let namespace = job.namespace().unwrap_or_default();
    let uid = job.metadata.uid.as_deref().unwrap_or_default();
    let books = books(ctx, uid);
    let active = job
        .status
        .as_ref()
        .is_some_and(|s| s.active_placement().is_some());
    // The operator's own: nobody pays for it.
    let is_canary = is_canary(&ctx.namespace, job);
    let funds = if active && !is_canary {
        payer::funds(ctx, job, books.paying(), now)
    } else {
        Funds::Suffice
    };
    let pods = pods(ctx, job, now);
    let mut seen = Observed {
        gates_off_at: gates_off_at(ctx, job, &pods, active, now),
        on_their_way: ctx.recent_starts.on_their_way(
            uid,
            pods.iter().map(|pod| (pod.attempt, pod.member)),
            Instant::now(),
        ),
        pods,
        validation: Validation::NotAsked,
        admission: Admission::NotAsked,
        books,
        payer: if is_canary {
            WhoPays::Canary
        } else {
            payer::who_pays(ctx, &namespace, now)
        },
        funds,
        places: places(ctx, job, now),
        reclaimed: reclaimed(ctx, job),
        verification: checked(ctx, job),
        untold_since: ctx.untold.of(job),
    };
    let ended = job.status.as_ref().is_some_and(ComputeJobStatus::has_ended);
    if job.metadata.deletion_timestamp.is_some() || ended || active {
        return seen;
    }
    seen.validation = if seen.untold_since.is_some() {
        Validation::Sound
    } else {
        validation(ctx, job).await
    };
    let sound = matches!(seen.validation, Validation::Sound | Validation::NotAsked);
    if sound && !job.spec.suspend {
        seen.admission = admission(ctx, job, now);
    }
    seen
}

/// When others were first seen to hold the pods of the attempt in progress back no more, if they did.
fn gates_off_at(
    ctx: &Context,
    job: &ComputeJob,
    pods: &[Member],
    active: bool,
    now: Timestamp,
) -> Option<Timestamp> {
    let (gates, uid) = (ctx.caches.foreign_gates(), job.metadata.uid.as_deref()?);
    let is_held = |pod: &Member| matches!(pod.state, State::Held(_));
    if active {
        return gates.look(uid, pods.iter().any(is_held), now);
    }
    gates.forget(uid);
    None
}

/// The places of the attempt in progress.
fn places(ctx: &Context, job: &ComputeJob, now: Timestamp) -> Vec<Place> {
    let active = job
        .status
        .as_ref()
        .and_then(ComputeJobStatus::active_placement);
    active.map_or_else(Vec::new, |placement| {
        let uid = job.metadata.uid.as_deref().unwrap_or_default();
        verdict::places(&ctx.caches, uid, placement.attempt, &placement.nodes, now)
    })
}

/// Why the attempt in progress is to give its GPUs back, if it is.
fn reclaimed(ctx: &Context, job: &ComputeJob) -> Option<Asked> {
    let placement = job.status.as_ref()?.active_placement()?;
    let attempt = AttemptKey {
        job: job.uid()?.parse().ok()?,
        attempt: placement.attempt,
    };
    ctx.caches.reclaims().of(attempt)
}

/// What is known of the runs that are compared with `job`'s, if its result is to be checked.
fn checked(ctx: &Context, job: &ComputeJob) -> verification::Seen {
    if verification::mode(&job.spec).is_none() {
        return verification::Seen::default();
    }
    let is_accused = |run: &ComputeJob| {
        let name = invalid_result(run.metadata.uid.as_deref().unwrap_or_default());
        ctx.caches.incidents.get(&ObjectRef::new(&name)).is_some()
    };
    let placement = job.status.as_ref().and_then(|s| s.placement.as_ref());
    let reputation = |node: &MemberNode| {
        let found = ctx.caches.gpu_node(&node.node)?;
        found.0.as_ref().ok()?.status.as_ref()?.reputation
    };
    verification::Seen {
        checks: verification_group::checks_of(&ctx.caches, job)
            .iter()
            .map(|check| Run::read(check, is_accused(check)))
            .collect(),
        is_accused: is_accused(job),
        reputation: placement
            .iter()
            .flat_map(|placed| &placed.nodes)
            .map(|node| reputation(node).unwrap_or(0))
            .min()
            .unwrap_or(0),
        // A fresh key is 32 bytes that nobody can foresee.
        nonce: PrivateKeySigner::random().to_bytes(),
    }
}

/// What the UsageRecords say of the job of this uid, whether it is there or gone.
#[must_use]
pub fn books(ctx: &Context, uid: &str) -> Books {
    let records = ctx.caches.records_of_job(uid);
    Books::new(parsed(&records).map(Slice::read).collect())
}

fn pods(ctx: &Context, job: &ComputeJob, now: Timestamp) -> Vec<Member> {
    let (namespace, uid) = (
        job.namespace().unwrap_or_default(),
        job.uid().unwrap_or_default(),
    );
    let pods = ctx.caches.pods_of_job(&namespace, &job.name_any(), &uid);
    let is_canary = is_canary(&ctx.namespace, job);
    let mut members: Vec<_> = pods
        .iter()
        .filter_map(|pod| Member::read(pod, node_of(ctx, pod, now)))
        .map(|member| {
            if is_canary {
                member.of_a_canary()
            } else {
                member
            }
        })
        .collect();
    members.sort_by_key(|m| (m.attempt, m.member));
    members
}

/// What is to be thought of the node of `pod` at `now`. A pod that is not bound has none to be mistrusted.
#[must_use]
pub fn node_of(ctx: &Context, pod: &Pod, now: Timestamp) -> NodeState {
    pod.spec
        .as_ref()
        .and_then(|spec| spec.node_name.as_deref())
        .map_or(NodeState::Ready, |name| {
            failover::state_of(&ctx.caches, name, now)
        })
}

/// Checks the spec, then asks the API server with a dry run of the first pod, so that its words (Pod Security, quota,
/// webhooks) reach the user. Once it has said yes to a generation it is not asked again.
async fn validation(ctx: &Context, job: &ComputeJob) -> Validation {
    if is_validated(job) {
        return Validation::NotAsked;
    }
    let faults = template::faults(&job.spec);
    if !faults.is_empty() {
        let texts: Vec<_> = faults.iter().map(ToString::to_string).collect();
        return Validation::Faulty(ComputeJobReason::InvalidTemplate, texts.join("; "));
    }
    let subject = Subject::of(job);
    let has_passed = |subject| ctx.rehearsals.have_passed(subject, Instant::now());
    if subject.as_ref().is_some_and(has_passed) {
        return Validation::Sound;
    }
    let _turn = ctx.rehearsals.turn().await;
    if subject.as_ref().is_some_and(has_passed) {
        return Validation::Sound;
    }
    let member = build::Member::first(REHEARSAL, 0);
    let pod = match build::pod(job, member, None, JOB_PRIORITY_CLASS) {
        Ok(pod) => pod,
        Err(error) => {
            return Validation::Faulty(
                ComputeJobReason::InvalidTemplate,
                format!("spec.template: {error}"),
            );
        }
    };
    let params = PatchParams {
        dry_run: true,
        force: true,
        field_manager: Some(MANAGER_COMPUTE_JOB.to_owned()),
        field_validation: Some(ValidationDirective::Strict),
    };
    let api: Api<Pod> = Api::namespaced(ctx.client.clone(), &job.namespace().unwrap_or_default());
    match api
        .patch(&pod.name_any(), &params, &Patch::Apply(&pod))
        .await
    {
        Ok(_) => {
            if let Some(subject) = subject {
                ctx.rehearsals.pass(subject, Instant::now());
            }
            Validation::Sound
        }
        Err(kube::Error::Api(status)) if is_refusal(status.code) => {
            Validation::Refused(status.message)
        }
        Err(error) => Validation::Unavailable(chain(&error)),
    }
}

fn is_validated(job: &ComputeJob) -> bool {
    let stated = job
        .status
        .as_ref()
        .and_then(|s| condition::find(&s.conditions, ComputeJobCondition::Validated));
    stated.is_some_and(|c| c.status == "True" && c.observed_generation == job.metadata.generation)
}

/// Whether the API server has judged the pod, as opposed to being out of order or overloaded.
fn is_refusal(code: u16) -> bool {
    matches!(code, 400..=499) && !matches!(code, 401 | 408 | 409 | 429)
}

fn admission(ctx: &Context, job: &ComputeJob, now: Timestamp) -> Admission {
    if let Some(class) = job
        .spec
        .priority_class_name
        .as_deref()
        .filter(|class| fleet::priority(&ctx.caches, class).is_none())
    {
        let message = format!(
            "spec.priorityClassName: there is no PriorityClass {class:?}; name an existing one or leave it out"
        );
        return Admission::Refused(ComputeJobReason::PriorityClassMissing, message);
    }
    let attempt = job.status.as_ref().map_or(1, next_attempt);
    let namespace = fleet::of_job(ctx, job);
    let request = job_request(
        job,
        attempt,
        namespace,
        Shunned::default(),
        JOB_PRIORITY_CLASS,
    );
    let request = match request {
        Ok(request) => request,
        Err(error) => {
            return Admission::Refused(ComputeJobReason::InvalidTemplate, chain(&error));
        }
    };
    let look = || fleet::at(ctx, &[], 0, now);
    let begin = Instant::now();
    let mut fleet = ctx.recent_fleet.at(begin, look);
    if explain::satisfiable(&fleet, &request).is_err() {
        // A node may have come since it was looked at.
        fleet = ctx.recent_fleet.anew(begin, look);
        if let Err(unsatisfiable) = explain::satisfiable(&fleet, &request) {
            return Admission::Refused(ComputeJobReason::Unsatisfiable, unsatisfiable.nearest_miss);
        }
    }
    if is_canary(&ctx.namespace, job) {
        return Admission::Admitted;
    }
    match payer::admit(ctx, job, expected_price(&fleet, &request), now) {
        Ok(()) => Admission::Admitted,
        Err(refusal) => Admission::Refused(refusal.reason, refusal.message),
    }
}

/// The most that a GPU may cost the job for a second: what it says, else the dearest node that could take it now, else
/// the cheapest of all.
fn expected_price(fleet: &Snapshot, request: &Request) -> TokenAmount {
    if let Some(limit) = request.max_price {
        return limit;
    }
    let member = request.per_member();
    let price = |node: &NodeCapacity| node.facts().price;
    // Prices on other chains are in other tokens.
    let is_here =
        |node: &&NodeCapacity| request.chain.is_none() || node.facts().chain == request.chain;
    let dearest = fleet
        .nodes()
        .iter()
        .filter(|node| filter::first_rejection(node, request, &member).is_none())
        .map(price)
        .max();
    dearest
        .or_else(|| fleet.nodes().iter().filter(is_here).map(price).min())
        .unwrap_or_default()
}
