//! A state directory with a copy of the double, for one test.

use gridstake_simulated_gpus::{
    directory::{DirectoryError, StateDirectory},
    double,
    faults::{self, Fault},
    profiles,
    state::{DriverKind, Processes, State},
    tracking::boottime_nanoseconds,
};
use std::path::{Path, PathBuf};

/// A node as the device plugin would have written it.
pub struct Node {
    pub directory: StateDirectory,
    pub library: PathBuf,
    _temporary: tempfile::TempDir,
}

#[allow(dead_code, reason = "not every test needs everything")]
impl Node {
    /// Eight GPUs of a model, a current driver.
    pub fn new(model: &str) -> Self {
        let built = double::build().unwrap();
        Self::with_double(model, DriverKind::Current, &built.current)
    }

    pub fn old_driver(model: &str) -> Self {
        let built = double::build().unwrap();
        Self::with_double(model, DriverKind::Old, &built.old_driver)
    }

    pub fn with_double(model: &str, driver: DriverKind, library: &Path) -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let directory = StateDirectory::create(temporary.path()).unwrap();
        let devices = profiles::devices("node-a", &profiles::model(model).unwrap(), 8);
        let node = Self {
            library: double::install(library, temporary.path()).unwrap(),
            directory,
            _temporary: temporary,
        };
        node.write_state(&State::new("node-a", driver, devices));
        node
    }

    pub fn state(&self) -> State {
        self.directory.read_state().unwrap().unwrap()
    }

    pub fn write_state(&self, state: &State) {
        let lock = self.directory.lock().unwrap();
        self.directory.write_state(&lock, state).unwrap();
    }

    pub fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state();
        change(&mut state);
        self.write_state(&state);
    }

    /// Sets a fault as the command does.
    pub fn fault(&self, gpu: Option<usize>, fault: &str) {
        let fault: Fault = fault.parse().unwrap();
        self.directory
            .update_state(|state, processes| {
                faults::set(state, processes, gpu, fault, boottime_nanoseconds())
            })
            .unwrap();
    }

    pub fn write_processes(&self, processes: &Processes) -> Result<(), DirectoryError> {
        let lock = self.directory.lock()?;
        self.directory.write_processes(&lock, processes)
    }

    /// Lets processes run on a GPU; each holds 1 GiB.
    pub fn run(&self, gpu: usize, pids: &[u32]) {
        let device = self.state().devices[gpu].uuid.clone();
        let mut processes = self.directory.read_processes().unwrap().unwrap_or_default();
        processes
            .processes
            .retain(|process| process.device != device);
        processes.processes.extend(pids.iter().map(|pid| {
            gridstake_simulated_gpus::state::Process {
                device: device.clone(),
                pid: *pid,
                start_ticks: 100,
                used_memory_mib: 1024,
                kind: gridstake_simulated_gpus::state::ProcessKind::Compute,
                gpu_instance: None,
                compute_instance: None,
                container: String::new(),
                pod_uid: String::new(),
            }
        }));
        self.write_processes(&processes).unwrap();
    }
}
