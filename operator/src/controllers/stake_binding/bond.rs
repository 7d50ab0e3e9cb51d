//! What stands behind a node: its binding, its provider and its share of the provider's stake. Pure.

use std::sync::Arc;

use alloy_primitives::Address;
use gridstake_crds::{gpu_node::GpuNodeReason, stake_binding::StakeBindingReason};

use super::{
    resolve::{Claim, Resolutions},
    standing::{Sight, judge, share},
};

/// How many conflicting bindings a message names.
const NAMED: usize = 4;

/// What stands behind a node.
#[derive(Clone, Debug, PartialEq)]
pub struct Backing {
    /// The provider to which one StakeBinding binds the node, whatever its stake.
    pub provider: Option<u32>,
    /// The chain that this StakeBinding names.
    pub chain: Option<Arc<str>>,
    /// The bond.
    pub bond: Bond,
}

/// Whether a node has the stake that the lane asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Bond {
    /// No chain is configured, so none is asked for.
    NotAsked,
    /// It has.
    InForce(Provider),
    /// It has not: why.
    Missing(GpuNodeReason, String),
}

/// What a node needs to know of a provider that stands behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provider {
    /// Its account number.
    pub id: u32,
    /// The name of its chain.
    pub chain: Arc<str>,
    /// Who owns its stake.
    pub staker: Address,
    /// Who signs its agents' keys.
    pub operator: Address,
    /// Agents' certificates of another epoch are void.
    pub session_epoch: u64,
    /// The node's share of its stake, in whole tokens.
    pub share: u64,
}

impl Default for Backing {
    fn default() -> Self {
        Self {
            provider: None,
            chain: None,
            bond: Bond::NotAsked,
        }
    }
}

impl Backing {
    /// Who owns the stake that is in force, as the scheduler and its log name them: the staker's address in lowercase. Without the
    /// checksum, which costs a hash for each node in each pass.
    #[must_use]
    pub fn owner(&self) -> Option<String> {
        self.in_force()
            .map(|provider| format!("{:#x}", provider.staker))
    }

    /// The provider whose stake is in force.
    #[must_use]
    pub fn in_force(&self) -> Option<&Provider> {
        match &self.bond {
            Bond::InForce(provider) => Some(provider),
            Bond::NotAsked | Bond::Missing(..) => None,
        }
    }
}

/// What stands behind `node`. `sight` is what is known of the chain of the node's binding, and the chains that have the same
/// stakes; `chain_configured`, whether any chain is.
#[must_use]
pub fn backing(
    node: &str,
    resolutions: &Resolutions,
    chain_configured: bool,
    sight: impl FnOnce(&gridstake_crds::StakeBindingSpec) -> (Sight, Vec<String>),
) -> Backing {
    let claim = resolutions.claim(node);
    let (provider, chain) = match claim {
        Some(Claim::One(spec)) => (Some(spec.provider_id), Some(spec.chain.as_str().into())),
        Some(Claim::Several(_)) | None => (None, None),
    };
    let bond = match claim {
        _ if !chain_configured => Bond::NotAsked,
        None => Bond::Missing(
            GpuNodeReason::NoBinding,
            "no StakeBinding selects the node: create one with its name in spec.nodeNames"
                .to_owned(),
        ),
        Some(Claim::Several(bindings)) => {
            let named: Vec<&str> = bindings.iter().take(NAMED).map(String::as_str).collect();
            let words = format!(
                "{} StakeBindings select the node, so none of them binds it: {}",
                bindings.len(),
                named.join(", ")
            );
            Bond::Missing(GpuNodeReason::ConflictingBindings, words)
        }
        Some(Claim::One(spec)) => {
            let (sight, same_stakes) = sight(spec);
            let judgement = judge(spec, &sight);
            match (judgement.fault, judgement.provider.provider()) {
                (None, Some(provider)) => Bond::InForce(Provider {
                    id: spec.provider_id,
                    chain: spec.chain.as_str().into(),
                    staker: provider.staker,
                    operator: provider.operator,
                    session_epoch: provider.session_epoch,
                    share: share(
                        provider.effective_stake,
                        resolutions.nodes_of_provider(&same_stakes, spec.provider_id),
                    ),
                }),
                (Some(fault), _) => Bond::Missing(reason_of(fault.reason), fault.words),
                (None, None) => Bond::Missing(
                    GpuNodeReason::BindingNotReady,
                    format!("provider {} was not read", spec.provider_id),
                ),
            }
        }
    };
    Backing {
        provider,
        chain,
        bond,
    }
}

/// How a node says what a binding calls by this reason.
fn reason_of(binding: StakeBindingReason) -> GpuNodeReason {
    match binding {
        StakeBindingReason::StakeTooSmall => GpuNodeReason::StakeTooSmall,
        StakeBindingReason::ChainUnavailable => GpuNodeReason::ChainUnavailable,
        _ => GpuNodeReason::BindingNotReady,
    }
}

#[cfg(test)]
mod tests {
    use gridstake_crds::StakeBinding;

    use super::{
        super::fixtures::{OPERATOR, by_name, nodes, on_chain, provider, resolve_on, view_with},
        *,
    };
    use crate::chain::{Standing, view::ProviderView};

    fn backing_of(bindings: &[StakeBinding], provider: Option<ProviderView>) -> Backing {
        let resolutions = resolve_on(bindings, &nodes());
        let standing = Standing::InForce(Arc::new(view_with(provider)));
        backing("n1", &resolutions, true, |_| {
            (Sight::Configured(standing.clone()), same_stakes())
        })
    }

    fn same_stakes() -> Vec<String> {
        ["anvil", "anvil-2"].map(str::to_owned).to_vec()
    }

    fn missing(backing: &Backing) -> GpuNodeReason {
        match &backing.bond {
            Bond::Missing(reason, _) => *reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_bonded_provider_stands_behind_each_node_with_its_share() {
        let backing = backing_of(&[by_name("x", &["n1", "n2", "n3"])], Some(provider()));
        let provider = backing.in_force().unwrap();
        assert_eq!(
            (provider.id, provider.share, provider.operator),
            (7, 10_000, OPERATOR)
        );
    }

    #[test]
    fn one_stake_behind_two_lanes_is_divided_over_the_nodes_of_both() {
        let other_lane = on_chain(by_name("y", &["n2"]), "anvil-2");
        let elsewhere = on_chain(by_name("z", &["n3"]), "base");
        let bindings = [by_name("x", &["n1"]), other_lane, elsewhere];
        let backing = backing_of(&bindings, Some(provider()));
        assert_eq!(backing.in_force().unwrap().share, 15_000);
        assert_eq!(backing.chain.as_deref(), Some("anvil"));
    }

    #[test]
    fn bindings_to_two_chains_that_claim_one_node_bind_neither() {
        let rival = on_chain(by_name("y", &["n1"]), "base");
        let backing = backing_of(&[by_name("x", &["n1"]), rival], Some(provider()));
        assert_eq!(missing(&backing), GpuNodeReason::ConflictingBindings);
        assert_eq!((backing.provider, backing.chain), (None, None));
    }

    #[test]
    fn every_lack_has_its_reason() {
        use GpuNodeReason as R;
        let mine = by_name("x", &["n1"]);
        let rival = by_name("y", &["n1"]);
        let other = by_name("y", &["n2"]);
        let poor = ProviderView {
            bonded_miner: false,
            ..provider()
        };
        let cold = ProviderView {
            active: false,
            ..provider()
        };
        for (bindings, provider, reason, known) in [
            (vec![other], Some(provider()), R::NoBinding, None),
            (
                vec![mine.clone(), rival],
                Some(provider()),
                R::ConflictingBindings,
                None,
            ),
            (vec![mine.clone()], Some(poor), R::StakeTooSmall, Some(7)),
            (vec![mine.clone()], Some(cold), R::BindingNotReady, Some(7)),
            (vec![mine], None, R::BindingNotReady, Some(7)),
        ] {
            let backing = backing_of(&bindings, provider);
            assert_eq!(missing(&backing), reason);
            assert_eq!(backing.provider, known);
            assert_eq!(backing.in_force(), None);
        }
    }

    #[test]
    fn a_chain_that_is_away_for_too_long_ends_the_bond() {
        let resolutions = resolve_on(&[by_name("x", &["n1"])], &nodes());
        let away = Sight::Configured(Standing::Unavailable(Some(Arc::new(view_with(Some(
            provider(),
        ))))));
        let backing = backing("n1", &resolutions, true, |_| (away.clone(), same_stakes()));
        assert_eq!(missing(&backing), GpuNodeReason::ChainUnavailable);
    }

    #[test]
    fn without_a_chain_no_bond_is_asked_for() {
        let resolutions = resolve_on(&[by_name("x", &["n1"])], &nodes());
        let unasked = |_: &gridstake_crds::StakeBindingSpec| (Sight::NotConfigured(vec![]), vec![]);
        let bound = backing("n1", &resolutions, false, unasked);
        assert_eq!((bound.provider, bound.bond), (Some(7), Bond::NotAsked));
        let free = backing("n4", &resolutions, false, unasked);
        assert_eq!(free, Backing::default());
    }
}
