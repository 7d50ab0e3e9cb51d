//! Waits for the CustomResourceDefinitions.
//!
//! They are looked up through discovery, which every authenticated client may read: no permission on the definitions
//! themselves is needed, and a kind appears there only once it is established.

use std::{collections::BTreeSet, time::Duration};

use gridstake_crds::{GROUP, VERSION};
use kube::Client;
use tokio_util::sync::CancellationToken;

use crate::{error::chain, health::Health, metrics::Metrics};

const POLL: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(10);

/// Returns once every definition of [`gridstake_crds::all_crds`] is established, or `stop` is cancelled.
///
/// Until then readiness lists what is missing. Liveness does not: a restart would not bring it.
pub async fn wait_for_crds(
    client: &Client,
    health: &Health,
    metrics: &Metrics,
    stop: &CancellationToken,
) {
    let wanted: Vec<String> = gridstake_crds::all_crds()
        .into_iter()
        .map(|crd| crd.spec.names.plural)
        .collect();
    for plural in &wanted {
        health.pending(pending(plural));
    }
    let mut reported = BTreeSet::new();
    let mut failing = false;
    loop {
        match tokio::time::timeout(PATIENCE, established(client)).await {
            Ok(Ok(present)) => {
                failing = false;
                let missing = report(&wanted, &present, health, metrics);
                if missing.is_empty() {
                    return;
                }
                if missing != reported {
                    tracing::warn!(missing = ?missing, "waiting for CustomResourceDefinitions; install the CRD chart");
                    reported = missing;
                }
            }
            Ok(Err(error)) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(
                        error = chain(&error),
                        "could not look for CustomResourceDefinitions"
                    );
                }
            }
            Err(_) => tracing::warn!("could not look for CustomResourceDefinitions in time"),
        }
        tokio::select! {
            () = tokio::time::sleep(POLL) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Plural names of the group's established kinds.
async fn established(client: &Client) -> kube::Result<BTreeSet<String>> {
    match client
        .list_api_group_resources(&format!("{GROUP}/{VERSION}"))
        .await
    {
        Ok(list) => Ok(list
            .resources
            .into_iter()
            .map(|resource| resource.name)
            .collect()),
        // An unknown group is answered in plain text, so only the code tells.
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(BTreeSet::new()),
        Err(error) => Err(error),
    }
}

/// Tells health and metrics what is there, and returns the full names of what is not.
fn report(
    wanted: &[String],
    present: &BTreeSet<String>,
    health: &Health,
    metrics: &Metrics,
) -> BTreeSet<String> {
    let mut missing = BTreeSet::new();
    for plural in wanted {
        let is_missing = !present.contains(plural);
        metrics.set_crd_missing(&full_name(plural), is_missing);
        if is_missing {
            missing.insert(full_name(plural));
        } else {
            health.done(&pending(plural));
        }
    }
    missing
}

fn full_name(plural: &str) -> String {
    format!("{plural}.{GROUP}")
}

fn pending(plural: &str) -> String {
    format!(
        "CustomResourceDefinition {} is not established",
        full_name(plural)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_and_metrics_name_each_missing_definition() {
        let (health, metrics) = (Health::default(), Metrics::new().unwrap());
        let wanted = ["gpunodes".to_owned(), "computejobs".to_owned()];
        for plural in &wanted {
            health.pending(pending(plural));
        }
        let missing = report(
            &wanted,
            &BTreeSet::from(["gpunodes".to_owned()]),
            &health,
            &metrics,
        );
        assert_eq!(
            missing,
            BTreeSet::from(["computejobs.gridstake.dev".to_owned()])
        );
        assert_eq!(
            health.not_ready(),
            ["CustomResourceDefinition computejobs.gridstake.dev is not established"]
        );
        let text = metrics.render().unwrap();
        assert!(text.contains(r#"gridstake_crd_missing{crd="computejobs.gridstake.dev"} 1"#));
        assert!(text.contains(r#"gridstake_crd_missing{crd="gpunodes.gridstake.dev"} 0"#));
    }
}
