//! Placement: the one writer of `status.placement`, `status.queue` and the condition `Scheduled`.
//!
//! One loop on the leader. Whenever capacity or the queue may have changed, it brings its index of the fleet up to date and goes
//! through the waiting jobs in the queue's order; each decision is written into the log of decisions and into its job, guarded
//! by the version that was read. Then those that still wait are told what they wait for.
//!
//! | file | what |
//! |---|---|
//! | [`fleet`] | observes: the fleet, priorities, namespaces, payers, from the caches |
//! | [`decide`] | pure: which job waits, what it asks for, what it is told; with [`assumed`] and [`log`] |
//! | [`replacement`] | pure: nodes for the lost ranks of gangs that run |
//! | [`shapes`] | pure: jobs that ask for the same are answered once |
//! | [`bounds`] | pure: by when attempts have ended for sure |
//! | [`shares`], [`share_book`] | what payers have used of late, and the ConfigMap in which it is kept |
//! | [`position`] | pure: places in the queue, and who is told something now |
//! | [`pass`] | one pass through the queue |
//! | [`owner_cuts`] | whose weights are cut in this epoch |
//! | [`drift`] | pure: whether what is bound is what was decided |
//! | [`journal`], [`recorder`] | what goes into the log of decisions, and puts it into the archive |
//! | [`act`] | writes the decision |

pub mod act;
pub mod assumed;
pub mod bounds;
pub mod decide;
pub mod drift;
pub mod fleet;
pub mod journal;
pub mod log;
#[cfg(test)]
mod long_queue;
pub mod owner_cuts;
mod pass;
pub mod position;
pub mod recorder;
pub mod replacement;
pub mod shapes;
pub mod share_book;
pub mod shares;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use gridstake_crds::ComputeJob;
use k8s_openapi::jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use self::{
    assumed::Assumed, drift::Drift, journal::Seen, log::DecisionLog, owner_cuts::Epoch, pass::Pass,
    position::Told, recorder::Recorder, shapes::Shapes, share_book::ShareBook,
};
use crate::{
    caches::parsed,
    context::Context,
    controllers::fleet_changes::FleetChanges,
    error::chain,
    scheduler::{
        FleetIndex, JobUid,
        fair_share::{Payer, Ranks},
        holds::Millis,
        weight::WeightPolicy,
    },
};

/// How often what is bound is compared with what was decided, where passes come that fast.
const DRIFT_EVERY: Duration = Duration::from_secs(10);

/// Between the begins of two passes lie at least so many times what it takes to look at the fleet and the queue: the more there is to
/// look at, the more changes are looked at together.
const PACE: u32 = 8;
/// But not longer.
const MOST_PACE: Duration = Duration::from_millis(500);

/// Runs the loop until `stop`.
pub async fn run(ctx: Context, stop: CancellationToken) {
    let mut changes = FleetChanges::of(&ctx);
    let log = DecisionLog::recover(parsed(&ctx.caches.compute_jobs.state()));
    let book = ShareBook::new(ctx.client.clone(), &ctx.namespace, ctx.fair_share_half_life);
    let recorder = recorder(&ctx);
    let mut placer = Placer {
        ctx,
        log,
        recorder,
        assumed: Assumed::default(),
        index: FleetIndex::new(WeightPolicy::default()),
        epoch: None,
        book,
        shapes: Shapes::default(),
        told: Told::default(),
        written: BTreeMap::new(),
        no_drift_at: None,
        look_took: Duration::ZERO,
    };
    while !stop.is_cancelled() && placer.ctx.leadership.holds() {
        changes.are_seen();
        let begin = Instant::now();
        let pass = placer.ctx.health.pass("placement", begin);
        let wake = placer.pass().await;
        drop(pass);
        changes.wait(&placer.ctx, wake, &stop).await;
        let pace = placer.look_took.saturating_mul(PACE).min(MOST_PACE);
        let rest = pace.saturating_sub(begin.elapsed());
        let _ = tokio::time::timeout(rest, stop.cancelled()).await;
    }
    placer.ctx.caches.waiting_first().set(None);
    placer.ctx.caches.owner_cuts().set(None);
}

/// What writes the log of decisions, where there is an archive.
fn recorder(ctx: &Context) -> Option<Recorder> {
    let archive = ctx.archive.as_ref()?;
    let system = ctx.caches.namespace("kube-system");
    let Some(cluster) = system.and_then(|namespace| namespace.metadata.uid.clone()) else {
        tracing::warn!("the namespace kube-system is not seen: no log of decisions is kept");
        return None;
    };
    let store = archive.store().clone();
    let metrics = archive.decisions().clone();
    Some(Recorder::new(
        store,
        &cluster,
        &ctx.identity,
        (ctx.now)(),
        metrics,
    ))
}

/// What is known from one pass to the next.
struct Placer {
    ctx: Context,
    log: DecisionLog,
    recorder: Option<Recorder>,
    assumed: Assumed,
    /// The fleet as of the last pass, and what has been placed since.
    index: FleetIndex,
    /// Whose weights are cut.
    epoch: Option<Epoch>,
    book: ShareBook,
    shapes: Shapes,
    told: Told,
    /// The version of each job on which something was last written, and when: as long as the cache shows that one, it is
    /// behind.
    written: BTreeMap<JobUid, (String, Millis)>,
    /// When it was last found that what is bound is what was decided.
    no_drift_at: Option<Instant>,
    /// How long it took to look at the fleet and the queue last.
    look_took: Duration,
}

impl Placer {
    /// Brings the index up to date with the fleet at `now`, on whose weights the epoch's cuts are made, and tells it to the log.
    fn look_at_fleet(&mut self, now: Timestamp) {
        let sequence = self.log.next_sequence();
        let reserved = self.assumed.reservations();
        let mut fleet = fleet::at(&self.ctx, &reserved, sequence, now);
        // Who repeats decisions makes the cuts again on the fleet that is told before them.
        let told_anew = self
            .recorder
            .as_mut()
            .is_some_and(|recorder| recorder.begin_anew_if_long(now));
        let lasting = self
            .epoch
            .take()
            .filter(|epoch| !told_anew && epoch.lasts(now));
        let epoch = lasting.unwrap_or_else(|| Epoch::begin(self.ctx.owner_cap, &fleet, now));
        fleet.cut(&epoch.cuts);
        if let Some(recorder) = &mut self.recorder {
            recorder.see(fleet.nodes().iter().map(Seen::from), now);
            recorder.settle(&epoch);
        }
        let shown = self.ctx.caches.owner_cuts();
        let before = shown.get();
        let is_shown = |before: &Arc<_>| Arc::ptr_eq(before, &epoch.cuts);
        if !before.as_ref().is_some_and(is_shown) {
            shown.set(Some(epoch.cuts.clone()));
            let before = before.unwrap_or_default();
            for node in owner_cuts::changed(&fleet, &before, &epoch.cuts) {
                self.ctx.caches.look_at_gpu_node(node);
            }
        }
        self.epoch = Some(epoch);
        self.index.update(fleet);
    }

    /// Compares what is bound with what was decided, now and then: the fleet is that of the pass before.
    fn look_for_drift<'a>(&mut self, jobs: impl Iterator<Item = &'a ComputeJob>) {
        let is_recent = |at: Instant| at.elapsed() < DRIFT_EVERY;
        if self.no_drift_at.is_some_and(is_recent) {
            return;
        }
        let pods = self.ctx.caches.job_pods.state();
        let pods = pods.iter().map(|pod| &**pod);
        let found = drift::drift(jobs, pods, self.index.snapshot());
        // What was found is looked at again in the next pass, so that it is not told for longer than it lasts.
        self.no_drift_at = (found == Drift::default()).then(Instant::now);
        self.ctx.metrics.set_placement_drift(found);
    }

    /// Goes through the queue once; tells when to do it again if nothing happens before.
    async fn pass(&mut self) -> Option<Timestamp> {
        let begin = Instant::now();
        // In whole milliseconds, as the log of decisions has it.
        let now = (self.ctx.now)();
        let now = Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now);
        let stored = self.ctx.caches.compute_jobs.state();
        self.assumed.forget_seen(parsed(&stored));
        let mut payers = BTreeMap::new();
        let ctx = self.ctx.clone();
        let mut payer_of = |namespace: &str| -> Payer {
            let known = payers.entry(namespace.to_owned());
            known
                .or_insert_with(|| fleet::payer_of(&ctx, namespace, now))
                .clone()
        };
        let booked = self
            .book
            .turn(parsed(&stored), &mut payer_of, shares::millis(now))
            .await;
        if let Err(error) = booked {
            self.ctx.metrics.pass_failed("placement", error.category());
            tracing::warn!(
                error = chain(&error),
                "what payers have used is not read or written; jobs are placed all the same"
            );
        }
        let holding: Vec<_> = parsed(&stored)
            .filter(|job| decide::is_active(job))
            .filter_map(|job| {
                let namespace = job.metadata.namespace.as_deref().unwrap_or_default();
                shares::holding(job, payer_of(namespace))
            })
            .collect();
        let ranks = Ranks::new(
            self.book.usage(),
            holding.iter().chain(self.assumed.holdings()),
            self.book.half_life(),
        );
        self.look_for_drift(parsed(&stored));
        let anything_is_held = !holding.is_empty();
        let pass = Pass::new(self, now, parsed(&stored), &mut payer_of);
        let took = begin.elapsed();
        let wake = pass.run(ranks).await;
        self.look_took = took;
        // What is held is booked every minute, before jobs that have ended are deleted.
        let booking = anything_is_held
            .then(|| share_book::next_minute(now))
            .flatten();
        wake.into_iter().chain(booking).min()
    }
}
