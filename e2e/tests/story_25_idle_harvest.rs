//! Story 25: a provider lends its GPUs while it does not need them itself: while they are idle, or in windows of time. What it
//! needs it gets back at once; the job is told, goes on elsewhere, pays for nothing in between and loses no retry.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use gridstake_crds::{
    compute_job::{Attempt, ComputeJobStatus},
    condition,
    gpu_node::OfferReason,
    names::pod_name,
};
use gridstake_e2e::{offer, prelude::*, usage};
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams},
};
use serde_json::json;

/// For how many seconds a node has to be idle.
const WINDOW: u32 = 10;

/// What a job does that is told to stop: it says so, and needs a second of its grace.
const UNTIL_TOLD: &str = "trap 'echo told > /dev/termination-log; sleep 1; exit 143' TERM; \
    until [ -e /tmp/released ]; do sleep 0.1; done";

fn seconds_of_the_day() -> Result<u64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    Ok(now.as_secs() % 86_400)
}

/// Submits a job that takes all GPUs of `node`, which is the only one with room while it is placed, and waits until it runs.
async fn run_on(world: &World, tenant: &Tenant, name: &str, node: &str) -> Result<Job> {
    let mut fillers = Vec::new();
    for host in world.hosts.iter().filter(|host| host.name != node) {
        let filler = job(&format!("fills-{}", host.name), host.gpus)
            .runs_until_released()
            .on_node(&host.name);
        fillers.push(tenant.submit(&filler).await?);
    }
    for filler in &fillers {
        filler.until_running().await?;
    }
    let gpus = world.hosts[0].gpus;
    let manifest = job(name, gpus)
        .script(UNTIL_TOLD)
        .with("/spec/termination", "{graceSeconds: 5}")?
        .with("/spec/retry", "{infrastructure: 0, user: 0}")?;
    let placed = tenant.submit(&manifest).await?;
    let status = placed.until_running().await?;
    ensure!(
        nodes(&status) == [node],
        "{name} runs on {:?}, where there is no room",
        nodes(&status)
    );
    for filler in &fillers {
        filler.release().await?;
        filler.until_complete().await?;
    }
    Ok(placed)
}

fn nodes(status: &ComputeJobStatus) -> Vec<&str> {
    let placement = status.active_placement();
    let members = placement.iter().flat_map(|placement| &placement.nodes);
    members.map(|member| member.node.as_str()).collect()
}

/// Waits until the first attempt of a job has given its GPUs back, and checks that it cost no retry.
async fn until_reclaimed(job: &Job) -> Result<Attempt> {
    let (first, status) = job
        .until("its first attempt has ended", |s| {
            Some((s.attempts.first()?.clone(), s.clone()))
        })
        .await?;
    ensure!(
        first.end_reason == AttemptEndReason::Reclaimed && first.suspects.is_empty(),
        "{first:?}"
    );
    let failures = status.failures.unwrap_or_default();
    ensure!(
        (failures.infrastructure, failures.user, failures.placement) == (0, 0, 0)
            && status.end_reason.is_none(),
        "it cost a retry: {failures:?}, {:?}",
        status.end_reason
    );
    Ok(first)
}

/// Checks that the program of the first attempt was told to stop, and had its own grace.
fn assert_told(tenant: &Tenant, job: &Job) -> Result<()> {
    let pods = tenant.pods.of_job(&job.name);
    let first = pods.first().context("its first pod")?;
    let end = first.end.as_ref().context("the end of its program")?;
    ensure!(
        end.exit_code == 143 && end.message.as_deref().map(str::trim) == Some("told"),
        "it was not told: {end:?}"
    );
    ensure!(
        first.deletion_grace == Some(5),
        "it got a grace of {:?}",
        first.deletion_grace
    );
    Ok(())
}

/// The messages of the events of this reason in a namespace.
async fn events(events: Api<Event>, reason: &str) -> Result<Vec<String>> {
    let all = events.list(&ListParams::default()).await?;
    let of_reason = all
        .items
        .into_iter()
        .filter(|event| event.reason.as_deref() == Some(reason));
    Ok(of_reason.filter_map(|event| event.message).collect())
}

#[test]
fn an_idle_node_is_offered_after_its_window_and_a_local_pod_gets_its_gpus_back() -> Result<()> {
    story(async |world, tenant| {
        let (host, _) = world.one_and_the_others()?;
        let (node, gpus) = (&host.name, host.gpus);
        let neighbour = Tenant::settle(world, "neighbour").await?;
        let told = async {
            offer::always_at_the_end(world, node);
            neighbour.occupy("first", node, 1).await?;
            let idle = json!({"mode": "IdleOnly", "idle": {"maxUtilizationPercent": 5, "windowSeconds": WINDOW}});
            offer::change(world, node, idle).await?;
            offer::until(world, node, OfferReason::InLocalUse, "/first holds GPUs").await?;
            let pods: Api<Pod> = neighbour.api();
            pods.delete("first", &DeleteParams::default()).await?;
            offer::until(world, node, OfferReason::InLocalUse, "within the last 10 seconds").await?;
            offer::until(world, node, OfferReason::Available, "").await?;

            let harvest = run_on(world, tenant, "harvest", node).await?;
            let uid = usage::uid(&harvest).await?;
            // A job's own use is not local use.
            offer::until(world, node, OfferReason::Available, "").await?;
            let created_at = Instant::now();
            neighbour.occupy("second", node, gpus).await?;
            eprintln!(
                "the local pod ran {:?} after it was created; the job's program took 1 s of its grace of 5 s",
                created_at.elapsed()
            );
            offer::until(world, node, OfferReason::InLocalUse, "/second holds GPUs").await?;
            let first = until_reclaimed(&harvest).await?;
            ensure!(first.nodes == [node.clone()], "{first:?}");
            assert_told(tenant, &harvest)?;
            let for_tenant = events(tenant.api(), "Reclaimed").await?;
            ensure!(
                for_tenant.iter().any(|text| text.contains(node.as_str()) && !text.contains("second")),
                "{for_tenant:?}"
            );
            let for_provider = events(Api::namespaced(world.client.clone(), "default"), "Reclaimed").await?;
            ensure!(
                for_provider.iter().any(|text| text.contains("/harvest") && text.contains("/second needs them")),
                "{for_provider:?}"
            );

            let status = harvest.until_running().await?;
            let placement = status.active_placement().context("it has a place")?;
            ensure!(
                placement.attempt == 2 && placement.nodes.iter().all(|n| n.node != *node),
                "{placement:?}"
            );
            harvest.release().await?;
            let status = harvest.until_complete().await?;
            ensure!(status.attempts.len() == 2, "{:?}", status.attempts);
            harvest.until_metered().await?;
            let records = usage::of_job(world, &uid).await?;
            let mut billed = Vec::new();
            for record in &records {
                let sealed = usage::sealed(record)?;
                let span = sealed.end_ms - sealed.start_ms;
                ensure!(
                    sealed.gpu_millis == span * u64::from(gpus),
                    "{gpus} GPUs for {span} ms are billed as {}",
                    sealed.gpu_millis
                );
                billed.push((record.spec.attempt, sealed.start_ms, sealed.end_ms));
            }
            let ended = billed.iter().filter(|(attempt, ..)| *attempt == 1).map(|(.., end)| *end).max();
            let began = billed.iter().filter(|(attempt, ..)| *attempt == 2).map(|(_, start, _)| *start).min();
            ensure!(
                ended.zip(began).is_some_and(|(ended, began)| ended < began),
                "the time between the attempts is billed: {billed:?}"
            );
            Ok(())
        }
        .await;
        neighbour.leave(world).await?;
        told
    })
}

#[test]
fn of_a_gang_that_may_lose_members_only_the_one_in_a_local_pods_way_goes_elsewhere() -> Result<()> {
    story(async |world, tenant| {
        let (host, others) = world.one_and_the_others()?;
        let [second, more @ ..] = others else {
            bail!("this story needs two nodes");
        };
        let node = &host.name;
        let neighbour = Tenant::settle(world, "neighbour").await?;
        let told = async {
            offer::always_at_the_end(world, node);
            let idle = json!({"mode": "IdleOnly", "idle": {"maxUtilizationPercent": 5, "windowSeconds": WINDOW}});
            offer::change(world, node, idle).await?;
            offer::until(world, node, OfferReason::Available, "").await?;

            // There is room for one member on the node, and for two elsewhere.
            let full = more.iter().map(|host| (host, host.gpus));
            let mut fillers = Vec::new();
            for (host, gpus) in full.chain([(host, host.gpus - 1), (second, second.gpus - 2)]) {
                let filler = job(&format!("fills-{}", host.name), gpus)
                    .runs_until_released()
                    .on_node(&host.name);
                fillers.push(tenant.submit(&filler).await?);
            }
            for filler in &fillers {
                filler.until_running().await?;
            }
            let manifest = job("gang", 1)
                .members(3)
                .runs_until_released()
                .with("/spec/retry", "{lostMember: Replace, infrastructure: 0, user: 0}")?;
            let gang = tenant.submit(&manifest).await?;
            let status = gang.until_running().await?;
            let mut on = nodes(&status);
            on.sort_unstable();
            ensure!(
                on.iter().filter(|on| *on == node).count() == 1,
                "the gang is on {on:?}"
            );
            let elsewhere = fillers.last().context("a filler of another node")?;
            elsewhere.release().await?;
            elsewhere.until_complete().await?;

            neighbour.occupy("local", node, 1).await?;
            let (lost, status) = gang
                .until("the rank runs elsewhere", |status| {
                    let lost = status.replaced.first()?;
                    lost.started_at.as_ref()?;
                    Some((lost.clone(), status.clone()))
                })
                .await?;
            ensure!(
                lost.why == AttemptEndReason::Reclaimed && lost.node == *node && lost.verdict.is_none(),
                "{lost:?}"
            );
            ensure!(
                status.attempts.is_empty()
                    && status.failures.unwrap_or_default().infrastructure == 0
                    && status.replaced.len() == 1,
                "{status:?}"
            );
            gang.release().await?;
            let status = gang.until_complete().await?;
            let [attempt] = &status.attempts[..] else {
                bail!("{:?}", status.attempts)
            };
            ensure!(attempt.end_reason == AttemptEndReason::Succeeded, "{attempt:?}");
            for member in 0..4 {
                let pod = pod_name("gang", 1, member);
                let pods = tenant.pods.of_job("gang");
                let seen = pods.iter().filter(|seen| seen.last.name_any() == pod).count();
                ensure!(seen == 1, "{seen} pods were named {pod}");
            }
            Ok(())
        }
        .await;
        neighbour.leave(world).await?;
        told
    })
}

#[test]
fn a_node_on_a_schedule_is_offered_in_its_windows_and_jobs_give_it_back_when_they_close()
-> Result<()> {
    story(async |world, tenant| {
        let (host, _) = world.one_and_the_others()?;
        let node = &host.name;
        offer::always_at_the_end(world, node);
        let scheduled = |cron: String, duration: String| json!({"mode": "Scheduled", "windows": [{"cron": cron, "duration": duration}]});
        let in_twelve_hours = (seconds_of_the_day()? / 3600 + 12) % 24;
        let closed = scheduled(format!("0 {in_twelve_hours} * * *"), "1m".to_owned());
        offer::change(world, node, closed).await?;
        offer::until(
            world,
            node,
            OfferReason::OutsideWindow,
            "no window of spec.windows is open",
        )
        .await?;
        let manifest = job("nightly", 1)
            .on_node(node)
            .script(UNTIL_TOLD)
            .with("/spec/termination", "{graceSeconds: 5}")?
            .with("/spec/retry", "{infrastructure: 0, user: 0}")?;
        let nightly = tenant.submit(&manifest).await?;
        let waits = nightly.until_it_waits().await?;
        ensure!(waits.contains("NotOffered (OutsideWindow)"), "{waits}");

        // It has opened with this minute and closes by itself.
        let now = seconds_of_the_day()?;
        let opened = format!("{} {} * * *", now / 60 % 60, now / 3600);
        let soon = scheduled(opened, format!("{}s", now % 60 + 45));
        offer::change(world, node, soon).await?;
        offer::until(world, node, OfferReason::Available, "").await?;
        nightly.until_running().await?;
        let lasting = tenant
            .submit(
                &job("lasting", 1)
                    .on_node(node)
                    .works_for(1)
                    .with("/spec/timeouts", "{run: 1h}")?,
            )
            .await?;
        let waits = lasting.until_it_waits().await?;
        ensure!(waits.contains("ClosesTooSoon"), "{waits}");
        offer::until(world, node, OfferReason::OutsideWindow, "").await?;
        until_reclaimed(&nightly).await?;
        assert_told(tenant, &nightly)?;
        nightly.until_it_waits().await?;

        let always = scheduled("* * * * *".to_owned(), "1m".to_owned());
        offer::change(world, node, always).await?;
        nightly.until_running().await?;
        nightly.release().await?;
        nightly.until_complete().await?;
        lasting.until_complete().await?;
        Ok(())
    })
}

#[test]
fn a_window_that_cannot_be_read_is_explained_and_neither_it_nor_maintenance_stops_a_job()
-> Result<()> {
    story(async |world, tenant| {
        let (host, _) = world.one_and_the_others()?;
        let node = &host.name;
        offer::always_at_the_end(world, node);
        let stays = tenant
            .submit(&job("stays", 1).on_node(node).runs_until_released())
            .await?;
        stays.until_running().await?;
        let window = |cron: &str, zone: &str| json!({"mode": "Scheduled", "windows": [{"cron": cron, "duration": "1h", "timeZone": zone}]});
        for (spec, words) in [
            (
                window("0 25 * * *", "UTC"),
                "spec.windows[0].cron: the hour \"25\" cannot be read",
            ),
            (window("0 20 * * FRI-MON", "UTC"), "write 0-7 or SUN-SAT"),
            (
                window("0 20 * * *", "Europe/Berlim"),
                "spec.windows[0].timeZone: there is no time zone \"Europe/Berlim\"",
            ),
        ] {
            offer::change(world, node, spec).await?;
            offer::until(world, node, OfferReason::InvalidWindow, words).await?;
        }
        offer::change(world, node, json!({"mode": "Always", "windows": null})).await?;
        offer::until(world, node, OfferReason::Available, "").await?;

        let now = SystemTime::now();
        let at = |seconds: u64| -> Result<String> {
            let since = (now + Duration::from_secs(seconds)).duration_since(UNIX_EPOCH)?;
            let at = k8s_openapi::jiff::Timestamp::from_second(i64::try_from(since.as_secs())?)?;
            Ok(at.to_string())
        };
        let span = json!({"maintenance": [{"from": at(3)?, "to": at(10)?, "reason": "new fans"}]});
        offer::change(world, node, span).await?;
        offer::until(world, node, OfferReason::Maintenance, "").await?;
        offer::until(world, node, OfferReason::Available, "").await?;
        let status = stays.status().await?;
        ensure!(
            status.attempts.is_empty()
                && condition::is_true(&status.conditions, ComputeJobCondition::Running),
            "it was stopped: {:?}",
            status.attempts
        );
        stays.release().await?;
        stays.until_complete().await?;
        Ok(())
    })
}
