//! What is taken on a node is counted exactly once: tables for the rule, and histories in which jobs are placed, bound
//! and ended while strangers come and go.

use proptest::prelude::*;

use super::fixtures::{node, request, seed};
use super::linear::place;
use super::*;

const JOB: JobUid = JobUid([7; 16]);

fn member(number: u32) -> MemberKey {
    MemberKey {
        job_uid: JOB,
        attempt: 1,
        member: number,
    }
}

fn gpus(count: u64) -> Resources {
    Resources {
        gpus: count,
        pods: 1,
        ..Resources::default()
    }
}

fn pod(node: Option<&str>, ended: bool, member: Option<MemberKey>) -> PodFacts {
    PodFacts {
        node: node.map(str::to_owned),
        ended,
        resources: gpus(2),
        member,
    }
}

fn reservation(number: u32, node: &str) -> Reservation {
    Reservation {
        member: member(number),
        node: node.to_owned(),
        resources: gpus(2),
    }
}

/// (used, reserved, free) GPUs of node `a`, which has 8.
fn taken(pods: &[PodFacts], reservations: &[Reservation]) -> (u64, u64, u64) {
    let snapshot = Snapshot::assemble(SnapshotInputs {
        nodes: vec![node("a", 8), node("b", 8)],
        pods: pods.to_vec(),
        reservations: reservations.to_vec(),
        ..SnapshotInputs::default()
    });
    let a = snapshot
        .nodes()
        .iter()
        .find(|node| node.facts().name == "a")
        .unwrap();
    (a.used().gpus, a.reserved().gpus, a.free().gpus)
}

#[test]
fn a_strangers_pod_counts_from_binding_to_its_end() {
    assert_eq!(taken(&[pod(Some("a"), false, None)], &[]), (2, 0, 6));
    assert_eq!(taken(&[pod(None, false, None)], &[]), (0, 0, 8));
    assert_eq!(taken(&[pod(Some("a"), true, None)], &[]), (0, 0, 8));
    assert_eq!(
        taken(&[pod(Some("elsewhere"), false, None)], &[]),
        (0, 0, 8)
    );
}

#[test]
fn a_placement_counts_once_at_every_step_of_its_life() {
    let promised = [reservation(0, "a")];
    assert_eq!(taken(&[], &promised), (0, 2, 6));
    assert_eq!(
        taken(&[pod(None, false, Some(member(0)))], &promised),
        (0, 2, 6)
    );
    assert_eq!(
        taken(&[pod(Some("a"), false, Some(member(0)))], &promised),
        (2, 0, 6)
    );
    assert_eq!(
        taken(&[pod(Some("a"), false, Some(member(0)))], &[]),
        (2, 0, 6)
    );
    assert_eq!(
        taken(&[pod(Some("a"), true, Some(member(0)))], &promised),
        (0, 0, 8)
    );
}

#[test]
fn a_pod_covers_no_other_members_reservation() {
    let stranger = MemberKey {
        attempt: 2,
        ..member(0)
    };
    assert_eq!(
        taken(
            &[pod(Some("a"), false, Some(stranger))],
            &[reservation(0, "a")]
        ),
        (2, 2, 4)
    );
    assert_eq!(
        taken(
            &[pod(Some("a"), false, Some(member(1)))],
            &[reservation(0, "a")]
        ),
        (2, 2, 4)
    );
    assert_eq!(
        taken(&[pod(Some("a"), false, None)], &[reservation(0, "a")]),
        (2, 2, 4)
    );
}

#[test]
fn a_reservation_given_twice_counts_once() {
    assert_eq!(
        taken(&[], &[reservation(0, "a"), reservation(0, "a")]),
        (0, 2, 6)
    );
    assert_eq!(
        taken(&[], &[reservation(0, "a"), reservation(1, "a")]),
        (0, 4, 4)
    );
}

#[test]
fn free_is_never_negative() {
    let crowd: Vec<_> = (0..6).map(|_| pod(Some("a"), false, None)).collect();
    assert_eq!(taken(&crowd, &[]), (12, 0, 0));
}

/// A step in the life of a small cluster.
#[derive(Clone, Debug)]
enum Step {
    /// A job asks for (GPUs per member, members).
    Place(u32, u32),
    /// The n-th member that waits is created, pinned and unbound.
    Create(usize),
    /// kube-scheduler binds the n-th unbound member, if its node has room for what is bound there.
    Bind(usize),
    /// The n-th pod ends.
    End(usize),
    /// The n-th ended pod is deleted, and with it goes its reservation.
    Forget(usize),
    /// A stranger takes GPUs of the n-th node, as far as kube-scheduler lets it.
    Stranger(usize, u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (1_u32..4, 1_u32..4).prop_map(|(gpus, members)| Step::Place(gpus, members)),
        3 => any::<usize>().prop_map(Step::Create),
        3 => any::<usize>().prop_map(Step::Bind),
        2 => any::<usize>().prop_map(Step::End),
        1 => any::<usize>().prop_map(Step::Forget),
        1 => (any::<usize>(), 1_u64..4).prop_map(|(node, gpus)| Step::Stranger(node, gpus)),
    ];
    prop::collection::vec(step, 0..60)
}

/// The cluster as the API server knows it. A pod's `bool` says whether it is bound.
#[derive(Default)]
struct Cluster {
    pods: Vec<(PodFacts, bool)>,
    reservations: Vec<Reservation>,
    jobs: u8,
    lost_races: u32,
}

impl Cluster {
    fn nodes() -> Vec<NodeFacts> {
        vec![node("a", 4), node("b", 3), node("c", 8)]
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot::assemble(SnapshotInputs {
            nodes: Self::nodes(),
            pods: self.pods.iter().map(|(pod, _)| pod.clone()).collect(),
            reservations: self.reservations.clone(),
            ..SnapshotInputs::default()
        })
    }

    /// What kube-scheduler would say: bound pods that have not ended, and no others.
    fn bound_on(&self, node: &str) -> u64 {
        let on_node = self
            .pods
            .iter()
            .filter(|(pod, bound)| *bound && !pod.ended && pod.node.as_deref() == Some(node));
        on_node.map(|(pod, _)| pod.resources.gpus).sum()
    }

    fn has_room(&self, node: &str, gpus: u64) -> bool {
        let capacity = Self::nodes()
            .into_iter()
            .find(|facts| facts.name == node)
            .unwrap()
            .capacity()
            .gpus;
        self.bound_on(node) + gpus <= capacity
    }

    fn nth(&self, number: usize, wanted: impl Fn(&(PodFacts, bool)) -> bool) -> Option<usize> {
        let found: Vec<usize> = (0..self.pods.len())
            .filter(|index| wanted(&self.pods[*index]))
            .collect();
        (!found.is_empty()).then(|| found[number % found.len()])
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Place(gpus, members) => {
                self.jobs = self.jobs.wrapping_add(1);
                let asked = Request {
                    job_uid: JobUid([self.jobs; 16]),
                    ..request(gpus, members)
                };
                let snapshot = self.snapshot();
                if let Ok(placement) = place(&snapshot, &asked, &seed()) {
                    for (number, node) in (0..).zip(&placement.nodes) {
                        self.reservations.push(Reservation {
                            member: MemberKey {
                                job_uid: asked.job_uid,
                                attempt: 1,
                                member: number,
                            },
                            node: node.clone(),
                            resources: asked.per_member(),
                        });
                    }
                    let mut after = snapshot;
                    after.reserve(&placement, &asked);
                    assert_eq!(
                        after.nodes(),
                        self.snapshot().nodes(),
                        "reserving equals assembling anew"
                    );
                }
            }
            Step::Create(number) => {
                let known = |member| self.pods.iter().any(|(pod, _)| pod.member == Some(member));
                let waiting: Vec<&Reservation> = self
                    .reservations
                    .iter()
                    .filter(|entry| !known(entry.member))
                    .collect();
                if !waiting.is_empty() {
                    let entry = waiting[number % waiting.len()];
                    let pod = PodFacts {
                        node: Some(entry.node.clone()),
                        ended: false,
                        resources: entry.resources.clone(),
                        member: Some(entry.member),
                    };
                    self.pods.push((pod, false));
                }
            }
            Step::Bind(number) => {
                if let Some(index) = self.nth(number, |(pod, bound)| !bound && !pod.ended) {
                    let (pod, _) = &self.pods[index];
                    if self.has_room(pod.node.as_deref().unwrap(), pod.resources.gpus) {
                        self.pods[index].1 = true;
                    } else {
                        self.lost_races += 1;
                    }
                }
            }
            Step::End(number) => {
                if let Some(index) = self.nth(number, |(pod, bound)| *bound && !pod.ended) {
                    self.pods[index].0.ended = true;
                }
            }
            Step::Forget(number) => {
                if let Some(index) = self.nth(number, |(pod, _)| pod.ended) {
                    let (pod, _) = self.pods.remove(index);
                    self.reservations
                        .retain(|entry| Some(entry.member) != pod.member);
                }
            }
            Step::Stranger(number, count) => {
                let nodes = Self::nodes();
                let name = &nodes[number % nodes.len()].name;
                if self.has_room(name, count) {
                    let pod = PodFacts {
                        node: Some(name.clone()),
                        ended: false,
                        resources: gpus(count),
                        member: None,
                    };
                    self.pods.push((pod, true));
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn no_history_without_strangers_loses_a_race_or_takes_more_than_there_is(steps in steps()) {
        let mut cluster = Cluster::default();
        for step in steps.iter().filter(|step| !matches!(step, Step::Stranger(..))) {
            cluster.take(step);
            for node in cluster.snapshot().nodes() {
                prop_assert!(node.used().gpus + node.reserved().gpus <= node.facts().capacity().gpus);
            }
        }
        prop_assert_eq!(cluster.lost_races, 0);
    }

    #[test]
    fn strangers_may_win_a_race_but_a_decision_never_takes_what_is_known_to_be_taken(steps in steps()) {
        let mut cluster = Cluster::default();
        for step in &steps {
            let before = cluster.snapshot();
            cluster.take(step);
            let after = cluster.snapshot();
            for (old, new) in before.nodes().iter().zip(after.nodes()) {
                if matches!(step, Step::Place(..)) && new.reserved().gpus > old.reserved().gpus {
                    prop_assert!(new.used().gpus + new.reserved().gpus <= new.facts().capacity().gpus);
                }
                prop_assert!(cluster.bound_on(&new.facts().name) <= new.facts().capacity().gpus);
            }
        }
    }
}
