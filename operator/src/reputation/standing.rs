//! What the loop has found out, as the GpuNode controller reads it.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use gridstake_crds::gpu_node::{ReputationTerms, Stability};

use super::{
    history::Day,
    key::{GpuKey, Owner},
    score::{self, Inputs, Terms},
    stability,
};

/// What is known of one GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GpuStanding {
    /// Its score.
    pub terms: Terms,
    /// Its last 30 days.
    pub lately: Day,
}

impl Default for GpuStanding {
    /// That of a GPU of which nothing is known.
    fn default() -> Self {
        Self {
            terms: score::score(&Inputs {
                uptime_permille: score::HIGHEST,
                ..Inputs::default()
            }),
            lately: Day::default(),
        }
    }
}

/// What is known of all GPUs that are shown.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// By GPU; what is not in it is new.
    pub gpus: HashMap<GpuKey, GpuStanding>,
    /// The shards that could not be read: of their GPUs nothing is known.
    pub unread: BTreeSet<usize>,
}

/// What a GpuNode's status says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Appraisal {
    /// Of each GPU.
    pub terms: Vec<ReputationTerms>,
    /// Of the node; `None`: it has no GPU, or nobody answers for it.
    pub stability: Option<Stability>,
}

impl Appraisal {
    /// The node's reputation: that of its GPU with the lowest.
    #[must_use]
    pub fn reputation(&self) -> Option<u32> {
        self.terms.iter().map(|terms| terms.score).min()
    }
}

impl Known {
    /// What is to be said of a node of `owner` that shows these GPUs; `None` if it is not known what stands of one of them.
    #[must_use]
    pub fn appraise<'a>(
        &self,
        owner: Option<Owner>,
        uuids: impl Iterator<Item = &'a str>,
    ) -> Option<Appraisal> {
        let Some(owner) = owner else {
            return Some(Appraisal::default());
        };
        let mut seen = BTreeSet::new();
        let mut found = Appraisal::default();
        let mut lately = Vec::new();
        for uuid in uuids.filter(|uuid| seen.insert(*uuid)) {
            let key = GpuKey::new(owner, uuid);
            if key
                .as_ref()
                .is_some_and(|key| self.unread.contains(&key.shard()))
            {
                return None;
            }
            let standing = key
                .and_then(|key| self.gpus.get(&key).copied())
                .unwrap_or_default();
            found.terms.push(standing.terms.of(uuid));
            lately.push(standing.lately);
        }
        // A map list has no order of its own.
        found.terms.sort_by(|a, b| a.uuid.cmp(&b.uuid));
        found.stability = (!lately.is_empty()).then(|| stability::stability(&lately));
        Some(found)
    }
}

/// What was last found out. Cloning shares it.
#[derive(Clone, Debug, Default)]
pub struct Standings(Arc<Mutex<Option<Arc<Known>>>>);

impl Standings {
    /// Puts `known` in the place of what was known before.
    pub fn publish(&self, known: Known) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(known));
    }

    /// What is known; `None` until something was found out.
    #[must_use]
    pub fn known(&self) -> Option<Arc<Known>> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(uuid: &str) -> GpuKey {
        GpuKey::new(Owner::Nobody, uuid).unwrap()
    }

    fn veteran() -> GpuStanding {
        GpuStanding {
            terms: score::score(&Inputs {
                served_millis: 86_400_000,
                uptime_permille: 1000,
                ..Inputs::default()
            }),
            lately: Day {
                watched: 1440,
                ..Day::default()
            },
        }
    }

    #[test]
    fn a_nodes_reputation_is_that_of_its_gpu_with_the_lowest() {
        let known = Known {
            gpus: [(key("GPU-1"), veteran())].into(),
            ..Known::default()
        };
        let found = known
            .appraise(Some(Owner::Nobody), ["GPU-2", "GPU-1", "GPU-1"].into_iter())
            .unwrap();
        let scores: Vec<_> = found
            .terms
            .iter()
            .map(|terms| (terms.uuid.as_str(), terms.score, terms.gpu_hours))
            .collect();
        assert_eq!(scores, [("GPU-1", 600, 24), ("GPU-2", 500, 0)]);
        assert_eq!(found.reputation(), Some(500));
        assert_eq!(found.stability.map(|s| s.permille), Some(1000));
    }

    #[test]
    fn of_what_cannot_be_read_nothing_is_said_and_nobody_is_taken_for_new() {
        let known = Known {
            unread: [key("GPU-1").shard()].into(),
            ..Known::default()
        };
        assert_eq!(
            known.appraise(Some(Owner::Nobody), ["GPU-1"].into_iter()),
            None
        );
    }

    #[test]
    fn a_node_without_gpus_or_without_a_provider_has_none() {
        let known = Known::default();
        let nothing = Some(Appraisal::default());
        assert_eq!(known.appraise(None, ["GPU-1"].into_iter()), nothing);
        assert_eq!(
            known.appraise(Some(Owner::Nobody), std::iter::empty()),
            nothing
        );
    }
}
