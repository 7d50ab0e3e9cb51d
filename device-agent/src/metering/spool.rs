//! What metering knows, kept in the state directory so that neither a restart nor an API server that is away loses
//! anything: made durable before what it says is published.
//!
//! It does not grow with time. A lease has at most 32 checkpoints, of which the older are folded when more come, 32 gaps,
//! and, while nothing can be signed, one statement that waits and goes on; and it is forgotten when its last slice is sealed.

use std::path::Path;

use super::step::State;
use crate::kept::{Error, Kept};

/// The file's name in the state directory.
pub const FILE: &str = "metering.json";

/// A node's leases take less; what is longer is none of ours.
const KEPT: Kept = Kept {
    name: FILE,
    version: 1,
    bytes_max: 64 << 20,
    without_it: "evidence goes on from what is published",
};

/// What was kept, and the boot of the node in which it was written; `None` if there is no file.
///
/// # Errors
/// When the file cannot be read. One that holds something else is set aside.
pub fn load(directory: &Path) -> Result<Option<(String, State)>, Error> {
    KEPT.load(directory)
}

/// The file's content for `state`.
///
/// # Errors
/// When it cannot be told as JSON, or is too large.
pub fn encode(boot_id: &str, state: &State) -> Result<Vec<u8>, Error> {
    KEPT.encode(boot_id, state)
}

/// Replaces the file; after that its content outlives a crash of the node.
///
/// # Errors
/// When the state directory cannot be written; then the file is as it was.
pub fn store(directory: &Path, content: &[u8]) -> Result<(), Error> {
    KEPT.store(directory, content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_metering_knows_is_found_again() {
        let folder = tempfile::tempdir().unwrap();
        assert!(load(folder.path()).unwrap().is_none());
        let content = encode("boot", &State::default()).unwrap();
        store(folder.path(), &content).unwrap();
        let found = load(folder.path()).unwrap().unwrap();
        assert_eq!(found, ("boot".to_owned(), State::default()));
    }
}
