//! Which UIDs pods of a name have had on this node. The kubelet names a pod's folder of logs
//! `<namespace>_<name>_<uid>` and makes it before the pod's first process; it may leave the folders of ended namesakes
//! behind for a while.

use std::{
    collections::{BTreeSet, HashMap},
    fs, io,
    path::{Path, PathBuf},
};

/// A pod by namespace and name.
pub type PodName = (String, String);

/// The UIDs under each of the `wanted` names.
///
/// # Errors
/// When the folder cannot be listed.
pub fn pod_uids(
    logs: &Path,
    wanted: &BTreeSet<PodName>,
) -> io::Result<HashMap<PodName, Vec<String>>> {
    let mut found: HashMap<PodName, Vec<String>> = HashMap::new();
    for entry in fs::read_dir(logs)? {
        let folder = entry?.file_name();
        // None of the three may hold an underscore.
        let Some(mut parts) = folder.to_str().map(|name| name.split('_')) else {
            continue;
        };
        let (Some(namespace), Some(name), Some(uid), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        let pod = (namespace.to_owned(), name.to_owned());
        if wanted.contains(&pod) {
            found.entry(pod).or_default().push(uid.to_owned());
        }
    }
    Ok(found)
}

/// The folder of a pod's logs.
#[must_use]
pub fn folder_of(logs: &Path, (namespace, name): &PodName, uid: &str) -> PathBuf {
    logs.join(format!("{namespace}_{name}_{uid}"))
}

/// Whether a container of a pod is about to start or has: the kubelet makes its folder of logs once the image is there.
#[must_use]
pub fn has_container(logs: &Path, pod: &PodName, uid: &str) -> bool {
    fs::read_dir(folder_of(logs, pod, uid)).is_ok_and(|mut entries| entries.next().is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_uids_of_a_name_are_those_of_its_folders() {
        let logs = tempfile::tempdir().unwrap();
        for folder in [
            "lab_train-1-0_u1",
            "lab_train-1-0_u2",
            "web_train-1-0_u3",
            "other",
            "a_b_c_d",
        ] {
            fs::create_dir(logs.path().join(folder)).unwrap();
        }
        let pod = ("lab".to_owned(), "train-1-0".to_owned());
        let mut found = pod_uids(logs.path(), &BTreeSet::from([pod.clone()])).unwrap();
        let mut uids = found.remove(&pod).unwrap();
        uids.sort_unstable();
        assert_eq!(uids, ["u1", "u2"]);
        assert!(found.is_empty());

        assert!(!has_container(logs.path(), &pod, "u1"));
        fs::create_dir(logs.path().join("lab_train-1-0_u1/main")).unwrap();
        assert!(has_container(logs.path(), &pod, "u1"));
        assert!(!has_container(logs.path(), &pod, "u2"));
        assert!(!has_container(logs.path(), &pod, "gone"));
    }
}
