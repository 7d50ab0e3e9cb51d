//! Story 48: etcd is restored from a backup while jobs run, a batch waits in a pool, and much was paid since that the cluster has
//! forgotten. The log is taken over from the chain, nothing is paid twice, nothing is lost, and everything goes on.

use std::collections::BTreeMap;

use alloy::primitives::hex;
use gridstake_crds::{
    SettlementBatch, UsageRecord, condition,
    names::{LABEL_RESTORED, lane_numbers},
    settlement_batch::BatchState,
    usage_record::{RecordState, Sealed, UsageRecordCondition, UsageRecordReason},
};
use gridstake_e2e::{
    archive,
    chain::Chain,
    chain_payments,
    command::plugin,
    contracts::Settlement,
    etcd::{self, Snapshot},
    operator_process,
    payer::Payer,
    prelude::*,
    provider::tokens,
    settlement_batch, usage,
};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, ResourceExt as _, api::ListParams};
use serde_json::Value;

/// The kind of a statement about a node's GPUs.
const INVENTORY: u8 = 1;

/// What stood in the cluster before etcd was restored.
struct Before {
    /// The bill of each slice, by its record's name.
    bills: BTreeMap<String, Sealed>,
    /// The batches that the log held.
    batches: Vec<String>,
    /// The inventories that were stated on the chain, the newest last.
    inventories: Vec<Settlement::Stated>,
}

#[test]
fn after_etcd_is_restored_from_a_backup_each_slice_is_paid_once_and_nothing_stays_stuck()
-> Result<()> {
    paid_story(async |world, tenant, market| {
        if !etcd::can_be_restored() {
            eprintln!(
                "etcd can be restored in a native cluster alone: tell it with E2E_CLUSTER=native"
            );
            return Ok(());
        }
        let chain = &market.chain;
        let deposit = tokens(100);
        let payer = Payer::of_tenant(chain, tenant, deposit).await?;
        let (here, others) = world.one_and_the_others()?;
        let there = others.first().context("there is only one node")?;
        settlement_batch::until_quiet(world, chain).await?;

        // Paid for good.
        let paid = tenant
            .submit(&job("paid", 1).on_node(&here.name).works_for(1))
            .await?;
        paid.until_complete().await?;
        let mut jobs = vec![usage::uid(&paid).await?];
        paid.until_settled().await?;
        // Those that run when the backup is taken: three on the one node and one on the other.
        let mut running = BTreeMap::new();
        for (name, node) in [
            ("runs", here),
            ("ends", here),
            ("waits", here),
            ("beside", there),
        ] {
            let manifest = job(name, 1).on_node(&node.name).runs_until_released();
            running.insert(name, tenant.submit(&manifest).await?);
        }
        for one in running.values() {
            one.until_running().await?;
            let uid = usage::uid(one).await?;
            usage::until_seen(world, &uid, 1).await?;
            jobs.push(uid);
        }
        // One whose batch is on its way.
        let batch = settlement_batch::next(chain).await?;
        chain.mine_only_on_demand(world).await?;
        let sent = tenant
            .submit(&job("sent", 1).on_node(&here.name).works_for(1))
            .await?;
        sent.until_complete().await?;
        jobs.push(usage::uid(&sent).await?);
        settlement_batch::until_it_is(world, &batch, BatchState::InFlight).await?;
        let snapshot = Snapshot::take(world).await?;

        // What is forgotten: a whole job, the end of one, slices of others.
        chain.mine_every_second().await?;
        let forgotten = tenant
            .submit(&job("forgotten", 1).on_node(&there.name).works_for(2))
            .await?;
        forgotten.until_complete().await?;
        let forgotten_uid = usage::uid(&forgotten).await?;
        running["ends"].release().await?;
        running["ends"].until_complete().await?;
        for name in ["runs", "beside"] {
            let paid = running[name].status().await?.settlement;
            let paid = paid.map_or(0, |s| s.finalized);
            running[name]
                .until("another slice of it is paid for good", |status| {
                    (status.settlement.as_ref()?.finalized > paid).then_some(())
                })
                .await?;
        }
        running["ends"].until_settled().await?;
        forgotten.until_settled().await?;
        until_archived(world, &forgotten_uid).await?;

        // What nobody has mined when it is forgotten.
        settlement_batch::until_quiet(world, chain).await?;
        let lost = settlement_batch::next(chain).await?;
        chain.mine_only_on_demand(world).await?;
        running["waits"].release().await?;
        running["waits"].until_complete().await?;
        let waits_uid = usage::uid(&running["waits"]).await?;
        usage::until(world, &waits_uid, "it is in a batch", |records| {
            let last = usage::settlement(records.last()?).ok()?;
            (last.state == RecordState::Batched).then_some(())
        })
        .await?;
        let status = settlement_batch::until_it_is(world, &lost, BatchState::InFlight).await?;
        chain
            .until_it_has(settlement_batch::newest_transaction(&status)?)
            .await?;
        let forgotten = usage::of_job(world, &forgotten_uid).await?;
        let before = Before::read(world, chain).await?;

        snapshot.restore(world).await?;
        until_the_lapse_is_noted(world, chain).await?;
        // As long as the transaction of before is not mined, its slice waits, whatever its agent says.
        until_in_doubt(world, &waits_uid).await?;
        chain.mine_every_second().await?;

        // The log is the chain's again, and each bill of a record that is known is what it was.
        for name in ["ends", "waits"] {
            let uid = usage::uid(&running[name]).await?;
            usage::until_final(world, &uid).await?;
        }
        until_the_log_is_the_chains(world, chain, &before).await?;
        until_the_lapse_is_over(world, chain).await?;
        before
            .assert_an_inventory_was_stated_again(world, chain)
            .await?;

        // What comes now is paid.
        let later = tenant
            .submit(
                &job("later", there.gpus - 1)
                    .on_node(&there.name)
                    .works_for(1),
            )
            .await?;
        later.until_complete().await?;
        jobs.push(usage::uid(&later).await?);
        later.until_settled().await?;

        // What has run through all of it ends, and each slice of every job was paid once.
        for name in ["runs", "beside"] {
            running[name].release().await?;
        }
        for one in running.values() {
            one.until_complete().await?;
            one.until_settled().await?;
        }
        until_nothing_is_in_doubt(world, chain).await?;
        let mut records = Vec::new();
        for job in &jobs {
            records.extend(usage::until_final(world, job).await?);
        }
        before.assert_bills_are_the_same(&records)?;
        records.extend(forgotten);
        usage::assert_numbers_are_distinct(&records)?;
        let payments = chain.payments().await?;
        chain_payments::assert_each_is_paid_once(&payments, payer.id, &records)?;
        let due = usage::due(&records)?;
        market
            .assert_paid(&due, &payer, u64::try_from(deposit.nano())?)
            .await?;
        assert_numbers_go_on_above(world, chain, &payments).await?;
        until_the_lane_is_verified(world, chain).await
    })
}

impl Before {
    async fn read(world: &World, chain: &Chain) -> Result<Self> {
        let records: Api<UsageRecord> = Api::namespaced(world.client.clone(), &world.namespace);
        let mut bills = BTreeMap::new();
        for record in records.list(&ListParams::default()).await? {
            if let Ok(sealed) = usage::sealed(&record) {
                bills.insert(record.name_any(), sealed.clone());
            }
        }
        let batches = settlement_batch::batches(world)
            .list(&ListParams::default())
            .await?;
        Ok(Self {
            bills,
            batches: batches.iter().map(kube::ResourceExt::name_any).collect(),
            inventories: inventories(chain).await?,
        })
    }

    /// Fails if a slice that was billed before is billed otherwise now.
    fn assert_bills_are_the_same(&self, records: &[UsageRecord]) -> Result<()> {
        let mut same = 0;
        for record in records {
            let Some(before) = self.bills.get(&record.name_any()) else {
                continue;
            };
            let now = usage::sealed(record)?;
            ensure!(
                now == before,
                "{} was billed {before:?} and is billed {now:?}",
                record.name_any()
            );
            same += 1;
        }
        ensure!(same > 0, "no bill of before is there");
        Ok(())
    }

    /// Fails unless what was stated last about a node is what its GpuNode says, and something of it was stated once more since.
    async fn assert_an_inventory_was_stated_again(
        &self,
        world: &World,
        chain: &Chain,
    ) -> Result<()> {
        let now = inventories(chain).await?;
        ensure!(
            now.len() > self.inventories.len(),
            "nothing was stated since: {now:?}"
        );
        for node in world.gpu_nodes().list(&ListParams::default()).await? {
            let posted = node.status.as_ref().and_then(|s| s.inventory_hash.clone());
            let name = node.name_any();
            let posted = posted.with_context(|| format!("nothing is posted of {name}"))?;
            let is_last = now
                .iter()
                .rev()
                .map(|stated| hex::encode_prefixed(stated.content))
                .any(|content| content == posted);
            ensure!(is_last, "{posted} of {name} was not stated: {now:?}");
        }
        Ok(())
    }
}

/// The inventories that were stated on the chain, the newest last.
async fn inventories(chain: &Chain) -> Result<Vec<Settlement::Stated>> {
    let mut stated = chain.events::<Settlement::Stated>(chain.settlement).await?;
    stated.retain(|one| one.lane == chain.lane && one.kind == INVENTORY);
    Ok(stated)
}

/// Waits until every slice of a job is in the archive, if there is one: what is forgotten before cannot be archived any more.
async fn until_archived(world: &World, uid: &str) -> Result<()> {
    if archive::folder(world).await?.is_none() {
        return Ok(());
    }
    usage::until(world, uid, "it is archived", |records| {
        let archived = |record: &UsageRecord| {
            usage::settlement(record).is_ok_and(|settlement| settlement.archive_hash.is_some())
        };
        (!records.is_empty() && records.iter().all(archived)).then_some(())
    })
    .await
}

/// Waits until the lane's ConfigMap tells of a lapse that is not over.
async fn until_the_lapse_is_noted(world: &World, chain: &Chain) -> Result<()> {
    look_until("the lapse is noted", || async {
        let noted = lapse(world, chain).await?;
        let open = noted.as_ref().is_some_and(|mark| mark["isOver"] == false);
        Ok(Look::whether(open, || {
            format!("the ConfigMap says {noted:?}")
        }))
    })
    .await
}

/// Waits until nothing that was lost can be mined any more, and the leader's metrics say the same.
async fn until_the_lapse_is_over(world: &World, chain: &Chain) -> Result<()> {
    look_until("the lapse is over", || async {
        let noted = lapse(world, chain).await?;
        let over = noted.as_ref().is_some_and(|mark| mark["isOver"] == true);
        let metric = leaders_metric(world, chain, "gridstake_settlement_lapse").await?;
        Ok(Look::whether(
            over && metric.as_deref() == Some("0"),
            || format!("the ConfigMap says {noted:?}, the metric {metric:?}"),
        ))
    })
    .await
}

/// What the lane's ConfigMap says of a lapse.
async fn lapse(world: &World, chain: &Chain) -> Result<Option<Value>> {
    let text = counter(world, chain, "lapse").await?;
    text.map(|text| serde_json::from_str(&text).context("read the lapse"))
        .transpose()
}

/// What stands in the lane's ConfigMap under `key`.
async fn counter(world: &World, chain: &Chain, key: &str) -> Result<Option<String>> {
    let maps: Api<ConfigMap> = Api::namespaced(world.client.clone(), &world.namespace);
    let map = maps.get(&lane_numbers(chain.lane)).await?;
    Ok(map.data.and_then(|mut data| data.remove(key)))
}

/// Waits until a slice of the job has ended and gets no number, since it may have been paid.
async fn until_in_doubt(world: &World, uid: &str) -> Result<()> {
    usage::until(world, uid, "a slice is in doubt", |records| {
        records.iter().find_map(|record| {
            let conditions = &record.status.as_ref()?.conditions;
            condition::find(conditions, UsageRecordCondition::Sealed)
                .filter(|c| c.reason == UsageRecordReason::InDoubt.to_string())
                .map(drop)
        })
    })
    .await
}

/// Waits until the log holds the chain's batches, all of them final, with those that it had lost marked.
async fn until_the_log_is_the_chains(world: &World, chain: &Chain, before: &Before) -> Result<()> {
    look_until("the log is the chain's", || async {
        let open = settlement_batch::open(world, chain).await?;
        let missing: Vec<_> = {
            let there = settlement_batch::batches(world)
                .list(&ListParams::default())
                .await?;
            let there: Vec<_> = there.iter().map(kube::ResourceExt::name_any).collect();
            let is_missing = |name: &&String| !there.contains(name);
            before.batches.iter().filter(is_missing).cloned().collect()
        };
        let restored = restored(world, chain).await?.len();
        Ok(Look::whether(
            open.is_empty() && missing.is_empty() && restored > 1,
            || format!("open: {open:?}, missing: {missing:?}, restored: {restored}"),
        ))
    })
    .await
}

/// The batches that were taken over from the chain.
async fn restored(world: &World, chain: &Chain) -> Result<Vec<SettlementBatch>> {
    let labelled = ListParams::default().labels(LABEL_RESTORED);
    let mut found = settlement_batch::batches(world)
        .list(&labelled)
        .await?
        .items;
    found.retain(|batch| batch.spec.lane == chain.lane);
    Ok(found)
}

/// Waits until it is known of every payment whose it is, also of those for jobs that are gone.
async fn until_nothing_is_in_doubt(world: &World, chain: &Chain) -> Result<()> {
    look_until("nothing is in doubt", || async {
        let restored = restored(world, chain).await?;
        let is_open = |batch: &&SettlementBatch| {
            batch.labels().get(LABEL_RESTORED).map(String::as_str) != Some("resolved")
        };
        let open: Vec<_> = restored
            .iter()
            .filter(is_open)
            .map(kube::ResourceExt::name_any)
            .collect();
        let metric = leaders_metric(world, chain, "gridstake_settlement_doubtful_numbers").await?;
        Ok(Look::whether(
            open.is_empty() && metric.as_deref() == Some("0"),
            || format!("in doubt: {metric:?} numbers, of {open:?}"),
        ))
    })
    .await
}

/// What the leader measures of the lane.
async fn leaders_metric(world: &World, chain: &Chain, name: &str) -> Result<Option<String>> {
    let leader = operator_process::leader(world).await?;
    let shown = operator_process::metrics(&leader).await?;
    let series = format!("{name}{{chain=\"{}\"}} ", chain.name);
    let mut values = shown.lines().filter_map(|line| line.strip_prefix(&series));
    Ok(values.next().map(str::to_owned))
}

/// Fails if a number could be given out that the chain has seen.
async fn assert_numbers_go_on_above(
    world: &World,
    chain: &Chain,
    payments: &[chain_payments::Payment],
) -> Result<()> {
    let next: u64 = counter(world, chain, "next")
        .await?
        .context("no number was ever given out")?
        .parse()?;
    let highest = payments.iter().map(|one| one.job_no).max().unwrap_or(0);
    ensure!(
        next > highest,
        "the next number is {next}, and the chain has paid {highest}"
    );
    Ok(())
}

/// Waits until every batch is archived and the whole lane is verified, if there is an archive.
async fn until_the_lane_is_verified(world: &World, chain: &Chain) -> Result<()> {
    let Some(folder) = archive::folder(world).await? else {
        return Ok(());
    };
    let (settlement, vault) = (chain.settlement.to_string(), chain.vault.to_string());
    let lane = chain.lane.to_string();
    look_until("the lane is archived and verified", || async {
        let told = plugin([
            "verify",
            "--archive",
            &folder.to_string_lossy(),
            "--rpc",
            &chain.url,
            "--settlement",
            &settlement,
            "--vault",
            &vault,
            "--lane",
            &lane,
            "--lane-all",
        ])
        .await?;
        Ok(Look::whether(told.status == 0, || format!("{told:?}")))
    })
    .await
}
