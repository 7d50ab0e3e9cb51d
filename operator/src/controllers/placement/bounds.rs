//! By when an attempt has ended for sure. Pure.
//!
//! A placed attempt has started after `timeouts.start`, or is rolled back. It runs for `timeouts.run` at most, counted
//! from its first container's start, and then its pods get their grace. The times are those by which the ComputeJob
//! controller ends an attempt.

use std::collections::BTreeSet;
use std::time::Duration;

use gridstake_crds::{
    ComputeJob,
    compute_job::{ComputeJobCondition, ComputeJobSpec},
    condition,
};
use k8s_openapi::jiff::Timestamp;

use crate::{
    payer,
    scheduler::{
        MemberKey, Resources,
        holds::{Millis, Release},
    },
};

/// For how long an attempt of `job` can hold its GPUs at most, in milliseconds from its placement; `None` without
/// `timeouts.run`.
#[must_use]
pub fn longest(job: &ComputeJob) -> Option<Millis> {
    let run = job.spec.run_timeout()?;
    Some(millis(
        job.spec
            .start_timeout()
            .saturating_add(run)
            .saturating_add(payer::grace(job)),
    ))
}

/// By when the attempt in progress has ended for sure, if that is known.
#[must_use]
pub fn ends_by(job: &ComputeJob) -> Option<Millis> {
    let status = job.status.as_ref()?;
    let placement = status.active_placement()?;
    let grace = payer::grace(job);
    let after =
        |since: Timestamp, wait: Duration| since.as_millisecond().saturating_add(millis(wait));
    let ending = status
        .ending
        .as_ref()
        .filter(|ending| ending.attempt == placement.attempt)
        .map(|ending| after(ending.since.0, grace));
    let runs_since = condition::find(&status.conditions, ComputeJobCondition::Running)
        .filter(|running| running.status == "True")
        .map(|running| running.last_transition_time.0);
    let by_limit = |spec: &ComputeJobSpec| {
        let run = spec.run_timeout()?.saturating_add(grace);
        let placed = after(
            placement.decided_at.0,
            spec.start_timeout().saturating_add(run),
        );
        let started = runs_since.map(|since| after(since, run));
        Some(started.map_or(placed, |started| started.min(placed)))
    };
    ending.into_iter().chain(by_limit(&job.spec)).min()
}

/// What the members of the attempt in progress of `job` give back, `each` being what one of them takes. Those in `gone`
/// hold nothing any more.
#[must_use]
pub fn releases(job: &ComputeJob, each: &Resources, gone: &BTreeSet<MemberKey>) -> Vec<Release> {
    let Some(placement) = job.status.as_ref().and_then(|s| s.active_placement()) else {
        return Vec::new();
    };
    let uid = job.metadata.uid.as_deref().unwrap_or_default();
    let Ok(job_uid) = uid.parse() else {
        return Vec::new();
    };
    let ends_by = ends_by(job);
    placement
        .nodes
        .iter()
        .map(|placed| Release {
            member: MemberKey {
                job_uid,
                attempt: placement.attempt,
                member: placed.member,
            },
            node: placed.node.clone(),
            resources: each.clone(),
            ends_by,
        })
        .filter(|release| !gone.contains(&release.member))
        .collect()
}

fn millis(time: Duration) -> Millis {
    Millis::try_from(time.as_millis()).unwrap_or(Millis::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A job that was placed at second 1000, with a grace of 10 s.
    fn job(timeouts: &str, status: &str) -> ComputeJob {
        let zero = format!("0x{}", "0".repeat(64));
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        serde_saphyr::from_str(&format!(
            "{{apiVersion: gridstake.dev/v1alpha1, kind: ComputeJob, metadata: {{name: j, uid: 0f8fad5b-d9cb-469f-a165-70867728950e}}, \
             spec: {{gpu: {{count: 1}}, members: 2, template: {{}}, timeouts: {{{timeouts}}}, termination: {{graceSeconds: 10}}}}, \
             status: {{placement: {{attempt: 3, nodes: [{{member: 0, node: a}}, {{member: 1, node: b}}], decidedAt: '{}', \
             decision: {{draw: d, blockHash: '{zero}', previous: '{zero}', hash: '{zero}', snapshot: 1, candidates: 1, totalWeight: '1', drawn: []}}}}{status}}}}}",
            at(1000)
        ))
        .unwrap()
    }

    const RUNS: &str = ", conditions: [{type: Running, status: 'True', reason: Running, message: '', lastTransitionTime: '1970-01-01T00:20:00Z'}]";
    const ENDING: &str = ", ending: {attempt: 3, reason: Suspended, since: '1970-01-01T00:25:00Z'}";

    #[test]
    fn an_attempt_is_over_after_start_run_and_grace() {
        let timeouts = "start: 1m, run: 1h";
        assert_eq!(longest(&job(timeouts, "")), Some(3_670_000));
        assert_eq!(ends_by(&job(timeouts, "")), Some(4_670_000));
        assert_eq!(longest(&job("run: 1h", "")), Some(3_910_000), "start is 5m");
    }

    #[test]
    fn once_it_runs_its_start_is_known() {
        assert_eq!(ends_by(&job("start: 1h, run: 1h", RUNS)), Some(4_810_000));
        assert_eq!(
            ends_by(&job("start: 1m, run: 1h", RUNS)),
            Some(4_670_000),
            "the operator noticed late that it runs"
        );
    }

    #[test]
    fn without_a_limit_nobody_knows_until_it_is_being_stopped() {
        assert_eq!(longest(&job("", "")), None);
        assert_eq!(ends_by(&job("", RUNS)), None);
        assert_eq!(ends_by(&job("", ENDING)), Some(1_510_000));
        assert_eq!(ends_by(&job("run: 1h", ENDING)), Some(1_510_000));
    }

    #[test]
    fn a_member_whose_pod_has_ended_gives_nothing_back() {
        let job = job("run: 1h", "");
        let gone = MemberKey {
            job_uid: "0f8fad5b-d9cb-469f-a165-70867728950e".parse().unwrap(),
            attempt: 3,
            member: 0,
        };
        let each = Resources::default();
        let nodes = |gone| {
            let releases = releases(&job, &each, &gone);
            releases.into_iter().map(|r| r.node).collect::<Vec<_>>()
        };
        assert_eq!(nodes(BTreeSet::new()), ["a", "b"]);
        assert_eq!(nodes(BTreeSet::from([gone])), ["b"]);
    }
}
