//! Blocks are reorganised away, with what they held mined again or not; past what was final, everything stops.

use alloy::hex;
use gridstake_contracts::Settlement;
use gridstake_crds::{
    closed_enum::ClosedEnum as _,
    settlement_batch::{BatchState, BlockedReason},
    usage_record::RecordState,
};
use gridstake_ledger::batch::{self, Entry};
use serde_json::{Value, json};

use crate::{
    anvil::ADMIN,
    api_server::ApiServer,
    differential::settle_call,
    lying_rpc::LyingRpc,
    world::{LANE, Replica, World, sealed},
};

const ESCROW: u64 = 1_000_000_000_000;
/// A block is final when so many are on top of it: more than any reorganisation of these tests replaces.
const FINAL_DEPTH: u64 = 24;

fn final_late(world: &World) -> String {
    format!(
        "{}  finality: {{mode: Depth, depth: {FINAL_DEPTH}}}\n",
        world.chains_file
    )
}

/// Steps and mines until the lane stands at the end of the log.
async fn until_included(world: &World, replica: &mut Replica) {
    for _ in 0..60 {
        replica.step().await;
        assert!(!replica.is_halted());
        let batches = world.api.batches();
        let included = |state| {
            matches!(
                state,
                BatchState::Included | BatchState::Safe | BatchState::Final
            )
        };
        let on_chain = batches.iter().all(|batch| {
            let state = batch.status.as_ref().and_then(|status| status.state);
            state.is_some_and(included)
        });
        let stamped = world.states().len() == world.api.records().len();
        if on_chain && stamped && world.head().await == batches.len() as u64 {
            return;
        }
        world.anvil.mine(1).await;
    }
    panic!("not included: {:#?}", world.api.batches());
}

/// What the new branch holds of the old one.
#[derive(Clone, Copy, Debug)]
enum Again {
    Nothing,
    TheSame,
    /// All in the last block.
    Late,
}

async fn reorganise(world: &World, depth: u64, again: Again) {
    let mut kept = world.anvil.newest_transactions(depth).await;
    match again {
        Again::Nothing => kept.clear(),
        Again::TheSame => {}
        Again::Late => kept.iter_mut().for_each(|(_, block)| *block = depth - 1),
    }
    world.anvil.reorg_with(depth, &kept).await;
}

async fn until_final(world: &World, replica: &mut Replica) {
    for _ in 0..4 {
        replica.step().await;
        world.anvil.mine(FINAL_DEPTH + 1).await;
    }
    replica.step().await;
    world.everything_is_paid_once(ESCROW, 1000).await;
}

#[tokio::test]
async fn a_reorganisation_of_any_depth_below_finality_pays_nothing_twice() {
    let world = World::new(ESCROW).await;
    let mut replica = world.replica_with(&final_late(&world)).await;
    for depth in 1..=20 {
        let again =
            [Again::Nothing, Again::TheSame, Again::Late][usize::try_from(depth % 3).unwrap()];
        let from = 256 + 3 * depth;
        world.seal(from..from + 3, 1000);
        until_included(&world, &mut replica).await;
        let number = world.head().await;
        // Its block is the oldest of those that are replaced.
        let block = world
            .batch(number)
            .status
            .unwrap()
            .inclusion
            .unwrap()
            .block
            .number;
        let above = world.anvil.height().await - block;
        if depth > above + 1 {
            world.anvil.mine(depth - above - 1).await;
        }
        replica.step().await;
        reorganise(&world, depth, again).await;
        replica.step().await;
        if matches!(again, Again::Nothing) {
            let status = world.batch(number).status.unwrap();
            assert_eq!(status.state, Some(BatchState::InFlight), "depth {depth}");
            assert_eq!(world.states()[&from], RecordState::Batched);
        }
        until_included(&world, &mut replica).await;
        assert_eq!(
            world.credit().await,
            depth * 3 * 1_000_000,
            "depth {depth}, {again:?}"
        );
    }
    until_final(&world, &mut replica).await;
}

/// Some batches in a row, all in the newest blocks.
async fn a_series(world: &World, replica: &mut Replica, batches: u64) {
    for batch in 0..batches {
        world.seal(256 + 3 * batch..259 + 3 * batch, 1000);
        until_included(world, replica).await;
    }
}

#[tokio::test]
async fn batches_that_go_together_come_back_in_their_order() {
    for again in [Again::Nothing, Again::TheSame, Again::Late] {
        let world = World::new(ESCROW).await;
        world.anvil.mine(20).await;
        let mut replica = world.replica_with(&final_late(&world)).await;
        a_series(&world, &mut replica, 5).await;
        reorganise(&world, 20, again).await;
        let again_there = world.head().await;
        assert_eq!(
            again_there,
            if matches!(again, Again::Nothing) {
                0
            } else {
                5
            }
        );
        until_included(&world, &mut replica).await;
        until_final(&world, &mut replica).await;
    }
}

#[tokio::test]
async fn transactions_that_are_mined_again_in_another_order_are_made_good() {
    let world = World::new(ESCROW).await;
    let mut replica = world.replica_with(&final_late(&world)).await;
    // The first batch is relayed by a stranger, so that nothing orders the two but their content.
    world.seal(256..259, 1000);
    replica.step().await;
    let pool = world.anvil.rpc("txpool_content", json!([])).await;
    let of = |part: &Value| part.as_object().unwrap().values().next().unwrap().clone();
    let input = of(&of(&pool["pending"]))["input"].clone();
    world.anvil.drop_pending().await;
    world.anvil.rpc("evm_setAutomine", json!([true])).await;
    let data = hex::decode(input.as_str().unwrap()).unwrap();
    world.anvil.send(ADMIN, Some(world.settlement), data).await;
    world.anvil.hold().await;
    until_included(&world, &mut replica).await;
    world.seal(300..303, 1000);
    until_included(&world, &mut replica).await;
    assert_eq!(world.head().await, 2);

    let blocks = 4;
    let mut kept = world.anvil.newest_transactions(blocks).await;
    assert_eq!(kept.len(), 2);
    let (first, second) = (kept[0].1, kept[1].1);
    kept[0].1 = second.max(first + 1);
    kept[1].1 = first;
    kept.reverse();
    world.anvil.reorg_with(blocks, &kept).await;
    assert_eq!(
        world.head().await,
        1,
        "the second one came first, and failed"
    );
    until_included(&world, &mut replica).await;
    assert_eq!(world.head().await, 2);
    until_final(&world, &mut replica).await;
}

#[tokio::test]
async fn a_reorganisation_back_and_forth_is_followed() {
    let world = World::new(ESCROW).await;
    let mut replica = world.replica_with(&final_late(&world)).await;
    a_series(&world, &mut replica, 2).await;
    for _ in 0..4 {
        let both = world.anvil.newest_transactions(6).await;
        world.anvil.reorg_with(6, &[]).await;
        replica.step().await;
        assert_eq!(
            world.batch(1).status.unwrap().state,
            Some(BatchState::InFlight)
        );
        world.anvil.reorg_with(6, &both).await;
        replica.step().await;
        assert_eq!(
            world.batch(2).status.unwrap().state,
            Some(BatchState::Included)
        );
    }
    until_final(&world, &mut replica).await;
}

/// A lane with one final batch, and another one that is under way.
async fn with_a_final_batch() -> (World, LyingRpc, Replica) {
    let world = World::new(ESCROW).await;
    let proxy = LyingRpc::before(&world.anvil).await;
    let mut replica = world.replica_with(&world.reached_by(&[&proxy.url])).await;
    world.seal(256..259, 1000);
    for _ in 0..6 {
        replica.step().await;
        world.anvil.mine(1).await;
    }
    assert!(world.all_final());
    (world, proxy, replica)
}

/// Everything has stopped, the status of batch 1 says so, and nothing is sent, whatever is sealed.
async fn is_halted(world: &World, proxy: &LyingRpc, replica: &mut Replica) {
    assert!(replica.is_halted());
    let status = world.batch(1).status.unwrap();
    assert_eq!(
        status.state,
        Some(BatchState::Final),
        "the log keeps what it knew"
    );
    assert_eq!(status.blocked, Some(BlockedReason::Halted));
    let ready = status
        .conditions
        .iter()
        .find(|c| c.type_ == "Ready")
        .unwrap();
    assert_eq!(
        (ready.status.as_str(), ready.reason.as_str()),
        ("False", BlockedReason::Halted.as_str())
    );
    let (sent, batches) = (
        proxy.asked("eth_sendRawTransaction"),
        world.api.batches().len(),
    );
    world.seal(700..703, 1000);
    for _ in 0..4 {
        replica.step().await;
        world.anvil.mine(1).await;
    }
    assert!(replica.is_halted());
    assert_eq!(proxy.asked("eth_sendRawTransaction"), sent);
    assert_eq!(world.api.batches().len(), batches);
}

#[tokio::test]
async fn a_reorganisation_past_finality_stops_everything_until_the_chain_is_as_the_log_says() {
    let (world, proxy, mut replica) = with_a_final_batch().await;
    let depth = 12;
    let kept = world.anvil.newest_transactions(depth).await;
    world.anvil.reorg_with(depth, &[]).await;
    assert_eq!(world.head().await, 0);
    replica.step().await;
    is_halted(&world, &proxy, &mut replica).await;
    // A replica that has just started finds the same.
    let mut other = world.replica_with(&world.reached_by(&[&proxy.url])).await;
    other.step().await;
    assert!(other.is_halted());

    // A person sends what was settled once more.
    for (raw, _) in kept {
        world
            .anvil
            .rpc("eth_sendRawTransaction", json!([raw]))
            .await;
    }
    for _ in 0..12 {
        world.anvil.mine(1).await;
        replica.try_step().await;
    }
    assert!(!replica.is_halted());
    assert_eq!(world.batch(1).status.unwrap().blocked, None);
    world.everything_is_paid_once(ESCROW, 1000).await;
}

#[tokio::test]
async fn a_reorganisation_past_finality_stops_what_is_under_way() {
    let (world, proxy, mut replica) = with_a_final_batch().await;
    world.seal(300..303, 1000);
    replica.step().await;
    assert_eq!(
        world.batch(2).status.unwrap().state,
        Some(BatchState::InFlight)
    );
    world.anvil.drop_pending().await;
    world.anvil.reorg(12).await;
    replica.step().await;
    is_halted(&world, &proxy, &mut replica).await;
    assert_eq!(world.credit().await, 0);
}

#[tokio::test]
async fn another_batch_under_a_final_number_stops_everything() {
    let (world, proxy, mut replica) = with_a_final_batch().await;
    world.anvil.reorg(12).await;
    // Somebody else has the lane's keys.
    let api = ApiServer::default();
    api.seal(&sealed(900, 1, 1, 1000));
    let mut other = world.replica_of(&api, &world.chains_file).await;
    for _ in 0..4 {
        other.step().await;
        world.anvil.mine(1).await;
    }
    assert_eq!(world.head().await, 1);
    replica.step().await;
    is_halted(&world, &proxy, &mut replica).await;
}

#[tokio::test]
async fn a_batch_that_somebody_else_signed_with_the_lanes_key_stops_everything() {
    let (world, proxy, mut replica) = with_a_final_batch().await;
    let call = Settlement::headCall { lane: LANE };
    let head = world.anvil.call(world.settlement, &call).await;
    let theirs = Entry {
        job_no: 900,
        payer: 1,
        provider: 1,
        price: 1_000_000_000,
        units: 5,
    };
    let data = batch::encode(&[theirs], &[]).unwrap();
    let (input, _) = settle_call(&world, head.seq + 1, head.chainHash, &data);
    world.anvil.rpc("evm_setAutomine", json!([true])).await;
    world.anvil.send(ADMIN, Some(world.settlement), input).await;
    world.anvil.hold().await;
    replica.step().await;
    is_halted(&world, &proxy, &mut replica).await;
}
