//! A node with simulated GPUs: a folder with the NVML double and its state.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, OnceLock},
    time::Duration,
};

use gridstake_device_agent::{
    clock::{Anchor, BootMillis},
    health::{Health, Verdict},
    metrics::Metrics,
    nvml::{
        Observation,
        call::Calls,
        events::Hearing,
        inventory::{Device, Inventory},
        thread::{NvmlThread, Settings},
    },
};
use gridstake_simulated_gpus_state as simulated;
use simulated::{DriverKind, PROCESSES_FILE, Processes, STATE_FILE, State};
use tempfile::TempDir;
use tokio::sync::watch;

use crate::PATIENCE;

/// A node with simulated GPUs.
pub struct Node {
    folder: TempDir,
    pub state: State,
}

impl Node {
    /// With `count` H100s and a current driver.
    pub fn with_gpus(count: u32) -> Self {
        let devices = (0..count).map(h100).collect();
        let node = Self {
            folder: tempfile::tempdir().unwrap(),
            state: State::new("node-a", DriverKind::Current, devices),
        };
        node.write();
        node.install(DriverKind::Current);
        node
    }

    pub fn library(&self) -> PathBuf {
        self.folder.path().join("lib/libnvidia-ml.so.1")
    }

    /// The double of the driver, beside that of NVML.
    pub fn cuda_library(&self) -> PathBuf {
        let library = self.folder.path().join("lib/libcuda.so.1");
        if !library.exists() {
            fs::copy(double("libgridstake_cuda_double.so"), &library).unwrap();
        }
        library
    }

    /// Makes the state what `change` says.
    pub fn change(&mut self, change: impl FnOnce(&mut State)) {
        change(&mut self.state);
        self.write();
    }

    /// The node's driver becomes another, with the library that belongs to it.
    pub fn set_driver(&mut self, kind: DriverKind) {
        self.change(|state| state.driver = simulated::Driver::of(kind));
        self.install(kind);
    }

    pub fn set_processes(&self, processes: Vec<simulated::Process>) {
        let content = Processes {
            processes,
            ..Processes::default()
        };
        self.replace(PROCESSES_FILE, &serde_json::to_vec(&content).unwrap());
    }

    fn write(&self) {
        self.replace(STATE_FILE, &serde_json::to_vec(&self.state).unwrap());
    }

    fn install(&self, kind: DriverKind) {
        let library = self.library();
        let source = match kind {
            DriverKind::Old => double("libgridstake_nvml_double_old_driver.so"),
            DriverKind::Current | DriverKind::Unloaded => double("libgridstake_nvml_double.so"),
            DriverKind::Absent => {
                fs::remove_file(library).unwrap();
                return;
            }
        };
        fs::create_dir_all(library.parent().unwrap()).unwrap();
        let next = library.with_extension("next");
        fs::copy(source, &next).unwrap();
        fs::rename(next, library).unwrap();
    }

    fn replace(&self, name: &str, content: &[u8]) {
        let next = self.folder.path().join(format!("{name}.next"));
        fs::write(&next, content).unwrap();
        fs::rename(next, self.folder.path().join(name)).unwrap();
    }

    /// Watches the GPUs as the agent does.
    pub fn watch(&self) -> Watch {
        Watch::new(self.library())
    }
}

/// The agent's NVML half, at a quick interval.
pub struct Watch {
    latest: watch::Receiver<Option<Arc<Observation>>>,
    pub inventory: Inventory,
    pub health: Health,
    pub hearing: Arc<Hearing>,
    pub calls: Arc<Calls>,
    pub metrics: Metrics,
    _thread: NvmlThread,
}

impl Watch {
    pub fn new(library: PathBuf) -> Self {
        let metrics = Metrics::new().unwrap();
        let calls = Arc::new(Calls::new(metrics.nvml_call_errors.clone()));
        let hearing = Arc::new(Hearing::new(metrics.nvml_call_errors.clone()));
        let (sender, latest) = watch::channel(None);
        let settings = Settings {
            library: Some(library),
            proc_root: PathBuf::from("/proc"),
            interval: Duration::from_millis(20),
        };
        let thread =
            NvmlThread::spawn(settings, Arc::clone(&calls), Arc::clone(&hearing), sender).unwrap();
        Self {
            latest,
            inventory: Inventory::default(),
            health: Health::default(),
            hearing,
            calls,
            metrics,
            _thread: thread,
        }
    }

    /// Follows the observations until the inventory is as `condition` says.
    pub async fn until(&mut self, what: &str, condition: impl Fn(&Inventory) -> bool) {
        let follow = async {
            while !condition(&self.inventory) {
                self.latest.changed().await.expect("the NVML thread runs");
                let seen = self.latest.borrow_and_update().clone().unwrap();
                self.inventory.observe(&seen);
            }
        };
        let came = tokio::time::timeout(PATIENCE, follow).await.is_ok();
        assert!(
            came,
            "waited for {what}; the inventory is {:#?}",
            self.inventory
        );
    }

    /// Follows observations and events until the first GPU is judged as `condition` says.
    pub async fn until_judged(&mut self, condition: impl Fn(&Verdict) -> bool) {
        let follow = async {
            loop {
                let (heard, _) = self.hearing.take();
                self.health.hear(&heard, Anchor::now());
                self.health.settle(BootMillis::now(), true);
                let first = self.inventory.devices().next();
                if first.is_some_and(|first| condition(&self.health.verdict(first))) {
                    return;
                }
                self.latest.changed().await.expect("the NVML thread runs");
                let seen = self.latest.borrow_and_update().clone().unwrap();
                self.inventory.observe(&seen);
                self.health
                    .observe(self.inventory.devices(), BootMillis::now(), Anchor::now());
            }
        };
        let came = tokio::time::timeout(PATIENCE, follow).await.is_ok();
        assert!(came, "the GPUs are judged as {:#?}", self.health);
    }

    pub fn device(&self, index: u32) -> &Device {
        self.inventory
            .devices()
            .find(|device| device.facts.index == index)
            .unwrap()
    }
}

/// A double, built once by the cargo that runs this test.
fn double(name: &str) -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let folder = BUILT.get_or_init(|| {
        let folder = Path::new(env!("CARGO_BIN_EXE_gridstake-device-agent"))
            .parent()
            .unwrap()
            .to_owned();
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--quiet", "--package", "gridstake-nvml-double"]);
        cargo.args(["--package", "gridstake-nvml-double-old-driver"]);
        cargo.args(["--package", "gridstake-cuda-double"]);
        if folder.ends_with("release") {
            // What `--release` would optimise for minutes more.
            cargo.args(["--profile", "bench"]);
        }
        let built = cargo
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status()
            .unwrap();
        assert!(built.success(), "build the doubles");
        folder
    });
    folder.join(name)
}

pub fn uuid(index: u32) -> String {
    format!("GPU-00000000-0000-5000-8000-{index:012}")
}

fn h100(index: u32) -> simulated::Device {
    simulated::Device {
        uuid: uuid(index),
        serial: format!("{index}"),
        minor: index,
        pci: simulated::Pci {
            domain: 0,
            bus: 0x1b + index,
            device: 0,
        },
        numa_node: 0,
        model: simulated::Model {
            key: "h100".into(),
            name: "NVIDIA H100 80GB HBM3".into(),
            brand: 14,
            architecture: 9,
            compute_capability: [9, 0],
            part_number: "692-2G520-0200-000".into(),
            cores: 16_896,
            memory_bus_width: 5120,
            memory_mib: 81_559,
            reserved_memory_mib: 551,
            pci_device_id: 0x2330_10de,
            pci_subsystem_id: 0x16c1_10de,
            power: simulated::Power {
                idle_milliwatts: 70_000,
                busy_milliwatts: 620_000,
                limit_milliwatts: 700_000,
            },
            clocks: simulated::Clocks {
                idle_mhz: 345,
                busy_mhz: 1980,
                memory_mhz: 2619,
            },
            temperature: simulated::Temperature {
                idle_celsius: 31,
                busy_celsius: 64,
                slowdown_celsius: 87,
                shutdown_celsius: 92,
            },
            ecc: true,
            row_remapping: true,
            mig_devices: 7,
            nv_link: None,
        },
        busy: simulated::Utilization::default(),
        accounting: false,
        mig: None,
        energy_zero_millijoules: 0,
        faults: simulated::DeviceFaults::default(),
    }
}
