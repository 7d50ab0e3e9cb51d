//! Which pod a process of the node belongs to: host PID → `/proc/<pid>/cgroup` → pod UID.
//!
//! - [`cgroup`]: reads a pod UID out of a cgroup file. Pure.
//! - [`table`]: the procfs edge, with a cache keyed by (pid, start time), since pids are used again.

pub mod cgroup;
pub mod table;

pub use table::{Process, ProcessTable};
