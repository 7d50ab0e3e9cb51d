use std::sync::Arc;

use super::*;
use crate::nvml::{
    Observation, Slot,
    describe::{DeviceFacts, MigFacts, MigInstanceFacts},
    inventory::Inventory,
    sample::Sample,
};

fn device(uuid: &str, index: u32, pids: &[u32]) -> Slot {
    let facts = DeviceFacts {
        uuid: uuid.to_owned(),
        index,
        model: "m".to_owned(),
        architecture: None,
        memory_bytes: 1 << 30,
        compute_capability: "9.0".to_owned(),
        pci_bus_id: None,
        mig: Some(MigFacts {
            slices: 7,
            enabled: true,
            instances: vec![MigInstanceFacts {
                uuid: format!("MIG-{index}"),
                memory_mib: 1,
                compute_slices: 1,
            }],
        }),
        exclusive_process: false,
        nvlink_remotes: Vec::new(),
    };
    let processes = pids
        .iter()
        .map(|pid| GpuProcess {
            pid: *pid,
            memory_bytes: Some(64),
            computes: true,
        })
        .collect();
    Slot {
        index,
        facts: Ok(Arc::new(facts)),
        sample: Sample {
            processes: Some(processes),
            ..Sample::default()
        },
    }
}

fn inventory(slots: impl IntoIterator<Item = Slot>) -> Inventory {
    let mut inventory = Inventory::default();
    inventory.observe(&Observation {
        slots: slots.into_iter().collect(),
        ..Observation::default()
    });
    inventory
}

fn given(pod: &str, id: &str) -> Assignment {
    Assignment {
        namespace: "ns".to_owned(),
        pod: pod.to_owned(),
        container: "main".to_owned(),
        device: DeviceId::parse(id),
    }
}

/// pid → pod UID, where "" is a process of the host.
fn processes(of: &[(u32, &str)]) -> HashMap<u32, Process> {
    of.iter()
        .map(|(pid, pod)| {
            let pod_uid = (!pod.is_empty()).then(|| (*pod).to_owned());
            (
                *pid,
                Process {
                    start_ticks: u64::from(*pid) * 10,
                    pod_uid,
                },
            )
        })
        .collect()
}

fn holders(attribution: &Attribution, uuid: &str) -> Vec<String> {
    attribution[uuid]
        .holders
        .iter()
        .map(|holder| holder.pod.clone())
        .collect()
}

fn owners(attribution: &Attribution, uuid: &str) -> Vec<(u32, Owner)> {
    attribution[uuid]
        .users
        .iter()
        .map(|user| (user.pid, user.owner))
        .collect()
}

#[test]
fn a_device_has_the_holders_of_all_its_parts_each_once() {
    let inventory = inventory([device("GPU-a", 0, &[]), device("GPU-b", 1, &[])]);
    let assignments = [
        given("whole", "GPU-a"),
        given("shared", "GPU-b::0"),
        given("shared", "GPU-b::1"),
        given("sliced", "MIG-1"),
        given("minor", "nvidia1/gi1"),
        given("other", "GPU-elsewhere"),
    ];
    let found = attribute(inventory.devices(), Some(&assignments), &HashMap::new());
    assert_eq!(holders(&found, "GPU-a"), ["whole"]);
    assert_eq!(holders(&found, "GPU-b"), ["minor", "shared", "sliced"]);
}

#[test]
fn a_process_of_the_pod_that_was_given_the_device_is_its_holders() {
    let inventory = inventory([device("GPU-a", 0, &[7, 8])]);
    let found = attribute(
        inventory.devices(),
        Some(&[given("train", "GPU-a")]),
        &processes(&[(7, "uid-1"), (8, "uid-1")]),
    );
    assert_eq!(
        owners(&found, "GPU-a"),
        [(7, Owner::Holder), (8, Owner::Holder)]
    );
    let user = &found["GPU-a"].users[0];
    assert_eq!(
        (user.start_ticks, user.pod_uid.as_deref()),
        (Some(70), Some("uid-1"))
    );
    assert_eq!(user.memory_bytes, Some(64));
}

#[test]
fn a_process_of_the_host_is_foreign() {
    let inventory = inventory([device("GPU-a", 0, &[7, 8])]);
    let found = attribute(
        inventory.devices(),
        Some(&[given("train", "GPU-a")]),
        &processes(&[(7, ""), (8, "uid-1")]),
    );
    assert_eq!(
        owners(&found, "GPU-a"),
        [(7, Owner::Foreign), (8, Owner::Holder)]
    );
}

#[test]
fn a_pod_on_a_device_that_nobody_was_given_is_foreign() {
    let inventory = inventory([device("GPU-a", 0, &[7])]);
    let found = attribute(inventory.devices(), Some(&[]), &processes(&[(7, "uid-1")]));
    assert_eq!(owners(&found, "GPU-a"), [(7, Owner::Foreign)]);
}

#[test]
fn with_more_pods_than_holders_nobody_is_accused() {
    let inventory = inventory([device("GPU-a", 0, &[7, 8])]);
    let found = attribute(
        inventory.devices(),
        Some(&[given("train", "GPU-a")]),
        &processes(&[(7, "uid-1"), (8, "uid-2")]),
    );
    assert_eq!(
        owners(&found, "GPU-a"),
        [(7, Owner::Undetermined), (8, Owner::Undetermined)]
    );
}

#[test]
fn what_kubelet_or_procfs_do_not_say_stays_undetermined() {
    let inventory = inventory([device("GPU-a", 0, &[7, 8, 9])]);
    let found = attribute(
        inventory.devices(),
        None,
        &processes(&[(7, "uid-1"), (9, "")]),
    );
    assert_eq!(
        owners(&found, "GPU-a"),
        [
            (7, Owner::Undetermined),
            (8, Owner::Undetermined),
            (9, Owner::Foreign)
        ]
    );
    assert_eq!(found["GPU-a"].users[1].start_ticks, None);
}
