//! `StakeBinding`: binds nodes to an on-chain provider and its stake.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::{amount::TokenAmount, closed_enum};

/// Which nodes stand for which on-chain provider.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "gridstake.dev",
    version = "v1alpha1",
    kind = "StakeBinding",
    plural = "stakebindings",
    singular = "stakebinding",
    shortname = "sb",
    category = "gridstake",
    status = "StakeBindingStatus",
    derive = "PartialEq",
    doc = "Binds nodes to an on-chain provider and its stake. The stake is divided over the nodes, never counted on each.",
    printcolumn(name = "Chain", type_ = "string", json_path = ".spec.chain"),
    printcolumn(name = "Provider", type_ = "integer", json_path = ".spec.providerId"),
    printcolumn(name = "Role", type_ = "string", json_path = ".spec.role"),
    printcolumn(name = "Nodes", type_ = "integer", json_path = ".status.nodeCount"),
    printcolumn(name = "Bonded", type_ = "string", json_path = ".status.bonded"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.stakerAddress.lowerAscii() != self.operatorAddress.lowerAscii()")
        .message("spec.operatorAddress must differ from spec.stakerAddress: the key that runs nodes must not be the key that owns the stake"),
    validation = Rule::new("!has(self.beneficiary) || !self.beneficiary.matches('^0x0*$')")
        .message("spec.beneficiary: the zero address would burn every reward; leave it out for the staker's address"),
    validation = Rule::new("has(self.nodeNames) != has(self.nodeSelector)")
        .message("set exactly one of spec.nodeNames and spec.nodeSelector"),
)]
pub struct StakeBindingSpec {
    /// The chain, by its name in the operator's configuration. The nodes serve namespaces whose payer is on this chain. A
    /// node that two bindings claim is bound by neither, whichever chains they name.
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("spec.chain cannot be changed: create a new StakeBinding"))]
    pub chain: String,
    /// The provider's account number on that chain: what the contract returned when the provider registered, such as 7.
    #[schemars(range(min = 1))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("spec.providerId cannot be changed: create a new StakeBinding"))]
    pub provider_id: u32,
    /// `Miner` offers GPUs; `Coordinator` runs a lane.
    pub role: StakeRole,
    /// The nodes, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 1024), inner(length(min = 1, max = 253)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub node_names: Vec<String>,
    /// The nodes, by the labels of their Node objects; all must match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::match_labels")]
    pub node_selector: Option<BTreeMap<String, String>>,
    /// The address that owns the stake.
    #[schemars(schema_with = "crate::schema::address")]
    pub staker_address: String,
    /// The address that signs the agents' keys. It must differ from the staker's.
    #[schemars(schema_with = "crate::schema::address")]
    pub operator_address: String,
    /// Where rewards go. Default: the staker's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::address")]
    pub beneficiary: Option<String>,
}

closed_enum! {
    /// What a stake answers for.
    pub enum StakeRole {
        /// Offering GPUs.
        Miner,
        /// Running a lane: placing, metering and settling jobs.
        Coordinator,
    }
}

/// What the chain says about the provider.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct StakeBindingStatus {
    /// The generation of the spec that the operator has acted on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The nodes that the binding selects and no other one claims.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024), inner(length(max = 253)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub nodes: Vec<String>,
    /// How many nodes that is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_count: Option<u32>,
    /// The provider's own stake.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bonded: Option<TokenAmount>,
    /// What others have delegated to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delegated: Option<TokenAmount>,
    /// Stake that is being withdrawn. It can still be slashed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub unbonding: Vec<Unbonding>,
    /// Stake that is frozen by a slash in dispute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frozen: Option<TokenAmount>,
    /// What the stake counts in the draw of jobs' nodes, in whole tokens: this binding's nodes' share of the provider's
    /// effective stake. `0` while the binding is not ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40))]
    pub effective_weight: Option<String>,
    /// The block at which these figures were first seen. It moves only along with something else: a block that changes
    /// nothing is not written down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_block: Option<BlockReference>,
    /// `Resolved`, `ContractMatch`, `ChainSynced`, `Bonded` and the summary `Ready`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::conditions")]
    pub conditions: Vec<Condition>,
}

/// Stake that is being withdrawn.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Unbonding {
    /// How much.
    pub amount: TokenAmount,
    /// When it can be withdrawn.
    pub available_at: Time,
}

/// A block of a chain.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct BlockReference {
    /// Its number.
    pub number: u64,
    /// Its hash.
    #[schemars(schema_with = "crate::schema::hash")]
    pub hash: String,
}

closed_enum! {
    /// The conditions of a StakeBinding.
    pub enum StakeBindingCondition {
        /// The binding selects nodes, and no other binding claims them.
        Resolved,
        /// The contract knows the provider with these addresses.
        ContractMatch,
        /// What is shown was read from the chain lately.
        ChainSynced,
        /// The stake suffices for the role.
        Bonded,
        /// The summary: the nodes count as staked.
        Ready,
    }
}

closed_enum! {
    /// Reasons of a StakeBinding's conditions.
    pub enum StakeBindingReason {
        /// The nodes are this binding's alone.
        NodesResolved,
        /// No node matches.
        NoNodes,
        /// Another binding claims a node too, so neither binds it; the message names both.
        ConflictingBindings,
        /// No chain of that name is configured.
        ChainNotConfigured,
        /// The contract agrees.
        Matches,
        /// The contract knows no such provider.
        ProviderUnknown,
        /// The contract has other addresses; the message says which.
        AddressMismatch,
        /// The chain's id, or the code at a configured address, is not what is configured; nothing is sent.
        ContractMismatch,
        /// Read from the chain lately.
        Synced,
        /// The chain cannot be reached.
        ChainUnavailable,
        /// The provider registered too recently to be paid.
        Cooling,
        /// The stake suffices.
        StakeSuffices,
        /// The stake is too small.
        StakeTooSmall,
        /// The nodes count as staked.
        Ready,
    }
}
