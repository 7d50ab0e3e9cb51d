//! Follows the UsageRecords of this node that are not sealed. It only reads, and keeps of each what metering needs.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::TryStreamExt as _;
use gridstake_crds::{UsageRecord, usage_record::Evidence};
use kube::{
    Api, Client, ResourceExt as _,
    api::{ApiResource, Object},
    runtime::watcher::{self, Event},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{backoff::Backoff, outcome::Outcomes};

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
    /// `None` for a sealed one.
    fn open(object: Lean) -> Option<Self> {
        let status = object.status.unwrap_or_default();
        if status.sealed.is_some() {
            return None;
        }
        let spec = object.spec;
        Some(Self {
            lease: format!("{}-{}-{}", spec.job.uid, spec.attempt, spec.member),
            slice: spec.slice,
            namespace: spec.job.namespace,
            pod: spec.pod_name,
            from_ms: spec.from_ms,
            published: status
                .evidence
                .and_then(|evidence| serde_json::from_value(evidence).ok())
                .map(Arc::new),
        })
    }
}

/// Follows the records of `node` in `namespace` until `stop`. `records` holds `None` until the first complete answer.
pub async fn follow(
    client: Client,
    namespace: &str,
    node: &str,
    records: watch::Sender<Option<Records>>,
    mut outcomes: Outcomes,
    stop: CancellationToken,
) {
    let resource = ApiResource::erase::<UsageRecord>(&());
    let api: Api<Lean> = Api::namespaced_with(client, namespace, &resource);
    let config = watcher::Config::default()
        .fields(&format!("spec.nodeName={node}"))
        .page_size(PAGE);
    let mut events = Box::pin(watcher::watcher(api, config));
    let mut listed = Records::new();
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
                take(&records, &mut listed, event);
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

fn take(records: &watch::Sender<Option<Records>>, listed: &mut Records, event: Event<Lean>) {
    match event {
        Event::Init => listed.clear(),
        Event::InitApply(object) => {
            let name = object.name_any();
            if let Some(record) = Record::open(object) {
                listed.insert(name, record);
            }
        }
        Event::InitDone => {
            records.send_replace(Some(std::mem::take(listed)));
        }
        Event::Apply(object) => {
            let name = object.name_any();
            let record = Record::open(object);
            records.send_if_modified(|records| {
                let records = records.get_or_insert_default();
                match record {
                    Some(record) => records.insert(name, record.clone()) != Some(record),
                    None => records.remove(&name).is_some(),
                }
            });
        }
        Event::Delete(object) => {
            records.send_if_modified(|records| {
                let records = records.get_or_insert_default();
                records.remove(&object.name_any()).is_some()
            });
        }
    }
}
