//! `nvmlReturn_t`, from nvml.h 13.5.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// What an NVML call answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ReturnCode(pub u32);

macro_rules! return_codes {
    ($($name:ident = $value:literal, $text:literal;)*) => {
        impl ReturnCode {
            $(#[doc = $text] pub const $name: Self = Self($value);)*

            /// Every code that nvml.h defines, with its name there (less `NVML_ERROR_`) and its meaning.
            pub const ALL: &'static [(Self, &'static str, &'static str)] =
                &[$((Self($value), stringify!($name), $text)),*];

            /// The code's meaning as a NUL-terminated string, as `nvmlErrorString` returns it.
            #[must_use]
            pub const fn c_text(self) -> &'static [u8] {
                match self.0 {
                    $($value => concat!($text, "\0").as_bytes(),)*
                    _ => b"Unknown Error\0",
                }
            }
        }
    };
}

return_codes! {
    SUCCESS = 0, "Success";
    UNINITIALIZED = 1, "Uninitialized";
    INVALID_ARGUMENT = 2, "Invalid Argument";
    NOT_SUPPORTED = 3, "Not Supported";
    NO_PERMISSION = 4, "Insufficient Permissions";
    ALREADY_INITIALIZED = 5, "Already Initialized";
    NOT_FOUND = 6, "Not Found";
    INSUFFICIENT_SIZE = 7, "Insufficient Size";
    INSUFFICIENT_POWER = 8, "Insufficient External Power";
    DRIVER_NOT_LOADED = 9, "Driver Not Loaded";
    TIMEOUT = 10, "Timeout";
    IRQ_ISSUE = 11, "Interrupt Request Issue";
    LIBRARY_NOT_FOUND = 12, "NVML Shared Library Not Found";
    FUNCTION_NOT_FOUND = 13, "Function Not Found";
    CORRUPTED_INFOROM = 14, "Corrupted infoROM";
    GPU_IS_LOST = 15, "GPU is lost";
    RESET_REQUIRED = 16, "GPU requires reset";
    OPERATING_SYSTEM = 17, "The operating system has blocked the request";
    LIB_RM_VERSION_MISMATCH = 18, "RM has detected an NVML/RM version mismatch";
    IN_USE = 19, "In use by another client";
    MEMORY = 20, "Insufficient Memory";
    NO_DATA = 21, "No data";
    VGPU_ECC_NOT_SUPPORTED = 22, "ECC is enabled, which the vGPU operation does not support";
    INSUFFICIENT_RESOURCES = 23, "Insufficient Resources";
    FREQ_NOT_SUPPORTED = 24, "Frequency Not Supported";
    ARGUMENT_VERSION_MISMATCH = 25, "The provided version is invalid/unsupported";
    DEPRECATED = 26, "The requested functionality has been deprecated";
    NOT_READY = 27, "The system is not ready for the request";
    GPU_NOT_FOUND = 28, "No GPUs were found";
    INVALID_STATE = 29, "Resource not in correct state to perform requested operation";
    RESET_TYPE_NOT_SUPPORTED = 30, "Reset not supported for given device/parameters";
    UNKNOWN = 999, "Unknown Error";
}

impl fmt::Display for ReturnCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Self::ALL.iter().find(|(code, ..)| code == self) {
            Some((_, name, _)) => f.write_str(name),
            None => write!(f, "{}", self.0),
        }
    }
}

impl FromStr for ReturnCode {
    type Err = String;

    /// Reads a name (`GPU_IS_LOST`, `NVML_ERROR_GPU_IS_LOST`) or a number (`15`).
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(number) = text.parse() {
            return Ok(Self(number));
        }
        let upper = text.to_ascii_uppercase();
        let name = upper
            .strip_prefix("NVML_ERROR_")
            .unwrap_or(&upper)
            .trim_start_matches("NVML_");
        Self::ALL
            .iter()
            .find(|(_, known, _)| *known == name)
            .map(|(code, ..)| *code)
            .ok_or_else(|| {
                format!("{text:?} is no NVML return code; give its number or its name, like GPU_IS_LOST or UNKNOWN")
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_read_by_number_and_by_name() {
        for text in ["15", "GPU_IS_LOST", "gpu_is_lost", "NVML_ERROR_GPU_IS_LOST"] {
            assert_eq!(text.parse(), Ok(ReturnCode::GPU_IS_LOST), "{text}");
        }
        assert_eq!("NVML_SUCCESS".parse(), Ok(ReturnCode::SUCCESS));
    }

    #[test]
    fn a_name_that_is_no_code_is_refused_with_an_example() {
        let error = "GPU_IS_GONE".parse::<ReturnCode>().unwrap_err();
        assert!(
            error.contains("GPU_IS_GONE") && error.contains("GPU_IS_LOST"),
            "{error}"
        );
    }

    #[test]
    fn every_code_prints_the_name_it_is_read_by() {
        for (code, ..) in ReturnCode::ALL {
            assert_eq!(code.to_string().parse(), Ok(*code));
        }
    }
}
