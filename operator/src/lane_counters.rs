//! The ConfigMap of a lane in which stands what only ever rises: the next job number, and the first week that is not reported.
//! It is changed by compare-and-swap, so that of two operators that both believe they lead neither takes back what the other
//! wrote.

use gridstake_crds::names::{LABEL_MANAGED_BY, MANAGED_BY, lane_numbers};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client, ResourceExt as _, api::PostParams};

use crate::error::is_conflict;

/// How often a change is tried against other operators before the pass is given up and repeated later.
const TRIES: usize = 8;

/// Why the ConfigMap was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum CountersError {
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
    /// Others were quicker, every time.
    #[error("write ConfigMap {0}: it changed {TRIES} times meanwhile")]
    Contended(String),
}

/// The ConfigMap of one lane. Cloning shares the client.
#[derive(Clone)]
pub struct LaneCounters {
    api: Api<ConfigMap>,
    name: String,
}

impl LaneCounters {
    /// That of `lane`, kept in `namespace`.
    #[must_use]
    pub fn new(client: Client, namespace: &str, lane: u32) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            name: lane_numbers(lane),
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What stands under `key`, if anything does.
    pub async fn get(&self, key: &str) -> Result<Option<String>, CountersError> {
        let map = self.api.get_opt(&self.name).await;
        let map = map.map_err(|source| self.failed("get", source))?;
        Ok(map.and_then(|map| map.data?.remove(key)))
    }

    /// Writes what `change` makes of what stands under `key`; returns what comes with it. If it makes nothing of it, nothing
    /// is written.
    pub async fn change<T, E: From<CountersError>>(
        &self,
        key: &str,
        change: impl Fn(Option<&str>) -> Result<(T, Option<String>), E>,
    ) -> Result<T, E> {
        for _ in 0..TRIES {
            let present = self.api.get_opt(&self.name).await;
            let present = present.map_err(|source| self.failed("get", source))?;
            let data = present.as_ref().and_then(|map| map.data.as_ref());
            let (outcome, wanted) =
                change(data.and_then(|data| data.get(key)).map(String::as_str))?;
            let Some(wanted) = wanted else {
                return Ok(outcome);
            };
            let mut map = present.clone().unwrap_or_else(|| self.empty());
            map.data
                .get_or_insert_default()
                .insert(key.to_owned(), wanted);
            let params = PostParams::default();
            let result = match present {
                // The version that was read goes with it: a replacement of anything newer is refused.
                Some(_) => self.api.replace(&self.name, &params, &map).await,
                None => self.api.create(&params, &map).await,
            };
            match result {
                Ok(_) => return Ok(outcome),
                Err(error) if is_conflict(&error) || already_exists(&error) => {}
                Err(error) => return Err(self.failed("write", error).into()),
            }
        }
        Err(CountersError::Contended(self.name.clone()).into())
    }

    fn empty(&self) -> ConfigMap {
        let mut map = ConfigMap::default();
        map.metadata.name = Some(self.name.clone());
        map.labels_mut()
            .insert(LABEL_MANAGED_BY.to_owned(), MANAGED_BY.to_owned());
        map
    }

    fn failed(&self, verb: &'static str, source: kube::Error) -> CountersError {
        CountersError::Kube {
            verb,
            name: self.name.clone(),
            source: Box::new(source),
        }
    }
}

fn already_exists(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_already_exists())
}
