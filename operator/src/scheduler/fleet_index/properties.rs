//! The index gives the answers of the linear scan, whatever has happened before: random histories, in which every
//! decision is made by both and the index is held against a fleet that is put together anew.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use gridstake_crds::TokenAmount;
use gridstake_crds::gpu_node::OfferReason;
use k8s_openapi::jiff::SignedDuration;
use kube::core::{Expression, Selector};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::scheduler::fixtures::{node, request, seed, taint};
use crate::scheduler::node_constraints::NodeConstraints;
use crate::scheduler::{JobUid, MemberKey, PodFacts, Reservation, linear};

/// The random numbers of a history.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ mixed >> 31) % sides
    }

    fn one_in(&mut self, sides: u64) -> bool {
        self.roll(sides) == 0
    }

    fn of<T: Clone>(&mut self, choices: &[T]) -> T {
        let last = u64::try_from(choices.len()).unwrap();
        choices[usize::try_from(self.roll(last)).unwrap()].clone()
    }
}

const MODELS: [&str; 4] = [
    "NVIDIA H100 80GB HBM3",
    "NVIDIA L4",
    "NVIDIA A100-SXM4-80GB",
    "",
];
const HUGE: u128 = 1 << 70;

fn text(word: &str) -> Option<String> {
    (!word.is_empty()).then(|| word.to_owned())
}

fn any_node(name: &str, dice: &mut Dice) -> NodeFacts {
    let mut facts = node(name, dice.of(&[0, 1, 2, 4, 8, 8, 8, 12]));
    let model = dice.of(&MODELS);
    for device in &mut facts.devices {
        model.clone_into(&mut device.model);
        if dice.one_in(20) {
            "NVIDIA L4".clone_into(&mut device.model);
        }
        device.memory_mib = if model == "NVIDIA L4" { 23_034 } else { 81_559 };
        if dice.one_in(30) {
            device.compute_capability = None;
        }
        device.usable = !dice.one_in(20);
    }
    facts.region = text(dice.of(&["", "eu", "us", "EU"]));
    facts.jurisdiction = text(dice.of(&["", "DE", "DE", "US"]));
    for (key, values) in [
        ("topology.kubernetes.io/zone", ["", "a", "b"]),
        ("gridstake.dev/rack", ["", "1", "2"]),
        ("disk", ["", "ssd", "7"]),
    ] {
        if let Some(value) = text(dice.of(&values)) {
            facts.labels.insert(key.to_owned(), value);
        }
    }
    facts
        .labels
        .insert("kubernetes.io/hostname".to_owned(), name.to_owned());
    if dice.one_in(6) {
        facts.taints = vec![taint(dice.of(&[
            "gpu",
            "spot",
            "node.kubernetes.io/unreachable",
        ]))];
        facts.taints[0].effect = dice
            .of(&["NoSchedule", "NoExecute", "PreferNoSchedule"])
            .to_owned();
    }
    facts.cordoned = dice.one_in(15);
    if dice.one_in(8) {
        facts.namespaces = Some(Selector::from(Expression::Exists(
            dice.of(&["team", "else"]).to_owned(),
        )));
    }
    if dice.one_in(10) {
        facts.offer = Err(dice.of(&[OfferReason::Drained, OfferReason::NodeNotReady]));
    }
    if dice.one_in(4) {
        facts.closes_in = Some(SignedDuration::from_secs(dice.of(&[0, 60, 3600])));
    }
    facts.price = TokenAmount::from_nano(dice.of(&[
        0,
        100_000,
        300_000,
        300_000,
        720_000,
        720_000,
        2_147_483_647,
        3_000_000_000,
        HUGE,
        HUGE + 1,
    ]));
    facts.reputation = dice.of(&[0, 400, 900, 900, 1000, 1000, 1000, 1000, 40_000]);
    facts.bonded = !dice.one_in(6);
    facts.chain = text(dice.of(&["", "anvil", "anvil", "base"]));
    facts.stake = dice.of(&[0, 1, 20_000, 100_000, 100_000, 100_000, 100_000]);
    facts.allocatable.cpu_milli = dice.of(&[2_000, 16_000, 64_000]);
    facts.allocatable.memory_bytes = dice.of(&[3, 64 << 30, 512 << 30]);
    facts.allocatable.pods = dice.of(&[1, 3, 110, 110]);
    if dice.one_in(4) {
        facts.allocatable.set("example.com/nic", 2);
    }
    facts
}

fn any_constraints(dice: &mut Dice) -> NodeConstraints {
    let mut spec = json!({"containers": []});
    if dice.one_in(4) {
        spec["nodeSelector"] = json!({"disk": dice.of(&["ssd", "7", "none"])});
    }
    if dice.one_in(3) {
        let host = format!("node-{}", dice.roll(8));
        let label = |key: &str, operator: &str, values: &[&str]| json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
        let name = |operator: &str| json!({"matchFields": [{"key": "metadata.name", "operator": operator, "values": [host]}]});
        let terms = [
            json!({}),
            label("disk", "In", &["ssd", "hdd"]),
            label("disk", "NotIn", &["ssd"]),
            label("disk", "Gt", &["3"]),
            label("disk", "Lt", &["9"]),
            label("disk", "Exists", &[]),
            label("disk", "DoesNotExist", &[]),
            label("nobody", "Exists", &[]),
            label("disk", "Near", &[]),
            label("kubernetes.io/hostname", "In", &[host.as_str()]),
            label("kubernetes.io/hostname", "NotIn", &[host.as_str()]),
            name("In"),
            name("NotIn"),
            json!({"matchFields": [{"key": "spec", "operator": "In", "values": [host]}]}),
            json!({"matchExpressions": [{"key": "disk", "operator": "Exists"}, {"key": "gridstake.dev/rack", "operator": "In", "values": ["1"]}]}),
        ];
        let terms: Vec<_> = (0..dice.roll(5)).map(|_| dice.of(&terms)).collect();
        spec["affinity"] = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}});
    }
    if dice.one_in(2) {
        spec["tolerations"] = dice.of(&[
            json!([{"operator": "Exists"}]),
            json!([{"key": "gpu", "operator": "Exists"}]),
            json!([{"key": "node.kubernetes.io/unschedulable", "operator": "Exists"}]),
        ]);
    }
    NodeConstraints::from_pod_spec(&serde_json::from_value(spec).unwrap())
}

fn any_request(number: u64, dice: &mut Dice) -> Request {
    let members = if dice.one_in(4) {
        2 + u32::try_from(dice.roll(9)).unwrap()
    } else {
        1
    };
    let mut asked = request(dice.of(&[0, 1, 1, 1, 1, 1, 2, 2, 3, 8, 9]), members);
    asked.job_uid.0[..8].copy_from_slice(&number.to_be_bytes());
    if dice.one_in(3) {
        let key = dice.of(&[
            "gridstake.dev/rack",
            "topology.kubernetes.io/zone",
            "kubernetes.io/hostname",
            "nobody",
        ]);
        let policy = dice.of(&["Required", "Preferred"]);
        asked.topology = serde_json::from_value(json!({"key": key, "policy": policy})).ok();
    }
    // A request with all wishes at once finds no node; most have some.
    if dice.one_in(2) {
        if dice.one_in(2) {
            asked.constraints = any_constraints(dice);
        }
        return asked;
    }
    if dice.one_in(3) {
        let models = dice.of(&[
            &["H100"][..],
            &["L4", "A100"],
            &["A100-SXM4", "h100"],
            &["RTX 4090"],
        ]);
        asked.gpu.models = models.iter().map(|model| (*model).to_owned()).collect();
    }
    if dice.one_in(4) {
        asked.gpu.min_memory_mib = Some(40_000);
        asked.gpu.min_compute_capability = "9.0".parse().ok();
    }
    if dice.one_in(4) {
        asked.regions = vec![dice.of(&["eu", "US", "mars"]).to_owned()];
    }
    if dice.one_in(5) {
        asked.jurisdictions = vec!["de".to_owned()];
    }
    if dice.one_in(3) {
        asked.max_price = Some(TokenAmount::from_nano(dice.of(&[
            0,
            100_000,
            720_000,
            2_147_483_647,
            2_500_000_000,
            HUGE,
        ])));
    }
    if dice.one_in(3) {
        asked.min_reputation = dice.of(&[400, 1000, 1001, 39_000, 50_000]);
    }
    asked.require_bond = dice.one_in(3);
    asked.chain = text(dice.of(&["", "anvil", "base"]));
    if dice.one_in(3) {
        asked.run_limit = Some(Duration::from_secs(dice.of(&[60, 61, 7200])));
    }
    if dice.one_in(2) {
        asked.namespace_labels = BTreeMap::from([("team".to_owned(), "a".to_owned())]);
    }
    if dice.one_in(4) {
        let kept = (0..=dice.roll(5)).map(|_| {
            let spare = request(u32::try_from(dice.roll(5)).unwrap(), 1).per_member();
            (format!("node-{}", dice.roll(8)), spare)
        });
        asked.kept = Arc::new(kept.collect());
    }
    for set in [&mut asked.avoid, &mut asked.same_owner] {
        if dice.one_in(5) {
            *set = (0..dice.roll(4))
                .map(|_| format!("node-{}", dice.roll(8)))
                .collect();
        }
    }
    asked.resources.cpu_milli = dice.of(&[0, 1000, 8_000]);
    asked.resources.memory_bytes = dice.of(&[0, 4, 1 << 30, 100 << 30]);
    if dice.one_in(8) {
        asked.resources.set("example.com/nic", 1);
    }
    asked
}

/// The same fleet, as a list of facts and of what is taken.
#[derive(Default)]
struct Plain(BTreeMap<String, (NodeFacts, Resources, Resources)>);

impl Plain {
    fn snapshot(&self, sequence: u64) -> Snapshot {
        let mut inputs = SnapshotInputs {
            sequence,
            ..SnapshotInputs::default()
        };
        for (number, (name, (facts, used, reserved))) in (0..).zip(&self.0) {
            inputs.nodes.push(facts.clone());
            inputs.pods.push(PodFacts {
                node: Some(name.clone()),
                ended: false,
                resources: used.clone(),
                member: None,
            });
            inputs.reservations.push(Reservation {
                member: MemberKey {
                    job_uid: JobUid([1; 16]),
                    attempt: 1,
                    member: number,
                },
                node: name.clone(),
                resources: reserved.clone(),
            });
        }
        Snapshot::assemble(inputs)
    }

    fn give_back(&mut self, name: &str, resources: &Resources) {
        if let Some((_, used, reserved)) = self.0.get_mut(name) {
            let from = if reserved.first_shortage(resources).is_none() {
                reserved
            } else {
                used
            };
            *from = from.less(resources);
        }
    }
}

/// The index and the same fleet as a list, changed alike.
struct World {
    dice: Dice,
    names: u64,
    plain: Plain,
    index: FleetIndex,
    held: Vec<(Request, Vec<String>)>,
    placed: u32,
    refused: u32,
}

impl World {
    fn new(seed: u64, names: u64) -> Self {
        let mut world = Self {
            dice: Dice(seed),
            names,
            plain: Plain::default(),
            index: FleetIndex::new(WeightPolicy::default()),
            held: Vec::new(),
            placed: 0,
            refused: 0,
        };
        for number in 0..names {
            let facts = any_node(&format!("node-{number}"), &mut world.dice);
            let nothing = Resources::default;
            world
                .plain
                .0
                .insert(facts.name.clone(), (facts.clone(), nothing(), nothing()));
            if number % 2 == 0 {
                world.index.set_node(facts);
            }
        }
        world.index.update(world.plain.snapshot(1));
        world
    }

    fn step(&mut self, number: u64) {
        let name = format!("node-{}", self.dice.roll(self.names));
        match self.dice.roll(20) {
            0 => {
                let facts = any_node(&name, &mut self.dice);
                let (used, reserved) = self
                    .plain
                    .0
                    .remove(&name)
                    .map_or_else(Default::default, |(_, used, reserved)| (used, reserved));
                self.plain.0.insert(name, (facts.clone(), used, reserved));
                self.index.set_node(facts);
            }
            1 => {
                self.plain.0.remove(&name);
                self.index.remove(&name);
            }
            2 => self.flip(&name),
            3 => {
                let used = Resources {
                    gpus: self.dice.roll(4),
                    pods: self.dice.roll(3),
                    cpu_milli: self.dice.roll(4_000),
                    ..Resources::default()
                };
                if let Some((_, has, reserved)) = self.plain.0.get_mut(&name) {
                    *has = used.clone();
                    self.index.set_taken(&name, used, reserved.clone());
                }
            }
            4 => {
                // As another pass over the caches would show it.
                if let Some((facts, ..)) = self.plain.0.get_mut(&name) {
                    facts.closes_in = Some(SignedDuration::from_secs(30));
                }
                let gone = format!("node-{}", self.dice.roll(self.names));
                self.plain.0.remove(&gone);
                self.index.update(self.plain.snapshot(number));
            }
            roll if roll > 4 && (roll < 9 || self.held.len() > 4) && !self.held.is_empty() => {
                let last = u64::try_from(self.held.len()).unwrap();
                let gone = usize::try_from(self.dice.roll(last)).unwrap();
                let (request, nodes) = self.held.swap_remove(gone);
                for name in nodes {
                    self.plain.give_back(&name, &request.per_member());
                    self.index.give_back(&name, &request.per_member());
                }
            }
            _ => self.decide(number),
        }
    }

    /// One thing about a node changes.
    fn flip(&mut self, name: &str) {
        let dice = &mut self.dice;
        let Some((facts, ..)) = self.plain.0.get_mut(name) else {
            return;
        };
        match dice.roll(6) {
            0 => facts.cordoned = !facts.cordoned,
            1 => facts.price = TokenAmount::from_nano(u128::from(dice.roll(1_000_000))),
            2 => facts.reputation = u32::try_from(dice.roll(1001)).unwrap(),
            3 if facts.offer.is_ok() => facts.offer = Err(OfferReason::InLocalUse),
            3 => facts.offer = Ok(()),
            4 => facts.stake = dice.roll(200_000),
            _ => {
                for device in &mut facts.devices {
                    device.usable = !device.usable;
                }
            }
        }
        self.index.set_node(facts.clone());
    }

    /// Both decide; nothing is given out that is not there.
    fn decide(&mut self, number: u64) {
        let request = any_request(number, &mut self.dice);
        let fleet = self.plain.snapshot(self.index.snapshot().sequence());
        let answer = self.index.place(&request, &seed());
        assert_eq!(
            answer,
            linear::place(&fleet, &request, &seed()),
            "step {number}"
        );
        let Ok(placement) = answer else {
            self.refused += 1;
            return;
        };
        self.placed += 1;
        let mut times: BTreeMap<&String, u64> = BTreeMap::new();
        for name in &placement.nodes {
            *times.entry(name).or_default() += 1;
        }
        for (name, times) in times {
            let is_it = |node: &&NodeCapacity| node.facts().name == *name;
            let before = fleet.nodes().iter().find(is_it).unwrap();
            assert!(
                before.free().holds(&request.per_member()) >= times,
                "{name} is given out twice"
            );
        }
        for name in &placement.nodes {
            let (.., reserved) = self.plain.0.get_mut(name).unwrap();
            reserved.add(&request.per_member());
        }
        self.index.reserve(&placement, &request);
        self.held.push((request, placement.nodes));
    }
}

/// One history, and that at its end all sums are those of an index that is built anew; how many decisions placed
/// something and how many did not.
fn history(seed: u64, names: u64, steps: u64) -> (u32, u32) {
    let mut world = World::new(seed, names);
    for number in 0..steps {
        world.step(number);
    }
    let World { plain, index, .. } = world;
    let anew = FleetIndex::of(
        plain.snapshot(index.snapshot().sequence()),
        WeightPolicy::default(),
    );
    assert_eq!(index.fleet, anew.fleet);
    let counted =
        |blocks: Vec<Block>| -> Vec<Block> { blocks.into_iter().map(Block::counted).collect() };
    assert_eq!(counted(index.blocks), counted(anew.blocks));
    assert_eq!(index.positions, anew.positions);
    (world.placed, world.refused)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    #[test]
    fn every_decision_is_that_of_the_linear_scan_whatever_happened_before(seed: u64, names in 1_u64..14) {
        history(seed, names, 300);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]
    #[test]
    fn fleets_of_several_blocks_are_decided_like_the_linear_scan_decides(seed: u64, names in 60_u64..200) {
        history(seed, names, 80);
    }
}

#[test]
fn histories_both_place_and_refuse() {
    let (placed, refused) = history(1, 12, 2000);
    assert!(placed > 90 && refused > 90, "{placed} {refused}");
}

#[test]
fn what_is_gone_is_forgotten_in_time() {
    let fleet = |generation: u32| {
        let facts = (0..40).map(|number| NodeFacts {
            region: Some(format!("region-{generation}-{number}")),
            ..node(&format!("n{number}"), 1)
        });
        Snapshot::assemble(SnapshotInputs {
            nodes: facts.collect(),
            ..SnapshotInputs::default()
        })
    };
    let mut index = FleetIndex::new(WeightPolicy::default());
    for generation in 0..20 {
        index.update(fleet(generation));
        assert_eq!(index.snapshot().nodes(), fleet(generation).nodes());
    }
    assert!(index.classes.remembered() < 200);
}

#[test]
fn more_labels_than_columns_are_asked_for_and_still_judged() {
    let facts = (0..50).map(|number| {
        let mut facts = node(&format!("n{number}"), 1);
        facts
            .labels
            .insert(format!("label-{number}"), "x".to_owned());
        facts
    });
    let fleet = Snapshot::assemble(SnapshotInputs {
        nodes: facts.collect(),
        ..SnapshotInputs::default()
    });
    let mut index = FleetIndex::of(fleet.clone(), WeightPolicy::default());
    for number in 0..50 {
        let mut asked = request(1, 1);
        asked.constraints.node_selector =
            BTreeMap::from([(format!("label-{number}"), "x".to_owned())]);
        assert_eq!(
            index.place(&asked, &seed()),
            linear::place(&fleet, &asked, &seed())
        );
    }
    let mut all = request(1, 1);
    all.constraints.node_selector = (0..50)
        .map(|number| (format!("label-{number}"), "x".to_owned()))
        .collect();
    assert_eq!(
        index.place(&all, &seed()),
        linear::place(&fleet, &all, &seed())
    );
}

#[test]
fn names_that_no_node_has_rule_out_nobody() {
    let mut index = FleetIndex::new(WeightPolicy::default());
    index.set_node(node("a", 1));
    let mut asked = request(1, 1);
    asked.avoid = BTreeSet::from(["b".to_owned()]);
    assert!(index.place(&asked, &seed()).is_ok());
    index.give_back("b", &asked.per_member());
    index.remove("b");
    index.set_taken("b", Resources::default(), Resources::default());
    assert_eq!(index.snapshot().nodes().len(), 1);
}
