use std::path::{Path, PathBuf};

use gridstake_ledger::archive::decisions::{Event, decode, folder as log_folder};

use super::*;
use crate::scheduler::{Snapshot, fixtures, linear::place};

const CLUSTER: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";

fn folder(name: &str) -> PathBuf {
    let folder =
        std::env::temp_dir().join(format!("gridstake-recorder-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    folder
}

fn now() -> Timestamp {
    "2026-11-29T12:00:00Z".parse().unwrap()
}

fn recorder(folder: &Path, identity: &str, metrics: &RecorderMetrics) -> Recorder {
    let store = Store::new(folder.to_str().unwrap().parse().unwrap());
    Recorder::new(store, CLUSTER, identity, now(), metrics.clone())
}

fn metrics() -> RecorderMetrics {
    RecorderMetrics::register(&Registry::new()).unwrap()
}

fn seen(snapshot: &Snapshot) -> impl Iterator<Item = Seen<'_>> {
    snapshot.nodes().iter().map(Seen::from)
}

/// Decides once, and writes it.
async fn decide(recorder: &mut Recorder) {
    tell(recorder);
    recorder.write().await;
}

fn tell(recorder: &mut Recorder) {
    let fleet = fixtures::one_node(fixtures::node("n", 8));
    recorder.see(seen(&fleet), now());
    let request = fixtures::request(1, 1);
    let mut placement = place(&fleet, &request, &fixtures::seed()).unwrap();
    placement.decision.state = recorder.state();
    recorder.decided(&request, &placement.decision, now());
}

/// The parts in the archive, oldest first: writer, whether it is whole, and how many decisions are in it.
fn parts(folder: &Path) -> Vec<(String, bool, usize)> {
    let index = folder.join(log_folder(CLUSTER));
    let mut names: Vec<_> = std::fs::read_dir(index)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| !path.ends_with("newest"))
        .collect();
    names.sort();
    let read = |path: PathBuf| {
        let address = read_index_entry(&std::fs::read(path).unwrap()).unwrap();
        let part = decode(&std::fs::read(folder.join(object_path(address))).unwrap()).unwrap();
        let decisions = part.events.iter();
        let decisions = decisions.filter(|(_, event)| matches!(event, Event::Decision(_)));
        (part.head.writer.clone(), part.head.whole, decisions.count())
    };
    names.into_iter().map(read).collect()
}

fn part(writer: &str, whole: bool, decisions: usize) -> (String, bool, usize) {
    (
        format!("{writer}/{}", now().as_millisecond()),
        whole,
        decisions,
    )
}

#[tokio::test]
async fn each_pass_with_a_decision_is_a_part_and_a_new_leader_tells_the_fleet_anew() {
    let (folder, metrics) = (folder("passes"), metrics());
    let mut a = recorder(&folder, "a", &metrics);
    decide(&mut a).await;
    decide(&mut a).await;
    a.write().await;
    let mut b = recorder(&folder, "b", &metrics);
    decide(&mut b).await;
    assert_eq!(
        parts(&folder),
        [part("a", true, 1), part("a", false, 1), part("b", true, 1)]
    );
    assert_eq!((metrics.parts.get(), metrics.failing.get()), (3, 0));
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test]
async fn two_that_believe_they_lead_lose_nothing_of_each_other() {
    let (folder, metrics) = (folder("two"), metrics());
    let (mut a, mut b) = (
        recorder(&folder, "a", &metrics),
        recorder(&folder, "b", &metrics),
    );
    for _ in 0..3 {
        decide(&mut a).await;
        decide(&mut b).await;
    }
    // Whose number was taken writes with its next pass.
    a.write().await;
    b.write().await;
    let parts = parts(&folder);
    for writer in ["a", "b"] {
        let name = part(writer, true, 0).0;
        let theirs: Vec<_> = parts.iter().filter(|part| part.0 == name).collect();
        assert_eq!(
            theirs.iter().map(|part| part.2).sum::<usize>(),
            3,
            "{parts:?}"
        );
        assert_eq!(theirs.iter().filter(|part| part.1).count(), 1, "{parts:?}");
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test]
async fn an_archive_that_is_away_is_caught_up_with_once_it_is_back() {
    let (folder, metrics) = (folder("away"), metrics());
    // A file where the folder should be.
    std::fs::write(&folder, "").unwrap();
    let mut a = recorder(&folder, "a", &metrics);
    decide(&mut a).await;
    decide(&mut a).await;
    assert_eq!((metrics.parts.get(), metrics.failing.get()), (0, 1));
    std::fs::remove_file(&folder).unwrap();
    a.write().await;
    assert_eq!(parts(&folder), [part("a", true, 2)]);
    assert_eq!(metrics.failing.get(), 0);
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test]
async fn what_was_written_and_not_answered_is_not_written_twice() {
    let (folder, metrics) = (folder("answer"), metrics());
    let mut a = recorder(&folder, "a", &metrics);
    tell(&mut a);
    // As if the answer had been lost: the part is there, and the recorder does not know.
    let store = Store::new(folder.to_str().unwrap().parse().unwrap());
    let file = a.journal.file(1, None);
    store
        .write_once(&index_path(CLUSTER, 1), file)
        .await
        .unwrap();
    decide(&mut a).await;
    assert_eq!(parts(&folder), [part("a", true, 1), part("a", false, 1)]);
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test]
async fn a_part_that_somebody_has_changed_is_named_and_does_not_stop_placements() {
    let (folder, metrics) = (folder("changed"), metrics());
    let mut a = recorder(&folder, "a", &metrics);
    decide(&mut a).await;
    let newest = folder.join(newest_path(CLUSTER));
    let address = read_index_entry(&std::fs::read(newest).unwrap()).unwrap();
    std::fs::write(folder.join(object_path(address)), "{}\n").unwrap();
    let mut b = recorder(&folder, "b", &metrics);
    decide(&mut b).await;
    assert_eq!(metrics.failing.get(), 1);
    let error = b.find_end().await.unwrap_err();
    assert!(matches!(error, RecordError::NoPart { .. }), "{error}");
    std::fs::remove_dir_all(folder).unwrap();
}
