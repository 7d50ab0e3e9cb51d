//! `gridstake-simulated-gpus`: runs the device plugin, and changes what is simulated.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand, ValueEnum};
use gridstake_simulated_gpus::{
    config::{NodeProfile, node_profile},
    directory::StateDirectory,
    faults::{self, Fault, FaultError},
    plugin,
    show::describe,
    state::{DEFAULT_DIRECTORY, DIRECTORY_ENV, Driver, DriverKind},
    tracking::boottime_nanoseconds,
};

#[derive(Debug, Parser)]
#[command(
    version,
    about = "GPUs without hardware: a Kubernetes device plugin and the state of an NVML double"
)]
struct Cli {
    /// Folder that the NVML double reads.
    #[arg(long, global = true, env = DIRECTORY_ENV, default_value = DEFAULT_DIRECTORY)]
    state_dir: PathBuf,
    /// Folder with the doubles: libnvidia-ml.so.1, old-driver/libnvidia-ml.so.1 and libcuda.so.1.
    #[arg(
        long,
        global = true,
        env = "GRIDSTAKE_NVML_DOUBLES",
        default_value = "/usr/lib/gridstake"
    )]
    library_source: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Advertise the node's simulated GPUs to the kubelet, until stopped.
    Run(RunArgs),
    /// Break or heal a device or a call.
    #[command(subcommand)]
    Fault(FaultCommand),
    /// Change the driver: programs must load NVML anew to notice.
    Driver {
        /// The driver to have from now on.
        kind: DriverArg,
    },
    /// Show devices, faults and processes.
    Show {
        /// Print the state as JSON.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
struct RunArgs {
    /// Name of this node.
    #[arg(long, env = "NODE_NAME")]
    node_name: String,
    /// Number of GPUs where the configuration file does not say.
    #[arg(long, env = "GRIDSTAKE_SIMULATED_GPUS_COUNT", default_value_t = 8)]
    gpus: u32,
    /// Their model where the configuration file does not say: h100, h200, a100, l40s or t4.
    #[arg(long, env = "GRIDSTAKE_SIMULATED_GPUS_MODEL", default_value = "h100")]
    model: String,
    /// The driver where the configuration file does not say.
    #[arg(
        long,
        env = "GRIDSTAKE_SIMULATED_GPUS_DRIVER",
        default_value = "current"
    )]
    driver: DriverArg,
    /// YAML or JSON file with nodes that differ: `nodes: {node-a: {gpus: 4, model: a100, driver: old}}`.
    #[arg(long, env = "GRIDSTAKE_SIMULATED_GPUS_CONFIG")]
    config: Option<PathBuf>,
    /// The kubelet's folder for device plugins.
    #[arg(long, default_value = "/var/lib/kubelet/device-plugins")]
    device_plugins: PathBuf,
    /// The kubelet's PodResources socket.
    #[arg(
        long,
        env = "GRIDSTAKE_POD_RESOURCES_SOCKET",
        default_value = "/var/lib/kubelet/pod-resources/kubelet.sock"
    )]
    pod_resources_socket: PathBuf,
    /// Proc file system with the host's processes.
    #[arg(long, env = "GRIDSTAKE_PROC_ROOT", default_value = "/proc")]
    proc_root: PathBuf,
}

#[derive(Debug, Subcommand)]
enum FaultCommand {
    /// Set faults.
    #[command(after_help = faults::HELP)]
    Set {
        /// Index or UUID of the device; left out, the fault is the whole node's.
        #[arg(long)]
        gpu: Option<String>,
        /// What to set; see below.
        #[arg(required = true)]
        faults: Vec<Fault>,
    },
    /// Remove the faults of one device, or all.
    Clear {
        /// Index or UUID of the device.
        #[arg(long, conflicts_with = "all")]
        gpu: Option<String>,
        /// Every fault of the node; so does naming no device.
        #[arg(long)]
        all: bool,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum DriverArg {
    /// One that has every call.
    Current,
    /// One that lacks newer calls.
    Old,
    /// The library is there, the kernel's part is not.
    Unloaded,
    /// Neither is there.
    Absent,
}

impl From<DriverArg> for DriverKind {
    fn from(driver: DriverArg) -> Self {
        match driver {
            DriverArg::Current => Self::Current,
            DriverArg::Old => Self::Old,
            DriverArg::Unloaded => Self::Unloaded,
            DriverArg::Absent => Self::Absent,
        }
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match execute(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn execute(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        Command::Run(args) => {
            let flags = NodeProfile {
                gpus: args.gpus,
                model: args.model,
                driver: args.driver.into(),
            };
            let profile = node_profile(&args.node_name, flags, args.config.as_deref())?;
            run(plugin::Options {
                node: args.node_name,
                profile,
                state_directory: cli.state_dir,
                library_source: cli.library_source,
                device_plugins: args.device_plugins,
                pod_resources_socket: args.pod_resources_socket,
                proc_root: args.proc_root,
            })
        }
        Command::Fault(command) => {
            let directory = StateDirectory::open(cli.state_dir)?;
            change_faults(&directory, command)?;
            Ok(())
        }
        Command::Driver { kind } => change_driver(
            &StateDirectory::open(cli.state_dir)?,
            &cli.library_source,
            kind.into(),
        ),
        Command::Show { json } => show(&StateDirectory::open(cli.state_dir)?, json),
    }
}

fn run(options: plugin::Options) -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .json()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env()
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info")),
        )
        .init();
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?
        .block_on(plugin::run(options))
}

fn change_faults(directory: &StateDirectory, command: FaultCommand) -> Result<(), FaultError> {
    directory.update_state(|state, processes| {
        let position =
            |state: &_, gpu: Option<String>| gpu.map(|name| faults::find(state, &name)).transpose();
        match command {
            FaultCommand::Set { gpu, faults } => {
                let gpu = position(state, gpu)?;
                for fault in faults {
                    faults::set(state, processes, gpu, fault, boottime_nanoseconds())?;
                }
            }
            FaultCommand::Clear { gpu, all: _ } => {
                let gpu = position(state, gpu)?;
                faults::clear(state, gpu);
            }
        }
        Ok(())
    })
}

fn change_driver(
    directory: &StateDirectory,
    library_source: &std::path::Path,
    kind: DriverKind,
) -> anyhow::Result<()> {
    let lock = directory.lock()?;
    let mut state = directory
        .read_state()?
        .context("the device plugin has not started yet")?;
    state.driver = Driver::of(kind);
    directory.install_library(&lock, library_source, &state.driver)?;
    directory.write_state(&lock, &state)?;
    Ok(())
}

fn show(directory: &StateDirectory, json: bool) -> anyhow::Result<()> {
    let state = directory
        .read_state()?
        .context("the device plugin has not started yet")?;
    let processes = directory.read_processes()?.unwrap_or_default();
    let text = if json {
        let both = serde_json::json!({"state": state, "processes": processes});
        serde_json::to_string_pretty(&both).context("cannot write JSON")? + "\n"
    } else {
        describe(&state, &processes, boottime_nanoseconds())
    };
    // A closed pipe is no error: `show | head` is usual.
    let _ = std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes());
    Ok(())
}
