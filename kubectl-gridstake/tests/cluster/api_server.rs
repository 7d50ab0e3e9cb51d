//! As much of an API server as the commands ask: objects from a table, lists of two a page, and what is
//! written, written down.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderName, Method, StatusCode, Uri, header::CONTENT_TYPE},
};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// Objects a page.
const PAGE: usize = 2;

static STARTED: AtomicU32 = AtomicU32::new(0);

#[derive(Default)]
struct Table {
    answers: BTreeMap<String, Answer>,
    asked: Vec<String>,
    patches: Vec<Value>,
}

#[derive(Clone)]
enum Answer {
    Object(Value),
    List(Vec<Value>),
    /// One page for each time that it is asked for; the last one from then on.
    InTurn(Vec<Vec<Value>>),
    Forbidden,
}

pub struct ApiServer {
    table: Arc<Mutex<Table>>,
    kubeconfig: PathBuf,
    // It stops when this is dropped.
    _runtime: tokio::runtime::Runtime,
}

impl ApiServer {
    pub fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let table = Arc::new(Mutex::new(Table::default()));
        let routes = Router::new().fallback(answer).with_state(table.clone());
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(async move { axum::serve(listener, routes).await.unwrap() });
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "clusters": [{"name": "test", "cluster": {"server": format!("http://{address}")}}],
            "users": [{"name": "test", "user": {}}],
        });
        let file = format!(
            "gridstake-kubeconfig-{}-{}",
            std::process::id(),
            STARTED.fetch_add(1, Ordering::Relaxed)
        );
        let path = std::env::temp_dir().join(file);
        std::fs::write(&path, kubeconfig.to_string()).unwrap();
        Self {
            table,
            kubeconfig: path,
            _runtime: runtime,
        }
    }

    pub fn kubeconfig(&self) -> &PathBuf {
        &self.kubeconfig
    }

    fn answers(&self, path: &str, answer: Answer) {
        let mut table = self.table.lock().unwrap();
        table.answers.insert(path.to_owned(), answer);
    }

    pub fn has(&self, path: &str, object: Value) {
        self.answers(path, Answer::Object(object));
    }

    pub fn lists(&self, path: &str, objects: &[Value]) {
        self.answers(path, Answer::List(objects.to_vec()));
    }

    pub fn lists_in_turn(&self, path: &str, pages: Vec<Vec<Value>>) {
        self.answers(path, Answer::InTurn(pages));
    }

    pub fn forbids(&self, path: &str) {
        self.answers(path, Answer::Forbidden);
    }

    /// Paths and queries, in order.
    pub fn asked(&self) -> Vec<String> {
        self.table.lock().unwrap().asked.clone()
    }

    pub fn patches(&self) -> Vec<Value> {
        self.table.lock().unwrap().patches.clone()
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.kubeconfig);
    }
}

type Reply = (StatusCode, [(HeaderName, &'static str); 1], String);

fn reply(code: StatusCode, value: &Value) -> Reply {
    let kind = [(CONTENT_TYPE, "application/json")];
    (code, kind, value.to_string())
}

fn status(code: StatusCode, reason: &str, message: &str) -> Reply {
    let status = json!({
        "apiVersion": "v1", "kind": "Status", "status": "Failure", "reason": reason, "message": message,
        "code": code.as_u16(), "metadata": {},
    });
    reply(code, &status)
}

async fn answer(
    State(table): State<Arc<Mutex<Table>>>,
    method: Method,
    uri: Uri,
    body: Bytes,
) -> Reply {
    let mut table = table.lock().unwrap();
    table.asked.push(uri.to_string());
    let query = uri.query().unwrap_or_default();
    match table.answers.get(uri.path()).cloned() {
        None => status(StatusCode::NOT_FOUND, "NotFound", "it is not there"),
        Some(Answer::Forbidden) => status(StatusCode::FORBIDDEN, "Forbidden", "not for you"),
        Some(Answer::Object(object)) => {
            if matches!(method, Method::PATCH | Method::POST) {
                table.patches.push(serde_json::from_slice(&body).unwrap());
            }
            reply(StatusCode::OK, &object)
        }
        Some(Answer::InTurn(mut pages)) => {
            let page = pages.first().cloned().unwrap_or_default();
            if pages.len() > 1 {
                pages.remove(0);
            }
            table
                .answers
                .insert(uri.path().to_owned(), Answer::InTurn(pages));
            let list = json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": page});
            reply(StatusCode::OK, &list)
        }
        Some(Answer::List(objects)) => {
            let token = query
                .split('&')
                .find_map(|part| part.strip_prefix("continue="));
            let from: usize = token.map_or(0, |token| token.parse().unwrap());
            let page: Vec<Value> = objects.iter().skip(from).take(PAGE).cloned().collect();
            let next = from + page.len();
            let next = if next < objects.len() {
                next.to_string()
            } else {
                String::new()
            };
            let list = json!({
                "apiVersion": "v1", "kind": "List", "metadata": {"continue": next}, "items": page,
            });
            reply(StatusCode::OK, &list)
        }
    }
}
