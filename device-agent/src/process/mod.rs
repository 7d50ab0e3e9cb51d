//! Which pod a process of the node belongs to: host PID → `/proc/<pid>/cgroup` → pod UID.
//!
//! - [`cgroup`]: reads a pod UID out of a cgroup file. Pure.
//! - [`table`]: some processes and their pods, with a cache keyed by (pid, start time), since pids are used again.
//! - [`pods`]: some pods and the processes of their containers.
//! - [`pod_names`]: which UIDs a pod's name stands for.
//! - [`container_folders`]: when a container is about to start.
//! - [`exits`]: when a process ends.
//! - [`readiness`]: waits for descriptors.

pub mod cgroup;
pub mod container_folders;
pub mod exits;
pub mod pod_names;
pub mod pods;
pub mod readiness;
pub mod table;

pub use pods::ProcessId;
pub use table::{Process, ProcessTable};
