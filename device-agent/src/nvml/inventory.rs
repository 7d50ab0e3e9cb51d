//! Folds observations into the node's devices, each in its health. Pure: no NVML, no clock.
//!
//! A device that was seen once stays: when it is lost it is shown as unhealthy, and it returns when it answers again.
//! One failed sample is no illness: a device is failing after [`STREAK`] of them in a row, and well after as many
//! clean ones: unhealthy where a call fails that a device cannot be offered without, degraded where any other does.
//! A lost device is unhealthy at once, since NVML does not say so lightly.

use std::{collections::BTreeMap, fmt::Write as _, sync::Arc};

use gridstake_crds::gpu_node::{AgentState, DeviceHealth, DeviceReason};

use super::{
    Observation, Slot,
    call::{CallFailure, FailureKind},
    describe::DeviceFacts,
    library::{DriverVersions, NEEDED_CALLS, Trouble},
    sample::Sample,
};

/// Samples in a row that make a failing device ill or a recovering one well.
pub const STREAK: u32 = 3;

/// One known device.
#[derive(Clone, Debug, PartialEq)]
pub struct Device {
    /// What it is, as last read.
    pub facts: Arc<DeviceFacts>,
    /// Whether it can be used.
    pub health: DeviceHealth,
    /// Why it is not healthy.
    pub reasons: Vec<DeviceReason>,
    /// What it does; empty when it does not answer.
    pub sample: Sample,
    /// The call that it fails, when it is unhealthy because of one.
    pub failure: Option<CallFailure>,
    streak: Streak,
}

/// What came in a row last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Streak {
    Clean(u32),
    Failing(u32),
}

/// What the agent knows of the node's GPUs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Inventory {
    devices: BTreeMap<String, Device>,
    recalled: Vec<Arc<DeviceFacts>>,
    trouble: Option<Trouble>,
    driver: Option<DriverVersions>,
    /// Devices that NVML counts and cannot describe, and that were never described before.
    nameless: Vec<(u32, CallFailure)>,
}

impl Inventory {
    /// Every device known, by UUID.
    pub fn devices(&self) -> impl Iterator<Item = &Device> {
        self.devices.values()
    }

    /// The driver's versions, when NVML told them.
    #[must_use]
    pub fn driver(&self) -> Option<&DriverVersions> {
        self.driver.as_ref()
    }

    /// Takes over devices that were published before this agent started. One of them is shown again only when NVML
    /// counts a device at its index and cannot say which: most likely it was lost before the agent restarted.
    pub fn recall(&mut self, published: impl IntoIterator<Item = DeviceFacts>) {
        self.recalled = published.into_iter().map(Arc::new).collect();
    }

    /// Takes in what NVML showed.
    pub fn observe(&mut self, seen: &Observation) {
        if let Some(trouble) = &seen.trouble {
            self.set_trouble(trouble.clone());
            // In trouble the driver is often gone too; what was last read would be a guess.
            self.driver.clone_from(&seen.driver);
            return;
        }
        self.trouble = None;
        self.driver.clone_from(&seen.driver);
        self.nameless.clear();

        let mut present: Vec<&str> = Vec::with_capacity(seen.slots.len());
        for slot in &seen.slots {
            if let Ok(facts) = &slot.facts {
                present.push(&facts.uuid);
                self.device(facts).take(slot);
            }
        }
        let failed = seen
            .slots
            .iter()
            .filter_map(|slot| Some((slot.index, slot.facts.as_ref().err()?)));
        let mut claimed: Vec<String> = Vec::new();
        for (index, failure) in failed {
            let uuid = self.which(index, |uuid| {
                present.contains(&uuid) || claimed.iter().any(|taken| taken == uuid)
            });
            match uuid {
                Some(uuid) => {
                    if let Some(device) = self.devices.get_mut(&uuid) {
                        device.fail(failure);
                    }
                    claimed.push(uuid);
                }
                None => self.nameless.push((index, failure.clone())),
            }
        }
        for (uuid, device) in &mut self.devices {
            let accounted = present.contains(&uuid.as_str()) || claimed.contains(uuid);
            if !accounted {
                device.fall_off();
            }
        }
    }

    /// A call has not returned: nothing is known of any device until it does.
    pub fn stuck(&mut self, call: &'static str) {
        self.set_trouble(Trouble::CallStuck { call });
    }

    /// Whether the agent can see the GPUs.
    #[must_use]
    pub fn state(&self) -> AgentState {
        match (&self.trouble, self.failing_everywhere()) {
            (Some(trouble), _) => trouble.state(),
            (None, Some(_)) => AgentState::CallFailing,
            (None, None) => AgentState::Ok,
        }
    }

    /// What a person should read about the state; `None` when there is nothing to say.
    #[must_use]
    pub fn message(&self) -> Option<String> {
        if let Some(trouble) = &self.trouble {
            return Some(trouble.to_string());
        }
        let mut text = String::new();
        for device in self.devices.values() {
            if let Some(failure) = &device.failure {
                let facts = &device.facts;
                let _ = write!(text, "GPU {} ({}): {failure}; ", facts.index, facts.uuid);
            }
        }
        for (index, failure) in &self.nameless {
            let _ = write!(text, "GPU {index}: {failure}; ");
        }
        text.truncate(text.trim_end_matches("; ").len());
        (!text.is_empty()).then_some(text)
    }

    /// The failing call when no device at all can be used because of failing calls.
    fn failing_everywhere(&self) -> Option<&CallFailure> {
        let usable = self
            .devices
            .values()
            .any(|device| device.failing().is_none());
        if usable {
            return None;
        }
        self.devices
            .values()
            .find_map(Device::failing)
            .or_else(|| self.nameless.first().map(|(_, failure)| failure))
    }

    fn set_trouble(&mut self, trouble: Trouble) {
        self.trouble = Some(trouble);
        self.nameless.clear();
        for device in self.devices.values_mut() {
            device.unknown();
        }
    }

    fn device(&mut self, facts: &Arc<DeviceFacts>) -> &mut Device {
        let device = self
            .devices
            .entry(facts.uuid.clone())
            .or_insert_with(|| Device::new(Arc::clone(facts)));
        device.facts = Arc::clone(facts);
        device
    }

    /// Which device is at `index`, when it does not say so itself: the one that was there last.
    fn which(&mut self, index: u32, taken: impl Fn(&str) -> bool) -> Option<String> {
        let here = |facts: &DeviceFacts| facts.index == index && !taken(&facts.uuid);
        if let Some(device) = self.devices.values().find(|device| here(&device.facts)) {
            return Some(device.facts.uuid.clone());
        }
        let facts = self.recalled.iter().find(|facts| here(facts)).cloned()?;
        if self.devices.contains_key(&facts.uuid) {
            return None;
        }
        self.device(&facts).unknown();
        Some(facts.uuid.clone())
    }
}

impl Device {
    fn new(facts: Arc<DeviceFacts>) -> Self {
        Self {
            facts,
            health: DeviceHealth::Healthy,
            reasons: Vec::new(),
            sample: Sample::default(),
            failure: None,
            // Until shown otherwise a device is well: a node is offered with its first sample.
            streak: Streak::Clean(STREAK),
        }
    }

    fn take(&mut self, slot: &Slot) {
        self.sample.clone_from(&slot.sample);
        let failures = &slot.sample.failures;
        let worst = slot
            .sample
            .lost()
            .or_else(|| {
                failures
                    .iter()
                    .find(|failure| NEEDED_CALLS.contains(&failure.call))
            })
            .or_else(|| failures.first());
        match worst {
            Some(failure) => self.fail(failure),
            None => self.succeed(),
        }
    }

    fn succeed(&mut self) {
        let clean = match self.streak {
            Streak::Clean(clean) => clean.saturating_add(1),
            Streak::Failing(_) => 1,
        };
        self.streak = Streak::Clean(clean);
        // After trouble of the whole node there is nothing to recover from.
        if clean >= STREAK || self.health == DeviceHealth::Unknown {
            self.health = DeviceHealth::Healthy;
            self.reasons.clear();
            self.failure = None;
        }
    }

    fn fail(&mut self, failure: &CallFailure) {
        let failing = match self.streak {
            Streak::Failing(failing) => failing.saturating_add(1),
            Streak::Clean(_) => 1,
        };
        self.streak = Streak::Failing(failing);
        if failure.kind == FailureKind::Lost {
            // The call that found the loss stays named: from then on whichever comes first fails.
            let first = self
                .failure
                .take()
                .filter(|_| self.reasons == [DeviceReason::GpuLost]);
            self.ill(
                DeviceReason::GpuLost,
                Some(&first.unwrap_or_else(|| failure.clone())),
            );
        } else if failing >= STREAK && self.reasons != [DeviceReason::GpuLost] {
            self.ill(DeviceReason::CallFailing, Some(failure));
            if !NEEDED_CALLS.contains(&failure.call) {
                self.health = DeviceHealth::Degraded;
            }
        }
    }

    /// NVML does not count it any more.
    fn fall_off(&mut self) {
        self.sample = Sample::default();
        self.streak = Streak::Failing(STREAK);
        self.ill(DeviceReason::GpuLost, None);
    }

    fn ill(&mut self, reason: DeviceReason, failure: Option<&CallFailure>) {
        self.health = DeviceHealth::Unhealthy;
        self.reasons = vec![reason];
        self.failure = failure.cloned();
    }

    fn unknown(&mut self) {
        self.sample = Sample::default();
        self.health = DeviceHealth::Unknown;
        self.reasons.clear();
        self.failure = None;
        self.streak = Streak::Clean(0);
    }

    /// Whether the last sample was one of those that make it ill, and not one of its recovery.
    #[must_use]
    pub fn fails_now(&self) -> bool {
        matches!(self.streak, Streak::Failing(_))
    }

    fn failing(&self) -> Option<&CallFailure> {
        self.failure
            .as_ref()
            .filter(|_| self.health == DeviceHealth::Unhealthy)
            .filter(|_| self.reasons == [DeviceReason::CallFailing])
    }
}

#[cfg(test)]
mod tests;
