//! The outcomes of a task that is done again and again: counted each time, logged when they change.

use std::{error::Error, fmt::Write as _};

use prometheus::{Gauge, IntCounter};

use crate::metrics::{Metrics, unix_seconds};

/// The tasks whose outcomes are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Asking the kubelet who holds which device.
    PodResources,
    /// Writing the `GpuNode`'s status.
    Publish,
    /// Renewing the Lease.
    Heartbeat,
    /// Following the node's UsageRecords.
    Records,
    /// Reading which processes the pods of leases have.
    Processes,
    /// Keeping what metering knows in the state directory.
    Spool,
    /// Writing evidence into UsageRecords.
    Evidence,
    /// Remembering the seals of the node's UsageRecords.
    Seals,
    /// Keeping the log of faults in the state directory.
    Faults,
}

impl Task {
    /// Every task.
    pub const ALL: [Self; 9] = [
        Self::PodResources,
        Self::Publish,
        Self::Heartbeat,
        Self::Records,
        Self::Processes,
        Self::Spool,
        Self::Evidence,
        Self::Seals,
        Self::Faults,
    ];

    /// As a metric's label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PodResources => "pod_resources",
            Self::Publish => "publish",
            Self::Heartbeat => "heartbeat",
            Self::Records => "records",
            Self::Processes => "processes",
            Self::Spool => "spool",
            Self::Evidence => "evidence",
            Self::Seals => "seals",
            Self::Faults => "faults",
        }
    }
}

/// Follows one task.
#[derive(Debug)]
pub struct Outcomes {
    task: Task,
    succeeded: IntCounter,
    failed: IntCounter,
    last_success: Gauge,
    failing: Option<String>,
}

impl Outcomes {
    /// Follows `task`, counting into `metrics`.
    #[must_use]
    pub fn new(task: Task, metrics: &Metrics) -> Self {
        let counter = |outcome| {
            metrics
                .task_runs
                .with_label_values(&[task.as_str(), outcome])
        };
        Self {
            task,
            succeeded: counter("success"),
            failed: counter("failure"),
            last_success: metrics
                .task_last_success
                .with_label_values(&[task.as_str()]),
            failing: None,
        }
    }

    /// It worked.
    pub fn success(&mut self) {
        self.succeeded.inc();
        self.last_success.set(unix_seconds());
        if self.failing.take().is_some() {
            tracing::info!(task = self.task.as_str(), "works again");
        }
    }

    /// It failed. Logged once for each different cause; the retries are counted.
    pub fn failure(&mut self, error: &dyn Error) {
        self.failed.inc();
        let text = chain(error);
        if self.failing.as_ref() != Some(&text) {
            tracing::warn!(task = self.task.as_str(), error = %text, "failed; it is tried again");
            self.failing = Some(text);
        }
    }
}

/// An error with its sources, down to the first that already tells its own.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let words = source.to_string();
        // kube's errors have their sources' words in their own.
        if !text.contains(&words) {
            let _ = write!(text, ": {words}");
        }
        next = source.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("renew the Lease")]
    struct Outer(#[source] Middle);

    #[derive(Debug, thiserror::Error)]
    #[error("connect: refused")]
    struct Middle(#[source] Inner);

    #[derive(Debug, thiserror::Error)]
    #[error("refused")]
    struct Inner;

    #[test]
    fn a_chain_tells_each_cause_once() {
        assert_eq!(
            chain(&Outer(Middle(Inner))),
            "renew the Lease: connect: refused"
        );
    }

    #[test]
    fn outcomes_are_counted_and_a_success_ends_the_failure() {
        let metrics = Metrics::new().unwrap();
        let mut outcomes = Outcomes::new(Task::Heartbeat, &metrics);
        outcomes.failure(&Inner);
        outcomes.failure(&Inner);
        outcomes.success();
        let count = |outcome| {
            metrics
                .task_runs
                .with_label_values(&["heartbeat", outcome])
                .get()
        };
        assert_eq!((count("success"), count("failure")), (1, 2));
        assert_eq!(outcomes.failing, None);
    }
}
