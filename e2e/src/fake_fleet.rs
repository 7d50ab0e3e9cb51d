//! Nodes that are objects only: nothing runs on them, and a task plays kubelet and agent of each. For what needs more nodes than a
//! machine can run: half of a fleet that is gone at once.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result};
use gridstake_crds::{
    GpuNode,
    gpu_node::Device,
    names::{GPU_RESOURCE, LABEL_JOB, MANAGER_AGENT, heartbeat_lease},
};
use k8s_openapi::{
    api::{
        authentication::v1::BoundObjectReference,
        coordination::v1::Lease,
        core::v1::{Node, Pod},
    },
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::task::JoinHandle;

use crate::{identity, world::World};

/// The label by which jobs choose these nodes, and the taint that keeps other pods off.
pub const FAKE: &str = "e2e.gridstake.dev/fake";
/// How often kubelets and agents are heard of: well within the times after which they are missed.
const EVERY: Duration = Duration::from_secs(3);

/// A fleet of fake nodes. They go with the story.
pub struct FakeFleet {
    /// The nodes' names.
    pub nodes: Vec<String>,
    manners: Arc<Mutex<Manners>>,
    player: JoinHandle<()>,
}

/// Which nodes do not behave.
#[derive(Debug, Default)]
struct Manners {
    /// Nothing is heard of them.
    silent: BTreeSet<String>,
    /// Their kubelets refuse every pod.
    refusing: BTreeSet<String>,
    /// What the programs of pods leave in their termination messages when they end well; `None`: they do not end.
    last_words: Option<String>,
}

/// One node, and in whose name its agent speaks.
struct FakeNode {
    name: String,
    /// The address that its pods say they have, of a network that is there for examples: one address is enough to be found by.
    address: String,
    agent: Client,
}

impl FakeFleet {
    /// Makes `count` nodes, each with the GPUs of the world's first node under other UUIDs.
    pub async fn join(world: &World, count: usize) -> Result<Self> {
        let (host, _) = world.one_and_the_others()?;
        Self::assemble(world, count, host.gpus, None).await
    }

    /// Makes `count` nodes with one GPU of `model` each, as people have them at home.
    pub async fn at_home(world: &World, count: usize, model: &str) -> Result<Self> {
        Self::assemble(world, count, 1, Some(model)).await
    }

    async fn assemble(
        world: &World,
        count: usize,
        gpus: u32,
        product: Option<&str>,
    ) -> Result<Self> {
        let (host, _) = world.one_and_the_others()?;
        let model = world.gpu_nodes().get(&host.name).await?;
        let status = model.status.context("the status of a real node")?;
        let nodes: Vec<String> = (0..count).map(|number| format!("fake-{number}")).collect();
        let (client, all) = (world.client.clone(), nodes.clone());
        let namespace = world.namespace.clone();
        world.undo_at_the_end("remove the fake nodes", async move {
            for name in &all {
                remove(&client, &namespace, name).await?;
            }
            Ok(())
        });
        let mut fakes = Vec::new();
        for (name, number) in nodes.iter().zip(1_u8..) {
            let fake = make(world, name, number, gpus).await?;
            let numbered = status.devices.iter().zip(0..gpus);
            let devices: Vec<_> = numbered
                .map(|(device, index)| Device {
                    uuid: format!("GPU-{name}-{index}"),
                    model: product.map_or_else(|| device.model.clone(), str::to_owned),
                    faults: Vec::new(),
                    ..device.clone()
                })
                .collect();
            show(
                &fake,
                &json!({"devices": devices, "driver": status.driver, "agent": status.agent}),
            )
            .await?;
            fakes.push(fake);
        }
        let manners = Arc::new(Mutex::new(Manners::default()));
        let player = tokio::spawn(play(
            world.client.clone(),
            world.namespace.clone(),
            fakes,
            Arc::clone(&manners),
        ));
        Ok(Self {
            nodes,
            manners,
            player,
        })
    }

    /// From now on nothing is heard of these nodes any more.
    pub fn silence(&self, nodes: &[String]) {
        self.manners().silent.extend(nodes.iter().cloned());
    }

    /// All nodes are heard of again.
    pub fn wake(&self) {
        self.manners().silent.clear();
    }

    /// From now on the kubelet of `node` refuses every pod, as one does whose device plugin fails.
    pub fn refuse(&self, node: &str) {
        self.manners().refusing.insert(node.to_owned());
    }

    /// No kubelet refuses pods any more.
    pub fn heal(&self) {
        self.manners().refusing.clear();
    }

    /// From now on the program of every pod on these nodes ends well soon after it has started, and leaves `last_words` in its
    /// termination message.
    pub fn end_with(&self, last_words: &str) {
        self.manners().last_words = Some(last_words.to_owned());
    }

    fn manners(&self) -> MutexGuard<'_, Manners> {
        self.manners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for FakeFleet {
    fn drop(&mut self) {
        self.player.abort();
    }
}

async fn make(world: &World, name: &str, number: u8, gpus: u32) -> Result<FakeNode> {
    let nodes: Api<Node> = Api::all(world.client.clone());
    let node: Node = serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {(FAKE): "true", "kubernetes.io/hostname": name}},
        "spec": {"taints": [{"key": FAKE, "value": "true", "effect": "NoSchedule"}]},
    }))?;
    let node = nodes
        .create(&PostParams::default(), &node)
        .await
        .with_context(|| format!("create Node {name}"))?;
    let resources = json!({"cpu": "32", "memory": "64Gi", "pods": "110", "ephemeral-storage": "100Gi", (GPU_RESOURCE): gpus.to_string()});
    let body =
        json!({"status": {"capacity": resources, "allocatable": resources, "conditions": ready()}});
    nodes
        .patch_status(name, &PatchParams::default(), &Patch::Merge(&body))
        .await?;
    let account = world
        .pods_of("device-agent")
        .await?
        .into_iter()
        .find_map(|pod| pod.spec?.service_account_name)
        .context("the agents' ServiceAccount")?;
    let bound_to = BoundObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Node".into()),
        name: Some(name.to_owned()),
        uid: node.uid(),
    };
    let agent = identity::of_account(world, &world.namespace, &account, Some(bound_to)).await?;
    let fake = FakeNode {
        name: name.to_owned(),
        address: format!("192.0.2.{number}"),
        agent,
    };
    beat(&world.client, &world.namespace, &fake).await?;
    let gpu_nodes: Api<GpuNode> = Api::all(fake.agent.clone());
    gpu_nodes
        .create(
            &PostParams {
                field_manager: Some(MANAGER_AGENT.into()),
                ..PostParams::default()
            },
            &GpuNode::new(name, serde_json::from_value(json!({}))?),
        )
        .await
        .with_context(|| format!("create GpuNode {name}"))?;
    Ok(fake)
}

async fn show(fake: &FakeNode, status: &serde_json::Value) -> Result<()> {
    let body = json!({
        "apiVersion": "gridstake.dev/v1alpha1", "kind": "GpuNode",
        "metadata": {"name": fake.name}, "status": status,
    });
    Api::<GpuNode>::all(fake.agent.clone())
        .patch_status(
            &fake.name,
            &PatchParams::apply(MANAGER_AGENT).force(),
            &Patch::Apply(body),
        )
        .await
        .with_context(|| format!("show the GPUs of {}", fake.name))
        .map(drop)
}

fn ready() -> serde_json::Value {
    let now = Timestamp::now().to_string();
    json!([{"type": "Ready", "status": "True", "reason": "Fake", "message": "a fake kubelet is ready",
        "lastHeartbeatTime": now, "lastTransitionTime": now}])
}

/// Plays kubelet and agent of every node that is not to be silent, until it is aborted. A request that fails is made anew in the
/// next round: what follows from a missed one is what the story looks at.
async fn play(
    client: Client,
    namespace: String,
    fakes: Vec<FakeNode>,
    manners: Arc<Mutex<Manners>>,
) {
    loop {
        for fake in &fakes {
            let (is_silent, refuses, last_words) = {
                let manners = manners.lock().unwrap_or_else(PoisonError::into_inner);
                let is_among = |nodes: &BTreeSet<String>| nodes.contains(&fake.name);
                let words = manners.last_words.clone();
                (
                    is_among(&manners.silent),
                    is_among(&manners.refusing),
                    words,
                )
            };
            if !is_silent {
                let _ = beat(&client, &namespace, fake).await;
                let _ = run_pods(&client, fake, refuses, last_words.as_deref()).await;
            }
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// Renews the kubelet's Lease, its word that it is ready, and the agent's Lease.
async fn beat(client: &Client, namespace: &str, fake: &FakeNode) -> Result<()> {
    let nodes: Api<Node> = Api::all(client.clone());
    let conditions = json!({"status": {"conditions": ready()}});
    nodes
        .patch_status(
            &fake.name,
            &PatchParams::default(),
            &Patch::Strategic(conditions),
        )
        .await?;
    let renew = |name: &str| {
        json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": name, "labels": {
                "app.kubernetes.io/name": "gridstake", "app.kubernetes.io/component": "device-agent",
            }},
            "spec": {"holderIdentity": fake.name, "leaseDurationSeconds": 40, "renewTime": MicroTime(Timestamp::now())},
        })
    };
    let kubelets: Api<Lease> = Api::namespaced(client.clone(), "kube-node-lease");
    let params = PatchParams::apply("e2e-fake-kubelet").force();
    kubelets
        .patch(&fake.name, &params, &Patch::Apply(renew(&fake.name)))
        .await?;
    let name = heartbeat_lease(&fake.name);
    let agents: Api<Lease> = Api::namespaced(fake.agent.clone(), namespace);
    let params = PatchParams::apply(MANAGER_AGENT).force();
    agents
        .patch(&name, &params, &Patch::Apply(renew(&name)))
        .await?;
    Ok(())
}

/// What a kubelet does with the pods of jobs: those that are bound run, unless it refuses them, until they end with their last words,
/// and those that are to go have ended and are gone.
async fn run_pods(
    client: &Client,
    fake: &FakeNode,
    refuses: bool,
    last_words: Option<&str>,
) -> Result<()> {
    let FakeNode {
        name: node,
        address,
        ..
    } = fake;
    let all: Api<Pod> = Api::all(client.clone());
    let own = ListParams::default()
        .labels(LABEL_JOB)
        .fields(&format!("spec.nodeName={node}"));
    for pod in all.list(&own).await? {
        let (name, namespace) = (pod.name_any(), pod.namespace().unwrap_or_default());
        let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
        let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
        let now = Timestamp::now().to_string();
        let main = pod.spec.iter().flat_map(|spec| &spec.containers).next();
        let container = |state: serde_json::Value| json!([{"name": main.map(|c| &c.name), "image": "fake", "imageID": "fake", "ready": true, "restartCount": 0, "state": state}]);
        let started = pod
            .status
            .as_ref()
            .and_then(|s| s.start_time.as_ref())
            .map_or_else(|| now.clone(), |t| t.0.to_string());
        let leaves = pod.metadata.deletion_timestamp.is_some();
        let status = match (phase, leaves) {
            (Some("Pending"), false) if refuses => {
                json!({"phase": "Failed", "reason": "UnexpectedAdmissionError",
                "message": "Allocate failed due to rpc error: code = Unknown desc = the device plugin is out of order, which is unexpected"})
            }
            (Some("Pending"), false) => json!({"phase": "Running", "startTime": now,
                "podIP": address, "podIPs": [{"ip": address}],
                "containerStatuses": container(json!({"running": {"startedAt": now}}))}),
            (Some("Running"), false) if last_words.is_some() => json!({"phase": "Succeeded",
                "containerStatuses": container(json!({"terminated": {"exitCode": 0, "reason": "Completed", "message": last_words,
                    "startedAt": started, "finishedAt": now}}))}),
            (Some("Running"), true) => json!({"phase": "Failed",
                "containerStatuses": container(json!({"terminated": {"exitCode": 143, "startedAt": started, "finishedAt": now}}))}),
            _ => json!(null),
        };
        if !status.is_null() {
            let body = Patch::Merge(json!({"status": status}));
            pods.patch_status(&name, &PatchParams::default(), &body)
                .await?;
        }
        if leaves {
            let _ = pods
                .delete(&name, &DeleteParams::default().grace_period(0))
                .await;
        }
    }
    Ok(())
}

async fn remove(client: &Client, namespace: &str, name: &str) -> Result<()> {
    let gone = |result: std::result::Result<(), kube::Error>| match result {
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        result => result,
    };
    let now = DeleteParams::default();
    let nodes: Api<Node> = Api::all(client.clone());
    gone(nodes.delete(name, &now).await.map(drop))?;
    let gpu_nodes: Api<GpuNode> = Api::all(client.clone());
    gone(gpu_nodes.delete(name, &now).await.map(drop))?;
    let leases: Api<Lease> = Api::namespaced(client.clone(), namespace);
    gone(leases.delete(&heartbeat_lease(name), &now).await.map(drop))?;
    Ok(())
}
