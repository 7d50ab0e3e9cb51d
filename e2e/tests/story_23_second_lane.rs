//! Story 23: a second lane on the same chain. Each namespace's jobs run on the nodes of its own lane's providers and are paid
//! there.

use std::collections::BTreeMap;

use alloy::primitives::{B256, keccak256};
use gridstake_crds::{names::ANNOTATION_CHAIN, usage_record::RecordState};
use gridstake_e2e::{
    account::Account,
    chain::{Chain, DEPLOYER},
    contracts::{Settlement, StakeVault},
    market::{PRICE, until_offered_by},
    payer::{Payer, annotate},
    prelude::*,
    provider::tokens,
    release, usage,
};
use k8s_openapi::{
    ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api,
    api::{DeleteParams, PostParams},
};
use serde_json::json;

/// The second lane's entry in the operator's configuration.
const SECOND: &str = "second";
/// The Secret with the first lane's keys.
const KEYS: &str = "gridstake-keys";
/// The Secret with the second lane's keys.
const SECOND_KEYS: &str = "gridstake-keys-second";

#[test]
fn each_namespace_is_paid_for_on_its_own_lane_by_the_nodes_that_are_there() -> Result<()> {
    paid_story(async |world, tenant, market| {
        let first = &market.chain;
        let second = open_second_lane(world, first).await?;
        let [here, there] = [&world.hosts[0].name, &world.hosts[1].name];
        market.put_back_at_the_end(world, there)?;
        let provider = market.provider(there)?;
        provider
            .take_over(&world.client, &second, there, PRICE)
            .await?;
        until_offered_by(&world.client, there, provider.id).await?;

        // A namespace that names no chain is on the first one.
        Payer::of_tenant(first, tenant, tokens(10)).await?;
        let other = Tenant::settle(world, "second-lane").await?;
        annotate(&other, &json!({(ANNOTATION_CHAIN): SECOND})).await?;
        Payer::of_tenant(&second, &other, tokens(10)).await?;
        let outcome = both_are_paid(world, [(tenant, first, here), (&other, &second, there)]).await;
        let left = other.leave(world).await;
        outcome.and(left)
    })
}

async fn both_are_paid(world: &World, lanes: [(&Tenant, &Chain, &String); 2]) -> Result<()> {
    let nodes = lanes.map(|(_, _, node)| node);
    for (index, (tenant, chain, node)) in lanes.into_iter().enumerate() {
        let elsewhere = nodes[1 - index];
        let refused = tenant
            .submit(&job("elsewhere", 1).on_node(elsewhere).works_for(1))
            .await?;
        let message = refused
            .until_condition(
                ComputeJobCondition::Admitted,
                false,
                ComputeJobReason::Unsatisfiable,
            )
            .await?;
        ensure!(
            message.contains(&format!("payer is on the chain {}", chain.name)),
            "{message:?} does not say why {elsewhere} will not do"
        );
        refused.delete().await?;

        let paid = tenant.submit(&job("paid", 1).works_for(2)).await?;
        paid.until_complete().await?;
        let status = paid.until_settled().await?;
        let settled = status.settlement.context("status.settlement")?;
        ensure!(
            (settled.chain.as_str(), settled.lane) == (chain.name.as_str(), chain.lane),
            "the job of {} is settled on {settled:?}",
            tenant.namespace
        );
        let placement = status.placement.context("status.placement")?;
        ensure!(
            placement.nodes.iter().all(|placed| placed.node == *node),
            "{placement:?} is not on {node}"
        );
        for record in usage::of_job(world, &usage::uid(&paid).await?).await? {
            let payment = usage::payment(&record)?;
            ensure!(
                (payment.chain.as_str(), payment.lane) == (chain.name.as_str(), chain.lane),
                "{payment:?}"
            );
            let settlement = usage::settlement(&record)?;
            let batch = settlement.batch.clone().unwrap_or_default();
            ensure!(
                settlement.state == RecordState::Final
                    && batch.starts_with(&format!("lane-{}-", chain.lane)),
                "{settlement:?}"
            );
        }
    }
    Ok(())
}

/// Opens another lane in the same contracts, and configures the operator for it until the story's end.
async fn open_second_lane(world: &World, first: &Chain) -> Result<Chain> {
    // Each number is new on this chain.
    let providers = first
        .view(first.vault, StakeVault::providerCountCall {})
        .await?;
    let second = first.lane(SECOND, 1000 + providers);
    let secrets: Api<Secret> = Api::namespaced(world.client.clone(), &world.namespace);
    let mut keys: BTreeMap<String, ByteString> = secrets
        .get(KEYS)
        .await?
        .data
        .with_context(|| format!("the Secret {KEYS} is empty"))?;
    let signer = keys.get("lane-signer").context("lane-signer")?;
    let signer: B256 = String::from_utf8(signer.0.clone())?.trim().parse()?;
    let signer = Account::of_key(signer)?;
    // The signer may be the same; the account for gas may not.
    let gas = keccak256(format!("gridstake e2e gas of lane {}", second.lane));
    first.give_coins(Account::of_key(gas)?.address()).await?;
    keys.insert("gas".into(), ByteString(gas.to_string().into_bytes()));
    keys.remove("slash");
    let secret = Secret {
        metadata: ObjectMeta {
            name: Some(SECOND_KEYS.into()),
            ..ObjectMeta::default()
        },
        data: Some(keys),
        ..Secret::default()
    };
    remove(&secrets).await?;
    secrets.create(&PostParams::default(), &secret).await?;
    world.undo_at_the_end("remove the second lane's keys", async move {
        remove(&secrets).await
    });
    let open = Settlement::openLaneCall {
        lane: second.lane,
        signer: signer.address(),
        rewardsOwner: DEPLOYER,
    };
    first.send(DEPLOYER, first.settlement, open).await?;
    let mut entry = first.config.clone();
    entry["name"] = json!(SECOND);
    entry["lane"] = json!(second.lane);
    entry["keys"] = json!({"existingSecret": SECOND_KEYS, "slash": false});
    // Final by another rule than the first lane's.
    entry["finality"] = json!({"mode": "Depth", "depth": 4});
    if let Some(fields) = entry.as_object_mut() {
        fields.remove("emissions");
    }
    release::configure_chains(world, |chains| {
        chains.push(entry);
        Ok(())
    })
    .await?;
    Ok(second)
}

async fn remove(secrets: &Api<Secret>) -> Result<()> {
    match secrets.delete(SECOND_KEYS, &DeleteParams::default()).await {
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        result => result.map(drop).context("remove the second lane's keys"),
    }
}
