//! What a deployment begins with and ends with: an entry of the operator's chains file. Pure.

use std::path::Path;

use alloy::primitives::{Address, B256};
use serde_json::{Value, json};

use super::plan::Deployed;
use crate::chain::{ChainConfig, ChainsFile, ConfigError, config::ContractConfig};

/// An entry of the chains file without its contracts.
#[derive(Clone, Debug)]
pub struct Draft(Value);

/// Why a chains file is no draft.
#[derive(Debug, thiserror::Error)]
pub enum DraftError {
    /// It is not what a chains file is, or a value is wrong.
    #[error("configure the chain")]
    Config(#[from] ConfigError),
    /// It is no YAML.
    #[error("parse the chains file {path}")]
    Parse {
        /// The file.
        path: String,
        /// What is wrong.
        #[source]
        source: Box<serde_saphyr::Error>,
    },
    /// There is nothing to deploy on.
    #[error("the chains file {path}: chains lists no chain: write one entry")]
    Empty {
        /// The file.
        path: String,
    },
}

impl Draft {
    /// The only entry of the chains file `text`; `path` is only named in errors.
    pub fn parse(text: &str, path: &Path) -> Result<Self, DraftError> {
        let mut file: Value = serde_saphyr::from_str(text).map_err(|source| DraftError::Parse {
            path: path.display().to_string(),
            source: Box::new(source),
        })?;
        let empty = || DraftError::Empty {
            path: path.display().to_string(),
        };
        let chains = file.get_mut("chains").and_then(Value::as_array_mut);
        let chains = chains.ok_or_else(empty)?;
        let entry = chains.first().cloned().ok_or_else(empty)?;
        // Checked as a whole, so that a second chain and unknown fields are refused as the operator does it.
        for chain in chains {
            fill(chain, &placeholders());
        }
        ChainsFile::parse(&file.to_string(), path)?;
        Ok(Self(entry))
    }

    /// An entry of these fields, checked.
    pub fn new(entry: Value) -> Result<Self, DraftError> {
        let file = json!({"chains": [entry.clone()]});
        Self::parse(&file.to_string(), Path::new("of the command line"))?;
        Ok(Self(entry))
    }

    /// The entry as the operator reads it. The contracts are those of `deployed`.
    pub fn config(&self, deployed: &Deployed) -> Result<ChainConfig, DraftError> {
        let path = Path::new("of contracts-deploy");
        let file = ChainsFile::parse(&self.chains_file(deployed), path)?;
        let empty = || DraftError::Empty {
            path: path.display().to_string(),
        };
        file.chains.into_iter().next().ok_or_else(empty)
    }

    /// The entry as the operator reads it. Its contracts mean nothing.
    pub fn settings(&self) -> Result<ChainConfig, DraftError> {
        self.config(&placeholders())
    }

    /// The operator's chains file. JSON, which is YAML.
    #[must_use]
    pub fn chains_file(&self, deployed: &Deployed) -> String {
        let mut entry = self.0.clone();
        fill(&mut entry, deployed);
        format!("{:#}\n", json!({"chains": [entry]}))
    }

    /// The same as values of the Helm chart, in which the keys are in the Secret `keys_secret`.
    #[must_use]
    pub fn helm_values(&self, deployed: &Deployed, keys_secret: &str) -> String {
        let mut entry = self.0.clone();
        fill(&mut entry, deployed);
        let has_slash = entry.pointer("/keys/slash").is_some();
        let text = |pointer: &str| {
            entry
                .pointer(pointer)
                .map_or_else(|| "null".to_owned(), Value::to_string)
        };
        format!(
            "# Helm values, written by contracts-deploy: helm upgrade gridstake charts/gridstake --values FILE
chains:
  - name: {name}
    chainId: {chain_id}
    rpc: {rpc}
    lane: {lane}
    settlement:
      address: {settlement}
      codeHash: {settlement_hash}
    vault:
      address: {vault}
      codeHash: {vault_hash}
    token: {token}
    keys:
      existingSecret: {secret}
      slash: {has_slash}
",
            name = text("/name"),
            chain_id = text("/chainId"),
            rpc = text("/rpc"),
            lane = text("/lane"),
            settlement = text("/settlement/address"),
            settlement_hash = text("/settlement/codeHash"),
            vault = text("/vault/address"),
            vault_hash = text("/vault/codeHash"),
            token = text("/token"),
            secret = json!(keys_secret),
        )
    }
}

/// Puts the contracts into an entry.
fn fill(entry: &mut Value, deployed: &Deployed) {
    if let Some(fields) = entry.as_object_mut() {
        let place = |place: &ContractConfig| {
            json!({
                "address": place.address.to_string(),
                "codeHash": place.code_hash.to_string(),
            })
        };
        fields.insert("settlement".to_owned(), place(&deployed.settlement));
        fields.insert("vault".to_owned(), place(&deployed.vault));
        fields.insert("token".to_owned(), json!(deployed.token.to_string()));
    }
}

/// Contracts that stand in a draft's place while its other fields are checked.
fn placeholders() -> Deployed {
    let place = |byte| ContractConfig {
        address: Address::repeat_byte(byte),
        code_hash: B256::repeat_byte(byte),
    };
    Deployed {
        token: Address::repeat_byte(1),
        vault: place(2),
        settlement: place(3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOOK: &str = r#"{"chains": [{
        "name": "anvil", "chainId": 31337, "rpc": ["http://10.96.0.20:8545"], "lane": 1, "interval": "10s",
        "keys": {"laneSigner": "/k/lane-signer", "gas": "/k/gas", "slash": "/k/slash"}
    }]}"#;

    fn parse(text: &str) -> Result<Draft, String> {
        Draft::parse(text, Path::new("chains.yaml")).map_err(|error| crate::error::chain(&error))
    }

    fn deployed() -> Deployed {
        Deployed {
            token: Address::repeat_byte(0x11),
            ..placeholders()
        }
    }

    #[test]
    fn the_finished_file_has_all_of_the_draft_and_the_contracts() {
        let draft = parse(HOOK).unwrap();
        let config = draft.config(&deployed()).unwrap();
        assert_eq!(config.token, Address::repeat_byte(0x11));
        assert_eq!(config.vault, deployed().vault);
        assert_eq!(config.settlement, deployed().settlement);
        assert_eq!(config.interval.as_secs(), 10);
        assert_eq!(config.keys.gas, Path::new("/k/gas"));
    }

    #[test]
    fn helm_values_are_yaml_with_the_addresses_as_text() {
        let values = parse(HOOK).unwrap().helm_values(&deployed(), "my-keys");
        let values: Value = serde_saphyr::from_str(&values).unwrap();
        let chain = &values["chains"][0];
        assert_eq!(chain["token"], json!(deployed().token.to_string()));
        assert_eq!(
            chain["vault"]["address"],
            json!(deployed().vault.address.to_string())
        );
        assert_eq!(
            chain["vault"]["codeHash"],
            json!(deployed().vault.code_hash.to_string())
        );
        assert_eq!(
            chain["settlement"]["address"],
            json!(deployed().settlement.address.to_string())
        );
        assert_eq!(
            chain["keys"],
            json!({"existingSecret": "my-keys", "slash": true})
        );
        assert_eq!(chain["chainId"], json!(31337));
        assert_eq!(chain["rpc"], json!(["http://10.96.0.20:8545"]));
    }

    #[test]
    fn a_wrong_draft_is_refused_before_anything_is_deployed() {
        for (from, to, words) in [
            ("\"anvil\"", "\"An vil\"", "chains[0].name"),
            ("31337", "0", "chains[0].chainId is 0"),
            ("http:", "ftp:", "chains[0].rpc"),
            ("\"interval\"", "\"intervall\"", "intervall"),
            ("\"10s\"", "\"1s\"", "chains[0].interval"),
        ] {
            let text = HOOK.replacen(from, to, 1);
            assert_ne!(text, HOOK, "{from}");
            let refused = parse(&text).unwrap_err();
            assert!(refused.contains(words), "{to}: {refused}");
        }
        for text in ["{}", "chains: []"] {
            let refused = parse(text).unwrap_err();
            assert!(refused.contains("lists no chain"), "{refused}");
        }
    }
}
