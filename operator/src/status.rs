//! One way to write a status: server-side apply of what a field manager owns, only when it differs.

use kube::{
    Client, Resource, ResourceExt as _,
    api::{Patch, PatchParams},
    core::Request,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};

use crate::metrics::Metrics;

/// What one field manager owns of a kind's status.
///
/// An apply that leaves a field out removes it, so a writer must always apply all that it owns and nothing else. The
/// lists here cut both the desired and the present status to that part.
#[derive(Clone, Copy, Debug)]
pub struct StatusOwner {
    /// The field manager.
    pub manager: &'static str,
    /// Top-level fields of the status, in their JSON spelling, `conditions` not among them.
    pub fields: &'static [&'static str],
    /// Types of conditions.
    pub conditions: &'static [&'static str],
}

/// Which version of the object the write is meant for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// Any: the field manager is the only writer of its part.
    None,
    /// The version that was read. Anything newer makes the write fail with a conflict.
    ResourceVersion,
}

/// What became of a status write.
#[derive(Clone, Debug, PartialEq)]
pub enum Written<K> {
    /// The object says it already, but for times.
    Unchanged,
    /// Written; the object as the API server now has it.
    Applied(Box<K>),
}

impl<K> Written<K> {
    /// Whether a write was sent.
    #[must_use]
    pub fn is_applied(&self) -> bool {
        matches!(self, Self::Applied(_))
    }
}

/// Why a status was not written.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// The status cannot be written as JSON.
    #[error("encode status of {kind} {name}")]
    Encode {
        /// The object's kind.
        kind: String,
        /// Its name.
        name: String,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// The request cannot be built, such as for an empty name.
    #[error("build status request for {kind} {name}")]
    Build {
        /// The object's kind.
        kind: String,
        /// Its name.
        name: String,
        /// What is wrong.
        #[source]
        source: kube::core::request::Error,
    },
    /// The API server refused, or did not answer.
    #[error("apply status of {kind} {name}")]
    Apply {
        /// The object's kind.
        kind: String,
        /// Its name.
        name: String,
        /// What it said.
        #[source]
        source: Box<kube::Error>,
    },
}

impl StatusError {
    /// Whether the write was meant for another version of the object (only with [`Guard::ResourceVersion`]), or for an
    /// object that is gone or has been replaced by a namesake.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Apply { source, .. } if crate::error::is_conflict(source) || names_another_uid(source))
    }

    /// Whether the API server has certainly not written it: it answered, and refused. Without an answer, or with one of
    /// its own failures, it may have.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Encode { .. } | Self::Build { .. } => true,
            Self::Apply { source, .. } => {
                matches!(&**source, kube::Error::Api(status) if (400..500).contains(&status.code) && status.code != 408)
            }
        }
    }

    /// Whether the object is gone.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Apply { source, .. } if crate::error::is_not_found(source))
    }
}

impl StatusOwner {
    /// Applies the owned part of `desired` to the status of `object`, unless `present` says the same but for the times
    /// of conditions.
    ///
    /// `object` must hold the name, namespace, and for [`Guard::ResourceVersion`] the version that was read; `present`
    /// is its status at that version.
    pub async fn apply<K, S>(
        &self,
        client: &Client,
        metrics: &Metrics,
        object: &K,
        present: Option<&S>,
        desired: &S,
        guard: Guard,
    ) -> Result<Written<K>, StatusError>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned,
        S: Serialize,
    {
        let kind = || K::kind(&()).into_owned();
        let encode = |status: &S| {
            serde_json::to_value(status).map_err(|source| StatusError::Encode {
                kind: kind(),
                name: object.name_any(),
                source,
            })
        };
        let desired = self.owned_part(encode(desired)?);
        let present = match present {
            Some(status) => self.owned_part(encode(status)?),
            None => Map::new(),
        };
        if without_times(&desired) == without_times(&present) {
            metrics.status_write(self.manager, false);
            return Ok(Written::Unchanged);
        }

        let body = apply_body(object, &desired, guard);
        let namespace = object.namespace();
        let request = Request::new(K::url_path(&(), namespace.as_deref()))
            .patch_subresource(
                "status",
                &object.name_any(),
                &PatchParams::apply(self.manager).force(),
                &Patch::Apply(&body),
            )
            .map_err(|source| StatusError::Build {
                kind: kind(),
                name: object.name_any(),
                source,
            })?;
        let applied = client
            .request(request)
            .await
            .map_err(|source| StatusError::Apply {
                kind: kind(),
                name: object.name_any(),
                source: Box::new(source),
            })?;
        metrics.status_write(self.manager, true);
        Ok(Written::Applied(Box::new(applied)))
    }

    /// The fields and conditions of `status` that this manager owns.
    fn owned_part(&self, status: Value) -> Map<String, Value> {
        let Value::Object(mut status) = status else {
            return Map::new();
        };
        let conditions = status.remove("conditions");
        let mut owned: Map<String, Value> = status
            .into_iter()
            .filter(|(field, value)| self.fields.contains(&field.as_str()) && !value.is_null())
            .collect();
        if let Some(Value::Array(mut conditions)) = conditions {
            let type_of =
                |condition: &Value| condition["type"].as_str().unwrap_or_default().to_owned();
            conditions.retain(|condition| self.conditions.contains(&type_of(condition).as_str()));
            // A map list has no order of its own: the API server appends in the order of the writers.
            conditions.sort_by_key(type_of);
            if !conditions.is_empty() {
                owned.insert("conditions".to_owned(), conditions.into());
            }
        }
        owned
    }
}

/// The API server calls a uid that differs from the present object's an attempt to change an immutable field.
fn names_another_uid(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else {
        return false;
    };
    let causes = status.details.iter().flat_map(|details| &details.causes);
    status.is_invalid()
        && causes
            .into_iter()
            .any(|cause| cause.field == "metadata.uid")
}

/// The apply patch. The uid makes a write meant for an object that has been replaced by a namesake fail.
fn apply_body<K: Resource<DynamicType = ()>>(
    object: &K,
    status: &Map<String, Value>,
    guard: Guard,
) -> Value {
    let mut metadata = Map::new();
    metadata.insert("name".to_owned(), object.name_any().into());
    if let Some(namespace) = object.namespace() {
        metadata.insert("namespace".to_owned(), namespace.into());
    }
    if let Some(uid) = object.uid() {
        metadata.insert("uid".to_owned(), uid.into());
    }
    if let (Guard::ResourceVersion, Some(version)) = (guard, object.resource_version()) {
        metadata.insert("resourceVersion".to_owned(), version.into());
    }
    json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": metadata,
        "status": status,
    })
}

/// The status with the transition times of its conditions left out.
fn without_times(status: &Map<String, Value>) -> Map<String, Value> {
    let mut status = status.clone();
    if let Some(Value::Array(conditions)) = status.get_mut("conditions") {
        for condition in conditions.iter_mut().filter_map(Value::as_object_mut) {
            condition.remove("lastTransitionTime");
        }
    }
    status
}

#[cfg(test)]
mod tests {
    use gridstake_crds::{GpuNode, GpuNodeStatus};

    use super::*;

    const OWNER: StatusOwner = StatusOwner {
        manager: "gridstake-operator/gpu-node",
        fields: &["free", "capacity"],
        conditions: &["Reporting", "Ready"],
    };

    fn status(value: Value) -> GpuNodeStatus {
        serde_json::from_value(value).unwrap()
    }

    fn condition(type_: &str, time: &str) -> Value {
        json!({"type": type_, "status": "True", "reason": "Ready", "message": "", "lastTransitionTime": time})
    }

    fn owned(value: Value) -> Map<String, Value> {
        OWNER.owned_part(serde_json::to_value(status(value)).unwrap())
    }

    #[test]
    fn only_what_the_manager_owns_is_applied() {
        let part = owned(json!({
            "free": 1, "reputation": 5, "driver": {"version": "580"},
            "conditions": [condition("Ready", "2026-01-01T00:00:00Z"), condition("Other", "2026-01-01T00:00:00Z")],
        }));
        assert_eq!(part.keys().collect::<Vec<_>>(), ["conditions", "free"]);
        assert_eq!(part["conditions"].as_array().unwrap().len(), 1);
    }

    #[test]
    fn a_status_that_differs_in_times_and_order_only_is_the_same() {
        let a = owned(
            json!({"free": 1, "conditions": [condition("Ready", "2026-01-01T00:00:00Z"), condition("Reporting", "2026-01-01T00:00:00Z")]}),
        );
        let b = owned(
            json!({"free": 1, "conditions": [condition("Reporting", "2027-01-01T00:00:00Z"), condition("Ready", "2027-01-01T00:00:00Z")]}),
        );
        assert_ne!(a, b);
        assert_eq!(without_times(&a), without_times(&b));
        assert_ne!(without_times(&a), without_times(&owned(json!({"free": 1}))));
    }

    #[test]
    fn a_write_for_a_replaced_object_is_a_conflict() {
        let refused = |code: u16, reason: &str, field: &str| {
            StatusError::Apply {
            kind: "GpuNode".into(),
            name: "n1".into(),
            source: Box::new(kube::Error::Api(Box::new(
                serde_json::from_value(json!({
                    "code": code, "reason": reason, "message": "",
                    "details": {"causes": [{"reason": "FieldValueInvalid", "message": "", "field": field}]},
                }))
                .unwrap(),
            ))),
        }
        };
        assert!(refused(422, "Invalid", "metadata.uid").is_conflict());
        assert!(refused(409, "Conflict", "").is_conflict());
        assert!(!refused(422, "Invalid", "status.free").is_conflict());
        assert!(!refused(404, "NotFound", "").is_conflict());
    }

    #[test]
    fn the_body_names_the_object_and_carries_the_version_only_when_guarded() {
        let mut node = GpuNode::new("n1", gridstake_crds::GpuNodeSpec::default());
        node.metadata.uid = Some("u".into());
        node.metadata.resource_version = Some("7".into());
        let guarded = apply_body(&node, &Map::new(), Guard::ResourceVersion);
        assert_eq!(
            guarded,
            json!({
                "apiVersion": "gridstake.dev/v1alpha1", "kind": "GpuNode",
                "metadata": {"name": "n1", "uid": "u", "resourceVersion": "7"}, "status": {},
            })
        );
        let free = apply_body(&node, &Map::new(), Guard::None);
        assert_eq!(free["metadata"]["resourceVersion"], Value::Null);
    }
}
