//! Story 2: a gang starts all its members or none.

use gridstake_e2e::{allocation, prelude::*};

#[test]
fn both_members_of_a_gang_run_at_the_same_time() -> Result<()> {
    story(async |world, tenant| {
        let gang = tenant
            .submit(
                &job("gang", world.more_than_half_a_node())
                    .members(2)
                    .runs_until_released(),
            )
            .await?;
        let status = gang.until_running().await?;
        let mut nodes: Vec<_> = status
            .placement
            .context("status.placement")?
            .nodes
            .into_iter()
            .map(|n| n.node)
            .collect();
        nodes.dedup();
        ensure!(
            nodes.len() == 2,
            "members that fill more than half a node are on two, not on {nodes:?}"
        );
        let mut devices = gang.devices_seen_by("gang-1-0").await?;
        devices.extend(gang.devices_seen_by("gang-1-1").await?);
        devices.sort();
        devices.dedup();
        ensure!(
            devices.len() == 2 * world.more_than_half_a_node() as usize,
            "the members share no device: {devices:?}"
        );
        gang.release().await?;
        let status = gang.until_complete().await?;
        ensure!(status.attempts.len() == 1, "{:?}", status.attempts);
        Ok(())
    })
}

#[test]
fn a_gang_with_one_member_too_many_never_has_a_pod_and_says_why() -> Result<()> {
    story(async |world, tenant| {
        let members = u32::try_from(world.hosts.len())? + 1;
        let gang = tenant
            .submit(&job("too-many", world.more_than_half_a_node()).members(members))
            .await?;
        let message = gang
            .until_condition(
                ComputeJobCondition::Admitted,
                false,
                ComputeJobReason::Unsatisfiable,
            )
            .await?;
        ensure!(
            message.contains(&format!("room for {} of {members} members", members - 1)),
            "it says {message:?}"
        );
        // Jobs that come later and fit are placed all the same; by then the gang has had its turn, too.
        tenant
            .submit(&job("small", 1))
            .await?
            .until_complete()
            .await?;
        ensure!(
            gang.status().await?.placement.is_none(),
            "the gang was placed"
        );
        ensure!(
            tenant.pods.of_job("too-many").is_empty(),
            "there was a pod of it: {:?}",
            tenant.pods.incarnations()
        );
        Ok(())
    })
}

#[test]
fn a_gang_whose_last_member_does_not_fit_now_waits_as_a_whole_and_starts_as_a_whole() -> Result<()>
{
    story(async |world, tenant| {
        let (first, _) = world.one_and_the_others()?;
        let blocker = tenant
            .submit(
                &job("blocker", first.gpus)
                    .on_node(&first.name)
                    .runs_until_released(),
            )
            .await?;
        blocker.until_running().await?;
        let members = u32::try_from(world.hosts.len())?;
        let gang = tenant
            .submit(
                &job("gang", world.more_than_half_a_node())
                    .members(members)
                    .runs_until_released(),
            )
            .await?;
        let message = gang.until_it_waits().await?;
        ensure!(
            message.contains("GangDoesNotFit") || message.contains("InsufficientGpus"),
            "it says {message:?}"
        );
        ensure!(
            tenant.pods.of_job("gang").is_empty(),
            "there was a pod of it while it waited"
        );
        blocker.release().await?;
        gang.until_running().await?;
        allocation::assert_no_gpu_is_given_twice(world).await?;
        let ran = tenant.pods.of_job("gang");
        ensure!(
            ran.len() == world.hosts.len(),
            "it has one pod per member: {:?}",
            tenant.pods.incarnations()
        );
        gang.release().await?;
        gang.until_complete().await?;
        Ok(())
    })
}
