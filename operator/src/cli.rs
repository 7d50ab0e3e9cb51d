//! Command line and environment of the operator.

use std::{net::SocketAddr, num::NonZeroU32, path::PathBuf, time::Duration};

use clap::{Parser, Subcommand, ValueEnum};
use gridstake_crds::PodTemplate;
use k8s_openapi::jiff::SignedDuration;

use crate::{
    archive::{self, Terms},
    contracts_deploy::args::DeployArgs,
    controllers::{canary, gpu_node::quarantine, reclaim::preempt},
    failover,
    scheduler::{fair_share::HalfLife, owner_cap::OwnerCap},
};

/// Places GPU jobs, watches over them, and keeps what is on offer up to date.
#[derive(Parser, Clone, Debug)]
#[command(name = "gridstake-operator", version)]
pub struct Cli {
    /// What the operator goes by.
    #[command(flatten)]
    pub operator: Args,

    /// Something else than the operator.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What the program does beside being the operator.
#[derive(Subcommand, Clone, Debug)]
pub enum Command {
    /// Puts the contracts on a chain.
    ContractsDeploy(Box<DeployArgs>),
}

/// What the operator goes by.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Namespace of this installation: the leader's lease and the agents' heartbeats are in it.
    #[arg(long, env = "POD_NAMESPACE", default_value = "gridstake-system")]
    pub namespace: String,

    /// Name of this replica, unique among replicas. In a cluster: the pod's name.
    #[arg(long, env = "POD_NAME", default_value_t = default_identity())]
    pub identity: String,

    /// Address for `/livez`, `/readyz` and `/metrics`.
    #[arg(long, env = "GRIDSTAKE_LISTEN", default_value = "0.0.0.0:8080")]
    pub listen: SocketAddr,

    /// After which time a slice of a lease is sealed, in seconds. The `interval` of the chain on which it is paid comes before it.
    #[arg(long, env = "GRIDSTAKE_SETTLEMENT_INTERVAL", default_value = "3600", value_parser = whole_seconds)]
    pub settlement_interval: Duration,

    /// Whether replicas elect a leader. Without it this process works at once: run no second one.
    #[arg(long, env = "GRIDSTAKE_LEADER_ELECT", default_value_t = true, action = clap::ArgAction::Set)]
    pub leader_elect: bool,

    /// For how long a lease that is not renewed keeps others out, in seconds.
    #[arg(long, default_value = "15", value_parser = whole_seconds)]
    pub lease_duration: Duration,

    /// For how long the leader works on without a successful renewal, in seconds. Must be below the lease duration.
    #[arg(long, default_value = "10", value_parser = whole_seconds)]
    pub renew_deadline: Duration,

    /// Pause between two bids for the lease, in seconds. Must be below the renew deadline.
    #[arg(long, default_value = "2", value_parser = whole_seconds)]
    pub retry_period: Duration,

    /// For how long running work may go on after SIGTERM, in seconds. Keep it below the pod's
    /// `terminationGracePeriodSeconds`.
    #[arg(long, default_value = "20", value_parser = whole_seconds)]
    pub drain_timeout: Duration,

    /// File that says on which chains this cluster settles. Without it jobs run and are metered, and nothing is owed.
    #[arg(long, env = "GRIDSTAKE_CHAINS_FILE")]
    pub chains_file: Option<PathBuf>,

    /// Where final batches are kept as files: a folder by its absolute path, or a bucket such as s3://bucket/prefix or
    /// gs://bucket, whose keys are taken from the environment (AWS_…, GOOGLE_…). Without it nothing is archived, and
    /// nothing final is removed from the cluster.
    #[arg(long, env = "GRIDSTAKE_ARCHIVE", value_name = "FOLDER-OR-BUCKET")]
    pub archive: Option<String>,

    /// For how many days what is archived also stays in the cluster. At least 9: for so long a stake can be slashed for
    /// it.
    #[arg(long, env = "GRIDSTAKE_ARCHIVE_RETENTION_DAYS", value_name = "DAYS", default_value_t = 30, value_parser = clap::value_parser!(u16).range(9..))]
    pub archive_retention_days: u16,

    /// Whether what is archived for longer than that is removed from the cluster.
    #[arg(long, env = "GRIDSTAKE_ARCHIVE_REMOVES", default_value_t = true, action = clap::ArgAction::Set)]
    pub archive_removes: bool,

    /// After which time without a heartbeat an agent counts as silent, in seconds. Agents send one every 10 s.
    #[arg(long, env = "GRIDSTAKE_SILENT_AFTER", default_value = "30", value_parser = whole_seconds)]
    pub silent_after: Duration,

    /// How long a node of which neither agent nor kubelet answers may still come back before its jobs are placed elsewhere,
    /// in seconds.
    #[arg(long, env = "GRIDSTAKE_FAILOVER_GRACE", default_value = "30", value_parser = whole_seconds)]
    pub failover_grace: Duration,

    /// When more than this share of all nodes falls silent together, in percent, nothing is closed, placed elsewhere or held
    /// against anybody.
    #[arg(long, env = "GRIDSTAKE_AMNESTY_PERCENT", value_name = "PERCENT", default_value_t = 50, value_parser = clap::value_parser!(u8).range(1..=100))]
    pub amnesty_percent: u8,

    /// How long that lasts at most, in seconds: nodes that are not back by then are given up.
    #[arg(long, env = "GRIDSTAKE_AMNESTY_LONGEST", default_value = "900", value_parser = whole_seconds)]
    pub amnesty_longest: Duration,

    /// Within how many seconds three pods that a node's kubelet refuses take it off the market, and for how long after the last.
    #[arg(long, env = "GRIDSTAKE_QUARANTINE_ADMISSION", value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u16).range(1..=3600))]
    pub quarantine_admission: u16,

    /// For how many seconds a GPU on which several jobs failed must be clean before it is offered again.
    #[arg(long, env = "GRIDSTAKE_QUARANTINE_GPU", value_name = "SECONDS", default_value_t = 1800, value_parser = clap::value_parser!(u16).range(1..=3600))]
    pub quarantine_gpu: u16,

    /// Whether jobs make way for those of higher priority whose PriorityClass does not say `preemptionPolicy: Never`.
    #[arg(long, env = "GRIDSTAKE_PREEMPTION", default_value_t = true, action = clap::ArgAction::Set)]
    pub preemption: bool,

    /// For how many seconds an attempt runs before it may have to.
    #[arg(long, env = "GRIDSTAKE_PREEMPTION_MINIMUM_RUN", default_value = "300", value_parser = seconds_or_none)]
    pub preemption_minimum_run: Duration,

    /// Which part of the stake that is asked for is proposed to be cut for downtime during a job, in thousandths, from the
    /// fourth time within 30 days on. 0: none.
    #[arg(long, env = "GRIDSTAKE_DOWNTIME_SLASH_PERMILLE", value_name = "PERMILLE", default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=100))]
    pub downtime_slash_permille: u16,

    /// Which part of that stake is proposed to be cut for statements of an agent that cannot be true, in thousandths, from the
    /// second time within 30 days on. 0: none.
    #[arg(long, env = "GRIDSTAKE_FALSE_STATEMENT_SLASH_PERMILLE", value_name = "PERMILLE", default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=1000))]
    pub false_statement_slash_permille: u16,

    /// The pod of a canary, as a pod template in JSON or YAML, whose program is `gridstake-device-agent measure`. Its node and its
    /// GPUs are filled in. Without it nodes are not measured.
    #[arg(long, env = "GRIDSTAKE_CANARY_TEMPLATE", value_name = "POD-TEMPLATE", value_parser = pod_template)]
    pub canary_template: Option<PodTemplate>,

    /// How often a node is measured by a canary, such as 24h; from 1m to 720h.
    #[arg(long, env = "GRIDSTAKE_CANARY_EVERY", default_value = "24h", value_parser = canary_every)]
    pub canary_every: SignedDuration,

    /// For how long a measurement counts, such as 720h; from 1m to 8760h. Let it be several times as long: nobody can measure a
    /// node whose GPUs are never free.
    #[arg(long, env = "GRIDSTAKE_CANARY_EXPIRES_AFTER", default_value = "720h", value_parser = canary_expires_after)]
    pub canary_expires_after: SignedDuration,

    /// How many canaries there may be at a time.
    #[arg(long, env = "GRIDSTAKE_CANARY_MOST", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub canary_most: u16,

    /// After which time what a payer has used counts half against its fair share of the queue, such as 24h; from 10m to 720h.
    #[arg(long, env = "GRIDSTAKE_FAIR_SHARE_HALF_LIFE", default_value = "24h", value_parser = half_life)]
    pub fair_share_half_life: HalfLife,

    /// The share of the weights of one GPU model that one owner may have in draws, in percent; 100: no cap.
    #[arg(long, env = "GRIDSTAKE_OWNER_CAP_PERCENT", default_value = "20")]
    pub owner_cap_percent: OwnerCap,

    /// How log lines are written.
    #[arg(long, env = "GRIDSTAKE_LOG_FORMAT", default_value = "json")]
    pub log_format: LogFormat,

    /// Which log lines are written: `info`, or a list such as `info,gridstake_operator=debug`.
    #[arg(long, env = "RUST_LOG", default_value = "info,kube_runtime=warn")]
    pub log_filter: String,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// Values of [`Args`] that contradict each other.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArgsError {
    /// The leader would go on working while another may take over.
    #[error(
        "--renew-deadline ({renew:?}) must be below --lease-duration ({lease:?}), such as 10 and 15"
    )]
    RenewDeadline {
        /// `--renew-deadline`.
        renew: Duration,
        /// `--lease-duration`.
        lease: Duration,
    },
    /// One failed renewal would cost the lease.
    #[error(
        "--retry-period ({retry:?}) must be below --renew-deadline ({renew:?}), such as 2 and 10"
    )]
    RetryPeriod {
        /// `--retry-period`.
        retry: Duration,
        /// `--renew-deadline`.
        renew: Duration,
    },
}

impl Args {
    /// Whether and when jobs make way for those of higher priority.
    #[must_use]
    pub const fn preemption(&self) -> preempt::Terms {
        preempt::Terms {
            enabled: self.preemption,
            minimum_run: self.preemption_minimum_run,
        }
    }

    /// What the archive is to do.
    #[must_use]
    pub fn archive_terms(&self) -> Terms {
        let retention = Duration::from_hours(u64::from(self.archive_retention_days) * 24);
        Terms {
            retention: retention.max(archive::SHORTEST_RETENTION),
            removes: self.archive_removes,
        }
    }

    /// How nodes are measured.
    #[must_use]
    pub fn canaries(&self) -> canary::Terms {
        canary::Terms {
            template: self.canary_template.clone(),
            every: self.canary_every,
            expires_after: self.canary_expires_after,
            most: usize::from(self.canary_most),
        }
    }

    /// How soon a node is given up.
    #[must_use]
    pub fn failover(&self) -> failover::Terms {
        let span = |time: Duration| SignedDuration::try_from(time).unwrap_or(SignedDuration::MAX);
        failover::Terms {
            silent_after: span(self.silent_after),
            grace: span(self.failover_grace),
            amnesty_percent: self.amnesty_percent,
            amnesty_longest: span(self.amnesty_longest),
        }
    }

    /// How long what has failed is left alone.
    #[must_use]
    pub fn quarantine(&self) -> quarantine::Terms {
        quarantine::Terms {
            gpu_clean: SignedDuration::from_secs(self.quarantine_gpu.into()),
            admission_clean: SignedDuration::from_secs(self.quarantine_admission.into()),
        }
    }

    /// Checks what one flag alone cannot say.
    pub fn validate(&self) -> Result<(), ArgsError> {
        if self.renew_deadline >= self.lease_duration {
            return Err(ArgsError::RenewDeadline {
                renew: self.renew_deadline,
                lease: self.lease_duration,
            });
        }
        if self.retry_period >= self.renew_deadline {
            return Err(ArgsError::RetryPeriod {
                retry: self.retry_period,
                renew: self.renew_deadline,
            });
        }
        Ok(())
    }
}

fn pod_template(text: &str) -> Result<PodTemplate, String> {
    let template: PodTemplate = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
    let typed = template.typed().map_err(|error| error.to_string())?;
    if typed.spec.is_none_or(|spec| spec.containers.is_empty()) {
        return Err("it needs a container, such as {spec: {containers: [{name: measure, image: …, args: [measure]}]}}".to_owned());
    }
    Ok(template)
}

fn canary_every(text: &str) -> Result<SignedDuration, String> {
    span(text, 720)
}

fn canary_expires_after(text: &str) -> Result<SignedDuration, String> {
    span(text, 8760)
}

/// Reads a time such as `24h`, from ten minutes to 720 hours; seconds are left out.
fn half_life(text: &str) -> Result<HalfLife, String> {
    span(text, 720)
        .ok()
        .and_then(|span| u32::try_from(span.as_mins()).ok())
        .filter(|minutes| *minutes >= 10)
        .and_then(NonZeroU32::new)
        .map(HalfLife)
        .ok_or_else(|| "write a time such as 24h, from 10m to 720h".to_owned())
}

/// Reads a time such as `24h` or `1h30m`, from a minute to so many hours.
fn span(text: &str, most_hours: i64) -> Result<SignedDuration, String> {
    let fault = || format!("write a time such as 24h, from 1m to {most_hours}h");
    let span = gridstake_crds::duration::parse(text).map_err(|_| fault())?;
    let span = SignedDuration::try_from(Duration::from(span)).map_err(|_| fault())?;
    let range = SignedDuration::from_mins(1)..=SignedDuration::from_hours(most_hours);
    if text.starts_with('-') || !range.contains(&span) {
        return Err(fault());
    }
    Ok(span)
}

fn whole_seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<u16>() {
        Ok(seconds) if seconds > 0 => Ok(Duration::from_secs(seconds.into())),
        _ => Err("write a whole number of seconds from 1 to 65535, such as 15".to_owned()),
    }
}

fn seconds_or_none(text: &str) -> Result<Duration, String> {
    match text.parse::<u16>() {
        Ok(seconds) => Ok(Duration::from_secs(seconds.into())),
        Err(_) => Err("write a whole number of seconds from 0 to 65535, such as 300".to_owned()),
    }
}

/// Outside a cluster: unique on this machine.
fn default_identity() -> String {
    format!("gridstake-operator-{}", std::process::id())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn cli(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("gridstake-operator").chain(line.split_whitespace()))
    }

    fn args(line: &str) -> Result<Args, clap::Error> {
        cli(line).map(|cli| cli.operator)
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_defaults_are_those_of_the_documentation() {
        let args = args("--identity a").unwrap();
        assert_eq!(args.validate(), Ok(()));
        assert_eq!(args.lease_duration, Duration::from_secs(15));
        assert_eq!(args.renew_deadline, Duration::from_secs(10));
        assert_eq!(args.retry_period, Duration::from_secs(2));
        assert!(args.leader_elect);
        assert_eq!(args.failover(), failover::Terms::default());
        assert_eq!(args.quarantine(), quarantine::Terms::default());
        assert_eq!(args.listen.port(), 8080);
    }

    #[test]
    fn what_is_archived_stays_for_as_long_as_a_stake_can_be_slashed_for_it() {
        let days =
            |line: &str| args(line).map(|args| args.archive_terms().retention.as_secs() / 86_400);
        assert_eq!(days("").unwrap(), 30);
        assert_eq!(days("--archive-retention-days 9").unwrap(), 9);
        let refused = days("--archive-retention-days 8").unwrap_err().to_string();
        assert!(refused.contains("9.."), "{refused}");
        assert!(args("").unwrap().archive.is_none());
    }

    #[test]
    fn without_a_subcommand_it_is_the_operator() {
        assert!(cli("--identity a").unwrap().command.is_none());
    }

    #[test]
    fn the_hooks_command_line_is_understood() {
        let line = "contracts-deploy --chains-file=/c/chains.yaml --key-file=/d/deployer --config-map=deployed";
        let Some(Command::ContractsDeploy(args)) = cli(line).unwrap().command else {
            panic!("{line} is another command");
        };
        assert_eq!(args.config_map.as_deref(), Some("deployed"));
        assert_eq!(args.fee_bps, 500);
        assert_eq!(args.claim_delay, Duration::from_hours(24));
        assert_eq!(args.timelock_delay, None);
    }

    #[test]
    fn flags_of_contracts_deploy_that_belong_together_are_asked_for() {
        for (line, words) in [
            ("--chains-file a", "--config-map"),
            ("--config-map a", "--chains-file"),
            (
                "--owner 0x0000000000000000000000000000000000000001",
                "--timelock-delay",
            ),
            (
                "--lane-signer 0x0000000000000000000000000000000000000001",
                "--gas-account",
            ),
            ("--timelock-delay 2days", "such as 90s"),
            ("--fee-bps 2001", "2001"),
            ("--token GRID", "--token"),
        ] {
            let refused = cli(&format!("contracts-deploy {line}"))
                .unwrap_err()
                .to_string();
            assert!(refused.contains(words), "{line}: {refused}");
        }
    }

    #[test]
    fn without_a_template_nodes_are_not_measured() {
        assert_eq!(args("").unwrap().canaries(), canary::Terms::default());
        let template =
            r#"--canary-template={"spec":{"containers":[{"name":"measure","image":"a:1"}]}}"#;
        let measured = args(&format!("{template} --canary-every 90m --canary-most 5")).unwrap();
        let terms = measured.canaries();
        assert!(terms.template.is_some());
        assert_eq!(
            (terms.every, terms.most),
            (SignedDuration::from_mins(90), 5)
        );
    }

    #[test]
    fn a_template_or_a_time_that_cannot_be_is_refused_with_an_example() {
        for (line, words) in [
            ("--canary-template={}", "needs a container"),
            (
                "--canary-template={\"spec\":{\"containers\":7}}",
                "--canary-template",
            ),
            ("--canary-every 30s", "from 1m to 720h"),
            ("--canary-every=-24h", "from 1m to 720h"),
            ("--canary-expires-after 1d", "from 1m to 8760h"),
            ("--canary-most 0", "0"),
        ] {
            let refused = args(line).unwrap_err().to_string();
            assert!(refused.contains(words), "{line}: {refused}");
        }
    }

    #[test]
    fn leader_election_can_be_switched_off() {
        assert!(!args("--leader-elect=false").unwrap().leader_elect);
    }

    #[test]
    fn durations_that_would_allow_two_leaders_are_refused() {
        let refused = args("--renew-deadline 15").unwrap().validate();
        assert!(
            matches!(refused, Err(ArgsError::RenewDeadline { .. })),
            "{refused:?}"
        );
        let refused = args("--retry-period 10").unwrap().validate();
        assert!(
            matches!(refused, Err(ArgsError::RetryPeriod { .. })),
            "{refused:?}"
        );
    }

    #[test]
    fn a_duration_that_is_no_number_of_seconds_is_refused_with_an_example() {
        let refused = args("--lease-duration 15s").unwrap_err().to_string();
        assert!(refused.contains("such as 15"), "{refused}");
        assert!(args("--lease-duration 0").is_err());
    }
}
