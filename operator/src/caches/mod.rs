//! Everything that the operator knows of the cluster, in memory, kept up to date by watches.
//!
//! The caches run on every replica, so that a standby can take over at once; controllers run on the leader only. Each
//! watch has its own task and its own back-off. Reading a store never waits.

pub mod census;
pub mod failures;
pub mod heartbeats;
mod last_held;
mod listed;
pub mod prune;
mod ready_nodes;
mod record_index;
pub mod shown_gpus;
pub mod triggers;
mod unfit_gpus;
mod watch;

use std::{sync::Arc, time::Instant};

use gridstake_crds::{
    ComputeJob, GpuNode, Incident, StakeBinding, UsageRecord,
    gpu_node::{GpuNodeCondition, OfferMode},
    names::{LABEL_CHECKS, LABEL_JOB, LABEL_JOB_UID, incidents_about},
};
use k8s_openapi::{
    api::{
        coordination::v1::Lease,
        core::v1::{Namespace, Node, Pod},
        scheduling::v1::PriorityClass,
    },
    jiff::Timestamp,
};
use kube::{
    Api, Client, Resource, ResourceExt as _,
    core::DeserializeGuard,
    runtime::reflector::{ObjectRef, Store},
};
use tokio::task::JoinSet;

use self::{
    failures::{Failure, Failures},
    heartbeats::Heartbeats,
    last_held::LastHeld,
    listed::Listed,
    ready_nodes::ReadyNodes,
    record_index::RecordIndex,
    shown_gpus::ShownGpus,
    triggers::{Pulse, TriggerHub},
    unfit_gpus::UnfitGpus,
    watch::{Seen, everything, watch},
};
use crate::{
    controllers::{
        compute_job::foreign_gates::ForeignGates,
        gpu_node::{
            local_use::asks_for_gpus, remembered_windows::RememberedWindows, signers::Signers,
        },
        placement::owner_cuts::OwnerCuts,
        reclaim::{Reclaims, waiting_first::WaitingFirst},
        stake_binding::observe::LastResolutions,
        usage_record::stated::Stated,
    },
    failover,
    health::Health,
    metrics::Metrics,
    reputation::standing::Standings,
};

/// Selects the agents' heartbeats among the leases of the namespace.
const HEARTBEATS: &str = "app.kubernetes.io/component=device-agent";

/// An object of ours as it is stored: one that cannot be parsed must not hold up the watch of all others.
pub type Guarded<K> = DeserializeGuard<K>;

/// The stores. Cloning shares them.
#[derive(Clone)]
pub struct Caches {
    /// All Nodes.
    pub nodes: Store<Node>,
    /// Pods with the label of a ComputeJob, in any phase, with their whole status.
    pub job_pods: Store<Pod>,
    /// All other pods that have not ended, cut down to what they take and where.
    pub other_pods: Store<Pod>,
    /// All GpuNodes.
    pub gpu_nodes: Store<Guarded<GpuNode>>,
    /// All ComputeJobs.
    pub compute_jobs: Store<Guarded<ComputeJob>>,
    /// All StakeBindings.
    pub stake_bindings: Store<Guarded<StakeBinding>>,
    /// All UsageRecords of the operator's namespace; of sealed ones without the agent's checkpoints.
    pub usage_records: Store<Guarded<UsageRecord>>,
    /// All Incidents.
    pub incidents: Store<Guarded<Incident>>,
    /// The agents' leases. For when an agent was last heard of see [`Caches::last_heartbeat`].
    pub leases: Store<Lease>,
    /// All PriorityClasses.
    pub priority_classes: Store<PriorityClass>,
    /// All Namespaces.
    pub namespaces: Store<Namespace>,
    heartbeats: Heartbeats,
    failover: failover::Terms,
    last_resolutions: LastResolutions,
    signers: Signers,
    windows: RememberedWindows,
    last_held: LastHeld,
    listed: Listed,
    reclaims: Reclaims,
    waiting_first: WaitingFirst,
    owner_cuts: OwnerCuts,
    foreign_gates: ForeignGates,
    standings: Standings,
    stated: Stated,
    record_index: RecordIndex,
    shown_gpus: ShownGpus,
    failures: Failures,
    namespace: String,
    triggers: Triggers,
}

/// What the watches announce.
#[derive(Clone, Default)]
struct Triggers {
    gpu_nodes: TriggerHub<Guarded<GpuNode>>,
    compute_jobs: TriggerHub<Guarded<ComputeJob>>,
    stake_bindings: TriggerHub<Guarded<StakeBinding>>,
    incidents: TriggerHub<Guarded<Incident>>,
    /// Nodes and StakeBindings: what binds which may have changed.
    bindings: Pulse,
    usage_records: TriggerHub<Guarded<UsageRecord>>,
    capacity: Pulse,
    queue: Pulse,
}

impl Caches {
    /// Starts all watches on `tasks`. None of them ever ends by itself.
    #[must_use]
    #[allow(clippy::too_many_lines, reason = "one statement per watch")]
    pub fn start(
        client: &Client,
        namespace: &str,
        failover: failover::Terms,
        health: &Health,
        metrics: &Metrics,
        tasks: &mut JoinSet<()>,
    ) -> Self {
        let triggers = Triggers::default();
        let record_index = RecordIndex::default();
        let failures = Failures::default();
        let last_held = LastHeld::default();
        let listed = Listed::default();
        let shown_gpus = ShownGpus::default();
        // Two watches instead of one on all pods: of strangers' pods, ended ones never enter memory.
        let of_jobs = everything().labels(LABEL_JOB);
        let of_others = everything()
            .labels(&format!("!{LABEL_JOB}"))
            .fields("status.phase!=Succeeded,status.phase!=Failed");
        let all = || everything();

        macro_rules! start {
            ($kind:literal, $api:expr, $config:expr, $prune:expr, $on_change:expr) => {{
                let (store, run) = watch(
                    $kind,
                    $api,
                    $config,
                    $prune,
                    listed.clone(),
                    health.clone(),
                    metrics.clone(),
                    $on_change,
                );
                tasks.spawn(run);
                store
            }};
        }

        let job_pods = start!(
            "job Pod",
            Api::all(client.clone()),
            of_jobs,
            prune::job_pod,
            triggers.clone().on_job_pod(namespace, record_index.clone())
        );
        let nodes = start!(
            "Node",
            Api::all(client.clone()),
            all(),
            prune::node,
            triggers.clone().on_node(job_pods.clone())
        );
        let gpu_nodes = start!(
            "GpuNode",
            Api::all(client.clone()),
            all(),
            prune::metadata,
            triggers
                .clone()
                .on_gpu_node(job_pods.clone(), shown_gpus.clone())
        );
        let other_pods = start!(
            "other Pod",
            Api::all(client.clone()),
            of_others,
            prune::other_pod,
            triggers
                .clone()
                .on_other_pod(gpu_nodes.clone(), last_held.clone())
        );
        let compute_jobs = start!(
            "ComputeJob",
            Api::all(client.clone()),
            all(),
            prune::metadata,
            triggers
                .clone()
                .on_compute_job(namespace, record_index.clone())
        );
        let stake_bindings = start!(
            "StakeBinding",
            Api::all(client.clone()),
            all(),
            prune::metadata,
            triggers.clone().on_stake_binding()
        );
        let incidents = start!(
            "Incident",
            Api::all(client.clone()),
            all(),
            prune::metadata,
            triggers.clone().on_incident(namespace)
        );
        let usage_records = start!(
            "UsageRecord",
            Api::namespaced(client.clone(), namespace),
            all(),
            prune::usage_record,
            triggers.clone().on_usage_record(
                record_index.clone(),
                failures.clone(),
                incidents.clone()
            )
        );
        let heartbeats = Heartbeats::default();
        let leases = start!(
            "heartbeat Lease",
            Api::namespaced(client.clone(), namespace),
            all().labels(HEARTBEATS),
            prune::lease,
            triggers
                .clone()
                .on_heartbeat(heartbeats.clone(), gpu_nodes.clone())
        );
        let priority_classes = start!(
            "PriorityClass",
            Api::all(client.clone()),
            all(),
            prune::priority_class,
            triggers.clone().on_priority_class()
        );
        let namespaces = start!(
            "Namespace",
            Api::all(client.clone()),
            all(),
            prune::namespace,
            triggers.clone().on_namespace()
        );
        Self {
            nodes,
            job_pods,
            other_pods,
            gpu_nodes,
            compute_jobs,
            stake_bindings,
            usage_records,
            incidents,
            leases,
            priority_classes,
            namespaces,
            heartbeats,
            failover,
            last_resolutions: LastResolutions::default(),
            signers: Signers::default(),
            windows: RememberedWindows::default(),
            last_held,
            listed,
            reclaims: Reclaims::default(),
            waiting_first: WaitingFirst::default(),
            owner_cuts: OwnerCuts::default(),
            foreign_gates: ForeignGates::default(),
            standings: Standings::default(),
            stated: Stated::default(),
            record_index,
            shown_gpus,
            failures,
            namespace: namespace.to_owned(),
            triggers,
        }
    }

    /// Waits until every store has been filled once.
    pub async fn filled(&self) {
        // An error means that the watch has ended, which ends the process.
        let _ = futures::join!(
            self.nodes.wait_until_ready(),
            self.job_pods.wait_until_ready(),
            self.other_pods.wait_until_ready(),
            self.gpu_nodes.wait_until_ready(),
            self.compute_jobs.wait_until_ready(),
            self.stake_bindings.wait_until_ready(),
            self.usage_records.wait_until_ready(),
            self.incidents.wait_until_ready(),
            self.leases.wait_until_ready(),
            self.priority_classes.wait_until_ready(),
            self.namespaces.wait_until_ready(),
        );
    }

    /// When anything was last listed anew: what is seen since may be of an API server that was restored from a backup.
    #[must_use]
    pub fn listed_at(&self) -> Option<Instant> {
        self.listed.at()
    }

    /// GpuNodes to look at: changed, or whose Node, pods, heartbeat or StakeBinding changed.
    #[must_use]
    pub fn gpu_node_triggers(&self) -> TriggerHub<Guarded<GpuNode>> {
        self.triggers.gpu_nodes.clone()
    }

    /// ComputeJobs to look at: changed in any way, or whose pods, UsageRecords, PriorityClass or Namespace changed.
    #[must_use]
    pub fn compute_job_triggers(&self) -> TriggerHub<Guarded<ComputeJob>> {
        self.triggers.compute_jobs.clone()
    }

    /// StakeBindings to look at: all, when any of them or any Node or GpuNode comes, goes or is relabelled.
    #[must_use]
    pub fn stake_binding_triggers(&self) -> TriggerHub<Guarded<StakeBinding>> {
        self.triggers.stake_bindings.clone()
    }

    /// Incidents to look at: changed.
    #[must_use]
    pub fn incident_triggers(&self) -> TriggerHub<Guarded<Incident>> {
        self.triggers.incidents.clone()
    }

    /// Announces that this GpuNode is to be looked at.
    pub fn look_at_gpu_node(&self, name: &str) {
        self.triggers.gpu_nodes.one(None, name);
    }

    /// Announces that all GpuNodes, ComputeJobs and UsageRecords are to be looked at: what is thought of nodes has changed.
    pub fn look_at_nodes_and_jobs(&self) {
        self.triggers.gpu_nodes.all();
        self.triggers.compute_jobs.all();
        self.triggers.usage_records.all();
    }

    /// Announces that stakes on a chain have changed: whatever hangs on them is looked at again.
    pub fn stakes_changed(&self) {
        self.triggers.stake_bindings.all();
        self.triggers.gpu_nodes.all();
        self.triggers.capacity.beat();
    }

    /// A number that changes whenever a Node or a StakeBinding does.
    #[must_use]
    pub fn bindings_revision(&self) -> u64 {
        self.triggers.bindings.count()
    }

    /// What bound which node when somebody last asked.
    #[must_use]
    pub fn last_resolutions(&self) -> &LastResolutions {
        &self.last_resolutions
    }

    /// What agents have stated about open slices.
    #[must_use]
    pub fn stated(&self) -> &Stated {
        &self.stated
    }

    /// Who signed the agents' certificates that were looked at lately.
    #[must_use]
    pub fn signers(&self) -> &Signers {
        &self.signers
    }

    /// Where the windows of mode `Scheduled` stand, as they were last found.
    #[must_use]
    pub fn windows(&self) -> &RememberedWindows {
        &self.windows
    }

    /// Which nodes show which GPUs.
    #[must_use]
    pub fn shown_gpus(&self) -> &ShownGpus {
        &self.shown_gpus
    }

    /// When a pod of others was last seen to give GPUs of `node` back.
    #[must_use]
    pub fn last_held(&self, node: &str) -> Option<Timestamp> {
        self.last_held.on(node)
    }

    /// Which attempts are to give their GPUs back, as last decided.
    #[must_use]
    pub fn reclaims(&self) -> &Reclaims {
        &self.reclaims
    }

    /// The job that is first in the queue and finds no place.
    #[must_use]
    pub fn waiting_first(&self) -> &WaitingFirst {
        &self.waiting_first
    }

    /// Which owners' weights are cut, as placement last settled it.
    #[must_use]
    pub fn owner_cuts(&self) -> &OwnerCuts {
        &self.owner_cuts
    }

    /// Gates that others put on pods of jobs.
    #[must_use]
    pub fn foreign_gates(&self) -> &ForeignGates {
        &self.foreign_gates
    }

    /// What is known of the reputation of GPUs, as last found out.
    #[must_use]
    pub fn standings(&self) -> &Standings {
        &self.standings
    }

    /// UsageRecords to look at: changed in any way, or whose pod or job changed.
    #[must_use]
    pub fn usage_record_triggers(&self) -> TriggerHub<Guarded<UsageRecord>> {
        self.triggers.usage_records.clone()
    }

    /// Beats when free capacity may have changed: a Node, GpuNode, StakeBinding, stake or pod.
    #[must_use]
    pub fn capacity_changes(&self) -> tokio::sync::watch::Receiver<u64> {
        self.triggers.capacity.changes()
    }

    /// Beats when a ComputeJob, PriorityClass or Namespace changed: the queue may have.
    #[must_use]
    pub fn queue_changes(&self) -> tokio::sync::watch::Receiver<u64> {
        self.triggers.queue.changes()
    }

    /// Announces that the queue may have changed.
    pub fn queue_has_changed(&self) {
        self.triggers.queue.beat();
    }

    /// The pods of the ComputeJob of this name and uid. A namesake's pods are not among them.
    #[must_use]
    pub fn pods_of_job(&self, namespace: &str, name: &str, uid: &str) -> Vec<Arc<Pod>> {
        let is = |pod: &Pod, label: &str, value: &str| {
            pod.labels().get(label).is_some_and(|found| found == value)
        };
        self.job_pods.state_filter(|pod| {
            pod.metadata.namespace.as_deref() == Some(namespace)
                && is(pod, LABEL_JOB, name)
                && is(pod, LABEL_JOB_UID, uid)
        })
    }

    /// The UsageRecords of the job with this uid, in any state.
    #[must_use]
    pub fn records_of_job(&self, uid: &str) -> Vec<Arc<Guarded<UsageRecord>>> {
        self.record_index
            .of_job(uid)
            .iter()
            .filter_map(|name| self.usage_record(name))
            .collect()
    }

    /// The UsageRecord of this name.
    #[must_use]
    pub fn usage_record(&self, name: &str) -> Option<Arc<Guarded<UsageRecord>>> {
        self.usage_records
            .get(&ObjectRef::new(name).within(&self.namespace))
    }

    /// The pod of this name with the label of a ComputeJob.
    #[must_use]
    pub fn job_pod(&self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        self.job_pods.get(&ObjectRef::new(name).within(namespace))
    }

    /// The ComputeJob of this name, if it can be parsed.
    #[must_use]
    pub fn compute_job(&self, namespace: &str, name: &str) -> Option<Arc<Guarded<ComputeJob>>> {
        self.compute_jobs
            .get(&ObjectRef::new(name).within(namespace))
            .filter(|job| job.0.is_ok())
    }

    /// The GpuNode of this name, if it can be parsed.
    #[must_use]
    pub fn gpu_node(&self, name: &str) -> Option<Arc<Guarded<GpuNode>>> {
        self.gpu_nodes
            .get(&ObjectRef::new(name))
            .filter(|node| node.0.is_ok())
    }

    /// The heartbeat Lease of the agent on `node`.
    #[must_use]
    pub fn heartbeat_lease(&self, node: &str) -> Option<Arc<Lease>> {
        let name = gridstake_crds::names::heartbeat_lease(node);
        self.leases
            .get(&ObjectRef::new(&name).within(&self.namespace))
    }

    /// The Node of this name.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<Arc<Node>> {
        self.nodes.get(&ObjectRef::new(name))
    }

    /// When the agent on this node was last heard of, on this replica's clock.
    #[must_use]
    pub fn last_heartbeat(&self, node: &str) -> Option<Timestamp> {
        self.heartbeats.last(node)
    }

    /// When each agent was last heard of, on this replica's clock; of one that has only just come back, before it fell silent.
    #[must_use]
    pub fn last_heartbeats(&self, now: Timestamp) -> Vec<Timestamp> {
        self.heartbeats
            .all(&self.failover, now, |node| self.node(node).is_some())
    }

    /// What has failed on `node` since `since`, by no program's fault.
    #[must_use]
    pub fn failures_on(&self, node: &str, since: Timestamp) -> Vec<Failure> {
        self.failures.on(node, since)
    }

    /// How many other agents fell silent at about the time at which the one on `node` did.
    #[must_use]
    pub fn fell_silent_with(&self, node: &str, now: Timestamp) -> usize {
        self.heartbeats
            .fell_silent_with(node, self.failover.silent_after, now)
    }

    /// How soon a node is given up.
    #[must_use]
    pub const fn failover(&self) -> &failover::Terms {
        &self.failover
    }

    /// The Namespace of this name.
    #[must_use]
    pub fn namespace(&self, name: &str) -> Option<Arc<Namespace>> {
        self.namespaces.get(&ObjectRef::new(name))
    }

    /// The PriorityClass of this name.
    #[must_use]
    pub fn priority_class(&self, name: &str) -> Option<Arc<PriorityClass>> {
        self.priority_classes.get(&ObjectRef::new(name))
    }
}

/// The objects that can be parsed.
pub fn parsed<K: Resource>(objects: &[Arc<Guarded<K>>]) -> impl Iterator<Item = &K> {
    objects.iter().filter_map(|object| object.0.as_ref().ok())
}

/// One closure per watch: whom a change concerns.
impl Triggers {
    /// A kubelet that falls silent may end what runs there.
    fn on_node(self, job_pods: Store<Pod>) -> impl Fn(Seen<'_, Node>) + Send {
        let ready = ReadyNodes::default();
        move |seen| {
            self.bindings.beat();
            match seen {
                Seen::Applied(node) => {
                    self.gpu_nodes.one(None, &node.name_any());
                    if ready.has_changed(node) {
                        self.jobs_on(&job_pods, &node.name_any());
                    }
                }
                Seen::Deleted(node) => {
                    self.gpu_nodes.one(None, &node.name_any());
                    ready.remove(node);
                    self.jobs_on(&job_pods, &node.name_any());
                }
                Seen::Everything(_) => {
                    self.gpu_nodes.all();
                    self.compute_jobs.all();
                }
            }
            self.stake_bindings.all();
            self.capacity.beat();
        }
    }

    fn on_job_pod(
        self,
        namespace: &str,
        records: RecordIndex,
    ) -> impl Fn(Seen<'_, Pod>) + Send + use<> {
        let own = namespace.to_owned();
        move |seen| {
            match seen {
                Seen::Applied(pod) | Seen::Deleted(pod) => {
                    if let Some(uid) = pod.labels().get(LABEL_JOB_UID) {
                        self.records_of(&own, &records, uid);
                    }
                    if let (Some(job), namespace) = (pod.labels().get(LABEL_JOB), pod.namespace()) {
                        self.compute_jobs.one(namespace.as_deref(), job);
                    }
                    self.on_pod_of(pod);
                }
                Seen::Everything(_) => {
                    self.compute_jobs.all();
                    self.usage_records.all();
                    self.gpu_nodes.all();
                }
            }
            self.capacity.beat();
        }
    }

    /// What befalls a job or one of its pods may end its slices.
    fn records_of(&self, namespace: &str, records: &RecordIndex, job_uid: &str) {
        for name in records.of_job(job_uid) {
            self.usage_records.one(Some(namespace), &name);
        }
    }

    fn on_usage_record(
        self,
        records: RecordIndex,
        failures: Failures,
        incidents: Store<Guarded<Incident>>,
    ) -> impl Fn(Seen<'_, Guarded<UsageRecord>>) + Send {
        move |seen| match seen {
            Seen::Applied(record) | Seen::Deleted(record) => {
                self.usage_records
                    .one(record.meta().namespace.as_deref(), &record.name_any());
                let Ok(parsed) = &record.0 else { return };
                match seen {
                    Seen::Deleted(_) => {
                        records.remove(parsed);
                        failures.remove(parsed);
                    }
                    _ => {
                        records.insert(parsed);
                        if failures.see(parsed) {
                            self.gpu_nodes.one(None, &parsed.spec.node_name);
                        }
                    }
                }
                let job = &parsed.spec.job;
                self.compute_jobs.one(Some(&job.namespace), &job.name);
                // How much an Incident holds back changes with what it is about: it is opened before the bill is final.
                for incident in incidents_about(&parsed.name_any(), &job.uid) {
                    if incidents.get(&ObjectRef::new(&incident)).is_some() {
                        self.incidents.one(None, &incident);
                    }
                }
            }
            Seen::Everything(all) => {
                records.replace(parsed(&all.state()));
                failures.replace(parsed(&all.state()));
                self.gpu_nodes.all();
                self.usage_records.all();
                self.compute_jobs.all();
                self.incidents.all();
            }
        }
    }

    fn on_other_pod(
        self,
        gpu_nodes: Store<Guarded<GpuNode>>,
        last_held: LastHeld,
    ) -> impl Fn(Seen<'_, Pod>) + Send {
        move |seen| {
            if let Seen::Deleted(pod) = seen {
                last_held.ended(pod, Timestamp::now());
            }
            match seen {
                Seen::Applied(pod) | Seen::Deleted(pod) => {
                    self.on_pod_of(pod);
                    // It may have begun or ceased to wait for the GPUs of any of them.
                    if asks_for_gpus(pod) {
                        for node in parsed(&gpu_nodes.state()).filter(|node| is_idle_only(node)) {
                            self.gpu_nodes.one(None, &node.name_any());
                        }
                    }
                }
                Seen::Everything(_) => self.gpu_nodes.all(),
            }
            self.capacity.beat();
        }
    }

    /// The node of a pod has more or less left.
    fn on_pod_of(&self, pod: &Pod) {
        if let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) {
            self.gpu_nodes.one(None, node);
        }
    }

    /// A GPU that becomes unfit may end what runs on it.
    fn on_gpu_node(
        self,
        job_pods: Store<Pod>,
        shown: ShownGpus,
    ) -> impl Fn(Seen<'_, Guarded<GpuNode>>) + Send {
        let unfit = UnfitGpus::default();
        move |seen| {
            match &seen {
                Seen::Applied(Guarded { 0: Ok(node) }) => shown.see(node),
                Seen::Applied(node) | Seen::Deleted(node) => shown.forget(&node.name_any()),
                Seen::Everything(store) => shown.replace(parsed(&store.state())),
            }
            match seen {
                Seen::Applied(node) | Seen::Deleted(node) => {
                    self.gpu_nodes.one(None, &node.name_any());
                    if node.0.as_ref().is_ok_and(|node| unfit.have_changed(node)) {
                        self.jobs_on(&job_pods, &node.name_any());
                    }
                }
                Seen::Everything(_) => {
                    self.gpu_nodes.all();
                    self.compute_jobs.all();
                }
            }
            self.capacity.beat();
        }
    }

    fn jobs_on(&self, job_pods: &Store<Pod>, node: &str) {
        let is_there = |pod: &Pod| {
            let spec = pod.spec.as_ref();
            spec.and_then(|spec| spec.node_name.as_deref()) == Some(node)
        };
        for pod in job_pods.state_filter(is_there) {
            if let (Some(job), namespace) = (pod.labels().get(LABEL_JOB), pod.namespace()) {
                self.compute_jobs.one(namespace.as_deref(), job);
            }
        }
    }

    fn on_compute_job(
        self,
        namespace: &str,
        records: RecordIndex,
    ) -> impl Fn(Seen<'_, Guarded<ComputeJob>>) + Send + use<> {
        let own = namespace.to_owned();
        move |seen| {
            match seen {
                Seen::Applied(job) | Seen::Deleted(job) => {
                    if let Some(uid) = &job.meta().uid {
                        self.records_of(&own, &records, uid);
                    }
                    self.compute_jobs
                        .one(job.meta().namespace.as_deref(), &job.name_any());
                    // What a check finds is for the job that it checks.
                    if let Some(checked) =
                        job.meta().labels.as_ref().and_then(|l| l.get(LABEL_CHECKS))
                    {
                        self.compute_jobs
                            .one(job.meta().namespace.as_deref(), checked);
                    }
                    // A placement takes capacity before its pods exist, and its end gives it back.
                    let status = job.0.as_ref().ok().and_then(|job| job.status.as_ref());
                    let placement = status.and_then(|status| status.placement.as_ref());
                    for member in placement.iter().flat_map(|placement| &placement.nodes) {
                        self.gpu_nodes.one(None, &member.node);
                    }
                }
                Seen::Everything(_) => {
                    self.compute_jobs.all();
                    self.usage_records.all();
                    self.gpu_nodes.all();
                }
            }
            self.queue.beat();
        }
    }

    fn on_stake_binding(self) -> impl Fn(Seen<'_, Guarded<StakeBinding>>) + Send {
        move |_| {
            self.bindings.beat();
            self.stake_bindings.all();
            self.gpu_nodes.all();
            self.capacity.beat();
        }
    }

    fn on_incident(self, namespace: &str) -> impl Fn(Seen<'_, Guarded<Incident>>) + Send + use<> {
        let own = namespace.to_owned();
        move |seen| match seen {
            Seen::Applied(incident) | Seen::Deleted(incident) => {
                self.incidents.one(None, &incident.name_any());
                // The payment of its records may be held back, or not any more.
                for record in incident.0.iter().flat_map(|i| &i.spec.usage_records) {
                    self.usage_records.one(Some(&own), record);
                }
            }
            Seen::Everything(_) => self.incidents.all(),
        }
    }

    /// A heartbeat matters only to a node that is not known to report (a silent one is found by a timer), and to one whose offer
    /// depends on what it says about use by others.
    fn on_heartbeat(
        self,
        heartbeats: Heartbeats,
        gpu_nodes: Store<Guarded<GpuNode>>,
    ) -> impl Fn(Seen<'_, Lease>) + Send {
        move |seen| match seen {
            Seen::Applied(lease) => {
                let says_else = heartbeats.see(lease, Timestamp::now());
                let holder = lease
                    .spec
                    .as_ref()
                    .and_then(|spec| spec.holder_identity.as_deref());
                let concerns = |node: &&str| {
                    !is_reporting(&gpu_nodes, node)
                        || (says_else && harvests_idle(&gpu_nodes, node))
                };
                if let Some(node) = holder.filter(concerns) {
                    self.gpu_nodes.one(None, node);
                    self.capacity.beat();
                }
            }
            // Its last arrival stands until it expires.
            Seen::Deleted(_) => {}
            Seen::Everything(leases) => {
                let leases = leases.state();
                heartbeats.see_all(leases.iter().map(|lease| &**lease), Timestamp::now());
                self.gpu_nodes.all();
                self.capacity.beat();
            }
        }
    }

    fn on_priority_class(self) -> impl Fn(Seen<'_, PriorityClass>) + Send {
        move |_| {
            self.compute_jobs.all();
            self.queue.beat();
        }
    }

    fn on_namespace(self) -> impl Fn(Seen<'_, Namespace>) + Send {
        move |_| {
            self.compute_jobs.all();
            self.queue.beat();
        }
    }
}

fn is_idle_only(gpu_node: &GpuNode) -> bool {
    gpu_node.spec.mode == OfferMode::IdleOnly
}

fn harvests_idle(gpu_nodes: &Store<Guarded<GpuNode>>, node: &str) -> bool {
    let found = gpu_nodes.get(&ObjectRef::new(node));
    found.is_some_and(|node| node.0.as_ref().is_ok_and(is_idle_only))
}

fn is_reporting(gpu_nodes: &Store<Guarded<GpuNode>>, node: &str) -> bool {
    gpu_nodes.get(&ObjectRef::new(node)).is_some_and(|node| {
        let status = node.0.as_ref().ok().and_then(|node| node.status.as_ref());
        status.is_some_and(|status| {
            gridstake_crds::condition::is_true(&status.conditions, GpuNodeCondition::Reporting)
        })
    })
}
