//! The operator's processes: how a story kills one, and how it starts one that nobody has elected.

use anyhow::{Context as _, Result};
use k8s_openapi::api::{apps::v1::Deployment, coordination::v1::Lease, core::v1::Pod};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams, PostParams},
};
use serde_json::json;

use crate::{
    command::kubectl,
    container, tenant,
    wait::{Look, look_until, watch_until},
    world::{OPERATOR, World},
};

/// The Lease that the leading replica holds.
pub const LEADER_LEASE: &str = "gridstake-operator";
/// The pod of the replica that nobody has elected.
const UNELECTED: &str = "e2e-unelected-operator";

/// The pod of the replica that leads.
pub async fn leader(world: &World) -> Result<Pod> {
    let leases: Api<Lease> = Api::namespaced(world.client.clone(), &world.namespace);
    look_until("one of the operator's replicas leads", || async {
        let holder = leases
            .get(LEADER_LEASE)
            .await?
            .spec
            .and_then(|s| s.holder_identity)
            .unwrap_or_default();
        let replicas = world.pods_of("operator").await?;
        let found = replicas.into_iter().find(|p| p.name_any() == holder);
        Ok(Look::at(found, || {
            format!("the Lease {LEADER_LEASE} is held by {holder:?}, which is no pod")
        }))
    })
    .await
}

/// What a replica says of itself under `/metrics`.
pub async fn metrics(replica: &Pod) -> Result<String> {
    let namespace = replica.namespace().context("the replica's namespace")?;
    let path = format!(
        "/api/v1/namespaces/{namespace}/pods/{}:8080/proxy/metrics",
        replica.name_any()
    );
    kubectl(["get", "--raw", &path]).await
}

/// Kills the process in a replica's container with SIGKILL, and waits until it has been started again.
///
/// On a cluster whose nodes cannot be reached from here, the pod is deleted without grace instead.
pub async fn kill(world: &World, replica: &Pod) -> Result<()> {
    if container::nodes_can_be_reached() {
        container::signal(replica, "KILL").await?;
        return container::until_restarted(&world.client, replica).await;
    }
    remove(
        Api::namespaced(world.client.clone(), &world.namespace),
        &replica.name_any(),
    )
    .await
}

/// Starts one more replica, which works without having been elected, and waits until it is at work. There are two leaders
/// then, until the story's end.
pub async fn start_unelected(world: &World) -> Result<Pod> {
    let deployments: Api<Deployment> = Api::namespaced(world.client.clone(), &world.namespace);
    let operator = deployments
        .list(&ListParams::default().labels(OPERATOR))
        .await?
        .items
        .into_iter()
        .next()
        .context("there is no operator")?;
    let template = operator
        .spec
        .and_then(|s| s.template.spec)
        .context("the operator has no pod template")?;
    let mut spec = serde_json::to_value(template)?;
    spec.pointer_mut("/containers/0/env")
        .and_then(serde_json::Value::as_array_mut)
        .context("the operator has no environment")?
        .push(json!({"name": "GRIDSTAKE_LEADER_ELECT", "value": "false"}));
    // Without the Deployment's labels, or it would take the pod for one of its own.
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": UNELECTED, "labels": {(tenant::LABEL): "true"}},
        "spec": spec,
    }))?;
    let pods: Api<Pod> = Api::namespaced(world.client.clone(), &world.namespace);
    let undo = pods.clone();
    world.undo_at_the_end("remove the operator that nobody has elected", async move {
        remove(undo, UNELECTED).await
    });
    pods.create(&PostParams::default(), &pod)
        .await
        .context("start an operator that nobody has elected")?;
    watch_until(&pods, UNELECTED, "is ready", |pod| {
        let conditions = pod?.status.as_ref()?.conditions.as_ref()?;
        let ready = conditions
            .iter()
            .any(|c| c.type_ == "Ready" && c.status == "True");
        ready.then(|| pod.cloned())?
    })
    .await
}

/// Removes the replica that nobody has elected, if a killed story has left one.
pub(crate) async fn remove_unelected(world: &World) -> Result<()> {
    remove(
        Api::namespaced(world.client.clone(), &world.namespace),
        UNELECTED,
    )
    .await
}

/// Removes a pod without grace, if it is there.
async fn remove(pods: Api<Pod>, name: &str) -> Result<()> {
    let at_once = DeleteParams::default().grace_period(0);
    match pods.delete(name, &at_once).await {
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        result => result
            .map(drop)
            .with_context(|| format!("delete {name} without grace")),
    }
}
