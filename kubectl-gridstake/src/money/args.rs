//! The command line of the commands about money.

use std::path::PathBuf;

use alloy::primitives::{Address, B256};
use clap::{Args, Subcommand};
use gridstake_crds::TokenAmount;

use crate::{
    cli::{address, chain_id, chain_name, payer, provider},
    end::End,
    output::Format,
};

/// On which chain.
#[derive(Args, Clone, Debug)]
pub struct ChainArgs {
    /// The chain's name in the operator's configuration, which the cluster of KUBECONFIG holds; without it the first one.
    #[arg(long, value_name = "NAME", value_parser = chain_name)]
    pub chain: Option<String>,

    /// JSON-RPC endpoint of the chain, in the place of the one that the operator uses.
    #[arg(long, value_name = "URL")]
    pub rpc: Option<reqwest::Url>,

    /// The address of the contract Settlement, which names the StakeVault and the token. With --rpc, no cluster is asked.
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    pub settlement: Option<Address>,

    /// The id (EIP-155) that the chain must have.
    #[arg(long, value_name = "ID", value_parser = chain_id)]
    pub chain_id: Option<u64>,

    /// The namespace of the operator, where its configuration is.
    #[arg(long, value_name = "NAMESPACE", default_value = "gridstake-system")]
    pub operator_namespace: String,
}

/// Who sends, and how.
#[derive(Args, Clone, Debug)]
pub struct SendArgs {
    /// On which chain.
    #[command(flatten)]
    pub on: ChainArgs,

    /// File with the private key of the account that sends and pays for gas: 32 bytes in hexadecimal, with or without 0x.
    #[arg(long, value_name = "FILE")]
    pub key_file: PathBuf,

    /// The nonce of the first transaction. Repeated with the nonce of one whose fate is unknown, a command cannot do the same
    /// thing twice.
    #[arg(long, value_name = "NUMBER")]
    pub nonce: Option<u64>,

    /// How long to wait until a transaction is in a block, such as 2m.
    #[arg(long, value_name = "DURATION", default_value = "2m")]
    pub timeout: End,

    /// Does not ask.
    #[arg(short, long)]
    pub yes: bool,

    /// Sends nothing: shows what would be sent.
    #[arg(long)]
    pub dry_run: bool,

    /// How the result is written.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub output: Format,
}

/// What becomes an account.
#[derive(Args, Clone, Debug)]
pub struct RegisterArgs {
    /// What becomes an account.
    #[command(subcommand)]
    pub what: Registered,
}

/// What can become an account.
#[derive(Subcommand, Clone, Debug)]
pub enum Registered {
    /// A provider of GPUs in the StakeVault. The account that sends owns its stake.
    Provider(RegisterProviderArgs),

    /// A payer on a lane. The account that sends owns what is deposited.
    Payer(RegisterPayerArgs),
}

/// Who becomes a provider.
#[derive(Args, Clone, Debug)]
pub struct RegisterProviderArgs {
    /// The address that signs agents' keys and answers incidents. It must differ from the account that sends.
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    pub operator: Address,

    /// Where earnings are paid to. Without it, the account that sends.
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    pub beneficiary: Option<Address>,

    /// Registers another provider although the account owns one.
    #[arg(long)]
    pub another: bool,

    /// Who sends, and how.
    #[command(flatten)]
    pub send: SendArgs,
}

/// Who becomes a payer.
#[derive(Args, Clone, Debug)]
pub struct RegisterPayerArgs {
    /// The number of the cluster's lane. Without it, that of the operator's configuration.
    #[arg(long)]
    pub lane: Option<u32>,

    /// Registers another payer although the account owns one on this lane.
    #[arg(long)]
    pub another: bool,

    /// Who sends, and how.
    #[command(flatten)]
    pub send: SendArgs,
}

/// What is staked.
#[derive(Args, Clone, Debug)]
pub struct StakeArgs {
    /// The number of the provider's account in the StakeVault.
    #[arg(long, value_parser = provider)]
    pub provider: u32,

    /// How much, in whole tokens with at most 9 decimals.
    #[arg(long, value_name = "TOKENS", value_parser = amount)]
    pub amount: TokenAmount,

    /// Who sends, and how.
    #[command(flatten)]
    pub send: SendArgs,
}

/// What is asked back.
#[derive(Args, Clone, Debug)]
#[command(group(clap::ArgGroup::new("which").required(true).args(["amount", "all", "withdraw", "rebond"])))]
pub struct UnstakeArgs {
    /// The number of the provider's account in the StakeVault.
    #[arg(long, value_parser = provider)]
    pub provider: u32,

    /// How much is asked back, in whole tokens with at most 9 decimals.
    #[arg(long, value_name = "TOKENS", value_parser = amount)]
    pub amount: Option<TokenAmount>,

    /// Asks all of it back.
    #[arg(long)]
    pub all: bool,

    /// Takes out what was asked back and whose time is over.
    #[arg(long)]
    pub withdraw: bool,

    /// Puts what was asked back under this ticket where it came from.
    #[arg(long, value_name = "TICKET")]
    pub rebond: Option<u32>,

    /// Who sends, and how.
    #[command(flatten)]
    pub send: SendArgs,
}

/// What is taken out.
#[derive(Args, Clone, Debug)]
#[command(group(clap::ArgGroup::new("whose").required(true).args(["provider", "payer"])))]
pub struct ClaimArgs {
    /// The provider: its earnings, and of the account that sends the rewards of what it delegated and what it has asked back.
    #[arg(long, value_parser = provider)]
    pub provider: Option<u32>,

    /// The payer: what was asked back of its deposit.
    #[arg(long, value_parser = payer)]
    pub payer: Option<u32>,

    /// The number of the payer's lane. Without it, that of the operator's configuration.
    #[arg(long, conflicts_with = "provider")]
    pub lane: Option<u32>,

    /// Who sends, and how.
    #[command(flatten)]
    pub send: SendArgs,
}

/// What is deposited.
#[derive(Args, Clone, Debug)]
pub struct DepositArgs {
    /// The number of the payer's account on the lane. Whoever sends pays it in; it belongs to the account's owner.
    #[arg(long, value_parser = payer)]
    pub payer: u32,

    /// How much, in whole tokens with at most 9 decimals.
    #[arg(long, value_name = "TOKENS", value_parser = escrow)]
    pub amount: u64,

    /// The number of the payer's lane. Without it, that of the operator's configuration.
    #[arg(long)]
    pub lane: Option<u32>,

    /// Who sends, and how.
    #[command(flatten)]
    pub send: SendArgs,
}

/// What is asked back of a deposit.
#[derive(Args, Clone, Debug)]
#[command(group(clap::ArgGroup::new("which").required(true).args(["amount", "all", "keep"])))]
pub struct ThawArgs {
    /// The number of the payer's account on the lane.
    #[arg(long, value_parser = payer)]
    pub payer: u32,

    /// How much is asked back, in whole tokens with at most 9 decimals. It replaces what was asked back before.
    #[arg(long, value_name = "TOKENS", value_parser = escrow)]
    pub amount: Option<u64>,

    /// Asks all of it back.
    #[arg(long)]
    pub all: bool,

    /// Takes the request back: the deposit stays.
    #[arg(long)]
    pub keep: bool,

    /// The number of the payer's lane. Without it, that of the operator's configuration.
    #[arg(long)]
    pub lane: Option<u32>,

    /// Who sends, and how.
    #[command(flatten)]
    pub send: SendArgs,
}

/// What is disputed, and with what.
#[derive(Args, Clone, Debug)]
#[command(group(clap::ArgGroup::new("with").required(true).args(["evidence", "evidence_hash"])))]
pub struct DisputeArgs {
    /// The Incident, by its name in the cluster; or the proposal to slash, by its number in the StakeVault.
    #[arg(value_name = "INCIDENT|NUMBER")]
    pub what: String,

    /// A file with counter-evidence. Its keccak256 hash is what the chain gets: keep the file as it is for the arbiter.
    #[arg(long, value_name = "FILE")]
    pub evidence: Option<PathBuf>,

    /// The keccak256 hash of counter-evidence.
    #[arg(long, value_name = "HASH")]
    pub evidence_hash: Option<B256>,

    /// Who sends, and how.
    #[command(flatten)]
    pub send: SendArgs,
}

/// Which nodes a provider answers for.
#[derive(Args, Clone, Debug)]
pub struct BindArgs {
    /// The number of the provider's account in the StakeVault.
    #[arg(long, value_parser = provider)]
    pub provider: u32,

    /// A node. It can be given several times.
    #[arg(long = "node", value_name = "NODE", required = true)]
    pub nodes: Vec<String>,

    /// The name of the StakeBinding. Without it, provider- and the number.
    #[arg(long)]
    pub name: Option<String>,

    /// On which chain.
    #[command(flatten)]
    pub on: ChainArgs,

    /// Does not ask.
    #[arg(short, long)]
    pub yes: bool,

    /// Writes nothing: prints the StakeBinding, for kubectl apply.
    #[arg(long)]
    pub dry_run: bool,
}

/// Which transaction is looked for.
#[derive(Args, Clone, Debug)]
pub struct TransactionArgs {
    /// Its hash.
    #[arg(value_name = "HASH")]
    pub hash: B256,

    /// On which chain.
    #[command(flatten)]
    pub on: ChainArgs,

    /// How the result is written.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub output: Format,
}

fn amount(text: &str) -> Result<TokenAmount, String> {
    let amount: TokenAmount = text
        .parse()
        .map_err(|error: gridstake_crds::amount::InvalidAmount| error.to_string())?;
    if amount.nano() == 0 {
        return Err("write more than 0 tokens, such as 25000".to_owned());
    }
    Ok(amount)
}

/// In nano-tokens.
fn escrow(text: &str) -> Result<u64, String> {
    u64::try_from(amount(text)?.nano()).map_err(|_| {
        let most = TokenAmount::from_nano(u64::MAX.into());
        format!("it is more than an account can hold: write at most {most}")
    })
}
