//! Wishes about labels and names. For each label that any request has named there is a column with the number of each
//! node's value; a requirement is put to each distinct value once, and then costs one look-up a node.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm};

use super::block::LANES;
use crate::scheduler::node_constraints::{NAME_FIELD, NodeConstraints, requirement_matches};
use crate::scheduler::snapshot::NodeCapacity;

/// So many labels have a column, unless one request names more.
const COLUMNS: usize = 32;

/// Stands for a node that does not carry the label.
pub const ABSENT: u32 = u32::MAX;

/// A set of nodes: bit `i` of word `b` is the node at position `64 · b + i`.
pub type NodeSet = Vec<u64>;

/// The values of one label.
#[derive(Clone, Debug, Default)]
struct Column {
    /// The number of the value of each node, or [`ABSENT`].
    of: Vec<u32>,
    numbers: BTreeMap<String, u32>,
    values: Vec<String>,
}

impl Column {
    fn number(&mut self, value: Option<&String>) -> u32 {
        let Some(value) = value else { return ABSENT };
        if let Some(number) = self.numbers.get(value) {
            return *number;
        }
        let number = u32::try_from(self.values.len()).unwrap_or(ABSENT);
        self.values.push(value.clone());
        self.numbers.insert(value.clone(), number);
        number
    }

    /// The nodes whose value is accepted, and those without one if `absent` is.
    fn nodes(&self, accepted: &[bool], absent: bool) -> NodeSet {
        let is_accepted = |number: &u32| {
            let number = usize::try_from(*number).unwrap_or(usize::MAX);
            accepted.get(number).copied().unwrap_or(absent)
        };
        set_of(self.of.iter().map(is_accepted))
    }

    fn nodes_that_meet(&self, requirement: &NodeSelectorRequirement) -> NodeSet {
        let absent = requirement_matches(requirement, None);
        let accepted: Vec<bool> = if requirement.operator == "In" {
            // A label such as the host's name has as many values as there are nodes.
            let mut accepted = vec![false; self.values.len()];
            for value in requirement.values.iter().flatten() {
                let number = self
                    .numbers
                    .get(value)
                    .and_then(|n| usize::try_from(*n).ok());
                if let Some(accepted) = number.and_then(|number| accepted.get_mut(number)) {
                    *accepted = true;
                }
            }
            accepted
        } else {
            let meets = |value: &String| requirement_matches(requirement, Some(value));
            self.values.iter().map(meets).collect()
        };
        self.nodes(&accepted, absent)
    }
}

/// The columns of the labels that requests have named.
#[derive(Clone, Debug, Default)]
pub struct Labels(BTreeMap<String, Column>);

impl Labels {
    /// Makes the columns of all labels that the constraints and the topology name.
    pub fn prepare<'a>(
        &mut self,
        constraints: &'a NodeConstraints,
        topology: Option<&'a str>,
        nodes: &[NodeCapacity],
    ) {
        let named = constraints.node_selector.keys().map(String::as_str);
        let terms = constraints.required_affinity.iter();
        let required = terms
            .flat_map(|affinity| &affinity.node_selector_terms)
            .flat_map(|term| term.match_expressions.iter().flatten())
            .map(|requirement| requirement.key.as_str());
        let keys: Vec<&str> = named.chain(required).chain(topology).collect();
        let is_missing = |labels: &Self| keys.iter().any(|key| !labels.0.contains_key(*key));
        if is_missing(self) && self.0.len() + keys.len() > COLUMNS {
            self.0.clear();
        }
        for key in keys {
            if !self.0.contains_key(key) {
                let mut column = Column::default();
                for node in nodes {
                    let number = column.number(node.facts().labels.get(key));
                    column.of.push(number);
                }
                self.0.insert(key.to_owned(), column);
            }
        }
    }

    /// Says which labels the node at `position` carries.
    pub fn set(&mut self, position: usize, labels: &BTreeMap<String, String>) {
        // Values of nodes that are gone stay: a column with too many of them is made anew when it is asked for.
        self.0
            .retain(|_, column| column.values.len() <= 2 * column.of.len() + LANES);
        for (key, column) in &mut self.0 {
            let number = column.number(labels.get(key));
            if let Some(of) = column.of.get_mut(position) {
                *of = number;
            }
        }
    }

    /// Makes room for a node at `position`, to be [`Self::set`].
    pub fn insert(&mut self, position: usize) {
        for column in self.0.values_mut() {
            column.of.insert(position.min(column.of.len()), ABSENT);
        }
    }

    /// Forgets the node at `position`.
    pub fn remove(&mut self, position: usize) {
        for column in self.0.values_mut() {
            if position < column.of.len() {
                column.of.remove(position);
            }
        }
    }

    /// The nodes that carry the label; [`Self::prepare`] has made its column.
    pub fn carrying(&self, key: &str) -> NodeSet {
        let column = self.0.get(key);
        column.map_or_else(NodeSet::new, |column| {
            column.nodes(&vec![true; column.values.len()], false)
        })
    }

    /// How many values the label has, and the number of each node's, or [`ABSENT`].
    pub fn values(&self, key: &str) -> (usize, &[u32]) {
        let column = self.0.get(key);
        column.map_or((0, &[]), |column| (column.values.len(), &column.of))
    }

    /// The nodes that the constraints accept by label and name; `None` when they accept all. `position` finds a node by
    /// its name.
    pub fn selected(
        &self,
        constraints: &NodeConstraints,
        nodes: &[NodeCapacity],
        position: impl Fn(&str) -> Option<usize>,
    ) -> Option<NodeSet> {
        let mut selected: Option<NodeSet> = None;
        for (key, value) in &constraints.node_selector {
            let requirement = NodeSelectorRequirement {
                key: key.clone(),
                operator: "In".to_owned(),
                values: Some(vec![value.clone()]),
            };
            narrow(&mut selected, self.meeting(&requirement));
        }
        if let Some(affinity) = &constraints.required_affinity {
            let mut any = vec![0; nodes.len().div_ceil(LANES)];
            for term in &affinity.node_selector_terms {
                if let Some(accepted) = self.accepted(term, nodes, &position) {
                    for (any, accepted) in any.iter_mut().zip(accepted) {
                        *any |= accepted;
                    }
                }
            }
            narrow(&mut selected, any);
        }
        selected
    }

    /// The nodes that a term accepts; `None` for none, as an empty term does.
    fn accepted(
        &self,
        term: &NodeSelectorTerm,
        nodes: &[NodeCapacity],
        position: impl Fn(&str) -> Option<usize>,
    ) -> Option<NodeSet> {
        let mut accepted = None;
        for requirement in term.match_expressions.iter().flatten() {
            narrow(&mut accepted, self.meeting(requirement));
        }
        for requirement in term.match_fields.iter().flatten() {
            if requirement.key != NAME_FIELD {
                return None;
            }
            narrow(&mut accepted, named(requirement, nodes, &position));
        }
        accepted
    }

    fn meeting(&self, requirement: &NodeSelectorRequirement) -> NodeSet {
        let column = self.0.get(&requirement.key);
        column.map_or_else(NodeSet::new, |column| column.nodes_that_meet(requirement))
    }
}

/// The nodes whose names meet the requirement.
fn named(
    requirement: &NodeSelectorRequirement,
    nodes: &[NodeCapacity],
    position: impl Fn(&str) -> Option<usize>,
) -> NodeSet {
    if requirement.operator != "In" {
        let meets =
            |node: &NodeCapacity| requirement_matches(requirement, Some(&node.facts().name));
        return set_of(nodes.iter().map(meets));
    }
    let mut set = vec![0; nodes.len().div_ceil(LANES)];
    for position in requirement
        .values
        .iter()
        .flatten()
        .filter_map(|name| position(name))
    {
        if let Some(word) = set.get_mut(position / LANES) {
            *word |= 1 << (position % LANES);
        }
    }
    set
}

/// Leaves those that are in both.
fn narrow(nodes: &mut Option<NodeSet>, by: NodeSet) {
    match nodes {
        None => *nodes = Some(by),
        Some(nodes) => {
            for (word, by) in nodes.iter_mut().zip(by) {
                *word &= by;
            }
        }
    }
}

fn set_of(members: impl Iterator<Item = bool>) -> NodeSet {
    let mut set = Vec::new();
    for (position, is_member) in members.enumerate() {
        if position % LANES == 0 {
            set.push(0);
        }
        if let Some(word) = set.last_mut() {
            *word |= u64::from(is_member) << (position % LANES);
        }
    }
    set
}
