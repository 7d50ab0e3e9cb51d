//! The two wires of a replica, to the chain and to the API server, without a network: each request is an occasion for
//! something to go wrong.

use std::{
    collections::BTreeMap,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll},
};

use alloy::{
    providers::{DynProvider, Provider as _, ProviderBuilder},
    rpc::{
        client::RpcClient,
        json_rpc::{
            ErrorPayload, RequestPacket, Response as RpcResponse, ResponsePacket, ResponsePayload,
            SerializedRequest,
        },
    },
    transports::{TransportError, TransportErrorKind, TransportFut},
};
use http::{Request, Response};
use kube::client::Body;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};
use tower::Service;

use super::{nature::Nature, script::Mishap};
use crate::api_server::ApiServer;

/// Asks the stage to let another replica make a pass, and to say when it has.
pub type OtherLeads = oneshot::Sender<()>;

#[derive(Debug, Default)]
struct State {
    asked: usize,
    mishaps: BTreeMap<usize, Mishap>,
    dead: bool,
}

/// Where the requests of one replica go through.
#[derive(Clone)]
pub struct Wire {
    state: Arc<Mutex<State>>,
    nature: Nature,
    api: ApiServer,
    others: mpsc::UnboundedSender<OtherLeads>,
}

/// What becomes of a request.
enum Fate {
    Arrives,
    Behind(u64),
    Lost,
    AnswerLost,
    Garbled,
    Busy,
    Refused,
}

impl Wire {
    pub fn new(nature: Nature, api: ApiServer, others: mpsc::UnboundedSender<OtherLeads>) -> Self {
        Self {
            state: Arc::default(),
            nature,
            api,
            others,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// From now on these requests go wrong, counted from the next one.
    pub fn expect(&self, mishaps: &[(usize, Mishap)]) {
        let mut state = self.state();
        state.asked = 0;
        state.mishaps = mishaps.iter().copied().collect();
    }

    pub fn is_dead(&self) -> bool {
        self.state().dead
    }

    async fn fate(&self, method: &str, path: &str) -> Fate {
        let mishap = {
            let mut state = self.state();
            if state.dead {
                return Fate::Lost;
            }
            let number = state.asked;
            state.asked += 1;
            let mishap = state.mishaps.remove(&number);
            tracing::debug!(number, method, path, ?mishap, "asked");
            mishap
        };
        match mishap {
            None => Fate::Arrives,
            Some(Mishap::Lost) => Fate::Lost,
            Some(Mishap::AnswerLost) => Fate::AnswerLost,
            Some(Mishap::Garbled) => Fate::Garbled,
            Some(Mishap::Busy) => Fate::Busy,
            Some(Mishap::Refused) => Fate::Refused,
            Some(Mishap::Behind(blocks)) => Fate::Behind(blocks),
            Some(Mishap::Dies) => {
                self.state().dead = true;
                Fate::Lost
            }
            Some(Mishap::DiesAfter) => {
                self.state().dead = true;
                Fate::AnswerLost
            }
            Some(Mishap::Before(weather)) => {
                // Whoever asks may leave off asking meanwhile; what has begun to happen happens.
                let nature = self.nature.clone();
                let _ = tokio::spawn(async move { nature.be(weather).await }).await;
                Fate::Arrives
            }
            Some(Mishap::OtherLeads) => {
                let (done, wait) = oneshot::channel();
                if self.others.send(done).is_ok() {
                    let _ = wait.await;
                }
                Fate::Arrives
            }
        }
    }

    /// An endpoint at the end of this wire.
    pub fn endpoint(&self) -> DynProvider {
        let client = RpcClient::new(ToChain(self.clone()), true);
        ProviderBuilder::new()
            .disable_recommended_fillers()
            .connect_client(client)
            .erased()
    }

    /// A client of the API server at the end of this wire.
    pub fn api_client(&self) -> kube::Client {
        kube::Client::new(ToApi(self.clone()), "default")
    }

    async fn ask_chain(self, request: SerializedRequest) -> Result<RpcResponse, TransportError> {
        let fate = self.fate(request.method(), "").await;
        if self.nature.is_away() {
            return Err(TransportErrorKind::custom_str("cannot connect"));
        }
        let behind = match fate {
            Fate::Lost => return Err(TransportErrorKind::custom_str("connection reset")),
            Fate::Busy => return Err(TransportErrorKind::http_error(429, "slow down".to_owned())),
            Fate::Behind(blocks) => blocks,
            _ => 0,
        };
        let params: Value = request.params().map_or(Value::Null, |params| {
            serde_json::from_str(params.get()).unwrap()
        });
        let payload = if matches!(fate, Fate::Refused) {
            Err((-32_000, "the node is in trouble".to_owned(), None))
        } else {
            self.nature.rpc(request.method(), &params, behind).await
        };
        let raw = |value: &Value| serde_json::value::to_raw_value(value).unwrap();
        let payload = match (fate, payload) {
            (Fate::AnswerLost, _) => {
                return Err(TransportErrorKind::custom_str("connection reset"));
            }
            (Fate::Garbled, _) => {
                let error = serde_json::from_str::<Value>("{\"jsonrpc\":").unwrap_err();
                return Err(TransportError::deser_err(error, "{\"jsonrpc\":"));
            }
            (_, Ok(answer)) => ResponsePayload::Success(raw(&answer)),
            (_, Err((code, message, data))) => ResponsePayload::Failure(ErrorPayload {
                code,
                message: message.into(),
                data: data.map(|data| raw(&Value::from(data.to_string()))),
            }),
        };
        Ok(RpcResponse {
            id: request.id().clone(),
            payload,
        })
    }

    async fn ask_api(self, request: Request<Body>) -> Result<Response<Body>, std::io::Error> {
        let (method, path) = (request.method().as_str(), request.uri().path());
        let fate = self.fate(method, path).await;
        let lost = || Err(std::io::Error::other("connection reset"));
        let (parts, body) = request.into_parts();
        match fate {
            Fate::Lost | Fate::Busy | Fate::Refused => return lost(),
            Fate::Arrives | Fate::AnswerLost | Fate::Garbled | Fate::Behind(_) => {}
        }
        let body = body.collect_bytes().await.map_err(std::io::Error::other)?;
        let (code, answer) = self.api.ask(&parts.method, &parts.uri, &body);
        match fate {
            Fate::AnswerLost | Fate::Garbled => lost(),
            _ => Ok(Response::builder()
                .status(code)
                .header("content-type", "application/json")
                .body(Body::from(answer.to_string().into_bytes()))
                .unwrap()),
        }
    }
}

#[derive(Clone)]
struct ToChain(Wire);

impl Service<RequestPacket> for ToChain {
    type Response = ResponsePacket;
    type Error = TransportError;
    type Future = TransportFut<'static>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, packet: RequestPacket) -> Self::Future {
        let wire = self.0.clone();
        Box::pin(async move {
            match packet {
                RequestPacket::Single(request) => {
                    wire.ask_chain(request).await.map(ResponsePacket::Single)
                }
                RequestPacket::Batch(_) => panic!("nothing asks in batches"),
            }
        })
    }
}

#[derive(Clone)]
struct ToApi(Wire);

impl Service<Request<Body>> for ToApi {
    type Response = Response<Body>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, std::io::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), std::io::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.0.clone().ask_api(request))
    }
}
