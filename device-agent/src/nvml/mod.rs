//! Everything that speaks to NVML. NVML's calls block, sometimes for seconds, and sometimes for ever when a GPU is
//! broken; so they run on one thread of their own ([`thread`]) that the rest of the agent never waits for.
//!
//! ```text
//! thread ── library   opens libnvidia-ml.so.1 and says what is wrong when it cannot
//!        ├─ describe  what a device is            (at the start, then each minute)
//!        ├─ sample    what a device does          (each second)
//!        ├─ events    Xid events, on a thread beside it
//!        └─ call      each call's name, error and whether it has returned
//!           │ Observation
//!           ▼
//! inventory  pure: observations → devices in their health, and the state of the agent
//! ```

pub mod call;
pub mod describe;
pub mod events;
pub mod inventory;
pub mod library;
pub mod sample;
pub mod thread;

use std::sync::Arc;

use call::CallFailure;
use describe::DeviceFacts;
use library::{DriverVersions, Trouble};
use sample::Sample;

use crate::clock::BootMillis;

/// What one pass over NVML showed.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Observation {
    /// When the pass began.
    pub began_at: BootMillis,
    /// Why NVML cannot be used at all; `None` while it answers.
    pub trouble: Option<Trouble>,
    /// The driver's versions, when NVML could be asked.
    pub driver: Option<DriverVersions>,
    /// One for each device that NVML counts, by NVML's index. Empty in trouble.
    pub slots: Vec<Slot>,
}

/// One of the devices that NVML counts.
#[derive(Clone, Debug, PartialEq)]
pub struct Slot {
    /// NVML's index.
    pub index: u32,
    /// What the device is, or the call that would not say.
    pub facts: Result<Arc<DeviceFacts>, CallFailure>,
    /// What it does at this moment; empty where `facts` failed.
    pub sample: Sample,
}
