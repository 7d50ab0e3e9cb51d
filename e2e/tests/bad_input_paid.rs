//! What bad input gets where use is paid: of tenants, of providers, and of contracts.

use alloy::primitives::Address;
use gridstake_crds::{
    StakeBinding, condition,
    stake_binding::{StakeBindingCondition, StakeBindingReason},
};
use gridstake_e2e::{
    contracts::{Settlement, StakeVault},
    market::{PRICE, until_offered_by},
    payer::{Payer, annotate},
    prelude::*,
    provider::{ENOUGH_STAKE, Provider, apply_binding, binding_of, remove_binding},
    wait::watch_until,
};
use kube::Api;
use serde_json::{Value, json};

#[test]
fn a_payer_that_is_missing_or_no_number_or_of_another_lane_gets_the_command_that_mends_it()
-> Result<()> {
    paid_story(async |_, tenant, market| {
        let other_lane = format!(
            "lane {} has no such account (accounts of other lanes do not count)",
            market.chain.lane
        );
        for (case, payer, expected) in [
            ("missing", json!(null), "names no payer in its annotation"),
            (
                "no-number",
                json!("alice"),
                "\"alice\" in its annotation gridstake.dev/payer, which is not the number",
            ),
            ("reward-account", json!("0"), "which is not the number"),
            ("other-lane", json!("4000000000"), other_lane.as_str()),
        ] {
            let consent = json!({"dailyCap": "1", "expires": "2100-01-01T00:00:00Z", "signature": format!("0x{}", "11".repeat(65))});
            annotate(
                tenant,
                &json!({"gridstake.dev/payer": payer, "gridstake.dev/payer-consent": consent.to_string()}),
            )
            .await?;
            let refused = tenant.submit(&job(case, 1).works_for(1)).await?;
            let message = refused
                .until(&format!("it is refused: {expected}"), |s| {
                    let stated = condition::find(&s.conditions, ComputeJobCondition::Admitted)?;
                    let fits = stated.status == "False"
                        && stated.reason == ComputeJobReason::PayerNotConsenting.to_string()
                        && stated.message.contains(expected);
                    fits.then(|| stated.message.clone())
                })
                .await?;
            ensure!(
                message.contains(&format!(
                    "kubectl gridstake consent --namespace {}",
                    tenant.namespace
                )),
                "{case}: {message:?} does not name the command that mends it"
            );
        }
        Ok(())
    })
}

#[test]
fn a_binding_whose_staker_is_its_operator_or_that_burns_rewards_is_refused() -> Result<()> {
    paid_story(async |world, tenant, market| {
        let (node, provider) = market.providers.iter().next().context("no provider")?;
        let good = provider.binding(&market.chain, &tenant.namespace, node);
        for (field, value, expected) in [
            (
                "/spec/operatorAddress",
                json!(provider.staker.address()),
                "spec.operatorAddress must differ from spec.stakerAddress",
            ),
            (
                "/spec/beneficiary",
                json!(Address::ZERO),
                "the zero address would burn every reward",
            ),
        ] {
            let mut bad = good.clone();
            *bad.pointer_mut(field).context("the field")? = value;
            match apply_binding(&world.client, &bad).await {
                Err(refused) => {
                    let message = format!("{refused:#}");
                    ensure!(message.contains(expected), "{field}: {message}");
                }
                Ok(()) => {
                    remove_binding(&world.client, &tenant.namespace).await?;
                    bail!("{field} is taken: {bad}");
                }
            }
        }
        Ok(())
    })
}

#[test]
fn a_binding_for_an_unknown_provider_or_chain_or_a_node_of_somebody_else_says_what_mends_it()
-> Result<()> {
    paid_story(async |world, tenant, market| {
        let chain = &market.chain;
        let (node, provider) = market.providers.iter().next().context("no provider")?;
        let elsewhere = |name: &str| provider.binding(chain, name, "a-node-that-left");

        let unknown = format!("{}-provider", tenant.namespace);
        let mut binding = elsewhere(&unknown);
        binding["spec"]["providerId"] = json!(4_000_000_000_u32);
        let message = stated(
            world,
            &binding,
            StakeBindingCondition::ContractMatch,
            StakeBindingReason::ProviderUnknown,
        )
        .await?;
        ensure!(
            message.contains("StakeVault.register") && message.contains("4000000000"),
            "{message:?}"
        );

        let nowhere = format!("{}-chain", tenant.namespace);
        let mut binding = elsewhere(&nowhere);
        binding["spec"]["chain"] = json!("atlantis");
        let message = stated(
            world,
            &binding,
            StakeBindingCondition::ContractMatch,
            StakeBindingReason::ChainNotConfigured,
        )
        .await?;
        ensure!(
            message.contains("atlantis") && message.contains(&chain.name),
            "{message:?}"
        );

        // Both bindings of a node say so, and neither binds it.
        let rival = format!("{}-rival", tenant.namespace);
        let message = stated(
            world,
            &provider.binding(chain, &rival, node),
            StakeBindingCondition::Resolved,
            StakeBindingReason::ConflictingBindings,
        )
        .await?;
        let own = binding_of(node);
        ensure!(
            message.contains(&own) && message.contains(node),
            "{message:?}"
        );
        let message = until(
            world,
            &own,
            StakeBindingCondition::Resolved,
            StakeBindingReason::ConflictingBindings,
        )
        .await?;
        ensure!(message.contains(&rival), "{message:?}");
        Ok(())
    })
}

#[test]
fn a_provider_that_is_unknown_or_cooling_cannot_be_paid_and_its_binding_says_so() -> Result<()> {
    paid_story(async |world, tenant, market| {
        let chain = &market.chain;
        let node = &world.hosts[0].name;
        let cooling = Provider::register_cooling(chain, &tenant.namespace).await?;
        cooling.stake(chain, ENOUGH_STAKE).await?;
        let anyone = cooling.operator.address();
        let activate = |provider| Settlement::activateProviderCall { provider };
        let refused: Settlement::SettlementErrors = chain
            .refusal(anyone, chain.settlement, activate(4_000_000_000))
            .await?;
        ensure!(
            matches!(refused, Settlement::SettlementErrors::UnknownProvider(_)),
            "{refused:?}"
        );
        let refused: Settlement::SettlementErrors = chain
            .refusal(anyone, chain.settlement, activate(cooling.id))
            .await?;
        let until_payable = cooling.on_chain(chain).await?.payableAt;
        ensure!(
            matches!(&refused, Settlement::SettlementErrors::ProviderIsCooling(why) if why.until == until_payable),
            "{refused:?}"
        );

        market.put_back_at_the_end(world, node)?;
        cooling.take_over(&world.client, chain, node, PRICE).await?;
        let own = binding_of(node);
        let message = until(
            world,
            &own,
            StakeBindingCondition::Ready,
            StakeBindingReason::Cooling,
        )
        .await?;
        ensure!(message.contains("activate"), "{message:?}");
        // Nobody needs to do anything: when its time is over the operator activates it.
        chain.warp_to(until_payable).await?;
        until_offered_by(&world.client, node, cooling.id).await
    })
}

#[test]
fn a_provider_without_a_beneficiary_is_refused_on_chain() -> Result<()> {
    paid_story(async |_, tenant, market| {
        let chain = &market.chain;
        let staker = chain.account(&tenant.namespace).await?.address();
        let operator = Address::repeat_byte(7);
        for (operator, beneficiary) in [(operator, Address::ZERO), (Address::ZERO, operator)] {
            let call = StakeVault::registerCall {
                operator,
                beneficiary,
            };
            let refused: StakeVault::StakeVaultErrors =
                chain.refusal(staker, chain.vault, call).await?;
            ensure!(
                matches!(refused, StakeVault::StakeVaultErrors::ZeroAddress(_)),
                "{refused:?}"
            );
        }
        let same = StakeVault::registerCall {
            operator: staker,
            beneficiary: operator,
        };
        let refused: StakeVault::StakeVaultErrors =
            chain.refusal(staker, chain.vault, same).await?;
        ensure!(
            matches!(refused, StakeVault::StakeVaultErrors::StakerIsOperator(_)),
            "{refused:?}"
        );
        Ok(())
    })
}

#[test]
fn a_token_that_keeps_a_fee_on_transfer_is_refused_and_the_job_says_that_the_escrow_is_empty()
-> Result<()> {
    paid_story(async |world, tenant, market| {
        let chain = &market.chain;
        let provider = market.providers.values().next().context("no provider")?;
        // An account without money, whose owner consents.
        let payer = Payer::register(chain, &format!("{} empty", tenant.namespace)).await?;
        payer
            .consent_to(chain, tenant, payer.consent(chain).await?)
            .await?;

        let code = chain.make_token_greedy(world).await?;
        let deposit = Settlement::depositCall {
            lane: chain.lane,
            payer: payer.id,
            amount: 1_000_000_000,
        };
        let refused: Settlement::SettlementErrors = chain
            .refusal(payer.owner.address(), chain.settlement, deposit)
            .await?;
        ensure!(
            matches!(refused, Settlement::SettlementErrors::UnsupportedToken(_)),
            "{refused:?}"
        );
        let stake = StakeVault::stakeCall {
            provider: provider.id,
            amount: 1_000_000_000,
        };
        let refused: StakeVault::StakeVaultErrors = chain
            .refusal(provider.staker.address(), chain.vault, stake)
            .await?;
        ensure!(
            matches!(refused, StakeVault::StakeVaultErrors::UnsupportedToken(_)),
            "{refused:?}"
        );
        chain.mend_code(chain.token, &code).await?;

        let poor = tenant.submit(&job("poor", 1).works_for(1)).await?;
        let message = poor
            .until_condition(
                ComputeJobCondition::Admitted,
                false,
                ComputeJobReason::EscrowExhausted,
            )
            .await?;
        ensure!(
            message.contains("does not cover the first slice")
                && message.contains("Settlement.deposit"),
            "{message:?}"
        );
        Ok(())
    })
}

/// Applies a binding that is removed at the story's end, waits until a condition of it is `False` or `Unknown` for this
/// reason, and returns what it says.
async fn stated(
    world: &World,
    binding: &Value,
    which: StakeBindingCondition,
    reason: StakeBindingReason,
) -> Result<String> {
    let name = binding["metadata"]["name"].as_str().context("the name")?;
    let (client, gone) = (world.client.clone(), name.to_owned());
    world.undo_at_the_end(format!("remove StakeBinding {name}"), async move {
        remove_binding(&client, &gone).await
    });
    apply_binding(&world.client, binding).await?;
    until(world, name, which, reason).await
}

/// Waits until a condition of a binding does not hold for this reason, and returns what it says.
async fn until(
    world: &World,
    name: &str,
    which: StakeBindingCondition,
    reason: StakeBindingReason,
) -> Result<String> {
    let bindings: Api<StakeBinding> = Api::all(world.client.clone());
    let what = format!("{which} does not hold for {reason}");
    watch_until(&bindings, name, &what, |binding| {
        let status = binding?.status.as_ref()?;
        let stated = condition::find(&status.conditions, which)?;
        (stated.status != "True" && stated.reason == reason.to_string())
            .then(|| stated.message.clone())
    })
    .await
}
