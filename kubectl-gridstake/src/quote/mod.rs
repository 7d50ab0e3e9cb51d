//! `quote`: what a job would cost and how long it would wait on today's offers, before it is submitted.
//!
//! | file | what |
//! |---|---|
//! | [`args`] | the command line |
//! | [`request`], [`fleet`] | the job and the nodes as the log of decisions has them; pure |
//! | [`report`] | who could take it, what that costs, how long it waits, and all of it for people; pure |
//! | [`reference`] | prices elsewhere; pure |
//! | this one | reads the job's file and the API server |
//!
//! Which nodes fit and how one of them is drawn is what [`crate::replay`] makes again.

pub mod args;
mod fleet;
mod reference;
mod report;
mod request;

use std::{collections::BTreeMap, io::Read as _};

use gridstake_crds::{ComputeJob, GpuNode, StakeBinding, names::ANNOTATION_CHAIN};
use k8s_openapi::{
    api::core::v1::{Namespace, Node},
    jiff::Timestamp,
};
use kube::{Api, ResourceExt as _, api::ListParams};

use self::{
    args::QuoteArgs,
    reference::References,
    report::{Question, quote},
    request::Surroundings,
};
use crate::{
    Told,
    cluster::{self, Sight},
    error::PluginError,
    output::written,
};

/// Quotes.
pub async fn run(args: &QuoteArgs, now: Timestamp) -> Result<Told, PluginError> {
    let job = parsed(&text(&args.filename)?)?;
    let client = cluster::client().await?;
    let namespace = namespace(&job, args.namespace.as_deref(), client.default_namespace())?;
    let all = ListParams::default();
    let gpu_nodes: Api<GpuNode> = Api::all(client.clone());
    let bindings: Api<StakeBinding> = Api::all(client.clone());
    let kube_nodes: Api<Node> = Api::all(client.clone());
    let jobs: Api<ComputeJob> = Api::all(client.clone());
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let [mut a, mut b, mut c] = [Vec::new(), Vec::new(), Vec::new()];
    let (gpu_nodes, bindings, kube_nodes, jobs, of_namespace) = tokio::try_join!(
        async {
            cluster::list(&gpu_nodes, &all)
                .await
                .map_err(|source| PluginError::Read {
                    what: "the GpuNodes (the ClusterRole gridstake-viewer lets you)".to_owned(),
                    source: Box::new(source),
                })
        },
        cluster::list_if_allowed(&bindings, &all, "stakes", &mut a),
        cluster::list_if_allowed(&kube_nodes, &all, "nodes", &mut b),
        cluster::list_if_allowed(&jobs, &all, "the queue", &mut c),
        cluster::look(&namespaces, "namespace", &namespace),
    )?;
    let mut notes = Vec::new();
    let has_chain = fleet::has_chain(&gpu_nodes);
    if bindings.is_none() && has_chain {
        notes.push(
            "the StakeBindings may not be read: what nodes weigh is not known, so none can be drawn"
                .to_owned(),
        );
    }
    notes.push(if kube_nodes.is_some() {
        "of CPU and memory, what nodes have is looked at and not what is free of it; nor when a provider's window closes".to_owned()
    } else {
        "the Nodes may not be read: labels, taints, CPU and memory are not looked at, nor when a provider's window closes".to_owned()
    });
    if request::is_sampled(&job) {
        notes.push(
            "spec.verification samples: where the lot falls on the job, each further run is paid, too"
                .to_owned(),
        );
    }
    let (labels, chain) = match of_namespace {
        Sight::Seen(namespace) => (
            namespace.labels().clone(),
            namespace.annotations().get(ANNOTATION_CHAIN).cloned(),
        ),
        Sight::Gone(_) | Sight::Forbidden(_) => {
            notes.push(format!(
                "the labels and the chain of namespace {namespace} are not known"
            ));
            (BTreeMap::new(), None)
        }
    };
    let around = Surroundings {
        namespace_labels: labels,
        chain,
        has_chain,
        knows_nodes: kube_nodes.is_some(),
    };
    let request = request::of_job(&job, &around)
        .map_err(|words| PluginError::Unfit(format!("--filename: {words}")))?;
    let by_name: BTreeMap<String, Node> = kube_nodes
        .unwrap_or_default()
        .into_iter()
        .map(|node| (node.name_any(), node))
        .collect();
    let bindings = bindings.unwrap_or_default();
    let fleet = gpu_nodes
        .iter()
        .map(|node| fleet::of_node(node, by_name.get(&node.name_any()), &bindings))
        .collect();
    let references = References::own().map_err(|error| PluginError::Output(Box::new(error)))?;
    let report = quote(Question {
        job: &job,
        namespace,
        request,
        fleet,
        jobs,
        references: &references,
        usd_per_token: args.usd_per_token,
        notes,
        now_ms: now.as_millisecond(),
    });
    Ok(Told {
        result: written(&report, args.output)?,
        note: None,
    })
}

fn text(filename: &str) -> Result<String, PluginError> {
    let read = if filename == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        std::fs::read_to_string(filename)
    };
    read.map_err(|error| {
        PluginError::Unfit(format!(
            "--filename: {filename} cannot be read: {error}: name a file with a ComputeJob, or - for standard input"
        ))
    })
}

fn parsed(text: &str) -> Result<ComputeJob, PluginError> {
    serde_saphyr::from_str(text).map_err(|error| {
        PluginError::Unfit(format!(
            "--filename: it holds no ComputeJob: {error}: write one as for `kubectl apply`"
        ))
    })
}

/// The job's namespace, else that of the flag, else that of the context.
fn namespace(job: &ComputeJob, flag: Option<&str>, default: &str) -> Result<String, PluginError> {
    let own = job.metadata.namespace.as_deref();
    if let (Some(own), Some(flag)) = (own, flag)
        && own != flag
    {
        return Err(PluginError::Unfit(format!(
            "--namespace: it is {flag}, and the file names {own}: leave one of them out"
        )));
    }
    Ok(own.or(flag).unwrap_or(default).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const JOB: &str = "
apiVersion: gridstake.dev/v1alpha1
kind: ComputeJob
metadata: {name: train, namespace: team-a}
spec:
  gpu: {count: 2}
  template: {spec: {containers: [{name: c, image: i}]}}
";

    #[test]
    fn a_job_is_read_as_kubectl_takes_it() {
        let job = parsed(JOB).unwrap();
        assert_eq!(job.spec.gpu.count, 2);
        let words = parsed("kind: Job").unwrap_err().to_string();
        assert!(
            words.starts_with("--filename: it holds no ComputeJob")
                && words.ends_with("`kubectl apply`"),
            "{words}"
        );
    }

    #[test]
    fn a_job_is_quoted_for_its_own_namespace() {
        let job = parsed(JOB).unwrap();
        let of = |flag| namespace(&job, flag, "default").map_err(|error| error.to_string());
        assert_eq!(of(None), Ok("team-a".to_owned()));
        assert_eq!(of(Some("team-a")), Ok("team-a".to_owned()));
        assert!(
            of(Some("team-b"))
                .unwrap_err()
                .contains("the file names team-a")
        );
        let bare = parsed(&JOB.replace(", namespace: team-a", "")).unwrap();
        assert_eq!(namespace(&bare, None, "default").unwrap(), "default");
        assert_eq!(namespace(&bare, Some("x"), "default").unwrap(), "x");
    }
}
