//! Puts the log of decisions into the archive, part by part, before the decisions are written into their jobs.
//!
//! Where the archive is away, jobs are placed all the same: what is to be written is kept for a while, and then lost, which who
//! repeats decisions sees.

use std::time::Duration;

use alloy_primitives::B256;
use gridstake_ledger::archive::{
    decisions::{self as log, Part, index_path, newest_path},
    object_path, read_index_entry,
};
use k8s_openapi::jiff::Timestamp;
use prometheus::{IntCounter, IntGauge, Registry};

use super::{
    journal::{Journal, Seen},
    owner_cuts::Epoch,
};
use crate::{
    archive::store::{Store, StoreError},
    scheduler::{Decision, Request},
};

/// How long placements wait for the archive in one pass.
const PATIENCE: Duration = Duration::from_secs(2);
/// What tells of the fleet alone is written when a decision is, or when so much of it has come together, in bytes.
const ENOUGH: usize = 4 << 20;

/// Why a part was not written.
#[derive(Debug, thiserror::Error)]
enum RecordError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("write to the archive: no answer within {PATIENCE:?}")]
    TimedOut,
    #[error("{path} of the archive is no part of a log of decisions")]
    NoPart {
        path: String,
        #[source]
        source: log::Unreadable,
    },
    #[error("{0} of the archive names a file that is not there, or none")]
    NoFile(String),
    #[error("another replica writes the log of decisions, too")]
    Contended,
}

/// What the recorder measures. Cloning shares it.
#[derive(Clone, Debug)]
pub struct RecorderMetrics {
    parts: IntCounter,
    lost: IntCounter,
    failing: IntGauge,
}

impl RecorderMetrics {
    /// Registers the metrics.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let failing = IntGauge::new(
            "gridstake_decision_log_failing",
            "1 while decisions cannot be written to the archive.",
        )?;
        registry.register(Box::new(failing.clone()))?;
        Ok(Self {
            parts: counter(
                "gridstake_decision_log_parts_total",
                "Parts of the log of decisions that were written to the archive.",
            )?,
            lost: counter(
                "gridstake_decision_log_lost_lines_total",
                "Lines of the log of decisions that were lost because the archive was away for too long.",
            )?,
            failing,
        })
    }
}

/// Where the log of the archive ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct End {
    /// The number of the newest part; 0: there is none.
    part: u64,
    /// Its address.
    address: Option<B256>,
}

/// Writes the log of decisions. One for each term of a leader.
#[derive(Debug)]
pub struct Recorder {
    store: Store,
    cluster: String,
    identity: String,
    journal: Journal,
    /// `None`: it is to be looked up.
    end: Option<End>,
    metrics: RecorderMetrics,
}

impl Recorder {
    /// A recorder of what `identity`, a replica, decides from `now` on.
    #[must_use]
    pub fn new(
        store: Store,
        cluster: &str,
        identity: &str,
        now: Timestamp,
        metrics: RecorderMetrics,
    ) -> Self {
        Self {
            journal: Journal::new(cluster, &writer(identity, now)),
            store,
            cluster: cluster.to_owned(),
            identity: identity.to_owned(),
            end: None,
            metrics,
        }
    }

    /// Begins anew if what was told is long. Tells whether it did: then the fleet, and whose weights are cut, are told anew.
    pub fn begin_anew_if_long(&mut self, now: Timestamp) -> bool {
        let is_long = self.journal.is_long();
        if is_long {
            let lost = self.journal.begin_anew(&writer(&self.identity, now));
            self.metrics.lost.inc_by(lost);
        }
        is_long
    }

    /// Tells the fleet on which is decided next.
    pub fn see<'a>(&mut self, fleet: impl IntoIterator<Item = Seen<'a>>, now: Timestamp) {
        self.journal.see(fleet, now);
    }

    /// Tells whose weights are cut, if that has not been told. It follows from the fleet that was told last.
    pub fn settle(&mut self, epoch: &Epoch) {
        self.journal.settle(epoch);
    }

    /// What the next decision names as the state of the log.
    #[must_use]
    pub const fn state(&self) -> B256 {
        self.journal.state()
    }

    /// Tells a decision.
    pub fn decided(&mut self, request: &Request, decision: &Decision, now: Timestamp) {
        self.journal.decided(request, decision, now);
    }

    /// Tells that a decision was not carried out.
    pub fn undone(&mut self, request: &Request, decision: &Decision, why: &str) {
        self.journal.undone(request, decision, why);
    }

    /// Writes what was told, if a decision is among it. Whether that works shows in log and metrics; nothing waits for it longer
    /// than [`PATIENCE`].
    pub async fn write(&mut self) {
        if !self.journal.has_decisions() && self.journal.bytes() < ENOUGH {
            return;
        }
        let written = tokio::time::timeout(PATIENCE, self.write_part())
            .await
            .unwrap_or(Err(RecordError::TimedOut));
        let failed_before = self.metrics.failing.get() > 0;
        self.metrics.failing.set(i64::from(written.is_err()));
        match written {
            Ok(()) => {
                self.metrics.parts.inc();
                if failed_before {
                    tracing::info!("decisions are written to the archive again");
                }
            }
            Err(error) => {
                self.end = None;
                if !failed_before {
                    tracing::warn!(
                        error = crate::error::chain(&error),
                        "decisions cannot be written to the archive"
                    );
                }
            }
        }
    }

    async fn write_part(&mut self) -> Result<(), RecordError> {
        let end = match self.end {
            Some(end) => end,
            None => self.find_end().await?,
        };
        let part = end.part.saturating_add(1);
        let file = self.journal.file(part, end.address);
        let until = self.journal.state();
        let index = index_path(&self.cluster, part);
        if let Some(address) = self.store.write_once(&index, file).await? {
            self.journal.written(until);
            self.end = Some(End {
                part,
                address: Some(address),
            });
            self.store
                .point(&newest_path(&self.cluster), address)
                .await?;
            return Ok(());
        }
        // Either what we wrote before, of which the answer was lost, or somebody else's.
        let there = self.part_at(&index).await?;
        self.end = None;
        if let Some((address, there)) = there {
            self.journal.is_there(&there);
            self.store
                .point(&newest_path(&self.cluster), address)
                .await?;
        }
        Err(RecordError::Contended)
    }

    /// Looks up where the log ends. The index of the newest part may be behind: those after it are looked for.
    async fn find_end(&mut self) -> Result<End, RecordError> {
        let newest = newest_path(&self.cluster);
        let mut end = End {
            part: 0,
            address: None,
        };
        if let Some((address, part)) = self.part_at(&newest).await? {
            self.journal.is_there(&part);
            end = End {
                part: part.head.part,
                address: Some(address),
            };
        }
        loop {
            let next = end.part.saturating_add(1);
            let Some((address, part)) = self.part_at(&index_path(&self.cluster, next)).await?
            else {
                return Ok(end);
            };
            self.journal.is_there(&part);
            end = End {
                part: next,
                address: Some(address),
            };
        }
    }

    /// The part that an index names.
    async fn part_at(&self, index: &str) -> Result<Option<(B256, Part)>, RecordError> {
        let Some(entry) = self.store.read(index).await? else {
            return Ok(None);
        };
        let no_file = || RecordError::NoFile(index.to_owned());
        let address = read_index_entry(&entry).ok_or_else(no_file)?;
        let path = object_path(address);
        let file = self.store.read(&path).await?.ok_or_else(no_file)?;
        match log::decode(&file) {
            Ok(part) => Ok(Some((address, part))),
            Err(source) => Err(RecordError::NoPart { path, source }),
        }
    }
}

/// A writer's name: a replica leads at most once at a time.
fn writer(identity: &str, now: Timestamp) -> String {
    format!("{identity}/{}", now.as_millisecond())
}

#[cfg(test)]
#[path = "recorder_tests.rs"]
mod tests;
