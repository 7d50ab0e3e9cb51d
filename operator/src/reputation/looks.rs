//! What was seen of a shard's GPUs in which minutes, until it is written. Pure.
//!
//! What is to be written stays as it is, with the minutes that it covers, until it is known to stand: whether a write whose answer
//! was lost took place is seen by the last minute that the shard has. What is seen meanwhile begins anew.

use std::collections::{BTreeMap, VecDeque};

use super::{history::Day, key::GpuKey};

/// How much may wait to be written: after that the oldest is lost, and nobody watched then.
const MOST_WAITING: usize = 32;
/// Minutes of a day.
const DAY_MINUTES: u64 = 1440;

/// What was seen in a span of minutes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Looks {
    /// The first minute, since 1970.
    pub from: u64,
    /// The last one.
    pub to: u64,
    /// By GPU and day.
    pub seen: BTreeMap<GpuKey, BTreeMap<u32, Day>>,
}

/// What waits to be written for one shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    offered: VecDeque<Looks>,
    open: Option<Looks>,
}

/// The day in which a minute since 1970 lies.
fn day_of(minute: u64) -> u32 {
    u32::try_from(minute / DAY_MINUTES).unwrap_or(u32::MAX)
}

impl Waiting {
    /// Takes note that `key` was up, or not, in `minute`.
    pub fn see(&mut self, minute: u64, key: GpuKey, up: bool) {
        let looks = self.open.get_or_insert_with(|| Looks {
            from: minute,
            ..Looks::default()
        });
        looks.to = minute;
        let days = looks.seen.entry(key).or_default();
        let day = days.entry(day_of(minute)).or_default();
        *day = day.plus(Day {
            watched: 1,
            down: u32::from(!up),
            ..Day::default()
        });
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.offered.is_empty() && self.open.is_none()
    }

    /// Whether a GPU was not up in one of the minutes that wait.
    #[must_use]
    pub fn has_news(&self) -> bool {
        let all = self.offered.iter().chain(&self.open);
        all.flat_map(|looks| looks.seen.values())
            .flat_map(BTreeMap::values)
            .any(|day| day.down > 0)
    }

    /// What is to be written now. It is offered again until [`written`](Self::written) is called.
    pub fn offer(&mut self) -> impl Iterator<Item = &Looks> {
        self.offered.extend(self.open.take());
        while self.offered.len() > MOST_WAITING {
            self.offered.pop_front();
        }
        self.offered.iter()
    }

    /// What was offered is written.
    pub fn written(&mut self) {
        self.offered.clear();
    }
}
