//! The attempts that are to give their GPUs back, as the loop last decided and as the ComputeJob controller reads it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use gridstake_crds::compute_job::AttemptEndReason;

use super::decide::{AttemptKey, Part, PartKey, Reclaim};

/// How an attempt is to end, or some of its members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The reason.
    pub reason: AttemptEndReason,
    /// In words for the tenant.
    pub words: String,
    /// Whether all of it ends, or only its members on these nodes.
    pub who: Who,
}

/// Who is to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    /// All members.
    All,
    /// Those on these nodes.
    On(BTreeSet<String>),
}

impl Asked {
    fn of(reclaim: &Reclaim) -> Self {
        let mut asked = Self {
            reason: reclaim.why.reason(),
            words: reclaim.why.for_tenant(&reclaim.node),
            who: Who::On(BTreeSet::new()),
        };
        asked.also(&reclaim.part);
        asked
    }

    /// Asks this `part` as well.
    fn also(&mut self, part: &Part) {
        match (&mut self.who, part) {
            (Who::On(nodes), Part::On(node)) => {
                nodes.insert(node.clone());
            }
            (who @ Who::On(_), Part::Whole) => *who = Who::All,
            (Who::All, _) | (_, Part::GivenUp(_)) => {}
        }
    }

    fn covers(&self, part: &Part) -> bool {
        match (&self.who, part) {
            (Who::All, _) => true,
            (Who::On(nodes), Part::On(node)) => nodes.contains(node),
            (Who::On(_), Part::Whole | Part::GivenUp(_)) => false,
        }
    }
}

/// What is asked, by the attempt. Cloning shares it.
#[derive(Clone, Debug, Default)]
pub struct Reclaims(Arc<Mutex<BTreeMap<AttemptKey, Asked>>>);

impl Reclaims {
    fn asked(&self) -> MutexGuard<'_, BTreeMap<AttemptKey, Asked>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts `reclaims` in the place of all earlier ones; tells which of them are new.
    #[must_use]
    pub fn replace(&self, reclaims: &[Reclaim]) -> BTreeSet<PartKey> {
        let mut asked = self.asked();
        let mut next: BTreeMap<AttemptKey, Asked> = BTreeMap::new();
        for reclaim in reclaims {
            next.entry(reclaim.attempt)
                .and_modify(|asked| asked.also(&reclaim.part))
                .or_insert_with(|| Asked::of(reclaim));
        }
        let is_known = |(attempt, part): &PartKey| {
            let before = asked.get(attempt);
            before.is_some_and(|before| before.covers(part))
        };
        let mut news: BTreeSet<PartKey> = reclaims.iter().map(Reclaim::key).collect();
        news.retain(|key| !is_known(key));
        *asked = next;
        news
    }

    /// Whether this part of `attempt` is asked to go.
    #[must_use]
    pub fn ask(&self, attempt: AttemptKey, part: &Part) -> bool {
        let asked = self.asked();
        asked.get(&attempt).is_some_and(|asked| asked.covers(part))
    }

    /// How `attempt`, or a part of it, is to end; `None`: it is not asked to.
    #[must_use]
    pub fn of(&self, attempt: AttemptKey) -> Option<Asked> {
        self.asked().get(&attempt).cloned()
    }

    /// Nothing is decided any more.
    pub fn forget(&self) {
        self.asked().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::{super::decide::Why, *};
    use crate::scheduler::JobUid;

    const ATTEMPT: AttemptKey = AttemptKey {
        job: JobUid([1; 16]),
        attempt: 1,
    };

    fn reclaim(part: Part) -> Reclaim {
        Reclaim {
            attempt: ATTEMPT,
            part,
            node: "a".to_owned(),
            why: Why::WindowClosed,
        }
    }

    fn on(node: &str) -> Part {
        Part::On(node.to_owned())
    }

    #[test]
    fn an_attempt_is_asked_for_all_that_is_asked_of_it_and_told_of_what_is_new() {
        let asked = Reclaims::default();
        let new = |reclaims: &[Reclaim]| asked.replace(reclaims).len();
        let who = || asked.of(ATTEMPT).map(|asked| asked.who);
        assert_eq!((new(&[reclaim(on("a"))]), new(&[reclaim(on("a"))])), (1, 0));
        let nodes = Who::On(["a".to_owned()].into());
        assert_eq!(who(), Some(nodes));
        assert!(asked.ask(ATTEMPT, &on("a")) && !asked.ask(ATTEMPT, &on("b")));
        assert_eq!(new(&[reclaim(on("a")), reclaim(on("b"))]), 1);
        assert!(asked.ask(ATTEMPT, &on("b")) && !asked.ask(ATTEMPT, &Part::Whole));
        assert_eq!(new(&[reclaim(on("b")), reclaim(Part::Whole)]), 1);
        assert_eq!(who(), Some(Who::All));
        assert_eq!(new(&[reclaim(on("c"))]), 0, "all was asked for before");
        assert_eq!((new(&[]), who()), (0, None));
    }
}
