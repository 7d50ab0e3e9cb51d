//! Members whose pods were created moments ago. The cache shows them a little later; without this, what happens meanwhile would have
//! them created again, only to hear that they exist, or would let a job go as if they were not there.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// For so long a member that was created is taken to be on its way into the cache. One that has vanished since is created anew
/// after that.
pub const ON_ITS_WAY: Duration = Duration::from_secs(5);

/// An attempt of a job and a member of it.
pub type AttemptMember = (u32, u32);

/// The members that were created, and when, by the uids of their jobs.
type Created = HashMap<String, HashMap<AttemptMember, Instant>>;

/// When they were created. Cloning shares them.
#[derive(Clone, Debug, Default)]
pub struct RecentStarts(Arc<Mutex<Created>>);

impl RecentStarts {
    /// The members of the job of this `uid` that were created shortly before `now` and are not among those `seen` by now.
    #[must_use]
    pub fn on_their_way(
        &self,
        uid: &str,
        seen: impl Iterator<Item = AttemptMember>,
        now: Instant,
    ) -> BTreeSet<AttemptMember> {
        let mut created = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(members) = created.get_mut(uid) else {
            return BTreeSet::new();
        };
        for member in seen {
            members.remove(&member);
        }
        members.retain(|_, at| is_recent(*at, now));
        let waits = members.keys().copied().collect();
        if members.is_empty() {
            created.remove(uid);
        }
        waits
    }

    /// Notes that this one was created at `now`, and forgets of all jobs what is not recent any more.
    pub fn note(&self, uid: &str, attempt: u32, member: u32, now: Instant) {
        let mut created = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        created.retain(|_, members| members.values().any(|at| is_recent(*at, now)));
        let members = created.entry(uid.to_owned()).or_default();
        members.insert((attempt, member), now);
    }
}

fn is_recent(at: Instant, now: Instant) -> bool {
    now.saturating_duration_since(at) < ON_ITS_WAY
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(
        starts: &RecentStarts,
        uid: &str,
        seen: &[AttemptMember],
        now: Instant,
    ) -> Vec<AttemptMember> {
        let waiting = starts.on_their_way(uid, seen.iter().copied(), now);
        waiting.into_iter().collect()
    }

    #[test]
    fn a_member_is_on_its_way_for_a_moment_and_no_other_job_has_one() {
        let (starts, begin) = (RecentStarts::default(), Instant::now());
        starts.note("a", 1, 0, begin);
        starts.note("a", 1, 2, begin);
        assert_eq!(waiting(&starts, "b", &[], begin), []);
        assert_eq!(
            waiting(&starts, "a", &[], begin + ON_ITS_WAY / 2),
            [(1, 0), (1, 2)]
        );
        assert_eq!(waiting(&starts, "a", &[], begin + ON_ITS_WAY), []);
    }

    #[test]
    fn a_member_that_was_seen_is_on_its_way_no_more_also_when_it_is_gone() {
        let (starts, begin) = (RecentStarts::default(), Instant::now());
        starts.note("a", 1, 0, begin);
        starts.note("a", 2, 0, begin);
        assert_eq!(waiting(&starts, "a", &[(1, 0)], begin), [(2, 0)]);
        assert_eq!(waiting(&starts, "a", &[], begin), [(2, 0)]);
    }

    #[test]
    fn jobs_that_nobody_asks_about_take_no_memory() {
        let (starts, begin) = (RecentStarts::default(), Instant::now());
        starts.note("a", 1, 0, begin);
        starts.note("b", 1, 0, begin + ON_ITS_WAY);
        assert_eq!(starts.0.lock().unwrap().len(), 1);
    }
}
