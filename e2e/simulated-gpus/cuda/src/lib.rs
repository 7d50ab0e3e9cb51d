//! A `libcuda.so.1` that answers from files (`gridstake-simulated-gpus-state`) instead of a driver.
//!
//! A program loads it by `dlopen`, exactly as it loads the driver on a node with GPUs. It knows the calls with which the
//! device agent times a device, and one kernel: that of `device-agent/cuda/src/fma.ptx`, whose result it calculates. How long
//! a kernel or a copy takes follows from the figures of the device's model and the faults `speed` and `wrong-results`; the
//! time passes where a program waits for the device. Faults of calls (`error=cuInit:100`) answer CUDA's numbers; `*` is for
//! NVML alone. Memory is not held: of a buffer it is known what fills it, which is all that is ever read.
//!
//! - [`calls`]: the exported functions.
//! - [`device`]: the devices that the process may see, and how fast they are.
//! - [`memory`]: what fills the buffers.

mod calls;
mod device;
mod kernel;
mod memory;
#[path = "../../nvml/src/source.rs"]
#[allow(
    dead_code,
    reason = "shared with the double of NVML, which needs more of it"
)]
mod source;
