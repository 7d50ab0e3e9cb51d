//! The state machine against a chain in memory: blocks are mined and reorganised away, transactions are lost, strangers
//! take nonces, replicas die between any two writes, and two of them lead at once. Whatever happens, every record is paid
//! exactly once, and the log ends up final.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use alloy::primitives::{Address, B256};
use gridstake_crds::settlement_batch::BatchState;
use gridstake_ledger::batch::{self, Entry};
use proptest::prelude::*;

use super::{
    build_batch::{self, Candidate, Place},
    decide::{self, ChainFacts, Logged},
    send::{self, SendFacts, Step, Stored},
};
use crate::chain::config::FeeConfig;

/// A block is final when so many are on top of it; reorganisations are shallower.
const FINAL_DEPTH: usize = 4;
const UNITS: u64 = 1000;

/// What the chain holds after a block.
#[derive(Clone, Debug, Default)]
struct Block {
    seq: u64,
    chain_hash: B256,
    nonce: u64,
    paid: BTreeSet<u64>,
    credited: u64,
    /// The batch that this block settled.
    settled: Option<u64>,
}

/// A transaction that settles a batch.
#[derive(Clone, Debug)]
struct Transaction {
    seq: u64,
    previous: B256,
    chain_hash: B256,
    entries: Vec<Entry>,
}

#[derive(Clone, Debug)]
struct Chain {
    blocks: Vec<Block>,
    pool: BTreeMap<u64, Option<Transaction>>,
}

impl Chain {
    fn head(&self) -> &Block {
        self.blocks.last().unwrap()
    }

    /// Mines what the pool has for the next nonces.
    fn mine(&mut self) {
        let mut block = Block {
            settled: None,
            ..self.head().clone()
        };
        while let Some(transaction) = self.pool.remove(&block.nonce) {
            block.nonce += 1;
            // A stranger's, or a batch that is not the next one: it reverts.
            let Some(settle) = transaction.filter(|settle| {
                settle.seq == block.seq + 1 && settle.previous == block.chain_hash
            }) else {
                continue;
            };
            block.seq = settle.seq;
            block.chain_hash = settle.chain_hash;
            block.settled = Some(settle.seq);
            for entry in settle.entries {
                assert!(
                    block.paid.insert(entry.job_no),
                    "{} is in two batches",
                    entry.job_no
                );
                block.credited += entry.units;
            }
            break;
        }
        self.blocks.push(block);
    }

    fn finalized(&self) -> usize {
        self.blocks.len().saturating_sub(1 + FINAL_DEPTH)
    }

    fn reorganise(&mut self, depth: usize) {
        let keep = (self.blocks.len() - depth.min(self.blocks.len() - 1)).max(self.finalized() + 1);
        let gone = self.blocks.split_off(keep);
        // The new branch is as long, and empty.
        for _ in gone {
            let head = Block {
                settled: None,
                ..self.head().clone()
            };
            self.blocks.push(head);
        }
    }

    fn facts(&self) -> ChainFacts {
        let head = self.head();
        ChainFacts {
            seq: head.seq,
            chain_hash: head.chain_hash,
            safe: self.finalized() as u64,
            finalized: self.finalized() as u64,
            included: (0..)
                .zip(&self.blocks)
                .filter_map(|(height, block)| Some((block.settled?, height)))
                .collect(),
        }
    }
}

/// A batch of the log, with what compare-and-swap needs.
#[derive(Clone, Debug)]
struct LogEntry {
    logged: Logged,
    entries: Vec<Entry>,
    stored: Vec<Stored>,
    version: u64,
}

impl LogEntry {
    fn transaction(&self) -> Transaction {
        Transaction {
            seq: self.logged.sequence,
            previous: self.logged.previous,
            chain_hash: self.logged.chain_hash,
            entries: self.entries.clone(),
        }
    }
}

/// What the API server holds.
#[derive(Clone, Debug, Default)]
struct Store {
    log: BTreeMap<u64, LogEntry>,
    sealed: BTreeSet<u64>,
    finished: BTreeSet<u64>,
}

impl Store {
    /// Writes if nobody else has since the entry was read.
    fn write(&mut self, read: &LogEntry, change: impl FnOnce(&mut LogEntry)) -> Option<LogEntry> {
        let entry = self.log.get_mut(&read.logged.sequence)?;
        (entry.version == read.version).then(|| {
            change(entry);
            entry.version += 1;
            entry.clone()
        })
    }
}

/// Between which writes a replica dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Dies {
    BeforeAnything,
    AfterStates,
    AfterSigning,
    AfterStoring,
    AfterSending,
    Never,
}

#[derive(Clone, Debug)]
enum Op {
    Seal(u8),
    Mine,
    Reorganise(usize),
    Drop,
    Stranger,
    /// A pass of a replica that goes by what it sees now.
    Pass(Dies),
    /// A second leader remembers what it sees, and acts on it later.
    Look,
    ActOnOldLook,
}

#[derive(Clone, Debug)]
struct World {
    chain: Chain,
    store: Store,
    next_number: u64,
    look: Option<Chain>,
}

impl World {
    fn new() -> Self {
        Self {
            chain: Chain {
                blocks: vec![Block::default()],
                pool: BTreeMap::new(),
            },
            store: Store::default(),
            next_number: 256,
            look: None,
        }
    }

    fn apply(&mut self, op: &Op) {
        match op {
            Op::Seal(count) => {
                for _ in 0..*count {
                    self.store.sealed.insert(self.next_number);
                    self.next_number += 1;
                }
            }
            Op::Mine => self.chain.mine(),
            Op::Reorganise(depth) => self.chain.reorganise(*depth),
            Op::Drop => self.chain.pool.clear(),
            Op::Stranger => {
                let nonce = self.chain.head().nonce;
                self.chain.pool.insert(nonce, None);
            }
            Op::Pass(dies) => {
                let (chain, store) = (self.chain.clone(), self.store.clone());
                self.pass(&chain, &store, *dies);
            }
            Op::Look => self.look = Some(self.chain.clone()),
            Op::ActOnOldLook => {
                if let Some(chain) = self.look.take() {
                    // The API server answers a list as of now; what the replica knows of the chain is old.
                    let store = self.store.clone();
                    self.pass(&chain, &store, Dies::Never);
                }
            }
        }
    }

    /// One pass of a replica that sees `chain` and has read `store`.
    fn pass(&mut self, chain: &Chain, store: &Store, dies: Dies) {
        if dies == Dies::BeforeAnything {
            return;
        }
        let logged: Vec<Logged> = store
            .log
            .values()
            .map(|entry| entry.logged.clone())
            .collect();
        let plan = match decide::plan(&logged, &chain.facts()) {
            Ok(plan) => plan,
            // An old view of the chain may contradict the log; the next look will not.
            Err(halt) => {
                assert!(chain.blocks.len() < self.chain.blocks.len(), "{halt}");
                return;
            }
        };
        for entry in store.log.values() {
            let Some(state) = plan.states.get(&entry.logged.sequence) else {
                continue;
            };
            if *state == BatchState::Final {
                let numbers = entry.entries.iter().map(|entry| entry.job_no);
                self.store.finished.extend(numbers);
            }
            if entry.logged.state != Some(*state) {
                self.store
                    .write(entry, |entry| entry.logged.state = Some(*state));
            }
        }
        if dies == Dies::AfterStates {
            return;
        }
        if let Some(sequence) = plan.pursue {
            let entry = self.store.log.get(&sequence).cloned();
            if let Some(entry) = entry {
                self.pursue(chain, entry, dies);
            }
        }
        if dies <= Dies::AfterSending {
            return;
        }
        if let Some(sequence) = plan.build {
            self.build(chain, store, sequence);
        }
    }

    fn pursue(&mut self, chain: &Chain, mut entry: LogEntry, dies: Dies) {
        let now = chain.blocks.len() as u64 * 12;
        let hour = Duration::from_hours(1);
        if let Some(until) = decide::authorize(&entry.logged.authorizations, now, hour) {
            match self
                .store
                .write(&entry, |entry| entry.logged.authorizations.push(until))
            {
                Some(written) => entry = written,
                None => return,
            }
        }
        if dies == Dies::AfterSigning {
            return;
        }
        let facts = SendFacts {
            stored: entry.stored.clone(),
            free_nonce: chain.head().nonce,
            now,
            valid_until: entry.logged.authorizations.iter().max().copied(),
            gas: 100_000,
            ran_out_at: 0,
            base_fee: 10,
            tip: 1,
            balance: u128::MAX,
        };
        let nonce = match send::next(&facts, &FeeConfig::default()) {
            Step::Wait(_) => return,
            Step::Broadcast { index, .. } => entry.stored[index].terms.nonce,
            Step::Sign(terms) => {
                let stored = Stored {
                    terms,
                    valid_until: facts.valid_until,
                    waited: 0,
                    underpriced: false,
                };
                let written = self.store.write(&entry, |entry| {
                    entry.stored.push(stored);
                    entry.logged.attempts += 1;
                });
                if written.is_none() || dies == Dies::AfterStoring {
                    return;
                }
                terms.nonce
            }
        };
        // A pool keeps what it has; a nonce that is used is refused.
        if nonce >= self.chain.head().nonce {
            let transaction = entry.transaction();
            self.chain.pool.entry(nonce).or_insert(Some(transaction));
        }
    }

    fn build(&mut self, chain: &Chain, store: &Store, sequence: u64) {
        let held: BTreeSet<u64> = store
            .log
            .values()
            .flat_map(|entry| entry.entries.iter().map(|entry| entry.job_no))
            .collect();
        let candidates: Vec<Candidate> = store
            .sealed
            .iter()
            .filter(|number| !held.contains(number) && !store.finished.contains(number))
            .map(|number| Candidate {
                entry: Entry {
                    job_no: *number,
                    payer: 1,
                    provider: 1,
                    price: 1_000_000_000,
                    units: UNITS,
                },
                leaf: B256::from(alloy::primitives::U256::from(*number)),
            })
            .collect();
        let chosen = build_batch::select(candidates).chosen;
        // The name is the lock on the number.
        if chosen.is_empty() || self.store.log.contains_key(&sequence) {
            return;
        }
        let place = Place {
            chain: "model".to_owned(),
            chain_id: 1,
            contract: Address::ZERO,
            lane: 7,
            sequence,
            previous: chain.head().chain_hash,
            decision_head: B256::ZERO,
        };
        let spec = build_batch::build(&place, &chosen).unwrap();
        let entry = LogEntry {
            logged: Logged {
                sequence,
                previous: place.previous,
                chain_hash: spec.chain_hash.parse().unwrap(),
                state: None,
                authorizations: vec![],
                attempts: 0,
                found_at: None,
            },
            entries: batch::decode(&spec.data.0).unwrap().entries,
            stored: vec![],
            version: 0,
        };
        self.store.log.insert(sequence, entry);
    }

    /// Fair weather until nothing is left to do.
    fn settle_down(&mut self) {
        for _ in 0..400 {
            self.apply(&Op::Pass(Dies::Never));
            self.apply(&Op::Mine);
            let done = self.store.finished == self.store.sealed
                && self
                    .store
                    .log
                    .values()
                    .all(|entry| entry.logged.state == Some(BatchState::Final));
            if done {
                return;
            }
        }
        panic!("never final: {self:#?}");
    }
}

fn op() -> impl Strategy<Value = Op> {
    let dies = prop_oneof![
        Just(Dies::BeforeAnything),
        Just(Dies::AfterStates),
        Just(Dies::AfterSigning),
        Just(Dies::AfterStoring),
        Just(Dies::AfterSending),
        Just(Dies::Never),
    ];
    prop_oneof![
        2 => (1..4_u8).prop_map(Op::Seal),
        4 => Just(Op::Mine),
        1 => (1..FINAL_DEPTH).prop_map(Op::Reorganise),
        1 => Just(Op::Drop),
        1 => Just(Op::Stranger),
        6 => dies.prop_map(Op::Pass),
        1 => Just(Op::Look),
        1 => Just(Op::ActOnOldLook),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_every_record_is_paid_once(ops in prop::collection::vec(op(), 1..120)) {
        let mut world = World::new();
        for op in &ops {
            world.apply(op);
        }
        world.settle_down();
        let head = world.chain.head();
        prop_assert_eq!(&head.paid, &world.store.sealed);
        prop_assert_eq!(head.credited, world.store.sealed.len() as u64 * UNITS);
        let last = world.store.log.values().last().map(|entry| entry.logged.chain_hash);
        prop_assert_eq!(head.chain_hash, last.unwrap_or_default());
        prop_assert_eq!(head.seq, world.store.log.len() as u64);
    }
}
