//! A sound object, spoilt at one place in every way that its schema forbids.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray,
};
use serde_json::{Value, json};

/// Its inner schema is Kubernetes' own.
const POD_TEMPLATE: &str = "spec.template";

/// An object with one mistake.
pub struct Mutation {
    /// Where the mistake is, as the API server writes it.
    pub path: String,
    /// What is wrong.
    pub mistake: String,
    /// The object.
    pub document: Value,
}

/// Every mutation of `sound` at the fields that it has.
pub fn all(crd: &CustomResourceDefinition, sound: &Value) -> Vec<Mutation> {
    let schema = crd.spec.versions[0]
        .schema
        .as_ref()
        .and_then(|s| s.open_api_v3_schema.as_ref());
    let mut found = Vec::new();
    for part in ["spec", "status"] {
        if let Some(props) = schema
            .and_then(|s| s.properties.as_ref())
            .and_then(|p| p.get(part))
        {
            walk(sound, part, &format!("/{part}"), props, &mut found);
        }
    }
    found
}

fn walk(
    sound: &Value,
    path: &str,
    pointer: &str,
    schema: &JSONSchemaProps,
    found: &mut Vec<Mutation>,
) {
    // Fields that exclude each other stand in several files; a local test sees to it that none is in no file.
    let Some(value) = sound.pointer(pointer) else {
        return;
    };
    for (mistake, wrong) in mistakes(schema, value) {
        let mut document = sound.clone();
        if let Some(place) = document.pointer_mut(pointer) {
            *place = wrong;
        }
        found.push(Mutation {
            path: path.to_owned(),
            mistake,
            document,
        });
    }
    if path == POD_TEMPLATE {
        return;
    }
    for field in schema.required.iter().flatten() {
        let mut document = sound.clone();
        if let Some(object) = document.pointer_mut(pointer).and_then(Value::as_object_mut) {
            object.remove(field);
        }
        // A default fills the gap.
        if schema
            .properties
            .as_ref()
            .and_then(|p| p.get(field))
            .is_some_and(|p| p.default.is_none())
        {
            found.push(Mutation {
                path: format!("{path}.{field}"),
                mistake: "missing".to_owned(),
                document,
            });
        }
    }
    for (field, props) in schema.properties.iter().flatten() {
        walk(
            sound,
            &format!("{path}.{field}"),
            &format!("{pointer}/{field}"),
            props,
            found,
        );
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &schema.items {
        walk(
            sound,
            &format!("{path}[0]"),
            &format!("{pointer}/0"),
            items,
            found,
        );
    }
}

/// What `schema` forbids in place of `value`, with a name for each mistake.
fn mistakes(schema: &JSONSchemaProps, value: &Value) -> Vec<(String, Value)> {
    let mut wrong = Vec::new();
    let mut add = |mistake: &str, value: Value| wrong.push((mistake.to_owned(), value));
    match schema.type_.as_deref() {
        Some("string") => {
            add("is a number", json!(7));
            if schema.enum_.is_some() {
                add("is no value of the enumeration", json!("NoSuchValue"));
            }
            if let Some(most) = schema.max_length {
                add(
                    "is too long",
                    json!("x".repeat(usize::try_from(most).unwrap_or_default() + 1)),
                );
            }
            if schema.min_length.is_some() {
                add("is empty", json!(""));
            }
            if schema.format.as_deref() == Some("date-time") {
                add("is no time", json!("tomorrow"));
            }
        }
        Some("integer") => {
            add("is a text", json!("seven"));
            add("is a fraction", json!(1.5));
            if let Some(least) = schema.minimum {
                add("is too small", number(least - 1.0));
            }
            if let Some(most) = schema.maximum {
                add("is too great", number(most + 1.0));
            }
        }
        Some("boolean") => add("is a text", json!("yes")),
        Some("array") => {
            add("is a text", json!("one"));
            if let (Some(most), Some(first)) = (schema.max_items, value.get(0)) {
                let count = usize::try_from(most).unwrap_or_default() + 1;
                add(
                    "has too many items",
                    Value::Array(vec![first.clone(); count]),
                );
            }
            if schema.min_items.is_some() {
                add("is empty", json!([]));
            }
        }
        Some("object") => {
            add("is a text", json!("object"));
            if schema.additional_properties.is_none() {
                let mut object = value.clone();
                object["noSuchField"] = json!(1);
                add("has an unknown field", object);
            }
            if let Some(most) = schema.max_properties {
                let many = (0..=most).map(|n| (format!("label-{n}"), json!("x")));
                add("has too many entries", Value::Object(many.collect()));
            }
            if schema.min_properties.is_some() {
                add("is empty", json!({}));
            }
        }
        _ => {}
    }
    wrong
}

/// Bounds are held as floats; all of ours are whole.
#[allow(
    clippy::cast_possible_truncation,
    reason = "bounds are whole numbers far below 2^53"
)]
fn number(whole: f64) -> Value {
    json!(whole as i64)
}
