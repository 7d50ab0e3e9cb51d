//! Entries that cannot be paid: the rest is paid, they say why, and what becomes payable is paid once.

use std::{collections::BTreeMap, ops::Range};

use alloy::primitives::U256;
use gridstake_contracts::{GridToken, Settlement, StakeVault};
use gridstake_crds::{
    SettlementBatch,
    settlement_batch::BatchState,
    usage_record::{RecordState, SkipReason},
};
use serde_json::json;

use crate::{
    anvil::{ADMIN, PAYER, PROVIDER_OPERATOR, STAKER},
    world::{LANE, Replica, World},
};

const ESCROW: u64 = 1_000_000_000_000;
/// What a record of a second costs.
const SECOND: u64 = 1_000_000;
/// Accounts that nobody has.
const NOBODY: u32 = 99;
/// A payer without a deposit, as registered by [`with_poor_accounts`].
const POOR: u32 = 2;
/// A provider that registered a moment ago.
const COOLING: u32 = 2;

async fn at_once<T>(world: &World, what: impl Future<Output = T>) -> T {
    world.anvil.rpc("evm_setAutomine", json!([true])).await;
    let done = what.await;
    world.anvil.hold().await;
    done
}

async fn register_payer(world: &World) {
    let register = Settlement::registerPayerCall { lane: LANE };
    world
        .anvil
        .transact(PAYER, world.settlement, &register)
        .await;
}

async fn register_provider(world: &World) {
    let register = StakeVault::registerCall {
        operator: PROVIDER_OPERATOR.parse().unwrap(),
        beneficiary: STAKER.parse().unwrap(),
    };
    world.anvil.transact(STAKER, world.vault, &register).await;
}

async fn activate(world: &World, provider: u32) {
    let activate = Settlement::activateProviderCall { provider };
    world
        .anvil
        .transact(ADMIN, world.settlement, &activate)
        .await;
}

/// Beside payer 1 and provider 1: a payer without a deposit and a provider that registered a moment ago.
async fn with_poor_accounts() -> (World, Replica) {
    let world = World::new(ESCROW).await;
    at_once(&world, async {
        register_payer(&world).await;
        register_provider(&world).await;
    })
    .await;
    let replica = world.replica().await;
    (world, replica)
}

fn states(world: &World, numbers: Range<u64>) -> Vec<RecordState> {
    let states = world.states();
    numbers.map(|number| states[&number]).collect()
}

/// Steps and mines until each record is final or left out, and no batch is under way.
async fn until_settled(world: &World, replica: &mut Replica) {
    let mut quiet = 0;
    for _ in 0..40 {
        replica.step().await;
        assert!(!replica.is_halted());
        let states = world.states();
        let settled = states.len() == world.api.records().len()
            && states
                .values()
                .all(|state| matches!(state, RecordState::Final | RecordState::Skipped));
        // What is left out is looked at once more before it counts.
        quiet = if settled { quiet + 1 } else { 0 };
        if quiet == 2 {
            return;
        }
        world.anvil.mine(1).await;
    }
    panic!("not settled: {:?}", world.states());
}

/// Why each record was left out that was.
fn reasons(world: &World) -> BTreeMap<u64, SkipReason> {
    let reason = |record: &gridstake_crds::UsageRecord| {
        let status = record.status.as_ref()?;
        let skipped = status.settlement.as_ref()?.skipped?;
        Some((status.sealed.as_ref()?.job_no?, skipped))
    };
    world.api.records().iter().filter_map(reason).collect()
}

fn first(world: &World) -> SettlementBatch {
    world.batch(1)
}

async fn credit_of(world: &World, provider: u32) -> u64 {
    let call = Settlement::creditOfCall { provider };
    world.anvil.call(world.settlement, &call).await
}

#[tokio::test]
async fn poison_of_every_kind_is_left_out_with_its_reason_and_paid_when_it_can_be() {
    let (world, mut replica) = with_poor_accounts().await;
    world.seal(256..300, 1000);
    world.seal_one(300, 1, NOBODY, 1000);
    world.seal_one(301, NOBODY, 1, 1000);
    world.seal_one(302, POOR, 1, 1000);
    world.seal_one(303, 1, COOLING, 1000);
    // More than the payer has, and one group with those that it can pay.
    world.seal_one(304, 1, 1, (1 << 47) - 1);
    until_settled(&world, &mut replica).await;
    let all: Vec<RecordState> = states(&world, 256..300);
    assert_eq!(all, [RecordState::Final; 44]);
    let poison = [
        (300, SkipReason::UnknownProvider),
        (301, SkipReason::UnknownPayer),
        (302, SkipReason::InsufficientEscrow),
        (303, SkipReason::ProviderCooling),
        (304, SkipReason::InsufficientEscrow),
    ];
    assert_eq!(reasons(&world), poison.into());
    assert_eq!(world.credit().await, 44 * SECOND);
    assert_eq!(world.escrow(1).await, ESCROW - 44 * SECOND);
    world.the_log_is_the_chain().await;

    // Nothing is tried in vain: without a change there is no other batch.
    let batches = world.api.batches().len();
    for _ in 0..4 {
        replica.step().await;
        world.anvil.mine(1).await;
    }
    assert_eq!(world.api.batches().len(), batches);

    // The cooling ends, the poor payer deposits: they are paid, once.
    world.anvil.pass_time(2 * 24 * 3600).await;
    at_once(&world, async {
        activate(&world, COOLING).await;
        world.deposit(POOR, 10 * SECOND).await;
    })
    .await;
    until_settled(&world, &mut replica).await;
    assert_eq!(states(&world, 302..304), [RecordState::Final; 2]);
    assert_eq!(states(&world, 300..302), [RecordState::Skipped; 2]);
    assert_eq!(world.credit().await, 45 * SECOND);
    assert_eq!(credit_of(&world, COOLING).await, SECOND);
    assert_eq!(world.escrow(POOR).await, 9 * SECOND);
    assert_eq!(world.escrow(1).await, ESCROW - 45 * SECOND);
    world.the_log_is_the_chain().await;
}

#[tokio::test]
async fn of_nothing_but_poison_no_batch_is_made_and_what_comes_next_is_paid() {
    let (world, mut replica) = with_poor_accounts().await;
    for number in 0..400 {
        let (payer, provider) = match number % 4 {
            0 => (1, NOBODY),
            1 => (NOBODY, 1),
            2 => (POOR, 1),
            _ => (1, COOLING),
        };
        world.seal_one(256 + number, payer, provider, 1000);
    }
    until_settled(&world, &mut replica).await;
    assert!(world.api.batches().is_empty());
    assert_eq!(reasons(&world).len(), 400);
    assert_eq!((world.head().await, world.credit().await), (0, 0));

    world.seal(1000..1010, 1000);
    until_settled(&world, &mut replica).await;
    assert_eq!(states(&world, 1000..1010), [RecordState::Final; 10]);
    assert_eq!((world.head().await, world.credit().await), (1, 10 * SECOND));
    world.the_log_is_the_chain().await;
}

#[tokio::test]
async fn a_number_that_is_in_two_batches_is_paid_by_the_first() {
    let (world, mut replica) = with_poor_accounts().await;
    world.seal(256..260, 1000);
    until_settled(&world, &mut replica).await;
    // The records are as they were before they were batched, as after an error of the operator.
    world.seal(256..258, 1000);
    world.seal(260..262, 1000);
    until_settled(&world, &mut replica).await;
    assert_eq!(states(&world, 256..262), [RecordState::Final; 6]);
    let outcome = world.batch(2).status.unwrap().outcome.unwrap();
    assert_eq!((outcome.paid, outcome.skipped), (2, 2));
    assert_eq!(outcome.skipped_records[0].reason, SkipReason::AlreadyPaid);
    world.everything_is_paid_once(ESCROW, 1000).await;
}

/// A batch of which the contract leaves 260 to 263 out, and not 256 to 259: its payer has emptied its escrow right in front of it.
async fn a_payer_empties_its_escrow_in_front_of_the_batch(world: &World, replica: &mut Replica) {
    at_once(world, async {
        world.deposit(POOR, 10 * SECOND).await;
        let thaw = Settlement::thawCall {
            lane: LANE,
            payer: POOR,
            amount: 10 * SECOND,
        };
        world.anvil.transact(PAYER, world.settlement, &thaw).await;
    })
    .await;
    world.anvil.pass_time(7 * 24 * 3600 + 1).await;
    world.seal(256..260, 1000);
    for number in 260..264 {
        world.seal_one(number, POOR, 1, 1000);
    }
    // Simulated and sent while the money is there; what takes it away pays more and is mined first.
    replica.step().await;
    assert_eq!(first(world).status.unwrap().attempts.len(), 1);
    assert_eq!(world.escrow(POOR).await, 10 * SECOND);
    let withdraw = Settlement::withdrawCall {
        lane: LANE,
        payer: POOR,
    };
    world.anvil.queue(PAYER, world.settlement, &withdraw).await;
    world.anvil.mine(1).await;
    assert_eq!((world.head().await, world.escrow(POOR).await), (1, 0));
    until_settled(world, replica).await;
    assert_eq!(states(world, 256..260), [RecordState::Final; 4]);
    assert_eq!(states(world, 260..264), [RecordState::Skipped; 4]);
}

#[tokio::test]
async fn what_a_lost_batch_held_and_the_contract_left_out_is_in_no_doubt() {
    let (world, mut replica) = with_poor_accounts().await;
    let backup = world.api.save();
    a_payer_empties_its_escrow_in_front_of_the_batch(&world, &mut replica).await;

    world.api.restore(&backup);
    let mut replica = world.replica().await;
    let is_final = |world: &World| {
        let batches = world.api.batches();
        let first = batches.first().and_then(|batch| batch.status.as_ref());
        first.and_then(|status| status.state) == Some(BatchState::Final)
    };
    for _ in 0..8 {
        replica.step().await;
        world.anvil.mine(2).await;
    }
    assert!(is_final(&world), "it is taken over from the chain");
    let mut replica = world.replica().await;
    replica.step().await;
    let doubts = replica.lane.doubts().unwrap();
    assert_eq!(doubts.numbers().collect::<Vec<_>>(), [256, 257, 258, 259]);
}

#[tokio::test]
async fn a_payer_that_empties_its_escrow_in_front_of_the_batch_is_left_out_and_pays_later() {
    let (world, mut replica) = with_poor_accounts().await;
    a_payer_empties_its_escrow_in_front_of_the_batch(&world, &mut replica).await;
    assert_eq!(reasons(&world)[&260], SkipReason::InsufficientEscrow);
    assert_eq!(world.credit().await, 4 * SECOND);

    at_once(&world, world.deposit(POOR, 100 * SECOND)).await;
    until_settled(&world, &mut replica).await;
    assert_eq!(states(&world, 256..264), [RecordState::Final; 8]);
    assert_eq!(world.credit().await, 8 * SECOND);
    assert_eq!(world.escrow(POOR).await, 96 * SECOND);
    assert_eq!(world.escrow(1).await, ESCROW - 4 * SECOND);
    world.the_log_is_the_chain().await;
}

#[tokio::test]
async fn accounts_that_come_to_be_are_paid_what_was_owed_to_them_before() {
    let world = World::new(ESCROW).await;
    let mut replica = world.replica().await;
    world.seal_one(256, 2, 1, 1000);
    world.seal_one(257, 1, 2, 1000);
    until_settled(&world, &mut replica).await;
    assert_eq!(
        reasons(&world),
        [
            (256, SkipReason::UnknownPayer),
            (257, SkipReason::UnknownProvider)
        ]
        .into()
    );
    at_once(&world, async {
        register_payer(&world).await;
        world.deposit(2, 5 * SECOND).await;
        register_provider(&world).await;
    })
    .await;
    world.anvil.pass_time(2 * 24 * 3600).await;
    at_once(&world, activate(&world, 2)).await;
    until_settled(&world, &mut replica).await;
    assert_eq!(states(&world, 256..258), [RecordState::Final; 2]);
    assert_eq!(
        (world.credit().await, credit_of(&world, 2).await),
        (SECOND, SECOND)
    );
    assert_eq!(
        (world.escrow(1).await, world.escrow(2).await),
        (ESCROW - SECOND, 4 * SECOND)
    );
    let held = GridToken::balanceOfCall {
        account: world.settlement,
    };
    let held = world.anvil.call(world.token, &held).await;
    assert_eq!(
        held,
        U256::from(ESCROW + 5 * SECOND) * U256::from(1_000_000_000)
    );
    world.the_log_is_the_chain().await;
}
