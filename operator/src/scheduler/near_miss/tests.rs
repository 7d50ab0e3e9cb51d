//! What tenants are told to come closest, and what would help, word for word.

use std::sync::Arc;

use gridstake_crds::{TokenAmount, gpu_node::OfferReason};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::scheduler::fixtures::{node, request, seed, snapshot};
use crate::scheduler::linear::place;
use crate::scheduler::{NodeFacts, PodFacts, SnapshotInputs};

/// Nodes of which so many GPUs and milli-CPUs are taken.
fn used(nodes: Vec<(NodeFacts, u64, u64)>) -> Snapshot {
    let pods = nodes.iter().map(|(facts, gpus, cpu)| PodFacts {
        node: Some(facts.name.clone()),
        ended: false,
        resources: Resources {
            gpus: *gpus,
            cpu_milli: *cpu,
            ..Resources::default()
        },
        member: None,
    });
    Snapshot::assemble(SnapshotInputs {
        pods: pods.collect(),
        nodes: nodes.into_iter().map(|(facts, ..)| facts).collect(),
        ..SnapshotInputs::default()
    })
}

#[test]
fn the_node_that_lacks_least_is_the_nearest() {
    let fleet = used(vec![
        (node("a", 4), 3, 0),
        (node("b", 4), 1, 63_500),
        (node("c", 4), 2, 0),
    ]);
    let found = near_miss(&fleet, &request(4, 1));
    assert_eq!(
        found.nearest.as_deref(),
        Some("a node with 2 of 4 GPUs free")
    );
    let found = near_miss(&used(vec![(node("b", 4), 1, 63_500)]), &request(4, 1));
    assert_eq!(
        found.nearest.as_deref(),
        Some("a node with 500m of 1000m CPU and 3 of 4 GPUs free")
    );
    assert_eq!(found.fits_now_with, Vec::<String>::new());
}

#[test]
fn a_node_that_is_too_small_or_withheld_is_not_near() {
    let mut drained = node("a", 4);
    drained.offer = Err(OfferReason::Drained);
    let found = near_miss(&snapshot(vec![drained, node("b", 2)]), &request(4, 1));
    assert_eq!(found, NearMiss::default());
}

#[test]
fn a_gang_is_told_for_how_many_members_there_is_room() {
    let found = near_miss(&snapshot(vec![node("a", 8), node("b", 2)]), &request(4, 3));
    assert_eq!(found.nearest.as_deref(), Some("room for 2 of 3 members"));
    let rack = |name: &str, rack: &str| {
        let mut facts = node(name, 4);
        facts.labels.insert("rack".to_owned(), rack.to_owned());
        facts
    };
    let mut gang = request(4, 2);
    gang.topology = serde_json::from_value(json!({"key": "rack", "policy": "Required"})).ok();
    let found = near_miss(&snapshot(vec![rack("a", "1"), rack("b", "2")]), &gang);
    assert_eq!(
        found.nearest.as_deref(),
        Some("room for 1 of 2 members on nodes with one value of label rack")
    );
    assert_eq!(found.fits_now_with, ["topology.policy Preferred"]);
}

#[test]
fn a_change_that_would_let_the_job_fit_now_is_named_with_its_mildest_value() {
    let fleet: Vec<NodeFacts> = [1_u32, 2, 3]
        .into_iter()
        .map(|rank| {
            let mut facts = node(&format!("n{rank}"), 4);
            facts.price = TokenAmount::from_nano(u128::from(rank) * 1_000_000);
            facts.reputation = 1000 - rank * 100;
            facts.bonded = false;
            facts.region = Some(format!("r{rank}"));
            facts
        })
        .collect();
    let fleet = snapshot(fleet);
    let told = |change: fn(&mut Request)| {
        let mut request = request(4, 2);
        change(&mut request);
        assert!(place(&fleet, &request, &seed()).is_err());
        near_miss(&fleet, &request).fits_now_with
    };
    assert_eq!(
        told(|r| r.max_price = Some(TokenAmount::from_nano(1_500_000))),
        ["pricing.maxPerGpuSecond 0.002"]
    );
    assert_eq!(
        told(|r| r.max_price = Some(TokenAmount::from_nano(1))),
        ["pricing.maxPerGpuSecond 0.002"]
    );
    assert_eq!(
        told(|r| r.min_reputation = 950),
        ["policy.minReputation 800"]
    );
    assert_eq!(
        told(|r| r.require_bond = true),
        ["policy.requireBond false"]
    );
    assert_eq!(
        told(|r| r.gpu.models = vec!["L4".to_owned()]),
        ["gpu.models NVIDIA H100 80GB HBM3"]
    );
    assert_eq!(
        told(|r| r.gpu.min_memory_mib = Some(90_000)),
        ["gpu.minMemoryMiB 81559"]
    );
    assert_eq!(
        told(|r| r.gpu.min_compute_capability = "10.0".parse().ok()),
        ["gpu.minComputeCapability 9.0"]
    );
    assert_eq!(
        told(|r| r.regions = vec!["r1".to_owned()]),
        ["policy.regions r2, r3"]
    );
    assert_eq!(
        told(|r| r.jurisdictions = vec!["FR".to_owned()]),
        ["policy.jurisdictions DE"]
    );
    let both = told(|r| {
        r.max_price = Some(TokenAmount::from_nano(1));
        r.require_bond = true;
    });
    assert!(
        both.is_empty(),
        "each of the changes alone would not help: {both:?}"
    );
}

#[test]
fn who_is_kept_from_room_is_told_that_an_end_in_time_would_help() {
    let mut request = request(1, 1);
    request.kept = Arc::new([("a".to_owned(), Resources::default())].into());
    let fleet = snapshot(vec![node("a", 4)]);
    let found = near_miss(&fleet, &request).fits_now_with;
    assert_eq!(
        found,
        ["a timeouts.run by which it ends before the job that room is kept for can start"]
    );
    request.run_limit = Some(std::time::Duration::from_mins(1));
    assert!(near_miss(&fleet, &request).fits_now_with[0].starts_with("a shorter timeouts.run"));
}

proptest! {
    // The values are those of fields, so they can be put in place and tried.
    #[test]
    fn a_price_or_reputation_that_is_named_is_enough_and_a_milder_one_is_not(
        nodes in prop::collection::vec((1_u64..6, 1_u128..6, 0_u32..1000), 1..7),
        (gpus, members) in (1_u32..5, 1_u32..5),
        (price, reputation) in (0_u128..6, 0_u32..1000),
    ) {
        let nodes = nodes.into_iter().enumerate().map(|(index, (gpus, price, reputation))| NodeFacts {
            price: TokenAmount::from_nano(price),
            reputation: reputation + 1,
            ..node(&format!("n{index}"), gpus)
        });
        let fleet = snapshot(nodes.collect());
        let asked = Request { max_price: Some(TokenAmount::from_nano(price)), min_reputation: reputation, ..request(gpus, members) };
        let fits = |request: &Request| place(&fleet, request, &seed()).is_ok();
        if fits(&asked) {
            return Ok(());
        }
        let named = near_miss(&fleet, &asked).fits_now_with;
        let value = |field: &str| named.iter().find_map(|text| text.strip_prefix(field));
        let with_price = |price: u128| fits(&Request { max_price: Some(TokenAmount::from_nano(price)), ..asked.clone() });
        let with_reputation = |reputation: u32| fits(&Request { min_reputation: reputation, ..asked.clone() });
        match value("pricing.maxPerGpuSecond ") {
            Some(text) => {
                let price = text.parse::<TokenAmount>().unwrap().nano();
                prop_assert!(with_price(price) && !with_price(price - 1), "{named:?}");
            }
            None => prop_assert!(!with_price(9), "{named:?}"),
        }
        match value("policy.minReputation ") {
            Some(text) => {
                let reputation: u32 = text.parse().unwrap();
                prop_assert!(with_reputation(reputation) && !with_reputation(reputation + 1), "{named:?}");
            }
            None => prop_assert!(!with_reputation(0), "{named:?}"),
        }
    }
}
