//! StakeBindings, Nodes and the chain. Reads the caches; decides nothing.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use gridstake_crds::StakeBindingSpec;
use k8s_openapi::jiff::Timestamp;

use super::{
    resolve::{NodeLabels, Resolutions, resolve},
    standing::Sight,
};
use crate::{
    caches::{Caches, parsed},
    chain::Chains,
};

/// The resolutions of the last state of Nodes and StakeBindings that somebody asked for. Cloning shares it.
///
/// Every pass over a GpuNode and every placement needs them, and they change rarely.
#[derive(Clone, Debug, Default)]
pub struct LastResolutions(Arc<Mutex<Option<Revised>>>);

/// A revision and what belongs to it.
type Revised = (u64, Arc<Resolutions>);

impl LastResolutions {
    /// The resolutions at `revision`; `compute` is called if the last ones are of another.
    ///
    /// The revision must be read before the state from which `compute` works: then newer state under an older revision
    /// is computed once more, and never the other way round.
    fn at(&self, revision: u64, compute: impl FnOnce() -> Resolutions) -> Arc<Resolutions> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, resolutions)) = last.as_ref().filter(|(of, _)| *of == revision) {
            return resolutions.clone();
        }
        let resolutions = Arc::new(compute());
        *last = Some((revision, resolutions.clone()));
        resolutions
    }
}

/// All StakeBindings against all Nodes.
#[must_use]
pub fn resolutions(caches: &Caches) -> Arc<Resolutions> {
    caches
        .last_resolutions()
        .at(caches.bindings_revision(), || {
            let bindings = caches.stake_bindings.state();
            if bindings.is_empty() {
                return Resolutions::default();
            }
            let nodes = caches.nodes.state();
            let no_labels = BTreeMap::new();
            let labels: Vec<NodeLabels<'_>> = nodes
                .iter()
                .filter_map(|node| {
                    Some(NodeLabels {
                        name: node.metadata.name.as_deref()?,
                        labels: node.metadata.labels.as_ref().unwrap_or(&no_labels),
                    })
                })
                .collect();
            resolve(parsed(&bindings), &labels)
        })
}

/// What is known at `now` of the chain that a binding names.
#[must_use]
pub fn sight(chains: &Chains, spec: &StakeBindingSpec, now: Timestamp) -> Sight {
    match chains.get(&spec.chain) {
        Some(chain) => Sight::Configured(chain.standing(now)),
        None => Sight::NotConfigured(chains.names()),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn resolutions_are_computed_once_a_revision() {
        let last = LastResolutions::default();
        let computed = Cell::new(0);
        let ask = |revision| {
            last.at(revision, || {
                computed.set(computed.get() + 1);
                Resolutions::default()
            });
            computed.get()
        };
        assert_eq!([ask(1), ask(1), ask(2), ask(2), ask(1)], [1, 1, 2, 2, 3]);
    }
}
