//! `kubectl gridstake`: signs what the operator asks of payers and providers, and puts it where the operator reads it;
//! verifies what was archived against the chain; makes decisions of the scheduler again; explains jobs, nodes and incidents;
//! sums GPUs, jobs and earnings; drains nodes; quotes jobs and reports weeks; sends what providers, delegators and payers have
//! to say to the contracts.

mod certify;
mod cli;
mod cluster;
mod completion;
mod confirm;
mod consent;
mod drain;
mod earnings;
mod end;
mod endpoint;
mod error;
mod explain;
#[cfg(test)]
mod fuzz;
mod key;
mod money;
mod output;
mod quote;
mod replay;
mod top;
mod verify;

use std::{io::Write as _, process::ExitCode};

use clap::Parser as _;
use k8s_openapi::jiff::Timestamp;

use crate::{
    cli::{Cli, Command},
    error::PluginError,
};

/// What a command has to tell.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    /// For standard output.
    result: String,
    /// For people alone, where the result is a command to be run.
    note: Option<String>,
}

fn main() -> ExitCode {
    let Cli { command } = Cli::parse();
    // One provider for every TLS client in the process. An error means that there is one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    if let Command::Verify(args) = &command {
        return verify::run(args);
    }
    if let Command::Replay(args) = &command {
        return replay::run(args);
    }
    if let Command::Report(args) = &command {
        return earnings::run(args);
    }
    match told(&command) {
        Ok(Told { result, note }) => {
            if let Some(note) = note {
                eprintln!("{note}");
            }
            // Who reads may have gone, as `| head` does.
            match writeln!(std::io::stdout(), "{result}") {
                Ok(()) => ExitCode::SUCCESS,
                Err(_) => ExitCode::FAILURE,
            }
        }
        Err(error) => {
            eprintln!("kubectl gridstake: {}", error::chain(&error));
            ExitCode::FAILURE
        }
    }
}

fn told(command: &Command) -> Result<Told, PluginError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(PluginError::Runtime)?;
    let now = Timestamp::now();
    match command {
        Command::Consent(args) => runtime.block_on(consent::run(args, now)),
        Command::Certify(args) => runtime.block_on(certify::run(args, now)),
        Command::Quote(args) => runtime.block_on(quote::run(args, now)),
        Command::Top(args) => runtime.block_on(top::run(args, now)),
        Command::Drain(args) => runtime.block_on(drain::run(args, now)),
        Command::Completion(args) => Ok(completion::script(args.shell)),
        Command::Complete(args) => Ok(completion::answer(&args.words)),
        Command::Explain(args) => runtime.block_on(explain::run(args, now)),
        Command::Bind(args) => runtime.block_on(money::bind(args)),
        Command::Transaction(args) => runtime.block_on(money::transaction(args)),
        Command::Register(_)
        | Command::Stake(_)
        | Command::Unstake(_)
        | Command::Delegate(_)
        | Command::Undelegate(_)
        | Command::Claim(_)
        | Command::Deposit(_)
        | Command::Thaw(_)
        | Command::Dispute(_) => runtime.block_on(money::run(command)),
        // They tell by themselves, since they end in three ways.
        Command::Verify(_) | Command::Replay(_) | Command::Report(_) => {
            Err(PluginError::Unfit("it runs by itself".to_owned()))
        }
    }
}
