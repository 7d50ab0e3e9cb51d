//! Descriptors that become readable.

use std::{io, os::fd::OwnedFd};

use tokio::io::unix::AsyncFd;

/// A descriptor that can be waited for, on the runtime that this is called in.
///
/// # Errors
/// When the system cannot wait for it.
#[allow(
    deprecated,
    reason = "tokio wants a promise, in unsafe code, that the descriptor is not closed behind its back; an OwnedFd is it"
)]
pub fn awaitable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(fd)
}
