//! The pod template of a job: the full schema of a PodTemplateSpec, kept as the text of its JSON in memory.
//!
//! The schema is complete, so the API server refuses a misspelt field, but the descriptions inside it are left out:
//! with them the CustomResourceDefinition would be too big for `kubectl apply`'s annotation (262,144 bytes).

use std::{borrow::Cow, sync::Arc};

use k8s_openapi::api::core::v1::PodTemplateSpec;
use schemars::{
    JsonSchema, Schema, SchemaGenerator,
    transform::{Transform, transform_subschemas},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

/// A PodTemplateSpec as the tenant wrote it.
///
/// In memory it is the text of its JSON: tens of thousands of jobs may wait, typed structs would take several times the room and
/// parsed JSON ten times, and it is read only while a job is validated, placed and started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodTemplate(Arc<str>);

impl PodTemplate {
    /// The template as JSON.
    pub fn json(&self) -> Result<Map<String, Value>, serde_json::Error> {
        serde_json::from_str(&self.0)
    }

    /// The template as a typed object, for reading.
    pub fn typed(&self) -> Result<PodTemplateSpec, serde_json::Error> {
        // By way of JSON: what is wrong is to name the field, and not a column of a text that nobody sees.
        serde_json::from_value(Value::Object(self.json()?))
    }
}

impl Default for PodTemplate {
    fn default() -> Self {
        Self("{}".into())
    }
}

impl From<Map<String, Value>> for PodTemplate {
    fn from(json: Map<String, Value>) -> Self {
        Self(Value::Object(json).to_string().into())
    }
}

impl Serialize for PodTemplate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let json = self.json().map_err(serde::ser::Error::custom)?;
        json.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for PodTemplate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Map::deserialize(deserializer).map(Self::from)
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
    use serde_json::json;

    use super::*;

    #[test]
    fn a_template_is_written_as_it_was_read_whatever_it_holds() {
        let template = json!({
            "metadata": {"annotations": {"a/b": "\"quoted\"\n\u{1f980}"}},
            "spec": {"containers": [{"name": "main", "args": [], "resources": {"limits": {"cpu": 1}}}], "somebodyElses": null},
        });
        let read: PodTemplate = serde_json::from_value(template.clone()).unwrap();
        assert_eq!(serde_json::to_value(&read).unwrap(), template);
        assert_eq!(Value::Object(read.json().unwrap()), template);
        let again: PodTemplate = serde_json::from_str(&template.to_string()).unwrap();
        assert_eq!(again, read);
        assert_eq!(
            serde_json::to_value(PodTemplate::default()).unwrap(),
            json!({})
        );
        assert!(serde_json::from_value::<PodTemplate>(json!("text")).is_err());
    }

    #[test]
    fn the_definition_is_small_enough_for_client_side_apply() {
        let bytes = serde_json::to_vec(&crate::ComputeJob::crd()).unwrap().len();
        assert!(bytes < 200_000, "{bytes} bytes");
    }
}
