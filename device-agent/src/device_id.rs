//! The device ids of PodResources: how a kubelet device plugin names a GPU, or a part of one.

use std::fmt;

/// One device as a device plugin advertised it and the kubelet gave it out.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DeviceId {
    /// `GPU-<uuid>`: a whole GPU.
    Gpu {
        /// NVML's UUID, prefix included.
        uuid: String,
    },
    /// `GPU-<uuid>::<replica>`: one of several shares of a GPU (time slicing or MPS).
    Replica {
        /// NVML's UUID of the shared GPU (or MIG device), prefix included.
        uuid: String,
        /// Which share.
        replica: u32,
    },
    /// `MIG-<uuid>`: one MIG device.
    Mig {
        /// NVML's UUID of the MIG device, prefix included.
        uuid: String,
    },
    /// `nvidia<index>`, `nvidia<index>/gi<n>`, `nvidia<index>/vgpu<n>`: Google's device plugin.
    Index {
        /// The device node's minor number, which is NVML's index on such nodes.
        index: u32,
        /// The part after the slash, as it is written.
        part: Option<String>,
    },
    /// Anything else: a device that is no GPU, or a plugin this agent does not know.
    Unknown(String),
}

impl DeviceId {
    /// Reads an id; total, since other plugins may name their devices as they like.
    #[must_use]
    pub fn parse(id: &str) -> Self {
        Self::known(id).unwrap_or_else(|| Self::Unknown(id.to_owned()))
    }

    fn known(id: &str) -> Option<Self> {
        if let Some((uuid, replica)) = id.split_once("::") {
            let is_device = is_uuid_of(uuid, "GPU-") || is_uuid_of(uuid, "MIG-");
            return is_device.then_some(Self::Replica {
                uuid: uuid.to_owned(),
                replica: number(replica)?,
            });
        }
        if is_uuid_of(id, "GPU-") {
            return Some(Self::Gpu {
                uuid: id.to_owned(),
            });
        }
        if is_uuid_of(id, "MIG-") {
            return Some(Self::Mig {
                uuid: id.to_owned(),
            });
        }
        let (index, part) = match id.strip_prefix("nvidia")?.split_once('/') {
            Some((_, "")) => return None,
            Some((index, part)) => (index, Some(part.to_owned())),
            None => (id.strip_prefix("nvidia")?, None),
        };
        Some(Self::Index {
            index: number(index)?,
            part,
        })
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gpu { uuid } | Self::Mig { uuid } => f.write_str(uuid),
            Self::Replica { uuid, replica } => write!(f, "{uuid}::{replica}"),
            Self::Index { index, part: None } => write!(f, "nvidia{index}"),
            Self::Index {
                index,
                part: Some(part),
            } => write!(f, "nvidia{index}/{part}"),
            Self::Unknown(id) => f.write_str(id),
        }
    }
}

/// NVML writes UUIDs in lower-case hexadecimal with dashes; before R470 a MIG UUID had slashes in it.
fn is_uuid_of(id: &str, prefix: &str) -> bool {
    id.strip_prefix(prefix).is_some_and(|rest| {
        !rest.is_empty()
            && rest
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'/')
    })
}

/// A number as it is printed: no sign, no leading zero.
fn number(digits: &str) -> Option<u32> {
    let plain = digits.bytes().all(|b| b.is_ascii_digit())
        && (digits.len() == 1 || !digits.starts_with('0'));
    if plain { digits.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const UUID: &str = "GPU-6f8a2f1c-8d0e-5b5c-9d5e-3f2d1a0b4c7e";

    #[test]
    fn each_way_to_name_a_device_is_understood() {
        let gpu = |uuid: &str| DeviceId::Gpu {
            uuid: uuid.to_owned(),
        };
        let index = |index, part: Option<&str>| DeviceId::Index {
            index,
            part: part.map(ToOwned::to_owned),
        };
        let table = [
            (UUID.to_owned(), gpu(UUID)),
            (
                format!("{UUID}::3"),
                DeviceId::Replica {
                    uuid: UUID.to_owned(),
                    replica: 3,
                },
            ),
            (
                "MIG-41b3-77".to_owned(),
                DeviceId::Mig {
                    uuid: "MIG-41b3-77".to_owned(),
                },
            ),
            ("nvidia0".to_owned(), index(0, None)),
            ("nvidia12/gi1".to_owned(), index(12, Some("gi1"))),
            ("nvidia0/vgpu1".to_owned(), index(0, Some("vgpu1"))),
        ];
        for (id, device) in table {
            assert_eq!(DeviceId::parse(&id), device);
        }
    }

    #[test]
    fn a_name_of_another_plugin_stays_unknown_and_whole() {
        for id in [
            "",
            "GPU-",
            "GPU-a::",
            "GPU-a::x",
            "nvidia",
            "nvidia/gi0",
            "nvidia0/",
            "nvidia01",
            "0000:3b:00.0",
            "fpga-3",
        ] {
            assert_eq!(DeviceId::parse(id), DeviceId::Unknown(id.to_owned()));
        }
    }

    proptest! {
        #[test]
        fn an_id_is_printed_as_it_was_read(id in "(GPU-[0-9a-f-]{1,36}|MIG-[0-9a-f]{4}|nvidia[0-9]{1,3}|\\PC{0,12})(::[0-9]{1,3}|/gi[0-9])?") {
            prop_assert_eq!(DeviceId::parse(&id).to_string(), id);
        }
    }
}
