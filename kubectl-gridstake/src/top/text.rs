//! GPUs, jobs and earnings, for people.

use super::report::{EarningsLine, NamespaceLine, NodeLine, TopReport};
use crate::output::{Report, columns, gpu_seconds, or_hyphen};

impl Report for TopReport {
    fn text(&self) -> String {
        let since = format!(
            "Use and earnings of slices that ended since {:.0}",
            self.since
        );
        let earned = self.earnings.as_ref().map(|lines| {
            let mut told = vec![since];
            told.extend(earnings(lines));
            told
        });
        let not_read = self
            .not_read
            .iter()
            .map(|what| vec![format!("Not read: {what}")]);
        let parts: Vec<String> = [
            self.nodes.as_ref().map(|lines| nodes(lines)),
            self.namespaces.as_ref().map(|lines| namespaces(lines)),
            earned,
        ]
        .into_iter()
        .flatten()
        .chain(not_read)
        .map(|part| part.join("\n"))
        .collect();
        parts.join("\n\n")
    }
}

fn nodes(nodes: &[NodeLine]) -> Vec<String> {
    if nodes.is_empty() {
        return vec!["No GpuNodes: install the device agent on nodes with GPUs".to_owned()];
    }
    let sum = |of: fn(&NodeLine) -> u32| {
        nodes
            .iter()
            .fold(0_u32, |sum, node| sum.saturating_add(of(node)))
            .to_string()
    };
    let mut rows: Vec<Vec<String>> = nodes
        .iter()
        .map(|node| {
            vec![
                node.name.clone(),
                node.gpus.to_string(),
                node.used.to_string(),
                node.free.to_string(),
                node.unhealthy.to_string(),
                or_hyphen(node.offer),
                node.models.join(", "),
            ]
        })
        .collect();
    rows.push(vec![
        "all".to_owned(),
        sum(|node| node.gpus),
        sum(|node| node.used),
        sum(|node| node.free),
        sum(|node| node.unhealthy),
    ]);
    let header = [
        "NODE",
        "GPUS",
        "USED",
        "FREE",
        "UNHEALTHY",
        "OFFER",
        "MODELS",
    ];
    columns("", &header, &rows)
}

fn namespaces(namespaces: &[NamespaceLine]) -> Vec<String> {
    if namespaces.is_empty() {
        return vec!["No job runs or waits".to_owned()];
    }
    let rows: Vec<Vec<String>> = namespaces
        .iter()
        .map(|line| {
            vec![
                line.namespace.clone(),
                line.running.to_string(),
                line.placed.to_string(),
                line.waiting.to_string(),
                line.gpus.to_string(),
            ]
        })
        .collect();
    let header = ["NAMESPACE", "RUNNING", "PLACED", "WAITING", "GPUS"];
    columns("", &header, &rows)
}

fn earnings(earnings: &[EarningsLine]) -> Vec<String> {
    if earnings.is_empty() {
        return vec!["  none".to_owned()];
    }
    let rows: Vec<Vec<String>> = earnings
        .iter()
        .map(|line| {
            vec![
                line.chain
                    .clone()
                    .unwrap_or_else(|| "(not owed)".to_owned()),
                or_hyphen(line.provider_id),
                line.slices.to_string(),
                line.finalized.to_string(),
                gpu_seconds(line.gpu_millis),
                line.amount.to_string(),
                line.emissions.to_string(),
            ]
        })
        .collect();
    let header = [
        "CHAIN",
        "PROVIDER",
        "SLICES",
        "FINAL",
        "GPU-SECONDS",
        "TOKENS",
        "EMISSIONS",
    ];
    columns("  ", &header, &rows)
}
