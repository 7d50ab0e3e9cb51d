//! How a report is written: for people, or for programs.

use gridstake_crds::TokenAmount;
use serde::Serialize;

use crate::error::PluginError;

/// How a report is written.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Table,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
}

/// Something that is told to people and to programs.
pub trait Report: Serialize {
    /// The text for people, without a line end at its end.
    fn text(&self) -> String;
}

/// The report as `format` has it.
pub fn written(report: &impl Report, format: Format) -> Result<String, PluginError> {
    match format {
        Format::Table => Ok(report.text()),
        Format::Json => serde_json::to_string_pretty(report)
            .map_err(|error| PluginError::Output(Box::new(error))),
        Format::Yaml => serde_saphyr::to_string(report)
            .map(|text| text.trim_end().to_owned())
            .map_err(|error| PluginError::Output(Box::new(error))),
    }
}

/// Lines of columns, each as wide as its widest cell, after `indent`.
#[must_use]
pub fn columns(indent: &str, header: &[&str], rows: &[Vec<String>]) -> Vec<String> {
    let header: Vec<String> = header.iter().map(|cell| (*cell).to_owned()).collect();
    let all = || std::iter::once(&header).chain(rows);
    let width = |column: usize| {
        all()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths);
        let cells: Vec<String> = cells
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        format!("{indent}{}", cells.join("  "))
            .trim_end()
            .to_owned()
    };
    all().map(line).collect()
}

/// GPU-milliseconds as GPU-seconds.
#[must_use]
pub fn gpu_seconds(gpu_millis: u64) -> String {
    // A token amount of nine decimals is the same notation.
    TokenAmount::from_nano(u128::from(gpu_millis) * 1_000_000).to_string()
}

/// Thousandths as a percentage.
#[must_use]
pub fn percent(permille: u64) -> String {
    format!("{}.{} %", permille / 10, permille % 10)
}

/// The value, or a hyphen where there is none.
#[must_use]
pub fn or_hyphen(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// One or several, in words.
#[must_use]
pub fn count(number: impl Into<u64>, one: &str, several: &str) -> String {
    match number.into() {
        1 => format!("1 {one}"),
        number => format!("{number} {several}"),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use clap::CommandFactory as _;
    use serde_json::Value;

    use super::*;

    /// Holds the text to `expected`, a file that ends with a line end, and JSON and YAML to one content.
    pub(crate) fn is_written(report: &impl Report, expected: &str) {
        let text = report.text();
        assert_eq!(text, expected.trim_end(), "\n{text}\n");
        let json: Value = serde_json::from_str(&written(report, Format::Json).unwrap()).unwrap();
        let yaml: Value = serde_saphyr::from_str(&written(report, Format::Yaml).unwrap()).unwrap();
        assert_eq!(json, yaml);
    }

    #[test]
    fn the_page_about_the_plugin_shows_what_the_commands_write_and_names_each_of_them() {
        let page = include_str!("../../docs/plugin.md");
        for text in [
            include_str!("golden/job_waiting.txt"),
            include_str!("golden/job_running.txt"),
            include_str!("golden/node_offered.txt"),
            include_str!("golden/node_withheld.txt"),
            include_str!("golden/incident_proposed.txt"),
            include_str!("golden/top.txt"),
            include_str!("golden/quote_fits.txt"),
            include_str!("golden/report.txt"),
        ] {
            assert!(page.contains(text.trim_end()), "\n{text}");
        }
        for command in crate::cli::Cli::command().get_subcommands() {
            let name = command.get_name();
            assert!(
                command.is_hide_set() || page.contains(&format!("`{name}")),
                "{name}"
            );
        }
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let rows = [row(["n1", "8", ""]), row(["a-node", "16", "–"])];
        assert_eq!(
            columns("  ", &["NODE", "GPUS", "NOTE"], &rows),
            ["  NODE    GPUS  NOTE", "  n1      8", "  a-node  16    –",]
        );
    }

    #[test]
    fn gpu_time_is_exact() {
        for (millis, expected) in [(0, "0"), (1, "0.001"), (1500, "1.5"), (3_600_000, "3600")] {
            assert_eq!(gpu_seconds(millis), expected);
        }
        assert_eq!(percent(48), "4.8 %");
        assert_eq!(percent(1000), "100.0 %");
    }
}
