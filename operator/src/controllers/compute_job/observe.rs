//! What is known about a job: its pods, and, while it waits, whether it is sound and can be satisfied. Reads only.

use gridstake_crds::{
    ComputeJob,
    compute_job::{ComputeJobCondition, ComputeJobReason},
    condition,
    names::{JOB_PRIORITY_CLASS, MANAGER_COMPUTE_JOB},
};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api, ResourceExt as _,
    api::{Patch, PatchParams, ValidationDirective},
};

use super::{
    build,
    decide::{Admission, Observed, Validation},
    member::{Member, NodeState},
    template,
};
use crate::{
    context::Context,
    controllers::{
        job_request::job_request,
        placement::{decide::next_attempt, fleet},
    },
    error::chain,
    scheduler::explain,
};

/// The attempt number of the pod that is only ever sent as a dry run.
const REHEARSAL: u32 = 0;

/// Observes `job`.
pub async fn observe(ctx: &Context, job: &ComputeJob) -> Observed {
    let pods = pods(ctx, job);
    let waits = job.metadata.deletion_timestamp.is_none()
        && job
            .status
            .as_ref()
            .is_none_or(|s| !s.has_ended() && s.active_placement().is_none());
    if !waits {
        return Observed {
            pods,
            validation: Validation::NotAsked,
            admission: Admission::NotAsked,
        };
    }
    let validation = validation(ctx, job).await;
    let sound = matches!(validation, Validation::Sound | Validation::NotAsked);
    let admission = if sound && !job.spec.suspend {
        admission(ctx, job)
    } else {
        Admission::NotAsked
    };
    Observed {
        pods,
        validation,
        admission,
    }
}

fn pods(ctx: &Context, job: &ComputeJob) -> Vec<Member> {
    let (namespace, uid) = (
        job.namespace().unwrap_or_default(),
        job.uid().unwrap_or_default(),
    );
    let pods = ctx.caches.pods_of_job(&namespace, &job.name_any(), &uid);
    let mut members: Vec<_> = pods
        .iter()
        .filter_map(|pod| Member::read(pod, node_state(ctx, pod)))
        .collect();
    members.sort_by_key(|m| (m.attempt, m.member));
    members
}

fn node_state(ctx: &Context, pod: &Pod) -> NodeState {
    let Some(name) = pod.spec.as_ref().and_then(|s| s.node_name.as_deref()) else {
        return NodeState::Ready;
    };
    ctx.caches.node(name).map_or(NodeState::Gone, |node| {
        if is_ready(&node) {
            NodeState::Ready
        } else {
            NodeState::NotReady
        }
    })
}

fn is_ready(node: &Node) -> bool {
    let conditions = node
        .status
        .as_ref()
        .and_then(|s| s.conditions.as_deref())
        .unwrap_or_default();
    conditions
        .iter()
        .any(|c| c.type_ == "Ready" && c.status == "True")
}

/// Checks the spec, then asks the API server with a dry run of the first pod, so that its words (Pod Security, quota,
/// webhooks) reach the user. Once it has said yes to a generation it is not asked again.
async fn validation(ctx: &Context, job: &ComputeJob) -> Validation {
    if is_validated(job) {
        return Validation::NotAsked;
    }
    let faults = template::faults(&job.spec);
    if let Some(first) = faults.first() {
        let texts: Vec<_> = faults.iter().map(ToString::to_string).collect();
        return Validation::Faulty(first.reason, texts.join("; "));
    }
    let member = build::Member {
        attempt: REHEARSAL,
        member: 0,
    };
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
        Ok(_) => Validation::Sound,
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

fn admission(ctx: &Context, job: &ComputeJob) -> Admission {
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
    let labels = fleet::namespace_labels(&ctx.caches, &job.namespace().unwrap_or_default());
    match job_request(
        job,
        attempt,
        labels,
        std::collections::BTreeSet::new(),
        JOB_PRIORITY_CLASS,
    ) {
        Err(error) => Admission::Refused(ComputeJobReason::InvalidTemplate, chain(&error)),
        Ok(request) => match explain::satisfiable(&fleet::now(ctx, &[], 0), &request) {
            Ok(()) => Admission::Admitted,
            Err(unsatisfiable) => {
                Admission::Refused(ComputeJobReason::Unsatisfiable, unsatisfiable.nearest_miss)
            }
        },
    }
}
