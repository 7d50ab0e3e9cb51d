//! `claim`: takes out what can be taken out, and opens claims of what has been earned.

use alloy::{
    primitives::{Address, Bytes},
    sol_types::SolInterface as _,
};
use gridstake_contracts::{
    Settlement,
    StakeVault::{self, StakeVaultErrors},
};

use super::{
    Desk, MoneyError,
    args::ClaimArgs,
    escrow,
    plan::{Contract, Plan, Ready, Step},
    refusal::{self, time},
    stake::{self, gas},
    token::Token,
};
use crate::{Told, error::PluginError};

/// Gas of calls, by contracts/gas-snapshot/Settlement.json.
const CLAIM_GAS: u64 = 95_489;
const REQUEST_CLAIM_GAS: u64 = 100_662;

/// What a provider has earned and the account could take; amounts in nano-tokens, times in Unix seconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Takings {
    /// The provider.
    provider: u32,
    /// The account that sends.
    account: Address,
    /// The open claim of earnings, and when it is due.
    claim: Option<(u128, u64)>,
    /// Earned and in no claim, the fee and delegators' part of what is not divided yet included; `None` where no claim could be
    /// opened.
    earned: Option<u128>,
    /// How long a claim waits, in seconds.
    delay: u64,
    /// Who is paid.
    beneficiary: String,
    /// The account's rewards of what it has delegated.
    rewards: Rewards,
    /// Withdrawals that are due.
    withdrawals: Vec<Step>,
    /// Lines about what cannot be taken now.
    not_now: Vec<String>,
    /// The time of the block.
    now: u64,
}

/// The rewards of what an account has delegated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Rewards {
    /// There are none.
    #[default]
    None,
    /// A claim is due and pays this.
    Due(u128),
    /// A claim is open until this time.
    Open(u64),
    /// This much is earned and in no claim, or a little more.
    Earned(u128),
}

impl Takings {
    fn plan(self, token: &Token) -> Result<Plan, String> {
        let provider = self.provider;
        let mut plan = Plan::default();
        let mut is_claim_open = false;
        if let Some((amount, due)) = self.claim {
            let amount = token.amount(amount);
            if due <= self.now {
                plan.steps.push(Step::new(
                    format!(
                        "pay provider {provider}'s claim of {amount} to {}",
                        self.beneficiary
                    ),
                    Contract::Settlement,
                    &Settlement::claimCall { provider },
                    CLAIM_GAS,
                ));
            } else {
                is_claim_open = true;
                plan.now.push(format!(
                    "provider {provider}'s claim of {amount} is due at {}",
                    time(due)
                ));
            }
        }
        if let Some(earned) = self.earned.filter(|_| !is_claim_open) {
            let mut request = Step::new(
                format!(
                    "open a claim of what provider {provider} has earned: {}, less fee and delegators' part of what is not divided yet",
                    token.amount(earned)
                ),
                Contract::Settlement,
                &Settlement::requestClaimCall { provider },
                REQUEST_CLAIM_GAS,
            );
            if !plan.steps.is_empty() {
                request.ready = Ready::AfterStep;
            }
            plan.steps.push(request);
            if self.delay == 0 {
                let mut pay = Step::new(
                    format!("pay that claim to {}", self.beneficiary),
                    Contract::Settlement,
                    &Settlement::claimCall { provider },
                    CLAIM_GAS,
                );
                pay.ready = Ready::AfterStep;
                plan.steps.push(pay);
            } else {
                plan.then.push(format!(
                    "the claim can be paid from {}, by the same command",
                    time(self.now.saturating_add(self.delay))
                ));
            }
        }
        match self.rewards {
            Rewards::None => {}
            Rewards::Due(amount) => plan.steps.push(Step::new(
                format!(
                    "pay the account's claim of rewards of {}",
                    token.amount(amount)
                ),
                Contract::Vault,
                &StakeVault::claimRewardsCall {
                    provider,
                    delegator: self.account,
                },
                gas::CLAIM_REWARDS,
            )),
            Rewards::Open(due) => plan.now.push(format!(
                "the account's claim of rewards is due at {}",
                time(due)
            )),
            Rewards::Earned(amount) => {
                plan.steps.push(Step::new(
                    format!(
                        "open a claim of the rewards of what the account has delegated: {} or more",
                        token.amount(amount)
                    ),
                    Contract::Vault,
                    &StakeVault::requestRewardsCall { provider },
                    gas::REQUEST_REWARDS,
                ));
                plan.then
                    .push("the rewards can be paid when that claim is due".to_owned());
            }
        }
        plan.steps.extend(self.withdrawals);
        plan.now.extend(self.not_now);
        if plan.steps.is_empty() {
            let lines = if plan.now.is_empty() {
                "there is nothing".to_owned()
            } else {
                plan.now.join("; ")
            };
            return Err(format!("--provider: nothing can be taken out now: {lines}"));
        }
        Ok(plan)
    }
}

/// What a call of `claimRewards` would come to: what it pays, when it is due, or nothing.
fn rewards(claimed: &Result<u128, Bytes>) -> Option<Rewards> {
    match claimed {
        Ok(amount) => Some(Rewards::Due(*amount)),
        Err(data) => match StakeVaultErrors::abi_decode(data) {
            Ok(StakeVaultErrors::TooEarly(error)) => Some(Rewards::Open(error.deadline)),
            _ => None,
        },
    }
}

async fn look(desk: &Desk, provider: u32) -> Result<Takings, MoneyError> {
    let (chain, account) = (&desk.chain, desk.account);
    let sight = stake::look(desk, provider).await?;
    let settlement = Contract::Settlement;
    let (claim, earned, credit, delay, known) = tokio::try_join!(
        chain.read(
            "read the open claim",
            settlement,
            Settlement::claimOfCall { provider }
        ),
        chain.read(
            "read what is earned",
            settlement,
            Settlement::earnedOfCall { provider }
        ),
        chain.read(
            "read the credit",
            settlement,
            Settlement::creditOfCall { provider }
        ),
        chain.read(
            "read the claim delay",
            settlement,
            Settlement::claimDelayCall {}
        ),
        chain.read(
            "look for the provider",
            Contract::Vault,
            StakeVault::providerOfCall { provider }
        ),
    )?;
    let (request, paid, opened, owed) = tokio::try_join!(
        chain.would(
            "ask whether a claim can be opened",
            account,
            settlement,
            Settlement::requestClaimCall { provider }
        ),
        chain.would(
            "ask whether rewards can be paid",
            account,
            Contract::Vault,
            StakeVault::claimRewardsCall {
                provider,
                delegator: account
            }
        ),
        chain.would(
            "ask whether a claim of rewards can be opened",
            account,
            Contract::Vault,
            StakeVault::requestRewardsCall { provider }
        ),
        chain.read(
            "read the account's rewards",
            Contract::Vault,
            StakeVault::rewardsOfCall {
                provider,
                delegator: account
            }
        ),
    )?;
    let is_open = claim.amount > 0;
    let sum = u128::from(earned).saturating_add(credit.into());
    let rewards = rewards(&paid).unwrap_or(if opened.is_ok() {
        Rewards::Earned(owed)
    } else {
        Rewards::None
    });
    let (withdrawals, not_now) = withdrawals(desk, &sight).await?;
    Ok(Takings {
        provider,
        account,
        claim: is_open.then_some((claim.amount.into(), claim.due)),
        // While a claim is open the contract cannot say whether another one can be opened after it.
        earned: (sum > 0 && (request.is_ok() || is_open)).then_some(sum),
        delay,
        beneficiary: known.beneficiary.to_string(),
        rewards,
        withdrawals,
        not_now,
        now: chain.block.time,
    })
}

/// The withdrawals that can be made now, and lines about what cannot be taken yet.
async fn withdrawals(
    desk: &Desk,
    sight: &stake::Sight,
) -> Result<(Vec<Step>, Vec<String>), MoneyError> {
    let chain = &desk.chain;
    let (mut due, mut not_now) = (Vec::new(), Vec::new());
    for step in sight.withdrawals() {
        let block = chain.block.number;
        match chain.revert(desk.account, &step.call, block).await? {
            None => due.push(step),
            Some(data) => {
                let refusal = refusal::of(&data, &chain.token);
                not_now.push(format!("{}: {}", step.what, refusal.next));
            }
        }
    }
    let mut tickets = sight.account.tickets.iter();
    if tickets.any(|one| one.unlocks > sight.now) {
        not_now.extend(sight.tickets());
    }
    Ok((due, not_now))
}

/// Takes out what can be taken out.
pub async fn run(args: &ClaimArgs) -> Result<Told, PluginError> {
    let desk = Desk::open(&args.send).await?;
    let plan = match (args.provider, args.payer) {
        (Some(provider), _) => look(&desk, provider).await?.plan(&desk.chain.token),
        (None, Some(payer)) => {
            let lane = desk.lane(args.lane)?;
            escrow::look(&desk, lane, payer).await?.withdraw()
        }
        (None, None) => Err("--provider or --payer: say whose money is meant".to_owned()),
    };
    desk.carry_out(plan.map_err(MoneyError::Unfit)?, &args.send)
        .await
}

#[cfg(test)]
mod tests {
    use alloy::sol_types::SolError as _;

    use super::*;
    use crate::money::token::tests::token;

    const NOW: u64 = 1_800_000_000;

    fn takings() -> Takings {
        Takings {
            provider: 7,
            delay: 86_400,
            beneficiary: "0xBe".to_owned(),
            now: NOW,
            ..Takings::default()
        }
    }

    fn whats(takings: Takings) -> Vec<String> {
        let plan = takings.plan(&token(18)).unwrap();
        plan.steps.into_iter().map(|step| step.what).collect()
    }

    #[test]
    fn a_claim_that_is_due_is_paid_and_what_was_earned_since_is_claimed() {
        let due = Takings {
            claim: Some((2_000_000_000, NOW)),
            earned: Some(1_000_000_000),
            ..takings()
        };
        let plan = due.plan(&token(18)).unwrap();
        assert_eq!(
            plan.steps[0].what,
            "pay provider 7's claim of 2 GRID to 0xBe"
        );
        assert_eq!(plan.steps[0].ready, Ready::Now);
        assert!(plan.steps[1].what.starts_with("open a claim"));
        assert_eq!(plan.steps[1].ready, Ready::AfterStep);
        assert_eq!(plan.steps.len(), 2);
        assert_eq!(
            plan.then,
            ["the claim can be paid from 2027-01-16T08:00:00Z, by the same command"]
        );
    }

    #[test]
    fn while_a_claim_is_open_no_other_is_asked_for() {
        let open = Takings {
            claim: Some((2_000_000_000, NOW + 1)),
            earned: Some(1_000_000_000),
            ..takings()
        };
        let words = open.plan(&token(18)).unwrap_err();
        assert!(
            words.ends_with("claim of 2 GRID is due at 2027-01-15T08:00:01Z"),
            "{words}"
        );
    }

    #[test]
    fn without_a_delay_a_claim_is_paid_at_once() {
        let at_once = Takings {
            earned: Some(1),
            delay: 0,
            ..takings()
        };
        let plan = at_once.plan(&token(18)).unwrap();
        assert_eq!(plan.steps.len(), 2);
        assert_eq!(
            (plan.steps[0].ready, plan.steps[1].ready),
            (Ready::Now, Ready::AfterStep)
        );
        assert!(plan.then.is_empty());
    }

    #[test]
    fn a_delegators_rewards_are_claimed_and_paid_in_two_steps() {
        let of = |rewards| Takings {
            rewards,
            ..takings()
        };
        assert!(whats(of(Rewards::Earned(5)))[0].contains("0.000000005 GRID or more"));
        assert!(whats(of(Rewards::Due(5)))[0].starts_with("pay the account's claim"));
        let words = of(Rewards::Open(NOW + 60)).plan(&token(18)).unwrap_err();
        assert!(words.contains("due at 2027-01-15T08:01:00Z"), "{words}");
    }

    #[test]
    fn where_there_is_nothing_that_is_said() {
        let words = takings().plan(&token(18)).unwrap_err();
        assert!(words.ends_with("there is nothing"), "{words}");
    }

    #[test]
    fn the_vault_says_whether_rewards_are_due_by_what_a_claim_would_do() {
        let early = StakeVault::TooEarly { deadline: 9 }.abi_encode();
        assert_eq!(rewards(&Ok(3)), Some(Rewards::Due(3)));
        assert_eq!(rewards(&Err(early.into())), Some(Rewards::Open(9)));
        let none = StakeVault::AmountZero {}.abi_encode();
        assert_eq!(rewards(&Err(none.into())), None);
    }
}
