//! The chain that a run plays on: the model, or anvil.

use std::sync::{
    Arc, Mutex, MutexGuard,
    atomic::{AtomicBool, Ordering},
};

use alloy::primitives::Address;
use gridstake_operator::settlement::{
    signer::Key,
    transaction::{self, Call, Terms as TransactionTerms},
};
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use super::{
    model_chain::{GWEI, ModelChain, Refusal},
    script::Weather,
};

/// The payer who has little.
pub const POOR_PAYER: u32 = 2;
/// The provider that cannot be paid yet.
pub const COOLING_PROVIDER: u32 = 2;
/// What the gas account has when it is full, in wei.
pub const PLENTY: u128 = 1_000_000_000 * GWEI;

#[derive(Clone)]
pub struct Nature(Arc<Parts>);

struct Parts {
    model: Mutex<ModelChain>,
    gas: Key,
    away: AtomicBool,
}

impl Nature {
    pub fn new(model: ModelChain, gas: Key) -> Self {
        Self(Arc::new(Parts {
            model: Mutex::new(model),
            gas,
            away: AtomicBool::new(false),
        }))
    }

    pub fn model(&self) -> MutexGuard<'_, ModelChain> {
        self.0.model.lock().unwrap()
    }

    pub fn go_away(&self, away: bool) {
        self.0.away.store(away, Ordering::Relaxed);
    }

    pub fn is_away(&self) -> bool {
        self.0.away.load(Ordering::Relaxed)
    }

    pub fn rpc(&self, method: &str, params: &Value, behind: u64) -> Result<Value, Refusal> {
        self.model().rpc(method, params, behind)
    }

    pub fn be(&self, weather: Weather) {
        let mut chain = self.model();
        let gas = self.0.gas.address();
        match weather {
            Weather::Mine(blocks) => chain.mine(blocks),
            Weather::Reorganise(depth) => chain.reorganise(depth, false),
            Weather::Remine(depth) => chain.reorganise(depth, true),
            Weather::Forget => chain.forget(),
            Weather::Stranger => {
                let nonce = chain.state().nonces.get(&gas).copied().unwrap_or(0);
                let raw = stranger(&self.0.gas, nonce);
                // A node may refuse it, as it may any.
                let _ = chain.take(&raw);
            }
            Weather::BaseFee(gwei) => chain.set_base_fee(gwei),
            Weather::GasGone => chain.change(|state| {
                state.wei.insert(gas, 1);
            }),
            Weather::GasThere => chain.change(|state| {
                state.wei.insert(gas, PLENTY);
            }),
            Weather::Pass(seconds) => chain.pass(seconds),
            Weather::Deposit(nano) => chain.change(|state| {
                *state.balances.entry(POOR_PAYER).or_default() += nano;
            }),
            Weather::Pause(paused) => chain.change(|state| state.paused = paused),
            Weather::Activate => chain.change(|state| {
                if state.cooling.remove(&COOLING_PROVIDER) {
                    state.credits.insert(COOLING_PROVIDER, 0);
                }
            }),
        }
    }
}

/// A transaction of the gas account that the log knows nothing of.
fn stranger(gas: &Key, nonce: u64) -> Vec<u8> {
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
