//! What the chart asks of a Prometheus: the queries of its dashboards and its alerts.

use std::{collections::BTreeSet, fs};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::{command::checkout, prometheus::RATE_INTERVAL};

/// Where the chart has them.
const FILES: &str = "charts/gridstake/files";

/// A query of a dashboard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// The dashboard and the panel or variable.
    pub place: String,
    /// What is asked, with the dashboard's variables filled in: everything is chosen.
    pub expression: String,
}

/// An alert.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alert {
    /// Its name.
    pub name: String,
    /// While this has a result, it fires or is about to.
    pub expression: String,
}

/// All queries of all panels and variables of all dashboards.
pub fn queries() -> Result<Vec<Query>> {
    let folder = checkout().join(FILES).join("dashboards");
    let mut queries = Vec::new();
    for file in fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))? {
        let path = file?.path();
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let dashboard = serde_json::from_str(&text)
            .with_context(|| format!("read {} as JSON", path.display()))?;
        queries.extend(queries_of(&dashboard)?);
    }
    Ok(queries)
}

fn queries_of(dashboard: &Value) -> Result<Vec<Query>> {
    let title = dashboard["title"].as_str().context("a dashboard's title")?;
    let mut queries = Vec::new();
    let variables = dashboard["templating"]["list"].as_array();
    for variable in variables.into_iter().flatten() {
        if variable["type"] != "query" {
            continue;
        }
        let name = variable["name"].as_str().context("a variable's name")?;
        let values = variable["query"]["query"].as_str();
        let (metric, label) = values
            .and_then(|query| query.strip_prefix("label_values(")?.strip_suffix(')'))
            .and_then(|query| query.split_once(", "))
            .with_context(|| format!("{title}: the variable {name} is no label_values"))?;
        queries.push(Query {
            place: format!("{title}: the variable {name}"),
            expression: format!("count by ({label}) ({metric}{{{label}!=\"\"}})"),
        });
    }
    let panels = dashboard["panels"].as_array();
    for panel in panels.into_iter().flatten() {
        let name = panel["title"].as_str().context("a panel's title")?;
        for target in panel["targets"].as_array().into_iter().flatten() {
            let query = target["expr"].as_str();
            let query = query.with_context(|| format!("{title}: {name}: the query"))?;
            queries.push(Query {
                place: format!("{title}: the panel {name:?}"),
                expression: filled_in(query),
            });
        }
    }
    Ok(queries)
}

/// The query with Grafana's variables filled in as where everything is chosen.
fn filled_in(query: &str) -> String {
    let query = query.replace("$__rate_interval", RATE_INTERVAL);
    query.replace("$chain", ".*").replace("$node", ".*")
}

/// All alerts of the chart.
pub fn alerts() -> Result<Vec<Alert>> {
    let path = checkout().join(FILES).join("alerts.yaml");
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let file: Value =
        serde_saphyr::from_str(&text).with_context(|| format!("read {}", path.display()))?;
    let groups = file["groups"].as_array().context("the groups of alerts")?;
    let rules = groups
        .iter()
        .filter_map(|group| group["rules"].as_array())
        .flatten();
    rules
        .map(|rule| {
            Ok(Alert {
                name: rule["alert"]
                    .as_str()
                    .context("an alert's name")?
                    .to_owned(),
                expression: rule["expr"].as_str().context("an alert's expr")?.to_owned(),
            })
        })
        .collect()
}

/// The series that an expression chooses, each as a query: a metric, and what is in the braces behind it.
#[must_use]
pub fn selectors(expression: &str) -> BTreeSet<String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = BTreeSet::new();
    let mut rest = expression;
    while let Some(start) = rest.find(is_name) {
        rest = &rest[start..];
        let end = rest.find(|c: char| !is_name(c)).unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        rest = after;
        let braces = after.strip_prefix('{').and_then(|inside| inside.find('}'));
        let braces = braces.map_or("", |end| &after[..end + 2]);
        if name.starts_with("gridstake_") || (name == "up" && !braces.is_empty()) {
            found.insert(format!("{name}{braces}"));
        }
        // What is in the braces names no metric.
        rest = &rest[braces.len()..];
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chart_has_queries_and_alerts_with_every_variable_filled_in() {
        let queries = queries().unwrap();
        assert!(queries.len() > 60, "{}", queries.len());
        for query in &queries {
            assert!(!query.expression.contains('$'), "{query:?}");
        }
        assert!(alerts().unwrap().len() > 20);
    }

    #[test]
    fn a_variable_asks_for_the_values_of_a_label() {
        let dashboard = serde_json::json!({
            "title": "Fleet",
            "templating": {"list": [
                {"name": "datasource", "type": "datasource", "query": "prometheus"},
                {"name": "chain", "type": "query", "query": {"query": "label_values(gridstake_chain_block, chain)"}},
            ]},
            "panels": [
                {"title": "Chains", "type": "row"},
                {"title": "Blocks", "targets": [{"expr": "rate(x{chain=~\"$chain\"}[$__rate_interval])"}]},
            ],
        });
        let asked: Vec<String> = queries_of(&dashboard)
            .unwrap()
            .into_iter()
            .map(|query| query.expression)
            .collect();
        assert_eq!(
            asked,
            [
                r#"count by (chain) (gridstake_chain_block{chain!=""})"#,
                r#"rate(x{chain=~".*"}[8s])"#,
            ]
        );
    }

    #[test]
    fn an_expression_chooses_series_by_name_and_labels() {
        let found = selectors(
            "max by (node) (time() - gridstake_seen{task=\"up\"}) > 90 or up{job=\"gridstake_x\"} == 0 and sum(gridstake_a[1h]) > up",
        );
        let expected = [
            "gridstake_a",
            "gridstake_seen{task=\"up\"}",
            "up{job=\"gridstake_x\"}",
        ];
        assert_eq!(found, expected.map(str::to_owned).into());
    }
}
