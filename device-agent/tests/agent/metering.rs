//! Metering of real processes, with NVML's double, a state directory and an API server.

use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use gridstake_crds::usage_record::{Evidence, GapReason};
use gridstake_device_agent::{
    clock::BootMillis,
    device_id::DeviceId,
    holders::KubeletAnswer,
    metering::{
        chain::is_whole,
        exchange::Heads,
        meter::{Meter, Settings, Sources},
        trouble::Trouble,
    },
    metrics::Metrics,
    nvml::{Observation, call::Calls, events::Hearing, thread::NvmlThread},
    pod_resources::Assignment,
    process::ProcessTable,
    signing_key::{KeyState, SigningKey},
};
use gridstake_ledger::checkpoint::{Device, Subject, devices_hash};
use gridstake_simulated_gpus_state::{CallFault, DriverKind, Process, ProcessKind, ReturnCode};
use kube::Client;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{sync::watch, task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    PATIENCE,
    cluster::ApiServer,
    node::{Node, uuid},
};

const POD_UID: &str = "1f6ab7ae-3c5e-4a51-9b0c-7f7d2c6a9e10";
const RECORD: &str = "uid-1-0-0";

/// A node's folders, and a process that stands for a container's.
struct Host {
    folder: TempDir,
    gpus: Node,
    container: Option<Child>,
}

impl Host {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let boot = folder.path().join("proc/sys/kernel/random");
        fs::create_dir_all(&boot).unwrap();
        fs::write(boot.join("boot_id"), "boot\n").unwrap();
        let logs = format!("pods/lab_train-1-0_{POD_UID}");
        fs::create_dir_all(folder.path().join(logs)).unwrap();
        Self {
            folder,
            gpus: Node::with_gpus(1),
            container: None,
        }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    /// Starts a process and shows it as one of the pod's container.
    fn start_container(&mut self) -> u32 {
        let child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let pid = child.id();
        self.container = Some(child);
        let folder = self.path(&format!("proc/{pid}"));
        fs::create_dir_all(&folder).unwrap();
        let cgroup = format!("0::/kubepods/besteffort/pod{POD_UID}/4fd1\n");
        fs::write(folder.join("cgroup"), cgroup).unwrap();
        let mounts = format!(
            "640 612 8:1 /var/lib/kubelet/pods/{POD_UID}/containers/main/0a /dev/termination-log rw - ext4 /dev/sda1 rw\n"
        );
        fs::write(folder.join("mountinfo"), mounts).unwrap();
        // Last: with it the process is there.
        let stat = Path::new("/proc").join(pid.to_string()).join("stat");
        symlink(stat, folder.join("stat")).unwrap();
        self.gpus.set_processes(vec![Process {
            device: uuid(0),
            pid,
            start_ticks: 1,
            used_memory_mib: 512,
            kind: ProcessKind::Compute,
            gpu_instance: None,
            compute_instance: None,
            container: String::new(),
            pod_uid: POD_UID.to_owned(),
        }]);
        pid
    }

    /// Starts a process of the host on the same GPU.
    fn start_foreign(&mut self, beside: u32) -> Foreign {
        let child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let pid = child.id();
        let folder = self.path(&format!("proc/{pid}"));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("cgroup"), "0::/system.slice/miner.service\n").unwrap();
        fs::write(folder.join("mountinfo"), "").unwrap();
        let stat = Path::new("/proc").join(pid.to_string()).join("stat");
        symlink(stat, folder.join("stat")).unwrap();
        let of = |pid, pod_uid: &str| Process {
            device: uuid(0),
            pid,
            start_ticks: 1,
            used_memory_mib: 512,
            kind: ProcessKind::Compute,
            gpu_instance: None,
            compute_instance: None,
            container: String::new(),
            pod_uid: pod_uid.to_owned(),
        };
        self.gpus
            .set_processes(vec![of(beside, POD_UID), of(pid, "")]);
        Foreign(child)
    }

    fn end_container(&mut self) {
        let mut child = self.container.take().unwrap();
        drop(child.stdin.take());
        child.wait().unwrap();
    }
}

/// A process that belongs to no pod.
struct Foreign(Child);

impl Drop for Foreign {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(mut child) = self.container.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The metering half of an agent.
struct Agent {
    stop: CancellationToken,
    tasks: JoinSet<()>,
    latest: watch::Receiver<Option<Arc<Observation>>>,
    heads: watch::Receiver<Heads>,
    trouble: watch::Receiver<Trouble>,
    metrics: Arc<Metrics>,
    _channels: (watch::Sender<KeyState>, watch::Sender<KubeletAnswer>),
    _nvml: NvmlThread,
}

impl Agent {
    fn start(host: &Host, client: &Client) -> Self {
        let metrics = Arc::new(Metrics::new().unwrap());
        let calls = Arc::new(Calls::new(metrics.nvml_call_errors.clone()));
        let interval = Duration::from_millis(20);
        let (sender, latest) = watch::channel(None);
        let nvml = gridstake_device_agent::nvml::thread::Settings {
            library: Some(host.gpus.library()),
            proc_root: "/proc".into(),
            interval,
        };
        let hearing = Arc::new(Hearing::new(metrics.nvml_call_errors.clone()));
        let nvml = NvmlThread::spawn(nvml, calls, hearing, sender).unwrap();
        let key = Arc::new(SigningKey::load_or_create(&host.path("state")).unwrap());
        let given = vec![Assignment {
            namespace: "lab".into(),
            pod: "train-1-0".into(),
            container: "main".into(),
            device: DeviceId::parse(&uuid(0)),
        }];
        let (kubelet, kubelet_seen) = watch::channel(KubeletAnswer {
            assignments: Some(Arc::new(given)),
            ..KubeletAnswer::default()
        });
        let (key, key_seen) = watch::channel(KeyState::Ready(key));
        let settings = Settings {
            state_dir: host.path("state"),
            pod_logs: host.path("pods"),
            proc_root: host.path("proc"),
            sample_interval: interval,
            checkpoint_interval: Duration::from_hours(1),
        };
        let sources = Sources {
            latest: latest.clone(),
            kubelet: kubelet_seen,
            ask_kubelet: Arc::default(),
            key: key_seen,
        };
        let (meter, exchange) = Meter::new(settings, sources, &metrics);
        let (heads, trouble) = (exchange.heads(), exchange.trouble());
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(meter.run(stop.clone()));
        let (client, counting, stopping) = (client.clone(), Arc::clone(&metrics), stop.clone());
        tasks.spawn(async move {
            exchange
                .run(client, "gridstake-system", "node-a", &counting, stopping)
                .await;
        });
        Self {
            stop,
            tasks,
            latest,
            heads,
            trouble,
            metrics,
            _channels: (key, kubelet),
            _nvml: nvml,
        }
    }

    /// Waits for so many more samples.
    async fn samples(&mut self, more: usize) {
        for _ in 0..more {
            timeout(PATIENCE, self.latest.changed())
                .await
                .unwrap()
                .unwrap();
        }
    }

    async fn stop(mut self) {
        let shared = self.metrics.overallocated.with_label_values(&[&uuid(0)]);
        assert!(shared.get() == 0.0, "no GPU is ever held more than once");
        self.stop.cancel();
        let all = async { while self.tasks.join_next().await.is_some() {} };
        timeout(PATIENCE, all).await.unwrap();
    }
}

/// What the statements of `evidence` are about: whole GPUs.
pub fn subject<'a>(record: &'a str, pod_uid: &'a str, evidence: &Evidence) -> Subject<'a> {
    let devices: Vec<_> = evidence
        .devices
        .iter()
        .map(|device| Device {
            uuid: device.uuid.clone(),
            parent_uuid: String::new(),
            share: (1, 1),
        })
        .collect();
    Subject {
        record,
        pod_uid,
        devices: devices_hash(&devices),
    }
}

fn assert_whole(record: &str, evidence: &Evidence) {
    let subject = subject(record, POD_UID, evidence);
    let key = evidence.key.parse().unwrap();
    assert!(
        is_whole(&evidence.checkpoints, subject, key),
        "{evidence:#?}"
    );
}

fn samples(evidence: &Evidence) -> u64 {
    let of = |device: &gridstake_crds::usage_record::DeviceUse| device.counters?.samples;
    evidence.devices.iter().filter_map(of).sum()
}

fn lists(seen: Option<&Observation>, pid: u32) -> bool {
    let slots = seen.map(|seen| seen.slots.as_slice()).unwrap_or_default();
    let mut running = slots
        .iter()
        .filter_map(|slot| slot.sample.processes.as_ref())
        .flatten();
    running.any(|process| process.pid == pid)
}

pub fn start_ticks(pid: u32) -> u64 {
    let processes = &mut ProcessTable::new(Path::new("/proc"));
    processes.look_up([pid])[&pid].start_ticks
}

#[tokio::test]
async fn a_process_is_metered_from_its_start_to_its_exit_and_the_heartbeat_tells_of_it() {
    let (server, mut host) = (ApiServer::new(), Host::new());
    let client = server.start().await;
    server.open(0, None);
    let mut agent = Agent::start(&host, &client);
    let pid = host.start_container();
    let begun = server.until(RECORD, |e| e.started_ms.is_some()).await;
    assert_eq!(begun.ended_ms, None);
    let listed = agent.latest.wait_for(|seen| lists(seen.as_deref(), pid));
    timeout(PATIENCE, listed).await.unwrap().unwrap();
    // Whenever the heartbeat's word moves on, what NVML showed before has been taken in.
    let mut to_ms = begun.checkpoints[0].to_ms;
    for _ in 0..2 {
        let head = &begun.checkpoints[0].head;
        let moved = agent.heads.wait_for(|heads| {
            let told = heads.get(RECORD).filter(|told| told.head == *head);
            told.is_some_and(|told| told.to_ms > to_ms)
        });
        to_ms = timeout(PATIENCE, moved).await.unwrap().unwrap()[RECORD].to_ms;
    }
    let start = BootMillis::of_ticks(start_ticks(pid));
    let before = BootMillis::now();
    host.end_container();
    let ended = server.until(RECORD, |e| e.ended_ms.is_some()).await;
    assert_whole(RECORD, &ended);
    assert_eq!(ended.devices[0].uuid, uuid(0));
    assert!(samples(&ended) > 0);
    assert!(ended.gaps.is_empty());
    let span = ended.ended_ms.unwrap() - ended.started_ms.unwrap();
    assert!(span >= before.since(start) && span <= BootMillis::now().since(start));
    assert_eq!(server.patches.lock().unwrap().len(), 2, "begin and end");
    assert!(
        server
            .queries
            .lock()
            .unwrap()
            .iter()
            .all(|query| query.contains("fieldSelector=spec.nodeName%3Dnode-a")),
        "other nodes' records are not read"
    );
    agent.stop().await;
}

#[tokio::test]
async fn an_agent_that_was_away_goes_on_with_the_chain_and_names_the_gap() {
    let (server, mut host) = (ApiServer::new(), Host::new());
    let client = server.start().await;
    server.open(0, None);
    host.start_container();
    let agent = Agent::start(&host, &client);
    let before = server.until(RECORD, |e| !e.checkpoints.is_empty()).await;
    agent.stop().await;
    let gone = BootMillis::now();
    while BootMillis::now().since(gone) < 2 {
        tokio::task::yield_now().await;
    }
    let agent = Agent::start(&host, &client);
    let back = server.until(RECORD, |e| !e.gaps.is_empty()).await;
    assert_whole(RECORD, &back);
    assert_eq!(back.checkpoints[0], before.checkpoints[0]);
    assert_eq!(
        (back.gaps[0].reason, back.gaps[0].bridged),
        (GapReason::AgentAway, true)
    );
    assert_eq!(back.checkpoints.last().unwrap().epoch, 1);

    // Away again, and this time the process ends meanwhile.
    agent.stop().await;
    host.end_container();
    let agent = Agent::start(&host, &client);
    let ended = server.until(RECORD, |e| e.ended_ms.is_some()).await;
    assert_whole(RECORD, &ended);
    assert!(!ended.gaps.last().unwrap().bridged);
    agent.stop().await;
}

#[tokio::test]
async fn what_was_metered_while_the_api_server_was_away_is_delivered_once_afterwards() {
    let (server, mut host) = (ApiServer::new(), Host::new());
    let client = server.start().await;
    server.open(0, None);
    let mut agent = Agent::start(&host, &client);
    let asked = async {
        while server.queries.lock().unwrap().len() < 2 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, asked).await.unwrap();
    server.is_away.store(true, Ordering::SeqCst);
    host.start_container();
    timeout(PATIENCE, server.refusals.notified()).await.unwrap();
    let refused = agent.trouble.wait_for(|trouble| trouble.delivery.is_some());
    timeout(PATIENCE, refused).await.unwrap().unwrap();
    let slices = &agent.metrics.evidence_slices;
    assert_eq!((slices.get(), server.evidence(RECORD)), (1, None));
    host.end_container();
    server.is_away.store(false, Ordering::SeqCst);
    let ended = server.until(RECORD, |e| e.ended_ms.is_some()).await;
    assert_whole(RECORD, &ended);
    assert!(ended.gaps.is_empty(), "the agent was there all the time");
    let mended = agent.trouble.wait_for(|trouble| trouble.delivery.is_none());
    timeout(PATIENCE, mended).await.unwrap().unwrap();
    agent.stop().await;
}

#[tokio::test]
async fn a_sealed_slice_is_followed_by_the_next_at_the_same_instant() {
    let (server, mut host) = (ApiServer::new(), Host::new());
    let client = server.start().await;
    server.open(0, None);
    host.start_container();
    let agent = Agent::start(&host, &client);
    let first = server.until(RECORD, |e| !e.checkpoints.is_empty()).await;
    let cut = first.checkpoints[0].to_ms;
    server.seal(RECORD);
    server.open(1, Some(cut));
    let second = server
        .until("uid-1-0-1", |e| !e.checkpoints.is_empty())
        .await;
    assert_whole("uid-1-0-1", &second);
    assert_eq!(second.checkpoints[0].from_ms, cut);
    assert_eq!(second.started_ms, first.started_ms);
    agent.stop().await;
}

#[tokio::test]
async fn a_state_directory_that_cannot_be_written_is_told_and_evidence_still_delivered() {
    let (server, mut host) = (ApiServer::new(), Host::new());
    let client = server.start().await;
    server.open(0, None);
    // A folder where the file belongs: also root cannot write that.
    fs::create_dir_all(host.path("state/metering.json.next")).unwrap();
    host.start_container();
    let mut agent = Agent::start(&host, &client);
    server.until(RECORD, |e| !e.checkpoints.is_empty()).await;
    let told = agent.trouble.wait_for(|trouble| {
        let message = trouble.message().unwrap_or_default();
        message.contains("would not survive a restart") && message.contains("metering.json")
    });
    timeout(PATIENCE, told).await.unwrap().unwrap();
    agent.stop().await;
}

#[tokio::test]
async fn a_seal_that_the_api_server_has_lost_is_given_back_once_and_the_next_slice_is_metered() {
    let (server, mut host) = (ApiServer::new(), Host::new());
    let client = server.start().await;
    server.open(0, None);
    host.start_container();
    let agent = Agent::start(&host, &client);
    let stated = server.until(RECORD, |e| !e.checkpoints.is_empty()).await;
    let last = stated.checkpoints[0].clone();
    let sealed = json!({
        "jobNo": 256, "startMs": last.from_ms, "endMs": last.to_ms, "gpuMillis": 1000, "price": "0.001",
        "cause": "IntervalElapsed", "evidenceHead": last.head, "receiptHash": format!("0x{}", "ab".repeat(32)),
    });
    server.seal_as(RECORD, &sealed);
    server.open(1, Some(last.to_ms));
    let second = |e: &Evidence| !e.checkpoints.is_empty();
    server.until("uid-1-0-1", second).await;
    agent.stop().await;

    server.restore(RECORD);
    let agent = Agent::start(&host, &client);
    let back = server.until(RECORD, |e| e.sealed.is_some()).await;
    assert_eq!(serde_json::to_value(&back.sealed).unwrap(), sealed);
    let before = Evidence {
        sealed: None,
        ..back
    };
    assert_eq!(before, stated);
    assert_eq!(agent.metrics.seals.get(), 1);
    // The operator takes it.
    server.seal_as(RECORD, &sealed);
    server.open(1, Some(last.to_ms));
    let metered = server.until("uid-1-0-1", second).await;
    assert_whole("uid-1-0-1", &metered);
    assert_eq!(metered.checkpoints[0].from_ms, last.to_ms);
    let given_back = |patch: &&Value| patch["status"]["evidence"]["sealed"].is_object();
    let times = {
        let patches = server.patches.lock().unwrap();
        patches.iter().filter(given_back).count()
    };
    assert_eq!(times, 1);
    agent.stop().await;
}

/// What is stated in the end of a lease of which something goes wrong in the middle.
async fn stated_when(goes_wrong: impl AsyncFnOnce(&mut Host, &mut Agent, u32)) -> Evidence {
    let (server, mut host) = (ApiServer::new(), Host::new());
    let client = server.start().await;
    server.open(0, None);
    let mut agent = Agent::start(&host, &client);
    let pid = host.start_container();
    server.until(RECORD, |e| e.started_ms.is_some()).await;
    let listed = agent.latest.wait_for(|seen| lists(seen.as_deref(), pid));
    timeout(PATIENCE, listed).await.unwrap().unwrap();
    agent.samples(5).await;
    goes_wrong(&mut host, &mut agent, pid).await;
    agent.samples(5).await;
    host.end_container();
    let ended = server.until(RECORD, |e| e.ended_ms.is_some()).await;
    assert_whole(RECORD, &ended);
    assert!(ended.gaps.is_empty(), "the agent was there all the time");
    agent.stop().await;
    ended
}

/// The most energy that the GPU can have used in the span of `evidence`, in millijoules.
fn at_full_power(evidence: &Evidence) -> u64 {
    let millis = evidence.ended_ms.unwrap() - evidence.started_ms.unwrap();
    // 700 W; the samples before and after the span are 20 ms away, or late.
    (millis + 1000) * 700
}

#[tokio::test]
async fn an_energy_counter_that_is_reset_in_mid_run_states_no_energy_that_was_not_used() {
    let evidence = stated_when(async |host, agent, _| {
        // It has counted since boot and falls to almost nothing.
        let boot = BootMillis::now().0;
        host.gpus
            .change(|state| state.devices[0].energy_zero_millijoules = boot * 70);
        agent.samples(5).await;
    })
    .await;
    let counters = evidence.devices[0].counters.unwrap();
    let energy = counters.energy_millijoules.unwrap();
    assert!(energy > 0 && energy <= at_full_power(&evidence), "{energy}");
}

#[tokio::test]
async fn utilisation_that_becomes_unsupported_is_not_taken_for_none() {
    let evidence = stated_when(async |host, agent, _| {
        host.gpus.change(|state| {
            let fault = CallFault {
                error: Some(ReturnCode::NOT_SUPPORTED),
                delay_milliseconds: 0,
            };
            for call in ["nvmlDeviceGetUtilizationRates", "nvmlDeviceGetPowerUsage"] {
                state.calls.insert(call.to_owned(), fault);
            }
        });
        agent.samples(20).await;
    })
    .await;
    let counters = evidence.devices[0].counters.unwrap();
    // At 97 % it was busy for almost all of the time in which it told.
    let busy = counters.busy_millis.unwrap();
    let millis = evidence.ended_ms.unwrap() - evidence.started_ms.unwrap();
    assert!(busy > 0 && busy < millis, "{busy} of {millis}");
    assert!(counters.energy_millijoules.unwrap() > 0);
}

#[tokio::test]
async fn calls_that_take_far_longer_than_a_sample_cost_no_second_of_the_lease_and_no_energy() {
    let evidence = stated_when(async |host, agent, _| {
        host.gpus.change(|state| {
            let fault = CallFault {
                error: None,
                // Fifteen samples' time, as 15 s would be at one a second.
                delay_milliseconds: 300,
            };
            let call = "nvmlDeviceGetTemperature".to_owned();
            state.calls.insert(call, fault);
        });
        agent.samples(6).await;
    })
    .await;
    let counters = evidence.devices[0].counters.unwrap();
    let energy = counters.energy_millijoules.unwrap();
    // At 70 W over at least the nine late intervals.
    assert!(energy >= 9 * 300 * 70, "{energy}");
    assert!(energy <= at_full_power(&evidence), "{energy}");
    let busy = counters.busy_millis.unwrap();
    assert!(busy < 9 * 300, "{busy} ms: late samples tell no use");
}

#[tokio::test]
async fn a_driver_that_is_loaded_anew_in_mid_run_costs_no_second_of_the_lease() {
    let evidence = stated_when(async |host, agent, pid| {
        host.gpus.set_driver(DriverKind::Unloaded);
        let gone = agent
            .latest
            .wait_for(|seen| seen.as_ref().is_some_and(|seen| seen.trouble.is_some()));
        timeout(PATIENCE, gone).await.unwrap().unwrap();
        host.gpus.set_driver(DriverKind::Current);
        let back = agent.latest.wait_for(|seen| lists(seen.as_deref(), pid));
        timeout(PATIENCE, back).await.unwrap().unwrap();
    })
    .await;
    assert!(samples(&evidence) > 5);
    let energy = evidence.devices[0].counters.unwrap().energy_millijoules;
    assert!(energy.unwrap() <= at_full_power(&evidence));
}

#[tokio::test]
async fn a_gpu_that_is_lost_in_mid_run_ends_no_lease_and_states_no_use_of_that_time() {
    let evidence = stated_when(async |host, agent, _| {
        host.gpus
            .change(|state| state.devices[0].faults.lost = true);
        let lost = agent.latest.wait_for(|seen| {
            let slots = seen.as_ref().map(|seen| seen.slots.as_slice());
            slots.is_some_and(|slots| slots.iter().any(|slot| slot.facts.is_err()))
        });
        timeout(PATIENCE, lost).await.unwrap().unwrap();
        agent.samples(20).await;
    })
    .await;
    let counters = evidence.devices[0].counters.unwrap();
    let millis = evidence.ended_ms.unwrap() - evidence.started_ms.unwrap();
    assert!(counters.busy_millis.unwrap() < millis);
}

#[tokio::test]
async fn a_process_of_the_host_on_an_allocated_gpu_is_told_and_not_counted() {
    let mut foreign = None;
    let evidence = stated_when(async |host, agent, pid| {
        let started = host.start_foreign(pid);
        let id = started.0.id();
        foreign = Some(started);
        let listed = agent.latest.wait_for(|seen| lists(seen.as_deref(), id));
        timeout(PATIENCE, listed).await.unwrap().unwrap();
        agent.samples(10).await;
    })
    .await;
    assert_eq!(evidence.foreign_processes, Some(1));
    let counters = evidence.devices[0].counters.unwrap();
    assert_eq!(counters.peak_processes, Some(1));
    let millis = evidence.ended_ms.unwrap() - evidence.started_ms.unwrap();
    let memory = counters.memory_mib_seconds.unwrap();
    assert!(memory <= 512 * (millis + 1000) / 1000, "{memory} MiB s");
}

#[tokio::test]
async fn a_full_disk_is_told_costs_nothing_that_was_seen_and_is_over_when_there_is_room() {
    let (server, mut host) = (ApiServer::new(), Host::new());
    let client = server.start().await;
    server.open(0, None);
    fs::create_dir_all(host.path("state")).unwrap();
    let next = host.path("state/metering.json.next");
    // The kernel's device that answers each write as a full disk does.
    symlink("/dev/full", &next).unwrap();
    host.start_container();
    let mut agent = Agent::start(&host, &client);
    let told = agent.trouble.wait_for(|trouble| {
        let message = trouble.message().unwrap_or_default();
        message.contains("No space left on device")
    });
    timeout(PATIENCE, told).await.unwrap().unwrap();
    server.until(RECORD, |e| !e.checkpoints.is_empty()).await;
    fs::remove_file(next).unwrap();
    let mended = agent.trouble.wait_for(|trouble| trouble.spool.is_none());
    timeout(PATIENCE, mended).await.unwrap().unwrap();
    agent.stop().await;
    let agent = Agent::start(&host, &client);
    host.end_container();
    let ended = server.until(RECORD, |e| e.ended_ms.is_some()).await;
    assert_whole(RECORD, &ended);
    agent.stop().await;
}
