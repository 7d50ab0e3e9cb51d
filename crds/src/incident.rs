//! `Incident`: one offence, its evidence, and its way through proposal, dispute and execution.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::{
    amount::TokenAmount,
    closed_enum,
    compute_job::{Verdict, VerdictReason},
    transaction::{Authorization, Inclusion, TransactionAttempt},
    usage_record::JobReference,
};

/// What happened, by whose fault, and what is asked for it. It never changes.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "gridstake.dev",
    version = "v1alpha1",
    kind = "Incident",
    plural = "incidents",
    singular = "incident",
    shortname = "inc",
    category = "gridstake",
    status = "IncidentStatus",
    derive = "PartialEq",
    doc = "One offence, its evidence, and its way through proposal, dispute and execution. It tells a provider what happened, why, how much is at stake and until when to answer.",
    selectable = ".spec.subject.nodeName",
    selectable = ".spec.subject.providerId",
    validation = Rule::new("self.spec == oldSelf.spec")
        .message("spec cannot be changed: an incident states what was found; a correction is a new incident")
        .field_path(".spec"),
    validation = Rule::new("!has(oldSelf.status) || !has(oldSelf.status.proposal) || (has(self.status) && has(self.status.proposal) && self.status.proposal.id == oldSelf.status.proposal.id)")
        .message("status.proposal cannot be removed or given another id: the stake is frozen under it")
        .field_path(".status.proposal"),
    validation = Rule::new("!has(oldSelf.status) || !has(oldSelf.status.authorizations) || (has(self.status) && has(self.status.authorizations) && oldSelf.status.authorizations.all(o, o in self.status.authorizations))")
        .message("status.authorizations can only be added to: one that was signed may still be used")
        .field_path(".status.authorizations"),
    validation = Rule::new("!has(oldSelf.status) || !has(oldSelf.status.attempts) || (has(self.status) && has(self.status.attempts) && oldSelf.status.attempts.all(o, self.status.attempts.exists(n, n.hash == o.hash && n.nonce == o.nonce && n.from == o.from)))")
        .message("status.attempts can only be added to: a transaction that was signed may still be mined")
        .field_path(".status.attempts"),
    printcolumn(name = "Offence", type_ = "string", json_path = ".spec.offence"),
    printcolumn(name = "Node", type_ = "string", json_path = ".spec.subject.nodeName"),
    printcolumn(name = "Verdict", type_ = "string", json_path = ".spec.verdict"),
    printcolumn(name = "Sanction", type_ = "string", json_path = ".spec.sanction"),
    printcolumn(name = "Slash", type_ = "string", json_path = ".spec.slash"),
    printcolumn(name = "State", type_ = "string", json_path = ".status.state"),
    printcolumn(name = "Answer by", type_ = "string", json_path = ".status.proposal.disputeUntil"),
    printcolumn(name = "Until", type_ = "string", json_path = ".status.until"),
    printcolumn(name = "Provider", type_ = "integer", json_path = ".spec.subject.providerId", priority = 1),
    printcolumn(name = "Job", type_ = "string", json_path = ".spec.job.name", priority = 1),
    printcolumn(name = "Summary", type_ = "string", json_path = ".spec.summary", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!(self.sanction in ['Hold', 'PartialSlash', 'FullSlash']) || self.verdict == 'Host'")
        .message("spec.sanction Hold, PartialSlash and FullSlash need spec.verdict Host: nobody loses stake or rewards for what was not its fault; use Repair or Warn"),
    validation = Rule::new("(self.sanction in ['PartialSlash', 'FullSlash']) == has(self.slash)")
        .message("spec.slash must be set for PartialSlash and FullSlash, and only for them"),
    validation = Rule::new("!has(self.slash) || (has(self.subject.providerId) && has(self.chain))")
        .message("spec.slash needs spec.subject.providerId and spec.chain: only a bound provider has stake"),
    validation = Rule::new("self.from <= self.to")
        .message("spec.to must not be before spec.from"),
)]
pub struct IncidentSpec {
    /// What happened.
    pub offence: Offence,
    /// Whose node and devices it concerns.
    pub subject: Subject,
    /// The job it happened to, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobReference>,
    /// The UsageRecords that it concerns, by name in the operator's namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 253)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub usage_records: Vec<String>,
    /// When it began.
    pub from: Time,
    /// When it ended, or was last seen.
    pub to: Time,
    /// At whose door it is laid.
    pub verdict: Verdict,
    /// On what the verdict rests, where a failed attempt was judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict_reason: Option<VerdictReason>,
    /// The hash of the evidence: its address in the archive.
    #[schemars(schema_with = "crate::schema::hash")]
    pub evidence_hash: String,
    /// What was found, in words for people.
    #[schemars(length(min = 1, max = 1024))]
    pub summary: String,
    /// What follows from it.
    pub sanction: Sanction,
    /// How much stake is to be cut, in whole tokens as a decimal string.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slash: Option<TokenAmount>,
    /// The chain on which the provider's stake is, by its name in the operator's configuration. The slash is proposed
    /// there, by this cluster's lane on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub chain: Option<String>,
}

/// Whose node and devices an incident concerns.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Subject {
    /// The node.
    #[schemars(length(min = 1, max = 253))]
    pub node_name: String,
    /// The provider to which the node was bound at the time; against no other does it count. Absent: it was bound to none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub provider_id: Option<u32>,
    /// The devices, by NVML's UUID: those against which something was reported, else those of the job, else all of the node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 63)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub devices: Vec<String>,
}

closed_enum! {
    /// What happened.
    pub enum Offence {
        /// The node or a GPU failed while a job ran on it.
        DowntimeDuringJob,
        /// The node claims devices that it does not have, or that another node has.
        FalseInventory,
        /// The reported use cannot be: overlapping spans, use without energy, replayed checkpoints.
        ImpossibleUsage,
        /// The result differs from what other nodes computed.
        InvalidResult,
    }
}

closed_enum! {
    /// What follows from an offence; each step is harder than the one before.
    pub enum Sanction {
        /// The device is quarantined until it has been clean for a while. Like every incident that is laid at the host's door, it
        /// lowers the GPU's reputation for 30 days.
        Repair,
        /// The provider is told.
        Warn,
        /// The rewards in question are held back until the incident is closed.
        Hold,
        /// A part of the stake is to be cut.
        PartialSlash,
        /// All of the stake that answers for the node is to be cut.
        FullSlash,
    }
}

/// How far an incident is.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct IncidentStatus {
    /// The generation of the spec that the operator has acted on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<IncidentState>,
    /// When a sanction that needs no chain ends by itself. Until then the provider can answer the lane's operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Time>,
    /// Rewards that are held back until the incident is closed, in whole tokens as a decimal string.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<TokenAmount>,
    /// The proposal to slash, on chain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proposal: Option<Proposal>,
    /// The provider's answer, on chain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dispute: Option<Dispute>,
    /// The arbiter's decision, on chain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolution: Option<Resolution>,
    /// What was cut in the end, on chain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub execution: Option<Execution>,
    /// Why nothing is cut, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancellation: Option<CancellationReason>,
    /// The signatures of the slash key over the proposal.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["validUntil".into()]))]
    pub authorizations: Vec<Authorization>,
    /// The transactions that were signed for this incident, each stored before it was sent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["hash".into()]))]
    pub attempts: Vec<TransactionAttempt>,
    /// `EvidenceArchived`, `Proposed`, `Answered`, `Closed` and the summary `Ready`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::conditions")]
    pub conditions: Vec<Condition>,
}

/// A proposal to slash.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Proposal {
    /// Its number in the contract.
    #[schemars(schema_with = "crate::schema::big_integer")]
    pub id: String,
    /// The stake that is frozen, in whole tokens as a decimal string.
    pub frozen: TokenAmount,
    /// Until when the provider can dispute it.
    pub dispute_until: Time,
    /// The transaction that made it.
    pub inclusion: Inclusion,
}

/// A provider's answer to a proposal.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Dispute {
    /// The hash of the provider's counter-evidence.
    #[schemars(schema_with = "crate::schema::hash")]
    pub counter_evidence_hash: String,
    /// Until when the arbiter must decide; undecided, the proposal is cancelled.
    pub resolve_until: Time,
    /// The transaction that made it.
    pub inclusion: Inclusion,
}

/// An arbiter's decision on a disputed proposal.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Resolution {
    /// What the arbiter upheld, in whole tokens as a decimal string: at most what was proposed.
    pub upheld: TokenAmount,
    /// The transaction that made it.
    pub inclusion: Inclusion,
}

/// What was cut.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Execution {
    /// From the stake, delegations included, in whole tokens as a decimal string.
    pub from_stake: TokenAmount,
    /// From stake that was being withdrawn, in whole tokens as a decimal string.
    pub from_unbonding: TokenAmount,
    /// The transaction that did it.
    pub inclusion: Inclusion,
}

closed_enum! {
    /// How far an incident is.
    pub enum IncidentState {
        /// Its evidence is being written to the archive.
        Open,
        /// The sanction needs no chain and is in force.
        InForce,
        /// The proposal is on its way to the chain.
        Proposing,
        /// The stake is frozen and the provider can answer.
        Proposed,
        /// The provider has answered and the arbiter decides.
        Disputed,
        /// The time to answer is over, or the arbiter has upheld it: the cut is on its way.
        Finalizing,
        /// The stake was cut.
        Executed,
        /// Nothing was cut and the stake is free again.
        Cancelled,
        /// The sanction has ended.
        Closed,
    }
}

closed_enum! {
    /// Why an incident costs nothing.
    pub enum CancellationReason {
        /// The arbiter did not uphold it.
        NotUpheld,
        /// The arbiter did not decide in time.
        NotDecided,
        /// The guardian cancelled it.
        Guardian,
        /// The provider has no stake that could be cut.
        NothingAtStake,
        /// It happened while the operator itself could not see the nodes.
        Amnesty,
    }
}

closed_enum! {
    /// The conditions of an Incident.
    pub enum IncidentCondition {
        /// The evidence is in the archive.
        EvidenceArchived,
        /// The proposal is on chain. `False` with `NotNeeded` for sanctions that need no chain.
        Proposed,
        /// The time to answer is over, or the provider has answered.
        Answered,
        /// The incident has come to its end.
        Closed,
        /// The summary: the incident is where it should be. Its reason is the incident's state in one word.
        Ready,
    }
}

closed_enum! {
    /// Reasons of an Incident's conditions, beside those of its states.
    pub enum IncidentReason {
        /// In the archive.
        Archived,
        /// Not in the archive yet.
        NotArchived,
        /// The archive cannot be written; the message says why.
        ArchiveUnavailable,
        /// The sanction needs no chain.
        NotNeeded,
        /// Not sent yet.
        NotSent,
        /// Sent, and in no block yet.
        InFlight,
        /// No chain of that name is configured.
        ChainNotConfigured,
        /// The chain's id, or the code at a configured address, is not what is configured; nothing is sent.
        ContractMismatch,
        /// The chain cannot be reached.
        ChainUnavailable,
        /// The operator has no key for slashes.
        NoSlashKey,
        /// The contract refuses the call; the message gives its error.
        ContractRefused,
        /// On chain.
        Proposed,
        /// The provider can still answer.
        WaitingForAnswer,
        /// The provider has answered.
        Disputed,
        /// The time to answer is over without an answer.
        Unanswered,
        /// The stake was cut.
        Executed,
        /// Nothing was cut; see `status.cancellation`.
        Cancelled,
        /// The sanction has ended.
        Ended,
        /// The incident is on its way.
        InProgress,
    }
}
