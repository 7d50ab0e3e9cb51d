//! A replica dies at each of its writes, with the write made or not; its successor pays everything once.

use crate::{
    api_server::Fault,
    world::{Replica, World},
};

const SECOND: u64 = 1_000_000;

/// What the chain does meanwhile.
#[derive(Clone, Copy, Debug)]
enum Weather {
    Fair,
    /// The pool loses the transaction.
    Drops,
    /// The newest block is reorganised away once.
    Reorganises,
}

async fn run(world: &World, replica: &mut Replica, weather: Weather) {
    let mut once = true;
    for _ in 0..30 {
        replica.step().await;
        if world.api.has_failed() && once {
            once = false;
            // The replica dies: its successor remembers nothing.
            *replica = world.replica().await;
            match weather {
                Weather::Fair => {}
                Weather::Drops => {
                    world.anvil.drop_pending().await;
                }
                Weather::Reorganises => world.anvil.reorg(1).await,
            }
        }
        if world.all_final() {
            return;
        }
        world.anvil.mine(1).await;
    }
    panic!("not final: {:?} {:#?}", world.states(), world.api.batches());
}

async fn every_write(weather: Weather) {
    let world = World::new(1_000_000_000_000).await;
    let mut replica = world.replica().await;
    let mut sealed = 0;
    for fault in [Fault::Request, Fault::Answer] {
        // A round has about a dozen writes: until one goes through without meeting the fault.
        for write in 0.. {
            let from = 256 + sealed;
            world.seal(from..from + 2, 1000);
            sealed += 2;
            world.api.fail_write(write, fault);
            run(&world, &mut replica, weather).await;
            assert_eq!(
                world.credit().await,
                sealed * SECOND,
                "{fault:?} at write {write}"
            );
            if !world.api.has_failed() {
                assert!(write > 8, "only {write} writes");
                break;
            }
        }
    }
    assert_eq!(world.api.batches().len() as u64, world.head().await);
}

#[tokio::test]
async fn a_replica_may_die_at_any_write() {
    every_write(Weather::Fair).await;
}

#[tokio::test]
async fn a_replica_may_die_at_any_write_while_the_pool_forgets() {
    every_write(Weather::Drops).await;
}

#[tokio::test]
async fn a_replica_may_die_at_any_write_while_blocks_are_reorganised() {
    every_write(Weather::Reorganises).await;
}
