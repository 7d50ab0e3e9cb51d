//! Which nodes others wait for that canaries hold. Pure: places are tried as the placement controller would try them.

use std::collections::BTreeSet;

use gridstake_crds::ComputeJob;
use k8s_openapi::api::core::v1::Node;

use crate::{
    controllers::{
        gpu_node::local_use::WaitingPod,
        placement::decide::{Surroundings, place},
    },
    scheduler::{Snapshot, snapshot::NodeCapacity},
};

/// So many that wait are looked at, the first in the queue: the others wait for them anyway.
const MOST_LOOKED_AT: usize = 64;

/// The fleet in three states.
#[derive(Clone, Debug)]
pub struct Fleets {
    /// As it is.
    pub now: Snapshot,
    /// As it will be when those canaries have left that are on their way.
    pub soon: Snapshot,
    /// As it would be without canaries.
    pub without: Snapshot,
}

/// Who waits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Whether a job is about to get a place as things are: until it has, nobody knows what is free.
    pub queue_moves: bool,
    /// Nodes that somebody could take if the canary there went.
    pub nodes: BTreeSet<String>,
}

/// What those in `jobs` (in the order of the queue) and `pods` wait for. `node` gives the Node of this name.
#[must_use]
pub fn wanted<N: std::borrow::Borrow<Node>>(
    mut fleets: Fleets,
    jobs: &[(&ComputeJob, Surroundings<'_>)],
    pods: &[WaitingPod],
    node: impl Fn(&str) -> Option<N>,
) -> Wanted {
    let mut wanted = Wanted::default();
    for (job, around) in jobs.iter().take(MOST_LOOKED_AT) {
        if let Some((placement, request)) = place(job, &fleets.now, around.clone()) {
            wanted.queue_moves = true;
            for fleet in [&mut fleets.now, &mut fleets.soon, &mut fleets.without] {
                fleet.reserve(&placement, &request);
            }
        } else if let Some((placement, request)) = place(job, &fleets.soon, around.clone()) {
            // Nobody else need go.
            fleets.soon.reserve(&placement, &request);
            fleets.without.reserve(&placement, &request);
        } else if let Some((placement, request)) = place(job, &fleets.without, around.clone()) {
            fleets.without.reserve(&placement, &request);
            wanted.nodes.extend(placement.nodes);
        }
    }
    for pod in pods.iter().take(MOST_LOOKED_AT) {
        let fits = |capacity: &&NodeCapacity| {
            capacity.free().first_shortage(&pod.resources).is_none()
                && node(&capacity.facts().name).is_some_and(|node| pod.could_run_on(node.borrow()))
        };
        let finds_room = |fleet: &Snapshot| fleet.nodes().iter().any(|capacity| fits(&capacity));
        if finds_room(&fleets.now) || finds_room(&fleets.soon) {
            continue;
        }
        let found = fleets.without.nodes().iter().find(fits);
        wanted
            .nodes
            .extend(found.map(|capacity| capacity.facts().name.clone()));
    }
    wanted
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;

    use super::*;
    use crate::scheduler::{
        JobUid, MemberKey, NodeFacts, Reservation, Resources, Seed, SnapshotInputs,
        draw::{NEVER_SYNCED_BLOCK, NO_PREVIOUS_DECISION},
        request::OfNamespace,
    };

    fn waiting(number: u8, gpus: u32) -> ComputeJob {
        serde_json::from_value(serde_json::json!({
            "apiVersion": "gridstake.dev/v1alpha1", "kind": "ComputeJob",
            "metadata": {"name": format!("j{number}"), "namespace": "n", "uid": JobUid([number; 16]).to_string()},
            "spec": {"gpu": {"count": gpus}, "template": {"spec": {"containers": [{"name": "a", "image": "a"}]}}},
        }))
        .unwrap()
    }

    fn around() -> Surroundings<'static> {
        Surroundings {
            namespace: OfNamespace::default(),
            priority_class: "p",
            seed: Seed {
                block_hash: NEVER_SYNCED_BLOCK,
                previous_decision: NO_PREVIOUS_DECISION,
            },
            now: Timestamp::UNIX_EPOCH,
            same_owner: std::collections::BTreeSet::new(),
        }
    }

    fn gpus(count: u64) -> Resources {
        Resources {
            gpus: count,
            ..Resources::default()
        }
    }

    /// Nodes by name, with their GPUs, how many of them a canary holds, and whether it is leaving.
    fn fleets(nodes: &[(&str, u64, u64, bool)]) -> Fleets {
        let facts = |name: &str, gpus: u64| NodeFacts {
            name: name.to_owned(),
            ..crate::scheduler::fixtures::node(name, gpus)
        };
        let now = Snapshot::assemble(SnapshotInputs {
            nodes: nodes
                .iter()
                .map(|(name, all, ..)| facts(name, *all))
                .collect(),
            reservations: (1_u8..)
                .zip(nodes)
                .filter(|(_, (.., held, _))| *held > 0)
                .map(|(number, (name, _, held, _))| Reservation {
                    member: MemberKey {
                        job_uid: JobUid([100 + number; 16]),
                        attempt: 1,
                        member: 0,
                    },
                    node: (*name).to_owned(),
                    resources: gpus(*held),
                })
                .collect(),
            ..SnapshotInputs::default()
        });
        let (mut soon, mut without) = (now.clone(), now.clone());
        for (name, _, held, leaves) in nodes {
            without.give_back(name, &gpus(*held));
            if *leaves {
                soon.give_back(name, &gpus(*held));
            }
        }
        Fleets { now, soon, without }
    }

    fn wanted_by(fleets: Fleets, jobs: &[ComputeJob]) -> Wanted {
        let jobs: Vec<_> = jobs.iter().map(|job| (job, around())).collect();
        wanted(fleets, &jobs, &[], |_| None::<Node>)
    }

    fn names(wanted: &Wanted) -> Vec<&str> {
        wanted.nodes.iter().map(String::as_str).collect()
    }

    #[test]
    fn a_job_that_finds_room_asks_nobody_to_go() {
        let found = wanted_by(
            fleets(&[("a", 2, 2, false), ("b", 2, 0, false)]),
            &[waiting(1, 2)],
        );
        assert!(found.queue_moves);
        assert_eq!(names(&found), [""; 0]);
    }

    #[test]
    fn a_job_that_finds_none_has_the_canary_go_whose_gpus_it_needs() {
        let found = wanted_by(
            fleets(&[("a", 2, 2, false), ("b", 1, 0, false)]),
            &[waiting(1, 2)],
        );
        assert!(!found.queue_moves);
        assert_eq!(names(&found), ["a"]);
    }

    #[test]
    fn a_job_that_would_find_none_without_canaries_either_disturbs_nobody() {
        let found = wanted_by(fleets(&[("a", 2, 2, false)]), &[waiting(1, 3)]);
        assert_eq!(found, Wanted::default());
    }

    #[test]
    fn while_one_is_on_its_way_no_other_is_asked_for_the_same_job() {
        let leaving = [("a", 2, 2, true), ("b", 2, 2, false)];
        assert_eq!(
            names(&wanted_by(fleets(&leaving), &[waiting(1, 2)])),
            [""; 0]
        );
        let two = [waiting(1, 2), waiting(2, 2)];
        assert_eq!(names(&wanted_by(fleets(&leaving), &two)), ["b"]);
    }

    #[test]
    fn each_job_counts_what_those_before_it_take() {
        let nodes = [("a", 2, 2, false), ("b", 2, 2, false)];
        let found = wanted_by(fleets(&nodes), &[waiting(1, 2), waiting(2, 2)]);
        assert_eq!(names(&found), ["a", "b"]);
    }

    #[test]
    fn a_pod_of_others_that_waits_has_a_canary_go_too() {
        let pod = WaitingPod {
            name: "n/p".to_owned(),
            uid: "u".to_owned(),
            priority: 0,
            created: None,
            resources: gpus(2),
            constraints: crate::scheduler::node_constraints::NodeConstraints::default(),
        };
        let node = |name: &str| {
            let node = serde_json::json!({
                "metadata": {"name": name},
                "status": {"allocatable": {"nvidia.com/gpu": "2", "pods": "110", "cpu": "4", "memory": "4Gi"}},
            });
            serde_json::from_value::<Node>(node).ok()
        };
        let held = fleets(&[("a", 2, 2, false)]);
        let found = wanted(held, &[], std::slice::from_ref(&pod), node);
        assert_eq!(names(&found), ["a"]);
        let free = fleets(&[("a", 2, 2, false), ("b", 2, 0, false)]);
        assert_eq!(wanted(free, &[], &[pod], node), Wanted::default());
    }
}
