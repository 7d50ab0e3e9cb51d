//! Story 17: an offence costs stake, after time to answer: proposed, 48 h, cut; disputed and not upheld, everything is as
//! before; stake on its way out is reached, too; and all of it is not to be had by one key.

use alloy::primitives::{B256, U256, keccak256};
use gridstake_crds::incident::{CancellationReason, IncidentState, Sanction};
use gridstake_e2e::{
    chain::{Chain, DEPLOYER},
    contracts::StakeVault,
    incident::Case,
    plugin_user::PluginUser,
    prelude::*,
    provider::{Provider, tokens},
};

/// 48 hours.
const TIME_TO_ANSWER: u64 = 172_800;
const STAKE: u64 = 30_000;
const SLASH: u64 = 5_000;
/// A fifth of [`STAKE`]: what the slash key alone may freeze within seven days.
const CAP: u64 = 6_000;
/// What the provider says to it.
const ANSWER: &str = "the devices are there: see the photograph of rack 7";

#[test]
fn stake_is_cut_48_hours_after_a_proposal_that_nobody_answers_also_while_it_is_on_its_way_out()
-> Result<()> {
    paid_story(async |world, tenant, market| {
        let chain = &market.chain;
        let [staying, leaving] = staked(chain, tenant, ["staying", "leaving"]).await?;
        let all = StakeVault::requestUnbondCall {
            provider: leaving.id,
            amount: tokens(STAKE).nano(),
        };
        chain
            .send(leaving.staker.address(), chain.vault, all)
            .await?;
        let mut cases = Vec::new();
        for provider in [&staying, &leaving] {
            let name = format!("{}-{}", tenant.namespace, provider.id);
            cases.push(Case::open(world, chain, provider, &name, tokens(SLASH)).await?);
        }
        let mut due = 0;
        for (case, provider) in cases.iter().zip([&staying, &leaving]) {
            let proposed = case.until(IncidentState::Proposed).await?;
            let proposal = proposed.proposal.as_ref().context("status.proposal")?;
            ensure!(
                proposal.frozen == tokens(SLASH),
                "{} is frozen",
                proposal.frozen
            );
            let slash = chain
                .view(
                    chain.vault,
                    StakeVault::slashOfCall {
                        id: Case::slash(&proposed)?,
                    },
                )
                .await?;
            let made = chain.block_time(proposal.inclusion.block.number).await?;
            ensure!(
                slash.disputeUntil == made + TIME_TO_ANSWER && slash.provider == provider.id,
                "{slash:?}, proposed at {made}"
            );
            let on_chain = provider.on_chain(chain).await?;
            ensure!(on_chain.frozen == tokens(SLASH).nano(), "{on_chain:?}");
            due = due.max(slash.disputeUntil);
        }

        // Until the last second it is only frozen.
        let first = cases[0].until(IncidentState::Proposed).await?;
        let early: StakeVault::StakeVaultErrors = chain
            .refusal(
                DEPLOYER,
                chain.vault,
                StakeVault::finalizeSlashCall {
                    id: Case::slash(&first)?,
                },
            )
            .await?;
        ensure!(
            matches!(early, StakeVault::StakeVaultErrors::TooEarly(_)),
            "{early:?}"
        );
        chain.warp_to(due + 1).await?;

        let cut = cases[0].until(IncidentState::Executed).await?.execution;
        let cut = cut.context("status.execution")?;
        ensure!(
            cut.from_stake == tokens(SLASH) && cut.from_unbonding == tokens(0),
            "{cut:?}"
        );
        let left = staying.on_chain(chain).await?;
        ensure!(
            left.own == tokens(STAKE - SLASH).nano() && left.frozen == 0,
            "{left:?}"
        );

        let cut = cases[1].until(IncidentState::Executed).await?.execution;
        let cut = cut.context("status.execution")?;
        ensure!(
            cut.from_stake == tokens(0) && cut.from_unbonding == tokens(SLASH),
            "{cut:?}"
        );
        // What is left of it is paid when its time is over.
        let (provider, owner) = (leaving.id, leaving.staker.address());
        let tickets = chain
            .view(
                chain.vault,
                StakeVault::ticketsOfCall {
                    provider,
                    account: owner,
                },
            )
            .await?;
        ensure!(tickets.len() == 1, "{tickets:?}");
        chain.warp_to(tickets[0].unlockAt).await?;
        let before = chain.tokens_of(owner).await?;
        let withdraw = StakeVault::withdrawCall {
            provider,
            ticket: tickets[0].id,
        };
        chain.send(owner, chain.vault, withdraw).await?;
        let paid = chain.tokens_of(owner).await? - before;
        ensure!(
            paid == chain.units(tokens(STAKE - SLASH)).await?,
            "{paid} of the token's smallest unit were paid"
        );
        Ok(())
    })
}

#[test]
fn a_proposal_that_is_disputed_and_not_upheld_leaves_every_balance_as_it_was_to_the_wei()
-> Result<()> {
    paid_story(async |world, tenant, market| {
        let chain = &market.chain;
        let [accused] = staked(chain, tenant, ["accused"]).await?;
        let before = holdings(chain, &accused).await?;
        let name = format!("{}-{}", tenant.namespace, accused.id);
        let case = Case::open(world, chain, &accused, &name, tokens(SLASH)).await?;
        let proposed = case.until(IncidentState::Proposed).await?;
        let id = Case::slash(&proposed)?;
        ensure!(
            accused.on_chain(chain).await?.frozen == tokens(SLASH).nano(),
            "nothing is frozen"
        );

        let user = PluginUser::of(accused.operator.clone())?;
        let evidence = user.file("evidence");
        std::fs::write(&evidence, ANSWER)?;
        let line = format!("dispute {name} --evidence {}", evidence.display());
        user.sends(chain, &line).await?;
        case.until(IncidentState::Disputed).await?;
        let told = case.until_answered().await?;
        ensure!(
            told.counter_evidence_hash.parse::<B256>()? == keccak256(ANSWER),
            "{told:?}"
        );
        // A disputed slash is not cut when the 48 h are over.
        let over = StakeVault::slashOfCall { id };
        let until = chain.view(chain.vault, over).await?.disputeUntil;
        chain.warp_to(until + 1).await?;
        chain.until_later(3).await?;
        case.until(IncidentState::Disputed).await?;

        let nothing = StakeVault::resolveSlashCall { id, upheld: 0 };
        chain.send(DEPLOYER, chain.vault, nothing).await?;
        let closed = case.until(IncidentState::Cancelled).await?;
        ensure!(
            closed.cancellation == Some(CancellationReason::NotUpheld)
                && closed.execution.is_none(),
            "{closed:?}"
        );
        let after = holdings(chain, &accused).await?;
        ensure!(after == before, "{before:?} became {after:?}");
        Ok(())
    })
}

#[test]
fn of_a_full_slash_the_operators_key_gets_a_fifth_of_the_stake_and_no_more_within_a_week()
-> Result<()> {
    paid_story(async |world, tenant, market| {
        let chain = &market.chain;
        let [accused] = staked(chain, tenant, ["all"]).await?;
        let all = (Sanction::FullSlash, tokens(STAKE));
        let name = format!("{}-{}", tenant.namespace, accused.id);
        let case = Case::open_with(world, chain, &accused, &name, all).await?;
        let proposed = case.until(IncidentState::Proposed).await?;
        let frozen = proposed.proposal.as_ref().map(|proposal| proposal.frozen);
        ensure!(frozen == Some(tokens(CAP)), "{frozen:?} is frozen");
        let shown = case.shown().await?;
        ensure!(
            shown.iter().any(|word| word == "FullSlash"),
            "kubectl get incidents shows {shown:?}"
        );

        // More is to be had from the arbiter alone, and from nobody by stating the same again.
        let again = format!("{name}-again");
        let second = Case::open_with(world, chain, &accused, &again, all).await?;
        second.until_refused("FreezeCapReached").await?;

        let over = StakeVault::slashOfCall {
            id: Case::slash(&proposed)?,
        };
        let until = chain.view(chain.vault, over).await?.disputeUntil;
        chain.warp_to(until + 1).await?;
        let cut = case.until(IncidentState::Executed).await?.execution;
        let cut = cut.context("status.execution")?;
        ensure!(cut.from_stake == tokens(CAP), "{cut:?}");
        let left = accused.on_chain(chain).await?;
        ensure!(
            left.own == tokens(STAKE - CAP).nano() && left.frozen == 0,
            "{left:?}"
        );
        Ok(())
    })
}

/// New providers with [`STAKE`], which stand for no node.
async fn staked<const N: usize>(
    chain: &Chain,
    tenant: &Tenant,
    names: [&str; N],
) -> Result<[Provider; N]> {
    let mut providers = Vec::new();
    for name in names {
        let provider = Provider::register(chain, &format!("{} {name}", tenant.namespace)).await?;
        provider.stake(chain, tokens(STAKE)).await?;
        providers.push(provider);
    }
    providers
        .try_into()
        .map_err(|_| anyhow::anyhow!("there are not {N} providers"))
}

/// What a provider and everybody around it holds: stake (own, delegated, unbonding, frozen), tokens of its staker and
/// beneficiary, of the vault, and of whoever gets what is slashed.
async fn holdings(chain: &Chain, provider: &Provider) -> Result<([u128; 4], [U256; 4])> {
    let stake = provider.on_chain(chain).await?;
    let mut tokens = [U256::ZERO; 4];
    let accounts = [
        provider.staker.address(),
        provider.beneficiary,
        chain.vault,
        DEPLOYER,
    ];
    for (held, account) in tokens.iter_mut().zip(accounts) {
        *held = chain.tokens_of(account).await?;
    }
    Ok((
        [stake.own, stake.delegated, stake.unbonding, stake.frozen],
        tokens,
    ))
}
