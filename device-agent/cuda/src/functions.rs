//! The library's functions, found by their names.

use std::{
    ffi::{OsStr, c_char, c_int, c_uint, c_void},
    fmt,
};

use libloading::Library;

use crate::{CudaError, error::Code};

/// `CUresult`.
pub type Answer = c_int;
/// `CUcontext`, `CUmodule`, `CUfunction`, `CUstream`: the driver's own, opaque.
pub type Handle = *mut c_void;
/// `CUdeviceptr`: an address on the device.
pub type Address = u64;

macro_rules! functions {
    ($($(#[$doc:meta])* $field:ident = $symbol:literal: fn($($argument:ty),* $(,)?);)*) => {
        /// The functions, which may be called for as long as this lives.
        pub struct Functions {
            $($(#[$doc])* pub $field: unsafe extern "C" fn($($argument),*) -> Answer,)*
            /// Unloaded last: fields are dropped in their order, and the pointers above need no drop.
            _library: Library,
        }

        impl Functions {
            /// Loads the library `name` as dlopen does, and finds all functions in it.
            pub fn load(name: &OsStr) -> Result<Self, CudaError> {
                // SAFETY: loading runs the library's initialisers. It is the driver's, which every CUDA program loads.
                let library = unsafe { Library::new(name) }.map_err(|error| CudaError::LibraryMissing {
                    detail: loader_words(&error),
                })?;
                $(
                    // SAFETY: the type is the function's in cuda.h.
                    let $field = *unsafe {
                        library.get::<unsafe extern "C" fn($($argument),*) -> Answer>(concat!($symbol, "\0").as_bytes())
                    }
                    .map_err(|_| CudaError::SymbolMissing { symbol: $symbol })?;
                )*
                Ok(Self { $($field,)* _library: library })
            }
        }
    };
}

functions! {
    cu_init = "cuInit": fn(c_uint);
    cu_device_get_count = "cuDeviceGetCount": fn(*mut c_int);
    cu_device_get = "cuDeviceGet": fn(*mut c_int, c_int);
    cu_device_get_uuid_v2 = "cuDeviceGetUuid_v2": fn(*mut [u8; 16], c_int);
    cu_device_get_attribute = "cuDeviceGetAttribute": fn(*mut c_int, c_int, c_int);
    cu_device_primary_ctx_retain = "cuDevicePrimaryCtxRetain": fn(*mut Handle, c_int);
    cu_device_primary_ctx_release = "cuDevicePrimaryCtxRelease_v2": fn(c_int);
    cu_ctx_set_current = "cuCtxSetCurrent": fn(Handle);
    cu_ctx_synchronize = "cuCtxSynchronize": fn();
    cu_module_load_data = "cuModuleLoadData": fn(*mut Handle, *const c_void);
    cu_module_unload = "cuModuleUnload": fn(Handle);
    cu_module_get_function = "cuModuleGetFunction": fn(*mut Handle, Handle, *const c_char);
    cu_launch_kernel = "cuLaunchKernel": fn(
        Handle, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, Handle, *mut *mut c_void, *mut *mut c_void,
    );
    cu_mem_alloc = "cuMemAlloc_v2": fn(*mut Address, usize);
    cu_mem_free = "cuMemFree_v2": fn(Address);
    cu_memset_d32 = "cuMemsetD32_v2": fn(Address, c_uint, usize);
    cu_memcpy_dtod = "cuMemcpyDtoD_v2": fn(Address, Address, usize);
    cu_memcpy_dtoh = "cuMemcpyDtoH_v2": fn(*mut c_void, Address, usize);
}

impl Functions {
    /// `Ok` if `answer` is `CUDA_SUCCESS`.
    #[allow(
        clippy::unused_self,
        reason = "only who has the functions has an answer of theirs"
    )]
    pub const fn check(&self, call: &'static str, answer: Answer) -> Result<(), CudaError> {
        if answer == 0 {
            Ok(())
        } else {
            Err(CudaError::Call {
                call,
                code: Code(answer),
            })
        }
    }
}

impl fmt::Debug for Functions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Functions")
    }
}

/// libloading keeps the text of dlerror in its source.
fn loader_words(error: &dyn std::error::Error) -> String {
    error
        .source()
        .map_or_else(|| error.to_string(), ToString::to_string)
}
