use std::collections::BTreeMap;

use gridstake_crds::compute_job::AttemptEndReason;
use proptest::prelude::*;

use super::*;
use crate::scheduler::{
    fixtures::{node, request, seed, snapshot},
    linear::place,
    node_facts::NodeFacts,
};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

/// A gang of so many members with one GPU each, member n on node-n, whose attempt 2 runs; `spec` and `status` in YAML's flow style.
fn gang(members: u32, spec: &str, status: &str) -> ComputeJob {
    let zero = format!("0x{}", "0".repeat(64));
    let nodes: Vec<_> = (0..members)
        .map(|m| format!("{{member: {m}, node: node-{m}}}"))
        .collect();
    serde_saphyr::from_str(&format!(
        "{{apiVersion: gridstake.dev/v1alpha1, kind: ComputeJob, metadata: {{name: j, namespace: n, uid: 0f8fad5b-d9cb-469f-a165-70867728950e}}, \
         spec: {{gpu: {{count: 1}}, members: {members}, template: {{}}, retry: {{lostMember: Replace}}{spec}}}, \
         status: {{placement: {{attempt: 2, decidedAt: '{}', nodes: [{}], decision: {{draw: d, blockHash: '{zero}', previous: '{zero}', hash: '{zero}', snapshot: 1, candidates: 1, totalWeight: '1', drawn: []}}}}{status}}}}}",
        at(0),
        nodes.join(", ")
    ))
    .unwrap()
}

fn given_up(members: &[u32]) -> String {
    let entry = |member: &u32| {
        let second = i64::from(100 - member);
        format!(
            "{{attempt: 2, member: {member}, rank: {member}, node: node-{member}, at: '{}', why: NodeLost}}",
            at(second)
        )
    };
    let entries: Vec<_> = members.iter().map(entry).collect();
    format!(", replaced: [{}]", entries.join(", "))
}

/// What the job's next attempt would ask for.
fn base(job: &ComputeJob) -> Request {
    Request {
        attempt: 3,
        topology: job.spec.topology.clone(),
        ..request(1, job.spec.members)
    }
}

fn in_racks(racks: &[(&str, &str)]) -> Vec<NodeFacts> {
    let labelled = |(name, rack): &(&str, &str)| {
        let mut facts = node(name, 1);
        facts.labels = BTreeMap::from([("rack".to_owned(), (*rack).to_owned())]);
        facts
    };
    racks.iter().map(labelled).collect()
}

#[test]
fn what_is_given_up_waits_for_a_node_until_it_has_one_or_the_attempt_is_to_end() {
    assert_eq!(lost(&gang(4, "", "")), None);
    let waits = lost(&gang(4, "", &given_up(&[1, 2]))).unwrap();
    assert_eq!((waits.attempt, waits.since, waits.next), (2, at(98), 4));
    let rank = |rank| LostRank {
        member: rank,
        rank,
        restarts: 1,
    };
    assert_eq!(waits.members, [rank(1), rank(2)]);
    for (spec, status) in [
        (", suspend: true", String::new()),
        (
            "",
            format!(
                ", ending: {{attempt: 2, reason: Deleted, since: '{}'}}",
                at(1)
            ),
        ),
        ("", ", endReason: RunTimeout".to_owned()),
        (
            "",
            format!(
                ", attempts: [{{attempt: 2, nodes: [], endedAt: '{}', endReason: NodeLost, gpuMillis: 0}}]",
                at(1)
            ),
        ),
    ] {
        let job = gang(4, spec, &(given_up(&[1]) + &status));
        assert_eq!(lost(&job), None, "{spec} {status}");
    }
}

#[test]
fn they_are_asked_for_together_in_the_attempt_that_runs() {
    let job = gang(6, "", &given_up(&[4, 5]));
    let waits = lost(&job).unwrap();
    let asked = requests(&job, &waits, &base(&job), &snapshot(vec![]));
    assert_eq!(
        asked,
        [Request {
            attempt: 2,
            members: 2,
            ..base(&job)
        }]
    );
}

#[test]
fn where_members_must_be_close_only_the_domain_of_those_that_stay_will_do() {
    let fleet = || {
        snapshot(in_racks(&[
            ("node-0", "a"),
            ("node-1", "a"),
            ("node-2", "a"),
            ("spare-a", "a"),
            ("spare-b", "b"),
        ]))
    };
    let asked = |policy: &str, fleet| {
        let topology = format!(", topology: {{key: rack, policy: {policy}}}");
        let job = gang(3, &topology, &given_up(&[2]));
        requests(&job, &lost(&job).unwrap(), &base(&job), &fleet)
    };
    let selectors = |asked: Vec<Request>| -> Vec<Option<String>> {
        let selector = |r: &Request| r.constraints.node_selector.get("rack").cloned();
        asked.iter().map(selector).collect()
    };
    let a = || Some("a".to_owned());
    assert_eq!(selectors(asked("Required", fleet())), [a()]);
    assert_eq!(selectors(asked("Preferred", fleet())), [a(), None]);
    let strangers = || snapshot(in_racks(&[("spare-a", "a")]));
    assert_eq!(asked("Required", strangers()), []);
    assert_eq!(selectors(asked("Preferred", strangers())), [None]);
    let apart = || snapshot(in_racks(&[("node-0", "a"), ("node-1", "b")]));
    assert_eq!(asked("Required", apart()), []);
    assert_eq!(selectors(asked("Preferred", apart())), [None]);
    // And the draw keeps to it.
    for request in asked("Required", fleet()) {
        let mut request = request;
        request.avoid = ["node-0", "node-1", "node-2"].map(str::to_owned).into();
        let placement = place(&fleet(), &request, &seed()).unwrap();
        assert_eq!(placement.nodes, ["spare-a"]);
    }
}

#[test]
fn a_successor_has_a_new_number_the_old_rank_and_the_record_of_its_own_decision() {
    let job = gang(3, "", &given_up(&[1]));
    let waits = lost(&job).unwrap();
    let fleet = snapshot(vec![node("spare", 1)]);
    let [asked] = &requests(&job, &waits, &base(&job), &fleet)[..] else {
        panic!("one request");
    };
    let decided = place(&fleet, asked, &seed()).unwrap();
    let payee = |_: &str| {
        Some(Payee {
            chain: "base".into(),
            provider: 7,
        })
    };
    let next = to_api(&job, &waits, &decided, &fleet, payee, at(200)).unwrap();
    let before = job.status.as_ref().unwrap().placement.as_ref().unwrap();
    assert_eq!(
        (next.attempt, &next.decided_at, &next.decision),
        (2, &before.decided_at, &before.decision)
    );
    assert_eq!(
        (&next.nodes[0], &next.nodes[2]),
        (&before.nodes[0], &before.nodes[2])
    );
    let successor = &next.nodes[1];
    assert_eq!(
        (successor.member, successor.rank(), &*successor.node),
        (3, 1, "spare")
    );
    assert_eq!(
        (successor.provider_id, successor.chain.as_deref()),
        (Some(7), Some("base"))
    );
    let taken = successor.replacement.as_ref().unwrap();
    assert_eq!(
        (taken.member, taken.restarts, taken.decided_at.0),
        (1, 1, at(200))
    );
    assert_eq!(taken.decision, decided.decision.to_api());

    // And when it is lost as well, the next one has another number.
    let mut job = job;
    let status = job.status.as_mut().unwrap();
    status.placement = Some(next);
    assert_eq!(lost(&job), None, "it has a node");
    let status = job.status.as_mut().unwrap();
    let again = ReplacedMember {
        member: 3,
        ..status.replaced[0].clone()
    };
    status.replaced.push(again);
    let waits = lost(&job).unwrap();
    let rank = LostRank {
        member: 3,
        rank: 1,
        restarts: 2,
    };
    assert_eq!((waits.members, waits.next), (vec![rank], 4));
}

#[test]
fn the_job_is_told_which_ranks_wait_and_why() {
    let job = gang(8, "", &given_up(&[2, 3]));
    let fact = waits(&lost(&job).unwrap(), "0/2 nodes fit");
    assert_eq!(
        (fact.status.as_str(), fact.reason, fact.message.as_str()),
        (
            "True",
            "Placed",
            "ranks 2, 3 wait for another node: 0/2 nodes fit"
        )
    );
}

proptest! {
    #[test]
    fn ranks_are_kept_numbers_are_never_given_twice_and_nodes_are_never_overcommitted(
        losses in prop::collection::vec(prop::collection::btree_set(0_u32..6, 1..3), 1..6),
        rooms in prop::collection::vec(1_u64..3, 6..10),
    ) {
        let mut job = gang(6, "", "");
        let mut fleet: Vec<NodeFacts> = rooms
            .iter()
            .enumerate()
            .map(|(number, gpus)| node(&format!("node-{number}"), *gpus))
            .collect();
        let mut given: Vec<u32> = (0..6).collect();
        for ranks in losses {
            let status = job.status.as_mut().unwrap();
            let nodes = status.placement.as_ref().unwrap().nodes.clone();
            for gone in nodes.iter().filter(|node| ranks.contains(&node.rank())) {
                fleet.retain(|facts| facts.name != gone.node);
                status.replaced.push(ReplacedMember {
                    attempt: 2,
                    member: gone.member,
                    rank: gone.rank(),
                    node: gone.node.clone(),
                    at: Time(at(1)),
                    why: AttemptEndReason::NodeLost,
                    exit_code: None,
                    message: None,
                    verdict: None,
                    verdict_reason: None,
                    started_at: None,
                });
            }
            let waits = lost(&job).unwrap();
            let held = present(job.status.as_ref().unwrap(), job.status.as_ref().unwrap().active_placement().unwrap());
            let mut left = snapshot(fleet.clone());
            for member in &held.nodes {
                let taken = crate::scheduler::Placement {
                    nodes: vec![member.node.clone()],
                    decision: place(&snapshot(vec![node("x", 1)]), &request(1, 1), &seed()).unwrap().decision,
                };
                left.reserve(&taken, &request(1, 1));
            }
            let [asked] = &requests(&job, &waits, &base(&job), &left)[..] else { panic!("one request") };
            let Ok(decided) = place(&left, asked, &seed()) else { return Ok(()) };
            let next = to_api(&job, &waits, &decided, &left, |_| None, at(2)).unwrap();
            let new: Vec<u32> = next.nodes.iter().map(|n| n.member).filter(|m| *m >= waits.next).collect();
            prop_assert!(new.iter().all(|number| !given.contains(number)));
            given.extend(new);
            let ranks: Vec<u32> = next.nodes.iter().map(MemberNode::rank).collect();
            prop_assert_eq!(ranks, (0..6).collect::<Vec<_>>());
            for facts in &fleet {
                let there = next.nodes.iter().filter(|n| n.node == facts.name).count() as u64;
                // Those with which the test began were not drawn.
                let first = next.nodes.iter().filter(|n| n.node == facts.name && n.replacement.is_none()).count() as u64;
                prop_assert!(there <= facts.allocatable.gpus.max(first));
            }
            job.status.as_mut().unwrap().placement = Some(next);
        }
    }
}
