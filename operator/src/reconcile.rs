//! Runs a controller: which objects, how many at once, for how long, and what after a failure.

use std::{
    collections::HashMap,
    fmt::Debug,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{Stream, StreamExt as _, stream};
use kube::{
    Resource, ResourceExt as _,
    runtime::{
        controller::{self, Action},
        reflector::{ObjectRef, Store},
    },
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::{
    backoff::Failures,
    caches::{
        Guarded,
        triggers::{Trigger, TriggerHub},
    },
    error::{ReconcileError, chain},
    metrics::{Metrics, PassOutcome},
    precedence::Precedence,
};

/// How many objects a controller works on at once, unless it says otherwise.
pub const CONCURRENCY: u16 = 8;
/// After how long a pass is abandoned. It must be safe to stop a pass at any `await`.
const PATIENCE: Duration = Duration::from_secs(30);

/// What came of one pass over one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pass {
    outcome: PassOutcome,
    again: Option<Duration>,
}

impl Pass {
    /// Something was written.
    #[must_use]
    pub const fn applied() -> Self {
        Self::new(PassOutcome::Applied)
    }

    /// Nothing was to be written.
    #[must_use]
    pub const fn unchanged() -> Self {
        Self::new(PassOutcome::Unchanged)
    }

    /// The object waits for something else.
    #[must_use]
    pub const fn waiting() -> Self {
        Self::new(PassOutcome::Waiting)
    }

    /// [`applied`](Self::applied) or [`unchanged`](Self::unchanged).
    #[must_use]
    pub const fn wrote(written: bool) -> Self {
        if written {
            Self::applied()
        } else {
            Self::unchanged()
        }
    }

    const fn new(outcome: PassOutcome) -> Self {
        Self {
            outcome,
            again: None,
        }
    }

    /// Looks at the object again after this time at the latest.
    #[must_use]
    pub const fn again_in(mut self, pause: Duration) -> Self {
        self.again = Some(pause);
        self
    }

    /// Looks at the object again after this time at the latest, if there is one; else only when something changes.
    #[must_use]
    pub const fn again(mut self, pause: Option<Duration>) -> Self {
        self.again = pause;
        self
    }
}

/// A controller that is to run.
pub struct Controller<K: Resource<DynamicType = ()> + 'static> {
    /// Its name in logs and metrics, such as `gpu-node`.
    pub name: &'static str,
    /// The objects that it works on.
    pub store: Store<Guarded<K>>,
    /// Tells which of them to look at.
    pub triggers: TriggerHub<Guarded<K>>,
    /// How many of them it works on at once.
    pub concurrency: u16,
    /// Whom passes let go first.
    pub precedence: Option<Precedence>,
}

/// Why a pass did not come to an end of its own.
#[derive(Debug, thiserror::Error)]
enum PassError {
    #[error("{chain}")]
    Failed {
        category: &'static str,
        chain: String,
    },
    #[error("abandoned after {PATIENCE:?}")]
    TimedOut,
    #[error("panicked")]
    Panicked,
    #[error("the stored object cannot be parsed: {0}")]
    Unparsable(String),
}

impl PassError {
    const fn outcome(&self) -> PassOutcome {
        match self {
            Self::Failed { .. } => PassOutcome::Failed,
            Self::TimedOut => PassOutcome::TimedOut,
            Self::Panicked => PassOutcome::Panicked,
            Self::Unparsable(_) => PassOutcome::Unparsable,
        }
    }

    const fn category(&self) -> &'static str {
        match self {
            Self::Failed { category, .. } => category,
            Self::TimedOut => "timeout",
            Self::Panicked => "panic",
            Self::Unparsable(_) => "unparsable",
        }
    }
}

impl<K> Controller<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + Send + Sync + 'static,
{
    /// Looks at every object once, then at each that is triggered, until `stop`; then lets what runs finish.
    ///
    /// Passes over different objects run at the same time, passes over one object never do. A pass that fails is
    /// repeated after 1 s, doubling to 5 min, per object. An object that cannot be parsed is left alone until it
    /// changes. `pass` gets the object as the cache holds it.
    pub async fn run<F, Fut, E>(self, metrics: Metrics, stop: CancellationToken, pass: F)
    where
        F: Fn(Arc<K>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Pass, E>> + Send + 'static,
        E: ReconcileError,
    {
        let Self {
            name,
            store,
            triggers,
            concurrency,
            precedence,
        } = self;
        let pass = Arc::new(pass);
        let failures = Arc::new(Failures::<ObjectRef<Guarded<K>>>::default());
        let unparsable = Arc::new(Unparsable::default());
        let queue = expand(triggers.stream(), store.clone())
            .map(Ok::<_, std::convert::Infallible>)
            .take_until(stop.cancelled_owned())
            .boxed();

        let one_pass = {
            let (failures, metrics, unparsable) =
                (failures.clone(), metrics.clone(), unparsable.clone());
            let store = store.clone();
            move |object: Arc<Guarded<K>>, _: Arc<()>| {
                let key = ObjectRef::from_obj(&*object);
                let span = tracing::info_span!(
                    "reconcile",
                    controller = name,
                    object = %label(&key),
                    generation = object.meta().generation,
                );
                let (failures, metrics) = (failures.clone(), metrics.clone());
                let (unparsable, precedence) = (unparsable.clone(), precedence.clone());
                let (store, pass) = (store.clone(), Arc::clone(&pass));
                let task = async move {
                    let mut object = object;
                    let mut _turn = None;
                    if let Some(precedence) = precedence {
                        _turn = precedence.yield_to_starts().await;
                        // It may have changed meanwhile.
                        object = store.get(&key).unwrap_or(object);
                    }
                    let known = unparsable.is_known(&key, &object);
                    let work = match &object.0 {
                        // Passes get a copy of their own, so that they need not know about guards.
                        Ok(parsed) => Ok(pass(Arc::new(parsed.clone()))),
                        Err(invalid) => Err(PassError::Unparsable(invalid.error.clone())),
                    };
                    let started = Instant::now();
                    let result = guarded(work).await;
                    let outcome = match &result {
                        Ok(pass) => pass.outcome,
                        Err(error) => error.outcome(),
                    };
                    metrics.pass(name, outcome, started.elapsed());
                    match &result {
                        Ok(_) => failures.forget(&key),
                        Err(error) => {
                            metrics.pass_failed(name, error.category());
                            if known {
                                return Ok(Action::await_change());
                            }
                            tracing::warn!(error = %error, category = error.category(), "reconcile failed");
                        }
                    }
                    result.map(|pass| {
                        pass.again
                            .map_or_else(Action::await_change, Action::requeue)
                    })
                };
                Box::pin(task.instrument(span))
            }
        };
        let after_failure = {
            let failures = failures.clone();
            move |object: Arc<Guarded<K>>, error: &PassError, _: Arc<()>| match error {
                PassError::Unparsable(_) => Action::await_change(),
                _ => Action::requeue(failures.failed(ObjectRef::from_obj(&*object))),
            }
        };
        let config = controller::Config::default().concurrency(concurrency);
        controller::applier(one_pass, after_failure, Arc::new(()), store, queue, config)
            .for_each(|result| {
                if let Err(controller::Error::ObjectNotFound(gone)) = result {
                    let mut key = ObjectRef::new(&gone.name);
                    key.namespace.clone_from(&gone.namespace);
                    failures.forget(&key);
                    unparsable.forget(&key);
                }
                std::future::ready(())
            })
            .await;
        tracing::info!(controller = name, "controller stopped");
    }
}

/// Objects that cannot be parsed, by the version that was complained about: one complaint each.
struct Unparsable<K: Resource<DynamicType = ()>>(
    Mutex<HashMap<ObjectRef<Guarded<K>>, Option<String>>>,
);

impl<K: Resource<DynamicType = ()>> Default for Unparsable<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Resource<DynamicType = ()>> Unparsable<K> {
    /// Whether `object` cannot be parsed and is known for it in this version.
    fn is_known(&self, key: &ObjectRef<Guarded<K>>, object: &Guarded<K>) -> bool {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if object.0.is_ok() {
            known.remove(key);
            return false;
        }
        let version = object.meta().resource_version.clone();
        known.insert(key.clone(), version.clone()) == Some(version)
    }

    fn forget(&self, key: &ObjectRef<Guarded<K>>) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(key);
    }
}

/// Runs a pass on a task of its own: a panic or a timeout ends this pass only.
async fn guarded<Fut, E>(work: Result<Fut, PassError>) -> Result<Pass, PassError>
where
    Fut: Future<Output = Result<Pass, E>> + Send + 'static,
    E: ReconcileError,
{
    let task = tokio::spawn(
        async move {
            tokio::time::timeout(PATIENCE, work?)
                .await
                .map_or(Err(PassError::TimedOut), failed)
        }
        .in_current_span(),
    );
    task.await.unwrap_or(Err(PassError::Panicked))
}

fn failed<E: ReconcileError>(result: Result<Pass, E>) -> Result<Pass, PassError> {
    result.map_err(|error| PassError::Failed {
        category: error.category(),
        chain: chain(&error),
    })
}

/// Objects to look at, with "everything" spelled out.
fn expand<K>(
    triggers: impl Stream<Item = Trigger<Guarded<K>>> + Send,
    store: Store<Guarded<K>>,
) -> impl Stream<Item = ObjectRef<Guarded<K>>> + Send
where
    K: Resource<DynamicType = ()> + Clone + Send + Sync + 'static,
{
    triggers.flat_map(move |trigger| {
        let objects = match trigger {
            Trigger::One(object) => vec![object],
            Trigger::All => store
                .state()
                .iter()
                .map(|object| key_of(&**object))
                .collect(),
        };
        stream::iter(objects)
    })
}

/// The object by its name alone: tens of thousands may wait for their pass, and uid and version are not what they are found by.
fn key_of<K: Resource<DynamicType = ()>>(object: &K) -> ObjectRef<K> {
    let mut key = ObjectRef::new(&object.name_any());
    key.namespace = object.namespace();
    key
}

fn label<K: Resource<DynamicType = ()>>(object: &ObjectRef<K>) -> String {
    match &object.namespace {
        Some(namespace) => format!("{namespace}/{}", object.name),
        None => object.name.clone(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use gridstake_crds::GpuNode;
    use kube::runtime::{reflector, watcher::Event};
    use serde_json::json;
    use tokio::sync::mpsc;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("test")]
    struct Refused;

    impl ReconcileError for Refused {
        fn category(&self) -> &'static str {
            "refused"
        }
    }

    fn stored(name: &str, mode: &str) -> Guarded<GpuNode> {
        serde_json::from_value(json!({
            "apiVersion": "gridstake.dev/v1alpha1", "kind": "GpuNode",
            "metadata": {"name": name, "resourceVersion": "1"}, "spec": {"mode": mode},
        }))
        .unwrap()
    }

    struct Running {
        metrics: Metrics,
        triggers: TriggerHub<Guarded<GpuNode>>,
        stop: CancellationToken,
        passes: mpsc::UnboundedReceiver<String>,
        controller: tokio::task::JoinHandle<()>,
    }

    /// A controller over `objects` whose passes end as `outcome` says for the object's name and the number of the pass.
    fn run(
        objects: Vec<Guarded<GpuNode>>,
        outcome: fn(&str, u32) -> Result<Pass, Refused>,
    ) -> Running {
        let (store, mut writer) = reflector::store();
        writer.apply_watcher_event(&Event::Init);
        for object in objects {
            writer.apply_watcher_event(&Event::InitApply(object));
        }
        writer.apply_watcher_event(&Event::InitDone);
        let (metrics, triggers) = (Metrics::new().unwrap(), TriggerHub::new());
        let (told, passes) = mpsc::unbounded_channel();
        let (stop, count) = (CancellationToken::new(), Arc::new(AtomicU32::new(0)));
        let controller = Controller {
            name: "test",
            store,
            triggers: triggers.clone(),
            concurrency: CONCURRENCY,
            precedence: Some(Precedence::default()),
        };
        let work = controller.run(metrics.clone(), stop.clone(), move |node: Arc<GpuNode>| {
            let (told, count) = (told.clone(), count.clone());
            async move {
                let name = node.metadata.name.clone().unwrap_or_default();
                let number = count.fetch_add(1, Ordering::SeqCst);
                let _ = told.send(name.clone());
                outcome(&name, number)
            }
        });
        let controller = tokio::spawn(async move {
            work.await;
            drop(writer);
        });
        Running {
            metrics,
            triggers,
            stop,
            passes,
            controller,
        }
    }

    impl Running {
        async fn end(self) -> String {
            self.stop.cancel();
            self.controller.await.unwrap();
            self.metrics.render().unwrap()
        }
    }

    #[tokio::test]
    async fn every_object_is_looked_at_once_and_again_when_triggered() {
        let mut running = run(
            vec![stored("a", "Always"), stored("b", "Always")],
            |_, _| Ok(Pass::applied()),
        );
        let mut first = [
            running.passes.recv().await.unwrap(),
            running.passes.recv().await.unwrap(),
        ];
        first.sort();
        assert_eq!(first, ["a", "b"]);
        running.triggers.one(None, "b");
        assert_eq!(running.passes.recv().await.unwrap(), "b");
        let metrics = running.end().await;
        assert!(
            metrics.contains(r#"gridstake_reconcile_total{controller="test",outcome="applied"} 3"#),
            "{metrics}"
        );
    }

    #[tokio::test]
    async fn an_object_that_cannot_be_parsed_stalls_only_itself() {
        let mut running = run(
            vec![stored("bad", "Sometimes"), stored("good", "Always")],
            |_, _| Ok(Pass::unchanged()),
        );
        assert_eq!(running.passes.recv().await.unwrap(), "good");
        running.triggers.one(None, "bad");
        running.triggers.one(None, "good");
        assert_eq!(running.passes.recv().await.unwrap(), "good");
        let metrics = running.end().await;
        assert!(metrics.contains(r#"outcome="unparsable""#), "{metrics}");
    }

    #[tokio::test]
    async fn a_failed_pass_is_repeated() {
        let mut running = run(vec![stored("a", "Always")], |_, number| {
            if number == 0 {
                Err(Refused)
            } else {
                Ok(Pass::applied())
            }
        });
        running.passes.recv().await.unwrap();
        running.passes.recv().await.unwrap();
        let metrics = running.end().await;
        let failed = r#"gridstake_reconcile_errors_total{category="refused",controller="test"} 1"#;
        assert!(metrics.contains(failed), "{metrics}");
    }

    #[tokio::test]
    async fn a_panic_ends_one_pass_and_not_the_controller() {
        let mut running = run(vec![stored("a", "Always")], |_, number| {
            assert!(number > 0, "the first pass panics");
            Ok(Pass::applied())
        });
        running.passes.recv().await.unwrap();
        running.passes.recv().await.unwrap();
        let metrics = running.end().await;
        assert!(metrics.contains(r#"outcome="panicked"} 1"#), "{metrics}");
    }

    #[tokio::test]
    async fn a_pass_can_ask_to_be_repeated() {
        let mut running = run(vec![stored("a", "Always")], |_, _| {
            Ok(Pass::unchanged().again_in(Duration::from_millis(1)))
        });
        running.passes.recv().await.unwrap();
        running.passes.recv().await.unwrap();
        running.end().await;
    }
}
