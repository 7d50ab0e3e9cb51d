//! Story 6: an agent's token cannot write another node's GpuNode, nor set or remove anything but its own part of its
//! own; a tenant cannot write ledger kinds. `charts/gridstake/POLICIES.md` lists all that was tried.

use std::fmt::Debug;

use gridstake_crds::{
    Incident, SettlementBatch, StakeBinding, UsageRecord, names::heartbeat_lease,
};
use gridstake_e2e::{command::checkout, identity, prelude::*};
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Pod};
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, Patch, PatchParams, PostParams},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Fails unless the API server forbade it, in words that hold `words`.
fn forbidden<T>(what: &str, answer: kube::Result<T>, words: &str) -> Result<()> {
    match answer {
        Ok(_) => bail!("{what}: it was allowed"),
        Err(kube::Error::Api(status))
            if status.is_forbidden() && status.message.contains(words) =>
        {
            Ok(())
        }
        Err(error) => bail!("{what}: not forbidden with {words:?}, but: {error}"),
    }
}

fn allowed<T>(what: &str, answer: kube::Result<T>) -> Result<()> {
    answer
        .map(drop)
        .with_context(|| format!("{what}: it was not allowed"))
}

/// A merge patch of a status, tried and not kept.
async fn try_status<K: Clone + Debug + DeserializeOwned>(
    api: &Api<K>,
    name: &str,
    status: Value,
) -> kube::Result<K> {
    api.patch_status(
        name,
        &PatchParams {
            dry_run: true,
            ..PatchParams::default()
        },
        &Patch::Merge(json!({"status": status})),
    )
    .await
}

fn dry_run() -> PostParams {
    PostParams {
        dry_run: true,
        ..PostParams::default()
    }
}

#[test]
fn an_agent_writes_its_own_part_of_its_own_gpu_node_and_nothing_else() -> Result<()> {
    story(async |world, _| {
        let (mine, others) = world.one_and_the_others()?;
        let other = &others.first().context("a second node")?.name;
        let mine = &mine.name;
        let agent = identity::of_pod(world, &world.pod_on("device-agent", mine).await?).await?;
        let nodes: Api<GpuNode> = Api::all(agent.clone());
        let driver = json!({"driver": {"version": "580.95.05"}});
        let not_its_own = "only its own";
        let not_its_part =
            "a device agent may write only status.devices, status.driver, status.agent";

        allowed(
            "its own driver",
            try_status(&nodes, mine, driver.clone()).await,
        )?;
        forbidden(
            "another node's driver",
            try_status(&nodes, other, driver.clone()).await,
            not_its_own,
        )?;
        forbidden(
            "another node's devices",
            try_status(&nodes, other, json!({"devices": []})).await,
            not_its_own,
        )?;
        let bonded = json!({"type": "Bonded", "status": "True", "reason": "Bonded", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"});
        for (what, status) in [
            ("set a condition", json!({"conditions": [bonded]})),
            ("remove the conditions", json!({"conditions": null})),
            (
                "change the offer",
                json!({"offer": {"state": "Offered", "reason": "Drained"}}),
            ),
            ("remove the offer", json!({"offer": null})),
            ("change the free GPUs", json!({"free": 63})),
            ("give itself a provider", json!({"providerId": 7})),
        ] {
            forbidden(what, try_status(&nodes, mine, status).await, not_its_part)?;
        }
        let apply = PatchParams {
            dry_run: true,
            ..PatchParams::apply("gridstake-device-agent").force()
        };
        let applied = |status: Value| json!({"apiVersion": "gridstake.dev/v1alpha1", "kind": "GpuNode", "metadata": {"name": mine}, "status": status});
        let stolen =
            applied(json!({"offer": {"state": "Offered", "reason": "Available"}, "capacity": 64}));
        forbidden(
            "apply the operator's fields by force",
            nodes
                .patch_status(mine, &apply, &Patch::Apply(stolen))
                .await,
            not_its_part,
        )?;

        let spec = Patch::Merge(json!({"spec": {"mode": "Drained"}}));
        forbidden(
            "change its spec",
            nodes
                .patch(
                    mine,
                    &PatchParams {
                        dry_run: true,
                        ..PatchParams::default()
                    },
                    &spec,
                )
                .await,
            "cannot patch",
        )?;
        forbidden(
            "delete it",
            nodes
                .delete(mine, &kube::api::DeleteParams::default().dry_run())
                .await,
            "cannot delete",
        )?;
        let stranger: GpuNode =
            serde_json::from_value(json!({"metadata": {"name": "a-node-of-nobody"}, "spec": {}}))?;
        forbidden(
            "create another GpuNode",
            nodes.create(&dry_run(), &stranger).await,
            not_its_own,
        )
    })
}

#[test]
fn an_agent_renews_no_lease_but_its_own() -> Result<()> {
    story(async |world, _| {
        let (mine, others) = world.one_and_the_others()?;
        let other = &others.first().context("a second node")?.name;
        let agent =
            identity::of_pod(world, &world.pod_on("device-agent", &mine.name).await?).await?;
        let leases: Api<Lease> = Api::namespaced(agent, &world.namespace);
        let renew = |holder: &str| {
            Patch::Merge(
                json!({"spec": {"holderIdentity": holder, "renewTime": "2026-01-01T00:00:00.000000Z"}}),
            )
        };
        let tried = PatchParams {
            dry_run: true,
            ..PatchParams::default()
        };
        let only_its_own = "may create and renew the Lease";
        allowed(
            "its own heartbeat",
            leases
                .patch(&heartbeat_lease(&mine.name), &tried, &renew(&mine.name))
                .await,
        )?;
        forbidden(
            "its own heartbeat for another",
            leases
                .patch(&heartbeat_lease(&mine.name), &tried, &renew(other))
                .await,
            "holderIdentity",
        )?;
        forbidden(
            "another node's heartbeat",
            leases
                .patch(&heartbeat_lease(other), &tried, &renew(other))
                .await,
            only_its_own,
        )?;
        forbidden(
            "the operator's leader lease",
            leases
                .patch("gridstake-operator", &tried, &renew(&mine.name))
                .await,
            only_its_own,
        )
    })
}

#[test]
fn a_token_of_the_agents_account_that_names_no_node_writes_nothing() -> Result<()> {
    story(async |world, _| {
        let (host, _) = world.one_and_the_others()?;
        let bare =
            identity::of_account(world, &world.namespace, "gridstake-device-agent", None).await?;
        let nodes: Api<GpuNode> = Api::all(bare);
        forbidden(
            "a driver",
            try_status(&nodes, &host.name, json!({"driver": {"version": "1"}})).await,
            "names no node",
        )
    })
}

/// Objects of the ledger that the API server would take from the operator.
fn ledger_objects() -> Result<Vec<(ApiResource, DynamicObject)>> {
    let kinds = [
        (
            "usagerecord-full.yaml",
            ApiResource::erase::<UsageRecord>(&()),
        ),
        (
            "settlementbatch-full.yaml",
            ApiResource::erase::<SettlementBatch>(&()),
        ),
        ("incident-full.yaml", ApiResource::erase::<Incident>(&())),
    ];
    let folder = checkout().join("crds/tests/manifests/valid");
    kinds
        .into_iter()
        .map(|(file, kind)| {
            let text = std::fs::read_to_string(folder.join(file))
                .with_context(|| format!("read {file}"))?;
            let mut object: DynamicObject =
                serde_saphyr::from_str(&text).with_context(|| format!("parse {file}"))?;
            if let Some(fields) = object.data.as_object_mut() {
                fields.remove("status");
            }
            Ok((kind, object))
        })
        .collect()
}

fn ledger_api(client: Client, kind: &ApiResource, namespace: &str) -> Api<DynamicObject> {
    if kind.kind == "UsageRecord" {
        Api::namespaced_with(client, namespace, kind)
    } else {
        Api::all_with(client, kind)
    }
}

#[test]
fn nobody_but_the_operator_writes_the_ledger() -> Result<()> {
    story(async |world, tenant| {
        let user = identity::of_user_with_role(world, tenant, "edit").await?;
        let (host, _) = world.one_and_the_others()?;
        let agent =
            identity::of_pod(world, &world.pod_on("device-agent", &host.name).await?).await?;
        let operator = identity::operator(world)?;
        for (kind, object) in ledger_objects()? {
            let api = |client: &Client| ledger_api(client.clone(), &kind, &world.namespace);
            let what = |who: &str| format!("{who} creates a {}", kind.kind);
            forbidden(
                &what("a tenant"),
                api(&user).create(&dry_run(), &object).await,
                "cannot create",
            )?;
            forbidden(
                &what("an agent"),
                api(&agent).create(&dry_run(), &object).await,
                "cannot create",
            )?;
            forbidden(
                &what("an administrator"),
                api(&world.client).create(&dry_run(), &object).await,
                "only the operator",
            )?;
            if kind.kind == "UsageRecord" {
                let own = ledger_api(user.clone(), &kind, &tenant.namespace);
                forbidden(
                    "a tenant creates a UsageRecord in its own namespace",
                    own.create(&dry_run(), &object).await,
                    "cannot create",
                )?;
                allowed(
                    &what("the operator"),
                    api(&operator).create(&dry_run(), &object).await,
                )?;
            }
        }
        Ok(())
    })
}

#[test]
fn a_tenant_writes_the_spec_of_its_jobs_and_nothing_that_counts_as_use() -> Result<()> {
    story(async |world, tenant| {
        let (host, _) = world.one_and_the_others()?;
        let running = tenant
            .submit(&job("running", 1).runs_until_released())
            .await?;
        running.until_running().await?;
        let user = identity::of_user_with_role(world, tenant, "edit").await?;
        let tried = PatchParams {
            dry_run: true,
            ..PatchParams::default()
        };

        let jobs: Api<ComputeJob> = Api::namespaced(user.clone(), &tenant.namespace);
        let suspend = Patch::Merge(json!({"spec": {"suspend": true}}));
        allowed(
            "suspend its job",
            jobs.patch("running", &tried, &suspend).await,
        )?;
        let ended = json!({"endReason": "Succeeded"});
        forbidden(
            "end its job in the status",
            try_status(&jobs, "running", ended.clone()).await,
            "cannot patch",
        )?;
        let as_administrator: Api<ComputeJob> = tenant.api();
        forbidden(
            "an administrator ends it there",
            try_status(&as_administrator, "running", ended).await,
            "is written by the operator",
        )?;

        let nodes: Api<GpuNode> = Api::all(user.clone());
        let free = Patch::Merge(json!({"spec": {"pricing": null}}));
        forbidden(
            "change a node's price",
            nodes.patch(&host.name, &tried, &free).await,
            "cannot patch",
        )?;
        let bindings: Api<StakeBinding> = Api::all(user.clone());
        forbidden(
            "read a StakeBinding",
            bindings.get("any").await,
            "cannot get",
        )?;

        let pods: Api<Pod> = Api::namespaced(user, &tenant.namespace);
        let uid = running.get().await?.metadata.uid.context("the job's uid")?;
        let forged: Pod = serde_json::from_value(json!({
            "metadata": {"name": "forged", "labels": {"gridstake.dev/job": "running", "gridstake.dev/job-uid": uid, "gridstake.dev/attempt": "1", "gridstake.dev/member": "1"}},
            "spec": {"containers": [{"name": "main", "image": "localhost/busybox:1"}]},
        }))?;
        forbidden(
            "forge a member",
            pods.create(&dry_run(), &forged).await,
            "counts as that job's",
        )?;
        for (what, patch, words) in [
            (
                "take the finalizer off",
                json!({"metadata": {"finalizers": null}}),
                "keeps a pod until its use is recorded",
            ),
            (
                "change the attempt",
                json!({"metadata": {"labels": {"gridstake.dev/attempt": "7"}}}),
                "only the operator changes them",
            ),
            (
                "disown it",
                json!({"metadata": {"ownerReferences": null}}),
                "cannot be changed",
            ),
        ] {
            forbidden(
                what,
                pods.patch("running-1-0", &tried, &Patch::Merge(patch))
                    .await,
                words,
            )?;
        }
        running.release().await?;
        running.until_complete().await?;
        Ok(())
    })
}
