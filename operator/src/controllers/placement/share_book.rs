//! The ConfigMap in which payers' use is kept, so that a new leader goes on where the last one was.
//!
//! It is written at most once a minute, and only when something was held, by compare-and-swap: of two replicas that both
//! believe they lead, the second one reads what the first has written and goes on from there. A leader that cannot read
//! or write it goes on with what it knows: jobs are placed all the same, in an order that knows less.

use std::{collections::BTreeMap, time::Duration};

use gridstake_crds::{
    ComputeJob,
    names::{FAIR_SHARE, LABEL_MANAGED_BY, MANAGED_BY},
};
use k8s_openapi::{api::core::v1::ConfigMap, jiff::Timestamp};
use kube::{Api, Client, ResourceExt as _, api::PostParams};

use super::shares::{Unreadable, data, held_between, millis, read};
use crate::{
    error::{is_conflict, is_not_found},
    scheduler::fair_share::{HalfLife, Payer, Usage},
};

/// A request that takes longer holds up the whole queue; it is given up and made anew a minute later.
const PATIENCE: Duration = Duration::from_secs(5);
const MINUTE_MILLIS: u64 = 60 * 1000;

/// Why the ConfigMap was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum BookError {
    /// The API server refused.
    #[error("{verb} ConfigMap {FAIR_SHARE}")]
    Kube {
        /// What was tried.
        verb: &'static str,
        /// What the API server said.
        #[source]
        source: Box<kube::Error>,
    },
    /// The API server did not answer.
    #[error("{0} ConfigMap {FAIR_SHARE}: no answer within {PATIENCE:?}")]
    TimedOut(&'static str),
    /// Somebody has written something else into it. It is left as it is.
    #[error("read ConfigMap {FAIR_SHARE}")]
    Unreadable(#[source] Unreadable),
}

impl BookError {
    /// A static word for metrics.
    #[must_use]
    pub const fn category(&self) -> &'static str {
        match self {
            Self::Kube { .. } | Self::TimedOut(_) => "fair_share_store",
            Self::Unreadable(_) => "fair_share_unreadable",
        }
    }
}

/// What stands in the API server.
#[derive(Debug, PartialEq, Eq)]
enum Stored {
    /// Nobody knows.
    Unknown,
    /// Nothing.
    Absent,
    /// What was last read or written, of this version.
    Version(String),
}

impl Stored {
    fn of(map: &ConfigMap) -> Self {
        let version = map.metadata.resource_version.clone();
        version.map_or(Self::Unknown, Self::Version)
    }
}

/// The use of all payers, and where it is kept.
pub struct ShareBook {
    api: Api<ConfigMap>,
    half_life: HalfLife,
    usage: Usage,
    stored: Stored,
    /// Whether anything was held since it was last written.
    is_news: bool,
}

impl ShareBook {
    /// One that knows nothing yet, kept in `namespace`.
    #[must_use]
    pub fn new(client: Client, namespace: &str, half_life: HalfLife) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            half_life,
            usage: Usage::default(),
            stored: Stored::Unknown,
            is_news: false,
        }
    }

    /// What is booked.
    #[must_use]
    pub fn usage(&self) -> &Usage {
        &self.usage
    }

    /// The half-life.
    #[must_use]
    pub fn half_life(&self) -> HalfLife {
        self.half_life
    }

    /// Books what `jobs` have held until the begin of the minute of `now`, in milliseconds since 1970, if that is not
    /// done yet; reads and writes the ConfigMap where it is due. `payer_of` tells against whose share a namespace's jobs
    /// count.
    ///
    /// # Errors
    /// When it could not be read or written; what is booked stands all the same.
    pub async fn turn<'a>(
        &mut self,
        jobs: impl Iterator<Item = &'a ComputeJob>,
        payer_of: impl FnMut(&str) -> Payer,
        now: u64,
    ) -> Result<(), BookError> {
        let minute = now / MINUTE_MILLIS;
        if minute <= self.usage.minute() {
            return Ok(());
        }
        let read = if self.stored == Stored::Unknown {
            self.read(minute).await
        } else {
            Ok(())
        };
        self.book(jobs, payer_of, minute);
        read?;
        if self.is_news {
            self.write().await?;
        }
        Ok(())
    }

    fn book<'a>(
        &mut self,
        jobs: impl Iterator<Item = &'a ComputeJob>,
        mut payer_of: impl FnMut(&str) -> Payer,
        minute: u64,
    ) {
        // What was held before anything was ever booked is not looked up.
        let from = match self.usage.minute() {
            0 => minute.saturating_mul(MINUTE_MILLIS),
            _ => self.usage.booked_until_millis(),
        };
        let until = minute.saturating_mul(MINUTE_MILLIS);
        let mut held: BTreeMap<Payer, u64> = BTreeMap::new();
        for job in jobs {
            let millis = held_between(job, from, until);
            if millis > 0 {
                let payer = payer_of(&job.namespace().unwrap_or_default());
                let sum = held.entry(payer).or_default();
                *sum = sum.saturating_add(millis);
            }
        }
        self.is_news |= !held.is_empty();
        self.usage = self.usage.advanced(minute, &held, self.half_life);
    }

    /// Takes over what stands in the API server. What was held since is booked anew from the jobs.
    async fn read(&mut self, minute: u64) -> Result<(), BookError> {
        let found = answer("get", self.api.get_opt(FAIR_SHARE)).await?;
        let Some(map) = found else {
            self.stored = Stored::Absent;
            return Ok(());
        };
        let data = map.data.clone().unwrap_or_default();
        self.usage = read(&data, minute).map_err(BookError::Unreadable)?;
        self.stored = Stored::of(&map);
        Ok(())
    }

    async fn write(&mut self) -> Result<(), BookError> {
        let mut map = ConfigMap {
            data: Some(data(&self.usage)),
            ..ConfigMap::default()
        };
        map.metadata.name = Some(FAIR_SHARE.to_owned());
        map.labels_mut()
            .insert(LABEL_MANAGED_BY.to_owned(), MANAGED_BY.to_owned());
        let params = PostParams::default();
        // Until the answer is there it is not known what stands there.
        let written = match std::mem::replace(&mut self.stored, Stored::Unknown) {
            Stored::Unknown => return Ok(()),
            Stored::Absent => answer("write", self.api.create(&params, &map)).await,
            Stored::Version(version) => {
                // The version that was read goes with it: a replacement of anything newer is refused.
                map.metadata.resource_version = Some(version);
                answer("write", self.api.replace(FAIR_SHARE, &params, &map)).await
            }
        };
        match written {
            Ok(map) => {
                self.stored = Stored::of(&map);
                self.is_news = false;
                Ok(())
            }
            // Somebody else has written it, or removed it: it is read in the next minute.
            Err(BookError::Kube { source, .. })
                if is_conflict(&source) || is_not_found(&source) || already_exists(&source) =>
            {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

/// When use is booked after `now`.
#[must_use]
pub fn next_minute(now: Timestamp) -> Option<Timestamp> {
    let minute = millis(now) / MINUTE_MILLIS;
    let next = minute.saturating_add(1).saturating_mul(MINUTE_MILLIS);
    Timestamp::from_millisecond(i64::try_from(next).ok()?).ok()
}

async fn answer<T>(
    verb: &'static str,
    request: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, BookError> {
    match tokio::time::timeout(PATIENCE, request).await {
        Ok(answer) => answer.map_err(|source| BookError::Kube {
            verb,
            source: Box::new(source),
        }),
        Err(_) => Err(BookError::TimedOut(verb)),
    }
}

fn already_exists(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_already_exists())
}

#[cfg(test)]
mod tests;
