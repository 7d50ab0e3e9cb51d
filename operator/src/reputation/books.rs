//! All shards: reads each once, counts what is new, and writes it.
//!
//! A shard is written when there is news, at most once a minute for each 64 KiB of it; minutes in which everything was up are no
//! news and wait for [`QUIET_MINUTES`]. What waits is in memory: a replica that dies loses minutes in which it watched, never
//! records, which the next one finds in the API server.

use std::collections::BTreeMap;

use super::{
    counted::Counted,
    history::History,
    key::{GpuKey, SHARDS},
    looks::Waiting,
    store::{Replaced, ShardStore, StoreError, Stored},
};

/// For how many minutes what is no news waits.
pub const QUIET_MINUTES: u64 = 30;
/// A shard of this many bytes is written once a minute at most, one of twice as many every two minutes.
const BYTES_A_MINUTE: usize = 64 * 1024;

/// What this process knows of one shard.
#[derive(Debug, Default)]
struct Page {
    /// As it stands in the API server, as far as is known. `None`: it is to be read.
    stored: Option<Stored>,
    waiting: Waiting,
    /// The minute, since 1970, in which it was last written or tried to be.
    tried: u64,
}

/// All shards.
pub struct Books {
    store: ShardStore,
    pages: Vec<Page>,
}

impl Books {
    /// Of which nothing is known yet.
    #[must_use]
    pub fn new(store: ShardStore) -> Self {
        Self {
            store,
            pages: (0..SHARDS).map(|_| Page::default()).collect(),
        }
    }

    /// Takes note of which GPUs were up in `minute`, since 1970.
    pub fn see(&mut self, minute: u64, sights: &BTreeMap<GpuKey, bool>) {
        for (key, up) in sights {
            if let Some(page) = self.pages.get_mut(key.shard()) {
                page.waiting.see(minute, key.clone(), *up);
            }
        }
    }

    /// Reads what is not known, counts what is new of `records`, and writes what is due at `now`, in Unix seconds. Returns what
    /// went wrong; the other shards are done all the same, and those are tried again.
    pub async fn turn(&mut self, records: &[Counted], now: u64) -> Vec<StoreError> {
        let mut by_shard: BTreeMap<usize, Vec<&Counted>> = BTreeMap::new();
        for record in records {
            let mut of: Vec<usize> = record.credits.keys().map(GpuKey::shard).collect();
            of.sort_unstable();
            of.dedup();
            for index in of {
                by_shard.entry(index).or_default().push(record);
            }
        }
        let mut errors = Vec::new();
        for (index, page) in self.pages.iter_mut().enumerate() {
            let records = by_shard.remove(&index).unwrap_or_default();
            if let Err(error) = page.turn(&self.store, index, &records, now).await {
                errors.push(error);
            }
        }
        errors
    }

    /// When the first of `records` was sealed that does not stand in every shard that it concerns, in Unix seconds.
    #[must_use]
    pub fn open_since(&self, records: &[Counted]) -> Option<u64> {
        let stands = |record: &Counted, key: &GpuKey| {
            let stored = self.pages.get(key.shard()).and_then(|p| p.stored.as_ref());
            stored.is_some_and(|stored| !stored.shard.is_news(record))
        };
        records
            .iter()
            .filter(|record| !record.credits.keys().all(|key| stands(record, key)))
            .map(|record| record.sealed_at)
            .min()
    }

    /// What is known of `key`, as it stands in the API server: nothing (`Some(None)`), or a history. `None`: it is not known what
    /// stands there.
    #[must_use]
    pub fn history(&self, key: &GpuKey) -> Option<Option<&History>> {
        let stored = self.pages.get(key.shard())?.stored.as_ref()?;
        Some(stored.shard.history(key))
    }
}

impl Page {
    async fn turn(
        &mut self,
        store: &ShardStore,
        index: usize,
        records: &[&Counted],
        now: u64,
    ) -> Result<(), StoreError> {
        let stored = match self.stored.take() {
            Some(stored) => stored,
            None => store.read(index).await?,
        };
        let stored = self.stored.insert(stored);
        let is_news =
            self.waiting.has_news() || records.iter().any(|record| stored.shard.is_news(record));
        let minutes = (now / 60).saturating_sub(self.tried);
        let pause = 1 + u64::try_from(stored.bytes / BYTES_A_MINUTE).unwrap_or(0);
        let is_due = if is_news {
            minutes >= pause
        } else {
            !self.waiting.is_empty() && minutes >= QUIET_MINUTES.max(pause)
        };
        if !is_due {
            return Ok(());
        }
        self.tried = now / 60;
        let records = records.iter().copied();
        let next = stored.shard.with(index, records, self.waiting.offer(), now);
        let Some(next) = next else {
            // All of it stands there already: an answer was lost, or another replica was faster.
            self.waiting.written();
            return Ok(());
        };
        let present = stored.clone();
        // Until the answer is there it is not known what stands there.
        self.stored = None;
        if let Replaced::Yes(stored) = store.replace(index, &present, next).await? {
            self.stored = Some(stored);
            self.waiting.written();
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "books_tests.rs"]
mod tests;
