//! One pass through the queue.

use std::collections::{BTreeMap, BTreeSet};

use futures::StreamExt as _;
use gridstake_crds::{
    ComputeJob,
    compute_job::{ComputeJobReason, QueuePlace},
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
    shapes::{Answers, Asked, Shape},
    shares,
};
use crate::{
    context::Context,
    error::chain,
    scheduler::{
        self, JobUid, MemberKey, Placement, Request, Snapshot, explain,
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
/// So many writes to jobs that wait are under way at a time. Placements are written one by one.
const AT_A_TIME: usize = 8;

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

/// A pass.
pub(super) struct Pass<'a> {
    placer: &'a mut Placer,
    now: Timestamp,
    snapshot: Snapshot,
    /// Whether any node looks at the labels of namespaces.
    labels_count: bool,
    jobs: BTreeMap<JobUid, Candidate<'a>>,
    /// Jobs with an attempt in progress.
    active: Vec<&'a ComputeJob>,
    entries: Vec<QueueEntry>,
    namespaces: BTreeMap<String, OfNamespace>,
    answers: Answers,
    head: Option<Head>,
    /// Jobs that come before the head and wait for what nothing can be kept for.
    before_head: BTreeSet<JobUid>,
    words: BTreeMap<JobUid, Words>,
    wake: Vec<Timestamp>,
}

impl<'a> Pass<'a> {
    pub(super) fn new(
        placer: &'a mut Placer,
        now: Timestamp,
        stored: impl Iterator<Item = &'a ComputeJob>,
        mut payer_of: impl FnMut(&str) -> Payer,
    ) -> Self {
        let sequence = placer.log.next_sequence();
        let snapshot = fleet::now(&placer.ctx, &placer.assumed.reservations(), sequence);
        let nodes = snapshot.nodes().iter();
        let labels_count = nodes
            .into_iter()
            .any(|node| node.facts().namespaces.is_some());
        let mut jobs = BTreeMap::new();
        let (mut active, mut entries) = (Vec::new(), Vec::new());
        for job in stored {
            let uid = job.metadata.uid.as_deref().unwrap_or_default();
            let Ok(job_uid) = uid.parse::<JobUid>() else {
                continue;
            };
            if decide::is_active(job) {
                active.push(job);
            }
            let standing = decide::standing(job, now);
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
        Self {
            placer,
            now,
            snapshot,
            labels_count,
            jobs,
            active,
            entries,
            namespaces: BTreeMap::new(),
            answers: Answers::default(),
            head: None,
            before_head: BTreeSet::new(),
            words: BTreeMap::new(),
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
        let mut queue = Queue::new(std::mem::take(&mut self.entries), ranks);
        let mut waiting = Vec::new();
        while let Some(entry) = queue.next_job() {
            if !self.placer.ctx.leadership.holds() {
                return None;
            }
            match self.serve(&entry).await {
                Served::Placed => queue.charge(&entry),
                Served::Waits => waiting.push(entry),
                Served::Neither => {}
            }
        }
        let order = Queue::new(waiting, queue.into_ranks()).order();
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
                Standing::Waiting => continue,
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
                let (snapshot, answers) = (&self.snapshot, &mut self.answers);
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

    /// Places one job, or finds that it waits.
    async fn serve(&mut self, entry: &QueueEntry) -> Served {
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
        let satisfiable = self
            .answers
            .is_satisfiable(&shape, &self.snapshot, &request);
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
        match scheduler::place(&self.snapshot, &request, &self.placer.log.seed()) {
            Ok(placement) => self.put(entry, job, &request, &placement, ends_by).await,
            Err(_) => {
                if self.head.is_none() && satisfiable {
                    let running = self.running();
                    let now = self.now.as_millisecond();
                    self.head = holds::hold(&self.snapshot, &request, &running, now)
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

    /// Writes a decision down. One that is not written has not been made: the next one neither counts what it took nor
    /// follows it in the log.
    async fn put(
        &mut self,
        entry: &QueueEntry,
        job: &ComputeJob,
        request: &Request,
        placement: &Placement,
        ends_by: Option<Millis>,
    ) -> Served {
        let ctx = &self.placer.ctx;
        let provider_of = |node: &str| fleet::provider_of(ctx, node);
        let attempt = request.attempt;
        let status = decide::to_api(placement, attempt, &self.snapshot, provider_of, self.now);
        let written = act::write(ctx, job, Some(status), Some(&decide::placed()), None).await;
        if self.note(job, written) {
            self.snapshot.reserve(placement, request);
            if let Some(head) = &mut self.head {
                head.hold
                    .note(&placement.nodes, &request.per_member(), ends_by);
            }
            self.placer.log.append(&placement.decision);
            let holding = Holding {
                payer: entry.payer.clone(),
                gpus: entry.gpus,
                since_millis: shares::millis(self.now),
            };
            let uid = job.uid().unwrap_or_default();
            self.placer
                .assumed
                .insert(uid, request, placement, ends_by, holding);
            tracing::info!(job = %job.name_any(), namespace = job.namespace(), attempt, nodes = placement.nodes.join(" "), "placed");
            Served::Placed
        } else {
            Served::Neither
        }
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
        let seed = self.placer.log.seed();
        let snapshot = &self.snapshot;
        let say = || match scheduler::place(snapshot, &request, &seed) {
            Ok(_) => "it fits now and is placed shortly".to_owned(),
            Err(rejections) => {
                explain::waiting_in_full(snapshot, &request, &rejections, kept_nodes)
            }
        };
        let message = if is_head {
            say()
        } else {
            self.answers.words(&shape, is_bound, say)
        };
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

/// The first whole second that is not before `at`.
fn whole_second(at: Millis) -> Option<Time> {
    let second = at.checked_add(999)?.div_euclid(1000);
    Timestamp::from_second(second).ok().map(Time)
}
