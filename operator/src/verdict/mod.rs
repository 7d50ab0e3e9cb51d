//! At whose door a failed attempt is laid.
//!
//! | file | what |
//! |---|---|
//! | [`observe`] | what is known of the members' places: their GPUs, what was reported against them, their nodes |
//! | [`gpu_evidence`] | pure: what the reported faults of GPUs say about one moment |
//! | [`weigh`] | pure: the verdict, or until when more may be heard |
//!
//! A verdict decides which retry budget an attempt costs, and only [`Verdict::Host`] can cost a provider anything. So it is
//! given only where something was reported against the provider's own hardware or node, at the time of the failure; where
//! signals disagree, or nobody was watching, it is [`Verdict::Ambiguous`].

pub mod gpu_evidence;
pub mod observe;
pub mod weigh;

#[cfg(test)]
mod faults;
#[cfg(test)]
mod tests;

use gridstake_crds::{
    compute_job::{Verdict, VerdictReason},
    gpu_node::{DeviceFault, DeviceFaultKind},
};
pub use weigh::{MemberEnd, Weighed, weigh};

/// A verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// At whose door it is laid.
    pub verdict: Verdict,
    /// On what that rests.
    pub reason: VerdictReason,
    /// The members (ranks) to whose nodes or processes it applies.
    pub members: Vec<u32>,
}

/// What is known of the place at which a member runs, or ran.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The member (rank).
    pub member: u32,
    /// The member's GPUs; where its evidence does not name them yet, all of its node's.
    pub gpus: Vec<Gpu>,
    /// Whether `gpus` are the member's own for certain.
    pub gpus_are_known: bool,
    /// Until when everything that was seen is told, in Unix milliseconds of the node's clock; `None`: nothing ever was.
    pub told_until_ms: Option<u64>,
    /// Whether the agent is heard of.
    pub is_heard: bool,
    /// Whether the agent sees the GPUs.
    pub sees_gpus: bool,
    /// Spans for which the agent has no evidence of the member, in Unix milliseconds: faults of that time were not heard.
    pub gaps: Vec<(u64, u64)>,
    /// What became of the node.
    pub loss: Loss,
    /// Why nothing is held against the node, if so.
    pub excuse: Option<Excuse>,
}

impl Place {
    /// Whether a fault that led to a failure at `moment` (Unix ms) may not have been seen.
    fn was_unwatched_at(&self, moment: u64) -> bool {
        let since = moment.saturating_sub(gpu_evidence::CAUSE_MS);
        let until = moment.saturating_add(gpu_evidence::SAMPLE_LATE_MS);
        self.gaps
            .iter()
            .any(|(from, to)| *from <= until && *to >= since)
    }
}

/// A GPU and what was reported against it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gpu {
    /// NVML's UUID of the physical device.
    pub uuid: String,
    /// Whether it must not be given to a job now, for what was reported against its hardware.
    pub is_unfit: bool,
    /// Whether it is lost now.
    pub is_lost: bool,
    /// What was reported, as in `status.devices[].faults` of the GpuNode.
    pub faults: Vec<DeviceFault>,
}

impl Gpu {
    /// Since when it is lost (Unix ms), if it is: by the newest such fault. Earlier ones are over.
    fn lost_since(&self) -> Option<u64> {
        self.faults
            .iter()
            .filter(|fault| self.is_lost && fault.kind == DeviceFaultKind::GpuLost)
            .map(|fault| fault.first_ms)
            .max()
    }
}

/// What became of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Loss {
    /// It is there.
    #[default]
    None,
    /// It fell silent by itself.
    Alone,
    /// So many others fell silent at about the same time.
    Together(usize),
    /// Its Node object is gone.
    Deleted,
}

/// Why nothing is held against a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Excuse {
    /// Its provider had announced maintenance.
    Maintenance,
    /// Too many nodes are silent together.
    Amnesty,
}

impl Excuse {
    const fn reason(self) -> VerdictReason {
        match self {
            Self::Maintenance => VerdictReason::Maintenance,
            Self::Amnesty => VerdictReason::Amnesty,
        }
    }
}
