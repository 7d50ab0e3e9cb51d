//! What jobs have held, for their payers' shares; and the text in which it is kept. Pure.
//!
//! The text is the `data` of one ConfigMap: `format`, `minute` (up to whose begin, since 1970, it is booked) and
//! `payers`, a line for each: `<payer> <GPU-milliseconds>`. Use that only fades is not written anew: what it is now
//! follows from the minute.

use std::{collections::BTreeMap, fmt::Write as _};

use gridstake_crds::ComputeJob;
use k8s_openapi::jiff::Timestamp;

use super::decide::gpus;
use crate::scheduler::fair_share::{Holding, MOST_PAYERS, Payer, Usage};

/// The version of the text.
const FORMAT: &str = "1";
/// A replica's clock may be behind that of another one by so many minutes.
const CLOCKS_DIFFER: u64 = 10;

/// The GPU-milliseconds that `job` held from `from` to `to`, both in milliseconds since 1970: by the attempt in
/// progress, and by those that have ended as far as the status still shows them.
#[must_use]
pub fn held_between(job: &ComputeJob, from: u64, to: u64) -> u64 {
    let Some(status) = &job.status else {
        return 0;
    };
    let overlap = |begin: Timestamp, end: u64| {
        let begin = millis(begin).max(from);
        end.min(to).saturating_sub(begin)
    };
    let newest = status.placement.as_ref();
    let ended = status.attempts.iter().map(|attempt| {
        // Only the newest placement is known; an attempt before it counts from when it ran.
        let placed = newest
            .filter(|placement| placement.attempt == attempt.attempt)
            .map(|placement| placement.decided_at.0);
        let begin = placed.or_else(|| attempt.started_at.as_ref().map(|t| t.0));
        begin.map_or(0, |begin| overlap(begin, millis(attempt.ended_at.0)))
    });
    let active = status
        .active_placement()
        .map(|placement| overlap(placement.decided_at.0, to));
    ended
        .chain(active)
        .fold(0, u64::saturating_add)
        .saturating_mul(gpus(job))
}

/// How the attempt in progress of `job` counts against the share of `payer`, if there is one.
#[must_use]
pub fn holding(job: &ComputeJob, payer: Payer) -> Option<Holding> {
    let placement = job.status.as_ref()?.active_placement()?;
    Some(Holding {
        payer,
        gpus: gpus(job),
        since_millis: millis(placement.decided_at.0),
    })
}

/// `at` in milliseconds since 1970.
#[must_use]
pub fn millis(at: Timestamp) -> u64 {
    u64::try_from(at.as_millisecond()).unwrap_or(0)
}

/// The text cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("data.{field} {problem}; restore it, or delete the ConfigMap to let all payers begin anew")]
pub struct Unreadable {
    field: &'static str,
    problem: String,
}

/// As the `data` of a ConfigMap.
#[must_use]
pub fn data(usage: &Usage) -> BTreeMap<String, String> {
    let mut payers = String::new();
    for (payer, used) in usage.payers() {
        let _ = writeln!(payers, "{payer} {used}");
    }
    [
        ("format", FORMAT.to_owned()),
        ("minute", usage.minute().to_string()),
        ("payers", payers),
    ]
    .into_iter()
    .map(|(field, text)| (field.to_owned(), text))
    .collect()
}

/// Reads, in `now`, a minute since 1970, what [`data`] has written.
///
/// # Errors
/// When it is anything else.
pub fn read(data: &BTreeMap<String, String>, now: u64) -> Result<Usage, Unreadable> {
    let text = |field: &str| data.get(field).map(String::as_str).unwrap_or_default();
    let wrong = |field, problem| Unreadable { field, problem };
    if text("format") != FORMAT {
        let problem = format!(
            "is {:?}, and this version knows {FORMAT:?} only",
            text("format")
        );
        return Err(wrong("format", problem));
    }
    let minute: u64 = text("minute").parse().map_err(|_| {
        let problem = format!("is {:?} and should be a number", text("minute"));
        wrong("minute", problem)
    })?;
    if minute > now.saturating_add(CLOCKS_DIFFER) {
        let problem = format!("is {minute}, and it is minute {now} since 1970 now");
        return Err(wrong("minute", problem));
    }
    let mut payers = BTreeMap::new();
    for line in text("payers").lines() {
        let entry = line
            .split_once(' ')
            .and_then(|(payer, used)| Some((payer.parse::<Payer>().ok()?, used.parse().ok()?)));
        let (payer, used) = entry.ok_or_else(|| {
            let problem = format!("has the line {line:?}, which is not <payer> <GPU-milliseconds>");
            wrong("payers", problem)
        })?;
        payers.insert(payer, used);
    }
    if payers.len() > MOST_PAYERS {
        let problem = format!("has {} lines; {MOST_PAYERS} is the most", payers.len());
        return Err(wrong("payers", problem));
    }
    Ok(Usage::kept(minute, payers))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A job of 2 members with 2 GPUs each; seconds since 1970 in its status.
    fn job(status: &str) -> ComputeJob {
        let zero = format!("0x{}", "0".repeat(64));
        let decision = format!(
            "decision: {{draw: d, blockHash: '{zero}', previous: '{zero}', hash: '{zero}', snapshot: 1, candidates: 1, totalWeight: '1', drawn: []}}"
        );
        let status = status.replace("DECISION", &decision);
        serde_saphyr::from_str(&format!(
            "{{apiVersion: gridstake.dev/v1alpha1, kind: ComputeJob, metadata: {{name: j}}, spec: {{gpu: {{count: 2}}, members: 2, template: {{}}}}, status: {status}}}"
        ))
        .unwrap()
    }

    const ACTIVE: &str = "{placement: {attempt: 2, nodes: [{member: 0, node: a}], decidedAt: '1970-01-01T00:01:00Z', DECISION}, \
        attempts: [{attempt: 1, nodes: [a], startedAt: '1970-01-01T00:00:10Z', endedAt: '1970-01-01T00:00:40Z', endReason: NodeLost, gpuMillis: 0}]}";
    const ENDED: &str = "{placement: {attempt: 1, nodes: [{member: 0, node: a}], decidedAt: '1970-01-01T00:00:05Z', DECISION}, endReason: Succeeded, \
        attempts: [{attempt: 1, nodes: [a], startedAt: '1970-01-01T00:00:10Z', endedAt: '1970-01-01T00:00:40Z', endReason: Succeeded, gpuMillis: 0}]}";

    #[test]
    fn what_attempts_held_in_a_span_is_counted_for_all_gpus() {
        let held = |status: &str, from: u64, to: u64| {
            held_between(&job(status), from * 1000, to * 1000) / 1000
        };
        assert_eq!(held(ACTIVE, 0, 100), 4 * (30 + 40));
        assert_eq!(held(ACTIVE, 20, 61), 4 * (20 + 1));
        assert_eq!(held(ACTIVE, 40, 60), 0);
        assert_eq!(held(ENDED, 0, 100), 4 * 35, "from its placement");
        assert_eq!(held("{}", 0, 100), 0);
        assert_eq!(held(ACTIVE, 100, 50), 0, "the clock was set back");
    }

    proptest! {
        #[test]
        fn two_spans_in_a_row_count_what_the_whole_does(from in 0_u64..100_000, first in 0_u64..100_000, second in 0_u64..100_000) {
            for status in [ACTIVE, ENDED] {
                let job = job(status);
                let between = from + first;
                let sum = held_between(&job, from, between) + held_between(&job, between, between + second);
                prop_assert_eq!(sum, held_between(&job, from, between + second));
            }
        }

        #[test]
        fn use_is_read_as_it_is_written(minute in any::<u64>(), payers in prop::collection::btree_map("[a-z0-9-]{1,63}", any::<u64>(), 0..9), number in any::<u32>()) {
            let mut payers: BTreeMap<Payer, u64> = payers.into_iter().map(|(name, used)| (Payer::Namespace(name), used)).collect();
            payers.insert(Payer::Account { chain: "base".to_owned(), number }, 7);
            let usage = Usage::kept(minute, payers);
            prop_assert_eq!(read(&data(&usage), minute), Ok(usage));
        }
    }

    #[test]
    fn the_largest_text_fits_into_a_config_map() {
        let name = |n: usize| format!("{n:063}");
        let payers = (0..MOST_PAYERS).map(|n| (Payer::Namespace(name(n)), u64::MAX));
        let text = data(&Usage::kept(u64::MAX, payers.collect()));
        let bytes: usize = text.values().map(String::len).sum();
        assert!(bytes < 512 * 1024, "{bytes}");
    }

    #[test]
    fn what_cannot_be_read_names_the_field() {
        let good = data(&Usage::kept(
            1,
            BTreeMap::from([(Payer::Namespace("a".to_owned()), 5)]),
        ));
        let spoilt = |field: &str, text: &str| {
            let mut data = good.clone();
            data.insert(field.to_owned(), text.to_owned());
            read(&data, 1).unwrap_err().to_string()
        };
        assert!(
            spoilt("format", "2")
                .starts_with("data.format is \"2\", and this version knows \"1\" only")
        );
        assert!(spoilt("minute", "-1").starts_with("data.minute is \"-1\" and should be a number"));
        assert!(spoilt("minute", "12").starts_with("data.minute is 12, and it is minute 1"));
        assert!(
            spoilt("payers", "somebody 5").starts_with("data.payers has the line \"somebody 5\"")
        );
        assert!(read(&BTreeMap::new(), 1).is_err());
    }
}
