//! What the cluster looked like when a story failed: enough to understand it without the cluster.

use std::fmt::{Debug, Write as _};

use gridstake_crds::{ComputeJob, GpuNode, Incident, SettlementBatch, StakeBinding, UsageRecord};
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::{
    Api, Resource, ResourceExt,
    api::{ApiResource, DynamicObject, ListParams, LogParams},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{tenant::Tenant, wait::clipped, world::World};

/// Lines of each part's log.
const LOG_LINES: i64 = 40;

/// A text for people.
pub async fn of(world: &World, tenant: &Tenant) -> String {
    let mut text = format!(
        "\n==== the cluster when the story failed (namespace {}) ====\n",
        tenant.namespace
    );
    let jobs = ApiResource::erase::<ComputeJob>(&());
    statuses(
        &mut text,
        "ComputeJob",
        Api::<DynamicObject>::namespaced_with(world.client.clone(), &tenant.namespace, &jobs),
    )
    .await;
    pods(&mut text, world, &tenant.namespace).await;
    events(&mut text, world, &tenant.namespace).await;
    statuses(
        &mut text,
        "GpuNode",
        Api::<GpuNode>::all(world.client.clone()),
    )
    .await;
    ledger(&mut text, world, tenant).await;
    pods(&mut text, world, &world.namespace).await;
    for component in ["operator", "device-agent", "simulated-gpus"] {
        logs(&mut text, world, component).await;
    }
    text.push_str("==== end ====\n");
    text
}

/// Who stands for the nodes, what the story's jobs used, and what of the log is not final.
async fn ledger(text: &mut String, world: &World, tenant: &Tenant) {
    let everything = |_: &Value| true;
    let client = &world.client;
    statuses_of(
        text,
        "StakeBinding",
        Api::<StakeBinding>::all(client.clone()),
        everything,
    )
    .await;
    let records = Api::<UsageRecord>::namespaced(client.clone(), &world.namespace);
    let own = |record: &Value| {
        let namespace = record.pointer("/spec/job/namespace");
        namespace.and_then(Value::as_str) == Some(&tenant.namespace)
    };
    statuses_of(text, "UsageRecord", records, own).await;
    let open = |object: &Value| {
        let state = object.pointer("/status/state").and_then(Value::as_str);
        !matches!(state, Some("Final" | "Executed" | "Cancelled"))
    };
    let batches = Api::<SettlementBatch>::all(client.clone());
    statuses_of(text, "SettlementBatch", batches, open).await;
    let incidents = Api::<Incident>::all(client.clone());
    statuses_of(text, "Incident", incidents, open).await;
}

async fn statuses<K>(text: &mut String, kind: &str, api: Api<K>)
where
    K: Clone + Debug + DeserializeOwned + Serialize + ResourceExt,
{
    statuses_of(text, kind, api, |_| true).await;
}

async fn statuses_of<K>(text: &mut String, kind: &str, api: Api<K>, wanted: impl Fn(&Value) -> bool)
where
    K: Clone + Debug + DeserializeOwned + Serialize + ResourceExt,
{
    match api.list(&ListParams::default()).await {
        Ok(objects) => {
            for object in objects {
                let value = serde_json::to_value(&object).unwrap_or_default();
                if !wanted(&value) {
                    continue;
                }
                let mut status = value.get("status").cloned().unwrap_or_default();
                shorten_devices(&mut status);
                let deleted = object
                    .meta()
                    .deletion_timestamp
                    .as_ref()
                    .map_or("", |_| " (being deleted)");
                let shown = serde_saphyr::to_string(&status).unwrap_or_default();
                let _ = writeln!(
                    text,
                    "-- {kind} {}{deleted}\n{}",
                    object.name_any(),
                    clipped(&shown)
                );
            }
        }
        Err(error) => {
            let _ = writeln!(text, "-- cannot list {kind}s: {error}");
        }
    }
}

/// Of a device only what can differ while it is there.
fn shorten_devices(status: &mut Value) {
    for device in status
        .get_mut("devices")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        let short = ["uuid", "health", "reasons"]
            .map(|key| device.get(key).map(ToString::to_string).unwrap_or_default());
        *device = Value::String(short.join(" "));
    }
}

async fn pods(text: &mut String, world: &World, namespace: &str) {
    let api: Api<Pod> = Api::namespaced(world.client.clone(), namespace);
    for pod in api
        .list(&ListParams::default())
        .await
        .map(|l| l.items)
        .unwrap_or_default()
    {
        let _ = writeln!(
            text,
            "-- Pod {namespace}/{}: {}",
            pod.name_any(),
            pod_line(&pod)
        );
    }
}

fn pod_line(pod: &Pod) -> String {
    let spec = pod.spec.clone().unwrap_or_default();
    let status = pod.status.clone().unwrap_or_default();
    let mut line = format!(
        "{} on {}",
        status.phase.as_deref().unwrap_or("?"),
        spec.node_name.as_deref().unwrap_or("no node")
    );
    if pod.meta().deletion_timestamp.is_some() {
        let _ = write!(line, ", being deleted, held by {:?}", pod.finalizers());
    }
    if let Some(gates) = spec.scheduling_gates.filter(|g| !g.is_empty()) {
        let _ = write!(
            line,
            ", gates {:?}",
            gates.iter().map(|g| &g.name).collect::<Vec<_>>()
        );
    }
    for text in [status.reason, status.message].into_iter().flatten() {
        let _ = write!(line, "; {text}");
    }
    for condition in status
        .conditions
        .iter()
        .flatten()
        .filter(|c| c.status != "True" && c.message.is_some())
    {
        let _ = write!(
            line,
            "; {}={}: {}",
            condition.type_,
            condition.status,
            condition.message.as_deref().unwrap_or_default()
        );
    }
    for container in status.container_statuses.iter().flatten() {
        let state = container
            .state
            .as_ref()
            .and_then(|s| serde_json::to_string(s).ok())
            .unwrap_or_default();
        let _ = write!(
            line,
            "; {} restarted {} times: {state}",
            container.name, container.restart_count
        );
    }
    line
}

async fn events(text: &mut String, world: &World, namespace: &str) {
    let api: Api<Event> = Api::namespaced(world.client.clone(), namespace);
    let mut events = api
        .list(&ListParams::default())
        .await
        .map(|l| l.items)
        .unwrap_or_default();
    events.sort_by_key(|e| {
        e.last_timestamp
            .as_ref()
            .map(|t| t.0)
            .or(e.event_time.as_ref().map(|t| t.0))
    });
    for event in events {
        let about = &event.involved_object;
        let _ = writeln!(
            text,
            "-- Event {} {}: {}: {}",
            about.kind.as_deref().unwrap_or_default(),
            about.name.as_deref().unwrap_or_default(),
            event.reason.as_deref().unwrap_or_default(),
            event.message.as_deref().unwrap_or_default()
        );
    }
}

async fn logs(text: &mut String, world: &World, component: &str) {
    let api: Api<Pod> = Api::namespaced(world.client.clone(), &world.namespace);
    for pod in world.pods_of(component).await.unwrap_or_default() {
        let parameters = LogParams {
            tail_lines: Some(LOG_LINES),
            ..LogParams::default()
        };
        let log = api
            .logs(&pod.name_any(), &parameters)
            .await
            .unwrap_or_else(|error| format!("cannot read it: {error}"));
        let _ = writeln!(text, "-- the end of the log of {}:\n{log}", pod.name_any());
    }
}
