//! The demo's market: stakes a provider for each node and lets a payer consent, then shows what was paid, as the chain has
//! it.
//!
//! ```text
//! demo-market open NAMESPACE         stake providers, bind and certify the nodes, fund a payer that consents
//! demo-market show NAMESPACE JOB     the transactions and events that paid for a job, and both balances around them
//! ```

use std::collections::BTreeMap;

use alloy::primitives::{B256, U256};
use anyhow::{Context as _, Result, bail, ensure};
use gridstake_crds::{TokenAmount, UsageRecord};
use gridstake_e2e::{
    chain::Chain,
    contracts::Settlement,
    job::Job,
    market::{Market, PRICE},
    payer::Payer,
    provider::{ENOUGH_STAKE, nano, tokens},
    tenant::Tenant,
    usage,
    world::World,
};

/// What the payer deposits.
const DEPOSIT: TokenAmount = tokens(10);

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["open", namespace] => open(namespace).await,
        ["show", namespace, job] => show(namespace, job).await,
        _ => bail!("usage: demo-market open NAMESPACE | show NAMESPACE JOB"),
    }
}

async fn open(namespace: &str) -> Result<()> {
    let world = World::connect().await?;
    let market = Market::open(&world).await?;
    let chain = &market.chain;
    println!(
        "chain {} has the id {}; Settlement is at {}, StakeVault at {}",
        chain.name, chain.chain_id, chain.settlement, chain.vault
    );
    for (node, provider) in &market.providers {
        println!(
            "{node}: provider {} has staked {ENOUGH_STAKE}, certified the agent, and asks {PRICE} for a GPU and a second",
            provider.id
        );
    }
    let tenant = Tenant::of_namespace(&world, namespace);
    let payer = Payer::of_tenant(chain, &tenant, DEPOSIT).await?;
    println!(
        "payer {} has deposited {DEPOSIT} and consents to pay for namespace {namespace}",
        payer.id
    );
    Ok(())
}

async fn show(namespace: &str, job: &str) -> Result<()> {
    let world = World::connect().await?;
    let chain = Chain::connect(&world).await?;
    let job = Job::new(world.client.clone(), namespace, job);
    let records = usage::of_job(&world, &usage::uid(&job).await?).await?;
    let mut by_transaction: BTreeMap<B256, Vec<UsageRecord>> = BTreeMap::new();
    for record in records {
        if usage::sealed(&record)?.job_no.is_none() {
            continue;
        }
        let transaction = usage::settlement(&record)?.transaction.clone();
        let transaction = transaction.context("the job is not paid yet")?.parse()?;
        by_transaction.entry(transaction).or_default().push(record);
    }
    ensure!(!by_transaction.is_empty(), "nothing is owed for the job");
    for (transaction, records) in by_transaction {
        show_payment(&chain, transaction, &records).await?;
    }
    Ok(())
}

/// One transaction, and what it moved for these slices.
async fn show_payment(chain: &Chain, transaction: B256, records: &[UsageRecord]) -> Result<()> {
    let receipt = chain.receipt(transaction).await?;
    let receipt = receipt.context("the transaction is in no block")?;
    let event = receipt
        .decoded_log::<Settlement::BatchSettled>()
        .context("find the event BatchSettled")?;
    let block = receipt.block_number.context("the transaction's block")?;
    println!("transaction {transaction}");
    println!("  in block {block}, {} gas", receipt.gas_used);
    println!(
        "  event BatchSettled: lane {}, batch {}, {} paid in all",
        event.lane,
        event.seq,
        total(event.summary)?
    );
    for record in records {
        let (sealed, payment) = (usage::sealed(record)?, usage::payment(record)?);
        println!(
            "  slice {} on {}: {} GPU-ms at {} a second = {}",
            record.spec.slice,
            record.spec.node_name,
            sealed.gpu_millis,
            payment.per_gpu_second,
            nano(u128::from(sealed.gpu_millis) * payment.per_gpu_second.nano() / 1000)
        );
    }
    let payment = usage::payment(&records[0])?;
    let (lane, payer, provider) = (payment.lane, payment.payer, payment.provider);
    let balance = Settlement::balanceOfCall { lane, payer };
    let credit = Settlement::creditOfCall { provider };
    let around = [block - 1, block];
    let mut balances = Vec::new();
    let mut credits = Vec::new();
    for at in around {
        let held = chain.view_at(at, chain.settlement, balance.clone()).await?;
        balances.push(nano(held.into()).to_string());
        let held = chain.view_at(at, chain.settlement, credit.clone()).await?;
        credits.push(nano(held.into()).to_string());
    }
    println!("  payer {payer}: {}", balances.join(" before, and after "));
    println!(
        "  provider {provider}: {}",
        credits.join(" before, and after ")
    );
    Ok(())
}

/// The whole amount in the event's summary: above the two counts of records.
fn total(summary: U256) -> Result<TokenAmount> {
    let total = u128::try_from(summary >> 64).context("read the event's summary")?;
    Ok(nano(total))
}
