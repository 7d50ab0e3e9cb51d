//! Which pods the API server would have taken of late. Jobs that differ in nothing but their name get one answer, so that a burst of
//! them does not ask as often as there are jobs.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use alloy_primitives::{B256, keccak256};
use gridstake_crds::ComputeJob;
use kube::ResourceExt as _;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{kueue, rendezvous};

/// For so long the API server's yes holds for another pod alike. What has changed since, such as a quota that is used up, is told
/// when the pod itself is created; a no is never kept.
const HOLDS: Duration = Duration::from_secs(10);

/// What the API server judges of a job's pods.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Subject {
    namespace: String,
    digest: B256,
}

impl Subject {
    /// That of `job`; `None` where its template cannot be written down.
    #[must_use]
    pub fn of(job: &ComputeJob) -> Option<Self> {
        let spec = &job.spec;
        let pod = (
            &spec.template,
            spec.gpu.count,
            rendezvous::is_gang(job),
            &spec.termination,
            [kueue::QUEUE, kueue::PRIORITY].map(|label| job.labels().get(label)),
        );
        Some(Self {
            namespace: job.namespace().unwrap_or_default(),
            digest: keccak256(serde_json::to_vec(&pod).ok()?),
        })
    }
}

/// So many questions are under way at a time: who waits for its own may have its answer by another's.
const AT_ONCE: usize = 4;

/// What has passed, and when. Cloning shares it.
#[derive(Clone, Debug)]
pub struct Rehearsals(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    passed: Mutex<HashMap<Subject, Instant>>,
    asking: Semaphore,
}

impl Default for Rehearsals {
    fn default() -> Self {
        Self(Arc::new(Inner {
            passed: Mutex::default(),
            asking: Semaphore::new(AT_ONCE),
        }))
    }
}

impl Rehearsals {
    /// Whether the API server has said yes to `subject` shortly before `now`.
    #[must_use]
    pub fn have_passed(&self, subject: &Subject, now: Instant) -> bool {
        let passed = self.passed();
        passed.get(subject).is_some_and(|at| holds(*at, now))
    }

    /// Waits until fewer than [`AT_ONCE`] questions are under way; this one is until the answer is dropped.
    pub async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        self.0.asking.acquire().await.ok()
    }

    fn passed(&self) -> MutexGuard<'_, HashMap<Subject, Instant>> {
        self.0.passed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that it has said yes at `now`, and forgets what does not hold any more.
    pub fn pass(&self, subject: Subject, now: Instant) {
        let mut passed = self.passed();
        passed.retain(|_, at| holds(*at, now));
        passed.insert(subject, now);
    }
}

fn holds(since: Instant, now: Instant) -> bool {
    now.saturating_duration_since(since) < HOLDS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(namespace: &str, name: &str, spec: &str) -> Subject {
        let spec = format!("{{gpu: {{count: 1}}, {spec}}}");
        let mut job = ComputeJob::new(name, serde_saphyr::from_str(&spec).unwrap());
        job.metadata.namespace = Some(namespace.into());
        Subject::of(&job).unwrap()
    }

    #[test]
    fn jobs_that_differ_in_their_names_alone_get_one_answer() {
        let template = "template: {spec: {containers: [{name: a, image: a}]}}";
        let first = subject("n", "a", template);
        assert_eq!(first, subject("n", "b", template));
        for other in [
            subject("m", "a", template),
            subject("n", "a", &format!("{template}, members: 2")),
            subject(
                "n",
                "a",
                "template: {spec: {containers: [{name: a, image: b}]}}",
            ),
            subject(
                "n",
                "a",
                &format!("{template}, termination: {{graceSeconds: 5}}"),
            ),
        ] {
            assert_ne!(first, other);
        }
    }

    #[test]
    fn a_yes_holds_for_ten_seconds() {
        let rehearsals = Rehearsals::default();
        let (subject, at) = (subject("n", "a", "template: {}"), Instant::now());
        assert!(!rehearsals.have_passed(&subject, at));
        rehearsals.pass(subject.clone(), at);
        assert!(rehearsals.have_passed(&subject, at + HOLDS / 2));
        assert!(!rehearsals.have_passed(&subject, at + HOLDS));
    }
}
