//! Story 14: deleting a running job pays for the part that ran. The job object goes when its slices are sealed; the money
//! follows to finality.

use gridstake_crds::usage_record::RecordState;
use gridstake_e2e::{payer::Payer, prelude::*, provider::tokens, usage};

#[test]
fn a_deleted_job_goes_when_it_is_billed_and_the_part_that_ran_is_paid_afterwards() -> Result<()> {
    paid_story(async |world, tenant, market| {
        let chain = &market.chain;
        let deposit = tokens(10);
        let payer = Payer::of_tenant(chain, tenant, deposit).await?;
        let node = &world.hosts[0].name;
        let deleted = tenant
            .submit(&job("deleted", 1).on_node(node).runs_until_released())
            .await?;
        deleted.until_running().await?;
        let uid = usage::uid(&deleted).await?;
        // Long enough that something is billed also where no evidence is.
        chain.until_later(3).await?;

        // From here on nothing is paid until it is let: the job does not wait for that.
        chain.mine_only_on_demand(world).await?;
        deleted.delete().await?;
        deleted.until_gone().await?;
        let records = usage::of_job(world, &uid).await?;
        ensure!(!records.is_empty(), "the records went with their job");
        let mut billed = 0;
        for record in &records {
            billed += usage::sealed(record)?.gpu_millis;
        }
        ensure!(billed > 0, "what ran is not billed");
        let last = &records[records.len() - 1];
        let state = usage::settlement(last).map(|s| s.state);
        ensure!(
            !matches!(state, Ok(RecordState::Paid | RecordState::Final)),
            "{state:?} without a block"
        );

        chain.mine_every_second().await?;
        let paid = usage::until_final(world, &uid).await?;
        ensure!(
            paid.len() == records.len(),
            "{} slices became {}",
            records.len(),
            paid.len()
        );
        for (before, after) in records.iter().zip(&paid) {
            ensure!(
                usage::sealed(before)? == usage::sealed(after)?,
                "a sealed slice was changed"
            );
        }
        let due = usage::due(&paid)?;
        market
            .assert_paid(&due, &payer, u64::try_from(deposit.nano())?)
            .await
    })
}
