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
use k8s_openapi::{api::coordination::v1::Lease, jiff::Timestamp};
use kube::ResourceExt as _;

/// Arrival times of heartbeats, by node.
#[derive(Clone, Debug, Default)]
pub struct Heartbeats(Arc<Mutex<HashMap<String, Beat>>>);

#[derive(Clone, Debug)]
struct Beat {
    /// What the agent wrote.
    renewed: Timestamp,
    /// When it was seen.
    arrived: Timestamp,
    /// What it says of use by others than jobs.
    local_use: Option<String>,
}

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
                local_use: says.cloned(),
            };
            beats.insert(node.to_owned(), first);
            return true;
        };
        if beat.renewed != renewed {
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

    /// When each agent was last heard of.
    #[must_use]
    pub fn all(&self) -> Vec<Timestamp> {
        self.beats().values().map(|beat| beat.arrived).collect()
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
    fn a_lease_that_is_gone_is_forgotten() {
        let beats = Heartbeats::default();
        beats.see(&lease(100), at(100));
        beats.see_all([], at(110));
        assert_eq!(beats.last("n1"), None);
    }
}
