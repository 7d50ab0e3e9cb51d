//! What a member's pod says about the member. Pure.

use gridstake_crds::{
    compute_job::{AttemptEndReason, VerdictReason},
    measurement::WRONG_RESULT_EXIT_CODE,
    names::{FINALIZER_METERING, GATE_PLACEMENT, LABEL_ATTEMPT, LABEL_GANG, LABEL_MEMBER},
};
use k8s_openapi::{
    api::core::v1::{
        ContainerState, ContainerStateTerminated, ContainerStatus, Pod, PodSpec, PodStatus,
        ResourceRequirements,
    },
    jiff::Timestamp,
};
use kube::ResourceExt as _;

use super::words;
use crate::failover::NodeState;

/// Longest text that is taken over from a pod into a status.
const MAX_MESSAGE: usize = 512;
/// Longest result that is taken over from a termination message.
const MAX_DIGEST: usize = 256;

/// How far a member is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It has no pod.
    Missing,
    /// Its pod was created moments ago, and the cache does not show it yet.
    OnItsWay,
    /// Its pod waits for our gate to be lifted.
    Gated,
    /// Its pod waits for gates that are not ours, such as Kueue's; their names.
    Held(String),
    /// Its pod waits to be bound; in the scheduler's words.
    Unbound(String),
    /// Its pod is bound and no container runs yet; in the kubelet's words.
    Starting(StartTrouble, String),
    /// It runs.
    Running,
    /// It has ended and holds no GPU any more.
    Ended(End),
}

/// What keeps a bound pod from starting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartTrouble {
    /// Nothing known.
    None,
    /// An image cannot be pulled.
    Image,
    /// A container cannot be created or started.
    Container,
}

/// How a member ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// Why.
    pub reason: AttemptEndReason,
    /// The deciding container's exit code.
    pub exit_code: Option<i32>,
    /// The kubelet's words.
    pub message: Option<String>,
    /// What these, or the pod's reason, point to.
    pub hint: Option<VerdictReason>,
}

impl End {
    /// An end for `reason` of which nothing more is known.
    #[must_use]
    pub const fn of(reason: AttemptEndReason) -> Self {
        Self {
            reason,
            exit_code: None,
            message: None,
            hint: None,
        }
    }

    /// The same, with what a person should read.
    #[must_use]
    pub fn saying(self, message: impl Into<String>) -> Self {
        Self {
            message: Some(message.into()).filter(|message| !message.is_empty()),
            ..self
        }
    }

    /// The same, with what the words point to.
    #[must_use]
    pub fn hinting(self, hint: Option<VerdictReason>) -> Self {
        Self { hint, ..self }
    }
}

/// A member and its pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The member, counted from 0.
    pub member: u32,
    /// The attempt that the pod belongs to.
    pub attempt: u32,
    /// The pod's name.
    pub pod: String,
    /// How far it is.
    pub state: State,
    /// Whether the pod is being deleted.
    pub terminating: bool,
    /// Whether the pod still carries our finalizer.
    pub held: bool,
    /// Whether its peers find it by name.
    pub is_found: bool,
    /// When its first container started.
    pub started_at: Option<Timestamp>,
    /// When its last container ended, if all have.
    pub finished_at: Option<Timestamp>,
    /// What it wrote as its result.
    pub digest: Option<String>,
    /// What is to be thought of its node.
    pub node: NodeState,
}

impl Member {
    /// A member without a pod.
    #[must_use]
    pub fn missing(attempt: u32, member: u32, pod: String) -> Self {
        Self::without_pod(attempt, member, pod, State::Missing)
    }

    /// A member whose pod was created moments ago and is not seen yet.
    #[must_use]
    pub fn on_its_way(attempt: u32, member: u32, pod: String) -> Self {
        Self::without_pod(attempt, member, pod, State::OnItsWay)
    }

    fn without_pod(attempt: u32, member: u32, pod: String, state: State) -> Self {
        Self {
            member,
            attempt,
            pod,
            state,
            terminating: false,
            held: false,
            is_found: false,
            started_at: None,
            finished_at: None,
            digest: None,
            node: NodeState::Ready,
        }
    }

    /// Reads a pod of ours; `None` if its labels do not say which attempt and member it is.
    #[must_use]
    pub fn read(pod: &Pod, node: NodeState) -> Option<Self> {
        let number = |label: &str| pod.labels().get(label)?.parse::<u32>().ok();
        let (attempt, member) = (number(LABEL_ATTEMPT)?, number(LABEL_MEMBER)?);
        let status = pod.status.clone().unwrap_or_default();
        let containers = status.container_statuses.as_deref().unwrap_or_default();
        let ended = terminations(containers);
        Some(Self {
            member,
            attempt,
            pod: pod.name_any(),
            state: state(pod, &status, node),
            terminating: pod.metadata.deletion_timestamp.is_some(),
            held: pod.finalizers().iter().any(|f| f == FINALIZER_METERING),
            is_found: pod.labels().contains_key(LABEL_GANG),
            started_at: containers.iter().filter_map(started_at).min(),
            finished_at: (ended.len() == containers.len())
                .then(|| {
                    ended
                        .iter()
                        .filter_map(|t| Some(t.finished_at.as_ref()?.0))
                        .max()
                })
                .flatten(),
            digest: ended
                .iter()
                .find_map(|t| t.message.as_deref())
                .map(|m| clip(m.trim(), MAX_DIGEST)),
            node,
        })
    }

    /// The same, of a canary: its program is the operator's own, so its exit codes are known.
    #[must_use]
    pub fn of_a_canary(mut self) -> Self {
        if let State::Ended(end) = &mut self.state
            && end.reason == AttemptEndReason::ExitedNonZero
            && end.exit_code == Some(WRONG_RESULT_EXIT_CODE)
        {
            end.hint = Some(VerdictReason::WrongResult);
        }
        self
    }

    /// Whether its pod is still to be deleted: it runs, or its node is given up and may come back with it.
    #[must_use]
    pub fn is_to_be_deleted(&self) -> bool {
        let given_up = matches!(&self.state, State::Ended(end) if end.reason == AttemptEndReason::NodeLost)
            && self.finished_at.is_none();
        !self.terminating && (!self.is_at_rest() || given_up)
    }

    /// Whether it has ended, or never began.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        matches!(self.state, State::Ended(_) | State::Missing)
    }

    /// Whether its containers have started, whatever became of them.
    #[must_use]
    pub fn has_started(&self) -> bool {
        self.started_at.is_some() || self.state == State::Running
    }
}

fn state(pod: &Pod, status: &PodStatus, node: NodeState) -> State {
    let phase = status.phase.as_deref().unwrap_or("Pending");
    let terminating = pod.metadata.deletion_timestamp.is_some();
    let spec = pod.spec.as_ref();
    let bound = spec.is_some_and(|s| s.node_name.is_some());
    if phase == "Succeeded" {
        return State::Ended(End {
            exit_code: Some(0),
            ..End::of(AttemptEndReason::Succeeded)
        });
    }
    if phase == "Failed" {
        return State::Ended(failure(spec, status));
    }
    // A kubelet that does not answer cannot tell that the pod has gone.
    let given_up = matches!(node, NodeState::NotReady { .. } | NodeState::Suspect { .. });
    let lost = bound && (node.is_lost() || (given_up && terminating));
    if lost {
        let end = End::of(AttemptEndReason::NodeLost)
            .saying("the node is gone or its kubelet does not answer")
            .hinting((node == NodeState::Gone).then_some(VerdictReason::NodeDeleted));
        return State::Ended(end);
    }
    if !bound {
        if terminating {
            return State::Ended(End::of(AttemptEndReason::PodDeleted));
        }
        let gates = spec
            .and_then(|s| s.scheduling_gates.as_deref())
            .unwrap_or_default();
        if gates.iter().any(|g| g.name == GATE_PLACEMENT) {
            return State::Gated;
        }
        if !gates.is_empty() {
            let names: Vec<&str> = gates.iter().map(|gate| gate.name.as_str()).collect();
            return State::Held(clip(&names.join(", "), MAX_MESSAGE));
        }
        let scheduled = status
            .conditions
            .iter()
            .flatten()
            .find(|c| c.type_ == "PodScheduled");
        return State::Unbound(clip(
            scheduled
                .and_then(|c| c.message.as_deref())
                .unwrap_or_default(),
            MAX_MESSAGE,
        ));
    }
    if phase == "Running" {
        return State::Running;
    }
    starting(status)
}

/// The first container, init containers included, that is kept from starting.
fn starting(status: &PodStatus) -> State {
    let containers = status
        .init_container_statuses
        .iter()
        .flatten()
        .chain(status.container_statuses.iter().flatten());
    let waiting = containers.filter_map(|c| c.state.as_ref()?.waiting.as_ref());
    for w in waiting {
        let trouble = match w.reason.as_deref().unwrap_or_default() {
            "ErrImagePull"
            | "ImagePullBackOff"
            | "InvalidImageName"
            | "ErrImageNeverPull"
            | "ImageInspectError"
            | "RegistryUnavailable" => StartTrouble::Image,
            "CreateContainerConfigError"
            | "CreateContainerError"
            | "RunContainerError"
            | "StartError"
            | "CrashLoopBackOff" => StartTrouble::Container,
            _ => continue,
        };
        return State::Starting(
            trouble,
            clip(
                w.message
                    .as_deref()
                    .or(w.reason.as_deref())
                    .unwrap_or_default(),
                MAX_MESSAGE,
            ),
        );
    }
    State::Starting(StartTrouble::None, String::new())
}

/// Why a pod with phase `Failed` failed. The pod's own reason comes first (the kubelet refused or evicted it), then
/// what disrupted it, then the container that ended badly first.
fn failure(spec: Option<&PodSpec>, status: &PodStatus) -> End {
    let message = status.message.as_deref().map(|m| clip(m, MAX_MESSAGE));
    let told = status.message.as_deref().unwrap_or_default();
    let end = |reason, hint| End {
        reason,
        exit_code: None,
        message: message.clone(),
        hint,
    };
    match status.reason.as_deref().unwrap_or_default() {
        "UnexpectedAdmissionError" | "TopologyAffinityError" => {
            return end(
                AttemptEndReason::AdmissionFailed,
                Some(VerdictReason::AdmissionRefused),
            );
        }
        // The node's labels or taints have changed since it was chosen.
        "NodeAffinity" | "NodeTaints" => {
            return end(
                AttemptEndReason::AdmissionFailed,
                Some(VerdictReason::Displaced),
            );
        }
        "AdmissionFailed" | "PodFeatureUnsupported" => {
            return end(AttemptEndReason::AdmissionFailed, None);
        }
        reason if reason.starts_with("OutOf") => {
            return end(
                AttemptEndReason::AdmissionFailed,
                Some(VerdictReason::PlaceTaken),
            );
        }
        "Evicted" => return end(AttemptEndReason::Evicted, words::eviction(told)),
        "Preempting" => return end(AttemptEndReason::Evicted, Some(VerdictReason::Displaced)),
        "NodeLost" => return end(AttemptEndReason::NodeLost, None),
        "NodeShutdown" | "Shutdown" | "Terminated" => {
            return end(
                AttemptEndReason::NodeLost,
                Some(VerdictReason::NodeShutdown),
            );
        }
        _ => {}
    }
    if let Some(disruption) = status
        .conditions
        .iter()
        .flatten()
        .find(|c| c.type_ == "DisruptionTarget" && c.status == "True")
    {
        let message = disruption.message.as_deref().map(|m| clip(m, MAX_MESSAGE));
        let (reason, hint) = match disruption.reason.as_deref().unwrap_or_default() {
            "DeletionByTaintManager" => (AttemptEndReason::NodeLost, None),
            "DeletionByPodGC" => (AttemptEndReason::NodeLost, Some(VerdictReason::NodeDeleted)),
            "TerminationByKubelet" => (
                AttemptEndReason::Evicted,
                words::eviction(disruption.message.as_deref().unwrap_or_default()),
            ),
            _ => (AttemptEndReason::Evicted, Some(VerdictReason::Displaced)),
        };
        return End {
            reason,
            exit_code: None,
            message,
            hint,
        };
    }
    let containers = status
        .init_container_statuses
        .iter()
        .flatten()
        .chain(status.container_statuses.iter().flatten());
    let mut failed: Vec<_> = containers
        .filter_map(|c| Some((c.name.as_str(), termination(c)?)))
        .filter(|(_, t)| t.exit_code != 0)
        .collect();
    failed.sort_by_key(|(_, t)| t.finished_at.as_ref().map(|at| at.0));
    let Some((name, first)) = failed.first() else {
        return end(AttemptEndReason::PodDeleted, None);
    };
    let told = first.message.as_deref().unwrap_or_default().trim();
    let (reason, hint) = match first.reason.as_deref().unwrap_or_default() {
        // Without a limit of its own the container was killed because the node had no memory left.
        "OOMKilled" => (
            AttemptEndReason::OutOfMemory,
            has_memory_limit(spec, name).then_some(VerdictReason::MemoryLimit),
        ),
        "StartError" | "ContainerCannotRun" => (
            AttemptEndReason::ContainerStartFailed,
            words::container_start(told),
        ),
        _ => (AttemptEndReason::ExitedNonZero, None),
    };
    End {
        reason,
        exit_code: Some(first.exit_code),
        message: (!told.is_empty()).then(|| clip(told, MAX_MESSAGE)),
        hint,
    }
}

/// Whether the container of this name, or its pod, has a limit of memory.
fn has_memory_limit(spec: Option<&PodSpec>, name: &str) -> bool {
    let Some(spec) = spec else { return false };
    let has = |resources: Option<&ResourceRequirements>| {
        resources
            .and_then(|r| r.limits.as_ref())
            .is_some_and(|limits| limits.contains_key("memory"))
    };
    let mut containers = spec
        .init_containers
        .iter()
        .flatten()
        .chain(&spec.containers);
    has(spec.resources.as_ref()) || containers.any(|c| c.name == name && has(c.resources.as_ref()))
}

fn termination(container: &ContainerStatus) -> Option<&ContainerStateTerminated> {
    container.state.as_ref()?.terminated.as_ref()
}

fn terminations(containers: &[ContainerStatus]) -> Vec<&ContainerStateTerminated> {
    containers.iter().filter_map(termination).collect()
}

fn started_at(container: &ContainerStatus) -> Option<Timestamp> {
    match container.state.as_ref()? {
        ContainerState {
            running: Some(running),
            ..
        } => running.started_at.as_ref().map(|t| t.0),
        // A container that was never started has no id: its times are made up by the kubelet.
        ContainerState {
            terminated: Some(ended),
            ..
        } if ended.container_id.is_some() => ended.started_at.as_ref().map(|t| t.0),
        _ => None,
    }
}

/// At most `max` bytes of `text`, cut at a character.
fn clip(text: &str, max: usize) -> String {
    text[..text.floor_char_boundary(max)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pod with the labels of attempt 1, member 0; `spec` and `status` in YAML's flow style.
    const NOT_READY: NodeState = NodeState::NotReady {
        until: Timestamp::UNIX_EPOCH,
    };

    fn read_on(node: NodeState, metadata: &str, spec: &str, status: &str) -> Member {
        let yaml = format!(
            "{{metadata: {{name: j-1-0, labels: {{gridstake.dev/attempt: '1', gridstake.dev/member: '0'}}{metadata}}}, spec: {{containers: []{spec}}}, status: {{{status}}}}}"
        );
        Member::read(&serde_saphyr::from_str(&yaml).unwrap(), node).unwrap()
    }

    fn read(spec: &str, status: &str) -> Member {
        read_on(NodeState::Ready, "", spec, status)
    }

    const BOUND: &str = ", nodeName: n";
    const DELETED: &str = ", deletionTimestamp: '2026-01-01T00:00:00Z'";

    fn reason(member: &Member) -> AttemptEndReason {
        match &member.state {
            State::Ended(end) => end.reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_pod_without_our_labels_is_not_a_member() {
        assert_eq!(Member::read(&Pod::default(), NodeState::Ready), None);
    }

    #[test]
    fn a_member_goes_from_gated_over_unbound_and_starting_to_running() {
        assert_eq!(
            read(
                ", schedulingGates: [{name: gridstake.dev/placement}]",
                "phase: Pending"
            )
            .state,
            State::Gated
        );
        let both = ", schedulingGates: [{name: gridstake.dev/placement}, {name: kueue.x-k8s.io/admission}]";
        assert_eq!(read(both, "phase: Pending").state, State::Gated);
        let theirs = ", schedulingGates: [{name: kueue.x-k8s.io/admission}, {name: b}]";
        assert_eq!(
            read(theirs, "phase: Pending").state,
            State::Held("kueue.x-k8s.io/admission, b".into())
        );
        let unbound = "phase: Pending, conditions: [{type: PodScheduled, status: 'False', message: '0/2 nodes'}]";
        assert_eq!(read("", unbound).state, State::Unbound("0/2 nodes".into()));
        assert_eq!(
            read(BOUND, "phase: Pending").state,
            State::Starting(StartTrouble::None, String::new())
        );
        assert_eq!(read(BOUND, "phase: Running").state, State::Running);
    }

    #[test]
    fn only_a_canarys_exit_code_says_that_a_gpu_calculates_wrong() {
        let exited = |code: i32| {
            read(
                BOUND,
                &format!(
                    "phase: Failed, containerStatuses: [{{name: a, image: a, imageID: '', ready: false, restartCount: 0, state: {{terminated: {{exitCode: {code}, reason: Error}}}}}}]"
                ),
            )
        };
        let hint = |member: &Member| match &member.state {
            State::Ended(end) => end.hint,
            other => panic!("{other:?}"),
        };
        assert_eq!(hint(&exited(WRONG_RESULT_EXIT_CODE)), None);
        assert_eq!(
            hint(&exited(WRONG_RESULT_EXIT_CODE).of_a_canary()),
            Some(VerdictReason::WrongResult)
        );
        assert_eq!(hint(&exited(1).of_a_canary()), None);
        let running = read(BOUND, "phase: Running");
        assert_eq!(running.clone().of_a_canary(), running);
    }

    #[test]
    fn what_keeps_a_container_from_starting_is_told_in_the_kubelets_words() {
        let waiting = |reason: &str| {
            format!(
                "phase: Pending, containerStatuses: [{{name: a, image: a, imageID: '', ready: false, restartCount: 0, state: {{waiting: {{reason: {reason}, message: why}}}}}}]"
            )
        };
        assert_eq!(
            read(BOUND, &waiting("ImagePullBackOff")).state,
            State::Starting(StartTrouble::Image, "why".into())
        );
        assert_eq!(
            read(BOUND, &waiting("CreateContainerConfigError")).state,
            State::Starting(StartTrouble::Container, "why".into())
        );
        assert_eq!(
            read(BOUND, &waiting("ContainerCreating")).state,
            State::Starting(StartTrouble::None, String::new())
        );
    }

    #[test]
    fn a_failed_pod_is_laid_at_the_right_door() {
        let container = |ended: &str| {
            format!(
                "phase: Failed, containerStatuses: [{{name: a, image: a, imageID: '', ready: false, restartCount: 0, state: {{terminated: {{{ended}}}}}}}]"
            )
        };
        let cases = [
            ("phase: Failed, reason: UnexpectedAdmissionError".into(), AttemptEndReason::AdmissionFailed),
            ("phase: Failed, reason: OutOfnvidia.com/gpu".into(), AttemptEndReason::AdmissionFailed),
            ("phase: Failed, reason: Evicted".into(), AttemptEndReason::Evicted),
            ("phase: Failed, conditions: [{type: DisruptionTarget, status: 'True', reason: PreemptionByScheduler}]".into(), AttemptEndReason::Evicted),
            ("phase: Failed, conditions: [{type: DisruptionTarget, status: 'True', reason: DeletionByPodGC}]".into(), AttemptEndReason::NodeLost),
            (container("exitCode: 3, reason: Error"), AttemptEndReason::ExitedNonZero),
            (container("exitCode: 137, reason: OOMKilled"), AttemptEndReason::OutOfMemory),
            (container("exitCode: 128, reason: StartError"), AttemptEndReason::ContainerStartFailed),
            ("phase: Failed".into(), AttemptEndReason::PodDeleted),
        ];
        for (status, expected) in cases {
            assert_eq!(reason(&read(BOUND, &status)), expected, "{status}");
        }
    }

    #[test]
    fn a_pod_on_a_node_that_is_gone_has_ended_and_one_on_a_silent_node_only_once_it_is_deleted() {
        assert_eq!(
            reason(&read_on(NodeState::Gone, "", BOUND, "phase: Running")),
            AttemptEndReason::NodeLost
        );
        assert_eq!(
            read_on(NOT_READY, "", BOUND, "phase: Running").state,
            State::Running
        );
        assert_eq!(
            reason(&read_on(NOT_READY, DELETED, BOUND, "phase: Running")),
            AttemptEndReason::NodeLost
        );
    }

    #[test]
    fn a_deleted_pod_holds_its_gpu_until_its_containers_have_ended() {
        assert_eq!(
            read_on(NodeState::Ready, DELETED, BOUND, "phase: Running").state,
            State::Running
        );
        assert_eq!(
            reason(&read_on(NodeState::Ready, DELETED, "", "phase: Pending")),
            AttemptEndReason::PodDeleted
        );
    }

    #[test]
    fn times_are_those_of_containers_that_really_ran() {
        let ran = "phase: Succeeded, containerStatuses: [{name: a, image: a, imageID: '', ready: false, restartCount: 0, state: {terminated: {exitCode: 0, containerID: c, message: 'sha256:1', startedAt: '2026-01-01T00:00:01Z', finishedAt: '2026-01-01T00:00:05Z'}}}]";
        let member = read(BOUND, ran);
        let second = |s: i64| {
            Some(
                "2026-01-01T00:00:00Z".parse::<Timestamp>().unwrap()
                    + k8s_openapi::jiff::SignedDuration::from_secs(s),
            )
        };
        assert_eq!(
            (
                member.started_at,
                member.finished_at,
                member.digest.as_deref()
            ),
            (second(1), second(5), Some("sha256:1"))
        );
        let never = ran.replace("containerID: c, ", "");
        assert_eq!(read(BOUND, &never).started_at, None);
    }

    #[test]
    fn a_long_message_is_cut_at_a_character() {
        assert_eq!(clip("aé", 2), "a");
        assert_eq!(clip("aé", 3), "aé");
    }
}
