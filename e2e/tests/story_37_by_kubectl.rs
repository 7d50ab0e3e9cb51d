//! Story 37: a stranger becomes a bonded provider, and a payer's money pays for a job, by the kubectl plugin alone.

use std::time::Duration;

use gridstake_crds::{
    StakeBinding, condition,
    stake_binding::{StakeBindingCondition, StakeBindingReason},
};
use gridstake_e2e::{
    chain::{Chain, DEPLOYER},
    command::{kubectl, plugin},
    contracts::{StakeVault, Token},
    market::until_offered_by,
    plugin_user::PluginUser,
    prelude::*,
    provider::{remove_binding, tokens, unbind},
    tenant,
    wait::watch_until,
};
use kube::Api;
use serde_json::Value;

/// Longer than all stories together let the chain's clock jump.
const LONG: &str = "7300d";

/// Somebody with coins for gas and `whole` tokens.
async fn user(chain: &Chain, name: &str, whole: u64) -> Result<PluginUser> {
    let account = chain.account(name).await?;
    if whole > 0 {
        let amount = chain.units(tokens(whole)).await?;
        let to = account.address();
        let call = Token::transferCall { to, amount };
        chain.send(DEPLOYER, chain.token, call).await?;
    }
    PluginUser::of(account)
}

/// The number of an account in an event.
fn number(event: &Value, field: &str) -> Result<u64> {
    let number = event.get(field).and_then(Value::as_u64);
    number.with_context(|| format!("{field} in {event}"))
}

#[test]
fn a_stranger_provides_a_node_and_a_payer_pays_for_its_use_by_the_plugin_alone() -> Result<()> {
    paid_story(async |world, tenant, market| {
        let chain = &market.chain;
        let node = &world.hosts[0].name;
        market.put_back_at_the_end(world, node)?;
        unbind(&world.client, node).await?;
        let count = chain
            .view(chain.vault, StakeVault::providerCountCall {})
            .await?;
        let staker = user(chain, &format!("stranger {count}"), 25_000).await?;
        let operator = user(chain, &format!("stranger's operator {count}"), 0).await?;

        let registered = staker
            .sends(
                chain,
                &format!(
                    "register provider --operator {}",
                    operator.account.address()
                ),
            )
            .await?;
        let provider = u32::try_from(number(&registered, "provider")?)?;
        let binding = format!("provider-{provider}");
        let (client, name) = (world.client.clone(), binding.clone());
        world.undo_at_the_end(format!("remove StakeBinding {binding}"), async move {
            remove_binding(&client, &name).await
        });
        let line = format!(
            "bind --provider {provider} --node {node} --yes --rpc {}",
            chain.url
        );
        let told = plugin(line.split(' ')).await?;
        ensure!(told.status == 0, "{told:?}");
        // A story that is killed leaves nothing that the next one does not find.
        kubectl([
            "label",
            "stakebinding",
            &binding,
            &format!("{}=true", tenant::LABEL),
        ])
        .await?;
        until_bonded(world, &binding, StakeBindingReason::StakeTooSmall).await?;

        let stake = format!("stake --provider {provider} --amount 25000");
        staker.sends(chain, &stake).await?;
        until_bonded(world, &binding, StakeBindingReason::StakeSuffices).await?;
        let certify = format!(
            "certify --node {node} --provider {provider} --chain-id {} --vault {} --price 0.001 --not-after {LONG}",
            chain.chain_id, chain.vault
        );
        operator.runs(&certify).await?;
        // It cannot be paid before its cooling is over; then the operator activates it.
        let known = chain
            .view(chain.vault, StakeVault::providerOfCall { provider })
            .await?;
        chain.warp_to(known.payableAt).await?;
        until_offered_by(&world.client, node, provider).await?;

        let payer = user(chain, &format!("stranger's payer {count}"), 10).await?;
        let registered = payer.sends(chain, "register payer").await?;
        let number = number(&registered, "payer")?;
        payer
            .sends(chain, &format!("deposit --payer {number} --amount 10"))
            .await?;
        let consent = format!(
            "consent --namespace {} --payer {number} --lane {} --chain-id {} --settlement {} --daily-cap 100 --expires {LONG}",
            tenant.namespace, chain.lane, chain.chain_id, chain.settlement
        );
        payer.runs(&consent).await?;
        let paid = tenant
            .submit(&job("paid", 1).on_node(node).works_for(1))
            .await?;
        paid.until_complete().await?;
        paid.until_settled().await?;
        ensure!(chain.credit(provider).await? > 0, "nothing is credited");

        // The earnings are claimed, and the stake comes back.
        let claim = format!("claim --provider {provider}");
        let claimed = staker.sends(chain, &claim).await?;
        ensure!(claimed["event"] == "ClaimRequested", "{claimed}");
        staker
            .sends(chain, &format!("unstake --provider {provider} --all"))
            .await?;
        until_bonded(world, &binding, StakeBindingReason::StakeTooSmall).await?;
        chain.warp(Duration::from_secs(604_801)).await?;
        let taken = staker
            .sends(chain, &format!("unstake --provider {provider} --withdraw"))
            .await?;
        ensure!(
            taken["event"] == "Withdrawn" && taken["amount"] == "25000",
            "{taken}"
        );
        Ok(())
    })
}

/// Waits until the binding's condition `Bonded` has this reason.
async fn until_bonded(world: &World, binding: &str, reason: StakeBindingReason) -> Result<()> {
    let bindings: Api<StakeBinding> = Api::all(world.client.clone());
    let what = format!("Bonded is {reason}");
    watch_until(&bindings, binding, &what, |it| {
        let conditions = &it?.status.as_ref()?.conditions;
        let bonded = condition::find(conditions, StakeBindingCondition::Bonded)?;
        (bonded.reason == reason.to_string()).then_some(())
    })
    .await
}
