//! All lanes of this cluster, one for each entry of the chains file.

use std::sync::Arc;

use gridstake_crds::UsageRecord;
use prometheus::Registry;

use super::{Lane, LaneMetrics, OpenError};
use crate::chain::Chains;

/// This cluster's lanes, in the order of the chains file. Cloning shares them.
#[derive(Clone, Debug, Default)]
pub struct Lanes(Arc<[Lane]>);

impl Lanes {
    /// The lanes on `chains`, with the keys that the chains file names. A key that is missing is an error: nobody starts with
    /// a part of what is configured, and a replica that runs already goes on.
    pub fn open(chains: &Chains, registry: &Registry) -> Result<Self, OpenError> {
        let metrics = LaneMetrics::register(registry).map_err(OpenError::Metrics)?;
        let lanes = chains
            .iter()
            .map(|chain| Lane::open(chain.clone(), &metrics))
            .collect::<Result<Vec<_>, _>>()?;
        Self::new(lanes)
    }

    /// These lanes. No two of them may have the same gas account on the same chain.
    pub fn new(lanes: Vec<Lane>) -> Result<Self, OpenError> {
        let account = |lane: &Lane| {
            let chain_id = lane.chain().config().chain_id;
            (chain_id, lane.outbox().address())
        };
        for (index, lane) in lanes.iter().enumerate() {
            let shared = lanes[..index]
                .iter()
                .find(|before| account(before) == account(lane));
            if let Some(before) = shared {
                let (chain_id, account) = account(lane);
                return Err(OpenError::SharedGas {
                    one: before.chain().name().to_owned(),
                    other: lane.chain().name().to_owned(),
                    account,
                    chain_id,
                });
            }
        }
        Ok(Self(lanes.into()))
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All lanes.
    pub fn iter(&self) -> impl Iterator<Item = &Lane> {
        self.0.iter()
    }

    /// The lane on the chain of this name.
    #[must_use]
    pub fn on(&self, chain: &str) -> Option<&Lane> {
        self.iter().find(|lane| lane.chain().name() == chain)
    }

    /// The lane on which `record` is to be paid; `None` if it owes nothing, or its lane is not configured any more.
    #[must_use]
    pub fn of(&self, record: &UsageRecord) -> Option<&Lane> {
        self.iter().find(|lane| lane.chain().config().owes(record))
    }
}

#[cfg(test)]
mod tests {
    use alloy::{primitives::B256, signers::local::PrivateKeySigner};

    use super::*;
    use crate::{
        chain::{ChainConfig, client::ChainClient, fixtures},
        settlement::signer::{Key, Keys},
    };

    fn key(byte: u8) -> Key {
        PrivateKeySigner::from_bytes(&B256::repeat_byte(byte))
            .unwrap()
            .into()
    }

    fn lanes(entries: Vec<(ChainConfig, u8)>) -> Result<Lanes, OpenError> {
        let gas: Vec<u8> = entries.iter().map(|(_, gas)| *gas).collect();
        let chains = Chains::new(entries.into_iter().map(|(config, _)| config).collect());
        let metrics = LaneMetrics::register(&Registry::new()).map_err(OpenError::Metrics)?;
        let open = |(chain, gas): (&crate::chain::Chain, u8)| {
            let keys = Keys {
                lane: key(1),
                gas: key(gas),
                slash: None,
            };
            let client = ChainClient::over(vec![], metrics.chain(chain.name()));
            Lane::with_client(chain.clone(), keys, client, &metrics)
        };
        Lanes::new(chains.iter().zip(gas).map(open).collect())
    }

    fn other(chain_id: u64) -> ChainConfig {
        ChainConfig {
            name: "base".to_owned(),
            lane: 8,
            chain_id,
            ..fixtures::config()
        }
    }

    #[test]
    fn one_gas_account_sends_for_one_lane_of_a_chain_only() {
        let id = fixtures::config().chain_id;
        let refused = lanes(vec![(fixtures::config(), 2), (other(id), 2)]).unwrap_err();
        let words = refused.to_string();
        assert!(
            words.starts_with("the chains anvil and base have the same gas account 0x")
                && words.contains("on the chain with id 31337"),
            "{words}"
        );
        assert!(lanes(vec![(fixtures::config(), 2), (other(id), 3)]).is_ok());
        assert!(lanes(vec![(fixtures::config(), 2), (other(id + 1), 2)]).is_ok());
    }

    #[test]
    fn incidents_on_a_chain_that_answers_slowly_leave_workers_to_those_on_others() {
        let lanes = lanes(vec![(fixtures::config(), 2), (other(8453), 2)]).unwrap();
        let [slow, quick] = ["anvil", "base"].map(|chain| lanes.on(chain).unwrap());
        let turns = [slow.incident_turn(), slow.incident_turn()];
        assert!(turns.iter().all(Option::is_some));
        assert!(slow.incident_turn().is_none());
        assert!(quick.incident_turn().is_some());
        drop(turns);
        assert!(slow.incident_turn().is_some());
    }

    #[test]
    fn a_record_is_paid_on_the_lane_that_it_names_and_on_no_other() {
        let lanes = lanes(vec![(fixtures::config(), 2), (other(8453), 2)]).unwrap();
        let record = |payment: &str| -> UsageRecord {
            serde_saphyr::from_str(&format!(
                "{{apiVersion: gridstake.dev/v1alpha1, kind: UsageRecord, metadata: {{name: u-1-0-0}}, \
                 spec: {{job: {{namespace: a, name: j, uid: u}}, attempt: 1, member: 0, slice: 0, podName: j-1-0, nodeName: n, gpuCount: 1{payment}}}}}"
            ))
            .unwrap()
        };
        let of = |chain: &str, lane: u32| {
            let payment = format!(
                ", payment: {{chain: {chain}, lane: {lane}, payer: 3, provider: 9, perGpuSecond: '0.001'}}"
            );
            let found = lanes.of(&record(&payment))?;
            Some(found.chain().name().to_owned())
        };
        assert_eq!(of("anvil", 7).as_deref(), Some("anvil"));
        assert_eq!(of("base", 8).as_deref(), Some("base"));
        assert_eq!(of("base", 7), None);
        assert_eq!(of("gone", 7), None);
        assert!(lanes.of(&record("")).is_none());
        assert!(lanes.on("base").is_some() && lanes.on("gone").is_none());
    }
}
