//! The few calls of NVIDIA's driver (`libcuda.so.1`) with which a device is timed, behind a safe face.
//!
//! The library is loaded by `dlopen`, as NVML is: a program that is linked to it would not start where there is none. Names,
//! signatures and numbers are those of `cuda.h` 12.9; those with `_v2` are what the header makes of the plain names.
//!
//! - [`Driver`]: the library, initialised; [`Device`]: one that it shows.
//! - [`Session`]: a device's primary context, current on this thread. What is made in it (a [`Buffer`], the [`Kernel`]) cannot
//!   outlive it.
//! - [`Kernel`]: the one kernel that there is (`fma.ptx`). It is part of this crate so that what it is called with can be
//!   checked: of any other kernel nobody could say what a wrong argument would do.
//!
//! All unsafe code of the device agent is here.

mod error;
mod functions;
mod kernel;
mod session;

pub use error::{Code, CudaError};
pub use kernel::{Kernel, LANES, STEPS_PER_TURN, Work};
pub use session::{Buffer, Session};

use std::{
    ffi::{OsStr, c_int},
    path::{Path, PathBuf},
};

use functions::Functions;

/// The name by which the driver's packages install the library, and by which dlopen searches for it.
pub const LIBRARY_NAME: &str = "libcuda.so.1";

/// Where device plugins put the driver's libraries into a container without the loader knowing of it, as Google's does.
pub const MOUNTED_LIBRARY: &str = "/usr/local/nvidia/lib64/libcuda.so.1";

/// `CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT`.
const MULTIPROCESSOR_COUNT: c_int = 16;

/// NVIDIA's driver, initialised.
#[derive(Debug)]
pub struct Driver {
    functions: Functions,
}

impl Driver {
    /// Loads the library from `path`, or from where dlopen finds it, or from [`MOUNTED_LIBRARY`]; and initialises it.
    pub fn open(path: Option<&Path>) -> Result<Self, CudaError> {
        let functions = match path {
            Some(path) => Functions::load(path.as_os_str())?,
            None => Functions::load(OsStr::new(LIBRARY_NAME)).or_else(|error| {
                let mounted = PathBuf::from(MOUNTED_LIBRARY);
                if mounted.exists() {
                    Functions::load(mounted.as_os_str())
                } else {
                    Err(error)
                }
            })?,
        };
        // SAFETY: no pointer is given; the flags must be 0.
        functions.check("cuInit", unsafe { (functions.cu_init)(0) })?;
        Ok(Self { functions })
    }

    /// The devices that it shows to this process, in its order.
    pub fn devices(&self) -> Result<Vec<Device<'_>>, CudaError> {
        let mut count: c_int = 0;
        // SAFETY: the pointer is to a number that may be written.
        let answer = unsafe { (self.functions.cu_device_get_count)(&raw mut count) };
        self.functions.check("cuDeviceGetCount", answer)?;
        (0..count)
            .map(|ordinal| {
                let mut handle: c_int = 0;
                // SAFETY: the pointer is to a number that may be written.
                let answer = unsafe { (self.functions.cu_device_get)(&raw mut handle, ordinal) };
                self.functions.check("cuDeviceGet", answer)?;
                Ok(Device {
                    functions: &self.functions,
                    handle,
                })
            })
            .collect()
    }
}

/// A device that the driver shows.
#[derive(Clone, Copy, Debug)]
pub struct Device<'d> {
    functions: &'d Functions,
    handle: c_int,
}

impl<'d> Device<'d> {
    /// Its UUID as NVML writes that of a whole device: `GPU-5a3c0f6e-…`.
    pub fn uuid(&self) -> Result<String, CudaError> {
        let mut bytes = [0_u8; 16];
        // SAFETY: a CUuuid is 16 bytes, which may be written.
        let answer = unsafe { (self.functions.cu_device_get_uuid_v2)(&raw mut bytes, self.handle) };
        self.functions.check("cuDeviceGetUuid_v2", answer)?;
        Ok(uuid_text(bytes))
    }

    /// How many streaming multiprocessors it has; at least 1.
    pub fn multiprocessors(&self) -> Result<u32, CudaError> {
        let mut count: c_int = 0;
        // SAFETY: the pointer is to a number that may be written.
        let answer = unsafe {
            (self.functions.cu_device_get_attribute)(
                &raw mut count,
                MULTIPROCESSOR_COUNT,
                self.handle,
            )
        };
        self.functions.check("cuDeviceGetAttribute", answer)?;
        Ok(u32::try_from(count).unwrap_or(1).max(1))
    }

    /// Its primary context, made current on this thread.
    pub fn session(&self) -> Result<Session<'d>, CudaError> {
        Session::open(self.functions, self.handle)
    }
}

/// `GPU-` and the bytes in the groups of a UUID.
fn uuid_text(bytes: [u8; 16]) -> String {
    let hexadecimal = format!("{:032x}", u128::from_be_bytes(bytes));
    let groups = [0..8, 8..12, 12..16, 16..20, 20..32].map(|group| &hexadecimal[group]);
    format!("GPU-{}", groups.join("-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_is_written_as_nvml_writes_it() {
        let mut bytes = [0_u8; 16];
        for (number, byte) in (0_u8..).zip(bytes.iter_mut()) {
            *byte = 0x11 * number;
        }
        assert_eq!(uuid_text(bytes), "GPU-00112233-4455-6677-8899-aabbccddeeff");
    }

    #[test]
    fn a_library_that_is_not_there_is_named_with_the_loaders_words() {
        let error = Driver::open(Some(Path::new("/nowhere/libcuda.so.1"))).unwrap_err();
        assert!(
            matches!(error, CudaError::LibraryMissing { .. }),
            "{error:?}"
        );
        assert!(
            error.to_string().contains("/nowhere/libcuda.so.1"),
            "{error}"
        );
    }

    #[test]
    fn a_library_without_a_needed_call_is_too_old_and_the_call_is_named() {
        // glibc's own is there wherever this test runs.
        let error = Driver::open(Some(Path::new("libc.so.6"))).unwrap_err();
        assert_eq!(
            error.to_string(),
            CudaError::SymbolMissing { symbol: "cuInit" }.to_string()
        );
    }
}
