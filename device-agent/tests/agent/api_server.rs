//! What the agent asks of the API server: which requests, how many, and with which bodies.

use std::sync::{Arc, Mutex};

use axum::{
    Router,
    body::Bytes,
    extract::{Request, State},
    http::{Method, StatusCode},
    response::{IntoResponse, Response},
};
use gridstake_crds::{
    GpuNodeStatus,
    gpu_node::{Agent, AgentState},
};
use gridstake_device_agent::{
    heartbeat::Heartbeat,
    metering::exchange::Heads,
    metrics::Metrics,
    outcome::{Outcomes, Task},
    publish::Publisher,
    telling,
};
use kube::{Client, Config};
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    sync::{oneshot, watch},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::PATIENCE;

/// Holds one GpuNode and one Lease at most, and every request it got.
#[derive(Clone, Default)]
struct ApiServer {
    requests: Arc<Mutex<Vec<(Method, String, Value)>>>,
    gpu_node: Arc<Mutex<Option<Value>>>,
    lease: Arc<Mutex<Option<Value>>>,
}

impl ApiServer {
    async fn start(&self) -> Client {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let routes = Router::new().fallback(answer).with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        let mut config = Config::new(format!("http://{address}").parse().unwrap());
        config.default_retry = false;
        Client::try_from(config).unwrap()
    }

    fn verbs(&self) -> Vec<String> {
        let requests = self.requests.lock().unwrap();
        requests
            .iter()
            .map(|(method, path, _)| format!("{method} {path}"))
            .collect()
    }

    async fn until_asked(&self, times: usize) {
        let asked = async {
            while self.requests.lock().unwrap().len() < times {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, asked).await.unwrap();
    }
}

async fn answer(State(server): State<ApiServer>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let bytes: Bytes = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let body: Value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    let path = parts.uri.path().to_owned();
    let stored = if path.contains("/leases") {
        &server.lease
    } else {
        &server.gpu_node
    };
    let mut stored = stored.lock().unwrap();
    let (code, object) = match (&parts.method, stored.as_mut()) {
        (&Method::POST, _) => {
            *stored = Some(body.clone());
            (StatusCode::CREATED, body.clone())
        }
        (_, None) => (
            StatusCode::NOT_FOUND,
            json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404, "message": "not found" }),
        ),
        (&Method::PATCH, Some(object)) => {
            for (key, value) in body.as_object().unwrap() {
                object[key] = value.clone();
            }
            (StatusCode::OK, object.clone())
        }
        (_, Some(object)) => (StatusCode::OK, object.clone()),
    };
    server
        .requests
        .lock()
        .unwrap()
        .push((parts.method, path, body));
    let json = [("content-type", "application/json")];
    (code, json, object.to_string()).into_response()
}

fn status(version: &str) -> GpuNodeStatus {
    GpuNodeStatus {
        agent: Some(Agent {
            version: version.to_owned(),
            state: AgentState::Ok,
            message: None,
            key: None,
        }),
        ..GpuNodeStatus::default()
    }
}

const GPU_NODES: &str = "/apis/gridstake.dev/v1alpha1/gpunodes";

#[tokio::test]
async fn a_missing_gpu_node_is_created_bare_and_its_status_applied_only_when_it_changes() {
    let server = ApiServer::default();
    let publisher = Publisher::new(server.start().await, "node-a");
    let metrics = Metrics::new().unwrap();
    let (wanted, wanted_seen) = watch::channel(Some(status("1")));
    let (before, before_seen) = oneshot::channel();
    let (_asking, _reporting, telling) = telling::channel();
    let stop = CancellationToken::new();
    let outcomes = Outcomes::new(Task::Publish, &metrics);
    let running = tokio::spawn(publisher.run(wanted_seen, before, telling, outcomes, stop.clone()));
    server.until_asked(3).await;
    assert!(before_seen.await.unwrap().is_empty());

    // The same again is no reason to write; something else is.
    wanted.send_replace(Some(status("1")));
    wanted.send_replace(Some(status("2")));
    server.until_asked(4).await;
    stop.cancel();
    timeout(PATIENCE, running).await.unwrap().unwrap();

    let apply = format!("PATCH {GPU_NODES}/node-a/status");
    assert_eq!(
        server.verbs(),
        [
            format!("GET {GPU_NODES}/node-a"),
            format!("POST {GPU_NODES}"),
            apply.clone(),
            apply
        ]
    );
    let requests = server.requests.lock().unwrap();
    assert_eq!(requests[1].2["spec"], json!({}));
    assert_eq!(requests[1].2["metadata"], json!({ "name": "node-a" }));
    assert_eq!(
        requests[2].2["status"],
        json!({ "agent": { "version": "1", "state": "Ok" } }),
        "nothing of the operator's part is in it"
    );
    assert_eq!(requests[3].2["status"]["agent"]["version"], "2");
}

#[tokio::test]
async fn an_agent_that_restarts_reads_once_and_writes_nothing() {
    let server = ApiServer::default();
    *server.gpu_node.lock().unwrap() = Some(json!({
        "apiVersion": "gridstake.dev/v1alpha1",
        "kind": "GpuNode",
        "metadata": { "name": "node-a" },
        "spec": { "mode": "Always" },
        "status": { "agent": { "version": "1", "state": "Ok" }, "free": 8 },
    }));
    let publisher = Publisher::new(server.start().await, "node-a");
    let metrics = Metrics::new().unwrap();
    let (wanted, wanted_seen) = watch::channel(Some(status("1")));
    let (before, before_seen) = oneshot::channel();
    let (_asking, _reporting, telling) = telling::channel();
    let stop = CancellationToken::new();
    let outcomes = Outcomes::new(Task::Publish, &metrics);
    let running = tokio::spawn(publisher.run(wanted_seen, before, telling, outcomes, stop.clone()));
    before_seen.await.unwrap();
    let succeeded = metrics.task_runs.with_label_values(&["publish", "success"]);
    let reconciled = async {
        while succeeded.get() == 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, reconciled).await.unwrap();
    stop.cancel();
    timeout(PATIENCE, running).await.unwrap().unwrap();
    drop(wanted);
    assert_eq!(server.verbs(), [format!("GET {GPU_NODES}/node-a")]);
}

#[tokio::test]
async fn the_lease_is_created_once_and_then_renewed_with_one_request() {
    let server = ApiServer::default();
    let client = server.start().await;
    let metrics = Metrics::new().unwrap();
    let leases = "/apis/coordination.k8s.io/v1/namespaces/gridstake-system/leases";
    for expected in [2, 3] {
        let (_heads, heads) = watch::channel(Heads::new());
        // Nobody is there who would have to tell anything.
        let (asking, ..) = telling::channel();
        let heartbeat = Heartbeat::new(client.clone(), "gridstake-system", "node-a", heads, asking);
        let stop = CancellationToken::new();
        let outcomes = Outcomes::new(Task::Heartbeat, &metrics);
        let running = tokio::spawn(heartbeat.run(outcomes, stop.clone()));
        server.until_asked(expected).await;
        stop.cancel();
        timeout(PATIENCE, running).await.unwrap().unwrap();
    }
    let renew = format!("PATCH {leases}/agent-node-a");
    assert_eq!(
        server.verbs(),
        [renew.clone(), format!("POST {leases}"), renew]
    );
    let requests = server.requests.lock().unwrap();
    let created = &requests[1].2["spec"];
    assert_eq!(created["holderIdentity"], "node-a");
    assert_eq!(created["leaseDurationSeconds"], 30);
    assert_eq!(created["acquireTime"], created["renewTime"]);
}
