//! A namespace for one story, and the jobs in it.

use std::{collections::BTreeMap, fmt::Debug};

use anyhow::{Context as _, Result};
use gridstake_crds::ComputeJob;
use k8s_openapi::api::core::v1::{Namespace, Pod, ServiceAccount};
use kube::{
    Api, Client, ResourceExt as _,
    api::{
        ApiResource, DeleteParams, DynamicObject, ListParams, ObjectMeta, Patch, PatchParams,
        PostParams,
    },
};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::{
    identity,
    job::Job,
    job_manifest::JobManifest,
    pod_history::PodHistory,
    wait::{Look, look_until, watch_until},
    world::World,
};

/// On the namespaces of stories.
pub const LABEL: &str = "gridstake.dev/e2e-story";

/// Longest part of a test's name in its namespace's name.
const LONGEST_NAME: usize = 40;

/// A namespace for one story.
pub struct Tenant {
    /// A client with the administrator's rights.
    pub client: Client,
    /// The namespace.
    pub namespace: String,
    /// Every pod that has ever been in it.
    pub pods: PodHistory,
}

impl Tenant {
    /// Makes a namespace whose name begins with `name`, and waits until pods can be created in it.
    pub async fn settle(world: &World, name: &str) -> Result<Self> {
        let namespaces: Api<Namespace> = Api::all(world.client.clone());
        let name: String = name.chars().take(LONGEST_NAME).collect();
        let namespace = Namespace {
            metadata: ObjectMeta {
                generate_name: Some(format!("{}-", name.trim_end_matches('-'))),
                labels: Some(BTreeMap::from([(LABEL.into(), "true".into())])),
                ..ObjectMeta::default()
            },
            ..Namespace::default()
        };
        let namespace = namespaces
            .create(&PostParams::default(), &namespace)
            .await
            .context("create a namespace")?
            .name_any();
        let accounts: Api<ServiceAccount> = Api::namespaced(world.client.clone(), &namespace);
        watch_until(&accounts, "default", "exists", |account| account.map(drop)).await?;
        Ok(Self::of_namespace(world, &namespace))
    }

    /// The tenant of a namespace that is there.
    #[must_use]
    pub fn of_namespace(world: &World, namespace: &str) -> Self {
        Self {
            client: world.client.clone(),
            namespace: namespace.to_owned(),
            pods: PodHistory::begin(world.client.clone(), namespace),
        }
    }

    /// Objects of a kind in this namespace.
    #[must_use]
    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
            + Clone
            + DeserializeOwned
            + Debug,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// ComputeJobs as the API server has them, also those that nobody can parse.
    #[must_use]
    pub fn raw_jobs(&self) -> Api<DynamicObject> {
        let kind = ApiResource::erase::<ComputeJob>(&());
        Api::namespaced_with(self.client.clone(), &self.namespace, &kind)
    }

    /// Creates a job.
    pub async fn submit(&self, manifest: &JobManifest) -> Result<Job> {
        let object: DynamicObject = serde_json::from_value(manifest.json().clone())?;
        let name = object.name_any();
        self.raw_jobs()
            .create(&PostParams::default(), &object)
            .await
            .with_context(|| format!("create ComputeJob {name}"))?;
        Ok(self.job(&name))
    }

    /// The job of this name, whether it exists or not.
    #[must_use]
    pub fn job(&self, name: &str) -> Job {
        Job::new(self.client.clone(), &self.namespace, name)
    }

    /// Submits, for each node, a job that takes all its GPUs until it is released, and waits until all run.
    pub async fn fill(&self, world: &World) -> Result<Vec<Job>> {
        let mut jobs = Vec::new();
        for host in &world.hosts {
            let filler = crate::job_manifest::job(&format!("fills-{}", host.name), host.gpus)
                .runs_until_released()
                .on_node(&host.name);
            jobs.push(self.submit(&filler).await?);
        }
        for job in &jobs {
            job.until_running().await?;
        }
        Ok(jobs)
    }

    /// Creates a pod that Gridstake knows nothing of, with `gpus` GPUs of `node`, and waits until it runs. `labels`
    /// must not be Gridstake's.
    pub async fn occupy(&self, name: &str, node: &str, gpus: u32) -> Result<Pod> {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": name},
            "spec": {
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 0,
                "nodeSelector": {"kubernetes.io/hostname": node},
                "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
                "containers": [{
                    "name": "main", "image": crate::job_manifest::IMAGE, "command": ["sleep", "3600"],
                    "resources": {"limits": {"nvidia.com/gpu": gpus}},
                }],
            },
        }))?;
        let pods: Api<Pod> = self.api();
        pods.create(&PostParams::default(), &pod)
            .await
            .with_context(|| format!("create pod {name}"))?;
        watch_until(&pods, name, "runs", |pod| {
            pod.filter(|p| p.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Running"))
                .cloned()
        })
        .await
    }

    /// Removes the namespace and everything in it.
    pub async fn leave(self, world: &World) -> Result<()> {
        Self::remove_namespace(world, &self.namespace).await
    }

    /// Removes `namespace`, its jobs first: their finalizers need the operator. Where it does not let go of them, they
    /// are torn off, and that is an error.
    pub async fn remove_namespace(world: &World, namespace: &str) -> Result<()> {
        let kind = ApiResource::erase::<ComputeJob>(&());
        let jobs: Api<ComputeJob> = Api::namespaced(world.client.clone(), namespace);
        let all: Api<DynamicObject> = Api::namespaced_with(world.client.clone(), namespace, &kind);
        for job in jobs.list_metadata(&ListParams::default()).await? {
            // Not the whole collection at once: that would parse them.
            delete_if_there(&all, &job.name_any(), &DeleteParams::background()).await?;
        }
        let pods: Api<Pod> = Api::namespaced(world.client.clone(), namespace);
        pods.delete_collection(
            &DeleteParams::default(),
            &ListParams::default().labels("!gridstake.dev/job-uid"),
        )
        .await?;
        let gone = look_until("the story's jobs and pods are gone", || {
            let (jobs, pods) = (jobs.clone(), pods.clone());
            async move {
                let mut left: Vec<_> = jobs
                    .list_metadata(&ListParams::default())
                    .await?
                    .iter()
                    .map(|j| format!("ComputeJob {}", j.name_any()))
                    .collect();
                left.extend(
                    pods.list_metadata(&ListParams::default())
                        .await?
                        .iter()
                        .map(|p| format!("Pod {}", p.name_any())),
                );
                Ok(Look::whether(left.is_empty(), || {
                    format!("{} are still there", left.join(", "))
                }))
            }
        })
        .await;
        if gone.is_err() {
            tear_finalizers_off(world, namespace).await?;
        }
        let namespaces: Api<Namespace> = Api::all(world.client.clone());
        namespaces
            .delete(namespace, &DeleteParams::background())
            .await
            .with_context(|| format!("delete namespace {namespace}"))?;
        gone
    }
}

async fn delete_if_there<K>(api: &Api<K>, name: &str, parameters: &DeleteParams) -> Result<()>
where
    K: Clone + Debug + DeserializeOwned,
{
    match api.delete(name, parameters).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        Err(error) => Err(error).with_context(|| format!("delete {name}")),
    }
}

/// Only the operator may take its finalizers off, so it is done in its name.
async fn tear_finalizers_off(world: &World, namespace: &str) -> Result<()> {
    let operator = identity::operator(world)?;
    let none = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    let jobs: Api<ComputeJob> = Api::namespaced(operator.clone(), namespace);
    for job in jobs.list_metadata(&ListParams::default()).await? {
        jobs.patch_metadata(&job.name_any(), &PatchParams::default(), &none)
            .await?;
    }
    let pods: Api<Pod> = Api::namespaced(operator, namespace);
    for pod in pods.list_metadata(&ListParams::default()).await? {
        pods.patch_metadata(&pod.name_any(), &PatchParams::default(), &none)
            .await?;
    }
    Ok(())
}
