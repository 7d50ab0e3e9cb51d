//! Facts about job numbers, against an API server that keeps one ConfigMap.

use std::sync::Mutex as StdMutex;

use http::{Method, Request, Response};
use kube::client::Body;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// One ConfigMap and its version, as an API server keeps it.
#[derive(Clone, Default)]
struct Server(Arc<StdMutex<(u64, Option<Value>)>>);

impl Server {
    fn holding(data: &Value) -> Self {
        let server = Self::default();
        *server.0.lock().unwrap() = (
            7,
            Some(json!({"metadata": {"name": "lane-7-numbers"}, "data": data})),
        );
        server
    }

    fn numbers(&self) -> Numbers {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move {
                let method = request.method().clone();
                let sent = request.into_body().collect_bytes().await?;
                let (code, body) = server.answer(&method, serde_json::from_slice(&sent).ok());
                Ok::<_, Box<dyn std::error::Error + Send + Sync>>(
                    Response::builder()
                        .status(code)
                        .body(Body::from(body.to_string().into_bytes()))
                        .unwrap(),
                )
            }
        });
        Numbers::new(Client::new(service, "system"), "system", 7)
    }

    fn answer(&self, method: &Method, sent: Option<Value>) -> (u16, Value) {
        let refusal = |code: u16, reason: &str| {
            (
                code,
                json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "no", "reason": reason, "code": code}),
            )
        };
        let mut state = self.0.lock().unwrap();
        let version = state.0.to_string();
        match (method, &state.1) {
            (&Method::GET, None) => refusal(404, "NotFound"),
            (&Method::GET, Some(map)) => {
                let mut map = map.clone();
                map["metadata"]["resourceVersion"] = version.into();
                (200, map)
            }
            (&Method::POST, Some(_)) => refusal(409, "AlreadyExists"),
            (&Method::PUT, Some(_))
                if sent.as_ref().unwrap()["metadata"]["resourceVersion"] != version =>
            {
                refusal(409, "Conflict")
            }
            (&Method::POST | &Method::PUT, _) => {
                *state = (state.0 + 1, sent.clone());
                (200, sent.unwrap())
            }
            _ => refusal(405, "MethodNotAllowed"),
        }
    }
}

async fn taken(numbers: &Numbers, count: usize) -> Vec<u64> {
    let mut all = Vec::new();
    for _ in 0..count {
        all.push(numbers.take(0).await.unwrap());
    }
    all
}

#[tokio::test]
async fn numbers_are_dense_within_and_across_blocks() {
    let numbers = Server::default().numbers();
    assert_eq!(taken(&numbers, 600).await, (0..600).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_restart_abandons_the_rest_of_a_block_and_repeats_nothing() {
    let server = Server::default();
    assert_eq!(taken(&server.numbers(), 3).await, [0, 1, 2]);
    assert_eq!(taken(&server.numbers(), 2).await, [256, 257]);
}

#[tokio::test]
async fn two_operators_that_both_believe_they_lead_never_give_out_the_same_number() {
    let server = Server::default();
    let (a, b) = (server.numbers(), server.numbers());
    let (of_a, of_b) = tokio::join!(taken(&a, 300), taken(&b, 300));
    let mut all: Vec<_> = of_a.into_iter().chain(of_b).collect();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 600);
}

#[tokio::test]
async fn a_number_that_was_given_back_is_the_next_one() {
    let numbers = Server::default().numbers();
    assert_eq!(taken(&numbers, 3).await, [0, 1, 2]);
    numbers.give_back(1).await;
    assert_eq!(taken(&numbers, 2).await, [1, 3]);
}

#[tokio::test]
async fn a_lost_config_map_does_not_bring_old_numbers_back() {
    let numbers = Server::default().numbers();
    assert_eq!(numbers.take(257).await.unwrap(), 512);
    let numbers = Server::default().numbers();
    assert_eq!(numbers.take(256).await.unwrap(), 256);
}

#[tokio::test]
async fn a_config_map_that_somebody_has_written_into_is_complained_about() {
    let numbers = Server::holding(&json!({"next": "many"})).numbers();
    let error = numbers.take(0).await.unwrap_err().to_string();
    assert!(
        error.contains("lane-7-numbers") && error.contains("\"many\""),
        "{error}"
    );
    let numbers = Server::holding(&json!({"next": u64::MAX.to_string()})).numbers();
    assert!(matches!(numbers.take(0).await, Err(NumbersError::Spent(_))));
}

#[tokio::test]
async fn numbers_that_somebody_may_have_had_are_given_out_by_nobody() {
    for (next, count, expected) in [
        (None, 1, 256),
        (Some("512"), 1000, 1536),
        (Some("512"), 0, 512),
    ] {
        let server = next.map_or_else(Server::default, |next| {
            Server::holding(&json!({"next": next}))
        });
        server.numbers().leap(count).await.unwrap();
        assert_eq!(
            server.numbers().take(0).await.unwrap(),
            expected,
            "{next:?}"
        );
    }
    let last = Server::holding(&json!({"next": (u64::MAX - 512).to_string()})).numbers();
    assert!(matches!(last.leap(1000).await, Err(NumbersError::Spent(_))));
}

/// What may happen to an operator that numbers records.
#[derive(Clone, Debug)]
enum Event {
    Take,
    GiveBack,
    Restart,
}

proptest! {
    #[test]
    fn no_number_is_in_use_twice_whatever_happens(
        events in prop::collection::vec((0..2usize, prop_oneof![
            8 => Just(Event::Take), 2 => Just(Event::GiveBack), 1 => Just(Event::Restart),
        ]), 1..200)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let _within = runtime.enter();
        let server = Server::default();
        let mut operators = [server.numbers(), server.numbers()];
        let mut in_use: [Vec<u64>; 2] = Default::default();
        runtime.block_on(async {
            for (who, event) in events {
                match event {
                    Event::Take => in_use[who].push(operators[who].take(0).await.unwrap()),
                    Event::GiveBack => if let Some(number) = in_use[who].pop() {
                        operators[who].give_back(number).await;
                    },
                    Event::Restart => operators[who] = server.numbers(),
                }
            }
        });
        let mut all = in_use.concat();
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        prop_assert_eq!(all.len(), count);
    }
}

#[test]
fn above_the_highest_number_there_is_no_block_and_not_the_first_one_again() {
    for floor in [u64::MAX, u64::MAX - 1] {
        let reserved = advanced("numbers", Some("512"), floor);
        assert!(
            matches!(reserved, Err(NumbersError::Spent(_))),
            "{reserved:?}"
        );
    }
}
