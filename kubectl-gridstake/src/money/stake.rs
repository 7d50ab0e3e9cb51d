//! `stake`, `unstake`, `delegate` and `undelegate`.

use alloy::primitives::{Address, U256};
use gridstake_contracts::{GridToken, StakeVault};

use super::{
    Desk, MoneyError,
    args::{StakeArgs, UnstakeArgs},
    plan::{Contract, Plan, Step},
    refusal::time,
    token::Token,
};
use crate::{Told, error::PluginError};

/// `Role.Miner` of IStakeVault.sol, by its number.
const ROLE_MINER: u8 = 0;
/// `Parameter.DelegationLimitBps` of StakeVaultParameters.sol, by its number.
const DELEGATION_LIMIT: u8 = 7;
/// Ten-thousandths of a whole.
const BPS: u128 = 10_000;
/// Gas of calls, by contracts/gas-snapshot/StakeVault.json.
pub(super) mod gas {
    pub const REGISTER: u64 = 101_754;
    pub const STAKE: u64 = 71_368;
    pub const DELEGATE: u64 = 91_477;
    pub const UNBOND: u64 = 137_886;
    pub const UNDELEGATE: u64 = 155_270;
    pub const WITHDRAW: u64 = 66_014;
    pub const REBOND: u64 = 50_550;
    pub const REQUEST_REWARDS: u64 = 209_788;
    pub const CLAIM_REWARDS: u64 = 60_796;
    pub const DISPUTE: u64 = 60_380;
}

/// What the StakeVault holds of a provider; amounts in nano-tokens, times in Unix seconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provider {
    /// Its number.
    pub id: u32,
    /// Who owns its stake.
    pub staker: Address,
    /// Its own stake.
    pub own: u128,
    /// What others have delegated to it.
    pub delegated: u128,
    /// What open slashes have frozen.
    pub frozen: u128,
    /// It is bonded as a miner with more than this.
    pub minimum: u128,
    /// How much delegated stake counts at most, in ten-thousandths of its own.
    pub limit_bps: u128,
    /// How long stake is on its way out, in seconds.
    pub unbonding: u64,
}

/// What the account that sends has there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Its address.
    pub address: Address,
    /// What it has of the token, in its smallest unit.
    pub balance: U256,
    /// What the vault may take of it, in the token's smallest unit.
    pub allowed: U256,
    /// Its shares of what is delegated to the provider.
    pub shares: u128,
    /// What they are worth, in nano-tokens.
    pub worth: u128,
    /// What it has asked back from this provider.
    pub tickets: Vec<Ticket>,
}

/// Stake that was asked back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// Its number.
    pub id: u32,
    /// How much, in nano-tokens.
    pub amount: u128,
    /// From when on it can be withdrawn, in Unix seconds.
    pub unlocks: u64,
}

/// A provider and an account, as a block shows them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sight {
    /// The provider.
    pub provider: Provider,
    /// The account.
    pub account: Account,
    /// The token.
    pub token: Token,
    /// The vault.
    pub vault: Address,
    /// The time of the block, in Unix seconds.
    pub now: u64,
}

impl Provider {
    /// What its stake counts: docs/contracts.md, Stake and bonds.
    #[must_use]
    pub fn effective(&self) -> u128 {
        let limit = self.own.saturating_mul(self.limit_bps) / BPS;
        self.own
            .saturating_add(self.delegated.min(limit))
            .saturating_sub(self.frozen)
    }

    fn is_bonded(&self) -> bool {
        self.effective() > self.minimum
    }

    fn words(&self, token: &Token) -> String {
        let frozen = if self.frozen == 0 {
            String::new()
        } else {
            format!(", {} frozen", token.amount(self.frozen))
        };
        format!(
            "provider {}: own stake {}, delegated {}{frozen}: {}",
            self.id,
            token.amount(self.own),
            token.amount(self.delegated),
            self.bond(token)
        )
    }

    fn bond(&self, token: &Token) -> String {
        let effective = token.amount(self.effective());
        if self.is_bonded() {
            format!("bonded as a miner, since {effective} count")
        } else {
            format!(
                "not bonded, since {effective} count and more than {} are needed",
                token.amount(self.minimum)
            )
        }
    }
}

impl Sight {
    /// Stake of the provider's own is put in.
    fn stake(&self, amount: u128) -> Result<Plan, String> {
        self.owned("stake")?;
        self.affordable(amount)?;
        let call = StakeVault::stakeCall {
            provider: self.provider.id,
            amount,
        };
        let what = format!(
            "stake {} for provider {}",
            self.token.amount(amount),
            self.provider.id
        );
        let after = Provider {
            own: self.provider.own.saturating_add(amount),
            ..self.provider.clone()
        };
        Ok(self.paying(
            Step::new(what, Contract::Vault, &call, gas::STAKE),
            amount,
            vec![after.words(&self.token), self.way_back("unstake")],
        ))
    }

    /// Stake is put behind a provider by somebody else.
    fn delegate(&self, amount: u128) -> Result<Plan, String> {
        self.affordable(amount)?;
        let call = StakeVault::delegateCall {
            provider: self.provider.id,
            amount,
        };
        let what = format!(
            "delegate {} to provider {}",
            self.token.amount(amount),
            self.provider.id
        );
        let after = Provider {
            delegated: self.provider.delegated.saturating_add(amount),
            ..self.provider.clone()
        };
        let risk = "it can be slashed for the provider's faults, after the provider's own stake"
            .to_owned();
        Ok(self.paying(
            Step::new(what, Contract::Vault, &call, gas::DELEGATE),
            amount,
            vec![after.words(&self.token), risk, self.way_back("undelegate")],
        ))
    }

    /// The provider's own stake is asked back; all of it without an amount.
    fn unstake(&self, amount: Option<u128>) -> Result<Plan, String> {
        self.owned("unstake")?;
        let own = self.provider.own;
        let amount = amount.unwrap_or(own);
        if amount == 0 {
            return Err(format!(
                "--all: provider {} has no own stake",
                self.provider.id
            ));
        }
        if amount > own {
            return Err(format!(
                "--amount: provider {} has {} of its own: write at most that, or --all",
                self.provider.id,
                self.token.amount(own)
            ));
        }
        if amount != own {
            self.token.exact("--amount", amount)?;
        }
        let call = StakeVault::requestUnbondCall {
            provider: self.provider.id,
            amount,
        };
        let what = format!(
            "ask {} of provider {}'s own stake back",
            self.token.amount(amount),
            self.provider.id
        );
        let after = Provider {
            own: own.saturating_sub(amount),
            ..self.provider.clone()
        };
        let mut then = vec![after.words(&self.token), self.unlocks("unstake")];
        if self.provider.is_bonded() && !after.is_bonded() {
            then.push("its nodes get no new jobs from then on".to_owned());
        }
        Ok(self.moving(Step::new(what, Contract::Vault, &call, gas::UNBOND), then))
    }

    /// Delegated stake is asked back; all of it without an amount.
    fn undelegate(&self, amount: Option<u128>) -> Result<Plan, String> {
        let Account { shares, worth, .. } = self.account;
        if shares == 0 || worth == 0 {
            return Err(format!(
                "--provider: the account {} has delegated nothing to provider {}",
                self.account.address, self.provider.id
            ));
        }
        let asked = match amount {
            None => shares,
            Some(amount) if amount > worth => {
                return Err(format!(
                    "--amount: what is delegated is worth {}: write at most that, or --all",
                    self.token.amount(worth)
                ));
            }
            Some(amount) => shares_worth(amount, shares, worth),
        };
        let call = StakeVault::requestUndelegateCall {
            provider: self.provider.id,
            shares: asked,
        };
        let amount = amount.unwrap_or(worth);
        let what = format!(
            "ask {} that are delegated to provider {} back",
            self.token.amount(amount),
            self.provider.id
        );
        let after = Provider {
            delegated: self.provider.delegated.saturating_sub(amount),
            ..self.provider.clone()
        };
        let then = vec![after.words(&self.token), self.unlocks("undelegate")];
        Ok(self.moving(
            Step::new(what, Contract::Vault, &call, gas::UNDELEGATE),
            then,
        ))
    }

    /// What was asked back and whose time is over is taken out.
    fn withdraw(&self) -> Result<Plan, String> {
        let steps = self.withdrawals();
        if steps.is_empty() {
            return Err(if self.account.tickets.is_empty() {
                format!(
                    "--withdraw: the account {} has asked nothing back from provider {}",
                    self.account.address, self.provider.id
                )
            } else {
                format!(
                    "--withdraw: nothing can be taken out yet: {}",
                    self.tickets().join("; ")
                )
            });
        }
        let account = format!("it is paid to {}", self.account.address);
        let frozen = (self.provider.frozen > 0).then(|| {
            "open slashes have frozen a part of the stake: what they hold stays in the ticket"
                .to_owned()
        });
        Ok(Plan {
            steps,
            now: self.tickets(),
            then: std::iter::once(account).chain(frozen).collect(),
        })
    }

    /// The withdrawals that are due.
    pub(super) fn withdrawals(&self) -> Vec<Step> {
        let provider = self.provider.id;
        let due = self.account.tickets.iter();
        due.filter(|ticket| ticket.unlocks <= self.now && ticket.amount > 0)
            .map(|ticket| {
                let call = StakeVault::withdrawCall {
                    provider,
                    ticket: ticket.id,
                };
                let what = format!(
                    "take ticket {} out: {} of provider {provider}'s stake",
                    ticket.id,
                    self.token.amount(ticket.amount)
                );
                Step::new(what, Contract::Vault, &call, gas::WITHDRAW)
            })
            .collect()
    }

    /// A ticket is put back where it came from.
    fn rebond(&self, ticket: u32) -> Result<Plan, String> {
        let found = self.account.tickets.iter().find(|one| one.id == ticket);
        let found = found.ok_or_else(|| {
            let has = if self.account.tickets.is_empty() {
                "it has none".to_owned()
            } else {
                self.tickets().join("; ")
            };
            format!(
                "--rebond: the account {} has no ticket {ticket} with provider {}: {has}",
                self.account.address, self.provider.id
            )
        })?;
        let call = StakeVault::rebondCall {
            provider: self.provider.id,
            ticket,
        };
        let what = format!(
            "put ticket {ticket} back: {} for provider {}",
            self.token.amount(found.amount),
            self.provider.id
        );
        Ok(self.moving(
            Step::new(what, Contract::Vault, &call, gas::REBOND),
            vec!["it counts as stake again at once".to_owned()],
        ))
    }

    /// The account's tickets, a line each.
    pub(super) fn tickets(&self) -> Vec<String> {
        let line = |ticket: &Ticket| {
            let when = if ticket.unlocks <= self.now {
                "can be withdrawn".to_owned()
            } else {
                format!("can be withdrawn from {}", time(ticket.unlocks))
            };
            format!(
                "ticket {}: {} {when}",
                ticket.id,
                self.token.amount(ticket.amount)
            )
        };
        self.account.tickets.iter().map(line).collect()
    }

    fn owned(&self, command: &str) -> Result<(), String> {
        let Provider { id, staker, .. } = self.provider;
        if self.account.address == staker {
            return Ok(());
        }
        let other = match command {
            "stake" => "; `kubectl gridstake delegate` puts stake behind somebody else's provider",
            _ => "; `kubectl gridstake undelegate` asks back what was delegated",
        };
        Err(format!(
            "--key-file: it is the key of {}, and the stake of provider {id} is owned by {staker}: name that one's key{other}",
            self.account.address
        ))
    }

    fn affordable(&self, amount: u128) -> Result<(), String> {
        self.token.exact("--amount", amount)?;
        if self.account.balance >= self.token.units(amount) {
            return Ok(());
        }
        Err(format!(
            "--amount: the account {} has {}, not {}: send it what is missing (the token is {}), or write less",
            self.account.address,
            self.token.amount(self.token.nano(self.account.balance)),
            self.token.amount(amount),
            self.token.address
        ))
    }

    fn way_back(&self, command: &str) -> String {
        format!(
            "it comes back {} after `{command}`, and can be slashed until it is withdrawn",
            days(self.provider.unbonding)
        )
    }

    fn unlocks(&self, command: &str) -> String {
        format!(
            "it can be withdrawn by `{command} --withdraw` from {}, and be slashed until then",
            time(self.now.saturating_add(self.provider.unbonding))
        )
    }

    /// A plan of one step that takes `amount` from the account.
    fn paying(&self, step: Step, amount: u128, then: Vec<String>) -> Plan {
        let mut plan = self.moving(step, then);
        plan.now.push(format!(
            "the account has {}",
            self.token.amount(self.token.nano(self.account.balance))
        ));
        let spender = (Contract::Vault, self.vault);
        plan.approving(&self.token, spender, self.account.allowed, amount)
    }

    fn moving(&self, step: Step, then: Vec<String>) -> Plan {
        Plan {
            steps: vec![step],
            now: vec![self.provider.words(&self.token)],
            then,
        }
    }
}

/// How many of `shares`, which are worth `worth` together, are worth `amount`; rounded up, and all of them where that would be more.
fn shares_worth(amount: u128, shares: u128, worth: u128) -> u128 {
    let product = U256::from(amount) * U256::from(shares);
    let rounded = product.div_ceil(U256::from(worth.max(1)));
    rounded.saturating_to::<u128>().min(shares)
}

/// Seconds as days, where they are whole ones.
fn days(seconds: u64) -> String {
    match (seconds / 86_400, seconds % 86_400) {
        (1, 0) => "1 day".to_owned(),
        (days, 0) => format!("{days} days"),
        _ => format!("{seconds} s"),
    }
}

/// What the chain shows of a provider and of the account.
pub(super) async fn look(desk: &Desk, provider: u32) -> Result<Sight, MoneyError> {
    let (chain, account) = (&desk.chain, desk.account);
    let vault = Contract::Vault;
    let (known, minimum, limit, unbonding) = tokio::try_join!(
        chain.read(
            "look for the provider",
            vault,
            StakeVault::providerOfCall { provider }
        ),
        chain.read(
            "read the minimum stake",
            vault,
            StakeVault::minimumStakeCall { role: ROLE_MINER }
        ),
        chain.read(
            "read how much delegated stake counts",
            vault,
            StakeVault::parameterCall {
                which: DELEGATION_LIMIT
            }
        ),
        chain.read(
            "read the unbonding time",
            vault,
            StakeVault::unbondingTimeCall {}
        ),
    )?;
    let (tickets, delegation, balance, allowed) = tokio::try_join!(
        chain.read(
            "read the account's withdrawals",
            vault,
            StakeVault::ticketsOfCall { provider, account }
        ),
        chain.read(
            "read what the account has delegated",
            vault,
            StakeVault::delegationOfCall {
                provider,
                delegator: account
            }
        ),
        chain.read(
            "read the account's balance",
            Contract::Token,
            GridToken::balanceOfCall { account }
        ),
        chain.read(
            "read the approval",
            Contract::Token,
            GridToken::allowanceCall {
                owner: account,
                spender: chain.vault
            }
        ),
    )?;
    Ok(Sight {
        provider: Provider {
            id: provider,
            staker: known.staker,
            own: known.own,
            delegated: known.delegated,
            frozen: known.frozen,
            minimum,
            limit_bps: limit.saturating_to(),
            unbonding,
        },
        account: Account {
            address: account,
            balance,
            allowed,
            shares: delegation.shares,
            worth: delegation.amount,
            tickets: tickets
                .into_iter()
                .map(|ticket| Ticket {
                    id: ticket.id,
                    amount: ticket.amount,
                    unlocks: ticket.unlockAt,
                })
                .collect(),
        },
        token: chain.token.clone(),
        vault: chain.vault,
        now: chain.block.time,
    })
}

/// `stake`.
pub async fn add(args: &StakeArgs) -> Result<Told, PluginError> {
    let desk = Desk::open(&args.send).await?;
    let sight = look(&desk, args.provider).await?;
    let plan = sight.stake(args.amount.nano()).map_err(MoneyError::Unfit)?;
    desk.carry_out(plan, &args.send).await
}

/// `delegate`.
pub async fn delegate(args: &StakeArgs) -> Result<Told, PluginError> {
    let desk = Desk::open(&args.send).await?;
    let sight = look(&desk, args.provider).await?;
    let plan = sight
        .delegate(args.amount.nano())
        .map_err(MoneyError::Unfit)?;
    desk.carry_out(plan, &args.send).await
}

/// `unstake`.
pub async fn remove(args: &UnstakeArgs) -> Result<Told, PluginError> {
    take_back(args, Sight::unstake).await
}

/// `undelegate`.
pub async fn undelegate(args: &UnstakeArgs) -> Result<Told, PluginError> {
    take_back(args, Sight::undelegate).await
}

async fn take_back(
    args: &UnstakeArgs,
    ask: fn(&Sight, Option<u128>) -> Result<Plan, String>,
) -> Result<Told, PluginError> {
    let desk = Desk::open(&args.send).await?;
    let sight = look(&desk, args.provider).await?;
    let plan = match args.rebond {
        Some(ticket) => sight.rebond(ticket),
        None if args.withdraw => sight.withdraw(),
        None => ask(&sight, args.amount.map(gridstake_crds::TokenAmount::nano)),
    };
    desk.carry_out(plan.map_err(MoneyError::Unfit)?, &args.send)
        .await
}

#[cfg(test)]
#[path = "stake_tests.rs"]
mod tests;
