//! What is to be done about a job. Pure: no client, no clock, no randomness.
//!
//! An attempt that must stop is first written down (`status.ending`), then its pods are deleted, then its end is
//! recorded (`status.attempts`), and only then are its pods let go. Each step reads what the step before has written,
//! so an operator that dies in between goes on where it was.

use std::collections::BTreeSet;

use gridstake_crds::{
    ComputeJob,
    compute_job::{
        ATTEMPTS_KEPT, Attempt, AttemptEndReason, ComputeJobReason, ComputeJobStatus, Ending,
        JobEndReason, JobResult, JobSettlement, JobVerification, MemberNode, Placement,
        ReplacedMember, VerdictReason,
    },
    condition::Fact,
    names::FINALIZER_JOB,
    usage_record::Payment,
};
use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::{SignedDuration, Timestamp},
};
use kube::ResourceExt as _;

use super::{
    conditions::{self, Phase},
    member::{End, Member, State},
    recent_starts::{AttemptMember, ON_ITS_WAY},
    replace::{self, Answer},
    retry::{self, Consequence},
    start::{what_it_waits_for, why_not_started},
    untold::UNTOLD,
    usage::Books,
    verification,
};
use crate::{
    controllers::{
        reclaim::asked::{Asked, Who},
        usage_record::{bill::unix_millis, record::NewMember},
    },
    payer::{Account, Funds, WhoPays},
    verdict::{Finding, MemberEnd, Place, Weighed, gpu_evidence::unusable_gpu, weigh},
};

/// What was found out about the job's spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Validation {
    /// It is sound and the API server would take its pods.
    Sound,
    /// It is not; every fault in one text.
    Faulty(ComputeJobReason, String),
    /// The API server refuses the pod, in its words.
    Refused(String),
    /// The API server could not be asked.
    Unavailable(String),
    /// Nobody has asked, since nothing depends on it now.
    NotAsked,
}

/// Whether the job may wait for a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It may.
    Admitted,
    /// It may not, and why.
    Refused(ComputeJobReason, String),
    /// Nobody has asked, since nothing depends on it now.
    NotAsked,
}

/// What the job's surroundings look like.
#[derive(Clone, Debug, PartialEq)]
pub struct Observed {
    /// Every pod of this job that exists, of any attempt.
    pub pods: Vec<Member>,
    /// The members whose pods were created moments ago and are not seen yet.
    pub on_their_way: BTreeSet<AttemptMember>,
    /// What is known about the spec.
    pub validation: Validation,
    /// Whether it may wait for a place.
    pub admission: Admission,
    /// What its UsageRecords say.
    pub books: Books,
    /// Who pays for it.
    pub payer: WhoPays,
    /// Whether the payer's money lasts, while it runs.
    pub funds: Funds,
    /// What is known of the places of the members of the attempt in progress.
    pub places: Vec<Place>,
    /// Why the provider wants the GPUs of the attempt in progress back, if it does.
    pub reclaimed: Option<Asked>,
    /// What is known of the runs with which its result is compared.
    pub verification: verification::Seen,
    /// Since when it may wait for a place without having been told so.
    pub untold_since: Option<Timestamp>,
    /// When others were first seen to hold its pods back no more, if they did.
    pub gates_off_at: Option<Timestamp>,
}

/// A change to be made in the cluster.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// Create the UsageRecords and then the pods of these members of the placed attempt, each on its node.
    CreatePods {
        /// The attempt.
        attempt: u32,
        /// The members.
        members: Vec<NewMember>,
    },
    /// Create the UsageRecords of these members, whose pods are there already.
    CreateRecords(Vec<NewMember>),
    /// Lift the scheduling gate from these pods.
    LiftGates(Vec<String>),
    /// Let the members of the gang no longer find these pods by name: another one takes the name over.
    Withdraw(Vec<String>),
    /// Delete these pods; they get their termination grace.
    DeletePods(Vec<String>),
    /// Take our finalizer off these pods: their end is recorded and what they used is billed.
    ReleasePods(Vec<String>),
    /// Create the check of this number, which runs the job once more.
    CreateCheck(u32),
    /// Delete these checks: their results are not needed any more.
    DeleteChecks(Vec<String>),
    /// Open an Incident for each of these runs, whose result was outvoted.
    Accuse {
        /// The runs: ComputeJobs of the job's namespace, itself perhaps among them.
        runs: Vec<String>,
        /// How the check has ended.
        verification: Box<JobVerification>,
    },
    /// Take our finalizer off the job.
    ReleaseJob,
    /// Delete the job: its time to live is over.
    DeleteJob,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Changes to be made, in this order.
    pub writes: Vec<Write>,
    /// The status to be written, less what the placement controller owns. `None` on a job that is being let go.
    pub status: Option<ComputeJobStatus>,
    /// The facts for its conditions.
    pub facts: Vec<Fact>,
    /// When to look again, if nothing happens before.
    pub wake: Option<Timestamp>,
    /// Nothing that is to be told lasts: what follows within moments says it as well, in one write instead of two. A change that
    /// cannot be made is told all the same.
    pub is_passing: bool,
    /// The job may wait for a place, and its status does not say so yet.
    pub is_admitted_untold: bool,
}

impl Plan {
    /// Whether nothing is to be written.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        self.writes.is_empty() && (self.is_passing || self.status.is_none())
    }

    /// Whether members are to be created, or let go to their nodes.
    #[must_use]
    pub fn starts_members(&self) -> bool {
        let starts =
            |write: &Write| matches!(write, Write::CreatePods { .. } | Write::LiftGates(_));
        self.writes.iter().any(starts)
    }
}

/// How long after a refusal the API server is asked again: quota may have been raised.
const ASK_AGAIN: SignedDuration = SignedDuration::from_secs(30);

/// That an attempt is being started, and what keeps it, is told when that has lasted for so long: most of it passes sooner, and each
/// word of it is a write.
const PASSES: std::time::Duration = std::time::Duration::from_secs(5);
/// The same, while it is the operator that has yet to do something: in a burst it does it later.
const OURS_PASSES: std::time::Duration = std::time::Duration::from_secs(10);
/// For so long after the last second in which its program ran, a job that has succeeded waits for its bill, to tell both at once.
/// Kubelets tell whole seconds, so it is one second at least.
const BILL_FOLLOWS: std::time::Duration = std::time::Duration::from_secs(2);
/// So many nodes of an ended attempt are named.
const MOST_NODES: usize = 256;
/// How soon a job is looked at again whose GPU may be lost.
const LOOK_FOR_GPU: SignedDuration = SignedDuration::from_secs(2);

/// What is to be done about `job`.
#[must_use]
pub fn decide(job: &ComputeJob, seen: &Observed, now: Timestamp) -> Plan {
    let mut turn = Turn {
        job,
        seen,
        now,
        next: job.status.clone().unwrap_or_default(),
        writes: Vec::new(),
        wake: None,
        is_passing: false,
        is_admitted_untold: false,
    };
    turn.next.observed_generation = job.metadata.generation;
    if !seen.on_their_way.is_empty() {
        turn.wake_at(after(now, ON_ITS_WAY));
    }
    let phase = turn.phase();
    turn.settle_leftovers();
    turn.keep_books();
    turn.verify();
    let deleting = job.metadata.deletion_timestamp.is_some();
    if deleting && turn.may_be_let_go() {
        return Plan {
            writes: vec![Write::ReleaseJob],
            status: None,
            facts: Vec::new(),
            wake: None,
            is_passing: false,
            is_admitted_untold: false,
        };
    }
    let facts = conditions::facts(&job.spec, &turn.next, &phase, seen);
    // What else has become known does not wait.
    let is_passing = turn.is_passing && !is_news(job.status.as_ref(), &turn.next);
    Plan {
        writes: turn.writes,
        status: Some(turn.next),
        facts,
        wake: turn.wake,
        is_passing,
        is_admitted_untold: turn.is_admitted_untold,
    }
}

/// Whether `next` says more than `before`, other than where the job will be paid for.
fn is_news(before: Option<&ComputeJobStatus>, next: &ComputeJobStatus) -> bool {
    let mut before = before.cloned().unwrap_or_default();
    // Where nothing has been said yet, that it was looked at is no news.
    if before.observed_generation.is_none() {
        before.observed_generation = next.observed_generation;
    }
    let is_owed = |settlement: &JobSettlement| settlement.sealed > 0;
    if before.settlement.is_none() && !next.settlement.as_ref().is_some_and(is_owed) {
        let unowed = ComputeJobStatus {
            settlement: None,
            ..next.clone()
        };
        return unowed != before;
    }
    *next != before
}

/// Whether `account` can pay the provider of `node`. A placement of a former version names no chain: there was one.
fn is_on(node: &MemberNode, account: &Account) -> bool {
    node.chain
        .as_ref()
        .is_none_or(|chain| *chain == account.chain)
}

/// Whether it is known at whose door an end is laid.
enum Judged {
    /// It is; `None`: nothing failed.
    Now(Option<Finding>),
    /// More may be heard.
    Later,
}

/// The nodes that the job does not try again for a while: those at whose door the end is laid, and those that may have been
/// to blame by its reason alone; none where it was the program.
fn suspects(
    placement: &Placement,
    ending: &Ending,
    finding: Option<&Finding>,
    consequence: Consequence,
) -> Vec<String> {
    if !consequence.casts_suspicion() {
        return Vec::new();
    }
    let found = finding.map(|f| f.members.as_slice()).unwrap_or_default();
    let mut nodes: Vec<String> = placement
        .nodes
        .iter()
        .filter(|placed| found.contains(&placed.member))
        .map(|placed| placed.node.clone())
        .chain(ending.suspects.iter().cloned())
        .collect();
    nodes.sort();
    nodes.dedup();
    nodes
}

/// One turn of thought about one job.
struct Turn<'a> {
    job: &'a ComputeJob,
    seen: &'a Observed,
    now: Timestamp,
    next: ComputeJobStatus,
    writes: Vec<Write>,
    wake: Option<Timestamp>,
    is_passing: bool,
    is_admitted_untold: bool,
}

impl Turn<'_> {
    fn phase(&mut self) -> Phase {
        if self.next.has_ended() {
            return self.ended();
        }
        match self
            .job
            .status
            .as_ref()
            .and_then(ComputeJobStatus::active_placement)
            .cloned()
        {
            Some(placement) => self.attempt(&placement),
            None => self.queued(),
        }
    }

    fn wake_at(&mut self, at: Option<Timestamp>) {
        self.wake = self.wake.into_iter().chain(at).min();
    }

    /// Leaves untold what may be over before `at`; tells whether that lies ahead.
    fn passes_by(&mut self, at: Option<Timestamp>) -> bool {
        let passes = at.is_some_and(|at| at > self.now);
        if passes {
            self.wake_at(at);
            self.is_passing = true;
        }
        passes
    }

    // ---- a job that has ended -----------------------------------------------------------------

    fn ended(&mut self) -> Phase {
        let ttl = self
            .job
            .spec
            .ttl_seconds_after_finished
            .map(|s| std::time::Duration::from_secs(s.into()));
        let expires = ttl
            .zip(self.next.finished_at.as_ref())
            .and_then(|(ttl, at)| after(at.0, ttl));
        // Its checks would go with it.
        let is_checked = verification::mode(&self.job.spec).is_none()
            || self
                .next
                .verification
                .as_ref()
                .is_none_or(|v| v.state.is_final());
        match expires {
            Some(at)
                if at <= self.now
                    && is_checked
                    && self.job.metadata.deletion_timestamp.is_none() =>
            {
                self.writes.push(Write::DeleteJob);
            }
            Some(_) if !is_checked => {}
            at => self.wake_at(at),
        }
        let last = self.next.attempts.iter().max_by_key(|a| a.attempt);
        let message = last
            .map(|a| words(a.message.as_ref(), a.exit_code))
            .unwrap_or_default();
        Phase::Ended(
            self.next.end_reason.unwrap_or(JobEndReason::Succeeded),
            message,
        )
    }

    fn end(&mut self, reason: JobEndReason) {
        self.next.end_reason = Some(reason);
        self.next.finished_at = Some(Time(self.now));
    }

    // ---- a job that waits for a place ---------------------------------------------------------

    fn queued(&mut self) -> Phase {
        if self.job.metadata.deletion_timestamp.is_some() {
            return Phase::Stopping(AttemptEndReason::Deleted);
        }
        match &self.seen.validation {
            Validation::Faulty(reason, message) => return Phase::Invalid(*reason, message.clone()),
            Validation::Refused(message) => {
                self.wake_at(self.now.checked_add(ASK_AGAIN).ok());
                return Phase::Invalid(ComputeJobReason::PodRefused, message.clone());
            }
            Validation::Unavailable(message) => {
                self.wake_at(self.now.checked_add(ASK_AGAIN).ok());
                return Phase::NotValidated(message.clone());
            }
            Validation::Sound | Validation::NotAsked => {}
        }
        if self.job.spec.suspend {
            return Phase::NotAdmitted(ComputeJobReason::Suspended, "spec.suspend is set".into());
        }
        if self.queue_time_is_over() {
            self.end(JobEndReason::QueueTimeout);
            return Phase::Ended(
                JobEndReason::QueueTimeout,
                "no place was found within spec.timeouts.queue".into(),
            );
        }
        match &self.seen.admission {
            Admission::Refused(reason, message) => Phase::NotAdmitted(*reason, message.clone()),
            Admission::Admitted | Admission::NotAsked => {
                self.leave_untold();
                Phase::Queued
            }
        }
    }

    /// Of a job of which nothing has been said yet it is left untold for a moment that it waits: its place says so as well.
    fn leave_untold(&mut self) {
        let status = self.job.status.as_ref();
        if status.is_some_and(|status| status.observed_generation.is_some()) {
            return;
        }
        self.is_admitted_untold = true;
        let since = self.seen.untold_since.unwrap_or(self.now);
        self.passes_by(since.checked_add(UNTOLD).ok());
    }

    /// The wait for a first place counts from the admission, or from the creation of a job that was never admitted.
    fn queue_time_is_over(&mut self) -> bool {
        let (Some(limit), None) = (self.job.spec.queue_timeout(), &self.next.placement) else {
            return false;
        };
        let since = conditions::admitted_since(&self.next).or(self
            .job
            .metadata
            .creation_timestamp
            .as_ref()
            .map(|t| t.0));
        let deadline = since.and_then(|since| after(since, limit));
        self.wake_at(deadline);
        deadline.is_some_and(|deadline| deadline <= self.now)
    }

    // ---- an attempt ---------------------------------------------------------------------------

    fn attempt(&mut self, placement: &Placement) -> Phase {
        let placement = &replace::present(&self.next, placement);
        let members = self.members(placement);
        self.note_that_they_run_again(placement, &members);
        if let Some(ending) = self
            .next
            .ending
            .clone()
            .filter(|e| e.attempt == placement.attempt)
        {
            return self.stop(placement, &members, &ending);
        }
        if let Some(ending) = self.why_it_ends(placement, &members) {
            if self.bill_follows(placement, &members, &ending) {
                return Phase::Running;
            }
            match self.replace(placement, &members, &ending) {
                Answer::Replace { lost, consequence } => {
                    self.give_up(lost, consequence);
                    return Phase::Running;
                }
                Answer::Wait => return Phase::Running,
                Answer::Restart => {}
            }
            if members.iter().all(Member::is_at_rest)
                && let Judged::Now(finding) = self.weigh(&members, &ending)
            {
                return self.record(placement, &members, &ending, finding);
            }
            let reason = ending.reason;
            self.next.ending = Some(ending);
            return Phase::Stopping(reason);
        }
        self.go_on(placement, &members)
    }

    /// Whether the members that `ending` is about are replaced, and the others run on.
    fn replace(&mut self, placement: &Placement, members: &[Member], ending: &Ending) -> Answer {
        let is_lost = |node: &&MemberNode| ending.members.contains(&node.member);
        let lost: Vec<&MemberNode> = placement.nodes.iter().filter(is_lost).collect();
        if retry::consequence(ending.reason, None) == Consequence::Nothing {
            if !replace::may_go_on_without(&self.job.spec, &self.next, placement, &lost) {
                return Answer::Restart;
            }
            return Answer::Replace {
                lost: self.entries(placement, ending, None, &lost),
                consequence: Consequence::Nothing,
            };
        }
        if !replace::is_allowed(&self.job.spec, &self.next, placement, &lost) {
            return Answer::Restart;
        }
        // Nothing is written before it is known whose fault it is, so the wait for that counts from what the kubelet says.
        let decided = members
            .iter()
            .filter(|m| ending.members.contains(&m.member));
        let ended = decided.filter_map(|m| m.finished_at).min();
        let since = ended.map_or(self.now, |ended| ended.min(self.now));
        let ending = Ending {
            since: Time(since),
            ..ending.clone()
        };
        let finding = match self.weigh(members, &ending) {
            Judged::Later => return Answer::Wait,
            Judged::Now(None) => return Answer::Restart,
            Judged::Now(Some(finding)) => finding,
        };
        let consequence = retry::consequence(ending.reason, Some(finding.verdict));
        if consequence != Consequence::ChargesInfrastructure {
            return Answer::Restart;
        }
        Answer::Replace {
            lost: self.entries(placement, &ending, Some(&finding), &lost),
            consequence,
        }
    }

    /// What is written down of members that are given up.
    fn entries(
        &self,
        placement: &Placement,
        ending: &Ending,
        finding: Option<&Finding>,
        lost: &[&MemberNode],
    ) -> Vec<ReplacedMember> {
        let entry = |node: &&MemberNode| {
            let found = finding.filter(|finding| finding.members.contains(&node.member));
            ReplacedMember {
                attempt: placement.attempt,
                member: node.member,
                rank: node.rank(),
                node: node.node.clone(),
                at: Time(self.now),
                why: ending.reason,
                exit_code: ending.exit_code,
                message: ending.message.clone(),
                verdict: found.map(|finding| finding.verdict),
                verdict_reason: found.map(|finding| finding.reason),
                started_at: None,
            }
        };
        lost.iter().map(entry).collect()
    }

    /// From now on these are no members of the attempt any more. However many they are, that costs what an attempt would, once.
    fn give_up(&mut self, lost: Vec<ReplacedMember>, consequence: Consequence) {
        self.next.replaced.extend(lost);
        replace::forget_old(&mut self.next, &self.seen.books);
        let (failures, _) = retry::charge(
            &self.job.spec,
            self.next.failures.unwrap_or_default(),
            consequence,
        );
        self.next.failures = Some(failures);
    }

    /// Notes of which lost members the ranks run again.
    fn note_that_they_run_again(&mut self, placement: &Placement, members: &[Member]) {
        let runs = |lost: &ReplacedMember| {
            let node = replace::successor(placement, lost)?;
            let member = members.iter().find(|m| m.member == node.member)?;
            let started = member.started_at.unwrap_or(self.now);
            member.has_started().then_some((lost.member, started))
        };
        let run: Vec<(u32, Timestamp)> = self.next.being_replaced().filter_map(runs).collect();
        for (member, started) in run {
            let is_it = |lost: &&mut ReplacedMember| {
                lost.attempt == placement.attempt && lost.member == member
            };
            if let Some(lost) = self.next.replaced.iter_mut().find(is_it) {
                lost.started_at = Some(Time(started));
            }
        }
    }

    /// Whether the member takes the place of a lost one, whose rank does not run again yet.
    fn is_replacement(&self, placed: &MemberNode) -> bool {
        let mut ranks = self.next.being_replaced().map(|lost| lost.rank);
        placed.replacement.is_some() && ranks.any(|rank| rank == placed.rank())
    }

    /// Whether the name that the member gets is free: whom it replaces has ended and is no longer found by it.
    fn has_its_name(&self, attempt: u32, placed: &MemberNode) -> bool {
        placed.replacement.as_ref().is_none_or(|taken| {
            let mut pods = self.seen.pods.iter();
            let before = pods.find(|p| p.attempt == attempt && p.member == taken.member);
            before.is_none_or(|before| before.is_at_rest() && !before.is_found)
        })
    }

    /// Whether all ended well a moment ago and the bill for it is on its way.
    fn bill_follows(&mut self, placement: &Placement, members: &[Member], ending: &Ending) -> bool {
        let books = &self.seen.books;
        let is_billed = |m: &Member| {
            !books.has(placement.attempt, m.member) || books.is_closed(placement.attempt, m.member)
        };
        if ending.reason != AttemptEndReason::Succeeded || members.iter().all(is_billed) {
            return false;
        }
        let finished = members.iter().filter_map(|m| m.finished_at).max();
        // A node whose clock runs ahead holds nothing up for longer.
        let by = finished
            .and_then(|finished| after(finished, BILL_FOLLOWS))
            .min(after(self.now, BILL_FOLLOWS));
        self.passes_by(by)
    }

    /// The placed members in order, each with its pod or without one.
    fn members(&self, placement: &Placement) -> Vec<Member> {
        let name = self.job.name_any();
        let of = |member| {
            self.seen
                .pods
                .iter()
                .find(|p| p.attempt == placement.attempt && p.member == member)
                .cloned()
        };
        placement
            .nodes
            .iter()
            .map(|n| {
                of(n.member).unwrap_or_else(|| {
                    let key = (placement.attempt, n.member);
                    let pod = gridstake_crds::names::pod_name(&name, key.0, key.1);
                    if self.seen.on_their_way.contains(&key) {
                        Member::on_its_way(key.0, key.1, pod)
                    } else {
                        Member::missing(key.0, key.1, pod)
                    }
                })
            })
            .collect()
    }

    /// Why the attempt cannot go on or need not; the first that applies.
    fn why_it_ends(&mut self, placement: &Placement, members: &[Member]) -> Option<Ending> {
        let now = self.now;
        let ending = |end: End, decided_by: &dyn Fn(&Member) -> bool| {
            let decided = || {
                members
                    .iter()
                    .zip(&placement.nodes)
                    .filter(|(m, _)| decided_by(m))
            };
            let mut suspects: Vec<_> = decided()
                .filter(|_| retry::casts_suspicion(end.reason))
                .map(|(_, placed)| placed.node.clone())
                .collect();
            suspects.sort();
            suspects.dedup();
            Some(Ending {
                attempt: placement.attempt,
                reason: end.reason,
                since: Time(now),
                exit_code: end.exit_code,
                message: end.message,
                hint: end.hint,
                members: decided().map(|(m, _)| m.member).collect(),
                suspects,
            })
        };
        let nobody = |_: &Member| false;
        let has_ended = |m: &Member| matches!(m.state, State::Ended(_));
        let changes = members.iter().filter_map(|m| m.node.changes_at());
        self.wake_at(changes.min());
        if self.job.metadata.deletion_timestamp.is_some() {
            return ending(End::of(AttemptEndReason::Deleted), &nobody);
        }
        let failed = |m: &Member| matches!(&m.state, State::Ended(end) if end.reason != AttemptEndReason::Succeeded);
        if let Some(Member {
            state: State::Ended(end),
            ..
        }) = members
            .iter()
            .filter(|m| failed(m))
            .min_by_key(|m| (m.finished_at, m.member))
        {
            let alike =
                |m: &Member| matches!(&m.state, State::Ended(other) if other.reason == end.reason);
            return ending(end.clone(), &alike);
        }
        let is_whole = self.next.being_replaced().next().is_none();
        if is_whole && members.iter().all(has_ended) {
            let end = End {
                exit_code: Some(0),
                ..End::of(AttemptEndReason::Succeeded)
            };
            return ending(end, &nobody);
        }
        if let Some(end) = self.why_it_is_stopped(placement) {
            return ending(end, &nobody);
        }
        if let Some((end, who)) = self.who_is_asked_to_go(placement) {
            return ending(end, &|m| who.contains(&m.member));
        }
        let being_deleted = |m: &Member| !has_ended(m) && m.terminating;
        if members.iter().any(being_deleted) {
            let end = End::of(AttemptEndReason::PodDeleted)
                .saying("a pod of the job was deleted by somebody else");
            return ending(end, &being_deleted);
        }
        let awaited: Vec<u32> = placement
            .nodes
            .iter()
            .filter(|placed| self.is_replacement(placed))
            .map(|placed| placed.member)
            .collect();
        let vanished = |m: &Member| m.state == State::Missing && !awaited.contains(&m.member);
        if conditions::has_run(&self.next) && members.iter().any(vanished) {
            let end = End::of(AttemptEndReason::PodDeleted)
                .saying("a pod of the job vanished while it ran");
            return ending(end, &vanished);
        }
        if let Some((member, end)) = self.without_gpu(members) {
            return ending(end, &|m| m.member == member);
        }
        let at_work = |m: &Member| m.has_started() || has_ended(m);
        let all_work = members.iter().all(at_work);
        if (all_work || !is_whole) && self.run_time_is_over(members) {
            return ending(End::of(AttemptEndReason::RunTimeout), &nobody);
        }
        if !is_whole {
            let end = self.why_not_replaced(members)?;
            return ending(end, &|m| !at_work(m));
        }
        if all_work {
            return None;
        }
        let end = self.why_not_started_in_time(placement, members)?;
        ending(end, &|m| !at_work(m))
    }

    /// The end of an attempt whose members do not all run in time. While others hold a pod back there is no hurry, and the time counts
    /// from when they do so no more.
    fn why_not_started_in_time(
        &mut self,
        placement: &Placement,
        members: &[Member],
    ) -> Option<End> {
        if members.iter().any(|m| matches!(m.state, State::Held(_))) {
            return None;
        }
        let placed = placement.decided_at.0;
        let since = self.seen.gates_off_at.map_or(placed, |off| off.max(placed));
        let deadline = after(since, self.job.spec.start_timeout());
        if deadline.is_some_and(|d| d <= self.now) {
            return Some(why_not_started(members));
        }
        self.wake_at(deadline);
        None
    }

    /// The end of an attempt, if a lost rank does not run again in time.
    fn why_not_replaced(&mut self, members: &[Member]) -> Option<End> {
        let first = self.next.being_replaced().min_by_key(|lost| lost.at.0)?;
        let (rank, since) = (first.rank, first.at.0);
        let deadline = after(since, self.job.spec.start_timeout());
        if deadline.is_none_or(|deadline| deadline > self.now) {
            self.wake_at(deadline);
            return None;
        }
        let has_a_place = members.iter().any(|m| !m.has_started());
        let why = if has_a_place {
            why_not_started(members).message.unwrap_or_default()
        } else {
            "no node could take it; see the condition Scheduled".to_owned()
        };
        let words =
            format!("rank {rank} was lost and did not run again within timeouts.start: {why}");
        let words = words.trim_end_matches(": ");
        Some(End::of(AttemptEndReason::NotReplaced).saying(words))
    }

    /// Why an attempt that could go on must not.
    fn why_it_is_stopped(&self, placement: &Placement) -> Option<End> {
        if self.job.spec.suspend {
            return Some(End::of(AttemptEndReason::Suspended));
        }
        if let Some(message) = self.why_nobody_pays(placement) {
            return Some(End::of(AttemptEndReason::EscrowExhausted).saying(message));
        }
        let asked = self.seen.reclaimed.as_ref()?;
        let all = asked.who == Who::All;
        all.then(|| End::of(asked.reason).saying(asked.words.clone()))
    }

    /// The members that are to leave their nodes while the others run on, and the end that this is for them. Those that were given up are
    /// none of the placement's any more.
    fn who_is_asked_to_go(&self, placement: &Placement) -> Option<(End, BTreeSet<u32>)> {
        let asked = self.seen.reclaimed.as_ref()?;
        let Who::On(nodes) = &asked.who else {
            return None;
        };
        let members = placement.nodes.iter();
        let who: BTreeSet<u32> = members
            .filter(|placed| nodes.contains(&placed.node))
            .map(|placed| placed.member)
            .collect();
        let end = || End::of(asked.reason).saying(asked.words.clone());
        (!who.is_empty()).then(|| (end(), who))
    }

    /// The first member that runs on a GPU which is lost, or was unfit before it began; and the end that this is.
    fn without_gpu(&mut self, members: &[Member]) -> Option<(u32, End)> {
        let running = |m: &&Member| m.has_started() && !matches!(m.state, State::Ended(_));
        let may_be_lost = |place: &Place| place.gpus.iter().any(|gpu| gpu.is_lost);
        if self.seen.places.iter().any(may_be_lost) {
            self.wake_at(self.now.checked_add(LOOK_FOR_GPU).ok());
        }
        members.iter().filter(running).find_map(|member| {
            let place = self
                .seen
                .places
                .iter()
                .find(|p| p.member == member.member)?;
            let (uuid, hint) = unusable_gpu(place, member.started_at.map(unix_millis))?;
            let what = match hint {
                VerdictReason::GpuLost => "was lost: it fell off the bus or needs a reset",
                _ => "must not be used: see status.devices of the GpuNode",
            };
            let end = End::of(AttemptEndReason::DeviceLost)
                .saying(format!("{uuid} {what}"))
                .hinting(Some(hint));
            Some((member.member, end))
        })
    }

    /// At whose door the end of an attempt is laid, none of whose members runs any more.
    fn weigh(&mut self, members: &[Member], ending: &Ending) -> Judged {
        let ran: Vec<_> = members
            .iter()
            .map(|m| MemberEnd {
                member: m.member,
                began: m.started_at,
                ended: m.finished_at,
            })
            .collect();
        // Of those that were given up before nothing more is asked.
        let is_there = |place: &&Place| members.iter().any(|m| m.member == place.member);
        let places: Vec<Place> = self.seen.places.iter().filter(is_there).cloned().collect();
        match weigh(ending, &ran, &places, self.now) {
            Weighed::Nothing => Judged::Now(None),
            Weighed::Found(finding) => Judged::Now(Some(finding)),
            Weighed::Wait(until) => {
                self.wake_at(Some(until));
                Judged::Later
            }
        }
    }

    /// Why the attempt must not run on for want of money. A chain that is away stops nothing.
    fn why_nobody_pays(&self, placement: &Placement) -> Option<String> {
        match (&self.seen.funds, &self.seen.payer) {
            (Funds::Exhausted(message), _) => Some(message.clone()),
            (_, WhoPays::Refused(reason, message))
                if *reason != ComputeJobReason::ChainUnavailable =>
            {
                Some(message.clone())
            }
            (_, WhoPays::Account(account)) => {
                let elsewhere = |node: &&MemberNode| !is_on(node, account);
                placement.nodes.iter().find(elsewhere).map(|node| {
                    format!(
                        "the namespace's payer is on the chain {}, and node {} was chosen for one on {}: other nodes are looked for",
                        account.chain,
                        node.node,
                        node.chain.as_deref().unwrap_or_default()
                    )
                })
            }
            _ => None,
        }
    }

    fn run_time_is_over(&mut self, members: &[Member]) -> bool {
        let since = members.iter().filter_map(|m| m.started_at).min();
        let deadline = since
            .zip(self.job.spec.run_timeout())
            .and_then(|(since, limit)| after(since, limit));
        self.wake_at(deadline);
        deadline.is_some_and(|d| d <= self.now)
    }

    fn go_on(&mut self, placement: &Placement, members: &[Member]) -> Phase {
        let is_whole = self.next.being_replaced().next().is_none();
        let decided = placement.decided_at.0;
        let (told_at, ours_told_at) = (after(decided, PASSES), after(decided, OURS_PASSES));
        let missing: Vec<_> = members
            .iter()
            .zip(&placement.nodes)
            .filter(|(m, n)| m.state == State::Missing && self.has_its_name(placement.attempt, n))
            .map(|(_, n)| self.new_member(placement.attempt, n))
            .collect();
        if !missing.is_empty() {
            if let WhoPays::Refused(reason, message) = &self.seen.payer {
                return if is_whole {
                    Phase::Starting(*reason, message.clone())
                } else {
                    Phase::Running
                };
            }
            self.writes.push(Write::CreatePods {
                attempt: placement.attempt,
                members: missing,
            });
            if !is_whole {
                return Phase::Running;
            }
            self.passes_by(ours_told_at);
            return Phase::Starting(ComputeJobReason::Starting, String::new());
        }
        let gated: Vec<_> = members
            .iter()
            .filter(|m| m.state == State::Gated)
            .map(|m| m.pod.clone())
            .collect();
        if !gated.is_empty() {
            self.writes.push(Write::LiftGates(gated));
            if !is_whole {
                return Phase::Running;
            }
            self.passes_by(ours_told_at);
            return Phase::Starting(ComputeJobReason::Starting, String::new());
        }
        if is_whole && members.iter().any(|m| m.state == State::OnItsWay) {
            self.passes_by(ours_told_at);
            return Phase::Starting(ComputeJobReason::Starting, String::new());
        }
        let at_work = |m: &Member| m.has_started() || matches!(m.state, State::Ended(_));
        if !is_whole || members.iter().all(at_work) {
            return Phase::Running;
        }
        if self.passes_by(told_at) {
            return Phase::Starting(ComputeJobReason::Starting, String::new());
        }
        let (reason, message) = what_it_waits_for(members);
        Phase::Starting(reason, message)
    }

    /// The member with the price and the provider that were frozen when it was placed.
    fn new_member(&self, attempt: u32, placed: &MemberNode) -> NewMember {
        let payment = match (&self.seen.payer, placed.provider_id, placed.per_gpu_second) {
            (WhoPays::Account(account), Some(provider), Some(per_gpu_second))
                // The provider's number means somebody else on another chain.
                if is_on(placed, account) =>
            {
                Some(Payment {
                chain: account.chain.clone(),
                lane: account.lane,
                payer: account.payer,
                provider,
                per_gpu_second,
                })
            }
            _ => None,
        };
        NewMember {
            attempt,
            member: placed.member,
            rank: placed.rank(),
            restarts: placed.restarts(),
            node: placed.node.clone(),
            payment,
        }
    }

    fn stop(&mut self, placement: &Placement, members: &[Member], ending: &Ending) -> Phase {
        if members.iter().all(Member::is_at_rest) {
            return match self.weigh(members, ending) {
                Judged::Now(finding) => self.record(placement, members, ending, finding),
                Judged::Later => Phase::Stopping(ending.reason),
            };
        }
        let to_delete: Vec<_> = members
            .iter()
            .filter(|m| m.is_to_be_deleted())
            .map(|m| m.pod.clone())
            .collect();
        if !to_delete.is_empty() {
            self.writes.push(Write::DeletePods(to_delete));
        }
        Phase::Stopping(ending.reason)
    }

    /// The attempt is over and nothing of it runs: its end is written down, and its use as the pods tell it until it is
    /// billed.
    fn record(
        &mut self,
        placement: &Placement,
        members: &[Member],
        ending: &Ending,
        finding: Option<Finding>,
    ) -> Phase {
        let consequence = retry::consequence(ending.reason, finding.as_ref().map(|f| f.verdict));
        let suspects = suspects(placement, ending, finding.as_ref(), consequence);
        let gpu_millis: u64 = members.iter().map(|m| self.gpu_millis(m, ending)).sum();
        let replaced = self.next.replaced.iter();
        let mut nodes: Vec<_> = replaced
            .filter(|lost| lost.attempt == placement.attempt)
            .map(|lost| lost.node.clone())
            .chain(placement.nodes.iter().map(|n| n.node.clone()))
            .collect();
        nodes.sort();
        nodes.dedup();
        nodes.truncate(MOST_NODES);
        let attempt = Attempt {
            attempt: placement.attempt,
            nodes,
            started_at: members.iter().filter_map(|m| m.started_at).min().map(Time),
            ended_at: Time(
                members
                    .iter()
                    .filter_map(|m| m.finished_at)
                    .max()
                    .unwrap_or(self.now),
            ),
            end_reason: ending.reason,
            exit_code: ending.exit_code,
            message: ending.message.clone(),
            gpu_millis,
            suspects,
            verdict: finding.as_ref().map(|found| found.verdict),
            verdict_reason: finding.as_ref().map(|found| found.reason),
            verdict_members: finding.map(|found| found.members).unwrap_or_default(),
        };
        self.next.attempts.push(attempt);
        self.next.attempts.sort_by_key(|a| a.attempt);
        let surplus = self.next.attempts.len().saturating_sub(ATTEMPTS_KEPT);
        self.next.attempts.drain(..surplus);
        self.next.ending = None;
        let (failures, end) = retry::charge(
            &self.job.spec,
            self.next.failures.unwrap_or_default(),
            consequence,
        );
        self.next.failures = Some(failures);
        if ending.reason == AttemptEndReason::Succeeded {
            let mut placed = members.iter().zip(&placement.nodes);
            let first = placed.find(|(_, n)| n.rank() == 0).map(|(m, _)| m);
            self.next.result = first
                .and_then(|m| m.digest.clone())
                .map(|digest| JobResult { digest });
        }
        match end {
            Some(reason) => {
                self.end(reason);
                Phase::Ended(reason, words(ending.message.as_ref(), ending.exit_code))
            }
            // Not before somebody has found out that the money suffices again.
            None if ending.reason == AttemptEndReason::EscrowExhausted => Phase::NotAdmitted(
                ComputeJobReason::EscrowExhausted,
                words(ending.message.as_ref(), None),
            ),
            None => Phase::Queued,
        }
    }

    /// GPUs × time from the first container's start to the last one's end. Where the end was never reported (the
    /// node is gone), it is when the operator decided that the attempt had ended.
    fn gpu_millis(&self, member: &Member, ending: &Ending) -> u64 {
        let Some(start) = member.started_at else {
            return 0;
        };
        let end = member.finished_at.unwrap_or(ending.since.0);
        let millis = u64::try_from(end.duration_since(start).as_millis()).unwrap_or(0);
        millis.saturating_mul(u64::from(self.job.spec.gpu.count))
    }

    // ---- pods of attempts that are recorded -----------------------------------------------------

    /// Pods that belong to no attempt in progress: they are let go once they rest, and stopped if they do not.
    fn settle_leftovers(&mut self) {
        let active = self.next.active_placement().map(|p| p.attempt);
        // What this pass records is not written yet: those pods are let go by the next pass.
        let recorded_now = self
            .job
            .status
            .as_ref()
            .and_then(ComputeJobStatus::active_placement)
            .map(|p| p.attempt);
        // Nor is what this pass gives up.
        let before = self.job.status.as_ref();
        let is_given_up =
            |p: &Member| before.is_some_and(|s| s.replaced(p.attempt, p.member).is_some());
        let is_of_another =
            |p: &Member| Some(p.attempt) != active && Some(p.attempt) != recorded_now;
        let leftovers = || {
            let pods = self.seen.pods.iter();
            pods.filter(|p| is_of_another(p) || is_given_up(p))
        };
        // A name is taken over only from one that is given up: other attempts have other names.
        let withdraw: Vec<_> = leftovers()
            .filter(|p| p.is_found && is_given_up(p))
            .map(|p| p.pod.clone())
            .collect();
        let stop: Vec<_> = leftovers()
            .filter(|p| p.is_to_be_deleted())
            .map(|p| p.pod.clone())
            .collect();
        let placement = self.next.placement.as_ref();
        let placed = |p: &Member| {
            placement
                .filter(|placement| placement.attempt == p.attempt)
                .and_then(|placement| placement.nodes.iter().find(|n| n.member == p.member))
        };
        let books = &self.seen.books;
        let resting = || leftovers().filter(|p| p.is_at_rest() && p.held);
        // Without its pod, nobody could tell when the member ended.
        let release: Vec<_> = resting()
            .filter(|p| {
                books.is_closed(p.attempt, p.member)
                    || (is_of_another(p) && !books.has(p.attempt, p.member) && placed(p).is_none())
            })
            .map(|p| p.pod.clone())
            .collect();
        let unrecorded: Vec<_> = resting()
            .filter(|p| !books.has(p.attempt, p.member))
            .filter_map(|p| Some(self.new_member(p.attempt, placed(p)?)))
            .collect();
        if !unrecorded.is_empty() {
            self.writes.push(Write::CreateRecords(unrecorded));
        }
        if !withdraw.is_empty() {
            self.writes.push(Write::Withdraw(withdraw));
        }
        if !stop.is_empty() {
            self.writes.push(Write::DeletePods(stop));
        }
        if !release.is_empty() {
            self.writes.push(Write::ReleasePods(release));
        }
    }

    /// What the records say by now about ended attempts, use and payment.
    fn keep_books(&mut self) {
        let books = &self.seen.books;
        for attempt in &mut self.next.attempts {
            if let Some(billed) = books.gpu_millis(attempt.attempt) {
                attempt.gpu_millis = billed;
            }
        }
        self.next.usage = books.usage(self.next.usage.as_ref(), &self.next.attempts);
        self.next.settlement = books.settlement(self.next.settlement.as_ref());
    }

    /// What follows from the results of the runs that are compared.
    fn verify(&mut self) {
        let next = verification::next(self.job, &self.next, &self.seen.verification);
        if let Some(number) = next.create {
            self.writes.push(Write::CreateCheck(number));
        }
        if !next.delete.is_empty() {
            self.writes.push(Write::DeleteChecks(next.delete));
        }
        if let Some(verification) = next
            .verification
            .as_ref()
            .filter(|_| !next.accuse.is_empty())
        {
            self.writes.push(Write::Accuse {
                runs: next.accuse,
                verification: Box::new(verification.clone()),
            });
        }
        self.next.verification = next.verification;
    }

    /// A job in deletion may go once no attempt is in progress, no pod is held, running or about to be seen, and all it used is billed:
    /// of one that shows up after its job has gone only [`crate::controllers::orphan_pod`] lets go, later.
    fn may_be_let_go(&self) -> bool {
        let recorded = self
            .job
            .status
            .as_ref()
            .and_then(ComputeJobStatus::active_placement)
            .is_none();
        recorded
            && self.seen.books.are_closed()
            && self.seen.on_their_way.is_empty()
            && self.seen.pods.iter().all(|p| !p.held && p.is_at_rest())
            && self.job.finalizers().iter().any(|f| f == FINALIZER_JOB)
    }
}

/// What a person should read about an end: the kubelet's words, else the exit code.
fn words(message: Option<&String>, exit_code: Option<i32>) -> String {
    match (message, exit_code) {
        (Some(message), _) => message.clone(),
        (None, Some(code)) if code != 0 => format!("exit code {code}"),
        (None, _) => String::new(),
    }
}

/// `wait` after `since`; `None` where no time is that late.
fn after(since: Timestamp, wait: std::time::Duration) -> Option<Timestamp> {
    since
        .checked_add(SignedDuration::try_from(wait).unwrap_or(SignedDuration::MAX))
        .ok()
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
