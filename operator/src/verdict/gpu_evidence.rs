//! What the reported faults of a member's GPUs say about the moment at which it failed. Pure.

use gridstake_crds::{
    compute_job::VerdictReason,
    gpu_node::{DeviceFault, DeviceFaultKind},
    xid::{self, XidClass},
};

use super::Place;

/// How long before a failure a fault of the GPU may have caused it, in ms: a program that waits for a GPU that is gone ends
/// when its own watchdog says so.
pub const CAUSE_MS: u64 = 60_000;
/// How much later than a failure an event may be stamped and still have caused it, in ms: the kubelet tells whole seconds, cut
/// off, so the process may have ended up to a second later than it says.
pub const EVENT_LATE_MS: u64 = 1_500;
/// The same for what is found by samples, one a second.
pub const SAMPLE_LATE_MS: u64 = 3_000;

/// Xids that say that the program did something wrong. The others of their class follow from any end of a program, whatever
/// ended it.
const OF_THE_PROGRAM: [u32; 3] = [13, 31, 68];
/// Contained memory error: the GPU goes on, and the program that met it is lost.
const CONTAINED: u32 = 94;

/// What speaks for whom.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GpuEvidence {
    /// A fault of the hardware, and when it was seen first (Unix ms).
    pub hardware: Option<(VerdictReason, u64)>,
    /// A fault of the program, and when it was seen first (Unix ms).
    pub program: Option<u64>,
    /// Something that may be either's, or on a GPU that may be somebody else's.
    pub doubt: bool,
}

/// Whose fault a kind is.
enum Side {
    Hardware(VerdictReason),
    Program,
    Either,
    Nobody,
}

fn side(fault: &DeviceFault) -> Side {
    match (fault.kind, fault.xid) {
        (DeviceFaultKind::Xid, Some(CONTAINED)) => Side::Hardware(VerdictReason::MemoryFault),
        (DeviceFaultKind::Xid, Some(number)) => match xid::class(number) {
            XidClass::Hardware => Side::Hardware(VerdictReason::HardwareXid),
            XidClass::Application if OF_THE_PROGRAM.contains(&number) => Side::Program,
            XidClass::Watch | XidClass::Other => Side::Either,
            XidClass::Application => Side::Nobody,
        },
        (DeviceFaultKind::GpuLost, _) => Side::Hardware(VerdictReason::GpuLost),
        (DeviceFaultKind::EccUncorrectable | DeviceFaultKind::RowRemapFailed, _) => {
            Side::Hardware(VerdictReason::MemoryFault)
        }
        (DeviceFaultKind::CallFailing, _) => Side::Either,
        // Rows that wait for a reset and lowered clocks end no program.
        (
            DeviceFaultKind::Xid
            | DeviceFaultKind::RowRemapPending
            | DeviceFaultKind::ThermalThrottling
            | DeviceFaultKind::PowerThrottling,
            _,
        ) => Side::Nobody,
    }
}

const fn late_ms(fault: &DeviceFault) -> u64 {
    match fault.kind {
        DeviceFaultKind::Xid => EVENT_LATE_MS,
        _ => SAMPLE_LATE_MS,
    }
}

/// Whether `fault` may have to do with a failure at `moment` of something that began at `began` (both Unix ms).
fn is_near(fault: &DeviceFault, began: Option<u64>, moment: u64, lasts: bool) -> bool {
    let since = moment
        .saturating_sub(CAUSE_MS)
        .max(began.unwrap_or(0).saturating_sub(1_000));
    let ended = if lasts { u64::MAX } else { fault.last_ms };
    fault.first_ms <= moment.saturating_add(late_ms(fault)) && ended >= since
}

/// What the faults of `place`'s GPUs say about a failure at `moment` of a member that began at `began` (both Unix ms).
#[must_use]
pub fn gpu_evidence(place: &Place, began: Option<u64>, moment: u64) -> GpuEvidence {
    let mut found = GpuEvidence::default();
    for gpu in &place.gpus {
        let present = gpu.lost_since();
        for fault in &gpu.faults {
            let lasts = fault.kind == DeviceFaultKind::GpuLost && present == Some(fault.first_ms);
            if !is_near(fault, began, moment, lasts) {
                continue;
            }
            match side(fault) {
                Side::Nobody => {}
                Side::Either => found.doubt = true,
                _ if !place.gpus_are_known => found.doubt = true,
                Side::Program => {
                    let first = found.program.unwrap_or(u64::MAX).min(fault.first_ms);
                    found.program = Some(first);
                }
                Side::Hardware(reason) => {
                    let earlier = found
                        .hardware
                        .filter(|(of, at)| (*at, *of) <= (fault.first_ms, reason));
                    found.hardware = earlier.or(Some((reason, fault.first_ms)));
                }
            }
        }
    }
    found
}

/// The GPU of `place` for which a member that began at `began` (Unix ms) is to be stopped, and why: it is lost, or it was
/// unfit before the member began.
///
/// A lost GPU is believed once it was lost for [`LOST_FOR_MS`] by the agent's own clock: one that is reset in between is
/// back.
#[must_use]
pub fn unusable_gpu(place: &Place, began: Option<u64>) -> Option<(&str, VerdictReason)> {
    let (began, told) = (began?, place.told_until_ms?);
    if !place.gpus_are_known || !place.sees_gpus {
        return None;
    }
    place.gpus.iter().find_map(|gpu| {
        let lost = gpu
            .lost_since()
            .is_some_and(|since| told.saturating_sub(since) >= LOST_FOR_MS);
        if lost {
            return Some((gpu.uuid.as_str(), VerdictReason::GpuLost));
        }
        let mut hardware = gpu
            .faults
            .iter()
            .filter(|fault| matches!(side(fault), Side::Hardware(_)))
            .peekable();
        let was_unfit = gpu.is_unfit
            && hardware.peek().is_some()
            && hardware.all(|fault| fault.last_ms.saturating_add(1_000) < began);
        was_unfit.then_some((gpu.uuid.as_str(), VerdictReason::UnfitGpu))
    })
}

/// For how long a GPU must be lost before what runs on it is given up, in ms.
pub const LOST_FOR_MS: u64 = 10_000;
