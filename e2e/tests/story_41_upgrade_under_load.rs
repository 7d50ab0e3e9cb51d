//! Story 41: Gridstake of an earlier commit is upgraded, and rolled back, while jobs run, others come and a batch is on its way to
//! the chain. Nothing is restarted, no job needs another attempt, and each slice is paid once. What "earlier" was is printed:
//! `e2e/before.sh` says what there can be.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicBool, Ordering},
};

use gridstake_crds::settlement_batch::BatchState;
use gridstake_e2e::{
    container,
    payer::Payer,
    pod_history::PodHistory,
    prelude::*,
    provider::tokens,
    release::{self, Before},
    settlement_batch, usage,
};
use kube::ResourceExt as _;

/// Gridstake's parts with pods.
const PARTS: [&str; 3] = ["operator", "device-agent", "simulated-gpus"];
/// The label that tells them apart.
const COMPONENT: &str = "app.kubernetes.io/component";

#[test]
fn an_upgrade_and_a_rollback_under_load_restart_nothing_and_each_slice_is_paid_once() -> Result<()>
{
    paid_story(async |world, tenant, market| {
        let chain = &market.chain;
        let before = Before::find().await?;
        println!("upgraded from {}", before.what);
        before.install(world).await?;
        world.until_whole().await?;
        let parts = PodHistory::begin(world.client.clone(), &world.namespace);
        let old = pods_of_parts(world).await?;

        let deposit = tokens(100);
        let payer = Payer::of_tenant(chain, tenant, deposit).await?;
        settlement_batch::until_quiet(world, chain).await?;
        // A batch whose transaction waits in the pool while the operator that sent it is replaced.
        let batch = settlement_batch::next(chain).await?;
        chain.mine_only_on_demand(world).await?;
        let single = tenant
            .submit(&job("single", 2).runs_until_released())
            .await?;
        let gang = tenant
            .submit(&job("gang", 1).members(2).runs_until_released())
            .await?;
        single.until_running().await?;
        gang.until_running().await?;
        let running = [single.pods().await?, gang.pods().await?].concat();
        let undisturbed = container::identities(&running);
        let status = settlement_batch::until_it_is(world, &batch, BatchState::InFlight).await?;
        let transaction = settlement_batch::newest_transaction(&status)?;
        chain.until_it_has(transaction).await?;

        let over = AtomicBool::new(false);
        let (came, upgraded) =
            tokio::join!(jobs_come_until(&over, tenant, "while-upgraded"), async {
                let upgraded = release::install().await;
                over.store(true, Ordering::Relaxed);
                upgraded
            },);
        upgraded.context("upgrade")?;
        let mut came = came.context("submit jobs during the upgrade")?;
        let new = pods_of_parts(world).await?;
        ensure!(
            new.is_disjoint(&old),
            "the upgrade left pods as they were: {:?}",
            new.intersection(&old)
        );
        let running = [single.pods().await?, gang.pods().await?].concat();
        let now = container::identities(&running);
        ensure!(
            now == undisturbed,
            "pods of jobs were disturbed: {undisturbed:?} became {now:?}"
        );
        chain.mine_every_second().await?;
        let mined = settlement_batch::until_it_is(world, &batch, BatchState::Final).await?;
        ensure!(
            settlement_batch::newest_transaction(&mined)? == transaction
                && mined.attempts.len() == status.attempts.len(),
            "the batch was sent again: {:?}",
            mined.attempts
        );

        let over = AtomicBool::new(false);
        let (others, back) =
            tokio::join!(jobs_come_until(&over, tenant, "while-rolled-back"), async {
                let back = release::roll_back(world).await;
                over.store(true, Ordering::Relaxed);
                back
            },);
        back.context("roll back")?;
        came.extend(others.context("submit jobs during the rollback")?);
        let running = [single.pods().await?, gang.pods().await?].concat();
        let now = container::identities(&running);
        ensure!(
            now == undisturbed,
            "pods of jobs were disturbed: {undisturbed:?} became {now:?}"
        );

        println!("{} jobs came meanwhile", came.len());
        for one in [&single, &gang] {
            one.release().await?;
        }
        came.extend([single, gang]);
        let mut uids = Vec::new();
        for one in &came {
            let status = one.until_complete().await?;
            ensure!(
                status.attempts.len() == 1,
                "{} needed more than one attempt: {:?}",
                one.name,
                status.attempts
            );
            uids.push(usage::uid(one).await?);
        }
        for (pod, times) in tenant.pods.incarnations() {
            ensure!(times == 1, "pod {pod} was created {times} times");
        }
        market
            .assert_each_is_paid_once(world, &payer, u64::try_from(deposit.nano())?, &uids)
            .await?;
        assert_nothing_restarted(&parts)
    })
}

/// Submits a short job, waits until it runs, and goes on with the next, at least three and until `over`.
async fn jobs_come_until(over: &AtomicBool, tenant: &Tenant, name: &str) -> Result<Vec<Job>> {
    let mut came = Vec::new();
    while came.len() < 3 || !over.load(Ordering::Relaxed) {
        let manifest = job(&format!("{name}-{}", came.len()), 1).works_for(1);
        let one = tenant.submit(&manifest).await?;
        one.until_complete().await?;
        came.push(one);
    }
    Ok(came)
}

/// The names of the pods of all parts.
async fn pods_of_parts(world: &World) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for part in ["operator", "device-agent"] {
        names.extend(
            world
                .pods_of(part)
                .await?
                .iter()
                .map(kube::ResourceExt::name_any),
        );
    }
    Ok(names)
}

/// Fails if a container of any part was ever started again, or if an operator that was told to go ended badly.
fn assert_nothing_restarted(parts: &PodHistory) -> Result<()> {
    let mut seen = BTreeMap::<String, usize>::new();
    for pod in parts.all() {
        let name = pod.last.name_any();
        let component = pod
            .last
            .labels()
            .get(COMPONENT)
            .cloned()
            .unwrap_or_default();
        let restarts = container::restarts(&pod.last);
        ensure!(
            restarts == 0,
            "{name} was restarted {restarts} times: {:?}",
            pod.end
        );
        if component == "operator"
            && let Some(end) = &pod.end
        {
            ensure!(
                end.exit_code == 0,
                "{name} ended with {}: {end:?}",
                end.exit_code
            );
        }
        *seen.entry(component).or_default() += 1;
    }
    // Two replicas, or two nodes, each in three forms.
    for part in PARTS {
        let count = seen.get(part).copied().unwrap_or(0);
        ensure!(count > 1, "{count} pods of {part} were seen: {seen:?}");
    }
    println!("0 restarts of {seen:?}");
    Ok(())
}
