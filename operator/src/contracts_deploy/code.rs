//! The contracts' code: what is sent to deploy one, and whether what is on the chain was built from it.

use alloy::{
    primitives::{Address, Bytes, U256, aliases::U48},
    sol_types::SolConstructor,
};
use gridstake_contracts::{GridToken, ISettlement, Settlement, StakeVault, TimelockController};

use super::record::Contract;

/// Whole tokens of a GridToken's supply. Settlement can hold 9.2 billion.
const SUPPLY: u64 = 1_000_000_000;
/// Decimals of a GridToken.
const DECIMALS: u8 = 18;

/// PUSH32, which loads an immutable value. In the compiled code its operand is zero; the constructor puts the value in.
const PUSH32: u8 = 0x7f;
/// Bytes of an immutable value in the code.
const IMMUTABLE: usize = 32;

/// Settlement's constructor arguments, in words that say which is which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SettlementTerms {
    /// A standard ERC-20.
    pub token: Address,
    /// The StakeVault.
    pub vault: Address,
    /// Holds DEFAULT_ADMIN_ROLE and LANE_ADMIN_ROLE.
    pub admin: Address,
    /// Holds GUARDIAN_ROLE.
    pub guardian: Address,
    /// Gets fees.
    pub treasury: Address,
    /// Fee of each credit, in 1/10,000.
    pub fee_bps: u16,
    /// Seconds from a claim's request to its payment.
    pub claim_delay: u64,
}

/// Deploys a GridToken, whose supply goes to the deployer.
#[must_use]
pub fn token() -> Bytes {
    let supply = U256::from(SUPPLY) * U256::from(10).pow(U256::from(DECIMALS));
    init_code(
        &GridToken::BYTECODE,
        &GridToken::constructorCall {
            name_: "Grid".to_owned(),
            symbol_: "GRID".to_owned(),
            decimals_: DECIMALS,
            supply,
        },
    )
}

/// Deploys a timelock without a delay, in which `proposer` schedules and anyone executes what is due. Nobody but itself can
/// change it.
#[must_use]
pub fn timelock(proposer: Address) -> Bytes {
    init_code(
        &TimelockController::BYTECODE,
        &TimelockController::constructorCall {
            minDelay: U256::ZERO,
            proposers: vec![proposer],
            executors: vec![Address::ZERO],
            admin: Address::ZERO,
        },
    )
}

/// Deploys a StakeVault. Its admin is changed in two steps without a delay of the vault's own: a timelock has one.
#[must_use]
pub fn vault(token: Address, admin: Address, treasury: Address) -> Bytes {
    init_code(
        &StakeVault::BYTECODE,
        &StakeVault::constructorCall {
            token_: token,
            admin,
            adminDelay: U48::ZERO,
            treasury_: treasury,
        },
    )
}

/// Deploys a Settlement.
#[must_use]
pub fn settlement(terms: &SettlementTerms) -> Bytes {
    init_code(
        &Settlement::BYTECODE,
        &Settlement::constructorCall {
            setup: ISettlement::Setup {
                token: terms.token,
                vault: terms.vault,
                admin: terms.admin,
                adminDelay: U48::ZERO,
                laneAdmin: terms.admin,
                guardian: terms.guardian,
                treasury: terms.treasury,
                feeBps: terms.fee_bps,
                claimDelay: terms.claim_delay,
            },
        },
    )
}

fn init_code(bytecode: &Bytes, arguments: &impl SolConstructor) -> Bytes {
    [bytecode.as_ref(), &arguments.abi_encode()].concat().into()
}

/// What the compiler made of `contract`, with zeros in the place of immutable values.
#[must_use]
pub fn compiled(contract: Contract) -> &'static [u8] {
    match contract {
        Contract::GridToken => &GridToken::DEPLOYED_BYTECODE,
        Contract::TimelockController => &TimelockController::DEPLOYED_BYTECODE,
        Contract::StakeVault => &StakeVault::DEPLOYED_BYTECODE,
        Contract::Settlement => &Settlement::DEPLOYED_BYTECODE,
    }
}

/// Whether `code` is `compiled` but for its immutable values.
#[must_use]
pub fn is_built_from(code: &[u8], compiled: &[u8]) -> bool {
    if code.len() != compiled.len() {
        return false;
    }
    let mut at = 0;
    while at < code.len() {
        if code[at] != compiled[at] {
            return false;
        }
        let operand = at + 1..at + 1 + IMMUTABLE;
        let is_immutable = compiled[at] == PUSH32
            && compiled
                .get(operand.clone())
                .is_some_and(|bytes| bytes.iter().all(|byte| *byte == 0));
        at = if is_immutable { operand.end } else { at + 1 };
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    /// EIP-170.
    const LONGEST: usize = 24_576;

    const ALL: [Contract; 4] = [
        Contract::GridToken,
        Contract::TimelockController,
        Contract::StakeVault,
        Contract::Settlement,
    ];

    #[test]
    fn every_contract_is_short_enough_for_a_chain() {
        for contract in ALL {
            let length = compiled(contract).len();
            assert!((1..=LONGEST).contains(&length), "{}", contract.name());
        }
    }

    #[test]
    fn immutable_values_may_differ_and_nothing_else() {
        let compiled = [&[0x01, PUSH32][..], &[0; 32], &[0x02, 0x00]].concat();
        let with_value = [&[0x01, PUSH32][..], &[9; 32], &[0x02, 0x00]].concat();
        assert!(is_built_from(&compiled, &compiled));
        assert!(is_built_from(&with_value, &compiled));
        for at in [0, 1, 34, 35] {
            let mut other = with_value.clone();
            other[at] ^= 0xff;
            assert!(!is_built_from(&other, &compiled), "byte {at}");
        }
        assert!(!is_built_from(&compiled[1..], &compiled));
        assert!(!is_built_from(&[], &compiled));
    }

    #[test]
    fn one_contract_is_not_taken_for_another() {
        for one in ALL {
            for other in ALL {
                assert_eq!(
                    is_built_from(compiled(one), compiled(other)),
                    one == other,
                    "{} {}",
                    one.name(),
                    other.name()
                );
            }
        }
    }
}
