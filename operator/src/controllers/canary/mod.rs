//! Canaries: real jobs by which the operator measures nodes whose GPUs are free, on the way that every job takes.
//!
//! One loop on the leader. It remembers nothing that it could not find out anew: a canary that has ended, or gave way to somebody
//! else, is left there until its node's pause is over, and keeps others off the node meanwhile. What it has measured stands in
//! the termination message of its pod until then, and in `status.performance` of the GpuNode from then on.
//!
//! | file | what |
//! |---|---|
//! | [`terms`] | pure: by what they are made, and how often |
//! | [`observe`] | nodes, canaries, and who waits for GPUs |
//! | [`outcome`] | pure: how far a canary is, and how it ended |
//! | [`wanted`] | pure: which nodes others wait for that canaries hold |
//! | [`decide`] | pure: which nodes are measured, which canaries go, what is said about each node |
//! | [`build`] | pure: the ComputeJob |
//! | [`act`], [`status`] | writes |

pub mod act;
pub mod build;
pub mod decide;
pub mod observe;
pub mod outcome;
pub mod status;
pub mod terms;
pub mod wanted;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use gridstake_crds::{ComputeJob, names::LABEL_CANARY};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::ResourceExt as _;
use tokio_util::sync::CancellationToken;

pub use self::terms::Terms;
use self::{
    act::ActError,
    build::label_of,
    decide::{NodeSays, Plan},
};
use crate::{context::Context, controllers::fleet_changes::FleetChanges, error::chain};

/// While no canary is under way, changes are gathered for so long before they are looked at.
const GATHERS: Duration = Duration::from_secs(1);
/// How soon what could not be written is tried again.
const AGAIN: SignedDuration = SignedDuration::from_secs(5);
/// After how long a pass is abandoned. Every write is safe to repeat.
const PATIENCE: Duration = Duration::from_mins(1);
/// How long a canary that was made may take to be seen.
const IS_SEEN_WITHIN: SignedDuration = SignedDuration::from_secs(30);
/// What has ended longer ago was told by whoever led then.
const IS_NEWS_FOR: SignedDuration = SignedDuration::from_mins(10);
/// So many canaries are remembered to have been told of. Then all are forgotten: most of them are no news any more.
const MOST_TOLD: usize = 4096;
/// How often it is looked for records that nobody needs any more.
const CLEARS_EVERY: SignedDuration = SignedDuration::from_hours(1);

/// Whether `job` is a canary of the operator in `namespace`. Nobody pays for it, nothing is owed for it, and it stands behind all
/// others. In any other namespace the label means nothing.
#[must_use]
pub fn is_canary(namespace: &str, job: &ComputeJob) -> bool {
    job.metadata.namespace.as_deref() == Some(namespace) && job.labels().contains_key(LABEL_CANARY)
}

/// Runs the loop until `stop`.
pub async fn run(ctx: Context, stop: CancellationToken) {
    let mut changes = FleetChanges::of(&ctx);
    let mut keeper = Keeper {
        ctx,
        just_made: BTreeMap::new(),
        told: BTreeSet::new(),
        clears_at: None,
    };
    while !stop.is_cancelled() && keeper.ctx.leadership.holds() {
        changes.are_seen();
        let pass = keeper.ctx.health.pass("canary", Instant::now());
        let (wake, is_under_way) = keeper.pass().await;
        drop(pass);
        changes.wait(&keeper.ctx, wake, &stop).await;
        if !is_under_way {
            stop.run_until_cancelled(tokio::time::sleep(GATHERS)).await;
        }
    }
}

struct Keeper {
    ctx: Context,
    /// When a canary was made that may not be seen yet, by its label.
    just_made: BTreeMap<String, Timestamp>,
    /// The canaries of which an event has told.
    told: BTreeSet<String>,
    /// When records are looked through next.
    clears_at: Option<Timestamp>,
}

impl Keeper {
    /// Decides once and carries it out; tells when to do so again if nothing happens before, and whether a canary is under way.
    async fn pass(&mut self) -> (Option<Timestamp>, bool) {
        let now = (self.ctx.now)();
        self.just_made
            .retain(|_, made| now.duration_since(*made) < IS_SEEN_WITHIN);
        let just_made = self.just_made.keys().cloned().collect();
        let mut sight = observe::observe(&self.ctx, just_made, now);
        for canary in &sight.canaries {
            self.just_made.remove(&canary.label);
            sight.just_made.remove(&canary.label);
        }
        let plan = decide::decide(&sight, &self.ctx.canaries, now);
        let mut wake = plan.wake;
        let is_under_way =
            !plan.start.is_empty() || sight.canaries.iter().any(outcome::Canary::is_under_way);
        let carried_out = tokio::time::timeout(PATIENCE, self.carry_out(plan, now)).await;
        if let Err(error) = carried_out.unwrap_or(Err(ActError::TimedOut)) {
            tracing::warn!(error = chain(&error), "could not keep the canaries");
            self.ctx.metrics.pass_failed("canary", error.category());
            wake = wake.into_iter().chain(now.checked_add(AGAIN).ok()).min();
        }
        (wake, is_under_way)
    }

    async fn carry_out(&mut self, plan: Plan, now: Timestamp) -> Result<(), ActError> {
        // First those who wait.
        for name in &plan.give_way {
            act::give_way(&self.ctx, name).await?;
        }
        for says in plan.says {
            act::say(&self.ctx, &says, now).await?;
            self.tell(says, now);
        }
        for (name, uid) in &plan.delete {
            act::delete(&self.ctx, name, uid).await?;
        }
        if let Some(template) = self.ctx.canaries.template.clone() {
            for new in &plan.start {
                if !self.ctx.leadership.holds() {
                    return Ok(());
                }
                act::start(&self.ctx, &template, new, now).await?;
                self.just_made.insert(label_of(&new.node), now);
            }
        }
        if self.clears_at.is_none_or(|at| at <= now) {
            self.clears_at = now.checked_add(CLEARS_EVERY).ok();
            act::remove_old_records(&self.ctx, now).await?;
        }
        Ok(())
    }

    fn tell(&mut self, says: NodeSays, now: Timestamp) {
        let Some(told) = says.news else { return };
        let is_news = now.duration_since(told.at) < IS_NEWS_FOR;
        if is_news && self.told.insert(told.canary) {
            act::tell(&self.ctx, &says.node, told.news);
        } else if self.told.len() > MOST_TOLD {
            self.told.clear();
        }
    }
}
