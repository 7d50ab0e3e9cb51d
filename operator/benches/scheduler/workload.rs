//! The fleets and jobs that are measured, from a seed.

use std::collections::{BTreeMap, BTreeSet};

use gridstake_crds::TokenAmount;
use gridstake_crds::gpu_node::OfferReason;
use gridstake_operator::scheduler::holds::Spare;
use gridstake_operator::scheduler::node_constraints::NodeConstraints;
use gridstake_operator::scheduler::node_facts::DeviceFacts;
use gridstake_operator::scheduler::request::GpuRequest;
use gridstake_operator::scheduler::{JobUid, NodeFacts, Request, Resources};

/// Random numbers that are the same on every machine (splitmix64).
pub struct Dice(pub u64);

impl Dice {
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ mixed >> 31
    }

    /// Below `sides`.
    pub fn roll(&mut self, sides: u64) -> u64 {
        u64::try_from((u128::from(self.number()) * u128::from(sides)) >> 64).unwrap()
    }

    pub fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[usize::try_from(self.roll(choices.len() as u64)).unwrap()]
    }
}

/// Name, memory in GiB, compute capability.
const MODELS: [(&str, u64, &str); 20] = [
    ("NVIDIA GeForce RTX 2080", 8, "7.5"),
    ("NVIDIA GeForce RTX 3060", 12, "8.6"),
    ("Tesla T4", 16, "7.5"),
    ("NVIDIA GeForce RTX 4080", 16, "8.9"),
    ("NVIDIA GeForce RTX 3090", 24, "8.6"),
    ("NVIDIA GeForce RTX 4090", 24, "8.9"),
    ("NVIDIA L4", 24, "8.9"),
    ("NVIDIA GeForce RTX 5090", 32, "12.0"),
    ("NVIDIA A100-PCIE-40GB", 40, "8.0"),
    ("NVIDIA A100-SXM4-40GB", 40, "8.0"),
    ("NVIDIA A40", 48, "8.6"),
    ("NVIDIA L40S", 48, "8.9"),
    ("NVIDIA A100-SXM4-80GB", 80, "8.0"),
    ("NVIDIA H100 PCIe", 80, "9.0"),
    ("NVIDIA H100 80GB HBM3", 80, "9.0"),
    ("NVIDIA H100 NVL", 94, "9.0"),
    ("NVIDIA RTX PRO 6000", 96, "12.0"),
    ("NVIDIA H200", 141, "9.0"),
    ("NVIDIA B200", 180, "10.0"),
    ("NVIDIA B300", 192, "10.0"),
];

/// What tenants call them, in the same order.
const ASKED: [&str; 20] = [
    "RTX 2080",
    "RTX 3060",
    "T4",
    "RTX 4080",
    "RTX 3090",
    "RTX 4090",
    "L4",
    "RTX 5090",
    "A100-PCIE-40GB",
    "A100-SXM4-40GB",
    "A40",
    "L40S",
    "A100-SXM4-80GB",
    "H100 PCIe",
    "H100 HBM3",
    "H100 NVL",
    "RTX PRO 6000",
    "H200",
    "B200",
    "B300",
];

const REGIONS: u64 = 24;

/// GPUs of each node.
pub const GPUS: u64 = 8;

/// Nodes to a rack.
const RACK: u64 = 16;

/// What a GPU of the model costs by and large, in nano-tokens a second.
fn usual_price(model: u64) -> u64 {
    100_000 + model * 45_000
}

fn region(number: u64) -> String {
    format!("region-{number:02}")
}

/// A fleet of nodes of 8 GPUs in racks of 16 of one model and region; four neighbours have one owner.
pub fn fleet(nodes: u64, dice: &mut Dice) -> Vec<NodeFacts> {
    let owners = (nodes / 20).max(1);
    let (mut model, mut place, mut owner) = (0, 0, 0);
    (0..nodes)
        .map(|number| {
            if number % RACK == 0 {
                model = dice.roll(MODELS.len() as u64);
                place = dice.roll(REGIONS);
            }
            if number % 4 == 0 {
                owner = dice.roll(owners).min(dice.roll(owners));
            }
            node(number, model, place, owner, dice)
        })
        .collect()
}

fn node(number: u64, model: u64, place: u64, owner: u64, dice: &mut Dice) -> NodeFacts {
    let (name, memory, capability) = MODELS[usize::try_from(model).unwrap()];
    let device = DeviceFacts {
        model: name.to_owned(),
        memory_mib: memory << 10,
        compute_capability: capability.parse().ok(),
        architecture: None,
        usable: true,
    };
    let ill = dice.roll(100);
    let bonded = dice.roll(100) >= 2;
    let label = |key: &str, value: String| (key.to_owned(), value);
    NodeFacts {
        name: format!("gpu-node-{number:05}"),
        labels: BTreeMap::from([
            label("kubernetes.io/hostname", format!("gpu-node-{number:05}")),
            label(
                "topology.kubernetes.io/zone",
                format!("{}-a", region(place)),
            ),
            label("gridstake.dev/rack", format!("rack-{:04}", number / RACK)),
        ]),
        taints: Vec::new(),
        cordoned: false,
        namespaces: None,
        allocatable: Resources {
            cpu_milli: (96 + 32 * dice.roll(4)) * 1000,
            memory_bytes: (512 * (1 + dice.roll(4))) << 30,
            ephemeral_storage_bytes: 4 << 40,
            pods: 110,
            gpus: GPUS,
            other: BTreeMap::new(),
        },
        devices: vec![device; usize::try_from(GPUS).unwrap()],
        offer: match ill {
            0 | 1 => Err(OfferReason::NoHealthyDevices),
            2..=5 => Err(OfferReason::Drained),
            _ => Ok(()),
        },
        closes_in: None,
        price: TokenAmount::from_nano(u128::from(usual_price(model) * (60 + dice.roll(100)) / 100)),
        region: Some(region(place)),
        jurisdiction: None,
        reputation: u32::try_from(1000 - dice.roll(32) * dice.roll(32)).unwrap(),
        bonded,
        provider: Some(u32::try_from(owner).unwrap()),
        chain: Some("base".to_owned()),
        owner: Some(format!("owner-{owner}")),
        stake: if bonded { 1000 + dice.roll(60_000) } else { 0 },
    }
}

/// A job: 70 % name 1–3 models, 30 % the least memory and compute capability; half name 3–12 regions; all say what they
/// would pay and most the least reputation.
pub fn job(members: u32, dice: &mut Dice) -> Request {
    let mut gpu = GpuRequest {
        count: dice.of(&[1, 1, 1, 1, 1, 2, 2, 4, 4, 8]),
        ..GpuRequest::default()
    };
    let mut dearest = 0;
    if dice.roll(10) < 7 {
        for _ in 0..=dice.roll(3) {
            let model = dice.roll(MODELS.len() as u64);
            dearest = dearest.max(model);
            gpu.models
                .push(ASKED[usize::try_from(model).unwrap()].to_owned());
        }
    } else {
        gpu.min_memory_mib = Some(dice.of(&[16, 24, 40, 80]) << 10);
        gpu.min_compute_capability = dice.of(&["7.5", "8.0", "8.6", "8.9"]).parse().ok();
        dearest = MODELS.len() as u64 - 1;
    }
    let regions = if dice.roll(2) == 0 {
        (0..3 + dice.roll(10))
            .map(|_| region(dice.roll(REGIONS)))
            .collect()
    } else {
        Vec::new()
    };
    let gpus = u64::from(gpu.count);
    let mut uid = [0; 16];
    uid[..8].copy_from_slice(&dice.number().to_be_bytes());
    uid[8..].copy_from_slice(&dice.number().to_be_bytes());
    Request {
        job_uid: JobUid(uid),
        attempt: 1,
        gpu,
        members,
        resources: Resources {
            cpu_milli: gpus * (2 + dice.roll(10)) * 1000,
            memory_bytes: (gpus * (16 + dice.roll(48))) << 30,
            ..Resources::default()
        },
        constraints: NodeConstraints::default(),
        run_limit: Some(std::time::Duration::from_hours(24)),
        max_price: Some(TokenAmount::from_nano(u128::from(
            usual_price(dearest) * (80 + dice.roll(100)) / 100,
        ))),
        regions,
        jurisdictions: Vec::new(),
        min_reputation: dice.of(&[0, 0, 500, 700, 800, 900]),
        require_bond: true,
        topology: None,
        namespace_labels: BTreeMap::new(),
        chain: Some("base".to_owned()),
        avoid: BTreeSet::new(),
        same_owner: BTreeSet::new(),
        kept: Spare::default(),
    }
}

/// A gang whose members are to be in one rack.
pub fn gang(members: u32, dice: &mut Dice) -> Request {
    use gridstake_crds::compute_job::{Topology, TopologyPolicy};
    Request {
        topology: Some(Topology {
            key: "gridstake.dev/rack".to_owned(),
            policy: TopologyPolicy::Preferred,
        }),
        ..job(members, dice)
    }
}

/// 90 % singles, 10 % gangs of 2–16.
pub fn mixed(dice: &mut Dice) -> Request {
    if dice.roll(10) == 0 {
        let members = u32::try_from(2 + dice.roll(15)).unwrap();
        gang(members, dice)
    } else {
        job(1, dice)
    }
}
