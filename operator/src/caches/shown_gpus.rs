//! Which nodes show which GPUs: whether two show the same, or one gives out another's, must not take a search through the fleet.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use gridstake_crds::{GpuNode, usage_record::DeviceUse};

/// The GPUs of the fleet by their UUIDs. Cloning shares them.
#[derive(Clone, Debug, Default)]
pub struct ShownGpus(Arc<Mutex<Shown>>);

#[derive(Debug, Default)]
struct Shown {
    by_node: HashMap<String, Vec<String>>,
    /// The nodes that show a GPU: one, where nobody lies and nothing was moved.
    by_gpu: HashMap<String, BTreeSet<String>>,
    /// Those that more than one node shows.
    twice: BTreeSet<String>,
}

impl ShownGpus {
    fn shown(&self) -> MutexGuard<'_, Shown> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of the GPUs that a node shows.
    pub fn see(&self, node: &GpuNode) {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        self.shown().put(name, uuids(node));
    }

    /// Forgets a node that is gone, or cannot be read.
    pub fn forget(&self, node: &str) {
        self.shown().put(node, Vec::new());
    }

    /// Takes note of all nodes that exist, and forgets the others.
    pub fn replace<'a>(&self, fleet: impl IntoIterator<Item = &'a GpuNode>) {
        let mut fresh = Shown::default();
        for node in fleet {
            fresh.put(
                node.metadata.name.as_deref().unwrap_or_default(),
                uuids(node),
            );
        }
        *self.shown() = fresh;
    }

    /// The other nodes that show a GPU which `node` shows. One of them lies, or the GPU was moved and one has not noticed.
    #[must_use]
    pub fn rivals(&self, node: &str) -> BTreeSet<String> {
        let shown = self.shown();
        if shown.twice.is_empty() {
            return BTreeSet::new();
        }
        let own = shown.by_node.get(node).into_iter().flatten();
        let mut rivals: BTreeSet<String> = own
            .filter(|uuid| shown.twice.contains(*uuid))
            .filter_map(|uuid| shown.by_gpu.get(uuid))
            .flatten()
            .cloned()
            .collect();
        rivals.remove(node);
        rivals
    }

    /// All nodes that have rivals.
    #[must_use]
    pub fn disputed(&self) -> BTreeSet<String> {
        let shown = self.shown();
        let twice = shown.twice.iter();
        twice
            .filter_map(|uuid| shown.by_gpu.get(uuid))
            .flatten()
            .cloned()
            .collect()
    }

    /// Whether one of the `devices` that the agent of `node` says it gave out is shown by another node and not by its own. While
    /// its own shows none at all, it is not known what it has.
    #[must_use]
    pub fn is_foreign(&self, node: &str, devices: &[DeviceUse]) -> bool {
        let shown = self.shown();
        let Some(own) = shown.by_node.get(node) else {
            return false;
        };
        let is_foreign =
            |uuid: &str| !own.iter().any(|own| own == uuid) && shown.by_gpu.contains_key(uuid);
        devices.iter().map(DeviceUse::physical).any(is_foreign)
    }
}

impl Shown {
    fn put(&mut self, node: &str, uuids: Vec<String>) {
        if self.by_node.get(node).map_or(&[][..], Vec::as_slice) == uuids {
            return;
        }
        for uuid in self.by_node.remove(node).unwrap_or_default() {
            if let Some(nodes) = self.by_gpu.get_mut(&uuid) {
                nodes.remove(node);
                if nodes.is_empty() {
                    self.by_gpu.remove(&uuid);
                }
            }
            self.count(uuid);
        }
        if uuids.is_empty() {
            return;
        }
        for uuid in &uuids {
            let nodes = self.by_gpu.entry(uuid.clone()).or_default();
            nodes.insert(node.to_owned());
            self.count(uuid.clone());
        }
        self.by_node.insert(node.to_owned(), uuids);
    }

    fn count(&mut self, uuid: String) {
        if self.by_gpu.get(&uuid).is_some_and(|nodes| nodes.len() > 1) {
            self.twice.insert(uuid);
        } else {
            self.twice.remove(&uuid);
        }
    }
}

fn uuids(node: &GpuNode) -> Vec<String> {
    let devices = node.status.iter().flat_map(|status| &status.devices);
    devices.map(|device| device.uuid.clone()).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn node(name: &str, uuids: &[&str]) -> GpuNode {
        let device = |uuid: &&str| {
            json!({
                "uuid": uuid, "index": 0, "model": "NVIDIA H100", "memoryMiB": 81_559,
                "computeCapability": "9.0", "health": "Healthy",
            })
        };
        let devices: Vec<_> = uuids.iter().map(device).collect();
        serde_json::from_value(json!({
            "apiVersion": "gridstake.dev/v1alpha1", "kind": "GpuNode", "metadata": {"name": name}, "spec": {},
            "status": {"agent": {"version": "1", "state": "Ok"}, "devices": devices},
        }))
        .unwrap()
    }

    fn shown(fleet: &[GpuNode]) -> ShownGpus {
        let shown = ShownGpus::default();
        shown.replace(fleet);
        shown
    }

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn given(uuid: &str, parent: Option<&str>) -> DeviceUse {
        DeviceUse {
            uuid: uuid.to_owned(),
            parent_uuid: parent.map(str::to_owned),
            share_numerator: None,
            share_denominator: None,
            counters: None,
        }
    }

    #[test]
    fn a_gpu_that_several_nodes_show_makes_them_rivals_until_one_lets_go_of_it() {
        let shown = shown(&[
            node("n1", &["GPU-a", "GPU-b"]),
            node("n2", &["GPU-b", "GPU-c"]),
            node("n3", &["GPU-d"]),
            node("n4", &["GPU-b"]),
        ]);
        assert_eq!(shown.disputed(), names(&["n1", "n2", "n4"]));
        assert_eq!(shown.rivals("n1"), names(&["n2", "n4"]));
        assert!(shown.rivals("n3").is_empty() && shown.rivals("n5").is_empty());
        shown.forget("n4");
        assert_eq!(shown.rivals("n1"), names(&["n2"]));
        shown.see(&node("n2", &["GPU-c"]));
        assert!(shown.disputed().is_empty() && shown.rivals("n1").is_empty());
    }

    #[test]
    fn a_device_that_another_node_shows_and_its_own_does_not_is_foreign() {
        let fleet = shown(&[node("n1", &["GPU-a"]), node("n2", &["GPU-b"])]);
        let foreign = |uuid, parent| fleet.is_foreign("n1", &[given(uuid, parent)]);
        assert!(foreign("GPU-b", None));
        assert!(foreign("MIG-1", Some("GPU-b")));
        assert!(!foreign("GPU-a", None));
        assert!(!foreign("MIG-1", Some("GPU-a")));
        assert!(!foreign("GPU-x", None), "nobody shows it: it may be lost");
        let both = shown(&[node("n1", &["GPU-b"]), node("n2", &["GPU-b"])]);
        assert!(!both.is_foreign("n1", &[given("GPU-b", None)]));
        let blind = shown(&[node("n1", &[]), node("n2", &["GPU-b"])]);
        assert!(!blind.is_foreign("n1", &[given("GPU-b", None)]));
    }

    /// By the definition: every pair of nodes.
    fn rivals_of(name: &str, fleet: &BTreeMap<String, Vec<String>>) -> BTreeSet<String> {
        let own = fleet.get(name).map_or(&[][..], Vec::as_slice);
        let others = fleet.iter().filter(|(other, _)| *other != name);
        others
            .filter(|(_, uuids)| uuids.iter().any(|uuid| own.contains(uuid)))
            .map(|(other, _)| other.clone())
            .collect()
    }

    proptest! {
        #[test]
        fn after_any_history_rivals_are_those_of_the_fleet_as_it_is(
            history in proptest::collection::vec((0..5_u8, proptest::collection::vec(0..6_u8, 0..4)), 1..40),
        ) {
            let shown = ShownGpus::default();
            let mut fleet = BTreeMap::new();
            for (number, gpus) in history {
                let name = format!("n{number}");
                let uuids: Vec<String> = gpus.iter().map(|gpu| format!("GPU-{gpu}")).collect();
                let texts: Vec<&str> = uuids.iter().map(String::as_str).collect();
                shown.see(&node(&name, &texts));
                fleet.insert(name, uuids);
            }
            let mut disputed = BTreeSet::new();
            for name in fleet.keys() {
                let rivals = rivals_of(name, &fleet);
                prop_assert_eq!(&shown.rivals(name), &rivals);
                if !rivals.is_empty() {
                    disputed.insert(name.clone());
                }
            }
            prop_assert_eq!(shown.disputed(), disputed);
        }
    }
}
