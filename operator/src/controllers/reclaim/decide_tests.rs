//! Facts about [`super`].

use k8s_openapi::jiff::Timestamp;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::scheduler::node_constraints::NodeConstraints;

fn gpus(gpus: u64) -> Resources {
    Resources {
        gpus,
        pods: 1,
        ..Resources::default()
    }
}

fn room(name: &str, all: u64, free: u64, gives_way: bool) -> (String, Room) {
    let node = serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {"host": name}},
        "status": {"allocatable": {"pods": "110", "nvidia.com/gpu": all.to_string()}},
    }))
    .unwrap();
    let free = Resources {
        pods: 50,
        ..gpus(free)
    };
    let room = Room {
        node: Arc::new(node),
        free,
        gives_way,
    };
    (name.to_owned(), room)
}

fn key(job: u8) -> AttemptKey {
    AttemptKey {
        job: JobUid([job; 16]),
        attempt: 1,
    }
}

fn tenancy(job: u8, seconds: u64, on: &[(&str, u64)]) -> Tenancy {
    let held: u64 = on.iter().map(|(_, gpus)| gpus).sum();
    Tenancy {
        attempt: key(job),
        part: Part::Whole,
        is_leaving: false,
        was_asked: false,
        gpu_seconds: held * seconds,
        on: on
            .iter()
            .map(|(node, held)| ((*node).to_owned(), gpus(*held)))
            .collect(),
    }
}

fn pod(name: &str, wants: u64) -> WaitingPod {
    WaitingPod {
        name: format!("team/{name}"),
        uid: name.to_owned(),
        priority: 0,
        created: Some(Timestamp::UNIX_EPOCH),
        resources: gpus(wants),
        constraints: NodeConstraints::default(),
    }
}

fn sight<const R: usize>(
    rooms: [(String, Room); R],
    tenancies: Vec<Tenancy>,
    waiting: Vec<WaitingPod>,
) -> Sight {
    Sight {
        rooms: rooms.into(),
        tenancies,
        waiting,
        closed: BTreeSet::new(),
    }
}

/// Who goes, and for which node.
fn who_goes(sight: &Sight) -> Vec<(u8, String)> {
    let mut who: Vec<_> = decide(sight)
        .into_iter()
        .map(|reclaim| (reclaim.attempt.job.0[0], reclaim.node))
        .collect();
    who.sort();
    who
}

fn on(node: &str, jobs: &[u8]) -> Vec<(u8, String)> {
    jobs.iter().map(|job| (*job, node.to_owned())).collect()
}

#[test]
fn the_fewest_attempts_go_and_of_as_many_those_that_have_worked_least() {
    let four = |seconds: [u64; 3], wants: u64| {
        let held = vec![
            tenancy(1, seconds[0], &[("a", 1)]),
            tenancy(2, seconds[1], &[("a", 1)]),
            tenancy(3, seconds[2], &[("a", 2)]),
        ];
        sight([room("a", 4, 0, true)], held, vec![pod("p", wants)])
    };
    assert_eq!(
        who_goes(&four([20, 10, 30], 1)),
        on("a", &[2]),
        "the youngest"
    );
    assert_eq!(
        who_goes(&four([1, 1, 3600], 2)),
        on("a", &[3]),
        "one rather than two"
    );
    assert_eq!(
        who_goes(&four([9, 9, 1], 3)),
        on("a", &[1, 3]),
        "the same each time"
    );
    assert_eq!(who_goes(&four([9, 9, 1], 4)), on("a", &[1, 2, 3]));
}

#[test]
fn nobody_goes_where_the_pod_fits_already_or_soon_will_or_never_would() {
    let held = || vec![tenancy(1, 10, &[("a", 2)])];
    let goes = |sight| who_goes(&sight);
    assert_eq!(
        goes(sight([room("a", 4, 2, true)], held(), vec![pod("p", 2)])),
        []
    );
    let elsewhere = [room("a", 2, 0, true), room("b", 2, 2, false)];
    assert_eq!(
        goes(sight(elsewhere, held(), vec![pod("p", 2)])),
        [],
        "another node has room"
    );
    let mut on_its_way = held();
    on_its_way[0].is_leaving = true;
    on_its_way.push(tenancy(2, 1, &[("a", 2)]));
    assert_eq!(
        goes(sight(
            [room("a", 4, 0, true)],
            on_its_way.clone(),
            vec![pod("p", 2)]
        )),
        []
    );
    let two = vec![pod("p", 2), pod("q", 2)];
    assert_eq!(
        goes(sight([room("a", 4, 0, true)], on_its_way, two)),
        on("a", &[2]),
        "the second pod needs more"
    );
    assert_eq!(
        goes(sight([room("a", 2, 0, true)], held(), vec![pod("p", 4)])),
        [],
        "it would not fit"
    );
    let local = sight([room("a", 4, 0, true)], held(), vec![pod("p", 3)]);
    assert_eq!(goes(local), [], "local pods hold the rest");
}

#[test]
fn only_nodes_for_idle_times_give_way_and_only_to_pods_that_may_run_there() {
    let held = || vec![tenancy(1, 10, &[("a", 2)])];
    assert_eq!(
        who_goes(&sight([room("a", 2, 0, false)], held(), vec![pod("p", 2)])),
        []
    );
    let mut pinned = pod("p", 2);
    pinned.constraints.node_selector = [("host".to_owned(), "b".to_owned())].into();
    assert_eq!(
        who_goes(&sight([room("a", 2, 0, true)], held(), vec![pinned])),
        []
    );
}

#[test]
fn that_node_is_cleared_on_which_it_costs_least_and_a_gang_counts_as_one() {
    let rooms = || [room("a", 2, 0, true), room("b", 2, 0, true)];
    let gang = vec![
        tenancy(1, 5, &[("a", 1)]),
        tenancy(2, 5, &[("a", 1)]),
        tenancy(3, 500, &[("b", 2), ("c", 2)]),
    ];
    assert_eq!(
        who_goes(&sight(rooms(), gang, vec![pod("p", 2)])),
        on("b", &[3])
    );
    // A gang that leaves makes room on its other nodes, too.
    let across = vec![tenancy(1, 5, &[("a", 2), ("b", 2)])];
    let two = vec![pod("p", 2), pod("q", 2)];
    assert_eq!(who_goes(&sight(rooms(), across, two)), on("a", &[1]));
}

#[test]
fn who_was_asked_is_asked_again_and_not_another() {
    let mut held = vec![tenancy(1, 100, &[("a", 1)]), tenancy(2, 100, &[("a", 1)])];
    held[1].was_asked = true;
    held.push(tenancy(3, 1, &[("a", 1)]));
    assert_eq!(
        who_goes(&sight([room("a", 3, 0, true)], held, vec![pod("p", 1)])),
        on("a", &[2])
    );
}

#[test]
fn the_pod_of_higher_priority_is_served_first_and_then_the_older() {
    let mut urgent = pod("z", 2);
    urgent.priority = 5;
    let held = vec![tenancy(1, 10, &[("a", 2)])];
    let decided = decide(&sight(
        [room("a", 2, 0, true)],
        held,
        vec![pod("a", 1), urgent],
    ));
    let [only] = &decided[..] else {
        panic!("{decided:?}")
    };
    assert_eq!(only.why, Why::LocalPod("team/z".to_owned()));
    assert!(
        !only.why.for_tenant("a").contains("team/z"),
        "a tenant need not know whose"
    );
}

#[test]
fn when_the_windows_of_a_node_have_closed_everybody_goes() {
    let mut held = vec![tenancy(1, 10, &[("a", 1)]), tenancy(2, 10, &[("b", 1)])];
    held.push(Tenancy {
        is_leaving: true,
        ..tenancy(3, 10, &[("a", 1)])
    });
    let mut closed = sight(
        [room("a", 2, 0, false), room("b", 2, 1, false)],
        held,
        vec![],
    );
    closed.closed = ["a".to_owned()].into();
    let decided = decide(&closed);
    let [only] = &decided[..] else {
        panic!("{decided:?}")
    };
    assert_eq!((only.attempt, &only.why), (key(1), &Why::WindowClosed));
}

prop_compose! {
    fn any_sight()(
        held in prop::collection::vec((0_usize..2, 1_u64..4, 0_u64..100, any::<bool>(), any::<bool>(), any::<bool>()), 0..15),
        wants in prop::collection::vec((1_u64..9, 0_i32..2), 0..3),
        local in prop::array::uniform2(0_u64..3),
        gives_way in prop::array::uniform2(any::<bool>()),
    ) -> Sight {
        let names = ["a", "b"];
        let tenancies: Vec<_> = held
            .iter()
            .zip(1..)
            .map(|((node, gpus, seconds, leaves, asked, is_gang), job)| {
                let mut on = vec![(names[*node], *gpus)];
                if *is_gang {
                    on.push((names[1 - node], 1));
                }
                Tenancy { is_leaving: *leaves, was_asked: *asked, ..tenancy(job, *seconds, &on) }
            })
            .collect();
        let rooms = [0, 1].map(|node| {
            let held: u64 = tenancies.iter().filter_map(|t| t.on.get(names[node])).map(|held| held.gpus).sum();
            room(names[node], held + local[node] + 1, 1, gives_way[node])
        });
        let waiting = wants
            .iter()
            .enumerate()
            .map(|(number, (gpus, priority))| WaitingPod { priority: *priority, ..pod(&format!("p{number}"), *gpus) })
            .collect();
        sight(rooms, tenancies, waiting)
    }
}

proptest! {
    #[test]
    fn nobody_goes_needlessly_or_twice_and_a_single_pod_fits_then(sight in any_sight()) {
        let decided = decide(&sight);
        prop_assert_eq!(&decided, &decide(&sight));
        let attempts: BTreeSet<_> = decided.iter().map(|reclaim| reclaim.attempt).collect();
        prop_assert_eq!(attempts.len(), decided.len());
        let leaving = |t: &&Tenancy| attempts.contains(&t.attempt);
        prop_assert!(sight.tenancies.iter().filter(leaving).all(|t| !t.is_leaving));
        prop_assert!(decided.iter().all(|reclaim| sight.rooms[&reclaim.node].gives_way));
        if let ([pod], [first, ..]) = (&sight.waiting[..], &decided[..]) {
            let node = &first.node;
            let room_without = |stays: Option<AttemptKey>| {
                let mut room = sight.rooms[node].free.clone();
                let goes = |t: &&Tenancy| (t.is_leaving || leaving(t)) && Some(t.attempt) != stays;
                for t in sight.tenancies.iter().filter(goes) {
                    if let Some(held) = t.on.get(node) {
                        room.add(held);
                    }
                }
                room.first_shortage(&pod.resources).is_none()
            };
            prop_assert!(room_without(None), "it fits when they have left");
            for attempt in &attempts {
                prop_assert!(!room_without(Some(*attempt)), "{attempt:?} goes needlessly");
            }
        }
    }

    #[test]
    fn once_those_who_are_asked_are_leaving_nobody_else_is(sight in any_sight()) {
        let attempts: BTreeSet<_> = decide(&sight).iter().map(|reclaim| reclaim.attempt).collect();
        let mut after = sight;
        for tenancy in &mut after.tenancies {
            tenancy.is_leaving |= attempts.contains(&tenancy.attempt);
        }
        prop_assert_eq!(decide(&after), []);
    }

    #[test]
    fn asking_again_asks_the_same(sight in any_sight()) {
        let mut sight = sight;
        for tenancy in &mut sight.tenancies {
            tenancy.was_asked = false;
        }
        let first = decide(&sight);
        for tenancy in &mut sight.tenancies {
            tenancy.was_asked = first.iter().any(|reclaim| reclaim.attempt == tenancy.attempt);
        }
        let attempts = |reclaims: &[Reclaim]| reclaims.iter().map(|reclaim| reclaim.attempt).collect::<BTreeSet<_>>();
        prop_assert_eq!(attempts(&decide(&sight)), attempts(&first));
    }
}

#[test]
fn of_a_gang_that_may_go_on_without_a_node_only_what_is_there_goes() {
    let part = |node: &str, part: Part| Tenancy {
        part,
        ..tenancy(1, 3600, &[(node, 4)])
    };
    let on_node = |node: &str| part(node, Part::On(node.to_owned()));
    let gang = || vec![on_node("a"), on_node("b"), on_node("c")];
    let rooms = || ["a", "b", "c"].map(|name| room(name, 4, 0, name != "c"));
    let parts = |sight: &Sight| -> Vec<Part> {
        decide(sight)
            .into_iter()
            .map(|reclaim| reclaim.part)
            .collect()
    };
    let one = sight(rooms(), gang(), vec![pod("p", 2)]);
    assert_eq!(parts(&one), [Part::On("a".to_owned())]);
    // The room of one that goes is counted on: a second pod needs another one.
    let two = sight(rooms(), gang(), vec![pod("p", 4), pod("q", 4)]);
    assert_eq!(
        parts(&two),
        [Part::On("a".to_owned()), Part::On("b".to_owned())]
    );
    let mut closed = sight(rooms(), gang(), vec![]);
    closed.closed = BTreeSet::from(["c".to_owned()]);
    assert_eq!(parts(&closed), [Part::On("c".to_owned())]);
    // Where it does not go on without the members of a node, the others go with them.
    let mut split = gang();
    split[0].part = Part::Whole;
    let all_gone = sight(rooms(), split, vec![pod("p", 4), pod("q", 4)]);
    assert_eq!(parts(&all_gone), [Part::Whole]);
    // What was given up is on its way.
    let mut left = vec![part("a", Part::GivenUp("a".to_owned())), on_node("b")];
    left[0].is_leaving = true;
    assert_eq!(parts(&sight(rooms(), left, vec![pod("p", 4)])), []);
}
