//! What speaks against each GPU, and whether it may be given to jobs. Pure: whoever calls says what the clocks show.
//!
//! ```text
//! nvml::sample ─┐ inventory      ┌─► faults   the log: what was seen, when, how often ──► GpuNode.status.devices[].faults
//! nvml::events ─┴─────────► Health ─► signs   what holds at this moment, with hysteresis
//!                                └─► verdict  both, and what the inventory says ────────► health, reasons
//! ```
//!
//! The rules, their constants and where these come from: [`xid`] for Xid events, [`signs`] for what lasts, [`faults`] for the
//! log, [`Health::verdict`] for what follows. The edge is [`keep`]: the log outlives the agent.

pub mod faults;
pub mod keep;
pub mod signs;

use std::{collections::BTreeMap, time::Duration};

use gridstake_crds::gpu_node::{
    Device as Published, DeviceFault, DeviceFaultKind, DeviceHealth, DeviceReason,
};
use serde::{Deserialize, Serialize};

use crate::{
    clock::{Anchor, BootMillis},
    nvml::{
        events::{Event, Heard},
        inventory::Device,
    },
};
use faults::{Log, What};
use gridstake_crds::xid::{self, XidClass};
use signs::Signs;

/// How long a device must have been clean after an Xid that speaks against its hardware, or after an uncorrectable memory
/// error, before it is offered again without a reboot.
///
/// NVIDIA names no time: its remedy is a reset, which also ends the wait here. Without one some of these faults do not come
/// back and some do, under load only. The time is longer than an attempt takes to be started, to fail and to be tried
/// elsewhere, so that a GPU that fails each job meets a job at most twice an hour; and it is short enough that one transient
/// error does not take a GPU off the market until somebody looks.
pub const CLEAN_FOR: Duration = Duration::from_mins(30);

/// What is known against the node's GPUs.
#[derive(Clone, Debug, PartialEq)]
pub struct Health {
    devices: BTreeMap<String, Tracked>,
    /// Milliseconds.
    clean_for: u64,
    now: BootMillis,
}

/// One GPU.
#[derive(Clone, Debug, Default, PartialEq)]
struct Tracked {
    log: Log,
    /// The count of uncorrectable memory errors as last read.
    uncorrectable: Option<u64>,
    /// Of those that count will rise by, so many are in the log already: the driver told of them by an event.
    announced: u64,
    signs: Signs,
}

/// What outlives the agent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// By the GPUs' UUIDs.
    pub devices: BTreeMap<String, History>,
}

/// What outlives the agent of one GPU.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct History {
    /// Its faults.
    pub faults: Log,
    /// The count of uncorrectable memory errors as last read.
    pub uncorrectable: Option<u64>,
}

/// Whether a device may be given to jobs, and why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it may.
    pub health: DeviceHealth,
    /// Why not, each reason once.
    pub reasons: Vec<DeviceReason>,
}

impl Default for Health {
    fn default() -> Self {
        Self::new(CLEAN_FOR)
    }
}

impl Health {
    /// Nothing is known yet. `clean_for` is explained at [`CLEAN_FOR`].
    #[must_use]
    pub fn new(clean_for: Duration) -> Self {
        Self {
            devices: BTreeMap::new(),
            clean_for: u64::try_from(clean_for.as_millis()).unwrap_or(u64::MAX),
            now: BootMillis::default(),
        }
    }

    /// Takes over what was kept. After another boot the devices have been reset, and their counters begin anew.
    pub fn restore(&mut self, kept: State, same_boot: bool, now: BootMillis, anchor: Anchor) {
        self.now = now;
        for (uuid, history) in kept.devices {
            let device = self.devices.entry(uuid).or_default();
            device.log = history.faults;
            if same_boot {
                device.uncorrectable = history.uncorrectable;
            } else {
                device.log.rebooted(now, anchor);
            }
        }
    }

    /// Takes over faults that were published and are not known here: what was kept may have been lost.
    pub fn recall(&mut self, published: &[Published], now: BootMillis, anchor: Anchor) {
        for device in published.iter().filter(|device| !device.faults.is_empty()) {
            let log = &mut self.devices.entry(device.uuid.clone()).or_default().log;
            log.recall(&device.faults, now, anchor);
        }
    }

    /// What is to outlive the agent.
    #[must_use]
    pub fn state(&self) -> State {
        let history = |device: &Tracked| History {
            faults: device.log.clone(),
            uncorrectable: device.uncorrectable,
        };
        let devices = self.devices.iter();
        State {
            devices: devices
                .map(|(uuid, device)| (uuid.clone(), history(device)))
                .collect(),
        }
    }

    /// Takes in what a pass over NVML showed of `devices`. True if there is a fault that was not there.
    pub fn observe<'a>(
        &mut self,
        devices: impl Iterator<Item = &'a Device>,
        now: BootMillis,
        anchor: Anchor,
    ) -> bool {
        let mut is_news = false;
        for device in devices {
            let tracked = match self.devices.get_mut(&device.facts.uuid) {
                Some(tracked) => tracked,
                None => self.devices.entry(device.facts.uuid.clone()).or_default(),
            };
            is_news |= tracked.observe(device, now, anchor);
        }
        is_news
    }

    /// Takes in what the driver told of by events. True if there is a fault that was not there.
    pub fn hear(&mut self, heard: &[Heard], anchor: Anchor) -> bool {
        let mut is_news = false;
        for heard in heard {
            let device = self.devices.entry(heard.gpu.clone()).or_default();
            let what = match heard.event {
                Event::Xid(number) => What::xid(number),
                Event::DoubleBitEcc => {
                    device.announced += u64::from(heard.count);
                    What::of(DeviceFaultKind::EccUncorrectable)
                }
            };
            is_news |= device
                .log
                .see(what, (heard.first, heard.last), heard.count, anchor);
        }
        is_news
    }

    /// Brings what is told up to `now`: forgets what is too old, and tells of what has gone on; with `all` as far as it is
    /// known, otherwise no more often than [`faults::TOLD_EVERY_MS`].
    pub fn settle(&mut self, now: BootMillis, all: bool) {
        self.now = now;
        for device in self.devices.values_mut() {
            device.log.settle(now, all);
        }
    }

    /// The faults of a GPU as the API holds them, the newest first.
    #[must_use]
    pub fn told(&self, uuid: &str) -> Vec<DeviceFault> {
        self.devices
            .get(uuid)
            .map(|device| device.log.told())
            .unwrap_or_default()
    }

    /// Whether `device` may be given to jobs. The worst of:
    ///
    /// | what | health | until |
    /// |---|---|---|
    /// | the inventory's own verdict (lost, failing calls, NVML in trouble) | as it says | as it says |
    /// | an Xid of [`XidClass::Hardware`] | Unhealthy | [`CLEAN_FOR`] after the last, or another boot |
    /// | an Xid of [`XidClass::Watch`] | Degraded | the same |
    /// | uncorrectable memory errors rose | Unhealthy | the same |
    /// | a remapping of rows failed | Unhealthy | NVML no longer says so |
    /// | a remapping of rows awaits a reset | Degraded | NVML no longer says so |
    /// | clocks lowered by heat or the power brake | Degraded | see [`signs`] |
    #[must_use]
    pub fn verdict(&self, device: &Device) -> Verdict {
        let mut verdict = Verdict {
            health: device.health,
            reasons: device.reasons.clone(),
        };
        if let Some(tracked) = self.devices.get(&device.facts.uuid) {
            tracked.against(self.now, self.clean_for, &mut verdict);
        }
        verdict
    }
}

impl Verdict {
    fn add(&mut self, health: DeviceHealth, reason: DeviceReason) {
        if severity(health) > severity(self.health) {
            self.health = health;
        }
        if !self.reasons.contains(&reason) {
            self.reasons.push(reason);
        }
    }
}

/// Orders health: what is known to be unusable is worse than what is not known.
#[must_use]
pub fn severity(health: DeviceHealth) -> u8 {
    match health {
        DeviceHealth::Healthy => 0,
        DeviceHealth::Degraded => 1,
        DeviceHealth::Unknown => 2,
        DeviceHealth::Unhealthy => 3,
    }
}

impl Tracked {
    fn observe(&mut self, device: &Device, now: BootMillis, anchor: Anchor) -> bool {
        let sample = &device.sample;
        self.signs.feed(&sample.signs);
        let mut is_news = false;
        let mut see = |log: &mut Log, kind, count| {
            is_news |= log.see(What::of(kind), (now, now), count, anchor);
        };
        for reason in device.reasons.iter().filter(|_| device.fails_now()) {
            match reason {
                DeviceReason::GpuLost => see(&mut self.log, DeviceFaultKind::GpuLost, 1),
                DeviceReason::CallFailing => see(&mut self.log, DeviceFaultKind::CallFailing, 1),
                _ => {}
            }
        }
        for kind in self.signs.shown(&sample.signs) {
            see(&mut self.log, kind, 1);
        }
        if let Some(count) = sample.signs.uncorrectable_errors {
            // A count that fell was reset with the driver; what it was before is of no use.
            let risen = self
                .uncorrectable
                .map_or(0, |before| count.saturating_sub(before));
            let announced = std::mem::take(&mut self.announced);
            // What was announced counts once, and is seen again now: the clean time begins with the last sight.
            if risen > 0 {
                let rest = u32::try_from(risen.saturating_sub(announced)).unwrap_or(u32::MAX);
                see(&mut self.log, DeviceFaultKind::EccUncorrectable, rest);
            }
            self.uncorrectable = Some(count);
        }
        is_news
    }

    fn against(&self, now: BootMillis, clean_for: u64, verdict: &mut Verdict) {
        for what in self.log.since_boot_within(now, clean_for) {
            match (what.kind, what.xid.map(xid::class)) {
                (DeviceFaultKind::Xid, Some(XidClass::Hardware)) => {
                    verdict.add(DeviceHealth::Unhealthy, DeviceReason::XidFatal);
                }
                (DeviceFaultKind::Xid, Some(XidClass::Watch)) => {
                    verdict.add(DeviceHealth::Degraded, DeviceReason::XidFatal);
                }
                (DeviceFaultKind::EccUncorrectable, _) => {
                    verdict.add(DeviceHealth::Unhealthy, DeviceReason::EccUncorrectable);
                }
                // What lasts is judged by what holds now.
                _ => {}
            }
        }
        for (health, reason) in self.signs.holding() {
            verdict.add(health, reason);
        }
    }
}

#[cfg(test)]
mod tests;
