//! The user stories of Gridstake, told to a real cluster.
//!
//! Each file of `e2e/tests` tells one story. A story runs through [`story`](story::story): it has the cluster for
//! itself, starts when everything in it is well, gets a namespace of its own, and leaves the cluster as it was, also
//! when it fails; then it says what the cluster looked like.
//!
//! The stories use Gridstake as its users do: manifests, `kubectl`, `helm`, and objects in the API server.
//! They need a world: `make test-e2e`, or with one that is up `e2e/cluster/world.sh run cargo test -p gridstake-e2e`.

pub mod access;
pub mod account;
pub mod admission_hold;
pub mod agent_process;
pub mod allocation;
pub mod api_server;
pub mod archive;
pub mod chain;
mod chain_clock;
mod chain_faults;
pub mod chain_payments;
pub mod command;
pub mod container;
pub mod contracts;
pub mod diagnosis;
pub mod etcd;
pub mod fake_fleet;
pub mod identity;
pub mod incident;
pub mod job;
pub mod job_manifest;
pub mod market;
pub mod monitoring;
pub mod node_power;
pub mod offer;
pub mod operator_process;
pub mod payer;
pub mod plugin_user;
pub mod pod_history;
pub mod priority_class;
pub mod prometheus;
pub mod provider;
pub mod release;
pub mod reputation;
pub mod settlement_batch;
pub mod simulated_gpus;
pub mod story;
pub mod tenant;
pub mod usage;
pub mod wait;
pub mod world;

/// What nearly every story needs.
pub mod prelude {
    pub use anyhow::{Context as _, Result, bail, ensure};
    pub use gridstake_crds::{
        ComputeJob, GpuNode,
        compute_job::{AttemptEndReason, ComputeJobCondition, ComputeJobReason, JobEndReason},
    };

    pub use crate::{
        job::{Job, first_node},
        job_manifest::{JobManifest, job},
        market::Market,
        story::{paid_story, story},
        tenant::Tenant,
        wait::{Look, look_until},
        world::World,
    };
}
