//! One pass through the queue.
//!
//! Decisions are made one after the other, each on what the one before has left, and carried out together: up to
//! [`MOST_UNWRITTEN`] of them go into the log of decisions first, then into their jobs, side by side. One that cannot be written,
//! since its job has changed meanwhile, is undone: what it took is free again.

use std::collections::{BTreeMap, BTreeSet};

use futures::StreamExt as _;
use gridstake_crds::{
    ComputeJob,
    compute_job::{AttemptEndReason, ComputeJobReason, QueuePlace},
    condition::Fact,
};
use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::{SignedDuration, Timestamp},
};
use kube::ResourceExt as _;

use super::{
    Placer,
    act::{self, Written},
    bounds,
    decide::{self, Standing},
    fleet,
    position::{Round, Telling, step},
    replacement::{self, Lost},
    shapes::{Answers, Asked, Shape},
    shares,
};
use crate::{
    caches::Caches,
    context::Context,
    controllers::reclaim::{decide::Why, preempt::Preemptor},
    error::chain,
    scheduler::{
        JobUid, MemberKey, Placement, Request, Seed, explain,
        fair_share::{Holding, Payer, Ranks},
        holds::{self, Hold, Millis, Release},
        queue::{Queue, QueueEntry},
        request::OfNamespace,
    },
    snapshot::pod_facts,
};

/// How soon a decision that could not be written is made anew.
const AGAIN: SignedDuration = SignedDuration::from_secs(2);
/// For so long, in milliseconds, a job whose version is the one on which something was written is not told anything new.
const CACHE_IS_BEHIND: Millis = 10_000;
/// So many writes to jobs are under way at a time.
const AT_A_TIME: usize = 16;
/// The job for which others make way is among so many that are first in the queue.
const MOST_LOOKED_AT: usize = 1000;
/// From so many decisions on, what else there is to be written waits for them.
const BURST: usize = 4;
/// So many decisions are made before they are written down.
const MOST_UNWRITTEN: usize = 64;

/// A job that is to be looked at.
struct Candidate<'a> {
    job: &'a ComputeJob,
    standing: Standing,
}

/// The first job that waits, and what is kept for it.
struct Head {
    job_uid: JobUid,
    hold: Hold,
}

/// What a job asks for in this pass.
struct Wanted {
    request: Request,
    shape: Shape,
    /// For how long an attempt holds its GPUs at most.
    longest: Option<Millis>,
}

/// What a job is told.
struct Words {
    fact: Option<Fact>,
    queue: Option<QueuePlace>,
}

/// A decision that is not written down yet.
struct Unwritten<'a> {
    job: &'a ComputeJob,
    request: Request,
    placement: Placement,
    /// The lost members whose ranks are placed, where it is not about a whole attempt.
    lost: Option<Lost>,
}

/// A pass.
pub(super) struct Pass<'a> {
    placer: &'a mut Placer,
    now: Timestamp,
    /// Whether any node looks at the labels of namespaces.
    labels_count: bool,
    jobs: BTreeMap<JobUid, Candidate<'a>>,
    /// Jobs with an attempt in progress.
    active: Vec<&'a ComputeJob>,
    entries: Vec<QueueEntry>,
    namespaces: BTreeMap<String, OfNamespace>,
    answers: Answers,
    head: Option<Head>,
    /// The first gang that runs and finds no place for its lost ranks, where it may take GPUs from others.
    gang_first: Option<Preemptor>,
    /// Jobs that come before the head and wait for what nothing can be kept for.
    before_head: BTreeSet<JobUid>,
    words: BTreeMap<JobUid, Words>,
    unwritten: Vec<Unwritten<'a>>,
    /// The names of jobs that are being stopped for one of higher priority, by the message that says for which.
    stopped: BTreeMap<String, Vec<String>>,
    wake: Vec<Timestamp>,
}

impl<'a> Pass<'a> {
    pub(super) fn new(
        placer: &'a mut Placer,
        now: Timestamp,
        stored: impl Iterator<Item = &'a ComputeJob>,
        mut payer_of: impl FnMut(&str) -> Payer,
    ) -> Self {
        placer.look_at_fleet(now);
        let snapshot = placer.index.snapshot();
        let nodes = snapshot.nodes().iter();
        let labels_count = nodes
            .into_iter()
            .any(|node| node.facts().namespaces.is_some());
        let mut jobs = BTreeMap::new();
        let mut stopped: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let (mut active, mut entries) = (Vec::new(), Vec::new());
        for job in stored {
            let uid = job.metadata.uid.as_deref().unwrap_or_default();
            let Ok(job_uid) = uid.parse::<JobUid>() else {
                continue;
            };
            if decide::is_active(job) {
                active.push(job);
                if let Some(message) = preempted(job) {
                    stopped.entry(message).or_default().push(full_name(job));
                }
            }
            let is_admitted = placer.ctx.untold.of(job).is_some();
            let standing = decide::standing(job, is_admitted, now);
            let in_queue = job.status.as_ref().is_some_and(|s| s.queue.is_some());
            let is_dealt_with = match standing {
                Standing::Unseen => true,
                // One that has ended while it waited still shows its place.
                Standing::Settled => !in_queue || decide::is_active(job),
                _ => false,
            };
            if is_dealt_with || placer.assumed.contains(uid) {
                continue;
            }
            if standing == Standing::Waiting {
                let namespace = job.metadata.namespace.as_deref().unwrap_or_default();
                entries.push(fleet::queued(&placer.ctx, job, payer_of(namespace)));
            }
            jobs.insert(job_uid, Candidate { job, standing });
        }
        // The cache has no order.
        for names in stopped.values_mut() {
            names.sort();
        }
        Self {
            placer,
            now,
            labels_count,
            jobs,
            active,
            entries,
            namespaces: BTreeMap::new(),
            answers: Answers::default(),
            head: None,
            gang_first: None,
            before_head: BTreeSet::new(),
            words: BTreeMap::new(),
            unwritten: Vec::new(),
            stopped,
            wake: Vec::new(),
        }
    }

    /// Places what fits and tells the others what they wait for; tells when to look again.
    pub(super) async fn run(mut self, ranks: Ranks) -> Option<Timestamp> {
        let known: BTreeSet<JobUid> = self
            .active
            .iter()
            .filter_map(|job| job.metadata.uid.as_deref()?.parse().ok())
            .chain(self.jobs.keys().copied())
            .collect();
        self.placer.shapes.keep(|uid| known.contains(uid));
        self.placer.told.keep(|uid| self.jobs.contains_key(uid));
        self.placer.written.retain(|uid, _| known.contains(uid));
        self.look_at_those_that_may_not_wait();
        self.serve_gangs_that_run().await?;
        let mut queue = Queue::new(std::mem::take(&mut self.entries), ranks);
        let mut waiting = Vec::new();
        while let Some(entry) = queue.next_job() {
            if !self.placer.ctx.leadership.holds() {
                return None;
            }
            match self.serve(&entry) {
                Served::Placed => queue.charge(&entry),
                Served::Waits => waiting.push(entry),
                Served::Neither => {}
            }
            if self.unwritten.len() >= MOST_UNWRITTEN {
                self.write_placements().await;
            }
        }
        self.write_placements().await;
        let order = Queue::new(waiting, queue.into_ranks()).order();
        self.tell_who_is_first(&order);
        let places = self.word_all(&order);
        self.tell(places).await;
        self.wake.into_iter().min()
    }

    /// What they are told, and whether they might wait after all.
    fn look_at_those_that_may_not_wait(&mut self) {
        let uids: Vec<JobUid> = self.jobs.keys().copied().collect();
        for job_uid in uids {
            let Some(Candidate { job, standing }) = self.jobs.get(&job_uid) else {
                continue;
            };
            let (job, standing) = (*job, standing.clone());
            match standing {
                Standing::Waiting | Standing::Replacing(_) => continue,
                Standing::HeldBack(until) => self.wake.push(until),
                _ => self.look_at_admission(job_uid, job, &standing),
            }
            let fact = decide::fact(&standing);
            self.words.insert(job_uid, Words { fact, queue: None });
        }
    }

    fn look_at_admission(&mut self, job_uid: JobUid, job: &ComputeJob, standing: &Standing) {
        let is_outdated = decide::admission_is_outdated(job, standing, || {
            self.wanted(job_uid, job).is_ok_and(|wanted| {
                let (snapshot, answers) = (self.placer.index.snapshot(), &mut self.answers);
                answers.is_satisfiable(&wanted.shape, snapshot, &wanted.request)
            })
        });
        if is_outdated {
            self.look_again(job);
        }
    }

    fn look_again(&self, job: &ComputeJob) {
        let triggers = self.placer.ctx.caches.compute_job_triggers();
        triggers.one(job.metadata.namespace.as_deref(), &job.name_any());
    }

    fn wanted(&mut self, job_uid: JobUid, job: &ComputeJob) -> Result<Wanted, String> {
        let asked: Asked = self.placer.shapes.of(job_uid, job)?;
        let ctx = &self.placer.ctx;
        let name = job.namespace().unwrap_or_default();
        let namespace = if fleet::is_of_any_chain(ctx, job) {
            fleet::of_job(ctx, job)
        } else {
            let known = self.namespaces.entry(name);
            known.or_insert_with(|| fleet::of_job(ctx, job)).clone()
        };
        let same_owner = fleet::same_owner(ctx, job);
        let request = decide::next_request(job, &asked.request, namespace, same_owner, self.now);
        let shape = Shape::new(&asked, &request, self.labels_count);
        Ok(Wanted {
            request,
            shape,
            longest: asked.longest,
        })
    }

    /// Places the lost ranks of gangs that run, those that have waited for longest first. They come before the queue: what the others of
    /// the gang hold does nothing without them. `None`: this replica does not lead any more.
    async fn serve_gangs_that_run(&mut self) -> Option<()> {
        let replacing = |(job_uid, candidate): (&JobUid, &Candidate<'_>)| match &candidate.standing
        {
            Standing::Replacing(lost) => Some((lost.since, *job_uid, lost.clone())),
            _ => None,
        };
        let mut gangs: Vec<_> = self.jobs.iter().filter_map(replacing).collect();
        gangs.sort_by_key(|(since, job_uid, _)| (*since, *job_uid));
        for (_, job_uid, lost) in gangs {
            if !self.placer.ctx.leadership.holds() {
                return None;
            }
            self.serve_gang_that_runs(job_uid, lost);
            if self.unwritten.len() >= MOST_UNWRITTEN {
                self.write_placements().await;
            }
        }
        Some(())
    }

    /// Places the lost ranks of one gang together, or tells it what they wait for.
    fn serve_gang_that_runs(&mut self, job_uid: JobUid, lost: Lost) {
        let Some(job) = self.jobs.get(&job_uid).map(|candidate| candidate.job) else {
            return;
        };
        self.wake.extend(decide::trusts_again(job, self.now));
        let requests = self.wanted(job_uid, job).map(|wanted| {
            let snapshot = self.placer.index.snapshot();
            replacement::requests(job, &lost, &wanted.request, snapshot)
        });
        let requests = match requests {
            Ok(requests) => requests,
            Err(message) => return self.tell_gang_that_runs(job_uid, &lost, &message),
        };
        let mut message = "it is not known where the other members are".to_owned();
        let least = requests.last().cloned();
        for request in requests {
            let seed = self.seed(&request);
            match self.placer.index.place(&request, &seed) {
                Ok(placement) => {
                    // Its share is counted already, and until when it runs is not known any better.
                    let ends_by = bounds::ends_by(job);
                    return self.note_decision(job, request, placement, Some(lost), ends_by, None);
                }
                Err(rejections) => {
                    let snapshot = self.placer.index.snapshot();
                    message = explain::waiting_in_full(snapshot, &request, &rejections, None);
                }
            }
        }
        let caches = &self.placer.ctx.caches;
        if self.gang_first.is_none() && fleet::may_preempt(caches, job) {
            self.gang_first = least.map(|request| preemptor(caches, job, request));
        }
        let stopped = self.stopped_for(job);
        if !stopped.is_empty() {
            message = making_room(&message, stopped);
        }
        self.tell_gang_that_runs(job_uid, &lost, &message);
    }

    fn tell_gang_that_runs(&mut self, job_uid: JobUid, lost: &Lost, message: &str) {
        let fact = Some(replacement::waits(lost, message));
        self.words.insert(job_uid, Words { fact, queue: None });
    }

    /// Places one job, or finds that it waits.
    fn serve(&mut self, entry: &QueueEntry) -> Served {
        let job_uid = entry.job_uid;
        let Some(job) = self.jobs.get(&job_uid).map(|candidate| candidate.job) else {
            return Served::Neither;
        };
        let Wanted {
            mut request,
            shape,
            longest,
        } = match self.wanted(job_uid, job) {
            Ok(wanted) => wanted,
            Err(message) => {
                let fact = decide::waits(ComputeJobReason::InvalidTemplate, &message);
                let words = Words {
                    fact: Some(fact),
                    queue: None,
                };
                self.words.insert(job_uid, words);
                return Served::Neither;
            }
        };
        let satisfiable =
            self.answers
                .is_satisfiable(&shape, self.placer.index.snapshot(), &request);
        if decide::admission_is_outdated(job, &Standing::Waiting, || satisfiable) {
            self.look_again(job);
        }
        self.wake.extend(decide::trusts_again(job, self.now));
        if self.answers.is_refused(&shape) {
            if self.head.is_none() {
                self.before_head.insert(job_uid);
            }
            return Served::Waits;
        }
        let ends_by = longest.map(|longest| self.now.as_millisecond().saturating_add(longest));
        if let Some(head) = &self.head {
            request.kept = head.hold.spare_for(ends_by);
        }
        let seed = self.seed(&request);
        match self.placer.index.place(&request, &seed) {
            Ok(placement) => {
                self.put(entry, job, request, placement, ends_by);
                Served::Placed
            }
            Err(_) => {
                if self.head.is_none() && satisfiable {
                    let running = self.running();
                    let now = self.now.as_millisecond();
                    self.head = holds::hold(self.placer.index.snapshot(), &request, &running, now)
                        .map(|hold| Head { job_uid, hold });
                }
                if self.head.is_none() {
                    self.before_head.insert(job_uid);
                }
                self.answers.refuse(shape);
                Served::Waits
            }
        }
    }

    /// What the draw about `request` follows from.
    fn seed(&self, request: &Request) -> Seed {
        let block = fleet::block(&self.placer.ctx, request.chain.as_deref());
        self.placer.log.seed(block)
    }

    /// Takes what the decision about a job in the queue has given.
    fn put(
        &mut self,
        entry: &QueueEntry,
        job: &'a ComputeJob,
        request: Request,
        placement: Placement,
        ends_by: Option<Millis>,
    ) {
        if let Some(head) = &mut self.head {
            head.hold
                .note(&placement.nodes, &request.per_member(), ends_by);
        }
        let holding = Holding {
            payer: entry.payer.clone(),
            gpus: entry.gpus,
            since_millis: shares::millis(self.now),
        };
        self.note_decision(job, request, placement, None, ends_by, Some(holding));
    }

    /// Puts a decision among those that are to be written down. The next decision counts what it took and follows it in the log.
    fn note_decision(
        &mut self,
        job: &'a ComputeJob,
        request: Request,
        mut placement: Placement,
        lost: Option<Lost>,
        ends_by: Option<Millis>,
        holding: Option<Holding>,
    ) {
        if let Some(recorder) = &mut self.placer.recorder {
            placement.decision.state = recorder.state();
            recorder.decided(&request, &placement.decision, self.now);
        }
        self.placer.index.reserve(&placement, &request);
        self.placer.log.append(&placement.decision);
        let uid = job.uid().unwrap_or_default();
        let first = lost.as_ref().map_or(0, |lost| lost.next);
        self.placer
            .assumed
            .insert(uid, &request, &placement, first, ends_by, holding);
        self.unwritten.push(Unwritten {
            job,
            request,
            placement,
            lost,
        });
    }

    /// Writes the decisions down: into the log, then into their jobs.
    async fn write_placements(&mut self) {
        if self.unwritten.is_empty() {
            return;
        }
        if let Some(recorder) = &mut self.placer.recorder {
            recorder.write().await;
        }
        let unwritten = std::mem::take(&mut self.unwritten);
        let ctx = self.placer.ctx.clone();
        let _first = (unwritten.len() >= BURST).then(|| ctx.precedence.take());
        let fact = decide::placed();
        let writes: Vec<_> = unwritten
            .into_iter()
            .map(|decided| {
                let provider_of = |node: &str| fleet::provider_of(&ctx, node);
                let (attempt, placement) = (decided.request.attempt, &decided.placement);
                let snapshot = self.placer.index.snapshot();
                let status = match &decided.lost {
                    None => Some(decide::to_api(
                        placement,
                        attempt,
                        snapshot,
                        provider_of,
                        self.now,
                    )),
                    Some(lost) => replacement::to_api(
                        decided.job,
                        lost,
                        placement,
                        snapshot,
                        provider_of,
                        self.now,
                    ),
                };
                let (ctx, fact) = (&ctx, &fact);
                async move {
                    // A replica that does not lead any more must not place; its decision is undone.
                    let written = if ctx.leadership.holds() && status.is_some() {
                        act::write(ctx, decided.job, status, Some(fact), None).await
                    } else {
                        Ok(Written::Outdated)
                    };
                    (decided, written)
                }
            })
            .collect();
        let results: Vec<_> = futures::stream::iter(writes)
            .buffer_unordered(AT_A_TIME)
            .collect()
            .await;
        for (decided, written) in results {
            let why = match &written {
                Ok(_) => "Outdated",
                // It may have happened. Then it comes through the watch, and counts from then on.
                Err(act::WriteError::TimedOut) => "NoAnswer",
                Err(act::WriteError::Status(_)) => "Refused",
            };
            let Unwritten {
                job,
                request,
                placement,
                lost: _,
            } = decided;
            if self.note(job, written) {
                tracing::info!(job = %job.name_any(), namespace = job.namespace(), attempt = request.attempt, nodes = placement.nodes.join(" "), "placed");
            } else {
                self.undo(job, &request, &placement, why);
            }
        }
    }

    /// A decision does not stand: what it took is free again.
    fn undo(&mut self, job: &ComputeJob, request: &Request, placement: &Placement, why: &str) {
        let each = request.per_member();
        for node in &placement.nodes {
            self.placer.index.give_back(node, &each);
        }
        self.placer.assumed.remove(&job.uid().unwrap_or_default());
        if let Some(recorder) = &mut self.placer.recorder {
            recorder.undone(request, &placement.decision, why);
        }
    }

    /// Tells the loop that takes GPUs back which job is the first of those that wait and may take them from others: a gang that runs,
    /// if there is one, since what is free is offered to it first.
    fn tell_who_is_first(&mut self, order: &[QueueEntry]) {
        let first = self.gang_first.take();
        let first = first.or_else(|| self.first_in_queue(order));
        self.placer.ctx.caches.waiting_first().set(first);
    }

    fn first_in_queue(&mut self, order: &[QueueEntry]) -> Option<Preemptor> {
        let caches = &self.placer.ctx.caches;
        let may_preempt = |entry: &&QueueEntry| {
            let candidate = self.jobs.get(&entry.job_uid);
            candidate.is_some_and(|candidate| fleet::may_preempt(caches, candidate.job))
        };
        let entry = order.iter().take(MOST_LOOKED_AT).find(may_preempt)?;
        let job = self.jobs.get(&entry.job_uid)?.job;
        let wanted = self.wanted(entry.job_uid, job).ok()?;
        Some(preemptor(&self.placer.ctx.caches, job, wanted.request))
    }

    /// The jobs that are being stopped to make room for `job`, by name.
    fn stopped_for(&self, job: &ComputeJob) -> &[String] {
        if self.stopped.is_empty() {
            return &[];
        }
        let words = Why::Priority(full_name(job)).for_tenant("");
        self.stopped.get(&words).map_or(&[], Vec::as_slice)
    }

    /// Notes what became of a write; tells whether it stands.
    fn note(&mut self, job: &ComputeJob, written: Result<Written, act::WriteError>) -> bool {
        match written {
            Ok(Written::Yes) => return true,
            // Its newer version comes through the watch, which wakes the loop.
            Ok(Written::Outdated) => {}
            Err(error) => {
                tracing::warn!(job = %job.name_any(), namespace = job.namespace(), error = chain(&error), "could not write a placement");
                let metrics = &self.placer.ctx.metrics;
                metrics.pass_failed("placement", "apply_status");
            }
        }
        self.wake.extend(self.now.checked_add(AGAIN).ok());
        false
    }

    /// What all attempts in progress will give back, and by when.
    fn running(&mut self) -> Vec<Release> {
        let has_ended = |pod: &k8s_openapi::api::core::v1::Pod| {
            let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
            matches!(phase, Some("Succeeded" | "Failed"))
        };
        let gone: BTreeSet<MemberKey> = pod_facts(&self.placer.ctx.caches, has_ended)
            .into_iter()
            .filter_map(|pod| pod.member)
            .collect();
        let mut running = self.placer.assumed.releases();
        for job in &self.active {
            let uid = job.metadata.uid.as_deref().unwrap_or_default();
            let asked = uid
                .parse()
                .ok()
                .and_then(|uid| self.placer.shapes.of(uid, job).ok());
            if let Some(asked) = asked {
                running.extend(bounds::releases(job, &asked.request.per_member(), &gone));
            }
        }
        running
    }

    /// What jobs that wait in this `order` are told; tells their places.
    fn word_all(&mut self, order: &[QueueEntry]) -> BTreeMap<JobUid, usize> {
        let mut places = BTreeMap::new();
        for (place, entry) in (1..).zip(order) {
            self.word(place, entry);
            places.insert(entry.job_uid, place);
        }
        places
    }

    /// What a job that waits is told.
    fn word(&mut self, place: usize, entry: &QueueEntry) {
        let job_uid = entry.job_uid;
        let Some(job) = self.jobs.get(&job_uid).map(|candidate| candidate.job) else {
            return;
        };
        let Ok(Wanted {
            mut request,
            shape,
            longest,
        }) = self.wanted(job_uid, job)
        else {
            return;
        };
        let head = self.head.as_ref();
        let is_head = head.is_some_and(|head| head.job_uid == job_uid);
        let ends_by = longest.map(|longest| self.now.as_millisecond().saturating_add(longest));
        let is_bound = !is_head && !self.before_head.contains(&job_uid);
        if let Some(head) = head.filter(|_| is_bound) {
            request.kept = head.hold.spare_for(ends_by);
        }
        let kept_nodes = head.filter(|_| is_head).map(|head| head.hold.members.len());
        let seed = self.seed(&request);
        let stopped = self.stopped_for(job).to_vec();
        let index = &mut self.placer.index;
        let mut say = || match index.place(&request, &seed) {
            Ok(_) => "it fits now and is placed shortly".to_owned(),
            Err(rejections) => {
                explain::waiting_in_full(index.snapshot(), &request, &rejections, kept_nodes)
            }
        };
        let mut message = if is_head {
            say()
        } else {
            self.answers.words(&shape, is_bound, say)
        };
        if !stopped.is_empty() {
            message = making_room(&message, &stopped);
        }
        let starts_by = head
            .filter(|_| is_head)
            .and_then(|head| head.hold.starts_by)
            .filter(|at| *at > self.now.as_millisecond())
            .and_then(whole_second);
        let fact = decide::waits(ComputeJobReason::InsufficientCapacity, &message);
        let queue = QueuePlace {
            position: step(place),
            starts_by,
        };
        let words = Words {
            fact: Some(fact),
            queue: Some(queue),
        };
        self.words.insert(job_uid, words);
    }

    /// Tells jobs what they do not know yet; `places` are those of jobs that wait, counted from 1.
    async fn tell(&mut self, places: BTreeMap<JobUid, usize>) {
        let round = self.who_is_told(&places);
        let again = round.again;
        self.wake
            .extend(again.and_then(|at| Timestamp::from_millisecond(at).ok()));
        let ctx = self.placer.ctx.clone();
        let mut writes = Vec::new();
        for job_uid in round.jobs {
            if let Some(words) = self.words.remove(&job_uid)
                && let Some(candidate) = self.jobs.get(&job_uid)
            {
                writes.push(write_words(&ctx, job_uid, candidate.job, words));
            }
        }
        let results: Vec<_> = futures::stream::iter(writes)
            .buffer_unordered(AT_A_TIME)
            .collect()
            .await;
        for (job_uid, job, written) in results {
            if self.note(job, written)
                && let Some(version) = job.metadata.resource_version.clone()
            {
                let at = self.now.as_millisecond();
                self.placer.written.insert(job_uid, (version, at));
            }
        }
    }

    fn who_is_told(&mut self, places: &BTreeMap<JobUid, usize>) -> Round {
        let now = self.now.as_millisecond();
        let tellings = self.words.iter().filter_map(|(job_uid, words)| {
            let job = self.jobs.get(job_uid)?.job;
            let is_behind = |(version, at): &(String, Millis)| {
                job.metadata.resource_version.as_ref() == Some(version)
                    && now.saturating_sub(*at) < CACHE_IS_BEHIND
            };
            if self.placer.written.get(job_uid).is_some_and(is_behind) {
                return None;
            }
            let urgency = decide::urgency(job, words.fact.as_ref(), words.queue.as_ref())?;
            Some(Telling {
                urgency,
                place: places.get(job_uid).copied().unwrap_or(0),
                job_uid: *job_uid,
            })
        });
        let tellings: Vec<Telling> = tellings.collect();
        self.placer.told.choose(tellings, now)
    }
}

async fn write_words<'a>(
    ctx: &Context,
    job_uid: JobUid,
    job: &'a ComputeJob,
    words: Words,
) -> (JobUid, &'a ComputeJob, Result<Written, act::WriteError>) {
    let fact = words.fact.as_ref();
    let written = act::write(ctx, job, None, fact, words.queue).await;
    (job_uid, job, written)
}

/// What became of a job when it was its turn.
enum Served {
    Placed,
    Waits,
    Neither,
}

/// The message of the attempt in progress, if it is being stopped for a job of higher priority.
fn preempted(job: &ComputeJob) -> Option<String> {
    let ending = job.status.as_ref()?.ending.as_ref()?;
    let is_preempted = ending.reason == AttemptEndReason::Preempted;
    ending.message.clone().filter(|_| is_preempted)
}

/// `job` as the one that asks for `request` and may take GPUs from others.
fn preemptor(caches: &Caches, job: &ComputeJob, request: Request) -> Preemptor {
    Preemptor {
        request,
        priority: fleet::priority_of(caches, job),
        job: full_name(job),
    }
}

/// Why a job waits, and that jobs of these names are being stopped for it.
fn making_room(message: &str, stopped: &[String]) -> String {
    let stopped = stopped.join(", ");
    format!("{message}; room is being made: ComputeJob {stopped} is being stopped")
}

/// Namespace and name.
fn full_name(job: &ComputeJob) -> String {
    format!("{}/{}", job.namespace().unwrap_or_default(), job.name_any())
}

/// The first whole second that is not before `at`.
fn whole_second(at: Millis) -> Option<Time> {
    let second = at.checked_add(999)?.div_euclid(1000);
    Timestamp::from_second(second).ok().map(Time)
}
