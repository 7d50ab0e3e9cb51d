//! Story 43: a node whose kubelet refuses every pod does not swallow a queue. After three refusals it is left alone, people see why, and
//! when it has healed it is offered again without anybody's doing. The same for a single GPU on which jobs fail again and again.

use gridstake_crds::{
    closed_enum::ClosedEnum as _,
    compute_job::{Verdict, VerdictReason},
    condition,
    gpu_node::{GpuNodeCondition, GpuNodeStatus, OfferReason, QuarantineReason, WHOLE_NODE},
};
use gridstake_e2e::{
    fake_fleet::{FAKE, FakeFleet},
    incident,
    prelude::*,
    simulated_gpus::Simulator,
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

/// Waits until the node shows so many usable GPUs.
async fn until_capacity(world: &World, node: &str, gpus: u32) -> Result<()> {
    let what = format!("{gpus} GPUs are usable");
    watch_until(&world.gpu_nodes(), node, &what, |node| {
        (node?.status.as_ref()?.capacity == Some(gpus)).then_some(())
    })
    .await
}

#[test]
fn a_gpu_on_which_two_jobs_failed_is_given_to_nobody_until_it_was_clean_for_its_time() -> Result<()>
{
    story(async |world, tenant| {
        let (host, _) = world.one_and_the_others()?;
        incident::begin_anew(world, &host.name).await?;
        let simulator = Simulator::on(world, &host.name).await?;
        // All but one, so that the same GPU is given to one job after the other.
        let rest = job("rest", host.gpus - 1).on_node(&host.name);
        let rest = tenant.submit(&rest.runs_until_released()).await?;
        rest.until_running().await?;
        let (_, first) = simulator.fail_a_job(tenant, "first").await?;
        simulator
            .heal_gpu(simulator.index_of(&first).await?)
            .await?;
        until_capacity(world, &host.name, host.gpus).await?;
        let (_, gpu) = simulator.fail_a_job(tenant, "second").await?;
        ensure!(gpu == first, "{first} was to fail, and {gpu} did");

        // The GPU alone, once its device plugin has withdrawn it: the others are on offer, and what runs on them goes on.
        let (alone, quarantined) = watch_until(
            &world.gpu_nodes(),
            &host.name,
            "the GPU is left alone and the others are on offer",
            |node| {
                let status = node?.status.as_ref()?;
                let [alone] = &status.quarantine[..] else {
                    return None;
                };
                let is_offered = status.offer.as_ref()?.reason == OfferReason::Available;
                let condition = condition::find(&status.conditions, GpuNodeCondition::Quarantined)?;
                (is_offered && alone.subject == gpu).then(|| (alone.clone(), condition.clone()))
            },
        )
        .await?;
        ensure!(
            alone.reason == QuarantineReason::RepeatedFailures
                && alone.failures >= 2
                && quarantined.status == "False"
                && quarantined.message.contains(&gpu),
            "{alone:?}, {quarantined:?}"
        );
        ensure!(
            rest.status().await?.attempts.is_empty(),
            "a job on the other GPUs was ended"
        );

        // It works again, and the kubelet would give it to the next pod: nobody but the kubelet chooses, so none is placed there.
        let all = tenant
            .submit(&job("all", host.gpus).on_node(&host.name))
            .await?;
        simulator.heal_gpu(simulator.index_of(&gpu).await?).await?;
        let status = until_offer(
            world,
            &host.name,
            "is left alone since its kubelet would give the GPU away",
            OfferReason::Quarantined,
        )
        .await?;
        let whole = status.quarantine.iter().find(|q| q.subject == WHOLE_NODE);
        let whole = whole.context("the whole node is in quarantine")?;
        ensure!(
            whole.reason == QuarantineReason::BrokenGpuAllocated,
            "{whole:?}"
        );
        // Nobody has to do anything.
        rest.release().await?;
        rest.until_complete().await?;
        let ended = all.until_complete().await?;
        let placement = ended.placement.context("its place")?;
        ensure!(
            placement.decided_at.0 >= whole.until.0,
            "placed at {}, and the GPU was to be clean until {}",
            placement.decided_at.0,
            whole.until.0
        );
        let given = all.devices_seen_by("all-1-0").await?;
        ensure!(given.contains(&gpu), "{gpu} is not among {given:?}");
        Ok(())
    })
}
