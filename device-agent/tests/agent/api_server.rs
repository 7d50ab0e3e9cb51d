//! What the agent asks of the API server: which requests, how many, and with which bodies.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use axum::{
    Router,
    body::Bytes,
    extract::{Request, State},
    http::{Method, StatusCode},
    response::{IntoResponse, Response},
};
use gridstake_crds::{
    GpuNodeStatus,
    gpu_node::{Agent, AgentState, Device, DeviceFault, DeviceFaultKind, DeviceHealth},
};
use gridstake_device_agent::{
    heartbeat::{Heartbeat, Tidings},
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
    /// Whether it refuses to change the status of a GpuNode.
    refuses_status: Arc<AtomicBool>,
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
    if path.ends_with("/status") && server.refuses_status.load(Ordering::SeqCst) {
        let mut requests = server.requests.lock().unwrap();
        requests.push((parts.method, path, body));
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
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
        let heartbeat = Heartbeat::new(
            client.clone(),
            "gridstake-system",
            "node-a",
            Tidings::with(heads).1,
            asking,
        );
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

fn with_fault(version: &str) -> GpuNodeStatus {
    let fault = DeviceFault {
        kind: DeviceFaultKind::Xid,
        xid: Some(79),
        first_ms: 1_800_000_000_000,
        last_ms: 1_800_000_000_000,
        count: 1,
    };
    GpuNodeStatus {
        devices: vec![Device {
            uuid: "GPU-a".to_owned(),
            index: 0,
            model: "NVIDIA H100 80GB HBM3".to_owned(),
            architecture: None,
            memory_mib: 81_559,
            compute_capability: "9.0".to_owned(),
            pci_bus_id: None,
            mig: None,
            sharing: None,
            nvlink_peers: Vec::new(),
            health: DeviceHealth::Unhealthy,
            reasons: Vec::new(),
            faults: vec![fault],
        }],
        ..status(version)
    }
}

/// A publisher and a heartbeat, with an observer that answers each question at once.
struct Telling {
    server: ApiServer,
    stop: CancellationToken,
    tasks: tokio::task::JoinSet<()>,
}

impl Telling {
    async fn start(
        server: ApiServer,
        wanted: watch::Receiver<Option<GpuNodeStatus>>,
        metrics: &Metrics,
    ) -> Self {
        let client = server.start().await;
        let (asking, mut reporting, telling) = telling::channel();
        let stop = CancellationToken::new();
        let mut tasks = tokio::task::JoinSet::new();
        let (before, _) = oneshot::channel();
        let publisher = Publisher::new(client.clone(), "node-a");
        let outcomes = Outcomes::new(Task::Publish, metrics);
        tasks.spawn(publisher.run(wanted, before, telling, outcomes, stop.clone()));
        let (_, heads) = watch::channel(Heads::new());
        let heartbeat = Heartbeat::new(
            client,
            "gridstake-system",
            "node-a",
            Tidings::with(heads).1,
            asking,
        );
        tasks.spawn(heartbeat.run(Outcomes::new(Task::Heartbeat, metrics), stop.clone()));
        tasks.spawn(async move {
            while reporting.asked.changed().await.is_ok() {
                let question = *reporting.asked.borrow_and_update();
                reporting.reported.send_replace(question);
            }
        });
        Self {
            server,
            stop,
            tasks,
        }
    }

    /// Waits until so many requests match.
    async fn until(&self, what: &str, times: usize) {
        let came = async {
            let count = || {
                self.server
                    .verbs()
                    .iter()
                    .filter(|v| v.contains(what))
                    .count()
            };
            while count() < times {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, came).await.unwrap();
    }

    async fn stop(mut self) {
        self.stop.cancel();
        let all = async { while self.tasks.join_next().await.is_some() {} };
        timeout(PATIENCE, all).await.unwrap();
    }
}

#[tokio::test]
async fn a_fault_is_in_the_status_before_the_first_heartbeat_after_it() {
    let metrics = Metrics::new().unwrap();
    let (_wanted, seen) = watch::channel(Some(with_fault("1")));
    let telling = Telling::start(ApiServer::default(), seen, &metrics).await;
    telling.until("PATCH /apis/coordination", 1).await;
    let verbs = telling.server.verbs();
    let first = |what: &str| verbs.iter().position(|verb| verb.contains(what));
    assert!(first("node-a/status") < first("/leases"), "{verbs:?}");
    telling.stop().await;
}

#[tokio::test]
async fn while_a_fault_cannot_be_told_there_is_no_heartbeat() {
    let metrics = Metrics::new().unwrap();
    let server = ApiServer::default();
    server.refuses_status.store(true, Ordering::SeqCst);
    let (_wanted, seen) = watch::channel(Some(with_fault("1")));
    let telling = Telling::start(server, seen, &metrics).await;
    telling.until("node-a/status", 2).await;
    let leases = |telling: &Telling| {
        let verbs = telling.server.verbs();
        verbs.iter().filter(|verb| verb.contains("/leases")).count()
    };
    assert_eq!(leases(&telling), 0);
    telling.server.refuses_status.store(false, Ordering::SeqCst);
    telling.until("/leases", 1).await;
    telling.stop().await;
}

#[tokio::test]
async fn what_is_no_fault_holds_up_no_heartbeat() {
    let metrics = Metrics::new().unwrap();
    let server = ApiServer::default();
    server.refuses_status.store(true, Ordering::SeqCst);
    let (_wanted, seen) = watch::channel(Some(status("1")));
    let telling = Telling::start(server, seen, &metrics).await;
    telling.until("/leases", 1).await;
    telling.stop().await;
}
