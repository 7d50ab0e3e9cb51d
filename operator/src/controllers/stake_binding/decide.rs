//! Which StakeBinding binds which nodes. Pure.

use std::collections::{BTreeMap, BTreeSet};

use gridstake_crds::{
    StakeBinding, StakeBindingSpec,
    condition::{Fact, Status},
    stake_binding::{StakeBindingCondition, StakeBindingReason},
};
use kube::ResourceExt as _;

/// How many conflicts a message names.
const NAMED: usize = 4;

/// A Node as far as bindings look at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeLabels {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// What a binding claims, and what of it is its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolution {
    /// Nodes that it alone claims.
    pub nodes: BTreeSet<String>,
    /// Nodes that others claim too, and the names of all others that do.
    pub conflicts: BTreeMap<String, BTreeSet<String>>,
}

/// What is to be said about a binding.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// All conditions.
    pub facts: Vec<Fact>,
    /// The nodes that it binds, in alphabetical order.
    pub nodes: Vec<String>,
}

/// Resolves all bindings together, by name.
///
/// A node that two bindings claim is bound by neither: whichever the operator preferred, the other's stake would seem
/// to answer for the node as well. Nodes that only one of them claims stay bound.
#[must_use]
pub fn resolve<'a>(
    bindings: impl IntoIterator<Item = &'a StakeBinding>,
    nodes: &[NodeLabels],
) -> BTreeMap<String, Resolution> {
    let mut resolutions = BTreeMap::new();
    let mut claims: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for binding in bindings {
        resolutions.insert(binding.name_any(), Resolution::default());
        // A binding that is being deleted binds nothing any more.
        if binding.metadata.deletion_timestamp.is_some() {
            continue;
        }
        for node in nodes.iter().filter(|node| claims_node(&binding.spec, node)) {
            claims
                .entry(&node.name)
                .or_default()
                .insert(binding.name_any());
        }
    }
    for (node, claimants) in claims {
        for claimant in &claimants {
            let Some(resolution) = resolutions.get_mut(claimant) else {
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
    }
    resolutions
}

fn claims_node(spec: &StakeBindingSpec, node: &NodeLabels) -> bool {
    let selected = spec.node_selector.as_ref().is_some_and(|selector| {
        // An empty selector is refused by the API; here it selects nothing rather than everything.
        !selector.is_empty()
            && selector
                .iter()
                .all(|(key, value)| node.labels.get(key) == Some(value))
    });
    selected || spec.node_names.contains(&node.name)
}

/// What is to be said about a binding that resolves like this. No chain is configured in this version.
#[must_use]
pub fn decide(binding: &StakeBinding, resolution: &Resolution) -> Plan {
    let no_chain = format!(
        "no chain named {} is configured in the operator",
        binding.spec.chain
    );
    let unknown = |condition| {
        Fact::new(
            condition,
            Status::Unknown,
            StakeBindingReason::ChainNotConfigured,
            no_chain.clone(),
        )
    };
    let resolved = resolved(resolution);
    let ready = if resolved.status == Status::True {
        Fact::new(
            StakeBindingCondition::Ready,
            false,
            StakeBindingReason::ChainNotConfigured,
            no_chain.clone(),
        )
    } else {
        Fact {
            condition: "Ready",
            ..resolved.clone()
        }
    };
    Plan {
        facts: vec![
            resolved,
            unknown(StakeBindingCondition::ContractMatch),
            unknown(StakeBindingCondition::ChainSynced),
            unknown(StakeBindingCondition::Bonded),
            ready,
        ],
        nodes: resolution.nodes.iter().cloned().collect(),
    }
}

fn resolved(resolution: &Resolution) -> Fact {
    let (holds, reason, words) = if !resolution.conflicts.is_empty() {
        (
            false,
            StakeBindingReason::ConflictingBindings,
            conflicts(&resolution.conflicts),
        )
    } else if resolution.nodes.is_empty() {
        (
            false,
            StakeBindingReason::NoNodes,
            "no Node matches spec.nodeNames or spec.nodeSelector".to_owned(),
        )
    } else {
        (
            true,
            StakeBindingReason::NodesResolved,
            "every selected node is this binding's alone".to_owned(),
        )
    };
    Fact::new(StakeBindingCondition::Resolved, holds, reason, words)
}

/// Such as `node n1 is also claimed by StakeBinding b; none of them binds it`.
fn conflicts(conflicts: &BTreeMap<String, BTreeSet<String>>) -> String {
    let named: Vec<String> = conflicts
        .iter()
        .take(NAMED)
        .map(|(node, others)| {
            let others: Vec<&str> = others.iter().take(NAMED).map(String::as_str).collect();
            format!(
                "node {node} is also claimed by StakeBinding {}",
                others.join(", ")
            )
        })
        .collect();
    let rest = conflicts.len().saturating_sub(NAMED);
    let more = if rest == 0 {
        String::new()
    } else {
        format!("; and {rest} more nodes")
    };
    format!(
        "{}{more}; none of the bindings binds such a node",
        named.join("; ")
    )
}

#[cfg(test)]
mod tests {
    use gridstake_crds::{condition::conditions, stake_binding::StakeBindingStatus};
    use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
    use serde_json::json;

    use super::*;

    fn binding(name: &str, select: &serde_json::Value) -> StakeBinding {
        let mut spec = json!({
            "chain": "main", "providerId": 1, "role": "Miner",
            "stakerAddress": format!("0x{:040x}", 1), "operatorAddress": format!("0x{:040x}", 2),
        });
        spec.as_object_mut()
            .unwrap()
            .extend(select.as_object().unwrap().clone());
        StakeBinding::new(name, serde_json::from_value(spec).unwrap())
    }

    fn by_name(name: &str, nodes: &[&str]) -> StakeBinding {
        binding(name, &json!({"nodeNames": nodes}))
    }

    fn by_zone(name: &str, zone: &str) -> StakeBinding {
        binding(name, &json!({"nodeSelector": {"zone": zone}}))
    }

    /// n1 and n2 in zone a, n3 in zone b.
    fn nodes() -> Vec<NodeLabels> {
        [("n1", "a"), ("n2", "a"), ("n3", "b")]
            .map(|(name, zone)| NodeLabels {
                name: name.to_owned(),
                labels: BTreeMap::from([("zone".to_owned(), zone.to_owned())]),
            })
            .to_vec()
    }

    fn bound(bindings: &[StakeBinding], name: &str) -> Vec<String> {
        resolve(bindings, &nodes())[name]
            .nodes
            .iter()
            .cloned()
            .collect()
    }

    fn fact(
        binding: &StakeBinding,
        bindings: &[StakeBinding],
        condition: &str,
    ) -> (Status, &'static str) {
        let resolution = &resolve(bindings, &nodes())[&binding.name_any()];
        let plan = decide(binding, resolution);
        let fact = plan
            .facts
            .iter()
            .find(|fact| fact.condition == condition)
            .unwrap();
        (fact.status, fact.reason)
    }

    #[test]
    fn nodes_are_bound_by_name_or_by_all_labels() {
        assert_eq!(bound(&[by_name("x", &["n1", "gone"])], "x"), ["n1"]);
        assert_eq!(bound(&[by_zone("x", "a")], "x"), ["n1", "n2"]);
        let two = binding("x", &json!({"nodeSelector": {"zone": "a", "other": "1"}}));
        assert!(bound(&[two], "x").is_empty());
    }

    #[test]
    fn a_node_that_two_bindings_claim_is_bound_by_neither_and_both_say_so() {
        let bindings = [by_zone("x", "a"), by_name("y", &["n2", "n3"])];
        assert_eq!(bound(&bindings, "x"), ["n1"]);
        assert_eq!(bound(&bindings, "y"), ["n3"]);
        for (binding, other) in [(&bindings[0], "y"), (&bindings[1], "x")] {
            let resolution = &resolve(&bindings, &nodes())[&binding.name_any()];
            let plan = decide(binding, resolution);
            assert_eq!(plan.facts[0].reason, "ConflictingBindings");
            assert_eq!(
                plan.facts[0].message,
                format!(
                    "node n2 is also claimed by StakeBinding {other}; none of the bindings binds such a node"
                )
            );
        }
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
    fn every_case_has_its_reasons() {
        let fine = by_name("x", &["n1"]);
        let nothing = by_name("x", &["gone"]);
        let rival = by_name("y", &["n1"]);
        let chain = "ChainNotConfigured";
        for (bindings, resolved, ready) in [
            (vec![fine.clone()], (Status::True, "NodesResolved"), chain),
            (vec![nothing], (Status::False, "NoNodes"), "NoNodes"),
            (
                vec![fine, rival],
                (Status::False, "ConflictingBindings"),
                "ConflictingBindings",
            ),
        ] {
            assert_eq!(fact(&bindings[0], &bindings, "Resolved"), resolved);
            assert_eq!(
                fact(&bindings[0], &bindings, "Ready"),
                (Status::False, ready)
            );
            for condition in ["ContractMatch", "ChainSynced", "Bonded"] {
                assert_eq!(
                    fact(&bindings[0], &bindings, condition),
                    (Status::Unknown, chain)
                );
            }
        }
    }

    #[test]
    fn what_was_said_once_needs_no_second_write() {
        let binding = by_name("x", &["n1"]);
        let plan = decide(&binding, &resolve([&binding], &nodes())["x"]);
        let first = conditions(&[], &plan.facts, Some(1), Timestamp::UNIX_EPOCH);
        let later = conditions(&first, &plan.facts, Some(1), Timestamp::MAX);
        assert_eq!(first, later);
        assert!(StakeBindingStatus::default().conditions.is_empty());
    }

    #[test]
    fn many_conflicts_make_a_short_message() {
        let claimed: BTreeMap<String, BTreeSet<String>> = (0..900)
            .map(|n| (format!("n{n}"), (0..50).map(|b| format!("b{b}")).collect()))
            .collect();
        let words = conflicts(&claimed);
        assert!(words.len() < 500, "{words}");
        assert!(words.contains("and 896 more nodes"), "{words}");
    }
}
