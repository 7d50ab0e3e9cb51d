//! An endpoint that lies: it stands before anvil, below everything that alloy does, and tells the truth until it is told
//! otherwise.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
};

use alloy::hex;
use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use reqwest::Url;
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};

use crate::anvil::Anvil;

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lie {
    /// It reaches the node; the connection ends before the answer.
    AnswerLost,
    /// It reaches the node; the answer comes when nobody waits for it any more.
    Late,
    /// It is answered as by a node that has no block above this one.
    Stale(u64),
    /// It is answered by the newest block's state, whatever block it names.
    Newest,
    /// It is answered by the other chain.
    OtherChain,
    /// If it asks for the safe or the final block, it is answered by the other chain.
    OtherChainsTags,
    /// It does not reach the node, and is answered as if it had. Transactions only.
    Swallowed,
    /// It reaches the node; half of the answer comes.
    Truncated,
    /// It is turned away with this status, and with `Retry-After` in seconds if there is one.
    Status(u16, Option<u32>),
    /// It reaches the node, whose pool forgets all transactions at once.
    Forgets,
    /// It is refused with an error of JSON-RPC.
    Refused,
    /// It is answered without an end.
    Endless,
}

#[derive(Default)]
struct Script {
    lie: Option<Lie>,
    /// Of which method; `None`: of all.
    method: Option<String>,
    /// How many more requests are lied to.
    left: usize,
    told: usize,
    asked: BTreeMap<String, usize>,
    other_chain: Option<Url>,
    /// Methods that the other chain was asked.
    strayed: BTreeMap<String, usize>,
}

#[derive(Clone)]
struct Shared {
    anvil: Url,
    http: reqwest::Client,
    script: Arc<Mutex<Script>>,
}

pub struct LyingRpc {
    pub url: Url,
    address: SocketAddr,
    shared: Shared,
    server: Option<JoinHandle<()>>,
}

impl Drop for LyingRpc {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.abort();
        }
    }
}

impl LyingRpc {
    pub async fn before(anvil: &Anvil) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Shared {
            anvil: anvil.url.clone(),
            http: reqwest::Client::builder()
                .tls_certs_only([])
                .no_proxy()
                .build()
                .unwrap(),
            script: Arc::default(),
        };
        Self {
            url: format!("http://{address}").parse().unwrap(),
            address,
            server: Some(serve(listener, shared.clone())),
            shared,
        }
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.shared.script.lock().unwrap()
    }

    /// The next `times` requests of `method`, or of any, are lied to.
    pub fn lie(&self, lie: Lie, method: Option<&str>, times: usize) {
        let mut script = self.script();
        script.lie = Some(lie);
        script.method = method.map(ToOwned::to_owned);
        script.left = times;
        script.told = 0;
    }

    pub fn tell_the_truth(&self) {
        self.script().lie = None;
    }

    /// How many requests have been lied to since it was told to lie.
    pub fn told(&self) -> usize {
        self.script().told
    }

    /// How often this method was asked.
    pub fn asked(&self, method: &str) -> usize {
        self.script().asked.get(method).copied().unwrap_or(0)
    }

    /// Which chain answers with [`Lie::OtherChain`].
    pub fn other_chain(&self, anvil: &Anvil) {
        self.script().other_chain = Some(anvil.url.clone());
    }

    /// How often the other chain was asked this method.
    pub fn strayed(&self, method: &str) -> usize {
        self.script().strayed.get(method).copied().unwrap_or(0)
    }

    /// Refuses connections.
    pub async fn go_away(&mut self) {
        if let Some(server) = self.server.take() {
            server.abort();
            // The listener is closed once the task is gone.
            let _ = server.await;
        }
    }

    pub async fn come_back(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.server = Some(serve(listener, self.shared.clone()));
    }
}

fn serve(listener: TcpListener, shared: Shared) -> JoinHandle<()> {
    let routes = Router::new().fallback(answer).with_state(shared);
    tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() })
}

async fn answer(State(shared): State<Shared>, body: Bytes) -> Response {
    let request: Value = serde_json::from_slice(&body).unwrap();
    let method = request["method"].as_str().unwrap().to_owned();
    let lie = shared.lie_to(&method);
    let Some(lie) = lie else {
        return ok(shared.forward(&shared.anvil, &request).await.to_string());
    };
    match lie {
        Lie::Status(status, retry_after) => turned_away(status, retry_after),
        Lie::Endless => {
            let begin = Bytes::from_static(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":\"0x");
            let more = std::iter::repeat(Bytes::from(vec![b'0'; 1 << 20]));
            let parts = std::iter::once(begin).chain(more).map(Ok::<_, Infallible>);
            let without_end = Body::from_stream(futures::stream::iter(parts));
            ([("connection", "close")], without_end).into_response()
        }
        Lie::Refused => {
            let error = json!({"code": -32000, "message": "the node is in trouble"});
            ok(json!({"jsonrpc": "2.0", "id": request["id"], "error": error}).to_string())
        }
        Lie::OtherChain => {
            let other = {
                let mut script = shared.script.lock().unwrap();
                *script.strayed.entry(method).or_default() += 1;
                script.other_chain.clone().unwrap()
            };
            ok(shared.forward(&other, &request).await.to_string())
        }
        Lie::OtherChainsTags => {
            let tag = request["params"][0].as_str();
            let other = shared.script.lock().unwrap().other_chain.clone().unwrap();
            let to = match tag {
                Some("safe" | "finalized") => &other,
                _ => &shared.anvil,
            };
            ok(shared.forward(to, &request).await.to_string())
        }
        Lie::Swallowed => {
            let raw = hex::decode(request["params"][0].as_str().unwrap()).unwrap();
            let hash = alloy::primitives::keccak256(raw).to_string();
            ok(json!({"jsonrpc": "2.0", "id": request["id"], "result": hash}).to_string())
        }
        Lie::Newest => {
            let mut request = request;
            request["params"][1] = json!("latest");
            ok(shared.forward(&shared.anvil, &request).await.to_string())
        }
        Lie::Stale(height) => ok(shared.stale(&request, height).await.to_string()),
        Lie::AnswerLost => {
            shared.forward(&shared.anvil, &request).await;
            let lost = futures::stream::iter([Err::<Bytes, _>(std::io::Error::other("lost"))]);
            Body::from_stream(lost).into_response()
        }
        Lie::Late => {
            shared.forward(&shared.anvil, &request).await;
            std::future::pending().await
        }
        Lie::Truncated => {
            let mut text = shared.forward(&shared.anvil, &request).await.to_string();
            text.truncate(text.len() / 2);
            ok(text)
        }
        Lie::Forgets => {
            let answer = shared.forward(&shared.anvil, &request).await;
            let hash = &answer["result"];
            if hash.is_string() {
                let forget = json!({"jsonrpc": "2.0", "id": 1, "method": "anvil_dropTransaction", "params": [hash]});
                shared.forward(&shared.anvil, &forget).await;
            }
            ok(answer.to_string())
        }
    }
}

/// Connections end with their answer, so that none outlives an endpoint that has gone away.
fn ok(text: String) -> Response {
    let headers = [
        ("content-type", "application/json"),
        ("connection", "close"),
    ];
    (StatusCode::OK, headers, text).into_response()
}

fn turned_away(status: u16, retry_after: Option<u32>) -> Response {
    let status = StatusCode::from_u16(status).unwrap();
    let mut response = (status, [("connection", "close")], "slow down").into_response();
    if let Some(seconds) = retry_after {
        response.headers_mut().insert("retry-after", seconds.into());
    }
    response
}

fn number(quantity: &Value) -> Option<u64> {
    u64::from_str_radix(quantity.as_str()?.strip_prefix("0x")?, 16).ok()
}

impl Shared {
    /// The lie that a request of `method` is told now.
    fn lie_to(&self, method: &str) -> Option<Lie> {
        let mut script = self.script.lock().unwrap();
        *script.asked.entry(method.to_owned()).or_default() += 1;
        let meant = script.method.as_deref().is_none_or(|one| one == method);
        if script.lie.is_none() || !meant || script.left == 0 {
            return None;
        }
        script.left -= 1;
        script.told += 1;
        script.lie.clone()
    }

    async fn forward(&self, to: &Url, request: &Value) -> Value {
        let answer = self
            .http
            .post(to.clone())
            .header("content-type", "application/json")
            .body(request.to_string())
            .send()
            .await
            .unwrap();
        serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap()
    }

    /// The height of the block that a read goes by; `None` if there is no such block.
    async fn height(&self, place: &Value) -> Option<u64> {
        let named = place.get("blockHash").unwrap_or(place);
        if named.as_str()?.len() < 66 {
            return number(named);
        }
        let by_hash = json!({"jsonrpc": "2.0", "id": 1, "method": "eth_getBlockByHash", "params": [named, false]});
        let answer = self.forward(&self.anvil, &by_hash).await;
        number(&answer["result"]["number"])
    }

    /// The answer of a node that has no block above `newest`, true in all that it has.
    async fn stale(&self, request: &Value, newest: u64) -> Value {
        let id = &request["id"];
        let nothing = json!({"jsonrpc": "2.0", "id": id, "result": null});
        let unknown = json!({"jsonrpc": "2.0", "id": id, "error": {"code": -32000, "message": "header not found"}});
        let mut request = request.clone();
        let method = request["method"].as_str().unwrap().to_owned();
        let tag = |tag: &Value| match tag.as_str() {
            Some("latest" | "pending") => json!(format!("{newest:#x}")),
            Some("safe") => json!(format!("{:#x}", newest.saturating_sub(1))),
            Some("finalized") => json!(format!("{:#x}", newest.saturating_sub(2))),
            _ => tag.clone(),
        };
        match method.as_str() {
            "eth_getBlockByNumber" => {
                request["params"][0] = tag(&request["params"][0]);
                if number(&request["params"][0]) > Some(newest) {
                    return nothing;
                }
                self.forward(&self.anvil, &request).await
            }
            "eth_getBlockByHash" | "eth_getTransactionReceipt" => {
                let answer = self.forward(&self.anvil, &request).await;
                let result = &answer["result"];
                let height = number(&result["number"]).or(number(&result["blockNumber"]));
                if height > Some(newest) {
                    nothing
                } else {
                    answer
                }
            }
            "eth_call" | "eth_getCode" | "eth_getTransactionCount" | "eth_getBalance" => {
                match self.height(&request["params"][1]).await {
                    Some(height) if height <= newest => self.forward(&self.anvil, &request).await,
                    _ => unknown,
                }
            }
            "eth_estimateGas" => {
                request["params"] = json!([request["params"][0], format!("{newest:#x}")]);
                self.forward(&self.anvil, &request).await
            }
            "eth_getLogs" => {
                let filter = &mut request["params"][0];
                if let Some(hash) = filter.get("blockHash").cloned() {
                    let height = self.height(&hash).await;
                    if height.is_none_or(|height| height > newest) {
                        return unknown;
                    }
                } else if number(&filter["fromBlock"]) > Some(newest) {
                    return json!({"jsonrpc": "2.0", "id": id, "result": []});
                } else if number(&filter["toBlock"]) > Some(newest) {
                    filter["toBlock"] = json!(format!("{newest:#x}"));
                }
                self.forward(&self.anvil, &request).await
            }
            _ => self.forward(&self.anvil, &request).await,
        }
    }
}
