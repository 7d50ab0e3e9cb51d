//! A batch as it is archived, with real signatures, and what the chain says about it. For tests.

use std::collections::BTreeMap;

use alloy_primitives::{Address, B256, Signature, U256};
use k256::ecdsa::SigningKey;

use super::*;
use crate::{
    batch::{self, EMISSION_PRICE, Outcome},
    checkpoint::{Checkpoint, StatementHasher, Subject, devices_hash, digest_of},
    merkle, typed,
    verify::chain::ChainBatch,
};

pub const LANE: u32 = 7;
pub const CHAIN: u64 = 31337;
pub const CONTRACT: Address = Address::repeat_byte(0x51);
const VAULT: Address = Address::repeat_byte(0x52);
/// 10⁻¹⁸ token per GPU-millisecond.
const PRICE: u64 = 1_000_000_000_000;
const HOUR: u64 = 3_600_000;

pub fn key(byte: u8) -> SigningKey {
    SigningKey::from_slice(&[byte; 32]).unwrap()
}

pub fn address_of(key: &SigningKey) -> Address {
    Address::from_public_key(key.verifying_key())
}

pub fn sign(key: &SigningKey, digest: B256) -> Signature {
    let (signature, parity) = key.sign_prehash_recoverable(digest.as_slice()).unwrap();
    let signature = Signature::from((signature, parity));
    signature.normalize_s().unwrap_or(signature)
}

/// A slice of `record` on the GPU `uuid`, with so many checkpoints; without any, nothing is stated about it.
pub fn used(record: &str, uuid: &str, span: (u64, u64), checkpoints: u64) -> Use {
    let (start_ms, end_ms) = span;
    let device = Device {
        uuid: uuid.to_owned(),
        parent_uuid: String::new(),
        share: (1, 1),
    };
    let pod = format!("pod of {record}");
    let hasher = StatementHasher::new(Subject {
        record,
        pod_uid: &pod,
        devices: devices_hash(std::slice::from_ref(&device)),
    });
    let mut stated: Vec<Signed> = Vec::new();
    for seq in 0..checkpoints {
        let checkpoint = Checkpoint {
            epoch: 1,
            seq,
            from_ms: start_ms + seq,
            to_ms: start_ms + seq + 1,
            folded: 0,
            counters: Counters {
                busy_millis: Some(seq),
                samples: Some(300),
                ..Counters::default()
            },
            previous: stated.last().map(|last| last.head).unwrap_or_default(),
        };
        let head = hasher.head(&checkpoint);
        stated.push(Signed {
            checkpoint,
            head,
            signature: sign(&key(9), digest_of(head)),
        });
    }
    let evidence_head = stated.last().map(|last| last.head).unwrap_or_default();
    Use {
        record: record.to_owned(),
        pod_uid: pod.clone(),
        node: "node \"a\"".to_owned(),
        start_ms,
        end_ms,
        gpu_millis: end_ms - start_ms,
        cause: "MemberEnded".to_owned(),
        verdict: String::new(),
        evidence_head,
        evidence: (checkpoints > 0).then(|| Evidence {
            pod_uid: pod,
            key: address_of(&key(9)),
            devices: vec![DeviceUse {
                device,
                counters: Counters {
                    energy_millijoules: Some(5),
                    peak_processes: Some(1),
                    ..Counters::default()
                },
            }],
            checkpoints: stated,
            started_ms: Some(start_ms),
            ended_ms: None,
            gaps: vec![Gap {
                from_ms: start_ms,
                to_ms: start_ms + 1,
                reason: "AgentAway".to_owned(),
                bridged: true,
            }],
            foreign_processes: Some(0),
        }),
        background: Background {
            namespace: "team".to_owned(),
            job: "train".to_owned(),
            pod: "train-1-0".to_owned(),
            gpus: 1,
            energy_millijoules: Some(5),
            factors: Some(Factors {
                performance_permille: 1000,
                stability_permille: 990,
                reference: "configured".to_owned(),
            }),
        },
    }
}

fn entry(job_no: u64, payer: u32, price: u64, units: u64, content: Content) -> ArchivedEntry {
    let mut entry = ArchivedEntry {
        entry: Entry {
            job_no,
            payer,
            provider: 2,
            price,
            units,
        },
        leaf: B256::ZERO,
        content,
    };
    entry.leaf = entry.computed_leaf(LANE);
    entry
}

/// A batch of these slices, numbered from `first`, with an emission at the end.
pub fn batch_of(
    sequence: u64,
    previous: B256,
    first: u64,
    slices: Vec<Use>,
) -> (ArchivedBatch, ChainBatch) {
    let mut entries: Vec<ArchivedEntry> = (first..)
        .zip(slices)
        .map(|(number, used)| {
            let units = used.gpu_millis;
            entry(number, 1, PRICE, units, Content::Use(Box::new(used)))
        })
        .collect();
    let usage_leaf = entries[0].leaf;
    let last = first + entries.len() as u64;
    entries.push(entry(
        last,
        0,
        EMISSION_PRICE,
        77,
        Content::Emission { usage_leaf },
    ));
    let decision_head = B256::repeat_byte(0xdd);
    let leaves: Vec<B256> = entries.iter().map(|entry| entry.leaf).collect();
    let plain: Vec<Entry> = entries.iter().map(|entry| entry.entry).collect();
    let head = BatchHead {
        chain_id: CHAIN,
        contract: CONTRACT,
        lane: LANE,
        sequence,
        previous,
        usage_root: merkle::usage_root(&leaves, decision_head),
        data: batch::encode(&plain, &[]).unwrap(),
        decision_head,
    };
    let mut certificate = Certificate {
        provider: 2,
        node: "node \"a\"".to_owned(),
        key: address_of(&key(9)),
        epoch: 0,
        not_after: 2_000_000_000,
        vault: VAULT,
        signature: sign(&key(3), B256::ZERO),
    };
    let digest = typed::digest(
        &certificate_statement(&certificate),
        &typed::vault_domain(CHAIN, VAULT),
    );
    certificate.signature = sign(&key(3), digest);
    let settled = batch::decode(&head.data).unwrap();
    let amounts = settled.amounts().unwrap();
    let chain = ChainBatch {
        chain_id: CHAIN,
        contract: CONTRACT,
        lane: LANE,
        sequence,
        previous,
        usage_root: head.usage_root,
        chain_hash: head.chain_hash(),
        data: head.data.clone(),
        outcome: Outcome {
            total: amounts.iter().sum(),
            paid: u32::try_from(plain.len()).unwrap(),
            skipped: 0,
            groups: amounts.into_iter().map(Some).collect(),
        },
        left_out: BTreeMap::<u32, U256>::new(),
        statements: settled.statements,
        transaction: B256::repeat_byte(0xee),
        block: 9,
        timestamp: 1_700_000_000,
    };
    let batch = ArchivedBatch {
        head,
        certificates: vec![certificate],
        entries,
    };
    (batch, chain)
}

/// Batch 1 of the lane: a slice with three checkpoints, one with one, one without, and an emission.
pub fn example() -> (ArchivedBatch, ChainBatch) {
    let slices = vec![
        used("u1-1-0-0", "GPU-1", (0, HOUR), 3),
        used("u2-1-0-0", "GPU-2", (500, HOUR), 1),
        used("u3-1-0-0", "GPU-3", (0, 10), 0),
    ];
    batch_of(1, B256::ZERO, 256, slices)
}
