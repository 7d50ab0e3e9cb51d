//! The pods of an attempt, from the job's template. Pure.

use gridstake_crds::{
    ComputeJob,
    names::{
        FINALIZER_METERING, GATE_PLACEMENT, GPU_RESOURCE, LABEL_ATTEMPT, LABEL_GANG, LABEL_JOB,
        LABEL_JOB_UID, LABEL_MANAGED_BY, LABEL_MEMBER, LABEL_RANK, MANAGED_BY, pod_name,
    },
};
use k8s_openapi::{
    api::core::v1::{
        Affinity, Container, EnvVar, NodeAffinity, NodeSelector, NodeSelectorRequirement,
        NodeSelectorTerm, Pod, PodSchedulingGate, PodSpec, Toleration,
    },
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::ObjectMeta},
};
use kube::{Resource as _, ResourceExt as _};

use super::{kueue, rendezvous};

/// Which pod of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// The attempt, counted from 1.
    pub attempt: u32,
    /// The member, counted from 0.
    pub member: u32,
    /// The rank by which the program and its peers know it.
    pub rank: u32,
    /// How many members of the attempt have had the rank before it.
    pub restarts: u32,
}

impl Member {
    /// One of those with which an attempt begins: its rank is its number.
    #[must_use]
    pub const fn first(attempt: u32, member: u32) -> Self {
        Self {
            attempt,
            member,
            rank: member,
            restarts: 0,
        }
    }
}

/// The pod of `member`, pinned to `node` if one is given.
///
/// A gang's pod carries the scheduling gate until all members exist; a single's carries none, so that it is bound by
/// one write less. `priority_class` is one whose pods preempt nobody.
pub fn pod(
    job: &ComputeJob,
    member: Member,
    node: Option<&str>,
    priority_class: &str,
) -> Result<Pod, serde_json::Error> {
    let template = job.spec.template.typed()?;
    let mut spec = template.spec.unwrap_or_default();
    spec.restart_policy = Some("Never".into());
    spec.priority_class_name = Some(priority_class.into());
    if let Some(termination) = &job.spec.termination {
        spec.termination_grace_period_seconds = Some(i64::from(termination.grace_seconds));
    }
    if rendezvous::is_gang(job) {
        rendezvous::join(&mut spec, job, member.attempt, member.rank);
        spec.scheduling_gates = Some(vec![PodSchedulingGate {
            name: GATE_PLACEMENT.into(),
        }]);
    }
    give_gpus(&mut spec, job.spec.gpu.count);
    tolerate_gpu_taint(&mut spec);
    if let Some(node) = node {
        pin(&mut spec, node);
    }
    let variables = environment(job, member);
    for container in spec
        .init_containers
        .iter_mut()
        .flatten()
        .chain(&mut spec.containers)
    {
        container
            .env
            .get_or_insert_default()
            .extend(variables.iter().cloned());
    }
    Ok(Pod {
        metadata: metadata(job, member, template.metadata.unwrap_or_default()),
        spec: Some(spec),
        status: None,
    })
}

fn metadata(job: &ComputeJob, member: Member, template: ObjectMeta) -> ObjectMeta {
    let mut labels = template.labels.unwrap_or_default();
    let name = job.name_any();
    labels.extend([
        (LABEL_JOB.to_owned(), name.clone()),
        (LABEL_JOB_UID.to_owned(), job.uid().unwrap_or_default()),
        (LABEL_ATTEMPT.to_owned(), member.attempt.to_string()),
        (LABEL_MEMBER.to_owned(), member.member.to_string()),
        (LABEL_MANAGED_BY.to_owned(), MANAGED_BY.to_owned()),
    ]);
    if rendezvous::is_gang(job) {
        labels.extend([
            (LABEL_RANK.to_owned(), member.rank.to_string()),
            (LABEL_GANG.to_owned(), name.clone()),
        ]);
    }
    let mut annotations = template.annotations.unwrap_or_default();
    kueue::enqueue(job, member.attempt, &mut labels, &mut annotations);
    ObjectMeta {
        name: Some(pod_name(&name, member.attempt, member.member)),
        namespace: job.namespace(),
        labels: Some(labels),
        annotations: (!annotations.is_empty()).then_some(annotations),
        finalizers: Some(vec![FINALIZER_METERING.into()]),
        owner_references: Some(job.controller_owner_ref(&()).into_iter().collect()),
        ..ObjectMeta::default()
    }
}

/// What a program needs to know to find its rank and to resume.
fn environment(job: &ComputeJob, member: Member) -> Vec<EnvVar> {
    let variable = |name: &str, value: String| EnvVar {
        name: name.into(),
        value: Some(value),
        value_from: None,
    };
    let mut variables = vec![
        variable("GRIDSTAKE_JOB", job.name_any()),
        variable("GRIDSTAKE_ATTEMPT", member.attempt.to_string()),
        variable("GRIDSTAKE_MEMBER", member.rank.to_string()),
        variable("GRIDSTAKE_MEMBERS", job.spec.members.to_string()),
    ];
    if rendezvous::is_gang(job) {
        let peers = rendezvous::peers(job, member.attempt).join(",");
        variables.push(variable("GRIDSTAKE_PEERS", peers));
        let restarts = member.restarts.to_string();
        variables.push(variable("GRIDSTAKE_RESTART_COUNT", restarts));
    }
    variables
}

/// If no container names GPUs, the first gets all.
fn give_gpus(spec: &mut PodSpec, gpus: u32) {
    let names_gpus = |c: &Container| {
        c.resources
            .as_ref()
            .and_then(|r| r.limits.as_ref())
            .is_some_and(|l| l.contains_key(GPU_RESOURCE))
    };
    if spec.containers.iter().any(names_gpus) {
        return;
    }
    if let Some(first) = spec.containers.first_mut() {
        let limits = first
            .resources
            .get_or_insert_default()
            .limits
            .get_or_insert_default();
        limits.insert(GPU_RESOURCE.into(), Quantity(gpus.to_string()));
    }
}

/// GPU nodes are commonly tainted with the resource's name to keep other pods away (upstream's
/// ExtendedResourceToleration does the same where it is switched on).
fn tolerate_gpu_taint(spec: &mut PodSpec) {
    let toleration = Toleration {
        key: Some(GPU_RESOURCE.into()),
        operator: Some("Exists".into()),
        ..Toleration::default()
    };
    let tolerations = spec.tolerations.get_or_insert_default();
    if !tolerations.contains(&toleration) {
        tolerations.push(toleration);
    }
}

/// Pins the pod by a required affinity on the node's name: kube-scheduler still checks everything, so a lost race
/// leaves the pod pending instead of failing it, as `spec.nodeName` would. Terms are alternatives, so the pin goes
/// into each of them.
fn pin(spec: &mut PodSpec, node: &str) {
    let requirement = NodeSelectorRequirement {
        key: "metadata.name".into(),
        operator: "In".into(),
        values: Some(vec![node.into()]),
    };
    let required = spec
        .affinity
        .get_or_insert_with(Affinity::default)
        .node_affinity
        .get_or_insert_with(NodeAffinity::default)
        .required_during_scheduling_ignored_during_execution
        .get_or_insert_with(NodeSelector::default);
    if required.node_selector_terms.is_empty() {
        required
            .node_selector_terms
            .push(NodeSelectorTerm::default());
    }
    for term in &mut required.node_selector_terms {
        term.match_fields
            .get_or_insert_default()
            .push(requirement.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(members: u32, pod_spec: &str) -> ComputeJob {
        let yaml = format!(
            "{{gpu: {{count: 4}}, members: {members}, template: {{metadata: {{labels: {{app: x}}}}, spec: {pod_spec}}}}}"
        );
        let mut job = ComputeJob::new("train", serde_saphyr::from_str(&yaml).unwrap());
        job.metadata.namespace = Some("team".into());
        job.metadata.uid = Some("11111111-2222-3333-4444-555555555555".into());
        job
    }

    fn built(job: &ComputeJob) -> PodSpec {
        pod(job, Member::first(2, 0), Some("node-a"), "gridstake-job")
            .unwrap()
            .spec
            .unwrap()
    }

    #[test]
    fn a_pod_says_whose_it_is() {
        let pod = pod(
            &job(2, "{containers: [{name: a, image: a}]}"),
            Member::first(2, 1),
            None,
            "gridstake-job",
        )
        .unwrap();
        assert_eq!(pod.name_any(), "train-2-1");
        let labels = pod.labels();
        assert_eq!(labels["app"], "x");
        assert_eq!(
            (
                labels[LABEL_JOB].as_str(),
                labels[LABEL_ATTEMPT].as_str(),
                labels[LABEL_MEMBER].as_str()
            ),
            ("train", "2", "1")
        );
        assert_eq!(pod.owner_references().len(), 1);
        assert_eq!(pod.finalizers(), [FINALIZER_METERING]);
    }

    #[test]
    fn the_pin_goes_into_every_alternative_of_the_tenants_affinity() {
        let affinity = "affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: a, operator: Exists}]}, {matchExpressions: [{key: b, operator: Exists}]}]}}}";
        for (extra, alternatives) in [(affinity, 2), ("nodeSelector: {a: b}", 1)] {
            let spec = built(&job(
                1,
                &format!("{{containers: [{{name: a, image: a}}], {extra}}}"),
            ));
            let required = spec
                .affinity
                .unwrap()
                .node_affinity
                .unwrap()
                .required_during_scheduling_ignored_during_execution
                .unwrap();
            assert_eq!(required.node_selector_terms.len(), alternatives);
            for term in required.node_selector_terms {
                let field = &term.match_fields.unwrap()[0];
                assert_eq!(
                    (field.key.as_str(), field.values.as_deref()),
                    ("metadata.name", Some(&["node-a".to_owned()][..]))
                );
            }
        }
    }

    #[test]
    fn only_the_members_of_a_gang_are_gated() {
        assert!(
            built(&job(1, "{containers: [{name: a, image: a}]}"))
                .scheduling_gates
                .is_none()
        );
        assert_eq!(
            built(&job(2, "{containers: [{name: a, image: a}]}"))
                .scheduling_gates
                .unwrap()[0]
                .name,
            GATE_PLACEMENT
        );
    }

    #[test]
    fn only_the_members_of_a_gang_are_told_of_their_peers() {
        let peers = |members| {
            let spec = built(&job(members, "{containers: [{name: a, image: a}]}"));
            let variables = spec.containers[0].env.clone().unwrap();
            let found = variables.into_iter().find(|v| v.name == "GRIDSTAKE_PEERS");
            (spec.hostname, spec.subdomain, found.and_then(|v| v.value))
        };
        assert_eq!(peers(1), (None, None, None));
        assert_eq!(
            peers(2),
            (
                Some("train-2-0".into()),
                Some("gang-train".into()),
                Some("train-2-0.gang-train.team.svc,train-2-1.gang-train.team.svc".into())
            )
        );
    }

    #[test]
    fn a_member_that_takes_the_place_of_a_lost_one_has_its_rank_and_its_name_and_a_pod_of_its_own()
    {
        let job = job(2, "{containers: [{name: a, image: a}]}");
        let build = |member| pod(&job, member, None, "gridstake-job").unwrap();
        let lost = build(Member::first(2, 1));
        let new = build(Member {
            attempt: 2,
            member: 5,
            rank: 1,
            restarts: 2,
        });
        assert_eq!(
            (lost.name_any(), new.name_any()),
            ("train-2-1".into(), "train-2-5".into())
        );
        let host = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.hostname.clone());
        assert_eq!(
            (host(&lost), host(&new)),
            (Some("train-2-1".into()), host(&lost))
        );
        let label = |pod: &Pod, key: &str| pod.labels().get(key).cloned();
        assert_eq!(label(&new, LABEL_MEMBER), Some("5".into()));
        assert_eq!(label(&new, LABEL_RANK), label(&lost, LABEL_RANK));
        assert_eq!(label(&new, LABEL_GANG), Some("train".into()));
        let variable = |pod: &Pod, name: &str| {
            let env = pod
                .spec
                .as_ref()
                .and_then(|spec| spec.containers[0].env.clone());
            env.unwrap()
                .into_iter()
                .find(|v| v.name == name)
                .and_then(|v| v.value)
        };
        for (name, of_lost, of_new) in [
            ("GRIDSTAKE_MEMBER", "1", "1"),
            ("GRIDSTAKE_MEMBERS", "2", "2"),
            ("GRIDSTAKE_ATTEMPT", "2", "2"),
            ("GRIDSTAKE_RESTART_COUNT", "0", "2"),
        ] {
            assert_eq!(variable(&lost, name).as_deref(), Some(of_lost), "{name}");
            assert_eq!(variable(&new, name).as_deref(), Some(of_new), "{name}");
        }
        assert_eq!(
            variable(&new, "GRIDSTAKE_PEERS"),
            variable(&lost, "GRIDSTAKE_PEERS")
        );
    }

    #[test]
    fn the_first_container_gets_the_gpus_unless_the_template_names_them() {
        let gpus = |spec: &PodSpec, i: usize| {
            spec.containers[i]
                .resources
                .as_ref()
                .and_then(|r| r.limits.as_ref()?.get(GPU_RESOURCE).cloned())
                .map(|q| q.0)
        };
        let spec = built(&job(
            1,
            "{containers: [{name: a, image: a}, {name: b, image: b}]}",
        ));
        assert_eq!((gpus(&spec, 0), gpus(&spec, 1)), (Some("4".into()), None));
        let spec = built(&job(
            1,
            "{containers: [{name: a, image: a}, {name: b, image: b, resources: {limits: {nvidia.com/gpu: 4}}}]}",
        ));
        assert_eq!((gpus(&spec, 0), gpus(&spec, 1)), (None, Some("4".into())));
    }

    #[test]
    fn a_pod_never_restarts_and_never_preempts() {
        let spec = built(&job(1, "{containers: [{name: a, image: a}]}"));
        assert_eq!(
            (
                spec.restart_policy.as_deref(),
                spec.priority_class_name.as_deref(),
                spec.node_name
            ),
            (Some("Never"), Some("gridstake-job"), None)
        );
    }
}
