//! What tenants are told, word for word.

use gridstake_crds::gpu_node::OfferReason;
use serde_json::json;

use super::*;
use crate::scheduler::fixtures::{node, request, seed, snapshot, taint};
use crate::scheduler::linear::place;
use crate::scheduler::{PodFacts, SnapshotInputs};

fn verdict(nodes: Vec<NodeFacts>, change: impl FnOnce(&mut Request)) -> Result<(), String> {
    let mut request = request(1, 1);
    change(&mut request);
    satisfiable(&snapshot(nodes), &request).map_err(|unsatisfiable| unsatisfiable.to_string())
}

fn refused(change: impl FnOnce(&mut Request)) -> String {
    let mut other = node("b", 4);
    other
        .devices
        .iter_mut()
        .for_each(|device| device.model = "NVIDIA L4".to_owned());
    verdict(vec![node("a", 8), other], change).unwrap_err()
}

#[test]
fn each_impossible_wish_is_answered_with_the_nearest_miss() {
    let text = str::to_owned;
    assert_eq!(
        refused(|r| r.gpu.models = vec![text("A100"), text("B200")]),
        "no node offers GPU model A100 or B200; on offer: NVIDIA H100 80GB HBM3, NVIDIA L4"
    );
    assert_eq!(
        refused(|r| r.gpu.min_memory_mib = Some(90_000)),
        "the largest matching GPU has 81559 MiB of memory, 90000 asked for"
    );
    assert_eq!(
        refused(|r| r.gpu.min_compute_capability = "10.0".parse().ok()),
        "the highest compute capability of matching GPUs is 9.0, 10.0 asked for"
    );
    assert_eq!(
        refused(|r| r.regions = vec![text("mars")]),
        "no matching node is in region mars; regions on offer: eu-central"
    );
    assert_eq!(
        refused(|r| r.jurisdictions = vec![text("FR")]),
        "no matching node is in jurisdiction FR; jurisdictions on offer: DE"
    );
    assert_eq!(
        refused(|r| r.chain = Some(text("base"))),
        "the namespace's payer is on the chain base, and no matching node's provider is; chains on offer: anvil"
    );
    assert_eq!(
        refused(|r| r.constraints.node_selector = [(text("disk"), text("ssd"))].into()),
        "no matching node is accepted by the template's nodeSelector and node affinity"
    );
    assert_eq!(
        refused(|r| r.topology =
            serde_json::from_value(json!({"key": "rack", "policy": "Required"})).ok()),
        "no matching node has the label rack, which spec.topology requires"
    );
    assert_eq!(
        refused(|r| r.max_price = Some(gridstake_crds::TokenAmount::from_nano(500_000))),
        "the cheapest matching node costs 0.00072 per GPU-second, at most 0.0005 offered"
    );
    assert_eq!(
        refused(|r| r.gpu.count = 16),
        "the largest matching node has 8 GPUs, 16 asked for"
    );
    assert_eq!(
        refused(|r| r.resources.cpu_milli = 65_000),
        "the largest matching node has 64000m CPU, 65000m asked for"
    );
    assert_eq!(
        refused(|r| r.resources.memory_bytes = (512 << 30) + 1),
        "the largest matching node has 524288Mi memory, 524289Mi asked for"
    );
    assert_eq!(
        refused(|r| r.resources.set("example.com/nic", 1)),
        "the largest matching node has 0 example.com/nic, 1 asked for"
    );
    assert_eq!(
        refused(|r| (r.gpu.count, r.members) = (4, 4)),
        "matching nodes have room for 3 of 4 members, even when empty"
    );
}

#[test]
fn what_one_node_has_does_not_make_up_for_what_another_lacks() {
    // The node with the GPUs has too little CPU; the one with the CPU too few GPUs.
    let mut weak = node("a", 8);
    weak.allocatable.cpu_milli = 2000;
    let answer = verdict(vec![weak, node("b", 4)], |r| {
        (r.gpu.count, r.resources.cpu_milli) = (8, 4000);
    });
    assert_eq!(
        answer.unwrap_err(),
        "the largest matching node has 2000m CPU, 4000m asked for"
    );
}

#[test]
fn a_gang_that_must_be_close_is_measured_within_one_domain() {
    let in_rack = |name: &str, rack: &str| {
        let mut facts = node(name, 8);
        facts.labels.insert("rack".to_owned(), rack.to_owned());
        facts
    };
    let nodes = vec![in_rack("a", "1"), in_rack("b", "1"), in_rack("c", "2")];
    let close = |members: u32| {
        verdict(nodes.clone(), |r| {
            (r.gpu.count, r.members) = (8, members);
            r.topology = serde_json::from_value(json!({"key": "rack", "policy": "Required"})).ok();
        })
    };
    assert_eq!(close(2), Ok(()));
    assert_eq!(
        close(3).unwrap_err(),
        "matching nodes with one value of label rack have room for 2 of 3 members, even when empty"
    );
}

#[test]
fn use_health_offer_and_standing_pass_and_make_nothing_impossible() {
    let mut facts = node("a", 8);
    facts
        .devices
        .iter_mut()
        .for_each(|device| device.usable = false);
    facts.offer = Err(OfferReason::Quarantined);
    facts.taints = vec![taint("node.kubernetes.io/not-ready")];
    (facts.cordoned, facts.bonded, facts.reputation, facts.stake) = (true, false, 0, 0);
    let answer = verdict(vec![facts], |r| {
        (r.gpu.count, r.require_bond, r.min_reputation) = (8, true, 900);
        r.avoid = ["a".to_owned()].into();
    });
    assert_eq!(answer, Ok(()));
}

#[test]
fn a_lasting_taint_makes_a_job_impossible_and_is_named() {
    let mut facts = node("a", 8);
    facts.taints = vec![taint("team-a")];
    assert_eq!(
        verdict(vec![facts], |_| {}).unwrap_err(),
        "every matching node has a taint that the template does not tolerate; taints: team-a:NoSchedule"
    );
}

#[test]
fn a_fleet_without_nodes_or_gpus_says_so() {
    assert_eq!(verdict(vec![], |_| {}).unwrap_err(), "no GPU node is known");
    assert_eq!(
        verdict(vec![node("a", 0)], |_| {}).unwrap_err(),
        "no node shows a GPU"
    );
}

#[test]
fn a_long_list_is_cut() {
    let values = (0..11).map(|n| format!("{n:02}")).collect();
    assert_eq!(list(values), "00, 01, 02, 03, 04, 05, 06, 07 and 3 more");
}

#[test]
fn a_waiting_job_is_told_what_it_waits_for() {
    let mut drained = node("b", 8);
    drained.offer = Err(OfferReason::Drained);
    let mut silent = node("c", 8);
    silent.offer = Err(OfferReason::AgentSilent);
    let mut lost = node("a", 4);
    lost.devices[0].usable = false;
    let request = request(4, 1);
    let rejections = place(
        &snapshot(vec![lost, drained.clone(), silent]),
        &request,
        &seed(),
    )
    .unwrap_err();
    assert_eq!(
        waiting(&rejections, &request),
        "0/3 nodes fit: 1 InsufficientGpus (needs 4), 1 NotOffered (AgentSilent), 1 NotOffered (Drained)"
    );
    assert_eq!(waiting(&[], &request), "no GPU node is known");
}

#[test]
fn a_job_whose_payer_is_on_another_chain_than_the_free_nodes_is_told_so() {
    let on = |name: &str, chain: &str| NodeFacts {
        chain: Some(chain.to_owned()),
        ..node(name, 4)
    };
    let mut drained = on("c", "base");
    drained.offer = Err(OfferReason::Drained);
    let request = Request {
        chain: Some("base".to_owned()),
        ..request(4, 1)
    };
    let nodes = vec![on("a", "anvil"), on("b", "anvil"), drained];
    assert_eq!(satisfiable(&snapshot(nodes.clone()), &request), Ok(()));
    let rejections = place(&snapshot(nodes), &request, &seed()).unwrap_err();
    assert_eq!(
        waiting(&rejections, &request),
        "0/3 nodes fit: 1 NotOffered (Drained), 2 OtherChain (the namespace's payer is on base)"
    );
    let nodes = vec![on("a", "anvil"), on("b", "base")];
    let placed = place(&snapshot(nodes), &request, &seed()).unwrap();
    assert_eq!(placed.nodes, ["b"]);
}

#[test]
fn a_gang_that_fits_only_in_part_is_told_so() {
    let request = request(4, 3);
    let rejections = place(
        &snapshot(vec![node("a", 8), node("b", 2)]),
        &request,
        &seed(),
    )
    .unwrap_err();
    assert_eq!(
        waiting(&rejections, &request),
        "0/2 nodes fit: 1 GangDoesNotFit (needs room for 3 members), 1 InsufficientGpus (needs 4)"
    );
}

#[test]
fn the_full_answer_tells_counts_what_is_nearest_and_what_would_help() {
    let mut dear = node("b", 4);
    dear.price = gridstake_crds::TokenAmount::from_nano(2_000_000);
    let mut request = request(4, 1);
    request.max_price = Some(gridstake_crds::TokenAmount::from_nano(1_000_000));
    let pod = PodFacts {
        node: Some("a".to_owned()),
        ended: false,
        resources: Resources {
            gpus: 1,
            ..Resources::default()
        },
        member: None,
    };
    let fleet = Snapshot::assemble(SnapshotInputs {
        nodes: vec![node("a", 4), dear],
        pods: vec![pod],
        ..SnapshotInputs::default()
    });
    let rejections = place(&fleet, &request, &seed()).unwrap_err();
    let told = |kept| waiting_in_full(&fleet, &request, &rejections, kept);
    assert_eq!(
        told(None),
        "0/2 nodes fit: 1 InsufficientGpus (needs 4), 1 PriceTooHigh; nearest: a node with 3 of 4 GPUs free; fits now with pricing.maxPerGpuSecond 0.002"
    );
    assert!(told(Some(1)).ends_with("; first in the queue: 1 node is kept for it"));
    assert!(told(Some(3)).ends_with("; first in the queue: 3 nodes are kept for it"));
}
