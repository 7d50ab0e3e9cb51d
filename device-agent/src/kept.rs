//! One value kept in a file of the state directory: replaced as a whole, durable before anybody goes on, and known for
//! damaged if it is.
//!
//! The file is a line with version, boot and hash, and after it the value as JSON.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use alloy_primitives::keccak256;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// What is added to the name of a file that does not hold what was written.
pub const UNREADABLE: &str = ".unreadable";
/// What is added to the name of a file that is not durable yet.
pub const NEXT: &str = ".next";

/// A file of the state directory.
#[derive(Clone, Copy, Debug)]
pub struct Kept {
    /// Its name.
    pub name: &'static str,
    /// Version of what it holds.
    pub version: u32,
    /// The most bytes that it may have.
    pub bytes_max: u64,
    /// What it means if it is lost, for people.
    pub without_it: &'static str,
}

/// Why something cannot be kept, or was not found again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read or written.
    #[error("{verb} {path}")]
    File {
        /// What was tried.
        verb: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file does not hold what was written.
    #[error(
        "read {path}: {what}; it is kept with {UNREADABLE} added to its name, and {without_it}"
    )]
    Content {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        what: String,
        /// What follows.
        without_it: &'static str,
    },
    /// It cannot be told as JSON.
    #[error("encode what belongs into {name}")]
    Encode {
        /// The file's name.
        name: &'static str,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// It is larger than it may be.
    #[error("{name} would have {bytes} bytes, and may have {most}")]
    TooLarge {
        /// The file's name.
        name: &'static str,
        /// What it would have.
        bytes: usize,
        /// What it may have.
        most: u64,
    },
}

/// The first line.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    version: u32,
    boot_id: String,
    /// keccak256 of the rest.
    hash: String,
}

impl Kept {
    /// What was kept in `directory`, and the boot of the node in which it was written; `None` if there is no file.
    ///
    /// # Errors
    /// When the file cannot be read. One that holds something else is set aside.
    pub fn load<T: DeserializeOwned>(
        &self,
        directory: &Path,
    ) -> Result<Option<(String, T)>, Error> {
        let path = directory.join(self.name);
        let failed = |source| Error::File {
            verb: "read",
            path: path.clone(),
            source,
        };
        let mut text = String::new();
        match File::open(&path) {
            Ok(file) => {
                if let Err(source) = file.take(self.bytes_max).read_to_string(&mut text) {
                    if source.kind() != io::ErrorKind::InvalidData {
                        return Err(failed(source));
                    }
                    text.clear();
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(failed(source)),
        }
        let aside = directory.join(format!("{}{UNREADABLE}", self.name));
        self.decode(&text)
            .map(Some)
            .map_err(|what| match fs::rename(&path, aside) {
                Ok(()) => Error::Content {
                    path: path.clone(),
                    what,
                    without_it: self.without_it,
                },
                Err(source) => failed(source),
            })
    }

    fn decode<T: DeserializeOwned>(&self, text: &str) -> Result<(String, T), String> {
        let (head, body) = text.split_once('\n').ok_or("it has no first line")?;
        let head: Head = serde_json::from_str(head).map_err(|error| error.to_string())?;
        if head.version != self.version {
            return Err(format!(
                "its version is {} and not {}",
                head.version, self.version
            ));
        }
        if keccak256(body).to_string() != head.hash {
            return Err("its hash is not that of its content".to_owned());
        }
        let value = serde_json::from_str(body).map_err(|error| error.to_string())?;
        Ok((head.boot_id, value))
    }

    /// The file's content for `value`.
    ///
    /// # Errors
    /// When it cannot be told as JSON, or is too large.
    pub fn encode<T: Serialize>(&self, boot_id: &str, value: &T) -> Result<Vec<u8>, Error> {
        let failed = |source| Error::Encode {
            name: self.name,
            source,
        };
        let body = serde_json::to_vec(value).map_err(failed)?;
        let head = Head {
            version: self.version,
            boot_id: boot_id.to_owned(),
            hash: keccak256(&body).to_string(),
        };
        let mut content = serde_json::to_vec(&head).map_err(failed)?;
        content.push(b'\n');
        content.extend_from_slice(&body);
        if content.len() as u64 > self.bytes_max {
            return Err(Error::TooLarge {
                name: self.name,
                bytes: content.len(),
                most: self.bytes_max,
            });
        }
        Ok(content)
    }

    /// Replaces the file; after that its content outlives a crash of the node.
    ///
    /// # Errors
    /// When the state directory cannot be written; then the file is as it was.
    pub fn store(&self, directory: &Path, content: &[u8]) -> Result<(), Error> {
        let path = directory.join(self.name);
        let write = || -> io::Result<()> {
            let next = directory.join(format!("{}{NEXT}", self.name));
            let mut file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&next)?;
            file.write_all(content)?;
            file.sync_all()?;
            fs::rename(&next, &path)?;
            File::open(directory)?.sync_all()
        };
        write().map_err(|source| Error::File {
            verb: "write",
            path: path.clone(),
            source,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const KEPT: Kept = Kept {
        name: "words.json",
        version: 1,
        bytes_max: 1024,
        without_it: "all is forgotten",
    };

    fn words() -> Vec<String> {
        vec!["one".to_owned(), "two".to_owned()]
    }

    fn stored(directory: &Path) {
        KEPT.store(directory, &KEPT.encode("boot", &words()).unwrap())
            .unwrap();
    }

    #[test]
    fn what_was_kept_is_found_again_with_the_boot_that_it_belongs_to() {
        let folder = tempfile::tempdir().unwrap();
        assert!(KEPT.load::<Vec<String>>(folder.path()).unwrap().is_none());
        stored(folder.path());
        stored(folder.path());
        let found = KEPT.load(folder.path()).unwrap().unwrap();
        assert_eq!(found, ("boot".to_owned(), words()));
    }

    #[test]
    fn a_file_that_was_cut_off_or_changed_is_set_aside_and_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(KEPT.name);
        for change in [
            |text: &str| text[..text.len() - 1].to_owned(),
            |text: &str| text.replace("one", "onx"),
            |text: &str| text.replace("\"version\":1", "\"version\":2"),
            |_: &str| String::new(),
        ] {
            stored(folder.path());
            let text = fs::read_to_string(&path).unwrap();
            fs::write(&path, change(&text)).unwrap();
            let error = KEPT.load::<Vec<String>>(folder.path()).unwrap_err();
            assert!(error.to_string().contains(KEPT.name), "{error}");
            assert!(KEPT.load::<Vec<String>>(folder.path()).unwrap().is_none());
            assert!(folder.path().join("words.json.unreadable").exists());
        }
    }

    #[test]
    fn a_full_disk_leaves_the_file_as_it_was_and_is_named() {
        let folder = tempfile::tempdir().unwrap();
        stored(folder.path());
        let next = folder.path().join("words.json.next");
        // The kernel's device that answers each write as a full disk does.
        symlink("/dev/full", &next).unwrap();
        let error = KEPT.store(folder.path(), b"else").unwrap_err();
        let Error::File { source, .. } = &error else {
            panic!("{error}");
        };
        assert_eq!(source.kind(), io::ErrorKind::StorageFull);
        let (_, found) = KEPT.load::<Vec<String>>(folder.path()).unwrap().unwrap();
        assert_eq!(found, words());
        fs::remove_file(next).unwrap();
        stored(folder.path());
    }

    #[test]
    fn what_is_larger_than_it_may_be_is_not_written() {
        let error = KEPT.encode("boot", &"x".repeat(2000)).unwrap_err();
        assert!(matches!(error, Error::TooLarge { most: 1024, .. }));
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_named() {
        let error = KEPT
            .store(Path::new("/nonexistent/state"), b"")
            .unwrap_err();
        assert!(error.to_string().contains("/nonexistent/state/words.json"));
    }
}
