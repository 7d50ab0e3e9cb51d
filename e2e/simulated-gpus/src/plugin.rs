//! The running program: state directory, kubelet, processes.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::Context as _;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinSet,
    time::sleep,
};
use tracing::{info, warn};

use crate::{
    config::{NodeProfile, state_for},
    device_plugin::{Advertised, DevicePluginService, advertised},
    directory::StateDirectory,
    pod_resources::PodResources,
    registration,
    tracking::Tracker,
};

/// How often `state.json` is looked at: a lost GPU is unhealthy for the kubelet after at most this long.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Where everything is.
#[derive(Debug, Clone)]
pub struct Options {
    /// The node's name.
    pub node: String,
    /// What it has.
    pub profile: NodeProfile,
    /// The state directory.
    pub state_directory: PathBuf,
    /// Folder with the doubles, see [`StateDirectory::install_library`].
    pub library_source: PathBuf,
    /// The kubelet's folder for device plugins.
    pub device_plugins: PathBuf,
    /// The kubelet's PodResources socket.
    pub pod_resources_socket: PathBuf,
    /// `/proc` with the host's processes.
    pub proc_root: PathBuf,
}

/// Runs until a signal to stop.
///
/// # Errors
/// Where the state directory cannot be prepared. A kubelet that is away is waited for.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let boot_id = boot_id(&options)?;
    let directory = prepare(&options, &boot_id)?;
    let initial = directory
        .read_state()?
        .as_ref()
        .map(advertised)
        .unwrap_or_default();
    info!(
        node = options.node,
        gpus = initial.len(),
        model = options.profile.model,
        "simulating GPUs"
    );
    let (sender, devices) = watch::channel(initial);
    let pod_resources = PodResources::new(&options.pod_resources_socket)?;
    let tracker = Tracker::new(
        directory.clone(),
        pod_resources,
        options.proc_root.clone(),
        boot_id,
    );

    let service = DevicePluginService::new(devices, directory.path());
    let mut tasks = JoinSet::new();
    tasks.spawn(watch_state(directory, sender));
    tasks.spawn(tracker.run());
    tasks.spawn(registration::run(options.device_plugins.clone(), service));
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    tokio::select! {
        _ = terminate.recv() => info!("stopping: SIGTERM"),
        _ = interrupt.recv() => info!("stopping: SIGINT"),
        // None of them returns; only a bug gets here.
        ended = tasks.join_next() => anyhow::bail!("a part of the plugin has ended: {ended:?}"),
    }
    Ok(())
}

fn boot_id(options: &Options) -> anyhow::Result<String> {
    let path = options.proc_root.join("sys/kernel/random/boot_id");
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(text.trim().to_owned())
}

/// Writes the node's state and installs the double.
pub fn prepare(options: &Options, boot_id: &str) -> anyhow::Result<StateDirectory> {
    let directory = StateDirectory::create(&options.state_directory)?;
    let lock = directory.lock()?;
    let before = directory.read_state().unwrap_or_else(|error| {
        warn!(
            error = format!("{:#}", anyhow::Error::new(error)),
            "starting with a new state"
        );
        None
    });
    let mut state = state_for(&options.node, &options.profile, before.clone());
    // Energy counters start at zero with each boot, and so does what was subtracted from them.
    let written_at = directory
        .read_processes()
        .ok()
        .flatten()
        .unwrap_or_default()
        .boot_id;
    if written_at != boot_id {
        for device in &mut state.devices {
            device.energy_zero_millijoules = 0;
        }
    }
    if before.as_ref() != Some(&state) {
        directory.write_state(&lock, &state)?;
    }
    directory.install_library(&lock, &options.library_source, &state.driver)?;
    Ok(directory)
}

/// Tells the kubelet's side of each change of the state.
async fn watch_state(directory: StateDirectory, devices: watch::Sender<Vec<Advertised>>) {
    let mut last_error = String::new();
    loop {
        sleep(LOOK_EVERY).await;
        match directory.read_state() {
            Ok(state) => {
                last_error.clear();
                let now = state.as_ref().map(advertised).unwrap_or_default();
                devices.send_if_modified(|before| {
                    let is_new = *before != now;
                    if is_new {
                        let unhealthy = now.iter().filter(|device| !device.is_healthy).count();
                        info!(devices = now.len(), unhealthy, "the devices have changed");
                        *before = now;
                    }
                    is_new
                });
            }
            Err(error) => {
                let error = format!("{:#}", anyhow::Error::new(error));
                if error != last_error {
                    warn!(%error, "keeping the last good state");
                    last_error = error;
                }
            }
        }
    }
}
