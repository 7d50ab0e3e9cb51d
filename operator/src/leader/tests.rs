//! Facts about the election: over HTTP, and as a simulation.

use std::time::{Duration, Instant};

use gridstake_crds::names::ANNOTATION_LAPSE;
use http::{Method, Request, Response, StatusCode};
use k8s_openapi::{
    api::coordination::v1::Lease,
    jiff::{SignedDuration, Timestamp},
};
use kube::{Api, Client, client::Body};
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{Bid, Elector, Ended, Sighting, Terms, bid};
use crate::metrics::Metrics;

/// Requests in their order, each with where its answer goes.
type ApiServer = mpsc::UnboundedReceiver<(Request<Body>, oneshot::Sender<Response<Body>>)>;

const TERMS: Terms = Terms {
    lease_duration: Duration::from_secs(15),
    renew_deadline: Duration::from_secs(10),
    retry_period: Duration::from_millis(5),
};

fn elector() -> (Elector, ApiServer) {
    let (requests, server) = mpsc::unbounded_channel();
    let service = tower::service_fn(move |request: Request<Body>| {
        let (answer, response) = oneshot::channel();
        let sent = requests.send((request, answer));
        async move {
            sent.map_err(|_| "the server is gone")?;
            response.await.map_err(|_| "the server hung up")
        }
    });
    let client = Client::new(service, "gridstake-system");
    let api: Api<Lease> = Api::namespaced(client, "gridstake-system");
    let elector = Elector::new(api, "me".into(), TERMS, Metrics::new().unwrap());
    (elector, server)
}

fn lease(holder: &str, version: &str) -> Value {
    json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": "gridstake-operator", "namespace": "gridstake-system", "resourceVersion": version},
        "spec": {"holderIdentity": holder, "leaseDurationSeconds": 15, "leaseTransitions": 4}})
}

fn refusal(code: u16, reason: &str) -> (StatusCode, Value) {
    let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "no", "reason": reason, "code": code});
    (StatusCode::from_u16(code).unwrap(), body)
}

/// Answers the next request, which must be of this method, and returns its body.
async fn answer(
    server: &mut ApiServer,
    method: Method,
    (code, body): (StatusCode, Value),
) -> Value {
    let (request, reply) = server.recv().await.unwrap();
    assert_eq!(request.method(), method, "{}", request.uri());
    let sent = request.into_body().collect_bytes().await.unwrap();
    let response = Response::builder()
        .status(code)
        .body(Body::from(body.to_string().into_bytes()));
    let _ = reply.send(response.unwrap());
    serde_json::from_slice(&sent).unwrap_or(Value::Null)
}

fn ok(lease: Value) -> (StatusCode, Value) {
    (StatusCode::OK, lease)
}

#[tokio::test]
async fn a_free_lease_is_taken_at_the_version_that_was_read() {
    let (elector, mut server) = elector();
    let leadership = elector.leadership();
    let stop = CancellationToken::new();
    let run = tokio::spawn(elector.run(stop.clone()));
    answer(&mut server, Method::GET, ok(lease("", "7"))).await;
    let put = answer(&mut server, Method::PUT, ok(lease("me", "8"))).await;
    assert_eq!(put["metadata"]["resourceVersion"], "7");
    assert_eq!(put["spec"]["holderIdentity"], "me");
    assert_eq!(put["spec"]["leaseTransitions"], 5);
    leadership.acquired().await;
    assert!(leadership.holds());

    // The leader renews without looking, at the version that it wrote.
    let renewal = answer(&mut server, Method::PUT, ok(lease("me", "9"))).await;
    assert_eq!(renewal["metadata"]["resourceVersion"], "8");
    assert_eq!(renewal["spec"]["leaseTransitions"], 4);

    stop.cancel();
    // One more renewal may be under way; the last write empties the lease.
    loop {
        let write = answer(&mut server, Method::PUT, ok(lease("me", "10"))).await;
        if write["spec"].get("holderIdentity").is_none() {
            break;
        }
    }
    assert_eq!(run.await.unwrap(), Ended::Stopped);
    assert!(!leadership.holds());
}

#[tokio::test]
async fn a_conflict_loses_and_the_winner_is_waited_for() {
    let (elector, mut server) = elector();
    let leadership = elector.leadership();
    let stop = CancellationToken::new();
    let run = tokio::spawn(elector.run(stop.clone()));
    answer(&mut server, Method::GET, ok(lease("", "7"))).await;
    answer(&mut server, Method::PUT, refusal(409, "Conflict")).await;
    answer(&mut server, Method::GET, ok(lease("you", "8"))).await;
    // The next bid only looks.
    answer(&mut server, Method::GET, ok(lease("you", "8"))).await;
    assert!(!leadership.holds());
    stop.cancel();
    drop(server);
    assert_eq!(run.await.unwrap(), Ended::Stopped);
}

#[tokio::test]
async fn a_missing_lease_is_created() {
    let (elector, mut server) = elector();
    let leadership = elector.leadership();
    let run = tokio::spawn(elector.run(CancellationToken::new()));
    answer(&mut server, Method::GET, refusal(404, "NotFound")).await;
    let post = answer(&mut server, Method::POST, ok(lease("me", "1"))).await;
    assert_eq!(post["metadata"]["name"], "gridstake-operator");
    assert!(post["metadata"].get("resourceVersion").is_none());
    leadership.acquired().await;
    run.abort();
}

#[tokio::test]
async fn a_leader_that_finds_another_holder_has_lost() {
    let (elector, mut server) = elector();
    let leadership = elector.leadership();
    let run = tokio::spawn(elector.run(CancellationToken::new()));
    answer(&mut server, Method::GET, ok(lease("me", "7"))).await;
    answer(&mut server, Method::PUT, ok(lease("me", "8"))).await;
    answer(&mut server, Method::PUT, refusal(409, "Conflict")).await;
    answer(&mut server, Method::GET, ok(lease("you", "9"))).await;
    assert_eq!(run.await.unwrap(), Ended::Lost);
    assert!(!leadership.holds());
}

#[tokio::test]
async fn a_leader_whose_write_vanished_looks_before_it_writes_again() {
    let (elector, mut server) = elector();
    let leadership = elector.leadership();
    let run = tokio::spawn(elector.run(CancellationToken::new()));
    answer(&mut server, Method::GET, ok(lease("", "7"))).await;
    answer(&mut server, Method::PUT, ok(lease("me", "8"))).await;
    answer(&mut server, Method::PUT, refusal(500, "InternalError")).await;
    answer(&mut server, Method::GET, ok(lease("me", "9"))).await;
    let again = answer(&mut server, Method::PUT, ok(lease("me", "10"))).await;
    assert_eq!(again["metadata"]["resourceVersion"], "9");
    assert!(leadership.holds());
    run.abort();
}

fn renewed(holder: &str, version: &str, seconds_ago: i64) -> Value {
    let ago = SignedDuration::from_secs(seconds_ago);
    let at = Timestamp::now().checked_sub(ago).unwrap();
    let mut lease = lease(holder, version);
    lease["spec"]["renewTime"] = json!(format!("{at:.6}"));
    lease
}

#[tokio::test]
async fn a_leader_that_finds_the_lease_as_it_was_long_ago_says_so_in_the_write_by_which_it_leads() {
    let (elector, mut server) = elector();
    let leadership = elector.leadership();
    let run = tokio::spawn(elector.run(CancellationToken::new()));
    answer(&mut server, Method::GET, ok(renewed("", "7", 3600))).await;
    let put = answer(&mut server, Method::PUT, ok(renewed("me", "8", 0))).await;
    leadership.acquired().await;
    let lapse = leadership.lapse().unwrap();
    assert_eq!(lapse.length().as_secs(), 3600);
    assert_eq!(
        put["metadata"]["annotations"][ANNOTATION_LAPSE],
        lapse.text()
    );

    // The API server is restored under it, from a backup that is younger than a change of leaders takes. What is seen of it
    // counts once a renewal has been written since.
    let listed = Some(Instant::now());
    assert!(leadership.is_renewed_since(None));
    answer(&mut server, Method::PUT, refusal(409, "Conflict")).await;
    answer(&mut server, Method::GET, ok(renewed("me", "5", 20))).await;
    assert!(!leadership.is_renewed_since(listed));
    let put = answer(&mut server, Method::PUT, ok(renewed("me", "10", 0))).await;
    assert!(put["metadata"]["annotations"][ANNOTATION_LAPSE].is_string());
    // Its next write comes after that one was understood.
    answer(&mut server, Method::PUT, ok(renewed("me", "11", 0))).await;
    assert!(leadership.is_renewed_since(listed));
    let second = leadership.lapse().unwrap();
    assert!(second.until > lapse.until);
    assert_eq!(second.length().as_secs(), 20);
    run.abort();
}

#[tokio::test]
async fn a_lease_that_is_renewed_or_was_released_just_now_tells_of_no_lapse() {
    for (holder, seconds) in [("", 0), ("", 40), ("me", 30)] {
        let (elector, mut server) = elector();
        let leadership = elector.leadership();
        let run = tokio::spawn(elector.run(CancellationToken::new()));
        answer(&mut server, Method::GET, ok(renewed(holder, "7", seconds))).await;
        let put = answer(&mut server, Method::PUT, ok(renewed("me", "8", 0))).await;
        leadership.acquired().await;
        assert_eq!(leadership.lapse(), None);
        assert!(put["metadata"]["annotations"][ANNOTATION_LAPSE].is_null());
        run.abort();
    }
}

#[tokio::test]
async fn a_standby_says_in_the_lease_that_what_it_has_seen_of_it_is_lost() {
    let (elector, mut server) = elector();
    let leadership = elector.leadership();
    let run = tokio::spawn(elector.run(CancellationToken::new()));
    answer(&mut server, Method::GET, ok(renewed("you", "7", 3))).await;
    // The API server is restored, and the leader, which was started again, has not seen that.
    answer(&mut server, Method::GET, ok(renewed("you", "8", 30))).await;
    let put = answer(&mut server, Method::PUT, refusal(409, "Conflict")).await;
    assert_eq!(put["spec"]["holderIdentity"], "you");
    assert_eq!(put["metadata"]["resourceVersion"], "8");
    // It has renewed its lease in the meantime.
    answer(&mut server, Method::GET, ok(renewed("you", "9", 0))).await;
    answer(&mut server, Method::GET, ok(renewed("you", "10", 0))).await;
    let put = answer(&mut server, Method::PUT, ok(renewed("you", "11", 0))).await;
    assert!(put["metadata"]["annotations"][ANNOTATION_LAPSE].is_string());
    assert_eq!(put["metadata"]["resourceVersion"], "10");
    assert_eq!(put["spec"]["holderIdentity"], "you");
    // Once is enough.
    answer(&mut server, Method::GET, ok(renewed("you", "12", 0))).await;
    answer(&mut server, Method::GET, ok(renewed("you", "13", 0))).await;
    assert!(!leadership.holds());
    run.abort();
}

/// A candidate of the simulation: the rules of [`Elector`], with the clock and the network in the test's hands.
#[derive(Clone, Default)]
struct Candidate {
    seen: Option<Sighting>,
    believes: Vec<(u64, u64)>,
    /// A write under way: when it was sent, when it arrives, when its answer is back, at which version.
    write: Option<Write>,
    /// A look under way: what it read, and when it is back.
    look: Option<(u64, Option<Lease>)>,
}

#[derive(Clone)]
struct Write {
    sent: u64,
    arrives: u64,
    answered: u64,
    version: u64,
    result: Option<bool>,
}

#[derive(Debug, Clone)]
struct Step {
    candidate: usize,
    /// Until the request arrives, and until the answer is back, in milliseconds.
    there: u64,
    back: u64,
    pause: u64,
}

fn stored(version: u64, holder: Option<usize>) -> Lease {
    let holder = holder.map(|holder| format!("r{holder}"));
    serde_json::from_value(
        json!({"metadata": {"name": "l", "resourceVersion": version.to_string()},
        "spec": {"holderIdentity": holder, "leaseDurationSeconds": 15}}),
    )
    .unwrap()
}

/// Runs the steps and returns, for each candidate, the spans in which it believed that it led.
fn simulate(steps: &[Step]) -> Vec<Vec<(u64, u64)>> {
    let start = Instant::now();
    let at = |milli: u64| start + Duration::from_millis(milli);
    let mut candidates = vec![Candidate::default(); 3];
    let (mut version, mut holder) = (1_u64, None::<usize>);
    let mut now = 0;
    for step in steps {
        let until = now + step.pause;
        // Time passes in small steps, so that what is under way arrives in its order.
        while now < until {
            now += 50;
            for (index, candidate) in candidates.iter_mut().enumerate() {
                if let Some(write) = &mut candidate.write {
                    if write.result.is_none() && now >= write.arrives {
                        let accepted = write.version == version;
                        if accepted {
                            version += 1;
                            holder = Some(index);
                        }
                        write.result = Some(accepted);
                        write.version = version;
                    }
                    if now >= write.answered && write.result == Some(true) {
                        let written = stored(write.version, Some(index));
                        candidate.seen =
                            Some(Sighting::update(candidate.seen.take(), written, at(now)));
                        let until = write.sent + 10_000;
                        if now < until {
                            candidate.believes.push((now, until));
                        }
                    }
                    if now >= write.answered && write.result.is_some() {
                        candidate.write = None;
                    }
                }
                if candidate
                    .look
                    .as_ref()
                    .is_some_and(|(back, _)| now >= *back)
                    && let Some((_, read)) = candidate.look.take()
                {
                    let before = candidate.seen.take();
                    candidate.seen = read.map(|lease| Sighting::update(before, lease, at(now)));
                }
            }
        }
        let me = format!("r{}", step.candidate);
        let candidate = &mut candidates[step.candidate];
        if candidate.write.is_some() || candidate.look.is_some() {
            continue;
        }
        let choice = bid(candidate.seen.as_ref(), &me, &TERMS, at(now));
        if candidate.seen.is_some() && matches!(choice, Bid::Renew | Bid::Take) {
            let seen = candidate
                .seen
                .as_ref()
                .and_then(|seen| seen.lease.metadata.resource_version.clone());
            candidate.write = Some(Write {
                sent: now,
                arrives: now + step.there,
                answered: now + step.there + step.back,
                version: seen.unwrap().parse().unwrap(),
                result: None,
            });
            // After a refusal it must look again; a look refreshes the version in either case.
            candidate.look = None;
        } else {
            candidate.look = Some((now + step.back, Some(stored(version, holder))));
        }
        // Whatever it was about, the next turn looks first unless a write succeeds meanwhile.
        if step.there % 3 == 0 && candidate.write.is_none() {
            candidate.look = Some((now + step.back, Some(stored(version, holder))));
        }
    }
    candidates
        .into_iter()
        .map(|candidate| candidate.believes)
        .collect()
}

proptest! {
    #[test]
    fn no_two_replicas_ever_believe_that_they_lead(
        steps in prop::collection::vec(
            (0..3_usize, 0..12_000_u64, 0..12_000_u64, 0..6_000_u64)
                .prop_map(|(candidate, there, back, pause)| Step { candidate, there, back, pause }),
            1..120,
        )
    ) {
        let spans = simulate(&steps);
        for (a, spans_a) in spans.iter().enumerate() {
            for spans_b in spans.iter().skip(a + 1) {
                for (from, to) in spans_a {
                    for (other_from, other_to) in spans_b {
                        prop_assert!(to <= other_from || other_to <= from, "{from}..{to} and {other_from}..{other_to}");
                    }
                }
            }
        }
    }

    #[test]
    fn with_a_working_network_somebody_leads(order in prop::collection::vec(0..3_usize, 60..100)) {
        let steps: Vec<Step> = order
            .into_iter()
            .map(|candidate| Step { candidate, there: 50, back: 50, pause: 700 })
            .collect();
        prop_assert!(simulate(&steps).iter().any(|spans| !spans.is_empty()));
    }
}
