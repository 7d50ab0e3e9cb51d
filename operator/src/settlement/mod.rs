//! Settlement: what a lane owes is batched, signed, sent and followed until it is final.

pub mod outbox;
pub mod send;
pub mod signer;
pub mod transaction;

use std::sync::Arc;

use prometheus::Registry;

use self::signer::{KeyError, Keys};
use crate::chain::{
    Chain, Chains,
    client::{BuildError, ChainClient},
    follower::Follower,
    metrics::ChainMetrics,
};

/// This cluster's lane on its chain: whatever it takes to read and write there. Cloning shares it.
#[derive(Clone, Debug)]
pub struct Lane(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    chain: Chain,
    client: ChainClient,
    keys: Keys,
    outbox: outbox::Outbox,
    chain_metrics: ChainMetrics,
}

/// Why a configured lane cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A key is missing or wrong.
    #[error("read the keys of the chain {chain}")]
    Keys {
        /// The chain's name.
        chain: String,
        /// What is wrong.
        #[source]
        source: KeyError,
    },
    /// There is no HTTP client, such as without root certificates.
    #[error("make a client of the chain {chain}")]
    Client {
        /// The chain's name.
        chain: String,
        /// What is wrong.
        #[source]
        source: BuildError,
    },
    /// The metrics contradict each other.
    #[error("register the chain's metrics")]
    Metrics(#[source] prometheus::Error),
}

impl Lane {
    /// The lane on the home chain; `None` if no chain is configured.
    pub fn open(chains: &Chains, registry: &Registry) -> Result<Option<Self>, OpenError> {
        let Some(chain) = chains.home().cloned() else {
            return Ok(None);
        };
        let keys = Keys::read(&chain.config().keys).map_err(|source| OpenError::Keys {
            chain: chain.name().to_owned(),
            source,
        })?;
        Self::with_keys(chain, keys, registry).map(Some)
    }

    /// The lane on `chain`, with these keys.
    pub fn with_keys(chain: Chain, keys: Keys, registry: &Registry) -> Result<Self, OpenError> {
        let chain_metrics = ChainMetrics::new(registry).map_err(OpenError::Metrics)?;
        let config = chain.config();
        let client = ChainClient::new(&config.rpc, config.request_timeout, chain_metrics.clone())
            .map_err(|source| OpenError::Client {
            chain: chain.name().to_owned(),
            source,
        })?;
        Ok(Self(Arc::new(Parts {
            chain,
            client,
            outbox: outbox::Outbox::new(keys.gas.clone()),
            keys,
            chain_metrics,
        })))
    }

    /// The chain.
    #[must_use]
    pub fn chain(&self) -> &Chain {
        &self.0.chain
    }

    /// Its endpoints.
    #[must_use]
    pub fn client(&self) -> &ChainClient {
        &self.0.client
    }

    /// Our keys.
    #[must_use]
    pub fn keys(&self) -> &Keys {
        &self.0.keys
    }

    /// The gas account.
    #[must_use]
    pub fn outbox(&self) -> &outbox::Outbox {
        &self.0.outbox
    }

    /// Who follows the chain's blocks.
    #[must_use]
    pub fn follower(&self) -> Follower {
        Follower::new(
            self.0.chain.clone(),
            self.0.client.clone(),
            self.0.chain_metrics.clone(),
            self.0.keys.lane.address(),
        )
    }
}
