//! The book against an API server that keeps ConfigMaps and may fail at any write.

use serde_json::json;

use super::*;
use crate::{
    reputation::api_server::{Mood, Server},
    scheduler::fair_share::decay,
};

const HOUR: u64 = 60 * MINUTE_MILLIS;
/// 2027-01-01.
const START: u64 = 1_798_761_600_000;

fn book(server: &Server) -> ShareBook {
    ShareBook::new(server.client(), "system", HalfLife::default())
}

/// A job with one GPU that holds it from `START` on.
fn job() -> ComputeJob {
    let zero = format!("0x{}", "0".repeat(64));
    serde_saphyr::from_str(&format!(
        "{{apiVersion: gridstake.dev/v1alpha1, kind: ComputeJob, metadata: {{name: j, namespace: n}}, spec: {{gpu: {{count: 1}}, template: {{}}}}, \
         status: {{placement: {{attempt: 1, nodes: [{{member: 0, node: a}}], decidedAt: '2027-01-01T00:00:00Z', \
         decision: {{draw: d, blockHash: '{zero}', previous: '{zero}', hash: '{zero}', snapshot: 1, candidates: 1, totalWeight: '1', drawn: []}}}}}}}}"
    ))
    .unwrap()
}

fn payer(namespace: &str) -> Payer {
    Payer::Namespace(namespace.to_owned())
}

async fn turn(book: &mut ShareBook, now: u64) -> Result<(), BookError> {
    book.turn([job()].iter(), payer, now).await
}

fn used(book: &ShareBook) -> u64 {
    book.usage().payers().get(&payer("n")).copied().unwrap_or(0)
}

#[tokio::test]
async fn what_is_booked_stands_for_the_next_leader_and_what_was_held_meanwhile_is_added() {
    let server = Server::default();
    let mut first = book(&server);
    turn(&mut first, START).await.unwrap();
    assert_eq!(server.writes(), 0, "nothing was held before anybody looked");
    turn(&mut first, START + HOUR).await.unwrap();
    assert_eq!((used(&first), server.writes()), (HOUR, 1));
    let mut second = book(&server);
    turn(&mut second, START + 2 * HOUR).await.unwrap();
    let faded = decay(HOUR, 60, HalfLife::default());
    assert_eq!(used(&second), faded + HOUR);
}

#[tokio::test]
async fn it_is_written_once_a_minute_at_most_and_not_while_nothing_is_held() {
    let server = Server::default();
    let mut book = book(&server);
    for second in 0..180 {
        turn(&mut book, START + second * 1000).await.unwrap();
    }
    assert_eq!(server.writes(), 2);
    let nothing: [ComputeJob; 0] = [];
    for minute in 3..60 {
        let now = START + minute * MINUTE_MILLIS;
        book.turn(nothing.iter(), payer, now).await.unwrap();
    }
    assert_eq!(server.writes(), 2);
}

#[tokio::test]
async fn a_lost_answer_counts_nothing_twice() {
    let server = Server::default();
    let mut book = book(&server);
    turn(&mut book, START).await.unwrap();
    for (mood, minutes) in [(Mood::FailsBefore, 10), (Mood::FailsAfter, 20)] {
        server.next_write(mood);
        turn(&mut book, START + minutes * MINUTE_MILLIS)
            .await
            .unwrap_err();
        turn(&mut book, START + (minutes + 1) * MINUTE_MILLIS)
            .await
            .unwrap();
        let held = (minutes + 1) * MINUTE_MILLIS;
        assert!(
            used(&book) <= held && used(&book) > held * 99 / 100,
            "{}",
            used(&book)
        );
    }
}

#[tokio::test]
async fn of_two_that_believe_they_lead_neither_counts_what_the_other_has() {
    let server = Server::default();
    let (mut one, mut other) = (book(&server), book(&server));
    turn(&mut one, START).await.unwrap();
    turn(&mut other, START).await.unwrap();
    for minute in 1..30 {
        turn(&mut one, START + minute * MINUTE_MILLIS)
            .await
            .unwrap();
        turn(&mut other, START + minute * MINUTE_MILLIS)
            .await
            .unwrap();
    }
    for book in [&one, &other] {
        assert!(
            used(book) <= 29 * MINUTE_MILLIS && used(book) > 28 * MINUTE_MILLIS,
            "{}",
            used(book)
        );
    }
}

#[tokio::test]
async fn what_somebody_else_has_written_is_told_by_name_left_alone_and_stops_nothing() {
    let server = Server::default();
    let foreign =
        json!({"metadata": {"name": FAIR_SHARE, "resourceVersion": "1"}, "data": {"format": "9"}});
    server.keep(FAIR_SHARE, foreign);
    let mut book = book(&server);
    let error = turn(&mut book, START).await.unwrap_err();
    let words = crate::error::chain(&error);
    assert!(
        words.contains("ConfigMap fair-share") && words.contains("data.format"),
        "{words}"
    );
    turn(&mut book, START + HOUR).await.unwrap_err();
    assert_eq!((used(&book), server.writes()), (HOUR, 0));
    server.lose_all();
    turn(&mut book, START + HOUR + MINUTE_MILLIS).await.unwrap();
    assert_eq!(server.writes(), 1, "what was booked meanwhile is kept");
}
