//! How far a canary is, and how it ended. Pure.

use gridstake_crds::{
    ComputeJob,
    compute_job::{ComputeJobStatus, JobEndReason, Verdict},
    measurement::Measurement,
};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;

/// A canary.
#[derive(Clone, Debug, PartialEq)]
pub struct Canary {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// The value of its label: see [`super::build::label_of`].
    pub label: String,
    /// When it was made.
    pub created: Timestamp,
    /// How far it is.
    pub stage: Stage,
}

/// How far a canary is.
#[derive(Clone, Debug, PartialEq)]
pub enum Stage {
    /// It waits for its place.
    Waits,
    /// It waits for another place: it had to give its own to somebody else, or never got it.
    LostItsPlace,
    /// It has its place.
    Holds,
    /// It was told to give its place back, and has not done so yet.
    Leaves,
    /// It has given its place back, or never had one.
    GaveWay,
    /// It has ended.
    Ended(Ended),
}

/// How a canary ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Ended {
    /// When its attempt ended, or it did where it had none.
    pub at: Timestamp,
    /// Where it was; none where it had no place.
    pub node: Option<String>,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of a canary.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It has timed its GPUs. One of them may calculate wrong.
    Measured(Measurement),
    /// It failed by its node's fault; in words.
    HostFailed(String),
    /// It failed, and nothing speaks against the node; in words.
    Failed(String),
}

impl Canary {
    /// Whether it takes up one of the places that there are for canaries.
    #[must_use]
    pub const fn is_under_way(&self) -> bool {
        matches!(
            self.stage,
            Stage::Waits | Stage::LostItsPlace | Stage::Holds | Stage::Leaves
        )
    }

    /// Reads `job`, whose label is `label`; `message` is what the program left, if its pod is there.
    #[must_use]
    pub fn read(job: &ComputeJob, label: &str, message: Option<&str>) -> Self {
        Self {
            name: job.name_any(),
            uid: job.uid().unwrap_or_default(),
            label: label.to_owned(),
            created: job
                .creation_timestamp()
                .map_or(Timestamp::UNIX_EPOCH, |at| at.0),
            stage: stage(job, message),
        }
    }
}

fn stage(job: &ComputeJob, message: Option<&str>) -> Stage {
    let nothing = ComputeJobStatus::default();
    let status = job.status.as_ref().unwrap_or(&nothing);
    if let Some(reason) = status.end_reason {
        return Stage::Ended(ended(status, reason, message));
    }
    let gives_way = job.spec.suspend || job.metadata.deletion_timestamp.is_some();
    match (status.active_placement().is_some(), gives_way) {
        (true, true) => Stage::Leaves,
        (true, false) => Stage::Holds,
        (false, true) => Stage::GaveWay,
        (false, false) if status.attempts.is_empty() => Stage::Waits,
        (false, false) => Stage::LostItsPlace,
    }
}

fn ended(status: &ComputeJobStatus, reason: JobEndReason, message: Option<&str>) -> Ended {
    let last = status.attempts.iter().max_by_key(|a| a.attempt);
    let at = last
        .map(|attempt| attempt.ended_at.0)
        .or(status.finished_at.as_ref().map(|at| at.0))
        .unwrap_or(Timestamp::UNIX_EPOCH);
    let measured = message.and_then(Measurement::read);
    let is_host = last.is_some_and(|attempt| attempt.verdict == Some(Verdict::Host));
    let words = || {
        let why = last
            .and_then(|attempt| attempt.verdict_reason)
            .map_or_else(|| reason.to_string(), |why| why.to_string());
        let said = last.and_then(|attempt| attempt.message.clone());
        said.map_or_else(|| why.clone(), |said| format!("{why}: {said}"))
    };
    let outcome = match (reason, measured) {
        (JobEndReason::Succeeded, Some(measurement)) => Outcome::Measured(measurement),
        (JobEndReason::Succeeded, None) => {
            Outcome::Failed("it succeeded and left no figures".to_owned())
        }
        // Only a wrong result makes a program of ours fail with figures.
        (_, Some(measurement)) if is_host && measurement.gpus.iter().any(|gpu| !gpu.digest_ok) => {
            Outcome::Measured(measurement)
        }
        _ if is_host => Outcome::HostFailed(words()),
        _ => Outcome::Failed(words()),
    };
    Ended {
        at,
        node: last.and_then(|attempt| attempt.nodes.first().cloned()),
        outcome,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const RIGHT: &str = r#"{"version":1,"gpus":[{"uuid":"GPU-1","fp32Gflops":19500,"memoryGBs":2039,"digestOk":true}]}"#;
    const WRONG: &str = r#"{"version":1,"gpus":[{"uuid":"GPU-1","fp32Gflops":19500,"memoryGBs":2039,"digestOk":false}]}"#;

    fn canary(suspend: bool, status: &Value, message: Option<&str>) -> Canary {
        let job: ComputeJob = serde_json::from_value(json!({
            "apiVersion": "gridstake.dev/v1alpha1", "kind": "ComputeJob",
            "metadata": {"name": "canary-1", "uid": "u", "creationTimestamp": "2027-01-01T00:00:00Z"},
            "spec": {"gpu": {"count": 1}, "template": {}, "suspend": suspend},
            "status": status,
        }))
        .unwrap();
        Canary::read(&job, "node-a", message)
    }

    fn placed() -> Value {
        json!({"placement": {
            "attempt": 1, "nodes": [{"member": 0, "node": "node-a"}], "decidedAt": "2027-01-01T00:00:01Z",
            "decision": {"draw": "d", "blockHash": "0x", "previous": "0x", "hash": "0x", "snapshot": 1, "candidates": 1,
                "totalWeight": "1", "drawn": ["0"]},
        }})
    }

    fn over(end: &str, verdict: Option<(&str, &str)>) -> Value {
        let mut status = placed();
        status["endReason"] = end.into();
        status["finishedAt"] = "2027-01-01T00:01:00Z".into();
        status["attempts"] = json!([{"attempt": 1, "nodes": ["node-a"], "endedAt": "2027-01-01T00:00:50Z",
            "endReason": "ExitedNonZero", "message": "said", "gpuMillis": 1}]);
        if let Some((verdict, reason)) = verdict {
            status["attempts"][0]["verdict"] = verdict.into();
            status["attempts"][0]["verdictReason"] = reason.into();
        }
        status
    }

    fn outcome(canary: &Canary) -> &Outcome {
        match &canary.stage {
            Stage::Ended(ended) => &ended.outcome,
            stage => panic!("it has not ended: {stage:?}"),
        }
    }

    #[test]
    fn a_canary_that_gives_way_holds_its_place_until_its_attempt_has_ended() {
        assert_eq!(canary(false, &json!({}), None).stage, Stage::Waits);
        assert_eq!(canary(false, &placed(), None).stage, Stage::Holds);
        assert_eq!(canary(true, &placed(), None).stage, Stage::Leaves);
        assert_eq!(canary(true, &json!({}), None).stage, Stage::GaveWay);
        let mut reclaimed = over("Succeeded", None);
        reclaimed["endReason"] = Value::Null;
        assert_eq!(canary(false, &reclaimed, None).stage, Stage::LostItsPlace);
    }

    #[test]
    fn figures_count_where_the_program_succeeded_or_found_a_wrong_result() {
        let well = canary(false, &over("Succeeded", None), Some(RIGHT));
        assert!(matches!(outcome(&well), Outcome::Measured(_)));
        let wrong = over("InfrastructureFailed", Some(("Host", "WrongResult")));
        assert!(matches!(
            outcome(&canary(false, &wrong, Some(WRONG))),
            Outcome::Measured(_)
        ));
        // Its pod is gone: it is known whose fault it was, and no more.
        assert_eq!(
            outcome(&canary(false, &wrong, None)),
            &Outcome::HostFailed("WrongResult: said".to_owned())
        );
    }

    #[test]
    fn a_failure_is_the_nodes_only_where_the_verdict_says_so() {
        let host = over("InfrastructureFailed", Some(("Host", "GpuLost")));
        assert_eq!(
            outcome(&canary(false, &host, Some("cannot"))),
            &Outcome::HostFailed("GpuLost: said".to_owned())
        );
        let own = over("ProgramFailed", Some(("Tenant", "ProgramExit")));
        assert_eq!(
            outcome(&canary(false, &own, Some(WRONG))),
            &Outcome::Failed("ProgramExit: said".to_owned())
        );
        assert!(matches!(
            outcome(&canary(false, &over("Succeeded", None), None)),
            Outcome::Failed(_)
        ));
        let never = json!({"endReason": "QueueTimeout", "finishedAt": "2027-01-01T00:01:00Z"});
        assert_eq!(
            outcome(&canary(false, &never, None)),
            &Outcome::Failed("QueueTimeout".to_owned())
        );
    }
}
