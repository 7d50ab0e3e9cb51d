//! Story 28: nodes are measured, not looked up. While its GPUs are free, a node runs a small job of the operator's own, as any
//! other job runs; what that finds stands in its GpuNode. When a tenant needs the GPUs, it has them at once. A GPU that calculates
//! wrong is found before a tenant's job meets it.

use gridstake_crds::{
    UsageRecord,
    closed_enum::ClosedEnum as _,
    compute_job::{ComputeJobStatus, Verdict, VerdictReason},
    condition,
    gpu_node::{GpuNodeCondition, GpuNodeReason, Performance},
    incident::{IncidentState, Sanction},
    names::{LABEL_CANARY, downtime},
};
use gridstake_e2e::{
    incident::{self, Case},
    prelude::*,
    release,
    simulated_gpus::Simulator,
    usage,
    wait::watch_until,
};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams},
};

/// Sooner than anywhere else; and what is measured is forgotten soon, so that no other story earns by it.
const SETTINGS: &[&str] = &[
    "canary.enabled=true",
    "canary.every=1m",
    "canary.expiresAfter=3m",
    "canary.most=8",
];

#[test]
fn an_idle_node_is_measured_and_gives_its_gpus_to_a_tenant_at_once() -> Result<()> {
    story(async |world, tenant| {
        let canaries = canaries(world);
        release::upgrade(world, SETTINGS).await?;

        // Measured, on the way that every job takes.
        let (host, _) = world.one_and_the_others()?;
        let performance = until_measured(world, &canaries, &host.name, host.gpus).await?;
        for gpu in &performance {
            ensure!(
                gpu.reference == "performance/1"
                    && gpu.permille > 0
                    && gpu.fp32_gflops > 0
                    && gpu.memory_gbs > 0
                    && gpu.measured_at.0 < gpu.expires_at.0,
                "{gpu:?}"
            );
        }
        let canary = canaries.get(&performance[0].job).await?;
        let uid = canary.uid().context("its uid")?;
        let records = usage::until(world, &uid, "its use is billed", |records| {
            let all_sealed = records.iter().all(|r| usage::sealed(r).is_ok());
            (!records.is_empty() && all_sealed).then(|| records.to_vec())
        })
        .await?;
        for record in &records {
            assert_nothing_is_owed(record)?;
        }

        // The next one takes its time, so that somebody comes meanwhile.
        let simulator = Simulator::on(world, &host.name).await?;
        for index in 0..host.gpus {
            simulator
                .break_gpu(index, "delay=cuCtxSynchronize:1000")
                .await?;
        }
        let holds = look_until("another canary runs on the node", || async {
            let all = ListParams::default().labels(&format!("{LABEL_CANARY}={}", host.name));
            let found = canaries.list(&all).await?.items;
            let runs = |job: &&ComputeJob| {
                let status = job.status.clone().unwrap_or_default();
                job.uid().as_deref() != Some(&uid)
                    && condition::is_true(&status.conditions, ComputeJobCondition::Running)
            };
            Ok(Look::at(found.iter().find(runs).cloned(), || {
                format!("{:?}", found.iter().map(states).collect::<Vec<_>>())
            }))
        })
        .await?;
        let needs = job("needs-them-all", host.gpus).on_node(&host.name);
        let needs = tenant.submit(&needs).await?;
        needs.until_complete().await?;

        let gave_way = watch_until(
            &canaries,
            &holds.name_any(),
            "has given its GPUs back",
            |job| {
                let status = job?.status.clone()?;
                (!status.attempts.is_empty()).then_some(status)
            },
        )
        .await?;
        assert_gave_way(&gave_way)
    })
}

/// The canaries, which go with the story.
fn canaries(world: &World) -> Api<ComputeJob> {
    let canaries: Api<ComputeJob> = Api::namespaced(world.client.clone(), &world.namespace);
    let left = canaries.clone();
    world.undo_at_the_end("delete the canaries", async move {
        let all = ListParams::default().labels(LABEL_CANARY);
        left.delete_collection(&DeleteParams::default(), &all)
            .await?;
        look_until("all canaries are gone", || async {
            let left = left.list(&all).await?.items;
            Ok(Look::whether(left.is_empty(), || {
                format!("{} are there", left.len())
            }))
        })
        .await
    });
    canaries
}

#[test]
fn a_gpu_that_calculates_wrong_is_found_by_a_canary_and_nobody_is_billed_for_finding_it()
-> Result<()> {
    story(async |world, _| {
        let (host, _) = world.one_and_the_others()?;
        incident::begin_anew(world, &host.name).await?;
        let simulator = Simulator::on(world, &host.name).await?;
        simulator.break_gpu(0, "wrong-results").await?;
        let canaries = canaries(world);
        release::upgrade(world, SETTINGS).await?;

        let found = watch_until(&world.gpu_nodes(), &host.name, "it is found", |node| {
            let status = node?.status.as_ref()?;
            let measured = condition::find(&status.conditions, GpuNodeCondition::Measured)?;
            (measured.reason == GpuNodeReason::WrongResult.as_str()).then(|| status.clone())
        })
        .await?;
        // Before the next canary finds it once more.
        simulator.heal_gpu(0).await?;
        let wrong = found.devices.iter().find(|device| device.index == 0);
        let wrong = wrong.context("the GPU is still shown")?;
        ensure!(
            found.performance.iter().all(|gpu| gpu.uuid != wrong.uuid),
            "{} is weighed by what it calculates wrong: {:?}",
            wrong.uuid,
            found.performance
        );

        let all = ListParams::default().labels(LABEL_CANARY);
        let of_the_host = canaries.list(&all).await?.items.into_iter().find(|canary| {
            let attempts = canary.status.iter().flat_map(|status| &status.attempts);
            attempts
                .flat_map(|attempt| &attempt.nodes)
                .any(|node| *node == host.name)
        });
        let canary = of_the_host.context("the canary that found it")?;
        let attempts = canary.status.as_ref().map(|status| &status.attempts[..]);
        let Some([attempt]) = attempts else {
            bail!("a canary is tried once: {attempts:?}");
        };
        ensure!(
            attempt.verdict == Some(Verdict::Host)
                && attempt.verdict_reason == Some(VerdictReason::WrongResult),
            "{attempt:?}"
        );
        let uid = canary.uid().context("its uid")?;
        let record = usage::until(world, &uid, "its use is billed", |records| {
            let last = records.last()?;
            usage::sealed(last).is_ok().then(|| last.clone())
        })
        .await?;
        assert_nothing_is_owed(&record)?;
        let case = Case::of_name(world, &downtime(&record.name_any()));
        case.until(IncidentState::InForce).await?;
        let spec = case.get().await?.spec;
        ensure!(
            spec.subject.node_name == host.name
                && spec.subject.devices.contains(&wrong.uuid)
                && spec.verdict_reason == Some(VerdictReason::WrongResult)
                && (spec.sanction, spec.slash) == (Sanction::Repair, None),
            "{spec:?}"
        );
        until_measured(world, &canaries, &host.name, host.gpus)
            .await
            .map(drop)
    })
}

/// Waits until all GPUs of the node have been measured by canaries of this story: what those of another one have found stands for a
/// while.
async fn until_measured(
    world: &World,
    canaries: &Api<ComputeJob>,
    node: &str,
    gpus: u32,
) -> Result<Vec<Performance>> {
    let gpus = usize::try_from(gpus)?;
    look_until(&format!("{node} is measured"), || async {
        let found = world.gpu_nodes().get(node).await?;
        let status = found.status.context("its status")?;
        let is_measured = condition::is_true(&status.conditions, GpuNodeCondition::Measured);
        let mut is_ours = true;
        for gpu in &status.performance {
            is_ours &= canaries.get_opt(&gpu.job).await?.is_some();
        }
        let performance = status.performance;
        let instead = format!("{:?}, and {performance:?}", status.conditions);
        Ok(Look::at(
            (is_measured && is_ours && performance.len() == gpus).then_some(performance),
            || instead,
        ))
    })
    .await
}

fn assert_nothing_is_owed(record: &UsageRecord) -> Result<()> {
    let sealed = usage::sealed(record)?;
    ensure!(
        record.spec.payment.is_none() && sealed.job_no.is_none() && sealed.emission.is_none(),
        "somebody pays for a canary: {record:?}"
    );
    Ok(())
}

fn assert_gave_way(status: &ComputeJobStatus) -> Result<()> {
    let [attempt] = &status.attempts[..] else {
        bail!("a canary is tried once, not as in {:?}", status.attempts);
    };
    ensure!(
        attempt.end_reason == AttemptEndReason::Suspended
            && attempt.verdict.is_none()
            && attempt.suspects.is_empty(),
        "it did not give way, or that is held against the node: {attempt:?}"
    );
    Ok(())
}

/// What a canary looks like, for whoever reads that none was found.
fn states(job: &ComputeJob) -> (String, Vec<String>) {
    let conditions = job.status.iter().flat_map(|status| &status.conditions);
    let reasons = conditions.map(|c| format!("{} {}", c.type_, c.reason));
    (job.name_any(), reasons.collect())
}
