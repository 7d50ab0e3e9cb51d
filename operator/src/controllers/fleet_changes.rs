//! What the loops wait for that decide about the whole fleet at once: placement, and taking GPUs back.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::Context;

/// How often it is looked although nothing has happened, in case a watch missed something.
const RESYNC: Duration = Duration::from_mins(5);

/// Changes of what there is and of who waits for it.
pub struct FleetChanges {
    capacity: watch::Receiver<u64>,
    queue: watch::Receiver<u64>,
}

impl FleetChanges {
    /// Those from now on.
    #[must_use]
    pub fn of(ctx: &Context) -> Self {
        Self {
            capacity: ctx.caches.capacity_changes(),
            queue: ctx.caches.queue_changes(),
        }
    }

    /// What has changed until now is about to be looked at.
    pub fn are_seen(&mut self) {
        self.capacity.mark_unchanged();
        self.queue.mark_unchanged();
    }

    /// Waits for the next change, for `wake`, for as long as nothing shall go without a look, or for `stop`.
    pub async fn wait(&mut self, ctx: &Context, wake: Option<Timestamp>, stop: &CancellationToken) {
        let pause = wake.map_or(RESYNC, |at| {
            Duration::try_from(at.duration_since((ctx.now)()))
                .unwrap_or(Duration::ZERO)
                .min(RESYNC)
        });
        tokio::select! {
            () = stop.cancelled() => {}
            _ = self.capacity.changed() => {}
            _ = self.queue.changed() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}
