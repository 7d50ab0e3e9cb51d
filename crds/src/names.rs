//! Names that operator, agent, charts and users agree on: labels, finalizers, gates, field managers.

/// The extended resource under which NVIDIA devices are allocated.
pub const GPU_RESOURCE: &str = "nvidia.com/gpu";

/// Label on a job's pods: the ComputeJob's name.
pub const LABEL_JOB: &str = "gridstake.dev/job";
/// Label on a job's pods: the ComputeJob's uid, so that a namesake's pods are never taken for its own.
pub const LABEL_JOB_UID: &str = "gridstake.dev/job-uid";
/// Label on a job's pods: the attempt, counted from 1.
pub const LABEL_ATTEMPT: &str = "gridstake.dev/attempt";
/// Label on a job's pods: the gang member, counted from 0.
pub const LABEL_MEMBER: &str = "gridstake.dev/member";
/// Label on a gang's pods: the rank, counted from 0. A member that takes the place of a lost one has that one's rank.
pub const LABEL_RANK: &str = "gridstake.dev/rank";
/// Label on the pods of a gang that its members can find by name: the job's name. It is taken off a member that is given up.
pub const LABEL_GANG: &str = "gridstake.dev/gang";
/// Label on a ComputeJob that the operator has created to check another one's result: the name of that one.
pub const LABEL_CHECKS: &str = "gridstake.dev/checks";
/// The well-known label that says what manages an object.
pub const LABEL_MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Value of [`LABEL_MANAGED_BY`] on everything that Gridstake creates.
pub const MANAGED_BY: &str = "gridstake";

/// Label on a SettlementBatch that was taken over from the chain, because the log had lost it; its value is `true` until it
/// is known what each of its numbers paid, then `resolved`.
pub const LABEL_RESTORED: &str = "gridstake.dev/restored";

/// Label on a canary job, by which the operator measures a node: the node. It counts in the operator's
/// namespace alone, where only the operator may set it.
pub const LABEL_CANARY: &str = "gridstake.dev/canary";

/// Finalizer on a job's pods: the pod stays until its end has been recorded in the job's status.
pub const FINALIZER_METERING: &str = "gridstake.dev/metering";
/// Finalizer on ComputeJobs: the job stays until its pods have ended and are recorded.
pub const FINALIZER_JOB: &str = "gridstake.dev/compute-job";
/// Scheduling gate on the pods of a gang: lifted from all members in one go when all of them exist.
pub const GATE_PLACEMENT: &str = "gridstake.dev/placement";

/// The PriorityClass of all job pods: it never preempts. The chart installs it.
pub const JOB_PRIORITY_CLASS: &str = "gridstake-job";

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
/// Field manager of the operator's metering: `status.sealed` and the conditions of UsageRecords.
pub const MANAGER_USAGE_RECORD: &str = "gridstake-operator/usage-record";
/// Field manager of the operator's settlement: SettlementBatches and `status.settlement` of UsageRecords.
pub const MANAGER_SETTLEMENT: &str = "gridstake-operator/settlement";
/// The PriorityClass by which canary jobs stand behind all others in the queue. The chart installs it.
pub const CANARY_PRIORITY_CLASS: &str = "gridstake-canary";

/// Field manager of the operator's canaries: `status.performance` and the condition `Measured` of GpuNodes.
pub const MANAGER_CANARY: &str = "gridstake-operator/canary";
/// Field manager of the operator's Incident controller.
pub const MANAGER_INCIDENT: &str = "gridstake-operator/incident";

/// Annotation on a Namespace: on which chain its jobs are paid for, by the chain's name in the operator's configuration. Left
/// out, it is the first one there.
pub const ANNOTATION_CHAIN: &str = "gridstake.dev/chain";
/// Annotation on a Namespace: the account number, on the operator's lane on that chain, of who pays for its jobs.
pub const ANNOTATION_PAYER: &str = "gridstake.dev/payer";
/// Annotation on a Namespace: the payer's EIP-712 signature that consents to pay for its jobs.
pub const ANNOTATION_PAYER_CONSENT: &str = "gridstake.dev/payer-consent";

/// Annotation on an agent's heartbeat Lease: the heads of its open evidence chains, as a JSON object from a UsageRecord's
/// name to `{"head": "0x…", "toMs": …}`, so that evidence is never older than a heartbeat and costs no write of its own.
pub const ANNOTATION_EVIDENCE_HEADS: &str = "gridstake.dev/evidence-heads";
/// Annotation of an Incident: the evidence, as the very text that hashes to `spec.evidenceHash`.
pub const ANNOTATION_EVIDENCE: &str = "gridstake.dev/evidence";

/// Annotation on an agent's heartbeat Lease: what it has seen of use of the GPUs by others than Gridstake's jobs, as JSON.
/// All times are Unix milliseconds by the clock of the Lease's `renewTime`: `sinceMs`, since when it has watched without a gap;
/// `heldMs`, when a pod or process of others was last seen on a GPU; `peaks`, pairs of time and percent: after that time no
/// GPU that no job holds was utilised as much again.
pub const ANNOTATION_LOCAL_USE: &str = "gridstake.dev/local-use";

/// Annotation on the operator's leader Lease: the last span of which what was written to the API server may be lost, as two
/// times with a slash between them; docs/settlement.md.
pub const ANNOTATION_LAPSE: &str = "gridstake.dev/lapse";

/// The name of the ConfigMap that says what payers have used of late.
pub const FAIR_SHARE: &str = "fair-share";

/// The name of the ConfigMap that says which job numbers of a lane are given out.
#[must_use]
pub fn lane_numbers(lane: u32) -> String {
    format!("lane-{lane}-numbers")
}

/// The name of the ConfigMap with the histories of a part of all GPUs, from which their reputation follows.
#[must_use]
pub fn reputation_shard(index: usize) -> String {
    format!("reputation-{index:02}")
}

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

/// The name of the headless Service under which the members of the gang `job` find one another.
#[must_use]
pub fn gang_service(job: &str) -> String {
    format!("gang-{job}")
}

/// The name of the ComputeJob that runs `job` once more, to check its result: `<job>-check-<number>`, counted from 1.
#[must_use]
pub fn check_of(job: &str, number: u32) -> String {
    format!("{job}-check-{number}")
}

/// The name of the Incident of a run whose result was outvoted.
#[must_use]
pub fn invalid_result(job_uid: &str) -> String {
    format!("invalid-result-{job_uid}")
}

/// The name of the Incident of a member that failed by its host's fault, of which the UsageRecord `record` tells.
#[must_use]
pub fn downtime(record: &str) -> String {
    format!("downtime-{record}")
}

/// The name of the Incident of what an agent has stated in the UsageRecord `record` and cannot be true.
#[must_use]
pub fn false_statement(record: &str) -> String {
    format!("false-statement-{record}")
}

/// The names of all Incidents that there may be about the UsageRecord `record` of the job with this uid.
#[must_use]
pub fn incidents_about(record: &str, job_uid: &str) -> [String; 3] {
    [
        downtime(record),
        false_statement(record),
        invalid_result(job_uid),
    ]
}

/// The name of a slice's UsageRecord: `<job uid>-<attempt>-<member>-<slice>`.
#[must_use]
pub fn usage_record(job_uid: &str, attempt: u32, member: u32, slice: u32) -> String {
    format!("{job_uid}-{attempt}-{member}-{slice}")
}

/// The name of a lane's SettlementBatch with this sequence number: the name is the lock on the number.
#[must_use]
pub fn settlement_batch(lane: u32, sequence: u64) -> String {
    format!("lane-{lane}-{sequence:020}")
}

/// The name of the batch that takes the place of `superseded` others with this sequence number, which can never be mined.
#[must_use]
pub fn settlement_batch_revision(lane: u32, sequence: u64, superseded: usize) -> String {
    let first = settlement_batch(lane, sequence);
    match superseded {
        0 => first,
        revision => format!("{first}-r{revision}"),
    }
}

/// The names of the batches that a batch of this name took the place of, the first one first.
#[must_use]
pub fn superseded_batches(name: &str) -> Vec<String> {
    let Some((first, revision)) = name.rsplit_once("-r") else {
        return Vec::new();
    };
    let revisions = revision.parse::<usize>().unwrap_or(0);
    (0..revisions)
        .map(|revision| match revision {
            0 => first.to_owned(),
            revision => format!("{first}-r{revision}"),
        })
        .collect()
}

/// The name of an Incident, from the hash of its evidence (`0x` and hexadecimal digits): the same offence, found twice,
/// is one object.
#[must_use]
pub fn incident(evidence_hash: &str) -> String {
    let digits: String = evidence_hash
        .trim_start_matches("0x")
        .chars()
        .take(32)
        .collect();
    format!("incident-{digits}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_of_a_lane_sort_by_their_sequence_number() {
        assert_eq!(settlement_batch(7, 42), "lane-7-00000000000000000042");
        assert!(settlement_batch(7, 9) < settlement_batch(7, 10));
        assert!(settlement_batch_revision(7, 9, 2) < settlement_batch(7, 10));
        assert_eq!(settlement_batch_revision(7, 9, 0), settlement_batch(7, 9));
        assert_eq!(settlement_batch(u32::MAX, u64::MAX).len(), 36);
    }

    #[test]
    fn a_batch_names_those_whose_place_it_took() {
        let named = |superseded| settlement_batch_revision(7, 9, superseded);
        assert_eq!(superseded_batches(&named(0)), [""; 0]);
        assert_eq!(
            superseded_batches(&named(3)),
            [named(0), named(1), named(2)]
        );
    }

    #[test]
    fn the_same_evidence_gives_the_same_incident() {
        let hash = format!("0x{}", "ab".repeat(32));
        assert_eq!(incident(&hash), format!("incident-{}", "ab".repeat(16)));
    }
}
