//! From a process's cgroup to the container that it belongs to.

/// The container of a process: all processes with equal values are in one container.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ContainerCgroup {
    /// UID of the pod, with dashes where it has any.
    pub pod_uid: String,
    /// Path segment of the container within the pod, such as `cri-containerd-<id>.scope`.
    pub container: String,
}

/// Reads `/proc/PID/cgroup`: version 1 (a line per hierarchy) or 2 (one line), drivers cgroupfs and systemd, containerd
/// and CRI-O. Nothing where the process is in no container of a pod. Paths may be relative to the reader's own cgroup
/// namespace (`/../..`): only segments matter.
#[must_use]
pub fn container_of(content: &str) -> Option<ContainerCgroup> {
    content.lines().find_map(|line| {
        // hierarchy:controllers:path
        let path = line.splitn(3, ':').nth(2)?;
        let mut segments = path.split('/');
        let pod_uid = segments.find_map(pod_uid)?;
        let container = segments.next().filter(|segment| !segment.is_empty())?;
        Some(ContainerCgroup {
            pod_uid,
            container: container.into(),
        })
    })
}

/// The UID in `pod<uid>` (cgroupfs) or `kubepods-burstable-pod<uid with underscores>.slice` (systemd). Static pods have
/// a UID of 32 digits without dashes.
fn pod_uid(segment: &str) -> Option<String> {
    let segment = segment.strip_suffix(".slice").unwrap_or(segment);
    let (before, uid) = segment.rsplit_once("pod")?;
    if !(before.is_empty() || before.ends_with('-')) {
        return None;
    }
    let uid = uid.replace('_', "-");
    let digits = uid.chars().filter(char::is_ascii_hexdigit).count();
    let dashes = uid.chars().filter(|character| *character == '-').count();
    let is_uid = digits == 32 && digits + dashes == uid.len() && (dashes == 0 || dashes == 4);
    is_uid.then_some(uid)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "8dbc5577-d0e2-4706-8787-57d52c03ddf2";

    #[test]
    fn every_layout_of_a_pods_cgroup_is_read() {
        let cases = [
            (
                "cgroupfs v1",
                "12:pids:/other\n11:memory:/kubepods/burstable/pod8dbc5577-d0e2-4706-8787-57d52c03ddf2/abc",
            ),
            (
                "guaranteed",
                "4:memory:/kubepods/pod8dbc5577-d0e2-4706-8787-57d52c03ddf2/abc",
            ),
            (
                "systemd v2",
                "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod8dbc5577_d0e2_4706_8787_57d52c03ddf2.slice/abc",
            ),
            (
                "kind",
                "0::/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod8dbc5577_d0e2_4706_8787_57d52c03ddf2.slice/abc",
            ),
            (
                "seen from a namespace",
                "0::/../../kubepods-besteffort-pod8dbc5577_d0e2_4706_8787_57d52c03ddf2.slice/abc",
            ),
            (
                "deeper inside the container",
                "0::/kubepods/pod8dbc5577-d0e2-4706-8787-57d52c03ddf2/abc/init.scope",
            ),
        ];
        for (name, content) in cases {
            let expected = ContainerCgroup {
                pod_uid: UID.into(),
                container: "abc".into(),
            };
            assert_eq!(container_of(content), Some(expected), "{name}");
        }
    }

    #[test]
    fn containers_of_each_runtime_keep_their_segment() {
        for container in [
            "cri-containerd-0a1b.scope",
            "crio-0a1b.scope",
            "docker-0a1b.scope",
        ] {
            let content = format!(
                "0::/kubepods.slice/kubepods-pod{}.slice/{container}",
                UID.replace('-', "_")
            );
            assert_eq!(container_of(&content).unwrap().container, container);
        }
    }

    #[test]
    fn a_static_pods_uid_has_no_dashes() {
        let content = "0::/kubepods/burstable/pod0123456789abcdef0123456789abcdef/abc";
        assert_eq!(
            container_of(content).unwrap().pod_uid,
            "0123456789abcdef0123456789abcdef"
        );
    }

    #[test]
    fn what_is_in_no_container_of_a_pod_is_nothing() {
        for content in [
            "",
            "0::/",
            "0::/system.slice/kubelet.service",
            "0::/kubepods.slice/kubepods-burstable.slice",
            "0::/kubepods/pod8dbc5577-d0e2-4706-8787-57d52c03ddf2",
            "0::/machine.slice/libpod-8dbc5577d0e24706878757d52c03ddf28dbc5577d0e24706878757d52c03ddf2.scope",
            "0::/kubepods/podzzzz5577-d0e2-4706-8787-57d52c03ddf2/abc",
        ] {
            assert_eq!(container_of(content), None, "{content}");
        }
    }
}
