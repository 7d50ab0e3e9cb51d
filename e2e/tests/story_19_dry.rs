//! Story 19: a payer runs dry. The tenant is warned, the job is stopped while what it used can still be paid, and goes on
//! when the account is topped up.

use std::time::Duration;

use gridstake_e2e::{
    market::PRICE,
    payer::Payer,
    prelude::*,
    provider::{nano, tokens},
    usage,
};
use k8s_openapi::api::core::v1::Event;
use kube::{Api, api::ListParams};

/// How often the operator looks at the payers.
const CHECK_EVERY: Duration = Duration::from_secs(5);
/// For how many seconds of one GPU the deposit lasts. A job is admitted with 21: a slice of 10 s, 10 s in which the operator
/// notices and stops it, and its own grace of 1 s. It is warned of when 21 are left, and stopped when 11 are.
const SECONDS: u128 = 27;

#[test]
fn a_payer_that_runs_dry_is_warned_and_stopped_in_time_and_a_deposit_resumes() -> Result<()> {
    paid_story(async |world, tenant, market| {
        let chain = &market.chain;
        let deposit = nano(SECONDS * PRICE.nano());
        let payer = Payer::of_tenant(chain, tenant, deposit).await?;
        let node = &world.hosts[0].name;
        let provider = market.provider(node)?;
        let manifest = job("poor", 1)
            .on_node(node)
            .runs_until_released()
            .with("/spec/termination", "{graceSeconds: 1}")?;
        let poor = tenant.submit(&manifest).await?;
        poor.until_running().await?;
        let uid = usage::uid(&poor).await?;

        let message = poor
            .until_condition(
                ComputeJobCondition::Admitted,
                false,
                ComputeJobReason::EscrowExhausted,
            )
            .await?;
        ensure!(
            message.contains("deposit") && message.contains(&format!("payer {}", payer.id)),
            "{message:?} does not say what mends it"
        );
        let status = poor.status().await?;
        ensure!(
            status.attempts.len() == 1
                && status.attempts[0].end_reason == AttemptEndReason::EscrowExhausted
                && status.end_reason.is_none(),
            "{:?}",
            status.attempts
        );
        let events: Api<Event> = tenant.api();
        let warned = events
            .list(&ListParams::default())
            .await?
            .items
            .into_iter()
            .filter(|e| e.reason.as_deref() == Some("EscrowLow"))
            .filter_map(|e| e.message)
            .collect::<Vec<_>>();
        ensure!(
            warned.iter().any(|text| text.contains("nearly used up")),
            "it was stopped without a warning: {warned:?}"
        );

        let stopped = usage::until_final(world, &uid).await?;
        let due = usage::due(&stopped)?;
        let used = due.paid();
        let balance = payer.balance(chain).await?;
        let paid = u64::try_from(deposit.nano())? - balance;
        let interval = PRICE.nano() * CHECK_EVERY.as_millis() / 1000;
        ensure!(
            u128::from(used - paid) <= interval,
            "{used} were used and {paid} are paid: more is unpaid than {interval}, one check interval"
        );
        ensure!(
            chain.credit(provider.id).await? == paid,
            "the provider is not credited the {paid} that the payer paid"
        );

        payer.deposit(chain, tokens(1)).await?;
        let placement = poor.until_placed(2).await?;
        ensure!(placement.attempt == 2, "{placement:?}");
        poor.until_running().await?;
        poor.release().await?;
        poor.until_complete().await?;
        poor.until_settled().await?;
        let records = usage::until_final(world, &uid).await?;
        let due = usage::due(&records)?;
        let deposits = u64::try_from(deposit.nano() + tokens(1).nano())?;
        let balance = payer.balance(chain).await?;
        ensure!(
            deposits - balance == due.paid(),
            "{balance} of {deposits} is left, due {due:?}"
        );
        ensure!(
            chain.credit(provider.id).await? == due.credit(provider.id),
            "due {due:?}"
        );
        Ok(())
    })
}
