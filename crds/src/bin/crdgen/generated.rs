//! A set of generated files, compared with those on disk.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

/// Folders in which every file is generated: another one there is a leftover.
const OWNED_FOLDERS: [&str; 2] = ["manifests/crds", "charts/gridstake-crds/templates"];

/// Files by their path below the workspace's root.
#[derive(Default)]
pub struct Generated(BTreeMap<String, String>);

/// What keeps a file on disk from being what the API types say.
#[derive(Debug, PartialEq, Eq)]
pub enum Difference {
    /// The file is not there.
    Missing {
        /// Its path below the root.
        path: String,
        /// What it should hold.
        content: String,
    },
    /// The file holds something else.
    Stale {
        /// Its path below the root.
        path: String,
        /// What it should hold.
        content: String,
    },
    /// The file should not be there.
    Unknown {
        /// Its path below the root.
        path: String,
    },
}

/// Why files could not be compared or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {verb} {}", path.display())]
pub struct Error {
    verb: &'static str,
    path: PathBuf,
    #[source]
    cause: io::Error,
}

fn failed(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |cause| Error { verb, path, cause }
}

impl Generated {
    /// Adds a file.
    pub fn add(&mut self, path: impl Into<String>, content: impl Into<String>) {
        self.0.insert(path.into(), content.into());
    }

    /// How the files below `root` differ from these.
    pub fn differences(self, root: &Path) -> Result<Vec<Difference>, Error> {
        let mut differences = self.leftovers(root)?;
        for (path, content) in self.0 {
            let place = root.join(&path);
            match fs::read_to_string(&place) {
                Ok(found) if found == content => {}
                Ok(_) => differences.push(Difference::Stale { path, content }),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    differences.push(Difference::Missing { path, content });
                }
                Err(error) => return Err(failed("read", &place)(error)),
            }
        }
        Ok(differences)
    }

    fn leftovers(&self, root: &Path) -> Result<Vec<Difference>, Error> {
        let mut found = Vec::new();
        for folder in OWNED_FOLDERS {
            let place = root.join(folder);
            let entries = match fs::read_dir(&place) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(failed("list", &place)(error)),
            };
            for entry in entries {
                let entry = entry.map_err(failed("list", &place))?;
                let path = format!("{folder}/{}", entry.file_name().to_string_lossy());
                if !self.0.contains_key(&path) {
                    found.push(Difference::Unknown { path });
                }
            }
        }
        Ok(found)
    }
}

/// Makes the files below `root` what they should be.
pub fn resolve(root: &Path, differences: &[Difference]) -> Result<(), Error> {
    for difference in differences {
        match difference {
            Difference::Missing { path, content } | Difference::Stale { path, content } => {
                let place = root.join(path);
                if let Some(folder) = place.parent() {
                    fs::create_dir_all(folder).map_err(failed("create", folder))?;
                }
                fs::write(&place, content).map_err(failed("write", &place))?;
                println!("wrote {path}");
            }
            Difference::Unknown { path } => {
                let place = root.join(path);
                fs::remove_file(&place).map_err(failed("remove", &place))?;
                println!("removed {path}");
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let root = std::env::temp_dir().join(format!("crdgen-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        fs::create_dir_all(root.join("manifests/crds")).unwrap();
        root
    }

    fn one_file(content: &str) -> Generated {
        let mut files = Generated::default();
        files.add("manifests/crds/a.yaml", content);
        files
    }

    #[test]
    fn a_missing_a_stale_and_a_left_over_file_are_each_named() {
        let root = scratch("named");
        let missing = one_file("new").differences(&root).unwrap();
        assert!(
            matches!(&missing[..], [Difference::Missing { path, .. }] if path == "manifests/crds/a.yaml")
        );

        fs::write(root.join("manifests/crds/a.yaml"), "old").unwrap();
        fs::write(root.join("manifests/crds/b.yaml"), "").unwrap();
        let differences = one_file("new").differences(&root).unwrap();
        assert!(
            matches!(&differences[..], [Difference::Unknown { path: b }, Difference::Stale { path: a, .. }]
                if a == "manifests/crds/a.yaml" && b == "manifests/crds/b.yaml"),
            "{differences:?}"
        );
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn resolving_the_differences_leaves_none() {
        let root = scratch("resolved");
        fs::write(root.join("manifests/crds/b.yaml"), "").unwrap();
        resolve(&root, &one_file("new").differences(&root).unwrap()).unwrap();
        assert_eq!(one_file("new").differences(&root).unwrap(), []);
        fs::remove_dir_all(root).unwrap();
    }
}
