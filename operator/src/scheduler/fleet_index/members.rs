//! The draw of [`crate::scheduler::gang`] over parts of blocks: the same numbers, the same winners.
//!
//! Sums are kept for each part and changed as members are drawn, so a draw walks over parts and then over the nodes of
//! one. Room is counted only where it matters: every node that is left has room for one.

use std::collections::BTreeMap;

use gridstake_crds::compute_job::TopologyPolicy;

use super::block::{Block, LANES, set_bits};
use super::labels::ABSENT;
use super::scan::Part;
use crate::scheduler::draw::Words;
use crate::scheduler::gang::{MemberDraw, Stage};
use crate::scheduler::resources::Resources;
use crate::scheduler::snapshot::NodeCapacity;

/// The nodes' values of the label by which the members are to be close.
#[derive(Clone, Copy, Debug)]
pub struct Domains<'a> {
    /// Whether they must be.
    pub policy: TopologyPolicy,
    /// How many values there are.
    pub count: usize,
    /// The number of each node's, or [`ABSENT`].
    pub of: &'a [u32],
}

/// Where members are drawn.
pub struct Pool<'a> {
    nodes: &'a [NodeCapacity],
    blocks: &'a [Block],
    member: &'a Resources,
    /// How many members may be drawn on nodes that are kept for others, by position.
    spares: &'a BTreeMap<usize, u64>,
    parts: &'a mut Vec<Part>,
    /// The room that is left where a member has been drawn, by position.
    rooms: BTreeMap<usize, u64>,
}

impl<'a> Pool<'a> {
    /// All of `parts`, in canonical order.
    #[must_use]
    pub fn new(
        nodes: &'a [NodeCapacity],
        blocks: &'a [Block],
        member: &'a Resources,
        spares: &'a BTreeMap<usize, u64>,
        parts: &'a mut Vec<Part>,
    ) -> Self {
        Self {
            nodes,
            blocks,
            member,
            spares,
            parts,
            rooms: BTreeMap::new(),
        }
    }

    /// Draws a node for each of `members`, or `None` when they do not all find room. Nothing is drawn in that case.
    pub fn draw(
        mut self,
        members: u32,
        domains: Option<Domains<'_>>,
        words: &mut Words,
    ) -> Option<Vec<MemberDraw>> {
        let mut close = None;
        if let Some(domains) = domains {
            let eligible = self.domains_with_room(domains, u64::from(members));
            if domains.policy == TopologyPolicy::Required || eligible.contains(&true) {
                self.keep(|position| {
                    let domain = domains.of.get(position).copied().unwrap_or(ABSENT);
                    let number = usize::try_from(domain).unwrap_or(usize::MAX);
                    eligible.get(number).copied().unwrap_or(false)
                });
                close = Some(domains);
            }
        }
        if !self.has_room_for(u64::from(members)) {
            return None;
        }
        let mut draws = Vec::with_capacity(usize::try_from(members).unwrap_or(0));
        for member in 1..=members {
            let draw = self.draw_one(words, member < members)?;
            if let (Some(domains), true) = (close, draws.is_empty()) {
                let domain = domains.of.get(draw.node);
                self.keep(|position| domains.of.get(position) == domain);
            }
            draws.push(draw);
        }
        Some(draws)
    }

    /// How many members the node at `position` could take.
    fn room(&self, position: usize) -> u64 {
        let free = self.free_room(position);
        let spare = self.spares.get(&position);
        spare.map_or(free, |spare| free.min(*spare))
    }

    fn free_room(&self, position: usize) -> u64 {
        if self.member.other.is_empty() {
            let block = self.blocks.get(position / LANES);
            return block.map_or(0, |block| block.room(position % LANES, self.member));
        }
        let node = self.nodes.get(position);
        node.map_or(0, |node| node.free().holds(self.member))
    }

    fn positions(&self) -> impl Iterator<Item = usize> {
        self.parts
            .iter()
            .flat_map(|part| set_bits(part.lanes).map(|lane| part.block * LANES + lane))
    }

    fn has_room_for(&self, members: u64) -> bool {
        let nodes: u64 = self
            .parts
            .iter()
            .map(|part| u64::from(part.lanes.count_ones()))
            .sum();
        if nodes >= members {
            return true;
        }
        let rooms = self.positions().map(|position| self.room(position));
        rooms.fold(0, u64::saturating_add) >= members
    }

    /// For each value of the label whether its nodes have room for all members.
    fn domains_with_room(&self, domains: Domains<'_>, members: u64) -> Vec<bool> {
        let mut rooms = vec![0_u64; domains.count];
        for position in self.positions() {
            let domain = domains.of.get(position).copied().unwrap_or(ABSENT);
            let room = usize::try_from(domain)
                .ok()
                .and_then(|number| rooms.get_mut(number));
            if let Some(room) = room.filter(|room| **room < members) {
                *room = room.saturating_add(self.room(position));
            }
        }
        rooms.into_iter().map(|room| room >= members).collect()
    }

    /// Leaves only the nodes at positions that are wanted.
    fn keep(&mut self, wanted: impl Fn(usize) -> bool) {
        let blocks = self.blocks;
        self.parts.retain_mut(|part| {
            let Some(block) = blocks.get(part.block) else {
                return false;
            };
            for lane in set_bits(part.lanes) {
                if !wanted(part.block * LANES + lane) {
                    part.take_out(lane, block.weight(lane));
                }
            }
            part.lanes != 0
        });
    }

    fn draw_one(&mut self, words: &mut Words, goes_on: bool) -> Option<MemberDraw> {
        let partly_used = self.parts.iter().any(|part| part.partly_used != 0);
        let stage = if partly_used {
            Stage::PartlyUsed
        } else {
            Stage::All
        };
        let sum = |part: &Part| match stage {
            Stage::PartlyUsed => part.total_partly_used,
            Stage::All => part.total,
        };
        let total = self.parts.iter().map(sum).fold(0, u64::saturating_add);
        let number = words.below(total);
        let mut left = number;
        let at = self.parts.iter().position(|part| {
            let sum = sum(part);
            let hit = left < sum;
            if !hit {
                left -= sum;
            }
            hit
        })?;
        let part = self.parts.get(at)?;
        let block = self.blocks.get(part.block)?;
        let takes_part = match stage {
            Stage::PartlyUsed => part.partly_used,
            Stage::All => part.lanes,
        };
        let lane = set_bits(takes_part).find(|lane| {
            let weight = block.weight(*lane);
            let hit = left < weight;
            if !hit {
                left -= weight;
            }
            hit
        })?;
        let node = part.block * LANES + lane;
        if goes_on {
            let room = match self.rooms.get(&node) {
                Some(room) => *room,
                None => self.room(node),
            } - 1;
            self.rooms.insert(node, room);
            let part = self.parts.get_mut(at)?;
            if room == 0 {
                part.take_out(lane, block.weight(lane));
            } else {
                part.begin_to_use(lane, block.weight(lane));
            }
        }
        Some(MemberDraw {
            stage,
            total,
            number,
            node,
        })
    }
}

impl Part {
    fn take_out(&mut self, lane: usize, weight: u64) {
        let bit = 1 << lane;
        self.total -= weight;
        if self.partly_used & bit != 0 {
            self.total_partly_used -= weight;
        }
        self.lanes &= !bit;
        self.partly_used &= !bit;
    }

    fn begin_to_use(&mut self, lane: usize, weight: u64) {
        let bit = 1 << lane;
        if self.partly_used & bit == 0 {
            self.partly_used |= bit;
            self.total_partly_used += weight;
        }
    }
}
