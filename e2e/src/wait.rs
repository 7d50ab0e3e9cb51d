//! Waiting for a fact, with a deadline, and with what was last seen when the fact does not come.
//!
//! A deadline is a bound on the patience of a test, not a promise about speed: `E2E_PATIENCE=3` triples all of them.

use std::{fmt::Debug, future::Future, pin::pin, time::Duration};

use anyhow::{Context as _, Result, bail};
use futures::StreamExt as _;
use kube::{Api, Resource, runtime::watcher::watch_object};
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::{Instant, sleep, timeout};

/// How long a story waits for what takes seconds where all is well.
pub const PATIENCE: Duration = Duration::from_secs(90);
/// The pause between two looks at what cannot be watched.
const PAUSE: Duration = Duration::from_millis(150);
/// The longest description of what was last seen.
const LONGEST_SIGHT: usize = 6000;

/// What one look tells.
#[derive(Debug)]
pub enum Look<T> {
    /// The fact is there.
    Yes(T),
    /// It is not there yet; what there is instead.
    NotYet(String),
    /// It will never come; why.
    Never(String),
}

impl<T> Look<T> {
    /// [`Look::Yes`] if `there` holds something, else [`Look::NotYet`] with `instead`.
    pub fn at(there: Option<T>, instead: impl FnOnce() -> String) -> Self {
        there.map_or_else(|| Self::NotYet(instead()), Self::Yes)
    }
}

impl Look<()> {
    /// [`Look::Yes`] if `there`, else [`Look::NotYet`] with `instead`.
    pub fn whether(there: bool, instead: impl FnOnce() -> String) -> Self {
        Self::at(there.then_some(()), instead)
    }
}

/// [`PATIENCE`], times `E2E_PATIENCE` where that is set.
#[must_use]
pub fn patience() -> Duration {
    let factor = std::env::var("E2E_PATIENCE")
        .ok()
        .and_then(|text| text.parse().ok());
    PATIENCE.saturating_mul(factor.unwrap_or(1_u32).max(1))
}

/// Looks again and again until `what` is there. An error of a look counts as "not yet": the API server may be busy.
pub async fn look_until<T, F>(what: &str, mut look: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<Look<T>>>,
{
    let deadline = Instant::now() + patience();
    loop {
        let seen = match look().await {
            Ok(Look::Yes(found)) => return Ok(found),
            Ok(Look::Never(why)) => bail!("{what}: this will not come: {why}"),
            Ok(Look::NotYet(seen)) => seen,
            Err(error) => format!("{error:#}"),
        };
        if Instant::now() >= deadline {
            bail!(
                "{what}: not within {:?}; last seen: {}",
                patience(),
                clipped(&seen)
            );
        }
        sleep(PAUSE).await;
    }
}

/// Watches the object `name` until `look` finds in it what it looks for. `look` gets `None` while there is no object.
pub async fn watch_until<K, T>(
    api: &Api<K>,
    name: &str,
    what: &str,
    mut look: impl FnMut(Option<&K>) -> Option<T>,
) -> Result<T>
where
    K: Resource<DynamicType = ()> + Clone + Debug + Send + Serialize + DeserializeOwned + 'static,
{
    watch_until_or_never(api, name, what, |object| {
        Look::at(look(object), || sight(object))
    })
    .await
}

/// As [`watch_until`], with a `look` that can also tell that the fact will never come.
pub async fn watch_until_or_never<K, T>(
    api: &Api<K>,
    name: &str,
    what: &str,
    mut look: impl FnMut(Option<&K>) -> Look<T>,
) -> Result<T>
where
    K: Resource<DynamicType = ()> + Clone + Debug + Send + Serialize + DeserializeOwned + 'static,
{
    let object = format!("{} {name}", K::kind(&()));
    let mut last = String::from("nothing");
    let search = async {
        let mut states = pin!(watch_object(api.clone(), name));
        while let Some(state) = states.next().await {
            // After an error the watch begins anew by itself.
            match state.as_ref().map(Option::as_ref).map(&mut look) {
                Ok(Look::Yes(found)) => return Ok(found),
                Ok(Look::Never(why)) => bail!("{object}: {what}: this will not come: {why}"),
                Ok(Look::NotYet(seen)) => last = seen,
                Err(error) => last = format!("cannot watch: {error}"),
            }
        }
        bail!("the watch of {object} ended")
    };
    match timeout(patience(), search).await {
        Ok(result) => result,
        Err(_) => bail!(
            "{object}: {what}: not within {:?}; last seen: {}",
            patience(),
            clipped(&last)
        ),
    }
}

/// Waits until there is no object `name`.
pub async fn watch_until_gone<K>(api: &Api<K>, name: &str) -> Result<()>
where
    K: Resource<DynamicType = ()> + Clone + Debug + Send + Serialize + DeserializeOwned + 'static,
{
    watch_until(api, name, "is gone", |object| {
        object.is_none().then_some(())
    })
    .await
}

/// Repeats `attempt` until it works; for requests that fail only because something is not there yet.
pub async fn try_until<T, F>(what: &str, mut attempt: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    look_until(what, || {
        let attempt = attempt();
        async move { attempt.await.map(Look::Yes) }
    })
    .await
    .with_context(|| format!("keep trying: {what}"))
}

/// What can be seen of an object: its status and whether it is being deleted, as YAML.
#[must_use]
pub fn sight<K: Resource + Serialize>(object: Option<&K>) -> String {
    let Some(object) = object else {
        return "no such object".into();
    };
    let status = serde_json::to_value(object)
        .ok()
        .and_then(|mut value| value.get_mut("status").map(serde_json::Value::take));
    let deleted = if object.meta().deletion_timestamp.is_some() {
        format!(
            "being deleted, held by {:?}; ",
            object.meta().finalizers.clone().unwrap_or_default()
        )
    } else {
        String::new()
    };
    let status = status.map_or_else(
        || "no status".into(),
        |s| serde_saphyr::to_string(&s).unwrap_or_default(),
    );
    format!("{deleted}status:\n{status}")
}

/// At most [`LONGEST_SIGHT`] bytes of `text`.
#[must_use]
pub fn clipped(text: &str) -> &str {
    let mut end = text.len().min(LONGEST_SIGHT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
