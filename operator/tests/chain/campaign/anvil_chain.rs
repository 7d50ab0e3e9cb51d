//! anvil in the place of the model: the same weather on a real EVM with the real contracts.

use std::sync::{Mutex, MutexGuard};

use alloy::{
    hex,
    primitives::{Address, Bytes, U256},
    sol_types::{SolCall, SolEvent as _},
};
use gridstake_contracts::{Settlement, StakeVault};
use gridstake_operator::settlement::records::REWARD_ACCOUNT;
use serde_json::{Value, json};

use super::{
    model_chain::{GENESIS, GWEI, PERIOD, Refusal},
    nature::{COOLING_PROVIDER, ChainEnd, PLENTY, POOR_PAYER, POOR_START, RICH_START},
    script::Weather,
};
use crate::{
    anvil::{ADMIN, PAYER, PROVIDER_OPERATOR, STAKER},
    world::{LANE, World},
};

/// What a person's transaction offers: more than any of ours, so that it comes first in its block.
const PERSON_TIP: u128 = 4_000 * GWEI;

pub struct AnvilChain {
    world: World,
    sky: Mutex<Sky>,
}

#[derive(Clone, Copy)]
struct Sky {
    base_fee: u128,
    passed: u64,
    wei: u128,
}

impl AnvilChain {
    pub async fn new() -> Self {
        let world = World::new(RICH_START).await;
        world.anvil.release().await;
        let register = Settlement::registerPayerCall { lane: LANE };
        world
            .anvil
            .transact(PAYER, world.settlement, &register)
            .await;
        world.deposit(POOR_PAYER, POOR_START).await;
        let register = StakeVault::registerCall {
            operator: PROVIDER_OPERATOR.parse().unwrap(),
            beneficiary: STAKER.parse().unwrap(),
        };
        world.anvil.transact(ADMIN, world.vault, &register).await;
        let then = json!([GENESIS - 30]);
        world.anvil.rpc("evm_setNextBlockTimestamp", then).await;
        world.anvil.mine(30).await;
        world.anvil.hold().await;
        let chain = Self {
            world,
            sky: Mutex::new(Sky {
                base_fee: GWEI,
                passed: 0,
                wei: PLENTY,
            }),
        };
        chain.apply_sky().await;
        chain
    }

    pub const fn world(&self) -> &World {
        &self.world
    }

    fn sky(&self) -> MutexGuard<'_, Sky> {
        self.sky.lock().unwrap()
    }

    async fn apply_sky(&self) {
        let Sky { base_fee, wei, .. } = *self.sky();
        let anvil = &self.world.anvil;
        let base_fee = format!("{base_fee:#x}");
        anvil
            .rpc("anvil_setNextBlockBaseFeePerGas", json!([base_fee]))
            .await;
        anvil
            .give_coins(self.world.keys.gas.address(), U256::from(wei))
            .await;
    }

    async fn mine_one(&self) {
        let anvil = &self.world.anvil;
        let head = anvil
            .rpc("eth_getBlockByNumber", json!(["latest", false]))
            .await;
        let timestamp = quantity(&head["timestamp"]);
        let passed = std::mem::take(&mut self.sky().passed);
        let next = timestamp + PERIOD + passed;
        anvil.rpc("evm_setNextBlockTimestamp", json!([next])).await;
        let base_fee = format!("{:#x}", self.sky().base_fee);
        anvil
            .rpc("anvil_setNextBlockBaseFeePerGas", json!([base_fee]))
            .await;
        anvil.mine(1).await;
        anvil
            .rpc("anvil_setNextBlockBaseFeePerGas", json!([base_fee]))
            .await;
    }

    /// A person's transaction, in a block of its own together with what waits.
    async fn person(&self, from: &str, to: Address, call: &impl SolCall) {
        let transaction = json!({
            "from": from, "to": to.to_string(), "data": hex::encode_prefixed(call.abi_encode()), "gas": "0x7a120",
            "maxFeePerGas": format!("{:#x}", 2 * PERSON_TIP), "maxPriorityFeePerGas": format!("{PERSON_TIP:#x}"),
        });
        self.world
            .anvil
            .rpc("eth_sendTransaction", json!([transaction]))
            .await;
        self.mine_one().await;
    }

    pub async fn be(&self, weather: Weather) {
        let anvil = &self.world.anvil;
        let settlement = self.world.settlement;
        match weather {
            Weather::Mine(blocks) => {
                for _ in 0..blocks {
                    self.mine_one().await;
                }
            }
            Weather::Reorganise(depth) => {
                anvil.rpc("anvil_reorg", json!([depth, []])).await;
                self.apply_sky().await;
            }
            Weather::Remine(depth) => {
                let again = self.ours(depth).await;
                anvil.rpc("anvil_reorg", json!([depth, again])).await;
                self.apply_sky().await;
            }
            Weather::Forget => {
                anvil.drop_pending().await;
            }
            Weather::Stranger => {
                let gas = self.world.keys.gas.address().to_string();
                let nonce = anvil.nonce(&gas).await;
                let raw = super::nature::stranger(&self.world.keys.gas, nonce);
                let raw = hex::encode_prefixed(raw);
                let _ = anvil.ask("eth_sendRawTransaction", json!([raw])).await;
            }
            Weather::BaseFee(gwei) => {
                self.sky().base_fee = u128::from(gwei) * GWEI;
                self.apply_sky().await;
            }
            Weather::GasGone => {
                self.sky().wei = 1;
                self.apply_sky().await;
            }
            Weather::GasThere => {
                self.sky().wei = PLENTY;
                self.apply_sky().await;
            }
            Weather::Pass(seconds) => self.sky().passed += seconds,
            Weather::Deposit(amount) => {
                let deposit = Settlement::depositCall {
                    lane: LANE,
                    payer: POOR_PAYER,
                    amount,
                };
                self.person(PAYER, settlement, &deposit).await;
            }
            Weather::Fund(amount) => {
                let deposit = Settlement::depositCall {
                    lane: LANE,
                    payer: REWARD_ACCOUNT,
                    amount,
                };
                self.person(PAYER, settlement, &deposit).await;
            }
            // Only the model does these.
            Weather::Withdraw | Weather::Flatter(_) | Weather::Deactivate => {}
            Weather::Pause(true) => {
                self.person(ADMIN, settlement, &Settlement::pauseCall { path: 0 })
                    .await;
            }
            Weather::Pause(false) => {
                self.person(ADMIN, settlement, &Settlement::unpauseCall { path: 0 })
                    .await;
            }
            Weather::Activate => {
                let activate = Settlement::activateProviderCall {
                    provider: COOLING_PROVIDER,
                };
                self.person(ADMIN, settlement, &activate).await;
            }
        }
    }

    /// The gas account's transactions in the newest blocks, as `anvil_reorg` takes them.
    async fn ours(&self, depth: u64) -> Vec<Value> {
        let anvil = &self.world.anvil;
        let gas = self.world.keys.gas.address().to_string().to_lowercase();
        let height = anvil.height().await;
        let mut raw = Vec::new();
        for number in height + 1 - depth..=height {
            let block = anvil
                .rpc(
                    "eth_getBlockByNumber",
                    json!([format!("{number:#x}"), true]),
                )
                .await;
            for transaction in block["transactions"].as_array().unwrap() {
                if transaction["from"].as_str().unwrap().to_lowercase() == gas {
                    let hash = &transaction["hash"];
                    let bytes = anvil
                        .rpc("eth_getRawTransactionByHash", json!([hash]))
                        .await;
                    raw.push(json!([bytes, 0]));
                }
            }
        }
        raw
    }

    pub async fn rpc(&self, method: &str, params: &Value, behind: u64) -> Result<Value, Refusal> {
        // What it suggests depends on what it has seen; the model suggests always the same.
        if method == "eth_maxPriorityFeePerGas" {
            return Ok(json!(format!("{GWEI:#x}")));
        }
        let mut params = params.clone();
        if behind > 0 {
            let anvil = &self.world.anvil;
            let newest = anvil.height().await.saturating_sub(behind);
            if method == "eth_getBlockByNumber" && params[0] == "latest" {
                params[0] = json!(format!("{newest:#x}"));
            }
            for place in 0..2 {
                let named = &params[place];
                let hash = named.get("blockHash").cloned().or_else(|| {
                    let is_hash = place == 1 && named.as_str().is_some_and(|text| text.len() == 66);
                    is_hash.then(|| named.clone())
                });
                if let Some(hash) = hash.filter(|_| method != "eth_getBlockByHash") {
                    let block = anvil.rpc("eth_getBlockByHash", json!([hash, false])).await;
                    if block.is_null() || quantity(&block["number"]) > newest {
                        return Err((-32001, "header not found".to_owned(), None));
                    }
                }
            }
        }
        self.world.anvil.ask(method, params).await.map_err(|error| {
            let code = error["code"].as_i64().unwrap_or(-32000);
            let message = error["message"].as_str().unwrap_or_default().to_owned();
            let data = error["data"]
                .as_str()
                .and_then(|data| hex::decode(data).ok());
            (code, message, data.map(Bytes::from))
        })
    }

    pub async fn end(&self, numbers: &[u64]) -> ChainEnd {
        let (anvil, settlement) = (&self.world.anvil, self.world.settlement);
        let head = anvil
            .call(settlement, &Settlement::headCall { lane: LANE })
            .await;
        let mut end = ChainEnd {
            seq: head.seq,
            chain_hash: head.chainHash,
            ..ChainEnd::default()
        };
        for payer in 0..=POOR_PAYER {
            let call = Settlement::balanceOfCall { lane: LANE, payer };
            end.balances
                .insert(payer, anvil.call(settlement, &call).await);
        }
        for provider in 1..=COOLING_PROVIDER {
            let call = Settlement::creditOfCall { provider };
            end.credits
                .insert(provider, anvil.call(settlement, &call).await);
        }
        for number in numbers {
            let call = Settlement::isPaidCall {
                lane: LANE,
                jobNo: *number,
            };
            if anvil.call(settlement, &call).await {
                end.paid.insert(*number);
            }
        }
        let filter = json!([{
            "fromBlock": "0x0", "toBlock": "latest", "address": settlement.to_string(),
            "topics": [Settlement::JobsSkipped::SIGNATURE_HASH.to_string()],
        }]);
        let logs = anvil.rpc("eth_getLogs", filter).await;
        end.sent_twice = logs.as_array().unwrap().len();
        end
    }
}

fn quantity(value: &Value) -> u64 {
    u64::from_str_radix(value.as_str().unwrap().strip_prefix("0x").unwrap(), 16).unwrap()
}
