//! The loop of the log of uptime: one task for each lane, on the leader.

use std::{collections::VecDeque, time::Duration};

use alloy::primitives::B256;
use gridstake_crds::{GpuNode, gpu_node::DeviceHealth};
use gridstake_ledger::{
    archive::{
        self,
        uptime::{decode, encode, index_path, newest_path},
    },
    earnings::LaneId,
    statement,
    uptime::EpochUptime,
};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use tokio_util::sync::CancellationToken;

use super::epoch::{Sight, Watch, to_the_next_look};
use crate::{
    Context,
    archive::{
        Archive,
        store::{Store, StoreError},
    },
    caches::parsed,
    controllers::gpu_node::observe::guarantee,
    error::chain as causes,
    failover,
    settlement::Lane,
};

/// How many epochs wait for an archive that cannot be written; earlier ones are lost: a day.
const MOST_WAITING: usize = 144;

/// Why the log did not grow. It is tried again.
#[derive(Debug, thiserror::Error)]
pub enum UptimeError {
    /// The archive.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The newest epoch cannot be read.
    #[error(
        "read {path} of the archive: {problem}; restore the file, or remove {path} to begin the log anew"
    )]
    Newest {
        /// What was to be read.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// Runs the loop of `lane` until `stop`.
pub async fn run(context: Context, lane: Lane, archive: Archive, stop: CancellationToken) {
    let mut log = Log::new(context, lane, &archive);
    loop {
        let now = log.now();
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(Duration::from_secs(to_the_next_look(now))) => {}
        }
        if log.context.leadership.holds() {
            // What is written is written whole: it can be cut off at any point.
            if stop.run_until_cancelled(log.look()).await.is_none() {
                break;
            }
        } else {
            log.forget();
        }
    }
}

/// A lane's log, and what of it waits to be written.
pub struct Log {
    context: Context,
    lane: Lane,
    store: Store,
    watch: Option<Watch>,
    waiting: VecDeque<Watch>,
    /// The log's head, once it is known.
    head: Option<B256>,
}

impl Log {
    /// A log of which nothing is known.
    #[must_use]
    pub fn new(context: Context, lane: Lane, archive: &Archive) -> Self {
        Self {
            context,
            lane,
            store: archive.store().clone(),
            watch: None,
            waiting: VecDeque::new(),
            head: None,
        }
    }

    fn now(&self) -> u64 {
        u64::try_from((self.context.now)().as_second()).unwrap_or(0)
    }

    fn id(&self) -> LaneId {
        self.lane.chain().config().lane_id()
    }

    /// Somebody else leads: what he writes is not known here.
    fn forget(&mut self) {
        (self.watch, self.head) = (None, None);
        self.waiting.clear();
    }

    /// Looks at the nodes just after a minute has ended, and writes the epochs that are over.
    pub async fn look(&mut self) {
        let now = self.now();
        let sights = self.sights();
        self.see(now, sights);
        if let Err(error) = self.write().await {
            tracing::warn!(
                chain = self.lane.chain().name(),
                error = causes(&error),
                waiting = self.waiting.len(),
                "the log of uptime is not written"
            );
        }
    }

    /// What is seen at `now`, in Unix seconds.
    pub fn see(&mut self, now: u64, sights: Vec<Sight>) {
        let watch = self.watch.get_or_insert_with(|| Watch::at(now));
        watch.see(now, sights);
        if watch.is_over(now) {
            let over = std::mem::replace(watch, Watch::at(now));
            self.waiting.push_back(over);
            while self.waiting.len() > MOST_WAITING {
                self.waiting.pop_front();
            }
        }
    }

    /// The nodes for which a provider on the lane's chain answers, less those that are excused: of them this minute says
    /// nothing.
    fn sights(&self) -> Vec<Sight> {
        let (caches, now) = (&self.context.caches, (self.context.now)());
        let nodes = caches.gpu_nodes.state();
        let (amnesty, terms) = (failover::amnesty_now(caches, now), caches.failover());
        let sight = |gpu_node: &GpuNode| {
            let guarantee = guarantee(caches, &self.context.chains, gpu_node, now);
            let provider = guarantee.backing.in_force()?;
            if *provider.chain != *self.lane.chain().name() {
                return None;
            }
            let name = gpu_node.name_any();
            let heard_of = caches.last_heartbeat(&name);
            if failover::is_excused(gpu_node, heard_of, || amnesty.is_some(), terms, now) {
                return None;
            }
            let devices = gpu_node.status.iter().flat_map(|status| &status.devices);
            let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
            let heard_at = heard_of.map(Timestamp::as_second);
            Some(Sight {
                provider: provider.id,
                heard_at: heard_at.and_then(|at| u64::try_from(at).ok()),
                gpus: count(devices.clone().count()),
                healthy: count(
                    devices
                        .filter(|device| device.health == DeviceHealth::Healthy)
                        .count(),
                ),
                node: name,
            })
        };
        parsed(&nodes).filter_map(sight).collect()
    }

    /// Writes the epochs that are over, the oldest first.
    pub async fn write(&mut self) -> Result<(), UptimeError> {
        while let Some(watch) = self.waiting.front().cloned() {
            let previous = match self.head {
                Some(head) => head,
                None => self
                    .newest()
                    .await?
                    .map_or(B256::ZERO, |epoch| epoch.head()),
            };
            self.head = Some(previous);
            if let Some(epoch) = watch.end(previous) {
                let written = self.write_one(epoch).await?;
                self.head = Some(written.head());
                let said = statement::uptime(written.epoch, written.head());
                self.lane.statements().uptime(said);
            }
            self.waiting.pop_front();
        }
        Ok(())
    }

    /// Writes an epoch. If another replica has written one of this number, that one counts.
    async fn write_one(&self, epoch: EpochUptime) -> Result<EpochUptime, UptimeError> {
        let lane = self.id();
        let path = index_path(lane, epoch.epoch);
        let written = self.store.write_once(&path, encode(lane, &epoch)).await?;
        let (counts, address) = match written {
            Some(address) => (epoch, address),
            None => {
                let counts = self.read(&path).await?.unwrap_or(epoch);
                let address = archive::address(&encode(lane, &counts));
                (counts, address)
            }
        };
        self.store.point(&newest_path(lane), address).await?;
        Ok(counts)
    }

    /// The newest epoch of the log; `None` if there is no log.
    async fn newest(&self) -> Result<Option<EpochUptime>, UptimeError> {
        self.read(&newest_path(self.id())).await
    }

    /// The epoch that the index at `path` names.
    async fn read(&self, path: &str) -> Result<Option<EpochUptime>, UptimeError> {
        let Some(entry) = self.store.read(path).await? else {
            return Ok(None);
        };
        let wrong = |problem: String| UptimeError::Newest {
            path: path.to_owned(),
            problem,
        };
        let address = archive::read_index_entry(&entry)
            .ok_or_else(|| wrong("it names no file".to_owned()))?;
        let file = self
            .store
            .read(&archive::object_path(address))
            .await?
            .ok_or_else(|| wrong(format!("there is no file {address}")))?;
        let (_, epoch) = decode(&file).map_err(|error| wrong(causes(&error)))?;
        Ok(Some(epoch))
    }
}
