//! What forge writes: contracts/test/VectorsForLedger.t.sol.

use gridstake_ledger::{
    batch::{Entry, chain_hash, data_hash, decode},
    statement::Statement,
    typed::{Batch, digest, settlement_domain},
};
use serde_json::Value;

use crate::values::{data, hash, list, number, read};

fn vectors() -> Value {
    serde_json::from_str(&read("forge.json")).unwrap()
}

fn entries(batch: &Value) -> Vec<Entry> {
    (0..list(batch, "/jobNo").len())
        .map(|n| Entry {
            job_no: number(batch, &format!("/jobNo/{n}")),
            payer: number(batch, &format!("/payer/{n}")),
            provider: number(batch, &format!("/provider/{n}")),
            price: number(batch, &format!("/price/{n}")),
            units: number(batch, &format!("/units/{n}")),
        })
        .collect()
}

fn statements(batch: &Value) -> Vec<Statement> {
    (0..list(batch, "/kind").len())
        .map(|n| Statement {
            kind: number(batch, &format!("/kind/{n}")),
            number: number(batch, &format!("/number/{n}")),
            subject: hash(batch, &format!("/subject/{n}")),
            content: hash(batch, &format!("/content/{n}")),
        })
        .collect()
}

#[test]
fn batches_that_forge_encoded_say_the_same_here() {
    let vectors = vectors();
    let settlement = hash(&vectors, "/settlement");
    let domain = settlement_domain(
        number(&vectors, "/chainId"),
        alloy_primitives::Address::from_word(settlement),
    );
    let batches = list(&vectors, "/batches");
    assert!(batches.len() > 5);
    for batch in batches {
        let payload = data(batch, "/data");
        let content = decode(&payload).unwrap();
        assert_eq!(content.entries, entries(batch));
        assert_eq!(content.statements, statements(batch));
        assert_eq!(data_hash(&payload), hash(batch, "/dataHash"));
        let (lane, seq) = (number(batch, "/lane"), number(batch, "/seq"));
        let (prev, usage_root) = (hash(batch, "/prev"), hash(batch, "/usageRoot"));
        assert_eq!(
            chain_hash(prev, lane, seq, usage_root, data_hash(&payload)),
            hash(batch, "/chainHash")
        );
        let message = Batch {
            lane,
            seq,
            prev,
            usageRoot: usage_root,
            dataHash: data_hash(&payload),
            validUntil: number(batch, "/validUntil"),
        };
        assert_eq!(digest(&message, &domain), hash(batch, "/digest"));
    }
}

#[test]
fn what_the_contract_refuses_is_refused_here() {
    let vectors = vectors();
    let malformed = list(&vectors, "/malformed");
    assert!(malformed.len() > 5);
    for n in 0..malformed.len() {
        let payload = data(&vectors, &format!("/malformed/{n}"));
        assert!(decode(&payload).is_err(), "number {n}: {payload:02x?}");
    }
}
