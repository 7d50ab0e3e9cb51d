//! Jobs that may wait for a place, of which nothing has been written yet. Most are placed within moments, and what their place says,
//! says that they were admitted: one write less for each job.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use gridstake_crds::ComputeJob;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

/// For so long a job that has not been placed stays untold.
pub const UNTOLD: SignedDuration = SignedDuration::from_secs(2);
/// So long after it was admitted a job is forgotten, whatever has become of it: it is admitted again when it is looked at.
const FORGOTTEN: SignedDuration = SignedDuration::from_mins(10);

/// The jobs by their uids. Cloning shares them. A restart forgets them: then they are admitted anew.
#[derive(Clone, Debug, Default)]
pub struct Untold(Arc<Mutex<HashMap<String, Admitted>>>);

/// Of what and since when a job is admitted.
#[derive(Clone, Copy, Debug)]
struct Admitted {
    generation: Option<i64>,
    since: Timestamp,
}

impl Untold {
    /// Since when `job` is admitted with the spec that it has; `None`: it is not known to be.
    #[must_use]
    pub fn of(&self, job: &ComputeJob) -> Option<Timestamp> {
        let uid = job.metadata.uid.as_deref().unwrap_or_default();
        self.since(uid, job.metadata.generation)
    }

    /// The same, by its uid and the generation of its spec.
    fn since(&self, uid: &str, generation: Option<i64>) -> Option<Timestamp> {
        let jobs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let admitted = jobs.get(uid)?;
        (admitted.generation == generation).then_some(admitted.since)
    }

    /// Notes that it is admitted at `now`, unless that is known; tells whether it is news.
    pub fn admit(&self, uid: &str, generation: Option<i64>, now: Timestamp) -> bool {
        let mut jobs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if jobs.get(uid).is_some_and(|a| a.generation == generation) {
            return false;
        }
        let lasts = |admitted: &Admitted| now.duration_since(admitted.since) < FORGOTTEN;
        jobs.retain(|_, admitted| lasts(admitted));
        let since = now;
        jobs.insert(uid.to_owned(), Admitted { generation, since });
        true
    }

    /// Forgets a job: it is not admitted any more, or its status says it.
    pub fn forget(&self, uid: &str) {
        let mut jobs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.remove(uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_job_is_admitted_once_for_each_version_of_its_spec_until_it_is_forgotten() {
        let untold = Untold::default();
        assert!(untold.admit("a", Some(1), at(1)) && !untold.admit("a", Some(1), at(2)));
        assert_eq!(untold.since("a", Some(1)), Some(at(1)));
        assert_eq!(untold.since("a", Some(2)), None);
        assert!(untold.admit("a", Some(2), at(3)));
        assert_eq!(untold.since("a", Some(2)), Some(at(3)));
        untold.forget("a");
        assert_eq!(untold.since("a", Some(2)), None);
    }

    #[test]
    fn what_nobody_has_asked_for_in_ten_minutes_takes_no_memory() {
        let untold = Untold::default();
        untold.admit("old", Some(1), at(0));
        untold.admit("new", Some(1), at(601));
        assert_eq!(
            (untold.since("old", Some(1)), untold.since("new", Some(1))),
            (None, Some(at(601)))
        );
    }
}
