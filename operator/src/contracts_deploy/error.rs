//! Why a deployment did not come to its end.

use std::path::PathBuf;

use alloy::primitives::Address;

use super::{
    document::DraftError, input::InputError, plan::Refusal, record::Contract, send::SendError,
    store::StoreError,
};
use crate::{
    chain::{
        client::{BuildError, ClientError},
        config::ContractConfig,
    },
    run::RunError,
};

/// More steps than any deployment has. Whoever takes more is undone by somebody else.
pub(super) const MOST_STEPS: usize = 64;

/// Why a deployment did not come to its end. What was done stays, and the next run goes on from there.
#[derive(Debug, thiserror::Error)]
pub enum DeployError {
    /// What is asked for is unclear or wrong.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The chains file cannot be read.
    #[error("read the chains file {path}")]
    ReadChainsFile {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: std::io::Error,
    },
    /// The chain is described wrongly.
    #[error(transparent)]
    Draft(#[from] DraftError),
    /// No endpoint and no chains file.
    #[error(
        "which chain? Name its JSON-RPC endpoint by --rpc or RPC, such as http://127.0.0.1:8545"
    )]
    NoChain,
    /// There is no HTTP client.
    #[error(transparent)]
    Client(#[from] BuildError),
    /// The metrics contradict each other.
    #[error("register the chain's metrics")]
    Metrics(#[source] prometheus::Error),
    /// No endpoint answers.
    #[error("no endpoint of `rpc` answers: see that the chain runs and can be reached from here")]
    Unreachable(#[source] ClientError),
    /// The endpoints serve another chain.
    #[error(
        "the endpoint serves the chain {found}, not {wanted}: correct the endpoint or the chain's id"
    )]
    WrongChain {
        /// What was asked for.
        wanted: u64,
        /// What is there.
        found: u64,
    },
    /// What an earlier run wrote down belongs to another chain.
    #[error(
        "an earlier deployment is on the chain {recorded}, not {found}: remove its file or choose another one by --out"
    )]
    RecordedElsewhere {
        /// The earlier one's.
        recorded: u64,
        /// This chain.
        found: u64,
    },
    /// What an earlier run wrote down is not on the chain.
    #[error(
        "{} is not at {} as an earlier run left it: correct the endpoint, or remove the earlier run's file to deploy anew",
        contract.name(), place.address
    )]
    Gone {
        /// Which contract.
        contract: Contract,
        /// Where it should be.
        place: ContractConfig,
    },
    /// The chain cannot be read.
    #[error("look at the chain")]
    Look(#[source] ClientError),
    /// There is no way on.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A transaction was not mined.
    #[error(transparent)]
    Send(#[from] Box<SendError>),
    /// What was deployed is not what was sent.
    #[error("{} at {} has other code than was sent: the chain changes code, or the endpoint does not tell the truth",
        contract.name(), address)]
    OtherCode {
        /// Which contract.
        contract: Contract,
        /// Where it is.
        address: Address,
    },
    /// Every step is followed by another.
    #[error(
        "after {MOST_STEPS} steps something is still missing: somebody else changes the contracts at the same time"
    )]
    Endless,
    /// The end is not what was asked for.
    #[error("what is on the chain is not what was asked for: {}", .0.join("; "))]
    Faults(Vec<String>),
    /// There is no client of the API server.
    #[error("find the API server")]
    Kubernetes(#[source] Box<RunError>),
    /// The outcome cannot be written down.
    #[error(transparent)]
    Store(#[from] StoreError),
}
