//! What lasts: NVML says with each sample whether it holds. Pure.
//!
//! | sign | NVML | set after | cleared after |
//! |---|---|---|---|
//! | a remapping of rows failed | field 145 | 1 sample | [`LEVEL_CLEAR`] samples |
//! | a remapping of rows (or a retirement of pages) awaits a reset | field 144; `nvmlDeviceGetRetiredPagesPendingStatus` | 1 | [`LEVEL_CLEAR`] |
//! | clocks lowered by heat | clock event reasons 0x20 and 0x40 | [`THROTTLE_SET`] | [`THROTTLE_CLEAR`] |
//! | clocks lowered by the power brake | clock event reason 0x80 | [`THROTTLE_SET`] | [`THROTTLE_CLEAR`] |
//!
//! Samples are those in a row that say so; one that does not tell counts for neither side. What NVML says of memory rows
//! does not flutter, so one sample sets it. Clocks do: a moment at the limit is how a GPU that is used regulates itself.
//! The software's power cap (reason 0x04) is no fault at all: any GPU that works at full load shows it.

use gridstake_crds::gpu_node::{DeviceFaultKind, DeviceHealth, DeviceReason};

use crate::nvml::sample::Sampled;

/// Samples in a row that show lowered clocks before that counts; at one sample a second, 5 s.
pub const THROTTLE_SET: u32 = 5;
/// Samples in a row without lowered clocks before they count no more; at one sample a second, 30 s: longer than the few
/// seconds in which a GPU at its limit cools and heats up again.
pub const THROTTLE_CLEAR: u32 = 30;
/// Samples in a row that no longer show a trouble of memory rows before it is over.
pub const LEVEL_CLEAR: u32 = 3;

/// A sign with its hysteresis.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Debounced {
    holds: bool,
    /// Samples in a row that say otherwise.
    against: u32,
}

impl Debounced {
    fn feed(&mut self, shown: Option<bool>, set: u32, clear: u32) {
        let Some(shown) = shown else { return };
        if shown == self.holds {
            self.against = 0;
            return;
        }
        self.against += 1;
        let needed = if self.holds { clear } else { set };
        if self.against >= needed {
            *self = Self {
                holds: shown,
                against: 0,
            };
        }
    }
}

/// The signs of one device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Signs {
    remap_failed: Debounced,
    remap_pending: Debounced,
    thermal: Debounced,
    power_brake: Debounced,
}

impl Signs {
    /// Takes in a sample.
    pub fn feed(&mut self, sample: &Sampled) {
        self.remap_failed.feed(sample.remap_failed, 1, LEVEL_CLEAR);
        self.remap_pending
            .feed(sample.remap_pending, 1, LEVEL_CLEAR);
        self.thermal
            .feed(sample.thermal, THROTTLE_SET, THROTTLE_CLEAR);
        self.power_brake
            .feed(sample.power_brake, THROTTLE_SET, THROTTLE_CLEAR);
    }

    /// What `sample` shows of what holds: a sighting of that fault.
    pub fn shown(&self, sample: &Sampled) -> impl Iterator<Item = DeviceFaultKind> + use<> {
        [
            (
                self.remap_failed,
                sample.remap_failed,
                DeviceFaultKind::RowRemapFailed,
            ),
            (
                self.remap_pending,
                sample.remap_pending,
                DeviceFaultKind::RowRemapPending,
            ),
            (
                self.thermal,
                sample.thermal,
                DeviceFaultKind::ThermalThrottling,
            ),
            (
                self.power_brake,
                sample.power_brake,
                DeviceFaultKind::PowerThrottling,
            ),
        ]
        .into_iter()
        .filter(|(sign, shown, _)| sign.holds && *shown == Some(true))
        .map(|(_, _, kind)| kind)
    }

    /// What holds, and what follows for the device.
    pub fn holding(&self) -> impl Iterator<Item = (DeviceHealth, DeviceReason)> + use<> {
        [
            (
                self.remap_failed,
                DeviceHealth::Unhealthy,
                DeviceReason::RowRemapPending,
            ),
            (
                self.remap_pending,
                DeviceHealth::Degraded,
                DeviceReason::RowRemapPending,
            ),
            (
                self.thermal,
                DeviceHealth::Degraded,
                DeviceReason::ThermalThrottling,
            ),
            (
                self.power_brake,
                DeviceHealth::Degraded,
                DeviceReason::PowerThrottling,
            ),
        ]
        .into_iter()
        .filter(|(sign, ..)| sign.holds)
        .map(|(_, health, reason)| (health, reason))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_sign_changes_no_faster_than_its_hysteresis(samples in prop::collection::vec(prop::option::of(any::<bool>()), 0..400), set in 1_u32..8, clear in 1_u32..8) {
            let mut sign = Debounced::default();
            let mut since_change = u32::MAX;
            for shown in samples {
                let before = sign.holds;
                sign.feed(shown, set, clear);
                since_change = since_change.saturating_add(1);
                if sign.holds != before {
                    prop_assert_eq!(shown, Some(sign.holds));
                    let least = if before { clear } else { set };
                    prop_assert!(since_change >= least, "{since_change} samples after the change before");
                    since_change = 0;
                }
            }
        }
    }

    #[test]
    fn a_sample_that_does_not_tell_neither_sets_nor_clears() {
        let mut sign = Debounced::default();
        for shown in [Some(true), None, Some(true)] {
            sign.feed(shown, 2, 2);
        }
        assert!(sign.holds);
        for shown in [Some(false), None, None] {
            sign.feed(shown, 2, 2);
        }
        assert!(sign.holds);
    }
}
