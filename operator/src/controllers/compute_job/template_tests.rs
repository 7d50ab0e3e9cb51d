use super::*;

fn spec(yaml: &str) -> ComputeJobSpec {
    serde_saphyr::from_str(yaml).unwrap()
}

/// A sound job whose pod spec has `extra` added, and whose container has `container` added.
fn job(extra: &str, container: &str) -> ComputeJobSpec {
    spec(&format!(
        "gpu: {{count: 2}}\ntemplate: {{spec: {{containers: [{{name: main, image: a{container}}}]{extra}}}}}"
    ))
}

fn only_fault(spec: &ComputeJobSpec) -> Fault {
    let mut found = faults(spec);
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

#[test]
fn a_plain_template_is_sound() {
    assert_eq!(faults(&job("", "")), []);
    assert_eq!(
        faults(&job(
            ", restartPolicy: Never, schedulerName: default-scheduler",
            ", resources: {limits: {nvidia.com/gpu: 2}}"
        )),
        []
    );
    assert_eq!(
        faults(&job(
            ", nodeSelector: {a: b}",
            ", resources: {limits: {nvidia.com/gpu: '2'}, requests: {nvidia.com/gpu: '2', cpu: 1}}"
        )),
        []
    );
}

#[test]
fn a_pod_may_not_reach_for_the_host_or_the_scheduler() {
    let cases = [
        (", nodeName: n1", "nodeName"),
        (", schedulingGates: [{name: mine}]", "schedulingGates"),
        (", schedulerName: mine", "schedulerName"),
        (", restartPolicy: OnFailure", "restartPolicy"),
        (", priorityClassName: high", "priorityClassName"),
        (", activeDeadlineSeconds: 5", "activeDeadlineSeconds"),
        (", hostNetwork: true", "hostNetwork"),
        (", hostPID: true", "hostPID"),
        (", hostIPC: true", "hostIPC"),
        (", resourceClaims: [{name: g}]", "resourceClaims"),
        (
            ", volumes: [{name: v, hostPath: {path: /}}]",
            "volumes[0].hostPath",
        ),
        (
            ", affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{}]}}}",
            "affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0]",
        ),
    ];
    for (extra, path) in cases {
        assert_eq!(
            only_fault(&job(extra, "")).path,
            format!("spec.template.spec.{path}")
        );
    }
}

#[test]
fn only_the_members_of_a_gang_may_not_choose_the_names_by_which_they_are_found() {
    for field in ["hostname", "subdomain"] {
        let mut named = job(&format!(", {field}: mine"), "");
        assert_eq!(faults(&named), []);
        named.members = 2;
        assert_eq!(
            only_fault(&named).path,
            format!("spec.template.spec.{field}")
        );
    }
}

#[test]
fn a_container_may_not_choose_its_devices_or_privileges() {
    let cases = [
        (
            ", securityContext: {privileged: true}",
            "securityContext.privileged",
        ),
        (
            ", env: [{name: NVIDIA_VISIBLE_DEVICES, value: all}]",
            "env[0].name",
        ),
        (
            ", env: [{name: A, value: a}, {name: GRIDSTAKE_MEMBER, value: '7'}]",
            "env[1].name",
        ),
        (
            ", ports: [{containerPort: 80, hostPort: 80}]",
            "ports[0].hostPort",
        ),
        (
            ", resources: {limits: {nvidia.com/mig-1g.10gb: 1}}",
            "resources.limits[nvidia.com/mig-1g.10gb]",
        ),
        (
            ", resources: {limits: {nvidia.com/gpu: 2}, requests: {nvidia.com/gpu: 1}}",
            "resources.requests[nvidia.com/gpu]",
        ),
    ];
    for (extra, path) in cases {
        assert_eq!(
            only_fault(&job("", extra)).path,
            format!("spec.template.spec.containers[0].{path}")
        );
    }
}

#[test]
fn an_init_container_gets_no_gpus() {
    let fault = only_fault(&job(
        ", initContainers: [{name: i, image: a, resources: {limits: {nvidia.com/gpu: 1}}}]",
        "",
    ));
    assert_eq!(
        fault.path,
        "spec.template.spec.initContainers[0].resources.limits[nvidia.com/gpu]"
    );
}

#[test]
fn gpu_limits_that_do_not_add_up_name_both_numbers() {
    let fault = only_fault(&job("", ", resources: {limits: {nvidia.com/gpu: 1}}"));
    assert!(
        fault
            .remedy
            .contains("add up to 1, but spec.gpu.count is 2"),
        "{fault}"
    );
}

#[test]
fn reserved_labels_names_and_finalizers_are_refused() {
    let template = "gpu: {count: 1}\ntemplate: {metadata: {name: x, finalizers: [a/b], labels: {gridstake.dev/job: x}}, spec: {containers: [{name: a, image: a}]}}";
    let paths: Vec<_> = faults(&spec(template))
        .into_iter()
        .map(|f| f.path)
        .collect();
    assert_eq!(
        paths,
        [
            "spec.template.metadata.labels[gridstake.dev/job]",
            "spec.template.metadata.name",
            "spec.template.metadata.finalizers"
        ]
    );
}

#[test]
fn annotations_that_ask_a_runtime_for_devices_are_refused() {
    for key in ["cdi.k8s.io/gpus", "nvidia.cdi.k8s.io/main"] {
        let template = format!(
            "gpu: {{count: 1}}\ntemplate: {{metadata: {{annotations: {{{key}: nvidia.com/gpu=all, example.com/a: b}}}}, spec: {{containers: [{{name: a, image: a}}]}}}}"
        );
        let fault = only_fault(&spec(&template));
        assert_eq!(
            fault.path,
            format!("spec.template.metadata.annotations[{key}]")
        );
    }
}

#[test]
fn a_template_without_a_pod_is_refused() {
    assert_eq!(
        only_fault(&spec("gpu: {count: 1}\ntemplate: {}")).path,
        "spec.template.spec"
    );
}
