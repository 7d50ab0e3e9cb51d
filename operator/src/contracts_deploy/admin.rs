//! What only the contracts' admin can do: connect them, grant offices, open the lane, close the timelock. Pure.

use alloy::{
    primitives::{Address, B256, Bytes, U256, keccak256},
    sol_types::SolCall,
};
use gridstake_contracts::{Settlement, StakeVault, TimelockController};

use super::{
    facts::{SettlementFacts, TimelockFacts, VaultFacts},
    plan::{Offices, Refusal, Request, Step},
};
use crate::chain::view::LaneState;

/// A call that only the admin may make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminCall {
    /// What it does, verb and object.
    pub what: &'static str,
    /// The contract.
    pub to: Address,
    /// Selector and arguments.
    pub input: Bytes,
}

impl AdminCall {
    fn new(what: &'static str, to: Address, call: &impl SolCall) -> Self {
        Self {
            what,
            to,
            input: call.abi_encode().into(),
        }
    }
}

/// What the admin has to do next, if anything.
pub(super) fn admin_step(
    request: &Request,
    vault: &VaultFacts,
    settlement: &SettlementFacts,
    timelock: Option<&TimelockFacts>,
) -> Result<Option<Step>, Refusal> {
    let mut calls = Vec::new();
    connect(vault, settlement, &mut calls)?;
    if vault.admin == request.deployer {
        if request.timelock_delay.is_some() {
            return Err(Refusal::WithoutTimelock(request.deployer));
        }
        grant_offices(request, vault, settlement, &mut calls);
        set_lane(request, vault, settlement, &mut calls)?;
        return Ok(calls.into_iter().next().map(Step::Call));
    }
    if let Some(timelock) = timelock.filter(|lock| lock.is_open()) {
        grant_offices(request, vault, settlement, &mut calls);
        set_lane(request, vault, settlement, &mut calls)?;
        close(request, timelock, &mut calls);
        return Ok((!calls.is_empty()).then_some(Step::ThroughTimelock(timelock.address, calls)));
    }
    // Handed over: offices are the owner's business, and only what the operator cannot do without is asked for.
    set_lane(request, vault, settlement, &mut calls)?;
    if calls.is_empty() {
        return Ok(None);
    }
    Err(Refusal::AskAdmin {
        admin: vault.admin,
        deployer: request.deployer,
        calls,
    })
}

fn connect(
    vault: &VaultFacts,
    settlement: &SettlementFacts,
    calls: &mut Vec<AdminCall>,
) -> Result<(), Refusal> {
    let (vault_at, settlement_at) = (vault.place.address, settlement.place.address);
    if vault.settlement.is_zero() {
        let call = StakeVault::setSettlementCall {
            settlement_: settlement_at,
        };
        calls.push(AdminCall::new(
            "tell the vault its settlement",
            vault_at,
            &call,
        ));
    } else if vault.settlement != settlement_at {
        return Err(Refusal::OtherSettlement {
            vault: vault_at,
            found: vault.settlement,
        });
    }
    Ok(())
}

fn grant_offices(
    request: &Request,
    vault: &VaultFacts,
    settlement: &SettlementFacts,
    calls: &mut Vec<AdminCall>,
) {
    let Offices {
        guardian, arbiter, ..
    } = request.offices;
    let (in_vault, in_settlement) = (vault.place.address, settlement.place.address);
    for (granted, what, to, role, account) in [
        (
            vault.has_lane_admin,
            "make the admin the vault's lane admin",
            in_vault,
            lane_admin(),
            vault.admin,
        ),
        (
            vault.has_guardian,
            "make the guardian the vault's",
            in_vault,
            guardian_role(),
            guardian,
        ),
        (
            vault.has_arbiter,
            "make the arbiter the vault's",
            in_vault,
            arbiter_role(),
            arbiter,
        ),
        (
            settlement.has_lane_admin,
            "make the admin the settlement's lane admin",
            in_settlement,
            lane_admin(),
            settlement.admin,
        ),
        (
            settlement.has_guardian,
            "make the guardian the settlement's",
            in_settlement,
            guardian_role(),
            guardian,
        ),
    ] {
        if !granted {
            // The same signature in both contracts.
            let call = StakeVault::grantRoleCall { role, account };
            calls.push(AdminCall::new(what, to, &call));
        }
    }
}

fn set_lane(
    request: &Request,
    vault: &VaultFacts,
    settlement: &SettlementFacts,
    calls: &mut Vec<AdminCall>,
) -> Result<(), Refusal> {
    let (lane, signer, to) = (request.lane, request.lane_signer, settlement.place.address);
    match settlement.lane_state {
        LaneState::Unknown => {
            let call = Settlement::openLaneCall {
                lane,
                signer,
                rewardsOwner: request.offices.rewards_owner,
            };
            calls.push(AdminCall::new("open the lane", to, &call));
        }
        LaneState::Active if settlement.lane_signer != signer => {
            let call = Settlement::setLaneSignerCall { lane, signer };
            calls.push(AdminCall::new("change the lane's signer", to, &call));
        }
        LaneState::Active => {}
        LaneState::Closed => {
            return Err(Refusal::LaneClosed {
                lane,
                admin: settlement.admin,
            });
        }
    }
    let signer = request.slash_signer.unwrap_or_default();
    if vault.slash_signer != signer {
        let call = StakeVault::setSlashSignerCall { lane, signer };
        let to = vault.place.address;
        calls.push(AdminCall::new("set the lane's slash signer", to, &call));
    }
    Ok(())
}

/// Gives the timelock its owner and its delay. After it the deployer can do nothing more.
fn close(request: &Request, timelock: &TimelockFacts, calls: &mut Vec<AdminCall>) {
    let (to, owner, deployer) = (timelock.address, request.offices.owner, request.deployer);
    if owner != deployer {
        for role in [proposer_role(), keccak256("CANCELLER_ROLE")] {
            let grant = TimelockController::grantRoleCall {
                role,
                account: owner,
            };
            calls.push(AdminCall::new("make the owner the timelock's", to, &grant));
            let revoke = TimelockController::revokeRoleCall {
                role,
                account: deployer,
            };
            calls.push(AdminCall::new(
                "take the deployer out of the timelock",
                to,
                &revoke,
            ));
        }
    }
    let delay = request.timelock_delay.unwrap_or_default();
    if delay != 0 {
        let call = TimelockController::updateDelayCall {
            newDelay: U256::from(delay),
        };
        calls.push(AdminCall::new("set the timelock's delay", to, &call));
    }
}

/// The role that sets lanes' signers and opens lanes.
#[must_use]
pub fn lane_admin() -> B256 {
    keccak256("LANE_ADMIN_ROLE")
}

/// The role that pauses and cancels.
#[must_use]
pub fn guardian_role() -> B256 {
    keccak256("GUARDIAN_ROLE")
}

/// The role that decides disputed slashes.
#[must_use]
pub fn arbiter_role() -> B256 {
    keccak256("ARBITER_ROLE")
}

/// The role that schedules what a timelock is to do.
#[must_use]
pub fn proposer_role() -> B256 {
    keccak256("PROPOSER_ROLE")
}
