//! Which StakeBinding binds which nodes. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use gridstake_crds::{StakeBinding, StakeBindingSpec};
use kube::ResourceExt as _;

/// A Node as far as bindings look at it.
#[derive(Clone, Copy, Debug)]
pub struct NodeLabels<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its labels.
    pub labels: &'a BTreeMap<String, String>,
}

/// What a binding claims, and what of it is its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolution {
    /// Nodes that it alone claims.
    pub nodes: BTreeSet<String>,
    /// Nodes that others claim too, and the names of all others that do.
    pub conflicts: BTreeMap<String, BTreeSet<String>>,
}

/// Who claims a node.
#[derive(Clone, Debug, PartialEq)]
pub enum Claim {
    /// One binding; its spec.
    One(Arc<StakeBindingSpec>),
    /// Several bindings, so none binds it; their names.
    Several(BTreeSet<String>),
}

/// All bindings against all nodes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resolutions {
    bindings: BTreeMap<String, Resolution>,
    nodes: BTreeMap<String, Claim>,
    providers: BTreeMap<(String, u32), u64>,
}

impl Resolutions {
    /// What the binding of this name claims and binds; `None` if there is no such binding.
    #[must_use]
    pub fn binding(&self, name: &str) -> Option<&Resolution> {
        self.bindings.get(name)
    }

    /// Who claims the node of this name; `None` if no binding does.
    #[must_use]
    pub fn claim(&self, node: &str) -> Option<&Claim> {
        self.nodes.get(node)
    }

    /// How many nodes are bound to this provider on any of `chains`, which have the same stakes, through whichever bindings:
    /// its stake is divided over them.
    #[must_use]
    pub fn nodes_of_provider(&self, chains: &[String], provider: u32) -> u64 {
        let nodes = |chain: &String| self.providers.get(&(chain.clone(), provider));
        chains.iter().filter_map(nodes).sum()
    }
}

/// Resolves all bindings together.
///
/// A node that two bindings claim is bound by neither: whichever the operator preferred, the other's stake would seem
/// to answer for the node as well. Nodes that only one of them claims stay bound.
#[must_use]
pub fn resolve<'a>(
    bindings: impl IntoIterator<Item = &'a StakeBinding>,
    nodes: &[NodeLabels<'_>],
) -> Resolutions {
    let names: BTreeSet<&str> = nodes.iter().map(|node| node.name).collect();
    let mut specs: BTreeMap<String, &StakeBindingSpec> = BTreeMap::new();
    let mut claims: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    let mut resolved = Resolutions::default();
    for binding in bindings {
        let name = binding.name_any();
        resolved
            .bindings
            .insert(name.clone(), Resolution::default());
        // A binding that is being deleted binds nothing any more.
        if binding.metadata.deletion_timestamp.is_some() {
            continue;
        }
        for node in claimed(&binding.spec, nodes, &names) {
            claims.entry(node).or_default().insert(name.clone());
        }
        specs.insert(name, &binding.spec);
    }
    for (node, claimants) in claims {
        resolved.settle(node, claimants, &specs);
    }
    resolved
}

impl Resolutions {
    fn settle(
        &mut self,
        node: &str,
        claimants: BTreeSet<String>,
        specs: &BTreeMap<String, &StakeBindingSpec>,
    ) {
        for claimant in &claimants {
            let Some(resolution) = self.bindings.get_mut(claimant) else {
                continue;
            };
            if claimants.len() == 1 {
                resolution.nodes.insert(node.to_owned());
            } else {
                let others = claimants.iter().filter(|other| *other != claimant).cloned();
                resolution
                    .conflicts
                    .insert(node.to_owned(), others.collect());
            }
        }
        let claim = match only(&claimants).and_then(|name| specs.get(name)) {
            Some(spec) => {
                let provider = (spec.chain.clone(), spec.provider_id);
                *self.providers.entry(provider).or_default() += 1;
                Claim::One(Arc::new((*spec).clone()))
            }
            None => Claim::Several(claimants),
        };
        self.nodes.insert(node.to_owned(), claim);
    }
}

fn only(names: &BTreeSet<String>) -> Option<&String> {
    names.first().filter(|_| names.len() == 1)
}

/// The nodes that a binding selects. Names are looked up; only selectors go through all nodes.
fn claimed<'a>(
    spec: &StakeBindingSpec,
    nodes: &[NodeLabels<'a>],
    names: &BTreeSet<&'a str>,
) -> Vec<&'a str> {
    let by_name = spec.node_names.iter().map(String::as_str);
    let mut found: Vec<&str> = by_name
        .filter_map(|name| names.get(name).copied())
        .collect();
    // An empty selector is refused by the API; here it selects nothing rather than everything.
    if let Some(selector) = spec.node_selector.as_ref().filter(|s| !s.is_empty()) {
        let selected = nodes.iter().filter(|node| {
            selector
                .iter()
                .all(|(key, value)| node.labels.get(key) == Some(value))
        });
        found.extend(selected.map(|node| node.name));
    }
    found
}

#[cfg(test)]
mod tests {
    use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
    use proptest::prelude::*;

    use super::{
        super::fixtures::{binding, by_name, by_zone, nodes, resolve_on},
        *,
    };

    fn bound(bindings: &[StakeBinding], name: &str) -> Vec<String> {
        let resolved = resolve_on(bindings, &nodes());
        resolved
            .binding(name)
            .unwrap()
            .nodes
            .iter()
            .cloned()
            .collect()
    }

    #[test]
    fn nodes_are_bound_by_name_or_by_all_labels() {
        assert_eq!(bound(&[by_name("x", &["n1", "gone"])], "x"), ["n1"]);
        assert_eq!(bound(&[by_zone("x", "a")], "x"), ["n1", "n2"]);
        let two = binding(
            "x",
            &serde_json::json!({"nodeSelector": {"zone": "a", "other": "1"}}),
        );
        assert!(bound(&[two], "x").is_empty());
    }

    #[test]
    fn a_node_that_two_bindings_claim_is_bound_by_neither() {
        let bindings = [by_zone("x", "a"), by_name("y", &["n2", "n3"])];
        assert_eq!(bound(&bindings, "x"), ["n1"]);
        assert_eq!(bound(&bindings, "y"), ["n3"]);
        let resolved = resolve_on(&bindings, &nodes());
        assert_eq!(
            resolved.claim("n2"),
            Some(&Claim::Several(["x".to_owned(), "y".to_owned()].into()))
        );
        assert_eq!(resolved.claim("n4"), None);
    }

    #[test]
    fn a_binding_that_is_being_deleted_claims_nothing() {
        let mut leaving = by_zone("x", "a");
        leaving.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
        let bindings = [leaving, by_name("y", &["n2"])];
        assert_eq!(bound(&bindings, "y"), ["n2"]);
        assert!(bound(&bindings, "x").is_empty());
    }

    #[test]
    fn two_bindings_of_one_provider_share_its_stake() {
        let bindings = [by_name("x", &["n1"]), by_name("y", &["n2", "n3"])];
        let resolved = resolve_on(&bindings, &nodes());
        let on = |chain: &str| [chain.to_owned()];
        assert_eq!(resolved.nodes_of_provider(&on("anvil"), 7), 3);
        assert_eq!(resolved.nodes_of_provider(&on("anvil"), 8), 0);
        assert_eq!(resolved.nodes_of_provider(&on("other"), 7), 0);
    }

    proptest! {
        #[test]
        fn every_claimed_node_is_bound_once_or_in_conflict_for_all_its_claimants(
            claims in prop::collection::vec(prop::collection::btree_set(1_u8..4, 0..4), 0..5),
        ) {
            let bindings: Vec<StakeBinding> = claims
                .iter()
                .enumerate()
                .map(|(number, nodes)| {
                    let names: Vec<String> = nodes.iter().map(|node| format!("n{node}")).collect();
                    let names: Vec<&str> = names.iter().map(String::as_str).collect();
                    by_name(&format!("b{number}"), &names)
                })
                .collect();
            let resolved = resolve_on(&bindings, &nodes());
            for node in ["n1", "n2", "n3"] {
                let claimants = bindings.iter().filter(|b| b.spec.node_names.iter().any(|n| n == node)).count();
                let holders = bindings
                    .iter()
                    .filter(|b| resolved.binding(&b.name_any()).unwrap().nodes.contains(node))
                    .count();
                let rivals = bindings
                    .iter()
                    .filter(|b| resolved.binding(&b.name_any()).unwrap().conflicts.contains_key(node))
                    .count();
                prop_assert_eq!(holders, usize::from(claimants == 1));
                prop_assert_eq!(rivals, if claimants > 1 { claimants } else { 0 });
                prop_assert_eq!(resolved.claim(node).is_some(), claimants > 0);
            }
            let bound: u64 = bindings
                .iter()
                .map(|b| resolved.binding(&b.name_any()).unwrap().nodes.len() as u64)
                .sum();
            prop_assert_eq!(resolved.nodes_of_provider(&["anvil".to_owned()], 7), bound);
        }
    }
}
