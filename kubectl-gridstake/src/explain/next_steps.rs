//! What to do next, by the reason that an object gives. Pure: a table that has a line for every reason there is.
//!
//! The matches name every value of the closed enums, so that a new reason does not compile without a line here. `None`: nothing
//! is wrong, or another condition says more.

use gridstake_crds::{
    closed_enum::ClosedEnum,
    compute_job::{AttemptEndReason, ComputeJobReason, JobEndReason, Verdict, VerificationState},
    gpu_node::{DeviceReason, GpuNodeReason, OfferReason, QuarantineReason},
    incident::{CancellationReason, IncidentReason},
    stake_binding::StakeBindingReason,
    usage_record::UsageRecordReason,
};

/// The value that is spelled `text`; `None`: a newer operator wrote it.
#[must_use]
pub fn value<E: ClosedEnum>(text: &str) -> Option<E> {
    E::ALL.iter().copied().find(|value| value.as_str() == text)
}

/// What a value means, as docs/conditions.md says it.
#[must_use]
pub fn meaning<E: ClosedEnum>(value: E) -> &'static str {
    E::MEANINGS
        .iter()
        .find(|(name, _)| *name == value.as_str())
        .map_or("", |(_, meaning)| meaning.trim())
}

/// A closed enum of reasons that call for something.
pub trait Reason: ClosedEnum {
    /// What to do next; `None` where nothing is to be done.
    fn next_step(self) -> Option<&'static str>;
}

/// What to do next about the reason `text` of the enum `E`. A reason that this plugin does not know calls for a newer plugin.
#[must_use]
pub fn next_step<E: Reason>(text: &str) -> Option<&'static str> {
    value::<E>(text).map_or(
        Some("this plugin does not know the reason: use the plugin of the operator's version"),
        Reason::next_step,
    )
}

impl Reason for ComputeJobReason {
    fn next_step(self) -> Option<&'static str> {
        match self {
            Self::InvalidTemplate => {
                Some("correct the field that the message names: delete the job and create it anew")
            }
            Self::PodRefused => Some(
                "correct the template, or the namespace's quota or Pod Security level, as the message says; the template of a job cannot be changed, so create the job anew",
            ),
            Self::ValidationUnavailable => {
                Some("nothing: the operator asks again; if it lasts, read the operator's log")
            }
            Self::Unsatisfiable => Some(
                "ask for less, as the message says (delete the job and create it anew), or wait until such a node joins: the job comes back by itself",
            ),
            Self::PriorityClassMissing => Some(
                "create the PriorityClass, or correct spec.priorityClassName: `kubectl get priorityclasses` lists them",
            ),
            Self::Suspended => Some("unset spec.suspend to go on"),
            Self::PayerNotConsenting => Some(
                "have the payer's owner consent for this namespace with `kubectl gridstake consent`; the message has its flags",
            ),
            Self::EscrowExhausted => Some(
                "deposit into the payer's account on the lane (Settlement.deposit): the job goes on once it suffices",
            ),
            Self::ChainUnavailable => Some(
                "nothing for a tenant: the job goes on when the chain answers; who runs the operator looks at the chain's endpoints",
            ),
            Self::ChainNotConfigured => Some(
                "correct the namespace's annotation gridstake.dev/chain, or remove it for the operator's first chain",
            ),
            Self::CoordinatorUnbonded => Some(
                "nothing for a tenant: who runs this lane has to stake more for its coordinator",
            ),
            Self::InsufficientCapacity => {
                Some("wait, or change what the message says would let it fit now")
            }
            Self::BackingOff => Some("nothing: the next attempt begins within 5 minutes"),
            Self::WaitingForGate => Some(
                "see why whoever put the gate there does not lift it; with Kueue: kubectl get workloads -n NAMESPACE",
            ),
            Self::WaitingForImage => {
                Some("if it lasts, correct the image's name or the pull secret")
            }
            Self::WaitingForBinding => Some(
                "nothing: if the place is lost, the job is placed again at timeouts.start; the message has kube-scheduler's words",
            ),
            Self::NodeSuspect => {
                Some("nothing: unless the node answers soon, the job is placed elsewhere")
            }
            Self::Amnesty => Some("nothing: the job keeps its place until the nodes are back"),
            Self::ReplacingMember => Some(
                "nothing: the others run; unless the rank runs again within timeouts.start, the whole gang begins anew",
            ),
            Self::ProgramFailed => Some(
                "read the last attempt's message and the program's log; then create the job anew, with retry.user if it may fail",
            ),
            Self::InfrastructureFailed => Some(
                "create the job anew: the attempts below say which nodes failed; retry.infrastructure allows for more of them",
            ),
            Self::QueueTimeout => {
                Some("create the job anew, with a longer timeouts.queue or smaller wishes")
            }
            Self::RunTimeout => Some("create the job anew with a longer timeouts.run"),
            Self::Verifying => Some("nothing: other nodes compute the result once more"),
            Self::Outvoted => Some(
                "take the result of the others, status.verification.digest: the job's own is not to be trusted",
            ),
            Self::ResultsDisagree => Some(
                "make the program give the same result each time (seeds, order of sums), then run it again",
            ),
            Self::NoDigest => {
                Some("have the program write a digest of its result to its termination message")
            }
            Self::TooFewResults => Some(
                "run it again when nodes of more owners are offered: a check needs different owners",
            ),
            Self::Retrying => Some(
                "if it lasts, look at what the message names: it is often a quota or an admission webhook",
            ),
            Self::Pending
            | Self::Valid
            | Self::Admitted
            | Self::Queued
            | Self::Placed
            | Self::Starting
            | Self::Running
            | Self::Stopping
            | Self::Ended
            | Self::Succeeded
            | Self::NotEnded
            | Self::NotAsked
            | Self::NotSampled
            | Self::ResultsAgree
            | Self::Recorded
            | Self::NothingUsed
            | Self::InProgress
            | Self::NoChainConfigured
            | Self::Unsettled
            | Self::Settled => None,
        }
    }
}

impl Reason for JobEndReason {
    fn next_step(self) -> Option<&'static str> {
        match self {
            Self::Succeeded => None,
            Self::ProgramFailed => ComputeJobReason::ProgramFailed.next_step(),
            Self::InfrastructureFailed => ComputeJobReason::InfrastructureFailed.next_step(),
            Self::QueueTimeout => ComputeJobReason::QueueTimeout.next_step(),
            Self::RunTimeout => ComputeJobReason::RunTimeout.next_step(),
        }
    }
}

impl Reason for AttemptEndReason {
    fn next_step(self) -> Option<&'static str> {
        match self {
            Self::ExitedNonZero => Some("read the program's log"),
            Self::OutOfMemory => Some("raise the memory limit of the container"),
            Self::ImagePullFailed => Some(
                "correct the image's name or the pull secret; allow for large images with timeouts.start",
            ),
            Self::ContainerStartFailed => {
                Some("correct the command, or the Secret or ConfigMap that the message names")
            }
            Self::StartTimeout => {
                Some("if it happens again, allow for slow starts with timeouts.start")
            }
            Self::RunTimeout => Some("give it a longer timeouts.run"),
            Self::EscrowExhausted => Some("deposit into the payer's account on the lane"),
            Self::Succeeded
            | Self::PlacementLost
            | Self::AdmissionFailed
            | Self::Evicted
            | Self::Reclaimed
            | Self::Preempted
            | Self::NodeLost
            | Self::DeviceLost
            | Self::PodDeleted
            | Self::NotReplaced
            | Self::Suspended
            | Self::Deleted => None,
        }
    }
}

/// What the end of an attempt costs, and whom (docs/faults.md, At whose door); `None` where nothing failed.
#[must_use]
pub fn cost_of(end: AttemptEndReason, verdict: Option<Verdict>) -> Option<&'static str> {
    use AttemptEndReason as End;
    match (end, verdict?) {
        (
            End::PlacementLost
            | End::Suspended
            | End::EscrowExhausted
            | End::Reclaimed
            | End::Preempted
            | End::Deleted,
            _,
        ) => Some("it costs no retry"),
        (End::Succeeded | End::RunTimeout, _) => None,
        (_, Verdict::Tenant)
        | (End::ImagePullFailed | End::ContainerStartFailed, Verdict::Ambiguous) => {
            Some("it costs a retry of spec.retry.user")
        }
        (_, Verdict::Host) => {
            Some("it costs a retry of spec.retry.infrastructure, and the provider answers for it")
        }
        (_, Verdict::Infrastructure | Verdict::Ambiguous) => {
            Some("it costs a retry of spec.retry.infrastructure, and no provider anything")
        }
    }
}

/// What to do about a check of a result in this state.
#[must_use]
pub fn of_verification(state: VerificationState) -> Option<&'static str> {
    match state {
        VerificationState::Pending => ComputeJobReason::Verifying.next_step(),
        VerificationState::Outvoted => ComputeJobReason::Outvoted.next_step(),
        VerificationState::Disagreed => ComputeJobReason::ResultsDisagree.next_step(),
        VerificationState::NoDigest => ComputeJobReason::NoDigest.next_step(),
        VerificationState::TooFewResults => ComputeJobReason::TooFewResults.next_step(),
        VerificationState::NotSampled
        | VerificationState::Agreed
        | VerificationState::Confirmed => None,
    }
}

impl Reason for OfferReason {
    fn next_step(self) -> Option<&'static str> {
        match self {
            Self::Available => None,
            Self::NodeMissing => Some(
                "delete the GpuNode if the node is gone for good, or have it join the cluster again",
            ),
            Self::NodeNotReady => {
                Some("look at the node's kubelet: `kubectl describe node` has its conditions")
            }
            Self::NodeCordoned => Some("`kubectl uncordon` the node"),
            Self::AgentSilent => Some(
                "look at the agent's pod on the node: `kubectl get pods -A -o wide -l app.kubernetes.io/component=device-agent`",
            ),
            Self::NvmlUnavailable => Some(
                "install or load the driver: status.agent says which library, call or symbol is missing",
            ),
            Self::NoDevices => {
                Some("see that the driver shows the GPUs: `nvidia-smi -L` on the node")
            }
            Self::NoHealthyDevices => {
                Some("mend the GPUs: the reasons stand with the devices below")
            }
            Self::NoDevicePlugin => Some(
                "install NVIDIA's device plugin, or look at its pod on the node: the kubelet allocates no nvidia.com/gpu",
            ),
            Self::Maintenance => {
                Some("nothing: it ends as spec.maintenance says; remove the entry to end it now")
            }
            Self::Drained => Some("`kubectl gridstake drain --undo` the node"),
            Self::InvalidWindow => Some("correct the field of spec.windows that the message names"),
            Self::OutsideWindow => Some("nothing: the next window of spec.windows opens by itself"),
            Self::InLocalUse => Some(
                "nothing: it is offered when its GPUs were idle for spec.idle.windowSeconds; the message says what uses them",
            ),
            Self::Unbonded => Some("see the condition Bonded, and `kubectl get stakebindings`"),
            Self::KeyNotCertified => Some(
                "certify the agent's key with `kubectl gridstake certify`, as the provider's operator; the message has its flags",
            ),
            Self::InventoryNotPosted => Some(
                "nothing: a batch that states the GPUs follows; if it does not, see what blocks `kubectl get settlementbatches`",
            ),
            Self::GpuClaimedTwice => Some(
                "restart the agent that still shows a GPU that was moved, or take the agent off the node that lies: the message names the nodes",
            ),
            Self::Quarantined => {
                Some("nothing: the quarantine below ends by itself, unless more fails")
            }
        }
    }
}

impl Reason for GpuNodeReason {
    fn next_step(self) -> Option<&'static str> {
        match self {
            Self::AgentMissing => Some(
                "see that the agent's DaemonSet selects the node: `kubectl get pods -A -o wide -l app.kubernetes.io/component=device-agent`",
            ),
            Self::AgentSilent => OfferReason::AgentSilent.next_step(),
            Self::Amnesty => Some(
                "look for what the silent nodes have in common: the network, the API server, the operator's own node",
            ),
            Self::NvmlUnavailable => OfferReason::NvmlUnavailable.next_step(),
            Self::SomeDevicesUnhealthy | Self::NoHealthyDevices => {
                OfferReason::NoHealthyDevices.next_step()
            }
            Self::NoDevices => OfferReason::NoDevices.next_step(),
            Self::NoBinding => Some("create a StakeBinding that selects the node"),
            Self::ConflictingBindings => {
                Some("take the node out of all StakeBindings but one; the message names them")
            }
            Self::StakeTooSmall => Some("stake or delegate more to the provider"),
            Self::BindingNotReady => Some("correct what the message says about the StakeBinding"),
            Self::ChainUnavailable => Some(
                "nothing for a provider: the bond counts again when the chain answers; who runs the operator looks at the chain's endpoints",
            ),
            Self::AdmissionFailures => Some(
                "look at the kubelet, the device plugin and the container runtime: they refused pods; the quarantine ends by itself",
            ),
            Self::RepeatedFailures => {
                Some("look at the GPU, and reset or replace it; the quarantine ends by itself")
            }
            Self::BrokenGpuAllocated => Some(
                "restart the device plugin so that it no longer hands out the broken GPU, and mend it",
            ),
            Self::NotMeasured => Some("nothing: a canary job follows when GPUs are free"),
            Self::CanariesOff => Some("set the chart's value canary.enabled to have it measured"),
            Self::DividedDevices => {
                Some("nothing: GPUs that are divided or shared are not measured")
            }
            Self::WrongResult => Some(
                "reset or replace the GPU, then delete the canary's ComputeJob to have it measured at once",
            ),
            Self::CanaryFailed => Some("mend what the message says; a canary job follows"),
            Self::NotOffered => Some("see the condition Offered"),
            Self::AgentReporting
            | Self::AllDevicesHealthy
            | Self::NoChainConfigured
            | Self::Bonded
            | Self::Clean
            | Self::Measured
            | Self::Ready => None,
        }
    }
}

impl Reason for QuarantineReason {
    fn next_step(self) -> Option<&'static str> {
        match self {
            Self::AdmissionFailures => GpuNodeReason::AdmissionFailures.next_step(),
            Self::RepeatedFailures => GpuNodeReason::RepeatedFailures.next_step(),
            Self::BrokenGpuAllocated => GpuNodeReason::BrokenGpuAllocated.next_step(),
        }
    }
}

impl Reason for DeviceReason {
    fn next_step(self) -> Option<&'static str> {
        Some(match self {
            Self::GpuLost => {
                "reset the GPU or restart the node; it returns by itself when NVML answers for it"
            }
            Self::CallFailing => "restart the driver or the node, then look at the hardware",
            Self::EccUncorrectable => "reset the GPU; replace it if errors come back",
            Self::RowRemapPending => "reset the GPU, so that the memory row is remapped",
            Self::XidFatal => "reset the GPU; replace it if the Xid comes back",
            Self::ThermalThrottling => "look at fans, filters and the air around the node",
            Self::PowerThrottling => "look at the power supply and the power limit",
        })
    }
}

impl Reason for StakeBindingReason {
    fn next_step(self) -> Option<&'static str> {
        match self {
            Self::NodesResolved
            | Self::Matches
            | Self::Synced
            | Self::StakeSuffices
            | Self::Ready => None,
            Self::NoNodes => Some("correct spec.nodeNames or spec.nodeSelector"),
            Self::ConflictingBindings => GpuNodeReason::ConflictingBindings.next_step(),
            Self::ChainNotConfigured => Some(
                "create a StakeBinding with a chain that the operator has: the message lists them",
            ),
            Self::ProviderUnknown => Some(
                "register the provider (StakeVault.register), or correct spec.providerId in a new StakeBinding",
            ),
            Self::AddressMismatch => {
                Some("correct the addresses of the StakeBinding, or the account on chain")
            }
            Self::ContractMismatch => {
                Some("correct the operator's chains file: id, addresses or endpoint")
            }
            Self::ChainUnavailable => GpuNodeReason::ChainUnavailable.next_step(),
            Self::Cooling => Some("nothing: the provider is activated once its cooling is over"),
            Self::StakeTooSmall => GpuNodeReason::StakeTooSmall.next_step(),
        }
    }
}

impl Reason for UsageRecordReason {
    fn next_step(self) -> Option<&'static str> {
        match self {
            Self::EvidenceHasGaps => Some("nothing: what is bridged is billed, and nothing else"),
            Self::EvidenceMissing => Some(
                "look at the agent's pod on the node: without evidence nothing is gained in reputation",
            ),
            Self::EvidenceInvalid | Self::EvidenceRefused => Some(
                "nothing for a tenant: what comes before it is billed; the provider looks at its agent",
            ),
            Self::KeyNotCertified => OfferReason::KeyNotCertified.next_step(),
            Self::LogNotCompared => {
                Some("nothing: it is sealed once the lane's log was compared with the chain")
            }
            Self::InDoubt => {
                Some("do what the message says: the API server was restored from a backup")
            }
            Self::HeldBack => Some(
                "nothing: it is paid, or not, when the Incident is closed (`kubectl gridstake explain incident` says when), or once it is known whose result was right",
            ),
            Self::Sealed | Self::Batched | Self::Paid => {
                Some("nothing: it is paid with the next batches of the lane")
            }
            Self::Skipped => Some(
                "mend what the message names, such as an escrow that does not suffice: it is paid then",
            ),
            Self::NeedsDecision => Some("who runs the operator decides what the message says"),
            Self::ArchiveUnavailable => Some("make the archive writable, as the message says"),
            Self::NotStarted
            | Self::Metering
            | Self::EvidenceComplete
            | Self::Final
            | Self::NothingOwed
            | Self::Archived
            | Self::NotArchived => None,
        }
    }
}

impl Reason for IncidentReason {
    fn next_step(self) -> Option<&'static str> {
        match self {
            Self::NotArchived => Some("nothing: the evidence is being archived"),
            Self::ArchiveUnavailable => Some("make the archive writable, as the message says"),
            Self::NotSent => {
                Some("see that the gas account can pay, and that gas is below the cap")
            }
            Self::InFlight => Some("nothing: the transaction is on its way"),
            Self::ChainNotConfigured => Some("add the chain to the operator's chains file again"),
            Self::ContractMismatch => StakeBindingReason::ContractMismatch.next_step(),
            Self::ChainUnavailable => Some("nothing: it goes on when the chain answers"),
            Self::NoSlashKey => Some("set keys.slash in the operator's chains file"),
            Self::ContractRefused => Some("mend what the contract's error in the message says"),
            Self::WaitingForAnswer => Some("the provider can answer until then"),
            Self::Disputed => Some("the arbiter decides"),
            Self::Archived
            | Self::NotNeeded
            | Self::Proposed
            | Self::Unanswered
            | Self::Executed
            | Self::Cancelled
            | Self::Ended
            | Self::InProgress => None,
        }
    }
}

/// What follows from a cancellation, for the provider.
#[must_use]
pub fn of_cancellation(reason: CancellationReason) -> &'static str {
    match reason {
        CancellationReason::NotUpheld
        | CancellationReason::NotDecided
        | CancellationReason::Guardian
        | CancellationReason::Amnesty => {
            "nothing was cut, and it does not count against the reputation"
        }
        CancellationReason::NothingAtStake => {
            "nothing was cut, and it counts against the reputation all the same"
        }
    }
}

#[cfg(test)]
#[path = "next_steps_tests.rs"]
mod tests;
