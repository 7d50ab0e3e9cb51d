//! Whether a job's result is what nodes of other owners compute. Pure.
//!
//! A run that is compared is a ComputeJob like any other: the job itself first, then its *checks*, which the operator creates and
//! the job owns. So a check is placed, retried, metered and paid as any job is; beside that it is kept off the nodes of those
//! who have computed the result before it. What is compared is the digest that member 0 leaves in its termination message.
//!
//! `Redundant` runs the checks beside the job; `Sampled` runs them after its end, if a draw says so that nobody could foresee
//! while it ran. Each owner has one vote. If the digests differ, one more run breaks the tie; where no digest gets more than
//! half of the votes, the program is taken for one that does not give the same result twice, and nobody is blamed.

use std::collections::BTreeSet;

use alloy::primitives::{B256, U256, keccak256};
use gridstake_crds::{
    ComputeJob, ComputeJobSpec,
    compute_job::{
        CheckedRun, ComputeJobStatus, JobEndReason, JobVerification, MOST_RUNS, MemberNode,
        RunOutcome, SampleDraw, Timeouts, VerificationMode, VerificationState,
    },
    names::{LABEL_CHECKS, LABEL_MANAGED_BY, MANAGED_BY, check_of},
};
use kube::{Resource as _, ResourceExt as _};

/// How long a check waits for a place where the job does not say how long it would.
const QUEUE_TIMEOUT: &str = "1h";
/// How often a job that a sample hit runs where it does not say, the first time included.
const SAMPLED_RUNS: u32 = 2;
/// How many more runs there may be than must agree: in place of failed ones, or to break a tie.
const MORE_RUNS: u32 = 2;
/// The part of the share that is checked however good the reputation: a fifth.
const FLOOR_DIVISOR: u32 = 5;
/// What the draw of a sample begins with, so that its hash is never one of something else.
const SAMPLE_DOMAIN: &[u8] = b"gridstake-sample/1";

/// One run, as its ComputeJob tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The ComputeJob's name.
    pub job: String,
    /// How far it is.
    pub progress: Progress,
    /// The node of its member 0 in the newest attempt.
    pub node: Option<String>,
    /// Who owns the nodes of the newest attempt, without repetition.
    pub owners: Vec<String>,
    /// Whether an Incident says already that its result was outvoted.
    pub is_accused: bool,
}

/// How far a run is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It waits for a place.
    Waits,
    /// It has one.
    Placed,
    /// It has ended well, with this digest.
    Succeeded(Option<String>),
    /// It has ended otherwise.
    Failed,
}

/// What is known beside the job, of one whose result is to be checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The checks that exist, in the order of their numbers.
    pub checks: Vec<Run>,
    /// Whether an Incident says already that the job's own result was outvoted.
    pub is_accused: bool,
    /// The lowest reputation of the job's nodes, in thousandths; 0 where there is none.
    pub reputation: u32,
    /// A number drawn at random in this pass.
    pub nonce: B256,
}

/// What follows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Next {
    /// How the check stands. `None` where none is asked for, or it has not begun.
    pub verification: Option<JobVerification>,
    /// The number of the check to be created.
    pub create: Option<u32>,
    /// Checks that are not needed any more, and run or wait.
    pub delete: Vec<String>,
    /// Runs whose result was outvoted and of which no Incident tells.
    pub accuse: Vec<String>,
}

/// Who owns `node`: the provider that is paid for it, else the node stands for itself.
#[must_use]
pub fn owner(node: &MemberNode) -> String {
    match (&node.chain, node.provider_id) {
        (Some(chain), Some(provider)) => owner_by_provider(chain, provider),
        _ => node.node.clone(),
    }
}

/// The owner that the account `provider` on `chain` is.
#[must_use]
pub fn owner_by_provider(chain: &str, provider: u32) -> String {
    format!("{chain}/{provider}")
}

impl Run {
    /// What `job` tells.
    #[must_use]
    pub fn read(job: &ComputeJob, is_accused: bool) -> Self {
        let default = ComputeJobStatus::default();
        Self::of(job, job.status.as_ref().unwrap_or(&default), is_accused)
    }

    /// What `job` tells once `status` is its status.
    fn of(job: &ComputeJob, status: &ComputeJobStatus, is_accused: bool) -> Self {
        let progress = match status.end_reason {
            Some(JobEndReason::Succeeded) => Progress::Succeeded(digest(status)),
            Some(_) => Progress::Failed,
            None if status.active_placement().is_some() => Progress::Placed,
            None => Progress::Waits,
        };
        let nodes = status.placement.iter().flat_map(|placed| &placed.nodes);
        let owners: BTreeSet<_> = nodes.clone().map(owner).collect();
        Self {
            job: job.name_any(),
            progress,
            node: nodes
                .into_iter()
                .find(|node| node.rank() == 0)
                .map(|node| node.node.clone()),
            owners: owners.into_iter().collect(),
            is_accused,
        }
    }
}

/// A termination message of nothing but white space is no digest.
fn digest(status: &ComputeJobStatus) -> Option<String> {
    let digest = status.result.as_ref()?.digest.trim();
    (!digest.is_empty()).then(|| digest.to_owned())
}

/// The mode in which `spec` asks for a check; `None` where it does not.
#[must_use]
pub fn mode(spec: &ComputeJobSpec) -> Option<VerificationMode> {
    let mode = spec.verification.as_ref()?.mode;
    (mode != VerificationMode::None).then_some(mode)
}

/// How often the job must run, the first time included.
fn wanted(spec: &ComputeJobSpec) -> u32 {
    let replicas = spec.verification.as_ref().and_then(|v| v.replicas);
    replicas
        .unwrap_or(SAMPLED_RUNS)
        .clamp(2, MOST_RUNS - MORE_RUNS)
}

/// The check number `number` of `job`: the same pod on the same terms. It waits for a place no longer than the job would, or an
/// hour, since there may be no other owner; it goes when the job goes.
#[must_use]
pub fn check(job: &ComputeJob, number: u32) -> ComputeJob {
    let mut spec = job.spec.clone();
    spec.verification = None;
    spec.ttl_seconds_after_finished = None;
    let timeouts = spec.timeouts.get_or_insert_with(Timeouts::default);
    if timeouts.queue.is_none() {
        timeouts.queue = QUEUE_TIMEOUT.parse().ok();
    }
    let mut check = ComputeJob::new(&check_of(&job.name_any(), number), spec);
    check.metadata.namespace = job.namespace();
    check.metadata.owner_references = job.controller_owner_ref(&()).map(|owner| vec![owner]);
    check.labels_mut().extend([
        (LABEL_CHECKS.to_owned(), job.name_any()),
        (LABEL_MANAGED_BY.to_owned(), MANAGED_BY.to_owned()),
    ]);
    check
}

/// Whether `other` is a check of `job`. It is one whoever has created it: what counts is that it belongs to the job and runs the
/// same program, which nobody can change afterwards.
#[must_use]
pub fn is_check_of(other: &ComputeJob, job: &ComputeJob) -> bool {
    let belongs = other.owner_references().iter().any(|owner| {
        owner.controller == Some(true) && Some(&owner.uid) == job.metadata.uid.as_ref()
    });
    let (a, b) = (&other.spec, &job.spec);
    belongs && a.template == b.template && a.gpu == b.gpu && a.members == b.members
}

/// The share of results that is checked on a node of `reputation` (thousandths), in thousandths: `asked` on one of none, less in
/// proportion as it is better, and never less than a fifth, rounded up.
///
/// # Example
/// Of 50 ‰ that are asked for, 50 ‰ are checked at reputation 0, 25 ‰ at 500, and 10 ‰ from 800 on.
#[must_use]
pub fn share_permille(asked: u32, reputation: u32) -> u32 {
    let left = 1000 - reputation.min(1000);
    let falling = u64::from(asked) * u64::from(left) / 1000;
    u32::try_from(falling)
        .unwrap_or(asked)
        .max(asked.div_ceil(FLOOR_DIVISOR))
}

/// Whether the result of `job` is checked: the number drawn is the hash of the operator's nonce, the job and the decision that
/// placed it, modulo 1000. The nonce is made when the job has ended, so that nobody could foresee the draw while it ran.
fn draw(job: &ComputeJob, status: &ComputeJobStatus, seen: &Seen) -> SampleDraw {
    let asked = job
        .spec
        .verification
        .as_ref()
        .and_then(|v| v.sample_permille);
    let decision = status.placement.as_ref().map(|p| p.decision.hash.as_str());
    let text = [
        SAMPLE_DOMAIN,
        seen.nonce.as_slice(),
        job.metadata.uid.as_deref().unwrap_or_default().as_bytes(),
        decision.unwrap_or_default().as_bytes(),
    ]
    .concat();
    let drawn = U256::from_be_bytes(keccak256(text).0) % U256::from(1000);
    SampleDraw {
        share_permille: share_permille(asked.unwrap_or(0), seen.reputation),
        drawn: drawn.to::<u32>(),
        nonce: format!("{:#x}", seen.nonce),
    }
}

/// What follows for `job`, whose status is about to be `status`.
#[must_use]
pub fn next(job: &ComputeJob, status: &ComputeJobStatus, seen: &Seen) -> Next {
    let Some(mode) = mode(&job.spec) else {
        return Next::default();
    };
    let known = status.verification.as_ref();
    if let Some(known) = known.filter(|known| known.state.is_final()) {
        return finished(known.clone(), seen);
    }
    let own = Run::of(job, status, seen.is_accused);
    // Nothing to be checked yet: a sample is drawn at the end, a redundant run needs to know which owners to keep off.
    if own.owners.is_empty() && !status.has_ended()
        || mode == VerificationMode::Sampled && !status.has_ended()
    {
        return Next {
            verification: known.cloned(),
            ..Next::default()
        };
    }
    let mut sample = known.and_then(|known| known.sample.clone());
    if mode == VerificationMode::Sampled
        && sample.is_none()
        && matches!(own.progress, Progress::Succeeded(Some(_)))
    {
        let drawn = draw(job, status, seen);
        if drawn.drawn >= drawn.share_permille {
            let verification = JobVerification {
                state: VerificationState::NotSampled,
                digest: None,
                sample: Some(drawn),
                runs: Vec::new(),
            };
            return Next {
                verification: Some(verification),
                ..Next::default()
            };
        }
        sample = Some(drawn);
    }
    let runs = runs(own, known, &seen.checks);
    let wanted = wanted(&job.spec);
    let Judgement {
        state,
        digest,
        more,
    } = judge(&runs, wanted);
    let all_placed = runs
        .iter()
        .all(|run| run.outcome != RunOutcome::Pending || !run.owners.is_empty());
    // One at a time: each must know whom to keep off.
    let may_create =
        more && all_placed && !job.spec.suspend && job.metadata.deletion_timestamp.is_none();
    let verification = JobVerification {
        state,
        digest,
        sample,
        runs,
    };
    if state.is_final() {
        return finished(verification, seen);
    }
    Next {
        create: may_create
            .then(|| u32::try_from(verification.runs.len()).ok())
            .flatten(),
        verification: Some(verification),
        ..Next::default()
    }
}

/// The runs of a check that has ended whose owner is to be accused: their results were outvoted.
fn outvoted(verification: &JobVerification) -> impl Iterator<Item = &CheckedRun> {
    let is_outvoted = |run: &&CheckedRun| {
        verification.digest.is_some()
            && run.outcome == RunOutcome::Counted
            && run.digest != verification.digest
    };
    let runs = verification.runs.iter().filter(is_outvoted);
    // Of a gang on nodes of several owners nobody knows whose member it was.
    runs.filter(|run| run.owners.len() == 1)
}

/// Whether it is not known yet what the result of the run `name` is worth, which is compared with that of `job`, or is its own. One that
/// was outvoted is known for it once it `is_accused`: then an Incident says what becomes of its payment. `has_ended`: the run itself.
#[must_use]
pub fn is_undecided(job: &ComputeJob, name: &str, has_ended: bool, is_accused: bool) -> bool {
    let (Some(mode), Some(status)) = (mode(&job.spec), &job.status) else {
        return false;
    };
    match &status.verification {
        Some(found) if found.state.is_final() => {
            !is_accused && outvoted(found).any(|run| run.job == name)
        }
        Some(_) => true,
        // Whether it is computed again is drawn in a moment.
        None => mode == VerificationMode::Sampled && has_ended && !status.has_ended(),
    }
}

/// What is left to be done once it is known how the check has ended.
fn finished(verification: JobVerification, seen: &Seen) -> Next {
    let is_accused = |run: &CheckedRun| {
        let check = seen.checks.iter().find(|check| check.job == run.job);
        check.map_or(seen.is_accused, |check| check.is_accused)
    };
    let accuse = outvoted(&verification)
        .filter(|run| !is_accused(run))
        .map(|run| run.job.clone())
        .collect();
    let is_idle = |run: &Run| matches!(run.progress, Progress::Succeeded(_) | Progress::Failed);
    Next {
        create: None,
        delete: seen
            .checks
            .iter()
            .filter(|run| !is_idle(run))
            .map(|run| run.job.clone())
            .collect(),
        accuse,
        verification: Some(verification),
    }
}

/// The runs to be compared, the job's own first: each as it is seen, or as it was known if it is gone.
fn runs(own: Run, known: Option<&JobVerification>, checks: &[Run]) -> Vec<CheckedRun> {
    let own_name = own.job.clone();
    let gone = known
        .iter()
        .flat_map(|known| &known.runs)
        .filter(|run| run.job != own_name && !checks.iter().any(|check| check.job == run.job))
        .map(|run| CheckedRun {
            outcome: match run.outcome {
                // Somebody has deleted it.
                RunOutcome::Pending => RunOutcome::Failed,
                outcome => outcome,
            },
            ..run.clone()
        });
    let mut runs: Vec<_> = checks.iter().cloned().map(unjudged).chain(gone).collect();
    runs.sort_by_key(|run| number(&own_name, &run.job));
    runs.insert(0, unjudged(own));
    let mut voted: BTreeSet<String> = BTreeSet::new();
    for run in &mut runs {
        if matches!(run.outcome, RunOutcome::Counted | RunOutcome::SameOwner) {
            let again = run.owners.iter().any(|owner| voted.contains(owner));
            run.outcome = if again {
                RunOutcome::SameOwner
            } else {
                voted.extend(run.owners.iter().cloned());
                RunOutcome::Counted
            };
        }
    }
    runs
}

/// `run`, not yet compared with the owners of others.
fn unjudged(run: Run) -> CheckedRun {
    // A check that waits for its next attempt is kept off nobody's nodes but by those of the others.
    let is_waiting = run.progress == Progress::Waits;
    let (outcome, digest) = match run.progress {
        Progress::Waits | Progress::Placed => (RunOutcome::Pending, None),
        Progress::Failed => (RunOutcome::Failed, None),
        Progress::Succeeded(None) => (RunOutcome::NoDigest, None),
        Progress::Succeeded(digest) => (RunOutcome::Counted, digest),
    };
    CheckedRun {
        job: run.job,
        outcome,
        node: run.node.filter(|_| !is_waiting),
        digest,
        owners: if is_waiting { Vec::new() } else { run.owners },
    }
}

/// The number of the check `name` of `job`.
fn number(job: &str, name: &str) -> u32 {
    (1..MOST_RUNS)
        .find(|number| check_of(job, *number) == name)
        .unwrap_or(MOST_RUNS)
}

#[derive(Debug, PartialEq, Eq)]
struct Judgement {
    state: VerificationState,
    digest: Option<String>,
    /// Whether one more run is needed.
    more: bool,
}

/// What `runs`, the job's own first, of which `wanted` must agree, come to.
fn judge(runs: &[CheckedRun], wanted: u32) -> Judgement {
    use VerificationState as S;
    let is = |outcome| move |run: &&CheckedRun| run.outcome == outcome;
    let count = |outcome| u32::try_from(runs.iter().filter(is(outcome)).count()).unwrap_or(0);
    let ends = |state| Judgement {
        state,
        digest: None,
        more: false,
    };
    let waits = |more| Judgement {
        state: S::Pending,
        digest: None,
        more,
    };
    match runs.first().map(|own| own.outcome) {
        None | Some(RunOutcome::Failed) => return ends(S::TooFewResults),
        Some(RunOutcome::NoDigest) => return ends(S::NoDigest),
        Some(RunOutcome::Pending | RunOutcome::Counted | RunOutcome::SameOwner) => {}
    }
    let (votes, pending) = (count(RunOutcome::Counted), count(RunOutcome::Pending));
    let is_full = u32::try_from(runs.len()).unwrap_or(MOST_RUNS) >= wanted + MORE_RUNS;
    if votes < wanted {
        return match (votes + pending < wanted, is_full) {
            (true, false) => waits(true),
            (true, true) if pending == 0 => ends(S::TooFewResults),
            _ => waits(false),
        };
    }
    let counted: Vec<_> = runs.iter().filter(is(RunOutcome::Counted)).collect();
    let of = |digest: &Option<String>| {
        u32::try_from(counted.iter().filter(|run| run.digest == *digest).count()).unwrap_or(0)
    };
    let most = counted.iter().max_by_key(|run| of(&run.digest));
    let Some(digest) = most.map(|run| run.digest.clone()) else {
        return ends(S::TooFewResults);
    };
    let own = counted.first().map(|run| &run.digest) == Some(&digest);
    match of(&digest) {
        all if all == votes => Judgement {
            digest,
            ..ends(S::Agreed)
        },
        majority if 2 * majority > votes => Judgement {
            digest,
            ..ends(if own { S::Confirmed } else { S::Outvoted })
        },
        _ if pending > 0 => waits(false),
        _ if is_full => ends(S::Disagreed),
        _ => waits(true),
    }
}

#[cfg(test)]
#[path = "verification_tests.rs"]
mod tests;
