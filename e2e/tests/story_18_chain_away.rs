//! Story 18: the chain is away, or is not what is configured, or an agent's key is not in force. What runs goes on and is
//! metered; what is owed is paid once afterwards.

use gridstake_crds::{
    StakeBinding, condition,
    gpu_node::{OfferReason, OfferState},
    stake_binding::{StakeBindingCondition, StakeBindingReason},
};
use gridstake_e2e::{
    agent_process,
    contracts::StakeVault,
    market::{PRICE, until_offered_by},
    payer::Payer,
    prelude::*,
    provider::{ENOUGH_STAKE, Provider, binding_of, tokens},
    settlement_batch, usage,
    wait::watch_until,
};
use kube::Api;

#[test]
#[ignore = "long: waits for chain.maxStaleness; make test-long"]
fn while_the_chain_is_away_jobs_run_on_and_new_ones_are_admitted_until_the_last_look_is_too_old()
-> Result<()> {
    paid_story(async |world, tenant, market| {
        let chain = &market.chain;
        let deposit = tokens(100);
        let payer = Payer::of_tenant(chain, tenant, deposit).await?;
        let runs = tenant.submit(&job("runs", 1).runs_until_released()).await?;
        runs.until_running().await?;
        let uid = usage::uid(&runs).await?;

        chain.stop(world).await?;
        // Admitted by what was last seen.
        let admitted = tenant.submit(&job("admitted", 1).works_for(2)).await?;
        let done = admitted.until_complete().await?;
        let admitted_uid = usage::uid(&admitted).await?;
        ensure!(done.attempts.len() == 1, "{:?}", done.attempts);
        let while_away = usage::until(world, &uid, "two slices are sealed", |records| {
            let sealed = records.iter().filter(|r| usage::sealed(r).is_ok()).count();
            (sealed >= 2).then_some(sealed)
        })
        .await?;

        // When the last look is older than maxStaleness, new ones wait.
        runs.until_running().await?;
        until_the_chain_is_unavailable(world, market).await?;
        let waits = tenant.submit(&job("waits", 1).works_for(1)).await?;
        let message = waits
            .until_condition(
                ComputeJobCondition::Admitted,
                false,
                ComputeJobReason::ChainUnavailable,
            )
            .await?;
        ensure!(
            message.contains(&chain.name),
            "{message:?} does not name the chain"
        );
        let still = runs.status().await?;
        ensure!(
            still.active_placement().is_some() && still.attempts.is_empty(),
            "the job did not go on without the chain: {:?}",
            still.attempts
        );

        chain.start().await?;
        waits.until_complete().await?;
        runs.release().await?;
        runs.until_complete().await?;
        let mut records = usage::until_final(world, &uid).await?;
        ensure!(records.len() > while_away, "slices were lost");
        records.extend(usage::until_final(world, &admitted_uid).await?);
        records.extend(usage::until_final(world, &usage::uid(&waits).await?).await?);
        usage::assert_numbers_are_distinct(&records)?;
        let due = usage::due(&records)?;
        market
            .assert_paid(&due, &payer, u64::try_from(deposit.nano())?)
            .await?;
        Ok(())
    })
}

#[test]
fn a_node_whose_agents_key_was_revoked_or_made_anew_is_not_offered_until_it_is_certified()
-> Result<()> {
    paid_story(async |world, tenant, market| {
        let chain = &market.chain;
        let node = &world.hosts[0].name;
        let provider = Provider::register(chain, &tenant.namespace).await?;
        provider.stake(chain, ENOUGH_STAKE).await?;
        market.put_back_at_the_end(world, node)?;
        provider
            .take_over(&world.client, chain, node, PRICE)
            .await?;
        until_offered_by(&world.client, node, provider.id).await?;

        let revoke = StakeVault::revokeSessionsCall {
            provider: provider.id,
        };
        chain
            .send(provider.operator.address(), chain.vault, revoke)
            .await?;
        until_not_certified(world, node).await?;
        provider.certify(&world.client, chain, node, PRICE).await?;
        until_offered_by(&world.client, node, provider.id).await?;

        let before = key_of(world, node).await?;
        agent_process::install_anew(world, node).await?;
        until_not_certified(world, node).await?;
        let after = key_of(world, node).await?;
        ensure!(
            before != after,
            "an agent that was installed anew has the key {after} again"
        );
        provider.certify(&world.client, chain, node, PRICE).await?;
        until_offered_by(&world.client, node, provider.id).await
    })
}

#[test]
#[ignore = "long: waits for the minutely comparison, twice; make test-long"]
fn nothing_is_sent_to_a_chain_with_another_id_or_other_code_at_the_address() -> Result<()> {
    paid_story(async |world, tenant, market| {
        let chain = &market.chain;
        let deposit = tokens(100);
        let payer = Payer::of_tenant(chain, tenant, deposit).await?;
        let first = tenant.submit(&job("first", 1).works_for(2)).await?;
        first.until_complete().await?;
        let first_uid = usage::uid(&first).await?;
        let mut records = usage::until_final(world, &first_uid).await?;
        let batch = usage::settlement(&records[0])?.batch.clone();
        let sender = settlement_batch::batches(world)
            .get(&batch.context("the batch")?)
            .await?
            .status
            .and_then(|s| Some(s.attempts.last()?.from.clone()))
            .context("the sender of the batch")?
            .parse()?;

        let runs = tenant.submit(&job("runs", 1).runs_until_released()).await?;
        runs.until_running().await?;
        let uid = usage::uid(&runs).await?;
        for fault in ["code", "id"] {
            let code = match fault {
                "code" => Some(chain.alter_code(world, chain.settlement).await?),
                _ => {
                    chain.alter_id(world, chain.chain_id + 1).await?;
                    None
                }
            };
            for node in market.providers.keys() {
                until_it_does_not_match(world, node).await?;
            }
            // What was sent before is in a block now.
            chain.mine().await?;
            let sent = chain.transactions_of(sender).await?;
            let sealed = usage::until(world, &uid, "a slice is sealed meanwhile", |records| {
                let owed = records.iter().filter(|r| usage::sealed(r).is_ok());
                let waiting = owed.filter(|r| usage::settlement(r).is_err()).count();
                (waiting > 0).then_some(waiting)
            })
            .await?;
            // Time enough for a batch to be built and mined.
            chain.until_later(5).await?;
            ensure!(
                chain.transactions_of(sender).await? == sent,
                "something was sent to a chain that has another {fault}, with {sealed} slices owed"
            );
            match code {
                Some(code) => chain.mend_code(chain.settlement, &code).await?,
                None => chain.set_id(chain.chain_id).await?,
            }
            for (node, provider) in &market.providers {
                until_offered_by(&world.client, node, provider.id).await?;
            }
        }
        runs.release().await?;
        runs.until_complete().await?;
        records.extend(usage::until_final(world, &uid).await?);
        let due = usage::due(&records)?;
        let balance = payer.balance(chain).await?;
        ensure!(
            u64::try_from(deposit.nano())? - balance == due.paid(),
            "{balance} is left, due {due:?}"
        );
        Ok(())
    })
}

/// Waits until the operator does not go by its last look at the chain any more.
async fn until_the_chain_is_unavailable(world: &World, market: &Market) -> Result<()> {
    for node in market.providers.keys() {
        until_binding(
            world,
            node,
            StakeBindingCondition::ChainSynced,
            StakeBindingReason::ChainUnavailable,
        )
        .await?;
    }
    Ok(())
}

async fn until_it_does_not_match(world: &World, node: &str) -> Result<()> {
    until_binding(
        world,
        node,
        StakeBindingCondition::ContractMatch,
        StakeBindingReason::ContractMismatch,
    )
    .await
}

/// Waits until a condition of the node's binding is `False` for this reason.
async fn until_binding(
    world: &World,
    node: &str,
    which: StakeBindingCondition,
    reason: StakeBindingReason,
) -> Result<()> {
    let bindings: Api<StakeBinding> = Api::all(world.client.clone());
    let what = format!("{which} is False for {reason}");
    watch_until(&bindings, &binding_of(node), &what, |binding| {
        let status = binding?.status.as_ref()?;
        let stated = condition::find(&status.conditions, which)?;
        (stated.status == "False" && stated.reason == reason.to_string()).then_some(())
    })
    .await
}

async fn until_not_certified(world: &World, node: &str) -> Result<()> {
    let what = "is withheld because its agent's key is not certified";
    watch_until(&world.gpu_nodes(), node, what, |n| {
        let offer = n?.status.as_ref()?.offer.as_ref()?;
        (offer.state == OfferState::Withheld && offer.reason == OfferReason::KeyNotCertified)
            .then_some(())
    })
    .await
}

async fn key_of(world: &World, node: &str) -> Result<String> {
    watch_until(&world.gpu_nodes(), node, "shows a key", |n| {
        let status = n?.status.as_ref()?;
        Some(status.agent.as_ref()?.key.as_ref()?.address.clone())
    })
    .await
}
