//! Which processes use the devices of a container.
//!
//! PodResources names namespace, pod and container but no pod UID, and this program asks no API server. What it can
//! read on the node: `Allocate` gave the container `NVIDIA_VISIBLE_DEVICES` with exactly its devices, which are no
//! other container's; so a process with that environment is the container's. From such a process follows the
//! container's cgroup, and from the cgroup the container's other processes: children with an emptied environment, and
//! processes whose environment cannot be read (`/proc/PID/environ` of another user needs `CAP_SYS_PTRACE`; cgroups can
//! always be read).
//!
//! The environment counts only together with the kubelet's word: a pod that sets the variable by itself, to devices
//! that it was not given, is in no list.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::Path,
};

use crate::{
    VISIBLE_DEVICES,
    cgroup::{ContainerCgroup, container_of},
};

/// A container and the devices that the kubelet gave it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Grant {
    /// UUIDs, sorted.
    pub devices: Vec<String>,
    /// `namespace/pod/container`.
    pub container: String,
}

/// A process of a container.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Found {
    /// Process id in the namespace of the `/proc` that was read: the host's.
    pub pid: u32,
    /// Clock ticks between boot and the process's start.
    pub start_ticks: u64,
    /// Position of the grant in the list that was given.
    pub grant: usize,
    /// UID of the pod, where the cgroup says it.
    pub pod_uid: String,
}

/// What a scan of `/proc` found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// The processes of the grants, by pid.
    pub found: Vec<Found>,
    /// Processes of pods whose environment could not be read and whose container is not known: some of them may
    /// belong to a grant.
    pub unreadable: usize,
}

/// What is read of one process.
#[derive(Debug, Default, Clone)]
struct Seen {
    pid: u32,
    start_ticks: u64,
    /// `None` where it may not be read.
    visible_devices: Option<Vec<String>>,
    cgroup: Option<ContainerCgroup>,
}

/// Finds the processes of the grants.
///
/// # Errors
/// Only where `proc_root` itself cannot be listed: a process that ends meanwhile is left out.
pub fn scan(proc_root: &Path, grants: &[Grant]) -> io::Result<Scan> {
    if grants.is_empty() {
        return Ok(Scan::default());
    }
    let mut seen = Vec::new();
    for entry in fs::read_dir(proc_root)? {
        let Ok(entry) = entry else { continue };
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        seen.extend(read_process(&entry.path(), pid));
    }
    Ok(attribute(seen, grants))
}

fn read_process(directory: &Path, pid: u32) -> Option<Seen> {
    let start_ticks = start_ticks(&fs::read_to_string(directory.join("stat")).ok()?)?;
    let visible_devices = match fs::read(directory.join("environ")) {
        Ok(environment) => Some(visible_devices(&environment)),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => None,
        Err(_) => return None,
    };
    let cgroup = container_of(&fs::read_to_string(directory.join("cgroup")).unwrap_or_default());
    Some(Seen {
        pid,
        start_ticks,
        visible_devices,
        cgroup,
    })
}

/// Field 22 of `/proc/PID/stat`; nothing for a process that has ended (zombie or dead). The name in field 2 may hold
/// spaces and parentheses.
fn start_ticks(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    // Field 3 was the state: field 22 is 18 after field 4.
    fields.nth(18)?.parse().ok()
}

/// The devices in a process's environment, sorted; empty where it names none.
fn visible_devices(environment: &[u8]) -> Vec<String> {
    let prefix = format!("{VISIBLE_DEVICES}=");
    let Some(value) = environment
        .split(|byte| *byte == 0)
        .find_map(|variable| variable.strip_prefix(prefix.as_bytes()))
    else {
        return Vec::new();
    };
    let mut devices: Vec<_> = String::from_utf8_lossy(value)
        .split(',')
        .filter(|device| !device.is_empty())
        .map(str::to_owned)
        .collect();
    devices.sort();
    devices
}

fn attribute(mut seen: Vec<Seen>, grants: &[Grant]) -> Scan {
    seen.sort_by_key(|process| process.pid);
    let by_environment = |process: &Seen| {
        let devices = process
            .visible_devices
            .as_ref()
            .filter(|devices| !devices.is_empty())?;
        grants.iter().position(|grant| grant.devices == *devices)
    };
    let containers: BTreeMap<_, _> = seen
        .iter()
        .filter_map(|process| Some((process.cgroup.clone()?, by_environment(process)?)))
        .collect();
    let found: Vec<_> = seen
        .iter()
        .filter_map(|process| {
            let by_cgroup = || containers.get(process.cgroup.as_ref()?).copied();
            Some(Found {
                pid: process.pid,
                start_ticks: process.start_ticks,
                grant: by_environment(process).or_else(by_cgroup)?,
                pod_uid: process
                    .cgroup
                    .as_ref()
                    .map(|cgroup| cgroup.pod_uid.clone())
                    .unwrap_or_default(),
            })
        })
        .collect();
    let known: BTreeSet<_> = found.iter().map(|process| process.pid).collect();
    let unreadable = seen
        .iter()
        .filter(|process| {
            process.visible_devices.is_none()
                && process.cgroup.is_some()
                && !known.contains(&process.pid)
        })
        .count();
    Scan { found, unreadable }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: &str = "8dbc5577-d0e2-4706-8787-57d52c03ddf2";

    fn grant(devices: &[&str], container: &str) -> Grant {
        Grant {
            devices: devices.iter().map(|device| (*device).to_owned()).collect(),
            container: container.into(),
        }
    }

    fn write_process(root: &Path, pid: u32, state: &str, environment: &str, cgroup: &str) {
        let directory = root.join(pid.to_string());
        fs::create_dir_all(&directory).unwrap();
        let zeros = "0 ".repeat(18);
        fs::write(
            directory.join("stat"),
            format!("{pid} (a) b) {state} {zeros}{} 0\n", pid * 10),
        )
        .unwrap();
        fs::write(directory.join("environ"), environment.replace('|', "\0")).unwrap();
        fs::write(directory.join("cgroup"), cgroup).unwrap();
    }

    fn container(name: &str) -> String {
        format!("0::/kubepods/pod{POD}/{name}\n")
    }

    #[test]
    fn a_process_with_exactly_the_granted_devices_is_the_containers() {
        let root = tempfile::tempdir().unwrap();
        let write =
            |pid, environment: &str| write_process(root.path(), pid, "S", environment, "0::/\n");
        write(10, "A=1|NVIDIA_VISIBLE_DEVICES=GPU-b,GPU-a|B=2|");
        write(11, "NVIDIA_VISIBLE_DEVICES=GPU-a|");
        write(12, "NVIDIA_VISIBLE_DEVICES=all|");
        write(13, "X_NVIDIA_VISIBLE_DEVICES=GPU-a,GPU-b|");
        write(14, "");
        let grants = [grant(&["GPU-a", "GPU-b"], "ns/pod/main")];
        let scan = scan(root.path(), &grants).unwrap();
        assert_eq!(
            scan.found,
            [Found {
                pid: 10,
                start_ticks: 100,
                grant: 0,
                pod_uid: String::new()
            }]
        );
    }

    #[test]
    fn a_child_with_an_empty_environment_is_found_by_its_containers_cgroup() {
        let root = tempfile::tempdir().unwrap();
        write_process(
            root.path(),
            10,
            "S",
            "NVIDIA_VISIBLE_DEVICES=GPU-a|",
            &container("one"),
        );
        write_process(root.path(), 11, "R", "", &container("one"));
        write_process(root.path(), 12, "R", "", &container("sidecar"));
        write_process(root.path(), 13, "R", "", "0::/\n");
        let scan = scan(root.path(), &[grant(&["GPU-a"], "ns/pod/main")]).unwrap();
        let pids: Vec<_> = scan.found.iter().map(|process| process.pid).collect();
        assert_eq!(pids, [10, 11]);
        assert!(scan.found.iter().all(|process| process.pod_uid == POD));
    }

    #[test]
    fn a_zombie_uses_no_device() {
        let root = tempfile::tempdir().unwrap();
        write_process(
            root.path(),
            10,
            "Z",
            "NVIDIA_VISIBLE_DEVICES=GPU-a|",
            &container("one"),
        );
        assert!(
            scan(root.path(), &[grant(&["GPU-a"], "c")])
                .unwrap()
                .found
                .is_empty()
        );
    }

    #[test]
    fn a_process_that_names_devices_nobody_gave_it_is_in_no_list() {
        let root = tempfile::tempdir().unwrap();
        write_process(
            root.path(),
            10,
            "S",
            "NVIDIA_VISIBLE_DEVICES=GPU-b|",
            &container("one"),
        );
        assert!(
            scan(root.path(), &[grant(&["GPU-a"], "c")])
                .unwrap()
                .found
                .is_empty()
        );
    }

    #[test]
    fn an_unreadable_environment_is_replaced_by_the_cgroup_or_counted() {
        let cgroup = |name: &str| container_of(&container(name));
        let process = |pid, visible_devices, cgroup| Seen {
            pid,
            start_ticks: 1,
            visible_devices,
            cgroup,
        };
        let seen = vec![
            process(1, None, cgroup("one")),
            process(2, Some(vec!["GPU-a".to_owned()]), cgroup("one")),
            process(3, None, cgroup("two")),
            process(4, None, None),
        ];
        let scan = attribute(seen, &[grant(&["GPU-a"], "c")]);
        let pids: Vec<_> = scan.found.iter().map(|process| process.pid).collect();
        assert_eq!((pids, scan.unreadable), (vec![1, 2], 1));
    }

    #[test]
    fn a_real_process_is_found_in_the_real_proc() {
        let device = format!("GPU-test-{}", std::process::id());
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .env(VISIBLE_DEVICES, &device)
            .spawn()
            .unwrap();
        let look = || {
            let scan = scan(Path::new("/proc"), &[grant(&[&device], "c")]);
            scan.unwrap().found
        };
        // The kernel shows a new program before it shows its environment.
        let patience = std::time::Instant::now() + std::time::Duration::from_secs(30);
        let mut found = look();
        while found.is_empty() && std::time::Instant::now() < patience {
            std::thread::yield_now();
            found = look();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].pid, child.id());
        assert!(look().is_empty());
    }
}
