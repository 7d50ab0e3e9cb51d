//! Story 36: jobs make way for one of higher priority: only as many as it needs, with their own grace, and they go on afterwards
//! without having lost a retry.

use gridstake_e2e::{prelude::*, priority_class::priority_class};
use k8s_openapi::api::core::v1::Event;
use kube::{Api, api::ListParams};

/// What a job does that is told to stop: it says so, and needs a second of its grace.
const UNTIL_TOLD: &str = "trap 'echo told > /dev/termination-log; sleep 1; exit 143' TERM; \
    until [ -e /tmp/released ]; do sleep 0.1; done";

async fn notes(tenant: &Tenant, reason: &str) -> Result<Vec<String>> {
    let events: Api<Event> = tenant.api();
    let of = ListParams::default().fields(&format!("reason={reason}"));
    let found = events.list(&of).await?;
    Ok(found
        .into_iter()
        .filter_map(|event| event.message)
        .collect())
}

#[test]
fn a_job_of_higher_priority_gets_the_gpus_of_one_that_goes_on_afterwards() -> Result<()> {
    story(async |world, tenant| {
        let preempts = priority_class(world, tenant, "PreemptLowerPriority").await?;
        let never = priority_class(world, tenant, "Never").await?;
        let mut low = Vec::new();
        for (number, host) in world.hosts.iter().enumerate() {
            let manifest = job(&format!("low-{number}"), host.gpus)
                .script(UNTIL_TOLD)
                .on_node(&host.name)
                .with("/spec/termination", "{graceSeconds: 5}")?
                .with("/spec/retry", "{infrastructure: 0, user: 0}")?;
            low.push(tenant.submit(&manifest).await?);
        }
        for job in &low {
            job.until_running().await?;
        }

        // Who may not take, waits.
        let modest = job("modest", 1)
            .works_for(0)
            .with("/spec/priorityClassName", &never)?;
        let modest = tenant.submit(&modest).await?;
        modest.until_it_waits().await?;
        let high = job("high", 1)
            .runs_until_released()
            .with("/spec/priorityClassName", &preempts)?;
        let high = tenant.submit(&high).await?;
        high.until_running().await?;

        let mut stopped = Vec::new();
        for job in &low {
            let status = job.status().await?;
            if let Some(first) = status.attempts.first() {
                ensure!(
                    first.end_reason == AttemptEndReason::Preempted && first.suspects.is_empty(),
                    "{first:?}"
                );
                let failures = status.failures.unwrap_or_default();
                ensure!(
                    (failures.infrastructure, failures.user, failures.placement) == (0, 0, 0),
                    "it cost a retry: {failures:?}"
                );
                stopped.push(job);
            }
        }
        let [stopped] = stopped[..] else {
            bail!("{} jobs made way, and one is enough", stopped.len());
        };
        let pods = tenant.pods.of_job(&stopped.name);
        let end = pods.first().and_then(|pod| pod.end.as_ref());
        let end = end.context("the end of its program")?;
        ensure!(
            end.exit_code == 143 && end.message.as_deref().map(str::trim) == Some("told"),
            "it was not told: {end:?}"
        );

        // Each is told of the other.
        let told = look_until("both are told of each other", || async {
            let (victim, preemptor) = (
                notes(tenant, "Preempted").await?,
                notes(tenant, "Preempting").await?,
            );
            let high = format!("{}/high", tenant.namespace);
            let low = format!("{}/{}", tenant.namespace, stopped.name);
            let both = victim.iter().any(|note| note.contains(&high))
                && preemptor.iter().any(|note| note.contains(&low));
            Ok(if both {
                Look::Yes(())
            } else {
                Look::NotYet(format!("{victim:?} {preemptor:?}"))
            })
        });
        told.await?;

        high.release().await?;
        high.until_complete().await?;
        stopped.until_placed(2).await?;
        stopped.until_running().await?;
        for job in &low {
            job.release().await?;
            job.until_complete().await?;
        }
        modest.until_complete().await.map(drop)
    })
}
