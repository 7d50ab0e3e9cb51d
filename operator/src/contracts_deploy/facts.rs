//! What of a deployment is on the chain in one block.

use alloy::primitives::{Address, B256};
use gridstake_contracts::{Settlement, StakeVault, TimelockController};

use super::{
    admin::{arbiter_role, guardian_role, lane_admin, proposer_role},
    plan::Request,
    record::{Contract, Record},
};
use crate::chain::{
    client::{ChainClient, ClientError},
    config::ContractConfig,
    rpc_error::RpcFailure,
    view::LaneState,
};

/// What is on the chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The token: of the vault, or as asked for, or our own.
    pub token: Option<Address>,
    /// Where the token that is asked for should be and no contract is.
    pub no_token_at: Option<Address>,
    /// The timelock.
    pub timelock: Option<TimelockFacts>,
    /// The vault.
    pub vault: Option<VaultFacts>,
    /// The settlement.
    pub settlement: Option<SettlementFacts>,
    /// Recorded contracts that are not on the chain as recorded.
    pub gone: Vec<(Contract, ContractConfig)>,
    /// What the deployer has, in wei.
    pub deployer_coins: u128,
    /// What the gas account has, in wei.
    pub gas_coins: u128,
}

/// A timelock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimelockFacts {
    /// Its address.
    pub address: Address,
    /// Its delay in seconds.
    pub delay: u64,
    /// Whether the deployer can schedule.
    pub deployer_proposes: bool,
    /// Whether the owner can.
    pub owner_proposes: bool,
}

impl TimelockFacts {
    /// Whether the deployer can still set everything up through it, at once.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        self.deployer_proposes && self.delay == 0
    }
}

/// A vault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VaultFacts {
    /// Where it is.
    pub place: ContractConfig,
    /// Its settlement; zero if it has none yet.
    pub settlement: Address,
    /// Its admin.
    pub admin: Address,
    /// Signs the lane's slashes; zero: nobody.
    pub slash_signer: Address,
    /// Whether the admin is lane admin.
    pub has_lane_admin: bool,
    /// Whether the guardian that is asked for has its role.
    pub has_guardian: bool,
    /// Whether the arbiter that is asked for has its role.
    pub has_arbiter: bool,
}

/// A settlement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettlementFacts {
    /// Where it is.
    pub place: ContractConfig,
    /// Its admin.
    pub admin: Address,
    /// Whether the admin is lane admin.
    pub has_lane_admin: bool,
    /// Whether the guardian that is asked for has its role.
    pub has_guardian: bool,
    /// Whether the lane is open.
    pub lane_state: LaneState,
    /// The lane's signer.
    pub lane_signer: Address,
}

/// Reads what `record` names and `request` needs, as of the block `at`.
pub async fn observe(
    client: &ChainClient,
    request: &Request,
    record: &Record,
    at: B256,
) -> Result<Facts, ClientError> {
    let look = Look {
        client,
        request,
        at,
    };
    let mut facts = Facts {
        deployer_coins: client.balance(request.deployer, at).await?,
        gas_coins: client.balance(request.gas_account, at).await?,
        ..Facts::default()
    };
    let mut here = Record::default();
    for (contract, place) in record.contracts() {
        if client.code_hash(place.address, at).await? == place.code_hash {
            here.set(contract, place);
        } else {
            facts.gone.push((contract, place));
        }
    }
    if let Some(place) = here.vault {
        facts.vault = Some(look.vault(place).await?);
        let call = StakeVault::tokenCall {};
        let token = client.read("read the vault's token", place.address, &call, at);
        facts.token = Some(token.await?);
        if let Some(place) = here.settlement {
            facts.settlement = Some(look.settlement(place).await?);
        }
    } else if let Some(token) = request.token {
        if client.code(token, at).await?.is_empty() {
            facts.no_token_at = Some(token);
        } else {
            facts.token = Some(token);
        }
    } else {
        facts.token = here.token.map(|place| place.address);
    }
    let admin = match (&facts.vault, here.timelock) {
        (Some(vault), _) => Some(vault.admin).filter(|admin| *admin != request.deployer),
        (None, timelock) => timelock.map(|place| place.address),
    };
    if let Some(admin) = admin {
        facts.timelock = look.timelock(admin).await?;
    }
    Ok(facts)
}

/// One look at the chain.
struct Look<'a> {
    client: &'a ChainClient,
    request: &'a Request,
    at: B256,
}

impl Look<'_> {
    /// The same signature in all the contracts.
    async fn has_role(
        &self,
        contract: Address,
        role: B256,
        account: Address,
    ) -> Result<bool, ClientError> {
        let call = StakeVault::hasRoleCall { role, account };
        let op = "read who has a role";
        self.client.read(op, contract, &call, self.at).await
    }

    /// The same signature in both contracts.
    async fn admin(&self, contract: Address) -> Result<Address, ClientError> {
        let call = StakeVault::defaultAdminCall {};
        let op = "read a contract's admin";
        self.client.read(op, contract, &call, self.at).await
    }

    async fn vault(&self, place: ContractConfig) -> Result<VaultFacts, ClientError> {
        let (client, at, vault) = (self.client, self.at, place.address);
        let offices = &self.request.offices;
        let admin = self.admin(vault).await?;
        let call = StakeVault::settlementCall {};
        let settlement = client.read("read the vault's settlement", vault, &call, at);
        let settlement = settlement.await?;
        let call = StakeVault::slashSignerCall {
            lane: self.request.lane,
        };
        let slash_signer = client.read("read the lane's slash signer", vault, &call, at);
        Ok(VaultFacts {
            place,
            settlement,
            admin,
            slash_signer: slash_signer.await?,
            has_lane_admin: self.has_role(vault, lane_admin(), admin).await?,
            has_guardian: self
                .has_role(vault, guardian_role(), offices.guardian)
                .await?,
            has_arbiter: self
                .has_role(vault, arbiter_role(), offices.arbiter)
                .await?,
        })
    }

    async fn settlement(&self, place: ContractConfig) -> Result<SettlementFacts, ClientError> {
        let settlement = place.address;
        let admin = self.admin(settlement).await?;
        let guardian = self.request.offices.guardian;
        let call = Settlement::laneOfCall {
            lane: self.request.lane,
        };
        let lane = self
            .client
            .read("read the lane", settlement, &call, self.at);
        let lane = lane.await?;
        Ok(SettlementFacts {
            place,
            admin,
            has_lane_admin: self.has_role(settlement, lane_admin(), admin).await?,
            has_guardian: self.has_role(settlement, guardian_role(), guardian).await?,
            lane_state: LaneState::from_number(lane.state),
            lane_signer: lane.signer,
        })
    }

    /// `None` if `admin` is no timelock.
    async fn timelock(&self, admin: Address) -> Result<Option<TimelockFacts>, ClientError> {
        let call = TimelockController::getMinDelayCall {};
        let op = "read the timelock's delay";
        let delay = match self.client.read(op, admin, &call, self.at).await {
            Ok(delay) => delay.saturating_to(),
            Err(ClientError {
                failure: RpcFailure::Reverted { .. } | RpcFailure::Unreadable(_),
                ..
            }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let Request {
            deployer, offices, ..
        } = self.request;
        Ok(Some(TimelockFacts {
            address: admin,
            delay,
            deployer_proposes: self.has_role(admin, proposer_role(), *deployer).await?,
            owner_proposes: self.has_role(admin, proposer_role(), offices.owner).await?,
        }))
    }
}
