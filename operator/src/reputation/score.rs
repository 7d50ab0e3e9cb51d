//! Version 1 of the reputation of a GPU, in integers. Pure.
//!
//! `score = clamp(base + experience − incidents − gaps, 0, 1000)`, where
//!
//! * `base` is 500: what is not known is neither good nor bad;
//! * `experience` grows with the time that the GPU served jobs without a fault of its host, in steps that grow ever longer
//!   ([`STEPS`]), up to 500;
//! * `incidents` is what its Incidents of the last 30 days weigh; each weighs less by the second and nothing after 30 days;
//! * `gaps` is one for each thousandth that is missing of its uptime in 30 days.
//!
//! What can happen to honest hardware (downtime, gaps, a result that others did not get) takes 450 at most: a GPU of which that is
//! all that is known can still be drawn, if rarely, and so can mend its reputation. What is signed and cannot be true has no such
//! limit.
//!
//! The score never falls with more time served, and never rises with one more incident, a younger one, or a lower uptime.

use gridstake_crds::{gpu_node::ReputationTerms, incident::Offence};

/// The version of the formula. Whoever changes a number below makes a new one.
pub const VERSION: u32 = 1;
/// What a GPU begins with, of which nothing is known.
pub const BASE: u32 = 500;
/// The highest score.
pub const HIGHEST: u32 = 1000;
/// For how many seconds an incident counts: 30 days, as in the ladder of sanctions.
pub const MEMORY_SECONDS: u64 = 30 * 24 * 3600;
/// What incidents that can happen to honest hardware take at most.
pub const MISHAPS_MOST: u32 = 300;
/// What gaps take at most.
pub const GAPS_MOST: u32 = 150;

/// GPU-seconds served, and what they are worth; in between it grows evenly. The first run says most: it shows that the GPU works
/// at all. Then a day, a week, a month, a quarter and half a year of work are worth a hundred each.
const STEPS: [(u64, u32); 7] = [
    (0, 0),
    (600, 10),
    (86_400, 100),
    (7 * 86_400, 200),
    (30 * 86_400, 300),
    (90 * 86_400, 400),
    (180 * 86_400, 500),
];

/// An Incident that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blame {
    /// What happened.
    pub offence: Offence,
    /// How long ago, in seconds.
    pub age_seconds: u64,
}

/// All that a score follows from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inputs {
    /// GPU-milliseconds that it served without a fault of its host.
    pub served_millis: u64,
    /// Its Incidents.
    pub blames: Vec<Blame>,
    /// Its uptime in 30 days, in thousandths.
    pub uptime_permille: u32,
}

/// A score and its terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The score, 0 to 1000.
    pub score: u32,
    /// What every GPU has.
    pub base: u32,
    /// What is added for the time that it served.
    pub experience: u32,
    /// What is taken off for incidents.
    pub incidents: u32,
    /// What is taken off for gaps.
    pub gaps: u32,
    /// The time served, in whole GPU-hours.
    pub gpu_hours: u64,
}

/// What an incident weighs on the day on which it happens.
#[must_use]
pub const fn weight(offence: Offence) -> u32 {
    match offence {
        Offence::DowntimeDuringJob => 60,
        Offence::InvalidResult => 100,
        Offence::FalseInventory | Offence::ImpossibleUsage => 400,
    }
}

/// Whether it can happen to honest hardware: it breaks, and it calculates wrong. Nobody signs by mistake what cannot be true.
const fn is_mishap(offence: Offence) -> bool {
    matches!(offence, Offence::DowntimeDuringJob | Offence::InvalidResult)
}

/// The score that follows from `inputs`.
#[must_use]
pub fn score(inputs: &Inputs) -> Terms {
    let experience = experience(inputs.served_millis);
    let incidents = incidents(&inputs.blames);
    let gaps = HIGHEST
        .saturating_sub(inputs.uptime_permille)
        .min(GAPS_MOST);
    Terms {
        score: (BASE + experience)
            .saturating_sub(incidents)
            .saturating_sub(gaps)
            .min(HIGHEST),
        base: BASE,
        experience,
        incidents,
        gaps,
        gpu_hours: inputs.served_millis / 3_600_000,
    }
}

/// What the time served is worth, rounded down.
#[must_use]
pub fn experience(served_millis: u64) -> u32 {
    let mut worth = 0;
    for pair in STEPS.windows(2) {
        let [(from, least), (to, most)] = pair else {
            continue;
        };
        let (from, to) = (from * 1000, to * 1000);
        let part = served_millis.clamp(from, to) - from;
        // At most 500 · 1.6 · 10^10.
        let gained = part * u64::from(most - least) / (to - from);
        worth += u32::try_from(gained).unwrap_or(0);
    }
    worth
}

/// What incidents take, rounded up: one that counts at all takes at least one.
#[must_use]
pub fn incidents(blames: &[Blame]) -> u32 {
    let taken = |mishaps: bool| {
        let weighed: u64 = blames
            .iter()
            .filter(|blame| is_mishap(blame.offence) == mishaps)
            .map(|blame| {
                let left = MEMORY_SECONDS.saturating_sub(blame.age_seconds);
                u64::from(weight(blame.offence)) * left
            })
            .fold(0, u64::saturating_add);
        u32::try_from(weighed.div_ceil(MEMORY_SECONDS)).unwrap_or(u32::MAX)
    };
    taken(true)
        .min(MISHAPS_MOST)
        .saturating_add(taken(false))
        .min(HIGHEST)
}

impl Terms {
    /// As they stand in the status of a GpuNode, for the GPU `uuid`.
    #[must_use]
    pub fn of(self, uuid: &str) -> ReputationTerms {
        ReputationTerms {
            uuid: uuid.to_owned(),
            score: self.score,
            base: self.base,
            experience: self.experience,
            incidents: self.incidents,
            gaps: self.gaps,
            gpu_hours: self.gpu_hours,
            version: VERSION,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY: u64 = 86_400;
    const SPOTLESS: u32 = 1000;

    fn inputs(served_seconds: u64, blames: &[Blame], uptime_permille: u32) -> Inputs {
        Inputs {
            served_millis: served_seconds * 1000,
            blames: blames.to_vec(),
            uptime_permille,
        }
    }

    fn downtime(days_ago: u64) -> Blame {
        Blame {
            offence: Offence::DowntimeDuringJob,
            age_seconds: days_ago * DAY,
        }
    }

    fn wrong(days_ago: u64) -> Blame {
        Blame {
            offence: Offence::InvalidResult,
            age_seconds: days_ago * DAY,
        }
    }

    fn lie(days_ago: u64) -> Blame {
        Blame {
            offence: Offence::ImpossibleUsage,
            age_seconds: days_ago * DAY,
        }
    }

    #[test]
    fn scores_equal_the_published_table() {
        for (served, blames, uptime, expected) in [
            (0, &[][..], SPOTLESS, 500),
            (60, &[], SPOTLESS, 501),
            (600, &[], SPOTLESS, 510),
            (DAY, &[], SPOTLESS, 600),
            (7 * DAY, &[], SPOTLESS, 700),
            (30 * DAY, &[], SPOTLESS, 800),
            (90 * DAY, &[], SPOTLESS, 900),
            (180 * DAY, &[], SPOTLESS, 1000),
            (10_000 * DAY, &[], SPOTLESS, 1000),
            (0, &[downtime(0)], SPOTLESS, 440),
            (0, &[downtime(15)], SPOTLESS, 470),
            (0, &[downtime(29)], SPOTLESS, 498),
            (0, &[downtime(30)], SPOTLESS, 500),
            (0, &[], 990, 490),
            (0, &[wrong(0)], SPOTLESS, 400),
            (0, &[wrong(0), downtime(0), wrong(15)], SPOTLESS, 290),
            (0, &[lie(0)], SPOTLESS, 100),
            (0, &[lie(0), lie(0)], SPOTLESS, 0),
            (180 * DAY, &[lie(0)], SPOTLESS, 600),
            // The example of docs/reputation.md.
            (10 * DAY, &[downtime(10)], 993, 666),
        ] {
            let terms = score(&inputs(served, blames, uptime));
            assert_eq!(
                terms.score, expected,
                "{served} {blames:?} {uptime}: {terms:?}"
            );
        }
    }

    #[test]
    fn what_can_happen_to_honest_hardware_never_takes_the_last_chance_from_a_newcomer() {
        let mishaps = [downtime(0), wrong(0)].repeat(99);
        let worst = score(&inputs(0, &mishaps, 0));
        assert_eq!(
            (worst.score, worst.incidents, worst.gaps),
            (50, MISHAPS_MOST, GAPS_MOST)
        );
    }

    #[test]
    fn each_step_of_experience_is_longer_than_the_one_before_for_as_much() {
        let slopes: Vec<u64> = STEPS
            .windows(2)
            .map(|pair| (pair[1].0 - pair[0].0) / u64::from(pair[1].1 - pair[0].1))
            .collect();
        assert!(
            slopes.windows(2).all(|pair| pair[0] < pair[1]),
            "{slopes:?}"
        );
    }

    fn offence() -> impl Strategy<Value = Offence> {
        prop::sample::select(vec![
            Offence::DowntimeDuringJob,
            Offence::FalseInventory,
            Offence::ImpossibleUsage,
            Offence::InvalidResult,
        ])
    }

    fn blame() -> impl Strategy<Value = Blame> {
        (offence(), 0_u64..40 * DAY).prop_map(|(offence, age_seconds)| Blame {
            offence,
            age_seconds,
        })
    }

    prop_compose! {
        fn any_inputs()(
            served_millis in prop_oneof![0_u64..1_000_000, 0..200 * DAY * 1000, any::<u64>()],
            blames in prop::collection::vec(blame(), 0..8),
            uptime_permille in 0_u32..=1000,
        ) -> Inputs {
            Inputs { served_millis, blames, uptime_permille }
        }
    }

    proptest! {
        #[test]
        fn the_score_is_the_sum_of_its_terms_and_within_its_bounds(inputs in any_inputs()) {
            let terms = score(&inputs);
            let sum = i64::from(terms.base + terms.experience) - i64::from(terms.incidents) - i64::from(terms.gaps);
            prop_assert_eq!(i64::from(terms.score), sum.clamp(0, 1000));
            prop_assert!(terms.experience <= 500 && terms.gaps <= GAPS_MOST && terms.incidents <= 1000);
        }

        #[test]
        fn more_time_served_never_lowers_the_score(inputs in any_inputs(), more: u64) {
            let mut better = inputs.clone();
            better.served_millis = inputs.served_millis.saturating_add(more);
            prop_assert!(score(&better).score >= score(&inputs).score);
        }

        #[test]
        fn one_more_incident_never_raises_it(inputs in any_inputs(), blame in blame()) {
            let mut worse = inputs.clone();
            worse.blames.push(blame);
            prop_assert!(score(&worse).score <= score(&inputs).score);
        }

        #[test]
        fn an_incident_weighs_less_the_older_it_is_and_in_the_end_nothing(inputs in any_inputs(), passes in 0_u64..40 * DAY) {
            let mut later = inputs.clone();
            for blame in &mut later.blames {
                blame.age_seconds += passes;
            }
            prop_assert!(score(&later).score >= score(&inputs).score);
            for blame in &mut later.blames {
                blame.age_seconds += MEMORY_SECONDS;
            }
            prop_assert_eq!(score(&later).incidents, 0);
        }

        #[test]
        fn a_higher_uptime_never_lowers_it(inputs in any_inputs(), more in 0_u32..1000) {
            let mut better = inputs.clone();
            better.uptime_permille = (inputs.uptime_permille + more).min(1000);
            prop_assert!(score(&better).score >= score(&inputs).score);
        }
    }
}
