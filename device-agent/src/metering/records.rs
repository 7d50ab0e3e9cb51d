//! Follows the UsageRecords of this node. It only reads; of those that are not sealed it keeps what metering needs, and of
//! the others the seal is remembered.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::TryStreamExt as _;
use gridstake_crds::{
    UsageRecord,
    usage_record::{Evidence, Sealed},
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{ApiResource, Object},
    runtime::watcher::{self, Event},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;

use super::seals::Keeper;
use crate::{backoff::Backoff, clock::wall_unix_ms, outcome::Outcomes};

/// Records of a page: sealed ones stay for a while, and all of a page are in memory at one time.
const PAGE: u32 = 50;

/// After a failed watch the API server is asked again this soon, then ever later.
const ASK_AGAIN: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));

/// A record that is not sealed.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Its lease: the name without the slice.
    pub lease: String,
    /// The slice, counted from 0.
    pub slice: u32,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// Where the slice begins, if it is not the first, in Unix milliseconds.
    pub from_ms: Option<u64>,
    /// The evidence that the API server holds; absent also where this agent cannot read it.
    pub published: Option<Arc<Evidence>>,
    /// What was stated when the record was sealed, and the seal, if the API server has lost it: the record is open again.
    pub remembered: Option<Arc<Evidence>>,
}

/// Records by name.
pub type Records = BTreeMap<String, Record>;

/// What is read of a record's spec.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    job: Job,
    attempt: u32,
    member: u32,
    slice: u32,
    pod_name: String,
    from_ms: Option<u64>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Job {
    namespace: String,
    uid: String,
}

/// What is read of its status. The evidence may be another version's.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Status {
    evidence: Option<Value>,
    sealed: Option<Value>,
}

type Lean = Object<Spec, Status>;

impl Record {
    /// Whether its use is to be metered: it is not over and billed.
    #[must_use]
    pub fn is_metered(&self) -> bool {
        self.remembered.is_none()
    }
}

/// What a record says.
enum Said {
    /// It is open.
    Open(Record),
    /// It is sealed. With what was billed and stated, as far as this agent can read it.
    Sealed(Option<Box<Evidence>>),
}

impl From<Lean> for Said {
    fn from(object: Lean) -> Self {
        let status = object.status.unwrap_or_default();
        let evidence: Option<Evidence> = status
            .evidence
            .and_then(|evidence| serde_json::from_value(evidence).ok());
        if let Some(sealed) = status.sealed {
            let sealed: Option<Sealed> = serde_json::from_value(sealed).ok();
            let both = evidence.zip(sealed).map(|(evidence, sealed)| Evidence {
                sealed: Some(sealed),
                ..evidence
            });
            return Self::Sealed(both.map(Box::new));
        }
        let spec = object.spec;
        Self::Open(Record {
            lease: format!("{}-{}-{}", spec.job.uid, spec.attempt, spec.member),
            slice: spec.slice,
            namespace: spec.job.namespace,
            pod: spec.pod_name,
            from_ms: spec.from_ms,
            published: evidence.map(Arc::new),
            remembered: None,
        })
    }
}

/// Follows the records of `node` in `namespace` until `stop`. `records` holds `None` until the first complete answer.
pub async fn follow(
    client: Client,
    namespace: &str,
    node: &str,
    records: watch::Sender<Option<Records>>,
    seals: Keeper,
    mut outcomes: Outcomes,
    stop: CancellationToken,
) {
    let resource = ApiResource::erase::<UsageRecord>(&());
    let api: Api<Lean> = Api::namespaced_with(client, namespace, &resource);
    let config = watcher::Config::default()
        .fields(&format!("spec.nodeName={node}"))
        .page_size(PAGE);
    let mut events = Box::pin(watcher::watcher(api, config));
    let mut following = Following {
        records,
        listed: Records::new(),
        seals,
    };
    let mut backoff = ASK_AGAIN;
    loop {
        let event = tokio::select! {
            () = stop.cancelled() => return,
            event = events.try_next() => event,
        };
        match event {
            Ok(Some(event)) => {
                outcomes.success();
                backoff.reset();
                following.take(event).await;
            }
            Ok(None) => return,
            Err(error) => {
                outcomes.failure(&error);
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = sleep(backoff.after_failure()) => {}
                }
            }
        }
    }
}

/// What is known of the records, and who remembers seals.
struct Following {
    records: watch::Sender<Option<Records>>,
    listed: Records,
    seals: Keeper,
}

impl Following {
    async fn take(&mut self, event: Event<Lean>) {
        match event {
            Event::Init => self.listed.clear(),
            Event::InitApply(object) => {
                let name = object.name_any();
                match Said::from(object) {
                    Said::Open(record) => {
                        let record = self.with_memory(&name, record).await;
                        self.listed.insert(name, record);
                    }
                    Said::Sealed(evidence) => self.note(&name, evidence).await,
                }
            }
            Event::InitDone => {
                // Metering does not wait for the disk.
                let listed = std::mem::take(&mut self.listed);
                self.records.send_replace(Some(listed));
                self.seals.make_durable(wall_unix_ms()).await;
            }
            Event::Apply(object) => {
                let name = object.name_any();
                match Said::from(object) {
                    Said::Open(record) => {
                        let record = self.with_memory(&name, record).await;
                        self.records.send_if_modified(|records| {
                            let records = records.get_or_insert_default();
                            records.insert(name, record.clone()) != Some(record)
                        });
                    }
                    Said::Sealed(evidence) => {
                        self.drop(&name);
                        self.note(&name, evidence).await;
                        self.seals.make_durable(wall_unix_ms()).await;
                    }
                }
            }
            Event::Delete(object) => self.drop(&object.name_any()),
        }
    }

    async fn with_memory(&mut self, name: &str, record: Record) -> Record {
        let remembered = self
            .seals
            .recall(name, record.from_ms, wall_unix_ms())
            .await
            .map(Arc::new);
        Record {
            remembered,
            ..record
        }
    }

    async fn note(&mut self, name: &str, evidence: Option<Box<Evidence>>) {
        if let Some(evidence) = evidence {
            self.seals.note(name, *evidence, wall_unix_ms()).await;
        }
    }

    fn drop(&self, name: &str) {
        self.records.send_if_modified(|records| {
            let records = records.get_or_insert_default();
            records.remove(name).is_some()
        });
    }
}
