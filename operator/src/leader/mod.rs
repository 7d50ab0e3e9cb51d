//! Leader election by a `Lease` and compare-and-swap.

mod bid;
pub mod lapse;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use gridstake_crds::names::ANNOTATION_LAPSE;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::{
    Api, ResourceExt as _,
    api::{ObjectMeta, PostParams},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use bid::{Bid, Sighting, Terms, bid};
pub use lapse::Lapse;

use crate::{
    error::{chain, is_conflict, is_not_found},
    metrics::Metrics,
};

/// The name of the leader's lease.
pub const LEASE: &str = "gridstake-operator";

/// Whether this replica leads, and until when without a renewal; and what may be missing of what leaders wrote.
#[derive(Clone, Debug)]
pub struct Leadership {
    until: watch::Receiver<Option<Instant>>,
    renewed: watch::Receiver<Option<Instant>>,
    lapse: watch::Receiver<Option<Lapse>>,
}

impl Leadership {
    /// A leadership that nobody contests, for `--leader-elect=false`. Without a lease no lapse is found.
    #[must_use]
    pub fn uncontested() -> Self {
        Self::uncontested_after(None)
    }

    /// A leadership that nobody contests, and that began with this lapse.
    #[must_use]
    pub fn uncontested_after(lapse: Option<Lapse>) -> Self {
        let far = Instant::now() + Duration::from_hours(24 * 365 * 100);
        Self {
            until: watch::channel(Some(far)).1,
            renewed: watch::channel(Some(far)).1,
            lapse: watch::channel(lapse).1,
        }
    }

    /// The newest span of which what was written to the API server may be lost. Known before this replica leads.
    #[must_use]
    pub fn lapse(&self) -> Option<Lapse> {
        *self.lapse.borrow()
    }

    /// Whether the lease was renewed after this moment (`None`: at all), and so a lapse until then is told by [`Self::lapse`].
    #[must_use]
    pub fn is_renewed_since(&self, moment: Option<Instant>) -> bool {
        let renewed = *self.renewed.borrow();
        renewed.is_some_and(|renewed| moment.is_none_or(|moment| moment < renewed))
    }

    /// Whether this replica leads at this instant. Ask before a write that two leaders must not both make.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.until
            .borrow()
            .is_some_and(|until| Instant::now() < until)
    }

    /// Waits until this replica leads.
    pub async fn acquired(&self) {
        // An error means that the elector has ended: this replica will never lead.
        if self.until.clone().wait_for(Option::is_some).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Why the elector ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The lease was lost: another may take over once the rest of its duration has passed.
    Lost,
    /// It was told to stop. If this replica led, the lease has been released.
    Stopped,
}

/// Why one bid came to nothing.
#[derive(Debug, thiserror::Error)]
enum BidError {
    #[error("{verb} Lease {LEASE}")]
    Api {
        verb: &'static str,
        #[source]
        source: Box<kube::Error>,
    },
    #[error("no answer within {0:?}")]
    Timeout(Duration),
}

/// The time as the API server keeps it.
fn micros(time: Timestamp) -> Timestamp {
    Timestamp::from_microsecond(time.as_microsecond()).unwrap_or(time)
}

/// One replica's part in the election.
pub struct Elector {
    api: Api<Lease>,
    identity: String,
    terms: Terms,
    metrics: Metrics,
    seen: Option<Sighting>,
    holder: Option<String>,
    /// The last renewal that was seen while it was fresh.
    known: Option<Timestamp>,
    /// A lapse that was seen in the lease of another, and that it does not tell of yet.
    unsaid: Option<Lapse>,
    leads_until: watch::Sender<Option<Instant>>,
    /// When the last renewal was sent that was written.
    renewed: watch::Sender<Option<Instant>>,
    lapse: watch::Sender<Option<Lapse>>,
}

impl Elector {
    /// A candidate named `identity`, which must be unique among replicas.
    #[must_use]
    pub fn new(api: Api<Lease>, identity: String, terms: Terms, metrics: Metrics) -> Self {
        Self {
            api,
            identity,
            terms,
            metrics,
            seen: None,
            holder: None,
            known: None,
            unsaid: None,
            leads_until: watch::channel(None).0,
            renewed: watch::channel(None).0,
            lapse: watch::channel(None).0,
        }
    }

    /// The handle by which others learn whether this replica leads.
    #[must_use]
    pub fn leadership(&self) -> Leadership {
        Leadership {
            until: self.leads_until.subscribe(),
            renewed: self.renewed.subscribe(),
            lapse: self.lapse.subscribe(),
        }
    }

    /// Takes part until the lease is lost or `stop` is cancelled; then releases it.
    pub async fn run(mut self, stop: CancellationToken) -> Ended {
        loop {
            self.attempt().await;
            let until = *self.leads_until.borrow();
            if until.is_some_and(|until| Instant::now() >= until) {
                self.resign();
                tracing::error!(
                    "lost the lease: no renewal within {:?}",
                    self.terms.renew_deadline
                );
                return Ended::Lost;
            }
            if self.lost_to_another() {
                self.resign();
                tracing::error!(holder = self.holder, "lost the lease to another replica");
                return Ended::Lost;
            }
            // A leader must notice the end of its term, and a standby that of another's, even when that comes before
            // the next bid.
            let end = until.or_else(|| self.seen.as_ref().map(|seen| seen.free_at(&self.terms)));
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            let pause = left
                .filter(|left| !left.is_zero())
                .map_or(self.terms.retry_period, |left| {
                    left.min(self.terms.retry_period)
                });
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => {
                    self.release().await;
                    return Ended::Stopped;
                }
            }
        }
    }

    fn leads(&self) -> bool {
        self.leads_until.borrow().is_some()
    }

    fn lost_to_another(&self) -> bool {
        self.leads()
            && self
                .seen
                .as_ref()
                .and_then(Sighting::holder)
                .is_some_and(|holder| holder != self.identity)
    }

    fn resign(&self) {
        self.leads_until.send_replace(None);
        self.metrics.set_leader(false);
    }

    /// One bid, bounded so that a hanging request leaves time for another before the term ends.
    async fn attempt(&mut self) {
        let limit = self.terms.renew_deadline / 2;
        let limit = self.leads_until.borrow().map_or(limit, |until| {
            limit.min(until.saturating_duration_since(Instant::now()))
        });
        let outcome = match tokio::time::timeout(limit, self.step()).await {
            Ok(outcome) => outcome,
            Err(_) => Err(BidError::Timeout(limit)),
        };
        if let Err(error) = outcome {
            // What the server holds now is unknown: look before the next bid.
            self.seen = self.seen.take().filter(|_| !self.leads());
            tracing::warn!(
                error = chain(&error),
                leads = self.leads(),
                "bid for the lease failed"
            );
        }
    }

    async fn step(&mut self) -> Result<(), BidError> {
        // The leader writes at once with the version that it wrote last; only a refusal makes it look.
        if !self.leads() || self.seen.is_none() {
            self.look().await?;
        }
        let choice = bid(
            self.seen.as_ref(),
            &self.identity,
            &self.terms,
            Instant::now(),
        );
        let sent = Instant::now();
        let wanted = self.lease(micros(Timestamp::now()));
        let written = match choice {
            Bid::Wait => return self.say_what_is_unsaid().await,
            Bid::Create => self.api.create(&PostParams::default(), &wanted).await,
            Bid::Renew | Bid::Take => {
                self.api
                    .replace(LEASE, &PostParams::default(), &wanted)
                    .await
            }
        };
        match written {
            Ok(lease) => {
                // Before anything is done as the leader.
                self.tell_of_lapse(Lapse::of(&wanted));
                self.renewed.send_replace(Some(sent));
                self.known = lapse::renewal(&lease);
                self.unsaid = None;
                self.see(Some(lease));
                self.lead_until(sent + self.terms.renew_deadline);
                Ok(())
            }
            // Somebody else was faster, or the lease was deleted. The next bid looks first.
            Err(kube::Error::Api(status))
                if status.is_conflict() || status.is_already_exists() || status.is_not_found() =>
            {
                self.look().await
            }
            Err(source) => Err(BidError::Api {
                verb: "write",
                source: Box::new(source),
            }),
        }
    }

    /// Writes into the lease of another replica that renewals are lost which this one has seen. Its next write is refused then, and
    /// it reads that.
    async fn say_what_is_unsaid(&mut self) -> Result<(), BidError> {
        let (Some(lapse), Some(seen)) = (self.unsaid, &self.seen) else {
            return Ok(());
        };
        let mut lease = seen.lease.clone();
        let said = (ANNOTATION_LAPSE.to_owned(), lapse.text());
        lease.annotations_mut().extend([said]);
        let written = self
            .api
            .replace(LEASE, &PostParams::default(), &lease)
            .await;
        match written {
            Ok(lease) => {
                tracing::warn!(
                    from = %lapse.from,
                    until = %lapse.until,
                    "the lease does not go on from what this replica has seen: it says so to the leader"
                );
                self.unsaid = None;
                self.see(Some(lease));
                Ok(())
            }
            Err(error) if is_conflict(&error) || is_not_found(&error) => self.look().await,
            Err(source) => Err(BidError::Api {
                verb: "write",
                source: Box::new(source),
            }),
        }
    }

    async fn look(&mut self) -> Result<(), BidError> {
        let lease = self
            .api
            .get_opt(LEASE)
            .await
            .map_err(|source| BidError::Api {
                verb: "read",
                source: Box::new(source),
            })?;
        self.see(lease);
        Ok(())
    }

    fn tell_of_lapse(&self, found: Option<Lapse>) {
        let is_new = |lapse: &Lapse| *self.lapse.borrow() != Some(*lapse);
        if let Some(lapse) = found.filter(is_new) {
            self.lapse.send_replace(found);
            tracing::warn!(
                from = %lapse.from,
                until = %lapse.until,
                "the lease was not renewed in this span, or not as it was: what was written in it may be lost"
            );
        }
    }

    fn see(&mut self, lease: Option<Lease>) {
        let patience = lapse::patience(&self.terms);
        if !self.leads() {
            let now = Timestamp::now();
            let missed = lease
                .as_ref()
                .and_then(|lease| lapse::missed(lease, self.known, now));
            self.unsaid = missed.or(self.unsaid);
        }
        let fresh = lease
            .as_ref()
            .and_then(lapse::renewal)
            .filter(|renewed| lapse::is_fresh(*renewed, Timestamp::now(), patience));
        // One that is older than what is known is not what it was: that is kept until the lease is written.
        if fresh > self.known {
            self.known = fresh;
        }
        let before = self.seen.take();
        self.seen = lease.map(|lease| Sighting::update(before, lease, Instant::now()));
        let holder = self
            .seen
            .as_ref()
            .and_then(Sighting::holder)
            .map(str::to_owned);
        if holder != self.holder {
            tracing::info!(holder, "the lease has a new holder");
            self.holder = holder;
        }
    }

    fn lead_until(&self, until: Instant) {
        if !self.leads() {
            tracing::info!(identity = self.identity, "this replica leads");
            self.metrics.set_leader(true);
        }
        self.leads_until.send_replace(Some(until));
    }

    /// The lease in this candidate's name, at the resourceVersion that was seen. If writes may be missing it says so, in the
    /// same write by which this candidate comes to lead, so that no leader after it can take that for a renewal.
    fn lease(&self, now: Timestamp) -> Lease {
        let before = self.seen.as_ref().map(|seen| &seen.lease);
        let lapse = lapse::lapse(
            before.and_then(lapse::renewal),
            self.known,
            now,
            lapse::patience(&self.terms),
        );
        let follows = lapse::follows(before, now);
        let now = MicroTime(now);
        let spec = before
            .and_then(|lease| lease.spec.clone())
            .unwrap_or_default();
        let held = spec.holder_identity.as_deref() == Some(&self.identity);
        let transitions = spec.lease_transitions.unwrap_or(0);
        let mut lease = Lease {
            metadata: before.map_or_else(
                || ObjectMeta {
                    name: Some(LEASE.to_owned()),
                    ..ObjectMeta::default()
                },
                |lease| lease.metadata.clone(),
            ),
            spec: Some(LeaseSpec {
                holder_identity: Some(self.identity.clone()),
                lease_duration_seconds: i32::try_from(self.terms.lease_duration.as_secs()).ok(),
                acquire_time: spec
                    .acquire_time
                    .filter(|_| held)
                    .or_else(|| Some(now.clone())),
                renew_time: Some(now),
                lease_transitions: Some(if held || before.is_none() {
                    transitions
                } else {
                    transitions.saturating_add(1)
                }),
                ..spec
            }),
        };
        let said = lapse.map(|lapse| (ANNOTATION_LAPSE.to_owned(), lapse.text()));
        let said = said.into_iter().chain(follows);
        lease.annotations_mut().extend(said);
        lease
    }

    /// Empties the lease, so that a standby takes over at once. Best effort: else it waits out the lease's duration.
    async fn release(&mut self) {
        if !self.leads() {
            return;
        }
        self.resign();
        let Some(seen) = self.seen.take() else { return };
        let now = micros(Timestamp::now());
        let follows = lapse::follows(Some(&seen.lease), now);
        let mut lease = seen.lease;
        lease.annotations_mut().extend(follows);
        let spec = lease.spec.get_or_insert_default();
        spec.holder_identity = None;
        spec.renew_time = Some(MicroTime(now));
        let parameters = PostParams::default();
        let write = self.api.replace(LEASE, &parameters, &lease);
        match tokio::time::timeout(self.terms.retry_period, write).await {
            Ok(Ok(_)) => tracing::info!("released the lease"),
            Ok(Err(error)) if is_conflict(&error) || is_not_found(&error) => {}
            Ok(Err(error)) => tracing::warn!(error = %error, "could not release the lease"),
            Err(_) => tracing::warn!("could not release the lease in time"),
        }
    }
}
