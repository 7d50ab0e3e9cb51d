//! On which chain, at which endpoint and with which contracts: as the flags say, else as the operator is configured.

use alloy::primitives::Address;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use serde::Deserialize;

use super::{MoneyError, args::ChainArgs};
use crate::cluster;

/// The ConfigMaps that may hold the operator's chains file, the one to be preferred first: what the hook that deploys contracts
/// has written, and what the chart has.
const CONFIG_MAPS: [&str; 2] = ["gridstake-chains-deployed", "gridstake-chains"];
/// Their entry.
const CHAINS_FILE: &str = "chains.yaml";

/// Where money is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The chain's name in the operator's configuration, where it is known.
    pub name: Option<String>,
    /// The endpoint.
    pub rpc: reqwest::Url,
    /// The contract Settlement.
    pub settlement: Address,
    /// The id that the chain must have, where it is known.
    pub chain_id: Option<u64>,
    /// The cluster's lane, where it is known.
    pub lane: Option<u32>,
}

/// As much of the operator's chains file as is needed.
#[derive(Deserialize)]
struct ChainsFile {
    #[serde(default)]
    chains: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    name: String,
    chain_id: u64,
    rpc: Vec<reqwest::Url>,
    lane: u32,
    settlement: Option<Contract>,
}

#[derive(Deserialize)]
struct Contract {
    address: Address,
}

/// Where the flags say, else where the cluster's operator is configured to be.
pub async fn find(args: &ChainArgs) -> Result<Place, MoneyError> {
    if let (Some(rpc), Some(settlement)) = (&args.rpc, args.settlement) {
        return Ok(Place {
            name: args.chain.clone(),
            rpc: rpc.clone(),
            settlement,
            chain_id: args.chain_id,
            lane: None,
        });
    }
    if args.settlement.is_some() {
        return Err(MoneyError::NoPlace(
            "--settlement goes with --rpc: without both, the operator's configuration names all of it"
                .to_owned(),
        ));
    }
    let client = cluster::client()
        .await
        .map_err(|error| MoneyError::NoPlace(crate::error::chain(&error)))?;
    let maps: Api<ConfigMap> = Api::namespaced(client, &args.operator_namespace);
    for name in CONFIG_MAPS {
        let found = maps.get_opt(name).await.map_err(|error| {
            let words = match &error {
                kube::Error::Api(status) => status.message.clone(),
                other => other.to_string(),
            };
            MoneyError::NoPlace(words)
        })?;
        if let Some(text) = found
            .and_then(|map| map.data)
            .and_then(|mut data| data.remove(CHAINS_FILE))
        {
            return chosen(&text, args).map_err(MoneyError::NoPlace);
        }
    }
    Err(MoneyError::NoPlace(format!(
        "there is no ConfigMap {} or {} in namespace {}, so its operator has no chain, or is in another --operator-namespace",
        CONFIG_MAPS[0], CONFIG_MAPS[1], args.operator_namespace
    )))
}

/// The chain that the flags mean, of the chains file.
fn chosen(text: &str, args: &ChainArgs) -> Result<Place, String> {
    let file: ChainsFile = serde_saphyr::from_str(text)
        .map_err(|error| format!("the operator's chains file cannot be read: {error}"))?;
    let names: Vec<&str> = file
        .chains
        .iter()
        .map(|chain| chain.name.as_str())
        .collect();
    let entry = match &args.chain {
        Some(name) => file.chains.iter().find(|chain| chain.name == *name),
        None => file.chains.first(),
    };
    let entry = entry.ok_or_else(|| match &args.chain {
        Some(name) => format!(
            "--chain: the operator has no chain {name}; it has {}",
            names.join(", ")
        ),
        None => "the operator has no chain".to_owned(),
    })?;
    let settlement = entry.settlement.as_ref().ok_or_else(|| {
        format!(
            "the contracts of chain {} are not deployed yet: wait for the chart's hook",
            entry.name
        )
    })?;
    if let Some(asked) = args.chain_id
        && asked != entry.chain_id
    {
        return Err(format!(
            "--chain-id: {asked} is not the id of chain {}, which is {}",
            entry.name, entry.chain_id
        ));
    }
    let rpc = args.rpc.as_ref().or_else(|| entry.rpc.first());
    Ok(Place {
        name: Some(entry.name.clone()),
        rpc: rpc
            .cloned()
            .ok_or_else(|| format!("chain {} has no endpoint: name one by --rpc", entry.name))?,
        settlement: settlement.address,
        chain_id: Some(entry.chain_id),
        lane: Some(entry.lane),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"{"chains": [
        {"name": "anvil", "chainId": 31337, "rpc": ["http://anvil:8545"], "lane": 7, "keys": {"gas": "/k"},
         "settlement": {"address": "0x0000000000000000000000000000000000000051", "codeHash": "0x01"}},
        {"name": "base", "chainId": 8453, "rpc": [], "lane": 8,
         "settlement": {"address": "0x0000000000000000000000000000000000000052", "codeHash": "0x01"}},
        {"name": "late", "chainId": 1, "rpc": ["http://late:8545"], "lane": 9}
    ]}"#;

    fn args() -> ChainArgs {
        ChainArgs {
            chain: None,
            rpc: None,
            settlement: None,
            chain_id: None,
            operator_namespace: "gridstake-system".to_owned(),
        }
    }

    fn named(name: &str) -> ChainArgs {
        ChainArgs {
            chain: Some(name.to_owned()),
            ..args()
        }
    }

    #[test]
    fn the_first_chain_is_meant_unless_one_is_named() {
        let place = chosen(FILE, &args()).unwrap();
        assert_eq!((place.lane, place.chain_id), (Some(7), Some(31337)));
        assert_eq!(place.rpc.as_str(), "http://anvil:8545/");
        let elsewhere = ChainArgs {
            rpc: Some("http://127.0.0.1:1".parse().unwrap()),
            ..named("base")
        };
        let place = chosen(FILE, &elsewhere).unwrap();
        assert_eq!((place.name.as_deref(), place.lane), (Some("base"), Some(8)));
        assert_eq!(place.rpc.as_str(), "http://127.0.0.1:1/");
    }

    #[test]
    fn what_is_missing_or_contradicts_is_told_with_what_would_be_right() {
        for (args, words) in [
            (named("none"), "it has anvil, base, late"),
            (named("base"), "name one by --rpc"),
            (named("late"), "wait for the chart's hook"),
            (
                ChainArgs {
                    chain_id: Some(1),
                    ..args()
                },
                "which is 31337",
            ),
        ] {
            let refused = chosen(FILE, &args).unwrap_err();
            assert!(refused.contains(words), "{refused}");
        }
        assert!(chosen("{}", &args()).unwrap_err().contains("no chain"));
        assert!(
            chosen("chains: 3", &args())
                .unwrap_err()
                .contains("cannot be read")
        );
    }
}
