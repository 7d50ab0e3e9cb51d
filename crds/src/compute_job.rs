//! `ComputeJob`: a batch job, or a gang of members, that needs GPUs.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema, core::duration::Duration};
use serde::{Deserialize, Serialize};

use crate::{amount::TokenAmount, closed_enum, pod_template::PodTemplate};

/// What a tenant wants to have run.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "gridstake.dev",
    version = "v1alpha1",
    kind = "ComputeJob",
    plural = "computejobs",
    singular = "computejob",
    namespaced,
    shortname = "cjob",
    category = "gridstake",
    status = "ComputeJobStatus",
    derive = "PartialEq",
    doc = "A batch job, or a gang of members, that needs GPUs. It runs to completion once; failed attempts are repeated within its retry budgets.",
    validation = Rule::new("self.metadata.name.size() <= 52 && self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')")
        .message("metadata.name must be at most 52 lower-case letters, digits and hyphens: pods are named <job>-<attempt>-<member>"),
    validation = Rule::new("!has(self.spec.verification) || self.spec.verification.mode == 'None' || self.metadata.name.size() <= 44")
        .message("metadata.name must be at most 44 characters where spec.verification asks for a check: the checks are named <job>-check-<number>"),
    printcolumn(name = "GPUs", type_ = "integer", json_path = ".spec.gpu.count"),
    printcolumn(name = "Members", type_ = "integer", json_path = ".spec.members"),
    printcolumn(name = "State", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Attempt", type_ = "integer", json_path = ".status.placement.attempt"),
    printcolumn(name = "Node", type_ = "string", json_path = ".status.placement.nodes[0].node"),
    printcolumn(name = "GPU-ms", type_ = "integer", json_path = ".status.usage.gpuMillis"),
    printcolumn(name = "Complete", type_ = "string", json_path = ".status.conditions[?(@.type==\"Complete\")].status", priority = 1),
    printcolumn(name = "Failed", type_ = "string", json_path = ".status.conditions[?(@.type==\"Failed\")].status", priority = 1),
    printcolumn(name = "Settled", type_ = "string", json_path = ".status.conditions[?(@.type==\"Settled\")].status", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.topology) == has(oldSelf.topology) && (!has(self.topology) || self.topology == oldSelf.topology)")
        .message("spec.topology cannot be changed: delete the job and create a new one"),
    validation = Rule::new("has(self.pricing) == has(oldSelf.pricing) && (!has(self.pricing) || self.pricing == oldSelf.pricing)")
        .message("spec.pricing cannot be changed: delete the job and create a new one"),
    validation = Rule::new("has(self.policy) == has(oldSelf.policy) && (!has(self.policy) || self.policy == oldSelf.policy)")
        .message("spec.policy cannot be changed: delete the job and create a new one"),
    validation = Rule::new("has(self.verification) == has(oldSelf.verification) && (!has(self.verification) || self.verification == oldSelf.verification)")
        .message("spec.verification cannot be changed: delete the job and create a new one"),
    validation = Rule::new("!has(self.verification) || self.verification.mode == 'None' || !has(self.retry) || !has(self.retry.lostMember) || self.retry.lostMember != 'Replace'")
        .message("spec.retry.lostMember cannot be Replace where spec.verification asks for a check: part of the result would be computed by nodes that the check does not know of"),
)]
pub struct ComputeJobSpec {
    /// The GPUs that each member needs.
    #[x_kube(validation = Rule::new("self == oldSelf").message("spec.gpu cannot be changed: delete the job and create a new one"))]
    pub gpu: GpuRequest,

    /// How many pods make up the job. More than one makes a gang: all members start, or none.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 256), schema_with = "members")]
    #[x_kube(validation = Rule::new("self == oldSelf").message("spec.members cannot be changed: delete the job and create a new one"))]
    pub members: u32,

    /// Whether the members of a gang must, or should, be close to one another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topology: Option<Topology>,

    /// The pod that each member runs, as in a Job. Each container names its share of GPUs in
    /// `resources.limits["nvidia.com/gpu"]`; they must add up to `gpu.count`. If no container names any, the first one
    /// gets all.
    #[x_kube(validation = Rule::new("self == oldSelf").message("spec.template cannot be changed: delete the job and create a new one"))]
    pub template: PodTemplate,

    /// A PriorityClass whose value orders the queue: higher goes first; then the payer that has used least of late; then the older
    /// job. Where no place is free, and unless the class says `preemptionPolicy: Never`, jobs of lower priority that have run for
    /// a while (chart value `preemption.minimumRunSeconds`) are stopped, with their own grace, and queued again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub priority_class_name: Option<String>,

    /// Stops the job (its pods get their termination grace) or keeps it from starting. Unset to go on: a new attempt
    /// begins.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub suspend: bool,

    /// How long the job may wait, start and run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<Timeouts>,

    /// How often a failed attempt is repeated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,

    /// How pods are told to end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub termination: Option<Termination>,

    /// What the tenant will pay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pricing: Option<JobPricing>,

    /// Where the job may run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<PlacementPolicy>,

    /// Whether results are checked by running members more than once. Default: `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verification: Option<Verification>,

    /// Deletes the job this many seconds after it has finished. Without it the job stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 31_536_000))]
    pub ttl_seconds_after_finished: Option<u32>,
}

fn one() -> u32 {
    1
}

fn members(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "integer", "format": "int32", "minimum": 1, "maximum": 256, "default": 1 })
}

/// The GPUs that one member needs, all on one node.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct GpuRequest {
    /// How many GPUs.
    #[schemars(range(min = 1, max = 64))]
    pub count: u32,
    /// Models that will do; any one of them. A model matches when its words occur in the product name, regardless of
    /// case: `H100` and `H100 80GB` both match `NVIDIA H100 80GB HBM3`. Empty: any model.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 96)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub models: Vec<String>,
    /// The least memory per GPU, in MiB.
    #[serde(
        rename = "minMemoryMiB",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(range(min = 1, max = 16_777_216))]
    pub min_memory_mib: Option<u64>,
    /// The least CUDA compute capability, such as `"8.0"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8))]
    #[x_kube(validation = Rule::new("self.matches('^[0-9]{1,2}[.][0-9]{1,2}$')").message("write major.minor, such as \"8.0\""))]
    pub min_compute_capability: Option<String>,
}

/// Closeness of a gang's members.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Topology {
    /// The Node label whose value the members' nodes share, such as `topology.kubernetes.io/zone`.
    #[schemars(length(min = 1, max = 316))]
    pub key: String,
    /// `Required`: they must share it. `Preferred`: they do where that is possible.
    pub policy: TopologyPolicy,
}

closed_enum! {
    /// How binding a topology is.
    pub enum TopologyPolicy {
        /// All members share the label's value, or none starts.
        Required,
        /// They share it where that is possible.
        Preferred,
    }
}

/// How long a job may wait, start and run.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Timeouts {
    /// The longest wait for a first placement, such as `24h`; then the job fails with `QueueTimeout`. Default: no limit.
    #[serde(
        default,
        deserialize_with = "crate::duration::optional::deserialize",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(schema_with = "crate::schema::duration")]
    pub queue: Option<Duration>,
    /// From a placement until all members' containers have started; then the attempt is rolled back. It includes
    /// pulling images. Default: `5m`.
    #[serde(
        default,
        deserialize_with = "crate::duration::optional::deserialize",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(schema_with = "crate::schema::duration")]
    pub start: Option<Duration>,
    /// The longest run of one attempt, such as `12h`; then the job fails with `RunTimeout`. Default: no limit. A job with a limit
    /// may use GPUs that are kept for a larger one before it in the queue, if it is sure to end in time.
    #[serde(
        default,
        deserialize_with = "crate::duration::optional::deserialize",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(schema_with = "crate::schema::duration")]
    pub run: Option<Duration>,
}

/// How often a failed attempt is repeated. The two budgets are separate: a lost node never costs a tenant its own retries.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Retry {
    /// Repetitions after a failure that is not the program's: a lost node or GPU, an eviction. Default: 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub infrastructure: Option<u32>,
    /// Repetitions after a failure of the program: an exit code other than 0, out of memory, an image that cannot be
    /// pulled. Default: 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub user: Option<u32>,
    /// What becomes of a gang that runs when a few of its members are lost, and not by the program's fault. `Restart`: all members
    /// are stopped, and the next attempt begins. `Replace`: the others run on and the lost ranks are started elsewhere, within
    /// `timeouts.start`; if that fails, or as much as half of the gang is lost, it is as with `Restart`. Default: `Restart`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_member: Option<LostMember>,
}

closed_enum! {
    /// What becomes of a gang of which a few members are lost.
    pub enum LostMember {
        /// All members are stopped, and the next attempt begins.
        Restart,
        /// The others run on and the lost ranks are started elsewhere.
        Replace,
    }
}

/// How pods are told to end.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Termination {
    /// Seconds between SIGTERM and SIGKILL. Default: the template's `terminationGracePeriodSeconds`, else 30.
    #[schemars(range(min = 0, max = 3600))]
    pub grace_seconds: u32,
}

/// What the tenant will pay.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct JobPricing {
    /// The highest price of one GPU for one second, in whole tokens as a decimal string with at most 9 decimals, such
    /// as `"0.00072"`. Dearer nodes are not considered.
    pub max_per_gpu_second: TokenAmount,
}

/// Where a job may run.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PlacementPolicy {
    /// Regions that will do; compared with what providers declare. Empty: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 63)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub regions: Vec<String>,
    /// Jurisdictions that will do, as ISO 3166-1 country codes; compared with what providers declare. Empty: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 2, max = 2)))]
    #[x_kube(
        merge_strategy = ListMerge::Set,
        validation = Rule::new("self.all(code, code.matches('^[A-Z]{2}$'))").message("write ISO 3166-1 country codes in capitals, such as [\"DE\", \"FR\"]"),
    )]
    pub jurisdictions: Vec<String>,
    /// The least reputation of a node, in thousandths.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub min_reputation: Option<u32>,
    /// Whether only nodes with sufficient stake will do. Default: yes where a chain is configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub require_bond: Option<bool>,
}

/// Whether and how results are checked: the digests that members 0 leave in their termination messages are compared. See the
/// condition `Verified`.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.mode != 'Sampled' || has(self.samplePermille)")
        .message("mode Sampled needs samplePermille: the share of jobs that is checked, in thousandths, such as 50"),
    validation = Rule::new("self.mode != 'Redundant' || has(self.replicas)")
        .message("mode Redundant needs replicas: how often each member runs, such as 2"),
)]
pub struct Verification {
    /// `None`, `Redundant` (every member runs several times and the digests must agree) or `Sampled` (some jobs do).
    pub mode: VerificationMode,
    /// How often each member runs, the first time included, on nodes of different providers: for `Redundant` always, for
    /// `Sampled` (default 2) where the sample hits the job. Every run is paid for. Where digests differ, one more run breaks
    /// the tie.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 2, max = 5))]
    pub replicas: Option<u32>,
    /// For `Sampled`: the share of jobs that is checked on a node of no reputation, in thousandths. It falls with the node's
    /// reputation, to a fifth of this. Whether a job is checked is drawn after it has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub sample_permille: Option<u32>,
}

closed_enum! {
    /// How results are checked.
    pub enum VerificationMode {
        /// They are not.
        None,
        /// Every member runs several times and the digests must agree.
        Redundant,
        /// Some jobs are checked as with `Redundant`.
        Sampled,
    }
}

/// What has become of the job.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ComputeJobStatus {
    /// The generation of the spec that the operator has acted on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// `Validated`, `Admitted`, `Scheduled`, `Running`, `Complete`, `Failed`, `Verified`, `Metered`, `Settled` and the summary
    /// `Ready`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::conditions")]
    pub conditions: Vec<Condition>,

    /// Where the newest attempt was placed, and the decision that can be replayed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<Placement>,

    /// Where the job stands in the queue. Absent where it does not wait for a place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<QueuePlace>,

    /// The attempt that is being stopped, and why. Written before the first pod of it is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ending: Option<Ending>,

    /// The last 10 attempts that have ended.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["attempt".into()]))]
    pub attempts: Vec<Attempt>,

    /// Members that were lost while the others ran on, and whose ranks were started elsewhere, or are to be
    /// (`spec.retry.lostMember`): those whose use is not billed yet, and at least the last 32.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["attempt".into(), "member".into()]))]
    pub replaced: Vec<ReplacedMember>,

    /// How often attempts have failed, by whose fault; compared with `spec.retry`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failures: Option<Failures>,

    /// What the job has used so far: the attempts that have ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<JobUsage>,

    /// How far the payment is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settlement: Option<JobSettlement>,

    /// What the program left as its result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<JobResult>,

    /// How the check of the result stands. Absent where `spec.verification` does not ask for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verification: Option<JobVerification>,

    /// Why the job ended. Absent while it has not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_reason: Option<JobEndReason>,

    /// When the job ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Time>,
}

/// Where a job stands among those that wait for a place.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct QueuePlace {
    /// Its place in the order by priority, fair share of its payer, and age: exact up to 10; above that rounded up to 20, 50,
    /// 100, 200, 500 and so on. A smaller job further behind may start before, where that delays nobody.
    #[schemars(range(min = 1))]
    pub position: u32,
    /// For the first job that does not fit now, for which room is kept: by when it starts at the latest, while every attempt
    /// that it waits for ends by its `timeouts.run`, nodes stay as they are, and no job comes before it. Absent where an attempt
    /// that it waits for has no such limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starts_by: Option<Time>,
}

/// Where an attempt was placed. Written before any pod of it exists.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Placement {
    /// The attempt, counted from 1.
    #[schemars(range(min = 1))]
    pub attempt: u32,
    /// Each member's node, in the order of the ranks.
    #[schemars(length(min = 1, max = 256))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["member".into()]))]
    pub nodes: Vec<MemberNode>,
    /// When it was decided; `timeouts.start` counts from here.
    pub decided_at: Time,
    /// What is needed to replay the decision.
    pub decision: Decision,
}

/// A member's node.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct MemberNode {
    /// The member, counted from 0. No two members of an attempt have one number, whenever they ran.
    pub member: u32,
    /// The member's rank, by which the program and its peers know it. Absent where it is the member's number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank: Option<u32>,
    /// The node.
    #[schemars(length(min = 1, max = 253))]
    pub node: String,
    /// The price of one GPU for one second there, as it stood when this was decided: in whole tokens as a decimal
    /// string. Absent if the node is free of charge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_gpu_second: Option<TokenAmount>,
    /// The account number of the provider whose node it was. Absent without a chain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub provider_id: Option<u32>,
    /// The chain on which that account is, by its name in the operator's configuration. Absent without a chain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub chain: Option<String>,
    /// How it came to take the place of a member that was lost. Absent where it is of those with which the attempt began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replacement: Option<Replacement>,
}

/// How a member came to take the place of one that was lost.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Replacement {
    /// The member whose rank it has taken over.
    pub member: u32,
    /// How many members of the attempt have had the rank before it.
    pub restarts: u32,
    /// When it was decided.
    pub decided_at: Time,
    /// What is needed to replay the decision. Members that were replaced by one decision show the same.
    pub decision: Decision,
}

/// A draw, with everything that is needed to replay it from the archive.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Decision {
    /// The version of the draw, such as `gridstake-draw/1`.
    #[schemars(length(max = 32))]
    pub draw: String,
    /// The newest finalized block's hash that was known; all zeros if no chain was ever seen.
    #[schemars(schema_with = "crate::schema::hash")]
    pub block_hash: String,
    /// The hash of the decision before this one; all zeros for the first.
    #[schemars(schema_with = "crate::schema::hash")]
    pub previous: String,
    /// The hash of this decision.
    #[schemars(schema_with = "crate::schema::hash")]
    pub hash: String,
    /// The state of the log of decisions before this one, from which the archive tells the fleet on which it was made. Absent
    /// where no log is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::hash")]
    pub state: Option<String>,
    /// The sequence number of the snapshot on which it was made.
    pub snapshot: u64,
    /// How many nodes could take the job.
    pub candidates: u32,
    /// The sum of their weights, in decimal.
    #[schemars(length(max = 40))]
    pub total_weight: String,
    /// The numbers drawn below the total weight, one per draw, in decimal.
    #[schemars(length(max = 256), inner(length(max = 40)))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub drawn: Vec<String>,
    /// How many nodes could not take it, by the first reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["reason".into()]))]
    pub rejections: Vec<RejectionCount>,
}

/// How many nodes a reason ruled out.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RejectionCount {
    /// The reason.
    #[schemars(length(max = 63))]
    pub reason: String,
    /// How many nodes.
    pub nodes: u32,
}

/// An attempt that is being stopped.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Ending {
    /// The attempt, counted from 1.
    #[schemars(range(min = 1))]
    pub attempt: u32,
    /// Why it is stopped.
    pub reason: AttemptEndReason,
    /// When that was decided.
    pub since: Time,
    /// The exit code of the member that decided it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// What a person should read, in the kubelet's or scheduler's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub message: Option<String>,
    /// What the kubelet's or the control plane's own words point to; the verdict may rest on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<VerdictReason>,
    /// The members that decided it. Empty where nothing that happened to a member did, such as for `Suspended`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub members: Vec<u32>,
    /// The nodes of the members that decided it, where the place may be to blame. Other members' nodes are not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(max = 253)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub suspects: Vec<String>,
}

/// An attempt that has ended.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Attempt {
    /// The attempt, counted from 1.
    #[schemars(range(min = 1))]
    pub attempt: u32,
    /// The nodes it was on, without repetition.
    #[schemars(length(max = 256), inner(length(max = 253)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub nodes: Vec<String>,
    /// When the first container started; absent if none did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// When it ended.
    pub ended_at: Time,
    /// Why it ended.
    pub end_reason: AttemptEndReason,
    /// The exit code of the member that decided the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// What a person should read, in the kubelet's or scheduler's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub message: Option<String>,
    /// GPU-milliseconds that its members held: Σ GPUs × (end − start of the member's containers).
    pub gpu_millis: u64,
    /// The nodes that may be to blame for the end. This job does not try them again for a while.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(max = 253)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub suspects: Vec<String>,
    /// At whose door the end is laid. Absent where nothing failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// On what the verdict rests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict_reason: Option<VerdictReason>,
    /// The members to whose nodes or processes the verdict applies. The others were stopped for their sake.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub verdict_members: Vec<u32>,
}

/// A member that was lost while the others ran on.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ReplacedMember {
    /// The attempt, counted from 1.
    #[schemars(range(min = 1))]
    pub attempt: u32,
    /// The member, counted from 0.
    pub member: u32,
    /// Its rank, which another member takes over.
    pub rank: u32,
    /// The node that it was on.
    #[schemars(length(min = 1, max = 253))]
    pub node: String,
    /// When it was given up; `timeouts.start` of the member that takes its place counts from here.
    pub at: Time,
    /// How it was lost.
    pub why: AttemptEndReason,
    /// Its exit code, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// What a person should read, in the kubelet's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub message: Option<String>,
    /// At whose door that is laid. Absent where it was lost for the sake of another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// On what the verdict rests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict_reason: Option<VerdictReason>,
    /// When the rank ran again. Absent if it does not, or did not before it was lost once more or the attempt ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
}

closed_enum! {
    /// Why an attempt ended.
    pub enum AttemptEndReason {
        /// Every member ended with exit code 0.
        Succeeded,
        /// A container ended with another exit code.
        ExitedNonZero,
        /// A container was killed for using more memory than its limit.
        OutOfMemory,
        /// An image could not be pulled within `timeouts.start`.
        ImagePullFailed,
        /// A container could not be started, such as for a missing secret or command.
        ContainerStartFailed,
        /// A member could not be bound to its node within `timeouts.start`, since something else took its place.
        PlacementLost,
        /// A member was bound and did not start within `timeouts.start`.
        StartTimeout,
        /// The kubelet refused the pod although the scheduler had bound it.
        AdmissionFailed,
        /// The pod was evicted or preempted.
        Evicted,
        /// The provider took the GPUs back: for a local pod on an `IdleOnly` node, or at the end of an offer window. It costs
        /// no retry.
        Reclaimed,
        /// A job of higher priority took the GPUs. It costs no retry.
        Preempted,
        /// The node is gone or its kubelet does not answer.
        NodeLost,
        /// A GPU of the attempt was lost, or the kubelet gave it one that must not be used.
        DeviceLost,
        /// The pod was deleted by somebody else.
        PodDeleted,
        /// A member was lost and could not be started elsewhere within `timeouts.start`. That it was lost has cost its retry; this
        /// costs no other.
        NotReplaced,
        /// The attempt ran longer than `timeouts.run`.
        RunTimeout,
        /// The job was suspended.
        Suspended,
        /// The payer's escrow would not have lasted: the job was stopped and goes on once it is topped up.
        EscrowExhausted,
        /// The job was deleted.
        Deleted,
    }
}

closed_enum! {
    /// At whose door a failure is laid.
    pub enum Verdict {
        /// The provider's hardware or node.
        Host,
        /// The tenant's program.
        Tenant,
        /// The network, the control plane or Gridstake itself.
        Infrastructure,
        /// The evidence does not tell. It never costs anybody stake.
        Ambiguous,
    }
}

closed_enum! {
    /// On what a verdict rests.
    pub enum VerdictReason {
        /// A GPU of the attempt was lost: it fell off the bus or needs a reset.
        GpuLost,
        /// The driver reported an Xid against the hardware of a GPU of the attempt.
        HardwareXid,
        /// A GPU of the attempt met uncorrectable memory errors, or could not remap a row.
        MemoryFault,
        /// The kubelet gave the attempt a GPU that must not be used.
        UnfitGpu,
        /// The node stopped answering by itself while the others went on.
        NodeLost,
        /// The node was shut down.
        NodeShutdown,
        /// A GPU of the attempt calculated wrong: a canary job, whose program is the operator's own and whose result is known
        /// beforehand, found another one.
        WrongResult,
        /// The node's container runtime could not hand out the GPU.
        GpuRuntime,
        /// The device plugin or the kubelet refused the pod for another reason than want of room.
        AdmissionRefused,
        /// The driver reported an Xid that programs cause, on a GPU of the attempt.
        ProgramXid,
        /// The program ended with an error, its node and GPUs were watched, and nothing was reported against them.
        ProgramExit,
        /// The program used more memory than its limit.
        MemoryLimit,
        /// The program used more ephemeral storage than its limit.
        StorageLimit,
        /// The image's name is wrong, or it does not exist.
        ImageName,
        /// The container's command, or a Secret or ConfigMap that it names, is wrong.
        ContainerConfig,
        /// The provider had announced maintenance.
        Maintenance,
        /// Too many nodes fell silent together.
        Amnesty,
        /// The node fell silent together with others: a zone, a switch or a power supply.
        LostTogether,
        /// Something else took the place before the attempt had started.
        PlaceTaken,
        /// The pod was preempted, or evicted through the API, such as by a drain.
        Displaced,
        /// The Node object was deleted.
        NodeDeleted,
        /// The node's kubelet evicted the pod since it ran short of memory, disk or processes.
        NodePressure,
        /// The pod was deleted by somebody: the tenant may do so, and so may the cluster.
        PodDeleted,
        /// The process was killed by a signal that nobody has accounted for.
        Killed,
        /// A GPU reported a fault of its hardware and one of the program, or a fault that may be either's.
        SignalsDisagree,
        /// Node or GPUs were not watched when it happened, so that it is not known what they would have reported.
        NotWatched,
        /// The image could not be pulled, which may be the registry's, the network's or the tenant's doing.
        ImagePull,
        /// The container could not be started for a reason that names nobody.
        ContainerStart,
        /// The attempt did not start in time, and nothing says why.
        NotStarted,
    }
}

/// How often attempts have failed, by whose fault.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Failures {
    /// Not the program's fault; compared with `spec.retry.infrastructure`.
    #[serde(default)]
    pub infrastructure: u32,
    /// The program's fault; compared with `spec.retry.user`.
    #[serde(default)]
    pub user: u32,
    /// Placements that were lost to something else before the job started. They cost no retry.
    #[serde(default)]
    pub placement: u32,
}

/// What a job has used.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct JobUsage {
    /// Allocated GPU-milliseconds.
    pub gpu_millis: u64,
    /// Energy in millijoules, where the devices measure it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub energy_millijoules: Option<u64>,
    /// What it costs, in whole tokens; absent without a chain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<TokenAmount>,
}

/// How far the payment is.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct JobSettlement {
    /// The chain's name in the operator's configuration.
    #[schemars(length(max = 63))]
    pub chain: String,
    /// The lane.
    pub lane: u32,
    /// Slices that are sealed.
    pub sealed: u32,
    /// Slices whose payment is final.
    #[serde(rename = "final")]
    pub finalized: u32,
    /// The last transaction that paid for this job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::hash")]
    pub last_transaction: Option<String>,
}

/// What a program left as its result.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct JobResult {
    /// What member 0 wrote to its termination message, at most 256 characters: usually the digest of its output.
    #[schemars(length(max = 256))]
    pub digest: String,
}

/// The most runs of a job whose result is checked, the first included: five that must agree, and two in place of runs that
/// failed or to break a tie.
pub const MOST_RUNS: u32 = 7;

/// How the check of a result stands.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct JobVerification {
    /// The state.
    pub state: VerificationState,
    /// The digest that more than half of the owners computed. Absent until there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub digest: Option<String>,
    /// For `Sampled`: the draw that decided whether the result is checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample: Option<SampleDraw>,
    /// The runs that are compared. The first is the job itself, the others are ComputeJobs of their own, owned by it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 7))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["job".into()]))]
    pub runs: Vec<CheckedRun>,
}

/// The draw that decides whether a result is checked.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct SampleDraw {
    /// The share of results that is checked, in thousandths, as the node's reputation made it.
    pub share_permille: u32,
    /// The number drawn, from 0 to 999. Below the share, the result is checked.
    pub drawn: u32,
    /// A random number of the operator, made after the end of the job: nobody could know it before.
    #[schemars(schema_with = "crate::schema::hash")]
    pub nonce: String,
}

/// One run whose digest is compared.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct CheckedRun {
    /// The ComputeJob, in the same namespace.
    #[schemars(length(min = 1, max = 63))]
    pub job: String,
    /// How far it is.
    pub outcome: RunOutcome,
    /// The node of its member 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub node: Option<String>,
    /// Who owns the nodes that computed it: `<chain>/<account number of the provider>`, or the name of a node that is bound to
    /// no provider.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(max = 253)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub owners: Vec<String>,
    /// What its member 0 left in its termination message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub digest: Option<String>,
}

closed_enum! {
    /// How far a run is whose digest is compared.
    pub enum RunOutcome {
        /// It waits or runs.
        Pending,
        /// Its digest counts.
        Counted,
        /// It ended well on a node whose owner has computed the result already, so it does not count.
        SameOwner,
        /// It ended well and left no digest.
        NoDigest,
        /// It did not end well.
        Failed,
    }
}

closed_enum! {
    /// How the check of a result stands.
    pub enum VerificationState {
        /// Runs are under way.
        Pending,
        /// The sample did not hit the job.
        NotSampled,
        /// All owners computed the same digest.
        Agreed,
        /// More than half of the owners computed the job's digest, and somebody another one.
        Confirmed,
        /// More than half of the owners computed another digest than the job.
        Outvoted,
        /// No digest has a majority: the program may not give the same result twice.
        Disagreed,
        /// The job left no digest in its termination message.
        NoDigest,
        /// Too few runs on nodes of different owners ended well.
        TooFewResults,
    }
}

impl VerificationState {
    /// Whether nothing more will be found out.
    #[must_use]
    pub const fn is_final(self) -> bool {
        !matches!(self, Self::Pending)
    }
}

closed_enum! {
    /// Why a job ended.
    pub enum JobEndReason {
        /// Every member of an attempt ended with exit code 0.
        Succeeded,
        /// The program failed more often than `retry.user` allows.
        ProgramFailed,
        /// Attempts failed for other reasons more often than `retry.infrastructure` allows.
        InfrastructureFailed,
        /// No placement within `timeouts.queue`.
        QueueTimeout,
        /// An attempt ran longer than `timeouts.run`.
        RunTimeout,
    }
}

closed_enum! {
    /// The conditions of a ComputeJob.
    pub enum ComputeJobCondition {
        /// The spec is sound and the API server would take its pods.
        Validated,
        /// The job may wait for a place: it can be satisfied, and paid for.
        Admitted,
        /// The newest attempt has its nodes.
        Scheduled,
        /// All members run, or run but for a few that are replaced (`ReplacingMember`).
        Running,
        /// Every member has ended with exit code 0.
        Complete,
        /// The job has ended without success.
        Failed,
        /// Nodes of different owners computed the same result. `Unknown` where no check was asked for, or the sample did not
        /// hit the job.
        Verified,
        /// The use of every ended attempt is recorded.
        Metered,
        /// Every slice's payment is final.
        Settled,
        /// The summary: `True` while the job makes the progress that it should, and when it is complete. Its reason is
        /// the job's state in one word.
        Ready,
    }
}

closed_enum! {
    /// Reasons of a ComputeJob's conditions.
    pub enum ComputeJobReason {
        /// Not looked at yet.
        Pending,
        /// The spec is sound.
        Valid,
        /// The spec contradicts itself or asks for what tenants may not have; the message names the field.
        InvalidTemplate,
        /// The API server refuses the pod; the message is its own.
        PodRefused,
        /// The API server could not be asked; it will be asked again.
        ValidationUnavailable,
        /// The job may wait for a place.
        Admitted,
        /// No node could ever take the job, free or not; the message names the nearest miss.
        Unsatisfiable,
        /// There is no PriorityClass of that name.
        PriorityClassMissing,
        /// `spec.suspend` is set.
        Suspended,
        /// The namespace has no payer that consents.
        PayerNotConsenting,
        /// The payer's escrow cannot carry the job.
        EscrowExhausted,
        /// The chain has been away for too long.
        ChainUnavailable,
        /// The namespace's annotation `gridstake.dev/chain` names a chain that the operator does not have.
        ChainNotConfigured,
        /// The provider that answers for this lane has too little stake, so the lane takes no new jobs.
        CoordinatorUnbonded,
        /// The job waits for a place; the condition `Scheduled` says for what.
        Queued,
        /// Waiting: nodes could take the job, but not now; the message counts the reasons, says what comes nearest and what would let
        /// the job fit now. `status.queue` is its place in the queue.
        InsufficientCapacity,
        /// Waiting: an attempt ended and the next one is held back for a moment.
        BackingOff,
        /// The attempt has its nodes.
        Placed,
        /// Pods are being created, bound or started.
        Starting,
        /// A pod carries a scheduling gate that somebody else put there, such as Kueue; the message names it. The place is kept, and
        /// `timeouts.start` counts from when the gate is lifted.
        WaitingForGate,
        /// A container waits for its image; the message is the kubelet's.
        WaitingForImage,
        /// A pod waits to be bound; the message is the scheduler's.
        WaitingForBinding,
        /// All members run.
        Running,
        /// A node of the job does not answer, neither its agent nor its kubelet; unless it does soon, the job is placed elsewhere.
        NodeSuspect,
        /// A node of the job does not answer, like too many others: the job is left alone until they are back.
        Amnesty,
        /// A member was lost: the others run on, and its rank is started elsewhere (`spec.retry.lostMember`). The message says which.
        ReplacingMember,
        /// Pods are being stopped.
        Stopping,
        /// The job has ended.
        Ended,
        /// Every member has ended with exit code 0.
        Succeeded,
        /// The program failed more often than allowed.
        ProgramFailed,
        /// Attempts failed for other reasons more often than allowed.
        InfrastructureFailed,
        /// No placement in time.
        QueueTimeout,
        /// An attempt ran too long.
        RunTimeout,
        /// The job has not ended.
        NotEnded,
        /// `spec.verification` asks for no check of the result.
        NotAsked,
        /// Other nodes compute the result once more.
        Verifying,
        /// The sample did not hit the job: its result is not checked.
        NotSampled,
        /// More than half of the owners computed the job's result.
        ResultsAgree,
        /// More than half of the owners computed another result than the job; `status.verification.digest` is theirs.
        Outvoted,
        /// No result has a majority; a program that is checked must give the same result each time.
        ResultsDisagree,
        /// The job left no digest in its termination message.
        NoDigest,
        /// Too few runs on nodes of different owners ended well.
        TooFewResults,
        /// The use is recorded.
        Recorded,
        /// Nothing has been used yet.
        NothingUsed,
        /// An attempt is in progress.
        InProgress,
        /// No chain is configured, so nothing is owed.
        NoChainConfigured,
        /// Slices wait to be paid.
        Unsettled,
        /// Every slice is paid.
        Settled,
        /// The operator could not do what it wants; it tries again. The message says what.
        Retrying,
    }
}

/// `timeouts.start` where the job does not say: enough to pull a large image.
pub const DEFAULT_START_TIMEOUT: std::time::Duration = std::time::Duration::from_mins(5);
/// `retry.infrastructure` where the job does not say.
pub const DEFAULT_INFRASTRUCTURE_RETRIES: u32 = 3;
/// Entries that `status.attempts` keeps.
pub const ATTEMPTS_KEPT: usize = 10;
/// Entries that `status.replaced` keeps, beside those whose use is not billed yet.
pub const REPLACED_KEPT: usize = 32;
/// Entries that `status.replaced` has at most.
pub const MOST_REPLACED: usize = 256;

impl ComputeJobSpec {
    /// `timeouts.start`, or its default.
    #[must_use]
    pub fn start_timeout(&self) -> std::time::Duration {
        self.timeouts
            .as_ref()
            .and_then(|t| t.start)
            .map_or(DEFAULT_START_TIMEOUT, std::time::Duration::from)
    }

    /// `timeouts.queue`, if set.
    #[must_use]
    pub fn queue_timeout(&self) -> Option<std::time::Duration> {
        self.timeouts
            .as_ref()
            .and_then(|t| t.queue)
            .map(std::time::Duration::from)
    }

    /// `timeouts.run`, if set.
    #[must_use]
    pub fn run_timeout(&self) -> Option<std::time::Duration> {
        self.timeouts
            .as_ref()
            .and_then(|t| t.run)
            .map(std::time::Duration::from)
    }

    /// `retry.infrastructure`, or its default.
    #[must_use]
    pub fn infrastructure_retries(&self) -> u32 {
        self.retry
            .as_ref()
            .and_then(|r| r.infrastructure)
            .unwrap_or(DEFAULT_INFRASTRUCTURE_RETRIES)
    }

    /// `retry.user`, or its default.
    #[must_use]
    pub fn user_retries(&self) -> u32 {
        self.retry.as_ref().and_then(|r| r.user).unwrap_or(0)
    }

    /// `retry.lostMember`, or its default.
    #[must_use]
    pub fn lost_member(&self) -> LostMember {
        self.retry
            .as_ref()
            .and_then(|r| r.lost_member)
            .unwrap_or(LostMember::Restart)
    }
}

impl MemberNode {
    /// The rank by which the program and its peers know the member.
    #[must_use]
    pub fn rank(&self) -> u32 {
        self.rank.unwrap_or(self.member)
    }

    /// How many members of the attempt have had its rank before it.
    #[must_use]
    pub fn restarts(&self) -> u32 {
        self.replacement.as_ref().map_or(0, |r| r.restarts)
    }
}

impl ComputeJobStatus {
    /// The attempt that has been placed and has not ended, if any.
    #[must_use]
    pub fn active_placement(&self) -> Option<&Placement> {
        self.placement.as_ref().filter(|p| {
            self.end_reason.is_none() && !self.attempts.iter().any(|a| a.attempt == p.attempt)
        })
    }

    /// What is known of a member that was lost while the others ran on.
    #[must_use]
    pub fn replaced(&self, attempt: u32, member: u32) -> Option<&ReplacedMember> {
        let is_it = |lost: &&ReplacedMember| lost.attempt == attempt && lost.member == member;
        self.replaced.iter().find(is_it)
    }

    /// The lost members of the attempt in progress whose ranks do not run again yet, the last one of each rank.
    pub fn being_replaced(&self) -> impl Iterator<Item = &ReplacedMember> {
        let attempt = self.active_placement().map(|placement| placement.attempt);
        let of_attempt = move |lost: &&ReplacedMember| Some(lost.attempt) == attempt;
        self.replaced.iter().filter(of_attempt).filter(move |lost| {
            // Numbers are given out in the order of time.
            let is_later =
                |other: &ReplacedMember| other.rank == lost.rank && other.member > lost.member;
            let was_lost_again = self.replaced.iter().filter(of_attempt).any(is_later);
            lost.started_at.is_none() && !was_lost_again
        })
    }

    /// Whether the job has ended, with success or without.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.end_reason.is_some()
    }
}
