//! Nodes for the ranks of a gang that runs and of which members were lost (`spec.retry.lostMember: Replace`). Pure.
//!
//! Those that are lost together are drawn for together, all or nothing, like the members of a gang of that size; the others stay where
//! they are. Where members must be close, only the domain of those that stay will do.

use std::collections::BTreeSet;

use gridstake_crds::{
    ComputeJob,
    compute_job::{
        MemberNode, Placement as ApiPlacement, ReplacedMember, Replacement, TopologyPolicy,
    },
    condition::Fact,
};
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};

use super::decide::{Payee, member_node, placed_but_for};
use crate::{
    controllers::compute_job::replace::{HIGHEST_MEMBER, highest, present},
    scheduler::{Placement, Request, Snapshot, snapshot::NodeCapacity},
};

/// What is to be placed anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// The members that were lost and have no successor yet, in the order of their ranks.
    pub members: Vec<LostRank>,
    /// The attempt.
    pub attempt: u32,
    /// Since when the first of them waits.
    pub since: Timestamp,
    /// The number of the first successor; the others follow.
    pub next: u32,
}

/// A rank that nobody has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LostRank {
    /// The member that had it.
    pub member: u32,
    /// The rank.
    pub rank: u32,
    /// How many members of the attempt have had it.
    pub restarts: u32,
}

/// The ranks of the attempt in progress of `job` that wait for a node; `None` where none does, or the attempt is about to end.
#[must_use]
pub fn lost(job: &ComputeJob) -> Option<Lost> {
    let status = job.status.as_ref()?;
    let placement = status.active_placement()?;
    if job.metadata.deletion_timestamp.is_some() || job.spec.suspend || status.ending.is_some() {
        return None;
    }
    let still_there = |lost: &ReplacedMember| {
        let mut nodes = placement.nodes.iter();
        nodes.find(|node| node.member == lost.member)
    };
    let waiting: Vec<(&ReplacedMember, &MemberNode)> = status
        .being_replaced()
        .filter_map(|lost| Some((lost, still_there(lost)?)))
        .collect();
    let since = waiting.iter().map(|(lost, _)| lost.at.0).min()?;
    let mut members: Vec<LostRank> = waiting
        .iter()
        .map(|(lost, node)| LostRank {
            member: lost.member,
            rank: lost.rank,
            restarts: node.restarts().saturating_add(1),
        })
        .collect();
    members.sort_by_key(|lost| lost.rank);
    // Whoever gave them up has seen to it that there are as many numbers left.
    let newest = highest(status, placement).min(HIGHEST_MEMBER);
    Some(Lost {
        members,
        attempt: placement.attempt,
        since,
        next: newest.saturating_add(1),
    })
}

/// What is asked for in the place of `lost`, the best first, where `request` is what the job's next attempt would ask for. Empty where
/// nothing could be right now: members must be close to others of which it is not known where they are.
#[must_use]
pub fn requests(
    job: &ComputeJob,
    lost: &Lost,
    request: &Request,
    snapshot: &Snapshot,
) -> Vec<Request> {
    let asked = Request {
        attempt: lost.attempt,
        members: u32::try_from(lost.members.len()).unwrap_or(u32::MAX),
        ..request.clone()
    };
    let Some(topology) = &asked.topology else {
        return vec![asked];
    };
    let close = domain(job, &topology.key, snapshot).map(|domain| {
        let mut close = asked.clone();
        let selector = &mut close.constraints.node_selector;
        selector.insert(topology.key.clone(), domain);
        close
    });
    match topology.policy {
        TopologyPolicy::Required => close.into_iter().collect(),
        TopologyPolicy::Preferred => close.into_iter().chain([asked]).collect(),
    }
}

/// The domain in which all members are that stay, as far as their nodes are known; `None` where they are in several, or in none.
fn domain(job: &ComputeJob, key: &str, snapshot: &Snapshot) -> Option<String> {
    let status = job.status.as_ref()?;
    let stay = present(status, status.active_placement()?);
    let on: BTreeSet<&str> = stay.nodes.iter().map(|n| n.node.as_str()).collect();
    let known = snapshot.nodes().iter().map(NodeCapacity::facts);
    let domains: BTreeSet<Option<&String>> = known
        .filter(|facts| on.contains(facts.name.as_str()))
        .map(|facts| facts.labels.get(key))
        .collect();
    let mut domains = domains.into_iter();
    match (domains.next(), domains.next()) {
        (Some(domain), None) => domain.cloned(),
        _ => None,
    }
}

/// The placement of the attempt in progress of `job` as it is once `decided` stands: those that are `lost` have left it, and others, of
/// new numbers, have their ranks.
#[must_use]
pub fn to_api(
    job: &ComputeJob,
    lost: &Lost,
    decided: &Placement,
    snapshot: &Snapshot,
    provider_of: impl Fn(&str) -> Option<Payee>,
    now: Timestamp,
) -> Option<ApiPlacement> {
    let status = job.status.as_ref()?;
    let mut placement = present(status, status.active_placement()?);
    let decision = decided.decision.to_api();
    let successors = lost.members.iter().zip(&decided.nodes).zip(lost.next..);
    placement
        .nodes
        .extend(successors.map(|((taken, node), number)| MemberNode {
            rank: Some(taken.rank),
            replacement: Some(Replacement {
                member: taken.member,
                restarts: taken.restarts,
                decided_at: Time(now),
                decision: decision.clone(),
            }),
            ..member_node(number, node, snapshot, &provider_of)
        }));
    placement.nodes.sort_by_key(MemberNode::rank);
    Some(placement)
}

/// What `Scheduled` says of a job of which `lost` wait for a node; `words` say why.
#[must_use]
pub fn waits(lost: &Lost, words: &str) -> Fact {
    let ranks: Vec<String> = lost.members.iter().map(|l| l.rank.to_string()).collect();
    let (noun, verb) = match ranks.len() {
        1 => ("rank", "waits"),
        _ => ("ranks", "wait"),
    };
    placed_but_for(&format!(
        "{noun} {} {verb} for another node: {words}",
        ranks.join(", ")
    ))
}

#[cfg(test)]
#[path = "replacement_tests.rs"]
mod tests;
