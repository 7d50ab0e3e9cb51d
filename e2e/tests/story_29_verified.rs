//! Story 29: a result that a tenant wants checked is computed again on nodes of other owners, and compared.

use std::collections::BTreeMap;

use alloy::primitives::{B256, U256, keccak256};
use gridstake_crds::{
    compute_job::{ComputeJobStatus, RunOutcome, SampleDraw, VerificationState},
    condition,
    names::check_of,
};
use gridstake_e2e::prelude::*;
use kube::{Api, ResourceExt as _, api::ListParams};

/// Leaves a digest of the program's output where the result is looked for.
const DIGEST: &str = "sleep 2; echo 42 | sha256sum | cut -c1-64 > /dev/termination-log";

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

/// So many jobs are drawn for at once, and so often at most: that all of them are hit, or none, is as good as impossible.
const AT_ONCE: usize = 4;
const ROUNDS: usize = 8;

#[test]
fn of_sampled_jobs_those_that_the_draw_hits_are_computed_again_and_the_others_are_not() -> Result<()>
{
    story(async |world, tenant| {
        let before = reputations(world).await?;
        let (mut hit, mut spared) = (Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            let mut jobs = Vec::new();
            for number in 0..AT_ONCE {
                let sampled = job(&format!("sampled-{round}-{number}"), 1)
                    .script(DIGEST)
                    .with(
                        "/spec/verification",
                        "{mode: Sampled, samplePermille: 1000}",
                    )?;
                jobs.push(tenant.submit(&sampled).await?);
            }
            for job in jobs {
                let drawn = job
                    .until("it is drawn for", |status| {
                        status.verification.as_ref()?.sample.clone()
                    })
                    .await?;
                if drawn.drawn < drawn.share_permille {
                    job.until_condition(
                        ComputeJobCondition::Verified,
                        true,
                        ComputeJobReason::ResultsAgree,
                    )
                    .await?;
                    hit.push(job);
                } else {
                    spared.push(job);
                }
            }
            if !hit.is_empty() && !spared.is_empty() {
                break;
            }
        }
        ensure!(
            !hit.is_empty() && !spared.is_empty(),
            "{} were hit, {} were not",
            hit.len(),
            spared.len()
        );
        let after = reputations(world).await?;
        for job in hit.iter().chain(&spared) {
            assert_the_draw_can_be_made_again(job, &before, &after).await?;
        }
        for job in &hit {
            let found = job.status().await?.verification.context("its check")?;
            let nodes: std::collections::BTreeSet<_> =
                found.runs.iter().map(|run| &run.node).collect();
            ensure!(
                found.state == VerificationState::Agreed
                    && found.runs.len() == 2
                    && nodes.len() == 2,
                "{found:?}"
            );
            tenant.job(&check_of(&job.name, 1)).until_complete().await?;
        }
        // What was drawn later has been checked since: had these been hit, their checks would be there.
        for job in &spared {
            let status = job.status().await?;
            let found = status.verification.context("its check")?;
            ensure!(
                found.state == VerificationState::NotSampled && found.runs.is_empty(),
                "{found:?}"
            );
            let verified = condition::find(&status.conditions, ComputeJobCondition::Verified);
            ensure!(
                verified.is_some_and(|c| c.status == "Unknown" && c.reason == "NotSampled"),
                "{verified:?}"
            );
            let check = check_of(&job.name, 1);
            let jobs: Api<ComputeJob> = tenant.api();
            ensure!(jobs.get_opt(&check).await?.is_none(), "{check} exists");
        }
        Ok(())
    })
}

/// The reputation of each node, in thousandths; 0 where it has none.
async fn reputations(world: &World) -> Result<BTreeMap<String, u32>> {
    let nodes = world.gpu_nodes().list(&ListParams::default()).await?;
    let reputation = |node: &GpuNode| node.status.as_ref()?.reputation;
    Ok(nodes
        .iter()
        .map(|node| (node.name_any(), reputation(node).unwrap_or(0)))
        .collect())
}

/// Fails unless share and number are what docs/results.md says that they are, by what the job says. The reputation of its node was
/// between what it was `before` and `after`.
async fn assert_the_draw_can_be_made_again(
    job: &Job,
    before: &BTreeMap<String, u32>,
    after: &BTreeMap<String, u32>,
) -> Result<()> {
    let found = job.get().await?;
    let uid = found.uid().context("its uid")?;
    let status: ComputeJobStatus = found.status.context("its status")?;
    let sample = status.verification.and_then(|found| found.sample);
    let SampleDraw {
        share_permille,
        drawn,
        nonce,
    } = sample.context("its draw")?;
    let placement = status.placement.context("its place")?;
    let node = &placement.nodes[0].node;
    let share = |of: &BTreeMap<String, u32>| {
        let reputation = of.get(node).copied().unwrap_or(0);
        (1000 - reputation).max(200)
    };
    let (most, least) = (
        share(before).max(share(after)),
        share(before).min(share(after)),
    );
    ensure!(
        (least..=most).contains(&share_permille),
        "{share_permille} of a thousand, and by the reputation of {node} {least} to {most}"
    );
    let nonce: B256 = nonce.parse()?;
    let text = [
        b"gridstake-sample/1".as_slice(),
        nonce.as_slice(),
        uid.as_bytes(),
        placement.decision.hash.as_bytes(),
    ]
    .concat();
    let again = U256::from_be_bytes(keccak256(text).0) % U256::from(1000);
    ensure!(
        again == U256::from(drawn),
        "{drawn} was drawn, and {again} is"
    );
    Ok(())
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
