//! Bindings, nodes and a chain for the tests of this folder and of GpuNodes.

use std::{collections::BTreeMap, sync::Arc};

use alloy_primitives::Address;
use gridstake_crds::StakeBinding;
use serde_json::{Value, json};

use super::resolve::{NodeLabels, Resolutions, resolve};
use crate::chain::{ChainView, fixtures::view, view::ProviderView};

/// Nano-tokens in a token.
pub(crate) const TOKEN: u128 = 1_000_000_000;

/// The staker of [`provider`] and of [`binding`].
pub(crate) const STAKER: Address = Address::repeat_byte(1);
/// The operator of [`provider`] and of [`binding`].
pub(crate) const OPERATOR: Address = Address::repeat_byte(2);

/// A miner's binding to provider 7 on the chain `anvil`.
pub(crate) fn binding(name: &str, select: &Value) -> StakeBinding {
    let mut spec = json!({
        "chain": "anvil", "providerId": 7, "role": "Miner",
        "stakerAddress": STAKER.to_string(), "operatorAddress": OPERATOR.to_string().to_lowercase(),
    });
    let fields = spec.as_object_mut().unwrap();
    fields.extend(select.as_object().unwrap().clone());
    StakeBinding::new(name, serde_json::from_value(spec).unwrap())
}

pub(crate) fn by_name(name: &str, nodes: &[&str]) -> StakeBinding {
    binding(name, &json!({"nodeNames": nodes}))
}

pub(crate) fn by_zone(name: &str, zone: &str) -> StakeBinding {
    binding(name, &json!({"nodeSelector": {"zone": zone}}))
}

/// The same binding to another chain.
pub(crate) fn on_chain(mut binding: StakeBinding, chain: &str) -> StakeBinding {
    chain.clone_into(&mut binding.spec.chain);
    binding
}

/// n1 and n2 in zone a, n3 in zone b.
pub(crate) fn nodes() -> Vec<(&'static str, BTreeMap<String, String>)> {
    [("n1", "a"), ("n2", "a"), ("n3", "b")]
        .map(|(name, zone)| (name, BTreeMap::from([("zone".to_owned(), zone.to_owned())])))
        .to_vec()
}

pub(crate) fn resolve_on(
    bindings: &[StakeBinding],
    nodes: &[(&str, BTreeMap<String, String>)],
) -> Resolutions {
    let nodes: Vec<NodeLabels<'_>> = nodes
        .iter()
        .map(|(name, labels)| NodeLabels { name, labels })
        .collect();
    resolve(bindings, &nodes)
}

/// A provider with 30,000 tokens of its own that `Settlement` pays.
pub(crate) fn provider() -> ProviderView {
    ProviderView {
        staker: STAKER,
        operator: OPERATOR,
        beneficiary: STAKER,
        active: true,
        own: 30_000 * TOKEN,
        effective_stake: 30_000 * TOKEN,
        bonded_miner: true,
        ..ProviderView::default()
    }
}

/// A chain that has been asked for provider 7, and has this to say.
pub(crate) fn view_with(provider: Option<ProviderView>) -> ChainView {
    ChainView {
        providers: Arc::new(BTreeMap::from([(7, provider)])),
        ..view()
    }
}
