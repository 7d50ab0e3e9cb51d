//! Story 12: a node without enough stake behind it gets no job; staking makes it eligible at once, and stake that is taken
//! out is paid back after seven days, to the second.

use gridstake_crds::{
    condition,
    gpu_node::{GpuNodeCondition, GpuNodeReason, OfferReason, OfferState},
};
use gridstake_e2e::{
    container::restarts,
    contracts::StakeVault,
    market::{PRICE, until_offered_by},
    payer::Payer,
    prelude::*,
    provider::{Provider, nano, tokens},
    wait::watch_until,
};
use kube::ResourceExt as _;

/// Seven days.
const UNBONDING: u64 = 604_800;

#[test]
fn an_unbonded_node_gets_no_job_and_staking_makes_it_eligible_without_a_restart() -> Result<()> {
    paid_story(async |world, tenant, market| {
        let chain = &market.chain;
        Payer::of_tenant(chain, tenant, tokens(10)).await?;
        let (poor, others) = world.one_and_the_others()?;
        let replicas = operators(world).await?;
        let staker = takes_over(world, tenant, market, &poor.name).await?;
        until_it_lacks_stake(world, &poor.name).await?;

        let refused = tenant
            .submit(&job("refused", 1).on_node(&poor.name).works_for(1))
            .await?;
        let message = refused.until_it_waits().await?;
        ensure!(
            message.contains("NotOffered (Unbonded)"),
            "it does not say that stake is missing: {message:?}"
        );
        let elsewhere = tenant.submit(&job("elsewhere", 1).works_for(1)).await?;
        let nodes = elsewhere
            .until_complete()
            .await?
            .placement
            .context("status.placement")?
            .nodes;
        ensure!(
            others.iter().any(|h| h.name == nodes[0].node),
            "it ran on {}",
            nodes[0].node
        );

        // The minimum is not enough: more than it is asked for.
        staker.stake(chain, tokens(20_000)).await?;
        let provider = staker.id;
        let bonded = StakeVault::isBondedCall {
            provider,
            role: StakeVault::Role::Miner,
        };
        ensure!(
            !chain.view(chain.vault, bonded.clone()).await?,
            "20,000 tokens are enough"
        );
        chain.until_later(2).await?;
        ensure!(
            refused.status().await?.placement.is_none(),
            "a job was placed on a node with no more than the minimum stake"
        );
        staker.stake(chain, nano(1)).await?;
        ensure!(
            chain.view(chain.vault, bonded).await?,
            "one nano-token more is not enough"
        );
        until_offered_by(&world.client, &poor.name, provider).await?;
        let placed = refused
            .until_complete()
            .await?
            .placement
            .context("status.placement")?;
        ensure!(
            placed.nodes[0].node == poor.name && placed.nodes[0].provider_id == Some(provider),
            "{placed:?}"
        );
        ensure!(
            operators(world).await? == replicas,
            "the operator was started again"
        );
        Ok(())
    })
}

#[test]
fn unstaking_is_refused_at_604_799_seconds_and_pays_at_604_800() -> Result<()> {
    paid_story(async |world, tenant, market| {
        let chain = &market.chain;
        let node = &world.hosts[0].name;
        let staker = takes_over(world, tenant, market, node).await?;
        let stake = tokens(25_000);
        staker.stake(chain, stake).await?;
        until_offered_by(&world.client, node, staker.id).await?;

        let provider = staker.id;
        let owner = staker.staker.address();
        let ask = StakeVault::requestUnbondCall {
            provider,
            amount: stake.nano(),
        };
        let receipt = chain.send(owner, chain.vault, ask).await?;
        until_it_lacks_stake(world, node).await?;
        let tickets = chain
            .view(
                chain.vault,
                StakeVault::ticketsOfCall {
                    provider,
                    account: owner,
                },
            )
            .await?;
        ensure!(
            tickets.len() == 1 && tickets[0].amount == stake.nano(),
            "{tickets:?}"
        );
        let ticket = tickets[0].id;
        let asked_at = chain
            .block_time(receipt.block_number.context("the block")?)
            .await?;
        ensure!(
            tickets[0].unlockAt == asked_at + UNBONDING,
            "asked for at {asked_at}, due at {}",
            tickets[0].unlockAt
        );

        // No other block may come between.
        chain.mine_only_on_demand(world).await?;
        let withdraw = StakeVault::withdrawCall { provider, ticket };
        chain.mine_at(asked_at + UNBONDING - 1).await?;
        let refused: StakeVault::StakeVaultErrors =
            chain.refusal(owner, chain.vault, withdraw.clone()).await?;
        ensure!(
            matches!(&refused, StakeVault::StakeVaultErrors::StillLocked(at) if at.unlockAt == asked_at + UNBONDING),
            "at 604,799 s it is refused with {refused:?}"
        );
        chain.mine_at(asked_at + UNBONDING).await?;
        let pays = chain.view_as(owner, chain.vault, withdraw.clone()).await?;
        ensure!(pays == stake.nano(), "at 604,800 s it pays {pays}");
        let before = chain.tokens_of(owner).await?;
        chain.send(owner, chain.vault, withdraw).await?;
        let paid = chain.tokens_of(owner).await? - before;
        ensure!(
            paid == chain.units(stake).await?,
            "{paid} of the token's smallest unit were paid"
        );
        Ok(())
    })
}

/// A new provider without stake takes the node over.
async fn takes_over(
    world: &World,
    tenant: &Tenant,
    market: &Market,
    node: &str,
) -> Result<Provider> {
    let provider = Provider::register(&market.chain, &tenant.namespace).await?;
    market.put_back_at_the_end(world, node)?;
    provider
        .take_over(&world.client, &market.chain, node, PRICE)
        .await?;
    Ok(provider)
}

async fn until_it_lacks_stake(world: &World, node: &str) -> Result<()> {
    watch_until(
        &world.gpu_nodes(),
        node,
        "is withheld for want of stake",
        |n| {
            let status = n?.status.as_ref()?;
            let bonded = condition::find(&status.conditions, GpuNodeCondition::Bonded)?;
            let offer = status.offer.as_ref()?;
            let withheld =
                offer.state == OfferState::Withheld && offer.reason == OfferReason::Unbonded;
            let lacks = bonded.status == "False"
                && bonded.reason == GpuNodeReason::StakeTooSmall.to_string();
            (withheld && lacks).then_some(())
        },
    )
    .await
}

/// The operator's replicas: name and how often each was started again.
async fn operators(world: &World) -> Result<Vec<(String, i32)>> {
    let pods = world.pods_of("operator").await?;
    let mut replicas: Vec<_> = pods.iter().map(|p| (p.name_any(), restarts(p))).collect();
    replicas.sort();
    Ok(replicas)
}
