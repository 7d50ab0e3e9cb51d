//! The order of waiting jobs.
//!
//! Higher priority first; then the payer with the lowest [rank](Ranks), which is the one that has used least of late;
//! then the older job; then the uid, so that no two jobs are ever equal and the order never depends on how they were
//! listed.
//!
//! A job that is placed counts for its payer at once, so that the next one may be another payer's: a burst of one payer
//! does not go wholly before that of another.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::fair_share::{Payer, Ranks};
use super::request::JobUid;

/// A job that waits for a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueEntry {
    /// Value of the job's PriorityClass; 0 without one.
    pub priority: i32,
    /// Whose share it counts against.
    pub payer: Payer,
    /// How many GPUs all its members take.
    pub gpus: u64,
    /// When the job was created, in milliseconds since 1970 (the API server's word).
    pub created_ms: i64,
    /// The job.
    pub job_uid: JobUid,
}

impl QueueEntry {
    fn age_and_uid(&self) -> (i64, JobUid) {
        (self.created_ms, self.job_uid)
    }
}

/// A payer's place among those with jobs of one priority: its rank, then its oldest job.
type Turn = (u64, (i64, JobUid), Payer);

/// Jobs that wait, from which the next one is taken.
#[derive(Clone, Debug, Default)]
pub struct Queue {
    ranks: Ranks,
    /// By priority, then by payer: its jobs, the oldest first.
    waiting: BTreeMap<Reverse<i32>, BTreeMap<Payer, VecDeque<QueueEntry>>>,
    /// Whose turn it is among the payers of the highest priority.
    turns: BTreeSet<Turn>,
    /// The priority of which `turns` tells.
    at: Option<Reverse<i32>>,
}

impl Queue {
    /// A queue of `entries`, listed in any order.
    #[must_use]
    pub fn new(entries: impl IntoIterator<Item = QueueEntry>, ranks: Ranks) -> Self {
        let mut queue = Self {
            ranks,
            ..Self::default()
        };
        for entry in entries {
            let band = queue.waiting.entry(Reverse(entry.priority)).or_default();
            match band.get_mut(&entry.payer) {
                Some(jobs) => jobs.push_back(entry),
                None => {
                    band.insert(entry.payer.clone(), VecDeque::from([entry]));
                }
            }
        }
        for jobs in queue.waiting.values_mut().flat_map(BTreeMap::values_mut) {
            jobs.make_contiguous()
                .sort_unstable_by_key(QueueEntry::age_and_uid);
        }
        queue
    }

    /// Takes out the job that is served next.
    pub fn next_job(&mut self) -> Option<QueueEntry> {
        loop {
            let (priority, band) = self.waiting.iter_mut().next()?;
            if self.at != Some(*priority) {
                self.at = Some(*priority);
                self.turns = band
                    .iter()
                    .filter_map(|(payer, jobs)| turn(&self.ranks, payer, jobs))
                    .collect();
            }
            let Some((_, _, payer)) = self.turns.pop_first() else {
                self.waiting.pop_first();
                continue;
            };
            let Some(jobs) = band.get_mut(&payer) else {
                continue;
            };
            let next = jobs.pop_front();
            self.turns.extend(turn(&self.ranks, &payer, jobs));
            if next.is_some() {
                return next;
            }
        }
    }

    /// Counts a job that was placed for its payer.
    pub fn charge(&mut self, placed: &QueueEntry) {
        let payer = &placed.payer;
        let jobs = self
            .at
            .and_then(|priority| self.waiting.get(&priority)?.get(payer));
        let before = jobs.and_then(|jobs| turn(&self.ranks, payer, jobs));
        if let Some(before) = before {
            self.turns.remove(&before);
        }
        self.ranks.charge(payer, placed.gpus);
        self.turns
            .extend(jobs.and_then(|jobs| turn(&self.ranks, payer, jobs)));
    }

    /// Everybody's rank, with what was counted since the beginning.
    #[must_use]
    pub fn into_ranks(self) -> Ranks {
        self.ranks
    }

    /// The order in which the jobs are served if each of them gets a place when it is its turn.
    #[must_use]
    pub fn order(mut self) -> Vec<QueueEntry> {
        let mut order = Vec::new();
        while let Some(entry) = self.next_job() {
            self.charge(&entry);
            order.push(entry);
        }
        order
    }
}

fn turn(ranks: &Ranks, payer: &Payer, jobs: &VecDeque<QueueEntry>) -> Option<Turn> {
    let oldest = jobs.front()?;
    Some((ranks.of(payer), oldest.age_and_uid(), payer.clone()))
}

#[cfg(test)]
mod tests;
