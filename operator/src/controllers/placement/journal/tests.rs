//! A history whose log is published in `operator/tests/vectors/archive`, for whoever writes a verifier. The plugin's own is
//! tested with it.
//!
//! To write it anew: `GRIDSTAKE_WRITE_VECTORS=1 cargo test --workspace --lib -- journal`.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use gridstake_crds::{TokenAmount, gpu_node::OfferReason};
use gridstake_ledger::archive::{self, decisions::decode};
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::LabelSelector, jiff::SignedDuration};
use kube::core::Selector;
use serde_json::json;

use super::*;
use crate::scheduler::{
    JobUid, Placement, Seed, Snapshot, SnapshotInputs,
    draw::{NEVER_SYNCED_BLOCK, NO_PREVIOUS_DECISION},
    fixtures,
    linear::place,
    node_constraints::NodeConstraints,
    node_facts::DeviceFacts,
    owner_cap::OwnerCap,
    request::ComputeCapability,
};

const CLUSTER: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";
const NODES: usize = 24;
const STEPS: usize = 400;

/// Numbers that follow from one another (an LCG of Knuth's): the history is the same everywhere.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % limit
    }

    fn one_in(&mut self, many: usize) -> bool {
        self.below(many) == 0
    }

    fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

const MODELS: [(&str, u64, u32, u32); 5] = [
    ("NVIDIA H100 80GB HBM3", 81_559, 9, 0),
    ("NVIDIA A100-SXM4-80GB", 81_920, 8, 0),
    ("NVIDIA L4", 23_034, 8, 9),
    ("NVIDIA GeForce RTX 4090", 24_564, 8, 9),
    ("NVIDIA GeForce RTX 4090 D", 24_564, 8, 9),
];

fn facts(numbers: &mut Numbers, index: usize, now: Timestamp) -> NodeFacts {
    let gpus = numbers.below(9);
    let mut facts = fixtures::node(&format!("node-{index}"), gpus as u64);
    let (model, memory_mib, major, minor) = *numbers.of(&MODELS);
    for device in &mut facts.devices {
        *device = DeviceFacts {
            model: model.to_owned(),
            memory_mib,
            compute_capability: (!numbers.one_in(9)).then_some(ComputeCapability { major, minor }),
            architecture: None,
            usable: !numbers.one_in(8),
        };
    }
    let mut label = |key: &str, value: String| facts.labels.insert(key.to_owned(), value);
    label(
        "topology.kubernetes.io/zone",
        format!("z{}", numbers.below(3)),
    );
    if !numbers.one_in(4) {
        label("gridstake.dev/rack", format!("r{}", numbers.below(5)));
    }
    label("generation", numbers.below(5).to_string());
    if numbers.one_in(6) {
        facts
            .taints
            .push(fixtures::taint(["a", "b"][numbers.below(2)]));
    }
    facts.cordoned = numbers.one_in(12);
    if numbers.one_in(6) {
        let selector = json!({"matchLabels": {"team": "red"}, "matchExpressions": [{"key": "class", "operator": "NotIn", "values": ["x", "y"]}]});
        let selector: LabelSelector = serde_json::from_value(selector).unwrap();
        facts.namespaces = Some(Selector::try_from(selector).unwrap());
    }
    if numbers.one_in(5) {
        facts
            .allocatable
            .other
            .insert("example.com/nic".to_owned(), 2);
    }
    facts.allocatable.cpu_milli = 1000 * (1 + numbers.below(32) as u64);
    if numbers.one_in(10) {
        facts.offer = Err(*numbers.of(&[OfferReason::Drained, OfferReason::AgentSilent]));
    }
    if numbers.one_in(6) {
        let closes =
            now + SignedDuration::from_secs(600 * i64::try_from(1 + numbers.below(9)).unwrap());
        facts.closes_in = Some(closes.duration_since(now));
    }
    facts.price = TokenAmount::from_nano(numbers.below(5) as u128 * 150_000);
    facts.region = (!numbers.one_in(8)).then(|| (*numbers.of(&["eu", "US"])).to_owned());
    facts.jurisdiction = (!numbers.one_in(8)).then(|| (*numbers.of(&["DE", "FR"])).to_owned());
    facts.reputation = u32::try_from(numbers.below(1001)).unwrap();
    facts.bonded = !numbers.one_in(7);
    facts.provider = Some(1 + u32::try_from(numbers.below(4)).unwrap());
    facts.chain = (!numbers.one_in(6)).then(|| (*numbers.of(&["anvil", "base"])).to_owned());
    facts.owner = (!numbers.one_in(9)).then(|| format!("owner-{}", numbers.below(8)));
    facts.stake = numbers.below(50_000) as u64;
    facts
}

fn request(numbers: &mut Numbers, number: usize) -> Request {
    let gpus = u32::try_from(1 + numbers.below(4)).unwrap();
    let members = if numbers.one_in(4) {
        1 + numbers.below(6)
    } else {
        1
    };
    let mut request = fixtures::request(gpus, u32::try_from(members).unwrap());
    request.job_uid = JobUid(std::array::from_fn(|at| {
        u8::try_from((number + at * 7) % 256).unwrap()
    }));
    request.attempt = 1 + u32::try_from(numbers.below(3)).unwrap();
    request.resources.cpu_milli = numbers.below(4000) as u64;
    if numbers.one_in(8) {
        request
            .resources
            .other
            .insert("example.com/nic".to_owned(), 1);
    }
    if numbers.one_in(3) {
        let asked = ["h100", "A100 80GB", "L4", "rtx4090", "RTX 4090 D"];
        let count = 1 + numbers.below(2);
        request.gpu.models = (0..count)
            .map(|_| (*numbers.of(&asked)).to_owned())
            .collect();
    }
    request.gpu.min_memory_mib = numbers.one_in(5).then_some(40_000);
    request.gpu.min_compute_capability = numbers
        .one_in(5)
        .then_some(ComputeCapability { major: 8, minor: 5 });
    if numbers.one_in(3) {
        let pods = [
            json!({"nodeSelector": {"topology.kubernetes.io/zone": "z1"}}),
            json!({"tolerations": [{"key": "a", "operator": "Exists"}, {"key": "b", "value": "", "effect": "NoSchedule"}]}),
            json!({"tolerations": [{"operator": "Exists"}]}),
            json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": "generation", "operator": "Gt", "values": ["2"]}, {"key": "topology.kubernetes.io/zone", "operator": "NotIn", "values": ["z0"]}]},
                {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["node-1", "node-2"]}]},
                {}]}}}}),
        ];
        let mut pod = numbers.of(&pods).clone();
        pod["containers"] = json!([]);
        request.constraints = NodeConstraints::from_pod_spec(&serde_json::from_value(pod).unwrap());
    }
    request.run_limit = numbers
        .one_in(3)
        .then(|| Duration::from_secs(900 * (1 + numbers.below(5) as u64)));
    request.max_price = numbers.one_in(4).then(|| TokenAmount::from_nano(300_000));
    if numbers.one_in(5) {
        request.regions = vec!["EU".to_owned()];
    }
    if numbers.one_in(6) {
        request.jurisdictions = vec!["de".to_owned(), "CH".to_owned()];
    }
    request.min_reputation = if numbers.one_in(5) { 500 } else { 0 };
    request.require_bond = numbers.one_in(3);
    if numbers.one_in(4) {
        let policy = *numbers.of(&["Required", "Preferred"]);
        request.topology =
            serde_json::from_value(json!({"key": "gridstake.dev/rack", "policy": policy})).unwrap();
    }
    if numbers.one_in(2) {
        request
            .namespace_labels
            .insert("team".to_owned(), "red".to_owned());
    }
    request.chain = numbers.one_in(3).then(|| "anvil".to_owned());
    if numbers.one_in(6) {
        request.avoid = [format!("node-{}", numbers.below(NODES))].into();
    }
    if numbers.one_in(6) {
        request.same_owner = BTreeSet::from([format!("node-{}", numbers.below(NODES))]);
    }
    if numbers.one_in(3) {
        let spare = |gpus| fixtures::request(gpus, 1).per_member();
        let kept = (0..4).map(|gpus| (format!("node-{}", numbers.below(NODES)), spare(gpus)));
        request.kept = Arc::new(kept.collect());
    }
    request
}

/// A job that has its place.
struct Placed {
    request: Request,
    placement: Placement,
}

fn seen(snapshot: &Snapshot) -> impl Iterator<Item = Seen<'_>> {
    snapshot.nodes().iter().map(Seen::from)
}

/// The parts of the history's log.
fn history() -> Vec<Vec<u8>> {
    let mut numbers = Numbers(7);
    let mut now: Timestamp = "2026-11-29T12:00:00.5Z".parse().unwrap();
    let mut fleet: BTreeMap<usize, NodeFacts> = (0..NODES)
        .map(|index| (index, facts(&mut numbers, index, now)))
        .collect();
    let mut placed: Vec<Placed> = Vec::new();
    let mut journal = Journal::new(CLUSTER, "operator-a/1");
    let mut previous = NO_PREVIOUS_DECISION;
    let mut epoch: Option<Epoch> = None;
    let mut files: Vec<Vec<u8>> = Vec::new();
    let mut cut = |journal: &mut Journal| {
        let before = files.last().map(|file| archive::address(file));
        files.push(journal.file(files.len() as u64 + 1, before));
        journal.written(journal.state());
    };
    for step in 0..STEPS {
        let passed = SignedDuration::from_millis(i64::try_from(numbers.below(20_000)).unwrap());
        now += passed;
        for facts in fleet.values_mut() {
            facts.closes_in = facts.closes_in.map(|left| left - passed);
        }
        if numbers.one_in(4) {
            let index = numbers.below(NODES);
            if numbers.one_in(6) {
                fleet.remove(&index);
            } else {
                fleet.insert(index, facts(&mut numbers, index, now));
            }
        }
        while placed.len() > 25 || (!placed.is_empty() && numbers.one_in(3)) {
            placed.swap_remove(numbers.below(placed.len()));
        }
        let mut snapshot = Snapshot::assemble(SnapshotInputs {
            nodes: fleet.values().cloned().collect(),
            reservations: placed
                .iter()
                .flat_map(|placed| placed.placement.reservations(&placed.request, 0))
                .collect(),
            sequence: step as u64,
            ..SnapshotInputs::default()
        });
        if step == STEPS / 2 {
            cut(&mut journal);
            journal.begin_anew("operator-b/2");
            epoch = None;
        }
        journal.see(seen(&snapshot), now);
        let lasting = epoch.take().filter(|epoch| epoch.lasts(now));
        let settled = lasting.unwrap_or_else(|| Epoch::begin(OwnerCap::default(), &snapshot, now));
        snapshot.cut(&settled.cuts);
        journal.settle(&settled);
        epoch = Some(settled);
        let request = request(&mut numbers, step);
        let seed = Seed {
            block_hash: NEVER_SYNCED_BLOCK,
            previous_decision: previous,
        };
        let Ok(mut placement) = place(&snapshot, &request, &seed) else {
            continue;
        };
        placement.decision.state = journal.state();
        previous = placement.decision.hash();
        journal.decided(&request, &placement.decision, now);
        if numbers.one_in(7) {
            journal.undone(&request, &placement.decision, "Outdated");
        } else {
            placed.push(Placed { request, placement });
        }
        if numbers.one_in(20) {
            cut(&mut journal);
        }
    }
    cut(&mut journal);
    files
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/archive")
}

fn archived() -> BTreeMap<PathBuf, Vec<u8>> {
    let mut tree = BTreeMap::new();
    for (number, file) in (1..).zip(history()) {
        let address = archive::address(&file);
        let entry = archive::index_entry(address).into_bytes();
        tree.insert(archive::object_path(address).into(), file);
        tree.insert(log::index_path(CLUSTER, number).into(), entry.clone());
        tree.insert(log::newest_path(CLUSTER).into(), entry);
    }
    tree
}

#[test]
fn the_log_of_a_fixed_history_is_the_one_that_is_published() {
    let folder = folder();
    let tree = archived();
    if std::env::var_os("GRIDSTAKE_WRITE_VECTORS").is_some() {
        let _ = std::fs::remove_dir_all(&folder);
        for (path, bytes) in &tree {
            let path = folder.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
    }
    for (path, bytes) in &tree {
        let published = std::fs::read(folder.join(path)).unwrap_or_default();
        assert_eq!(
            String::from_utf8_lossy(&published),
            String::from_utf8_lossy(bytes),
            "{}",
            path.display()
        );
    }
}

#[test]
fn every_part_is_read_and_goes_on_where_its_writers_last_one_ended() {
    let parts: Vec<_> = history().iter().map(|file| decode(file).unwrap()).collect();
    let mut states: BTreeMap<String, B256> = BTreeMap::new();
    let mut decisions = 0;
    for part in &parts {
        let before = states.insert(part.head.writer.clone(), part.end);
        assert_eq!(part.head.whole, before.is_none());
        assert!(before.is_none_or(|state| state == part.head.state));
        let decided = |(_, event): &&_| matches!(event, Event::Decision(_));
        decisions += part.events.iter().filter(decided).count();
    }
    assert_eq!(states.len(), 2);
    assert!(
        decisions > 100 && parts.len() > 5,
        "{decisions} in {} parts",
        parts.len()
    );
}

#[test]
fn what_stays_as_it_is_is_not_told_again() {
    let mut numbers = Numbers(1);
    let now: Timestamp = "2026-11-29T12:00:00Z".parse().unwrap();
    let mut facts = facts(&mut numbers, 0, now);
    facts.closes_in = Some(SignedDuration::from_secs(60));
    let mut journal = Journal::new(CLUSTER, "w");
    journal.see(seen(&fixtures::one_node(facts.clone())), now);
    let state = journal.state();
    // The moment at which it closes is the same.
    facts.closes_in = Some(SignedDuration::from_secs(50));
    journal.see(
        seen(&fixtures::one_node(facts.clone())),
        now + SignedDuration::from_secs(10),
    );
    assert_eq!(journal.state(), state);
    assert!(!journal.has_decisions());
    facts.closes_in = Some(SignedDuration::from_secs(51));
    journal.see(
        seen(&fixtures::one_node(facts)),
        now + SignedDuration::from_secs(10),
    );
    assert_ne!(journal.state(), state);
}

#[test]
fn a_promise_that_becomes_a_pod_takes_no_line() {
    let now: Timestamp = "2026-11-29T12:00:00Z".parse().unwrap();
    let facts = fixtures::node("n", 8);
    let request = fixtures::request(2, 1);
    let empty = fixtures::one_node(facts.clone());
    let mut journal = Journal::new(CLUSTER, "w");
    journal.see(seen(&empty), now);
    let mut placement = place(&empty, &request, &fixtures::seed()).unwrap();
    placement.decision.state = journal.state();
    journal.decided(&request, &placement.decision, now);
    let state = journal.state();
    let taken = request.per_member();
    let (nothing, weight) = (Resources::default(), empty.nodes()[0].weight());
    for (used, reserved) in [(&nothing, &taken), (&taken, &nothing)] {
        let node = Seen {
            facts: &facts,
            weight,
            used,
            reserved,
        };
        journal.see([node], now);
        assert_eq!(journal.state(), state);
    }
    journal.undone(&request, &placement.decision, "Outdated");
    let undone = journal.state();
    journal.see(seen(&empty), now);
    assert_eq!(journal.state(), undone);
}

#[test]
fn what_is_there_already_is_not_written_again_and_what_came_after_it_is() {
    let now: Timestamp = "2026-11-29T12:00:00Z".parse().unwrap();
    let one = fixtures::one_node(fixtures::node("n", 8));
    let two = fixtures::snapshot(vec![fixtures::node("n", 8), fixtures::node("m", 8)]);
    let mut journal = Journal::new(CLUSTER, "w");
    journal.see(seen(&one), now);
    let first = decode(&journal.file(1, None)).unwrap();
    journal.see(seen(&two), now);
    let mut others = first.clone();
    others.head.writer = "v".to_owned();
    journal.is_there(&others);
    assert_eq!(decode(&journal.file(2, None)).unwrap().events.len(), 2);
    journal.is_there(&first);
    let second = decode(&journal.file(2, None)).unwrap();
    assert_eq!((second.head.state, second.events.len()), (first.end, 1));
    assert_eq!(
        journal.bytes(),
        log::line(&second.events[0].1).unwrap().len() + 1
    );
    journal.is_there(&second);
    journal.is_there(&second);
    assert_eq!(journal.bytes(), 0);
}

#[test]
fn a_journal_that_nobody_takes_begins_anew_and_says_what_was_lost() {
    let now: Timestamp = "2026-11-29T12:00:00Z".parse().unwrap();
    let snapshot = fixtures::one_node(fixtures::node("n", 8));
    let mut journal = Journal::new(CLUSTER, "w/1");
    journal.see(seen(&snapshot), now);
    let placement = place(&snapshot, &fixtures::request(1, 1), &fixtures::seed()).unwrap();
    journal.decided(&fixtures::request(1, 1), &placement.decision, now);
    assert_eq!(journal.begin_anew("w/2"), 2);
    assert!(!journal.has_decisions());
    journal.see(seen(&snapshot), now);
    let part = decode(&journal.file(1, None)).unwrap();
    assert!(part.head.whole && part.events.len() == 1);
}
