//! Settlement and the contracts' deployment against a real EVM (anvil) and as much of an API server as it asks.
//!
//! Needs anvil: contracts/setup.sh installs it; `GRIDSTAKE_ANVIL` names another one.

#![allow(
    clippy::unwrap_used,
    clippy::unwrap_in_result,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

mod anvil;
mod api_server;
mod archives;
mod campaign;
mod crashes;
mod deploys;
mod differential;
mod endpoints;
mod fees;
mod follows;
mod lanes;
mod lies;
mod load;
mod lying_rpc;
mod outage;
mod poison;
mod reorgs;
mod restores;
mod settles;
mod states;
mod world;
