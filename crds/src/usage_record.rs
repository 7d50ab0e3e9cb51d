//! `UsageRecord`: one slice of one lease, that is of one member of one attempt on one node. It is what is billed.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::{
    amount::TokenAmount,
    closed_enum,
    compute_job::{Verdict, VerdictReason},
    gpu_node::AgentCertificate,
    stake_binding::BlockReference,
};

/// What is metered: who runs what, where, and who pays whom. It never changes.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "gridstake.dev",
    version = "v1alpha1",
    kind = "UsageRecord",
    plural = "usagerecords",
    singular = "usagerecord",
    namespaced,
    shortname = "ur",
    category = "gridstake",
    status = "UsageRecordStatus",
    derive = "PartialEq",
    doc = "One slice of one lease: a span in which one member of one attempt held GPUs on one node. It is what is billed. Records live in the operator's namespace and are named <job uid>-<attempt>-<member>-<slice>. A slice ends with the member, or when the settlement interval is over; then the next slice begins at the same instant.",
    selectable = ".spec.nodeName",
    selectable = ".spec.job.uid",
    selectable = ".status.sealed.jobNo",
    selectable = ".status.settlement.state",
    validation = Rule::new("self.spec == oldSelf.spec")
        .message("spec cannot be changed: a usage record says who pays whom, once and for all")
        .field_path(".spec"),
    validation = Rule::new("!has(oldSelf.status) || !has(oldSelf.status.sealed) || (has(self.status) && has(self.status.sealed) && self.status.sealed == oldSelf.status.sealed)")
        .message("status.sealed cannot be changed or removed: the slice is sealed; correct it with a new record")
        .field_path(".status.sealed"),
    validation = Rule::new("!has(oldSelf.status) || !has(oldSelf.status.evidence) || (has(self.status) && has(self.status.evidence))")
        .message("status.evidence cannot be removed: an apply must repeat what was stated before")
        .field_path(".status.evidence"),
    validation = Rule::new("!has(self.status) || !has(self.status.sealed) || has(self.status.sealed.jobNo) == (has(self.spec.payment) && self.status.sealed.gpuMillis > 0)")
        .message("status.sealed.jobNo must be set if spec.payment is and gpuMillis is above 0, and only then: it numbers what a lane pays")
        .field_path(".status.sealed"),
    validation = Rule::new("!has(self.status) || !has(self.status.sealed) || !has(self.status.sealed.emission) || (has(self.spec.payment) && self.status.sealed.emission.jobNo != self.status.sealed.jobNo)")
        .message("status.sealed.emission needs spec.payment and a jobNo of its own: it is another entry of the batch")
        .field_path(".status.sealed"),
    validation = Rule::new("!has(self.status) || !has(self.status.settlement) || has(self.status.sealed)")
        .message("status.settlement needs status.sealed: seal the slice before it is settled")
        .field_path(".status.settlement"),
    printcolumn(name = "Job", type_ = "string", json_path = ".spec.job.name"),
    printcolumn(name = "Attempt", type_ = "integer", json_path = ".spec.attempt"),
    printcolumn(name = "Member", type_ = "integer", json_path = ".spec.member"),
    printcolumn(name = "Slice", type_ = "integer", json_path = ".spec.slice"),
    printcolumn(name = "Node", type_ = "string", json_path = ".spec.nodeName"),
    printcolumn(name = "GPUs", type_ = "integer", json_path = ".spec.gpuCount"),
    printcolumn(name = "GPU-ms", type_ = "integer", json_path = ".status.sealed.gpuMillis"),
    printcolumn(name = "State", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Job-no", type_ = "integer", json_path = ".status.sealed.jobNo", priority = 1),
    printcolumn(name = "Payer", type_ = "integer", json_path = ".spec.payment.payer", priority = 1),
    printcolumn(name = "Provider", type_ = "integer", json_path = ".spec.payment.provider", priority = 1),
    printcolumn(name = "Amount", type_ = "string", json_path = ".status.settlement.amount", priority = 1),
    printcolumn(name = "Namespace-of-job", type_ = "string", json_path = ".spec.job.namespace", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("(self.slice == 0) == !has(self.fromMs)")
        .message("spec.fromMs must be set for every slice but the first: it is the end of the slice before"),
)]
pub struct UsageRecordSpec {
    /// The job.
    pub job: JobReference,
    /// The attempt, counted from 1.
    #[schemars(range(min = 1))]
    pub attempt: u32,
    /// The member, counted from 0.
    pub member: u32,
    /// The slice of this member in this attempt, counted from 0.
    pub slice: u32,
    /// The member's pod, in the job's namespace.
    #[schemars(length(min = 1, max = 253))]
    pub pod_name: String,
    /// The node. Only this node's agent may write `status.evidence`.
    #[schemars(length(min = 1, max = 253))]
    pub node_name: String,
    /// How many GPUs (or shares of GPUs, where a device is shared) the member was given. Which ones is found out by the
    /// agent: `status.evidence.devices`.
    #[schemars(range(min = 1, max = 64))]
    pub gpu_count: u32,
    /// Where this slice begins: the end of the slice before it, in Unix milliseconds. Absent for the first slice, which
    /// begins with the container's first process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_ms: Option<u64>,
    /// Who pays whom, on which chain. Absent if no chain is configured, or for a canary job: then the use is recorded and nothing
    /// is owed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payment: Option<Payment>,
}

/// A ComputeJob in some namespace.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct JobReference {
    /// The job's namespace.
    #[schemars(length(min = 1, max = 63))]
    pub namespace: String,
    /// The job's name.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// The job's uid, so that a namesake is never taken for it.
    #[schemars(length(min = 1, max = 63))]
    pub uid: String,
}

/// Who pays whom, at which price.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Payment {
    /// The chain, by its name in the operator's configuration.
    #[schemars(length(min = 1, max = 63))]
    pub chain: String,
    /// The lane: this cluster's number on that chain. Each of a cluster's lanes has another number.
    pub lane: u32,
    /// The payer's account number on that lane.
    pub payer: u32,
    /// The provider's account number on that chain, as in its StakeBinding.
    #[schemars(range(min = 1))]
    pub provider: u32,
    /// The price of one GPU for one second, in whole tokens as a decimal string with at most 9 decimals, as it stood
    /// when the attempt was placed.
    pub per_gpu_second: TokenAmount,
}

/// What was measured, what is billed for it, and how far the money is.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct UsageRecordStatus {
    /// The generation of the spec that the operator has acted on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// What the node's agent saw. Written by the device agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<Evidence>,
    /// The first statement of the evidence that cannot be true, if one was found. Written by the operator; it stands whatever the
    /// agent states after it. What that statement and those after it cover is not billed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<RefusedEvidence>,
    /// What is billed. Written once by the operator; from then on it cannot be changed or removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed: Option<Sealed>,
    /// How far the payment is. Written by the operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settlement: Option<RecordSettlement>,
    /// `Evidenced`, `Sealed`, `Settled`, `Archived` and the summary `Ready`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::conditions")]
    pub conditions: Vec<Condition>,
}

/// What an agent saw of one slice: a chain of signed checkpoints.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Evidence {
    /// The uid of the pod that was seen.
    #[schemars(length(min = 1, max = 63))]
    pub pod_uid: String,
    /// The address of the key that signs the checkpoints; certified in the GpuNode's `status.agent.key`.
    #[schemars(schema_with = "crate::schema::address")]
    pub key: String,
    /// The devices that the kubelet gave to the pod, and what was measured on each since the slice began.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["uuid".into()]))]
    pub devices: Vec<DeviceUse>,
    /// When the container's first process started, in Unix milliseconds. Absent until one has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_ms: Option<u64>,
    /// When the container's last process exited, in Unix milliseconds. Absent while one runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_ms: Option<u64>,
    /// Signed statements, oldest first: at the slice's start, every 5 minutes and at its end. There are at most 32;
    /// older neighbours are folded into one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["epoch".into(), "seq".into()]))]
    pub checkpoints: Vec<Checkpoint>,
    /// Spans of the slice for which there is no evidence.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub gaps: Vec<EvidenceGap>,
    /// The most processes of other pods, or of no pod, that were seen on these devices at one time. Their use is not
    /// counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub foreign_processes: Option<u32>,
    /// What was billed for the slice, as the agent remembers it. It is stated only where the API server has lost it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed: Option<Sealed>,
}

/// What was measured on one device since the slice began.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.shareNumerator) == has(self.shareDenominator) && (!has(self.shareNumerator) || self.shareNumerator <= self.shareDenominator)")
        .message("a share needs shareNumerator and shareDenominator, at most 1 together, such as 1 and 7; leave both out for a whole device"),
)]
pub struct DeviceUse {
    /// NVML's UUID of the device or MIG instance.
    #[schemars(length(min = 1, max = 63))]
    pub uuid: String,
    /// The physical device that a MIG instance is part of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub parent_uuid: Option<String>,
    /// The share of the physical device that is billed, as a fraction with `shareDenominator`. Absent: all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 64))]
    pub share_numerator: Option<u32>,
    /// See `shareNumerator`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 64))]
    pub share_denominator: Option<u32>,
    /// What was measured. A value that the device does not give is absent, never 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counters: Option<Counters>,
}

impl DeviceUse {
    /// The UUID of the physical device: of a MIG instance, that of the GPU which it is part of.
    #[must_use]
    pub fn physical(&self) -> &str {
        self.parent_uuid.as_deref().unwrap_or(&self.uuid)
    }
}

/// Measurements as integrals over a span. A value that is not available is absent, never 0.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Counters {
    /// Utilisation × time, in milliseconds: 1,000 is one second at 100 %.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub busy_millis: Option<u64>,
    /// Memory in use × time, in MiB-seconds.
    #[serde(
        rename = "memoryMiBSeconds",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub memory_mib_seconds: Option<u64>,
    /// Energy in millijoules; the pod's part where several share a device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub energy_millijoules: Option<u64>,
    /// The most processes of the pod that were seen at one time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_processes: Option<u32>,
    /// How many samples the values rest on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub samples: Option<u64>,
}

/// A signed statement about a span. Each one's hash covers the one before it.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.fromMs <= self.toMs").message("a checkpoint must not end before it begins: set toMs to fromMs or later"))]
pub struct Checkpoint {
    /// Counts starts of the agent that lost sight of the process; within an epoch the agent's clock is one and the same.
    pub epoch: u64,
    /// The checkpoint's number within the epoch, counted from 0. Numbers that are missing were folded into the next.
    pub seq: u64,
    /// Begin of the span, in Unix milliseconds: the wall clock at the epoch's begin plus the time that has passed since
    /// on a clock that nobody can set (CLOCK_BOOTTIME).
    pub from_ms: u64,
    /// End of the span, on the same clock.
    pub to_ms: u64,
    /// How many earlier checkpoints were folded into this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folded: Option<u32>,
    /// What all devices measured together in the span.
    #[serde(default)]
    pub counters: Counters,
    /// The hash of the checkpoint before this one; all zeros for the first of a slice.
    #[schemars(schema_with = "crate::schema::hash")]
    pub previous: String,
    /// The hash of this checkpoint: the head of the chain so far.
    #[schemars(schema_with = "crate::schema::hash")]
    pub head: String,
    /// The agent's signature over the head.
    #[schemars(schema_with = "crate::schema::signature")]
    pub signature: String,
}

/// A span for which there is no evidence.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.fromMs < self.toMs").message("a gap must end after it begins: set toMs to later than fromMs"))]
pub struct EvidenceGap {
    /// Begin, in Unix milliseconds.
    pub from_ms: u64,
    /// End, in Unix milliseconds.
    pub to_ms: u64,
    /// Why.
    pub reason: GapReason,
    /// Whether the same process (number and start time) was there before and after: then the span is billed. A span
    /// that is not bridged is not.
    pub bridged: bool,
}

closed_enum! {
    /// Why there is no evidence for a span.
    pub enum GapReason {
        /// The agent was away.
        AgentAway,
        /// The agent came back with a new key, which had to be certified first.
        KeyChanged,
        /// The device did not answer NVML.
        DeviceSilent,
        /// The agent's spool was full or lost.
        SpoolLost,
    }
}

/// A statement that cannot be true, and what stands nevertheless.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RefusedEvidence {
    /// Why.
    pub reason: EvidenceFault,
    /// Its epoch.
    pub epoch: u64,
    /// Its number within the epoch.
    pub seq: u64,
    /// Until when the statements before it reach, in Unix milliseconds. Absent if there are none: then nothing is billed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted_ms: Option<u64>,
    /// The head of the chain before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::hash")]
    pub accepted_head: Option<String>,
    /// The statement as it was signed; and, where the key has signed two of which only one can be true, the other one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub statements: Vec<Checkpoint>,
}

closed_enum! {
    /// Why a statement of an agent is refused. No honest agent brings one about, whatever happens to it.
    pub enum EvidenceFault {
        /// Another key signed it, or none.
        BadSignature,
        /// It does not follow from the one before: statements were left out, or it covers another one.
        BrokenChain,
        /// The key signed it for something else (another record, pod, set of devices or content), or it is an old one once more:
        /// its epoch and number do not come after those before it.
        Replay,
        /// Its span overlaps the one before, or ends before it begins.
        Overlap,
        /// A device was busy for a minute and more, and its energy counter rose less than that of any device at work.
        UseWithoutEnergy,
        /// It covers more time than has passed since the record was made.
        MoreThanTime,
        /// The key has signed two statements with one number of which only one can be true: both are in `statements`.
        Equivocation,
        /// A device is one that only another node shows.
        ForeignDevice,
    }
}

/// What is billed for a slice. It is final.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.startMs <= self.endMs").message("status.sealed.endMs must not be before startMs"))]
pub struct Sealed {
    /// The number under which the lane pays this record: one per record, dense per lane. Absent if nothing is owed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_no: Option<u64>,
    /// Begin of what is billed, in Unix milliseconds.
    pub start_ms: u64,
    /// End of what is billed, in Unix milliseconds.
    pub end_ms: u64,
    /// What is billed, in GPU-milliseconds: the sum over the devices of (end − start) × share, rounded down.
    pub gpu_millis: u64,
    /// The price of one GPU for one second, in whole tokens as a decimal string; equal to
    /// `spec.payment.perGpuSecond`. Absent if nothing is owed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<TokenAmount>,
    /// Why the slice ended here.
    pub cause: SealCause,
    /// At whose door the end is laid. Absent if the member succeeded or goes on in another slice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// On what the verdict rests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict_reason: Option<VerdictReason>,
    /// Energy in millijoules, where the devices measure it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub energy_millijoules: Option<u64>,
    /// What weighs this slice when emissions are divided. It never changes what the tenant pays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub factors: Option<Factors>,
    /// What the lane's reward account pays on top. Absent if nothing, such as while that account is empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub emission: Option<Emission>,
    /// The head of the evidence that the bill rests on. Absent if there is none, such as when the agent never saw the
    /// pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::hash")]
    pub evidence_head: Option<String>,
    /// The provider's word for the key that signed the evidence, as it was in force when the slice was sealed: it is archived with the
    /// payment. Absent if there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<AgentCertificate>,
    /// The hash of the receipt: a leaf under the batch's usage root.
    #[schemars(schema_with = "crate::schema::hash")]
    pub receipt_hash: String,
}

closed_enum! {
    /// Why a slice ended.
    pub enum SealCause {
        /// The member ended.
        MemberEnded,
        /// The settlement interval was over; the next slice begins at the same instant.
        IntervalElapsed,
        /// The node or its agent fell silent: the slice ends with the last evidence.
        EvidenceEnded,
        /// The member never started: nothing is billed.
        NeverStarted,
    }
}

/// What a lane's reward account pays for a slice, as an entry of its own.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Emission {
    /// The number under which the lane pays it; another one than the record's own.
    pub job_no: u64,
    /// How much, in whole tokens as a decimal string: GPU-time × rate × performance × stability, and never more than the
    /// fee on what the tenant pays, so that nobody gains by paying himself.
    pub amount: TokenAmount,
}

/// What weighs a slice when emissions are divided; in thousandths, rounded down.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Factors {
    /// A timed run on the device against the reference table: 1000 is the reference device.
    #[schemars(range(min = 0, max = 100_000))]
    pub performance_permille: u32,
    /// Uptime and completion over 30 days: 1000 is spotless.
    #[schemars(range(min = 0, max = 1000))]
    pub stability_permille: u32,
    /// On what they rest, the performance and then the stability where that is something else: the version of the reference table
    /// or of the rule, `unmeasured` where nothing was measured that still counts, `configured` where the chains file gives it; such
    /// as `performance/1 stability/1`.
    #[schemars(length(min = 1, max = 64))]
    pub reference: String,
}

/// How far a record's payment is.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RecordSettlement {
    /// The state.
    pub state: RecordState,
    /// The SettlementBatch that holds the record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub batch: Option<String>,
    /// What the payer pays for this record, in whole tokens as a decimal string, before the group's one rounding down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amount: Option<TokenAmount>,
    /// The transaction that paid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::hash")]
    pub transaction: Option<String>,
    /// The block that holds the transaction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block: Option<BlockReference>,
    /// Why the contract left the record out, or would leave it out; then `batch` is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped: Option<SkipReason>,
    /// The hash of the archived record, once it is in the archive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::hash")]
    pub archive_hash: Option<String>,
}

closed_enum! {
    /// How far a record's payment is.
    pub enum RecordState {
        /// The bill is final and waits for a batch.
        Sealed,
        /// A batch holds the record.
        Batched,
        /// The batch's transaction is in a block that may still be reorganised away.
        Paid,
        /// The block is final.
        Final,
        /// The contract left the record out, or would leave it out. It is paid once the cause is gone; see `skipped`.
        Skipped,
        /// Nothing is owed: no chain is configured, or it was a canary job.
        NothingOwed,
        /// A person must decide; the condition `Settled` says what.
        NeedsDecision,
    }
}

closed_enum! {
    /// Why the contract left an entry of a batch out, or would leave it out. The rest is paid.
    pub enum SkipReason {
        /// There is no such provider account.
        UnknownProvider,
        /// There is no such payer account on this lane.
        UnknownPayer,
        /// The payer's escrow does not suffice. The entry can be paid after a deposit.
        InsufficientEscrow,
        /// The number was paid before. This is final.
        AlreadyPaid,
        /// The provider registered too recently to be paid.
        ProviderCooling,
    }
}

closed_enum! {
    /// The conditions of a UsageRecord.
    pub enum UsageRecordCondition {
        /// The agent's checkpoints cover the slice and their chain verifies.
        Evidenced,
        /// The bill is final.
        Sealed,
        /// The payment is final, or nothing is owed.
        Settled,
        /// The record is in the archive.
        Archived,
        /// The summary: the record is where it should be. Its reason is the record's state in one word.
        Ready,
    }
}

closed_enum! {
    /// Reasons of a UsageRecord's conditions.
    pub enum UsageRecordReason {
        /// The member has not started.
        NotStarted,
        /// The slice is being metered.
        Metering,
        /// The checkpoints cover the slice.
        EvidenceComplete,
        /// There are gaps; see `status.evidence.gaps`.
        EvidenceHasGaps,
        /// There is no evidence.
        EvidenceMissing,
        /// The evidence is not about the member's pod, or cannot be read; the message says which.
        EvidenceInvalid,
        /// A statement cannot be true; see `status.refused`. What comes before it is billed, and nothing after it.
        EvidenceRefused,
        /// The agent's key is not certified by the provider, or its certificate has ended.
        KeyNotCertified,
        /// The slice has ended. It is sealed once the lane's log has been compared with the chain: until then it is not
        /// known which numbers are free.
        LogNotCompared,
        /// The slice has ended, and may have been paid already or be paid yet: the API server was, or may have been, restored
        /// from a backup. The message says by what, and what to do.
        InDoubt,
        /// The bill is final and waits for a batch.
        Sealed,
        /// The payment is held back until an Incident is closed, or until it is known whether the result that was computed is
        /// right; the message says which.
        HeldBack,
        /// A batch holds the record.
        Batched,
        /// The transaction is in a block that is not final yet.
        Paid,
        /// The payment is final.
        Final,
        /// Nothing is owed: no chain is configured, or it was a canary job.
        NothingOwed,
        /// The contract left the record out, or would leave it out; see `status.settlement.skipped`.
        Skipped,
        /// A person must decide; the message says what.
        NeedsDecision,
        /// The record is in the archive.
        Archived,
        /// The record is not in the archive yet.
        NotArchived,
        /// The archive cannot be written; the message says why.
        ArchiveUnavailable,
    }
}
