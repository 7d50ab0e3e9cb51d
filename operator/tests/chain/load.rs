//! How fast a lane settles what many jobs owe, what that costs the operator's writer, and how large its log is: printed, never
//! asserted. `make bench-settlement`.

#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "what is measured is far below 2^52"
)]

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use gridstake_crds::{SettlementBatch, settlement_batch::BatchState};
use gridstake_ledger::batch;
use gridstake_operator::settlement::{self, Lane};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::{
    api_server::ApiServer,
    world::{LANE, Replica, World, sealed},
};

const ESCROW: u64 = 1_000_000_000_000;
/// Seconds between two blocks.
const BLOCK: u64 = 2;
/// Seconds for which records are gathered.
const WINDOW: u64 = 2;

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap())
}

/// CPU time of the calling thread so far, in nanoseconds.
fn cpu_of_this_thread() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split_whitespace().next().unwrap().parse().unwrap()
}

/// When each number was sealed, and when a block was seen to hold it.
#[derive(Default)]
struct Watched {
    sealed: HashMap<u64, Instant>,
    lags: BTreeMap<u64, Duration>,
}

fn state(batch: &SettlementBatch) -> Option<BatchState> {
    batch.status.as_ref()?.state
}

impl Watched {
    fn see(&mut self, batches: &[SettlementBatch]) {
        for batch in batches.iter().filter(|batch| {
            matches!(
                state(batch),
                Some(BatchState::Included | BatchState::Safe | BatchState::Final)
            )
        }) {
            for entry in batch::decode(&batch.spec.data.0).unwrap().entries {
                if let Some(at) = self.sealed.remove(&entry.job_no) {
                    self.lags.insert(entry.job_no, at.elapsed());
                }
            }
        }
    }
}

/// The last batches of the log, for people.
fn newest(api: &ApiServer) -> Vec<String> {
    let mut batches = api.batches();
    batches.sort_by_key(|batch| batch.spec.sequence);
    let shown = batches.iter().rev().take(3);
    shown
        .map(|batch| {
            let status = batch.status.clone().unwrap_or_default();
            format!(
                "{} with {} records is {:?}, blocked by {:?}, in {:?}",
                batch.spec.sequence,
                batch.spec.record_count,
                status.state,
                status.blocked,
                status.inclusion.map(|inclusion| inclusion.block.number)
            )
        })
        .collect()
}

fn row(what: &str, measured: f64, unit: &str, target: f64) {
    println!(
        "| {what} | {measured:.3} {unit} | {target} {unit} | {:.2} |",
        measured / target
    );
}

/// Settles on a thread of its own until `stop`; its lane, and what CPU time it took in nanoseconds.
fn writer(world: &World, client: Client, stop: CancellationToken) -> (Lane, JoinHandle<u64>) {
    let chains_file = world
        .chains_file
        .replace("window: 0s", &format!("window: {WINDOW}s\n  poll: 500ms"));
    let keys = world.keys.clone();
    let (sender, lanes) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let Replica {
                context,
                lane,
                follower,
                ..
            } = Replica::new(client, &chains_file, |chain, metrics| {
                Lane::with_keys(chain, keys, metrics)
            });
            sender.send(lane.clone()).unwrap();
            let before = cpu_of_this_thread();
            let (caches, chains) = (context.caches.clone(), context.chains.clone());
            tokio::select! {
                () = follower.run(caches, chains, Timestamp::now) => {}
                () = settlement::run::run(context, lane, stop) => {}
            }
            cpu_of_this_thread() - before
        })
    });
    (lanes.recv().unwrap(), thread)
}

/// Watches the log until it is `over`; a full batch of it.
fn seer(
    api: ApiServer,
    watched: Arc<Mutex<Watched>>,
    over: Arc<AtomicBool>,
) -> JoinHandle<Option<Value>> {
    std::thread::spawn(move || {
        let mut full = None;
        while !over.load(Ordering::Relaxed) {
            let batches = api.batches();
            watched.lock().unwrap().see(&batches);
            if let Some(batch) = batches.iter().find(|b| b.spec.record_count == 1000) {
                full = serde_json::to_value(batch).ok();
            }
            // As an archive would have them leave, so that the double's lists stay as short as an API server's.
            api.retain(|_, object| object["status"]["settlement"]["state"] != "Final");
            std::thread::sleep(Duration::from_millis(200));
        }
        full
    })
}

#[test]
#[ignore = "long: make bench-settlement"]
fn what_settling_many_jobs_takes() {
    let (seconds, rate) = (number("DURATION", 60), number("RATE", 500));
    let outside = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let world = outside.block_on(World::new(ESCROW));
    let client = outside.block_on(world.api.client());
    outside.block_on(async {
        let period = json!([BLOCK]);
        world.anvil.rpc("evm_setIntervalMining", period).await;
    });
    let stop = CancellationToken::new();
    let (lane, writer) = writer(&world, client, stop.clone());
    let watched = Arc::new(Mutex::new(Watched::default()));
    let over = Arc::new(AtomicBool::new(false));
    let seer = seer(world.api.clone(), watched.clone(), over.clone());

    let begin = Instant::now();
    let all = seconds * rate;
    for number in 0..all {
        let due = begin + Duration::from_secs_f64(number as f64 / rate as f64);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        world.api.seal(&sealed(256 + number, 1, 1, 1000));
        watched
            .lock()
            .unwrap()
            .sealed
            .insert(256 + number, Instant::now());
        lane.announce_sealed();
    }
    let took = begin.elapsed();
    let patience = Instant::now() + Duration::from_mins(1);
    while watched.lock().unwrap().lags.len() < usize::try_from(all).unwrap() {
        assert!(
            Instant::now() < patience,
            "{} of {all} were settled; the newest batches: {:?}",
            watched.lock().unwrap().lags.len(),
            newest(&world.api)
        );
        std::thread::sleep(Duration::from_millis(100));
    }
    over.store(true, Ordering::Relaxed);
    stop.cancel();
    let cpu = writer.join().unwrap();
    let full = seer.join().unwrap();

    let watched = watched.lock().unwrap();
    let mut lags: Vec<Duration> = watched.lags.values().copied().collect();
    lags.sort();
    let at = |share: f64| lags[((lags.len() - 1) as f64 * share) as usize].as_secs_f64();
    println!(
        "{all} records in {:.1} s, lane {LANE}, blocks of {BLOCK} s, window {WINDOW} s",
        took.as_secs_f64()
    );
    let target = (WINDOW + 2 * BLOCK) as f64;
    row("sealed to Included, median", at(0.5), "s", target);
    row("sealed to Included, p95", at(0.95), "s", target);
    row("sealed to Included, slowest", at(1.0), "s", target);
    let micros = cpu as f64 / 1000.0 / all as f64;
    row("CPU of the writer's thread a job", micros, "µs", 50.0);
    let Some(full) = full else {
        println!("no batch had 1,000 records");
        return;
    };
    row(
        "log object of 1,000 records with three attempts",
        with_three_attempts(full) as f64 / 1024.0,
        "KiB",
        32.0,
    );
}

/// The bytes of a batch as JSON with as many attempts.
fn with_three_attempts(mut batch: Value) -> usize {
    let attempts = batch["status"]["attempts"].as_array_mut().unwrap();
    let first = attempts[0].clone();
    while attempts.len() < 3 {
        attempts.push(first.clone());
    }
    batch.to_string().len()
}
