//! When each agent was last heard of, on the operator's own clock.
//!
//! An agent's clock may be wrong, so its renewals are timed when they are seen to arrive. Only for the first one seen
//! there is nothing but the agent's word: it may make an agent look silent until its next renewal, or alive for one
//! more term, and nothing worse.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use gridstake_crds::names::ANNOTATION_LOCAL_USE;
use k8s_openapi::{
    api::coordination::v1::Lease,
    jiff::{SignedDuration, Timestamp},
};
use kube::ResourceExt as _;

use crate::failover::Terms;

/// Arrival times of heartbeats, by node.
#[derive(Clone, Debug, Default)]
pub struct Heartbeats(Arc<Mutex<HashMap<String, Beat>>>);

#[derive(Clone, Debug)]
struct Beat {
    /// What the agent wrote.
    renewed: Timestamp,
    /// When it was seen.
    arrived: Timestamp,
    /// The last silence of [`GAP`] or more before it: from the heartbeat before, to the one that ended it.
    gap: Option<(Timestamp, Timestamp)>,
    /// What it says of use by others than jobs.
    local_use: Option<String>,
}

/// Two heartbeats missed: below any silence for which a node is given up.
const GAP: SignedDuration = SignedDuration::from_secs(20);

impl Heartbeats {
    fn beats(&self) -> MutexGuard<'_, HashMap<String, Beat>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of a lease as it is at `now`. True if it says something else about use by others than before.
    #[allow(
        clippy::must_use_candidate,
        reason = "it is called for the note that it takes"
    )]
    pub fn see(&self, lease: &Lease, now: Timestamp) -> bool {
        let Some((node, renewed)) = renewal(lease) else {
            return false;
        };
        let says = lease.annotations().get(ANNOTATION_LOCAL_USE);
        let mut beats = self.beats();
        let Some(beat) = beats.get_mut(node) else {
            let first = Beat {
                renewed,
                arrived: renewed.min(now),
                gap: None,
                local_use: says.cloned(),
            };
            beats.insert(node.to_owned(), first);
            return true;
        };
        if beat.renewed != renewed {
            if now.duration_since(beat.arrived) >= GAP {
                beat.gap = Some((beat.arrived, now));
            }
            (beat.renewed, beat.arrived) = (renewed, now);
        }
        let says_else = beat.local_use.as_ref() != says;
        if says_else {
            beat.local_use = says.cloned();
        }
        says_else
    }

    /// Takes note of all leases that exist at `now`, and forgets the others.
    pub fn see_all<'a>(&self, leases: impl IntoIterator<Item = &'a Lease> + Clone, now: Timestamp) {
        let nodes: Vec<&str> = leases
            .clone()
            .into_iter()
            .filter_map(renewal)
            .map(|(node, _)| node)
            .collect();
        self.beats()
            .retain(|node, _| nodes.contains(&node.as_str()));
        for lease in leases {
            self.see(lease, now);
        }
    }

    /// When each agent whose node `exists` was last heard of at `now`; of one that was silent and has been back for less time than
    /// it takes to give up a node, before it fell silent.
    ///
    /// Nodes that fell silent together do not come back at one moment: those that are back first must not make the others look
    /// as if they had fallen silent by themselves.
    ///
    /// Leases outlive their nodes: those that were taken out of the cluster have not fallen silent.
    #[must_use]
    pub fn all(
        &self,
        terms: &Terms,
        now: Timestamp,
        exists: impl Fn(&str) -> bool,
    ) -> Vec<Timestamp> {
        let is_recent = |back: Timestamp| {
            let settled = terms.silent_after.checked_add(terms.grace);
            now.duration_since(back) < settled.unwrap_or(SignedDuration::MAX)
        };
        let beats = self.beats();
        let fell = |beat: &Beat| {
            let (from, to) = beat.gap?;
            (to.duration_since(from) >= terms.silent_after && is_recent(to)).then_some(from)
        };
        beats
            .iter()
            .filter(|(node, _)| exists(node))
            .map(|(_, beat)| fell(beat).unwrap_or(beat.arrived))
            .collect()
    }

    /// How many other agents fell silent within `silent_after` of when the one on `node` did, for as long at least. Those
    /// that are back by now count as well: what they had in common may be what is wrong with this one.
    #[must_use]
    pub fn fell_silent_with(
        &self,
        node: &str,
        silent_after: SignedDuration,
        now: Timestamp,
    ) -> usize {
        let beats = self.beats();
        let is_silence = |from: Timestamp, to: Timestamp| to.duration_since(from) >= silent_after;
        let Some(since) = beats
            .get(node)
            .map(|beat| beat.arrived)
            .filter(|since| is_silence(*since, now))
        else {
            return 0;
        };
        let is_near = |from: Timestamp| from.duration_since(since).abs() <= silent_after;
        beats
            .iter()
            .filter(|(other, _)| other.as_str() != node)
            .filter(|(_, beat)| {
                let present = Some((beat.arrived, now));
                [present, beat.gap]
                    .into_iter()
                    .flatten()
                    .any(|(from, to)| is_silence(from, to) && is_near(from))
            })
            .count()
    }

    /// When the agent on `node` was last heard of.
    #[must_use]
    pub fn last(&self, node: &str) -> Option<Timestamp> {
        self.beats().get(node).map(|beat| beat.arrived)
    }
}

/// The node that a lease speaks for, and when it was renewed in the agent's own view.
fn renewal(lease: &Lease) -> Option<(&str, Timestamp)> {
    let spec = lease.spec.as_ref()?;
    Some((
        spec.holder_identity.as_deref()?,
        spec.renew_time.as_ref()?.0,
    ))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::{
        api::coordination::v1::LeaseSpec, apimachinery::pkg::apis::meta::v1::MicroTime,
    };

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn lease(renewed: i64) -> Lease {
        Lease {
            spec: Some(LeaseSpec {
                holder_identity: Some("n1".into()),
                renew_time: Some(MicroTime(at(renewed))),
                ..LeaseSpec::default()
            }),
            ..Lease::default()
        }
    }

    #[test]
    fn the_first_heartbeat_is_taken_at_the_agents_word_but_never_from_the_future() {
        let beats = Heartbeats::default();
        beats.see(&lease(50), at(100));
        assert_eq!(beats.last("n1"), Some(at(50)));
        let beats = Heartbeats::default();
        beats.see(&lease(500), at(100));
        assert_eq!(beats.last("n1"), Some(at(100)));
        assert_eq!(beats.last("n2"), None);
    }

    #[test]
    fn later_heartbeats_count_when_they_arrive_whatever_the_agents_clock_says() {
        let beats = Heartbeats::default();
        beats.see(&lease(5000), at(100));
        beats.see(&lease(5010), at(110));
        assert_eq!(beats.last("n1"), Some(at(110)));
        beats.see(&lease(20), at(120));
        assert_eq!(beats.last("n1"), Some(at(120)));
    }

    #[test]
    fn a_lease_that_changes_without_a_renewal_is_no_heartbeat() {
        let beats = Heartbeats::default();
        beats.see(&lease(100), at(100));
        beats.see(&lease(100), at(130));
        beats.see_all([&lease(100)], at(140));
        assert_eq!(beats.last("n1"), Some(at(100)));
    }

    #[test]
    fn those_that_fell_silent_together_are_counted_even_when_some_are_back() {
        let beats = Heartbeats::default();
        let of = |node: &str, renewed: i64| {
            let mut lease = lease(renewed);
            if let Some(spec) = &mut lease.spec {
                spec.holder_identity = Some(node.into());
            }
            lease
        };
        for (node, at_second) in [("n1", 100), ("n2", 105), ("n3", 110), ("n4", 20)] {
            beats.see(&of(node, at_second), at(at_second));
        }
        beats.see(&of("n3", 150), at(150));
        beats.see(&of("n5", 155), at(155));
        let with =
            |node: &str| beats.fell_silent_with(node, SignedDuration::from_secs(30), at(160));
        assert_eq!(
            with("n1"),
            2,
            "n2 is silent, n3 was, n4 long before, n5 is new"
        );
        assert_eq!(with("n4"), 0);
        assert_eq!(with("n3"), 0, "it answers");
    }

    #[test]
    fn one_that_is_back_counts_as_silent_for_as_long_as_it_takes_to_give_up_a_node() {
        let all = |beats: &Heartbeats, now: i64| {
            beats.all(&Terms::default(), at(now), |node| node == "n1")
        };
        let beats = Heartbeats::default();
        beats.see(&lease(100), at(100));
        assert_eq!(all(&beats, 200), [at(100)]);
        beats.see(&lease(200), at(200));
        beats.see(&lease(210), at(210));
        assert_eq!(all(&beats, 259), [at(100)]);
        assert_eq!(all(&beats, 260), [at(210)]);
        assert_eq!(beats.last("n1"), Some(at(210)), "it answers all the same");
        let gone = beats.all(&Terms::default(), at(210), |_| false);
        assert!(gone.is_empty(), "its node was taken out of the cluster");
        // Two heartbeats missed are no silence.
        beats.see(&lease(235), at(235));
        assert_eq!(all(&beats, 236), [at(235)]);
    }

    #[test]
    fn a_lease_that_is_gone_is_forgotten() {
        let beats = Heartbeats::default();
        beats.see(&lease(100), at(100));
        beats.see_all([], at(110));
        assert_eq!(beats.last("n1"), None);
    }
}
