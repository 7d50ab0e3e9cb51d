//! `SettlementBatch`: the write-ahead log of what is sent to a chain.

use k8s_openapi::{ByteString, apimachinery::pkg::apis::meta::v1::Condition};
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::{
    amount::TokenAmount,
    closed_enum,
    transaction::{Authorization, Inclusion, TransactionAttempt},
    usage_record::SkipReason,
};

/// The most bytes of `spec.data`.
pub const MAX_DATA_BYTES: usize = 16 * 1024;

/// What is to be settled. It never changes.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "gridstake.dev",
    version = "v1alpha1",
    kind = "SettlementBatch",
    plural = "settlementbatches",
    singular = "settlementbatch",
    shortname = "batch",
    category = "gridstake",
    status = "SettlementBatchStatus",
    derive = "PartialEq",
    doc = "The write-ahead log of what is sent to a chain: a batch of sealed usage records. It exists before anything is signed, and each transaction is stored in it before it is sent. It is named lane-<lane>-<sequence in 20 digits>, so that a sequence number can be used only once.",
    selectable = ".spec.chain",
    selectable = ".status.state",
    validation = Rule::new("self.metadata.name.matches('^lane-[0-9]{1,10}-[0-9]{20}(-r[0-9]{1,4})?$')")
        .message("metadata.name must be lane-<lane>-<sequence in 20 digits>, such as lane-7-00000000000000000042: the name is the lock on the sequence number"),
    validation = Rule::new("!self.metadata.name.matches('^lane-[0-9]{1,10}-[0-9]{20}(-r[0-9]{1,4})?$') || (int(self.metadata.name.split('-')[1]) == self.spec.lane && int(self.metadata.name.split('-')[2]) == self.spec.sequence)")
        .message("metadata.name must be that of spec.lane and spec.sequence: the name is the lock on the sequence number"),
    validation = Rule::new("self.spec == oldSelf.spec")
        .message("spec cannot be changed: a batch is the log of what was signed; only a new sequence number, or a batch that supersedes this one, can say something else")
        .field_path(".spec"),
    validation = Rule::new("!has(oldSelf.status) || !has(oldSelf.status.authorizations) || (has(self.status) && has(self.status.authorizations) && oldSelf.status.authorizations.all(o, o in self.status.authorizations))")
        .message("status.authorizations can only be added to: one that was signed may still be used")
        .field_path(".status.authorizations"),
    validation = Rule::new("!has(oldSelf.status) || !has(oldSelf.status.attempts) || (has(self.status) && has(self.status.attempts) && oldSelf.status.attempts.all(o, self.status.attempts.exists(n, n.hash == o.hash && n.nonce == o.nonce && n.from == o.from)))")
        .message("status.attempts can only be added to: a transaction that was signed may still be mined")
        .field_path(".status.attempts"),
    printcolumn(name = "Chain", type_ = "string", json_path = ".spec.chain"),
    printcolumn(name = "Lane", type_ = "integer", json_path = ".spec.lane"),
    printcolumn(name = "Sequence", type_ = "integer", json_path = ".spec.sequence"),
    printcolumn(name = "Records", type_ = "integer", json_path = ".spec.recordCount"),
    printcolumn(name = "Statements", type_ = "integer", json_path = ".spec.statementCount", priority = 1),
    printcolumn(name = "Total", type_ = "string", json_path = ".spec.total"),
    printcolumn(name = "State", type_ = "string", json_path = ".status.state"),
    printcolumn(name = "Blocked", type_ = "string", json_path = ".status.blocked"),
    printcolumn(name = "Transaction", type_ = "string", json_path = ".status.inclusion.transaction", priority = 1),
    printcolumn(name = "Block", type_ = "integer", json_path = ".status.inclusion.block.number", priority = 1),
    printcolumn(name = "Gas", type_ = "integer", json_path = ".status.inclusion.gasUsed", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.firstJobNo <= self.lastJobNo")
        .message("spec.lastJobNo must not be below firstJobNo"),
)]
pub struct SettlementBatchSpec {
    /// The chain, by its name in the operator's configuration.
    #[schemars(length(min = 1, max = 63))]
    pub chain: String,
    /// The chain's id (EIP-155). It is part of what is signed.
    #[schemars(range(min = 1))]
    pub chain_id: u64,
    /// The address of the settlement contract. It is part of what is signed.
    #[schemars(schema_with = "crate::schema::address")]
    pub contract: String,
    /// The lane: this cluster's number on that chain.
    pub lane: u32,
    /// The batch's number on its lane, counted from 1 without holes.
    #[schemars(range(min = 1))]
    pub sequence: u64,
    /// The lane's chain hash before this batch.
    #[schemars(schema_with = "crate::schema::hash")]
    pub previous: String,
    /// The Merkle root over the receipts of the records, and the head of the decision log.
    #[schemars(schema_with = "crate::schema::hash")]
    pub usage_root: String,
    /// The head of the decision log that lies under `usageRoot`, after the receipts; all zeros before the first decision.
    #[schemars(schema_with = "crate::schema::hash")]
    pub decision_head: String,
    /// The call's payload as the contract reads it, in base64; at most 16 KiB. It names every record by its number.
    #[schemars(schema_with = "data")]
    pub data: ByteString,
    /// keccak256 of `data`.
    #[schemars(schema_with = "crate::schema::hash")]
    pub data_hash: String,
    /// The lane's chain hash after this batch.
    #[schemars(schema_with = "crate::schema::hash")]
    pub chain_hash: String,
    /// How many records `data` holds.
    #[schemars(range(min = 0, max = 65535))]
    pub record_count: u32,
    /// How many groups (payer, provider, price) `data` holds.
    #[schemars(range(min = 0, max = 1024))]
    pub group_count: u32,
    /// How many statements `data` holds: changed inventories, uptime, the week's earnings.
    #[serde(default)]
    #[schemars(range(min = 0, max = 255))]
    pub statement_count: u32,
    /// The lowest record number in `data`.
    pub first_job_no: u64,
    /// The highest record number in `data`.
    pub last_job_no: u64,
    /// What the batch moves if nothing is skipped, in whole tokens as a decimal string.
    pub total: TokenAmount,
    /// The batch of the same sequence number that this one replaces, once that one can never be mined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub supersedes: Option<String>,
}

fn data(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "string",
        // base64 writes 3 bytes as 4 characters.
        "maxLength": MAX_DATA_BYTES.div_ceil(3) * 4,
        // Not `format: byte`: to evaluate a rule on an object that holds one, the API server reads it as base64url, and
        // refuses every `+` and `/`.
        "x-kubernetes-validations": [{
            "rule": "self.matches('^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{3}=|[A-Za-z0-9+/]{2}==)?$')",
            "message": "write bytes in base64 with padding, such as AQAAAQAB",
        }],
    })
}

/// How far a batch is.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct SettlementBatchStatus {
    /// The generation of the spec that the operator has acted on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The state. It is derived from this log and the chain, and may go back when a block is reorganised away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<BatchState>,
    /// What keeps the batch from going on, if something does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocked: Option<BlockedReason>,
    /// The signatures of the lane's signer over this batch. A new one with a later end is added when one expires.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["validUntil".into()]))]
    pub authorizations: Vec<Authorization>,
    /// The transactions that were signed for this batch, each stored before it was sent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["hash".into()]))]
    pub attempts: Vec<TransactionAttempt>,
    /// The transaction that settled the batch, and its block.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inclusion: Option<Inclusion>,
    /// What the contract did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<BatchOutcome>,
    /// The batch that replaces this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub superseded_by: Option<String>,
    /// The hash of the archived batch, once it is in the archive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::hash")]
    pub archive_hash: Option<String>,
    /// `Authorized`, `Included`, `Final`, `Archived` and the summary `Ready`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::conditions")]
    pub conditions: Vec<Condition>,
}

/// What the contract did with a batch.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct BatchOutcome {
    /// What it moved, in whole tokens as a decimal string.
    pub total: TokenAmount,
    /// Records that it paid.
    pub paid: u32,
    /// Records that it left out.
    pub skipped: u32,
    /// The groups that it left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub skipped_groups: Vec<SkippedGroup>,
    /// The single records that it left out, by words of its bitmap.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub skipped_records: Vec<SkippedRecords>,
}

/// A group that the contract left out.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct SkippedGroup {
    /// The payer's account number.
    pub payer: u32,
    /// The provider's account number.
    pub provider: u32,
    /// The price as on the wire: 10⁻¹⁸ token per unit.
    pub price: u64,
    /// Why.
    pub reason: SkipReason,
}

/// Records that the contract left out, in one word of its bitmap.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct SkippedRecords {
    /// The word's number. Bit b of word w stands for the record number w × 224 + b.
    pub word: u32,
    /// The bits, as a 32-byte number in hexadecimal.
    #[schemars(schema_with = "crate::schema::hash")]
    pub bits: String,
    /// Why.
    pub reason: SkipReason,
}

closed_enum! {
    /// How far a batch is.
    pub enum BatchState {
        /// The batch exists; nothing is signed.
        Prepared,
        /// The lane's signer has signed it.
        Signed,
        /// A transaction is stored and has been sent, or may have been.
        InFlight,
        /// The lane's head on chain has reached the batch.
        Included,
        /// The chain calls the block safe.
        Safe,
        /// The chain calls the block final.
        Final,
        /// The batch can never be mined, and another one takes its sequence number.
        Superseded,
        /// The chain holds something else under this sequence number. Everything on the lane has stopped; a person must
        /// find out who signed it.
        Forked,
    }
}

impl BatchState {
    /// Whether the lane's head on chain has reached the batch.
    #[must_use]
    pub const fn is_on_chain(self) -> bool {
        matches!(self, Self::Included | Self::Safe | Self::Final)
    }
}

closed_enum! {
    /// What keeps a batch from going on.
    pub enum BlockedReason {
        /// The chain cannot be reached.
        ChainUnavailable,
        /// The contract's limit per time is used up; it refills by itself.
        RateLimited,
        /// The contract is paused.
        Paused,
        /// The lane's signer has been revoked on chain.
        LaneRevoked,
        /// The contract does not take the signature: the lane's signer on chain is another.
        SignerMismatch,
        /// The contract cannot read the payload.
        EncodingRefused,
        /// The gas account is empty.
        GasBalanceEmpty,
        /// Gas costs more than the configured cap; the last transaction is sent again until it is cheaper.
        FeeCapReached,
        /// A transaction that is not ours took the nonce.
        NonceTaken,
        /// The chain id or the contract's code is not what is configured.
        ContractMismatch,
        /// The batch before this one is not included yet.
        WaitingForPrevious,
        /// The chain contradicts the log: everything on the lane has stopped, and a person must find out why. The event
        /// `Halted` says what was found.
        Halted,
    }
}

closed_enum! {
    /// The conditions of a SettlementBatch.
    pub enum SettlementBatchCondition {
        /// The lane's signer has signed the batch and the signature is in force.
        Authorized,
        /// The lane's head on chain has reached the batch.
        Included,
        /// The block that holds it is final.
        Final,
        /// The batch is in the archive.
        Archived,
        /// The summary: the batch is where it should be. Its reason is the batch's state, or what blocks it.
        Ready,
    }
}

closed_enum! {
    /// Reasons of a SettlementBatch's conditions, beside those of its states and of what blocks it.
    pub enum SettlementBatchReason {
        /// Nothing is signed.
        NotSigned,
        /// Signed, and the signature is in force.
        Signed,
        /// The signature has expired; a new one with the same content follows.
        SignatureExpired,
        /// Not sent yet.
        NotSent,
        /// Sent, and in no block yet.
        InFlight,
        /// In a block.
        Included,
        /// The block that held it was reorganised away; the stored transaction is sent again.
        Reorganised,
        /// In a block that is not final yet.
        NotFinal,
        /// Final.
        Final,
        /// Another batch takes its place.
        Superseded,
        /// The chain holds something else under this sequence number.
        Forked,
        /// Something keeps the batch from going on; see `status.blocked`.
        Blocked,
        /// In the archive.
        Archived,
        /// Not in the archive yet.
        NotArchived,
        /// The archive cannot be written; the message says why.
        ArchiveUnavailable,
    }
}
