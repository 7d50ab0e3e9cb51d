//! A job of a story: what it says, and what is waited for in it.

use anyhow::{Context as _, Result, ensure};
use futures::future::try_join_all;
use gridstake_crds::{
    ComputeJob,
    closed_enum::ClosedEnum as _,
    compute_job::{ComputeJobCondition, ComputeJobReason, ComputeJobStatus, Placement},
    condition,
    names::LABEL_JOB,
};
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::Condition};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, LogParams, Patch, PatchParams},
};
use serde_json::json;

use crate::{
    command::kubectl,
    identity,
    wait::{Look, look_until, sight, try_until, watch_until_gone, watch_until_or_never},
    world::World,
};

/// The node of the first member of a job that has a place.
pub fn first_node(status: &ComputeJobStatus) -> Result<String> {
    let placement = status.active_placement().context("it has a place")?;
    let first = placement.nodes.first().context("it has a member")?;
    Ok(first.node.clone())
}

/// A job of a story.
#[derive(Clone)]
pub struct Job {
    /// Its name.
    pub name: String,
    namespace: String,
    jobs: Api<ComputeJob>,
    pods: Api<Pod>,
}

impl Job {
    /// The job `name` in `namespace`.
    #[must_use]
    pub fn new(client: Client, namespace: &str, name: &str) -> Self {
        Self {
            name: name.into(),
            namespace: namespace.into(),
            jobs: Api::namespaced(client.clone(), namespace),
            pods: Api::namespaced(client, namespace),
        }
    }

    /// The job as it is now.
    pub async fn get(&self) -> Result<ComputeJob> {
        self.jobs
            .get(&self.name)
            .await
            .with_context(|| format!("get ComputeJob {}", self.name))
    }

    /// Its status as it is now.
    pub async fn status(&self) -> Result<ComputeJobStatus> {
        Ok(self.get().await?.status.unwrap_or_default())
    }

    /// Waits until `fact` finds in the job what it looks for.
    pub async fn until<T>(
        &self,
        what: &str,
        mut fact: impl FnMut(&ComputeJobStatus) -> Option<T>,
    ) -> Result<T> {
        self.until_or_never(what, |status| match fact(status) {
            Some(found) => Look::Yes(found),
            None => Look::NotYet(String::new()),
        })
        .await
    }

    /// Waits until `look` finds in the job what it looks for, or that it will never find it.
    pub async fn until_or_never<T>(
        &self,
        what: &str,
        mut look: impl FnMut(&ComputeJobStatus) -> Look<T>,
    ) -> Result<T> {
        watch_until_or_never(&self.jobs, &self.name, what, |job| {
            match job.and_then(|j| j.status.as_ref()).map(&mut look) {
                Some(Look::NotYet(_)) | None => Look::NotYet(sight(job)),
                Some(seen) => seen,
            }
        })
        .await
    }

    /// Waits until a condition has this status and reason, and returns its message.
    pub async fn until_condition(
        &self,
        which: ComputeJobCondition,
        holds: bool,
        reason: ComputeJobReason,
    ) -> Result<String> {
        let status = if holds { "True" } else { "False" };
        let what = format!("{which} is {status} for {reason}");
        let stated = |c: &&Condition| c.status == status && c.reason == reason.as_str();
        self.until(&what, |s| {
            condition::find(&s.conditions, which)
                .filter(stated)
                .map(|c| c.message.clone())
        })
        .await
    }

    /// Waits until all members run; at once an error where the job ends instead.
    pub async fn until_running(&self) -> Result<ComputeJobStatus> {
        self.until_or_never("all members run", |s| {
            if condition::is_true(&s.conditions, ComputeJobCondition::Running) {
                Look::Yes(s.clone())
            } else if let Some(reason) = s.end_reason {
                Look::Never(format!("it has ended: {reason}: {:?}", s.attempts))
            } else {
                Look::NotYet(String::new())
            }
        })
        .await
    }

    /// Waits until the job is complete; at once an error where it fails.
    pub async fn until_complete(&self) -> Result<ComputeJobStatus> {
        self.until_or_never("it is complete", |s| {
            if condition::is_true(&s.conditions, ComputeJobCondition::Complete) {
                Look::Yes(s.clone())
            } else if condition::is_true(&s.conditions, ComputeJobCondition::Failed) {
                Look::Never(format!(
                    "it has failed: {:?}: {:?}",
                    s.end_reason, s.attempts
                ))
            } else {
                Look::NotYet(String::new())
            }
        })
        .await
    }

    /// Waits until every slice of the job, which has ended, is paid for good.
    pub async fn until_settled(&self) -> Result<ComputeJobStatus> {
        self.until("every slice is paid for good", |s| {
            condition::is_true(&s.conditions, ComputeJobCondition::Settled).then(|| s.clone())
        })
        .await
    }

    /// Waits until all that the job has used is billed.
    pub async fn until_metered(&self) -> Result<ComputeJobStatus> {
        self.until("what it used is billed", |s| {
            condition::is_true(&s.conditions, ComputeJobCondition::Metered).then(|| s.clone())
        })
        .await
    }

    /// Waits until the job has failed; at once an error where it completes.
    pub async fn until_failed(&self) -> Result<ComputeJobStatus> {
        self.until_or_never("it has failed", |s| {
            if condition::is_true(&s.conditions, ComputeJobCondition::Failed) {
                Look::Yes(s.clone())
            } else if condition::is_true(&s.conditions, ComputeJobCondition::Complete) {
                Look::Never("it is complete".into())
            } else {
                Look::NotYet(String::new())
            }
        })
        .await
    }

    /// Waits until the attempt with this number, or a later one, has its nodes.
    pub async fn until_placed(&self, attempt: u32) -> Result<Placement> {
        let placed = |s: &ComputeJobStatus| s.placement.clone().filter(|p| p.attempt >= attempt);
        self.until(&format!("attempt {attempt} has its nodes"), placed)
            .await
    }

    /// Waits until the job waits for a place because nodes lack capacity, and returns what it says.
    pub async fn until_it_waits(&self) -> Result<String> {
        self.until_condition(
            ComputeJobCondition::Scheduled,
            false,
            ComputeJobReason::InsufficientCapacity,
        )
        .await
    }

    /// Waits until the job waits for a place because nodes lack capacity, or is held back after a failed attempt.
    pub async fn until_it_waits_or_backs_off(&self) -> Result<()> {
        let waits = [
            ComputeJobReason::InsufficientCapacity.as_str(),
            ComputeJobReason::BackingOff.as_str(),
        ];
        self.until("it waits for a place or backs off", |s| {
            condition::find(&s.conditions, ComputeJobCondition::Scheduled)
                .filter(|c| c.status == "False" && waits.contains(&c.reason.as_str()))
                .map(drop)
        })
        .await
    }

    /// Its pods that exist, by name.
    pub async fn pods(&self) -> Result<Vec<Pod>> {
        let selector = format!("{LABEL_JOB}={}", self.name);
        let mut pods = self
            .pods
            .list(&ListParams::default().labels(&selector))
            .await?
            .items;
        pods.sort_by_key(ResourceExt::name_any);
        Ok(pods)
    }

    /// Waits until this many pods of it exist, and returns them.
    pub async fn until_it_has_pods(&self, count: usize) -> Result<Vec<Pod>> {
        look_until(&format!("job {} has {count} pods", self.name), || async {
            let pods = self.pods().await?;
            let instead = format!(
                "it has {:?}",
                pods.iter().map(ResourceExt::name_any).collect::<Vec<_>>()
            );
            Ok(Look::at((pods.len() == count).then_some(pods), || instead))
        })
        .await
    }

    /// Tells the pods of a job made with [`runs_until_released`](crate::job_manifest::JobManifest::runs_until_released)
    /// to end well.
    pub async fn release(&self) -> Result<()> {
        // One that is on its way out may be on a node that does not answer.
        let running = |pod: &Pod| {
            pod.metadata.deletion_timestamp.is_none()
                && pod.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Running")
        };
        let pods: Vec<_> = self
            .pods()
            .await?
            .into_iter()
            .filter(running)
            .map(|p| p.name_any())
            .collect();
        ensure!(
            !pods.is_empty(),
            "job {} has no running pod to release",
            self.name
        );
        let touch = async |pod: &str| {
            let command = [
                "exec",
                "--namespace",
                &self.namespace,
                pod,
                "--",
                "touch",
                "/tmp/released",
            ];
            match kubectl(command.map(String::from)).await {
                // It was told before, and the answer was lost.
                Err(error) if format!("{error:#}").contains("in a completed pod") => Ok(()),
                told => told.map(drop),
            }
        };
        // A kubelet that has just been started may not know the pod again yet.
        try_until("its pods are told", || {
            try_join_all(pods.iter().map(|pod| touch(pod.as_str())))
        })
        .await
        .map(drop)
    }

    /// The log of a member's pod.
    pub async fn log(&self, pod: &str) -> Result<String> {
        self.pods
            .logs(pod, &LogParams::default())
            .await
            .with_context(|| format!("read the log of {pod}"))
    }

    /// The GPUs that a running or ended pod of it was given, as its program saw them.
    pub async fn devices_seen_by(&self, pod: &str) -> Result<Vec<String>> {
        let line = look_until(&format!("{pod} prints its devices"), || async {
            let log = self.log(pod).await?;
            Ok(Look::at(
                log.lines()
                    .find_map(|l| l.strip_prefix("devices: "))
                    .map(str::to_owned),
                || format!("its log: {log}"),
            ))
        })
        .await?;
        Ok(line
            .split(',')
            .filter(|d| !d.is_empty())
            .map(str::to_owned)
            .collect())
    }

    /// The value of a variable in the environment of a running pod of it.
    pub async fn environment_of(&self, pod: &str, variable: &str) -> Result<String> {
        let command = [
            "exec",
            "--namespace",
            &self.namespace,
            pod,
            "--",
            "sh",
            "-c",
            &format!("echo \"${variable}\""),
        ];
        let printed = kubectl(command.map(String::from)).await?;
        Ok(printed.trim_end().to_owned())
    }

    /// Asks for its deletion.
    pub async fn delete(&self) -> Result<()> {
        self.jobs
            .delete(&self.name, &DeleteParams::background())
            .await
            .map(drop)
            .with_context(|| format!("delete ComputeJob {}", self.name))
    }

    /// Tears it away from its pods, as somebody may who has the operator's rights: it goes at once, without its finalizer.
    pub async fn tear_away(&self, world: &World) -> Result<()> {
        let jobs: Api<ComputeJob> = Api::namespaced(identity::operator(world)?, &self.namespace);
        self.delete().await?;
        let none = Patch::Merge(json!({"metadata": {"finalizers": null}}));
        jobs.patch_metadata(&self.name, &PatchParams::default(), &none)
            .await
            .with_context(|| format!("take the finalizers off ComputeJob {}", self.name))?;
        self.until_gone().await
    }

    /// Waits until it is gone.
    pub async fn until_gone(&self) -> Result<()> {
        watch_until_gone(&self.jobs, &self.name).await
    }
}
