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
use gridstake_operator::settlement::Lane;
use k8s_openapi::jiff::Timestamp;
use kube::{Client, Config};
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

/// Runs what `work` makes on a thread of its own; what CPU time it took there, in nanoseconds.
fn on_a_thread<W: Future<Output = ()>>(
    work: impl FnOnce() -> W + Send + 'static,
) -> JoinHandle<u64> {
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let before = cpu_of_this_thread();
            work().await;
            cpu_of_this_thread() - before
        })
    })
}

/// Who settles, each on a thread of its own that tells the CPU time it took in nanoseconds.
struct Settling {
    lane: Lane,
    /// What builds, signs, sends and follows batches, and follows the chain.
    writer: JoinHandle<u64>,
    /// What tells the records how far their payment is.
    teller: JoinHandle<u64>,
}

/// Settles until `stop`, by way of this API server.
fn settle(world: &World, api: &Config, stop: &CancellationToken) -> Settling {
    let chains_file = world
        .chains_file
        .replace("window: 0s", &format!("window: {WINDOW}s\n  poll: 500ms"));
    let (keys, way) = (world.keys.clone(), api.clone());
    let (sender, settlers) = std::sync::mpsc::channel();
    let end = stop.clone();
    let writer = on_a_thread(move || async move {
        let Replica {
            context,
            lane,
            follower,
            settler,
            ..
        } = Replica::new(
            Client::try_from(way).unwrap(),
            &chains_file,
            |chain, metrics| Lane::with_keys(chain, keys, metrics),
        );
        sender.send((lane, settler.teller())).unwrap();
        let (caches, chains) = (context.caches.clone(), context.chains.clone());
        tokio::select! {
            () = follower.run(caches, chains, Timestamp::now) => {}
            () = Box::pin(settler.run(end)) => {}
        }
    });
    let (lane, teller) = settlers.recv().unwrap();
    let (way, end) = (api.clone(), stop.clone());
    let teller = on_a_thread(move || async move {
        let client = Client::try_from(way).unwrap();
        Box::pin(teller.by(client).run(end)).await;
    });
    Settling {
        lane,
        writer,
        teller,
    }
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
    let api = outside.block_on(world.api.serve());
    outside.block_on(async {
        let period = json!([BLOCK]);
        world.anvil.rpc("evm_setIntervalMining", period).await;
    });
    let stop = CancellationToken::new();
    let Settling {
        lane,
        writer,
        teller,
    } = settle(&world, &api, &stop);
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
    let micros = |thread: JoinHandle<u64>| thread.join().unwrap() as f64 / 1000.0 / all as f64;
    let (of_writer, of_teller) = (micros(writer), micros(teller));
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
    row("CPU of the writer's thread a job", of_writer, "µs", 50.0);
    println!("| CPU of the teller's thread a job | {of_teller:.3} µs | | |");
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
