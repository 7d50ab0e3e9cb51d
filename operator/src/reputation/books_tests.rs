//! Facts about [`super`], against an API server that keeps ConfigMaps and may fail at any step.

use proptest::prelude::*;
use serde_json::json;

use super::{
    super::{
        api_server::{Mood, Server},
        counted::{Counted, Credit, fixtures::said},
        history::Day,
        key::Owner,
        shard::day_of,
    },
    *,
};

/// 2027-01-01.
const NOW: u64 = 1_798_761_600;
const MINUTE: u64 = NOW / 60;

impl Server {
    fn books(&self) -> Books {
        Books::new(ShardStore::new(self.client(), "system"))
    }

    /// What a replica reads that starts now: GPU-milliseconds, and minutes watched and down.
    async fn standing(&self) -> (u64, u32, u32) {
        let mut books = self.books();
        assert!(books.turn(&[], NOW).await.is_empty());
        let history = books.history(&gpu()).unwrap();
        history.map_or((0, 0, 0), |history| {
            let lately = history.lately(day_of(NOW));
            (history.served_millis(), lately.watched, lately.down)
        })
    }
}

fn gpu() -> GpuKey {
    GpuKey::new(Owner::Nobody, "GPU-1").unwrap()
}

fn one(name: &str, ago: u64) -> Counted {
    let ended = Day {
        well: 1,
        ..Day::default()
    };
    let credit = Credit {
        served_millis: 1000,
        ended,
    };
    said(name, NOW - ago, &[(gpu(), credit)])
}

fn sight(up: bool) -> BTreeMap<GpuKey, bool> {
    [(gpu(), up)].into()
}

#[tokio::test]
async fn what_is_counted_stands_for_the_next_replica() {
    let server = Server::default();
    let mut books = server.books();
    assert_eq!(books.history(&gpu()), None, "nothing was read");
    books.see(MINUTE - 1, &sight(false));
    assert!(books.turn(&[one("a", 9)], NOW).await.is_empty());
    assert_eq!(server.standing().await, (1000, 1, 1));
    let mut next = server.books();
    assert!(next.turn(&[one("a", 9), one("b", 8)], NOW).await.is_empty());
    assert_eq!(server.standing().await, (2000, 1, 1));
    assert_eq!(server.writes(), 2);
}

#[tokio::test]
async fn a_crash_at_any_step_of_a_write_loses_no_record_and_counts_none_twice() {
    for mood in [Mood::FailsBefore, Mood::FailsAfter] {
        let server = Server::default();
        let records = [one("a", 9), one("b", 8)];
        server.next_write(mood);
        let mut dies = server.books();
        assert_eq!(dies.turn(&records, NOW).await.len(), 1);
        drop(dies);
        let mut next = server.books();
        assert!(next.turn(&records, NOW + 5).await.is_empty());
        assert_eq!(server.standing().await.0, 2000, "{mood:?}");
    }
}

#[tokio::test]
async fn a_write_whose_answer_is_lost_counts_no_minute_twice_and_none_is_forgotten_that_did_not_take_place()
 {
    for mood in [Mood::FailsBefore, Mood::FailsAfter] {
        let server = Server::default();
        let mut books = server.books();
        books.see(MINUTE, &sight(false));
        books.see(MINUTE + 1, &sight(true));
        server.next_write(mood);
        assert_eq!(books.turn(&[], NOW + 120).await.len(), 1);
        // What is seen meanwhile is not part of the write in doubt.
        books.see(MINUTE + 2, &sight(false));
        assert!(books.turn(&[], NOW + 180).await.is_empty());
        assert_eq!(server.standing().await, (0, 3, 2), "{mood:?}");
    }
}

#[tokio::test]
async fn of_two_replicas_that_both_believe_they_lead_each_record_and_minute_counts_once() {
    let server = Server::default();
    let (mut a, mut b) = (server.books(), server.books());
    for books in [&mut a, &mut b] {
        books.see(MINUTE, &sight(false));
        // Each knows what stands there now.
        assert!(books.turn(&[], NOW - 3600).await.is_empty());
    }
    let records = [one("a", 9)];
    assert!(a.turn(&records, NOW + 60).await.is_empty());
    assert!(b.turn(&records, NOW + 60).await.is_empty());
    assert!(b.turn(&records, NOW + 120).await.is_empty());
    assert_eq!(server.standing().await, (1000, 1, 1));
}

#[tokio::test]
async fn a_shard_is_written_once_a_minute_with_news_and_every_half_hour_without() {
    let server = Server::default();
    let mut books = server.books();
    assert!(books.turn(&[one("a", 0)], NOW).await.is_empty());
    let both = [one("a", 0), one("b", 0)];
    assert!(books.turn(&both, NOW + 30).await.is_empty());
    assert_eq!(server.writes(), 1);
    assert_eq!(books.open_since(&both), Some(NOW));
    assert!(books.turn(&both, NOW + 60).await.is_empty());
    assert_eq!(server.writes(), 2);
    assert_eq!(books.open_since(&both), None);
    for minute in 1..=40 {
        books.see(MINUTE + minute, &sight(true));
        assert!(books.turn(&both, NOW + 60 * (minute + 1)).await.is_empty());
    }
    assert_eq!(server.writes(), 3);
    assert_eq!(server.standing().await.1, 30);
}

#[tokio::test]
async fn with_nothing_to_say_nothing_is_written() {
    let server = Server::default();
    let mut books = server.books();
    for minute in 0..100 {
        assert!(books.turn(&[], NOW + 60 * minute).await.is_empty());
    }
    assert_eq!(server.writes(), 0);
    assert_eq!(books.history(&gpu()), Some(None));
}

#[tokio::test]
async fn a_shard_that_somebody_has_broken_is_left_alone_and_the_others_go_on() {
    let server = Server::default();
    let name = gridstake_crds::names::reputation_shard(gpu().shard());
    let broken =
        json!({"metadata": {"name": name, "resourceVersion": "1"}, "data": {"format": "?"}});
    server.keep(&name, broken);
    let other = (2..1000)
        .filter_map(|number| GpuKey::new(Owner::Nobody, &format!("GPU-{number}")))
        .find(|other| other.shard() != gpu().shard())
        .unwrap();
    let credit = Credit {
        served_millis: 5,
        ended: Day::default(),
    };
    let records = [one("a", 0), said("b", NOW, &[(other.clone(), credit)])];
    let mut books = server.books();
    let errors = books.turn(&records, NOW).await;
    assert_eq!(
        errors.iter().map(StoreError::category).collect::<Vec<_>>(),
        ["unreadable"]
    );
    assert_eq!(books.history(&gpu()), None, "it is not taken for empty");
    let found = books.history(&other).unwrap().unwrap();
    assert_eq!(found.served_millis(), 5);
}

#[tokio::test]
async fn a_config_map_that_is_deleted_is_made_anew_from_what_the_cluster_knows() {
    let server = Server::default();
    let mut books = server.books();
    assert!(books.turn(&[one("a", 9)], NOW).await.is_empty());
    server.lose_all();
    let both = [one("a", 9), one("b", 0)];
    assert!(books.turn(&both, NOW + 60).await.is_empty());
    assert!(books.turn(&both, NOW + 120).await.is_empty());
    assert_eq!(server.standing().await.0, 2000);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_fails_and_whoever_takes_over_each_record_counts_once_and_no_minute_more_than_once(
        steps in prop::collection::vec((prop::sample::select(vec![Mood::Well, Mood::FailsBefore, Mood::FailsAfter]), any::<bool>(), 0_usize..3), 1..30),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let server = Server::default();
            let mut books = server.books();
            let mut records = Vec::new();
            let (mut now, mut seen) = (NOW, 0);
            for (mood, restart, more) in steps {
                if restart {
                    books = server.books();
                }
                now += 60;
                for _ in 0..more {
                    let name = records.len().to_string();
                    records.push(said(&name, now - 5, &[(gpu(), Credit { served_millis: 1000, ended: Day::default() })]));
                }
                books.see(now / 60 - 1, &sight(false));
                seen += 1;
                server.next_write(mood);
                books.turn(&records, now).await;
            }
            server.next_write(Mood::Well);
            let mut last = server.books();
            assert!(last.turn(&records, now + 60).await.is_empty());
            let (served, watched, down) = server.standing().await;
            let expected = 1000 * u64::try_from(records.len()).unwrap();
            assert_eq!(served, expected);
            assert!(watched <= seen && down == watched);
        });
    }
}
