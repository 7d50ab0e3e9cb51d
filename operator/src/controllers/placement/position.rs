//! The place in the queue as jobs are told it, and which of them are told something new now. Pure.
//!
//! A place is exact up to [`EXACT`]; above that it is rounded up to 20, 50, 100, 200, 500 and so on, so that a queue of
//! thousands that moves by one costs a handful of writes.

use std::collections::BTreeMap;

use crate::scheduler::{JobUid, holds::Millis};

/// Places up to this one are told exactly.
pub const EXACT: u32 = 10;
/// So many jobs are told something in one pass over the queue; the others wait for the next one.
pub const TOLD_AT_ONCE: usize = 64;
/// Jobs whose answer is the same but for its words are told the new ones this often at most, in milliseconds.
pub const PAUSE_MILLIS: Millis = 5_000;

/// The place that is told for `place`, counted from 1.
#[must_use]
pub fn step(place: usize) -> u32 {
    let place = u32::try_from(place).unwrap_or(u32::MAX);
    if place <= EXACT {
        return place;
    }
    let mut decade = EXACT;
    loop {
        for factor in [2, 5, 10] {
            let step = decade.saturating_mul(factor);
            if place <= step {
                return step;
            }
        }
        decade = decade.saturating_mul(10);
    }
}

/// How urgent it is to tell a job something. The lesser is told first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// What it was told is not true any more, or it was told nothing.
    News,
    /// It is among the first, and the words or its place have changed.
    Front,
    /// The words or its place have changed.
    Words,
}

/// A job that is to be told something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Telling {
    /// How urgent it is.
    pub urgency: Urgency,
    /// Its place in the queue, counted from 1; 0 if it is not in it.
    pub place: usize,
    /// The job.
    pub job_uid: JobUid,
}

/// When jobs were last told something, as far as this process knows.
#[derive(Clone, Debug, Default)]
pub struct Told {
    at: BTreeMap<JobUid, Millis>,
    last_words: Option<Millis>,
}

/// Who is told something in a pass, and when to look again for the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Round {
    /// In this order.
    pub jobs: Vec<JobUid>,
    /// When others are to be told, in milliseconds since 1970. `None`: all are told.
    pub again: Option<Millis>,
}

impl Told {
    /// Chooses who is told something at `now`: news first, in the order of the queue; then new words, once every
    /// [`PAUSE_MILLIS`], to the first ten and to those that have waited longest for them.
    pub fn choose(&mut self, mut all: Vec<Telling>, now: Millis) -> Round {
        let rests = self
            .last_words
            .map(|last| last.saturating_add(PAUSE_MILLIS))
            .filter(|until| *until > now && until.saturating_sub(now) <= PAUSE_MILLIS);
        let last_told = |telling: &Telling| match telling.urgency {
            Urgency::Words => self.at.get(&telling.job_uid).copied().unwrap_or(0),
            Urgency::News | Urgency::Front => 0,
        };
        all.sort_by_key(|telling| {
            let told = last_told(telling);
            (telling.urgency, told, telling.place, telling.job_uid)
        });
        let is_due = |telling: &Telling| telling.urgency == Urgency::News || rests.is_none();
        let (due, later): (Vec<Telling>, Vec<Telling>) = all.into_iter().partition(is_due);
        let has_more = due.len() > TOLD_AT_ONCE;
        let due: Vec<Telling> = due.into_iter().take(TOLD_AT_ONCE).collect();
        let news_is_left = has_more && due.iter().all(|telling| telling.urgency == Urgency::News);
        if due.iter().any(|telling| telling.urgency != Urgency::News) {
            self.last_words = Some(now);
        }
        for telling in &due {
            self.at.insert(telling.job_uid, now);
        }
        let again = if news_is_left {
            Some(now)
        } else if has_more {
            Some(now.saturating_add(PAUSE_MILLIS))
        } else {
            rests.filter(|_| !later.is_empty())
        };
        Round {
            jobs: due.into_iter().map(|telling| telling.job_uid).collect(),
            again,
        }
    }

    /// Forgets jobs that wait no more.
    pub fn keep(&mut self, waits: impl Fn(&JobUid) -> bool) {
        self.at.retain(|job, _| waits(job));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn places_are_exact_up_to_ten_and_then_told_in_steps() {
        for place in 1..=10 {
            assert_eq!(step(place), u32::try_from(place).unwrap());
        }
        let steps = [
            (11, 20),
            (20, 20),
            (21, 50),
            (51, 100),
            (101, 200),
            (501, 1000),
            (20_000, 20_000),
            (20_001, 50_000),
        ];
        for (place, told) in steps {
            assert_eq!(step(place), told);
        }
        assert_eq!(step(usize::MAX), u32::MAX);
    }

    proptest! {
        #[test]
        fn what_is_told_is_never_better_than_the_place_and_keeps_the_order(place in 1_usize..1_000_000, more in 0_usize..1000) {
            let told = step(place);
            prop_assert!(usize::try_from(told).unwrap() >= place && told < 3 * u32::try_from(place).unwrap());
            prop_assert!(step(place + more) >= told);
        }
    }

    #[test]
    fn a_queue_of_twenty_thousand_that_moves_by_one_changes_what_twenty_are_told() {
        let changed = (1..20_000)
            .filter(|place| step(*place) != step(place + 1))
            .count();
        assert_eq!(changed, 19);
    }

    fn telling(urgency: Urgency, place: usize) -> Telling {
        let mut uid = [0; 16];
        uid[..8].copy_from_slice(&u64::try_from(place).unwrap().to_be_bytes());
        Telling {
            urgency,
            place,
            job_uid: JobUid(uid),
        }
    }

    fn places(round: &Round) -> Vec<u64> {
        let place = |job: &JobUid| u64::from_be_bytes(job.0[..8].try_into().unwrap());
        round.jobs.iter().map(place).collect()
    }

    #[test]
    fn news_goes_before_words_and_in_the_order_of_the_queue() {
        let mut told = Told::default();
        let all = vec![
            telling(Urgency::Words, 40),
            telling(Urgency::Front, 2),
            telling(Urgency::News, 30),
            telling(Urgency::News, 20),
        ];
        let round = told.choose(all, 1000);
        assert_eq!((places(&round), round.again), (vec![20, 30, 2, 40], None));
    }

    #[test]
    fn words_wait_for_a_pause_and_news_does_not() {
        let mut told = Told::default();
        told.choose(vec![telling(Urgency::Words, 1)], 1000);
        let again = vec![telling(Urgency::Front, 2), telling(Urgency::News, 3)];
        let round = told.choose(again, 3000);
        assert_eq!((places(&round), round.again), (vec![3], Some(6000)));
        let round = told.choose(vec![telling(Urgency::Front, 2)], 6000);
        assert_eq!((places(&round), round.again), (vec![2], None));
        let round = told.choose(vec![telling(Urgency::Front, 2)], 2000);
        assert_eq!(places(&round), [2], "the clock was set back");
    }

    #[test]
    fn in_a_long_queue_every_job_has_its_turn_though_the_first_change_all_the_time() {
        let mut told = Told::default();
        let mut heard = std::collections::BTreeSet::new();
        let (mut now, mut rounds) = (1000, 0);
        while heard.len() < 1000 {
            let all = (1..=1000).map(|place| {
                let urgency = if place <= 10 {
                    Urgency::Front
                } else {
                    Urgency::Words
                };
                telling(urgency, place)
            });
            let round = told.choose(all.collect(), now);
            assert!(round.jobs.len() <= TOLD_AT_ONCE);
            heard.extend(places(&round));
            now = round.again.unwrap();
            rounds += 1;
        }
        // 54 of the 990 others in each round.
        assert_eq!(rounds, 19);
    }

    #[test]
    fn what_is_left_of_news_is_told_at_once_and_the_rest_of_words_after_a_pause() {
        let many = |urgency| (1..=100).map(|place| telling(urgency, place)).collect();
        assert_eq!(
            Told::default().choose(many(Urgency::News), 7).again,
            Some(7)
        );
        assert_eq!(
            Told::default().choose(many(Urgency::Words), 7).again,
            Some(7 + PAUSE_MILLIS)
        );
    }
}
