//! What forge checks: contracts/test/VectorsFromLedger.t.sol.

use std::fs;

use alloy_primitives::{Address, B256, Signature, address, b256, keccak256};
use alloy_sol_types::SolStruct as _;
use gridstake_ledger::{
    amount::{group_amount, price_on_wire},
    batch::{EMISSION_PRICE, Entry, chain_hash, data_hash, decode, encode},
    checkpoint::{Checkpoint, Counters, Device, Subject, devices_hash},
    merkle::{proof, usage_leaves, usage_root},
    receipt::{Receipt, RecordContent},
    signature::compact,
    statement::{self, EarningsReport, Gpu, Statement},
    typed::{AgentKey, Batch, PayerConsent, Slash, digest, settlement_domain, vault_domain},
};
use k256::ecdsa::SigningKey;
use serde_json::{Value, json};

use crate::values::{self as lists, bytes, hashes_of, numbers, path, read};

const FILE: &str = "ledger.json";
const CHAIN_ID: u64 = 31_337;
const SETTLEMENT: Address = address!("5e771e000000000000000000000000000000a001");
const VAULT: Address = address!("57a4e0000000000000000000000000000000a002");
const LANE: u32 = 7;
const VALID_UNTIL: u64 = 1_900_000_000;
const DECISION_HEAD: B256 =
    b256!("d00d000000000000000000000000000000000000000000000000000000000001");

fn key() -> SigningKey {
    SigningKey::from_slice(keccak256("the lane's signer of the vectors").as_slice()).unwrap()
}

fn entry(job_no: u64, payer: u32, provider: u32, price: u64, units: u64) -> Entry {
    Entry {
        job_no,
        payer,
        provider,
        price,
        units,
    }
}

/// A statement of each kind, about things that are made up.
fn stated() -> Vec<Statement> {
    let gpu = Gpu {
        uuid: "GPU-7a2d".into(),
        model: "NVIDIA H100 80GB HBM3".into(),
        memoryMiB: 81_559,
        computeCapability: "9.0".into(),
        pciBusId: "00000000:17:00.0".into(),
        mig: false,
    };
    let report = EarningsReport {
        chainId: CHAIN_ID,
        settlement: SETTLEMENT,
        lane: LANE,
        provider: 2,
        week: 202_648,
        firstBatch: 1,
        lastBatch: 2,
        jobs: 75,
        gpuMillis: 123_456_789,
        paid: 88_888_888,
        emissions: 5,
        slashed: 7,
    };
    vec![
        statement::inventory("gpu-node-1.example", 2, vec![gpu]),
        statement::uptime(2_993_000, keccak256("head of the log of uptime")),
        statement::earnings(&report),
    ]
}

/// Entries and statements of four batches that follow each other: one entry; many of few groups over several words; the
/// widest; none, but statements.
fn contents() -> Vec<(Vec<Entry>, Vec<Statement>)> {
    let price = |nano| price_on_wire(nano).unwrap();
    let many = (0..300)
        .map(|n| {
            let (payer, provider) = (1 + n % 3, 1 + n % 4);
            let no = 1 + u64::from(n) * 3 / 2;
            entry(
                no,
                payer,
                provider,
                price(720_000),
                1_000 + u64::from(n) * 7_919,
            )
        })
        .collect();
    let wide = vec![
        entry(600, 1, 2, price(1), (1 << 46) - 1),
        entry(671, 0, 1, EMISSION_PRICE, 12_345_678),
        entry(672, 2, 1, 600_000_000, 999),
        entry(1_000_000, 3, 4, price(18), 0),
    ];
    let one = vec![entry(0, 1, 2, price(720_000), 600_000)];
    vec![
        (one, vec![]),
        (many, stated()),
        (wide, vec![]),
        (vec![], stated()),
    ]
}

fn batches() -> Value {
    let mut prev = B256::ZERO;
    let mut batches = Vec::new();
    for (seq, (entries, stated)) in (1_u64..).zip(contents()) {
        let data = encode(&entries, &stated).unwrap();
        let parsed = decode(&data).unwrap();
        let usage_root = keccak256(format!("usage root {seq}"));
        let head = chain_hash(prev, LANE, seq, usage_root, data_hash(&data));
        let message = Batch {
            lane: LANE,
            seq,
            prev,
            usageRoot: usage_root,
            dataHash: data_hash(&data),
            validUntil: VALID_UNTIL,
        };
        let digest = digest(&message, &settlement_domain(CHAIN_ID, SETTLEMENT));
        let (signature, parity) = key().sign_prehash_recoverable(digest.as_slice()).unwrap();
        let (r, vs) = compact(&Signature::from((signature, parity)));
        batches.push(json!({
            "seq": seq.to_string(),
            "prev": bytes(prev),
            "usageRoot": bytes(usage_root),
            "data": bytes(&data),
            "dataHash": bytes(data_hash(&data)),
            "chainHash": bytes(head),
            "digest": bytes(digest),
            "r": bytes(r),
            "vs": bytes(vs),
            "entries": lists::entries(&parsed.entries),
            "statements": lists::statements(&parsed.statements),
            "groups": {
                "payer": numbers(parsed.groups.iter().map(|g| g.payer)),
                "provider": numbers(parsed.groups.iter().map(|g| g.provider)),
                "price": numbers(parsed.groups.iter().map(|g| g.price)),
                "units": numbers(parsed.units.iter()),
                "amount": numbers(parsed.amounts().unwrap()),
            },
        }));
        prev = head;
    }
    Value::Array(batches)
}

fn typed() -> Value {
    let consent = PayerConsent {
        lane: LANE,
        payer: 3,
        namespaceUid: "0b9e3c2a-6c1d-4a55-9a3e-5a1f0b7c9d11".into(),
        dailyCap: 5_000_000_000_000,
        expires: VALID_UNTIL,
    };
    let agent = AgentKey {
        provider: 9,
        node: "gpu-node-1.example".into(),
        key: address!("00000000000000000000000000000000000a6e47"),
        epoch: 2,
        notAfter: VALID_UNTIL,
    };
    let slash = Slash {
        lane: LANE,
        incidentId: keccak256("incident"),
        provider: 9,
        amount: 200_000_000_000_000,
        evidence: keccak256("evidence"),
        validUntil: VALID_UNTIL,
    };
    json!({
        "consent": {
            "payer": consent.payer.to_string(),
            "namespaceUid": consent.namespaceUid,
            "dailyCap": consent.dailyCap.to_string(),
            "expires": consent.expires.to_string(),
            "digest": bytes(digest(&consent, &settlement_domain(CHAIN_ID, SETTLEMENT))),
        },
        "agentKey": {
            "provider": agent.provider.to_string(),
            "node": agent.node,
            "key": bytes(agent.key),
            "epoch": agent.epoch.to_string(),
            "notAfter": agent.notAfter.to_string(),
            "digest": bytes(digest(&agent, &vault_domain(CHAIN_ID, VAULT))),
        },
        "slash": {
            "incidentId": bytes(slash.incidentId),
            "provider": slash.provider.to_string(),
            "amount": slash.amount.to_string(),
            "evidence": bytes(slash.evidence),
            "validUntil": slash.validUntil.to_string(),
            "digest": bytes(digest(&slash, &vault_domain(CHAIN_ID, VAULT))),
        },
    })
}

fn evidence() -> Value {
    let devices = [
        Device {
            uuid: "GPU-b".into(),
            parent_uuid: String::new(),
            share: (1, 1),
        },
        Device {
            uuid: "MIG-a".into(),
            parent_uuid: "GPU-a".into(),
            share: (3, 7),
        },
    ];
    let counters = Counters {
        busy_millis: Some(59_000),
        memory_mib_seconds: None,
        energy_millijoules: Some(0),
        peak_processes: Some(4),
        samples: Some(60),
    };
    let subject = Subject {
        record: "8c1f-0-0",
        pod_uid: "4d3c",
        devices: devices_hash(&devices),
    };
    let checkpoint = Checkpoint {
        epoch: 1,
        seq: 2,
        from_ms: 1_800_000_000_123,
        to_ms: 1_800_000_060_456,
        folded: 0,
        counters,
        previous: keccak256("the head before"),
    };
    let statement = checkpoint.statement(subject);
    json!({
        "record": subject.record,
        "podUid": subject.pod_uid,
        "epoch": checkpoint.epoch.to_string(),
        "seq": checkpoint.seq.to_string(),
        "fromMs": checkpoint.from_ms.to_string(),
        "toMs": checkpoint.to_ms.to_string(),
        "devices": bytes(subject.devices),
        "counters": bytes(counters.hash()),
        "previous": bytes(checkpoint.previous),
        "head": bytes(statement.eip712_hash_struct()),
        "digest": bytes(checkpoint.digest(subject)),
    })
}

fn receipts() -> Value {
    let content = RecordContent {
        record: "8c1f-0-0",
        pod_uid: "4d3c",
        node: "gpu-node-1.example",
        start_ms: 1_800_000_000_123,
        end_ms: 1_800_003_600_122,
        gpu_millis: 7_199_998,
        cause: "IntervalElapsed",
        verdict: "",
        evidence_head: keccak256("evidence head"),
    };
    let receipts: Vec<_> = (0..5_u32)
        .map(|n| Receipt {
            lane: LANE,
            job_no: 1_792 + u64::from(n),
            payer: 3,
            provider: 9 + n,
            units: 600_000 * u64::from(n),
            price: 720_000_000_000,
            record_hash: if n == 0 {
                content.hash()
            } else {
                keccak256(n.to_be_bytes())
            },
        })
        .collect();
    let hashes: Vec<_> = receipts.iter().map(Receipt::leaf).collect();
    let leaves = usage_leaves(&hashes, DECISION_HEAD);
    let proofs: Vec<_> = (0..leaves.len())
        .map(|n| hashes_of(proof(&leaves, n).unwrap()))
        .collect();
    json!({
        "content": {
            "record": content.record,
            "podUid": content.pod_uid,
            "node": content.node,
            "startMs": content.start_ms.to_string(),
            "endMs": content.end_ms.to_string(),
            "gpuMillis": content.gpu_millis.to_string(),
            "cause": content.cause,
            "verdict": content.verdict,
            "evidenceHead": bytes(content.evidence_head),
        },
        "jobNo": numbers(receipts.iter().map(|r| r.job_no)),
        "payer": numbers(receipts.iter().map(|r| r.payer)),
        "provider": numbers(receipts.iter().map(|r| r.provider)),
        "units": numbers(receipts.iter().map(|r| r.units)),
        "price": numbers(receipts.iter().map(|r| r.price)),
        "recordHash": hashes_of(receipts.iter().map(|r| r.record_hash)),
        "decisionHead": bytes(DECISION_HEAD),
        "usageRoot": bytes(usage_root(&hashes, DECISION_HEAD)),
        "leaves": hashes_of(leaves.iter().copied()),
        "proofs": proofs,
    })
}

fn amounts() -> Value {
    let cases = [
        (0, 0),
        (1, 999_999_999),
        (1, 1_000_000_000),
        (999, 1_000_000),
        (600_000, 720_000_000_000),
        ((1 << 48) - 1, 18_446_000_000),
        (u64::MAX, 500_000_000),
    ];
    json!({
        "units": numbers(cases.iter().map(|(units, _)| units)),
        "price": numbers(cases.iter().map(|(_, price)| price)),
        "nano": numbers(cases.iter().map(|(units, price)| group_amount(*units, *price).unwrap())),
    })
}

#[test]
fn what_forge_checks_is_what_this_crate_makes() {
    let vectors = json!({
        "chainId": CHAIN_ID.to_string(),
        "settlement": bytes(SETTLEMENT),
        "vault": bytes(VAULT),
        "lane": LANE.to_string(),
        "validUntil": VALID_UNTIL.to_string(),
        "signer": bytes(Address::from_public_key(key().verifying_key())),
        "batches": batches(),
        "typed": typed(),
        "evidence": evidence(),
        "receipts": receipts(),
        "amounts": amounts(),
    });
    let text = format!("{}\n", serde_json::to_string_pretty(&vectors).unwrap());
    if std::env::var_os("WRITE_VECTORS").is_some() {
        fs::write(path(FILE), &text).unwrap();
    }
    assert!(
        read(FILE) == text,
        "contracts/test/vectors/{FILE} differs from what this crate makes; if the change is meant: see contracts/README.md"
    );
}
