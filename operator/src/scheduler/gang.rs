//! Where the members of a request go, given the nodes that can take one: all of them, or none.
//!
//! The members are drawn one after another, each by one number of the draw:
//! 1. *Topology.* The nodes that share a value of the topology's label form a domain; a domain that has room for all
//!    members is eligible. If the topology is `Required`, or if it is `Preferred` and a domain is eligible, only nodes
//!    of eligible domains take part, and the first member's domain is everyone's. So a domain is drawn in proportion to
//!    the sum of its nodes' weights.
//! 2. *Packing.* If any node that takes part already has a GPU in use (an earlier member's counts), only such nodes take
//!    part in this member's draw. Small jobs fill nodes up before they break into empty ones.
//! 3. *Draw.* Within that stage P(node) = weight / Σ weights, exactly. Several members may share a node with room.

use std::collections::BTreeMap;

use gridstake_crds::compute_job::TopologyPolicy;

use super::draw::{Words, pick};

/// A node that can take at least one member. Candidates stand in canonical order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate<'a> {
    /// Its position in the snapshot.
    pub node: usize,
    /// Its value of the topology's label, if the request has a topology and the node the label.
    pub domain: Option<&'a str>,
    /// How many members it could take.
    pub room: u64,
    /// Its weight, at least 1.
    pub weight: u64,
    /// Whether any of its GPUs is taken.
    pub partly_used: bool,
}

/// Among which nodes a member was drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Nodes of which some GPU is already in use.
    PartlyUsed,
    /// All nodes, since none of them has a GPU in use.
    All,
}

/// One member's draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberDraw {
    /// Among which nodes.
    pub stage: Stage,
    /// The sum of their weights.
    pub total: u64,
    /// The number drawn below it.
    pub number: u64,
    /// The winner's position in the snapshot.
    pub node: usize,
}

/// Draws a node for each of `members`, or `None` when they do not all find room. Nothing is drawn in that case.
pub fn draw_members(
    candidates: &[Candidate<'_>],
    members: u32,
    topology: Option<TopologyPolicy>,
    words: &mut Words,
) -> Option<Vec<MemberDraw>> {
    let mut pool = candidates.to_vec();
    let close = match topology {
        None => false,
        Some(policy) => {
            let eligible = domains_with_room(candidates, members);
            let close = policy == TopologyPolicy::Required || !eligible.is_empty();
            if close {
                pool.retain(|candidate| {
                    candidate
                        .domain
                        .is_some_and(|domain| eligible.contains(&domain))
                });
            }
            close
        }
    };
    if room(&pool) < u64::from(members) {
        return None;
    }
    let mut draws = Vec::new();
    for _ in 0..members {
        let draw = draw_one(&mut pool, words)?;
        if close && draws.is_empty() {
            let domain = candidates
                .iter()
                .find(|candidate| candidate.node == draw.node)?
                .domain;
            pool.retain(|candidate| candidate.domain == domain);
        }
        draws.push(draw);
    }
    Some(draws)
}

fn room(candidates: &[Candidate<'_>]) -> u64 {
    candidates
        .iter()
        .fold(0, |sum, candidate| sum.saturating_add(candidate.room))
}

/// The values of the topology's label, in lexical order, whose nodes have room for all members.
fn domains_with_room<'a>(candidates: &[Candidate<'a>], members: u32) -> Vec<&'a str> {
    let mut rooms: BTreeMap<&str, u64> = BTreeMap::new();
    for candidate in candidates {
        if let Some(domain) = candidate.domain {
            let room = rooms.entry(domain).or_default();
            *room = room.saturating_add(candidate.room);
        }
    }
    rooms
        .into_iter()
        .filter(|(_, room)| *room >= u64::from(members))
        .map(|(domain, _)| domain)
        .collect()
}

fn draw_one(pool: &mut [Candidate<'_>], words: &mut Words) -> Option<MemberDraw> {
    let stage = if pool
        .iter()
        .any(|candidate| candidate.room > 0 && candidate.partly_used)
    {
        Stage::PartlyUsed
    } else {
        Stage::All
    };
    let weight = |candidate: &Candidate<'_>| {
        let takes_part = candidate.room > 0 && (candidate.partly_used || stage == Stage::All);
        if takes_part { candidate.weight } else { 0 }
    };
    let total = pool.iter().map(weight).fold(0, u64::saturating_add);
    let number = words.below(total);
    let winner = pick(pool.iter().map(weight), number)?;
    let winner = pool.get_mut(winner)?;
    winner.room -= 1;
    winner.partly_used = true;
    Some(MemberDraw {
        stage,
        total,
        number,
        node: winner.node,
    })
}

#[cfg(test)]
mod tests {
    use alloy_primitives::B256;

    use super::*;

    fn candidate(
        node: usize,
        domain: Option<&str>,
        room: u64,
        weight: u64,
        partly_used: bool,
    ) -> Candidate<'_> {
        Candidate {
            node,
            domain,
            room,
            weight,
            partly_used,
        }
    }

    fn draws(
        candidates: &[Candidate<'_>],
        members: u32,
        topology: Option<TopologyPolicy>,
        seed: u16,
    ) -> Option<Vec<usize>> {
        let seed = B256::left_padding_from(&seed.to_be_bytes());
        let words = &mut Words::new(alloy_primitives::keccak256(seed));
        let draws = draw_members(candidates, members, topology, words)?;
        Some(draws.into_iter().map(|draw| draw.node).collect())
    }

    #[test]
    fn members_share_a_node_that_has_room_before_an_empty_one_is_broken_into() {
        let empty = [
            candidate(0, None, 3, 1, false),
            candidate(1, None, 3, 1, false),
        ];
        for seed in 0..50 {
            let mut nodes = draws(&empty, 4, None, seed).unwrap();
            nodes.sort_unstable();
            assert!(nodes == [0, 0, 0, 1] || nodes == [0, 1, 1, 1], "{nodes:?}");
        }
    }

    #[test]
    fn members_that_do_not_all_find_room_are_not_drawn() {
        let nodes = [
            candidate(0, None, 1, 1, false),
            candidate(1, None, 2, 1, true),
        ];
        assert!(draws(&nodes, 3, None, 0).is_some());
        assert_eq!(draws(&nodes, 4, None, 0), None);
        assert_eq!(draws(&[], 1, None, 0), None);
    }

    #[test]
    fn a_required_domain_is_not_left_and_a_preferred_one_only_when_none_has_room() {
        let split = [
            candidate(0, Some("a"), 2, 1, false),
            candidate(1, Some("b"), 2, 1, false),
            candidate(2, None, 9, 1, false),
        ];
        for seed in 0..20 {
            let pair = draws(&split, 2, Some(TopologyPolicy::Preferred), seed).unwrap();
            assert!(pair == [0, 0] || pair == [1, 1], "{pair:?}");
        }
        assert_eq!(draws(&split, 3, Some(TopologyPolicy::Required), 0), None);
        assert_eq!(
            draws(&split, 3, Some(TopologyPolicy::Preferred), 0).map(|nodes| nodes.len()),
            Some(3)
        );
        assert_eq!(draws(&split, 14, Some(TopologyPolicy::Preferred), 0), None);
    }

    #[test]
    fn a_domain_is_drawn_by_the_sum_of_its_nodes_weights() {
        // Weights 1 + 2 against 1: three quarters of the draws.
        let nodes = [
            candidate(0, Some("a"), 4, 1, false),
            candidate(1, Some("a"), 4, 2, false),
            candidate(2, Some("b"), 4, 1, false),
        ];
        let in_a = (0..4000)
            .filter(|seed| draws(&nodes, 2, Some(TopologyPolicy::Required), *seed).unwrap()[0] < 2)
            .count();
        // Four standard deviations around 3000 are 110.
        assert!((2890..=3110).contains(&in_a), "{in_a}");
    }
}
