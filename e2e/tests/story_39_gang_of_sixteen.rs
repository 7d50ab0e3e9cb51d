//! Story 39: a gang that needs every GPU of the cluster starts as a whole while small jobs come and go around it, and its members
//! know where to find one another; and GPUs that people have at home are gathered for one model that none of them could run.

use std::collections::{BTreeMap, BTreeSet};

use gridstake_crds::{compute_job::ComputeJobStatus, condition, names::gang_service};
use gridstake_e2e::{
    allocation,
    fake_fleet::{FAKE, FakeFleet},
    prelude::*,
};
use k8s_openapi::api::{core::v1::Pod, discovery::v1::EndpointSlice};
use kube::{
    ResourceExt,
    api::{DeleteParams, ListParams},
};

/// The names under which the gang's Service knows its members.
async fn known_members(tenant: &Tenant, gang: &Job) -> Result<BTreeSet<String>> {
    let slices = tenant.api::<EndpointSlice>();
    let own = format!("kubernetes.io/service-name={}", gang_service(&gang.name));
    let slices = slices.list(&ListParams::default().labels(&own)).await?;
    let endpoints = slices.iter().flat_map(|slice| &slice.endpoints);
    Ok(endpoints.filter_map(|e| e.hostname.clone()).collect())
}

#[test]
fn a_gang_of_all_gpus_starts_all_or_none_while_singles_fill_around_it() -> Result<()> {
    story(async |world, tenant| {
        let gpus: u32 = world.hosts.iter().map(|host| host.gpus).sum();
        let mut holders = Vec::new();
        for host in &world.hosts {
            let manifest = job(&format!("holds-{}", host.name), 1)
                .on_node(&host.name)
                .runs_until_released()
                .with("/spec/timeouts", "{run: 30m}")?;
            holders.push(tenant.submit(&manifest).await?);
        }
        for holder in &holders {
            holder.until_running().await?;
        }
        let gang = tenant
            .submit(&job("gang", 1).members(gpus).runs_until_released())
            .await?;
        gang.until_it_waits().await?;

        // What ends before the gang can start does not delay it.
        for number in 0..3 {
            let short = job(&format!("short-{number}"), 2)
                .works_for(0)
                .with("/spec/timeouts", "{start: 2m, run: 1m}")?;
            tenant.submit(&short).await?.until_complete().await?;
        }
        ensure!(
            tenant.pods.of_job("gang").is_empty(),
            "there was a pod of the gang while it waited"
        );

        for holder in &holders {
            holder.release().await?;
        }
        let status = gang.until_running().await?;
        allocation::assert_no_gpu_is_given_twice(world).await?;
        let placement = status.placement.context("status.placement")?;
        let mut members: BTreeMap<String, u32> = BTreeMap::new();
        for member in &placement.nodes {
            *members.entry(member.node.clone()).or_default() += 1;
        }
        for host in &world.hosts {
            let here = members.get(&host.name).copied().unwrap_or(0);
            ensure!(here == host.gpus, "{here} members are on {}", host.name);
        }
        let pods = gang.pods().await?;
        let names: BTreeSet<String> = pods.iter().map(ResourceExt::name_any).collect();
        ensure!(names.len() == gpus as usize, "{names:?}");
        look_until("the gang's Service knows every member", || async {
            let known = known_members(tenant, &gang).await?;
            Ok(Look::whether(known == names, || format!("{known:?}")))
        })
        .await?;
        let peers = gang
            .environment_of("gang-1-3", "GRIDSTAKE_PEERS")
            .await?
            .split(',')
            .filter_map(|peer| peer.split('.').next().map(str::to_owned))
            .collect::<Vec<_>>();
        ensure!(
            peers.first().is_some_and(|first| first == "gang-1-0")
                && peers.into_iter().collect::<BTreeSet<_>>() == names,
            "the members are told of others"
        );
        gang.release().await?;
        let attempts = gang.until_complete().await?.attempts;
        ensure!(attempts.len() == 1, "{attempts:?}");
        Ok(())
    })
}

/// A GPU as people have it at home, and how many nodes with one each make up for a datacenter's.
const AT_HOME: &str = "NVIDIA GeForce RTX 4090";
const MEMBERS: u32 = 16;

#[test]
fn sixteen_consumer_gpus_of_sixteen_nodes_are_gathered_for_one_model_and_again_when_one_is_lost()
-> Result<()> {
    story(async |world, tenant| {
        let fleet = FakeFleet::at_home(world, MEMBERS as usize + 1, AT_HOME).await?;
        let manifest = job("model", 1)
            .members(MEMBERS)
            .with("/spec/gpu/models", "[RTX 4090]")?
            .with(
                "/spec/template/spec/tolerations",
                &format!("[{{key: {FAKE}, operator: Exists}}]"),
            )?;
        let model = tenant.submit(&manifest).await?;
        let gathered = |status: &ComputeJobStatus| -> Result<BTreeSet<String>> {
            let placement = status.active_placement().context("status.placement")?;
            let nodes: BTreeSet<String> = placement.nodes.iter().map(|m| m.node.clone()).collect();
            ensure!(
                nodes.len() == MEMBERS as usize
                    && nodes.iter().all(|node| fleet.nodes.contains(node)),
                "{nodes:?}"
            );
            Ok(nodes)
        };
        let first = gathered(&model.until_running().await?)?;

        // Somebody at home switches the machine off in order: its kubelet lets the pod go.
        let lost = model.pods().await?.into_iter().next().context("a pod")?;
        let home = lost
            .spec
            .as_ref()
            .and_then(|spec| spec.node_name.clone())
            .context("its node")?;
        fleet.refuse(&home);
        let pods = tenant.api::<Pod>();
        pods.delete(&lost.name_any(), &DeleteParams::default())
            .await?;
        let second = model
            .until("its second attempt runs", |status| {
                let placement = status.active_placement()?;
                let runs = condition::is_true(&status.conditions, ComputeJobCondition::Running);
                (placement.attempt == 2 && runs).then(|| status.clone())
            })
            .await?;
        let [ended] = &second.attempts[..] else {
            bail!("one attempt has ended, not {:?}", second.attempts);
        };
        ensure!(
            ended.end_reason == AttemptEndReason::PodDeleted,
            "{ended:?}"
        );
        let second = gathered(&second)?;
        ensure!(
            !second.contains(&home) && first.contains(&home),
            "{home} is among {second:?}"
        );
        let spare = fleet.nodes.iter().find(|node| !first.contains(*node));
        ensure!(
            spare.is_some_and(|spare| second.contains(spare)),
            "{second:?}"
        );
        model.delete().await?;
        model.until_gone().await
    })
}
