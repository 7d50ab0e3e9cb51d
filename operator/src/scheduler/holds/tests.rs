//! What is kept for the head, case by case, and histories in which jobs are placed around it.

use k8s_openapi::jiff::SignedDuration;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::scheduler::fixtures::{node, request, seed};
use crate::scheduler::linear::place;
use crate::scheduler::{JobUid, NodeFacts, Reservation, SnapshotInputs};

fn gpus(count: u64) -> Resources {
    Resources {
        gpus: count,
        pods: 1,
        ..Resources::default()
    }
}

/// The one member of job `uid`, on `node`.
fn running(uid: u8, node: &str, count: u64, ends_by: Option<Millis>) -> Release {
    Release {
        member: MemberKey {
            job_uid: JobUid([uid; 16]),
            attempt: 1,
            member: 0,
        },
        node: node.to_owned(),
        resources: gpus(count),
        ends_by,
    }
}

fn fleet(nodes: &[NodeFacts], running: &[Release]) -> Snapshot {
    let reservations = running.iter().map(|release| Reservation {
        member: release.member,
        node: release.node.clone(),
        resources: release.resources.clone(),
    });
    Snapshot::assemble(SnapshotInputs {
        nodes: nodes.to_vec(),
        reservations: reservations.collect(),
        ..SnapshotInputs::default()
    })
}

fn held(nodes: &[NodeFacts], head: &Request, running: &[Release]) -> Option<Hold> {
    hold(&fleet(nodes, running), head, running, 0)
}

/// (starts by, which nodes for how many members).
fn kept(hold: &Hold) -> (Option<Millis>, Vec<(&str, u64)>) {
    let members = hold
        .members
        .iter()
        .map(|(node, count)| (node.as_str(), *count));
    (hold.starts_by, members.collect())
}

fn in_rack(name: &str, rack: &str) -> NodeFacts {
    let mut facts = node(name, 4);
    facts.labels.insert("rack".to_owned(), rack.to_owned());
    facts
}

fn close(policy: &str) -> Option<gridstake_crds::compute_job::Topology> {
    serde_json::from_value(json!({"key": "rack", "policy": policy})).ok()
}

#[test]
fn the_node_that_is_free_first_for_sure_is_kept() {
    let nodes = [node("a", 4), node("b", 4)];
    let busy = [running(1, "a", 4, Some(90)), running(2, "b", 4, Some(50))];
    let hold = held(&nodes, &request(4, 1), &busy).unwrap();
    assert_eq!(kept(&hold), (Some(50), vec![("b", 1)]));
}

#[test]
fn of_two_nodes_that_are_free_at_once_the_one_with_fewer_attempts_is_kept() {
    let nodes = [node("a", 4), node("b", 4)];
    let busy = [
        running(1, "a", 2, Some(50)),
        running(2, "a", 2, Some(40)),
        running(3, "b", 4, Some(50)),
    ];
    let hold = held(&nodes, &request(4, 1), &busy).unwrap();
    assert_eq!(
        (kept(&hold), hold.waits_for),
        ((Some(50), vec![("b", 1)]), 1)
    );
}

#[test]
fn where_nobody_knows_when_attempts_end_the_start_is_unknown_and_the_fewest_are_waited_for() {
    let nodes = [node("a", 4), node("b", 4)];
    let busy = [
        running(1, "a", 1, None),
        running(2, "a", 1, Some(10)),
        running(3, "b", 1, None),
    ];
    let hold = held(&nodes, &request(4, 1), &busy).unwrap();
    assert_eq!(kept(&hold), (None, vec![("b", 1)]));
}

#[test]
fn an_attempt_that_is_over_its_time_is_taken_to_end_now() {
    let busy = [running(1, "a", 4, Some(-5))];
    let hold = held(&[node("a", 4)], &request(4, 1), &busy).unwrap();
    assert_eq!(hold.starts_by, Some(0));
}

#[test]
fn room_that_strangers_take_is_not_waited_for() {
    let nodes = [node("a", 4)];
    let stranger = [running(9, "a", 1, None)];
    let snapshot = fleet(&nodes, &stranger);
    assert_eq!(hold(&snapshot, &request(4, 1), &[], 0), None);
}

#[test]
fn a_node_that_the_filters_refuse_is_not_kept() {
    let mut drained = node("a", 4);
    drained.offer = Err(gridstake_crds::gpu_node::OfferReason::Drained);
    let busy = [running(1, "b", 4, Some(50))];
    let nodes = [drained, node("b", 4), node("c", 4)];
    let mut head = request(4, 2);
    head.avoid.insert("c".to_owned());
    assert_eq!(held(&nodes, &head, &busy), None);
    head.members = 1;
    assert_eq!(
        kept(&held(&nodes, &head, &busy).unwrap()),
        (Some(50), vec![("b", 1)])
    );
}

#[test]
fn a_node_whose_window_closes_before_the_head_would_be_done_is_not_kept() {
    let closing = |left: i64| NodeFacts {
        closes_in: Some(SignedDuration::from_millis(left)),
        ..node("a", 4)
    };
    let head = Request {
        run_limit: Some(std::time::Duration::from_millis(100)),
        ..request(4, 1)
    };
    let busy = [running(1, "a", 4, Some(50))];
    assert_eq!(
        held(&[closing(150)], &head, &busy).unwrap().starts_by,
        Some(50)
    );
    assert_eq!(held(&[closing(149)], &head, &busy), None);
    // The other node is free later, when the first one is closed.
    let busy = [running(1, "a", 4, Some(50)), running(2, "b", 4, Some(80))];
    let hold = held(&[closing(149), node("b", 4)], &head, &busy).unwrap();
    assert_eq!(kept(&hold), (Some(80), vec![("b", 1)]));
}

#[test]
fn a_gang_keeps_what_is_free_and_what_will_be() {
    let nodes = [node("a", 4), node("b", 4), node("c", 4)];
    let busy = [running(1, "b", 4, Some(50)), running(2, "c", 4, Some(70))];
    let hold = held(&nodes, &request(4, 2), &busy).unwrap();
    assert_eq!(kept(&hold), (Some(50), vec![("a", 1), ("b", 1)]));
}

#[test]
fn a_gang_that_must_be_close_keeps_one_domain_and_one_that_should_be_takes_it_if_it_can() {
    let nodes = [in_rack("a", "1"), in_rack("b", "2"), in_rack("c", "2")];
    let busy = [running(1, "b", 4, Some(90)), running(2, "c", 4, Some(60))];
    let gang = |policy| Request {
        topology: close(policy),
        ..request(4, 2)
    };
    let hold = held(&nodes, &gang("Required"), &busy).unwrap();
    assert_eq!(kept(&hold), (Some(90), vec![("b", 1), ("c", 1)]));
    let hold = held(&nodes, &gang("Preferred"), &busy).unwrap();
    assert_eq!(kept(&hold), (Some(60), vec![("a", 1), ("c", 1)]));
    let busy = [
        running(1, "a", 4, Some(60)),
        running(2, "b", 4, Some(60)),
        running(3, "c", 4, Some(60)),
    ];
    let hold = held(&nodes, &gang("Preferred"), &busy).unwrap();
    assert_eq!(kept(&hold), (Some(60), vec![("b", 1), ("c", 1)]));
}

/// Where a job of this many GPUs that ends by `ends_by` goes, around the hold.
fn around(snapshot: &Snapshot, hold: &Hold, count: u32, ends_by: Option<Millis>) -> Option<String> {
    let request = Request {
        kept: hold.spare_for(ends_by),
        ..request(count, 1)
    };
    let placed = place(snapshot, &request, &seed()).ok()?;
    placed.nodes.into_iter().next()
}

#[test]
fn a_job_behind_the_head_takes_kept_room_if_it_ends_in_time_or_leaves_enough() {
    let nodes = [node("a", 8)];
    let busy = [running(1, "a", 4, Some(50))];
    let snapshot = fleet(&nodes, &busy);
    let mut hold = hold(&snapshot, &request(6, 1), &busy, 0).unwrap();
    let a = Some("a".to_owned());
    assert_eq!(around(&snapshot, &hold, 4, Some(50)), a, "it ends in time");
    assert_eq!(
        around(&snapshot, &hold, 4, Some(51)),
        None,
        "the head needs 6 of 8"
    );
    assert_eq!(around(&snapshot, &hold, 4, None), None);
    assert_eq!(around(&snapshot, &hold, 2, None), a, "it leaves 6");
    hold.note(&["a".to_owned()], &gpus(1), None);
    assert_eq!(around(&snapshot, &hold, 2, None), None);
    assert_eq!(around(&snapshot, &hold, 1, None), a);
    hold.note(&["a".to_owned()], &gpus(1), Some(50));
    assert_eq!(
        around(&snapshot, &hold, 1, None),
        a,
        "what ends in time takes nothing of the spare room"
    );
}

#[test]
fn a_node_that_is_kept_is_told_from_one_that_is_full() {
    let nodes = [node("a", 8), node("b", 4)];
    let busy = [running(1, "a", 4, None), running(2, "b", 4, None)];
    let snapshot = fleet(&nodes, &busy);
    let hold = hold(&snapshot, &request(8, 1), &busy, 0).unwrap();
    let request = Request {
        kept: hold.spare_for(None),
        ..request(1, 1)
    };
    let reasons: Vec<_> = place(&snapshot, &request, &seed())
        .unwrap_err()
        .into_iter()
        .map(|count| (count.rejection, count.nodes))
        .collect();
    assert_eq!(
        reasons,
        [(Rejection::InsufficientGpus, 1), (Rejection::Held, 1)]
    );
}

// ---- histories ------------------------------------------------------------------------------------------------

/// A job of a history.
#[derive(Clone, Debug)]
struct Story {
    gpus: u32,
    members: u32,
    /// How long it may take at most, from its placement to its end.
    limit: Option<Millis>,
    /// How long it really takes.
    takes: Millis,
    /// When it comes.
    comes: Millis,
}

fn story(late: Millis) -> impl Strategy<Value = Story> {
    (
        1_u32..5,
        1_u32..4,
        prop::option::weighted(0.8, 1_i64..40),
        1_i64..60,
        0..late,
    )
        .prop_map(|(gpus, members, limit, takes, comes)| Story {
            gpus,
            members,
            limit,
            takes: limit.map_or(takes, |limit| takes.min(limit)),
            comes,
        })
}

/// A small cluster as time goes by.
struct World {
    nodes: Vec<NodeFacts>,
    /// With the moment at which each really ends.
    running: Vec<(Release, Millis)>,
    now: Millis,
    jobs: u8,
}

impl World {
    fn new(sizes: &[u64]) -> Self {
        let nodes = (0..).zip(sizes).map(|(index, size)| {
            let mut facts = node(&format!("n{index}"), *size);
            facts
                .labels
                .insert("rack".to_owned(), (index / 2).to_string());
            facts
        });
        Self {
            nodes: nodes.collect(),
            running: Vec::new(),
            now: 0,
            jobs: 0,
        }
    }

    fn releases(&self) -> Vec<Release> {
        self.running
            .iter()
            .map(|(release, _)| release.clone())
            .collect()
    }

    fn snapshot(&self) -> Snapshot {
        fleet(&self.nodes, &self.releases())
    }

    fn hold(&self, head: &Request) -> Option<Hold> {
        hold(&self.snapshot(), head, &self.releases(), self.now)
    }

    /// Places a job if it fits, apart from what is kept.
    fn start(&mut self, story: &Story, hold: Option<&mut Hold>) -> bool {
        self.jobs = self.jobs.wrapping_add(1);
        let ends_by = story.limit.map(|limit| self.now + limit);
        let asked = Request {
            job_uid: JobUid([self.jobs; 16]),
            kept: hold
                .as_ref()
                .map(|hold| hold.spare_for(ends_by))
                .unwrap_or_default(),
            ..request(story.gpus, story.members)
        };
        let Ok(placed) = place(&self.snapshot(), &asked, &seed()) else {
            return false;
        };
        if let Some(hold) = hold {
            hold.note(&placed.nodes, &asked.per_member(), ends_by);
        }
        self.run(&placed.nodes, &asked, ends_by, self.now + story.takes);
        true
    }

    fn run(&mut self, nodes: &[String], asked: &Request, ends_by: Option<Millis>, ends: Millis) {
        for (member, node) in (0..).zip(nodes) {
            let release = Release {
                member: MemberKey {
                    job_uid: asked.job_uid,
                    attempt: 1,
                    member,
                },
                node: node.clone(),
                resources: asked.per_member(),
                ends_by,
            };
            self.running.push((release, ends));
        }
    }

    fn go_on(&mut self) {
        self.now += 1;
        let now = self.now;
        self.running.retain(|(_, ends)| *ends > now);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    // Attempts end within their bounds and nodes stay: then the head starts by the moment that it was first promised,
    // however many jobs are placed around it, and the promise never gets worse.
    #[test]
    fn jobs_placed_around_the_head_never_delay_it(
        sizes in prop::collection::vec(1_u64..9, 1..5),
        before in prop::collection::vec(story(1), 0..6),
        behind in prop::collection::vec(story(40), 0..16),
        (head_gpus, head_members) in (1_u32..9, 1_u32..4),
        topology in prop_oneof![Just(None), Just(Some("Required")), Just(Some("Preferred"))],
    ) {
        let mut world = World::new(&sizes);
        for story in &before {
            world.start(story, None);
        }
        let head = Request {
            job_uid: JobUid([255; 16]),
            topology: topology.and_then(close),
            ..request(head_gpus, head_members)
        };
        let mut waiting = behind;
        let mut promised: Option<Millis> = None;
        for _ in 0..120 {
            if place(&world.snapshot(), &head, &seed()).is_ok() {
                break;
            }
            let Some(mut hold) = world.hold(&head) else {
                prop_assert_eq!(promised, None);
                break;
            };
            if let Some(by) = promised {
                let now = hold.starts_by;
                prop_assert!(now.is_some_and(|now| now <= by), "{now:?} and not {by}");
                prop_assert!(world.now < by, "it waits at {} and was promised {by}", world.now);
            }
            promised = hold.starts_by;
            waiting.retain(|story| story.comes > world.now || !world.start(story, Some(&mut hold)));
            // Whatever was placed, the promise stands.
            let after = world.hold(&head).unwrap();
            if let Some(by) = promised {
                prop_assert!(after.starts_by.is_some_and(|after| after <= by), "{after:?}");
            }
            world.go_on();
        }
    }

    #[test]
    fn while_nothing_changes_the_same_nodes_are_kept(
        sizes in prop::collection::vec(1_u64..9, 1..6),
        before in prop::collection::vec(story(1), 0..8),
        (head_gpus, head_members) in (1_u32..9, 1_u32..4),
        later in 0_i64..40,
    ) {
        let mut world = World::new(&sizes);
        for story in &before {
            world.start(story, None);
        }
        let head = request(head_gpus, head_members);
        let first = world.hold(&head);
        world.now += later;
        // Attempts that are over their time still hold their GPUs.
        let then = world.hold(&head);
        prop_assert_eq!(first.as_ref().map(|hold| &hold.members), then.as_ref().map(|hold| &hold.members));
        prop_assert_eq!(first.as_ref().map(|hold| &hold.spare), then.as_ref().map(|hold| &hold.spare));
        // Nor does the order in which nodes and attempts are listed matter.
        world.nodes.reverse();
        world.running.reverse();
        prop_assert_eq!(world.hold(&head), then);
    }
}

/// When each of three jobs that need a whole cluster starts, while small ones come without end behind them.
fn starts_of_large_jobs(holds: bool) -> [Option<Millis>; 3] {
    let small = Story {
        gpus: 1,
        members: 1,
        limit: Some(20),
        takes: 15,
        comes: 0,
    };
    let large = Story {
        gpus: 4,
        members: 2,
        limit: Some(20),
        takes: 15,
        comes: 0,
    };
    let mut world = World::new(&[4, 4]);
    let mut starts = [None; 3];
    // The small ones were there first, so that they do not all end at once.
    for _ in 0..8 {
        world.start(&small, None);
        world.go_on();
    }
    let began = world.now;
    for _ in 0..1000 {
        let mut hold = None;
        for start in starts.iter_mut().filter(|start| start.is_none()) {
            if hold.is_none() && world.start(&large, None) {
                *start = Some(world.now - began);
            } else if hold.is_none() && holds {
                hold = world.hold(&request(large.gpus, large.members));
            }
        }
        while world.start(&small, hold.as_mut()) {}
        world.go_on();
    }
    starts
}

#[test]
fn the_nth_job_in_the_order_starts_within_n_times_the_longest_time_that_a_job_may_take() {
    let longest = 20;
    for (n, start) in (1..).zip(starts_of_large_jobs(true)) {
        let start = start.unwrap();
        assert!(start <= n * longest, "job {n} started at {start}");
    }
    assert_eq!(
        starts_of_large_jobs(false),
        [None; 3],
        "without holds small ones overtake them for ever"
    );
}
