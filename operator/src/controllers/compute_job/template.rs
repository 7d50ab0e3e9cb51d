//! Whether a job's spec is sound: what can be said before the API server is asked. Pure.
//!
//! The rules keep three promises: the pods hold exactly the GPUs that the job names, they land on the node that was
//! drawn for them, and a tenant gets no more of a provider's node than a container. Everything else is the API
//! server's to judge, by a dry run.

use gridstake_crds::{compute_job::ComputeJobSpec, names::GPU_RESOURCE};
use k8s_openapi::api::core::v1::{Container, PodSpec, PodTemplateSpec};

use crate::scheduler::quantity;

/// The environment variable through which NVIDIA's runtime is told which devices a container may see.
const VISIBLE_DEVICES: &str = "NVIDIA_VISIBLE_DEVICES";
/// Prefix of the variables that Gridstake sets in every container.
pub const RESERVED_ENV: &str = "GRIDSTAKE_";
/// Prefix of labels and annotations that only Gridstake sets.
const RESERVED_KEYS: &str = "gridstake.dev/";
/// Prefixes of annotations by which container runtimes are asked for devices (CDI), past the device plugin.
const DEVICE_ANNOTATIONS: [&str; 2] = ["cdi.k8s.io/", "nvidia.cdi.k8s.io/"];
/// Resources that are devices of NVIDIA's; a job gets them through `spec.gpu` alone.
const DEVICE_PREFIX: &str = "nvidia.com/";

/// One thing that is wrong with a job's spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where, such as `spec.template.spec.hostNetwork`.
    pub path: String,
    /// What is wrong and what would be right.
    pub remedy: String,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.path, self.remedy)
    }
}

/// Collects faults under a path.
struct Faults(Vec<Fault>);

impl Faults {
    fn add(&mut self, path: impl Into<String>, remedy: impl Into<String>) {
        self.0.push(Fault {
            path: path.into(),
            remedy: remedy.into(),
        });
    }

    fn unless(&mut self, sound: bool, path: &str, remedy: &str) {
        if !sound {
            self.add(path, remedy);
        }
    }
}

/// Everything that is wrong with `spec`; empty if it is sound so far.
#[must_use]
pub fn faults(spec: &ComputeJobSpec) -> Vec<Fault> {
    let mut faults = Faults(Vec::new());
    match spec.template.typed() {
        Ok(template) => {
            check_template(&template, spec.gpu.count, &mut faults);
            if spec.members > 1 {
                check_names(&template, &mut faults);
            }
        }
        Err(error) => faults.add("spec.template", error.to_string()),
    }
    faults.0
}

/// A gang's members are found by the names of their pods.
fn check_names(template: &PodTemplateSpec, faults: &mut Faults) {
    let Some(spec) = &template.spec else { return };
    for (field, given) in [("hostname", &spec.hostname), ("subdomain", &spec.subdomain)] {
        faults.unless(
            given.is_none(),
            &format!("spec.template.spec.{field}"),
            "the members of a gang find one another by the names in GRIDSTAKE_PEERS; remove it",
        );
    }
}

fn check_template(template: &PodTemplateSpec, gpus: u32, faults: &mut Faults) {
    if let Some(metadata) = &template.metadata {
        let keys = [
            ("labels", &metadata.labels),
            ("annotations", &metadata.annotations),
        ];
        for (kind, map) in keys {
            for key in map
                .iter()
                .flatten()
                .map(|(key, _)| key)
                .filter(|key| key.starts_with(RESERVED_KEYS))
            {
                faults.add(
                    format!("spec.template.metadata.{kind}[{key}]"),
                    "keys under gridstake.dev/ are set by Gridstake; remove it",
                );
            }
        }
        for key in metadata.annotations.iter().flatten().map(|(key, _)| key) {
            faults.unless(
                !DEVICE_ANNOTATIONS.iter().any(|prefix| key.starts_with(prefix)),
                &format!("spec.template.metadata.annotations[{key}]"),
                "it asks the container runtime for devices that are not this job's; remove it: GPUs are asked for in spec.gpu",
            );
        }
        let named = metadata.name.is_some() || metadata.generate_name.is_some();
        faults.unless(
            !named,
            "spec.template.metadata.name",
            "pods are named <job>-<attempt>-<member>; remove it",
        );
        faults.unless(
            metadata.finalizers.is_none(),
            "spec.template.metadata.finalizers",
            "finalizers would keep GPUs from being freed; remove them",
        );
    }
    let Some(spec) = &template.spec else {
        faults.add(
            "spec.template.spec",
            "a pod needs a spec with at least one container",
        );
        return;
    };
    check_pod(spec, faults);
    check_affinity(spec, faults);
    for (path, container) in containers(spec) {
        check_container(&path, container, faults);
    }
    check_gpus(spec, gpus, faults);
}

/// Every container with its path, init containers first.
fn containers(spec: &PodSpec) -> impl Iterator<Item = (String, &Container)> {
    let init = spec
        .init_containers
        .iter()
        .flatten()
        .enumerate()
        .map(|(i, c)| (format!("spec.template.spec.initContainers[{i}]"), c));
    init.chain(
        spec.containers
            .iter()
            .enumerate()
            .map(|(i, c)| (format!("spec.template.spec.containers[{i}]"), c)),
    )
}

fn check_pod(spec: &PodSpec, faults: &mut Faults) {
    let off = |flag: Option<bool>| flag != Some(true);
    faults.unless(
        !spec.containers.is_empty(),
        "spec.template.spec.containers",
        "at least one container is needed",
    );
    faults.unless(
        spec.node_name.is_none(),
        "spec.template.spec.nodeName",
        "Gridstake chooses the node; use nodeSelector or affinity to narrow the choice",
    );
    faults.unless(
        spec.scheduling_gates.as_ref().is_none_or(Vec::is_empty),
        "spec.template.spec.schedulingGates",
        "gates are set by Gridstake; remove them, or set spec.suspend to hold the job back",
    );
    faults.unless(
        spec.scheduler_name
            .as_deref()
            .is_none_or(|name| name == "default-scheduler"),
        "spec.template.spec.schedulerName",
        "pods are bound by the default scheduler; remove it",
    );
    faults.unless(
        spec.restart_policy
            .as_deref()
            .is_none_or(|policy| policy == "Never"),
        "spec.template.spec.restartPolicy",
        "must be Never: set spec.retry to have failed attempts repeated",
    );
    faults.unless(
        spec.priority_class_name.is_none() && spec.priority.is_none(),
        "spec.template.spec.priorityClassName",
        "set spec.priorityClassName of the job instead",
    );
    faults.unless(
        spec.preemption_policy.is_none(),
        "spec.template.spec.preemptionPolicy",
        "Gridstake decides on preemption; remove it",
    );
    faults.unless(
        spec.active_deadline_seconds.is_none(),
        "spec.template.spec.activeDeadlineSeconds",
        "set spec.timeouts.run of the job instead",
    );
    faults.unless(
        spec.ephemeral_containers.as_ref().is_none_or(Vec::is_empty),
        "spec.template.spec.ephemeralContainers",
        "cannot be part of a template; remove them",
    );
    faults.unless(
        off(spec.host_network),
        "spec.template.spec.hostNetwork",
        "jobs may not use the host's network; remove it",
    );
    faults.unless(
        off(spec.host_pid),
        "spec.template.spec.hostPID",
        "jobs may not see the host's processes; remove it",
    );
    faults.unless(
        off(spec.host_ipc),
        "spec.template.spec.hostIPC",
        "jobs may not use the host's IPC; remove it",
    );
    faults.unless(
        spec.resource_claims.as_ref().is_none_or(Vec::is_empty),
        "spec.template.spec.resourceClaims",
        "GPUs are asked for in spec.gpu of the job; remove the claims",
    );
    for (i, volume) in spec.volumes.iter().flatten().enumerate() {
        faults.unless(
            volume.host_path.is_none(),
            &format!("spec.template.spec.volumes[{i}].hostPath"),
            "jobs may not mount the host's files; use emptyDir, a claim or a config map",
        );
    }
}

/// An empty term matches no node, and our own pinning could not be added to it.
fn check_affinity(spec: &PodSpec, faults: &mut Faults) {
    let required = spec
        .affinity
        .as_ref()
        .and_then(|a| a.node_affinity.as_ref())
        .and_then(|n| {
            n.required_during_scheduling_ignored_during_execution
                .as_ref()
        });
    for (i, term) in required
        .iter()
        .flat_map(|r| &r.node_selector_terms)
        .enumerate()
    {
        let empty = term.match_expressions.as_ref().is_none_or(Vec::is_empty)
            && term.match_fields.as_ref().is_none_or(Vec::is_empty);
        let path = format!(
            "spec.template.spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[{i}]"
        );
        faults.unless(!empty, &path, "an empty term matches no node; remove it");
    }
}

fn check_container(path: &str, container: &Container, faults: &mut Faults) {
    let privileged = container
        .security_context
        .as_ref()
        .and_then(|c| c.privileged)
        == Some(true);
    faults.unless(
        !privileged,
        &format!("{path}.securityContext.privileged"),
        "jobs may not be privileged; a container gets its GPUs without it",
    );
    for (i, env) in container.env.iter().flatten().enumerate() {
        faults.unless(env.name != VISIBLE_DEVICES, &format!("{path}.env[{i}].name"), "NVIDIA_VISIBLE_DEVICES is set by the device plugin to the devices of this job; remove it");
        faults.unless(
            !env.name.starts_with(RESERVED_ENV),
            &format!("{path}.env[{i}].name"),
            "variables that begin with GRIDSTAKE_ are set by Gridstake; choose another name",
        );
    }
    for (i, port) in container.ports.iter().flatten().enumerate() {
        faults.unless(
            port.host_port.unwrap_or(0) == 0,
            &format!("{path}.ports[{i}].hostPort"),
            "jobs may not open ports of the host; remove it",
        );
    }
}

/// GPUs stand in the limits of containers (not init containers), in whole numbers that add up to `gpus`; none at all
/// is fine, then the first container gets them.
fn check_gpus(spec: &PodSpec, gpus: u32, faults: &mut Faults) {
    let mut named = false;
    let mut total: i128 = 0;
    for (path, container) in containers(spec) {
        let init = path.contains("initContainers");
        let resources = container.resources.clone().unwrap_or_default();
        faults.unless(
            resources.claims.as_ref().is_none_or(Vec::is_empty),
            &format!("{path}.resources.claims"),
            "GPUs are asked for in spec.gpu of the job; remove the claims",
        );
        for (kind, map) in [
            ("limits", &resources.limits),
            ("requests", &resources.requests),
        ] {
            for (name, quantity) in map
                .iter()
                .flatten()
                .filter(|(name, _)| name.starts_with(DEVICE_PREFIX))
            {
                let path = format!("{path}.resources.{kind}[{name}]");
                if name != GPU_RESOURCE {
                    faults.add(path, "only nvidia.com/gpu can be asked for; shares and MIG instances are not offered by this version");
                } else if init {
                    faults.add(
                        path,
                        "init containers get no GPUs; give them to a container",
                    );
                } else if kind == "requests" {
                    let equal = resources
                        .limits
                        .as_ref()
                        .and_then(|limits| limits.get(name))
                        == Some(quantity);
                    faults.unless(equal, &path, "must equal the container's limit; remove it");
                } else {
                    named = true;
                    match quantity::parse_milli(&quantity.0) {
                        Ok(milli) if milli >= 0 && milli % 1000 == 0 => total += milli / 1000,
                        _ => faults.add(
                            path,
                            format!("{:?} is not a whole number of GPUs", quantity.0),
                        ),
                    }
                }
            }
        }
    }
    if named && total != i128::from(gpus) {
        faults.add("spec.template.spec.containers[*].resources.limits[nvidia.com/gpu]", format!("the limits add up to {total}, but spec.gpu.count is {gpus}; make them equal, or leave the limits out and the first container gets all"));
    }
}

#[cfg(test)]
#[path = "template_tests.rs"]
mod tests;
