//! Story 29: a result that a tenant wants checked is computed again on nodes of other owners, and compared.

use gridstake_crds::{
    compute_job::{RunOutcome, VerificationState},
    condition,
    names::check_of,
};
use gridstake_e2e::prelude::*;
use kube::ResourceExt as _;

/// Leaves a digest of the program's output where the result is looked for.
const DIGEST: &str = "echo 42 | sha256sum | cut -c1-64 > /dev/termination-log";

/// A job that is checked by one other run, each of which takes all the GPUs of a node, so that both need one.
fn checked(name: &str, script: &str) -> Result<JobManifest> {
    job(name, 1)
        .script(script)
        .with("/spec/verification", "{mode: Redundant, replicas: 2}")?
        .with("/spec/timeouts", "{queue: 15s}")
}

#[test]
fn a_result_that_two_owners_compute_alike_is_verified() -> Result<()> {
    story(async |world, tenant| {
        let job = tenant.submit(&checked("twice", DIGEST)?).await?;
        job.until_condition(
            ComputeJobCondition::Verified,
            true,
            ComputeJobReason::ResultsAgree,
        )
        .await?;
        let status = job.until_complete().await?;
        let found = status.verification.context("how the check ended")?;
        ensure!(found.state == VerificationState::Agreed, "{found:?}");
        let nodes: std::collections::BTreeSet<_> = found
            .runs
            .iter()
            .filter_map(|run| run.node.clone())
            .collect();
        ensure!(
            found.runs.len() == 2 && nodes.len() == 2,
            "each run is on a node of its own: {found:?}"
        );
        ensure!(
            found.digest == status.result.map(|result| result.digest.trim().to_owned()),
            "{:?}",
            found.digest
        );
        // The check is a job like any other: its use is recorded, and it goes when the job goes.
        let check = Job::new(
            world.client.clone(),
            &tenant.namespace,
            &check_of("twice", 1),
        );
        let used = check.until_metered().await?.usage.context("its use")?;
        ensure!(used.gpu_millis > 0, "{used:?}");
        job.delete().await?;
        job.until_gone().await?;
        check.until_gone().await?;
        Ok(())
    })
}

#[test]
fn results_that_differ_are_told_and_without_a_third_owner_nobody_is_blamed() -> Result<()> {
    story(async |world, tenant| {
        // Each pod has another name.
        let job = tenant
            .submit(&checked("differs", "hostname > /dev/termination-log")?)
            .await?;
        job.until_condition(
            ComputeJobCondition::Verified,
            false,
            ComputeJobReason::ResultsDisagree,
        )
        .await?;
        let status = job.status().await?;
        let found = status.verification.context("how the check ended")?;
        let counted = found
            .runs
            .iter()
            .filter(|run| run.outcome == RunOutcome::Counted);
        ensure!(
            counted.count() == 2 && found.digest.is_none(),
            "two digests, none of which has a majority: {found:?}"
        );
        let ready = condition::find(&status.conditions, ComputeJobCondition::Ready);
        ensure!(
            ready.is_some_and(|c| c.status == "False" && c.reason == "ResultsDisagree"),
            "{ready:?}"
        );
        let uid = job.get().await?.uid().context("its uid")?;
        let incidents = kube::Api::<gridstake_crds::Incident>::all(world.client.clone());
        let name = gridstake_crds::names::invalid_result(&uid);
        ensure!(incidents.get_opt(&name).await?.is_none(), "{name} exists");
        Ok(())
    })
}

#[test]
fn a_job_without_a_digest_says_where_to_write_one() -> Result<()> {
    story(async |_, tenant| {
        let job = tenant.submit(&checked("silent", "exit 0")?).await?;
        let message = job
            .until_condition(
                ComputeJobCondition::Verified,
                false,
                ComputeJobReason::NoDigest,
            )
            .await?;
        ensure!(message.contains("/dev/termination-log"), "{message}");
        Ok(())
    })
}
