//! Story 31: an agent lies, with its own key and its own identity. What it states is refused, costs nobody but its provider, and
//! takes no GPU away from anybody for longer than the lie stands.

use gridstake_crds::{
    Incident, UsageRecord, condition,
    gpu_node::{GpuNodeCondition, OfferReason},
    incident::Offence,
    names::MANAGER_AGENT,
    usage_record::{Checkpoint, Evidence, EvidenceFault},
};
use gridstake_e2e::{agent_process, identity, prelude::*, usage, wait::watch_until};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::json;

fn evidence(record: &UsageRecord) -> Option<&Evidence> {
    record.status.as_ref()?.evidence.as_ref()
}

fn checkpoints(record: &UsageRecord) -> &[Checkpoint] {
    evidence(record).map_or(&[], |evidence| evidence.checkpoints.as_slice())
}

#[test]
fn an_agent_that_replays_a_statement_about_another_job_is_paid_for_what_came_before_it()
-> Result<()> {
    story(async |world, tenant| {
        let node = &world.hosts[0].name;
        let manifest = |name: &str| job(name, 1).on_node(node).runs_until_released();
        let honest = tenant.submit(&manifest("honest")).await?;
        honest.until_running().await?;
        let other = usage::uid(&honest).await?;
        usage::until_seen(world, &other, 1).await?;
        honest.release().await?;
        honest.until_complete().await?;
        // Its begin and its end.
        let replayed = usage::until_seen(world, &other, 2).await?;
        let replayed = checkpoints(&replayed).last().cloned().context("its end")?;

        let target = tenant.submit(&manifest("lied-about")).await?;
        target.until_running().await?;
        let uid = usage::uid(&target).await?;
        let record = usage::until_seen(world, &uid, 1).await?;

        // From here on we are the agent.
        let agent = world.pod_on("device-agent", node).await?;
        let client = identity::of_pod(world, &agent).await?;
        agent_process::halt(world, node).await?;
        let mut lie = evidence(&record).context("its evidence")?.clone();
        let begin = lie.checkpoints.last().context("its begin")?.clone();
        let stands = begin.to_ms;
        // Its signature is the key's, and it is made to follow.
        lie.checkpoints.push(Checkpoint {
            seq: begin.seq + 1,
            previous: begin.head,
            ..replayed
        });
        let name = record.name_any();
        let records: Api<UsageRecord> = Api::namespaced(client, &world.namespace);
        let body = json!({
            "apiVersion": "gridstake.dev/v1alpha1", "kind": "UsageRecord",
            "metadata": {"name": name}, "status": {"evidence": lie},
        });
        let params = PatchParams::apply(MANAGER_AGENT).force();
        records
            .patch_status(&name, &params, &Patch::Apply(body))
            .await
            .context("state it as the agent")?;
        let refused = usage::until(world, &uid, "it is refused", |records| {
            records.last()?.status.as_ref()?.refused.clone()
        })
        .await?;
        ensure!(refused.reason == EvidenceFault::Replay, "{refused:?}");

        target.release().await?;
        target.until_complete().await?;
        let sealed = usage::until(world, &uid, "it is billed", |records| {
            usage::sealed(records.last()?).ok().cloned()
        })
        .await?;
        ensure!(
            sealed.end_ms <= stands && sealed.gpu_millis <= stands.saturating_sub(sealed.start_ms),
            "what stands ends at {stands}, and it is billed until {}: {} GPU-ms",
            sealed.end_ms,
            sealed.gpu_millis
        );
        let incidents: Api<Incident> = Api::all(world.client.clone());
        let incident = format!("false-statement-{name}");
        let offence = watch_until(&incidents, &incident, "it is an offence", |incident| {
            Some(incident?.spec.offence)
        })
        .await?;
        // Else two of such lies keep every job off the node for weeks, as they should.
        world.undo_at_the_end(format!("pardon {incident}"), async move {
            let incidents: Api<Incident> = Api::all(identity::administrator_as_operator().await?);
            incidents
                .delete(&incident, &DeleteParams::default())
                .await?;
            Ok(())
        });
        ensure!(offence == Offence::ImpossibleUsage, "{offence}");
        agent_process::kill(world, node).await
    })
}

#[test]
fn an_agent_that_shows_another_nodes_gpu_withholds_both_only_until_it_stops() -> Result<()> {
    story(async |world, _| {
        let [liar, victim, ..] = &world.hosts[..] else {
            bail!("this story needs two nodes");
        };
        let nodes = world.gpu_nodes();
        let devices = async |name: &str| -> Result<_> {
            let node = nodes.get(name).await?;
            Ok(node.status.context("its status")?.devices)
        };
        let mut shown = devices(&liar.name).await?;
        let stolen = devices(&victim.name).await?.remove(0);
        let first = shown.first_mut().context("a GPU of its own")?;
        first.uuid = stolen.uuid;
        let agent = world.pod_on("device-agent", &liar.name).await?;
        let client = identity::of_pod(world, &agent).await?;
        agent_process::halt(world, &liar.name).await?;
        // Under another name than its own, so that its next apply leaves the entry alone.
        Api::<GpuNode>::all(client)
            .patch_status(
                &liar.name,
                &PatchParams::default(),
                &Patch::Merge(json!({"status": {"devices": shown}})),
            )
            .await
            .context("show it as the agent")?;
        for host in [liar, victim] {
            let what = format!("{} is withheld", host.name);
            watch_until(&nodes, &host.name, &what, |node| {
                let conditions = &node?.status.as_ref()?.conditions;
                condition::find(conditions, GpuNodeCondition::Offered)
                    .filter(|c| c.reason == OfferReason::GpuClaimedTwice.to_string())
                    .map(drop)
            })
            .await?;
        }
        agent_process::kill(world, &liar.name).await?;
        world.until_whole().await.map(drop)
    })
}
