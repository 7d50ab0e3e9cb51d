//! `kubectl gridstake verify` and `report` as a program: an archive in a folder, a chain that answers JSON-RPC, and what a shell is told.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::needless_pass_by_value,
    missing_docs,
    reason = "tests"
)]

mod lane;
mod rpc;

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use alloy::sol_types::SolStruct as _;
use gridstake_ledger::{
    archive,
    earnings::LaneId,
    statement::{self, Statement},
    uptime::{EpochUptime, NodeUptime, epoch_of},
    week::Week,
};
use serde_json::{Value, json};

use crate::{
    lane::{Lane, SETTLEMENT, report, statements},
    rpc::Rpc,
};

/// An archive of two batches, and the chain that settled them.
struct Case {
    lane: Lane,
    folder: PathBuf,
}

impl Case {
    fn new(name: &str) -> Self {
        Self::of(name, Lane::of_two())
    }

    fn of(name: &str, lane: Lane) -> Self {
        let folder =
            std::env::temp_dir().join(format!("gridstake-verify-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        for batch in &lane.batches {
            let file = archive::encode(batch);
            let address = archive::address(&file);
            let head = &batch.head;
            let index = archive::index_path(head.chain_id, head.contract, head.lane, head.sequence);
            write(&folder.join(archive::object_path(address)), &file);
            write(
                &folder.join(index),
                archive::index_entry(address).as_bytes(),
            );
        }
        Self { lane, folder }
    }

    fn object(&self, index: usize) -> PathBuf {
        let file = archive::encode(&self.lane.batches[index]);
        self.folder
            .join(archive::object_path(archive::address(&file)))
    }

    /// Runs the program with `flags`: its exit code, what it says as JSON, and what it says in words.
    fn verify(&self, flags: &[&str]) -> (i32, Value, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_kubectl-gridstake"))
            .args(["verify", "--lane", "7", "--settlement"])
            .arg(SETTLEMENT.to_string())
            .arg("--archive")
            .arg(&self.folder)
            .args(flags)
            .args(if flags.contains(&"-o") {
                &[][..]
            } else {
                &["-o", "json"]
            })
            // It shall need no cluster.
            .env("KUBECONFIG", "/no/such/file")
            .output()
            .unwrap();
        let said = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
        let words = [output.stdout, output.stderr].concat();
        let words = String::from_utf8(words).unwrap();
        (output.status.code().unwrap(), said, words)
    }
}

impl Case {
    /// Runs `report` for a provider with `flags`: its exit code, and what it prints and says.
    fn report(&self, provider: u32, flags: &[&str]) -> (i32, String, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_kubectl-gridstake"))
            .args(["report", "--provider", &provider.to_string(), "--lane", "7"])
            .args(["--settlement", &SETTLEMENT.to_string(), "--archive"])
            .arg(&self.folder)
            .args(flags)
            // What the nodes cost is not known then.
            .env("KUBECONFIG", "/no/such/file")
            .output()
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (
            output.status.code().unwrap(),
            text(output.stdout),
            text(output.stderr),
        )
    }
}

fn write(path: &Path, bytes: &[u8]) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_lane_is_verified_from_archive_and_endpoint_and_then_without_a_network() {
    let case = Case::new("right");
    let rpc = Rpc::of(&case.lane);
    let saved = case.folder.join("chain.json");
    let saved = saved.to_str().unwrap();
    let (code, said, words) = case.verify(&["--rpc", &rpc.url, "--save-chain", saved]);
    assert_eq!(code, 0, "{said} {words}");
    assert_eq!(said["verified"], true);
    assert_eq!(said["entries"], 4);
    assert_eq!(said["paid"][0]["amount"], "0.004");
    drop(rpc);
    let (code, offline, words) = case.verify(&["--offline", saved]);
    assert_eq!((code, offline), (0, said), "{words}");
}

#[test]
fn a_batch_a_week_or_a_record_is_verified_by_itself() {
    let case = Case::new("parts");
    let rpc = Rpc::of(&case.lane);
    for (flags, batches, entries) in [
        (vec!["--batch", "2"], (2, 2), 2),
        (vec!["--record", "job-257-1-0-0"], (1, 1), 2),
        // The blocks' times: 2026-11-23 and 2026-11-30.
        (vec!["--week", "2026-W48"], (1, 1), 2),
        (vec!["--week", "2026-W49"], (2, 2), 2),
        (vec!["--lane-all"], (1, 2), 4),
    ] {
        let (code, said, words) = case.verify(&[&["--rpc", &rpc.url], &flags[..]].concat());
        assert_eq!(code, 0, "{flags:?}: {said} {words}");
        assert_eq!(said["batches"]["first"], batches.0, "{flags:?}");
        assert_eq!(said["batches"]["last"], batches.1, "{flags:?}");
        assert_eq!(said["entries"], entries, "{flags:?}");
    }
    let (_, said, _) = case.verify(&["--rpc", &rpc.url, "--record", "job-257-1-0-0"]);
    assert_eq!(said["record"]["jobNo"], 257);
    assert_eq!(said["record"]["paid"], true);
}

#[test]
fn a_weeks_reports_are_made_again_and_found_in_the_batch_that_states_them() {
    let case = Case::of("week", Lane::stating(&statements(&report())));
    let rpc = Rpc::of(&case.lane);
    let saved = case.folder.join("chain.json");
    let saved = saved.to_str().unwrap();
    let flags = ["--week", "2026-W48"];
    let (code, said, words) =
        case.verify(&[&["--rpc", &rpc.url, "--save-chain", saved], &flags[..]].concat());
    assert_eq!(code, 0, "{said} {words}");
    assert_eq!(
        said["batches"]["last"], 1,
        "the archive's files of that week alone"
    );
    let earnings = &said["earnings"];
    assert_eq!(
        (&earnings["week"], &earnings["over"]),
        (&"2026-W48".into(), &true.into())
    );
    let provider = json!([{
        "provider": 1, "jobs": 2, "gpuMillis": 2000, "paid": "0.002", "emissions": "0", "slashed": "0.5",
        "hash": report().eip712_hash_struct(), "reportedIn": [2],
    }]);
    assert_eq!(earnings["providers"], provider);
    drop(rpc);
    let (code, offline, words) = case.verify(&[&["--chain-file", saved], &flags[..]].concat());
    assert_eq!((code, offline), (0, said), "{words}");
}

#[test]
fn a_provider_has_one_line_with_what_it_got_and_where_that_was_reported() {
    let case = Case::of("line", Lane::stating(&statements(&report())));
    let rpc = Rpc::of(&case.lane);
    let (code, _, words) = case.verify(&["--rpc", &rpc.url, "--week", "2026-W48", "-o", "text"]);
    assert_eq!(code, 0, "{words}");
    let line = format!(
        "  provider 1 in 2026-W48: 2 jobs, 2.000 GPU-seconds, 0.002 tokens paid, 0 emissions, 0.5 slashed; report {}: reported in batch 2\n",
        report().eip712_hash_struct()
    );
    assert!(words.contains(&line), "{words}");
}

#[test]
fn a_week_that_is_not_over_or_not_reported_yet_is_no_error() {
    let case = Case::new("unreported");
    let mut early = case.lane.clone();
    early.now = 1_795_996_799; // its last second
    for (lane, over, words) in [
        (&case.lane, true, "not reported yet"),
        (&early, false, "the week is not over"),
    ] {
        let rpc = Rpc::of(lane);
        let flags = ["--rpc", &rpc.url, "--week", "2026-W48"];
        let (code, said, _) = case.verify(&flags);
        assert_eq!((code, &said["earnings"]["over"]), (0, &over.into()));
        assert_eq!(said["earnings"]["providers"][0]["reportedIn"], json!([]));
        let (_, _, text) = case.verify(&[&flags[..], &["-o", "text"]].concat());
        assert!(text.contains(words), "{text}");
    }
}

#[test]
fn a_report_that_is_not_what_the_batches_come_to_is_not_verified_and_both_hashes_are_told() {
    let mut wrong = report();
    wrong.paid += 1;
    let case = Case::of("report", Lane::stating(&statements(&wrong)));
    let rpc = Rpc::of(&case.lane);
    let (code, said, words) = case.verify(&["--rpc", &rpc.url, "--week", "2026-W48"]);
    assert_eq!(code, 1, "{said} {words}");
    let finding = &said["finding"];
    assert_eq!(
        finding["found"],
        json!(wrong.eip712_hash_struct().to_string())
    );
    assert_eq!(
        finding["expected"],
        json!(report().eip712_hash_struct().to_string())
    );
    let file = finding["file"].as_str().unwrap();
    assert!(
        file.starts_with("report of provider 1 for 2026-W48, stated in batch 2"),
        "{file}"
    );
    // Another week does not depend on it.
    let (code, said, words) = case.verify(&["--rpc", &rpc.url, "--week", "2026-W49"]);
    assert_eq!(code, 0, "{said} {words}");
}

#[test]
fn an_endpoint_that_shows_other_statements_than_the_payload_is_not_believed() {
    let mut lane = Lane::stating(&statements(&report()));
    lane.said_otherwise = Some(vec![statements(&report())[1]]);
    let case = Case::of("stated", lane);
    let rpc = Rpc::of(&case.lane);
    let (code, said, words) = case.verify(&["--rpc", &rpc.url]);
    assert_eq!(code, 1, "{said} {words}");
    let finding = &said["finding"];
    let file = finding["file"].as_str().unwrap();
    assert!(file.starts_with("events Stated of batch 2"), "{file}");
    assert!(
        finding["expected"]
            .as_str()
            .unwrap()
            .starts_with("kind 1, "),
        "{finding}"
    );
    assert!(
        finding["found"].as_str().unwrap().starts_with("kind 3, "),
        "{finding}"
    );
}

#[test]
fn the_first_byte_that_is_wrong_is_named() {
    let case = Case::new("wrong");
    let rpc = Rpc::of(&case.lane);
    let object = case.object(1);
    let mut file = std::fs::read(&object).unwrap();
    let text = String::from_utf8(file.clone()).unwrap();
    let at = text.find("\"units\":1000").unwrap() + 8;
    file[at] = b'9';
    write(&object, &file);
    let (code, said, words) = case.verify(&["--rpc", &rpc.url]);
    assert_eq!(code, 1, "{said} {words}");
    assert_eq!(said["verified"], false);
    assert_eq!(said["finding"]["from"], at);
    assert!(object.ends_with(said["finding"]["file"].as_str().unwrap()));
    // The other batch is as it was.
    let (code, _, _) = case.verify(&["--rpc", &rpc.url, "--batch", "1"]);
    assert_eq!(code, 0);
    // What is not there is wrong too.
    std::fs::remove_file(&object).unwrap();
    let (code, said, _) = case.verify(&["--rpc", &rpc.url]);
    assert_eq!(
        (code, &said["finding"]["found"]),
        (1, &Value::from("nothing"))
    );
}

#[test]
fn what_could_not_be_checked_is_neither_right_nor_wrong() {
    let case = Case::new("unchecked");
    let rpc = Rpc::of(&case.lane);
    let mut lying = case.lane.clone();
    lying.head_sequence = 3;
    let lying = Rpc::of(&lying);
    for (flags, expected) in [
        (vec!["--rpc", "http://127.0.0.1:9"], "--rpc"),
        (vec!["--rpc", &rpc.url, "--batch", "9"], "stands at batch 2"),
        (vec!["--rpc", &rpc.url, "--record", "none"], "pays none"),
        (vec!["--rpc", &rpc.url, "--week", "2020-W01"], "--week"),
        (vec!["--chain-file", "/no/such/file"], "--chain-file"),
        (vec!["--rpc", &lying.url], "contradict each other"),
        (vec![], "--rpc"),
    ] {
        let (code, _, words) = case.verify(&flags);
        assert_eq!(code, 2, "{flags:?}: {words}");
        assert!(words.contains(expected), "{flags:?}: {words}");
    }
}

/// Writes epochs of uptime in which `n1` was up for `up` minutes of ten each, and returns the last one's statement.
fn write_uptime(folder: &Path, first: u32, up: &[u16]) -> Statement {
    let lane = LaneId {
        chain_id: lane::CHAIN,
        settlement: SETTLEMENT,
        lane: lane::LANE,
    };
    let mut head = alloy::primitives::B256::ZERO;
    let mut epoch = first;
    for up in up {
        let written = EpochUptime {
            epoch,
            previous: head,
            nodes: vec![NodeUptime {
                node: "n1".to_owned(),
                provider: 1,
                watched: 0x3ff,
                up: (1 << up) - 1,
                gpus: 8,
                healthy: 8,
            }],
        };
        let file = archive::uptime::encode(lane, &written);
        let address = archive::address(&file);
        write(&folder.join(archive::object_path(address)), &file);
        write(
            &folder.join(archive::uptime::index_path(lane, epoch)),
            archive::index_entry(address).as_bytes(),
        );
        head = written.head();
        epoch += 1;
    }
    statement::uptime(epoch - 1, head)
}

#[test]
fn the_log_of_uptime_is_verified_against_what_was_stated_about_it() {
    // Of the week of the second batch.
    let first = epoch_of("2026-W49".parse::<Week>().unwrap().from()) + 3;
    let scratch = std::env::temp_dir().join(format!("gridstake-uptime-{}", std::process::id()));
    let stated = write_uptime(&scratch, first, &[10, 4, 7]);
    let case = Case::of("uptime", Lane::stating(&[stated]));
    write_uptime(&case.folder, first, &[10, 4, 7]);
    let rpc = Rpc::of(&case.lane);
    for week in [&[][..], &["--week", "2026-W49"]] {
        let flags = [&["--rpc", &rpc.url, "--uptime"], week].concat();
        let (code, said, words) = case.verify(&flags);
        assert_eq!(code, 0, "{words}");
        assert_eq!(said["uptime"]["epochs"], 3);
        let minutes = json!({"watchedMinutes": 30, "upMinutes": 21});
        assert_eq!(said["uptime"]["nodes"]["n1"], minutes);
    }
    let (_, _, words) = case.verify(&["--rpc", &rpc.url, "--uptime", "-o", "text"]);
    assert!(
        words.contains("uptime of n1: up in 21 of 30 minutes"),
        "{words}"
    );
    // Nothing was stated in the week before.
    let (code, said, _) = case.verify(&["--rpc", &rpc.url, "--uptime", "--week", "2026-W48"]);
    assert_eq!((code, &said["uptime"]), (0, &Value::Null));

    // Somebody makes the node look better than it was.
    write_uptime(&case.folder, first, &[10, 10, 7]);
    let (code, said, words) = case.verify(&["--rpc", &rpc.url, "--uptime"]);
    assert_eq!(code, 1, "{words}");
    let found = said["finding"]["found"].as_str().unwrap();
    assert!(found.contains("batch 2 states head"), "{found}");
    // Without the flag nobody looks.
    assert_eq!(case.verify(&["--rpc", &rpc.url]).0, 0);
}

#[test]
fn a_providers_week_is_reported_with_the_hash_that_the_lane_has_stated() {
    let case = Case::of("report-right", Lane::stating(&statements(&report())));
    let rpc = Rpc::of(&case.lane);
    let flags = ["--rpc", &rpc.url, "--week", "2026-W48"];
    let (code, printed, words) = case.report(1, &[&flags[..], &["-o", "json"]].concat());
    assert_eq!(code, 0, "{words}");
    let said: Value = serde_json::from_str(&printed).unwrap();
    for (field, value) in [
        ("hash", json!(report().eip712_hash_struct())),
        ("stated", json!("Equal")),
        ("statedIn", json!([2])),
        ("jobs", json!(2)),
        ("gpuSeconds", json!("2")),
        ("paid", json!("0.002")),
        ("slashed", json!("0.5")),
        // The slices of this lane tell no energy, and there is no cluster to tell what nodes cost.
        ("slicesWithoutEnergy", json!(2)),
        ("energyKwh", Value::Null),
        ("paybackDays", Value::Null),
    ] {
        assert_eq!(said[field], value, "{field}: {said}");
    }
    let (code, text, _) = case.report(1, &flags);
    assert_eq!(code, 0);
    let line = format!(
        "report {}: equal to the one on chain, stated in batch 2",
        report().eip712_hash_struct()
    );
    assert!(text.contains(&line), "{text}");
    let (code, yaml, _) = case.report(1, &[&flags[..], &["-o", "yaml"]].concat());
    assert_eq!(code, 0);
    assert!(yaml.contains("stated: Equal"), "{yaml}");
    let (code, csv, _) = case.report(1, &[&flags[..], &["-o", "csv"]].concat());
    assert_eq!((code, csv.lines().count()), (0, 2), "{csv}");
}

#[test]
fn a_week_of_nobody_and_a_week_without_batches_are_answers() {
    let case = Case::of("report-nobody", Lane::stating(&statements(&report())));
    let rpc = Rpc::of(&case.lane);
    for (provider, week) in [(9, "2026-W48"), (1, "2020-W01")] {
        let (code, text, words) = case.report(provider, &["--rpc", &rpc.url, "--week", week]);
        assert_eq!(code, 0, "{words}");
        assert!(text.contains("no batch of the lane names it"), "{text}");
    }
}

#[test]
fn a_week_that_was_stated_otherwise_is_not_reported_as_if_it_were_right() {
    let mut wrong = report();
    wrong.paid += 1;
    let case = Case::of("report-wrong", Lane::stating(&statements(&wrong)));
    let rpc = Rpc::of(&case.lane);
    let (code, printed, words) = case.report(1, &["--rpc", &rpc.url, "--week", "2026-W48"]);
    assert_eq!((code, printed.as_str()), (1, ""), "{words}");
    assert!(
        words.contains("NOT VERIFIED: report of provider 1"),
        "{words}"
    );
    assert!(
        words.contains(&report().eip712_hash_struct().to_string()),
        "{words}"
    );
    let (code, _, words) = case.report(1, &["--rpc", "http://127.0.0.1:9", "--week", "2026-W48"]);
    assert_eq!(code, 2, "{words}");
    assert!(words.contains("could not report: --rpc"), "{words}");
}

#[test]
fn a_week_is_reported_without_a_network_from_what_verify_has_saved() {
    let case = Case::of("report-offline", Lane::stating(&statements(&report())));
    let rpc = Rpc::of(&case.lane);
    let saved = case.folder.join("chain.json");
    let saved = saved.to_str().unwrap();
    let (code, ..) = case.verify(&["--rpc", &rpc.url, "--save-chain", saved]);
    assert_eq!(code, 0);
    drop(rpc);
    let (code, text, words) = case.report(1, &["--chain-file", saved, "--week", "2026-W48"]);
    assert_eq!(code, 0, "{words}");
    assert!(text.contains("equal to the one on chain"), "{text}");
}
