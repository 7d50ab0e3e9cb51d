//! The contract between the simulated GPUs' two halves: the device plugin writes these files on a node, the NVML
//! double (`libnvidia-ml.so.1`) and that of the driver (`libcuda.so.1`) read them.
//!
//! - [`State`] (`state.json`): which devices the node has, which driver, which faults are set.
//! - [`Processes`] (`processes.json`): which processes run on which device, and the energy that was used so far.
//!
//! Both files are replaced by an atomic rename, never written in place. Every writer, and a reader that combines a
//! file with the clock, holds a lock on [`LOCK_FILE`]: exclusive to write, shared to read. That order makes the
//! energy counter monotonic for every process that looks at it (see [`EnergyLedger`]).

mod model;
mod processes;
mod return_code;
mod state;

pub use model::{Clocks, Model, NvLink, Power, Temperature};
pub use processes::{EnergyLedger, Process, ProcessKind, Processes};
pub use return_code::ReturnCode;
pub use state::{
    CallFault, Device, DeviceFaults, Driver, DriverKind, MigInstance, Pci, State, Utilization,
    XidEvent,
};

/// Name of the file that holds [`State`].
pub const STATE_FILE: &str = "state.json";
/// Name of the file that holds [`Processes`].
pub const PROCESSES_FILE: &str = "processes.json";
/// Name of the file that writers lock exclusively and clock readers lock shared (`flock`).
pub const LOCK_FILE: &str = "lock";
/// Folder, inside the state directory, that holds the double as [`LIBRARY_FILE`].
pub const LIBRARY_DIRECTORY: &str = "lib";
/// The name under which programs load NVML.
pub const LIBRARY_FILE: &str = "libnvidia-ml.so.1";
/// The name under which programs load the driver, beside it.
pub const CUDA_LIBRARY_FILE: &str = "libcuda.so.1";
/// Environment variable that names the state directory.
pub const DIRECTORY_ENV: &str = "GRIDSTAKE_SIMULATED_GPUS_DIR";
/// The state directory where nothing else is said.
pub const DEFAULT_DIRECTORY: &str = "/run/gridstake/simulated-gpus";
/// Version of the files' format; a reader refuses any other.
pub const FORMAT: u32 = 1;
