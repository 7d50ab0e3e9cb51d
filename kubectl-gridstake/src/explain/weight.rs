//! What a node weighs in the draw, from what its objects show now. Pure.

use gridstake_crds::{
    GpuNode, StakeBinding, TokenAmount,
    condition::{find, is_true},
    gpu_node::{GpuNodeCondition, GpuNodeReason, OwnerCut},
};
use kube::ResourceExt as _;
use serde::Serialize;

use crate::replay::{cuts, fits::weigh};

/// What every node's stake counts where no chain is configured, in whole tokens (docs/scheduling.md).
const STAKE_WITHOUT_CHAIN: u64 = 100_000;
/// The reputation of a node of which nothing is known, in thousandths (docs/reputation.md).
const NEWCOMER: u32 = 500;

/// The terms of a node's weight: `⌊stake · reputation · 2^20 ÷ price⌋`, at most 2^40, of which `level ÷ sum` is left where its owner is
/// cut (docs/scheduling.md).
#[derive(Serialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct WeightTerms {
    /// The node's share of its provider's stake, in whole tokens.
    pub stake: u64,
    /// Its reputation in thousandths.
    pub reputation: u32,
    /// The price of one GPU for one second, in whole tokens.
    pub price: TokenAmount,
    /// How its owner is cut, if it has more than one owner may have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner_cut: Option<OwnerCut>,
    /// What follows.
    pub weight: u64,
}

/// The weight of `node` by what it and `bindings` show now, at `price` if one is given, else at its own. `None` where its
/// stake is not known.
#[must_use]
pub fn weight_of(
    node: &GpuNode,
    bindings: &[StakeBinding],
    price: Option<TokenAmount>,
) -> Option<WeightTerms> {
    let stake = stake_of(node, bindings)?;
    let own = || node.spec.pricing.as_ref().map(|p| p.per_gpu_second);
    let price = price.or_else(own).unwrap_or_default();
    let reputation = node
        .status
        .as_ref()
        .and_then(|status| status.reputation)
        .unwrap_or(NEWCOMER);
    let owner_cut = node.status.as_ref().and_then(|s| s.owner_cut.clone());
    let full = weigh(stake, reputation, price.nano());
    let fraction = owner_cut
        .as_ref()
        .and_then(|cut| Some((cut.level.parse().ok()?, cut.sum.parse().ok()?)));
    Some(WeightTerms {
        stake,
        reputation,
        price,
        weight: fraction.map_or(full, |(level, sum)| cuts::left(full, level, sum)),
        owner_cut,
    })
}

/// The StakeBinding that binds the node.
#[must_use]
pub fn binding_of<'a>(node: &str, bindings: &'a [StakeBinding]) -> Option<&'a StakeBinding> {
    bindings.iter().find(|binding| {
        let status = binding.status.as_ref();
        status.is_some_and(|status| status.nodes.iter().any(|name| name == node))
    })
}

/// The stake of this node alone: its provider's is divided evenly over the nodes of a binding.
fn stake_of(node: &GpuNode, bindings: &[StakeBinding]) -> Option<u64> {
    let conditions = &node.status.as_ref()?.conditions;
    let bonded = find(conditions, GpuNodeCondition::Bonded)?;
    if bonded.reason == GpuNodeReason::NoChainConfigured.to_string() {
        return Some(STAKE_WITHOUT_CHAIN);
    }
    if !is_true(conditions, GpuNodeCondition::Bonded) {
        return (bonded.status == "False").then_some(0);
    }
    let status = binding_of(&node.name_any(), bindings)?.status.as_ref()?;
    let all: u64 = status.effective_weight.as_ref()?.parse().ok()?;
    all.checked_div(u64::try_from(status.nodes.len()).ok()?)
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::{Value, json};

    use super::*;

    pub(crate) fn node(name: &str, bonded: &Value, spec: &Value, reputation: &Value) -> GpuNode {
        serde_json::from_value(json!({
            "apiVersion": "gridstake.dev/v1alpha1", "kind": "GpuNode", "metadata": {"name": name},
            "spec": spec,
            "status": {"reputation": reputation, "conditions": [{
                "type": "Bonded", "status": bonded["status"], "reason": bonded["reason"], "message": "",
                "lastTransitionTime": "2027-01-01T00:00:00Z",
            }]},
        }))
        .unwrap()
    }

    pub(crate) fn binding(nodes: &[&str], weight: &str) -> StakeBinding {
        serde_json::from_value(json!({
            "apiVersion": "gridstake.dev/v1alpha1", "kind": "StakeBinding", "metadata": {"name": "acme"},
            "spec": {
                "chain": "base", "providerId": 7, "role": "Miner", "nodeNames": nodes,
                "stakerAddress": "0x0000000000000000000000000000000000000001",
                "operatorAddress": "0x0000000000000000000000000000000000000002",
            },
            "status": {"nodes": nodes, "effectiveWeight": weight},
        }))
        .unwrap()
    }

    fn told(node: &GpuNode, bindings: &[StakeBinding]) -> Option<(u64, u32, u64)> {
        weight_of(node, bindings, None).map(|w| (w.stake, w.reputation, w.weight))
    }

    #[test]
    fn a_bound_node_weighs_by_its_share_of_the_bindings_stake() {
        let bonded = json!({"status": "True", "reason": "Bonded"});
        let priced = json!({"pricing": {"perGpuSecond": "0.00072"}});
        let n1 = node("n1", &bonded, &priced, &json!(1000));
        let bindings = [binding(&["n1", "n2"], "40000")];
        assert_eq!(told(&n1, &bindings), Some((20_000, 1000, 29_127_111)));
        let dearer = weight_of(&n1, &bindings, Some("0.00144".parse().unwrap()));
        assert_eq!(dearer.map(|w| w.weight), Some(14_563_555));
    }

    #[test]
    fn what_an_owner_has_too_much_of_is_taken_from_its_nodes() {
        let bonded = json!({"status": "True", "reason": "Bonded"});
        let priced = json!({"pricing": {"perGpuSecond": "0.00072"}});
        let mut cut = node("n1", &bonded, &priced, &json!(1000));
        cut.status.as_mut().unwrap().owner_cut = Some(OwnerCut {
            level: "1000".to_owned(),
            sum: "4000".to_owned(),
        });
        let bindings = [binding(&["n1", "n2"], "40000")];
        assert_eq!(told(&cut, &bindings), Some((20_000, 1000, 29_127_111 / 4)));
    }

    #[test]
    fn without_a_chain_every_stake_is_the_same_and_who_has_no_reputation_is_a_newcomer() {
        let bonded = json!({"status": "True", "reason": "NoChainConfigured"});
        let free = node("n1", &bonded, &json!({}), &Value::Null);
        assert_eq!(told(&free, &[]), Some((100_000, 500, 1 << 40)));
    }

    #[test]
    fn a_node_without_a_bond_weighs_nothing_and_one_whose_binding_is_not_seen_is_not_guessed() {
        let unbonded = json!({"status": "False", "reason": "NoBinding"});
        let unbonded = node("n1", &unbonded, &json!({}), &json!(700));
        assert_eq!(told(&unbonded, &[]), Some((0, 700, 0)));
        let bonded = json!({"status": "True", "reason": "Bonded"});
        let bonded = node("n1", &bonded, &json!({}), &json!(700));
        assert_eq!(told(&bonded, &[]), None);
        assert_eq!(told(&bonded, &[binding(&["n2"], "5")]), None);
    }
}
