//! What the driver reports against a GPU, and what the agent makes of it.

use std::{fs, sync::Arc, time::Duration};

use gridstake_crds::gpu_node::{DeviceFault, DeviceFaultKind, DeviceHealth, DeviceReason};
use gridstake_device_agent::{
    health::{State, keep},
    holders::KubeletAnswer,
    metering::trouble::Trouble,
    metrics::Metrics,
    nvml::{
        call::Calls,
        events::{Event, Hearing, Listening},
        thread::{NvmlThread, Settings},
    },
    observer::{NvmlThreadEnded, Observer},
    outcome::{Outcomes, Task},
    process::ProcessTable,
    signing_key::KeyState,
    telling,
};
use gridstake_simulated_gpus_state::{CallFault, DriverKind, ReturnCode};
use tokio::{
    sync::{Notify, oneshot, watch},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{
    PATIENCE,
    node::{Node, Watch, uuid},
};

/// Waits until events are listened to: those from before are not told by NVML.
async fn listens(hearing: &Hearing) {
    let listening = async {
        while !matches!(hearing.take().1, Listening::Until(_)) {
            hearing.changed().await;
        }
    };
    timeout(PATIENCE, listening).await.unwrap();
}

/// Waits for the next events: which, and of which GPU.
async fn heard(hearing: &Hearing) -> Vec<(String, Event)> {
    let heard = async {
        loop {
            let (heard, _) = hearing.take();
            if !heard.is_empty() {
                return heard.into_iter().map(|h| (h.gpu, h.event)).collect();
            }
            hearing.changed().await;
        }
    };
    timeout(PATIENCE, heard).await.unwrap()
}

fn hangs() -> CallFault {
    CallFault {
        error: None,
        delay_milliseconds: 600_000,
    }
}

/// Waits until `call` is made and does not return.
async fn in_flight(calls: &Calls, call: &str) {
    let made = async {
        let later = || std::time::Instant::now() + Duration::from_mins(1);
        while calls.stuck(later()) != Some(call) {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, made).await.unwrap();
}

#[tokio::test]
async fn an_xid_is_heard_with_its_number_and_its_gpu() {
    let mut node = Node::with_gpus(2);
    let watch = node.watch();
    listens(&watch.hearing).await;
    node.change(|state| state.report_xid(&uuid(1), 48));
    let heard = heard(&watch.hearing).await;
    assert_eq!(heard, [(uuid(1), Event::Xid(48))]);
}

#[tokio::test]
async fn an_xid_is_heard_while_a_call_of_the_samples_hangs() {
    let mut node = Node::with_gpus(1);
    let watch = node.watch();
    listens(&watch.hearing).await;
    let call = "nvmlDeviceGetPowerUsage";
    node.change(|state| {
        state.calls.insert(call.to_owned(), hangs());
    });
    in_flight(&watch.calls, call).await;
    node.change(|state| state.report_xid(&uuid(0), 31));
    assert_eq!(heard(&watch.hearing).await, [(uuid(0), Event::Xid(31))]);
}

#[tokio::test]
async fn samples_go_on_while_waiting_for_events_hangs() {
    let mut node = Node::with_gpus(1);
    node.change(|state| {
        state
            .calls
            .insert("nvmlEventSetWait_v2".to_owned(), hangs());
    });
    let mut watch = node.watch();
    watch
        .until("a device", |inventory| inventory.devices().count() == 1)
        .await;
    node.change(|state| state.devices[0].faults.temperature_celsius = Some(77));
    watch
        .until("a later sample", |inventory| {
            let mut devices = inventory.devices();
            devices.any(|device| device.sample.temperature_celsius == Some(77))
        })
        .await;
    let later = std::time::Instant::now() + Duration::from_mins(1);
    assert_eq!(
        watch.hearing.trouble(later).as_deref(),
        Some("nvmlEventSetWait_v2 does not return")
    );
}

#[tokio::test]
async fn the_xid_of_a_gpu_that_has_fallen_off_the_bus_is_that_gpus() {
    let mut node = Node::with_gpus(3);
    let watch = node.watch();
    listens(&watch.hearing).await;
    node.change(|state| {
        state.report_xid(&uuid(1), 79);
        state.devices[1].faults.lost = true;
    });
    assert_eq!(heard(&watch.hearing).await, [(uuid(1), Event::Xid(79))]);
    node.change(|state| state.report_xid(&uuid(2), 13));
    assert_eq!(
        heard(&watch.hearing).await,
        [(uuid(2), Event::Xid(13))],
        "the others are still heard"
    );
}

#[tokio::test]
async fn events_that_cannot_be_heard_are_told_and_the_samples_go_on() {
    let mut node = Node::with_gpus(1);
    node.change(|state| {
        let fault = CallFault {
            error: Some(ReturnCode::NO_PERMISSION),
            delay_milliseconds: 0,
        };
        state
            .calls
            .insert("nvmlDeviceRegisterEvents".to_owned(), fault);
    });
    let mut watch = node.watch();
    let told = async {
        while watch.hearing.trouble(std::time::Instant::now()).is_none() {
            watch.hearing.changed().await;
        }
    };
    timeout(PATIENCE, told).await.unwrap();
    assert_eq!(
        watch.hearing.trouble(std::time::Instant::now()).as_deref(),
        Some("nvmlDeviceRegisterEvents answers NoPermission")
    );
    watch
        .until("a device", |inventory| inventory.devices().count() == 1)
        .await;
}

#[tokio::test]
async fn after_a_driver_was_loaded_anew_events_are_heard_again() {
    let mut node = Node::with_gpus(1);
    let mut watch = node.watch();
    listens(&watch.hearing).await;
    node.set_driver(DriverKind::Unloaded);
    watch
        .until("its absence", |inventory| inventory.message().is_some())
        .await;
    node.set_driver(DriverKind::Current);
    watch
        .until("the device", |inventory| inventory.message().is_none())
        .await;
    listens(&watch.hearing).await;
    node.change(|state| state.report_xid(&uuid(0), 74));
    assert_eq!(heard(&watch.hearing).await, [(uuid(0), Event::Xid(74))]);
}

async fn until_judged(
    watch: &mut Watch,
    health: DeviceHealth,
    reasons: &[DeviceReason],
) -> Vec<DeviceFault> {
    watch
        .until_judged(|judged| judged.health == health && judged.reasons == reasons)
        .await;
    watch.health.told(&uuid(0))
}

#[tokio::test]
async fn memory_errors_remapping_and_lowered_clocks_are_seen_and_told() {
    use {DeviceFaultKind as Kind, DeviceHealth as Health, DeviceReason as Reason};
    let mut node = Node::with_gpus(1);
    let mut watch = node.watch();
    until_judged(&mut watch, Health::Healthy, &[]).await;

    node.change(|state| state.devices[0].faults.clock_event_reasons = 0x4);
    node.change(|state| state.devices[0].faults.remap_pending = true);
    let told = until_judged(&mut watch, Health::Degraded, &[Reason::RowRemapPending]).await;
    assert_eq!(told[0].kind, Kind::RowRemapPending);

    node.change(|state| {
        state.devices[0].faults.remap_pending = false;
        state.devices[0].faults.clock_event_reasons = 0x20 | 0x80;
    });
    let both = [Reason::ThermalThrottling, Reason::PowerThrottling];
    let told = until_judged(&mut watch, Health::Degraded, &both).await;
    let kinds: Vec<Kind> = told.iter().map(|fault| fault.kind).collect();
    assert!(kinds.contains(&Kind::ThermalThrottling) && kinds.contains(&Kind::PowerThrottling));
    node.change(|state| state.devices[0].faults.clock_event_reasons = 0);
    until_judged(&mut watch, Health::Healthy, &[]).await;

    node.change(|state| state.devices[0].faults.remap_failed = true);
    until_judged(&mut watch, Health::Unhealthy, &[Reason::RowRemapPending]).await;
    node.change(|state| state.devices[0].faults.remap_failed = false);
    until_judged(&mut watch, Health::Healthy, &[]).await;

    node.change(|state| state.devices[0].faults.ecc_uncorrected = 2);
    let told = until_judged(&mut watch, Health::Unhealthy, &[Reason::EccUncorrectable]).await;
    assert_eq!((told[0].kind, told[0].count), (Kind::EccUncorrectable, 2));
}

#[tokio::test]
async fn a_gpu_without_ecc_and_remapping_tells_nothing_of_them_and_is_well() {
    let mut node = Node::with_gpus(1);
    node.change(|state| {
        state.devices[0].model.ecc = false;
        state.devices[0].model.row_remapping = false;
    });
    let mut watch = node.watch();
    until_judged(&mut watch, DeviceHealth::Healthy, &[]).await;
    let signs = watch.device(0).sample.signs;
    assert_eq!(
        (
            signs.uncorrectable_errors,
            signs.remap_pending,
            signs.remap_failed
        ),
        (None, None, None)
    );
    assert_eq!(signs.thermal, Some(false));
}

#[tokio::test]
async fn a_gpu_that_retires_pages_instead_of_remapping_rows_tells_that_one_awaits_a_reset() {
    let mut node = Node::with_gpus(1);
    node.change(|state| {
        state.devices[0].model.row_remapping = false;
        state.devices[0].faults.remap_pending = true;
    });
    let mut watch = node.watch();
    let reasons = [DeviceReason::RowRemapPending];
    until_judged(&mut watch, DeviceHealth::Degraded, &reasons).await;
    assert_eq!(watch.device(0).sample.signs.remap_failed, None);
}

/// An observer of a node's GPUs, with a publisher that is always successful.
struct Observed {
    wanted: watch::Receiver<Option<gridstake_crds::GpuNodeStatus>>,
    faults: watch::Receiver<Arc<State>>,
    asking: telling::Asking,
    calls: Arc<Calls>,
    stop: CancellationToken,
    observing: tokio::task::JoinHandle<Result<(), NvmlThreadEnded>>,
    _nvml: NvmlThread,
    _sources: (
        watch::Sender<KubeletAnswer>,
        watch::Sender<KeyState>,
        watch::Sender<Trouble>,
        oneshot::Sender<Vec<gridstake_crds::gpu_node::Device>>,
    ),
}

impl Observed {
    async fn start(node: &Node) -> Self {
        let metrics = Arc::new(Metrics::new().unwrap());
        let calls = Arc::new(Calls::new(metrics.nvml_call_errors.clone()));
        let hearing = Arc::new(Hearing::new(metrics.nvml_call_errors.clone()));
        let (sender, latest) = watch::channel(None);
        let settings = Settings {
            library: Some(node.library()),
            proc_root: "/proc".into(),
            interval: Duration::from_millis(100),
        };
        let nvml =
            NvmlThread::spawn(settings, Arc::clone(&calls), Arc::clone(&hearing), sender).unwrap();
        let (kubelet, kubelet_seen) = watch::channel(KubeletAnswer {
            assignments: Some(Arc::default()),
            ..KubeletAnswer::default()
        });
        let (key, key_seen) = watch::channel(KeyState::Pending);
        let (trouble, metering) = watch::channel(Trouble::default());
        let (wanted, mut wanted_seen) = watch::channel(None);
        let (before, before_seen) = oneshot::channel();
        let (faults, faults_seen) = watch::channel(Arc::new(State::default()));
        let (asking, reporting, telling) = telling::channel();
        let observer = Observer {
            latest,
            calls: Arc::clone(&calls),
            hearing,
            kubelet: kubelet_seen,
            processes_changed: Arc::new(Notify::new()),
            processes: ProcessTable::new("/proc".as_ref()),
            metrics,
            key: key_seen,
            metering,
            wanted,
            faults,
            tenants: watch::channel(None).1,
            local_use: watch::Sender::new(None),
            reporting,
        };
        let stop = CancellationToken::new();
        let observing = tokio::spawn(observer.run(before_seen, stop.clone()));
        tokio::spawn(async move {
            let mut reported = telling.reported;
            while reported.changed().await.is_ok() {
                telling.told.send_replace(*reported.borrow_and_update());
            }
        });
        timeout(PATIENCE, wanted_seen.wait_for(Option::is_some))
            .await
            .unwrap()
            .unwrap();
        let mut started = Self {
            wanted: wanted_seen,
            faults: faults_seen,
            asking,
            calls,
            stop,
            observing,
            _nvml: nvml,
            _sources: (kubelet, key, trouble, before),
        };
        // The first answer comes when events are listened to.
        started.ask().await;
        started
    }

    async fn ask(&mut self) {
        timeout(PATIENCE, self.asking.all_is_told()).await.unwrap();
    }

    /// How many faults of a GPU are told with that Xid.
    fn told(&self, gpu: usize, xid: u32) -> usize {
        let status = self.wanted.borrow();
        let faults = status.iter().flat_map(|status| &status.devices[gpu].faults);
        faults.filter(|fault| fault.xid == Some(xid)).count()
    }

    async fn stop(self) {
        self.stop.cancel();
        let ended = timeout(PATIENCE, self.observing).await;
        ended.unwrap().unwrap().unwrap();
    }
}

#[tokio::test]
async fn when_a_heartbeats_question_is_answered_every_xid_from_before_it_is_in_the_wanted_status() {
    let mut node = Node::with_gpus(2);
    let mut observed = Observed::start(&node).await;
    for xid in [79, 31, 48, 94, 13] {
        node.change(|state| state.report_xid(&uuid(1), xid.into()));
        observed.ask().await;
        assert_eq!(observed.told(1, xid), 1, "Xid {xid}");
    }
    let kept = observed.faults.borrow().devices[&uuid(1)].faults.told();
    assert_eq!(kept.len(), 5, "and it is to be kept");
    observed.stop().await;
}

#[tokio::test]
async fn a_call_that_hangs_stops_neither_the_heartbeat_nor_the_word_of_an_xid() {
    let mut node = Node::with_gpus(1);
    let mut observed = Observed::start(&node).await;
    let call = "nvmlDeviceGetPowerUsage";
    node.change(|state| {
        state.calls.insert(call.to_owned(), hangs());
    });
    in_flight(&observed.calls, call).await;
    node.change(|state| state.report_xid(&uuid(0), 79));
    observed.ask().await;
    assert_eq!(observed.told(0, 79), 1);
    let status = observed.wanted.borrow().clone().unwrap();
    assert_eq!(status.devices[0].health, DeviceHealth::Unhealthy);
    observed.stop().await;
}

#[tokio::test]
async fn the_log_is_kept_when_it_changes_and_again_after_a_disk_that_was_full() {
    let mut node = Node::with_gpus(1);
    let mut watch = node.watch();
    listens(&watch.hearing).await;
    node.change(|state| state.report_xid(&uuid(0), 79));
    let reasons = [DeviceReason::XidFatal];
    until_judged(&mut watch, DeviceHealth::Unhealthy, &reasons).await;

    let folder = tempfile::tempdir().unwrap();
    let next = folder.path().join("faults.json.next");
    // The kernel's device that answers each write as a full disk does.
    std::os::unix::fs::symlink("/dev/full", &next).unwrap();
    let metrics = Metrics::new().unwrap();
    let runs = |outcome| metrics.task_runs.with_label_values(&["faults", outcome]);
    let (faults, faults_seen) = watch::channel(Arc::new(State::default()));
    let stop = CancellationToken::new();
    let keeping = tokio::spawn(keep::keep(
        folder.path().to_owned(),
        "boot".to_owned(),
        faults_seen,
        Outcomes::new(Task::Faults, &metrics),
        stop.clone(),
    ));
    faults.send_replace(Arc::new(watch.health.state()));
    let counted = async |outcome| {
        while runs(outcome).get() == 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, counted("failure")).await.unwrap();
    fs::remove_file(next).unwrap();
    timeout(PATIENCE, counted("success")).await.unwrap();
    stop.cancel();
    timeout(PATIENCE, keeping).await.unwrap().unwrap();
    let (boot, kept) = keep::KEPT.load::<State>(folder.path()).unwrap().unwrap();
    assert_eq!((boot.as_str(), kept), ("boot", watch.health.state()));
}
