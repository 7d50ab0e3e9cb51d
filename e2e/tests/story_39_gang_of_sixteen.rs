//! Story 39: a gang that needs every GPU of the cluster starts as a whole while small jobs come and go around it, and its members
//! know where to find one another.

use std::collections::{BTreeMap, BTreeSet};

use gridstake_crds::names::gang_service;
use gridstake_e2e::{allocation, prelude::*};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{ResourceExt as _, api::ListParams};

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
        let names: BTreeSet<String> = pods.iter().map(|pod| pod.name_any()).collect();
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
