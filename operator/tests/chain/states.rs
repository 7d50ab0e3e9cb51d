//! What a lane states on chain beside payments: each statement once, whatever happens.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use alloy::{
    hex,
    primitives::{B256, U256, keccak256},
    sol_types::SolEvent as _,
};
use gridstake_contracts::{Settlement, StakeVault};
use gridstake_crds::settlement_batch::BatchState;
use gridstake_ledger::{
    archive,
    earnings::LaneId,
    signature,
    statement::{self, EarningsReport, Gpu, Statement},
    typed,
    uptime::{EPOCH_SECONDS, EpochUptime},
    verify::{
        self,
        uptime::{Claim, Extent},
    },
    week::Week,
};
use gridstake_operator::{
    archive::{Archive, SHORTEST_RETENTION, Terms},
    settlement::statements::Declared,
    uptime::{epoch::Sight, run::Log},
};
use serde_json::{Value, json};

use crate::{
    anvil::{ADMIN, STAKER},
    archives,
    world::{LANE, Replica, World, settle},
};

const ESCROW: u64 = 1_000_000_000_000;
/// What a record of a second costs.
const SECOND: u64 = 1_000_000;
const DAY: u64 = 24 * 3600;
const NANO: u128 = 1_000_000_000;

fn inventory(uuid: &str) -> Statement {
    let gpu = Gpu {
        uuid: uuid.to_owned(),
        model: "NVIDIA H100".to_owned(),
        memoryMiB: 81_559,
        computeCapability: "9.0".to_owned(),
        pciBusId: String::new(),
        mig: false,
    };
    statement::inventory("n1", 1, vec![gpu])
}

fn declared(statement: Statement) -> Declared {
    Declared {
        statement,
        posted: false,
    }
}

fn lane_id(world: &World) -> LaneId {
    LaneId {
        chain_id: 31337,
        settlement: world.settlement,
        lane: LANE,
    }
}

impl World {
    /// The events `Stated` of the lane, from the first to the last.
    async fn stated(&self) -> Vec<Statement> {
        let filter = json!([{
            "address": self.settlement.to_string(), "fromBlock": "0x0", "toBlock": "latest",
            "topics": [Settlement::Stated::SIGNATURE_HASH.to_string(), format!("{:#066x}", LANE)],
        }]);
        let logs = self.anvil.rpc("eth_getLogs", filter).await;
        let read = |log: &Value| {
            let topics: Vec<B256> = serde_json::from_value(log["topics"].clone()).unwrap();
            let data = hex::decode(log["data"].as_str().unwrap()).unwrap();
            let event = Settlement::Stated::decode_raw_log(topics, &data).unwrap();
            Statement {
                kind: event.kind,
                number: event.number,
                subject: event.subject,
                content: event.content,
            }
        };
        logs.as_array().unwrap().iter().map(read).collect()
    }

    async fn now(&self) -> u64 {
        let block = self
            .anvil
            .rpc("eth_getBlockByNumber", json!(["latest", false]))
            .await;
        u64::from_str_radix(&block["timestamp"].as_str().unwrap()[2..], 16).unwrap()
    }

    /// Steps and mines until nothing has happened for longer than it takes a block to be final.
    async fn until_quiet(&self, replica: &mut Replica) {
        let mut quiet = 0;
        let mut before = Vec::new();
        for _ in 0..60 {
            replica.settler.look_at_weeks();
            replica.step().await;
            self.anvil.mine(1).await;
            let states: Vec<_> = self
                .api
                .batches()
                .iter()
                .map(|batch| batch.status.as_ref().and_then(|status| status.state))
                .collect();
            quiet = if states == before { quiet + 1 } else { 0 };
            before = states;
            if quiet == 8 {
                let over = |state: &Option<BatchState>| *state == Some(BatchState::Final);
                assert!(before.iter().all(over), "{before:?}");
                return;
            }
        }
        panic!("{:#?}", self.api.batches());
    }

    /// The report of what one provider got for so many records of a second, if everything lay in the week of `at`.
    fn report(&self, at: u64, batches: (u64, u64), jobs: u64, slashed: u128) -> Statement {
        statement::earnings(&EarningsReport {
            chainId: 31337,
            settlement: self.settlement,
            lane: LANE,
            provider: 1,
            week: Week::of(at).number(),
            firstBatch: batches.0,
            lastBatch: batches.1,
            jobs,
            gpuMillis: jobs * 1000,
            paid: jobs * SECOND,
            emissions: 0,
            slashed,
        })
    }

    /// To the second day of the next week.
    async fn next_week(&self) {
        let now = self.now().await;
        self.anvil
            .pass_time(Week::of(now).until() + DAY - now)
            .await;
    }
}

#[tokio::test]
async fn a_changed_inventory_gets_a_batch_of_its_own_and_is_stated_once() {
    let world = World::new(ESCROW).await;
    let mut replica = world.replica().await;
    let (old, new) = (inventory("GPU-a"), inventory("GPU-b"));
    let statements = replica.lane.statements().clone();
    statements.declare("n1", Some(declared(old)));
    replica.step().await;
    let batch = world.batch(1);
    assert_eq!(
        (batch.spec.statement_count, batch.spec.record_count),
        (1, 0)
    );
    assert_ne!(statements.is_stated(&old), Some(true));
    // A second look while it is on its way repeats nothing.
    statements.declare("n1", Some(declared(old)));
    replica.step().await;
    assert_eq!(world.api.batches().len(), 1);
    world.until_quiet(&mut replica).await;
    assert_eq!(statements.is_stated(&old), Some(true));
    assert_eq!(world.stated().await, [old]);

    statements.declare("n1", Some(declared(new)));
    world.seal(256..260, 1000);
    settle(&world, &mut replica).await;
    assert_eq!(world.stated().await, [old, new]);
    // It went along with the payments.
    assert_eq!(
        (
            world.batch(2).spec.statement_count,
            world.batch(2).spec.record_count
        ),
        (1, 4)
    );
    world.the_log_is_the_chain().await;
}

#[tokio::test]
async fn a_reorganisation_states_nothing_twice() {
    let world = World::new(ESCROW).await;
    let mut replica = world.replica().await;
    let statement = inventory("GPU-a");
    replica
        .lane
        .statements()
        .declare("n1", Some(declared(statement)));
    replica.step().await;
    world.anvil.until_pending().await;
    world.anvil.mine(1).await;
    replica.step().await;
    world.anvil.reorg(1).await;
    world.until_quiet(&mut replica).await;
    assert_eq!(world.stated().await, [statement]);
    assert_eq!(world.head().await, 1);
}

#[tokio::test]
async fn a_weeks_earnings_are_reported_once_when_it_is_over_whoever_leads() {
    let world = World::new(ESCROW).await;
    let mut replica = world.replica().await;
    world.next_week().await;
    let at = world.now().await;
    world.seal(256..260, 1000);
    settle(&world, &mut replica).await;
    world.seal(260..265, 1000);
    settle(&world, &mut replica).await;
    world.until_quiet(&mut replica).await;
    assert_eq!(world.stated().await, [], "the week is not over");

    world.next_week().await;
    let mut other = world.replica().await;
    other.step().await;
    replica.settler.look_at_weeks();
    replica.step().await;
    world.until_quiet(&mut other).await;
    world.until_quiet(&mut replica).await;
    let report = world.report(at, (1, 2), 9, 0);
    assert_eq!(world.stated().await, [report]);

    // Whoever makes it again from the chain gets the same.
    let lane = lane_id(&world);
    let (batches, now) = (archives::on_chain(&world).await, world.now().await);
    let earnings =
        verify::earnings::verify(lane, Week::of(at), now, &batches, &BTreeMap::new()).unwrap();
    let reported = &earnings.providers[&1];
    assert_eq!((reported.hash, earnings.over), (report.content, true));
    assert_eq!(reported.batches, BTreeSet::from([3]));

    // Who starts anew, in this week or the next but one, repeats nothing.
    let mut replica = world.replica().await;
    world.until_quiet(&mut replica).await;
    world.next_week().await;
    world.next_week().await;
    let mut replica = world.replica().await;
    world.until_quiet(&mut replica).await;
    // The week of the report had a batch too, in which nobody was paid.
    assert_eq!(world.stated().await, [report]);
    assert_eq!(world.head().await, 3);
}

#[tokio::test]
async fn a_week_that_is_reported_is_not_reported_again_after_a_backup_is_restored() {
    let world = World::new(ESCROW).await;
    let mut replica = world.replica().await;
    world.next_week().await;
    let at = world.now().await;
    world.seal(256..260, 1000);
    settle(&world, &mut replica).await;
    world.until_quiet(&mut replica).await;
    let backup = world.api.save();
    world.next_week().await;
    world.until_quiet(&mut replica).await;
    assert_eq!(world.stated().await, [world.report(at, (1, 1), 4, 0)]);

    world.api.restore(&backup);
    let mut replica = world.replica().await;
    world.until_quiet(&mut replica).await;
    assert_eq!(world.stated().await.len(), 1);
    assert_eq!(world.head().await, 2);
}

fn sight(node: &str, heard_at: u64) -> Sight {
    Sight {
        node: node.to_owned(),
        provider: 1,
        heard_at: Some(heard_at),
        gpus: 8,
        healthy: 8,
    }
}

/// The epochs of the archive in `folder`, in their order.
fn epochs(world: &World, folder: &Path) -> Vec<EpochUptime> {
    let lane = lane_id(world);
    let index = folder.join(archive::uptime::index_path(lane, 0));
    let mut names: Vec<_> = std::fs::read_dir(index.parent().unwrap())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| !path.ends_with("newest"))
        .collect();
    names.sort();
    let read = |path: &PathBuf| {
        let address = archive::read_index_entry(&std::fs::read(path).unwrap()).unwrap();
        let file = std::fs::read(folder.join(archive::object_path(address))).unwrap();
        assert_eq!(archive::address(&file), address);
        archive::uptime::decode(&file).unwrap().1
    };
    names.iter().map(read).collect()
}

#[tokio::test]
async fn the_log_of_uptime_goes_on_whoever_leads_and_its_head_is_stated_with_the_next_batch() {
    let world = World::new(ESCROW).await;
    let folder = std::env::temp_dir().join(format!("gridstake-uptime-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    let mut replica = world.replica().await;
    let archive = |replica: &Replica| {
        let terms = Terms {
            retention: SHORTEST_RETENTION,
            removes: false,
        };
        let registry = replica.context.metrics.registry();
        Archive::open(folder.to_str().unwrap(), terms, registry).unwrap()
    };
    let log = |replica: &Replica| {
        Log::new(
            replica.context.clone(),
            replica.lane.clone(),
            &archive(replica),
        )
    };
    let begin = 2_993_184 * EPOCH_SECONDS;
    // n2 is heard of in every other minute.
    let watch = |log: &mut Log, epoch: u64| {
        for minute in 1..=10 {
            let now = begin + epoch * EPOCH_SECONDS + minute * 60 + 1;
            let n2 = now - if minute % 2 == 0 { 30 } else { 90 };
            log.see(now, vec![sight("n1", now - 5), sight("n2", n2)]);
        }
    };
    let mut first = log(&replica);
    for epoch in 0..2 {
        watch(&mut first, epoch);
        first.write().await.unwrap();
    }
    // Another replica leads from here on; the first one does not know yet.
    let other = world.replica().await;
    let mut second = log(&other);
    watch(&mut second, 2);
    second.write().await.unwrap();
    watch(&mut first, 2);
    first.write().await.unwrap();
    watch(&mut second, 3);
    second.write().await.unwrap();
    // No batch is made of it alone.
    replica.settler.statements_announced();
    replica.step().await;
    assert!(world.api.batches().is_empty());
    world.seal(256..258, 1000);
    settle(&world, &mut replica).await;
    let stated = world.stated().await;
    assert_eq!(
        (stated.len(), stated[0].kind, stated[0].number),
        (1, statement::UPTIME, 2_993_186)
    );

    let claim = Claim {
        batch: 1,
        epoch: stated[0].number,
        head: stated[0].content,
    };
    let summary = verify::uptime::check(&epochs(&world, &folder), &[claim], Extent::Whole).unwrap();
    assert_eq!((summary.epochs, summary.aside, summary.anew), (4, 0, 0));
    let minutes = |watched, up| verify::uptime::Minutes { watched, up };
    assert_eq!(summary.nodes["n1"], minutes(40, 40));
    assert_eq!(summary.nodes["n2"], minutes(40, 20));
}

#[tokio::test]
async fn a_slash_of_the_lanes_proposal_stands_in_the_report_of_the_week_in_which_it_was_executed() {
    let world = World::new(ESCROW).await;
    let signer = world.keys.slash.as_ref().unwrap();
    let set = StakeVault::setSlashSignerCall {
        lane: LANE,
        signer: signer.address(),
    };
    let grant = StakeVault::grantRoleCall {
        role: keccak256("LANE_ADMIN_ROLE"),
        account: ADMIN.parse().unwrap(),
    };
    world.anvil.release().await;
    world.anvil.transact(ADMIN, world.vault, &grant).await;
    world.anvil.transact(ADMIN, world.vault, &set).await;
    world.anvil.hold().await;
    let mut replica = world.replica().await;
    world.next_week().await;
    let at = world.now().await;
    let id = slash(&world, at).await;
    world.anvil.pass_time(3 * DAY).await;
    world.anvil.release().await;
    world
        .anvil
        .transact(STAKER, world.vault, &StakeVault::finalizeSlashCall { id })
        .await;
    world.anvil.hold().await;
    world.seal(256..258, 1000);
    settle(&world, &mut replica).await;
    assert_eq!(Week::of(world.now().await), Week::of(at));
    world.next_week().await;
    world.until_quiet(&mut replica).await;
    assert_eq!(
        world.stated().await,
        [world.report(at, (1, 1), 2, 50 * NANO)]
    );
}

/// Proposes to slash provider 1 by 50 tokens.
async fn slash(world: &World, now: u64) -> U256 {
    let message = typed::Slash {
        lane: LANE,
        incidentId: keccak256("incident"),
        provider: 1,
        amount: 50 * NANO,
        evidence: B256::repeat_byte(1),
        validUntil: now + DAY,
    };
    let domain = typed::vault_domain(31337, world.vault);
    let signed = world
        .keys
        .slash
        .as_ref()
        .unwrap()
        .sign(typed::digest(&message, &domain))
        .unwrap();
    let (r, vs) = signature::compact(&signed);
    let propose = StakeVault::proposeSlashCall {
        lane: message.lane,
        incidentId: message.incidentId,
        provider: message.provider,
        amount: message.amount,
        evidence: message.evidence,
        validUntil: message.validUntil,
        r,
        vs,
    };
    world.anvil.release().await;
    world.anvil.transact(STAKER, world.vault, &propose).await;
    world.anvil.hold().await;
    let of = StakeVault::slashIdOfCall {
        lane: LANE,
        incidentId: message.incidentId,
    };
    world.anvil.call(world.vault, &of).await
}
