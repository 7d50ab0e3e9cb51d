//! Everything is paid once, and nothing halts, whatever an endpoint does to the answers.

use std::collections::BTreeSet;

use gridstake_operator::chain::{ContractMismatch, client::MOST_BYTES, rpc_error::RpcFailure};
use k8s_openapi::jiff::Timestamp;
use serde_json::json;

use crate::{
    lying_rpc::{Lie, LyingRpc},
    world::{Replica, World},
};

const ESCROW: u64 = 1_000_000_000_000;
/// What a sender asks of a chain.
const METHODS: [&str; 12] = [
    "eth_chainId",
    "eth_getBlockByNumber",
    "eth_getBlockByHash",
    "eth_getCode",
    "eth_call",
    "eth_getTransactionCount",
    "eth_getBalance",
    "eth_estimateGas",
    "eth_maxPriorityFeePerGas",
    "eth_sendRawTransaction",
    "eth_getTransactionReceipt",
    "eth_getLogs",
];

/// Seals two more records and steps and mines until all are final. Nothing ever halts.
async fn a_round(world: &World, replica: &mut Replica, round: u64) {
    let from = 256 + 2 * round;
    world.seal(from..from + 2, 1000);
    for _ in 0..40 {
        replica.try_step().await;
        assert!(!replica.is_halted());
        if world.all_final() {
            return;
        }
        // Two, so that blocks must be linked by their hashes.
        world.anvil.mine(2).await;
    }
    panic!("not final: {:?} {:#?}", world.states(), world.api.batches());
}

/// A round for each method: the first requests of it are lied to, by which the replica begins.
async fn each_method(lie: &Lie, times: usize, settings: &str) {
    let world = World::new(ESCROW).await;
    let proxy = LyingRpc::before(&world.anvil).await;
    let chains_file = world.reached_by(&[&proxy.url]) + settings;
    let mut lied_to = BTreeSet::new();
    for (round, method) in (0..).zip(METHODS) {
        let mut replica = world.replica_with(&chains_file).await;
        proxy.lie(lie.clone(), Some(method), times);
        a_round(&world, &mut replica, round).await;
        if proxy.told() > 0 {
            lied_to.insert(method);
        }
    }
    assert_eq!(lied_to, METHODS.into());
    world.everything_is_paid_once(ESCROW, 1000).await;
}

#[tokio::test]
async fn an_answer_that_is_lost_pays_nothing_twice() {
    each_method(&Lie::AnswerLost, 3, "").await;
}

#[tokio::test]
async fn an_answer_that_comes_too_late_pays_nothing_twice() {
    each_method(&Lie::Late, 2, "  requestTimeout: 200ms\n").await;
}

#[tokio::test]
async fn half_an_answer_is_none() {
    each_method(&Lie::Truncated, 3, "").await;
}

#[tokio::test]
async fn an_answer_without_an_end_is_left_when_it_is_larger_than_any_that_is_needed() {
    let world = World::new(ESCROW).await;
    let proxy = LyingRpc::before(&world.anvil).await;
    let mut replica = world.replica_with(&world.reached_by(&[&proxy.url])).await;
    proxy.lie(Lie::Endless, Some("eth_getBlockByNumber"), 2);
    let looked = replica.follower.look(Timestamp::now).await;
    let most = MOST_BYTES;
    assert_eq!(looked.unwrap_err().failure, RpcFailure::TooLarge { most });
    a_round(&world, &mut replica, 0).await;
    assert_eq!(proxy.told(), 2);
    world.everything_is_paid_once(ESCROW, 1000).await;
}

#[tokio::test]
async fn an_endpoint_that_refuses_everything_for_a_while_is_asked_again() {
    each_method(&Lie::Refused, 3, "").await;
}

#[tokio::test]
async fn an_endpoint_that_turns_requests_away_is_asked_again() {
    for (status, retry_after) in [(429, None), (429, Some(3600)), (503, None), (503, Some(1))] {
        let world = World::new(ESCROW).await;
        let proxy = LyingRpc::before(&world.anvil).await;
        let mut replica = world.replica_with(&world.reached_by(&[&proxy.url])).await;
        // A storm in each round: every request, at another stage of the round.
        for round in 0..6 {
            replica.try_step().await;
            let before = usize::try_from(round).unwrap();
            proxy.lie(Lie::Status(status, retry_after), None, 3 + before);
            a_round(&world, &mut replica, round).await;
            assert_eq!(proxy.told(), 3 + before, "{status}");
        }
        world.everything_is_paid_once(ESCROW, 1000).await;
    }
}

/// Whatever goes wrong begins while the transaction is under way, before and after its block.
#[tokio::test]
async fn a_running_replica_survives_every_lie_at_every_stage() {
    let world = World::new(ESCROW).await;
    let proxy = LyingRpc::before(&world.anvil).await;
    let mut replica = world.replica_with(&world.reached_by(&[&proxy.url])).await;
    let mut round = 0;
    for lie in [Lie::AnswerLost, Lie::Truncated, Lie::Refused, Lie::Forgets] {
        for stage in 0..4 {
            let from = 256 + 2 * round;
            world.seal(from..from + 1, 1000);
            for _ in 0..stage {
                replica.step().await;
                world.anvil.mine(1).await;
            }
            proxy.lie(lie.clone(), None, 8);
            for _ in 0..3 {
                replica.try_step().await;
                world.anvil.mine(1).await;
            }
            assert!(proxy.told() > 0);
            proxy.tell_the_truth();
            world.seal(from + 1..from + 2, 1000);
            for _ in 0..20 {
                replica.step().await;
                assert!(!replica.is_halted());
                if world.all_final() {
                    break;
                }
                world.anvil.mine(1).await;
            }
            round += 1;
        }
    }
    world.everything_is_paid_once(ESCROW, 1000).await;
}

#[tokio::test]
async fn a_pool_that_forgets_is_told_again() {
    let world = World::new(ESCROW).await;
    let proxy = LyingRpc::before(&world.anvil).await;
    let mut replica = world.replica_with(&world.reached_by(&[&proxy.url])).await;
    for round in 0..3 {
        proxy.lie(Lie::Forgets, Some("eth_sendRawTransaction"), 5);
        a_round(&world, &mut replica, round).await;
        assert_eq!(proxy.told(), 5);
    }
    world.everything_is_paid_once(ESCROW, 1000).await;
}

#[tokio::test]
async fn a_stale_endpoint_is_no_reorganisation() {
    let world = World::new(ESCROW).await;
    let proxy = LyingRpc::before(&world.anvil).await;
    let mut replica = world.replica_with(&world.reached_by(&[&proxy.url])).await;
    for round in 0..4 {
        // One batch is under way, in a block, safe or final when the endpoint falls behind.
        let from = 256 + 3 * round;
        world.seal(from..from + 3, 1000);
        let before = world.anvil.height().await;
        for _ in 0..=round {
            replica.step().await;
            world.anvil.mine(1).await;
        }
        replica.step().await;
        let states = world.states();
        proxy.lie(Lie::Stale(before), None, usize::MAX);
        for _ in 0..4 {
            replica.try_step().await;
            world.anvil.mine(1).await;
            assert_eq!(world.states(), states, "nothing goes back");
            assert!(!replica.is_halted());
        }
        assert!(proxy.told() > 0);
        proxy.tell_the_truth();
        for _ in 0..20 {
            replica.step().await;
            if world.all_final() {
                break;
            }
            world.anvil.mine(1).await;
        }
    }
    world.everything_is_paid_once(ESCROW, 1000).await;
}

#[tokio::test]
async fn a_replica_that_starts_at_a_stale_endpoint_waits_for_it() {
    let world = World::new(ESCROW).await;
    let proxy = LyingRpc::before(&world.anvil).await;
    let chains_file = world.reached_by(&[&proxy.url]);
    let start = world.anvil.height().await;
    let mut replica = world.replica_with(&chains_file).await;
    a_round(&world, &mut replica, 0).await;

    // It knows of no block, and the endpoint of none in which the log's batch is.
    let mut replica = world.replica_with(&chains_file).await;
    proxy.lie(Lie::Stale(start), None, usize::MAX);
    world.seal(300..302, 1000);
    let sent = proxy.asked("eth_sendRawTransaction");
    for _ in 0..3 {
        assert!(replica.try_step().await, "the endpoint answers");
        assert!(!replica.is_halted());
        world.anvil.mine(1).await;
    }
    assert_eq!(world.api.batches().len(), 1, "nothing is built");
    assert_eq!(proxy.asked("eth_sendRawTransaction"), sent);
    proxy.tell_the_truth();
    a_round(&world, &mut replica, 1).await;
    world.everything_is_paid_once(ESCROW, 1000).await;
}

/// As anvil does while it mines.
#[tokio::test]
async fn a_state_that_is_newer_than_the_block_that_was_named_halts_nothing() {
    let world = World::new(ESCROW).await;
    let proxy = LyingRpc::before(&world.anvil).await;
    let mut replica = world.replica_with(&world.reached_by(&[&proxy.url])).await;
    world.seal(256..259, 1000);
    replica.step().await;
    world.anvil.until_pending().await;
    world.anvil.mine(1).await;
    world.seal(300..303, 1000);
    // The block with the first batch is not known yet, and the lane's head is told as of it, once.
    proxy.lie(Lie::Newest, Some("eth_call"), 1);
    replica.settler.records_announced(1);
    replica.settler.one_pass().await;
    assert_eq!(proxy.told(), 1);
    assert_eq!(world.batch(2).spec.previous, world.batch(1).spec.chain_hash);
    for _ in 0..20 {
        replica.step().await;
        assert!(!replica.is_halted());
        if world.all_final() {
            break;
        }
        world.anvil.mine(1).await;
    }
    world.everything_is_paid_once(ESCROW, 1000).await;
}

/// A chain with another id, and the same contracts at the same addresses, with the same lane, payer and provider.
async fn other_chain(ahead: u64) -> World {
    let other = World::on(1, ESCROW).await;
    other.anvil.mine(ahead).await;
    other
}

async fn untouched(world: &World, other: &World) {
    let gas = world.keys.gas.address().to_string();
    assert_eq!(other.anvil.nonce(&gas).await, 0);
    let pool = other.anvil.rpc("txpool_status", json!([])).await;
    assert_eq!(
        (&pool["pending"], &pool["queued"]),
        (&json!("0x0"), &json!("0x0"))
    );
    assert_eq!((other.head().await, other.credit().await), (0, 0));
}

#[tokio::test]
async fn answers_of_another_chain_mislead_nobody() {
    let other = other_chain(50).await;
    let world = World::new(ESCROW).await;
    let proxy = LyingRpc::before(&world.anvil).await;
    proxy.other_chain(&other.anvil);
    let chains_file = world.reached_by(&[&proxy.url]);
    for (round, method) in (0..).zip(METHODS) {
        let mut replica = world.replica_with(&chains_file).await;
        proxy.lie(Lie::OtherChain, Some(method), 3);
        a_round(&world, &mut replica, round).await;
        assert!(proxy.told() > 0, "{method}");
    }
    untouched(&world, &other).await;
    world.everything_is_paid_once(ESCROW, 1000).await;
}

#[tokio::test]
async fn an_endpoint_that_turns_to_another_chain_is_sent_nothing_until_it_is_back() {
    let world = World::new(ESCROW).await;
    let proxy = LyingRpc::before(&world.anvil).await;
    let chains_file = world.reached_by(&[&proxy.url]);
    let mut replica = world.replica_with(&chains_file).await;
    // Below our head, and above it.
    for (round, ahead) in [(0, 0), (1, 200)] {
        let other = other_chain(ahead).await;
        proxy.other_chain(&other.anvil);
        for stage in 0..4 {
            world.seal(
                256 + 10 * round + 2 * stage..258 + 10 * round + 2 * stage,
                1000,
            );
            for _ in 0..stage {
                replica.step().await;
                world.anvil.mine(1).await;
            }
            proxy.lie(Lie::OtherChain, None, usize::MAX);
            for _ in 0..3 {
                replica.try_step().await;
                assert!(!replica.is_halted());
            }
            let contract = replica
                .lane
                .chain()
                .view()
                .map(|view| view.contract.clone());
            if ahead > 0 {
                assert!(
                    matches!(
                        contract,
                        Some(Err(ContractMismatch::ChainId {
                            expected: 31337,
                            found: 1
                        }))
                    ),
                    "{contract:?}"
                );
            }
            proxy.tell_the_truth();
            for _ in 0..20 {
                world.anvil.mine(1).await;
                replica.step().await;
                if world.all_final() {
                    break;
                }
            }
        }
        assert_eq!(proxy.strayed("eth_sendRawTransaction"), 0);
        untouched(&world, &other).await;
    }
    world.everything_is_paid_once(ESCROW, 1000).await;
}
