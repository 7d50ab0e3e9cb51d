//! Signed transactions: made from a call and its terms, stored as an attempt, and rebuilt from what was stored.

use alloy::{
    consensus::{SignableTransaction as _, TxEip1559, transaction::RlpEcdsaEncodableTx as _},
    eips::eip2930::AccessList,
    hex,
    primitives::{Address, B256, Bytes, Signature, TxKind, U256},
};
use gridstake_crds::transaction::TransactionAttempt;
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};

use super::signer::{Key, SignError};

/// A call of a contract.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The contract.
    pub to: Address,
    /// The call's selector and arguments.
    pub input: Bytes,
    /// Until when the authorization in it is in force, in Unix seconds of the chain's clock. `None`: it needs none.
    pub valid_until: Option<u64>,
}

/// What a transaction may cost, and its place in the account's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The account's nonce.
    pub nonce: u64,
    /// The gas limit.
    pub gas_limit: u64,
    /// The most to be paid per gas, in wei.
    pub max_fee: u128,
    /// The tip per gas, in wei.
    pub tip: u128,
}

/// Why a stored attempt is no transaction.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// A field cannot be read.
    #[error("the stored transaction {hash}: {field} cannot be read")]
    Field {
        /// The attempt's hash.
        hash: String,
        /// The field.
        field: &'static str,
    },
    /// Its content hashes to something else than it says.
    #[error(
        "the stored transaction {hash} hashes to {found}: its call or a field is not what was signed"
    )]
    Hash {
        /// What was stored.
        hash: String,
        /// What it is.
        found: B256,
    },
}

/// Signs `call` on these terms.
pub fn sign(
    chain_id: u64,
    call: &Call,
    terms: Terms,
    key: &Key,
    now: Timestamp,
) -> Result<TransactionAttempt, SignError> {
    let transaction = unsigned(chain_id, call, terms);
    let signature = key.sign(transaction.signature_hash())?;
    Ok(TransactionAttempt {
        hash: transaction.tx_hash(&signature).to_string(),
        from: key.address().to_string(),
        nonce: terms.nonce,
        gas_limit: terms.gas_limit,
        max_fee_per_gas: terms.max_fee.to_string(),
        max_priority_fee_per_gas: terms.tip.to_string(),
        signature: hex::encode_prefixed(signature.as_bytes()),
        valid_until: call.valid_until,
        signed_at: Time(now),
    })
}

/// The bytes of a stored attempt at `call`, checked against its hash.
pub fn raw(
    chain_id: u64,
    call: &Call,
    attempt: &TransactionAttempt,
) -> Result<Bytes, RebuildError> {
    let broken = |field| RebuildError::Field {
        hash: attempt.hash.clone(),
        field,
    };
    let signature = hex::decode(&attempt.signature)
        .ok()
        .and_then(|bytes| Signature::from_raw(&bytes).ok())
        .ok_or_else(|| broken("signature"))?;
    let transaction = unsigned(chain_id, call, terms(attempt)?);
    let found = transaction.tx_hash(&signature);
    if attempt.hash.parse() != Ok(found) {
        return Err(RebuildError::Hash {
            hash: attempt.hash.clone(),
            found,
        });
    }
    let mut bytes = Vec::with_capacity(transaction.eip2718_encoded_length(&signature));
    transaction.eip2718_encode(&signature, &mut bytes);
    Ok(bytes.into())
}

/// The terms of a stored attempt.
pub fn terms(attempt: &TransactionAttempt) -> Result<Terms, RebuildError> {
    let number = |field, text: &str| {
        text.parse().map_err(|_| RebuildError::Field {
            hash: attempt.hash.clone(),
            field,
        })
    };
    Ok(Terms {
        nonce: attempt.nonce,
        gas_limit: attempt.gas_limit,
        max_fee: number("maxFeePerGas", &attempt.max_fee_per_gas)?,
        tip: number("maxPriorityFeePerGas", &attempt.max_priority_fee_per_gas)?,
    })
}

fn unsigned(chain_id: u64, call: &Call, terms: Terms) -> TxEip1559 {
    TxEip1559 {
        chain_id,
        nonce: terms.nonce,
        gas_limit: terms.gas_limit,
        max_fee_per_gas: terms.max_fee,
        max_priority_fee_per_gas: terms.tip,
        to: TxKind::Call(call.to),
        value: U256::ZERO,
        access_list: AccessList::default(),
        input: call.input.clone(),
    }
}

#[cfg(test)]
mod tests {
    use alloy::{
        consensus::{Transaction as _, TxEnvelope},
        eips::eip2718::Decodable2718 as _,
        signers::local::PrivateKeySigner,
    };

    use super::*;

    fn call() -> Call {
        Call {
            to: Address::repeat_byte(1),
            input: Bytes::from_static(&[1, 2, 3]),
            valid_until: Some(9),
        }
    }

    const TERMS: Terms = Terms {
        nonce: 5,
        gas_limit: 100_000,
        max_fee: 7,
        tip: 2,
    };

    #[test]
    fn a_stored_attempt_is_rebuilt_to_the_transaction_that_was_signed() {
        let key = Key::from(PrivateKeySigner::random());
        let attempt = sign(31337, &call(), TERMS, &key, Timestamp::UNIX_EPOCH).unwrap();
        let bytes = raw(31337, &call(), &attempt).unwrap();
        let transaction = TxEnvelope::decode_2718(&mut bytes.as_ref()).unwrap();
        assert_eq!(transaction.tx_hash().to_string(), attempt.hash);
        assert_eq!(transaction.nonce(), 5);
        assert_eq!(attempt.valid_until, Some(9));
        assert_eq!(terms(&attempt).unwrap(), TERMS);
    }

    #[test]
    fn an_attempt_at_another_call_or_chain_is_refused() {
        let key = Key::from(PrivateKeySigner::random());
        let attempt = sign(31337, &call(), TERMS, &key, Timestamp::UNIX_EPOCH).unwrap();
        let other = Call {
            input: Bytes::new(),
            ..call()
        };
        assert!(matches!(
            raw(31337, &other, &attempt),
            Err(RebuildError::Hash { .. })
        ));
        assert!(matches!(
            raw(1, &call(), &attempt),
            Err(RebuildError::Hash { .. })
        ));
        let cut = TransactionAttempt {
            max_fee_per_gas: "many".to_owned(),
            ..attempt
        };
        assert!(matches!(
            raw(31337, &call(), &cut),
            Err(RebuildError::Field {
                field: "maxFeePerGas",
                ..
            })
        ));
    }
}
