//! What a deployment begins with and ends with: an entry of the operator's chains file. Pure.

use std::path::Path;

use alloy::primitives::{Address, B256};
use serde_json::{Value, json};

use super::plan::Deployed;
use crate::chain::{ChainConfig, ChainsFile, ConfigError, config::ContractConfig};

/// An entry of the chains file without its contracts, among the others of its file.
#[derive(Clone, Debug)]
pub struct Draft {
    /// All entries, in the file's order.
    entries: Vec<Value>,
    /// The place of the one that is meant.
    index: usize,
    name: String,
}

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
    /// It is not said on which of several chains.
    #[error(
        "the chains file {path} lists several chains: say by --chain whose contracts are to be deployed; listed: {}",
        names.join(", ")
    )]
    Several {
        /// The file.
        path: String,
        /// The chains.
        names: Vec<String>,
    },
    /// There is no such chain.
    #[error("--chain {name}: the chains file {path} lists no chain of that name; listed: {}", names.join(", "))]
    Unknown {
        /// The chain.
        name: String,
        /// The file.
        path: String,
        /// The chains.
        names: Vec<String>,
    },
}

/// The contracts of an entry.
const CONTRACTS: [&str; 3] = ["settlement", "vault", "token"];

impl Draft {
    /// The entry `chain` of the chains file `text`, or the only one; `path` is only named in errors.
    pub fn parse(text: &str, path: &Path, chain: Option<&str>) -> Result<Self, DraftError> {
        let file: Value = serde_saphyr::from_str(text).map_err(|source| DraftError::Parse {
            path: path.display().to_string(),
            source: Box::new(source),
        })?;
        let path_text = path.display().to_string();
        let entries: Vec<Value> = file
            .get("chains")
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default();
        // Checked as a whole, so that contradictions and unknown fields are refused as the operator does it.
        let mut whole = file;
        let chains = whole.get_mut("chains").and_then(Value::as_array_mut);
        for entry in chains.into_iter().flatten().filter(|e| lacks_contracts(e)) {
            fill(entry, &placeholders());
        }
        let checked = ChainsFile::parse(&whole.to_string(), path)?.chains;
        let names: Vec<String> = checked.into_iter().map(|chain| chain.name).collect();
        let index = match (chain, names.len()) {
            (_, 0) => return Err(DraftError::Empty { path: path_text }),
            (None, 1) => 0,
            (None, _) => {
                return Err(DraftError::Several {
                    path: path_text,
                    names,
                });
            }
            (Some(name), _) => match names.iter().position(|other| other == name) {
                Some(index) => index,
                None => {
                    return Err(DraftError::Unknown {
                        name: name.to_owned(),
                        path: path_text,
                        names,
                    });
                }
            },
        };
        Ok(Self {
            name: names[index].clone(),
            entries,
            index,
        })
    }

    /// An entry of these fields, checked.
    pub fn new(entry: &Value) -> Result<Self, DraftError> {
        let file = json!({"chains": [entry]});
        Self::parse(&file.to_string(), Path::new("of the command line"), None)
    }

    /// The chain's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The entry with the contracts of `deployed`.
    fn entry(&self, deployed: &Deployed) -> Value {
        let mut entry = self.entries.get(self.index).cloned().unwrap_or_default();
        fill(&mut entry, deployed);
        entry
    }

    /// The entry as the operator reads it. The contracts are those of `deployed`.
    pub fn config(&self, deployed: &Deployed) -> Result<ChainConfig, DraftError> {
        let path = Path::new("of contracts-deploy");
        let alone = json!({"chains": [self.entry(deployed)]});
        let file = ChainsFile::parse(&alone.to_string(), path)?;
        let empty = || DraftError::Empty {
            path: path.display().to_string(),
        };
        file.chains.into_iter().next().ok_or_else(empty)
    }

    /// The entry as the operator reads it. Its contracts mean nothing.
    pub fn settings(&self) -> Result<ChainConfig, DraftError> {
        self.config(&placeholders())
    }

    /// The operator's chains file. JSON, which is YAML. Other entries that lack contracts get those that they have in
    /// `present`, the file as it was written before; those that are not there are left out: their own turn comes.
    #[must_use]
    pub fn chains_file(&self, deployed: &Deployed, present: Option<&str>) -> String {
        let present: Value = present
            .and_then(|text| serde_saphyr::from_str(text).ok())
            .unwrap_or_default();
        let before = |entry: &Value| -> Option<Value> {
            let mut found = present.get("chains")?.as_array()?.iter();
            let found =
                found.find(|other| ["name", "chainId"].iter().all(|f| other[*f] == entry[*f]))?;
            let mut entry = entry.clone();
            for contract in CONTRACTS {
                entry[contract] = found.get(contract)?.clone();
            }
            Some(entry)
        };
        let entries = self.entries.iter().enumerate();
        let entries: Vec<Value> = entries
            .filter_map(|(index, entry)| {
                if index == self.index {
                    Some(self.entry(deployed))
                } else if lacks_contracts(entry) {
                    before(entry)
                } else {
                    Some(entry.clone())
                }
            })
            .collect();
        format!("{:#}\n", json!({"chains": entries}))
    }

    /// The same as values of the Helm chart, in which the keys are in the Secret `keys_secret`.
    #[must_use]
    pub fn helm_values(&self, deployed: &Deployed, keys_secret: &str) -> String {
        let entry = self.entry(deployed);
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

/// Whether an entry says nothing about its contracts.
fn lacks_contracts(entry: &Value) -> bool {
    CONTRACTS
        .iter()
        .all(|contract| entry.get(contract).is_none())
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
        Draft::parse(text, Path::new("chains.yaml"), None)
            .map_err(|error| crate::error::chain(&error))
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

    /// Two chains to deploy on, and one whose contracts are known.
    fn three() -> Value {
        let mut file: Value = serde_json::from_str(HOOK).unwrap();
        let base = file["chains"][0].clone();
        for (name, id, lane) in [("second", 31338, 2), ("known", 8453, 3)] {
            let mut entry = base.clone();
            (entry["name"], entry["chainId"], entry["lane"]) =
                (json!(name), json!(id), json!(lane));
            file["chains"].as_array_mut().unwrap().push(entry);
        }
        fill(&mut file["chains"][2], &placeholders());
        file
    }

    fn of_three(chain: Option<&str>) -> Result<Draft, String> {
        Draft::parse(&three().to_string(), Path::new("chains.yaml"), chain)
            .map_err(|error| crate::error::chain(&error))
    }

    #[test]
    fn of_several_chains_the_one_to_deploy_on_must_be_named() {
        let refused = of_three(None).unwrap_err();
        assert!(
            refused.contains("say by --chain") && refused.contains("anvil, second, known"),
            "{refused}"
        );
        let refused = of_three(Some("third")).unwrap_err();
        assert!(
            refused.contains("--chain third") && refused.contains("listed: anvil, second, known"),
            "{refused}"
        );
        let draft = of_three(Some("second")).unwrap();
        assert_eq!(draft.name(), "second");
        assert_eq!(draft.settings().unwrap().chain_id, 31338);
    }

    #[test]
    fn one_chain_after_the_other_gets_its_contracts_and_the_others_keep_theirs() {
        let names = |text: &str| -> Vec<(String, String)> {
            let file: Value = serde_saphyr::from_str(text).unwrap();
            let chains = file["chains"].as_array().unwrap();
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            chains
                .iter()
                .map(|c| (text(&c["name"]), text(&c["token"])))
                .collect()
        };
        let token = |byte| Deployed {
            token: Address::repeat_byte(byte),
            ..placeholders()
        };
        let shown = |byte| Address::repeat_byte(byte).to_string();
        let known = ("known".to_owned(), placeholders().token.to_string());
        let first = of_three(Some("anvil"))
            .unwrap()
            .chains_file(&token(0x11), None);
        assert_eq!(
            names(&first),
            [("anvil".to_owned(), shown(0x11)), known.clone()]
        );
        let draft = of_three(Some("second")).unwrap();
        let both = draft.chains_file(&token(0x22), Some(&first));
        let whole = [
            ("anvil".to_owned(), shown(0x11)),
            ("second".to_owned(), shown(0x22)),
            known,
        ];
        assert_eq!(names(&both), whole);
        ChainsFile::parse(&both, Path::new("deployed")).unwrap();
        // Again: what is there stays.
        let again = of_three(Some("anvil")).unwrap();
        assert_eq!(names(&again.chains_file(&token(0x11), Some(&both))), whole);
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
