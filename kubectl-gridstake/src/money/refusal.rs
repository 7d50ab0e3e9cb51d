//! What a contract refuses with, in words, and what to do next. Pure.

use alloy::{
    primitives::Bytes,
    sol_types::{Panic, Revert, SolError as _, SolInterface as _},
};
use gridstake_contracts::{
    GridToken::GridTokenErrors, Settlement::SettlementErrors, StakeVault::StakeVaultErrors,
};
use k8s_openapi::jiff::Timestamp;

use super::token::Token;

/// Why a contract refuses a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The contract's error, by its name where it is known.
    pub error: String,
    /// What it means and what to do next.
    pub next: String,
    /// Whether it came from our contracts, and not from the token or from nowhere.
    pub ours: bool,
}

/// A time of the chain, from Unix seconds.
#[must_use]
pub fn time(seconds: u64) -> String {
    i64::try_from(seconds)
        .ok()
        .and_then(|seconds| Timestamp::from_second(seconds).ok())
        .map_or_else(|| format!("second {seconds}"), |time| time.to_string())
}

/// What `data` says, with which a call reverted.
#[must_use]
pub fn of(data: &Bytes, token: &Token) -> Refusal {
    let ours = |error: &str, next: String| Refusal {
        error: error.to_owned(),
        next,
        ours: true,
    };
    if let Ok(error) = StakeVaultErrors::abi_decode(data)
        && let Some((name, next)) = of_vault(&error, token)
    {
        return ours(name, next);
    }
    if let Ok(error) = SettlementErrors::abi_decode(data)
        && let Some((name, next)) = of_settlement(&error, token)
    {
        return ours(name, next);
    }
    let (error, next) = of_token(data, token);
    Refusal {
        error,
        next,
        ours: false,
    }
}

fn of_vault(error: &StakeVaultErrors, token: &Token) -> Option<(&'static str, String)> {
    use StakeVaultErrors as E;
    Some(match error {
        E::UnknownProvider(e) => (
            "UnknownProvider",
            format!(
                "there is no provider {}: `kubectl gridstake register provider` makes one and prints its number",
                e.provider
            ),
        ),
        E::NotStaker(_) => (
            "NotStaker",
            "only the account that owns the provider's stake may do this: name its key by --key-file".to_owned(),
        ),
        E::NotOperator(_) => (
            "NotOperator",
            "only the provider's operator may do this: name its key by --key-file".to_owned(),
        ),
        E::NotAuthorised(_) => (
            "NotAuthorised",
            "only the provider's staker or operator may do this: name the key of one of them by --key-file".to_owned(),
        ),
        E::StakerIsOperator(_) => (
            "StakerIsOperator",
            "the key that owns the stake must not be the one that signs for nodes: give another address as --operator".to_owned(),
        ),
        E::ZeroAddress(_) => (
            "ZeroAddress",
            "the zero address is nobody's: write another one".to_owned(),
        ),
        E::AmountZero(_) => ("AmountZero", "there is nothing to move".to_owned()),
        E::AmountTooLarge(e) => (
            "AmountTooLarge",
            format!("write at most {}", token.amount(e.available)),
        ),
        E::BelowMinimumDelegation(e) => (
            "BelowMinimumDelegation",
            format!("delegate at least {} at once", token.amount(e.minimum)),
        ),
        E::NotWholeUnits(e) => (
            "NotWholeUnits",
            format!(
                "the token cannot move this: write a multiple of {}",
                token.amount(e.unit)
            ),
        ),
        E::UnsupportedToken(_) => (
            "UnsupportedToken",
            "the token moves another amount than it is asked to: this deployment cannot be used with it".to_owned(),
        ),
        E::TooManyTickets(_) => (
            "TooManyTickets",
            "16 withdrawals are open with this provider: take one out with `--withdraw`, or put one back with `--rebond TICKET`".to_owned(),
        ),
        E::UnknownTicket(_) => (
            "UnknownTicket",
            "this account has no such ticket with this provider: `kubectl gridstake claim --provider … --dry-run` lists them".to_owned(),
        ),
        E::StillLocked(e) => (
            "StillLocked",
            format!("it can be withdrawn from {}: try again then", time(e.unlockAt)),
        ),
        E::AllFrozen(_) => (
            "AllFrozen",
            "open slashes hold all of it: try again after they have ended (`kubectl get incidents`)".to_owned(),
        ),
        E::ClaimOpen(e) => (
            "ClaimOpen",
            format!("one claim is open, due at {}: try again then", time(e.due)),
        ),
        E::Paused(_) => (
            "Paused",
            "the chain's guardian has paused this path of the contract: wait, and try again".to_owned(),
        ),
        E::UnknownSlash(_) => (
            "UnknownSlash",
            "there is no such proposal to slash: `kubectl get incidents` lists the incidents, `kubectl gridstake explain incident NAME` says the number".to_owned(),
        ),
        E::WrongState(_) => (
            "WrongState",
            "the proposal to slash is not open to this any more: `kubectl gridstake explain incident NAME` says how far it is".to_owned(),
        ),
        E::TooLate(e) => (
            "TooLate",
            format!("the time for it ended at {}", time(e.deadline)),
        ),
        E::TooEarly(e) => (
            "TooEarly",
            format!("it is due at {}: try again then", time(e.deadline)),
        ),
        _ => return None,
    })
}

fn of_settlement(error: &SettlementErrors, token: &Token) -> Option<(&'static str, String)> {
    use SettlementErrors as E;
    Some(match error {
        E::LaneNotActive(e) => (
            "LaneNotActive",
            format!(
                "lane {} is not open on this contract: compare --lane with the operator's configuration",
                e.lane
            ),
        ),
        E::NotOwner(_) => (
            "NotOwner",
            "only the owner of the payer's account may do this: name its key by --key-file"
                .to_owned(),
        ),
        E::UnknownPayer(e) => (
            "UnknownPayer",
            format!(
                "lane {} has no payer {}: `kubectl gridstake register payer` makes one and prints its number",
                e.lane, e.payer
            ),
        ),
        E::NothingToDo(_) => ("NothingToDo", "there is nothing to move".to_owned()),
        E::NotDue(e) => (
            "NotDue",
            format!("it is due at {}: try again then", time(e.due)),
        ),
        E::BelowGranularity(e) => (
            "BelowGranularity",
            format!(
                "the token cannot move this: write a multiple of {}",
                token.amount(e.granularity.into())
            ),
        ),
        E::Overflow(_) => (
            "Overflow",
            "the contract cannot hold so much: write less".to_owned(),
        ),
        E::ProviderIsCooling(e) => (
            "ProviderIsCooling",
            format!("it can be paid from {}", time(e.until)),
        ),
        E::UnknownProvider(e) => (
            "UnknownProvider",
            format!(
                "there is no provider {}: `kubectl gridstake register provider` makes one and prints its number",
                e.provider
            ),
        ),
        _ => return None,
    })
}

fn of_token(data: &Bytes, token: &Token) -> (String, String) {
    match GridTokenErrors::abi_decode(data) {
        Ok(GridTokenErrors::ERC20InsufficientBalance(e)) => (
            "ERC20InsufficientBalance".to_owned(),
            format!(
                "the account {} has {} and needs {}: send it what is missing, or write less",
                e.sender,
                token.amount(token.nano(e.balance)),
                token.amount(token.nano(e.needed))
            ),
        ),
        Ok(GridTokenErrors::ERC20InsufficientAllowance(e)) => (
            "ERC20InsufficientAllowance".to_owned(),
            format!(
                "{} may take {} and needs {}: somebody has changed the approval meanwhile; run the command again",
                e.spender,
                token.amount(token.nano(e.allowance)),
                token.amount(token.nano(e.needed))
            ),
        ),
        _ => unknown(data),
    }
}

fn unknown(data: &Bytes) -> (String, String) {
    let look = "nothing was sent: look at what docs/contracts.md says of the call".to_owned();
    if let Ok(revert) = Revert::abi_decode(data) {
        // It is a stranger's text.
        let reason: String = revert
            .reason
            .chars()
            .filter(|letter| !letter.is_control())
            .take(200)
            .collect();
        return (format!("{reason:?}"), look);
    }
    if let Ok(panic) = Panic::abi_decode(data) {
        return (panic.to_string(), look);
    }
    if data.is_empty() {
        return (
            "no reason".to_owned(),
            "nothing was sent: check that --settlement and --rpc belong together".to_owned(),
        );
    }
    (data.to_string(), look)
}

#[cfg(test)]
mod tests {
    use alloy::{
        primitives::{Address, U256},
        sol_types::SolError,
    };
    use gridstake_contracts::{GridToken, Settlement, StakeVault};

    use super::*;
    use crate::money::token::tests::token;

    fn refused(error: &impl SolError) -> Refusal {
        of(&error.abi_encode().into(), &token(18))
    }

    #[test]
    fn every_error_that_these_calls_can_meet_has_a_name_and_a_next_step() {
        let nano = 1_500_000_000;
        let cases = [
            (
                refused(&StakeVault::UnknownProvider { provider: 9 }),
                "UnknownProvider",
                "provider 9",
            ),
            (
                refused(&StakeVault::NotStaker {}),
                "NotStaker",
                "--key-file",
            ),
            (
                refused(&StakeVault::NotAuthorised {}),
                "NotAuthorised",
                "staker or operator",
            ),
            (
                refused(&StakeVault::StakerIsOperator {}),
                "StakerIsOperator",
                "--operator",
            ),
            (
                refused(&StakeVault::AmountTooLarge { available: nano }),
                "AmountTooLarge",
                "at most 1.5 GRID",
            ),
            (
                refused(&StakeVault::BelowMinimumDelegation { minimum: nano }),
                "BelowMinimumDelegation",
                "at least 1.5 GRID",
            ),
            (
                refused(&StakeVault::StillLocked {
                    unlockAt: 1_800_000_000,
                }),
                "StillLocked",
                "from 2027-01-15T08:00:00Z",
            ),
            (
                refused(&StakeVault::AllFrozen {}),
                "AllFrozen",
                "open slashes",
            ),
            (
                refused(&StakeVault::TooManyTickets {}),
                "TooManyTickets",
                "--rebond",
            ),
            (
                refused(&StakeVault::UnknownTicket {}),
                "UnknownTicket",
                "lists them",
            ),
            (refused(&StakeVault::Paused {}), "Paused", "guardian"),
            (
                refused(&StakeVault::TooLate {
                    deadline: 1_800_000_000,
                }),
                "TooLate",
                "2027-01-15",
            ),
            (
                refused(&StakeVault::WrongState {}),
                "WrongState",
                "explain incident",
            ),
            (
                refused(&StakeVault::UnknownSlash {}),
                "UnknownSlash",
                "kubectl get incidents",
            ),
            (
                refused(&Settlement::LaneNotActive { lane: 7 }),
                "LaneNotActive",
                "--lane",
            ),
            (refused(&Settlement::NotOwner {}), "NotOwner", "--key-file"),
            (
                refused(&Settlement::UnknownPayer { lane: 7, payer: 3 }),
                "UnknownPayer",
                "register payer",
            ),
            (
                refused(&Settlement::NotDue { due: 1_800_000_000 }),
                "NotDue",
                "2027-01-15",
            ),
            (
                refused(&Settlement::BelowGranularity { granularity: 1000 }),
                "BelowGranularity",
                "0.000001 GRID",
            ),
        ];
        for (refusal, name, words) in cases {
            assert_eq!(refusal.error, name);
            assert!(refusal.ours, "{name}");
            assert!(refusal.next.contains(words), "{name}: {}", refusal.next);
        }
    }

    #[test]
    fn what_the_token_says_is_told_in_whole_tokens_and_is_not_ours() {
        let units = |tokens: u64| U256::from(tokens) * U256::from(10).pow(U256::from(18));
        let poor = refused(&GridToken::ERC20InsufficientBalance {
            sender: Address::repeat_byte(1),
            balance: units(3),
            needed: units(5),
        });
        assert!(!poor.ours);
        assert!(
            poor.next.contains("has 3 GRID and needs 5 GRID"),
            "{}",
            poor.next
        );
        let unapproved = refused(&GridToken::ERC20InsufficientAllowance {
            spender: Address::repeat_byte(1),
            allowance: units(0),
            needed: units(5),
        });
        assert!(!unapproved.ours && unapproved.next.contains("run the command again"));
    }

    #[test]
    fn a_strangers_words_are_repeated_without_what_a_terminal_obeys() {
        let other = refused(&Revert::from("no\u{1b}[2J".to_owned()));
        assert_eq!((other.error.as_str(), other.ours), ("\"no[2J\"", false));
        assert_eq!(of(&Bytes::new(), &token(18)).error, "no reason");
        let odd = of(&Bytes::from_static(&[1, 2, 3, 4]), &token(18));
        assert_eq!(odd.error, "0x01020304");
    }
}
