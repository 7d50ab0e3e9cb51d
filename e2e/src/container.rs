//! The processes in a pod's container, reached through its node.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client, ResourceExt as _};

use crate::{
    command::world_script,
    wait::{Look, look_until},
};

/// Whether commands can be run on the nodes of this world.
#[must_use]
pub fn nodes_can_be_reached() -> bool {
    std::env::var("E2E_CLUSTER").is_ok_and(|kind| kind == "native" || kind == "kind")
}

/// Sends a signal, such as `KILL`, to every process of the pod's container.
pub async fn signal(pod: &Pod, signal: &str) -> Result<()> {
    let statuses = pod
        .status
        .iter()
        .flat_map(|s| s.container_statuses.iter().flatten());
    let Some((_, id)) = statuses
        .filter_map(|c| c.container_id.as_deref())
        .find_map(|id| id.split_once("://"))
    else {
        bail!("the pod {} has no container", pod.name_any());
    };
    ensure!(
        id.len() >= 32 && id.bytes().all(|b| b.is_ascii_hexdigit()),
        "{id:?} is no container's id"
    );
    // The container's processes are those whose cgroup bears its id.
    let script = format!(
        "pids=$(grep -ls {id} /proc/[0-9]*/cgroup | cut -d/ -f3); [ -n \"$pids\" ] && kill -{signal} $pids"
    );
    on_node_of(pod, &script).await
}

/// Runs a shell script as root on the pod's node.
pub async fn on_node_of(pod: &Pod, script: &str) -> Result<()> {
    let node = pod
        .spec
        .as_ref()
        .and_then(|s| s.node_name.clone())
        .with_context(|| format!("{} is on no node", pod.name_any()))?;
    world_script(["on-node", &node, "sh", "-c", script])
        .await
        .map(drop)
}

/// How often the pod's containers were started again.
#[must_use]
pub fn restarts(pod: &Pod) -> i32 {
    pod.status
        .iter()
        .flat_map(|s| s.container_statuses.iter().flatten())
        .map(|c| c.restart_count)
        .sum()
}

/// Each pod's uid and how often its containers were started again, by the pod's name.
#[must_use]
pub fn identities(pods: &[Pod]) -> BTreeMap<String, (Option<String>, i32)> {
    pods.iter()
        .map(|p| (p.name_any(), (p.uid(), restarts(p))))
        .collect()
}

/// Waits until the pod's container has been started again since `before`.
pub async fn until_restarted(client: &Client, before: &Pod) -> Result<()> {
    let name = before.name_any();
    let namespace = before.namespace().context("the pod has no namespace")?;
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    look_until(&format!("{name} is started again"), || async {
        let now = pods.get(&name).await?;
        Ok(Look::whether(restarts(&now) > restarts(before), || {
            format!("{} restarts", restarts(&now))
        }))
    })
    .await
}
