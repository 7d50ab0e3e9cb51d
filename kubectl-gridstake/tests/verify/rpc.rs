//! As much of a JSON-RPC endpoint as verification asks.

use alloy::{
    hex,
    primitives::{Address, B256, U256},
    sol_types::{SolCall as _, SolEvent, SolValue as _},
};
use axum::{Router, extract::State, response::IntoResponse as _};
use gridstake_contracts::{Settlement, StakeVault};
use gridstake_ledger::{batch, statement::Statement};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::lane::{CHAIN, LANE, Lane, SETTLEMENT, SLASHED, VAULT};

/// The block in which batch 1 was settled; the next one settled batch 2.
const FIRST_BLOCK: u64 = 100;

pub struct Rpc {
    pub url: String,
    // It stops when this is dropped.
    _runtime: tokio::runtime::Runtime,
}

impl Rpc {
    /// An endpoint of the chain that settled `lane`.
    pub fn of(lane: &Lane) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let routes = Router::new().fallback(answer).with_state(lane.clone());
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        runtime.spawn(async move { axum::serve(listener, routes).await.unwrap() });
        Self {
            url,
            _runtime: runtime,
        }
    }
}

async fn answer(State(lane): State<Lane>, body: String) -> axum::response::Response {
    let request: Value = serde_json::from_str(&body).unwrap();
    let result = result(&lane, &request);
    let answer = json!({"jsonrpc": "2.0", "id": request["id"], "result": result});
    ([("content-type", "application/json")], answer.to_string()).into_response()
}

fn quantity(number: u64) -> Value {
    json!(format!("{number:#x}"))
}

/// The transaction of a batch.
fn transaction(sequence: u64) -> B256 {
    B256::from(U256::from(sequence))
}

fn result(lane: &Lane, request: &Value) -> Value {
    let params = &request["params"];
    match request["method"].as_str().unwrap() {
        "eth_chainId" => quantity(CHAIN),
        "eth_getBlockByNumber" => block(lane),
        "eth_call" => {
            let input = params[0]["input"].as_str().unwrap();
            if params[0]["to"] == json!(VAULT) {
                return slash(input);
            }
            if input == hex::encode_prefixed(Settlement::vaultCall::SELECTOR) {
                return json!(hex::encode_prefixed(VAULT.abi_encode()));
            }
            let newest = lane.batches.last().unwrap();
            let head = (lane.head_sequence, newest.head.chain_hash());
            json!(hex::encode_prefixed(head.abi_encode()))
        }
        "eth_getLogs" => {
            let bound = |name: &str| {
                let text = params[0][name].as_str().unwrap();
                u64::from_str_radix(&text[2..], 16).unwrap()
            };
            let (from, to) = (bound("fromBlock"), bound("toBlock"));
            let logs = if params[0]["address"] == json!(VAULT) {
                slashes(lane)
            } else {
                let batches = 0..lane.batches.len();
                batches.flat_map(|index| logs(lane, index)).collect()
            };
            let within = |log: &Value| {
                let block = log["blockNumber"].as_str().unwrap();
                (from..=to).contains(&u64::from_str_radix(&block[2..], 16).unwrap())
            };
            logs.into_iter().filter(within).collect()
        }
        "eth_getTransactionByHash" => {
            let hash = params[0].as_str().unwrap();
            let batch = lane
                .batches
                .iter()
                .find(|batch| transaction(batch.head.sequence).to_string() == hash);
            batch.map_or(Value::Null, |batch| {
                let head = &batch.head;
                let call = Settlement::settleCall {
                    lane: head.lane,
                    seq: head.sequence,
                    prev: head.previous,
                    usageRoot: head.usage_root,
                    validUntil: 0,
                    r: B256::ZERO,
                    vs: B256::ZERO,
                    data: head.data.clone().into(),
                };
                json!({"hash": hash, "type": "0x7f", "input": hex::encode_prefixed(call.abi_encode())})
            })
        }
        other => panic!("{other} is not answered"),
    }
}

/// A slash of the lane's and one of another lane's, each executed in the block of batch 1.
fn slashes(lane: &Lane) -> Vec<Value> {
    let executed = |id| StakeVault::SlashExecuted {
        id: U256::from(id),
        provider: 1,
        fromStake: SLASHED - 7,
        fromUnbonding: 7,
    };
    [1, 2].map(|id| log(lane, 0, VAULT, &executed(id))).into()
}

/// What the vault keeps of a slash: its lane and its provider, and ten more words. Slash 1 is the lane's, slash 2 another's.
fn slash(input: &str) -> Value {
    let call = StakeVault::slashOfCall::abi_decode(&hex::decode(input).unwrap()).unwrap();
    let mut words = [U256::ZERO; 12];
    words[0] = U256::from(LANE) + call.id - U256::from(1);
    words[1] = U256::from(1);
    json!(hex::encode_prefixed(words.abi_encode()))
}

/// The events of a batch.
fn logs(lane: &Lane, index: usize) -> Vec<Value> {
    let head = &lane.batches[index].head;
    let settled = batch::decode(&head.data).unwrap();
    let amounts = settled.amounts().unwrap();
    let total: u64 = amounts.iter().sum();
    let event = Settlement::BatchSettled {
        lane: head.lane,
        seq: head.sequence,
        chainHash: head.chain_hash(),
        usageRoot: head.usage_root,
        summary: U256::from(total) << 64 | U256::from(settled.entries.len()) << 32,
        amounts: amounts
            .iter()
            .flat_map(|amount| amount.to_be_bytes())
            .collect::<Vec<u8>>()
            .into(),
    };
    let mut logs = vec![log(lane, index, SETTLEMENT, &event)];
    let otherwise = lane.said_otherwise.as_ref().filter(|_| index == 1);
    let stated: &[Statement] = otherwise.unwrap_or(&settled.statements);
    for statement in stated {
        let event = Settlement::Stated {
            lane: head.lane,
            kind: statement.kind,
            subject: statement.subject,
            seq: head.sequence,
            number: statement.number,
            content: statement.content,
        };
        logs.push(log(lane, index, SETTLEMENT, &event));
    }
    logs
}

/// An event in the block of a batch.
fn log(lane: &Lane, index: usize, address: Address, event: &impl SolEvent) -> Value {
    let data = event.encode_log_data();
    json!({
        "address": address, "topics": data.topics(), "data": data.data,
        "blockNumber": quantity(FIRST_BLOCK + index as u64), "blockHash": B256::ZERO,
        "blockTimestamp": quantity(lane.times[index]),
        "transactionHash": transaction(index as u64 + 1), "transactionIndex": "0x0", "logIndex": "0x0", "removed": false,
    })
}

fn block(lane: &Lane) -> Value {
    json!({
        "hash": B256::ZERO, "parentHash": B256::ZERO, "sha3Uncles": B256::ZERO, "miner": SETTLEMENT,
        "stateRoot": B256::ZERO, "transactionsRoot": B256::ZERO, "receiptsRoot": B256::ZERO,
        "logsBloom": hex::encode_prefixed([0; 256]), "difficulty": "0x0", "number": quantity(FIRST_BLOCK + 10),
        "gasLimit": "0x1", "gasUsed": "0x0", "timestamp": quantity(lane.now), "extraData": "0x", "mixHash": B256::ZERO,
        "nonce": "0x0000000000000000", "baseFeePerGas": "0x1", "size": "0x1", "uncles": [], "transactions": [],
    })
}
