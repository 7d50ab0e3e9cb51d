use k8s_openapi::jiff::SignedDuration;
use proptest::prelude::*;

use super::{super::decide::Part, *};
use crate::scheduler::{MemberKey, Reservation, Resources, SnapshotInputs, fixtures};

fn uid(number: u8) -> JobUid {
    JobUid([number; 16])
}

fn key(number: u8) -> AttemptKey {
    AttemptKey {
        job: uid(number),
        attempt: 1,
    }
}

fn gpus(count: u32) -> Resources {
    fixtures::request(count, 1).per_member()
}

/// An attempt that holds so many GPUs of each node.
fn tenancy(number: u8, on: &[(&str, u32)]) -> Tenancy {
    Tenancy {
        attempt: key(number),
        part: Part::Whole,
        is_leaving: false,
        was_asked: false,
        gpu_seconds: 1000,
        on: on
            .iter()
            .map(|(node, count)| ((*node).to_owned(), gpus(*count)))
            .collect(),
    }
}

/// Two nodes of four GPUs, of which these hold theirs.
fn fleet(tenancies: &[Tenancy]) -> Snapshot {
    let held = tenancies.iter().flat_map(|tenancy| {
        let on = (0..).zip(&tenancy.on);
        on.map(|(member, (node, resources))| Reservation {
            member: MemberKey {
                job_uid: tenancy.attempt.job,
                attempt: tenancy.attempt.attempt,
                member,
            },
            node: node.clone(),
            resources: resources.clone(),
        })
    });
    Snapshot::assemble(SnapshotInputs {
        nodes: vec![fixtures::node("a", 4), fixtures::node("b", 4)],
        reservations: held.collect(),
        ..SnapshotInputs::default()
    })
}

fn preemptor(count: u32, members: u32) -> Preemptor {
    let mut request = fixtures::request(count, members);
    request.job_uid = uid(200);
    Preemptor {
        request,
        priority: 10,
        job: "n/j".to_owned(),
    }
}

const TERMS: Terms = Terms {
    enabled: true,
    minimum_run: Duration::from_mins(5),
};

/// All of this priority, and running for an hour.
fn standings(all: &[(u8, i32)]) -> BTreeMap<AttemptKey, Standing> {
    let standing = |priority| Standing {
        priority,
        ran_seconds: 3600,
    };
    all.iter()
        .map(|(number, priority)| (key(*number), standing(*priority)))
        .collect()
}

fn leaves(numbers: &[u8]) -> Answer {
    Answer::Leave(numbers.iter().map(|number| key(*number)).collect())
}

#[test]
fn the_lowest_priority_leaves_and_only_as_many_as_are_needed() {
    let all = [
        tenancy(1, &[("a", 2)]),
        tenancy(2, &[("a", 2)]),
        tenancy(3, &[("b", 2)]),
        tenancy(4, &[("b", 2)]),
    ];
    let fleet = fleet(&all);
    let low = standings(&[(1, 5), (2, 5), (3, 1), (4, 5)]);
    let answer = |count, members| preempt(&fleet, &preemptor(count, members), &all, &low, TERMS);
    assert_eq!(answer(2, 1), leaves(&[3]));
    assert_eq!(answer(4, 1), leaves(&[3, 4]));
    assert_eq!(answer(4, 2), leaves(&[1, 2, 3, 4]));
    assert_eq!(answer(8, 1), Answer::InVain);
}

#[test]
fn who_loses_least_leaves_among_those_of_one_priority() {
    let mut all = [tenancy(1, &[("a", 4)]), tenancy(2, &[("b", 4)])];
    all[0].gpu_seconds = 10;
    let equal = standings(&[(1, 5), (2, 5)]);
    let fleet = fleet(&all);
    assert_eq!(
        preempt(&fleet, &preemptor(1, 1), &all, &equal, TERMS),
        leaves(&[1])
    );
}

#[test]
fn a_gang_leaves_as_a_whole_where_nobody_else_may() {
    let all = [
        tenancy(1, &[("a", 2), ("b", 2)]),
        tenancy(2, &[("a", 2), ("b", 2)]),
    ];
    let fleet = fleet(&all);
    let low = standings(&[(1, 5), (2, 20)]);
    assert_eq!(
        preempt(&fleet, &preemptor(2, 1), &all, &low, TERMS),
        leaves(&[1])
    );
    assert_eq!(
        preempt(&fleet, &preemptor(4, 1), &all, &low, TERMS),
        Answer::InVain
    );
}

#[test]
fn nobody_leaves_for_its_own_priority_or_before_its_minimum_run_or_if_that_is_not_wanted() {
    let all = [tenancy(1, &[("a", 4)]), tenancy(2, &[("b", 4)])];
    let fleet = fleet(&all);
    let job = preemptor(1, 1);
    let with =
        |standings: &BTreeMap<AttemptKey, Standing>| preempt(&fleet, &job, &all, standings, TERMS);
    assert_eq!(with(&standings(&[(1, 10), (2, 11)])), Answer::InVain);
    assert_eq!(with(&BTreeMap::new()), Answer::InVain);
    let mut young = standings(&[(1, 1), (2, 1)]);
    for standing in young.values_mut() {
        standing.ran_seconds = 299;
    }
    assert_eq!(with(&young), Answer::InVain);
    let low = standings(&[(1, 1), (2, 1)]);
    let off = Terms {
        enabled: false,
        ..TERMS
    };
    assert_eq!(preempt(&fleet, &job, &all, &low, off), Answer::InVain);
    assert!(matches!(with(&low), Answer::Leave(_)));
}

#[test]
fn only_a_job_whose_class_lets_it_takes_gpus_from_others() {
    let class = |policy: Option<&str>| PriorityClass {
        preemption_policy: policy.map(str::to_owned),
        ..PriorityClass::default()
    };
    assert!(!may_preempt(None));
    assert!(!may_preempt(Some(&class(Some("Never")))));
    assert!(may_preempt(Some(&class(None))));
    assert!(may_preempt(Some(&class(Some("PreemptLowerPriority")))));
}

#[test]
fn nobody_else_leaves_while_room_is_on_its_way() {
    let mut all = [tenancy(1, &[("a", 4)]), tenancy(2, &[("b", 4)])];
    all[1].is_leaving = true;
    let fleet = fleet(&all);
    let low = standings(&[(1, 1), (2, 1)]);
    assert_eq!(
        preempt(&fleet, &preemptor(4, 1), &all, &low, TERMS),
        Answer::Fits
    );
    assert_eq!(
        preempt(&fleet, &preemptor(4, 2), &all, &low, TERMS),
        leaves(&[1])
    );
}

#[test]
fn nobody_leaves_where_the_job_would_not_fit_for_another_reason() {
    let all = [tenancy(1, &[("a", 4)]), tenancy(2, &[("b", 4)])];
    let fleet = fleet(&all);
    let mut job = preemptor(1, 1);
    job.request.regions = vec!["elsewhere".to_owned()];
    let low = standings(&[(1, 1), (2, 1)]);
    assert_eq!(preempt(&fleet, &job, &all, &low, TERMS), Answer::InVain);
}

#[test]
fn after_room_was_made_three_times_in_vain_there_is_a_pause_that_doubles() {
    let begin: Timestamp = "2026-11-29T12:00:00Z".parse().unwrap();
    let at = |minutes: i64| begin + SignedDuration::from_mins(minutes);
    let mut loops = Loops::default();
    for minute in 0..3 {
        assert!(loops.allow(uid(1), at(minute)));
        loops.stopped(uid(1), at(minute));
    }
    assert!(!loops.allow(uid(1), at(3)) && loops.allow(uid(2), at(3)));
    assert_eq!(loops.ends(uid(1), at(3)), Some(at(12)));
    assert!(loops.allow(uid(1), at(12)));
    loops.stopped(uid(1), at(12));
    assert_eq!(loops.ends(uid(1), at(13)), Some(at(32)));
    for _ in 0..40 {
        loops.stopped(uid(1), at(32));
    }
    assert_eq!(loops.ends(uid(1), at(33)), Some(at(32 + 360)));
    loops.keep(|job| job == uid(1), at(33));
    assert!(!loops.allow(uid(1), at(33)));
    loops.keep(|_| false, at(33));
    assert!(loops.allow(uid(1), at(33)));
}

proptest! {
    #[test]
    fn those_that_leave_suffice_and_nobody_of_them_could_stay(
        holds in prop::collection::vec((0_u8..2, 1_u32..4, 0_i32..3, 0_u64..5, any::<bool>()), 0..8),
        count in 1_u32..5, members in 1_u32..3,
    ) {
        let mut all: Vec<Tenancy> = Vec::new();
        let mut known = BTreeMap::new();
        for (number, (node, count, priority, loss, leaving)) in (1..).zip(holds) {
            let mut one = tenancy(number, &[(["a", "b"][usize::from(node)], count)]);
            (one.gpu_seconds, one.is_leaving) = (loss, leaving);
            all.push(one);
            // Who would not fit is not there.
            if fleet(&all).nodes().iter().any(|node| node.reserved().gpus > 4) {
                all.pop();
                continue;
            }
            known.insert(key(number), Standing { priority, ran_seconds: 400 });
        }
        let mut job = preemptor(count, members);
        job.priority = 2;
        let before = fleet(&all);
        let fits_without = |gone: &dyn Fn(&Tenancy) -> bool| {
            let mut after = before.clone();
            for tenancy in all.iter().filter(|tenancy| tenancy.is_leaving || gone(tenancy)) {
                leave(&mut after, tenancy);
            }
            place(&after, &job.request, &ANY_SEED).is_ok()
        };
        match preempt(&before, &job, &all, &known, TERMS) {
            Answer::Fits => prop_assert!(fits_without(&|_| false)),
            Answer::InVain => {
                prop_assert!(!fits_without(&|tenancy| known[&tenancy.attempt].priority < 2));
            }
            Answer::Leave(attempts) => {
                prop_assert!(attempts.iter().all(|attempt| known[attempt].priority < 2));
                prop_assert!(fits_without(&|tenancy| attempts.contains(&tenancy.attempt)));
                for spared in &attempts {
                    prop_assert!(!fits_without(&|tenancy| attempts.contains(&tenancy.attempt) && tenancy.attempt != *spared));
                }
            }
        }
    }
}
