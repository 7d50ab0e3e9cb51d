//! Story 32: many nodes are gone at once. Up to half of them are lost, each by itself and nobody's fault; if it is more, the
//! network or the control plane is taken for the cause, and every job is left where it is.

use std::time::Duration;

use gridstake_crds::{
    compute_job::{Verdict, VerdictReason},
    condition,
};
use gridstake_e2e::{
    fake_fleet::{FAKE, FakeFleet},
    node_power,
    prelude::*,
};

/// With the world's own two nodes, six of which are not more than half, and seven are.
const FAKES: usize = 11;
const HALF: usize = 6;
const MORE_THAN_HALF: usize = 7;
/// Jobs, each of which has a node for itself; the first of them are on nodes that will be gone.
const JOBS: usize = 5;
const STRICKEN: usize = 3;

/// A fleet on which jobs run, and the nodes that are to be gone: those of the first jobs, and idle ones.
async fn fleet_with_jobs(
    world: &World,
    tenant: &Tenant,
    gone: usize,
) -> Result<(FakeFleet, Vec<Job>, Vec<String>)> {
    let (host, _) = world.one_and_the_others()?;
    let fleet = FakeFleet::join(world, FAKES).await?;
    let (mut jobs, mut nodes) = (Vec::new(), Vec::new());
    for number in 0..JOBS {
        let manifest = job(&format!("job-{number}"), host.gpus)
            .with(
                "/spec/template/spec/nodeSelector",
                &format!("{{{FAKE}: 'true'}}"),
            )?
            .with(
                "/spec/template/spec/tolerations",
                &format!("[{{key: {FAKE}, operator: Exists}}]"),
            )?;
        let job = tenant.submit(&manifest).await?;
        let status = job.until_running().await?;
        nodes.push(first_node(&status)?);
        jobs.push(job);
    }
    let idle = fleet.nodes.iter().filter(|node| !nodes.contains(node));
    let stricken = nodes.iter().take(STRICKEN);
    let silent: Vec<_> = stricken.chain(idle).take(gone).cloned().collect();
    ensure!(silent.len() == gone, "{silent:?}");
    Ok((fleet, jobs, silent))
}

/// Ends the jobs while there is somebody who plays their kubelets.
async fn end(fleet: &FakeFleet, jobs: &[Job]) -> Result<()> {
    fleet.wake();
    for job in jobs {
        job.delete().await?;
    }
    for job in jobs {
        job.until_gone().await?;
    }
    Ok(())
}

#[test]
#[ignore = "long: nodes are silent until they are given up"]
fn half_of_a_fleet_that_is_gone_at_once_is_lost_and_its_jobs_go_on_with_the_other_half()
-> Result<()> {
    story(async |world, tenant| {
        let (fleet, jobs, silent) = fleet_with_jobs(world, tenant, HALF).await?;
        fleet.silence(&silent);
        for job in &jobs[..STRICKEN] {
            let status = job
                .until("it runs elsewhere", |s| {
                    let placement = s.active_placement()?;
                    let is_well = placement.nodes.iter().all(|n| !silent.contains(&n.node));
                    let runs = condition::is_true(&s.conditions, ComputeJobCondition::Running);
                    (placement.attempt == 2 && is_well && runs).then(|| s.clone())
                })
                .await?;
            let [first] = &status.attempts[..] else {
                bail!("one attempt has ended, not {:?}", status.attempts);
            };
            ensure!(
                first.end_reason == AttemptEndReason::NodeLost
                    && first.verdict == Some(Verdict::Infrastructure)
                    && first.verdict_reason == Some(VerdictReason::LostTogether),
                "{first:?}"
            );
        }
        for job in &jobs[STRICKEN..] {
            let status = job.status().await?;
            ensure!(status.attempts.is_empty(), "{:?}", status.attempts);
        }
        end(&fleet, &jobs).await
    })
}

#[test]
#[ignore = "long: nodes are silent for longer than it takes to give them up"]
fn when_more_than_half_of_a_fleet_is_gone_at_once_every_job_keeps_its_place() -> Result<()> {
    story(async |world, tenant| {
        let (fleet, jobs, silent) = fleet_with_jobs(world, tenant, MORE_THAN_HALF).await?;
        fleet.silence(&silent);
        for job in &jobs[..STRICKEN] {
            job.until_condition(
                ComputeJobCondition::Running,
                true,
                ComputeJobReason::Amnesty,
            )
            .await?;
        }
        // Longer than it takes to give up a node.
        let nodes: Vec<&str> = silent.iter().map(String::as_str).collect();
        node_power::until_silent_for(world, &nodes, Duration::from_secs(40)).await?;
        fleet.wake();
        for job in &jobs {
            job.until_condition(
                ComputeJobCondition::Running,
                true,
                ComputeJobReason::Running,
            )
            .await?;
            let status = job.status().await?;
            ensure!(status.attempts.is_empty(), "{:?}", status.attempts);
        }
        end(&fleet, &jobs).await
    })
}
