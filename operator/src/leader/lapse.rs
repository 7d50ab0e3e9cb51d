//! Whether the API server may have lost what was written to it. Pure.
//!
//! The lease is written every few seconds, so after a restore from a backup it is as old as the backup. A lease that went
//! back, or that nobody has renewed for longer than a change of leaders takes, shows since when writes may be missing. A
//! replica that saw the last renewal when it was made, and finds it unchanged, knows that none are: then the API server or the
//! operator was away, and nothing else.
//!
//! A leader that was killed meanwhile and started again takes the lease at once, since its name is in it, and knows of nothing. So
//! each renewal says which one it follows: a replica that has seen a later one than that knows that this is lost, and says so in the
//! lease of the other one.

use std::time::Duration;

use gridstake_crds::names::ANNOTATION_LAPSE;
use k8s_openapi::{
    api::coordination::v1::Lease,
    jiff::{SignedDuration, Timestamp},
};
use kube::ResourceExt as _;

use super::Terms;

/// In the lease: which renewal its last write followed, and which it made; as `<renewal>/<renewal>`. What an operator of a former
/// version has renewed since does not bear the second one, and says nothing.
pub const ANNOTATION_FOLLOWS: &str = "gridstake.dev/follows";

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

/// What the lease says of a renewal `now` that follows the one that it shows.
#[must_use]
pub fn follows(before: Option<&Lease>, now: Timestamp) -> Option<(String, String)> {
    let before = renewal(before?)?;
    Some((
        ANNOTATION_FOLLOWS.to_owned(),
        format!("{before:.6}/{now:.6}"),
    ))
}

/// The renewal that the lease's last one followed, if it says so.
fn followed(lease: &Lease) -> Option<Timestamp> {
    let (before, now) = lease
        .annotations()
        .get(ANNOTATION_FOLLOWS)?
        .split_once('/')?;
    let is_its_own = now.parse().ok() == renewal(lease);
    before.parse().ok().filter(|_| is_its_own)
}

/// The lapse that a replica sees in the lease of another one at `now`. It has seen the renewal `known`, and the lease is older than
/// that or goes on from an older one: whoever holds it may have just started, and cannot know. `None` if the lease tells of it.
#[must_use]
pub fn missed(lease: &Lease, known: Option<Timestamp>, now: Timestamp) -> Option<Lapse> {
    let (known, renewed) = (known?, renewal(lease)?);
    let from = if renewed < known {
        renewed
    } else {
        followed(lease).filter(|before| *before < known && known < renewed)?
    };
    let is_told = Lapse::of(lease).is_some_and(|told| told.until > known);
    (!is_told).then_some(Lapse { from, until: now })
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
    use k8s_openapi::{
        api::coordination::v1::LeaseSpec, apimachinery::pkg::apis::meta::v1::MicroTime,
    };

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

    /// A lease that was renewed at `renewed` on top of the renewal `before`, and bears what was said at `said`.
    fn lease(before: i64, renewed: i64, said: i64) -> Lease {
        let mut lease = Lease::default();
        let shown = |seconds| Lease {
            spec: Some(LeaseSpec {
                renew_time: Some(MicroTime(at(seconds))),
                ..LeaseSpec::default()
            }),
            ..Lease::default()
        };
        lease.spec = shown(renewed).spec;
        lease
            .annotations_mut()
            .extend(follows(Some(&shown(before)), at(said)));
        lease
    }

    #[test]
    fn who_has_seen_a_renewal_that_the_lease_does_not_go_on_from_knows_that_it_is_lost() {
        let lapse = |from| {
            Some(Lapse {
                from: at(from),
                until: at(1000),
            })
        };
        let missed = |lease: &Lease, known: Option<i64>| missed(lease, known.map(at), at(1000));
        // Renewal after renewal, all of them seen or not.
        for known in [None, Some(980), Some(985), Some(990)] {
            assert_eq!(missed(&lease(985, 990, 990), known), None, "{known:?}");
        }
        // It is as it was, and somebody has gone on from there who has just started.
        assert_eq!(missed(&lease(895, 900, 900), Some(950)), lapse(900));
        assert_eq!(missed(&lease(900, 990, 990), Some(950)), lapse(900));
        // The last renewal is of an operator that does not say what it follows.
        assert_eq!(missed(&lease(900, 990, 940), Some(950)), None);
        // It tells of it, or of an earlier one.
        for (until, expected) in [(960, None), (940, lapse(900))] {
            let mut told = lease(900, 990, 990);
            let known = Lapse {
                from: at(900),
                until: at(until),
            };
            told.annotations_mut()
                .extend([(ANNOTATION_LAPSE.to_owned(), known.text())]);
            assert_eq!(missed(&told, Some(950)), expected);
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
