//! Story 20: a namespace whose payer does not consent, or not to this, pays nothing and is told why.

use gridstake_crds::{UsageRecord, condition};
use gridstake_e2e::{
    payer::{Consent, Payer, annotate},
    prelude::*,
    provider::{nano, tokens},
};
use kube::{Api, api::ListParams};
use serde_json::{Value, json};

/// A second of the year 2000.
const LONG_AGO: u64 = 946_684_800;

#[test]
fn without_a_consent_that_holds_nothing_is_paid_and_the_job_says_why() -> Result<()> {
    paid_story(async |world, tenant, market| {
        let chain = &market.chain;
        let payer = Payer::register(chain, &tenant.namespace).await?;
        payer.deposit(chain, tokens(10)).await?;
        let stranger = Payer::register(chain, &format!("{} stranger", tenant.namespace)).await?;
        stranger.deposit(chain, tokens(10)).await?;
        let well = payer.consent(chain).await?;
        let good = payer.annotations(chain, tenant, well).await?;
        let of_stranger = stranger.annotations(chain, tenant, well).await?;
        let of = |annotations: &Value, key: &str| annotations[key].clone();
        let (name, consent) = ("gridstake.dev/payer", "gridstake.dev/payer-consent");

        let expired = Consent {
            expires: LONG_AGO,
            ..well
        };
        let small = Consent {
            daily_cap: nano(1000),
            ..well
        };
        let mut raised: Value =
            serde_json::from_str(of(&good, consent).as_str().context("the consent")?)?;
        raised["dailyCap"] = json!("2000000");
        let cases = [
            (
                "none",
                json!({(name): of(&good, name), (consent): null}),
                ComputeJobReason::PayerNotConsenting,
                format!("names payer {} without that payer's consent", payer.id),
            ),
            (
                "anothers",
                json!({(name): of(&good, name), (consent): of(&of_stranger, consent)}),
                ComputeJobReason::PayerNotConsenting,
                format!("not by the account's owner {}", payer.owner.address()),
            ),
            (
                "of-another-account",
                json!({(name): of(&of_stranger, name), (consent): of(&good, consent)}),
                ComputeJobReason::PayerNotConsenting,
                format!("not by the account's owner {}", stranger.owner.address()),
            ),
            (
                "altered",
                json!({(name): of(&good, name), (consent): raised.to_string()}),
                ComputeJobReason::PayerNotConsenting,
                format!("not by the account's owner {}", payer.owner.address()),
            ),
            (
                "expired",
                payer.annotations(chain, tenant, expired).await?,
                ComputeJobReason::PayerNotConsenting,
                "ended at 2000-01-01T00:00:00Z".into(),
            ),
            (
                "over-the-cap",
                payer.annotations(chain, tenant, small).await?,
                ComputeJobReason::EscrowExhausted,
                "more than the daily cap of the payer's consent".into(),
            ),
        ];
        for (case, annotations, reason, expected) in cases {
            is_refused(tenant, case, &annotations, reason, &expected).await?;
        }
        let records: Api<UsageRecord> = Api::namespaced(world.client.clone(), &world.namespace);
        let records = records.list(&ListParams::default()).await?;
        let own = records
            .iter()
            .filter(|r| r.spec.job.namespace == tenant.namespace)
            .count();
        ensure!(own == 0, "{own} slices were recorded");
        for payer in [&payer, &stranger] {
            let balance = payer.balance(chain).await?;
            ensure!(
                u128::from(balance) == tokens(10).nano(),
                "payer {} paid: {balance} is left",
                payer.id
            );
        }

        // With the consent everything is well.
        annotate(tenant, &good).await?;
        let welcome = tenant.submit(&job("welcome", 1).works_for(1)).await?;
        welcome.until_complete().await?;
        Ok(())
    })
}

#[test]
fn a_consent_is_not_inherited_by_another_namespace() -> Result<()> {
    paid_story(async |world, tenant, market| {
        let chain = &market.chain;
        let other = Tenant::settle(world, "another-namespace").await?;
        let payer = Payer::of_tenant(chain, &other, tokens(10)).await?;
        let consent = payer.consent(chain).await?;
        annotate(tenant, &payer.annotations(chain, &other, consent).await?).await?;
        let refused = tenant.submit(&job("refused", 1).works_for(1)).await?;
        let message = refused
            .until_condition(
                ComputeJobCondition::Admitted,
                false,
                ComputeJobReason::PayerNotConsenting,
            )
            .await?;
        let left = other.leave(world).await;
        ensure!(
            message.contains("this namespace"),
            "{message:?} does not say that the consent is for another namespace"
        );
        left
    })
}

/// Fails unless a job that is submitted with these annotations is refused for this reason, with words that mend it.
async fn is_refused(
    tenant: &Tenant,
    case: &str,
    annotations: &Value,
    reason: ComputeJobReason,
    expected: &str,
) -> Result<()> {
    annotate(tenant, annotations).await?;
    let refused = tenant.submit(&job(case, 1).works_for(1)).await?;
    // It may first be refused for what the namespace said before.
    let message = refused
        .until(&format!("it is refused: {expected}"), |s| {
            let stated = condition::find(&s.conditions, ComputeJobCondition::Admitted)?;
            let fits = stated.status == "False"
                && stated.reason == reason.to_string()
                && stated.message.contains(expected);
            fits.then(|| stated.message.clone())
        })
        .await?;
    ensure!(
        message.contains("kubectl gridstake consent") && message.contains(&tenant.namespace),
        "{case}: {message:?} does not say what mends it"
    );
    let status = refused.status().await?;
    ensure!(
        status.placement.is_none(),
        "{case}: it was placed although nobody pays"
    );
    refused.delete().await?;
    refused.until_gone().await?;
    Ok(())
}
