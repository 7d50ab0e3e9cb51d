//! Tells when an amnesty begins and ends, and wakes whoever it concerns. Runs on every replica's leader.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Amnesty, amnesty_now};
use crate::Context;

/// How often it is looked for: well below the grace of a suspect node.
const EVERY: Duration = Duration::from_secs(2);

/// Watches until `stop`.
pub async fn run(ctx: Context, stop: CancellationToken) {
    let mut present: Option<Amnesty> = None;
    loop {
        let found = amnesty_now(&ctx.caches, (ctx.now)());
        ctx.metrics
            .set_amnesty(found.map_or(0, |amnesty| amnesty.silent));
        match (present, found) {
            (None, Some(amnesty)) => {
                tracing::warn!(
                    silent = amnesty.silent,
                    of = amnesty.of,
                    "too many nodes fell silent together: nothing is closed, placed elsewhere or held against anybody until they are back"
                );
                ctx.caches.look_at_nodes_and_jobs();
            }
            (Some(_), None) => {
                tracing::info!("the nodes that fell silent together are back, or given up");
                ctx.caches.look_at_nodes_and_jobs();
            }
            _ => {}
        }
        present = found;
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(EVERY) => {}
        }
    }
    ctx.metrics.set_amnesty(0);
}
