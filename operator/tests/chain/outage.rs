//! The chain is down for a day while jobs end: afterwards all of them are paid, in one full batch after the other.

use std::sync::atomic::{AtomicI64, Ordering};

use gridstake_crds::settlement_batch::{BatchState, BlockedReason};
use gridstake_operator::settlement::{Lane, build_batch::MOST_RECORDS};
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::{
    lying_rpc::LyingRpc,
    world::{Replica, World},
};

const ESCROW: u64 = 1_000_000_000_000;
const DAY: u64 = 24 * 3600;

/// By how much the clock of these tests is ahead, in seconds.
static AHEAD: AtomicI64 = AtomicI64::new(0);

fn warped() -> Timestamp {
    let ahead = SignedDuration::from_secs(AHEAD.load(Ordering::Relaxed));
    Timestamp::now().saturating_add(ahead).unwrap()
}

async fn a_day_without_a_chain(jobs: u64) {
    let world = World::new(ESCROW).await;
    let mut proxy = LyingRpc::before(&world.anvil).await;
    let chains_file = world.reached_by(&[&proxy.url]);
    let client = world.api.client().await;
    let mut replica = Replica::by_the_clock(warped, client, &chains_file, |chain, metrics| {
        Lane::with_keys(chain, world.keys.clone(), metrics)
    });
    // One batch is in a block and one is under way when the chain goes.
    world.seal(256..259, 1000);
    replica.step().await;
    world.anvil.mine(1).await;
    world.seal(300..303, 1000);
    replica.step().await;
    replica.step().await;
    assert_eq!(
        world.batch(2).status.unwrap().state,
        Some(BatchState::InFlight)
    );
    world.anvil.drop_pending().await;

    proxy.go_away().await;
    for hour in 0..24 {
        world.seal(1024 + jobs * hour / 24..1024 + jobs * (hour + 1) / 24, 1000);
        AHEAD.fetch_add(3600, Ordering::Relaxed);
        for _ in 0..2 {
            assert!(!replica.try_step().await, "nobody answers");
        }
        assert!(!replica.is_halted());
    }
    assert_eq!(
        world.batch(2).status.unwrap().blocked,
        Some(BlockedReason::ChainUnavailable)
    );
    assert_eq!(world.api.batches().len(), 2, "nothing is built meanwhile");

    // The chain's clock has gone on, too: what was signed is not in force any more.
    world.anvil.pass_time(DAY).await;
    proxy.come_back().await;
    let full = jobs.div_ceil(MOST_RECORDS as u64);
    for step in 0.. {
        assert!(
            step < 3 * full + 20,
            "{} of {full} batches",
            world.api.batches().len()
        );
        replica.step().await;
        if world.api.batches().len() as u64 == 2 + full && world.all_final() {
            break;
        }
        world.anvil.mine(1).await;
    }
    let second = world.batch(2).status.unwrap();
    assert!(second.authorizations.len() > 1, "signed again");
    assert_eq!(second.blocked, None);
    let counts: Vec<u64> = (3..3 + full)
        .map(|sequence| world.batch(sequence).spec.record_count.into())
        .collect();
    let expected: Vec<u64> = (0..full)
        .map(|batch| (jobs - batch * MOST_RECORDS as u64).min(MOST_RECORDS as u64))
        .collect();
    assert_eq!(counts, expected);
    // Each as soon as the one before it is in a block.
    let blocks: Vec<u64> = (3..3 + full)
        .map(|sequence| {
            world
                .batch(sequence)
                .status
                .unwrap()
                .inclusion
                .unwrap()
                .block
                .number
        })
        .collect();
    assert!(
        blocks.windows(2).all(|pair| pair[1] == pair[0] + 1),
        "{blocks:?}"
    );
    world.everything_is_paid_once(ESCROW, 1000).await;
}

#[tokio::test]
async fn a_day_without_a_chain_in_which_1200_jobs_end_is_made_up_for() {
    a_day_without_a_chain(1200).await;
}

#[tokio::test]
#[ignore = "long: make test-long"]
async fn a_day_without_a_chain_in_which_10000_jobs_end_is_made_up_for() {
    a_day_without_a_chain(10_000).await;
}
