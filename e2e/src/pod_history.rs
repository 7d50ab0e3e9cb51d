//! Every pod that has ever been in a namespace, also those that are gone: for facts such as "no pod ever ran".

use std::{
    collections::BTreeMap,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
};

use futures::StreamExt as _;
use gridstake_crds::names::LABEL_JOB;
use k8s_openapi::api::core::v1::{ContainerStateTerminated, Pod};
use kube::{
    Api, Client, ResourceExt as _,
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event, watcher},
    },
};
use tokio::task::JoinHandle;

/// What has been seen of one pod.
#[derive(Clone, Debug)]
pub struct PodSeen {
    /// Its last state.
    pub last: Pod,
    /// Whether any container of it was seen running or ended.
    pub ran: bool,
    /// How its first container ended, if it did.
    pub end: Option<ContainerStateTerminated>,
    /// The grace with which it was deleted, in seconds.
    pub deletion_grace: Option<i64>,
}

/// The pods of one namespace, by uid; it goes on until it is dropped.
pub struct PodHistory {
    seen: Arc<Mutex<BTreeMap<String, PodSeen>>>,
    task: JoinHandle<()>,
}

impl PodHistory {
    /// Begins to watch.
    #[must_use]
    pub fn begin(client: Client, namespace: &str) -> Self {
        let seen = Arc::<Mutex<BTreeMap<String, PodSeen>>>::default();
        let pods: Api<Pod> = Api::namespaced(client, namespace);
        let notes = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            // With a pause after each error: one that never ends, such as a client that is gone, would keep the task from
            // ever being cancelled.
            let mut events = pin!(watcher(pods, watcher::Config::default()).default_backoff());
            while let Some(event) = events.next().await {
                if let Ok(Event::Apply(pod) | Event::InitApply(pod) | Event::Delete(pod)) = event {
                    note(
                        &mut notes.lock().unwrap_or_else(PoisonError::into_inner),
                        pod,
                    );
                }
            }
        });
        Self { seen, task }
    }

    /// Every pod of a job that has ever been seen, by name.
    #[must_use]
    pub fn of_job(&self, job: &str) -> Vec<PodSeen> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let mut pods: Vec<_> = seen
            .values()
            .filter(|p| p.last.labels().get(LABEL_JOB).is_some_and(|l| l == job))
            .cloned()
            .collect();
        pods.sort_by_key(|p| p.last.name_any());
        pods
    }

    /// Every pod that has ever been seen, by name.
    #[must_use]
    pub fn all(&self) -> Vec<PodSeen> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let mut pods: Vec<_> = seen.values().cloned().collect();
        pods.sort_by_key(|p| p.last.name_any());
        pods
    }

    /// How many pods of each name there have been; more than one means that it was created again.
    #[must_use]
    pub fn incarnations(&self) -> BTreeMap<String, usize> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.values().fold(BTreeMap::new(), |mut counts, pod| {
            *counts.entry(pod.last.name_any()).or_default() += 1;
            counts
        })
    }
}

impl Drop for PodHistory {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn note(seen: &mut BTreeMap<String, PodSeen>, pod: Pod) {
    let states: Vec<_> = pod
        .status
        .iter()
        .flat_map(|s| s.container_statuses.iter().flatten())
        .filter_map(|c| c.state.clone())
        .collect();
    let ran = states.iter().any(|s| {
        s.running.is_some()
            || s.terminated
                .as_ref()
                .is_some_and(|t| t.container_id.is_some())
    });
    let end = states.iter().find_map(|s| s.terminated.clone());
    let deletion_grace = pod.metadata.deletion_grace_period_seconds;
    let Some(uid) = pod.uid() else { return };
    let known = seen.entry(uid).or_insert_with(|| PodSeen {
        last: pod.clone(),
        ran: false,
        end: None,
        deletion_grace: None,
    });
    known.ran |= ran;
    known.end = end.or(known.end.take());
    // The kubelet deletes it for good with a grace of 0; what counts is the first one.
    known.deletion_grace = known.deletion_grace.or(deletion_grace);
    known.last = pod;
}
