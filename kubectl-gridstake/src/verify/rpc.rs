//! Asks an endpoint what was settled on a lane. It is not trusted: what it says must hash to the lane's head.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use alloy::{
    eips::{BlockId, BlockNumberOrTag},
    network::TransactionBuilder as _,
    primitives::{Address, B256, Bytes, TxHash, U256},
    providers::{DynProvider, Provider as _},
    rpc::types::{Filter, Log, TransactionRequest},
    sol_types::{SolCall, SolEvent as _},
    transports::TransportError,
};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use gridstake_contracts::{Settlement, StakeVault};
use serde::Deserialize;

use super::answers::{Answers, Input, SettledBatch, Slash, Stated};
use crate::endpoint;

/// After which time a request is given up.
const PATIENCE: Duration = Duration::from_mins(1);
/// Blocks of one request for events, at first; fewer where the endpoint refuses so many, or answers with too much.
const RANGE: u64 = 50_000;
/// Inputs that are read at once.
const READS: usize = 8;

/// Whether fewer blocks may help: the endpoint refused, or its answer was larger than what is read.
fn asks_for_less(error: &TransportError) -> bool {
    matches!(error, TransportError::ErrorResp(_)) || gridstake_endpoint::is_too_large(error)
}

/// Why the chain could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum RpcError {
    /// There is no HTTP client, such as without root certificates.
    #[error("make an HTTP client")]
    Client(#[source] reqwest::Error),
    /// A request failed.
    #[error("--rpc: {op}")]
    Request {
        /// What was asked.
        op: &'static str,
        /// What came of it.
        #[source]
        source: TransportError,
    },
    /// The endpoint does not have what it has just named.
    #[error("--rpc: the endpoint does not have {what}: ask one that keeps the chain's history")]
    Missing {
        /// What it lacks.
        what: String,
    },
    /// The answer is not what this contract says.
    #[error(
        "--settlement: {at} does not answer as the contract {contract} does, on the chain of this endpoint"
    )]
    NotContract {
        /// What it should be: Settlement, or the StakeVault that it names.
        contract: &'static str,
        /// Its address.
        at: Address,
    },
    /// Somebody settled the batch through another contract.
    #[error(
        "batch {sequence} was settled by transaction {transaction}, whose input is no call of settle: its payload stands inside another contract's call"
    )]
    Indirect {
        /// The batch.
        sequence: u64,
        /// The transaction.
        transaction: TxHash,
    },
}

fn failed(op: &'static str) -> impl Fn(TransportError) -> RpcError {
    move |source| RpcError::Request { op, source }
}

/// A transaction, of whatever type the chain has.
#[derive(Deserialize, Debug)]
struct Transaction {
    input: Bytes,
}

/// A chain's endpoint.
pub struct Endpoint(DynProvider);

impl Endpoint {
    /// The endpoint at `url`.
    pub fn new(url: &reqwest::Url) -> Result<Self, RpcError> {
        endpoint::connect(url, PATIENCE)
            .map(Self)
            .map_err(RpcError::Client)
    }

    /// What was settled on `lane` from block `from` to the newest final one; the transactions' inputs are left out.
    pub async fn answers(
        &self,
        settlement: Address,
        lane: u32,
        from: u64,
    ) -> Result<Answers, RpcError> {
        let chain_id = self
            .0
            .get_chain_id()
            .await
            .map_err(failed("read the chain id"))?;
        let (block, time) = self.last_block().await?;
        let (head_sequence, head_hash) = self.head(settlement, lane, block).await?;
        let topics = vec![
            Settlement::BatchSettled::SIGNATURE_HASH,
            Settlement::JobsSkipped::SIGNATURE_HASH,
            Settlement::Stated::SIGNATURE_HASH,
        ];
        let filter = Filter::new()
            .address(settlement)
            .event_signature(topics)
            .topic1(B256::from(U256::from(lane)));
        let logs = self.logs(filter, from, block).await?;
        let mut left_out: BTreeMap<u64, BTreeMap<u32, U256>> = BTreeMap::new();
        let mut statements: BTreeMap<u64, Vec<Stated>> = BTreeMap::new();
        let mut batches = Vec::new();
        for log in logs {
            if let Ok(event) = Settlement::Stated::decode_log(&log.inner) {
                statements.entry(event.seq).or_default().push(Stated {
                    kind: event.kind,
                    number: event.number,
                    subject: event.subject,
                    content: event.content,
                });
            } else if let Ok(event) = Settlement::JobsSkipped::decode_log(&log.inner) {
                let words = left_out.entry(event.seq).or_default();
                *words.entry(event.wordNo).or_default() |= U256::from(event.bits);
            } else if let Ok(event) = Settlement::BatchSettled::decode_log(&log.inner) {
                batches.push(self.settled(&log, &event).await?);
            }
        }
        for batch in &mut batches {
            batch.left_out = left_out.remove(&batch.sequence).unwrap_or_default();
            batch.statements = statements.remove(&batch.sequence).unwrap_or_default();
        }
        batches.sort_by_key(|batch: &SettledBatch| batch.sequence);
        Ok(Answers {
            chain_id,
            settlement,
            lane,
            block,
            time,
            head_sequence,
            head_hash,
            batches,
            operators: None,
            slashes: None,
        })
    }

    /// The newest final block and its time; where the chain has no such tag, the newest one.
    async fn last_block(&self) -> Result<(u64, u64), RpcError> {
        let block = |tag| self.0.get_block_by_number(tag);
        if let Ok(Some(block)) = block(BlockNumberOrTag::Finalized).await {
            return Ok((block.header.number, block.header.timestamp));
        }
        let newest = block(BlockNumberOrTag::Latest)
            .await
            .map_err(failed("read the newest block"))?;
        newest
            .map(|block| (block.header.number, block.header.timestamp))
            .ok_or_else(|| RpcError::Missing {
                what: "a newest block".to_owned(),
            })
    }

    async fn head(
        &self,
        settlement: Address,
        lane: u32,
        block: u64,
    ) -> Result<(u64, B256), RpcError> {
        let call = Settlement::headCall { lane };
        let head = self
            .call(
                "Settlement",
                settlement,
                &call,
                block,
                "read the lane's head",
            )
            .await?;
        Ok((head.seq, head.chainHash))
    }

    /// What the `contract` at an address returns in `block`.
    async fn call<C: SolCall>(
        &self,
        contract: &'static str,
        at: Address,
        call: &C,
        block: u64,
        op: &'static str,
    ) -> Result<C::Return, RpcError> {
        let request = TransactionRequest::default()
            .with_to(at)
            .with_input(call.abi_encode());
        let returned = self
            .0
            .call(request)
            .block(BlockId::number(block))
            .await
            .map_err(failed(op))?;
        C::abi_decode_returns(&returned).map_err(|_| RpcError::NotContract { contract, at })
    }

    async fn settled(
        &self,
        log: &Log,
        event: &Settlement::BatchSettled,
    ) -> Result<SettledBatch, RpcError> {
        let missing = |what: &str| RpcError::Missing {
            what: format!("{what} of the event of batch {}", event.seq),
        };
        let block = log.block_number.ok_or_else(|| missing("the block"))?;
        let timestamp = self.timestamp(log, block).await?;
        Ok(SettledBatch {
            sequence: event.seq,
            chain_hash: event.chainHash,
            usage_root: event.usageRoot,
            summary: event.summary,
            amounts: event.amounts.clone(),
            left_out: BTreeMap::new(),
            statements: Vec::new(),
            transaction: log
                .transaction_hash
                .ok_or_else(|| missing("the transaction"))?,
            block,
            timestamp,
            input: None,
        })
    }

    /// The time of the block in which `log` is.
    async fn timestamp(&self, log: &Log, block: u64) -> Result<u64, RpcError> {
        if let Some(timestamp) = log.block_timestamp {
            return Ok(timestamp);
        }
        let found = self
            .0
            .get_block_by_number(BlockNumberOrTag::Number(block))
            .await
            .map_err(failed("read a block"))?;
        found
            .map(|block| block.header.timestamp)
            .ok_or_else(|| RpcError::Missing {
                what: format!("block {block}"),
            })
    }

    /// Events in ranges of blocks, which become smaller where the endpoint refuses or answers with too much.
    async fn logs(&self, filter: Filter, from: u64, to: u64) -> Result<Vec<Log>, RpcError> {
        let (mut from, mut range) = (from, RANGE);
        let mut found = Vec::new();
        while from <= to {
            let last = to.min(from.saturating_add(range - 1));
            let part = filter.clone().from_block(from).to_block(last);
            match self.0.get_logs(&part).await {
                Ok(logs) => {
                    found.extend(logs);
                    from = last.saturating_add(1);
                }
                Err(error) if range > 1 && asks_for_less(&error) => range = range.div_ceil(4),
                Err(error) => return Err(failed("read events")(error)),
            }
        }
        Ok(found)
    }

    /// Reads the inputs of the transactions that settled the batches of these numbers.
    pub async fn read_inputs(
        &self,
        answers: &mut Answers,
        sequences: &BTreeSet<u64>,
    ) -> Result<(), RpcError> {
        let wanted = answers
            .batches
            .iter_mut()
            .filter(|batch| sequences.contains(&batch.sequence) && batch.input.is_none());
        let lane = answers.lane;
        stream::iter(wanted)
            .map(|batch| async move {
                batch.input = Some(self.input(batch.transaction, lane, batch.sequence).await?);
                Ok(())
            })
            .buffer_unordered(READS)
            .try_collect::<()>()
            .await
    }

    async fn input(&self, hash: TxHash, lane: u32, sequence: u64) -> Result<Input, RpcError> {
        let transaction: Option<Transaction> = self
            .0
            .raw_request("eth_getTransactionByHash".into(), (hash,))
            .await
            .map_err(failed("read a transaction"))?;
        let transaction = transaction.ok_or_else(|| RpcError::Missing {
            what: format!("transaction {hash}"),
        })?;
        let call = Settlement::settleCall::abi_decode(&transaction.input)
            .ok()
            .filter(|call| call.lane == lane && call.seq == sequence)
            .ok_or(RpcError::Indirect {
                sequence,
                transaction: hash,
            })?;
        Ok(Input {
            previous: call.prev,
            data: call.data,
        })
    }

    /// The slashes that `lane` proposed and that were executed, by the events of the vault that `settlement` names.
    pub async fn slashes(
        &self,
        settlement: Address,
        lane: u32,
        from: u64,
        to: u64,
    ) -> Result<Vec<Slash>, RpcError> {
        let call = Settlement::vaultCall {};
        let vault = self
            .call(
                "Settlement",
                settlement,
                &call,
                to,
                "read the vault's address",
            )
            .await?;
        let filter = Filter::new()
            .address(vault)
            .event_signature(StakeVault::SlashExecuted::SIGNATURE_HASH);
        let mut slashes = Vec::new();
        for log in self.logs(filter, from, to).await? {
            let Ok(event) = StakeVault::SlashExecuted::decode_log(&log.inner) else {
                continue;
            };
            let id = event.id;
            let call = StakeVault::slashOfCall { id };
            let slash = self
                .call("StakeVault", vault, &call, to, "read a slash")
                .await?;
            if slash.lane != lane {
                continue;
            }
            let block = log.block_number.ok_or_else(|| RpcError::Missing {
                what: format!("the block of the event of slash {id}"),
            })?;
            slashes.push(Slash {
                id,
                provider: event.provider,
                taken: event.fromStake.saturating_add(event.fromUnbonding),
                timestamp: self.timestamp(&log, block).await?,
            });
        }
        Ok(slashes)
    }

    /// Who was the operator of each provider at any time, by the vault's events.
    pub async fn operators(
        &self,
        vault: Address,
        from: u64,
        to: u64,
    ) -> Result<BTreeMap<u32, BTreeSet<Address>>, RpcError> {
        let topics = vec![
            StakeVault::Registered::SIGNATURE_HASH,
            StakeVault::OperatorChanged::SIGNATURE_HASH,
        ];
        let filter = Filter::new().address(vault).event_signature(topics);
        let mut operators: BTreeMap<u32, BTreeSet<Address>> = BTreeMap::new();
        for log in self.logs(filter, from, to).await? {
            let (provider, operator) =
                if let Ok(event) = StakeVault::Registered::decode_log(&log.inner) {
                    (event.provider, event.operator)
                } else if let Ok(event) = StakeVault::OperatorChanged::decode_log(&log.inner) {
                    (event.provider, event.operator)
                } else {
                    continue;
                };
            operators.entry(provider).or_default().insert(operator);
        }
        Ok(operators)
    }
}
