//! The processes of pods' containers, by the pods' UIDs: what runs in each of some pods at this moment.
//!
//! A pod's cgroup also holds its sandbox, which starts before the containers' images are pulled and ends after them. A
//! container's processes are told from it by their mounts: the kubelet mounts the file for the termination message, which
//! lies in a folder that is named after pod and container, into every container and not into the sandbox.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{
    cgroup,
    table::{Stat, stat},
};

/// After so many scans everything is read anew: a pid may have been used again between two of them.
const FORGET_AFTER: u32 = 60;

/// A process. Its pid alone may be used again; with the start it names one process for as long as the node is up.
/// The older comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ProcessId {
    /// Clock ticks from boot to its start.
    pub start_ticks: u64,
    /// Its id on the host.
    pub pid: u32,
}

/// What is remembered of a process.
#[derive(Debug)]
struct Known {
    pod_uid: Option<Box<str>>,
    start_ticks: u64,
    /// Whether it was seen to be a container's. What is not may become one, as a runtime's helper does.
    in_container: bool,
}

/// Scans procfs. A process that was seen before and is in none of the pods that are asked for costs nothing.
#[derive(Debug)]
pub struct PodProcesses {
    root: PathBuf,
    known: HashMap<u32, Known>,
    scans: u32,
}

impl PodProcesses {
    /// Over the procfs mounted at `root`.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            known: HashMap::new(),
            scans: 0,
        }
    }

    /// The live processes of the containers of each of `pods`, the oldest first. Pods without any are left out.
    ///
    /// # Errors
    /// When procfs cannot be listed; then nothing is known of any process.
    pub fn scan(
        &mut self,
        pods: &BTreeSet<String>,
    ) -> io::Result<BTreeMap<String, Vec<ProcessId>>> {
        let mut before = std::mem::take(&mut self.known);
        self.scans = self.scans.wrapping_add(1);
        if self.scans.is_multiple_of(FORGET_AFTER) {
            before.clear();
        }
        let mut found: BTreeMap<String, Vec<ProcessId>> = BTreeMap::new();
        for entry in fs::read_dir(&self.root)? {
            let name = entry?.file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            let before = before.remove(&pid);
            if let Some(known) = self.look(pid, before, pods, &mut found) {
                self.known.insert(pid, known);
            }
        }
        for processes in found.values_mut() {
            processes.sort_unstable();
        }
        Ok(found)
    }

    /// The pod of a process that the last scan saw; `None` if it saw none, `Some(None)` for a process of the host.
    #[must_use]
    pub fn pod_of(&self, pid: u32) -> Option<Option<&str>> {
        self.known.get(&pid).map(|known| known.pod_uid.as_deref())
    }

    /// Forgets everything, while nobody asks.
    pub fn forget(&mut self) {
        self.known = HashMap::new();
    }

    fn look(
        &self,
        pid: u32,
        before: Option<Known>,
        pods: &BTreeSet<String>,
        found: &mut BTreeMap<String, Vec<ProcessId>>,
    ) -> Option<Known> {
        let folder = self.root.join(pid.to_string());
        let is_wanted = |known: &Known| {
            let uid = known.pod_uid.as_deref();
            uid.is_some_and(|uid| pods.contains(uid))
        };
        if let Some(known) = before.as_ref()
            && !is_wanted(known)
        {
            return before;
        }
        // Its end and its replacement by another must be seen.
        let Stat {
            start_ticks,
            has_ended,
        } = stat(&read(&folder, "stat").ok()?)?;
        let mut known = match before.filter(|known| known.start_ticks == start_ticks) {
            Some(known) => known,
            None => Known {
                pod_uid: cgroup::pod_uid(&read(&folder, "cgroup").ok()?).map(Into::into),
                start_ticks,
                in_container: false,
            },
        };
        if has_ended || !is_wanted(&known) {
            return Some(known);
        }
        let uid = known.pod_uid.as_deref()?;
        known.in_container = known.in_container
            || read(&folder, "mountinfo").is_ok_and(|mounts| is_containers(&mounts, uid));
        if known.in_container {
            let process = ProcessId { start_ticks, pid };
            found.entry(uid.to_owned()).or_default().push(process);
        }
        Some(known)
    }
}

/// Whether a process with these mounts is in a container of the pod `uid`: `…/pods/<uid>/containers/<name>/<file>` is
/// mounted somewhere. The fourth field of a line is the mounted path within its file system.
fn is_containers(mountinfo: &str, uid: &str) -> bool {
    mountinfo.lines().any(|line| {
        let source = line.split(' ').nth(3).unwrap_or_default();
        source
            .split_once("/pods/")
            .and_then(|(_, below)| below.strip_prefix(uid))
            .is_some_and(|below| below.starts_with("/containers/"))
    })
}

fn read(folder: &Path, name: &str) -> io::Result<String> {
    let bytes = fs::read(folder.join(name))?;
    // Names of processes and of mounted paths need not be UTF-8.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "1f6ab7ae-3c5e-4a51-9b0c-7f7d2c6a9e10";
    const OTHER: &str = "2f6ab7ae-3c5e-4a51-9b0c-7f7d2c6a9e10";

    struct Proc(tempfile::TempDir);

    impl Proc {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn process(&self, pid: u32, ticks: u64, state: char, uid: &str, mounts: &str) {
            let folder = self.0.path().join(pid.to_string());
            fs::create_dir_all(&folder).unwrap();
            let stat = format!(
                "{pid} (a b) {state} 1 1 1 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 {ticks} 3\n"
            );
            fs::write(folder.join("stat"), stat).unwrap();
            let cgroup = format!("0::/kubepods/besteffort/pod{uid}/4fd1\n");
            fs::write(folder.join("cgroup"), cgroup).unwrap();
            fs::write(folder.join("mountinfo"), mounts).unwrap();
        }

        fn table(&self) -> PodProcesses {
            PodProcesses::new(self.0.path())
        }
    }

    fn scan(table: &mut PodProcesses) -> Vec<u32> {
        let wanted = BTreeSet::from([UID.to_owned()]);
        let found = table.scan(&wanted).unwrap();
        assert!(found.keys().all(|uid| uid == UID));
        let all = found.get(UID).cloned().unwrap_or_default();
        all.iter().map(|process| process.pid).collect()
    }

    fn mounts(uid: &str) -> String {
        format!(
            "612 580 0:51 / / rw,relatime - overlay overlay rw\n\
             640 612 8:1 /var/lib/kubelet/pods/{uid}/containers/main/0a1b2c3d /dev/termination-log rw - ext4 /dev/sda1 rw\n"
        )
    }

    #[test]
    fn a_containers_processes_are_found_oldest_first_and_the_sandbox_is_none_of_them() {
        let proc = Proc::new();
        proc.process(
            7,
            100,
            'S',
            UID,
            "612 580 0:51 / / ro - overlay overlay ro\n",
        );
        proc.process(9, 300, 'S', UID, &mounts(UID));
        proc.process(8, 400, 'R', UID, &mounts(UID));
        proc.process(10, 200, 'S', OTHER, &mounts(OTHER));
        let mut table = proc.table();
        assert_eq!(scan(&mut table), [9, 8]);
        assert_eq!(table.pod_of(10), Some(Some(OTHER)));
        assert_eq!(table.pod_of(11), None);
    }

    #[test]
    fn a_process_that_has_ended_and_is_not_reaped_runs_no_more() {
        let proc = Proc::new();
        proc.process(9, 300, 'S', UID, &mounts(UID));
        let mut table = proc.table();
        assert_eq!(scan(&mut table), [9]);
        proc.process(9, 300, 'Z', UID, "");
        assert!(scan(&mut table).is_empty());
    }

    #[test]
    fn a_helper_of_the_runtime_counts_from_when_it_has_the_containers_mounts() {
        let proc = Proc::new();
        proc.process(9, 300, 'S', UID, "");
        let mut table = proc.table();
        assert!(scan(&mut table).is_empty());
        proc.process(9, 300, 'S', UID, &mounts(UID));
        assert_eq!(scan(&mut table), [9]);
    }

    #[test]
    fn a_pid_that_is_used_again_is_another_process() {
        let proc = Proc::new();
        proc.process(9, 300, 'S', UID, &mounts(UID));
        let mut table = proc.table();
        scan(&mut table);
        proc.process(9, 500, 'S', OTHER, &mounts(OTHER));
        assert!(scan(&mut table).is_empty());
        proc.process(9, 700, 'S', UID, &mounts(UID));
        // Of a process in no wanted pod nothing is read until everything is.
        let found = (0..=FORGET_AFTER).any(|_| scan(&mut table) == [9]);
        assert!(found);
    }

    #[test]
    fn mounts_of_another_pod_or_of_a_volume_make_no_container() {
        assert!(is_containers(&mounts(UID), UID));
        assert!(!is_containers(&mounts(OTHER), UID));
        let volume = mounts(UID).replace("/containers/", "/volumes/");
        assert!(!is_containers(&volume, UID));
        let own_mount = mounts(UID).replace("/var/lib/kubelet/pods", "/pods");
        assert!(
            is_containers(&own_mount, UID),
            "the kubelet's folder is a file system of its own"
        );
    }
}
