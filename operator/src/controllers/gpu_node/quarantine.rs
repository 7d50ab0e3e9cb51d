//! Which GPUs, or whether the whole node, get no jobs for a while because of what has failed on them. Pure.
//!
//! | subject | when | until |
//! |---|---|---|
//! | a GPU | two different jobs failed on it within an hour, by no program's fault | 30 min after the last |
//! | the node | its kubelet, device plugin or container runtime refused three pods within 10 min | 10 min after the last |
//! | the node | the kubelet goes on to hand out a GPU that is unfit or in quarantine, and two pods have failed on it | 30 min after the last |
//!
//! Which of a node's GPUs a pod gets is the kubelet's choice: where the device plugin goes on to advertise a GPU that must not
//! be used, nothing but leaving the whole node alone keeps jobs off it. With the pod that may be under way by then it has eaten
//! three.

use std::collections::{BTreeMap, BTreeSet};

use gridstake_crds::{
    compute_job::{Verdict, VerdictReason},
    gpu_node::{Quarantine, QuarantineReason, WHOLE_NODE},
};
use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::{SignedDuration, Timestamp},
};

use crate::caches::failures::Failure;

/// How far back failures count.
pub const MEMORY: SignedDuration = SignedDuration::from_hours(1);
/// So many refusals.
const REFUSALS: usize = 3;
/// So many jobs on one GPU, and so many pods on a broken one.
const FAILURES: usize = 2;

/// How long what has failed is left alone. Each is at most [`MEMORY`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// For how long a GPU must be clean.
    pub gpu_clean: SignedDuration,
    /// Within which time refused pods count, and for how long there must be none.
    pub admission_clean: SignedDuration,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            gpu_clean: SignedDuration::from_mins(30),
            admission_clean: SignedDuration::from_mins(10),
        }
    }
}

/// The GPUs of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeGpus {
    /// All that NVML shows.
    pub all: usize,
    /// Those that must not be used, by what the agent says.
    pub unfit: BTreeSet<String>,
    /// How many the kubelet hands out.
    pub allocatable: usize,
}

/// What is in quarantine at `now`, after `failures` of the last [`MEMORY`]. The whole node comes first.
#[must_use]
pub fn quarantine(
    failures: &[Failure],
    gpus: &NodeGpus,
    terms: &Terms,
    now: Timestamp,
) -> Vec<Quarantine> {
    let mut found = Vec::new();
    let mut of_gpus = repeated(failures, terms.gpu_clean, now);
    let broken: BTreeSet<&str> = of_gpus
        .iter()
        .map(|quarantine| quarantine.subject.as_str())
        .chain(gpus.unfit.iter().map(String::as_str))
        .collect();
    let handed_out = || allocated(failures, gpus, &broken, terms.gpu_clean, now);
    found.extend(refusals(failures, terms.admission_clean, now).or_else(handed_out));
    found.append(&mut of_gpus);
    found
}

/// When a quarantine ends whose last failure was at `last`, if that is still to come.
fn until(last: Timestamp, clean: SignedDuration, now: Timestamp) -> Option<Time> {
    let until = last.checked_add(clean).ok()?;
    (until > now).then_some(Time(until))
}

fn entry(subject: &str, reason: QuarantineReason, failures: usize, until: Time) -> Quarantine {
    Quarantine {
        subject: subject.to_owned(),
        reason,
        failures: u32::try_from(failures).unwrap_or(u32::MAX),
        until,
    }
}

/// Whether a failure says something about the GPU on which it happened. What nobody watched, or what the control plane did,
/// does not.
const fn is_of_the_gpu(failure: &Failure) -> bool {
    use VerdictReason as V;
    matches!(
        (failure.verdict, failure.reason),
        (
            Verdict::Host,
            V::GpuLost | V::HardwareXid | V::MemoryFault | V::UnfitGpu | V::WrongResult
        ) | (
            Verdict::Ambiguous,
            V::SignalsDisagree | V::Killed | V::ContainerStart
        )
    )
}

const fn is_refusal(failure: &Failure) -> bool {
    matches!(
        failure.reason,
        VerdictReason::AdmissionRefused | VerdictReason::GpuRuntime
    )
}

/// GPUs on which different jobs failed. One job alone, however often it fails, says nothing about a GPU that reports nothing.
fn repeated(failures: &[Failure], clean: SignedDuration, now: Timestamp) -> Vec<Quarantine> {
    let mut by_gpu: BTreeMap<&str, Vec<&Failure>> = BTreeMap::new();
    for failure in failures.iter().filter(|failure| is_of_the_gpu(failure)) {
        for gpu in &failure.gpus {
            by_gpu.entry(gpu).or_default().push(failure);
        }
    }
    by_gpu
        .into_iter()
        .filter_map(|(gpu, failures)| {
            let jobs: BTreeSet<&str> = failures.iter().map(|f| f.job.as_str()).collect();
            let last = failures.iter().map(|f| f.at).max()?;
            let until = until(last, clean, now)?;
            (jobs.len() >= FAILURES).then(|| {
                entry(
                    gpu,
                    QuarantineReason::RepeatedFailures,
                    failures.len(),
                    until,
                )
            })
        })
        .collect()
}

fn refusals(failures: &[Failure], clean: SignedDuration, now: Timestamp) -> Option<Quarantine> {
    let mut refused: Vec<Timestamp> = failures
        .iter()
        .filter(|failure| is_refusal(failure))
        .map(|failure| failure.at)
        .collect();
    refused.sort_unstable();
    let last = *refused.last()?;
    let is_recent = |at: &&Timestamp| last.duration_since(**at) <= clean;
    let recent = refused.iter().filter(is_recent).count();
    let until = until(last, clean, now)?;
    (recent >= REFUSALS).then(|| {
        entry(
            WHOLE_NODE,
            QuarantineReason::AdmissionFailures,
            recent,
            until,
        )
    })
}

fn allocated(
    failures: &[Failure],
    gpus: &NodeGpus,
    broken: &BTreeSet<&str>,
    clean: SignedDuration,
    now: Timestamp,
) -> Option<Quarantine> {
    if gpus.allocatable <= gpus.all.saturating_sub(broken.len()) {
        return None;
    }
    let eaten: Vec<Timestamp> = failures
        .iter()
        .filter(|failure| is_of_the_gpu(failure))
        .filter(|failure| failure.gpus.iter().any(|gpu| broken.contains(gpu.as_str())))
        .map(|failure| failure.at)
        .collect();
    let until = until(eaten.iter().copied().max()?, clean, now)?;
    (eaten.len() >= FAILURES).then(|| {
        entry(
            WHOLE_NODE,
            QuarantineReason::BrokenGpuAllocated,
            eaten.len(),
            until,
        )
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(minute: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + 60 * minute).unwrap()
    }

    fn failure(minute: i64, reason: VerdictReason, job: &str, gpu: &str) -> Failure {
        let is_doubtful = matches!(reason, VerdictReason::Killed | VerdictReason::NotWatched);
        Failure {
            at: at(minute),
            verdict: if is_doubtful {
                Verdict::Ambiguous
            } else {
                Verdict::Host
            },
            reason,
            job: job.to_owned(),
            gpus: vec![gpu.to_owned()],
        }
    }

    /// Eight GPUs, of which the kubelet hands out so many.
    fn gpus(unfit: &[&str], allocatable: usize) -> NodeGpus {
        NodeGpus {
            all: 8,
            unfit: unfit.iter().map(|gpu| (*gpu).to_owned()).collect(),
            allocatable,
        }
    }

    fn subjects(
        failures: &[Failure],
        gpus: &NodeGpus,
        minute: i64,
    ) -> Vec<(String, QuarantineReason)> {
        quarantine(failures, gpus, &Terms::default(), at(minute))
            .into_iter()
            .map(|found| (found.subject, found.reason))
            .collect()
    }

    #[test]
    fn a_gpu_on_which_two_jobs_failed_is_left_alone_until_it_was_clean_for_half_an_hour() {
        use QuarantineReason as Q;
        let failures = [
            failure(0, VerdictReason::Killed, "a", "GPU-1"),
            failure(5, VerdictReason::HardwareXid, "b", "GPU-1"),
        ];
        let expected = [("GPU-1".to_owned(), Q::RepeatedFailures)];
        assert_eq!(subjects(&failures[..1], &gpus(&[], 7), 6), []);
        assert_eq!(subjects(&failures, &gpus(&[], 7), 6), expected);
        assert_eq!(subjects(&failures, &gpus(&[], 7), 34), expected);
        assert_eq!(subjects(&failures, &gpus(&[], 7), 35), []);
    }

    #[test]
    fn one_job_alone_puts_no_gpu_into_quarantine_nor_does_what_nobody_watched() {
        let of_one: Vec<_> = (0..9)
            .map(|n| failure(n, VerdictReason::Killed, "a", "GPU-1"))
            .collect();
        assert_eq!(subjects(&of_one, &gpus(&[], 8), 9), []);
        let unwatched = [
            failure(0, VerdictReason::NotWatched, "a", "GPU-1"),
            failure(0, VerdictReason::NotWatched, "b", "GPU-1"),
        ];
        assert_eq!(subjects(&unwatched, &gpus(&[], 8), 1), []);
    }

    #[test]
    fn three_refused_pods_within_ten_minutes_take_the_node_off_the_market_for_ten() {
        use QuarantineReason as Q;
        let refused = |minutes: &[i64]| -> Vec<Failure> {
            minutes
                .iter()
                .map(|n| failure(*n, VerdictReason::AdmissionRefused, "a", "-"))
                .collect()
        };
        let node = [(WHOLE_NODE.to_owned(), Q::AdmissionFailures)];
        assert_eq!(subjects(&refused(&[0, 4]), &gpus(&[], 8), 5), []);
        assert_eq!(subjects(&refused(&[0, 4, 9]), &gpus(&[], 8), 18), node);
        assert_eq!(subjects(&refused(&[0, 4, 9]), &gpus(&[], 8), 19), []);
        assert_eq!(subjects(&refused(&[0, 8, 16]), &gpus(&[], 8), 17), []);
    }

    #[test]
    fn how_long_a_node_is_left_alone_is_configured() {
        let terms = Terms {
            admission_clean: SignedDuration::from_mins(2),
            ..Terms::default()
        };
        let refused: Vec<_> = (0..3)
            .map(|n| failure(n, VerdictReason::AdmissionRefused, "a", "-"))
            .collect();
        let found = |minute| quarantine(&refused, &gpus(&[], 8), &terms, at(minute)).len();
        assert_eq!((found(3), found(4)), (1, 0));
    }

    #[test]
    fn a_broken_gpu_that_the_kubelet_hands_out_all_the_same_takes_the_whole_node_with_it() {
        use QuarantineReason as Q;
        let eaten = [
            failure(0, VerdictReason::HardwareXid, "a", "GPU-1"),
            failure(1, VerdictReason::UnfitGpu, "a", "GPU-1"),
        ];
        let node = [(WHOLE_NODE.to_owned(), Q::BrokenGpuAllocated)];
        let still_handed_out = gpus(&["GPU-1"], 8);
        assert_eq!(subjects(&eaten[..1], &still_handed_out, 2), []);
        assert_eq!(subjects(&eaten, &still_handed_out, 2), node);
        assert_eq!(subjects(&eaten, &still_handed_out, 31), []);
        assert_eq!(
            subjects(&eaten, &gpus(&["GPU-1"], 7), 2),
            [],
            "the device plugin has withdrawn it: the others are on offer"
        );
    }

    proptest! {
        #[test]
        fn every_quarantine_ends_by_itself(minutes in prop::collection::vec((0_i64..60, 0_usize..4, 0_u8..3, 0_u8..3), 0..20)) {
            use VerdictReason as V;
            let reasons = [V::AdmissionRefused, V::HardwareXid, V::Killed, V::UnfitGpu];
            let failures: Vec<_> = minutes
                .iter()
                .map(|(minute, reason, job, gpu)| failure(*minute, reasons[*reason], &job.to_string(), &format!("GPU-{gpu}")))
                .collect();
            for found in quarantine(&failures, &gpus(&["GPU-0"], 8), &Terms::default(), at(60)) {
                prop_assert!(found.until.0 > at(60) && found.until.0 <= at(60) + Terms::default().gpu_clean);
            }
            prop_assert_eq!(quarantine(&failures, &gpus(&["GPU-0"], 8), &Terms::default(), at(90)), vec![]);
        }
    }
}
