//! Whether too many nodes are silent for it to be their own fault. Pure.

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::Terms;

/// Too many nodes fell silent together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Amnesty {
    /// How many nodes fell silent together.
    pub silent: usize,
    /// Of so many that were heard of until then.
    pub of: usize,
    /// When the first of them was last heard of.
    pub since: Timestamp,
}

/// Whether there is an amnesty at `now`, by when each agent was last heard of.
///
/// Nodes fall *together* if their last heartbeats lie within the time that it takes to find one of them silent and lost: by
/// then the last of them is known to be silent before the first of them is given up. They are compared with all that were
/// heard of when the first of them fell silent, so nodes that died long ago neither cause an amnesty nor prevent one.
#[must_use]
pub fn amnesty(heartbeats: &[Timestamp], terms: &Terms, now: Timestamp) -> Option<Amnesty> {
    let mut last = heartbeats.to_vec();
    last.sort_unstable();
    let begin = now
        .saturating_sub(terms.amnesty_longest)
        .unwrap_or(Timestamp::MIN);
    let silent_until = now
        .saturating_sub(terms.silent_after)
        .unwrap_or(Timestamp::MIN);
    // Heartbeats come every third of the time after which their absence counts, each agent's at its own moment.
    let together = terms
        .silent_after
        .checked_add(terms.grace)
        .unwrap_or(SignedDuration::MAX);
    let fell_from = last.partition_point(|at| *at < begin);
    let fell_to = last.partition_point(|at| *at <= silent_until);
    (fell_from..fell_to)
        .filter_map(|first| {
            let end = last[first]
                .saturating_add(together)
                .unwrap_or(Timestamp::MAX);
            let silent = last[first..fell_to].partition_point(|at| *at <= end);
            let of = last.len() - first;
            let too_many = silent * 100 > of * usize::from(terms.amnesty_percent);
            too_many.then_some(Amnesty {
                silent,
                of,
                since: last[first],
            })
        })
        .max_by_key(|amnesty| amnesty.silent)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn of(heartbeats: &[i64], now: i64) -> Option<(usize, usize)> {
        let heartbeats: Vec<_> = heartbeats.iter().map(|second| at(*second)).collect();
        amnesty(&heartbeats, &Terms::default(), at(now)).map(|found| (found.silent, found.of))
    }

    #[test]
    fn more_than_half_of_the_nodes_falling_silent_together_is_an_amnesty() {
        for (heartbeats, now, expected) in [
            // One of two, and two of four: each may well have died by itself.
            (&[0, 95][..], 100, None),
            (&[0, 5, 95, 96], 100, None),
            (&[0, 5, 9, 95], 100, Some((3, 4))),
            // The operator hears of nobody.
            (&[0, 1], 100, Some((2, 2))),
            (&[0], 100, Some((1, 1))),
            (&[], 100, None),
            // A third of a fleet: a zone.
            (&[0, 3, 7, 91, 92, 93, 94, 95, 96], 100, None),
        ] {
            assert_eq!(of(heartbeats, now), expected, "{heartbeats:?}");
        }
    }

    #[test]
    fn nodes_that_died_one_after_the_other_are_no_amnesty() {
        assert_eq!(of(&[0, 100, 200, 295, 296], 300), None);
        // Nor do those that died before keep the others from one.
        assert_eq!(of(&[0, 100, 205, 206, 207, 294], 300), Some((3, 4)));
    }

    #[test]
    fn an_amnesty_ends_when_nodes_come_back_or_after_its_time() {
        assert_eq!(of(&[0, 1, 2, 95], 100), Some((3, 4)));
        assert_eq!(of(&[95, 96, 2, 95], 100), None);
        assert_eq!(of(&[0, 1, 2, 899], 900), Some((3, 4)));
        assert_eq!(of(&[0, 1, 2, 902], 903), None);
    }

    #[test]
    fn it_holds_before_the_first_of_them_could_be_given_up() {
        // The last of them was heard of 10 s after the first, and is silent at 40; the first would be lost at 60.
        assert_eq!(of(&[0, 10, 39], 40), Some((2, 3)));
    }

    proptest! {
        #[test]
        fn a_node_more_that_answers_never_makes_an_amnesty(
            heartbeats in prop::collection::vec(0_i64..1000, 0..12), now in 900_i64..1000,
        ) {
            let before = of(&heartbeats, now);
            let mut more = heartbeats.clone();
            more.push(now);
            if before.is_none() {
                prop_assert_eq!(of(&more, now), None);
            }
        }

        #[test]
        fn what_counts_as_silent_is_silent(heartbeats in prop::collection::vec(0_i64..1000, 0..12), now in 900_i64..1000) {
            let silent = heartbeats.iter().filter(|at| now - **at >= 30 && now - **at <= 900).count();
            if let Some((found, all)) = of(&heartbeats, now) {
                prop_assert!(found <= silent && found <= all && all <= heartbeats.len());
            }
        }
    }
}
