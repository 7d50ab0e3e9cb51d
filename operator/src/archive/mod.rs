//! The archive: each final batch as a file that an auditor can check against the chain, and what may leave the cluster
//! once it is there.
//!
//! | module | what |
//! |---|---|
//! | [`run`] | a lane's loop on the leader |
//! | [`build`], [`keep`] | a batch's file; what may be removed; pure |
//! | [`observe`] | reads batches, their records and certificates |
//! | [`store`] | writes and reads files |
//!
//! The form of a file, and its verification, are `gridstake_ledger::archive` and `verify`. Nothing is removed from the
//! cluster before its file was read back and found whole.

pub mod build;
pub mod keep;
pub mod metrics;
pub mod observe;
pub mod run;
pub mod store;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use prometheus::Registry;

use self::{
    metrics::{ArchiveFamilies, ArchiveMetrics},
    store::{Location, LocationError, Store},
};
use crate::controllers::placement::recorder::RecorderMetrics;

/// The shortest time for which what is archived also stays in the cluster: a stake can be slashed for what was paid as
/// long as it is unbonding (7 days), and a slash be disputed for 48 hours.
pub const SHORTEST_RETENTION: Duration = Duration::from_hours(9 * 24);

/// What the archive is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// For how long what is archived also stays in the cluster. At least [`SHORTEST_RETENTION`].
    pub retention: Duration,
    /// Whether anything is removed from the cluster at all.
    pub removes: bool,
}

/// The archive. Cloning shares it.
#[derive(Clone, Debug)]
pub struct Archive(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    store: Store,
    terms: Terms,
    metrics: ArchiveFamilies,
    decisions: RecorderMetrics,
    /// Why it cannot be written, in words without times and counters, by the chain whose batch was tried last.
    unavailable: Mutex<BTreeMap<String, String>>,
}

/// Why there is no archive although one is configured.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its address is none.
    #[error("--archive")]
    Location(#[from] LocationError),
    /// The metrics contradict each other.
    #[error("register the archive's metrics")]
    Metrics(#[source] prometheus::Error),
}

impl Archive {
    /// The archive at `location`. Whether it can be written shows when something is to be written.
    pub fn open(location: &str, terms: Terms, registry: &Registry) -> Result<Self, OpenError> {
        let location: Location = location.parse()?;
        Ok(Self(Arc::new(Parts {
            store: Store::new(location),
            terms,
            metrics: ArchiveFamilies::register(registry).map_err(OpenError::Metrics)?,
            decisions: RecorderMetrics::register(registry).map_err(OpenError::Metrics)?,
            unavailable: Mutex::default(),
        })))
    }

    /// Where its files are.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.0.store
    }

    /// What it is to do.
    #[must_use]
    pub fn terms(&self) -> Terms {
        self.0.terms
    }

    /// What it measures of the lane on `chain`.
    #[must_use]
    pub fn metrics(&self, chain: &str) -> ArchiveMetrics {
        self.0.metrics.of(chain)
    }

    /// What is measured of the log of decisions.
    #[must_use]
    pub fn decisions(&self) -> &RecorderMetrics {
        &self.0.decisions
    }

    /// Why the batches of the lane on `chain` cannot be written, if that failed when it was last tried.
    #[must_use]
    pub fn unavailable(&self, chain: &str) -> Option<String> {
        self.0
            .unavailable
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(chain)
            .cloned()
    }

    /// Remembers whether a batch of the lane on `chain` could be written.
    fn set_unavailable(&self, chain: &str, why: Option<String>) {
        let mut unavailable = self
            .0
            .unavailable
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match why {
            Some(why) => unavailable.insert(chain.to_owned(), why),
            None => unavailable.remove(chain),
        };
    }
}
