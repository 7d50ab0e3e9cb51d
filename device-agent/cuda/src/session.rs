//! A device's primary context, and what is made in it.

use std::{
    ffi::{c_int, c_void},
    ptr,
};

use crate::{
    CudaError, Kernel,
    functions::{Address, Functions, Handle},
};

/// A device's primary context, current on this thread until it is dropped. It cannot be sent to another one.
#[derive(Debug)]
pub struct Session<'d> {
    functions: &'d Functions,
    device: c_int,
    // Not Send: a raw pointer.
    _context: Handle,
}

impl<'d> Session<'d> {
    pub(crate) fn open(functions: &'d Functions, device: c_int) -> Result<Self, CudaError> {
        let mut context: Handle = ptr::null_mut();
        // SAFETY: the pointer is to a handle that may be written.
        let answer = unsafe { (functions.cu_device_primary_ctx_retain)(&raw mut context, device) };
        functions.check("cuDevicePrimaryCtxRetain", answer)?;
        let session = Self {
            functions,
            device,
            _context: context,
        };
        // SAFETY: the context is the one that was just given out, and is retained until the session is dropped.
        let answer = unsafe { (functions.cu_ctx_set_current)(context) };
        functions.check("cuCtxSetCurrent", answer)?;
        Ok(session)
    }

    pub(crate) const fn functions(&self) -> &'d Functions {
        self.functions
    }

    /// Waits until the device has done all that it was asked for in this session.
    pub fn synchronize(&self) -> Result<(), CudaError> {
        // SAFETY: no argument; this session's context is current.
        let answer = unsafe { (self.functions.cu_ctx_synchronize)() };
        self.functions.check("cuCtxSynchronize", answer)
    }

    /// The kernel, made for this device.
    pub fn kernel(&self) -> Result<Kernel<'_>, CudaError> {
        Kernel::load(self)
    }

    /// Memory on the device for so many words of 32 bits, each of which is `word`.
    pub fn buffer(&self, words: usize, word: u32) -> Result<Buffer<'_>, CudaError> {
        let mut address: Address = 0;
        let bytes = words.saturating_mul(4);
        // SAFETY: the pointer is to an address that may be written.
        let answer = unsafe { (self.functions.cu_mem_alloc)(&raw mut address, bytes) };
        self.functions.check("cuMemAlloc_v2", answer)?;
        let buffer = Buffer {
            functions: self.functions,
            address,
            words,
        };
        // SAFETY: the buffer has so many words.
        let answer = unsafe { (self.functions.cu_memset_d32)(address, word, words) };
        self.functions.check("cuMemsetD32_v2", answer)?;
        Ok(buffer)
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        // SAFETY: it was retained once, and what was made in it is gone: it borrowed the session.
        unsafe {
            (self.functions.cu_ctx_set_current)(ptr::null_mut());
            (self.functions.cu_device_primary_ctx_release)(self.device);
        }
    }
}

/// Memory on the device.
#[derive(Debug)]
pub struct Buffer<'s> {
    functions: &'s Functions,
    address: Address,
    words: usize,
}

impl Buffer<'_> {
    pub(crate) const fn address(&self) -> Address {
        self.address
    }

    /// Its size in words of 32 bits.
    #[must_use]
    pub const fn words(&self) -> usize {
        self.words
    }

    /// Has the device copy `source` into it, as far as both go. It is not waited for.
    pub fn copy_from(&self, source: &Buffer<'_>) -> Result<(), CudaError> {
        let bytes = self.words.min(source.words).saturating_mul(4);
        // SAFETY: both are memory of this device of at least so many bytes.
        let answer =
            unsafe { (self.functions.cu_memcpy_dtod)(self.address, source.address, bytes) };
        self.functions.check("cuMemcpyDtoD_v2", answer)
    }

    /// Its first `words` words, or all where it has fewer.
    pub fn read(&self, words: usize) -> Result<Vec<u32>, CudaError> {
        let mut content = vec![0_u32; words.min(self.words)];
        let bytes = content.len().saturating_mul(4);
        // SAFETY: `content` is so many bytes, which may be written, and the buffer has no fewer.
        let answer = unsafe {
            (self.functions.cu_memcpy_dtoh)(
                content.as_mut_ptr().cast::<c_void>(),
                self.address,
                bytes,
            )
        };
        self.functions.check("cuMemcpyDtoH_v2", answer)?;
        Ok(content)
    }
}

impl Drop for Buffer<'_> {
    fn drop(&mut self) {
        // SAFETY: the address is the driver's own, and nobody else has it.
        unsafe {
            (self.functions.cu_mem_free)(self.address);
        }
    }
}
