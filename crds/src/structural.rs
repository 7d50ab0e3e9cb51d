//! The last step from Rust types to definitions that every API server takes without a warning.
//!
//! Derived schemas say more than Kubernetes understands, or say it differently: Rust's integer formats, line breaks of
//! the source in descriptions, and `nullable` on every optional field. Without it the API server drops a field that
//! is `null`, so a rule that asks `has(self.x)` cannot be satisfied by a field that is set to nothing.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt;

/// The path of the schema that is Kubernetes' own and stays as it is: there, `null` is as good as absent.
const POD_TEMPLATE: &str = "spec.template";

/// The definition of `K`, as it is installed.
#[must_use]
pub fn definition<K: CustomResourceExt>() -> CustomResourceDefinition {
    let mut definition = K::crd();
    for version in &mut definition.spec.versions {
        if let Some(schema) = version
            .schema
            .as_mut()
            .and_then(|s| s.open_api_v3_schema.as_mut())
        {
            plain(schema, "");
        }
    }
    definition
}

fn plain(schema: &mut JSONSchemaProps, path: &str) {
    schema.description = schema.description.as_deref().map(reflowed);
    if path == POD_TEMPLATE {
        schema.nullable = None;
        for child in children(schema) {
            kubernetes_own(child.1);
        }
        return;
    }
    schema.nullable = None;
    known_format(schema);
    for (name, child) in children(schema) {
        let below = if path.is_empty() {
            name
        } else {
            format!("{path}.{name}")
        };
        plain(child, &below);
    }
}

fn kubernetes_own(schema: &mut JSONSchemaProps) {
    known_format(schema);
    for (_, child) in children(schema) {
        kubernetes_own(child);
    }
}

/// The schemas directly below `schema`, by the word that leads to each.
fn children(schema: &mut JSONSchemaProps) -> Vec<(String, &mut JSONSchemaProps)> {
    let mut children: Vec<(String, &mut JSONSchemaProps)> = Vec::new();
    if let Some(properties) = &mut schema.properties {
        children.extend(
            properties
                .iter_mut()
                .map(|(name, child)| (name.clone(), child)),
        );
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
        children.push(("[]".into(), items));
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &mut schema.additional_properties {
        children.push(("{}".into(), values));
    }
    children
}

/// Kubernetes knows `int32` and `int64` only; what the Rust type could hold becomes a bound.
fn known_format(schema: &mut JSONSchemaProps) {
    let (format, most) = match schema.format.as_deref() {
        Some("uint8") => ("int32", Some(f64::from(u8::MAX))),
        Some("uint16") => ("int32", Some(f64::from(u16::MAX))),
        Some("uint32") => ("int64", Some(f64::from(u32::MAX))),
        Some("uint64" | "uint") => ("int64", None),
        _ => return,
    };
    schema.format = Some(format.to_owned());
    schema.minimum = schema.minimum.or(Some(0.0));
    schema.maximum = schema.maximum.or(most);
}

/// Paragraphs on one line each, as `kubectl explain` wraps them itself.
fn reflowed(text: &str) -> String {
    text.split("\n\n")
        .map(|paragraph| {
            paragraph
                .lines()
                .map(str::trim)
                .collect::<Vec<_>>()
                .join(" ")
        })
        .collect::<Vec<_>>()
        .join("\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_breaks_of_the_source_do_not_reach_the_reader() {
        assert_eq!(
            reflowed("one\ntwo\n\nthree\n four"),
            "one two\n\nthree four"
        );
    }

    #[test]
    fn unsigned_formats_become_bounds_that_the_api_server_knows() {
        let mut schema = JSONSchemaProps {
            format: Some("uint32".into()),
            ..JSONSchemaProps::default()
        };
        known_format(&mut schema);
        assert_eq!(schema.format.as_deref(), Some("int64"));
        assert_eq!(
            (schema.minimum, schema.maximum),
            (Some(0.0), Some(4_294_967_295.0))
        );
    }

    #[test]
    fn a_narrower_bound_of_the_field_stays() {
        let mut schema = JSONSchemaProps {
            format: Some("uint32".into()),
            minimum: Some(1.0),
            maximum: Some(64.0),
            ..JSONSchemaProps::default()
        };
        known_format(&mut schema);
        assert_eq!((schema.minimum, schema.maximum), (Some(1.0), Some(64.0)));
    }
}
