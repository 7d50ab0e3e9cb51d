//! Reading the files: a stat per call, a read only when a file has changed, and the last good content as long as
//! the new one cannot be read.

use std::{
    env,
    ffi::{CStr, OsStr, c_char, c_int, c_void},
    fs::{self, File},
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use gridstake_simulated_gpus_state::{
    DEFAULT_DIRECTORY, DIRECTORY_ENV, FORMAT, LOCK_FILE, PROCESSES_FILE, Processes, STATE_FILE,
    State,
};
use serde::de::DeserializeOwned;

/// The files' content at one moment.
#[derive(Clone)]
pub struct Snapshot {
    pub directory: PathBuf,
    pub state: Arc<State>,
    pub processes: Arc<Processes>,
}

/// The files of one state directory.
pub struct Source {
    directory: PathBuf,
    state: Cached<State>,
    processes: Cached<Processes>,
}

impl Source {
    pub fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            state: Cached::default(),
            processes: Cached::default(),
        }
    }

    /// The newest content that can be read; nothing while the state never could be, or while the processes are
    /// there but never could be. A missing list of processes is an empty one.
    pub fn snapshot(&mut self) -> Option<Snapshot> {
        self.state
            .refresh(&self.directory.join(STATE_FILE), |state: &State| {
                state.check().is_ok()
            });
        let processes = self.processes.refresh(
            &self.directory.join(PROCESSES_FILE),
            |processes: &Processes| processes.format == FORMAT,
        );
        let processes = match (&self.processes.content, processes) {
            (Some(content), _) => Arc::clone(content),
            (None, Found::Missing) => Arc::default(),
            (None, Found::Present) => return None,
        };
        Some(Snapshot {
            directory: self.directory.clone(),
            state: Arc::clone(self.state.content.as_ref()?),
            processes,
        })
    }
}

/// Holds writers off while a file and the clock are read together. Directories without a lock file, as a test
/// might write them by hand, have no writer to hold off.
pub fn lock_shared(directory: &Path) -> Option<File> {
    let file = File::open(directory.join(LOCK_FILE)).ok()?;
    file.lock_shared().ok()?;
    Some(file)
}

enum Found {
    Missing,
    Present,
}

/// Tells one version of a file from another: a rename changes the inode, a write in place the time or the size.
type Stamp = (u64, u64, i64, i64, u64);

struct Cached<T> {
    stamp: Option<Stamp>,
    content: Option<Arc<T>>,
}

impl<T> Default for Cached<T> {
    fn default() -> Self {
        Self {
            stamp: None,
            content: None,
        }
    }
}

impl<T: DeserializeOwned> Cached<T> {
    fn refresh(&mut self, path: &Path, is_valid: impl Fn(&T) -> bool) -> Found {
        let Ok(metadata) = fs::metadata(path) else {
            self.stamp = None;
            return Found::Missing;
        };
        let stamp = (
            metadata.dev(),
            metadata.ino(),
            metadata.mtime(),
            metadata.mtime_nsec(),
            metadata.size(),
        );
        if self.stamp != Some(stamp) {
            let parsed = fs::read(path)
                .ok()
                .and_then(|bytes| serde_json::from_slice::<T>(&bytes).ok());
            if let Some(content) = parsed.filter(|content| is_valid(content)) {
                self.content = Some(Arc::new(content));
            }
            self.stamp = Some(stamp);
        }
        Found::Present
    }
}

/// The state directory: the one that the environment names; else the one that this library lies in (`<dir>/lib/`),
/// so that a copy of it finds its own state; else the default.
pub fn find_directory() -> PathBuf {
    if let Some(named) = env::var_os(DIRECTORY_ENV).filter(|name| !name.is_empty()) {
        return named.into();
    }
    own_path()
        .and_then(|library| Some(library.parent()?.parent()?.to_path_buf()))
        .filter(|directory| directory.join(STATE_FILE).exists())
        .unwrap_or_else(|| DEFAULT_DIRECTORY.into())
}

/// `Dl_info` of dlfcn.h.
#[repr(C)]
struct DlInfo {
    file_name: *const c_char,
    file_base: *mut c_void,
    symbol_name: *const c_char,
    symbol_address: *mut c_void,
}

unsafe extern "C" {
    fn dladdr(address: *const c_void, info: *mut DlInfo) -> c_int;
}

/// The file that this library was loaded from.
fn own_path() -> Option<PathBuf> {
    let mut info = DlInfo {
        file_name: std::ptr::null(),
        file_base: std::ptr::null_mut(),
        symbol_name: std::ptr::null(),
        symbol_address: std::ptr::null_mut(),
    };
    // SAFETY: the address is that of a function of this library, `info` may be written.
    let found = unsafe { dladdr(own_path as *const c_void, &raw mut info) };
    if found == 0 || info.file_name.is_null() {
        return None;
    }
    // SAFETY: dladdr answers the path with its NUL; it lives as long as the library is loaded.
    let path = unsafe { CStr::from_ptr(info.file_name) };
    fs::canonicalize(Path::new(OsStr::from_bytes(path.to_bytes()))).ok()
}
