use alloy::{hex, primitives::U256};
use gridstake_contracts::Settlement;
use gridstake_crds::{
    settlement_batch::{BatchState, BlockedReason},
    usage_record::{RecordState, SkipReason},
};
use serde_json::json;

use crate::{
    anvil::{ADMIN, Anvil},
    world::{Replica, World},
};

const ESCROW: u64 = 1_000_000_000_000;
/// What a record of a second costs.
const SECOND: u64 = 1_000_000;

/// Steps and mines until every record is final.
async fn settle(world: &World, replica: &mut Replica) {
    for _ in 0..20 {
        replica.step().await;
        if world.all_final() {
            return;
        }
        world.anvil.mine(1).await;
    }
    panic!("not final: {:?} {:#?}", world.states(), world.api.batches());
}

fn state(world: &World, sequence: u64) -> BatchState {
    world.batch(sequence).status.unwrap().state.unwrap()
}

fn attempts(world: &World, sequence: u64) -> usize {
    world.batch(sequence).status.unwrap().attempts.len()
}

#[tokio::test]
async fn sealed_records_are_paid_once_and_final() {
    let world = World::new(ESCROW).await;
    let mut replica = world.replica().await;
    world.seal(256..266, 1000);

    replica.step().await;
    assert_eq!(state(&world, 1), BatchState::InFlight);
    assert_eq!(world.states()[&256], RecordState::Batched);
    world.anvil.mine(1).await;
    replica.step().await;
    assert_eq!(state(&world, 1), BatchState::Included);
    assert_eq!(world.states()[&256], RecordState::Paid);
    assert_eq!((world.head().await, world.credit().await), (1, 10 * SECOND));
    settle(&world, &mut replica).await;

    let batch = world.batch(1);
    let status = batch.status.as_ref().unwrap();
    assert_eq!(status.outcome.as_ref().unwrap().paid, 10);
    assert_eq!(status.outcome.as_ref().unwrap().total, batch.spec.total);
    assert!(status.inclusion.as_ref().unwrap().gas_used.unwrap() > 21_000);
    assert!(
        status
            .conditions
            .iter()
            .any(|c| c.type_ == "Ready" && c.status == "True")
    );
    let record = &world.api.records()[0];
    let settled = record.status.as_ref().unwrap().settlement.as_ref().unwrap();
    assert_eq!(
        settled.batch.as_deref(),
        Some("lane-7-00000000000000000001")
    );
    assert_eq!(settled.amount.unwrap().nano(), SECOND.into());
    assert_eq!(
        settled.transaction,
        status.inclusion.as_ref().map(|i| i.transaction.clone())
    );

    // Nothing is left to do: no write follows, whatever the chain does.
    let writes = world.api.writes();
    world.anvil.mine(3).await;
    replica.step().await;
    replica.step().await;
    assert_eq!(world.api.writes(), writes);
}

#[tokio::test]
async fn batches_follow_each_other() {
    let world = World::new(ESCROW).await;
    let mut replica = world.replica().await;
    for from in [256, 512, 768] {
        world.seal(from..from + 5, 1000);
        settle(&world, &mut replica).await;
    }
    assert_eq!((world.head().await, world.credit().await), (3, 15 * SECOND));
    let batches = world.api.batches();
    assert_eq!(batches[1].spec.previous, batches[0].spec.chain_hash);
}

#[tokio::test]
async fn a_transaction_that_is_dropped_is_sent_again() {
    let world = World::new(ESCROW).await;
    let mut replica = world.replica().await;
    world.seal(256..260, 1000);
    replica.step().await;
    replica.step().await;
    assert_eq!(world.anvil.drop_pending().await, 1);
    replica.step().await;
    world.anvil.mine(1).await;
    replica.step().await;
    assert_eq!(state(&world, 1), BatchState::Included);
    assert_eq!(attempts(&world, 1), 1, "the same transaction");
}

#[tokio::test]
async fn a_transaction_that_waits_is_replaced_at_the_same_nonce() {
    let world = World::new(ESCROW).await;
    let mut replica = world.replica().await;
    world.seal(256..260, 1000);
    replica.step().await;
    replica.step().await;
    for _ in 0..3 {
        world.anvil.drop_pending().await;
        world.anvil.mine(1).await;
        replica.step().await;
    }
    let stored = world.batch(1).status.unwrap().attempts;
    assert_eq!(stored.len(), 2);
    assert_eq!(stored[0].nonce, stored[1].nonce);
    let fee = |index: usize| stored[index].max_fee_per_gas.parse::<u128>().unwrap();
    assert!(fee(1) * 8 >= fee(0) * 9, "{stored:?}");
    settle(&world, &mut replica).await;
    assert_eq!(world.credit().await, 4 * SECOND);
}

#[tokio::test]
async fn a_batch_that_is_reorganised_away_goes_back_and_is_paid_once() {
    let world = World::new(ESCROW).await;
    let mut replica = world.replica().await;
    world.seal(256..260, 1000);
    replica.step().await;
    replica.step().await;
    world.anvil.mine(1).await;
    replica.step().await;
    assert_eq!(state(&world, 1), BatchState::Included);

    world.anvil.reorg(1).await;
    assert_eq!(world.head().await, 0);
    replica.step().await;
    assert_eq!(state(&world, 1), BatchState::InFlight);
    assert_eq!(world.states()[&256], RecordState::Batched);
    let status = world.batch(1).status.unwrap();
    assert!(status.inclusion.is_none());
    assert!(
        status
            .conditions
            .iter()
            .any(|c| c.type_ == "Included" && c.reason == "Reorganised")
    );
    settle(&world, &mut replica).await;
    assert_eq!((world.head().await, world.credit().await), (1, 4 * SECOND));
}

#[tokio::test]
async fn a_batch_that_somebody_else_sent_is_found_by_its_event() {
    let world = World::new(ESCROW).await;
    let mut replica = world.replica().await;
    world.seal(256..260, 1000);
    replica.step().await;
    replica.step().await;
    // A stranger relays what is signed, and ours is lost.
    let pool = world.anvil.rpc("txpool_content", json!([])).await;
    let input = pool["pending"]
        .as_object()
        .unwrap()
        .values()
        .next()
        .unwrap();
    let input = input.as_object().unwrap().values().next().unwrap()["input"].clone();
    world.anvil.drop_pending().await;
    world.anvil.rpc("evm_setAutomine", json!([true])).await;
    let data = hex::decode(input.as_str().unwrap()).unwrap();
    world.anvil.send(ADMIN, Some(world.settlement), data).await;
    world.anvil.hold().await;
    settle(&world, &mut replica).await;
    let inclusion = world.batch(1).status.unwrap().inclusion.unwrap();
    assert_ne!(
        inclusion.transaction,
        world.batch(1).status.unwrap().attempts[0].hash
    );
    assert_eq!(world.credit().await, 4 * SECOND);
}

#[tokio::test]
async fn a_nonce_that_is_gone_is_not_waited_for() {
    let world = World::new(ESCROW).await;
    let mut replica = world.replica().await;
    world.seal(256..260, 1000);
    replica.step().await;
    replica.step().await;
    world.anvil.drop_pending().await;
    let gas = world.keys.gas.address().to_string();
    world.anvil.rpc("anvil_setNonce", json!([gas, "0x5"])).await;
    world.anvil.mine(1).await;
    replica.step().await;
    assert_eq!(attempts(&world, 1), 2);
    assert_eq!(
        world.batch(1).status.unwrap().blocked,
        Some(BlockedReason::NonceTaken)
    );
    settle(&world, &mut replica).await;
    assert_eq!(world.credit().await, 4 * SECOND);
    assert_eq!(world.batch(1).status.unwrap().blocked, None);
}

#[tokio::test]
async fn two_leaders_pay_once() {
    let world = World::new(ESCROW).await;
    let (mut one, mut other) = (world.replica().await, world.replica().await);
    world.seal(256..270, 1000);
    for _ in 0..12 {
        futures::join!(one.step(), other.step());
        world.anvil.mine(1).await;
    }
    settle(&world, &mut one).await;
    assert_eq!((world.head().await, world.credit().await), (1, 14 * SECOND));
}

#[tokio::test]
async fn what_cannot_be_paid_is_left_out_and_paid_as_far_as_the_escrow_goes() {
    let world = World::new(3 * SECOND).await;
    let mut replica = world.replica().await;
    // One group of five seconds does not fit three; the provider that does not exist is another group.
    world.seal(256..261, 1000);
    world.seal_one(300, 1, 99, 1000);
    let record = |number: u64| {
        let records = world.api.records();
        let found = records
            .iter()
            .find(|record| record.metadata.name == Some(format!("job-{number}-1-0-0")));
        found.unwrap().status.clone().unwrap().settlement
    };
    for _ in 0..10 {
        replica.step().await;
        let left_out = record(256).and_then(|settlement| settlement.skipped);
        if left_out.is_some() {
            break;
        }
        world.anvil.mine(1).await;
    }
    for (number, reason) in [
        (256, SkipReason::InsufficientEscrow),
        (300, SkipReason::UnknownProvider),
    ] {
        let settlement = record(number).unwrap();
        // It may be in the next batch already.
        assert!(matches!(
            settlement.state,
            RecordState::Skipped | RecordState::Batched
        ));
        assert!(settlement.state == RecordState::Batched || settlement.skipped == Some(reason));
    }
    assert_eq!(world.credit().await, 0);

    // Each by itself, three of the five fit.
    for _ in 0..8 {
        replica.step().await;
        world.anvil.mine(1).await;
    }
    let states = |numbers: std::ops::Range<u64>| -> Vec<RecordState> {
        numbers
            .map(|number| record(number).unwrap().state)
            .collect()
    };
    assert_eq!(states(256..259), [RecordState::Final; 3]);
    assert_eq!(states(259..261), [RecordState::Skipped; 2]);
    assert_eq!(world.credit().await, 3 * SECOND);

    world.anvil.rpc("evm_setAutomine", json!([true])).await;
    world.deposit(1, 10 * SECOND).await;
    world.anvil.hold().await;
    for _ in 0..10 {
        replica.step().await;
        world.anvil.mine(1).await;
    }
    assert_eq!(states(256..261), [RecordState::Final; 5]);
    assert_eq!(record(300).unwrap().state, RecordState::Skipped);
    assert_eq!(world.credit().await, 5 * SECOND);
}

#[tokio::test]
async fn a_paused_contract_blocks_and_goes_on_by_itself() {
    let world = World::new(ESCROW).await;
    let mut replica = world.replica().await;
    world.anvil.rpc("evm_setAutomine", json!([true])).await;
    let pause = Settlement::pauseCall { path: 0 };
    world.anvil.transact(ADMIN, world.settlement, &pause).await;
    world.seal(256..260, 1000);
    replica.step().await;
    replica.step().await;
    assert_eq!(
        world.batch(1).status.unwrap().blocked,
        Some(BlockedReason::Paused)
    );
    assert_eq!(attempts(&world, 1), 0, "nothing is sent in vain");
    let unpause = Settlement::unpauseCall { path: 0 };
    world
        .anvil
        .transact(ADMIN, world.settlement, &unpause)
        .await;
    world.anvil.hold().await;
    settle(&world, &mut replica).await;
    assert_eq!(world.batch(1).status.unwrap().blocked, None);
}

#[tokio::test]
async fn an_empty_gas_account_blocks_until_it_is_filled() {
    let world = World::new(ESCROW).await;
    let mut replica = world.replica().await;
    let gas = world.keys.gas.address();
    world.anvil.give_coins(gas, U256::from(1)).await;
    world.anvil.mine(1).await;
    world.seal(256..260, 1000);
    replica.step().await;
    replica.step().await;
    assert_eq!(
        world.batch(1).status.unwrap().blocked,
        Some(BlockedReason::GasBalanceEmpty)
    );
    world
        .anvil
        .give_coins(gas, U256::from(10).pow(U256::from(19)))
        .await;
    settle(&world, &mut replica).await;
}

#[tokio::test]
async fn nothing_is_sent_to_another_chain_or_contract() {
    let world = World::new(ESCROW).await;
    let stranger = Anvil::start(1);
    world.seal(256..260, 1000);
    let elsewhere = world
        .chains_file
        .replace(world.anvil.url.as_str(), stranger.url.as_str());
    let hash = world.anvil.code_hash(world.settlement).await.to_string();
    let other_code = world
        .chains_file
        .replace(&hash, &format!("0x{}", "12".repeat(32)));
    for chains_file in [elsewhere, other_code] {
        assert_ne!(chains_file, world.chains_file);
        let mut replica = world.replica_with(&chains_file).await;
        replica.step().await;
        replica.step().await;
        assert!(replica.lane.chain().view().unwrap().contract.is_err());
    }
    assert!(world.api.batches().is_empty());
    assert_eq!(world.head().await, 0);
}
