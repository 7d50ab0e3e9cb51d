//! A `libnvidia-ml.so.1` that answers from files (`gridstake-simulated-gpus-state`) instead of a driver.
//!
//! A program loads it by `dlopen`, exactly as it loads NVML on a node with GPUs. Every function follows nvml.h 13.5:
//! names, argument order, struct layout, error codes, and the two-step way to ask for lists. What is exported is
//! what a device agent reads; calls that change a GPU answer `NO_PERMISSION`, as they do for a process without
//! privileges.
//!
//! - [`calls`]: the exported functions, by subject.
//! - [`library`]: initialisation, faults, and the guard that every call passes through.
//! - [`source`]: reading the files.
//! - [`abi`]: the C types.

mod abi;
mod calls;
mod clock;
mod handles;
mod library;
mod outputs;
mod source;
