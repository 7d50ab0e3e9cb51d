//! Story 46: whoever is on call sees what goes on. A Prometheus scrapes the release as the chart says while jobs are paid: every panel of
//! every dashboard shows something, every alert looks at series that exist, and none of them speaks of a cluster that is well.

use std::collections::BTreeSet;

use gridstake_e2e::{
    archive,
    monitoring::{self, Query},
    payer::Payer,
    prelude::*,
    prometheus::Prometheus,
    provider::tokens,
};

/// How often a few more jobs run and are paid before anything is asked. 0 unless it is set: `make pictures` wants more to draw.
const ROUNDS: &str = "E2E_ROUNDS";

#[test]
fn every_panel_has_a_series_and_no_alert_speaks_while_jobs_are_paid() -> Result<()> {
    paid_story(async |world, tenant, market| {
        if archive::folder(world).await?.is_none() {
            eprintln!("this world has no archive on this machine: its panels would be empty");
            return Ok(());
        }
        Payer::of_tenant(&market.chain, tenant, tokens(100)).await?;
        let prometheus = Prometheus::start(world).await?;
        until_everything_is_scraped(world, &prometheus).await?;
        let rounds = std::env::var(ROUNDS).map_or(Ok(0), |text| text.parse())?;
        for round in 0..rounds {
            some_jobs_are_paid(world, tenant, round).await?;
        }

        let long = tenant.submit(&job("seen", 2).runs_until_released()).await?;
        long.until_running().await?;
        long.until("a slice of it is paid for good while it runs", |status| {
            (status.settlement.as_ref()?.finalized > 0).then_some(())
        })
        .await?;
        until_every_query_has_a_series(&prometheus, monitoring::queries()?).await?;
        until_every_alert_has_its_series(&prometheus).await?;

        long.release().await?;
        long.until_complete().await?;
        long.until_settled().await?;
        until_no_alert_speaks(&prometheus).await
    })
}

/// Waits until every replica of the operator and every agent is scraped, and the rules are evaluated.
async fn until_everything_is_scraped(world: &World, prometheus: &Prometheus) -> Result<()> {
    for (component, job) in [
        ("operator", "gridstake-operator-metrics"),
        ("device-agent", "gridstake-device-agent-metrics"),
    ] {
        let pods = world.pods_of(component).await?.len();
        let query = format!("sum(up{{job={job:?}}})");
        look_until(&format!("all of {job} is scraped"), || async {
            let up = prometheus.count(&query).await?;
            let all = up == Some(u64::try_from(pods)?);
            Ok(Look::whether(all, || format!("{up:?} of {pods} pods")))
        })
        .await?;
    }
    let alerts = monitoring::alerts()?.len();
    look_until("the chart's alerts are evaluated", || async {
        let rules = prometheus.count("sum(prometheus_rule_group_rules)").await?;
        let all = rules == Some(u64::try_from(alerts)?);
        Ok(Look::whether(all, || format!("{rules:?} of {alerts}")))
    })
    .await
}

/// A GPU of one node works for a while, and a gang on another node for a shorter one.
async fn some_jobs_are_paid(world: &World, tenant: &Tenant, round: u32) -> Result<()> {
    let (node, others) = world.one_and_the_others()?;
    let other = others.first().context("there is only one node")?;
    let one = job(&format!("one-{round}"), 1)
        .on_node(&node.name)
        .works_for(25);
    let gang = job(&format!("gang-{round}"), 1 + round % 2)
        .members(2)
        .on_node(&other.name)
        .works_for(12);
    let (one, gang) = (tenant.submit(&one).await?, tenant.submit(&gang).await?);
    for job in [one, gang] {
        job.until_complete().await?;
        job.until_settled().await?;
    }
    Ok(())
}

/// Waits until each of `queries` has returned a series; names those that have not.
async fn until_every_query_has_a_series(
    prometheus: &Prometheus,
    queries: Vec<Query>,
) -> Result<()> {
    let missing = tokio::sync::Mutex::new(queries);
    look_until(
        "every query of the dashboards has returned a series",
        || async {
            let mut missing = missing.lock().await;
            let mut still = Vec::new();
            for query in std::mem::take(&mut *missing) {
                match prometheus.series(&query.expression).await {
                    Ok(series) if !series.is_empty() => {}
                    Ok(_) => still.push((query, String::new())),
                    Err(error) => still.push((query, format!(": {error:#}"))),
                }
            }
            let words: Vec<String> = still
                .iter()
                .map(|(query, error)| format!("{} asks {}{error}", query.place, query.expression))
                .collect();
            *missing = still.into_iter().map(|(query, _)| query).collect();
            Ok(Look::whether(words.is_empty(), || {
                format!("no series yet:\n{}", words.join("\n"))
            }))
        },
    )
    .await
}

/// Waits until there is a series for everything that alerts look at.
async fn until_every_alert_has_its_series(prometheus: &Prometheus) -> Result<()> {
    let alerts = monitoring::alerts()?;
    let chosen: BTreeSet<String> = alerts
        .iter()
        .flat_map(|alert| monitoring::selectors(&alert.expression))
        .collect();
    look_until("there are series for all that alerts look at", || async {
        let mut missing = Vec::new();
        for selector in &chosen {
            if prometheus.series(selector).await?.is_empty() {
                missing.push(selector.as_str());
            }
        }
        Ok(Look::whether(missing.is_empty(), || missing.join(", ")))
    })
    .await
}

/// Waits until no alert has anything to say, not even one that would fire later only; fails if one has fired before.
async fn until_no_alert_speaks(prometheus: &Prometheus) -> Result<()> {
    for alert in monitoring::alerts()? {
        look_until(&format!("{} has nothing to say", alert.name), || async {
            let series = prometheus.series(&alert.expression).await?;
            Ok(Look::whether(series.is_empty(), || format!("{series:?}")))
        })
        .await?;
    }
    let fired = "count by (alertname) (count_over_time(ALERTS{alertstate=\"firing\"}[1d]))";
    let fired = prometheus.series(fired).await?;
    ensure!(fired.is_empty(), "of a cluster that is well: {fired:?}");
    let failures = "sum(prometheus_rule_evaluation_failures_total)";
    let failures = prometheus.count(failures).await?;
    ensure!(failures == Some(0), "{failures:?} evaluations failed");
    Ok(())
}
