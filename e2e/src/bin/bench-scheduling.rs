//! Measures how soon jobs are placed on a fleet of nodes that kwok plays, on a real control plane.
//!
//! ```text
//! bench-scheduling fleet NODES               makes so many nodes of eight GPUs; kwok plays their kubelets
//! bench-scheduling beats                     plays the heartbeats of their agents until it is killed
//! bench-scheduling burst JOBS                creates so many jobs of one GPU at once: when is each decided, and bound?
//! bench-scheduling sustained SECONDS AT_ONCE keeps so many jobs unbound for so long: how many are bound a second?
//! bench-scheduling pending JOBS              creates so many jobs that find no place, and waits until each was told
//! ```
//!
//! Jobs run in the namespace `bench`, which is made anew. Times are this program's, from the answer to a create to the watch event
//! that shows the fact.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use gridstake_crds::{
    ComputeJob, GpuNode,
    compute_job::ComputeJobCondition,
    condition,
    gpu_node::GpuNodeCondition,
    names::{GPU_RESOURCE, LABEL_JOB, MANAGER_AGENT, heartbeat_lease},
};
use gridstake_e2e::{identity::administrator_as_operator, world::World};
use k8s_openapi::{
    api::{
        coordination::v1::Lease,
        core::v1::{Namespace, Node, Pod},
    },
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
    runtime::{WatchStreamExt as _, watcher},
};
use serde_json::{Value, json};
use tokio::{sync::Semaphore, task::JoinHandle};

const NAMESPACE: &str = "bench";
/// The label of the fake nodes, and their taint.
const FAKE: &str = "e2e.gridstake.dev/fake";
/// Requests that are under way at one time.
const AT_ONCE: usize = 16;
const GPUS: u32 = 8;
/// How often an agent of these nodes is heard of. Real ones are every 10 s; a minute without one counts against a node.
const BEAT: Duration = Duration::from_secs(30);
/// Nothing here takes longer.
const PATIENCE: Duration = Duration::from_mins(20);

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if arguments == ["beats"] {
        return beats().await;
    }
    let world = World::connect().await?;
    match arguments[..] {
        ["fleet", nodes] => fleet(&world, nodes.parse()?).await,
        ["burst", jobs] => burst(&world, jobs.parse()?).await,
        ["sustained", seconds, at_once] => {
            sustained(&world, seconds.parse()?, at_once.parse()?).await
        }
        ["pending", jobs] => pending(&world, jobs.parse()?).await,
        _ => bail!(
            "usage: bench-scheduling fleet NODES | beats | burst JOBS | sustained SECONDS AT_ONCE | pending JOBS"
        ),
    }
}

async fn fleet(world: &World, count: usize) -> Result<()> {
    // No agent runs on them: their part is played by an administrator, whom no admission policy refuses anything.
    let client = administrator_as_operator().await?;
    let nodes = world.gpu_nodes().list(&ListParams::default()).await?;
    let model = nodes.items.into_iter().next().context("a GPU node")?;
    let model = model.status.context("the status of a real node")?;
    let device = serde_json::to_value(model.devices.first().context("a GPU")?)?;
    let begin = Instant::now();
    let made = |number: usize| make(&client, &world.namespace, number, &device, &model);
    stream::iter(0..count)
        .map(made)
        .buffer_unordered(AT_ONCE)
        .try_collect::<()>()
        .await?;
    println!(
        "{count} nodes made in {:.1} s",
        begin.elapsed().as_secs_f64()
    );
    let nodes = world.gpu_nodes();
    loop {
        let all = nodes.list(&ListParams::default()).await?;
        let offered = all.iter().filter(|node| {
            let conditions = node.status.iter().flat_map(|status| &status.conditions);
            let conditions: Vec<_> = conditions.cloned().collect();
            node.name_any().starts_with("fake-")
                && condition::is_true(&conditions, GpuNodeCondition::Offered)
                // The last thing that is said of a new node.
                && condition::find(&conditions, GpuNodeCondition::Measured).is_some()
        });
        let offered = offered.count();
        if offered >= count {
            break;
        }
        if begin.elapsed() > PATIENCE {
            bail!("{offered} of {count} nodes are offered");
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    println!("all offered after {:.1} s", begin.elapsed().as_secs_f64());
    Ok(())
}

async fn make(
    client: &Client,
    namespace: &str,
    number: usize,
    device: &Value,
    model: &gridstake_crds::gpu_node::GpuNodeStatus,
) -> Result<()> {
    let name = format!("fake-{number:05}");
    let resources = json!({
        "cpu": "96", "memory": "1Ti", "pods": "110", "ephemeral-storage": "1Ti", (GPU_RESOURCE): GPUS.to_string(),
    });
    let node: Node = serde_json::from_value(json!({
        "metadata": {
            "name": name,
            "annotations": {"kwok.x-k8s.io/node": "fake"},
            "labels": {
                (FAKE): "true", "kubernetes.io/hostname": name,
                "topology.kubernetes.io/zone": format!("z{}", number % 8), "gridstake.dev/rack": format!("r{}", number / 16),
            },
        },
        "spec": {"taints": [{"key": FAKE, "value": "true", "effect": "NoSchedule"}]},
        "status": {"capacity": resources, "allocatable": resources},
    }))?;
    let create = PostParams::default();
    let nodes: Api<Node> = Api::all(client.clone());
    created(nodes.create(&create, &node).await).with_context(|| format!("create Node {name}"))?;
    let lease: Lease = serde_json::from_value(json!({
        "metadata": {"name": heartbeat_lease(&name), "labels": {
            "app.kubernetes.io/name": "gridstake", "app.kubernetes.io/component": "device-agent",
        }},
        "spec": {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": MicroTime(Timestamp::now())},
    }))?;
    let leases: Api<Lease> = Api::namespaced(client.clone(), namespace);
    created(leases.create(&create, &lease).await)?;
    let gpu_nodes: Api<GpuNode> = Api::all(client.clone());
    let gpu_node = GpuNode::new(&name, serde_json::from_value(json!({}))?);
    created(gpu_nodes.create(&create, &gpu_node).await)?;
    let devices: Vec<Value> = (0..GPUS)
        .map(|index| {
            let mut device = device.clone();
            device["uuid"] = json!(format!("GPU-{name}-{index}"));
            device["index"] = json!(index);
            device["faults"] = json!([]);
            device
        })
        .collect();
    let status = json!({
        "apiVersion": "gridstake.dev/v1alpha1", "kind": "GpuNode", "metadata": {"name": name},
        "status": {"devices": devices, "driver": model.driver, "agent": model.agent},
    });
    let apply = PatchParams::apply(MANAGER_AGENT).force();
    gpu_nodes
        .patch_status(&name, &apply, &Patch::Apply(status))
        .await
        .with_context(|| format!("show the GPUs of {name}"))?;
    Ok(())
}

/// Renews the Lease of each fake node's agent every [`BEAT`], one after the other.
/// Beside the other commands: it does not wait for its turn, as whoever enters the [`World`] does.
async fn beats() -> Result<()> {
    let client = administrator_as_operator().await?;
    let prefix = heartbeat_lease("fake-");
    loop {
        let leases = Api::<Lease>::all(client.clone())
            .list_metadata(&ListParams::default())
            .await?;
        let fakes: Vec<_> = leases
            .iter()
            .filter(|lease| lease.name_any().starts_with(&prefix))
            .collect();
        let count = u32::try_from(fakes.len())?.max(1);
        let mut next = tokio::time::interval(BEAT / count);
        next.tick().await;
        for lease in fakes {
            next.tick().await;
            let namespace = lease.namespace().unwrap_or_default();
            let renewed = json!({"spec": {"renewTime": MicroTime(Timestamp::now())}});
            // One that is lost is made up for by the next.
            let _ = Api::<Lease>::namespaced(client.clone(), &namespace)
                .patch(
                    &lease.name_any(),
                    &PatchParams::default(),
                    &Patch::Merge(renewed),
                )
                .await;
        }
        next.tick().await;
    }
}

/// Whether it was created, now or before.
fn created<T>(result: Result<T, kube::Error>) -> Result<(), kube::Error> {
    match result {
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
        result => result.map(drop),
    }
}

/// What has happened to each job, in seconds since the begin.
#[derive(Debug, Default)]
struct Facts {
    created: HashMap<String, f64>,
    decided: HashMap<String, f64>,
    told: HashMap<String, f64>,
    bound: HashMap<String, f64>,
    ended: HashMap<String, f64>,
}

/// Watches jobs and pods.
struct Watched {
    facts: Arc<Mutex<Facts>>,
    begin: Instant,
    watches: Vec<JoinHandle<()>>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        for watch in &self.watches {
            watch.abort();
        }
    }
}

impl Watched {
    fn start(client: &Client) -> Self {
        let (facts, begin) = (Arc::new(Mutex::new(Facts::default())), Instant::now());
        let jobs: Api<ComputeJob> = Api::namespaced(client.clone(), NAMESPACE);
        let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
        let seen_jobs = watch(jobs, Arc::clone(&facts), move |facts, job: &ComputeJob| {
            let (name, now) = (job.name_any(), begin.elapsed().as_secs_f64());
            let Some(status) = &job.status else { return };
            if status.placement.is_some() {
                facts.decided.entry(name.clone()).or_insert(now);
            }
            if condition::find(&status.conditions, ComputeJobCondition::Scheduled)
                .is_some_and(|c| c.reason == "InsufficientCapacity")
            {
                facts.told.entry(name.clone()).or_insert(now);
            }
            if status.end_reason.is_some() {
                facts.ended.entry(name).or_insert(now);
            }
        });
        let seen_pods = watch(pods, Arc::clone(&facts), move |facts, pod: &Pod| {
            let is_bound = pod
                .spec
                .as_ref()
                .is_some_and(|spec| spec.node_name.is_some());
            if let Some(job) = pod.labels().get(LABEL_JOB).filter(|_| is_bound) {
                let now = begin.elapsed().as_secs_f64();
                facts.bound.entry(job.clone()).or_insert(now);
            }
        });
        Self {
            facts,
            begin,
            watches: vec![seen_jobs, seen_pods],
        }
    }

    fn with<T>(&self, look: impl FnOnce(&mut Facts) -> T) -> T {
        look(&mut self.facts.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn create(&self, jobs: &Api<ComputeJob>, name: String, job: Value) -> Result<()> {
        let job: ComputeJob = serde_json::from_value(job)?;
        jobs.create(&PostParams::default(), &job)
            .await
            .with_context(|| format!("create ComputeJob {name}"))?;
        let now = self.begin.elapsed().as_secs_f64();
        self.with(|facts| facts.created.insert(name, now));
        Ok(())
    }

    async fn until(&self, what: &str, count: usize, of: impl Fn(&Facts) -> usize) -> Result<()> {
        let begin = Instant::now();
        loop {
            let found = self.with(|facts| of(facts));
            if found >= count {
                return Ok(());
            }
            if begin.elapsed() > PATIENCE {
                bail!("{found} of {count} jobs are {what}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

fn watch<K>(
    objects: Api<K>,
    facts: Arc<Mutex<Facts>>,
    note: impl Fn(&mut Facts, &K) + Send + 'static,
) -> JoinHandle<()>
where
    K: kube::Resource<DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + Send
        + for<'de> k8s_openapi::serde::Deserialize<'de>
        + 'static,
{
    tokio::spawn(async move {
        let mut events = watcher(objects, watcher::Config::default())
            .applied_objects()
            .boxed();
        while let Some(event) = events.next().await {
            if let Ok(object) = event {
                note(
                    &mut facts.lock().unwrap_or_else(PoisonError::into_inner),
                    &object,
                );
            }
        }
    })
}

fn job(name: &str, gpus: u32) -> Value {
    json!({
        "apiVersion": "gridstake.dev/v1alpha1", "kind": "ComputeJob", "metadata": {"name": name},
        "spec": {"gpu": {"count": gpus}, "template": {"spec": {
            "nodeSelector": {(FAKE): "true"},
            "tolerations": [{"key": FAKE, "operator": "Exists"}],
            "containers": [{"name": "main", "image": "localhost/none:1"}],
        }}},
    })
}

/// The namespace, without jobs.
async fn fresh(client: &Client) -> Result<Api<ComputeJob>> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    if namespaces.get_opt(NAMESPACE).await?.is_some() {
        namespaces
            .delete(NAMESPACE, &DeleteParams::default())
            .await?;
        let begin = Instant::now();
        while namespaces.get_opt(NAMESPACE).await?.is_some() {
            if begin.elapsed() > PATIENCE {
                bail!("namespace {NAMESPACE} does not go");
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
    let namespace = serde_json::from_value(json!({"metadata": {"name": NAMESPACE}}))?;
    namespaces
        .create(&PostParams::default(), &namespace)
        .await?;
    Ok(Api::namespaced(client.clone(), NAMESPACE))
}

async fn burst(world: &World, count: usize) -> Result<()> {
    let jobs = fresh(&world.client).await?;
    let watched = Watched::start(&world.client);
    stream::iter(0..count)
        .map(|number| {
            let name = format!("burst-{number:05}");
            let body = job(&name, 1);
            watched.create(&jobs, name, body)
        })
        .buffer_unordered(AT_ONCE)
        .try_collect::<()>()
        .await?;
    watched
        .until("decided", count, |facts| facts.decided.len())
        .await?;
    watched
        .until("bound", count, |facts| facts.bound.len())
        .await?;
    watched.with(|facts| {
        let last = facts.created.values().copied().fold(0.0, f64::max);
        let since_created = |times: &HashMap<String, f64>| -> Vec<f64> {
            let since = |(name, at): (&String, &f64)| {
                Some((at - facts.created.get(name)?).max(0.0))
            };
            times.iter().filter_map(since).collect()
        };
        let decided = Quantiles::of(since_created(&facts.decided));
        let bound = Quantiles::of(facts.bound.values().map(|at| (at - last).max(0.0)).collect());
        println!(
            "burst jobs={count} created_s={last:.2} decided_p50_s={:.2} decided_p95_s={:.2} decided_p99_s={:.2} bound_after_last_p95_s={:.2} all_bound_after_last_s={:.2}",
            decided.p50, decided.p95, decided.p99, bound.p95, bound.most
        );
    });
    Ok(())
}

struct Quantiles {
    p50: f64,
    p95: f64,
    p99: f64,
    most: f64,
}

impl Quantiles {
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |percent: usize| {
            let position = (values.len() * percent).div_ceil(100).saturating_sub(1);
            values.get(position).copied().unwrap_or(f64::NAN)
        };
        Self {
            p50: at(50),
            p95: at(95),
            p99: at(99),
            most: at(100),
        }
    }
}

async fn sustained(world: &World, seconds: u32, at_once: usize) -> Result<()> {
    let jobs = fresh(&world.client).await?;
    let watched = Arc::new(Watched::start(&world.client));
    let unbound = Arc::new(Semaphore::new(at_once));
    let number = Arc::new(AtomicUsize::new(0));
    let end = Instant::now() + Duration::from_secs(seconds.into());
    let mut tasks = Vec::new();
    for _ in 0..AT_ONCE {
        let (jobs, watched, unbound, number) = (
            jobs.clone(),
            Arc::clone(&watched),
            Arc::clone(&unbound),
            Arc::clone(&number),
        );
        tasks.push(tokio::spawn(async move {
            while Instant::now() < end {
                let ticket = tokio::time::timeout_at(end.into(), unbound.acquire()).await;
                let Ok(Ok(ticket)) = ticket else { break };
                ticket.forget();
                let name = format!("steady-{:06}", number.fetch_add(1, Ordering::Relaxed));
                let body = job(&name, 1);
                watched.create(&jobs, name, body).await?;
            }
            Ok::<_, anyhow::Error>(())
        }));
    }
    // Each job that is bound lets another one be created.
    let mut seen = 0;
    while Instant::now() < end {
        let bound = watched.with(|facts| facts.bound.len());
        unbound.add_permits(bound.saturating_sub(seen));
        seen = bound;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for task in tasks {
        task.await??;
    }
    watched.with(|facts| {
        // The first fifth is the start.
        let from = watched.begin.elapsed().as_secs_f64().min(seconds.into()) / 5.0;
        let until = f64::from(seconds);
        let within = |at: &&f64| (from..until).contains(*at);
        let count = |times: &HashMap<String, f64>| {
            let within = times.values().filter(within).count();
            u32::try_from(within).map_or(f64::INFINITY, f64::from)
        };
        println!(
            "sustained seconds={seconds} at_once={at_once} created={} bound_per_s={:.1} ended_per_s={:.1}",
            facts.created.len(),
            count(&facts.bound) / (until - from),
            count(&facts.ended) / (until - from),
        );
    });
    Ok(())
}

async fn pending(world: &World, count: usize) -> Result<()> {
    let jobs = fresh(&world.client).await?;
    let watched = Watched::start(&world.client);
    // Each fits on some node in principle, and all of them together take many times the fleet.
    let shapes: BTreeMap<usize, u32> = [(0, 8), (1, 4), (2, 2), (3, 1)].into();
    let begin = Instant::now();
    stream::iter(0..count)
        .map(|number| {
            let name = format!("pending-{number:06}");
            let gpus = shapes.get(&(number % 4)).copied().unwrap_or(1);
            let body = job(&name, gpus);
            watched.create(&jobs, name, body)
        })
        .buffer_unordered(AT_ONCE)
        .try_collect::<()>()
        .await?;
    let created = begin.elapsed().as_secs_f64();
    watched
        .until("decided or told that they wait", count, |facts| {
            facts.decided.len()
                + facts
                    .told
                    .keys()
                    .filter(|name| !facts.decided.contains_key(*name))
                    .count()
        })
        .await?;
    println!(
        "pending jobs={count} created_s={created:.1} all_told_s={:.1}",
        begin.elapsed().as_secs_f64()
    );
    Ok(())
}
