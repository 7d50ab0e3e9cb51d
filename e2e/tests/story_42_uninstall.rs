//! Story 42: Gridstake is uninstalled and installed again over the API types that stayed. In the documented order nothing hangs,
//! and a batch that was on its way is paid once; in the wrong order, with jobs running, these run on, and are finished and paid
//! when it is back.

use std::{collections::BTreeSet, fmt::Debug};

use gridstake_crds::{
    GpuNode, Incident, SettlementBatch, StakeBinding, UsageRecord, names::FINALIZER_METERING,
    settlement_batch::BatchState,
};
use gridstake_e2e::{
    command::kubectl, container, market::until_offered_by, payer::Payer, prelude::*,
    provider::tokens, release, settlement_batch, usage,
};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Resource, ResourceExt as _, api::ListParams};
use serde::de::DeserializeOwned;

/// The release with the API types.
const API_TYPES: &str = "gridstake-crds";
/// What `helm uninstall gridstake` leaves, as docs/install.md lists it: what operator and agents wrote, and what Helm keeps
/// because a hook made it. By kind and the beginning of the name.
const LEFT: [&str; 8] = [
    "configmap/fair-share",
    "configmap/gridstake-chains",
    "configmap/kube-root-ca.crt",
    "configmap/lane-",
    "configmap/reputation-",
    "lease.coordination.k8s.io/agent-",
    "lease.coordination.k8s.io/gridstake-operator",
    "serviceaccount/default",
];
/// Kinds that the charts install or the parts write, in the namespace and in the cluster.
const NAMESPACED: &str = "configmaps,deployments,daemonsets,replicasets,pods,services,endpointslices,leases,serviceaccounts,roles,\
                          rolebindings,jobs,poddisruptionbudgets,networkpolicies";
const CLUSTER_WIDE: &str = "clusterroles,clusterrolebindings,priorityclasses,validatingadmissionpolicies,\
                            validatingadmissionpolicybindings";
/// On all that the charts install.
const PART_OF: &str = "app.kubernetes.io/part-of=gridstake";

#[test]
fn uninstalled_in_order_it_leaves_the_ledger_alone_and_goes_on_with_it_when_it_is_back()
-> Result<()> {
    paid_story(async |world, tenant, market| {
        let chain = &market.chain;
        let deposit = tokens(100);
        let payer = Payer::of_tenant(chain, tenant, deposit).await?;
        settlement_batch::until_quiet(world, chain).await?;
        let nodes = uids::<GpuNode>(Api::all(world.client.clone())).await?;
        let batch = settlement_batch::next(chain).await?;
        chain.mine_only_on_demand(world).await?;
        let ended = tenant.submit(&job("ended", 1).works_for(2)).await?;
        ended.until_complete().await?;
        let running = tenant
            .submit(&job("running", 1).runs_until_released())
            .await?;
        running.until_running().await?;
        let mut jobs = vec![usage::uid(&ended).await?, usage::uid(&running).await?];
        let status = settlement_batch::until_it_is(world, &batch, BatchState::InFlight).await?;
        chain
            .until_it_has(settlement_batch::newest_transaction(&status)?)
            .await?;

        // First all jobs, while there is an operator that lets go of them.
        kubectl([
            "delete",
            "computejobs",
            "--all",
            "--namespace",
            &tenant.namespace,
            "--timeout=90s",
        ])
        .await?;
        let pods: Api<Pod> = tenant.api();
        // The kubelet has them for a moment more; nothing of ours does.
        let left = pods.list_metadata(&ListParams::default()).await?;
        let held = left.iter().any(|pod| !pod.finalizers().is_empty());
        ensure!(!held, "pods are held: {:?}", names(&left.items));
        let records =
            uids::<UsageRecord>(Api::namespaced(world.client.clone(), &world.namespace)).await?;
        release::install_at_the_end(world);
        release::uninstall(world, &world.release).await?;
        release::uninstall(world, API_TYPES).await?;

        // Helm does not wait for what the garbage collector removes.
        look_until("what docs/install.md does not list is gone", || async {
            let left = listed(&["get", NAMESPACED, "--namespace", &world.namespace]).await?;
            let unknown: Vec<_> = left
                .iter()
                .filter(|name| !LEFT.iter().any(|l| name.starts_with(l)))
                .collect();
            Ok(Look::whether(unknown.is_empty(), || format!("{unknown:?}")))
        })
        .await?;
        let left = listed(&["get", CLUSTER_WIDE, "--selector", PART_OF]).await?;
        ensure!(left.is_empty(), "these are left in the cluster: {left:?}");
        let kinds = listed(&["get", "customresourcedefinitions", "--selector", PART_OF]).await?;
        ensure!(kinds.len() == 6, "the API types do not stay: {kinds:?}");
        let still =
            uids::<UsageRecord>(Api::namespaced(world.client.clone(), &world.namespace)).await?;
        ensure!(
            records.is_subset(&still),
            "records are gone: {:?}",
            records.difference(&still)
        );
        assert_unheld::<UsageRecord>(Api::all(world.client.clone())).await?;
        assert_unheld::<SettlementBatch>(Api::all(world.client.clone())).await?;
        assert_unheld::<Incident>(Api::all(world.client.clone())).await?;
        assert_unheld::<GpuNode>(Api::all(world.client.clone())).await?;
        assert_unheld::<StakeBinding>(Api::all(world.client.clone())).await?;
        // What was sent is mined, and nobody looks.
        chain.mine_every_second().await?;
        chain.until_later(2).await?;

        release::install().await?;
        for (node, provider) in &market.providers {
            until_offered_by(&world.client, node, provider.id).await?;
        }
        ensure!(
            uids::<GpuNode>(Api::all(world.client.clone())).await? == nodes,
            "the GpuNodes are other ones than before"
        );
        settlement_batch::until_it_is(world, &batch, BatchState::Final).await?;
        let later = tenant.submit(&job("later", 1).works_for(1)).await?;
        later.until_complete().await?;
        jobs.push(usage::uid(&later).await?);
        market
            .assert_each_is_paid_once(world, &payer, u64::try_from(deposit.nano())?, &jobs)
            .await
    })
}

#[test]
fn jobs_run_on_while_it_is_uninstalled_and_are_finished_and_paid_when_it_is_back() -> Result<()> {
    paid_story(async |world, tenant, market| {
        let chain = &market.chain;
        let deposit = tokens(100);
        let payer = Payer::of_tenant(chain, tenant, deposit).await?;
        settlement_batch::until_quiet(world, chain).await?;
        let mut submitted = Vec::new();
        for name in ["runs-on", "ends-meanwhile", "is-deleted"] {
            let one = tenant.submit(&job(name, 1).runs_until_released()).await?;
            one.until_running().await?;
            submitted.push(one);
        }
        let [runs_on, ends, deleted] = submitted.as_slice() else {
            bail!("three jobs were submitted");
        };
        let mut jobs = Vec::new();
        for one in &submitted {
            let uid = usage::uid(one).await?;
            usage::until_seen(world, &uid, 1).await?;
            jobs.push(uid);
        }
        let before = container::identities(&runs_on.pods().await?);

        release::install_at_the_end(world);
        release::uninstall(world, &world.release).await?;
        ends.release().await?;
        deleted.delete().await?;
        look_until("the pod of the job that ends has ended", || async {
            let pods = ends.pods().await?;
            let ended = pods.iter().any(|p| {
                p.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Succeeded")
                    && p.finalizers().iter().any(|f| f == FINALIZER_METERING)
            });
            Ok(Look::whether(ended, || {
                format!("{:?}", pods.iter().map(|p| &p.status).collect::<Vec<_>>())
            }))
        })
        .await?;
        let held = deleted.get().await?;
        ensure!(
            held.metadata.deletion_timestamp.is_some() && !held.finalizers().is_empty(),
            "a job that nobody let go of is gone"
        );
        let running = container::identities(&runs_on.pods().await?);
        ensure!(
            running == before,
            "the pods of a running job were disturbed: {running:?}"
        );

        release::install().await?;
        deleted.until_gone().await?;
        let status = ends.until_complete().await?;
        ensure!(
            status.attempts.len() == 1,
            "the job that ended was repeated: {:?}",
            status.attempts
        );
        let running = container::identities(&runs_on.pods().await?);
        ensure!(
            running == before,
            "the pods of a running job were disturbed: {running:?}"
        );
        runs_on.release().await?;
        let status = runs_on.until_complete().await?;
        ensure!(
            status.attempts.len() == 1,
            "the job that ran on was repeated: {:?}",
            status.attempts
        );
        market
            .assert_each_is_paid_once(world, &payer, u64::try_from(deposit.nano())?, &jobs)
            .await
    })
}

/// The names of what `kubectl` lists, such as `configmap/fair-share`.
async fn listed(command: &[&str]) -> Result<Vec<String>> {
    let mut command = command.to_vec();
    command.extend(["--output", "name", "--ignore-not-found"]);
    Ok(kubectl(command).await?.lines().map(str::to_owned).collect())
}

fn names<K: Resource>(objects: &[K]) -> Vec<String> {
    objects.iter().map(kube::ResourceExt::name_any).collect()
}

/// The name and uid of each object of a kind.
async fn uids<K>(api: Api<K>) -> Result<BTreeSet<String>>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let all = api.list_metadata(&ListParams::default()).await?;
    Ok(all
        .iter()
        .map(|o| format!("{} {:?}", o.name_any(), o.uid()))
        .collect())
}

/// Fails if an object of the kind could not be deleted without the operator.
async fn assert_unheld<K>(api: Api<K>) -> Result<()>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let all = api.list_metadata(&ListParams::default()).await?;
    for object in all {
        ensure!(
            object.finalizers().is_empty(),
            "{} {} is held by {:?}",
            K::kind(&()),
            object.name_any(),
            object.finalizers()
        );
    }
    Ok(())
}
