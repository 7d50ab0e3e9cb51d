use alloy::{hex, primitives::U256};
use gridstake_contracts::Settlement;
use gridstake_crds::{
    settlement_batch::{BatchState, BlockedReason},
    usage_record::{RecordSettlement, RecordState, SkipReason},
};
use gridstake_operator::settlement::planner;
use k8s_openapi::jiff::Timestamp;
use serde_json::json;

use crate::{
    anvil::{ADMIN, Anvil, PAYER},
    world::{LANE, Replica, World, sealed, settle},
};

const ESCROW: u64 = 1_000_000_000_000;
/// What a record of a second costs.
const SECOND: u64 = 1_000_000;

fn state(world: &World, sequence: u64) -> BatchState {
    world.batch(sequence).status.unwrap().state.unwrap()
}

fn attempts(world: &World, sequence: u64) -> usize {
    world.batch(sequence).status.unwrap().attempts.len()
}

#[tokio::test]
async fn batches_are_paid_while_records_cannot_be_told_and_are_final_in_the_log_only_after_that() {
    let world = World::new(ESCROW).await;
    let mut replica = world.replica().await;
    world.api.refuse_writes(Some("/usagerecords/"));
    for first in [256, 266] {
        world.seal(first..first + 10, 1000);
        for _ in 0..6 {
            replica.step().await;
            world.anvil.mine(1).await;
        }
    }
    assert_eq!((world.head().await, world.credit().await), (2, 20 * SECOND));
    assert_eq!(
        [state(&world, 1), state(&world, 2)],
        [BatchState::Safe, BatchState::Safe]
    );
    assert!(world.states().is_empty(), "{:?}", world.states());
    assert_eq!(
        replica.measured("gridstake_settlement_ledger_drift"),
        Some(0.0)
    );

    // Another leader tells them.
    world.api.refuse_writes(None);
    let mut replica = world.replica().await;
    settle(&world, &mut replica).await;
    assert_eq!(
        [state(&world, 1), state(&world, 2)],
        [BatchState::Final, BatchState::Final]
    );
    world.everything_is_paid_once(ESCROW, 1000).await;
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

/// What a record has been told of its payment.
fn told(world: &World, number: u64) -> RecordSettlement {
    let records = world.api.records();
    let name = Some(format!("job-{number}-1-0-0"));
    let found = records.iter().find(|record| record.metadata.name == name);
    found.unwrap().status.clone().unwrap().settlement.unwrap()
}

fn told_states(world: &World, numbers: std::ops::Range<u64>) -> Vec<RecordState> {
    numbers.map(|number| told(world, number).state).collect()
}

async fn steps(world: &World, replica: &mut Replica, count: usize) {
    for _ in 0..count {
        replica.step().await;
        world.anvil.mine(1).await;
    }
}

#[tokio::test]
async fn what_cannot_be_paid_is_left_out_and_paid_as_far_as_the_escrow_goes() {
    let world = World::new(3 * SECOND).await;
    let mut replica = world.replica().await;
    // Of five seconds three fit the escrow; one more is owed to a provider that does not exist.
    world.seal(256..261, 1000);
    world.seal_one(300, 1, 99, 1000);
    replica.step().await;
    let batch = world.batch(1);
    assert_eq!(
        (batch.spec.first_job_no, batch.spec.last_job_no),
        (256, 258)
    );
    for (number, reason) in [
        (259, SkipReason::InsufficientEscrow),
        (260, SkipReason::InsufficientEscrow),
        (300, SkipReason::UnknownProvider),
    ] {
        let told = told(&world, number);
        assert_eq!(
            (told.state, told.skipped, told.batch),
            (RecordState::Skipped, Some(reason), None)
        );
    }
    world.anvil.mine(1).await;
    steps(&world, &mut replica, 6).await;
    assert_eq!(told_states(&world, 256..259), [RecordState::Final; 3]);
    assert_eq!(told_states(&world, 259..261), [RecordState::Skipped; 2]);
    assert_eq!((world.head().await, world.credit().await), (1, 3 * SECOND));
    assert_eq!(world.batch(1).status.unwrap().outcome.unwrap().skipped, 0);

    // Nothing is sent for what cannot be paid, and nothing is written again.
    let writes = world.api.writes();
    steps(&world, &mut replica, 2).await;
    assert_eq!(world.api.writes(), writes);

    world.anvil.rpc("evm_setAutomine", json!([true])).await;
    world.deposit(1, 10 * SECOND).await;
    world.anvil.hold().await;
    steps(&world, &mut replica, 5).await;
    assert_eq!(told_states(&world, 256..261), [RecordState::Final; 5]);
    assert_eq!(told(&world, 300).state, RecordState::Skipped);
    assert_eq!((world.head().await, world.credit().await), (2, 5 * SECOND));
}

#[tokio::test]
async fn what_the_contract_itself_leaves_out_is_told_and_paid_after_a_deposit() {
    let world = World::new(3 * SECOND).await;
    let mut replica = world.replica().await;
    world.anvil.rpc("evm_setAutomine", json!([true])).await;
    let thaw = Settlement::thawCall {
        lane: LANE,
        payer: 1,
        amount: 3 * SECOND,
    };
    world.anvil.transact(PAYER, world.settlement, &thaw).await;
    world.anvil.pass_time(7 * 24 * 3600).await;
    world.anvil.hold().await;
    world.seal(256..258, 1000);
    replica.step().await;
    assert_eq!(state(&world, 1), BatchState::InFlight);

    // While the batch is under way, the payer takes everything back.
    world.anvil.drop_pending().await;
    world.anvil.rpc("evm_setAutomine", json!([true])).await;
    let withdraw = Settlement::withdrawCall {
        lane: LANE,
        payer: 1,
    };
    world
        .anvil
        .transact(PAYER, world.settlement, &withdraw)
        .await;
    world.anvil.hold().await;
    steps(&world, &mut replica, 5).await;
    for number in 256..258 {
        let told = told(&world, number);
        assert_eq!(
            (told.state, told.skipped),
            (RecordState::Skipped, Some(SkipReason::InsufficientEscrow))
        );
        assert_eq!(told.batch.as_deref(), Some("lane-7-00000000000000000001"));
    }
    let outcome = world.batch(1).status.unwrap().outcome.unwrap();
    assert_eq!((outcome.paid, outcome.skipped), (0, 2));
    assert_eq!((world.head().await, world.credit().await), (1, 0));

    world.anvil.rpc("evm_setAutomine", json!([true])).await;
    world.deposit(1, 2 * SECOND).await;
    world.anvil.hold().await;
    settle(&world, &mut replica).await;
    assert_eq!((world.head().await, world.credit().await), (2, 2 * SECOND));
}

#[tokio::test]
async fn an_emission_that_the_reward_account_does_not_cover_holds_up_no_use() {
    const EMISSION: u64 = 100;
    let world = World::new(ESCROW).await;
    let mut replica = world.replica().await;
    let mut rewarded = sealed(256, 1, 1, 1000);
    rewarded["status"]["sealed"]["emission"] = json!({"jobNo": 257, "amount": "0.0000001"});
    world.api.seal(&rewarded);
    steps(&world, &mut replica, 6).await;
    let told_of = told(&world, 256);
    assert_eq!(
        (told_of.state, told_of.skipped),
        (RecordState::Skipped, Some(SkipReason::InsufficientEscrow))
    );
    assert_eq!((world.head().await, world.credit().await), (1, SECOND));

    world.anvil.rpc("evm_setAutomine", json!([true])).await;
    world.deposit(0, EMISSION).await;
    world.anvil.hold().await;
    settle(&world, &mut replica).await;
    assert_eq!(world.batch(2).spec.first_job_no, 257);
    assert_eq!(
        (world.head().await, world.credit().await),
        (2, SECOND + EMISSION)
    );
}

#[tokio::test]
async fn a_record_that_was_not_told_the_end_of_its_batch_is_told_by_whoever_looks_at_all_records() {
    let world = World::new(ESCROW).await;
    let mut replica = world.replica().await;
    world.seal(256..258, 1000);
    settle(&world, &mut replica).await;
    let mut record = serde_json::to_value(&world.api.records()[0]).unwrap();
    record["status"]["settlement"]["state"] = json!("Paid");
    world.api.seal(&record);
    // As every replica does at first, and once a minute.
    world.replica().await.step().await;
    assert_eq!(told_states(&world, 256..258), [RecordState::Final; 2]);
    assert_eq!(world.api.batches().len(), 1);
}

/// A record of one GPU for `millis` that ended `ago` seconds ago.
fn sealed_ago(number: u64, millis: u64, ago: i64) -> serde_json::Value {
    let mut record = sealed(number, 1, 1, millis);
    let ended = Timestamp::now().as_millisecond() - 1000 * ago;
    record["status"]["sealed"]["endMs"] = json!(ended);
    record
}

#[tokio::test]
async fn what_is_not_worth_its_fee_waits_for_more_or_until_it_is_old() {
    let world = World::new(ESCROW).await;
    // At a tip of a gwei a batch costs about a ten-thousandth of a coin, which is what a token is worth here.
    let planned = format!(
        "{}  planner: {{weiPerToken: 1000000000gwei, minGainMultiple: 10, maxAge: 1h}}\n",
        world.chains_file.replace(
            "replaceAfterBlocks: 3",
            "replaceAfterBlocks: 3, minPriorityFeePerGas: 1gwei"
        )
    );
    let mut replica = world.replica_with(&planned).await;
    world.api.seal(&sealed_ago(256, 1, 60));
    steps(&world, &mut replica, 2).await;
    assert!(world.api.batches().is_empty());
    let metrics = replica.lane.metrics();
    assert_eq!((metrics.planner_waits.get(), metrics.waiting.get()), (1, 1));

    // A million times as much.
    world.api.seal(&sealed_ago(257, 1_000_000, 60));
    settle(&world, &mut replica).await;
    assert_eq!(world.batch(1).spec.record_count, 2);
    assert_eq!(replica.lane.metrics().planner_waits.get(), 0);

    world.api.seal(&sealed_ago(258, 1, 3601));
    settle(&world, &mut replica).await;
    assert_eq!(world.batch(2).spec.record_count, 1);
}

#[tokio::test]
async fn the_gas_that_is_expected_is_near_what_a_chain_charges() {
    let world = World::new(ESCROW).await;
    let mut replica = world.replica().await;
    // So that all accounts have been used before.
    world.seal(256..257, 1000);
    settle(&world, &mut replica).await;
    let mut next = 257;
    for count in [1, 20, 200, 1000] {
        world.seal(next..next + count, 1000 + 97 * count);
        next += count;
        settle(&world, &mut replica).await;
        let batch = world.batch(world.head().await);
        assert_eq!(u64::from(batch.spec.record_count), count);
        let content = gridstake_ledger::batch::decode(&batch.spec.data.0).unwrap();
        let expected = planner::expected_gas(
            &content.entries,
            content.statements.len(),
            &batch.spec.data.0,
        );
        let charged = batch.status.unwrap().inclusion.unwrap().gas_used.unwrap();
        println!("gas entries={count} expected={expected} charged={charged}");
        assert!(
            expected.abs_diff(charged) * 10 <= charged,
            "{count} entries: {expected} expected, {charged} charged"
        );
    }
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
    let blocked = "gridstake_settlement_blocked_batches";
    assert_eq!(replica.measured(blocked), Some(1.0));
    world
        .anvil
        .give_coins(gas, U256::from(10).pow(U256::from(19)))
        .await;
    settle(&world, &mut replica).await;
    assert_eq!(replica.measured(blocked), Some(0.0));
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

#[tokio::test]
async fn a_record_that_says_it_is_paid_and_is_not_is_told_as_drift_until_it_is_gone() {
    let world = World::new(ESCROW).await;
    let mut replica = world.replica().await;
    world.seal(256..260, 1000);
    settle(&world, &mut replica).await;
    assert_eq!(
        replica.measured("gridstake_settlement_paid_gpu_seconds_total"),
        Some(4.0)
    );

    // One more, of which the chain has heard nothing.
    let mut lie = sealed(300, 1, 1, 1000);
    lie["status"]["settlement"] = json!({"state": "Final"});
    world.api.seal(&lie);
    let mut another = world.replica().await;
    another.step().await;
    assert_eq!(
        another.measured("gridstake_settlement_ledger_drift"),
        Some(1.0)
    );

    world.api.retain(|path, _| !path.contains("job-300"));
    let mut another = world.replica().await;
    another.step().await;
    assert_eq!(
        another.measured("gridstake_settlement_ledger_drift"),
        Some(0.0)
    );
}
