//! The Gridstake API: group `gridstake.dev`, version `v1alpha1`.
//!
//! | kind | scope | who writes it |
//! |---|---|---|
//! | [`GpuNode`] | cluster | spec: provider; status: agent and operator |
//! | [`ComputeJob`] | namespaced | spec: tenant; status: operator |
//! | [`StakeBinding`] | cluster | spec: provider; status: operator |
//! | [`UsageRecord`] | the operator's namespace | spec: operator, immutable; status: agent and operator |
//! | [`SettlementBatch`] | cluster | operator |
//! | [`Incident`] | cluster | operator |
//!
//! This crate holds types, validation rules and names only. It knows no client, no clock and no other part.

#![allow(
    clippy::duplicated_attributes,
    reason = "false positives on kube's printcolumn lists"
)]

pub mod amount;
pub mod closed_enum;
pub mod compute_job;
pub mod condition;
pub mod duration;
pub mod gpu_node;
pub mod incident;
pub mod measurement;
pub mod names;
pub mod pod_template;
pub mod schema;
pub mod settlement_batch;
pub mod stake_binding;
mod structural;
pub mod transaction;
pub mod usage_record;
pub mod xid;

pub use amount::TokenAmount;
pub use compute_job::{ComputeJob, ComputeJobSpec, ComputeJobStatus};
pub use gpu_node::{GpuNode, GpuNodeSpec, GpuNodeStatus};
pub use incident::{Incident, IncidentSpec, IncidentStatus};
pub use pod_template::PodTemplate;
pub use settlement_batch::{SettlementBatch, SettlementBatchSpec, SettlementBatchStatus};
pub use stake_binding::{StakeBinding, StakeBindingSpec, StakeBindingStatus};
pub use structural::definition;
pub use usage_record::{UsageRecord, UsageRecordSpec, UsageRecordStatus};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;

/// The API group of every kind in this crate.
pub const GROUP: &str = "gridstake.dev";

/// The one version that is served.
pub const VERSION: &str = "v1alpha1";

/// Every kind's CustomResourceDefinition as it is installed, in the order in which they are documented.
#[must_use]
pub fn all_crds() -> Vec<CustomResourceDefinition> {
    vec![
        definition::<GpuNode>(),
        definition::<ComputeJob>(),
        definition::<StakeBinding>(),
        definition::<UsageRecord>(),
        definition::<SettlementBatch>(),
        definition::<Incident>(),
    ]
}

#[cfg(test)]
mod fuzz;
