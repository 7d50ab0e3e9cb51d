//! The fleet, kept in a form in which a decision does not look at every node.
//!
//! The answers are those of [`super::linear`] on [`FleetIndex::snapshot`], bit for bit: the same placement with the same
//! record, or the same counts of rejections. What changes on a node changes only what is kept about that node; a node
//! that comes or goes moves those behind it.
//!
//! | file | what |
//! |---|---|
//! | [`block`] | what filters read of 64 neighbours: bits and columns |
//! | [`class`], [`run`] | nodes that answer alike to wishes about hardware, place, provider and chain |
//! | [`labels`] | wishes about labels and names |
//! | [`scan`], [`tally`] | the filters, and how many nodes each has ruled out |
//! | [`members`] | the draw over what the filters leave |

mod block;
mod class;
mod labels;
mod members;
mod run;
mod scan;
mod tally;

#[cfg(test)]
mod properties;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use block::{Block, LANES};
use class::Classes;
use labels::Labels;
use members::{Domains, Pool};
use scan::{Found, Part, Query, scan};

use super::decision::Drawn;
use super::draw::{Seed, Words};
use super::filter::required_topology_key;
use super::node_facts::NodeFacts;
use super::request::Request;
use super::resources::Resources;
use super::snapshot::{NodeCapacity, Snapshot, SnapshotInputs};
use super::weight::WeightPolicy;
use super::{Placement, RejectionCount, Tally};

/// When more nodes than this come or go at once, everything is built anew, which costs about as much as 64 insertions.
const FEW: usize = 64;

/// A fleet on which decisions are made.
#[derive(Clone, Debug)]
pub struct FleetIndex {
    fleet: Snapshot,
    weights: WeightPolicy,
    positions: HashMap<String, usize>,
    blocks: Vec<Block>,
    classes: Classes,
    labels: Labels,
    /// Who could take the last request.
    found: Found,
    /// Where the members of the last placement were.
    winners: Vec<usize>,
}

impl FleetIndex {
    /// A fleet without nodes.
    #[must_use]
    pub fn new(weights: WeightPolicy) -> Self {
        let nobody = SnapshotInputs {
            weights,
            ..SnapshotInputs::default()
        };
        Self::of(Snapshot::assemble(nobody), weights)
    }

    /// The fleet of a snapshot. `weights` says how the weights of nodes are computed that are set later.
    #[must_use]
    pub fn of(fleet: Snapshot, weights: WeightPolicy) -> Self {
        let mut index = Self {
            fleet,
            weights,
            positions: HashMap::new(),
            blocks: Vec::new(),
            classes: Classes::default(),
            labels: Labels::default(),
            found: Found::default(),
            winners: Vec::new(),
        };
        let blocks = index.fleet.nodes().len().div_ceil(LANES);
        index.blocks.resize(blocks, Block::default());
        for (position, node) in index.fleet.nodes().iter().enumerate() {
            index.positions.insert(node.facts().name.clone(), position);
            index.classes.insert(position);
        }
        for position in 0..index.fleet.nodes().len() {
            index.write(position);
        }
        index
    }

    /// The fleet as it is.
    #[must_use]
    pub fn snapshot(&self) -> &Snapshot {
        &self.fleet
    }

    /// Becomes the fleet of another snapshot by changing what differs.
    pub fn update(&mut self, to: Snapshot) {
        let sequence = to.sequence();
        let too_many_answers = self.classes.remembered() > 2 * to.nodes().len() + LANES;
        let gone = self.gone(&to);
        let come = to.nodes().len() + gone.len() - self.fleet.nodes().len();
        if come + gone.len() > FEW || too_many_answers {
            *self = Self::of(to, self.weights);
            return;
        }
        for name in gone {
            self.remove(&name);
        }
        for (position, node) in to.into_nodes().into_iter().enumerate() {
            // Most stand where they stood, as they were.
            if self.fleet.nodes().get(position) != Some(&node) {
                self.put(node);
            }
        }
        self.fleet.set_sequence(sequence);
    }

    /// The nodes that are not in another snapshot.
    fn gone(&self, to: &Snapshot) -> Vec<String> {
        fn names(fleet: &Snapshot) -> impl Iterator<Item = &str> {
            fleet.nodes().iter().map(|node| node.facts().name.as_str())
        }
        if names(&self.fleet).eq(names(to)) {
            return Vec::new();
        }
        let there: BTreeSet<&str> = names(to).collect();
        names(&self.fleet)
            .filter(|name| !there.contains(name))
            .map(str::to_owned)
            .collect()
    }

    /// Adds a node, or changes what is known of it. What is taken of it stays taken.
    pub fn set_node(&mut self, facts: NodeFacts) {
        let known = self.node(&facts.name).map(|(_, node)| node);
        let (used, reserved) = known.map_or_else(Default::default, |node| {
            (node.used().clone(), node.reserved().clone())
        });
        let mut node = NodeCapacity::new(facts, self.weights);
        node.set_taken(used, reserved);
        self.put(node);
    }

    /// Says what pods and promises take of a node.
    pub fn set_taken(&mut self, node: &str, used: Resources, reserved: Resources) {
        self.change(node, |node| node.set_taken(used, reserved));
    }

    /// Removes a node and what is taken of it.
    pub fn remove(&mut self, node: &str) {
        let Some(position) = self.positions.remove(node) else {
            return;
        };
        for behind in self.positions.values_mut().filter(|at| **at > position) {
            *behind -= 1;
        }
        self.fleet.nodes_mut().remove(position);
        self.classes.remove(position);
        self.labels.remove(position);
        self.move_from(position);
    }

    /// Takes what a placement was promised, so that the next decision can be made. The sequence number rises by one.
    pub fn reserve(&mut self, placement: &Placement, request: &Request) {
        let member = request.per_member();
        let winners = std::mem::take(&mut self.winners);
        for (number, name) in placement.nodes.iter().enumerate() {
            // Most often it is the last placement.
            let position = winners.get(number).copied();
            let is_there = |at: &usize| self.name_at(*at) == Some(name);
            if let Some(position) = position
                .filter(is_there)
                .or_else(|| self.positions.get(name).copied())
            {
                self.change_at(position, |node| node.reserve(&member));
            }
        }
        self.winners = winners;
        self.fleet.pass_on();
    }

    /// As if so much less of `node` were taken, by a promise or else by a pod.
    pub fn give_back(&mut self, node: &str, resources: &Resources) {
        self.change(node, |node| node.give_back(resources));
    }

    /// Places all members of a request, or none.
    ///
    /// # Errors
    /// As [`super::linear::place`].
    pub fn place(
        &mut self,
        request: &Request,
        seed: &Seed,
    ) -> Result<Placement, Vec<RejectionCount>> {
        let member = request.per_member();
        let topology = request.topology.as_ref();
        let nodes = self.fleet.nodes();
        let positions = &self.positions;
        let position = |name: &str| positions.get(name).copied();
        let all = |names: &BTreeSet<String>| {
            let mut found: Vec<usize> = names.iter().filter_map(|name| position(name)).collect();
            found.sort_unstable();
            found
        };
        // How many members find room in what is not kept for a job before this one.
        let spares: BTreeMap<usize, u64> = request
            .kept
            .iter()
            .filter_map(|(name, spare)| Some((position(name)?, spare.holds(&member))))
            .collect();
        let key = topology.map(|topology| topology.key.as_str());
        self.classes.count_runs();
        self.classes.ask(request);
        self.labels.prepare(&request.constraints, key, nodes);
        let labels = &self.labels;
        let query = Query {
            request,
            member: &member,
            selected: labels.selected(&request.constraints, nodes, position),
            labelled: required_topology_key(request).map(|key| labels.carrying(key)),
            suspects: all(&request.avoid),
            same_owner: all(&request.same_owner),
            held: spares
                .iter()
                .filter(|(_, spare)| **spare == 0)
                .map(|(position, _)| *position)
                .collect(),
        };
        let found = &mut self.found;
        scan(nodes, &self.blocks, &self.classes, &query, found);

        let sum =
            |of: &dyn Fn(&Part) -> u64| found.parts.iter().map(of).fold(0, u64::saturating_add);
        let candidates = sum(&|part| u64::from(part.lanes.count_ones()));
        let candidates = u32::try_from(candidates).unwrap_or(u32::MAX);
        let total_weight = sum(&|part| part.total);
        let domains = topology.map(|topology| {
            let (count, of) = labels.values(&topology.key);
            Domains {
                policy: topology.policy,
                count,
                of,
            }
        });
        let mut words = Words::new(seed.derive(request.job_uid, request.attempt));
        let pool = Pool::new(nodes, &self.blocks, &member, &spares, &mut found.parts);
        let Some(members) = pool.draw(request.member_count(), domains, &mut words) else {
            return Err(found.tally.rejections(candidates, nodes));
        };
        let winner = |position: usize| nodes.get(position).map(|node| node.facts().name.clone());
        self.winners.clear();
        self.winners.extend(members.iter().map(|draw| draw.node));
        let drawn = members
            .into_iter()
            .map(|draw| Drawn {
                stage: draw.stage,
                total: draw.total,
                number: draw.number,
                winner: winner(draw.node).unwrap_or_default(),
            })
            .collect();
        let tally = Tally {
            candidates,
            total_weight,
            rejections: found.tally.by_reason(),
        };
        Ok(Placement::recorded(
            request,
            seed,
            self.fleet.sequence(),
            tally,
            drawn,
        ))
    }

    fn node(&self, name: &str) -> Option<(usize, &NodeCapacity)> {
        let position = *self.positions.get(name)?;
        Some((position, self.fleet.nodes().get(position)?))
    }

    /// Puts a node where it belongs.
    fn put(&mut self, node: NodeCapacity) {
        let Some((position, known)) = self.node(&node.facts().name) else {
            return self.insert(node);
        };
        if known.canonical_key() != node.canonical_key() {
            self.remove(&node.facts().name.clone());
            return self.insert(node);
        }
        let same_facts = known.facts() == node.facts() && known.weight() == node.weight();
        if same_facts && known.used() == node.used() && known.reserved() == node.reserved() {
            return;
        }
        if let Some(known) = self.fleet.nodes_mut().get_mut(position) {
            *known = node;
        }
        if same_facts {
            self.write_free(position);
        } else {
            self.write(position);
        }
    }

    fn insert(&mut self, node: NodeCapacity) {
        let nodes = self.fleet.nodes_mut();
        let position = nodes.partition_point(|known| known.canonical_key() < node.canonical_key());
        for behind in self.positions.values_mut().filter(|at| **at >= position) {
            *behind += 1;
        }
        self.positions.insert(node.facts().name.clone(), position);
        nodes.insert(position, node);
        self.classes.insert(position);
        self.labels.insert(position);
        self.move_from(position);
        self.write(position);
    }

    fn change(&mut self, name: &str, change: impl FnOnce(&mut NodeCapacity)) {
        if let Some(position) = self.positions.get(name).copied() {
            self.change_at(position, change);
        }
    }

    fn name_at(&self, position: usize) -> Option<&String> {
        let node = self.fleet.nodes().get(position);
        node.map(|node| &node.facts().name)
    }

    fn change_at(&mut self, position: usize, change: impl FnOnce(&mut NodeCapacity)) {
        if let Some(node) = self.fleet.nodes_mut().get_mut(position) {
            change(node);
        }
        self.write_free(position);
    }

    /// A node has come to `position`, or gone from there: all behind it stand elsewhere.
    fn move_from(&mut self, position: usize) {
        let blocks = self.fleet.nodes().len().div_ceil(LANES);
        self.blocks.truncate(position / LANES);
        self.blocks.resize(blocks, Block::default());
        for at in position / LANES * LANES..self.fleet.nodes().len() {
            self.write_columns(at);
        }
    }

    /// Writes down all that is known of the node at `position`.
    fn write(&mut self, position: usize) {
        if let Some(node) = self.fleet.nodes().get(position) {
            self.classes.set(position, node.facts());
            self.labels.set(position, &node.facts().labels);
            self.write_columns(position);
        }
    }

    fn write_columns(&mut self, position: usize) {
        let tainted = self.classes.is_tainted(position);
        let node = self.fleet.nodes().get(position);
        let block = self.blocks.get_mut(position / LANES);
        if let (Some(node), Some(block)) = (node, block) {
            block.set_node(position % LANES, node, tainted);
            block.set_free(position % LANES, node);
        }
    }

    fn write_free(&mut self, position: usize) {
        let node = self.fleet.nodes().get(position);
        let block = self.blocks.get_mut(position / LANES);
        if let (Some(node), Some(block)) = (node, block) {
            block.set_free(position % LANES, node);
        }
    }
}
