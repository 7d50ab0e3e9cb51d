//! Story 21: delegators and commission. What a provider earns is divided at its epochs by a cumulative index: who comes
//! late gets nothing of what was earned before.

use std::time::Duration;

use alloy::primitives::{Address, U256};
use gridstake_e2e::{
    account::Account,
    chain::Chain,
    contracts::{Settlement, StakeVault},
    payer::Payer,
    prelude::*,
    provider::{ENOUGH_STAKE, Provider, nano, tokens},
    usage,
};

const BPS: u64 = 10_000;
/// The provider's commission: 10 %.
const COMMISSION: u16 = 1_000;
const DELEGATED: u64 = 10_000;
/// From a delegator's request to its payment.
const REWARDS_DELAY: Duration = Duration::from_hours(24);

#[test]
fn an_epochs_credit_is_split_by_stake_and_a_late_delegator_gets_nothing_of_earlier_epochs()
-> Result<()> {
    paid_story(async |world, tenant, market| {
        let chain = &market.chain;
        Payer::of_tenant(chain, tenant, tokens(10)).await?;
        let node = &world.hosts[0].name;
        let provider = market.provider(node)?;
        let commission = StakeVault::setCommissionCall {
            provider: provider.id,
            bps: COMMISSION,
        };
        chain
            .send(provider.staker.address(), chain.vault, commission)
            .await?;
        // A commission rises only after the time that delegators need to leave.
        let notice = chain
            .view(chain.vault, StakeVault::unbondingTimeCall {})
            .await?;
        chain.warp(Duration::from_secs(notice)).await?;
        let early = delegate(chain, tenant, provider, "early").await?;

        let first = earn(world, tenant, market, node, "first").await?;
        divide(chain, provider).await?;
        let late = delegate(chain, tenant, provider, "late").await?;
        let second = earn(world, tenant, market, node, "second").await?;
        divide(chain, provider).await?;

        // As docs/settlement.md says, counted once more here: fee, delegators by stake less commission, the rest.
        let (own, one) = (ENOUGH_STAKE.nano(), tokens(DELEGATED).nano());
        let fee = chain
            .view(chain.settlement, Settlement::feeBpsCall {})
            .await?;
        let (to_delegators_1, to_provider_1) = split(first, fee, own, one)?;
        let (to_delegators_2, to_provider_2) = split(second, fee, own, 2 * one)?;
        let (shares_early, shares_late) = (
            shares(chain, provider, &early).await?,
            shares(chain, provider, &late).await?,
        );
        let index_1 = index(to_delegators_1, shares_early);
        let index_2 = index_1 + index(to_delegators_2, shares_early + shares_late);
        for (who, account, from, held) in [
            ("early", &early, U256::ZERO, shares_early),
            ("late", &late, index_1, shares_late),
        ] {
            // The index was rounded down when it rose, so a whole amount comes out a hair (2^-64) below itself.
            let hair = (U256::from(1) << 64) - U256::from(1);
            let expected = (held * (index_2 - from) + hair) >> 128;
            let owed = rewards(chain, provider, account.address()).await?;
            ensure!(
                U256::from(owed) == expected && owed > 0,
                "the {who} delegator is owed {owed}, not {expected}"
            );
        }
        let earned = chain
            .view(
                chain.settlement,
                Settlement::earnedOfCall {
                    provider: provider.id,
                },
            )
            .await?;
        ensure!(
            earned == to_provider_1 + to_provider_2,
            "the provider earned {earned}, not {to_provider_1} and {to_provider_2}"
        );

        // Both parts are paid out.
        let owed = rewards(chain, provider, late.address()).await?;
        let request = StakeVault::requestRewardsCall {
            provider: provider.id,
        };
        chain.send(late.address(), chain.vault, request).await?;
        chain.warp(REWARDS_DELAY).await?;
        let claim = StakeVault::claimRewardsCall {
            provider: provider.id,
            delegator: late.address(),
        };
        chain.send(late.address(), chain.vault, claim).await?;
        let paid = chain.tokens_of(late.address()).await?;
        let units = chain.units(nano(owed)).await?;
        ensure!(paid == units, "the late delegator got {paid}, not {units}");
        let paid = provider.claim(chain).await?;
        let units = chain.units(nano(earned.into())).await?;
        ensure!(paid == units, "the beneficiary got {paid}, not {units}");
        Ok(())
    })
}

/// A new account that delegates [`DELEGATED`] to the provider, which is all that it has.
async fn delegate(
    chain: &Chain,
    tenant: &Tenant,
    provider: &Provider,
    who: &str,
) -> Result<Account> {
    let account = chain
        .account(&format!("{} {who} delegator", tenant.namespace))
        .await?;
    let amount = tokens(DELEGATED);
    chain
        .give_tokens(account.address(), amount, chain.vault)
        .await?;
    let call = StakeVault::delegateCall {
        provider: provider.id,
        amount: amount.nano(),
    };
    chain.send(account.address(), chain.vault, call).await?;
    Ok(account)
}

/// Runs a job on the node and returns what its provider is credited for it.
async fn earn(
    world: &World,
    tenant: &Tenant,
    market: &Market,
    node: &str,
    name: &str,
) -> Result<u64> {
    let provider = market.provider(node)?.id;
    let works = tenant
        .submit(&job(name, 1).on_node(node).works_for(3))
        .await?;
    works.until_complete().await?;
    let records = usage::until_final(world, &usage::uid(&works).await?).await?;
    let due = usage::due(&records)?.credit(provider);
    let credit = market.chain.credit(provider).await?;
    ensure!(
        credit == due && credit > 0,
        "the provider is credited {credit}, due {due}"
    );
    Ok(credit)
}

/// Ends an epoch: what is credited is divided.
async fn divide(chain: &Chain, provider: &Provider) -> Result<()> {
    let call = Settlement::divideCall {
        provider: provider.id,
    };
    let anyone = provider.operator.address();
    chain.send(anyone, chain.settlement, call).await?;
    let left = chain.credit(provider.id).await?;
    ensure!(left == 0, "{left} is not divided");
    Ok(())
}

/// What delegators and the provider get of a credit, in nano-tokens.
fn split(credit: u64, fee_bps: u16, own: u128, delegated: u128) -> Result<(u64, u64)> {
    let fee = u64::try_from(u128::from(credit) * u128::from(fee_bps) / u128::from(BPS))?;
    let share = credit - fee;
    let theirs = u128::from(share) * delegated / (delegated + own);
    let to_delegators =
        u64::try_from(theirs * u128::from(BPS - u64::from(COMMISSION)) / u128::from(BPS))?;
    Ok((to_delegators, share - to_delegators))
}

/// By how much the index of rewards rises: rewards of one share, times 2^128.
fn index(to_delegators: u64, shares: U256) -> U256 {
    (U256::from(to_delegators) << 128) / shares
}

async fn shares(chain: &Chain, provider: &Provider, delegator: &Account) -> Result<U256> {
    let call = StakeVault::delegationOfCall {
        provider: provider.id,
        delegator: delegator.address(),
    };
    let delegation = chain.view(chain.vault, call).await?;
    ensure!(
        delegation.amount == tokens(DELEGATED).nano(),
        "the delegation is worth {}",
        delegation.amount
    );
    Ok(U256::from(delegation.shares))
}

async fn rewards(chain: &Chain, provider: &Provider, delegator: Address) -> Result<u128> {
    let call = StakeVault::rewardsOfCall {
        provider: provider.id,
        delegator,
    };
    chain.view(chain.vault, call).await
}
