//! Placement: the one writer of `status.placement` and of the condition `Scheduled`.
//!
//! One loop on the leader. Whenever capacity or the queue may have changed, it brings its index of the fleet up to date and
//! goes through the waiting jobs in the queue's order; each decision is written into its job, guarded by the version that
//! was read, before the next one is made.
//!
//! | file | what |
//! |---|---|
//! | [`fleet`] | observes: the fleet, priorities, namespaces, from the caches |
//! | [`decide`] | pure: which job waits, what it gets, what it is told; with [`assumed`] and [`log`] |
//! | [`act`] | writes the decision |

pub mod act;
pub mod assumed;
pub mod decide;
pub mod fleet;
pub mod log;

use std::time::Instant;

use gridstake_crds::{ComputeJob, names::JOB_PRIORITY_CLASS};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::ResourceExt as _;
use tokio_util::sync::CancellationToken;

use self::{
    act::Written,
    assumed::Assumed,
    decide::{Outcome, Standing, Surroundings},
    log::DecisionLog,
};
use crate::{
    caches::parsed,
    context::Context,
    controllers::fleet_changes::FleetChanges,
    error::chain,
    scheduler::{FleetIndex, weight::WeightPolicy},
};

/// How soon a decision that could not be written is made anew.
const AGAIN: SignedDuration = SignedDuration::from_secs(2);

/// Runs the loop until `stop`.
pub async fn run(ctx: Context, stop: CancellationToken) {
    let mut changes = FleetChanges::of(&ctx);
    let log = DecisionLog::recover(parsed(&ctx.caches.compute_jobs.state()));
    let mut placer = Placer {
        ctx,
        log,
        assumed: Assumed::default(),
        index: FleetIndex::new(WeightPolicy::default()),
    };
    while !stop.is_cancelled() && placer.ctx.leadership.holds() {
        changes.are_seen();
        let pass = placer.ctx.health.pass("placement", Instant::now());
        let wake = placer.pass().await;
        drop(pass);
        changes.wait(&placer.ctx, wake, &stop).await;
    }
}

struct Placer {
    ctx: Context,
    log: DecisionLog,
    assumed: Assumed,
    /// The fleet as of the last pass, and what has been placed since.
    index: FleetIndex,
}

impl Placer {
    /// Goes through the queue once; tells when to do it again if nothing happens before.
    async fn pass(&mut self) -> Option<Timestamp> {
        let now = (self.ctx.now)();
        let stored = self.ctx.caches.compute_jobs.state();
        self.assumed.forget_seen(parsed(&stored));
        self.index.update(fleet::now(
            &self.ctx,
            &self.assumed.reservations(),
            self.log.next_sequence(),
        ));
        let mut wake = Vec::new();
        for (standing, job) in self.in_order(parsed(&stored), now) {
            if !self.ctx.leadership.holds() {
                break;
            }
            if let Standing::HeldBack(until) = standing {
                wake.push(until);
            }
            wake.extend(self.serve(job, &standing, now).await);
        }
        wake.into_iter().min()
    }

    /// Jobs that are to be told something, waiting ones in the order of the queue.
    fn in_order<'a>(
        &self,
        jobs: impl Iterator<Item = &'a ComputeJob>,
        now: Timestamp,
    ) -> Vec<(Standing, &'a ComputeJob)> {
        let mut entries: Vec<_> = jobs
            .filter(|job| {
                !self
                    .assumed
                    .contains(job.metadata.uid.as_deref().unwrap_or_default())
            })
            .map(|job| (decide::standing(job, now), job))
            .filter(|(standing, _)| !matches!(standing, Standing::Unseen | Standing::Settled))
            .map(|(standing, job)| (fleet::queued(&self.ctx.caches, job), standing, job))
            .collect();
        entries.sort_by(|a, b| a.0.cmp(&b.0));
        entries
            .into_iter()
            .map(|(_, standing, job)| (standing, job))
            .collect()
    }

    /// Decides about one job and writes it down. A decision that is not written has not been made: the next one
    /// neither counts what it took nor follows it in the log.
    async fn serve(
        &mut self,
        job: &ComputeJob,
        standing: &Standing,
        now: Timestamp,
    ) -> Option<Timestamp> {
        let around = Surroundings {
            namespace: fleet::of_job(&self.ctx, job),
            priority_class: JOB_PRIORITY_CLASS,
            seed: self.log.seed(),
            now,
            same_owner: fleet::same_owner(&self.ctx, job),
        };
        let outcome = (*standing == Standing::Waiting).then(|| {
            decide::place_by(job, around.clone(), |request, seed| {
                self.index.place(request, seed)
            })
        });
        let is_placed = matches!(outcome, Some(Outcome::Placed(..)));
        // A job that has found its place is not impossible: that need not be looked at.
        if !is_placed
            && decide::admission_is_outdated(job, standing, self.index.snapshot(), &around)
        {
            self.ctx
                .caches
                .compute_job_triggers()
                .one(job.metadata.namespace.as_deref(), &job.name_any());
        }
        let fact = decide::fact(standing, outcome.as_ref())?;
        let placed = match &outcome {
            Some(Outcome::Placed(placement, request)) => Some((placement, request)),
            _ => None,
        };
        let status = placed.map(|(placement, request)| {
            let provider_of = |node: &str| fleet::provider_of(&self.ctx, node);
            decide::to_api(
                placement,
                request.attempt,
                self.index.snapshot(),
                provider_of,
                now,
            )
        });
        match act::write(&self.ctx, job, status, &fact).await {
            Ok(Written::Yes) => {
                if let Some((placement, request)) = placed {
                    self.index.reserve(placement, request);
                    self.log.append(&placement.decision);
                    self.assumed
                        .insert(job.uid().unwrap_or_default(), request, placement);
                    tracing::info!(job = %job.name_any(), namespace = job.namespace(), attempt = request.attempt, nodes = placement.nodes.join(" "), "placed");
                }
                match outcome {
                    Some(Outcome::Waits(_, _, again)) => again,
                    _ => None,
                }
            }
            // Its newer version comes through the watch, which wakes the loop.
            Ok(Written::Outdated) => now.checked_add(AGAIN).ok(),
            Err(error) => {
                tracing::warn!(job = %job.name_any(), namespace = job.namespace(), error = chain(&error), "could not write a placement");
                self.ctx.metrics.pass_failed("placement", "apply_status");
                now.checked_add(AGAIN).ok()
            }
        }
    }
}
