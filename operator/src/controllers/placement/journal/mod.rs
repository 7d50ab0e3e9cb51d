//! What is written into the log of decisions: the fleet as it changes, and each decision about it. Pure.
//!
//! The form of the log is `gridstake_ledger::archive::decisions`; [`super::recorder`] puts its parts into the archive.

mod lines;

use std::collections::BTreeMap;

use alloy_primitives::B256;
use gridstake_ledger::archive::decisions::{
    self as log, Event, Head, Part, Taken, Undone, next_state, origin,
};
use k8s_openapi::jiff::Timestamp;

use super::owner_cuts::Epoch;
use crate::scheduler::{Decision, NodeFacts, Request, Resources, snapshot::NodeCapacity};

/// So much is kept that cannot be written, in bytes. What comes on top is lost, and the log begins anew.
const MOST_PENDING: usize = 32 << 20;
/// After so many lines for each node the fleet is told anew, so that who repeats a decision need not begin long before it.
const LINES_PER_NODE: usize = 4;
/// And at least after so many lines.
const FEWEST_LINES: usize = 10_000;

/// A node of the fleet on which is decided.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// What is known of it.
    pub facts: &'a NodeFacts,
    /// What stake, reputation and price say that it weighs.
    pub weight: u64,
    /// What pods take.
    pub used: &'a Resources,
    /// What placements have been promised.
    pub reserved: &'a Resources,
}

impl<'a> From<&'a NodeCapacity> for Seen<'a> {
    fn from(node: &'a NodeCapacity) -> Self {
        Self {
            facts: node.facts(),
            weight: node.full_weight(),
            used: node.used(),
            reserved: node.reserved(),
        }
    }
}

/// What the log tells of a node.
#[derive(Clone, Debug)]
struct Known {
    facts: NodeFacts,
    closes_at: Option<Timestamp>,
    weight: u64,
    taken: Resources,
    /// Whether it was there when last looked.
    is_there: bool,
}

/// The part of the log that is being written.
#[derive(Clone, Debug)]
pub struct Journal {
    cluster: String,
    writer: String,
    known: BTreeMap<String, Known>,
    /// The state after all lines.
    state: B256,
    /// The state at the begin of what is pending; `None`: that is a writer's first part.
    since: Option<B256>,
    pending: Vec<Vec<u8>>,
    bytes: usize,
    /// Lines since the fleet was told from the beginning.
    lines: usize,
    has_decisions: bool,
    /// Since when what was told last of whose weights are cut is in force.
    settled: Option<Timestamp>,
}

impl Journal {
    /// A journal of `writer`, a name that nobody else has, in the log of `cluster`.
    #[must_use]
    pub fn new(cluster: &str, writer: &str) -> Self {
        Self {
            cluster: cluster.to_owned(),
            writer: writer.to_owned(),
            known: BTreeMap::new(),
            state: origin(cluster, writer),
            since: None,
            pending: Vec::new(),
            bytes: 0,
            lines: 0,
            has_decisions: false,
            settled: None,
        }
    }

    /// The state of the log: what the next decision names.
    #[must_use]
    pub const fn state(&self) -> B256 {
        self.state
    }

    /// Whether it should begin anew under another name: the fleet was told too many lines ago, or too much is pending.
    #[must_use]
    pub fn is_long(&self) -> bool {
        self.lines > FEWEST_LINES.max(LINES_PER_NODE * self.known.len())
            || self.bytes > MOST_PENDING
    }

    /// Tells how `fleet` differs from what the log tells. `now` is the moment to which `closes_in` of the facts relates.
    pub fn see<'a>(&mut self, fleet: impl IntoIterator<Item = Seen<'a>>, now: Timestamp) {
        for known in self.known.values_mut() {
            known.is_there = false;
        }
        for seen in fleet {
            self.see_node(seen, now);
        }
        let gone: Vec<String> = self
            .known
            .iter()
            .filter(|(_, known)| !known.is_there)
            .map(|(name, _)| name.clone())
            .collect();
        for name in gone {
            self.known.remove(&name);
            self.add(&Event::Gone(name));
        }
    }

    fn see_node(&mut self, seen: Seen<'_>, now: Timestamp) {
        let facts = seen.facts;
        let closes_at = facts.closes_in.and_then(|left| now.checked_add(left).ok());
        let mut taken = seen.used.clone();
        taken.add(seen.reserved);
        if let Some(known) = self.known.get_mut(&facts.name) {
            known.is_there = true;
            // The time that is left passes all the time; the end does not change.
            known.facts.closes_in = facts.closes_in;
            let is_same = known.closes_at == closes_at
                && known.weight == seen.weight
                && known.facts == *facts;
            // Most nodes are as they were, and this is asked of all of them in each pass. Only what is told is compared: of
            // two zeros one may be left out.
            let is_as_told =
                || known.taken == taken || lines::amounts(&known.taken) == lines::amounts(&taken);
            if is_same && is_as_told() {
                return;
            }
            if is_same {
                let event = Event::Taken(Taken {
                    node: facts.name.clone(),
                    amounts: lines::amounts(&taken),
                });
                known.taken = taken;
                self.add(&event);
                return;
            }
        }
        let node = lines::node(facts, closes_at, seen.weight, &taken);
        self.add(&Event::Node(Box::new(node)));
        let known = Known {
            facts: facts.clone(),
            closes_at,
            weight: seen.weight,
            taken,
            is_there: true,
        };
        self.known.insert(facts.name.clone(), known);
    }

    /// Tells whose weights are cut, if it is not told yet.
    pub fn settle(&mut self, epoch: &Epoch) {
        if self.settled == Some(epoch.begun) {
            return;
        }
        self.settled = Some(epoch.begun);
        self.add(&Event::Cuts(lines::cuts(epoch)));
    }

    /// Tells a decision, which names [`Self::state`], and takes what its members take.
    pub fn decided(&mut self, request: &Request, decision: &Decision, now: Timestamp) {
        let decided = lines::decided(request, decision, now.as_millisecond());
        self.add(&Event::Decision(Box::new(decided)));
        self.has_decisions = true;
        let each = request.per_member();
        for drawn in &decision.drawn {
            if let Some(known) = self.known.get_mut(&drawn.winner) {
                known.taken.add(&each);
            }
        }
    }

    /// Tells that a decision was not carried out, and gives back what it took.
    pub fn undone(&mut self, request: &Request, decision: &Decision, why: &str) {
        self.add(&Event::Undone(Undone {
            decision: decision.hash(),
            why: why.to_owned(),
        }));
        let each = request.per_member();
        for drawn in &decision.drawn {
            if let Some(known) = self.known.get_mut(&drawn.winner) {
                known.taken = known.taken.less(&each);
            }
        }
    }

    fn add(&mut self, event: &Event) {
        // It cannot fail: every map of these types has texts for keys.
        let Ok(line) = log::line(event) else { return };
        self.state = next_state(self.state, &line);
        self.bytes += line.len() + 1;
        self.lines += 1;
        self.pending.push(line);
    }

    /// Whether a decision is pending: what is only about the fleet can wait for one.
    #[must_use]
    pub const fn has_decisions(&self) -> bool {
        self.has_decisions
    }

    /// The file of what is pending, as the part of this number behind the one at `before`.
    #[must_use]
    pub fn file(&self, part: u64, before: Option<B256>) -> Vec<u8> {
        let head = Head::new(&self.cluster, &self.writer, part, before, self.since);
        log::encode(&head, &self.pending).unwrap_or_default()
    }

    /// How much is pending, in bytes.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// What is pending is in the archive, up to the line after which the log is in the state `until`.
    pub fn written(&mut self, until: B256) {
        let mut state = self
            .since
            .unwrap_or_else(|| origin(&self.cluster, &self.writer));
        let after = self.pending.iter().position(|line| {
            state = next_state(state, line);
            state == until
        });
        if let Some(last) = after {
            self.since = Some(until);
            let written = self.pending.drain(..=last);
            self.bytes -= written.map(|line| line.len() + 1).sum::<usize>();
            self.has_decisions = !self.pending.is_empty();
        }
    }

    /// `part` is in the archive. If it is one of ours, of which that was not known, nothing of it is written again.
    pub fn is_there(&mut self, part: &Part) {
        if part.head.writer == self.writer {
            self.written(part.end);
        }
    }

    /// Begins anew as another writer; what is pending is dropped. Returns how many lines are lost that are needed to make
    /// decisions again.
    pub fn begin_anew(&mut self, writer: &str) -> u64 {
        let lost = if self.has_decisions {
            self.pending.len() as u64
        } else {
            0
        };
        *self = Self::new(&self.cluster, writer);
        lost
    }
}

#[cfg(test)]
mod tests;
