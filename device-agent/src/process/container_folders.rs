//! Tells when the kubelet makes a folder for the logs of a pod, or of a container: that is just before its first process, which
//! may be over before anybody looks by the clock.

use std::{
    collections::BTreeMap,
    future::pending,
    io,
    mem::MaybeUninit,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rustix::{
    fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags},
    io::Errno,
};
use tokio::io::unix::AsyncFd;

use super::readiness::awaitable;

/// Watches the folder of all logs, and those of some pods. Where the system gives no watches nothing is told.
#[derive(Debug)]
pub struct ContainerFolders {
    root: PathBuf,
    inotify: Option<AsyncFd<OwnedFd>>,
    watched: BTreeMap<PathBuf, i32>,
}

impl ContainerFolders {
    /// Of the pods whose logs are below `root`. To be called in a runtime.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        let open = || -> io::Result<_> {
            awaitable(inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?)
        };
        let opened = open();
        if let Err(error) = &opened {
            tracing::info!(%error, "folders of logs are not watched: containers that run for less than a sample may be missed");
        }
        Self {
            root: root.to_owned(),
            inotify: opened.ok(),
            watched: BTreeMap::new(),
        }
    }

    /// From now on tells of what is made in the root and in these folders of pods, and of nothing else. What is there already must
    /// be looked for after this.
    pub fn watch(&mut self, pods: impl IntoIterator<Item = PathBuf>) {
        let Some(inotify) = &self.inotify else {
            return;
        };
        let mut before = std::mem::take(&mut self.watched);
        for folder in pods.into_iter().chain([self.root.clone()]) {
            let made = WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::ONLYDIR;
            let watch = match before.remove(&folder) {
                Some(watch) => watch,
                // One that is gone again is made anew, or not.
                None => match inotify::add_watch(inotify.get_ref(), &folder, made) {
                    Ok(watch) => watch,
                    Err(_) => continue,
                },
            };
            self.watched.insert(folder, watch);
        }
        end(inotify, before);
    }

    /// Forgets all folders, while nobody asks.
    pub fn close(&mut self) {
        if let Some(inotify) = &self.inotify {
            end(inotify, std::mem::take(&mut self.watched));
        }
    }

    /// Waits until a folder is made; for ever where none is watched.
    pub async fn made(&self) {
        let Some(inotify) = &self.inotify else {
            return pending().await;
        };
        loop {
            let Ok(mut ready) = inotify.readable().await else {
                return pending().await;
            };
            let is_made = read_all(inotify.get_ref());
            ready.clear_ready();
            if is_made {
                return;
            }
        }
    }
}

fn end(inotify: &AsyncFd<OwnedFd>, watches: BTreeMap<PathBuf, i32>) {
    for watch in watches.into_values() {
        // The system may have ended it with its folder.
        let _ = inotify::remove_watch(inotify.get_ref(), watch);
    }
}

/// Reads what is told, and whether something was made.
fn read_all(inotify: &OwnedFd) -> bool {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut events = Reader::new(inotify, &mut buffer);
    let mut is_made = false;
    loop {
        match events.next() {
            // The end of a watch is told as well.
            Ok(event) => is_made |= !event.events().contains(ReadFlags::IGNORED),
            Err(Errno::INTR) => {}
            Err(_) => return is_made,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use futures::FutureExt as _;

    use super::*;

    async fn settled(folders: &ContainerFolders) {
        while folders.made().now_or_never().is_some() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_folder_that_is_made_for_a_pod_or_its_container_is_told() {
        let logs = tempfile::tempdir().unwrap();
        let pod = logs.path().join("lab_train-1-0_u1");
        let mut folders = ContainerFolders::new(logs.path());
        folders.watch([pod.clone()]);
        settled(&folders).await;

        fs::create_dir(&pod).unwrap();
        folders.made().await;
        // Only now it is there to be watched.
        folders.watch([pod.clone()]);
        fs::create_dir(pod.join("main")).unwrap();
        folders.made().await;

        // What is in nobody's folder is not.
        folders.watch([]);
        settled(&folders).await;
        fs::create_dir(pod.join("other")).unwrap();
        tokio::task::yield_now().await;
        assert!(folders.made().now_or_never().is_none());
    }

    #[tokio::test]
    async fn a_folder_that_is_removed_and_made_again_is_told_again() {
        let logs = tempfile::tempdir().unwrap();
        let pod = logs.path().join("lab_train-1-0_u1");
        let mut folders = ContainerFolders::new(logs.path());
        for _ in 0..2 {
            folders.watch([]);
            fs::create_dir(&pod).unwrap();
            folders.made().await;
            folders.watch([pod.clone()]);
            fs::create_dir(pod.join("main")).unwrap();
            folders.made().await;
            fs::remove_dir_all(&pod).unwrap();
            settled(&folders).await;
        }
    }
}
