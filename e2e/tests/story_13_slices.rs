//! Story 13: a long job is paid slice by slice while it runs, and its slices add up to what the lease as a whole is, to the
//! millisecond.
//!
//! The lease's time is the nodes' own, which no chain can push: that a lease of 24 days adds up is shown by the operator's
//! own tests (`a_lease_of_24_days_adds_up_to_the_millisecond`, on the code that seals here) and by the ledger's.

use gridstake_crds::usage_record::SealCause;
use gridstake_e2e::{payer::Payer, prelude::*, provider::tokens, usage};

#[test]
fn a_long_job_is_paid_while_it_runs_and_its_slices_add_up_to_the_millisecond() -> Result<()> {
    paid_story(async |world, tenant, market| {
        let chain = &market.chain;
        let deposit = tokens(10);
        let payer = Payer::of_tenant(chain, tenant, deposit).await?;
        let node = &world.hosts[0].name;
        let provider = market.provider(node)?;
        let long = tenant
            .submit(&job("long", 2).on_node(node).runs_until_released())
            .await?;
        long.until_running().await?;
        let uid = usage::uid(&long).await?;

        let credited = long
            .until("two slices are paid for good while it runs", |s| {
                let paid = s.settlement.as_ref()?.finalized;
                (paid >= 2).then_some(paid)
            })
            .await?;
        let now = long.status().await?;
        ensure!(
            now.active_placement().is_some() && now.end_reason.is_none(),
            "{credited} slices are paid, and the job does not run any more"
        );
        let so_far = chain.credit(provider.id).await?;
        ensure!(so_far > 0, "the provider has nothing yet");

        long.release().await?;
        long.until_complete().await?;
        let status = long.until_settled().await?;
        let records = usage::until_final(world, &uid).await?;
        ensure!(
            records.len() >= 3,
            "there are only {} slices",
            records.len()
        );
        for (before, after) in records.iter().zip(&records[1..]) {
            let (sealed, next) = (usage::sealed(before)?, usage::sealed(after)?);
            ensure!(
                sealed.cause == SealCause::IntervalElapsed
                    && after.spec.from_ms == Some(sealed.end_ms)
                    && next.start_ms == sealed.end_ms,
                "slice {} ends with {sealed:?} and the next one begins with {next:?}",
                before.spec.slice
            );
        }
        let lease = usage::sealed(&records[records.len() - 1])?.end_ms
            - usage::sealed(&records[0])?.start_ms;
        let billed: u64 = records
            .iter()
            .map(|r| usage::sealed(r).map(|s| s.gpu_millis))
            .sum::<Result<u64>>()?;
        ensure!(
            billed == 2 * lease,
            "2 GPUs for {lease} ms are billed as {billed} GPU-milliseconds"
        );
        ensure!(
            status.usage.as_ref().map(|u| u.gpu_millis) == Some(billed),
            "{:?}",
            status.usage
        );
        let due = usage::due(&records)?;
        let (credit, balance) = (
            chain.credit(provider.id).await?,
            payer.balance(chain).await?,
        );
        ensure!(
            credit == due.credit(provider.id) && credit > so_far,
            "credited {credit}, before {so_far}, due {due:?}"
        );
        ensure!(
            u64::try_from(deposit.nano())? - balance == due.paid(),
            "{balance} is left, due {due:?}"
        );
        usage::assert_numbers_are_distinct(&records)
    })
}
