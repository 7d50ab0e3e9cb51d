//! A chain with the contracts, a provider and a payer on it, and replicas of the operator's settlement.

use std::{collections::BTreeMap, path::Path, time::Duration};

use alloy::{
    primitives::{Address, B256, U256},
    signers::local::PrivateKeySigner,
};
use gridstake_contracts::{GridToken, Settlement, StakeVault};
use gridstake_crds::{SettlementBatch, UsageRecord, usage_record::RecordState};
use gridstake_operator::{
    Context,
    archive::{Archive, Terms, run::Archivist},
    caches::Caches,
    chain::{Chain, Chains, ChainsFile, follower::Follower},
    contracts_deploy::code::{self, SettlementTerms},
    controllers::usage_record::receipt,
    events::Events,
    failover,
    health::Health,
    leader::{Lapse, Leadership},
    metrics::Metrics,
    payer::Payers,
    settlement::{
        Lane, LaneMetrics, Lanes, OpenError,
        run::Settler,
        signer::{Key, Keys},
    },
};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use reqwest::Url;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::{
    anvil::{ADMIN, Anvil, PAYER, PROVIDER_OPERATOR, STAKER},
    api_server::ApiServer,
};

pub const LANE: u32 = 7;
const NAMESPACE: &str = "gridstake-system";
const NANO: u128 = 1_000_000_000;
/// Nano-tokens per GPU-second.
const PRICE: u64 = 1_000_000;

/// Where a world's lane is.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// The chain's name in the chains file.
    pub chain: &'static str,
    pub chain_id: u64,
    pub lane: u32,
}

/// The place of a world that has only one lane.
pub const HOME: Place = Place {
    chain: "anvil",
    chain_id: 31337,
    lane: LANE,
};

pub struct World {
    pub place: Place,
    pub anvil: Anvil,
    pub api: ApiServer,
    pub settlement: Address,
    pub vault: Address,
    pub token: Address,
    pub keys: Keys,
    pub chains_file: String,
}

/// One replica of the operator, as far as it settles and archives.
pub struct Replica {
    pub context: Context,
    pub settler: Settler,
    pub follower: Follower,
    pub lane: Lane,
    now: fn() -> Timestamp,
}

pub fn key(byte: u8) -> Key {
    let bytes = B256::repeat_byte(byte);
    Key::from(PrivateKeySigner::from_bytes(&bytes).unwrap())
}

impl World {
    /// Deploys everything, registers provider 1 and payer 1 with a deposit of `escrow` nano-tokens, and stops mining.
    pub async fn new(escrow: u64) -> Self {
        Self::on(31337, escrow).await
    }

    /// The same on a chain with this id. All addresses are the same whatever the id.
    pub async fn on(chain_id: u64, escrow: u64) -> Self {
        Self::at(Place { chain_id, ..HOME }, escrow).await
    }

    /// The same at this place.
    pub async fn at(place: Place, escrow: u64) -> Self {
        let Place {
            chain,
            chain_id,
            lane,
        } = place;
        let anvil = Anvil::start(chain_id);
        let admin: Address = ADMIN.parse().unwrap();
        let token = anvil.deploy(code::token()).await;
        let vault = anvil.deploy(code::vault(token, admin, admin)).await;
        let terms = SettlementTerms {
            token,
            vault,
            admin,
            guardian: admin,
            treasury: admin,
            fee_bps: 100,
            claim_delay: 0,
        };
        let settlement = anvil.deploy(code::settlement(&terms)).await;
        let keys = Keys {
            lane: key(1),
            gas: key(2),
            slash: Some(key(3)),
        };
        anvil
            .transact(
                ADMIN,
                vault,
                &StakeVault::setSettlementCall {
                    settlement_: settlement,
                },
            )
            .await;
        anvil
            .transact(
                ADMIN,
                settlement,
                &Settlement::openLaneCall {
                    lane,
                    signer: keys.lane.address(),
                    rewardsOwner: admin,
                },
            )
            .await;
        anvil
            .give_coins(
                keys.gas.address(),
                U256::from(NANO) * U256::from(100 * NANO),
            )
            .await;
        let chains_file = format!(
            "chains:
- name: {chain}
  chainId: {chain_id}
  rpc: [{url}]
  lane: {lane}
  settlement: {{address: '{settlement}', codeHash: '{settlement_hash}'}}
  vault: {{address: '{vault}', codeHash: '{vault_hash}'}}
  token: '{token}'
  keys: {{laneSigner: /keys/lane, gas: /keys/gas}}
  window: 0s
  fees: {{replaceAfterBlocks: 3}}
",
            url = anvil.url,
            settlement_hash = anvil.code_hash(settlement).await,
            vault_hash = anvil.code_hash(vault).await,
        );
        let world = Self {
            place,
            anvil,
            api: ApiServer::default(),
            settlement,
            vault,
            token,
            keys,
            chains_file,
        };
        world.register(escrow).await;
        // No reorganisation of a test reaches what was set up.
        world.anvil.mine(10).await;
        world.anvil.hold().await;
        world
    }

    async fn register(&self, escrow: u64) {
        let anvil = &self.anvil;
        for (account, spender) in [(STAKER, self.vault), (PAYER, self.settlement)] {
            let transfer = GridToken::transferCall {
                to: account.parse().unwrap(),
                value: U256::from(1_000_000 * NANO) * U256::from(NANO),
            };
            anvil.transact(ADMIN, self.token, &transfer).await;
            let approve = GridToken::approveCall {
                spender,
                value: U256::MAX,
            };
            anvil.transact(account, self.token, &approve).await;
        }
        let register = StakeVault::registerCall {
            operator: PROVIDER_OPERATOR.parse().unwrap(),
            beneficiary: STAKER.parse().unwrap(),
        };
        anvil.transact(STAKER, self.vault, &register).await;
        let stake = StakeVault::stakeCall {
            provider: 1,
            amount: 100_000 * NANO,
        };
        anvil.transact(STAKER, self.vault, &stake).await;
        let lane = self.place.lane;
        let register = Settlement::registerPayerCall { lane };
        anvil.transact(PAYER, self.settlement, &register).await;
        if escrow > 0 {
            self.deposit(1, escrow).await;
        }
        anvil.pass_time(2 * 24 * 3600).await;
        let activate = Settlement::activateProviderCall { provider: 1 };
        anvil.transact(ADMIN, self.settlement, &activate).await;
    }

    /// Only while transactions are mined at once.
    pub async fn deposit(&self, payer: u32, amount: u64) {
        let deposit = Settlement::depositCall {
            lane: self.place.lane,
            payer,
            amount,
        };
        self.anvil.transact(PAYER, self.settlement, &deposit).await;
    }

    /// Seals records with these numbers, each of one GPU for `millis`.
    pub fn seal(&self, numbers: std::ops::Range<u64>, millis: u64) {
        for number in numbers {
            self.seal_one(number, 1, 1, millis);
        }
    }

    pub fn seal_one(&self, number: u64, payer: u32, provider: u32, millis: u64) {
        let record = sealed_at(self.place, number, payer, provider, millis);
        self.api.seal(&record);
    }

    /// A replica that has just started.
    pub async fn replica(&self) -> Replica {
        self.replica_with(&self.chains_file).await
    }

    pub async fn replica_with(&self, chains_file: &str) -> Replica {
        self.replica_of(&self.api, chains_file).await
    }

    /// A replica of a cluster with this API server.
    pub async fn replica_of(&self, api: &ApiServer, chains_file: &str) -> Replica {
        Replica::new(api.client().await, chains_file, |chain, metrics| {
            Lane::with_keys(chain, self.keys.clone(), metrics)
        })
    }

    pub async fn head(&self) -> u64 {
        let head = self
            .anvil
            .call(
                self.settlement,
                &Settlement::headCall {
                    lane: self.place.lane,
                },
            )
            .await;
        head.seq
    }

    /// What provider 1 has been credited, in nano-tokens.
    pub async fn credit(&self) -> u64 {
        let call = Settlement::creditOfCall { provider: 1 };
        self.anvil.call(self.settlement, &call).await
    }

    pub fn batch(&self, sequence: u64) -> SettlementBatch {
        let batches = self.api.batches();
        batches
            .into_iter()
            .find(|batch| batch.spec.sequence == sequence)
            .unwrap()
    }

    pub fn states(&self) -> BTreeMap<u64, RecordState> {
        let state = |record: &UsageRecord| {
            let status = record.status.as_ref()?;
            let number = status.sealed.as_ref()?.job_no?;
            Some((number, status.settlement.as_ref()?.state))
        };
        self.api.records().iter().filter_map(state).collect()
    }

    /// The chains file with these endpoints instead of the chain's own.
    pub fn reached_by(&self, urls: &[&Url]) -> String {
        let urls: Vec<&str> = urls.iter().map(|url| url.as_str()).collect();
        let own = format!("[{}]", self.anvil.url);
        assert!(self.chains_file.contains(&own));
        self.chains_file
            .replace(&own, &format!("[{}]", urls.join(", ")))
    }

    /// What payer `payer` has, in nano-tokens.
    pub async fn escrow(&self, payer: u32) -> u64 {
        let lane = self.place.lane;
        let call = Settlement::balanceOfCall { lane, payer };
        self.anvil.call(self.settlement, &call).await
    }

    /// Every record of `millis` is final and was paid once out of what payer 1 had, and log and chain agree.
    pub async fn everything_is_paid_once(&self, had: u64, millis: u64) {
        assert!(self.all_final(), "{:?}", self.states());
        let records = self.api.records().len() as u64;
        let owed = records * millis * PRICE / 1000;
        assert_eq!(self.credit().await, owed, "credited for {records} records");
        assert_eq!(self.escrow(1).await, had - owed, "left of the escrow");
        self.the_log_is_the_chain().await;
    }

    /// The log ends where the lane does, in the same content.
    pub async fn the_log_is_the_chain(&self) {
        let lane = self.place.lane;
        let call = Settlement::headCall { lane };
        let head = self.anvil.call(self.settlement, &call).await;
        let batches = self.api.batches();
        assert_eq!(batches.len() as u64, head.seq, "batches");
        if let Some(last) = batches.iter().max_by_key(|batch| batch.spec.sequence) {
            assert_eq!(last.spec.sequence, head.seq);
            assert_eq!(last.spec.chain_hash, head.chainHash.to_string());
        }
    }

    /// Whether every record's payment is final.
    pub fn all_final(&self) -> bool {
        let states = self.states();
        states.len() == self.api.records().len()
            && states.values().all(|state| *state == RecordState::Final)
    }
}

/// Steps and mines until every record is final.
pub async fn settle(world: &World, replica: &mut Replica) {
    for _ in 0..20 {
        replica.step().await;
        if world.all_final() {
            return;
        }
        world.anvil.mine(1).await;
    }
    panic!("not final: {:?} {:#?}", world.states(), world.api.batches());
}

/// A sealed record of one GPU for `millis`.
pub fn sealed(number: u64, payer: u32, provider: u32, millis: u64) -> Value {
    sealed_at(HOME, number, payer, provider, millis)
}

/// The same, owed at this place.
pub fn sealed_at(place: Place, number: u64, payer: u32, provider: u32, millis: u64) -> Value {
    let Place { chain, lane, .. } = place;
    let job = if lane == LANE {
        format!("job-{number}")
    } else {
        format!("lane-{lane}-job-{number}")
    };
    let mut record = json!({
        "apiVersion": "gridstake.dev/v1alpha1", "kind": "UsageRecord",
        "metadata": {"name": format!("{job}-1-0-0"), "namespace": NAMESPACE},
        "spec": {
            "job": {"namespace": "a", "name": "j", "uid": job},
            "attempt": 1, "member": 0, "slice": 0, "podName": "j-1-0", "nodeName": "n1", "gpuCount": 1,
            "payment": {"chain": chain, "lane": lane, "payer": payer, "provider": provider, "perGpuSecond": "0.001"},
        },
        "status": {"sealed": {
            "jobNo": number, "startMs": 0, "endMs": millis, "gpuMillis": millis, "price": "0.001",
            "cause": "MemberEnded", "receiptHash": "",
        }},
    });
    let read: UsageRecord = serde_json::from_value(record.clone()).unwrap();
    let sealed = read.status.as_ref().unwrap().sealed.as_ref().unwrap();
    record["status"]["sealed"]["receiptHash"] = json!(receipt::hash(&read, sealed).unwrap());
    record
}

impl ApiServer {
    /// Stores a sealed record.
    pub fn seal(&self, record: &Value) {
        let name = record["metadata"]["name"].as_str().unwrap();
        let path =
            format!("/apis/gridstake.dev/v1alpha1/namespaces/{NAMESPACE}/usagerecords/{name}");
        self.put(&path, record.clone());
    }
}

/// What an operator with these lanes is given. Nothing is watched: the caches stay empty.
pub fn context(
    client: Client,
    chains: Chains,
    lanes: Lanes,
    metrics: Metrics,
    now: fn() -> Timestamp,
) -> Context {
    let health = Health::default();
    let caches = Caches::start(
        &client,
        NAMESPACE,
        failover::Terms::default(),
        &health,
        &metrics,
        &mut JoinSet::new(),
    );
    Context {
        events: Events::new(client.clone(), "test"),
        client,
        namespace: NAMESPACE.to_owned(),
        caches,
        chains,
        identity: "test".to_owned(),
        lanes,
        archive: None,
        incidents: gridstake_operator::controllers::incident::open::Terms::default(),
        preemption: gridstake_operator::controllers::reclaim::preempt::Terms::default(),
        canaries: gridstake_operator::controllers::canary::Terms::default(),
        fair_share_half_life: gridstake_operator::scheduler::fair_share::HalfLife::default(),
        owner_cap: gridstake_operator::scheduler::owner_cap::OwnerCap::default(),
        quarantine: gridstake_operator::controllers::gpu_node::quarantine::Terms::default(),
        rehearsals: gridstake_operator::controllers::compute_job::rehearsals::Rehearsals::default(),
        recent_fleet:
            gridstake_operator::controllers::compute_job::recent_fleet::RecentFleet::default(),
        recent_starts:
            gridstake_operator::controllers::compute_job::recent_starts::RecentStarts::default(),
        untold: gridstake_operator::controllers::compute_job::untold::Untold::default(),
        precedence: gridstake_operator::precedence::Precedence::default(),
        payers: Payers::default(),
        settlement_interval: Duration::from_hours(1),
        metrics,
        health,
        leadership: Leadership::uncontested(),
        now,
    }
}

impl Replica {
    /// A replica that has just started and asks this API server; `open` opens its lane.
    pub fn new(
        client: Client,
        chains_file: &str,
        open: impl FnOnce(Chain, &LaneMetrics) -> Result<Lane, OpenError>,
    ) -> Self {
        Self::by_the_clock(Timestamp::now, client, chains_file, open)
    }

    /// The same, by the clock `now`.
    pub fn by_the_clock(
        now: fn() -> Timestamp,
        client: Client,
        chains_file: &str,
        open: impl FnOnce(Chain, &LaneMetrics) -> Result<Lane, OpenError>,
    ) -> Self {
        let config = ChainsFile::parse(chains_file, Path::new("test"))
            .unwrap()
            .chains
            .remove(0);
        let chains = Chains::new(vec![config]);
        let chain: Chain = chains.default_chain().unwrap().clone();
        let metrics = Metrics::new().unwrap();
        let of_lanes = LaneMetrics::register(metrics.registry()).unwrap();
        let lane = open(chain, &of_lanes).unwrap();
        let lanes = Lanes::new(vec![lane.clone()]).unwrap();
        let context = context(client, chains, lanes, metrics, now);
        Self {
            follower: lane.follower(),
            settler: Settler::new(context.clone(), lane.clone()),
            context,
            lane,
            now,
        }
    }

    /// The same replica, which has found that what was written in this span may be lost.
    pub fn after(mut self, lapse: Lapse) -> Self {
        self.context.leadership = Leadership::uncontested_after(Some(lapse));
        self.settler = Settler::new(self.context.clone(), self.lane.clone());
        self
    }

    /// The same replica, with an archive in `folder`.
    pub fn with_archive(mut self, folder: &Path) -> Self {
        let registry = self.context.metrics.registry();
        let terms = Terms {
            retention: Duration::MAX,
            removes: false,
        };
        let archive = Archive::open(folder.to_str().unwrap(), terms, registry).unwrap();
        self.context.archive = Some(archive);
        self.settler = Settler::new(self.context.clone(), self.lane.clone());
        self
    }

    pub fn is_halted(&self) -> bool {
        self.lane.metrics().halted.get() == 1
    }

    /// The sum over a metric's series; `None` if it has none.
    pub fn measured(&self, name: &str) -> Option<f64> {
        let families = self.context.metrics.registry().gather();
        let family = families.iter().find(|family| family.name() == name)?;
        let series = family.get_metric().iter();
        Some(
            series
                .map(|one| one.get_gauge().get_value() + one.get_counter().get_value())
                .sum(),
        )
    }

    /// The same as [`step`](Self::step) where the look may fail. Returns whether it did not.
    pub async fn try_step(&mut self) -> bool {
        let looked = self.follower.look(self.now).await;
        self.settler.records_announced(1);
        self.settler.one_pass().await;
        looked.is_ok()
    }

    /// Who archives what this replica settles from now on.
    pub fn archivist(&self, folder: &Path, terms: Terms) -> Archivist {
        let registry = self.context.metrics.registry();
        let archive = Archive::open(folder.to_str().unwrap(), terms, registry).unwrap();
        let context = Context {
            archive: Some(archive.clone()),
            ..self.context.clone()
        };
        Archivist::new(context, self.lane.clone(), archive)
    }

    /// One look at the chain and one pass over the lane.
    pub async fn step(&mut self) {
        assert!(self.try_step().await, "the chain cannot be followed");
    }
}
