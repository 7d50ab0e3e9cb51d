//! Reads the UID of a pod out of `/proc/<pid>/cgroup`.
//!
//! The kubelet gives each pod a cgroup, and the runtime puts the containers below it. With the cgroupfs driver a path is
//! `/kubepods/burstable/pod<uid>/<container>`; with the systemd driver it is
//! `/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod<uid>.slice/cri-containerd-<container>.scope`
//! (`crio-<container>.scope` with CRI-O), where the dashes of the UID are underscores, because a dash separates levels
//! there. cgroup v2 has one line (`0::<path>`), v1 one for each hierarchy.
//!
//! A reader in a cgroup namespace of its own sees paths relative to its own, as in `/../../kubepods-pod<uid>.slice/…`:
//! the common parents, which may include `kubepods`, are not shown.

/// The UID of the pod that the cgroup file belongs to, or `None` for a process outside any pod.
///
/// The outermost pod counts: a container with a writable cgroup tree may name anything below its own as it likes.
#[must_use]
pub fn pod_uid(cgroup_file: &str) -> Option<String> {
    cgroup_file.lines().find_map(|line| {
        // hierarchy-ID:controller-list:cgroup-path; the path may itself hold colons.
        let path = line.splitn(3, ':').nth(2)?;
        pod_uid_of_path(path)
    })
}

fn pod_uid_of_path(path: &str) -> Option<String> {
    // Relative to a namespace, so that `kubepods` can have been cut off.
    let mut below_kubepods = path.starts_with("/..");
    for name in path.split('/').filter(|name| !name.is_empty()) {
        // `<slice>:cri-containerd:<container>` is what containerd writes where its cgroup driver is not the kubelet's.
        let name = name.split_once(':').map_or(name, |(slice, _)| slice);
        let slice = name.strip_suffix(".slice").unwrap_or(name);
        below_kubepods = below_kubepods || slice.split('-').any(|level| level == "kubepods");
        if !below_kubepods {
            continue;
        }
        // `pod<uid>` or `<parents>-pod<uid>`; in the first the UID's own dashes stand.
        let uid = slice
            .strip_prefix("pod")
            .or_else(|| slice.rsplit_once("-pod").map(|(_, uid)| uid));
        if let Some(uid) = uid.and_then(normalised_uid) {
            return Some(uid);
        }
    }
    None
}

/// A pod's UID in its usual form, from the two forms that a cgroup may hold. The pods of static manifests have the hash
/// of their file as UID: 32 hexadecimal digits without dashes.
fn normalised_uid(text: &str) -> Option<String> {
    let dash = |position: usize| matches!(position, 8 | 13 | 18 | 23);
    let bytes = text.as_bytes();
    let is_uid = match bytes.len() {
        32 => bytes.iter().all(u8::is_ascii_hexdigit),
        36 => bytes.iter().enumerate().all(|(position, byte)| {
            if dash(position) {
                matches!(byte, b'-' | b'_')
            } else {
                byte.is_ascii_hexdigit()
            }
        }),
        _ => false,
    };
    is_uid.then(|| text.replace('_', "-"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const UID: &str = "1f6ab7ae-3c5e-4a51-9b0c-7f7d2c6a9e10";
    const SLICED: &str = "1f6ab7ae_3c5e_4a51_9b0c_7f7d2c6a9e10";
    const STATIC: &str = "8c5e4a519b0c7f7d2c6a9e101f6ab7ae";

    #[test]
    fn a_containers_cgroup_names_its_pod_in_every_layout() {
        let table = [
            (
                "v2 systemd containerd",
                format!(
                    "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{SLICED}.slice/cri-containerd-4fd1.scope\n"
                ),
                UID,
            ),
            (
                "v2 systemd guaranteed",
                format!(
                    "0::/kubepods.slice/kubepods-pod{SLICED}.slice/cri-containerd-4fd1.scope\n"
                ),
                UID,
            ),
            (
                "v2 systemd CRI-O",
                format!(
                    "0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{SLICED}.slice/crio-4fd1.scope/container\n"
                ),
                UID,
            ),
            (
                "v2 cgroupfs",
                format!("0::/kubepods/besteffort/pod{UID}/4fd1\n"),
                UID,
            ),
            (
                "v2 cgroupfs guaranteed",
                format!("0::/kubepods/pod{UID}/4fd1\n"),
                UID,
            ),
            (
                "kubelet below its own slice",
                format!(
                    "0::/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod{SLICED}.slice/cri-containerd-4fd1.scope\n"
                ),
                UID,
            ),
            (
                "cgroup root of a test cluster",
                format!("0::/gridstake/node-a/kubepods/burstable/pod{UID}/4fd1\n"),
                UID,
            ),
            (
                "cgroup namespace, systemd",
                format!(
                    "0::/../../kubepods-burstable.slice/kubepods-burstable-pod{SLICED}.slice/cri-containerd-4fd1.scope\n"
                ),
                UID,
            ),
            (
                "cgroup namespace, cgroupfs, same class",
                format!("0::/../../pod{UID}/4fd1\n"),
                UID,
            ),
            (
                "v1 cgroupfs",
                format!(
                    "12:pids:/kubepods/burstable/pod{UID}/4fd1\n11:cpu,cpuacct:/kubepods/burstable/pod{UID}/4fd1\n1:name=systemd:/kubepods/burstable/pod{UID}/4fd1\n0::/system.slice/containerd.service\n"
                ),
                UID,
            ),
            (
                "drivers of kubelet and containerd differ",
                format!(
                    "5:memory:/system.slice/containerd.service/kubepods-burstable-pod{SLICED}.slice:cri-containerd:4fd1\n"
                ),
                UID,
            ),
            (
                "hybrid: v1 names the pod, v2 does not",
                format!(
                    "4:memory:/kubepods.slice/kubepods-pod{SLICED}.slice/cri-containerd-4fd1.scope\n0::/\n"
                ),
                UID,
            ),
            (
                "static pod",
                format!(
                    "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{STATIC}.slice/cri-containerd-4fd1.scope\n"
                ),
                STATIC,
            ),
        ];
        for (layout, file, uid) in table {
            assert_eq!(pod_uid(&file).as_deref(), Some(uid), "{layout}");
        }
    }

    #[test]
    fn a_process_outside_any_pod_has_no_pod() {
        for file in [
            "",
            "\n",
            "0::/\n",
            "nonsense",
            "0::/system.slice/nvidia-persistenced.service\n",
            "0::/user.slice/user-0.slice/session-1.scope\n",
            "0::/kubepods.slice/kubepods-burstable.slice\n",
            // A unit of the host that only looks like a pod's.
            "0::/user.slice/pod1f6ab7ae-3c5e-4a51-9b0c-7f7d2c6a9e10/x\n",
            // One character short.
            "0::/kubepods/pod1f6ab7ae-3c5e-4a51-9b0c-7f7d2c6a9e1/x\n",
            "0::/kubepods/pod1f6ab7ae-3c5e-4a51-9b0c+7f7d2c6a9e10/x\n",
        ] {
            assert_eq!(pod_uid(file), None, "{file:?}");
        }
    }

    #[test]
    fn a_pod_cannot_pass_its_processes_off_as_another_pods() {
        let mine = "aaaaaaaa-3c5e-4a51-9b0c-7f7d2c6a9e10";
        let file = format!("0::/kubepods/burstable/pod{mine}/4fd1/kubepods/pod{UID}/x\n");
        assert_eq!(pod_uid(&file).as_deref(), Some(mine));
    }

    proptest! {
        #[test]
        fn any_file_is_read_without_a_panic(file in "\\PC*(\n\\PC*)*") {
            let _ = pod_uid(&file);
        }

        #[test]
        fn both_drivers_give_the_same_uid(uid in "[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", container in "[0-9a-f]{64}", class in "(burstable|besteffort)") {
            let cgroupfs = format!("0::/kubepods/{class}/pod{uid}/{container}\n");
            let slice = uid.replace('-', "_");
            let systemd = format!("0::/kubepods.slice/kubepods-{class}.slice/kubepods-{class}-pod{slice}.slice/cri-containerd-{container}.scope\n");
            prop_assert_eq!(pod_uid(&cgroupfs), Some(uid.clone()));
            prop_assert_eq!(pod_uid(&systemd), Some(uid));
        }
    }
}
