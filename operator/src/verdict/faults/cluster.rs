//! Nodes, agents, kubelets and pods, as far as the operator sees them, second by second.

use gridstake_crds::{
    ComputeJob,
    compute_job::{Attempt, Failures},
    gpu_node::{DeviceFault, DeviceFaultKind},
    names::{LABEL_ATTEMPT, LABEL_MEMBER},
};
use k8s_openapi::{
    api::{
        coordination::v1::{Lease, LeaseSpec},
        core::v1::{
            Container, ContainerState, ContainerStateRunning, ContainerStateTerminated,
            ContainerStateWaiting, ContainerStatus, Pod, PodCondition, PodSpec, PodStatus,
            ResourceRequirements,
        },
    },
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{MicroTime, ObjectMeta, Time},
    },
    jiff::Timestamp,
};

use super::scenario::{Cause, Scenario, Shown, Sign, Signals};
use crate::{
    caches::heartbeats::Heartbeats,
    controllers::compute_job::{
        self,
        decide::{Admission, Observed, Validation, Write, decide},
        member::Member,
        usage::Books,
    },
    failover::{self, NodeSight, NodeState, Terms},
    payer::{Funds, WhoPays},
    verdict::{Excuse, Gpu, Loss, Place},
};

/// When the members begin.
const BEGAN: i64 = 1_800_000_000;
/// For how long a scenario is played after its fault, in seconds: longer than any decision takes.
const LONGEST: i64 = 420;
/// After how long without its kubelet a Node is told not to be ready.
const NOT_READY_AFTER: i64 = 40;
/// After how long a pod on such a node is evicted.
const EVICTED_AFTER: i64 = 300;
/// How long a pod takes that is asked to end.
const TERMINATES: i64 = 2;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(BEGAN + second).unwrap()
}

fn unix_ms(ms: i64) -> u64 {
    u64::try_from(BEGAN * 1_000 + ms).unwrap()
}

fn name(node: u32) -> String {
    format!("node-{node}")
}

/// What the operator has done so far.
struct World<'a> {
    scenario: &'a Scenario,
    heartbeats: Heartbeats,
    /// When the agents last told something, in seconds, and what their own clock said.
    told: Vec<Option<(i64, i64)>>,
    /// Pods that were deleted, and when.
    deleted: Vec<Option<i64>>,
}

/// Plays `scenario` until the attempt is recorded; tells each step if `aloud`.
pub fn play(scenario: &Scenario, aloud: bool) -> Option<(Attempt, Failures)> {
    let mut world = World {
        scenario,
        heartbeats: Heartbeats::default(),
        told: vec![None; scenario.nodes as usize],
        deleted: vec![None; scenario.members as usize],
    };
    let mut job = job(scenario);
    for second in scenario.strikes - 60..scenario.strikes + LONGEST {
        world.beat(second);
        let seen = world.observe(second);
        let plan = decide(&job, &seen, at(second));
        for write in &plan.writes {
            if let Write::DeletePods(pods) = write {
                for pod in pods {
                    world.deleted[member_of(pod)].get_or_insert(second);
                }
            }
        }
        if aloud && (!plan.writes.is_empty() || plan.status != job.status) {
            println!(
                "{second}: {:?} {:?}\n   {:?}",
                plan.writes,
                plan.status.as_ref().map(|s| (&s.ending, &s.attempts)),
                seen.places
            );
        }
        job.status = plan.status;
        let status = job.status.as_ref();
        if let Some((attempt, status)) = status.and_then(|s| Some((s.attempts.first()?, s))) {
            return Some((attempt.clone(), status.failures.unwrap_or_default()));
        }
    }
    None
}

fn member_of(pod: &str) -> usize {
    pod.rsplit('-').next().unwrap().parse().unwrap()
}

/// A job whose first attempt runs on the nodes of its members' numbers.
fn job(scenario: &Scenario) -> ComputeJob {
    let zero = format!("0x{}", "0".repeat(64));
    let nodes: Vec<_> = (0..scenario.members)
        .map(|member| serde_json::json!({"member": member, "node": name(member)}))
        .collect();
    let running = matches!(
        scenario.cause,
        Cause::ImageName | Cause::Command | Cause::GpuRuntimeIsBroken | Cause::PlaceTaken
    );
    serde_json::from_value(serde_json::json!({
        "apiVersion": "gridstake.dev/v1alpha1", "kind": "ComputeJob",
        "metadata": {"name": "j", "namespace": "n", "uid": "u", "generation": 1},
        "spec": {"gpu": {"count": 1}, "members": scenario.members, "template": {}, "retry": {"user": 5}, "timeouts": {"start": "2m"}},
        "status": {
            "placement": {
                "attempt": 1, "decidedAt": at(scenario.strikes - 100).to_string(), "nodes": nodes,
                "decision": {"draw": "d", "blockHash": zero, "previous": zero, "hash": zero, "snapshot": 1, "candidates": 1,
                    "totalWeight": "1", "drawn": []},
            },
            "conditions": if running { vec![] } else { vec![serde_json::json!(
                {"type": "Running", "status": "True", "reason": "Running", "message": "", "lastTransitionTime": at(0).to_string()}
            )] },
        },
    }))
    .unwrap()
}

impl World<'_> {
    fn is_hit(&self, node: u32) -> bool {
        self.scenario.hit.contains(&node)
    }

    /// Whether `node` fell off the network or lost its power.
    fn is_dark(&self, node: u32, second: i64) -> bool {
        let scenario = self.scenario;
        let dark = match scenario.cause {
            Cause::PowerFails | Cause::Maintenance => self.is_hit(node),
            // The member's node and the two after the last member's.
            Cause::ZoneFails => self.is_hit(node) || node == scenario.nodes - 1,
            Cause::AmnestyHolds => node != scenario.nodes - 1,
            _ => false,
        };
        dark && second >= scenario.strikes
    }

    fn kubelet_answers(&self, node: u32, second: i64) -> bool {
        let dies = self.scenario.cause == Cause::KubeletDies && self.is_hit(node);
        !(self.is_dark(node, second) || (dies && second >= self.scenario.strikes))
    }

    /// Until which second of its own clock the agent of `node` has told everything, if it tells something at `second`.
    fn tells(&self, node: u32, second: i64) -> Option<i64> {
        let scenario = self.scenario;
        let due = |second: i64| (second - scenario.phase - i64::from(node)).rem_euclid(10) == 0;
        let around = |second: i64, before: i64, after: i64| {
            second >= scenario.strikes - before && second < scenario.strikes + after
        };
        match scenario.signals {
            _ if self.is_dark(node, second) => None,
            Signals::Away if self.is_hit(node) && around(second, 20, LONGEST) => None,
            Signals::Restart if self.is_hit(node) && around(second, 8, 5) => None,
            Signals::Late(late) if self.is_hit(node) => {
                let sent = second - late;
                due(sent).then_some(sent)
            }
            _ => due(second).then_some(second),
        }
    }

    fn beat(&mut self, second: i64) {
        for node in 0..self.scenario.nodes {
            let Some(sent) = self.tells(node, second) else {
                continue;
            };
            self.told[node as usize] = Some((second, sent));
            let lease = Lease {
                spec: Some(LeaseSpec {
                    holder_identity: Some(name(node)),
                    renew_time: Some(MicroTime(at(sent))),
                    ..LeaseSpec::default()
                }),
                ..Lease::default()
            };
            self.heartbeats.see(&lease, at(second));
        }
    }

    fn observe(&self, second: i64) -> Observed {
        let members = 0..self.scenario.members;
        let pods: Vec<Member> = members
            .clone()
            .filter_map(|member| {
                let pod = self.pod(member, second)?;
                Member::read(&pod, self.node_state(member, second))
            })
            .collect();
        Observed {
            on_their_way: std::collections::BTreeSet::new(),
            verification: compute_job::verification::Seen::default(),
            untold_since: None,
            gates_off_at: None,
            pods,
            validation: Validation::NotAsked,
            admission: Admission::NotAsked,
            books: Books::default(),
            payer: WhoPays::Nobody,
            funds: Funds::Suffice,
            reclaimed: None,
            places: members.map(|member| self.place(member, second)).collect(),
        }
    }

    // ---- nodes --------------------------------------------------------------------------------

    fn node_state(&self, node: u32, second: i64) -> NodeState {
        let scenario = self.scenario;
        if scenario.cause == Cause::NodeDeleted && self.is_hit(node) && second >= scenario.strikes {
            return NodeState::Gone;
        }
        let answered = (scenario.strikes - 60..=second)
            .rev()
            .find(|second| self.kubelet_answers(node, *second))
            .unwrap_or(scenario.strikes - 60);
        let sight = NodeSight {
            ready: second - answered < NOT_READY_AFTER,
            kubelet: Some(at(answered)),
            agent: self.heartbeats.last(&name(node)),
        };
        let amnesty = || {
            failover::amnesty(
                &self.heartbeats.all(&Terms::default(), at(second), |_| true),
                &Terms::default(),
                at(second),
            )
            .is_some()
        };
        failover::node_state(Some(&sight), &Terms::default(), at(second), amnesty)
    }

    fn place(&self, node: u32, second: i64) -> Place {
        let terms = Terms::default();
        let heard = self.heartbeats.last(&name(node));
        let told = self.told[node as usize];
        let strikes = self.scenario.strikes * 1_000;
        let is_restarted = self.scenario.signals == Signals::Restart && self.is_hit(node);
        let is_maintained = self.scenario.cause == Cause::Maintenance && self.is_hit(node);
        Place {
            member: node,
            gpus: vec![self.gpu(node, second)],
            gpus_are_known: true,
            told_until_ms: told
                .filter(|(arrived, _)| second - arrived >= 2)
                .map(|(_, sent)| unix_ms(sent * 1_000)),
            is_heard: !terms.is_silent(heard, at(second)),
            sees_gpus: true,
            gaps: (is_restarted && second >= self.scenario.strikes)
                .then(|| (unix_ms(strikes - 8_000), unix_ms(strikes + 5_000)))
                .into_iter()
                .collect(),
            loss: match self.node_state(node, second) {
                NodeState::Gone => Loss::Deleted,
                NodeState::Ready | NodeState::Excused => Loss::None,
                _ => match self.heartbeats.fell_silent_with(
                    &name(node),
                    terms.silent_after,
                    at(second),
                ) {
                    0 => Loss::Alone,
                    others => Loss::Together(others),
                },
            },
            excuse: is_maintained.then_some(Excuse::Maintenance),
        }
    }

    /// The member's GPU, as the operator has heard of it. What is not the member's own GPU is another device of the node.
    fn gpu(&self, node: u32, second: i64) -> Gpu {
        let heard = self.told[node as usize].map_or(i64::MIN, |(_, sent)| sent);
        let is_late = matches!(self.scenario.signals, Signals::Late(_)) && self.is_hit(node);
        let is_away = self.scenario.signals == Signals::Away && self.is_hit(node);
        let is_told = |shown: &&Shown| {
            let seen = shown.at_ms.div_euclid(1_000) + 1;
            // What is new is told at once, unless nothing gets through.
            shown.own
                && shown.node == node
                && if is_late || is_away {
                    seen <= heard
                } else {
                    seen < second
                }
        };
        let told: Vec<&Shown> = self.scenario.shown.iter().filter(is_told).collect();
        let is_lost = told.iter().any(|shown| shown.sign == Sign::Lost);
        let was_unfit = self.scenario.cause == Cause::UnfitGpuIsGiven && !told.is_empty();
        Gpu {
            uuid: format!("GPU-{node}"),
            is_unfit: is_lost || was_unfit,
            is_lost,
            faults: told.into_iter().map(|shown| fault(shown, second)).collect(),
        }
    }

    // ---- pods ---------------------------------------------------------------------------------

    /// When the process of `member` ends by itself, and how, in ms.
    fn ends(&self, member: u32) -> Option<(i64, i32)> {
        let scenario = self.scenario;
        let dies = match scenario.cause {
            Cause::GpuFallsOffTheBus
            | Cause::HardwareXid
            | Cause::ContainedMemoryError
            | Cause::ProgramExits
            | Cause::ProgramHasAnXid
            | Cause::ProgramExitsWhileAnotherGpuBreaks
            | Cause::ProgramExitsLongAfterAFault
            | Cause::ProgramExitsJustBeforeAFault
            | Cause::Killed => true,
            Cause::MemoryLimit => return self.is_hit(member).then_some((scenario.ends_ms, 137)),
            _ => false,
        };
        // The others of a gang fail when the one with which they work is gone.
        let later = if self.is_hit(member) { 0 } else { 700 };
        dies.then_some((scenario.ends_ms + later, scenario.exit_code))
    }

    fn pod(&self, member: u32, second: i64) -> Option<Pod> {
        let scenario = self.scenario;
        let strikes = scenario.strikes;
        let hit = self.is_hit(member) && second >= strikes;
        let answers = self.kubelet_answers(member, second);
        let deleted = self.deleted[member as usize];
        if scenario.cause == Cause::PodDeleted && hit && second >= strikes + TERMINATES {
            return None;
        }
        let mut status = running();
        let never_ran = matches!(
            scenario.cause,
            Cause::ImageName
                | Cause::Command
                | Cause::GpuRuntimeIsBroken
                | Cause::DevicePluginRefuses
                | Cause::PlaceTaken
        );
        if never_ran && self.is_hit(member) {
            status = waits(scenario.cause, hit);
        } else if let Some((ms, code)) = self.ends(member).filter(|(ms, _)| *ms <= second * 1_000) {
            let reason = if scenario.cause == Cause::MemoryLimit {
                "OOMKilled"
            } else {
                "Error"
            };
            status = ended(ms.div_euclid(1_000), code, reason);
        } else if hit {
            match scenario.cause {
                Cause::StorageLimit => {
                    status = failed(
                        "Evicted",
                        "Pod ephemeral local storage usage exceeds the total limit of containers 1Gi.",
                    );
                }
                Cause::NodePressure => {
                    status = failed("Evicted", "The node was low on resource: memory.");
                }
                Cause::NodeShutsDown => {
                    status = failed(
                        "Terminated",
                        "Pod was terminated in response to imminent node shutdown.",
                    );
                }
                Cause::Drain => {
                    status = ended(strikes, 143, "Error");
                    status.conditions = Some(disrupted("EvictionByEvictionAPI"));
                }
                Cause::KubeletDies if second >= strikes + EVICTED_AFTER => {
                    status = failed("", "");
                    status.conditions = Some(disrupted("DeletionByTaintManager"));
                }
                _ => {}
            }
        }
        let stopped = deleted.filter(|at| answers && *at + TERMINATES <= second);
        if let (Some(at), Some("Running" | "Pending")) = (stopped, status.phase.as_deref()) {
            status = ended(at + TERMINATES, 143, "Error");
        }
        let is_deleted = deleted.is_some() || (scenario.cause == Cause::PodDeleted && hit);
        Some(Pod {
            metadata: ObjectMeta {
                name: Some(format!("j-1-{member}")),
                labels: Some(
                    [
                        (LABEL_ATTEMPT.to_owned(), "1".to_owned()),
                        (LABEL_MEMBER.to_owned(), member.to_string()),
                    ]
                    .into(),
                ),
                deletion_timestamp: is_deleted.then(|| Time(at(second))),
                ..ObjectMeta::default()
            },
            spec: Some(PodSpec {
                node_name: Some(name(member)),
                containers: vec![Container {
                    name: "c".into(),
                    resources: Some(ResourceRequirements {
                        limits: Some([("memory".to_owned(), Quantity("1Gi".into()))].into()),
                        ..ResourceRequirements::default()
                    }),
                    ..Container::default()
                }],
                ..PodSpec::default()
            }),
            status: Some(status),
        })
    }
}

fn fault(shown: &Shown, second: i64) -> DeviceFault {
    let (kind, xid, lasts) = match shown.sign {
        Sign::Xid(number) => (DeviceFaultKind::Xid, Some(number), false),
        Sign::Lost => (DeviceFaultKind::GpuLost, None, true),
        Sign::Ecc => (DeviceFaultKind::EccUncorrectable, None, false),
        Sign::Hot => (DeviceFaultKind::ThermalThrottling, None, true),
    };
    let first_ms = unix_ms(shown.at_ms);
    DeviceFault {
        kind,
        xid,
        first_ms,
        last_ms: if lasts {
            unix_ms(second * 1_000).max(first_ms)
        } else {
            first_ms
        },
        count: 1,
    }
}

fn container(state: ContainerState) -> PodStatus {
    PodStatus {
        container_statuses: Some(vec![ContainerStatus {
            name: "c".into(),
            state: Some(state),
            ..ContainerStatus::default()
        }]),
        ..PodStatus::default()
    }
}

fn running() -> PodStatus {
    PodStatus {
        phase: Some("Running".into()),
        ..container(ContainerState {
            running: Some(ContainerStateRunning {
                started_at: Some(Time(at(0))),
            }),
            ..ContainerState::default()
        })
    }
}

/// A pod whose process ended in `second`; the kubelet cuts off what is below a second.
fn ended(second: i64, exit_code: i32, reason: &str) -> PodStatus {
    PodStatus {
        phase: Some("Failed".into()),
        ..container(ContainerState {
            terminated: Some(ContainerStateTerminated {
                container_id: Some("c".into()),
                exit_code,
                reason: Some(reason.into()),
                started_at: Some(Time(at(0))),
                finished_at: Some(Time(at(second))),
                ..ContainerStateTerminated::default()
            }),
            ..ContainerState::default()
        })
    }
}

fn failed(reason: &str, message: &str) -> PodStatus {
    PodStatus {
        phase: Some("Failed".into()),
        reason: Some(reason.into()),
        message: Some(message.into()),
        ..PodStatus::default()
    }
}

/// A pod that does not start, for one of the causes for which none does.
fn waits(cause: Cause, strikes: bool) -> PodStatus {
    let waiting = |reason: &str, message: &str| PodStatus {
        phase: Some("Pending".into()),
        ..container(ContainerState {
            waiting: Some(ContainerStateWaiting {
                reason: Some(reason.into()),
                message: Some(message.into()),
            }),
            ..ContainerState::default()
        })
    };
    match cause {
        Cause::DevicePluginRefuses if strikes => failed(
            "UnexpectedAdmissionError",
            "Allocate failed due to no healthy devices present, which is unexpected",
        ),
        Cause::PlaceTaken if strikes => failed(
            "OutOfnvidia.com/gpu",
            "Pod was rejected: Node didn't have enough resource: nvidia.com/gpu",
        ),
        Cause::ImageName => waiting("ErrImagePull", "docker.io/a/b:c: not found"),
        Cause::Command => waiting(
            "RunContainerError",
            "exec: \"trian\": executable file not found in $PATH",
        ),
        Cause::GpuRuntimeIsBroken => waiting(
            "RunContainerError",
            "nvidia-container-cli: initialization error: nvml error: driver not loaded",
        ),
        _ => waiting("ContainerCreating", ""),
    }
}

fn disrupted(reason: &str) -> Vec<PodCondition> {
    vec![PodCondition {
        type_: "DisruptionTarget".into(),
        status: "True".into(),
        reason: Some(reason.into()),
        ..PodCondition::default()
    }]
}
