//! Facts about [`super`].

use proptest::prelude::*;

use super::{
    super::{
        counted::{Counted, Credit, fixtures::said},
        history::Day,
        key::Owner,
        looks::Waiting,
    },
    *,
};
use crate::chain::{Chains, fixtures};

/// 2027-01-01.
const NOW: u64 = 1_798_761_600;

fn gpu(uuid: &str) -> GpuKey {
    GpuKey::new(Owner::Nobody, uuid).unwrap()
}

fn well(served_millis: u64) -> Credit {
    let ended = Day {
        well: 1,
        ..Day::default()
    };
    Credit {
        served_millis,
        ended,
    }
}

fn one(name: &str, sealed_at: u64) -> Counted {
    said(name, sealed_at, &[(gpu("GPU-1"), well(1000))])
}

fn index() -> usize {
    gpu("GPU-1").shard()
}

fn served(shard: &Shard) -> u64 {
    shard
        .history(&gpu("GPU-1"))
        .map_or(0, History::served_millis)
}

fn looked(minutes: std::ops::Range<u64>, up: bool) -> Looks {
    let mut waiting = Waiting::default();
    for minute in minutes {
        waiting.see(minute, gpu("GPU-1"), up);
    }
    waiting.offer().next().cloned().unwrap()
}

#[test]
fn a_record_counts_once_however_often_it_is_seen() {
    let records = [one("a", NOW - 5), one("b", NOW - 3)];
    let first = Shard::default().with(index(), &records, [], NOW).unwrap();
    assert_eq!(served(&first), 2000);
    assert_eq!(first.with(index(), &records, [], NOW + 60), None);
    let late = [one("a", NOW - 5), one("b", NOW - 3), one("c", NOW - 4)];
    let second = first.with(index(), &late, [], NOW + 60).unwrap();
    assert_eq!(served(&second), 3000);
    // Long after, when it is not noted any more which they were.
    let third = second
        .with(index(), &[one("d", NOW + 9_000)], [], NOW + 9_001)
        .unwrap();
    assert_eq!(served(&third), 4000);
    assert_eq!(third.counted.len(), 1);
    assert_eq!(third.with(index(), &late, [], NOW + 9_002), None);
}

#[test]
fn a_new_leader_whose_cache_is_behind_counts_nothing_twice() {
    let counted = Shard::default()
        .with(index(), &[one("a", NOW - 5)], [], NOW)
        .unwrap();
    // It does not know `a` yet, and writes.
    let behind = counted
        .with(index(), &[one("b", NOW)], [], NOW + 30)
        .unwrap();
    assert_eq!(
        behind.with(index(), &[one("a", NOW - 5)], [], NOW + 60),
        None
    );
    assert_eq!(served(&behind), 2000);
}

#[test]
fn what_comes_to_be_known_too_late_is_lost_rather_than_counted_twice() {
    let shard = Shard::default()
        .with(index(), &[one("a", NOW)], [], NOW)
        .unwrap();
    let late = one("b", NOW - LATEST_SECONDS - 1);
    assert_eq!(shard.with(index(), &[late], [], NOW + 1), None);
    let in_time = one("c", NOW - LATEST_SECONDS);
    assert!(shard.with(index(), &[in_time], [], NOW + 1).is_some());
}

#[test]
fn a_shard_without_a_past_takes_what_the_cluster_still_knows() {
    let old = one("a", NOW - 400 * 86_400);
    let recent = one("b", NOW - 20 * 86_400);
    let shard = Shard::default()
        .with(index(), &[old, recent], [], NOW)
        .unwrap();
    let history = shard.history(&gpu("GPU-1")).unwrap();
    assert_eq!(
        (history.served_millis(), history.lately(day_of(NOW)).well),
        (2000, 1)
    );
}

#[test]
fn minutes_count_once_though_two_replicas_watch_or_an_answer_was_lost() {
    let minute = NOW / 60;
    let (first, again) = (
        looked(minute..minute + 3, false),
        looked(minute + 2..minute + 5, false),
    );
    let shard = Shard::default().with(index(), [], [&first], NOW).unwrap();
    assert_eq!(shard.with(index(), [], [&first], NOW), None);
    assert_eq!(shard.with(index(), [], [&again], NOW), None, "they overlap");
    let next = looked(minute + 3..minute + 5, true);
    let shard = shard.with(index(), [], [&first, &next], NOW).unwrap();
    let lately = shard.history(&gpu("GPU-1")).unwrap().lately(day_of(NOW));
    assert_eq!((lately.watched, lately.down), (5, 3));
}

#[test]
fn only_its_own_gpus_are_kept() {
    let other = (2..1000)
        .map(|number| gpu(&format!("GPU-{number}")))
        .find(|other| other.shard() != index())
        .unwrap();
    let both = said(
        "a",
        NOW,
        &[(gpu("GPU-1"), well(1)), (other.clone(), well(1))],
    );
    let own = Shard::default().with(index(), [&both], [], NOW).unwrap();
    assert_eq!(own.keys(), [&gpu("GPU-1")].into());
    let theirs = Shard::default()
        .with(other.shard(), [&both], [], NOW)
        .unwrap();
    assert_eq!(theirs.keys(), [&other].into());
    let foreign = said("b", NOW, &[(other, well(1))]);
    assert_eq!(own.with(index(), [&foreign], [], NOW), None);
}

#[test]
fn a_gpu_of_another_provider_begins_anew_and_the_old_history_stays() {
    let chains = Chains::new(vec![fixtures::config()]);
    let of = |number: u32| {
        let owner = Owner::find(&chains, Some("anvil"), Some(number)).unwrap();
        GpuKey::new(owner, "GPU-1").unwrap()
    };
    let (first, second) = (of(7), of(8));
    let records = [
        said("a", NOW, &[(first.clone(), well(5))]),
        said("b", NOW, &[(second.clone(), well(3))]),
    ];
    let one = Shard::default().with(first.shard(), &records, [], NOW);
    let two = Shard::default().with(second.shard(), &records, [], NOW);
    let time = |shard: &Shard, key: &GpuKey| shard.history(key).unwrap().served_millis();
    assert_eq!(time(&one.unwrap(), &first), 5);
    assert_eq!(time(&two.unwrap(), &second), 3);
}

#[test]
fn a_gpu_that_was_not_seen_for_a_year_is_forgotten() {
    let shard = Shard::default()
        .with(index(), &[one("a", NOW)], [], NOW)
        .unwrap();
    let other = (2..1000)
        .map(|number| gpu(&format!("GPU-{number}")))
        .find(|other| other.shard() == index())
        .unwrap();
    let after = |days: u64| {
        let now = NOW + days * 86_400;
        let record = said("b", now, &[(other.clone(), well(1))]);
        let next = shard.with(index(), [&record], [], now).unwrap();
        next.history(&gpu("GPU-1")).is_some()
    };
    assert!(after(365) && !after(366));
}

#[test]
fn who_shows_new_uuids_without_end_drives_out_no_gpu_that_ever_served() {
    let mut shard = Shard::default()
        .with(index(), &[one("a", NOW)], [], NOW)
        .unwrap();
    for number in 0..200_u32 {
        let history = shard
            .gpus
            .entry(gpu(&format!("GPU-x{number}")))
            .or_default();
        let seen = Day {
            watched: 1,
            ..Day::default()
        };
        history.note(day_of(NOW) - number % 2, seen, 0);
    }
    let whole = shard.bytes();
    shard.fit(whole / 4, day_of(NOW));
    assert!(shard.bytes() <= whole / 4);
    assert_eq!(served(&shard), 1000);
    assert!(
        shard
            .gpus
            .values()
            .all(|history| history.last_day() == day_of(NOW))
    );
}

#[test]
fn forty_thousand_gpus_with_the_longest_histories_fit() {
    let mut shard = Shard::default();
    for number in 0..40_000 / super::super::key::SHARDS {
        let owner = Owner::Provider {
            chain_id: u64::MAX,
            vault: alloy::primitives::Address::repeat_byte(0xab),
            number: u32::MAX,
        };
        let uuid = format!("GPU-5a3c0f6e-0000-4000-8000-{number:012}");
        let key = GpuKey::new(owner, &uuid).unwrap();
        let history = shard.gpus.entry(key).or_default();
        for day in 0..30 {
            let busy = Day {
                watched: 1440 - day,
                down: day,
                well: 40 + day,
                faults: 1,
            };
            history.note(20_000 + day, busy, 15_552_000_000);
        }
    }
    assert!(shard.bytes() < MOST_BYTES, "{}", shard.bytes());
}

#[test]
fn what_somebody_has_broken_is_named() {
    let mut data = Shard::default().data();
    assert_eq!(Shard::read(&data), Ok(Shard::default()));
    for (field, text, expected) in [
        ("format", "2", "data.format is \"2\""),
        ("before", "x", "data.before is \"x\""),
        ("counted", "zz", "data.counted holds \"zz\""),
        (
            "gpus",
            "GPU-1 ? 1 2 3",
            "data.gpus has the line \"GPU-1 ? 1 2 3\"",
        ),
        ("gpus", "GPU-1 - 1 2", "data.gpus has the line"),
    ] {
        let before = data.insert(field.to_owned(), text.to_owned()).unwrap();
        let error = Shard::read(&data).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
        data.insert(field.to_owned(), before);
    }
}

proptest! {
    #[test]
    fn a_shard_is_read_as_it_was_written(
        records in prop::collection::vec((0_u32..9, 0_u64..2000, 0_u64..1 << 40), 0..20), minutes in 1_u64..2000, up: bool,
    ) {
        let records: Vec<_> = records
            .into_iter()
            .map(|(name, ago, millis)| said(&name.to_string(), NOW - ago, &[(gpu("GPU-1"), well(millis))]))
            .collect();
        let minute = NOW / 60;
        let looks = looked(minute..minute + minutes, up);
        let shard = Shard::default().with(index(), &records, [&looks], NOW).unwrap();
        prop_assert_eq!(Shard::read(&shard.data()), Ok(shard));
    }

    #[test]
    fn in_how_many_writes_records_are_counted_and_how_often_each_is_shown_changes_nothing(
        sealed in prop::collection::vec(0_u64..3600, 1..30), steps in 1_u64..20,
    ) {
        let records: Vec<_> = sealed
            .iter()
            .enumerate()
            .map(|(number, at)| one(&number.to_string(), NOW + at))
            .collect();
        let mut shard = Shard::default();
        for step in 1..=steps {
            let now = NOW + 3600 * step / steps;
            // Whatever is sealed by now is shown, again and again, a little out of order.
            let shown = records.iter().rev().filter(|record| record.sealed_at <= now);
            if let Some(next) = shard.with(index(), shown, [], now) {
                shard = next;
            }
        }
        prop_assert_eq!(served(&shard), 1000 * u64::try_from(records.len()).unwrap());
    }
}
