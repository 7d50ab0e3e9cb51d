//! Several endpoints: whatever the first one does, the second one is enough.

use gridstake_crds::usage_record::RecordState;

use crate::{
    lying_rpc::{Lie, LyingRpc},
    world::{Replica, World},
};

const ESCROW: u64 = 1_000_000_000_000;

async fn until_final(world: &World, replica: &mut Replica) {
    for _ in 0..40 {
        replica.try_step().await;
        assert!(!replica.is_halted());
        if world.all_final() {
            return;
        }
        world.anvil.mine(1).await;
    }
    panic!("not final: {:?} {:#?}", world.states(), world.api.batches());
}

/// The first endpoint lies in this way without end, from the start and from when something is under way.
async fn the_second_is_enough(lie: Lie, settings: &str) {
    let other = World::on(1, ESCROW).await;
    // Higher than ours: the highest endpoint is not the best one.
    other.anvil.mine(100).await;
    let world = World::new(ESCROW).await;
    let (first, second) = (
        LyingRpc::before(&world.anvil).await,
        LyingRpc::before(&world.anvil).await,
    );
    first.other_chain(&other.anvil);
    let chains_file = world.reached_by(&[&first.url, &second.url]) + settings;

    first.lie(lie.clone(), None, usize::MAX);
    let mut replica = world.replica_with(&chains_file).await;
    world.seal(256..259, 1000);
    until_final(&world, &mut replica).await;
    assert!(first.told() > 0, "{lie:?}");
    world.everything_is_paid_once(ESCROW, 1000).await;

    first.tell_the_truth();
    let mut replica = world.replica_with(&chains_file).await;
    world.seal(300..303, 1000);
    replica.step().await;
    world.anvil.mine(1).await;
    first.lie(lie.clone(), None, usize::MAX);
    world.seal(400..403, 1000);
    until_final(&world, &mut replica).await;
    assert!(first.told() > 0, "{lie:?}");
    assert_eq!(first.strayed("eth_sendRawTransaction"), 0);
    assert_eq!(other.head().await, 0);
    world.everything_is_paid_once(ESCROW, 1000).await;
}

#[tokio::test]
async fn a_first_endpoint_that_loses_answers_holds_nothing_up() {
    Box::pin(the_second_is_enough(Lie::AnswerLost, "")).await;
}

#[tokio::test]
async fn a_first_endpoint_that_answers_too_late_holds_nothing_up() {
    Box::pin(the_second_is_enough(Lie::Late, "  requestTimeout: 200ms\n")).await;
}

#[tokio::test]
async fn a_first_endpoint_that_garbles_answers_holds_nothing_up() {
    Box::pin(the_second_is_enough(Lie::Truncated, "")).await;
}

#[tokio::test]
async fn a_first_endpoint_that_refuses_everything_holds_nothing_up() {
    Box::pin(the_second_is_enough(Lie::Refused, "")).await;
}

#[tokio::test]
async fn a_first_endpoint_that_turns_everything_away_holds_nothing_up() {
    Box::pin(the_second_is_enough(Lie::Status(429, Some(3600)), "")).await;
}

#[tokio::test]
async fn a_first_endpoint_that_answers_without_end_holds_nothing_up() {
    Box::pin(the_second_is_enough(Lie::Endless, "")).await;
}

#[tokio::test]
async fn a_first_endpoint_of_another_chain_is_passed_over() {
    Box::pin(the_second_is_enough(Lie::OtherChain, "")).await;
}

#[tokio::test]
async fn a_first_endpoint_that_keeps_transactions_to_itself_holds_nothing_up() {
    let world = World::new(ESCROW).await;
    let (first, second) = (
        LyingRpc::before(&world.anvil).await,
        LyingRpc::before(&world.anvil).await,
    );
    let chains_file = world.reached_by(&[&first.url, &second.url]);
    // It says that it has taken the transaction; nobody ever hears of it.
    first.lie(Lie::Swallowed, Some("eth_sendRawTransaction"), usize::MAX);
    let mut replica = world.replica_with(&chains_file).await;
    world.seal(256..259, 1000);
    until_final(&world, &mut replica).await;
    assert!(first.told() > 0);
    world.everything_is_paid_once(ESCROW, 1000).await;
}

#[tokio::test]
async fn dead_endpoints_are_passed_over_one_after_the_other() {
    let world = World::new(ESCROW).await;
    let (mut first, mut second) = (
        LyingRpc::before(&world.anvil).await,
        LyingRpc::before(&world.anvil).await,
    );
    let chains_file = world.reached_by(&[&first.url, &second.url]);
    first.go_away().await;
    let mut replica = world.replica_with(&chains_file).await;
    world.seal(256..258, 1000);
    until_final(&world, &mut replica).await;
    // The one that answered last dies while a transaction is under way, and the other one is back.
    world.seal(300..302, 1000);
    replica.step().await;
    second.go_away().await;
    assert!(!replica.try_step().await, "nobody answers");
    first.come_back().await;
    until_final(&world, &mut replica).await;
    world.everything_is_paid_once(ESCROW, 1000).await;
}

#[tokio::test]
async fn an_endpoint_that_has_stopped_is_left_for_one_that_goes_on() {
    let world = World::new(ESCROW).await;
    let (first, second) = (
        LyingRpc::before(&world.anvil).await,
        LyingRpc::before(&world.anvil).await,
    );
    let chains_file = world.reached_by(&[&first.url, &second.url]);
    let mut replica = world.replica_with(&chains_file).await;
    world.seal(256..258, 1000);
    replica.step().await;
    world.anvil.mine(1).await;
    replica.step().await;
    // From here on it has no new block. It answers, and what it says is true.
    first.lie(Lie::Stale(world.anvil.height().await), None, usize::MAX);
    world.anvil.mine(5).await;
    for _ in 0..10 {
        replica.step().await;
    }
    let head = replica.lane.chain().view().unwrap().head.number;
    assert_eq!(head, world.anvil.height().await);
    until_final(&world, &mut replica).await;
    world.everything_is_paid_once(ESCROW, 1000).await;
}

#[tokio::test]
async fn a_lower_head_of_the_second_endpoint_is_no_reorganisation() {
    let world = World::new(ESCROW).await;
    let (mut first, second) = (
        LyingRpc::before(&world.anvil).await,
        LyingRpc::before(&world.anvil).await,
    );
    let chains_file = world.reached_by(&[&first.url, &second.url]);
    let behind = world.anvil.height().await;
    second.lie(Lie::Stale(behind), None, usize::MAX);
    let mut replica = world.replica_with(&chains_file).await;
    world.seal(256..258, 1000);
    replica.step().await;
    world.anvil.mine(1).await;
    replica.step().await;
    let before = replica.lane.chain().view().unwrap().head;
    assert_eq!(world.states()[&256], RecordState::Paid);
    first.go_away().await;
    for _ in 0..3 {
        assert!(replica.try_step().await, "the second one answers");
        assert_eq!(replica.lane.chain().view().unwrap().head, before);
        assert_eq!(
            world.states()[&256],
            RecordState::Paid,
            "it does not go back"
        );
    }
    second.tell_the_truth();
    until_final(&world, &mut replica).await;
    world.everything_is_paid_once(ESCROW, 1000).await;
}

#[tokio::test]
async fn a_final_block_of_another_chain_makes_nothing_final() {
    // Far above our head, at its height, and below it.
    for above in [500, 2, 1] {
        let other = World::on(1, ESCROW).await;
        let world = World::new(ESCROW).await;
        world.anvil.mine(20).await;
        let proxy = LyingRpc::before(&world.anvil).await;
        proxy.other_chain(&other.anvil);
        let mut replica = world.replica_with(&world.reached_by(&[&proxy.url])).await;
        world.seal(256..258, 1000);
        replica.step().await;
        world.anvil.mine(1).await;
        replica.step().await;
        assert_eq!(world.states()[&256], RecordState::Paid);
        // Only what it says of `safe` and `finalized` is of the other chain, whose finality is two blocks back.
        let height = world.anvil.height().await + 1;
        other
            .anvil
            .mine(height + above - other.anvil.height().await)
            .await;
        proxy.lie(
            Lie::OtherChainsTags,
            Some("eth_getBlockByNumber"),
            usize::MAX,
        );
        world.anvil.mine(1).await;
        for _ in 0..3 {
            replica.try_step().await;
            assert_eq!(world.states()[&256], RecordState::Paid, "{above}");
        }
        proxy.tell_the_truth();
        until_final(&world, &mut replica).await;
        world.everything_is_paid_once(ESCROW, 1000).await;
    }
}
