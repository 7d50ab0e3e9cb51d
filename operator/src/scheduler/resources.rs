//! Amounts of what a node has and a pod asks for.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

pub use gridstake_crds::names::GPU_RESOURCE;

use super::quantity::{self, QuantityError};

/// Amounts of a node's resources: allocatable, in use, free or asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Thousandths of a CPU core.
    pub cpu_milli: u64,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Bytes of node-local scratch space (`ephemeral-storage`).
    pub ephemeral_storage_bytes: u64,
    /// Pods.
    pub pods: u64,
    /// Whole GPUs (`nvidia.com/gpu`).
    pub gpus: u64,
    /// Everything else by its resource name (huge pages in bytes, other devices by count).
    pub other: BTreeMap<String, u64>,
}

/// A resource of which a node has too little.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shortage {
    /// Too few GPUs.
    Gpus,
    /// Too little CPU.
    Cpu,
    /// Too little memory.
    Memory,
    /// Too little node-local scratch space.
    EphemeralStorage,
    /// The node runs as many pods as it may.
    Pods,
    /// Too little of another resource, by name.
    Other(String),
}

/// A quantity in a resource list that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("read resource {resource:?}")]
pub struct ResourceError {
    /// The key in the list.
    pub resource: String,
    /// What is wrong with its value.
    #[source]
    pub source: QuantityError,
}

impl Resources {
    /// Reads a resource list as it stands in a node's `allocatable` or a container's `requests`.
    pub fn from_quantities(list: &BTreeMap<String, Quantity>) -> Result<Self, ResourceError> {
        let mut resources = Self::default();
        for (name, Quantity(text)) in list {
            let amount = if name == "cpu" {
                quantity::parse_milli_unsigned(text)
            } else {
                quantity::parse_units(text)
            }
            .map_err(|source| ResourceError {
                resource: name.clone(),
                source,
            })?;
            resources.set(name, amount);
        }
        Ok(resources)
    }

    /// Sets the amount of the resource with this Kubernetes name (`cpu` in milli-units).
    pub fn set(&mut self, name: &str, amount: u64) {
        match name {
            "cpu" => self.cpu_milli = amount,
            "memory" => self.memory_bytes = amount,
            "ephemeral-storage" => self.ephemeral_storage_bytes = amount,
            "pods" => self.pods = amount,
            GPU_RESOURCE => self.gpus = amount,
            _ if amount == 0 => {
                self.other.remove(name);
            }
            _ => {
                self.other.insert(name.to_owned(), amount);
            }
        }
    }

    /// The amount of the resource with this Kubernetes name (`cpu` in milli-units).
    #[must_use]
    pub fn get(&self, name: &str) -> u64 {
        match name {
            "cpu" => self.cpu_milli,
            "memory" => self.memory_bytes,
            "ephemeral-storage" => self.ephemeral_storage_bytes,
            "pods" => self.pods,
            GPU_RESOURCE => self.gpus,
            _ => self.other.get(name).copied().unwrap_or(0),
        }
    }

    /// Adds `more`, saturating.
    pub fn add(&mut self, more: &Self) {
        self.merge(more, u64::saturating_add);
    }

    /// Raises every amount to at least that of `floor`.
    pub fn raise_to(&mut self, floor: &Self) {
        self.merge(floor, u64::max);
    }

    /// What is left when `used` is taken away; never below zero.
    #[must_use]
    pub fn less(&self, used: &Self) -> Self {
        let mut left = self.clone();
        left.take(used);
        left
    }

    /// Takes `used` away; nothing falls below zero.
    pub fn take(&mut self, used: &Self) {
        self.cpu_milli = self.cpu_milli.saturating_sub(used.cpu_milli);
        self.memory_bytes = self.memory_bytes.saturating_sub(used.memory_bytes);
        self.ephemeral_storage_bytes = self
            .ephemeral_storage_bytes
            .saturating_sub(used.ephemeral_storage_bytes);
        self.pods = self.pods.saturating_sub(used.pods);
        self.gpus = self.gpus.saturating_sub(used.gpus);
        for (name, amount) in &mut self.other {
            *amount = amount.saturating_sub(used.other.get(name).copied().unwrap_or(0));
        }
    }

    /// How often `each` fits into these amounts. What `each` does not ask for is not looked at, as
    /// in kube-scheduler. `u64::MAX` when it asks for nothing.
    #[must_use]
    pub fn holds(&self, each: &Self) -> u64 {
        self.compare(each)
            .map(|(has, asks, _)| has / asks)
            .min()
            .unwrap_or(u64::MAX)
    }

    /// The first resource, in the order of [`Shortage`], of which one `asked` finds too little.
    #[must_use]
    pub fn first_shortage(&self, asked: &Self) -> Option<Shortage> {
        self.compare(asked)
            .find(|(has, asks, _)| has < asks)
            .map(|(_, _, name)| name.shortage())
    }

    fn merge(&mut self, with: &Self, join: fn(u64, u64) -> u64) {
        self.cpu_milli = join(self.cpu_milli, with.cpu_milli);
        self.memory_bytes = join(self.memory_bytes, with.memory_bytes);
        self.ephemeral_storage_bytes =
            join(self.ephemeral_storage_bytes, with.ephemeral_storage_bytes);
        self.pods = join(self.pods, with.pods);
        self.gpus = join(self.gpus, with.gpus);
        for (name, amount) in &with.other {
            let mine = self.other.get(name).copied().unwrap_or(0);
            self.other.insert(name.clone(), join(mine, *amount));
        }
    }

    /// (what is here, what is asked, which) for everything that `asked` asks for.
    fn compare<'a>(&'a self, asked: &'a Self) -> impl Iterator<Item = (u64, u64, Name<'a>)> {
        let named = [
            (self.gpus, asked.gpus, Name::Gpus),
            (self.cpu_milli, asked.cpu_milli, Name::Cpu),
            (self.memory_bytes, asked.memory_bytes, Name::Memory),
            (
                self.ephemeral_storage_bytes,
                asked.ephemeral_storage_bytes,
                Name::EphemeralStorage,
            ),
            (self.pods, asked.pods, Name::Pods),
        ];
        let other = asked.other.iter().map(|(name, asks)| {
            let has = self.other.get(name).copied().unwrap_or(0);
            (has, *asks, Name::Other(name))
        });
        named
            .into_iter()
            .chain(other)
            .filter(|(_, asks, _)| *asks > 0)
    }
}

/// A [`Shortage`] that borrows its name: comparisons run for every node and allocate nothing.
#[derive(Clone, Copy)]
enum Name<'a> {
    Gpus,
    Cpu,
    Memory,
    EphemeralStorage,
    Pods,
    Other(&'a str),
}

impl Name<'_> {
    fn shortage(self) -> Shortage {
        match self {
            Self::Gpus => Shortage::Gpus,
            Self::Cpu => Shortage::Cpu,
            Self::Memory => Shortage::Memory,
            Self::EphemeralStorage => Shortage::EphemeralStorage,
            Self::Pods => Shortage::Pods,
            Self::Other(name) => Shortage::Other(name.to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(entries: &[(&str, &str)]) -> BTreeMap<String, Quantity> {
        entries
            .iter()
            .map(|(name, amount)| ((*name).to_owned(), Quantity((*amount).to_owned())))
            .collect()
    }

    #[test]
    fn a_nodes_allocatable_is_read_in_the_units_of_each_resource() {
        let read = Resources::from_quantities(&list(&[
            ("cpu", "1930m"),
            ("memory", "16Gi"),
            ("ephemeral-storage", "100k"),
            ("pods", "110"),
            ("nvidia.com/gpu", "8"),
            ("hugepages-2Mi", "4Mi"),
            ("hugepages-1Gi", "0"),
        ]));
        assert_eq!(
            read,
            Ok(Resources {
                cpu_milli: 1930,
                memory_bytes: 16 << 30,
                ephemeral_storage_bytes: 100_000,
                pods: 110,
                gpus: 8,
                other: BTreeMap::from([("hugepages-2Mi".to_owned(), 4 << 20)]),
            })
        );
    }

    #[test]
    fn an_unreadable_quantity_names_its_resource() {
        let error = Resources::from_quantities(&list(&[("memory", "16GB")])).unwrap_err();
        assert_eq!(error.to_string(), "read resource \"memory\"");
        assert!(matches!(error.source, QuantityError::UnknownSuffix { .. }));
    }

    #[test]
    fn what_is_left_is_never_negative() {
        let has = Resources {
            cpu_milli: 1,
            gpus: 2,
            ..Resources::default()
        };
        let used = Resources {
            cpu_milli: 5,
            gpus: 1,
            ..Resources::default()
        };
        let left = has.less(&used);
        assert_eq!((left.cpu_milli, left.gpus), (0, 1));
    }

    #[test]
    fn a_resource_that_is_not_asked_for_is_not_looked_at() {
        let nothing_free = Resources::default();
        assert_eq!(nothing_free.first_shortage(&Resources::default()), None);
        assert_eq!(nothing_free.holds(&Resources::default()), u64::MAX);
    }

    #[test]
    fn the_scarcest_resource_decides_how_often_a_request_fits() {
        let free = Resources {
            cpu_milli: 10_000,
            gpus: 8,
            pods: 5,
            ..Resources::default()
        };
        let each = Resources {
            cpu_milli: 3_000,
            gpus: 1,
            pods: 1,
            ..Resources::default()
        };
        assert_eq!(free.holds(&each), 3);
        assert_eq!(free.first_shortage(&each), None);
    }

    #[test]
    fn shortages_are_found_in_a_fixed_order() {
        let asked = Resources::from_quantities(&list(&[
            ("cpu", "1"),
            ("example.com/nic", "1"),
            ("nvidia.com/gpu", "1"),
        ]))
        .unwrap();
        let mut free = Resources::default();
        assert_eq!(free.first_shortage(&asked), Some(Shortage::Gpus));
        free.gpus = 1;
        assert_eq!(free.first_shortage(&asked), Some(Shortage::Cpu));
        free.cpu_milli = 1000;
        assert_eq!(
            free.first_shortage(&asked),
            Some(Shortage::Other("example.com/nic".to_owned()))
        );
        free.set("example.com/nic", 1);
        assert_eq!(free.first_shortage(&asked), None);
    }
}
