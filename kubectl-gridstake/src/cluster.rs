//! What is read from the API server and written to it.

use std::fmt::Debug;

use kube::{
    Api, Client, Config, Resource,
    api::{ListParams, Patch, PatchParams},
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
    /// Its kind as kubectl lists it, with the namespace if it is not the context's.
    pub plural: &'a str,
    /// Its name.
    pub name: &'a str,
}

impl<'a> Named<'a> {
    /// The GpuNode that is named on the command line.
    #[must_use]
    pub const fn node(name: &'a str) -> Self {
        Self {
            flag: "node",
            kind: "GpuNode",
            plural: "gpunodes",
            name,
        }
    }
}

/// What is seen of an object that is not asked for by name.
#[derive(Debug)]
pub enum Sight<K> {
    /// It is there.
    Seen(Box<K>),
    /// It is not there; the text names it.
    Gone(String),
    /// It may not be read; the text is the API server's.
    Forbidden(String),
}

/// How many objects are read with one request.
const PAGE: u32 = 500;

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
            plural: plural.to_owned(),
            name: name.to_owned(),
        }),
        Err(source) => Err(PluginError::Read {
            what: format!("{kind} {name}"),
            source: Box::new(source),
        }),
    }
}

/// The object, if it is there and may be read.
pub async fn look<K>(objects: &Api<K>, kind: &str, name: &str) -> Result<Sight<K>, PluginError>
where
    K: Resource + Clone + Debug + for<'de> k8s_openapi::serde::Deserialize<'de>,
{
    match objects.get(name).await {
        Ok(object) => Ok(Sight::Seen(Box::new(object))),
        Err(kube::Error::Api(status)) if status.is_not_found() => {
            Ok(Sight::Gone(format!("{kind} {name}")))
        }
        Err(kube::Error::Api(status)) if status.is_forbidden() => {
            Ok(Sight::Forbidden(status.message))
        }
        Err(source) => Err(PluginError::Read {
            what: format!("{kind} {name}"),
            source: Box::new(source),
        }),
    }
}

/// The objects that `params` selects, page by page.
pub async fn list<K>(objects: &Api<K>, params: &ListParams) -> Result<Vec<K>, kube::Error>
where
    K: Resource + Clone + Debug + for<'de> k8s_openapi::serde::Deserialize<'de>,
{
    let mut found = Vec::new();
    let mut params = params.clone().limit(PAGE);
    loop {
        let page = objects.list(&params).await?;
        found.extend(page.items);
        match page.metadata.continue_.filter(|next| !next.is_empty()) {
            Some(next) => params = params.continue_token(&next),
            None => return Ok(found),
        }
    }
}

/// The objects that `params` selects; `None` where they may not be read, which is then added to `not_read` as `what`.
pub async fn list_if_allowed<K>(
    objects: &Api<K>,
    params: &ListParams,
    what: &str,
    not_read: &mut Vec<String>,
) -> Result<Option<Vec<K>>, PluginError>
where
    K: Resource + Clone + Debug + for<'de> k8s_openapi::serde::Deserialize<'de>,
{
    match list(objects, params).await {
        Ok(found) => Ok(Some(found)),
        Err(kube::Error::Api(status)) if status.is_forbidden() => {
            not_read.push(format!("{what}: {}", status.message));
            Ok(None)
        }
        Err(source) => Err(PluginError::Read {
            what: what.to_owned(),
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
