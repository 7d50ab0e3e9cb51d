//! What every controller is given.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::Client;

use crate::{
    archive::Archive,
    caches::Caches,
    chain::Chains,
    controllers::{
        canary,
        compute_job::{
            recent_fleet::RecentFleet, recent_starts::RecentStarts, rehearsals::Rehearsals,
            untold::Untold,
        },
        gpu_node::quarantine,
        incident,
        reclaim::preempt,
    },
    events::Events,
    health::Health,
    leader::Leadership,
    metrics::Metrics,
    payer::Payers,
    precedence::Precedence,
    scheduler::{fair_share::HalfLife, owner_cap::OwnerCap},
    settlement::Lanes,
};

/// The operator's surroundings. Cloning shares them.
#[derive(Clone)]
pub struct Context {
    /// The API server.
    pub client: Client,
    /// The operator's own namespace.
    pub namespace: String,
    /// This replica's name.
    pub identity: String,
    /// What is known of the cluster.
    pub caches: Caches,
    /// The chains on which this cluster settles, and what is known of them. Without one, nothing is owed.
    pub chains: Chains,
    /// This cluster's lanes, one on each configured chain, for reading and writing there.
    pub lanes: Lanes,
    /// Where final batches are kept as files. `None` if no archive is configured.
    pub archive: Option<Archive>,
    /// What a provider's offence may cost.
    pub incidents: incident::open::Terms,
    /// Whether and when jobs make way for those of higher priority.
    pub preemption: preempt::Terms,
    /// Which pods the API server would have taken of late.
    pub rehearsals: Rehearsals,
    /// The fleet as it was a moment ago.
    pub recent_fleet: RecentFleet,
    /// Which members' pods were created moments ago.
    pub recent_starts: RecentStarts,
    /// Jobs that may wait for a place and have not been told so.
    pub untold: Untold,
    /// Who goes first at the API server.
    pub precedence: Precedence,
    /// How long what has failed is left alone.
    pub quarantine: quarantine::Terms,
    /// How nodes are measured.
    pub canaries: canary::Terms,
    /// After which time what a payer has used counts half against its share of the queue.
    pub fair_share_half_life: HalfLife,
    /// The share of the weights of one model that one owner may have.
    pub owner_cap: OwnerCap,
    /// Who pays, and whether the money lasts.
    pub payers: Payers,
    /// After which time a slice of a lease is sealed where no chain says so.
    pub settlement_interval: Duration,
    /// Where events go.
    pub events: Events,
    /// Where measurements go.
    pub metrics: Metrics,
    /// Where a main loop says that it is at work.
    pub health: Health,
    /// Whether this replica leads.
    pub leadership: Leadership,
    /// The time of day. Decisions get it as an argument.
    pub now: fn() -> Timestamp,
}
