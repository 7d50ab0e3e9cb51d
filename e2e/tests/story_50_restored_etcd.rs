//! Story 50: etcd is restored from a backup while jobs run, a batch waits in a pool, and much was paid since that the cluster has
//! forgotten. The log is taken over from the chain, nothing is paid twice, nothing is lost, and everything goes on.

use std::collections::BTreeMap;

use alloy::primitives::hex;
use gridstake_crds::{
    SettlementBatch, UsageRecord, condition,
    names::{ANNOTATION_LAPSE, LABEL_RESTORED, lane_numbers},
    settlement_batch::BatchState,
    usage_record::{Sealed, UsageRecordCondition, UsageRecordReason},
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
use k8s_openapi::api::{coordination::v1::Lease, core::v1::ConfigMap};
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
    /// What the leader's Lease told of a lapse.
    told: Option<String>,
    /// How often the contract had left a number out.
    skipped: usize,
}

/// The jobs that were there when the backup was taken.
struct Cast {
    /// Those that ran then: `runs`, `ends` and `waits` on one node, `beside` on another one.
    running: BTreeMap<&'static str, Job>,
    /// The uids of all of them, also of those that had ended.
    uids: Vec<String>,
}

#[test]
#[ignore = "long: waits until nothing that was sent before the restore can be mined"]
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

        let mut cast = Cast::enter(world, tenant, chain).await?;
        let waits = usage::uid(&cast.running["waits"]).await?;
        let snapshot = Snapshot::take(world).await?;
        let forgotten = cast.go_on(world, tenant, chain, &there.name).await?;
        cast.end_without_a_block(world, chain).await?;
        let before = Before::read(world, chain).await?;

        snapshot.restore(world).await?;
        until_the_lapse_is_noted(world, chain, &before).await?;
        // As long as the transaction of before is not mined, its slice waits, whatever its agent says.
        until_in_doubt(world, &waits).await?;
        chain.mine_every_second().await?;
        for name in ["ends", "waits"] {
            usage::until_final(world, &usage::uid(&cast.running[name]).await?).await?;
        }
        until_the_log_is_the_chains(world, chain, &before).await?;
        until_the_lapse_is_over(world, chain).await?;
        before
            .assert_an_inventory_was_stated_again(world, chain)
            .await?;

        // What comes now is paid, and what has run through all of it ends.
        for host in [here, there] {
            let later = job(&format!("later-{}", host.name), host.gpus / 2).on_node(&host.name);
            let later = tenant.submit(&later.works_for(1)).await?;
            later.until_complete().await?;
            cast.uids.push(usage::uid(&later).await?);
            later.until_settled().await?;
        }
        for name in ["runs", "beside"] {
            cast.running[name].release().await?;
        }
        for one in cast.running.values() {
            one.until_complete().await?;
            one.until_settled().await?;
        }
        until_nothing_is_in_doubt(world, chain).await?;

        // Each slice of every job was paid once, also of the one that nobody remembers.
        let mut records = Vec::new();
        for uid in &cast.uids {
            records.extend(usage::until_final(world, uid).await?);
        }
        before.assert_bills_are_the_same(&records)?;
        records.extend(forgotten);
        usage::assert_numbers_are_distinct(&records)?;
        let skipped = skipped(chain).await?;
        ensure!(
            skipped.len() == before.skipped,
            "a number was sent twice: {skipped:?}"
        );
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

impl Cast {
    /// Lets a job be paid for good, others run, and the batch of one be on its way. No block is mined any more.
    async fn enter(world: &World, tenant: &Tenant, chain: &Chain) -> Result<Self> {
        let (here, others) = world.one_and_the_others()?;
        let there = others.first().context("there is only one node")?;
        let short = |name: &str| job(name, 1).on_node(&here.name).works_for(1);
        let paid = tenant.submit(&short("paid")).await?;
        paid.until_complete().await?;
        let mut uids = vec![usage::uid(&paid).await?];
        paid.until_settled().await?;

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
            uids.push(uid);
        }

        let batch = settlement_batch::next(chain).await?;
        chain.mine_only_on_demand(world).await?;
        let sent = tenant.submit(&short("sent")).await?;
        sent.until_complete().await?;
        uids.push(usage::uid(&sent).await?);
        settlement_batch::until_it_is(world, &batch, BatchState::InFlight).await?;
        Ok(Self { running, uids })
    }

    /// Lets things happen that are forgotten: a whole job on `node`, whose records are returned, the end of one, and slices of
    /// those that go on are paid for good.
    async fn go_on(
        &self,
        world: &World,
        tenant: &Tenant,
        chain: &Chain,
        node: &str,
    ) -> Result<Vec<UsageRecord>> {
        chain.mine_every_second().await?;
        let forgotten = tenant
            .submit(&job("forgotten", 1).on_node(node).works_for(2))
            .await?;
        forgotten.until_complete().await?;
        let uid = usage::uid(&forgotten).await?;
        self.running["ends"].release().await?;
        self.running["ends"].until_complete().await?;
        for name in ["runs", "beside"] {
            let one = &self.running[name];
            let paid = one.status().await?.settlement.map_or(0, |s| s.finalized);
            one.until("another slice of it is paid for good", |status| {
                (status.settlement.as_ref()?.finalized > paid).then_some(())
            })
            .await?;
        }
        self.running["ends"].until_settled().await?;
        forgotten.until_settled().await?;
        until_archived(world, &uid).await?;
        usage::of_job(world, &uid).await
    }

    /// Lets a job end whose batch is sent and in no block. Others that come before it are mined.
    async fn end_without_a_block(&self, world: &World, chain: &Chain) -> Result<()> {
        settlement_batch::until_quiet(world, chain).await?;
        chain.mine_only_on_demand(world).await?;
        let waits = &self.running["waits"];
        waits.release().await?;
        waits.until_complete().await?;
        let uid = usage::uid(waits).await?;
        let batch = look_until("its last slice is in a batch", || async {
            let open = settlement_batch::open(world, chain).await?;
            let records = usage::of_job(world, &uid).await?;
            let last = records.last().context("it has a slice")?;
            let settlement = usage::settlement(last).ok();
            let batch = settlement.and_then(|s| s.batch.clone());
            // One batch is sent after the other, each on top of one that is in a block.
            let in_the_way = |(_, state): &(String, Option<BatchState>)| {
                batch.is_none() && *state == Some(BatchState::InFlight)
            };
            if open.iter().any(in_the_way) {
                chain.mine().await?;
            }
            Ok(Look::at(batch, || {
                format!("{:?}, batches {open:?}", last.status)
            }))
        })
        .await?;
        let status = settlement_batch::until_it_is(world, &batch, BatchState::InFlight).await?;
        chain
            .until_it_has(settlement_batch::newest_transaction(&status)?)
            .await
    }
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
            told: told_by_the_lease(world).await?,
            skipped: skipped(chain).await?.len(),
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

/// What the contract has left out since it was paid before.
async fn skipped(chain: &Chain) -> Result<Vec<Settlement::JobsSkipped>> {
    chain.events(chain.settlement).await
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

/// Waits until the lane's ConfigMap tells of a lapse that is not over, and the leader's Lease of one that it did not tell of.
async fn until_the_lapse_is_noted(world: &World, chain: &Chain, before: &Before) -> Result<()> {
    look_until("the lapse is noted", || async {
        let noted = lapse(world, chain).await?;
        let open = noted.as_ref().is_some_and(|mark| mark["isOver"] == false);
        let told = told_by_the_lease(world).await?;
        let is_news = told.is_some() && told != before.told;
        Ok(Look::whether(open && is_news, || {
            format!("the ConfigMap says {noted:?}, the Lease {told:?}")
        }))
    })
    .await
}

/// What the leader's Lease tells of a lapse.
async fn told_by_the_lease(world: &World) -> Result<Option<String>> {
    let leases: Api<Lease> = Api::namespaced(world.client.clone(), &world.namespace);
    let lease = leases.get(operator_process::LEADER_LEASE).await?;
    Ok(lease.annotations().get(ANNOTATION_LAPSE).cloned())
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
