//! The loop on the leader: looks once a minute, counts, writes, and tells the GpuNode controller.

use std::time::Duration;

use kube::ResourceExt as _;
use tokio_util::sync::CancellationToken;

use super::{
    books::Books,
    observe,
    shard::{LATEST_SECONDS, day_of},
    standing::Known,
    store::ShardStore,
};
use crate::{Context, caches::parsed, error::chain as causes, uptime::epoch::to_the_next_look};

/// The loop's name in metrics.
const NAME: &str = "reputation";

/// Runs the loop until `stop`, or until another replica may lead.
pub async fn run(context: Context, stop: CancellationToken) {
    let mut keeper = Keeper::new(context);
    while !stop.is_cancelled() && keeper.context.leadership.holds() {
        // What is written is written whole: it can be cut off at any point.
        if stop.run_until_cancelled(keeper.turn()).await.is_none() {
            break;
        }
        let pause = Duration::from_secs(to_the_next_look(keeper.now()));
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Keeps the books.
pub struct Keeper {
    context: Context,
    books: Books,
    /// The minute of the first turn, since 1970, and that of the last.
    watched: Option<(u64, u64)>,
    /// Records that were sealed before this are counted, in Unix seconds.
    since: u64,
}

impl Keeper {
    /// One that knows nothing yet.
    #[must_use]
    pub fn new(context: Context) -> Self {
        let store = ShardStore::new(context.client.clone(), &context.namespace);
        Self {
            context,
            books: Books::new(store),
            watched: None,
            since: 0,
        }
    }

    /// The time, in Unix seconds.
    fn now(&self) -> u64 {
        u64::try_from((self.context.now)().as_second()).unwrap_or(0)
    }

    /// Looks, counts, writes what is due, and tells what is known.
    pub async fn turn(&mut self) {
        let now = self.now();
        self.look(now / 60);
        let records = observe::records(&self.context, self.since);
        for error in self.books.turn(&records, now).await {
            self.context.metrics.pass_failed(NAME, error.category());
            tracing::warn!(
                error = causes(&error),
                "the histories of some GPUs are not read or written; it is tried again"
            );
        }
        let open = self.books.open_since(&records);
        let dealt_with = now.saturating_sub(LATEST_SECONDS);
        self.since = open.map_or(dealt_with, |open| open.min(dealt_with));
        self.publish(now);
    }

    /// Notes who was up in the minute before `minute`, if it was watched from its begin and is not noted yet.
    fn look(&mut self, minute: u64) {
        let (first, last) = self.watched.unwrap_or((minute, minute));
        self.watched = Some((first, minute));
        let before = minute.saturating_sub(1);
        if last < minute && first < before {
            let begin = observe::begin_of(before);
            let sights = observe::sights(&self.context, begin, (self.context.now)());
            self.books.see(before, &sights);
        }
    }

    /// Tells what is known, and has those nodes looked at whose status says something else.
    fn publish(&self, now: u64) {
        let context = &self.context;
        let charges = observe::charges(context, (context.now)());
        let shown = observe::shown(context);
        let known = Known::of(&shown, &charges, day_of(now), |key| self.books.history(key));
        context.caches.standings().publish(known);
        self.look_at_nodes();
    }

    fn look_at_nodes(&self) {
        let caches = &self.context.caches;
        let Some(known) = caches.standings().known() else {
            return;
        };
        let nodes = caches.gpu_nodes.state();
        for gpu_node in parsed(&nodes) {
            let name = gpu_node.name_any();
            let owner = observe::owner(&self.context, &name);
            let Some(appraisal) = known.appraise(owner, observe::uuids(gpu_node)) else {
                continue;
            };
            let status = gpu_node.status.as_ref();
            let stands = status.is_some_and(|status| {
                status.reputation_terms == appraisal.terms
                    && status.stability == appraisal.stability
            });
            if !stands {
                caches.look_at_gpu_node(&name);
            }
        }
    }
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;
