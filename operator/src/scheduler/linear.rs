//! A decision by looking at every node: the specification.
//!
//! [`super::fleet_index`] must give the same answer, bit for bit; its tests hold it to this, and its benchmark measures
//! itself against it. It decides where a fleet is looked at once and an index would not pay.

use std::collections::BTreeMap;

use super::decision::{Drawn, ReasonCount};
use super::draw::{Seed, Words};
use super::filter::{self, Rejection};
use super::gang::{self, Candidate};
use super::request::Request;
use super::snapshot::Snapshot;
use super::{Placement, RejectionCount, Tally, count};

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
    let tally = Tally {
        candidates: count(candidates.len()),
        total_weight: candidates
            .iter()
            .map(|candidate| candidate.weight)
            .fold(0, u64::saturating_add),
        rejections: by_reason(&tally),
    };
    Ok(Placement::recorded(
        request,
        seed,
        snapshot.sequence(),
        tally,
        drawn,
    ))
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
