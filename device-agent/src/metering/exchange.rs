//! What metering exchanges with the API server: records come, evidence and the heartbeat's heads go.

use std::{collections::BTreeMap, path::PathBuf};

use kube::Client;
use serde::Serialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    deliver::{Delivered, Deliverer, Wanted},
    records::{self, Records},
    seals::Keeper,
    trouble::Trouble,
};
use crate::{
    local_use::Tenants,
    metrics::Metrics,
    outcome::{Outcomes, Task},
};

/// What the heartbeat says of one open chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Head {
    /// The head of the chain as the API server holds it.
    pub head: String,
    /// Until when a process was seen alive, in Unix milliseconds.
    pub to_ms: u64,
}

/// The heads of the open chains by record.
pub type Heads = BTreeMap<String, Head>;

/// The API server's side of a meter.
pub struct Exchange {
    pub(super) state_dir: PathBuf,
    pub(super) records: watch::Sender<Option<Records>>,
    pub(super) wanted: watch::Receiver<BTreeMap<String, Wanted>>,
    pub(super) delivered: watch::Sender<Delivered>,
    pub(super) heads: watch::Receiver<Heads>,
    pub(super) tenants: watch::Sender<Option<Tenants>>,
    pub(super) trouble: watch::Sender<Trouble>,
}

impl Exchange {
    /// What the heartbeat should say.
    #[must_use]
    pub fn heads(&self) -> watch::Receiver<Heads> {
        self.heads.clone()
    }

    /// The pods of jobs on this node; `None` while the API server has not told them.
    #[must_use]
    pub fn tenants(&self) -> watch::Receiver<Option<Tenants>> {
        self.tenants.subscribe()
    }

    /// What hinders metering.
    #[must_use]
    pub fn trouble(&self) -> watch::Receiver<Trouble> {
        self.trouble.subscribe()
    }

    /// Follows the records of `node` in `namespace` and delivers evidence, until `stop`.
    pub async fn run(
        self,
        client: Client,
        namespace: &str,
        node: &str,
        metrics: &Metrics,
        stop: CancellationToken,
    ) {
        let seals = Keeper::open(&self.state_dir, metrics).await;
        let following = Outcomes::new(Task::Records, metrics);
        let evidence = Outcomes::new(Task::Evidence, metrics);
        let delivery = Deliverer::new(
            client.clone(),
            namespace,
            self.delivered,
            self.trouble,
            evidence,
        );
        tokio::join!(
            records::follow(
                client,
                namespace,
                node,
                self.records,
                seals,
                following,
                stop.clone()
            ),
            delivery.run(self.wanted, stop),
        );
    }
}
