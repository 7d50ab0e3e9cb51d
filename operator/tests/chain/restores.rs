//! The API server is restored from a backup, and the chain knows more than the log.

use std::time::Duration;

use alloy::hex;
use gridstake_crds::{
    UsageRecord,
    names::LABEL_RESTORED,
    settlement_batch::BatchState,
    usage_record::{RecordState, Sealed},
};
use gridstake_operator::{
    archive::Terms,
    chain::Standing,
    controllers::usage_record::{
        observe::in_doubt,
        receipt,
        remembered::{self, Difference, Remembered},
    },
    leader::Lapse,
};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::json;

use crate::{
    anvil::ADMIN,
    lying_rpc::{Lie, LyingRpc},
    world::{LANE, Replica, World, sealed, settle},
};

const ESCROW: u64 = 1_000_000_000_000;
/// What a record of a second costs.
const SECOND: u64 = 1_000_000;

#[tokio::test]
async fn what_only_the_chain_holds_is_taken_over_and_nothing_is_paid_twice() {
    let world = World::new(ESCROW).await;
    let mut replica = world.replica().await;
    world.seal(256..260, 1000);
    settle(&world, &mut replica).await;
    let backup = world.api.save();
    for from in [260, 264] {
        world.seal(from..from + 4, 1000);
        settle(&world, &mut replica).await;
    }
    let before = world.api.batches();

    world.api.restore(&backup);
    let mut replica = world.replica().await;
    // Whoever remembers the seals gives them back.
    world.seal(260..268, 1000);
    settle(&world, &mut replica).await;
    assert_eq!((world.head().await, world.credit().await), (3, 12 * SECOND));
    let after = world.api.batches();
    for (before, after) in before.iter().zip(&after).skip(1) {
        assert_eq!(after.spec.data, before.spec.data);
        assert_eq!(after.spec.chain_hash, before.spec.chain_hash);
        assert!(
            after
                .metadata
                .labels
                .as_ref()
                .unwrap()
                .contains_key(LABEL_RESTORED)
        );
    }
    assert_eq!(after.len(), before.len());
    // Numbers go on above those that the chain has seen.
    assert!(world.api.next_number() >= Some(512));

    // The lane goes on.
    world.seal(600..604, 1000);
    settle(&world, &mut replica).await;
    assert_eq!((world.head().await, world.credit().await), (4, 16 * SECOND));
}

#[tokio::test]
async fn what_the_chain_holds_is_looked_for_in_fewer_blocks_at_once_where_the_answer_is_too_large()
{
    let world = World::new(ESCROW).await;
    let mut replica = world.replica().await;
    let backup = world.api.save();
    world.seal(256..260, 1000);
    settle(&world, &mut replica).await;
    world.anvil.mine(100).await;

    world.api.restore(&backup);
    let proxy = LyingRpc::before(&world.anvil).await;
    let mut replica = world.replica_with(&world.reached_by(&[&proxy.url])).await;
    proxy.lie(Lie::Endless, Some("eth_getLogs"), 7);
    for _ in 0..3 {
        replica.step().await;
    }
    assert_eq!(proxy.told(), 7);
    assert_eq!(world.batch(1).spec.record_count, 4);
    assert_eq!(replica.lane.doubts().unwrap().count(), 4);
}

#[tokio::test]
async fn numbers_that_no_record_has_are_in_doubt_until_their_records_are_there() {
    let world = World::new(ESCROW).await;
    let mut replica = world.replica().await;
    let backup = world.api.save();
    world.seal(256..260, 1000);
    settle(&world, &mut replica).await;

    world.api.restore(&backup);
    let mut replica = world.replica().await;
    assert!(replica.lane.doubts().is_none(), "nothing has been compared");
    replica.step().await;
    assert!(
        replica.lane.doubts().is_none(),
        "the log is being taken over"
    );
    replica.step().await;
    assert_eq!(replica.lane.doubts().unwrap().count(), 4);
    world.seal(256..260, 1000);
    let mut replica = world.replica().await;
    replica.step().await;
    assert_eq!(replica.lane.doubts().unwrap().count(), 0);
    let labels = world.batch(1).metadata.labels.unwrap();
    assert_eq!(labels[LABEL_RESTORED], "resolved");
}

#[tokio::test]
async fn a_batch_that_was_sent_before_the_backup_was_restored_takes_the_place_of_the_new_one() {
    let world = World::new(ESCROW).await;
    let mut replica = world.replica().await;
    let backup = world.api.save();
    world.seal(256..260, 1000);
    replica.step().await;
    world.anvil.until_pending().await;

    world.api.restore(&backup);
    let mut replica = world.replica().await;
    world.seal(256..262, 1000);
    replica.step().await;
    let new = world.batch(1);
    assert_eq!(new.spec.record_count, 6);
    world.anvil.mine(1).await;
    settle(&world, &mut replica).await;
    assert_eq!((world.head().await, world.credit().await), (2, 6 * SECOND));
    let batches = world.api.batches();
    let states: Vec<_> = batches
        .iter()
        .map(|batch| {
            let state = batch.status.as_ref().unwrap().state.unwrap();
            (batch.spec.sequence, batch.spec.record_count, state)
        })
        .collect();
    assert_eq!(
        states,
        [
            (1, 6, BatchState::Superseded),
            (1, 4, BatchState::Final),
            (2, 2, BatchState::Final)
        ]
    );
    assert_eq!(batches[1].spec.supersedes, batches[0].metadata.name);
    assert_eq!(
        batches[0].status.as_ref().unwrap().superseded_by,
        batches[1].metadata.name
    );
}

#[tokio::test]
async fn what_somebody_else_has_settled_is_not_taken_over() {
    let world = World::new(ESCROW).await;
    let mut replica = world.replica().await;
    let backup = world.api.save();
    world.seal(256..260, 1000);
    replica.step().await;
    world.anvil.until_pending().await;
    let pool = world.anvil.rpc("txpool_content", json!([])).await;
    let by_sender = pool["pending"].as_object().unwrap();
    let by_nonce = by_sender.values().next().unwrap().as_object().unwrap();
    let input = by_nonce.values().next().unwrap()["input"].clone();
    world.anvil.drop_pending().await;
    world.anvil.rpc("evm_setAutomine", json!([true])).await;
    let data = hex::decode(input.as_str().unwrap()).unwrap();
    world.anvil.send(ADMIN, Some(world.settlement), data).await;
    world.anvil.hold().await;

    world.api.restore(&backup);
    let mut replica = world.replica().await;
    world.seal(256..260, 1000);
    for _ in 0..3 {
        replica.step().await;
        world.anvil.mine(1).await;
    }
    assert!(world.api.batches().is_empty());
    assert_eq!(replica.lane.metrics().halted.get(), 1);
    assert!(replica.lane.doubts().is_none(), "no slice gets a number");
    assert_eq!(world.credit().await, 4 * SECOND);
}

/// A record that was sealed under `number` and is open again, as its agent remembers it.
fn remembered_as(number: u64) -> UsageRecord {
    let mut value = sealed(number, 1, 1, 1000);
    let mut seal = value["status"].take()["sealed"].take();
    value["status"] = json!({"evidence": {"podUid": "p", "key": format!("0x{}", "1".repeat(40))}});
    let mut record: UsageRecord = serde_json::from_value(value).unwrap();
    let made: Sealed = serde_json::from_value(seal.clone()).unwrap();
    seal["receiptHash"] = json!(receipt::hash(&record, &made).unwrap());
    let evidence = record.status.as_mut().unwrap().evidence.as_mut().unwrap();
    evidence.sealed = Some(serde_json::from_value(seal).unwrap());
    record
}

/// What the UsageRecord controller does with a seal that is to be written as it was.
async fn seal_again(world: &World, replica: &mut Replica, record: &UsageRecord, announced: u64) {
    let doubts = replica.lane.doubts().unwrap();
    let checked = remembered::check(record, &doubts, LANE);
    let Some(Ok(Remembered(seal))) = checked else {
        panic!("{checked:?}");
    };
    let mut value = serde_json::to_value(record).unwrap();
    value["status"]["sealed"] = serde_json::to_value(seal).unwrap();
    world.api.seal(&value);
    replica.settler.records_announced(announced);
    replica.settler.one_pass().await;
}

#[tokio::test]
async fn a_seal_that_an_agent_remembers_is_taken_if_the_chain_has_paid_it_and_ends_its_doubt_at_once()
 {
    let world = World::new(ESCROW).await;
    let mut replica = world.replica().await;
    let backup = world.api.save();
    let records: Vec<UsageRecord> = [256, 257, 258].map(remembered_as).into();
    for record in &records[..2] {
        let evidence = record.status.as_ref().unwrap().evidence.as_ref().unwrap();
        let mut value = serde_json::to_value(record).unwrap();
        value["status"]["sealed"] = serde_json::to_value(&evidence.sealed).unwrap();
        world.api.seal(&value);
    }
    settle(&world, &mut replica).await;
    let paid = world.batch(1);

    world.api.restore(&backup);
    let mut replica = world.replica().await;
    for _ in 0..2 {
        replica.step().await;
    }
    let doubts = replica.lane.doubts().unwrap();
    assert_eq!(doubts.count(), 2);
    // One that was sealed and never paid, and one that was changed.
    assert_eq!(
        remembered::check(&records[2], &doubts, LANE),
        Some(Err(Difference::Number { number: 258 }))
    );
    let mut changed = records[0].clone();
    let evidence = changed.status.as_mut().unwrap().evidence.as_mut().unwrap();
    evidence.sealed.as_mut().unwrap().end_ms += 1;
    assert_eq!(
        remembered::check(&changed, &doubts, LANE),
        Some(Err(Difference::Receipt))
    );

    // The first while the batch is not final in the log, the second after that.
    seal_again(&world, &mut replica, &records[0], 2).await;
    assert_eq!(replica.lane.doubts().unwrap().count(), 1);
    for _ in 0..20 {
        if world.states().get(&256) == Some(&RecordState::Final) {
            break;
        }
        world.anvil.mine(1).await;
        replica
            .follower
            .look(k8s_openapi::jiff::Timestamp::now)
            .await
            .unwrap();
        replica.settler.one_pass().await;
    }
    assert_eq!(world.states()[&256], RecordState::Final);
    seal_again(&world, &mut replica, &records[1], 3).await;
    assert!(replica.lane.doubts().unwrap().is_empty());
    assert_eq!(world.states()[&257], RecordState::Final);
    let restored = world.batch(1);
    assert_eq!(restored.spec.data, paid.spec.data);
    assert_eq!(
        restored.metadata.labels.unwrap()[LABEL_RESTORED],
        "resolved"
    );
    for record in world.api.records() {
        let settlement = record.status.unwrap().settlement.unwrap();
        assert_eq!(settlement.batch, restored.metadata.name);
        assert!(settlement.transaction.is_some());
    }
    // Nothing was sent for them.
    replica.step().await;
    assert_eq!((world.head().await, world.credit().await), (1, 2 * SECOND));
    assert_eq!(world.api.batches().len(), 1);
}

/// What the leader's lease says after a restore from a backup of an hour ago.
fn an_hour() -> Lapse {
    let until = Timestamp::now();
    let from = until.checked_sub(SignedDuration::from_hours(1)).unwrap();
    Lapse { from, until }
}

/// The open record of a slice that began a moment before the operator was started, of which no agent remembers anything, and
/// whether it would be sealed.
fn is_sealed_now(replica: &Replica, began: Timestamp) -> bool {
    let mut value = sealed(256, 1, 1, 1000);
    value["status"].take();
    let record: UsageRecord = serde_json::from_value(value).unwrap();
    let lapse = replica.context.leadership.lapse();
    let (hold, _) = in_doubt(&replica.lane, lapse, &record, Timestamp::now());
    let began_ms = u64::try_from(began.as_millisecond()).unwrap();
    hold.is_none_or(|hold| !hold.concerns(began_ms))
}

#[tokio::test]
async fn what_the_archive_shows_to_be_paid_for_a_job_that_is_gone_puts_nothing_in_doubt() {
    let folder = std::env::temp_dir().join(format!("gridstake-explained-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    let keep = Terms {
        retention: Duration::MAX,
        removes: false,
    };
    let world = World::new(ESCROW).await;
    let mut replica = world.replica().await;
    let backup = world.api.save();
    for from in [256, 260] {
        world.seal(from..from + 4, 1000);
        settle(&world, &mut replica).await;
        if from == 256 {
            replica.archivist(&folder, keep).one_pass().await;
        }
    }

    world.api.restore(&backup);
    // One of the jobs was there when the backup was taken, and its slice is open.
    let mut open = sealed(257, 1, 1, 1000);
    open["status"].take();
    world.api.seal(&open);
    let mut replica = world.replica().await.with_archive(&folder);
    replica.step().await;
    replica.step().await;
    // It may be any of those of which nobody knows, and its own number is one of them.
    let record: UsageRecord = serde_json::from_value(open).unwrap();
    let doubts = replica.lane.doubts().unwrap();
    let numbers = &doubts.about(&record, LANE).unwrap().numbers;
    let numbers: Vec<u64> = numbers.keys().copied().collect();
    assert_eq!(numbers, [257, 260, 261, 262, 263]);
    // It is sealed as it was; of the other batch there is no file.
    world.seal(257..258, 1000);
    let mut replica = world.replica().await.with_archive(&folder);
    replica.step().await;
    assert_eq!(replica.lane.doubts().unwrap().count(), 4);
    let label = |sequence| world.batch(sequence).metadata.labels.unwrap()[LABEL_RESTORED].clone();
    assert_eq!((label(1), label(2)), ("resolved".into(), "true".into()));
    assert_eq!((world.head().await, world.credit().await), (2, 8 * SECOND));
}

/// A slice was sealed under number 256 and sent, the API server is restored from a backup of before, and the slice's agent is
/// gone.
async fn a_lost_batch() -> (World, Replica, Vec<u8>, Timestamp) {
    let world = World::new(ESCROW).await;
    let mut replica = world.replica().await;
    let backup = world.api.save();
    let began = Timestamp::now();
    world.seal(256..257, 1000);
    replica.step().await;
    world.anvil.until_pending().await;
    let attempt = world.batch(1).status.unwrap().attempts[0].hash.clone();
    let raw = world
        .anvil
        .rpc("eth_getRawTransactionByHash", json!([attempt]))
        .await;
    let raw = hex::decode(raw.as_str().unwrap()).unwrap();
    world.api.restore(&backup);
    let mut replica = world.replica().await.after(an_hour());
    assert!(!is_sealed_now(&replica, began), "nothing has been compared");
    replica.step().await;
    (world, replica, raw, began)
}

#[tokio::test]
async fn a_slice_whose_agent_is_gone_waits_for_the_batch_that_was_lost_and_is_paid_once() {
    let (world, mut replica, _, began) = Box::pin(a_lost_batch()).await;
    assert!(!is_sealed_now(&replica, began));
    // What has begun since is in no lost batch.
    assert!(is_sealed_now(&replica, Timestamp::now()));
    // The leader dies, and the next one has found nothing by the lease.
    let mut next = world.replica().await;
    next.step().await;
    assert!(!is_sealed_now(&next, began));
    // Another batch takes its number, and yet it is the lost one that is mined.
    world.seal(600..601, 1000);
    replica.step().await;
    world.anvil.mine(1).await;
    settle(&world, &mut replica).await;
    assert_eq!((world.head().await, world.credit().await), (2, 2 * SECOND));
    assert_eq!(replica.lane.doubts().unwrap().count(), 1);
    assert!(!is_sealed_now(&replica, began), "it is paid already");
    // A person finds out which one it was.
    world.seal(256..257, 1000);
    settle(&world, &mut replica).await;
    assert_eq!((world.head().await, world.credit().await), (2, 2 * SECOND));
}

#[tokio::test]
async fn a_slice_whose_agent_is_gone_is_sealed_once_a_batch_is_final_that_took_the_place_of_what_was_lost()
 {
    let (world, mut replica, lost, began) = Box::pin(a_lost_batch()).await;
    world.anvil.drop_pending().await;
    world.seal(600..601, 1000);
    for _ in 0..20 {
        replica.step().await;
        if world.all_final() {
            break;
        }
        assert!(!is_sealed_now(&replica, began));
        world.anvil.mine(1).await;
    }
    assert!(world.all_final());
    replica.step().await;
    assert!(is_sealed_now(&replica, began));
    // Numbers that were given out in the meantime are left out.
    assert!(world.api.next_number() > Some(3600));
    world.seal(700..701, 1000);
    // Whoever sends the lost one now is too late.
    let lost = hex::encode_prefixed(lost);
    let _ = world
        .anvil
        .ask("eth_sendRawTransaction", json!([lost]))
        .await;
    settle(&world, &mut replica).await;
    assert_eq!((world.head().await, world.credit().await), (2, 2 * SECOND));
}

#[tokio::test]
async fn a_slice_whose_agent_is_gone_is_sealed_once_nothing_that_was_signed_is_in_force() {
    let (world, mut replica, _, began) = Box::pin(a_lost_batch()).await;
    world.anvil.drop_pending().await;
    let authorization = replica.lane.chain().config().authorization.as_secs();
    // An hour for the clocks.
    world.anvil.pass_time(authorization + 3600 + 60).await;
    for _ in 0..8 {
        world.anvil.mine(1).await;
        replica.step().await;
    }
    // A replica that has just started looks at once.
    let mut replica = world.replica().await;
    replica.step().await;
    assert!(is_sealed_now(&replica, began));
}

#[tokio::test]
async fn where_nothing_shows_a_restore_no_slice_waits_because_its_agent_is_new_or_gone() {
    let world = World::new(ESCROW).await;
    let began = Timestamp::now();
    let mut replica = world.replica().await;
    replica.step().await;
    assert!(is_sealed_now(&replica, began));
    world.seal(256..257, 1000);
    replica.step().await;
    assert!(is_sealed_now(&replica, began));
    // Nor after another start.
    let mut replica = world.replica().await;
    replica.step().await;
    assert!(is_sealed_now(&replica, began));
}

#[tokio::test]
async fn what_was_signed_before_the_backup_was_restored_is_waited_out() {
    let world = World::new(ESCROW).await;
    let mut replica = world.replica().await;
    let in_force = |replica: &Replica| match replica.lane.chain().standing(Timestamp::now()) {
        Standing::InForce(view) => view,
        other => panic!("{other:?}"),
    };
    let is_past = |replica: &Replica| {
        replica
            .lane
            .is_past_signatures("job-256-1-0-0", &in_force(replica))
    };
    replica.step().await;
    assert!(!is_past(&replica));
    let authorization = replica.lane.chain().config().authorization.as_secs();
    world.anvil.pass_time(authorization + 60).await;
    replica.step().await;
    assert!(!is_past(&replica), "the block is not final");
    for _ in 0..8 {
        world.anvil.mine(1).await;
        replica.step().await;
    }
    assert!(is_past(&replica));
    // Another record is asked about for the first time.
    let view = in_force(&replica);
    assert!(!replica.lane.is_past_signatures("job-257-1-0-0", &view));
}
