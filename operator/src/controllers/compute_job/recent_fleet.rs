//! The fleet as it was a moment ago, for questions that a moment does not matter to: whether a job could ever be placed, and what it
//! may cost. A burst of jobs looks at one and the same.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::scheduler::Snapshot;

/// How old it may be.
const RECENT: Duration = Duration::from_secs(1);

/// The last look. Cloning shares it.
#[derive(Clone, Debug, Default)]
pub struct RecentFleet(Arc<Mutex<Option<Look>>>);

/// The fleet, and when it was like that.
#[derive(Debug)]
struct Look {
    at: Instant,
    fleet: Arc<Snapshot>,
}

impl RecentFleet {
    /// The fleet at most [`RECENT`] before `now`; `look` tells how it is.
    pub fn at(&self, now: Instant, look: impl FnOnce() -> Snapshot) -> Arc<Snapshot> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some(look) if now.saturating_duration_since(look.at) < RECENT => {
                Arc::clone(&look.fleet)
            }
            _ => keep(&mut last, now, look()),
        }
    }

    /// The fleet not before `now`: as `look` tells, unless somebody has looked since.
    pub fn anew(&self, now: Instant, look: impl FnOnce() -> Snapshot) -> Arc<Snapshot> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some(seen) if seen.at >= now => Arc::clone(&seen.fleet),
            _ => keep(&mut last, now, look()),
        }
    }
}

fn keep(last: &mut Option<Look>, at: Instant, fleet: Snapshot) -> Arc<Snapshot> {
    let fleet = Arc::new(fleet);
    *last = Some(Look {
        at,
        fleet: Arc::clone(&fleet),
    });
    fleet
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::SnapshotInputs;

    fn look() -> Snapshot {
        Snapshot::assemble(SnapshotInputs::default())
    }

    #[test]
    fn one_look_serves_for_a_second_unless_a_new_one_is_asked_for() {
        let (fleet, begin) = (RecentFleet::default(), Instant::now());
        let first = fleet.at(begin, look);
        let again = |after| fleet.at(begin + after, look);
        assert!(Arc::ptr_eq(&first, &again(RECENT / 2)));
        assert!(Arc::ptr_eq(&first, &fleet.anew(begin, look)));
        let later = Duration::from_millis(1);
        let anew = fleet.anew(begin + later, look);
        assert!(!Arc::ptr_eq(&first, &anew));
        assert!(Arc::ptr_eq(&anew, &again(RECENT / 2)));
        assert!(!Arc::ptr_eq(&anew, &again(later + RECENT)));
    }
}
