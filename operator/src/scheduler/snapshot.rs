//! The state of the fleet on which a decision is made.
//!
//! # What counts as taken, and how often
//! A node's resources are taken by pods and by reservations:
//! - **A pod** that has not ended counts on the node that it is bound to, whoever owns and whichever scheduler bound
//!   it. An unbound one counts where kube-scheduler has nominated it, and a member of a ComputeJob where it is pinned.
//!   Other unbound pods count nowhere: kube-scheduler has yet to choose.
//! - **A reservation** (one member's entry in a job's `status.placement`) counts until its pod can be seen to speak for
//!   itself: as soon as a pod of the same job, attempt and member counts on some node, or has ended, the reservation
//!   counts nothing. So a placement counts exactly once from the moment it is written: first as a reservation, then as
//!   a pod, then not at all, even while the job's status still names it.
//! - The same reservation given twice counts once.
//!
//! A snapshot built from caches that lag errs on the safe side: a pod not seen yet is covered by its reservation, and
//! a reservation withdrawn while its pod still exists is covered by the pod.

use std::collections::{BTreeMap, BTreeSet};

use super::Placement;
use super::node_facts::NodeFacts;
use super::owner_cap::{Cuts, OwnerCap, Weighed};
use super::pod_facts::{MemberKey, PodFacts};
use super::request::Request;
use super::resources::Resources;
use super::weight::{WeightPolicy, weight};

/// Labels that order nodes of one model and region, the first before the second.
pub const CANONICAL_LABELS: [&str; 2] = ["topology.kubernetes.io/zone", "gridstake.dev/rack"];

/// A member that has been placed and whose pod may not exist yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// Whose it is.
    pub member: MemberKey,
    /// The node.
    pub node: String,
    /// What the member will take.
    pub resources: Resources,
}

/// Everything that a snapshot is made of. The order of the lists does not matter.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SnapshotInputs {
    /// The nodes. Of two with the same name the last one counts.
    pub nodes: Vec<NodeFacts>,
    /// All pods of the cluster.
    pub pods: Vec<PodFacts>,
    /// All members of all active placements.
    pub reservations: Vec<Reservation>,
    /// How weights are computed.
    pub weights: WeightPolicy,
    /// The snapshot's place in the log of state changes.
    pub sequence: u64,
}

/// A node and what is left of it.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeCapacity {
    facts: NodeFacts,
    capacity: Resources,
    full_weight: u64,
    weight: u64,
    used: Resources,
    reserved: Resources,
    free: Resources,
}

impl NodeCapacity {
    /// A node of which nothing is taken.
    pub(super) fn new(facts: NodeFacts, policy: WeightPolicy) -> Self {
        let weight = weight(policy, facts.stake, facts.reputation, facts.price);
        let mut node = Self {
            capacity: facts.capacity(),
            facts,
            full_weight: weight,
            weight,
            used: Resources::default(),
            reserved: Resources::default(),
            free: Resources::default(),
        };
        node.count_free();
        node
    }

    /// What is known of the node.
    #[must_use]
    pub fn facts(&self) -> &NodeFacts {
        &self.facts
    }

    /// What stake, reputation and price say that it weighs.
    #[must_use]
    pub fn full_weight(&self) -> u64 {
        self.full_weight
    }

    /// Its weight in the draw: less than the full one where its owner is cut.
    #[must_use]
    pub fn weight(&self) -> u64 {
        self.weight
    }

    /// What pods take.
    #[must_use]
    pub fn used(&self) -> &Resources {
        &self.used
    }

    /// What placements have been promised whose pods are not seen yet.
    #[must_use]
    pub fn reserved(&self) -> &Resources {
        &self.reserved
    }

    /// What is left: capacity − used − reserved, never below zero. GPUs are capped by the usable devices.
    #[must_use]
    pub fn free(&self) -> &Resources {
        &self.free
    }

    /// Whether any of its GPUs is taken: where the packing stage looks first.
    #[must_use]
    pub fn is_partly_used(&self) -> bool {
        self.used.gpus > 0 || self.reserved.gpus > 0
    }

    /// What else is taken, and of what.
    pub(super) fn set_taken(&mut self, used: Resources, reserved: Resources) {
        (self.used, self.reserved) = (used, reserved);
        self.count_free();
    }

    /// Promises so much of it.
    pub(super) fn reserve(&mut self, resources: &Resources) {
        self.reserved.add(resources);
        self.count_free();
    }

    /// As if so much less of it were taken, by a promise or else by a pod.
    pub(super) fn give_back(&mut self, resources: &Resources) {
        if self.reserved.first_shortage(resources).is_none() {
            self.reserved.take(resources);
        } else {
            self.used.take(resources);
        }
        self.count_free();
    }

    fn count_free(&mut self) {
        self.free.clone_from(&self.capacity);
        self.free.take(&self.used);
        self.free.take(&self.reserved);
    }

    /// (model, region, zone, rack, name): the order in which prefix sums run.
    pub(super) fn canonical_key(&self) -> (&str, &str, [&str; 2], &str) {
        let label = |key: &str| {
            self.facts
                .labels
                .get(key)
                .map(String::as_str)
                .unwrap_or_default()
        };
        (
            self.facts.model(),
            self.facts.region.as_deref().unwrap_or_default(),
            CANONICAL_LABELS.map(label),
            &self.facts.name,
        )
    }
}

/// The fleet at one moment, in canonical order.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    nodes: Vec<NodeCapacity>,
    sequence: u64,
}

impl Snapshot {
    /// Builds the snapshot. See the module's documentation for what counts.
    #[must_use]
    pub fn assemble(inputs: SnapshotInputs) -> Self {
        let mut nodes: BTreeMap<String, NodeCapacity> = inputs
            .nodes
            .into_iter()
            .map(|facts| (facts.name.clone(), NodeCapacity::new(facts, inputs.weights)))
            .collect();

        let mut speak_for_themselves = BTreeSet::new();
        for pod in &inputs.pods {
            if let Some(member) = pod.member.filter(|_| pod.ended || pod.node.is_some()) {
                speak_for_themselves.insert(member);
            }
            let on = pod.node.as_ref().filter(|_| !pod.ended);
            if let Some(node) = on.and_then(|name| nodes.get_mut(name)) {
                node.used.add(&pod.resources);
            }
        }
        let mut promised: BTreeMap<(MemberKey, String), Resources> = BTreeMap::new();
        for reservation in inputs.reservations {
            if !speak_for_themselves.contains(&reservation.member) {
                promised
                    .entry((reservation.member, reservation.node))
                    .or_default()
                    .raise_to(&reservation.resources);
            }
        }
        for ((_, name), resources) in &promised {
            if let Some(node) = nodes.get_mut(name) {
                node.reserved.add(resources);
            }
        }

        let mut nodes: Vec<NodeCapacity> = nodes.into_values().collect();
        for node in &mut nodes {
            node.count_free();
        }
        nodes.sort_by(|a, b| a.canonical_key().cmp(&b.canonical_key()));
        Self {
            nodes,
            sequence: inputs.sequence,
        }
    }

    /// The nodes in canonical order: (model, region, zone, rack, name).
    #[must_use]
    pub fn nodes(&self) -> &[NodeCapacity] {
        &self.nodes
    }

    /// The snapshot's place in the log of state changes.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Whose nodes would have to weigh less, so that nobody has more than the `cap`.
    #[must_use]
    pub fn cuts(&self, cap: OwnerCap) -> Cuts {
        let offered = self
            .nodes
            .iter()
            .filter_map(|node| Weighed::offered(&node.facts, node.full_weight));
        Cuts::of(cap, offered)
    }

    /// Lets nodes weigh what these `cuts` leave of their full weights.
    pub fn cut(&mut self, cuts: &Cuts) {
        for node in &mut self.nodes {
            // A node's model is the least of eight names, which nobody needs where nobody is cut.
            let cut = if cuts.is_empty() {
                None
            } else {
                cuts.get(node.facts.model(), node.facts.owner.as_deref())
            };
            node.weight = cut.map_or(node.full_weight, |cut| cut.of(node.full_weight));
        }
    }

    /// The nodes, to be changed. Whoever changes a canonical key restores the order.
    pub(super) fn nodes_mut(&mut self) -> &mut Vec<NodeCapacity> {
        &mut self.nodes
    }

    /// The nodes, in canonical order.
    pub(super) fn into_nodes(self) -> Vec<NodeCapacity> {
        self.nodes
    }

    /// Says at which place in the log of state changes it stands.
    pub(super) fn set_sequence(&mut self, sequence: u64) {
        self.sequence = sequence;
    }

    /// As if so much less of `node` were taken, by a pod or by a promise.
    pub fn give_back(&mut self, node: &str, resources: &Resources) {
        if let Some(node) = self.nodes.iter_mut().find(|known| known.facts.name == node) {
            node.give_back(resources);
        }
    }

    /// Takes what a placement was promised, so that the next decision can be made on this snapshot. The sequence number
    /// rises by one.
    pub fn reserve(&mut self, placement: &Placement, request: &Request) {
        let member = request.per_member();
        for name in &placement.nodes {
            if let Some(node) = self.nodes.iter_mut().find(|node| node.facts.name == *name) {
                node.reserve(&member);
            }
        }
        self.pass_on();
    }

    /// The next sequence number.
    pub(super) fn pass_on(&mut self) {
        self.sequence = self.sequence.saturating_add(1);
    }
}
