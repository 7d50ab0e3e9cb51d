//! What is to be said about a StakeBinding. Pure.

use std::collections::{BTreeMap, BTreeSet};

use gridstake_crds::{
    StakeBinding,
    condition::{Fact, Status},
    stake_binding::{StakeBindingCondition, StakeBindingReason},
};

use super::{
    resolve::{Resolution, Resolutions},
    standing::{Fault, Figures, Sight, judge, share},
};

/// How many conflicts a message names.
const NAMED: usize = 4;

/// What is to be said about a binding.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// All conditions.
    pub facts: Vec<Fact>,
    /// The nodes that it binds, in alphabetical order.
    pub nodes: Vec<String>,
    /// The provider's figures.
    pub figures: Figures,
    /// What the stake counts in the draw, over all nodes of this binding, in whole tokens.
    pub effective_weight: u64,
}

/// What is to be said about `binding`, whose part of all `resolutions` is `resolution`. `same_stakes` are the chains that have
/// the stakes of its chain.
#[must_use]
pub fn decide(
    binding: &StakeBinding,
    resolution: &Resolution,
    resolutions: &Resolutions,
    sight: &Sight,
    same_stakes: &[String],
) -> Plan {
    let spec = &binding.spec;
    let judgement = judge(spec, sight);
    let resolved = resolved(resolution);
    let ready = if resolved.status == Status::True {
        ready(judgement.fault.as_ref())
    } else {
        Fact {
            condition: "Ready",
            ..resolved.clone()
        }
    };
    let effective_weight = match judgement.provider.provider() {
        Some(provider) if judgement.fault.is_none() => {
            let nodes = resolutions.nodes_of_provider(same_stakes, spec.provider_id);
            let bound = u64::try_from(resolution.nodes.len()).unwrap_or(u64::MAX);
            share(provider.effective_stake, nodes).saturating_mul(bound)
        }
        _ => 0,
    };
    let mut facts = vec![resolved];
    facts.extend(judgement.facts);
    facts.push(ready);
    Plan {
        facts,
        nodes: resolution.nodes.iter().cloned().collect(),
        figures: judgement.provider,
        effective_weight,
    }
}

fn ready(fault: Option<&Fault>) -> Fact {
    let (reason, words) = match fault {
        Some(fault) => (fault.reason, fault.words.as_str()),
        None => (
            StakeBindingReason::Ready,
            "the provider's stake answers for these nodes",
        ),
    };
    Fact::new(StakeBindingCondition::Ready, fault.is_none(), reason, words)
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

/// Such as `node n1 is also claimed by StakeBinding b; none of the bindings binds such a node`.
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
    use std::sync::Arc;

    use gridstake_crds::condition::conditions;
    use k8s_openapi::jiff::Timestamp;
    use kube::ResourceExt as _;

    use super::{
        super::fixtures::{by_name, by_zone, nodes, provider, resolve_on, view_with},
        *,
    };
    use crate::chain::Standing;

    fn in_force() -> Sight {
        Sight::Configured(Standing::InForce(Arc::new(view_with(Some(provider())))))
    }

    fn plan(binding: &StakeBinding, bindings: &[StakeBinding], sight: &Sight) -> Plan {
        let resolutions = resolve_on(bindings, &nodes());
        let resolution = resolutions.binding(&binding.name_any()).unwrap();
        let same_stakes = [binding.spec.chain.clone()];
        decide(binding, resolution, &resolutions, sight, &same_stakes)
    }

    fn ready_of(plan: &Plan) -> (Status, &'static str) {
        let fact = plan.facts.last().unwrap();
        (fact.status, fact.reason)
    }

    #[test]
    fn all_conditions_are_stated_in_every_case() {
        let fine = by_name("x", &["n1"]);
        for sight in [
            in_force(),
            Sight::NotConfigured(vec![]),
            Sight::Configured(Standing::Unavailable(None)),
        ] {
            let stated: Vec<&str> = plan(&fine, std::slice::from_ref(&fine), &sight)
                .facts
                .iter()
                .map(|fact| fact.condition)
                .collect();
            assert_eq!(stated, super::super::status::OWNER.conditions);
        }
    }

    #[test]
    fn nodes_that_are_not_the_bindings_own_come_before_what_the_chain_says() {
        let fine = by_name("x", &["n1"]);
        let nothing = by_name("x", &["gone"]);
        let rival = by_name("y", &["n1"]);
        let unconfigured = Sight::NotConfigured(vec![]);
        for (bindings, sight, holds, reason) in [
            (vec![fine.clone()], in_force(), Status::True, "Ready"),
            (
                vec![fine.clone()],
                unconfigured.clone(),
                Status::False,
                "ChainNotConfigured",
            ),
            (vec![nothing.clone()], in_force(), Status::False, "NoNodes"),
            (vec![nothing], unconfigured, Status::False, "NoNodes"),
            (
                vec![fine, rival],
                in_force(),
                Status::False,
                "ConflictingBindings",
            ),
        ] {
            let plan = plan(&bindings[0], &bindings, &sight);
            assert_eq!(ready_of(&plan), (holds, reason));
        }
    }

    #[test]
    fn both_bindings_of_a_node_in_conflict_name_each_other() {
        let bindings = [by_zone("x", "a"), by_name("y", &["n2", "n3"])];
        for (binding, other) in [(&bindings[0], "y"), (&bindings[1], "x")] {
            let plan = plan(binding, &bindings, &in_force());
            assert_eq!(
                plan.facts[0].message,
                format!(
                    "node n2 is also claimed by StakeBinding {other}; none of the bindings binds such a node"
                )
            );
        }
    }

    #[test]
    fn a_stake_weighs_once_however_many_bindings_divide_it() {
        let bindings = [by_name("x", &["n1"]), by_name("y", &["n2", "n3"])];
        let weigh = |binding: &StakeBinding| plan(binding, &bindings, &in_force()).effective_weight;
        assert_eq!(weigh(&bindings[0]), 10_000);
        assert_eq!(weigh(&bindings[1]), 20_000);
        let mut unbonded = provider();
        unbonded.bonded_miner = false;
        let sight = Sight::Configured(Standing::InForce(Arc::new(view_with(Some(unbonded)))));
        assert_eq!(plan(&bindings[0], &bindings, &sight).effective_weight, 0);
    }

    #[test]
    fn what_was_said_once_needs_no_second_write() {
        let binding = by_name("x", &["n1"]);
        let plan = plan(&binding, std::slice::from_ref(&binding), &in_force());
        let first = conditions(&[], &plan.facts, Some(1), Timestamp::UNIX_EPOCH);
        let later = conditions(&first, &plan.facts, Some(1), Timestamp::MAX);
        assert_eq!(first, later);
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
