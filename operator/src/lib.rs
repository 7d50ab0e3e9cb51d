//! The Gridstake operator: controllers and scheduler.
//!
//! | module | what |
//! |---|---|
//! | [`scheduler`] | which nodes a job's members go to; pure |
//! | [`controllers`] | one folder per kind: observe → decide → act → status |
//! | [`payer`] | who pays for a namespace's jobs, and whether the money lasts |
//! | [`snapshot`] | the scheduler's view of the caches |
//! | [`chain`] | what is known of the chain, kept up to date by following its blocks |
//! | [`settlement`] | what a lane owes: batched, signed, sent, followed until it is final |
//! | [`archive`] | final batches as files, and what may leave the cluster for it |
//! | [`uptime`] | which node was up in which minute, as a log that is stated on chain |
//! | [`reputation`] | what is known of each GPU, and how steady a node is |
//! | [`verdict`] | at whose door a failed attempt is laid |
//! | [`contracts_deploy`] | the subcommand that puts the contracts on a chain |
//! | [`precedence`] | placements are written before anything else, and members started before what is told |
//! | [`caches`] | what is known of the cluster, kept up to date by watches |
//! | [`reconcile`], [`backoff`], [`status`], [`events`], [`error`] | what controllers run on |
//! | [`lane_counters`] | what of a lane only ever rises, changed by compare-and-swap |
//! | [`leader`] | election by Lease |
//! | [`run`], [`cli`], [`crd_wait`], [`http`], [`health`], [`metrics`], [`telemetry`] | the process |

pub mod archive;
pub mod backoff;
pub mod caches;
pub mod chain;
pub mod cli;
pub mod context;
pub mod contracts_deploy;
pub mod controllers;
pub mod crd_wait;
pub mod error;
pub mod events;
pub mod failover;
pub mod health;
pub mod http;
pub mod lane_counters;
pub mod leader;
pub mod metrics;
pub mod payer;
pub mod precedence;
pub mod reconcile;
pub mod reputation;
pub mod run;
pub mod scheduler;
pub mod settlement;
pub mod snapshot;
pub mod status;
pub mod telemetry;
pub mod uptime;
pub mod verdict;

#[cfg(test)]
mod fuzz;

pub use context::Context;
