//! How long it takes to verify a week of a lane, offline, with real signatures. `make bench-verify` runs it.
//!
//! Environment: `SLICES` (default 100000), `CHECKPOINTS` a slice (default 13: one at its begin and every five minutes),
//! `EVERY` (not empty: checks every signature as well).

#![allow(
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    missing_docs,
    reason = "a benchmark"
)]

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use alloy_primitives::{Address, B256, Signature};
use gridstake_ledger::{
    archive::{
        self, ArchivedBatch, ArchivedEntry, Background, BatchHead, Content, DeviceUse, Evidence,
        Use,
    },
    batch::{self, Entry, Outcome},
    checkpoint::{
        Checkpoint, Counters, Device, Signed, StatementHasher, Subject, devices_hash, digest_of,
    },
    merkle,
    verify::{
        all::{self, Item},
        chain::ChainBatch,
        evidence::Signatures,
    },
};
use k256::ecdsa::SigningKey;

/// What it is held against.
const AT_MOST: Duration = Duration::from_secs(10);
const HOUR: u64 = 3_600_000;
const BEGIN: u64 = 1_795_392_000_000;
const HOURS: u64 = 168;
const GPUS_OF_A_NODE: u64 = 8;
const LANE: u32 = 7;
const PRICE: u64 = 720_000_000_000;
const OF_A_BATCH: u64 = 1000;

fn number(name: &str, otherwise: u64) -> u64 {
    env::var(name).map_or(otherwise, |text| text.parse().unwrap())
}

struct Week {
    /// Leases that run all the time.
    leases: u64,
    slices: u64,
    checkpoints: u64,
}

impl Week {
    fn key_of(node: u64) -> SigningKey {
        let mut bytes = [7; 32];
        bytes[24..].copy_from_slice(&node.to_be_bytes());
        SigningKey::from_slice(&bytes).unwrap()
    }

    fn slice(&self, number: u64) -> Use {
        let (hour, lease) = (number / self.leases, number % self.leases);
        let node = lease / GPUS_OF_A_NODE;
        let key = Self::key_of(node);
        let (start_ms, end_ms) = (BEGIN + hour * HOUR, BEGIN + (hour + 1) * HOUR);
        let record = format!("6f0b7a3e-5c1d-4e2a-9b8f-{lease:012}-1-0-{hour}");
        let pod_uid = format!("0d9c1b2a-7e6f-4d5c-8b3a-{lease:012}");
        let device = Device {
            uuid: format!("GPU-3a1f0c9e-2b4d-4c6e-8f7a-{lease:012}"),
            parent_uuid: String::new(),
            share: (1, 1),
        };
        let hasher = StatementHasher::new(Subject {
            record: &record,
            pod_uid: &pod_uid,
            devices: devices_hash(std::slice::from_ref(&device)),
        });
        let counters = Counters {
            busy_millis: Some(287_113),
            memory_mib_seconds: Some(21_599_800),
            energy_millijoules: Some(199_441_870),
            peak_processes: Some(1),
            samples: Some(300),
        };
        let mut checkpoints: Vec<Signed> = Vec::new();
        let step = HOUR / (self.checkpoints - 1).max(1);
        for seq in 0..self.checkpoints {
            let to_ms = start_ms + seq * step;
            let checkpoint = Checkpoint {
                epoch: 1,
                seq,
                from_ms: if seq == 0 { to_ms } else { to_ms - step },
                to_ms,
                folded: 0,
                counters,
                previous: checkpoints.last().map(|last| last.head).unwrap_or_default(),
            };
            let head = hasher.head(&checkpoint);
            let (signature, parity) = key
                .sign_prehash_recoverable(digest_of(head).as_slice())
                .unwrap();
            let signature = Signature::from((signature, parity));
            checkpoints.push(Signed {
                checkpoint,
                head,
                signature: signature.normalize_s().unwrap_or(signature),
            });
        }
        Use {
            record,
            pod_uid: pod_uid.clone(),
            node: format!("gpu-node-{node:04}"),
            start_ms,
            end_ms,
            gpu_millis: HOUR,
            cause: "IntervalElapsed".to_owned(),
            verdict: String::new(),
            evidence_head: checkpoints.last().map(|last| last.head).unwrap_or_default(),
            evidence: Some(Evidence {
                pod_uid,
                key: Address::from_public_key(key.verifying_key()),
                devices: vec![DeviceUse { device, counters }],
                checkpoints,
                started_ms: Some(BEGIN),
                ended_ms: None,
                gaps: vec![],
                foreign_processes: Some(0),
            }),
            background: Background {
                namespace: "team".to_owned(),
                job: format!("train-{lease}"),
                pod: format!("train-{lease}-1-0"),
                gpus: 1,
                energy_millijoules: Some(2_393_302_440),
                factors: None,
            },
        }
    }

    fn entry(&self, number: u64) -> ArchivedEntry {
        let lease = number % self.leases;
        let used = self.slice(number);
        let mut entry = ArchivedEntry {
            entry: Entry {
                job_no: 256 + number,
                payer: u32::try_from(1 + lease % 10).unwrap(),
                provider: u32::try_from(1 + lease / GPUS_OF_A_NODE % 25).unwrap(),
                price: PRICE,
                units: used.gpu_millis,
            },
            leaf: B256::ZERO,
            content: Content::Use(Box::new(used)),
        };
        entry.leaf = entry.computed_leaf(LANE);
        entry
    }

    /// The file of a batch, and what the chain says about it but for the chain of hashes.
    fn batch(&self, index: u64) -> (ArchivedBatch, Outcome) {
        let numbers = index * OF_A_BATCH..((index + 1) * OF_A_BATCH).min(self.slices);
        let entries: Vec<ArchivedEntry> = numbers.map(|number| self.entry(number)).collect();
        let plain: Vec<Entry> = entries.iter().map(|entry| entry.entry).collect();
        let leaves: Vec<B256> = entries.iter().map(|entry| entry.leaf).collect();
        let decision_head = B256::repeat_byte(0xdd);
        let data = batch::encode(&plain, &[]).unwrap();
        let settled = batch::decode(&data).unwrap();
        let amounts = settled.amounts().unwrap();
        let outcome = Outcome {
            total: amounts.iter().sum(),
            paid: u32::try_from(plain.len()).unwrap(),
            skipped: 0,
            groups: amounts.into_iter().map(Some).collect(),
        };
        let head = BatchHead {
            chain_id: 8453,
            contract: Address::repeat_byte(0x51),
            lane: LANE,
            sequence: index + 1,
            previous: B256::ZERO,
            usage_root: merkle::usage_root(&leaves, decision_head),
            data,
            decision_head,
        };
        let batch = ArchivedBatch {
            head,
            certificates: vec![],
            entries,
        };
        (batch, outcome)
    }
}

/// Does `one` for each index, on all cores, and returns what it gave in their order.
fn on_all_cores<T: Send>(count: usize, threads: usize, one: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let mut made: Vec<(usize, T)> = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    let mut own = Vec::new();
                    loop {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        if index >= count {
                            return own;
                        }
                        own.push((index, one(index)));
                    }
                })
            })
            .collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().unwrap())
            .collect()
    });
    made.sort_by_key(|(index, _)| *index);
    made.into_iter().map(|(_, value)| value).collect()
}

/// Writes the week into `folder`.
fn write(week: &Week, folder: &Path, threads: usize) -> Vec<Item> {
    let count = usize::try_from(week.slices.div_ceil(OF_A_BATCH)).unwrap();
    let mut batches = on_all_cores(count, threads, |index| week.batch(index as u64));
    let mut previous = B256::ZERO;
    for (batch, _) in &mut batches {
        batch.head.previous = previous;
        previous = batch.head.chain_hash();
    }
    let addresses = on_all_cores(count, threads, |index| {
        let file = archive::encode(&batches[index].0);
        let address = archive::address(&file);
        let path = folder.join(archive::object_path(address));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, file).unwrap();
        address
    });
    batches
        .into_iter()
        .zip(addresses)
        .map(|((batch, outcome), address)| Item {
            chain: ChainBatch {
                chain_id: batch.head.chain_id,
                contract: batch.head.contract,
                lane: LANE,
                sequence: batch.head.sequence,
                previous: batch.head.previous,
                usage_root: batch.head.usage_root,
                chain_hash: batch.head.chain_hash(),
                data: batch.head.data,
                outcome,
                left_out: BTreeMap::new(),
                statements: vec![],
                transaction: B256::ZERO,
                block: 0,
                timestamp: 0,
            },
            name: archive::object_path(address),
            address,
        })
        .collect()
}

/// How long something took, and how much of the processors' time: where other programs run beside it, the second says
/// what the first would be without them.
struct Took {
    wall: Duration,
    cpu: Duration,
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, Took) {
    let (begin, cpu) = (Instant::now(), cpu_time());
    let result = work();
    let took = Took {
        wall: begin.elapsed(),
        cpu: cpu_time().saturating_sub(cpu),
    };
    (result, took)
}

/// The time that this process' threads have had, in user and system mode. Linux counts it in hundredths of a second.
fn cpu_time() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let fields: Vec<&str> = fields.split(' ').collect();
    let ticks: u64 = [11, 12]
        .iter()
        .map(|index| fields[*index].parse::<u64>().unwrap())
        .sum();
    Duration::from_millis(10 * ticks)
}

fn main() {
    let slices = number("SLICES", 100_000);
    let week = Week {
        leases: slices.div_ceil(HOURS),
        slices,
        checkpoints: number("CHECKPOINTS", 13).max(1),
    };
    let threads = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let folder: PathBuf =
        env::temp_dir().join(format!("gridstake-verify-week-{}", std::process::id()));
    let (items, made) = timed(|| write(&week, &folder, threads));
    let load = |item: &Item| fs::read(folder.join(&item.name));
    println!(
        "{} slices of {} checkpoints in {} files, signed in {:.1} s; {threads} threads",
        week.slices,
        week.checkpoints,
        items.len(),
        made.wall.as_secs_f64()
    );
    // The baseline: what it takes to read the files and to hash them once.
    let (bytes, hashed) = timed(|| {
        on_all_cores(items.len(), threads, |index| {
            let file = load(&items[index]).unwrap();
            assert!(archive::address(&file) == items[index].address);
            file.len()
        })
        .into_iter()
        .sum::<usize>()
    });
    let verify = |which| {
        timed(|| {
            let lane = all::verify(&items, threads, which, load).unwrap();
            assert!(lane.summary.evidenced == week.slices);
            lane.summary.signatures
        })
    };
    let (signatures, verified) = verify(Signatures::Last);
    let seconds = |time: Duration| time.as_secs_f64();
    println!("| what | wall | of all cores | at most | ratio |");
    println!(
        "| {} MiB read and hashed once | {:.2} s | {:.2} s | - | - |",
        bytes >> 20,
        seconds(hashed.wall),
        seconds(hashed.cpu)
    );
    println!(
        "| a week of {} slices verified, {signatures} signatures | {:.2} s | {:.2} s | {} s | {:.2} |",
        week.slices,
        seconds(verified.wall),
        seconds(verified.cpu),
        AT_MOST.as_secs(),
        seconds(verified.wall) / seconds(AT_MOST)
    );
    println!(
        "| the same, as a multiple of hashing once | {:.1} | {:.1} | - | - |",
        seconds(verified.wall) / seconds(hashed.wall),
        seconds(verified.cpu) / seconds(hashed.cpu)
    );
    if env::var("EVERY").is_ok_and(|text| !text.is_empty()) {
        let (signatures, verified) = verify(Signatures::Every);
        println!(
            "| every signature, {signatures} of them | {:.2} s | {:.2} s | - | - |",
            seconds(verified.wall),
            seconds(verified.cpu)
        );
    }
    fs::remove_dir_all(&folder).unwrap();
}
