//! Gates that others put on our pods, such as Kueue's: since when they are off.
//!
//! Nothing in a pod says when a gate was lifted, so it is remembered when that was seen. Whoever has forgotten it, such as a new leader,
//! counts from the attempt's placement.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use k8s_openapi::jiff::Timestamp;

/// What is remembered of each job, by its uid: when its pods were first seen without others' gates, once they were.
/// Cloning shares it.
#[derive(Clone, Debug, Default)]
pub struct ForeignGates(Arc<Mutex<HashMap<String, Option<Timestamp>>>>);

impl ForeignGates {
    /// Looks at the pods of the job `uid` at `now`: whether others `hold` one of them back. When they were first seen to be held back
    /// no more, if they were.
    pub fn look(&self, uid: &str, hold: bool, now: Timestamp) -> Option<Timestamp> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if hold {
            known.insert(uid.to_owned(), None);
            return None;
        }
        let lifted = known.get_mut(uid)?;
        Some(*lifted.get_or_insert(now))
    }

    /// The job `uid` has no attempt that could be held back.
    pub fn forget(&self, uid: &str) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_moment_is_remembered_at_which_nobody_was_first_seen_to_hold_a_job_back() {
        let gates = ForeignGates::default();
        let at = |second| Timestamp::from_second(second).unwrap();
        assert_eq!(gates.look("a", false, at(1)), None);
        assert_eq!(gates.look("a", true, at(2)), None);
        assert_eq!(gates.look("a", false, at(9)), Some(at(9)));
        assert_eq!(gates.look("a", false, at(12)), Some(at(9)));
        assert_eq!(gates.look("b", false, at(12)), None);
        // Another attempt.
        assert_eq!(gates.look("a", true, at(20)), None);
        assert_eq!(gates.look("a", false, at(30)), Some(at(30)));
        gates.forget("a");
        assert_eq!(gates.look("a", false, at(31)), None);
    }
}
