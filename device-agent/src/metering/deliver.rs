//! Delivers evidence: one server-side apply of `status.evidence` per record, only when it says something new. What
//! cannot be delivered is tried again until it is, or its record is sealed or gone.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use gridstake_crds::{UsageRecord, names::MANAGER_AGENT, usage_record::Evidence};
use kube::{
    Api, Client, Resource as _,
    api::{ApiResource, DynamicObject, Patch, PatchParams},
};
use serde_json::json;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::trouble::Trouble;
use crate::{
    backoff::Backoff,
    outcome::{Outcomes, chain},
};

/// Longer than any healthy API server takes for one small object.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Why evidence was not delivered.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refused, or could not be reached.
    #[error("apply the evidence of UsageRecord {record}")]
    Request {
        /// Which record.
        record: String,
        /// Why.
        #[source]
        source: Box<kube::Error>,
    },
    /// The API server did not answer.
    #[error("apply the evidence of UsageRecord {record}: no answer in {} s", REQUEST_TIMEOUT.as_secs())]
    NoAnswer {
        /// Which record.
        record: String,
    },
}

impl Error {
    /// The API server's word against this evidence, if it gave one: others may still be accepted.
    fn refusal(&self) -> Option<&kube::core::Status> {
        match self {
            Self::Request { source, .. } => match source.as_ref() {
                kube::Error::Api(status) => Some(status),
                _ => None,
            },
            Self::NoAnswer { .. } => None,
        }
    }
}

/// What a record should say.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The evidence.
    pub evidence: Arc<Evidence>,
    /// Whether the API server holds it already.
    pub is_published: bool,
}

/// The heads that the API server holds, by record.
pub type Delivered = BTreeMap<String, String>;

/// Delivers evidence in one namespace.
pub struct Deliverer {
    api: Api<DynamicObject>,
    known: BTreeMap<String, Arc<Evidence>>,
    delivered: watch::Sender<Delivered>,
    trouble: watch::Sender<Trouble>,
    outcomes: Outcomes,
}

impl Deliverer {
    /// A deliverer that shows in `delivered` how far it is.
    #[must_use]
    pub fn new(
        client: Client,
        namespace: &str,
        delivered: watch::Sender<Delivered>,
        trouble: watch::Sender<Trouble>,
        outcomes: Outcomes,
    ) -> Self {
        let resource = ApiResource::erase::<UsageRecord>(&());
        Self {
            api: Api::namespaced_with(client, namespace, &resource),
            known: BTreeMap::new(),
            delivered,
            trouble,
            outcomes,
        }
    }

    /// Delivers what is `wanted` whenever it changes, until `stop`.
    pub async fn run(
        mut self,
        mut wanted: watch::Receiver<BTreeMap<String, Wanted>>,
        stop: CancellationToken,
    ) {
        let mut backoff = Backoff::STANDARD;
        loop {
            let latest = wanted.borrow_and_update().clone();
            let again = if self.deliver(&latest).await {
                backoff.reset();
                None
            } else {
                Some(backoff.after_failure())
            };
            let retry = async {
                match again {
                    Some(wait) => sleep(wait).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                changed = wanted.changed() => if changed.is_err() { return },
                () = retry => {}
            }
        }
    }

    /// True if nothing is left to deliver.
    async fn deliver(&mut self, wanted: &BTreeMap<String, Wanted>) -> bool {
        self.known.retain(|record, _| wanted.contains_key(record));
        let mut refused = None;
        let mut all = true;
        for (record, wanted) in wanted {
            if self.known.get(record) == Some(&wanted.evidence) {
                continue;
            }
            if !wanted.is_published {
                match self.apply(record, &wanted.evidence).await {
                    Ok(()) => self.outcomes.success(),
                    Err(error) => {
                        self.outcomes.failure(&error);
                        all = false;
                        if error.refusal().is_none() {
                            break;
                        }
                        refused = Some(chain(&error));
                        continue;
                    }
                }
            }
            self.known
                .insert(record.clone(), Arc::clone(&wanted.evidence));
        }
        let heads = |(record, evidence): (&String, &Arc<Evidence>)| {
            let last = evidence.checkpoints.last()?;
            Some((record.clone(), last.head.clone()))
        };
        self.delivered
            .send_replace(self.known.iter().filter_map(heads).collect());
        self.trouble
            .send_if_modified(|trouble| trouble.set(|t| &mut t.delivery, refused));
        all
    }

    async fn apply(&self, record: &str, evidence: &Evidence) -> Result<(), Error> {
        let body = json!({
            "apiVersion": UsageRecord::api_version(&()),
            "kind": UsageRecord::kind(&()),
            "metadata": { "name": record },
            "status": { "evidence": evidence },
        });
        let params = PatchParams::apply(MANAGER_AGENT).force();
        let patch = Patch::Apply(&body);
        let applied = timeout(
            REQUEST_TIMEOUT,
            self.api.patch_status(record, &params, &patch),
        )
        .await;
        match applied {
            Ok(Ok(_)) => Ok(()),
            // The record is gone, and nobody waits for its evidence.
            Ok(Err(kube::Error::Api(status))) if status.is_not_found() => Ok(()),
            Ok(Err(source)) => Err(Error::Request {
                record: record.to_owned(),
                source: Box::new(source),
            }),
            Err(_) => Err(Error::NoAnswer {
                record: record.to_owned(),
            }),
        }
    }
}
