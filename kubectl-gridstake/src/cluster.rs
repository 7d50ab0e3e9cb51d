//! What is read from the API server and written to it.

use std::fmt::Debug;

use kube::{
    Api, Client, Config, Resource,
    api::{Patch, PatchParams},
};
use serde_json::Value;

use crate::error::PluginError;

/// Field manager of what the plugin writes.
const MANAGER: &str = "kubectl-gridstake";

/// An object that a flag names.
#[derive(Clone, Copy, Debug)]
pub struct Named<'a> {
    /// The flag.
    pub flag: &'static str,
    /// What the object is.
    pub kind: &'static str,
    /// Its kind as kubectl lists it.
    pub plural: &'static str,
    /// Its name.
    pub name: &'a str,
}

/// A client of the cluster that kubectl would talk to.
pub async fn client() -> Result<Client, PluginError> {
    let config = Config::infer()
        .await
        .map_err(|error| PluginError::Cluster(Box::new(error)))?;
    Client::try_from(config).map_err(|error| PluginError::Cluster(Box::new(error)))
}

/// The object.
pub async fn read<K>(objects: &Api<K>, named: Named<'_>) -> Result<K, PluginError>
where
    K: Resource + Clone + Debug + for<'de> k8s_openapi::serde::Deserialize<'de>,
{
    let Named {
        flag,
        kind,
        plural,
        name,
    } = named;
    match objects.get(name).await {
        Ok(object) => Ok(object),
        Err(kube::Error::Api(status)) if status.is_not_found() => Err(PluginError::Missing {
            flag,
            kind,
            plural,
            name: name.to_owned(),
        }),
        Err(source) => Err(PluginError::Read {
            what: format!("{kind} {name}"),
            source: Box::new(source),
        }),
    }
}

/// Merges `patch` into the object.
pub async fn merge<K>(objects: &Api<K>, named: Named<'_>, patch: &Value) -> Result<(), PluginError>
where
    K: Resource + Clone + Debug + for<'de> k8s_openapi::serde::Deserialize<'de>,
{
    let params = PatchParams {
        field_manager: Some(MANAGER.to_owned()),
        ..PatchParams::default()
    };
    objects
        .patch(named.name, &params, &Patch::Merge(patch))
        .await
        .map(drop)
        .map_err(|source| PluginError::Write {
            what: format!("{} {}", named.kind, named.name),
            source: Box::new(source),
        })
}
