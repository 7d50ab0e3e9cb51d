//! The chain that a run plays on: the model, or anvil.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use alloy::{
    primitives::{Address, B256},
    sol_types::SolEvent as _,
};
use gridstake_contracts::Settlement;
use gridstake_operator::settlement::{
    records::REWARD_ACCOUNT,
    signer::Key,
    transaction::{self, Call, Terms as TransactionTerms},
};
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;
use tokio::sync::RwLock;

use super::{
    anvil_chain::AnvilChain,
    model_chain::{GWEI, ModelChain, Refusal},
    script::Weather,
};
use crate::world::LANE;

/// The payer who has plenty, and the provider that can be paid.
pub const RICH_PAYER: u32 = 1;
pub const PROVIDER: u32 = 1;
/// The payer who has little.
pub const POOR_PAYER: u32 = 2;
/// The provider that cannot be paid yet.
pub const COOLING_PROVIDER: u32 = 2;
/// What the payers have at first, in nano-tokens.
pub const RICH_START: u64 = 1 << 49;
pub const POOR_START: u64 = 2_000_000;
/// What the gas account has when it is full, in wei.
pub const PLENTY: u128 = 1_000_000_000 * GWEI;

/// What a chain holds in the end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChainEnd {
    pub seq: u64,
    pub chain_hash: B256,
    pub balances: BTreeMap<u32, u64>,
    pub credits: BTreeMap<u32, u64>,
    pub paid: BTreeSet<u64>,
    /// How often numbers were sent that were paid already.
    pub sent_twice: usize,
}

#[derive(Clone)]
pub struct Nature(Arc<Parts>);

struct Parts {
    chain: Chain,
    gas: Key,
    away: AtomicBool,
    /// Nobody asks while something happens.
    happening: RwLock<()>,
}

enum Chain {
    Model(Box<Mutex<ModelChain>>),
    Anvil(Box<AnvilChain>),
}

impl Nature {
    pub fn of_model(model: ModelChain, gas: Key) -> Self {
        Self::new(Chain::Model(Box::new(Mutex::new(model))), gas)
    }

    pub fn of_anvil(anvil: AnvilChain) -> Self {
        let gas = anvil.world().keys.gas.clone();
        Self::new(Chain::Anvil(Box::new(anvil)), gas)
    }

    fn new(chain: Chain, gas: Key) -> Self {
        Self(Arc::new(Parts {
            chain,
            gas,
            away: AtomicBool::new(false),
            happening: RwLock::default(),
        }))
    }

    pub fn go_away(&self, away: bool) {
        self.0.away.store(away, Ordering::Relaxed);
    }

    pub fn is_away(&self) -> bool {
        self.0.away.load(Ordering::Relaxed)
    }

    pub async fn rpc(&self, method: &str, params: &Value, behind: u64) -> Result<Value, Refusal> {
        let _still = self.0.happening.read().await;
        match &self.0.chain {
            Chain::Model(model) => model.lock().unwrap().rpc(method, params, behind),
            Chain::Anvil(anvil) => anvil.rpc(method, params, behind).await,
        }
    }

    pub async fn be(&self, weather: Weather) {
        let _happens = self.0.happening.write().await;
        match &self.0.chain {
            Chain::Model(model) => be(&mut model.lock().unwrap(), &self.0.gas, weather),
            Chain::Anvil(anvil) => anvil.be(weather).await,
        }
    }

    /// Why the contract has left groups out, by the numbers of its reasons; only the model tells.
    pub fn left_out(&self) -> Vec<u8> {
        let Chain::Model(model) = &self.0.chain else {
            return vec![];
        };
        let logs = model
            .lock()
            .unwrap()
            .logs(Settlement::GroupSkipped::SIGNATURE_HASH);
        logs.iter()
            .map(|log| Settlement::GroupSkipped::decode_log_data(log).unwrap().why)
            .collect()
    }

    /// What the chain holds in the end of records with these numbers.
    pub async fn end(&self, numbers: &[u64]) -> ChainEnd {
        match &self.0.chain {
            Chain::Model(model) => {
                let model = model.lock().unwrap();
                let state = model.state();
                ChainEnd {
                    seq: state.seq,
                    chain_hash: state.chain_hash,
                    balances: state.balances.clone(),
                    credits: state.credits.clone(),
                    paid: state.paid.clone(),
                    sent_twice: model.logs(Settlement::JobsSkipped::SIGNATURE_HASH).len(),
                }
            }
            Chain::Anvil(anvil) => anvil.end(numbers).await,
        }
    }
}

fn be(chain: &mut ModelChain, gas: &Key, weather: Weather) {
    let account = gas.address();
    match weather {
        Weather::Mine(blocks) => chain.mine(blocks),
        Weather::Reorganise(depth) => chain.reorganise(depth, None),
        Weather::Remine(depth) => chain.reorganise(depth, Some(account)),
        Weather::Forget => chain.forget(),
        Weather::Stranger => {
            let nonce = chain.state().nonces.get(&account).copied().unwrap_or(0);
            // A node may refuse it, as it may any.
            let _ = chain.take(&stranger(gas, nonce));
        }
        Weather::BaseFee(gwei) => chain.set_base_fee(gwei),
        Weather::GasGone => chain.set_wei(account, 1),
        Weather::GasThere => chain.set_wei(account, PLENTY),
        Weather::Pass(seconds) => chain.pass(seconds),
        Weather::Deposit(nano) => deposit(chain, POOR_PAYER, nano),
        Weather::Withdraw => chain.mine_with(|state| {
            state.balances.insert(POOR_PAYER, 0);
        }),
        Weather::Fund(nano) => deposit(chain, REWARD_ACCOUNT, nano),
        Weather::Flatter(flatters) => chain.flatter(flatters),
        Weather::Pause(true) => {
            let event = Settlement::PathPaused { path: 0 }.encode_log_data();
            chain.mine_event(event, |state| state.paused = true);
        }
        Weather::Pause(false) => {
            let event = Settlement::PathUnpaused { path: 0 }.encode_log_data();
            chain.mine_event(event, |state| state.paused = false);
        }
        // The contract refuses to activate one that is active.
        Weather::Activate if chain.state().is_active(COOLING_PROVIDER) => chain.mine(1),
        Weather::Activate => {
            let provider = COOLING_PROVIDER;
            let event = Settlement::ProviderActivated { provider }.encode_log_data();
            chain.mine_event(event, |state| {
                state.cooling.remove(&provider);
                state.credits.entry(provider).or_default();
            });
        }
        Weather::Deactivate => chain.mine_with(|state| {
            state.cooling.insert(COOLING_PROVIDER);
        }),
    }
}

fn deposit(chain: &mut ModelChain, payer: u32, amount: u64) {
    let event = Settlement::Deposited {
        lane: LANE,
        payer,
        from: Address::ZERO,
        amount,
    };
    chain.mine_event(event.encode_log_data(), |state| {
        *state.balances.entry(payer).or_default() += amount;
    });
}

/// A transaction of the gas account that the log knows nothing of.
pub fn stranger(gas: &Key, nonce: u64) -> Vec<u8> {
    let call = Call {
        to: Address::repeat_byte(0x77),
        input: vec![].into(),
        valid_until: None,
    };
    let terms = TransactionTerms {
        nonce,
        gas_limit: 21_000,
        max_fee: 700 * GWEI,
        tip: 700 * GWEI,
    };
    let attempt = transaction::sign(31337, &call, terms, gas, Timestamp::UNIX_EPOCH).unwrap();
    transaction::raw(31337, &call, &attempt).unwrap().to_vec()
}
