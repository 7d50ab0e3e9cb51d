//! Settlement: what each lane owes is batched, signed, sent and followed until it is final.
//!
//! Every lane has its own loop, follower, gas account, keys, doubts and metrics, and shares nothing with another but the API
//! server: one that is away or has halted holds up no other.
//!
//! | module | what |
//! |---|---|
//! | [`lanes`] | all lanes of this cluster |
//! | [`run`] | a lane's loop on the leader |
//! | [`observe`] | reads the log, the records and the chain |
//! | [`decide`], [`payable`], [`planner`], [`build_batch`], [`send`], [`records`], [`outcome`] | what follows from what was read; pure |
//! | [`tell`] | tells the records how far their payment is |
//! | [`gather`] | what is owed, and what of it the contract would pay |
//! | [`act`], [`outbox`], [`transaction`], [`signer`] | signs, stores, sends |
//! | [`adopt`] | takes into the log what only the chain holds, after the API server was restored |
//! | [`doubt`] | which slices may have been paid without the cluster knowing, after that |
//! | [`explained`] | what the archive tells of that |
//! | [`lapse`] | which slices may be in a batch that was signed and lost, after that |
//! | [`drift`] | whether records and contract say the same of what is paid |
//! | [`statements`] | what the lane states beside payments |
//! | [`report`], [`week`] | the earnings of a week that is over |
//! | [`activation`] | lets providers be paid whose cooling is over |

pub mod act;
pub mod activation;
pub mod adopt;
pub mod build_batch;
pub mod decide;
pub mod doubt;
pub mod drift;
pub mod explained;
pub mod gather;
pub mod lanes;
pub mod lapse;
pub mod metrics;
pub mod observe;
pub mod outbox;
pub mod outcome;
pub mod payable;
pub mod planner;
pub mod records;
pub mod report;
pub mod run;
pub mod send;
pub mod signer;
pub mod statements;
pub mod status;
pub mod tell;
pub mod transaction;
pub mod week;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use alloy::primitives::{Address, B256};
use tokio::sync::{Semaphore, SemaphorePermit, broadcast, watch};

pub use self::{lanes::Lanes, metrics::LaneMetrics};

use self::{
    doubt::Doubts,
    metrics::SettlementMetrics,
    outbox::Outbox,
    signer::{KeyError, Keys},
    statements::Statements,
};
use crate::{
    caches::triggers::Pulse,
    chain::{
        Chain, ChainView,
        client::{BuildError, ChainClient, ClientError},
        follower::Follower,
        metrics::ChainMetrics,
        read::Reader,
    },
};

/// How many Incidents may wait for one chain at once. They share a few workers with those of other chains: were one chain
/// to answer slowly, the others' would wait for it.
const INCIDENTS: usize = 2;
/// How many final batches a listener may be behind before it is told that it has missed some.
const FINALS: usize = 1024;

/// A lane of this cluster on its chain: whatever it takes to read and write there. Cloning shares it.
#[derive(Clone, Debug)]
pub struct Lane(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    chain: Chain,
    client: ChainClient,
    keys: Keys,
    outbox: Outbox,
    incidents: Semaphore,
    sealed: Pulse,
    statements: Statements,
    agreement: watch::Sender<Option<Arc<Doubts>>>,
    /// Until when, on the chain's clock, what was signed for a record before it was found to be forgotten may be in force.
    forgotten: Mutex<HashMap<String, u64>>,
    finals: broadcast::Sender<String>,
    chain_metrics: ChainMetrics,
    metrics: SettlementMetrics,
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
    /// Two lanes would take each other's nonces.
    #[error(
        "the chains {one} and {other} have the same gas account {account} on the chain with id {chain_id}, so they would take each other's nonces: give one of them another key in keys.gas"
    )]
    SharedGas {
        /// One chain's name.
        one: String,
        /// The other's.
        other: String,
        /// The account.
        account: Address,
        /// The chain's id (EIP-155).
        chain_id: u64,
    },
    /// The metrics contradict each other.
    #[error("register the chains' metrics")]
    Metrics(#[source] prometheus::Error),
}

impl Lane {
    /// The lane on `chain`, with the keys that its configuration names.
    pub fn open(chain: Chain, metrics: &LaneMetrics) -> Result<Self, OpenError> {
        let keys = Keys::read(&chain.config().keys).map_err(|source| OpenError::Keys {
            chain: chain.name().to_owned(),
            source,
        })?;
        Self::with_keys(chain, keys, metrics)
    }

    /// The lane on `chain`, with these keys.
    pub fn with_keys(chain: Chain, keys: Keys, metrics: &LaneMetrics) -> Result<Self, OpenError> {
        let (urls, timeout) = (chain.config().rpc.clone(), chain.config().request_timeout);
        let of_chain = metrics.chain(chain.name());
        let client =
            ChainClient::new(&urls, timeout, of_chain).map_err(|source| OpenError::Client {
                chain: chain.name().to_owned(),
                source,
            })?;
        Ok(Self::with_client(chain, keys, client, metrics))
    }

    /// The lane on `chain`, with these keys, which asks by `client`.
    #[must_use]
    pub fn with_client(
        chain: Chain,
        keys: Keys,
        client: ChainClient,
        metrics: &LaneMetrics,
    ) -> Self {
        Self(Arc::new(Parts {
            chain_metrics: metrics.chain(chain.name()),
            metrics: metrics.settlement(chain.name()),
            chain,
            client,
            outbox: Outbox::new(keys.gas.clone()),
            keys,
            incidents: Semaphore::new(INCIDENTS),
            sealed: Pulse::default(),
            statements: Statements::default(),
            agreement: watch::Sender::default(),
            forgotten: Mutex::default(),
            finals: broadcast::channel(FINALS).0,
        }))
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

    /// The gas account: whatever is to reach the chain goes through it.
    #[must_use]
    pub fn outbox(&self) -> &Outbox {
        &self.0.outbox
    }

    /// Leave to ask this chain about an Incident; `None` while enough others do.
    #[must_use]
    pub fn incident_turn(&self) -> Option<SemaphorePermit<'_>> {
        self.0.incidents.try_acquire().ok()
    }

    /// Reads of the contracts.
    #[must_use]
    pub fn reader(&self) -> Reader {
        Reader::new(self.0.client.clone(), self.0.chain.config().clone())
    }

    /// The metrics of settlement.
    #[must_use]
    pub fn metrics(&self) -> &SettlementMetrics {
        &self.0.metrics
    }

    /// What is in doubt, once log and chain have been seen to agree; `None` before that and while they do not. Until then
    /// no slice gets a number: the counter of numbers may be older than the chain.
    #[must_use]
    pub fn doubts(&self) -> Option<Arc<Doubts>> {
        self.0.agreement.borrow().clone()
    }

    /// Log and chain agree, but for what is in doubt.
    pub(crate) fn agrees(&self, doubts: Doubts) {
        self.0.agreement.send_replace(Some(Arc::new(doubts)));
    }

    /// Log and chain do not agree.
    pub(crate) fn disagrees(&self) {
        self.0.agreement.send_replace(None);
    }

    /// Whether nothing can be mined any more that was signed for the record of this name before this was asked for the first
    /// time: a final block is later than any signature of that time is in force.
    #[must_use]
    pub fn is_past_signatures(&self, record: &str, view: &ChainView) -> bool {
        let longest = self.0.chain.config().authorization.as_secs();
        let mut forgotten = self
            .0
            .forgotten
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let until = *forgotten
            .entry(record.to_owned())
            .or_insert_with(|| view.head.timestamp.saturating_add(longest));
        view.finalized.timestamp > until
    }

    /// Announces that a record was sealed: a batch follows within `window`. Once for each record, so that a full batch
    /// does not wait.
    pub fn announce_sealed(&self) {
        self.0.sealed.beat();
    }

    /// Beats with each record that is announced.
    #[must_use]
    pub fn sealed(&self) -> watch::Receiver<u64> {
        self.0.sealed.changes()
    }

    /// What it is to state and has stated.
    #[must_use]
    pub fn statements(&self) -> &Statements {
        &self.0.statements
    }

    /// Announces that the batch of this name has become final.
    pub fn announce_final(&self, name: String) {
        // Without an archive, nobody listens.
        let _ = self.0.finals.send(name);
    }

    /// The names of batches that become final from now on.
    #[must_use]
    pub fn finals(&self) -> broadcast::Receiver<String> {
        self.0.finals.subscribe()
    }

    /// The lane's last batch and its chain hash, in the newest block of `view`. It is read anew: what is sent rests on it.
    pub async fn head(&self, view: &ChainView) -> Result<(u64, B256), ClientError> {
        let lane = self.reader().lane(view.head.hash).await?;
        Ok((lane.seq, lane.chain_hash))
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
