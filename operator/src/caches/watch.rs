//! One watch: keeps a store up to date, with a back-off of its own, and tells what changed.

use std::{fmt::Debug, future::Future, time::Instant};

use futures::StreamExt as _;
use kube::{
    Api, Resource,
    runtime::{
        WatchStreamExt as _,
        reflector::{self, Store},
        watcher::{self, Event, watcher},
    },
};
use serde::de::DeserializeOwned;

use super::listed::Listed;
use crate::{error::watch_words, health::Health, metrics::Metrics};

/// How many objects a list asks for at once: bounds the memory of the first list.
const PAGE: u32 = 500;

/// What a watch has seen. The store already holds it.
pub enum Seen<'a, K: Resource<DynamicType = ()> + 'static> {
    /// This object was created or changed.
    Applied(&'a K),
    /// This object was deleted.
    Deleted(&'a K),
    /// Everything was listed anew: any object may have changed or gone. The store holds what there is.
    Everything(&'a Store<K>),
}

/// The configuration of a watch on all objects of a kind.
#[must_use]
pub fn everything() -> watcher::Config {
    watcher::Config::default().page_size(PAGE)
}

/// The store that a watch fills, and the future that runs the watch.
///
/// The future never ends by itself. Each watch is to run on a task of its own: a watch that backs off must not keep
/// another one from being polled.
#[allow(clippy::too_many_arguments, reason = "one call, by a macro")]
pub fn watch<K>(
    kind: &'static str,
    api: Api<K>,
    config: watcher::Config,
    prune: fn(&mut K),
    listed: Listed,
    health: Health,
    metrics: Metrics,
    on_change: impl Fn(Seen<'_, K>) + Send,
) -> (Store<K>, impl Future<Output = ()> + Send)
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let (store, writer) = reflector::store();
    let pending = format!("cache of {kind}s is not filled");
    health.pending(pending.clone());
    metrics.watch_begins(kind);
    let reader = store.clone();
    let run = async move {
        let mut events = watcher(api, config)
            .default_backoff()
            .modify(prune)
            .inspect(move |event| {
                if matches!(event, Ok(Event::InitDone)) {
                    listed.now();
                }
            })
            .reflect(writer)
            .boxed();
        let mut failing = false;
        while let Some(event) = events.next().await {
            match event {
                Err(error) => {
                    metrics.watch_failed(kind);
                    health.watch_failed(kind, Instant::now());
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(
                            kind,
                            error = watch_words(&error),
                            "a watch fails; it will be tried again"
                        );
                    }
                }
                Ok(event) => {
                    health.watch_succeeded(kind);
                    if std::mem::take(&mut failing) {
                        tracing::info!(kind, "a watch works again");
                    }
                    match &event {
                        Event::Apply(object) => on_change(Seen::Applied(object)),
                        Event::Delete(object) => on_change(Seen::Deleted(object)),
                        Event::InitDone => {
                            health.done(&pending);
                            on_change(Seen::Everything(&reader));
                        }
                        // The store shows listed objects only once the list is complete.
                        Event::Init | Event::InitApply(_) => {}
                    }
                }
            }
        }
    };
    (store, run)
}
