//! As much of an API server as settlement and deployment ask: SettlementBatches, UsageRecords and ConfigMaps in memory,
//! lists with field selectors, compare-and-swap on status, and faults on request.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    extract::{Request, State},
    http::{Method, StatusCode, Uri},
    response::{IntoResponse, Response},
};
use gridstake_crds::{SettlementBatch, UsageRecord};
use kube::{Client, Config};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// How a write goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The request is lost.
    Request,
    /// The write is made and its answer is lost.
    Answer,
}

#[derive(Default)]
struct Store {
    objects: BTreeMap<String, Value>,
    version: u64,
    writes: usize,
    fault: Option<(usize, Fault)>,
    refused: Option<&'static str>,
    creates_nothing: bool,
}

/// A backup.
pub struct Saved(BTreeMap<String, Value>);

#[derive(Clone, Default)]
pub struct ApiServer(Arc<Mutex<Store>>);

impl ApiServer {
    pub async fn client(&self) -> Client {
        Client::try_from(self.serve().await).unwrap()
    }

    /// Serves on the runtime that this is called on; how to reach it.
    pub async fn serve(&self) -> Config {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let routes = Router::new().fallback(answer).with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        let mut config = Config::new(format!("http://{address}").parse().unwrap());
        config.default_retry = false;
        config
    }

    /// What it answers to a request.
    pub fn ask(&self, method: &Method, uri: &Uri, body: &[u8]) -> (StatusCode, Value) {
        let body: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
        let query = uri.query().unwrap_or_default();
        self.0
            .lock()
            .unwrap()
            .answer(method, uri.path(), query, &body)
    }

    /// All objects, as a backup has them.
    pub fn save(&self) -> Saved {
        Saved(self.0.lock().unwrap().objects.clone())
    }

    /// Puts a backup in the place of all objects. Versions go on, as after `etcdutl snapshot restore --bump-revision`.
    pub fn restore(&self, backup: &Saved) {
        let mut store = self.0.lock().unwrap();
        store.objects.clone_from(&backup.0);
    }

    /// The write of this number, counted from now on, goes wrong.
    pub fn fail_write(&self, number: usize, fault: Fault) {
        let mut store = self.0.lock().unwrap();
        store.writes = 0;
        store.fault = Some((number, fault));
    }

    /// From now on it takes no writes of objects whose path holds `part`; all again with `None`.
    pub fn refuse_writes(&self, part: Option<&'static str>) {
        self.0.lock().unwrap().refused = part;
    }

    /// From now on it creates no objects, as where a webhook that is to admit them is away; or it does again.
    pub fn refuse_creation(&self, refuses: bool) {
        self.0.lock().unwrap().creates_nothing = refuses;
    }

    /// Whether the fault has happened.
    pub fn has_failed(&self) -> bool {
        self.0.lock().unwrap().fault.is_none()
    }

    pub fn writes(&self) -> usize {
        self.0.lock().unwrap().writes
    }

    pub fn put(&self, path: &str, mut object: Value) {
        let mut store = self.0.lock().unwrap();
        store.version += 1;
        object["metadata"]["resourceVersion"] = json!(store.version.to_string());
        object["metadata"]["uid"] = json!(path);
        store.objects.insert(path.to_owned(), object);
    }

    /// Only objects stay that `keep` names by path and content.
    pub fn retain(&self, keep: impl Fn(&str, &Value) -> bool) {
        let mut store = self.0.lock().unwrap();
        store.objects.retain(|path, object| keep(path, object));
    }

    /// The lowest job number that nobody has reserved.
    pub fn next_number(&self) -> Option<u64> {
        let store = self.0.lock().unwrap();
        let found = store
            .objects
            .iter()
            .find(|(path, _)| path.ends_with("-numbers"));
        found?.1["data"]["next"].as_str()?.parse().ok()
    }

    fn all<K: DeserializeOwned>(&self, part: &str) -> Vec<K> {
        let store = self.0.lock().unwrap();
        store
            .objects
            .iter()
            .filter(|(path, _)| path.contains(part))
            .map(|(_, object)| serde_json::from_value(object.clone()).unwrap())
            .collect()
    }

    pub fn batches(&self) -> Vec<SettlementBatch> {
        self.all("/settlementbatches/")
    }

    pub fn records(&self) -> Vec<UsageRecord> {
        self.all("/usagerecords/")
    }
}

fn refuse(code: StatusCode, reason: &str) -> (StatusCode, Value) {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure",
        "reason": reason, "code": code.as_u16(), "message": reason,
    });
    (code, status)
}

async fn answer(State(server): State<ApiServer>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let (code, answer) = server.ask(&parts.method, &parts.uri, &body);
    let json = [("content-type", "application/json")];
    (code, json, answer.to_string()).into_response()
}

impl Store {
    fn answer(
        &mut self,
        method: &Method,
        path: &str,
        query: &str,
        body: &Value,
    ) -> (StatusCode, Value) {
        if path.ends_with("/events") {
            return (StatusCode::CREATED, body.clone());
        }
        if method == Method::GET {
            return match self.objects.get(path) {
                Some(object) => (StatusCode::OK, object.clone()),
                None if is_collection(path) => (StatusCode::OK, self.list(path, query)),
                None => refuse(StatusCode::NOT_FOUND, "NotFound"),
            };
        }
        if self.refused.is_some_and(|part| path.contains(part)) {
            return refuse(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable");
        }
        if self.creates_nothing && method == Method::POST {
            return refuse(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable");
        }
        let fault = self.fault.filter(|(number, _)| *number == self.writes);
        self.writes += 1;
        if fault.is_some() {
            self.fault = None;
        }
        let lost = refuse(StatusCode::INTERNAL_SERVER_ERROR, "InternalError");
        match fault {
            Some((_, Fault::Request)) => lost,
            Some((_, Fault::Answer)) => {
                self.write(method, path, body);
                lost
            }
            None => self.write(method, path, body),
        }
    }

    fn list(&self, path: &str, query: &str) -> Value {
        let parameter = |name: &str| {
            query
                .split('&')
                .find_map(|pair| pair.strip_prefix(name))
                .unwrap_or_default()
                .replace("%2C", ",")
                .replace("%3D", "=")
                .replace("%2F", "/")
                .replace("%21", "!")
        };
        let selector = parameter("fieldSelector=");
        let labels = parameter("labelSelector=");
        let labelled = |object: &Value| {
            labels.split_once('=').is_none_or(|(label, value)| {
                object["metadata"]["labels"][label].as_str() == Some(value)
            })
        };
        let items: Vec<&Value> = self
            .objects
            .iter()
            .filter(|(name, object)| {
                name.starts_with(&format!("{path}/"))
                    && selects(&selector, object)
                    && labelled(object)
            })
            .map(|(_, object)| object)
            .collect();
        json!({"kind": "List", "apiVersion": "v1", "metadata": {}, "items": items})
    }

    fn write(&mut self, method: &Method, path: &str, body: &Value) -> (StatusCode, Value) {
        self.version += 1;
        if method == Method::POST {
            let name = body["metadata"]["name"].as_str().unwrap_or_default();
            let path = format!("{path}/{name}");
            if self.objects.contains_key(&path) {
                return refuse(StatusCode::CONFLICT, "AlreadyExists");
            }
            let mut object = body.clone();
            object["metadata"]["resourceVersion"] = json!(self.version.to_string());
            object["metadata"]["uid"] = json!(path);
            object["metadata"]["generation"] = json!(1);
            self.objects.insert(path, object.clone());
            return (StatusCode::CREATED, object);
        }
        if method == Method::DELETE {
            return match self.objects.remove(path) {
                Some(_) => (
                    StatusCode::OK,
                    json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}),
                ),
                None => refuse(StatusCode::NOT_FOUND, "NotFound"),
            };
        }
        // An apply by its only writer, which makes what is not there.
        if path.contains("/configmaps/") {
            self.objects.insert(path.to_owned(), body.clone());
            return (StatusCode::OK, body.clone());
        }
        let Some(object) = self.objects.get_mut(path.trim_end_matches("/status")) else {
            return refuse(StatusCode::NOT_FOUND, "NotFound");
        };
        let wanted = &body["metadata"]["resourceVersion"];
        if !wanted.is_null() && *wanted != object["metadata"]["resourceVersion"] {
            return refuse(StatusCode::CONFLICT, "Conflict");
        }
        if let Some(labels) = body["metadata"]["labels"]
            .as_object()
            .filter(|_| !path.ends_with("/status"))
        {
            for (label, value) in labels {
                object["metadata"]["labels"][label] = value.clone();
            }
            object["metadata"]["resourceVersion"] = json!(self.version.to_string());
            return (StatusCode::OK, object.clone());
        }
        // An apply sets what its manager owns: of a batch everything, of a record the settlement.
        if path.contains("/usagerecords/") {
            object["status"]["settlement"] = body["status"]["settlement"].clone();
        } else {
            object["status"] = body["status"].clone();
        }
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        (StatusCode::OK, object.clone())
    }
}

fn is_collection(path: &str) -> bool {
    ["/settlementbatches", "/usagerecords", "/computejobs"]
        .iter()
        .any(|kind| path.ends_with(kind))
}

fn selects(selector: &str, object: &Value) -> bool {
    selector
        .split(',')
        .filter(|term| !term.is_empty())
        .all(|term| {
            let (field, value, equal) = match term.split_once("!=") {
                Some((field, value)) => (field, value, false),
                None => {
                    let (field, value) = term.split_once('=').unwrap();
                    (field, value, true)
                }
            };
            let found = object.pointer(&format!("/{}", field.replace('.', "/")));
            let found = match found {
                None | Some(Value::Null) => String::new(),
                Some(Value::String(text)) => text.clone(),
                Some(other) => other.to_string(),
            };
            (found == value) == equal
        })
}
