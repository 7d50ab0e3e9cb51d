//! An API server as an agent sees it: UsageRecords that can be watched, and whatever else it creates and patches. It keeps
//! all that it took, and can end the agent at the moment of a write.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State},
    http::{Method, StatusCode},
    response::{IntoResponse, Response},
};
use gridstake_crds::{names::ANNOTATION_EVIDENCE_HEADS, usage_record::Evidence};
use kube::{Client, Config};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    sync::{Notify, broadcast, watch},
    time::timeout,
};

use crate::PATIENCE;

/// What an agent writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// The evidence of a UsageRecord.
    Evidence,
    /// A renewal of its Lease.
    Renewal,
}

/// When the agent is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kill {
    pub write: Write,
    /// Whether the write is taken before.
    pub is_taken: bool,
    /// How many such writes pass unharmed before it.
    pub after: usize,
    pub pid: u32,
}

/// Holds UsageRecords, and by its path every other object.
#[derive(Clone)]
pub struct ApiServer {
    pub records: Arc<Mutex<BTreeMap<String, Value>>>,
    pub others: Arc<Mutex<BTreeMap<String, Value>>>,
    pub events: broadcast::Sender<String>,
    /// The bodies of all patches of UsageRecords that it took.
    pub patches: Arc<Mutex<Vec<Value>>>,
    /// What each renewal of the Lease said of open chains.
    pub heads: Arc<Mutex<Vec<Value>>>,
    /// The queries of all lists and watches.
    pub queries: Arc<Mutex<Vec<String>>>,
    pub is_away: Arc<AtomicBool>,
    pub refusals: Arc<Notify>,
    /// Told of each write.
    stated: watch::Sender<()>,
    pub kill: Arc<Mutex<Option<Kill>>>,
}

impl ApiServer {
    pub fn new() -> Self {
        Self {
            records: Arc::default(),
            others: Arc::default(),
            events: broadcast::channel(4096).0,
            patches: Arc::default(),
            heads: Arc::default(),
            queries: Arc::default(),
            is_away: Arc::default(),
            refusals: Arc::default(),
            stated: watch::Sender::new(()),
            kill: Arc::default(),
        }
    }

    /// Serves, and says where.
    pub async fn serve(&self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let routes = Router::new().fallback(answer).with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        address
    }

    pub async fn start(&self) -> Client {
        let address = self.serve().await;
        let mut config = Config::new(format!("http://{address}").parse().unwrap());
        config.default_retry = false;
        Client::try_from(config).unwrap()
    }

    pub fn open(&self, slice: u32, from_ms: Option<u64>) {
        self.open_for("uid", "train-1-0", slice, from_ms);
    }

    /// Opens a slice of the first attempt of the job `uid`, whose pod is in `lab`.
    pub fn open_for(&self, uid: &str, pod: &str, slice: u32, from_ms: Option<u64>) {
        let name = format!("{uid}-1-0-{slice}");
        let record = json!({
            "apiVersion": "gridstake.dev/v1alpha1",
            "kind": "UsageRecord",
            "metadata": { "name": name, "resourceVersion": "1" },
            "spec": {
                "job": { "namespace": "lab", "name": "train", "uid": uid },
                "attempt": 1, "member": 0, "slice": slice, "podName": pod,
                "nodeName": "node-a", "gpuCount": 1, "fromMs": from_ms,
            },
        });
        self.tell("ADDED", &record);
        self.records.lock().unwrap().insert(name, record);
    }

    pub fn seal(&self, name: &str) {
        self.seal_as(name, &json!({ "cause": "IntervalElapsed" }));
    }

    pub fn seal_as(&self, name: &str, sealed: &Value) {
        let mut records = self.records.lock().unwrap();
        let record = records.get_mut(name).unwrap();
        record["status"]["sealed"] = sealed.clone();
        self.tell("MODIFIED", record);
    }

    /// A backup is restored from when `name` was open and no later slice was there.
    pub fn restore(&self, name: &str) {
        let mut records = self.records.lock().unwrap();
        records.retain(|record, _| record == name);
        let record = records.get_mut(name).unwrap();
        record.as_object_mut().unwrap().remove("status");
    }

    fn tell(&self, kind: &str, record: &Value) {
        // Nobody may be watching yet.
        let _ = self
            .events
            .send(format!("{}\n", json!({ "type": kind, "object": record })));
    }

    pub fn evidence(&self, name: &str) -> Option<Evidence> {
        let records = self.records.lock().unwrap();
        let evidence = records.get(name)?["status"]["evidence"].clone();
        serde_json::from_value(evidence).ok()
    }

    pub async fn until(&self, name: &str, what: impl Fn(&Evidence) -> bool) -> Evidence {
        let mut stated = self.stated.subscribe();
        let held = async {
            loop {
                if let Some(evidence) = self.evidence(name).filter(&what) {
                    return evidence;
                }
                stated.changed().await.unwrap();
            }
        };
        let found = timeout(PATIENCE, held).await;
        found.unwrap_or_else(|_| panic!("{name} has {:#?}", self.evidence(name)))
    }

    /// Waits until what it took is as `condition` says.
    pub async fn until_so(&self, condition: impl Fn(&Self) -> bool) {
        let mut stated = self.stated.subscribe();
        let so = async {
            while !condition(self) {
                stated.changed().await.unwrap();
            }
        };
        let came = timeout(PATIENCE, so).await.is_ok();
        assert!(came, "{:#?}", self.others.lock().unwrap());
    }

    /// All that was ever taken as the evidence of `name`, in the order in which it came.
    pub fn history(&self, name: &str) -> Vec<Evidence> {
        let patches = self.patches.lock().unwrap();
        let of_record = patches
            .iter()
            .filter(|patch| patch["metadata"]["name"] == name);
        of_record
            .map(|patch| serde_json::from_value(patch["status"]["evidence"].clone()).unwrap())
            .collect()
    }

    /// What the agent says of itself in the GpuNode.
    pub fn agents_message(&self) -> String {
        let others = self.others.lock().unwrap();
        let node = others
            .iter()
            .find(|(path, _)| path.ends_with("/gpunodes/node-a"));
        let message = node.and_then(|(_, node)| node["status"]["agent"]["message"].as_str());
        message.unwrap_or_default().to_owned()
    }

    fn device(&self, index: u32) -> Value {
        let others = self.others.lock().unwrap();
        let node = others
            .iter()
            .find(|(path, _)| path.ends_with("/gpunodes/node-a"));
        let devices = node.and_then(|(_, node)| node["status"]["devices"].as_array());
        let mut devices = devices.into_iter().flatten();
        let found = devices.find(|device| device["index"] == index);
        found.cloned().unwrap_or_default()
    }

    /// How often the GpuNode says that a GPU had this Xid.
    pub fn xids_of(&self, gpu: u32, xid: u32) -> u64 {
        let device = self.device(gpu);
        let faults = device["faults"].as_array().cloned().unwrap_or_default();
        let of_xid = faults.iter().filter(|fault| fault["xid"] == xid);
        of_xid.filter_map(|fault| fault["count"].as_u64()).sum()
    }

    /// What the GpuNode says of a GPU's health.
    pub fn health_of(&self, gpu: u32) -> String {
        let device = self.device(gpu);
        device["health"].as_str().unwrap_or_default().to_owned()
    }

    /// Whether the agent ends now, with its `write` taken or not.
    fn kills(&self, write: Write, is_taken: bool) -> bool {
        let mut kill = self.kill.lock().unwrap();
        let Some(due) = kill
            .as_mut()
            .filter(|kill| kill.write == write && kill.is_taken == is_taken)
        else {
            return false;
        };
        if due.after > 0 {
            due.after -= 1;
            return false;
        }
        let pid = Pid::from_raw(due.pid.try_into().unwrap()).unwrap();
        kill_process(pid, Signal::KILL).unwrap();
        *kill = None;
        true
    }

    /// Whether the agent that was to be killed has been.
    pub fn has_killed(&self) -> bool {
        self.kill.lock().unwrap().is_none()
    }

    fn take_evidence(&self, name: &str, patch: &Value) -> Response {
        if self.kills(Write::Evidence, false) {
            return StatusCode::SERVICE_UNAVAILABLE.into_response();
        }
        let mut records = self.records.lock().unwrap();
        let Some(record) = records.get_mut(name) else {
            return not_found();
        };
        record["status"]["evidence"] = patch["status"]["evidence"].clone();
        self.tell("MODIFIED", record);
        self.patches.lock().unwrap().push(patch.clone());
        self.stated.send_replace(());
        self.kills(Write::Evidence, true);
        (JSON, record.to_string()).into_response()
    }

    fn take_other(&self, method: &Method, path: &str, body: &Value) -> Response {
        let is_renewal = path.contains("/leases") && *method != Method::GET;
        if is_renewal && self.kills(Write::Renewal, false) {
            return StatusCode::SERVICE_UNAVAILABLE.into_response();
        }
        let mut others = self.others.lock().unwrap();
        let path = path.strip_suffix("/status").unwrap_or(path);
        let answer = match *method {
            Method::POST => {
                let name = body["metadata"]["name"].as_str().unwrap_or_default();
                others.insert(format!("{path}/{name}"), body.clone());
                (StatusCode::CREATED, JSON, body.to_string()).into_response()
            }
            Method::PATCH => match others.get_mut(path) {
                Some(object) => {
                    for (key, value) in body.as_object().unwrap() {
                        object[key] = value.clone();
                    }
                    (JSON, object.to_string()).into_response()
                }
                None => not_found(),
            },
            _ => match others.get(path) {
                Some(object) => (JSON, object.to_string()).into_response(),
                None => not_found(),
            },
        };
        drop(others);
        self.stated.send_replace(());
        if is_renewal && answer.status().is_success() {
            let said = &body["metadata"]["annotations"][ANNOTATION_EVIDENCE_HEADS];
            let said = said.as_str().unwrap_or("{}");
            self.heads
                .lock()
                .unwrap()
                .push(serde_json::from_str(said).unwrap());
            self.kills(Write::Renewal, true);
        }
        answer
    }
}

const JSON: [(&str, &str); 1] = [("content-type", "application/json")];

fn not_found() -> Response {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404,
    });
    (StatusCode::NOT_FOUND, JSON, status.to_string()).into_response()
}

async fn answer(State(server): State<ApiServer>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let query = parts.uri.query().unwrap_or_default().to_owned();
    if server.is_away.load(Ordering::SeqCst) {
        server.refusals.notify_one();
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let path = parts.uri.path();
    let bytes: Bytes = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let body: Value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    if !path.contains("/usagerecords") {
        return server.take_other(&parts.method, path, &body);
    }
    if parts.method == Method::PATCH {
        return server.take_evidence(path.split('/').nth_back(1).unwrap(), &body);
    }
    server.queries.lock().unwrap().push(query.clone());
    if query.contains("watch=") {
        let events = futures::stream::unfold(server.events.subscribe(), async |mut events| {
            let line = events.recv().await.ok()?;
            Some((Ok::<_, Infallible>(line), events))
        });
        return (JSON, Body::from_stream(events)).into_response();
    }
    let items: Vec<Value> = server.records.lock().unwrap().values().cloned().collect();
    let list = json!({
        "apiVersion": "gridstake.dev/v1alpha1",
        "kind": "UsageRecordList",
        "metadata": { "resourceVersion": "1" },
        "items": items,
    });
    (JSON, list.to_string()).into_response()
}
