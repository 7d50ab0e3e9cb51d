//! The operator's process.

use std::process::ExitCode;

use clap::Parser as _;
use gridstake_operator::{cli::Args, error::chain, run, telemetry};

/// More threads than this bring nothing: the work is waiting for the API server.
const MOST_THREADS: usize = 4;

fn main() -> ExitCode {
    let args = Args::parse();
    if let Err(error) = args.validate() {
        eprintln!("gridstake-operator: {error}");
        return ExitCode::from(2);
    }
    if let Err(error) = telemetry::init(args.log_format, &args.log_filter) {
        eprintln!("gridstake-operator: --log-filter: {error}");
        return ExitCode::from(2);
    }
    // One provider for every TLS client in the process. An error means that there is one already.
    let _ = rustls::crypto::ring::default_provider().install_default();

    let threads =
        std::thread::available_parallelism().map_or(1, |cores| cores.get().min(MOST_THREADS));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(run::run(args)),
        Err(error) => Err(run::RunError::Runtime(error)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = chain(&error), "the operator ends");
            ExitCode::FAILURE
        }
    }
}
