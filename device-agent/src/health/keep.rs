//! Keeps the log of faults in the state directory, so that it outlives the agent.

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::{sync::watch, task::spawn_blocking, time::sleep};
use tokio_util::sync::CancellationToken;

use super::State;
use crate::{
    backoff::Backoff,
    kept::{Error, Kept},
    outcome::Outcomes,
};

/// 64 devices with 16 faults each take less than a tenth.
pub const KEPT: Kept = Kept {
    name: "faults.json",
    version: 1,
    bytes_max: 4 << 20,
    without_it: "the log of faults goes on from what is published",
};

/// How often what lasts is written, if nothing new comes.
pub const STORE_EVERY: Duration = Duration::from_mins(1);

/// Writes `state` whenever it changes, until `stop`.
pub async fn keep(
    directory: PathBuf,
    boot_id: String,
    mut state: watch::Receiver<Arc<State>>,
    mut outcomes: Outcomes,
    stop: CancellationToken,
) {
    let mut backoff = Backoff::STANDARD;
    let mut again: Option<Duration> = None;
    loop {
        tokio::select! {
            () = stop.cancelled() => {
                // What came last is written before the agent ends.
                if again.is_some() || state.has_changed().unwrap_or(false) {
                    let latest = state.borrow_and_update().clone();
                    let _ = write(&directory, &boot_id, latest).await;
                }
                return;
            }
            changed = state.changed() => if changed.is_err() { return },
            () = sleep(again.unwrap_or_default()), if again.is_some() => {}
        }
        let latest = state.borrow_and_update().clone();
        match write(&directory, &boot_id, latest).await {
            Some(Ok(())) => {
                outcomes.success();
                backoff.reset();
                again = None;
            }
            Some(Err(error)) => {
                outcomes.failure(&error);
                again = Some(backoff.after_failure());
            }
            // The runtime ends.
            None => return,
        }
    }
}

async fn write(
    directory: &std::path::Path,
    boot_id: &str,
    state: Arc<State>,
) -> Option<Result<(), Error>> {
    let (directory, boot_id) = (directory.to_owned(), boot_id.to_owned());
    // The disk may take its time, and nobody must wait for it.
    spawn_blocking(move || {
        let content = KEPT.encode(&boot_id, &*state)?;
        KEPT.store(&directory, &content)
    })
    .await
    .ok()
}
