use super::*;

const UUIDS: [&str; 3] = ["GPU-a", "GPU-b", "GPU-c"];

fn facts(uuid: &str, index: u32) -> Arc<DeviceFacts> {
    Arc::new(DeviceFacts {
        uuid: uuid.to_owned(),
        index,
        model: "NVIDIA H100 80GB HBM3".to_owned(),
        architecture: Some("Hopper".to_owned()),
        memory_bytes: 80 << 30,
        compute_capability: "9.0".to_owned(),
        pci_bus_id: None,
        mig: None,
        exclusive_process: false,
        nvlink_remotes: Vec::new(),
    })
}

fn failure(call: &'static str, error: &'static str, kind: FailureKind) -> CallFailure {
    CallFailure { call, error, kind }
}

fn lost() -> CallFailure {
    failure("nvmlDeviceGetMemoryInfo_v2", "GpuLost", FailureKind::Lost)
}

fn broken() -> CallFailure {
    failure("nvmlDeviceGetMemoryInfo_v2", "Unknown", FailureKind::Failed)
}

fn well(index: u32) -> Slot {
    Slot {
        index,
        facts: Ok(facts(UUIDS[index as usize], index)),
        sample: Sample {
            utilization_percent: Some(50),
            ..Sample::default()
        },
    }
}

fn ill(index: u32, why: CallFailure) -> Slot {
    Slot {
        sample: Sample {
            failures: vec![why],
            ..Sample::default()
        },
        ..well(index)
    }
}

fn mute(index: u32, why: CallFailure) -> Slot {
    Slot {
        index,
        facts: Err(why),
        sample: Sample::default(),
    }
}

fn seen(slots: impl IntoIterator<Item = Slot>) -> Observation {
    Observation {
        slots: slots.into_iter().collect(),
        ..Observation::default()
    }
}

fn in_trouble(trouble: Trouble) -> Observation {
    Observation {
        trouble: Some(trouble),
        ..Observation::default()
    }
}

fn after(observations: impl IntoIterator<Item = Observation>) -> Inventory {
    let mut inventory = Inventory::default();
    for observation in observations {
        inventory.observe(&observation);
    }
    inventory
}

fn health(inventory: &Inventory) -> Vec<(&str, DeviceHealth, Vec<DeviceReason>)> {
    inventory
        .devices()
        .map(|d| (d.facts.uuid.as_str(), d.health, d.reasons.clone()))
        .collect()
}

const HEALTHY: (DeviceHealth, Vec<DeviceReason>) = (DeviceHealth::Healthy, Vec::new());

fn of(inventory: &Inventory, uuid: &str) -> (DeviceHealth, Vec<DeviceReason>) {
    let device = inventory.devices().find(|d| d.facts.uuid == uuid).unwrap();
    (device.health, device.reasons.clone())
}

fn gpu_lost() -> (DeviceHealth, Vec<DeviceReason>) {
    (DeviceHealth::Unhealthy, vec![DeviceReason::GpuLost])
}

fn call_failing() -> (DeviceHealth, Vec<DeviceReason>) {
    (DeviceHealth::Unhealthy, vec![DeviceReason::CallFailing])
}

#[test]
fn devices_are_healthy_with_their_first_sample() {
    let inventory = after([seen([well(0), well(1)])]);
    assert_eq!(
        health(&inventory),
        [
            ("GPU-a", DeviceHealth::Healthy, vec![]),
            ("GPU-b", DeviceHealth::Healthy, vec![]),
        ]
    );
    assert_eq!(inventory.state(), AgentState::Ok);
    assert_eq!(inventory.message(), None);
}

#[test]
fn a_lost_device_is_unhealthy_at_once_and_the_others_stay() {
    let inventory = after([seen([well(0), well(1)]), seen([well(0), ill(1, lost())])]);
    assert_eq!(of(&inventory, "GPU-a"), HEALTHY);
    assert_eq!(of(&inventory, "GPU-b"), gpu_lost());
    assert_eq!(
        inventory.state(),
        AgentState::Ok,
        "the agent can see the GPUs"
    );
    assert_eq!(
        inventory.message().as_deref(),
        Some("GPU 1 (GPU-b): nvmlDeviceGetMemoryInfo_v2 answers GpuLost")
    );
}

#[test]
fn a_lost_device_that_cannot_even_say_its_name_is_known_by_its_place() {
    let inventory = after([seen([well(0), well(1)]), seen([well(0), mute(1, lost())])]);
    assert_eq!(of(&inventory, "GPU-b"), gpu_lost());
}

#[test]
fn a_loss_is_told_once_whichever_call_shows_it_next() {
    let handle = failure(
        "nvmlDeviceGetHandleByIndex_v2",
        "GpuLost",
        FailureKind::Lost,
    );
    let mut inventory = after([seen([well(0)]), seen([ill(0, lost())])]);
    let said = inventory.message();
    inventory.observe(&seen([mute(0, handle)]));
    assert_eq!(inventory.message(), said);
}

#[test]
fn a_device_that_nvml_no_longer_counts_is_lost() {
    let inventory = after([seen([well(0), well(1)]), seen([well(0)])]);
    assert_eq!(of(&inventory, "GPU-b"), gpu_lost());
}

#[test]
fn a_recovered_device_is_healthy_after_a_row_of_clean_samples() {
    let mut inventory = after([seen([well(0)]), seen([mute(0, lost())])]);
    for _ in 1..STREAK {
        inventory.observe(&seen([well(0)]));
        assert_eq!(of(&inventory, "GPU-a"), gpu_lost());
    }
    inventory.observe(&seen([well(0)]));
    assert_eq!(of(&inventory, "GPU-a"), HEALTHY);
    assert_eq!(inventory.message(), None);
}

#[test]
fn one_failed_sample_is_no_illness_and_a_row_of_them_is() {
    let mut inventory = after([seen([well(0), well(1)])]);
    for _ in 1..STREAK {
        inventory.observe(&seen([ill(0, broken()), well(1)]));
        assert_eq!(of(&inventory, "GPU-a"), HEALTHY);
    }
    inventory.observe(&seen([ill(0, broken()), well(1)]));
    assert_eq!(of(&inventory, "GPU-a"), call_failing());
    assert_eq!(of(&inventory, "GPU-b"), HEALTHY);
    assert_eq!(inventory.state(), AgentState::Ok);
}

#[test]
fn a_device_without_a_value_it_can_be_offered_without_is_degraded() {
    let why = failure("nvmlDeviceGetPowerUsage", "Unknown", FailureKind::Failed);
    let inventory = after((0..STREAK).map(|_| seen([ill(0, why.clone())])));
    assert_eq!(
        of(&inventory, "GPU-a"),
        (DeviceHealth::Degraded, vec![DeviceReason::CallFailing])
    );
    assert_eq!(inventory.state(), AgentState::Ok);
}

#[test]
fn a_needed_call_that_fails_beside_another_decides() {
    let power = failure("nvmlDeviceGetPowerUsage", "Unknown", FailureKind::Failed);
    let mut slot = ill(0, power);
    slot.sample.failures.push(broken());
    let inventory = after((0..STREAK).map(|_| seen([slot.clone()])));
    assert_eq!(of(&inventory, "GPU-a"), call_failing());
}

#[test]
fn a_call_that_fails_on_every_device_is_the_nodes_trouble() {
    let inventory = after((0..STREAK).map(|_| seen([ill(0, broken()), ill(1, broken())])));
    assert_eq!(inventory.state(), AgentState::CallFailing);
    let said = inventory.message().unwrap();
    assert!(
        said.contains("nvmlDeviceGetMemoryInfo_v2 answers Unknown"),
        "{said}"
    );
}

#[test]
fn a_device_that_was_never_described_is_told_of_and_hides_nobody() {
    let inventory = after([seen([well(0), mute(1, broken())])]);
    assert_eq!(
        health(&inventory),
        [("GPU-a", DeviceHealth::Healthy, vec![])]
    );
    assert_eq!(inventory.state(), AgentState::Ok);
    assert_eq!(
        inventory.message().as_deref(),
        Some("GPU 1: nvmlDeviceGetMemoryInfo_v2 answers Unknown")
    );
}

#[test]
fn a_device_lost_before_the_agent_started_is_shown_from_what_was_published() {
    let mut inventory = Inventory::default();
    inventory.observe(&seen([well(0), mute(1, lost())]));
    assert_eq!(inventory.devices().count(), 1);
    inventory.recall([
        (*facts("GPU-b", 1)).clone(),
        (*facts("GPU-gone", 7)).clone(),
    ]);
    inventory.observe(&seen([well(0), mute(1, lost())]));
    assert_eq!(of(&inventory, "GPU-b"), gpu_lost());
    assert_eq!(
        inventory.devices().count(),
        2,
        "what has no place is not shown"
    );
}

#[test]
fn in_trouble_the_devices_stay_and_their_health_is_unknown() {
    let mut inventory = after([seen([well(0)]), in_trouble(Trouble::DriverNotLoaded)]);
    assert_eq!(of(&inventory, "GPU-a"), (DeviceHealth::Unknown, vec![]));
    assert_eq!(inventory.state(), AgentState::DriverNotLoaded);
    assert!(inventory.message().is_some());
    assert_eq!(
        inventory.devices().next().unwrap().sample,
        Sample::default()
    );
    inventory.observe(&seen([well(0)]));
    assert_eq!(
        of(&inventory, "GPU-a"),
        HEALTHY,
        "the trouble was not the device's"
    );
}

#[test]
fn a_call_that_hangs_is_named_until_it_returns() {
    let mut inventory = after([seen([well(0)])]);
    inventory.stuck("nvmlDeviceGetPowerUsage");
    assert_eq!(inventory.state(), AgentState::CallStuck);
    assert!(
        inventory
            .message()
            .unwrap()
            .contains("nvmlDeviceGetPowerUsage has not returned")
    );
    inventory.observe(&seen([well(0)]));
    assert_eq!(inventory.state(), AgentState::Ok);
}

#[test]
fn devices_that_change_places_keep_their_names() {
    let moved = |uuid, index| Slot {
        facts: Ok(facts(uuid, index)),
        ..well(index)
    };
    let inventory = after([
        seen([well(0), well(1)]),
        seen([moved("GPU-b", 0), moved("GPU-a", 1)]),
    ]);
    let places: Vec<_> = inventory
        .devices()
        .map(|d| (d.facts.uuid.as_str(), d.facts.index))
        .collect();
    assert_eq!(places, [("GPU-a", 1), ("GPU-b", 0)]);
    assert_eq!(of(&inventory, "GPU-a"), HEALTHY);
}

proptest::proptest! {
    #[test]
    fn a_device_once_seen_is_never_forgotten(steps in proptest::collection::vec(proptest::collection::vec(0u8..4, 0..=3), 1..20)) {
        let mut inventory = Inventory::default();
        let mut ever = std::collections::BTreeSet::new();
        for step in steps {
            let slots: Vec<Slot> = step.iter().zip(0u32..).map(|(kind, index)| match kind {
                0 => well(index),
                1 => ill(index, lost()),
                2 => ill(index, broken()),
                _ => mute(index, lost()),
            }).collect();
            ever.extend(slots.iter().filter_map(|s| s.facts.as_ref().ok()).map(|f| f.uuid.clone()));
            inventory.observe(&seen(slots));
            let known: std::collections::BTreeSet<_> = inventory.devices().map(|d| d.facts.uuid.clone()).collect();
            proptest::prop_assert_eq!(&known, &ever);
            for device in inventory.devices() {
                proptest::prop_assert_eq!(device.health == DeviceHealth::Healthy, device.reasons.is_empty());
            }
        }
    }
}
