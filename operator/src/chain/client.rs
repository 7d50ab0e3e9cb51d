//! Asks a chain: one endpoint at a time, each request bounded in time and each answer in size, reads pinned to a block's hash.
//!
//! A failed request is asked once of each endpoint, in turn, and is then given up; who asked repeats the whole pass
//! later. What one endpoint says is never mixed into what another says: a read names the block's hash, and an endpoint
//! that does not have that block fails. A transaction is handed to all of them: one that takes it and keeps it to itself
//! holds nothing up.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use alloy::{
    consensus::{BlockHeader as _, Transaction as _},
    eips::{BlockId, BlockNumberOrTag},
    network::TransactionBuilder as _,
    primitives::{Address, B256, Bytes, TxHash, keccak256},
    providers::{DynProvider, Provider as _, ProviderBuilder},
    rpc::{
        client::RpcClient,
        types::{Filter, Log, TransactionReceipt, TransactionRequest},
    },
    sol_types::SolCall,
};
use futures::future::join_all;
use gridstake_endpoint::BoundedHttp;
use reqwest::Url;

use super::{metrics::ChainMetrics, rpc_error::RpcFailure, view::Block};

/// The largest answer that is read, in bytes.
///
/// An answer is held twice while it is read, and several endpoints may answer at once: with more, a few of those that lie would
/// take all of the operator's memory (256 MiB). The largest that is needed are the events of a batch, 66 kB for 1,000 records in as
/// many groups: who reads those of many blocks asks for fewer where they are too large.
pub const MOST_BYTES: usize = 16 << 20;

/// Why a chain could not be asked, or what it refused.
#[derive(Debug, thiserror::Error)]
#[error("{op}")]
pub struct ClientError {
    /// What was asked, verb and object.
    pub op: &'static str,
    /// What came of it at the last endpoint.
    #[source]
    pub failure: RpcFailure,
}

impl ClientError {
    /// A static word for metrics.
    #[must_use]
    pub const fn category(&self) -> &'static str {
        self.failure.category()
    }

    /// Whether the answer was larger than what is read: less may be asked for at once.
    #[must_use]
    pub const fn is_too_large(&self) -> bool {
        matches!(self.failure, RpcFailure::TooLarge { .. })
    }

    /// What the contract returned, if it reverted.
    #[must_use]
    pub const fn revert(&self) -> Option<&Bytes> {
        match &self.failure {
            RpcFailure::Reverted { data } => Some(data),
            _ => None,
        }
    }
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
#[error("build the HTTP client of the chain")]
pub struct BuildError(#[source] reqwest::Error);

/// A chain's endpoints. Cloning shares them.
#[derive(Clone, Debug)]
pub struct ChainClient(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    endpoints: Vec<DynProvider>,
    /// The endpoint that answered last.
    preferred: AtomicUsize,
    metrics: ChainMetrics,
}

impl ChainClient {
    /// A client of these endpoints; no request takes longer than `timeout`.
    pub fn new(urls: &[Url], timeout: Duration, metrics: ChainMetrics) -> Result<Self, BuildError> {
        let mut builder = reqwest::Client::builder()
            .timeout(timeout)
            .connect_timeout(timeout)
            // A redirect could carry a signed transaction to a stranger.
            .redirect(reqwest::redirect::Policy::none());
        if urls.iter().all(|url| url.scheme() == "http") {
            // Without TLS, no certificates need to be there.
            builder = builder.tls_certs_only([]);
        }
        let http = builder.build().map_err(BuildError)?;
        let endpoints = urls
            .iter()
            .map(|url| {
                ProviderBuilder::new()
                    .disable_recommended_fillers()
                    .connect_client(endpoint(http.clone(), url.clone()))
                    .erased()
            })
            .collect();
        Ok(Self::over(endpoints, metrics))
    }

    /// A client of these endpoints, each of which bounds its requests in time.
    #[must_use]
    pub fn over(endpoints: Vec<DynProvider>, metrics: ChainMetrics) -> Self {
        Self(Arc::new(Shared {
            endpoints,
            preferred: AtomicUsize::new(0),
            metrics,
        }))
    }

    /// Asks each endpoint until one answers, beginning with the one that answered last.
    async fn ask<T, F, Fut>(&self, op: &'static str, request: F) -> Result<T, ClientError>
    where
        F: Fn(DynProvider) -> Fut,
        Fut: Future<Output = Result<T, RpcFailure>>,
    {
        let shared = &*self.0;
        let first = shared.preferred.load(Ordering::Relaxed);
        let count = shared.endpoints.len();
        let mut last = RpcFailure::Missing("an endpoint");
        for turn in 0..count {
            let index = (first + turn) % count;
            match request(shared.endpoints[index].clone()).await {
                Ok(answer) => {
                    if turn > 0 {
                        tracing::info!(op, endpoint = index, "another endpoint answers");
                        shared.preferred.store(index, Ordering::Relaxed);
                    }
                    return Ok(answer);
                }
                Err(failure) if failure.is_final() => {
                    return Err(ClientError { op, failure });
                }
                Err(failure) => {
                    shared.metrics.failed(failure.category());
                    tracing::debug!(op, endpoint = index, error = %failure, "an endpoint failed");
                    last = failure;
                }
            }
        }
        Err(ClientError { op, failure: last })
    }

    /// How many endpoints there are.
    #[must_use]
    pub fn endpoints(&self) -> usize {
        self.0.endpoints.len()
    }

    /// The highest of the newest blocks that the endpoints of the chain `chain_id` have, if it is above `height`. Its
    /// endpoint is asked first from then on.
    pub async fn newest_above(&self, chain_id: u64, height: u64) -> Option<Block> {
        let mut best: Option<(usize, Block)> = None;
        for (index, provider) in self.0.endpoints.iter().enumerate() {
            let newest = async {
                serves(provider, chain_id).await?;
                block_at(provider, BlockNumberOrTag::Latest).await
            };
            match newest.await {
                Ok(block) if block.number > best.map_or(height, |(_, block)| block.number) => {
                    best = Some((index, block));
                }
                Ok(_) => {}
                Err(failure) => self.0.metrics.failed(failure.category()),
            }
        }
        let (index, block) = best?;
        if self.0.preferred.swap(index, Ordering::Relaxed) != index {
            tracing::info!(endpoint = index, "another endpoint is further");
        }
        Some(block)
    }

    /// The chain's id.
    pub async fn chain_id(&self) -> Result<u64, ClientError> {
        self.ask("read the chain id", |provider| async move {
            Ok(provider.get_chain_id().await?)
        })
        .await
    }

    /// The block with this number or tag.
    pub async fn block(&self, number: BlockNumberOrTag) -> Result<Block, ClientError> {
        self.block_if(number, |_| true).await
    }

    /// The block with this number or tag. An endpoint whose block cannot be, by `fits`, is passed over.
    pub async fn block_if(
        &self,
        number: BlockNumberOrTag,
        fits: impl Fn(&Block) -> bool + Send + Sync,
    ) -> Result<Block, ClientError> {
        let fits = &fits;
        self.ask("read a block", move |provider| async move {
            let block = block_at(&provider, number).await?;
            if fits(&block) {
                Ok(block)
            } else {
                Err(RpcFailure::Contradicts("the block"))
            }
        })
        .await
    }

    /// The block with this hash.
    pub async fn block_by_hash(&self, hash: B256) -> Result<Block, ClientError> {
        self.ask("read a block by its hash", move |provider| async move {
            let block = provider.get_block_by_hash(hash).await?;
            let header = block.ok_or(RpcFailure::Missing("the block"))?.header;
            Ok(block_of(&header))
        })
        .await
    }

    /// The base fee of the newest block in wei; 0 on chains without one.
    pub async fn base_fee(&self) -> Result<u128, ClientError> {
        self.ask("read the base fee", |provider| async move {
            let block = provider
                .get_block_by_number(BlockNumberOrTag::Latest)
                .await?
                .ok_or(RpcFailure::Missing("the newest block"))?;
            Ok(block.header.base_fee_per_gas().unwrap_or(0).into())
        })
        .await
    }

    /// The tip per gas that the endpoint suggests, in wei; 0 where it suggests none.
    pub async fn suggested_tip(&self) -> Result<u128, ClientError> {
        self.ask("read the suggested tip", |provider| async move {
            match provider.get_max_priority_fee_per_gas().await {
                Ok(tip) => Ok(tip),
                Err(error) => match RpcFailure::from(error) {
                    // Not every chain has tips.
                    RpcFailure::Refused { .. } => Ok(0),
                    failure => Err(failure),
                },
            }
        })
        .await
    }

    /// The code at `address` in the block `at`; empty where there is no contract.
    pub async fn code(&self, address: Address, at: B256) -> Result<Bytes, ClientError> {
        self.ask("read a contract's code", move |provider| async move {
            Ok(provider
                .get_code_at(address)
                .block_id(BlockId::hash(at))
                .await?)
        })
        .await
    }

    /// The hash of the code at `address` in the block `at`.
    pub async fn code_hash(&self, address: Address, at: B256) -> Result<B256, ClientError> {
        Ok(keccak256(self.code(address, at).await?))
    }

    /// What `call` of the contract `to` returns in the block `at`.
    pub async fn read<C: SolCall + Clone>(
        &self,
        op: &'static str,
        to: Address,
        call: &C,
        at: B256,
    ) -> Result<C::Return, ClientError> {
        let request = TransactionRequest::default()
            .with_to(to)
            .with_input(call.abi_encode());
        let returned = self.simulate(op, request, at).await?;
        C::abi_decode_returns(&returned).map_err(|error| ClientError {
            op,
            failure: RpcFailure::Unreadable(error.to_string()),
        })
    }

    /// What `request` would return if it were the next transaction after the block `at`.
    pub async fn simulate(
        &self,
        op: &'static str,
        request: TransactionRequest,
        at: B256,
    ) -> Result<Bytes, ClientError> {
        self.ask(op, move |provider| {
            let request = request.clone();
            async move { Ok(provider.call(request).block(BlockId::hash(at)).await?) }
        })
        .await
    }

    /// How much gas `request` would take as the next transaction after the block `at`. Without a block a node goes by what it is
    /// about to mine, and with it by transactions that this one may be meant to replace.
    pub async fn estimate_gas(
        &self,
        request: TransactionRequest,
        at: B256,
    ) -> Result<u64, ClientError> {
        self.ask("estimate gas", move |provider| {
            let request = request.clone();
            async move {
                Ok(provider
                    .estimate_gas(request)
                    .block(BlockId::hash(at))
                    .await?)
            }
        })
        .await
    }

    /// The next nonce of `account` as of the block `at`: transactions that are not in a block do not count.
    pub async fn nonce(&self, account: Address, at: B256) -> Result<u64, ClientError> {
        self.ask("read an account's nonce", move |provider| async move {
            Ok(provider
                .get_transaction_count(account)
                .block_id(BlockId::hash(at))
                .await?)
        })
        .await
    }

    /// The balance of `account` in wei as of the block `at`.
    pub async fn balance(&self, account: Address, at: B256) -> Result<u128, ClientError> {
        self.ask("read an account's balance", move |provider| async move {
            let balance = provider
                .get_balance(account)
                .block_id(BlockId::hash(at))
                .await?;
            Ok(balance.saturating_to())
        })
        .await
    }

    /// The receipt of a transaction; `None` if it is in no block that the endpoint knows.
    pub async fn receipt(&self, hash: TxHash) -> Result<Option<TransactionReceipt>, ClientError> {
        self.ask("read a receipt", move |provider| async move {
            Ok(provider.get_transaction_receipt(hash).await?)
        })
        .await
    }

    /// Who sent a transaction that is in a block, and its input; `None` if the endpoint does not know it.
    pub async fn transaction(&self, hash: TxHash) -> Result<Option<(Address, Bytes)>, ClientError> {
        self.ask("read a transaction", move |provider| async move {
            let transaction = provider.get_transaction_by_hash(hash).await?;
            Ok(transaction.map(|it| (it.inner.signer(), it.input().clone())))
        })
        .await
    }

    /// The logs that match `filter`.
    pub async fn logs(&self, filter: Filter) -> Result<Vec<Log>, ClientError> {
        self.ask("read logs", move |provider| {
            let filter = filter.clone();
            async move { Ok(provider.get_logs(&filter).await?) }
        })
        .await
    }

    /// Hands a signed transaction to every endpoint that says that it serves the chain `chain_id`. It is an error if none
    /// took it, and no proof that the transaction is not on its way.
    pub async fn send_raw(&self, chain_id: u64, raw: Bytes) -> Result<TxHash, ClientError> {
        let sent = join_all(self.0.endpoints.iter().map(|provider| {
            let raw = &raw;
            async move {
                serves(provider, chain_id).await?;
                Ok::<TxHash, RpcFailure>(*provider.send_raw_transaction(raw).await?.tx_hash())
            }
        }))
        .await;
        let mut last = RpcFailure::Missing("an endpoint");
        for outcome in sent {
            match outcome {
                Ok(hash) => return Ok(hash),
                Err(failure) => {
                    self.0.metrics.failed(failure.category());
                    // What a node says of the transaction tells more than that another one is away.
                    if !matches!(last, RpcFailure::Refused { .. }) {
                        last = failure;
                    }
                }
            }
        }
        Err(ClientError {
            op: "send a transaction",
            failure: last,
        })
    }
}

fn endpoint(http: reqwest::Client, url: Url) -> RpcClient {
    // Whether it is near matters to alloy's own polling only, which nobody uses.
    RpcClient::new(BoundedHttp::new(http, url, MOST_BYTES), false)
}

/// Whether the endpoint says that it serves the chain `chain_id`.
async fn serves(provider: &DynProvider, chain_id: u64) -> Result<(), RpcFailure> {
    let found = provider.get_chain_id().await?;
    if found == chain_id {
        Ok(())
    } else {
        Err(RpcFailure::OtherChain(found))
    }
}

/// The block with this number or tag, at one endpoint.
async fn block_at(provider: &DynProvider, number: BlockNumberOrTag) -> Result<Block, RpcFailure> {
    let block = provider.get_block_by_number(number).await?;
    let header = block.ok_or(RpcFailure::Missing("the block"))?.header;
    Ok(block_of(&header))
}

fn block_of(header: &alloy::rpc::types::Header) -> Block {
    Block {
        number: header.number(),
        hash: header.hash,
        parent: header.parent_hash(),
        timestamp: header.timestamp(),
    }
}
