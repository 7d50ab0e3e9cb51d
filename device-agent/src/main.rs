//! The device agent's process: arguments, logs, signals.

use std::{io, process::ExitCode};

use clap::Parser as _;
use gridstake_device_agent::{
    cli::{Args, Command},
    measure,
    outcome::chain,
    run,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::{
    filter::Targets, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

fn main() -> ExitCode {
    match Command::of(std::env::args_os()) {
        Command::Measure(words) => measure::run(&measure::Args::parse_from(words)),
        Command::Agent(words) => agent(Args::parse_from(words)),
    }
}

fn agent(args: Args) -> ExitCode {
    log_as_json();
    // With two providers in the build, rustls would panic at the first connection instead of choosing one.
    if rustls::crypto::ring::default_provider()
        .install_default()
        .is_err()
    {
        tracing::error!("another TLS provider is installed already");
        return ExitCode::FAILURE;
    }
    match serve(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = %chain(error.as_ref()), "the device agent ends");
            ExitCode::FAILURE
        }
    }
}

fn serve(args: Args) -> Result<(), Box<dyn std::error::Error>> {
    // One thread serves everything but NVML, which has its own; name resolution takes a third for a moment.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(2)
        .build()?;
    let ended = runtime.block_on(async {
        let stop = CancellationToken::new();
        stop_on_signal(&stop)?;
        run::run(args, stop).await?;
        Ok(())
    });
    // A name resolution that hangs must not hold up the end.
    runtime.shutdown_background();
    ended
}

fn stop_on_signal(stop: &CancellationToken) -> io::Result<()> {
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let mut signals = signal(kind)?;
        let stop = stop.clone();
        tokio::spawn(async move {
            if signals.recv().await.is_some() {
                tracing::info!("told to stop");
                stop.cancel();
            }
        });
    }
    Ok(())
}

/// `RUST_LOG` sets levels by target, such as `debug` or `info,kube=debug`; default `info`.
fn log_as_json() {
    let levels: Targets = std::env::var("RUST_LOG")
        .ok()
        .and_then(|levels| levels.parse().ok())
        .unwrap_or_else(|| Targets::new().with_default(tracing::Level::INFO));
    tracing_subscriber::registry()
        .with(tracing_subscriber::fmt::layer().json().flatten_event(true))
        .with(levels)
        .init();
}
