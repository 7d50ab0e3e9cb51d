//! Final batches in the archive, and their verification from archive and chain alone.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use alloy::{
    hex,
    primitives::{B256, U256},
    signers::{SignerSync as _, local::PrivateKeySigner},
    sol_types::{SolCall as _, SolEvent as _},
};
use gridstake_contracts::Settlement;
use gridstake_crds::{UsageRecord, settlement_batch::BatchState, usage_record::RecordState};
use gridstake_ledger::{
    archive, batch,
    checkpoint::{Checkpoint, Counters, Device, Subject, devices_hash},
    signature,
    statement::Statement,
    verify::{
        Fault,
        all::{self, Item, LaneError, VerifiedLane},
        chain::{self, ChainBatch},
        evidence::Signatures,
        file::FileError,
    },
    week::Week,
};
use gridstake_operator::{
    archive::{SHORTEST_RETENTION, Terms},
    controllers::usage_record::receipt,
};
use serde_json::{Value, json};

use crate::{
    anvil::PAYER,
    world::{LANE, Replica, World, sealed},
};

const ESCROW: u64 = 1_000_000_000_000;
const KEEP: Terms = Terms {
    retention: SHORTEST_RETENTION,
    removes: true,
};

/// A folder of the test's own, which is not there yet.
fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!(
        "gridstake-chain-archive-{}-{name}",
        std::process::id()
    ));
    let _ = std::fs::remove_dir_all(&folder);
    let _ = std::fs::remove_file(&folder);
    folder
}

async fn settle(world: &World, replica: &mut Replica) {
    for _ in 0..20 {
        replica.step().await;
        let states = world.states();
        let over = |state: &RecordState| matches!(state, RecordState::Final | RecordState::Skipped);
        if states.len() == world.api.records().len() && states.values().all(over) {
            return;
        }
        world.anvil.mine(1).await;
    }
    panic!("not final: {:?}", world.states());
}

/// What the chain says about the lane, read as an auditor would.
pub async fn on_chain(world: &World) -> Vec<ChainBatch> {
    let topics = json!([
        Settlement::BatchSettled::SIGNATURE_HASH,
        B256::from(U256::from(LANE))
    ]);
    let filter = json!([{"address": world.settlement, "topics": topics, "fromBlock": "0x0"}]);
    let logs = world.anvil.rpc("eth_getLogs", filter).await;
    let mut batches = Vec::new();
    for log in logs.as_array().unwrap() {
        let hash = &log["transactionHash"];
        let transaction = world
            .anvil
            .rpc("eth_getTransactionByHash", json!([hash]))
            .await;
        let receipt = world
            .anvil
            .rpc("eth_getTransactionReceipt", json!([hash]))
            .await;
        let input = bytes(&transaction["input"]);
        let call = Settlement::settleCall::abi_decode(&input).unwrap();
        let (mut left_out, mut statements) = (BTreeMap::new(), Vec::new());
        for log in receipt["logs"].as_array().unwrap() {
            if let Ok(event) = event::<Settlement::JobsSkipped>(log) {
                left_out.insert(event.wordNo, U256::from(event.bits));
            } else if let Ok(event) = event::<Settlement::Stated>(log) {
                statements.push(Statement {
                    kind: event.kind,
                    number: event.number,
                    subject: event.subject,
                    content: event.content,
                });
            }
        }
        let settled = event::<Settlement::BatchSettled>(log).unwrap();
        batches.push(ChainBatch {
            chain_id: 31337,
            contract: world.settlement,
            lane: LANE,
            sequence: settled.seq,
            previous: call.prev,
            usage_root: settled.usageRoot,
            chain_hash: settled.chainHash,
            data: call.data.to_vec(),
            outcome: batch::outcome(settled.summary, &settled.amounts).unwrap(),
            left_out,
            statements,
            transaction: hash.as_str().unwrap().parse().unwrap(),
            block: quantity(&receipt["blockNumber"]),
            timestamp: quantity(&log["blockTimestamp"]),
        });
    }
    let head = world
        .anvil
        .call(world.settlement, &Settlement::headCall { lane: LANE })
        .await;
    assert_eq!(
        chain::is_whole(&batches, Some((head.seq, head.chainHash))),
        Ok(())
    );
    batches
}

fn quantity(value: &Value) -> u64 {
    u64::from_str_radix(&value.as_str().unwrap()[2..], 16).unwrap()
}

fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().unwrap()).unwrap()
}

fn event<E: alloy::sol_types::SolEvent>(log: &Value) -> alloy::sol_types::Result<E> {
    let topics: Vec<B256> = log["topics"]
        .as_array()
        .unwrap()
        .iter()
        .map(|topic| topic.as_str().unwrap().parse().unwrap())
        .collect();
    E::decode_raw_log(topics, &bytes(&log["data"]))
}

/// Verifies the lane from chain and folder.
fn verified(
    batches: Vec<ChainBatch>,
    folder: &Path,
) -> Result<VerifiedLane, LaneError<std::io::Error>> {
    let items: Vec<Item> = batches
        .into_iter()
        .map(|chain| {
            let index =
                archive::index_path(chain.chain_id, chain.contract, chain.lane, chain.sequence);
            let entry = std::fs::read(folder.join(index)).unwrap();
            let address = archive::read_index_entry(&entry).unwrap();
            Item {
                chain,
                name: archive::object_path(address),
                address,
            }
        })
        .collect();
    all::verify(&items, 2, Signatures::Every, |item| {
        std::fs::read(folder.join(&item.name))
    })
}

fn archived(world: &World, sequence: u64) -> (String, String, String) {
    let status = world.batch(sequence).status.unwrap();
    let condition = status
        .conditions
        .into_iter()
        .find(|condition| condition.type_ == "Archived")
        .unwrap();
    (condition.status, condition.reason, condition.message)
}

#[tokio::test]
async fn a_final_batch_is_archived_and_verified_from_archive_and_chain_alone() {
    let folder = folder("verified");
    let world = World::new(ESCROW).await;
    let mut replica = world.replica().await;
    let mut archivist = replica.archivist(&folder, KEEP);
    for from in [256, 512] {
        world.seal(from..from + 5, 1000);
        settle(&world, &mut replica).await;
        archivist.one_pass().await;
    }
    for sequence in [1, 2] {
        let (status, reason, _) = archived(&world, sequence);
        assert_eq!((status.as_str(), reason.as_str()), ("True", "Archived"));
    }
    let hash = world.batch(1).status.unwrap().archive_hash.unwrap();
    let records = world.api.records();
    let stamped = records.iter().filter(|record| {
        let status = record.status.as_ref().unwrap();
        status.settlement.as_ref().unwrap().archive_hash.as_ref() == Some(&hash)
    });
    assert_eq!(stamped.count(), 5);

    let chain = on_chain(&world).await;
    let lane = verified(chain.clone(), &folder).unwrap();
    assert_eq!((lane.summary.batches, lane.summary.entries), (2, 10));
    assert_eq!(lane.summary.paid[&(1, 1)], 10_000_000);
    assert_eq!(
        u64::try_from(lane.summary.paid[&(1, 1)]),
        Ok(world.credit().await)
    );

    // A byte of an object is changed.
    let object = folder.join(archive::object_path(hash.parse().unwrap()));
    let mut file = std::fs::read(&object).unwrap();
    let text = String::from_utf8(file.clone()).unwrap();
    let at = text.find("\"gpuMillis\":1000").unwrap() + "\"gpuMillis\":".len();
    file[at] = b'9';
    std::fs::write(&object, file).unwrap();
    let Err(LaneError::File(FileError::Wrong(finding))) = verified(chain, &folder) else {
        panic!("a changed file was verified");
    };
    assert_eq!(finding.fault, Fault::Content);
    assert!(finding.at.contains(&at), "{finding}");
}

/// A sealed record of a second, whose bill rests on two statements that an agent signed.
fn evidenced(number: u64) -> Value {
    let mut record = sealed(number, 1, 1, 1000);
    let name = record["metadata"]["name"].as_str().unwrap().to_owned();
    let agent = PrivateKeySigner::from_bytes(&B256::repeat_byte(9)).unwrap();
    let device = Device {
        uuid: "GPU-1".to_owned(),
        parent_uuid: String::new(),
        share: (1, 1),
    };
    let subject = Subject {
        record: &name,
        pod_uid: "pod",
        devices: devices_hash(&[device]),
    };
    let mut previous = B256::ZERO;
    let mut stated = Vec::new();
    for (seq, (from_ms, to_ms)) in (0..).zip([(0, 500), (500, 1000)]) {
        let checkpoint = Checkpoint {
            epoch: 0,
            seq,
            from_ms,
            to_ms,
            folded: 0,
            counters: Counters::default(),
            previous,
        };
        let signed = agent.sign_hash_sync(&checkpoint.digest(subject)).unwrap();
        let head = checkpoint.head(subject);
        stated.push(json!({
            "epoch": 0, "seq": seq, "fromMs": from_ms, "toMs": to_ms, "previous": previous, "head": head,
            "signature": signature::text(&signed),
        }));
        previous = head;
    }
    record["status"]["evidence"] = json!({
        "podUid": "pod", "key": agent.address(), "devices": [{"uuid": "GPU-1"}], "checkpoints": stated,
        "startedMs": 0, "endedMs": 1000,
    });
    record["status"]["sealed"]["evidenceHead"] = json!(previous);
    let read: UsageRecord = serde_json::from_value(record.clone()).unwrap();
    let seal = read.status.as_ref().unwrap().sealed.as_ref().unwrap();
    record["status"]["sealed"]["receiptHash"] = json!(receipt::hash(&read, seal).unwrap());
    record
}

#[tokio::test]
async fn evidence_is_archived_with_the_bill_that_rests_on_it() {
    let folder = folder("evidence");
    let world = World::new(ESCROW).await;
    let mut replica = world.replica().await;
    let mut archivist = replica.archivist(&folder, KEEP);
    world.api.seal(&evidenced(256));
    world.seal(257..258, 1000);
    settle(&world, &mut replica).await;
    archivist.one_pass().await;
    let lane = verified(on_chain(&world).await, &folder).unwrap();
    let summary = &lane.summary;
    assert_eq!((summary.evidenced, summary.without_evidence), (1, 1));
    assert_eq!(summary.signatures, 2);
    let slice = lane.files[0].entries[0].slice.as_ref().unwrap();
    assert_eq!(slice.gpus, [("GPU-1".to_owned(), (1, 1))]);
}

#[tokio::test]
async fn entries_that_were_left_out_are_verified_as_left_out_and_paid_later_once() {
    let folder = folder("skipped");
    let world = World::new(ESCROW).await;
    let mut replica = world.replica().await;
    let mut archivist = replica.archivist(&folder, KEEP);
    // Payer 2 takes its deposit back while the batch is under way: its group is left out.
    let anvil = &world.anvil;
    anvil.rpc("evm_setAutomine", json!([true])).await;
    let register = Settlement::registerPayerCall { lane: LANE };
    anvil.transact(PAYER, world.settlement, &register).await;
    world.deposit(2, 1_000_000).await;
    let thaw = Settlement::thawCall {
        lane: LANE,
        payer: 2,
        amount: 1_000_000,
    };
    anvil.transact(PAYER, world.settlement, &thaw).await;
    anvil.pass_time(7 * 24 * 3600).await;
    anvil.hold().await;
    world.seal(256..258, 1000);
    world.seal_one(258, 2, 1, 1000);
    replica.step().await;
    anvil.drop_pending().await;
    anvil.rpc("evm_setAutomine", json!([true])).await;
    let withdraw = Settlement::withdrawCall {
        lane: LANE,
        payer: 2,
    };
    anvil.transact(PAYER, world.settlement, &withdraw).await;
    anvil.hold().await;
    settle(&world, &mut replica).await;
    archivist.one_pass().await;
    assert_eq!(world.states()[&258], RecordState::Skipped);
    let lane = verified(on_chain(&world).await, &folder).unwrap();
    assert_eq!((lane.summary.entries, lane.summary.left_out), (3, 1));
    let skipped = world.api.records().into_iter().find(|record| {
        let sealed = record.status.as_ref().unwrap().sealed.as_ref().unwrap();
        sealed.job_no == Some(258)
    });
    let settlement = skipped.unwrap().status.unwrap().settlement.unwrap();
    assert_eq!(settlement.archive_hash, None, "it is not paid yet");
}

#[tokio::test]
async fn an_archive_that_cannot_be_written_loses_nothing_and_is_written_once_it_is_mended() {
    let folder = folder("unwritable");
    std::fs::write(&folder, "a file is in the way").unwrap();
    let world = World::new(ESCROW).await;
    let mut replica = world.replica().await;
    let mut archivist = replica.archivist(&folder, KEEP);
    world.seal(256..260, 1000);
    settle(&world, &mut replica).await;
    archivist.one_pass().await;
    let (status, reason, message) = archived(&world, 1);
    assert_eq!(
        (status.as_str(), reason.as_str()),
        ("False", "ArchiveUnavailable")
    );
    assert!(message.contains("make the folder"), "{message}");
    // Nothing changes by trying again, and nothing is removed.
    let writes = world.api.writes();
    archivist.one_pass().await;
    archivist.look_around();
    archivist.one_pass().await;
    assert_eq!(world.api.writes(), writes);
    assert_eq!(
        (world.api.batches().len(), world.api.records().len()),
        (1, 4)
    );

    std::fs::remove_file(&folder).unwrap();
    archivist.one_pass().await;
    let (status, reason, _) = archived(&world, 1);
    assert_eq!((status.as_str(), reason.as_str()), ("True", "Archived"));
    assert!(verified(on_chain(&world).await, &folder).is_ok());
}

#[tokio::test]
async fn a_batch_that_was_archived_before_the_backup_was_restored_stays_archived_though_its_records_are_gone()
 {
    let folder = folder("restored");
    let world = World::new(ESCROW).await;
    let mut replica = world.replica().await;
    let mut archivist = replica.archivist(&folder, KEEP);
    let backup = world.api.save();
    world.seal(256..260, 1000);
    settle(&world, &mut replica).await;
    archivist.one_pass().await;
    let before = world.batch(1).status.unwrap().archive_hash;

    world.api.restore(&backup);
    let mut replica = world.replica().await;
    let is_final = || {
        let batches = world.api.batches();
        let state = batches.first().and_then(|b| b.status.as_ref()?.state);
        state == Some(BatchState::Final)
    };
    for _ in 0..20 {
        replica.step().await;
        if is_final() {
            break;
        }
        world.anvil.mine(1).await;
    }
    // Somewhere else nobody knows what its numbers pay.
    let elsewhere = self::folder("restored-elsewhere");
    replica.archivist(&elsewhere, KEEP).one_pass().await;
    let (status, reason, message) = archived(&world, 1);
    assert_eq!(
        (status.as_str(), reason.as_str()),
        ("False", "NotArchived"),
        "{message}"
    );
    let replica = world.replica().await;
    replica.archivist(&folder, KEEP).one_pass().await;
    let (status, reason, _) = archived(&world, 1);
    assert_eq!((status.as_str(), reason.as_str()), ("True", "Archived"));
    assert_eq!(world.batch(1).status.unwrap().archive_hash, before);
    assert!(verified(on_chain(&world).await, &folder).is_ok());
}

#[tokio::test]
async fn what_a_lost_volume_held_is_written_again_before_anything_is_removed() {
    let folder = folder("lost");
    let world = World::new(ESCROW).await;
    let mut replica = world.replica().await;
    for from in [256, 512] {
        world.seal(from..from + 3, 1000);
        settle(&world, &mut replica).await;
    }
    let old = Terms {
        retention: Duration::ZERO,
        removes: true,
    };
    // A process that starts anew finds what is final by itself.
    let mut archivist = replica.archivist(&folder, KEEP);
    archivist.one_pass().await;
    assert!(verified(on_chain(&world).await, &folder).is_ok());
    std::fs::remove_dir_all(&folder).unwrap();

    let mut replica = world.replica().await;
    let mut archivist = replica.archivist(&folder, old);
    archivist.one_pass().await;
    assert!(verified(on_chain(&world).await, &folder).is_ok());
    assert_eq!(world.api.batches().len(), 2, "their week is not reported");
    let later = Week::of(4_000_000_000);
    replica.lane.statements().reported_before(later);
    archivist.look_around();
    archivist.one_pass().await;
    let left = world.api.batches();
    assert_eq!(left.len(), 1, "the newest one stays");
    assert_eq!(left[0].spec.sequence, 2);
    assert_eq!(
        left[0].status.as_ref().unwrap().state,
        Some(BatchState::Final)
    );
    // Settlement goes on from it.
    world.seal(768..770, 1000);
    settle(&world, &mut replica).await;
    assert_eq!(world.head().await, 3);
    archivist.one_pass().await;
    assert_eq!(
        verified(on_chain(&world).await, &folder)
            .unwrap()
            .summary
            .batches,
        3
    );
}
