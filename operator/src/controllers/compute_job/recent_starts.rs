//! Members whose records and pods were created moments ago. The cache shows them a little later; without this, what happens
//! meanwhile would have them created again, only to hear that they exist.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// For so long a member that was created is taken to be on its way into the cache. One that has vanished since is created anew
/// after that.
pub const ON_ITS_WAY: Duration = Duration::from_secs(5);

/// A member of an attempt of the job of a uid.
type Key = (String, u32, u32);

/// When they were created. Cloning shares them.
#[derive(Clone, Debug, Default)]
pub struct RecentStarts(Arc<Mutex<HashMap<Key, Instant>>>);

impl RecentStarts {
    /// Whether this `member` of this `attempt` was created shortly before `now`.
    #[must_use]
    pub fn has(&self, uid: &str, attempt: u32, member: u32, now: Instant) -> bool {
        let created = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = created.get(&(uid.to_owned(), attempt, member));
        at.is_some_and(|at| is_recent(*at, now))
    }

    /// Notes that it was created at `now`, and forgets what is not recent any more.
    pub fn note(&self, uid: &str, attempt: u32, members: impl Iterator<Item = u32>, now: Instant) {
        let mut created = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        created.retain(|_, at| is_recent(*at, now));
        created.extend(members.map(|member| ((uid.to_owned(), attempt, member), now)));
    }
}

fn is_recent(at: Instant, now: Instant) -> bool {
    now.saturating_duration_since(at) < ON_ITS_WAY
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_on_its_way_for_a_moment_and_no_other_member_or_attempt_is() {
        let (starts, begin) = (RecentStarts::default(), Instant::now());
        starts.note("a", 1, [0, 2].into_iter(), begin);
        let has = |uid, attempt, member, after| starts.has(uid, attempt, member, begin + after);
        assert!(has("a", 1, 0, Duration::ZERO) && has("a", 1, 2, ON_ITS_WAY / 2));
        for (uid, attempt, member) in [("a", 1, 1), ("a", 2, 0), ("b", 1, 0)] {
            assert!(
                !has(uid, attempt, member, Duration::ZERO),
                "{uid} {attempt} {member}"
            );
        }
        assert!(!has("a", 1, 0, ON_ITS_WAY));
    }
}
