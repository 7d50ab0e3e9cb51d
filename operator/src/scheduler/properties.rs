//! What holds for every fleet, request and history: properties of the scheduler as a whole.

use std::collections::BTreeMap;

use gridstake_crds::gpu_node::OfferReason;
use proptest::prelude::*;
use serde_json::json;

use super::explain::satisfiable;
use super::fixtures::{node, request, seed, snapshot};
use super::gang::Stage;
use super::linear::place;
use super::*;

/// A fleet in which filters, domains, prices and sizes all occur.
fn fleet() -> impl Strategy<Value = Vec<NodeFacts>> {
    let facts = (
        0_u64..9,
        0_u8..4,
        any::<bool>(),
        1_u128..5,
        prop::bool::weighted(0.9),
        0_u32..=1000,
        1_u64..9,
    );
    prop::collection::vec(facts, 0..9).prop_map(|nodes| {
        nodes
            .into_iter()
            .enumerate()
            .map(
                |(index, (gpus, rack, broken, price, offered, reputation, cores))| {
                    let mut facts = node(&format!("node-{index}"), gpus);
                    if rack > 0 {
                        facts
                            .labels
                            .insert("rack".to_owned(), format!("rack-{rack}"));
                    }
                    if let Some(device) = facts.devices.first_mut() {
                        device.usable = !broken;
                    }
                    if !offered {
                        facts.offer = Err(OfferReason::Drained);
                    }
                    facts.price = gridstake_crds::TokenAmount::from_nano(price * 100_000);
                    facts.reputation = reputation;
                    facts.allocatable.cpu_milli = cores * 1000;
                    facts
                },
            )
            .collect()
    })
}

fn any_request() -> impl Strategy<Value = Request> {
    let topology = prop_oneof![Just(None), Just(Some("Required")), Just(Some("Preferred"))];
    (
        1_u32..5,
        1_u32..6,
        topology,
        prop::option::of(1_u128..5),
        any::<[u8; 16]>(),
        1_u32..4,
        0_u64..3000,
    )
        .prop_map(|(gpus, members, topology, price, uid, attempt, cpu)| {
            let mut request = request(gpus, members);
            request.topology = topology.and_then(|policy| {
                serde_json::from_value(json!({"key": "rack", "policy": policy})).ok()
            });
            request.max_price =
                price.map(|price| gridstake_crds::TokenAmount::from_nano(price * 100_000));
            request.job_uid = JobUid(uid);
            request.attempt = attempt;
            request.resources.cpu_milli = cpu;
            request
        })
}

fn shuffled_fleet() -> impl Strategy<Value = (Vec<NodeFacts>, Vec<NodeFacts>)> {
    fleet().prop_flat_map(|nodes| (Just(nodes.clone()), Just(nodes).prop_shuffle()))
}

/// Whether used + reserved stay within a node's capacity.
fn within_capacity(snapshot: &Snapshot) -> bool {
    snapshot.nodes().iter().all(|node| {
        let mut taken = node.used().clone();
        taken.add(node.reserved());
        node.facts().capacity().holds(&taken) >= 1
    })
}

proptest! {
    #[test]
    fn a_placement_does_not_depend_on_the_order_in_which_nodes_are_listed((nodes, shuffled) in shuffled_fleet(), request in any_request()) {
        prop_assert_eq!(place(&snapshot(nodes), &request, &seed()), place(&snapshot(shuffled), &request, &seed()));
    }

    #[test]
    fn every_node_is_counted_exactly_once(nodes in fleet(), request in any_request()) {
        let all = u32::try_from(nodes.len()).unwrap();
        match place(&snapshot(nodes), &request, &seed()) {
            Ok(placement) => {
                let rejected: u32 = placement.decision.rejections.iter().map(|count| count.nodes).sum();
                prop_assert_eq!(rejected + placement.decision.candidates, all);
            }
            Err(rejections) => prop_assert_eq!(rejections.iter().map(|count| count.nodes).sum::<u32>(), all),
        }
    }

    #[test]
    fn a_gang_is_placed_whole_on_nodes_that_accept_it_or_not_at_all(nodes in fleet(), request in any_request()) {
        let mut fleet = snapshot(nodes);
        let Ok(placement) = place(&fleet, &request, &seed()) else { return Ok(()) };
        prop_assert_eq!(placement.nodes.len(), request.members as usize);
        for name in &placement.nodes {
            let chosen = fleet.nodes().iter().find(|node| node.facts().name == *name).unwrap();
            prop_assert_eq!(filter::first_rejection(chosen, &request, &request.per_member()), None);
        }
        fleet.reserve(&placement, &request);
        prop_assert!(within_capacity(&fleet));
    }

    #[test]
    fn a_request_is_refused_only_when_its_members_do_not_all_find_room(nodes in fleet(), request in any_request()) {
        let fleet = snapshot(nodes);
        let member = request.per_member();
        let mut rooms: BTreeMap<Option<&String>, u64> = BTreeMap::new();
        for node in fleet.nodes() {
            if filter::first_rejection(node, &request, &member).is_none() {
                *rooms.entry(node.facts().labels.get("rack")).or_default() += node.free().holds(&member);
            }
        }
        let required = filter::required_topology_key(&request).is_some();
        let room = if required { rooms.values().copied().max() } else { Some(rooms.values().sum()) };
        let fits = room.unwrap_or(0) >= u64::from(request.members);
        prop_assert_eq!(place(&fleet, &request, &seed()).is_ok(), fits);
    }

    #[test]
    fn a_topology_that_can_be_met_is_met(nodes in fleet(), request in any_request()) {
        let Some(topology) = request.topology.clone() else { return Ok(()) };
        let fleet = snapshot(nodes);
        let strict = Request {
            topology: serde_json::from_value(json!({"key": "rack", "policy": "Required"})).ok(),
            ..request.clone()
        };
        if place(&fleet, &strict, &seed()).is_err() {
            return Ok(());
        }
        let placement = place(&fleet, &request, &seed()).unwrap();
        let racks: std::collections::BTreeSet<_> = placement.nodes.iter().map(|name| {
            fleet.nodes().iter().find(|node| node.facts().name == *name).unwrap().facts().labels.get(&topology.key).cloned()
        }).collect();
        prop_assert_eq!(racks.len(), 1);
        prop_assert!(!racks.contains(&None));
    }

    #[test]
    fn a_decision_replays_bit_for_bit_from_its_record(nodes in fleet(), request in any_request()) {
        let fleet = snapshot(nodes);
        let Ok(placement) = place(&fleet, &request, &seed()) else { return Ok(()) };
        let again = place(&fleet, &request, &placement.decision.seed).unwrap();
        prop_assert_eq!(again.decision.encode(), placement.decision.encode());
        prop_assert_eq!(again, placement);
    }

    #[test]
    fn what_can_be_placed_is_never_called_impossible(nodes in fleet(), request in any_request()) {
        let fleet = snapshot(nodes);
        if place(&fleet, &request, &seed()).is_ok() {
            prop_assert_eq!(satisfiable(&fleet, &request), Ok(()));
        }
    }

    #[test]
    fn partly_used_nodes_are_drawn_before_empty_ones(nodes in fleet(), request in any_request(), taken in 0_usize..9) {
        let pods = nodes.get(taken).map(|node| PodFacts {
            node: Some(node.name.clone()),
            ended: false,
            resources: Resources { gpus: 1, pods: 1, ..Resources::default() },
            member: None,
        });
        let request = Request { members: 1, topology: None, ..request };
        let fleet = Snapshot::assemble(SnapshotInputs { nodes, pods: pods.into_iter().collect(), ..SnapshotInputs::default() });
        let Ok(placement) = place(&fleet, &request, &seed()) else { return Ok(()) };
        let fits_partly_used = fleet.nodes().iter().any(|node| {
            node.is_partly_used() && filter::first_rejection(node, &request, &request.per_member()).is_none()
        });
        let winner = fleet.nodes().iter().find(|node| node.facts().name == placement.nodes[0]).unwrap();
        prop_assert_eq!(winner.is_partly_used(), fits_partly_used);
        prop_assert_eq!(placement.decision.drawn[0].stage == Stage::PartlyUsed, fits_partly_used);
    }
}

#[test]
fn another_attempt_draws_anew() {
    let fleet = snapshot((0..50).map(|index| node(&format!("n{index}"), 8)).collect());
    let winners: std::collections::BTreeSet<_> = (1..20)
        .map(|attempt| {
            place(
                &fleet,
                &Request {
                    attempt,
                    ..request(1, 1)
                },
                &seed(),
            )
            .unwrap()
            .nodes
        })
        .collect();
    assert!(winners.len() > 10, "{winners:?}");
}

#[test]
fn nodes_stand_in_canonical_order() {
    let place = |name: &str, region: &str, zone: &str| {
        let mut facts = node(name, 1);
        facts.region = Some(region.to_owned());
        facts
            .labels
            .insert("topology.kubernetes.io/zone".to_owned(), zone.to_owned());
        facts
    };
    let mut other_model = place("a", "a", "a");
    other_model.devices[0].model = "NVIDIA L4".to_owned();
    let fleet = snapshot(vec![
        other_model,
        place("d", "b", "a"),
        place("c", "a", "b"),
        place("e", "a", "a"),
        place("b", "a", "b"),
    ]);
    let names: Vec<_> = fleet
        .nodes()
        .iter()
        .map(|node| node.facts().name.as_str())
        .collect();
    assert_eq!(names, ["e", "b", "c", "d", "a"]);
}

/// Four nodes of 4 GPUs, the n-th n times as dear as the first.
fn priced_fleet() -> Vec<NodeFacts> {
    (1..5)
        .map(|rank| {
            let mut facts = node(&format!("n{rank}"), 4);
            facts.price = gridstake_crds::TokenAmount::from_nano(rank * 360_000);
            facts
        })
        .collect()
}

// Computed by an independent implementation (Python integers, its own Keccak).
#[test]
fn a_gangs_draws_equal_the_published_vector() {
    let pods = vec![PodFacts {
        node: Some("n3".to_owned()),
        ended: false,
        resources: Resources {
            gpus: 1,
            pods: 1,
            ..Resources::default()
        },
        member: None,
    }];
    let fleet = Snapshot::assemble(SnapshotInputs {
        nodes: priced_fleet(),
        pods,
        ..SnapshotInputs::default()
    });
    let decision = place(&fleet, &request(2, 5), &seed()).unwrap().decision;
    assert_eq!(
        (decision.candidates, decision.total_weight),
        (4, 606_814_813)
    );
    let drawn: Vec<_> = decision
        .drawn
        .iter()
        .map(|drawn| {
            (
                drawn.stage,
                drawn.total,
                drawn.number,
                drawn.winner.as_str(),
            )
        })
        .collect();
    assert_eq!(
        drawn,
        [
            (Stage::PartlyUsed, 97_090_370, 58_241_095, "n3"),
            (Stage::All, 509_724_443, 50_475, "n1"),
            (Stage::PartlyUsed, 291_271_111, 45_771_354, "n1"),
            (Stage::All, 218_453_332, 145_071_384, "n2"),
            (Stage::PartlyUsed, 145_635_555, 136_303_192, "n2"),
        ]
    );
}

#[test]
fn nodes_win_in_proportion_to_their_weight() {
    let fleet = snapshot(priced_fleet());
    let mut wins: BTreeMap<String, i64> = BTreeMap::new();
    for attempt in 1..=10_000 {
        let placement = place(
            &fleet,
            &Request {
                attempt,
                ..request(1, 1)
            },
            &seed(),
        )
        .unwrap();
        *wins.entry(placement.nodes[0].clone()).or_default() += 1;
    }
    // Weights are as 1 : 1/2 : 1/3 : 1/4, so 4800, 2400, 1600 and 1200 wins are expected.
    let expected = BTreeMap::from([("n1", 4800), ("n2", 2400), ("n3", 1600), ("n4", 1200)]);
    let chi_in_thousandths: i64 = expected
        .iter()
        .map(|(name, expected)| (wins[*name] - expected).pow(2) * 1000 / expected)
        .sum();
    // 3 degrees of freedom: p = 0.01 at 11.34.
    assert!(
        chi_in_thousandths < 11_340,
        "chi-square {chi_in_thousandths} thousandths: {wins:?}"
    );
}

proptest! {
    #[test]
    fn what_is_given_back_is_as_free_as_if_it_had_never_been_taken(gpus in 1_u64..9, taken in 1_u64..9, by_a_pod in any::<bool>()) {
        let taken = Resources { gpus: taken.min(gpus), cpu_milli: 500, ..Resources::default() };
        let member = MemberKey { job_uid: JobUid([9; 16]), attempt: 1, member: 0 };
        let mut inputs = SnapshotInputs { nodes: vec![node("a", gpus)], ..SnapshotInputs::default() };
        if by_a_pod {
            inputs.pods.push(PodFacts { node: Some("a".to_owned()), ended: false, resources: taken.clone(), member: Some(member) });
        } else {
            inputs.reservations.push(Reservation { member, node: "a".to_owned(), resources: taken.clone() });
        }
        let mut fleet = Snapshot::assemble(inputs);
        prop_assert_eq!(fleet.nodes()[0].free().gpus, gpus - taken.gpus);
        fleet.give_back("a", &taken);
        fleet.give_back("elsewhere", &taken);
        let untouched = snapshot(vec![node("a", gpus)]);
        prop_assert_eq!(fleet.nodes()[0].free(), untouched.nodes()[0].free());
    }
}
