//! The order of waiting jobs.
//!
//! Higher priority first; then the payer that has used least of late; then the older job; then the uid, so that no two
//! jobs are ever equal and the order never depends on how they were listed.

use std::cmp::{Ordering, Reverse};

use super::request::JobUid;

/// A job that waits for a place. `Ord` is the order of the queue: the least entry is served first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueEntry {
    /// Value of the job's PriorityClass; 0 without one.
    pub priority: i32,
    /// What the job's payer has used of late, in GPU-milliseconds, divided by its share; 0 for all where nothing is
    /// owed, which leaves the order to age.
    pub payer_usage: u64,
    /// When the job was created, in milliseconds since 1970 (the API server's word).
    pub created_ms: i64,
    /// The job.
    pub job_uid: JobUid,
}

impl Ord for QueueEntry {
    fn cmp(&self, other: &Self) -> Ordering {
        let key = |entry: &Self| {
            (
                Reverse(entry.priority),
                entry.payer_usage,
                entry.created_ms,
                entry.job_uid,
            )
        };
        key(self).cmp(&key(other))
    }
}

impl PartialOrd for QueueEntry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(priority: i32, payer_usage: u64, created_ms: i64, uid: u8) -> QueueEntry {
        QueueEntry {
            priority,
            payer_usage,
            created_ms,
            job_uid: JobUid([uid; 16]),
        }
    }

    #[test]
    fn priority_goes_before_usage_before_age_before_uid() {
        let sorted = [
            entry(9, 500, 500, 9),
            entry(1, 0, 500, 9),
            entry(1, 7, 100, 9),
            entry(1, 7, 200, 1),
            entry(1, 7, 200, 2),
            entry(-3, 0, 0, 0),
        ];
        let mut shuffled = sorted.clone();
        shuffled.reverse();
        shuffled.sort();
        assert_eq!(shuffled, sorted);
    }

    proptest! {
        #[test]
        fn the_order_does_not_depend_on_how_jobs_are_listed(
            jobs in prop::collection::btree_map(any::<u8>(), (-2_i32..2, 0_u64..2, 0_i64..2), 0..12)
                .prop_map(|jobs| jobs.into_iter().map(|(uid, (p, u, c))| entry(p, u, c, uid)).collect::<Vec<_>>())
                .prop_flat_map(|jobs| (Just(jobs.clone()), Just(jobs).prop_shuffle()))
        ) {
            let (mut listed, mut shuffled) = jobs;
            listed.sort();
            shuffled.sort();
            prop_assert_eq!(listed, shuffled);
        }
    }
}
