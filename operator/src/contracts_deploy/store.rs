//! Where a deployment is written down: a ConfigMap, or a file of Helm values with its record beside it.

use std::{
    collections::BTreeMap,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde::Deserialize;
use serde_json::json;

use super::record::Record;
use crate::chain::config::ContractConfig;

/// The entry of the ConfigMap that the operator reads.
const CHAINS_FILE: &str = "chains.yaml";
/// The ends of the entries of the ConfigMap with the records of deployments that are not finished, after the chain's name.
const PROGRESS: &str = ".progress.json";
/// Who writes the ConfigMap, in its managed fields.
const MANAGER: &str = "gridstake-contracts-deploy";

/// A place.
#[derive(Clone, Debug)]
pub enum Store {
    /// A ConfigMap with the operator's chains file.
    ConfigMap(Box<Api<ConfigMap>>, String),
    /// A file of Helm values.
    File(PathBuf),
}

/// Why a place cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The API server cannot be asked, or refuses.
    #[error("{op} ConfigMap {name}")]
    Api {
        /// The verb.
        op: &'static str,
        /// The ConfigMap.
        name: String,
        /// What is wrong.
        #[source]
        source: Box<kube::Error>,
    },
    /// A file cannot be read or written.
    #[error("{op} {path}")]
    File {
        /// The verb.
        op: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: std::io::Error,
    },
    /// What is there is not what this program writes.
    #[error(
        "{place} holds no deployment that can be gone on from: {problem}. Correct it, or remove it to deploy anew"
    )]
    Unreadable {
        /// The file, or the ConfigMap and its entry.
        place: String,
        /// What is wrong.
        problem: String,
    },
}

/// As much of a chains file, and of Helm values, as says what was deployed.
#[derive(Deserialize)]
struct Finished {
    chains: Vec<FinishedChain>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct FinishedChain {
    name: String,
    chain_id: u64,
    vault: ContractConfig,
    settlement: ContractConfig,
}

/// The record in `progress`, else what the finished document `finished` says of the chain that is `wanted`; an empty record
/// if there is neither.
fn recorded(
    progress: Option<(&str, String)>,
    finished: Option<(&str, String)>,
    wanted: impl Fn(&FinishedChain) -> bool,
) -> Result<Record, StoreError> {
    let unreadable = |place: String, problem: String| StoreError::Unreadable { place, problem };
    if let Some((text, place)) = progress {
        return serde_json::from_str(text).map_err(|error| unreadable(place, error.to_string()));
    }
    let Some((text, place)) = finished else {
        return Ok(Record::default());
    };
    let file: Finished =
        serde_saphyr::from_str(text).map_err(|error| unreadable(place, error.to_string()))?;
    Ok(file
        .chains
        .iter()
        .find(|chain| wanted(chain))
        .map_or_else(Record::default, |chain| Record {
            chain_id: chain.chain_id,
            vault: Some(chain.vault),
            settlement: Some(chain.settlement),
            ..Record::default()
        }))
}

impl Store {
    /// What an earlier run has written about `chain`.
    pub async fn load(&self, chain: &str) -> Result<Record, StoreError> {
        match self {
            Self::ConfigMap(api, name) => {
                let found = api.get_opt(name).await.map_err(api_error("read", name))?;
                let data = found.and_then(|map| map.data).unwrap_or_default();
                let entry = |key: &str| {
                    let text = data.get(key)?;
                    Some((text.as_str(), format!("{key} of ConfigMap {name}")))
                };
                let progress = progress_entry(chain);
                recorded(entry(&progress), entry(CHAINS_FILE), |found| {
                    found.name == chain
                })
            }
            Self::File(path) => {
                let beside = progress_of(path);
                let (progress, finished) = (read_file(&beside)?, read_file(path)?);
                recorded(
                    progress
                        .as_deref()
                        .map(|text| (text, beside.display().to_string())),
                    finished
                        .as_deref()
                        .map(|text| (text, path.display().to_string())),
                    // The only one, which may have got another name.
                    |_| true,
                )
            }
        }
    }

    /// Writes down how far a deployment has come. A finished document of an earlier one stays.
    pub async fn save(&self, chain: &str, record: &Record) -> Result<(), StoreError> {
        let text = json!(record).to_string();
        match self {
            Self::ConfigMap(api, name) => {
                let mut data = entries(api, name).await?;
                data.insert(progress_entry(chain), text);
                apply(api, name, &json!(data)).await
            }
            Self::File(path) => write_file(&progress_of(path), &text),
        }
    }

    /// The chains file that an earlier run has written into the ConfigMap.
    pub async fn chains_file(&self) -> Result<Option<String>, StoreError> {
        match self {
            Self::ConfigMap(api, name) => Ok(entries(api, name).await?.remove(CHAINS_FILE)),
            Self::File(_) => Ok(None),
        }
    }

    /// Writes the finished document: the chains file into a ConfigMap, Helm values into a file.
    pub async fn finish(&self, chain: &str, document: &str) -> Result<(), StoreError> {
        match self {
            Self::ConfigMap(api, name) => {
                let mut data = entries(api, name).await?;
                data.remove(&progress_entry(chain));
                data.insert(CHAINS_FILE.to_owned(), document.to_owned());
                apply(api, name, &json!(data)).await
            }
            Self::File(path) => {
                write_file(path, document)?;
                let beside = progress_of(path);
                match std::fs::remove_file(&beside) {
                    Err(source) if source.kind() != ErrorKind::NotFound => Err(StoreError::File {
                        op: "remove",
                        path: beside,
                        source,
                    }),
                    _ => Ok(()),
                }
            }
        }
    }
}

fn progress_entry(chain: &str) -> String {
    format!("{chain}{PROGRESS}")
}

/// What is in the ConfigMap and ours.
async fn entries(api: &Api<ConfigMap>, name: &str) -> Result<BTreeMap<String, String>, StoreError> {
    let found = api.get_opt(name).await.map_err(api_error("read", name))?;
    let mut data = found.and_then(|map| map.data).unwrap_or_default();
    data.retain(|key, _| key.ends_with(PROGRESS) || key == CHAINS_FILE);
    Ok(data)
}

/// All that is in the ConfigMap is ours: what is left out here is removed.
async fn apply(
    api: &Api<ConfigMap>,
    name: &str,
    data: &serde_json::Value,
) -> Result<(), StoreError> {
    let object = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/part-of": "gridstake"}},
        "data": data,
    });
    let params = PatchParams::apply(MANAGER).force();
    api.patch(name, &params, &Patch::Apply(&object))
        .await
        .map(drop)
        .map_err(api_error("write", name))
}

fn api_error(op: &'static str, name: &str) -> impl FnOnce(kube::Error) -> StoreError {
    move |source| StoreError::Api {
        op,
        name: name.to_owned(),
        source: Box::new(source),
    }
}

/// The record beside the file `path`.
fn progress_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".progress.json");
    name.into()
}

fn read_file(path: &Path) -> Result<Option<String>, StoreError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(source) if source.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(StoreError::File {
            op: "read",
            path: path.to_owned(),
            source,
        }),
    }
}

fn write_file(path: &Path, text: &str) -> Result<(), StoreError> {
    std::fs::write(path, text).map_err(|source| StoreError::File {
        op: "write",
        path: path.to_owned(),
        source,
    })
}
