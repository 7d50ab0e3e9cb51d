//! Opens NVIDIA's management library and says in one word and one sentence why it cannot be used.

use std::{ffi::OsStr, fmt, path::Path};

use gridstake_crds::gpu_node::AgentState;
use nvml_wrapper::{Nvml, cuda_driver_version_major, cuda_driver_version_minor, error::NvmlError};

use super::call::{CallFailure, Calls, FailureKind};

/// The name by which the driver's packages install the library, and by which dlopen searches for it.
pub const LIBRARY_NAME: &str = "libnvidia-ml.so.1";

/// Why NVML cannot be used on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The library cannot be loaded.
    LibraryMissing {
        /// The loader's own words.
        detail: String,
    },
    /// The library works and no driver answers it.
    DriverNotLoaded,
    /// The library lacks a function without which devices cannot be offered.
    DriverTooOld {
        /// The missing symbol.
        symbol: String,
    },
    /// The driver answers and counts no GPU.
    NoDevices,
    /// A call that concerns the whole node fails.
    CallFailing(CallFailure),
    /// A call has not returned for longer than it may take.
    CallStuck {
        /// The call's name in `nvml.h`.
        call: &'static str,
    },
}

impl Trouble {
    /// The state as `GpuNode.status.agent` tells it.
    #[must_use]
    pub fn state(&self) -> AgentState {
        match self {
            Self::LibraryMissing { .. } => AgentState::LibraryMissing,
            Self::DriverNotLoaded => AgentState::DriverNotLoaded,
            Self::DriverTooOld { .. } => AgentState::DriverTooOld,
            Self::NoDevices => AgentState::NoDevices,
            Self::CallFailing(_) => AgentState::CallFailing,
            Self::CallStuck { .. } => AgentState::CallStuck,
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LibraryMissing { detail } => write!(
                f,
                "cannot load {LIBRARY_NAME}: {detail}; install the NVIDIA driver, or mount its libraries into the agent"
            ),
            Self::DriverNotLoaded => f.write_str(
                "the NVIDIA kernel driver is not loaded, or /dev/nvidiactl is not visible to the agent",
            ),
            Self::DriverTooOld { symbol } => write!(
                f,
                "the driver's {LIBRARY_NAME} lacks {symbol}, which the agent needs; install a newer driver"
            ),
            Self::NoDevices => f.write_str("the NVIDIA driver shows no GPU"),
            Self::CallFailing(failure) if failure.error == "LibraryVersionMismatch" => write!(
                f,
                "{failure}: the loaded kernel driver and the library have different versions; reload the driver or restart the node"
            ),
            Self::CallFailing(failure) => failure.fmt(f),
            Self::CallStuck { call } => write!(
                f,
                "{call} has not returned for {} s; a GPU or the driver hangs",
                super::call::may_take(call).as_secs()
            ),
        }
    }
}

impl From<CallFailure> for Trouble {
    fn from(failure: CallFailure) -> Self {
        match failure.kind {
            FailureKind::SessionOver if failure.error == "DriverNotLoaded" => Self::DriverNotLoaded,
            _ => Self::CallFailing(failure),
        }
    }
}

/// Versions that the driver tells, as text for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriverVersions {
    /// The kernel driver, such as `580.95.05`.
    pub driver: String,
    /// The library, such as `13.580.95.05`.
    pub nvml: Option<String>,
    /// The newest CUDA that the driver supports, such as `13.0`.
    pub cuda: Option<String>,
}

/// Loads and initialises NVML from `path`, or from where dlopen finds it.
pub fn open(calls: &Calls, path: Option<&Path>) -> Result<Nvml, Trouble> {
    let name = path.map_or_else(|| OsStr::new(LIBRARY_NAME), Path::as_os_str);
    calls
        .watched("nvmlInit_v2", || Nvml::builder().lib_path(name).init())
        .map_err(|error| trouble_of_init(&error))
}

fn trouble_of_init(error: &NvmlError) -> Trouble {
    match error {
        NvmlError::LibloadingError(source) => Trouble::LibraryMissing {
            detail: loader_words(source),
        },
        NvmlError::FailedToLoadSymbol(_) => Trouble::DriverTooOld {
            symbol: "nvmlInit_v2".to_owned(),
        },
        // With the library of a container image and no device files NVML cannot find its own parts either.
        NvmlError::DriverNotLoaded => Trouble::DriverNotLoaded,
        other => Trouble::from(CallFailure::new("nvmlInit_v2", other)),
    }
}

/// libloading keeps the text of dlerror in its source.
fn loader_words(error: &dyn std::error::Error) -> String {
    error
        .source()
        .map_or_else(|| error.to_string(), ToString::to_string)
}

/// The calls without which a device cannot be offered: they identify it, describe it, and tell who runs on it.
/// Everything else is a value that may be absent.
pub const NEEDED_CALLS: [&str; 7] = [
    "nvmlDeviceGetCount_v2",
    "nvmlDeviceGetHandleByIndex_v2",
    "nvmlDeviceGetUUID",
    "nvmlDeviceGetName",
    "nvmlDeviceGetMemoryInfo_v2",
    "nvmlDeviceGetCudaComputeCapability",
    "nvmlDeviceGetComputeRunningProcesses_v3",
];

/// The first of [`NEEDED_CALLS`] that the library lacks.
#[must_use]
pub fn missing_symbol(nvml: &Nvml) -> Option<&'static str> {
    let lib = nvml.lib();
    let present = [
        lib.nvmlDeviceGetCount_v2.is_ok(),
        lib.nvmlDeviceGetHandleByIndex_v2.is_ok(),
        lib.nvmlDeviceGetUUID.is_ok(),
        lib.nvmlDeviceGetName.is_ok(),
        lib.nvmlDeviceGetMemoryInfo_v2.is_ok(),
        lib.nvmlDeviceGetCudaComputeCapability.is_ok(),
        lib.nvmlDeviceGetComputeRunningProcesses_v3.is_ok(),
    ];
    NEEDED_CALLS
        .into_iter()
        .zip(present)
        .find_map(|(call, present)| (!present).then_some(call))
}

/// Asks for the versions; a library that tells none of them is no reason to stop.
#[must_use]
pub fn versions(calls: &Calls, nvml: &Nvml) -> Option<DriverVersions> {
    let driver = calls
        .run("nvmlSystemGetDriverVersion", || nvml.sys_driver_version())
        .ok()?;
    let library = calls
        .run("nvmlSystemGetNVMLVersion", || nvml.sys_nvml_version())
        .ok();
    let cuda = calls
        .run("nvmlSystemGetCudaDriverVersion_v2", || {
            nvml.sys_cuda_driver_version()
        })
        .ok();
    Some(DriverVersions {
        driver,
        nvml: library,
        cuda: cuda.map(|version| {
            format!(
                "{}.{}",
                cuda_driver_version_major(version),
                cuda_driver_version_minor(version)
            )
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_for_init_to_fail_has_its_state() {
        let table = [
            (NvmlError::DriverNotLoaded, AgentState::DriverNotLoaded),
            (
                NvmlError::FailedToLoadSymbol("undefined symbol: nvmlInit_v2".into()),
                AgentState::DriverTooOld,
            ),
            (NvmlError::NoPermission, AgentState::CallFailing),
            (NvmlError::LibRmVersionMismatch, AgentState::CallFailing),
            (NvmlError::Unknown, AgentState::CallFailing),
        ];
        for (error, state) in table {
            assert_eq!(trouble_of_init(&error).state(), state, "{error:?}");
        }
    }

    #[test]
    fn a_failing_call_is_named_with_its_error_and_what_to_do() {
        let said = trouble_of_init(&NvmlError::LibRmVersionMismatch).to_string();
        assert!(
            said.starts_with("nvmlInit_v2 answers LibraryVersionMismatch"),
            "{said}"
        );
        assert!(said.contains("restart the node"), "{said}");
    }

    #[test]
    fn an_old_driver_is_told_which_symbol_it_lacks() {
        let trouble = Trouble::DriverTooOld {
            symbol: "nvmlDeviceGetMemoryInfo_v2".into(),
        };
        assert!(
            trouble
                .to_string()
                .contains("lacks nvmlDeviceGetMemoryInfo_v2")
        );
    }
}
