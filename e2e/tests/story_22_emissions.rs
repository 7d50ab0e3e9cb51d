//! Story 22: emissions. With an empty reward account nothing but use is paid; with a funded one, half the performance earns
//! half; and whoever pays itself never nets a gain.

use std::time::Duration;

use gridstake_crds::UsageRecord;
use gridstake_e2e::{
    account::Account,
    chain::{Chain, DEPLOYER},
    contracts::Settlement,
    payer::{self, Payer},
    prelude::*,
    provider::tokens,
    release, usage,
};
use serde_json::json;

/// The lane's reward account.
const REWARDS: u32 = 0;
/// Of `values-chain.yaml`: nano-tokens for one GPU and one second at a performance of 1000.
const RATE: u128 = 20_000;
/// How long whoever asks for a deposit back waits.
const THAW: Duration = Duration::from_hours(24 * 7);

#[test]
fn emissions_come_from_the_reward_account_by_performance_and_never_exceed_the_fee() -> Result<()> {
    paid_story(async |world, tenant, market| {
        let chain = &market.chain;
        drain(chain).await?;
        let drained = chain.clone();
        world.undo_at_the_end(
            "drain the reward account",
            async move { drain(&drained).await },
        );
        let (slow, others) = world.one_and_the_others()?;
        let fast = others.first().context("there is one node only")?;
        let payer = Payer::of_tenant(chain, tenant, tokens(100)).await?;

        // Empty: nothing but use.
        let records = run(world, tenant, "unrewarded", &slow.name).await?;
        let due = usage::due(&records)?;
        ensure!(due.emissions.is_empty(), "{due:?}");
        settles(market, &payer, 0, &records).await?;

        // Funded, and the performance of the reference.
        let rewards = tokens(10);
        let donor: Account = chain.account("emissions donor").await?;
        payer::deposit(chain, &donor, REWARDS, rewards).await?;
        // The operator looks at the chain several times before such a job ends.
        let mut all = records;
        let full = run(world, tenant, "full", &slow.name).await?;
        for record in &full {
            ensure!(
                emission(record)? == by_performance(record, 1000)?,
                "{:?}",
                usage::sealed(record)?
            );
        }
        all.extend(full);
        settles(market, &payer, u64::try_from(rewards.nano())?, &all).await?;

        // Half of it on one node; on the other so much that the fee is the limit.
        release::configure_chain(world, |config| {
            config["emissions"]["factors"] = json!({
                slow.name.as_str(): {"performancePermille": 500},
                fast.name.as_str(): {"performancePermille": 100_000},
            });
        })
        .await?;
        world.until_whole().await?;
        let fee = chain
            .view(chain.settlement, Settlement::feeBpsCall {})
            .await?;
        let half = run(world, tenant, "half", &slow.name).await?;
        for record in &half {
            let (sealed, emission) = (usage::sealed(record)?, emission(record)?);
            ensure!(
                emission == by_performance(record, 500)? && emission > 0,
                "{sealed:?}"
            );
            // Half, but for what is rounded down.
            ensure!(
                by_performance(record, 1000)? - 2 * emission <= 1,
                "{sealed:?} is not half of the reference's"
            );
            ensure!(
                sealed.factors.as_ref().map(|f| f.performance_permille) == Some(500),
                "{sealed:?}"
            );
        }
        all.extend(half);
        let capped = run(world, tenant, "capped", &fast.name).await?;
        for record in &capped {
            let usage = of_use(record)?;
            let cap = usage * u128::from(fee) / 10_000;
            ensure!(
                u128::from(emission(record)?) == cap && cap > 0,
                "{:?} with a use of {usage}",
                usage::sealed(record)?
            );
        }
        // Had its provider been the payer, too, it would have less than before.
        let provider = market.provider(&fast.name)?;
        let call = Settlement::divideCall {
            provider: provider.id,
        };
        let spent = usage::due(&capped)?.paid();
        all.extend(capped);
        settles(market, &payer, u64::try_from(rewards.nano())?, &all).await?;
        chain
            .send(provider.operator.address(), chain.settlement, call)
            .await?;
        let earned = chain
            .view(
                chain.settlement,
                Settlement::earnedOfCall {
                    provider: provider.id,
                },
            )
            .await?;
        ensure!(
            earned <= spent,
            "who pays himself {spent} gets {earned} back: a gain"
        );
        usage::assert_numbers_are_distinct(&all)
    })
}

/// Runs a job on the node until all of it is paid for good.
async fn run(world: &World, tenant: &Tenant, name: &str, node: &str) -> Result<Vec<UsageRecord>> {
    let works = tenant
        .submit(&job(name, 1).on_node(node).works_for(3))
        .await?;
    works.until_complete().await?;
    usage::until_final(world, &usage::uid(&works).await?).await
}

/// What the lane pays on top for a slice, in nano-tokens.
fn emission(record: &UsageRecord) -> Result<u64> {
    let emission = usage::sealed(record)?.emission.as_ref();
    Ok(emission
        .map(|e| u64::try_from(e.amount.nano()))
        .transpose()?
        .unwrap_or(0))
}

/// What a performance earns at the configured rate, in nano-tokens, at the stability that was observed: other stories may have
/// broken the node's GPUs.
fn by_performance(record: &UsageRecord, permille: u128) -> Result<u64> {
    let sealed = usage::sealed(record)?;
    let factors = sealed.factors.as_ref().context("it has factors")?;
    let stability = u128::from(factors.stability_permille);
    let millis = u128::from(sealed.gpu_millis);
    Ok(u64::try_from(
        millis * RATE * permille * stability / 1_000_000_000,
    )?)
}

/// What the use of a slice costs by itself, in nano-tokens.
fn of_use(record: &UsageRecord) -> Result<u128> {
    let price = usage::payment(record)?.per_gpu_second.nano();
    Ok(u128::from(usage::sealed(record)?.gpu_millis) * price / 1000)
}

/// Fails unless providers, payer and reward account have exactly what follows from the slices; `rewards` is what the
/// reward account was given.
async fn settles(
    market: &Market,
    payer: &Payer,
    rewards: u64,
    records: &[UsageRecord],
) -> Result<()> {
    let chain = &market.chain;
    let due = usage::due(records)?;
    market
        .assert_paid(&due, payer, u64::try_from(tokens(100).nano())?)
        .await?;
    let emitted: u64 = due.emissions.values().sum();
    let left = chain.balance(REWARDS).await?;
    ensure!(
        rewards - left == emitted,
        "{left} of {rewards} is left in the reward account, due {due:?}"
    );
    Ok(())
}

/// Empties the reward account.
async fn drain(chain: &Chain) -> Result<()> {
    let amount = chain.balance(REWARDS).await?;
    if amount == 0 {
        return Ok(());
    }
    let (lane, payer) = (chain.lane, REWARDS);
    let thaw = Settlement::thawCall {
        lane,
        payer,
        amount,
    };
    chain.send(DEPLOYER, chain.settlement, thaw).await?;
    chain.warp(THAW).await?;
    let withdraw = Settlement::withdrawCall { lane, payer };
    chain
        .send(DEPLOYER, chain.settlement, withdraw)
        .await
        .map(drop)
}
