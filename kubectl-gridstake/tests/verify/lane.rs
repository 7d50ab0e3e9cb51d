//! A lane with two batches of two slices each, without evidence.

use alloy::primitives::{Address, B256};
use gridstake_ledger::{
    archive::{ArchivedBatch, ArchivedEntry, Background, BatchHead, Content, Use},
    batch::{self, Entry},
    merkle,
    statement::{self, EarningsReport, Statement},
};

pub const SETTLEMENT: Address = Address::repeat_byte(0x51);
pub const VAULT: Address = Address::repeat_byte(0x52);
pub const LANE: u32 = 7;
pub const CHAIN: u64 = 31337;

#[derive(Clone)]
pub struct Lane {
    pub batches: Vec<ArchivedBatch>,
    /// When each was settled, in Unix seconds.
    pub times: [u64; 2],
    pub head_sequence: u64,
    /// The time of the newest block.
    pub now: u64,
    /// What the contract says that batch 2 stated, if it says something else than its payload.
    pub said_otherwise: Option<Vec<Statement>>,
}

impl Lane {
    pub fn of_two() -> Self {
        Self::stating(&[])
    }

    /// Batch 2 states these.
    pub fn stating(statements: &[Statement]) -> Self {
        let first = archived(1, B256::ZERO, 256, &[]);
        let second = archived(2, first.head.chain_hash(), 258, statements);
        Self {
            batches: vec![first, second],
            // 2026-11-23 and 2026-11-30, each at noon.
            times: [1_795_435_200, 1_796_040_000],
            head_sequence: 2,
            now: 1_796_040_600,
            said_otherwise: None,
        }
    }
}

/// What provider 1 got in the week of batch 1, in which a slash of the lane's took 0.5 tokens.
pub fn report() -> EarningsReport {
    EarningsReport {
        chainId: CHAIN,
        settlement: SETTLEMENT,
        lane: LANE,
        provider: 1,
        week: 202_648,
        firstBatch: 1,
        lastBatch: 1,
        jobs: 2,
        gpuMillis: 2000,
        paid: 2_000_000,
        emissions: 0,
        slashed: SLASHED,
    }
}

/// Beside a report, an inventory.
pub fn statements(report: &EarningsReport) -> [Statement; 2] {
    [
        statement::inventory("n1", 1, vec![]),
        statement::earnings(report),
    ]
}

/// Nano-tokens.
pub const SLASHED: u128 = 500_000_000;

fn archived(sequence: u64, previous: B256, first: u64, statements: &[Statement]) -> ArchivedBatch {
    let entries: Vec<ArchivedEntry> = (first..first + 2).map(entry).collect();
    let leaves: Vec<B256> = entries.iter().map(|entry| entry.leaf).collect();
    let plain: Vec<Entry> = entries.iter().map(|entry| entry.entry).collect();
    ArchivedBatch {
        head: BatchHead {
            chain_id: CHAIN,
            contract: SETTLEMENT,
            lane: LANE,
            sequence,
            previous,
            usage_root: merkle::usage_root(&leaves, B256::ZERO),
            data: batch::encode(&plain, statements).unwrap(),
            decision_head: B256::ZERO,
        },
        certificates: vec![],
        entries,
    }
}

fn entry(job_no: u64) -> ArchivedEntry {
    let used = Use {
        record: format!("job-{job_no}-1-0-0"),
        pod_uid: String::new(),
        node: "n1".to_owned(),
        start_ms: 0,
        end_ms: 1000,
        gpu_millis: 1000,
        cause: "MemberEnded".to_owned(),
        verdict: String::new(),
        evidence_head: B256::ZERO,
        evidence: None,
        background: Background {
            gpus: 1,
            ..Background::default()
        },
    };
    let mut entry = ArchivedEntry {
        entry: Entry {
            job_no,
            payer: 1,
            provider: 1,
            // 0.001 token a GPU-second.
            price: 1_000_000_000_000,
            units: 1000,
        },
        leaf: B256::ZERO,
        content: Content::Use(Box::new(used)),
    };
    entry.leaf = entry.computed_leaf(LANE);
    entry
}
