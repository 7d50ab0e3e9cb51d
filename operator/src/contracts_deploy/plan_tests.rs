//! Which step follows from what is on the chain.

use alloy::primitives::{Address, B256};

use super::{
    admin::AdminCall,
    facts::{Facts, SettlementFacts, TimelockFacts, VaultFacts},
    plan::{Deployed, Offices, Refusal, Request, Step, next},
    record::Contract,
};
use crate::chain::{config::ContractConfig, view::LaneState};

const COIN: u128 = 1_000_000_000_000_000_000;
const DEPLOYER: Address = Address::repeat_byte(0xd0);
const OWNER: Address = Address::repeat_byte(0x0e);
const TOKEN: Address = Address::repeat_byte(0x01);
const VAULT: Address = Address::repeat_byte(0x02);
const SETTLEMENT: Address = Address::repeat_byte(0x03);
const TIMELOCK: Address = Address::repeat_byte(0x04);
const LANE_SIGNER: Address = Address::repeat_byte(0x05);
const SLASH_SIGNER: Address = Address::repeat_byte(0x06);
const GAS: Address = Address::repeat_byte(0x07);

fn place(address: Address) -> ContractConfig {
    ContractConfig {
        address,
        code_hash: B256::repeat_byte(address[0]),
    }
}

/// A test chain: the deployer holds every office.
pub(super) fn request() -> Request {
    Request {
        deployer: DEPLOYER,
        chain_id: 31337,
        lane: 1,
        lane_signer: LANE_SIGNER,
        slash_signer: Some(SLASH_SIGNER),
        gas_account: GAS,
        gas_coins: COIN,
        token: None,
        offices: Offices {
            owner: DEPLOYER,
            guardian: DEPLOYER,
            arbiter: DEPLOYER,
            treasury: DEPLOYER,
            rewards_owner: DEPLOYER,
        },
        timelock_delay: None,
        fee_bps: 500,
        claim_delay: 86_400,
        anew_if_gone: true,
    }
}

/// With a timelock whose proposer is somebody else.
pub(super) fn governed() -> Request {
    let mut request = request();
    request.timelock_delay = Some(172_800);
    request.offices.owner = OWNER;
    request
}

fn vault() -> VaultFacts {
    VaultFacts {
        place: place(VAULT),
        settlement: SETTLEMENT,
        admin: DEPLOYER,
        slash_signer: SLASH_SIGNER,
        has_lane_admin: true,
        has_guardian: true,
        has_arbiter: true,
    }
}

fn settlement() -> SettlementFacts {
    SettlementFacts {
        place: place(SETTLEMENT),
        admin: DEPLOYER,
        has_lane_admin: true,
        has_guardian: true,
        lane_state: LaneState::Active,
        lane_signer: LANE_SIGNER,
    }
}

/// Everything is in place, and the deployer is the admin.
pub(super) fn done() -> Facts {
    Facts {
        token: Some(TOKEN),
        vault: Some(vault()),
        settlement: Some(settlement()),
        deployer_coins: 100 * COIN,
        gas_coins: 1,
        ..Facts::default()
    }
}

/// The vault and the settlement as their constructors leave them, in the hands of `admin`.
fn just_deployed(admin: Address) -> Facts {
    Facts {
        vault: Some(VaultFacts {
            settlement: Address::ZERO,
            admin,
            slash_signer: Address::ZERO,
            has_lane_admin: false,
            has_guardian: false,
            has_arbiter: false,
            ..vault()
        }),
        settlement: Some(SettlementFacts {
            admin,
            lane_state: LaneState::Unknown,
            lane_signer: Address::ZERO,
            ..settlement()
        }),
        ..done()
    }
}

fn timelock(delay: u64, deployer_proposes: bool) -> TimelockFacts {
    TimelockFacts {
        address: TIMELOCK,
        delay,
        deployer_proposes,
        owner_proposes: !deployer_proposes,
    }
}

/// Handed over to the timelock, and everything in place.
pub(super) fn handed_over() -> Facts {
    let mut facts = done();
    facts.timelock = Some(timelock(172_800, false));
    facts.vault.as_mut().unwrap().admin = TIMELOCK;
    facts.settlement.as_mut().unwrap().admin = TIMELOCK;
    facts
}

fn words(calls: &[AdminCall]) -> Vec<&'static str> {
    calls.iter().map(|call| call.what).collect()
}

/// The step in one word: a contract, a call's words, or a name.
fn named(step: &Step) -> String {
    match step {
        Step::Create(contract, _) => contract.name().to_owned(),
        Step::Call(call) => call.what.to_owned(),
        Step::ThroughTimelock(_, calls) => format!("timelock: {}", words(calls).join(", ")),
        Step::GiveCoins(to, wei) => format!("{wei} wei to {to}"),
        Step::Done(_) => "done".to_owned(),
    }
}

#[test]
fn where_everything_is_in_place_nothing_is_done() {
    let deployed = Deployed {
        token: TOKEN,
        vault: place(VAULT),
        settlement: place(SETTLEMENT),
    };
    assert_eq!(next(&request(), &done()), Ok(Step::Done(deployed)));
    assert_eq!(next(&request(), &handed_over()), Ok(Step::Done(deployed)));
    assert_eq!(next(&governed(), &handed_over()), Ok(Step::Done(deployed)));
}

#[test]
fn contracts_are_deployed_in_the_order_in_which_they_need_each_other() {
    let none = Facts {
        token: None,
        vault: None,
        settlement: None,
        ..done()
    };
    let with_token = Facts {
        token: Some(TOKEN),
        ..none.clone()
    };
    let with_timelock = Facts {
        timelock: Some(timelock(0, true)),
        ..with_token.clone()
    };
    let mut with_vault = just_deployed(DEPLOYER);
    with_vault.settlement = None;
    for (request, facts, step) in [
        (request(), &none, "GridToken"),
        (governed(), &none, "GridToken"),
        (request(), &with_token, "StakeVault"),
        (governed(), &with_token, "TimelockController"),
        (governed(), &with_timelock, "StakeVault"),
        (request(), &with_vault, "Settlement"),
    ] {
        let found = next(&request, facts).unwrap();
        assert_eq!(named(&found), step, "{facts:?}");
    }
}

#[test]
fn the_timelock_is_the_vaults_admin_from_the_first_block() {
    let facts = Facts {
        timelock: Some(timelock(0, true)),
        vault: None,
        settlement: None,
        ..done()
    };
    let governed = next(&governed(), &facts).unwrap();
    let Step::Create(Contract::StakeVault, code) = governed else {
        panic!("{governed:?}");
    };
    assert_eq!(code, super::code::vault(TOKEN, TIMELOCK, DEPLOYER));
}

#[test]
fn the_deployer_makes_the_calls_that_are_missing_one_by_one() {
    let mut facts = just_deployed(DEPLOYER);
    let mut made = Vec::new();
    while let Step::Call(call) = next(&request(), &facts).unwrap() {
        let (vault, settlement) = (
            facts.vault.as_mut().unwrap(),
            facts.settlement.as_mut().unwrap(),
        );
        match call.what {
            "tell the vault its settlement" => vault.settlement = SETTLEMENT,
            "make the admin the vault's lane admin" => vault.has_lane_admin = true,
            "make the guardian the vault's" => vault.has_guardian = true,
            "make the arbiter the vault's" => vault.has_arbiter = true,
            "open the lane" => {
                settlement.lane_state = LaneState::Active;
                settlement.lane_signer = LANE_SIGNER;
            }
            "set the lane's slash signer" => vault.slash_signer = SLASH_SIGNER,
            other => panic!("{other}"),
        }
        made.push(call.what);
    }
    assert_eq!(made.len(), 6, "{made:?}");
    assert!(matches!(next(&request(), &facts), Ok(Step::Done(_))));
}

#[test]
fn an_open_timelock_gets_all_calls_at_once_and_is_closed_by_them() {
    let mut facts = just_deployed(TIMELOCK);
    facts.timelock = Some(timelock(0, true));
    let step = next(&governed(), &facts).unwrap();
    let Step::ThroughTimelock(TIMELOCK, calls) = &step else {
        panic!("{step:?}");
    };
    let words = words(calls);
    assert_eq!(words.first(), Some(&"tell the vault its settlement"));
    assert!(words.contains(&"open the lane"), "{words:?}");
    assert_eq!(words.last(), Some(&"set the timelock's delay"));
    let taken = words
        .iter()
        .filter(|what| what.starts_with("take the deployer out"));
    assert_eq!(taken.count(), 2);
}

#[test]
fn a_deployer_who_owns_the_timelock_stays_its_proposer() {
    let mut facts = handed_over();
    facts.timelock = Some(timelock(0, true));
    let mut own = governed();
    own.offices.owner = DEPLOYER;
    let step = next(&own, &facts).unwrap();
    assert_eq!(named(&step), "timelock: set the timelock's delay");
    own.timelock_delay = Some(0);
    assert!(matches!(next(&own, &facts), Ok(Step::Done(_))));
}

#[test]
fn what_is_missing_after_the_handover_is_asked_of_the_admin() {
    let mut facts = handed_over();
    facts.settlement.as_mut().unwrap().lane_signer = OWNER;
    let refused = next(&governed(), &facts).unwrap_err();
    let said = refused.to_string();
    let Refusal::AskAdmin { admin, calls, .. } = refused else {
        panic!("{said}");
    };
    assert_eq!(admin, TIMELOCK);
    assert_eq!(words(&calls), ["change the lane's signer"]);
    assert!(said.contains(&calls[0].input.to_string()), "{said}");
}

#[test]
fn offices_after_the_handover_are_the_owners_business() {
    let mut facts = handed_over();
    facts.vault.as_mut().unwrap().has_guardian = false;
    assert!(matches!(next(&governed(), &facts), Ok(Step::Done(_))));
}

#[test]
fn other_keys_are_set_as_the_lanes_signers() {
    let mut facts = done();
    facts.settlement.as_mut().unwrap().lane_signer = OWNER;
    let step = next(&request(), &facts).unwrap();
    assert_eq!(named(&step), "change the lane's signer");
    let nobody = Request {
        slash_signer: None,
        ..request()
    };
    let step = next(&nobody, &done()).unwrap();
    assert_eq!(named(&step), "set the lane's slash signer");
}

#[test]
fn a_gas_account_without_coins_gets_at_most_a_tenth_of_the_deployers() {
    for (wanted, deployers, gas, given) in [
        (COIN, 100 * COIN, 0, Some(COIN)),
        (COIN, 5 * COIN, 0, Some(COIN / 2)),
        (COIN, 100 * COIN, 1, None),
        (0, 100 * COIN, 0, None),
        (COIN, 9, 0, None),
    ] {
        let request = Request {
            gas_coins: wanted,
            ..request()
        };
        let facts = Facts {
            deployer_coins: deployers,
            gas_coins: gas,
            ..done()
        };
        let step = next(&request, &facts).unwrap();
        match given {
            Some(wei) => assert_eq!(step, Step::GiveCoins(GAS, wei)),
            None => assert!(matches!(step, Step::Done(_)), "{step:?}"),
        }
    }
}

#[test]
fn what_has_no_way_on_is_refused_with_what_would_be_right() {
    type Change = fn(&mut Request, &mut Facts);
    let cases: [(Change, &str); 7] = [
        (
            |_, facts| facts.no_token_at = Some(OWNER),
            "there is no contract at this address",
        ),
        (
            |request, _| request.token = Some(OWNER),
            "which can never change",
        ),
        (
            |_, facts| facts.settlement = None,
            "which is not the one that is known",
        ),
        (
            |_, facts| facts.vault.as_mut().unwrap().settlement = OWNER,
            "which is not the one that is known",
        ),
        (
            |_, facts| facts.vault.as_mut().unwrap().admin = OWNER,
            "they must have one admin",
        ),
        (
            |_, facts| facts.settlement.as_mut().unwrap().lane_state = LaneState::Closed,
            "reopenLane",
        ),
        (
            |request, _| request.timelock_delay = Some(1),
            "beginDefaultAdminTransfer",
        ),
    ];
    for (change, words) in cases {
        let (mut request, mut facts) = (request(), done());
        change(&mut request, &mut facts);
        let refused = next(&request, &facts).unwrap_err().to_string();
        assert!(refused.contains(words), "{refused}");
    }
}
