//! From the command line, a chains file and key files to what is to be done.

use std::{
    fs::{DirBuilder, OpenOptions},
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use alloy::{hex, primitives::Address, signers::local::PrivateKeySigner};
use serde_json::{Value, json};

use super::{
    args::DeployArgs,
    plan::{Offices, Request},
};
use crate::{
    chain::{ChainConfig, config::KeyFiles, wei::Wei},
    settlement::signer::{Key, KeyError, Keys},
};

/// One coin, in wei.
const COIN: u128 = 1_000_000_000_000_000_000;

/// Why there is nothing to be done.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// There is no key.
    #[error(
        "no key: write the deployer's private key into a file and name it by --key-file, or put it into the environment variable KEY"
    )]
    NoKey,
    /// The environment's key is none. It is not repeated.
    #[error("KEY is no private key: write 32 bytes as 64 hexadecimal digits")]
    MalformedKey,
    /// A key file is missing or wrong, or two duties share a key.
    #[error("read the keys")]
    Keys(#[from] KeyError),
    /// A key cannot be made.
    #[error("make the key {path}")]
    MakeKey {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: std::io::Error,
    },
    /// Neither keys nor addresses.
    #[error(
        "who signs? Name a folder for the operator's keys by --keys (what is missing in it is made), or their addresses by --lane-signer, --gas-account and --slash-signer"
    )]
    NoSigners,
}

/// Whose the operator's signatures and transactions are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signers {
    /// Signs batches.
    pub lane: Address,
    /// Pays for gas.
    pub gas: Address,
    /// Signs slashes; `None`: nobody.
    pub slash: Option<Address>,
}

/// The deployer's key: of `--key-file`, else of `environment`, which is the value of KEY.
pub fn key(args: &DeployArgs, environment: Option<&str>) -> Result<Key, InputError> {
    if let Some(path) = &args.key_file {
        return Ok(Key::read("--key-file", path)?);
    }
    let text = environment.ok_or(InputError::NoKey)?;
    let signer: Result<PrivateKeySigner, _> = text.trim().parse();
    signer.map(Key::from).map_err(|_| InputError::MalformedKey)
}

/// The signers whose keys are in the files of a chains file.
pub fn signers_of(files: &KeyFiles) -> Result<Signers, InputError> {
    let keys = Keys::read(files)?;
    Ok(Signers {
        lane: keys.lane.address(),
        gas: keys.gas.address(),
        slash: keys.slash.map(|key| key.address()),
    })
}

/// The signers of the command line. Makes the keys that are missing in `--keys`.
pub fn signers(args: &DeployArgs) -> Result<Signers, InputError> {
    if let Some(folder) = &args.keys {
        let files = KeyFiles {
            lane_signer: folder.join("lane-signer"),
            gas: folder.join("gas"),
            slash: Some(folder.join("slash")),
        };
        for path in [&files.lane_signer, &files.gas]
            .into_iter()
            .chain(&files.slash)
        {
            make_key(folder, path)?;
        }
        return signers_of(&files);
    }
    let (Some(lane), Some(gas)) = (args.lane_signer, args.gas_account) else {
        return Err(InputError::NoSigners);
    };
    let slash = args.slash_signer;
    for (one, first, other, second) in [
        ("--lane-signer", Some(lane), "--gas-account", Some(gas)),
        ("--lane-signer", Some(lane), "--slash-signer", slash),
        ("--gas-account", Some(gas), "--slash-signer", slash),
    ] {
        if first == second {
            return Err(KeyError::Shared { one, other }.into());
        }
    }
    Ok(Signers { lane, gas, slash })
}

/// Makes a key that only its owner can read, unless the file is there.
fn make_key(folder: &Path, path: &Path) -> Result<(), InputError> {
    let make = || {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
        if path.exists() {
            return Ok(());
        }
        let key = PrivateKeySigner::random().to_bytes();
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        writeln!(file, "{}", hex::encode(key))
    };
    make().map_err(|source| InputError::MakeKey {
        path: path.to_owned(),
        source,
    })
}

/// The entry of a chains file that the command line describes, on the chain `chain_id`.
#[must_use]
pub fn entry(args: &DeployArgs, chain_id: u64) -> Value {
    let name = args.name.clone();
    let rpc: Vec<&str> = args.rpc.iter().map(reqwest::Url::as_str).collect();
    // The chart knows where the operator finds them.
    let mut keys = json!({"laneSigner": "lane-signer", "gas": "gas"});
    if args.keys.is_some() || args.slash_signer.is_some() {
        keys["slash"] = json!("slash");
    }
    json!({
        "name": name.unwrap_or_else(|| format!("chain-{chain_id}")),
        "chainId": chain_id,
        "rpc": rpc,
        "lane": args.lane,
        "keys": keys,
    })
}

/// What is to be on the chain of `settings`.
#[must_use]
pub fn request(
    args: &DeployArgs,
    settings: &ChainConfig,
    deployer: Address,
    signers: Signers,
) -> Request {
    let is_hook = args.config_map.is_some();
    let owner = args.owner.unwrap_or(deployer);
    let gas_coins = if is_hook { COIN } else { 0 };
    Request {
        deployer,
        chain_id: settings.chain_id,
        lane: settings.lane,
        lane_signer: signers.lane,
        slash_signer: signers.slash,
        gas_account: signers.gas,
        gas_coins: args.gas_coins.map_or(gas_coins, Wei::get),
        token: args.token,
        offices: Offices {
            owner,
            guardian: args.guardian.unwrap_or(owner),
            arbiter: args.arbiter.unwrap_or(owner),
            treasury: args.treasury.unwrap_or(owner),
            rewards_owner: args.rewards_owner.unwrap_or(owner),
        },
        timelock_delay: args.timelock_delay.map(|delay| delay.as_secs()),
        fee_bps: args.fee_bps,
        claim_delay: args.claim_delay.as_secs(),
        anew_if_gone: is_hook,
    }
}
