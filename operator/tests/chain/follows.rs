use std::collections::BTreeSet;

use gridstake_contracts::{Settlement, StakeVault};
use gridstake_operator::chain::{Account, ContractMismatch};
use k8s_openapi::jiff::Timestamp;
use serde_json::json;

use crate::{anvil::STAKER, world::World};

#[tokio::test]
async fn the_view_holds_what_somebody_is_interested_in_and_follows_its_changes() {
    let world = World::new(5_000_000_000).await;
    let mut replica = world.replica().await;
    let chain = replica.lane.chain().clone();
    chain.interest_in(|interest| {
        interest.providers = BTreeSet::from([1, 99]);
        interest.payers = BTreeSet::from([1, 99]);
    });
    replica.follower.look(Timestamp::now).await.unwrap();
    let view = chain.view().unwrap();
    assert_eq!(view.contract, Ok(()));
    assert_eq!(view.lane.signer, world.keys.lane.address());
    let Account::Known(provider) = view.provider(1) else {
        panic!("{view:?}")
    };
    assert_eq!(provider.own, 100_000_000_000_000);
    assert!(provider.active && provider.bonded_miner && !provider.bonded_coordinator);
    assert_eq!(view.provider(99), Account::Missing);
    let Account::Known(payer) = view.payer(1) else {
        panic!("{view:?}")
    };
    assert_eq!(payer.balance, 5_000_000_000);
    assert_eq!(view.payer(99), Account::Missing);
    assert!(matches!(view.payer(0), Account::Known(_)));

    // Blocks that change nothing wake nobody.
    let mut changes = chain.changes();
    changes.mark_unchanged();
    world.anvil.mine(5).await;
    replica.follower.look(Timestamp::now).await.unwrap();
    assert!(!changes.has_changed().unwrap());
    assert_eq!(
        chain.view().unwrap().head.number,
        world.anvil.height().await
    );

    world.anvil.rpc("evm_setAutomine", json!([true])).await;
    let unbond = StakeVault::requestUnbondCall {
        provider: 1,
        amount: 90_000_000_000_000,
    };
    world.anvil.transact(STAKER, world.vault, &unbond).await;
    world.deposit(1, 1).await;
    world.deposit(0, 7).await;
    replica.follower.look(Timestamp::now).await.unwrap();
    assert!(changes.has_changed().unwrap());
    let view = chain.view().unwrap();
    let Account::Known(provider) = view.provider(1) else {
        panic!("{view:?}")
    };
    assert!(!provider.bonded_miner);
    assert_eq!(provider.unbonding, 90_000_000_000_000);
    assert_eq!(provider.tickets.len(), 1);
    assert!(matches!(view.payer(1), Account::Known(payer) if payer.balance == 5_000_000_001));
    assert!(
        matches!(view.payer(0), Account::Known(rewards) if rewards.balance == 7),
        "the reward account is followed though nobody asked for it"
    );
}

#[tokio::test]
async fn a_contract_that_was_something_else_counts_again_from_the_next_block_after_it_is_mended() {
    let world = World::new(0).await;
    let mut replica = world.replica().await;
    let chain = replica.lane.chain().clone();
    let code = world
        .anvil
        .rpc("eth_getCode", json!([world.settlement, "latest"]))
        .await;
    let parameters = json!([world.settlement, "0x00"]);
    world.anvil.rpc("anvil_setCode", parameters).await;
    // After an absence as long as this, everything is read.
    world.anvil.mine(70).await;
    replica.follower.look(Timestamp::now).await.unwrap();
    let contract = chain.view().unwrap().contract.clone();
    assert!(
        matches!(contract, Err(ContractMismatch::Code { .. })),
        "{contract:?}"
    );
    let parameters = json!([world.settlement, code]);
    world.anvil.rpc("anvil_setCode", parameters).await;
    world.anvil.mine(1).await;
    replica.follower.look(Timestamp::now).await.unwrap();
    assert_eq!(chain.view().unwrap().contract, Ok(()));
}

#[tokio::test]
async fn a_provider_whose_cooling_is_over_is_activated() {
    let world = World::new(0).await;
    world.anvil.rpc("evm_setAutomine", json!([true])).await;
    let register = StakeVault::registerCall {
        operator: crate::anvil::PROVIDER_OPERATOR.parse().unwrap(),
        beneficiary: STAKER.parse().unwrap(),
    };
    world.anvil.transact(STAKER, world.vault, &register).await;
    let stake = StakeVault::stakeCall {
        provider: 2,
        amount: 100_000_000_000_000,
    };
    world.anvil.transact(STAKER, world.vault, &stake).await;
    world.anvil.hold().await;
    let mut replica = world.replica().await;
    let chain = replica.lane.chain().clone();
    chain.interest_in(|interest| interest.providers = BTreeSet::from([2]));
    let is_active = Settlement::isActiveCall { provider: 2 };
    for _ in 0..2 {
        replica.step().await;
        world.anvil.mine(1).await;
    }
    assert!(
        !world.anvil.call(world.settlement, &is_active).await,
        "it is cooling"
    );
    world.anvil.pass_time(2 * 24 * 3600).await;
    for _ in 0..2 {
        replica.step().await;
        world.anvil.mine(1).await;
    }
    assert!(world.anvil.call(world.settlement, &is_active).await);
    replica.step().await;
    let view = chain.view().unwrap();
    assert!(matches!(view.provider(2), Account::Known(provider) if provider.active));
}
