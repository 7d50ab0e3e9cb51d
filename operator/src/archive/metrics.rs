//! What the archive measures.

use std::sync::Arc;

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};

use crate::metrics::{counters, gauges};

/// What is removed: SettlementBatches.
pub const BATCH: &str = "SettlementBatch";
/// And UsageRecords.
pub const RECORD: &str = "UsageRecord";

/// The metrics of all lanes' archiving: each has its own series, by the label `chain`. Cloning shares them.
#[derive(Clone, Debug)]
pub struct ArchiveFamilies {
    archived: IntCounterVec,
    waiting: IntGaugeVec,
    oldest_seconds: IntGaugeVec,
    failures: IntCounterVec,
    removed: IntCounterVec,
}

/// The metrics of one lane's archiving. Cloning shares them.
#[derive(Clone, Debug)]
pub struct ArchiveMetrics {
    /// Batches that were archived.
    pub archived: IntCounter,
    /// Final batches that are not archived.
    pub waiting: IntGauge,
    /// How long ago the oldest of them became final.
    pub oldest_seconds: IntGauge,
    chain: Arc<str>,
    failures: IntCounterVec,
    removed: IntCounterVec,
}

impl ArchiveFamilies {
    /// Registers the metrics.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counters =
            |name: &str, help: &str, labels: &[&str]| counters(registry, name, help, labels);
        let gauges = |name: &str, help: &str| gauges(registry, name, help, &["chain"]);
        Ok(Self {
            archived: counters(
                "gridstake_archive_batches_total",
                "Final batches that were written to the archive.",
                &["chain"],
            )?,
            waiting: gauges(
                "gridstake_archive_waiting_batches",
                "Final batches that are not in the archive.",
            )?,
            oldest_seconds: gauges(
                "gridstake_archive_oldest_waiting_seconds",
                "How long ago the oldest batch that is not in the archive became final; 0 if there is none.",
            )?,
            failures: counters(
                "gridstake_archive_failures_total",
                "What could not be archived or removed, by what failed.",
                &["chain", "category"],
            )?,
            removed: counters(
                "gridstake_archive_removed_total",
                "Objects removed from the cluster because the archive holds them.",
                &["chain", "kind"],
            )?,
        })
    }

    /// Those of the lane on `chain`.
    #[must_use]
    pub fn of(&self, chain: &str) -> ArchiveMetrics {
        for kind in [BATCH, RECORD] {
            self.removed.with_label_values(&[chain, kind]);
        }
        ArchiveMetrics {
            archived: self.archived.with_label_values(&[chain]),
            waiting: self.waiting.with_label_values(&[chain]),
            oldest_seconds: self.oldest_seconds.with_label_values(&[chain]),
            chain: chain.into(),
            failures: self.failures.clone(),
            removed: self.removed.clone(),
        }
    }
}

impl ArchiveMetrics {
    /// Something failed.
    pub fn failed(&self, category: &'static str) {
        self.failures
            .with_label_values(&[&*self.chain, category])
            .inc();
    }

    /// An object was removed.
    pub fn removed(&self, kind: &'static str) {
        self.removed.with_label_values(&[&*self.chain, kind]).inc();
    }
}
