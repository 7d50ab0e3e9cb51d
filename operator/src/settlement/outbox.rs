//! The gas account: stores, then sends; one nonce at a time, whoever sends.
//!
//! Every call that is to reach the chain goes through [`Outbox::pursue`], again on each look until the chain shows its
//! effect. Only memory is kept here, and only to save time: which nonces are held for which call, and since which block
//! an attempt waits. A replica that starts anew learns both from what was stored.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use alloy::{network::TransactionBuilder as _, primitives::Bytes, rpc::types::TransactionRequest};
use gridstake_crds::transaction::TransactionAttempt;
use k8s_openapi::jiff::Timestamp;

use super::{
    send::{self, Obstacle, SendFacts, Step, Stored},
    signer::{Key, SignError},
    transaction::{self, Call, RebuildError},
};
use crate::chain::{
    Block, ChainConfig,
    client::{ChainClient, ClientError},
    rpc_error::RpcFailure,
};

/// What goes through the gas account.
#[derive(Debug)]
pub struct Outbox {
    key: Key,
    memory: Mutex<Memory>,
    /// From reading the nonce until the attempt is stored, one at a time.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Memory {
    /// The nonces held for each call that is under way.
    held: BTreeMap<String, BTreeSet<u64>>,
    /// Since which block each attempt waits, by its hash.
    since: HashMap<String, u64>,
    /// The hashes of attempts that pay too little to replace what an endpoint has.
    underpriced: HashSet<String>,
}

/// A call that is to have its effect on the chain.
pub struct Errand<'a> {
    /// What names it among all that are under way, such as `lane-7-00000000000000000042`.
    pub name: &'a str,
    /// The call as it would be signed now.
    pub call: &'a Call,
    /// What has been stored for it, oldest first.
    pub attempts: &'a [TransactionAttempt],
    /// The call that a stored attempt carries; `None` if it is not known any more.
    pub call_of: &'a (dyn Fn(&TransactionAttempt) -> Option<Call> + Sync),
    /// The block to go by.
    pub at: Block,
}

/// How far an errand has come with one look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// A stored transaction was handed to an endpoint; what the endpoint said proves nothing.
    Sent {
        /// Its hash.
        hash: String,
        /// Whether it was signed just now.
        new: bool,
        /// What keeps a better one from being sent.
        obstacle: Option<Obstacle>,
        /// Transactions of this account with nonces of ours were mined that are not ours.
        nonce_taken: bool,
    },
    /// Nothing can be sent.
    Waiting(Obstacle),
    /// The contract would refuse: what it would return.
    Refused(Bytes),
}

/// Why an errand was not pursued.
#[derive(Debug, thiserror::Error)]
pub enum PursueError<E: std::error::Error + 'static> {
    /// The chain cannot be asked.
    #[error("ask the chain")]
    Chain(#[from] ClientError),
    /// The key does not sign.
    #[error("sign a transaction")]
    Sign(#[from] SignError),
    /// A stored attempt is broken.
    #[error("rebuild a transaction")]
    Rebuild(#[from] RebuildError),
    /// The attempt was not stored, so it was not sent.
    #[error("store a transaction")]
    Store(#[source] E),
}

impl Outbox {
    /// The outbox of the account `key`.
    #[must_use]
    pub fn new(key: Key) -> Self {
        Self {
            key,
            memory: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        }
    }

    /// The account that pays for gas.
    #[must_use]
    pub fn address(&self) -> alloy::primitives::Address {
        self.key.address()
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The errand `name` is done: its nonces are free.
    pub fn done(&self, name: &str) {
        self.memory().held.remove(name);
    }

    /// Goes one step on with an errand. `store` must have stored the attempt when it returns `Ok`; only then it is sent.
    pub async fn pursue<E, Stored>(
        &self,
        client: &ChainClient,
        config: &ChainConfig,
        errand: &Errand<'_>,
        now: Timestamp,
        store: impl FnOnce(TransactionAttempt) -> Stored + Send,
    ) -> Result<Progress, PursueError<E>>
    where
        E: std::error::Error + 'static,
        Stored: Future<Output = Result<(), E>> + Send,
    {
        let at = errand.at;
        let request = TransactionRequest::default()
            .with_from(self.key.address())
            .with_to(errand.call.to)
            .with_input(errand.call.input.clone());
        match client
            .simulate("simulate a transaction", request.clone(), at.hash)
            .await
        {
            Ok(_) => {}
            Err(error) => match error.revert() {
                Some(data) => return Ok(Progress::Refused(data.clone())),
                None => return Err(error.into()),
            },
        }

        let turn = self.turn.lock().await;
        let mined = client.nonce(self.key.address(), at.hash).await?;
        let stored = self.remembered(errand, at.number)?;
        let free_nonce = self.free_nonce(errand, mined);
        let used = errand.attempts.iter().all(|attempt| attempt.nonce < mined);
        let gone = if used && !errand.attempts.is_empty() {
            self.gone(client, errand).await?
        } else {
            Gone::default()
        };

        let due = send::live(&stored, free_nonce).is_none_or(|index| {
            send::is_due(
                &stored[index],
                errand.call.valid_until,
                at.timestamp,
                &config.fees,
            )
        });
        let mut facts = SendFacts {
            stored,
            free_nonce,
            now: at.timestamp,
            valid_until: errand.call.valid_until,
            gas: 0,
            ran_out_at: gone.ran_out_at,
            base_fee: 0,
            tip: 0,
            balance: 0,
        };
        if due {
            facts.gas = match client.estimate_gas(request, at.hash).await {
                Ok(gas) => gas,
                Err(error) => match error.revert() {
                    Some(data) => return Ok(Progress::Refused(data.clone())),
                    None => return Err(error.into()),
                },
            };
            facts.base_fee = client.base_fee().await?;
            facts.tip = client.suggested_tip().await?;
            facts.balance = client.balance(self.key.address(), at.hash).await?;
        }
        let sent = |hash: &str, new, obstacle| Progress::Sent {
            hash: hash.to_owned(),
            new,
            obstacle,
            nonce_taken: gone.taken,
        };
        match send::next(&facts, &config.fees) {
            Step::Wait(obstacle) => Ok(Progress::Waiting(obstacle)),
            Step::Broadcast { index, obstacle } => {
                drop(turn);
                let attempt = &errand.attempts[index];
                if let Some(call) = (errand.call_of)(attempt) {
                    let raw = transaction::raw(config.chain_id, &call, attempt)?;
                    self.hand_over(client, config.chain_id, &attempt.hash, raw)
                        .await;
                }
                Ok(sent(&attempt.hash, false, obstacle))
            }
            Step::Sign(terms) => {
                let attempt =
                    transaction::sign(config.chain_id, errand.call, terms, &self.key, now)?;
                let raw = transaction::raw(config.chain_id, errand.call, &attempt)?;
                let hash = attempt.hash.clone();
                // From here on this replica takes the nonce for used, whatever becomes of the write.
                self.hold(errand.name, terms.nonce, &hash, at.number);
                store(attempt).await.map_err(PursueError::Store)?;
                drop(turn);
                self.hand_over(client, config.chain_id, &hash, raw).await;
                Ok(sent(&hash, true, None))
            }
        }
    }

    fn hold(&self, name: &str, nonce: u64, hash: &str, block: u64) {
        let mut memory = self.memory();
        memory
            .held
            .entry(name.to_owned())
            .or_default()
            .insert(nonce);
        memory.since.insert(hash.to_owned(), block);
    }

    /// What is stored for the errand, with what is remembered of it.
    fn remembered(&self, errand: &Errand<'_>, block: u64) -> Result<Vec<Stored>, RebuildError> {
        let mut memory = self.memory();
        errand
            .attempts
            .iter()
            .map(|attempt| {
                let since = *memory.since.entry(attempt.hash.clone()).or_insert(block);
                Ok(Stored {
                    terms: transaction::terms(attempt)?,
                    valid_until: attempt.valid_until,
                    waited: block.saturating_sub(since),
                    underpriced: memory.underpriced.contains(&attempt.hash),
                })
            })
            .collect()
    }

    /// The lowest nonce from `mined` on that no other errand holds.
    fn free_nonce(&self, errand: &Errand<'_>, mined: u64) -> u64 {
        let mut memory = self.memory();
        for nonces in memory.held.values_mut() {
            *nonces = nonces.split_off(&mined);
        }
        memory.held.retain(|_, nonces| !nonces.is_empty());
        let own = errand.attempts.iter().map(|attempt| attempt.nonce);
        let own: BTreeSet<u64> = own.filter(|nonce| *nonce >= mined).collect();
        memory.held.insert(errand.name.to_owned(), own);
        let others: BTreeSet<u64> = memory
            .held
            .iter()
            .filter(|(name, _)| *name != errand.name)
            .flat_map(|(_, nonces)| nonces.iter().copied())
            .collect();
        (mined..=u64::MAX)
            .find(|nonce| !others.contains(nonce))
            .unwrap_or(mined)
    }

    /// What became of attempts whose nonces are all used although the call has had no effect.
    async fn gone(&self, client: &ChainClient, errand: &Errand<'_>) -> Result<Gone, ClientError> {
        let mut gone = Gone {
            taken: true,
            ran_out_at: 0,
        };
        for attempt in errand.attempts.iter().rev() {
            let Ok(hash) = attempt.hash.parse() else {
                continue;
            };
            if let Some(receipt) = client.receipt(hash).await? {
                gone.taken = false;
                if !receipt.status() && receipt.gas_used >= attempt.gas_limit {
                    gone.ran_out_at = gone.ran_out_at.max(attempt.gas_limit);
                }
            }
        }
        Ok(gone)
    }

    /// Hands a stored transaction to the endpoints. No answer counts: only the chain's head does.
    async fn hand_over(&self, client: &ChainClient, chain_id: u64, hash: &str, raw: Bytes) {
        let Err(error) = client.send_raw(chain_id, raw).await else {
            return;
        };
        let words = match &error.failure {
            RpcFailure::Refused { message, .. } => message.to_lowercase(),
            _ => String::new(),
        };
        if words.contains("underpriced") {
            self.memory().underpriced.insert(hash.to_owned());
        }
        let known = ["already known", "already imported", "nonce too low"];
        if !known.iter().any(|known| words.contains(known)) {
            tracing::warn!(
                transaction = hash,
                error = crate::error::chain(&error),
                "an endpoint did not take a transaction; it is sent again"
            );
        }
    }
}

/// What became of attempts whose nonces are used.
#[derive(Clone, Copy, Debug, Default)]
struct Gone {
    /// None of them is in a block: something else has used the nonces.
    taken: bool,
    /// The highest gas limit at which one ran out of gas.
    ran_out_at: u64,
}
