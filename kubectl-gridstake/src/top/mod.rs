//! `top`: GPUs and jobs as they are, and what was used and earned in the last day.
//!
//! | file | what |
//! |---|---|
//! | [`report`] | what the objects say; pure |
//! | [`text`] | that, for people; pure |
//! | this one | reads the API server |

mod report;
mod text;

use gridstake_crds::{ComputeJob, GpuNode, UsageRecord};
use k8s_openapi::jiff::Timestamp;
use kube::{Api, api::ListParams};

use crate::{Told, cli::TopArgs, cluster, error::PluginError, output::written};

/// Reads and sums.
pub async fn run(args: &TopArgs, now: Timestamp) -> Result<Told, PluginError> {
    let client = cluster::client().await?;
    let all = ListParams::default();
    let nodes: Api<GpuNode> = Api::all(client.clone());
    let jobs: Api<ComputeJob> = Api::all(client.clone());
    let records: Api<UsageRecord> = Api::all(client);
    let mut objects = report::Objects::default();
    let missing = &mut objects.not_read;
    objects.nodes = cluster::list_if_allowed(&nodes, &all, "nodes", missing).await?;
    objects.jobs = cluster::list_if_allowed(&jobs, &all, "jobs", missing).await?;
    objects.records = cluster::list_if_allowed(&records, &all, "use and earnings", missing).await?;
    Ok(Told {
        result: written(&report::report(objects, now), args.output)?,
        note: None,
    })
}
