//! The attempts that are to give their GPUs back, as the loop last decided and as the ComputeJob controller reads it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use gridstake_crds::compute_job::AttemptEndReason;

use super::decide::{AttemptKey, Reclaim};

/// How an attempt is to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The reason.
    pub reason: AttemptEndReason,
    /// In words for the tenant.
    pub words: String,
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
    pub fn replace(&self, reclaims: &[Reclaim]) -> BTreeSet<AttemptKey> {
        let mut asked = self.asked();
        let next: BTreeMap<_, _> = reclaims
            .iter()
            .map(|reclaim| {
                let asked = Asked {
                    reason: reclaim.why.reason(),
                    words: reclaim.why.for_tenant(&reclaim.node),
                };
                (reclaim.attempt, asked)
            })
            .collect();
        let news = next
            .keys()
            .filter(|attempt| !asked.contains_key(attempt))
            .copied()
            .collect();
        *asked = next;
        news
    }

    /// How `attempt` is to end; `None`: it is not asked to.
    #[must_use]
    pub fn of(&self, attempt: AttemptKey) -> Option<Asked> {
        self.asked().get(&attempt).cloned()
    }

    /// Nothing is decided any more.
    pub fn forget(&self) {
        self.asked().clear();
    }
}
