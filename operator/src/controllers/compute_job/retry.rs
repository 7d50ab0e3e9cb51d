//! Which end costs which budget, and how long the next attempt is held back. Pure.

use std::collections::BTreeMap;

use gridstake_crds::compute_job::{
    AttemptEndReason, ComputeJobSpec, ComputeJobStatus, Failures, JobEndReason, Verdict,
};
use k8s_openapi::jiff::{SignedDuration, Timestamp};

/// What an attempt's end means for its job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consequence {
    /// The job has ended.
    Ends(JobEndReason),
    /// The program's fault: costs a user retry.
    ChargesUser,
    /// Not the program's fault: costs an infrastructure retry.
    ChargesInfrastructure,
    /// The place was lost before the job started: costs nothing.
    PlacesAgain,
    /// Somebody stopped it: costs nothing.
    Nothing,
}

impl Consequence {
    /// Whether the place itself may be to blame.
    #[must_use]
    pub const fn casts_suspicion(self) -> bool {
        matches!(self, Self::ChargesInfrastructure | Self::PlacesAgain)
    }
}

/// What an end means: its reason decides, or the verdict on it where something failed.
///
/// What nobody can be charged with by the evidence costs an infrastructure retry, so that a tenant does not pay for what was
/// not seen; but an image that cannot be pulled and a container that cannot be started are as good as always the tenant's.
#[must_use]
pub const fn consequence(reason: AttemptEndReason, verdict: Option<Verdict>) -> Consequence {
    use AttemptEndReason as R;
    match (reason, verdict) {
        (R::Succeeded, _) => Consequence::Ends(JobEndReason::Succeeded),
        (R::RunTimeout, _) => Consequence::Ends(JobEndReason::RunTimeout),
        // That the member was lost has been charged when it was given up.
        (R::PlacementLost | R::NotReplaced, _) => Consequence::PlacesAgain,
        (R::Suspended | R::EscrowExhausted | R::Reclaimed | R::Preempted | R::Deleted, _) => {
            Consequence::Nothing
        }
        // Those without a verdict are of a former version.
        (R::ImagePullFailed | R::ContainerStartFailed, Some(Verdict::Ambiguous) | None)
        | (R::ExitedNonZero | R::OutOfMemory, None)
        | (_, Some(Verdict::Tenant)) => Consequence::ChargesUser,
        (_, Some(Verdict::Host | Verdict::Infrastructure | Verdict::Ambiguous) | None) => {
            Consequence::ChargesInfrastructure
        }
    }
}

/// The failures after an attempt whose end means `consequence`, and the job's end if a budget is exceeded by it.
#[must_use]
pub fn charge(
    spec: &ComputeJobSpec,
    before: Failures,
    consequence: Consequence,
) -> (Failures, Option<JobEndReason>) {
    let mut failures = before;
    let end = match consequence {
        Consequence::Ends(end) => Some(end),
        Consequence::ChargesUser => {
            failures.user = failures.user.saturating_add(1);
            (failures.user > spec.user_retries()).then_some(JobEndReason::ProgramFailed)
        }
        Consequence::ChargesInfrastructure => {
            failures.infrastructure = failures.infrastructure.saturating_add(1);
            (failures.infrastructure > spec.infrastructure_retries())
                .then_some(JobEndReason::InfrastructureFailed)
        }
        Consequence::PlacesAgain => {
            failures.placement = failures.placement.saturating_add(1);
            None
        }
        Consequence::Nothing => None,
    };
    (failures, end)
}

/// The longest time for which a next attempt is held back.
const MAX_BACKOFF: SignedDuration = SignedDuration::from_mins(5);
/// For how long a node is not tried again after the first failure on it; doubled for each further one.
const SUSPICION: SignedDuration = SignedDuration::from_secs(30);

/// After so many failures of a job on one node it is left alone for longer.
const CRASH_LOOP: usize = 3;
/// For how long: what a device's agent takes to believe it again.
const CRASH_LOOP_PAUSE: SignedDuration = SignedDuration::from_mins(30);

/// `unit` doubled `times - 1` times, at most [`MAX_BACKOFF`].
fn doubled(unit: SignedDuration, times: u32) -> SignedDuration {
    let factor = 1_i32 << times.saturating_sub(1).min(16);
    unit.checked_mul(factor)
        .map_or(MAX_BACKOFF, |d| d.min(MAX_BACKOFF))
}

/// The earliest time for the next attempt: 1 s after the first failure, doubled by each further one up to 5 min.
#[must_use]
pub fn not_before(status: &ComputeJobStatus) -> Option<Timestamp> {
    let last = status.attempts.iter().max_by_key(|a| a.attempt)?;
    let failures = status.failures.unwrap_or_default();
    let times = failures
        .infrastructure
        .saturating_add(failures.user)
        .saturating_add(failures.placement);
    if times == 0 || consequence(last.end_reason, last.verdict) == Consequence::Nothing {
        return None;
    }
    last.ended_at
        .0
        .checked_add(doubled(SignedDuration::from_secs(1), times))
        .ok()
}

/// Whether the node itself may be to blame for an end of which nothing but its reason is known.
#[must_use]
pub const fn casts_suspicion(reason: AttemptEndReason) -> bool {
    consequence(reason, None).casts_suspicion()
}

/// Nodes that are not tried again yet, since this job failed on them, and until when.
///
/// A node is suspect for 30 s after the job's first failure on it, doubled by each further one up to 5 min. So a node
/// that comes back is used again, and a cluster of one node does not keep a job out. After [`CRASH_LOOP`] failures on it, it
/// is suspect for [`CRASH_LOOP_PAUSE`]: a broken GPU eats no more pods of one job than that.
#[must_use]
pub fn suspects(status: &ComputeJobStatus, now: Timestamp) -> Vec<(String, Timestamp)> {
    let of_attempts = status.attempts.iter().flat_map(|attempt| {
        let suspects = attempt.suspects.iter();
        suspects.map(|node| (node, attempt.ended_at.0))
    });
    // What was lost for the sake of another member says nothing about its node.
    let of_members = status
        .replaced
        .iter()
        .filter(|lost| lost.verdict.is_some())
        .map(|lost| (&lost.node, lost.at.0));
    let mut by_node: BTreeMap<&String, Vec<Timestamp>> = BTreeMap::new();
    for (node, at) in of_attempts.chain(of_members) {
        by_node.entry(node).or_default().push(at);
    }
    by_node
        .into_iter()
        .filter_map(|(node, failures)| {
            let last = failures.iter().max()?;
            let until = last
                .checked_add(if failures.len() >= CRASH_LOOP {
                    CRASH_LOOP_PAUSE
                } else {
                    doubled(SUSPICION, u32::try_from(failures.len()).unwrap_or(u32::MAX))
                })
                .ok()?;
            (until > now).then(|| (node.clone(), until))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use gridstake_crds::{closed_enum::ClosedEnum as _, compute_job::Attempt};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;

    fn spec(retry: &str) -> ComputeJobSpec {
        serde_saphyr::from_str(&format!(
            "{{gpu: {{count: 1}}, template: {{}}, retry: {retry}}}"
        ))
        .unwrap()
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn attempt(number: u32, node: &str, ended: i64, end_reason: AttemptEndReason) -> Attempt {
        Attempt {
            attempt: number,
            nodes: vec![node.into()],
            started_at: None,
            ended_at: Time(at(ended)),
            end_reason,
            exit_code: None,
            message: None,
            gpu_millis: 0,
            suspects: casts_suspicion(end_reason)
                .then(|| node.into())
                .into_iter()
                .collect(),
            verdict: None,
            verdict_reason: None,
            verdict_members: Vec::new(),
        }
    }

    fn charged(
        spec: &ComputeJobSpec,
        before: Failures,
        reason: AttemptEndReason,
        verdict: Verdict,
    ) -> (Failures, Option<JobEndReason>) {
        charge(spec, before, consequence(reason, Some(verdict)))
    }

    #[test]
    fn a_program_that_fails_is_not_repeated_unless_asked_for() {
        let (failures, end) = charged(
            &spec("{}"),
            Failures::default(),
            AttemptEndReason::ExitedNonZero,
            Verdict::Tenant,
        );
        assert_eq!((failures.user, end), (1, Some(JobEndReason::ProgramFailed)));
        let (failures, end) = charged(
            &spec("{user: 1}"),
            Failures::default(),
            AttemptEndReason::ExitedNonZero,
            Verdict::Tenant,
        );
        assert_eq!((failures.user, end), (1, None));
    }

    #[test]
    fn what_is_not_the_programs_fault_never_costs_a_user_retry() {
        for (reason, verdict) in [
            (AttemptEndReason::NodeLost, Verdict::Host),
            (AttemptEndReason::NodeLost, Verdict::Infrastructure),
            (AttemptEndReason::ExitedNonZero, Verdict::Host),
            (AttemptEndReason::ExitedNonZero, Verdict::Ambiguous),
            (AttemptEndReason::Evicted, Verdict::Ambiguous),
        ] {
            let (failures, end) = charged(
                &spec("{infrastructure: 0}"),
                Failures::default(),
                reason,
                verdict,
            );
            assert_eq!(
                (failures.user, failures.infrastructure, end),
                (0, 1, Some(JobEndReason::InfrastructureFailed)),
                "{reason} {verdict}"
            );
        }
    }

    #[test]
    fn a_lost_placement_costs_no_retry_however_often_it_happens() {
        let mut failures = Failures::default();
        for _ in 0..1000 {
            let (next, end) = charged(
                &spec("{infrastructure: 0}"),
                failures,
                AttemptEndReason::PlacementLost,
                Verdict::Infrastructure,
            );
            assert_eq!(end, None);
            failures = next;
        }
        assert_eq!(
            (failures.user, failures.infrastructure, failures.placement),
            (0, 0, 1000)
        );
    }

    #[test]
    fn every_end_charges_one_budget_at_most() {
        for reason in AttemptEndReason::ALL {
            for verdict in Verdict::ALL {
                let (f, _) = charged(&spec("{}"), Failures::default(), *reason, *verdict);
                assert!(
                    f.user + f.infrastructure + f.placement <= 1,
                    "{reason} {verdict}"
                );
            }
        }
    }

    #[test]
    fn the_next_attempt_is_held_back_longer_each_time_up_to_five_minutes() {
        let status = |times: u32| ComputeJobStatus {
            attempts: vec![attempt(times, "a", 0, AttemptEndReason::NodeLost)],
            failures: Some(Failures {
                infrastructure: times,
                ..Failures::default()
            }),
            ..ComputeJobStatus::default()
        };
        for (times, wait) in [(1, 1), (2, 2), (5, 16), (9, 256), (10, 300), (40, 300)] {
            assert_eq!(not_before(&status(times)), Some(at(wait)), "{times}");
        }
    }

    #[test]
    fn a_job_that_was_suspended_starts_again_at_once() {
        let status = ComputeJobStatus {
            attempts: vec![attempt(1, "a", 0, AttemptEndReason::Suspended)],
            failures: Some(Failures {
                user: 1,
                ..Failures::default()
            }),
            ..ComputeJobStatus::default()
        };
        assert_eq!(not_before(&status), None);
    }

    #[test]
    fn a_node_on_which_the_job_failed_is_suspect_for_a_while() {
        let status = ComputeJobStatus {
            attempts: vec![
                attempt(1, "a", 0, AttemptEndReason::PlacementLost),
                attempt(2, "b", 10, AttemptEndReason::ExitedNonZero),
                attempt(3, "a", 40, AttemptEndReason::PlacementLost),
            ],
            ..ComputeJobStatus::default()
        };
        assert_eq!(
            suspects(&status, at(41)),
            [("a".to_owned(), at(100))],
            "twice on a: one minute; b did nothing wrong"
        );
        assert_eq!(suspects(&status, at(100)), []);
    }

    #[test]
    fn a_node_on_which_a_job_failed_three_times_is_left_alone_for_half_an_hour() {
        let failed = |times: u32| ComputeJobStatus {
            attempts: (1..=times)
                .map(|n| attempt(n, "a", i64::from(n), AttemptEndReason::DeviceLost))
                .collect(),
            ..ComputeJobStatus::default()
        };
        assert_eq!(suspects(&failed(2), at(62)), []);
        assert_eq!(suspects(&failed(3), at(62)), [("a".to_owned(), at(1803))]);
    }
}
