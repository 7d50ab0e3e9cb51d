//! The thread that makes all NVML calls. It opens the library, samples the devices at the interval, and starts anew with
//! back-off when NVML stops answering. What it sees goes out as the latest [`Observation`]; nobody waits for it.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use nvml_wrapper::{Device, Nvml};
use tokio::sync::watch;

use super::{
    Observation, Slot,
    call::{CallFailure, Calls, FailureKind},
    describe::{DeviceFacts, describe},
    events::{Hearing, Listener},
    library::{self, DriverVersions, Trouble},
    sample::{ProcessLists, Sample, sample},
};
use crate::{backoff::Backoff, clock::BootMillis};

/// How often the facts of healthy devices are read again: MIG instances and links change without notice.
const DESCRIBE_EVERY: Duration = Duration::from_mins(1);

/// A lost device can come back to a fresh NVML only, and opening NVML costs the driver more than a call does.
const REOPEN_FOR_LOST: Backoff = Backoff::new(Duration::from_secs(10), Duration::from_mins(5));

/// The longest wait for something to be installed, loaded or plugged in. Looking for it is cheap.
const ABSENCE_LONGEST: Duration = Duration::from_secs(15);

/// What the thread needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The library, or `None` to search for it as dlopen does.
    pub library: Option<PathBuf>,
    /// Where the host's procfs is mounted: the kernel driver shows itself there.
    pub proc_root: PathBuf,
    /// Time between two samples.
    pub interval: Duration,
}

/// The running thread. Dropping it asks the thread to end, and does not wait: a call may hang for ever.
#[derive(Debug)]
pub struct NvmlThread {
    _stop: Sender<()>,
    handle: JoinHandle<()>,
}

impl NvmlThread {
    /// Starts the thread. `latest` holds what it saw last, or `None` before the first time; `hearing` what it heard.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn spawn(
        settings: Settings,
        calls: Arc<Calls>,
        hearing: Arc<Hearing>,
        latest: watch::Sender<Option<Arc<Observation>>>,
    ) -> io::Result<Self> {
        let (stop, stopped) = channel();
        let handle = std::thread::Builder::new()
            .name("nvml".to_owned())
            .spawn(move || {
                Worker {
                    settings,
                    calls,
                    hearing,
                    latest,
                    stopped,
                    reopen_for_lost: REOPEN_FOR_LOST,
                }
                .run();
            })?;
        Ok(Self {
            _stop: stop,
            handle,
        })
    }

    /// Whether the thread has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.handle.is_finished()
    }
}

/// Why a session with NVML ended.
enum End {
    /// The agent ends.
    Stopped,
    /// A fresh start is wanted, and nothing is wrong that is not told already.
    Reopen,
    /// NVML does not serve, after `samples` passes in which it did.
    Trouble {
        trouble: Trouble,
        driver: Option<DriverVersions>,
        samples: u64,
    },
}

/// One of the devices in a session.
struct Attached<'nvml> {
    device: Device<'nvml>,
    facts: Arc<DeviceFacts>,
}

struct Worker {
    settings: Settings,
    calls: Arc<Calls>,
    hearing: Arc<Hearing>,
    latest: watch::Sender<Option<Arc<Observation>>>,
    stopped: Receiver<()>,
    reopen_for_lost: Backoff,
}

impl Worker {
    fn run(mut self) {
        let mut backoff = Backoff::STANDARD;
        loop {
            match self.session() {
                End::Stopped => return,
                End::Reopen => {}
                // It worked until now: NVML may only want to be opened anew, which the next pass tells.
                End::Trouble { samples: 1.., .. } => backoff.reset(),
                End::Trouble {
                    trouble, driver, ..
                } => {
                    let longest = match trouble {
                        Trouble::CallFailing(_) => Duration::MAX,
                        _ => ABSENCE_LONGEST,
                    };
                    self.latest.send_replace(Some(Arc::new(Observation {
                        began_at: BootMillis::now(),
                        trouble: Some(trouble),
                        driver,
                        slots: Vec::new(),
                    })));
                    if !self.wait_for_change(backoff.after_failure().min(longest), &mut backoff) {
                        return;
                    }
                }
            }
        }
    }

    /// Waits, or until library or kernel driver change. False when the agent ends.
    fn wait_for_change(&self, wait: Duration, backoff: &mut Backoff) -> bool {
        let before = self.fingerprint();
        let until = Instant::now() + wait;
        while Instant::now() < until {
            if !self.wait_until((Instant::now() + self.settings.interval).min(until)) {
                return false;
            }
            if self.fingerprint() != before {
                backoff.reset();
                return true;
            }
        }
        true
    }

    /// False when the agent ends.
    fn wait_until(&self, deadline: Instant) -> bool {
        let wait = deadline.saturating_duration_since(Instant::now());
        matches!(
            self.stopped.recv_timeout(wait),
            Err(RecvTimeoutError::Timeout)
        )
    }

    /// What identifies the library file and the loaded kernel driver.
    fn fingerprint(&self) -> [Option<FileIdentity>; 2] {
        let driver = self.settings.proc_root.join("driver/nvidia/version");
        [
            self.settings.library.as_deref().and_then(FileIdentity::of),
            FileIdentity::of(&driver),
        ]
    }

    fn session(&mut self) -> End {
        let library = self.settings.library.clone();
        let fingerprint = self.fingerprint();
        let nvml = match library::open(&self.calls, library.as_deref()) {
            Ok(nvml) => Arc::new(nvml),
            Err(trouble) => {
                return End::Trouble {
                    trouble,
                    driver: None,
                    samples: 0,
                };
            }
        };
        let driver = library::versions(&self.calls, &nvml);
        if let Some(symbol) = library::missing_symbol(&nvml) {
            return End::Trouble {
                trouble: Trouble::DriverTooOld {
                    symbol: symbol.to_owned(),
                },
                driver,
                samples: 0,
            };
        }
        // It ends before NVML is closed, if it can.
        let _listener = Listener::spawn(Arc::clone(&nvml), Arc::clone(&self.hearing))
            .inspect_err(|error| tracing::warn!(%error, "no thread for NVML's events"));
        self.sample_until_end(&nvml, driver, &fingerprint)
    }

    fn sample_until_end(
        &mut self,
        nvml: &Nvml,
        driver: Option<DriverVersions>,
        fingerprint: &[Option<FileIdentity>; 2],
    ) -> End {
        let lists = ProcessLists::of(nvml);
        let mut attached: Vec<Option<Attached<'_>>> = Vec::new();
        let mut samples = 0;
        let mut next_describe = Instant::now();
        let mut reopen_at: Option<Instant> = None;
        let mut next = Instant::now();
        loop {
            let began_at = BootMillis::now();
            let count = match self
                .calls
                .run("nvmlDeviceGetCount_v2", || nvml.device_count())
            {
                Ok(0) => Err(Trouble::NoDevices),
                Ok(count) => Ok(count),
                Err(failure) => Err(Trouble::from(failure)),
            };
            let count = match count {
                Ok(count) => count,
                Err(trouble) => {
                    return End::Trouble {
                        trouble,
                        driver,
                        samples,
                    };
                }
            };
            attached.resize_with(count as usize, || None);

            let refresh = Instant::now() >= next_describe;
            if refresh {
                next_describe = Instant::now() + DESCRIBE_EVERY;
            }
            let slots: Vec<Slot> = (0..count)
                .zip(&mut attached)
                .map(|(index, attached)| self.observe(nvml, lists, index, attached, refresh))
                .collect();
            if let Some(failure) = slots.iter().find_map(session_over) {
                return End::Trouble {
                    trouble: Trouble::from(failure),
                    driver,
                    samples,
                };
            }
            let lost = slots.iter().any(is_lost);
            self.latest.send_replace(Some(Arc::new(Observation {
                began_at,
                trouble: None,
                driver: driver.clone(),
                slots,
            })));
            samples += 1;

            if lost {
                let reopen_for_lost = &mut self.reopen_for_lost;
                let at = *reopen_at
                    .get_or_insert_with(|| Instant::now() + reopen_for_lost.after_failure());
                if Instant::now() >= at {
                    return End::Reopen;
                }
            } else {
                reopen_at = None;
                self.reopen_for_lost.reset();
            }

            // A pass that took too long is followed at once, and those it swallowed are not made up for.
            next = (next + self.settings.interval).max(Instant::now());
            if !self.wait_until(next) {
                return End::Stopped;
            }
            if self.fingerprint() != *fingerprint {
                return End::Reopen;
            }
        }
    }

    /// Looks at one device. One that failed is asked for anew each time: its handle may be of no use.
    fn observe<'nvml>(
        &self,
        nvml: &'nvml Nvml,
        lists: ProcessLists,
        index: u32,
        attached: &mut Option<Attached<'nvml>>,
        refresh: bool,
    ) -> Slot {
        let current = match attached.take() {
            Some(current) if !refresh => Ok(current),
            _ => self.attach(nvml, index),
        };
        match current {
            Ok(current) => {
                let slot = Slot {
                    index,
                    facts: Ok(Arc::clone(&current.facts)),
                    sample: sample(&self.calls, &current.device, lists),
                };
                if slot.sample.lost().is_none() {
                    *attached = Some(current);
                }
                slot
            }
            Err(failure) => Slot {
                index,
                facts: Err(failure),
                sample: Sample::default(),
            },
        }
    }

    fn attach<'nvml>(&self, nvml: &'nvml Nvml, index: u32) -> Result<Attached<'nvml>, CallFailure> {
        let device = self.calls.run("nvmlDeviceGetHandleByIndex_v2", || {
            nvml.device_by_index(index)
        })?;
        let facts = Arc::new(describe(&self.calls, &device, index)?);
        Ok(Attached { device, facts })
    }
}

fn failures(slot: &Slot) -> impl Iterator<Item = &CallFailure> {
    slot.facts
        .as_ref()
        .err()
        .into_iter()
        .chain(&slot.sample.failures)
}

fn session_over(slot: &Slot) -> Option<CallFailure> {
    failures(slot)
        .find(|failure| failure.kind == FailureKind::SessionOver)
        .cloned()
}

fn is_lost(slot: &Slot) -> bool {
    failures(slot).any(|failure| failure.kind == FailureKind::Lost)
}

/// Enough of a file's metadata to see that it was replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileIdentity {
    device: u64,
    inode: u64,
}

impl FileIdentity {
    fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        Some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
        })
    }
}
