//! The archive's loop: one task a lane, on the leader.
//!
//! A batch is written as soon as it is final. Whatever cannot be written stays where it is, says so in its condition
//! `Archived`, and is tried again. Once an hour the files of all batches that are still in the cluster are looked for: one
//! that is missing is written again. After that, what is archived for longer than the retention is removed, each
//! object only after its file was read back.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use alloy::primitives::B256;
use gridstake_crds::{
    ComputeJob, SettlementBatch, UsageRecord, names,
    settlement_batch::BatchState,
    usage_record::{RecordSettlement, RecordState},
};
use gridstake_ledger::archive;
use k8s_openapi::jiff::Timestamp;
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, Preconditions},
    runtime::events::EventType,
};
use tokio::sync::broadcast::{Receiver, error::RecvError, error::TryRecvError};
use tokio_util::sync::CancellationToken;

use super::{
    Archive,
    build::{self, BuildError},
    keep::{self, FinalBatch, OldRecord},
    metrics::{self, ArchiveMetrics},
    observe::{self, ObserveError},
    store::StoreError,
};
use crate::{
    Context,
    error::chain as causes,
    settlement::{
        Lane,
        status::{self, Archival},
    },
    status::{Guard, StatusError},
};

/// The pause after which what could not be archived is tried again.
const RETRY: Duration = Duration::from_secs(30);
/// How often all final batches are looked at.
const LOOK_AROUND: Duration = Duration::from_hours(1);

/// Why a pass failed. The next one begins anew.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// Something could not be read.
    #[error(transparent)]
    Observe(#[from] ObserveError),
    /// The archive.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A status could not be written.
    #[error("write a status")]
    Status(#[from] StatusError),
    /// An object could not be removed, or its job not be looked for.
    #[error("{op}")]
    Remove {
        /// What was done.
        op: String,
        /// What the API server said.
        #[source]
        source: Box<kube::Error>,
    },
    /// A batch cannot be archived as it is.
    #[error("archive {name}")]
    Build {
        /// The batch.
        name: String,
        /// Why.
        #[source]
        source: BuildError,
    },
}

impl ArchiveError {
    /// A static word for metrics.
    #[must_use]
    pub const fn category(&self) -> &'static str {
        match self {
            Self::Observe(_) => "observe",
            Self::Store(error) => error.category(),
            Self::Status(_) => "apply_status",
            Self::Remove { .. } => "remove",
            Self::Build { .. } => "incomplete",
        }
    }
}

/// Archives what is final on `lane` until `stop`.
pub async fn run(context: Context, lane: Lane, archive: Archive, stop: CancellationToken) {
    let mut archivist = Archivist::new(context, lane, archive);
    tracing::info!(chain = archivist.chain(), "archiving begins");
    loop {
        let pass = async {
            if archivist.context.leadership.holds() {
                archivist.one_pass().await;
            }
        };
        // Every step can be repeated: it can be cut off at any point.
        if Box::pin(stop.run_until_cancelled(pass)).await.is_none() {
            break;
        }
        tokio::select! {
            () = stop.cancelled() => break,
            () = archivist.until_final() => {}
            () = tokio::time::sleep(RETRY) => {}
        }
    }
    tracing::info!(chain = archivist.chain(), "archiving ends");
}

/// What the loop remembers.
pub struct Archivist {
    context: Context,
    lane: Lane,
    archive: Archive,
    metrics: ArchiveMetrics,
    finals: Receiver<String>,
    /// Batches that are to be archived, and since when they are final.
    waiting: BTreeMap<String, Option<Timestamp>>,
    looked_around: Option<Instant>,
}

impl Archivist {
    /// A loop that remembers nothing.
    #[must_use]
    pub fn new(context: Context, lane: Lane, archive: Archive) -> Self {
        Self {
            finals: lane.finals(),
            metrics: archive.metrics(lane.chain().name()),
            context,
            lane,
            archive,
            waiting: BTreeMap::new(),
            looked_around: None,
        }
    }

    fn chain(&self) -> &str {
        self.lane.chain().name()
    }

    /// Waits until a batch has become final.
    async fn until_final(&mut self) {
        match self.finals.recv().await {
            Ok(name) => {
                self.waiting.insert(name, None);
            }
            Err(RecvError::Lagged(_)) => self.looked_around = None,
            // The lane holds the sender.
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }

    /// Looks at all final batches in the next pass.
    pub fn look_around(&mut self) {
        self.looked_around = None;
    }

    /// One pass; a failure is logged and counted.
    pub async fn one_pass(&mut self) {
        loop {
            match self.finals.try_recv() {
                Ok(name) => {
                    self.waiting.insert(name, None);
                }
                Err(TryRecvError::Lagged(_)) => self.looked_around = None,
                Err(_) => break,
            }
        }
        let outcome = self.pass().await;
        let metrics = &self.metrics;
        let waiting = i64::try_from(self.waiting.len()).unwrap_or(i64::MAX);
        metrics.waiting.set(waiting);
        let now = (self.context.now)();
        let oldest = self.waiting.values().flatten().min();
        metrics
            .oldest_seconds
            .set(oldest.map_or(0, |oldest| now.duration_since(*oldest).as_secs().max(0)));
        if let Err(error) = outcome {
            metrics.failed(error.category());
            tracing::warn!(
                chain = self.chain(),
                error = causes(&error),
                category = error.category(),
                "a pass over the archive failed"
            );
        }
    }

    async fn pass(&mut self) -> Result<(), ArchiveError> {
        let due = self
            .looked_around
            .is_none_or(|at| at.elapsed() >= LOOK_AROUND);
        let mut all = Vec::new();
        if due {
            all = observe::final_batches(&self.context.client, &self.lane).await?;
            self.find_missing(&all).await;
            self.looked_around = Some(Instant::now());
        }
        let names: Vec<String> = self.waiting.keys().cloned().collect();
        for name in names {
            match self.archive_one(&name).await {
                Ok(()) => {
                    self.waiting.remove(&name);
                }
                Err(error @ ArchiveError::Build { .. }) => {
                    // The others can be archived all the same.
                    self.metrics.failed(error.category());
                    tracing::warn!(error = causes(&error), "a batch cannot be archived");
                }
                Err(error) => return Err(error),
            }
        }
        if due && self.archive.terms().removes {
            self.remove_records().await?;
            self.remove_batches(&all).await?;
        }
        Ok(())
    }

    /// Remembers the batches that no file holds, or whose file is gone.
    async fn find_missing(&mut self, all: &[FinalBatch]) {
        for batch in all {
            let there = match batch.file {
                None => false,
                // An error is told when the first of those that wait is written.
                Some(file) => self.archive.store().has(file).await.unwrap_or(true),
            };
            if !there {
                self.waiting.insert(batch.name.clone(), batch.since);
            }
        }
    }

    /// Writes the file of a final batch, and then who is in it.
    async fn archive_one(&mut self, name: &str) -> Result<(), ArchiveError> {
        let client = self.context.client.clone();
        let Some(batch) = observe::batch(&client, name).await? else {
            return Ok(());
        };
        let Some(is_final) = FinalBatch::read(&batch) else {
            return Ok(());
        };
        self.waiting.insert(name.to_owned(), is_final.since);
        let (records, index, file) = match self.file(&batch).await {
            Ok(made) => made,
            Err(error) => {
                if let ArchiveError::Build { source, .. } = &error {
                    // After the API server was restored from a backup records may be gone that were archived before.
                    let store = self.archive.store();
                    if let Some((address, _)) = observe::written_before(store, &batch).await? {
                        return self.was_archived(&batch, address).await;
                    }
                    self.say(&batch, &Archival::Incomplete(source.to_string()))
                        .await?;
                }
                return Err(error);
            }
        };
        let address = match self.archive.store().write(&index, file).await {
            Ok(address) => address,
            Err(error) => {
                let words = error.words();
                self.archive
                    .set_unavailable(self.chain(), Some(words.clone()));
                self.say(&batch, &Archival::Unavailable(words)).await?;
                self.have_records_looked_at(&records);
                return Err(error.into());
            }
        };
        self.archive.set_unavailable(self.chain(), None);
        for record in &records {
            self.stamp(record, name, address).await?;
        }
        self.say(&batch, &Archival::Archived(address)).await?;
        self.metrics.archived.inc();
        tracing::info!(batch = name, file = %address, "a batch is archived");
        Ok(())
    }

    /// Writes down that the archive holds the file of a batch since before.
    async fn was_archived(
        &self,
        batch: &SettlementBatch,
        address: B256,
    ) -> Result<(), ArchiveError> {
        let name = batch.name_any();
        for record in &self.records(batch).await? {
            self.stamp(record, &name, address).await?;
        }
        self.say(batch, &Archival::Archived(address)).await?;
        tracing::info!(batch = name, file = %address, "a batch is archived since before");
        Ok(())
    }

    /// The records of a batch, as far as they are there.
    async fn records(&self, batch: &SettlementBatch) -> Result<Vec<UsageRecord>, ArchiveError> {
        let numbers: BTreeSet<u64> = build::entries(batch)
            .map_err(|source| ArchiveError::Build {
                name: batch.name_any(),
                source,
            })?
            .iter()
            .map(|entry| entry.job_no)
            .collect();
        let config = self.lane.chain().config();
        Ok(observe::records(&self.context, config, &numbers).await?)
    }

    /// The records of a batch, its place in the index, and its file.
    async fn file(
        &self,
        batch: &SettlementBatch,
    ) -> Result<(Vec<UsageRecord>, String, Vec<u8>), ArchiveError> {
        let incomplete = |source| ArchiveError::Build {
            name: batch.name_any(),
            source,
        };
        let records = self.records(batch).await?;
        let nodes = observe::nodes(&self.context, &records);
        let vault = self.lane.chain().config().vault.address;
        let mut archived = build::archived(batch, &records, &nodes, vault, &[]);
        if archived == Err(BuildError::Root) && batch.labels().contains_key(names::LABEL_RESTORED) {
            let heads = observe::decision_heads(&self.context, self.archive.store()).await?;
            archived = build::archived(batch, &records, &nodes, vault, &heads);
        }
        let archived = archived.map_err(incomplete)?;
        let head = &archived.head;
        let index = archive::index_path(head.chain_id, head.contract, head.lane, head.sequence);
        Ok((records, index, archive::encode(&archived)))
    }

    /// Writes the batch's condition `Archived`.
    async fn say(&self, batch: &SettlementBatch, archival: &Archival) -> Result<(), ArchiveError> {
        let written = status::write_archival(
            &self.context.client,
            &self.context.metrics,
            (self.context.now)(),
            batch,
            archival,
        )
        .await?;
        if let Archival::Unavailable(why) = archival
            && written
        {
            self.context
                .events
                .publish(
                    batch,
                    EventType::Warning,
                    "ArchiveUnavailable",
                    "Archive",
                    why,
                )
                .await;
        }
        Ok(())
    }

    /// Their condition `Archived` follows from what the archive says of itself.
    fn have_records_looked_at(&self, records: &[UsageRecord]) {
        let triggers = self.context.caches.usage_record_triggers();
        for record in records {
            triggers.one(Some(&self.context.namespace), &record.name_any());
        }
    }

    /// Writes into a record which file holds it, if it was this batch that brought its payment to an end.
    async fn stamp(
        &self,
        record: &UsageRecord,
        batch: &str,
        address: B256,
    ) -> Result<(), ArchiveError> {
        let settlement = record.status.as_ref().and_then(|s| s.settlement.as_ref());
        let Some(settlement) = settlement.filter(|settlement| {
            settlement.state == RecordState::Final && settlement.batch.as_deref() == Some(batch)
        }) else {
            return Ok(());
        };
        let settlement = RecordSettlement {
            archive_hash: Some(address.to_string()),
            ..settlement.clone()
        };
        let (client, metrics) = (&self.context.client, &self.context.metrics);
        match status::write_record(client, metrics, record, settlement, Guard::None).await {
            Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
            Err(error) => Err(error.into()),
            Ok(_) => Ok(()),
        }
    }

    async fn remove_batches(&mut self, all: &[FinalBatch]) -> Result<(), ArchiveError> {
        let terms = self.archive.terms();
        let api: Api<SettlementBatch> = Api::all(self.context.client.clone());
        let stated = self.lane.statements();
        let reported = |seconds| stated.is_reported(seconds);
        for batch in keep::batches(all, (self.context.now)(), terms.retention, reported) {
            if self.waiting.contains_key(&batch.name) {
                continue;
            }
            if !self.is_held(batch.file).await? {
                self.waiting.insert(batch.name.clone(), batch.since);
                continue;
            }
            // It may have been archived anew since it was listed.
            let Some(now) = observe::batch(&self.context.client, &batch.name).await? else {
                continue;
            };
            let stays = now.status.as_ref().is_none_or(|status| {
                status.state != Some(BatchState::Final)
                    || status.archive_hash.as_ref().and_then(|h| h.parse().ok()) != batch.file
            });
            if stays {
                continue;
            }
            // What had its number before says nothing any more. While one is left, so is the batch that leads to it.
            for before in names::superseded_batches(&batch.name) {
                let gone = api.delete(&before, &DeleteParams::default()).await;
                removed(gone.map(drop), || {
                    format!("remove SettlementBatch {before}")
                })?;
            }
            let only = DeleteParams::default().preconditions(Preconditions {
                uid: now.uid(),
                resource_version: now.resource_version(),
            });
            removed(api.delete(&batch.name, &only).await.map(drop), || {
                format!("remove SettlementBatch {}", batch.name)
            })?;
            self.metrics.removed(metrics::BATCH);
        }
        Ok(())
    }

    async fn is_held(&self, file: Option<B256>) -> Result<bool, ArchiveError> {
        match file {
            None => Ok(false),
            Some(file) => Ok(self.archive.store().holds(file).await?),
        }
    }

    async fn remove_records(&self) -> Result<(), ArchiveError> {
        let now_ms = u64::try_from((self.context.now)().as_millisecond()).unwrap_or(0);
        let retention = self.archive.terms().retention;
        let cached = self.context.caches.usage_records.state();
        let mut held: BTreeMap<B256, bool> = BTreeMap::new();
        let jobs = keep::records(crate::caches::parsed(&cached), now_ms, retention);
        // A job with records on two lanes, since its namespace's payer has moved, is removed by the lane of the last one.
        let is_ours = |job: &Vec<OldRecord>| job.last().is_some_and(|r| r.chain == self.chain());
        for job in jobs.into_iter().filter(is_ours) {
            let mut all_held = true;
            for file in job.iter().filter_map(|record| record.file) {
                let there = match held.get(&file) {
                    Some(there) => *there,
                    None => self.archive.store().holds(file).await?,
                };
                held.insert(file, there);
                all_held &= there;
            }
            if all_held && self.job_is_gone(&job).await? {
                self.remove_job(&job).await?;
            }
        }
        Ok(())
    }

    async fn job_is_gone(&self, job: &[OldRecord]) -> Result<bool, ArchiveError> {
        let Some(OldRecord {
            job: (namespace, name, uid),
            ..
        }) = job.first()
        else {
            return Ok(false);
        };
        let api: Api<ComputeJob> = Api::namespaced(self.context.client.clone(), namespace);
        let found = api
            .get_metadata_opt(name)
            .await
            .map_err(|source| ArchiveError::Remove {
                op: format!("look for ComputeJob {namespace}/{name}"),
                source: Box::new(source),
            })?;
        Ok(found.is_none_or(|found| found.uid().as_deref() != Some(uid)))
    }

    /// In the order of the slices, one after the other: see [`keep::records`].
    async fn remove_job(&self, job: &[OldRecord]) -> Result<(), ArchiveError> {
        let api: Api<UsageRecord> =
            Api::namespaced(self.context.client.clone(), &self.context.namespace);
        for record in job {
            let only = DeleteParams::default().preconditions(Preconditions {
                uid: Some(record.uid.clone()),
                resource_version: None,
            });
            removed(api.delete(&record.name, &only).await.map(drop), || {
                format!("remove UsageRecord {}", record.name)
            })?;
            self.metrics.removed(metrics::RECORD);
        }
        Ok(())
    }
}

/// What is gone already, or has been replaced or changed since, needs no removal now.
fn removed(
    outcome: Result<(), kube::Error>,
    op: impl FnOnce() -> String,
) -> Result<(), ArchiveError> {
    match outcome {
        Err(source)
            if !crate::error::is_not_found(&source) && !crate::error::is_conflict(&source) =>
        {
            Err(ArchiveError::Remove {
                op: op(),
                source: Box::new(source),
            })
        }
        _ => Ok(()),
    }
}
