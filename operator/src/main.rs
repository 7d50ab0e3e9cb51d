//! The operator's process, and what else its program does.

use std::process::ExitCode;

use clap::Parser as _;
use gridstake_operator::{
    cli::{Args, Cli, Command},
    contracts_deploy::{self, args::DeployArgs},
    error::chain,
    run, telemetry,
};
use tokio::runtime::Runtime;

/// More threads than this bring nothing: the work is waiting for the API server.
const MOST_THREADS: usize = 4;

fn main() -> ExitCode {
    let Cli {
        operator: args,
        command,
    } = Cli::parse();
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
    match command {
        None => operate(args),
        Some(Command::ContractsDeploy(deploy)) => deploy_contracts(*deploy, &args.namespace),
    }
}

fn operate(args: Args) -> ExitCode {
    let outcome = match runtime() {
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

fn deploy_contracts(args: DeployArgs, namespace: &str) -> ExitCode {
    // By the environment, not by a flag: everybody on the machine can read command lines.
    let key = std::env::var("KEY").ok();
    let outcome = match runtime() {
        Ok(runtime) => runtime.block_on(contracts_deploy::run(args, namespace, key)),
        Err(error) => {
            tracing::error!(%error, "start the runtime");
            return ExitCode::FAILURE;
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = chain(&error), "the contracts are not deployed");
            ExitCode::FAILURE
        }
    }
}

fn runtime() -> std::io::Result<Runtime> {
    let threads =
        std::thread::available_parallelism().map_or(1, |cores| cores.get().min(MOST_THREADS));
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
}
