use gridstake_crds::{
    TokenAmount,
    usage_record::{Checkpoint, Counters, SealCause},
};
use tempfile::TempDir;

use super::*;

const HOUR: u64 = 3_600_000;
/// When the first slice begins.
const BEGIN: u64 = 1_800_000_000_000;
/// When it has been sealed.
const NOW: u64 = BEGIN + 2 * HOUR;

/// The seal of a slice of an hour.
fn seal(job_no: Option<u64>, slice: u64) -> Sealed {
    let start_ms = BEGIN + slice * HOUR;
    Sealed {
        job_no,
        start_ms,
        end_ms: start_ms + HOUR,
        gpu_millis: HOUR,
        price: job_no.map(|_| TokenAmount::from_nano(720_000)),
        cause: SealCause::IntervalElapsed,
        verdict: None,
        verdict_reason: None,
        energy_millijoules: Some(7),
        factors: None,
        emission: None,
        evidence_head: Some(format!("0x{}", "ab".repeat(32))),
        certificate: None,
        receipt_hash: format!("0x{:064x}", job_no.unwrap_or(0)),
    }
}

fn evidence(sealed: Sealed) -> Evidence {
    Evidence {
        pod_uid: "pod".into(),
        key: "0x52908400098527886E0F7030069857D2E4169EE7".into(),
        devices: vec![],
        started_ms: Some(BEGIN),
        ended_ms: None,
        checkpoints: vec![Checkpoint {
            epoch: 0,
            seq: 0,
            from_ms: sealed.start_ms,
            to_ms: sealed.end_ms,
            folded: None,
            counters: Counters::default(),
            previous: format!("0x{}", "00".repeat(32)),
            head: format!("0x{}", "ab".repeat(32)),
            signature: format!("0x{}", "cd".repeat(65)),
        }],
        gaps: vec![],
        foreign_processes: None,
        sealed: Some(sealed),
    }
}

fn of_slice(slice: u64) -> Evidence {
    evidence(seal(Some(256 + slice), slice))
}

fn index(bounds: Bounds, slices: u64) -> Index {
    let mut index = Index::new(bounds);
    for slice in 0..slices {
        let sealed = seal(Some(256 + slice), slice);
        index.insert(&format!("u-1-0-{slice}"), Entry::new(&sealed, 100));
    }
    index
}

#[test]
fn a_seal_that_bears_a_number_is_remembered_for_thirty_days() {
    let known = index(Bounds::STANDARD, 1);
    let over = BEGIN + HOUR + REMEMBERED_MS;
    for (record, sealed, now, expected) in [
        ("u-1-0-1", seal(Some(257), 1), NOW, true),
        // It can never have been paid.
        ("u-1-0-1", seal(None, 1), NOW, false),
        ("u-1-0-0", seal(Some(256), 0), NOW, false),
        // Sealed again, under another number.
        ("u-1-0-0", seal(Some(900), 0), NOW, true),
        ("u-1-0-1", seal(Some(257), 0), over - 1, true),
        ("u-1-0-1", seal(Some(257), 0), over, false),
    ] {
        assert_eq!(
            known.is_news(record, &sealed, now),
            expected,
            "{record} {sealed:?} {now}"
        );
    }
}

#[test]
fn an_open_record_is_over_only_if_it_begins_where_its_seal_does() {
    let index = index(Bounds::STANDARD, 2);
    for (record, from_ms, now, expected) in [
        ("u-1-0-0", None, NOW, true),
        ("u-1-0-1", Some(BEGIN + HOUR), NOW, true),
        // The slice before it was sealed anew and ends elsewhere.
        ("u-1-0-1", Some(BEGIN + HOUR + 1), NOW, false),
        ("u-1-0-2", Some(BEGIN + 2 * HOUR), NOW, false),
        ("u-1-0-0", None, BEGIN + HOUR + REMEMBERED_MS, false),
    ] {
        assert_eq!(
            index.holds(record, from_ms, now),
            expected,
            "{record} {from_ms:?} {now}"
        );
    }
}

#[test]
fn what_is_too_old_or_too_much_is_forgotten_the_oldest_first() {
    let mut outdated = index(Bounds::STANDARD, 3);
    let second_is_over = BEGIN + 2 * HOUR + REMEMBERED_MS;
    assert_eq!(
        outdated.take_outdated(second_is_over),
        Some("u-1-0-0".into())
    );
    assert_eq!(
        outdated.take_outdated(second_is_over),
        Some("u-1-0-1".into())
    );
    assert_eq!(outdated.take_outdated(second_is_over), None);
    assert_eq!((outdated.count(), outdated.bytes), (1, 100));

    for bounds in [
        Bounds {
            count: 2,
            bytes: u64::MAX,
        },
        Bounds {
            count: 9,
            bytes: 250,
        },
    ] {
        let mut crowded = index(bounds, 4);
        assert_eq!(crowded.take_crowded_out(), Some("u-1-0-0".into()));
        assert_eq!(crowded.take_crowded_out(), Some("u-1-0-1".into()));
        assert_eq!(crowded.take_crowded_out(), None);
        assert_eq!((crowded.count(), crowded.bytes), (2, 200));
        // A list that names them again brings none of them back.
        assert!(!crowded.is_news("u-1-0-1", &seal(Some(257), 1), NOW));
        assert!(crowded.is_news("u-1-0-4", &seal(Some(260), 4), NOW));
    }
    let full = index(
        Bounds {
            count: 2,
            bytes: u64::MAX,
        },
        2,
    );
    assert!(!full.is_news("older", &seal(Some(300), 0), NOW));
    assert!(full.is_news("newer", &seal(Some(300), 1), NOW));
}

#[test]
fn a_file_is_read_as_it_was_written_and_only_for_its_record() {
    let content = encode("u-1-0-0", &of_slice(0)).unwrap();
    let (read, sealed) = decode("u-1-0-0", &content).unwrap();
    assert_eq!((read, sealed), (of_slice(0), seal(Some(256), 0)));
    let text = String::from_utf8(content).unwrap();
    let unsealed = Evidence {
        sealed: None,
        ..of_slice(0)
    };
    let unsealed = String::from_utf8(encode("u-1-0-0", &unsealed).unwrap()).unwrap();
    for (record, text, why) in [
        ("u-1-0-1", text.clone(), "it is that of u-1-0-0"),
        ("u-1-0-0", text.replace("256", "257"), "its hash"),
        ("u-1-0-0", text[..text.len() - 1].to_owned(), "its hash"),
        (
            "u-1-0-0",
            text.replace("\"version\":1", "\"version\":2"),
            "its version",
        ),
        ("u-1-0-0", String::new(), "no first line"),
        ("u-1-0-0", unsealed, "no seal"),
    ] {
        let error = decode(record, text.as_bytes()).unwrap_err();
        assert!(error.contains(why), "{error}: {why}");
    }
}

/// A node's state directory.
struct State {
    folder: TempDir,
    metrics: Metrics,
    bounds: Bounds,
}

impl State {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            metrics: Metrics::new().unwrap(),
            bounds: Bounds::STANDARD,
        }
    }

    async fn keeper(&self) -> Keeper {
        Keeper::bounded(self.folder.path(), &self.metrics, self.bounds).await
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(FOLDER).join(name)
    }

    fn files(&self) -> Vec<String> {
        let Ok(listed) = fs::read_dir(self.folder.path().join(FOLDER)) else {
            return vec![];
        };
        let mut names: Vec<_> = listed
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn failures(&self) -> u64 {
        let labels = [Task::Seals.as_str(), "failure"];
        self.metrics.task_runs.with_label_values(&labels).get()
    }
}

/// Seals of the last hours, so that none of them is 30 days old by the real clock.
fn recent(slice: u64) -> Evidence {
    let now = wall_unix_ms();
    let mut evidence = of_slice(slice);
    if let Some(sealed) = &mut evidence.sealed {
        sealed.start_ms = now + slice * HOUR - 10 * HOUR;
        sealed.end_ms = sealed.start_ms + HOUR;
    }
    evidence
}

async fn note(keeper: &mut Keeper, record: &str, evidence: &Evidence) {
    keeper.note(record, evidence.clone(), wall_unix_ms()).await;
    keeper.make_durable(wall_unix_ms()).await;
}

#[tokio::test]
async fn what_was_remembered_is_known_after_a_restart_of_the_agent() {
    let state = State::new();
    let mut keeper = state.keeper().await;
    assert_eq!(keeper.recall("u-1-0-0", None, NOW).await, None);
    let (first, second) = (recent(0), recent(1));
    note(&mut keeper, "u-1-0-0", &first).await;
    // Of this one the agent is killed before it is durable.
    keeper.note("u-1-0-1", second.clone(), wall_unix_ms()).await;
    drop(keeper);

    let mut keeper = state.keeper().await;
    assert_eq!(state.files(), ["u-1-0-0.json"]);
    let now = wall_unix_ms();
    assert_eq!(keeper.recall("u-1-0-0", None, now).await, Some(first));
    assert_eq!(keeper.recall("u-1-0-1", None, now).await, None);
    // The API server lists it again.
    note(&mut keeper, "u-1-0-1", &second).await;
    assert_eq!(keeper.recall("u-1-0-1", None, now).await, Some(second));
    assert_eq!((state.metrics.seals.get(), state.failures()), (2, 0));
}

#[tokio::test]
async fn a_record_that_is_sealed_again_is_remembered_as_it_was_sealed_last() {
    let state = State::new();
    let mut keeper = state.keeper().await;
    let first = recent(0);
    note(&mut keeper, "u-1-0-0", &first).await;
    let mut again = first.clone();
    if let Some(sealed) = &mut again.sealed {
        sealed.job_no = Some(900);
        sealed.receipt_hash = format!("0x{}", "ef".repeat(32));
    }
    note(&mut keeper, "u-1-0-0", &again).await;
    // Evidence that arrives after the seal does not take the place of what it rests on.
    let later = Evidence {
        ended_ms: Some(1),
        ..again.clone()
    };
    note(&mut keeper, "u-1-0-0", &later).await;
    let mut keeper = state.keeper().await;
    let found = keeper.recall("u-1-0-0", None, wall_unix_ms()).await;
    assert_eq!(found, Some(again));
    assert_eq!(state.files(), ["u-1-0-0.json"]);
}

#[tokio::test]
async fn a_broken_file_is_set_aside_and_named_and_the_others_are_not_touched() {
    let state = State::new();
    let mut keeper = state.keeper().await;
    for slice in 0..3 {
        note(&mut keeper, &format!("u-1-0-{slice}"), &recent(slice)).await;
    }
    let path = state.file("u-1-0-1.json");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, &text[..text.len() / 2]).unwrap();
    let (_, hindered) = Folder(state.folder.path().join(FOLDER)).load();
    assert_eq!(hindered.len(), 1);
    assert!(
        hindered[0].to_string().contains("u-1-0-1.json"),
        "{}",
        hindered[0]
    );
    assert_eq!(
        state.files(),
        ["u-1-0-0.json", "u-1-0-1.json.unreadable", "u-1-0-2.json"]
    );

    // One that breaks while the agent runs.
    let mut keeper = state.keeper().await;
    fs::write(state.file("u-1-0-2.json"), "x").unwrap();
    let now = wall_unix_ms();
    assert_eq!(keeper.recall("u-1-0-2", None, now).await, None);
    assert_eq!(state.failures(), 1);
    assert!(keeper.recall("u-1-0-0", None, now).await.is_some());
    // It is remembered again when the API server still has it.
    note(&mut keeper, "u-1-0-2", &recent(2)).await;
    assert!(keeper.recall("u-1-0-2", None, now).await.is_some());
}

#[tokio::test]
async fn more_than_there_is_room_for_costs_the_oldest_and_is_counted() {
    let mut state = State::new();
    state.bounds.count = 2;
    let mut keeper = state.keeper().await;
    let now = wall_unix_ms();
    for slice in [1, 0, 2, 3] {
        let record = format!("u-1-0-{slice}");
        keeper.note(&record, recent(slice), now).await;
    }
    keeper.make_durable(now).await;
    assert_eq!(state.files(), ["u-1-0-2.json", "u-1-0-3.json"]);
    assert_eq!(state.metrics.seals_dropped.get(), 2);
    keeper.make_durable(now + 2 * REMEMBERED_MS).await;
    assert!(state.files().is_empty());
    assert_eq!(state.metrics.seals_dropped.get(), 2, "these were in time");
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_is_told_and_tried_again() {
    let state = State::new();
    fs::write(state.folder.path().join(FOLDER), "a file").unwrap();
    let mut keeper = state.keeper().await;
    let told = state.failures();
    note(&mut keeper, "u-1-0-0", &recent(0)).await;
    assert!(state.failures() > told);
    fs::remove_file(state.folder.path().join(FOLDER)).unwrap();
    note(&mut keeper, "u-1-0-0", &recent(0)).await;
    assert_eq!(state.files(), ["u-1-0-0.json"]);
}
