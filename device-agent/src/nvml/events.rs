//! Hears of Xid events and uncorrectable memory errors, on a thread of its own.
//!
//! NVML keeps only the number of the last Xid: who asks once a second hears of a clean-up (45) and not of the memory error
//! (48) before it. So one thread does nothing but wait, in [`WAIT`]s, and a call that hangs on the sampling thread hides no
//! event. The thread lives as long as a session with NVML; when it hangs itself, it is left behind, and said so.
//!
//! Events of between two sessions, and of a device while it could not be registered, are lost: NVML tells of none that came
//! before the registration.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    time::{Duration, Instant},
};

use nvml_wrapper::{
    Device, EventSet, Nvml, bitmasks::event::EventTypes, enums::event::XidError, error::NvmlError,
    struct_wrappers::event::EventData,
};
use prometheus::IntCounterVec;
use tokio::sync::Notify;

use super::call::{CallFailure, Calls, FailureKind};
use crate::{backoff::Backoff, clock::BootMillis};

/// How long one call waits. It is also how late it is noticed that the session ends.
const WAIT: Duration = Duration::from_millis(250);

/// How long the end of a session waits for the thread.
const END_WITHIN: Duration = Duration::from_secs(2);

/// How often devices that could not be registered are tried again.
const RETRY_EVERY: Duration = Duration::from_secs(10);

/// NVML's number for an Xid that it does not know.
const XID_UNKNOWN: u32 = 999;

/// What the driver tells of by an event. Corrected memory errors are no fault; when there are many the driver says so by
/// Xid 92.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Event {
    /// An Xid.
    Xid(u32),
    /// An uncorrectable memory error.
    DoubleBitEcc,
}

/// What was heard of one device since it was last asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// The device's UUID.
    pub gpu: String,
    /// What.
    pub event: Event,
    /// When first.
    pub first: BootMillis,
    /// When last.
    pub last: BootMillis,
    /// How often.
    pub count: u32,
}

/// How far events are heard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Listening {
    /// There is no session with NVML.
    #[default]
    Off,
    /// One has begun, and nothing is listened to yet.
    Opening,
    /// All events from before that moment are here.
    Until(BootMillis),
    /// Events cannot be heard.
    Deaf(CallFailure),
}

/// What was heard and not taken yet.
#[derive(Debug)]
pub struct Hearing {
    calls: Calls,
    heard: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// By device and event, so that a storm of them takes no room.
    events: BTreeMap<(String, Event), (BootMillis, BootMillis, u32)>,
    listening: Listening,
}

impl Hearing {
    /// `errors` counts calls that fail, by `call` and `error`.
    #[must_use]
    pub fn new(errors: IntCounterVec) -> Self {
        Self {
            calls: Calls::new(errors),
            heard: Mutex::default(),
            changed: Notify::new(),
        }
    }

    /// Waits until something was heard, or it is known further that nothing was.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Takes what was heard, and how far.
    pub fn take(&self) -> (Vec<Heard>, Listening) {
        let mut state = self.state();
        let events = std::mem::take(&mut state.events).into_iter().map(
            |((gpu, event), (first, last, count))| Heard {
                gpu,
                event,
                first,
                last,
                count,
            },
        );
        (events.collect(), state.listening.clone())
    }

    /// Why no event is heard; `None` while they are, and while there is no NVML at all.
    #[must_use]
    pub fn trouble(&self, now: Instant) -> Option<String> {
        if let Some(call) = self.calls.stuck(now) {
            return Some(format!("{call} does not return"));
        }
        match &self.state().listening {
            Listening::Deaf(failure) => Some(failure.to_string()),
            Listening::Off | Listening::Opening | Listening::Until(_) => None,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hear(&self, gpu: &str, event: Event, at: BootMillis) {
        let mut state = self.state();
        let seen = state
            .events
            .entry((gpu.to_owned(), event))
            .or_insert((at, at, 0));
        seen.1 = at;
        seen.2 = seen.2.saturating_add(1);
        drop(state);
        self.changed.notify_one();
    }

    /// Notes a failed call. That the driver is gone is told by the samples, and ends the session.
    fn fail(&self, failure: CallFailure) {
        self.set(if failure.kind == FailureKind::SessionOver {
            Listening::Opening
        } else {
            Listening::Deaf(failure)
        });
    }

    fn set(&self, listening: Listening) {
        self.state().listening = listening;
        self.changed.notify_one();
    }
}

/// The thread of one session. Dropping it asks it to end, and waits a moment for that.
#[derive(Debug)]
pub struct Listener {
    stop: Option<Sender<()>>,
    ended: Receiver<()>,
}

impl Listener {
    /// Listens to the devices of `nvml`.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn spawn(nvml: Arc<Nvml>, hearing: Arc<Hearing>) -> io::Result<Self> {
        let (stop, stopped) = channel();
        let (end, ended) = channel();
        // From now on nobody may think that there is nothing to hear.
        hearing.set(Listening::Opening);
        std::thread::Builder::new()
            .name("nvml-events".to_owned())
            .spawn(move || {
                listen(&nvml, &hearing, &stopped);
                hearing.set(Listening::Off);
                drop(nvml);
                drop(end);
            })?;
        Ok(Self {
            stop: Some(stop),
            ended,
        })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop = None;
        if self.ended.recv_timeout(END_WITHIN) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!("waiting for NVML's events does not return; it is left behind");
        }
    }
}

/// A device that is listened to.
struct Registered<'nvml> {
    uuid: String,
    device: Device<'nvml>,
}

/// A set and what is in it.
struct Ear<'nvml> {
    set: EventSet<'nvml>,
    devices: Vec<Registered<'nvml>>,
    /// Whether all devices that support events are in it.
    is_whole: bool,
}

/// Listens until the session ends, and again after what fails.
fn listen(nvml: &Nvml, hearing: &Hearing, stopped: &Receiver<()>) {
    let mut backoff = Backoff::STANDARD;
    loop {
        match open(nvml, &hearing.calls) {
            Ok(ear) => {
                backoff.reset();
                match follow(nvml, ear, hearing, stopped) {
                    Ok(()) => return,
                    Err(failure) => hearing.fail(failure),
                }
            }
            Err(failure) => hearing.fail(failure),
        }
        if is_stopped(stopped, backoff.after_failure()) {
            return;
        }
    }
}

/// Waits; true when the session ends.
fn is_stopped(stopped: &Receiver<()>, wait: Duration) -> bool {
    !matches!(stopped.recv_timeout(wait), Err(RecvTimeoutError::Timeout))
}

/// Registers every device that can be. A set is of no use any more once a registration failed in it, so it is begun anew
/// without that device.
fn open<'nvml>(nvml: &'nvml Nvml, calls: &Calls) -> Result<Ear<'nvml>, CallFailure> {
    let count = calls.run("nvmlDeviceGetCount_v2", || nvml.device_count())?;
    // What fails here is seen by the samples too, and told by them.
    let mut candidates: Vec<u32> = (0..count)
        .filter(|index| candidate(nvml, calls, *index).is_ok())
        .collect();
    loop {
        match register(nvml, calls, &candidates) {
            Ok((set, devices)) => {
                return Ok(Ear {
                    set,
                    devices,
                    is_whole: candidates.len() == count as usize,
                });
            }
            Err((Some(refused), _)) if candidates.len() > 1 => {
                candidates.retain(|index| *index != refused);
            }
            Err((_, failure)) => return Err(failure),
        }
    }
}

/// A set with the devices at `indices`, or which of them cannot be registered.
fn register<'nvml>(
    nvml: &'nvml Nvml,
    calls: &Calls,
    indices: &[u32],
) -> Result<(EventSet<'nvml>, Vec<Registered<'nvml>>), (Option<u32>, CallFailure)> {
    const CALL: &str = "nvmlDeviceRegisterEvents";
    let mut set = calls
        .run("nvmlEventSetCreate", || nvml.create_event_set())
        .map_err(|failure| (None, failure))?;
    let mut devices = Vec::with_capacity(indices.len());
    for index in indices {
        let refused = |error| (Some(*index), CallFailure::new(CALL, &error));
        let (device, uuid, types) = candidate(nvml, calls, *index).map_err(refused)?;
        if !types.is_empty() {
            let with = |set| device.register_events(types, set).map_err(|e| e.error);
            set = calls.watched(CALL, || with(set)).map_err(refused)?;
            devices.push(Registered { uuid, device });
        }
    }
    Ok((set, devices))
}

fn candidate<'nvml>(
    nvml: &'nvml Nvml,
    calls: &Calls,
    index: u32,
) -> Result<(Device<'nvml>, String, EventTypes), NvmlError> {
    let device = calls.watched("nvmlDeviceGetHandleByIndex_v2", || {
        nvml.device_by_index(index)
    })?;
    let uuid = calls.watched("nvmlDeviceGetUUID", || device.uuid())?;
    let supported = calls.watched("nvmlDeviceGetSupportedEventTypes", || {
        device.supported_event_types()
    })?;
    let wanted = EventTypes::CRITICAL_XID_ERROR | EventTypes::DOUBLE_BIT_ECC_ERROR;
    Ok((device, uuid, supported & wanted))
}

/// Waits for events until the session ends.
fn follow<'nvml>(
    nvml: &'nvml Nvml,
    mut ear: Ear<'nvml>,
    hearing: &Hearing,
    stopped: &Receiver<()>,
) -> Result<(), CallFailure> {
    let mut retry_at = Instant::now() + RETRY_EVERY;
    loop {
        let is_lost = wait(&ear, hearing, WAIT)?;
        // A set with a lost device answers at once.
        let pause = if is_lost { WAIT } else { Duration::ZERO };
        if is_stopped(stopped, pause) {
            return Ok(());
        }
        if (is_lost || !ear.is_whole) && Instant::now() >= retry_at {
            retry_at = Instant::now() + RETRY_EVERY;
            if let Ok(next) = open(nvml, &hearing.calls) {
                let before = std::mem::replace(&mut ear, next);
                // What came before the new set was there. What came since is in both: better twice than never.
                while let Ok(true) = wait_once(&before, hearing, Duration::ZERO) {}
            }
        }
    }
}

/// Waits once, and says whether a device is lost.
fn wait(ear: &Ear<'_>, hearing: &Hearing, timeout: Duration) -> Result<bool, CallFailure> {
    match wait_once(ear, hearing, timeout) {
        Ok(_) => Ok(false),
        Err(failure) if failure.kind == FailureKind::Lost => Ok(true),
        Err(failure) => Err(failure),
    }
}

/// Waits once; true if there was an event.
fn wait_once(ear: &Ear<'_>, hearing: &Hearing, timeout: Duration) -> Result<bool, CallFailure> {
    const CALL: &str = "nvmlEventSetWait_v2";
    let began = BootMillis::now();
    let millis = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
    match hearing.calls.watched(CALL, || ear.set.wait(millis)) {
        Ok(event) => {
            take(ear, &event, hearing);
            Ok(true)
        }
        Err(NvmlError::Timeout) => {
            hearing.set(Listening::Until(began));
            Ok(false)
        }
        Err(error) => {
            let failure = CallFailure::new(CALL, &error);
            if failure.kind == FailureKind::Lost {
                hearing.set(Listening::Until(began));
            }
            Err(failure)
        }
    }
}

fn take(ear: &Ear<'_>, event: &EventData<'_>, hearing: &Hearing) {
    let at = BootMillis::now();
    let what = match &event.event_data {
        Some(XidError::Value(number)) => Event::Xid(u32::try_from(*number).unwrap_or(XID_UNKNOWN)),
        Some(XidError::Unknown) => Event::Xid(XID_UNKNOWN),
        None if event.event_type.contains(EventTypes::DOUBLE_BIT_ECC_ERROR) => Event::DoubleBitEcc,
        None => return,
    };
    let calls = &hearing.calls;
    if let Ok(uuid) = calls.watched("nvmlDeviceGetUUID", || event.device.uuid()) {
        hearing.hear(&uuid, what, at);
        return;
    }
    // It does not say its name, as after Xid 79. It is one of those that do not, most often the only one.
    for registered in &ear.devices {
        if calls
            .watched("nvmlDeviceGetUUID", || registered.device.uuid())
            .is_err()
        {
            hearing.hear(&registered.uuid, what, at);
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus::Opts;

    use super::*;

    #[test]
    fn a_storm_of_one_event_takes_the_room_of_one() {
        let errors = IntCounterVec::new(Opts::new("errors", "errors"), &["call", "error"]).unwrap();
        let hearing = Hearing::new(errors);
        for at in 0..1000 {
            hearing.hear("GPU-a", Event::Xid(31), BootMillis(at));
        }
        hearing.hear("GPU-a", Event::Xid(48), BootMillis(1000));
        hearing.set(Listening::Until(BootMillis(1001)));
        let (heard, listening) = hearing.take();
        let spans: Vec<_> = heard
            .iter()
            .map(|heard| (heard.event, heard.first.0, heard.last.0, heard.count))
            .collect();
        assert_eq!(
            spans,
            [
                (Event::Xid(31), 0, 999, 1000),
                (Event::Xid(48), 1000, 1000, 1)
            ]
        );
        assert_eq!(listening, Listening::Until(BootMillis(1001)));
        assert!(hearing.take().0.is_empty(), "each is taken once");
    }
}
