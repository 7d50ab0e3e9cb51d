//! The scheduler: which nodes a job's members go to, as a pure function.
//!
//! No client, no clock, no randomness, no floats, no map whose order could differ: the same snapshot, request and seed
//! give the same placement on every machine, so that anyone can repeat a decision.
//!
//! The way of a decision: objects become facts ([`node_facts`], [`pod_facts`], [`request`]); facts become a
//! [`snapshot`]; [`filter`] leaves the nodes that can take a member; [`gang`] draws one for each member with the numbers
//! of [`draw`], in proportion to their [`weight`]; [`decision`] records it. When nothing fits, [`explain`] says why.
//! [`queue`] says who is next, by priority, [`fair_share`] and age; [`holds`] keeps room for the first one that waits.
//!
//! There are two programs for a decision. [`linear`] looks at every node and is the specification. [`fleet_index`] gives the same
//! answer bit for bit without looking at every node; it is what decides.

pub mod decision;
pub mod draw;
pub mod explain;
pub mod fair_share;
pub mod filter;
pub mod fleet_index;
pub mod gang;
pub mod gpu_model;
pub mod holds;
pub mod linear;
pub mod near_miss;
pub mod node_constraints;
pub mod node_facts;
pub mod owner_cap;
pub mod pod_facts;
pub mod pod_requests;
pub mod quantity;
pub mod queue;
pub mod request;
pub mod resources;
pub mod snapshot;
pub mod weight;

#[cfg(test)]
mod fairness;
#[cfg(test)]
pub(crate) mod fixtures;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod snapshot_history;

use alloy_primitives::B256;

pub use decision::Decision;
pub use draw::Seed;
pub use filter::Rejection;
pub use fleet_index::FleetIndex;
pub use node_facts::{NodeFacts, NodeStanding};
pub use pod_facts::{MemberKey, PodFacts};
pub use request::{JobContext, JobUid, Request};
pub use resources::Resources;
pub use snapshot::{Reservation, Snapshot, SnapshotInputs};

use decision::{Drawn, ReasonCount};

/// Where the members of an attempt go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The node of each member, in the order of their numbers. One node may take several.
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

/// What the decisions about one request on one state of the fleet have in common, whoever makes them.
struct Tally {
    /// How many nodes can take a member.
    candidates: u32,
    /// The sum of their weights.
    total_weight: u64,
    /// How many cannot, in the order of the reasons' names.
    rejections: Vec<ReasonCount>,
}

impl Placement {
    /// What it promises to each member of `request`, the first of which is numbered `first`.
    pub fn reservations(&self, request: &Request, first: u32) -> impl Iterator<Item = Reservation> {
        (first..)
            .zip(&self.nodes)
            .map(|(member, node)| Reservation {
                member: MemberKey {
                    job_uid: request.job_uid,
                    attempt: request.attempt,
                    member,
                },
                node: node.clone(),
                resources: request.per_member(),
            })
    }

    /// The placement that these draws give, with its record.
    fn recorded(
        request: &Request,
        seed: &Seed,
        snapshot: u64,
        tally: Tally,
        drawn: Vec<Drawn>,
    ) -> Self {
        Self {
            nodes: drawn.iter().map(|drawn| drawn.winner.clone()).collect(),
            decision: Decision {
                job_uid: request.job_uid,
                attempt: request.attempt,
                seed: *seed,
                state: B256::ZERO,
                snapshot,
                candidates: tally.candidates,
                total_weight: tally.total_weight,
                drawn,
                rejections: tally.rejections,
            },
        }
    }
}

fn count(nodes: usize) -> u32 {
    u32::try_from(nodes).unwrap_or(u32::MAX)
}
