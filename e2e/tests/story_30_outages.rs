//! Story 30: what runs the jobs is killed, or the API server hangs. Jobs go on in their attempt, and every millisecond of theirs is
//! billed once.

use std::time::Duration;

use gridstake_crds::usage_record::SealCause;
use gridstake_e2e::{api_server, node_power, prelude::*, usage, wait::watch_until};
use k8s_openapi::api::core::v1::Node;
use kube::Api;

/// Runs a job, lets `fault` happen to its node, waits until all is well, and ends the job. Fails unless it has kept its one
/// attempt, its evidence has no gap, all of its time is billed, and that is at least `shortest`.
async fn goes_on_through(
    world: &World,
    tenant: &Tenant,
    shortest: Duration,
    fault: impl AsyncFnOnce(&str) -> Result<()>,
) -> Result<()> {
    let job = tenant
        .submit(&job("goes-on", 1).runs_until_released())
        .await?;
    let placed = job.until_running().await?;
    let node = first_node(&placed)?;
    let uid = usage::uid(&job).await?;
    usage::until_seen(world, &uid, 1).await?;
    fault(&node).await?;
    until_well(world).await?;
    job.until_condition(
        ComputeJobCondition::Running,
        true,
        ComputeJobReason::Running,
    )
    .await?;
    job.release().await?;
    let status = job.until_complete().await?;
    ensure!(
        matches!(&status.attempts[..], [only] if only.nodes == [node]),
        "it has moved: {:?}",
        status.attempts
    );
    let records = usage::until(world, &uid, "it is billed", |records| {
        let all = records.iter().all(|r| usage::sealed(r).is_ok());
        all.then(|| records.to_vec())
    })
    .await?;
    let mut billed = 0;
    for record in &records {
        let evidence = record.status.as_ref().and_then(|s| s.evidence.as_ref());
        let gaps = evidence.map(|e| e.gaps.clone()).unwrap_or_default();
        ensure!(gaps.is_empty(), "the evidence has gaps: {gaps:?}");
        billed += usage::sealed(record)?.gpu_millis;
    }
    let (first, last) = (
        usage::sealed(&records[0])?,
        usage::sealed(&records[records.len() - 1])?,
    );
    ensure!(
        last.cause == SealCause::MemberEnded,
        "it is sealed for {:?}",
        last.cause
    );
    let lease = last.end_ms - first.start_ms;
    ensure!(
        billed == lease && u128::from(lease) >= shortest.as_millis(),
        "{billed} GPU-ms are billed of a lease of {lease} ms, which was {shortest:?} at least"
    );
    Ok(())
}

/// Waits until every node is ready and its agent reports.
async fn until_well(world: &World) -> Result<()> {
    let nodes: Api<Node> = Api::all(world.client.clone());
    for host in &world.hosts {
        watch_until(&nodes, &host.name, "the node is ready", |node| {
            let status = node?.status.as_ref()?;
            let conditions = status.conditions.as_ref()?;
            let ready = conditions.iter().find(|c| c.type_ == "Ready")?;
            (ready.status == "True").then_some(())
        })
        .await?;
        world.until_agent_reports(&host.name).await?;
    }
    Ok(())
}

#[test]
fn a_job_outlives_a_container_runtime_and_a_kubelet_that_are_killed() -> Result<()> {
    story(async |world, tenant| {
        goes_on_through(world, tenant, Duration::ZERO, async |node| {
            node_power::kill_service(node, "containerd").await?;
            until_well(world).await?;
            node_power::kill_service(node, "kubelet").await
        })
        .await
    })
}

#[test]
fn a_job_outlives_an_api_server_that_hangs_and_one_that_is_killed() -> Result<()> {
    story(async |world, tenant| {
        // Longer than a node may be silent, and than the operator may lead without renewing its Lease.
        let outage = Duration::from_secs(40);
        goes_on_through(world, tenant, outage, async |_| {
            api_server::hang_for(world, outage).await?;
            api_server::kill().await
        })
        .await
    })
}

#[test]
#[ignore = "long: the API server is away for 15 minutes"]
fn a_job_outlives_an_api_server_that_hangs_for_a_quarter_of_an_hour() -> Result<()> {
    story(async |world, tenant| {
        let outage = Duration::from_mins(15);
        goes_on_through(world, tenant, outage, async |_| {
            api_server::hang_for(world, outage).await
        })
        .await
    })
}
