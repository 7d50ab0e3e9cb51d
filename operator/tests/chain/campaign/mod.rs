//! The campaign: the real settlement on a chain in memory, with everything going wrong that can, from a seed.
//!
//!     make campaign RUNS=10000 SEED=1      many runs; each has its own seed, counted from SEED
//!     make campaign RUNS=1 SEED=4711       one run again, and what is there after each act; RUST_LOG=debug says more
//!
//!     bugs.sh                              plants bugs, one per guarantee, and requires the campaign to find each
//!
//! Only the two wires of a replica end elsewhere than in production: in a model of a node and of the contract
//! ([`model_chain`], [`contract`]), and in an API server in memory. Between any two requests anything may happen.

mod anvil_chain;
mod contract;
mod dice;
mod model_chain;
mod nature;
mod script;
mod stage;
mod statements;
mod wire;

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
};

use tracing_subscriber::EnvFilter;

use self::stage::Verdict;

fn play(seed: u64) -> Verdict {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(stage::play(&script::of_seed(seed)))
}

/// Plays a seed on the model and on anvil; tells where they end differently.
fn compare(seed: u64) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let script = script::without_models(script::of_seed(seed));
    let (model, anvil) = runtime.block_on(async {
        (
            stage::play(&script).await,
            stage::play_on_anvil(&script).await,
        )
    });
    if model.is_good() && anvil.is_good() && model.end == anvil.end {
        return Ok(());
    }
    let parted = model
        .course
        .iter()
        .zip(&anvil.course)
        .position(|(a, b)| a != b);
    // Where the courses are the same, they part when all that is left to do is waited for.
    let until = parted.unwrap_or(model.course.len());
    let before = model.course[until.saturating_sub(12)..until].join("\n");
    Err(format!(
        "seed {seed}:\n{}\nmodel {:?}\nanvil {:?}\nmodel {:?}\n{model}anvil {:?}\n{anvil}",
        before,
        parted.map(|at| &model.course[at]),
        parted.map(|at| &anvil.course[at]),
        model.end,
        anvil.end
    ))
}

fn compare_seeds(first: u64, runs: u64) {
    let failed: Vec<String> = (first..first + runs)
        .filter_map(|seed| compare(seed).err())
        .collect();
    println!("seeds={runs} different={}", failed.len());
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// What came of many runs.
#[derive(Debug, Default)]
struct Tally {
    runs: u64,
    duplicates: u64,
    losses: u64,
    stuck: u64,
    reached: BTreeMap<&'static str, u64>,
    bad: Vec<u64>,
}

impl Tally {
    fn add(&mut self, seed: u64, verdict: &Verdict) {
        let count = |list: &Vec<String>| u64::from(!list.is_empty());
        self.runs += 1;
        self.duplicates += count(&verdict.duplicates);
        self.losses += count(&verdict.losses);
        self.stuck += count(&verdict.stuck);
        for what in &verdict.reached {
            *self.reached.entry(what).or_default() += 1;
        }
        if !verdict.is_good() {
            self.bad.push(seed);
            if self.bad.len() <= 5 {
                println!("seed {seed}:\n{verdict}");
            }
        }
    }

    fn join(&mut self, other: Self) {
        self.runs += other.runs;
        self.duplicates += other.duplicates;
        self.losses += other.losses;
        self.stuck += other.stuck;
        for (what, runs) in other.reached {
            *self.reached.entry(what).or_default() += runs;
        }
        self.bad.extend(other.bad);
    }

    fn line(&self) -> String {
        format!(
            "runs={} duplicates={} losses={} stuck={}",
            self.runs, self.duplicates, self.losses, self.stuck
        )
    }
}

/// Plays seeds from `first` on, on all cores; none is begun after `enough` have gone wrong.
fn campaign(first: u64, runs: u64, enough: u64) -> Tally {
    let next = AtomicU64::new(first);
    let bad = AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut tally = Tally::default();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    let mut tally = Tally::default();
                    loop {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= first + runs || bad.load(Ordering::Relaxed) >= enough {
                            return tally;
                        }
                        let verdict = play(seed);
                        if !verdict.is_good() {
                            bad.fetch_add(1, Ordering::Relaxed);
                        }
                        tally.add(seed, &verdict);
                    }
                })
            })
            .collect();
        for worker in workers {
            tally.join(worker.join().unwrap());
        }
    });
    tally
}

/// What every campaign of some size must have met with.
const MUST_REACH: [&str; 26] = [
    "reorganised",
    "replaced",
    "signed again",
    "superseded",
    "week reported",
    "inventory stated",
    "restored",
    "taken over from the chain",
    "may be lost",
    "lost while it can be mined",
    "sealed anew",
    "found out",
    "needs decision",
    "InsufficientEscrow",
    "UnknownProvider",
    "UnknownPayer",
    "ProviderCooling",
    "on chain: InsufficientEscrow",
    "on chain: UnknownProvider",
    "on chain: UnknownPayer",
    "on chain: ProviderCooling",
    "ChainUnavailable",
    "FeeCapReached",
    "GasBalanceEmpty",
    "NonceTaken",
    "Paused",
];

#[test]
fn nothing_is_paid_twice_lost_or_stuck_whatever_goes_wrong() {
    let tally = campaign(1, 150, u64::MAX);
    println!("{}", tally.line());
    assert!(
        tally.bad.is_empty(),
        "{}; seeds {:?}",
        tally.line(),
        tally.bad
    );
    for what in MUST_REACH {
        assert!(
            tally.reached.contains_key(what),
            "no run met with {what}: {:?}",
            tally.reached
        );
    }
}

/// Seeds of large campaigns that went wrong once, each for a bug that is mended: a slice that the contract had left out of a lost batch,
/// or that a batch held which lost its place to another one, stayed in doubt for ever.
const WENT_WRONG: [u64; 5] = [3_233, 20_261_276, 20_261_523, 20_262_210, 20_262_232];

#[test]
fn seeds_that_went_wrong_once_go_well() {
    for seed in WENT_WRONG {
        let verdict = play(seed);
        assert!(verdict.is_good(), "seed {seed}:\n{verdict}");
    }
}

#[test]
fn a_seed_is_played_the_same_way_each_time() {
    for seed in 1..6 {
        assert_eq!(play(seed), play(seed), "seed {seed}");
    }
}

/// With RUST_LOG, what the operator says.
fn say_what_happens() {
    if std::env::var_os("RUST_LOG").is_some() {
        tracing_subscriber::fmt()
            .with_env_filter(EnvFilter::from_default_env())
            .with_test_writer()
            .init();
    }
}

/// `make campaign RUNS=n SEED=s`.
#[test]
#[ignore = "long: make campaign"]
fn campaign_of_the_size_that_is_asked_for() {
    say_what_happens();
    let number = |name: &str, otherwise: u64| {
        std::env::var(name).map_or(otherwise, |text| text.parse().unwrap())
    };
    let (seed, runs) = (number("SEED", 1), number("RUNS", 10_000));
    if runs == 1 {
        for line in &play(seed).course {
            println!("{line}");
        }
    }
    let tally = campaign(seed, runs, number("STOP_AFTER", u64::MAX));
    for (what, runs) in &tally.reached {
        println!("{runs} runs met with {what}");
    }
    println!("{}", tally.line());
    assert!(
        tally.bad.is_empty(),
        "seeds {:?}; one again: make campaign RUNS=1 SEED=…",
        tally.bad
    );
}

#[test]
fn the_model_ends_where_anvil_ends() {
    // Seed 5 has a transaction in the pool that the log does not know.
    compare_seeds(1, 5);
}

/// `make test-long`; RUNS and SEED as above.
#[test]
#[ignore = "long: make test-long"]
fn the_model_ends_where_anvil_ends_on_many_seeds() {
    say_what_happens();
    let number = |name: &str, otherwise: u64| {
        std::env::var(name).map_or(otherwise, |text| text.parse().unwrap())
    };
    compare_seeds(number("SEED", 1), number("RUNS", 200));
}
