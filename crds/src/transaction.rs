//! What every write to a chain leaves behind before it is sent, and where it ended up.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::stake_binding::BlockReference;

/// One signed EIP-1559 transaction. It is stored before it is sent, so a crash or a timeout never loses track of it;
/// the raw bytes are rebuilt from these fields and the call's content.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct TransactionAttempt {
    /// The transaction's hash.
    #[schemars(schema_with = "crate::schema::hash")]
    pub hash: String,
    /// The account that pays for the gas.
    #[schemars(schema_with = "crate::schema::address")]
    pub from: String,
    /// The account's nonce. A replacement has the same one.
    pub nonce: u64,
    /// The gas limit.
    #[schemars(range(min = 21000))]
    pub gas_limit: u64,
    /// The most to be paid per gas, base fee included, in wei.
    #[schemars(schema_with = "crate::schema::big_integer")]
    pub max_fee_per_gas: String,
    /// The tip per gas, in wei.
    #[schemars(schema_with = "crate::schema::big_integer")]
    pub max_priority_fee_per_gas: String,
    /// The transaction's signature.
    #[schemars(schema_with = "crate::schema::signature")]
    pub signature: String,
    /// Which authorization the call carries, by its `validUntil` (Unix seconds). Absent for calls without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_until: Option<u64>,
    /// When it was signed.
    pub signed_at: Time,
}

/// An EIP-712 signature that lets anybody send a call until it expires.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Authorization {
    /// The last second in which the contract takes it, in Unix seconds of the chain's clock.
    pub valid_until: u64,
    /// The signature.
    #[schemars(schema_with = "crate::schema::signature")]
    pub signature: String,
}

/// A transaction in a block.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Inclusion {
    /// The transaction's hash.
    #[schemars(schema_with = "crate::schema::hash")]
    pub transaction: String,
    /// The block that holds it.
    pub block: BlockReference,
    /// The time of that block, in Unix seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<u64>,
    /// The gas it used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gas_used: Option<u64>,
    /// What each gas cost, in wei.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::big_integer")]
    pub effective_gas_price: Option<String>,
}
