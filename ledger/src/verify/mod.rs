//! Archive against chain: whether a lane was paid as its files say, and if not, which byte is the first that is wrong.
//!
//! | module | what |
//! |---|---|
//! | [`chain`] | what the chain says, and whether it agrees with itself |
//! | [`file`](mod@file) | one batch's file against the chain |
//! | [`evidence`] | agents' statements: hashes, signatures, and whether they carry the bill |
//! | [`lane`] | what only shows over many batches |
//! | [`earnings`] | a week's reports of earnings, made again from the chain's batches |
//! | [`uptime`] | the log of uptime against what was stated about it |
//! | [`all`] | many files on all cores |
//!
//! What proves a file right is the chain alone: the chain hash commits to the payload and to the root over all leaves; a
//! leaf to what was sealed; what was sealed to the head of the agent's statements. The rest of a file is covered by its
//! address, so that it cannot change by accident, and by nothing else.

pub mod all;
pub mod chain;
pub mod earnings;
pub mod evidence;
pub mod file;
pub mod lane;
pub mod uptime;

use crate::{archive::Place, checkpoint};

/// The first thing that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}, {}: {fault}; found {found}, expected {expected}", bytes(at))]
pub struct Finding {
    /// The file, or the event, by name.
    pub file: String,
    /// The smallest span of bytes that is provably wrong. Where the right bytes are known, it begins with the first that
    /// differs.
    pub at: Place,
    /// What is wrong.
    pub fault: Fault,
    /// What stands there.
    pub found: String,
    /// What should.
    pub expected: String,
}

/// The words for a place, its bytes counted from 0.
fn bytes(at: &Place) -> String {
    match at.len() {
        0 | 1 => format!("byte {}", at.start),
        _ => format!("bytes {} to {}", at.start, at.end - 1),
    }
}

/// What can be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The index names no address, or an object that is not there.
    #[error("the index leads to no file")]
    Index,
    /// The bytes are no archived batch.
    #[error("this is not how an archived batch is written")]
    Form,
    /// A line is missing, or one too many.
    #[error("the lines are not as many as the batch has")]
    Lines,
    /// The head is not that of the batch on chain.
    #[error("this is not what was settled")]
    Head,
    /// An entry is not the one in the payload.
    #[error("this is not the entry that was settled")]
    Entry,
    /// What was sealed does not hash to the leaf that was settled.
    #[error("what was sealed is not what the settled leaf commits to")]
    Content,
    /// The leaf is not the one that was settled.
    #[error("the leaf is not the one that was settled")]
    Leaf,
    /// The leaves do not make up the root that was settled.
    #[error("leaves and decision head do not make up the usage root that was settled")]
    UsageRoot,
    /// The line is not what it was when it was written.
    #[error("the line was changed after it was written")]
    Check,
    /// Every line is sound, and the file is another than the one that was asked for.
    #[error("the file's hash is not its address")]
    Address,
    /// Lines of certificates are out of order.
    #[error("certificates must come in the order of provider, node and key, each once")]
    Order,
    /// A certificate's signature names nobody.
    #[error("the certificate's signature is none")]
    Certificate,
    /// The statements on which the bill rests are not whole.
    #[error("the evidence does not hold: {0}")]
    Evidence(checkpoint::Fault),
    /// The statements are about another pod.
    #[error("the evidence is about another pod than the one that is billed")]
    Pod,
    /// The span ends before it begins.
    #[error("the billed span ends before it begins")]
    Span,
    /// More is billed than the devices were held.
    #[error("more is billed than the span and its devices give")]
    Billed,
    /// What is billed is not what is paid.
    #[error("what was sealed is not what is paid")]
    Units,
    /// The contract paid another amount than follows from the payload.
    #[error("the contract's event does not say what follows from the payload")]
    Amount,
    /// The contract stated something else than the payload.
    #[error("the contract's events do not state what the payload states")]
    Stated,
    /// A report of a week's earnings is not what the week's batches come to.
    #[error("the report is not what the week's batches come to")]
    Earnings,
    /// A job number was paid by two batches.
    #[error("the number was paid by an earlier batch")]
    PaidTwice,
    /// Two slices of a lease overlap, or one is missing its begin.
    #[error("the slice does not begin where the one before it ended")]
    Slices,
    /// The log of uptime is not what was stated about it, or not whole.
    #[error("the log of uptime does not hold")]
    Uptime,
    /// A physical GPU is billed more than once for the same time.
    #[error("a physical GPU is billed more than one second a second")]
    Overbooked,
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
