//! What the agent says of itself and its node in `GpuNode.status`. Pure.
//!
//! Nothing volatile stands here: no utilisation or temperature, and of times and counters only those of faults, which stand
//! still in between. So a status that is equal is not written.

use gridstake_crds::gpu_node::{
    Agent, AgentKey, Device as PublishedDevice, Driver, GpuNodeStatus, Mig, MigInstance, Sharing,
    SharingStrategy, XIDS_NOT_HEARD,
};

use crate::{
    health::Health,
    metering::trouble::Trouble,
    nvml::{
        describe::DeviceFacts,
        inventory::{Device, Inventory},
    },
    pod_resources::Replicas,
    signing_key::KeyState,
};

/// Bytes in a MiB.
const MIB: u64 = 1 << 20;

/// Bounds of the API's schema, in bytes. A text that exceeds one would make the whole status be refused.
const MESSAGE_MAX: usize = 1024;

/// The agent's part of a `GpuNode`'s status; `hearing` is why no events are heard, if they are not. It does not compare equal to a status with another part in it.
#[must_use]
pub fn report(
    inventory: &Inventory,
    health: &Health,
    replicas: &Replicas,
    key: &KeyState,
    metering: &Trouble,
    hearing: Option<String>,
    version: &str,
) -> GpuNodeStatus {
    let mut devices: Vec<PublishedDevice> = inventory
        .devices()
        .map(|device| published(device, inventory, health, replicas))
        .collect();
    devices.sort_by(|a, b| (a.index, &a.uuid).cmp(&(b.index, &b.uuid)));
    GpuNodeStatus {
        devices,
        driver: inventory.driver().map(|driver| Driver {
            version: driver.driver.clone(),
            nvml: driver.nvml.clone(),
            cuda: driver.cuda.clone(),
        }),
        agent: Some(Agent {
            version: version.to_owned(),
            state: inventory.state(),
            message: message(inventory, key, metering, hearing).map(|text| cut(text, MESSAGE_MAX)),
            key: match key {
                KeyState::Ready(key) => Some(AgentKey {
                    address: key.address().to_string(),
                }),
                KeyState::Pending | KeyState::Unusable(_) => None,
            },
        }),
        ..GpuNodeStatus::default()
    }
}

/// The key's trouble first: it stops all metering.
fn message(
    inventory: &Inventory,
    key: &KeyState,
    metering: &Trouble,
    hearing: Option<String>,
) -> Option<String> {
    let said = [
        match key {
            KeyState::Unusable(why) => Some(format!("no evidence is signed: {why}")),
            KeyState::Pending | KeyState::Ready(_) => None,
        },
        metering.message(),
        inventory.message(),
        hearing.map(|why| format!("{XIDS_NOT_HEARD}: {why}")),
    ];
    let said: Vec<String> = said.into_iter().flatten().collect();
    (!said.is_empty()).then(|| said.join("; "))
}

/// Whether `published` says in the agent's part what `wanted` says.
#[must_use]
pub fn says_the_same(published: &GpuNodeStatus, wanted: &GpuNodeStatus) -> bool {
    let by_uuid = |status: &GpuNodeStatus| {
        let mut devices = status.devices.clone();
        devices.sort_by(|a, b| a.uuid.cmp(&b.uuid));
        devices
    };
    published.agent == wanted.agent
        && published.driver == wanted.driver
        && by_uuid(published) == by_uuid(wanted)
}

/// The facts that a published device holds, for [`Inventory::recall`].
#[must_use]
pub fn facts(device: &PublishedDevice) -> DeviceFacts {
    DeviceFacts {
        uuid: device.uuid.clone(),
        index: device.index,
        model: device.model.clone(),
        architecture: device.architecture.clone(),
        memory_bytes: device.memory_mib.saturating_mul(MIB),
        compute_capability: device.compute_capability.clone(),
        pci_bus_id: device.pci_bus_id.clone(),
        // Its instances and links are of no use while it does not answer.
        mig: None,
        exclusive_process: false,
        nvlink_remotes: Vec::new(),
    }
}

fn published(
    device: &Device,
    inventory: &Inventory,
    health: &Health,
    replicas: &Replicas,
) -> PublishedDevice {
    let facts = &device.facts;
    let verdict = health.verdict(device);
    PublishedDevice {
        uuid: facts.uuid.clone(),
        index: facts.index,
        model: facts.model.clone(),
        architecture: facts.architecture.clone(),
        memory_mib: facts.memory_bytes / MIB,
        compute_capability: facts.compute_capability.clone(),
        pci_bus_id: facts.pci_bus_id.clone(),
        mig: facts.mig.as_ref().map(|mig| Mig {
            enabled: mig.enabled,
            instances: mig
                .instances
                .iter()
                .map(|instance| MigInstance {
                    uuid: instance.uuid.clone(),
                    memory_mib: instance.memory_mib,
                    compute_slices: instance.compute_slices,
                })
                .collect(),
        }),
        sharing: sharing(facts, replicas),
        nvlink_peers: nvlink_peers(facts, inventory),
        health: verdict.health,
        reasons: verdict.reasons,
        faults: health.told(&facts.uuid),
    }
}

/// Both means of sharing name replicas alike; NVIDIA's multi-process service sets the GPU to one process, its server's.
fn sharing(facts: &DeviceFacts, replicas: &Replicas) -> Option<Sharing> {
    let replicas = *replicas.get(&facts.uuid)?;
    let strategy = if facts.exclusive_process {
        SharingStrategy::Mps
    } else {
        SharingStrategy::TimeSlicing
    };
    (replicas > 1).then_some(Sharing { strategy, replicas })
}

/// A GPU of this node by its UUID; a switch, or a GPU that is not in the inventory, by its PCI address.
fn nvlink_peers(facts: &DeviceFacts, inventory: &Inventory) -> Vec<String> {
    let uuid_at = |address: &String| {
        inventory
            .devices()
            .find(|device| device.facts.pci_bus_id.as_ref() == Some(address))
            .map(|device| device.facts.uuid.clone())
    };
    let mut peers: Vec<String> = facts
        .nvlink_remotes
        .iter()
        .map(|address| uuid_at(address).unwrap_or_else(|| address.clone()))
        .collect();
    peers.sort_unstable();
    peers.dedup();
    peers
}

/// Cuts `text` to at most `max` bytes, at the end of a character.
fn cut(mut text: String, max: usize) -> String {
    if text.len() > max {
        let ellipsis = "…";
        text.truncate(text.floor_char_boundary(max - ellipsis.len()));
        text.push_str(ellipsis);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use gridstake_crds::gpu_node::{AgentState, DeviceHealth};

    use super::*;
    use crate::{
        clock::BootMillis,
        nvml::{Observation, Slot, library::DriverVersions, sample::Sample},
        signing_key::SigningKey,
    };

    fn facts_of(uuid: &str, index: u32) -> DeviceFacts {
        DeviceFacts {
            uuid: uuid.to_owned(),
            index,
            model: "NVIDIA H100 80GB HBM3".to_owned(),
            architecture: Some("Hopper".to_owned()),
            memory_bytes: 81_559 * MIB + 5,
            compute_capability: "9.0".to_owned(),
            pci_bus_id: Some(format!("00000000:{index:02X}:00.0")),
            mig: None,
            exclusive_process: false,
            nvlink_remotes: vec!["00000000:01:00.0".to_owned(), "00000000:C4:00.0".to_owned()],
        }
    }

    fn inventory(all: Vec<DeviceFacts>, utilization: u32) -> Inventory {
        let mut inventory = Inventory::default();
        inventory.observe(&Observation {
            began_at: BootMillis::default(),
            trouble: None,
            driver: Some(DriverVersions {
                driver: "580.95.05".into(),
                nvml: None,
                cuda: Some("13.0".into()),
            }),
            slots: all
                .into_iter()
                .map(|facts| Slot {
                    index: facts.index,
                    facts: Ok(Arc::new(facts)),
                    sample: Sample {
                        utilization_percent: Some(utilization),
                        temperature_celsius: Some(utilization),
                        ..Sample::default()
                    },
                })
                .collect(),
        });
        inventory
    }

    #[test]
    fn devices_are_told_in_the_order_of_their_indices() {
        let status = report(
            &inventory(vec![facts_of("GPU-b", 0), facts_of("GPU-a", 1)], 0),
            &Health::default(),
            &Replicas::new(),
            &KeyState::Pending,
            &Trouble::default(),
            None,
            "0.1.0",
        );
        let order: Vec<_> = status.devices.iter().map(|d| d.uuid.as_str()).collect();
        assert_eq!(order, ["GPU-b", "GPU-a"]);
        let first = &status.devices[0];
        assert_eq!(
            (first.memory_mib, first.health),
            (81_559, DeviceHealth::Healthy)
        );
        assert_eq!(
            first.nvlink_peers,
            ["00000000:C4:00.0", "GPU-a"],
            "a switch and the GPU beside it"
        );
        assert_eq!(
            status.agent.as_ref().map(|agent| agent.state),
            Some(AgentState::Ok)
        );
        assert_eq!(
            status.driver.as_ref().map(|driver| driver.version.as_str()),
            Some("580.95.05")
        );
        assert!(
            status.conditions.is_empty(),
            "the agent writes no conditions"
        );
    }

    #[test]
    fn what_changes_from_second_to_second_is_not_told() {
        let at = |utilization| {
            report(
                &inventory(vec![facts_of("GPU-a", 0)], utilization),
                &Health::default(),
                &Replicas::new(),
                &KeyState::Pending,
                &Trouble::default(),
                None,
                "1",
            )
        };
        assert_eq!(at(3), at(99));
    }

    #[test]
    fn the_key_is_told_by_its_address_and_its_trouble_in_words() {
        let told = |key: &KeyState| {
            let mut inventory = inventory(vec![facts_of("GPU-a", 0)], 0);
            inventory.stuck("nvmlDeviceGetCount_v2");
            report(
                &inventory,
                &Health::default(),
                &Replicas::new(),
                key,
                &Trouble::default(),
                None,
                "1",
            )
            .agent
            .unwrap()
        };
        let state = tempfile::tempdir().unwrap();
        let key = Arc::new(SigningKey::load_or_create(state.path()).unwrap());
        let address = key.address().to_string();
        let ready = told(&KeyState::Ready(key));
        assert_eq!(ready.key.map(|key| key.address), Some(address));
        let unusable = told(&KeyState::Unusable("read the signing key /a".into()));
        assert_eq!(unusable.key, None);
        let message = unusable.message.unwrap();
        assert!(
            message.starts_with("no evidence is signed: read the signing key /a; ")
                && message.contains("nvmlDeviceGetCount_v2"),
            "{message}"
        );
    }

    #[test]
    fn a_divided_gpu_says_into_how_many_and_by_which_means() {
        let exclusive = DeviceFacts {
            exclusive_process: true,
            ..facts_of("GPU-b", 1)
        };
        let replicas = Replicas::from([
            ("GPU-a".into(), 4),
            ("GPU-b".into(), 2),
            ("GPU-c".into(), 1),
        ]);
        let status = report(
            &inventory(
                vec![facts_of("GPU-a", 0), exclusive, facts_of("GPU-c", 2)],
                0,
            ),
            &Health::default(),
            &replicas,
            &KeyState::Pending,
            &Trouble::default(),
            None,
            "1",
        );
        let sharing: Vec<_> = status.devices.iter().map(|d| d.sharing.clone()).collect();
        assert_eq!(
            sharing,
            [
                Some(Sharing {
                    strategy: SharingStrategy::TimeSlicing,
                    replicas: 4
                }),
                Some(Sharing {
                    strategy: SharingStrategy::Mps,
                    replicas: 2
                }),
                None,
            ]
        );
    }

    #[test]
    fn another_writers_part_makes_no_difference_and_the_agents_own_does() {
        let wanted = report(
            &inventory(vec![facts_of("GPU-a", 0), facts_of("GPU-b", 1)], 0),
            &Health::default(),
            &Replicas::new(),
            &KeyState::Pending,
            &Trouble::default(),
            None,
            "1",
        );
        let mut published = wanted.clone();
        published.free = Some(2);
        published.observed_generation = Some(7);
        published.devices.reverse();
        assert!(says_the_same(&published, &wanted));
        published.devices.pop();
        assert!(!says_the_same(&published, &wanted));
        assert!(!says_the_same(&GpuNodeStatus::default(), &wanted));
    }

    #[test]
    fn a_published_device_is_recalled_as_it_was() {
        let status = report(
            &inventory(vec![facts_of("GPU-a", 0)], 0),
            &Health::default(),
            &Replicas::new(),
            &KeyState::Pending,
            &Trouble::default(),
            None,
            "1",
        );
        let recalled = facts(&status.devices[0]);
        assert_eq!(
            (recalled.uuid.as_str(), recalled.memory_bytes),
            ("GPU-a", 81_559 * MIB)
        );
    }

    #[test]
    fn a_message_fits_its_bound_and_ends_at_a_character() {
        assert_eq!(cut("short".into(), 1024), "short");
        let long = cut("ä".repeat(1000), 1024);
        assert!(long.len() <= 1024 && long.ends_with('…'));
    }
}
