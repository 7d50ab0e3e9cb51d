//! Plays a script on the real settlement and tells what came of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use alloy::{
    primitives::{B256, address, keccak256},
    signers::local::PrivateKeySigner,
};
use gridstake_crds::{
    SettlementBatch, UsageRecord,
    names::LABEL_RESTORED,
    settlement_batch::{BatchState, BlockedReason},
    usage_record::{RecordState, SkipReason},
};
use gridstake_ledger::{
    earnings::LaneId,
    statement::{self, Gpu, Statement},
};
use gridstake_operator::{
    chain::client::ChainClient,
    controllers::usage_record::{conditions::Hold, observe::in_doubt},
    error::chain as causes,
    leader::Lapse,
    settlement::{
        Lane,
        signer::{Key, Keys},
        statements::Declared,
    },
};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{
    anvil_chain::AnvilChain,
    contract::{CODE, State, Terms, UNREADABLE},
    model_chain::ModelChain,
    nature::{
        COOLING_PROVIDER, ChainEnd, Nature, PLENTY, POOR_PAYER, POOR_START, PROVIDER, RICH_PAYER,
        RICH_START, stranger,
    },
    script::{Act, FINAL_DEPTH, Kind, Mishap, WEEK, Weather},
    statements::Statements,
    wire::{OtherLeads, Wire},
};
use crate::{
    api_server::{ApiServer, Saved},
    world::{LANE, Replica, sealed},
};

const NOBODY: u32 = 9;
/// What a record of a second costs, in nano-tokens.
const SECOND: u64 = 1_000_000;
/// What an emission is, in nano-tokens.
const EMISSION: u64 = 100;
/// Passes in fair weather within which everything must be final.
const PATIENCE: usize = 400;
/// So many more for each entry that makes a batch unreadable: it is found by halving, and each half has to expire.
const SEARCH: usize = 150;
/// After so many of them a replica is started anew, as if time had passed: what it tries again rarely, it tries again.
const LIFE: usize = 20;

/// What came of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Payments beyond what is due, or attempts at one.
    pub duplicates: Vec<String>,
    /// Records that are due and not paid, or said to be paid and are not.
    pub losses: Vec<String>,
    /// What was not over in time.
    pub stuck: Vec<String>,
    /// What the chain ended with.
    pub end: End,
    /// After each act: the chain's last batch, and the batches of the log with their states.
    pub course: Vec<String>,
    /// How often something went wrong, by its name: a campaign in which nothing happens proves nothing.
    pub reached: BTreeSet<&'static str>,
}

/// Where a run ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct End {
    pub chain: ChainEnd,
    pub records: BTreeMap<u64, RecordState>,
}

impl Verdict {
    pub fn is_good(&self) -> bool {
        self.duplicates.is_empty() && self.losses.is_empty() && self.stuck.is_empty()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (what, list) in [
            ("duplicate", &self.duplicates),
            ("loss", &self.losses),
            ("stuck", &self.stuck),
        ] {
            for one in list {
                writeln!(out, "{what}: {one}")?;
            }
        }
        Ok(())
    }
}

struct Actor {
    replica: Replica,
    wire: Wire,
    others: mpsc::UnboundedReceiver<OtherLeads>,
}

struct Backup {
    saved: Saved,
    posted: BTreeMap<String, Statement>,
    /// The newest block's time, in seconds of Unix time.
    taken_at: u64,
}

struct Stage {
    nature: Nature,
    api: ApiServer,
    keys: Keys,
    chains_file: String,
    actors: [Option<Actor>; 2],
    /// By the number of their use.
    sealed: BTreeMap<u64, Kind>,
    next_number: u64,
    /// Passes of both replicas so far.
    passes: u64,
    /// What each node shows.
    shown: BTreeMap<String, Statement>,
    /// What the status of each GpuNode says is stated.
    posted: BTreeMap<String, Statement>,
    backup: Option<Backup>,
    /// What the leader's lease says of the last restore.
    lapse: Option<Lapse>,
    /// The latest time that a block ever had, in seconds of Unix time.
    latest: u64,
    /// Slices that are open again and whose agents are gone, by the numbers under which they were sealed before the restore.
    open: BTreeMap<u64, Kind>,
    reached: BTreeSet<&'static str>,
}

fn key(byte: u8) -> Key {
    Key::from(PrivateKeySigner::from_bytes(&B256::repeat_byte(byte)).unwrap())
}

/// GPUs that a node shows, by a number.
fn gpus_of(number: u64) -> Vec<Gpu> {
    vec![Gpu {
        uuid: format!("GPU-{number}"),
        model: "NVIDIA H100".to_owned(),
        memoryMiB: 81_559,
        computeCapability: "9.0".to_owned(),
        pciBusId: String::new(),
        mig: false,
    }]
}

/// The numbers of a record whose use has this one.
fn numbers(number: u64, kind: Kind) -> std::ops::Range<u64> {
    number..number + if kind == Kind::Rewarded { 2 } else { 1 }
}

impl Stage {
    fn on_model() -> Self {
        let keys = Keys {
            lane: key(1),
            gas: key(2),
            slash: None,
        };
        let terms = Terms {
            chain_id: 31337,
            lane: LANE,
            // Where they are on anvil: an address is part of what is stated.
            settlement: address!("9fE46736679d2D9a65F0992F2272dE9f3c7fa6e0"),
            vault: address!("e7f1725E7734CE288F8367e1Bb143E90bb3F0512"),
            token: address!("5FbDB2315678afecb367f032d93F642f64180aa3"),
            lane_signer: keys.lane.address(),
        };
        let code_hash = keccak256(CODE);
        let chains_file = format!(
            "chains:
- name: anvil
  chainId: {chain_id}
  rpc: ['http://model/']
  lane: {LANE}
  settlement: {{address: '{settlement}', codeHash: '{code_hash}'}}
  vault: {{address: '{vault}', codeHash: '{code_hash}'}}
  token: '{token}'
  keys: {{laneSigner: /keys/lane, gas: /keys/gas}}
  window: 0s
  finality: {{mode: Depth, depth: {FINAL_DEPTH}}}
  fees: {{replaceAfterBlocks: 3}}
",
            chain_id = terms.chain_id,
            settlement = terms.settlement,
            vault = terms.vault,
            token = terms.token,
        );
        let genesis = State {
            balances: BTreeMap::from([(0, 0), (RICH_PAYER, RICH_START), (POOR_PAYER, POOR_START)]),
            credits: BTreeMap::from([(PROVIDER, 0)]),
            cooling: BTreeSet::from([COOLING_PROVIDER]),
            wei: BTreeMap::from([(keys.gas.address(), PLENTY)]),
            ..State::default()
        };
        let person = stranger(&key(9), 0);
        let model = ModelChain::new(terms, genesis, &person);
        Self::with(Nature::of_model(model, keys.gas.clone()), keys, chains_file)
    }

    async fn on_anvil() -> Self {
        let anvil = AnvilChain::new().await;
        let keys = anvil.world().keys.clone();
        let chains_file = format!(
            "{}  finality: {{mode: Depth, depth: {FINAL_DEPTH}}}\n",
            anvil.world().chains_file
        );
        Self::with(Nature::of_anvil(anvil), keys, chains_file)
    }

    fn with(nature: Nature, keys: Keys, chains_file: String) -> Self {
        let mut set = Self {
            nature,
            api: ApiServer::default(),
            keys,
            chains_file,
            actors: [None, None],
            sealed: BTreeMap::new(),
            next_number: 256,
            passes: 0,
            shown: BTreeMap::new(),
            posted: BTreeMap::new(),
            backup: None,
            lapse: None,
            latest: 0,
            open: BTreeMap::new(),
            reached: BTreeSet::new(),
        };
        set.restart(0);
        set.restart(1);
        set
    }

    fn restart(&mut self, index: usize) {
        let (sender, others) = mpsc::unbounded_channel();
        let wire = Wire::new(self.nature.clone(), self.api.clone(), sender);
        let keys = self.keys.clone();
        let replica = Replica::new(wire.api_client(), &self.chains_file, |chain, metrics| {
            let client = ChainClient::over(vec![wire.endpoint()], metrics.chain(chain.name()));
            Ok(Lane::with_client(chain, keys, client, metrics))
        });
        let replica = match self.lapse {
            Some(lapse) => replica.after(lapse),
            None => replica,
        };
        self.actors[index] = Some(Actor {
            replica,
            wire,
            others,
        });
        self.declare(index);
    }

    /// What the controller of GpuNodes declares to a replica.
    fn declare(&self, index: usize) {
        let Some(actor) = &self.actors[index] else {
            return;
        };
        let statements = actor.replica.lane.statements();
        for (node, shown) in &self.shown {
            let declared = Declared {
                statement: *shown,
                posted: self.posted.get(node) == Some(shown),
            };
            statements.declare(node, Some(declared));
        }
    }

    /// What it writes down once a replica has seen it stated.
    fn write_down_what_is_stated(&mut self) {
        for actor in self.actors.iter().flatten() {
            let statements = actor.replica.lane.statements();
            for (node, shown) in &self.shown {
                match statements.is_stated(shown) {
                    Some(true) => {
                        self.posted.insert(node.clone(), *shown);
                    }
                    Some(false) if self.posted.get(node) == Some(shown) => {
                        self.posted.remove(node);
                    }
                    _ => {}
                }
            }
        }
        self.declare(0);
        self.declare(1);
    }

    /// The newest block's time, in seconds of Unix time.
    async fn chain_time(&mut self) -> u64 {
        let newest = self
            .nature
            .rpc("eth_getBlockByNumber", &json!(["latest", false]), 0)
            .await
            .unwrap();
        let text = newest["timestamp"].as_str().unwrap();
        let at = u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap();
        self.latest = self.latest.max(at);
        at
    }

    async fn back_up(&mut self) {
        self.backup = Some(Backup {
            saved: self.api.save(),
            posted: self.posted.clone(),
            taken_at: self.chain_time().await,
        });
    }

    /// Both replicas lose what they were about to do with the API server, and start anew. Some agents are gone with what they
    /// remembered.
    async fn restore(&mut self) {
        let now = self.chain_time().await;
        let Some(backup) = &self.backup else {
            return;
        };
        let sent = self.sent_and_not_mined().await;
        self.api.restore(&backup.saved);
        let kept = self.api.batches();
        let is_lost = |sequence: &u64| kept.iter().all(|batch| batch.spec.sequence != *sequence);
        if sent.iter().any(is_lost) {
            self.reached.insert("lost while it can be mined");
        }
        self.posted.clone_from(&backup.posted);
        self.reached.insert("restored");
        // By the chain's clock, which alone passes here; and a reorganisation may have turned it back, as none does.
        let passed = 2 * (self.latest - backup.taken_at.min(now));
        let before = self.lapse.map(|lapse| lapse.until);
        let later = before.and_then(|until| until.checked_add(SignedDuration::from_millis(1)).ok());
        let until = later.unwrap_or(Timestamp::UNIX_EPOCH).max(Timestamp::now());
        let passed = SignedDuration::from_secs(i64::try_from(passed).unwrap());
        let from = until.checked_sub(passed).unwrap();
        self.lapse = Some(Lapse { from, until });
        let known: BTreeSet<u64> = self.states_of_seals();
        for (number, kind) in self.sealed.clone() {
            let is_sound = matches!(kind, Kind::Sound | Kind::Poor | Kind::CoolingProvider);
            if known.contains(&number) {
                continue;
            }
            if is_sound && number % 3 == 0 {
                self.sealed.remove(&number);
                self.open.insert(number, kind);
            } else {
                self.put(number, kind);
            }
        }
        self.restart(0);
        self.restart(1);
    }

    /// The numbers of batches that were sent and that the chain does not hold.
    async fn sent_and_not_mined(&self) -> Vec<u64> {
        let mined = self.nature.end(&[]).await.seq;
        let sent = |batch: &SettlementBatch| {
            let attempts = batch.status.as_ref().map(|status| status.attempts.len());
            batch.spec.sequence > mined && attempts.is_some_and(|count| count > 0)
        };
        let batches = self.api.batches().into_iter();
        let sent = batches.filter(sent);
        sent.map(|batch| batch.spec.sequence).collect()
    }

    /// What the controller of UsageRecords does with slices that are open again; and a person, who finds out which of them the
    /// chain has paid.
    async fn seal_what_is_open(&mut self, index: usize) {
        if self.actors[index].is_none() {
            return;
        }
        for (number, kind) in self.open.clone() {
            match self.hold(index, number, kind) {
                None => {
                    self.open.remove(&number);
                    self.seal(kind, 1);
                    self.reached.insert("sealed anew");
                }
                Some(Hold::InDoubt { .. })
                    if self.nature.end(&[number]).await.paid.contains(&number) =>
                {
                    self.open.remove(&number);
                    self.sealed.insert(number, kind);
                    self.put(number, kind);
                    self.reached.insert("found out");
                }
                Some(Hold::MayBeLost { .. }) => {
                    self.reached.insert("may be lost");
                }
                Some(_) => {}
            }
        }
    }

    /// What keeps a slice that is open again from being sealed, as this replica sees it.
    fn hold(&self, index: usize, number: u64, kind: Kind) -> Option<Hold> {
        let mut value = Self::record(number, kind);
        value["status"].take();
        let record: UsageRecord = serde_json::from_value(value).unwrap();
        let lane = &self.actors[index].as_ref()?.replica.lane;
        let (hold, _) = in_doubt(lane, self.lapse, &record, Timestamp::now());
        hold.filter(|hold| hold.concerns(0))
    }

    fn states_of_seals(&self) -> BTreeSet<u64> {
        let number = |record: UsageRecord| record.status?.sealed?.job_no;
        self.api.records().into_iter().filter_map(number).collect()
    }

    fn seal(&mut self, kind: Kind, count: u64) {
        for _ in 0..count {
            let number = self.next_number;
            self.next_number = numbers(number, kind).end;
            self.sealed.insert(number, kind);
            self.put(number, kind);
        }
    }

    fn put(&self, number: u64, kind: Kind) {
        self.api.seal(&Self::record(number, kind));
    }

    fn record(number: u64, kind: Kind) -> Value {
        let (payer, provider, millis) = match kind {
            Kind::Sound | Kind::BrokenReceipt => (RICH_PAYER, PROVIDER, 1000),
            Kind::Poor | Kind::Rewarded => (POOR_PAYER, PROVIDER, 1000),
            Kind::UnknownProvider => (RICH_PAYER, NOBODY, 1000),
            Kind::CoolingProvider => (RICH_PAYER, COOLING_PROVIDER, 1000),
            Kind::UnknownPayer => (NOBODY, PROVIDER, 1000),
            Kind::TooLarge => (RICH_PAYER, PROVIDER, 1 << 50),
            Kind::Unreadable => (RICH_PAYER, PROVIDER, UNREADABLE),
        };
        let mut record = sealed(number, payer, provider, millis);
        if kind == Kind::BrokenReceipt {
            record["status"]["sealed"]["receiptHash"] = json!("0x12");
        }
        if kind == Kind::Rewarded {
            let amount = format!("0.{EMISSION:09}");
            let emission = json!({"jobNo": number + 1, "amount": amount});
            record["status"]["sealed"]["emission"] = emission;
        }
        record
    }

    async fn play_to_the_end(mut self, script: &[Act]) -> Verdict {
        let mut course = Vec::new();
        for act in script {
            self.play(act).await;
            self.note_what_was_reached();
            course.push(self.standing(act).await);
        }
        let over = self.settle_down().await;
        Verdict {
            course,
            ..self.verdict(over).await
        }
    }

    async fn play(&mut self, act: &Act) {
        match act {
            Act::Seal(kind, count) => self.seal(*kind, *count),
            Act::Chain(weather) => self.nature.be(*weather).await,
            Act::Away(away) => self.nature.go_away(*away),
            Act::Restart { replica } => self.restart(*replica),
            Act::CreatesNothing(refuses) => self.api.refuse_creation(*refuses),
            Act::BackUp => self.back_up().await,
            Act::Declare { node, gpus } => {
                let node = format!("n{node}");
                let shown = statement::inventory(&node, PROVIDER, gpus_of(*gpus));
                self.shown.insert(node, shown);
                self.declare(0);
                self.declare(1);
            }
            Act::Restore => self.restore().await,
            Act::PassUnseeing { replica } => self.pass(*replica, &[], false).await,
            Act::Pass { replica, mishaps } => self.pass(*replica, mishaps, true).await,
        }
    }

    async fn pass(&mut self, index: usize, mishaps: &[(usize, Mishap)], looks: bool) {
        let mut actor = self.actors[index].take().unwrap();
        actor.wire.expect(mishaps);
        self.passes += 1;
        // Each third time nobody tells the records what was found, as where the API server is slow: the lane is ahead of them.
        let tells = !self.passes.is_multiple_of(3);
        let Actor {
            replica, others, ..
        } = &mut actor;
        {
            let mut passing = Box::pin(one_pass(replica, looks, tells));
            loop {
                tokio::select! {
                    biased;
                    () = &mut passing => break,
                    Some(done) = others.recv() => {
                        if let Some(other) = &mut self.actors[1 - index] {
                            other.wire.expect(&[]);
                            Box::pin(one_pass(&mut other.replica, true, true)).await;
                        }
                        let _ = done.send(());
                    }
                }
            }
        }
        let died = actor.wire.is_dead();
        actor.wire.expect(&[]);
        self.actors[index] = Some(actor);
        self.write_down_what_is_stated();
        if died {
            self.restart(index);
        }
        self.chain_time().await;
        self.seal_what_is_open(index).await;
    }

    fn note_what_was_reached(&mut self) {
        for why in self.nature.left_out() {
            self.reached.insert(match why {
                1 => "on chain: UnknownProvider",
                2 => "on chain: UnknownPayer",
                3 => "on chain: InsufficientEscrow",
                _ => "on chain: ProviderCooling",
            });
        }
        for batch in self.api.batches() {
            if batch
                .metadata
                .labels
                .is_some_and(|it| it.contains_key(LABEL_RESTORED))
            {
                self.reached.insert("taken over from the chain");
            }
            let Some(status) = batch.status else {
                continue;
            };
            if let Some(blocked) = status.blocked {
                use gridstake_crds::closed_enum::ClosedEnum as _;
                self.reached.insert(blocked.as_str());
            }
            if status.state == Some(BatchState::Superseded) {
                self.reached.insert("superseded");
            }
            if status.authorizations.len() > 1 {
                self.reached.insert("signed again");
            }
            if status.attempts.len() > 1 {
                self.reached.insert("replaced");
            }
            let reorganised = |c: &&k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition| {
                c.reason == "Reorganised"
            };
            if status.conditions.iter().any(|c| reorganised(&c)) {
                self.reached.insert("reorganised");
            }
        }
        for record in self.api.records() {
            let settlement = record.status.and_then(|status| status.settlement);
            let before_any_batch = settlement.as_ref().is_some_and(|it| it.batch.is_none());
            match settlement.map(|settlement| (settlement.state, settlement.skipped)) {
                Some((RecordState::NeedsDecision, _)) => {
                    self.reached.insert("needs decision");
                }
                Some((RecordState::Skipped, Some(reason))) if before_any_batch => {
                    use gridstake_crds::closed_enum::ClosedEnum as _;
                    self.reached.insert(reason.as_str());
                }
                _ => {}
            }
        }
    }

    /// Fair weather until nothing is left to do.
    async fn settle_down(&mut self) -> bool {
        self.nature.go_away(false);
        self.api.refuse_creation(false);
        for weather in [
            Weather::BaseFee(5),
            Weather::GasThere,
            Weather::Pause(false),
            Weather::Flatter(false),
            Weather::Activate,
            Weather::Deposit(1000 * SECOND),
            Weather::Fund(1000 * SECOND),
        ] {
            self.nature.be(weather).await;
        }
        let unreadable = self
            .sealed
            .values()
            .filter(|kind| **kind == Kind::Unreadable);
        let patience = PATIENCE + SEARCH * unreadable.count();
        let mut week_is_over = false;
        for round in 0..patience {
            if round % LIFE == 0 {
                self.restart(0);
            }
            self.pass(0, &[], true).await;
            if self.unfinished().is_empty() && self.statements().await.faults().is_empty() {
                if week_is_over {
                    return true;
                }
                // The last week is to be reported as well.
                self.nature.be(Weather::Pass(WEEK)).await;
                self.nature.be(Weather::Mine(FINAL_DEPTH + 2)).await;
                self.restart(0);
                week_is_over = true;
                continue;
            }
            // What is refused is given up when all that was signed for it has expired; so is what may have been lost.
            if self.is_refused() || self.waits_for_what_was_lost() {
                self.nature.be(Weather::Pass(100 * 3600)).await;
            }
            self.nature.be(Weather::Mine(4)).await;
        }
        false
    }

    async fn statements(&self) -> Statements {
        Statements::read(&self.nature, self.lane_id(), &self.shown).await
    }

    fn lane_id(&self) -> LaneId {
        let actor = self.actors.iter().flatten().next().unwrap();
        actor.replica.lane.chain().config().lane_id()
    }

    async fn standing(&self, act: &Act) -> String {
        let log: Vec<_> = self
            .api
            .batches()
            .into_iter()
            .map(|batch| {
                let status = batch.status.unwrap_or_default();
                (batch.spec.sequence, status.state, status.attempts.len())
            })
            .collect();
        format!(
            "{act:?}: the chain is at {}, the log {log:?}",
            self.nature.end(&[]).await.seq
        )
    }

    fn is_refused(&self) -> bool {
        self.api.batches().into_iter().any(|batch| {
            batch.status.and_then(|status| status.blocked) == Some(BlockedReason::EncodingRefused)
        })
    }

    /// Whether everything is over but slices that are open.
    fn waits_for_what_was_lost(&self) -> bool {
        !self.open.is_empty() && self.unfinished().len() == self.open.len()
    }

    fn states(&self) -> BTreeMap<u64, (RecordState, Option<SkipReason>)> {
        self.api
            .records()
            .into_iter()
            .filter_map(|record| {
                let status = record.status?;
                let settlement = status.settlement?;
                Some((
                    status.sealed?.job_no?,
                    (settlement.state, settlement.skipped),
                ))
            })
            .collect()
    }

    /// What is not where it must end up.
    fn unfinished(&self) -> Vec<String> {
        let records = self.states();
        let mut open: Vec<String> = self
            .sealed
            .iter()
            .filter_map(|(number, kind)| {
                let expected = match kind {
                    Kind::Sound | Kind::Poor | Kind::Rewarded | Kind::CoolingProvider => {
                        (RecordState::Final, None)
                    }
                    Kind::UnknownProvider => {
                        (RecordState::Skipped, Some(SkipReason::UnknownProvider))
                    }
                    Kind::UnknownPayer => (RecordState::Skipped, Some(SkipReason::UnknownPayer)),
                    Kind::TooLarge | Kind::BrokenReceipt | Kind::Unreadable => {
                        (RecordState::NeedsDecision, None)
                    }
                };
                let found = records.get(number);
                (found != Some(&expected))
                    .then(|| format!("record {number} ({kind:?}) is {found:?}, not {expected:?}"))
            })
            .collect();
        open.extend(self.open.iter().map(|(number, kind)| {
            let hold = self.hold(0, *number, *kind);
            format!("the slice of record {number} ({kind:?}) is open: {hold:?}")
        }));
        for batch in self.api.batches() {
            let status = batch.status.unwrap_or_default();
            let over = matches!(
                status.state,
                Some(BatchState::Final | BatchState::Superseded)
            );
            if !over {
                open.push(format!(
                    "batch {} is {:?}, blocked by {:?}, with {} attempts",
                    batch.spec.sequence,
                    status.state,
                    status.blocked,
                    status.attempts.len()
                ));
            }
        }
        open
    }

    async fn verdict(&mut self, over: bool) -> Verdict {
        self.note_what_was_reached();
        let mut verdict = Verdict {
            reached: std::mem::take(&mut self.reached),
            ..Verdict::default()
        };
        let statements = self.statements().await;
        if !over {
            verdict.stuck = self.unfinished();
            verdict.stuck.extend(statements.faults());
        }
        verdict.duplicates.extend(statements.repeated());
        if statements.reports() > 0 {
            verdict.reached.insert("week reported");
        }
        if statements.inventories() > 0 {
            verdict.reached.insert("inventory stated");
        }
        let all = self.sealed.iter();
        let all: Vec<u64> = all
            .flat_map(|(number, kind)| numbers(*number, *kind))
            .collect();
        let after = self.nature.end(&all).await;
        let states = self.states();
        let mut due: BTreeMap<u32, u64> = BTreeMap::new();
        for (number, kind) in &self.sealed {
            let owed = match kind {
                Kind::Sound | Kind::Poor => Some((PROVIDER, SECOND)),
                Kind::Rewarded => Some((PROVIDER, SECOND + EMISSION)),
                Kind::CoolingProvider => Some((COOLING_PROVIDER, SECOND)),
                _ => None,
            };
            let paid = numbers(*number, *kind).all(|number| after.paid.contains(&number));
            let said = states.get(number).map(|(state, _)| *state);
            if let Some((provider, amount)) = owed {
                *due.entry(provider).or_default() += amount;
                if !paid && over {
                    verdict
                        .losses
                        .push(format!("record {number} ({kind:?}) is not paid"));
                }
            } else if paid {
                verdict
                    .duplicates
                    .push(format!("record {number} ({kind:?}) is paid"));
            }
            if said == Some(RecordState::Final) && !paid {
                verdict.losses.push(format!(
                    "record {number} is said to be paid for good, and is not"
                ));
            }
        }
        for (provider, credit) in &after.credits {
            let due = due.get(provider).copied().unwrap_or(0);
            if *credit > due {
                verdict
                    .duplicates
                    .push(format!("provider {provider} has {credit}, due is {due}"));
            } else if *credit < due && over {
                verdict
                    .losses
                    .push(format!("provider {provider} has {credit}, due is {due}"));
            }
        }
        if after.sent_twice > 0 {
            let times = after.sent_twice;
            verdict
                .duplicates
                .push(format!("numbers were sent twice, {times} times"));
        }
        let batches = self.api.batches();
        let in_force = batches.iter().filter(|batch| {
            let state = batch.status.as_ref().and_then(|status| status.state);
            state != Some(BatchState::Superseded)
        });
        let newest = in_force.max_by_key(|batch| batch.spec.sequence);
        let logged = newest.map_or((0, B256::ZERO.to_string()), |batch| {
            (batch.spec.sequence, batch.spec.chain_hash.clone())
        });
        if over && logged != (after.seq, after.chain_hash.to_string()) {
            verdict.losses.push(format!(
                "the log ends with {logged:?}, the chain with {:?}",
                (after.seq, after.chain_hash)
            ));
        }
        verdict.end = End {
            chain: after,
            records: states
                .into_iter()
                .map(|(number, (state, _))| (number, state))
                .collect(),
        };
        verdict
    }
}

async fn one_pass(replica: &mut Replica, looks: bool, tells: bool) {
    if looks {
        // The next look repeats what fails.
        if let Err(error) = replica.follower.look(Timestamp::now).await {
            tracing::info!(error = causes(&error), "the chain was not followed");
        }
    }
    replica.settler.records_announced(1);
    if tells {
        replica.settler.one_pass().await;
    } else {
        replica.settler.look_around().await;
    }
}

/// Plays a script to its end on the model, then waits in fair weather until everything is final.
pub async fn play(script: &[Act]) -> Verdict {
    Box::pin(Stage::on_model().play_to_the_end(script)).await
}

/// The same on anvil.
pub async fn play_on_anvil(script: &[Act]) -> Verdict {
    Box::pin(Stage::on_anvil().await.play_to_the_end(script)).await
}
