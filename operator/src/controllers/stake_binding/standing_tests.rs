//! Facts about [`super::judge`] and [`super::share`].

use proptest::prelude::*;

use super::{
    super::fixtures::{OPERATOR, TOKEN, by_name, provider, view_with},
    *,
};
use crate::chain::ContractMismatch;

fn spec() -> StakeBindingSpec {
    by_name("x", &["n1"]).spec
}

fn sees(provider: Option<ProviderView>) -> Sight {
    Sight::Configured(Standing::InForce(Arc::new(view_with(provider))))
}

fn with(change: impl FnOnce(&mut ProviderView)) -> Sight {
    let mut provider = provider();
    change(&mut provider);
    sees(Some(provider))
}

/// The reasons of `ContractMatch`, `ChainSynced`, `Bonded`, each with `+`, `-` or `?` for its status, and of the fault.
fn reasons(sight: &Sight) -> ([String; 3], Option<&'static str>) {
    use gridstake_crds::closed_enum::ClosedEnum as _;
    let judgement = judge(&spec(), sight);
    let sign = |fact: &Fact| {
        let sign = match fact.status {
            Status::True => '+',
            Status::False => '-',
            Status::Unknown => '?',
        };
        format!("{sign}{}", fact.reason)
    };
    let [a, b, c] = &judgement.facts;
    (
        [sign(a), sign(b), sign(c)],
        judgement.fault.map(|fault| fault.reason.as_str()),
    )
}

#[test]
fn every_case_has_its_reasons() {
    let stale = Standing::Unavailable(Some(Arc::new(view_with(Some(provider())))));
    let mismatch = ContractMismatch::ChainId {
        expected: 1,
        found: 2,
    };
    let not_read = Standing::InForce(Arc::new(crate::chain::fixtures::view()));
    for (case, sight, expected, fault) in [
        (
            "all is well",
            sees(Some(provider())),
            ["+Matches", "+Synced", "+StakeSuffices"],
            None,
        ),
        (
            "no such chain",
            Sight::NotConfigured(vec![]),
            [
                "?ChainNotConfigured",
                "?ChainNotConfigured",
                "?ChainNotConfigured",
            ],
            Some("ChainNotConfigured"),
        ),
        (
            "another chain behind the endpoint",
            Sight::Configured(Standing::Mismatch(mismatch)),
            [
                "-ContractMismatch",
                "?ContractMismatch",
                "?ContractMismatch",
            ],
            Some("ContractMismatch"),
        ),
        (
            "never seen",
            Sight::Configured(Standing::Unavailable(None)),
            [
                "?ChainUnavailable",
                "-ChainUnavailable",
                "?ChainUnavailable",
            ],
            Some("ChainUnavailable"),
        ),
        (
            "too long ago",
            Sight::Configured(stale),
            [
                "?ChainUnavailable",
                "-ChainUnavailable",
                "?ChainUnavailable",
            ],
            Some("ChainUnavailable"),
        ),
        (
            "not asked for yet",
            Sight::Configured(not_read),
            ["?ChainUnavailable", "+Synced", "?ChainUnavailable"],
            Some("ChainUnavailable"),
        ),
        (
            "not registered",
            sees(None),
            ["-ProviderUnknown", "+Synced", "?ProviderUnknown"],
            Some("ProviderUnknown"),
        ),
        (
            "another staker",
            with(|p| p.staker = Address::repeat_byte(9)),
            ["-AddressMismatch", "+Synced", "?AddressMismatch"],
            Some("AddressMismatch"),
        ),
        (
            "too little",
            with(|p| p.bonded_miner = false),
            ["+Matches", "+Synced", "-StakeTooSmall"],
            Some("StakeTooSmall"),
        ),
        (
            "cooling",
            with(|p| p.active = false),
            ["+Matches", "+Synced", "+StakeSuffices"],
            Some("Cooling"),
        ),
        (
            "too little and cooling",
            with(|p| (p.active, p.bonded_miner) = (false, false)),
            ["+Matches", "+Synced", "-StakeTooSmall"],
            Some("StakeTooSmall"),
        ),
    ] {
        let expected = expected.map(str::to_owned);
        assert_eq!(reasons(&sight), (expected, fault), "{case}");
    }
}

#[test]
fn an_unknown_chain_names_those_that_are_configured() {
    let words = |names: &[&str]| {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        judge(&spec(), &Sight::NotConfigured(names))
            .fault
            .unwrap()
            .words
    };
    assert_eq!(
        words(&["base", "devnet"]),
        "no chain named anvil is configured in the operator; configured: base, devnet. spec.chain cannot be changed: create a new StakeBinding"
    );
    assert!(words(&[]).contains("nor any other"));
}

#[test]
fn a_mismatch_names_every_address_that_differs_and_no_other() {
    let words = |sight: &Sight, spec: &StakeBindingSpec| {
        let judgement = judge(spec, sight);
        judgement.facts[0].message.clone()
    };
    let other = Address::repeat_byte(9);
    let found = words(&with(|p| p.staker = other), &spec());
    assert!(
        found.contains(&format!("and the contract has {other}")),
        "{found}"
    );
    assert!(found.contains("spec.stakerAddress"), "{found}");
    assert!(!found.contains("spec.operatorAddress"), "{found}");
    assert!(!found.contains("spec.beneficiary"), "{found}");

    let found = words(&with(|p| p.beneficiary = other), &spec());
    assert!(found.contains("spec.beneficiary (by default spec.stakerAddress)"));
    let mut told = spec();
    told.beneficiary = Some(other.to_string());
    assert!(words(&with(|p| p.beneficiary = other), &told).contains("has these addresses"));
    let both = words(
        &with(|p| (p.operator, p.beneficiary) = (other, OPERATOR)),
        &spec(),
    );
    assert!(both.contains("spec.operatorAddress") && both.contains("spec.beneficiary"));
}

#[test]
fn each_role_has_its_minimum() {
    let mut coordinator = spec();
    coordinator.role = StakeRole::Coordinator;
    let judgement = judge(&coordinator, &sees(Some(provider())));
    assert_eq!(
        judgement.fault.unwrap().words,
        "the effective stake 30000 (own 30000, delegated 0, frozen 0) is not above 2000000, the minimum for role Coordinator: more than 1970000 is to be added with StakeVault.stake or delegate"
    );
}

#[test]
fn figures_are_shown_as_long_as_any_are_known() {
    let figures = |sight: &Sight| judge(&spec(), sight).provider;
    let view = Arc::new(view_with(Some(provider())));
    let stale = Sight::Configured(Standing::Unavailable(Some(view)));
    assert_eq!(figures(&stale).provider(), Some(&provider()));
    // Such as after a restart of the operator while the chain is away.
    let never = Sight::Configured(Standing::Unavailable(None));
    assert_eq!(figures(&never), Figures::Unchanged);
    assert_eq!(figures(&sees(None)), Figures::None);
}

proptest! {
    #[test]
    fn the_shares_of_all_nodes_never_exceed_the_stake_and_waste_less_than_a_token_each(
        stake in 0_u128..1 << 90, nodes in 1_u64..5000,
    ) {
        let divided = u128::from(share(stake, nodes)) * u128::from(nodes);
        prop_assert!(divided <= stake / TOKEN);
        prop_assert!(divided + u128::from(nodes) > stake / TOKEN);
    }
}
