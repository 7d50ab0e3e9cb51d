//! Story 26: a failure is laid at the door where it belongs. A GPU that falls off the bus is the host's, and the job goes on
//! elsewhere; a program's own failure is the tenant's.

use gridstake_crds::{
    Incident,
    compute_job::{Verdict, VerdictReason},
    condition,
    gpu_node::ReputationTerms,
    incident::{IncidentState, Offence, Sanction},
    names::{ANNOTATION_EVIDENCE, downtime},
};
use gridstake_e2e::{
    prelude::*,
    reputation::{adds_up, gpu_of, known, terms_of},
    simulated_gpus::Simulator,
    usage,
    wait::watch_until,
};
use kube::{Api, ResourceExt as _, api::ListParams};

#[test]
fn a_gpu_that_falls_off_the_bus_under_a_job_is_the_hosts_fault_and_the_job_goes_on_elsewhere()
-> Result<()> {
    story(async |world, tenant| {
        let moved = tenant
            .submit(&job("moved", 1).runs_until_released())
            .await?;
        let placed = moved.until_running().await?;
        let node = first_node(&placed)?;
        let uid = usage::uid(&moved).await?;
        // Other stories may have cost the node the first step of the ladder.
        let incidents: Api<Incident> = Api::all(world.client.clone());
        let is_earlier = |incident: &Incident| {
            incident.spec.subject.node_name == node
                && incident.spec.offence == Offence::DowntimeDuringJob
        };
        let earlier = incidents.list(&ListParams::default()).await?;
        let expected = if earlier.iter().any(is_earlier) {
            Sanction::Warn
        } else {
            Sanction::Repair
        };

        let gpu = gpu_of(world, &moved).await?;
        let before = known(world, &node, "its GPU has a reputation", |status| {
            terms_of(status, &gpu).cloned()
        })
        .await?;

        // All of the node's GPUs, so that the job's own is among them.
        let host = world.hosts.iter().find(|host| host.name == node);
        let simulator = Simulator::on(world, &node).await?;
        for index in 0..host.context("its host")?.gpus {
            simulator.break_gpu(index, "lost").await?;
        }
        let status = moved
            .until("it runs elsewhere", |s| {
                let placement = s.active_placement()?;
                let elsewhere = placement.nodes.iter().all(|n| n.node != node);
                let runs = condition::is_true(&s.conditions, ComputeJobCondition::Running);
                (placement.attempt == 2 && elsewhere && runs).then(|| s.clone())
            })
            .await?;
        let [first] = &status.attempts[..] else {
            bail!("one attempt has ended, not {:?}", status.attempts);
        };
        ensure!(
            first.end_reason == AttemptEndReason::DeviceLost
                && first.verdict == Some(Verdict::Host)
                && first.verdict_reason == Some(VerdictReason::GpuLost)
                && first.verdict_members == [0],
            "{first:?}"
        );
        let failures = status.failures.unwrap_or_default();
        ensure!(
            (failures.user, failures.infrastructure) == (0, 1),
            "{failures:?}"
        );

        let record = usage::until(world, &uid, "the first attempt is billed", |records| {
            let first = records.iter().find(|r| r.spec.attempt == 1)?;
            usage::sealed(first).is_ok().then(|| first.clone())
        })
        .await?;
        let sealed = usage::sealed(&record)?;
        ensure!(
            (sealed.verdict, sealed.verdict_reason)
                == (Some(Verdict::Host), Some(VerdictReason::GpuLost)),
            "{sealed:?}"
        );

        let name = downtime(&record.name_any());
        let incident = watch_until(&incidents, &name, "it is in force", |incident| {
            let incident = incident?;
            let state = incident.status.as_ref()?.state?;
            (state == IncidentState::InForce).then(|| incident.clone())
        })
        .await?;
        ensure!(
            incident.spec.sanction == expected && incident.spec.subject.node_name == node,
            "{expected:?} is expected: {:?}",
            incident.spec
        );
        let evidence = incident
            .annotations()
            .get(ANNOTATION_EVIDENCE)
            .context("it carries its evidence")?;
        let hash = alloy::primitives::keccak256(evidence.as_bytes()).to_string();
        ensure!(
            hash == incident.spec.evidence_hash && evidence.contains("GpuLost"),
            "{evidence}"
        );

        assert_reputation_falls(world, &node, &before).await?;

        moved.release().await?;
        moved.until_complete().await?;
        Ok(())
    })
}

/// Waits until the reputation of a GPU is less than it was `before` for an incident, and fails unless its terms say why.
async fn assert_reputation_falls(
    world: &World,
    node: &str,
    before: &ReputationTerms,
) -> Result<()> {
    let status = known(world, node, "its reputation has fallen", |status| {
        let terms = terms_of(status, &before.uuid)?;
        // Mishaps take 300 at most: other stories may have come before.
        let fell = terms.incidents > before.incidents || terms.incidents >= 300;
        fell.then(|| status.clone())
    })
    .await?;
    ensure!(
        status.reputation_terms.iter().all(adds_up),
        "{:?}",
        status.reputation_terms
    );
    let scores = status.reputation_terms.iter().map(|terms| terms.score);
    ensure!(status.reputation == scores.min(), "{status:?}");
    let stability = status.stability.context("it has a stability")?;
    ensure!(
        stability.completion_permille < 1000
            && stability.permille
                == stability.uptime_permille * stability.completion_permille / 1000,
        "{stability:?}"
    );
    Ok(())
}

#[test]
fn a_program_that_fails_by_itself_costs_the_tenants_own_retries() -> Result<()> {
    story(async |_, tenant| {
        // Long enough for the agent to see it.
        let fails = job("fails", 1)
            .script("sleep 3; exit 7")
            .with("/spec/retry", "{user: 1}")?;
        let fails = tenant.submit(&fails).await?;
        let status = fails.until_failed().await?;
        let doors: Vec<_> = status
            .attempts
            .iter()
            .map(|a| (a.exit_code, a.verdict, a.verdict_reason))
            .collect();
        let own = (
            Some(7),
            Some(Verdict::Tenant),
            Some(VerdictReason::ProgramExit),
        );
        ensure!(doors == [own, own], "{doors:?}");
        let failures = status.failures.unwrap_or_default();
        ensure!(
            (failures.user, failures.infrastructure) == (2, 0),
            "{failures:?}"
        );
        ensure!(
            status.end_reason == Some(JobEndReason::ProgramFailed),
            "{:?}",
            status.end_reason
        );
        Ok(())
    })
}
