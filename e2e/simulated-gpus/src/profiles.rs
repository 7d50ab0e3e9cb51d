//! The GPU models that can be simulated, with the figures of their data sheets, and the devices of a node.

use gridstake_simulated_gpus_state::{
    Clocks, Device, DeviceFaults, MigInstance, Model, NvLink, Pci, Power, Temperature, Utilization,
};

/// Short names of the known models.
pub const MODELS: &[&str] = &["h100", "h200", "a100", "l40s", "t4"];

/// `NVML_BRAND_TESLA`, `NVML_BRAND_NVIDIA`.
const BRAND_TESLA: u32 = 2;
const BRAND_NVIDIA: u32 = 14;
/// `NVML_DEVICE_ARCH_*`.
const TURING: u32 = 6;
const AMPERE: u32 = 7;
const ADA: u32 = 8;
const HOPPER: u32 = 9;

/// A model by its short name.
#[must_use]
pub fn model(key: &str) -> Option<Model> {
    let found = match key {
        "h100" => h100(),
        "h200" => Model {
            name: "NVIDIA H200".into(),
            part_number: "692-2G520-0280-000".into(),
            memory_bus_width: 6144,
            memory_mib: 143_771,
            pci_device_id: 0x2335_10de,
            clocks: clocks(345, 1980, 3201),
            ..h100()
        },
        "a100" => Model {
            name: "NVIDIA A100-SXM4-80GB".into(),
            architecture: AMPERE,
            compute_capability: [8, 0],
            part_number: "692-2G506-0212-002".into(),
            cores: 6912,
            memory_mib: 81_920,
            reserved_memory_mib: 673,
            pci_device_id: 0x20b2_10de,
            pci_subsystem_id: 0x1463_10de,
            power: power(55, 350, 400),
            clocks: clocks(210, 1410, 1593),
            nv_link: nv_link(12, 5, 25_781),
            ..h100()
        },
        "l40s" => Model {
            name: "NVIDIA L40S".into(),
            architecture: ADA,
            compute_capability: [8, 9],
            part_number: "900-2G133-0080-000".into(),
            cores: 18_176,
            memory_bus_width: 384,
            memory_mib: 46_068,
            reserved_memory_mib: 599,
            pci_device_id: 0x26b9_10de,
            pci_subsystem_id: 0x1851_10de,
            power: power(35, 310, 350),
            clocks: clocks(210, 2520, 9001),
            mig_devices: 0,
            nv_link: None,
            ..h100()
        },
        "t4" => Model {
            name: "Tesla T4".into(),
            brand: BRAND_TESLA,
            architecture: TURING,
            compute_capability: [7, 5],
            part_number: "900-2G183-0000-001".into(),
            cores: 2560,
            memory_bus_width: 256,
            memory_mib: 15_360,
            reserved_memory_mib: 443,
            pci_device_id: 0x1eb8_10de,
            pci_subsystem_id: 0x12a2_10de,
            power: power(10, 65, 70),
            clocks: clocks(300, 1590, 5001),
            row_remapping: false,
            mig_devices: 0,
            nv_link: None,
            ..h100()
        },
        _ => return None,
    };
    Some(Model {
        key: key.into(),
        ..found
    })
}

/// The model that the others are described against.
fn h100() -> Model {
    Model {
        key: "h100".into(),
        name: "NVIDIA H100 80GB HBM3".into(),
        brand: BRAND_NVIDIA,
        architecture: HOPPER,
        compute_capability: [9, 0],
        part_number: "692-2G520-0200-000".into(),
        cores: 16_896,
        memory_bus_width: 5120,
        memory_mib: 81_559,
        reserved_memory_mib: 551,
        pci_device_id: 0x2330_10de,
        pci_subsystem_id: 0x16c1_10de,
        power: power(70, 620, 700),
        clocks: clocks(345, 1980, 2619),
        temperature: temperature(31, 64),
        ecc: true,
        row_remapping: true,
        mig_devices: 7,
        nv_link: nv_link(18, 7, 26_562),
    }
}

#[expect(clippy::unnecessary_wraps, reason = "the field is optional")]
fn nv_link(links: u32, version: u32, megabytes_per_second: u32) -> Option<NvLink> {
    Some(NvLink {
        links,
        version,
        megabytes_per_second,
    })
}

fn power(idle_watts: u32, busy_watts: u32, limit_watts: u32) -> Power {
    Power {
        idle_milliwatts: idle_watts * 1000,
        busy_milliwatts: busy_watts * 1000,
        limit_milliwatts: limit_watts * 1000,
    }
}

fn clocks(idle_mhz: u32, busy_mhz: u32, memory_mhz: u32) -> Clocks {
    Clocks {
        idle_mhz,
        busy_mhz,
        memory_mhz,
    }
}

fn temperature(idle_celsius: u32, busy_celsius: u32) -> Temperature {
    Temperature {
        idle_celsius,
        busy_celsius,
        slowdown_celsius: 90,
        shutdown_celsius: 95,
    }
}

/// The devices of a node: `count` of one model. Their UUIDs depend on the node and the index only.
#[must_use]
pub fn devices(node: &str, model: &Model, count: u32) -> Vec<Device> {
    // Boards of eight have four GPUs per CPU socket.
    let per_numa_node = count.div_ceil(2).max(1);
    (0..count)
        .map(|index| Device {
            uuid: format!("GPU-{}", uuid(&format!("{node}/{index}"))),
            serial: format!(
                "{:013}",
                1_650_000_000_000 + hash(&format!("{node}/{index}")) % 1_000_000_000
            ),
            minor: index,
            pci: Pci {
                domain: index / 16,
                bus: 0x1b + 0x0c * (index % 16),
                device: 0,
            },
            numa_node: index / per_numa_node,
            model: model.clone(),
            busy: Utilization::default(),
            accounting: false,
            mig: None,
            energy_zero_millijoules: 0,
            faults: DeviceFaults::default(),
        })
        .collect()
}

/// The MIG device at an index of a GPU, of some compute slices out of seven; memory comes in eighths.
#[must_use]
pub fn mig_instance(device: &Device, index: usize, slices: u32) -> MigInstance {
    let eighths = match slices {
        1 | 2 => u64::from(slices),
        3 | 4 => 4,
        _ => 8,
    };
    let position = u32::try_from(index).unwrap_or(u32::MAX);
    MigInstance {
        uuid: format!("MIG-{}", uuid(&format!("{}/{index}", device.uuid))),
        // Real ids are neither the index nor without gaps.
        gpu_instance: position.saturating_add(7),
        compute_instance: 0,
        slices,
        memory_mib: device.model.memory_mib * eighths / 8,
        multiprocessors: slices * 16,
    }
}

/// 128-bit FNV-1a: stable everywhere, which a hash of the standard library does not promise.
fn hash(text: &str) -> u128 {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    text.bytes().fold(OFFSET, |hash, byte| {
        (hash ^ u128::from(byte)).wrapping_mul(PRIME)
    })
}

/// A UUID of a name, with the version and variant bits of a name-based one. The name goes in twice: FNV-1a spreads what
/// stands at the end of its input over few bits only, and the devices of a node should be told apart at a glance.
fn uuid(name: &str) -> String {
    const VERSION: u128 = 0xf << 76;
    const VARIANT: u128 = 0b11 << 62;
    let bits = hash(&format!("{name} {name}")) & !VERSION & !VARIANT | 5 << 76 | 0b10 << 62;
    let hexadecimal = format!("{bits:032x}");
    [0..8, 8..12, 12..16, 16..20, 20..32]
        .map(|range| &hexadecimal[range])
        .join("-")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_model_in_the_list_is_known_by_its_key() {
        for key in MODELS {
            let model = model(key).unwrap();
            assert_eq!(model.key, *key);
            assert!(
                model.memory_mib > 0 && model.power.busy_milliwatts <= model.power.limit_milliwatts
            );
            assert!(model.power.idle_milliwatts < model.power.busy_milliwatts);
        }
        assert!(model("h999").is_none());
    }

    #[test]
    fn uuids_are_stable_distinct_and_short_enough_for_the_kubelet() {
        let h100 = model("h100").unwrap();
        let all: Vec<_> = ["node-a", "node-b"]
            .iter()
            .flat_map(|node| devices(node, &h100, 16))
            .map(|device| device.uuid)
            .collect();
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 32);
        assert!(all.iter().all(|uuid| uuid.len() == 40 && uuid.len() <= 63));
        // A change here would rename the devices of every stored object.
        assert_eq!(all[0], devices("node-a", &model("t4").unwrap(), 1)[0].uuid);
    }

    #[test]
    fn a_name_based_uuid_has_its_version_and_variant() {
        let uuid = uuid("node-a/0");
        assert_eq!(uuid.as_bytes()[14], b'5', "{uuid}");
        assert!(
            matches!(uuid.as_bytes()[19], b'8' | b'9' | b'a' | b'b'),
            "{uuid}"
        );
    }

    #[test]
    fn bus_ids_serials_and_minors_are_distinct() {
        let devices = devices("n", &model("h100").unwrap(), 32);
        let places: BTreeSet<_> = devices.iter().map(|d| (d.pci.domain, d.pci.bus)).collect();
        let serials: BTreeSet<_> = devices.iter().map(|d| &d.serial).collect();
        assert_eq!((places.len(), serials.len()), (32, 32));
        assert!(devices.iter().all(|device| device.pci.bus <= 0xff));
    }

    #[test]
    fn a_whole_gpu_as_one_mig_device_has_all_of_its_memory() {
        let device = &devices("n", &model("h100").unwrap(), 1)[0];
        assert_eq!(
            mig_instance(device, 0, 7).memory_mib,
            device.model.memory_mib
        );
        assert_eq!(
            mig_instance(device, 0, 1).memory_mib,
            device.model.memory_mib / 8
        );
    }
}
