//! Story 38: a burst of jobs comes while the operator dies, and while two of its replicas believe that they lead. Every job runs once,
//! and no GPU is given twice.

use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _, future, stream};
use gridstake_e2e::{
    allocation,
    operator_process::{kill, leader, start_unelected},
    prelude::*,
};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt as _, api::LogParams};

/// More than twice as many as there are GPUs.
const BURST: usize = 40;
/// So many are submitted at once.
const AT_ONCE: usize = 16;
/// How often it is looked who holds GPUs.
const EVERY: Duration = Duration::from_millis(200);

async fn burst(tenant: &Tenant) -> Result<Vec<Job>> {
    stream::iter(0..BURST)
        .map(|number| async move {
            // A place that another leader has given away is waited for, or given up; on a slow machine the whole burst is over by then,
            // so that no pod gets its place at the very moment at which it is given up.
            let manifest = job(&format!("burst-{number}"), 1)
                .works_for(1)
                .with("/spec/timeouts", "{start: 2m}")?;
            tenant.submit(&manifest).await
        })
        .buffered(AT_ONCE)
        .try_collect()
        .await
}

/// Waits until all have completed, and looks meanwhile that no pods hold more GPUs than there are.
async fn complete(world: &World, jobs: &[Job]) -> Result<()> {
    let ends = future::try_join_all(jobs.iter().map(Job::until_complete));
    let over_allocation = async {
        loop {
            let held = allocation::held_by_pods(world).await?;
            for host in &world.hosts {
                let held = held.get(&host.name).copied().unwrap_or(0);
                ensure!(
                    held <= host.gpus,
                    "pods hold {held} GPUs of {}, and it has {}",
                    host.name,
                    host.gpus
                );
            }
            tokio::time::sleep(EVERY).await;
        }
    };
    tokio::select! {
        ends = ends => ends.map(drop),
        found = over_allocation => found,
    }
}

/// Every job has run once, under a name that no other pod had; what did not run had lost its place.
async fn each_ran_once(tenant: &Tenant, jobs: &[Job]) -> Result<()> {
    for job in jobs {
        let ran = tenant.pods.of_job(&job.name);
        let ran = ran.iter().filter(|pod| pod.ran).count();
        let attempts = job.status().await?.attempts;
        let well = attempts.iter().all(|attempt| {
            matches!(
                attempt.end_reason,
                AttemptEndReason::Succeeded | AttemptEndReason::PlacementLost
            )
        });
        ensure!(
            ran == 1 && well,
            "{} ran {ran} times: {attempts:?}",
            job.name
        );
    }
    for (pod, times) in tenant.pods.incarnations() {
        ensure!(times == 1, "pod {pod} was created {times} times");
    }
    Ok(())
}

/// How many jobs of the tenant `replica` has placed, by its own word.
async fn placed_by(world: &World, tenant: &Tenant, replica: &Pod) -> Result<usize> {
    let pods: Api<Pod> = Api::namespaced(world.client.clone(), &world.namespace);
    let log = pods
        .logs(&replica.name_any(), &LogParams::default())
        .await
        .context("read the replica's log")?;
    let told = |line: &&str| line.contains("\"placed\"") && line.contains(&tenant.namespace);
    Ok(log.lines().filter(told).count())
}

#[test]
fn an_operator_that_is_killed_in_the_middle_of_a_burst_loses_and_repeats_nothing() -> Result<()> {
    story(async |world, tenant| {
        let jobs = burst(tenant).await?;
        let leads = leader(world).await?;
        look_until("some of the burst are placed", || async {
            let placed = placed_by(world, tenant, &leads).await?;
            Ok(Look::whether(placed > BURST / 4, || format!("{placed}")))
        })
        .await?;
        let waiting = future::try_join_all(jobs.iter().map(Job::status)).await?;
        let waiting = waiting.iter().filter(|s| s.placement.is_none()).count();
        kill(world, &leads).await?;
        ensure!(
            waiting > 0,
            "all jobs were placed before the operator was killed"
        );
        complete(world, &jobs).await?;
        each_ran_once(tenant, &jobs).await
    })
}

#[test]
fn two_replicas_that_believe_to_lead_give_no_gpu_twice_and_run_every_job_once() -> Result<()> {
    story(async |world, tenant| {
        let elected = leader(world).await?;
        let unelected = start_unelected(world).await?;
        let jobs = burst(tenant).await?;
        complete(world, &jobs).await?;
        each_ran_once(tenant, &jobs).await?;
        for replica in [&elected, &unelected] {
            ensure!(
                placed_by(world, tenant, replica).await? > 0,
                "{} has placed nothing: there were no two leaders",
                replica.name_any()
            );
        }
        Ok(())
    })
}
