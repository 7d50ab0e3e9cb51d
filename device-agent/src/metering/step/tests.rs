use std::sync::Arc;

use gridstake_crds::usage_record::{Counters, EvidenceGap, GapReason};
use gridstake_ledger::{
    checkpoint::{Device, Signed, Subject, devices_hash},
    refusal::{self, Refusal},
    signature,
};
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::{
    metering::{
        chain::{CHECKPOINTS_MAX, GAPS_MAX, content, is_whole},
        device::User,
        records::Record,
    },
    process::ProcessId,
};

const POD_UID: &str = "1f6ab7ae-3c5e-4a51-9b0c-7f7d2c6a9e10";
const GPU: &str = "GPU-a";
/// The wall clock at boot.
const BOOT_MS: u64 = 1_800_000_000_000;
const EVERY: u64 = 300_000;

/// A node with one pod and all that an agent sees of it.
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is something that may go wrong by itself"
)]
struct Node {
    state: State,
    records: Records,
    slice: u32,
    alive: Vec<ProcessId>,
    last_exit: Option<BootMillis>,
    parts: Option<Vec<Part>>,
    now: u64,
    energy: u64,
    users: Vec<Option<&'static str>>,
    percent: u32,
    energy_fails: bool,
    utilisation_fails: bool,
    /// The API server has not told its records.
    unasked: bool,
    /// What must hold at all times is not looked at for a while: signatures cost.
    unchecked: bool,
    anchor: Anchor,
    key: Option<SigningKey>,
    _folder: TempDir,
}

fn process(pid: u32, start_ms: u64) -> ProcessId {
    let per_second = rustix::param::clock_ticks_per_second();
    ProcessId {
        start_ticks: start_ms * per_second / 1000,
        pid,
    }
}

fn whole() -> Part {
    Part {
        uuid: GPU.to_owned(),
        parent: None,
        share: (1, 1),
    }
}

fn record(slice: u32, from_ms: Option<u64>) -> Record {
    Record {
        lease: "u-1-0".to_owned(),
        slice,
        namespace: "lab".to_owned(),
        pod: "train-1-0".to_owned(),
        from_ms,
        published: None,
        remembered: None,
    }
}

fn new_key() -> (TempDir, SigningKey) {
    let folder = tempfile::tempdir().unwrap();
    let key = SigningKey::load_or_create(folder.path()).unwrap();
    (folder, key)
}

impl Node {
    fn new() -> Self {
        let (folder, key) = new_key();
        Self {
            state: State::default(),
            records: Records::from([("u-1-0-0".to_owned(), record(0, None))]),
            slice: 0,
            alive: Vec::new(),
            last_exit: None,
            parts: Some(vec![whole()]),
            now: 100_000,
            energy: 0,
            users: vec![Some(POD_UID)],
            percent: 50,
            energy_fails: false,
            utilisation_fails: false,
            unasked: false,
            unchecked: false,
            anchor: Anchor::at(BOOT_MS, BootMillis(0)),
            key: Some(key),
            _folder: folder,
        }
    }

    /// With a process that started at 100 s and was seen 500 ms later.
    fn running() -> Self {
        let mut node = Self::new();
        node.alive = vec![process(7, 100_000)];
        node.after(500);
        node
    }

    fn step(&mut self) -> bool {
        let name = ("lab".to_owned(), "train-1-0".to_owned());
        let pod = PodSeen {
            uid: POD_UID.to_owned(),
            alive: self.alive.clone(),
            last_exit: self.last_exit,
        };
        let at = BootMillis(self.now);
        let reading = Reading {
            gpu: GPU,
            at,
            percent: Some(self.percent).filter(|_| !self.utilisation_fails),
            memory_bytes: Some(8 << 30),
            energy_millijoules: Some(self.energy).filter(|_| !self.energy_fails),
            users: Some(
                self.users
                    .iter()
                    .map(|pod_uid| User {
                        pod_uid: *pod_uid,
                        memory_bytes: Some(4 << 30),
                    })
                    .collect(),
            ),
            held: whole().weight(),
            holders: Some(vec![POD_UID]),
        };
        let given = self.parts.clone().map(|parts| (name.clone(), parts));
        let seen = Seen {
            at,
            anchor: self.anchor,
            records: Some(&self.records).filter(|_| !self.unasked),
            pods: &HashMap::from([(name, pod)]),
            given: &given.into_iter().collect(),
            readings: &[reading],
            key: self.key.as_ref(),
        };
        let rules = Rules {
            checkpoint_every: EVERY,
            longest_reading: 5_000,
        };
        let stated = step(&mut self.state, &seen, rules).unwrap();
        if self.key.is_some() && !self.unchecked {
            self.check();
        }
        stated
    }

    fn after(&mut self, millis: u64) -> bool {
        self.now += millis;
        // 100 W.
        self.energy += millis * 100;
        self.step()
    }

    /// Runs for `seconds`, looking each second.
    fn run(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.after(1000);
        }
    }

    /// The wall clock.
    fn wall(&self) -> u64 {
        self.anchor.unix_ms(BootMillis(self.now))
    }

    /// The agent is killed and comes back with what it had kept.
    fn restart(&mut self, away: u64) {
        let kept = serde_json::to_string(&self.state).unwrap();
        self.state = serde_json::from_str(&kept).unwrap();
        self.after(away);
    }

    fn seal_at(&mut self, from_ms: u64) {
        self.records.clear();
        self.slice += 1;
        let name = format!("u-1-0-{}", self.slice);
        self.records.insert(name, record(self.slice, Some(from_ms)));
    }

    fn publish(&mut self) {
        let Some(evidence) = self.evidence() else {
            return;
        };
        for record in self.records.values_mut() {
            record.published = Some(Arc::new(evidence.clone()));
        }
    }

    fn evidence(&self) -> Option<Evidence> {
        let lease = self.state.leases.values().next()?;
        lease.evidence().map(|(_, evidence)| evidence)
    }

    fn stated(&self) -> Evidence {
        self.evidence().unwrap()
    }

    fn gaps(&self) -> Vec<(u64, u64, GapReason, bool)> {
        let told = |gap: &EvidenceGap| {
            (
                gap.from_ms - BOOT_MS,
                gap.to_ms - BOOT_MS,
                gap.reason,
                gap.bridged,
            )
        };
        self.stated().gaps.iter().map(told).collect()
    }

    /// `(epoch, seq, from, to)` of each checkpoint, since boot.
    fn spans(&self) -> Vec<(u64, u64, u64, u64)> {
        let checkpoints = self.stated().checkpoints;
        let span = |c: &gridstake_crds::usage_record::Checkpoint| {
            (c.epoch, c.seq, c.from_ms - BOOT_MS, c.to_ms - BOOT_MS)
        };
        checkpoints.iter().map(span).collect()
    }

    /// What must hold of all evidence at all times.
    fn check(&self) {
        let Some(evidence) = self.evidence() else {
            return;
        };
        let subject = Subject {
            record: &format!("u-1-0-{}", self.slice),
            pod_uid: &evidence.pod_uid,
            devices: devices_of(&evidence),
        };
        let key = evidence.key.parse().unwrap();
        assert!(
            is_whole(&evidence.checkpoints, subject, key),
            "{evidence:#?}"
        );
        assert!((1..=CHECKPOINTS_MAX).contains(&evidence.checkpoints.len()));
        assert!(evidence.gaps.len() <= GAPS_MAX);
        assert!(evidence.gaps.iter().all(|gap| gap.from_ms < gap.to_ms));
    }
}

#[test]
fn a_lease_is_stated_from_its_first_processes_start_to_its_last_ones_exit() {
    let mut node = Node::new();
    assert!(!node.after(1000), "nothing runs");
    let start = node.now + 130;
    node.alive = vec![process(7, start)];
    assert!(node.after(1000));
    assert_eq!(node.stated().ended_ms, None);
    node.run(60);
    node.last_exit = Some(BootMillis(node.now + 345));
    node.alive.clear();
    assert!(node.after(1000));
    let (end, evidence) = (node.now - 1000 + 345, node.stated());
    assert_eq!(evidence.started_ms, Some(BOOT_MS + start));
    assert_eq!(evidence.ended_ms, Some(BOOT_MS + end));
    assert_eq!(
        node.spans(),
        [(0, 0, start, start + 870), (0, 1, start + 870, end)]
    );
    assert!(!node.after(1000), "there is nothing more to say");
}

#[test]
fn an_exit_that_nobody_saw_is_dated_to_when_the_process_was_last_seen() {
    let mut node = Node::running();
    node.run(3);
    let seen = node.now;
    node.alive.clear();
    node.after(1000);
    assert_eq!(node.stated().ended_ms, Some(BOOT_MS + seen));
}

#[test]
fn every_five_minutes_one_statement_is_made_and_in_between_none() {
    let mut node = Node::running();
    let statements = (0..900).filter(|_| node.after(1000)).count();
    assert_eq!(statements, 3);
    let spans = node.spans();
    assert_eq!(spans[1], (0, 1, 100_500, 400_500));
    let counters = node.stated().checkpoints[1].counters;
    assert_eq!(
        counters,
        Counters {
            busy_millis: Some(150_000),
            memory_mib_seconds: Some(300 * 4096),
            energy_millijoules: Some(30_000_000),
            peak_processes: Some(1),
            samples: Some(300),
        }
    );
}

#[test]
fn the_devices_totals_are_those_of_all_statements() {
    let mut node = Node::running();
    node.run(700);
    let evidence = node.stated();
    let sum: u64 = evidence
        .checkpoints
        .iter()
        .filter_map(|c| c.counters.energy_millijoules)
        .sum();
    assert_eq!(
        evidence.devices[0].counters.unwrap().energy_millijoules,
        Some(sum)
    );
    assert_eq!(
        evidence.devices[0].share_denominator, None,
        "a whole device"
    );
}

#[test]
fn after_twenty_seconds_away_the_same_process_bridges_the_gap() {
    let mut node = Node::running();
    node.run(30);
    let left = node.now;
    node.restart(20_000);
    assert_eq!(
        node.gaps(),
        [(left, left + 20_000, GapReason::AgentAway, true)]
    );
    assert_eq!(
        node.spans()[1..],
        [(0, 1, 100_500, left), (1, 0, left + 20_000, left + 20_000)]
    );
    node.run(1);
    node.alive.clear();
    node.after(1000);
    assert_eq!(
        node.spans().last(),
        Some(&(1, 1, left + 20_000, left + 21_000))
    );
}

#[test]
fn a_process_that_is_gone_or_another_when_the_agent_returns_bridges_nothing() {
    for (alive, ended) in [(vec![], true), (vec![process(7, 140_000)], false)] {
        let mut node = Node::running();
        node.run(30);
        let left = node.now;
        node.alive = alive;
        node.restart(20_000);
        assert_eq!(
            node.gaps(),
            [(left, left + 20_000, GapReason::AgentAway, false)]
        );
        let end = ended.then_some(BOOT_MS + left);
        assert_eq!(
            node.stated().ended_ms,
            end,
            "nobody knows more than when it was last seen"
        );
    }
}

#[test]
fn after_a_boot_of_the_node_nothing_is_bridged() {
    let mut node = Node::running();
    node.run(30);
    let left = BOOT_MS + node.now;
    let kept = serde_json::to_string(&node.state).unwrap();
    node.state = serde_json::from_str(&kept).unwrap();
    node.anchor = Anchor::at(left + 60_000, BootMillis(5_000));
    for lease in node.state.leases.values_mut() {
        lease.rebooted(node.anchor);
    }
    (node.now, node.alive) = (5_000, vec![]);
    node.step();
    let evidence = node.stated();
    assert_eq!(evidence.ended_ms, Some(left));
    assert_eq!(evidence.gaps[0].to_ms, left + 60_000);
    assert!(!evidence.gaps[0].bridged);
}

#[test]
fn an_agent_that_returns_after_the_end_it_has_stated_says_nothing_new() {
    let mut node = Node::running();
    node.alive.clear();
    node.after(1000);
    let before = node.stated();
    node.restart(20_000);
    assert_eq!(node.stated(), before);
}

#[test]
fn without_a_key_it_is_measured_and_stated_when_there_is_one() {
    let mut node = Node::new();
    let key = node.key.take();
    node.alive = vec![process(7, 100_000)];
    node.run(700);
    assert_eq!(node.evidence(), None);
    node.key = key;
    assert!(node.after(1000));
    let first = node.spans()[0];
    assert_eq!((first.2, first.3), (100_000, 101_000));
    node.after(1000);
    assert!(node.spans().last().unwrap().3 >= node.now - 1000);
}

#[test]
fn nothing_is_stated_before_the_kubelet_has_named_the_devices_unless_the_pod_ends() {
    let mut node = Node::new();
    node.parts = None;
    node.alive = vec![process(7, 100_000)];
    node.run(3);
    assert_eq!(node.evidence(), None);
    let mut ends = Node::new();
    ends.parts = None;
    ends.alive.clone_from(&node.alive);
    ends.run(3);
    node.parts = Some(vec![whole()]);
    assert!(node.after(1000));
    assert_eq!(node.stated().devices.len(), 1);
    ends.alive.clear();
    ends.after(1000);
    assert!(ends.stated().devices.is_empty() && ends.stated().ended_ms.is_some());
    ends.parts = Some(vec![whole()]);
    ends.after(1000);
    assert!(
        ends.stated().devices.is_empty(),
        "the chain was begun without them"
    );
}

#[test]
fn the_next_slice_begins_where_the_one_before_was_sealed() {
    let mut node = Node::running();
    node.run(100);
    let cut = node.now - 3_500;
    node.seal_at(BOOT_MS + cut);
    assert!(node.after(1000));
    assert_eq!(node.spans(), [(0, 0, cut, node.now)]);
    let evidence = node.stated();
    assert_eq!(evidence.started_ms, Some(BOOT_MS + 100_000));
    assert_eq!(
        evidence.checkpoints[0].counters.energy_millijoules,
        Some(10_100_000),
        "what was not stated in the one before is not lost"
    );
}

#[test]
fn a_slice_that_was_sealed_while_the_agent_was_away_is_followed_by_its_successor() {
    let mut node = Node::running();
    node.run(100);
    let left = node.now;
    node.seal_at(BOOT_MS + left - 5_000);
    node.restart(20_000);
    assert_eq!(
        node.gaps(),
        [(left, left + 20_000, GapReason::AgentAway, true)]
    );
    node.seal_at(BOOT_MS + left + 10_000);
    node.after(1000);
    assert_eq!(
        node.gaps(),
        [(left + 10_000, left + 20_000, GapReason::AgentAway, true)],
        "the part of the gap that lies in this slice"
    );
}

#[test]
fn between_two_records_of_a_lease_it_is_metered_on() {
    let mut node = Node::running();
    node.run(10);
    node.records.clear();
    node.run(10);
    assert_eq!(node.evidence(), None);
    node.alive.clear();
    node.after(1000);
    node.seal_at(BOOT_MS + 105_000);
    node.after(1000);
    assert!(
        node.stated().ended_ms.is_some(),
        "also if it ended in between"
    );
}

#[test]
fn a_lease_whose_records_are_all_sealed_or_gone_is_forgotten_once_it_has_ended() {
    let mut node = Node::running();
    node.records.clear();
    node.run(10);
    assert_eq!(node.state.leases.len(), 1);
    node.alive.clear();
    node.after(1000);
    node.after(WAIT_FOR_RECORD_MS);
    assert!(node.state.leases.is_empty());
}

#[test]
fn an_agent_that_lost_its_memory_goes_on_from_what_is_published() {
    let mut node = Node::running();
    node.run(400);
    node.publish();
    let before = node.stated();
    let last = node.spans().last().unwrap().3;
    node.state = State::default();
    node.after(20_000);
    assert_eq!(node.gaps(), [(last, node.now, GapReason::SpoolLost, true)]);
    let evidence = node.stated();
    assert_eq!(evidence.checkpoints[..2], before.checkpoints[..]);
    assert_eq!(evidence.started_ms, before.started_ms);
    let energy = |evidence: &Evidence| evidence.devices[0].counters.unwrap().energy_millijoules;
    assert_eq!(energy(&evidence), energy(&before));
}

#[test]
fn another_key_begins_the_chain_anew_with_a_gap() {
    let mut node = Node::running();
    node.run(400);
    node.publish();
    let (_folder, other) = new_key();
    let address = other.address().to_string();
    node.key = Some(other);
    node.restart(20_000);
    assert_eq!(node.stated().key, address);
    let changed = (100_000, node.now, GapReason::KeyChanged, true);
    assert!(node.gaps().contains(&changed), "{:?}", node.gaps());
    let mut forgetful = Node::running();
    forgetful.publish();
    let (_folder, other) = new_key();
    (forgetful.key, forgetful.state) = (Some(other), State::default());
    forgetful.after(1000);
    assert_eq!(
        forgetful.gaps(),
        [(100_000, 101_500, GapReason::KeyChanged, true)]
    );
}

#[test]
fn a_pause_between_two_containers_is_no_end() {
    let mut node = Node::running();
    node.alive.clear();
    node.after(1000);
    assert!(node.stated().ended_ms.is_some());
    node.alive = vec![process(9, node.now + 200)];
    assert!(node.after(1000));
    assert_eq!(node.stated().ended_ms, None);
    assert!(node.stated().gaps.is_empty(), "it was watched all the time");
    node.alive.clear();
    node.after(1000);
    assert!(node.stated().ended_ms.is_some());
}

#[test]
fn the_processes_of_others_are_told_and_their_memory_is_not_counted() {
    let mut node = Node::running();
    node.users = vec![
        Some(POD_UID),
        None,
        Some("2f6ab7ae-3c5e-4a51-9b0c-7f7d2c6a9e10"),
    ];
    node.run(300);
    node.users = vec![Some(POD_UID)];
    node.run(1);
    let evidence = node.stated();
    assert_eq!(evidence.foreign_processes, Some(2));
    let counters = evidence.devices[0].counters.unwrap();
    assert_eq!(counters.memory_mib_seconds, Some(300 * 4096));
    assert_eq!(counters.peak_processes, Some(1));
}

#[test]
fn a_reading_that_comes_late_tells_the_energy_of_the_time_before_it_and_no_use() {
    let mut node = Node::running();
    let energy = node.energy;
    for _ in 0..10 {
        // A call that takes 5 s makes each sample this late.
        node.after(5_500);
    }
    let used = node.energy - energy;
    node.alive.clear();
    node.after(0);
    let counters = node.stated().devices[0].counters.unwrap();
    assert_eq!(counters.energy_millijoules, Some(used));
    assert_eq!((counters.busy_millis, counters.samples), (None, Some(11)));
}

#[test]
fn an_energy_counter_that_begins_anew_loses_one_interval_and_wraps_nothing() {
    let mut node = Node::running();
    node.run(10);
    let before = node.energy;
    node.energy = 0;
    node.run(10);
    node.alive.clear();
    node.after(0);
    let counters = node.stated().devices[0].counters.unwrap();
    let told = counters.energy_millijoules.unwrap();
    // 100 W for 20 s; the second in which it began anew tells nothing.
    assert_eq!(told, 1_900_000, "from {before} mJ");
    assert_eq!(
        counters.busy_millis,
        Some(9_500),
        "so does its use, and goes on after it"
    );
}

#[test]
fn a_spool_does_not_grow_however_often_the_agent_returns_without_a_key() {
    let mut node = Node::new();
    let key = node.key.take();
    node.alive = vec![process(7, 100_000)];
    let mut sizes = Vec::new();
    for _ in 0..300 {
        node.run(3);
        node.restart(5_000);
        sizes.push(serde_json::to_vec(&node.state).unwrap().len());
    }
    let most = sizes.iter().max().unwrap();
    assert!(*most < 16 << 10, "{most} bytes");
    node.key = key;
    node.run(1);
    node.alive.clear();
    node.after(0);
    let evidence = node.stated();
    let samples = evidence.devices[0].counters.unwrap().samples.unwrap();
    assert_eq!(samples, 300 * 4 + 1, "no sample of all that is lost");
    let spans = node.spans();
    assert_eq!(spans[0].2, 100_000, "from the first process's start");
    node.check();
}

#[test]
fn a_lease_takes_no_more_room_however_long_it_runs_and_the_api_server_is_away() {
    let mut node = Node::running();
    let mut most = 0;
    for round in 0..600 {
        node.after(EVERY);
        if round % 7 == 0 {
            node.restart(20_000);
        }
        most = most.max(serde_json::to_vec(&node.state).unwrap().len());
    }
    assert!(most < 64 << 10, "{most} bytes");
}

#[test]
fn what_was_kept_is_gone_on_with_only_once_the_api_server_has_told_what_it_holds() {
    let mut node = Node::running();
    node.run(3);
    let kept = serde_json::to_string(&node.state).unwrap();
    // The disk is full from now on: what is published is further than what is kept.
    node.run(600);
    node.publish();
    let published = node.stated();
    assert_eq!(published.checkpoints.len(), 3);
    node.state = serde_json::from_str(&kept).unwrap();
    let records = node.records.clone();
    node.unasked = true;
    node.after(1000);
    assert_eq!(node.stated().checkpoints.len(), 1, "nothing is added");
    (node.unasked, node.records) = (false, records);
    node.after(1000);
    let evidence = node.stated();
    assert_eq!(evidence.checkpoints[..3], published.checkpoints[..]);
    assert_eq!(evidence.gaps.last().unwrap().reason, GapReason::SpoolLost);
    assert!(evidence.gaps.last().unwrap().bridged);
}

#[test]
fn the_head_tells_until_when_a_process_was_seen() {
    let mut node = Node::running();
    node.run(7);
    let lease = node.state.leases.values().next().unwrap();
    let (record, head, to_ms) = lease.head().unwrap();
    assert_eq!((record, to_ms), ("u-1-0-0", BOOT_MS + node.now));
    assert_eq!(head, node.stated().checkpoints[0].head);
}

#[derive(Clone, Debug)]
enum Event {
    Run(u64),
    /// So many seconds with a look each.
    Work(u64),
    Restart(u64),
    OtherProcess,
    Pause,
    Seal(u64),
    Publish,
    LoseMemory,
    LoseKey,
    /// The disk takes what is known now, and nothing later.
    DiskFills,
    /// The agent is killed, and comes back with what the disk took.
    RestartFromDisk(u64),
    /// The wall clock is set to so many milliseconds after the node's boot.
    SetClock(u64),
    /// The node boots, with a wall clock that may be wrong.
    Boot(u64),
    /// The driver is loaded anew: its counter begins anew.
    CounterBeginsAnew,
    /// Calls for the energy fail, or do not any more.
    EnergyFails(bool),
    /// Calls for the utilisation fail, or do not any more.
    UtilisationFails(bool),
    /// The node's GPU is at work, or idle.
    Load(u32),
}

fn event() -> impl Strategy<Value = Event> {
    // An hour to and fro, around the clock as it was.
    let clock = || BOOT_MS - 3_600_000..BOOT_MS + 3_600_000;
    prop_oneof![
        6 => (1_u64..400_000).prop_map(Event::Run),
        4 => (1_u64..200).prop_map(Event::Work),
        2 => (1_u64..60_000).prop_map(Event::Restart),
        1 => Just(Event::OtherProcess),
        1 => Just(Event::Pause),
        1 => (0_u64..5_000).prop_map(Event::Seal),
        2 => Just(Event::Publish),
        1 => Just(Event::LoseMemory),
        1 => Just(Event::LoseKey),
        1 => Just(Event::DiskFills),
        1 => (1_u64..60_000).prop_map(Event::RestartFromDisk),
        2 => clock().prop_map(Event::SetClock),
        1 => clock().prop_map(Event::Boot),
        1 => Just(Event::CounterBeginsAnew),
        1 => prop::bool::ANY.prop_map(Event::EnergyFails),
        1 => prop::bool::ANY.prop_map(Event::UtilisationFails),
        1 => (0_u32..=100).prop_map(Event::Load),
    ]
}

/// What the operator makes of what is published, as it comes.
#[derive(Default)]
struct Operator {
    /// By record: the key, and what it signed.
    before: HashMap<String, (String, Vec<Signed>)>,
}

/// What the statements of `evidence` say of its devices.
fn devices_of(evidence: &Evidence) -> alloy_primitives::B256 {
    let devices: Vec<_> = evidence
        .devices
        .iter()
        .map(|device| Device {
            uuid: device.uuid.clone(),
            parent_uuid: device.parent_uuid.clone().unwrap_or_default(),
            share: device
                .share_numerator
                .zip(device.share_denominator)
                .unwrap_or((1, 1)),
        })
        .collect();
    devices_hash(&devices)
}

impl Operator {
    /// What is refused of the evidence of `record`, which is `passed` milliseconds old.
    fn refuses(
        &mut self,
        record: &str,
        evidence: &Evidence,
        passed: Option<u64>,
    ) -> Option<Refusal> {
        let subject = Subject {
            record,
            pod_uid: &evidence.pod_uid,
            devices: devices_of(evidence),
        };
        let chain: Vec<Signed> = evidence
            .checkpoints
            .iter()
            .map(|stated| Signed {
                checkpoint: content(stated, stated.previous.parse().unwrap()),
                head: stated.head.parse().unwrap(),
                signature: signature::parse(&stated.signature).unwrap(),
            })
            .collect();
        let content: Vec<_> = chain.iter().map(|signed| signed.checkpoint).collect();
        let gaps: Vec<_> = evidence.gaps.iter().map(|g| (g.from_ms, g.to_ms)).collect();
        let before = self
            .before
            .insert(record.to_owned(), (evidence.key.clone(), chain.clone()))
            .filter(|(key, _)| *key == evidence.key)
            .map(|(_, before)| before)
            .unwrap_or_default();
        let key = evidence.key.parse().unwrap();
        let broken = refusal::verify(subject, key, &chain).err();
        broken
            .map(|refused| refused.why)
            .or_else(|| refusal::contradiction(&before, &chain).map(|_| Refusal::Equivocation))
            .or_else(|| refusal::use_without_energy(&content).map(|_| Refusal::UseWithoutEnergy))
            .or_else(|| {
                refusal::more_than_time(&content, &gaps, passed?).map(|_| Refusal::MoreThanTime)
            })
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// `Node::check` holds after each step.
    #[test]
    fn whatever_happens_to_an_honest_agent_its_evidence_verifies_and_none_of_it_is_refused(events in prop::collection::vec(event(), 1..60)) {
        let mut node = Node::running();
        let (mut operator, mut disk) = (Operator::default(), None);
        let mut folders = Vec::new();
        let mut pid = 100;
        // What has passed since the lease's first record, whatever clocks say.
        let (mut passed, mut last) = (1_000, node.now);
        let mut clock_is_right = true;
        for event in events {
            match event {
                Event::Run(millis) => drop(node.after(millis)),
                Event::Work(seconds) => {
                    node.unchecked = true;
                    node.run(seconds);
                    node.unchecked = false;
                    node.after(1000);
                }
                Event::Restart(away) => node.restart(away),
                Event::OtherProcess => {
                    pid += 1;
                    node.alive = vec![process(pid, node.now)];
                    node.after(10);
                }
                Event::Pause => {
                    let alive = std::mem::take(&mut node.alive);
                    node.after(500);
                    node.alive = alive;
                    node.after(500);
                }
                Event::Seal(ago) => {
                    let wall = node.wall();
                    node.seal_at(wall - ago.min(node.now));
                    node.after(100);
                }
                Event::Publish => {
                    node.publish();
                    let record = format!("u-1-0-{}", node.slice);
                    passed += node.now.saturating_sub(last);
                    last = node.now;
                    if let Some(evidence) = node.evidence() {
                        // Later slices begin where the operator says, by the kubelet's clock.
                        let passed = Some(passed).filter(|_| node.slice == 0);
                        let refused = operator.refuses(&record, &evidence, passed);
                        prop_assert_eq!(refused, None, "{:#?}", evidence);
                    }
                }
                Event::LoseMemory => {
                    node.state = State::default();
                    node.after(1000);
                }
                Event::LoseKey => {
                    let (folder, key) = new_key();
                    folders.push(folder);
                    node.key = Some(key);
                    node.after(1000);
                }
                Event::DiskFills => disk = serde_json::to_string(&node.state).ok(),
                Event::RestartFromDisk(away) => {
                    node.state = disk.as_ref().map_or_else(State::default, |kept| serde_json::from_str(kept).unwrap());
                    node.after(away);
                }
                Event::SetClock(boot_ms) => {
                    node.anchor = Anchor::at(boot_ms, BootMillis(0));
                    clock_is_right = false;
                }
                Event::Boot(boot_ms) => {
                    clock_is_right = false;
                    passed += node.now.saturating_sub(last) + 60_000;
                    let kept = serde_json::to_string(&node.state).unwrap();
                    node.state = serde_json::from_str(&kept).unwrap();
                    node.anchor = Anchor::at(boot_ms + node.now, BootMillis(0));
                    (node.now, last, node.energy) = (60_000, 60_000, 0);
                    for lease in node.state.leases.values_mut() {
                        lease.rebooted(node.anchor);
                    }
                    disk = None;
                    pid += 1;
                    // A pod that outlives the boot has its containers started anew.
                    node.alive = vec![process(pid, node.now)];
                    node.step();
                }
                Event::CounterBeginsAnew => node.energy = 0,
                Event::EnergyFails(fails) => node.energy_fails = fails,
                Event::UtilisationFails(fails) => node.utilisation_fails = fails,
                Event::Load(percent) => node.percent = percent,
            }
            if let Some(evidence) = node.evidence() {
                prop_assert!(evidence.checkpoints.windows(2).all(|pair| pair[0].to_ms <= pair[1].from_ms));
                prop_assert!(!clock_is_right || evidence.checkpoints.last().unwrap().to_ms <= BOOT_MS + node.now);
            }
        }
    }

    /// The parts of one GPU, each with what it stated of the GPU's energy.
    #[test]
    fn of_one_gpu_no_more_is_stated_than_there_is(shares in prop::collection::vec(1_u32..4, 1..8), used in 1_u64..1_000_000_000) {
        let replicas: u32 = shares.iter().sum::<u32>().max(2);
        let pods: Vec<Part> = shares
            .iter()
            .map(|share| Part { uuid: GPU.to_owned(), parent: None, share: (*share, replicas) })
            .collect();
        let held: u64 = pods.iter().map(Part::weight).sum();
        prop_assert!(held <= whole().weight());
        let mut stated = 0;
        for part in pods {
            let mut node = Node::new();
            node.parts = Some(vec![part]);
            node.alive = vec![process(7, 100_000)];
            let name = ("lab".to_owned(), "train-1-0".to_owned());
            let pods = HashMap::from([(name.clone(), PodSeen { uid: POD_UID.to_owned(), alive: node.alive.clone(), last_exit: None })]);
            for (at, energy, alive) in [(100_500, 5, true), (101_500, 5 + used, true), (102_000, 5 + used, false)] {
                let reading = Reading { gpu: GPU, at: BootMillis(at), percent: Some(100), memory_bytes: Some(1), energy_millijoules: Some(energy), users: None, held, holders: None };
                let none = HashMap::new();
                let seen = Seen {
                    at: BootMillis(at),
                    anchor: node.anchor,
                    records: Some(&node.records),
                    pods: if alive { &pods } else { &none },
                    given: &HashMap::from([(name.clone(), node.parts.clone().unwrap())]),
                    readings: &[reading],
                    key: node.key.as_ref(),
                };
                step(&mut node.state, &seen, Rules { checkpoint_every: EVERY, longest_reading: 5_000 }).unwrap();
            }
            let counters = node.stated().devices[0].counters.unwrap();
            stated += counters.energy_millijoules.unwrap();
            if shares.len() > 1 {
                prop_assert_eq!(counters.busy_millis, None, "a share's utilisation is not told");
            }
        }
        prop_assert!(stated <= used);
    }
}

#[test]
fn a_record_whose_seal_is_remembered_is_not_metered_and_the_slice_after_it_is() {
    let mut node = Node::running();
    node.run(3);
    let stated = node.stated();
    for record in node.records.values_mut() {
        record.remembered = Some(Arc::new(stated.clone()));
    }
    assert!(!node.after(1000));
    assert_eq!(node.evidence(), None, "its slice is over");
    // An agent that has forgotten the lease begins none for it.
    node.state = State::default();
    node.after(1000);
    assert!(node.state.leases.is_empty());

    let cut = stated.checkpoints.last().unwrap().to_ms;
    node.seal_at(cut);
    assert!(node.after(1000));
    assert_eq!(node.stated().checkpoints[0].from_ms, cut);
}
