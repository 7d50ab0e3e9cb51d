//! The state directory: locked, atomic reads and writes of the files that the double reads, and the double itself.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use gridstake_simulated_gpus_state::{
    CUDA_LIBRARY_FILE, Driver, DriverKind, LIBRARY_DIRECTORY, LIBRARY_FILE, LOCK_FILE,
    PROCESSES_FILE, Processes, STATE_FILE, State,
};
use serde::{Serialize, de::DeserializeOwned};

/// Why the state directory could not be read or written.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum DirectoryError {
    #[error("cannot {verb} {path}")]
    Io {
        verb: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("cannot parse {path}")]
    Parse {
        path: PathBuf,
        source: serde_json::Error,
    },
    #[error("{path} cannot be used: {reason}")]
    Invalid { path: PathBuf, reason: String },
    #[error("cannot write {path} as JSON")]
    Serialize {
        path: PathBuf,
        source: serde_json::Error,
    },
}

/// A state directory. Cheap to clone: it is a path.
#[derive(Debug, Clone)]
pub struct StateDirectory {
    path: PathBuf,
}

/// The right to write; released on drop.
#[derive(Debug)]
pub struct WriteLock {
    _file: File,
}

impl StateDirectory {
    /// Opens a state directory; makes it and its lock file where they are missing.
    pub fn create(path: impl Into<PathBuf>) -> Result<Self, DirectoryError> {
        let path = path.into();
        let library = path.join(LIBRARY_DIRECTORY);
        fs::create_dir_all(&library).map_err(io_error("create", &library))?;
        let directory = Self { path };
        directory.open_lock()?;
        Ok(directory)
    }

    /// Opens a state directory that must be there.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, DirectoryError> {
        let directory = Self { path: path.into() };
        let state = directory.path.join(STATE_FILE);
        fs::metadata(&state).map_err(io_error("find", &state))?;
        Ok(directory)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the double is while there is a driver.
    #[must_use]
    pub fn library(&self) -> PathBuf {
        self.path.join(LIBRARY_DIRECTORY).join(LIBRARY_FILE)
    }

    fn open_lock(&self) -> Result<File, DirectoryError> {
        let path = self.path.join(LOCK_FILE);
        File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(io_error("open", &path))
    }

    /// Waits for the right to write; held for one read and one rename.
    pub fn lock(&self) -> Result<WriteLock, DirectoryError> {
        let file = self.open_lock()?;
        file.lock()
            .map_err(io_error("lock", &self.path.join(LOCK_FILE)))?;
        Ok(WriteLock { _file: file })
    }

    /// The state, or nothing where none was written yet.
    pub fn read_state(&self) -> Result<Option<State>, DirectoryError> {
        let state: Option<State> = read(&self.path.join(STATE_FILE))?;
        if let Some(state) = &state {
            state.check().map_err(|reason| DirectoryError::Invalid {
                path: self.path.join(STATE_FILE),
                reason,
            })?;
        }
        Ok(state)
    }

    /// The processes, or nothing where none were written yet.
    pub fn read_processes(&self) -> Result<Option<Processes>, DirectoryError> {
        read(&self.path.join(PROCESSES_FILE))
    }

    /// Replaces the state.
    pub fn write_state(&self, _lock: &WriteLock, state: &State) -> Result<(), DirectoryError> {
        write(&self.path.join(STATE_FILE), state)
    }

    /// Replaces the processes.
    pub fn write_processes(
        &self,
        _lock: &WriteLock,
        processes: &Processes,
    ) -> Result<(), DirectoryError> {
        write(&self.path.join(PROCESSES_FILE), processes)
    }

    /// Reads the state, changes it and writes it back, while nobody else writes.
    ///
    /// # Errors
    /// Also what `change` answers; the state is then left as it was.
    pub fn update_state<E>(
        &self,
        change: impl FnOnce(&mut State, &Processes) -> Result<(), E>,
    ) -> Result<(), E>
    where
        E: From<DirectoryError>,
    {
        let lock = self.lock()?;
        let path = self.path.join(STATE_FILE);
        let mut state = self.read_state()?.ok_or_else(|| DirectoryError::Invalid {
            path,
            reason: "it is not there; the device plugin writes it when it starts".into(),
        })?;
        let processes = self.read_processes()?.unwrap_or_default();
        change(&mut state, &processes)?;
        self.write_state(&lock, &state)?;
        Ok(())
    }

    /// Installs the doubles that fit the driver, or removes them where there is none. `source` holds them as the image does:
    /// `libnvidia-ml.so.1`, `old-driver/libnvidia-ml.so.1` and `libcuda.so.1`, which is the same for both drivers.
    pub fn install_library(
        &self,
        _lock: &WriteLock,
        source: &Path,
        driver: &Driver,
    ) -> Result<(), DirectoryError> {
        let nvml = match driver.kind {
            DriverKind::Absent => None,
            DriverKind::Old => Some(source.join("old-driver").join(LIBRARY_FILE)),
            DriverKind::Current | DriverKind::Unloaded => Some(source.join(LIBRARY_FILE)),
        };
        let cuda = nvml.as_ref().map(|_| source.join(CUDA_LIBRARY_FILE));
        let folder = self.path.join(LIBRARY_DIRECTORY);
        install(nvml.as_deref(), &folder.join(LIBRARY_FILE))?;
        install(cuda.as_deref(), &folder.join(CUDA_LIBRARY_FILE))
    }
}

/// Makes `target` a copy of `double`; without one there is none.
fn install(double: Option<&Path>, target: &Path) -> Result<(), DirectoryError> {
    let Some(double) = double else {
        return match fs::remove_file(target) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(io_error("remove", target)(error))
            }
            _ => Ok(()),
        };
    };
    let bytes = fs::read(double).map_err(io_error("read", double))?;
    // The file of programs that have it loaded already is left alone where nothing changes.
    if fs::read(target).is_ok_and(|installed| installed == bytes) {
        return Ok(());
    }
    replace(target, &bytes, 0o755)
}

fn io_error(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DirectoryError {
    let path = path.to_path_buf();
    move |source| DirectoryError::Io { verb, path, source }
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, DirectoryError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error("read", path)(error)),
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|source| DirectoryError::Parse {
            path: path.into(),
            source,
        })
}

fn write<T: Serialize>(path: &Path, content: &T) -> Result<(), DirectoryError> {
    let mut bytes =
        serde_json::to_vec_pretty(content).map_err(|source| DirectoryError::Serialize {
            path: path.into(),
            source,
        })?;
    bytes.push(b'\n');
    replace(path, &bytes, 0o644)
}

/// Writes beside the file and renames, so that a reader sees the old content or the new one. Writers hold the lock,
/// so one name beside the file is enough, and one that a killed writer left is overwritten.
fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<(), DirectoryError> {
    let beside = path.with_extension("new");
    let mut file = File::create(&beside).map_err(io_error("create", &beside))?;
    file.write_all(bytes).map_err(io_error("write", &beside))?;
    file.set_permissions(fs::Permissions::from_mode(mode))
        .map_err(io_error("set the mode of", &beside))?;
    fs::rename(&beside, path).map_err(io_error("replace", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory() -> (tempfile::TempDir, StateDirectory) {
        let temporary = tempfile::tempdir().unwrap();
        let directory = StateDirectory::create(temporary.path().join("gpus")).unwrap();
        (temporary, directory)
    }

    #[test]
    fn a_change_that_fails_leaves_the_state_as_it_was() {
        let (_temporary, directory) = directory();
        let state = State::new("n", DriverKind::Current, Vec::new());
        directory
            .write_state(&directory.lock().unwrap(), &state)
            .unwrap();
        let outcome = directory.update_state(|state, _| {
            state.node = "other".into();
            Err(DirectoryError::Invalid {
                path: PathBuf::new(),
                reason: "no".into(),
            })
        });
        assert!(outcome.is_err());
        assert_eq!(directory.read_state().unwrap(), Some(state));
    }

    #[test]
    fn changes_from_many_threads_are_all_kept() {
        let (_temporary, directory) = directory();
        let state = State::new("n", DriverKind::Current, Vec::new());
        directory
            .write_state(&directory.lock().unwrap(), &state)
            .unwrap();
        std::thread::scope(|scope| {
            for xid in 0..20 {
                let directory = &directory;
                scope.spawn(move || {
                    directory
                        .update_state(|state, _| {
                            state.report_xid("GPU-1", xid);
                            Ok::<_, DirectoryError>(())
                        })
                        .unwrap();
                });
            }
        });
        assert_eq!(directory.read_state().unwrap().unwrap().xids.len(), 20);
    }

    #[test]
    fn the_library_follows_the_driver() {
        let (temporary, directory) = directory();
        let source = temporary.path().join("source");
        fs::create_dir_all(source.join("old-driver")).unwrap();
        fs::write(source.join(LIBRARY_FILE), "current").unwrap();
        fs::write(source.join("old-driver").join(LIBRARY_FILE), "old").unwrap();
        fs::write(source.join(CUDA_LIBRARY_FILE), "cuda").unwrap();
        let lock = directory.lock().unwrap();
        let install = |kind| {
            directory
                .install_library(&lock, &source, &Driver::of(kind))
                .unwrap();
        };
        for (kind, expected) in [
            (DriverKind::Current, Some("current")),
            (DriverKind::Old, Some("old")),
            (DriverKind::Absent, None),
            (DriverKind::Absent, None),
            (DriverKind::Unloaded, Some("current")),
        ] {
            install(kind);
            assert_eq!(
                fs::read_to_string(directory.library()).ok().as_deref(),
                expected,
                "{kind:?}"
            );
            let cuda = directory
                .path()
                .join(LIBRARY_DIRECTORY)
                .join(CUDA_LIBRARY_FILE);
            assert_eq!(cuda.exists(), expected.is_some(), "{kind:?}");
        }
    }

    #[test]
    fn malformed_content_is_an_error_that_names_the_file() {
        let (_temporary, directory) = directory();
        fs::write(directory.path().join(STATE_FILE), "{").unwrap();
        let error = directory.read_state().unwrap_err().to_string();
        assert!(error.contains(STATE_FILE), "{error}");
    }
}
