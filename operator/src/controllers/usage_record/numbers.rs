//! The job numbers of a lane: each is given out once, whoever leads and however often the operator is restarted.
//!
//! Numbers are reserved in blocks by compare-and-swap on one ConfigMap per lane, so two operators that both believe they
//! lead draw from different blocks. What is left of a block at a restart is abandoned: a hole costs a little gas, a
//! number that is used twice would leave a provider unpaid.

use std::{collections::BTreeSet, sync::Arc};

use gridstake_crds::names::{LABEL_MANAGED_BY, MANAGED_BY, lane_numbers};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client, ResourceExt as _, api::PostParams};
use tokio::sync::Mutex;

use crate::error::is_conflict;

/// How many numbers are reserved at once: a byte of bitmap words, so that numbers stay dense.
pub const BLOCK: u64 = 256;
/// The key of the ConfigMap under which the first number stands that nobody has reserved.
const NEXT: &str = "next";
/// How often a reservation is tried against other operators before the pass is given up and repeated later.
const TRIES: usize = 8;

/// Why no number can be given out.
#[derive(Debug, thiserror::Error)]
pub enum NumbersError {
    /// The API server refused, or did not answer.
    #[error("{verb} ConfigMap {name}")]
    Kube {
        /// What was tried.
        verb: &'static str,
        /// The ConfigMap.
        name: String,
        /// What the API server said.
        #[source]
        source: Box<kube::Error>,
    },
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
    /// Others were quicker, every time.
    #[error("reserve job numbers in ConfigMap {0}: it changed {TRIES} times meanwhile")]
    Contended(String),
}

impl NumbersError {
    /// A static word for metrics.
    #[must_use]
    pub fn category(&self) -> &'static str {
        match self {
            Self::Kube { .. } => "reserve_numbers",
            Self::NotANumber { .. } => "numbers_unreadable",
            Self::Spent(_) => "numbers_spent",
            Self::Contended(_) => "numbers_contended",
        }
    }
}

/// The numbers of one lane. Cloning shares them.
#[derive(Clone)]
pub struct Numbers {
    api: Api<ConfigMap>,
    name: String,
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
            api: Api::namespaced(client, namespace),
            name: lane_numbers(lane),
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
            .ok_or_else(|| NumbersError::Spent(self.name.clone()))
    }

    /// Sees to it that no number below `floor` is given out any more.
    pub async fn raise(&self, floor: u64) -> Result<(), NumbersError> {
        self.change(|present| {
            let (first, _) = advanced(&self.name, present, 0)?;
            let (raised, mut wanted) = advanced(&self.name, present, floor)?;
            let data = wanted.data.get_or_insert_default();
            data.insert(NEXT.to_owned(), raised.to_string());
            Ok((raised, (raised > first).then_some(wanted)))
        })
        .await
        .map(|_| ())
    }

    /// Takes back a number that is known to have been written nowhere. Where that is not certain, such as after a
    /// timeout, it must not be given back.
    pub async fn give_back(&self, number: u64) {
        self.reserved.lock().await.0.insert(number);
    }

    /// Reserves a block; returns its first number.
    async fn reserve(&self, floor: u64) -> Result<u64, NumbersError> {
        self.change(|present| {
            let (first, wanted) = advanced(&self.name, present, floor)?;
            Ok((first, Some(wanted)))
        })
        .await
    }

    /// Writes what `change` makes of the ConfigMap, by compare-and-swap; returns the number that comes with it.
    async fn change(
        &self,
        change: impl Fn(Option<&ConfigMap>) -> Result<(u64, Option<ConfigMap>), NumbersError>,
    ) -> Result<u64, NumbersError> {
        let failed = |verb| {
            let name = self.name.clone();
            move |source| NumbersError::Kube {
                verb,
                name,
                source: Box::new(source),
            }
        };
        for _ in 0..TRIES {
            let present = self.api.get_opt(&self.name).await.map_err(failed("get"))?;
            let (number, wanted) = change(present.as_ref())?;
            let Some(wanted) = wanted else {
                return Ok(number);
            };
            let params = PostParams::default();
            let result = match present {
                // The version that was read goes with it: a replacement of anything newer is refused.
                Some(_) => self.api.replace(&self.name, &params, &wanted).await,
                None => self.api.create(&params, &wanted).await,
            };
            match result {
                Ok(_) => return Ok(number),
                Err(error) if is_conflict(&error) || already_exists(&error) => {}
                Err(error) => return Err(failed("write")(error)),
            }
        }
        Err(NumbersError::Contended(self.name.clone()))
    }
}

fn already_exists(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_already_exists())
}

/// The first number of the next block, and the ConfigMap after it is reserved.
fn advanced(
    name: &str,
    present: Option<&ConfigMap>,
    floor: u64,
) -> Result<(u64, ConfigMap), NumbersError> {
    let mut map = present.cloned().unwrap_or_default();
    if present.is_none() {
        map.metadata.name = Some(name.to_owned());
        map.labels_mut()
            .insert(LABEL_MANAGED_BY.to_owned(), MANAGED_BY.to_owned());
    }
    let next = match map.data.as_ref().and_then(|data| data.get(NEXT)) {
        None => 0,
        Some(text) => text.parse().map_err(|_| NumbersError::NotANumber {
            name: name.to_owned(),
            found: text.clone(),
        })?,
    };
    let first: u64 = if next < floor {
        floor.next_multiple_of(BLOCK)
    } else {
        next
    };
    let after = first
        .checked_add(BLOCK)
        .ok_or_else(|| NumbersError::Spent(name.to_owned()))?;
    map.data
        .get_or_insert_default()
        .insert(NEXT.to_owned(), after.to_string());
    Ok((first, map))
}

#[cfg(test)]
#[path = "numbers_tests.rs"]
mod tests;
