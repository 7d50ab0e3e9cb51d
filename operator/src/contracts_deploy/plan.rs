//! What a deployment is to be, and the next step towards it. Pure.
//!
//! Each step follows from what is on the chain alone, so a run that was cut off is gone on with, and one that finds
//! everything in place does nothing.

use alloy::primitives::{Address, Bytes};

use super::{
    admin::{AdminCall, admin_step},
    code::{self, SettlementTerms},
    facts::{Facts, VaultFacts},
    record::Contract,
};
use crate::chain::config::ContractConfig;

/// A deployer who gives the gas account coins keeps at least nine tenths of his.
const SHARE_OF_COINS: u128 = 10;

/// What is to be on the chain at the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Whose key signs the transactions.
    pub deployer: Address,
    /// The chain's id (EIP-155).
    pub chain_id: u64,
    /// The lane that is opened.
    pub lane: u32,
    /// Signs the lane's batches.
    pub lane_signer: Address,
    /// Signs the lane's slashes; `None`: nobody.
    pub slash_signer: Option<Address>,
    /// Pays for the operator's transactions.
    pub gas_account: Address,
    /// How many wei the gas account is given if it has none; 0: it is left alone.
    pub gas_coins: u128,
    /// The token; `None`: a GridToken is deployed, whose supply the deployer gets.
    pub token: Option<Address>,
    /// Who holds which office.
    pub offices: Offices,
    /// Seconds from a proposal to its execution, with a timelock as the admin; `None`: the deployer stays the admin.
    pub timelock_delay: Option<u64>,
    /// The fee, in 1/10,000 of each credit.
    pub fee_bps: u16,
    /// Seconds from a claim's request to its payment.
    pub claim_delay: u64,
    /// Whether contracts that are not where they were are deployed anew; if not, that is an error.
    pub anew_if_gone: bool,
}

/// Who holds which office.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offices {
    /// Proposes to the timelock: a Governor or a multisig.
    pub owner: Address,
    /// Pauses paths, closes lanes, cancels slashes.
    pub guardian: Address,
    /// Decides disputed slashes.
    pub arbiter: Address,
    /// Gets fees and what is slashed.
    pub treasury: Address,
    /// Owns the lane's reward account, and so can ask back what is in it.
    pub rewards_owner: Address,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Deploy a contract with this code.
    Create(Contract, Bytes),
    /// Make this call in the deployer's name.
    Call(AdminCall),
    /// Make these calls at once, through the timelock, which has no delay yet.
    ThroughTimelock(Address, Vec<AdminCall>),
    /// Send coins to the gas account, in wei.
    GiveCoins(Address, u128),
    /// Everything is in place.
    Done(Deployed),
}

/// What is in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deployed {
    /// The token.
    pub token: Address,
    /// The vault.
    pub vault: ContractConfig,
    /// The settlement.
    pub settlement: ContractConfig,
}

/// Why there is no way on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no token at the address.
    #[error(
        "--token {0}: there is no contract at this address: write the address of a standard ERC-20, or leave it out to deploy a GridToken"
    )]
    NoToken(Address),
    /// The vault holds another token.
    #[error(
        "--token {wanted}: the StakeVault {vault} has the token {found}, which can never change"
    )]
    OtherToken {
        /// What was asked for.
        wanted: Address,
        /// The vault.
        vault: Address,
        /// Its token.
        found: Address,
    },
    /// The vault belongs to another settlement.
    #[error(
        "the StakeVault {vault} serves the Settlement {found}, which is not the one that is known: correct `settlement` or `vault`"
    )]
    OtherSettlement {
        /// The vault.
        vault: Address,
        /// Its settlement.
        found: Address,
    },
    /// The two contracts have different admins.
    #[error(
        "the StakeVault's admin is {vault}, the Settlement's is {settlement}: they must have one admin"
    )]
    TwoAdmins {
        /// The vault's.
        vault: Address,
        /// The settlement's.
        settlement: Address,
    },
    /// The guardian or the lane's admin closed the lane.
    #[error(
        "lane {lane} is closed: its admin {admin} can reopen it with reopenLane, or choose another lane"
    )]
    LaneClosed {
        /// The lane.
        lane: u32,
        /// Who can reopen it.
        admin: Address,
    },
    /// What is missing needs the admin, who is somebody else.
    #[error(
        "the contracts' admin is {admin}, not the deployer {deployer}, and these calls are missing: {}. Let the admin make them, then run this again",
        describe(calls)
    )]
    AskAdmin {
        /// The admin: a timelock, a multisig or an account.
        admin: Address,
        /// Whose key is there.
        deployer: Address,
        /// What is missing.
        calls: Vec<AdminCall>,
    },
    /// A timelock is asked for and the contracts were deployed without one.
    #[error(
        "--timelock-delay: the contracts are there already, and their admin is the deployer {0}. Deploy anew, or hand them over by beginDefaultAdminTransfer"
    )]
    WithoutTimelock(Address),
}

fn describe(calls: &[AdminCall]) -> String {
    let one = |call: &AdminCall| format!("{} ({} of {})", call.what, call.input, call.to);
    calls.iter().map(one).collect::<Vec<_>>().join("; ")
}

/// The next step from `facts` to `request`.
pub fn next(request: &Request, facts: &Facts) -> Result<Step, Refusal> {
    if let Some(address) = facts.no_token_at {
        return Err(Refusal::NoToken(address));
    }
    let Some(token) = facts.token else {
        return Ok(Step::Create(Contract::GridToken, code::token()));
    };
    let Some(vault) = &facts.vault else {
        return Ok(create_vault(request, facts, token));
    };
    if let Some(wanted) = request.token.filter(|wanted| *wanted != token) {
        return Err(Refusal::OtherToken {
            wanted,
            vault: vault.place.address,
            found: token,
        });
    }
    let Some(settlement) = &facts.settlement else {
        return create_settlement(request, token, vault);
    };
    if vault.admin != settlement.admin {
        return Err(Refusal::TwoAdmins {
            vault: vault.admin,
            settlement: settlement.admin,
        });
    }
    let timelock = facts
        .timelock
        .as_ref()
        .filter(|lock| lock.address == vault.admin);
    if let Some(step) = admin_step(request, vault, settlement, timelock)? {
        return Ok(step);
    }
    let coins = request.gas_coins.min(facts.deployer_coins / SHARE_OF_COINS);
    if facts.gas_coins == 0 && coins > 0 {
        return Ok(Step::GiveCoins(request.gas_account, coins));
    }
    Ok(Step::Done(Deployed {
        token,
        vault: vault.place,
        settlement: settlement.place,
    }))
}

fn create_vault(request: &Request, facts: &Facts, token: Address) -> Step {
    let admin = match (request.timelock_delay, &facts.timelock) {
        (None, _) => request.deployer,
        (Some(_), Some(timelock)) => timelock.address,
        (Some(_), None) => {
            let code = code::timelock(request.deployer);
            return Step::Create(Contract::TimelockController, code);
        }
    };
    let code = code::vault(token, admin, request.offices.treasury);
    Step::Create(Contract::StakeVault, code)
}

fn create_settlement(
    request: &Request,
    token: Address,
    vault: &VaultFacts,
) -> Result<Step, Refusal> {
    if !vault.settlement.is_zero() {
        return Err(Refusal::OtherSettlement {
            vault: vault.place.address,
            found: vault.settlement,
        });
    }
    let code = code::settlement(&SettlementTerms {
        token,
        vault: vault.place.address,
        admin: vault.admin,
        guardian: request.offices.guardian,
        treasury: request.offices.treasury,
        fee_bps: request.fee_bps,
        claim_delay: request.claim_delay,
    });
    Ok(Step::Create(Contract::Settlement, code))
}
