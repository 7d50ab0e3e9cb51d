//! Story 15: the operator is killed while a batch is prepared, signed, sent and mined, and each slice is paid once; the same
//! where two operators both believe that they lead.

use gridstake_crds::settlement_batch::BatchState;
use gridstake_e2e::{
    admission_hold::{Hold, Step},
    operator_process::{kill, leader, start_unelected},
    payer::Payer,
    prelude::*,
    provider::tokens,
    settlement_batch, usage,
};

#[test]
#[ignore = "long: waits for a new leader four times; make test-long"]
fn each_slice_is_paid_once_when_the_operator_is_killed_between_any_two_steps() -> Result<()> {
    paid_story(async |world, tenant, market| {
        let chain = &market.chain;
        let deposit = tokens(100);
        let payer = Payer::of_tenant(chain, tenant, deposit).await?;
        settlement_batch::until_quiet(world, chain).await?;
        let mut jobs = Vec::new();

        // Prepared: nothing is signed.
        let batch = settlement_batch::next(chain).await?;
        let hold = Hold::begin(world, tenant, Step::StoreAuthorization).await?;
        jobs.push(ended(tenant, "prepared").await?);
        let status = settlement_batch::until_it_is(world, &batch, BatchState::Prepared).await?;
        ensure!(status.authorizations.is_empty(), "it is signed: {status:?}");
        kill(world, &leader(world).await?).await?;
        hold.end().await?;
        settlement_batch::until_it_is(world, &batch, BatchState::Final).await?;

        // Signed: no transaction is stored.
        let batch = settlement_batch::next(chain).await?;
        let hold = Hold::begin(world, tenant, Step::StoreTransaction).await?;
        jobs.push(ended(tenant, "signed").await?);
        let status = settlement_batch::until_it_is(world, &batch, BatchState::Signed).await?;
        ensure!(status.attempts.is_empty(), "it is sent: {status:?}");
        kill(world, &leader(world).await?).await?;
        hold.end().await?;
        settlement_batch::until_it_is(world, &batch, BatchState::Final).await?;

        // Sent: in the pool and in no block.
        let batch = settlement_batch::next(chain).await?;
        chain.mine_only_on_demand(world).await?;
        jobs.push(ended(tenant, "sent").await?);
        let status = settlement_batch::until_it_is(world, &batch, BatchState::InFlight).await?;
        chain
            .until_it_has(settlement_batch::newest_transaction(&status)?)
            .await?;
        kill(world, &leader(world).await?).await?;
        chain.mine_every_second().await?;
        settlement_batch::until_it_is(world, &batch, BatchState::Final).await?;

        // Mined: in a block that is not final.
        let batch = settlement_batch::next(chain).await?;
        chain.mine_only_on_demand(world).await?;
        jobs.push(ended(tenant, "mined").await?);
        let status = settlement_batch::until_it_is(world, &batch, BatchState::InFlight).await?;
        chain
            .until_it_has(settlement_batch::newest_transaction(&status)?)
            .await?;
        chain.mine().await?;
        settlement_batch::until_it_is(world, &batch, BatchState::Included).await?;
        kill(world, &leader(world).await?).await?;
        chain.mine_every_second().await?;
        settlement_batch::until_it_is(world, &batch, BatchState::Final).await?;

        market
            .assert_each_is_paid_once(world, &payer, u64::try_from(deposit.nano())?, &jobs)
            .await
    })
}

#[test]
fn each_slice_is_paid_once_when_two_operators_believe_that_they_lead() -> Result<()> {
    paid_story(async |world, tenant, market| {
        let chain = &market.chain;
        let deposit = tokens(100);
        let payer = Payer::of_tenant(chain, tenant, deposit).await?;
        start_unelected(world).await?;
        let mut submitted = Vec::new();
        for number in 0..4 {
            let manifest = job(&format!("job-{number}"), 1).works_for(2 + number);
            submitted.push(tenant.submit(&manifest).await?);
        }
        let mut jobs = Vec::new();
        for one in &submitted {
            let status = one.until_complete().await?;
            ensure!(
                status.attempts.len() == 1,
                "{} needed more than one attempt: {:?}",
                one.name,
                status.attempts
            );
            jobs.push(usage::uid(one).await?);
        }
        for one in &submitted {
            one.until_settled().await?;
        }
        for (pod, times) in tenant.pods.incarnations() {
            ensure!(times == 1, "pod {pod} was created {times} times");
        }
        market
            .assert_each_is_paid_once(world, &payer, u64::try_from(deposit.nano())?, &jobs)
            .await
    })
}

/// A job that ran and is billed, by its uid.
async fn ended(tenant: &Tenant, name: &str) -> Result<String> {
    let short = tenant.submit(&job(name, 1).works_for(2)).await?;
    short.until_complete().await?;
    let status = short.until_metered().await?;
    ensure!(
        status.usage.is_some_and(|u| u.gpu_millis > 0),
        "{name} used nothing, so nothing is paid"
    );
    usage::uid(&short).await
}
