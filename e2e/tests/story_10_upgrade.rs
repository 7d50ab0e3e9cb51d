//! Story 10: helm upgrade with changed values while jobs run disturbs nobody.

use gridstake_e2e::{container::identities, prelude::*, release};
use kube::ResourceExt;

#[test]
fn an_upgrade_with_changed_values_disturbs_no_running_job() -> Result<()> {
    story(async |world, tenant| {
        let single = tenant
            .submit(&job("single", 2).runs_until_released())
            .await?;
        let gang = tenant
            .submit(&job("gang", 1).members(2).runs_until_released())
            .await?;
        single.until_running().await?;
        gang.until_running().await?;
        let jobs = [&single, &gang];
        let mut before = Vec::new();
        for job in jobs {
            before.push(identities(&job.pods().await?));
        }
        let parts_before: Vec<_> = [
            world.pods_of("operator").await?,
            world.pods_of("device-agent").await?,
        ]
        .concat()
        .iter()
        .map(ResourceExt::name_any)
        .collect();

        release::upgrade(
            world,
            &[
                "logLevel=debug",
                "operator.resources.limits.memory=192Mi",
                "deviceAgent.sampleInterval=500ms",
            ],
        )
        .await?;

        let parts_after: Vec<_> = [
            world.pods_of("operator").await?,
            world.pods_of("device-agent").await?,
        ]
        .concat()
        .iter()
        .map(ResourceExt::name_any)
        .collect();
        ensure!(
            !parts_after.iter().any(|p| parts_before.contains(p)),
            "the upgrade left parts as they were: {parts_after:?}"
        );
        // The new parts work: a job that comes now is placed and completes.
        tenant
            .submit(&job("later", 1))
            .await?
            .until_complete()
            .await?;
        for (job, before) in jobs.into_iter().zip(before) {
            let after = identities(&job.pods().await?);
            ensure!(
                after == before,
                "pods of {} were disturbed: {before:?} became {after:?}",
                job.name
            );
            job.release().await?;
            let status = job.until_complete().await?;
            ensure!(
                status.attempts.len() == 1,
                "{} needed more than one attempt: {:?}",
                job.name,
                status.attempts
            );
        }
        Ok(())
    })
}
