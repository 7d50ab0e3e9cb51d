//! What agents have stated about open slices, so that a second word about the same is noticed. It is kept in memory: an operator
//! that starts anew knows what records say then, and nothing of what they said before.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use gridstake_crds::usage_record::Evidence;
use gridstake_ledger::{checkpoint::Signed, refusal::contradiction};

use super::evidence::readable;

/// Of each open record the chain that stands, and the key that signed it.
type Chains = HashMap<String, (String, Arc<Vec<Signed>>)>;

/// The chains that were seen. Cloning shares them.
#[derive(Clone, Debug, Default)]
pub struct Stated(Arc<Mutex<Chains>>);

impl Stated {
    /// What the key of `evidence` stated about `record` before; from now on `evidence` is what it stated, unless it contradicts
    /// that. Another key has begun anew.
    #[must_use]
    pub fn before(&self, record: &str, evidence: &Evidence) -> Arc<Vec<Signed>> {
        let (chain, _) = readable(&evidence.checkpoints);
        let mut chains = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = chains
            .get(record)
            .filter(|(key, _)| key.eq_ignore_ascii_case(&evidence.key))
            .map(|(_, before)| Arc::clone(before))
            .unwrap_or_default();
        if contradiction(&before, &chain).is_none() {
            chains.insert(record.to_owned(), (evidence.key.clone(), Arc::new(chain)));
        }
        before
    }

    /// `record` is sealed: nothing more is stated about it.
    pub fn forget(&self, record: &str) {
        let mut chains = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        chains.remove(record);
    }
}
