//! The double as the device agent uses it: through nvml-wrapper, from a path.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may panic"
)]

#[path = "../nvml/tests/support/mod.rs"]
mod support;

use std::sync::atomic::{AtomicBool, Ordering};

use gridstake_simulated_gpus::{
    state::{Driver, DriverKind, Processes},
    tracking::boottime_nanoseconds,
};
use nvml_wrapper::{
    Nvml,
    bitmasks::event::EventTypes,
    enum_wrappers::device::{Brand, EccCounter, MemoryError, TemperatureSensor, TopologyLevel},
    enums::device::DeviceArchitecture,
    error::NvmlError,
};
use proptest::prelude::*;
use support::Node;

fn load(node: &Node) -> Result<Nvml, NvmlError> {
    Nvml::builder().lib_path(node.library.as_os_str()).init()
}

#[test]
fn a_node_with_eight_h100_shows_them_with_all_that_the_agent_reads() {
    let node = Node::new("h100");
    let nvml = load(&node).unwrap();
    assert_eq!(nvml.sys_driver_version().unwrap(), "580.95.05");
    assert_eq!(nvml.sys_cuda_driver_version().unwrap(), 13_000);
    assert_eq!(nvml.device_count().unwrap(), 8);
    for (index, expected) in node.state().devices.iter().enumerate() {
        let device = nvml.device_by_index(u32::try_from(index).unwrap()).unwrap();
        assert_eq!(device.uuid().unwrap(), expected.uuid);
        assert_eq!(device.serial().unwrap(), expected.serial);
        assert_eq!(device.minor_number().unwrap(), expected.minor);
        assert_eq!(
            nvml.device_by_uuid(expected.uuid.as_str())
                .unwrap()
                .index()
                .unwrap() as usize,
            index
        );
        let pci = device.pci_info().unwrap();
        assert_eq!(pci.bus, expected.pci.bus);
        assert_eq!(
            nvml.device_by_pci_bus_id(pci.bus_id.as_str())
                .unwrap()
                .index()
                .unwrap() as usize,
            index
        );
    }
    let device = nvml.device_by_index(0).unwrap();
    assert_eq!(device.name().unwrap(), "NVIDIA H100 80GB HBM3");
    assert_eq!(device.brand().unwrap(), Brand::Nvidia);
    assert_eq!(device.architecture().unwrap(), DeviceArchitecture::Hopper);
    let capability = device.cuda_compute_capability().unwrap();
    assert_eq!((capability.major, capability.minor), (9, 0));
    let memory = device.memory_info().unwrap();
    assert_eq!(memory.total, 81_559 << 20);
    assert_eq!(memory.used, 0);
    assert_eq!(device.enforced_power_limit().unwrap(), 700_000);
    assert!(device.is_ecc_enabled().unwrap().currently_enabled);
    assert_eq!(device.temperature(TemperatureSensor::Gpu).unwrap(), 31);
    assert!(device.link_wrapper_for(0).is_active().unwrap());
    assert!(matches!(
        device.link_wrapper_for(18).is_active(),
        Err(NvmlError::InvalidArg)
    ));
    let other = nvml.device_by_index(7).unwrap();
    assert_eq!(
        device.topology_common_ancestor(other).unwrap(),
        TopologyLevel::System
    );
    assert!(matches!(
        nvml.device_by_index(8),
        Err(NvmlError::InvalidArg)
    ));
    assert!(matches!(
        nvml.device_by_uuid("GPU-none"),
        Err(NvmlError::NotFound)
    ));
}

#[test]
fn a_process_makes_its_device_busy_and_no_other() {
    let node = Node::new("h100");
    let nvml = load(&node).unwrap();
    let (busy, idle) = (
        nvml.device_by_index(0).unwrap(),
        nvml.device_by_index(1).unwrap(),
    );
    assert_eq!(busy.utilization_rates().unwrap().gpu, 0);
    node.run(0, &[41, 42]);
    let pids: Vec<_> = busy
        .running_compute_processes()
        .unwrap()
        .iter()
        .map(|process| process.pid)
        .collect();
    assert_eq!(pids, [41, 42]);
    assert_eq!(busy.memory_info().unwrap().used, 2 << 30);
    assert!(busy.utilization_rates().unwrap().gpu > 0);
    assert!(busy.power_usage().unwrap() > idle.power_usage().unwrap());
    assert!(idle.running_compute_processes().unwrap().is_empty());
    assert_eq!(idle.utilization_rates().unwrap().gpu, 0);
    node.run(0, &[]);
    assert!(busy.running_compute_processes().unwrap().is_empty());
    assert_eq!(busy.utilization_rates().unwrap().gpu, 0);
}

#[test]
fn a_lost_gpu_answers_nothing_until_it_recovers() {
    let node = Node::new("h100");
    let nvml = load(&node).unwrap();
    let device = nvml.device_by_index(3).unwrap();
    let healthy = nvml.device_by_index(2).unwrap();
    node.fault(Some(3), "lost");
    assert_eq!(nvml.device_count().unwrap(), 8);
    assert!(matches!(device.uuid(), Err(NvmlError::GpuLost)));
    assert!(matches!(device.memory_info(), Err(NvmlError::GpuLost)));
    assert!(matches!(
        device.utilization_rates(),
        Err(NvmlError::GpuLost)
    ));
    assert!(matches!(
        device.running_compute_processes(),
        Err(NvmlError::GpuLost)
    ));
    assert!(matches!(nvml.device_by_index(3), Err(NvmlError::GpuLost)));
    // nvml.h: "if any GPU has fallen off the bus".
    let other = node.state().devices[2].uuid.clone();
    assert!(matches!(
        nvml.device_by_uuid(other.as_str()),
        Err(NvmlError::GpuLost)
    ));
    assert!(healthy.memory_info().is_ok());
    assert!(nvml.device_by_index(2).is_ok());
    node.fault(Some(3), "recovered");
    assert!(device.memory_info().is_ok());
    assert!(nvml.device_by_uuid(other.as_str()).is_ok());
}

#[test]
fn a_fault_of_one_call_leaves_the_others_alone() {
    let node = Node::new("h100");
    let nvml = load(&node).unwrap();
    let device = nvml.device_by_index(0).unwrap();
    node.fault(Some(0), "error=nvmlDeviceGetMemoryInfo_v2:UNKNOWN");
    assert!(matches!(device.memory_info(), Err(NvmlError::Unknown)));
    assert!(device.utilization_rates().is_ok());
    assert!(nvml.device_by_index(1).unwrap().memory_info().is_ok());
    node.fault(None, "error=nvmlDeviceGetUtilizationRates:NOT_SUPPORTED");
    assert!(matches!(
        nvml.device_by_index(1).unwrap().utilization_rates(),
        Err(NvmlError::NotSupported)
    ));
}

#[test]
fn health_shows_what_was_set() {
    let node = Node::new("h100");
    let nvml = load(&node).unwrap();
    let device = nvml.device_by_index(0).unwrap();
    for fault in [
        "ecc=2",
        "ecc-corrected=5",
        "slowdown=hw-thermal",
        "temperature=91",
    ] {
        node.fault(Some(0), fault);
    }
    let errors = |kind| device.total_ecc_errors(kind, EccCounter::Volatile).unwrap();
    assert_eq!(
        (
            errors(MemoryError::Corrected),
            errors(MemoryError::Uncorrected)
        ),
        (5, 2)
    );
    assert_eq!(device.current_throttle_reasons().unwrap().bits(), 0x41);
    assert_eq!(device.temperature(TemperatureSensor::Gpu).unwrap(), 91);
}

#[test]
fn a_model_without_a_feature_says_not_supported() {
    let node = Node::new("t4");
    let nvml = load(&node).unwrap();
    let device = nvml.device_by_index(0).unwrap();
    assert!(matches!(device.mig_mode(), Err(NvmlError::NotSupported)));
    assert!(matches!(
        device.link_wrapper_for(0).is_active(),
        Err(NvmlError::NotSupported)
    ));
    assert!(!device.is_accounting_enabled().unwrap());
    assert!(matches!(
        device.accounting_pids(),
        Err(NvmlError::NotSupported)
    ));
}

#[test]
fn mig_devices_are_found_around_their_holes() {
    let node = Node::new("h100");
    let nvml = load(&node).unwrap();
    let device = nvml.device_by_index(0).unwrap();
    assert_eq!(device.mig_device_count().unwrap(), 0);
    node.fault(Some(0), "mig=3,-,1");
    assert_eq!(device.mig_mode().unwrap().current, 1);
    assert_eq!(device.mig_device_count().unwrap(), 7);
    let found: Vec<_> = (0..7)
        .map(|index| device.mig_device_by_index(index))
        .collect();
    let present: Vec<_> = found.iter().map(Result::is_ok).collect();
    assert_eq!(present, [true, false, true, false, false, false, false]);
    assert!(matches!(found[1], Err(NvmlError::NotFound)));
    let instance = found[0].as_ref().unwrap();
    assert!(instance.uuid().unwrap().starts_with("MIG-"));
    assert_eq!(
        instance.name().unwrap(),
        "NVIDIA H100 80GB HBM3 MIG 3g.40gb"
    );
    assert!(instance.mig_is_mig_device_handle().unwrap());
    assert_eq!(instance.attributes().unwrap().gpu_instance_slice_count, 3);
    assert_eq!(
        instance.mig_parent_device().unwrap().uuid().unwrap(),
        device.uuid().unwrap()
    );
    assert!(matches!(
        device.utilization_rates(),
        Err(NvmlError::NotSupported)
    ));
}

#[test]
fn an_xid_reaches_each_event_set_that_watches_the_device_once() {
    let node = Node::new("h100");
    let nvml = load(&node).unwrap();
    node.fault(Some(0), "xid=13");
    let watch = || {
        let set = nvml.create_event_set().unwrap();
        let device = nvml.device_by_index(0).unwrap();
        device
            .register_events(EventTypes::CRITICAL_XID_ERROR, set)
            .unwrap()
    };
    let (first, second) = (watch(), watch());
    // From before the registration, and from another device: not delivered.
    node.fault(Some(1), "xid=48");
    assert!(matches!(first.wait(0), Err(NvmlError::Timeout)));
    node.fault(Some(0), "xid=63");
    for set in [&first, &second] {
        let event = set.wait(5_000).unwrap();
        assert_eq!(format!("{:?}", event.event_data), "Some(Value(63))");
        assert_eq!(event.device.index().unwrap(), 0);
        assert!(matches!(set.wait(0), Err(NvmlError::Timeout)));
    }
}

#[test]
fn an_event_set_delivers_xid_79_and_then_says_that_the_gpu_is_lost() {
    let node = Node::new("h100");
    let nvml = load(&node).unwrap();
    let set = nvml.create_event_set().unwrap();
    let set = nvml
        .device_by_index(0)
        .unwrap()
        .register_events(EventTypes::CRITICAL_XID_ERROR, set)
        .unwrap();
    node.fault(Some(0), "lost");
    assert!(set.wait(5_000).is_ok());
    assert!(matches!(set.wait(5_000), Err(NvmlError::GpuLost)));
}

#[test]
fn without_a_driver_init_says_so() {
    let node = Node::new("h100");
    for kind in [DriverKind::Unloaded, DriverKind::Absent] {
        node.change(|state| state.driver = Driver::of(kind));
        assert!(
            matches!(load(&node), Err(NvmlError::DriverNotLoaded)),
            "{kind:?}"
        );
    }
    node.change(|state| state.driver = Driver::of(DriverKind::Current));
    let nvml = load(&node).unwrap();
    node.change(|state| state.driver = Driver::of(DriverKind::Unloaded));
    assert!(matches!(
        nvml.device_count(),
        Err(NvmlError::DriverNotLoaded)
    ));
}

#[test]
fn a_state_that_cannot_be_read_is_a_driver_that_is_not_loaded_and_later_changes_nothing() {
    let node = Node::new("h100");
    let file = node.directory.path().join("state.json");
    let good = std::fs::read(&file).unwrap();
    std::fs::write(&file, "{ this is no JSON").unwrap();
    assert!(matches!(load(&node), Err(NvmlError::DriverNotLoaded)));
    std::fs::write(&file, &good).unwrap();
    let nvml = load(&node).unwrap();
    assert_eq!(nvml.device_count().unwrap(), 8);
    std::fs::write(&file, "{ this is no JSON either").unwrap();
    assert_eq!(nvml.device_count().unwrap(), 8);
    std::fs::remove_file(&file).unwrap();
    assert_eq!(nvml.device_count().unwrap(), 8);
}

#[test]
fn an_old_driver_lacks_symbols_and_says_its_version() {
    let node = Node::old_driver("t4");
    let nvml = load(&node).unwrap();
    assert!(nvml.sys_driver_version().unwrap().starts_with("450."));
    let device = nvml.device_by_index(0).unwrap();
    assert_eq!(device.name().unwrap(), "Tesla T4");
    assert!(matches!(
        device.memory_info(),
        Err(NvmlError::FailedToLoadSymbol(_))
    ));
    assert!(matches!(
        device.running_compute_processes(),
        Err(NvmlError::FailedToLoadSymbol(_))
    ));
    assert!(device.utilization_rates().is_ok());
}

#[test]
fn a_library_of_another_driver_is_a_version_mismatch() {
    let node = Node::new("h100");
    node.change(|state| state.driver = Driver::of(DriverKind::Old));
    assert!(matches!(load(&node), Err(NvmlError::LibRmVersionMismatch)));
}

#[test]
fn accounting_follows_its_mode_and_cannot_be_set_without_privileges() {
    let node = Node::new("h100");
    node.fault(Some(0), "accounting=on");
    node.run(0, &[41]);
    let nvml = load(&node).unwrap();
    let mut device = nvml.device_by_index(0).unwrap();
    assert!(device.is_accounting_enabled().unwrap());
    assert_eq!(device.accounting_pids().unwrap(), [41]);
    assert!(device.accounting_stats_for(41).unwrap().is_running);
    assert!(matches!(
        device.accounting_stats_for(42),
        Err(NvmlError::NotFound)
    ));
    assert!(matches!(
        device.set_accounting(false),
        Err(NvmlError::NoPermission)
    ));
}

#[test]
fn two_loaded_libraries_agree_about_energy() {
    let node = Node::new("h100");
    let (first, second) = (load(&node).unwrap(), load(&node).unwrap());
    let read = |nvml: &Nvml| {
        nvml.device_by_index(0)
            .unwrap()
            .total_energy_consumption()
            .unwrap()
    };
    for _ in 0..50 {
        let (a, b, c) = (read(&first), read(&second), read(&first));
        assert!(a <= b && b <= c, "{a} {b} {c}");
    }
}

#[test]
fn an_energy_reset_starts_a_new_count() {
    let node = Node::new("h100");
    let nvml = load(&node).unwrap();
    let device = nvml.device_by_index(0).unwrap();
    let before = device.total_energy_consumption().unwrap();
    node.fault(Some(0), "energy-reset");
    assert!(device.total_energy_consumption().unwrap() < before);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Readers never see the counter fall while a writer switches the device between idle and busy.
    #[test]
    fn the_energy_counter_never_falls_while_processes_come_and_go(loads in prop::collection::vec(any::<bool>(), 1..60)) {
        let node = Node::new("h100");
        let nvml = load(&node).unwrap();
        let device = &node.state().devices[0];
        let is_done = AtomicBool::new(false);
        let fell = std::thread::scope(|scope| {
            let readers: Vec<_> = (0..2)
                .map(|_| {
                    scope.spawn(|| {
                        let gpu = nvml.device_by_index(0).unwrap();
                        let mut last = 0;
                        while !is_done.load(Ordering::Relaxed) {
                            let now = gpu.total_energy_consumption().unwrap();
                            if now < last {
                                return Some((last, now));
                            }
                            last = now;
                        }
                        None
                    })
                })
                .collect();
            let mut processes = Processes::default();
            for is_busy in loads {
                let lock = node.directory.lock().unwrap();
                let ledger = processes
                    .energy
                    .get(&device.uuid)
                    .copied()
                    .unwrap_or_else(|| gridstake_simulated_gpus::state::EnergyLedger::idle_since_boot(device.milliwatts(false)));
                processes
                    .energy
                    .insert(device.uuid.clone(), ledger.draw(device.milliwatts(is_busy), boottime_nanoseconds()));
                node.directory.write_processes(&lock, &processes).unwrap();
            }
            is_done.store(true, Ordering::Relaxed);
            readers.into_iter().find_map(|reader| reader.join().unwrap())
        });
        prop_assert_eq!(fell, None);
    }
}
