//! What the archive measures.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// The metrics of the archive. Cloning shares them.
#[derive(Clone, Debug)]
pub struct ArchiveMetrics {
    /// Batches that were archived.
    pub archived: IntCounter,
    /// Final batches that are not archived.
    pub waiting: IntGauge,
    /// How long ago the oldest of them became final.
    pub oldest_seconds: IntGauge,
    failures: IntCounterVec,
    removed: IntCounterVec,
}

impl ArchiveMetrics {
    /// Registers the metrics.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let archived = IntCounter::new(
            "gridstake_archive_batches_total",
            "Final batches that were written to the archive.",
        )?;
        let waiting = IntGauge::new(
            "gridstake_archive_waiting_batches",
            "Final batches that are not in the archive.",
        )?;
        let oldest_seconds = IntGauge::new(
            "gridstake_archive_oldest_waiting_seconds",
            "How long ago the oldest batch that is not in the archive became final; 0 if there is none.",
        )?;
        let failures = IntCounterVec::new(
            Opts::new(
                "gridstake_archive_failures_total",
                "What could not be archived or removed, by what failed.",
            ),
            &["category"],
        )?;
        let removed = IntCounterVec::new(
            Opts::new(
                "gridstake_archive_removed_total",
                "Objects removed from the cluster because the archive holds them.",
            ),
            &["kind"],
        )?;
        registry.register(Box::new(archived.clone()))?;
        registry.register(Box::new(waiting.clone()))?;
        registry.register(Box::new(oldest_seconds.clone()))?;
        registry.register(Box::new(failures.clone()))?;
        registry.register(Box::new(removed.clone()))?;
        Ok(Self {
            archived,
            waiting,
            oldest_seconds,
            failures,
            removed,
        })
    }

    /// Something failed.
    pub fn failed(&self, category: &'static str) {
        self.failures.with_label_values(&[category]).inc();
    }

    /// An object was removed.
    pub fn removed(&self, kind: &'static str) {
        self.removed.with_label_values(&[kind]).inc();
    }
}
