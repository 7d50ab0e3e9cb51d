//! Batches that may have been signed and that the log does not hold: after the API server was restored from a backup, what was
//! sent before may be mined at any time, and nobody knows which slices it pays.
//!
//! That a restore may have been is known by the [leader's lease](crate::leader::lapse), or by a chain that is ahead of the log.
//! From then on no slice that began before is sealed until nothing of then can be mined any more. That is so as soon as a
//! batch is final that was built since: what was lost rests on another batch with its number. Where nothing is to be paid, an
//! inventory is stated once more to make such a batch. Without one, what was signed then has to expire by a final block.

use std::time::Duration;

use gridstake_crds::{
    SettlementBatch, UsageRecord, names::LABEL_RESTORED, settlement_batch::BatchState,
};
use kube::ResourceExt as _;
use serde::{Deserialize, Serialize};

use super::{
    decide::{self, Plan},
    run::{PassError, Settler},
};
use crate::{
    caches::parsed,
    chain::ChainView,
    controllers::usage_record::numbers::{Numbers, NumbersError},
    lane_counters::{CountersError, LaneCounters},
    leader::Lapse,
};

/// The key of the lane's ConfigMap.
const KEY: &str = "lapse";
/// Room for clocks that differ, and for a view of the chain that lags behind.
const SLACK: Duration = Duration::from_hours(1);
/// How many numbers may have been given out in a second, at most: a multiple of what the operator can seal.
const NUMBERS_A_SECOND: u64 = 256;
/// For no longer than this numbers are left out: a lane has enough for a hundred such spans.
const LONGEST: Duration = Duration::from_hours(24 * 365);

/// Why it is not known whether batches may have been lost.
#[derive(Debug, thiserror::Error)]
pub enum LapseError {
    /// The ConfigMap was not read or written.
    #[error("note what may have been lost")]
    Counters(#[from] CountersError),
    /// Numbers that may have been given out were not used up.
    #[error("raise the counter of job numbers")]
    Numbers(#[from] NumbersError),
    /// Somebody has written something else into the ConfigMap.
    #[error("read ConfigMap {name}: data.{KEY} is {found:?}; remove it to hold nothing back")]
    Unreadable {
        /// The ConfigMap.
        name: String,
        /// What stands there.
        found: String,
    },
}

impl LapseError {
    /// A static word for metrics.
    #[must_use]
    pub fn category(&self) -> &'static str {
        match self {
            Self::Counters(_) => "note_lapse",
            Self::Numbers(error) => error.category(),
            Self::Unreadable { .. } => "lapse_unreadable",
        }
    }
}

/// What is known of a span of which batches may be missing. It stands in the lane's ConfigMap, so that it outlives the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mark {
    /// When it was found, in Unix milliseconds: slices that began later are in no batch that was lost.
    pub until_ms: u64,
    /// How long it is, in seconds.
    pub seconds: u64,
    /// The highest number that a batch of the log had when log and chain were first seen to agree after it; `None` before
    /// that. What was lost has higher numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub above_batch: Option<u64>,
    /// When everything that was signed in it has expired, in seconds of Unix time on the chain's clock; `None` before log and
    /// chain agreed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed_until: Option<u64>,
    /// Nothing of it can be mined any more.
    #[serde(default)]
    pub is_over: bool,
}

/// What the controllers are told of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Noted {
    /// When the newest lapse was found, in Unix milliseconds; 0 if there was none.
    pub until_ms: u64,
    /// Nothing of it can be mined any more.
    pub is_over: bool,
}

impl Noted {
    /// Slices that began before this may be in a batch that was lost and can still be mined, in Unix milliseconds.
    #[must_use]
    pub fn holds_before(self) -> Option<u64> {
        (!self.is_over && self.until_ms > 0).then_some(self.until_ms)
    }
}

/// A batch as far as it ends a lapse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settled {
    /// Its number.
    pub sequence: u64,
    /// Whether it is final.
    pub is_final: bool,
    /// Whether it was taken over from the chain: then it may be one of those that were lost.
    pub is_restored: bool,
}

impl Mark {
    /// The mark after a lapse that was found at `until_ms` and is `seconds` long, where `before` stood; `None` if that one
    /// tells of it already.
    #[must_use]
    pub fn after(before: Option<&Self>, until_ms: u64, seconds: u64) -> Option<Self> {
        if before.is_some_and(|before| before.until_ms >= until_ms) {
            return None;
        }
        // What was lost before may still be mined: it is as old as it was, and a bit more.
        let still = before.filter(|before| !before.is_over).map_or(0, |before| {
            before
                .seconds
                .saturating_add((until_ms - before.until_ms).div_ceil(1000))
        });
        Some(Self {
            until_ms,
            seconds: seconds.max(still),
            above_batch: None,
            signed_until: None,
            is_over: false,
        })
    }

    /// Log and chain agree, whose newest block is of `head_at`, and the log's highest number is `newest`.
    #[must_use]
    pub fn agreed(self, newest: u64, head_at: u64, authorization: Duration) -> Self {
        let span = Duration::from_secs(self.seconds).saturating_add(SLACK);
        let lasting = longest_signature(authorization, span).saturating_add(SLACK);
        Self {
            above_batch: Some(newest),
            signed_until: Some(head_at.saturating_add(lasting.as_secs())),
            ..self
        }
    }

    /// Whether nothing can be mined any more that was lost, by `batches` of the log and the clock of a final block.
    #[must_use]
    pub fn ends(&self, batches: &[Settled], finalized_at: u64) -> bool {
        let Some(above) = self.above_batch else {
            return false;
        };
        // What was lost follows from another batch with this number, or from one before it.
        let takes_its_place =
            |batch: &Settled| batch.is_final && !batch.is_restored && batch.sequence > above;
        batches.iter().any(takes_its_place)
            || self.signed_until.is_some_and(|until| until < finalized_at)
    }

    const fn noted(&self) -> Noted {
        Noted {
            until_ms: self.until_ms,
            is_over: self.is_over,
        }
    }
}

/// How long after a span at most something is in force that was first signed in it: each new signature of a batch lasts twice
/// as long as the one before it, and is made when that one is about to end ([`decide::authorize`]).
#[must_use]
pub fn longest_signature(authorization: Duration, span: Duration) -> Duration {
    let margin = decide::renewal_margin(authorization);
    let (mut at, mut lasting) = (Duration::ZERO, authorization);
    for _ in 1..decide::MOST_AUTHORIZATIONS {
        let next = at.saturating_add(lasting.saturating_sub(margin));
        if next > span {
            break;
        }
        at = next;
        lasting = lasting.saturating_mul(2);
    }
    lasting
}

fn settled(batch: &SettlementBatch, plan: &Plan) -> Settled {
    let sequence = batch.spec.sequence;
    let status = batch.status.as_ref().and_then(|status| status.state);
    let planned = plan.states.get(&sequence).copied();
    Settled {
        sequence,
        is_final: planned.or(status) == Some(BatchState::Final),
        is_restored: batch.labels().contains_key(LABEL_RESTORED),
    }
}

/// What is remembered of the mark.
#[derive(Clone, Debug, Default)]
pub(super) struct Memory {
    /// Whether the ConfigMap was read.
    is_read: bool,
    mark: Option<Mark>,
}

impl Memory {
    /// What the controllers are told.
    pub(super) fn noted(&self) -> Noted {
        self.mark.map_or_else(Noted::default, |mark| mark.noted())
    }
}

impl Settler {
    fn lapse_counters(&self) -> LaneCounters {
        LaneCounters::new(
            self.context.client.clone(),
            &self.context.namespace,
            self.lane.chain().config().lane,
        )
    }

    /// Writes down a lapse that the leader's lease tells of.
    pub(super) async fn note_lapse(&mut self) -> Result<(), LapseError> {
        let counters = self.lapse_counters();
        if !self.lapse.is_read {
            let found = counters.get(KEY).await?;
            self.lapse.mark = found.map(|text| read(counters.name(), &text)).transpose()?;
            self.lapse.is_read = true;
        }
        match self.context.leadership.lapse() {
            Some(lapse) => self.lost(until_ms(lapse), lapse.length().as_secs()).await,
            None => Ok(()),
        }
    }

    /// Of the last `seconds` before `until_ms` batches may be missing in the log, and numbers in their counter.
    pub(super) async fn lost(&mut self, until_ms: u64, seconds: u64) -> Result<(), LapseError> {
        let Some(mark) = Mark::after(self.lapse.mark.as_ref(), until_ms, seconds) else {
            return Ok(());
        };
        // Of two slices with one number the chain pays the one that is mined first, and the other one never.
        Numbers::new(
            self.context.client.clone(),
            &self.context.namespace,
            self.lane.chain().config().lane,
        )
        .leap((mark.seconds.min(LONGEST.as_secs()) + 1) * NUMBERS_A_SECOND)
        .await?;
        self.remember(mark).await?;
        tracing::warn!(
            chain = self.lane.chain().name(),
            seconds = mark.seconds,
            "batches of this span may have been lost: slices that began before are not sealed until nothing of it can be mined any more"
        );
        Ok(())
    }

    async fn remember(&mut self, mark: Mark) -> Result<(), LapseError> {
        let counters = self.lapse_counters();
        let text = serde_json::to_string(&mark).unwrap_or_default();
        counters
            .change(KEY, |_| Ok::<_, LapseError>(((), Some(text.clone()))))
            .await?;
        self.lapse.mark = Some(mark);
        // What the controllers were told is not so any more.
        self.doubts_at = None;
        self.mark_busy();
        Ok(())
    }

    /// Looks whether what may have been lost can still be mined. The chain is as the log says, and `log` holds every batch
    /// that is not final and the lane's last one.
    pub(super) async fn look_at_lapse(
        &mut self,
        log: &[SettlementBatch],
        plan: &Plan,
        view: &ChainView,
    ) -> Result<(), PassError> {
        let Some(mark) = self.lapse.mark.filter(|mark| !mark.is_over) else {
            self.metrics.lapse.set(0);
            return Ok(());
        };
        self.metrics.lapse.set(1);
        let batches: Vec<Settled> = log.iter().map(|batch| settled(batch, plan)).collect();
        let newest = batches
            .iter()
            .map(|batch| batch.sequence)
            .max()
            .unwrap_or(0);
        let Some(above) = mark.above_batch else {
            let authorization = self.lane.chain().config().authorization;
            let agreed = mark.agreed(newest, view.head.timestamp, authorization);
            self.remember(agreed).await?;
            return Ok(());
        };
        if mark.ends(&batches, view.finalized.timestamp) {
            self.lane.statements().repeat_one(false);
            self.remember(Mark {
                is_over: true,
                ..mark
            })
            .await?;
            self.metrics.lapse.set(0);
            tracing::info!(
                chain = self.lane.chain().name(),
                "nothing that may have been lost can be mined any more"
            );
            return Ok(());
        }
        let waits = newest <= above && self.has_open_slices_of_before(mark.until_ms);
        self.lane.statements().repeat_one(waits);
        Ok(())
    }

    /// Whether a slice of this lane is open that began before this time, in Unix milliseconds.
    fn has_open_slices_of_before(&self, until_ms: u64) -> bool {
        let records = self.context.caches.usage_records.state();
        let config = self.lane.chain().config();
        let waits = |record: &UsageRecord| {
            let is_open = record.status.as_ref().is_none_or(|s| s.sealed.is_none());
            is_open && config.owes(record) && began_before(record, until_ms)
        };
        parsed(&records).any(waits)
    }
}

/// Whether the slice may have begun before this time: the next ones begin where the one before ended, and the first one after it
/// was opened.
fn began_before(record: &UsageRecord, until_ms: u64) -> bool {
    let opened = record
        .creation_timestamp()
        .and_then(|at| u64::try_from(at.0.as_millisecond()).ok());
    record
        .spec
        .from_ms
        .or(opened)
        .is_none_or(|at| at < until_ms)
}

fn read(name: &str, text: &str) -> Result<Mark, LapseError> {
    serde_json::from_str(text).map_err(|_| LapseError::Unreadable {
        name: name.to_owned(),
        found: text.to_owned(),
    })
}

/// When `lapse` was found, in Unix milliseconds.
#[must_use]
pub fn until_ms(lapse: Lapse) -> u64 {
    u64::try_from(lapse.until.as_millisecond()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    fn mark() -> Mark {
        Mark::after(None, 10_000, 60).unwrap()
    }

    fn batch(sequence: u64) -> Settled {
        Settled {
            sequence,
            is_final: true,
            is_restored: false,
        }
    }

    #[test]
    fn a_lapse_is_noted_once_and_a_later_one_reaches_back_to_what_is_not_over() {
        let first = mark();
        assert_eq!((first.until_ms, first.seconds), (10_000, 60));
        for known in [9000, 10_000] {
            assert_eq!(Mark::after(Some(&first), known, 60), None);
        }
        let known = first.agreed(7, 100, HOUR);
        let second = Mark::after(Some(&known), 30_500, 5).unwrap();
        assert_eq!((second.until_ms, second.seconds), (30_500, 60 + 21));
        assert_eq!((second.above_batch, second.signed_until), (None, None));
        let over = Mark {
            is_over: true,
            ..known
        };
        assert_eq!(Mark::after(Some(&over), 30_500, 5).unwrap().seconds, 5);
        assert_eq!(Mark::after(Some(&known), 30_500, 500).unwrap().seconds, 500);
    }

    #[test]
    fn what_may_have_been_lost_ends_with_a_final_batch_that_was_built_since_or_with_the_last_signature()
     {
        let agreed = mark().agreed(7, 1_000_000, 6 * HOUR);
        let until = agreed.signed_until.unwrap();
        assert_eq!(until, 1_000_000 + 7 * 3600);
        for (batches, finalized_at, expected) in [
            (vec![], 0, false),
            (vec![], until, false),
            (vec![], until + 1, true),
            // It was in the log before; it is not final; it may be one of those that were lost.
            (vec![batch(6), batch(7)], 0, false),
            (
                vec![Settled {
                    is_final: false,
                    ..batch(8)
                }],
                0,
                false,
            ),
            (
                vec![Settled {
                    is_restored: true,
                    ..batch(8)
                }],
                0,
                false,
            ),
            (vec![batch(7), batch(8)], 0, true),
            (vec![batch(12)], 0, true),
        ] {
            assert_eq!(
                agreed.ends(&batches, finalized_at),
                expected,
                "{batches:?} {finalized_at}"
            );
            // While log and chain do not agree nobody knows which batches were lost.
            assert!(!mark().ends(&batches, finalized_at));
        }
    }

    #[test]
    fn a_signature_lasts_for_as_long_as_it_could_have_been_renewed_in_the_span() {
        let hours = Duration::from_hours;
        for (span, expected) in [
            (hours(0), 6),
            (hours(4), 6),
            // Signed for 6 hours, again after 5 for 12, again after 16 for 24, again after 39 for 48.
            (hours(5), 12),
            (hours(15), 12),
            (hours(16), 24),
            (hours(38), 24),
            (hours(39), 48),
        ] {
            assert_eq!(
                longest_signature(hours(6), span),
                hours(expected),
                "{span:?}"
            );
        }
        // Never more often than a batch can be signed.
        let longest = longest_signature(hours(6), Duration::MAX);
        assert_eq!(longest, hours(6 << (decide::MOST_AUTHORIZATIONS - 1)));
    }

    #[test]
    fn the_bound_holds_for_every_way_in_which_a_batch_is_signed_again() {
        let authorization = Duration::from_hours(6);
        for span in (0..400_u64).map(|hours| hours * 3600) {
            let bound = longest_signature(authorization, Duration::from_secs(span)).as_secs();
            for begin in [0, 1800, 7200, 50_000] {
                // Looked at every quarter of an hour.
                let mut signed = Vec::new();
                for at in (begin..=span).step_by(900) {
                    signed.extend(decide::authorize(&signed, at, authorization));
                }
                let last = signed.into_iter().max().unwrap_or(0);
                assert!(last <= span + bound, "{span} {begin}: {last}, {bound}");
            }
        }
    }

    #[test]
    fn the_controllers_are_told_from_when_on_slices_are_sealed() {
        assert_eq!(Noted::default().holds_before(), None);
        let noted = mark().noted();
        assert_eq!(noted.holds_before(), Some(10_000));
        let over = Noted {
            is_over: true,
            ..noted
        };
        assert_eq!(over.holds_before(), None);
    }

    #[test]
    fn a_mark_is_read_as_it_was_written() {
        for mark in [mark(), mark().agreed(7, 100, HOUR)] {
            let text = serde_json::to_string(&mark).unwrap();
            assert_eq!(read("lane-7-numbers", &text).unwrap(), mark);
        }
        assert!(matches!(
            read("lane-7-numbers", "yes"),
            Err(LapseError::Unreadable { .. })
        ));
    }
}
