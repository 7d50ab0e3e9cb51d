//! Facts about what is sent for stake.

use alloy::sol_types::SolCall as _;
use proptest::prelude::*;

use super::*;
use crate::money::{plan::Ready, token::tests::token};

const STAKER: Address = Address::repeat_byte(1);
const OTHER: Address = Address::repeat_byte(2);
const NOW: u64 = 1_800_000_000;
const TOKEN: u128 = 1_000_000_000;

fn sight() -> Sight {
    let token = token(18);
    Sight {
        provider: Provider {
            id: 7,
            staker: STAKER,
            own: 15_000 * TOKEN,
            delegated: 0,
            frozen: 0,
            minimum: 20_000 * TOKEN,
            limit_bps: 10_000,
            unbonding: 604_800,
        },
        account: Account {
            address: STAKER,
            balance: token.units(30_000 * TOKEN),
            allowed: U256::ZERO,
            shares: 0,
            worth: 0,
            tickets: Vec::new(),
        },
        token,
        vault: Address::repeat_byte(0x52),
        now: NOW,
    }
}

fn of_other(mut sight: Sight) -> Sight {
    sight.account.address = OTHER;
    sight
}

fn with_tickets(tickets: &[(u32, u128, u64)]) -> Sight {
    let mut sight = sight();
    sight.account.tickets = tickets
        .iter()
        .map(|(id, amount, unlocks)| Ticket {
            id: *id,
            amount: *amount,
            unlocks: *unlocks,
        })
        .collect();
    sight
}

#[test]
fn who_stakes_is_told_whether_it_suffices_and_when_it_comes_back() {
    let plan = sight().stake(5_000 * TOKEN).unwrap();
    assert_eq!(
        plan.now,
        [
            "provider 7: own stake 15000 GRID, delegated 0 GRID: not bonded, since 15000 GRID count and more than 20000 GRID are needed",
            "the account has 30000 GRID",
        ]
    );
    let whats: Vec<&str> = plan.steps.iter().map(|step| step.what.as_str()).collect();
    assert!(whats[0].ends_with("take exactly 5000 GRID of this account's"));
    assert_eq!(whats[1], "stake 5000 GRID for provider 7");
    // The minimum itself is not enough.
    assert!(plan.then[0].contains("not bonded, since 20000 GRID count"));
    assert!(plan.then[1].starts_with("it comes back 7 days after `unstake`"));
    let enough = sight().stake(5_000 * TOKEN + 1).unwrap();
    assert!(
        enough.then[0].ends_with("bonded as a miner, since 20000.000000001 GRID count"),
        "{:?}",
        enough.then
    );
}

#[test]
fn what_is_approved_already_is_not_approved_again() {
    let mut approved = sight();
    approved.account.allowed = U256::MAX;
    let plan = approved.stake(TOKEN).unwrap();
    assert_eq!(plan.steps.len(), 1);
    assert_eq!(plan.steps[0].ready, Ready::Now);
}

#[test]
fn only_the_owner_adds_to_a_stake_and_anybody_delegates() {
    let words = of_other(sight()).stake(TOKEN).unwrap_err();
    assert!(
        words.starts_with("--key-file: ") && words.contains("kubectl gridstake delegate"),
        "{words}"
    );
    let plan = of_other(sight()).delegate(6_000 * TOKEN).unwrap();
    assert_eq!(plan.steps[1].what, "delegate 6000 GRID to provider 7");
    // Own 15,000 and as much of what is delegated count.
    assert!(plan.then[0].contains("bonded as a miner, since 21000 GRID count"));
    assert!(plan.then[1].contains("can be slashed"));
}

#[test]
fn delegated_stake_counts_up_to_the_limit_and_frozen_stake_does_not() {
    let provider = Provider {
        delegated: 100_000 * TOKEN,
        frozen: 5_000 * TOKEN,
        ..sight().provider
    };
    assert_eq!(provider.effective(), 25_000 * TOKEN);
    let none = Provider {
        limit_bps: 0,
        frozen: u128::MAX,
        ..provider
    };
    assert_eq!(none.effective(), 0);
}

#[test]
fn more_than_there_is_is_neither_staked_nor_asked_back() {
    let words = sight().stake(30_001 * TOKEN).unwrap_err();
    assert!(words.contains("has 30000 GRID, not 30001 GRID"), "{words}");
    let words = sight().unstake(Some(15_001 * TOKEN)).unwrap_err();
    assert!(words.contains("has 15000 GRID of its own"), "{words}");
    let mut empty = sight();
    empty.provider.own = 0;
    assert!(empty.unstake(None).unwrap_err().contains("no own stake"));
}

#[test]
fn who_unstakes_is_told_when_it_can_be_withdrawn_and_that_the_bond_ends() {
    let mut bonded = sight();
    bonded.provider.own = 25_000 * TOKEN;
    let plan = bonded.unstake(Some(10_000 * TOKEN)).unwrap();
    let call = StakeVault::requestUnbondCall::abi_decode(&plan.steps[0].call.input).unwrap();
    assert_eq!((call.provider, call.amount), (7, 10_000 * TOKEN));
    assert!(
        plan.then[1].contains("`unstake --withdraw` from 2027-01-22T08:00:00Z"),
        "{:?}",
        plan.then
    );
    assert_eq!(plan.then[2], "its nodes get no new jobs from then on");
    assert_eq!(bonded.unstake(Some(1)).unwrap().then.len(), 2);
    let all = bonded.unstake(None).unwrap();
    assert!(all.steps[0].what.contains("25000 GRID"));
}

#[test]
fn tickets_are_taken_out_when_their_time_is_over_and_not_before() {
    let sight = with_tickets(&[(1, 5 * TOKEN, NOW), (2, 6 * TOKEN, NOW + 1)]);
    let plan = sight.withdraw().unwrap();
    assert_eq!(plan.steps.len(), 1);
    assert_eq!(
        plan.steps[0].what,
        "take ticket 1 out: 5 GRID of provider 7's stake"
    );
    assert_eq!(
        plan.now,
        [
            "ticket 1: 5 GRID can be withdrawn",
            "ticket 2: 6 GRID can be withdrawn from 2027-01-15T08:00:01Z",
        ]
    );
    let early = with_tickets(&[(2, 6 * TOKEN, NOW + 1)]).withdraw();
    let words = early.unwrap_err();
    assert!(
        words.starts_with("--withdraw: nothing can be taken out yet: ticket 2"),
        "{words}"
    );
    let words = with_tickets(&[]).withdraw().unwrap_err();
    assert!(words.contains("asked nothing back"), "{words}");
}

#[test]
fn a_ticket_is_put_back_by_its_number() {
    let sight = with_tickets(&[(4, TOKEN, NOW + 9)]);
    let plan = sight.rebond(4).unwrap();
    assert_eq!(
        plan.steps[0].what,
        "put ticket 4 back: 1 GRID for provider 7"
    );
    let words = sight.rebond(5).unwrap_err();
    assert!(
        words.contains("no ticket 5") && words.contains("ticket 4: 1 GRID"),
        "{words}"
    );
}

#[test]
fn delegators_ask_for_tokens_and_the_vault_counts_shares() {
    let mut sight = of_other(sight());
    assert!(
        sight
            .undelegate(None)
            .unwrap_err()
            .contains("delegated nothing")
    );
    // A slash has taken a tenth.
    (sight.account.shares, sight.account.worth) = (1_000 * TOKEN, 900 * TOKEN);
    sight.provider.delegated = 900 * TOKEN;
    let shares = |plan: &Plan| {
        let input = &plan.steps[0].call.input;
        StakeVault::requestUndelegateCall::abi_decode(input)
            .unwrap()
            .shares
    };
    let plan = sight.undelegate(Some(90 * TOKEN)).unwrap();
    assert_eq!(shares(&plan), 100 * TOKEN);
    assert_eq!(shares(&sight.undelegate(None).unwrap()), 1_000 * TOKEN);
    let words = sight.undelegate(Some(901 * TOKEN)).unwrap_err();
    assert!(words.contains("worth 900 GRID"), "{words}");
}

#[test]
fn whole_days_are_told_as_days() {
    assert_eq!(days(86_400), "1 day");
    assert_eq!(days(604_800), "7 days");
    assert_eq!(days(90), "90 s");
}

proptest! {
    #[test]
    fn shares_that_are_asked_for_are_worth_what_was_asked_and_never_more_than_there_are(
        shares in 1_u128..1 << 100, worth in 1_u128..1 << 93, part in 0_u128..=1000,
    ) {
        let amount = worth / 1000 * part;
        let asked = shares_worth(amount, shares, worth);
        prop_assert!(asked <= shares);
        let back = U256::from(asked) * U256::from(worth) / U256::from(shares);
        prop_assert!(back >= U256::from(amount));
    }
}
