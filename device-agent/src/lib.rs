//! The Gridstake device agent: one process on each GPU node that says which GPUs there are, in what health, and who
//! uses them. It reads, and changes nothing on the node.
//!
//! ```text
//! nvml (own threads) ─┐
//! holders (kubelet) ──┼─► observer ─┬─► metrics ──► http      /metrics, /healthz
//! process (procfs) ───┘    health   └─► report ───► publish   GpuNode/<node> status, only on change
//!                                       │ telling: faults first, then
//!                      metering (see there)                   UsageRecord status, every 5 min; its heads go with
//!                                       heartbeat             Lease agent-<node>, every 10 s
//! ```
//!
//! Pure, tested without a node: [`nvml::inventory`], [`health`], [`attribution`], [`local_use`], [`report`], [`device_id`], [`process::cgroup`],
//! [`backoff`]. Edges: [`nvml::thread`], [`pod_resources`], [`process::table`], [`publish`], [`heartbeat`], [`http`].
//!
//! The program has one more use, by which it never meets a cluster: [`measure`] times the GPUs that it is shown, and ends.
//!
//! Nothing that may mend itself ends the process: no library, no driver, no GPU, a failing call, a silent kubelet or API
//! server are states that are shown and tried again.

pub mod attribution;
pub mod backoff;
pub mod cli;
pub mod clock;
pub mod device_id;
pub mod health;
pub mod heartbeat;
pub mod holders;
pub mod http;
pub mod kept;
pub mod local_use;
pub mod measure;
pub mod metering;
pub mod metrics;
pub mod nvml;
pub mod observer;
pub mod outcome;
pub mod pod_resources;
pub mod process;
pub mod publish;
pub mod report;
pub mod run;
pub mod signing_key;
pub mod telling;

#[cfg(test)]
mod fuzz;
