//! The command line of `report`.

use std::path::PathBuf;

use clap::Args;
use gridstake_ledger::week::Week;

use crate::{cli::provider, money::args::ChainArgs};

/// Whose week is reported.
#[derive(Args, Clone, Debug)]
pub struct ReportArgs {
    /// The number of the provider's account in the StakeVault.
    #[arg(long, value_parser = provider)]
    pub provider: u32,

    /// The week (ISO 8601, UTC), such as 2026-W48.
    #[arg(long, value_name = "WEEK")]
    pub week: Week,

    /// The archive: a folder, or an http(s) address under which its files are.
    #[arg(long, value_name = "FOLDER|URL")]
    pub archive: String,

    /// The number of the lane. Without it, that of the operator's configuration.
    #[arg(long)]
    pub lane: Option<u32>,

    /// On which chain.
    #[command(flatten)]
    pub on: ChainArgs,

    /// What `verify --save-chain` has saved: no endpoint is asked. Needs --settlement and --lane.
    #[arg(long, value_name = "FILE", requires_all = ["settlement", "lane"], conflicts_with = "rpc")]
    pub chain_file: Option<PathBuf>,

    /// The block from which on events are read: the one in which Settlement was deployed, or a later one.
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    pub from_block: u64,

    /// How the result is written.
    #[arg(short, long, value_enum, default_value_t = ReportFormat::Table)]
    pub output: ReportFormat,
}

/// How a week's report is written.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReportFormat {
    /// For people.
    Table,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
    /// A line of names and a line of values, for spreadsheets.
    Csv,
}
