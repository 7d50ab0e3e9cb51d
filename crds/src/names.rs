//! Names that operator, agent, charts and users agree on: labels, finalizers, gates, field managers.

/// The extended resource under which NVIDIA devices are allocated.
pub const GPU_RESOURCE: &str = "nvidia.com/gpu";

/// Label on a job's pods: the ComputeJob's name.
pub const LABEL_JOB: &str = "gridstake.dev/job";
/// Label on a job's pods: the ComputeJob's uid, so that a namesake's pods are never taken for its own.
pub const LABEL_JOB_UID: &str = "gridstake.dev/job-uid";
/// Label on a job's pods: the attempt, counted from 1.
pub const LABEL_ATTEMPT: &str = "gridstake.dev/attempt";
/// Label on a job's pods: the gang member (rank), counted from 0.
pub const LABEL_MEMBER: &str = "gridstake.dev/member";
/// The well-known label that says what manages an object.
pub const LABEL_MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Value of [`LABEL_MANAGED_BY`] on everything that Gridstake creates.
pub const MANAGED_BY: &str = "gridstake";

/// Finalizer on a job's pods: the pod stays until its end has been recorded in the job's status.
pub const FINALIZER_METERING: &str = "gridstake.dev/metering";
/// Finalizer on ComputeJobs: the job stays until its pods have ended and are recorded.
pub const FINALIZER_JOB: &str = "gridstake.dev/compute-job";
/// Scheduling gate on the pods of a gang: lifted from all members in one go when all of them exist.
pub const GATE_PLACEMENT: &str = "gridstake.dev/placement";

/// Field manager of the device agent.
pub const MANAGER_AGENT: &str = "gridstake-device-agent";
/// Field manager of the operator's GpuNode controller.
pub const MANAGER_GPU_NODE: &str = "gridstake-operator/gpu-node";
/// Field manager of the operator's ComputeJob controller.
pub const MANAGER_COMPUTE_JOB: &str = "gridstake-operator/compute-job";
/// Field manager of the operator's placement controller: `status.placement` and the `Scheduled` condition.
pub const MANAGER_PLACEMENT: &str = "gridstake-operator/placement";
/// Field manager of the operator's StakeBinding controller.
pub const MANAGER_STAKE_BINDING: &str = "gridstake-operator/stake-binding";

/// The name of the heartbeat Lease that the agent on `node` renews.
#[must_use]
pub fn heartbeat_lease(node: &str) -> String {
    format!("agent-{node}")
}

/// The name of a member's pod: `<job>-<attempt>-<member>`.
#[must_use]
pub fn pod_name(job: &str, attempt: u32, member: u32) -> String {
    format!("{job}-{attempt}-{member}")
}
