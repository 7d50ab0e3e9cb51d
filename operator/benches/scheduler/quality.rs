//! How well decisions place: one seeded trace of jobs, under the draw and under rules that are known.
//!
//! 256 nodes of 8 GPUs of 13 owners; jobs ask for as much as there is (load 1), 90 % singles, 10 % gangs of 2–16, from a
//! minute to eight hours. Whoever waits is tried again in the order of arrival whenever something has ended; of two jobs
//! that ask for the same, the second is not tried when the first did not fit.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};

use gridstake_operator::scheduler::draw::{NEVER_SYNCED_BLOCK, NO_PREVIOUS_DECISION};
use gridstake_operator::scheduler::snapshot::NodeCapacity;
use gridstake_operator::scheduler::weight::WeightPolicy;
use gridstake_operator::scheduler::{
    Decision, FleetIndex, JobUid, NodeFacts, Placement, Request, Seed, Snapshot, SnapshotInputs,
    filter,
};

use crate::workload::{Dice, GPUS, fleet, job};

const NODES: u64 = 256;
const OWNERS: u32 = 13;
const SHORTEST: f64 = 60.0;
const LONGEST: f64 = 28_800.0;

/// How a node is chosen.
#[derive(Clone, Copy, PartialEq)]
enum Rule {
    Draw,
    FirstFit,
    BestFit,
    Random,
}

struct Job {
    request: Request,
    arrives: u64,
    runs: u64,
}

/// A fleet of one model in which all is offered, so that only room decides.
fn nodes(dice: &mut Dice) -> Vec<NodeFacts> {
    let mut nodes = fleet(NODES, dice);
    for (number, facts) in (0..).zip(&mut nodes) {
        for device in &mut facts.devices {
            "NVIDIA H200".clone_into(&mut device.model);
        }
        facts.offer = Ok(());
        facts.bonded = true;
        facts.stake = 1000 + dice.roll(60_000);
        facts.provider = Some(number / 4 % OWNERS);
    }
    nodes
}

fn trace(count: u64, dice: &mut Dice) -> Vec<Job> {
    let unit = |dice: &mut Dice| (dice.number() >> 11) as f64 / (1_u64 << 53) as f64;
    let mut jobs: Vec<Job> = (0..count)
        .map(|_| {
            let members = if dice.roll(10) == 0 {
                u32::try_from(2 + dice.roll(15)).unwrap()
            } else {
                1
            };
            let plain = job(members, dice);
            let mut request = plain.clone();
            request.gpu = gridstake_operator::scheduler::request::GpuRequest {
                count: plain.gpu.count,
                ..Default::default()
            };
            request.regions.clear();
            request.max_price = None;
            request.min_reputation = 0;
            Job {
                request,
                arrives: 0,
                runs: (SHORTEST * (LONGEST / SHORTEST).powf(unit(dice))) as u64,
            }
        })
        .collect();
    // They come at random, so that by and large as much is asked for as there is.
    let asked: u64 = jobs.iter().map(|job| gpus(&job.request) * job.runs).sum();
    let gap = asked as f64 / (NODES * GPUS) as f64 / count as f64;
    let mut now = 0.0;
    for job in &mut jobs {
        now -= gap * (1.0 - unit(dice)).ln();
        job.arrives = now as u64;
    }
    jobs
}

fn gpus(request: &Request) -> u64 {
    u64::from(request.gpu.count) * u64::from(request.member_count())
}

/// A node for each member by a rule, or none.
fn by_rule(
    rule: Rule,
    fleet: &Snapshot,
    request: &Request,
    dice: &mut Dice,
) -> Option<Vec<String>> {
    let member = request.per_member();
    let mut fitting: Vec<(&NodeCapacity, u64, u64)> = fleet
        .nodes()
        .iter()
        .filter(|node| filter::first_rejection(node, request, &member).is_none())
        .map(|node| (node, node.free().holds(&member), node.free().gpus))
        .collect();
    let mut chosen = Vec::new();
    for _ in 0..request.member_count() {
        fitting.retain(|(_, room, _)| *room > 0);
        let at = match rule {
            Rule::Random if !fitting.is_empty() => {
                usize::try_from(dice.roll(fitting.len() as u64)).unwrap()
            }
            Rule::BestFit => (0..fitting.len()).min_by_key(|at| fitting[*at].2)?,
            _ => 0,
        };
        let (node, room, free) = fitting.get_mut(at)?;
        *room -= 1;
        *free -= member.gpus;
        chosen.push(node.facts().name.clone());
    }
    Some(chosen)
}

struct World {
    index: FleetIndex,
    rule: Rule,
    seed: Seed,
    dice: Dice,
}

impl World {
    fn place(&mut self, request: &Request) -> Option<Vec<String>> {
        let placement = if self.rule == Rule::Draw {
            self.index.place(request, &self.seed).ok()?
        } else {
            let nodes = by_rule(self.rule, self.index.snapshot(), request, &mut self.dice)?;
            Placement {
                nodes,
                decision: nothing(self.seed, request.job_uid),
            }
        };
        self.index.reserve(&placement, request);
        if self.rule == Rule::Draw {
            self.seed.previous_decision = placement.decision.hash();
        }
        Some(placement.nodes)
    }

    /// Free GPUs, and those among them that stand on nodes that are partly used: no use to a job of a whole node.
    fn free(&self) -> (u64, u64) {
        let free = |node: &NodeCapacity| node.free().gpus;
        let nodes = self.index.snapshot().nodes();
        let partly = nodes.iter().filter(|node| node.is_partly_used());
        (nodes.iter().map(free).sum(), partly.map(free).sum())
    }
}

fn nothing(seed: Seed, job_uid: JobUid) -> Decision {
    Decision {
        job_uid,
        attempt: 1,
        seed,
        state: NO_PREVIOUS_DECISION,
        snapshot: 0,
        candidates: 0,
        total_weight: 0,
        drawn: Vec::new(),
        rejections: Vec::new(),
    }
}

#[derive(Default)]
struct Outcome {
    utilisation: f64,
    stranded: f64,
    mean_wait: f64,
    p99_wait: u64,
    jain: f64,
}

fn run(rule: Rule, jobs: &[Job], facts: &[NodeFacts]) -> Outcome {
    let snapshot = Snapshot::assemble(SnapshotInputs {
        nodes: facts.to_vec(),
        ..SnapshotInputs::default()
    });
    let mut world = World {
        index: FleetIndex::of(snapshot, WeightPolicy::default()),
        rule,
        seed: Seed {
            block_hash: NEVER_SYNCED_BLOCK,
            previous_decision: NO_PREVIOUS_DECISION,
        },
        dice: Dice(3),
    };
    let owners: BTreeMap<&str, u32> = facts
        .iter()
        .map(|facts| (facts.name.as_str(), facts.provider.unwrap()))
        .collect();
    let mut earned: BTreeMap<u32, u64> = BTreeMap::new();
    // Measured is from when the fleet has filled up until no more jobs come.
    let (from, to) = (jobs[jobs.len() / 5].arrives, jobs[jobs.len() - 1].arrives);
    let mut ends: BinaryHeap<Reverse<(u64, usize)>> = BinaryHeap::new();
    let mut at: Vec<Vec<String>> = vec![Vec::new(); jobs.len()];
    let mut waiting: VecDeque<usize> = VecDeque::new();
    let mut waits = Vec::new();
    let (mut now, mut next) = (0, 0);
    let (mut busy, mut stranded) = (0_u64, 0_u64);
    while now < to {
        let arrives = jobs.get(next).map_or(u64::MAX, |job| job.arrives);
        let ends_at = ends.peek().map_or(u64::MAX, |Reverse((end, _))| *end);
        let then = arrives.min(ends_at).min(to);
        if then > from {
            let time = then - now.max(from);
            let (free, on_partly_used) = world.free();
            busy += time * (NODES * GPUS - free);
            stranded += time * on_partly_used;
        }
        now = then;
        while let Some(Reverse((end, job))) =
            ends.peek().copied().filter(|Reverse((end, _))| *end <= now)
        {
            debug_assert!(end <= now);
            ends.pop();
            for node in &at[job] {
                world.index.give_back(node, &jobs[job].request.per_member());
            }
        }
        while jobs.get(next).is_some_and(|job| job.arrives <= now) {
            waiting.push_back(next);
            next += 1;
        }
        let mut failed: BTreeSet<(u32, u32)> = BTreeSet::new();
        waiting.retain(|number| {
            let job = &jobs[*number];
            let shape = (job.request.gpu.count, job.request.members);
            if failed.contains(&shape) {
                return true;
            }
            let Some(nodes) = world.place(&job.request) else {
                failed.insert(shape);
                return true;
            };
            for node in &nodes {
                *earned.entry(owners[node.as_str()]).or_default() +=
                    u64::from(job.request.gpu.count) * job.runs;
            }
            if job.arrives >= from {
                waits.push(now - job.arrives);
            }
            ends.push(Reverse((now + job.runs, *number)));
            at[*number] = nodes;
            false
        });
    }
    waits.extend(waiting.iter().map(|number| now - jobs[*number].arrives));
    waits.sort_unstable();
    let mut weights: BTreeMap<u32, u64> = BTreeMap::new();
    for node in world.index.snapshot().nodes() {
        *weights.entry(node.facts().provider.unwrap()).or_default() += node.weight();
    }
    let shares: Vec<f64> = weights
        .iter()
        .map(|(owner, weight)| *earned.get(owner).unwrap_or(&0) as f64 / *weight as f64)
        .collect();
    let (sum, squares): (f64, f64) = (
        shares.iter().sum(),
        shares.iter().map(|share| share * share).sum(),
    );
    Outcome {
        utilisation: busy as f64 / ((to - from) * NODES * GPUS) as f64,
        stranded: stranded as f64 / (to - from) as f64,
        mean_wait: waits.iter().sum::<u64>() as f64 / waits.len() as f64,
        p99_wait: waits[waits.len() * 99 / 100],
        jain: sum * sum / (shares.len() as f64 * squares),
    }
}

/// The trace under all rules.
pub fn measure(count: u64) {
    let mut dice = Dice(11);
    let facts = nodes(&mut dice);
    let jobs = trace(count, &mut dice);
    println!("\n{count} jobs on {NODES} nodes of {GPUS} GPUs, load 1");
    println!(
        "| rule | utilisation | free GPUs on partly used nodes | mean wait s | p99 wait s | Jain index of GPU time per weight |"
    );
    println!("|---|---|---|---|---|---|");
    let mut utilisation = Vec::new();
    for (name, rule) in [
        ("draw with the packing stage", Rule::Draw),
        ("best fit", Rule::BestFit),
        ("first fit", Rule::FirstFit),
        ("random", Rule::Random),
    ] {
        let outcome = run(rule, &jobs, &facts);
        println!(
            "| {name} | {:.2} % | {:.1} | {:.0} | {} | {:.3} |",
            outcome.utilisation * 100.0,
            outcome.stranded,
            outcome.mean_wait,
            outcome.p99_wait,
            outcome.jain
        );
        utilisation.push(outcome.utilisation);
    }
    println!(
        "placement utilisation={:.4} best_fit={:.4} ratio={:.4}",
        utilisation[0],
        utilisation[1],
        utilisation[0] / utilisation[1]
    );
}
