//! What the loop has found out, as the GpuNode controller reads it.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use gridstake_crds::gpu_node::{ReputationTerms, Stability};

use super::{
    blame::Charges,
    history::{Day, History},
    key::{GpuKey, Owner},
    observe::Shown,
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
    /// What is known on `today`, in days since 1970, of the GPUs that these nodes show, by what counts against them and by their
    /// histories: there is one, or none; `None`: that is not known.
    #[must_use]
    pub fn of<'a>(
        nodes: &[Shown],
        charges: &Charges,
        today: u32,
        history: impl Fn(&GpuKey) -> Option<Option<&'a History>>,
    ) -> Self {
        let mut known = Self::default();
        for shown in nodes {
            for key in &shown.keys {
                let Some(history) = history(key) else {
                    known.unread.insert(key.shard());
                    continue;
                };
                let lately = history
                    .map(|history| history.lately(today))
                    .unwrap_or_default();
                let terms = score::score(&Inputs {
                    served_millis: history.map_or(0, History::served_millis),
                    blames: charges.against(key, &shown.node),
                    uptime_permille: stability::uptime(&[lately]),
                });
                let found = GpuStanding { terms, lately };
                let standing = known.gpus.entry(key.clone()).or_insert(found);
                // Of a GPU that two nodes show the lower score counts.
                if found.terms.score < standing.terms.score {
                    *standing = found;
                }
            }
        }
        known
    }

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

    fn on(node: &str, owner: Owner) -> Shown {
        Shown {
            node: node.to_owned(),
            owner,
            keys: vec![GpuKey::new(owner, "GPU-1").unwrap()],
        }
    }

    #[test]
    fn a_gpu_keeps_its_history_on_another_node_and_begins_anew_with_another_provider() {
        let owner = |number| Owner::Provider {
            chain_id: 1,
            vault: alloy::primitives::Address::ZERO,
            number,
        };
        let mut served = History::default();
        let well = Day {
            watched: 1440,
            down: 288,
            ..Day::default()
        };
        served.note(20_000, well, 86_400_000);
        let of = |shown: Shown, today: u32| {
            let books = |key: &GpuKey| Some((key.owner == owner(7)).then_some(&served));
            let known = Known::of(
                std::slice::from_ref(&shown),
                &Charges::default(),
                today,
                books,
            );
            let found = known.appraise(Some(shown.owner), ["GPU-1"].into_iter());
            let found = found.unwrap();
            let uptime = found.stability.map(|stability| stability.uptime_permille);
            (found.reputation(), uptime)
        };
        let expected = (Some(500 + 100 - 150), Some(800));
        assert_eq!(of(on("a", owner(7)), 20_000), expected);
        assert_eq!(of(on("b", owner(7)), 20_000), expected);
        assert_eq!(of(on("b", owner(8)), 20_000), (Some(500), Some(1000)));
        assert_eq!(
            of(on("a", owner(7)), 20_030),
            (Some(600), Some(1000)),
            "gaps are forgiven after thirty days, experience is not"
        );
    }

    #[test]
    fn a_shard_that_is_not_read_leaves_its_gpus_unknown() {
        let known = Known::of(
            &[on("a", Owner::Nobody)],
            &Charges::default(),
            20_000,
            |_| None,
        );
        assert_eq!(known.unread, [key("GPU-1").shard()].into());
        assert!(known.gpus.is_empty());
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
