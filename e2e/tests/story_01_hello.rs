//! Story 1: a job runs to Complete on a node with the GPUs it asked for.

use std::collections::BTreeSet;

use gridstake_e2e::{
    command::{kubectl, kubectl_with_input},
    prelude::*,
};
use kube::{Resource as _, ResourceExt};

#[test]
fn a_job_that_kubectl_applies_runs_to_complete_and_sees_exactly_its_devices() -> Result<()> {
    story(async |world, tenant| {
        // Its devices must be none of these.
        let neighbour = tenant
            .submit(&job("neighbour", 3).runs_until_released())
            .await?;
        neighbour.until_running().await?;
        let taken = neighbour.devices_seen_by("neighbour-1-0").await?;

        let manifest = job("hello", 2).script("echo \"devices: $NVIDIA_VISIBLE_DEVICES\"; sleep 3; echo done | tee /dev/termination-log");
        let namespace = format!("--namespace={}", tenant.namespace);
        kubectl_with_input(["apply", "--filename=-", &namespace], &manifest.yaml()?).await?;
        kubectl([
            "wait",
            "--for=condition=Complete",
            "computejob/hello",
            &namespace,
            "--timeout=90s",
        ])
        .await?;

        let hello = tenant.job("hello");
        let status = hello.status().await?;
        let placement = status.placement.context("status.placement")?;
        let node = &placement.nodes[0].node;
        let seen = hello.devices_seen_by("hello-1-0").await?;
        let on_node: BTreeSet<_> = world
            .gpu_nodes()
            .get(node)
            .await?
            .status
            .context("status of the node")?
            .devices
            .into_iter()
            .map(|d| d.uuid)
            .collect();
        let distinct: BTreeSet<_> = seen.iter().cloned().collect();
        ensure!(
            seen.len() == 2 && distinct.len() == 2,
            "it sees {seen:?}, not two devices"
        );
        ensure!(
            distinct.is_subset(&on_node),
            "it sees {seen:?}, and NVML shows {on_node:?} on {node}"
        );
        ensure!(
            taken.len() == 3 && !taken.iter().any(|d| distinct.contains(d)),
            "it sees {seen:?}, and its neighbour holds {taken:?}"
        );

        let status = hello.until_metered().await?;
        let attempt = status.attempts.first().context("status.attempts")?;
        ensure!(
            attempt.end_reason == AttemptEndReason::Succeeded
                && attempt.attempt == 1
                && attempt.nodes == std::slice::from_ref(node),
            "{attempt:?}"
        );
        let used = status.usage.context("status.usage")?.gpu_millis;
        ensure!(
            used == attempt.gpu_millis && used >= 2 * 1000,
            "2 GPUs for 3 s, of which doubt takes less than 2, are {used} GPU-milliseconds"
        );
        ensure!(
            status.result.is_some_and(|r| r.digest == "done"),
            "the termination message becomes the result"
        );
        neighbour.release().await?;
        neighbour.until_complete().await?;
        Ok(())
    })
}

#[test]
fn the_pod_of_a_job_says_whose_it_is_and_its_log_can_be_read_afterwards() -> Result<()> {
    story(async |_, tenant| {
        let hello = tenant.submit(&job("hello", 1).script("echo \"rank $GRIDSTAKE_MEMBER of $GRIDSTAKE_MEMBERS in attempt $GRIDSTAKE_ATTEMPT of $GRIDSTAKE_JOB\"")).await?;
        hello.until_complete().await?;
        let owner = hello.get().await?;
        let pods = hello.pods().await?;
        ensure!(
            pods.len() == 1 && pods[0].name_any() == "hello-1-0",
            "pods are {:?}",
            pods.iter().map(ResourceExt::name_any).collect::<Vec<_>>()
        );
        ensure!(
            pods[0]
                .owner_references()
                .iter()
                .any(|o| Some(&o.uid) == owner.meta().uid.as_ref()),
            "the pod belongs to its job"
        );
        let log = kubectl([
            "logs",
            "--selector=gridstake.dev/job=hello",
            "--tail=-1",
            &format!("--namespace={}", tenant.namespace),
        ])
        .await?;
        ensure!(
            log.trim() == "rank 0 of 1 in attempt 1 of hello",
            "the log is {log:?}"
        );
        Ok(())
    })
}
