//! What a ComputeJob asks of a node, as the log of decisions has it: from its manifest. Pure.

use std::collections::BTreeMap;

use gridstake_crds::{
    ComputeJob,
    compute_job::{TopologyPolicy, VerificationMode},
};
use gridstake_ledger::archive::decisions::{
    Amounts, Closeness, Request, Requirement, Term, Toleration,
};
use k8s_openapi::{
    api::core::v1::{Container, NodeSelectorRequirement, PodSpec},
    apimachinery::pkg::api::resource::Quantity,
};

/// The resource by which pods ask for GPUs.
const GPU: &str = "nvidia.com/gpu";

/// Where the job would run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// The labels of its namespace.
    pub namespace_labels: BTreeMap<String, String>,
    /// The chain on which it is paid for, if that is known.
    pub chain: Option<String>,
    /// Whether any chain is configured.
    pub has_chain: bool,
    /// Whether Nodes may be read; if not, nothing is asked of their labels, taints, CPU and memory.
    pub knows_nodes: bool,
}

/// What the job asks for.
pub fn of_job(job: &ComputeJob, around: &Surroundings) -> Result<Request, String> {
    let spec = &job.spec;
    let policy = spec.policy.clone().unwrap_or_default();
    let template = spec
        .template
        .typed()
        .map_err(|error| format!("spec.template is no pod template: {error}"))?;
    let pod = template.spec.unwrap_or_default();
    let mut request = Request {
        members: spec.members,
        each: Amounts::default(),
        models: spec.gpu.models.clone(),
        min_memory_mib: spec.gpu.min_memory_mib,
        min_compute_capability: spec.gpu.min_compute_capability.clone(),
        run_limit_ms: run_seconds(job).map(|seconds| seconds.saturating_mul(1000)),
        max_price: spec
            .pricing
            .as_ref()
            .map(|pricing| pricing.max_per_gpu_second.nano()),
        regions: policy.regions,
        jurisdictions: policy.jurisdictions,
        min_reputation: policy.min_reputation.unwrap_or(0),
        require_bond: policy.require_bond.unwrap_or(around.has_chain),
        closeness: spec.topology.as_ref().map(|topology| Closeness {
            key: topology.key.clone(),
            required: topology.policy == TopologyPolicy::Required,
        }),
        namespace_labels: around.namespace_labels.clone(),
        chain: around.chain.clone(),
        ..Request::default()
    };
    if around.knows_nodes {
        request.each = amounts(&pod)?;
        request.each.pods = 1;
        request.node_selector = pod.node_selector.clone().unwrap_or_default();
        request.affinity = affinity(&pod);
        request.tolerations = tolerations(&pod);
    } else {
        // Without the Nodes their labels are not known: closeness cannot be judged.
        request.closeness = None;
    }
    request.each.gpus = spec.gpu.count.into();
    Ok(request)
}

/// The longest run of one attempt, in seconds.
#[must_use]
pub fn run_seconds(job: &ComputeJob) -> Option<u64> {
    let run = job.spec.timeouts.as_ref()?.run?;
    let run: std::time::Duration = run.into();
    Some(run.as_secs())
}

/// How often each member runs, so that results can be compared.
#[must_use]
pub fn runs(job: &ComputeJob) -> u32 {
    match &job.spec.verification {
        Some(check) if check.mode == VerificationMode::Redundant => check.replicas.unwrap_or(1),
        _ => 1,
    }
}

/// Whether some jobs like it run more than once, by lot.
#[must_use]
pub fn is_sampled(job: &ComputeJob) -> bool {
    let check = job.spec.verification.as_ref();
    check.is_some_and(|check| check.mode == VerificationMode::Sampled)
}

/// What the pod takes, GPUs left out: containers and sidecars together, or the largest moment of its initialisation, as
/// kube-scheduler counts.
fn amounts(pod: &PodSpec) -> Result<Amounts, String> {
    let mut all: BTreeMap<String, u64> = BTreeMap::new();
    for container in &pod.containers {
        add(&mut all, &asked(container)?);
    }
    let (mut sidecars, mut peak) = (BTreeMap::new(), BTreeMap::new());
    for container in pod.init_containers.iter().flatten() {
        let own = asked(container)?;
        if container.restart_policy.as_deref() == Some("Always") {
            add(&mut all, &own);
            add(&mut sidecars, &own);
            raise(&mut peak, &sidecars);
        } else {
            let mut moment = sidecars.clone();
            add(&mut moment, &own);
            raise(&mut peak, &moment);
        }
    }
    raise(&mut all, &peak);
    if let Some(overhead) = &pod.overhead {
        add(&mut all, &read(overhead)?);
    }
    Ok(of_resources(all))
}

/// Amounts by the names of resources.
pub fn of_resources(mut all: BTreeMap<String, u64>) -> Amounts {
    let mut take = |name: &str| all.remove(name).unwrap_or(0);
    Amounts {
        cpu_milli: take("cpu"),
        memory_bytes: take("memory"),
        ephemeral_storage_bytes: take("ephemeral-storage"),
        pods: take("pods"),
        gpus: take(GPU),
        other: all.into_iter().filter(|(_, amount)| *amount > 0).collect(),
    }
}

fn add(all: &mut BTreeMap<String, u64>, more: &BTreeMap<String, u64>) {
    for (name, amount) in more {
        let sum = all.entry(name.clone()).or_default();
        *sum = sum.saturating_add(*amount);
    }
}

fn raise(all: &mut BTreeMap<String, u64>, to: &BTreeMap<String, u64>) {
    for (name, amount) in to {
        let most = all.entry(name.clone()).or_default();
        *most = (*most).max(*amount);
    }
}

/// What a container asks for; a limit without a request counts as one.
fn asked(container: &Container) -> Result<BTreeMap<String, u64>, String> {
    let Some(resources) = &container.resources else {
        return Ok(BTreeMap::new());
    };
    let mut asked = resources.limits.clone().unwrap_or_default();
    asked.extend(resources.requests.clone().unwrap_or_default());
    read(&asked)
}

/// Amounts in thousandths of a core for CPU, else in whole units, rounded up.
pub fn read(quantities: &BTreeMap<String, Quantity>) -> Result<BTreeMap<String, u64>, String> {
    quantities
        .iter()
        .map(|(name, quantity)| {
            let digits = if name == "cpu" { 3 } else { 0 };
            amount(&quantity.0, digits)
                .map(|amount| (name.clone(), amount))
                .ok_or_else(|| {
                    format!(
                        "{name} {:?} is no amount: write one such as 500m, 2 or 8Gi",
                        quantity.0
                    )
                })
        })
        .collect()
}

/// A quantity of Kubernetes times a power of ten, rounded up.
fn amount(text: &str, digits: i32) -> Option<u64> {
    let end = text
        .find(|letter: char| !letter.is_ascii_digit() && letter != '.')
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (binary, ten): (u32, i32) = match suffix {
        "n" => (0, -9),
        "u" => (0, -6),
        "m" => (0, -3),
        "" => (0, 0),
        "k" => (0, 3),
        "M" => (0, 6),
        "G" => (0, 9),
        "T" => (0, 12),
        "P" => (0, 15),
        "E" => (0, 18),
        "Ki" => (10, 0),
        "Mi" => (20, 0),
        "Gi" => (30, 0),
        "Ti" => (40, 0),
        "Pi" => (50, 0),
        "Ei" => (60, 0),
        _ => (0, suffix.strip_prefix(['e', 'E'])?.parse().ok()?),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let all = format!("{whole}{fraction}");
    let mantissa: u128 = all.parse().ok()?;
    let power = ten
        .checked_add(digits)?
        .checked_sub(i32::try_from(fraction.len()).ok()?)?;
    let scaled = mantissa.checked_mul(1_u128.checked_shl(binary)?)?;
    let scale = 10_u128.checked_pow(power.unsigned_abs())?;
    let amount = if power < 0 {
        scaled.div_ceil(scale)
    } else {
        scaled.checked_mul(scale)?
    };
    u64::try_from(amount).ok()
}

fn affinity(pod: &PodSpec) -> Option<Vec<Term>> {
    let required = pod
        .affinity
        .as_ref()?
        .node_affinity
        .as_ref()?
        .required_during_scheduling_ignored_during_execution
        .as_ref()?;
    let rule = |rule: &NodeSelectorRequirement| Requirement {
        key: rule.key.clone(),
        operator: rule.operator.clone(),
        values: rule.values.clone().unwrap_or_default(),
    };
    let terms = required.node_selector_terms.iter().map(|term| Term {
        labels: term.match_expressions.iter().flatten().map(rule).collect(),
        fields: term.match_fields.iter().flatten().map(rule).collect(),
    });
    Some(terms.collect())
}

fn tolerations(pod: &PodSpec) -> Vec<Toleration> {
    pod.tolerations
        .iter()
        .flatten()
        .map(|one| Toleration {
            key: one.key.clone(),
            operator: one.operator.clone(),
            value: one.value.clone(),
            effect: one.effect.clone(),
        })
        .collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    /// A job with this spec, beside a template.
    pub(crate) fn job(spec: &Value) -> ComputeJob {
        let mut spec = spec.clone();
        if spec.get("template").is_none() {
            spec["template"] = json!({});
        }
        serde_json::from_value(json!({
            "apiVersion": "gridstake.dev/v1alpha1", "kind": "ComputeJob",
            "metadata": {"name": "train", "namespace": "team-a"}, "spec": spec,
        }))
        .unwrap()
    }

    fn known() -> Surroundings {
        Surroundings {
            knows_nodes: true,
            has_chain: true,
            ..Surroundings::default()
        }
    }

    #[test]
    fn quantities_are_read_as_kubernetes_means_them_and_rounded_up() {
        for (text, digits, expected) in [
            ("2", 3, Some(2000)),
            ("500m", 3, Some(500)),
            ("1.5", 3, Some(1500)),
            ("100u", 3, Some(1)),
            ("8Gi", 0, Some(8 << 30)),
            ("0.5Ki", 0, Some(512)),
            ("1e3", 0, Some(1000)),
            ("1E", 0, Some(1_000_000_000_000_000_000)),
            ("12e-1", 0, Some(2)),
            (".5", 0, Some(1)),
            ("", 0, None),
            ("-1", 0, None),
            ("1Zi", 0, None),
            ("99999E", 0, None),
            ("1.2.3", 0, None),
        ] {
            assert_eq!(amount(text, digits), expected, "{text}");
        }
    }

    #[test]
    fn a_pod_takes_its_containers_together_or_its_largest_moment_of_initialisation() {
        let container = |cpu: &str| json!({"name": "c", "resources": {"requests": {"cpu": cpu}}});
        let mut sidecar = container("100m");
        sidecar["restartPolicy"] = json!("Always");
        let job = job(&json!({"gpu": {"count": 1}, "template": {"spec": {
            "containers": [container("1"), container("500m")],
            "initContainers": [sidecar, container("2")],
            "overhead": {"memory": "1Mi"},
        }}}));
        let request = of_job(&job, &known()).unwrap();
        assert_eq!(request.each.cpu_milli, 2100);
        assert_eq!(request.each.memory_bytes, 1 << 20);
        assert_eq!((request.each.gpus, request.each.pods), (1, 1));
    }

    #[test]
    fn what_a_job_asks_for_is_read_from_every_part_of_its_spec() {
        let job = job(&json!({
            "gpu": {"count": 2, "models": ["H100"], "minMemoryMiB": 80000, "minComputeCapability": "9.0"},
            "members": 3, "topology": {"key": "zone", "policy": "Required"},
            "timeouts": {"run": "1h30m"}, "pricing": {"maxPerGpuSecond": "0.001"},
            "policy": {"regions": ["eu"], "jurisdictions": ["DE"], "minReputation": 400},
            "verification": {"mode": "Redundant", "replicas": 2},
            "template": {"spec": {
                "containers": [{"name": "c", "resources": {"limits": {"nvidia.com/gpu": "2", "memory": "1Gi"}}}],
                "nodeSelector": {"pool": "gpu"},
                "tolerations": [{"key": "t", "operator": "Exists"}],
                "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                    {"matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]}
                ]}}},
            }},
        }));
        let request = of_job(&job, &known()).unwrap();
        assert_eq!((request.members, request.each.gpus), (3, 2));
        assert_eq!(request.each.memory_bytes, 1 << 30);
        assert_eq!(request.run_limit_ms, Some(5_400_000));
        assert_eq!(request.max_price, Some(1_000_000));
        assert_eq!(request.min_reputation, 400);
        assert!(request.require_bond && request.closeness.unwrap().required);
        assert_eq!(request.affinity.unwrap()[0].labels[0].values, ["b"]);
        assert_eq!(request.node_selector["pool"], "gpu");
        assert_eq!(request.tolerations[0].operator.as_deref(), Some("Exists"));
        assert_eq!(runs(&job), 2);
    }

    #[test]
    fn where_nodes_may_not_be_read_nothing_is_asked_of_them() {
        let job = job(&json!({
            "gpu": {"count": 1}, "topology": {"key": "zone", "policy": "Required"},
            "template": {"spec": {"containers": [], "nodeSelector": {"pool": "gpu"}}},
        }));
        let request = of_job(&job, &Surroundings::default()).unwrap();
        assert!(request.node_selector.is_empty() && request.closeness.is_none());
        assert_eq!((request.each.gpus, request.each.pods), (1, 0));
        // Without a chain no bond is asked for.
        assert!(!request.require_bond);
    }

    #[test]
    fn a_wrong_amount_is_named_with_what_would_be_right() {
        let job = job(&json!({"gpu": {"count": 1}, "template": {"spec": {
            "containers": [{"name": "c", "resources": {"requests": {"memory": "lots"}}}],
        }}}));
        let words = of_job(&job, &known()).unwrap_err();
        assert!(
            words.contains("memory \"lots\"") && words.contains("8Gi"),
            "{words}"
        );
    }

    proptest! {
        #[test]
        fn no_text_makes_an_amount_fail_otherwise_than_by_saying_so(text in ".{0,12}") {
            let _ = amount(&text, 3);
        }
    }
}
