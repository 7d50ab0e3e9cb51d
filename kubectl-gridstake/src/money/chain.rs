//! Asks the chain: what is there, what a call would return, what has become of a transaction.

use std::time::Duration;

use alloy::{
    consensus::BlockHeader as _,
    eips::{BlockId, BlockNumberOrTag},
    network::TransactionBuilder as _,
    primitives::{Address, B256, Bytes, TxHash, U256},
    providers::{DynProvider, Provider as _},
    rpc::types::{Filter, Log, TransactionReceipt, TransactionRequest},
    sol_types::{SolCall, SolEvent},
};
use gridstake_contracts::{GridToken, Settlement, StakeVault};

use super::{
    MoneyError,
    outcome::Contracts,
    place::Place,
    plan::{Call, Contract},
    token::Token,
};
use crate::endpoint::{self, Fault};

/// After which time a request is given up.
const PATIENCE: Duration = Duration::from_secs(20);

/// A block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Its number.
    pub number: u64,
    /// Its time, in Unix seconds.
    pub time: u64,
    /// Its base fee, in wei; `None` where the chain has none.
    pub base_fee: Option<u128>,
}

/// A chain and our contracts on it, as of its newest block.
pub struct Chain {
    provider: DynProvider,
    /// Its name in the operator's configuration, where it is known.
    pub name: Option<String>,
    /// Its id.
    pub id: u64,
    /// The cluster's lane, where it is known.
    pub lane: Option<u32>,
    /// The contract Settlement.
    pub settlement: Address,
    /// The contract StakeVault.
    pub vault: Address,
    /// The token.
    pub token: Token,
    /// Its newest block.
    pub block: Block,
}

fn asking(op: &'static str) -> impl Fn(Fault) -> MoneyError {
    move |fault| MoneyError::Request { op, fault }
}

impl Chain {
    /// The chain at `place`, whose contracts must name each other and one token.
    pub async fn open(place: &Place) -> Result<Self, MoneyError> {
        let provider = endpoint::connect(&place.rpc, PATIENCE).map_err(MoneyError::Client)?;
        let asked = async { provider.get_chain_id().await.map_err(Fault::from) };
        let (id, block) = tokio::try_join!(asked, newest(&provider))
            .map_err(asking("ask the endpoint for its chain"))?;
        if let Some(expected) = place.chain_id
            && expected != id
        {
            return Err(MoneyError::OtherChain {
                expected,
                found: id,
            });
        }
        let settlement = place.settlement;
        let at = BlockId::number(block.number);
        let settlement_says = |fault| contract_fault("Settlement", settlement, fault);
        let (vault, address) = tokio::try_join!(
            view(&provider, settlement, Settlement::vaultCall {}, at),
            view(&provider, settlement, Settlement::tokenCall {}, at),
        )
        .map_err(settlement_says)?;
        let (back, stakes) = tokio::try_join!(
            view(&provider, vault, StakeVault::settlementCall {}, at),
            view(&provider, vault, StakeVault::tokenCall {}, at),
        )
        .map_err(|fault| contract_fault("StakeVault", vault, fault))?;
        if back != settlement || stakes != address {
            return Err(MoneyError::Strangers { settlement, vault });
        }
        let decimals = view(&provider, address, GridToken::decimalsCall {}, at)
            .await
            .map_err(|fault| contract_fault("token", address, fault))?;
        // Some tokens have none, or one that is no text.
        let symbol = view(&provider, address, GridToken::symbolCall {}, at)
            .await
            .ok();
        Ok(Self {
            provider,
            name: place.name.clone(),
            id,
            lane: place.lane,
            settlement,
            vault,
            token: Token::new(address, symbol.as_deref(), decimals),
            block,
        })
    }

    /// The address of a contract.
    #[must_use]
    pub const fn address(&self, contract: Contract) -> Address {
        match contract {
            Contract::Settlement => self.settlement,
            Contract::Vault => self.vault,
            Contract::Token => self.token.address,
        }
    }

    /// Our contracts.
    #[must_use]
    pub const fn contracts(&self) -> Contracts {
        Contracts {
            settlement: self.settlement,
            vault: self.vault,
        }
    }

    /// What a call of a contract returns.
    pub async fn read<C: SolCall>(
        &self,
        op: &'static str,
        contract: Contract,
        call: C,
    ) -> Result<C::Return, MoneyError> {
        let at = BlockId::number(self.block.number);
        match view(&self.provider, self.address(contract), call, at).await {
            Ok(found) => Ok(found),
            Err(Fault::Reverted(data)) => Err(MoneyError::refused(op, &data, &self.token)),
            Err(fault) => Err(MoneyError::Request { op, fault }),
        }
    }

    /// What a call of `from` would return in the newest block; the inner error is what it would revert with.
    pub async fn would<C: SolCall>(
        &self,
        op: &'static str,
        from: Address,
        contract: Contract,
        call: C,
    ) -> Result<Result<C::Return, Bytes>, MoneyError> {
        let request = TransactionRequest::default()
            .with_from(from)
            .with_to(self.address(contract))
            .with_input(call.abi_encode());
        let at = BlockId::number(self.block.number);
        match self
            .provider
            .call(request)
            .block(at)
            .await
            .map_err(Fault::from)
        {
            Ok(returned) => {
                C::abi_decode_returns(&returned)
                    .map(Ok)
                    .map_err(|_| MoneyError::NotContract {
                        contract: contract.name(),
                        at: self.address(contract),
                    })
            }
            Err(Fault::Reverted(data)) => Ok(Err(data)),
            Err(fault) => Err(MoneyError::Request { op, fault }),
        }
    }

    /// What `call` of `from` reverts with after the block of this number; `None` if it does not.
    pub async fn revert(
        &self,
        from: Address,
        call: &Call,
        block: u64,
    ) -> Result<Option<Bytes>, MoneyError> {
        let at = BlockId::number(block);
        let request = self.request(from, call);
        match self
            .provider
            .call(request)
            .block(at)
            .await
            .map_err(Fault::from)
        {
            Ok(_) => Ok(None),
            Err(Fault::Reverted(data)) => Ok(Some(data)),
            Err(fault) => Err(MoneyError::Request {
                op: "simulate the transaction",
                fault,
            }),
        }
    }

    /// How much gas `call` of `from` takes after the block of this number. The block is named, since some endpoints count in what
    /// waits otherwise: after a transaction that this one replaces it may take less.
    pub async fn gas(&self, from: Address, call: &Call, block: u64) -> Result<u64, MoneyError> {
        let estimate = self
            .provider
            .estimate_gas(self.request(from, call))
            .block(BlockId::number(block));
        match estimate.await.map_err(Fault::from) {
            Ok(gas) => Ok(gas),
            Err(Fault::Reverted(data)) => {
                Err(MoneyError::refused("estimate the gas", &data, &self.token))
            }
            Err(fault) => Err(MoneyError::Request {
                op: "estimate the gas",
                fault,
            }),
        }
    }

    fn request(&self, from: Address, call: &Call) -> TransactionRequest {
        TransactionRequest::default()
            .with_from(from)
            .with_to(self.address(call.to))
            .with_input(call.input.clone())
    }

    /// The newest block now.
    pub async fn newest(&self) -> Result<Block, MoneyError> {
        newest(&self.provider)
            .await
            .map_err(asking("read the newest block"))
    }

    /// The tip per gas that the endpoint suggests, in wei; 0 where it suggests none.
    pub async fn tip(&self) -> Result<u128, MoneyError> {
        match self
            .provider
            .get_max_priority_fee_per_gas()
            .await
            .map_err(Fault::from)
        {
            Ok(tip) => Ok(tip),
            // Not every chain has tips.
            Err(Fault::Refused(_)) => Ok(0),
            Err(fault) => Err(MoneyError::Request {
                op: "ask for the tip",
                fault,
            }),
        }
    }

    /// The coins of an account, in wei.
    pub async fn coins(&self, account: Address) -> Result<u128, MoneyError> {
        let coins = self.provider.get_balance(account).await;
        coins
            .map(|wei| wei.saturating_to())
            .map_err(|error| asking("read the account's coins")(error.into()))
    }

    /// How many transactions of an account are in blocks, and how many with those that wait.
    pub async fn nonces(&self, account: Address) -> Result<(u64, u64), MoneyError> {
        let mined = async { self.provider.get_transaction_count(account).await };
        let waiting = async { self.provider.get_transaction_count(account).pending().await };
        tokio::try_join!(mined, waiting)
            .map_err(|error| asking("read the account's nonce")(error.into()))
    }

    /// Hands a signed transaction over.
    pub async fn send(&self, raw: &[u8]) -> Result<(), Fault> {
        let sent = self.provider.send_raw_transaction(raw).await;
        sent.map(drop).map_err(Fault::from)
    }

    /// The receipt of a transaction; `None` if it is in no block that the endpoint knows.
    pub async fn receipt(&self, hash: TxHash) -> Result<Option<TransactionReceipt>, MoneyError> {
        let found = self.provider.get_transaction_receipt(hash).await;
        found.map_err(|error| asking("look for the transaction")(error.into()))
    }

    /// Whether the endpoint knows a transaction, in a block or waiting.
    pub async fn knows(&self, hash: TxHash) -> Result<bool, MoneyError> {
        let found: Result<Option<serde_json::Value>, _> = self
            .provider
            .raw_request("eth_getTransactionByHash".into(), (hash,))
            .await;
        found
            .map(|transaction| transaction.is_some())
            .map_err(|error| asking("look for the transaction")(error.into()))
    }

    /// The newest event `E` of a contract that has `topic` at the place `index` of its topics; `None` if there is none, or if the
    /// endpoint does not look through the whole chain.
    pub async fn newest_event<E: SolEvent>(
        &self,
        contract: Contract,
        topics: [Option<B256>; 3],
    ) -> Option<E> {
        let mut filter = Filter::new()
            .address(self.address(contract))
            .event_signature(E::SIGNATURE_HASH)
            .from_block(BlockNumberOrTag::Earliest);
        let [first, second, third] = topics;
        if let Some(topic) = first {
            filter = filter.topic1(topic);
        }
        if let Some(topic) = second {
            filter = filter.topic2(topic);
        }
        if let Some(topic) = third {
            filter = filter.topic3(topic);
        }
        let logs: Vec<Log> = self.provider.get_logs(&filter).await.ok()?;
        let newest = logs.last()?;
        E::decode_log(&newest.inner).ok().map(|event| event.data)
    }
}

async fn newest(provider: &DynProvider) -> Result<Block, Fault> {
    let block = provider
        .get_block_by_number(BlockNumberOrTag::Latest)
        .await?
        .ok_or_else(|| Fault::NoAnswer("the endpoint has no newest block".to_owned()))?;
    Ok(Block {
        number: block.header.number(),
        time: block.header.timestamp(),
        base_fee: block.header.base_fee_per_gas().map(u128::from),
    })
}

/// What a call of the contract at `to` returns in a block.
async fn view<C: SolCall>(
    provider: &DynProvider,
    to: Address,
    call: C,
    at: BlockId,
) -> Result<C::Return, Fault> {
    let request = TransactionRequest::default()
        .with_to(to)
        .with_input(call.abi_encode());
    let returned = provider.call(request).block(at).await?;
    C::abi_decode_returns(&returned).map_err(|_| Fault::Reverted(Bytes::new()))
}

/// A contract that does not answer as it should is another one.
fn contract_fault(contract: &'static str, at: Address, fault: Fault) -> MoneyError {
    match fault {
        Fault::Reverted(_) => MoneyError::NotContract { contract, at },
        fault => MoneyError::Request {
            op: "read the contracts",
            fault,
        },
    }
}

/// An address as a topic of an event.
#[must_use]
pub fn address_topic(address: Address) -> B256 {
    address.into_word()
}

/// A number as a topic of an event.
#[must_use]
pub fn number_topic(number: u32) -> B256 {
    B256::from(U256::from(number))
}
