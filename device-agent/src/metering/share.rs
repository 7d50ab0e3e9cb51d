//! Which devices a pod was given, and which part of each GPU: 1/7 of a MIG slice, 1/replicas where time is shared. Pure.

use std::collections::{BTreeMap, BTreeSet};

use gridstake_ledger::checkpoint;
use serde::{Deserialize, Serialize};

use crate::{device_id::DeviceId, nvml::describe::DeviceFacts, pod_resources::Replicas};

/// The schema's bound on a share's numerator and denominator.
const SHARE_MAX: u64 = 64;

/// What a whole GPU weighs when something is divided among those who hold it.
const WHOLE_WEIGHT: u64 = 1 << 20;

/// One device of a pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Part {
    /// NVML's UUID of the GPU or the MIG instance.
    pub uuid: String,
    /// The GPU that a MIG instance is part of.
    pub parent: Option<String>,
    /// The share of the GPU, as numerator and denominator; (1, 1) for all of it.
    pub share: (u32, u32),
}

impl Part {
    /// The UUID of the GPU.
    #[must_use]
    pub fn gpu(&self) -> &str {
        self.parent.as_deref().unwrap_or(&self.uuid)
    }

    /// Whether it is all of the GPU.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.share.0 == self.share.1
    }

    /// What it weighs among those who hold parts of the GPU.
    #[must_use]
    pub fn weight(&self) -> u64 {
        u64::from(self.share.0) * WHOLE_WEIGHT / u64::from(self.share.1.max(1))
    }

    /// As the ledger hashes it.
    #[must_use]
    pub fn stated(&self) -> checkpoint::Device {
        checkpoint::Device {
            uuid: self.uuid.clone(),
            parent_uuid: self.parent.clone().unwrap_or_default(),
            share: self.share,
        }
    }
}

/// The devices that `ids` name, in the order of their UUIDs; `None` while one of them, or its share, is not known.
#[must_use]
pub fn parts<'a>(
    ids: impl IntoIterator<Item = &'a DeviceId>,
    gpus: &[&DeviceFacts],
    replicas: &Replicas,
) -> Option<Vec<Part>> {
    // One device may have been given several times, as more than one of its replicas.
    let mut found: BTreeMap<String, (Part, u32)> = BTreeMap::new();
    for id in ids {
        let part = part(id, gpus, replicas)?;
        let times = found.entry(part.uuid.clone()).or_insert((part, 0));
        times.1 += 1;
    }
    found
        .into_values()
        .map(|(part, times)| {
            let (numerator, denominator) = part.share;
            let share = representable(
                u64::from(numerator) * u64::from(times),
                u64::from(denominator),
            )?;
            Some(Part { share, ..part })
        })
        .collect()
}

/// The least common multiple of 1 to [`SHARE_MAX`]: a whole GPU, of which each share that can be stated is a whole number.
const WHOLE_EXACT: u128 = {
    let (mut whole, mut denominator) = (1_u128, 1_u128);
    while denominator <= SHARE_MAX as u128 {
        let (mut a, mut b) = (whole, denominator);
        while b != 0 {
            (a, b) = (b, a % b);
        }
        whole = whole / a * denominator;
        denominator += 1;
    }
    whole
};

/// The GPUs of which `parts`, all held at the same time, are more than a whole. There must be none: Σ ≤ 1 for each GPU in
/// each second is what billing rests on.
#[must_use]
pub fn overallocated<'a>(parts: impl IntoIterator<Item = &'a Part>) -> BTreeSet<&'a str> {
    let mut held: BTreeMap<&str, u128> = BTreeMap::new();
    for part in parts {
        let exact = WHOLE_EXACT / u128::from(part.share.1.max(1)) * u128::from(part.share.0);
        *held.entry(part.gpu()).or_default() += exact;
    }
    held.retain(|_, held| *held > WHOLE_EXACT);
    held.into_keys().collect()
}

fn part(id: &DeviceId, gpus: &[&DeviceFacts], replicas: &Replicas) -> Option<Part> {
    let whole = |uuid: &str| Part {
        uuid: uuid.to_owned(),
        parent: None,
        share: (1, 1),
    };
    match id {
        DeviceId::Gpu { uuid } => Some(whole(uuid)),
        DeviceId::Mig { uuid } => mig(uuid, gpus),
        DeviceId::Replica { uuid, .. } => {
            let of = mig(uuid, gpus).or_else(|| uuid.starts_with("GPU-").then(|| whole(uuid)))?;
            let replicas = *replicas.get(uuid).filter(|replicas| **replicas > 0)?;
            let denominator = of.share.1.checked_mul(replicas)?;
            Some(Part {
                share: (of.share.0, denominator),
                ..of
            })
        }
        DeviceId::Index { index, part: None } => gpus
            .iter()
            .find(|gpu| gpu.index == *index)
            .map(|gpu| whole(&gpu.uuid)),
        // Which part of the GPU that is, nobody on the node tells.
        DeviceId::Index { part: Some(_), .. } | DeviceId::Unknown(_) => None,
    }
}

fn mig(uuid: &str, gpus: &[&DeviceFacts]) -> Option<Part> {
    gpus.iter().find_map(|gpu| {
        let mig = gpu.mig.as_ref()?;
        let instance = mig
            .instances
            .iter()
            .find(|instance| instance.uuid == uuid)?;
        let slices = Some(mig.slices).filter(|slices| *slices > 0)?;
        Some(Part {
            uuid: uuid.to_owned(),
            parent: Some(gpu.uuid.clone()),
            share: (instance.compute_slices.clamp(1, slices), slices),
        })
    })
}

/// The share as the API can hold it: reduced, and rounded down where it is still too fine; `None` for one that would be
/// rounded down to nothing.
fn representable(numerator: u64, denominator: u64) -> Option<(u32, u32)> {
    let (mut n, mut d) = (numerator.min(denominator), denominator.max(1));
    let divisor = gcd(n, d).max(1);
    (n, d) = (n / divisor, d / divisor);
    if d > SHARE_MAX {
        (n, d) = (n * SHARE_MAX / d, SHARE_MAX);
    }
    let share = (u32::try_from(n).ok()?, u32::try_from(d).ok()?);
    (n > 0).then_some(share)
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::nvml::describe::{MigFacts, MigInstanceFacts};

    fn gpu(uuid: &str, index: u32, mig: Option<MigFacts>) -> DeviceFacts {
        DeviceFacts {
            uuid: uuid.to_owned(),
            index,
            model: "H100".into(),
            architecture: None,
            memory_bytes: 80 << 30,
            compute_capability: "9.0".into(),
            pci_bus_id: None,
            mig,
            exclusive_process: false,
            nvlink_remotes: Vec::new(),
        }
    }

    fn sliced() -> DeviceFacts {
        let instance = |uuid: &str, compute_slices| MigInstanceFacts {
            uuid: uuid.into(),
            memory_mib: 1,
            compute_slices,
        };
        let instances = vec![instance("MIG-1", 1), instance("MIG-3", 3)];
        gpu(
            "GPU-m",
            1,
            Some(MigFacts {
                enabled: true,
                slices: 7,
                instances,
            }),
        )
    }

    fn of(ids: &[&str]) -> Option<Vec<(String, (u32, u32))>> {
        let (whole, sliced) = (gpu("GPU-a", 0, None), sliced());
        let replicas = Replicas::from([
            ("GPU-a".to_owned(), 4),
            ("MIG-1".to_owned(), 2),
            ("GPU-z".to_owned(), 100),
        ]);
        let ids: Vec<_> = ids.iter().map(|id| DeviceId::parse(id)).collect();
        let parts = parts(&ids, &[&whole, &sliced], &replicas)?;
        Some(parts.into_iter().map(|p| (p.uuid, p.share)).collect())
    }

    #[test]
    fn a_devices_share_is_known_by_how_it_was_given() {
        let one = |uuid: &str, share| Some(vec![(uuid.to_owned(), share)]);
        for (ids, expected) in [
            (&["GPU-b"][..], one("GPU-b", (1, 1))),
            (&["nvidia0"], one("GPU-a", (1, 1))),
            (&["GPU-a::1"], one("GPU-a", (1, 4))),
            (&["GPU-a::1", "GPU-a::3"], one("GPU-a", (1, 2))),
            (&["MIG-3"], one("MIG-3", (3, 7))),
            (&["MIG-1::0"], one("MIG-1", (1, 14))),
            (&["MIG-9"], None),
            (&["GPU-q::0"], None),
            (&["nvidia0/gi1"], None),
            // 1/100 cannot be stated and must not become more.
            (&["GPU-z::0"], None),
            (&["GPU-z::0", "GPU-z::1", "GPU-z::2"], one("GPU-z", (1, 64))),
        ] {
            assert_eq!(of(ids), expected, "{ids:?}");
        }
    }

    #[test]
    fn a_mig_instance_names_the_gpu_that_it_is_part_of() {
        let gpu = sliced();
        let parts = parts(&[DeviceId::parse("MIG-3")], &[&gpu], &Replicas::new()).unwrap();
        assert_eq!((parts[0].gpu(), parts[0].is_whole()), ("GPU-m", false));
    }

    #[test]
    fn parts_that_are_more_than_a_whole_are_found_exactly() {
        let part = |uuid: &str, parent: Option<&str>, share| Part {
            uuid: uuid.to_owned(),
            parent: parent.map(str::to_owned),
            share,
        };
        let sevenths: Vec<Part> = (0..7)
            .map(|n| part(&format!("MIG-{n}"), Some("GPU-m"), (1, 7)))
            .collect();
        assert!(overallocated(&sevenths).is_empty());
        let more = part("MIG-7", Some("GPU-m"), (1, 64));
        assert_eq!(
            overallocated(sevenths.iter().chain([&more])),
            BTreeSet::from(["GPU-m"])
        );
        let twice = [part("GPU-a", None, (1, 1)), part("GPU-a", None, (1, 1))];
        assert_eq!(overallocated(&twice), BTreeSet::from(["GPU-a"]));
    }

    proptest! {
        /// A node as a kubelet may divide it: a whole GPU, one in replicas, one in MIG instances that fit, replicas of
        /// these. Each device id is held by at most one pod.
        #[test]
        fn whatever_a_kubelet_gives_out_no_gpu_is_held_more_than_once(
            replicas in 2_u32..100,
            slices in 1_u32..=7,
            sizes in prop::collection::vec(1_u32..=7, 1..=7),
            instance_replicas in 1_u32..20,
            holders in prop::collection::vec(0_usize..12, 300),
        ) {
            let mut left = slices;
            let instances: Vec<MigInstanceFacts> = sizes
                .into_iter()
                .enumerate()
                .map_while(|(number, size)| {
                    let size = size.min(left);
                    left -= size;
                    (size > 0).then(|| MigInstanceFacts { uuid: format!("MIG-{number}"), memory_mib: 1, compute_slices: size })
                })
                .collect();
            let mut ids = vec!["GPU-whole".to_owned()];
            let mut all = Replicas::from([("GPU-shared".to_owned(), replicas)]);
            ids.extend((0..replicas).map(|n| format!("GPU-shared::{n}")));
            for instance in &instances {
                if instance_replicas == 1 {
                    ids.push(instance.uuid.clone());
                } else {
                    all.insert(instance.uuid.clone(), instance_replicas);
                    ids.extend((0..instance_replicas).map(|n| format!("{}::{n}", instance.uuid)));
                }
            }
            let sliced = gpu("GPU-sliced", 2, Some(MigFacts { enabled: true, slices, instances }));
            let (whole, shared) = (gpu("GPU-whole", 0, None), gpu("GPU-shared", 1, None));
            let mut pods: BTreeMap<usize, Vec<DeviceId>> = BTreeMap::new();
            for (id, pod) in ids.iter().zip(holders) {
                pods.entry(pod).or_default().push(DeviceId::parse(id));
            }
            let held: Vec<Part> = pods
                .values()
                .filter_map(|ids| parts(ids, &[&whole, &shared, &sliced], &all))
                .flatten()
                .collect();
            prop_assert!(overallocated(&held).is_empty(), "{held:?}");
        }

        #[test]
        fn a_share_is_never_stated_as_more_than_it_is(n in 1_u64..200, d in 1_u64..10_000) {
            let n = n.min(d);
            if let Some((a, b)) = representable(n, d) {
                prop_assert!(u64::from(a) * d <= n * u64::from(b));
                prop_assert!(u64::from(b) <= SHARE_MAX && a >= 1 && a <= b);
            }
        }
    }
}
