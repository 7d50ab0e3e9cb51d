//! Placements that have been written and that the cache does not show yet. Pure.
//!
//! A decision must count what the decision before it took, even if the watch is slower than the scheduler.

use std::collections::BTreeMap;

use gridstake_crds::ComputeJob;

use crate::scheduler::{
    Placement, Request, Reservation,
    fair_share::Holding,
    holds::{Millis, Release},
};

/// Written placements by the job's uid.
#[derive(Clone, Debug, Default)]
pub struct Assumed(BTreeMap<String, Written>);

#[derive(Clone, Debug)]
struct Written {
    attempt: u32,
    /// The highest number of a member: one that replaces a lost one has a higher number than those before it.
    newest: u32,
    reservations: Vec<Reservation>,
    ends_by: Option<Millis>,
    /// `None`: what it holds is counted already, for others of its members.
    holding: Option<Holding>,
}

impl Assumed {
    /// Remembers that members of an attempt of the job `uid`, the first of them numbered `first`, were placed, which has ended by
    /// `ends_by` for sure and counts as `holding`.
    pub fn insert(
        &mut self,
        uid: String,
        request: &Request,
        placement: &Placement,
        first: u32,
        ends_by: Option<Millis>,
        holding: Option<Holding>,
    ) {
        let reservations: Vec<_> = placement.reservations(request, first).collect();
        let written = Written {
            attempt: request.attempt,
            newest: reservations.last().map_or(first, |last| last.member.member),
            reservations,
            ends_by,
            holding,
        };
        self.0.insert(uid, written);
    }

    /// Forgets the job `uid`: its placement could not be written.
    pub fn remove(&mut self, uid: &str) {
        self.0.remove(uid);
    }

    /// Forgets what `jobs`, the cache, show by now, and jobs that are gone.
    pub fn forget_seen<'a>(&mut self, jobs: impl IntoIterator<Item = &'a ComputeJob>) {
        let shown: BTreeMap<&str, (u32, u32)> = jobs
            .into_iter()
            .filter_map(|job| {
                let placement = job.status.as_ref().and_then(|s| s.placement.as_ref());
                let newest = placement.map_or((0, 0), |placement| {
                    let members = placement.nodes.iter().map(|node| node.member);
                    (placement.attempt, members.max().unwrap_or(0))
                });
                Some((job.metadata.uid.as_deref()?, newest))
            })
            .collect();
        self.0.retain(|uid, written| {
            shown
                .get(uid.as_str())
                .is_some_and(|shown| *shown < (written.attempt, written.newest))
        });
    }

    /// Whether the job `uid` has a placement that the cache does not show.
    #[must_use]
    pub fn contains(&self, uid: &str) -> bool {
        self.0.contains_key(uid)
    }

    /// What all of them hold.
    #[must_use]
    pub fn reservations(&self) -> Vec<Reservation> {
        self.0
            .values()
            .flat_map(|written| written.reservations.clone())
            .collect()
    }

    /// What all of them will give back.
    #[must_use]
    pub fn releases(&self) -> Vec<Release> {
        let all = self.0.values();
        all.flat_map(|written| {
            written.reservations.iter().map(|reserved| Release {
                member: reserved.member,
                node: reserved.node.clone(),
                resources: reserved.resources.clone(),
                ends_by: written.ends_by,
            })
        })
        .collect()
    }

    /// How all of them count against their payers' shares.
    pub fn holdings(&self) -> impl Iterator<Item = &Holding> {
        self.0
            .values()
            .filter_map(|written| written.holding.as_ref())
    }
}
