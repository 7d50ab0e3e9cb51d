//! How fast decisions are made, and how well they place. `make bench-scheduler` runs it.
//!
//! Environment: `SECONDS` of each measurement (default 5), `NODES` (default `1000 5000 50000`), `JOBS` of the trace (default
//! 10000; 0: no trace).

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    missing_docs,
    reason = "a benchmark"
)]

mod quality;
mod speed;
mod timing;
mod workload;

use std::env;
use std::time::Duration;

fn main() {
    let seconds = env::var("SECONDS").map_or(5, |text| text.parse().unwrap());
    let sizes = env::var("NODES").unwrap_or_else(|_| "1000 5000 50000".to_owned());
    for nodes in sizes.split_whitespace() {
        speed::measure(nodes.parse().unwrap(), Duration::from_secs(seconds));
    }
    let jobs = env::var("JOBS").map_or(10_000, |text| text.parse().unwrap());
    if jobs > 0 {
        quality::measure(jobs);
    }
}
