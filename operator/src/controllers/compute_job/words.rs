//! What the words of a kubelet or a container runtime point to. Pure.
//!
//! They are for people and differ between versions, so only what is certain is read out of them; anything else names nobody.

use gridstake_crds::compute_job::VerdictReason;

fn says(text: &str, any_of: &[&str]) -> bool {
    let text = text.to_lowercase();
    any_of.iter().any(|words| text.contains(words))
}

/// What the words of a kubelet that evicts a pod point to. The pod's own limits are the tenant's, the node's want of
/// something may be anybody's.
#[must_use]
pub fn eviction(message: &str) -> Option<VerdictReason> {
    if says(
        message,
        &[
            "ephemeral local storage usage exceeds the total limit",
            "exceeded its local ephemeral storage limit",
            "usage of emptydir volume",
        ],
    ) {
        return Some(VerdictReason::StorageLimit);
    }
    says(message, &["low on resource"]).then_some(VerdictReason::NodePressure)
}

/// What the words about an image that cannot be pulled point to.
#[must_use]
pub fn image_pull(message: &str) -> Option<VerdictReason> {
    says(
        message,
        &[
            "invalid reference format",
            "couldn't parse image",
            "failed to apply default image tag",
            "manifest unknown",
            ": not found",
            "repository does not exist",
            "name unknown",
            "is not present with pull policy of never",
        ],
    )
    .then_some(VerdictReason::ImageName)
}

/// What the words about a container that could not be started point to.
#[must_use]
pub fn container_start(message: &str) -> Option<VerdictReason> {
    // NVIDIA's runtime says what is wrong with the driver or device; an image that asks for a newer one is not among it.
    let runtime = says(
        message,
        &[
            "nvidia-container-cli: initialization error",
            "nvidia-container-cli: detection error",
            "nvidia-container-cli: device error",
            "unresolvable cdi devices",
            "failed to inject cdi devices",
            "nvml error",
        ],
    );
    if runtime {
        return Some(VerdictReason::GpuRuntime);
    }
    let command = says(message, &["exec: \""])
        && says(message, &["no such file or directory", "permission denied"]);
    if command {
        return Some(VerdictReason::ContainerConfig);
    }
    says(
        message,
        &[
            "executable file not found",
            "exec format error",
            "no command specified",
            "couldn't find key",
            "secret \"",
            "configmap \"",
            "container has runasnonroot",
        ],
    )
    .then_some(VerdictReason::ContainerConfig)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_words_that_are_certain_name_somebody() {
        use VerdictReason as V;
        type Read = fn(&str) -> Option<VerdictReason>;
        let cases: [(Read, &str, Option<V>); 13] = [
            (
                eviction,
                "Pod ephemeral local storage usage exceeds the total limit of containers 1Gi.",
                Some(V::StorageLimit),
            ),
            (
                eviction,
                "Usage of EmptyDir volume \"scratch\" exceeds the limit \"1Gi\".",
                Some(V::StorageLimit),
            ),
            (
                eviction,
                "The node was low on resource: memory. Threshold quantity: 100Mi",
                Some(V::NodePressure),
            ),
            (eviction, "", None),
            (
                image_pull,
                "Failed to apply default image tag \"A b\": couldn't parse image name",
                Some(V::ImageName),
            ),
            (
                image_pull,
                "failed to resolve reference \"docker.io/a/b:c\": docker.io/a/b:c: not found",
                Some(V::ImageName),
            ),
            (image_pull, "dial tcp 10.0.0.1:443: i/o timeout", None),
            (
                container_start,
                "exec: \"trian\": executable file not found in $PATH",
                Some(V::ContainerConfig),
            ),
            (
                container_start,
                "secret \"token\" not found",
                Some(V::ContainerConfig),
            ),
            (
                container_start,
                "nvidia-container-cli: initialization error: nvml error: driver not loaded",
                Some(V::GpuRuntime),
            ),
            (
                container_start,
                "nvidia-container-cli: requirement error: unsatisfied condition: cuda>=13.0",
                None,
            ),
            (
                container_start,
                "unresolvable CDI devices nvidia.com/gpu=all",
                Some(V::GpuRuntime),
            ),
            (container_start, "context deadline exceeded", None),
        ];
        for (read, message, expected) in cases {
            assert_eq!(read(message), expected, "{message}");
        }
    }
}
