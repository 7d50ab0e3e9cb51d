//! What the chain says about a lane's batches.

use std::collections::BTreeMap;

use alloy_primitives::{Address, B256, U256};

use super::{Fault, Finding};
use crate::{
    batch::{self, Batch, DecodeError, Outcome, STATEMENT, WORD_BITS},
    statement::Statement,
};

/// What the chain says about one batch: its transaction's input and the event `BatchSettled`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainBatch {
    /// The chain's id.
    pub chain_id: u64,
    /// The contract `Settlement`.
    pub contract: Address,
    /// The lane.
    pub lane: u32,
    /// The batch's number.
    pub sequence: u64,
    /// The lane's chain hash before it, by the transaction's input.
    pub previous: B256,
    /// The usage root, by the event.
    pub usage_root: B256,
    /// The lane's chain hash after it, by the event.
    pub chain_hash: B256,
    /// The payload, by the transaction's input.
    pub data: Vec<u8>,
    /// What the contract did, by the event.
    pub outcome: Outcome,
    /// The numbers that it left out because they were paid before: bits by words, by the events `JobsSkipped`.
    pub left_out: BTreeMap<u32, U256>,
    /// What it stated, by the events `Stated`, in their order.
    pub statements: Vec<Statement>,
    /// The transaction.
    pub transaction: B256,
    /// The height of its block.
    pub block: u64,
    /// The time of its block, in Unix seconds.
    pub timestamp: u64,
}

/// Why the chain's answers cannot be right: no lane can look like this. Ask another endpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Contradiction {
    /// Input and event of a transaction do not belong together.
    #[error(
        "the input of transaction {transaction} does not hash to what its event says about batch {sequence}"
    )]
    Input {
        /// The batch.
        sequence: u64,
        /// The transaction.
        transaction: B256,
    },
    /// The payload of a settled batch cannot be read.
    #[error("the payload of batch {sequence} in transaction {transaction} cannot be read")]
    Payload {
        /// The batch.
        sequence: u64,
        /// The transaction.
        transaction: B256,
        /// Why.
        #[source]
        source: DecodeError,
    },
    /// A batch is missing or there twice.
    #[error("the events go from batch {before} to batch {after}: one is missing, or there twice")]
    Gap {
        /// The batch before it.
        before: u64,
        /// The batch that was found.
        after: u64,
    },
    /// A batch does not follow from the one before it.
    #[error("batch {sequence} does not follow from the batch before it")]
    Link {
        /// The batch.
        sequence: u64,
    },
    /// The newest batch is not the lane's head.
    #[error(
        "the lane stands at batch {head}, and the events end at batch {last} or with another hash"
    )]
    Head {
        /// The head's number.
        head: u64,
        /// The last event's.
        last: u64,
    },
}

impl ChainBatch {
    /// Reads the payload, and checks that it is the one of the event.
    pub fn content(&self) -> Result<Batch, Contradiction> {
        let hash = batch::chain_hash(
            self.previous,
            self.lane,
            self.sequence,
            self.usage_root,
            batch::data_hash(&self.data),
        );
        if hash != self.chain_hash {
            return Err(Contradiction::Input {
                sequence: self.sequence,
                transaction: self.transaction,
            });
        }
        batch::decode(&self.data).map_err(|source| Contradiction::Payload {
            sequence: self.sequence,
            transaction: self.transaction,
            source,
        })
    }

    /// Whether the contract left a number out because it was paid before.
    #[must_use]
    pub fn was_paid_before(&self, job_no: u64) -> bool {
        let word = u32::try_from(job_no / WORD_BITS).unwrap_or(u32::MAX);
        let bit = usize::try_from(job_no % WORD_BITS).unwrap_or(0);
        self.left_out.get(&word).is_some_and(|bits| bits.bit(bit))
    }

    /// Checks that the events `Stated` say what the payload states. A finding's bytes are counted from the payload's first
    /// statement on.
    pub fn states(&self, content: &Batch) -> Result<(), Box<Finding>> {
        let (stated, due) = (&self.statements, &content.statements);
        let same = stated.iter().zip(due).take_while(|(a, b)| a == b).count();
        if same == stated.len() && same == due.len() {
            return Ok(());
        }
        let words = |one: Option<&Statement>| {
            one.map_or_else(|| "nothing".to_owned(), Statement::to_string)
        };
        Err(Box::new(Finding {
            file: format!(
                "events Stated of batch {} (transaction {})",
                self.sequence, self.transaction
            ),
            at: STATEMENT * same..STATEMENT * (same + 1),
            fault: Fault::Stated,
            found: words(stated.get(same)),
            expected: words(due.get(same)),
        }))
    }

    /// How the event is called in findings.
    #[must_use]
    pub fn event_name(&self) -> String {
        format!(
            "amounts of the event BatchSettled of batch {} (transaction {})",
            self.sequence, self.transaction
        )
    }
}

/// Checks that `batches`, which are neighbours in ascending order, follow from each other; that the first one begins the
/// lane if it is batch 1; and that the last one is `head` (number and chain hash), if that is given.
pub fn is_whole(batches: &[ChainBatch], head: Option<(u64, B256)>) -> Result<(), Contradiction> {
    let first = batches.first().filter(|first| first.sequence == 1);
    if first.is_some_and(|first| !first.previous.is_zero()) {
        return Err(Contradiction::Link { sequence: 1 });
    }
    for pair in batches.windows(2) {
        let [before, after] = pair else { continue };
        if after.sequence != before.sequence + 1 {
            return Err(Contradiction::Gap {
                before: before.sequence,
                after: after.sequence,
            });
        }
        if after.previous != before.chain_hash {
            return Err(Contradiction::Link {
                sequence: after.sequence,
            });
        }
    }
    let last = batches.last().map(|last| (last.sequence, last.chain_hash));
    match head {
        Some(head) if last.unwrap_or_default() != head => Err(Contradiction::Head {
            head: head.0,
            last: last.unwrap_or_default().0,
        }),
        _ => Ok(()),
    }
}
