//! A chain in memory that answers JSON-RPC as a node does: blocks, a pool, receipts, logs and reorganisations.
//!
//! Where nodes differ it does as anvil does: a transaction below the base fee is refused, and put out of the pool when the
//! base fee rises; one of the same nonce replaces another if it pays more. Whether a transaction is ready is found out when it
//! comes and when the one before it is mined, and a reorganisation changes nothing of that: with the next block what was ready is
//! tried, and what then has another nonce than the account is put out.

use std::collections::BTreeMap;

use alloy::{
    consensus::{Transaction as _, TxEnvelope},
    eips::eip2718::Decodable2718 as _,
    hex,
    primitives::{Address, B256, Bytes, LogData, U256, keccak256},
    sol_types::SolCall as _,
};
use gridstake_contracts::Settlement;
use serde_json::{Value, json};

use super::contract::{CODE, State, Terms};

/// The time of its first block, in Unix seconds: a Tuesday, later than anvil's clock will be for long. anvil begins then too,
/// so that weeks end at the same time on both.
pub const GENESIS: u64 = 4_000_000_000;
pub const GWEI: u128 = 1_000_000_000;
/// Seconds between blocks.
pub const PERIOD: u64 = 12;

/// An error of JSON-RPC: code, words and data.
pub type Refusal = (i64, String, Option<Bytes>);

#[derive(Clone, Debug)]
struct Pooled {
    hash: B256,
    from: Address,
    transaction: TxEnvelope,
    /// Whether nothing has to be mined before it but what is ready.
    ready: bool,
}

#[derive(Clone, Debug)]
struct Mined {
    pooled: Pooled,
    succeeded: bool,
    logs: Vec<LogData>,
}

#[derive(Clone, Debug)]
struct Block {
    number: u64,
    hash: B256,
    parent: B256,
    timestamp: u64,
    base_fee: u128,
    mined: Vec<Mined>,
    after: State,
}

#[derive(Debug)]
pub struct ModelChain {
    terms: Terms,
    blocks: Vec<Block>,
    pool: Vec<Pooled>,
    base_fee: u128,
    /// Seconds to pass before the next block, beside its own.
    passed: u64,
    /// So that no two branches have equal blocks.
    branch: u64,
    /// Whether it says of every account that it is there, has plenty and can be paid.
    flatters: bool,
    /// Stands for people's transactions, of which only the events are seen.
    person: TxEnvelope,
    /// What the next block says of one of them.
    said: Vec<LogData>,
}

fn quantity(value: impl Into<U256>) -> Value {
    json!(format!("{:#x}", value.into()))
}

fn number(value: &Value) -> Option<u64> {
    u64::from_str_radix(value.as_str()?.strip_prefix("0x")?, 16).ok()
}

fn missing(what: &str) -> Refusal {
    (-32001, format!("{what} not found"), None)
}

impl ModelChain {
    /// It begins with this state; `person` is a transaction that stands for those of people.
    pub fn new(terms: Terms, state: State, person: &[u8]) -> Self {
        let mut person = person;
        let mut chain = Self {
            terms,
            blocks: vec![],
            pool: vec![],
            base_fee: GWEI,
            passed: 0,
            branch: 0,
            flatters: false,
            person: TxEnvelope::decode_2718(&mut person).unwrap(),
            said: vec![],
        };
        chain.append(vec![], state, GENESIS);
        chain.mine(30);
        chain
    }

    fn head(&self) -> &Block {
        self.blocks.last().unwrap()
    }

    /// What the newest block leaves behind.
    pub fn state(&self) -> &State {
        &self.head().after
    }

    pub fn height(&self) -> u64 {
        self.head().number
    }

    /// All logs of a contract's event in the present chain.
    pub fn logs(&self, topic: B256) -> Vec<LogData> {
        let mined = self.blocks.iter().flat_map(|block| &block.mined);
        let logs = mined.flat_map(|mined| &mined.logs);
        logs.filter(|log| log.topics().first() == Some(&topic))
            .cloned()
            .collect()
    }

    fn append(&mut self, mined: Vec<Mined>, after: State, timestamp: u64) {
        let (number, parent) = match self.blocks.last() {
            Some(head) => (head.number + 1, head.hash),
            None => (0, B256::ZERO),
        };
        let mut content = parent.to_vec();
        content.extend(timestamp.to_be_bytes());
        content.extend(self.branch.to_be_bytes());
        for one in &mined {
            content.extend(one.pooled.hash);
        }
        self.blocks.push(Block {
            number,
            hash: keccak256(content),
            parent,
            timestamp,
            base_fee: self.base_fee,
            mined,
            after,
        });
    }

    pub fn mine(&mut self, blocks: u64) {
        for _ in 0..blocks {
            self.mine_with(|_| {});
        }
    }

    /// Mines a block in which a person's transaction comes first, which leaves an event.
    pub fn mine_event(&mut self, event: LogData, change: impl FnOnce(&mut State)) {
        self.said.push(event);
        self.mine_with(change);
    }

    /// Mines a block in which something is changed first, and of the pool what is ready.
    pub fn mine_with(&mut self, change: impl FnOnce(&mut State)) {
        let (ready, waiting) = std::mem::take(&mut self.pool)
            .into_iter()
            .partition(|one| one.ready);
        self.pool = waiting;
        let timestamp = self.head().timestamp + PERIOD + std::mem::take(&mut self.passed);
        for (from, nonce) in self.mine_these(change, ready, timestamp) {
            self.unlock(from, nonce);
        }
    }

    /// What waits for the transaction of this nonce alone is ready, and what waits for that.
    fn unlock(&mut self, from: Address, nonce: u64) {
        let mut next = nonce + 1;
        while let Some(one) = self
            .pool
            .iter_mut()
            .find(|one| one.from == from && one.transaction.nonce() == next && !one.ready)
        {
            one.ready = true;
            next += 1;
        }
    }

    /// Mines a block of what can be mined of `ready`, and returns the accounts and nonces of that. The rest is lost.
    fn mine_these(
        &mut self,
        change: impl FnOnce(&mut State),
        mut ready: Vec<Pooled>,
        timestamp: u64,
    ) -> Vec<(Address, u64)> {
        let mut state = self.state().clone();
        change(&mut state);
        ready.retain(|one| one.transaction.max_fee_per_gas() >= self.base_fee);
        ready.sort_by_key(|one| one.transaction.nonce());
        let mut mined = Vec::new();
        let said = std::mem::take(&mut self.said);
        if !said.is_empty() {
            let pooled = Pooled {
                hash: keccak256(self.head().hash),
                from: Address::ZERO,
                transaction: self.person.clone(),
                ready: true,
            };
            mined.push(Mined {
                pooled,
                succeeded: true,
                logs: said,
            });
        }
        for pooled in ready {
            let transaction = &pooled.transaction;
            if state.nonces.get(&pooled.from).copied().unwrap_or(0) != transaction.nonce() {
                continue;
            }
            let wei = state.wei.entry(pooled.from).or_default();
            let most = u128::from(transaction.gas_limit()) * transaction.max_fee_per_gas();
            if *wei < most {
                continue;
            }
            *wei -= u128::from(transaction.gas_limit()) * self.base_fee;
            *state.nonces.entry(pooled.from).or_default() += 1;
            let (succeeded, logs) = self.execute(&mut state, transaction, timestamp);
            mined.push(Mined {
                pooled,
                succeeded,
                logs,
            });
        }
        let done = mined
            .iter()
            .map(|one: &Mined| (one.pooled.from, one.pooled.transaction.nonce()));
        let done = done.collect();
        self.append(mined, state, timestamp);
        done
    }

    fn execute(
        &self,
        state: &mut State,
        transaction: &TxEnvelope,
        now: u64,
    ) -> (bool, Vec<LogData>) {
        let input = transaction.input();
        let settles = transaction.to() == Some(self.terms.settlement)
            && input.starts_with(&Settlement::settleCall::SELECTOR);
        if !settles {
            return (true, vec![]);
        }
        let mut after = state.clone();
        match after.settle(&self.terms, input, now) {
            Ok(logs) => {
                *state = after;
                (true, logs)
            }
            Err(_) => (false, vec![]),
        }
    }

    /// Replaces the newest blocks by as many; the first new one holds their transactions of the account `again`.
    pub fn reorganise(&mut self, depth: u64, again: Option<Address>) {
        self.branch += 1;
        let keep = self.blocks.len() - usize::try_from(depth).unwrap();
        let gone = self.blocks.split_off(keep);
        // Coins are given and taken from outside of the chain.
        let wei = gone.last().map(|block| block.after.wei.clone());
        self.change(|state| state.wei = wei.unwrap_or_default());
        let transactions = gone
            .into_iter()
            .flat_map(|block| block.mined)
            .map(|mined| mined.pooled)
            .filter(|pooled| Some(pooled.from) == again);
        let mut first: Vec<Pooled> = transactions.collect();
        // As anvil: the pool is not told, no time passes, and the base fee falls from block to block, since they are as good as
        // empty, until the next one has what was set.
        let base_fee = self.base_fee;
        for _ in 0..depth {
            let timestamp = self.head().timestamp;
            self.mine_these(|_| {}, std::mem::take(&mut first), timestamp);
            self.base_fee -= self.base_fee / 8;
        }
        self.base_fee = base_fee;
    }

    pub fn forget(&mut self) {
        self.pool.clear();
    }

    pub fn set_base_fee(&mut self, gwei: u64) {
        self.base_fee = u128::from(gwei) * GWEI;
    }

    pub fn flatter(&mut self, flatters: bool) {
        self.flatters = flatters;
    }

    pub fn pass(&mut self, seconds: u64) {
        self.passed += seconds;
    }

    /// Gives or takes coins from outside of the chain.
    pub fn set_wei(&mut self, account: Address, wei: u128) {
        self.change(|state| {
            state.wei.insert(account, wei);
        });
    }

    fn change(&mut self, change: impl FnOnce(&mut State)) {
        change(&mut self.blocks.last_mut().unwrap().after);
    }

    fn by_hash(&self, hash: B256) -> Option<&Block> {
        self.blocks.iter().rev().find(|block| block.hash == hash)
    }

    /// The block of a number or tag, for a node that is `behind` some blocks.
    fn by_tag(&self, tag: &Value, behind: u64) -> Option<&Block> {
        let newest = self.height().saturating_sub(behind);
        let height = match tag.as_str() {
            Some("latest" | "pending") => newest,
            Some("safe") => newest.saturating_sub(1),
            Some("finalized") => newest.saturating_sub(2),
            Some("earliest") => 0,
            _ => number(tag)?,
        };
        self.blocks
            .get(usize::try_from(height).ok()?)
            .filter(|_| height <= newest)
    }

    /// The block that a read goes by: a hash, a number or a tag.
    fn at(&self, place: &Value, behind: u64) -> Result<&Block, Refusal> {
        let named = place.get("blockHash").unwrap_or(place);
        let hash = named.as_str().and_then(|text| text.parse().ok());
        let block = match hash {
            Some(hash) => self
                .by_hash(hash)
                .filter(|block| block.number <= self.height().saturating_sub(behind)),
            None if place.is_null() => self.by_tag(&json!("latest"), behind),
            None => self.by_tag(place, behind),
        };
        block.ok_or_else(|| missing("header"))
    }

    /// Answers as a node that is `behind` some blocks.
    pub fn rpc(&mut self, method: &str, params: &Value, behind: u64) -> Result<Value, Refusal> {
        let account = |value: &Value| -> Address { value.as_str().unwrap().parse().unwrap() };
        Ok(match method {
            "eth_chainId" => quantity(U256::from(self.terms.chain_id)),
            "eth_getBlockByNumber" => self.by_tag(&params[0], behind).map_or(Value::Null, shown),
            "eth_getBlockByHash" => {
                let hash = params[0].as_str().unwrap().parse().unwrap();
                self.by_hash(hash).map_or(Value::Null, shown)
            }
            "eth_maxPriorityFeePerGas" => quantity(U256::from(GWEI)),
            "eth_getCode" => {
                self.at(&params[1], behind)?;
                json!(hex::encode_prefixed(CODE))
            }
            "eth_call" | "eth_estimateGas" => {
                let block = self.at(&params[1], behind)?;
                let (to, input) = called(&params[0]);
                let returned = block
                    .after
                    .call(&self.terms, to, &input, block.timestamp, self.flatters)
                    .map_err(|data| (3, "execution reverted".to_owned(), Some(data)))?;
                if method == "eth_call" {
                    json!(returned)
                } else {
                    quantity(U256::from(21_000 + 40 * input.len()))
                }
            }
            "eth_getTransactionCount" => {
                let block = self.at(&params[1], behind)?;
                let nonce = block
                    .after
                    .nonces
                    .get(&account(&params[0]))
                    .copied()
                    .unwrap_or(0);
                quantity(U256::from(nonce))
            }
            "eth_getBalance" => {
                let block = self.at(&params[1], behind)?;
                let wei = block
                    .after
                    .wei
                    .get(&account(&params[0]))
                    .copied()
                    .unwrap_or(0);
                quantity(U256::from(wei))
            }
            "eth_getTransactionReceipt" => {
                self.receipt(params[0].as_str().unwrap().parse().unwrap())
            }
            "eth_getTransactionByHash" => {
                self.transaction(params[0].as_str().unwrap().parse().unwrap())
            }
            "eth_getLogs" => self.find_logs(&params[0], behind)?,
            "eth_sendRawTransaction" => {
                let raw = hex::decode(params[0].as_str().unwrap()).unwrap();
                json!(self.take(&raw)?)
            }
            _ => return Err((-32601, format!("the model does not know {method}"), None)),
        })
    }

    /// Takes a transaction into the pool.
    pub fn take(&mut self, raw: &[u8]) -> Result<B256, Refusal> {
        let refuse = |words: &str| (-32003, words.to_owned(), None);
        let transaction =
            TxEnvelope::decode_2718(&mut &*raw).map_err(|_| refuse("not a transaction"))?;
        let from = transaction
            .signature()
            .recover_address_from_prehash(&transaction.signature_hash())
            .map_err(|_| refuse("not signed"))?;
        let hash = *transaction.tx_hash();
        let state = self.state();
        let nonce = state.nonces.get(&from).copied().unwrap_or(0);
        if transaction.nonce() < nonce {
            return Err(refuse("nonce too low"));
        }
        if transaction.max_fee_per_gas() < self.base_fee {
            return Err(refuse("max fee per gas less than block base fee"));
        }
        let most = u128::from(transaction.gas_limit()) * transaction.max_fee_per_gas();
        if state.wei.get(&from).copied().unwrap_or(0) < most {
            return Err(refuse("insufficient funds for gas * price + value"));
        }
        let rival = self
            .pool
            .iter()
            .position(|one| one.from == from && one.transaction.nonce() == transaction.nonce());
        if let Some(rival) = rival {
            let present = &self.pool[rival];
            if present.hash == hash {
                return Err(refuse("transaction already imported"));
            }
            if present.transaction.max_fee_per_gas() >= transaction.max_fee_per_gas() {
                return Err(refuse("replacement transaction underpriced"));
            }
            self.pool.remove(rival);
        }
        let before = |one: &Pooled| {
            one.from == from && one.ready && one.transaction.nonce() + 1 == transaction.nonce()
        };
        let ready = transaction.nonce() == nonce || self.pool.iter().any(before);
        let sent = transaction.nonce();
        self.pool.push(Pooled {
            hash,
            from,
            transaction,
            ready,
        });
        if ready {
            self.unlock(from, sent);
        }
        Ok(hash)
    }

    fn find(&self, hash: B256) -> Option<(&Block, usize)> {
        self.blocks.iter().rev().find_map(|block| {
            let index = block
                .mined
                .iter()
                .position(|mined| mined.pooled.hash == hash)?;
            Some((block, index))
        })
    }

    fn log(&self, block: &Block, index: usize, place: usize, log: &LogData) -> Value {
        json!({
            "address": self.terms.settlement, "topics": log.topics(), "data": log.data,
            "blockNumber": quantity(U256::from(block.number)), "blockHash": block.hash,
            "transactionHash": block.mined[index].pooled.hash, "transactionIndex": quantity(U256::from(index)),
            "logIndex": quantity(U256::from(place)), "removed": false,
        })
    }

    fn receipt(&self, hash: B256) -> Value {
        let Some((block, index)) = self.find(hash) else {
            return Value::Null;
        };
        let mined = &block.mined[index];
        let logs: Vec<Value> = (0..)
            .zip(&mined.logs)
            .map(|(place, log)| self.log(block, index, place, log))
            .collect();
        let gas = quantity(U256::from(mined.pooled.transaction.gas_limit() / 2));
        json!({
            "type": "0x2", "status": if mined.succeeded { "0x1" } else { "0x0" }, "transactionHash": hash,
            "transactionIndex": quantity(U256::from(index)), "blockHash": block.hash,
            "blockNumber": quantity(U256::from(block.number)), "from": mined.pooled.from,
            "to": mined.pooled.transaction.to(), "gasUsed": gas, "cumulativeGasUsed": gas,
            "effectiveGasPrice": quantity(U256::from(block.base_fee)), "contractAddress": null, "logs": logs,
            "logsBloom": format!("0x{}", "00".repeat(256)),
        })
    }

    fn transaction(&self, hash: B256) -> Value {
        let Some((block, index)) = self.find(hash) else {
            return Value::Null;
        };
        let pooled = &block.mined[index].pooled;
        let mut value = serde_json::to_value(&pooled.transaction).unwrap();
        value["blockHash"] = json!(block.hash);
        value["blockNumber"] = quantity(U256::from(block.number));
        value["transactionIndex"] = quantity(U256::from(index));
        value["from"] = json!(pooled.from);
        value
    }

    fn find_logs(&self, filter: &Value, behind: u64) -> Result<Value, Refusal> {
        let blocks: Vec<&Block> = match filter.get("blockHash").and_then(Value::as_str) {
            Some(hash) => vec![
                self.by_hash(hash.parse().unwrap())
                    .ok_or_else(|| missing("block"))?,
            ],
            None => {
                let from = self.at(&filter["fromBlock"], behind)?.number;
                let to = self.at(&filter["toBlock"], behind)?.number;
                self.blocks
                    .iter()
                    .filter(|block| (from..=to).contains(&block.number))
                    .collect()
            }
        };
        let topics: BTreeMap<usize, &Value> = filter["topics"]
            .as_array()
            .map(|topics| {
                topics
                    .iter()
                    .enumerate()
                    .filter(|(_, topic)| !topic.is_null())
                    .collect()
            })
            .unwrap_or_default();
        let wanted = |log: &LogData| {
            topics.iter().all(|(place, topic)| {
                let found = log.topics().get(*place).map(|topic| json!(topic));
                found.is_some_and(|found| match topic.as_array() {
                    Some(any) => any.contains(&found),
                    None => found == **topic,
                })
            })
        };
        let mut logs = Vec::new();
        for block in blocks {
            for (index, mined) in block.mined.iter().enumerate() {
                for (place, log) in mined.logs.iter().enumerate().filter(|(_, log)| wanted(log)) {
                    logs.push(self.log(block, index, place, log));
                }
            }
        }
        Ok(json!(logs))
    }
}

/// A block as a node shows it.
fn shown(block: &Block) -> Value {
    let zero = B256::ZERO;
    json!({
        "number": quantity(U256::from(block.number)),
        "hash": block.hash,
        "parentHash": block.parent,
        "timestamp": quantity(U256::from(block.timestamp)),
        "baseFeePerGas": quantity(U256::from(block.base_fee)),
        "sha3Uncles": zero, "stateRoot": zero, "transactionsRoot": zero, "receiptsRoot": zero, "mixHash": zero,
        "miner": Address::ZERO, "difficulty": "0x0", "gasLimit": "0x1c9c380", "gasUsed": "0x0", "extraData": "0x",
        "nonce": "0x0000000000000000", "size": "0x0", "uncles": [], "transactions": [],
        "logsBloom": format!("0x{}", "00".repeat(256)),
    })
}

/// The contract that a call is to, and its input.
fn called(request: &Value) -> (Address, Bytes) {
    let input = request.get("input").or_else(|| request.get("data"));
    let input = input.and_then(Value::as_str).unwrap_or("0x");
    (
        request["to"].as_str().unwrap().parse().unwrap(),
        hex::decode(input).unwrap().into(),
    )
}
