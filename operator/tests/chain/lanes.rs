//! Several lanes of one cluster at once, on two chains and on one: each is paid by itself, and none waits for another.

use std::{future::Future, path::Path, time::Duration};

use alloy::primitives::{B256, U256};
use gridstake_contracts::Settlement;
use gridstake_crds::{
    SettlementBatch, UsageRecord,
    settlement_batch::{BatchState, BlockedReason},
    usage_record::RecordState,
};
use gridstake_ledger::batch::{self, Entry};
use gridstake_operator::{
    Context,
    archive::{self, Archive, SHORTEST_RETENTION, Terms},
    chain::{Chains, ChainsFile},
    metrics::Metrics,
    settlement::{self, Lane, LaneMetrics, Lanes, signer::Keys},
};
use k8s_openapi::jiff::Timestamp;
use serde_json::json;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    anvil::{ADMIN, PAYER},
    api_server::ApiServer,
    differential::settle_call,
    lying_rpc::{Lie, LyingRpc},
    world::{HOME, Place, World, context, key, sealed_at},
};

const ESCROW: u64 = 1_000_000_000_000;
/// Nano-tokens for one second of a GPU.
const SECOND: u64 = 1_000_000;
const BASE: Place = Place {
    chain: "base",
    chain_id: 31338,
    lane: 8,
};
/// How many blocks make a block final on [`BASE`].
const DEPTH: u64 = 12;
/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_mins(2);
const TICK: Duration = Duration::from_millis(50);

/// A lane: its entry of the chains file, and its keys.
type Entrance = (String, Keys);

/// The loops of one operator with several lanes, as its leader runs them.
struct Cluster {
    context: Context,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Cluster {
    async fn start(api: &ApiServer, entrances: Vec<Entrance>) -> Self {
        let entries: Vec<&str> = entrances
            .iter()
            .map(|(file, _)| file.strip_prefix("chains:\n").unwrap())
            .collect();
        let file = format!("chains:\n{}", entries.concat());
        let file = ChainsFile::parse(&file, Path::new("several")).unwrap();
        let chains = Chains::new(file.chains);
        let metrics = Metrics::new().unwrap();
        let of_lanes = LaneMetrics::register(metrics.registry()).unwrap();
        let lanes = chains
            .iter()
            .zip(&entrances)
            .map(|(chain, (_, keys))| {
                Lane::with_keys(chain.clone(), keys.clone(), &of_lanes).unwrap()
            })
            .collect();
        let lanes = Lanes::new(lanes).unwrap();
        let context = context(api.client().await, chains, lanes, metrics, Timestamp::now);
        let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
        for lane in context.lanes.iter() {
            let (caches, chains) = (context.caches.clone(), context.chains.clone());
            tasks.spawn(lane.follower().run(caches, chains, Timestamp::now));
            tasks.spawn(settlement::run::run(
                context.clone(),
                lane.clone(),
                stop.clone(),
            ));
        }
        Self {
            context,
            stop,
            tasks,
        }
    }

    /// Archives what is final on every lane into one folder.
    fn archive(&mut self, folder: &Path) {
        let terms = Terms {
            retention: SHORTEST_RETENTION,
            removes: true,
        };
        let registry = self.context.metrics.registry();
        let archive = Archive::open(folder.to_str().unwrap(), terms, registry).unwrap();
        for lane in self.context.lanes.iter() {
            self.tasks.spawn(archive::run::run(
                self.context.clone(),
                lane.clone(),
                archive.clone(),
                self.stop.clone(),
            ));
        }
    }

    fn lane(&self, place: Place) -> &Lane {
        self.context.lanes.on(place.chain).unwrap()
    }

    fn is_halted(&self, place: Place) -> bool {
        self.lane(place).metrics().halted.get() == 1
    }
}

/// A world whose cluster is that of `first`.
async fn beside(first: &World, place: Place) -> World {
    let mut world = World::at(place, ESCROW).await;
    world.api = first.api.clone();
    world
}

/// A lane's entry of the chains file, looked at often.
fn entrance(world: &World, file: &str) -> Entrance {
    (format!("{file}  poll: 50ms\n"), world.keys.clone())
}

/// Waits until `holds`, doing `meanwhile` again and again.
async fn until<F: Future<Output = ()>>(
    what: &str,
    holds: impl Fn() -> bool,
    meanwhile: impl Fn() -> F,
) {
    let waits = async {
        while !holds() {
            meanwhile().await;
            tokio::time::sleep(TICK).await;
        }
    };
    let outcome = tokio::time::timeout(PATIENCE, waits).await;
    assert!(outcome.is_ok(), "it never was so that {what}");
}

async fn nothing() {}

fn records(api: &ApiServer, place: Place) -> Vec<UsageRecord> {
    let all = api.records().into_iter();
    all.filter(|record| record.spec.payment.as_ref().unwrap().lane == place.lane)
        .collect()
}

fn batches(api: &ApiServer, place: Place) -> Vec<SettlementBatch> {
    let all = api.batches().into_iter();
    all.filter(|batch| batch.spec.lane == place.lane).collect()
}

fn state_of(record: &UsageRecord) -> Option<RecordState> {
    Some(record.status.as_ref()?.settlement.as_ref()?.state)
}

fn all_are(api: &ApiServer, place: Place, state: RecordState) -> bool {
    records(api, place)
        .iter()
        .all(|record| state_of(record) == Some(state))
}

/// Seals records with these numbers, and tells the operator.
fn seal(cluster: &Cluster, world: &World, numbers: std::ops::Range<u64>, millis: u64) {
    for number in numbers {
        world.seal_one(number, 1, 1, millis);
        cluster.lane(world.place).announce_sealed();
    }
}

/// Mines until every record of the world's lane is final.
async fn settle(world: &World) {
    until(
        "everything is final",
        || all_are(&world.api, world.place, RecordState::Final),
        || world.anvil.mine(1),
    )
    .await;
}

/// Every record names a batch of its own lane, and that batch holds exactly its lane's numbers.
fn nothing_is_mixed_up(api: &ApiServer, place: Place) {
    let prefix = format!("lane-{}-", place.lane);
    for record in records(api, place) {
        let settlement = record.status.unwrap().settlement.unwrap();
        let batch = settlement.batch.unwrap();
        assert!(batch.starts_with(&prefix), "{batch} pays on {place:?}");
    }
    for batch in batches(api, place) {
        assert_eq!(batch.spec.chain, place.chain);
        assert!(batch.metadata.name.unwrap().starts_with(&prefix));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_chain_pays_its_own_payers_by_its_own_rule_of_finality() {
    let one = World::new(ESCROW).await;
    let two = beside(&one, BASE).await;
    let depth = format!(
        "{}  finality: {{mode: Depth, depth: {DEPTH}}}\n",
        two.chains_file
    );
    let entrances = vec![entrance(&one, &one.chains_file), entrance(&two, &depth)];
    let cluster = Cluster::start(&one.api, entrances).await;
    // The same numbers on both lanes: they count within a lane.
    seal(&cluster, &one, 256..260, 1000);
    seal(&cluster, &two, 256..258, 2000);
    for world in [&one, &two] {
        until(
            "the batch is in a block",
            || all_are(&world.api, world.place, RecordState::Paid),
            || world.anvil.mine(1),
        )
        .await;
    }
    for world in [&one, &two] {
        world.anvil.mine(3).await;
    }
    until(
        "the first chain calls it final",
        || all_are(&one.api, one.place, RecordState::Final),
        nothing,
    )
    .await;
    assert!(
        all_are(&two.api, two.place, RecordState::Paid),
        "3 blocks on top are not {DEPTH}"
    );
    two.anvil.mine(DEPTH).await;
    until(
        "it is deep enough",
        || all_are(&two.api, two.place, RecordState::Final),
        nothing,
    )
    .await;

    assert_eq!(one.credit().await, 4 * SECOND);
    assert_eq!(two.credit().await, 2 * 2 * SECOND);
    assert_eq!(one.escrow(1).await, ESCROW - 4 * SECOND);
    assert_eq!(two.escrow(1).await, ESCROW - 4 * SECOND);
    for world in [&one, &two] {
        nothing_is_mixed_up(&world.api, world.place);
        assert_eq!(world.head().await, 1);
        assert_eq!(batches(&world.api, world.place).len(), 1);
    }
    let measured = cluster.context.metrics.registry().gather();
    for family in ["gridstake_chain_block", "gridstake_settlement_halted"] {
        let family = measured.iter().find(|f| f.name() == family).unwrap();
        for chain in ["anvil", "base"] {
            let has = family.get_metric().iter().any(|metric| {
                let label =
                    |l: &prometheus::proto::LabelPair| l.name() == "chain" && l.value() == chain;
                metric.get_label().iter().any(label)
            });
            assert!(has, "{} of {chain}", family.name());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_that_is_away_holds_up_no_other_and_is_made_up_for_later() {
    let one = World::new(ESCROW).await;
    let two = beside(&one, BASE).await;
    let mut proxy = LyingRpc::before(&two.anvil).await;
    let behind = two.reached_by(&[&proxy.url]);
    let entrances = vec![entrance(&one, &one.chains_file), entrance(&two, &behind)];
    let cluster = Cluster::start(&one.api, entrances).await;
    seal(&cluster, &one, 256..258, 1000);
    seal(&cluster, &two, 256..258, 1000);
    settle(&one).await;
    settle(&two).await;

    proxy.go_away().await;
    for round in 1..4 {
        seal(&cluster, &two, 300 * round..300 * round + 2, 1000);
        seal(&cluster, &one, 300 * round..300 * round + 2, 1000);
        settle(&one).await;
    }
    assert_eq!(one.credit().await, 8 * SECOND);
    assert_eq!(two.credit().await, 2 * SECOND);
    assert!(!cluster.is_halted(one.place) && !cluster.is_halted(two.place));
    let pending = cluster.context.health.not_ready();
    assert!(
        pending.iter().all(|what| what.starts_with("cache of")),
        "no chain keeps a replica from being ready: {pending:?}"
    );

    proxy.come_back().await;
    cluster.lane(two.place).announce_sealed();
    settle(&two).await;
    assert_eq!(two.credit().await, 8 * SECOND);
    for world in [&one, &two] {
        nothing_is_mixed_up(&world.api, world.place);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_that_hangs_and_one_that_is_misconfigured_hold_up_no_other() {
    let one = World::new(ESCROW).await;
    let two = beside(&one, BASE).await;
    let third = Place {
        chain: "third",
        chain_id: 31339,
        lane: 9,
    };
    let three = beside(&one, third).await;
    let proxy = LyingRpc::before(&two.anvil).await;
    let behind = format!("{}  requestTimeout: 3s\n", two.reached_by(&[&proxy.url]));
    // The vault is not the one that was configured.
    let hash = three.anvil.code_hash(three.vault).await.to_string();
    let other = B256::repeat_byte(1).to_string();
    let misconfigured = three.chains_file.replace(&hash, &other);
    assert_ne!(misconfigured, three.chains_file);
    // Those that do not go on come first.
    let entrances = vec![
        entrance(&three, &misconfigured),
        entrance(&two, &behind),
        entrance(&one, &one.chains_file),
    ];
    let cluster = Cluster::start(&one.api, entrances).await;
    seal(&cluster, &two, 256..258, 1000);
    settle(&two).await;

    proxy.lie(Lie::Late, None, usize::MAX);
    for round in 1..4 {
        seal(&cluster, &two, 300 * round..300 * round + 2, 1000);
        seal(&cluster, &three, 300 * round..300 * round + 2, 1000);
        seal(&cluster, &one, 300 * round..300 * round + 2, 1000);
        settle(&one).await;
    }
    assert!(proxy.told() > 0, "the second chain was asked meanwhile");
    assert_eq!(one.credit().await, 6 * SECOND);
    assert_eq!(two.credit().await, 2 * SECOND);
    assert_eq!((three.credit().await, three.head().await), (0, 0));
    assert!(batches(&three.api, three.place).is_empty());

    proxy.tell_the_truth();
    cluster.lane(two.place).announce_sealed();
    settle(&two).await;
    assert_eq!(two.credit().await, 8 * SECOND);
    nothing_is_mixed_up(&two.api, two.place);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_that_is_forked_stops_alone() {
    let one = World::new(ESCROW).await;
    let two = beside(&one, BASE).await;
    let mut proxy = LyingRpc::before(&one.anvil).await;
    let behind = one.reached_by(&[&proxy.url]);
    let entrances = vec![entrance(&one, &behind), entrance(&two, &two.chains_file)];
    let cluster = Cluster::start(&one.api, entrances).await;
    seal(&cluster, &one, 256..258, 1000);
    one.anvil.until_pending().await;
    // While we do not look, somebody else settles under the number of our batch.
    proxy.go_away().await;
    one.anvil.drop_pending().await;
    let theirs = Entry {
        job_no: 900,
        payer: 1,
        provider: 1,
        price: 1_000_000_000,
        units: 5,
    };
    let data = batch::encode(&[theirs], &[]).unwrap();
    let (input, _) = settle_call(&one, 1, B256::ZERO, &data);
    one.anvil.rpc("evm_setAutomine", json!([true])).await;
    one.anvil.send(ADMIN, Some(one.settlement), input).await;
    one.anvil.hold().await;
    proxy.come_back().await;
    let status = || one.batch(1).status.unwrap_or_default();
    until(
        "the lane has halted",
        || cluster.is_halted(one.place) && status().state == Some(BatchState::Forked),
        nothing,
    )
    .await;
    assert_eq!(status().blocked, Some(BlockedReason::Halted));

    for round in 1..4 {
        seal(&cluster, &one, 300 * round..300 * round + 1, 1000);
        seal(&cluster, &two, 300 * round..300 * round + 2, 1000);
        settle(&two).await;
    }
    assert_eq!(two.credit().await, 6 * SECOND);
    assert!(cluster.is_halted(one.place) && !cluster.is_halted(two.place));
    one.anvil.mine(3).await;
    assert_eq!(one.head().await, 1, "nothing follows what is not ours");
    assert_eq!(batches(&one.api, one.place).len(), 1);
    nothing_is_mixed_up(&two.api, two.place);
}

/// Opens a second lane on the world's chain, in the same contract, with payer 1 on it and a gas account of its own.
async fn second_lane(world: &World, place: Place) -> Entrance {
    let anvil = &world.anvil;
    let keys = Keys {
        gas: key(4),
        ..world.keys.clone()
    };
    anvil.release().await;
    let open = Settlement::openLaneCall {
        lane: place.lane,
        signer: keys.lane.address(),
        rewardsOwner: ADMIN.parse().unwrap(),
    };
    anvil.transact(ADMIN, world.settlement, &open).await;
    let register = Settlement::registerPayerCall { lane: place.lane };
    anvil.transact(PAYER, world.settlement, &register).await;
    let deposit = Settlement::depositCall {
        lane: place.lane,
        payer: 1,
        amount: ESCROW,
    };
    anvil.transact(PAYER, world.settlement, &deposit).await;
    let coins = U256::from(10_u64).pow(U256::from(20_u64));
    anvil.give_coins(keys.gas.address(), coins).await;
    anvil.mine(10).await;
    anvil.hold().await;
    let file = world
        .chains_file
        .replace("name: anvil", &format!("name: {}", place.chain))
        .replace("lane: 7", &format!("lane: {}", place.lane))
        .replace("gas: /keys/gas", "gas: /keys/gas-2");
    (format!("{file}  poll: 50ms\n"), keys)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_lanes_on_one_chain_with_two_gas_accounts_settle_side_by_side() {
    let world = World::new(ESCROW).await;
    let second = Place {
        chain: "anvil-2",
        lane: 9,
        ..HOME
    };
    let entrances = vec![
        entrance(&world, &world.chains_file),
        second_lane(&world, second).await,
    ];
    let accounts: Vec<String> = entrances
        .iter()
        .map(|(_, keys)| keys.gas.address().to_string())
        .collect();
    let mut cluster = Cluster::start(&world.api, entrances).await;
    let folder = std::env::temp_dir().join(format!("gridstake-two-lanes-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    cluster.archive(&folder);
    for round in 1..4 {
        let first = 256 * round;
        seal(&cluster, &world, first..first + 3, 1000);
        for number in first..first + 2 {
            let record = sealed_at(second, number, 1, 1, 3000);
            world.api.seal(&record);
            cluster.lane(second).announce_sealed();
        }
        until(
            "both lanes are paid",
            || {
                let places = [world.place, second];
                places
                    .iter()
                    .all(|place| all_are(&world.api, *place, RecordState::Final))
            },
            || world.anvil.mine(1),
        )
        .await;
    }
    assert_eq!(world.credit().await, 9 * SECOND + 6 * 3 * SECOND);
    assert_eq!(world.escrow(1).await, ESCROW - 9 * SECOND);
    let of_second = Settlement::balanceOfCall {
        lane: second.lane,
        payer: 1,
    };
    let left: u64 = world.anvil.call(world.settlement, &of_second).await;
    assert_eq!(left, ESCROW - 18 * SECOND);
    for (place, account) in [world.place, second].into_iter().zip(&accounts) {
        let call = Settlement::headCall { lane: place.lane };
        let head = world.anvil.call(world.settlement, &call).await;
        assert_eq!(batches(&world.api, place).len() as u64, head.seq);
        assert_eq!(
            world.anvil.nonce(account).await,
            head.seq,
            "each account sends its own lane's batches, each once"
        );
        nothing_is_mixed_up(&world.api, place);
    }

    // Each lane has an index of its own, and every record is in a file.
    let is_archived = |record: &UsageRecord| {
        let settlement = record.status.as_ref().and_then(|s| s.settlement.as_ref());
        settlement.is_some_and(|settlement| settlement.archive_hash.is_some())
    };
    until(
        "every record is archived",
        || world.api.records().iter().all(is_archived),
        nothing,
    )
    .await;
    for place in [world.place, second] {
        let index = format!(
            "lanes/31337-{}-{}/batches",
            world.settlement.to_string().to_lowercase(),
            place.lane
        );
        let files = std::fs::read_dir(folder.join(&index))
            .expect(&index)
            .count();
        assert_eq!(files, batches(&world.api, place).len(), "{index}");
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_waits_for_a_block_is_not_sent_with_each_look_at_the_chain() {
    let world = World::new(ESCROW).await;
    let rpc = LyingRpc::before(&world.anvil).await;
    let file = world.reached_by(&[&rpc.url]);
    let cluster = Cluster::start(&world.api, vec![entrance(&world, &file)]).await;
    seal(&cluster, &world, 256..260, 1000);
    let sent = || rpc.asked("eth_sendRawTransaction");
    until("the batch is sent", || sent() > 0, nothing).await;
    let looks = || rpc.asked("eth_getBlockByNumber");
    let (before, many) = (looks(), 40);
    until(
        "the chain was often looked at",
        || looks() >= before + many,
        || async {
            // What is sealed meanwhile is no reason to send it either.
            cluster.lane(world.place).announce_sealed();
        },
    )
    .await;
    assert!(sent() * 4 <= many, "sent {} times in {many} looks", sent());
    settle(&world).await;
    assert_eq!(world.credit().await, 4 * SECOND);
}
