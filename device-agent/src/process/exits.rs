//! The exits of processes, at the moment at which they happen: a pidfd is readable once its process has ended.

use std::{collections::HashSet, os::fd::OwnedFd};

use futures::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::unix::AsyncFd;

use super::ProcessId;
use crate::clock::BootMillis;

/// Waits for the ends of some processes.
#[derive(Default)]
pub struct Exits {
    waiting: FuturesUnordered<BoxFuture<'static, ProcessId>>,
    watched: HashSet<ProcessId>,
}

impl Exits {
    /// Begins to wait for the end of `process`, which was alive when the procfs was read. Where that cannot be done its
    /// end is seen when it is missing there. True if that is new.
    pub fn watch(&mut self, process: ProcessId) -> bool {
        if self.watched.contains(&process) {
            return false;
        }
        let Some(fd) = open(process.pid) else {
            return false;
        };
        self.watched.insert(process);
        self.waiting.push(Box::pin(async move {
            // An error is as good a reason to look again as an end.
            let _ = fd.readable().await;
            process
        }));
        true
    }

    /// Waits for the next end; `None` at once if none is waited for.
    pub async fn next(&mut self) -> Option<(ProcessId, BootMillis)> {
        let process = self.waiting.next().await?;
        self.watched.remove(&process);
        Some((process, BootMillis::now()))
    }
}

/// A pid that was used again since procfs was read gives another process' end, at which it is only looked again.
#[allow(
    deprecated,
    reason = "tokio wants a promise, in unsafe code, that the descriptor is not closed behind its back; an OwnedFd is it"
)]
fn open(pid: u32) -> Option<AsyncFd<OwnedFd>> {
    let pid = Pid::from_raw(i32::try_from(pid).ok()?)?;
    AsyncFd::new(pidfd_open(pid, PidfdFlags::empty()).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[tokio::test]
    async fn the_end_of_a_process_is_told_when_it_happens_and_once() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let process = ProcessId {
            start_ticks: 1,
            pid: child.id(),
        };
        let mut exits = Exits::default();
        assert!(exits.watch(process));
        assert!(!exits.watch(process));
        let before = BootMillis::now();
        drop(child.stdin.take());
        let (ended, at) = exits.next().await.unwrap();
        assert_eq!(ended, process);
        assert!(at >= before);
        assert!(exits.next().await.is_none());
        child.wait().unwrap();
    }

    #[tokio::test]
    async fn a_process_that_is_gone_already_is_not_waited_for() {
        let mut exits = Exits::default();
        let gone = ProcessId {
            start_ticks: 1,
            pid: u32::MAX,
        };
        assert!(!exits.watch(gone));
        assert!(exits.next().await.is_none());
    }
}
