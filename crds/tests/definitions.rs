//! What every generated definition keeps to. The rules themselves are tried on a real API server by `e2e/tests/manifests.rs`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests"
)]

use std::collections::BTreeSet;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};

/// The fields whose inner schema is Kubernetes' own.
const POD_TEMPLATE: &str = "ComputeJob.spec.template";

/// One schema, where it stands, and what stands above it.
struct Place<'a> {
    path: String,
    schema: &'a JSONSchemaProps,
    /// The field's name and the object that it is a field of.
    parent: Option<(&'a str, &'a JSONSchemaProps)>,
}

fn places(schema: &JSONSchemaProps, path: String) -> Vec<Place<'_>> {
    fn walk<'a>(
        schema: &'a JSONSchemaProps,
        path: String,
        parent: Option<(&'a str, &'a JSONSchemaProps)>,
        found: &mut Vec<Place<'a>>,
    ) {
        for (name, field) in schema.properties.iter().flatten() {
            walk(field, format!("{path}.{name}"), Some((name, schema)), found);
        }
        if let Some(JSONSchemaPropsOrArray::Schema(items)) = &schema.items {
            walk(items, format!("{path}[]"), None, found);
        }
        if let Some(JSONSchemaPropsOrBool::Schema(values)) = &schema.additional_properties {
            walk(values, format!("{path}{{}}"), None, found);
        }
        found.push(Place {
            path,
            schema,
            parent,
        });
    }
    let mut found = Vec::new();
    walk(schema, path, None, &mut found);
    found
}

fn root(crd: &CustomResourceDefinition) -> &JSONSchemaProps {
    crd.spec.versions[0]
        .schema
        .as_ref()
        .and_then(|s| s.open_api_v3_schema.as_ref())
        .expect("a schema")
}

/// The violations that `check` finds at any place of any kind outside the pod template.
fn violations(check: impl Fn(&Place) -> Option<&'static str>) -> Vec<String> {
    all_places(|path| !path.starts_with(&format!("{POD_TEMPLATE}.")), check)
}

fn all_places(
    within: impl Fn(&str) -> bool,
    check: impl Fn(&Place) -> Option<&'static str>,
) -> Vec<String> {
    gridstake_crds::all_crds()
        .iter()
        .flat_map(|crd| {
            places(root(crd), crd.spec.names.kind.clone())
                .iter()
                .filter(|place| within(&place.path))
                .filter_map(|place| check(place).map(|wrong| format!("{}: {wrong}", place.path)))
                .collect::<Vec<_>>()
        })
        .collect()
}

#[test]
fn every_list_says_how_it_merges_and_how_long_it_may_be() {
    let found = violations(|place| {
        let schema = place.schema;
        if schema.type_.as_deref() != Some("array") {
            return None;
        }
        match schema.x_kubernetes_list_type.as_deref() {
            None => return Some("no list type"),
            Some("map")
                if schema
                    .x_kubernetes_list_map_keys
                    .as_deref()
                    .unwrap_or_default()
                    .is_empty() =>
            {
                return Some("a map without keys");
            }
            Some(_) => {}
        }
        schema.max_items.is_none().then_some("no maxItems")
    });
    assert_eq!(found, [""; 0]);
}

#[test]
fn the_keys_of_every_list_map_are_required_or_have_a_default() {
    let found = violations(|place| {
        let keys = place.schema.x_kubernetes_list_map_keys.as_deref()?;
        let Some(JSONSchemaPropsOrArray::Schema(items)) = &place.schema.items else {
            return Some("no items");
        };
        let required = items.required.as_deref().unwrap_or_default();
        (!keys.iter().all(|key| required.contains(key))).then_some("a key is not required")
    });
    assert_eq!(found, [""; 0]);
}

#[test]
fn every_string_and_every_map_is_bounded() {
    let found = violations(|place| match place.schema.type_.as_deref() {
        Some("string")
            if place.schema.max_length.is_none()
                && place.schema.enum_.is_none()
                && place.schema.format.as_deref() != Some("date-time") =>
        {
            Some("no maxLength")
        }
        Some("object")
            if place.schema.additional_properties.is_some()
                && place.schema.max_properties.is_none() =>
        {
            Some("no maxProperties")
        }
        _ => None,
    });
    assert_eq!(found, [""; 0]);
}

#[test]
fn every_schema_is_structural_and_plain() {
    let found = violations(|place| {
        let schema = place.schema;
        let composed = schema.any_of.is_some()
            || schema.one_of.is_some()
            || schema.all_of.is_some()
            || schema.not.is_some();
        let metadata = place.path.split('.').nth(1) == Some("metadata");
        if composed {
            Some("anyOf, oneOf, allOf or not")
        } else if schema.type_.is_none() && !metadata && schema.x_kubernetes_int_or_string.is_none()
        {
            Some("no type")
        } else if schema.nullable.is_some() {
            Some("nullable")
        } else if schema.enum_.is_some() && schema.type_.as_deref() != Some("string") {
            Some("an enum of something else than strings")
        } else {
            None
        }
    });
    assert_eq!(found, [""; 0]);
}

#[test]
fn every_format_is_one_that_the_api_server_knows() {
    let known = ["int32", "int64", "date-time", "byte", "double"];
    let found = all_places(
        |_| true,
        |place| {
            let format = place.schema.format.as_deref()?;
            (!known.contains(&format)).then_some("unknown format")
        },
    );
    assert_eq!(found, [""; 0]);
}

#[test]
fn every_field_is_explained_in_a_sentence() {
    let found = violations(|place| {
        let (name, _) = place.parent?;
        // The API server documents these itself.
        if place.path.matches('.').count() == 1
            && ["apiVersion", "kind", "metadata"].contains(&name)
        {
            return None;
        }
        match place.schema.description.as_deref() {
            None | Some("") => Some("no description"),
            Some(text) if text.contains('\n') && !text.contains("\n\n") => {
                Some("a line break of the source")
            }
            Some(text) if !text.ends_with(['.', ')']) => Some("no full stop"),
            Some(_) => None,
        }
    });
    assert_eq!(found, [""; 0]);
}

#[test]
fn the_pod_template_keeps_its_fields_and_none_of_its_descriptions() {
    let described = all_places(
        |path| path.starts_with(&format!("{POD_TEMPLATE}.")),
        |place| place.schema.description.is_some().then_some("described"),
    );
    assert_eq!(described, [""; 0]);
    let fields = all_places(|path| path.starts_with(POD_TEMPLATE), |_| Some("there"));
    for field in [
        "ComputeJob.spec.template.spec.containers[].resources.limits{}: there",
        "ComputeJob.spec.template.spec.securityContext.runAsNonRoot: there",
        "ComputeJob.spec.template.metadata.labels{}: there",
    ] {
        assert!(fields.iter().any(|found| found == field), "{field}");
    }
    assert!(fields.len() > 500, "{} fields", fields.len());
}

#[test]
fn a_rule_on_a_change_sits_only_on_fields_that_cannot_be_left_out() {
    // `self == oldSelf` is not evaluated when the field comes or goes: an optional field needs a rule on its parent.
    let found = violations(|place| {
        let (name, parent) = place.parent?;
        let about_changes = place
            .schema
            .x_kubernetes_validations
            .iter()
            .flatten()
            .any(|rule| rule.rule.contains("oldSelf"));
        let always_there = parent.required.iter().flatten().any(|field| field == name)
            || place.schema.default.is_some();
        (about_changes && !always_there).then_some("a transition rule on an optional field")
    });
    // `spec` itself: every kind that needs one requires it, see below; `status` is guarded at the root.
    assert_eq!(found, [""; 0]);
}

#[test]
fn every_rule_says_in_its_message_what_would_be_right() {
    let found = violations(|place| {
        place
            .schema
            .x_kubernetes_validations
            .iter()
            .flatten()
            .find_map(|rule| {
                let message = rule.message.as_deref().unwrap_or_default();
                if message.len() < 20 {
                    Some("no message")
                } else if message.ends_with('.') || message.contains('\n') {
                    Some("a message that the API server would print badly")
                } else {
                    None
                }
            })
    });
    assert_eq!(found, [""; 0]);
}

#[test]
fn every_kind_has_a_status_subresource_a_short_name_columns_and_the_category() {
    for crd in gridstake_crds::all_crds() {
        let names = &crd.spec.names;
        let kind = &names.kind;
        let version = &crd.spec.versions[0];
        assert!(
            version
                .subresources
                .as_ref()
                .is_some_and(|s| s.status.is_some()),
            "{kind}"
        );
        assert_eq!(
            names.categories.as_deref(),
            Some(&["gridstake".to_owned()][..]),
            "{kind}"
        );
        assert_eq!(names.short_names.as_ref().map(Vec::len), Some(1), "{kind}");
        let columns = version
            .additional_printer_columns
            .as_deref()
            .unwrap_or_default();
        assert_eq!(
            columns.last().map(|c| c.name.as_str()),
            Some("Age"),
            "{kind}"
        );
        let conditions = places(root(&crd), String::new()).into_iter().any(|place| {
            place.path == ".status.conditions" || place.path == ".status.observedGeneration"
        });
        assert!(conditions, "{kind}");
    }
}

#[test]
fn every_printer_column_and_selectable_field_points_at_a_field() {
    for crd in gridstake_crds::all_crds() {
        let kind = &crd.spec.names.kind;
        let version = &crd.spec.versions[0];
        let paths: BTreeSet<String> = places(root(&crd), String::new())
            .into_iter()
            .map(|p| p.path)
            .collect();
        let columns = version
            .additional_printer_columns
            .iter()
            .flatten()
            .map(|c| c.json_path.clone());
        let selectable = version
            .selectable_fields
            .iter()
            .flatten()
            .map(|s| s.json_path.clone());
        for path in columns.chain(selectable) {
            if path.starts_with(".metadata.") {
                continue;
            }
            let plain = match (path.find('['), path.find(']')) {
                (Some(from), Some(to)) => format!("{}[]{}", &path[..from], &path[to + 1..]),
                _ => path.clone(),
            };
            assert!(paths.contains(&plain), "{kind}: {path}");
        }
    }
}

#[test]
fn a_job_has_one_member_and_a_node_is_offered_always_unless_they_say_otherwise() {
    let default = |kind: &str, path: &str| {
        let crd = gridstake_crds::all_crds()
            .into_iter()
            .find(|c| c.spec.names.kind == kind)
            .unwrap();
        places(root(&crd), String::new())
            .into_iter()
            .find(|p| p.path == path)
            .and_then(|p| p.schema.default.clone())
            .map(|d| d.0)
    };
    assert_eq!(
        default("ComputeJob", ".spec.members"),
        Some(serde_json::json!(1))
    );
    assert_eq!(
        default("GpuNode", ".spec.mode"),
        Some(serde_json::json!("Always"))
    );
}

#[test]
fn every_definition_is_small_enough_for_client_side_apply() {
    // `kubectl apply` keeps the whole object as JSON in an annotation of at most 262,144 bytes.
    for crd in gridstake_crds::all_crds() {
        let bytes = serde_json::to_vec(&crd).unwrap().len();
        assert!(bytes < 200_000, "{}: {bytes} bytes", crd.spec.names.kind);
    }
}
