//! What is known of a deployment: of one that is finished, or of one that was cut off half-way.

use serde::{Deserialize, Serialize};

use crate::chain::config::ContractConfig;

/// One of the contracts that are deployed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contract {
    /// The test chains' token.
    GridToken,
    /// The admin of the others, if one is asked for.
    TimelockController,
    /// The vault.
    StakeVault,
    /// The settlement.
    Settlement,
}

impl Contract {
    /// Its name in the sources.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::GridToken => "GridToken",
            Self::TimelockController => "TimelockController",
            Self::StakeVault => "StakeVault",
            Self::Settlement => "Settlement",
        }
    }
}

/// What an earlier run has put on a chain. Written after each contract, so that the next run goes on from there.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Record {
    /// The chain's id (EIP-155); 0 if nothing is recorded.
    pub chain_id: u64,
    /// The token, if it is one of ours and the vault that names it is not there yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<ContractConfig>,
    /// The timelock, if the vault that names it is not there yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timelock: Option<ContractConfig>,
    /// The vault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vault: Option<ContractConfig>,
    /// The settlement.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settlement: Option<ContractConfig>,
}

impl Record {
    /// Notes that `contract` is at `place`, and forgets what was built upon an earlier one.
    pub fn set(&mut self, contract: Contract, place: ContractConfig) {
        match contract {
            Contract::GridToken => self.token = Some(place),
            Contract::TimelockController => self.timelock = Some(place),
            Contract::StakeVault => {
                self.vault = Some(place);
                self.settlement = None;
            }
            Contract::Settlement => self.settlement = Some(place),
        }
    }

    /// Each contract that is recorded.
    pub fn contracts(&self) -> impl Iterator<Item = (Contract, ContractConfig)> {
        [
            (Contract::GridToken, self.token),
            (Contract::TimelockController, self.timelock),
            (Contract::StakeVault, self.vault),
            (Contract::Settlement, self.settlement),
        ]
        .into_iter()
        .filter_map(|(contract, place)| Some((contract, place?)))
    }

    /// Forgets `contract`.
    pub fn forget(&mut self, contract: Contract) {
        match contract {
            Contract::GridToken => self.token = None,
            Contract::TimelockController => self.timelock = None,
            Contract::StakeVault => self.vault = None,
            Contract::Settlement => self.settlement = None,
        }
    }

    /// Whether the contracts that the operator uses are all recorded.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.vault.is_some() && self.settlement.is_some()
    }
}
