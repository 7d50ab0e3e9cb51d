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
    let text = environment.filter(|text| !text.is_empty());
    let text = text.ok_or(InputError::NoKey)?;
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use clap::Parser;

    use super::*;
    use crate::error::chain;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: DeployArgs,
    }

    fn args(line: &str) -> DeployArgs {
        let words = std::iter::once("contracts-deploy").chain(line.split_whitespace());
        Line::try_parse_from(words).unwrap().args
    }

    #[test]
    fn a_key_comes_from_the_environment_and_is_never_repeated() {
        let text = hex::encode([7; 32]);
        let found = key(&args(""), Some(&format!("0x{text}\n"))).unwrap();
        assert_eq!(
            found.address(),
            key(&args(""), Some(&text)).unwrap().address()
        );
        for nothing in [None, Some("")] {
            let refused = key(&args(""), nothing).unwrap_err();
            assert!(chain(&refused).contains("environment variable KEY"));
        }
        let refused = chain(&key(&args(""), Some("secret")).unwrap_err());
        assert!(refused.contains("64 hexadecimal digits") && !refused.contains("secret"));
    }

    #[test]
    fn keys_that_are_missing_are_made_once_and_for_their_owner_alone() {
        let folder = std::env::temp_dir().join(format!("gridstake-made-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        let args = args(&format!("--keys {}", folder.display()));
        let made = signers(&args).unwrap();
        assert_eq!(signers(&args).unwrap(), made);
        assert!(made.slash.is_some());
        for name in ["lane-signer", "gas", "slash"] {
            let permissions = folder.join(name).metadata().unwrap().permissions();
            assert_eq!(permissions.mode() & 0o777, 0o600, "{name}");
        }
    }

    #[test]
    fn signers_are_named_by_their_addresses_too() {
        let [a, b] = [Address::repeat_byte(1), Address::repeat_byte(2)];
        let line = format!("--lane-signer {a} --gas-account {b}");
        let found = signers(&args(&line)).unwrap();
        assert_eq!((found.lane, found.gas, found.slash), (a, b, None));
        let shared = format!("{line} --slash-signer {b}");
        let refused = chain(&signers(&args(&shared)).unwrap_err());
        assert!(
            refused.contains("--gas-account and --slash-signer are the same key"),
            "{refused}"
        );
        let refused = chain(&signers(&args("")).unwrap_err());
        assert!(refused.contains("--keys"), "{refused}");
    }

    #[test]
    fn offices_fall_to_the_owner_and_he_is_the_deployer_if_nobody_else_is() {
        let [deployer, owner, other] = [1, 2, 3].map(Address::repeat_byte);
        let signers = Signers {
            lane: other,
            gas: other,
            slash: None,
        };
        let settings = crate::chain::fixtures::config();
        let alone = request(&args(""), &settings, deployer, signers);
        assert_eq!(alone.offices.guardian, deployer);
        assert_eq!((alone.timelock_delay, alone.gas_coins), (None, 0));
        assert!(!alone.anew_if_gone);
        let line = format!("--timelock-delay 48h --owner {owner} --arbiter {other}");
        let governed = request(&args(&line), &settings, deployer, signers);
        let offices = governed.offices;
        assert_eq!((offices.guardian, offices.treasury), (owner, owner));
        assert_eq!(offices.arbiter, other);
        assert_eq!(governed.timelock_delay, Some(172_800));
        let hook = request(
            &args("--chains-file a --config-map b"),
            &settings,
            deployer,
            signers,
        );
        assert!(hook.anew_if_gone);
        assert_eq!(hook.gas_coins, COIN);
    }

    #[test]
    fn the_command_lines_chain_is_named_after_its_id() {
        let line = "--rpc http://127.0.0.1:8545,http://127.0.0.1:8546 --lane 7 --keys k";
        let found = entry(&args(line), 8453);
        assert_eq!(found["name"], json!("chain-8453"));
        assert_eq!(found["rpc"].as_array().unwrap().len(), 2);
        assert_eq!(found["lane"], json!(7));
        assert!(found["keys"]["slash"].is_string());
        let without = entry(&args("--rpc http://127.0.0.1:8545"), 1);
        assert!(without["keys"]["slash"].is_null());
    }
}
