//! Story 43: a node whose kubelet refuses every pod does not swallow a queue. After three refusals it is left alone, people see why, and
//! when it has healed it is offered again without anybody's doing.

use gridstake_crds::{
    closed_enum::ClosedEnum as _,
    compute_job::{Verdict, VerdictReason},
    condition,
    gpu_node::{GpuNodeCondition, GpuNodeStatus, OfferReason, QuarantineReason, WHOLE_NODE},
};
use gridstake_e2e::{
    fake_fleet::{FAKE, FakeFleet},
    prelude::*,
    wait::watch_until,
};

/// So many refusals take a node off the market.
const REFUSALS: usize = 3;

async fn until_offer(
    world: &World,
    node: &str,
    what: &str,
    reason: OfferReason,
) -> Result<GpuNodeStatus> {
    watch_until(&world.gpu_nodes(), node, what, |found| {
        let status = found?.status.as_ref()?;
        let offered = condition::find(&status.conditions, GpuNodeCondition::Offered)?;
        (offered.reason == reason.as_str()).then(|| status.clone())
    })
    .await
}

#[test]
fn a_node_that_refuses_every_pod_is_left_alone_after_three_and_offered_again_when_it_has_healed()
-> Result<()> {
    story(async |world, tenant| {
        let fleet = FakeFleet::join(world, 2).await?;
        let [broken, well] = &fleet.nodes[..] else {
            bail!("two nodes, not {:?}", fleet.nodes);
        };
        fleet.refuse(broken);
        let fake = |name: &str, gpus| -> Result<JobManifest> {
            job(name, gpus)
                .with(
                    "/spec/template/spec/tolerations",
                    &format!("[{{key: {FAKE}, operator: Exists}}]"),
                )?
                .with("/spec/retry", "{infrastructure: 5}")
        };
        // Each falls onto the broken node once, and then leaves it alone by itself for a while.
        let mut jobs = Vec::new();
        for number in 0..REFUSALS {
            let manifest = fake(&format!("refused-{number}"), 1)?.on_node(broken);
            jobs.push(tenant.submit(&manifest).await?);
        }
        let status =
            until_offer(world, broken, "is in quarantine", OfferReason::Quarantined).await?;
        let quarantine = status
            .quarantine
            .iter()
            .find(|q| q.subject == WHOLE_NODE)
            .context("the whole node is in quarantine")?;
        ensure!(
            quarantine.reason == QuarantineReason::AdmissionFailures
                && quarantine.failures as usize >= REFUSALS,
            "{quarantine:?}"
        );
        for job in &jobs {
            let status = job.status().await?;
            for attempt in &status.attempts {
                ensure!(
                    attempt.end_reason == AttemptEndReason::AdmissionFailed
                        && attempt.verdict == Some(Verdict::Host)
                        && attempt.verdict_reason == Some(VerdictReason::AdmissionRefused),
                    "{attempt:?}"
                );
            }
        }
        // Who could run there or elsewhere runs elsewhere.
        let (host, _) = world.one_and_the_others()?;
        let elsewhere = fake("elsewhere", host.gpus)?.with(
            "/spec/template/spec/nodeSelector",
            &format!("{{{FAKE}: 'true'}}"),
        )?;
        let elsewhere = tenant.submit(&elsewhere).await?;
        let node = first_node(&elsewhere.until_running().await?)?;
        ensure!(node == *well, "it runs on {node}");

        fleet.heal();
        until_offer(world, broken, "is offered again", OfferReason::Available).await?;
        for job in &jobs {
            let status = job.until_running().await?;
            ensure!(first_node(&status)? == *broken, "{status:?}");
        }
        jobs.push(elsewhere);
        for job in &jobs {
            job.delete().await?;
        }
        for job in &jobs {
            job.until_gone().await?;
        }
        Ok(())
    })
}
