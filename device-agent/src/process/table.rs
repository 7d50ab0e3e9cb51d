//! The procfs edge: pid → start time and pod.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
};

use crate::process::cgroup;

/// What is known of one process of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Clock ticks from boot to the start of the process (`/proc/<pid>/stat`, field 22). With the pid it names a
    /// process for as long as the node is up; the pid alone is used again.
    pub start_ticks: u64,
    /// The UID of its pod; `None` for a process of the host.
    pub pod_uid: Option<String>,
}

/// Reads processes from procfs and remembers their pods.
///
/// The start time is read every time and the pod once for each (pid, start time): a process does not leave its pod.
#[derive(Debug)]
pub struct ProcessTable {
    root: PathBuf,
    known: HashMap<u32, Process>,
}

impl ProcessTable {
    /// A table over the procfs mounted at `root`.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            known: HashMap::new(),
        }
    }

    /// Looks up each of `pids`, forgets all others, and leaves out those that have ended.
    pub fn look_up(&mut self, pids: impl IntoIterator<Item = u32>) -> &HashMap<u32, Process> {
        let mut before = std::mem::take(&mut self.known);
        for pid in pids {
            if self.known.contains_key(&pid) {
                continue;
            }
            if let Some(process) = self.read(pid, before.remove(&pid)) {
                self.known.insert(pid, process);
            }
        }
        &self.known
    }

    fn read(&self, pid: u32, known: Option<Process>) -> Option<Process> {
        let Stat { start_ticks, .. } = stat(&self.file(pid, "stat").ok()?)?;
        if let Some(known) = known.filter(|known| known.start_ticks == start_ticks) {
            return Some(known);
        }
        let pod_uid = cgroup::pod_uid(&self.file(pid, "cgroup").ok()?);
        Some(Process {
            start_ticks,
            pod_uid,
        })
    }

    fn file(&self, pid: u32, name: &str) -> io::Result<String> {
        let bytes = fs::read(self.root.join(pid.to_string()).join(name))?;
        // A process may call itself anything: its name in `stat` need not be UTF-8.
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// What `/proc/<pid>/stat` says of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    /// Field 22: clock ticks from boot to its start.
    pub start_ticks: u64,
    /// Field 3: it is dead, and only not yet reaped by its parent.
    pub has_ended: bool,
}

/// Reads `/proc/<pid>/stat`. The second field, the command, is in parentheses and may itself hold any character.
pub(crate) fn stat(text: &str) -> Option<Stat> {
    // The first field here is the third of the file.
    let mut fields = text[text.rfind(')')? + 1..].split_ascii_whitespace();
    let state = fields.next()?;
    Some(Stat {
        has_ended: matches!(state, "Z" | "X" | "x"),
        start_ticks: fields.nth(22 - 4)?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "1f6ab7ae-3c5e-4a51-9b0c-7f7d2c6a9e10";

    /// Writes `/proc/<pid>` as the kernel shows it.
    fn process(root: &Path, pid: u32, command: &str, start: u64, cgroup: &str) {
        let folder = root.join(pid.to_string());
        fs::create_dir_all(&folder).unwrap();
        let line = format!(
            "{pid} ({command}) S 1 {pid} {pid} 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 {start} 3 4 5\n"
        );
        fs::write(folder.join("stat"), line).unwrap();
        fs::write(folder.join("cgroup"), cgroup).unwrap();
    }

    fn in_pod(uid: &str) -> String {
        format!("0::/kubepods/besteffort/pod{uid}/4fd1\n")
    }

    #[test]
    fn a_process_is_found_with_its_start_and_its_pod() {
        let root = tempfile::tempdir().unwrap();
        process(root.path(), 7, "python3", 4711, &in_pod(UID));
        process(root.path(), 8, "a ) b (c", 12, "0::/init.scope\n");
        let mut table = ProcessTable::new(root.path());
        let found = table.look_up([7, 8, 9]);
        assert_eq!(found[&7].start_ticks, 4711);
        assert_eq!(found[&7].pod_uid.as_deref(), Some(UID));
        assert_eq!(found[&8].start_ticks, 12);
        assert_eq!(found[&8].pod_uid, None);
        assert!(!found.contains_key(&9), "it has ended");
    }

    #[test]
    fn a_pid_that_is_used_again_is_another_process() {
        let root = tempfile::tempdir().unwrap();
        let other = "2f6ab7ae-3c5e-4a51-9b0c-7f7d2c6a9e10";
        process(root.path(), 7, "a", 100, &in_pod(UID));
        let mut table = ProcessTable::new(root.path());
        table.look_up([7]);
        process(root.path(), 7, "b", 200, &in_pod(other));
        assert_eq!(table.look_up([7])[&7].pod_uid.as_deref(), Some(other));
    }

    #[test]
    fn a_pod_is_read_once_for_each_process() {
        let root = tempfile::tempdir().unwrap();
        process(root.path(), 7, "a", 100, &in_pod(UID));
        let mut table = ProcessTable::new(root.path());
        table.look_up([7]);
        fs::remove_file(root.path().join("7/cgroup")).unwrap();
        assert_eq!(table.look_up([7])[&7].pod_uid.as_deref(), Some(UID));
    }

    #[test]
    fn processes_that_nobody_asks_for_are_forgotten() {
        let root = tempfile::tempdir().unwrap();
        process(root.path(), 7, "a", 100, &in_pod(UID));
        let mut table = ProcessTable::new(root.path());
        table.look_up([7]);
        assert!(table.look_up([]).is_empty());
    }

    #[test]
    fn a_stat_that_is_cut_short_has_no_start() {
        for cut in [
            "",
            "7 (a",
            "7 (a) S 1 2",
            "7 (a) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 x",
        ] {
            assert_eq!(stat(cut), None, "{cut:?}");
        }
    }

    #[test]
    fn this_process_is_found_in_the_real_procfs() {
        let me = std::process::id();
        let mut table = ProcessTable::new(Path::new("/proc"));
        assert!(table.look_up([me])[&me].start_ticks > 0);
    }
}
