//! Why a device cannot be timed.

use std::fmt;

/// Why the driver did not do what it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CudaError {
    /// The library cannot be loaded.
    #[error(
        "cannot load libcuda.so.1: {detail}; the container needs the driver's compute libraries (NVIDIA_DRIVER_CAPABILITIES=compute, or a device plugin that mounts them)"
    )]
    LibraryMissing {
        /// The loader's own words.
        detail: String,
    },
    /// The library lacks a call.
    #[error("the driver's libcuda.so.1 lacks {symbol}; install a newer driver")]
    SymbolMissing {
        /// The call.
        symbol: &'static str,
    },
    /// A call failed.
    #[error("{call} answers {code}")]
    Call {
        /// The call's name in `cuda.h`.
        call: &'static str,
        /// What it answered.
        code: Code,
    },
    /// There is less room than is asked for.
    #[error("the kernel would write {needed} bytes into a buffer of {room}")]
    BufferTooSmall {
        /// What it would write.
        needed: u64,
        /// What there is.
        room: u64,
    },
}

impl CudaError {
    /// Whether the driver is there and shows no device to this process.
    #[must_use]
    pub const fn is_no_device(&self) -> bool {
        matches!(
            self,
            Self::Call {
                code: Code(100),
                ..
            }
        )
    }
}

/// A `CUresult`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code(pub i32);

impl fmt::Display for Code {
    /// Its name in `cuda.h` 12.9, of those that a person may meet here, and its number.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.0 {
            1 => "CUDA_ERROR_INVALID_VALUE",
            2 => "CUDA_ERROR_OUT_OF_MEMORY",
            3 => "CUDA_ERROR_NOT_INITIALIZED",
            34 => "CUDA_ERROR_STUB_LIBRARY",
            46 => "CUDA_ERROR_DEVICE_UNAVAILABLE",
            100 => "CUDA_ERROR_NO_DEVICE",
            101 => "CUDA_ERROR_INVALID_DEVICE",
            200 => "CUDA_ERROR_INVALID_IMAGE",
            201 => "CUDA_ERROR_INVALID_CONTEXT",
            209 => "CUDA_ERROR_NO_BINARY_FOR_GPU",
            214 => "CUDA_ERROR_ECC_UNCORRECTABLE",
            218 => "CUDA_ERROR_INVALID_PTX",
            221 => "CUDA_ERROR_JIT_COMPILER_NOT_FOUND",
            222 => "CUDA_ERROR_UNSUPPORTED_PTX_VERSION",
            400 => "CUDA_ERROR_INVALID_HANDLE",
            500 => "CUDA_ERROR_NOT_FOUND",
            700 => "CUDA_ERROR_ILLEGAL_ADDRESS",
            701 => "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES",
            702 => "CUDA_ERROR_LAUNCH_TIMEOUT",
            719 => "CUDA_ERROR_LAUNCH_FAILED",
            800 => "CUDA_ERROR_NOT_PERMITTED",
            802 => "CUDA_ERROR_SYSTEM_NOT_READY",
            803 => "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH",
            804 => "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE",
            999 => "CUDA_ERROR_UNKNOWN",
            _ => return write!(f, "CUresult {}", self.0),
        };
        write!(f, "{name} ({})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_call_is_named_with_what_it_answers() {
        let error = CudaError::Call {
            call: "cuInit",
            code: Code(100),
        };
        assert_eq!(
            error.to_string(),
            "cuInit answers CUDA_ERROR_NO_DEVICE (100)"
        );
        assert!(error.is_no_device());
        let unknown = CudaError::Call {
            call: "cuInit",
            code: Code(12),
        };
        assert_eq!(unknown.to_string(), "cuInit answers CUresult 12");
        assert!(!unknown.is_no_device());
    }
}
