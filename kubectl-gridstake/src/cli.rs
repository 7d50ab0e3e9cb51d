//! The command line.

use std::{path::PathBuf, str::FromStr};

use alloy::primitives::{Address, B256};
use clap::{Args, Parser, Subcommand};
use gridstake_crds::TokenAmount;
use gridstake_ledger::week::Week;

use crate::{
    earnings::args::ReportArgs,
    end::End,
    error::PluginError,
    money::args::{
        BindArgs, ClaimArgs, DepositArgs, DisputeArgs, RegisterArgs, StakeArgs, ThawArgs,
        TransactionArgs, UnstakeArgs,
    },
    output::Format,
    quote::args::QuoteArgs,
};

/// Signs what Gridstake's operator asks of payers and providers, and puts it where the operator reads it; stakes, pays and
/// claims; verifies what was paid.
///
/// The cluster is the one of KUBECONFIG and its current context, as with kubectl. To verify, none is needed.
#[derive(Parser, Clone, Debug)]
#[command(name = "kubectl-gridstake", bin_name = "kubectl gridstake", version)]
pub struct Cli {
    /// What is to be done.
    #[command(subcommand)]
    pub command: Command,
}

/// What is to be done.
#[derive(Subcommand, Clone, Debug)]
pub enum Command {
    /// Consents, as a payer's owner, to pay for the jobs of a namespace.
    ///
    /// Signs the consent (EIP-712) and writes it into the namespace's annotations gridstake.dev/payer and
    /// gridstake.dev/payer-consent. A new consent replaces the one before. The operator's messages name lane, chain id and
    /// settlement address.
    Consent(ConsentArgs),

    /// Certifies, as a provider's operator, the key of a node's agent.
    ///
    /// Reads the key from the GpuNode's status.agent.key, signs it (EIP-712) and writes the certificate into
    /// spec.agentCertificate. The operator's messages name chain id, vault address and session epoch.
    Certify(CertifyArgs),

    /// Verifies, from archive and chain alone, that a lane was paid as its evidence says.
    ///
    /// Needs no cluster. Checks each file of the archive against the batch that the chain settled: every entry, receipt and
    /// amount, the agents' signatures, and over all files that no number is paid twice and no GPU billed twice. Says which
    /// byte of which file is the first that is wrong. Ends with 0 if everything is right, with 1 if something is wrong, and
    /// with 2 if it could not be checked.
    Verify(Box<VerifyArgs>),

    /// Explains why a job, a node or an incident is where it is, and what to do next.
    Explain(ExplainArgs),

    /// Shows the GPUs of each node, the jobs of each namespace, and what was used and earned in the last day.
    Top(TopArgs),

    /// Quotes what a job would cost and how long it would wait, on today's offers.
    ///
    /// Says which nodes could take it and why the others cannot, what the draw would have it cost on average, and what such GPUs
    /// cost elsewhere. Nothing is submitted, and nothing is promised: offers and the queue change.
    Quote(QuoteArgs),

    /// Reports what a provider got in a week, and whether the lane has stated so.
    ///
    /// Verifies the week as `verify --week` does, adds what the archive says of energy and what the provider's GpuNodes say of
    /// costs. Ends with 0 if the hash is the one on chain or none was stated yet, with 1 if something is wrong, and with 2 if it
    /// could not be checked.
    Report(Box<ReportArgs>),

    /// Takes a node off the market: it gets no new jobs, and those that run on it finish.
    ///
    /// Sets spec.mode of the GpuNode to Drained, and remembers the mode before in the annotation
    /// gridstake.dev/mode-before-drain. The Node is not cordoned: pods of others are none of its business.
    Drain(DrainArgs),

    /// Makes an account: a provider of GPUs, or a payer for jobs.
    Register(Box<RegisterArgs>),

    /// Adds to a provider's own stake.
    ///
    /// Lets the StakeVault take exactly that much of the token, if it may not already, and stakes it.
    Stake(Box<StakeArgs>),

    /// Asks a provider's own stake back, and takes it out when its time is over.
    ///
    /// What is asked back becomes a ticket, which can be withdrawn after the unbonding time (7 days) and be slashed until then.
    Unstake(Box<UnstakeArgs>),

    /// Puts stake behind somebody else's provider, for a part of what it earns.
    Delegate(Box<StakeArgs>),

    /// Asks delegated stake back, and takes it out when its time is over.
    Undelegate(Box<UnstakeArgs>),

    /// Takes out what can be taken out: a provider's earnings, a delegator's rewards, stake and deposits that were asked back.
    ///
    /// Earnings and rewards are paid in two steps: a claim is opened, and paid when it is due, by the same command.
    Claim(Box<ClaimArgs>),

    /// Pays into a payer's account, from which jobs are paid.
    Deposit(Box<DepositArgs>),

    /// Asks a payer's deposit back; `claim` takes it out seven days later.
    Thaw(Box<ThawArgs>),

    /// Disputes a proposal to slash, as the provider's staker or operator.
    Dispute(Box<DisputeArgs>),

    /// Has nodes stand for a provider: creates a StakeBinding with the addresses that the chain has.
    Bind(Box<BindArgs>),

    /// Looks what has become of a transaction.
    Transaction(TransactionArgs),

    /// Prints the script by which a shell completes `kubectl-gridstake`.
    ///
    /// To complete `kubectl gridstake` as well, kubectl asks an executable named kubectl_complete-gridstake in PATH; it has two
    /// lines: #!/bin/sh and exec kubectl-gridstake __complete "$@"
    Completion(CompletionArgs),

    /// Answers kubectl's question for what can follow.
    #[command(name = "__complete", hide = true)]
    Complete(CompleteArgs),

    /// Makes decisions of the scheduler again, from the archive alone.
    ///
    /// Reads the log of decisions: the fleet, each request, and what was drawn. Decides each request again, by code that the
    /// scheduler does not share, and says where the first one differs: a node that was left out, a weight, a number, a reason.
    /// Ends with 0 if all are equal, with 1 if something is wrong, and with 2 if it could not be checked.
    Replay(ReplayArgs),
}

/// What is explained.
#[derive(Args, Clone, Debug)]
pub struct ExplainArgs {
    /// What is explained.
    #[command(subcommand)]
    pub what: Explained,
}

/// What can be explained.
#[derive(Subcommand, Clone, Debug)]
pub enum Explained {
    /// A ComputeJob: what blocks it, its place in the queue, what would let it fit, each term of the draw that placed it, its
    /// attempts and at whose door they are laid, what it has used and how far that is paid.
    Job(ExplainJobArgs),

    /// A GpuNode: whether it is offered, and if not what mends it; its GPUs, their faults and quarantines, its reputation
    /// term by term, what it weighs in the draw, the jobs on it and the incidents of it.
    Node(ExplainObjectArgs),

    /// An Incident: what happened, at whose door it is laid, what follows, how much is at stake, and until when and how to
    /// answer.
    Incident(ExplainObjectArgs),
}

/// Which job is explained.
#[derive(Args, Clone, Debug)]
pub struct ExplainJobArgs {
    /// The job.
    #[arg(value_name = "[NAMESPACE/]NAME")]
    pub job: JobOrName,

    /// Its namespace, if it does not stand before its name. Without both, that of the current context.
    #[arg(short, long)]
    pub namespace: Option<String>,

    /// How the result is written.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub output: Format,
}

/// Which object is explained.
#[derive(Args, Clone, Debug)]
pub struct ExplainObjectArgs {
    /// Its name.
    pub name: String,

    /// How the result is written.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub output: Format,
}

/// A job, with or without its namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobOrName {
    /// The namespace, if one was named.
    pub namespace: Option<String>,
    /// The job.
    pub name: String,
}

impl FromStr for JobOrName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.contains('/') {
            let JobName { namespace, name } = text.parse()?;
            return Ok(Self {
                namespace: Some(namespace),
                name,
            });
        }
        if text.is_empty() {
            return Err("write the job's name, such as train, or team-a/train".to_owned());
        }
        Ok(Self {
            namespace: None,
            name: text.to_owned(),
        })
    }
}

impl JobOrName {
    /// The job in the namespace before its name, else in that of the flag, else in `default`.
    pub fn in_namespace(&self, flag: Option<&str>, default: &str) -> Result<JobName, PluginError> {
        let named = self.namespace.as_deref();
        if let (Some(named), Some(flag)) = (named, flag)
            && named != flag
        {
            return Err(PluginError::Unfit(format!(
                "--namespace is {flag}, and {named}/{} names another one: leave one of them out",
                self.name
            )));
        }
        Ok(JobName {
            namespace: named.or(flag).unwrap_or(default).to_owned(),
            name: self.name.clone(),
        })
    }
}

/// How the sums are shown.
#[derive(Args, Clone, Debug)]
pub struct TopArgs {
    /// How the result is written.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub output: Format,
}

/// Which node is drained, or put back.
#[derive(Args, Clone, Debug)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is a flag of the command line"
)]
pub struct DrainArgs {
    /// The node.
    pub node: String,

    /// Gives it back the mode that it had before.
    #[arg(long)]
    pub undo: bool,

    /// Waits until no job is on it.
    #[arg(long, conflicts_with_all = ["undo", "dry_run"])]
    pub wait: bool,

    /// The longest wait: a duration such as 2h, or a time in RFC 3339.
    #[arg(long, value_name = "DURATION|TIME", requires = "wait")]
    pub timeout: Option<End>,

    /// Does not ask.
    #[arg(short, long)]
    pub yes: bool,

    /// Writes nothing: prints the kubectl command that would.
    #[arg(long)]
    pub dry_run: bool,
}

/// For which shell.
#[derive(Args, Clone, Debug)]
pub struct CompletionArgs {
    /// The shell.
    #[arg(value_enum)]
    pub shell: CompletedShell,
}

/// A shell that can complete.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompletedShell {
    /// source <(kubectl-gridstake completion bash)
    Bash,
    /// source <(kubectl-gridstake completion zsh)
    Zsh,
    /// kubectl-gridstake completion fish | source
    Fish,
}

/// What stands on the command line so far.
#[derive(Args, Clone, Debug)]
pub struct CompleteArgs {
    /// The words after `gridstake`; the last one is to be completed.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub words: Vec<String>,
}

/// Which decisions are made again.
#[derive(Args, Clone, Debug)]
#[command(group(clap::ArgGroup::new("which").args(["decision", "job"])))]
pub struct ReplayArgs {
    /// The archive: a folder, or an http(s) address under which its files are.
    #[arg(long, value_name = "FOLDER|URL")]
    pub archive: String,

    /// The cluster whose log it is: the uid of its namespace kube-system. Without it, the cluster of KUBECONFIG.
    #[arg(long, value_name = "UID")]
    pub cluster: Option<String>,

    /// Only the decision of this hash. Without it and --job, all of the log.
    #[arg(long, value_name = "HASH")]
    pub decision: Option<B256>,

    /// Only the decision that placed the newest attempt of this ComputeJob, whose hash is read from the cluster of KUBECONFIG.
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pub job: Option<JobName>,

    /// How the result is written.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// A job of a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobName {
    /// The namespace.
    pub namespace: String,
    /// The job.
    pub name: String,
}

impl FromStr for JobName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split('/').collect::<Vec<_>>()[..] {
            [namespace, name] if !namespace.is_empty() && !name.is_empty() => Ok(Self {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
            }),
            _ => Err("write the job's namespace and its name, such as team-a/train".to_owned()),
        }
    }
}

/// What is verified, and from where.
#[derive(Args, Clone, Debug)]
#[command(group(clap::ArgGroup::new("chain").required(true).args(["rpc", "chain_file"])))]
#[command(group(clap::ArgGroup::new("what").args(["record", "batch", "week", "lane_all"])))]
pub struct VerifyArgs {
    /// The archive: a folder, or an http(s) address under which its files are.
    #[arg(long, value_name = "FOLDER|URL")]
    pub archive: String,

    /// JSON-RPC endpoint of the chain.
    #[arg(long, value_name = "URL")]
    pub rpc: Option<reqwest::Url>,

    /// What --save-chain has saved: no endpoint is asked.
    #[arg(long, visible_alias = "offline", value_name = "FILE")]
    pub chain_file: Option<PathBuf>,

    /// Saves what the chain says about the lane, for --chain-file.
    #[arg(long, value_name = "FILE", requires = "rpc")]
    pub save_chain: Option<PathBuf>,

    /// The address of the contract Settlement.
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    pub settlement: Address,

    /// The address of the contract StakeVault: then the certificates of agents' keys must be signed by who was the
    /// provider's operator.
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    pub vault: Option<Address>,

    /// The number of the lane.
    #[arg(long)]
    pub lane: u32,

    /// Only the batch that pays this UsageRecord.
    #[arg(long, value_name = "NAME")]
    pub record: Option<String>,

    /// Only the batch of this number.
    #[arg(long, value_name = "SEQ")]
    pub batch: Option<u64>,

    /// Only the batches settled in this week (ISO 8601, UTC), such as 2026-W48; and each provider's report of what it got in
    /// it, made again from them and compared with what the lane has stated.
    #[arg(long, value_name = "WEEK")]
    pub week: Option<Week>,

    /// All batches of the lane. This is what is done where nothing else is said.
    #[arg(long)]
    pub lane_all: bool,

    /// Verifies the log of uptime as well: that each of its epochs follows from the one before, and that its heads are those
    /// that the lane's batches state. With --week only what lies in that week.
    #[arg(long, conflicts_with_all = ["record", "batch"])]
    pub uptime: bool,

    /// The block from which on events are read: the one in which Settlement was deployed, or a later one.
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    pub from_block: u64,

    /// Checks the signature of every statement. Without it, of each slice the last one that the bill rests on: it covers
    /// those before it.
    #[arg(long)]
    pub every_signature: bool,

    /// How the result is written.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// How a result is written.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// For people.
    Text,
    /// One JSON object.
    Json,
}

/// What a payer consents to.
#[derive(Args, Clone, Debug)]
pub struct ConsentArgs {
    /// The namespace whose jobs are paid for. The consent holds for this very namespace, not for a later one of its name.
    #[arg(short, long)]
    pub namespace: String,

    /// The chain's name in the operator's configuration, which is written into the annotation gridstake.dev/chain. Where the
    /// operator has several chains and the namespace names none, it is on the first one.
    #[arg(long, value_name = "NAME", value_parser = chain_name)]
    pub chain: Option<String>,

    /// The number of the payer's account on the lane.
    #[arg(long, value_parser = payer)]
    pub payer: u32,

    /// The most that the namespace's jobs may cost in one day (UTC), in whole tokens with at most 9 decimals.
    #[arg(long, value_name = "TOKENS", value_parser = daily_cap)]
    pub daily_cap: u64,

    /// When the consent ends: a time in RFC 3339, or a duration from now, such as 30d or 12h.
    #[arg(long, value_name = "TIME|DURATION")]
    pub expires: End,

    /// File with the private key of the account's owner: 32 bytes in hexadecimal, with or without 0x.
    #[arg(long, value_name = "FILE")]
    pub key_file: PathBuf,

    /// The number of the cluster's lane.
    #[arg(long)]
    pub lane: u32,

    /// The chain's id (EIP-155).
    #[arg(long, value_name = "ID", value_parser = chain_id)]
    pub chain_id: u64,

    /// The address of the contract Settlement.
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    pub settlement: Address,

    /// Writes nothing: prints the kubectl command that would.
    #[arg(long)]
    pub dry_run: bool,
}

/// Whose key is certified, and by whom.
#[derive(Args, Clone, Debug)]
pub struct CertifyArgs {
    /// The node whose agent is certified.
    #[arg(long)]
    pub node: String,

    /// The number of the provider's account in the vault.
    #[arg(long, value_parser = provider)]
    pub provider: u32,

    /// File with the private key of the provider's operator address: 32 bytes in hexadecimal, with or without 0x.
    #[arg(long, value_name = "FILE")]
    pub key_file: PathBuf,

    /// The chain's id (EIP-155).
    #[arg(long, value_name = "ID", value_parser = chain_id)]
    pub chain_id: u64,

    /// The address of the contract StakeVault.
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    pub vault: Address,

    /// The provider's session epoch on the chain: 0 until it has revoked its sessions for the first time. To read it:
    /// cast call VAULT "sessionEpoch(uint32)(uint64)" PROVIDER
    #[arg(long, default_value_t = 0)]
    pub epoch: u64,

    /// When the certificate ends: a time in RFC 3339, or a duration from now, such as 90d or 12h.
    #[arg(long, value_name = "TIME|DURATION", default_value = "90d")]
    pub not_after: End,

    /// Also sets the node's price: whole tokens for one GPU for one second, with at most 9 decimals.
    #[arg(long, value_name = "TOKENS")]
    pub price: Option<TokenAmount>,

    /// Writes nothing: prints the kubectl command that would.
    #[arg(long)]
    pub dry_run: bool,
}

pub(crate) fn payer(text: &str) -> Result<u32, String> {
    account(text).ok_or_else(|| {
        "write the number of the payer's account, such as 3; 0 is the lane's reward account, which nobody owns"
            .to_owned()
    })
}

pub(crate) fn provider(text: &str) -> Result<u32, String> {
    account(text).ok_or_else(|| {
        "write the number of the provider's account, from 1 up, such as 7".to_owned()
    })
}

fn account(text: &str) -> Option<u32> {
    text.parse().ok().filter(|number| *number > 0)
}

pub(crate) fn chain_name(text: &str) -> Result<String, String> {
    let named = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if (1..=63).contains(&text.len()) && text.chars().all(named) {
        Ok(text.to_owned())
    } else {
        Err("write the chain's name in the operator's configuration: at most 63 lower-case letters, digits and hyphens, such as base-sepolia".to_owned())
    }
}

pub(crate) fn chain_id(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(id) if id > 0 => Ok(id),
        _ => Err("write the chain's id as a decimal number, such as 8453".to_owned()),
    }
}

/// In nano-tokens.
fn daily_cap(text: &str) -> Result<u64, String> {
    let amount: TokenAmount = text
        .parse()
        .map_err(|error: gridstake_crds::amount::InvalidAmount| error.to_string())?;
    u64::try_from(amount.nano()).map_err(|_| {
        let most = TokenAmount::from_nano(u64::MAX.into());
        format!("it is more than an account can hold: write at most {most}")
    })
}

/// In mixed case an address holds a checksum (EIP-55).
pub(crate) fn address(text: &str) -> Result<Address, String> {
    let digits = text
        .strip_prefix("0x")
        .filter(|digits| digits.len() == 40 && digits.bytes().all(|b| b.is_ascii_hexdigit()))
        .ok_or("write an EVM address: 0x and 40 hexadecimal digits")?;
    let mixed = digits.bytes().any(|b| b.is_ascii_lowercase())
        && digits.bytes().any(|b| b.is_ascii_uppercase());
    if mixed {
        Address::parse_checksummed(text, None).map_err(|_| {
            "its checksum is wrong, so a digit or a letter's case is: copy the address again"
                .to_owned()
        })
    } else {
        text.parse()
            .map_err(|error| format!("{error}: write 0x and 40 hexadecimal digits"))
    }
}

#[cfg(test)]
#[path = "cli_tests.rs"]
mod tests;
