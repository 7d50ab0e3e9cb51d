//! What a candidate may do about the lease: pure, on the candidate's own monotonic clock.
//!
//! # Why no two replicas believe that they lead
//! A holder believes for `renew_deadline` from *before* it sent its last successful write. Another takes the lease only
//! after it has itself *seen* the lease unchanged for `lease_duration`, counted from when it first saw that write, which
//! was after it was sent. Since `renew_deadline < lease_duration`, the holder has stopped by then. No two clocks are
//! compared. Of two that bid at once, the API server takes one: each write carries the resourceVersion it was read at.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;

/// The three times of an election.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// For how long a lease that does not change keeps others out.
    pub lease_duration: Duration,
    /// For how long the holder works on without a successful renewal.
    pub renew_deadline: Duration,
    /// Pause between two bids.
    pub retry_period: Duration,
}

/// What a candidate may do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bid {
    /// There is no lease: create it in the own name.
    Create,
    /// The own name is in it: write it again.
    Renew,
    /// Nobody holds it, or the holder has been silent for the lease's duration: write the own name into it.
    Take,
    /// Somebody else holds it.
    Wait,
}

/// A lease as a candidate has seen it.
#[derive(Clone, Debug, PartialEq)]
pub struct Sighting {
    /// The lease, with the resourceVersion at which it was read.
    pub lease: Lease,
    /// When the candidate first saw it at that resourceVersion, on its own clock.
    pub unchanged_since: Instant,
}

impl Sighting {
    /// The sighting after the lease has been read again at `now`.
    #[must_use]
    pub fn update(before: Option<Self>, lease: Lease, now: Instant) -> Self {
        let unchanged_since = before
            .filter(|before| {
                before.lease.metadata.resource_version == lease.metadata.resource_version
                    && before.lease.metadata.uid == lease.metadata.uid
            })
            .map_or(now, |before| before.unchanged_since);
        Self {
            lease,
            unchanged_since,
        }
    }

    /// Who holds the lease; nobody after it was released.
    #[must_use]
    pub fn holder(&self) -> Option<&str> {
        self.lease
            .spec
            .as_ref()?
            .holder_identity
            .as_deref()
            .filter(|holder| !holder.is_empty())
    }

    /// When others may take the lease if it does not change before.
    ///
    /// The longer of the holder's and the own duration counts: a replica with a changed flag must not cut another's
    /// term short.
    #[must_use]
    pub fn free_at(&self, terms: &Terms) -> Instant {
        let spec = self.lease.spec.as_ref();
        let asked = spec.and_then(|spec| u64::try_from(spec.lease_duration_seconds?).ok());
        let asked = asked.map_or(Duration::ZERO, Duration::from_secs);
        self.unchanged_since + asked.max(terms.lease_duration)
    }
}

/// What the candidate `me` may do about the lease at `now`.
#[must_use]
pub fn bid(seen: Option<&Sighting>, me: &str, terms: &Terms, now: Instant) -> Bid {
    let Some(seen) = seen else { return Bid::Create };
    match seen.holder() {
        None => Bid::Take,
        Some(holder) if holder == me => Bid::Renew,
        Some(_) if now >= seen.free_at(terms) => Bid::Take,
        Some(_) => Bid::Wait,
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::coordination::v1::LeaseSpec;
    use kube::api::ObjectMeta;

    use super::*;

    const TERMS: Terms = Terms {
        lease_duration: Duration::from_secs(15),
        renew_deadline: Duration::from_secs(10),
        retry_period: Duration::from_secs(2),
    };

    fn lease(holder: Option<&str>, version: &str, seconds: Option<i32>) -> Lease {
        Lease {
            metadata: ObjectMeta {
                resource_version: Some(version.into()),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: holder.map(Into::into),
                lease_duration_seconds: seconds,
                ..LeaseSpec::default()
            }),
        }
    }

    #[test]
    fn bids_follow_holder_and_silence() {
        let start = Instant::now();
        for (holder, seconds, silent, expected) in [
            (Some("me"), Some(15), 0, Bid::Renew),
            (Some("me"), Some(15), 60, Bid::Renew),
            (Some("you"), Some(15), 0, Bid::Wait),
            (Some("you"), Some(15), 14, Bid::Wait),
            (Some("you"), Some(15), 15, Bid::Take),
            (Some("you"), Some(60), 59, Bid::Wait),
            (Some("you"), Some(60), 60, Bid::Take),
            (Some("you"), Some(1), 14, Bid::Wait),
            (Some("you"), None, 14, Bid::Wait),
            (Some("you"), None, 15, Bid::Take),
            (Some("you"), Some(-5), 14, Bid::Wait),
            (Some(""), Some(15), 0, Bid::Take),
            (None, None, 0, Bid::Take),
        ] {
            let seen = Sighting::update(None, lease(holder, "1", seconds), start);
            let now = start + Duration::from_secs(silent);
            assert_eq!(
                bid(Some(&seen), "me", &TERMS, now),
                expected,
                "{holder:?} {seconds:?} {silent}"
            );
        }
        assert_eq!(bid(None, "me", &TERMS, start), Bid::Create);
    }

    #[test]
    fn silence_counts_from_the_last_change_that_was_seen() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let first = Sighting::update(None, lease(Some("you"), "1", None), at(0));
        let same = Sighting::update(Some(first.clone()), lease(Some("you"), "1", None), at(10));
        assert_eq!(same.unchanged_since, at(0));
        let renewed = Sighting::update(Some(same), lease(Some("you"), "2", None), at(14));
        assert_eq!(renewed.unchanged_since, at(14));
        assert_eq!(bid(Some(&renewed), "me", &TERMS, at(28)), Bid::Wait);
        assert_eq!(bid(Some(&renewed), "me", &TERMS, at(29)), Bid::Take);
    }
}
