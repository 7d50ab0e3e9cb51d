//! Whether the provider that a StakeBinding names stands behind its nodes, by what the chain says. Pure.

use std::sync::Arc;

use alloy_primitives::Address;
use gridstake_crds::{
    StakeBindingSpec, TokenAmount,
    amount::NANO_PER_TOKEN,
    condition::{Fact, Status},
    stake_binding::{StakeBindingCondition, StakeBindingReason, StakeRole},
};

use crate::chain::{Account, ChainView, Standing, view::ProviderView};

/// What is known of the chain that a binding names.
#[derive(Clone, Debug, PartialEq)]
pub enum Sight {
    /// The operator knows no chain of that name; the names that it knows.
    NotConfigured(Vec<String>),
    /// Whether the chain can be gone by.
    Configured(Standing),
}

/// What the chain says about a binding's provider.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgement {
    /// `ContractMatch`, `ChainSynced` and `Bonded`, in this order.
    pub facts: [Fact; 3],
    /// The first thing that keeps the provider from standing behind its nodes; `None` if nothing does.
    pub fault: Option<Fault>,
    /// The provider's figures, as last observed.
    pub provider: Figures,
}

/// What keeps a provider from standing behind its nodes.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// The reason.
    pub reason: StakeBindingReason,
    /// The words.
    pub words: String,
}

/// A provider's figures.
#[derive(Clone, Debug, PartialEq)]
pub enum Figures {
    /// As observed in this view.
    Observed(Arc<ChainView>, u32),
    /// Nothing newer than what was written before.
    Unchanged,
    /// There are none.
    None,
}

impl Figures {
    /// The provider, where one was observed.
    #[must_use]
    pub fn provider(&self) -> Option<&ProviderView> {
        match self {
            Self::Observed(view, id) => match view.provider(*id) {
                Account::Known(provider) => Some(provider),
                Account::Missing | Account::NotRead => None,
            },
            Self::Unchanged | Self::None => None,
        }
    }
}

/// A status, a reason and words, for one condition or several.
#[derive(Clone)]
struct Verdict(Status, StakeBindingReason, String);

impl Verdict {
    fn fact(self, condition: StakeBindingCondition) -> Fact {
        Fact::new(condition, self.0, self.1, self.2)
    }

    /// Where the question cannot be answered for this reason.
    fn unknown(&self) -> Self {
        Self(Status::Unknown, self.1, self.2.clone())
    }

    fn fault(self) -> Fault {
        Fault {
            reason: self.1,
            words: self.2,
        }
    }

    fn holds(&self) -> bool {
        self.0 == Status::True
    }
}

/// Judges the provider of `spec` by what is known of its chain.
#[must_use]
pub fn judge(spec: &StakeBindingSpec, sight: &Sight) -> Judgement {
    let view = match sight {
        Sight::NotConfigured(names) => {
            let words = not_configured(&spec.chain, names);
            let verdict = Verdict(
                Status::Unknown,
                StakeBindingReason::ChainNotConfigured,
                words,
            );
            return nothing_known(&verdict, &verdict, Figures::None);
        }
        Sight::Configured(Standing::Mismatch(mismatch)) => {
            let words = format!("chain {}: {mismatch}", spec.chain);
            let mismatch = Verdict(Status::False, StakeBindingReason::ContractMismatch, words);
            return nothing_known(&mismatch, &mismatch.unknown(), Figures::None);
        }
        Sight::Configured(Standing::Unavailable(last)) => {
            let figures = last
                .as_ref()
                .map_or(Figures::Unchanged, |view| observed(view, spec.provider_id));
            let verdict = Verdict(
                Status::Unknown,
                StakeBindingReason::ChainUnavailable,
                unavailable(&spec.chain, last.is_some()),
            );
            return Judgement {
                facts: [
                    verdict.clone().fact(StakeBindingCondition::ContractMatch),
                    Verdict(Status::False, verdict.1, verdict.2.clone())
                        .fact(StakeBindingCondition::ChainSynced),
                    verdict.clone().fact(StakeBindingCondition::Bonded),
                ],
                fault: Some(verdict.fault()),
                provider: figures,
            };
        }
        Sight::Configured(Standing::InForce(view)) => view,
    };
    judge_in(spec, view)
}

/// Judges by a view that is in force.
fn judge_in(spec: &StakeBindingSpec, view: &Arc<ChainView>) -> Judgement {
    let matches = contract_match(spec, view.provider(spec.provider_id));
    let synced = Verdict(
        Status::True,
        StakeBindingReason::Synced,
        format!(
            "chain {} was read lately; status.observedBlock is where these figures were first seen",
            spec.chain
        ),
    );
    let (bonded, cooling) = match view.provider(spec.provider_id) {
        Account::Known(provider) if matches.holds() => (
            bonded(spec.role, provider, view),
            (!provider.active).then(|| cooling(spec)),
        ),
        _ => (matches.unknown(), None),
    };
    let fault = [&matches, &bonded]
        .into_iter()
        .chain(&cooling)
        .find(|verdict| !verdict.holds())
        .cloned();
    Judgement {
        facts: [
            matches.fact(StakeBindingCondition::ContractMatch),
            synced.fact(StakeBindingCondition::ChainSynced),
            bonded.fact(StakeBindingCondition::Bonded),
        ],
        fault: fault.map(Verdict::fault),
        provider: observed(view, spec.provider_id),
    }
}

/// `matches` and `rest` where nothing that the chain says may be relied on.
fn nothing_known(matches: &Verdict, rest: &Verdict, provider: Figures) -> Judgement {
    Judgement {
        facts: [
            matches.clone().fact(StakeBindingCondition::ContractMatch),
            rest.clone().fact(StakeBindingCondition::ChainSynced),
            rest.clone().fact(StakeBindingCondition::Bonded),
        ],
        fault: Some(matches.clone().fault()),
        provider,
    }
}

fn observed(view: &Arc<ChainView>, id: u32) -> Figures {
    match view.provider(id) {
        Account::Known(_) => Figures::Observed(view.clone(), id),
        Account::Missing => Figures::None,
        Account::NotRead => Figures::Unchanged,
    }
}

fn contract_match(spec: &StakeBindingSpec, account: Account<&ProviderView>) -> Verdict {
    let (chain, id) = (&spec.chain, spec.provider_id);
    match account {
        Account::NotRead => Verdict(
            Status::Unknown,
            StakeBindingReason::ChainUnavailable,
            format!("provider {id} has not been read from chain {chain} yet"),
        ),
        Account::Missing => Verdict(
            Status::False,
            StakeBindingReason::ProviderUnknown,
            format!(
                "chain {chain} knows no provider {id}: StakeVault.register returns the number; spec.providerId cannot be changed, so create a new StakeBinding with the right one"
            ),
        ),
        Account::Known(provider) => match differences(spec, provider) {
            None => Verdict(
                Status::True,
                StakeBindingReason::Matches,
                format!("provider {id} on chain {chain} has these addresses"),
            ),
            Some(words) => Verdict(Status::False, StakeBindingReason::AddressMismatch, words),
        },
    }
}

/// Which addresses differ, such as `spec.stakerAddress is 0x…, and the contract has 0x…`.
fn differences(spec: &StakeBindingSpec, provider: &ProviderView) -> Option<String> {
    let beneficiary = match &spec.beneficiary {
        Some(address) => ("spec.beneficiary", address),
        None => (
            "spec.beneficiary (by default spec.stakerAddress)",
            &spec.staker_address,
        ),
    };
    let differences: Vec<String> = [
        ("spec.stakerAddress", &spec.staker_address, provider.staker),
        (
            "spec.operatorAddress",
            &spec.operator_address,
            provider.operator,
        ),
        (beneficiary.0, beneficiary.1, provider.beneficiary),
    ]
    .into_iter()
    .filter(|(_, said, found)| said.parse::<Address>() != Ok(*found))
    .map(|(field, said, found)| format!("{field} is {said}, and the contract has {found}"))
    .collect();
    (!differences.is_empty()).then(|| {
        format!(
            "provider {}: {}; correct the StakeBinding, or the account on chain",
            spec.provider_id,
            differences.join("; ")
        )
    })
}

fn bonded(role: StakeRole, provider: &ProviderView, view: &ChainView) -> Verdict {
    let (bonded, minimum) = match role {
        StakeRole::Miner => (provider.bonded_miner, view.params.minimum_stake_miner),
        StakeRole::Coordinator => (
            provider.bonded_coordinator,
            view.params.minimum_stake_coordinator,
        ),
    };
    let tokens = |nano: u128| TokenAmount::from_nano(nano).to_string();
    let (effective, least) = (tokens(provider.effective_stake), tokens(minimum));
    if bonded {
        let words = format!(
            "the effective stake {effective} is above {least}, the minimum for role {role}"
        );
        return Verdict(Status::True, StakeBindingReason::StakeSuffices, words);
    }
    let words = format!(
        "the effective stake {effective} (own {}, delegated {}, frozen {}) is not above {least}, the minimum for role {role}: more than {} is to be added with StakeVault.stake or delegate",
        tokens(provider.own),
        tokens(provider.delegated),
        tokens(provider.frozen),
        tokens(minimum.saturating_sub(provider.effective_stake)),
    );
    Verdict(Status::False, StakeBindingReason::StakeTooSmall, words)
}

fn cooling(spec: &StakeBindingSpec) -> Verdict {
    Verdict(
        Status::False,
        StakeBindingReason::Cooling,
        format!(
            "provider {id} registered too recently to be paid: once its cooling is over the operator activates it (Settlement.activateProvider({id}), which anyone may call)",
            id = spec.provider_id
        ),
    )
}

fn not_configured(chain: &str, configured: &[String]) -> String {
    if configured.is_empty() {
        return format!(
            "no chain named {chain} is configured in the operator, nor any other: set chains in its chains file"
        );
    }
    format!(
        "no chain named {chain} is configured in the operator; configured: {}. spec.chain cannot be changed: create a new StakeBinding",
        configured.join(", ")
    )
}

fn unavailable(chain: &str, ever: bool) -> String {
    if ever {
        format!("chain {chain} has not answered for longer than its maxStaleness")
    } else {
        format!("chain {chain} has not answered since the operator started")
    }
}

/// A node's share of its provider's stake, in whole tokens, where the stake is divided over `nodes` nodes.
#[must_use]
pub fn share(effective_stake: u128, nodes: u64) -> u64 {
    let tokens = effective_stake / NANO_PER_TOKEN;
    u64::try_from(tokens / u128::from(nodes.max(1))).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[path = "standing_tests.rs"]
mod tests;
