//! Whether a node's mode lets it be offered. Pure.

use gridstake_crds::{
    GpuNodeSpec,
    gpu_node::{OfferMode, OfferReason},
};
use k8s_openapi::jiff::Timestamp;

use super::{
    local_use::LocalUse,
    offer_windows::{Standing, WindowFault},
};

/// What the modes look at.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModeSight {
    /// For `Scheduled`: where the windows stand.
    pub windows: Option<Result<Standing, WindowFault>>,
    /// For `IdleOnly`: who else uses the GPUs.
    pub local: LocalUse,
}

impl ModeSight {
    /// Whether the mode of `spec` lets the node be offered at `now`; if not, why, and in which words.
    ///
    /// # Errors
    /// When it does not.
    pub fn verdict(&self, spec: &GpuNodeSpec, now: Timestamp) -> Result<(), (OfferReason, String)> {
        match spec.mode {
            OfferMode::Always => Ok(()),
            OfferMode::Drained => Err((OfferReason::Drained, "spec.mode is Drained".to_owned())),
            OfferMode::Scheduled => match &self.windows {
                Some(Ok(standing)) if standing.is_open => Ok(()),
                Some(Err(fault)) => Err((OfferReason::InvalidWindow, fault.to_string())),
                Some(Ok(_)) | None => Err((
                    OfferReason::OutsideWindow,
                    "no window of spec.windows is open".to_owned(),
                )),
            },
            OfferMode::IdleOnly => {
                let rule = spec.idle.clone().unwrap_or_default();
                match self.local.words(&rule, now) {
                    None => Ok(()),
                    Some(words) => Err((OfferReason::InLocalUse, words)),
                }
            }
        }
    }

    /// When the verdict on `spec` changes though nothing happens.
    #[must_use]
    pub fn changes_at(&self, spec: &GpuNodeSpec) -> Option<Timestamp> {
        match spec.mode {
            OfferMode::Always | OfferMode::Drained => None,
            OfferMode::Scheduled => Some(self.windows.as_ref()?.as_ref().ok()?.changes_at),
            OfferMode::IdleOnly => self.local.idle_from(&spec.idle.clone().unwrap_or_default()),
        }
    }

    /// When jobs must be gone, if that is known.
    #[must_use]
    pub fn closes_at(&self) -> Option<Timestamp> {
        self.windows.as_ref()?.as_ref().ok()?.closes_at
    }

    /// Whether the provider wants the GPUs back from jobs: its windows can be read, and are closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(&self.windows, Some(Ok(standing)) if !standing.is_open)
    }
}
