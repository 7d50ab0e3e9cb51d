//! Story 4: deleting a running job stops its pods within the grace and frees its GPUs.

use futures::{StreamExt as _, TryStreamExt as _, stream};
use gridstake_crds::names::pod_name;
use gridstake_e2e::{allocation, pod_history::PodSeen, prelude::*, usage, wait::watch_until_gone};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt, api::ListParams};

/// What a shell reports whose program was killed by SIGKILL.
const KILLED: i32 = 128 + 9;
/// So many jobs come and go, this many at a time.
const BRIEF: usize = 24;
const AT_ONCE: usize = 4;

#[test]
fn deleting_a_running_job_stops_its_pods_and_frees_its_gpus() -> Result<()> {
    story(async |world, tenant| {
        let (host, _) = world.one_and_the_others()?;
        let running = tenant
            .submit(
                &job("running", host.gpus)
                    .on_node(&host.name)
                    .runs_until_released(),
            )
            .await?;
        running.until_running().await?;
        let waiting = tenant
            .submit(&job("waiting", host.gpus).on_node(&host.name))
            .await?;
        waiting.until_it_waits().await?;
        running.delete().await?;
        running.until_gone().await?;
        waiting.until_complete().await?;
        let end = only_end(&tenant.pods.of_job("running"))?;
        ensure!(
            end == 143,
            "a program that heeds SIGTERM ends by itself, not with {end}"
        );
        Ok(())
    })
}

#[test]
fn a_program_that_ignores_sigterm_is_killed_after_its_grace() -> Result<()> {
    story(async |world, tenant| {
        let (host, _) = world.one_and_the_others()?;
        let stubborn = job("stubborn", host.gpus)
            .on_node(&host.name)
            .script("trap '' TERM; echo begun; while true; do sleep 0.1; done")
            .with("/spec/termination", "{graceSeconds: 2}")?;
        let stubborn = tenant.submit(&stubborn).await?;
        stubborn.until_running().await?;
        stubborn.delete().await?;
        stubborn.until_gone().await?;
        let pods = tenant.pods.of_job("stubborn");
        let end = only_end(&pods)?;
        ensure!(end == KILLED, "it ended with {end}, not by SIGKILL");
        ensure!(
            pods[0].deletion_grace == Some(2),
            "its grace was {:?} s, not 2",
            pods[0].deletion_grace
        );
        let left = allocation::holders_on(world, &host.name).await?;
        ensure!(left.is_empty(), "{left:?} still hold GPUs of {}", host.name);
        Ok(())
    })
}

#[test]
fn deleting_a_job_that_waits_leaves_nothing_behind() -> Result<()> {
    story(async |world, tenant| {
        let fillers = tenant.fill(world).await?;
        let waiting = tenant.submit(&job("waiting", 1)).await?;
        waiting.until_it_waits().await?;
        waiting.delete().await?;
        waiting.until_gone().await?;
        for filler in &fillers {
            filler.release().await?;
            filler.until_complete().await?;
        }
        ensure!(tenant.pods.of_job("waiting").is_empty(), "it had a pod");
        Ok(())
    })
}

#[test]
fn jobs_that_are_deleted_as_soon_as_they_have_a_place_leave_nothing_behind() -> Result<()> {
    story(async |_, tenant| {
        let come_and_go = |number| async move {
            let manifest = job(&format!("brief-{number}"), 1).runs_until_released();
            let brief = tenant.submit(&manifest).await?;
            brief.until_placed(1).await?;
            brief.delete().await?;
            brief.until_gone().await
        };
        stream::iter(0..BRIEF)
            .map(come_and_go)
            .buffer_unordered(AT_ONCE)
            .try_collect::<()>()
            .await?;
        // Some jobs go before their pods do: the API server does not see a finalizer that is written while it deletes.
        let pods: Api<Pod> = tenant.api();
        look_until("its pods are gone", || async {
            let left = pods.list_metadata(&ListParams::default()).await?;
            let left: Vec<_> = left.iter().map(ResourceExt::name_any).collect();
            Ok(Look::whether(left.is_empty(), || format!("{left:?}")))
        })
        .await
    })
}

#[test]
fn a_pod_whose_job_was_torn_away_is_ended_billed_and_let_go() -> Result<()> {
    story(async |world, tenant| {
        let torn = tenant.submit(&job("torn", 1).runs_until_released()).await?;
        torn.until_running().await?;
        let uid = usage::uid(&torn).await?;
        usage::until_seen(world, &uid, 1).await?;
        torn.tear_away(world).await?;
        watch_until_gone(&tenant.api::<Pod>(), &pod_name("torn", 1, 0)).await?;
        let records = usage::of_job(world, &uid).await?;
        let [record] = records.as_slice() else {
            bail!("{} records", records.len())
        };
        let sealed = usage::sealed(record)?;
        ensure!(sealed.gpu_millis > 0, "{sealed:?}");
        Ok(())
    })
}

fn only_end(pods: &[PodSeen]) -> Result<i32> {
    let [pod] = pods else {
        bail!("there is not one pod but {}", pods.len())
    };
    Ok(pod.end.as_ref().context("its end was not seen")?.exit_code)
}
