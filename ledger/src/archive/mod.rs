//! The archive: one file for each final batch, with everything that an auditor needs beside the chain.
//!
//! A file is lines of JSON in UTF-8, each ended by one line feed: a head, the certificates of agents' keys, and one line
//! for each entry of the batch in ascending job numbers. It is canonical: fields stand in the order of [`encode`], there
//! is no white space between tokens, numbers are decimal without leading zeros, bytes are `0x` and lower-case digits,
//! strings escape only `"`, `\` and what is below U+0020 (as `\u00xx`), and what is absent is left out. So there is one
//! way to write a batch down, and its address is keccak256 of these bytes.
//!
//! Each line ends with `"check"`, keccak256 of the line before it. It proves nothing, as whoever changes a line can
//! change it too; it tells accidents apart, down to the line. What proves is the chain: see [`crate::verify`].
//!
//! ```text
//! objects/<first two digits of the address>/<address>                     the file
//! lanes/<chain id>-<contract>-<lane>/batches/<sequence in 20 digits>      its address and a line feed
//! ```
//!
//! The second is an index. It can be made again from the heads of all files, and nobody needs to trust it.

pub mod decisions;
mod decode;
mod encode;
mod proven;
mod signed;
pub mod uptime;

use alloy_primitives::{Address, B256, Signature, keccak256};

pub use decode::{Check, EntryPlace, Head, Malformed, Place, Reader, UsePlace, lines};
pub use encode::{encode, entry_prefix, head_prefix};
pub use proven::proven;
pub use signed::certificate_statement;

use crate::{
    batch::Entry,
    checkpoint::{Counters, Device, Signed},
    receipt::{Receipt, RecordContent},
};

/// What the first line of a file begins with.
pub const FORMAT: &str = "gridstake-batch";
/// The version of the format.
pub const VERSION: u64 = 1;

/// A final batch as it is archived.
#[derive(Clone, Debug, PartialEq)]
pub struct ArchivedBatch {
    /// Where it stands and what was settled.
    pub head: BatchHead,
    /// The certificates of the agents' keys, as far as they were there when the batch was archived; ordered by provider,
    /// node and key.
    pub certificates: Vec<Certificate>,
    /// What is paid, in ascending job numbers.
    pub entries: Vec<ArchivedEntry>,
}

/// A batch's place on its lane, and its payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchHead {
    /// The chain's id (EIP-155).
    pub chain_id: u64,
    /// The contract `Settlement`.
    pub contract: Address,
    /// The lane.
    pub lane: u32,
    /// The batch's number on it.
    pub sequence: u64,
    /// The lane's chain hash before it.
    pub previous: B256,
    /// The Merkle root over the leaves of its entries and the head of the decision log.
    pub usage_root: B256,
    /// The payload of `settle`.
    pub data: Vec<u8>,
    /// The head of the decision log.
    pub decision_head: B256,
}

impl BatchHead {
    /// The lane's chain hash after the batch.
    #[must_use]
    pub fn chain_hash(&self) -> B256 {
        crate::batch::chain_hash(
            self.previous,
            self.lane,
            self.sequence,
            self.usage_root,
            crate::batch::data_hash(&self.data),
        )
    }
}

/// A provider's word for the key of a node's agent.
#[derive(Clone, Debug, PartialEq)]
pub struct Certificate {
    /// The provider's account number.
    pub provider: u32,
    /// The node.
    pub node: String,
    /// The agent's key.
    pub key: Address,
    /// The provider's session epoch on the chain for which it was given.
    pub epoch: u64,
    /// When it ends, in Unix seconds.
    pub not_after: u64,
    /// The vault for which it was signed.
    pub vault: Address,
    /// The signature of the provider's operator.
    pub signature: Signature,
}

/// What one job number is paid, and what for.
#[derive(Clone, Debug, PartialEq)]
pub struct ArchivedEntry {
    /// What the contract read.
    pub entry: Entry,
    /// Its leaf under the usage root.
    pub leaf: B256,
    /// What the leaf rests on.
    pub content: Content,
}

impl ArchivedEntry {
    /// The leaf that follows from entry and content.
    #[must_use]
    pub fn computed_leaf(&self, lane: u32) -> B256 {
        Receipt {
            lane,
            job_no: self.entry.job_no,
            payer: self.entry.payer,
            provider: self.entry.provider,
            units: self.entry.units,
            price: self.entry.price,
            record_hash: match &self.content {
                Content::Use(used) => used.content().hash(),
                Content::Emission { usage_leaf } => *usage_leaf,
            },
        }
        .leaf()
    }
}

/// What an entry is paid for.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// A slice of a lease.
    Use(Box<Use>),
    /// What the reward account pays on top for a slice.
    Emission {
        /// The leaf of the slice's own entry.
        usage_leaf: B256,
    },
}

/// A sealed slice. The leaf commits to everything before `evidence`.
#[derive(Clone, Debug, PartialEq)]
pub struct Use {
    /// The UsageRecord's name.
    pub record: String,
    /// The pod's uid; empty if there never was one.
    pub pod_uid: String,
    /// The node.
    pub node: String,
    /// Begin of what is billed, in Unix milliseconds.
    pub start_ms: u64,
    /// End of what is billed, in Unix milliseconds.
    pub end_ms: u64,
    /// What is billed, in GPU-milliseconds.
    pub gpu_millis: u64,
    /// Why the slice ended.
    pub cause: String,
    /// At whose door the end is laid; empty if at nobody's.
    pub verdict: String,
    /// The head of the evidence on which the bill rests; zero if there is none.
    pub evidence_head: B256,
    /// What the node's agent stated.
    pub evidence: Option<Evidence>,
    /// What else is known of it.
    pub background: Background,
}

impl Use {
    /// What the leaf commits to.
    #[must_use]
    pub fn content(&self) -> RecordContent<'_> {
        RecordContent {
            record: &self.record,
            pod_uid: &self.pod_uid,
            node: &self.node,
            start_ms: self.start_ms,
            end_ms: self.end_ms,
            gpu_millis: self.gpu_millis,
            cause: &self.cause,
            verdict: &self.verdict,
            evidence_head: self.evidence_head,
        }
    }
}

/// What an agent stated about a slice. Its key has signed the devices and the checkpoints, and nothing else of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Evidence {
    /// The pod that was seen.
    pub pod_uid: String,
    /// The agent's key.
    pub key: Address,
    /// The devices that the kubelet gave to the pod.
    pub devices: Vec<DeviceUse>,
    /// The statements, oldest first.
    pub checkpoints: Vec<Signed>,
    /// When the container's first process started, in Unix milliseconds.
    pub started_ms: Option<u64>,
    /// When its last process exited, in Unix milliseconds.
    pub ended_ms: Option<u64>,
    /// Spans without evidence.
    pub gaps: Vec<Gap>,
    /// The most processes of others that were seen on the devices at one time.
    pub foreign_processes: Option<u32>,
}

/// A device, and what was measured on it since the slice began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceUse {
    /// The device.
    pub device: Device,
    /// What was measured.
    pub counters: Counters,
}

/// A span without evidence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Begin, in Unix milliseconds.
    pub from_ms: u64,
    /// End, in Unix milliseconds.
    pub to_ms: u64,
    /// Why.
    pub reason: String,
    /// Whether the same process was there before and after it.
    pub bridged: bool,
}

/// What nothing on the chain commits to, and no agent has signed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Background {
    /// The namespace of the job.
    pub namespace: String,
    /// The job.
    pub job: String,
    /// The member's pod.
    pub pod: String,
    /// How many GPUs, or shares of GPUs, it was given.
    pub gpus: u32,
    /// Energy in millijoules.
    pub energy_millijoules: Option<u64>,
    /// What weighed the slice in emissions.
    pub factors: Option<Factors>,
}

/// What weighs a slice in emissions, in thousandths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Factors {
    /// Performance.
    pub performance_permille: u32,
    /// Stability.
    pub stability_permille: u32,
    /// The version of the reference table.
    pub reference: String,
}

/// The address of a file: keccak256 of its bytes.
#[must_use]
pub fn address(file: &[u8]) -> B256 {
    keccak256(file)
}

/// Where the file with this address lies.
#[must_use]
pub fn object_path(address: B256) -> String {
    let digits = alloy_primitives::hex::encode(address);
    format!("objects/{}/{digits}", digits.get(..2).unwrap_or_default())
}

/// The folder of a lane's index.
#[must_use]
pub fn lane_folder(chain_id: u64, contract: Address, lane: u32) -> String {
    format!("{}/batches", lane_root(chain_id, contract, lane))
}

fn lane_root(chain_id: u64, contract: Address, lane: u32) -> String {
    let contract = alloy_primitives::hex::encode_prefixed(contract);
    format!("lanes/{chain_id}-{contract}-{lane}")
}

/// Where the index names the address of a batch's file.
#[must_use]
pub fn index_path(chain_id: u64, contract: Address, lane: u32, sequence: u64) -> String {
    format!("{}/{sequence:020}", lane_folder(chain_id, contract, lane))
}

/// What the index says about a file.
#[must_use]
pub fn index_entry(address: B256) -> String {
    format!("{}\n", alloy_primitives::hex::encode_prefixed(address))
}

/// Reads what the index says; `None` if it is no address.
#[must_use]
pub fn read_index_entry(bytes: &[u8]) -> Option<B256> {
    let text = std::str::from_utf8(bytes).ok()?;
    let address: B256 = text.strip_suffix('\n')?.parse().ok()?;
    // One spelling, as with everything here.
    (index_entry(address).as_bytes() == bytes).then_some(address)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;

#[cfg(test)]
pub(crate) mod examples;
