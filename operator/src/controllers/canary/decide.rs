//! Which nodes are measured now, which canaries go, and what is said about each node. Pure: no client, no clock, no randomness.

use std::collections::BTreeSet;

use gridstake_crds::{
    condition::{Fact, Status},
    gpu_node::{GpuNodeCondition, GpuNodeReason, Performance},
    measurement::{MOST_MEASURED_GPUS, Measurement},
};
use gridstake_ledger::performance::REFERENCE;
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};

use super::{
    build::{NewCanary, label_of},
    outcome::{Canary, Ended, Outcome, Stage},
    terms::Terms,
    wanted::Wanted,
};

/// How many GPUs a message names.
const NAMED: usize = 4;
/// The most entries of `status.performance`.
const MOST_ENTRIES: usize = 64;

/// A node with GPUs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeSight {
    /// Its name.
    pub name: String,
    /// Its GPUs that work, by UUID.
    pub devices: Vec<String>,
    /// Whether they are divided or shared.
    pub is_divided: bool,
    /// Whether jobs may be placed on it.
    pub is_offered: bool,
    /// How many of its GPUs nobody holds or has been promised.
    pub free: u32,
    /// Whether a canary on its free GPUs would find its place there now.
    pub takes_canary: bool,
    /// What is known of its GPUs' speed.
    pub performance: Vec<Performance>,
}

/// What is decided on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sight {
    /// The nodes.
    pub nodes: Vec<NodeSight>,
    /// The canaries that exist.
    pub canaries: Vec<Canary>,
    /// The labels of the nodes for which one has just been made and is not seen yet.
    pub just_made: BTreeSet<String>,
    /// Who waits.
    pub wanted: Wanted,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Canaries to be made.
    pub start: Vec<NewCanary>,
    /// Canaries, by their names, that are to give their GPUs back.
    pub give_way: Vec<String>,
    /// Canaries, by name and uid, that are to be deleted: their nodes' pauses are over.
    pub delete: Vec<(String, String)>,
    /// What is to be said about each node.
    pub says: Vec<NodeSays>,
    /// When to look again, if nothing happens before.
    pub wake: Option<Timestamp>,
}

/// What is to be said about a node.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeSays {
    /// The node.
    pub node: String,
    /// `status.performance`.
    pub performance: Vec<Performance>,
    /// The condition `Measured`.
    pub fact: Fact,
    /// What a person should hear of once.
    pub news: Option<Told>,
}

/// What came of the node's last canary.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    /// The canary's uid.
    pub canary: String,
    /// When it ended.
    pub at: Timestamp,
    /// In words.
    pub news: News,
}

/// What is told in an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// The node was measured.
    Measured(String),
    /// Something is wrong with the node.
    NodeFailed(String),
    /// The canary failed, and nothing speaks against the node.
    CanaryFailed(String),
}

/// Whether `node` is to be measured at `now`, as far as what is known of its GPUs goes.
///
/// With all of its GPUs free: if any of them was not measured lately. With some free: if none was, so that a node which is
/// never free as a whole is measured too, and those that are free are not measured over and over.
#[must_use]
pub fn is_due(node: &NodeSight, terms: &Terms, now: Timestamp) -> bool {
    let due_after = terms.due_after(&node.name);
    let is_fresh = |uuid: &String| {
        node.performance.iter().any(|known| {
            known.uuid == *uuid
                && known.reference == REFERENCE.name
                && now.duration_since(known.measured_at.0) < due_after
        })
    };
    let all = u32::try_from(node.devices.len()).unwrap_or(u32::MAX);
    if node.is_divided || !node.is_offered || node.free == 0 || all == 0 {
        false
    } else if node.free >= all && all <= MOST_MEASURED_GPUS {
        !node.devices.iter().all(is_fresh)
    } else {
        !node.devices.iter().any(is_fresh)
    }
}

/// How many GPUs a canary on `node` takes.
#[must_use]
pub fn gpus_of(node: &NodeSight) -> u32 {
    node.free.min(MOST_MEASURED_GPUS)
}

/// How many more canaries there may be.
#[must_use]
pub fn room(canaries: &[Canary], just_made: usize, terms: &Terms) -> usize {
    let under_way = canaries.iter().filter(|c| c.is_under_way()).count();
    terms.most.saturating_sub(under_way + just_made)
}

/// Whether `node` has a canary, or has had one lately.
#[must_use]
pub fn pauses(node: &str, canaries: &[Canary], just_made: &BTreeSet<String>) -> bool {
    let label = label_of(node);
    just_made.contains(&label) || canaries.iter().any(|canary| canary.label == label)
}

/// What is to be done about `sight` at `now`.
#[must_use]
pub fn decide(sight: &Sight, terms: &Terms, now: Timestamp) -> Plan {
    let says: Vec<NodeSays> = sight
        .nodes
        .iter()
        .map(|node| says(node, &sight.canaries, terms, now))
        .collect();
    let delete: Vec<&Canary> = sight
        .canaries
        .iter()
        .filter(|canary| pause_is_over(canary, terms, now))
        .collect();
    Plan {
        start: start(sight, terms, now),
        give_way: give_way(sight),
        wake: wake(sight, terms, now),
        delete: delete
            .into_iter()
            .map(|canary| (canary.name.clone(), canary.uid.clone()))
            .collect(),
        says,
    }
}

/// The canaries that are made now. Those nodes come first that were never measured, then those whose figures are oldest.
fn start(sight: &Sight, terms: &Terms, now: Timestamp) -> Vec<NewCanary> {
    if terms.template.is_none() || sight.wanted.queue_moves {
        return Vec::new();
    }
    let newest = |node: &NodeSight| node.performance.iter().map(|p| p.measured_at.0).max();
    let mut due: Vec<&NodeSight> = sight
        .nodes
        .iter()
        .filter(|node| node.takes_canary && is_due(node, terms, now))
        .filter(|node| !sight.wanted.nodes.contains(&node.name))
        .filter(|node| !pauses(&node.name, &sight.canaries, &sight.just_made))
        .collect();
    due.sort_by_key(|node| (newest(node), node.name.as_str()));
    due.into_iter()
        .take(room(&sight.canaries, sight.just_made.len(), terms))
        .map(|node| NewCanary {
            node: node.name.clone(),
            gpus: gpus_of(node),
        })
        .collect()
}

/// The canaries on nodes that somebody else wants, and those that had to leave theirs: a canary is tried once.
fn give_way(sight: &Sight) -> Vec<String> {
    let wanted: BTreeSet<String> = sight
        .wanted
        .nodes
        .iter()
        .map(|node| label_of(node))
        .collect();
    sight
        .canaries
        .iter()
        .filter(|canary| match canary.stage {
            Stage::Waits | Stage::Holds => wanted.contains(&canary.label),
            Stage::LostItsPlace => true,
            Stage::Leaves | Stage::GaveWay | Stage::Ended(_) => false,
        })
        .map(|canary| canary.name.clone())
        .collect()
}

/// Whether a canary that gave way has kept its node from getting another one for long enough. Those that have ended are deleted
/// as any job, after their time to live.
fn pause_is_over(canary: &Canary, terms: &Terms, now: Timestamp) -> bool {
    canary.stage == Stage::GaveWay && now.duration_since(canary.created) >= terms.pause()
}

/// The moment at which time alone changes the answer.
fn wake(sight: &Sight, terms: &Terms, now: Timestamp) -> Option<Timestamp> {
    let ends_of_pauses = sight
        .canaries
        .iter()
        .filter(|canary| canary.stage == Stage::GaveWay)
        .filter_map(|canary| canary.created.checked_add(terms.pause()).ok());
    let of_nodes = sight.nodes.iter().flat_map(|node| {
        node.performance.iter().flat_map(|known| {
            let due = known.measured_at.0.checked_add(terms.due_after(&node.name));
            due.ok().into_iter().chain([known.expires_at.0])
        })
    });
    ends_of_pauses.chain(of_nodes).filter(|at| *at > now).min()
}

fn says(node: &NodeSight, canaries: &[Canary], terms: &Terms, now: Timestamp) -> NodeSays {
    let label = label_of(&node.name);
    let mut ended: Vec<(&Canary, &Ended)> = canaries
        .iter()
        .filter(|canary| canary.label == label)
        .filter_map(|canary| match &canary.stage {
            Stage::Ended(ended) => Some((canary, ended)),
            _ => None,
        })
        .collect();
    ended.sort_by_key(|(canary, ended)| (ended.at, canary.name.as_str()));
    let mut performance = node.performance.clone();
    for (canary, ended) in &ended {
        take_over(&mut performance, node, canary, ended, terms);
    }
    performance.retain(|known| node.devices.contains(&known.uuid) || known.expires_at.0 > now);
    performance.sort_by(|a, b| a.uuid.cmp(&b.uuid));
    performance.truncate(MOST_ENTRIES);
    let last = ended.last();
    NodeSays {
        node: node.name.clone(),
        fact: fact(
            node,
            &performance,
            last.map(|(_, ended)| *ended),
            terms,
            now,
        ),
        news: last.map(|(canary, ended)| Told {
            canary: canary.uid.clone(),
            at: ended.at,
            news: news(ended),
        }),
        performance,
    }
}

/// Enters the figures of an ended canary. Of a GPU that calculates wrong, none is left.
fn take_over(
    performance: &mut Vec<Performance>,
    node: &NodeSight,
    canary: &Canary,
    ended: &Ended,
    terms: &Terms,
) {
    let Outcome::Measured(measurement) = &ended.outcome else {
        return;
    };
    let Ok(expires_at) = ended.at.checked_add(terms.expires_after) else {
        return;
    };
    if ended.node.as_ref() != Some(&node.name) {
        return;
    }
    for gpu in &measurement.gpus {
        let is_newer = |known: &Performance| known.measured_at.0 > ended.at;
        let is_known = node.devices.contains(&gpu.uuid);
        if !is_known
            || performance
                .iter()
                .any(|known| known.uuid == gpu.uuid && is_newer(known))
        {
            continue;
        }
        performance.retain(|known| known.uuid != gpu.uuid);
        if gpu.digest_ok {
            performance.push(Performance {
                uuid: gpu.uuid.clone(),
                permille: REFERENCE.permille(gpu.fp32_gflops, gpu.memory_gbs),
                fp32_gflops: gpu.fp32_gflops,
                memory_gbs: gpu.memory_gbs,
                reference: REFERENCE.name.to_owned(),
                measured_at: Time(ended.at),
                expires_at: Time(expires_at),
                job: canary.name.clone(),
            });
        }
    }
}

/// The condition `Measured`.
fn fact(
    node: &NodeSight,
    performance: &[Performance],
    last: Option<&Ended>,
    terms: &Terms,
    now: Timestamp,
) -> Fact {
    let say = |status: Status, reason, words: String| {
        Fact::new(GpuNodeCondition::Measured, status, reason, words)
    };
    if node.is_divided {
        return say(
            Status::Unknown,
            GpuNodeReason::DividedDevices,
            "GPUs of the node are divided or shared: what is measured of a part says nothing about the GPU".to_owned(),
        );
    }
    match last.map(|ended| &ended.outcome) {
        Some(Outcome::Measured(measurement))
            if measurement.gpus.iter().any(|gpu| !gpu.digest_ok) =>
        {
            let wrong = calculating_wrong(measurement);
            return say(
                Status::False,
                GpuNodeReason::WrongResult,
                format!(
                    "calculates wrong: {}; reset or replace it. A canary job looks again",
                    named(&wrong)
                ),
            );
        }
        Some(Outcome::HostFailed(why)) => {
            return say(
                Status::False,
                GpuNodeReason::CanaryFailed,
                format!("the last canary job failed by the node's fault: {why}"),
            );
        }
        _ => {}
    }
    let counts = |uuid: &&str| {
        performance.iter().any(|known| {
            known.uuid == **uuid && known.expires_at.0 > now && known.reference == REFERENCE.name
        })
    };
    let missing: Vec<&str> = node
        .devices
        .iter()
        .map(String::as_str)
        .filter(|uuid| !counts(uuid))
        .collect();
    if missing.is_empty() && !node.devices.is_empty() {
        return say(
            Status::True,
            GpuNodeReason::Measured,
            "every GPU was measured; see status.performance".to_owned(),
        );
    }
    let words = if missing.is_empty() {
        "the node shows no GPU that works".to_owned()
    } else {
        format!("no measurement counts of {}", named(&missing))
    };
    if terms.template.is_none() {
        say(
            Status::Unknown,
            GpuNodeReason::CanariesOff,
            format!("{words}, and the operator runs no canary jobs"),
        )
    } else {
        say(Status::Unknown, GpuNodeReason::NotMeasured, words)
    }
}

/// Such as `GPU-1, GPU-2 and 3 more`.
fn named(uuids: &[&str]) -> String {
    let first: Vec<&str> = uuids.iter().take(NAMED).copied().collect();
    let rest = uuids.len().saturating_sub(NAMED);
    let first = first.join(", ");
    if rest == 0 {
        first
    } else {
        format!("{first} and {rest} more")
    }
}

/// The GPUs whose result is not the right one.
fn calculating_wrong(measurement: &Measurement) -> Vec<&str> {
    let wrong = measurement.gpus.iter().filter(|gpu| !gpu.digest_ok);
    wrong.map(|gpu| gpu.uuid.as_str()).collect()
}

fn news(ended: &Ended) -> News {
    match &ended.outcome {
        Outcome::Measured(measurement) => {
            let wrong = calculating_wrong(measurement);
            if wrong.is_empty() {
                News::Measured(format!("{} GPUs were measured", measurement.gpus.len()))
            } else {
                News::NodeFailed(format!("calculates wrong: {}", named(&wrong)))
            }
        }
        Outcome::HostFailed(why) => {
            News::NodeFailed(format!("the canary job failed by the node's fault: {why}"))
        }
        Outcome::Failed(why) => News::CanaryFailed(format!(
            "the canary job failed, which says nothing about the node ({why}); it is measured later"
        )),
    }
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
