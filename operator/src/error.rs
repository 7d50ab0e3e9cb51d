//! What every controller's errors have in common.

use std::error::Error as StdError;

/// An error that ends one pass of a controller.
pub trait ReconcileError: StdError + Send + Sync + 'static {
    /// A static word for metrics, such as `create_pod`. Never built from data.
    fn category(&self) -> &'static str;
}

/// The error and its causes in one line, outermost first.
///
/// Stops at the first [`kube::Error`]: that one prints its own causes.
#[must_use]
pub fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut line = words(error);
    let mut current = error;
    while current.downcast_ref::<kube::Error>().is_none()
        && current.downcast_ref::<Box<kube::Error>>().is_none()
    {
        let Some(cause) = current.source() else { break };
        line.push_str(": ");
        line.push_str(&words(cause));
        current = cause;
    }
    line
}

/// The API server's own words where it answered; kube's `Display` repeats them in debug form.
fn words(error: &(dyn StdError + 'static)) -> String {
    let api = error.downcast_ref::<kube::Error>().or_else(|| {
        error
            .downcast_ref::<Box<kube::Error>>()
            .map(std::convert::AsRef::as_ref)
    });
    match api {
        Some(kube::Error::Api(status)) => format!("{} ({})", status.message, status.code),
        _ => error.to_string(),
    }
}

/// What went wrong with a watch, in the API server's own words where it answered.
#[must_use]
pub fn watch_words(error: &kube::runtime::watcher::Error) -> String {
    use kube::runtime::watcher::Error;
    match error {
        Error::InitialListFailed(source) => format!("list: {}", words(source)),
        Error::WatchStartFailed(source) => format!("start the watch: {}", words(source)),
        Error::WatchFailed(source) => format!("watch: {}", words(source)),
        Error::WatchError(status) => format!("watch: {} ({})", status.message, status.code),
        Error::NoResourceVersion => error.to_string(),
    }
}

/// Whether the API server refused a write because the object had changed.
#[must_use]
pub fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_conflict())
}

/// Whether the object does not exist.
#[must_use]
pub fn is_not_found(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_not_found())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("apply status of GpuNode n1")]
    struct Outer(#[source] Box<kube::Error>);

    #[test]
    fn a_chain_ends_with_the_api_servers_words_and_says_them_once() {
        let status = kube::core::Status {
            code: 409,
            message: "the object has been modified".into(),
            reason: "Conflict".into(),
            ..Default::default()
        };
        let error = Outer(Box::new(kube::Error::Api(Box::new(status))));
        assert_eq!(
            chain(&error),
            "apply status of GpuNode n1: the object has been modified (409)"
        );
    }
}
