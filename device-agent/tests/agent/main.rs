//! The agent against everything it meets on a node, each in its real form: NVML and the driver as libraries that are loaded by
//! dlopen (the doubles), the kubelet as a gRPC server on a unix socket, the API server as an HTTP server.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "clippy allows them in test functions and not in what these call"
)]

mod api_server;
mod cluster;
mod health;
mod kubelet;
mod load;
mod machine;
mod measure;
mod metering;
mod node;
mod nvml;
mod process;
mod whole;

use std::time::Duration;

/// How long a condition is waited for; only a test that fails takes that long.
const PATIENCE: Duration = Duration::from_mins(1);
