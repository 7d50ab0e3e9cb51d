//! `explain`: why a job, a node or an incident is where it is, and what to do next.
//!
//! | file | what |
//! |---|---|
//! | [`job`], [`node`], [`incident`] | what the objects say; pure |
//! | [`job_text`], [`node_text`], [`incident_text`] | that, for people; pure |
//! | [`next_steps`] | what to do next, by reason; pure |
//! | [`conditions`], [`waiting`], [`weight`] | parts of it; pure |
//! | this one | reads the API server |

pub mod conditions;
mod incident;
mod incident_text;
mod job;
mod job_text;
mod next_steps;
pub mod node;
pub mod node_text;
pub mod waiting;
mod weight;

use std::collections::BTreeSet;

use futures::{StreamExt as _, stream};
use gridstake_crds::{ComputeJob, GpuNode, Incident, StakeBinding, UsageRecord};
use k8s_openapi::jiff::Timestamp;
use kube::{Api, Client, ResourceExt as _, api::ListParams};

use crate::{
    Told,
    cli::{ExplainArgs, Explained, JobName},
    cluster::{self, Named, Sight},
    error::PluginError,
    output::{Format, written},
};

/// How many nodes are read at one time.
const NODES_AT_ONCE: usize = 16;

/// Explains.
pub async fn run(args: &ExplainArgs, now: Timestamp) -> Result<Told, PluginError> {
    let client = cluster::client().await?;
    let result = match &args.what {
        Explained::Job(args) => {
            let name = args
                .job
                .in_namespace(args.namespace.as_deref(), client.default_namespace())?;
            of_job(&client, &name, args.output).await?
        }
        Explained::Node(args) => of_node(&client, &args.name, args.output, now).await?,
        Explained::Incident(args) => of_incident(&client, &args.name, args.output, now).await?,
    };
    Ok(Told { result, note: None })
}

async fn of_job(client: &Client, name: &JobName, format: Format) -> Result<String, PluginError> {
    let jobs: Api<ComputeJob> = Api::namespaced(client.clone(), &name.namespace);
    let plural = format!("computejobs -n {}", name.namespace);
    let named = Named {
        flag: "job",
        kind: "ComputeJob",
        plural: &plural,
        name: &name.name,
    };
    let job = cluster::read(&jobs, named).await?;
    let mut beside = job::Beside::default();
    let placement = job
        .status
        .as_ref()
        .and_then(|status| status.placement.as_ref());
    if let Some(placement) = placement {
        let on: BTreeSet<&str> = placement
            .nodes
            .iter()
            .map(|member| member.node.as_str())
            .collect();
        let nodes: Api<GpuNode> = Api::all(client.clone());
        let nodes = &nodes;
        let seen: Vec<_> = stream::iter(on)
            .map(|name| cluster::look(nodes, "GpuNode", name))
            .buffered(NODES_AT_ONCE)
            .collect()
            .await;
        for sight in seen {
            match sight? {
                Sight::Seen(node) => {
                    beside.nodes.insert(node.name_any(), *node);
                }
                Sight::Gone(what) => beside.not_read.push(format!("{what} is gone")),
                // One such line says it of all.
                Sight::Forbidden(why) => {
                    beside.not_read.push(format!("the weights of nodes: {why}"));
                    break;
                }
            }
        }
        beside.bindings = cluster::list_if_allowed(
            &Api::all(client.clone()),
            &ListParams::default(),
            "the stakes of nodes",
            &mut beside.not_read,
        )
        .await?
        .unwrap_or_default();
    }
    if let Some(uid) = job.uid() {
        let of_job = ListParams::default().fields(&format!("spec.job.uid={uid}"));
        let records: Api<UsageRecord> = Api::all(client.clone());
        beside.records = cluster::list_if_allowed(
            &records,
            &of_job,
            "the records of its use",
            &mut beside.not_read,
        )
        .await?
        .unwrap_or_default();
    }
    written(&job::explain(&job, beside), format)
}

async fn of_node(
    client: &Client,
    name: &str,
    format: Format,
    now: Timestamp,
) -> Result<String, PluginError> {
    let nodes: Api<GpuNode> = Api::all(client.clone());
    let node = cluster::read(&nodes, Named::node(name)).await?;
    let mut beside = node::Beside::default();
    let missing = &mut beside.not_read;
    let all = ListParams::default();
    let of_node = ListParams::default().fields(&format!("spec.subject.nodeName={name}"));
    let bindings: Api<StakeBinding> = Api::all(client.clone());
    let jobs: Api<ComputeJob> = Api::all(client.clone());
    let incidents: Api<Incident> = Api::all(client.clone());
    beside.bindings = cluster::list_if_allowed(&bindings, &all, "its stake", missing)
        .await?
        .unwrap_or_default();
    beside.jobs = cluster::list_if_allowed(&jobs, &all, "the jobs on it", missing)
        .await?
        .unwrap_or_default();
    beside.incidents = cluster::list_if_allowed(&incidents, &of_node, "its incidents", missing)
        .await?
        .unwrap_or_default();
    written(&node::explain(&node, beside, now), format)
}

async fn of_incident(
    client: &Client,
    name: &str,
    format: Format,
    now: Timestamp,
) -> Result<String, PluginError> {
    let incidents: Api<Incident> = Api::all(client.clone());
    let named = Named {
        flag: "incident",
        kind: "Incident",
        plural: "incidents",
        name,
    };
    let incident = cluster::read(&incidents, named).await?;
    written(&incident::explain(&incident, now), format)
}
