//! Whose history it is: a provider's GPU. Pure.

use std::{fmt, str::FromStr};

use alloy::primitives::{Address, keccak256};

use crate::chain::Chains;

/// How many shards there are. 40,000 GPUs with a history that cannot be shortened are 830 KB in each; a ConfigMap holds 1 MiB.
pub const SHARDS: usize = 32;
/// NVML's UUIDs have 40 characters; the API takes 63.
const LONGEST_UUID: usize = 63;

/// Who answers for a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// Nobody: no chain is configured.
    Nobody,
    /// A provider. Account numbers are a vault's own; an entry of the chains file may be renamed, and two may name one vault.
    Provider {
        /// The chain's id.
        chain_id: u64,
        /// The contract `StakeVault`.
        vault: Address,
        /// The account's number there.
        number: u32,
    },
}

impl Owner {
    /// The provider `number` on the chain that is configured as `chain`; without any chain, nobody. `None`: it is not known
    /// who it is.
    #[must_use]
    pub fn find(chains: &Chains, chain: Option<&str>, number: Option<u32>) -> Option<Self> {
        if chains.is_empty() {
            return Some(Self::Nobody);
        }
        let config = chains.get(chain?)?.config();
        Some(Self::Provider {
            chain_id: config.chain_id,
            vault: config.vault.address,
            number: number?,
        })
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nobody => f.write_str("-"),
            Self::Provider {
                chain_id,
                vault,
                number,
            } => write!(f, "{number}@{chain_id}:{vault:#x}"),
        }
    }
}

/// A text names no owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is no owner: expected - or <account>@<chain id>:<vault>")]
pub struct NoOwner;

impl FromStr for Owner {
    type Err = NoOwner;

    fn from_str(text: &str) -> Result<Self, NoOwner> {
        if text == "-" {
            return Ok(Self::Nobody);
        }
        let (number, place) = text.split_once('@').ok_or(NoOwner)?;
        let (chain_id, vault) = place.split_once(':').ok_or(NoOwner)?;
        Ok(Self::Provider {
            chain_id: chain_id.parse().map_err(|_| NoOwner)?,
            vault: vault.parse().map_err(|_| NoOwner)?,
            number: number.parse().map_err(|_| NoOwner)?,
        })
    }
}

/// A GPU of somebody's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GpuKey {
    /// Whose.
    pub owner: Owner,
    /// NVML's UUID of the physical device.
    pub uuid: String,
}

impl GpuKey {
    /// The key of the GPU `uuid` of `owner`. `None`: that is no UUID; an agent may state anything.
    #[must_use]
    pub fn new(owner: Owner, uuid: &str) -> Option<Self> {
        let named = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let is_uuid = (1..=LONGEST_UUID).contains(&uuid.len()) && uuid.chars().all(named);
        is_uuid.then(|| Self {
            owner,
            uuid: uuid.to_owned(),
        })
    }

    /// The shard that holds its history.
    #[must_use]
    pub fn shard(&self) -> usize {
        let hash = keccak256(format!("{} {}", self.owner, self.uuid));
        usize::from(hash[0]) % SHARDS
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::fixtures;

    #[test]
    fn an_owner_is_an_account_of_a_vault_whatever_its_chain_is_called_here() {
        let mut renamed = fixtures::config();
        renamed.name = "renamed".to_owned();
        let (before, after) = (
            Chains::new(vec![fixtures::config()]),
            Chains::new(vec![renamed]),
        );
        let owner = Owner::find(&before, Some("anvil"), Some(7));
        assert!(matches!(owner, Some(Owner::Provider { number: 7, .. })));
        assert_eq!(owner, Owner::find(&after, Some("renamed"), Some(7)));
        assert_ne!(owner, Owner::find(&before, Some("anvil"), Some(8)));
        let two = fixtures::two();
        assert_ne!(owner, Owner::find(&two, Some("base"), Some(7)));
    }

    #[test]
    fn without_a_chain_nobody_answers_and_with_one_a_node_that_is_not_bound_has_no_history() {
        let none = Chains::new(vec![]);
        assert_eq!(Owner::find(&none, Some("x"), Some(7)), Some(Owner::Nobody));
        assert_eq!(Owner::find(&none, None, None), Some(Owner::Nobody));
        let one = Chains::new(vec![fixtures::config()]);
        assert_eq!(Owner::find(&one, None, None), None);
        assert_eq!(Owner::find(&one, Some("gone"), Some(7)), None);
    }

    #[test]
    fn owners_are_read_as_they_are_written() {
        let one = Chains::new(vec![fixtures::config()]);
        for owner in [
            Owner::Nobody,
            Owner::find(&one, Some("anvil"), Some(7)).unwrap(),
        ] {
            assert_eq!(owner.to_string().parse(), Ok(owner));
        }
        assert_eq!("7@x:0x00".parse::<Owner>(), Err(NoOwner));
    }

    #[test]
    fn what_an_agent_calls_a_uuid_and_cannot_be_one_has_no_history() {
        for (uuid, expected) in [
            ("GPU-5a3c0f6e-0000-4000-8000-000000000001", true),
            ("", false),
            ("two words", false),
            ("a\nb", false),
            (&"x".repeat(64), false),
        ] {
            assert_eq!(
                GpuKey::new(Owner::Nobody, uuid).is_some(),
                expected,
                "{uuid:?}"
            );
        }
    }

    #[test]
    fn gpus_spread_over_all_shards() {
        let mut counts = [0; SHARDS];
        for number in 0..3200 {
            let key = GpuKey::new(Owner::Nobody, &format!("GPU-{number}")).unwrap();
            counts[key.shard()] += 1;
        }
        assert!(
            counts.iter().all(|count| (50..200).contains(count)),
            "{counts:?}"
        );
    }
}
