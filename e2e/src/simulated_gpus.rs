//! Breaks and heals the simulated GPUs of a node, as `kubectl exec` into the simulator's pod does by hand.

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt as _, api::DeleteParams};

use crate::{
    command::kubectl,
    job::Job,
    job_manifest::job,
    reputation::gpu_of,
    tenant::Tenant,
    wait::{Look, look_until},
    world::World,
};

/// The simulator on one node.
pub struct Simulator<'a> {
    world: &'a World,
    node: String,
    pod: String,
}

impl<'a> Simulator<'a> {
    /// The simulator on `node`. At the story's end everything on the node is healed.
    pub async fn on(world: &'a World, node: &str) -> Result<Self> {
        let pod = world.pod_on("simulated-gpus", node).await?.name_any();
        let (namespace, name) = (world.namespace.clone(), pod.clone());
        world.undo_at_the_end(format!("heal the GPUs of {node}"), async move {
            simulate(&namespace, &name, &["fault", "clear", "--all"]).await
        });
        Ok(Self {
            world,
            node: node.into(),
            pod,
        })
    }

    /// Sets a fault of one GPU, such as `lost`.
    pub async fn break_gpu(&self, index: u32, fault: &str) -> Result<()> {
        simulate(
            &self.world.namespace,
            &self.pod,
            &["fault", "set", "--gpu", &index.to_string(), fault],
        )
        .await
    }

    /// Lets the GPU of this UUID fall off the bus.
    pub async fn lose(&self, gpu: &str) -> Result<()> {
        self.break_gpu(self.index_of(gpu).await?, "lost").await
    }

    /// A job of this name on the node, which fails since its GPU is lost for good; returns it and the GPU's UUID.
    pub async fn fail_a_job(&self, tenant: &Tenant, name: &str) -> Result<(Job, String)> {
        let victim = job(name, 1).on_node(&self.node).runs_until_released();
        let victim = victim.with("/spec/retry", "{infrastructure: 0}")?;
        let victim = tenant.submit(&victim).await?;
        victim.until_running().await?;
        let gpu = gpu_of(self.world, &victim).await?;
        self.lose(&gpu).await?;
        victim.until_failed().await?;
        Ok((victim, gpu))
    }

    /// Which of the node's GPUs has this UUID.
    pub async fn index_of(&self, gpu: &str) -> Result<u32> {
        let node = self.world.gpu_nodes().get(&self.node).await?;
        let mut devices = node.status.iter().flat_map(|status| &status.devices);
        let device = devices.find(|device| device.uuid == gpu);
        let device = device.with_context(|| format!("{} shows no GPU {gpu}", self.node))?;
        Ok(device.index)
    }

    /// Removes the faults of one GPU.
    pub async fn heal_gpu(&self, index: u32) -> Result<()> {
        simulate(
            &self.world.namespace,
            &self.pod,
            &["fault", "clear", "--gpu", &index.to_string()],
        )
        .await
    }

    /// Gives the node another driver (`current`, `old`, `unloaded`, `absent`) and restarts its agent, as a driver's
    /// installation would. At the story's end the node has its current driver again.
    pub async fn install_driver(&self, kind: &str) -> Result<()> {
        if kind != "current" {
            let (client, namespace) = (self.world.client.clone(), self.world.namespace.clone());
            let (pod, node, selector) = (self.pod.clone(), self.node.clone(), agents(self.world));
            self.world
                .undo_at_the_end(format!("give {node} its driver back"), async move {
                    simulate(&namespace, &pod, &["driver", "current"]).await?;
                    restart_agent(&Api::namespaced(client, &namespace), &selector, &node).await
                });
        }
        simulate(&self.world.namespace, &self.pod, &["driver", kind]).await?;
        let pods = Api::namespaced(self.world.client.clone(), &self.world.namespace);
        restart_agent(&pods, &agents(self.world), &self.node).await
    }
}

async fn simulate(namespace: &str, pod: &str, arguments: &[&str]) -> Result<()> {
    let program = [
        "exec",
        "--namespace",
        namespace,
        pod,
        "--",
        "gridstake-simulated-gpus",
    ];
    kubectl(program.iter().chain(arguments)).await.map(drop)
}

fn agents(world: &World) -> String {
    format!(
        "app.kubernetes.io/instance={},app.kubernetes.io/component=device-agent",
        world.release
    )
}

/// Deletes the agent's pod on `node` and waits until another one is ready.
async fn restart_agent(pods: &Api<Pod>, selector: &str, node: &str) -> Result<()> {
    let on_node = kube::api::ListParams::default()
        .labels(selector)
        .fields(&format!("spec.nodeName={node}"));
    let old = pods
        .list(&on_node)
        .await?
        .items
        .into_iter()
        .next()
        .context("find the agent's pod")?;
    pods.delete(&old.name_any(), &DeleteParams::default())
        .await
        .context("delete the agent's pod")?;
    look_until(&format!("a new agent is ready on {node}"), || async {
        let now = pods.list(&on_node).await?.items;
        let ready = |p: &&Pod| {
            p.uid() != old.uid()
                && p.status
                    .iter()
                    .flat_map(|s| s.conditions.iter().flatten())
                    .any(|c| c.type_ == "Ready" && c.status == "True")
        };
        Ok(Look::whether(now.iter().any(|p| ready(&p)), || {
            format!(
                "{:?}",
                now.iter()
                    .map(|p| (
                        p.name_any(),
                        p.status.as_ref().and_then(|s| s.phase.clone())
                    ))
                    .collect::<Vec<_>>()
            )
        }))
    })
    .await
}
