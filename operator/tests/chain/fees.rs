//! Gas is dear, the account is empty, a stranger takes the nonce: it is said, and it goes on afterwards.

use alloy::primitives::{Address, U256};
use gridstake_crds::settlement_batch::{BatchState, BlockedReason};
use gridstake_operator::settlement::transaction::{self, Call, Terms};
use k8s_openapi::jiff::Timestamp;
use serde_json::json;

use crate::world::{Replica, World};

const ESCROW: u64 = 1_000_000_000_000;
const GWEI: u128 = 1_000_000_000;
/// The most to be paid per gas in these tests.
const CAP: u128 = 20 * GWEI;
const USUAL: u128 = GWEI;
/// An hour of blocks.
const HOUR: usize = 300;

async fn mine_at(world: &World, base_fee: u128) {
    let fee = json!([format!("{base_fee:#x}")]);
    world
        .anvil
        .rpc("anvil_setNextBlockBaseFeePerGas", fee)
        .await;
    world.anvil.mine(1).await;
}

fn blocked(world: &World, sequence: u64) -> Option<BlockedReason> {
    world.batch(sequence).status.unwrap().blocked
}

/// No transaction that was ever signed pays more than allowed.
fn stays_below_the_cap(world: &World) {
    for batch in world.api.batches() {
        for attempt in batch.status.unwrap().attempts {
            let fee: u128 = attempt.max_fee_per_gas.parse().unwrap();
            let tip: u128 = attempt.max_priority_fee_per_gas.parse().unwrap();
            assert!(fee <= CAP && tip <= fee, "{fee} {tip}");
        }
    }
}

async fn until_final(world: &World, replica: &mut Replica) {
    for _ in 0..20 {
        replica.step().await;
        if world.all_final() {
            break;
        }
        mine_at(world, USUAL).await;
    }
    world.everything_is_paid_once(ESCROW, 1000).await;
}

#[tokio::test]
async fn an_hour_of_fifty_times_the_base_fee_is_waited_out_below_the_cap() {
    let world = World::new(ESCROW).await;
    let capped = "fees: {replaceAfterBlocks: 3, maxFeePerGas: 20gwei}";
    let chains_file = world
        .chains_file
        .replace("fees: {replaceAfterBlocks: 3}", capped);
    assert!(chains_file.contains(capped));
    let mut replica = world.replica_with(&chains_file).await;
    mine_at(&world, USUAL).await;
    // One is sent before it becomes dear, others are sealed while it is.
    world.seal(256..259, 1000);
    replica.step().await;
    assert_eq!(world.batch(1).status.unwrap().attempts.len(), 1);
    let mut shown = 0;
    for block in 0..HOUR {
        mine_at(&world, 50 * USUAL).await;
        if block % 100 == 0 {
            world.seal(300 + block as u64..302 + block as u64, 1000);
        }
        replica.step().await;
        shown += usize::from(blocked(&world, 1) == Some(BlockedReason::FeeCapReached));
        assert_eq!(world.head().await, 0);
    }
    assert!(shown > HOUR - 10, "shown for {shown} of {HOUR} blocks");
    stays_below_the_cap(&world);
    until_final(&world, &mut replica).await;
    assert!(
        world
            .api
            .batches()
            .iter()
            .all(|batch| batch.status.as_ref().unwrap().blocked.is_none())
    );
    stays_below_the_cap(&world);
}

#[tokio::test]
async fn fees_that_rise_and_fall_replace_the_transaction_and_pay_once() {
    let world = World::new(ESCROW).await;
    let mut replica = world.replica().await;
    mine_at(&world, USUAL).await;
    world.seal(256..259, 1000);
    replica.step().await;
    // Ever too dear for what was sent, and never for what may be paid.
    let mut base = USUAL;
    for _ in 0..12 {
        base = base * 13 / 10;
        mine_at(&world, 3 * base).await;
        replica.step().await;
        if world.head().await > 0 {
            break;
        }
    }
    let attempts = world.batch(1).status.unwrap().attempts;
    assert!(attempts.len() > 1, "{attempts:?}");
    assert!(
        attempts
            .iter()
            .all(|attempt| attempt.nonce == attempts[0].nonce)
    );
    until_final(&world, &mut replica).await;
}

#[tokio::test]
async fn a_gas_account_that_runs_dry_while_something_is_under_way_goes_on_when_it_is_filled() {
    let world = World::new(ESCROW).await;
    let mut replica = world.replica().await;
    world.seal(256..259, 1000);
    replica.step().await;
    assert_eq!(
        world.batch(1).status.unwrap().state,
        Some(BatchState::InFlight)
    );
    world.anvil.drop_pending().await;
    let gas = world.keys.gas.address();
    world.anvil.give_coins(gas, U256::from(1)).await;
    for _ in 0..5 {
        world.anvil.mine(1).await;
        replica.step().await;
    }
    assert_eq!(blocked(&world, 1), Some(BlockedReason::GasBalanceEmpty));
    assert_eq!(world.head().await, 0);
    world
        .anvil
        .give_coins(gas, U256::from(10).pow(U256::from(19)))
        .await;
    until_final(&world, &mut replica).await;
    assert_eq!(blocked(&world, 1), None);
}

#[tokio::test]
async fn a_transaction_that_is_not_ours_takes_the_nonce_and_the_batch_settles_once() {
    let world = World::new(ESCROW).await;
    let mut replica = world.replica().await;
    for round in 0..3 {
        world.seal(256 + 3 * round..259 + 3 * round, 1000);
        replica.step().await;
        let sequence = round + 1;
        let ours = world.batch(sequence).status.unwrap().attempts;
        let call = Call {
            to: Address::repeat_byte(0x77),
            input: vec![].into(),
            valid_until: None,
        };
        let terms = Terms {
            nonce: ours[0].nonce,
            gas_limit: 21_000,
            max_fee: 400 * GWEI,
            tip: 400 * GWEI,
        };
        let gas = &world.keys.gas;
        let theirs = transaction::sign(31337, &call, terms, gas, Timestamp::UNIX_EPOCH).unwrap();
        let raw = transaction::raw(31337, &call, &theirs).unwrap();
        world
            .anvil
            .rpc("eth_sendRawTransaction", json!([raw]))
            .await;
        world.anvil.mine(1).await;
        assert_eq!(world.head().await, round, "theirs was first");
        replica.step().await;
        assert_eq!(blocked(&world, sequence), Some(BlockedReason::NonceTaken));
        let attempts = world.batch(sequence).status.unwrap().attempts;
        assert_eq!(attempts.len(), 2);
        assert_eq!(attempts[1].nonce, attempts[0].nonce + 1);
        until_final(&world, &mut replica).await;
        assert_eq!(blocked(&world, sequence), None);
    }
}
