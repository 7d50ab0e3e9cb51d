//! The manifests that `e2e/tests/manifests` sends to an API server: whether they leave anything untried.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests"
)]

use std::{collections::BTreeSet, fs, path::Path};

use gridstake_crds::{ComputeJob, GpuNode, Incident, SettlementBatch, StakeBinding, UsageRecord};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrArray,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

fn files(folder: &str) -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/manifests")
        .join(folder);
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let name = entry.file_name().to_string_lossy().into_owned();
            (name, fs::read_to_string(entry.path()).unwrap())
        })
        .collect();
    files.sort();
    files
}

fn documents(text: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(text).unwrap()
}

fn schemas() -> Vec<(String, JSONSchemaProps)> {
    gridstake_crds::all_crds()
        .into_iter()
        .filter_map(|mut crd| {
            let schema = crd.spec.versions.remove(0).schema?.open_api_v3_schema?;
            Some((crd.spec.names.kind, schema))
        })
        .collect()
}

fn messages(schema: &JSONSchemaProps, found: &mut BTreeSet<String>) {
    for rule in schema.x_kubernetes_validations.iter().flatten() {
        found.extend(rule.message.clone());
    }
    for child in schema.properties.iter().flatten().map(|(_, child)| child) {
        messages(child, found);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &schema.items {
        messages(items, found);
    }
}

#[test]
fn every_rule_has_a_manifest_that_breaks_it_and_expects_its_words() {
    let expected: Vec<String> = files("invalid")
        .iter()
        .flat_map(|(_, text)| text.lines())
        .filter_map(|line| line.strip_prefix("# expect: "))
        .map(str::to_owned)
        .collect();
    let mut rules = BTreeSet::new();
    for (_, schema) in schemas() {
        messages(&schema, &mut rules);
    }
    let untried: Vec<_> = rules
        .iter()
        .filter(|rule| {
            !expected
                .iter()
                .any(|words| words == *rule || words.len() > 20 && rule.contains(words.as_str()))
        })
        .collect();
    assert_eq!(untried, [""; 0], "{} rules", rules.len());
}

#[test]
fn every_field_has_a_value_in_some_full_manifest() {
    fn unset(schema: &JSONSchemaProps, values: &[&Value], path: &str, found: &mut Vec<String>) {
        if values.is_empty() {
            found.push(path.to_owned());
            return;
        }
        if path.ends_with(".spec.template") {
            return;
        }
        for (name, field) in schema.properties.iter().flatten() {
            let below: Vec<_> = values.iter().filter_map(|value| value.get(name)).collect();
            unset(field, &below, &format!("{path}.{name}"), found);
        }
        if let Some(JSONSchemaPropsOrArray::Schema(items)) = &schema.items {
            let below: Vec<_> = values.iter().filter_map(|value| value.get(0)).collect();
            unset(items, &below, &format!("{path}[]"), found);
        }
    }
    let full: Vec<Value> = files("valid")
        .iter()
        .filter(|(name, _)| name.ends_with("-full.yaml"))
        .flat_map(|(_, text)| documents(text))
        .collect();
    let mut found = Vec::new();
    for (kind, schema) in schemas() {
        let of_kind: Vec<_> = full.iter().filter(|value| value["kind"] == *kind).collect();
        unset(&schema, &of_kind, &kind, &mut found);
    }
    assert_eq!(found, [""; 0]);
}

#[test]
fn no_two_files_use_the_same_object() {
    let mut seen = BTreeSet::new();
    for folder in ["valid", "invalid"] {
        for (file, text) in files(folder) {
            let all = documents(&text);
            let name = (
                all[0]["kind"].to_string(),
                all[0]["metadata"]["name"].to_string(),
            );
            assert!(
                all.iter()
                    .all(|d| d["metadata"]["name"] == all[0]["metadata"]["name"]),
                "{file}"
            );
            // A name that is itself the mistake is never created.
            let is_the_mistake = file.starts_with("settlementbatch-name");
            assert!(
                is_the_mistake || seen.insert(name.clone()),
                "{file}: {name:?}"
            );
        }
    }
}

#[test]
fn the_types_read_every_valid_manifest_and_write_it_unchanged() {
    fn again<K: Serialize + DeserializeOwned>(value: &Value) -> Value {
        serde_json::to_value(serde_json::from_value::<K>(value.clone()).unwrap()).unwrap()
    }
    fn span(value: &Value) -> Option<kube::core::Duration> {
        value.as_str()?.parse().ok()
    }
    /// Everything that `before` says, `after` says too; defaults may have been added.
    fn kept(before: &Value, after: &Value, path: &str) {
        match (before, after) {
            (Value::Object(fields), _) => {
                for (name, value) in fields {
                    kept(
                        value,
                        after.get(name).unwrap_or(&Value::Null),
                        &format!("{path}.{name}"),
                    );
                }
            }
            (Value::Array(items), _) => {
                for (index, value) in items.iter().enumerate() {
                    kept(
                        value,
                        after.get(index).unwrap_or(&Value::Null),
                        &format!("{path}[{index}]"),
                    );
                }
            }
            // `24h` is written as `86400s`.
            _ if span(before).is_some() => assert_eq!(span(before), span(after), "{path}"),
            _ => assert_eq!(before, after, "{path}"),
        }
    }
    for (file, text) in files("valid") {
        // An API server drops nulls before anything is stored.
        if file.contains("nulls") {
            continue;
        }
        for value in documents(&text) {
            let written = match value["kind"].as_str().unwrap() {
                "GpuNode" => again::<GpuNode>(&value),
                "ComputeJob" => again::<ComputeJob>(&value),
                "StakeBinding" => again::<StakeBinding>(&value),
                "UsageRecord" => again::<UsageRecord>(&value),
                "SettlementBatch" => again::<SettlementBatch>(&value),
                "Incident" => again::<Incident>(&value),
                kind => panic!("{file}: {kind}"),
            };
            kept(&value, &written, &file);
        }
    }
}
