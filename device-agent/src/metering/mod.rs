//! Metering: what each slice's agent saw, as signed and hash-chained statements in `UsageRecord.status.evidence`.
//!
//! ```text
//! records (watch) ───┐
//! NVML, kubelet ─────┼─► meter ──► step ──► spool (state directory) ──► deliver   UsageRecord status, only on change
//! procfs, pidfds ────┘    edge     pure                            └──► heads     the heartbeat's annotation
//! ```
//!
//! Pure: [`step`](mod@step) and what it is made of: [`lease`], [`device`], [`chain`], [`integrals`], [`share`]. Edges:
//! [`meter`] with [`sight`] and [`spool`], [`exchange`] with [`records`] and [`deliver`]. What was billed is remembered by
//! [`seals`], and given back where the API server has lost it.

pub mod chain;
pub mod deliver;
pub mod device;
pub mod exchange;
pub mod integrals;
pub mod lease;
pub mod meter;
pub mod records;
pub mod seals;
pub mod share;
pub mod sight;
pub mod spool;
pub mod step;
pub mod trouble;
