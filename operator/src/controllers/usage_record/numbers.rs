//! The job numbers of a lane: each is given out once, whoever leads and however often the operator is restarted.
//!
//! Numbers are reserved in blocks by compare-and-swap on one ConfigMap per lane, so two operators that both believe they
//! lead draw from different blocks. What is left of a block at a restart is abandoned: a hole costs a little gas, a
//! number that is used twice would leave a provider unpaid.

use std::{collections::BTreeSet, sync::Arc};

use kube::Client;
use tokio::sync::Mutex;

use crate::lane_counters::{CountersError, LaneCounters};

/// How many numbers are reserved at once: a byte of bitmap words, so that numbers stay dense.
pub const BLOCK: u64 = 256;
/// The key of the ConfigMap under which the first number stands that nobody has reserved.
const NEXT: &str = "next";
/// Why no number can be given out.
#[derive(Debug, thiserror::Error)]
pub enum NumbersError {
    /// The ConfigMap was not read or written.
    #[error("reserve job numbers")]
    Counters(#[from] CountersError),
    /// Somebody has written something else into the ConfigMap.
    #[error(
        "read ConfigMap {name}: data.{NEXT} is {found:?}; write the lowest job number that no UsageRecord of the lane has, such as \"512\""
    )]
    NotANumber {
        /// The ConfigMap.
        name: String,
        /// What stands there.
        found: String,
    },
    /// All numbers are given out.
    #[error("reserve job numbers in ConfigMap {0}: the lane has none left")]
    Spent(String),
}

impl NumbersError {
    /// A static word for metrics.
    #[must_use]
    pub fn category(&self) -> &'static str {
        match self {
            Self::Counters(CountersError::Kube { .. }) => "reserve_numbers",
            Self::NotANumber { .. } => "numbers_unreadable",
            Self::Spent(_) => "numbers_spent",
            Self::Counters(CountersError::Contended(_)) => "numbers_contended",
        }
    }
}

/// The numbers of one lane. Cloning shares them.
#[derive(Clone)]
pub struct Numbers {
    counters: LaneCounters,
    reserved: Arc<Mutex<Reserved>>,
}

/// Numbers that this process alone may give out.
#[derive(Debug, Default)]
struct Reserved(BTreeSet<u64>);

impl Reserved {
    fn lowest(&mut self) -> Option<u64> {
        self.0.pop_first()
    }
}

impl Numbers {
    /// The numbers of `lane`, kept in `namespace`.
    #[must_use]
    pub fn new(client: Client, namespace: &str, lane: u32) -> Self {
        Self {
            counters: LaneCounters::new(client, namespace, lane),
            reserved: Arc::default(),
        }
    }

    /// A number that nobody else has or will get. No block below `floor` is reserved: it lies above every number that is
    /// known to be in use, should the ConfigMap have been lost.
    pub async fn take(&self, floor: u64) -> Result<u64, NumbersError> {
        let mut reserved = self.reserved.lock().await;
        if let Some(number) = reserved.lowest() {
            return Ok(number);
        }
        let first = self.reserve(floor).await?;
        reserved.0 = (first..first + BLOCK).collect();
        reserved
            .lowest()
            .ok_or_else(|| NumbersError::Spent(self.counters.name().to_owned()))
    }

    /// Sees to it that no number below `floor` is given out any more.
    pub async fn raise(&self, floor: u64) -> Result<(), NumbersError> {
        self.counters
            .change(NEXT, |present| {
                let (first, _) = advanced(self.counters.name(), present, 0)?;
                let (raised, _) = advanced(self.counters.name(), present, floor)?;
                Ok(((), (raised > first).then(|| raised.to_string())))
            })
            .await
    }

    /// Sees to it that `count` numbers, and the rest of their last block, are given out by nobody any more: somebody may have
    /// had them of whom nothing is known.
    pub async fn leap(&self, count: u64) -> Result<(), NumbersError> {
        self.counters
            .change(NEXT, |present| {
                let (first, _) = advanced(self.counters.name(), present, 0)?;
                let spent = || NumbersError::Spent(self.counters.name().to_owned());
                let floor = first.checked_add(count).ok_or_else(spent)?;
                let (raised, _) = advanced(self.counters.name(), present, floor)?;
                Ok(((), Some(raised.to_string())))
            })
            .await
    }

    /// Takes back a number that is known to have been written nowhere. Where that is not certain, such as after a
    /// timeout, it must not be given back.
    pub async fn give_back(&self, number: u64) {
        self.reserved.lock().await.0.insert(number);
    }

    /// Reserves a block; returns its first number.
    async fn reserve(&self, floor: u64) -> Result<u64, NumbersError> {
        self.counters
            .change(NEXT, |present| {
                let (first, after) = advanced(self.counters.name(), present, floor)?;
                Ok((first, Some(after.to_string())))
            })
            .await
    }
}

/// The first number of the next block, and the one after it, where `present` is the first that nobody has reserved.
fn advanced(name: &str, present: Option<&str>, floor: u64) -> Result<(u64, u64), NumbersError> {
    let next = match present {
        None => 0,
        Some(text) => text.parse().map_err(|_| NumbersError::NotANumber {
            name: name.to_owned(),
            found: text.to_owned(),
        })?,
    };
    let spent = || NumbersError::Spent(name.to_owned());
    let first: u64 = if next < floor {
        floor.checked_next_multiple_of(BLOCK).ok_or_else(spent)?
    } else {
        next
    };
    let after = first.checked_add(BLOCK).ok_or_else(spent)?;
    Ok((first, after))
}

#[cfg(test)]
#[path = "numbers_tests.rs"]
mod tests;
