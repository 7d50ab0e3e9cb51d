//! Story 47: a job names a queue of Kueue's. Its pods say so, Kueue's gate keeps them back for as long as Kueue likes, and the nodes stay
//! those that Gridstake drew. Kueue itself is not there: an admission policy puts its gate on the pods as its webhook would, and the
//! story lifts it as its controller would.

use std::time::Duration;

use gridstake_e2e::{
    prelude::*,
    wait::{Look, look_until},
};
use k8s_openapi::{api::core::v1::Pod, jiff::Timestamp};
use kube::{
    Api,
    api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams},
    core::GroupVersionKind,
};
use serde_json::json;

const GATE: &str = "kueue.x-k8s.io/admission";
const QUEUE: &str = "kueue.x-k8s.io/queue-name";
const GROUP: &str = "kueue.x-k8s.io/pod-group-name";
const GROUP_SIZE: &str = "kueue.x-k8s.io/pod-group-total-count";
/// `timeouts.start` of the job, and for how much longer its pods are held back.
const START: Duration = Duration::from_secs(10);

fn gates(pod: &Pod) -> Vec<&str> {
    let gates = pod.spec.iter().flat_map(|spec| &spec.scheduling_gates);
    gates.flatten().map(|gate| gate.name.as_str()).collect()
}

/// The version that has admission policies which change objects: of Kubernetes 1.36 and newer.
const VERSION: &str = "admissionregistration.k8s.io/v1";

/// Objects of this kind, of which the client's types know nothing yet.
fn policies(world: &World, kind: &str) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("admissionregistration.k8s.io", "v1", kind);
    Api::all_with(world.client.clone(), &ApiResource::from_gvk(&kind))
}

const POLICY: &str = "MutatingAdmissionPolicy";
const BINDING: &str = "MutatingAdmissionPolicyBinding";

/// Puts Kueue's gate on the tenant's pods that are in a queue, as Kueue's webhook does.
async fn gate_pods(world: &World, tenant: &Tenant) -> Result<()> {
    let name = format!("kueue-{}", tenant.namespace);
    let policy = json!({
        "apiVersion": VERSION, "kind": POLICY, "metadata": {"name": name},
        "spec": {
            "failurePolicy": "Fail",
            "reinvocationPolicy": "Never",
            "matchConstraints": {
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": tenant.namespace}},
                "resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}],
            },
            "matchConditions": [{"name": "queued", "expression": format!("'{QUEUE}' in object.metadata.?labels.orValue({{}})")}],
            "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": format!(
                "Object{{spec: Object.spec{{schedulingGates: [Object.spec.schedulingGates{{name: '{GATE}'}}]}}}}"
            )}}],
        },
    });
    let binding = json!({
        "apiVersion": VERSION, "kind": BINDING, "metadata": {"name": name},
        "spec": {"policyName": name},
    });
    for (kind, object) in [(POLICY, policy), (BINDING, binding)] {
        policies(world, kind)
            .create(&PostParams::default(), &serde_json::from_value(object)?)
            .await
            .with_context(|| format!("create the {kind} that stands for Kueue's webhook"))?;
    }
    let pods: Api<Pod> = tenant.api();
    let probe: Pod = serde_json::from_value(json!({
        "metadata": {"name": "probe", "labels": {QUEUE: "team-a"}},
        "spec": {"containers": [{"name": "main", "image": gridstake_e2e::job_manifest::IMAGE}]},
    }))?;
    look_until("the policy is in force", || async {
        let dry = PostParams {
            dry_run: true,
            ..PostParams::default()
        };
        let probed = pods.create(&dry, &probe).await?;
        Ok(Look::whether(gates(&probed).contains(&GATE), || {
            format!("gates {:?}", gates(&probed))
        }))
    })
    .await
}

async fn take_the_policy_away(world: &World, tenant: &Tenant) -> Result<()> {
    let name = format!("kueue-{}", tenant.namespace);
    for kind in [BINDING, POLICY] {
        policies(world, kind)
            .delete(&name, &DeleteParams::default())
            .await?;
    }
    Ok(())
}

/// Lifts the gate from a pod, as Kueue does once it has admitted its workload.
async fn admit(tenant: &Tenant, pod: &str) -> Result<()> {
    let pods: Api<Pod> = tenant.api();
    let lifted = json!({"spec": {"schedulingGates": [{"name": GATE, "$patch": "delete"}]}});
    pods.patch(pod, &PatchParams::default(), &Patch::Strategic(&lifted))
        .await
        .with_context(|| format!("lift the gate of {pod}"))?;
    Ok(())
}

#[test]
fn a_gang_in_a_queue_of_kueues_waits_for_its_gate_and_runs_on_the_nodes_that_were_drawn()
-> Result<()> {
    story(async |world, tenant| {
        let served = world.client.list_api_group_resources(VERSION).await?;
        if !served.resources.iter().any(|known| known.kind == POLICY) {
            println!("not told: this cluster has no {POLICY} of {VERSION}");
            return Ok(());
        }
        gate_pods(world, tenant).await?;
        let manifest = job("queued", 1)
            .members(2)
            .works_for(1)
            .with("/metadata/labels", &format!("{{{QUEUE}: team-a}}"))?
            .with(
                "/spec/timeouts",
                &format!("{{start: {}s}}", START.as_secs()),
            )?;
        let queued = tenant.submit(&manifest).await?;
        let placement = queued.until_placed(1).await?;
        let message = queued
            .until_condition(
                ComputeJobCondition::Ready,
                false,
                ComputeJobReason::WaitingForGate,
            )
            .await?;
        ensure!(message.contains(GATE), "it says {message:?}");

        // It is held back for longer than an attempt may take to start.
        let overdue = placement
            .decided_at
            .0
            .checked_add(START + Duration::from_secs(3))?;
        look_until("the start is overdue", || async {
            let now = Timestamp::now();
            Ok(Look::whether(now > overdue, || format!("it is {now}")))
        })
        .await?;
        let pods = queued.until_it_has_pods(2).await?;
        for pod in &pods {
            let labels = pod.metadata.labels.clone().unwrap_or_default();
            let annotations = pod.metadata.annotations.clone().unwrap_or_default();
            let group = labels.get(GROUP).cloned().unwrap_or_default();
            ensure!(
                labels.get(QUEUE).map(String::as_str) == Some("team-a")
                    && group.ends_with("-1")
                    && annotations.get(GROUP_SIZE).map(String::as_str) == Some("2"),
                "labels {labels:?}, annotations {annotations:?}"
            );
            ensure!(
                gates(pod) == [GATE],
                "Kueue's gate alone is left, not {:?}",
                gates(pod)
            );
        }
        let status = queued.status().await?;
        ensure!(
            status.attempts.is_empty(),
            "the attempt was rolled back: {:?}",
            status.attempts
        );

        for pod in &pods {
            admit(tenant, pod.metadata.name.as_deref().context("a name")?).await?;
        }
        let status = queued.until_complete().await?;
        let ran = status.placement.context("status.placement")?;
        ensure!(
            ran.attempt == 1 && ran.nodes == placement.nodes,
            "it ran as attempt {} on {:?}, drawn were {:?}",
            ran.attempt,
            ran.nodes,
            placement.nodes
        );
        take_the_policy_away(world, tenant).await
    })
}
