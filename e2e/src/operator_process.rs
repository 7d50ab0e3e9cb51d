//! The operator's processes, and how a story kills one.

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Pod};
use kube::{Api, ResourceExt as _, api::DeleteParams};

use crate::{
    command::world_script,
    wait::{Look, look_until},
    world::World,
};

/// The Lease that the leading replica holds.
const LEADER_LEASE: &str = "gridstake-operator";

/// The pod of the replica that leads.
pub async fn leader(world: &World) -> Result<Pod> {
    let leases: Api<Lease> = Api::namespaced(world.client.clone(), &world.namespace);
    look_until("one of the operator's replicas leads", || async {
        let holder = leases
            .get(LEADER_LEASE)
            .await?
            .spec
            .and_then(|s| s.holder_identity)
            .unwrap_or_default();
        let replicas = world.pods_of("operator").await?;
        let found = replicas.into_iter().find(|p| p.name_any() == holder);
        Ok(Look::at(found, || {
            format!("the Lease {LEADER_LEASE} is held by {holder:?}, which is no pod")
        }))
    })
    .await
}

/// Kills the process in a replica's container with SIGKILL, and waits until it has been started again.
///
/// On a cluster whose nodes cannot be reached from here, the pod is deleted without grace instead.
pub async fn kill(world: &World, replica: &Pod) -> Result<()> {
    let name = replica.name_any();
    if std::env::var("E2E_CLUSTER").is_ok_and(|kind| kind == "native" || kind == "kind") {
        sigkill(replica).await?;
        let before = restarts(replica);
        return look_until(
            &format!("{name} is started again after SIGKILL"),
            || async {
                let pods: Api<Pod> = Api::namespaced(world.client.clone(), &world.namespace);
                let now = pods.get(&name).await?;
                Ok(Look::whether(restarts(&now) > before, || {
                    format!("{} restarts", restarts(&now))
                }))
            },
        )
        .await;
    }
    let pods: Api<Pod> = Api::namespaced(world.client.clone(), &world.namespace);
    let at_once = DeleteParams::default().grace_period(0);
    pods.delete(&name, &at_once)
        .await
        .map(drop)
        .with_context(|| format!("delete {name} without grace"))
}

async fn sigkill(replica: &Pod) -> Result<()> {
    let node = replica
        .spec
        .as_ref()
        .and_then(|s| s.node_name.clone())
        .context("the replica is on no node")?;
    let statuses = replica
        .status
        .iter()
        .flat_map(|s| s.container_statuses.iter().flatten());
    let Some((_, id)) = statuses
        .filter_map(|c| c.container_id.as_deref())
        .find_map(|id| id.split_once("://"))
    else {
        bail!("the replica {} has no container", replica.name_any());
    };
    ensure!(
        id.len() >= 32 && id.bytes().all(|b| b.is_ascii_hexdigit()),
        "{id:?} is no container's id"
    );
    // The container's processes are those whose cgroup bears its id.
    let script = format!(
        "pids=$(grep -ls {id} /proc/[0-9]*/cgroup | cut -d/ -f3); [ -n \"$pids\" ] && kill -KILL $pids"
    );
    world_script(["on-node", &node, "sh", "-c", &script])
        .await
        .map(drop)
}

fn restarts(pod: &Pod) -> i32 {
    pod.status
        .iter()
        .flat_map(|s| s.container_statuses.iter().flatten())
        .map(|c| c.restart_count)
        .sum()
}
