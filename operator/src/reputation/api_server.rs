//! An API server for tests: it keeps ConfigMaps as a real one does, may fail at any write, and lists whatever else it is given.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use http::{Method, Request, Response};
use kube::{Client, client::Body};
use serde_json::{Value, json};

/// What it does with the next write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mood {
    #[default]
    Well,
    /// It dies before it has written.
    FailsBefore,
    /// It has written, and the answer is lost.
    FailsAfter,
}

#[derive(Default)]
struct State {
    version: u64,
    maps: BTreeMap<String, Value>,
    mood: Mood,
    writes: usize,
    /// By the plural of their kind.
    lists: BTreeMap<String, Vec<Value>>,
}

/// The server. Cloning shares it.
#[derive(Clone, Default)]
pub(crate) struct Server(Arc<Mutex<State>>);

impl Server {
    /// One that lists these objects of the kind with this plural.
    pub(crate) fn listing(self, plural: &str, items: Vec<Value>) -> Self {
        let mut state = self.0.lock().unwrap();
        state.lists.insert(plural.to_owned(), items);
        drop(state);
        self
    }

    pub(crate) fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move {
                let (method, uri) = (request.method().clone(), request.uri().clone());
                if uri.query().is_some_and(|query| query.contains("watch=")) {
                    // Nothing ever changes.
                    std::future::pending::<()>().await;
                }
                let sent = request.into_body().collect_bytes().await?;
                let sent = serde_json::from_slice(&sent).ok();
                let (code, body) = server.answer(&method, uri.path(), sent);
                Ok::<_, Box<dyn std::error::Error + Send + Sync>>(
                    Response::builder()
                        .status(code)
                        .body(Body::from(body.to_string().into_bytes()))
                        .unwrap(),
                )
            }
        });
        Client::new(service, "system")
    }

    fn answer(&self, method: &Method, path: &str, sent: Option<Value>) -> (u16, Value) {
        let refusal = |code: u16, reason: &str| {
            (
                code,
                json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "no", "reason": reason, "code": code}),
            )
        };
        let mut state = self.0.lock().unwrap();
        let last = path.rsplit('/').next().unwrap();
        if *method == Method::GET && path.contains("/configmaps/") {
            let found = state.maps.get(last);
            return found.map_or_else(|| refusal(404, "NotFound"), |map| (200, map.clone()));
        }
        if *method == Method::GET {
            let items = state.lists.get(last).cloned().unwrap_or_default();
            return (
                200,
                json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items}),
            );
        }
        state.writes += 1;
        let mood = std::mem::take(&mut state.mood);
        if mood == Mood::FailsBefore {
            return refusal(500, "InternalError");
        }
        let mut sent = sent.unwrap();
        let name = sent["metadata"]["name"].as_str().unwrap().to_owned();
        match (method, state.maps.get(&name)) {
            (&Method::POST, Some(_)) => return refusal(409, "AlreadyExists"),
            (&Method::PUT, None) => return refusal(404, "NotFound"),
            (&Method::PUT, Some(map))
                if map["metadata"]["resourceVersion"] != sent["metadata"]["resourceVersion"] =>
            {
                return refusal(409, "Conflict");
            }
            _ => {}
        }
        state.version += 1;
        sent["metadata"]["resourceVersion"] = state.version.to_string().into();
        state.maps.insert(name, sent.clone());
        if mood == Mood::FailsAfter {
            return refusal(504, "Timeout");
        }
        (200, sent)
    }

    pub(crate) fn next_write(&self, mood: Mood) {
        self.0.lock().unwrap().mood = mood;
    }

    pub(crate) fn writes(&self) -> usize {
        self.0.lock().unwrap().writes
    }

    /// Somebody writes this ConfigMap.
    pub(crate) fn keep(&self, name: &str, map: Value) {
        self.0.lock().unwrap().maps.insert(name.to_owned(), map);
    }

    /// Somebody deletes all ConfigMaps.
    pub(crate) fn lose_all(&self) {
        self.0.lock().unwrap().maps.clear();
    }
}
