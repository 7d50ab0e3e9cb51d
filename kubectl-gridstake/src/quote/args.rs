//! The command line of `quote`.

use clap::Args;
use gridstake_crds::TokenAmount;

use crate::output::Format;

/// What is quoted.
#[derive(Args, Clone, Debug)]
pub struct QuoteArgs {
    /// The file with the ComputeJob, in YAML or JSON; - for standard input.
    #[arg(short, long, value_name = "FILE")]
    pub filename: String,

    /// The namespace in which it would run, if the file names none. Without both, that of the current context.
    #[arg(short, long)]
    pub namespace: Option<String>,

    /// What a token is worth, in US dollars, to compare with what a GPU-hour costs elsewhere.
    #[arg(long, value_name = "USD", value_parser = worth)]
    pub usd_per_token: Option<TokenAmount>,

    /// How the result is written.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub output: Format,
}

fn worth(text: &str) -> Result<TokenAmount, String> {
    match text.parse::<TokenAmount>() {
        Ok(worth) if worth.nano() > 0 => Ok(worth),
        _ => Err("write US dollars with at most 9 decimals, more than 0, such as 0.25".to_owned()),
    }
}
