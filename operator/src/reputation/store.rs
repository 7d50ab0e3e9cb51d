//! The ConfigMaps that hold the shards, each replaced by compare-and-swap.

use gridstake_crds::names::{LABEL_MANAGED_BY, MANAGED_BY, reputation_shard};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client, ResourceExt as _, api::PostParams};

use super::shard::{Shard, Unreadable};
use crate::error::{is_conflict, is_not_found};

/// Why a shard was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
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
    /// Somebody has written something else into it.
    #[error("read ConfigMap {name}")]
    Unreadable {
        /// The ConfigMap.
        name: String,
        /// What is wrong.
        #[source]
        source: Unreadable,
    },
}

impl StoreError {
    /// A static word for metrics.
    #[must_use]
    pub const fn category(&self) -> &'static str {
        match self {
            Self::Kube { .. } => "store",
            Self::Unreadable { .. } => "unreadable",
        }
    }
}

/// A shard as it stands, and the version that the next write replaces; `None`: there is no ConfigMap yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// The histories.
    pub shard: Shard,
    /// How long their text is.
    pub bytes: usize,
    version: Option<String>,
}

/// What became of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Replaced {
    /// It stands, as this.
    Yes(Stored),
    /// Somebody else has written meanwhile: it is to be read again.
    Outdated,
}

/// The ConfigMaps. Cloning shares the client.
#[derive(Clone)]
pub struct ShardStore {
    api: Api<ConfigMap>,
}

impl ShardStore {
    /// Those in `namespace`.
    #[must_use]
    pub fn new(client: Client, namespace: &str) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
        }
    }

    /// The shard `index` as the API server has it.
    ///
    /// # Errors
    /// When it does not answer, or what it has cannot be read.
    pub async fn read(&self, index: usize) -> Result<Stored, StoreError> {
        let name = reputation_shard(index);
        let found = match self.api.get_opt(&name).await {
            Ok(found) => found,
            Err(source) => return Err(failed("get", name, source)),
        };
        let Some(map) = found else {
            return Ok(Stored::default());
        };
        let shard = Shard::read(&map.data.unwrap_or_default())
            .map_err(|source| StoreError::Unreadable { name, source })?;
        Ok(Stored {
            bytes: shard.bytes(),
            shard,
            version: map.metadata.resource_version,
        })
    }

    /// Puts `next` in the place of `present`.
    ///
    /// # Errors
    /// When the API server does not answer or refuses. Then it may have been written.
    pub async fn replace(
        &self,
        index: usize,
        present: &Stored,
        next: Shard,
    ) -> Result<Replaced, StoreError> {
        let name = reputation_shard(index);
        let mut map = ConfigMap {
            data: Some(next.data()),
            ..ConfigMap::default()
        };
        map.metadata.name = Some(name.clone());
        map.metadata.resource_version.clone_from(&present.version);
        map.labels_mut()
            .insert(LABEL_MANAGED_BY.to_owned(), MANAGED_BY.to_owned());
        let params = PostParams::default();
        let result = match present.version {
            // The version that was read goes with it: a replacement of anything newer is refused.
            Some(_) => self.api.replace(&name, &params, &map).await,
            None => self.api.create(&params, &map).await,
        };
        match result {
            Ok(map) => Ok(Replaced::Yes(Stored {
                bytes: next.bytes(),
                shard: next,
                version: map.metadata.resource_version,
            })),
            Err(error) if is_conflict(&error) || is_not_found(&error) || already_exists(&error) => {
                Ok(Replaced::Outdated)
            }
            Err(source) => Err(failed("write", name, source)),
        }
    }
}

fn failed(verb: &'static str, name: String, source: kube::Error) -> StoreError {
    StoreError::Kube {
        verb,
        name,
        source: Box::new(source),
    }
}

fn already_exists(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_already_exists())
}
