//! Story 24: a node is lost. Its jobs go on elsewhere and are billed to their last evidence; a node that comes back in time
//! keeps its job; and when all nodes fall silent together, it is nobody's fault and nothing is lost.

use std::time::{Duration, Instant};

use gridstake_crds::{condition, usage_record::SealCause};
use gridstake_e2e::{
    node_power::{self, Direction},
    operator_process,
    prelude::*,
    usage,
};

/// Runs the job `name` on a node without the operator's leader: what is to be seen is what becomes of the job. The other nodes
/// are full for the moment in which it is placed, so that it can go there later. Returns it and its node.
async fn run_away_from_the_leader(
    world: &World,
    tenant: &Tenant,
    name: &str,
) -> Result<(Job, String)> {
    let leader = operator_process::leader(world).await?;
    let its = leader
        .spec
        .and_then(|s| s.node_name)
        .context("the leader's node")?;
    let full = world.hosts.iter().find(|h| h.name == its);
    let filler = match full {
        Some(host) => {
            let filler = job(&format!("beside-{name}"), host.gpus)
                .on_node(&host.name)
                .runs_until_released();
            let filler = tenant.submit(&filler).await?;
            filler.until_running().await?;
            Some(filler)
        }
        None => None,
    };
    let placed = tenant.submit(&job(name, 1).runs_until_released()).await?;
    let node = first_node(&placed.until_running().await?)?;
    ensure!(node != its, "{name} is on {its}, which is full");
    if let Some(filler) = filler {
        filler.release().await?;
        filler.until_complete().await?;
    }
    Ok((placed, node))
}

/// Runs a job, lets its node be lost by `cut`, and brings the node back by `heal`. Fails unless the job goes on elsewhere, once,
/// and is billed to its last evidence.
async fn moves_from_a_node_that_is_lost(
    world: &World,
    tenant: &Tenant,
    name: &str,
    cut: impl AsyncFnOnce(&str) -> Result<()>,
    heal: impl AsyncFnOnce(&str) -> Result<()>,
) -> Result<()> {
    let (moved, node) = run_away_from_the_leader(world, tenant, name).await?;
    let uid = usage::uid(&moved).await?;
    usage::until_seen(world, &uid, 1).await?;

    let began = Instant::now();
    cut(&node).await?;
    moved
        .until_condition(
            ComputeJobCondition::Running,
            true,
            ComputeJobReason::NodeSuspect,
        )
        .await?;
    let status = moved
        .until("it runs elsewhere", |s| {
            let placement = s.active_placement()?;
            let elsewhere = placement.nodes.iter().all(|n| n.node != node);
            (placement.attempt == 2
                && elsewhere
                && condition::is_true(&s.conditions, ComputeJobCondition::Running))
            .then(|| s.clone())
        })
        .await?;
    println!(
        "from the loss of the node to the next attempt running: {:.1} s",
        began.elapsed().as_secs_f64()
    );
    let [first] = &status.attempts[..] else {
        bail!("one attempt has ended, not {:?}", status.attempts);
    };
    ensure!(
        first.end_reason == AttemptEndReason::NodeLost,
        "it ended for {}",
        first.end_reason
    );
    let failures = status.failures.unwrap_or_default();
    ensure!(
        (failures.user, failures.infrastructure) == (0, 1),
        "{failures:?}"
    );

    let records = usage::until(world, &uid, "the first attempt is billed", |records| {
        let first: Vec<_> = records
            .iter()
            .filter(|r| r.spec.attempt == 1)
            .cloned()
            .collect();
        first
            .iter()
            .all(|r| usage::sealed(r).is_ok())
            .then_some(first)
    })
    .await?;
    let last = records.last().context("the first attempt has a record")?;
    let sealed = usage::sealed(last)?;
    ensure!(
        sealed.cause == SealCause::EvidenceEnded,
        "it is sealed for {}",
        sealed.cause
    );
    let evidence = last
        .status
        .as_ref()
        .and_then(|s| s.evidence.as_ref())
        .context("the evidence")?;
    let seen_until = evidence
        .checkpoints
        .iter()
        .map(|c| c.to_ms)
        .max()
        .unwrap_or(0);
    let heartbeat = 10_000;
    ensure!(
        sealed.end_ms <= seen_until + 2 * heartbeat,
        "it is billed until {} and was last seen at {seen_until}",
        sealed.end_ms
    );

    // It comes back with the pod that it had: that must not go on.
    heal(&node).await?;
    moved.until_it_has_pods(1).await?;
    moved.release().await?;
    let status = moved.until_complete().await?;
    ensure!(status.attempts.len() == 2, "{:?}", status.attempts);
    Ok(())
}

#[test]
fn a_job_whose_node_loses_its_power_goes_on_elsewhere_and_is_billed_to_its_last_evidence()
-> Result<()> {
    story(async |world, tenant| {
        moves_from_a_node_that_is_lost(
            world,
            tenant,
            "moved",
            async |node| node_power::cut(world, node).await,
            async |node| node_power::give_back(node).await,
        )
        .await
    })
}

#[test]
#[ignore = "long: two more ways to lose a node"]
fn a_job_moves_from_a_node_that_cannot_be_heard_and_from_one_that_cannot_hear() -> Result<()> {
    story(async |world, tenant| {
        for (name, direction) in [("mute", Direction::Out), ("deaf", Direction::In)] {
            moves_from_a_node_that_is_lost(
                world,
                tenant,
                name,
                async |node| node_power::cut_one_way(world, node, direction).await,
                async |node| node_power::plug_in(node).await,
            )
            .await?;
            world.until_whole().await?;
        }
        Ok(())
    })
}

#[test]
#[ignore = "long: a node is silent for most of the grace"]
fn a_node_that_comes_back_within_the_grace_keeps_its_job() -> Result<()> {
    story(async |world, tenant| {
        let (stays, node) = run_away_from_the_leader(world, tenant, "stays").await?;
        node_power::unplug(world, &node).await?;
        stays
            .until_condition(
                ComputeJobCondition::Running,
                true,
                ComputeJobReason::NodeSuspect,
            )
            .await?;
        node_power::plug_in(&node).await?;
        stays
            .until_condition(
                ComputeJobCondition::Running,
                true,
                ComputeJobReason::Running,
            )
            .await?;
        stays.release().await?;
        let status = stays.until_complete().await?;
        ensure!(
            matches!(&status.attempts[..], [only] if only.nodes == [node]),
            "it has moved: {:?}",
            status.attempts
        );
        Ok(())
    })
}

#[test]
fn when_every_node_is_off_the_network_no_job_is_given_up() -> Result<()> {
    story(async |world, tenant| {
        let stays = tenant
            .submit(&job("stays", 1).runs_until_released())
            .await?;
        let node = first_node(&stays.until_running().await?)?;
        let nodes: Vec<&str> = world.hosts.iter().map(|h| h.name.as_str()).collect();
        for node in &nodes {
            node_power::unplug(world, node).await?;
        }
        // Longer than it takes to give up a node, and the operator is off the network as well.
        node_power::until_silent_for(world, &nodes, Duration::from_secs(40)).await?;
        for node in &nodes {
            node_power::plug_in(node).await?;
        }
        for node in &nodes {
            world.until_agent_reports(node).await?;
        }
        stays
            .until_condition(
                ComputeJobCondition::Running,
                true,
                ComputeJobReason::Running,
            )
            .await?;
        stays.release().await?;
        let status = stays.until_complete().await?;
        ensure!(
            matches!(&status.attempts[..], [only] if only.nodes == [node]),
            "it has moved: {:?}",
            status.attempts
        );
        Ok(())
    })
}
