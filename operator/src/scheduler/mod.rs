//! The scheduler: which nodes a job's members go to, as a pure function.
//!
//! No client, no clock, no randomness, no floats, no map whose order could differ: the same snapshot, request and seed
//! give the same placement on every machine, so that anyone can repeat a decision.
//!
//! The way of a decision: objects become facts ([`node_facts`], [`pod_facts`], [`request`]); facts become a
//! [`snapshot`]; [`filter`] leaves the nodes that can take a member; [`gang`] draws one for each member with the numbers
//! of [`draw`], in proportion to their [`weight`]; [`decision`] records it. When nothing fits, [`explain`] says why.
//! [`queue`] says who is next, by priority, [`fair_share`] and age; [`holds`] keeps room for the first one that waits.

pub mod decision;
pub mod draw;
pub mod explain;
pub mod fair_share;
pub mod filter;
pub mod gang;
pub mod gpu_model;
pub mod holds;
pub mod near_miss;
pub mod node_constraints;
pub mod node_facts;
pub mod pod_facts;
pub mod pod_requests;
pub mod quantity;
pub mod queue;
pub mod request;
pub mod resources;
pub mod snapshot;
pub mod weight;

#[cfg(test)]
pub(crate) mod fixtures;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod snapshot_history;

use std::collections::BTreeMap;

use alloy_primitives::B256;

pub use decision::Decision;
pub use draw::Seed;
pub use filter::Rejection;
pub use node_facts::{NodeFacts, NodeStanding};
pub use pod_facts::{MemberKey, PodFacts};
pub use request::{JobContext, JobUid, Request};
pub use resources::Resources;
pub use snapshot::{Reservation, Snapshot, SnapshotInputs};

use decision::{Drawn, ReasonCount};
use draw::Words;
use gang::Candidate;

/// Where the members of an attempt go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The node of each member, by its number. One node may take several.
    pub nodes: Vec<String>,
    /// How it came about.
    pub decision: Decision,
}

/// How many nodes could not be chosen for one reason.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RejectionCount {
    /// The reason.
    pub rejection: Rejection,
    /// How many nodes.
    pub nodes: u32,
}

/// Places all members of a request, or none.
///
/// # Errors
/// When they do not all fit: for every reason the number of nodes, in the order of the filters. Every node of the
/// snapshot is counted exactly once; nodes that could take a member of a gang that does not fit as a whole count as
/// [`Rejection::GangDoesNotFit`].
pub fn place(
    snapshot: &Snapshot,
    request: &Request,
    seed: &Seed,
) -> Result<Placement, Vec<RejectionCount>> {
    let member = request.per_member();
    let members = request.member_count();
    let topology = request.topology.as_ref();
    let mut tally: BTreeMap<Rejection, u32> = BTreeMap::new();
    let mut candidates = Vec::new();
    for (position, node) in snapshot.nodes().iter().enumerate() {
        match filter::first_rejection(node, request, &member) {
            Some(rejection) => *tally.entry(rejection).or_default() += 1,
            None => candidates.push(Candidate {
                node: position,
                domain: topology.and_then(|topology| {
                    node.facts().labels.get(&topology.key).map(String::as_str)
                }),
                room: filter::room(node, request, &member),
                weight: node.weight(),
                partly_used: node.is_partly_used(),
            }),
        }
    }

    let mut words = Words::new(seed.derive(request.job_uid, request.attempt));
    let policy = topology.map(|wanted| wanted.policy);
    let Some(winners) = gang::draw_members(&candidates, members, policy, &mut words) else {
        if !candidates.is_empty() {
            tally.insert(Rejection::GangDoesNotFit, count(candidates.len()));
        }
        return Err(tally
            .into_iter()
            .map(|(rejection, nodes)| RejectionCount { rejection, nodes })
            .collect());
    };

    let drawn: Vec<Drawn> = winners
        .iter()
        .map(|won| Drawn {
            stage: won.stage,
            total: won.total,
            number: won.number,
            winner: snapshot
                .nodes()
                .get(won.node)
                .map(|node| node.facts().name.clone())
                .unwrap_or_default(),
        })
        .collect();
    Ok(Placement {
        nodes: drawn.iter().map(|drawn| drawn.winner.clone()).collect(),
        decision: Decision {
            job_uid: request.job_uid,
            attempt: request.attempt,
            seed: *seed,
            state: B256::ZERO,
            snapshot: snapshot.sequence(),
            candidates: count(candidates.len()),
            total_weight: candidates
                .iter()
                .map(|candidate| candidate.weight)
                .fold(0, u64::saturating_add),
            drawn,
            rejections: by_reason(&tally),
        },
    })
}

/// Counts without particulars, in the order of the reasons' names.
fn by_reason(tally: &BTreeMap<Rejection, u32>) -> Vec<ReasonCount> {
    let mut reasons: BTreeMap<&'static str, u32> = BTreeMap::new();
    for (rejection, nodes) in tally {
        *reasons.entry(rejection.reason()).or_default() += nodes;
    }
    reasons
        .into_iter()
        .map(|(reason, nodes)| ReasonCount { reason, nodes })
        .collect()
}

fn count(nodes: usize) -> u32 {
    u32::try_from(nodes).unwrap_or(u32::MAX)
}
