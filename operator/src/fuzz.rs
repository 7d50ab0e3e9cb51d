//! What comes from outside is fed to its parsers, damaged: what tenants, agents and providers write into objects, and what endpoints
//! of chains answer.

use std::collections::BTreeMap;

use alloy::{
    primitives::{Address, B256},
    rpc::{
        json_rpc::{Response, ResponsePayload, RpcError},
        types::{Block, Log, Transaction, TransactionReceipt},
    },
    signers::{SignerSync as _, local::PrivateKeySigner},
    sol_types::{SolCall, SolEvent as _},
};
use gridstake_crds::{
    compute_job::ComputeJobSpec,
    gpu_node::{GpuNode, IdleRule, OfferWindow},
    measurement::Measurement,
    names::{ANNOTATION_LOCAL_USE, ANNOTATION_PAYER, ANNOTATION_PAYER_CONSENT},
    usage_record::{Checkpoint, Counters, Evidence},
};
use gridstake_fuzz::{Verdict, corpus, fuzz};
use gridstake_ledger::{
    batch::{self, Entry},
    checkpoint, signature,
};
use k8s_openapi::{api::coordination::v1::Lease, jiff::Timestamp};
use serde_json::{Value, json};

use crate::{
    chain::{
        contracts::{Settlement, StakeVault},
        fixtures,
        rpc_error::RpcFailure,
    },
    controllers::{
        compute_job::template,
        gpu_node::{local_use, offer_windows},
        usage_record::{
            evidence::{KeyStanding, Proof, Surroundings, judge},
            observe,
        },
    },
    payer::consent::{NamespaceSays, consent},
    reputation::{history::History, key::Owner, shard::Shard},
    scheduler::{
        fair_share::Payer,
        quantity,
        request::{ComputeCapability, JobUid},
    },
    settlement::outcome,
};

/// Text targets take what is no UTF-8 for refused: JSON brings none.
fn text(bytes: &[u8], parser: impl FnOnce(&str) -> Verdict) -> Verdict {
    std::str::from_utf8(bytes).map_or(Verdict::Refused, parser)
}

fn seeds(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

fn now() -> Timestamp {
    "2026-06-05T18:00:00Z".parse().unwrap()
}

#[test]
fn fuzz_quantities() {
    let good = seeds(&[
        "1",
        "500m",
        "80Gi",
        "1e3",
        "-1.5E-3",
        "+0.1k",
        "18446744073709551615",
        "9Ei",
    ]);
    fuzz("quantity", corpus!("quantity"), &good, |bytes| {
        text(bytes, |text| {
            let milli = quantity::parse_milli(text);
            match (&milli, quantity::parse_milli_unsigned(text)) {
                (Ok(signed), Ok(unsigned)) => {
                    assert!(
                        u64::try_from(*signed).is_ok_and(|it| it == unsigned)
                            || unsigned == i64::MAX.unsigned_abs()
                    );
                }
                (Ok(signed), Err(_)) => {
                    assert!(*signed < 0, "{text:?} is {signed} and not zero or more");
                }
                (Err(_), unsigned) => assert!(unsigned.is_err()),
            }
            let _ = quantity::parse_units(text);
            Verdict::of(milli)
        })
    });
}

/// Who holds the key of one node, and so can sign what it likes, can still not have anything proven that it did not sign.
#[test]
fn fuzz_evidence() {
    let signed = signed_evidence();
    let good = vec![serde_json::to_vec(&signed).unwrap()];
    fuzz("evidence", corpus!("evidence"), &good, |bytes| {
        let Ok(evidence) = serde_json::from_slice::<Evidence>(bytes) else {
            return Verdict::Refused;
        };
        for is_foreign in [false, true] {
            let around = Surroundings {
                pod_uid: Some("p"),
                key: &KeyStanding::InForce,
                head_ms: None,
                heard_ms: Some(1_000_000),
                passed_ms: Some(1_000_000),
                before: &[],
                is_foreign,
                refused: None,
            };
            let judgement = judge("u-1-0-0", &evidence, around);
            let last = judgement.proof().and_then(|proof: &Proof| proof.last_ms);
            if evidence.key == signed.key {
                assert!(
                    last.is_none_or(|last| last <= 200),
                    "{last:?} was never signed"
                );
            }
            if let Some(proof) = judgement.proof() {
                let _ = proof.outside_gaps(100);
            }
        }
        Verdict::Accepted
    });
}

/// Two statements of 100 ms each.
fn signed_evidence() -> Evidence {
    let key = PrivateKeySigner::from_bytes(&B256::repeat_byte(1)).unwrap();
    let subject = checkpoint::Subject {
        record: "u-1-0-0",
        pod_uid: "p",
        devices: checkpoint::devices_hash(&[]),
    };
    let mut previous = B256::ZERO;
    let mut checkpoints = Vec::new();
    for seq in 0..2 {
        let stated = checkpoint::Checkpoint {
            epoch: 1,
            seq,
            from_ms: seq * 100,
            to_ms: seq * 100 + 100,
            folded: 0,
            counters: checkpoint::Counters::default(),
            previous,
        };
        let signed = key.sign_hash_sync(&stated.digest(subject)).unwrap();
        checkpoints.push(Checkpoint {
            epoch: 1,
            seq,
            from_ms: stated.from_ms,
            to_ms: stated.to_ms,
            folded: None,
            counters: Counters::default(),
            previous: previous.to_string(),
            head: stated.head(subject).to_string(),
            signature: signature::text(&signed),
        });
        previous = stated.head(subject);
    }
    Evidence {
        pod_uid: "p".into(),
        key: key.address().to_string(),
        devices: vec![],
        started_ms: Some(0),
        ended_ms: None,
        checkpoints,
        gaps: vec![],
        foreign_processes: None,
        sealed: None,
    }
}

#[test]
fn fuzz_heads_in_heartbeats() {
    let good = seeds(&[
        r#"{"u-1-0-0":{"toMs":1800000000000,"seq":3,"head":"0x01"},"u-2-0-0":{"toMs":7}}"#,
    ]);
    fuzz(
        "heartbeat-heads",
        corpus!("heartbeat-heads"),
        &good,
        |bytes| {
            text(bytes, |text| {
                Verdict::of_option(observe::head_ms(text, "u-1-0-0"))
            })
        },
    );
}

#[test]
fn fuzz_local_use_in_heartbeats() {
    let good = seeds(&[
        r#"{"sinceMs":1800000010000,"heldMs":1800000050000,"peaks":[[1800000020000,90],[1800000040000,6]]}"#,
    ]);
    let rule = IdleRule {
        max_utilization_percent: 5,
        window_seconds: 60,
    };
    fuzz("local-use", corpus!("local-use"), &good, |bytes| {
        text(bytes, |told| {
            let lease: Lease = serde_json::from_value(json!({
                "metadata": {"name": "agent-n1", "annotations": {ANNOTATION_LOCAL_USE: told}},
                "spec": {"renewTime": now()},
            }))
            .unwrap();
            let idle = local_use::idle_since(&lease, now(), &rule);
            assert!(
                idle.is_none_or(|since| since <= now()),
                "idle since {idle:?}, which is to come"
            );
            Verdict::of_option(idle)
        })
    });
}

#[test]
fn fuzz_windows() {
    let good = seeds(&[
        "0 20 * * 1-5|10h|Europe/Berlin",
        "*/15 * * * *|5m|",
        "30 2 29 2 SUN,MON|100h|Australia/Lord_Howe",
        "0 0 1 JAN-DEC/2 7|1s|America/St_Johns",
    ]);
    fuzz("window", corpus!("window"), &good, |bytes| {
        text(bytes, |text| {
            let mut parts = text.split('|');
            let (cron, duration, zone) = (parts.next(), parts.next(), parts.next());
            let zone = zone.filter(|zone| !zone.is_empty());
            let read = serde_json::from_value::<OfferWindow>(
                json!({"cron": cron, "duration": duration, "timeZone": zone}),
            );
            let Ok(window) = read else {
                return Verdict::Refused;
            };
            let standing = offer_windows::standing(&[window], now());
            if let Ok(standing) = &standing {
                assert!(
                    standing.changes_at > now(),
                    "it would be asked again at once, for ever"
                );
            }
            Verdict::of(standing)
        })
    });
}

#[test]
fn fuzz_consents() {
    let signature = format!("0x{}1b", "11".repeat(64));
    let terms =
        json!({"dailyCap": "100", "expires": "2027-01-01T00:00:00Z", "signature": signature});
    let good = vec![format!("3\n{terms}").into_bytes()];
    let view = crate::chain::ChainView {
        payers: std::sync::Arc::new(BTreeMap::from([(
            3,
            Some(crate::chain::view::PayerView {
                owner: Address::repeat_byte(1),
                balance: 1,
                ..Default::default()
            }),
        )])),
        ..fixtures::view()
    };
    let owner = Address::repeat_byte(1);
    let config = fixtures::config();
    fuzz("consent", corpus!("consent"), &good, |bytes| {
        text(bytes, |text| {
            let (payer, terms) = text.split_once('\n').unwrap_or((text, ""));
            let annotations = BTreeMap::from([
                (ANNOTATION_PAYER.to_owned(), payer.to_owned()),
                (ANNOTATION_PAYER_CONSENT.to_owned(), terms.to_owned()),
            ]);
            let namespace = NamespaceSays {
                name: "team",
                uid: "u-1",
                annotations: &annotations,
                is_by_default: false,
            };
            // No signature can be forged here: a recovered owner is told by the caller.
            let read = consent(&namespace, &config, Some(&view), now(), |_, _| Some(owner));
            if let Ok(consent) = &read {
                assert!(consent.payer == 3 && consent.expires >= now());
            }
            let stranger = consent_of_a_stranger(&namespace, &config, &view);
            assert!(stranger, "somebody else's signature is no consent");
            Verdict::of(read)
        })
    });
}

fn consent_of_a_stranger(
    namespace: &NamespaceSays<'_>,
    config: &crate::chain::ChainConfig,
    view: &crate::chain::ChainView,
) -> bool {
    consent(namespace, config, Some(view), now(), |_, _| {
        Some(Address::repeat_byte(2))
    })
    .is_err()
}

#[test]
fn fuzz_specs_of_jobs() {
    let good = seeds(&[
        r#"{"gpu":{"count":2,"models":["A100"],"minMemoryMiB":1000,"minComputeCapability":"8.0"},"members":3,"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"main","image":"a","resources":{"limits":{"nvidia.com/gpu":2,"cpu":"500m"}},"env":[{"name":"A","value":"b"}],"ports":[{"containerPort":80}]}],"initContainers":[{"name":"i","image":"b"}],"affinity":{"nodeAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":{"nodeSelectorTerms":[{"matchExpressions":[{"key":"a","operator":"In","values":["b"]}]}]}}},"tolerations":[{"key":"k","operator":"Exists"}]}},"timeouts":{"queue":"1h","run":"24h"},"pricing":{"maxPerGpuSecond":"0.00072"}}"#,
    ]);
    fuzz("job-spec", corpus!("job-spec"), &good, |bytes| {
        let Ok(spec) = serde_json::from_slice::<ComputeJobSpec>(bytes) else {
            return Verdict::Refused;
        };
        for fault in template::faults(&spec) {
            assert!(fault.path.starts_with("spec."), "{fault}");
        }
        Verdict::Accepted
    });
}

#[test]
fn fuzz_gpu_nodes() {
    let good = seeds(&[
        r#"{"apiVersion":"gridstake.dev/v1alpha1","kind":"GpuNode","metadata":{"name":"n1"},"spec":{"mode":"Always","pricing":{"perGpuSecond":"0.0005"}},"status":{"devices":[{"uuid":"GPU-1","index":0,"model":"NVIDIA A100-SXM4-80GB","architecture":"Ampere","memoryMiB":81920,"computeCapability":"8.0","pciBusId":"00000000:07:00.0","health":"Healthy"}],"driver":{"version":"570.1"}}}"#,
    ]);
    fuzz("gpu-node", corpus!("gpu-node"), &good, |bytes| {
        let Ok(node) = serde_json::from_slice::<GpuNode>(bytes) else {
            return Verdict::Refused;
        };
        if let Some(status) = &node.status {
            let _ = status.models();
            for device in &status.devices {
                let _ = device.compute_capability.parse::<ComputeCapability>();
            }
        }
        Verdict::Accepted
    });
}

#[test]
fn fuzz_measurements() {
    let good = seeds(&[
        r#"{"version":1,"gpus":[{"uuid":"GPU-a","fp32Gflops":61000,"memoryGBs":3000,"digestOk":true}]}"#,
    ]);
    fuzz("measurement", corpus!("measurement"), &good, |bytes| {
        text(bytes, |text| {
            let read = Measurement::read(text);
            assert!(read.as_ref().is_none_or(|it| it.gpus.len() <= 64));
            Verdict::of_option(read)
        })
    });
}

#[test]
fn fuzz_names_of_jobs_payers_owners_and_capabilities() {
    let good = seeds(&[
        "0f8fad5b-d9cb-469f-a165-70867728950e",
        "account/anvil/7",
        "namespace/team",
        "7@31337:0x0000000000000000000000000000000000000052",
        "-",
        "9.0",
    ]);
    fuzz("name", corpus!("name"), &good, |bytes| {
        text(bytes, |text| {
            let uid = text
                .parse::<JobUid>()
                .map(|it| assert_eq!(it.to_string().parse(), Ok(it)))
                .is_ok();
            let payer = text.parse::<Payer>().is_ok();
            let owner = text
                .parse::<Owner>()
                .map(|it| assert_eq!(it.to_string().parse(), Ok(it)))
                .is_ok();
            let capability = text
                .parse::<ComputeCapability>()
                .map(|it| assert_eq!(it.to_string().parse(), Ok(it)))
                .is_ok();
            if uid || payer || owner || capability {
                Verdict::Accepted
            } else {
                Verdict::Refused
            }
        })
    });
}

#[test]
fn fuzz_histories() {
    let good = seeds(&[
        "0 0 0",
        "3600000 20003 1440-12+5!1,0,1440*2",
        "7 4294967295 1!1*30",
    ]);
    fuzz("history", corpus!("history"), &good, |bytes| {
        text(bytes, |text| {
            let Ok(mut history) = text.parse::<History>() else {
                return Verdict::Refused;
            };
            assert_eq!(history.to_string().parse(), Ok(history.clone()));
            let _ = history.lately(history.last_day());
            history.note(20_004, crate::reputation::history::Day::default(), u64::MAX);
            Verdict::Accepted
        })
    });
}

#[test]
fn fuzz_shards_of_histories() {
    let data = json!({
        "format": "gridstake-reputation/1",
        "before": "5",
        "counted": "00000000000000ff:1800000000",
        "minute": "30000000",
        "gpus": "GPU-1 7@31337:0x0000000000000000000000000000000000000052 3600000 20003 1440-12+5!1,0,1440*2\nGPU-2 - 0 20003 1440\n",
    });
    let shard = data_of_an_empty_shard();
    let good = vec![serde_json::to_vec(&merged(shard, &data)).unwrap()];
    fuzz("shard", corpus!("shard"), &good, |bytes| {
        let Ok(data) = serde_json::from_slice::<BTreeMap<String, String>>(bytes) else {
            return Verdict::Refused;
        };
        let Ok(shard) = Shard::read(&data) else {
            return Verdict::Refused;
        };
        let again = Shard::read(&shard.data()).unwrap();
        assert_eq!(again.data(), shard.data());
        Verdict::Accepted
    });
}

/// What a shard that holds nothing says, its format among it.
fn data_of_an_empty_shard() -> BTreeMap<String, String> {
    Shard::default().data()
}

fn merged(mut shard: BTreeMap<String, String>, data: &Value) -> BTreeMap<String, String> {
    for (field, text) in data.as_object().unwrap() {
        if field != "format" {
            shard.insert(field.clone(), text.as_str().unwrap().to_owned());
        }
    }
    shard
}

/// The answers of an endpoint, by the types that the operator reads them as.
#[test]
fn fuzz_answers_of_an_endpoint() {
    let (contract, content) = settled_batch();
    let log = serde_json::to_value(settled_log(contract)).unwrap();
    let hash = B256::repeat_byte(7);
    let header = json!({
        "hash": hash, "parentHash": hash, "sha3Uncles": hash, "miner": contract, "stateRoot": hash, "transactionsRoot": hash,
        "receiptsRoot": hash, "logsBloom": format!("0x{}", "00".repeat(256)), "difficulty": "0x0", "number": "0x64",
        "gasLimit": "0x1c9c380", "gasUsed": "0x0", "timestamp": "0xf4240", "extraData": "0x", "mixHash": hash,
        "nonce": "0x0000000000000000", "baseFeePerGas": "0x7", "uncles": [], "transactions": [],
    });
    let receipt = json!({
        "type": "0x2", "status": "0x1", "cumulativeGasUsed": "0x5208", "logs": [log], "logsBloom": format!("0x{}", "00".repeat(256)),
        "transactionHash": hash, "transactionIndex": "0x0", "blockHash": hash, "blockNumber": "0x64", "gasUsed": "0x5208",
        "effectiveGasPrice": "0x7", "from": contract, "to": contract, "contractAddress": null,
    });
    let answer = |result: Value| {
        serde_json::to_vec(&json!({"jsonrpc": "2.0", "id": 1, "result": result})).unwrap()
    };
    let good = vec![
        answer(json!("0x7a69")),
        answer(header),
        answer(receipt),
        answer(json!([log])),
        answer(Value::Null),
        br#"{"jsonrpc":"2.0","id":1,"error":{"code":3,"message":"execution reverted","data":"0x0102"}}"#.to_vec(),
        br#"{"jsonrpc":"2.0","id":1,"error":{"code":-32000,"message":"header not found"}}"#.to_vec(),
    ];
    fuzz("rpc-answer", corpus!("rpc-answer"), &good, |bytes| {
        let Ok(answer) = serde_json::from_slice::<Response>(bytes) else {
            return Verdict::Refused;
        };
        match answer.payload {
            ResponsePayload::Failure(error) => {
                let failure = RpcFailure::from(RpcError::ErrorResp(error));
                assert!(failure.to_string().len() < 100_000);
            }
            ResponsePayload::Success(result) => {
                let result = result.get();
                let _ = serde_json::from_str::<Option<Block>>(result);
                let _ = serde_json::from_str::<Option<Transaction>>(result);
                let receipt = serde_json::from_str::<Option<TransactionReceipt>>(result);
                let mut logs = serde_json::from_str::<Vec<Log>>(result).unwrap_or_default();
                logs.extend(
                    receipt
                        .ok()
                        .flatten()
                        .into_iter()
                        .flat_map(|receipt| receipt.inner.logs().to_vec()),
                );
                let settled = outcome::read(&logs, contract, 7, 1, &content);
                assert!(settled.is_none_or(|it| it.skipped.len() <= content.entries.len()));
            }
        }
        Verdict::Accepted
    });
}

/// A batch of two entries.
fn settled_batch() -> (Address, batch::Batch) {
    let entry = |job_no| Entry {
        job_no,
        payer: 3,
        provider: 2,
        price: 1_000_000_000_000,
        units: 10,
    };
    let payload = batch::encode(&[entry(256), entry(257)], &[]).unwrap();
    (Address::repeat_byte(1), batch::decode(&payload).unwrap())
}

/// The event that it was settled.
fn settled_log(contract: Address) -> Log {
    let event = Settlement::BatchSettled {
        lane: 7,
        seq: 1,
        chainHash: B256::repeat_byte(9),
        usageRoot: B256::repeat_byte(8),
        summary: "0x140000000200000000".parse().unwrap(),
        amounts: vec![0, 0, 0, 0, 0, 0, 0, 20].into(),
    };
    Log {
        inner: alloy::primitives::Log {
            address: contract,
            data: event.encode_log_data(),
        },
        ..Log::default()
    }
}

/// What contracts return, as bytes: an endpoint may make them up.
#[test]
fn fuzz_values_that_contracts_return() {
    let zeros = vec![0; 32 * 24];
    fuzz("abi", corpus!("abi"), &[zeros], |bytes| {
        let _ = Settlement::laneOfCall::abi_decode_returns(bytes);
        let _ = Settlement::thawOfCall::abi_decode_returns(bytes);
        let _ = StakeVault::providerOfCall::abi_decode_returns(bytes);
        let _ = StakeVault::slashOfCall::abi_decode_returns(bytes);
        let _ = StakeVault::ticketsOfCall::abi_decode_returns(bytes);
        Verdict::of(Settlement::settlePausedCall::abi_decode_returns(bytes))
    });
}
