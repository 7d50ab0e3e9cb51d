//! The verdict on a failed attempt. Pure: no client, no clock.

use gridstake_crds::compute_job::{AttemptEndReason, Ending, Verdict, VerdictReason};
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::{
    Excuse, Finding, Loss, Place,
    gpu_evidence::{GpuEvidence, SAMPLE_LATE_MS, gpu_evidence},
};
use crate::controllers::usage_record::bill::unix_millis;

/// How long the agents of a failed attempt are waited for at most, so that they can tell what they have seen. A heartbeat comes
/// every 10 s and takes up to 2 s longer to look once more; one that is late is waited for until its agent counts as silent.
pub const PATIENCE: SignedDuration = SignedDuration::from_secs(45);
/// How soon it is looked again for what they tell.
const LOOK_AGAIN: SignedDuration = SignedDuration::from_secs(1);

/// When a member ran, by the clock of its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberEnd {
    /// The member (rank).
    pub member: u32,
    /// When its first container started.
    pub began: Option<Timestamp>,
    /// When its last container ended, in whole seconds, cut off.
    pub ended: Option<Timestamp>,
}

/// What comes of weighing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Weighed {
    /// Nothing failed.
    Nothing,
    /// More may be heard; look again then.
    Wait(Timestamp),
    /// The verdict.
    Found(Finding),
}

/// The verdict on an attempt that ended like `end`, whose members ran like `members` at `places`.
#[must_use]
pub fn weigh(end: &Ending, members: &[MemberEnd], places: &[Place], now: Timestamp) -> Weighed {
    use AttemptEndReason as R;
    use VerdictReason as V;
    let case = Case {
        end,
        members,
        places,
    };
    let (verdict, reason) = match (end.reason, end.hint) {
        (
            R::Succeeded
            | R::Suspended
            | R::EscrowExhausted
            | R::Reclaimed
            | R::Preempted
            | R::Deleted
            | R::RunTimeout
            // The loss that it follows has its own verdict.
            | R::NotReplaced,
            _,
        ) => {
            return Weighed::Nothing;
        }
        (R::PlacementLost, _) | (R::AdmissionFailed, Some(V::PlaceTaken)) => {
            (Verdict::Infrastructure, V::PlaceTaken)
        }
        (R::AdmissionFailed | R::Evicted, Some(V::Displaced)) => {
            (Verdict::Infrastructure, V::Displaced)
        }
        (R::AdmissionFailed, Some(V::AdmissionRefused)) => case.of_the_host(V::AdmissionRefused),
        (R::AdmissionFailed, _) => (Verdict::Ambiguous, V::AdmissionRefused),
        (R::Evicted, Some(V::StorageLimit)) => (Verdict::Tenant, V::StorageLimit),
        (R::OutOfMemory, Some(V::MemoryLimit)) => (Verdict::Tenant, V::MemoryLimit),
        (R::Evicted | R::OutOfMemory, _) => (Verdict::Ambiguous, V::NodePressure),
        (R::PodDeleted, _) => (Verdict::Ambiguous, V::PodDeleted),
        (R::ImagePullFailed, Some(V::ImageName)) => (Verdict::Tenant, V::ImageName),
        (R::ImagePullFailed, _) => (Verdict::Ambiguous, V::ImagePull),
        (R::StartTimeout, _) => (Verdict::Ambiguous, V::NotStarted),
        (R::NodeLost, Some(V::NodeDeleted)) => (Verdict::Infrastructure, V::NodeDeleted),
        (R::NodeLost, Some(V::NodeShutdown)) => case.of_the_host(V::NodeShutdown),
        (R::NodeLost, _) => case.lost_node(),
        (R::DeviceLost, hint) => case.of_the_host(hint.unwrap_or(V::GpuLost)),
        (R::ExitedNonZero | R::ContainerStartFailed, _) => return case.process(now),
    };
    Weighed::Found(Finding {
        verdict,
        reason,
        members: end.members.clone(),
    })
}

/// An attempt's end and all that is known of it.
struct Case<'a> {
    end: &'a Ending,
    members: &'a [MemberEnd],
    places: &'a [Place],
}

impl Case<'_> {
    fn decides(&self, member: u32) -> bool {
        self.end.members.contains(&member)
    }

    fn deciding_places(&self) -> impl Iterator<Item = &Place> + Clone {
        self.places.iter().filter(|p| self.decides(p.member))
    }

    /// The host's fault, unless all the nodes in question are excused.
    fn of_the_host(&self, reason: VerdictReason) -> (Verdict, VerdictReason) {
        match self.excuse(&self.end.members) {
            Some(excuse) => (Verdict::Infrastructure, excuse.reason()),
            None => (Verdict::Host, reason),
        }
    }

    /// Why nothing is held against the node of any of `members`.
    fn excuse(&self, members: &[u32]) -> Option<Excuse> {
        self.places
            .iter()
            .filter(|place| members.contains(&place.member))
            .find_map(|place| place.excuse)
    }

    fn lost_node(&self) -> (Verdict, VerdictReason) {
        let mut losses = self.deciding_places().map(|place| place.loss);
        if losses.clone().any(|loss| loss == Loss::Deleted) {
            return (Verdict::Infrastructure, VerdictReason::NodeDeleted);
        }
        if losses.any(|loss| matches!(loss, Loss::Together(_))) {
            return (Verdict::Infrastructure, VerdictReason::LostTogether);
        }
        self.of_the_host(VerdictReason::NodeLost)
    }

    /// The moment of the failure, in Unix ms of the nodes' clocks.
    fn moment(&self) -> u64 {
        let ended = |of_those_that_decided: bool| {
            self.members
                .iter()
                .filter(|m| !of_those_that_decided || self.decides(m.member))
                .filter_map(|m| m.ended)
                .min()
        };
        unix_millis(ended(true).or(ended(false)).unwrap_or(self.end.since.0))
    }

    fn began(&self, member: u32) -> Option<u64> {
        let found = self.members.iter().find(|m| m.member == member)?;
        found.began.map(unix_millis)
    }

    /// A process ended badly: what its GPUs, and those of the members that it worked with, report decides.
    fn process(&self, now: Timestamp) -> Weighed {
        let moment = self.moment();
        let is_told = |place: &Place| {
            place
                .told_until_ms
                .is_some_and(|told| told >= moment.saturating_add(SAMPLE_LATE_MS))
        };
        let patience = self.end.since.0.saturating_add(PATIENCE).unwrap_or(now);
        let may_tell =
            |place: &Place| place.is_heard && place.loss == Loss::None && !is_told(place);
        if now < patience && self.places.iter().any(may_tell) {
            let again = now.saturating_add(LOOK_AGAIN).unwrap_or(patience);
            return Weighed::Wait(again.min(patience));
        }
        let evidence: Vec<(u32, GpuEvidence)> = self
            .places
            .iter()
            .map(|place| {
                let began = self.began(place.member);
                (place.member, gpu_evidence(place, began, moment))
            })
            .collect();
        let (verdict, reason, members) = self
            .by_hardware(&evidence)
            .or_else(|| self.by_program(&evidence))
            .unwrap_or_else(|| {
                let was_watched =
                    |p: &Place| is_told(p) && p.sees_gpus && !p.was_unwatched_at(moment);
                let watched = self.places.iter().all(was_watched)
                    && self.members.iter().all(|member| self.has_place(member));
                let (verdict, reason) = self.without_signals(watched);
                (verdict, reason, self.end.members.clone())
            });
        Weighed::Found(Finding {
            verdict,
            reason,
            members,
        })
    }

    fn has_place(&self, member: &MemberEnd) -> bool {
        self.places.iter().any(|p| p.member == member.member)
    }

    /// A fault of the hardware under any member may have brought down the others.
    fn by_hardware(
        &self,
        evidence: &[(u32, GpuEvidence)],
    ) -> Option<(Verdict, VerdictReason, Vec<u32>)> {
        let hit: Vec<(u32, VerdictReason)> = evidence
            .iter()
            .filter_map(|(member, found)| Some((*member, found.hardware?.0)))
            .collect();
        let members: Vec<u32> = hit.iter().map(|(member, _)| *member).collect();
        let reason = hit.iter().map(|(_, reason)| *reason).min()?;
        let first = evidence
            .iter()
            .filter_map(|(_, found)| Some(found.hardware?.1))
            .min()?;
        // No program makes a GPU fall off the bus; anything else on the same GPU may be the echo of what a program did.
        let is_doubtful = |found: &GpuEvidence| {
            found.program.is_some_and(|program| {
                program <= first || (found.hardware.is_some() && reason != VerdictReason::GpuLost)
            })
        };
        let program_was_first = evidence.iter().any(|(_, found)| is_doubtful(found));
        if program_was_first {
            return Some((Verdict::Ambiguous, VerdictReason::SignalsDisagree, members));
        }
        Some(match self.excuse(&members) {
            Some(excuse) => (Verdict::Infrastructure, excuse.reason(), members),
            None => (Verdict::Host, reason, members),
        })
    }

    fn by_program(
        &self,
        evidence: &[(u32, GpuEvidence)],
    ) -> Option<(Verdict, VerdictReason, Vec<u32>)> {
        let culprits: Vec<u32> = evidence
            .iter()
            .filter(|(_, found)| found.program.is_some())
            .map(|(member, _)| *member)
            .collect();
        if !culprits.is_empty() {
            return Some((Verdict::Tenant, VerdictReason::ProgramXid, culprits));
        }
        evidence.iter().any(|(_, found)| found.doubt).then(|| {
            (
                Verdict::Ambiguous,
                VerdictReason::SignalsDisagree,
                self.end.members.clone(),
            )
        })
    }

    /// No GPU has reported anything.
    fn without_signals(&self, watched: bool) -> (Verdict, VerdictReason) {
        use VerdictReason as V;
        match (self.end.reason, self.end.hint) {
            // The program is the operator's own, and what it must find is known: nobody need have watched.
            (AttemptEndReason::ExitedNonZero, Some(V::WrongResult)) => {
                self.of_the_host(V::WrongResult)
            }
            (AttemptEndReason::ContainerStartFailed, Some(V::ContainerConfig)) => {
                (Verdict::Tenant, V::ContainerConfig)
            }
            (AttemptEndReason::ContainerStartFailed, Some(V::GpuRuntime)) => {
                self.of_the_host(V::GpuRuntime)
            }
            (AttemptEndReason::ContainerStartFailed, _) => (Verdict::Ambiguous, V::ContainerStart),
            _ if self.places.iter().any(|p| p.loss != Loss::None) => {
                (Verdict::Ambiguous, V::NotWatched)
            }
            _ if !watched => (Verdict::Ambiguous, V::NotWatched),
            _ if self
                .places
                .iter()
                .any(|p| p.excuse == Some(Excuse::Amnesty)) =>
            {
                (Verdict::Infrastructure, V::Amnesty)
            }
            _ if self.end.exit_code.is_some_and(is_killed) => (Verdict::Ambiguous, V::Killed),
            _ => (Verdict::Tenant, V::ProgramExit),
        }
    }
}

/// Whether an exit code says that the process was told to end or killed from outside: 128 + SIGKILL, 128 + SIGTERM.
const fn is_killed(exit_code: i32) -> bool {
    matches!(exit_code, 137 | 143)
}
