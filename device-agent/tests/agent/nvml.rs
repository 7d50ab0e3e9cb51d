//! What NVML can do to the agent, and what the agent makes of it.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use gridstake_crds::gpu_node::{AgentState, DeviceHealth, DeviceReason};
use gridstake_device_agent::nvml::call::may_take;
use gridstake_simulated_gpus_state::{
    CallFault, DriverKind, MigInstance, Process, ProcessKind, ReturnCode,
};

use crate::{
    PATIENCE,
    node::{Node, Watch, uuid},
};

fn answers(code: ReturnCode) -> CallFault {
    CallFault {
        error: Some(code),
        delay_milliseconds: 0,
    }
}

#[tokio::test]
async fn eight_gpus_are_found_with_all_that_nvml_tells() {
    let node = Node::with_gpus(8);
    let mut watch = node.watch();
    watch
        .until("eight devices", |inventory| {
            inventory.devices().count() == 8
        })
        .await;
    assert_eq!(watch.inventory.state(), AgentState::Ok);
    assert_eq!(watch.inventory.message(), None);
    let device = watch.device(5);
    assert_eq!(device.facts.uuid, uuid(5));
    assert_eq!(device.facts.model, "NVIDIA H100 80GB HBM3");
    assert_eq!(device.facts.architecture.as_deref(), Some("Hopper"));
    assert_eq!(device.facts.compute_capability, "9.0");
    assert_eq!(device.facts.memory_bytes, 81_559 << 20);
    assert_eq!(device.facts.pci_bus_id.as_deref(), Some("00000000:20:00.0"));
    assert_eq!(
        device.facts.mig.as_ref().map(|mig| mig.enabled),
        Some(false)
    );
    assert_eq!(device.health, DeviceHealth::Healthy);
    assert_eq!(device.sample.utilization_percent, Some(0));
    assert_eq!(device.sample.temperature_celsius, Some(31));
    assert_eq!(device.sample.power_milliwatts, Some(70_000));
    assert_eq!(device.sample.processes.as_deref(), Some(&[][..]));
    let driver = watch.inventory.driver().unwrap();
    assert_eq!(driver.driver, "580.95.05");
    assert_eq!(driver.cuda.as_deref(), Some("13.0"));
}

#[tokio::test]
async fn a_lost_gpu_is_unhealthy_and_returns_when_it_recovers() {
    let mut node = Node::with_gpus(2);
    let mut watch = node.watch();
    watch
        .until("two devices", |inventory| inventory.devices().count() == 2)
        .await;
    node.change(|state| state.devices[1].faults.lost = true);
    watch
        .until("a lost device", |inventory| {
            inventory
                .devices()
                .any(|device| device.reasons == [DeviceReason::GpuLost])
        })
        .await;
    assert_eq!(watch.device(1).health, DeviceHealth::Unhealthy);
    assert_eq!(watch.device(0).health, DeviceHealth::Healthy);
    assert_eq!(watch.inventory.state(), AgentState::Ok);
    node.change(|state| state.devices[1].faults.lost = false);
    watch
        .until("its recovery", |inventory| {
            inventory
                .devices()
                .all(|device| device.health == DeviceHealth::Healthy)
        })
        .await;
}

#[tokio::test]
async fn a_call_that_fails_on_one_gpu_does_not_hide_the_others() {
    let mut node = Node::with_gpus(2);
    let mut watch = node.watch();
    watch
        .until("two devices", |inventory| inventory.devices().count() == 2)
        .await;
    let call = "nvmlDeviceGetMemoryInfo_v2";
    node.change(|state| {
        let faults = &mut state.devices[0].faults.calls;
        faults.insert(call.to_owned(), answers(ReturnCode::UNKNOWN));
    });
    watch
        .until("a failing device", |inventory| {
            inventory
                .devices()
                .any(|device| device.reasons == [DeviceReason::CallFailing])
        })
        .await;
    assert_eq!(watch.device(0).health, DeviceHealth::Unhealthy);
    assert_eq!(watch.device(1).health, DeviceHealth::Healthy);
    let said = watch.inventory.message().unwrap();
    assert!(
        said.contains("nvmlDeviceGetMemoryInfo_v2 answers Unknown"),
        "{said}"
    );
    let errors = &watch.metrics.nvml_call_errors;
    assert!(errors.with_label_values(&[call, "Unknown"]).get() > 0);
}

#[tokio::test]
async fn a_value_that_a_gpu_does_not_tell_is_absent_and_no_illness() {
    let mut node = Node::with_gpus(1);
    node.change(|state| {
        for call in [
            "nvmlDeviceGetUtilizationRates",
            "nvmlDeviceGetTotalEnergyConsumption",
        ] {
            let fault = answers(ReturnCode::NOT_SUPPORTED);
            state.calls.insert(call.to_owned(), fault);
        }
    });
    let mut watch = node.watch();
    watch
        .until("a device", |inventory| inventory.devices().count() == 1)
        .await;
    let device = watch.device(0);
    assert_eq!(device.sample.utilization_percent, None);
    assert_eq!(device.sample.energy_millijoules, None);
    assert!(device.sample.power_milliwatts.is_some());
    assert_eq!(device.health, DeviceHealth::Healthy);
}

#[tokio::test]
async fn a_driver_without_a_needed_symbol_is_too_old_and_the_symbol_is_named() {
    let mut node = Node::with_gpus(1);
    node.set_driver(DriverKind::Old);
    let mut watch = node.watch();
    watch
        .until("a verdict", |inventory| inventory.message().is_some())
        .await;
    assert_eq!(watch.inventory.state(), AgentState::DriverTooOld);
    let said = watch.inventory.message().unwrap();
    assert!(said.contains("nvmlDeviceGetMemoryInfo_v2"), "{said}");
    let driver = watch.inventory.driver().unwrap();
    assert_eq!(
        driver.driver, "450.248.02",
        "so that people see which it is"
    );
}

#[tokio::test]
async fn a_driver_that_is_not_loaded_is_reported_and_found_once_it_is() {
    let mut node = Node::with_gpus(1);
    node.set_driver(DriverKind::Unloaded);
    let mut watch = node.watch();
    watch
        .until("a verdict", |inventory| inventory.message().is_some())
        .await;
    assert_eq!(watch.inventory.state(), AgentState::DriverNotLoaded);
    node.set_driver(DriverKind::Current);
    watch
        .until("the device", |inventory| {
            inventory.state() == AgentState::Ok
        })
        .await;
}

#[tokio::test]
async fn a_missing_library_is_reported_and_found_once_it_is_installed() {
    let mut node = Node::with_gpus(1);
    node.set_driver(DriverKind::Absent);
    let mut watch = node.watch();
    watch
        .until("a verdict", |inventory| inventory.message().is_some())
        .await;
    assert_eq!(watch.inventory.state(), AgentState::LibraryMissing);
    let said = watch.inventory.message().unwrap();
    assert!(said.contains("No such file"), "the loader's words: {said}");
    node.set_driver(DriverKind::Current);
    watch
        .until("the device", |inventory| {
            inventory.state() == AgentState::Ok
        })
        .await;
}

#[tokio::test]
async fn a_driver_that_is_replaced_while_the_agent_runs_is_followed() {
    let mut node = Node::with_gpus(1);
    let mut watch = node.watch();
    watch
        .until("the device", |inventory| inventory.devices().count() == 1)
        .await;
    node.set_driver(DriverKind::Old);
    watch
        .until("the old driver", |inventory| {
            inventory.state() == AgentState::DriverTooOld
        })
        .await;
    assert_eq!(watch.device(0).health, DeviceHealth::Unknown);
    node.set_driver(DriverKind::Current);
    watch
        .until("the device", |inventory| {
            inventory.state() == AgentState::Ok
        })
        .await;
    assert_eq!(watch.device(0).health, DeviceHealth::Healthy);
}

#[tokio::test]
async fn a_driver_without_gpus_says_so() {
    let node = Node::with_gpus(0);
    let mut watch = node.watch();
    watch
        .until("a verdict", |inventory| inventory.message().is_some())
        .await;
    assert_eq!(watch.inventory.state(), AgentState::NoDevices);
}

#[tokio::test]
async fn a_call_that_fails_for_the_whole_node_is_named() {
    let mut node = Node::with_gpus(1);
    node.change(|state| {
        let fault = answers(ReturnCode::UNKNOWN);
        state
            .calls
            .insert("nvmlDeviceGetCount_v2".to_owned(), fault);
    });
    let mut watch = node.watch();
    watch
        .until("a verdict", |inventory| inventory.message().is_some())
        .await;
    assert_eq!(watch.inventory.state(), AgentState::CallFailing);
    let said = watch.inventory.message().unwrap();
    assert_eq!(said, "nvmlDeviceGetCount_v2 answers Unknown");
}

#[tokio::test]
async fn a_call_that_does_not_return_is_seen_from_outside() {
    let mut node = Node::with_gpus(1);
    let watch = node.watch();
    let call = "nvmlDeviceGetPowerUsage";
    node.change(|state| {
        let fault = CallFault {
            error: None,
            delay_milliseconds: 600_000,
        };
        state.calls.insert(call.to_owned(), fault);
    });
    // As the watchdog would see it when the call has taken too long; the clock is an argument.
    let later = || Instant::now() + may_take(call) + Duration::from_secs(1);
    let seen = async {
        while watch.calls.stuck(later()) != Some(call) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, seen).await.unwrap();
}

#[tokio::test]
async fn the_processes_on_a_gpu_are_listed_once_each() {
    let node = Node::with_gpus(2);
    let process = |pid, kind| Process {
        device: uuid(1),
        pid,
        start_ticks: 1,
        used_memory_mib: 512,
        kind,
        gpu_instance: None,
        compute_instance: None,
        container: String::new(),
        pod_uid: String::new(),
    };
    node.set_processes(vec![
        process(4711, ProcessKind::Compute),
        process(4711, ProcessKind::Graphics),
        process(4712, ProcessKind::Mps),
    ]);
    let mut watch = node.watch();
    watch
        .until("two devices", |inventory| inventory.devices().count() == 2)
        .await;
    let on = |index| watch.device(index).sample.processes.clone().unwrap();
    assert_eq!(on(0), []);
    let pids: Vec<_> = on(1).iter().map(|process| process.pid).collect();
    assert_eq!(pids, [4711, 4712]);
    assert_eq!(on(1)[0].memory_bytes, Some(512 << 20));
}

#[tokio::test]
async fn mig_instances_are_found_although_their_indices_have_holes() {
    let instance = |id: u32| {
        Some(MigInstance {
            uuid: format!("MIG-{id}"),
            gpu_instance: id,
            compute_instance: 0,
            slices: 1,
            memory_mib: 9_856,
            multiprocessors: 16,
        })
    };
    let mut node = Node::with_gpus(1);
    node.change(|state| state.devices[0].mig = Some(vec![instance(7), None, instance(9)]));
    let mut watch = node.watch();
    watch
        .until("a device", |inventory| inventory.devices().count() == 1)
        .await;
    let mig = watch.device(0).facts.mig.clone().unwrap();
    assert!(mig.enabled);
    let uuids: Vec<_> = mig.instances.iter().map(|i| i.uuid.as_str()).collect();
    assert_eq!(uuids, ["MIG-7", "MIG-9"]);
    assert_eq!(mig.instances[0].memory_mib, 9_856);
    assert_eq!(watch.device(0).health, DeviceHealth::Healthy);
}

#[tokio::test]
async fn nvidias_own_library_without_a_driver_says_that_the_driver_is_not_loaded() {
    let library = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.build/real-nvml");
    let library: PathBuf = library.join("libnvidia-ml.so.1");
    if !library.exists() || Path::new("/proc/driver/nvidia").exists() {
        eprintln!("skipped: needs {} and no driver", library.display());
        return;
    }
    let mut watch = Watch::new(library);
    watch
        .until("a verdict", |inventory| inventory.message().is_some())
        .await;
    assert_eq!(watch.inventory.state(), AgentState::DriverNotLoaded);
}
