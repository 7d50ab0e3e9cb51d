//! Story 11: a job runs, is metered, and is paid: its provider is credited exactly what it used times the price, and its
//! payer is debited the same.

use gridstake_crds::{
    UsageRecord,
    usage_record::{Evidence, RecordState},
};
use gridstake_e2e::{
    command::kubectl, contracts::Settlement, market::PRICE, payer::Payer, prelude::*,
    provider::tokens, usage,
};

#[test]
fn a_provider_is_credited_exactly_what_the_job_used_and_its_payer_is_debited_the_same() -> Result<()>
{
    paid_story(async |world, tenant, market| {
        let chain = &market.chain;
        let deposit = tokens(10);
        let payer = Payer::of_tenant(chain, tenant, deposit).await?;
        let node = &world.hosts[0].name;
        let provider = market.provider(node)?;

        let paid = tenant
            .submit(&job("paid", 2).on_node(node).works_for(3))
            .await?;
        paid.until_complete().await?;
        kubectl([
            "wait",
            "--for=condition=Settled",
            "computejob/paid",
            &format!("--namespace={}", tenant.namespace),
            "--timeout=90s",
        ])
        .await?;

        let status = paid.status().await?;
        let used = status.usage.context("status.usage")?.gpu_millis;
        ensure!(
            used >= 2 * 1000,
            "2 GPUs for 3 s, of which doubt takes less than 2, are {used} GPU-milliseconds"
        );
        // One slice, so one rounding.
        let records = usage::of_job(world, &usage::uid(&paid).await?).await?;
        let due = usage::due(&records)?;
        ensure!(
            records.len() > 1 || u128::from(due.paid()) == u128::from(used) * PRICE.nano() / 1000,
            "{used} GPU-milliseconds at {PRICE} are not {} nano-tokens",
            due.paid()
        );
        let millis: u64 = records
            .iter()
            .map(|r| usage::sealed(r).map(|s| s.gpu_millis))
            .sum::<Result<u64>>()?;
        ensure!(millis == used, "the records say {millis}, the job {used}");

        let (credit, balance) = (
            chain.credit(provider.id).await?,
            payer.balance(chain).await?,
        );
        ensure!(
            credit == due.credit(provider.id),
            "provider {} is credited {credit}, and {due:?} is due",
            provider.id
        );
        let debit = u64::try_from(deposit.nano())? - balance;
        ensure!(
            debit == due.paid(),
            "the payer is debited {debit}, and {due:?} is due"
        );

        // Everything says the same: the record, the job, and the chain.
        let settled = status.settlement.context("status.settlement")?;
        ensure!(
            usize::try_from(settled.finalized)? == records.len() && settled.lane == chain.lane,
            "{settled:?}"
        );
        for record in &records {
            let number = usage::sealed(record)?
                .job_no
                .context("the slice has no number")?;
            let (lane, told) = (chain.lane, usage::settlement(record)?);
            ensure!(
                chain
                    .view(
                        chain.settlement,
                        Settlement::isPaidCall {
                            lane,
                            jobNo: number
                        }
                    )
                    .await?,
                "the chain does not know number {number}"
            );
            ensure!(told.state == RecordState::Final, "{told:?}");
            let transaction = told.transaction.as_deref().context("the transaction")?;
            let receipt = chain
                .receipt(transaction.parse()?)
                .await?
                .context("the transaction is in no block")?;
            ensure!(receipt.status(), "{transaction} was reverted");
            let event = receipt
                .decoded_log::<Settlement::BatchSettled>()
                .context("find the event BatchSettled")?;
            ensure!(event.lane == lane, "another lane's batch: {event:?}");
        }
        the_bill_rests_on_evidence(world, &records).await
    })
}

/// Fails unless the node's certified agent saw the job's two GPUs from start to end, as it is billed.
async fn the_bill_rests_on_evidence(world: &World, records: &[UsageRecord]) -> Result<()> {
    let (first, last) = (&records[0], &records[records.len() - 1]);
    let key = world
        .gpu_nodes()
        .get(&first.spec.node_name)
        .await?
        .spec
        .agent_certificate
        .context("the agent is not certified")?
        .key;
    for record in records {
        let evidence = evidence(record)?;
        ensure!(
            evidence.devices.len() == 2 && !evidence.checkpoints.is_empty(),
            "{evidence:?}"
        );
        ensure!(
            evidence.key.eq_ignore_ascii_case(&key),
            "signed by {}, and {key} is certified",
            evidence.key
        );
        ensure!(
            usage::sealed(record)?.evidence_head.is_some(),
            "a slice is billed without evidence"
        );
    }
    let started = evidence(first)?.started_ms;
    let started = started.context("the agent has not seen the start")?;
    let ended = evidence(last)?.ended_ms;
    let ended = ended.context("the agent has not seen the end")?;
    let (from, to) = (usage::sealed(first)?.start_ms, usage::sealed(last)?.end_ms);
    // The agent's milliseconds are held within the kubelet's seconds.
    ensure!(
        from.abs_diff(started) < 1000 && to.abs_diff(ended) < 1000,
        "billed {from} to {to}, seen {started} to {ended}"
    );
    Ok(())
}

fn evidence(record: &UsageRecord) -> Result<&Evidence> {
    let evidence = record.status.as_ref().and_then(|s| s.evidence.as_ref());
    evidence.context("the agent has stated no evidence")
}
