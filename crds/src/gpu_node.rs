//! `GpuNode`: one Node and its GPUs as capacity on offer. It has the Node's name.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector, Time};
use kube::{CustomResource, KubeSchema, core::duration::Duration};
use serde::{Deserialize, Serialize};

use crate::{amount::TokenAmount, closed_enum};

/// What a provider says about one Node and its GPUs. Every field has a default, so an empty spec offers the node.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "gridstake.dev",
    version = "v1alpha1",
    kind = "GpuNode",
    plural = "gpunodes",
    singular = "gpunode",
    shortname = "gn",
    category = "gridstake",
    status = "GpuNodeStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "A Node and its GPUs as capacity on offer. It has the Node's name. The device agent creates it; the provider sets mode, prices and windows in its spec.",
    printcolumn(
        name = "Model",
        type_ = "string",
        json_path = ".status.devices[0].model"
    ),
    printcolumn(name = "GPUs", type_ = "integer", json_path = ".status.capacity"),
    printcolumn(name = "Free", type_ = "integer", json_path = ".status.free"),
    printcolumn(name = "Mode", type_ = "string", json_path = ".spec.mode"),
    printcolumn(name = "Offer", type_ = "string", json_path = ".status.offer.state"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.offer.reason"),
    printcolumn(
        name = "Price",
        type_ = "string",
        json_path = ".spec.pricing.perGpuSecond",
        priority = 1
    ),
    printcolumn(
        name = "Driver",
        type_ = "string",
        json_path = ".status.driver.version",
        priority = 1
    ),
    printcolumn(
        name = "Provider",
        type_ = "integer",
        json_path = ".status.providerId",
        priority = 1
    ),
    printcolumn(
        name = "Reputation",
        type_ = "integer",
        json_path = ".status.reputation",
        priority = 1
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!(has(self.mode) && self.mode == 'Scheduled') || (has(self.windows) && self.windows.size() > 0)")
        .message("mode Scheduled needs at least one window: set spec.windows, such as [{cron: \"0 20 * * *\", duration: \"10h\", timeZone: \"Europe/Berlin\"}]"),
)]
pub struct GpuNodeSpec {
    /// When the GPUs are offered: `Always`, `IdleOnly` (while nobody else uses them; a local pod that needs them gets them
    /// back from jobs), `Scheduled` (in the windows below; when they close, jobs give the GPUs back) or `Drained` (never;
    /// running jobs finish).
    #[serde(default)]
    #[schemars(schema_with = "offer_mode")]
    pub mode: OfferMode,

    /// For mode `Scheduled`: when the GPUs are on offer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub windows: Vec<OfferWindow>,

    /// For mode `IdleOnly`: when the node counts as idle. Default: 5 % for 300 seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle: Option<IdleRule>,

    /// What the provider asks. Without it the node is free of charge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pricing: Option<GpuPricing>,

    /// The provider's own costs. They only serve its reports and never change what a tenant pays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub economics: Option<Economics>,

    /// The region, as the provider declares it (nobody verifies it), such as `eu-central`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub region: Option<String>,

    /// The jurisdiction whose law applies, as the provider declares it (nobody verifies it): an ISO 3166-1 country
    /// code such as `DE`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Z]{2}$')").message("write an ISO 3166-1 country code in capitals, such as \"DE\""))]
    pub jurisdiction: Option<String>,

    /// Only jobs in namespaces with these labels may run here. Without it every namespace may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::label_selector")]
    pub namespace_selector: Option<LabelSelector>,

    /// Announced maintenance. In such a span the node is not offered, and its absence counts against nobody. Jobs that run
    /// there go on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub maintenance: Vec<MaintenanceWindow>,

    /// The provider's signature that certifies the key of this node's agent. With a chain configured the node is offered
    /// only while it is in force. `kubectl gridstake certify` makes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_certificate: Option<AgentCertificate>,
}

/// A provider's word that a key is its agent's: the EIP-712 signature over `AgentKey(provider, node, key, epoch,
/// notAfter)` by the provider's operator address.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct AgentCertificate {
    /// The agent's address, as in `status.agent.key`.
    #[schemars(schema_with = "crate::schema::address")]
    pub key: String,
    /// The provider's session epoch on chain for which it was signed: `revokeSessions` there voids all earlier ones.
    pub epoch: u64,
    /// When it ends.
    pub not_after: Time,
    /// The signature.
    #[schemars(schema_with = "crate::schema::signature")]
    pub signature: String,
}

closed_enum! {
    /// When a node's GPUs are offered.
    pub enum OfferMode {
        /// At any time.
        Always,
        /// While nobody else uses the GPUs. A local pod that needs them gets them back from jobs.
        IdleOnly,
        /// In the windows of `spec.windows`. When the last one closes, jobs give the GPUs back.
        Scheduled,
        /// Never. Running jobs finish.
        Drained,
    }
}

#[allow(
    clippy::derivable_impls,
    reason = "the variants are declared through closed_enum"
)]
impl Default for OfferMode {
    fn default() -> Self {
        Self::Always
    }
}

fn offer_mode(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "string", "enum": ["Always", "IdleOnly", "Scheduled", "Drained"], "default": "Always" })
}

/// A span that begins at the times of a cron expression.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct OfferWindow {
    /// When the window opens: a cron expression of five fields, such as `0 20 * * 1-5`.
    #[schemars(length(min = 9, max = 128))]
    #[x_kube(validation = Rule::new("self.matches('^(([*]|([0-9]{1,2}|[A-Za-z]{3})(-([0-9]{1,2}|[A-Za-z]{3}))?)(/[0-9]{1,2})?(,([*]|([0-9]{1,2}|[A-Za-z]{3})(-([0-9]{1,2}|[A-Za-z]{3}))?)(/[0-9]{1,2})?)*)( (([*]|([0-9]{1,2}|[A-Za-z]{3})(-([0-9]{1,2}|[A-Za-z]{3}))?)(/[0-9]{1,2})?(,([*]|([0-9]{1,2}|[A-Za-z]{3})(-([0-9]{1,2}|[A-Za-z]{3}))?)(/[0-9]{1,2})?)*)){4}$')").message("write five fields separated by single spaces: minute hour day month weekday, such as \"0 20 * * 1-5\""))]
    pub cron: String,
    /// How long it stays open, such as `10h`.
    #[serde(deserialize_with = "crate::duration::deserialize")]
    #[schemars(schema_with = "crate::schema::duration")]
    pub duration: Duration,
    /// The IANA time zone in which the expression is read, such as `Europe/Berlin`. Default: UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z][A-Za-z0-9_+/-]*$')").message("write the name of an IANA time zone, such as \"Europe/Berlin\" or \"UTC\""))]
    pub time_zone: Option<String>,
}

/// When a node counts as idle: no pod but those of jobs holds or awaits its GPUs, no process but theirs computes on them,
/// and those that no job holds are hardly utilised.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct IdleRule {
    /// Utilisation in percent at or below which a GPU counts as idle.
    #[schemars(range(min = 0, max = 100))]
    pub max_utilization_percent: u8,
    /// For how many seconds that must have been so before the node is offered.
    #[schemars(range(min = 10, max = 86400))]
    pub window_seconds: u32,
}

/// What a provider asks.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct GpuPricing {
    /// The price of one GPU for one second, in whole tokens as a decimal string with at most 9 decimals, such as
    /// `"0.00072"`.
    pub per_gpu_second: TokenAmount,
}

/// A provider's own costs, for its reports.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Economics {
    /// The price of one kilowatt-hour, in whole tokens as a decimal string, such as `"0.25"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub energy_tariff_per_kwh: Option<TokenAmount>,
    /// What the node cost to buy, in whole tokens as a decimal string.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capital_cost: Option<TokenAmount>,
}

/// An announced span of maintenance.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.from < self.to").message("a maintenance span must end after it begins: set to later than from"))]
pub struct MaintenanceWindow {
    /// When it begins (RFC 3339, such as `2027-01-31T22:00:00Z`).
    pub from: Time,
    /// When it ends (RFC 3339).
    pub to: Time,
    /// What is done, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub reason: Option<String>,
}

/// What the agent found and what the operator made of it.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct GpuNodeStatus {
    /// The generation of the spec that the operator has acted on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// The GPUs that NVML shows. Written by the device agent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["uuid".into()]))]
    pub devices: Vec<Device>,

    /// The driver's versions. Written by the device agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<Driver>,

    /// The device agent itself. Written by the device agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<Agent>,

    /// GPUs that can be allocated on the node: the smaller of what the kubelet allocates and what NVML shows healthy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub capacity: Option<u32>,

    /// GPUs that no pod holds or has been promised. Refreshed at most every 5 seconds; who holds what stands in the
    /// ComputeJobs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub free: Option<u32>,

    /// Whether jobs may be placed here, and if not, why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offer: Option<Offer>,

    /// GPUs, or the whole node, that get no jobs for a while because too much has failed on them. A quarantine ends by itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 65))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["subject".into()]))]
    pub quarantine: Vec<Quarantine>,

    /// The on-chain provider to which a StakeBinding binds this node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub provider_id: Option<u32>,

    /// The chain on which that provider is, by its name in the operator's configuration: what the StakeBinding names. The node
    /// serves namespaces whose payer is on this chain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub chain: Option<String>,

    /// Reputation in thousandths: that of the node's GPU with the lowest; `reputationTerms` explains it. 500 is a newcomer's, 1000
    /// the highest. It weighs in the draw of nodes for jobs, in proportion. Absent until it is known: until then the node counts as
    /// a newcomer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub reputation: Option<u32>,

    /// How the reputation of each GPU comes about. It belongs to the provider and the GPU: it moves with the GPU, and a GPU for
    /// which another provider answers begins anew.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["uuid".into()]))]
    pub reputation_terms: Vec<ReputationTerms>,

    /// The node's owner has a greater share of the weights of its GPU model than one owner may have, so this node weighs less in the
    /// draw of nodes for jobs: `level / sum` of what stake, reputation and price say. It is settled every 10 minutes. Absent where
    /// the owner is not cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner_cut: Option<OwnerCut>,

    /// How steady the node was in the last 30 days. It weighs in emissions. Absent until it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stability: Option<Stability>,

    /// How fast the node's GPUs are, as canary jobs have measured it. What has expired says nothing any more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["uuid".into()]))]
    pub performance: Vec<Performance>,

    /// Hash over the node's GPUs (UUIDs, models, memory) and its provider, as it stands on chain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::hash")]
    pub inventory_hash: Option<String>,

    /// The UUIDs of the GPUs that `inventoryHash` covers. While the node shows another one, it is not offered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 63)))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub posted_devices: Vec<String>,

    /// `Reporting`, `Healthy`, `Bonded`, `Offered`, `Quarantined`, `Measured` and the summary `Ready`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::conditions")]
    pub conditions: Vec<Condition>,
}

/// How the reputation of a GPU comes about: `score` is `base` + `experience` − `incidents` − `gaps`, at least 0 and at most 1000.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ReputationTerms {
    /// The GPU's UUID.
    #[schemars(length(min = 1, max = 63))]
    pub uuid: String,
    /// The GPU's reputation in thousandths.
    #[schemars(range(min = 0, max = 1000))]
    pub score: u32,
    /// What every GPU begins with.
    #[schemars(range(min = 0, max = 1000))]
    pub base: u32,
    /// What is added for the time that it served jobs without a fault of its host: the first hours count most. 500 at most, for
    /// half a year of work.
    #[schemars(range(min = 0, max = 1000))]
    pub experience: u32,
    /// What is taken off for its Incidents of the last 30 days; the older one is, the less it weighs. Those that were called off or
    /// not upheld weigh nothing.
    #[schemars(range(min = 0, max = 1000))]
    pub incidents: u32,
    /// What is taken off for the time in which it was down and should have been up: one for each thousandth of the last 30 days,
    /// 150 at most. Announced maintenance, an amnesty and time in which the node is not meant to be offered do not count.
    #[schemars(range(min = 0, max = 1000))]
    pub gaps: u32,
    /// The time that it served jobs without a fault of its host, in whole GPU-hours.
    pub gpu_hours: u64,
    /// The version of the formula.
    #[schemars(range(min = 1))]
    pub version: u32,
}

/// How the nodes of an owner whose share is too great are cut: each weighs `level / sum` of what stake, reputation and price say.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct OwnerCut {
    /// The weight that all nodes of this model and owner are left with together.
    #[schemars(length(max = 20), regex(pattern = r"^[0-9]+$"))]
    pub level: String,
    /// The weight that they had.
    #[schemars(length(max = 20), regex(pattern = r"^[0-9]+$"))]
    pub sum: String,
}

/// How steady a node was in the last 30 days; in thousandths, rounded down. 1000 is spotless, and what a node without a history
/// has.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Stability {
    /// Uptime × completion: what weighs in emissions, unless the operator's chains file sets another.
    #[schemars(range(min = 0, max = 1000))]
    pub permille: u32,
    /// The time in which its GPUs answered and could be used, out of the time in which they should have; at least a day counts.
    #[schemars(range(min = 0, max = 1000))]
    pub uptime_permille: u32,
    /// Attempts on its GPUs that ended well or by the tenant's fault, out of those and the ones that ended by the host's; at least
    /// 20 count for each GPU.
    #[schemars(range(min = 0, max = 1000))]
    pub completion_permille: u32,
    /// The version of the formula.
    #[schemars(range(min = 1))]
    pub version: u32,
}

/// One GPU.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Device {
    /// NVML's UUID, such as `GPU-5a3c0f6e-…`; the kubelet allocates by it.
    #[schemars(length(min = 1, max = 63))]
    pub uuid: String,
    /// NVML's index on this node; it may change at reboot.
    pub index: u32,
    /// The product name, such as `NVIDIA H100 80GB HBM3`.
    #[schemars(length(max = 96))]
    pub model: String,
    /// The architecture, such as `Hopper`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub architecture: Option<String>,
    /// Memory in MiB.
    #[serde(rename = "memoryMiB")]
    pub memory_mib: u64,
    /// CUDA compute capability, such as `9.0`.
    #[schemars(length(max = 8))]
    #[x_kube(validation = Rule::new("self.matches('^[0-9]{1,2}[.][0-9]{1,2}$')").message("write major.minor, such as \"9.0\""))]
    pub compute_capability: String,
    /// The PCI address, such as `00000000:1B:00.0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub pci_bus_id: Option<String>,
    /// Multi-instance GPU: whether it is on, and the instances.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mig: Option<Mig>,
    /// How the device plugin shares the device among pods. Absent: one pod at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sharing: Option<Sharing>,
    /// UUIDs or PCI addresses of the devices that NVLink connects to this one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 63)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub nvlink_peers: Vec<String>,
    /// Whether the device can be used.
    pub health: DeviceHealth,
    /// Why it cannot, or what is to be watched.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub reasons: Vec<DeviceReason>,
    /// What the driver has reported against the device in the last 24 h, the newest first; at most 16: where there are more,
    /// the oldest of what came most often goes. A failed attempt's verdict rests on those that fall into its time. They are
    /// told before the agent's next heartbeat, as of the heartbeat's `renewTime`: what a heartbeat that is later than a failure
    /// does not bring was not seen.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub faults: Vec<DeviceFault>,
}

/// Something that the driver has reported against a device.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct DeviceFault {
    /// What it was.
    pub kind: DeviceFaultKind,
    /// The number of the Xid, for faults of that kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub xid: Option<u32>,
    /// When it was seen first, in Unix milliseconds, by the node's clock as it stood then.
    pub first_ms: u64,
    /// When it was seen last, in Unix milliseconds. Of an Xid and of memory errors that is exact at each heartbeat. Of what
    /// lasts it is told at the begin, then every 5 minutes, and exactly when it is over; meanwhile `reasons` names it.
    pub last_ms: u64,
    /// How often it was seen in that time; of what lasts, in how many samples. Sightings with more than 60 seconds between
    /// them are two faults.
    #[schemars(range(min = 1))]
    pub count: u32,
}

closed_enum! {
    /// What the driver has reported against a device.
    pub enum DeviceFaultKind {
        /// An Xid event; `xid` is its number. Some of them speak against the program and not against the hardware.
        Xid,
        /// NVML lost the device.
        GpuLost,
        /// A call that every healthy device answers failed several times on end.
        CallFailing,
        /// The count of uncorrectable memory errors rose.
        EccUncorrectable,
        /// A memory row waits for a reset to be remapped.
        RowRemapPending,
        /// A memory row could not be remapped.
        RowRemapFailed,
        /// The clocks were lowered because the device was too hot.
        ThermalThrottling,
        /// The clocks were lowered because of the power supply.
        PowerThrottling,
    }
}

closed_enum! {
    /// Whether a device can be used.
    pub enum DeviceHealth {
        /// It answers and nothing speaks against it.
        Healthy,
        /// It works, with a reason to watch it.
        Degraded,
        /// It must not be given to a job.
        Unhealthy,
        /// NVML does not say.
        Unknown,
    }
}

closed_enum! {
    /// Why a device is not healthy.
    pub enum DeviceReason {
        /// NVML lost the device: it fell off the bus or needs a reset.
        GpuLost,
        /// A call that every healthy device answers fails on this one.
        CallFailing,
        /// Uncorrectable memory errors since the last reset.
        EccUncorrectable,
        /// Remapping of memory rows failed or awaits a reset.
        RowRemapPending,
        /// An Xid event that speaks against the hardware.
        XidFatal,
        /// The clocks are lowered because the device is too hot.
        ThermalThrottling,
        /// The clocks are lowered because of the power supply.
        PowerThrottling,
    }
}

/// Multi-instance GPU state of a device.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Mig {
    /// Whether MIG mode is on.
    pub enabled: bool,
    /// The instances that exist.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["uuid".into()]))]
    pub instances: Vec<MigInstance>,
}

/// One MIG instance.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct MigInstance {
    /// NVML's UUID of the instance: `MIG-…`.
    #[schemars(length(min = 1, max = 63))]
    pub uuid: String,
    /// Memory in MiB.
    #[serde(rename = "memoryMiB")]
    pub memory_mib: u64,
    /// Compute slices of the instance; a whole device has 7 on current models.
    pub compute_slices: u32,
}

/// How a device is shared among pods.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Sharing {
    /// By which means.
    pub strategy: SharingStrategy,
    /// Into how many replicas; each is billed as 1/replicas of the device.
    #[schemars(range(min = 1, max = 64))]
    pub replicas: u32,
}

closed_enum! {
    /// By which means pods share a device.
    pub enum SharingStrategy {
        /// The device plugin advertises replicas and the driver switches between them.
        TimeSlicing,
        /// NVIDIA's multi-process service.
        Mps,
    }
}

/// Versions of the driver on the node.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Driver {
    /// The driver's version, such as `580.95.05`.
    #[schemars(length(max = 80))]
    pub version: String,
    /// NVML's version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 80))]
    pub nvml: Option<String>,
    /// The newest CUDA version that the driver supports, such as `13.0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub cuda: Option<String>,
}

/// The device agent on the node.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Agent {
    /// The agent's version.
    #[schemars(length(max = 64))]
    pub version: String,
    /// Whether it can see the GPUs.
    pub state: AgentState,
    /// What a person should read: which library, call or symbol is the trouble.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub message: Option<String>,
    /// The address of the key with which this agent signs its checkpoints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<AgentKey>,
}

/// The key with which an agent signs. The provider certifies it in `spec.agentCertificate`.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct AgentKey {
    /// The key's EVM address.
    #[schemars(schema_with = "crate::schema::address")]
    pub address: String,
}

closed_enum! {
    /// Whether the device agent can see the GPUs.
    pub enum AgentState {
        /// NVML answers.
        Ok,
        /// There is no `libnvidia-ml.so.1` on the node.
        LibraryMissing,
        /// The library is there, but the driver is not loaded.
        DriverNotLoaded,
        /// The driver lacks a call that the agent needs; the message names it.
        DriverTooOld,
        /// The driver answers and shows no GPU.
        NoDevices,
        /// A call fails on the whole node; the message names it and NVML's error.
        CallFailing,
        /// A call has not returned for longer than it may take; the message names it.
        CallStuck,
    }
}

/// Whether jobs may be placed on the node.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Offer {
    /// `Offered` or `Withheld`.
    pub state: OfferState,
    /// Why.
    pub reason: OfferReason,
}

/// Why a GPU or a node gets no jobs for a while.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Quarantine {
    /// The GPU's UUID, or `node` for all of the node's.
    #[schemars(length(min = 1, max = 63))]
    pub subject: String,
    /// Why.
    pub reason: QuarantineReason,
    /// How many failures it rests on.
    #[schemars(range(min = 1))]
    pub failures: u32,
    /// When it ends, unless more fails before.
    pub until: Time,
}

/// How fast a GPU is: what a canary job has measured on it, against the reference device.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Performance {
    /// The GPU's UUID.
    #[schemars(length(min = 1, max = 63))]
    pub uuid: String,
    /// The mean of both figures' ratios to the reference device's, in thousandths: 1000 is the reference device.
    #[schemars(range(min = 0, max = 100_000))]
    pub permille: u32,
    /// Single precision, fused multiply-adds counted as two: 10⁹ operations a second.
    pub fp32_gflops: u64,
    /// Copies within its memory, what is read and what is written: 10⁹ bytes a second.
    #[serde(rename = "memoryGBs")]
    pub memory_gbs: u64,
    /// The reference against which it is weighed, such as `performance/1`.
    #[schemars(length(min = 1, max = 32))]
    pub reference: String,
    /// When it was measured.
    pub measured_at: Time,
    /// Until when that counts.
    pub expires_at: Time,
    /// The ComputeJob that measured it, in the operator's namespace.
    #[schemars(length(min = 1, max = 63))]
    pub job: String,
}

/// The subject of a quarantine of all of a node's GPUs.
pub const WHOLE_NODE: &str = "node";

closed_enum! {
    /// Why a GPU or a node is in quarantine.
    pub enum QuarantineReason {
        /// The kubelet, its device plugin or its container runtime refused three pods within ten minutes.
        AdmissionFailures,
        /// Two different jobs failed on the GPU within an hour, neither by the program's fault.
        RepeatedFailures,
        /// The kubelet goes on to hand out a GPU that must not be used, and two pods have failed on it.
        BrokenGpuAllocated,
    }
}

closed_enum! {
    /// Whether a node's free GPUs may be given to jobs.
    pub enum OfferState {
        /// They may.
        Offered,
        /// They may not.
        Withheld,
    }
}

closed_enum! {
    /// Why a node is or is not offered. The first that applies is given, in this order.
    pub enum OfferReason {
        /// Nothing speaks against it.
        Available,
        /// There is no Node of this name.
        NodeMissing,
        /// The Node is not Ready.
        NodeNotReady,
        /// The Node is cordoned: `spec.unschedulable` is set.
        NodeCordoned,
        /// The agent has not renewed its Lease for three heartbeats.
        AgentSilent,
        /// The agent has no NVML; see `status.agent`.
        NvmlUnavailable,
        /// NVML shows no GPU.
        NoDevices,
        /// No GPU is healthy.
        NoHealthyDevices,
        /// The kubelet allocates no `nvidia.com/gpu`: no device plugin is at work.
        NoDevicePlugin,
        /// An announced maintenance span is running.
        Maintenance,
        /// `spec.mode` is `Drained`.
        Drained,
        /// `spec.mode` is `Scheduled` and a window of `spec.windows` cannot be read; the message names the field.
        InvalidWindow,
        /// `spec.mode` is `Scheduled` and no window is open.
        OutsideWindow,
        /// `spec.mode` is `IdleOnly` and the node is in local use, or was within the idle window.
        InLocalUse,
        /// No StakeBinding gives the node the stake that the lane asks for.
        Unbonded,
        /// The key of the node's agent is not certified by the provider, or no longer; see `spec.agentCertificate`.
        KeyNotCertified,
        /// The node shows a GPU that has not been stated on chain; a batch that states it is on its way.
        InventoryNotPosted,
        /// The node shows a GPU that another node shows too: neither is offered until only one does.
        GpuClaimedTwice,
        /// Too many failures lately.
        Quarantined,
    }
}

closed_enum! {
    /// The conditions of a GpuNode.
    pub enum GpuNodeCondition {
        /// The agent renews its Lease and sees NVML.
        Reporting,
        /// All devices are healthy.
        Healthy,
        /// A StakeBinding gives the node the stake that the lane asks for.
        Bonded,
        /// Free GPUs may be given to jobs.
        Offered,
        /// Too many failures lately: nothing is placed here until clean time has passed. The one condition for which
        /// `True` is bad.
        Quarantined,
        /// A canary job has measured how fast every GPU is, and that still counts.
        Measured,
        /// The summary: the node can take jobs.
        Ready,
    }
}

closed_enum! {
    /// Reasons of `Reporting`, `Healthy`, `Bonded`, `Quarantined`, `Measured` and `Ready`; `Offered` uses [`OfferReason`].
    pub enum GpuNodeReason {
        /// The agent reports.
        AgentReporting,
        /// The agent has never renewed a Lease.
        AgentMissing,
        /// The agent has not renewed its Lease for three heartbeats.
        AgentSilent,
        /// The agent is silent, and too many others fell silent with it: nothing is held against any of them.
        Amnesty,
        /// The agent lives and cannot use NVML; the message says why.
        NvmlUnavailable,
        /// Every device is healthy.
        AllDevicesHealthy,
        /// Some devices are not healthy; the message names them.
        SomeDevicesUnhealthy,
        /// No device is healthy.
        NoHealthyDevices,
        /// There is no device to judge.
        NoDevices,
        /// No chain is configured, so no bond is asked for.
        NoChainConfigured,
        /// A StakeBinding binds the node and its stake suffices.
        Bonded,
        /// No StakeBinding selects the node.
        NoBinding,
        /// More than one StakeBinding selects the node, so none counts.
        ConflictingBindings,
        /// The bound stake is too small.
        StakeTooSmall,
        /// The StakeBinding is not ready for another reason, which the message gives.
        BindingNotReady,
        /// The chain has not been read for longer than `maxStaleness`, or never.
        ChainUnavailable,
        /// Nothing speaks against the node.
        Clean,
        /// The kubelet, its device plugin or its container runtime refused three pods within ten minutes.
        AdmissionFailures,
        /// Different jobs failed on a GPU, by no program's fault; see `status.quarantine`.
        RepeatedFailures,
        /// The kubelet goes on to hand out a GPU that must not be used.
        BrokenGpuAllocated,
        /// Every GPU has been measured, and that still counts.
        Measured,
        /// A GPU has not been measured, or what was measured has expired. A canary job follows when GPUs are free.
        NotMeasured,
        /// The same, and no canary job follows: the operator runs none.
        CanariesOff,
        /// GPUs of the node are divided (MIG) or shared: what is measured of a part says nothing about the GPU.
        DividedDevices,
        /// A GPU calculates wrong; the message names it.
        WrongResult,
        /// The last canary job failed by the node's fault; the message says why.
        CanaryFailed,
        /// The node can take jobs.
        Ready,
        /// The node cannot take jobs; see the condition `Offered`.
        NotOffered,
    }
}

/// How an agent's message begins its words about Xid events that it cannot hear.
pub const XIDS_NOT_HEARD: &str = "Xid events are not heard";

impl Agent {
    /// Whether it sees the GPUs and does not hear their Xid events.
    #[must_use]
    pub fn is_deaf(&self) -> bool {
        self.message
            .as_deref()
            .is_some_and(|message| message.contains(XIDS_NOT_HEARD))
    }
}

impl Default for IdleRule {
    fn default() -> Self {
        Self {
            max_utilization_percent: 5,
            window_seconds: 300,
        }
    }
}

impl GpuNodeStatus {
    /// Devices that may be given to jobs: they work, and are not in quarantine.
    pub fn usable_devices(&self) -> impl Iterator<Item = &Device> {
        self.devices
            .iter()
            .filter(|d| matches!(d.health, DeviceHealth::Healthy | DeviceHealth::Degraded))
            .filter(|d| !self.quarantine.iter().any(|q| q.subject == d.uuid))
    }

    /// Whether a device is cut into MIG instances, or given to several pods at once: a pod's GPU is then none of its own.
    #[must_use]
    pub fn divides_devices(&self) -> bool {
        self.devices
            .iter()
            .any(|d| d.sharing.is_some() || d.mig.as_ref().is_some_and(|mig| mig.enabled))
    }

    /// How many devices there are of each model.
    #[must_use]
    pub fn models(&self) -> BTreeMap<&str, usize> {
        self.devices
            .iter()
            .fold(BTreeMap::new(), |mut models, device| {
                *models.entry(device.model.as_str()).or_default() += 1;
                models
            })
    }
}
