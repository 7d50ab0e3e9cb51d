//! Facts about gangs of which members are lost while the others run on.

use std::collections::{BTreeMap, BTreeSet};

use gridstake_crds::gpu_node::OfferReason;

use super::*;
use crate::{
    controllers::placement::{decide as placing, replacement},
    scheduler::{
        MemberKey, NodeFacts, Reservation, Seed, Snapshot, SnapshotInputs,
        fixtures::{self, node},
        linear,
        request::OfNamespace,
    },
};

const REPLACE: &str = "retry: {lostMember: Replace}";

/// A gang of so many members, all of which have been seen running.
fn running_gang(members: u32, spec: &str) -> ComputeJob {
    job(
        &format!(", members: {members}, {spec}"),
        &format!("{}, {RUNNING}", observed(&placed(1, members))),
    )
}

fn runs(number: u32) -> Member {
    Member {
        is_found: true,
        ..ran(number, State::Running, 12, None)
    }
}

/// Pods that are known to be metered and not billed yet.
fn metered(pods: Vec<Member>) -> Observed {
    unbilled(pods)
}

/// The job as it is once its lost members are placed on `node`.
fn with_successors(job: &ComputeJob, node: &str) -> ComputeJob {
    let lost = replacement::lost(job).unwrap();
    let fleet = fixtures::snapshot(vec![fixtures::node(node, 8)]);
    let request = fixtures::request(2, u32::try_from(lost.members.len()).unwrap());
    let decided = linear::place(&fleet, &request, &fixtures::seed()).unwrap();
    let mut job = job.clone();
    let placement = replacement::to_api(&job, &lost, &decided, &fleet, |_| None, at(101));
    job.status.as_mut().unwrap().placement = placement;
    job
}

#[test]
fn a_lost_member_is_given_up_and_the_others_are_left_alone() {
    let gang = running_gang(4, REPLACE);
    let pods = || vec![runs(0), lost(1), runs(2), runs(3)];
    let plan = decide(&gang, &metered(pods()), at(100));
    let next = status(&plan);
    assert_eq!((next.ending.as_ref(), next.attempts.len()), (None, 0));
    let [entry] = &next.replaced[..] else {
        panic!("{:?}", next.replaced);
    };
    assert_eq!(
        (
            entry.attempt,
            entry.member,
            entry.rank,
            &*entry.node,
            entry.why
        ),
        (1, 1, 1, "node-1", AttemptEndReason::NodeLost)
    );
    assert!(entry.verdict.is_some());
    assert_eq!(
        next.failures.unwrap().infrastructure,
        1,
        "it costs one retry"
    );
    assert_eq!(plan.writes, [], "first it is written down");
    for condition in [ComputeJobCondition::Running, ComputeJobCondition::Ready] {
        assert_eq!(reason(&plan, condition), ("True", "ReplacingMember"));
    }

    let gang = written(&gang, &plan, at(100));
    let found = || {
        let mut pods = pods();
        pods[1].is_found = true;
        pods
    };
    let plan = decide(&gang, &metered(found()), at(101));
    let withdrawn = Write::Withdraw(vec!["j-1-1".into()]);
    assert_eq!(
        plan.writes,
        [withdrawn, Write::DeletePods(vec!["j-1-1".into()])],
        "its name is free for another one"
    );
    assert_eq!(status(&plan).failures.unwrap().infrastructure, 1, "once");
    assert_eq!(
        plan.wake,
        Some(at(400)),
        "when it is too late for another one"
    );
}

/// The provider wants the GPUs of this node back.
fn wanted_back(node: &str, pods: Vec<Member>) -> Observed {
    Observed {
        reclaimed: Some(Asked {
            reason: AttemptEndReason::Reclaimed,
            words: "a local pod needs them".into(),
            who: Who::On(BTreeSet::from([node.to_owned()])),
        }),
        ..metered(pods)
    }
}

#[test]
fn a_member_whose_node_is_taken_back_goes_elsewhere_at_no_cost_and_the_others_run_on() {
    let gang = running_gang(4, "retry: {lostMember: Replace, infrastructure: 0}");
    let pods = || vec![runs(0), runs(1), runs(2), runs(3)];
    let plan = decide(&gang, &wanted_back("node-1", pods()), at(100));
    let next = status(&plan);
    assert_eq!(next.ending, None);
    let [entry] = &next.replaced[..] else {
        panic!("{:?}", next.replaced);
    };
    assert_eq!(
        (entry.member, &*entry.node, entry.why, entry.verdict),
        (1, "node-1", AttemptEndReason::Reclaimed, None)
    );
    assert_eq!(next.failures, Some(Failures::default()));
    let gang = written(&gang, &plan, at(100));
    // It is told once, for as long as it is asked; and its node is suspected of nothing.
    let plan = decide(&gang, &wanted_back("node-1", pods()), at(101));
    assert_eq!(
        plan.writes,
        [
            Write::Withdraw(vec!["j-1-1".into()]),
            Write::DeletePods(vec!["j-1-1".into()])
        ]
    );
    assert_eq!(
        (status(&plan).replaced.len(), &status(&plan).ending),
        (1, &None)
    );
    assert_eq!(retry::suspects(status(&plan), at(101)), []);
}

#[test]
fn a_gang_that_cannot_go_on_without_the_members_of_a_node_gives_all_its_nodes_back() {
    for (members, retry) in [(4, "retry: {}"), (1, REPLACE)] {
        let gang = running_gang(members, retry);
        let pods = (0..members).map(runs).collect();
        let plan = decide(&gang, &wanted_back("node-0", pods), at(100));
        let ending = status(&plan).ending.as_ref();
        assert_eq!(
            ending.map(|ending| ending.reason),
            Some(AttemptEndReason::Reclaimed),
            "{members} {retry}"
        );
        assert!(status(&plan).replaced.is_empty());
    }
}

#[test]
fn as_a_gang_that_restarts_does_it_ends_where_nothing_is_said() {
    for spec in ["retry: {}", "retry: {lostMember: Restart}"] {
        let gang = running_gang(4, spec);
        let pods = vec![runs(0), lost(1), runs(2), runs(3)];
        let plan = decide(&gang, &metered(pods), at(100));
        assert_eq!(
            status(&plan).ending.as_ref().map(|ending| ending.reason),
            Some(AttemptEndReason::NodeLost)
        );
        assert!(status(&plan).replaced.is_empty());
    }
}

#[test]
fn half_of_a_gang_that_is_lost_ends_the_attempt() {
    let gang = running_gang(4, REPLACE);
    let pods = vec![lost(0), lost(1), runs(2), runs(3)];
    let plan = decide(&gang, &metered(pods), at(100));
    assert!(status(&plan).ending.is_some() && status(&plan).replaced.is_empty());
    // And so does one more while others are being replaced.
    let pods = || vec![lost(0), runs(1), runs(2), runs(3)];
    let plan = decide(&gang, &metered(pods()), at(100));
    let gang = written(&gang, &plan, at(100));
    let mut more = pods();
    more[1] = lost(1);
    let plan = decide(&gang, &metered(more), at(101));
    assert!(status(&plan).ending.is_some());
}

#[test]
fn a_program_that_fails_by_itself_is_not_replaced() {
    let gang = running_gang(4, REPLACE);
    let exits = ran(1, failed(AttemptEndReason::ExitedNonZero), 12, Some(90));
    let pods = || vec![runs(0), exits.clone(), runs(2), runs(3)];
    // Nobody is stopped before it is known whose fault it was.
    let mut untold = metered(pods());
    for place in &mut untold.places {
        place.told_until_ms = Some(unix_millis(at(80)));
    }
    let plan = decide(&gang, &untold, at(91));
    assert_eq!(
        (status(&plan).ending.as_ref(), &plan.writes[..]),
        (None, &[][..])
    );
    assert!(status(&plan).replaced.is_empty() && plan.wake <= Some(at(92)));
    assert_eq!(
        reason(&plan, ComputeJobCondition::Running),
        ("True", "Running")
    );
    // However long an agent has nothing to say.
    let plan = decide(&gang, &untold, at(90 + 45));
    assert!(status(&plan).ending.is_some() || !status(&plan).replaced.is_empty());

    let plan = decide(&gang, &metered(pods()), at(92));
    let ending = status(&plan).ending.as_ref().unwrap();
    assert_eq!(ending.reason, AttemptEndReason::ExitedNonZero);
    assert!(status(&plan).replaced.is_empty());
    assert_eq!(status(&plan).failures, None);
}

#[test]
fn a_program_that_died_of_its_gpu_is_replaced_and_what_is_left_alone_is_its_node() {
    let gang = running_gang(4, REPLACE);
    let exits = ran(1, failed(AttemptEndReason::ExitedNonZero), 12, Some(90));
    let mut seen = metered(vec![runs(0), exits, runs(2), runs(3)]);
    seen.places[1].gpus = vec![crate::verdict::Gpu {
        uuid: "GPU-1".into(),
        is_unfit: true,
        is_lost: false,
        faults: serde_json::from_value(serde_json::json!([{
            "kind": "Xid", "xid": 79, "count": 1,
            "firstMs": unix_millis(at(89)), "lastMs": unix_millis(at(89)),
        }]))
        .unwrap(),
    }];
    let plan = decide(&gang, &seen, at(92));
    let [entry] = &status(&plan).replaced[..] else {
        panic!("{:?}", status(&plan));
    };
    assert_eq!(
        entry.verdict,
        Some(gridstake_crds::compute_job::Verdict::Host)
    );
    assert_eq!(entry.exit_code, Some(3));
    let suspects = retry::suspects(status(&plan), at(93));
    assert_eq!(suspects, [("node-1".to_owned(), at(92 + 30))]);
}

#[test]
fn its_successor_is_started_when_its_name_is_free_and_not_before() {
    let gang = running_gang(4, REPLACE);
    let plan = decide(
        &gang,
        &metered(vec![runs(0), lost(1), runs(2), runs(3)]),
        at(100),
    );
    let gang = with_successors(&written(&gang, &plan, at(100)), "node-x");
    let others = || vec![runs(0), runs(2), runs(3)];
    let beside = |old: Member| {
        let mut pods = others();
        pods.push(old);
        metered(pods)
    };
    let creates = |seen: &Observed| {
        let plan = decide(&gang, seen, at(102));
        let create = |write: &Write| match write {
            Write::CreatePods { members, .. } => Some(members.clone()),
            _ => None,
        };
        plan.writes.iter().find_map(create)
    };
    let still_found = Member {
        is_found: true,
        ..lost(1)
    };
    assert_eq!(creates(&beside(still_found)), None);
    let still_runs = Member {
        terminating: true,
        is_found: false,
        ..runs(1)
    };
    assert_eq!(creates(&beside(still_runs)), None);
    let expected = NewMember {
        attempt: 1,
        member: 4,
        rank: 1,
        restarts: 1,
        node: "node-x".into(),
        payment: None,
    };
    assert_eq!(creates(&beside(lost(1))), Some(vec![expected.clone()]));
    assert_eq!(creates(&metered(others())), Some(vec![expected]));

    // Its gate is lifted though the others have none any more, and the job runs all the while.
    let gated = Member {
        is_found: true,
        ..member(4, State::Gated)
    };
    let mut pods = others();
    pods.push(gated);
    let plan = decide(&gang, &metered(pods), at(103));
    assert_eq!(plan.writes, [Write::LiftGates(vec!["j-1-4".into()])]);
    assert_eq!(
        reason(&plan, ComputeJobCondition::Running),
        ("True", "ReplacingMember")
    );
    assert!(!plan.is_passing);
}

#[test]
fn once_its_successor_runs_the_loss_is_history() {
    let gang = running_gang(4, REPLACE);
    let plan = decide(
        &gang,
        &metered(vec![runs(0), lost(1), runs(2), runs(3)]),
        at(100),
    );
    let gang = with_successors(&written(&gang, &plan, at(100)), "node-x");
    let successor = || Member {
        is_found: true,
        ..ran(4, State::Running, 110, None)
    };
    let pods = || vec![runs(0), runs(2), runs(3), successor()];
    let plan = decide(&gang, &metered(pods()), at(111));
    assert_eq!(
        status(&plan).replaced[0].started_at.as_ref().map(|t| t.0),
        Some(at(110))
    );
    assert_eq!(
        reason(&plan, ComputeJobCondition::Running),
        ("True", "Running")
    );
    let gang = written(&gang, &plan, at(111));
    assert_eq!(replacement::lost(&gang), None);

    // Long after the deadline it goes on, and it is complete when all ranks are.
    let plan = decide(&gang, &metered(pods()), at(5000));
    assert_eq!((status(&plan).ending.as_ref(), plan.wake), (None, None));
    let ended = |number| ran(number, succeeded(), 12, Some(200));
    let digest = |number| Member {
        digest: Some(format!("sha256:{number}")),
        ..ended(number)
    };
    let all = vec![digest(0), ended(2), ended(3), ended(4)];
    let plan = decide(&gang, &seen(all), at(201));
    let next = status(&plan);
    assert_eq!(next.end_reason, Some(JobEndReason::Succeeded));
    assert_eq!(next.result.as_ref().unwrap().digest, "sha256:0");
    assert_eq!(
        next.attempts[0].nodes,
        ["node-0", "node-1", "node-2", "node-3", "node-x"]
    );
}

#[test]
fn the_result_is_that_of_rank_0_whoever_has_it() {
    let gang = running_gang(4, REPLACE);
    let plan = decide(
        &gang,
        &metered(vec![lost(0), runs(1), runs(2), runs(3)]),
        at(100),
    );
    let gang = with_successors(&written(&gang, &plan, at(100)), "node-x");
    let ended = |number: u32| Member {
        digest: Some(format!("sha256:{number}")),
        ..ran(number, succeeded(), 110, Some(200))
    };
    let plan = decide(&gang, &seen((1..5).map(ended).collect()), at(201));
    assert_eq!(status(&plan).result.as_ref().unwrap().digest, "sha256:4");
}

#[test]
fn a_gang_of_which_a_rank_is_away_is_not_complete() {
    let gang = running_gang(4, REPLACE);
    let plan = decide(
        &gang,
        &metered(vec![runs(0), lost(1), runs(2), runs(3)]),
        at(100),
    );
    let gang = written(&gang, &plan, at(100));
    let ended = |number| ran(number, succeeded(), 12, Some(101));
    let plan = decide(&gang, &seen(vec![ended(0), ended(2), ended(3)]), at(102));
    assert_eq!(
        (status(&plan).end_reason, status(&plan).ending.as_ref()),
        (None, None)
    );
}

#[test]
fn a_rank_that_does_not_run_again_in_time_ends_the_attempt_and_costs_no_second_retry() {
    let gang = running_gang(4, &format!("{REPLACE}, timeouts: {{start: 1m}}"));
    let others = || vec![runs(0), runs(2), runs(3)];
    let mut pods = others();
    pods.insert(1, lost(1));
    let plan = decide(&gang, &metered(pods), at(100));
    let unplaced = written(&gang, &plan, at(100));
    let early = decide(&unplaced, &metered(others()), at(159));
    assert_eq!(
        (status(&early).ending.as_ref(), early.wake),
        (None, Some(at(160)))
    );
    let late = decide(&unplaced, &metered(others()), at(160));
    let ending = status(&late).ending.as_ref().unwrap();
    assert_eq!(ending.reason, AttemptEndReason::NotReplaced);
    assert!(
        ending.message.as_ref().unwrap().contains("rank 1"),
        "{ending:?}"
    );
    assert!(ending.suspects.is_empty());

    // Where it has a place, that is what is tried no more.
    let placed = with_successors(&unplaced, "node-x");
    let mut pods = others();
    pods.push(member(4, State::Unbound("0/2 nodes".into())));
    let late = decide(&placed, &metered(pods), at(160));
    let ending = status(&late).ending.as_ref().unwrap();
    assert_eq!(
        (&ending.members[..], &ending.suspects[..]),
        (&[4][..], &["node-x".to_owned()][..])
    );
    let stopped = written(&placed, &late, at(160));
    let gone = |number| ran(number, failed(AttemptEndReason::PodDeleted), 12, Some(170));
    let pods = vec![gone(0), gone(2), gone(3)];
    let end = decide(&stopped, &seen(pods), at(171));
    let attempt = &status(&end).attempts[0];
    assert_eq!(
        (attempt.end_reason, attempt.verdict),
        (AttemptEndReason::NotReplaced, None)
    );
    assert_eq!(attempt.suspects, ["node-x"]);
    let failures = status(&end).failures.unwrap();
    assert_eq!(
        (failures.infrastructure, failures.user, failures.placement),
        (1, 0, 1)
    );
    assert_eq!(status(&end).end_reason, None, "it is queued again");
}

#[test]
fn with_no_retry_left_a_loss_ends_the_job_as_ever() {
    let gang = running_gang(4, "retry: {lostMember: Replace, infrastructure: 0}");
    let pods = vec![runs(0), lost(1), runs(2), runs(3)];
    let plan = decide(&gang, &metered(pods), at(100));
    assert!(status(&plan).ending.is_some());
}

#[test]
fn one_that_is_given_up_is_let_go_when_it_is_billed_and_the_attempt_goes_on() {
    let gang = running_gang(4, REPLACE);
    let pods = || vec![runs(0), lost(1), runs(2), runs(3)];
    let plan = decide(&gang, &metered(pods()), at(100));
    let gang = written(&gang, &plan, at(100));
    let releases = |seen: &Observed| {
        let plan = decide(&gang, seen, at(102));
        plan.writes
            .contains(&Write::ReleasePods(vec!["j-1-1".into()]))
    };
    assert!(!releases(&metered(pods())));
    let mut billed = metered(pods());
    billed.books = Books::new(
        pods()
            .iter()
            .map(|pod| Slice {
                bill: (pod.member == 1).then(Bill::default),
                ..slice_of(pod)
            })
            .collect(),
    );
    assert!(releases(&billed));
    // Of one whose record is not seen nothing is concluded.
    let mut unseen = metered(pods());
    unseen.books = Books::default();
    assert!(!releases(&unseen));
}

/// A world in which a gang runs on nodes with GPUs, as the controllers and the kubelets make it.
struct World {
    job: ComputeJob,
    fleet: Vec<NodeFacts>,
    dead: BTreeSet<String>,
    pods: BTreeMap<(u32, u32), Pod>,
    /// Which members have a record, and whether it is billed.
    records: BTreeMap<(u32, u32), bool>,
    second: i64,
    previous: alloy::primitives::B256,
}

struct Pod {
    member: Member,
    node: String,
    rank: u32,
}

const SIZE: u32 = 5;
const PER_MEMBER: u64 = 2;

impl World {
    fn new(nodes: usize) -> Self {
        let mut job = job(
            &format!(", members: {SIZE}, retry: {{lostMember: Replace, infrastructure: 40}}"),
            "observedGeneration: 3",
        );
        job.metadata.uid = Some("0f8fad5b-d9cb-469f-a165-70867728950e".into());
        Self {
            job,
            fleet: (0..nodes).map(|n| node(&format!("n{n}"), 4)).collect(),
            dead: BTreeSet::new(),
            pods: BTreeMap::new(),
            records: BTreeMap::new(),
            second: 100,
            previous: alloy::primitives::B256::ZERO,
        }
    }

    fn status(&self) -> &ComputeJobStatus {
        self.job.status.as_ref().unwrap()
    }

    fn now(&self) -> Timestamp {
        at(self.second)
    }

    fn live_on(&self, node: &str) -> u64 {
        let lives = |pod: &&Pod| pod.node == node && !pod.member.is_at_rest();
        self.pods.values().filter(lives).count() as u64 * PER_MEMBER
    }

    fn observed(&self) -> Observed {
        let pods: Vec<Member> = self.pods.values().map(|pod| pod.member.clone()).collect();
        let slice = |((attempt, member), billed): (&(u32, u32), &bool)| Slice {
            attempt: *attempt,
            member: *member,
            slice: 0,
            lane: None,
            payer: None,
            bill: billed.then(Bill::default),
            payment: Progress::NothingOwed,
        };
        Observed {
            places: pods.iter().map(well).collect(),
            books: Books::new(self.records.iter().map(slice).collect()),
            pods,
            ..asked(Validation::Sound, Admission::Admitted)
        }
    }

    /// One pass of the ComputeJob controller, carried out.
    fn pass(&mut self) {
        let now = self.now();
        let plan = decide(&self.job, &self.observed(), now);
        for write in &plan.writes {
            self.carry_out(write);
        }
        self.job = written(&self.job, &plan, now);
    }

    fn carry_out(&mut self, write: &Write) {
        let now = self.now();
        match write {
            Write::CreatePods { attempt, members } => {
                for new in members {
                    let key = (*attempt, new.member);
                    assert_eq!(
                        self.records.insert(key, false),
                        None,
                        "recorded twice: {key:?}"
                    );
                    let room = self.live_on(&new.node) + PER_MEMBER;
                    assert!(room <= 4, "{} is given away twice", new.node);
                    for ((of, _), other) in &self.pods {
                        let is_same = *of == *attempt && other.rank == new.rank;
                        let is_gone = other.member.is_at_rest() && !other.member.is_found;
                        assert!(!is_same || is_gone, "two have rank {}", new.rank);
                    }
                    let mut member = Member {
                        held: true,
                        is_found: true,
                        state: State::Gated,
                        ..Member::missing(*attempt, new.member, format!("{key:?}"))
                    };
                    if self.dead.contains(&new.node) {
                        member.state = State::Unbound(String::new());
                    }
                    let pod = Pod {
                        member,
                        node: new.node.clone(),
                        rank: new.rank,
                    };
                    self.pods.insert(key, pod);
                }
            }
            Write::LiftGates(names) => {
                for pod in self.named(names) {
                    pod.member.state = State::Running;
                    pod.member.started_at = Some(now);
                }
            }
            Write::Withdraw(names) => self.named(names).for_each(|p| p.member.is_found = false),
            Write::DeletePods(names) => self.named(names).for_each(|p| p.member.terminating = true),
            Write::ReleasePods(names) => {
                let gone: Vec<_> = self
                    .pods
                    .iter()
                    .filter(|(_, pod)| names.contains(&pod.member.pod))
                    .map(|(key, _)| *key)
                    .collect();
                for key in gone {
                    assert_eq!(
                        self.records.get(&key),
                        Some(&true),
                        "let go unbilled: {key:?}"
                    );
                    self.pods.remove(&key);
                }
            }
            other => panic!("{other:?}"),
        }
    }

    fn named<'a>(&'a mut self, names: &'a [String]) -> impl Iterator<Item = &'a mut Pod> {
        let pods = self.pods.values_mut();
        pods.filter(|pod| names.contains(&pod.member.pod))
    }

    /// What kubelets do, and the controller of UsageRecords.
    fn turn(&mut self) {
        let now = self.now();
        for pod in self.pods.values_mut() {
            // One that is bound to a node goes only when the node says so.
            let is_stuck = self.dead.contains(&pod.node)
                && !matches!(pod.member.state, State::Unbound(_) | State::Gated);
            if pod.member.terminating && !is_stuck && !pod.member.is_at_rest() {
                pod.member.state = failed(AttemptEndReason::PodDeleted);
                pod.member.finished_at = Some(now);
            }
        }
        let status = self.job.status.clone().unwrap();
        for ((attempt, member), billed) in &mut self.records {
            let pod = self.pods.get(&(*attempt, *member));
            let rests = pod.is_none_or(|pod| pod.member.is_at_rest());
            let is_over = status.replaced(*attempt, *member).is_some()
                || status.attempts.iter().any(|a| a.attempt == *attempt);
            *billed |= rests && is_over;
        }
        self.second += 3;
    }

    fn snapshot(&self) -> Snapshot {
        let nodes = self.fleet.iter().map(|facts| {
            let mut facts = facts.clone();
            if self.dead.contains(&facts.name) {
                facts.offer = Err(OfferReason::NodeNotReady);
            }
            facts
        });
        let job_uid = self.job.metadata.uid.as_ref().unwrap().parse().unwrap();
        let reserve = |attempt, member, node: &str| Reservation {
            member: MemberKey {
                job_uid,
                attempt,
                member,
            },
            node: node.to_owned(),
            resources: fixtures::request(2, 1).per_member(),
        };
        let placed = self
            .status()
            .active_placement()
            .into_iter()
            .flat_map(|placement| {
                let nodes = placement.nodes.iter();
                nodes.map(|n| reserve(placement.attempt, n.member, &n.node))
            });
        let live = self.pods.iter().filter(|(_, pod)| !pod.member.is_at_rest());
        let live = live.map(|((attempt, member), pod)| reserve(*attempt, *member, &pod.node));
        Snapshot::assemble(SnapshotInputs {
            nodes: nodes.collect(),
            reservations: placed.chain(live).collect(),
            ..SnapshotInputs::default()
        })
    }

    /// One pass of the placement controller.
    fn place(&mut self) {
        let (now, snapshot) = (self.now(), self.snapshot());
        let seed = Seed {
            previous_decision: self.previous,
            ..fixtures::seed()
        };
        let first = fixtures::request(2, SIZE);
        let next = placing::next_request(
            &self.job,
            &first,
            OfNamespace::default(),
            BTreeSet::new(),
            now,
        );
        let placement = match placing::standing(&self.job, true, now) {
            placing::Standing::Replacing(lost) => {
                let requests = replacement::requests(&self.job, &lost, &next, &snapshot);
                let decided = requests
                    .iter()
                    .find_map(|request| linear::place(&snapshot, request, &seed).ok());
                decided.and_then(|decided| {
                    self.previous = decided.decision.hash();
                    replacement::to_api(&self.job, &lost, &decided, &snapshot, |_| None, now)
                })
            }
            placing::Standing::Waiting => {
                linear::place(&snapshot, &next, &seed).ok().map(|decided| {
                    self.previous = decided.decision.hash();
                    placing::to_api(&decided, next.attempt, &snapshot, |_| None, now)
                })
            }
            _ => None,
        };
        if placement.is_some() {
            self.job.status.as_mut().unwrap().placement = placement;
        }
    }

    fn round(&mut self) {
        self.pass();
        self.place();
        self.turn();
        let mut holders: BTreeMap<(u32, u32), u32> = BTreeMap::new();
        for ((attempt, _), pod) in &self.pods {
            let counts = pod.member.is_found && !matches!(pod.member.state, State::Ended(_));
            *holders.entry((*attempt, pod.rank)).or_default() += u32::from(counts);
        }
        assert!(holders.values().all(|holders| *holders <= 1), "{holders:?}");
        for facts in &self.fleet {
            assert!(self.live_on(&facts.name) <= 4, "{}", facts.name);
        }
    }

    /// What happens to the member of this `rank`, if one runs.
    fn strike(&mut self, rank: u32, how: u8) {
        let now = self.now();
        let Some(placement) = self.status().active_placement() else {
            return;
        };
        let attempt = placement.attempt;
        let Some(member) = placement.nodes.iter().find(|n| n.rank() == rank) else {
            return;
        };
        let key = (attempt, member.member);
        let Some(pod) = self.pods.get_mut(&key) else {
            return;
        };
        match how {
            0 => {
                let node = pod.node.clone();
                self.dead.insert(node.clone());
                for pod in self.pods.values_mut().filter(|pod| pod.node == node) {
                    if !matches!(pod.member.state, State::Ended(_)) {
                        pod.member.state = failed(AttemptEndReason::NodeLost);
                    }
                }
            }
            1 => pod.member.terminating = true,
            2 if pod.member.state == State::Running => {
                pod.member.state = failed(AttemptEndReason::Evicted);
                pod.member.finished_at = Some(now);
            }
            _ => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn whatever_is_lost_every_rank_is_held_once_and_everything_is_recorded_once_and_billed(
        strikes in prop::collection::vec((0_u32..SIZE, 0_u8..3, 0_usize..6), 0..12),
    ) {
        // Two members find room on a node; so much is enough for all that can be lost here.
        let mut world = World::new(16);
        for _ in 0..6 {
            world.round();
        }
        prop_assert!(world.status().active_placement().is_some());
        for (rank, how, rounds) in strikes {
            world.strike(rank, how);
            for _ in 0..rounds {
                world.round();
            }
        }
        // Longer than any suspicion and any wait for the next attempt.
        for _ in 0..250 {
            world.round();
        }
        let status = world.status();
        prop_assert!(status.end_reason.is_none(), "{:?}", status.end_reason);
        prop_assert_eq!(status.being_replaced().count(), 0);
        let placement = status.active_placement().unwrap();
        let ranks: Vec<u32> = placement.nodes.iter().map(MemberNode::rank).collect();
        prop_assert_eq!(ranks, (0..SIZE).collect::<Vec<_>>());
        let is_there = |(attempt, member): (u32, u32)| {
            attempt == placement.attempt && placement.nodes.iter().any(|n| n.member == member)
        };
        for (key, pod) in &world.pods {
            prop_assert!(is_there(*key) && pod.member.state == State::Running, "{:?} is left", key);
        }
        for (key, billed) in &world.records {
            prop_assert_eq!(*billed, !is_there(*key), "{:?}", key);
        }
        // What costs a retry is an attempt that ended or members that were lost at one time.
        let failures = status.failures.unwrap_or_default();
        let losses: BTreeSet<(u32, Timestamp)> = status.replaced.iter().map(|l| (l.attempt, l.at.0)).collect();
        prop_assert!(failures.infrastructure as usize <= losses.len() + status.attempts.len());
    }
}
