//! The pod template of a job: the full schema of a PodTemplateSpec, kept as raw JSON in memory.
//!
//! The schema is complete, so the API server refuses a misspelt field, but the descriptions inside it are left out:
//! with them the CustomResourceDefinition would be too big for `kubectl apply`'s annotation (262,144 bytes).

use std::borrow::Cow;

use k8s_openapi::api::core::v1::PodTemplateSpec;
use schemars::{
    JsonSchema, Schema, SchemaGenerator,
    transform::{Transform, transform_subschemas},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A PodTemplateSpec as the tenant wrote it.
///
/// In memory it stays raw JSON: as typed structs it would take several times the room, and it is read only while a job
/// is validated, placed and started.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PodTemplate(pub Map<String, Value>);

impl PodTemplate {
    /// The template as a typed object, for reading.
    pub fn typed(&self) -> Result<PodTemplateSpec, serde_json::Error> {
        serde_json::from_value(Value::Object(self.0.clone()))
    }
}

struct WithoutDescriptions;

impl Transform for WithoutDescriptions {
    fn transform(&mut self, schema: &mut Schema) {
        schema.remove("description");
        transform_subschemas(self, schema);
    }
}

impl JsonSchema for PodTemplate {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "PodTemplate".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let mut schema = schemars::generate::SchemaSettings::openapi3()
            .with(|settings| {
                settings.inline_subschemas = true;
                settings.meta_schema = None;
            })
            .into_generator()
            .into_root_schema_for::<PodTemplateSpec>();
        WithoutDescriptions.transform(&mut schema);
        schema
    }
}

#[cfg(test)]
mod tests {
    use kube::CustomResourceExt as _;

    #[test]
    fn the_definition_is_small_enough_for_client_side_apply() {
        let bytes = serde_json::to_vec(&crate::ComputeJob::crd()).unwrap().len();
        assert!(bytes < 200_000, "{bytes} bytes");
    }
}
