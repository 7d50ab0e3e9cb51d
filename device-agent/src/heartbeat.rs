//! Says that the agent lives: a Lease, renewed every [`RENEW_EVERY`]. It does not depend on NVML: a node whose GPUs are
//! silent and one whose agent is gone are different things.
//!
//! A renewal is one merge patch, the cheapest write there is; only where the Lease is missing is it created. It carries
//! the heads of the open evidence chains, so that evidence is never older than a renewal, and what was seen of use by others than
//! jobs. Before it is given, all faults that
//! were seen until its time are told; where they cannot be, it is not given.

use std::time::Duration;

use gridstake_crds::names::{ANNOTATION_EVIDENCE_HEADS, ANNOTATION_LOCAL_USE, heartbeat_lease};
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
    core::ObjectMeta,
};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    backoff::Backoff, local_use::Told, metering::exchange::Heads, outcome::Outcomes,
    telling::Asking,
};

/// Time between two renewals.
pub const RENEW_EVERY: Duration = Duration::from_secs(10);

/// After so many seconds without a renewal the agent counts as silent: three renewals.
pub const LEASE_SECONDS: i32 = 30;

/// A renewal that takes longer is late anyway, and the next one tells the same.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a renewal waits for faults to be told. One that has waited that long is late.
const TELL_TIMEOUT: Duration = Duration::from_secs(10);

/// Why the Lease could not be renewed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refused, or could not be reached.
    #[error("{verb} Lease {name}")]
    Request {
        /// What was tried.
        verb: &'static str,
        /// Which Lease.
        name: String,
        /// Why.
        #[source]
        source: Box<kube::Error>,
    },
    /// The faults that were seen could not be told.
    #[error("renew Lease {name}: faults of GPUs are not published yet, see the task publish")]
    NotTold {
        /// Which Lease.
        name: String,
    },
    /// The API server did not answer.
    #[error("renew Lease {name}: no answer in {} s", REQUEST_TIMEOUT.as_secs())]
    NoAnswer {
        /// Which Lease.
        name: String,
    },
}

/// Renews one node's Lease.
pub struct Heartbeat {
    api: Api<Lease>,
    node: String,
    name: String,
    tidings: Tidings,
    asking: Asking,
}

/// What a renewal tells beside the time.
pub struct Tidings {
    /// The heads of the open evidence chains.
    pub heads: watch::Receiver<Heads>,
    /// Use by others than jobs, once something was seen.
    pub local_use: watch::Receiver<Option<Told>>,
}

impl Tidings {
    /// With these `heads`; the other side says what was seen of use by others.
    #[must_use]
    pub fn with(heads: watch::Receiver<Heads>) -> (watch::Sender<Option<Told>>, Self) {
        let (said, local_use) = watch::channel(None);
        (said, Self { heads, local_use })
    }
}

impl Heartbeat {
    /// The heartbeat of `node`, in `namespace`, with `tidings`, after what `asking` waits for.
    #[must_use]
    pub fn new(
        client: Client,
        namespace: &str,
        node: &str,
        tidings: Tidings,
        asking: Asking,
    ) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            node: node.to_owned(),
            name: heartbeat_lease(node),
            tidings,
            asking,
        }
    }

    /// Renews until `stop`. The Lease is left to run out: the next agent on the node takes it over at once.
    pub async fn run(mut self, mut outcomes: Outcomes, stop: CancellationToken) {
        let mut backoff = Backoff::new(Duration::from_secs(1), RENEW_EVERY);
        loop {
            let beat = tokio::select! {
                () = stop.cancelled() => return,
                beat = self.beat() => beat,
            };
            let wait = match beat {
                Ok(()) => {
                    outcomes.success();
                    backoff.reset();
                    RENEW_EVERY
                }
                Err(error) => {
                    outcomes.failure(&error);
                    backoff.after_failure()
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(wait) => {}
            }
        }
    }

    /// Renews the Lease as of now, once all is told that was seen until now.
    async fn beat(&mut self) -> Result<(), Error> {
        let now = Timestamp::now();
        if timeout(TELL_TIMEOUT, self.asking.all_is_told())
            .await
            .is_err()
        {
            return Err(Error::NotTold {
                name: self.name.clone(),
            });
        }
        let renewed = timeout(REQUEST_TIMEOUT, self.renew(now)).await;
        renewed.unwrap_or_else(|_| {
            Err(Error::NoAnswer {
                name: self.name.clone(),
            })
        })
    }

    async fn renew(&self, now: Timestamp) -> Result<(), Error> {
        let failed = |verb| {
            move |source| Error::Request {
                verb,
                name: self.name.clone(),
                source: Box::new(source),
            }
        };
        let renewal = lease(
            &self.name,
            &self.node,
            &self.tidings.heads.borrow(),
            self.tidings.local_use.borrow().as_ref(),
            now,
        );
        let patch = Patch::Merge(&renewal);
        match self
            .api
            .patch(&self.name, &PatchParams::default(), &patch)
            .await
        {
            Err(kube::Error::Api(status)) if status.is_not_found() => {
                let mut first = renewal;
                if let Some(spec) = &mut first.spec {
                    spec.acquire_time = Some(MicroTime(now));
                }
                self.api
                    .create(&PostParams::default(), &first)
                    .await
                    .map_err(failed("create"))?;
            }
            answer => {
                answer.map_err(failed("renew"))?;
            }
        }
        Ok(())
    }
}

/// The Lease as a renewal at `now` wants it: everything the operator reads, so that a renewal also mends it.
fn lease(name: &str, node: &str, heads: &Heads, local_use: Option<&Told>, now: Timestamp) -> Lease {
    // Names and numbers: they can be told as JSON.
    let heads = serde_json::to_string(heads).unwrap_or_default();
    // Empty where nothing was seen yet: what an agent before this one said must not stand.
    let local_use = local_use
        .and_then(|told| serde_json::to_string(told).ok())
        .unwrap_or_default();
    Lease {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            annotations: Some(
                [
                    (ANNOTATION_EVIDENCE_HEADS.to_owned(), heads),
                    (ANNOTATION_LOCAL_USE.to_owned(), local_use),
                ]
                .into(),
            ),
            labels: Some(
                [
                    ("app.kubernetes.io/component", "device-agent"),
                    ("app.kubernetes.io/part-of", "gridstake"),
                ]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
            ),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(node.to_owned()),
            lease_duration_seconds: Some(LEASE_SECONDS),
            renew_time: Some(MicroTime(now)),
            ..LeaseSpec::default()
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metering::exchange::Head;

    #[test]
    fn a_lease_outlives_two_missed_renewals() {
        let seconds = u64::try_from(LEASE_SECONDS).unwrap();
        assert!(seconds > 2 * RENEW_EVERY.as_secs());
    }

    #[test]
    fn a_renewal_says_whose_lease_it_is_and_since_when() {
        let head = Head {
            head: "0xab".to_owned(),
            to_ms: 5,
        };
        let heads = Heads::from([("u-1-0-0".to_owned(), head)]);
        let now: Timestamp = "2027-01-31T22:00:00Z".parse().unwrap();
        let body = serde_json::to_value(lease("agent-a", "a", &heads, None, now)).unwrap();
        assert_eq!(body["spec"]["holderIdentity"], "a");
        assert_eq!(body["spec"]["renewTime"], "2027-01-31T22:00:00.000000Z");
        assert_eq!(
            body["metadata"]["labels"]["app.kubernetes.io/component"],
            "device-agent"
        );
        assert_eq!(
            body["metadata"]["annotations"]["gridstake.dev/evidence-heads"],
            r#"{"u-1-0-0":{"head":"0xab","toMs":5}}"#
        );
        assert_eq!(
            body["metadata"]["annotations"]["gridstake.dev/local-use"],
            ""
        );
        assert!(
            body["spec"].get("acquireTime").is_none(),
            "a renewal leaves it as it is"
        );
    }
}
