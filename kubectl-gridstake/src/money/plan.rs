//! What is to be sent, and how it is shown before it is. Pure.

use alloy::{
    primitives::{Address, Bytes, U256},
    sol_types::SolCall,
};
use gridstake_contracts::GridToken;
use serde::Serialize;

use super::token::{Token, coins};
use crate::output::Report;

/// A contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contract {
    /// Lanes, payers' deposits, providers' earnings.
    Settlement,
    /// Providers and their stake.
    Vault,
    /// The token.
    Token,
}

impl Contract {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Settlement => "Settlement",
            Self::Vault => "StakeVault",
            Self::Token => "token",
        }
    }
}

/// A call of a contract.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The contract.
    pub to: Contract,
    /// Selector and arguments.
    pub input: Bytes,
}

/// From when on a transaction can be simulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ready {
    /// Now.
    Now,
    /// Once the approval before it is in a block: until then the token refuses.
    AfterApproval,
    /// Once the transaction before it is in a block, which makes what it needs.
    AfterStep,
}

/// One transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What it does, verb and object.
    pub what: String,
    /// The call.
    pub call: Call,
    /// From when on it can be simulated.
    pub ready: Ready,
    /// What such a call takes by contracts/gas-snapshot, for a step that cannot be simulated yet.
    pub typical_gas: u64,
}

impl Step {
    /// A transaction that can be simulated now.
    #[must_use]
    pub fn new(what: String, to: Contract, call: &impl SolCall, typical_gas: u64) -> Self {
        Self {
            what,
            call: Call {
                to,
                input: call.abi_encode().into(),
            },
            ready: Ready::Now,
            typical_gas,
        }
    }
}

/// What is to be sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The transactions, in their order.
    pub steps: Vec<Step>,
    /// How things stand.
    pub now: Vec<String>,
    /// What follows once all of it is done.
    pub then: Vec<String>,
}

/// Gas that an approval takes.
const APPROVE_GAS: u64 = 46_500;

impl Plan {
    /// Puts an approval of exactly `nano` nano-tokens for `spender` before the one step, unless it may take as much already.
    #[must_use]
    pub fn approving(
        mut self,
        token: &Token,
        spender: (Contract, Address),
        allowed: U256,
        nano: u128,
    ) -> Self {
        let units = token.units(nano);
        if allowed >= units {
            return self;
        }
        for step in &mut self.steps {
            step.ready = Ready::AfterApproval;
        }
        let approve = GridToken::approveCall {
            spender: spender.1,
            value: units,
        };
        let what = format!(
            "let the {} {} take exactly {} of this account's",
            spender.0.name(),
            spender.1,
            token.amount(nano)
        );
        self.steps
            .insert(0, Step::new(what, Contract::Token, &approve, APPROVE_GAS));
        self
    }
}

/// What a plan costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Price {
    /// Base fee and tip, in wei per gas.
    pub now: u128,
    /// The most that is paid per gas, in wei.
    pub most: u128,
    /// The tip in it, in wei per gas.
    pub tip: u128,
}

impl Price {
    /// So much more that a pool takes it for a transaction with the same nonce: most want a tenth.
    #[must_use]
    pub const fn to_replace(self) -> Self {
        Self {
            now: self.now.saturating_add(self.tip),
            most: self.most.saturating_mul(2),
            tip: self.tip.saturating_mul(2),
        }
    }
}

/// A plan with its circumstances, as it is shown.
#[derive(Serialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Shown {
    /// The chain's name in the operator's configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chain: Option<String>,
    /// The chain's id.
    pub chain_id: u64,
    /// Who sends.
    pub account: Address,
    /// The nonce of the first transaction.
    pub nonce: u64,
    /// Whether another transaction waits with this nonce, which the first one replaces.
    pub replaces: bool,
    /// How things stand.
    pub now: Vec<String>,
    /// The transactions.
    pub steps: Vec<ShownStep>,
    /// What all of it costs as gas stands, in coins of the chain.
    pub fee: String,
    /// What it costs at most, in coins of the chain.
    pub most_fee: String,
    /// What the account has, in coins of the chain.
    pub coins: String,
    /// What follows.
    pub then: Vec<String>,
}

/// A transaction of a plan.
#[derive(Serialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ShownStep {
    /// What it does.
    pub what: String,
    /// The contract's address.
    pub to: Address,
    /// Selector and arguments.
    pub input: Bytes,
    /// How much gas it takes.
    pub gas: u64,
    /// Whether that was estimated by simulating it, or is what such calls take.
    pub simulated: bool,
}

impl Shown {
    /// What `gas` units cost, as it stands and at most.
    #[must_use]
    pub fn fees(gas: u64, price: Price) -> (String, String) {
        let cost = |per_gas: u128| coins(per_gas.saturating_mul(gas.into()));
        (cost(price.now), cost(price.most))
    }

    /// What is asked before it is sent.
    #[must_use]
    pub fn question(&self) -> String {
        match self.steps.len() {
            1 => "Send this transaction?".to_owned(),
            number => format!("Send these {number} transactions?"),
        }
    }
}

impl Report for Shown {
    fn text(&self) -> String {
        let name = self
            .chain
            .as_ref()
            .map_or_else(String::new, |name| format!(" ({name})"));
        let mut lines = vec![format!(
            "On chain {}{name}, as {}",
            self.chain_id, self.account
        )];
        lines.extend(self.now.iter().map(|line| format!("  now: {line}")));
        for (number, step) in self.steps.iter().enumerate() {
            let about = if step.simulated { "" } else { "about " };
            lines.push(format!(
                "  {}. {} ({about}{} gas)",
                number.saturating_add(1),
                step.what,
                step.gas
            ));
        }
        lines.extend(self.then.iter().map(|line| format!("  then: {line}")));
        if self.replaces {
            lines.push(format!(
                "  a transaction with nonce {} waits: this one takes its place, at twice the price of gas, unless that one is sooner",
                self.nonce
            ));
        }
        lines.push(format!(
            "  gas costs {} of the chain's coins, at most {}; the account has {}. First nonce: {}",
            self.fee, self.most_fee, self.coins, self.nonce
        ));
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use gridstake_contracts::StakeVault;

    use super::*;
    use crate::{money::token::tests::token, output::tests::is_written};

    fn plan() -> Plan {
        let call = StakeVault::stakeCall {
            provider: 7,
            amount: 5_000_000_000,
        };
        Plan {
            steps: vec![Step::new(
                "stake".to_owned(),
                Contract::Vault,
                &call,
                71_368,
            )],
            ..Plan::default()
        }
    }

    const VAULT: (Contract, Address) = (Contract::Vault, Address::repeat_byte(0x52));

    #[test]
    fn an_approval_is_of_exactly_the_amount_and_only_where_one_is_wanting() {
        let token = token(18);
        let five = token.units(5_000_000_000);
        for allowed in [five, five + U256::from(1), U256::MAX] {
            let plan = plan().approving(&token, VAULT, allowed, 5_000_000_000);
            assert_eq!(plan.steps.len(), 1, "{allowed}");
            assert_eq!(plan.steps[0].ready, Ready::Now);
        }
        for allowed in [U256::ZERO, five - U256::from(1)] {
            let plan = plan().approving(&token, VAULT, allowed, 5_000_000_000);
            let [approve, stake] = &plan.steps[..] else {
                panic!("{} steps", plan.steps.len());
            };
            let call = GridToken::approveCall::abi_decode(&approve.call.input).unwrap();
            assert_eq!((call.spender, call.value), (VAULT.1, five));
            assert_eq!(approve.call.to, Contract::Token);
            assert_eq!(
                (approve.ready, stake.ready),
                (Ready::Now, Ready::AfterApproval)
            );
            assert!(approve.what.contains("exactly 5 GRID"), "{}", approve.what);
        }
    }

    #[test]
    fn what_is_shown_names_chain_account_amounts_and_fees() {
        let shown = Shown {
            chain: Some("anvil".to_owned()),
            chain_id: 31337,
            account: Address::repeat_byte(1),
            nonce: 4,
            replaces: false,
            now: vec!["own stake 0 GRID".to_owned()],
            steps: vec![
                ShownStep {
                    what: "approve".to_owned(),
                    to: VAULT.1,
                    input: Bytes::from_static(&[1]),
                    gas: 46_410,
                    simulated: true,
                },
                ShownStep {
                    what: "stake 5 GRID".to_owned(),
                    to: VAULT.1,
                    input: Bytes::from_static(&[2]),
                    gas: 71_368,
                    simulated: false,
                },
            ],
            fee: "0.000117778".to_owned(),
            most_fee: "0.000235556".to_owned(),
            coins: "100".to_owned(),
            then: vec!["own stake 5 GRID".to_owned()],
        };
        is_written(
            &shown,
            "On chain 31337 (anvil), as 0x0101010101010101010101010101010101010101
  now: own stake 0 GRID
  1. approve (46410 gas)
  2. stake 5 GRID (about 71368 gas)
  then: own stake 5 GRID
  gas costs 0.000117778 of the chain's coins, at most 0.000235556; the account has 100. First nonce: 4",
        );
        assert_eq!(shown.question(), "Send these 2 transactions?");
    }

    #[test]
    fn fees_are_rounded_up() {
        let price = Price {
            now: 1,
            most: 3,
            tip: 1,
        };
        assert_eq!(
            Shown::fees(1, price),
            ("0.000000001".to_owned(), "0.000000001".to_owned())
        );
        let price = Price {
            now: 1_000_000_000,
            most: 2_000_000_000,
            tip: 1,
        };
        assert_eq!(
            Shown::fees(117_778, price),
            ("0.000117778".to_owned(), "0.000235556".to_owned())
        );
    }
}
