//! Faults with a known cause, from a seed: each is played through the decisions of the job's controller, and the verdict is
//! compared with the truth.
//!
//!     make faults SCENARIOS=5000 SEED=1      many; each has its own seed, counted from SEED
//!     make faults SCENARIOS=1 SEED=4711      one again, told step by step
//!
//! | module | what |
//! |---|---|
//! | [`scenario`] | what is wrong, whose fault that is, and what becomes of the signals |
//! | [`cluster`] | nodes, agents, kubelets and pods, as far as the operator sees them |

mod cluster;
#[path = "../../../tests/chain/campaign/dice.rs"]
mod dice;
mod scenario;

use std::collections::BTreeMap;

use gridstake_crds::compute_job::{Attempt, Failures, Verdict};

use self::scenario::{Door, Scenario};

/// What is wrong with what came of a scenario.
#[derive(Debug, Default)]
struct Tally {
    scenarios: u64,
    /// The host was blamed for what it did not do.
    wrongful: Vec<String>,
    /// A fault of the host's, of which a signal was heard, was not laid at its door.
    missed: Vec<String>,
    /// The wrong retry budget was charged.
    mischarged: Vec<String>,
    /// No verdict came.
    undecided: Vec<String>,
    /// Faults of the host's of which no signal was heard.
    unheard: u64,
    hosts: u64,
    by_cause: BTreeMap<String, BTreeMap<String, u64>>,
}

impl Tally {
    fn count(&mut self, seed: u64, scenario: &Scenario, came: Option<(Attempt, Failures)>) {
        self.scenarios += 1;
        let cause = format!("{:?}", scenario.cause);
        let Some((attempt, failures)) = came else {
            let verdicts = self.by_cause.entry(cause).or_default();
            *verdicts.entry("goes on".to_owned()).or_default() += 1;
            if scenario.ends() {
                self.undecided.push(format!("seed {seed}: {scenario:?}"));
            }
            return;
        };
        let verdict = attempt
            .verdict
            .map_or_else(|| "none".to_owned(), |verdict| verdict.to_string());
        *self
            .by_cause
            .entry(cause)
            .or_default()
            .entry(verdict)
            .or_default() += 1;
        let words = || {
            format!(
                "seed {seed}: {scenario:?}\n    {:?} {:?} of members {:?}: {} {:?}",
                attempt.verdict,
                attempt.verdict_reason,
                attempt.verdict_members,
                attempt.end_reason,
                attempt.message
            )
        };
        let blames_host = attempt.verdict == Some(Verdict::Host);
        let blames_another = blames_host
            && scenario.door == Door::Host
            && attempt
                .verdict_members
                .iter()
                .any(|m| !scenario.hit.contains(m));
        if (blames_host && scenario.door != Door::Host) || blames_another {
            self.wrongful.push(words());
        }
        if scenario.door == Door::Host {
            if scenario.is_heard {
                self.hosts += 1;
                if !blames_host {
                    self.missed.push(words());
                }
            } else {
                self.unheard += 1;
            }
        }
        // What nobody can be blamed for costs no user retry, but where nothing at all was heard of the host's fault.
        let heard = scenario.door != Door::Host || scenario.is_heard;
        if scenario.door != Door::Tenant && heard && failures.user > 0 {
            self.mischarged.push(words());
        }
        if attempt.verdict == Some(Verdict::Tenant) && scenario.door == Door::Infrastructure {
            self.wrongful.push(words());
        }
    }

    fn missed_percent(&self) -> f64 {
        let count = |n: usize| f64::from(u32::try_from(n).unwrap());
        100.0 * count(self.missed.len()) / f64::from(u32::try_from(self.hosts.max(1)).unwrap())
    }

    fn tell(&self) {
        for (cause, verdicts) in &self.by_cause {
            println!("{cause:<24} {verdicts:?}");
        }
        for (what, cases) in [
            ("wrongful", &self.wrongful),
            ("missed", &self.missed),
            ("mischarged", &self.mischarged),
            ("undecided", &self.undecided),
        ] {
            for case in cases.iter().take(5) {
                println!("{what}: {case}");
            }
        }
        println!(
            "scenarios={} wrongful={} missed_percent={:.2} mischarged={} undecided={} unheard={}",
            self.scenarios,
            self.wrongful.len(),
            self.missed_percent(),
            self.mischarged.len(),
            self.undecided.len(),
            self.unheard
        );
    }
}

fn play(first: u64, scenarios: u64) -> Tally {
    let mut tally = Tally::default();
    for seed in first..first + scenarios {
        let scenario = scenario::of_seed(seed);
        let came = cluster::play(&scenario, scenarios == 1);
        tally.count(seed, &scenario, came);
    }
    tally
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name)
        .ok()
        .map_or(otherwise, |text| text.parse().unwrap())
}

#[test]
fn no_host_is_blamed_for_what_it_did_not_do_and_hardly_a_fault_of_its_own_is_missed() {
    let scenarios = number("SCENARIOS", 600);
    let tally = play(number("SEED", 1), scenarios);
    tally.tell();
    if scenarios >= 500 {
        for cause in scenario::Cause::ALL {
            let name = format!("{cause:?}");
            assert!(tally.by_cause.contains_key(&name), "{name} does not occur");
        }
        assert!(tally.unheard > 0 && tally.hosts > scenarios / 5);
    }
    assert_eq!(tally.wrongful.len(), 0);
    assert_eq!(tally.mischarged.len(), 0);
    assert_eq!(tally.undecided.len(), 0);
    assert!(tally.missed_percent() <= 1.0);
}
