//! The command line. Every flag can also be set by the environment variable that its help names.

use std::{ffi::OsString, net::SocketAddr, path::PathBuf, time::Duration};

use clap::Parser;

/// What the program is to be, with the words of its command line that are about it.
///
/// What the agent needs must be given to the agent and to nobody else, so each use has a parser of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// The agent: [`Args`].
    Agent(Vec<OsString>),
    /// A measurement: [`crate::measure::Args`].
    Measure(Vec<OsString>),
}

impl Command {
    /// Reads a command line; the first of `words` is the program's name.
    #[must_use]
    pub fn of(words: impl IntoIterator<Item = OsString>) -> Self {
        let mut words: Vec<OsString> = words.into_iter().collect();
        if words.get(1).is_some_and(|word| word == "measure") {
            words.remove(1);
            Self::Measure(words)
        } else {
            Self::Agent(words)
        }
    }
}

/// Reports the GPUs of one Kubernetes node, their health and who uses them.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "gridstake-device-agent",
    version,
    about,
    after_help = "`gridstake-device-agent measure` times the GPUs that it is shown, and ends; see its --help."
)]
pub struct Args {
    /// Name of the Node that this agent runs on; its `GpuNode` has the same name.
    #[arg(long, env = "NODE_NAME")]
    pub node_name: String,

    /// Namespace of the heartbeat Lease and of the UsageRecords: the operator's.
    #[arg(long, env = "POD_NAMESPACE")]
    pub namespace: String,

    /// Path of NVIDIA's management library; without it `libnvidia-ml.so.1` is searched for as dlopen does.
    #[arg(long, env = "GRIDSTAKE_NVML_LIBRARY")]
    pub nvml_library: Option<PathBuf>,

    /// The kubelet's PodResources socket.
    #[arg(
        long,
        env = "GRIDSTAKE_POD_RESOURCES_SOCKET",
        default_value = "/var/lib/kubelet/pod-resources/kubelet.sock"
    )]
    pub pod_resources_socket: PathBuf,

    /// Where the host's procfs is mounted. The agent must see the host's process ids.
    #[arg(long, env = "GRIDSTAKE_PROC_ROOT", default_value = "/proc")]
    pub proc_root: PathBuf,

    /// Where the signing key and the evidence that is not delivered yet are kept: a folder of the host that only the
    /// agent may read.
    #[arg(
        long,
        env = "GRIDSTAKE_STATE_DIR",
        default_value = "/var/lib/gridstake"
    )]
    pub state_dir: PathBuf,

    /// Where the kubelet keeps the logs of pods: the names of the folders there tell which pod has which UID.
    #[arg(long, env = "GRIDSTAKE_POD_LOGS", default_value = "/var/log/pods")]
    pub pod_logs: PathBuf,

    /// Address of `/healthz` and `/metrics`.
    #[arg(long, env = "GRIDSTAKE_LISTEN", default_value = "0.0.0.0:9400")]
    pub listen: SocketAddr,

    /// Time between two samples of every GPU, as in `1s` or `500ms`; from 100ms to 1m.
    #[arg(
        long,
        env = "GRIDSTAKE_SAMPLE_INTERVAL",
        default_value = "1s",
        value_parser = sample_interval
    )]
    pub sample_interval: Duration,

    /// Time between two checkpoints about a slice, as in `5m` or `10s`; from 1s to 1h.
    #[arg(
        long,
        env = "GRIDSTAKE_CHECKPOINT_INTERVAL",
        default_value = "5m",
        value_parser = checkpoint_interval
    )]
    pub checkpoint_interval: Duration,

    /// How long a GPU must have been clean after a hardware Xid or an uncorrectable memory error before it is offered again
    /// without a reboot, as in `30m`; from 1s to 24h.
    #[arg(
        long,
        env = "GRIDSTAKE_FAULT_CLEAN_TIME",
        default_value = "30m",
        value_parser = fault_clean_time
    )]
    pub fault_clean_time: Duration,
}

const SAMPLE_INTERVAL_MIN: Duration = Duration::from_millis(100);
const SAMPLE_INTERVAL_MAX: Duration = Duration::from_mins(1);

const CHECKPOINT_INTERVAL_MIN: Duration = Duration::from_secs(1);
const CHECKPOINT_INTERVAL_MAX: Duration = Duration::from_hours(1);

/// As long as faults are kept.
const FAULT_CLEAN_TIME_MAX: Duration = Duration::from_hours(24);

fn fault_clean_time(text: &str) -> Result<Duration, String> {
    let time = duration(text)?;
    if !(Duration::from_secs(1)..=FAULT_CLEAN_TIME_MAX).contains(&time) {
        return Err(format!("`{text}` is outside 1s to 24h"));
    }
    Ok(time)
}

fn sample_interval(text: &str) -> Result<Duration, String> {
    let interval = duration(text)?;
    if !(SAMPLE_INTERVAL_MIN..=SAMPLE_INTERVAL_MAX).contains(&interval) {
        return Err(format!("`{text}` is outside 100ms to 1m"));
    }
    Ok(interval)
}

fn checkpoint_interval(text: &str) -> Result<Duration, String> {
    let interval = duration(text)?;
    if !(CHECKPOINT_INTERVAL_MIN..=CHECKPOINT_INTERVAL_MAX).contains(&interval) {
        return Err(format!("`{text}` is outside 1s to 1h"));
    }
    Ok(interval)
}

/// Reads a whole number followed by `ms`, `s`, `m` or `h`.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number
        .parse()
        .map_err(|_| format!("`{text}` is not a duration; write one like 1s or 500ms"))?;
    match unit {
        "ms" => Ok(Duration::from_millis(number)),
        "s" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(number.saturating_mul(60))),
        "h" => Ok(Duration::from_secs(number.saturating_mul(3600))),
        _ => Err(format!(
            "`{text}` has no unit of ms, s, m or h; write one like 1s or 500ms"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_interval_is_a_number_with_a_unit_within_its_bounds() {
        assert_eq!(sample_interval("1s"), Ok(Duration::from_secs(1)));
        assert_eq!(sample_interval("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(sample_interval("1m"), Ok(Duration::from_mins(1)));
        for bad in ["", "s", "1", "1h", "99ms", "61s", "-1s", "1.5s"] {
            assert!(sample_interval(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_checkpoint_interval_is_within_its_bounds() {
        assert_eq!(checkpoint_interval("5m"), Ok(Duration::from_mins(5)));
        assert_eq!(checkpoint_interval("1h"), Ok(Duration::from_hours(1)));
        for bad in ["", "5", "999ms", "61m", "2h", "1d"] {
            assert!(checkpoint_interval(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn measure_is_a_use_of_its_own_and_needs_nothing_of_the_agents() {
        let command = |line: &str| Command::of(line.split(' ').map(OsString::from));
        let Command::Measure(words) = command("agent measure --rounds 9") else {
            panic!("it is a measurement");
        };
        let args = crate::measure::Args::try_parse_from(words).unwrap();
        assert_eq!(args.rounds, 9);
        assert_eq!(
            args.termination_message,
            PathBuf::from("/dev/termination-log")
        );
        assert!(matches!(
            command("agent --node-name measure"),
            Command::Agent(words) if words.len() == 3
        ));
        assert!(crate::measure::Args::try_parse_from(["measure", "--rounds", "0"]).is_err());
    }

    #[test]
    fn the_defaults_are_those_of_a_kubelet_node() {
        let args = Args::parse_from(["agent", "--node-name", "a", "--namespace", "b"]);
        assert_eq!(args.proc_root, PathBuf::from("/proc"));
        assert_eq!(args.nvml_library, None);
        assert_eq!(args.state_dir, PathBuf::from("/var/lib/gridstake"));
        assert_eq!(args.listen.port(), 9400);
        assert_eq!(args.sample_interval, Duration::from_secs(1));
        assert_eq!(args.checkpoint_interval, Duration::from_mins(5));
        assert_eq!(args.fault_clean_time, crate::health::CLEAN_FOR);
    }
}
