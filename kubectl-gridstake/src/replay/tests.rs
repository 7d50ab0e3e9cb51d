use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use alloy::primitives::{B256, b256};
use gridstake_ledger::archive::{
    self,
    decisions::{
        Event, Head, Node, Part, decode, encode, index_path, line, newest_path, next_state,
    },
    index_entry, object_path,
};

use super::{
    log::{self, LogError, Wanted},
    redo, right,
    walk::{Fault, Sum, Walk},
};
use crate::{cli::Output, verify::source::Source};

/// The cluster whose log is published.
const CLUSTER: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";

/// A log that the scheduler wrote: see `operator/src/controllers/placement/journal/tests.rs`.
fn published() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../operator/tests/vectors/archive")
}

/// One that it wrote before owners' weights were cut.
fn of_version_1() -> PathBuf {
    published().with_file_name("archive-version-1")
}

async fn parts(folder: &Path, wanted: Wanted) -> Vec<Part> {
    let source = Source::open(folder.to_str().unwrap()).unwrap();
    let mut parts = Vec::new();
    for address in log::find(&source, CLUSTER, wanted).await.unwrap().unwrap() {
        parts.push(log::read(&source, CLUSTER, address).await.unwrap().unwrap());
    }
    parts
}

fn walked(parts: &[Part], only: Option<B256>) -> Result<Sum, Fault> {
    let mut walk = Walk::default();
    for part in parts {
        walk.part(part, only)?;
    }
    Ok(walk.sum)
}

fn decisions(parts: &[Part]) -> Vec<B256> {
    let events = parts.iter().flat_map(|part| &part.events);
    events
        .filter_map(|(_, event)| match event {
            Event::Decision(decided) => Some(decided.hash),
            _ => None,
        })
        .collect()
}

#[tokio::test]
async fn every_decision_of_the_scheduler_is_made_again_with_the_same_result() {
    let parts = parts(&published(), Wanted::Everything).await;
    let sum = walked(&parts, None).unwrap();
    assert_eq!(sum.equal, decisions(&parts).len() as u64);
    assert!(sum.equal >= 100 && sum.undone > 5, "{sum:?}");
    assert_eq!((sum.breaks, sum.before_the_fleet), (0, 0));
}

#[tokio::test]
async fn a_log_of_the_version_before_is_made_again() {
    let parts = parts(&of_version_1(), Wanted::Everything).await;
    assert!(parts.iter().all(|part| part.head.version == 1));
    let sum = walked(&parts, None).unwrap();
    assert_eq!(sum.equal, decisions(&parts).len() as u64);
    assert!(sum.equal >= 100, "{sum:?}");
}

#[tokio::test]
async fn another_cut_than_follows_from_the_fleet_is_noticed() {
    type Change = fn(&mut gridstake_ledger::archive::decisions::Cuts);
    let parts = parts(&published(), Wanted::Everything).await;
    let cuts = parts.iter().flat_map(|part| &part.events);
    let cuts: Vec<usize> = cuts
        .filter_map(|(_, event)| match event {
            Event::Cuts(cuts) => Some(cuts.cuts.len()),
            _ => None,
        })
        .collect();
    assert!(
        cuts.len() > 5 && cuts.iter().any(|many| *many > 1),
        "{cuts:?}"
    );
    let changes: [(&str, Change); 5] = [
        ("cut is", |cuts| cuts.cuts[0].level += 1),
        ("cut is", |cuts| cuts.cuts[0].sum += 1),
        ("cut is", |cuts| cuts.cuts[0].owner.push('x')),
        ("cut is", |cuts| {
            cuts.cuts.pop();
        }),
        ("is to be settled anew", |cuts| cuts.at_ms -= 600_000),
    ];
    for (what, change) in changes {
        let mut done = false;
        let other = forged(&parts, |event| {
            if let Event::Cuts(cuts) = event
                && !done
                && !cuts.cuts.is_empty()
            {
                change(cuts);
                done = true;
            }
        });
        let fault = walked(&other, None).unwrap_err();
        assert!(fault.what.contains(what), "{what}: {}", fault.what);
    }
}

#[tokio::test]
async fn a_log_that_does_not_tell_whose_weights_are_cut_is_not_right() {
    let mut parts = parts(&published(), Wanted::Everything).await;
    for part in &mut parts {
        part.events
            .retain(|(_, event)| !matches!(event, Event::Cuts(_)));
    }
    let fault = walked(&forged(&parts, |_| ()), None).unwrap_err();
    assert!(
        fault.what.contains("it is not told whose"),
        "{}",
        fault.what
    );
}

#[tokio::test]
async fn one_decision_alone_needs_its_writers_parts_only() {
    let all = decisions(&parts(&published(), Wanted::Everything).await);
    for hash in [all[0], all[all.len() / 3], all[all.len() - 1]] {
        let parts = parts(&published(), Wanted::Decision(hash)).await;
        assert!(parts[0].head.whole);
        assert_eq!(walked(&parts, Some(hash)).unwrap().equal, 1);
    }
    let source = Source::open(published().to_str().unwrap()).unwrap();
    let nowhere = log::find(&source, CLUSTER, Wanted::Decision(B256::ZERO)).await;
    assert!(matches!(nowhere, Err(LogError::NoDecision { .. })));
    let nobodys = log::find(&source, "other", Wanted::Everything).await;
    assert!(matches!(nobodys, Err(LogError::NoLog(_))));
}

/// The log with a change, written anew by somebody who makes all hashes fit but those of decisions.
fn forged(parts: &[Part], mut change: impl FnMut(&mut Event)) -> Vec<Part> {
    let mut states: BTreeMap<String, B256> = BTreeMap::new();
    let mut forged = Vec::new();
    for part in parts {
        let mut state = states.get(&part.head.writer).copied();
        let head = Head::new(CLUSTER, &part.head.writer, part.head.part, None, state);
        let mut lines = Vec::new();
        for (_, event) in &part.events {
            let mut event = event.clone();
            change(&mut event);
            if let Event::Decision(decided) = &mut event {
                decided.state = state.unwrap_or(head.state);
            }
            let line = line(&event).unwrap();
            state = Some(next_state(state.unwrap_or(head.state), &line));
            lines.push(line);
        }
        let file = encode(&head, &lines).unwrap();
        let read = decode(&file).unwrap();
        states.insert(part.head.writer.clone(), read.end);
        forged.push(read);
    }
    forged
}

#[tokio::test]
async fn one_candidate_that_is_left_out_is_noticed() {
    let parts = parts(&published(), Wanted::Everything).await;
    let source = decisions(&parts)[0];
    // As if the scheduler had overlooked a node: its record says one candidate less.
    let fewer = forged(&parts, |event| {
        if let Event::Decision(decided) = event
            && decided.hash == source
        {
            decided.candidates -= 1;
        }
    });
    let fault = walked(&fewer, None).unwrap_err();
    assert!(fault.what.contains("could take a member"), "{}", fault.what);
    // As if the node had never been there: the decisions' hashes vouch for it.
    let without = forged(&parts, |event| {
        if let Event::Node(node) = event
            && node.name == "node-3"
        {
            node.withheld = Some("Drained".to_owned());
        }
    });
    assert!(walked(&without, None).is_err());
}

#[tokio::test]
async fn another_weight_number_winner_reason_or_hash_is_noticed() {
    type Change = fn(&mut gridstake_ledger::archive::decisions::Decided);
    let parts = parts(&published(), Wanted::Everything).await;
    let changes: [(&str, Change); 8] = [
        ("sum of their weights", |d| d.total_weight += 1),
        ("what was drawn", |d| d.drawn[0].number ^= 1),
        ("what was drawn", |d| d.drawn[0].winner.push('x')),
        ("what was drawn", |d| d.attempt += 1),
        ("counts of reasons", |d| {
            *d.rejections.entry("Tainted".to_owned()).or_default() += 1;
        }),
        ("hash", |d| d.hash = B256::ZERO),
        ("hash", |d| d.snapshot += 1),
        ("draw", |d| d.draw.push('9')),
    ];
    for (what, change) in changes {
        let mut done = false;
        let other = forged(&parts, |event| {
            if let Event::Decision(decided) = event
                && !done
            {
                change(decided);
                done = true;
            }
        });
        let fault = walked(&other, None).unwrap_err();
        assert!(fault.what.contains(what), "{what}: {}", fault.what);
    }
    let heavier = forged(&parts, |event| {
        if let Event::Node(node) = event {
            node.weight += 1;
        }
    });
    assert!(
        walked(&heavier, None)
            .unwrap_err()
            .what
            .contains("the weight")
    );
}

#[tokio::test]
async fn a_part_that_is_missing_is_noticed() {
    let mut parts = parts(&published(), Wanted::Everything).await;
    let of_first = parts
        .iter()
        .filter(|p| p.head.writer == parts[0].head.writer);
    assert!(of_first.count() > 3);
    parts.remove(1);
    let fault = walked(&parts, None).unwrap_err();
    assert!(fault.what.contains("a part is missing"), "{}", fault.what);
}

#[tokio::test]
async fn parts_of_two_writers_may_lie_between_one_another() {
    let parts = parts(&published(), Wanted::Everything).await;
    let first = parts[0].head.writer.clone();
    let (a, b): (Vec<Part>, Vec<Part>) = parts
        .into_iter()
        .partition(|part| part.head.writer == first);
    let (mut a, mut b) = (a.into_iter(), b.into_iter());
    let mut mixed = Vec::new();
    loop {
        match (a.next(), b.next()) {
            (None, None) => break,
            (one, other) => mixed.extend(one.into_iter().chain(other)),
        }
    }
    let sum = walked(&mixed, None).unwrap();
    assert_eq!(sum.equal, decisions(&mixed).len() as u64);
    // The second one's first decision follows the first one's last, which is not before it.
    assert_eq!(sum.breaks, 1);
}

/// A copy of the published archive.
fn copied(name: &str) -> PathBuf {
    let copy = std::env::temp_dir().join(format!("gridstake-replay-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&copy);
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        std::fs::create_dir_all(copy.join(&folder)).unwrap();
        for entry in std::fs::read_dir(published().join(&folder)).unwrap() {
            let entry = entry.unwrap();
            let path = folder.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                folders.push(path);
            } else {
                std::fs::copy(entry.path(), copy.join(path)).unwrap();
            }
        }
    }
    copy
}

#[tokio::test]
async fn one_byte_that_is_changed_in_the_archive_is_found_and_its_file_named() {
    let copy = copied("byte");
    let entry = std::fs::read(copy.join(index_path(CLUSTER, 2))).unwrap();
    let path = object_path(archive::read_index_entry(&entry).unwrap());
    let file = std::fs::read(copy.join(&path)).unwrap();
    let source = Source::open(copy.to_str().unwrap()).unwrap();
    for at in (0..file.len()).step_by(97) {
        let mut changed = file.clone();
        changed[at] ^= 4;
        std::fs::write(copy.join(&path), changed).unwrap();
        let found = log::find(&source, CLUSTER, Wanted::Everything).await;
        let wrong = found.unwrap().unwrap_err();
        assert_eq!(wrong.file, path, "byte {at}");
    }
    std::fs::remove_dir_all(&copy).unwrap();
}

#[tokio::test]
async fn an_index_that_names_nothing_is_named() {
    let copy = copied("index");
    let source = Source::open(copy.to_str().unwrap()).unwrap();
    let newest = newest_path(CLUSTER);
    std::fs::write(copy.join(&newest), "?").unwrap();
    let wrong = log::find(&source, CLUSTER, Wanted::Everything).await;
    assert_eq!(wrong.unwrap().unwrap_err().file, newest);
    let nowhere = B256::repeat_byte(1);
    std::fs::write(copy.join(&newest), index_entry(nowhere)).unwrap();
    let wrong = log::find(&source, CLUSTER, Wanted::Everything).await;
    assert_eq!(wrong.unwrap().unwrap_err().file, object_path(nowhere));
    std::fs::remove_dir_all(&copy).unwrap();
}

#[test]
fn a_decision_on_an_empty_fleet_finds_no_place() {
    let decided = serde_json::from_value(serde_json::json!({
        "hash": B256::ZERO, "state": B256::ZERO, "atMs": 0, "draw": "gridstake-draw/1", "job": CLUSTER, "attempt": 1,
        "block": B256::ZERO, "previous": B256::ZERO, "snapshot": 1, "candidates": 0, "totalWeight": 0, "drawn": [],
        "request": {"members": 1, "each": {"gpus": 1}, "minReputation": 0},
    }))
    .unwrap();
    let fleet: BTreeMap<String, Node> = BTreeMap::new();
    let difference = redo::redo(&fleet, &decided).unwrap_err();
    assert_eq!(difference.part, "the placement");
}

#[test]
fn the_result_is_told_to_people_and_programs() {
    let sum = Sum {
        equal: 100,
        before_the_fleet: 2,
        undone: 3,
        breaks: 1,
        last: Some(b256!(
            "0101010101010101010101010101010101010101010101010101010101010101"
        )),
    };
    let text = right("c", &sum, Output::Text);
    assert!(text.starts_with("replayed: cluster c: 100 decisions made again with the same result, 3 of them not carried out\n"));
    assert_eq!(text.lines().count(), 4);
    let json: serde_json::Value = serde_json::from_str(&right("c", &sum, Output::Json)).unwrap();
    assert_eq!((&json["equal"], &json["breaks"]), (&100.into(), &1.into()));
}
