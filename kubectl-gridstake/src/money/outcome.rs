//! What came of transactions: the events that they left, in words and for programs. Pure.

use alloy::{
    primitives::{Address, Log, TxHash},
    sol_types::SolEventInterface as _,
};
use gridstake_contracts::{Settlement::SettlementEvents, StakeVault::StakeVaultEvents};
use gridstake_crds::TokenAmount;
use serde::Serialize;

use super::{chain::Chain, refusal::time, send::Mined, token::Token};
use crate::output::Report;

/// What was done.
#[derive(Serialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// The chain's id.
    pub chain_id: u64,
    /// Who sent.
    pub account: Address,
    /// The transactions.
    pub transactions: Vec<Transaction>,
}

/// A transaction that is in a block.
#[derive(Serialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Transaction {
    /// What it did.
    pub what: String,
    /// Its hash.
    pub hash: TxHash,
    /// Its nonce.
    pub nonce: u64,
    /// Its block.
    pub block: u64,
    /// How much gas it took.
    pub gas: u64,
    /// What the contracts say of it.
    pub events: Vec<Fact>,
}

/// What a contract says that has happened.
#[derive(Serialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Fact {
    /// The event's name.
    pub event: &'static str,
    /// In words.
    pub words: String,
    /// The provider.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<u32>,
    /// The payer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payer: Option<u32>,
    /// The ticket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ticket: Option<u32>,
    /// How much, in whole tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub amount: Option<TokenAmount>,
    /// When what follows is due, in RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub due: Option<String>,
}

impl Fact {
    fn new(event: &'static str, words: String) -> Self {
        Self {
            event,
            words,
            ..Self::default()
        }
    }

    fn provider(mut self, provider: u32) -> Self {
        self.provider = Some(provider);
        self
    }

    fn payer(mut self, payer: u32) -> Self {
        self.payer = Some(payer);
        self
    }

    fn ticket(mut self, ticket: u32) -> Self {
        self.ticket = Some(ticket);
        self
    }

    /// In nano-tokens.
    fn amount(mut self, nano: impl Into<u128>) -> Self {
        self.amount = Some(TokenAmount::from_nano(nano.into()));
        self
    }

    fn due(mut self, due: String) -> Self {
        self.due = Some(due);
        self
    }
}

impl Report for Outcome {
    fn text(&self) -> String {
        let mut lines = Vec::new();
        for transaction in &self.transactions {
            lines.push(format!(
                "done: {}: transaction {}, block {}, {} gas",
                transaction.what, transaction.hash, transaction.block, transaction.gas
            ));
            let words = transaction.events.iter().map(|event| &event.words);
            lines.extend(words.map(|words| format!("  {words}")));
        }
        lines.join("\n")
    }
}

/// What the transactions that `account` sent came to.
#[must_use]
pub fn of(chain: &Chain, account: Address, sent: &[Mined]) -> Outcome {
    let contracts = chain.contracts();
    let transactions = sent.iter().map(|mined| Transaction {
        what: mined.what.clone(),
        hash: mined.hash,
        nonce: mined.nonce,
        block: mined.block,
        gas: mined.gas,
        events: facts(&contracts, &chain.token, &mined.events),
    });
    Outcome {
        chain_id: chain.id,
        account,
        transactions: transactions.collect(),
    }
}

/// Our contracts' addresses: Settlement and StakeVault.
#[derive(Clone, Copy, Debug)]
pub struct Contracts {
    /// The contract Settlement.
    pub settlement: Address,
    /// The contract StakeVault.
    pub vault: Address,
}

/// What our contracts say in `logs`.
#[must_use]
pub fn facts(contracts: &Contracts, token: &Token, logs: &[Log]) -> Vec<Fact> {
    let fact = |log: &Log| {
        if log.address == contracts.vault {
            let event = StakeVaultEvents::decode_log(log).ok()?;
            of_vault(event.data, token)
        } else if log.address == contracts.settlement {
            let event = SettlementEvents::decode_log(log).ok()?;
            of_settlement(event.data, token)
        } else {
            None
        }
    };
    logs.iter().filter_map(fact).collect()
}

fn of_vault(event: StakeVaultEvents, token: &Token) -> Option<Fact> {
    use StakeVaultEvents as E;
    Some(match event {
        E::Registered(e) => Fact::new(
            "Registered",
            format!(
                "this is provider {0}: it can be paid from {1}, and is bonded once it has stake: \
                 kubectl gridstake stake --provider {0} --amount TOKENS --key-file FILE, \
                 then kubectl gridstake bind --provider {0} --node NODE",
                e.provider,
                time(e.payableAt)
            ),
        )
        .provider(e.provider)
        .due(time(e.payableAt)),
        E::Staked(e) => Fact::new(
            "Staked",
            format!(
                "provider {} has {} more stake of its own",
                e.provider,
                token.amount(e.amount)
            ),
        )
        .provider(e.provider)
        .amount(e.amount),
        E::Delegated(e) => Fact::new(
            "Delegated",
            format!(
                "{} are delegated to provider {}",
                token.amount(e.amount),
                e.provider
            ),
        )
        .provider(e.provider)
        .amount(e.amount),
        E::UnbondRequested(e) => Fact::new(
            "UnbondRequested",
            format!(
                "ticket {}: {} can be withdrawn from {}",
                e.ticket,
                token.amount(e.amount),
                time(e.unlockAt)
            ),
        )
        .provider(e.provider)
        .ticket(e.ticket)
        .due(time(e.unlockAt))
        .amount(e.amount),
        E::Rebonded(e) => Fact::new(
            "Rebonded",
            format!(
                "ticket {} is closed: {} are stake again",
                e.ticket,
                token.amount(e.amount)
            ),
        )
        .provider(e.provider)
        .ticket(e.ticket)
        .amount(e.amount),
        E::Withdrawn(e) => Fact::new(
            "Withdrawn",
            format!(
                "{} were paid to {} for ticket {}",
                token.amount(e.amount),
                e.account,
                e.ticket
            ),
        )
        .provider(e.provider)
        .ticket(e.ticket)
        .amount(e.amount),
        E::SlashDisputed(e) => Fact::new(
            "SlashDisputed",
            format!(
                "proposal {} is disputed; the arbiter decides until {}, \
                 and undecided nothing is cut",
                e.id,
                time(e.resolveUntil)
            ),
        )
        .provider(e.provider)
        .due(time(e.resolveUntil)),
        other => return of_rewards(&other, token),
    })
}

fn of_rewards(event: &StakeVaultEvents, token: &Token) -> Option<Fact> {
    use StakeVaultEvents as E;
    Some(match event {
        E::RewardsRequested(e) => Fact::new(
            "RewardsRequested",
            format!(
                "a claim of rewards of {} is due at {}",
                token.amount(e.amount),
                time(e.due)
            ),
        )
        .provider(e.provider)
        .due(time(e.due))
        .amount(e.amount),
        E::RewardsPaid(e) => Fact::new(
            "RewardsPaid",
            format!(
                "rewards of {} were paid to {}",
                token.amount(e.amount),
                e.delegator
            ),
        )
        .provider(e.provider)
        .amount(e.amount),
        _ => return None,
    })
}

fn of_settlement(event: SettlementEvents, token: &Token) -> Option<Fact> {
    use SettlementEvents as E;
    let words_of = |nano: u64| token.amount(nano.into());
    Some(match event {
        E::PayerRegistered(e) => Fact::new(
            "PayerRegistered",
            format!(
                "this is payer {0} of lane {1}: \
                 kubectl gridstake deposit --payer {0} --amount TOKENS --key-file FILE, \
                 then kubectl gridstake consent",
                e.payer, e.lane
            ),
        )
        .payer(e.payer),
        E::Deposited(e) => Fact::new(
            "Deposited",
            format!(
                "payer {} of lane {} holds {} more",
                e.payer,
                e.lane,
                words_of(e.amount)
            ),
        )
        .payer(e.payer)
        .amount(e.amount),
        E::ThawRequested(e) if e.amount == 0 => Fact::new(
            "ThawRequested",
            format!("payer {}'s deposit stays", e.payer),
        )
        .payer(e.payer),
        E::ThawRequested(e) => Fact::new(
            "ThawRequested",
            format!(
                "{} of payer {}'s deposit can be taken out from {}",
                words_of(e.amount),
                e.payer,
                time(e.due)
            ),
        )
        .payer(e.payer)
        .due(time(e.due))
        .amount(e.amount),
        E::Withdrawn(e) => Fact::new(
            "Withdrawn",
            format!(
                "{} of payer {}'s deposit were paid out",
                words_of(e.amount),
                e.payer
            ),
        )
        .payer(e.payer)
        .amount(e.amount),
        E::ClaimRequested(e) => Fact::new(
            "ClaimRequested",
            format!(
                "provider {}'s claim of {} is due at {}",
                e.provider,
                words_of(e.amount),
                time(e.due)
            ),
        )
        .provider(e.provider)
        .due(time(e.due))
        .amount(e.amount),
        E::Claimed(e) => Fact::new(
            "Claimed",
            format!(
                "{} were paid to {} for provider {}",
                words_of(e.amount),
                e.beneficiary,
                e.provider
            ),
        )
        .provider(e.provider)
        .amount(e.amount),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use alloy::sol_types::SolEvent;
    use gridstake_contracts::{Settlement, StakeVault};

    use super::*;
    use crate::{money::token::tests::token, output::tests::is_written};

    const CONTRACTS: Contracts = Contracts {
        settlement: Address::repeat_byte(0x51),
        vault: Address::repeat_byte(0x52),
    };

    fn log(address: Address, event: &impl SolEvent) -> Log {
        Log {
            address,
            data: event.encode_log_data(),
        }
    }

    fn asked_back() -> StakeVault::UnbondRequested {
        StakeVault::UnbondRequested {
            provider: 7,
            account: Address::repeat_byte(1),
            ticket: 2,
            amount: 5_000_000_000,
            unlockAt: 1_800_000_000,
        }
    }

    #[test]
    fn what_came_of_a_transaction_is_told_by_its_events() {
        let logs = [log(CONTRACTS.vault, &asked_back())];
        let outcome = Outcome {
            chain_id: 31337,
            account: Address::repeat_byte(1),
            transactions: vec![Transaction {
                what: "ask 5 GRID back".to_owned(),
                hash: TxHash::repeat_byte(0xab),
                nonce: 3,
                block: 12,
                gas: 137_886,
                events: facts(&CONTRACTS, &token(18), &logs),
            }],
        };
        is_written(
            &outcome,
            "done: ask 5 GRID back: transaction 0xabababababababababababababababababababababababababababababababab, block 12, 137886 gas
  ticket 2: 5 GRID can be withdrawn from 2027-01-15T08:00:00Z",
        );
        let event = &outcome.transactions[0].events[0];
        assert_eq!((event.provider, event.ticket), (Some(7), Some(2)));
    }

    #[test]
    fn another_contracts_events_are_not_believed() {
        let elsewhere = log(Address::repeat_byte(9), &asked_back());
        assert!(facts(&CONTRACTS, &token(18), &[elsewhere]).is_empty());
    }

    #[test]
    fn numbers_that_the_next_command_needs_are_told() {
        let provider = StakeVault::Registered {
            provider: 7,
            staker: Address::repeat_byte(1),
            operator: Address::repeat_byte(2),
            beneficiary: Address::repeat_byte(3),
            payableAt: 1_800_000_000,
        };
        let payer = Settlement::PayerRegistered {
            lane: 7,
            payer: 3,
            owner: Address::repeat_byte(1),
        };
        let logs = [
            log(CONTRACTS.vault, &provider),
            log(CONTRACTS.settlement, &payer),
        ];
        let facts = facts(&CONTRACTS, &token(18), &logs);
        assert!(facts[0].words.contains("stake --provider 7"), "{facts:?}");
        assert_eq!(facts[0].provider, Some(7));
        assert!(facts[1].words.contains("deposit --payer 3"), "{facts:?}");
        assert_eq!(facts[1].payer, Some(3));
    }
}
