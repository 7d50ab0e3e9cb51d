//! Story 3: what can never fit says so and what comes closest; what does not fit now says what it waits for, and starts
//! when it fits.

use gridstake_e2e::prelude::*;

#[test]
fn a_request_that_no_node_could_ever_satisfy_names_the_nearest_miss() -> Result<()> {
    story(async |world, tenant| {
        let (host, _) = world.one_and_the_others()?;
        let device = world
            .gpu_nodes()
            .get(&host.name)
            .await?
            .status
            .context("status")?
            .devices
            .into_iter()
            .next()
            .context("a device")?;
        let memory = device.memory_mib;
        let cases = [
            (
                "too-many-gpus",
                job("too-many-gpus", host.gpus + 1),
                format!("has {} GPUs, {} asked for", host.gpus, host.gpus + 1),
            ),
            (
                "too-much-memory",
                job("too-much-memory", 1)
                    .with("/spec/gpu/minMemoryMiB", &(memory + 1).to_string())?,
                format!("has {memory} MiB of memory, {} asked for", memory + 1),
            ),
            (
                "elsewhere",
                job("elsewhere", 1).with("/spec/policy/jurisdictions", "[AQ]")?,
                "no matching node is in jurisdiction AQ".into(),
            ),
        ];
        for (name, manifest, expected) in cases {
            let message = tenant
                .submit(&manifest)
                .await?
                .until_condition(
                    ComputeJobCondition::Admitted,
                    false,
                    ComputeJobReason::Unsatisfiable,
                )
                .await?;
            ensure!(
                message.contains(&expected),
                "{name}: {message:?} does not say {expected:?}"
            );
            ensure!(tenant.pods.of_job(name).is_empty(), "{name} had a pod");
        }
        Ok(())
    })
}

#[test]
fn a_job_that_does_not_fit_now_says_what_it_waits_for_and_starts_when_it_fits() -> Result<()> {
    story(async |world, tenant| {
        let fillers = tenant.fill(world).await?;
        let waiting = tenant.submit(&job("waiting", 4)).await?;
        let message = waiting.until_it_waits().await?;
        let nodes = world.hosts.len();
        ensure!(
            message.starts_with(&format!(
                "0/{nodes} nodes fit: {nodes} InsufficientGpus (needs 4); nearest: a node with 0 of 4 GPUs free"
            )),
            "it says {message:?}"
        );
        ensure!(
            tenant.pods.of_job("waiting").is_empty(),
            "it had a pod while it waited"
        );

        let (freed, others) = fillers.split_first().context("a filler")?;
        freed.release().await?;
        let status = waiting.until_complete().await?;
        let node = &status.placement.context("status.placement")?.nodes[0].node;
        ensure!(
            freed.name == format!("fills-{node}"),
            "it ran on {node}, and {} had ended",
            freed.name
        );
        for filler in others {
            filler.release().await?;
        }
        Ok(())
    })
}
