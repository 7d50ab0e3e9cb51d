//! The cluster that the stories are told to, and Gridstake in it.

use std::{
    collections::BTreeMap,
    fs::File,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use anyhow::{Context as _, Result, bail, ensure};
use futures::{FutureExt as _, future::BoxFuture};
use gridstake_crds::{
    GpuNode,
    closed_enum::ClosedEnum as _,
    condition,
    gpu_node::{DeviceHealth, GpuNodeCondition, GpuNodeReason, OfferState},
    names::GPU_RESOURCE,
};
use k8s_openapi::api::{
    apps::v1::{DaemonSet, Deployment},
    core::v1::{Namespace, Node, Pod},
};
use kube::{
    Api, Client, Config, ResourceExt as _,
    api::{ListParams, ObjectMeta},
    config::{KubeConfigOptions, Kubeconfig},
};

use crate::{
    tenant::Tenant,
    wait::{Look, look_until, watch_until},
};

/// What to do where there is no cluster to tell stories to.
const HOW_TO_GET_A_WORLD: &str = "the stories need a cluster with Gridstake in it, and KUBECONFIG names none. Run \
`make test-e2e`, which makes one; or `make world-up` and then \
`e2e/cluster/world.sh run cargo test -p gridstake-e2e`";

/// Labels of the operator's Deployment, by which the release is found.
pub(crate) const OPERATOR: &str =
    "app.kubernetes.io/name=gridstake,app.kubernetes.io/component=operator";

/// A node with GPUs on offer.
#[derive(Clone, Debug)]
pub struct GpuHost {
    /// The Node's name, which is the GpuNode's.
    pub name: String,
    /// Its GPUs.
    pub gpus: u32,
}

/// The cluster and the installation of Gridstake in it.
pub struct World {
    /// A client with the administrator's rights.
    pub client: Client,
    /// How the cluster is reached.
    pub config: Config,
    /// The namespace in which Gridstake is installed.
    pub namespace: String,
    /// The name of its Helm release.
    pub release: String,
    /// The nodes that offer GPUs, by name; at least two, all with the same number of GPUs.
    pub hosts: Vec<GpuHost>,
    undo: Mutex<Vec<(String, BoxFuture<'static, Result<()>>)>>,
    /// One story at a time, in whatever process: the file KUBECONFIG is locked.
    _lock: File,
}

impl World {
    /// Waits for its turn, connects, removes what a story that was killed has left, and waits until all is well.
    pub async fn enter() -> Result<Self> {
        let mut world = Self::connect().await?;
        world.hosts = world.until_whole().await?;
        Ok(world)
    }

    /// Waits for its turn, connects, and removes what a story that was killed has left. Its hosts are not known yet.
    pub async fn connect() -> Result<Self> {
        let path = kubeconfig()?;
        let lock = File::open(&path)
            .with_context(|| format!("open the file {} of KUBECONFIG", path.display()))?;
        let lock = tokio::task::spawn_blocking(move || lock.lock().map(|()| lock))
            .await?
            .context("wait for the stories of other processes")?;
        let config = connection(&path).await?;
        let client = Client::try_from(config.clone()).context("make a client")?;
        let (namespace, release) = find_release(&client).await?;
        let world = Self {
            client,
            config,
            namespace,
            release,
            hosts: Vec::new(),
            undo: Mutex::default(),
            _lock: lock,
        };
        world.remove_leftovers().await?;
        Ok(world)
    }

    /// The GpuNodes.
    #[must_use]
    pub fn gpu_nodes(&self) -> Api<GpuNode> {
        Api::all(self.client.clone())
    }

    /// The pods of one of Gridstake's parts, such as `device-agent`, in the release's namespace, less those that are on
    /// their way out.
    pub async fn pods_of(&self, component: &str) -> Result<Vec<Pod>> {
        let selector = format!(
            "app.kubernetes.io/instance={},app.kubernetes.io/component={component}",
            self.release
        );
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        let mut pods = pods
            .list(&ListParams::default().labels(&selector))
            .await?
            .items;
        pods.retain(|pod| pod.metadata.deletion_timestamp.is_none());
        Ok(pods)
    }

    /// The running pod of a part of which each node has one.
    pub async fn pod_on(&self, component: &str, node: &str) -> Result<Pod> {
        let on_node = |pod: &Pod| {
            pod.spec
                .as_ref()
                .is_some_and(|s| s.node_name.as_deref() == Some(node))
        };
        self.pods_of(component)
            .await?
            .into_iter()
            .find(on_node)
            .with_context(|| format!("find the {component} pod on {node}"))
    }

    /// A first node, and the rest of them.
    pub fn one_and_the_others(&self) -> Result<(&GpuHost, &[GpuHost])> {
        self.hosts
            .split_first()
            .context("the world has no GPU node")
    }

    /// GPUs of a member so large that a node holds one of them and not two.
    #[must_use]
    pub fn more_than_half_a_node(&self) -> u32 {
        self.hosts.iter().map(|h| h.gpus).max().unwrap_or(0) / 2 + 1
    }

    /// Remembers how to put right what the story is about to disturb. It is done at the story's end, last things first.
    pub fn undo_at_the_end(
        &self,
        what: impl Into<String>,
        undo: impl Future<Output = Result<()>> + Send + 'static,
    ) {
        self.undo
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push((what.into(), undo.boxed()));
    }

    /// Puts right what the story disturbed, and waits until all is well again.
    pub async fn restore(&self) -> Result<()> {
        let undo = std::mem::take(&mut *self.undo.lock().unwrap_or_else(PoisonError::into_inner));
        if undo.is_empty() {
            return Ok(());
        }
        let mut failures = Vec::new();
        for (what, action) in undo.into_iter().rev() {
            if let Err(error) = action.await {
                failures.push(format!("{what}: {error:#}"));
            }
        }
        ensure!(
            failures.is_empty(),
            "cannot put the world right: {}",
            failures.join("; ")
        );
        self.until_whole().await.map(drop)
    }

    /// Waits until every part runs as it is meant to and every node offers all its GPUs; returns the nodes.
    pub async fn until_whole(&self) -> Result<Vec<GpuHost>> {
        look_until("Gridstake runs and every node offers its GPUs", || {
            self.look_at_the_whole()
        })
        .await
    }

    /// Waits until the agent of `node` reports.
    pub async fn until_agent_reports(&self, node: &str) -> Result<()> {
        watch_until(&self.gpu_nodes(), node, "its agent reports", |node| {
            let conditions = &node?.status.as_ref()?.conditions;
            condition::find(conditions, GpuNodeCondition::Reporting)
                .filter(|c| c.reason == GpuNodeReason::AgentReporting.as_str())
                .map(drop)
        })
        .await
    }

    async fn look_at_the_whole(&self) -> Result<Look<Vec<GpuHost>>> {
        let selected =
            ListParams::default().labels(&format!("app.kubernetes.io/instance={}", self.release));
        let deployments: Api<Deployment> = Api::namespaced(self.client.clone(), &self.namespace);
        let daemon_sets: Api<DaemonSet> = Api::namespaced(self.client.clone(), &self.namespace);
        let mut trouble: Vec<String> = deployments
            .list(&selected)
            .await?
            .iter()
            .filter_map(deployment_trouble)
            .collect();
        trouble.extend(
            daemon_sets
                .list(&selected)
                .await?
                .iter()
                .filter_map(daemon_set_trouble),
        );
        let nodes: Api<Node> = Api::all(self.client.clone());
        let allocatable: BTreeMap<_, _> = nodes
            .list(&ListParams::default())
            .await?
            .iter()
            .map(|n| (n.name_any(), allocatable_gpus(n)))
            .collect();
        let gpu_nodes = self.gpu_nodes().list(&ListParams::default()).await?.items;
        for agent in self.pods_of("device-agent").await? {
            let node = agent.spec.and_then(|s| s.node_name).unwrap_or_default();
            if !gpu_nodes.iter().any(|n| n.name_any() == node) {
                trouble.push(format!("there is no GpuNode {node}"));
            }
        }
        trouble.extend(
            gpu_nodes
                .iter()
                .filter_map(|n| gpu_node_trouble(n, allocatable.get(&n.name_any()).copied())),
        );
        let hosts: Vec<_> = gpu_nodes
            .iter()
            .filter_map(|n| {
                Some(GpuHost {
                    name: n.name_any(),
                    gpus: u32::try_from(n.status.as_ref()?.devices.len()).ok()?,
                })
            })
            .collect();
        if hosts.len() < 2 || hosts.windows(2).any(|pair| pair[0].gpus != pair[1].gpus) {
            trouble.push(format!(
                "the stories need two or more nodes with the same number of GPUs, not {hosts:?}"
            ));
        }
        Ok(if trouble.is_empty() {
            Look::Yes(hosts)
        } else {
            Look::NotYet(trouble.join("; "))
        })
    }

    /// Stories that were killed leave namespaces that hold GPUs, steps that are refused, an operator too many.
    async fn remove_leftovers(&self) -> Result<()> {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        for left in namespaces
            .list(&ListParams::default().labels(crate::tenant::LABEL))
            .await?
        {
            if left.metadata.deletion_timestamp.is_none() {
                Tenant::remove_namespace(self, &left.name_any()).await?;
            }
        }
        crate::operator_process::remove_unelected(self).await?;
        crate::admission_hold::remove_all(&self.client).await
    }
}

fn kubeconfig() -> Result<PathBuf> {
    match std::env::var("KUBECONFIG") {
        Ok(paths) if !paths.is_empty() => match std::env::split_paths(&paths).next() {
            Some(path) => Ok(path),
            None => bail!(HOW_TO_GET_A_WORLD),
        },
        _ => bail!(HOW_TO_GET_A_WORLD),
    }
}

/// How the cluster of KUBECONFIG is reached.
pub(crate) async fn connection_of_kubeconfig() -> Result<Config> {
    connection(&kubeconfig()?).await
}

async fn connection(path: &Path) -> Result<Config> {
    let kubeconfig =
        Kubeconfig::read_from(path).with_context(|| format!("read {}", path.display()))?;
    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .with_context(|| format!("understand {}", path.display()))
}

/// The namespace and name of the release.
pub(crate) async fn find_release(client: &Client) -> Result<(String, String)> {
    let deployments: Api<Deployment> = Api::all(client.clone());
    let found = deployments.list(&ListParams::default().labels(OPERATOR)).await.context(
        "look for the operator; with the native cluster, run in its network: e2e/cluster/world.sh run CMD",
    )?;
    let Some(ObjectMeta {
        namespace: Some(namespace),
        labels: Some(labels),
        ..
    }) = found.items.into_iter().next().map(|d| d.metadata)
    else {
        bail!("Gridstake is not installed in the cluster of KUBECONFIG: e2e/install.sh does that");
    };
    let release = labels
        .get("app.kubernetes.io/instance")
        .context("read the release's name from the operator's labels")?;
    Ok((namespace, release.clone()))
}

fn deployment_trouble(deployment: &Deployment) -> Option<String> {
    let status = deployment.status.clone().unwrap_or_default();
    let wanted = deployment
        .spec
        .as_ref()
        .and_then(|s| s.replicas)
        .unwrap_or(1);
    let counts = [
        status.replicas,
        status.updated_replicas,
        status.available_replicas,
    ]
    .map(Option::unwrap_or_default);
    let settled =
        status.observed_generation == deployment.metadata.generation && counts == [wanted; 3];
    (!settled).then(|| {
        format!(
            "{}: replicas, updated, available are {counts:?} of {wanted}",
            deployment.name_any()
        )
    })
}

fn daemon_set_trouble(set: &DaemonSet) -> Option<String> {
    let status = set.status.clone().unwrap_or_default();
    let counts = [
        status.updated_number_scheduled.unwrap_or(0),
        status.number_available.unwrap_or(0),
        status.number_ready,
    ];
    let wanted = status.desired_number_scheduled;
    let settled = status.observed_generation == set.metadata.generation && counts == [wanted; 3];
    (!settled).then(|| {
        format!(
            "{}: updated, available, ready are {counts:?} of {wanted}",
            set.name_any()
        )
    })
}

fn allocatable_gpus(node: &Node) -> u32 {
    let gpus = node
        .status
        .as_ref()
        .and_then(|s| s.allocatable.as_ref()?.get(GPU_RESOURCE));
    gpus.and_then(|q| q.0.parse().ok()).unwrap_or(0)
}

fn gpu_node_trouble(node: &GpuNode, allocatable: Option<u32>) -> Option<String> {
    let name = node.name_any();
    let Some(status) = &node.status else {
        return Some(format!("{name} has no status"));
    };
    let offered = status
        .offer
        .as_ref()
        .is_some_and(|o| o.state == OfferState::Offered);
    let healthy = status
        .devices
        .iter()
        .filter(|d| d.health == DeviceHealth::Healthy)
        .count();
    let settled = offered
        && healthy == status.devices.len()
        && allocatable.is_some_and(|a| usize::try_from(a).is_ok_and(|a| a == healthy))
        && status.capacity == allocatable;
    (!settled).then(|| {
        format!(
            "{name}: offer {:?}, {healthy} of {} devices healthy, capacity {:?}, allocatable {allocatable:?}, agent {:?}",
            status.offer.as_ref().map(|o| o.reason.to_string()),
            status.devices.len(),
            status.capacity,
            status.agent.as_ref().map(|a| (a.state.to_string(), a.message.clone())),
        )
    })
}
