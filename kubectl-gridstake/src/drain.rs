//! `drain`: takes a node off the market, and puts it back as it was. Jobs that run on it finish.

use std::time::Duration;

use gridstake_crds::{ComputeJob, GpuNode, closed_enum::ClosedEnum as _, gpu_node::OfferMode};
use k8s_openapi::jiff::Timestamp;
use kube::{Api, Client, ResourceExt as _, api::ListParams};
use serde_json::{Value, json};

use crate::{
    Told,
    cli::DrainArgs,
    cluster::{self, Named},
    confirm,
    end::EndTime,
    error::PluginError,
    explain::{
        node::{JobOnNode, jobs_on},
        node_text,
    },
    output::count,
};

/// Annotation of a GpuNode that this command has drained: the mode that it had before.
const ANNOTATION_MODE_BEFORE_DRAIN: &str = "gridstake.dev/mode-before-drain";

/// How often --wait looks for jobs.
const EVERY: Duration = Duration::from_secs(5);

/// What is done about a node.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Plan {
    /// Nothing: it is as it should be.
    Nothing(String),
    /// Its mode is set.
    Set {
        /// The mode that it has.
        from: OfferMode,
        /// The mode that it gets.
        to: OfferMode,
        /// What is merged into it.
        patch: Value,
    },
}

/// Drains, or puts back, and tells what was done.
pub async fn run(args: &DrainArgs, now: Timestamp) -> Result<Told, PluginError> {
    let until = args
        .timeout
        .map(|end| end.seen_from(now, "--timeout"))
        .transpose()?;
    let client = cluster::client().await?;
    let nodes: Api<GpuNode> = Api::all(client.clone());
    let named = Named::node(&args.node);
    let node = cluster::read(&nodes, named).await?;
    let jobs = jobs(&client, &args.node).await?;
    if args.wait && jobs.is_none() {
        return Err(PluginError::Unfit(
            "--wait: the ComputeJobs may not be listed, so it is not known when they are gone: leave --wait out, or ask for the right to list them in all namespaces"
                .to_owned(),
        ));
    }
    let mut told = match plan(&node, args.undo).map_err(PluginError::Unfit)? {
        Plan::Nothing(words) => vec![words],
        Plan::Set { patch, .. } if args.dry_run => {
            return Ok(Told {
                result: format!(
                    "kubectl patch gpunode {} --type merge --patch '{patch}'",
                    args.node
                ),
                note: Some("nothing is written".to_owned()),
            });
        }
        Plan::Set { from, to, patch } => {
            let question = question(&args.node, from, to, jobs.as_deref());
            confirm::ask(&question, args.yes, "nothing is written")?;
            cluster::merge(&nodes, named, &patch).await?;
            vec![format!("node {}: mode {to}, before {from}", args.node)]
        }
    };
    if args.undo {
        return Ok(Told {
            result: told.join("\n"),
            note: None,
        });
    }
    if args.wait {
        eprintln!("{}", told.join("\n"));
        let result = wait(&client, &args.node, until.map(EndTime::seconds)).await?;
        return Ok(Told { result, note: None });
    }
    told.push(still_there(jobs.as_deref()));
    Ok(Told {
        result: told.join("\n"),
        note: None,
    })
}

/// The jobs on the node; `None` where they may not be listed.
async fn jobs(client: &Client, node: &str) -> Result<Option<Vec<JobOnNode>>, PluginError> {
    let jobs: Api<ComputeJob> = Api::all(client.clone());
    let all = ListParams::default();
    let found = cluster::list_if_allowed(&jobs, &all, "jobs", &mut Vec::new()).await?;
    Ok(found.map(|jobs| jobs_on(node, &jobs)))
}

/// What is to be done: the mode before is remembered in an annotation, from which --undo takes it. The object must be as it
/// was read.
fn plan(node: &GpuNode, undo: bool) -> Result<Plan, String> {
    let name = node.name_any();
    let mode = node.spec.mode;
    let remembered = node.annotations().get(ANNOTATION_MODE_BEFORE_DRAIN);
    let (to, memory) = match (undo, mode) {
        (false, OfferMode::Drained) => {
            return Ok(Plan::Nothing(format!("node {name} is drained already")));
        }
        (false, _) => (OfferMode::Drained, json!(mode.to_string())),
        (true, OfferMode::Drained) => {
            let before = remembered.ok_or_else(|| {
                format!(
                    "--undo: node {name} does not say which mode it had, since it was not drained by this command: choose one: kubectl patch gpunode {name} --type merge --patch '{{\"spec\":{{\"mode\":\"Always\"}}}}'"
                )
            })?;
            let mode = OfferMode::ALL
                .iter()
                .find(|mode| mode.as_str() == before && **mode != OfferMode::Drained);
            let mode = mode.ok_or_else(|| {
                format!(
                    "--undo: the annotation {ANNOTATION_MODE_BEFORE_DRAIN} of node {name} is {before:?}, which is no mode to go back to: write Always, IdleOnly or Scheduled into it"
                )
            })?;
            (*mode, Value::Null)
        }
        (true, _) => {
            return Ok(Plan::Nothing(format!(
                "node {name} is not drained: its mode is {mode}"
            )));
        }
    };
    let patch = json!({
        "metadata": {
            "annotations": {(ANNOTATION_MODE_BEFORE_DRAIN): memory},
            "resourceVersion": node.resource_version(),
        },
        "spec": {"mode": to.to_string()},
    });
    Ok(Plan::Set {
        from: mode,
        to,
        patch,
    })
}

/// What is asked before it is done.
fn question(node: &str, from: OfferMode, to: OfferMode, jobs: Option<&[JobOnNode]>) -> String {
    let change = format!("Change node {node} from mode {from} to {to}?");
    if to != OfferMode::Drained {
        return format!("{change} It is offered to jobs again.");
    }
    let stay = match jobs {
        None => "Jobs that run on it finish.".to_owned(),
        Some([]) => "No job runs on it.".to_owned(),
        Some(jobs) => format!(
            "{} on it and will finish.",
            count(jobs.len() as u64, "job is", "jobs are")
        ),
    };
    format!("{change} It gets no new jobs. {stay}")
}

/// Which jobs are still on a node that is drained.
fn still_there(jobs: Option<&[JobOnNode]>) -> String {
    match jobs {
        None => "the ComputeJobs may not be listed: it is not known which ones are still on it"
            .to_owned(),
        Some([]) => "no job is on it".to_owned(),
        Some(jobs) => node_text::jobs("Still on it; they finish:", jobs)
            .join("\n")
            .trim_start()
            .to_owned(),
    }
}

/// Waits until no job is on the node, at most until `until`, in Unix seconds.
async fn wait(client: &Client, node: &str, until: Option<u64>) -> Result<String, PluginError> {
    let mut before: Option<Vec<JobOnNode>> = None;
    loop {
        let left = jobs(client, node).await?.unwrap_or_default();
        if left.is_empty() {
            return Ok("no job is on it".to_owned());
        }
        let now = u64::try_from(Timestamp::now().as_second()).unwrap_or(0);
        let pause = pause(now, until);
        if pause.is_zero() {
            return Err(PluginError::Unfit(format!(
                "--timeout: the node is drained, and {} still on it: run the command again to wait longer",
                count(left.len() as u64, "job is", "jobs are")
            )));
        }
        if before.as_ref() != Some(&left) {
            eprintln!("{}", still_there(Some(&left)));
        }
        before = Some(left);
        tokio::time::sleep(pause).await;
    }
}

/// How long to wait before jobs are looked for again; zero when the time is over. Both times are in Unix seconds.
fn pause(now: u64, until: Option<u64>) -> Duration {
    until.map_or(EVERY, |until| {
        EVERY.min(Duration::from_secs(until.saturating_sub(now)))
    })
}

#[cfg(test)]
#[path = "drain_tests.rs"]
mod tests;
