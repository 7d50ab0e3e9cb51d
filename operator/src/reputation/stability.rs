//! Version 1 of the stability factor of a node, in integers. Pure.
//!
//! `stability = ⌊uptime × completion ÷ 1000⌋`, each in thousandths over 30 days and over the node's GPUs:
//!
//! * `uptime = 1000 − ⌈1000 × down ÷ watched⌉`, in minutes in which the node should have been up and somebody watched;
//! * `completion = 1000 − ⌈1000 × faults ÷ attempts⌉`, where `faults` are attempts that ended by the host's fault, and `attempts`
//!   are those and the ones that ended well or by the tenant's fault. Of what is nobody's fault nothing is counted.
//!
//! `watched` counts as at least a day for each GPU, and `attempts` as at least 20: a node of which little is known does not lose
//! everything with its first mishap. Without a history both are 1000.
//!
//! Neither ever rises with one more fault or minute down, nor falls with one more attempt or minute that went well.

use gridstake_crds::gpu_node::Stability;

use super::history::Day;

/// The version of the formula.
pub const VERSION: u32 = 1;
/// How a record's `factors.reference` names it.
pub const REFERENCE: &str = "stability/1";
/// What is not known counts as up until so many minutes were watched: a day.
const LEAST_MINUTES: u64 = 1440;
/// … and as ended well until so many attempts have ended.
const LEAST_ATTEMPTS: u64 = 20;
/// Thousandths in one.
const PERMILLE: u64 = 1000;

/// The stability that follows from the last 30 days of a node's GPUs.
#[must_use]
pub fn stability(gpus: &[Day]) -> Stability {
    let uptime = uptime(gpus);
    let completion = completion(gpus);
    Stability {
        permille: uptime * completion / 1000,
        uptime_permille: uptime,
        completion_permille: completion,
        version: VERSION,
    }
}

/// The uptime of these GPUs, in thousandths.
#[must_use]
pub fn uptime(gpus: &[Day]) -> u32 {
    let watched = gpus
        .iter()
        .map(|gpu| u64::from(gpu.watched).max(LEAST_MINUTES))
        .sum();
    let down = gpus
        .iter()
        .map(|gpu| u64::from(gpu.down.min(gpu.watched)))
        .sum();
    less(down, watched)
}

/// The completion of these GPUs, in thousandths.
fn completion(gpus: &[Day]) -> u32 {
    let attempts = gpus
        .iter()
        .map(|gpu| (u64::from(gpu.well) + u64::from(gpu.faults)).max(LEAST_ATTEMPTS))
        .sum();
    let faults = gpus.iter().map(|gpu| u64::from(gpu.faults)).sum();
    less(faults, attempts)
}

/// `1000 − ⌈1000 × bad ÷ all⌉`; 1000 of nothing.
fn less(bad: u64, all: u64) -> u32 {
    let missing = (bad * PERMILLE).div_ceil(all.max(1));
    u32::try_from(PERMILLE.saturating_sub(missing)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn day(watched: u32, down: u32, well: u32, faults: u32) -> Day {
        Day {
            watched,
            down,
            well,
            faults,
        }
    }

    fn of(gpus: &[Day]) -> (u32, u32, u32) {
        let found = stability(gpus);
        (
            found.permille,
            found.uptime_permille,
            found.completion_permille,
        )
    }

    #[test]
    fn factors_equal_the_published_table() {
        for (gpus, expected) in [
            (&[][..], (1000, 1000, 1000)),
            (&[day(0, 0, 0, 0)], (1000, 1000, 1000)),
            (&[day(43_200, 0, 500, 0)], (1000, 1000, 1000)),
            (&[day(43_200, 432, 500, 0)], (990, 990, 1000)),
            // Rounded down: nine minutes of thirty days.
            (&[day(43_200, 9, 500, 0)], (999, 999, 1000)),
            (&[day(43_200, 432, 99, 1)], (980, 990, 990)),
            (&[day(43_200, 43_200, 0, 0)], (0, 0, 1000)),
            // Ten minutes after it came.
            (&[day(10, 10, 0, 0)], (993, 993, 1000)),
            (&[day(0, 0, 0, 1)], (950, 1000, 950)),
            (&[day(0, 0, 0, 20)], (0, 1000, 0)),
            // One of eight is lost for a day.
            (
                &[
                    day(43_200, 1440, 100, 0),
                    day(43_200, 0, 100, 0),
                    day(43_200, 0, 100, 0),
                    day(43_200, 0, 100, 0),
                    day(43_200, 0, 100, 0),
                    day(43_200, 0, 100, 0),
                    day(43_200, 0, 100, 0),
                    day(43_200, 0, 100, 0),
                ],
                (995, 995, 1000),
            ),
        ] {
            assert_eq!(of(gpus), expected, "{gpus:?}");
        }
    }

    prop_compose! {
        fn any_day()(
            watched in 0_u32..50_000, down in 0_u32..50_000, well in 0_u32..5_000, faults in 0_u32..50,
        ) -> Day {
            day(watched, down.min(watched), well, faults)
        }
    }

    proptest! {
        #[test]
        fn one_more_fault_or_minute_down_never_raises_it_and_what_goes_well_never_lowers_it(
            gpus in prop::collection::vec(any_day(), 1..9), which: prop::sample::Index, more in 1_u32..100,
        ) {
            let before = stability(&gpus);
            let which = which.index(gpus.len());
            let with = |change: &dyn Fn(&mut Day)| {
                let mut gpus = gpus.clone();
                change(&mut gpus[which]);
                stability(&gpus).permille
            };
            prop_assert!(with(&|gpu| gpu.faults += more) <= before.permille);
            let down_for_longer = with(&|gpu| {
                gpu.watched += more;
                gpu.down += more;
            });
            prop_assert!(down_for_longer <= before.permille);
            prop_assert!(with(&|gpu| gpu.down = (gpu.down + more).min(gpu.watched)) <= before.permille);
            prop_assert!(with(&|gpu| gpu.well += more) >= before.permille);
            prop_assert!(with(&|gpu| gpu.watched += more) >= before.permille);
            prop_assert!(before.permille <= 1000);
        }
    }
}
