//! A chain of one's own: an anvil process, reached over HTTP.

use std::{
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{SystemTime, UNIX_EPOCH},
};

use alloy::{
    hex,
    primitives::{Address, B256, Bytes, U256},
    sol_types::SolCall,
};
use gridstake_ledger::week::Week;
use reqwest::Url;
use serde_json::{Value, json};

/// anvil's well-known accounts, whose transactions it signs itself.
pub const ADMIN: &str = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266";
/// The first one's private key.
pub const ADMIN_KEY: &str = "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";
pub const STAKER: &str = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8";
pub const PROVIDER_OPERATOR: &str = "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC";
pub const PAYER: &str = "0x90F79bf6EB2c4f870365E785982E1f101E93b906";

pub struct Anvil {
    process: Child,
    pub url: Url,
    http: reqwest::Client,
}

impl Drop for Anvil {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// `GRIDSTAKE_ANVIL`, or what contracts/setup.sh installed.
fn program() -> PathBuf {
    if let Some(path) = std::env::var_os("GRIDSTAKE_ANVIL") {
        return path.into();
    }
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let installed = [
        ".build/bin/anvil",
        "contracts/node_modules/@foundry-rs/anvil-linux-amd64/bin/anvil",
    ]
    .map(|path| PathBuf::from(root).join(path));
    installed
        .into_iter()
        .find(|path| path.exists())
        .expect("anvil is needed: run contracts/setup.sh, or set GRIDSTAKE_ANVIL to the program")
}

/// The begin of this week, in Unix seconds.
fn monday() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Week::of(now.as_secs()).from()
}

impl Anvil {
    /// Starts a chain that mines each transaction at once. It is Monday there, whatever day it is, so that no test sees a week
    /// end that does not let one pass.
    pub fn start(chain_id: u64) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut process = Command::new(program())
            .args(["--port", "0", "--slots-in-an-epoch", "1", "--chain-id"])
            .arg(chain_id.to_string())
            .args(["--timestamp", &monday().to_string()])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let address = lines
            .find_map(|line| Some(line.unwrap().strip_prefix("Listening on ")?.to_owned()))
            .unwrap();
        // It stops when nobody reads what it says.
        std::thread::spawn(move || lines.for_each(drop));
        Self {
            process,
            url: format!("http://{address}").parse().unwrap(),
            http: reqwest::Client::builder()
                .tls_certs_only([])
                .no_proxy()
                .build()
                .unwrap(),
        }
    }

    pub async fn rpc(&self, method: &str, params: Value) -> Value {
        let shown = params.to_string();
        match self.ask(method, params).await {
            Ok(result) => result,
            Err(error) => panic!("{method} {shown}: {error}"),
        }
    }

    /// The result, or the error that it answers with.
    pub async fn ask(&self, method: &str, params: Value) -> Result<Value, Value> {
        let request = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        let answer = self
            .http
            .post(self.url.clone())
            .header("content-type", "application/json")
            .body(request.to_string())
            .send()
            .await
            .unwrap()
            .bytes()
            .await
            .unwrap();
        let mut answer: Value = serde_json::from_slice(&answer).unwrap();
        match answer.get_mut("error") {
            Some(error) => Err(error.take()),
            None => Ok(answer["result"].take()),
        }
    }

    /// From now on blocks are mined only when the test says so.
    pub async fn hold(&self) {
        self.rpc("evm_setAutomine", json!([false])).await;
    }

    /// From now on each transaction is mined at once, and those that wait are mined now.
    pub async fn release(&self) {
        self.rpc("evm_setAutomine", json!([true])).await;
        self.mine(1).await;
    }

    /// Waits until a transaction waits to be mined.
    pub async fn until_pending(&self) {
        loop {
            let pool = self.rpc("txpool_status", json!([])).await;
            if pool["pending"] != "0x0" {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }

    pub async fn mine(&self, blocks: u64) {
        self.rpc("anvil_mine", json!([format!("{blocks:#x}")]))
            .await;
    }

    pub async fn height(&self) -> u64 {
        let number = self.rpc("eth_blockNumber", json!([])).await;
        u64::from_str_radix(&number.as_str().unwrap()[2..], 16).unwrap()
    }

    /// Replaces the newest blocks by empty ones.
    pub async fn reorg(&self, depth: u64) {
        self.rpc("anvil_reorg", json!([depth, []])).await;
    }

    /// Replaces the newest blocks; the new ones hold these transactions, each in the block of its number, counted from 0.
    pub async fn reorg_with(&self, depth: u64, transactions: &[(Value, u64)]) {
        self.rpc("anvil_reorg", json!([depth, transactions])).await;
    }

    /// The transactions of the newest blocks as they were sent, oldest first, each with the number of its block, counted
    /// from 0.
    pub async fn newest_transactions(&self, blocks: u64) -> Vec<(Value, u64)> {
        let first = self.height().await + 1 - blocks;
        let mut found = Vec::new();
        for block in 0..blocks {
            let tag = format!("{:#x}", first + block);
            let content = self.rpc("eth_getBlockByNumber", json!([tag, false])).await;
            for hash in content["transactions"].as_array().unwrap() {
                let raw = self.rpc("eth_getRawTransactionByHash", json!([hash])).await;
                found.push((raw, block));
            }
        }
        found
    }

    /// Takes every transaction out of the pool.
    pub async fn drop_pending(&self) -> usize {
        let pool = self.rpc("txpool_content", json!([])).await;
        let hashes: Vec<Value> = ["pending", "queued"]
            .iter()
            .filter_map(|part| pool[*part].as_object())
            .flat_map(|accounts| accounts.values())
            .filter_map(Value::as_object)
            .flat_map(|by_nonce| by_nonce.values().map(|tx| tx["hash"].clone()))
            .collect();
        for hash in &hashes {
            self.rpc("anvil_dropTransaction", json!([hash])).await;
        }
        hashes.len()
    }

    /// Sends a transaction in the name of one of anvil's accounts, and returns its receipt.
    pub async fn send(&self, from: &str, to: Option<Address>, data: Vec<u8>) -> Value {
        let mut transaction =
            json!({"from": from, "gas": "0xe4e1c0", "data": hex::encode_prefixed(data)});
        if let Some(to) = to {
            transaction["to"] = json!(to.to_string());
        }
        let hash = self.rpc("eth_sendTransaction", json!([transaction])).await;
        // It is mined at once, and a little after the answer.
        let receipt = loop {
            let receipt = self.rpc("eth_getTransactionReceipt", json!([hash])).await;
            if !receipt.is_null() {
                break receipt;
            }
        };
        assert_eq!(receipt["status"], "0x1", "{receipt}");
        receipt
    }

    /// Puts a transaction of one of anvil's accounts into the pool, to be mined before all others.
    pub async fn queue(&self, from: &str, to: Address, call: &impl SolCall) {
        let tip = format!("{:#x}", 300_000_000_000_u64);
        let transaction = json!({
            "from": from, "to": to.to_string(), "gas": "0x7a120", "data": hex::encode_prefixed(call.abi_encode()),
            "maxFeePerGas": tip, "maxPriorityFeePerGas": tip,
        });
        self.rpc("eth_sendTransaction", json!([transaction])).await;
    }

    pub async fn transact(&self, from: &str, to: Address, call: &impl SolCall) -> Value {
        self.send(from, Some(to), call.abi_encode()).await
    }

    /// Deploys a contract by its code and constructor arguments.
    pub async fn deploy(&self, init_code: Bytes) -> Address {
        let receipt = self.send(ADMIN, None, init_code.to_vec()).await;
        receipt["contractAddress"]
            .as_str()
            .unwrap()
            .parse()
            .unwrap()
    }

    pub async fn call<C: SolCall>(&self, to: Address, call: &C) -> C::Return {
        let request =
            json!({"to": to.to_string(), "data": hex::encode_prefixed(call.abi_encode())});
        let returned = self.rpc("eth_call", json!([request, "latest"])).await;
        let returned = hex::decode(returned.as_str().unwrap()).unwrap();
        C::abi_decode_returns(&returned).unwrap()
    }

    pub async fn code_hash(&self, address: Address) -> B256 {
        let code = self
            .rpc("eth_getCode", json!([address.to_string(), "latest"]))
            .await;
        alloy::primitives::keccak256(hex::decode(code.as_str().unwrap()).unwrap())
    }

    /// How many transactions of an account have been mined.
    pub async fn nonce(&self, account: &str) -> u64 {
        let nonce = self
            .rpc("eth_getTransactionCount", json!([account, "latest"]))
            .await;
        u64::from_str_radix(&nonce.as_str().unwrap()[2..], 16).unwrap()
    }

    pub async fn balance(&self, account: Address) -> U256 {
        let balance = self.rpc("eth_getBalance", json!([account, "latest"])).await;
        balance.as_str().unwrap().parse().unwrap()
    }

    pub async fn give_coins(&self, address: Address, wei: U256) {
        self.rpc(
            "anvil_setBalance",
            json!([address.to_string(), format!("{wei:#x}")]),
        )
        .await;
    }

    pub async fn pass_time(&self, seconds: u64) {
        self.rpc("evm_increaseTime", json!([seconds])).await;
        self.mine(1).await;
    }
}
