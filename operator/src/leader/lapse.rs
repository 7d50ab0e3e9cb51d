//! Whether the API server may have lost what was written to it. Pure.
//!
//! The lease is written every few seconds, so after a restore from a backup it is as old as the backup. A lease that went
//! back, or that nobody has renewed for longer than a change of leaders takes, shows since when writes may be missing. A
//! replica that saw the last renewal when it was made, and finds it unchanged, knows that none are: then the API server or the
//! operator was away, and nothing else.

use std::time::Duration;

use gridstake_crds::names::ANNOTATION_LAPSE;
use k8s_openapi::{
    api::coordination::v1::Lease,
    jiff::{SignedDuration, Timestamp},
};
use kube::ResourceExt as _;

use super::Terms;

/// A span of which what was written to the API server may be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lapse {
    /// The last renewal of the lease that the API server knew when the span was found. What was written before is there.
    pub from: Timestamp,
    /// When it was found: what is written from then on is there, until the next lapse.
    pub until: Timestamp,
}

impl Lapse {
    /// The newest lapse that `lease` tells of.
    #[must_use]
    pub fn of(lease: &Lease) -> Option<Self> {
        let (from, until) = lease.annotations().get(ANNOTATION_LAPSE)?.split_once('/')?;
        Some(Self {
            from: from.parse().ok()?,
            until: until.parse().ok()?,
        })
    }

    /// What the lease says of it.
    #[must_use]
    pub fn text(&self) -> String {
        format!("{}/{}", self.from, self.until)
    }

    /// How long the span is; nothing if the clocks disagree.
    #[must_use]
    pub fn length(&self) -> Duration {
        Duration::try_from(self.until.duration_since(self.from)).unwrap_or(Duration::ZERO)
    }
}

/// When the lease was last renewed, by the clock of who did.
#[must_use]
pub fn renewal(lease: &Lease) -> Option<Timestamp> {
    Some(lease.spec.as_ref()?.renew_time.as_ref()?.0)
}

/// For how long nobody renews the lease at most when one leader takes over from another, with room for slow writes.
#[must_use]
pub fn patience(terms: &Terms) -> Duration {
    terms.lease_duration.saturating_mul(4)
}

/// Whether a renewal of this time is of just now, so that whoever sees it at `now` knows that nothing has come after it.
#[must_use]
pub fn is_fresh(renewed: Timestamp, now: Timestamp, patience: Duration) -> bool {
    now.duration_since(renewed) <= SignedDuration::try_from(patience).unwrap_or(SignedDuration::MAX)
}

/// The lapse before the lease is written again at `now`, if there is one. `renewed` is when it was last renewed as the API
/// server has it; `known`, the last renewal that this replica saw when it was fresh, its own included.
#[must_use]
pub fn lapse(
    renewed: Option<Timestamp>,
    known: Option<Timestamp>,
    now: Timestamp,
    patience: Duration,
) -> Option<Lapse> {
    // Without a lease nothing was ever done under one, or somebody has deleted it, which loses nothing else.
    let from = renewed?;
    let went_back = known.is_some_and(|known| from < known);
    let is_unknown = known != Some(from);
    (went_back || (is_unknown && !is_fresh(from, now, patience)))
        .then_some(Lapse { from, until: now })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_mins(1);

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    #[test]
    fn writes_may_be_missing_if_the_lease_went_back_or_nobody_saw_it_renewed_for_longer_than_a_change_of_leaders()
     {
        let found = |from| {
            Some(Lapse {
                from: at(from),
                until: at(1000),
            })
        };
        for (renewed, known, expected) in [
            // The first replica ever, or the lease was deleted.
            (None, None, None),
            (None, Some(990), None),
            // A leader that renews, a standby that takes over, a replica that has just started.
            (Some(998), Some(998), None),
            (Some(985), Some(985), None),
            (Some(985), None, None),
            (Some(940), None, None),
            // By a clock that is ahead.
            (Some(1030), None, None),
            // Nobody led for longer, and this replica was not there.
            (Some(939), None, found(939)),
            (Some(0), None, found(0)),
            // It was there and saw the last renewal: the API server was away, and is as it was.
            (Some(0), Some(0), None),
            // It saw an earlier one only.
            (Some(100), Some(50), found(100)),
            // It saw a later one: the API server was restored, however young the backup is.
            (Some(995), Some(998), found(995)),
            (Some(0), Some(998), found(0)),
        ] {
            let got = lapse(renewed.map(at), known.map(at), at(1000), PATIENCE);
            assert_eq!(got, expected, "{renewed:?} {known:?}");
        }
    }

    #[test]
    fn what_a_lease_says_of_a_lapse_is_read_back() {
        let lapse = Lapse {
            from: at(0),
            until: at(3600),
        };
        let mut lease = Lease::default();
        assert_eq!(Lapse::of(&lease), None);
        let said = (ANNOTATION_LAPSE.to_owned(), lapse.text());
        lease.annotations_mut().extend([said]);
        assert_eq!(Lapse::of(&lease), Some(lapse));
        assert_eq!(lapse.length(), Duration::from_hours(1));
        for broken in ["", "now", "now/then"] {
            let said = (ANNOTATION_LAPSE.to_owned(), broken.to_owned());
            lease.annotations_mut().extend([said]);
            assert_eq!(Lapse::of(&lease), None);
        }
    }
}
