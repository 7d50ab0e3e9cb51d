//! How many decisions a second, and how long one takes.

use std::hint::black_box;
use std::time::{Duration, Instant};

use gridstake_crds::gpu_node::OfferReason;
use gridstake_operator::scheduler::draw::{NEVER_SYNCED_BLOCK, NO_PREVIOUS_DECISION};
use gridstake_operator::scheduler::weight::WeightPolicy;
use gridstake_operator::scheduler::{
    FleetIndex, Placement, RejectionCount, Request, Resources, Seed, Snapshot, SnapshotInputs,
    linear,
};

use crate::timing::{Times, Took, timed};
use crate::workload::{Dice, GPUS, fleet, gang, job, mixed};

const SHAPES: u64 = 65_536;

/// How many decisions are made again and again.
const AGAIN: usize = 10_000;

/// Hundredths of the GPUs that are taken.
const OCCUPIED: u64 = 80;

/// What decides: the index or the specification.
pub trait Decides {
    fn place(&mut self, request: &Request, seed: &Seed) -> Result<Placement, Vec<RejectionCount>>;
    fn reserve(&mut self, placement: &Placement, request: &Request);
    fn give_back(&mut self, node: &str, member: &Resources);
}

impl Decides for FleetIndex {
    fn place(&mut self, request: &Request, seed: &Seed) -> Result<Placement, Vec<RejectionCount>> {
        Self::place(self, request, seed)
    }
    fn reserve(&mut self, placement: &Placement, request: &Request) {
        Self::reserve(self, placement, request);
    }
    fn give_back(&mut self, node: &str, member: &Resources) {
        Self::give_back(self, node, member);
    }
}

impl Decides for Snapshot {
    fn place(&mut self, request: &Request, seed: &Seed) -> Result<Placement, Vec<RejectionCount>> {
        linear::place(self, request, seed)
    }
    fn reserve(&mut self, placement: &Placement, request: &Request) {
        Self::reserve(self, placement, request);
    }
    fn give_back(&mut self, node: &str, member: &Resources) {
        Self::give_back(self, node, member);
    }
}

/// Who holds what: jobs come, and others leave as soon as more than the share is taken.
#[derive(Clone)]
struct Traffic {
    held: Vec<(Resources, Vec<String>)>,
    taken: u64,
    share: u64,
    seed: Seed,
    dice: u64,
    placed: u64,
    decided: u64,
}

impl Traffic {
    fn new(nodes: u64) -> Self {
        Self {
            held: Vec::new(),
            taken: 0,
            share: nodes * GPUS * OCCUPIED / 100,
            seed: Seed {
                block_hash: NEVER_SYNCED_BLOCK,
                previous_decision: NO_PREVIOUS_DECISION,
            },
            dice: 7,
            placed: 0,
            decided: 0,
        }
    }

    /// The next job, as it is when its request has just been read: none of 65,536 requests would still be in a cache.
    fn next(&mut self, jobs: &[Request]) -> Request {
        let number = usize::try_from(self.decided).unwrap() % jobs.len();
        self.decided += 1;
        jobs[number].clone()
    }

    /// One decision: seed, filters, draw, record with its hash, reservation, and the releases that make room again.
    fn decide(&mut self, on: &mut impl Decides, request: &Request) {
        let Ok(placement) = black_box(on.place(request, &self.seed)) else {
            return;
        };
        self.placed += 1;
        on.reserve(&placement, request);
        self.seed.previous_decision = placement.decision.hash();
        let member = request.per_member();
        self.taken += member.gpus * placement.nodes.len() as u64;
        self.held.push((member, placement.nodes));
        let mut dice = Dice(self.dice);
        while self.taken > self.share {
            let gone = usize::try_from(dice.roll(self.held.len() as u64)).unwrap();
            let (member, nodes) = self.held.swap_remove(gone);
            self.taken -= member.gpus * nodes.len() as u64;
            for node in &nodes {
                on.give_back(node, &member);
            }
        }
        self.dice = dice.0;
    }

    /// Until the share is taken.
    fn fill(&mut self, on: &mut impl Decides, jobs: &[Request]) {
        while self.taken * 100 < self.share * 99 && self.decided < SHAPES * 20 {
            let request = self.next(jobs);
            self.decide(on, &request);
        }
    }

    /// Until the time is over; how long each decision took.
    fn run(&mut self, on: &mut impl Decides, jobs: &[Request], time: Duration) -> (Times, Took) {
        let begin = Instant::now();
        let mut times = Times::default();
        let ((), took) = timed(|| {
            while begin.elapsed() < time {
                let request = self.next(jobs);
                times.time(|| self.decide(on, &request));
            }
        });
        (times, took)
    }
}

/// Decisions a second of wall and of processor time. The time of decisions counts, not that of making requests; of it as
/// large a share was the processor's as of the whole.
fn per_second(times: &Times, took: Took) -> (f64, f64) {
    let wall = times.len() as f64 / times.sum().as_secs_f64();
    (
        wall,
        wall * took.wall.as_secs_f64() / took.cpu.as_secs_f64(),
    )
}

/// What a fleet of so many nodes takes.
pub fn measure(nodes: u64, time: Duration) {
    let mut dice = Dice(nodes);
    let snapshot = Snapshot::assemble(SnapshotInputs {
        nodes: fleet(nodes, &mut dice),
        ..SnapshotInputs::default()
    });
    let jobs: Vec<Request> = (0..SHAPES).map(|_| mixed(&mut dice)).collect();
    let mut index = FleetIndex::of(snapshot, WeightPolicy::default());
    let mut traffic = Traffic::new(nodes);
    traffic.fill(&mut index, &jobs);
    let occupied = traffic.taken as f64 * 100.0 / (nodes * GPUS) as f64;

    let mut linear = index.snapshot().clone();
    let mut same = traffic.clone();
    let checked = check(&index, &traffic, &jobs);
    let (mut slow_times, slow_took) = same.run(&mut linear, &jobs, time);

    // Once without being counted: memory and branches are warm.
    traffic.run(&mut index, &jobs, time / 10);
    let placed = traffic.placed;
    let (mut fast_times, fast_took) = traffic.run(&mut index, &jobs, time);
    let placed = (traffic.placed - placed) as f64 * 100.0 / fast_times.len() as f64;

    let (mut alone_times, repeats) = alone(&index, &traffic, &jobs, time);
    let alone = alone_times.len() as f64 / alone_times.sum().as_secs_f64();
    println!(
        "\n{nodes} nodes, {occupied:.0} % of the GPUs taken, {placed:.0} % of the jobs placed, {checked} decisions compared with the linear scan"
    );
    println!("| what | decisions | per second | of CPU time | p50 us | p99 us | p99.9 us |");
    println!("|---|---|---|---|---|---|---|");
    let (fast, fast_of_cpu) = per_second(&fast_times, fast_took);
    let (slow, slow_of_cpu) = per_second(&slow_times, slow_took);
    for (name, rate, of_cpu, times) in [
        ("index", fast, fast_of_cpu, &mut fast_times),
        ("linear scan", slow, slow_of_cpu, &mut slow_times),
    ] {
        println!(
            "| {name} | {} | {rate:.0} | {of_cpu:.0} | {:.2} | {:.2} | {:.2} |",
            times.len(),
            times.micros(500),
            times.micros(990),
            times.micros(999)
        );
    }
    println!(
        "| index, each at the fastest of {repeats} | {AGAIN} | {alone:.0} | - | {:.2} | {:.2} | {:.2} |",
        alone_times.micros(500),
        alone_times.micros(990),
        alone_times.micros(999)
    );
    parts(&mut index, &traffic, &jobs);
    updates(&mut index, nodes);
    println!(
        "decisions nodes={nodes} per_second={fast:.0} per_cpu_second={fast_of_cpu:.0} linear={slow:.1} ratio={:.1} p99_us={:.2} alone={alone:.0} alone_p99_us={:.2}",
        fast / slow,
        fast_times.micros(990),
        alone_times.micros(990)
    );
}

/// What the same decisions take that follow, made again and again as long as the time goes, each where nothing else had its
/// core; how often they were made.
fn alone(index: &FleetIndex, traffic: &Traffic, jobs: &[Request], time: Duration) -> (Times, u32) {
    let once = || {
        let (mut index, mut traffic) = (index.clone(), traffic.clone());
        let mut times = Times::default();
        for _ in 0..AGAIN {
            let request = traffic.next(jobs);
            times.time(|| traffic.decide(&mut index, &request));
        }
        times
    };
    let begin = Instant::now();
    let (mut fastest, mut repeats) = (once(), 1);
    while begin.elapsed() < time {
        fastest = fastest.or_faster(once());
        repeats += 1;
    }
    (fastest, repeats)
}

/// The same decisions by both, as far as a second goes; how many.
fn check(index: &FleetIndex, traffic: &Traffic, jobs: &[Request]) -> u64 {
    let (mut index, mut linear) = (index.clone(), index.snapshot().clone());
    let (mut one, mut other) = (traffic.clone(), traffic.clone());
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(1) {
        let request = one.next(jobs);
        one.decide(&mut index, &request);
        other.next(jobs);
        other.decide(&mut linear, &request);
        assert!(
            one.seed == other.seed,
            "the index decides otherwise than the linear scan"
        );
    }
    assert!(
        *index.snapshot() == linear,
        "the index counts otherwise than the snapshot"
    );
    one.decided - traffic.decided
}

/// How often each of the decisions of [`parts`] is made; the fastest counts.
const REPEATS: u32 = 10;

/// Kinds of decisions, each by itself; nothing is reserved.
fn parts(index: &mut FleetIndex, traffic: &Traffic, jobs: &[Request]) {
    let mut dice = Dice(99);
    let singles: Vec<Request> = jobs
        .iter()
        .filter(|job| job.members == 1)
        .take(4096)
        .cloned()
        .collect();
    let gangs = |members, dice: &mut Dice| -> Vec<Request> {
        (0..4096).map(|_| gang(members, dice)).collect()
    };
    let hopeless = |mut request: Request| {
        request.resources.cpu_milli = 1 << 40;
        request
    };
    let unfit: Vec<Request> = singles.iter().cloned().map(hopeless).collect();
    let unfit_anywhere: Vec<Request> = (0..4096)
        .map(|_| {
            let mut request = hopeless(job(1, &mut dice));
            request.gpu.models.clear();
            request.gpu.min_memory_mib = None;
            request.gpu.min_compute_capability = None;
            request.regions.clear();
            request
        })
        .collect();
    println!("| one decision, nothing reserved | placed | p50 us | p99 us |");
    println!("|---|---|---|---|");
    for (name, requests) in [
        ("single, with its record but not its hash", &singles),
        ("gang of 8, rack preferred", &gangs(8, &mut dice)),
        ("gang of 16, rack preferred", &gangs(16, &mut dice)),
        ("fits nowhere for want of CPU, all reasons", &unfit),
        ("the same, any model and region", &unfit_anywhere),
    ] {
        let mut placed = 0_u64;
        let mut once = || {
            let mut times = Times::default();
            placed = 0;
            for request in requests {
                placed += u64::from(
                    times.time(|| black_box(index.place(request, &traffic.seed)).is_ok()),
                );
            }
            times
        };
        let mut times = (1..REPEATS).fold(once(), |fastest, _| fastest.or_faster(once()));
        println!(
            "| {name} | {:.0} % | {:.2} | {:.2} |",
            placed as f64 * 100.0 / times.len() as f64,
            times.micros(500),
            times.micros(990)
        );
    }
    let mut seeds = Times::default();
    let mut hashes = Times::default();
    for request in &singles {
        seeds.time(|| black_box(traffic.seed.derive(request.job_uid, 1)));
        if let Ok(placement) = index.place(request, &traffic.seed) {
            hashes.time(|| black_box(placement.decision.hash()));
        }
    }
    println!(
        "| keccak256 of a seed | - | {:.2} | {:.2} |",
        seeds.micros(500),
        seeds.micros(990)
    );
    println!(
        "| keccak256 of a record | - | {:.2} | {:.2} |",
        hashes.micros(500),
        hashes.micros(990)
    );
}

/// What it costs to keep the index up to date.
fn updates(index: &mut FleetIndex, nodes: u64) {
    let mut dice = Dice(5);
    let names: Vec<String> = index
        .snapshot()
        .nodes()
        .iter()
        .map(|node| node.facts().name.clone())
        .collect();
    let facts: Vec<_> = (0..500)
        .map(|_| {
            let at = usize::try_from(dice.roll(nodes)).unwrap();
            index.snapshot().nodes()[at].facts().clone()
        })
        .collect();
    let one = Resources {
        gpus: 1,
        pods: 1,
        ..Default::default()
    };
    let (mut give, mut weigh, mut flip, mut go, mut come) = (
        Times::default(),
        Times::default(),
        Times::default(),
        Times::default(),
        Times::default(),
    );
    for _ in 0..500 {
        let name = &names[usize::try_from(dice.roll(nodes)).unwrap()];
        give.time(|| index.give_back(name, &one));
    }
    for facts in &facts {
        let mut other = facts.clone();
        other.stake += 1;
        weigh.time(|| index.set_node(other));
        let mut other = facts.clone();
        other.offer = Err(OfferReason::Drained);
        flip.time(|| index.set_node(other));
        go.time(|| index.remove(&facts.name));
        let facts = facts.clone();
        come.time(|| index.set_node(facts));
    }
    let same = index.snapshot().clone();
    let ((), unchanged) = timed(|| index.update(same));
    let same = index.snapshot().clone();
    let (_, anew) = timed(|| FleetIndex::of(same, WeightPolicy::default()));
    println!("| change of the index | p50 us | p99 us |");
    println!("|---|---|---|");
    for (name, times) in [
        ("release", &mut give),
        ("weight", &mut weigh),
        ("withdrawal of the offer", &mut flip),
        ("a node goes", &mut go),
        ("a node comes", &mut come),
    ] {
        println!(
            "| {name} | {:.2} | {:.2} |",
            times.micros(500),
            times.micros(990)
        );
    }
    println!(
        "| brought up to date where nothing differs | {:.0} | - |",
        unchanged.wall.as_secs_f64() * 1e6
    );
    println!("| built anew | {:.0} | - |", anew.wall.as_secs_f64() * 1e6);
}
