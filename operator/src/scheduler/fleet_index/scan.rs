//! The filters over the columns, in the order of [`crate::scheduler::filter`]: who can take a member, and how many
//! cannot for which reason.

use std::ops::Range;

use super::block::{self, Block, LANES, set_bits};
use super::class::Classes;
use super::labels::NodeSet;
use super::tally::{Reason, Tally};
use crate::scheduler::filter::{Property, closes_too_soon};
use crate::scheduler::request::Request;
use crate::scheduler::resources::Resources;
use crate::scheduler::snapshot::NodeCapacity;

/// What a request asks, as far as it is the same for many nodes.
#[derive(Debug)]
pub struct Query<'a> {
    /// The request.
    pub request: &'a Request,
    /// What one member takes.
    pub member: &'a Resources,
    /// The nodes that selector and affinity accept; `None`: all.
    pub selected: Option<NodeSet>,
    /// The nodes with the label by which the members must be close; `None`: it does not matter.
    pub labelled: Option<NodeSet>,
    /// The positions of suspect nodes, ascending.
    pub suspects: Vec<usize>,
    /// The positions of the nodes of owners that compute what this result is compared with, ascending.
    pub same_owner: Vec<usize>,
    /// The positions of the nodes on which no member finds room beside what is kept for a job before this one, ascending.
    pub held: Vec<usize>,
}

/// Nodes of one block that can take a member. A block has several such parts when it has nodes of several classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// The block.
    pub block: usize,
    /// Which of its nodes.
    pub lanes: u64,
    /// Which of them have a GPU in use.
    pub partly_used: u64,
    /// The sum of the weights of all of them.
    pub total: u64,
    /// The sum of the weights of those with a GPU in use.
    pub total_partly_used: u64,
}

/// Who can take a member. Kept from one decision to the next, so that nothing need be allocated.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// In canonical order.
    pub parts: Vec<Part>,
    /// How many cannot, and why.
    pub tally: Tally,
}

/// Runs the filters over all nodes. The classes have been [asked](Classes::ask).
pub fn scan(
    nodes: &[NodeCapacity],
    blocks: &[Block],
    classes: &Classes,
    query: &Query<'_>,
    found: &mut Found,
) {
    found.parts.clear();
    found.tally.clear();
    let look = |lanes: Lanes, found: &mut Found| {
        if let Some(block) = blocks.get(lanes.block) {
            let place = Place {
                nodes,
                classes,
                query,
                number: lanes.block,
                block,
            };
            let passed = place.properties_and_state(lanes, &mut found.tally);
            place.room(passed, found);
        }
    };
    let mut lanes = Lanes::default();
    let mut take = |nodes: &Range<usize>, other_chain: bool, found: &mut Found| {
        for number in nodes.start / LANES..nodes.end.div_ceil(LANES) {
            if number != lanes.block {
                if lanes.all != 0 {
                    look(lanes, found);
                }
                lanes = Lanes {
                    block: number,
                    all: 0,
                    other_chain: 0,
                };
            }
            let first = number * LANES;
            let from = nodes.start.max(first) - first;
            let more = block::lanes(from, nodes.end.min(first + LANES) - first);
            lanes.all |= more;
            if other_chain {
                lanes.other_chain |= more;
            }
        }
    };
    let count = |nodes: &Range<usize>| u32::try_from(nodes.len()).unwrap_or(u32::MAX);
    let anywhere = classes.all_suit_but_for_gpus();
    for group in classes.runs().groups() {
        if let Some(property) = classes.gpus_miss(group.gpus) {
            found.tally.add(property, count(&group.nodes));
            continue;
        }
        if anywhere {
            take(&group.nodes, false, found);
            continue;
        }
        for run in classes.runs().of(group) {
            if let Some(property) = classes.misses(&run.class) {
                found.tally.add(property, count(&run.nodes));
                continue;
            }
            take(&run.nodes, classes.is_on_other_chain(&run.class), found);
        }
    }
    look(lanes, found);
}

/// Nodes of one block that have what is asked for, as far as classes tell.
#[derive(Clone, Copy, Default)]
struct Lanes {
    block: usize,
    all: u64,
    /// Those that are on another chain.
    other_chain: u64,
}

/// One block, looked at for one request.
struct Place<'a> {
    nodes: &'a [NodeCapacity],
    classes: &'a Classes,
    query: &'a Query<'a>,
    number: usize,
    block: &'a Block,
}

impl Place<'_> {
    /// The filters from the labels to the owner: those of `lanes` that pass.
    fn properties_and_state(&self, lanes: Lanes, tally: &mut Tally) -> u64 {
        let (query, request, block) = (self.query, self.query.request, self.block);
        let mut left = lanes.all;
        let mut keep = |left: &mut u64, reason: Reason, passed: u64| {
            let failed = *left & !passed;
            if failed != 0 {
                tally.add_lanes(reason, failed);
                *left &= passed;
            }
        };
        for (set, property) in [
            (&query.selected, Property::Selector),
            (&query.labelled, Property::TopologyLabel),
        ] {
            if let Some(set) = set {
                let passed = set.get(self.number).copied().unwrap_or(0);
                keep(&mut left, property.into(), passed);
            }
        }
        keep(&mut left, Reason::OtherChain, !lanes.other_chain);
        if let Some(most) = request.max_price {
            let (passed, unsure) = block.priced_at_most(most.nano(), left);
            let passed = passed | self.those(unsure, |node| node.facts().price <= most);
            keep(&mut left, Reason::PriceTooHigh, passed);
        }
        let withheld = left & !block.offered;
        left &= block.offered;
        if request.run_limit.is_some() {
            let too_soon = self.those(left & block.closing, |node| {
                closes_too_soon(node.facts(), request)
            });
            keep(&mut left, Reason::ClosesTooSoon, !too_soon);
        }
        if left & block.tainted != 0 {
            let tainted = set_bits(left & block.tainted)
                .filter(|lane| self.classes.is_barred(self.position(*lane)))
                .fold(0, |set, lane| set | 1 << lane);
            keep(&mut left, Reason::Tainted, !tainted);
        }
        if request.require_bond {
            keep(&mut left, Reason::Unbonded, block.bonded);
        }
        if request.min_reputation > 0 {
            let least = request.min_reputation;
            let (passed, unsure) = block.reputed_at_least(least, left);
            let passed = passed | self.those(unsure, |node| node.facts().reputation >= least);
            keep(&mut left, Reason::ReputationTooLow, passed);
        }
        keep(&mut left, Reason::NoWeight, block.weighted);
        if !query.suspects.is_empty() {
            keep(&mut left, Reason::Suspect, !self.among(&query.suspects));
        }
        if !query.same_owner.is_empty() {
            keep(&mut left, Reason::SameOwner, !self.among(&query.same_owner));
        }
        tally.add_withheld(self.number, withheld);
        left
    }

    /// The last filters: the rooms of `lanes`.
    fn room(&self, lanes: u64, found: &mut Found) {
        let (block, member) = (self.block, self.query.member);
        let enough = block.with_free_gpus(member.gpus);
        found
            .tally
            .add_lanes(Reason::InsufficientGpus, lanes & !enough);
        let left = lanes & enough;
        if self.query.held.is_empty() && member.other.is_empty() && block.all_have_room(member) {
            if left != 0 {
                let mut part = Part::none(self.number);
                set_bits(left).for_each(|lane| part.add(block, lane));
                found.parts.push(part);
            }
            return;
        }
        let mut part = Part::none(self.number);
        let held = if self.query.held.is_empty() {
            0
        } else {
            self.among(&self.query.held)
        };
        for lane in set_bits(left) {
            if !block.has_room(lane, member) {
                found.tally.add_short(block.shortage(lane, member));
                continue;
            }
            let of_others = || {
                let node = self.nodes.get(self.position(lane))?;
                node.free().first_shortage(member)
            };
            match if member.other.is_empty() {
                None
            } else {
                of_others()
            } {
                None if held & (1 << lane) != 0 => found.tally.add(Reason::Held, 1),
                None => part.add(block, lane),
                Some(shortage) => found.tally.add_short(shortage),
            }
        }
        if part.lanes != 0 {
            found.parts.push(part);
        }
    }

    fn position(&self, lane: usize) -> usize {
        self.number * LANES + lane
    }

    fn those(&self, lanes: u64, passes: impl Fn(&NodeCapacity) -> bool) -> u64 {
        set_bits(lanes)
            .filter(|lane| self.nodes.get(self.position(*lane)).is_some_and(&passes))
            .fold(0, |set, lane| set | 1 << lane)
    }

    /// The nodes of this block among `positions`.
    fn among(&self, positions: &[usize]) -> u64 {
        let first = self.number * LANES;
        let from = positions.partition_point(|position| *position < first);
        positions
            .iter()
            .skip(from)
            .take_while(|position| **position < first + LANES)
            .fold(0, |set, position| set | 1 << (position - first))
    }
}

impl Part {
    fn none(block: usize) -> Self {
        Self {
            block,
            lanes: 0,
            partly_used: 0,
            total: 0,
            total_partly_used: 0,
        }
    }

    fn add(&mut self, block: &Block, lane: usize) {
        let bit = 1 << lane;
        let weight = block.weight(lane);
        let partly_used = block.partly_used & bit;
        self.lanes |= bit;
        self.partly_used |= partly_used;
        self.total += weight;
        // Not a branch: half of them are, in no order.
        self.total_partly_used += weight * u64::from(partly_used != 0);
    }
}
