use gridstake_crds::{
    condition::Status,
    measurement::{GpuMeasurement, MEASUREMENT_VERSION, Measurement},
};
use k8s_openapi::jiff::SignedDuration;
use proptest::prelude::*;
use serde_json::json;

use super::*;

fn at(hours: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + 3600 * hours).unwrap()
}

fn terms() -> Terms {
    Terms {
        template: Some(serde_json::from_value(json!({})).unwrap()),
        ..Terms::default()
    }
}

fn known(uuid: &str, hours: i64) -> Performance {
    Performance {
        uuid: uuid.to_owned(),
        permille: 1000,
        fp32_gflops: 19_500,
        memory_gbs: 2_039,
        reference: REFERENCE.name.to_owned(),
        measured_at: Time(at(hours)),
        expires_at: Time(at(hours + 720)),
        job: "canary-before".to_owned(),
    }
}

/// A node with two GPUs, both free, that was never measured.
fn node(name: &str) -> NodeSight {
    NodeSight {
        name: name.to_owned(),
        devices: vec![format!("{name}-0"), format!("{name}-1")],
        is_divided: false,
        is_offered: true,
        free: 2,
        takes_canary: true,
        performance: Vec::new(),
    }
}

fn canary(node: &str, stage: Stage) -> Canary {
    Canary {
        name: format!("canary-of-{node}"),
        uid: format!("uid-of-{node}"),
        label: label_of(node),
        created: at(0),
        stage,
    }
}

fn measured(hours: i64, node: &str, gpus: &[(&str, bool)]) -> Stage {
    let gpus = gpus
        .iter()
        .map(|(uuid, digest_ok)| GpuMeasurement {
            uuid: (*uuid).to_owned(),
            fp32_gflops: 39_000,
            memory_gbs: 2_039,
            digest_ok: *digest_ok,
        })
        .collect();
    Stage::Ended(Ended {
        at: at(hours),
        node: Some(node.to_owned()),
        outcome: Outcome::Measured(Measurement {
            version: MEASUREMENT_VERSION,
            gpus,
        }),
    })
}

fn failed(outcome: Outcome) -> Stage {
    Stage::Ended(Ended {
        at: at(1),
        node: Some("a".to_owned()),
        outcome,
    })
}

fn sight(nodes: Vec<NodeSight>, canaries: Vec<Canary>) -> Sight {
    Sight {
        nodes,
        canaries,
        ..Sight::default()
    }
}

fn started(sight: &Sight, now: Timestamp) -> Vec<(String, u32)> {
    decide(sight, &terms(), now)
        .start
        .into_iter()
        .map(|new| (new.node, new.gpus))
        .collect()
}

fn said(sight: &Sight, terms: &Terms, now: Timestamp) -> (Status, &'static str) {
    let plan = decide(sight, terms, now);
    (plan.says[0].fact.status, plan.says[0].fact.reason)
}

#[test]
fn a_node_that_was_never_measured_is_measured_with_all_of_its_free_gpus() {
    assert_eq!(
        started(&sight(vec![node("a")], vec![]), at(0)),
        [("a".to_owned(), 2)]
    );
}

#[test]
fn only_so_many_nodes_are_measured_at_once_and_those_that_waited_longest_come_first() {
    let mut old = node("b");
    old.performance = vec![known("b-0", -100), known("b-1", -100)];
    let mut older = node("a");
    older.performance = vec![known("a-0", -200), known("a-1", -200)];
    let nodes = vec![older.clone(), old.clone(), node("c")];
    let names = |sight: &Sight| -> Vec<String> {
        started(sight, at(0)).into_iter().map(|(n, _)| n).collect()
    };
    assert_eq!(names(&sight(nodes.clone(), vec![])), ["c", "a"]);
    let busy = canary("elsewhere", Stage::Holds);
    assert_eq!(names(&sight(nodes.clone(), vec![busy.clone()])), ["c"]);
    let two = vec![busy, canary("too", Stage::Waits)];
    assert_eq!(names(&sight(nodes, two)), [""; 0]);
}

#[test]
fn a_node_is_measured_again_when_its_time_is_over_and_not_before() {
    let mut fresh = node("a");
    fresh.performance = vec![known("a-0", 0), known("a-1", 0)];
    let one = sight(vec![fresh.clone()], vec![]);
    assert_eq!(started(&one, at(20)), []);
    assert_eq!(started(&one, at(24)).len(), 1);
    // By another reference it was not measured at all.
    for entry in &mut fresh.performance {
        entry.reference = "performance/0".to_owned();
    }
    assert_eq!(started(&sight(vec![fresh], vec![]), at(1)).len(), 1);
}

#[test]
fn of_a_node_that_is_in_use_the_free_gpus_are_measured_and_not_over_and_over() {
    let mut partly = node("a");
    partly.free = 1;
    assert_eq!(
        started(&sight(vec![partly.clone()], vec![]), at(0)),
        [("a".to_owned(), 1)]
    );
    partly.performance = vec![known("a-0", 0)];
    assert_eq!(started(&sight(vec![partly.clone()], vec![]), at(1)), []);
    // Free as a whole, it is measured as a whole.
    partly.free = 2;
    assert_eq!(
        started(&sight(vec![partly.clone()], vec![]), at(1)),
        [("a".to_owned(), 2)]
    );
    partly.free = 0;
    partly.performance.clear();
    assert_eq!(started(&sight(vec![partly], vec![]), at(1)), []);
}

#[test]
fn no_node_is_measured_that_is_withheld_or_divided_or_has_no_room_or_is_wanted() {
    let with = |change: fn(&mut NodeSight)| {
        let mut node = node("a");
        change(&mut node);
        started(&sight(vec![node], vec![]), at(0))
    };
    assert_eq!(with(|node| node.is_offered = false), []);
    assert_eq!(with(|node| node.is_divided = true), []);
    assert_eq!(with(|node| node.takes_canary = false), []);
    assert_eq!(with(|node| node.devices.clear()), []);
    let mut wanted = sight(vec![node("a")], vec![]);
    wanted.wanted.nodes.insert("a".to_owned());
    assert_eq!(started(&wanted, at(0)), []);
    let mut moving = sight(vec![node("a")], vec![]);
    moving.wanted.queue_moves = true;
    assert_eq!(started(&moving, at(0)), []);
}

#[test]
fn without_a_template_nothing_is_measured_and_what_was_measured_still_counts() {
    let off = Terms::default();
    let mut fresh = node("a");
    assert_eq!(
        decide(&sight(vec![fresh.clone()], vec![]), &off, at(0)).start,
        []
    );
    assert_eq!(
        said(&sight(vec![fresh.clone()], vec![]), &off, at(0)),
        (Status::Unknown, "CanariesOff")
    );
    fresh.performance = vec![known("a-0", 0), known("a-1", 0)];
    assert_eq!(
        said(&sight(vec![fresh], vec![]), &off, at(100)),
        (Status::True, "Measured")
    );
}

#[test]
fn a_node_that_has_a_canary_or_had_one_lately_gets_no_other_however_it_ended() {
    for stage in [
        Stage::Waits,
        Stage::Holds,
        Stage::Leaves,
        Stage::GaveWay,
        failed(Outcome::Failed("x".to_owned())),
        failed(Outcome::HostFailed("x".to_owned())),
    ] {
        let one = sight(vec![node("a")], vec![canary("a", stage.clone())]);
        assert_eq!(started(&one, at(1)), [], "{stage:?}");
    }
    let mut unseen = sight(vec![node("a")], vec![]);
    unseen.just_made.insert(label_of("a"));
    assert_eq!(started(&unseen, at(1)), []);
}

#[test]
fn a_canary_on_a_node_that_others_want_gives_way_and_no_other_does() {
    let mut wanted = sight(
        vec![node("a"), node("b")],
        vec![canary("a", Stage::Holds), canary("b", Stage::Holds)],
    );
    assert_eq!(decide(&wanted, &terms(), at(0)).give_way, [""; 0]);
    wanted.wanted.nodes.insert("a".to_owned());
    assert_eq!(decide(&wanted, &terms(), at(0)).give_way, ["canary-of-a"]);
    for stage in [Stage::Leaves, Stage::GaveWay, measured(1, "a", &[])] {
        wanted.canaries[0].stage = stage;
        assert_eq!(decide(&wanted, &terms(), at(0)).give_way, [""; 0]);
    }
}

#[test]
fn a_canary_that_lost_its_place_is_not_tried_again() {
    let one = sight(vec![node("a")], vec![canary("a", Stage::LostItsPlace)]);
    assert_eq!(decide(&one, &terms(), at(0)).give_way, ["canary-of-a"]);
}

#[test]
fn a_canary_that_gave_way_is_deleted_when_its_nodes_pause_is_over() {
    let one = sight(vec![node("a")], vec![canary("a", Stage::GaveWay)]);
    let plan = decide(&one, &terms(), at(5));
    assert_eq!((plan.delete, plan.wake), (vec![], Some(at(6))));
    let plan = decide(&one, &terms(), at(6));
    assert_eq!(
        plan.delete,
        [("canary-of-a".to_owned(), "uid-of-a".to_owned())]
    );
    // Those that have ended go as any job, after their time to live.
    let ended = sight(vec![node("a")], vec![canary("a", measured(1, "a", &[]))]);
    assert_eq!(decide(&ended, &terms(), at(100)).delete, []);
}

#[test]
fn what_a_canary_has_measured_is_entered_with_its_weight_and_its_end() {
    let right = measured(1, "a", &[("a-0", true), ("a-1", true)]);
    let one = sight(vec![node("a")], vec![canary("a", right)]);
    let plan = decide(&one, &terms(), at(2));
    let [first, second] = &plan.says[0].performance[..] else {
        panic!("{:?}", plan.says);
    };
    assert_eq!((first.uuid.as_str(), second.uuid.as_str()), ("a-0", "a-1"));
    // Twice the reference in one, as much in the other.
    assert_eq!((first.permille, first.fp32_gflops), (1500, 39_000));
    assert_eq!(first.reference, "performance/1");
    assert_eq!((first.measured_at.0, first.expires_at.0), (at(1), at(721)));
    assert_eq!(first.job, "canary-of-a");
    assert_eq!(said(&one, &terms(), at(2)), (Status::True, "Measured"));
    let told = plan.says[0].news.as_ref().unwrap();
    assert_eq!(
        (told.canary.as_str(), &told.news),
        (
            "uid-of-a",
            &News::Measured("2 GPUs were measured".to_owned())
        )
    );
}

#[test]
fn a_gpu_that_calculates_wrong_keeps_no_figures_and_the_node_says_so() {
    let wrong = measured(1, "a", &[("a-0", true), ("a-1", false)]);
    let mut before = node("a");
    before.performance = vec![known("a-0", 0), known("a-1", 0)];
    let one = sight(vec![before], vec![canary("a", wrong)]);
    let plan = decide(&one, &terms(), at(2));
    let left: Vec<_> = plan.says[0]
        .performance
        .iter()
        .map(|known| known.uuid.as_str())
        .collect();
    assert_eq!(left, ["a-0"]);
    assert_eq!(said(&one, &terms(), at(2)), (Status::False, "WrongResult"));
    assert!(plan.says[0].fact.message.contains("a-1"));
    assert!(matches!(
        plan.says[0].news.as_ref().unwrap().news,
        News::NodeFailed(_)
    ));
}

#[test]
fn a_failure_of_the_node_is_said_and_one_of_our_own_program_is_told_and_no_more() {
    let host = failed(Outcome::HostFailed("GpuLost".to_owned()));
    let host = sight(vec![node("a")], vec![canary("a", host)]);
    assert_eq!(
        said(&host, &terms(), at(2)),
        (Status::False, "CanaryFailed")
    );
    let own = failed(Outcome::Failed("ProgramExit: cannot load".to_owned()));
    let own = sight(vec![node("a")], vec![canary("a", own)]);
    assert_eq!(
        said(&own, &terms(), at(2)),
        (Status::Unknown, "NotMeasured")
    );
    let plan = decide(&own, &terms(), at(2));
    let News::CanaryFailed(words) = &plan.says[0].news.as_ref().unwrap().news else {
        panic!("{:?}", plan.says);
    };
    assert!(
        words.contains("cannot load") && words.contains("later"),
        "{words}"
    );
}

#[test]
fn figures_of_gpus_that_the_node_does_not_have_or_from_another_node_are_not_entered() {
    let of_others = measured(1, "a", &[("b-0", true), ("GPU-x", true)]);
    let one = sight(vec![node("a")], vec![canary("a", of_others)]);
    assert_eq!(decide(&one, &terms(), at(2)).says[0].performance, []);
    let elsewhere = measured(1, "b", &[("a-0", true)]);
    let one = sight(vec![node("a")], vec![canary("a", elsewhere)]);
    assert_eq!(decide(&one, &terms(), at(2)).says[0].performance, []);
}

#[test]
fn older_figures_never_take_the_place_of_newer_ones() {
    let mut newer = node("a");
    newer.performance = vec![known("a-0", 5)];
    let old = measured(1, "a", &[("a-0", false), ("a-1", true)]);
    let one = sight(vec![newer], vec![canary("a", old)]);
    let says = decide(&one, &terms(), at(6)).says.remove(0);
    assert_eq!(says.performance[0], known("a-0", 5));
    assert_eq!(says.performance.len(), 2);
}

#[test]
fn a_measurement_that_has_expired_counts_no_more_and_goes_with_its_gpu() {
    let mut expired = node("a");
    expired.performance = vec![known("a-0", 0), known("a-1", 0)];
    let one = sight(vec![expired.clone()], vec![]);
    assert_eq!(
        said(&one, &terms(), at(720)),
        (Status::Unknown, "NotMeasured")
    );
    assert_eq!(decide(&one, &terms(), at(720)).says[0].performance.len(), 2);
    expired.devices.remove(1);
    let one = sight(vec![expired.clone()], vec![]);
    assert_eq!(decide(&one, &terms(), at(719)).says[0].performance.len(), 2);
    assert_eq!(decide(&one, &terms(), at(720)).says[0].performance.len(), 1);
}

#[test]
fn a_node_is_looked_at_again_when_it_is_due_and_when_its_figures_expire() {
    let mut fresh = node("a");
    fresh.performance = vec![known("a-0", 0), known("a-1", 0)];
    let one = sight(vec![fresh], vec![]);
    let due = at(0) + terms().due_after("a");
    assert_eq!(decide(&one, &terms(), at(0)).wake, Some(due));
    assert_eq!(decide(&one, &terms(), at(30)).wake, Some(at(720)));
    assert_eq!(decide(&one, &terms(), at(721)).wake, None);
}

fn any_stage() -> impl Strategy<Value = Stage> {
    prop_oneof![
        Just(Stage::Waits),
        Just(Stage::LostItsPlace),
        Just(Stage::Holds),
        Just(Stage::Leaves),
        Just(Stage::GaveWay),
        (0_i64..48, any::<bool>()).prop_map(|(hours, ok)| measured(hours, "n0", &[("n0-0", ok)])),
        Just(failed(Outcome::Failed("x".to_owned()))),
        Just(failed(Outcome::HostFailed("x".to_owned()))),
    ]
}

proptest! {
    #[test]
    fn whatever_is_seen_canaries_keep_to_their_number_and_to_free_nodes_and_deciding_again_changes_nothing(
        nodes in prop::collection::vec((0_u32..4, any::<bool>(), any::<bool>(), -40_i64..40), 0..6),
        canaries in prop::collection::vec((0_usize..6, any_stage()), 0..6),
        wanted in prop::collection::btree_set(0_usize..6, 0..3),
        most in 0_usize..4,
        hours in 0_i64..800,
    ) {
        let nodes: Vec<NodeSight> = nodes.into_iter().enumerate().map(|(number, (free, is_offered, takes_canary, known_at))| {
            let name = format!("n{number}");
            let performance = if known_at > 0 { vec![known(&format!("{name}-0"), known_at)] } else { vec![] };
            NodeSight { free: free.min(2), is_offered, takes_canary, performance, ..node(&name) }
        }).collect();
        let canaries: Vec<Canary> = canaries.into_iter().map(|(number, stage)| canary(&format!("n{number}"), stage)).collect();
        let sight = Sight {
            nodes, canaries,
            wanted: Wanted { queue_moves: false, nodes: wanted.into_iter().map(|number| format!("n{number}")).collect() },
            ..Sight::default()
        };
        let terms = Terms { most, ..terms() };
        let plan = decide(&sight, &terms, at(hours));

        let under_way = sight.canaries.iter().filter(|c| c.is_under_way()).count();
        prop_assert!(plan.start.is_empty() || plan.start.len() + under_way <= most);
        for new in &plan.start {
            let node = sight.nodes.iter().find(|node| node.name == new.node).unwrap();
            prop_assert!(node.is_offered && node.takes_canary && new.gpus >= 1 && new.gpus <= node.free);
            prop_assert!(!sight.wanted.nodes.contains(&new.node));
            prop_assert!(!pauses(&new.node, &sight.canaries, &sight.just_made));
        }
        // What was written is seen, and nothing is to be said anew.
        let mut after = sight.clone();
        for (node, says) in after.nodes.iter_mut().zip(&plan.says) {
            node.performance.clone_from(&says.performance);
        }
        prop_assert_eq!(decide(&after, &terms, at(hours)).says, plan.says);
    }

    #[test]
    fn a_node_on_which_every_canary_fails_costs_no_more_than_one_in_each_pause(seconds in 60_i64..86_400) {
        let terms = Terms { every: SignedDuration::from_secs(seconds), ..terms() };
        let pause = terms.pause();
        let mut canaries: Vec<Canary> = Vec::new();
        let mut made = Vec::new();
        let step = pause / 7;
        for number in 0..70 {
            let now = at(0) + step * number;
            // A job that has ended goes after its time to live, which is the pause.
            canaries.retain(|canary| now.duration_since(canary.created) < pause);
            if !decide(&sight(vec![node("a")], canaries.clone()), &terms, now).start.is_empty() {
                made.push(now);
                let mut fails = canary("a", failed(Outcome::Failed("x".to_owned())));
                fails.created = now;
                canaries.push(fails);
            }
        }
        prop_assert!(made.windows(2).all(|pair| pair[1].duration_since(pair[0]) >= pause), "{:?}", made);
        prop_assert!(made.len() >= 8);
    }
}
