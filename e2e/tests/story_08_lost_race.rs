//! Story 8: a foreign pod takes the GPUs between decision and binding. The job is not failed, it is placed again.

use gridstake_e2e::{
    admission_hold::{Hold, Step},
    prelude::*,
};

#[test]
fn a_job_whose_place_a_foreign_pod_takes_before_binding_is_placed_again_elsewhere() -> Result<()> {
    story(async |world, tenant| {
        let (host, _) = world.one_and_the_others()?;
        let neighbour = Tenant::settle(world, "neighbour").await?;
        let told = async {
            let hold = Hold::begin(world, tenant, Step::Bind).await?;
            let robbed = tenant
                .submit(&job("robbed", host.gpus).with("/spec/timeouts", "{start: 10s}")?)
                .await?;
            let lost = robbed.until_placed(1).await?.nodes[0].node.clone();
            robbed.until_it_has_pods(1).await?;
            neighbour.occupy("foreign", &lost, host.gpus).await?;
            hold.end().await?;

            let status = robbed.until_complete().await?;
            let first = status.attempts.first().context("status.attempts")?;
            ensure!(
                first.end_reason == AttemptEndReason::PlacementLost
                    && first.nodes == [lost.clone()],
                "attempt 1 ended so: {first:?}"
            );
            ensure!(
                first.gpu_millis == 0,
                "nothing is charged for it: {first:?}"
            );
            let failures = status.failures.context("status.failures")?;
            ensure!(
                (failures.placement, failures.infrastructure, failures.user) == (1, 0, 0),
                "{failures:?}"
            );
            let second = status.attempts.last().context("status.attempts")?;
            ensure!(
                second.attempt == 2 && second.end_reason == AttemptEndReason::Succeeded,
                "{second:?}"
            );
            ensure!(
                second.nodes != [lost.clone()],
                "it ran on {lost}, which the foreign pod holds"
            );
            Ok(())
        }
        .await;
        neighbour.leave(world).await?;
        told
    })
}

#[test]
fn a_gang_that_loses_one_place_is_rolled_back_as_a_whole_and_waits() -> Result<()> {
    story(async |world, tenant| {
        let (host, _) = world.one_and_the_others()?;
        let neighbour = Tenant::settle(world, "neighbour").await?;
        let told = async {
            let hold = Hold::begin(world, tenant, Step::Bind).await?;
            let members = u32::try_from(world.hosts.len())?;
            let manifest = job("gang", world.more_than_half_a_node())
                .members(members)
                .runs_until_released()
                .with("/spec/timeouts", "{start: 10s}")?;
            let gang = tenant.submit(&manifest).await?;
            gang.until_placed(1).await?;
            gang.until_it_has_pods(world.hosts.len()).await?;
            neighbour.occupy("foreign", &host.name, host.gpus).await?;
            hold.end().await?;
            let ended = gang
                .until("attempt 1 has ended", |s| s.attempts.first().cloned())
                .await?;
            ensure!(
                ended.end_reason == AttemptEndReason::PlacementLost,
                "{ended:?}"
            );
            // The members that had got their places give them back.
            gang.until_it_has_pods(0).await?;
            gang.until_it_waits_or_backs_off().await?;
            let status = gang.status().await?;
            let failures = status.failures.context("status.failures")?;
            ensure!(
                (failures.infrastructure, failures.user) == (0, 0),
                "{failures:?}"
            );
            ensure!(
                status.end_reason.is_none(),
                "it has ended: {:?}",
                status.end_reason
            );
            Ok(())
        }
        .await;
        neighbour.leave(world).await?;
        told
    })
}
