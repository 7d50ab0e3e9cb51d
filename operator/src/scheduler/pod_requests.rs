//! What a pod takes from its node, computed as kube-scheduler does.
//!
//! Source: `PodRequests` in k8s.io/component-helpers/resource (v1.34):
//! 1. containers and sidecars (init containers with `restartPolicy: Always`) add up;
//! 2. an ordinary init container runs beside the sidecars started before it, one at a time, so the
//!    pod needs the larger of (1) and each such moment;
//! 3. pod-level requests, where set, replace the sum for CPU, memory and huge pages;
//! 4. the runtime's overhead comes on top;
//! 5. a limit without a request counts as the request (the API server defaults it that way);
//! 6. a pod that was resized in place counts with the larger of what it asks for and what it has.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Container, ContainerStatus, PodSpec, PodStatus, ResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::resources::{ResourceError, Resources};

/// The resources that a pod of this spec takes from a node, one pod slot included.
///
/// `status` matters only to a pod that exists: its containers' allocated resources are counted
/// where they are larger.
pub fn pod_requests(
    spec: &PodSpec,
    status: Option<&PodStatus>,
) -> Result<Resources, ResourceError> {
    let statuses = |pick: fn(&PodStatus) -> &Option<Vec<ContainerStatus>>| {
        status
            .and_then(|status| pick(status).as_deref())
            .unwrap_or_default()
    };
    let running = statuses(|status| &status.container_statuses);
    let initial = statuses(|status| &status.init_container_statuses);

    let mut total = Resources::default();
    for container in &spec.containers {
        total.add(&container_requests(container, running)?);
    }
    let mut sidecars = Resources::default();
    let mut peak_of_initialisation = Resources::default();
    for container in spec.init_containers.iter().flatten() {
        let own = container_requests(container, initial)?;
        if container.restart_policy.as_deref() == Some("Always") {
            total.add(&own);
            sidecars.add(&own);
            peak_of_initialisation.raise_to(&sidecars);
        } else {
            let mut moment = sidecars.clone();
            moment.add(&own);
            peak_of_initialisation.raise_to(&moment);
        }
    }
    total.raise_to(&peak_of_initialisation);

    if let Some(pod_level) = &spec.resources {
        apply_pod_level(&mut total, pod_level)?;
    }
    if let Some(overhead) = &spec.overhead {
        total.add(&Resources::from_quantities(overhead)?);
    }
    total.pods = 1;
    Ok(total)
}

fn container_requests(
    container: &Container,
    statuses: &[ContainerStatus],
) -> Result<Resources, ResourceError> {
    let mut requests = container.resources.as_ref().map_or_else(
        || Ok(Resources::default()),
        |declared| Resources::from_quantities(&with_limits_as_defaults(declared)),
    )?;
    if let Some(status) = statuses.iter().find(|status| status.name == container.name) {
        if let Some(allocated) = &status.allocated_resources {
            requests.raise_to(&Resources::from_quantities(allocated)?);
        }
        if let Some(actual) = status
            .resources
            .as_ref()
            .and_then(|actual| actual.requests.as_ref())
        {
            requests.raise_to(&Resources::from_quantities(actual)?);
        }
    }
    Ok(requests)
}

fn with_limits_as_defaults(declared: &ResourceRequirements) -> BTreeMap<String, Quantity> {
    let mut requests = declared.limits.clone().unwrap_or_default();
    requests.extend(declared.requests.clone().unwrap_or_default());
    requests
}

/// Pod-level requests replace the containers' sum; a pod-level limit is the request only where no
/// container asks for that resource.
fn apply_pod_level(
    total: &mut Resources,
    declared: &ResourceRequirements,
) -> Result<(), ResourceError> {
    let supported = |name: &str| matches!(name, "cpu" | "memory") || name.starts_with("hugepages-");
    let only_supported = |list: &Option<BTreeMap<String, Quantity>>| {
        list.iter()
            .flatten()
            .filter(|(name, _)| supported(name))
            .map(|(name, amount)| (name.clone(), amount.clone()))
            .collect::<BTreeMap<_, _>>()
    };
    let requests = only_supported(&declared.requests);
    let read = Resources::from_quantities(&requests)?;
    for name in requests.keys() {
        total.set(name, read.get(name));
    }
    let limits = only_supported(&declared.limits);
    let read = Resources::from_quantities(&limits)?;
    for name in limits.keys().filter(|name| !requests.contains_key(*name)) {
        if total.get(name) == 0 {
            total.set(name, read.get(name));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn requests(spec: Value) -> Resources {
        pod_requests(&serde_json::from_value(spec).unwrap(), None).unwrap()
    }

    fn cpu_of(spec: Value) -> u64 {
        requests(spec).cpu_milli
    }

    fn container(cpu: &str) -> Value {
        json!({"name": "c", "resources": {"requests": {"cpu": cpu}}})
    }

    fn sidecar(cpu: &str) -> Value {
        json!({"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": cpu}}})
    }

    #[test]
    fn a_pod_takes_one_pod_slot_even_when_it_asks_for_nothing() {
        let taken = requests(json!({"containers": [{"name": "c"}]}));
        assert_eq!(
            taken,
            Resources {
                pods: 1,
                ..Resources::default()
            }
        );
    }

    #[test]
    fn containers_add_up() {
        assert_eq!(
            cpu_of(json!({"containers": [container("1"), container("500m")]})),
            1500
        );
    }

    #[test]
    fn a_limit_without_a_request_counts_as_the_request() {
        let taken = requests(json!({"containers": [{"name": "c", "resources": {
            "limits": {"nvidia.com/gpu": "2", "cpu": "4"}, "requests": {"cpu": "1"}}}]}));
        assert_eq!((taken.gpus, taken.cpu_milli), (2, 1000));
    }

    #[test]
    fn an_init_container_counts_only_where_it_is_larger_than_what_follows() {
        let spec = |init: &str| json!({"containers": [container("1")], "initContainers": [container(init)]});
        assert_eq!(cpu_of(spec("500m")), 1000);
        assert_eq!(cpu_of(spec("3")), 3000);
    }

    #[test]
    fn init_containers_run_one_after_another() {
        assert_eq!(
            cpu_of(
                json!({"containers": [container("1")], "initContainers": [container("2"), container("2")]})
            ),
            2000
        );
    }

    #[test]
    fn sidecars_add_to_the_containers_and_to_the_init_containers_after_them() {
        // Order decides: the init container runs beside the sidecars that stand before it.
        let spec =
            |init: Vec<Value>| json!({"containers": [container("1")], "initContainers": init});
        assert_eq!(cpu_of(spec(vec![sidecar("1"), container("3")])), 4000);
        assert_eq!(cpu_of(spec(vec![container("3"), sidecar("1")])), 3000);
        assert_eq!(cpu_of(spec(vec![sidecar("1"), sidecar("2")])), 4000);
        assert_eq!(
            cpu_of(spec(vec![sidecar("1"), container("1"), sidecar("2")])),
            4000
        );
    }

    #[test]
    fn the_peak_is_taken_for_each_resource_by_itself() {
        let taken = requests(json!({
            "containers": [{"name": "c", "resources": {"requests": {"cpu": "2", "memory": "1Ki"}}}],
            "initContainers": [{"name": "i", "resources": {"requests": {"cpu": "1", "memory": "4Ki"}}}],
        }));
        assert_eq!((taken.cpu_milli, taken.memory_bytes), (2000, 4096));
    }

    #[test]
    fn overhead_comes_on_top_of_everything() {
        assert_eq!(
            cpu_of(
                json!({"containers": [container("1")], "initContainers": [container("2")], "overhead": {"cpu": "250m"}})
            ),
            2250
        );
    }

    #[test]
    fn pod_level_requests_replace_the_sum_for_cpu_and_memory_only() {
        let taken = requests(json!({
            "containers": [{"name": "c", "resources": {"requests": {"cpu": "1", "memory": "1Ki"}, "limits": {"nvidia.com/gpu": "1"}}}],
            "resources": {"requests": {"cpu": "500m", "nvidia.com/gpu": "4"}, "limits": {"memory": "8Ki"}},
            "overhead": {"cpu": "100m"},
        }));
        assert_eq!(
            (taken.cpu_milli, taken.memory_bytes, taken.gpus),
            (600, 1024, 1)
        );
    }

    #[test]
    fn a_pod_level_limit_counts_where_no_container_asks() {
        let taken = requests(
            json!({"containers": [{"name": "c"}], "resources": {"limits": {"memory": "8Ki"}}}),
        );
        assert_eq!(taken.memory_bytes, 8192);
    }

    #[test]
    fn a_pod_being_resized_counts_with_the_larger_amount() {
        let spec = serde_json::from_value(json!({"containers": [container("1")]})).unwrap();
        let status = |cpu: &str| {
            serde_json::from_value::<PodStatus>(json!({"containerStatuses": [{
                "name": "c", "image": "i", "imageID": "", "ready": true, "restartCount": 0,
                "allocatedResources": {"cpu": cpu}}]}))
            .unwrap()
        };
        assert_eq!(
            pod_requests(&spec, Some(&status("2"))).unwrap().cpu_milli,
            2000
        );
        assert_eq!(
            pod_requests(&spec, Some(&status("500m")))
                .unwrap()
                .cpu_milli,
            1000
        );
    }

    #[test]
    fn an_unreadable_request_is_an_error_that_names_the_resource() {
        let spec = serde_json::from_value(json!({"containers": [container("1x")]})).unwrap();
        assert_eq!(pod_requests(&spec, None).unwrap_err().resource, "cpu");
    }
}
