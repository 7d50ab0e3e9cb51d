//! The exits of processes, at the moment at which they happen: a pidfd is readable once its process has ended.

use std::{collections::HashSet, os::fd::OwnedFd, thread};

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::{
    io::unix::AsyncFd,
    runtime::{Builder, Handle},
    sync::{mpsc, oneshot},
    task::JoinSet,
};

use super::{ProcessId, readiness::awaitable};
use crate::clock::BootMillis;

/// Waits for the ends of some processes. Each is dated when it happens, also while whoever asks for it is busy, as with a disk
/// that takes its time or with all processes of the node: a thread does nothing else.
pub struct Exits {
    /// `None` where the system gives no thread: then they are waited for among everything else.
    thread: Option<Waiter>,
    waiting: JoinSet<()>,
    watched: HashSet<ProcessId>,
    tell: mpsc::UnboundedSender<(ProcessId, BootMillis)>,
    told: mpsc::UnboundedReceiver<(ProcessId, BootMillis)>,
}

impl Default for Exits {
    fn default() -> Self {
        let (tell, told) = mpsc::unbounded_channel();
        Self {
            thread: Waiter::start(),
            waiting: JoinSet::new(),
            watched: HashSet::new(),
            tell,
            told,
        }
    }
}

/// A thread that waits. It ends with its owner.
struct Waiter {
    handle: Handle,
    _stop: oneshot::Sender<()>,
}

impl Waiter {
    /// It needs a few calls deep of stack, and no more.
    const STACK_BYTES: usize = 256 << 10;

    fn start() -> Option<Self> {
        let runtime = Builder::new_current_thread().enable_io().build().ok()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let wait = move || {
            // An error says that the owner is gone, which is what is waited for.
            let _ = runtime.block_on(stopped);
        };
        let named = thread::Builder::new().name("exits".to_owned());
        named.stack_size(Self::STACK_BYTES).spawn(wait).ok()?;
        Some(Self {
            handle,
            _stop: stop,
        })
    }
}

impl Exits {
    /// Begins to wait for the end of `process`, which was alive when the procfs was read. Where that cannot be done its
    /// end is seen when it is missing there. True if that is new.
    pub fn watch(&mut self, process: ProcessId) -> bool {
        if self.watched.contains(&process) {
            return false;
        }
        let handle = self.thread.as_ref().map(|thread| thread.handle.clone());
        let inside = handle.as_ref().map(Handle::enter);
        let opened = open(process.pid);
        drop(inside);
        let Some(fd) = opened else {
            return false;
        };
        self.watched.insert(process);
        // Those that have ended leave nothing behind.
        while self.waiting.try_join_next().is_some() {}
        let tell = self.tell.clone();
        let wait = async move {
            // An error is as good a reason to look again as an end.
            let _ = fd.readable().await;
            // Nobody may be asking any more.
            let _ = tell.send((process, BootMillis::now()));
        };
        match handle {
            Some(handle) => self.waiting.spawn_on(wait, &handle),
            None => self.waiting.spawn(wait),
        };
        true
    }

    /// Waits for the next end; `None` at once if none is waited for.
    pub async fn next(&mut self) -> Option<(ProcessId, BootMillis)> {
        if self.watched.is_empty() {
            return None;
        }
        let (process, at) = self.told.recv().await?;
        self.watched.remove(&process);
        Some((process, at))
    }

    /// The next end that has happened already, if there is one.
    pub fn next_now(&mut self) -> Option<(ProcessId, BootMillis)> {
        let (process, at) = self.told.try_recv().ok()?;
        self.watched.remove(&process);
        Some((process, at))
    }

    /// Whether its end is waited for and was not told yet.
    #[must_use]
    pub fn awaits(&self, process: &ProcessId) -> bool {
        self.watched.contains(process)
    }
}

/// A pid that was used again since procfs was read gives another process' end, at which it is only looked again.
fn open(pid: u32) -> Option<AsyncFd<OwnedFd>> {
    let pid = Pid::from_raw(i32::try_from(pid).ok()?)?;
    awaitable(pidfd_open(pid, PidfdFlags::empty()).ok()?).ok()
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
    async fn an_end_is_dated_when_it_happens_and_not_when_it_is_asked_for() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let process = ProcessId {
            start_ticks: 1,
            pid: child.id(),
        };
        let mut exits = Exits::default();
        exits.watch(process);
        drop(child.stdin.take());
        child.wait().unwrap();
        // The runtime turns meanwhile, as it does while a disk is waited for.
        while exits.told.is_empty() {
            tokio::task::yield_now().await;
        }
        let happened = BootMillis::now();
        while BootMillis::now() <= happened.plus(5) {
            tokio::task::yield_now().await;
        }
        let (_, at) = exits.next().await.unwrap();
        assert!(at <= happened);
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
