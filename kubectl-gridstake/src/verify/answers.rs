//! What a chain says about a lane, as it is kept in a file.

use std::collections::{BTreeMap, BTreeSet};

use alloy::primitives::{Address, B256, Bytes, U256};
use gridstake_ledger::{
    batch, earnings::LaneId, statement::Statement, verify::chain::ChainBatch, week::Week,
};
use serde::{Deserialize, Serialize};

/// What the chain says about a lane, as of one block.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Answers {
    /// The chain's id.
    pub chain_id: u64,
    /// The contract `Settlement`.
    pub settlement: Address,
    /// The lane.
    pub lane: u32,
    /// The block up to which events were read.
    pub block: u64,
    /// The time of that block, in Unix seconds.
    pub time: u64,
    /// The lane's last batch in that block.
    pub head_sequence: u64,
    /// The lane's chain hash in that block.
    pub head_hash: B256,
    /// The batches that were settled, ascending.
    pub batches: Vec<SettledBatch>,
    /// Who was the operator of a provider at any time, by the vault's events; absent if no vault was named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operators: Option<BTreeMap<u32, BTreeSet<Address>>>,
    /// Slashes of the lane's proposal that were executed, by the events of the vault that Settlement names; absent if they
    /// were not read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slashes: Option<Vec<Slash>>,
}

/// A slash that was executed.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Slash {
    /// Its number in the vault.
    pub id: U256,
    /// Whose stake it took.
    pub provider: u32,
    /// What it took, in nano-tokens.
    pub taken: u128,
    /// The time of the block in which it was executed, in Unix seconds.
    pub timestamp: u64,
}

/// What a batch stated, by one event `Stated`.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Stated {
    /// What it is about.
    pub kind: u8,
    /// A number.
    pub number: u32,
    /// Whom it is about.
    pub subject: B256,
    /// The hash of what it says.
    pub content: B256,
}

impl From<Stated> for Statement {
    fn from(stated: Stated) -> Self {
        Self {
            kind: stated.kind,
            number: stated.number,
            subject: stated.subject,
            content: stated.content,
        }
    }
}

/// What the chain says about one batch.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SettledBatch {
    /// The batch's number.
    pub sequence: u64,
    /// Of the event: the lane's chain hash after it.
    pub chain_hash: B256,
    /// Of the event.
    pub usage_root: B256,
    /// Of the event.
    pub summary: U256,
    /// Of the event.
    pub amounts: Bytes,
    /// Of the events `JobsSkipped`: bits by words.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub left_out: BTreeMap<u32, U256>,
    /// Of the events `Stated`, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub statements: Vec<Stated>,
    /// The transaction.
    pub transaction: B256,
    /// The height of its block.
    pub block: u64,
    /// The time of its block, in Unix seconds.
    pub timestamp: u64,
    /// Of the transaction's input; absent until it is read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<Input>,
}

/// What a transaction's input says about a batch.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Input {
    /// The lane's chain hash before it.
    pub previous: B256,
    /// The payload.
    pub data: Bytes,
}

/// Why answers make no batch.
#[derive(Debug, thiserror::Error)]
pub enum AnswersError {
    /// The input was not read.
    #[error(
        "the chain's answers lack the input of transaction {transaction}, which settled batch {sequence}"
    )]
    NoInput {
        /// The batch.
        sequence: u64,
        /// The transaction.
        transaction: B256,
    },
    /// The event cannot be read.
    #[error("read the event BatchSettled of batch {sequence}")]
    Event {
        /// The batch.
        sequence: u64,
        /// Why.
        #[source]
        source: batch::DecodeError,
    },
}

impl Answers {
    /// The lane.
    pub const fn lane_id(&self) -> LaneId {
        LaneId {
            chain_id: self.chain_id,
            settlement: self.settlement,
            lane: self.lane,
        }
    }

    /// What slashes took in `week`, in nano-tokens by provider; `None` if they were not read.
    pub fn slashed(&self, week: Week) -> Option<BTreeMap<u32, u128>> {
        let mut taken: BTreeMap<u32, u128> = BTreeMap::new();
        let all = self.slashes.as_ref()?;
        for slash in all.iter().filter(|slash| week.holds(slash.timestamp)) {
            let sum = taken.entry(slash.provider).or_default();
            *sum = sum.saturating_add(slash.taken);
        }
        Some(taken)
    }

    /// What is verified against: the batches of these numbers.
    pub fn chain_batches(
        &self,
        sequences: &BTreeSet<u64>,
    ) -> Result<Vec<ChainBatch>, AnswersError> {
        self.batches
            .iter()
            .filter(|batch| sequences.contains(&batch.sequence))
            .map(|batch| self.chain_batch(batch))
            .collect()
    }

    fn chain_batch(&self, settled: &SettledBatch) -> Result<ChainBatch, AnswersError> {
        let sequence = settled.sequence;
        let input = settled.input.clone().ok_or(AnswersError::NoInput {
            sequence,
            transaction: settled.transaction,
        })?;
        Ok(ChainBatch {
            chain_id: self.chain_id,
            contract: self.settlement,
            lane: self.lane,
            sequence,
            previous: input.previous,
            usage_root: settled.usage_root,
            chain_hash: settled.chain_hash,
            data: input.data.to_vec(),
            outcome: batch::outcome(settled.summary, &settled.amounts)
                .map_err(|source| AnswersError::Event { sequence, source })?,
            left_out: settled.left_out.clone(),
            statements: settled
                .statements
                .iter()
                .map(|stated| Statement::from(*stated))
                .collect(),
            transaction: settled.transaction,
            block: settled.block,
            timestamp: settled.timestamp,
        })
    }
}
