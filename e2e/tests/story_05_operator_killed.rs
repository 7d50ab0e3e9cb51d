//! Story 5: the operator is killed while jobs run and while others are being placed. Running jobs go on, the others are
//! placed once, and no GPU is given twice.

use gridstake_e2e::{
    admission_hold::{Hold, Step},
    allocation,
    operator_process::{kill, leader},
    prelude::*,
};
use kube::ResourceExt;

#[test]
fn jobs_that_run_go_on_and_jobs_that_are_being_placed_are_placed_once_when_the_operator_is_killed()
-> Result<()> {
    story(async |world, tenant| {
        let running = tenant
            .submit(&job("running", 2).runs_until_released())
            .await?;
        let running_gang = tenant
            .submit(&job("running-gang", 1).members(2).runs_until_released())
            .await?;
        running.until_running().await?;
        running_gang.until_running().await?;

        // One has its placement written and no pod yet, the other has its pods and their gates not lifted yet.
        let no_pods = Hold::begin(world, tenant, Step::CreatePodsOf("without-pods")).await?;
        let no_lift = Hold::begin(world, tenant, Step::LiftGatesOf("gated")).await?;
        let without_pods = tenant
            .submit(&job("without-pods", 3).runs_until_released())
            .await?;
        let gated = tenant
            .submit(&job("gated", 2).members(2).runs_until_released())
            .await?;
        let decided = [
            without_pods.until_placed(1).await?,
            gated.until_placed(1).await?,
        ];
        gated.until_it_has_pods(2).await?;

        kill(world, &leader(world).await?).await?;
        allocation::assert_no_gpu_is_given_twice(world).await?;
        ensure!(
            without_pods.pods().await?.is_empty(),
            "nobody but the operator makes pods"
        );
        no_pods.end().await?;
        no_lift.end().await?;

        for (job, before) in [(&without_pods, &decided[0]), (&gated, &decided[1])] {
            let now = job
                .until_running()
                .await?
                .placement
                .context("status.placement")?;
            ensure!(
                &now == before,
                "{} was placed again: {before:?} became {now:?}",
                job.name
            );
        }
        allocation::assert_no_gpu_is_given_twice(world).await?;
        for job in [&running, &running_gang, &without_pods, &gated] {
            job.release().await?;
            let status = job.until_complete().await?;
            ensure!(
                status.attempts.len() == 1,
                "{} needed more than one attempt: {:?}",
                job.name,
                status.attempts
            );
        }
        for (pod, times) in tenant.pods.incarnations() {
            ensure!(times == 1, "pod {pod} was created {times} times");
        }
        Ok(())
    })
}

#[test]
fn a_job_that_ends_while_every_operator_is_dead_is_recorded_when_one_is_back() -> Result<()> {
    story(async |world, tenant| {
        let ends = tenant.submit(&job("ends", 1).runs_until_released()).await?;
        ends.until_running().await?;
        let replicas = world.pods_of("operator").await?;
        let killed =
            futures::future::try_join_all(replicas.iter().map(|replica| kill(world, replica)));
        let (killed, released) = futures::join!(killed, ends.release());
        killed?;
        released?;
        let status = ends.until_complete().await?;
        ensure!(
            status.attempts.len() == 1
                && status.attempts[0].started_at.is_some()
                && status.usage.is_some(),
            "{:?}",
            status.attempts
        );
        let pods = tenant.pods.incarnations();
        ensure!(
            pods.len() == 1 && pods.values().all(|times| *times == 1),
            "pods: {pods:?}"
        );
        let names: Vec<_> = world
            .pods_of("operator")
            .await?
            .iter()
            .map(ResourceExt::name_any)
            .collect();
        ensure!(!names.is_empty(), "no operator is left");
        Ok(())
    })
}
