//! The order of the queue, and what it makes of two payers who want the same.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::scheduler::fair_share::{HalfLife, Usage};

fn payer(name: &str) -> Payer {
    Payer::Namespace(name.to_owned())
}

fn entry(priority: i32, name: &str, created_ms: i64, uid: u8) -> QueueEntry {
    QueueEntry {
        priority,
        payer: payer(name),
        gpus: 1,
        created_ms,
        job_uid: JobUid([uid; 16]),
    }
}

fn used(uses: &[(&str, u64)]) -> Ranks {
    let uses = uses.iter().map(|(name, used)| (payer(name), *used));
    Ranks::new(&Usage::kept(0, uses.collect()), [], HalfLife::default())
}

fn uids(entries: &[QueueEntry]) -> Vec<u8> {
    entries.iter().map(|entry| entry.job_uid.0[0]).collect()
}

#[test]
fn priority_goes_before_use_before_age_before_uid() {
    let entries = [
        entry(-3, "thrifty", 0, 6),
        entry(1, "equal", 200, 5),
        entry(1, "greedy", 200, 4),
        entry(1, "greedy", 100, 3),
        entry(1, "thrifty", 500, 2),
        entry(9, "greedy", 500, 1),
    ];
    let ranks = used(&[("greedy", u64::MAX / 2), ("equal", u64::MAX / 2)]);
    // The job of priority 9 counts for its payer, so the equal one is before its next.
    assert_eq!(
        uids(&Queue::new(entries, ranks).order()),
        [1, 2, 5, 3, 4, 6]
    );
}

#[test]
fn without_use_the_older_job_goes_first_and_of_equals_the_lower_uid() {
    let entries = [
        entry(0, "a", 2, 3),
        entry(0, "a", 1, 9),
        entry(0, "a", 2, 2),
    ];
    assert_eq!(
        uids(&Queue::new(entries, Ranks::default()).order()),
        [9, 2, 3]
    );
}

#[test]
fn a_burst_of_one_payer_does_not_go_wholly_before_that_of_another() {
    let burst = (0..4).map(|n| entry(0, "early", i64::from(n), n));
    let other = (4..8).map(|n| entry(0, "late", i64::from(n), n));
    let order = Queue::new(burst.chain(other), Ranks::default()).order();
    assert_eq!(uids(&order), [0, 4, 1, 5, 2, 6, 3, 7]);
}

#[test]
fn a_job_that_was_not_placed_costs_its_payer_no_turn() {
    let entries = [
        entry(0, "a", 0, 0),
        entry(0, "a", 1, 1),
        entry(0, "b", 2, 2),
    ];
    let mut queue = Queue::new(entries, Ranks::default());
    let mut order = Vec::new();
    while let Some(next) = queue.next_job() {
        order.push(next);
    }
    assert_eq!(uids(&order), [0, 1, 2]);
}

#[test]
fn what_a_payer_gets_at_one_priority_counts_at_the_next() {
    let entries = [
        entry(5, "a", 0, 0),
        entry(0, "a", 1, 1),
        entry(0, "b", 2, 2),
    ];
    assert_eq!(
        uids(&Queue::new(entries, Ranks::default()).order()),
        [0, 2, 1]
    );
}

proptest! {
    #[test]
    fn the_order_does_not_depend_on_how_jobs_are_listed(
        jobs in prop::collection::btree_map(any::<u8>(), (-2_i32..2, 0_u8..3, 0_i64..2), 0..12)
            .prop_map(|jobs| jobs.into_iter().map(|(uid, (p, who, c))| entry(p, &who.to_string(), c, uid)).collect::<Vec<_>>())
            .prop_flat_map(|jobs| (Just(jobs.clone()), Just(jobs).prop_shuffle())),
        uses in prop::collection::vec(0_u64..3, 3)
    ) {
        let ranks = used(&[("0", uses[0]), ("1", uses[1]), ("2", uses[2])]);
        let (listed, shuffled) = jobs;
        let all = listed.len();
        let order = Queue::new(listed, ranks.clone()).order();
        prop_assert_eq!(order.len(), all);
        prop_assert_eq!(order, Queue::new(shuffled, ranks).order());
    }

    // Both always have jobs waiting. `slots` of them run at a time, each for `length` minutes, at most a half-life.
    #[test]
    fn of_two_payers_who_want_the_same_neither_gets_more_than_one_job_more(slots in 1_usize..7, gpus in 1_u64..9, (length, half) in (60_u32..3000).prop_flat_map(|half| (1_u64..=u64::from(half), Just(half))), rounds in 1_u64..60) {
        let half_life = HalfLife(std::num::NonZeroU32::new(half).unwrap());
        let (mut usage, mut got) = (Usage::default(), BTreeMap::from([(payer("a"), 0_u64), (payer("b"), 0)]));
        let mut uid = 0_u8;
        for round in 0..rounds {
            let minute = 1000 + round * length;
            let waiting = (0..u8::try_from(slots).unwrap()).flat_map(|n| ["a", "b"].map(|name| {
                uid = uid.wrapping_add(1);
                QueueEntry { gpus, ..entry(0, name, i64::from(n), uid) }
            }));
            let waiting: Vec<_> = waiting.collect();
            let placed: Vec<_> = Queue::new(waiting, Ranks::new(&usage, [], half_life)).order().into_iter().take(slots).collect();
            let mut held = BTreeMap::new();
            for job in placed {
                *held.entry(job.payer.clone()).or_default() += gpus * length * 60_000;
                *got.get_mut(&job.payer).unwrap() += 1;
            }
            usage = usage.advanced(minute + length, &held, half_life);
            prop_assert!(got[&payer("a")].abs_diff(got[&payer("b")]) <= 1, "{got:?}");
        }
    }

    // One place after another is free, and jobs are of all sizes and lengths: what each payer holds and has held differs
    // by no more than the largest job.
    #[test]
    fn with_jobs_of_all_sizes_neither_gets_more_than_the_largest_job_more(jobs in prop::collection::vec((1_u64..9, 1_u64..600), 1..80)) {
        let longest = HalfLife(std::num::NonZeroU32::MAX);
        let largest = jobs.iter().map(|(gpus, length)| gpus * length * 60_000).max().unwrap();
        let (mut usage, mut minute) = (Usage::default(), 0);
        for (gpus, length) in jobs {
            let both = ["a", "b"].map(|name| QueueEntry { gpus, ..entry(0, name, 0, 1) });
            let next = Queue::new(both, Ranks::new(&usage, [], longest)).next_job().unwrap();
            let held = gpus * length * 60_000;
            minute += length;
            usage = usage.advanced(minute, &BTreeMap::from([(next.payer, held)]), longest);
            let of = |name| usage.payers().get(&payer(name)).copied().unwrap_or(0);
            prop_assert!(of("a").abs_diff(of("b")) <= largest);
        }
    }

    #[test]
    fn who_waits_is_overtaken_by_another_payer_for_no_more_than_its_own_use(own in 0_u64..40, half in 1_u32..3000) {
        // The waiting payer has used `own` GPU-hours; another one, who has used nothing, holds one GPU for an hour at a time.
        let half_life = HalfLife(std::num::NonZeroU32::new(half).unwrap());
        let hour = 3_600_000;
        let mut usage = Usage::kept(0, BTreeMap::from([(payer("waits"), own * hour)]));
        let mut overtaken = 0;
        for hours in 0..200_u64 {
            let mut queue = Queue::new([entry(0, "waits", 5, 1), entry(0, "new", 6, 2)], Ranks::new(&usage, [], half_life));
            let next = queue.next_job().unwrap();
            if next.payer == payer("waits") {
                break;
            }
            overtaken += 1;
            usage = usage.advanced(60 * (hours + 1), &BTreeMap::from([(next.payer, hour)]), half_life);
        }
        prop_assert!(overtaken <= own, "{overtaken} of {own}");
    }
}
