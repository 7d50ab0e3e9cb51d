//! `replay`: makes decisions of the scheduler again, from the archive alone.
//!
//! | file | what |
//! |---|---|
//! | [`log`] | the parts of the log |
//! | [`walk`] | goes through them, keeps the fleet; pure |
//! | [`redo`], [`fits`], [`cuts`] | make one decision again, without the scheduler's code; pure |

pub mod cuts;
pub mod fits;
mod log;
pub mod redo;
mod walk;

use std::process::ExitCode;

use alloy::primitives::B256;
use gridstake_crds::ComputeJob;
use gridstake_ledger::archive::object_path;
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, ResourceExt as _};
use serde_json::json;

use self::{
    log::{LogError, Wanted, Wrong},
    walk::{Sum, Walk},
};
use crate::{
    cli::{Output, ReplayArgs},
    cluster::{self, Named},
    error::{self, PluginError},
    verify::source::{Source, SourceError},
};

/// It could not be checked.
const UNCHECKED: u8 = 2;

/// Why nothing could be repeated.
#[derive(Debug, thiserror::Error)]
enum ReplayError {
    #[error("start the runtime")]
    Runtime(#[source] std::io::Error),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Cluster(#[from] PluginError),
}

impl From<SourceError> for ReplayError {
    fn from(error: SourceError) -> Self {
        Self::Log(error.into())
    }
}

/// Runs the command.
pub fn run(args: &ReplayArgs) -> ExitCode {
    let replayed = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(ReplayError::Runtime)
        .and_then(|runtime| runtime.block_on(replay(args)));
    match replayed {
        Ok(Ok((cluster, sum))) => {
            println!("{}", right(&cluster, &sum, args.output));
            ExitCode::SUCCESS
        }
        Ok(Err(wrong)) => {
            println!("{}", not_right(&wrong, args.output));
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!(
                "kubectl gridstake: could not replay: {}",
                error::chain(&error)
            );
            ExitCode::from(UNCHECKED)
        }
    }
}

async fn replay(args: &ReplayArgs) -> Result<Result<(String, Sum), Wrong>, ReplayError> {
    let source = Source::open(&args.archive)?;
    let cluster = match &args.cluster {
        Some(cluster) => cluster.clone(),
        None => this_cluster().await?,
    };
    let only = match &args.job {
        Some(job) => Some(decision_of(&job.namespace, &job.name).await?),
        None => args.decision,
    };
    let wanted = only.map_or(Wanted::Everything, Wanted::Decision);
    let parts = match log::find(&source, &cluster, wanted).await? {
        Ok(parts) => parts,
        Err(wrong) => return Ok(Err(wrong)),
    };
    let mut walk = Walk::default();
    for address in parts {
        let part = match log::read(&source, &cluster, address).await? {
            Ok(part) => part,
            Err(wrong) => return Ok(Err(wrong)),
        };
        if let Err(fault) = walk.part(&part, only) {
            return Ok(Err(Wrong {
                file: object_path(address),
                what: format!("byte {}: {}", fault.at, fault.what),
            }));
        }
    }
    Ok(Ok((cluster, walk.sum)))
}

/// The uid of the namespace `kube-system` of the cluster that kubectl would talk to.
async fn this_cluster() -> Result<String, PluginError> {
    let namespaces: Api<Namespace> = Api::all(cluster::client().await?);
    let named = Named {
        flag: "--cluster",
        kind: "Namespace",
        plural: "namespaces",
        name: "kube-system",
    };
    let namespace = cluster::read(&namespaces, named).await?;
    namespace
        .uid()
        .ok_or_else(|| PluginError::Unfit("the Namespace kube-system has no uid".to_owned()))
}

/// The decision that placed a job.
async fn decision_of(namespace: &str, name: &str) -> Result<B256, PluginError> {
    let jobs: Api<ComputeJob> = Api::namespaced(cluster::client().await?, namespace);
    let plural = format!("computejobs -n {namespace}");
    let named = Named {
        flag: "--job",
        kind: "ComputeJob",
        plural: &plural,
        name,
    };
    let job = cluster::read(&jobs, named).await?;
    let placement = job.status.and_then(|status| status.placement);
    placement
        .and_then(|placement| placement.decision.hash.parse().ok())
        .ok_or_else(|| {
            PluginError::Unfit(format!(
                "--job: ComputeJob {namespace}/{name} has no place yet: no decision about it was made"
            ))
        })
}

fn right(cluster: &str, sum: &Sum, output: Output) -> String {
    let Sum {
        equal,
        before_the_fleet,
        undone,
        breaks,
        last,
    } = sum;
    let last = last.map(|hash| hash.to_string());
    if output == Output::Json {
        return json!({
            "replayed": true, "cluster": cluster, "equal": equal, "undone": undone,
            "beforeTheFleet": before_the_fleet, "breaks": breaks, "last": last,
        })
        .to_string();
    }
    let mut lines = vec![format!(
        "replayed: cluster {cluster}: {equal} decisions made again with the same result, {undone} of them not carried out"
    )];
    if *before_the_fleet > 0 {
        lines.push(format!(
            "  {before_the_fleet} decisions could not be made again: the log does not tell the fleet on which they were made any more"
        ));
    }
    if *breaks > 0 {
        lines.push(format!(
            "  {breaks} times a decision follows one that is not in the archive"
        ));
    }
    if let Some(last) = last {
        lines.push(format!("  last decision: {last}"));
    }
    lines.join("\n")
}

fn not_right(wrong: &Wrong, output: Output) -> String {
    let Wrong { file, what } = wrong;
    match output {
        Output::Json => json!({"replayed": false, "file": file, "what": what}).to_string(),
        Output::Text => format!("NOT REPLAYED: {file}: {what}"),
    }
}

#[cfg(test)]
mod tests;
