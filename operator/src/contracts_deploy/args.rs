//! Command line of `contracts-deploy`.

use std::{path::PathBuf, time::Duration};

use alloy::primitives::Address;
use reqwest::Url;

use crate::chain::wei::Wei;

/// Deploys the contracts, opens the cluster's lane, and checks what is on the chain. Can be repeated: what is there is kept.
///
/// The deployer's private key is read from --key-file, or from the environment variable KEY. With --chains-file the chain,
/// the lane and the keys come from there, and the finished file goes into a ConfigMap; with --rpc they come from the
/// command line, and Helm values are written.
#[derive(clap::Args, Clone, Debug)]
pub struct DeployArgs {
    /// The operator's chains file, without its contracts.
    #[arg(long, requires = "config_map")]
    pub chains_file: Option<PathBuf>,

    /// The entry of the chains file whose contracts are deployed, by its name. May be left out where there is only one.
    #[arg(long, requires = "chains_file")]
    pub chain: Option<String>,

    /// Where the finished chains file goes: a ConfigMap of this name in the operator's namespace. Other entries
    /// of the chains file that lack contracts get those that an earlier run has written there, or are left out.
    #[arg(long, requires = "chains_file")]
    pub config_map: Option<String>,

    /// JSON-RPC endpoints, separated by commas. They are written into the values: give none that hold a secret.
    #[arg(long, env = "RPC", hide_env_values = true, value_delimiter = ',')]
    pub rpc: Vec<Url>,

    /// File with the deployer's private key, in hexadecimal.
    #[arg(long)]
    pub key_file: Option<PathBuf>,

    /// File for the Helm values. What an earlier run wrote there is gone on from.
    #[arg(long, default_value = "values-chain.yaml")]
    pub out: PathBuf,

    /// The chain's id (EIP-155); any other chain is refused. Default: whatever the endpoint says.
    #[arg(long)]
    pub chain_id: Option<u64>,

    /// The chain's name in StakeBindings. Default: `chain-` and its id.
    #[arg(long)]
    pub name: Option<String>,

    /// The lane that is opened.
    #[arg(long, default_value_t = 1)]
    pub lane: u32,

    /// Folder with the operator's private keys in the files lane-signer, gas and slash. Those that are missing are made.
    #[arg(long)]
    pub keys: Option<PathBuf>,

    /// Secret in which the operator finds these keys; named in the values.
    #[arg(long, default_value = "gridstake-keys")]
    pub keys_secret: String,

    /// Address whose key signs batches, instead of --keys.
    #[arg(long, conflicts_with = "keys", requires = "gas_account")]
    pub lane_signer: Option<Address>,

    /// Address whose key pays for transactions, instead of --keys.
    #[arg(long, conflicts_with = "keys", requires = "lane_signer")]
    pub gas_account: Option<Address>,

    /// Address whose key signs slashes, instead of --keys. Without it none are proposed.
    #[arg(long, conflicts_with = "keys", requires = "lane_signer")]
    pub slash_signer: Option<Address>,

    /// A standard ERC-20 in which everything is paid. Default: a GridToken is deployed, for test chains.
    #[arg(long)]
    pub token: Option<Address>,

    /// Makes a timelock with this delay the contracts' admin, such as 48h. Without it the deployer stays the admin, which is
    /// for test chains.
    #[arg(long, value_parser = duration)]
    pub timelock_delay: Option<Duration>,

    /// Who proposes to the timelock: a Governor or a multisig. Default: the deployer.
    #[arg(long, requires = "timelock_delay")]
    pub owner: Option<Address>,

    /// Who pauses paths, closes lanes and cancels slashes. Default: the owner.
    #[arg(long)]
    pub guardian: Option<Address>,

    /// Who decides disputed slashes. Default: the owner.
    #[arg(long)]
    pub arbiter: Option<Address>,

    /// Who gets fees and slashed stake. Default: the owner.
    #[arg(long)]
    pub treasury: Option<Address>,

    /// Who may ask back what is in the lane's reward account. Default: the owner.
    #[arg(long)]
    pub rewards_owner: Option<Address>,

    /// The fee in 1/10,000 of what a provider earns; at most 2,000.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u16).range(..=2_000))]
    pub fee_bps: u16,

    /// From a provider's claim to its payment; at most 30 days.
    #[arg(long, default_value = "24h", value_parser = duration)]
    pub claim_delay: Duration,

    /// What the deployer gives the gas account if that has nothing, such as 1000000gwei; never more than a tenth of what he
    /// has. Default: one coin with --config-map, else nothing.
    #[arg(long)]
    pub gas_coins: Option<Wei>,

    /// For how long a transaction is waited for.
    #[arg(long, default_value = "2m", value_parser = duration)]
    pub patience: Duration,
}

fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "write a duration such as 90s, 24h or 1h30m".to_owned();
    let duration = gridstake_crds::duration::parse(text).map_err(|_| wrong())?;
    if duration.is_negative() {
        return Err(wrong());
    }
    Ok(duration.into())
}
