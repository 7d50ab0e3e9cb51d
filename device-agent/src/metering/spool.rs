//! What metering knows, kept in the state directory so that neither a restart nor an API server that is away loses
//! anything: one file, replaced as a whole and made durable before what it says is published.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use alloy_primitives::keccak256;
use serde::{Deserialize, Serialize};

use super::step::State;

/// The file's name in the state directory.
pub const FILE: &str = "metering.json";
/// What a file that cannot be read is renamed to.
const UNREADABLE: &str = "metering.json.unreadable";
/// Version of the format.
const VERSION: u32 = 1;
/// A node's leases with 32 checkpoints each take less; what is longer is none of ours.
const BYTES_MAX: u64 = 64 << 20;

/// Why what is known cannot be kept, or was not found again.
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
        "read {path}: {what}; it is kept as {UNREADABLE}, and evidence goes on from what is published"
    )]
    Content {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// It cannot be told as JSON.
    #[error("encode what metering knows")]
    Encode(#[source] serde_json::Error),
}

/// The file: a line with version, boot and hash, then the state.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    version: u32,
    boot_id: String,
    /// keccak256 of the rest.
    hash: String,
}

/// What was kept, and the boot of the node in which it was written; `None` if there is no file.
///
/// # Errors
/// When the file cannot be read. One that holds something else is set aside.
pub fn load(directory: &Path) -> Result<Option<(String, State)>, Error> {
    let path = directory.join(FILE);
    let failed = |source| Error::File {
        verb: "read",
        path: path.clone(),
        source,
    };
    let mut text = String::new();
    match File::open(&path) {
        Ok(file) => {
            if let Err(source) = file.take(BYTES_MAX).read_to_string(&mut text) {
                if source.kind() != io::ErrorKind::InvalidData {
                    return Err(failed(source));
                }
                text.clear();
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(failed(source)),
    }
    decode(&text)
        .map(Some)
        .map_err(|what| match fs::rename(&path, directory.join(UNREADABLE)) {
            Ok(()) => Error::Content {
                path: path.clone(),
                what,
            },
            Err(source) => failed(source),
        })
}

fn decode(text: &str) -> Result<(String, State), String> {
    let (head, body) = text.split_once('\n').ok_or("it has no first line")?;
    let head: Head = serde_json::from_str(head).map_err(|error| error.to_string())?;
    if head.version != VERSION {
        return Err(format!("its version is {} and not {VERSION}", head.version));
    }
    if keccak256(body).to_string() != head.hash {
        return Err("its hash is not that of its content".to_owned());
    }
    let state = serde_json::from_str(body).map_err(|error| error.to_string())?;
    Ok((head.boot_id, state))
}

/// The file's content for `state`.
///
/// # Errors
/// When it cannot be told as JSON.
pub fn encode(boot_id: &str, state: &State) -> Result<Vec<u8>, Error> {
    let body = serde_json::to_vec(state).map_err(Error::Encode)?;
    let head = Head {
        version: VERSION,
        boot_id: boot_id.to_owned(),
        hash: keccak256(&body).to_string(),
    };
    let mut content = serde_json::to_vec(&head).map_err(Error::Encode)?;
    content.push(b'\n');
    content.extend_from_slice(&body);
    Ok(content)
}

/// Replaces the file; after that its content outlives a crash of the node.
///
/// # Errors
/// When the state directory cannot be written; then the file is as it was.
pub fn store(directory: &Path, content: &[u8]) -> Result<(), Error> {
    let path = directory.join(FILE);
    let write = || -> io::Result<()> {
        let next = path.with_extension("json.next");
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

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(directory: &Path) {
        store(directory, &encode("boot", &State::default()).unwrap()).unwrap();
    }

    #[test]
    fn what_was_kept_is_found_again_with_the_boot_that_it_belongs_to() {
        let folder = tempfile::tempdir().unwrap();
        assert!(load(folder.path()).unwrap().is_none());
        stored(folder.path());
        stored(folder.path());
        let found = load(folder.path()).unwrap().unwrap();
        assert_eq!(found, ("boot".to_owned(), State::default()));
    }

    #[test]
    fn a_file_that_was_cut_off_or_changed_is_set_aside_and_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        for change in [
            |text: &str| text[..text.len() - 1].to_owned(),
            |text: &str| text.replace("leases", "leasex"),
            |text: &str| text.replace("\"version\":1", "\"version\":2"),
            |_: &str| String::new(),
        ] {
            stored(folder.path());
            let text = fs::read_to_string(&path).unwrap();
            fs::write(&path, change(&text)).unwrap();
            let error = load(folder.path()).unwrap_err();
            assert!(error.to_string().contains(FILE), "{error}");
            assert!(load(folder.path()).unwrap().is_none());
            assert!(folder.path().join(UNREADABLE).exists());
        }
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_named() {
        let error = store(Path::new("/nonexistent/state"), b"").unwrap_err();
        assert!(
            error
                .to_string()
                .contains("/nonexistent/state/metering.json")
        );
    }
}
