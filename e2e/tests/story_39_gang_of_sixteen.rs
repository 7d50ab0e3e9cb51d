//! Story 39: a gang that needs every GPU of the cluster starts as a whole while small jobs come and go around it, and its members
//! know where to find one another; and GPUs that people have at home are gathered for one model that none of them could run, and go on
//! when one of them is lost on the way.

use std::collections::{BTreeMap, BTreeSet};

use gridstake_crds::{
    UsageRecord,
    compute_job::{ComputeJobStatus, MemberNode, ReplacedMember, Verdict},
    condition,
    names::{LABEL_MEMBER, gang_service},
    usage_record::DeviceUse,
};
use gridstake_e2e::{
    allocation, archive,
    command::plugin,
    fake_fleet::{FAKE, FakeFleet},
    prelude::*,
    priority_class::priority_class,
    simulated_gpus::Simulator,
    usage,
};
use k8s_openapi::api::{core::v1::Pod, discovery::v1::EndpointSlice};
use kube::{
    Api, ResourceExt,
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

/// A model that takes sixteen of them.
fn model() -> Result<JobManifest> {
    job("model", 1)
        .members(MEMBERS)
        .with("/spec/gpu/models", "[RTX 4090]")?
        .with(
            "/spec/template/spec/tolerations",
            &format!("[{{key: {FAKE}, operator: Exists}}]"),
        )
}

#[test]
fn sixteen_consumer_gpus_of_sixteen_nodes_are_gathered_for_one_model_and_again_when_one_is_lost()
-> Result<()> {
    story(async |world, tenant| {
        let fleet = FakeFleet::at_home(world, MEMBERS as usize + 1, AT_HOME).await?;
        let model = tenant.submit(&model()?).await?;
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

/// The pods of a gang that count, by the ranks of their members: name, uid and node of each.
async fn by_rank(model: &Job) -> Result<BTreeMap<u32, (String, String, String)>> {
    let placement = model.status().await?.placement.context("its place")?;
    let pods = model.pods().await?;
    let found = |member: &MemberNode| {
        let label = member.member.to_string();
        let is_its = |pod: &&Pod| pod.labels().get(LABEL_MEMBER) == Some(&label);
        let pod = pods
            .iter()
            .find(is_its)
            .with_context(|| format!("the pod of {member:?}"))?;
        let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
        ensure!(phase == Some("Running"), "{} is {phase:?}", pod.name_any());
        ensure!(
            pod.metadata.deletion_timestamp.is_none(),
            "{} leaves",
            pod.name_any()
        );
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
        ensure!(node.as_ref() == Some(&member.node), "{node:?}: {member:?}");
        let uid = pod.uid().unwrap_or_default();
        Ok((member.rank(), (pod.name_any(), uid, member.node.clone())))
    };
    placement.nodes.iter().map(found).collect()
}

/// Waits until the job says that what `lost` finds among its losses runs again, all members run, and it is still the first attempt.
async fn until_replaced(
    model: &Job,
    rank: u32,
    losses: usize,
) -> Result<(ComputeJobStatus, ReplacedMember)> {
    model
        .until_or_never(&format!("rank {rank} runs again"), |status| {
            if let Some(ending) = &status.ending {
                return Look::Never(format!("the attempt is being stopped: {ending:?}"));
            }
            let all_run = condition::find(&status.conditions, ComputeJobCondition::Running)
                .is_some_and(|c| c.status == "True" && c.reason == "Running");
            let last = status.replaced.iter().rev().find(|lost| lost.rank == rank);
            let last = last.filter(|lost| lost.started_at.is_some() && all_run);
            let last = last.filter(|_| status.replaced.len() == losses);
            Look::at(last.map(|last| (status.clone(), last.clone())), || {
                format!("{:?}", status.replaced)
            })
        })
        .await
}

#[test]
fn of_sixteen_consumer_gpus_one_is_lost_and_replaced_twice_and_the_other_fifteen_run_on()
-> Result<()> {
    story(async |world, tenant| {
        let fleet = FakeFleet::at_home(world, MEMBERS as usize + 2, AT_HOME).await?;
        let manifest = model()?.with("/spec/retry", "{lostMember: Replace}")?;
        let model = tenant.submit(&manifest).await?;
        model.until_running().await?;
        let first = by_rank(&model).await?;
        ensure!(first.len() == MEMBERS as usize, "{first:?}");
        let names: BTreeSet<String> = (0..MEMBERS).map(|rank| format!("model-1-{rank}")).collect();
        let is_known = || async {
            let known = known_members(tenant, &model).await?;
            Ok(Look::whether(known == names, || format!("{known:?}")))
        };
        look_until("the gang's Service knows every member", is_known).await?;

        // Somebody at home switches the machine off in order: its kubelet lets the pod go.
        let (name, _, home) = first.get(&3).context("rank 3")?.clone();
        fleet.refuse(&home);
        let pods = tenant.api::<Pod>();
        pods.delete(&name, &DeleteParams::default()).await?;
        let (status, lost) = until_replaced(&model, 3, 1).await?;
        ensure!(
            (lost.member, &lost.node, lost.why) == (3, &home, AttemptEndReason::PodDeleted),
            "{lost:?}"
        );
        let second = by_rank(&model).await?;
        the_others_run_on(&first, &second, 3, &home)?;
        let (name, _, _) = second.get(&3).context("rank 3")?;
        ensure!(*name == format!("model-1-{MEMBERS}"), "{name}");
        look_until("its peers find it under the old name", is_known).await?;
        ensure!(
            status.failures.unwrap_or_default().infrastructure == 1,
            "{:?}",
            status.failures
        );

        // Another one goes off without a word, for good.
        fleet.heal();
        let (_, _, home) = second.get(&7).context("rank 7")?.clone();
        fleet.silence(std::slice::from_ref(&home));
        let (status, lost) = until_replaced(&model, 7, 2).await?;
        ensure!(
            (lost.member, &lost.node, lost.why) == (7, &home, AttemptEndReason::NodeLost),
            "{lost:?}"
        );
        let third = by_rank(&model).await?;
        the_others_run_on(&second, &third, 7, &home)?;
        let slices = tenant.api::<EndpointSlice>();
        look_until(
            "the old name of the lost one leads to its successor alone",
            || async {
                let found = targets_of(&slices, &model, "model-1-7").await?;
                let successor = format!("model-1-{}", MEMBERS + 1);
                Ok(Look::whether(found == [successor], || format!("{found:?}")))
            },
        )
        .await?;
        ensure!(
            status.attempts.is_empty() && status.failures.unwrap_or_default().infrastructure == 2,
            "{status:?}"
        );
        allocation::assert_no_gpu_is_given_twice(world).await?;

        // Both decisions can be made again.
        if let Some(folder) = archive::folder(world).await? {
            let (folder, cluster) = (folder.to_string_lossy(), archive::cluster(world).await?);
            let placement = status.placement.context("its place")?;
            let decisions = placement
                .nodes
                .iter()
                .filter_map(|n| n.replacement.as_ref());
            let hashes: Vec<&str> = decisions.map(|r| r.decision.hash.as_str()).collect();
            ensure!(hashes.len() == 2, "{hashes:?}");
            for hash in hashes {
                let told = plugin([
                    "replay",
                    "--archive",
                    &folder,
                    "--cluster",
                    &cluster,
                    "--decision",
                    hash,
                    "-o",
                    "json",
                ])
                .await?;
                let said: serde_json::Value = serde_json::from_str(&told.printed)?;
                ensure!(told.status == 0 && said["equal"] == 1, "{told:?}");
            }
        }

        // Each member has one record, and all are billed.
        let uid = usage::uid(&model).await?;
        fleet.wake();
        model.delete().await?;
        model.until_gone().await?;
        let records = usage::of_job(world, &uid).await?;
        let members: Vec<(u32, u32)> = records
            .iter()
            .map(|r| (r.spec.attempt, r.spec.member))
            .collect();
        let expected: Vec<(u32, u32)> = (0..MEMBERS + 2).map(|member| (1, member)).collect();
        ensure!(members == expected, "{members:?}");
        for record in &records {
            usage::sealed(record)?;
        }
        Ok(())
    })
}

/// The pods to which a name in the gang's Service leads.
async fn targets_of(slices: &Api<EndpointSlice>, gang: &Job, host: &str) -> Result<Vec<String>> {
    let own = format!("kubernetes.io/service-name={}", gang_service(&gang.name));
    let slices = slices.list(&ListParams::default().labels(&own)).await?;
    let endpoints = slices.into_iter().flat_map(|slice| slice.endpoints);
    Ok(endpoints
        .filter(|e| e.hostname.as_deref() == Some(host))
        .filter_map(|e| e.target_ref?.name)
        .collect())
}

/// Whether all pods but that of `rank` are what they were, and that one is a new one elsewhere.
fn the_others_run_on(
    before: &BTreeMap<u32, (String, String, String)>,
    after: &BTreeMap<u32, (String, String, String)>,
    rank: u32,
    home: &str,
) -> Result<()> {
    for other in (0..MEMBERS).filter(|other| *other != rank) {
        ensure!(
            before.get(&other) == after.get(&other),
            "rank {other}: {before:?}, {after:?}"
        );
    }
    let (_, uid, node) = after.get(&rank).context("the rank")?;
    let (_, old, _) = before.get(&rank).context("the rank")?;
    ensure!(uid != old && node != home, "{after:?}");
    Ok(())
}

/// The GPU of `member`, of so many `members` of the job, falls off the bus of `node`.
async fn lose_gpu_of(
    world: &World,
    uid: &str,
    member: u32,
    members: usize,
    node: &str,
) -> Result<()> {
    // An agent that does not know yet which GPU is whose cannot tell who is hit.
    let gpu = usage::until(world, uid, "the agents have named all GPUs", |records| {
        let gpu_of = |record: &UsageRecord| {
            let evidence = record.status.as_ref()?.evidence.as_ref()?;
            let gpu = evidence.devices.first().map(DeviceUse::physical)?;
            Some((record.spec.member, gpu.to_owned()))
        };
        let gpus: Option<BTreeMap<u32, String>> = records.iter().map(gpu_of).collect();
        gpus.filter(|gpus| gpus.len() == members)?.remove(&member)
    })
    .await?;
    let shown = world.gpu_nodes().get(node).await?.status;
    let devices = shown.unwrap_or_default().devices;
    let device = devices.iter().find(|device| device.uuid == gpu);
    let simulator = Simulator::on(world, node).await?;
    simulator
        .break_gpu(device.context("the GPU")?.index, "lost")
        .await
}

#[test]
fn of_a_gang_whose_gpu_falls_off_the_bus_one_rank_goes_on_elsewhere_and_is_told_so() -> Result<()> {
    story(async |world, tenant| {
        let manifest = job("trio", 1)
            .members(3)
            .runs_until_released()
            .with("/spec/retry", "{lostMember: Replace}")?;
        let trio = tenant.submit(&manifest).await?;
        trio.until_running().await?;
        let before = by_rank(&trio).await?;
        let (_, _, node) = before.get(&1).context("rank 1")?.clone();
        let uid = usage::uid(&trio).await?;
        lose_gpu_of(world, &uid, 1, 3, &node).await?;

        let (status, lost) = until_replaced(&trio, 1, 1).await?;
        ensure!(
            (lost.why, lost.verdict) == (AttemptEndReason::DeviceLost, Some(Verdict::Host)),
            "{lost:?}"
        );
        let after = by_rank(&trio).await?;
        for rank in [0, 2] {
            ensure!(
                before.get(&rank) == after.get(&rank),
                "{before:?}, {after:?}"
            );
        }
        let (pod, ..) = after.get(&1).context("rank 1")?;
        ensure!(pod == "trio-1-3", "{pod}");
        for (variable, expected) in [
            ("GRIDSTAKE_MEMBER", "1"),
            ("GRIDSTAKE_MEMBERS", "3"),
            ("GRIDSTAKE_ATTEMPT", "1"),
            ("GRIDSTAKE_RESTART_COUNT", "1"),
            ("HOSTNAME", "trio-1-1"),
        ] {
            let found = trio.environment_of(pod, variable).await?;
            ensure!(found == expected, "{variable} is {found}");
        }
        ensure!(status.attempts.is_empty(), "{:?}", status.attempts);

        trio.release().await?;
        let attempts = trio.until_complete().await?.attempts;
        ensure!(attempts.len() == 1, "{attempts:?}");
        let records = usage::until(world, &uid, "everything is billed", |records| {
            let all = records.iter().all(|record| usage::sealed(record).is_ok());
            all.then(|| records.to_vec())
        })
        .await?;
        let verdicts: Vec<(u32, Option<Verdict>)> = records
            .iter()
            .map(|record| Ok((record.spec.member, usage::sealed(record)?.verdict)))
            .collect::<Result<_>>()?;
        let expected = [(0, None), (1, Some(Verdict::Host)), (2, None), (3, None)];
        ensure!(verdicts == expected, "{verdicts:?}");
        Ok(())
    })
}

#[test]
fn a_rank_that_was_lost_takes_the_gpu_of_a_job_of_lower_priority_and_the_others_run_on()
-> Result<()> {
    story(async |world, tenant| {
        let first = priority_class(world, tenant, "PreemptLowerPriority").await?;
        let pair = job("pair", 1)
            .members(2)
            .runs_until_released()
            .with("/spec/priorityClassName", &first)?
            .with("/spec/retry", "{lostMember: Replace}")?;
        let pair = tenant.submit(&pair).await?;
        pair.until_running().await?;
        let gpus: u32 = world.hosts.iter().map(|host| host.gpus).sum();
        let mut low = Vec::new();
        for number in 2..gpus {
            let manifest = job(&format!("low-{number}"), 1)
                .runs_until_released()
                .with("/spec/termination", "{graceSeconds: 5}")?;
            low.push(tenant.submit(&manifest).await?);
        }
        for job in &low {
            job.until_running().await?;
        }
        let before = by_rank(&pair).await?;
        let (_, _, node) = before.get(&1).context("rank 1")?.clone();
        let uid = usage::uid(&pair).await?;
        lose_gpu_of(world, &uid, 1, 2, &node).await?;

        let (status, lost) = until_replaced(&pair, 1, 1).await?;
        ensure!(lost.why == AttemptEndReason::DeviceLost, "{lost:?}");
        ensure!(status.attempts.is_empty(), "{:?}", status.attempts);
        let after = by_rank(&pair).await?;
        ensure!(before.get(&0) == after.get(&0), "{before:?}, {after:?}");
        let mut stopped = Vec::new();
        for job in &low {
            let attempts = job.status().await?.attempts;
            if let Some(ended) = attempts.first() {
                ensure!(ended.end_reason == AttemptEndReason::Preempted, "{ended:?}");
                stopped.push(job.name.clone());
            }
        }
        ensure!(
            stopped.len() == 1,
            "{stopped:?} made way, and one is enough"
        );

        pair.release().await?;
        pair.until_complete().await?;
        for job in &low {
            job.until_running().await?;
            job.release().await?;
            job.until_complete().await?;
        }
        Ok(())
    })
}
