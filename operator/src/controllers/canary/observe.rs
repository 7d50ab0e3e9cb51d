//! Nodes, canaries and who else waits. Reads the caches; decides nothing but which of it need be looked at.

use std::collections::{BTreeMap, BTreeSet};

use gridstake_crds::{
    ComputeJob, GpuNode,
    compute_job::ComputeJobStatus,
    gpu_node::OfferState,
    names::{JOB_PRIORITY_CLASS, LABEL_CANARY},
};
use k8s_openapi::{api::core::v1::Pod, jiff::Timestamp};
use kube::ResourceExt as _;

use super::{
    build::{self, NewCanary},
    decide::{NodeSight, Sight, gpus_of, is_due, pauses, room},
    is_canary,
    outcome::{Canary, Stage},
    wanted::{Fleets, Wanted, wanted},
};
use crate::{
    caches::parsed,
    context::Context,
    controllers::{
        gpu_node::observe::local_pods,
        job_request::{Shunned, job_request},
        placement::{
            decide::{Standing, Surroundings, standing},
            fleet,
        },
    },
    scheduler::{
        JobUid, Request, Seed, Snapshot,
        draw::{NEVER_SYNCED_BLOCK, NO_PREVIOUS_DECISION},
        fair_share::Ranks,
        filter,
        queue::{Queue, QueueEntry},
    },
};

/// Looks around at `now`. For the labels in `just_made` a canary has been made that may not be seen yet.
#[must_use]
pub fn observe(ctx: &Context, just_made: BTreeSet<String>, now: Timestamp) -> Sight {
    let stored = ctx.caches.compute_jobs.state();
    let jobs: Vec<(&ComputeJob, Canary)> = parsed(&stored)
        .filter(|job| is_canary(&ctx.namespace, job))
        .map(|job| (job, canary(ctx, job)))
        .collect();
    let canaries: Vec<Canary> = jobs.iter().map(|(_, canary)| canary.clone()).collect();
    let gpu_nodes = ctx.caches.gpu_nodes.state();
    let mut nodes: Vec<NodeSight> = parsed(&gpu_nodes).map(node).collect();
    nodes.sort_by(|a, b| a.name.cmp(&b.name));

    let terms = &ctx.canaries;
    let may_start = |node: &NodeSight| {
        terms.template.is_some()
            && is_due(node, terms, now)
            && !pauses(&node.name, &canaries, &just_made)
    };
    let starts = room(&canaries, just_made.len(), terms) > 0 && nodes.iter().any(may_start);
    let holds = |canary: &Canary| matches!(canary.stage, Stage::Holds | Stage::Leaves);
    // Most of the time nobody is to be measured and nobody in anybody's way: then the fleet need not be looked at.
    let wanted = if starts || canaries.iter().any(holds) {
        let fleet = fleet::at(ctx, &[], 0, (ctx.now)());
        for node in nodes.iter_mut().filter(|node| starts && may_start(node)) {
            node.free = free_gpus(&fleet, &node.name);
            node.takes_canary = takes_canary(ctx, &fleet, node, now);
        }
        who_waits(ctx, &jobs, fleet, now)
    } else {
        Wanted::default()
    };
    Sight {
        nodes,
        canaries,
        just_made,
        wanted,
    }
}

fn canary(ctx: &Context, job: &ComputeJob) -> Canary {
    let label = job
        .labels()
        .get(LABEL_CANARY)
        .map(String::as_str)
        .unwrap_or_default();
    let has_ended = job.status.as_ref().is_some_and(ComputeJobStatus::has_ended);
    let message = has_ended.then(|| message(ctx, job)).flatten();
    Canary::read(job, label, message.as_deref())
}

/// What the program of `job` has left as its termination message, as long as its pod is there: until the job is deleted.
fn message(ctx: &Context, job: &ComputeJob) -> Option<String> {
    let (namespace, uid) = (
        job.namespace().unwrap_or_default(),
        job.uid().unwrap_or_default(),
    );
    let pods = ctx.caches.pods_of_job(&namespace, &job.name_any(), &uid);
    pods.iter().find_map(|pod| termination_message(pod))
}

fn termination_message(pod: &Pod) -> Option<String> {
    let containers = pod.status.as_ref()?.container_statuses.as_ref()?;
    containers.iter().find_map(|container| {
        container
            .state
            .as_ref()?
            .terminated
            .as_ref()?
            .message
            .clone()
    })
}

fn node(gpu_node: &GpuNode) -> NodeSight {
    let name = gpu_node.name_any();
    let Some(status) = &gpu_node.status else {
        return NodeSight {
            name,
            ..NodeSight::default()
        };
    };
    NodeSight {
        name,
        devices: status.usable_devices().map(|d| d.uuid.clone()).collect(),
        is_divided: status.divides_devices(),
        is_offered: status
            .offer
            .as_ref()
            .is_some_and(|offer| offer.state == OfferState::Offered),
        free: status.free.unwrap_or(0),
        takes_canary: false,
        performance: status.performance.clone(),
    }
}

fn free_gpus(fleet: &Snapshot, name: &str) -> u32 {
    let found = fleet.nodes().iter().find(|node| node.facts().name == name);
    let free = found.map_or(0, |node| node.free().gpus);
    u32::try_from(free).unwrap_or(u32::MAX)
}

/// Whether a canary on the free GPUs of `node` would be placed there, by the very filters that would place it.
fn takes_canary(ctx: &Context, fleet: &Snapshot, node: &NodeSight, now: Timestamp) -> bool {
    let Some(template) = &ctx.canaries.template else {
        return false;
    };
    let new = NewCanary {
        node: node.name.clone(),
        gpus: gpus_of(node),
    };
    let Ok(mut job) = build::job(&ctx.canaries, template, &ctx.namespace, &new, now) else {
        return false;
    };
    // The API server gives it one.
    job.metadata.uid = Some(JobUid([0; 16]).to_string());
    let Some(request) = request(ctx, &job) else {
        return false;
    };
    let member = request.per_member();
    fleet
        .nodes()
        .iter()
        .filter(|capacity| capacity.facts().name == node.name)
        .any(|capacity| filter::first_rejection(capacity, &request, &member).is_none())
}

fn request(ctx: &Context, job: &ComputeJob) -> Option<Request> {
    let namespace = fleet::of_job(ctx, job);
    job_request(job, 1, namespace, Shunned::default(), JOB_PRIORITY_CLASS).ok()
}

/// Who waits for what the canaries `jobs` hold.
fn who_waits(
    ctx: &Context,
    jobs: &[(&ComputeJob, Canary)],
    fleet: Snapshot,
    now: Timestamp,
) -> Wanted {
    let mut fleets = Fleets {
        soon: fleet.clone(),
        without: fleet.clone(),
        now: fleet,
    };
    let mut any_holds = false;
    for (job, canary) in jobs {
        let is_leaving = match canary.stage {
            Stage::Leaves => true,
            Stage::Holds => false,
            Stage::Waits | Stage::LostItsPlace | Stage::GaveWay | Stage::Ended(_) => continue,
        };
        let Some(request) = request(ctx, job) else {
            continue;
        };
        any_holds = true;
        let member = request.per_member();
        let placement = job
            .status
            .as_ref()
            .and_then(ComputeJobStatus::active_placement);
        for placed in placement.iter().flat_map(|placement| &placement.nodes) {
            fleets.without.give_back(&placed.node, &member);
            if is_leaving {
                fleets.soon.give_back(&placed.node, &member);
            }
        }
    }
    let stored = ctx.caches.compute_jobs.state();
    let waiting = parsed(&stored)
        .filter(|job| !is_canary(&ctx.namespace, job))
        .filter(|job| {
            let is_admitted = ctx.untold.of(job).is_some();
            standing(job, is_admitted, now) == Standing::Waiting
        });
    let (jobs, entries): (BTreeMap<JobUid, &ComputeJob>, Vec<QueueEntry>) = waiting
        .map(|job| {
            let payer = fleet::payer_of(ctx, &job.namespace().unwrap_or_default(), now);
            let entry = fleet::queued(ctx, job, payer);
            ((entry.job_uid, job), entry)
        })
        .unzip();
    // All of them go before canaries, whatever their payers have used.
    let order = Queue::new(entries, Ranks::default()).order();
    let waiting: Vec<(&ComputeJob, Surroundings<'_>)> = order
        .iter()
        .filter_map(|entry| jobs.get(&entry.job_uid))
        .map(|job| {
            let around = Surroundings {
                namespace: fleet::of_job(ctx, job),
                priority_class: JOB_PRIORITY_CLASS,
                // What is drawn here is not what will be: it only says whether there is a place.
                seed: Seed {
                    block_hash: NEVER_SYNCED_BLOCK,
                    previous_decision: NO_PREVIOUS_DECISION,
                },
                now,
                same_owner: fleet::same_owner(ctx, job),
            };
            (*job, around)
        })
        .collect();
    let pods = if any_holds {
        local_pods(&ctx.caches).waiting
    } else {
        Vec::new()
    };
    wanted(fleets, &waiting, &pods, |name| ctx.caches.node(name))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn gpu_node(devices: &Value, more: Value) -> GpuNode {
        let mut status = json!({
            "devices": devices,
            "free": 2,
            "offer": {"state": "Offered", "reason": "Available"},
        });
        if let (Value::Object(status), Value::Object(more)) = (&mut status, more) {
            status.extend(more);
        }
        serde_json::from_value(json!({
            "apiVersion": "gridstake.dev/v1alpha1", "kind": "GpuNode", "metadata": {"name": "a"}, "spec": {}, "status": status,
        }))
        .unwrap()
    }

    fn device(uuid: &str, health: &str) -> Value {
        json!({"uuid": uuid, "index": 0, "model": "m", "memoryMiB": 1, "computeCapability": "9.0", "health": health})
    }

    #[test]
    fn a_node_is_seen_with_the_gpus_that_jobs_may_have() {
        let devices = json!([
            device("well", "Healthy"),
            device("warm", "Degraded"),
            device("lost", "Unhealthy"),
            device("bad", "Healthy"),
        ]);
        let quarantine = json!({"quarantine": [
            {"subject": "bad", "reason": "RepeatedFailures", "failures": 2, "until": "2027-01-01T00:00:00Z"},
        ]});
        let seen = node(&gpu_node(&devices, quarantine));
        assert_eq!(seen.devices, ["well", "warm"]);
        assert!(seen.is_offered && !seen.is_divided);
        assert_eq!((seen.free, seen.takes_canary), (2, false));
        let withheld = json!({"offer": {"state": "Withheld", "reason": "Drained"}});
        assert!(!node(&gpu_node(&devices, withheld)).is_offered);
    }

    #[test]
    fn a_node_with_a_gpu_that_is_divided_or_shared_is_seen_as_divided() {
        let mut mig = device("a", "Healthy");
        mig["mig"] = json!({"enabled": true});
        assert!(node(&gpu_node(&json!([device("b", "Healthy"), mig]), json!({}))).is_divided);
        let mut shared = device("a", "Healthy");
        shared["sharing"] = json!({"strategy": "TimeSlicing", "replicas": 4});
        assert!(node(&gpu_node(&json!([shared]), json!({}))).is_divided);
        let mut whole = device("a", "Healthy");
        whole["mig"] = json!({"enabled": false});
        assert!(!node(&gpu_node(&json!([whole]), json!({}))).is_divided);
    }

    #[test]
    fn a_node_of_which_nothing_is_known_is_not_measured() {
        let bare: GpuNode = serde_json::from_value(json!({
            "apiVersion": "gridstake.dev/v1alpha1", "kind": "GpuNode", "metadata": {"name": "a"}, "spec": {},
        }))
        .unwrap();
        let seen = node(&bare);
        assert!(!seen.is_offered && seen.devices.is_empty());
    }

    #[test]
    fn what_a_program_left_is_read_from_the_container_that_has_ended() {
        let pod = |state: Value| -> Pod {
            serde_json::from_value(json!({"metadata": {"name": "p"}, "status": {"containerStatuses": [
                {"name": "measure", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": state},
            ]}}))
            .unwrap()
        };
        let ended = pod(json!({"terminated": {"exitCode": 0, "message": "{}"}}));
        assert_eq!(termination_message(&ended).as_deref(), Some("{}"));
        assert_eq!(termination_message(&pod(json!({"running": {}}))), None);
        assert_eq!(termination_message(&Pod::default()), None);
    }
}
