//! The attempts that are to give their GPUs back, as the loop last decided and as the ComputeJob controller reads it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::decide::{AttemptKey, Reclaim};

/// The words for the tenant, by the attempt. Cloning shares them.
#[derive(Clone, Debug, Default)]
pub struct Reclaims(Arc<Mutex<BTreeMap<AttemptKey, String>>>);

impl Reclaims {
    fn words(&self) -> MutexGuard<'_, BTreeMap<AttemptKey, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts `reclaims` in the place of all earlier ones; tells which of them are new.
    #[must_use]
    pub fn replace(&self, reclaims: &[Reclaim]) -> BTreeSet<AttemptKey> {
        let mut words = self.words();
        let next: BTreeMap<_, _> = reclaims
            .iter()
            .map(|reclaim| (reclaim.attempt, reclaim.why.for_tenant(&reclaim.node)))
            .collect();
        let news = next
            .keys()
            .filter(|attempt| !words.contains_key(attempt))
            .copied()
            .collect();
        *words = next;
        news
    }

    /// Why `attempt` is to give its GPUs back, in words for its tenant; `None`: it is not.
    #[must_use]
    pub fn of(&self, attempt: AttemptKey) -> Option<String> {
        self.words().get(&attempt).cloned()
    }

    /// Nothing is decided any more.
    pub fn forget(&self) {
        self.words().clear();
    }
}
