//! Which attempts make room for the job that is first in the queue, if they are of lower priority. Pure.
//!
//! As few are stopped as are needed, and none whose end is decided already counts as in the way. Among those that may be
//! stopped, the lowest priorities go first; of one priority, those that lose least (GPUs × seconds that they have run); of as
//! much, those that started last. A gang counts as one and goes as a whole.
//!
//! A job never makes way for one of its own priority, so two jobs cannot take the GPUs from each other in turn.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use k8s_openapi::{api::scheduling::v1::PriorityClass, jiff::Timestamp};

use super::decide::{AttemptKey, Tenancy};
use crate::scheduler::{JobUid, Request, Seed, Snapshot, draw, linear::place};

/// More attempts are not stopped for one job: who needs more waits until they end by themselves.
const MOST_STOPPED: usize = 64;

/// When jobs make way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// Whether they do.
    pub enabled: bool,
    /// For so long an attempt runs undisturbed.
    pub minimum_run: Duration,
}

/// The first job in the queue that finds no place and may take GPUs from others.
#[derive(Clone, Debug, PartialEq)]
pub struct Preemptor {
    /// What it asks for.
    pub request: Request,
    /// Its PriorityClass's value.
    pub priority: i32,
    /// Its namespace and name.
    pub job: String,
}

/// What is known of an attempt beside what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Its job's priority.
    pub priority: i32,
    /// For how long it has held its place, in seconds. One that has not started counts as 0.
    pub ran_seconds: u64,
}

/// What is to be done for the preemptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Nothing: it fits, as things are or once those have left who are on their way.
    Fits,
    /// These leave.
    Leave(Vec<AttemptKey>),
    /// Nothing: it would not fit either if all left who may be stopped.
    InVain,
}

/// Whether a job of this PriorityClass may take GPUs from jobs of lower priority.
#[must_use]
pub fn may_preempt(class: Option<&PriorityClass>) -> bool {
    class.is_some_and(|class| class.preemption_policy.as_deref() != Some("Never"))
}

/// Who leaves for `preemptor`. `standings`: by attempt; of which nothing is known, it is not stopped.
#[must_use]
pub fn preempt(
    snapshot: &Snapshot,
    preemptor: &Preemptor,
    tenancies: &[Tenancy],
    standings: &BTreeMap<AttemptKey, Standing>,
    terms: Terms,
) -> Answer {
    let fits = |snapshot: &Snapshot| place(snapshot, &preemptor.request, &ANY_SEED).is_ok();
    let mut soon = snapshot.clone();
    for tenancy in tenancies.iter().filter(|tenancy| tenancy.is_leaving) {
        leave(&mut soon, tenancy);
    }
    if fits(&soon) {
        return Answer::Fits;
    }
    if !terms.enabled {
        return Answer::InVain;
    }
    let mut stoppable: Vec<(&Tenancy, Standing)> = tenancies
        .iter()
        .filter(|tenancy| !tenancy.is_leaving && tenancy.attempt.job != preemptor.request.job_uid)
        .filter_map(|tenancy| Some((tenancy, *standings.get(&tenancy.attempt)?)))
        .filter(|(_, standing)| {
            standing.priority < preemptor.priority
                && standing.ran_seconds >= terms.minimum_run.as_secs()
        })
        .collect();
    stoppable.sort_by_key(|(tenancy, standing)| {
        (
            standing.priority,
            tenancy.gpu_seconds,
            standing.ran_seconds,
            Reverse(tenancy.attempt),
        )
    });
    let mut after = soon.clone();
    let mut chosen: Vec<&Tenancy> = Vec::new();
    for (tenancy, _) in stoppable {
        if chosen.len() >= MOST_STOPPED {
            return Answer::InVain;
        }
        leave(&mut after, tenancy);
        chosen.push(tenancy);
        if fits(&after) {
            return Answer::Leave(only_needed(&soon, chosen, fits));
        }
    }
    Answer::InVain
}

/// Those of `chosen` without whom the others do not suffice: who is dearest is spared first.
fn only_needed(
    soon: &Snapshot,
    mut chosen: Vec<&Tenancy>,
    fits: impl Fn(&Snapshot) -> bool,
) -> Vec<AttemptKey> {
    for position in (0..chosen.len()).rev() {
        let spared = chosen.remove(position);
        let mut after = soon.clone();
        for tenancy in &chosen {
            leave(&mut after, tenancy);
        }
        if !fits(&after) {
            chosen.insert(position, spared);
        }
    }
    let mut attempts: Vec<AttemptKey> = chosen.iter().map(|tenancy| tenancy.attempt).collect();
    attempts.sort();
    attempts
}

fn leave(snapshot: &mut Snapshot, tenancy: &Tenancy) {
    for (node, resources) in &tenancy.on {
        snapshot.give_back(node, resources);
    }
}

/// Whether a request fits does not depend on what is drawn.
const ANY_SEED: Seed = Seed {
    block_hash: draw::NEVER_SYNCED_BLOCK,
    previous_decision: draw::NO_PREVIOUS_DECISION,
};

/// How often room was made for a job that did not take it. Somebody else does each time, such as a local pod: then stopping
/// more jobs helps nobody.
#[derive(Clone, Debug, Default)]
pub struct Loops(HashMap<JobUid, Loop>);

#[derive(Clone, Copy, Debug)]
struct Loop {
    /// How often attempts were stopped for the job since it was last placed.
    times: u32,
    /// Until then no more are.
    paused_until: Option<Timestamp>,
    last: Timestamp,
}

/// So often room is made for one job before there is a pause.
const TIMES: u32 = 3;
/// The first pause; each further one is twice as long.
const PAUSE: Duration = Duration::from_mins(10);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_hours(6);

impl Loops {
    /// Whether attempts may be stopped for `job` at `now`.
    #[must_use]
    pub fn allow(&self, job: JobUid, now: Timestamp) -> bool {
        let paused = self.0.get(&job).and_then(|known| known.paused_until);
        paused.is_none_or(|until| until <= now)
    }

    /// When the pause of `job` ends, if it is in one at `now`.
    #[must_use]
    pub fn ends(&self, job: JobUid, now: Timestamp) -> Option<Timestamp> {
        let paused = self.0.get(&job).and_then(|known| known.paused_until);
        paused.filter(|until| *until > now)
    }

    /// Attempts were stopped for `job`.
    pub fn stopped(&mut self, job: JobUid, now: Timestamp) {
        let known = self.0.entry(job).or_insert(Loop {
            times: 0,
            paused_until: None,
            last: now,
        });
        known.times += 1;
        known.last = now;
        if known.times >= TIMES {
            let doubled = 1_u32
                .checked_shl(known.times - TIMES)
                .and_then(|times| PAUSE.checked_mul(times));
            let pause = doubled.unwrap_or(LONGEST_PAUSE).min(LONGEST_PAUSE);
            known.paused_until = now.checked_add(pause).ok();
        }
    }

    /// Forgets jobs that have found their place or are gone: all but those that `still_wait`, and those of which nothing was
    /// heard for longer than the longest pause.
    pub fn keep(&mut self, still_wait: impl Fn(JobUid) -> bool, now: Timestamp) {
        self.0.retain(|job, known| {
            let idle = now.duration_since(known.last).unsigned_abs();
            still_wait(*job) && idle <= LONGEST_PAUSE * 2
        });
    }
}

#[cfg(test)]
#[path = "preempt_tests.rs"]
mod tests;
