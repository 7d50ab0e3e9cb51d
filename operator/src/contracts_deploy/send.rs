//! Sends one transaction at a time and waits until it is mined.

use std::time::{Duration, Instant};

use alloy::{
    consensus::{SignableTransaction as _, TxEip1559, transaction::RlpEcdsaEncodableTx as _},
    eips::{BlockNumberOrTag, eip2930::AccessList},
    primitives::{Address, B256, Bytes, TxHash, TxKind, U256},
    rpc::types::TransactionRequest,
};
use gridstake_contracts::{
    Settlement::SettlementErrors, StakeVault::StakeVaultErrors,
    TimelockController::TimelockControllerErrors,
};

use crate::{
    chain::{
        client::{ChainClient, ClientError},
        config::FeeConfig,
        view::Block,
    },
    settlement::signer::{Key, SignError},
};

/// How much more gas a transaction may take than was estimated: a quarter.
const SPARE_GAS: u64 = 4;

/// What is to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// What it does, verb and object.
    pub what: String,
    /// To whom; [`TxKind::Create`] deploys a contract.
    pub to: TxKind,
    /// Coins that go with it, in wei.
    pub value: u128,
    /// Code, or selector and arguments.
    pub input: Bytes,
}

/// What became of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Its nonce. Another transaction of the account, such as one of a run that was cut off, may have taken it.
    pub nonce: u64,
    /// A block in which its effects can be seen.
    pub block: u64,
}

/// Why a transaction was not mined.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The chain cannot be asked.
    #[error("{what}")]
    Chain {
        /// What was to be done.
        what: String,
        /// What is wrong.
        #[source]
        source: ClientError,
    },
    /// The contract refuses, or a constructor does.
    #[error("{what}: it would be refused with {error}")]
    Refused {
        /// What was to be done.
        what: String,
        /// The contract's error, by its name if it is known.
        error: String,
    },
    /// The deployer's account cannot pay.
    #[error(
        "{what}: the deployer's account {address} has {has} wei and needs {needs} on this chain: send it coins and run this again"
    )]
    NoCoins {
        /// What was to be done.
        what: String,
        /// The account.
        address: Address,
        /// What it has, in wei.
        has: u128,
        /// What it needs for this transaction, in wei.
        needs: u128,
    },
    /// Gas costs more than may be paid.
    #[error(
        "{what}: gas costs {asked} wei, and fees.maxFeePerGas allows {allowed}: raise it, or run this again when gas is cheaper"
    )]
    FeeCap {
        /// What was to be done.
        what: String,
        /// Base fee and tip, in wei per gas.
        asked: u128,
        /// What may be paid, in wei per gas.
        allowed: u128,
    },
    /// It takes more gas than a transaction may have.
    #[error(
        "{what}: it takes {gas} gas, and fees.maxGas allows {allowed}: the chain must take contracts of up to 24,576 bytes in one transaction"
    )]
    GasCap {
        /// What was to be done.
        what: String,
        /// What it takes.
        gas: u64,
        /// What is allowed.
        allowed: u64,
    },
    /// It does not sign.
    #[error("{what}")]
    Sign {
        /// What was to be done.
        what: String,
        /// What is wrong.
        #[source]
        source: SignError,
    },
    /// It was mined and failed.
    #[error("{what}: the transaction {hash} was mined and failed; run this again")]
    Failed {
        /// What was to be done.
        what: String,
        /// The transaction.
        hash: TxHash,
    },
    /// It was not mined in time.
    #[error(
        "{what}: the transaction {hash} was not mined within {patience:?}{}. Nothing is lost: run this again",
        last.as_ref().map(|last| format!(" (the endpoint said: {last})")).unwrap_or_default()
    )]
    NotMined {
        /// What was to be done.
        what: String,
        /// The transaction.
        hash: TxHash,
        /// How long it was waited for.
        patience: Duration,
        /// What went wrong last, if anything.
        last: Option<String>,
    },
}

/// Sends the deployer's transactions.
#[derive(Debug)]
pub struct Sender<'a> {
    /// The chain.
    pub client: &'a ChainClient,
    /// Its id.
    pub chain_id: u64,
    /// The deployer's key.
    pub key: &'a Key,
    /// What a transaction may cost.
    pub fees: &'a FeeConfig,
    /// The pause between two looks at whether it is mined.
    pub poll: Duration,
    /// After which time it is given up.
    pub patience: Duration,
}

impl Sender<'_> {
    /// Sends `outgoing` as the account's next transaction after `head`.
    pub async fn send(&self, outgoing: Outgoing, head: &Block) -> Result<Sent, SendError> {
        let Outgoing { what, .. } = &outgoing;
        let chain = |source| SendError::Chain {
            what: what.clone(),
            source,
        };
        let address = self.key.address();
        let nonce = self.client.nonce(address, head.hash).await.map_err(chain)?;
        let has = self
            .client
            .balance(address, head.hash)
            .await
            .map_err(chain)?;
        let no_coins = |needs| SendError::NoCoins {
            what: what.clone(),
            address,
            has,
            needs,
        };
        if has == 0 {
            // Some chains refuse an estimate for an account without coins, in other words.
            return Err(no_coins(1));
        }
        let fee = self.fee(what).await?;
        let gas_limit = self.gas_limit(&outgoing, head.hash).await?;
        let needs = u128::from(gas_limit)
            .saturating_mul(fee.most)
            .saturating_add(outgoing.value);
        if has < needs {
            return Err(no_coins(needs));
        }
        let transaction = TxEip1559 {
            chain_id: self.chain_id,
            nonce,
            gas_limit,
            max_fee_per_gas: fee.most,
            max_priority_fee_per_gas: fee.tip,
            to: outgoing.to,
            value: U256::from(outgoing.value),
            access_list: AccessList::default(),
            input: outgoing.input.clone(),
        };
        let signature = self
            .key
            .sign(transaction.signature_hash())
            .map_err(|source| SendError::Sign {
                what: what.clone(),
                source,
            })?;
        let hash = transaction.tx_hash(&signature);
        let mut raw = Vec::with_capacity(transaction.eip2718_encoded_length(&signature));
        transaction.eip2718_encode(&signature, &mut raw);
        let block = self.until_mined(what, &raw.into(), hash, nonce).await?;
        tracing::info!(what, %hash, block, "done");
        Ok(Sent { nonce, block })
    }

    /// What is paid per gas: twice the base fee lasts for six full blocks.
    async fn fee(&self, what: &str) -> Result<Fee, SendError> {
        let chain = |source| SendError::Chain {
            what: what.to_owned(),
            source,
        };
        let base = self.client.base_fee().await.map_err(chain)?;
        let tip = self.client.suggested_tip().await.map_err(chain)?;
        let tip = tip.max(self.fees.min_priority_fee_per_gas.get());
        let (asked, allowed) = (base.saturating_add(tip), self.fees.max_fee_per_gas.get());
        if asked > allowed {
            return Err(SendError::FeeCap {
                what: what.to_owned(),
                asked,
                allowed,
            });
        }
        let most = asked.saturating_add(base).min(allowed);
        Ok(Fee { most, tip })
    }

    async fn gas_limit(&self, outgoing: &Outgoing, at: B256) -> Result<u64, SendError> {
        let what = &outgoing.what;
        let request = TransactionRequest {
            from: Some(self.key.address()),
            to: Some(outgoing.to),
            value: Some(U256::from(outgoing.value)),
            input: outgoing.input.clone().into(),
            ..TransactionRequest::default()
        };
        let gas = match self.client.estimate_gas(request, at).await {
            Ok(gas) => gas,
            Err(error) => {
                return Err(match error.revert() {
                    Some(data) => SendError::Refused {
                        what: what.clone(),
                        error: name(data),
                    },
                    None => SendError::Chain {
                        what: what.clone(),
                        source: error,
                    },
                });
            }
        };
        let allowed = self.fees.max_gas;
        if gas > allowed {
            return Err(SendError::GasCap {
                what: what.clone(),
                gas,
                allowed,
            });
        }
        Ok(gas.saturating_add(gas / SPARE_GAS).min(allowed))
    }

    /// Hands the transaction over until it is in a block, or another one has taken its nonce.
    async fn until_mined(
        &self,
        what: &str,
        raw: &Bytes,
        hash: TxHash,
        nonce: u64,
    ) -> Result<u64, SendError> {
        let since = Instant::now();
        let mut taken = false;
        loop {
            // A refusal proves nothing: it may say that the transaction is there already.
            let sent = self.client.send_raw(self.chain_id, raw.clone()).await;
            let mut last = sent.err();
            match self.look(hash, nonce).await {
                Ok(Nonce::Ours(block, true)) => return Ok(block),
                Ok(Nonce::Ours(_, false)) => {
                    return Err(SendError::Failed {
                        what: what.to_owned(),
                        hash,
                    });
                }
                // One look is not enough: an endpoint may know a block's state before the block and its receipts.
                Ok(Nonce::Taken(block)) if taken => return Ok(block),
                Ok(Nonce::Taken(_)) => taken = true,
                Ok(Nonce::Free) => taken = false,
                Err(error) => last = Some(error),
            }
            if since.elapsed() > self.patience {
                return Err(SendError::NotMined {
                    what: what.to_owned(),
                    hash,
                    patience: self.patience,
                    last: last.map(|error| crate::error::chain(&error)),
                });
            }
            tokio::time::sleep(self.poll).await;
        }
    }

    /// What has become of our transaction's nonce.
    async fn look(&self, hash: TxHash, nonce: u64) -> Result<Nonce, ClientError> {
        if let Some(receipt) = self.client.receipt(hash).await? {
            let block = receipt.block_number.unwrap_or_default();
            return Ok(Nonce::Ours(block, receipt.status()));
        }
        let head = self.client.block(BlockNumberOrTag::Latest).await?;
        let next = self.client.nonce(self.key.address(), head.hash).await?;
        Ok(if next > nonce {
            Nonce::Taken(head.number)
        } else {
            Nonce::Free
        })
    }
}

/// What has become of a nonce.
enum Nonce {
    /// No transaction with it is mined.
    Free,
    /// Another transaction with it is mined, in this block or before.
    Taken(u64),
    /// Ours is mined, in this block, and went well or not.
    Ours(u64, bool),
}

/// What is paid per gas, in wei.
struct Fee {
    most: u128,
    tip: u128,
}

/// The name of a contract's error, or the data if it has none here.
fn name(data: &Bytes) -> String {
    let selector = data
        .get(..4)
        .and_then(|bytes| <[u8; 4]>::try_from(bytes).ok());
    let known = selector.and_then(|selector| {
        SettlementErrors::name_by_selector(selector)
            .or_else(|| StakeVaultErrors::name_by_selector(selector))
            .or_else(|| TimelockControllerErrors::name_by_selector(selector))
    });
    match known {
        Some(name) => name.to_owned(),
        None if data.is_empty() => {
            "no reason; a chain without the opcodes of the Cancun hard fork does this".to_owned()
        }
        None => data.to_string(),
    }
}
